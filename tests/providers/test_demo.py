"""The built-in provider: its commands, its answers, its pace."""

import asyncio
import json
from collections.abc import Sequence

import pytest

from providers.adapters import demo, demo_answers
from providers.adapters.base import ChatMessage, Parameters, Target
from providers.adapters.demo import Demo, plan_for
from providers.events import FinishReason
from providers.failure import Source, reported_failure
from tests.providers.answers import Answer, read

COMMANDS = (
    "help", "markdown", "reasoning", "tools", "long", "fast", "slow", "length", "filter",
)  # fmt: skip


def answered(prompt: str, *, history: Sequence[ChatMessage] = (), **parameters) -> Answer:
    """The demo's answer, read from the bytes of its server."""
    adapter = Demo(Target("Demo", "demo", extra_body={"pace": 0}))
    messages = [*history, ChatMessage("user", prompt)]
    request = adapter.request(messages, Parameters(**parameters))
    response = demo.answer("/chat", json.dumps(request.body).encode())
    assert response.status == 200

    async def pieces() -> list[bytes]:
        return [piece async for piece in response.body]

    return read(adapter, asyncio.run(pieces()))


@pytest.mark.parametrize("prompt", ["hello", "日本語", "", "x" * 5_000, "*a* `b` <script>"])
def test_an_ordinary_answer_has_everything_a_page_can_show(prompt):
    answer = answered(prompt)
    assert answer.error is None
    for mark in ("## ", "\n- ", "| ---", "```", "- [x]", "- [ ]", "\n> ", "`/demo", "**", "]("):
        assert mark in answer.text
    assert answer.finish is not None
    assert answer.finish.reason is FinishReason.STOP
    assert "<script>" not in answer.text


def test_an_answer_is_the_same_for_the_same_prompt_and_not_for_all():
    assert answered("hello").text == answered("hello").text
    titles = {answered(f"prompt {number}").text.partition("\n")[0] for number in range(20)}
    assert len(titles) > 1


def test_what_was_typed_stays_text():
    text = answered("# [x](javascript:y) | `z`\n\n```").text
    assert r"\# \[x\]\(javascript:y\) \| \`z\`" in text


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_has_an_answer_of_its_own(name):
    answer = answered(f"/demo {name}")
    assert answer.error is None
    assert answer.text
    assert "There is no command" not in answer.text


def test_every_command_is_in_the_help():
    text = answered("/demo").text
    assert text == answered("/demo help").text == answered("  /demo HELP \n").text
    for name in (*COMMANDS, "echo", "error", "silent", "cut"):
        assert f"/demo {name}" in text
    for code in (*demo.ERRORS, demo.INTERRUPTED):
        assert code in text


@pytest.mark.parametrize("prompt", ["/demo nope", "/demo <b>", "/demo error", "/demo error NOPE"])
def test_an_unknown_command_says_what_there_is(prompt):
    answer = answered(prompt)
    assert "/demo error" in answer.text
    assert answer.error is None


def test_a_prompt_that_only_speaks_of_commands_is_no_command():
    assert plan_for([{"role": "user", "content": "what does /demo help do?"}]).pace == 1


def test_only_the_last_user_message_counts():
    history = [ChatMessage("user", "/demo tools"), ChatMessage("assistant", "x")]
    assert answered("hello", history=history).tool_calls == []


def test_reasoning_comes_before_the_answer_and_apart_from_it():
    answer = answered("/demo reasoning")
    assert answer.reasoning == demo_answers.REASONING
    assert answer.text == demo_answers.AFTER_REASONING
    assert answer.usage.reasoning_tokens == len(demo_answers.REASONING.split())


def test_tool_calls_are_whole_json_in_the_end():
    answer = answered("/demo tools")
    assert [name for _, name, _ in answer.tool_calls] == ["get_weather", "search_documents"]
    for _, _, arguments in answer.tool_calls:
        json.loads(arguments)
    assert answer.finish is not None
    assert answer.finish.reason is FinishReason.TOOL_CALLS


def test_long_is_about_three_thousand_words():
    assert 2_800 < len(answered("/demo long").text.split()) < 3_300


def test_usage_counts_words():
    history = [ChatMessage("system", "Be brief."), ChatMessage("user", "one two three")]
    usage = answered("four", history=history).usage
    assert usage.prompt_tokens == 6
    answer = answered("/demo echo one two  three\nfour")
    assert answer.usage.completion_tokens == 4


def test_max_tokens_cuts_the_answer():
    answer = answered("hello", max_tokens=10)
    assert len(answer.text.split()) == 10
    assert answer.finish is not None
    assert answer.finish.reason is FinishReason.LENGTH


@pytest.mark.parametrize("text", [demo_answers.TOUR, demo_answers.HELP, " a  b\n\n", "", "\n"])
def test_the_pieces_of_a_text_are_that_text(text):
    pieces = [value for _, value, _ in demo._pieces(demo.Plan(text))]
    assert "".join(pieces) == text


@pytest.mark.parametrize(
    ("asked", "pace"),
    [(None, demo.PACE), ("fast", demo.PACE), (True, demo.PACE), (0, 0), (-1, 0), (99, 10), (2, 2)],
)
def test_the_pace_is_what_the_body_says_if_it_can_be_meant(asked, pace):
    assert demo._pace(asked) == pace


@pytest.mark.parametrize("code", list(demo.ERRORS))
def test_the_word_of_each_error_means_that_error_in_mid_stream_too(code):
    error = demo._error(code, demo.ERRORS[code][1])
    assert reported_failure(Source("Demo", "demo"), error).code == code


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b'{"messages":[7]}', b"\xff"])
def test_a_request_that_is_none_is_answered_all_the_same(content):
    assert demo.answer("/chat", content).status == 200
