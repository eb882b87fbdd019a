"""Where the monitor's long reads wait for each other, so that the chats do not wait for them."""

from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from conversations.background import in_database

P = ParamSpec("P")
T = TypeVar("T")

pool = ThreadPoolExecutor(2, thread_name_prefix="monitor")


def at_leisure(function: Callable[P, T]) -> Callable[P, Awaitable[T]]:
    """`function`, made awaitable: it may use the ORM, and may take seconds."""
    return in_database(function, executor=pool)
