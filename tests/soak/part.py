"""One part of the soak: people at a site whose processes are struck down, and what must hold then.

1. People are at work while processes are killed, ended and started again.
2. All processes are new, and people are at work until each has all that it keeps.
3. Its footprint is taken; people are at work once more; it has to fall back to that.
4. Nothing runs any more, and everything that is stored is looked at (G1 to G8).
"""

import os
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence, Set
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from random import Random
from time import monotonic
from typing import Any
from uuid import UUID

from tests.faults import stored
from tests.people import Person, Received
from tests.servers.footprint import (
    MIB,
    Footprint,
    footprint_at_rest,
    wait_until,
    wait_until_back,
    warm_up,
)
from tests.servers.processes import ROOT
from tests.servers.proxy import Proxy
from tests.servers.sites import PASSWORD, Site
from tests.soak.answers import Answers
from tests.soak.figures import Figures, Wrong
from tests.soak.house import House
from tests.soak.tabs import MOST_REQUESTS, PATIENCE, Tab, Told
from tests.soak.watching import digest

PEOPLE = ("ada", "ben", "cleo")
TABS = 2  # of each
SETTINGS = {
    "DJANGO_SETTINGS_MODULE": "tests.servers.lean_settings",
    "LEASE_DURATION": "5",  # s
    "FIRST_CHUNK_TIMEOUT": "4",  # s; what hangs ends in the soak's time, too
    "CHUNK_TIMEOUT": "4",  # s
    "MAX_ATTEMPTS": str(MOST_REQUESTS),
    "RETRY_BASE_DELAY": "0.05",  # s
    "COMPACT_AFTER": "10",  # s; each process looks when it starts, and then each minute
    "STREAMS_PER_USER": "1000",
}
STRUCK, WARMING = 0.6, 0.2  # of a part's time; the rest is measured
BLOWS = (3.0, 8.0)  # s between two, at the least and at the most
CROWD = 50  # viewers, for whom a process makes all the threads that it keeps
KEPT = 32 * MIB  # that the allocator may keep of what the same people have done before
# People's clients keep some of theirs open, Redis' client one for each run that was ever followed
# at the same time, and what PostgreSQL counts are those of all processes.
KEPT_CONNECTIONS = 12
USERS = """
from django.contrib.auth.models import User
for name in {names!r}:
    User.objects.create_user(name, password={password!r})
"""


def soak(figures: Figures, site: Site, count: int, answers: Answers, seconds: float) -> None:
    """Soaks a site of `count` processes for about so many seconds."""
    site = {**site, **SETTINGS}
    _make_users(site)
    answers.asked.clear()
    chance = Random(f"{answers.seed} {figures.title} blows")
    with ExitStack() as stack:
        house = stack.enter_context(House(site, count, chance, figures))
        proxy = stack.enter_context(Proxy(house.port))
        proxy.cut_after = cuts(Random(f"{answers.seed} {figures.title} cuts"))
        tabs = []
        for name in PEOPLE:
            person = stack.enter_context(Person(house.url, name, PASSWORD))
            live = stack.enter_context(person.at(proxy.url))
            tabs += [
                Tab(f"{name}.{number}", person, live, answers.seed, house.kills, figures)
                for number in range(TABS)
            ]
        _strike(house, tabs, answers, seconds * STRUCK, chance)
        house.renew()
        _measure(house, tabs, answers, seconds * (1 - STRUCK), figures)
        _check(house, tabs, answers, figures)
        house.end()


def cuts(chance: Random) -> Callable[[int], int | None]:
    """After how many bytes streams are cut: in the head, in the first events, later, or never."""

    def cut_after(number: int) -> int | None:
        return chance.choice(
            [None, chance.randint(1, 400), chance.randint(400, 5_000), chance.randint(1, 100_000)]
        )

    return cut_after


def _make_users(site: Site) -> None:
    made = USERS.format(names=PEOPLE, password=PASSWORD)
    command = [sys.executable, "manage.py", "shell", "-c", made]
    environment = {**os.environ, **site}
    subprocess.run(
        command, cwd=ROOT, env=environment, check=True, timeout=60, stdout=subprocess.DEVNULL
    )


# ---- People at work


@contextmanager
def _at_work(tabs: Sequence[Tab]) -> Iterator[None]:
    """In the end all have finished what they have begun."""
    is_over = threading.Event()
    threads = [threading.Thread(target=tab.use, args=[is_over]) for tab in tabs]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        is_over.set()
        for thread in threads:
            thread.join()


def _strike(
    house: House, tabs: Sequence[Tab], answers: Answers, seconds: float, chance: Random
) -> None:
    end = monotonic() + seconds
    with _at_work(tabs):
        while (left := end - monotonic()) > 0:
            threading.Event().wait(min(left, chance.uniform(*BLOWS)))
            house.strike()
            answers.clear()  # their requests; a long soak has many


def _measure(
    house: House, tabs: Sequence[Tab], answers: Answers, seconds: float, figures: Figures
) -> None:
    share = WARMING / (1 - STRUCK)
    with _at_work(tabs):
        threading.Event().wait(seconds * share)
    for _, url in house.served:
        with tabs[0].person.at(url) as person:
            warm_up(person, tabs[0].ask(), CROWD)
    before = {pid: _with_kept(footprint_at_rest(pid, house.site)) for pid, _ in house.served}
    answers.clear()
    with _at_work(tabs):
        threading.Event().wait(seconds * (1 - share))
    answers.close_idle()
    for pid, footprint in before.items():
        try:
            now = wait_until_back(pid, house.site, footprint, KEPT)
        except AssertionError as fault:
            figures.fault(Wrong.LEAK, str(fault))
        else:
            kept = now.memory - footprint.memory
            figures.kept_memory = max(figures.kept_memory, kept)
    try:
        wait_until(
            lambda: answers.busy == 0,
            lambda: f"{answers.busy} connections to the provider are in use, and no run is",
        )
    except AssertionError as fault:
        figures.fault(Wrong.LEAK, str(fault))


def _with_kept(footprint: Footprint) -> Footprint:
    """What a process may take at another moment without a leak."""
    return replace(
        footprint,
        handles=footprint.handles + KEPT_CONNECTIONS,
        connections=footprint.connections + KEPT_CONNECTIONS,
    )


# ---- What must hold


class _Readers(Person):
    """All people of a site as one: each run is read by whom it belongs to, and compared with what
    it was when it ended."""

    def __init__(self, told: Sequence[Told]) -> None:
        self._told = {f"/runs/{run.id}/events/": run for run in told}
        self.changed: list[str] = []

    def events(self, run: dict[str, Any], **kwargs: Any) -> list[Received]:
        told = self._told[run["events_url"]]
        events = told.reader.events(run, **kwargs)
        if told.digest and digest(events) != told.digest:
            self.changed.append(told.id)
        return events


MISMATCHES = "SELECT id, mismatches FROM conversations_run WHERE mismatches > 0"
QUESTIONS = "SELECT content FROM conversations_message WHERE role = 'user'"
USAGE = "SELECT run_id FROM conversations_usagelog"


def _check(house: House, tabs: Sequence[Tab], answers: Answers, figures: Figures) -> None:
    stored.wait_for_ends(house.site, PATIENCE)
    told = [run for tab in tabs for run in tab.told]
    deleted = {chat for tab in tabs for chat in tab.deleted}
    lost = [*_lost_or_doubled(house.site, told, deleted, answers)]
    for text in lost:
        figures.fault(Wrong.LOST, text)
    if lost:
        return  # the rest would say it again
    readers = _Readers(told)
    for text in stored.faults(house.site, readers):
        figures.fault(Wrong.MISMATCH, text)
    for run in readers.changed:
        figures.fault(Wrong.MISMATCH, f"the events of run {run} have changed since it ended")
    for run, count in stored.rows(house.site, MISMATCHES):
        figures.fault(Wrong.MISMATCH, f"run {run} counted {count} mismatches itself")


def _lost_or_doubled(
    site: Site, told: Sequence[Told], deleted: Set[str], answers: Answers
) -> Iterator[str]:
    """Each run that was started, and no other, is stored with one usage row, unless it was deleted;
    each question was stored once, and the provider was asked no more often than it has to be."""
    kept = {run.id: run.question for run in told if run.chat not in deleted}
    gone = {run.id for run in told if run.chat in deleted}
    found = {run.id: run.status for run in stored.runs(site)}
    yield from (f"run {run} is lost" for run in kept.keys() - found.keys())
    yield from (f"run {run} is there though its chat was deleted" for run in gone & found.keys())
    yield from (f"run {run} was started by nobody" for run in found.keys() - kept.keys() - gone)
    used = Counter(str(UUID(str(run))) for (run,) in stored.rows(site, USAGE))
    yield from (
        f"run {run} has {used[run]} usage rows" for run in kept.keys() | gone if used[run] != 1
    )
    questions = Counter(question for (question,) in stored.rows(site, QUESTIONS))
    # A stop before the first piece gives the question back to who asked.
    may_be_gone = {
        kept[run] for run, status in found.items() if run in kept and status == "stopped"
    }
    for question in {*kept.values(), *questions}:
        if questions[question] != 1 and not (question in may_be_gone and not questions[question]):
            yield f"{question!r} is stored {questions[question]} times"
    may_ask: Counter[str] = Counter()
    for run in told:
        may_ask[run.question] += run.requests
    for question, count in (answers.asked - may_ask).items():
        yield f"{count} requests to the provider for {question!r} are too many"
