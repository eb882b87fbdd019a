"""Which messages go to the model: pure, so that the page can ask the same question as a run.

The rules (contract C2): failed messages never; of the rest the last `limit`; and if those would
overflow the model's context window, the oldest go first.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from providers.adapters.base import ChatMessage
from providers.tokens import MESSAGE_TOKENS, estimate

DEFAULT_ANSWER_RESERVE = 1024  # tokens kept free in the window where max_tokens is not set


class ContextMessage(Protocol):
    """What this module needs to know of a stored message."""

    id: int
    role: str
    content: str
    status: str
    tokens: int
    created_at: datetime


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A message that is not sent. `reason` is "failed", "limit" or "window"."""

    id: int
    reason: str


@dataclass(frozen=True, slots=True)
class Context:
    """What a request will hold. `input_tokens` is an estimate over everything that is sent."""

    included: Sequence[ContextMessage]
    left_out: Sequence[LeftOut]
    system_instructions: str
    prompt: str
    input_tokens: int

    def messages(self) -> list[ChatMessage]:
        """The system message (if any), the context and the prompt, as a provider gets them."""
        system = [ChatMessage("system", self.system_instructions)]
        return [
            *(system if self.system_instructions else []),
            *(ChatMessage(message.role, message.content) for message in self.included),
            ChatMessage("user", self.prompt),
        ]


def build(
    branch: Sequence[ContextMessage],
    *,
    prompt: str,
    system_instructions: str,
    limit: int,
    window: int | None,
    max_tokens: int | None,
) -> Context:
    """The context of `prompt`, which follows the messages of `branch` (oldest first).

    `limit` counts messages, `window` and `max_tokens` tokens; `window` None is unknown, and then
    nothing is left out for its sake.
    """
    usable = [message for message in branch if message.status != "failed"]
    recent = usable[-limit:] if limit else []
    fixed = _cost(prompt) + (_cost(system_instructions) if system_instructions else 0)
    costs = [_stored_cost(message) for message in recent]
    cut = 0
    if window is not None:
        # A small window must not be eaten up by the reserve itself.
        reserve = min(max_tokens or DEFAULT_ANSWER_RESERVE, window // 2)
        room = window - reserve - fixed
        while cut < len(recent) and sum(costs[cut:]) > room:
            cut += 1
    included = recent[cut:]
    reasons = {message.id: "window" for message in recent[:cut]}
    kept = {message.id for message in included}
    left_out = [
        LeftOut(
            message.id,
            "failed" if message.status == "failed" else reasons.get(message.id, "limit"),
        )
        for message in branch
        if message.id not in kept
    ]
    return Context(
        included=included,
        left_out=left_out,
        system_instructions=system_instructions,
        prompt=prompt,
        input_tokens=fixed + sum(costs[cut:]),
    )


def _cost(text: str) -> int:
    return estimate(text) + MESSAGE_TOKENS


def _stored_cost(message: ContextMessage) -> int:
    return (message.tokens or estimate(message.content)) + MESSAGE_TOKENS
