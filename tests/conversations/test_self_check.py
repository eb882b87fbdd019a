"""Who reads a run can tell whether all of it arrived; what did not is counted (G1, issue 3)."""

import hashlib
import threading
from typing import Any
from uuid import UUID

import pytest

from conversations import live_page
from conversations.events import RunEvent, chunk, encode
from conversations.models import EventBatch, Run
from conversations.rendering import render
from providers.models import Configuration
from tests.people import Person, Received
from tests.servers.provider import (
    Provider,
    head,
    openai_answer,
    openai_chunk,
    reset,
    send,
    until,
    wait,
)

TEXT = (
    "Zürich 🎉 **bold**.\n\n- 日本\n- two\n\n```python\nprint(1)\n```\n\n"
    "See [here][1].\n\n| a |\n|---|\n| 1 |\n\n[1]: https://example.com\n"
)


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def answered(ada: Person, provider: Provider, *pieces: str, **options: Any) -> dict[str, Any]:
    provider.reply(*openai_answer(*pieces, **options))
    return ada.ask(ada.new_chat(), "hello")


def drawn(events: list[Received]) -> dict[int, str]:
    return {event.data["index"]: event.data["html"] for event in events if event.type == "block"}


def check(events: list[Received]) -> None:
    """What a page that has got these events finds."""
    view = events[-1].data["view"]
    blocks = drawn(events)
    html = "\n".join(blocks[index] for index in range(view["blocks"]))
    assert not any(html for index, html in blocks.items() if index >= view["blocks"])
    assert (len(html), sha256(html)) == (view["length"], view["sha256"])
    assert view["is_as_stored"] is True


def test_the_end_of_the_page_says_what_the_reader_must_hold(
    ada: Person, openai: Configuration, provider: Provider
):
    run = answered(ada, provider, *[TEXT[at : at + 3] for at in range(0, len(TEXT), 3)], pause=0.01)
    live = ada.events(run, view="html")
    check(live)
    blocks = render(TEXT)
    joined = "\n".join(blocks)
    assert live[-1].data["view"] == {
        "is_as_stored": True,
        "blocks": len(blocks),
        "length": len(joined),
        "sha256": sha256(joined),
    }
    late = ada.events(run, view="html")
    check(late)
    assert late[-1] == live[-1]
    assert Run.objects.get().mismatches == 0


def test_the_end_itself_is_stored_and_read_without_the_view(
    ada: Person, openai: Configuration, provider: Provider
):
    run = answered(ada, provider, "Zürich 🎉")
    with_view = ada.events(run, view="html")[-1].data
    plain = ada.events(run)[-1].data
    assert (plain["length"], plain["sha256"]) == (8, sha256("Zürich 🎉"))
    assert with_view.pop("view")
    assert with_view == plain


@pytest.mark.parametrize("cut", [3, 10, 25, 40])
def test_the_view_is_right_for_who_returns_with_blocks_from_before(
    ada: Person, openai: Configuration, provider: Provider, cut: int
):
    run = answered(ada, provider, *[TEXT[at : at + 3] for at in range(0, len(TEXT), 3)], pause=0.01)
    seen = []
    with ada.follow(run["events_url"], view="html") as events:
        for event in events:
            if event.type == "done":
                break  # pieces have come together, so that there were fewer events
            seen.append(event)
            if event.number >= cut:
                break
    check(seen + ada.events(run, last_event_id=seen[-1].id, view="html"))


def test_the_view_is_right_for_who_has_missed_nothing_but_the_end(
    ada: Person, openai: Configuration, provider: Provider
):
    run = answered(ada, provider, "One\n\n", "[1]: https://example.com\n")
    whole = ada.events(run, view="html")
    for position, event in enumerate(whole[:-1], 1):
        check(whole[:position] + ada.events(run, last_event_id=event.id, view="html"))


@pytest.mark.parametrize("pieces", [[], ["[1]: https://example.com\n"]], ids=["none", "no block"])
def test_the_view_of_an_answer_that_shows_nothing_is_empty(
    ada: Person, openai: Configuration, provider: Provider, pieces: list[str]
):
    events = ada.events(answered(ada, provider, *pieces), view="html")
    check(events)
    view = events[-1].data["view"]
    assert (view["blocks"], view["length"], view["sha256"]) == (0, 0, sha256(""))


def test_an_error_has_a_view_of_what_came_before_it(
    ada: Person, openai: Configuration, provider: Provider
):
    provider.reply(head(), send(openai_chunk("Half *an* ")), wait(0.05), reset())
    events = ada.events(ada.ask(ada.new_chat(), "hello"), view="html")
    assert events[-1].type == "error"
    check(events)
    assert events[-1].data["view"]["blocks"] == 1


def test_a_stop_has_a_view_of_what_came_before_it(
    ada: Person, openai: Configuration, provider: Provider
):
    gate = threading.Event()
    provider.reply(head(), send(openai_chunk("Half *an* ")), until(gate))
    run = ada.ask(ada.new_chat(), "hello")
    seen = []
    with ada.follow(run["events_url"], view="html") as events:
        for event in events:
            seen.append(event)
            if event.type == "block":
                ada.stop(run)
    gate.set()
    assert seen[-1].data["stopped"] is True
    check(seen)


def test_chunks_that_are_not_the_text_of_the_end_are_seen_said_and_counted(
    ada: Person, openai: Configuration, provider: Provider, caplog: pytest.LogCaptureFixture
):
    run = answered(ada, provider, "good text")
    ada.events(run)
    change_stored(run["run_id"], "good", "evil")
    assert ada.events(run, view="html")[-1].data["view"]["is_as_stored"] is False
    assert Run.objects.get().mismatches == 1
    [record] = [record for record in caplog.records if record.name == "conversations.live_page"]
    assert record.levelname == "ERROR"
    assert run["run_id"] in record.getMessage()
    assert "evil" not in record.getMessage()


def test_a_mismatch_that_cannot_be_counted_does_not_cost_the_reader_the_end(
    ada: Person, openai: Configuration, provider: Provider, monkeypatch: pytest.MonkeyPatch
):
    from django.db import OperationalError

    def fails(run_id: UUID) -> None:
        raise OperationalError("disk full")

    run = answered(ada, provider, "good text")
    ada.events(run)
    change_stored(run["run_id"], "good", "evil")
    monkeypatch.setattr(live_page, "count_mismatch", fails)
    assert ada.events(run, view="html")[-1].type == "done"


async def test_a_log_that_starts_over_is_checked_from_its_new_start():
    first = [RunEvent(1, "metadata", '{"type":"metadata"}'), RunEvent(2, "chunk", chunk("lost", 1))]
    told = {"type": "error", "length": 4, "sha256": sha256("kept")}
    again = [first[0], RunEvent(2, "chunk", chunk("kept", 1)), RunEvent(3, "error", encode(told))]

    async def followed():
        yield first
        yield again

    shown = [event async for batch in live_page.blocks(Run(), followed(), 0) for event in batch]
    assert [event.number for event in shown if event.type != "block"] == [1, 1, 3]
    assert shown[-1].fields["view"]["is_as_stored"] is True
    assert shown[-1].fields["view"]["length"] == len("".join(render("kept")))


def test_an_end_that_was_stored_before_ends_said_their_text_is_no_mismatch(
    ada: Person, openai: Configuration, provider: Provider
):
    run = answered(ada, provider, "old text")
    whole = ada.events(run)
    check_of_text = f',"length":8,"sha256":"{sha256("old text")}"'
    change_stored(run["run_id"], check_of_text, "")
    assert "sha256" not in ada.events(run)[-1].data
    check(ada.events(run, view="html"))
    assert whole[-1].data["full_response"] == "old text"
    assert Run.objects.get().mismatches == 0


def change_stored(run_id: str, old: str, new: str) -> None:
    """As a defect would: in the stored events, the chunks or the end, never in both."""
    changed = 0
    for batch in EventBatch.objects.filter(run_id=run_id):
        lines = batch.lines.split("\n")
        for index, line in enumerate(lines):
            is_right_place = '"sha256"' in line if not new else line.startswith('{"type":"chunk"')
            if is_right_place and old in line:
                lines[index] = line.replace(old, new, 1)
                changed += 1
        batch.lines = "\n".join(lines)
        batch.save(update_fields=["lines"])
    assert changed == 1


class TestAReportFromAPage:
    """`POST /runs/<id>/mismatch/`."""

    def test_it_is_counted_and_logged(
        self,
        ada: Person,
        openai: Configuration,
        provider: Provider,
        caplog: pytest.LogCaptureFixture,
    ):
        run = answered(ada, provider, "x")
        ada.events(run)
        for count in (1, 2):
            answer = ada.post(f"/runs/{run['run_id']}/mismatch/")
            assert (answer.status_code, answer.content) == (204, b"")
            assert Run.objects.get().mismatches == count
        records = [record for record in caplog.records if record.name == "conversations.views.runs"]
        assert [record.levelname for record in records] == ["ERROR", "ERROR"]

    def test_no_flood_of_them_grows_the_count_without_end(
        self, ada: Person, openai: Configuration, provider: Provider
    ):
        run = answered(ada, provider, "x")
        ada.events(run)
        Run.objects.update(mismatches=live_page.MOST_MISMATCHES - 1)
        for _ in range(3):
            assert ada.post(f"/runs/{run['run_id']}/mismatch/").status_code == 204
        assert Run.objects.get().mismatches == live_page.MOST_MISMATCHES

    @pytest.mark.contract("A6")
    @pytest.mark.contract("A9")
    def test_only_the_own_page_of_the_own_person_may_report(
        self, ada: Person, make_person: Any, openai: Configuration, provider: Provider
    ):
        run = answered(ada, provider, "x")
        ada.events(run)
        url = f"/runs/{run['run_id']}/mismatch/"
        assert ada.http.post(url).status_code == 403
        assert ada.get(url).status_code == 405
        staff = make_person("root", is_staff=True, is_superuser=True)
        assert staff.post(url).status_code == 404
        staff.http.cookies.delete("sessionid")
        assert staff.post(url).status_code == 401
        assert Run.objects.get().mismatches == 0
