"""What was used and how fast it came, added up (M5)."""

import asyncio
import math
import random
import re
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from html import unescape
from typing import Any
from uuid import UUID

import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.test import Client

from conversations.models import UsageLog
from monitor import charts, statistics
from monitor.statistics import Figures, Latency, Line, Period, Scope
from tests.monitor.usage import NOON, ended, row, signed_in

ADDRESS = "/monitor/statistics/"
DAY = NOON.date()
AROUND = {"from": "2026-03-01", "to": "2026-03-31"}


@pytest.fixture
def ada(make_user: Callable[..., User]) -> User:
    return make_user("ada")


@pytest.fixture
def boss(make_user: Callable[..., User]) -> User:
    return make_user("boss", is_staff=True)


def store(*rows: UsageLog) -> None:
    UsageLog.objects.bulk_create(rows)


def found(viewer: User, first: date = DAY, last: date = DAY, **scope: str) -> Any:
    return asyncio.run(statistics.statistics(Scope(viewer, Period(first, last), **scope)))


def named(lines: list[Line]) -> dict[Any, Figures]:
    return {line.name: line.figures for line in lines}


@pytest.mark.contract("M5")
def test_every_table_adds_up_to_the_same_and_unknown_costs_are_counted_apart(ada: User, boss: User):
    store(
        row(ada),
        row(ada, configuration="other", cost_usd="0.0000000001", status="stopped"),
        row(ada, NOON + timedelta(days=1), cost_usd=None, status="error", code="TIMEOUT"),
        row(
            boss,
            NOON + timedelta(days=1),
            cost_usd=None,
            prompt_tokens=None,
            status="interrupted",
            code="INTERRUPTED",
        ),
        row(None, NOON + timedelta(days=1), cost_usd="2", code="TIMEOUT", status="error"),
        row(ada, NOON + timedelta(days=5)),  # not in the period
    )
    result = found(boss, DAY, DAY + timedelta(days=2))
    assert result.total.figures == Figures(
        runs=5,
        stopped=1,
        failed=3,
        prompt_tokens=40,
        completion_tokens=25,
        unknown_tokens=1,
        cost_usd=Decimal("2.2500000001"),
        unknown_costs=2,
    )
    for lines in (result.days, result.users, result.configurations):
        assert sum((line.figures for line in lines), Figures()) == result.total.figures
    assert [line.name for line in result.days] == [DAY + timedelta(days=n) for n in range(3)]
    assert [line.figures.runs for line in result.days] == [2, 3, 0]
    assert {name: one.runs for name, one in named(result.users).items()} == {
        "ada": 3,
        "boss": 1,
        "": 1,
    }
    assert named(result.users)["boss"].cost_usd is None
    assert named(result.configurations)["other"].cost_usd == Decimal("0.0000000001")
    assert result.errors == [("TIMEOUT", 2), ("INTERRUPTED", 1)]


@pytest.mark.contract("M5")
def test_plain_people_get_their_own_figures_whatever_they_ask_for(ada: User, boss: User):
    store(row(ada), row(boss), row(boss, configuration="secret"))
    assert named(found(ada).users) == {"ada": found(ada).total.figures}
    assert found(ada).total.figures.runs == 1
    assert found(ada, user="boss").total.figures.runs == 0
    assert found(boss).total.figures.runs == 3
    assert found(boss, user="ada").total.figures.runs == 1
    assert found(boss, configuration="secret").total.figures.runs == 1
    page = signed_in(ada).get(ADDRESS, AROUND).content.decode()
    assert "your own runs" in page
    assert "boss" not in page
    assert "secret" not in page
    assert Client(headers={"Accept": "text/html"}).get(ADDRESS).status_code == 302


def test_a_person_keeps_one_line_after_a_new_name_and_after_the_account_is_gone(
    make_user: Callable[..., User], boss: User
):
    ada = make_user("ada")
    store(row(ada))
    ada.username = "ada2"
    ada.save(update_fields=["username"])
    store(row(ada))
    assert {name: one.runs for name, one in named(found(boss).users).items()} == {"ada2": 2}
    ada.delete()
    assert {name: one.runs for name, one in named(found(boss).users).items()} == {
        "ada": 1,
        "ada2": 1,
    }


def test_days_begin_and_end_at_midnight_in_utc(ada: User):
    midnight = datetime(2026, 3, 10, tzinfo=UTC)
    store(
        row(ada, midnight - timedelta(microseconds=1)),
        row(ada, midnight),
        row(ada, midnight + timedelta(days=1, microseconds=-1)),
        row(ada, midnight + timedelta(days=1)),
    )
    assert found(ada).total.figures.runs == 2
    days = found(ada, DAY - timedelta(days=1), DAY + timedelta(days=1)).days
    assert [line.figures.runs for line in days] == [1, 2, 1]


@pytest.mark.contract("M5")
def test_percentiles_lie_between_the_values_around_them(ada: User):
    values = list(range(1, 101))
    random.Random(7).shuffle(values)
    store(
        *(row(ada, time_to_first_chunk=n, processing_time=n * 10) for n in values),
        row(ada, time_to_first_chunk=None, tokens_per_second=None),
        # What was not completed is no measure of how fast answers come.
        row(ada, status="error", time_to_first_chunk=9_999, processing_time=9_999),
        row(ada, NOON + timedelta(days=1), time_to_first_chunk=7),
        row(ada, NOON + timedelta(days=2), status="error"),
    )
    result = found(ada, DAY, DAY + timedelta(days=3))
    first = result.days[0].latency
    assert first.time_to_first_chunk == pytest.approx((50.5, 95.05, 99.01))
    assert first.processing_time[2] == pytest.approx(990)
    assert first.tokens_per_second == (3, 3, 3)
    assert result.days[1].latency.time_to_first_chunk == (7, 7, 7)
    assert result.days[2].latency == result.days[3].latency == Latency()
    for line in (result.users[0], result.configurations[0], result.total):
        assert line.latency.time_to_first_chunk[0] == pytest.approx(50)
    assert result.sampled is None


def test_percentiles_of_very_many_runs_are_those_of_a_sample(
    ada: User, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(statistics, "SAMPLE", {connection.vendor: 500})
    dice = random.Random(1)
    store(
        *(
            row(ada, run_id=UUID(int=dice.getrandbits(128)), time_to_first_chunk=n / 2_000)
            for n in range(2_000)
        )
    )
    result = found(ada)
    assert result.total.figures.runs == 2_000  # sums are of all
    assert result.sampled == 500
    p50, p95, p99 = result.total.latency.time_to_first_chunk
    assert (p50, p95, p99) == pytest.approx((0.5, 0.95, 0.99), abs=0.06)
    assert p99 != pytest.approx(0.99, abs=1e-4)
    page = signed_in(ada).get(ADDRESS, AROUND).content.decode()
    assert "a random sample of about 500" in page


@pytest.mark.contract("M5")
def test_the_page_has_charts_and_the_same_figures_in_tables(ada: User, boss: User):
    store(row(ada), row(ada, cost_usd=None), row(boss, status="error", code="TIMEOUT"))
    page = signed_in(boss).get(ADDRESS, AROUND).content.decode()
    assert page.count("<figure") == 6
    for title in ("By day", "By configuration", "By user", "Errors by code"):
        assert title in page
    assert "Tue 10 Mar 2026: completed 2, stopped 0, failed 1" in page
    assert "known $0.50, 1 unknown" in page
    table = page[page.index("By day") : page.index("By configuration")]
    cells = re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", table.split("<tbody>")[1], re.S)
    text = [re.sub(r"<[^>]+>", "", cell).strip() for cell in cells]
    assert text[:6] == ["Tue 10 Mar 2026", "3", "1", "30", "15", "$0.50 + 1 unknown"]
    (to_runs,) = re.findall(r'href="(/monitor/activity/\?code=[^"]+)"', page)
    failed = signed_in(boss).get(unescape(to_runs)).context["rows"]
    assert [one.code for one in failed] == ["TIMEOUT"]
    # A strict policy holds on the page: nothing in it needs inline script or style.
    assert not re.search(r"<script(?![^>]*src=)|\sstyle=|<style|\son\w+=", page)


def test_unknown_costs_alone_are_never_shown_as_nothing(ada: User):
    store(row(ada, cost_usd=None))
    page = signed_in(ada).get(ADDRESS, AROUND).content.decode()
    assert "<dt>Cost</dt><dd>unknown</dd>" in page
    assert "1 run of unknown cost" in page
    assert "$0<" not in page


@pytest.mark.contract("A23")
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("days", "8"),
        ("days", "-7"),
        ("from", "soon"),
        ("from", "0001-01-01"),
        ("from", "1990-01-01"),
        ("to", "9999-12-31"),
        ("user", "u" * 10_000),
        ("configuration", "a\x00"),
    ],
)
def test_a_bad_period_is_named_and_never_an_error_of_the_server(ada: User, field: str, value: str):
    page = signed_in(ada).get(ADDRESS, {field: value})
    assert page.status_code == 422
    assert 'role="alert"' in page.content.decode()


def test_periods_are_the_last_days_or_two_dates(ada: User):
    browser = signed_in(ada)
    today = datetime.now(UTC).date()
    for query, first, last in (
        ({}, today - timedelta(days=29), today),
        ({"days": "7"}, today - timedelta(days=6), today),
        ({"from": "2026-03-01", "to": "2026-03-01"}, date(2026, 3, 1), date(2026, 3, 1)),
        ({"to": "2026-03-31"}, date(2026, 3, 2), date(2026, 3, 31)),
        ({"from": "2026-03-01"}, date(2026, 3, 1), today),
    ):
        assert browser.get(ADDRESS, query).context["period"] == Period(first, last)
    refused = browser.get(ADDRESS, {"from": "2026-03-02", "to": "2026-03-01"})
    assert refused.status_code == 422


def test_the_overview_shows_today_and_that_the_accounting_is_whole(ada: User):
    now = datetime.now(UTC)
    ended(ada, now, cost_usd=None)
    ended(ada, now - timedelta(days=2))
    page = signed_in(ada).get("/monitor/").content.decode()
    assert "<dt>Runs</dt><dd>1</dd>" in page
    assert "1 run of unknown cost" in page
    assert 'data-accounting="0"' in page


# ---- charts


@pytest.mark.parametrize("most", [0.0003, 0.07, 1, 3, 9, 10, 12_345, 4e9])
def test_the_axis_has_round_steps_that_reach_the_highest_value(most: float):
    step = charts.nice_step(most)
    mantissa = step / 10 ** math.floor(math.log10(step) + 1e-9)
    assert round(mantissa, 6) in (1, 2, 5)
    assert math.ceil(most / step - 1e-9) <= charts.GRID_LINES


def chart_of(*series: charts.Series) -> charts.Chart:
    days = [DAY + timedelta(days=n) for n in range(len(series[0].values))]
    return charts.lines("Title", days, series, str, str)


def test_a_line_breaks_off_where_a_day_has_no_value():
    chart = chart_of(charts.Series("p50", "p50", [1, 2, None, 4]))
    assert [part[0] for part in re.findall(r"[ML][^ML]+", chart.curves[0].path)] == list("MLM")
    kinds = [dot.kind for column in chart.columns for dot in column.dots]
    assert kinds == ["p50", "p50", "p50 is-alone"]
    assert "p50 None" in chart.columns[2].label


def test_the_bars_of_a_day_stand_on_each_other_and_fit_the_plot():
    series = [charts.Series("a", "a", [3, 0]), charts.Series("b", "b", [1, 0])]
    chart = charts.stacked("Runs", [DAY, DAY + timedelta(days=1)], series, str, str, least_step=1)
    low, high = chart.columns[0].bars
    assert float(low.y) + float(low.height) == chart.bottom
    assert float(high.y) + float(high.height) == float(low.y)
    assert float(high.y) == chart.top
    assert chart.columns[1].bars == []
    assert [tick.label for tick in chart.ticks] == ["0.0", "1.0", "2.0", "3.0", "4.0"]


def test_a_chart_without_values_says_so():
    assert chart_of(charts.Series("p50", "p50", [None, None])).is_empty
    nothing = charts.stacked("Runs", [DAY], [charts.Series("a", "a", [0])], str, str)
    assert nothing.is_empty
