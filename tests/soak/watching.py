"""Who watches runs in the soak, and whether they saw what is stored (G1, G3, G6).

Viewers come in four kinds: as a page does (rendered blocks) or raw, live or by asking again and
again. The live ones come through the cutting proxy.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from random import Random
from time import monotonic
from typing import Any

from conversations.rendering import render
from tests.faults.checks import drawn
from tests.faults.stored import SHOWN_IS_STORED
from tests.people import Person, Received, text_of
from tests.servers.viewers import Viewer
from tests.soak.answers import Answer

MOST_SHOWN = 200  # characters of an event in a report


class PageViewer(Viewer):
    """A viewer who gets blocks in place of chunks, several of which may have one number."""

    def _take(self, event: Received) -> None:
        with self._news:
            if event.number == 1:
                self.events = []
            elif self.events and event.number < self.events[-1].number:
                self.faults.append(f"{event.id} came after number {self.events[-1].number}")
            self.events.append(event)
            self.shown.append((monotonic(), event))
            self._news.notify_all()


def viewer_of(run: dict[str, Any], live: Person, asking: Person, chance: Random) -> Viewer:
    """A viewer of one of the four kinds: `live` is signed in at the proxy, `asking` is not."""
    is_page, polls = chance.random() < 0.5, chance.random() < 0.3
    query = "&".join([*(["view=html"] if is_page else []), *(["poll=1"] if polls else [])])
    url = f"{run['events_url']}?{query}" if query else run["events_url"]
    person = asking if polls else live
    return (PageViewer if is_page else Viewer)(lambda: person, {**run, "events_url": url})


def polls(viewer: Viewer) -> bool:
    return "poll=1" in viewer.run["events_url"]


def digest(events: Sequence[Received]) -> str:
    """Of a run's events: they never change."""
    return hashlib.sha256(repr(events).encode()).hexdigest()


def mismatches(viewer: Viewer, stored: list[Received]) -> Iterator[str]:
    """What a viewer who has the end has otherwise than it is stored, in sentences."""
    if not isinstance(viewer, PageViewer):
        if viewer.events != stored:
            yield f"a viewer has {_difference(viewer.events, stored)}"
        return
    *others, end = _but(viewer.events, "block")
    view = end.data["view"]
    told = {name: value for name, value in end.data.items() if name != "view"}
    has = [*others, replace(end, data=told)]
    if has != _but(stored, "chunk"):
        yield f"a page has {_difference(has, _but(stored, 'chunk'))}"
    if not view["is_as_stored"]:
        yield "a page was told that its text is not what is stored"
    blocks = drawn(viewer.events)
    if blocks != dict(enumerate(render(text_of(stored)))):
        yield "a page shows something else than after a reload"
    html = "\n".join(blocks[index] for index in sorted(blocks))
    if view["sha256"] != hashlib.sha256(html.encode()).hexdigest():
        yield "a page's blocks are not those that its end tells of"


def _but(events: Sequence[Received], type: str) -> list[Received]:
    return [event for event in events if event.type != type]


def _difference(has: Sequence[Received], stored: Sequence[Received]) -> str:
    pairs = enumerate(zip(has, stored, strict=False))
    first = next((index for index, (one, other) in pairs if one != other), None)
    at = min(len(has), len(stored)) if first is None else first
    return f"{_short(has[at : at + 2])} where {_short(stored[at : at + 2])} is stored"


def _short(events: Sequence[Received]) -> str:
    """What can be read in one line, and asked for in full at the run's address."""
    return "; ".join(f"{event.number} {str(event.data)[:MOST_SHOWN]}" for event in events) or "none"


def lost(viewers: Sequence[Viewer], stored: list[Received], kills: Sequence[float]) -> str:
    """The events that viewers of a run were shown and that a crash must not have taken (G3), in a
    sentence; empty if there are none. `kills` are the moments (time.monotonic) of the crashes since
    the run was started."""
    now = {event.id: event for event in stored}
    gone: dict[int, float] = {}  # when the first viewer got it; others may, until the run has ended
    for viewer in viewers:
        if not isinstance(viewer, PageViewer):
            for at, event in viewer.shown:
                if now.get(event.id) != event:
                    gone[event.number] = min(at, gone.get(event.number, at))
    if stored[-1].data.get("code") != "INTERRUPTED":
        return f"a viewer was shown what was never stored: {[*gone]}" if gone else ""
    first = min(kills, default=monotonic())
    early = {number: round(first - at, 3) for number, at in gone.items()}
    late = {number: before for number, before in early.items() if before > SHOWN_IS_STORED}
    return f"gone is what a viewer was shown (number: s before a crash): {late}" if late else ""


def dishonesty(stored: list[Received], answer: Answer, earlier: str) -> Iterator[str]:
    """What a run says otherwise than its provider said it. `earlier` is the text that the answer
    had before, where the run goes on with it."""
    end, text = stored[-1], text_of(stored)
    if not (text.startswith(earlier) and answer.text.startswith(text.removeprefix(earlier))):
        yield f"its text of {len(text)} characters is not what the provider wrote"
    is_done = end.type == "done" and not end.data["stopped"]
    if is_done and not (answer.is_whole and text == earlier + answer.text):
        yield "it is done, which the provider never said, or before its text was"
