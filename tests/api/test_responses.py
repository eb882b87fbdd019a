"""OpenAI's own Python client at POST /v1/responses, against the real server (A1)."""

import base64
import io
import json
import threading
from time import monotonic
from typing import Any

import httpx
import openai as openai_package
import pytest
from PIL import Image

from conversations.models import ChatSession, Run, UsageLog
from providers.models import Configuration
from tests.api.conftest import DEADLINE, problem
from tests.faults.checks import wait_for_ends
from tests.servers.app import AppServer
from tests.servers.provider import (
    OPENAI_DONE,
    Provider,
    Step,
    hang,
    head,
    json_answer,
    openai_answer,
    openai_chunk,
    openai_tool_call,
    send,
    until,
)

pytestmark = [pytest.mark.contract("A1"), pytest.mark.usefixtures("openai")]

PATH = "/v1/responses"
WEATHER = {
    "type": "function",
    "name": "weather",
    "description": "The weather in a city.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    "strict": False,
}


def asking(given: Any = "hello", model: str = "double", **fields: Any) -> dict[str, Any]:
    """The body of a call."""
    return {"model": model, "input": given, **fields}


def types(events: list[Any]) -> list[str]:
    """The types of events in their order, without the repetition of pieces."""
    return [
        event.type
        for number, event in enumerate(events)
        if not (event.type.endswith(".delta") and events[number - 1].type == event.type)
    ]


# ---- answers


def test_it_gets_an_answer_in_one_piece(client: Any, provider: Provider):
    provider.reply(*openai_answer("Hello", " there", reasoning=["hm"], usage=(11, 7)))
    answer = client.responses.create(**asking(instructions="Be brief.", max_output_tokens=9))
    assert answer.output_text == "Hello there"
    assert [item.type for item in answer.output] == ["reasoning", "message"]
    assert answer.output[0].summary[0].text == "hm"
    assert (answer.status, answer.model, answer.error) == ("completed", "double", None)
    assert (answer.instructions, answer.max_output_tokens) == ("Be brief.", 9)
    assert answer.store is False
    assert (answer.usage.input_tokens, answer.usage.output_tokens) == (11, 7)
    assert answer.usage.total_tokens == 18
    assert answer.usage.cost_usd == pytest.approx(0.000025)
    sent = provider.requests[0].json
    assert sent["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "hello"},
    ]
    assert sent["max_completion_tokens"] == 9
    run = Run.objects.get()
    assert answer.id == f"resp_{run.pk.hex}"
    assert (run.origin, run.status, run.session) == ("api", "done", None)


def test_it_gets_an_answer_as_a_stream(client: Any, provider: Provider):
    provider.reply(*openai_answer("Hello", " there", reasoning=["hm"]))
    events = list(client.responses.create(**asking(stream=True)))
    assert types(events) == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.reasoning_summary_part.added",
        "response.reasoning_summary_text.delta",
        "response.reasoning_summary_text.done",
        "response.reasoning_summary_part.done",
        "response.output_item.done",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.delta",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    pieces = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert "".join(pieces) == "Hello there"
    final = events[-1].response
    assert final.output_text == "Hello there"
    assert (final.status, final.usage.total_tokens) == ("completed", 18)
    assert final.output[1].id == next(
        event.item_id for event in events if event.type == "response.output_text.delta"
    )


def test_it_puts_a_stream_together(client: Any, provider: Provider):
    provider.reply(*openai_answer("Hello", " there", reasoning=["hm"]))
    with client.responses.stream(**asking()) as stream:
        final = stream.get_final_response()
    assert final.output_text == "Hello there"


def test_a_piece_arrives_as_soon_as_the_provider_has_said_it(client: Any, provider: Provider):
    go_on = threading.Event()
    provider.reply(head(), send(openai_chunk("first")), until(go_on), *openai_answer(" last")[1:])
    said = ""
    for event in client.responses.create(**asking(stream=True)):
        if event.type == "response.output_text.delta":
            said += event.delta
            if said == "first":
                go_on.set()  # what comes next was not sent when this was read
    assert said == "first last"


async def test_the_asynchronous_one_does_the_same(app: AppServer, secret: str, provider: Provider):
    provider.reply(*openai_answer("in one"))
    provider.reply(*openai_answer("as a ", "stream"))
    async with openai_package.AsyncOpenAI(
        base_url=f"{app.url}/v1", api_key=secret, max_retries=0, timeout=DEADLINE
    ) as client:
        made: Any = client.responses
        assert (await made.create(**asking())).output_text == "in one"
        stream = await made.create(**asking(stream=True))
        said = [event.delta async for event in stream if event.type.endswith("text.delta")]
    assert "".join(said) == "as a stream"


def test_any_kind_answers(client: Any, demo: Configuration):
    answer = client.responses.create(**asking("/demo echo Hello there", model="demo"))
    assert "Hello there" in answer.output_text


@pytest.mark.parametrize(
    ("reason", "status", "told"),
    [
        ("length", "incomplete", "max_output_tokens"),
        ("content_filter", "incomplete", "content_filter"),
    ],
)
def test_an_answer_that_is_not_whole_says_why(
    client: Any, provider: Provider, reason: str, status: str, told: str
):
    provider.route(*openai_answer("half an ans", finish=reason))
    answer = client.responses.create(**asking())
    assert (answer.status, answer.incomplete_details.reason) == (status, told)
    *_, item, last = client.responses.create(**asking(stream=True))
    assert (item.type, item.item.status) == ("response.output_item.done", "incomplete")
    assert last.type == "response.incomplete"
    assert last.response.output[0].status == "incomplete"
    assert last.response.output_text == "half an ans"


# ---- what is asked


def test_a_conversation_is_sent_in_its_order(client: Any, provider: Provider):
    provider.reply(*openai_answer("ok"))
    client.responses.create(
        **asking(
            [
                {"role": "developer", "content": "Be brief."},
                {"role": "user", "content": [{"type": "input_text", "text": "one"}]},
                {
                    "type": "message",
                    "id": "msg_1",
                    "status": "completed",
                    "role": "assistant",
                    "content": [{"type": "output_text", "text": "two", "annotations": []}],
                },
                {"type": "message", "role": "user", "content": "three"},
            ],
            temperature=0.5,
            top_p=0.9,
            reasoning={"effort": "low"},
        )
    )
    sent = provider.requests[0].json
    assert [(one["role"], one["content"]) for one in sent["messages"]] == [
        ("system", "Be brief."),
        ("user", "one"),
        ("assistant", "two"),
        ("user", "three"),
    ]
    assert (sent["temperature"], sent["top_p"], sent["reasoning_effort"]) == (0.5, 0.9, "low")


def two_calls() -> list[Step]:
    return [
        head(),
        *openai_tool_call("weather", '{"city":', '"Rome"}', call_id="call_a"),
        *openai_tool_call("weather", '{"city":"Oslo"}', index=1, call_id="call_b"),
        send(openai_chunk(finish="tool_calls")),
        send(OPENAI_DONE),
    ]


@pytest.mark.parametrize("streams", [False, True], ids=["in one piece", "streamed"])
def test_it_calls_tools_and_sends_their_results(client: Any, provider: Provider, streams: bool):
    provider.reply(*two_calls())
    question = {"role": "user", "content": "Weather in Rome and Oslo?"}
    call = {"model": "double", "tools": [WEATHER], "tool_choice": "auto"}
    if streams:
        with client.responses.stream(input=[question], **call) as stream:
            asked = stream.get_final_response()
    else:
        asked = client.responses.create(input=[question], **call)
    rome, oslo = asked.output
    assert (rome.type, rome.call_id, rome.name) == ("function_call", "call_a", "weather")
    assert json.loads(rome.arguments) == {"city": "Rome"}
    assert (oslo.call_id, json.loads(oslo.arguments)) == ("call_b", {"city": "Oslo"})

    provider.reply(*openai_answer("Sunny in Rome."))
    results = [
        {"type": "function_call_output", "call_id": made.call_id, "output": weather}
        for made, weather in zip(asked.output, ["sun", "snow"], strict=True)
    ]
    # The items go back as the client gave them.
    again = [item.to_dict() for item in asked.output]
    answer = client.responses.create(input=[question, *again, *results], **call)
    assert answer.output_text == "Sunny in Rome."
    first, second = provider.requests
    told = {name: WEATHER[name] for name in ("name", "description", "parameters", "strict")}
    assert first.json["tools"] == [{"type": "function", "function": told}]
    sent = second.json["messages"]
    assert [one["role"] for one in sent] == ["user", "assistant", "tool", "tool"]
    assert [made["id"] for made in sent[1]["tool_calls"]] == ["call_a", "call_b"]
    assert [one["content"] for one in sent[2:]] == ["sun", "snow"]


def test_tool_calls_that_are_written_beside_each_other_are_told_apart(
    client: Any, provider: Provider
):
    def piece(index: int, **function: str) -> Step:
        made = {"index": index, "id": f"c{index}", "type": "function", "function": function}
        return send(openai_chunk(tool_calls=[made]))

    provider.reply(
        head(),
        piece(0, name="weather", arguments='{"city":'),
        piece(1, name="weather", arguments="{}"),
        piece(0, arguments='"Rome"}'),
        send(openai_chunk(finish="tool_calls")),
        send(OPENAI_DONE),
    )
    with client.responses.stream(**asking(tools=[WEATHER])) as stream:
        final = stream.get_final_response()
    assert [item.arguments for item in final.output] == ['{"city":"Rome"}', "{}"]


def test_it_asks_for_an_answer_by_a_schema(client: Any, provider: Provider):
    schema = {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
        "additionalProperties": False,
    }
    wanted = {"type": "json_schema", "name": "city", "schema": schema, "strict": True}
    provider.reply(*openai_answer('{"city":"Rome"}'))
    client.responses.create(**asking(text={"format": wanted}))
    sent = provider.requests[0].json["response_format"]["json_schema"]
    assert sent == {"name": "city", "schema": schema, "strict": True}


def test_it_sends_images(client: Any, provider: Provider):
    file = io.BytesIO()
    Image.new("RGB", (40, 30), "red").save(file, "PNG")
    url = f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
    provider.reply(*openai_answer("red"))
    content = [
        {"type": "input_text", "text": "What colour?"},
        {"type": "input_image", "image_url": url, "detail": "low"},
    ]
    client.responses.create(**asking([{"role": "user", "content": content}]))
    (sent,) = provider.requests[0].json["messages"]
    data = sent["content"][1]["image_url"]["url"].partition("base64,")[2]
    with Image.open(io.BytesIO(base64.b64decode(data))) as image:
        assert (image.size, image.getpixel((5, 5))) == ((40, 30), (255, 0, 0))


@pytest.mark.parametrize(
    ("headers", "fields"),
    [({"X-LLMChat-Save": "true"}, {}), ({}, {"metadata": {"llmchat_save": "true"}})],
    ids=["by a header", "by metadata"],
)
def test_a_call_can_be_kept_as_a_session(
    http: httpx.Client, provider: Provider, headers: dict[str, str], fields: dict[str, Any]
):
    provider.reply(*openai_answer("three"))
    answer = http.post(PATH, json=asking("What comes after two?", **fields), headers=headers)
    assert answer.status_code == 200
    assert answer.json()["store"] is False  # for calls, it is not
    assert ChatSession.objects.get().title == "What comes after two?"


# ---- errors


@pytest.mark.contract("A20")
@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"model": None}, "model"),
        ({"input": None}, "input"),
        ({"input": []}, "input"),
        ({"input": "a\0b"}, "input"),
        ({"input": [{"role": "king", "content": "x"}]}, "input[0].role"),
        ({"input": [{"role": "user"}]}, "input[0].content"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_file"}]}]},
            "input[0].content[0].type",
        ),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input[0].type"),
        (
            {"input": [{"type": "function_call_output", "call_id": "c", "output": "x"}]},
            "input[0].call_id",
        ),
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"background": True}, "background"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"temperature": "hot"}, "temperature"),
        ({"text": {"format": {"type": "xml"}}}, "text.format.type"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        (
            {"tools": [WEATHER], "tool_choice": {"type": "function", "name": "x"}},
            "tool_choice",
        ),
        ({"metadata": []}, "metadata"),
    ],
)
def test_a_value_that_cannot_be_used_is_refused_by_its_name(
    http: httpx.Client, provider: Provider, fields: dict[str, Any], param: str
):
    answer = http.post(PATH, json={**asking(), **fields})
    assert problem(answer, 400)["param"] == param
    assert not Run.objects.exists()
    assert provider.requests == []


@pytest.mark.contract("A12")
def test_a_token_that_is_none_is_refused(app: AppServer, transactional_db: None):
    answer = httpx.post(f"{app.url}{PATH}", json=asking(), headers={"Authorization": "Bearer x"})
    assert problem(answer, 401)["code"] == "invalid_api_key"


@pytest.mark.parametrize("streams", [False, True], ids=["in one piece", "streamed"])
def test_it_raises_its_own_exception_for_what_the_provider_says(
    client: Any, provider: Provider, settings: Any, streams: bool
):
    settings.MAX_ATTEMPTS = 1
    told = {"error": {"message": "Too fast", "type": "x", "code": None}}
    provider.reply(*json_answer(told, 429, {"Retry-After": "7"}))
    with pytest.raises(openai_package.RateLimitError) as caught:
        client.responses.create(**asking(stream=streams))
    assert caught.value.code == "RATE_LIMIT_EXCEEDED"
    assert caught.value.response.headers["Retry-After"] == "7"


def test_it_raises_in_the_middle_of_a_stream_that_breaks(client: Any, provider: Provider):
    provider.reply(head(), send(openai_chunk("half an ans")), send(b"data: {oops\n\n"))
    events: list[Any] = []
    with pytest.raises(openai_package.APIError) as caught:
        events.extend(client.responses.create(**asking(stream=True)))
    assert caught.value.code == "PROVIDER_ERROR"
    assert events[-1].type == "response.failed"
    failed = events[-1].response
    assert (failed.status, failed.error.code) == ("failed", "PROVIDER_ERROR")
    assert failed.output_text == "half an ans"


# ---- the run


@pytest.mark.contract("A3")
@pytest.mark.contract("F8")
def test_a_client_that_leaves_ends_the_answer_at_the_provider(client: Any, provider: Provider):
    provider.reply(head(), send(openai_chunk("some words")), hang())
    with client.responses.create(**asking(stream=True)) as stream:
        next(event for event in stream if event.type == "response.output_text.delta")
    left_at = monotonic()
    assert provider.wait_for_close() - left_at < 2
    wait_for_ends()
    usage = UsageLog.objects.get()
    assert (usage.status, usage.origin) == ("stopped", "api")
    assert usage.completion_tokens


def test_a_run_can_be_followed_from_any_event(http: httpx.Client, provider: Provider):
    provider.reply(*openai_answer("one ", "two"))
    answer = http.post(PATH, json=asking(stream=True))
    ids = [line[4:] for line in answer.text.split("\n") if line.startswith("id: ")]
    rest = http.get(answer.headers["X-LLMChat-Events"], headers={"Last-Event-ID": ids[0]})
    assert '"content":"one ' not in rest.text
    assert '"full_response":"one two"' in rest.text
