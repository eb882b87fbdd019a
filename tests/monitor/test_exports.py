"""The list of runs as a file: whole, exact, and harmless in a spreadsheet (M4, A26)."""

import asyncio
import csv
import io
import json
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import connection

from conversations.models import Run, UsageLog
from conversations.views import streams
from llmchat.asgi import STREAMS
from monitor import activity, exports
from monitor.activity import Filters
from tests.monitor.usage import NOON, ended, row, running
from tests.people import Person

COLUMNS = (
    "run_id session_id user configuration provider model status code prompt_tokens "
    "completion_tokens total_tokens reasoning_tokens cached_tokens cost_usd cost_source started_at "
    "ended_at time_to_first_chunk processing_time"
).split()


def table(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text, newline="")))


async def collected(parts: AsyncIterator[bytes]) -> bytes:
    return b"".join([part async for part in parts])


@pytest.mark.contract("M4")
def test_both_files_have_every_run_with_the_columns_of_the_contract(ada: Person):
    user = User.objects.get()
    run = running(user, NOON + timedelta(hours=1))
    done = ended(
        user,
        reasoning_tokens=2,
        cached_tokens=4,
        cost_usd=Decimal("0.0000012000"),
        time_to_first_chunk=0.12345,
    )
    failed = ended(
        user,
        NOON - timedelta(hours=1),
        status="error",
        code="TIMEOUT",
        cost_usd=None,
        cost_source="unknown",
        prompt_tokens=None,
        completion_tokens=None,
        time_to_first_chunk=None,
    )
    answer = ada.get("/monitor/activity/export.json")
    assert answer.headers["content-type"] == "application/json"
    found = answer.json()
    assert [list(one) for one in found] == [COLUMNS] * 3
    assert [one["run_id"] for one in found] == [str(run.pk), str(done.pk), str(failed.pk)]
    assert found[0] == dict.fromkeys(COLUMNS) | {
        "run_id": str(run.pk),
        "user": "ada",
        "configuration": "double",
        "provider": "openai",
        "model": "double-1",
        "status": "running",
        "code": "",
        "cost_source": "unknown",
        "started_at": "2026-03-10T13:00:00+00:00",
    }
    assert found[1] == {
        **found[0],
        "run_id": str(done.pk),
        "status": "done",
        "prompt_tokens": 10,
        "completion_tokens": 5,
        "total_tokens": 15,
        "reasoning_tokens": 2,
        "cached_tokens": 4,
        "cost_usd": 0.0000012,
        "cost_source": "computed",
        "started_at": "2026-03-10T12:00:00+00:00",
        "ended_at": "2026-03-10T12:00:02+00:00",
        "time_to_first_chunk": 0.123,
        "processing_time": 2.0,
    }
    assert (found[2]["code"], found[2]["total_tokens"], found[2]["cost_usd"]) == (
        "TIMEOUT",
        None,
        None,
    )

    answer = ada.get("/monitor/activity/export.csv")
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    assert answer.text.splitlines()[0] == ",".join(COLUMNS)
    written = [
        {name: "" if value is None else str(value) for name, value in one.items()} for one in found
    ]
    written[1]["cost_usd"] = "0.0000012"
    assert table(answer.text) == written


@pytest.mark.contract("A26")
@pytest.mark.parametrize("beginning", ["=", "+", "-", "@", "\t", "\r"])
def test_no_cell_is_a_formula_and_numbers_stay_numbers(ada: Person, beginning: str):
    user = User.objects.get()
    hostile = f'{beginning}HYPERLINK("http://x";"a,b")\n'
    ended(user, configuration=hostile, model=hostile, provider=hostile, code=hostile)
    UsageLog.objects.update(username=hostile)
    (found,) = table(ada.get("/monitor/activity/export.csv").text)
    for column in ("user", "configuration", "model", "provider", "code"):
        assert found[column] == f"'{hostile}"
    assert (found["prompt_tokens"], found["cost_usd"]) == ("10", "0.25")
    (found,) = ada.get("/monitor/activity/export.json").json()
    assert found["model"] == hostile  # no spreadsheet reads this one as cells


@pytest.mark.contract("A26")
@pytest.mark.parametrize("kind", ["csv", "json"])
def test_the_answer_is_a_file_with_a_safe_name(ada: Person, kind: str):
    answer = ada.get(f"/monitor/activity/export.{kind}?code=%22%0d%0aX-Evil:%201/../a")
    assert answer.status_code == 200
    disposition = answer.headers["content-disposition"]
    assert disposition.startswith('attachment; filename="llmchat-activity-20')
    assert disposition.endswith(f'.{kind}"')
    assert not set("/\\\r\n") & set(disposition.removeprefix("attachment; "))
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "no-store" in answer.headers["cache-control"]
    assert "x-evil" not in answer.headers


@pytest.mark.contract("A9")
def test_filters_and_rights_hold_for_files_as_for_the_page(
    make_person: Callable[..., Person], make_user: Callable[..., User]
):
    ada, boss = make_person("ada"), make_person("boss", is_staff=True)
    people = {user.username: user for user in User.objects.all()}
    own = ended(people["ada"], status="stopped")
    other = ended(people["boss"], NOON - timedelta(days=1))

    def found(person: Person, query: str = "") -> list[str]:
        answer = person.get(f"/monitor/activity/export.json{query}")
        return [one["run_id"] for one in answer.json()]

    assert found(ada) == [str(own.pk)]
    assert found(ada, "?user=boss") == []
    assert found(boss) == [str(own.pk), str(other.pk)]
    assert found(boss, "?status=stopped") == [str(own.pk)]
    refused = boss.get("/monitor/activity/export.csv?session=x")
    assert refused.status_code == 422
    assert list(refused.json()["errors"]) == ["session"]
    ada.http.cookies.clear()
    assert ada.get("/monitor/activity/export.csv").status_code == 401


def test_an_empty_list_is_an_empty_file(ada: Person):
    assert ada.get("/monitor/activity/export.json").json() == []
    assert ada.get("/monitor/activity/export.csv").text == ",".join(COLUMNS) + "\r\n"


def test_a_run_that_ends_meanwhile_is_there_once(
    make_user: Callable[..., User], monkeypatch: pytest.MonkeyPatch
):
    user = make_user("ada")
    monkeypatch.setattr(exports, "PORTION", 10)
    UsageLog.objects.bulk_create(row(user, NOON + timedelta(seconds=n)) for n in range(35))
    early, late = running(user, NOON + timedelta(seconds=30)), running(user, NOON)

    def end_both() -> None:
        for run in (early, late):
            started_at = Run.objects.get(pk=run.pk).started_at
            UsageLog.objects.bulk_create([row(user, started_at, run_id=run.pk)])
        Run.objects.update(status="done")

    async def read() -> bytes:
        parts = exports.stream(user.pk, Filters(), exports.JSON)
        first = await anext(parts) + await anext(parts)
        await asyncio.to_thread(_alone, end_both)
        return first + await collected(parts)

    found = {one["run_id"]: one["status"] for one in json.loads(asyncio.run(read()))}
    text = asyncio.run(collected(exports.stream(user.pk, Filters(), exports.JSON)))
    assert len(found) == len(json.loads(text)) == 37
    assert found[str(early.pk)] == "running"  # it was, when its place came
    assert found[str(late.pk)] == "done"


def _alone(function: Callable[[], None]) -> None:
    """In a thread that leaves no connection behind."""
    try:
        function()
    finally:
        connection.close()


@pytest.mark.parametrize("format", [exports.CSV, exports.JSON])
def test_a_file_that_breaks_off_does_not_look_whole(
    make_user: Callable[..., User],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    format: exports.Format,
):
    user = make_user("ada")
    monkeypatch.setattr(exports, "PORTION", 10)
    UsageLog.objects.bulk_create(row(user, NOON + timedelta(seconds=n)) for n in range(35))

    def close_the_account() -> None:
        User.objects.update(is_active=False)

    async def read() -> str:
        parts = exports.stream(user.pk, Filters(), format)
        first = await anext(parts) + await anext(parts)
        await asyncio.to_thread(_alone, close_the_account)
        return (first + await collected(parts)).decode()

    text = asyncio.run(read())
    if format is exports.CSV:
        assert text.splitlines()[-1].startswith("INCOMPLETE")
        assert len(text.splitlines()) == 12
    else:
        with pytest.raises(json.JSONDecodeError):
            json.loads(text)
    assert "broke off" in caplog.text


def test_reading_costs_a_query_a_portion_and_none_ahead_of_the_reader(
    make_user: Callable[..., User], monkeypatch: pytest.MonkeyPatch
):
    user = make_user("ada")
    read: list[int] = []
    whole = activity.ended_before

    def counted(*args: Any) -> Any:
        read.append(args[-1])
        return whole(*args)

    monkeypatch.setattr("monitor.exports.ended_before", counted)
    monkeypatch.setattr(exports, "PORTION", 100)
    UsageLog.objects.bulk_create(row(user, NOON + timedelta(seconds=n)) for n in range(1_000))

    async def read_some() -> int:
        parts = exports.stream(user.pk, Filters(), exports.CSV)
        for _ in range(3):
            await anext(parts)
        so_far = len(read)
        await collected(parts)
        return so_far

    assert asyncio.run(read_some()) == 2
    assert read == [100] * 11


@pytest.mark.parametrize("kind", ["csv", "json"])
def test_a_slow_reader_is_waited_for_as_in_every_stream(kind: str):
    assert STREAMS.match(f"/monitor/activity/export.{kind}")


def test_files_count_among_the_streams_of_a_person(ada: Person, settings: Any):
    user = User.objects.get()
    with streams.counted(user.pk):
        settings.STREAMS_PER_USER = 1
        refused = ada.get("/monitor/activity/export.csv")
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "5")
    assert ada.get("/monitor/activity/export.csv").status_code == 200


def test_a_file_ends_where_its_reader_signs_out(
    make_user: Callable[..., User], monkeypatch: pytest.MonkeyPatch
):
    user = make_user("ada")
    monkeypatch.setattr(exports, "PORTION", 10)
    UsageLog.objects.bulk_create(row(user, NOON + timedelta(seconds=n)) for n in range(35))
    answers = iter([True, True, False])
    parts = exports.stream(user.pk, Filters(), exports.CSV, lambda: next(answers))
    text = asyncio.run(collected(parts)).decode()
    assert len(table(text)) == 21
    assert text.splitlines()[-1].startswith("INCOMPLETE")
