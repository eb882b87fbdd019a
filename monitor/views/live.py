"""The live board: every run in flight."""

import json
from uuid import UUID

from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.shortcuts import render
from django.views.decorators.http import require_GET, require_safe

from conversations import board, sse
from conversations.background import in_database
from conversations.engine import get_engine
from conversations.views import streams
from conversations.views.answers import endpoint, page, signed_in
from monitor import live
from monitor.forms import ORIGINS

MADE_FOR = {str(origin): label for origin, label in ORIGINS.items()}


@require_safe
@page
async def monitor_live(request: HttpRequest) -> HttpResponse:
    """The runs as they are now; the page's script keeps them up to date. Staff see everybody's."""
    user = await in_database(signed_in)(request)
    live_board = get_engine().board
    await live_board.look()
    news = live_board.news(None if user.is_staff else user.pk)
    shown = {
        "active": "live",
        "total": news.total,
        "rows": [
            {**entry.fields, "origin": MADE_FOR.get(entry.fields["origin"], "")}
            for entry in news.entries
        ],
        "stalled_after": round(board.STALLED_AFTER),
        "origins": json.dumps(MADE_FOR),
        "no_run": UUID(int=0),  # stands in addresses for the id of a run
    }
    return await in_database(render)(request, "monitor/live.html", shown)


@require_GET
@endpoint
async def live_events(request: HttpRequest) -> HttpResponseBase:
    """The same as a stream of events, `{"type": "runs"}` (`board.News.text`)."""
    user = await in_database(signed_in)(request)
    streams.check_room(user.pk)
    live_board = get_engine().board
    await live_board.look()
    return sse.response(live.updates(request, user, live_board))
