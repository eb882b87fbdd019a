"""What happens around every request: a name for its log lines, and static files without a thread
of their own."""

import re
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

from asgiref.sync import iscoroutinefunction, markcoroutinefunction, sync_to_async
from django.conf import settings
from django.http import HttpRequest, HttpResponseBase
from django.utils.decorators import sync_and_async_middleware
from whitenoise.middleware import WhiteNoiseMiddleware

from conversations.log_context import Asking, set_asking
from llmchat import clients

REQUEST_ID = re.compile(r"[\w.:-]{1,64}", re.ASCII)


@sync_and_async_middleware
def name_requests(get_response: Callable[[HttpRequest], Any]) -> Callable[[HttpRequest], Any]:
    """Gives each request an id, which its log lines and its answer (`X-Request-ID`) have.

    A stream is sent after this has returned, in the request's own task: there the id stays for
    what the stream logs, and goes with the task.
    """

    def end(response: HttpResponseBase, current: Asking) -> HttpResponseBase:
        response["X-Request-ID"] = current.request_id
        if not response.streaming:
            set_asking(None)
        return response

    if iscoroutinefunction(get_response):

        async def asynchronous(request: HttpRequest) -> HttpResponseBase:
            current = set_asking(_asking(request))
            return end(await get_response(request), current)

        return asynchronous

    def plain(request: HttpRequest) -> HttpResponseBase:
        current = set_asking(_asking(request))
        return end(get_response(request), current)

    return plain


def _asking(request: HttpRequest) -> Asking:
    return Asking(request, _request_id(request), clients.address(request))


def _request_id(request: HttpRequest) -> str:
    """That of the proxy in front, if there is one to be trusted; else a new one."""
    given = request.headers.get("X-Request-ID", "") if settings.TRUSTED_PROXIES else ""
    return given if REQUEST_ID.fullmatch(given) else uuid.uuid4().hex[:16]


class StaticFiles(WhiteNoiseMiddleware):
    """WhiteNoise for ASGI: the package's own class is synchronous and would pin a thread to each
    request while its view runs (an event stream, for instance, for minutes)."""

    sync_capable = False
    async_capable = True

    def __init__(self, get_response: Callable[[HttpRequest], Awaitable[HttpResponseBase]]) -> None:
        super().__init__(get_response)
        markcoroutinefunction(self)

    async def __call__(self, request: HttpRequest) -> HttpResponseBase:
        if self.autorefresh:
            file = await sync_to_async(self.find_file)(request.path_info)
        else:
            file = self.files.get(request.path_info)
        if file is None:
            response: HttpResponseBase = await self.get_response(request)
            return response
        served: HttpResponseBase = await sync_to_async(self.serve)(file, request)
        return served
