"""Keeps one failed response from harming the server that sends it."""

import logging

from asgiref.typing import (
    ASGI3Application,
    ASGIReceiveCallable,
    ASGISendCallable,
    ASGISendEvent,
    Scope,
)

log = logging.getLogger(__name__)


def guarded(app: ASGI3Application) -> ASGI3Application:
    """`app`, of which no exception escapes once a response has begun: it is logged, and the
    response ends.

    daphne 4.2 answers an exception with a page of its own. In the middle of a response that
    fails, and with it the loop that frees finished requests and reports errors, for good and for
    all clients; the client of this response waits for ever. An exception before the response
    begins is passed on, as the server has the right answer to it: 500.
    """

    async def application(
        scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable
    ) -> None:
        has_begun = has_ended = False

        async def tracked(event: ASGISendEvent) -> None:
            nonlocal has_begun, has_ended
            if event["type"] == "http.response.start":
                has_begun = True
            elif event["type"] == "http.response.body":
                has_ended = not event.get("more_body", False)
            await send(event)

        try:
            await app(scope, receive, tracked)
        except Exception:  # of any kind: what is not caught here breaks the server
            if not has_begun:
                raise
            log.exception("A response failed half-way: %s", scope.get("path"))
            if not has_ended:
                await send({"type": "http.response.body", "body": b"", "more_body": False})

    return application
