"""`<think>` tags inside text become reasoning, wherever the text is cut (local.md, Pitfalls)."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from providers.adapters.airefinery import AIRefinery
from providers.adapters.base import Target
from providers.adapters.custom import Custom
from providers.adapters.local import Local
from providers.adapters.ollama import Ollama
from providers.adapters.openai import OpenAI
from providers.adapters.openrouter import OpenRouter
from providers.adapters.thinking import KEPT_MOST
from providers.errors import StreamInterrupted
from providers.events import Finish, FinishReason, ReasoningDelta, TextDelta, ToolCallDelta
from tests.providers.answers import Answer, read
from tests.providers.properties import prop
from tests.servers.provider import ollama_line, openai_chunk

STOP = Finish(FinishReason.STOP, "stop")


def chunk(finish=None, **delta) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return b"data: " + json.dumps({"choices": [choice]}).encode() + b"\n\n"


def answer(*pieces: str, end: bytes = chunk("stop"), kind=Local) -> Answer:
    """What comes of a text in these pieces."""
    return read(kind(Target("Conf", "m")), [*(chunk(content=piece) for piece in pieces), end])


@pytest.mark.contract("C4")
@pytest.mark.parametrize(
    ("said", "reasoning", "text"),
    [
        ("<think>Hm.</think>4", "Hm.", "4"),
        ("<think>\nHm.\n</think>\n\n4", "\nHm.\n", "\n\n4"),
        ("\n <think>Hm.</think>4", "Hm.", "\n 4"),
        ("<think>Hm.</think>", "Hm.", ""),
        # What ran out of tokens while it was thinking.
        ("<think>Hm, no", "Hm, no", ""),
        ("<think>Hm</thin", "Hm</thin", ""),
        ("\n<think>Hm", "Hm", ""),
        # A model that did not think.
        ("<think>\n\n</think>\n\n4", "", "\n\n4"),
        ("<think></think>4", "", "4"),
        ("<think>\n", "", ""),
        # Nearly tags.
        ("<think>a </think b < c </</think>4", "a </think b < c </", "4"),
        ("<think><think>a</think>4</think>", "<think>a", "4</think>"),
        ("<thinking>a</thinking>4", "", "<thinking>a</thinking>4"),
        ("<thin", "", "<thin"),
        ("< think>a", "", "< think>a"),
        ("<THINK>a</THINK>4", "", "<THINK>a</THINK>4"),
        # Text that mentions them.
        ("Use <think>a</think>.", "", "Use <think>a</think>."),
        ("`<think>`", "", "`<think>`"),
        ("<think>a</think>4 <think>b</think>", "a", "4 <think>b</think>"),
        ("Hm.</think>4", "", "Hm.</think>4"),
        (" \n", "", " \n"),
        ("", "", ""),
    ],
)
def test_thinking_at_the_start_of_an_answer_is_reasoning(said, reasoning, text):
    for pieces in ([said], list(said), [said[:9], said[9:]]):
        found = answer(*pieces)
        assert (found.reasoning, found.text) == (reasoning, text)
        assert found.finish == STOP


@prop
@given(st.data())
def test_it_is_the_same_however_the_text_is_cut(data):
    parts = st.sampled_from(
        ["<think>", "</think>", "<", "</", "think", ">", "\n", " ", "a", "é😀", "<think", "k>"]
    )
    said = data.draw(st.lists(parts, max_size=12).map("".join))
    places = data.draw(st.lists(st.integers(0, len(said)), max_size=8).map(sorted))
    pieces = [said[i:j] for i, j in zip([0, *places], [*places, len(said)], strict=True)]
    cut, whole = answer(*pieces), answer(said)
    assert (cut.reasoning, cut.text) == (whole.reasoning, whole.text)
    tags = "<think></think>"
    if whole.reasoning and whole.text:
        # Nothing was lost but the tags.
        assert len(whole.reasoning + whole.text) == len(said) - len(tags)


def test_thinking_is_given_on_while_it_goes_on():
    adapter = Local(Target("Conf", "m"))
    assert list(adapter.read(chunk(content="<think>Well, "))) == [ReasoningDelta("Well, ")]
    assert list(adapter.read(chunk(content="yes.</thi"))) == [ReasoningDelta("yes.")]
    assert list(adapter.read(chunk(content="nk>4"))) == [TextDelta("4")]


def test_text_without_tags_is_given_on_at_once():
    adapter = Local(Target("Conf", "m"))
    assert list(adapter.read(chunk(content="Hello"))) == [TextDelta("Hello")]
    assert list(adapter.read(chunk(content=" <think>"))) == [TextDelta(" <think>")]


def test_a_server_that_sends_thinking_in_its_own_field_has_no_tags_in_its_text():
    adapter = Local(Target("Conf", "m"))
    pieces = [chunk(reasoning_content="Hm."), chunk(content="<think>x</think>"), chunk("stop")]
    assert read(adapter, pieces).events == [
        ReasoningDelta("Hm."),
        TextDelta("<think>x</think>"),
        STOP,
    ]


def test_a_tool_call_follows_the_text_that_was_kept_back():
    call = [{"index": 0, "id": "c", "function": {"name": "f", "arguments": "{}"}}]
    adapter = Local(Target("Conf", "m"))
    pieces = [chunk(content="<thi"), chunk(tool_calls=call), chunk("tool_calls")]
    assert read(adapter, pieces).events[:2] == [
        TextDelta("<thi"),
        ToolCallDelta(0, "c", "f", "{}"),
    ]


@pytest.mark.parametrize("said", ["<thi", "<think>Hm</thi", "\n"])
def test_what_was_kept_back_comes_before_an_error(said):
    error = b'data: {"error": {"message": "gone", "type": "server_error"}}\n\n'
    found = answer(said, end=error)
    assert found.reasoning + found.text == said.removeprefix("<think>")
    assert found.error is not None


@pytest.mark.contract("F2")
@pytest.mark.parametrize("said", ["<thi", "<think>Hm</thi"])
def test_what_was_kept_back_comes_before_the_end_of_an_answer_that_broke_off(said):
    found = answer(said, end=b"")
    assert found.reasoning + found.text == said.removeprefix("<think>")
    assert isinstance(found.error, StreamInterrupted)


@pytest.mark.contract("G7")
@pytest.mark.parametrize("start", ["", "<think>"])
def test_white_space_without_end_is_not_kept(start):
    spaces = " " * 100
    answer_so_far = Answer()
    adapter = Local(Target("Conf", "m"))
    for said in (start, *[spaces] * 50):
        answer_so_far.events.extend(adapter.read(chunk(content=said)))
    given = answer_so_far.reasoning + answer_so_far.text
    assert len(given) >= 5_000 - KEPT_MOST


@pytest.mark.parametrize("kind", [Local, OpenRouter, AIRefinery])
def test_the_kinds_with_models_that_write_tags_read_them(kind):
    assert answer("<think>Hm.</think>4", kind=kind).reasoning == "Hm."


def test_openai_has_no_such_models_so_its_text_is_left_alone():
    assert answer("<think>x</think>", kind=OpenAI).text == "<think>x</think>"


def test_ollama_and_custom_endpoints_have_their_tags_taken_out_too():
    pieces = [ollama_line("<thi"), ollama_line("nk>a</think>b")]
    answer = read(Ollama(Target("Conf", "m")), [*pieces, ollama_line(done=True)])
    assert (answer.reasoning, answer.text) == ("a", "b")
    like_openai = {"response": {"format": "openai"}}
    pieces = [openai_chunk("<think>a"), openai_chunk("</think>b"), openai_chunk(finish="stop")]
    answer = read(Custom(Target("Conf", "m", "http://h", options=like_openai)), pieces)
    assert (answer.reasoning, answer.text) == ("a", "b")
    lines = {"response": {"format": "ndjson", "text_path": "t"}}
    pieces = [b'{"t":"<think>a"}\n', b'{"t":"</think>b<"}\n']
    answer = read(Custom(Target("Conf", "m", "http://h", options=lines)), pieces)
    assert (answer.reasoning, answer.text) == ("a", "b<")
