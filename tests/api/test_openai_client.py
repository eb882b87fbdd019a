"""OpenAI's own Python client, unchanged, against the real server (contract A1)."""

import base64
import io
import json
import threading
from typing import Any

import openai as openai_package
import pytest
from django.contrib.auth.models import User
from PIL import Image

from conversations.models import Run, UsageLog
from providers.models import Configuration
from tests.api.conftest import DEADLINE, call
from tests.servers.app import AppServer
from tests.servers.provider import (
    OPENAI_DONE,
    Provider,
    hang,
    head,
    json_answer,
    openai_answer,
    openai_chunk,
    openai_tool_call,
    openai_usage,
    send,
    until,
)

pytestmark = [pytest.mark.contract("A1"), pytest.mark.usefixtures("openai")]

WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather in a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}


def tool_answer() -> list[Any]:
    return [
        head(),
        *openai_tool_call("weather", '{"city":', '"Rome"}', call_id="call_a"),
        *openai_tool_call("weather", '{"city":"Oslo"}', index=1, call_id="call_b"),
        send(openai_chunk(finish="tool_calls")),
        send(openai_usage(20, 9)),
        send(OPENAI_DONE),
    ]


def test_it_gets_an_answer_in_one_piece(client: Any, provider: Provider, user: User):
    provider.reply(*openai_answer("Hello", " there", reasoning=["hm"], usage=(11, 7)))
    answer = client.chat.completions.create(**call())
    (choice,) = answer.choices
    assert choice.message.content == "Hello there"
    assert choice.message.reasoning_content == "hm"
    assert choice.finish_reason == "stop"
    assert answer.model == "double"
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (11, 7)
    assert answer.usage.total_tokens == 18
    assert answer.usage.cost_usd == pytest.approx(0.000025)
    run = Run.objects.get()
    assert (run.origin, run.user, run.status, run.session) == ("api", user, "done", None)
    assert UsageLog.objects.get().origin == "api"


def test_it_gets_an_answer_as_a_stream(client: Any, provider: Provider):
    provider.reply(*openai_answer("Hello", " there", reasoning=["hm"]))
    stream = client.chat.completions.create(
        **call(stream=True, stream_options={"include_usage": True})
    )
    chunks = list(stream)
    texts = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert "".join(texts) == "Hello there"
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "stop"
    assert chunks[-1].choices == []
    assert chunks[-1].usage.total_tokens == 18
    assert all(chunk.usage is None for chunk in chunks[:-1])
    assert len({chunk.id for chunk in chunks}) == 1


def test_a_chunk_arrives_as_soon_as_the_provider_has_said_it(client: Any, provider: Provider):
    go_on = threading.Event()
    provider.reply(head(), send(openai_chunk("first")), until(go_on), *openai_answer(" last")[1:])
    said = ""
    for chunk in client.chat.completions.create(**call(stream=True)):
        said += chunk.choices[0].delta.content or ""
        if said == "first":
            go_on.set()  # what comes next was not sent when this was read
    assert said == "first last"


async def test_the_asynchronous_one_does_the_same(app: AppServer, secret: str, provider: Provider):
    provider.reply(*openai_answer("in one"))
    provider.reply(*openai_answer("as a ", "stream"))
    async with openai_package.AsyncOpenAI(
        base_url=f"{app.url}/v1", api_key=secret, max_retries=0, timeout=DEADLINE
    ) as client:
        made: Any = client.chat.completions
        answer = await made.create(**call())
        assert answer.choices[0].message.content == "in one"
        stream = await made.create(**call(stream=True))
        texts = [chunk.choices[0].delta.content or "" async for chunk in stream]
        assert "".join(texts) == "as a stream"


def test_it_calls_tools_and_sends_their_results(client: Any, provider: Provider):
    provider.reply(*tool_answer())
    question = {"role": "user", "content": "Weather in Rome and Oslo?"}
    asked = client.chat.completions.create(
        model="double", messages=[question], tools=[WEATHER], tool_choice="auto"
    )
    (choice,) = asked.choices
    assert (choice.finish_reason, choice.message.content) == ("tool_calls", None)
    calls = choice.message.tool_calls
    assert [made.id for made in calls] == ["call_a", "call_b"]
    assert [json.loads(made.function.arguments)["city"] for made in calls] == ["Rome", "Oslo"]

    provider.reply(*openai_answer("Sunny in Rome, snow in Oslo."))
    results = [
        {"role": "tool", "tool_call_id": made.id, "content": weather}
        for made, weather in zip(calls, ["sun", "snow"], strict=True)
    ]
    # The message goes back as the client gave it.
    answer = client.chat.completions.create(
        model="double", messages=[question, choice.message, *results], tools=[WEATHER]
    )
    assert answer.choices[0].message.content == "Sunny in Rome, snow in Oslo."
    first, second = provider.requests
    assert first.json["tools"] == [WEATHER]
    assert first.json["tool_choice"] == "auto"
    sent = second.json["messages"]
    assert [message["role"] for message in sent] == ["user", "assistant", "tool", "tool"]
    assert sent[1]["tool_calls"][0]["function"]["arguments"] == '{"city":"Rome"}'
    assert sent[2:] == results


def test_it_puts_streamed_tool_calls_together(client: Any, provider: Provider):
    provider.reply(*tool_answer())
    with client.chat.completions.stream(**call(tools=[WEATHER])) as stream:
        final = stream.get_final_completion()
    calls = final.choices[0].message.tool_calls
    assert [made.function.name for made in calls] == ["weather", "weather"]
    assert [made.id for made in calls] == ["call_a", "call_b"]
    assert calls[0].function.arguments == '{"city":"Rome"}'
    assert final.choices[0].finish_reason == "tool_calls"


def test_it_asks_for_an_answer_by_a_schema(client: Any, provider: Provider):
    schema = {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
        "additionalProperties": False,
    }
    provider.reply(*openai_answer('{"city":"Rome"}'))
    wanted = {"type": "json_schema", "json_schema": {"name": "city", "schema": schema}}
    answer = client.chat.completions.create(**call(response_format=wanted))
    assert json.loads(answer.choices[0].message.content) == {"city": "Rome"}
    sent = provider.requests[0].json["response_format"]["json_schema"]
    assert sent == {"name": "city", "schema": schema, "strict": True}


def test_it_asks_for_any_json(client: Any, provider: Provider):
    provider.reply(*openai_answer("{}"))
    client.chat.completions.create(**call(response_format={"type": "json_object"}))
    assert provider.requests[0].json["response_format"] == {"type": "json_object"}


def test_it_sends_images(client: Any, provider: Provider):
    file = io.BytesIO()
    Image.new("RGB", (40, 30), "red").save(file, "PNG")
    url = f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
    provider.reply(*openai_answer("red"))
    content = [
        {"type": "text", "text": "What colour?"},
        {"type": "image_url", "image_url": {"url": url, "detail": "low"}},
    ]
    client.chat.completions.create(model="double", messages=[{"role": "user", "content": content}])
    (sent,) = provider.requests[0].json["messages"]
    assert sent["content"][0] == {"type": "text", "text": "What colour?"}
    data = sent["content"][1]["image_url"]["url"].partition("base64,")[2]
    with Image.open(io.BytesIO(base64.b64decode(data))) as image:
        assert (image.size, image.getpixel((5, 5))) == ((40, 30), (255, 0, 0))


def test_it_lists_the_models_that_may_be_used(client: Any, demo: Configuration):
    listed = client.models.list()
    assert [model.id for model in listed] == ["demo", "double"]
    found = client.models.retrieve("double")
    assert (found.id, found.object, found.owned_by) == ("double", "model", "openai")
    with pytest.raises(openai_package.NotFoundError) as caught:
        client.models.retrieve("nothing")
    assert caught.value.code == "model_not_found"


@pytest.mark.parametrize(
    ("status", "error", "raised", "code"),
    [
        (401, "Incorrect API key", openai_package.InternalServerError, "API_KEY_INVALID"),
        (404, "The model does not exist", openai_package.InternalServerError, "MODEL_NOT_FOUND"),
        (400, "maximum context length is 5", openai_package.BadRequestError, "CONTEXT_LENGTH_EX"),
        (400, "temperature is wrong", openai_package.BadRequestError, "INVALID_REQUEST"),
        (429, "Rate limit reached", openai_package.RateLimitError, "RATE_LIMIT_EXCEEDED"),
        (503, "Overloaded", openai_package.InternalServerError, "PROVIDER_OVERLOADED"),
    ],
)
@pytest.mark.parametrize("streams", [False, True], ids=["in one piece", "streamed"])
def test_it_raises_its_own_exception_for_what_the_provider_says(
    client: Any,
    provider: Provider,
    settings: Any,
    status: int,
    error: str,
    raised: Any,
    code: str,
    streams: bool,
):
    settings.MAX_ATTEMPTS = 1
    code_of = "context_length_exceeded" if "context" in error else None
    told = {"error": {"message": error, "type": "x", "code": code_of}}
    provider.reply(*json_answer(told, status, {"Retry-After": "7"}))
    with pytest.raises(raised) as caught:
        client.chat.completions.create(**call(stream=streams))
    assert caught.value.code.startswith(code)
    assert "Double" in caught.value.message
    if status == 429:
        assert caught.value.response.headers["Retry-After"] == "7"
    assert caught.value.response.headers["X-LLMChat-Run"] == str(Run.objects.get().pk)


def test_a_provider_that_is_offline_is_a_bad_gateway(
    client: Any, openai: Configuration, settings: Any
):
    settings.MAX_ATTEMPTS = 1
    Configuration.objects.update(base_url="http://127.0.0.1:9")
    with pytest.raises(openai_package.InternalServerError) as caught:
        client.chat.completions.create(**call())
    assert (caught.value.status_code, caught.value.code) == (502, "PROVIDER_OFFLINE")


def test_a_provider_that_says_nothing_is_a_gateway_timeout_that_is_not_asked_again(
    app: AppServer, secret: str, openai: Configuration, provider: Provider
):
    Configuration.objects.update(first_chunk_timeout=0.2)
    provider.reply(head(), hang())
    with (
        openai_package.OpenAI(base_url=f"{app.url}/v1", api_key=secret, max_retries=2) as client,
        pytest.raises(openai_package.InternalServerError) as caught,
    ):
        client.chat.completions.create(**call())
    assert (caught.value.status_code, caught.value.code) == (504, "TIMEOUT")
    assert len(provider.requests) == 1


def test_it_raises_in_the_middle_of_a_stream_that_breaks(client: Any, provider: Provider):
    provider.reply(head(), send(openai_chunk("half an ans")), send(b"data: {oops\n\n"))
    stream = client.chat.completions.create(**call(stream=True))
    chunks: list[Any] = []
    with pytest.raises(openai_package.APIError) as caught:
        chunks.extend(stream)
    said = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert said == "half an ans"
    assert caught.value.code == "PROVIDER_ERROR"


def test_it_raises_for_a_token_that_is_none(app: AppServer, user: User):
    with (
        openai_package.OpenAI(base_url=f"{app.url}/v1", api_key="sk-wrong") as client,
        pytest.raises(openai_package.AuthenticationError) as caught,
    ):
        client.models.list()
    assert caught.value.code == "invalid_api_key"


def test_what_was_used_is_told_even_where_a_person_has_stopped_the_answer(
    client: Any, ada_at_the_page: Any, provider: Provider
):
    provider.reply(head(), send(openai_chunk("so far")), hang())
    stream = client.chat.completions.create(
        **call(stream=True, stream_options={"include_usage": True})
    )
    said, reason = "", None
    usage: Any = None
    for chunk in stream:
        for choice in chunk.choices:
            said += choice.delta.content or ""
            reason = choice.finish_reason or reason
        usage = chunk.usage or usage
        if said == "so far" and reason is None:
            ada_at_the_page.post(f"/runs/{Run.objects.get().pk}/stop/")
    assert (said, reason) == ("so far", "length")
    assert usage.completion_tokens
