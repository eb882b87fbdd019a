"""The ASGI application: Django, with the run engine beside it for as long as the process lives.

Streams go through a handler of their own. Django's gives every request a thread until its
response has ended, which for a stream is minutes; a stream needs none after its access check.
"""

import asyncio
import gc
import os
import re
from typing import Any, cast

from asgiref.typing import ASGI3Application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "llmchat.settings")

import django
from django.conf import settings
from django.core.handlers.asgi import ASGIHandler

django.setup(set_prefix=False)

from conversations import traces
from conversations.at_end import settle
from conversations.engine import get_engine, shut_down_engine
from conversations.sse import PIECE
from llmchat import lifecycle
from llmchat.guard import guarded
from llmchat.viewers import finish, paced

STREAMS = re.compile(
    r"^/((runs/[0-9a-f-]+/events|chat/stream|monitor/(live/events|test/delivery))/"
    r"|v1/(chat/completions|messages|responses)|api/v1/llm/complete/stream|monitor/activity/export\.(csv|json))$"
)
LAST_TRACES = 1.0  # s for sending what is left of them
SHUTDOWN_MARGIN = 8.0  # s beyond the grace that runs get, to store and close


class StreamHandler(ASGIHandler):
    """Django's handler without a thread that is kept while the response lasts."""

    chunk_size = PIECE

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await self.handle(scope, receive, send)


pages = guarded(cast(ASGI3Application, ASGIHandler()))
streams = paced(guarded(StreamHandler()))


async def route(scope: Any, receive: Any, send: Any) -> None:
    handler = streams if scope["type"] == "http" and STREAMS.match(scope["path"]) else pages
    try:
        await handler(scope, receive, send)
    finally:
        settle(scope)


async def start() -> None:
    get_engine()
    # What exists now stays: without this, collections of Django's objects hold up streams.
    gc.collect()
    gc.freeze()


async def stop() -> None:
    await shut_down_engine()
    await finish()
    await asyncio.to_thread(traces.flush, LAST_TRACES)


_limit = settings.SHUTDOWN_GRACE + SHUTDOWN_MARGIN
lifecycle.install(start, stop, _limit)
application: ASGI3Application = lifecycle.with_lifespan(route, start, stop, _limit)
