"""Structured output: asked for, held against its schema, said and shown (contract C11)."""

import json
from typing import Any

import pytest

from conversations.models import ChatSession, Message, Run
from providers.models import AnswerSchema, Configuration
from tests.people import Person
from tests.servers.provider import Provider, openai_answer

SCHEMA = {
    "type": "object",
    "properties": {
        "tasks": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {"task": {"type": "string"}, "done": {"type": "boolean"}},
                "required": ["task", "done"],
            },
        }
    },
    "required": ["tasks"],
}
VALID = '{"tasks": [{"task": "Buy <b>tea</b>", "done": false}, {"task": "日本", "done": true}]}'
INVALID = '{"tasks": [{"task": 1, "done": false}]}'


@pytest.fixture
def tasks(transactional_db: None) -> AnswerSchema:
    # One of this name is ready-made, until a test has emptied the database.
    told = {"name": "Tasks", "schema": SCHEMA}
    return AnswerSchema.objects.update_or_create(slug="tasks", defaults=told)[0]


def pieces(text: str) -> list[str]:
    return [text[at : at + 4] for at in range(0, len(text), 4)]


@pytest.mark.contract("C11")
def test_a_valid_answer_is_said_to_be_valid_and_is_shown_as_table_and_tree(
    ada: Person, openai: Configuration, provider: Provider, tasks: AnswerSchema
):
    provider.reply(*openai_answer(*pieces(VALID)))
    chat = ada.new_chat()
    done = ada.events(ada.ask(chat, "What is to do?", schema="tasks"))[-1].data
    assert done["structured"] == {"schema": "tasks", "valid": True, "problems": []}
    assert done["full_response"] == VALID
    page = ada.get(f"/chat/{chat}/", headers={"Accept": "text/html"}).text
    assert "Valid against “tasks”" in page
    assert "<td>Buy &lt;b&gt;tea&lt;/b&gt;</td>" in page
    assert 'class="tree"' in page
    answer = Message.objects.get(role="assistant")
    file = ada.get(f"/messages/{answer.pk}/json/")
    assert file.json() == json.loads(VALID)
    assert "日本" in file.text
    assert f'filename="answer-{answer.pk}.json"' in file.headers["Content-Disposition"]


@pytest.mark.contract("C11")
def test_a_wrong_answer_is_kept_with_the_path_of_each_problem(
    ada: Person, openai: Configuration, provider: Provider, tasks: AnswerSchema
):
    provider.reply(*openai_answer(INVALID))
    chat = ada.new_chat()
    done = ada.events(ada.ask(chat, "What is to do?", schema="tasks"))[-1].data
    assert done["structured"]["valid"] is False
    (problem,) = done["structured"]["problems"]
    assert problem["path"] == "$.tasks[0].task"
    page = ada.get(f"/chat/{chat}/", headers={"Accept": "text/html"}).text
    assert "Not valid against “tasks”" in page
    assert "$.tasks[0].task" in page


@pytest.mark.contract("C11")
def test_the_page_while_streaming_is_the_page_after_a_reload_and_shows_json_as_code(
    ada: Person, openai: Configuration, provider: Provider, tasks: AnswerSchema
):
    provider.reply(*openai_answer("\n", *pieces(VALID), pause=0.01))
    chat = ada.new_chat()
    events = ada.events(ada.ask(chat, "What is to do?", schema="tasks"), view="html")
    drawn = {event.data["index"]: event.data["html"] for event in events if event.type == "block"}
    assert events[-1].data["view"]["is_as_stored"] is True
    (block,) = [html for html in drawn.values() if html]
    assert "<pre" in block
    assert block in ada.get(f"/chat/{chat}/", headers={"Accept": "text/html"}).text


@pytest.mark.contract("C11")
def test_an_answer_that_is_no_json_is_shown_as_text(
    ada: Person, openai: Configuration, provider: Provider, tasks: AnswerSchema
):
    provider.reply(*openai_answer("I **cannot** do that."))
    chat = ada.new_chat()
    done = ada.events(ada.ask(chat, "What is to do?", schema="tasks"))[-1].data
    assert done["structured"]["valid"] is False
    page = ada.get(f"/chat/{chat}/", headers={"Accept": "text/html"}).text
    assert "I <strong>cannot</strong> do that." in page
    answer = Message.objects.get(role="assistant")
    assert ada.get(f"/messages/{answer.pk}/json/").status_code == 404


@pytest.mark.contract("C11")
def test_a_schema_may_come_with_the_request_itself(
    ada: Person, openai: Configuration, provider: Provider
):
    provider.reply(*openai_answer("[1]"))
    own = json.dumps({"title": "My numbers", "type": "array", "items": {"type": "integer"}})
    run = ada.ask(ada.new_chat(), "Numbers!", schema=own)
    done = ada.events(run)[-1].data
    assert done["structured"] == {"schema": "My_numbers", "valid": True, "problems": []}
    assert ChatSession.objects.get().schema == own


@pytest.mark.contract("C11")
def test_a_configuration_may_have_a_schema_which_a_request_can_do_without(
    ada: Person, openai: Configuration, provider: Provider, tasks: AnswerSchema
):
    Configuration.objects.update(schema=tasks)
    provider.route(*openai_answer(VALID), model="double-1")
    chat = ada.new_chat()
    assert ada.events(ada.ask(chat, "as ever"))[-1].data["structured"]["valid"] is True
    assert "structured" not in ada.events(ada.ask(chat, "as text", schema="none"))[-1].data
    assert [run.schema for run in Run.objects.order_by("started_at")] == ["tasks", ""]


@pytest.mark.contract("C11")
def test_without_a_schema_nothing_is_said_of_any(
    ada: Person, openai: Configuration, provider: Provider
):
    provider.reply(*openai_answer(VALID))
    assert "structured" not in ada.events(ada.ask(ada.new_chat(), "hello"))[-1].data
    assert Message.objects.get(role="assistant").structured is None


@pytest.mark.contract("C11")
def test_the_demo_answers_by_a_schema(ada: Person, demo: Configuration, tasks: AnswerSchema):
    done = ada.events(ada.ask(ada.new_chat(), "What is to do?", schema="tasks"))[-1].data
    assert done["structured"]["valid"] is True
    assert len(json.loads(done["full_response"])["tasks"]) == 3


@pytest.mark.contract("C11")
@pytest.mark.contract("S12")
@pytest.mark.parametrize("schema", ["nowhere", '{"type": "thing"}', "{", "[]", 7])
def test_what_is_no_schema_is_refused_and_nothing_is_stored(
    ada: Person, openai: Configuration, provider: Provider, schema: Any
):
    answer = ada.send(ada.new_chat(), "hello", schema=schema)
    assert answer.status_code == 422
    assert list(answer.json()["errors"]) == ["schema"]
    assert not Message.objects.exists()
    assert provider.requests == []


@pytest.mark.contract("C11")
def test_a_retry_asks_for_the_same_schema_again(
    ada: Person, openai: Configuration, provider: Provider, tasks: AnswerSchema
):
    provider.route(*openai_answer(VALID), model="double-1")
    run = ada.ask(ada.new_chat(), "What is to do?", schema="tasks")
    ada.events(run)
    again = ada.post(f"/messages/{run['user_message_id']}/retry/", json={}).json()
    assert ada.events(again)[-1].data["structured"]["valid"] is True


def test_a_strangers_answer_is_not_found(
    ada: Person, openai: Configuration, provider: Provider, tasks: AnswerSchema, make_person: Any
):
    provider.reply(*openai_answer(VALID))
    ada.events(ada.ask(ada.new_chat(), "What is to do?", schema="tasks"))
    answer = Message.objects.get(role="assistant")
    assert make_person("eve").get(f"/messages/{answer.pk}/json/").status_code == 404
