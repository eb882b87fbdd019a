"""A run belongs to the server: readers come, go, come back and see the same (S10, G1, G4)."""

import random
import threading
from uuid import uuid4

import pytest

from conversations.models import Message
from providers.models import Configuration
from tests.people import Person, text_of
from tests.servers.provider import Provider, head, openai_answer, openai_chunk, send, until


def half_answered(ada: Person, provider: Provider, count: int = 10):
    """A run whose provider has sent half of its chunks, and what lets it go on."""
    go_on = threading.Event()
    first = [send(openai_chunk(f"a{index} ")) for index in range(count)]
    second = openai_answer(*[f"b{index} " for index in range(count)], pause=0.005)[1:]
    provider.reply(head(), *first, until(go_on), *second)
    run = ada.ask(ada.new_chat(), "hello")
    text = "".join(f"{half}{index} " for half in "ab" for index in range(count))
    return run, go_on, text


@pytest.mark.contract("S10")
def test_losing_the_connection_neither_stops_nor_repeats_a_run(
    ada: Person, openai: Configuration, provider: Provider
):
    run, go_on, text = half_answered(ada, provider)
    for _ in range(3):
        with ada.follow(run["events_url"]) as events:
            next(event for event in events if event.type == "chunk")
    go_on.set()
    assert text_of(ada.events(run)) == text
    assert len(provider.requests) == 1
    assert Message.objects.get(role="assistant").content == text


@pytest.mark.contract("S10")
@pytest.mark.parametrize("where", ["header", "query"])
def test_a_reader_that_returns_gets_exactly_what_came_after(
    ada: Person, openai: Configuration, provider: Provider, where: str
):
    run, go_on, _ = half_answered(ada, provider)
    seen = []
    with ada.follow(run["events_url"]) as events:
        for event in events:
            seen.append(event)
            if event.type == "chunk":
                break
    go_on.set()
    if where == "header":
        rest = ada.events(run, last_event_id=seen[-1].id)
    else:
        url = f"{run['events_url']}?last_event_id={seen[-1].id}"
        rest = ada.events({"events_url": url})
    whole = ada.events(run)
    assert seen + rest == whole


@pytest.mark.contract("S10")
def test_a_finished_run_can_be_read_from_every_position(
    ada: Person, openai: Configuration, provider: Provider
):
    provider.reply(*openai_answer(*"abcdef", pause=0.01))
    run = ada.ask(ada.new_chat(), "hello")
    whole = ada.events(run)
    for position in range(1, len(whole)):
        assert ada.events(run, last_event_id=whole[position - 1].id) == whole[position:]
    assert ada.events(run) == whole
    after_the_end = ada.get(run["events_url"], headers={"Last-Event-ID": whole[-1].id})
    assert after_the_end.status_code == 204
    assert after_the_end.content == b""


@pytest.mark.contract("S10")
@pytest.mark.parametrize(
    "text", ["nonsense", "7", "{run}:", "{run}:x", "{run}:-1", "{run}:1.5", "{other}:1", ":1"]
)
def test_what_is_no_id_of_this_run_is_refused(
    ada: Person, openai: Configuration, provider: Provider, text: str
):
    provider.reply(*openai_answer("x"))
    run = ada.ask(ada.new_chat(), "hello")
    ada.events(run)
    position = text.format(run=run["run_id"], other=uuid4())
    answer = ada.get(run["events_url"], headers={"Last-Event-ID": position})
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "UNREADABLE"


@pytest.mark.contract("S10")
def test_a_position_beyond_what_is_stored_starts_over(
    ada: Person, openai: Configuration, provider: Provider
):
    provider.reply(*openai_answer("x"))
    run = ada.ask(ada.new_chat(), "hello")
    whole = ada.events(run)
    assert ada.events(run, last_event_id=f"{run['run_id']}:9999") == whole


def test_all_readers_see_the_same_numbers_and_the_same_text(
    ada: Person, openai: Configuration, provider: Provider
):
    run, go_on, text = half_answered(ada, provider)
    results = []
    threads = [threading.Thread(target=lambda: results.append(ada.events(run))) for _ in range(10)]
    for thread in threads:
        thread.start()
    go_on.set()
    for thread in threads:
        thread.join(20)
    assert len(results) == 10
    assert all(result == results[0] for result in results)
    assert text_of(results[0]) == text


@pytest.mark.parametrize("seed", range(3))
def test_a_stream_cut_at_random_bytes_and_resumed_equals_the_uncut_one(
    ada: Person, openai: Configuration, provider: Provider, seed: int
):
    chance = random.Random(seed)
    pieces = [chance.choice(["x", "日本", "\n\n", "data: ", "🎉 "]) for _ in range(60)]
    provider.reply(*openai_answer(*pieces, pause=0.004))
    run = ada.ask(ada.new_chat(), "hello")
    received: dict[int, str] = {}
    last = ""
    for _ in range(200):
        budget = chance.choice([20, 200, 900, 5000])
        headers = {"Last-Event-ID": last} if last else {}
        raw = b""
        with ada.http.stream("GET", run["events_url"], headers=headers) as response:
            if response.status_code == 204:
                break
            for data in response.iter_raw(7):
                raw += data
                if len(raw) > budget:
                    break
        for frame in raw.decode("utf-8", "ignore").split("\n\n")[:-1]:
            fields = dict(line.partition(": ")[::2] for line in frame.split("\n"))
            if "id" in fields:
                last = fields["id"]
                number = int(last.rpartition(":")[2])
                assert number not in received
                received[number] = fields["data"]
    whole = ada.events(run)
    assert [received[number] for number in sorted(received)] == [
        frame_data(event) for event in whole
    ]
    assert text_of(whole) == "".join(pieces)
    assert len(provider.requests) == 1


def frame_data(event) -> str:
    from conversations.events import encode

    return encode(event.data)


class TestTheViewForThePage:
    """`?view=html`: blocks in place of chunks."""

    ANSWER = (
        "Intro with **bold**.\n\n- one\n- two\n\n```python\nprint(1)\n```\n\n"
        "| a | b |\n|---|---|\n| 1 | 2 |\n\nThe [end][1].\n\n[1]: https://example.com\n"
    )

    def drawn(self, events) -> dict[int, str]:
        blocks: dict[int, str] = {}
        for event in events:
            if event.type == "block":
                blocks[event.data["index"]] = event.data["html"]
        return {index: html for index, html in blocks.items() if html}

    def expected(self) -> dict[int, str]:
        from conversations.rendering import render

        return dict(enumerate(render(self.ANSWER)))

    @pytest.mark.contract("S2")
    def test_what_is_drawn_while_streaming_is_what_a_reload_shows(
        self, ada: Person, openai: Configuration, provider: Provider
    ):
        pieces = [self.ANSWER[at : at + 3] for at in range(0, len(self.ANSWER), 3)]
        provider.reply(*openai_answer(*pieces, pause=0.01))
        run = ada.ask(ada.new_chat(), "hello")
        live = ada.events(run, view="html")
        assert self.drawn(live) == self.expected()
        assert not [event for event in live if event.type == "chunk"]
        assert live[-1].type == "done"
        numbers = [event.number for event in live]
        assert numbers == sorted(numbers)
        assert any(event.data.get("open") for event in live)
        late = ada.events(run, view="html")
        assert self.drawn(late) == self.expected()

    @pytest.mark.contract("S2")
    @pytest.mark.parametrize("cut", [3, 10, 25, 40])
    def test_a_page_that_returns_after_any_event_ends_with_the_same_blocks(
        self, ada: Person, openai: Configuration, provider: Provider, cut: int
    ):
        pieces = [self.ANSWER[at : at + 3] for at in range(0, len(self.ANSWER), 3)]
        provider.reply(*openai_answer(*pieces, pause=0.01))
        run = ada.ask(ada.new_chat(), "hello")
        seen = []
        with ada.follow(run["events_url"], view="html") as events:
            for event in events:
                if event.type == "done":
                    break  # pieces have come together, so that there were fewer events
                seen.append(event)
                if event.number >= cut:
                    break
        rest = ada.events(run, last_event_id=seen[-1].id, view="html")
        assert all(event.number >= seen[-1].number for event in rest)
        assert self.drawn(seen + rest) == self.expected()

    def test_an_empty_answer_draws_nothing_and_ends(
        self, ada: Person, openai: Configuration, provider: Provider
    ):
        provider.reply(*openai_answer())
        run = ada.ask(ada.new_chat(), "hello")
        events = ada.events(run, view="html")
        assert self.drawn(events) == {}
        assert events[-1].data["full_response"] == ""
