"""What a line of the log and an audit event know of where they came from: request, person, run.

A request's middleware and a run's tasks say it once; a context variable carries it into the threads
that work for them. Asking reads nothing from the database: who is not known yet is left out.
"""

from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Final, TypeVar
from uuid import UUID

from django.http import HttpRequest


@dataclass(frozen=True, slots=True)
class Asking:
    """A request, under the id that its log lines have in common."""

    request: HttpRequest
    request_id: str
    address: str  # of the client; "" where none is known

    @property
    def known_user(self) -> Any:
        """Who asks, if that has been looked up; else None."""
        for name in ("_cached_user", "_acached_user"):  # where Django keeps who it looked up
            user = getattr(self.request, name, None)
            if user is not None and user.is_authenticated:
                return user
        return None


_asking: ContextVar[Asking | None] = ContextVar("asking", default=None)
_run_id: ContextVar[UUID | None] = ContextVar("run_id", default=None)


def asking() -> Asking | None:
    """The request that is being answered here, if there is one."""
    return _asking.get()


AskingOrNone = TypeVar("AskingOrNone", bound=Asking | None)
NOTED: Final = "llmchat.asking"  # in the META of a request


def set_asking(value: AskingOrNone) -> AskingOrNone:
    """Says which request is answered in this context from now on, and gives that again."""
    _asking.set(value)
    if value is not None:
        value.request.META[NOTED] = value
    return value


def set_run(run_id: UUID) -> None:
    """Says that this task, and what it calls, works for a run."""
    _run_id.set(run_id)


def fields(request: Any = None) -> dict[str, Any]:
    """`run_id`, `request_id` and `user_id`, as far as they are known. `request` is what a record
    itself is about: Django logs some when the request has been left."""
    told: dict[str, Any] = {}
    run_id: object = _run_id.get()
    if current := _asking.get() or getattr(request, "META", {}).get(NOTED):
        match = current.request.resolver_match
        run_id = run_id or (match and match.kwargs.get("run_id"))
        told["request_id"] = current.request_id
        if user := current.known_user:
            told["user_id"] = user.pk
    if run_id:
        told["run_id"] = str(run_id)
    return told
