"""Viewers of runs, as pages are: they come back when they are cut off, and start over when told.

A viewer is a thread that notes every event it was shown, with the moment. `events` is what its page
has now; `shown` is all that it ever had, also what a crash took back.
"""

import threading
from collections.abc import Callable
from contextlib import suppress
from time import monotonic
from typing import Any, Self

import httpx

from tests.people import Person, Received, lines_of, parse, text_of

RETURN = 0.1  # s between two tries; a page waits a second
DEADLINE = 60.0  # s, for what is waited for


def stays(event: Received) -> bool:
    """For viewers that never hang up by themselves."""
    return False


class Viewer:
    """Follows a run to its end.

    `person` gives whom to ask, at the address that is right by then. `hangs_up` is called after
    each event and cuts the connection where it says True; it may take its time, and then the viewer
    has stalled.
    """

    def __init__(
        self,
        person: Callable[[], Person],
        run: dict[str, Any],
        hangs_up: Callable[[Received], bool] = stays,
    ) -> None:
        self.run = run
        self.events: list[Received] = []
        self.shown: list[tuple[float, Received]] = []  # moment (time.monotonic), event
        self.connections = 0
        self.faults: list[str] = []
        self._person = person
        self._hangs_up = hangs_up
        self._news = threading.Condition()
        self._has_left = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="viewer", daemon=True)
        self._thread.start()

    @property
    def text(self) -> str:
        return text_of(self.events)

    @property
    def has_end(self) -> bool:
        return bool(self.events) and self.events[-1].type in ("done", "error")

    def wait_for(self, holds: Callable[[Self], bool], timeout: float = DEADLINE) -> None:
        """Waits until something holds of this viewer; asked at each event."""
        with self._news:
            has_come = self._news.wait_for(lambda: holds(self), timeout)
        assert has_come, f"after {timeout} s a viewer has {self.events[-3:]}; {self.faults}"

    def wait_for_end(self, timeout: float = DEADLINE) -> list[Received]:
        """All events up to the end; fails if they are not whole by then."""
        self.wait_for(lambda viewer: viewer.has_end, timeout)
        assert self.faults == []
        return self.events

    def shown_by(self, moment: float) -> list[Received]:
        """What it had been shown by then."""
        return [event for at, event in self.shown if at <= moment]

    def leave(self) -> None:
        self._has_left.set()
        self._thread.join(DEADLINE)

    def _follow(self) -> None:
        while not self._has_left.is_set():
            with suppress(httpx.TransportError):  # cut off, or nobody there
                self._connect()
            if self.has_end:
                return
            self._has_left.wait(RETURN)

    def _connect(self) -> None:
        last_id = {"Last-Event-ID": self.events[-1].id} if self.events else {}
        http, url = self._person().http, self.run["events_url"]
        with http.stream("GET", url, headers=last_id) as response:
            if response.status_code == 204:
                # It is over, and a crash has taken what we saw last: the end has its number now.
                self.events = []
            if response.status_code != 200:
                return
            self.connections += 1
            for event in parse(lines_of(response)):
                self._take(event)
                if self._has_left.is_set() or self._hangs_up(event):
                    return

    def _take(self, event: Received) -> None:
        with self._news:
            if event.number == 1:
                self.events = []
            elif event.number != len(self.events) + 1:
                self.faults.append(f"{event.id} came after number {len(self.events)}")
            self.events.append(event)
            self.shown.append((monotonic(), event))
            self._news.notify_all()
