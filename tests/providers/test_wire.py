"""Bytes to frames: the shared framing cases, every split, bounds."""

import base64
import json
import time
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from providers.errors import ProviderFailure
from providers.wire import (
    NDJSON,
    SSE,
    PlainText,
    SSEFrame,
    SSEOrJSON,
    parse_json,
    valid_text,
)
from tests.providers.answers import SPLITS, split
from tests.providers.properties import cuts, prop

CASES = Path(__file__).parents[2].parent / "shared" / "wire" / "framing-cases.json"


def cases() -> list[object]:
    if not CASES.exists():
        return [pytest.param({}, marks=pytest.mark.skip(reason=f"no {CASES}"))]
    return [pytest.param(case, id=case["name"]) for case in json.loads(CASES.read_text())]


def frames(splitter, pieces: list[bytes]) -> list:
    return [f for piece in pieces for f in splitter.feed(piece)] + list(splitter.close())


def outcome(splitter, pieces: list[bytes]) -> tuple[list, str]:
    """The frames, and the message of the error that ended them, if one did."""
    found: list = []
    try:
        for piece in pieces:
            for frame in splitter.feed(piece):
                found.append(frame)
        for frame in splitter.close():
            found.append(frame)
    except ProviderFailure as error:
        return found, error.message
    return found, ""


def until_failure(splitter, pieces: list[bytes]) -> tuple[list, ProviderFailure]:
    """The frames before the error, and the error."""
    found: list = []
    try:
        for piece in pieces:
            for frame in splitter.feed(piece):
                found.append(frame)
    except ProviderFailure as error:
        return found, error
    raise AssertionError("it did not fail")


@pytest.mark.parametrize("how", ["as recorded", *SPLITS])
@pytest.mark.parametrize("case", cases())
def test_a_framing_case_gives_its_frames_however_it_is_split(case, how):
    pieces = [base64.b64decode(chunk) for chunk in case["chunks_b64"]]
    if how != "as recorded":
        pieces = split(b"".join(pieces), how)
    if case["kind"] == "ndjson":
        assert frames(NDJSON(), pieces) == case["expect"]["objects"]
        return
    for splitter in (SSE(), SSEOrJSON()):
        found = frames(splitter, pieces)
        with_data = [f for f in found if f.data or f.error is None]
        assert [{"event": f.event, "data": f.data} for f in with_data] == case["expect"]["events"]
        if "error_field" in case["expect"]:
            assert [f.error for f in found if f.error] == [case["expect"]["error_field"]]


def test_an_event_ended_by_cr_is_there_before_the_next_byte_is():
    splitter = SSE()
    assert list(splitter.feed(b"data: a\r\r")) == [SSEFrame(None, "a")]
    assert list(splitter.feed(b"\ndata: b\r\n\r\n")) == [SSEFrame(None, "b")]


@pytest.mark.parametrize("how", SPLITS)
@pytest.mark.parametrize("line_end", [b"\n", b"\r\n", b"\r"], ids=["LF", "CRLF", "CR"])
def test_an_event_of_several_lines_stays_one_with_every_line_end(line_end, how):
    body = b"event: e\ndata: a\ndata: b\n\n: ping\ndata: c\n\n".replace(b"\n", line_end)
    assert frames(SSE(), split(body, how)) == [SSEFrame("e", "a\nb"), SSEFrame(None, "c")]


def test_a_data_field_without_a_colon_is_an_empty_line():
    assert frames(SSE(), [b"data\ndata: x\n\n"]) == [SSEFrame(None, "\nx")]


@pytest.mark.parametrize("how", SPLITS)
def test_a_truncated_character_becomes_a_replacement_character(how):
    body = b'{"t":"\xf0\x9f\x98"}\n{"t":"\xe6"}'
    assert frames(NDJSON(), split(body, how)) == [{"t": "\ufffd"}, {"t": "\ufffd"}]


@pytest.mark.parametrize("how", SPLITS)
def test_a_line_that_is_not_json_ends_ndjson_after_the_lines_before(how):
    found, error = until_failure(NDJSON("Conf"), split(b'{"a":1}\nno\n{"a":2}\n', how))
    assert found == [{"a": 1}]
    assert error.message.startswith("Conf ")


@pytest.mark.parametrize("text", ["{", "[" * 100_000, "1e" + "9" * 30, "9" * 10_000, ""])
def test_json_that_cannot_be_kept_is_a_value_error(text):
    with pytest.raises(ValueError, match=r"."):
        parse_json(text if text != "1e" + "9" * 30 else f"1.0e{'9' * 30}")


def test_numbers_keep_their_digits():
    assert parse_json('{"cost": 7.159e-05, "n": 3}') == {"cost": Decimal("0.00007159"), "n": 3}


@pytest.mark.parametrize("splitter_class", [SSE, NDJSON, SSEOrJSON])
@pytest.mark.parametrize("size", [1, 7, 64, 10_000])
def test_a_line_at_the_limit_passes_and_one_byte_more_does_not(splitter_class, size):
    fits = b'{"t":"' + b"x" * 992 + b'"}'
    assert len(fits) == 1_000
    prefix = b"data: " if splitter_class is SSE else b""
    splitter = splitter_class("Conf", 1_000 + len(prefix))
    body = prefix + fits + b"\n\n"
    pieces = [body[i : i + size] for i in range(0, len(body), size)]
    assert len(frames(splitter, pieces)) == 1
    splitter = splitter_class("Conf", 999 + len(prefix))
    with pytest.raises(ProviderFailure, match="longer than"):
        frames(splitter, pieces)


def test_frames_before_a_line_that_is_too_long_are_not_lost():
    found, _ = until_failure(SSE("Conf", 100), [b"data: a\n\ndata: " + b"x" * 200])
    assert found == [SSEFrame(None, "a")]


def test_an_event_of_endless_lines_ends_at_the_limit_too():
    found, error = until_failure(SSE("Conf", 10_000), [b"data:\n"] * 10_000)
    assert found == []
    assert "longer than" in error.message


def test_white_space_without_end_is_not_kept():
    splitter = SSEOrJSON("Conf", 1_000)
    for _ in range(100):
        assert list(splitter.feed(b" " * 1_000)) == []
    assert len(splitter._start) <= 1_000


def test_a_long_line_in_small_pieces_costs_no_more_than_its_length():
    def seconds(pieces: int) -> float:
        splitter = SSE()
        started_at = time.perf_counter()
        for _ in range(pieces):
            list(splitter.feed(b"x" * 16))
        return time.perf_counter() - started_at

    seconds(1_000)
    small, large = seconds(10_000), seconds(100_000)
    assert large < small * 40  # 10 if it is linear, 100 if each piece copies what is there


@pytest.mark.parametrize("how", SPLITS)
def test_an_object_over_several_lines_is_one_frame(how):
    body = json.dumps({"error": {"message": "é\u2028"}}, indent=2, ensure_ascii=False).encode()
    (frame,) = frames(SSEOrJSON(), split(b"\xef\xbb\xbf\n" + body, how))
    assert json.loads(frame.data) == {"error": {"message": "é\u2028"}}


@pytest.mark.parametrize("how", SPLITS)
def test_plain_text_keeps_every_character(how):
    body = b"\xef\xbb\xbf" + "a\u2028\r\n日本語 😀".encode() + b"\xff\xe6"
    assert "".join(frames(PlainText(), split(body, how))) == "a\u2028\r\n日本語 😀\ufffd\ufffd"


def test_plain_text_gives_each_read_at_once():
    assert list(PlainText().feed(b"half a")) == ["half a"]


@pytest.mark.parametrize(
    ("text", "valid"),
    [
        ("plain", "plain"),
        ("größe 日本語 😀", "größe 日本語 😀"),
        ("a\0b", "a\ufffdb"),
        ("a\ud83d", "a\ufffd"),
        ("é\udfff\0", "é\ufffd\ufffd"),
        ("", ""),
    ],
)
def test_text_is_made_valid(text, valid):
    assert valid_text(text) == valid
    valid_text(text).encode()


# ---- Properties: what holds for anything that could be sent, cut anywhere

LINE_ENDS = st.sampled_from([b"\n", b"\r\n", b"\r"])
# Characters at which other splitters cut, and those of several bytes, come often.
CHARACTERS = st.one_of(
    st.sampled_from("\u2028\u2029\x85\x0b\x0c\x1c\x1d\x1e: \ufeff\0😀é"),
    st.characters(exclude_categories=["Cs"], exclude_characters="\r\n"),
)
LINES = st.text(CHARACTERS, max_size=20)
NAMES = st.text(CHARACTERS, min_size=1, max_size=8)
EVENTS = st.lists(
    st.builds(SSEFrame, st.none() | NAMES, st.lists(LINES, min_size=1, max_size=3).map("\n".join)),
    max_size=5,
)
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)
OBJECTS = st.dictionaries(st.text(max_size=5), JSON_VALUES, max_size=3)
# Bytes of the formats' own alphabet: chance alone would seldom make an event of them.
WIRE_BYTES = st.lists(
    st.one_of(
        st.sampled_from(
            [
                b"data:", b"data: ", b"event: e", b"error: x", b": ping", b"id: 1", b"retry",
                b"\n", b"\r", b"\r\n", b"\n\n", b" ", b"{", b"}", b'{"a":1}', b"[DONE]",
                b"\xef\xbb\xbf", b"\xef", b"\xff", "\u2028😀".encode(), b"\xf0\x9f",
            ]
        ),
        st.binary(max_size=4),
    ),
    max_size=25,
).map(b"".join)  # fmt: skip


def written(events: list[SSEFrame], line_end: bytes, space: bytes, comment: str) -> bytes:
    """These events as a stream, with a comment between every two lines."""
    lines: list[bytes] = []
    for event in events:
        if event.event is not None:
            lines.append(b"event:" + space + event.event.encode())
        lines += [b"data:" + space + line.encode() for line in event.data.split("\n")]
        lines.append(b"")
    between = b":" + comment.encode() + line_end
    return b"".join(between + line + line_end for line in lines)


@prop
@given(EVENTS, LINE_ENDS, LINES, st.data())
def test_events_come_back_as_they_were_written_however_they_are_cut(
    events, line_end, comment, data
):
    # With a space after the colon, what begins with one keeps its own.
    body = written(events, line_end, b" ", comment)
    assert frames(SSE(), data.draw(cuts(body))) == events


@prop
@given(st.lists(JSON_VALUES, max_size=6), st.sampled_from([b"\n", b"\r\n", b" \n\n"]), st.data())
def test_json_values_come_back_as_they_were_written_however_they_are_cut(values, line_end, data):
    body = b"".join(json.dumps(value, ensure_ascii=False).encode() + line_end for value in values)
    assert frames(NDJSON(), data.draw(cuts(body))) == values
    # The last line needs no end of its own.
    without = body.rstrip()
    assert frames(NDJSON(), data.draw(cuts(without))) == values


@prop
@given(st.lists(OBJECTS, min_size=1, max_size=4), st.data())
def test_objects_without_their_field_name_come_back_too(values, data):
    """JSON lines where an event stream was asked for (airefinery.md)."""
    body = b"".join(json.dumps(value).encode() + b"\n" for value in values)
    found = frames(SSEOrJSON(), data.draw(cuts(body)))
    assert [json.loads(frame.data) for frame in found] == values


@prop
@given(WIRE_BYTES, st.sampled_from([SSE, SSEOrJSON, NDJSON]), st.data())
def test_any_bytes_give_the_same_however_they_are_cut(body, splitter_class, data):
    whole = outcome(splitter_class("Conf"), [body])
    assert outcome(splitter_class("Conf"), data.draw(cuts(body))) == whole


@prop
@given(WIRE_BYTES, st.sampled_from([SSE, SSEOrJSON, NDJSON]), st.integers(1, 40), st.data())
def test_a_limit_ends_any_bytes_in_the_same_way_and_is_never_passed(
    body, splitter_class, limit, data
):
    splitter = splitter_class("Conf", limit)
    found, failure = outcome(splitter, data.draw(cuts(body)))
    assert (found, failure) == outcome(splitter_class("Conf", limit), [body])
    kept: Any = splitter if isinstance(splitter, SSE | NDJSON) else splitter._splitter
    assert kept is None or len(kept._rest) <= limit


@prop
@given(st.binary(max_size=40), st.data())
def test_plain_text_is_the_same_however_it_is_cut(body, data):
    text = "".join(frames(PlainText(), data.draw(cuts(body))))
    assert text == body.decode("utf-8-sig", "replace")


@pytest.mark.parametrize(
    "body", [b"\xef", b"\xef\xbb", b"\xef\xbb\xbf", b"\xef\xbb\xbfa", b"a\xef"]
)
def test_a_plain_text_that_begins_like_a_mark_loses_nothing_else(body):
    assert "".join(frames(PlainText(), [body])) == body.decode("utf-8-sig", "replace")
    assert "".join(frames(PlainText(), [bytes([b]) for b in body])) == body.decode(
        "utf-8-sig", "replace"
    )
