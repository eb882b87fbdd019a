"""JSON schemas as people bring them, and answers held against them in a process of its own."""

import json
from typing import Any

import pytest

from providers import schemas
from providers.adapters.base import Schema
from providers.adapters.demo_json import example
from providers.json_check import MESSAGE_CHARACTERS, MOST_PROBLEMS, problems

ITEM = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "count": {"type": "integer", "minimum": 1}},
    "required": ["name", "count"],
    "additionalProperties": False,
}
ITEMS = {"type": "object", "properties": {"items": {"type": "array", "items": ITEM}}}


async def verdict(schema: dict[str, Any], text: str) -> schemas.Verdict:
    return await schemas.check(Schema("things", schema), text)


@pytest.mark.contract("C11")
@pytest.mark.parametrize(
    "text",
    [
        '{"items":[{"name":"a","count":1}]}',
        '\n```json\n{"items": []}\n```\n',
        '```\n{"items": []}```',
    ],
)
async def test_a_valid_answer_is_valid_with_or_without_a_fence(text: str):
    assert (await verdict(ITEMS, text)).fields == {
        "schema": "things",
        "valid": True,
        "problems": [],
    }


@pytest.mark.contract("C11")
async def test_each_problem_has_its_path():
    found = await verdict(ITEMS, '{"items":[{"name":"a","count":0},{"name":2,"count":1,"x":0}]}')
    assert found.is_valid is False
    assert [problem["path"] for problem in found.problems] == [
        "$.items[0].count",
        "$.items[1]",
        "$.items[1].name",
    ]
    assert "minimum" in found.problems[0]["message"]


@pytest.mark.parametrize(
    "text", ["Here it is: {}", "", '{"a":', "NaN", '{"a": Infinity}', "[" * 100_000]
)
async def test_what_is_no_json_is_not_valid(text: str):
    found = await verdict({}, text)
    assert found.is_valid is False
    assert found.problems[0]["path"] == "$"
    assert found.problems[0]["message"].startswith("This is not JSON")


@pytest.mark.contract("R12")
@pytest.mark.parametrize("reference", ["http://127.0.0.1:9/x.json", "file:///etc/passwd", "other"])
async def test_nothing_outside_a_schema_is_fetched(reference: str):
    found = await verdict({"$ref": reference}, '{"a": 1}')
    assert found.is_valid is False
    assert "refers to what it does not hold" in found.problems[0]["message"]


async def test_what_a_schema_holds_may_be_referred_to():
    schema = {"$ref": "#/$defs/item", "$defs": {"item": ITEM}}
    assert (await verdict(schema, '{"name":"a","count":1}')).is_valid is True
    assert (await verdict(schema, "{}")).is_valid is False
    meta = {"$ref": "http://json-schema.org/draft-07/schema#"}
    assert (await verdict(meta, '{"type": "object"}')).is_valid is True


@pytest.mark.contract("R12")
async def test_a_schema_without_end_is_given_up():
    found = await verdict({"$ref": "#"}, "{}")
    assert found.is_valid is False
    assert "itself without end" in found.problems[0]["message"]


@pytest.mark.contract("R12")
async def test_a_pattern_that_takes_for_ever_is_given_up_and_others_are_checked_meanwhile():
    hostile = {"type": "string", "pattern": "^(a+)+$"}
    found = await verdict(hostile, json.dumps("a" * 60 + "b"))
    assert found.is_valid is None
    assert found.problems == [{"path": "$", "message": schemas.TOO_LONG}]


def test_problems_are_few_and_short():
    found = problems({"items": {"type": "string"}}, json.dumps([["x" * 1_000]] * 50))
    assert len(found) == MOST_PROBLEMS
    assert max(len(problem["message"]) for problem in found) == MESSAGE_CHARACTERS


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[]", "is an object"),
        ("{", "not JSON"),
        ('{"type": "thing"}', "$.type"),
        ('{"properties": 1}', "$.properties"),
        ('{"a":' * 2_000 + "1" + "}" * 2_000, "not JSON"),
        ('{"title": "' + "x" * schemas.MOST_BYTES + '"}', "bytes at most"),
    ],
)
def test_what_is_no_schema_is_refused_with_the_place(text: str, words: str):
    with pytest.raises(schemas.BadSchema, match=words.replace("$", r"\$")):
        schemas.parsed(text)


@pytest.mark.parametrize(
    ("title", "name"), [("My list!", "My_list"), ("", "answer"), ("日本", "answer"), (7, "answer")]
)
def test_a_schema_gets_a_name_that_providers_take(title: Any, name: str):
    assert schemas.parsed(json.dumps({"title": title} if title != 7 else {})).name == name


@pytest.mark.parametrize(
    "schema",
    [
        ITEMS,
        {"$ref": "#/$defs/item", "$defs": {"item": ITEM}},
        {"type": ["string", "null"]},
        {"type": "array", "minItems": 5, "items": {"enum": ["a", "b"]}},
        {"anyOf": [{"type": "number"}, {"type": "null"}]},
        {"const": {"a": 1}},
        {"type": "object", "properties": {"deep": {"type": "array", "items": ITEM}}},
    ],
)
def test_the_demo_has_a_valid_example(schema: dict[str, Any]):
    assert problems(schema, json.dumps(example(schema, "a question"))) == []
