"""Why nothing came of a call: one value for all shapes, and the OpenAI error object (contract A1).

A provider's trouble is told apart from the caller's by its status, and has our code (S8).
"""

import functools
import logging
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from math import ceil
from typing import Any, Final

from django.db import InterfaceError, OperationalError
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseBase, JsonResponse
from django.utils.cache import add_never_cache_headers

from conversations.errors import BadValue, Refusal
from conversations.forms import Unreadable
from conversations.views.answers import STORAGE_RETRY

log = logging.getLogger(__name__)

STATUSES: Final = {
    "PROVIDER_OFFLINE": 502,
    "API_KEY_INVALID": 502,  # the provider's, which the caller knows nothing of
    "MODEL_NOT_FOUND": 502,
    "STREAM_INTERRUPTED": 502,
    "PROVIDER_ERROR": 502,
    "PROVIDER_OVERLOADED": 503,
    "INTERRUPTED": 503,
    "TIMEOUT": 504,
    "RATE_LIMIT_EXCEEDED": 429,
    "QUOTA_EXCEEDED": 429,
    "BUDGET_EXCEEDED": 429,
    "CONTEXT_LENGTH_EXCEEDED": 400,
    "CONTENT_FILTERED": 400,
    "INVALID_REQUEST": 400,
    "INTERNAL_ERROR": 500,
}
TYPES: Final = {
    401: "authentication_error",
    403: "permission_error",
    409: "conflict_error",
    429: "rate_limit_error",
}
SOON: Final = 60  # s that a client may wait by itself
QUOTAS: Final = ("QUOTA_EXCEEDED", "BUDGET_EXCEEDED")  # which waiting does not help with


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a call failed. `param` is the place of a bad value, such as `messages[0].role`;
    `retry_after` is in seconds; `is_final` says that the same call again cannot go better, or that
    the provider may still be at work on this one."""

    status: int
    code: str
    message: str
    param: str | None = None
    retry_after: float | None = None
    is_final: bool = False
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def type(self) -> str:
        """OpenAI's word for what kind of problem it is."""
        if self.code in QUOTAS:
            return "insufficient_quota"
        return TYPES.get(
            self.status, "server_error" if self.status >= 500 else "invalid_request_error"
        )

    @property
    def openai(self) -> dict[str, Any]:
        """The error object of OpenAI's API."""
        told = {"message": self.message, "type": self.type, "param": self.param, "code": self.code}
        return {"error": told}

    @classmethod
    def of_end(cls, error: Mapping[str, Any]) -> "Problem":
        """The one that the fields of an `error` event tell (S8)."""
        code = error["code"]
        return cls(
            status=STATUSES.get(code, 502),
            code=code,
            message=error["message"],
            retry_after=error["retry_after"],
            # Asked again by itself, a provider that timed out might do the work twice.
            is_final=not error["recoverable"] or code == "TIMEOUT",
        )


class Refused(Exception):
    """Nothing came of a call."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.message)
        self.problem = problem


class BadParameter(Exception):
    """A value that cannot be used. `param` is its place, `message` is for people."""

    def __init__(self, param: str, message: str) -> None:
        super().__init__(message)
        self.param = param
        self.message = message


def problem_of(error: Exception) -> Problem:
    """What is told of an exception. What nobody expected is logged and told as a defect."""
    match error:
        case Refused():
            return error.problem
        case BadParameter():
            return Problem(400, "INVALID_REQUEST", error.message, error.param, is_final=True)
        case BadValue():
            return Problem(400, "INVALID_REQUEST", error.message, error.field, is_final=True)
        case Unreadable():
            return Problem(400, "UNREADABLE", str(error), is_final=True)
        case Refusal():
            return Problem(
                error.status,
                error.code,
                error.message,
                retry_after=error.retry_after,
                # A budget whose next room is near is worth the wait; a month is not.
                is_final=error.code in QUOTAS and not 0 < (error.retry_after or 0) <= SOON,
            )
        case Http404():
            return Problem(404, "NOT_FOUND", "There is nothing here that you may see.")
        case OperationalError() | InterfaceError():
            log.error("storage failed in a call of the API", exc_info=error)
            return Problem(
                503,
                "STORAGE_UNAVAILABLE",
                "The server cannot store anything right now. Try again in a moment.",
                retry_after=STORAGE_RETRY,
            )
    log.error("a call of the API failed inside", exc_info=error)
    return Problem(
        500,
        "INTERNAL_ERROR",
        "Something went wrong inside llmchat; the details are in the server's log.",
    )


def openai_response(problem: Problem) -> JsonResponse:
    """The answer that makes OpenAI's clients raise their exception for it."""
    return error_response(problem, problem.openai)


def error_response(problem: Problem, body: Mapping[str, Any]) -> JsonResponse:
    """An answer with this body and what its headers say of the problem."""
    response = JsonResponse(body, status=problem.status, headers=dict(problem.headers))
    if problem.retry_after is not None:
        response["Retry-After"] = str(ceil(problem.retry_after))
    if problem.is_final:
        response["x-should-retry"] = "false"  # their clients repeat any 429 and 5xx by themselves
    if problem.status == 401:
        response["WWW-Authenticate"] = "Bearer"
    return response


def check_method(request: HttpRequest, *allowed: str) -> None:
    """Raises Refused for another method than these."""
    if request.method not in allowed:
        raise Refused(
            Problem(
                405,
                "METHOD_NOT_ALLOWED",
                f"This address takes {allowed[0]}, not {request.method}.",
                headers={"Allow": ", ".join(allowed)},
            )
        )


View = Callable[..., Coroutine[Any, Any, HttpResponseBase]]


def answering(shape: Callable[[Problem], HttpResponse]) -> Callable[[View], View]:
    """For async views of the API: whatever they raise is answered in this shape."""

    def decorate(view: View) -> View:
        @functools.wraps(view)
        async def answered(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
            try:
                response = await view(request, *args, **kwargs)
            except Exception as error:  # the caller gets an error object, whatever went wrong
                response = shape(problem_of(error))
            if not response.has_header("Cache-Control"):  # a stream says it in its own words
                add_never_cache_headers(response)
            return response

        return answered

    return decorate
