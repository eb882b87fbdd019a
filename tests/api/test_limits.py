"""How much one person may call (A25): more is refused, and the answer says when to go on."""

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import httpx
import pytest
from django.utils import timezone

from conversations.models import Run
from tests.api.conftest import call, problem
from tests.servers.provider import Provider, head, openai_answer, until

pytestmark = pytest.mark.usefixtures("openai")

PATH = "/v1/chat/completions"


@pytest.mark.contract("A25")
def test_more_calls_than_a_minute_has_room_for_are_refused_and_say_when_to_go_on(
    http: httpx.Client, provider: Provider, settings: Any
):
    settings.API_REQUESTS_PER_MINUTE = 3
    provider.route(*openai_answer("ok"))
    with ThreadPoolExecutor(6) as threads:
        answers = list(threads.map(lambda _: http.post(PATH, json=call()), range(6)))
    assert sorted(answer.status_code for answer in answers) == [200] * 3 + [429] * 3
    refused = next(answer for answer in answers if answer.status_code == 429)
    error = problem(refused, 429)
    assert (error["code"], error["type"]) == ("rate_limit_exceeded", "rate_limit_error")
    assert 0 < int(refused.headers["Retry-After"]) <= 60
    assert refused.headers["x-ratelimit-limit-requests"] == "3"
    assert refused.headers["x-ratelimit-remaining-requests"] == "0"
    assert refused.headers["x-ratelimit-reset-requests"] == f"{refused.headers['Retry-After']}s"
    assert len(provider.requests) == 3
    Run.objects.update(started_at=timezone.now() - timedelta(seconds=61))
    assert http.post(PATH, json=call()).status_code == 200


@pytest.mark.contract("A25")
def test_more_runs_at_a_time_than_a_person_may_have_are_refused(
    http: httpx.Client, provider: Provider, settings: Any
):
    settings.RUNS_PER_USER = 1
    go_on = threading.Event()
    provider.reply(head(), until(go_on), *openai_answer("first")[1:])
    with ThreadPoolExecutor(1) as threads:
        first = threads.submit(http.post, PATH, json=call())
        provider.wait_for_request()
        second = http.post(PATH, json=call())
        go_on.set()
        assert first.result().status_code == 200
    assert problem(second, 429)["code"] == "TOO_MANY_RUNS"
    assert second.headers["Retry-After"] == "5"
