"""F5: the provider turns requests away. They come back in time, spread, and not too often."""

from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from statistics import pstdev
from typing import Any

import pytest

from conversations.models import UsageLog
from providers.models import Configuration
from tests.faults.checks import Watched, watch
from tests.people import Person
from tests.servers.provider import Provider, head, json_answer, openai_answer

pytestmark = pytest.mark.usefixtures("invariants")

RUNS = 50
ATTEMPTS = 3  # MAX_ATTEMPTS by default
RETRY_AFTER = 2.0  # s
DELAY = 0.5  # s that somebody else's trouble may cost at the most (G8)


@pytest.fixture
def other(transactional_db: None, provider: Provider) -> Configuration:
    """A second configuration, which answers."""
    provider.route(*openai_answer(*["fine "] * 20, pause=0.01), model="other")
    return Configuration.objects.create(
        name="Other", slug="other", kind="openai", model="other", base_url=provider.url
    )


def requests_by_run(provider: Provider) -> dict[str, list[float]]:
    """The moments of the requests to the double, by the prompt of their run."""
    moments = defaultdict(list)
    for request in provider.requests:
        if request.json["model"] == "double-1":
            moments[request.json["messages"][-1]["content"]].append(request.received_at)
    return moments


def seconds(watched: Watched) -> float:
    return watched.ended_at - watched.asked_at


@pytest.mark.contract("F5")
@pytest.mark.contract("P3")
def test_50_runs_that_are_told_to_wait_wait_and_come_back_spread_and_end_with_the_reason(
    ada: Person, openai: Configuration, other: Configuration, provider: Provider, settings: Any
):
    settings.RUNS_PER_USER = RUNS + 1
    slow_down = {"error": {"message": "slow down", "code": "rate_limit_exceeded"}}
    provider.route(
        *json_answer(slow_down, 429, {"Retry-After": f"{RETRY_AFTER:g}"}), model="double-1"
    )
    alone = watch(ada, configuration_id="other")
    chats = [ada.new_chat() for _ in range(RUNS)]

    def ask(number: int) -> dict[str, Any]:
        return ada.ask(chats[number], f"run {number}", configuration_id="double")

    with ThreadPoolExecutor(8) as threads:
        asked = list(threads.map(ask, range(RUNS)))
    provider.wait_for_request(RUNS)
    beside = watch(ada, configuration_id="other")
    ended = [ada.events(run) for run in asked]

    assert beside.end["type"] == "done"
    assert beside.ended_at - beside.asked_at < seconds(alone) + DELAY
    for events in ended:
        assert [event.type for event in events[2:]] == ["retry", "retry", "error"]
        error = events[-1].data
        assert (error["code"], error["recoverable"]) == ("RATE_LIMIT_EXCEEDED", True)
        assert error["retry_after"] == RETRY_AFTER
        for retry, attempt in zip(events[2:4], (2, 3), strict=True):
            assert retry.data["attempt"] == attempt
            assert retry.data["max_attempts"] == ATTEMPTS
            assert retry.data["delay"] >= RETRY_AFTER
            assert retry.data["code"] == "RATE_LIMIT_EXCEEDED"
    moments = requests_by_run(provider)
    assert [len(times) for times in moments.values()] == [ATTEMPTS] * RUNS
    waits = [late - early for times in moments.values() for early, late in pairwise(times)]
    assert min(waits) >= RETRY_AFTER
    delays = [event.data["delay"] for events in ended for event in events if event.type == "retry"]
    assert pstdev(delays) > 0.05 * RETRY_AFTER  # an even spread over a quarter has 0.07
    assert max(delays) <= 1.25 * RETRY_AFTER
    assert UsageLog.objects.filter(code="RATE_LIMIT_EXCEEDED", completion_tokens=None).count() == 50


@pytest.mark.contract("F5")
@pytest.mark.contract("P3")
def test_an_overload_without_a_time_is_tried_again_after_growing_spread_delays(
    ada: Person, openai: Configuration, provider: Provider, settings: Any
):
    settings.RUNS_PER_USER = 20
    provider.route(*json_answer({"error": {"message": "busy"}}, 503), model="double-1")
    with ThreadPoolExecutor(4) as threads:
        ended = list(threads.map(lambda n: watch(ada, f"run {n}"), range(20)))
    base = settings.RETRY_BASE_DELAY
    delays = [[retry["delay"] for retry in watched.retries] for watched in ended]
    for first, second in delays:
        assert base <= first <= 1.25 * base
        assert 2 * base <= second <= 2.5 * base
    assert pstdev(first for first, _ in delays) > 0.03 * base
    for watched in ended:
        assert watched.end["code"] == "PROVIDER_OVERLOADED"
        assert watched.end["retry_after"] is None  # none is known
    for times in requests_by_run(provider).values():
        first, second, third = times
        assert second - first >= base
        assert third - second >= 2 * base


@pytest.mark.contract("F5")
def test_an_overload_with_a_time_says_it_in_the_end(
    ada: Person, openai: Configuration, provider: Provider
):
    provider.route(*json_answer({}, 503, {"Retry-After": "0.1"}), model="double-1")
    watched = watch(ada)
    assert (watched.end["code"], watched.end["retry_after"]) == ("PROVIDER_OVERLOADED", 0.1)
    assert len(provider.requests) == ATTEMPTS


@pytest.mark.contract("F5")
def test_a_wait_that_is_too_long_is_reported_at_once(
    ada: Person, openai: Configuration, provider: Provider
):
    provider.reply(head(429, "application/json", {"Retry-After": "3600"}))
    watched = watch(ada)
    assert (watched.end["code"], watched.end["retry_after"]) == ("RATE_LIMIT_EXCEEDED", 3600)
    assert not watched.retries
    assert len(provider.requests) == 1


@pytest.mark.contract("F5")
def test_a_provider_that_takes_the_second_request_answers_it(
    ada: Person, openai: Configuration, provider: Provider
):
    provider.reply(*json_answer({}, 503))
    provider.reply(*openai_answer("at last"))
    watched = watch(ada)
    assert [event.type for event in watched.events[2:]] == ["retry", "chunk", "done"]
    assert watched.end["full_response"] == "at last"
    assert len(provider.requests) == 2


@pytest.mark.contract("P3")
def test_a_provider_that_is_not_there_is_looked_for_again_and_then_offline(
    ada: Person, openai: Configuration
):
    openai.base_url = "http://127.0.0.1:9"
    openai.save()
    watched = watch(ada)
    assert (watched.end["code"], watched.end["recoverable"]) == ("PROVIDER_OFFLINE", True)
    assert [retry["code"] for retry in watched.retries] == ["PROVIDER_OFFLINE"] * (ATTEMPTS - 1)
