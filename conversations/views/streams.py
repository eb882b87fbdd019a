"""Streams to people: how many each may have open, and whether one may still go on."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic
from typing import Any

from django.conf import settings
from django.db import InterfaceError, OperationalError
from django.http import HttpRequest

from conversations.background import in_database
from conversations.errors import Refusal

RIGHTS_INTERVAL = 10  # s between two looks whether a reader may still read

open_by_user: Counter[int] = Counter()  # of this process


def open_streams() -> int:
    """How many streams this process is sending."""
    return sum(open_by_user.values())


class TooManyStreams(Refusal):
    status = 429
    code = "TOO_MANY_STREAMS"
    message = "Too many streams are open for you. Close a tab, then try again."
    retry_after = 5


def check_room(user_id: int) -> None:
    """Raises TooManyStreams where one more is too many."""
    if open_by_user[user_id] >= settings.STREAMS_PER_USER:
        raise TooManyStreams


@contextmanager
def counted(user_id: int) -> Iterator[None]:
    """Counts a stream while it is open."""
    open_by_user[user_id] += 1
    try:
        yield
    finally:
        open_by_user[user_id] -= 1
        if not open_by_user[user_id]:
            del open_by_user[user_id]


def is_signed_in(request: HttpRequest) -> bool:
    """Whether the session with which a stream was opened still is one. Reads the database."""
    return request.session.exists(request.session.session_key or "")


class Rights:
    """Asks again, each RIGHTS_INTERVAL, whether a reader may still read (rule R10)."""

    def __init__(self, ask: Callable[[], bool]) -> None:
        """`ask` reads the database."""
        self._ask: Any = in_database(ask)
        self._asked_at = monotonic()

    async def hold(self) -> bool:
        """Whether they do, as far as is known: where the database is away, this is asked later."""
        if monotonic() - self._asked_at <= RIGHTS_INTERVAL:
            return True
        self._asked_at = monotonic()
        try:
            return bool(await self._ask())
        except (OperationalError, InterfaceError):
            return True
