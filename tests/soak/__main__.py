"""`make soak`: does anything ever get lost? Random people, cuts and crashes, for some minutes.

    make soak SOAK_MINUTES=60               5 minutes are the default
    make soak SOAK_SEED=7                   the same choices again; moments differ from run to run

Half of the time on SQLite with one process, half on PostgreSQL and Redis with two; where one of
these is missing, that half too is on SQLite. Ends with 0 if nothing was wrong, with 1 if anything
was, and with 2 for values that make no sense.
"""

import os
import random
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import django

os.environ["DJANGO_SETTINGS_MODULE"] = "tests.settings"  # the same on every machine
django.setup()

from tests.servers.postgres import NoPostgres, postgres  # noqa: E402
from tests.servers.redis import RedisServer  # noqa: E402
from tests.servers.sites import Site, Sites  # noqa: E402
from tests.soak.answers import Answers  # noqa: E402
from tests.soak.figures import Figures, Wrong, say, table  # noqa: E402
from tests.soak.part import soak  # noqa: E402

MINUTES = 5.0
MOST_SEED = 2**31


class Unusable(Exception):
    """A value from the environment; the text says what is right."""


def main() -> int:
    try:
        minutes = _number("SOAK_MINUTES", MINUTES)
        seed = int(_number("SOAK_SEED", random.randrange(MOST_SEED)))
    except Unusable as error:
        say(str(error))
        return 2
    again = f"make soak SOAK_MINUTES={minutes:g} SOAK_SEED={seed}"
    say(f"{minutes:g} minutes with seed {seed}; the same again: {again}")
    parts: list[Figures] = []
    with (
        tempfile.TemporaryDirectory(prefix="llmchat-soak-") as folder,
        Sites(Path(folder)) as sites,
    ):
        with Answers(seed) as answers, sites.on_sqlite(answers.url) as site:
            parts.append(_part("SQLite, 1 process", site, 1, answers, minutes * 30))
        with Answers(seed) as answers, _shared(sites, answers) as (title, site, count):
            parts.append(_part(title, site, count, answers, minutes * 30))
    say(table(parts))
    faults = sum(part.faults.total() for part in parts)
    if faults:
        for part in parts:
            say("\n".join([f"{part.title}:", *part.blows]))
        say(f"{faults} faults, each told above; the same choices again: {again}")
    return 1 if faults else 0


def _number(name: str, default: float) -> float:
    """A number from the environment that is not negative. Raises Unusable."""
    text = os.environ.get(name, "")
    try:
        number = float(text) if text else default
    except ValueError:
        number = -1
    if not 0 <= number < MOST_SEED:
        raise Unusable(f"{name} has to be a number that is not negative, unlike {text!r}.")
    return number


@contextmanager
def _shared(sites: Sites, answers: Answers) -> Iterator[tuple[str, Site, int]]:
    """The title of the second half, its site, and how many processes that has."""
    try:
        if not RedisServer.is_installed():
            raise NoRedis
        url = sites.keep(postgres())
    except (NoPostgres, NoRedis) as reason:
        say(f"This half is on SQLite, too: {reason}.")
        with sites.on_sqlite(answers.url) as site:
            yield "SQLite again", site, 1
    else:
        with RedisServer() as redis, sites.on_postgres(answers.url, url, redis.url) as site:
            yield "PostgreSQL, Redis, 2 processes", site, 2


class NoRedis(Exception):
    """There is no program to start one of our own."""

    def __init__(self) -> None:
        super().__init__("redis-server is not installed")


def _part(title: str, site: Site, count: int, answers: Answers, seconds: float) -> Figures:
    figures = Figures(title)
    say(f"{title}: {seconds:g} s")
    try:
        soak(figures, site, count, answers, seconds)
    except Exception as error:  # what was found so far is told all the same
        figures.fault(Wrong.OTHER, f"{type(error).__name__}: {error}")
    return figures


if __name__ == "__main__":
    sys.exit(main())
