"""The live board as a stream: what is new about the runs that a person may see, as it happens."""

from collections.abc import AsyncIterator, Iterator
from time import monotonic
from typing import Any

from django.conf import settings
from django.contrib.auth import get_user_model
from django.http import HttpRequest

from conversations.board import Board
from conversations.sse import PIECE, PING, RECONNECT_AFTER
from conversations.views import streams


async def updates(request: HttpRequest, user: Any, board: Board) -> AsyncIterator[bytes]:
    """The frames of one viewer: first all runs in flight, then what changes; pings in between.

    It ends when the viewer is signed out, is staff no more or becomes it (they come back and see
    what is theirs then), or when the process is about to end.
    """
    seen_user = None if user.is_staff else user.pk
    rights = streams.Rights(lambda: _are_unchanged(request, user))
    hint = f"retry: {RECONNECT_AFTER}\n"
    after, told_at = 0, monotonic()
    with streams.counted(user.pk), board.watched():
        await board.look()  # it forgets all when nobody watches, perhaps a moment ago
        while not board.is_closed and await rights.hold():
            news = board.news(seen_user, after)
            after = news.number
            if news.is_whole or news.entries or news.ends:
                for piece in _pieces(f"{hint}data: {news.text}\n\n"):
                    yield piece
                hint, told_at = "", monotonic()
            elif monotonic() - told_at >= settings.HEARTBEAT_INTERVAL:
                yield PING
                told_at = monotonic()
            silence = settings.HEARTBEAT_INTERVAL - (monotonic() - told_at)
            await board.wait(after, max(0.0, silence))


def _pieces(text: str) -> Iterator[bytes]:
    for position in range(0, len(text), PIECE):
        yield text[position : position + PIECE].encode()


def _are_unchanged(request: HttpRequest, user: Any) -> bool:
    """Whether the viewer is still signed in, and sees as much as before."""
    users = get_user_model().objects
    same = users.filter(pk=user.pk, is_active=True, is_staff=user.is_staff)
    return streams.is_signed_in(request) and same.exists()
