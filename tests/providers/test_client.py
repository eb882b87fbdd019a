"""The client against a provider on a real socket (RELIABILITY.md F1 to F6, A8, A16, A18)."""

import asyncio
import gzip
import socket
import ssl
import threading
import time
import tracemalloc
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, aclosing, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from providers import client
from providers.adapters.base import (
    Adapter,
    ChatMessage,
    Parameters,
    ProviderRequest,
    Target,
)
from providers.adapters.demo import ERRORS, INTERRUPTED, Demo
from providers.adapters.ollama import Ollama
from providers.adapters.openai import OpenAI
from providers.client import Limits, encode_body
from providers.errors import (
    ApiKeyInvalid,
    InvalidRequest,
    ModelNotFound,
    ProviderError,
    ProviderFailure,
    ProviderOffline,
    ProviderTimeout,
    RateLimitExceeded,
    StreamInterrupted,
)
from providers.events import (
    Event,
    Finish,
    FinishReason,
    ReasoningDelta,
    TextDelta,
    ToolCallDelta,
    Usage,
)
from tests.servers.provider import (
    OPENAI_DONE,
    Provider,
    bytewise,
    close,
    end,
    hang,
    head,
    json_answer,
    ollama_answer,
    ollama_line,
    openai_answer,
    openai_chunk,
    openai_usage,
    raw,
    reset,
    send,
    sse,
    until,
    wait,
)

KEY = "marked-Key-7f3a"
LIMITS = Limits(connect=2, first_chunk=5, chunk=5)


@dataclass
class Outcome:
    """What came out of one stream."""

    batches: list[list[Event]] = field(default_factory=list)
    error: ProviderError | None = None
    seconds: float = 0.0

    @property
    def events(self) -> list[Event]:
        return [event for batch in self.batches for event in batch]

    @property
    def text(self) -> str:
        return "".join(e.text for e in self.events if isinstance(e, TextDelta))

    @property
    def finish(self) -> Finish | None:
        found = [e for e in self.events if isinstance(e, Finish)]
        assert len(found) <= 1
        assert not found or found == self.events[-1:]
        return found[0] if found else None


def openai(provider: Provider, **target) -> OpenAI:
    return OpenAI(
        Target(**{"name": "Conf", "model": "m", "base_url": provider.url, "api_key": KEY} | target)
    )


def ask(adapter: Adapter, limits: Limits = LIMITS) -> Outcome:
    """One answer to "hi", to its end."""
    return asyncio.run(_ask(adapter, limits))


async def _ask(adapter: Adapter, limits: Limits = LIMITS) -> Outcome:
    async with closing_connections():
        return await one_answer(adapter, limits)


async def one_answer(adapter: Adapter, limits: Limits = LIMITS) -> Outcome:
    outcome = Outcome()
    started_at = time.monotonic()
    try:
        request = adapter.request([ChatMessage("user", "hi")], Parameters())
        async with aclosing(client.stream(adapter, request, limits)) as batches:
            async for events in batches:
                outcome.batches.append(events)
    except ProviderError as error:
        outcome.error = error
    if outcome.error:
        assert outcome.error.message.startswith(adapter.target.name)
        assert KEY not in outcome.error.message
    outcome.seconds = time.monotonic() - started_at
    return outcome


@asynccontextmanager
async def closing_connections() -> AsyncIterator[None]:
    try:
        yield
    finally:
        await client.aclose()


# --- a good answer


def test_an_answer_arrives_with_its_usage_and_its_finish(provider):
    provider.reply(*openai_answer("Hello", " there", reasoning=["hm"]))
    outcome = ask(openai(provider))
    assert outcome.error is None
    assert outcome.text == "Hello there"
    assert ReasoningDelta("hm") in outcome.events
    assert Usage(11, 7) in outcome.events
    assert outcome.finish == Finish(FinishReason.STOP, "stop")


def test_the_body_sent_is_the_body_shown_byte_for_byte(provider):
    provider.reply(*openai_answer("ok"))
    adapter = openai(provider, extra_body={"stop": ["größe\u2028"], "seed": 7})
    asked = adapter.request([ChatMessage("user", "hi")], Parameters())
    ask(adapter)
    request = provider.wait_for_request()
    assert request.body == encode_body(asked.body)
    assert request.json == asked.body
    assert request.headers["content-length"] == str(len(request.body))
    assert KEY not in request.body.decode()


def test_the_headers_ask_for_an_uncompressed_stream_with_the_key_and_no_cookies(provider):
    provider.reply(*openai_answer("ok"))
    ask(openai(provider, extra_headers={"X-Title": "llmchat"}))
    headers = provider.wait_for_request().headers
    assert headers["authorization"] == f"Bearer {KEY}"
    assert headers["accept-encoding"] == "identity"
    assert headers["content-type"] == "application/json"
    assert headers["x-title"] == "llmchat"
    assert "cookie" not in headers


def test_chunks_are_given_on_as_they_arrive_and_not_at_the_end(provider):
    go_on = threading.Event()
    provider.reply(send(openai_chunk("first")), until(go_on), send(openai_chunk(finish="stop")))

    async def scenario():
        adapter = openai(provider)
        request = adapter.request([], Parameters())
        async with (
            closing_connections(),
            aclosing(client.stream(adapter, request, LIMITS)) as batches,
        ):
            assert await anext(batches) == [TextDelta("first")]
            go_on.set()
            return [event async for batch in batches for event in batch]

    assert asyncio.run(scenario()) == [Finish(FinishReason.STOP, "stop")]


def test_what_arrives_in_one_read_is_one_event_for_each_run_of_text(provider):
    body = b"".join(
        [
            openai_chunk(reasoning="a"),
            openai_chunk(reasoning="b"),
            openai_chunk("c"),
            openai_chunk("d"),
            openai_chunk(finish="stop"),
            OPENAI_DONE,
        ]
    )
    provider.reply(send(body))
    outcome = ask(openai(provider))
    assert outcome.batches[0][:2] == [ReasoningDelta("ab"), TextDelta("cd")]


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n", b"\r"], ids=["LF", "CRLF", "CR"])
def test_one_byte_a_packet_gives_the_same_text(provider, line_end):
    said = "a\u2028b\u0085c 日本語 😀 é"
    body = openai_chunk(said) + openai_chunk(finish="stop") + OPENAI_DONE
    provider.reply(head(), *bytewise(body.replace(b"\n", line_end)))
    outcome = ask(openai(provider))
    assert (outcome.text, outcome.error) == (said, None)


def test_lone_surrogates_and_nul_do_not_get_through(provider):
    delta = r'{"content":"a\ud83db\u0000c"}'
    call = r'{"index":0,"id":"\ud800","function":{"name":"n\u0000","arguments":"\udfff"}}'
    provider.reply(
        send(sse(f'{{"choices":[{{"delta":{delta}}}]}}')),
        send(sse(f'{{"choices":[{{"delta":{{"tool_calls":[{call}]}}}}]}}')),
        send(sse(r'{"choices":[{"finish_reason":"\ud800"}]}')),
        send(OPENAI_DONE),
    )
    outcome = ask(openai(provider))
    assert outcome.text == "a\ufffdb\ufffdc"
    assert ToolCallDelta(0, "\ufffd", "n\ufffd", "\ufffd") in outcome.events
    assert outcome.finish is not None
    assert outcome.finish.provider_reason == "\ufffd"


def test_a_broken_byte_becomes_a_replacement_character(provider):
    provider.reply(
        send(openai_chunk("a?b").replace(b"?", b"\xff")), send(openai_chunk(finish="stop"))
    )
    assert ask(openai(provider)).text == "a\ufffdb"


def test_a_second_request_uses_the_same_connection(provider):
    provider.route(*openai_answer("ok"))

    async def scenario():
        async with closing_connections():
            await one_answer(openai(provider))
            await one_answer(openai(provider))

    asyncio.run(scenario())
    assert provider.connections == 1


def test_more_than_a_hundred_streams_run_at_once(provider):
    everyone = threading.Event()
    provider.route(head(), send(openai_chunk("a")), until(everyone), *openai_answer("b")[1:])

    async def scenario():
        async with closing_connections():
            tasks = [asyncio.create_task(one_answer(openai(provider))) for _ in range(150)]
            await asyncio.to_thread(provider.wait_for_request, 150, 20)
            everyone.set()
            return await asyncio.gather(*tasks)

    assert {outcome.text for outcome in asyncio.run(scenario())} == {"ab"}


def test_compressed_answers_are_read_although_none_were_asked_for(provider):
    body = b"".join([openai_chunk("packed"), openai_chunk(finish="stop"), OPENAI_DONE])
    provider.reply(head(headers={"Content-Encoding": "gzip"}), send(gzip.compress(body)))
    assert ask(openai(provider)).text == "packed"


def test_cookies_are_neither_kept_nor_sent(provider):
    cookie = {"Set-Cookie": "session=1; Path=/"}
    provider.reply(head(headers=cookie), *openai_answer("ok")[1:])
    provider.reply(*openai_answer("ok"))
    # By name: cookie jars do not trust bare addresses anyway.
    named = provider.url.replace("127.0.0.1", "localhost")

    async def scenario():
        async with closing_connections():
            await one_answer(openai(provider, base_url=named))
            await one_answer(openai(provider, base_url=named))

    asyncio.run(scenario())
    assert "cookie" not in provider.wait_for_request(2).headers


def test_proxies_of_the_environment_are_not_used(provider, monkeypatch):
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    provider.reply(*openai_answer("ok"))
    assert ask(openai(provider)).text == "ok"


# --- how it ends


def test_a_finish_reason_alone_is_a_complete_answer(provider):
    provider.reply(send(openai_chunk("a")), send(openai_chunk(finish="stop")), end())
    outcome = ask(openai(provider))
    assert (outcome.text, outcome.finish) == ("a", Finish(FinishReason.STOP, "stop"))


def test_an_end_marker_alone_is_a_complete_answer(provider):
    provider.reply(send(openai_chunk("a")), send(OPENAI_DONE), end())
    outcome = ask(openai(provider))
    assert (outcome.text, outcome.finish) == ("a", Finish(None, None))


@pytest.mark.parametrize("last", [reset(), close()], ids=["reset", "close"])
def test_a_break_after_the_finish_reason_changes_nothing(provider, last):
    provider.reply(send(openai_chunk("a")), send(openai_chunk(finish="stop")), wait(0.05), last)
    outcome = ask(openai(provider))
    assert (outcome.error, outcome.finish) == (None, Finish(FinishReason.STOP, "stop"))


def test_a_connection_left_open_after_the_end_marker_delays_nothing(provider):
    provider.reply(*openai_answer("a"), hang())
    outcome = ask(openai(provider))
    assert outcome.finish == Finish(FinishReason.STOP, "stop")
    assert outcome.seconds < 1
    provider.wait_for_close(1)


def test_a_connection_left_open_after_the_finish_reason_ends_soon(provider, monkeypatch):
    monkeypatch.setattr(client, "TAIL_SECONDS", 0.1)
    provider.reply(send(openai_chunk("a")), send(openai_chunk(finish="stop")), hang())
    outcome = ask(openai(provider))
    assert (outcome.error, outcome.finish) == (None, Finish(FinishReason.STOP, "stop"))


def test_nothing_counts_after_the_end_marker(provider):
    after = openai_chunk("no") + b"data: not json\n\n"
    provider.reply(send(openai_chunk("a") + OPENAI_DONE + after), send(after))
    outcome = ask(openai(provider))
    assert (outcome.text, outcome.error) == ("a", None)


@pytest.mark.parametrize("chunks", [0, 1, 50])
@pytest.mark.parametrize("chunked", [True, False], ids=["chunked", "until-close"])
@pytest.mark.parametrize("last", [reset(), close()], ids=["reset", "close"])
def test_an_answer_that_breaks_off_is_never_taken_for_whole(provider, chunks, chunked, last):
    pieces = [send(openai_chunk(f"{number} ")) for number in range(chunks)]
    provider.reply(head(chunked=chunked), *pieces, wait(0.05), last)
    outcome = ask(openai(provider))
    assert isinstance(outcome.error, StreamInterrupted)
    assert outcome.error.retryable
    assert outcome.text == "".join(f"{number} " for number in range(chunks))
    assert outcome.finish is None


@pytest.mark.parametrize("last", [reset(), close()], ids=["reset", "close"])
def test_a_break_before_the_headers_is_an_offline_provider(provider, last):
    provider.reply(last)
    outcome = ask(openai(provider))
    assert isinstance(outcome.error, ProviderOffline)
    assert outcome.error.retryable
    assert len(provider.requests) == 1


def test_ollama_without_its_last_line_is_interrupted(provider):
    provider.reply(*ollama_answer("a", "b", reason=None))
    outcome = ask(Ollama(Target("Conf", "m", provider.url)))
    assert (outcome.text, type(outcome.error)) == ("ab", StreamInterrupted)


def test_ollama_answers_over_the_socket(provider):
    provider.reply(*ollama_answer("Hel", "lo", thinking=["hm"]))
    outcome = ask(Ollama(Target("Conf", "m", f"{provider.url}/v1/")))
    assert (outcome.text, outcome.finish) == ("Hello", Finish(FinishReason.STOP, "stop"))
    assert provider.wait_for_request().path == "/api/chat"


# --- time


def test_a_provider_that_sends_no_headers_times_out(provider):
    provider.reply(hang())
    outcome = ask(openai(provider), Limits(first_chunk=0.2))
    assert isinstance(outcome.error, ProviderTimeout)
    assert not outcome.error.retryable
    assert outcome.error.recoverable
    assert "0.2 s" in outcome.error.message
    assert 0.2 <= outcome.seconds < 1.2
    provider.wait_for_close(1)
    assert len(provider.requests) == 1


def test_a_provider_that_sends_no_text_times_out(provider):
    provider.reply(send(": ping\n\n"), hang())
    outcome = ask(openai(provider), Limits(first_chunk=0.2))
    assert isinstance(outcome.error, ProviderTimeout)
    provider.wait_for_close(1)


def test_pings_and_counts_are_no_progress(provider):
    pings = [send(b": ping\n\n" + openai_usage(1, number)) for number in range(100)]
    paused = [step for ping in pings for step in (ping, wait(0.02))]
    provider.reply(*paused)
    outcome = ask(openai(provider), Limits(first_chunk=0.3))
    assert isinstance(outcome.error, ProviderTimeout)
    assert outcome.seconds < 1.3


def test_a_provider_that_stops_in_the_middle_times_out_with_its_text_kept(provider):
    pieces = [send(openai_chunk(f"{number} ")) for number in range(20)]
    provider.reply(*pieces, hang())
    outcome = ask(openai(provider), Limits(first_chunk=30, chunk=0.2))
    assert isinstance(outcome.error, ProviderTimeout)
    assert "between two chunks" in outcome.error.message
    assert outcome.text == "".join(f"{number} " for number in range(20))
    provider.wait_for_close(1)


def test_progress_keeps_a_slow_answer_alive(provider):
    provider.reply(*openai_answer(*"abcdef", pause=0.1))
    outcome = ask(openai(provider), Limits(first_chunk=0.4, chunk=0.4))
    assert (outcome.text, outcome.error) == ("abcdef", None)
    assert outcome.seconds > 0.5


def test_a_slow_reader_is_not_taken_for_a_slow_provider(provider):
    provider.reply(*openai_answer("a", "b", pause=0.05))

    async def scenario():
        adapter = openai(provider)
        request = adapter.request([], Parameters())
        text = ""
        async with (
            closing_connections(),
            aclosing(client.stream(adapter, request, Limits(first_chunk=5, chunk=0.2))) as batches,
        ):
            async for events in batches:
                text += "".join(e.text for e in events if isinstance(e, TextDelta))
                await asyncio.sleep(0.4)
        return text

    assert asyncio.run(scenario()) == "ab"


def test_a_host_that_does_not_answer_a_connect_is_offline():
    with full_listener() as port:
        adapter = OpenAI(Target("Conf", "m", f"http://127.0.0.1:{port}", KEY))
        outcome = ask(adapter, Limits(connect=0.2, first_chunk=5))
    assert isinstance(outcome.error, ProviderOffline)
    assert "0.2 s" in outcome.error.message
    assert outcome.seconds < 2


@contextmanager
def full_listener() -> Iterator[int]:
    """A port whose queue of connections is full, so that connecting waits."""
    with ExitStack() as sockets:
        server = sockets.enter_context(socket.socket())
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        for _ in range(4):
            waiting = sockets.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(server.getsockname())
        yield server.getsockname()[1]


def test_an_error_body_without_end_is_not_waited_for(provider, monkeypatch):
    monkeypatch.setattr(client, "ERROR_BODY_SECONDS", 0.2)
    provider.reply(head(429, "application/json"), send('{"error":'), hang())
    outcome = ask(openai(provider))
    assert isinstance(outcome.error, RateLimitExceeded)
    assert outcome.seconds < 1.5
    provider.wait_for_close(1)


def test_an_endless_error_body_is_not_read_to_its_end(provider):
    provider.reply(head(500, "text/plain"), *[send(b"x" * 60_000)] * 100, hang())
    assert isinstance(ask(openai(provider)).error, ProviderFailure)
    provider.wait_for_close(1)


# --- leaving


def test_cancelling_closes_the_connection_at_once(provider):
    provider.reply(send(openai_chunk("a")), hang())
    got = threading.Event()

    async def scenario():
        async with closing_connections():
            adapter = openai(provider)
            request = adapter.request([], Parameters())

            async def read():
                async with aclosing(client.stream(adapter, request, LIMITS)) as batches:
                    async for _ in batches:
                        got.set()

            task = asyncio.create_task(read())
            await asyncio.to_thread(got.wait, 5)
            cancelled_at = time.monotonic()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            return await asyncio.to_thread(provider.wait_for_close) - cancelled_at

    assert asyncio.run(scenario()) < 1


def test_cancelling_before_the_headers_closes_the_connection_at_once(provider):
    provider.reply(hang())

    async def scenario():
        async with closing_connections():
            task = asyncio.create_task(one_answer(openai(provider)))
            await asyncio.to_thread(provider.wait_for_request)
            cancelled_at = time.monotonic()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            return await asyncio.to_thread(provider.wait_for_close) - cancelled_at

    assert asyncio.run(scenario()) < 1


def test_leaving_the_loop_early_closes_the_connection_at_once(provider):
    provider.reply(send(openai_chunk("a")), hang())

    async def scenario():
        async with closing_connections():
            adapter = openai(provider)
            request = adapter.request([], Parameters())
            async with aclosing(client.stream(adapter, request, LIMITS)) as batches:
                async for _ in batches:
                    break
            left_at = time.monotonic()
            return await asyncio.to_thread(provider.wait_for_close) - left_at

    assert asyncio.run(scenario()) < 1


def test_a_cancellation_that_meets_the_time_limit_leaves_a_task_that_works(provider):
    provider.route(hang())

    async def scenario():
        async with closing_connections():
            # Both timers ring in the same moment: either may win, and nothing may stay behind.
            with suppress(TimeoutError):
                async with asyncio.timeout(0.15):
                    await one_answer(openai(provider), Limits(first_chunk=0.15))
            task = asyncio.current_task()
            assert task is not None
            await asyncio.sleep(0)
            return task.cancelling()

    assert asyncio.run(scenario()) == 0


# --- errors


def test_an_error_response_is_mapped_with_its_waiting_time(provider):
    error = {"error": {"message": f"Slow down, Bearer {KEY}", "code": "rate_limit_exceeded"}}
    provider.reply(*json_answer(error, 429, {"Retry-After": "2"}))
    outcome = ask(openai(provider))
    assert isinstance(outcome.error, RateLimitExceeded)
    assert (outcome.error.retryable, outcome.error.retry_after) == (True, 2)
    assert "Slow down" in outcome.error.message
    assert len(provider.requests) == 1


@pytest.mark.parametrize(
    ("steps", "error_class"),
    [
        (json_answer({"error": {"message": "no", "code": "model_not_found"}}), ModelNotFound),
        ([send(sse({"error": {"message": "no", "code": "model_not_found"}}))], ModelNotFound),
        ([send(sse({"error": {"code": "model_not_found"}}, event="error"))], ModelNotFound),
        ([send('error: {"message": "no", "code": "model_not_found"}\n\n')], ModelNotFound),
        (
            [
                head(200, "application/json"),
                send('{\n  "error": {\n    "code": "model_not_found"\n  }\n}\n'),
            ],
            ModelNotFound,
        ),
        ([head(200, "text/html; charset=utf-8"), send("<html>Welcome</html>")], InvalidRequest),
        ([head(200, "text/event-stream")], StreamInterrupted),
        ([head(204, "", chunked=False)], StreamInterrupted),
        ([send(OPENAI_DONE)], StreamInterrupted),
        ([send(openai_chunk("")), send(b"data: {not json\n\n")], ProviderFailure),
    ],
    ids=[
        "JSON", "data", "event-error", "error-field", "indented-JSON", "HTML", "nothing", "204",
        "only-the-marker", "garbage",
    ],
)  # fmt: skip
def test_an_error_inside_a_success_is_an_error(provider, steps, error_class):
    provider.reply(*steps)
    outcome = ask(openai(provider))
    assert type(outcome.error) is error_class
    assert outcome.finish is None


def test_the_text_before_an_error_is_kept(provider):
    error = sse({"error": {"message": "gone", "type": "server_error"}})
    provider.reply(send(openai_chunk("a") + openai_chunk("b") + error))
    outcome = ask(openai(provider))
    assert (outcome.text, type(outcome.error)) == ("ab", ProviderFailure)


def test_the_text_before_a_line_that_is_not_json_is_kept(provider):
    provider.reply(send(openai_chunk("a") + b"data: {broken\n\n" + openai_chunk("never")))
    outcome = ask(openai(provider))
    assert (outcome.text, type(outcome.error)) == ("a", ProviderFailure)
    provider.wait_for_close(1)


def test_an_unstreamed_answer_to_a_request_for_a_stream_is_taken(provider):
    provider.reply(
        *json_answer(
            {
                "object": "chat.completion",
                "choices": [{"message": {"content": "whole"}, "finish_reason": "stop"}],
                "usage": {"prompt_tokens": 3, "completion_tokens": 1},
            }
        )
    )
    outcome = ask(openai(provider))
    assert outcome.events == [
        Usage(3, 1), TextDelta("whole"), Finish(FinishReason.STOP, "stop"),
    ]  # fmt: skip


def test_a_redirect_is_not_followed_and_the_other_host_sees_nothing(provider):
    with Provider() as other:
        provider.reply(head(308, "", {"Location": f"{other.url}/v1/chat/completions"}))
        outcome = ask(openai(provider))
        assert isinstance(outcome.error, InvalidRequest)
        assert "http://127.0.0.1" in outcome.error.message
        assert not other.requests


@pytest.mark.parametrize("key", [f"{KEY}\nX-Evil: 1", f"{KEY}\rx", f"{KEY}\0", f"{KEY}é"])
def test_a_key_that_no_header_can_hold_is_refused_before_anything_is_sent(provider, key):
    adapter = openai(provider, api_key=key)
    with pytest.raises(ApiKeyInvalid) as caught:
        adapter.request([], Parameters())
    assert KEY not in str(caught.value)
    assert not provider.requests


def test_a_key_pasted_with_a_line_end_around_it_works(provider):
    provider.reply(*openai_answer("ok"))
    assert ask(openai(provider, api_key=f" {KEY}\r\n")).text == "ok"
    assert provider.wait_for_request().headers["authorization"] == f"Bearer {KEY}"


@pytest.mark.parametrize("headers", [{"X-A": "b\r\nX-Evil: 1"}, {"X A": "b"}, {"": "b"}])
def test_an_extra_header_that_cannot_be_sent_is_refused(provider, headers):
    with pytest.raises(InvalidRequest):
        openai(provider, extra_headers=headers).request([], Parameters())


@pytest.mark.parametrize(
    ("url", "headers"),
    [
        ("no-url", {}),
        ("gopher://127.0.0.1/", {}),
        ("http://127.0.0.1:99999/", {}),
        (None, {"X-Key": f"{KEY}\r\nX-Evil: 1"}),
        (None, {"X-Key": f"{KEY}\nX-Evil: 1"}),
        (None, {"X-Key": f"{KEY}é\u2028"}),
    ],
)
def test_a_request_that_cannot_be_written_down_is_invalid_and_says_no_secret(
    provider, url, headers
):
    provider.reply(*openai_answer("no"))

    async def scenario():
        adapter = OpenAI(Target("Conf", "m"))
        request = ProviderRequest(url or provider.url, headers, {})
        async with (
            closing_connections(),
            aclosing(client.stream(adapter, request, LIMITS)) as batches,
        ):
            await anext(batches)

    with pytest.raises(InvalidRequest) as caught:
        asyncio.run(scenario())
    assert KEY not in str(caught.value)
    assert not provider.requests


def test_a_refused_connection_is_offline():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        adapter = OpenAI(Target("Conf", "m", f"http://127.0.0.1:{free.getsockname()[1]}", KEY))
        outcome = ask(adapter)
    assert isinstance(outcome.error, ProviderOffline)
    assert outcome.error.retryable
    assert "Connection refused" in outcome.error.message


def test_a_host_that_is_not_known_is_offline():
    outcome = ask(OpenAI(Target("Conf", "m", "http://no-such-host.invalid", KEY)))
    assert isinstance(outcome.error, ProviderOffline)


def test_a_server_that_speaks_no_http_is_offline(provider):
    provider.reply(raw(b"SSH-2.0-OpenSSH_9.9\r\n\r\n"), close())
    assert isinstance(ask(openai(provider)).error, ProviderOffline)


def test_a_server_without_tls_is_offline_and_the_message_says_so():
    with listener(lambda accepted: accepted.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")) as port:
        outcome = ask(OpenAI(Target("Conf", "m", f"https://127.0.0.1:{port}", KEY)))
    assert isinstance(outcome.error, ProviderOffline)
    assert "no secure connection" in outcome.error.message


def test_a_certificate_that_nobody_signed_is_offline_and_the_message_says_so(tmp_path):
    certificate = tmp_path / "certificate.pem"
    certificate.write_bytes(make_certificate())
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    with listener(lambda accepted: context.wrap_socket(accepted, server_side=True)) as port:
        outcome = ask(OpenAI(Target("Conf", "m", f"https://127.0.0.1:{port}", KEY)))
    assert isinstance(outcome.error, ProviderOffline)
    assert "CERTIFICATE_VERIFY_FAILED" in outcome.error.message


@contextmanager
def listener(welcome: Callable[[socket.socket], object]) -> Iterator[int]:
    """The port of a server that does this with each connection, and then closes it."""
    server = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with suppress(OSError):
            while True:
                accepted, _ = server.accept()
                with accepted, suppress(OSError):
                    welcome(accepted)
                    accepted.recv(65_536)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield server.getsockname()[1]
    finally:
        server.shutdown(socket.SHUT_RDWR)
        server.close()
        thread.join(5)


def make_certificate() -> bytes:
    """Key and self-signed certificate for 127.0.0.1, as PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return private + certificate.public_bytes(serialization.Encoding.PEM)


def test_compressed_data_that_cannot_be_read_is_a_provider_error(provider):
    provider.reply(head(headers={"Content-Encoding": "gzip"}), send(openai_chunk("plain")))
    assert isinstance(ask(openai(provider)).error, ProviderFailure)


# --- size


def test_a_line_of_a_mebibyte_passes(provider):
    said = "x" * 2**20
    provider.reply(send(openai_chunk(said)), send(openai_chunk(finish="stop")))
    outcome = ask(openai(provider))
    assert (outcome.text, outcome.error) == (said, None)


def test_a_line_without_end_ends_at_its_limit_with_bounded_memory(provider):
    endless = [send(b"x" * 65_536)] * 400  # 25 MiB
    provider.reply(send(openai_chunk("before") + b"data: "), *endless, hang())
    tracemalloc.start()
    try:
        outcome = ask(openai(provider))
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (outcome.text, type(outcome.error)) == ("before", ProviderFailure)
    assert most < 64 * 2**20
    provider.wait_for_close(1)


def test_the_line_limit_can_be_set(provider):
    provider.reply(send(openai_chunk("x" * 2_000)), hang())
    outcome = ask(openai(provider), Limits(line_bytes=1_000))
    assert isinstance(outcome.error, ProviderFailure)


def test_an_answer_without_end_ends_at_its_limit_as_cut(provider):
    endless = [send(ollama_line("日本語 " * 100))] * 200
    provider.reply(head(200, "application/x-ndjson"), *endless, hang())
    outcome = ask(Ollama(Target("Conf", "m", provider.url)), Limits(answer_bytes=10_000))
    assert outcome.error is None
    assert outcome.finish == Finish(FinishReason.LENGTH, "answer limit")
    assert 9_990 < len(outcome.text.encode()) <= 10_000
    assert ("日本語 " * 10_000).startswith(outcome.text)
    provider.wait_for_close(1)


def test_reasoning_and_tool_calls_count_as_answer(provider):
    endless = [send(openai_chunk(reasoning="x" * 1_000))] * 50
    provider.reply(*endless, hang())
    outcome = ask(openai(provider), Limits(answer_bytes=10_000))
    assert outcome.finish == Finish(FinishReason.LENGTH, "answer limit")


# --- requests that are no stream


def fetched(adapter: Adapter, limits: Limits = LIMITS):
    async def scenario():
        async with closing_connections():
            return await client.fetch(adapter, adapter.models_request(), limits)

    return asyncio.run(scenario())


def test_the_models_of_a_provider_are_fetched(provider):
    provider.reply(*json_answer({"data": [{"id": "b", "max_model_len": 4096}, {"id": "a"}]}))
    adapter = openai(provider)
    models = adapter.models(fetched(adapter))
    assert [(m.id, m.context_window) for m in models] == [("a", None), ("b", 4096)]
    request = provider.wait_for_request()
    assert (request.method, request.path, request.body) == ("GET", "/v1/models", b"")


@pytest.mark.parametrize(
    ("steps", "error_class"),
    [
        (json_answer({"error": {"code": "invalid_api_key"}}, 401), ApiKeyInvalid),
        (json_answer({"error": {"code": "invalid_api_key"}}), ApiKeyInvalid),
        ([head(200, "text/html"), send("<html>")], InvalidRequest),
        ([head(200, "application/json"), send("{")], ProviderFailure),
        ([head(200, "application/json"), send("{"), reset()], StreamInterrupted),
        ([hang()], ProviderTimeout),
        ([head(200, "application/json"), send("{"), hang()], ProviderTimeout),
        ([head(200, "application/json"), send(b"[" * 100_000)], ProviderFailure),
        ([head(200, "application/json"), *[send(b" " * 65_536)] * 100], ProviderFailure),
    ],
)
def test_a_list_that_cannot_be_had_is_an_error(provider, steps, error_class):
    provider.reply(*steps)
    with pytest.raises(ProviderError) as caught:
        fetched(openai(provider), Limits(first_chunk=0.5))
    assert type(caught.value) is error_class


def test_the_window_of_one_ollama_model_is_fetched(provider):
    provider.route(
        *json_answer(
            {
                "parameters": "temperature 0.7\nnum_ctx    16384",
                "model_info": {"general.architecture": "llama", "llama.context_length": 131072},
            }
        ),
        path="/api/show",
        model="llama3",
    )
    adapter = Ollama(Target("Conf", "", provider.url))

    async def scenario():
        async with closing_connections():
            return await client.fetch(adapter, adapter.model_request("llama3"), LIMITS)

    assert adapter.model("llama3", asyncio.run(scenario())).context_window == 16384


# --- the built-in provider takes the same path


def demo_outcome(prompt: str, limits: Limits = LIMITS) -> Outcome:
    async def scenario():
        adapter = Demo(Target("Demo", "demo", extra_body={"pace": 0}))
        request = adapter.request([ChatMessage("user", prompt)], Parameters())
        outcome = Outcome()
        async with closing_connections():
            try:
                async with aclosing(client.stream(adapter, request, limits)) as batches:
                    async for events in batches:
                        outcome.batches.append(events)
            except ProviderError as error:
                outcome.error = error
        return outcome

    return asyncio.run(scenario())


@pytest.mark.parametrize("code", sorted({*ERRORS, INTERRUPTED}))
@pytest.mark.parametrize("after", [None, 0, 5])
def test_the_demo_fails_in_every_way_when_asked_to(code, after):
    outcome = demo_outcome(f"/demo error {code}" + ("" if after is None else f" after {after}"))
    assert outcome.error is not None
    assert outcome.error.code == code
    assert len(outcome.batches) == (after or 0)
    if code == "RATE_LIMIT_EXCEEDED":
        assert outcome.error.retry_after == 2


def test_the_demo_can_be_silent_and_slow_only_as_long_as_the_limits_allow():
    outcome = demo_outcome("/demo silent", Limits(first_chunk=0.1))
    assert isinstance(outcome.error, ProviderTimeout)


@pytest.mark.parametrize("said", ["hello", " two  spaces \n\nand lines\n", "日本語 😀", "/demo"])
def test_the_demo_gives_an_echo_exactly(said):
    assert demo_outcome(f"/demo echo {said}").text == said


async def test_a_name_that_leads_to_a_refused_address_is_not_connected_to(provider: Provider):
    """What a name resolves to is judged at the moment of connecting (R11, A15)."""
    provider.route(*openai_answer("secret"), path="/chat/completions")
    for base_url in (f"http://localhost:{provider.port}", provider.url):
        adapter = OpenAI(Target(name="Double", model="m", base_url=base_url))
        request = adapter.request([ChatMessage("user", "hi")], Parameters())
        limits = Limits(private_allowed=False)
        async with aclosing(client.stream(adapter, request, limits)) as batches:
            with pytest.raises(InvalidRequest, match="private network"):
                await anext(batches)
    assert not provider.requests
    assert provider.connections == 0
