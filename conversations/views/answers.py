"""How requests are refused, in the one form that each kind of client expects (contract S12)."""

import functools
import inspect
import logging
from collections.abc import Callable
from typing import Any, TypeVar

from django.contrib.auth.views import redirect_to_login
from django.core.exceptions import RequestDataTooBig
from django.db import InterfaceError, OperationalError
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseBase, JsonResponse
from django.utils.cache import add_never_cache_headers

from conversations.errors import BadValue, Refusal
from conversations.forms import PlainForm, Unreadable

Response = TypeVar("Response", bound=HttpResponseBase)

log = logging.getLogger(__name__)

STORAGE_RETRY = 5  # s


class NotSignedIn(Exception):
    """The request needs a person, and has none."""


class Forbidden(Exception):
    """The request is not one that the app's own page makes. The text says why."""


def refused(status: int, code: str, message: str, retry_after: int | None = None) -> JsonResponse:
    response = JsonResponse({"error": {"code": code, "message": message}}, status=status)
    if retry_after is not None:
        response["Retry-After"] = str(retry_after)
    return response


def invalid(form: PlainForm) -> JsonResponse:
    return JsonResponse({"errors": form.errors}, status=422)


def is_htmx(request: HttpRequest) -> bool:
    """Whether HTMX asks: it wants the part of the page that changes."""
    return "HX-Request" in request.headers


def wants_page(request: HttpRequest) -> bool:
    """Whether a person's browser waits for a whole page, and no script, HTMX or other program.

    Programs that post often say that they take anything; a browser's form names HTML.
    """
    if is_htmx(request):
        return False
    if request.method in ("GET", "HEAD"):
        return request.accepts("text/html")
    return "text/html" in request.headers.get("Accept", "")


def _sign_in(request: HttpRequest, *, as_page: bool) -> HttpResponse:
    if as_page:
        return redirect_to_login(request.get_full_path() if request.method == "GET" else "/")
    return refused(401, "NOT_SIGNED_IN", "Sign in first; your session may have ended.")


def _answer(request: HttpRequest, error: Exception, *, as_page: bool) -> HttpResponse:
    match error:
        case NotSignedIn():
            return _sign_in(request, as_page=as_page)
        case Forbidden():
            return refused(403, "FORBIDDEN", str(error))
        case Http404() if not as_page:
            return refused(404, "NOT_FOUND", "There is nothing here that you may see.")
        case Unreadable():
            return refused(400, "UNREADABLE", str(error))
        case RequestDataTooBig():
            return refused(413, "TOO_LARGE", "This is more than the server takes in one request.")
        case BadValue():
            return JsonResponse({"errors": {error.field: [error.message]}}, status=422)
        case Refusal():
            return refused(error.status, error.code, error.message, error.retry_after)
        case OperationalError() | InterfaceError():
            log.error("storage failed at %s", request.path, exc_info=error)
            return refused(
                503,
                "STORAGE_UNAVAILABLE",
                "The server cannot store anything right now. Try again in a moment.",
                STORAGE_RETRY,
            )
    raise error


View = Callable[..., Any]


def page(view: View) -> View:
    """For views, plain or async, that answer people as well as programs: what they raise on
    purpose becomes a page, or JSON where no page is wanted."""
    return _answering(view, wants_page)


def endpoint(view: View) -> View:
    """For views that only programs call: what they raise on purpose becomes JSON."""
    return _answering(view, lambda _: False)


def _answering(view: View, is_page: Callable[[HttpRequest], bool]) -> View:
    if inspect.iscoroutinefunction(view):

        @functools.wraps(view)
        async def asynchronous(request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
            try:
                return _uncached(await view(request, *args, **kwargs))
            except Exception as error:
                return _uncached(_answer(request, error, as_page=is_page(request)))

        return asynchronous

    @functools.wraps(view)
    def plain(request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        try:
            return _uncached(view(request, *args, **kwargs))
        except Exception as error:
            return _uncached(_answer(request, error, as_page=is_page(request)))

    return plain


def _uncached(response: Response) -> Response:
    """What is answered is for one person at one moment: no cache keeps it, not even the browser's,
    which would show a chat as it was when people go back to it."""
    if not response.has_header("Cache-Control"):  # a stream says it in its own words
        add_never_cache_headers(response)
    return response


def signed_in(request: HttpRequest) -> Any:
    """The person who asks. Reads the database. Raises NotSignedIn."""
    if not request.user.is_authenticated:
        raise NotSignedIn
    return request.user
