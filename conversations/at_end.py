"""What is done when a request is over, however it ended: answered, failed, or its client left.

A view cannot see to this itself: it may be cancelled at any `await`, its middleware as well, and
the body of a response that nobody came for is never begun. Only the server's call of the
application (`llmchat.asgi`) knows the end of all of them.
"""

from collections.abc import Callable, MutableMapping
from typing import Any

from django.http import HttpRequest

KEY = "llmchat.at_end"


def at_end(request: HttpRequest, act: Callable[[], object]) -> None:
    """Has `act` called, in the event loop, when this request is over. Only for requests that came
    through ASGI."""
    scope: dict[str, Any] = getattr(request, "scope")  # noqa: B009 - of ASGI requests alone
    scope.setdefault(KEY, []).append(act)


def settle(scope: MutableMapping[str, Any]) -> None:
    """Does what was to be done at the end of this request."""
    for act in scope.pop(KEY, ()):
        act()
