"""500 cuts of viewers' streams at random bytes. Whoever returns with the id of the last event that
was whole has, in the end, what an uncut viewer has (S10, G1, F9)."""

from random import Random

import httpx
import pytest

from conversations.models import Message
from conversations.rendering import render
from providers.models import Configuration
from tests.faults.checks import drawn
from tests.faults.raw import whole_events
from tests.people import Person, Received, text_of
from tests.servers.app import AppServer
from tests.servers.provider import (
    OPENAI_DONE,
    Provider,
    Step,
    head,
    openai_chunk,
    openai_tool_call,
    openai_usage,
    send,
    wait,
)
from tests.servers.proxy import Proxy

pytestmark = pytest.mark.usefixtures("invariants")

CUTS = 63  # in each of the 8 tests: 504
PIECES = [
    "Zürich ",
    "日本",
    "🎉 ",
    "\u2028",
    "data: ",
    "id: 1:7",
    "\n",
    "\n\n",
    "**bold** ",
    "e\u0301",
]
CODE = """Look:

```python
for wörd in 'データ':
    print(f"{wörd}\\r\\n")  # 🎉
```

1. one
2. two

"""
PAUSE = wait(0.003)


def answer_of(kind: str, chance: Random) -> list[Step]:
    """A whole answer of this kind, over a third of a second."""
    text = [chance.choice(PIECES) for _ in range(80)]
    if kind == "code":
        text = [(CODE * 4)[at : at + 6] for at in range(0, 4 * len(CODE), 6)]
    thoughts = text[:40] if kind == "reasoning" else []
    calls = openai_tool_call("search", *['{"日本":', "[1,", '"\\n"', "]}"] * 5)
    chunks = [
        *[send(openai_chunk(reasoning=piece)) for piece in thoughts],
        *[send(openai_chunk(piece)) for piece in text],
        *(calls if kind == "tool calls" else []),
    ]
    paced = [step for chunk in chunks for step in (chunk, PAUSE)]
    return [
        head(),
        *paced,
        send(openai_chunk(finish="stop")),
        send(openai_usage()),
        send(OPENAI_DONE),
    ]


def bytes_of(chance: Random) -> int:
    """After how many bytes of its answer a connection is cut: in the head, soon, or later."""
    return chance.choice([chance.randint(1, 400), *[chance.randint(400, 1200)] * 8, 9000])


class CutViewer:
    """A viewer who returns, again and again, with the id of the last whole event."""

    def __init__(self, person: Person, proxy: Proxy, url: str, view: str) -> None:
        self.events: list[Received] = []
        self.cuts = 0
        self._person = person
        self._url = f"{proxy.url}{url}"
        self._params = {"view": view} if view else {}

    def read_to_the_end(self) -> None:
        while not (self.events and self.events[-1].type == "done"):
            self._read()

    def _read(self) -> None:
        headers = {"Last-Event-ID": self.events[-1].id} if self.events else {}
        data = b""
        try:
            with self._person.http.stream(
                "GET", self._url, headers=headers, params=self._params
            ) as response:
                for piece in response.iter_raw():
                    data += piece
        except httpx.TransportError:
            self.cuts += 1
        self.events += whole_events(data)


@pytest.mark.contract("S10")
@pytest.mark.contract("F9")
@pytest.mark.parametrize("view", ["", "html"], ids=["raw", "html"])
@pytest.mark.parametrize("kind", ["text", "code", "reasoning", "tool calls"])
def test_a_stream_that_is_cut_at_random_bytes_ends_with_all_of_it_and_nothing_twice(
    app: AppServer, ada: Person, openai: Configuration, provider: Provider, kind: str, view: str
):
    chance = Random(f"{kind} {view}")
    port = int(app.url.rpartition(":")[2])
    cuts = runs = 0
    with Proxy(port) as proxy:
        proxy.cut_after = lambda number: bytes_of(chance)
        while cuts < CUTS:
            provider.reply(*answer_of(kind, chance))
            run = ada.ask(ada.new_chat(), "hello")
            viewer = CutViewer(ada, proxy, run["events_url"], view)
            viewer.read_to_the_end()
            cuts, runs = cuts + viewer.cuts, runs + 1
            uncut = ada.events(run)
            stored = Message.objects.get(pk=uncut[-1].data["assistant_message_id"]).content
            assert text_of(uncut) == uncut[-1].data["full_response"] == stored
            if view:
                assert drawn(viewer.events) == dict(enumerate(render(stored)))
                whole = ada.events(run, view=view)
                assert without_blocks(viewer.events) == without_blocks(whole)
            else:
                assert viewer.events == uncut
    assert len(provider.requests) == runs


def without_blocks(events: list[Received]) -> list[Received]:
    return [event for event in events if event.type != "block"]
