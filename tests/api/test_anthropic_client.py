"""Anthropic's own Python client, unchanged, against the real server: any kind answers it (A1)."""

import base64
import io
import json
import threading
from collections.abc import Iterator
from time import monotonic
from typing import Any

import anthropic as anthropic_package
import httpx
import pytest
from PIL import Image

from conversations.models import ApiToken, Budget, ChatSession, Run, UsageLog
from providers.models import Configuration
from tests.api.conftest import DEADLINE
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
    sse,
    until,
)

pytestmark = [pytest.mark.contract("A1"), pytest.mark.usefixtures("openai", "claude")]

PATH = "/v1/messages"
WEATHER = {
    "name": "weather",
    "description": "The weather in a city.",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}},
}
KINDS = ["double", "claude"]


@pytest.fixture
def claude(transactional_db: None, provider: Provider) -> Configuration:
    """The provider double as one of Anthropic's shape."""
    return Configuration.objects.create(
        name="Claude",
        slug="claude",
        kind="anthropic",
        model="claude-haiku-4-5",
        base_url=provider.url,
        input_price="1",
        output_price="2",
    )


@pytest.fixture
def anthropic(app: AppServer, secret: str) -> Iterator[Any]:
    """Their client, which repeats nothing by itself."""
    with anthropic_package.Anthropic(
        base_url=app.url, api_key=secret, max_retries=0, timeout=DEADLINE
    ) as made:
        yield made


def asking(text: Any = "hello", model: str = "double", **fields: Any) -> dict[str, Any]:
    """The body of a call."""
    return {
        "model": model,
        "max_tokens": 50,
        "messages": [{"role": "user", "content": text}],
        **fields,
    }


def problem_of(caught: Any) -> dict[str, Any]:
    """The error object that was raised for."""
    error: dict[str, Any] = caught.value.body["error"]
    return error


def block(index: int, start: dict[str, Any], *deltas: dict[str, Any]) -> list[Step]:
    begin = {"type": "content_block_start", "index": index, "content_block": start}
    return [
        send(sse(begin, "content_block_start")),
        *(
            send(sse({"type": "content_block_delta", "index": index, "delta": delta}))
            for delta in deltas
        ),
        send(sse({"type": "content_block_stop", "index": index})),
    ]


def claude_answer(*blocks: list[Step], reason: str = "end_turn", cached: int = 0) -> list[Step]:
    """A whole answer of the Messages API with these blocks."""
    usage = {"input_tokens": 11 - cached, "cache_read_input_tokens": cached, "output_tokens": 1}
    start = {"type": "message_start", "message": {"id": "msg_1", "usage": usage}}
    end = {
        "type": "message_delta",
        "delta": {"stop_reason": reason},
        "usage": {"output_tokens": 7},
    }
    return [
        head(),
        send(sse(start)),
        *(step for steps in blocks for step in steps),
        send(sse(end)),
        send(sse({"type": "message_stop"})),
    ]


def said(*pieces: str, index: int = 0) -> list[Step]:
    deltas = [{"type": "text_delta", "text": piece} for piece in pieces]
    return block(index, {"type": "text", "text": ""}, *deltas)


def thought(text: str) -> list[Step]:
    delta = {"type": "thinking_delta", "thinking": text}
    return block(0, {"type": "thinking", "thinking": "", "signature": ""}, delta)


def answer_of(kind: str, *pieces: str) -> list[Step]:
    """The same answer from either kind of provider."""
    return openai_answer(*pieces) if kind == "double" else claude_answer(said(*pieces))


# ---- answers


@pytest.mark.parametrize("model", KINDS)
def test_it_gets_an_answer_in_one_piece(anthropic: Any, provider: Provider, model: str):
    provider.reply(*answer_of(model, "Hello", " there"))
    answer = anthropic.messages.create(**asking(model=model, system="Be brief."))
    (only,) = answer.content
    assert (only.type, only.text) == ("text", "Hello there")
    assert (answer.type, answer.role, answer.model) == ("message", "assistant", model)
    assert (answer.stop_reason, answer.stop_sequence) == ("end_turn", None)
    assert (answer.usage.input_tokens, answer.usage.output_tokens) == (11, 7)
    assert answer.usage.cost_usd == pytest.approx(0.000025)
    run = Run.objects.get()
    assert answer.id == f"msg_{run.pk.hex}"
    assert answer._request_id == str(run.pk)
    assert (run.origin, run.status, run.session) == ("api", "done", None)
    assert UsageLog.objects.get().origin == "api"


@pytest.mark.parametrize("model", KINDS)
def test_it_gets_an_answer_as_a_stream(anthropic: Any, provider: Provider, model: str):
    provider.reply(*answer_of(model, "Hello", " there"))
    events = list(anthropic.messages.create(**asking(model=model, stream=True)))
    types = [event.type for event in events]
    pieces = types.count("content_block_delta")  # those that come at once are told as one
    assert types == [
        "message_start",
        "content_block_start",
        *["content_block_delta"] * pieces,
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    assert events[0].message.usage.input_tokens > 0  # an estimate
    assert "".join(event.delta.text for event in events[2 : 2 + pieces]) == "Hello there"
    end = events[-2]
    assert end.delta.stop_reason == "end_turn"
    assert (end.usage.input_tokens, end.usage.output_tokens) == (11, 7)

    provider.reply(*answer_of(model, "Hello", " there"))
    with anthropic.messages.stream(**asking(model=model)) as stream:
        assert "".join(stream.text_stream) == "Hello there"
        final = stream.get_final_message()
    assert [one.text for one in final.content] == ["Hello there"]
    assert (final.stop_reason, final.usage.output_tokens) == ("end_turn", 7)


def test_a_piece_arrives_as_soon_as_the_provider_has_said_it(anthropic: Any, provider: Provider):
    go_on = threading.Event()
    provider.reply(head(), send(openai_chunk("first")), until(go_on), *openai_answer(" last")[1:])
    read = ""
    with anthropic.messages.stream(**asking()) as stream:
        for text in stream.text_stream:
            read += text
            if text == "first":
                go_on.set()  # what comes next was not sent when this was read
    assert read == "first last"


async def test_the_asynchronous_one_does_the_same(app: AppServer, secret: str, provider: Provider):
    provider.reply(*openai_answer("in one"))
    provider.reply(*claude_answer(said("as a ", "stream")))
    async with anthropic_package.AsyncAnthropic(
        base_url=app.url, api_key=secret, max_retries=0, timeout=DEADLINE
    ) as client:
        made: Any = client.messages
        answer = await made.create(**asking())
        assert answer.content[0].text == "in one"
        async with made.stream(**asking(model="claude")) as stream:
            assert "".join([text async for text in stream.text_stream]) == "as a stream"


def test_thinking_is_told_to_those_who_asked_for_it(anthropic: Any, provider: Provider):
    wanted = {"type": "enabled", "budget_tokens": 1024}
    script = claude_answer(thought("hm"), said("yes", index=1))
    provider.reply(*script)
    call = asking(model="claude", max_tokens=2000)
    answer = anthropic.messages.create(**call, thinking=wanted)
    assert [one.type for one in answer.content] == ["thinking", "text"]
    assert answer.content[0].thinking == "hm"
    assert provider.requests[-1].json["thinking"] == wanted

    provider.reply(*script)
    with anthropic.messages.stream(**call, thinking=wanted) as stream:
        kinds = [event.type for event in stream if event.type.startswith("content_block_st")]
        final = stream.get_final_message()
    assert kinds == ["content_block_start", "content_block_stop"] * 2
    assert [one.type for one in final.content] == ["thinking", "text"]

    # Who did not ask may take the first block for the answer.
    for streams in (False, True):
        provider.reply(*script)
        if streams:
            with anthropic.messages.stream(**call) as stream:
                answer = stream.get_final_message()
        else:
            answer = anthropic.messages.create(**call)
        assert [one.text for one in answer.content] == ["yes"]
        assert "thinking" not in provider.requests[-1].json


@pytest.mark.parametrize(
    ("model", "sent"), [("claude-haiku-4-5", None), ("claude-opus-5", {"type": "adaptive"})]
)
def test_an_answer_to_results_is_not_asked_for_with_thinking_that_would_be_refused(
    anthropic: Any, provider: Provider, claude: Configuration, model: str, sent: Any
):
    Configuration.objects.filter(pk=claude.pk).update(model=model)
    provider.reply(*claude_answer(said("sun")))
    made = {"type": "tool_use", "id": "c1", "name": "weather", "input": {}}
    anthropic.messages.create(
        model="claude",
        max_tokens=2000,
        thinking={"type": "enabled", "budget_tokens": 1024},
        tools=[WEATHER],
        messages=[
            {"role": "user", "content": "Weather?"},
            {
                "role": "assistant",
                "content": [{"type": "thinking", "thinking": "hm", "signature": ""}, made],
            },
            {
                "role": "user",
                "content": [
                    {"type": "tool_result", "tool_use_id": "c1"},
                    {"type": "text", "text": "And tomorrow?"},
                ],
            },
        ],
    )
    # Older models want the thinking before a call back as they signed it, and it is not kept.
    assert provider.requests[0].json.get("thinking") == sent


def test_a_kind_that_takes_no_number_is_told_how_much_to_think_in_its_own_way(
    anthropic: Any, provider: Provider
):
    provider.route(*openai_answer("yes", reasoning=["hm"]))
    call = asking(max_tokens=30_000)
    answer = anthropic.messages.create(**call, thinking={"type": "enabled", "budget_tokens": 2048})
    assert [one.type for one in answer.content] == ["thinking", "text"]
    anthropic.messages.create(**call, thinking={"type": "adaptive"})
    anthropic.messages.create(**call, output_config={"effort": "medium"})
    anthropic.messages.create(**call, thinking={"type": "disabled"})
    efforts = [request.json["reasoning_effort"] for request in provider.requests]
    assert efforts == ["low", "high", "medium", "none"]


def test_parameters_reach_the_provider_as_they_were_given(anthropic: Any, provider: Provider):
    provider.reply(*claude_answer(said("ok")))
    anthropic.messages.create(
        **asking(model="claude", stop_sequences=["END"], max_tokens=9),
        system=[{"type": "text", "text": "One."}, {"type": "text", "text": "Two."}],
        extra_body={"temperature": 0.3},  # newer clients have no argument for it
    )
    sent = provider.requests[0].json
    assert (sent["temperature"], sent["stop_sequences"], sent["max_tokens"]) == (0.3, ["END"], 9)
    assert sent["system"] == "One.\n\nTwo."
    assert sent["messages"] == [{"role": "user", "content": "hello"}]

    provider.reply(*openai_answer("ok"))
    anthropic.messages.create(
        **asking(stop_sequences=["END"]), system="One.", extra_body={"top_p": 0.5}
    )
    sent = provider.requests[1].json
    assert (sent["top_p"], sent["stop"], sent["max_completion_tokens"]) == (0.5, ["END"], 50)
    assert [one["role"] for one in sent["messages"]] == ["system", "user"]


@pytest.mark.parametrize(
    ("reason", "told", "sequence"),
    [
        ("max_tokens", "max_tokens", None),
        ("stop_sequence", "stop_sequence", "END"),
        ("refusal", "refusal", None),
        ("model_context_window_exceeded", "model_context_window_exceeded", None),
    ],
)
def test_why_an_answer_ended_is_told_in_their_words(
    anthropic: Any, provider: Provider, reason: str, told: str, sequence: str | None
):
    provider.route(*claude_answer(said("so"), reason=reason))
    call = asking(model="claude", stop_sequences=["END"])
    answer = anthropic.messages.create(**call)
    assert (answer.stop_reason, answer.stop_sequence) == (told, sequence)
    with anthropic.messages.stream(**call) as stream:
        final = stream.get_final_message()
    assert (final.stop_reason, final.stop_sequence) == (told, sequence)


def test_the_input_is_told_without_what_came_from_the_cache(anthropic: Any, provider: Provider):
    provider.reply(*claude_answer(said("ok"), cached=5))
    usage = anthropic.messages.create(**asking(model="claude")).usage
    assert (usage.input_tokens, usage.cache_read_input_tokens) == (6, 5)


# ---- tools


def two_calls(kind: str) -> list[Step]:
    """An answer with text and two tool calls."""
    if kind == "double":
        return [
            head(),
            send(openai_chunk("Let me see.")),
            *openai_tool_call("weather", '{"city":', '"Rome"}', call_id="call_a"),
            *openai_tool_call("weather", '{"city":"Oslo"}', index=1, call_id="call_b"),
            send(openai_chunk(finish="tool_calls")),
            send(OPENAI_DONE),
        ]
    calls = [("call_a", ['{"city":', '"Rome"}']), ("call_b", ['{"city":"Oslo"}'])]
    return claude_answer(
        said("Let me see."),
        *(
            block(
                number,
                {"type": "tool_use", "id": id_, "name": "weather", "input": {}},
                *({"type": "input_json_delta", "partial_json": piece} for piece in pieces),
            )
            for number, (id_, pieces) in enumerate(calls, 1)
        ),
        reason="tool_use",
    )


@pytest.mark.parametrize("streams", [False, True], ids=["in one piece", "streamed"])
@pytest.mark.parametrize("model", KINDS)
def test_it_calls_tools_and_sends_their_results(
    anthropic: Any, provider: Provider, model: str, streams: bool
):
    provider.reply(*two_calls(model))
    question = {"role": "user", "content": "Weather in Rome and Oslo?"}
    call = {"model": model, "max_tokens": 50, "tools": [WEATHER]}
    if streams:
        with anthropic.messages.stream(messages=[question], **call) as stream:
            asked = stream.get_final_message()
    else:
        asked = anthropic.messages.create(messages=[question], **call)
    assert asked.stop_reason == "tool_use"
    assert [one.type for one in asked.content] == ["text", "tool_use", "tool_use"]
    assert asked.content[0].text == "Let me see."
    rome, oslo = asked.content[1:]
    assert (rome.id, rome.name, rome.input) == ("call_a", "weather", {"city": "Rome"})
    assert (oslo.id, oslo.input) == ("call_b", {"city": "Oslo"})

    provider.reply(*answer_of(model, "Sunny in Rome."))
    results = [
        {"type": "tool_result", "tool_use_id": "call_a", "content": "sun"},
        {
            "type": "tool_result",
            "tool_use_id": "call_b",
            "content": [{"type": "text", "text": "no data"}],
            "is_error": True,
        },
        {"type": "text", "text": "And now?"},
    ]
    # The blocks go back as the client gave them.
    answer = anthropic.messages.create(
        messages=[
            question,
            {"role": "assistant", "content": asked.content},
            {"role": "user", "content": results},
        ],
        **call,
    )
    assert answer.content[0].text == "Sunny in Rome."
    sent = provider.requests[1].json
    if model == "double":
        assert sent["tools"][0]["function"]["parameters"] == WEATHER["input_schema"]
        assert [one["role"] for one in sent["messages"]] == [
            "user",
            "assistant",
            "tool",
            "tool",
            "user",
        ]
        made = sent["messages"][1]["tool_calls"]
        assert json.loads(made[0]["function"]["arguments"]) == {"city": "Rome"}
        assert sent["messages"][3]["content"] == "Error: no data"
    else:
        assert sent["tools"] == [WEATHER]
        assert [one["role"] for one in sent["messages"]] == ["user", "assistant", "user"]
        assert sent["messages"][1]["content"][1]["input"] == {"city": "Rome"}
        assert [one["type"] for one in sent["messages"][2]["content"]] == [
            "tool_result",
            "tool_result",
            "text",
        ]


@pytest.mark.parametrize(
    ("choice", "sent"),
    [
        ({"type": "auto"}, "auto"),
        ({"type": "any"}, "required"),
        ({"type": "none"}, "none"),
        (
            {"type": "tool", "name": "weather"},
            {"type": "function", "function": {"name": "weather"}},
        ),
    ],
)
def test_it_says_which_tool_to_use(anthropic: Any, provider: Provider, choice: Any, sent: Any):
    provider.reply(*openai_answer("ok"))
    choice = {**choice, "disable_parallel_tool_use": True}
    anthropic.messages.create(**asking(tools=[WEATHER], tool_choice=choice))
    body = provider.requests[0].json
    assert body["tool_choice"] == sent
    assert body["parallel_tool_calls"] is False


def test_a_tool_call_that_is_written_beside_another_is_no_silent_loss(
    anthropic: Any, provider: Provider
):
    def piece(index: int, **function: str) -> Step:
        made = {"index": index, "id": f"c{index}", "type": "function", "function": function}
        return send(openai_chunk(tool_calls=[made]))

    script = [
        head(),
        piece(0, name="f", arguments='{"a":'),
        piece(1, name="g", arguments="{}"),
        piece(0, arguments="1}"),
        send(openai_chunk(finish="tool_calls")),
        send(OPENAI_DONE),
    ]
    provider.route(*script)
    with (
        pytest.raises(anthropic_package.APIStatusError, match="at the same time"),
        anthropic.messages.stream(**asking(tools=[WEATHER])) as stream,
    ):
        stream.get_final_message()
    answer = anthropic.messages.create(**asking(tools=[WEATHER]))
    assert [one.input for one in answer.content] == [{"a": 1}, {}]


def test_it_asks_for_an_answer_by_a_schema(anthropic: Any, provider: Provider):
    schema = {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
        "additionalProperties": False,
    }
    wanted = {"format": {"type": "json_schema", "schema": schema}}
    provider.reply(*openai_answer('{"city":"Rome"}'))
    anthropic.messages.create(**asking(output_config=wanted))
    sent = provider.requests[0].json["response_format"]["json_schema"]
    assert sent["schema"] == schema
    provider.reply(*claude_answer(said('{"city":"Rome"}')))
    anthropic.messages.create(**asking(model="claude", output_config=wanted))
    assert provider.requests[1].json["output_config"] == wanted


# ---- images


def picture() -> dict[str, Any]:
    file = io.BytesIO()
    Image.new("RGB", (40, 30), "red").save(file, "PNG")
    data = base64.b64encode(file.getvalue()).decode()
    return {
        "type": "image",
        "source": {"type": "base64", "media_type": "image/png", "data": data},
    }


@pytest.mark.parametrize("model", KINDS)
def test_it_sends_images(anthropic: Any, provider: Provider, model: str):
    provider.reply(*answer_of(model, "red"))
    content = [picture(), {"type": "text", "text": "What colour?"}]
    anthropic.messages.create(**asking(content, model=model))
    (sent,) = provider.requests[0].json["messages"]
    if model == "double":
        data = sent["content"][1]["image_url"]["url"].partition("base64,")[2]
    else:
        data = sent["content"][0]["source"]["data"]
    with Image.open(io.BytesIO(base64.b64decode(data))) as image:
        assert (image.size, image.getpixel((5, 5))) == ((40, 30), (255, 0, 0))


def test_the_image_that_a_tool_gave_is_seen_and_its_call_is_kept(
    anthropic: Any, provider: Provider
):
    provider.reply(*openai_answer("red"))
    made = {"type": "tool_use", "id": "c1", "name": "look", "input": {"at": "it"}}
    result = {"type": "tool_result", "tool_use_id": "c1", "content": [picture()]}
    anthropic.messages.create(
        model="double",
        max_tokens=50,
        messages=[
            {"role": "user", "content": "Look."},
            {"role": "assistant", "content": [made]},
            {"role": "user", "content": [result]},
        ],
    )
    _, answer, told, seen = provider.requests[0].json["messages"]
    assert json.loads(answer["tool_calls"][0]["function"]["arguments"]) == {"at": "it"}
    assert (told["role"], told["tool_call_id"]) == ("tool", "c1")
    assert (seen["role"], seen["content"][-1]["type"]) == ("user", "image_url")


# ---- models and counts


def test_it_lists_the_models_that_may_be_used(anthropic: Any, demo: Configuration):
    page = anthropic.models.list()
    assert [model.id for model in page] == ["claude", "demo", "double"]
    assert (page.first_id, page.last_id, page.has_more) == ("claude", "double", False)
    found = anthropic.models.retrieve("double")
    assert (found.type, found.id, found.display_name) == ("model", "double", "Double")
    assert found.created_at.tzinfo
    with pytest.raises(anthropic_package.NotFoundError):
        anthropic.models.retrieve("nothing")


def test_it_counts_tokens_without_a_run(anthropic: Any, provider: Provider):
    call = {"model": "double", "messages": [{"role": "user", "content": "word " * 100}]}
    alone = anthropic.messages.count_tokens(**call).input_tokens
    assert 100 <= alone <= 150
    assert anthropic.messages.count_tokens(**call, system="Be brief.").input_tokens > alone
    assert anthropic.messages.count_tokens(**call, tools=[WEATHER]).input_tokens > alone
    assert not Run.objects.exists()
    assert provider.requests == []


# ---- who calls


@pytest.mark.contract("A12")
def test_the_token_comes_in_either_header(app: AppServer, secret: str, provider: Provider):
    provider.route(*openai_answer("ok"))
    version = {"anthropic-version": "2023-06-01"}
    for headers in ({"x-api-key": secret}, {"Authorization": f"Bearer {secret}"}):
        answer = httpx.post(f"{app.url}{PATH}", json=asking(), headers={**headers, **version})
        assert answer.status_code == 200, answer.text
        models = httpx.get(f"{app.url}/v1/models", headers={**headers, **version})
        assert models.status_code == 200
    assert ApiToken.objects.get().last_used_at is not None


@pytest.mark.contract("A12")
@pytest.mark.parametrize("key", ["", "llmchat-", "' OR 1=1 --", "a" * 50_000])
def test_a_token_that_is_none_is_refused(app: AppServer, secret: str, key: str):
    for path in (PATH, f"{PATH}/count_tokens"):
        answer = httpx.post(f"{app.url}{path}", json=asking(), headers={"x-api-key": key})
        assert answer.status_code == 401
        told = answer.json()
        assert told["type"] == "error"
        assert told["error"]["type"] == "authentication_error"
        assert told["error"]["code"] == "invalid_api_key"
    asked = httpx.post(f"{app.url}{PATH}?x-api-key={secret}", json=asking(api_key=secret))
    assert asked.status_code == 401
    assert httpx.get(f"{app.url}/v1/models", headers={"x-api-key": key}).status_code == 401
    assert not Run.objects.exists()


@pytest.mark.contract("A12")
def test_it_raises_for_a_token_that_is_none(app: AppServer, transactional_db: None):
    with (
        anthropic_package.Anthropic(base_url=app.url, api_key="sk-ant-wrong") as client,
        pytest.raises(anthropic_package.AuthenticationError) as caught,
    ):
        client.messages.create(**asking())
    assert problem_of(caught)["code"] == "invalid_api_key"


# ---- errors


@pytest.mark.parametrize(
    ("fields", "place"),
    [
        ({"max_tokens": None}, "max_tokens"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"model": None}, "model"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": []}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": "a\0b"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": ["x"]}]}, "messages[0].content[0]"),
        (
            {"messages": [{"role": "user", "content": [{"type": "document"}]}]},
            "messages[0].content[0].type",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "text"}]}]},
            "messages[0].content[0].text",
        ),
        (
            {
                "messages": [
                    {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c"}]}
                ]
            },
            "messages[0].content[0].tool_use_id",
        ),
        (
            {
                "messages": [
                    {
                        "role": "user",
                        "content": [
                            {
                                "type": "image",
                                "source": {"type": "url", "url": "http://127.0.0.1:9/x.png"},
                            }
                        ],
                    }
                ]
            },
            "messages[0].content[0].source",
        ),
        ({"system": [{"type": "image"}]}, "system[0].type"),
        ({"temperature": "hot"}, "temperature"),
        ({"stop_sequences": "END"}, "stop_sequences"),
        ({"thinking": {"type": "enabled"}}, "thinking.budget_tokens"),
        ({"thinking": {"type": "enabled", "budget_tokens": 2048}}, "thinking.budget_tokens"),
        ({"thinking": {"type": "deep"}}, "thinking.type"),
        ({"tools": [{"type": "web_search_20250305", "name": "w"}]}, "tools[0].type"),
        ({"tools": [{"name": "f"}]}, "tools[0].input_schema"),
        ({"tool_choice": {"type": "any"}}, "tool_choice"),
        ({"tools": [WEATHER], "tool_choice": {"type": "tool", "name": "x"}}, "tool_choice.name"),
        ({"output_config": {"format": {"type": "xml"}}}, "output_config.format.type"),
        ({"mcp_servers": [{"url": "http://127.0.0.1:9"}]}, "mcp_servers"),
    ],
)
@pytest.mark.contract("A20")
def test_a_value_that_cannot_be_used_is_refused_by_its_name(
    http: httpx.Client, provider: Provider, fields: dict[str, Any], place: str
):
    answer = http.post(PATH, json=asking(**fields))
    assert answer.status_code == 400
    told = answer.json()
    assert told["type"] == "error"
    assert told["error"]["type"] == "invalid_request_error"
    assert told["error"]["message"].startswith(f"{place}: ")
    assert answer.headers["x-should-retry"] == "false"
    assert not Run.objects.exists()
    assert provider.requests == []


@pytest.mark.contract("A20")
@pytest.mark.parametrize("body", ["", "{", "[]", "[" * 50_000])
def test_a_body_that_cannot_be_read_is_refused(http: httpx.Client, body: str):
    answer = http.post(PATH, content=body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "UNREADABLE")


@pytest.mark.contract("A17")
def test_what_is_not_used_is_named(http: httpx.Client, provider: Provider):
    provider.reply(*openai_answer("ok"))
    answer = http.post(PATH, json=asking(top_k=5, base_url="http://127.0.0.1:9"))
    assert answer.headers["X-LLMChat-Ignored"] == "base_url, top_k"


@pytest.mark.contract("A11")
def test_a_configuration_that_may_not_be_used_is_as_if_there_were_none(
    anthropic: Any, openai: Configuration
):
    Configuration.objects.filter(pk=openai.pk).update(is_active=False)
    for model in ("double", "none"):
        with pytest.raises(anthropic_package.NotFoundError) as caught:
            anthropic.messages.create(**asking(model=model))
        assert problem_of(caught)["code"] == "model_not_found"
        assert caught.value.type == "not_found_error"


@pytest.mark.parametrize(
    ("status", "error", "raised", "kind", "code"),
    [
        (401, "Incorrect key", "InternalServerError", "api_error", "API_KEY_INVALID"),
        (404, "No such model", "InternalServerError", "api_error", "MODEL_NOT_FOUND"),
        (400, "it is wrong", "BadRequestError", "invalid_request_error", "INVALID_REQUEST"),
        (429, "Too fast", "RateLimitError", "rate_limit_error", "RATE_LIMIT_EXCEEDED"),
        (503, "Busy", "ServiceUnavailableError", "overloaded_error", "PROVIDER_OVERLOADED"),
    ],
)
@pytest.mark.parametrize("streams", [False, True], ids=["in one piece", "streamed"])
def test_it_raises_its_own_exception_for_what_the_provider_says(
    anthropic: Any,
    provider: Provider,
    settings: Any,
    status: int,
    error: str,
    raised: str,
    kind: str,
    code: str,
    streams: bool,
):
    settings.MAX_ATTEMPTS = 1
    told = {"error": {"message": error, "type": "x", "code": None}}
    provider.reply(*json_answer(told, status, {"Retry-After": "7"}))
    with pytest.raises(getattr(anthropic_package, raised)) as caught:
        anthropic.messages.create(**asking(stream=streams))
    assert caught.value.type == kind
    assert problem_of(caught)["code"] == code
    assert "Double" in problem_of(caught)["message"]
    assert caught.value.request_id == str(Run.objects.get().pk)
    if status == 429:
        assert caught.value.response.headers["Retry-After"] == "7"


def test_a_provider_that_says_nothing_is_a_timeout_that_is_not_asked_again(
    app: AppServer, secret: str, provider: Provider
):
    Configuration.objects.update(first_chunk_timeout=0.2)
    provider.reply(head(), hang())
    with (
        anthropic_package.Anthropic(base_url=app.url, api_key=secret, max_retries=2) as client,
        pytest.raises(anthropic_package.GatewayTimeoutError) as caught,
    ):
        client.messages.create(**asking())
    assert caught.value.type == "timeout_error"
    assert len(provider.requests) == 1


def test_it_raises_in_the_middle_of_a_stream_that_breaks(anthropic: Any, provider: Provider):
    provider.reply(head(), send(openai_chunk("half an ans")), send(b"data: {oops\n\n"))
    read: list[str] = []
    with (
        pytest.raises(anthropic_package.APIStatusError) as caught,
        anthropic.messages.stream(**asking()) as stream,
    ):
        read.extend(stream.text_stream)
    assert "".join(read) == "half an ans"
    assert caught.value.type == "api_error"
    assert problem_of(caught)["code"] == "PROVIDER_ERROR"


def test_a_budget_that_is_used_up_is_no_reason_to_try_again(
    http: httpx.Client, token: ApiToken, provider: Provider
):
    Budget.objects.create(token=token, limit_tokens=1)
    answer = http.post(PATH, json=asking())
    assert answer.status_code == 429
    error = answer.json()["error"]
    assert (error["type"], error["code"]) == ("rate_limit_error", "BUDGET_EXCEEDED")
    assert answer.headers["x-should-retry"] == "false"


def test_another_method_is_refused_in_the_same_shape(http: httpx.Client):
    answer = http.get(PATH)
    assert (answer.status_code, answer.headers["Allow"]) == (405, "POST")
    assert answer.json()["type"] == "error"


# ---- the run


@pytest.mark.contract("A3")
@pytest.mark.contract("F8")
def test_a_client_that_leaves_ends_the_answer_at_the_provider(anthropic: Any, provider: Provider):
    provider.reply(head(), send(openai_chunk("some words")), hang())
    with anthropic.messages.stream(**asking()) as stream:
        assert next(iter(stream.text_stream)) == "some words"
    left_at = monotonic()
    assert provider.wait_for_close() - left_at < 2
    wait_for_ends()
    usage = UsageLog.objects.get()
    assert (usage.status, usage.origin) == ("stopped", "api")
    assert usage.completion_tokens


@pytest.mark.contract("A3")
def test_a_call_in_one_piece_that_is_given_up_ends_at_the_provider(
    http: httpx.Client, provider: Provider
):
    provider.reply(head(), hang())
    with pytest.raises(httpx.ReadTimeout):
        http.post(PATH, json=asking(), timeout=httpx.Timeout(10, read=0.3))
    http.close()
    left_at = monotonic()
    assert provider.wait_for_close() - left_at < 2
    wait_for_ends()
    assert UsageLog.objects.get().status == "stopped"


def test_an_answer_that_a_person_has_stopped_ends_as_one_that_is_cut(
    anthropic: Any, ada_at_the_page: Any, provider: Provider
):
    provider.reply(head(), send(openai_chunk("so far")), hang())
    with anthropic.messages.stream(**asking()) as stream:
        for text in stream.text_stream:
            assert text == "so far"
            ada_at_the_page.post(f"/runs/{Run.objects.get().pk}/stop/")
        final = stream.get_final_message()
    assert (final.content[0].text, final.stop_reason) == ("so far", "max_tokens")
    assert final.usage.output_tokens


def test_a_call_is_on_the_monitor_like_any_other_and_can_be_followed_from_any_event(
    http: httpx.Client, provider: Provider, ada_at_the_page: Any
):
    provider.reply(*openai_answer("one ", "two"))
    answer = http.post(PATH, json=asking("look at me", stream=True))
    page = ada_at_the_page.http.get(answer.headers["X-LLMChat-Inspector"])
    assert "look at me" in page.text
    ids = [line[4:] for line in answer.text.split("\n") if line.startswith("id: ")]
    rest = http.get(answer.headers["X-LLMChat-Events"], headers={"Last-Event-ID": ids[0]})
    assert '"content":"one ' not in rest.text
    assert '"full_response":"one two"' in rest.text


def test_a_call_can_be_kept_as_a_session(http: httpx.Client, provider: Provider):
    provider.reply(*openai_answer("three"))
    headers = {"X-LLMChat-Save": "true"}
    answer = http.post(PATH, json=asking("What comes after two?"), headers=headers)
    assert answer.status_code == 200
    assert ChatSession.objects.get().title == "What comes after two?"
