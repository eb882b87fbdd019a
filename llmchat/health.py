"""Whether this process can do its work: the database, Redis where it is used, the journal.

Asked often, by programs, and most of all when something hangs. So a question to the database runs
in a thread of its own, one at a time, which nobody waits for longer than PATIENCE: it takes none of
the few threads that pages share, and it does not keep the process from ending.
"""

import asyncio
import logging
import threading
from collections.abc import Awaitable
from concurrent.futures import Future
from typing import Any, Final

from django.conf import settings
from django.db import connection
from redis.asyncio import Redis

from conversations.engine import running_engine

log = logging.getLogger(__name__)

PATIENCE: Final = 1.5  # s
LATE: Final = 10.0  # s that events may wait to be stored
OK, UNREACHABLE, BEHIND = "ok", "unreachable", "behind"

_question: Future[None] | None = None  # to the database, by now perhaps without an answer


async def look() -> dict[str, Any]:
    """What is asked, by part: "ok", "unreachable" or "behind"; `status` is "ok" if all are.

    `journal_lag` is in seconds: how long the oldest event of an answer has been waiting.
    """
    parts: dict[str, Awaitable[None]] = {"database": asyncio.wrap_future(_asked())}
    if settings.REDIS_URL:
        parts["redis"] = _redis(settings.REDIS_URL)
    found = await asyncio.gather(*(_in_time(name, part) for name, part in parts.items()))
    told: dict[str, Any] = dict(zip(parts, found, strict=True))
    engine = running_engine()
    lag = engine.journal.lag if engine else 0.0
    told["journal"] = OK if lag < LATE else BEHIND
    is_well = set(told.values()) == {OK}
    return {"status": OK if is_well else "unavailable", **told, "journal_lag": round(lag, 3)}


async def _in_time(name: str, part: Awaitable[None]) -> str:
    try:
        async with asyncio.timeout(PATIENCE):
            await part
    except Exception as error:  # whatever it is, it does not answer as it should
        # Without its words: they may name the host or the user of the database.
        log.warning("the health of the %s: %s", name, type(error).__name__)
        return UNREACHABLE
    return OK


def _asked() -> Future[None]:
    """The question to the database that is under way, or a new one."""
    global _question
    if _question is None or _question.done():
        _question = Future()
        _question.set_running_or_notify_cancel()  # who gives up waiting does not take it back
        threading.Thread(target=_ask, args=(_question,), name="health", daemon=True).start()
    return _question


def _ask(question: Future[None]) -> None:
    failure: Exception | None = None
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
    except Exception as error:  # the one who asked looks at it
        failure = error
    finally:
        connection.close()
    if failure:
        question.set_exception(failure)
    else:
        question.set_result(None)


async def _redis(url: str) -> None:
    async with Redis.from_url(
        url, socket_connect_timeout=PATIENCE, socket_timeout=PATIENCE
    ) as redis:
        await redis.ping()
