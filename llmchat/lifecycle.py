"""Start and stop hooks of the server process, whichever server it is.

daphne never speaks ASGI's lifespan protocol, and uvicorn never runs Twisted's reactor. `asgi.py`
therefore gives the same two hooks to `install` and to `with_lifespan`: exactly one of the two
takes effect, so each hook runs once in a process. An app's `ready()` would be the wrong place: it
runs in every management command too, and before there is a loop.

Both ways keep the same promises: a startup that fails ends the process, as a server without its
engine only looks alive; `shutdown` follows a startup that succeeded, and neither its errors nor
its duration, where a limit is given, keep the process from ending.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any, TypeVar, cast

# This import installs Twisted's asyncio reactor, so it has to come before the reactor's own.
import daphne.server  # noqa: F401  # isort: skip
from asgiref.typing import ASGI3Application, ASGIReceiveCallable, ASGISendCallable, Scope
from twisted.internet import reactor as installed_reactor
from twisted.internet.asyncioreactor import AsyncioSelectorReactor
from twisted.internet.defer import Deferred
from twisted.internet.error import ReactorNotRunning

Hook = Callable[[], Awaitable[None]]
T = TypeVar("T")

log = logging.getLogger(__name__)
reactor = cast(AsyncioSelectorReactor, installed_reactor)  # a module, for a type checker
_starting: asyncio.Task[bool] | None = None  # under daphne: whether the startup went well


# ---- Under daphne
def install(startup: Hook, shutdown: Hook, limit: float) -> None:
    """Has daphne run the hooks: `startup` when its loop begins, `shutdown` before it ends.

    Under any other server nothing happens. `limit` (s) is how long `shutdown` may take.
    """
    reactor.callWhenRunning(_start, startup)
    reactor.addSystemEventTrigger(
        "before", "shutdown", lambda: Deferred.fromFuture(_task(_stop(shutdown, limit)))
    )


def when_started(tell: Callable[[bool], None]) -> None:
    """Calls `tell` in daphne's loop as soon as the installed startup is over: did it go well?

    Without one: as soon as the loop begins. Not at all if the server is stopped before.
    """

    def tell_result(task: asyncio.Task[bool]) -> None:
        if not task.cancelled():
            tell(task.result())

    def listen() -> None:
        if _starting is None:
            tell(True)
        else:
            _starting.add_done_callback(tell_result)

    reactor.callWhenRunning(listen)


def _start(startup: Hook) -> None:
    global _starting
    _starting = _task(_start_or_end(startup))


async def _start_or_end(startup: Hook) -> bool:
    succeeded = await _succeeds(startup)
    if not succeeded:
        with suppress(ReactorNotRunning):  # a signal was quicker
            reactor.stop()  # type: ignore[no-untyped-call]  # Twisted annotates it in part
    return succeeded


async def _stop(shutdown: Hook, limit: float) -> None:
    if _starting is None:
        return
    if not _starting.done():
        _starting.cancel()
    elif _starting.result():
        await _run_shutdown(shutdown, limit)


def _task(coroutine: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
    return reactor._asyncioEventloop.create_task(coroutine)


# ---- Under uvicorn, and any other server that speaks the lifespan protocol
def with_lifespan(
    app: ASGI3Application, startup: Hook, shutdown: Hook, limit: float | None = None
) -> ASGI3Application:
    """`app` with an answer to the lifespan protocol, which Django and channels refuse.

    Every other scope is passed on. `limit` (s) as for `install`; None: as long as it takes.
    """

    async def application(
        scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable
    ) -> None:
        if scope["type"] != "lifespan":
            await app(scope, receive, send)
            return
        await receive()  # lifespan.startup
        if not await _succeeds(startup):
            await send({"type": "lifespan.startup.failed", "message": "The log says why."})
            return
        await send({"type": "lifespan.startup.complete"})
        await receive()  # lifespan.shutdown
        await _run_shutdown(shutdown, limit)
        await send({"type": "lifespan.shutdown.complete"})

    return application


# ---- Both
async def _succeeds(startup: Hook) -> bool:
    try:
        await startup()
    except Exception:  # whatever it is, it goes to the log, and the caller ends the process
        log.exception("The start failed; the server ends.")
        return False
    return True


async def _run_shutdown(shutdown: Hook, limit: float | None) -> None:
    task = asyncio.ensure_future(shutdown())
    # Not wait_for(): that waits on for a hook which takes its time over being cancelled.
    await asyncio.wait({task}, timeout=limit)
    if not task.done():
        task.cancel()
        log.error("The shutdown was given up after %g s.", limit)
    elif not task.cancelled() and (error := task.exception()):
        log.error("The shutdown failed.", exc_info=error)
