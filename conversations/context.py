"""Which messages go to the model: pure, so that the page can ask the same question as a run.

The rules (contract C2): failed messages never; of the rest the last `limit`; and if those would
overflow the model's context window, the oldest go first.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from math import ceil
from typing import Protocol
from uuid import UUID

from providers.adapters.base import ChatMessage, Image
from providers.tokens import MESSAGE_TOKENS, estimate

DEFAULT_ANSWER_RESERVE = 1024  # tokens kept free in the window where max_tokens is not set
# Providers count images in ways of their own; this is about what most come to.
PIXELS_PER_TOKEN = 750
MOST_IMAGES = 20  # in a request: the newest, for a long chat would outgrow what providers take


class ContextMessage(Protocol):
    """What this module needs to know of a stored message."""

    id: int
    role: str
    content: str
    status: str
    tokens: int
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Given:
    """A message of a caller who keeps the conversation and sends all of it. `pictures` are those
    of `message.images`, in their order."""

    message: ChatMessage
    pictures: Sequence["Picture"] = ()

    @property
    def tokens(self) -> int:
        """Estimated."""
        called = "".join(call.name + call.arguments for call in self.message.tool_calls)
        seen = sum(picture.tokens for picture in self.pictures)
        return estimate(self.message.content) + estimate(called) + seen


@dataclass(frozen=True, slots=True)
class Picture:
    """An image of a message, without its bytes. The size is in pixels."""

    id: UUID
    name: str
    width: int
    height: int

    @property
    def tokens(self) -> int:
        """Estimated."""
        return ceil(self.width * self.height / PIXELS_PER_TOKEN)

    @property
    def words(self) -> str:
        """What stands for it where it is not sent itself."""
        return f"[image: {self.name}]"


Pictures = Mapping[int, Sequence[Picture]]  # by the id of their message


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A message that is not sent. `reason` is "failed", "limit" or "window"."""

    id: int
    reason: str


@dataclass(frozen=True, slots=True)
class Context:
    """What a request will hold. `input_tokens` is an estimate over everything that is sent, and
    `seen` are the images that are; the others are named in the text."""

    included: Sequence[ContextMessage]
    left_out: Sequence[LeftOut]
    system_instructions: str
    prompt: str
    closing: Sequence[ChatMessage]
    input_tokens: int
    pictures: Pictures
    prompt_pictures: Sequence[Picture]
    seen: Collection[UUID]

    def messages(self, images: Mapping[UUID, Image] | None = None) -> list[ChatMessage]:
        """The system message (if any), the context, the prompt and what closes the request, as a
        provider gets them. `images` are those of `seen`."""
        known = images or {}

        def message(role: str, text: str, pictures: Sequence[Picture]) -> ChatMessage:
            sent = tuple(known[picture.id] for picture in pictures if picture.id in self.seen)
            if role == "tool":
                # The call that it belongs to is not sent again, and without it none is taken.
                role, text = "user", f"[tool result] {text}"
            return ChatMessage(role, _with_words(text, pictures, self.seen), sent)

        system = [ChatMessage("system", self.system_instructions)]
        return [
            *(system if self.system_instructions else []),
            *(message(m.role, m.content, self.pictures.get(m.id, ())) for m in self.included),
            message("user", self.prompt, self.prompt_pictures),
            *self.closing,
        ]


def build(
    branch: Sequence[ContextMessage],
    *,
    prompt: str,
    closing: Sequence[ChatMessage] = (),
    system_instructions: str,
    limit: int,
    window: int | None,
    max_tokens: int | None,
    pictures: Pictures | None = None,
    prompt_pictures: Sequence[Picture] = (),
    can_see: bool = True,
) -> Context:
    """The context of `prompt`, which follows the messages of `branch` (oldest first); `closing`
    is what is sent after it. `pictures` are those of the branch; if the model can see, all of the
    prompt's are sent, and of those before it the newest.

    `limit` counts messages, `window` and `max_tokens` tokens; `window` None is unknown, and then
    nothing is left out for its sake.
    """
    pictures = pictures or {}
    usable = [message for message in branch if message.status != "failed"]
    recent = usable[-limit:] if limit else []
    seen = _seen(recent, pictures, prompt_pictures) if can_see else frozenset()
    fixed = _cost(prompt) + (_cost(system_instructions) if system_instructions else 0)
    fixed += _pictures_cost(prompt_pictures, seen)
    fixed += sum(_cost(message.content) for message in closing)
    costs = [
        _stored_cost(message) + _pictures_cost(pictures.get(message.id, ()), seen)
        for message in recent
    ]
    cut = 0
    if window is not None:
        # A small window must not be eaten up by the reserve itself.
        reserve = min(max_tokens or DEFAULT_ANSWER_RESERVE, window // 2)
        room = window - reserve - fixed
        while cut < len(recent) and sum(costs[cut:]) > room:
            cut += 1
    included = recent[cut:]
    gone = {picture.id for message in recent[:cut] for picture in pictures.get(message.id, ())}
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
        closing=closing,
        input_tokens=fixed + sum(costs[cut:]),
        pictures=pictures,
        prompt_pictures=prompt_pictures,
        seen=seen - gone,
    )


def gather(messages: Sequence[Given], *, before: str) -> tuple[list[Given], str, int]:
    """What is sent of a conversation that came whole: all of it, in its order. `before` are
    instructions that stand first, in one message with the caller's own if those do.

    Gives the messages, all system instructions as one text, and the estimated input tokens.
    """
    sent = list(messages)
    if before and sent and sent[0].message.role == "system":
        # Some models take one system message only.
        own = sent[0].message
        sent[0] = Given(replace(own, content=f"{own.content}\n\n{before}"))
    elif before:
        sent.insert(0, Given(ChatMessage("system", before)))
    system = [given.message.content for given in sent if given.message.role == "system"]
    return sent, "\n\n".join(system), sum(given.tokens + MESSAGE_TOKENS for given in sent)


def _seen(
    recent: Sequence[ContextMessage], pictures: Pictures, prompt_pictures: Sequence[Picture]
) -> frozenset[UUID]:
    earlier = [picture for message in recent for picture in pictures.get(message.id, ())]
    room = max(MOST_IMAGES - len(prompt_pictures), 0)
    newest = earlier[-room:] if room else []
    return frozenset(picture.id for picture in [*newest, *prompt_pictures])


def _pictures_cost(pictures: Sequence[Picture], seen: Collection[UUID]) -> int:
    return sum(
        picture.tokens if picture.id in seen else estimate(picture.words) for picture in pictures
    )


def _with_words(text: str, pictures: Sequence[Picture], seen: Collection[UUID]) -> str:
    words = [picture.words for picture in pictures if picture.id not in seen]
    return "\n\n".join([text, "\n".join(words)]) if words else text


def _cost(text: str) -> int:
    return estimate(text) + MESSAGE_TOKENS


def _stored_cost(message: ContextMessage) -> int:
    return (message.tokens or estimate(message.content)) + MESSAGE_TOKENS
