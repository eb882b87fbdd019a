"""The delivery self-test: events whose moment of sending is known, so that a page can tell what the
way from here to there does to a stream.

First small events at a fixed pace, then a silent stretch with pings alone, as when a provider
thinks, then one last event. `sent_at` counts seconds from the first, on the server's clock.
"""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from time import monotonic
from typing import Any

from django import forms
from django.conf import settings

from conversations.events import encode
from conversations.forms import NumberField, PlainForm, within
from conversations.sse import PING


@dataclass(frozen=True, slots=True)
class Probe:
    """How many events are sent, the seconds between two, and those of the silence after them."""

    events: int = 20
    interval: float = 0.1
    silence: float = 12.0


class ProbeForm(PlainForm):
    """The bounds of a probe; what is left empty is the default."""

    events = forms.IntegerField(**within("a whole number", 2, 100))
    interval = NumberField(**within("seconds", 0, 1))
    silence = NumberField(**within("seconds", 0, 60))

    @property
    def probe(self) -> Probe:
        """Only for a valid form."""
        given: dict[str, Any] = {
            name: value for name, value in self.cleaned_data.items() if value is not None
        }
        return Probe(**given)


async def frames(probe: Probe) -> AsyncIterator[bytes]:
    """`{"type":"probe","number","of","sent_at"}` for each event, then, after the silence,
    `{"type":"probe_end","sent_at"}`. It takes no thread, and nothing but the time says when."""
    began = monotonic()
    for number in range(1, probe.events + 1):
        await asyncio.sleep(began + (number - 1) * probe.interval - monotonic())
        told = {"type": "probe", "number": number, "of": probe.events}
        yield _frame({**told, "sent_at": round(monotonic() - began, 4)})
    ends_at = monotonic() + probe.silence
    while (left := ends_at - monotonic()) > 0:
        await asyncio.sleep(min(left, settings.HEARTBEAT_INTERVAL))
        if monotonic() < ends_at:
            yield PING
    yield _frame({"type": "probe_end", "sent_at": round(monotonic() - began, 4)})


def _frame(told: dict[str, Any]) -> bytes:
    return f"data: {encode(told)}\n\n".encode()
