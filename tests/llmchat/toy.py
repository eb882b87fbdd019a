"""A small ASGI application with hooks, for real servers in processes of their own.

It tells on its standard output what happens to it, a line each. The environment steers it:
`TOY_STARTUP=fail`, `TOY_SHUTDOWN=fail|hang|stubborn`.
"""

import asyncio
import os

from asgiref.typing import ASGIReceiveCallable, ASGISendCallable, Scope

from llmchat.guard import guarded
from llmchat.lifecycle import install, with_lifespan

LIMIT = 0.5  # s, of the shutdown


def tell(line: str) -> None:
    os.write(1, f"{line}\n".encode())


async def startup() -> None:
    tell("startup")
    await asyncio.sleep(0)
    if os.environ.get("TOY_STARTUP") == "fail":
        raise RuntimeError("the startup of the toy failed")


async def shutdown() -> None:
    tell("shutdown begins")
    how = os.environ.get("TOY_SHUTDOWN")
    if how == "fail":
        raise RuntimeError("the shutdown of the toy failed")
    while how in {"hang", "stubborn"}:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            if how == "hang":
                raise
    await asyncio.sleep(0.05)
    tell("shutdown ends")


async def app(scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
    """`/`: an answer. `/early`, `/middle`, `/late`: an exception before, in and after one.
    `/open`: an answer that never ends."""
    if scope["type"] != "http":
        raise ValueError(f"no {scope['type']} here")
    path = scope["path"]
    if path == "/early":
        raise RuntimeError("the toy failed early")
    await send({"type": "http.response.start", "status": 200, "headers": [], "trailers": False})
    await send({"type": "http.response.body", "body": b"begun", "more_body": True})
    if path == "/middle":
        raise RuntimeError("the toy failed in the middle")
    if path == "/open":
        await asyncio.Event().wait()
    await send({"type": "http.response.body", "body": b" ended", "more_body": False})
    if path == "/late":
        raise RuntimeError("the toy failed late")


install(startup, shutdown, LIMIT)
application = with_lifespan(guarded(app), startup, shutdown, LIMIT)
