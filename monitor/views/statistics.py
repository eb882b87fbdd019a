"""What was used, and how fast it came, as charts and tables."""

from datetime import timedelta
from decimal import Decimal
from typing import Any
from urllib.parse import urlencode

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import reverse
from django.views.decorators.http import require_safe

from conversations.background import in_database
from conversations.views.answers import page, signed_in
from monitor import charts
from monitor import statistics as found
from monitor.forms import PERIODS, PeriodForm
from monitor.templatetags import figures
from monitor.views.choices import configurations_for, people_for

MOST_LINES = 100  # of a table of people


@require_safe
@page
async def statistics_page(request: HttpRequest) -> HttpResponse:
    """The figures of a period. Staff see everybody's, other people their own. The period and the
    filters are in the address."""
    user = await in_database(signed_in)(request)
    form = PeriodForm(request.GET.dict())
    shown: dict[str, Any] = {"active": "statistics", "form": form}
    if form.is_valid():
        scope = found.Scope(
            user, form.period, form.cleaned_data["user"], form.cleaned_data["configuration"]
        )
        shown |= figures_shown(await found.statistics(scope))
        shown |= {"period": form.period, "periods": _periods(form), "within": _within(form)}
    else:
        shown["periods"] = [(days, f"?days={days}", False) for days in PERIODS]
    return await in_database(_render)(request, user, form, shown)


def _render(
    request: HttpRequest, user: Any, form: PeriodForm, shown: dict[str, Any]
) -> HttpResponse:
    shown["configurations"] = configurations_for(user, form["configuration"].value())
    shown["people"] = people_for(user)
    shown |= {f"{name}_value": form.data.get(name, "") for name in ("from", "to")}
    status = 422 if form.errors else 200
    return render(request, "monitor/statistics.html", shown, status=status)


def _within(form: PeriodForm) -> str:
    """The same period and filters as fields of the list of runs."""
    period = form.period
    return urlencode({"from": period.first, "to": period.last + timedelta(days=1), **_kept(form)})


def _kept(form: PeriodForm) -> dict[str, str]:
    names = ("user", "configuration")
    return {name: form.cleaned_data[name] for name in names if form.cleaned_data[name]}


def _periods(form: PeriodForm) -> list[tuple[int, str, bool]]:
    """For each period on offer its days, its address, and whether it is the one shown."""
    return [
        (
            days,
            f"{reverse('statistics')}?{urlencode({'days': days, **_kept(form)})}",
            days == form.chosen_days,
        )
        for days in PERIODS
    ]


def figures_shown(statistics: found.Statistics) -> dict[str, Any]:
    """What the template needs of them."""
    return {
        "statistics": statistics,
        "failure_rate": _share(statistics.total.figures),
        "charts": _charts(statistics.days),
        "users": statistics.users[:MOST_LINES],
        "users_left_out": max(0, len(statistics.users) - MOST_LINES),
        "newest_days": [line for line in reversed(statistics.days) if line.figures.runs],
    }


def _share(total: found.Figures) -> str:
    percent = 100 * total.failed / max(total.runs, 1)
    return f"{percent:.1f} %" if 0 < percent < 10 else f"{percent:.0f} %"


def _charts(lines: list[found.Line]) -> list[charts.Chart]:
    days = [line.name for line in lines]
    used = [line.figures for line in lines]
    counted = [
        charts.stacked(
            "Runs",
            days,
            [
                charts.Series("completed", "good", [one.completed for one in used]),
                charts.Series("stopped", "quiet", [one.stopped for one in used]),
                charts.Series("failed", "bad", [one.failed for one in used]),
            ],
            _count,
            _count,
            least_step=1,
        ),
        charts.stacked(
            "Tokens",
            days,
            [
                charts.Series("in", "first", [one.prompt_tokens for one in used]),
                charts.Series("out", "second", [one.completion_tokens for one in used]),
            ],
            _count,
            _count,
            least_step=1,
        ),
        charts.stacked(
            "Cost in USD",
            days,
            [charts.Series("known", "first", [_cost(one) for one in used])],
            _money,
            _dollars,
            more=[f"{one.unknown_costs:,} unknown" if one.unknown_costs else "" for one in used],
        ),
    ]
    timed = [
        charts.lines(title, days, _percentiles(lines, name), show, axis)
        for title, name, show, axis in (
            ("Time to first chunk", "time_to_first_chunk", figures.seconds, "{:g} s".format),
            ("Total time", "processing_time", figures.seconds, "{:g} s".format),
            ("Tokens per second", "tokens_per_second", figures.short, "{:g}".format),
        )
    ]
    return counted + timed


def _percentiles(lines: list[found.Line], name: str) -> list[charts.Series]:
    return [
        charts.Series(
            f"p{percent}", f"p{percent}", [getattr(line.latency, name)[at] for line in lines]
        )
        for at, percent in enumerate(found.PERCENTS)
    ]


def _cost(one: found.Figures) -> charts.Number:
    """None, and no column, where runs have no known cost."""
    return Decimal(0) if not one.runs else one.cost_usd


def _count(value: charts.Number) -> str:
    return figures.count(None if value is None else round(value))


def _dollars(value: float) -> str:
    """A round amount, as an axis has it."""
    return f"${Decimal(repr(round(value, 10))).normalize():,f}"


def _money(value: charts.Number) -> str:
    return figures.money(None if value is None else Decimal(str(value)))
