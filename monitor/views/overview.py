"""What today came to, at a glance."""

from datetime import UTC, datetime, time, timedelta
from typing import Any

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_safe

from conversations import accounting
from conversations.background import in_database
from conversations.models import Run
from conversations.views.answers import page, signed_in
from monitor.reading import at_leisure
from monitor.statistics import NOTHING, Period, Scope, figures

CHECKED_DAYS = 7


@require_safe
@page
async def overview_page(request: HttpRequest) -> HttpResponse:
    """Tiles with the figures of today (UTC) and the difference of the accounting; the way to the
    other pages. Staff see everybody's, other people their own."""
    user = await in_database(signed_in)(request)
    shown = await at_leisure(_found)(user)
    return await in_database(render)(request, "monitor/overview.html", shown)


def _found(user: Any) -> dict[str, Any]:
    today = datetime.now(UTC).date()
    since = datetime.combine(today - timedelta(days=CHECKED_DAYS), time(), UTC)
    return {
        "active": "overview",
        "today": figures(Scope(user, Period(today, today)), {}).get((), NOTHING),
        "running": Run.objects.in_monitor_of(user).running().count(),
        "account": accounting.check(user, since),
        "checked_days": CHECKED_DAYS,
    }
