"""Work beside the requests: database calls in one bounded pool, and tasks that the server owns.

A task that is started from a request would inherit the request's own thread and keep a database
connection in it for ever; `spawn` gives it a fresh context, and `in_database` a thread of the few
that share the database (docs/decisions.md and docs/performance.md have the figures).
"""

import asyncio
import contextvars
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from time import monotonic
from typing import Any, ParamSpec, TypeVar

from channels.db import database_sync_to_async
from django.db import OperationalError, connection
from psycopg_pool import PoolTimeout

P = ParamSpec("P")
T = TypeVar("T")

pool = ThreadPoolExecutor(4, thread_name_prefix="database")
# The journal's writes have a thread of their own: page loads that fill the pool do not delay them.
writer_pool = ThreadPoolExecutor(1, thread_name_prefix="journal")
_tasks: set[asyncio.Task[Any]] = set()

LEFT_ALONE = 1.0  # s for which nobody asks a database that could not be reached
_away_until = 0.0  # monotonic


def in_database(
    function: Callable[P, T], *, executor: ThreadPoolExecutor = pool
) -> Callable[P, Awaitable[T]]:
    """`function`, made awaitable: it runs in the pool and may use the ORM.

    Raises OperationalError at once where the database could not be reached a moment ago: each try
    holds a thread for seconds, and all who wait for one would wait in line.
    """

    def kept(*args: P.args, **kwargs: P.kwargs) -> T:
        global _away_until
        if monotonic() < _away_until:
            raise OperationalError("the database could not be reached a moment ago")
        try:
            return function(*args, **kwargs)
        except OperationalError as error:
            if isinstance(error.__cause__, PoolTimeout):
                _away_until = monotonic() + LEFT_ALONE
            raise
        finally:
            # The threads are few and stay, so each keeps its connection to SQLite. Opening one
            # costs as much as several queries, and closing the last one writes the whole WAL back.
            # Those to PostgreSQL return to the driver's own pool.
            if connection.vendor == "sqlite":
                connection.close_at = None

    awaitable: Callable[P, Awaitable[T]] = database_sync_to_async(
        kept, thread_sensitive=False, executor=executor
    )
    return awaitable


def spawn(coroutine: Coroutine[Any, Any, T], name: str) -> asyncio.Task[T]:
    """A task that no request owns: it outlives the one that started it."""
    task = asyncio.get_running_loop().create_task(
        coroutine, name=name, context=contextvars.Context()
    )
    _tasks.add(task)  # the loop itself keeps only weak references
    task.add_done_callback(_tasks.discard)
    return task
