"""The stream test and the delivery self-test, as requests (M3)."""

import json
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from django.contrib.auth.models import Group, User

from conversations.models import ChatSession, Message, Run, UsageLog
from conversations.views import streams
from monitor import delivery
from providers.models import Configuration
from tests.people import Person, text_of
from tests.servers.app import AppServer
from tests.servers.provider import Provider, hang, head, openai_answer, openai_chunk, send

PAGE = "/monitor/test/"
DELIVERY = "/monitor/test/delivery/"


@pytest.mark.contract("M3")
def test_a_stream_test_is_a_run_of_its_own_that_stores_no_session(
    ada: Person, openai: Configuration, provider: Provider
):
    provider.reply(*openai_answer("Rivers ", "run."))
    asked = {"prompt": "Tell me", "configuration_id": openai.slug, "temperature": "0.5"}
    answer = ada.post(PAGE, json={**asked, "max_tokens": 50})
    assert answer.status_code == 201
    told = answer.json()
    events = ada.events(told)
    assert text_of(events) == "Rivers run."
    assert events[-1].data["assistant_message_id"] is None
    sent = provider.wait_for_request().json
    assert sent["messages"] == [{"role": "user", "content": "Tell me"}]
    assert (sent["temperature"], sent["max_completion_tokens"]) == (0.5, 50)
    assert not ChatSession.objects.exists()
    assert not Message.objects.exists()
    run = Run.objects.get()
    assert (run.origin, run.session_id, run.user) == ("stream_test", None, User.objects.get())
    assert UsageLog.objects.get().origin == "stream_test"
    assert ada.get(told["inspector_url"], headers={"Accept": "text/html"}).status_code == 200


@pytest.mark.contract("M3")
def test_a_stream_test_is_stopped_like_any_run(
    ada: Person, openai: Configuration, provider: Provider
):
    provider.reply(head(), send(openai_chunk("some")), hang())
    told = ada.post(PAGE, json={"prompt": "hello"}).json()
    ada.read_until(told, "some")
    assert ada.stop(told)["stopped"] is True
    provider.wait_for_request().wait_for_close()
    assert ada.events(told)[-1].data["full_response"] == "some"


@pytest.mark.contract("S11")
def test_a_stream_test_that_is_sent_again_with_its_key_is_not_started_again(
    ada: Person, openai: Configuration, provider: Provider
):
    provider.reply(*openai_answer("once"))
    first, second = (
        ada.post(PAGE, json={"prompt": "hello", "idempotency_key": "k"}) for _ in range(2)
    )
    assert (first.status_code, second.status_code) == (201, 200)
    assert first.json() == second.json()
    other = ada.post(PAGE, json={"prompt": "other", "idempotency_key": "k"})
    assert other.status_code == 409
    ada.events(first.json())
    assert len(provider.requests) == 1


@pytest.mark.contract("C1")
@pytest.mark.parametrize(
    ("field", "value"),
    [("prompt", " "), ("temperature", 2.1), ("max_tokens", 0), ("max_tokens", True)],
)
def test_a_value_out_of_bounds_is_named_and_nothing_is_started(
    ada: Person, openai: Configuration, provider: Provider, field: str, value: Any
):
    answer = ada.post(PAGE, json={"prompt": "hello", field: value})
    assert answer.status_code == 422
    assert list(answer.json()["errors"]) == [field]
    assert not Run.objects.exists()
    assert not provider.requests


@pytest.mark.contract("A11")
def test_only_configurations_that_a_person_may_use_are_offered_and_taken(
    ada: Person, demo: Configuration, openai: Configuration
):
    openai.allowed_groups.add(Group.objects.create(name="others"))
    page = ada.get(PAGE, headers={"Accept": "text/html"}).text
    assert f'value="{demo.pk}"' in page
    assert f'value="{openai.pk}"' not in page
    for name in ("double", str(openai.pk), "none"):
        answer = ada.post(PAGE, json={"prompt": "hello", "configuration_id": name})
        assert answer.status_code == 404
    assert not Run.objects.exists()


@pytest.mark.contract("A6")
@pytest.mark.contract("A10")
def test_strangers_and_forgers_start_nothing(
    app: AppServer, ada: Person, openai: Configuration, provider: Provider
):
    forged = ada.http.post(PAGE, data={"prompt": "hello"}, headers={"Accept": "application/json"})
    assert forged.status_code == 403
    with httpx.Client(base_url=app.url, trust_env=False) as stranger:
        assert stranger.get(DELIVERY).status_code == 401
        answer = stranger.get(PAGE, headers={"Accept": "text/html"})
        assert answer.status_code == 302
    assert not Run.objects.exists()
    assert not provider.requests


# ---- delivery


def read(person: Person, **asked: Any) -> tuple[list[dict[str, Any]], list[float], int]:
    """The events of a probe, when each arrived, and how many pings came between."""
    events, moments, pings = [], [], 0
    with person.http.stream("GET", DELIVERY, params=asked) as answer:
        assert answer.status_code == 200
        assert answer.headers["Content-Type"] == "text/event-stream"
        assert answer.headers["X-Accel-Buffering"] == "no"
        for line in answer.iter_lines():
            pings += line == ": ping"
            if line.startswith("data: "):
                events.append(json.loads(line.removeprefix("data: ")))
                moments.append(time.monotonic())
    return events, moments, pings


def test_probes_come_at_their_pace_then_pings_alone_then_the_end(ada: Person):
    events, moments, pings = read(ada, events=5, interval=0.1, silence=1.5)
    assert [event["type"] for event in events] == ["probe"] * 5 + ["probe_end"]
    assert [event["number"] for event in events[:-1]] == [1, 2, 3, 4, 5]
    assert pings == 1  # each HEARTBEAT_INTERVAL, 1 s here
    for index, event in enumerate(events[:-1]):
        assert event["sent_at"] >= index * 0.1 - 0.01
    assert events[-1]["sent_at"] >= 0.4 + 1.5
    # Live from end to end: they arrive as far apart as they were sent.
    for event, moment in zip(events, moments, strict=True):
        lag = (moment - moments[0]) - (event["sent_at"] - events[0]["sent_at"])
        assert abs(lag) < 0.5


@pytest.mark.parametrize(
    "asked",
    [{"events": 1}, {"events": 101}, {"interval": 1.1}, {"silence": 61}, {"silence": "NaN"}],
)
def test_a_probe_out_of_bounds_is_refused(ada: Person, asked: dict[str, Any]):
    answer = ada.get(DELIVERY, params=asked)
    assert answer.status_code == 422
    assert list(answer.json()["errors"]) == list(asked)


def test_a_probe_is_a_stream_that_counts_and_is_forgotten_when_its_viewer_leaves(
    ada: Person, settings: Any
):
    settings.STREAMS_PER_USER = 1
    with ada.http.stream("GET", DELIVERY, params={"silence": 60}) as answer:
        lines = answer.iter_lines()
        next(lines)
        assert ada.get(DELIVERY).status_code == 429
    deadline = time.monotonic() + 5
    while streams.open_streams():
        assert time.monotonic() < deadline


def test_what_is_left_empty_is_the_default():
    form = delivery.ProbeForm({"events": "", "silence": "0"})
    assert form.is_valid()
    assert form.probe == delivery.Probe(silence=0)


def test_the_page_says_when_there_is_no_model(make_person: Callable[..., Person]):
    page = make_person("bob").get(PAGE, headers={"Accept": "text/html"})
    assert page.status_code == 200
    assert "No model can be used" in page.text
