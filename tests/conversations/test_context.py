"""Which messages go to the model (C2)."""

from dataclasses import dataclass

import pytest

from conversations.context import build


@dataclass
class Stored:
    id: int
    content: str = "x" * 40
    role: str = "user"
    status: str = "complete"
    tokens: int = 10
    created_at: None = None


def branch(*statuses: str) -> list[Stored]:
    return [Stored(index, status=status) for index, status in enumerate(statuses, start=1)]


def built(messages, limit=10, window=None, max_tokens=None, system="", prompt="now"):
    return build(
        messages,
        prompt=prompt,
        system_instructions=system,
        limit=limit,
        window=window,
        max_tokens=max_tokens,
    )


@pytest.mark.contract("C2")
@pytest.mark.parametrize(
    ("limit", "expected"), [(0, []), (1, [5]), (3, [3, 4, 5]), (9, [1, 2, 3, 4, 5])]
)
def test_the_last_messages_up_to_the_limit_are_sent(limit, expected):
    context = built(branch(*["complete"] * 5), limit=limit)
    assert [message.id for message in context.included] == expected
    assert {left.reason for left in context.left_out} <= {"limit"}


@pytest.mark.contract("C2")
def test_failed_messages_are_left_out_and_do_not_use_up_the_limit():
    context = built(branch("complete", "stopped", "failed", "failed", "complete"), limit=3)
    assert [message.id for message in context.included] == [1, 2, 5]
    assert [(left.id, left.reason) for left in context.left_out] == [(3, "failed"), (4, "failed")]


@pytest.mark.contract("C2")
def test_the_oldest_go_first_when_the_window_would_overflow():
    context = built(branch(*["complete"] * 5), window=100, max_tokens=40)
    included = [message.id for message in context.included]
    assert included == [3, 4, 5]
    assert [(left.id, left.reason) for left in context.left_out] == [(1, "window"), (2, "window")]
    assert context.input_tokens + 40 <= 100


@pytest.mark.contract("C2")
def test_a_window_too_small_for_any_context_still_sends_the_prompt():
    context = built(branch("complete", "complete"), window=8)
    assert context.included == []
    assert context.messages()[-1].content == "now"


@pytest.mark.contract("S4")
def test_the_estimate_counts_all_that_is_sent_and_nothing_else():
    alone = built([]).input_tokens
    with_system = built([], system="x" * 400).input_tokens
    with_context = built(branch("complete")).input_tokens
    assert alone < with_context < with_system
    assert built(branch("complete"), limit=0).input_tokens == alone


def test_the_system_message_comes_first_and_the_prompt_last():
    messages = built(branch("complete"), system="be kind").messages()
    assert [message.role for message in messages] == ["system", "user", "user"]
    assert [messages[0].content, messages[-1].content] == ["be kind", "now"]
