"""Every recording and every sample gives its result, however its bytes are split.

Recordings (real, read in place) are in ../shared/wire beside the repository; samples (ours, from
the format pages) in tests/samples, each with the expected result in `<name>.expect.json`.
"""

import json
import random
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from providers.adapters.base import Target
from providers.adapters.registry import adapter_class
from providers.events import FinishReason, Usage
from tests.providers.answers import SPLITS, Answer, read, split

ROOT = Path(__file__).parents[2]
RECORDINGS = ROOT.parent / "shared" / "wire" / "recordings"
SAMPLES = ROOT / "tests" / "samples"

# Which kinds read a recording's format. Any OpenAI-shaped server may stand behind any of the
# OpenAI-compatible kinds, so each of these reads all of them.
OPENAI_KINDS = ("openai", "openrouter", "local", "airefinery")
KINDS_OF_FORMAT = {
    "openai-chat-sse": OPENAI_KINDS,
    "openai-responses-sse": ("openai",),
    "ollama-ndjson": ("ollama",),
    "anthropic-messages-sse": ("anthropic",),
}


def recordings(suffix: str = ".*") -> list[Any]:
    """Kind, file and description of each recorded stream, for each kind that reads it."""
    found = []
    for meta_path in sorted(RECORDINGS.glob("*.meta.json")):
        name = meta_path.name.removesuffix(".meta.json")
        meta = json.loads(meta_path.read_text())
        found += [
            pytest.param(kind, path, meta, id=f"{name}-as-{kind}")
            for kind in KINDS_OF_FORMAT.get(meta["format"], ())
            for path in RECORDINGS.glob(f"{name}{suffix}")
            if path != meta_path
        ]
    return found or [
        pytest.param("", "", {}, marks=pytest.mark.skip(reason=f"no recordings in {RECORDINGS}"))
    ]


@pytest.mark.contract("P1")
@pytest.mark.parametrize("how", SPLITS)
@pytest.mark.parametrize(("kind", "path", "meta"), recordings())
def test_a_recording_gives_the_same_events_however_its_bytes_are_split(kind, path, meta, how):
    assert_recorded(kind, meta, split(path.read_bytes(), how))


@pytest.mark.parametrize("line_end", [b"\r\n", b"\r"], ids=["CRLF", "CR"])
@pytest.mark.parametrize(("kind", "path", "meta"), recordings(".sse"))
def test_a_recording_gives_the_same_events_with_other_line_ends(kind, path, meta, line_end):
    body = path.read_bytes().replace(b"\n", line_end)
    assert_recorded(kind, meta, split(body, "awkward"))


def assert_recorded(kind: str, meta: dict, pieces: list[bytes]) -> None:
    base_url = f"https://host{meta['request']['path'].partition('?')[0]}"
    answer = read(adapter_class(kind)(Target("Conf", "m", base_url)), pieces)
    expect = meta["expect"]
    assert answer.text == expect["text"]
    assert answer.reasoning == (expect["reasoning_text"] or "")
    assert answer.usage.prompt_tokens == expect["prompt_tokens"]
    assert answer.usage.completion_tokens == expect["completion_tokens"]
    assert answer.usage.cached_tokens == expect["cached_tokens"]
    assert answer.usage.reasoning_tokens == expect["reasoning_tokens"]
    cost = expect["cost_usd"]
    assert answer.usage.cost_usd == (None if cost is None else Decimal(str(cost)))
    calls = [(call_id, name, json.loads(text)) for call_id, name, text in answer.tool_calls]
    expected = expect["tool_calls"]
    assert calls == [(call["id"], call["name"], call["arguments_json"]) for call in expected]
    if error := expect["error"]:
        assert answer.error is not None
        assert answer.error.code == error["code"]
        assert error["message"][:60] in answer.error.message
        assert answer.finish is None
    else:
        assert answer.error is None
        assert answer.finish is not None
        assert answer.finish.reason == expect["finish_normalized"]
        assert answer.finish.provider_reason == expect["finish_reason"]


def samples() -> list[Any]:
    found = []
    for expect_path in sorted(SAMPLES.glob("*/*.expect.json")):
        name = expect_path.name.removesuffix(".expect.json")
        kind = expect_path.parent.name
        found += [
            pytest.param(kind, path, json.loads(expect_path.read_text()), id=f"{kind}-{name}")
            for path in expect_path.parent.glob(f"{name}.*")
            if path != expect_path
        ]
    return found


@pytest.mark.parametrize("how", SPLITS)
@pytest.mark.parametrize(("kind", "path", "expect"), samples())
def test_a_sample_gives_its_result_however_its_bytes_are_split(kind, path, expect, how):
    adapter = adapter_class(kind)(Target("Conf", "m", expect.get("base_url", "")))
    answer = read(adapter, split(path.read_bytes(), how))
    assert_result(answer, expect)


def assert_result(answer: Answer, expect: dict) -> None:
    assert (answer.error.code if answer.error else None) == expect.get("error")
    assert answer.text == expect.get("text", "")
    assert answer.reasoning == expect.get("reasoning", "")
    assert [list(call) for call in answer.tool_calls] == expect.get("tool_calls", [])
    usage = dict(expect.get("usage", {}))
    if "cost_usd" in usage:
        usage["cost_usd"] = Decimal(usage["cost_usd"])
    assert answer.usage == Usage(**usage)
    if "finish" in expect:
        reason, word = expect["finish"]
        assert answer.finish is not None
        assert answer.finish.reason == (reason and FinishReason(reason))
        assert answer.finish.provider_reason == word


NONSENSE: list[Any] = [
    None,
    True,
    -1,
    1.5,
    10**40,
    "",
    "x",
    [],
    {},
    [1],
    [None],
    {"a": 1},
    [{}],
    "\ud800",
]


def changed(value: object, chance: random.Random) -> object:
    """The same JSON with some of its values gone, or of other types."""
    if chance.random() < 0.15:
        return chance.choice(NONSENSE)
    if isinstance(value, dict):
        return {k: changed(v, chance) for k, v in value.items() if chance.random() > 0.05}
    if isinstance(value, list):
        return [changed(item, chance) for item in value]
    return value


@pytest.mark.parametrize(("kind", "path", "expect"), samples())
def test_nonsense_from_a_provider_is_an_error_of_the_provider_at_worst(kind, path, expect):
    chance = random.Random(path.name)
    lines = path.read_text(encoding="utf-8").split("\n")
    for _ in range(50):
        said = []
        for line in lines:
            prefix = "data: " if line.startswith("data: ") else ""
            try:
                value = json.loads(line[len(prefix) :])
            except ValueError:
                said.append(line)
            else:
                said.append(prefix + json.dumps(changed(value, chance)))
        adapter = adapter_class(kind)(Target("Conf", "m", expect.get("base_url", "")))
        read(adapter, ["\n".join(said).encode()])
