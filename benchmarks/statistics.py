"""What the monitor's pages cost with a long usage log: statistics, the list of runs, its export.

Run with `.venv/bin/python -m benchmarks.statistics` for SQLite and 200,000 rows, in a folder that
goes when it ends; `--rows` changes that. For PostgreSQL, with a database of its own:

    .venv/bin/python -m tests.servers.postgres \
        .venv/bin/python -m benchmarks.statistics --rows 1000000

The rows are of 90 days, 50 people and 6 configurations, in the order of time as a log is. Each
figure is the best of three, in seconds, queries and page included.
"""

import argparse
import asyncio
import os
import random
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

DAYS = 90
PEOPLE = 50
BATCH = 5_000
TRIES = 3
# The run of each usage row. In SQL, as the model says of each run that it starts now.
RUNS = """
    INSERT INTO conversations_run (
        id, user_id, configuration_slug, provider, model, input_tokens, status, idempotency_key,
        fingerprint, error_code, error_message, is_recoverable, started_at, ended_at
    ) SELECT
        run_id, user_id, configuration, provider, model, prompt_tokens, status, '',
        '', code, '', false, started_at, ended_at
    FROM conversations_usagelog
"""


def prepare(folder: str) -> None:
    """Django with an empty database: that of DATABASE_URL, which must be a new one, or its own."""
    os.environ["DATA_DIR"] = folder
    os.environ["REDIS_URL"] = ""
    os.environ["LOG_LEVEL"] = "ERROR"
    os.environ.setdefault("DATABASE_URL", "")
    os.environ["DJANGO_SETTINGS_MODULE"] = "llmchat.settings"
    import django
    from django.conf import settings
    from django.core.management import call_command

    # The names of files as they are: nothing has to be collected first.
    settings.STORAGES["staticfiles"]["BACKEND"] = (
        "django.contrib.staticfiles.storage.StaticFilesStorage"
    )
    django.setup()
    call_command("migrate", verbosity=0)


def fill(count: int) -> None:
    """So many runs that have ended, with their usage rows."""
    from django.contrib.auth.models import User
    from django.db import connection

    from conversations.models import UsageLog

    if UsageLog.objects.exists():
        raise SystemExit("The database is in use. Give one that is empty.")
    User.objects.bulk_create(User(username=f"person-{number}") for number in range(PEOPLE))
    people = list(User.objects.all())
    User.objects.create(username="staff", is_staff=True)
    dice = random.Random(1)
    began = datetime.now(UTC) - timedelta(days=DAYS)
    for first in range(0, count, BATCH):
        UsageLog.objects.bulk_create(usage_rows(dice, people, began, count, first))
    with connection.cursor() as cursor:
        cursor.execute(RUNS)
        cursor.execute("VACUUM ANALYZE" if connection.vendor == "postgresql" else "ANALYZE")


def usage_rows(
    dice: random.Random, people: list[Any], began: datetime, count: int, first: int
) -> Iterator[Any]:
    from conversations.models import UsageLog

    for number in range(first, min(first + BATCH, count)):
        person = dice.choice(people)
        at = began + timedelta(days=DAYS) * (number / count)
        status = dice.choices(("done", "stopped", "error"), (93, 3, 4))[0]
        seconds = dice.lognormvariate(1, 0.6)
        yield UsageLog(
            run_id=UUID(int=dice.getrandbits(128), version=4),
            user=person,
            username=person.username,
            configuration=f"configuration-{dice.randrange(6)}",
            provider="openai",
            model="m",
            status=status,
            code=dice.choice(("TIMEOUT", "RATE_LIMIT_EXCEEDED")) if status == "error" else "",
            prompt_tokens=dice.randrange(4_000),
            completion_tokens=dice.randrange(1_000),
            cost_usd=None if dice.random() < 0.1 else dice.randrange(10**6) / 10**8,
            time_to_first_chunk=seconds / 3,
            processing_time=seconds,
            tokens_per_second=dice.uniform(10, 120),
            started_at=at,
            ended_at=at + timedelta(seconds=seconds),
        )


def best(action: Callable[[], Any]) -> float:
    """The seconds of the fastest of some tries."""
    times = []
    for _ in range(TRIES):
        began = time.monotonic()
        action()
        times.append(time.monotonic() - began)
    return min(times)


def pages() -> None:
    """Each page as the server makes it."""
    from django.contrib.auth.models import User
    from django.test import Client

    from monitor import activity

    staff = User.objects.get(username="staff")
    browser = Client(headers={"Accept": "text/html", "Host": "localhost"})
    browser.force_login(staff, backend="django.contrib.auth.backends.ModelBackend")
    # The last page of all, where a list that skips rows would skip all of them.
    oldest = activity.Position(
        datetime.now(UTC) - timedelta(days=DAYS) + timedelta(minutes=5), UUID(int=0)
    )
    for address in (
        "/monitor/",
        "/monitor/statistics/?days=7",
        "/monitor/statistics/?days=30",
        "/monitor/statistics/?days=90",
        "/monitor/statistics/?days=90&user=person-7",
        "/monitor/activity/",
        f"/monitor/activity/?before={oldest}",
        "/monitor/activity/?user=person-7&status=error",
        "/monitor/activity/?code=timeout",
        "/monitor/activity/?code=nowhere",
        "/monitor/activity/?configuration=nowhere",
    ):

        def get(address: str = address) -> None:
            answer = browser.get(address)
            assert answer.status_code == 200, (address, answer.status_code)

        print(f"{best(get):8.2f} s  {address.replace(str(oldest), 'OLDEST')}", flush=True)


def export() -> None:
    """The whole log as CSV, and the most memory of Python that it takes."""
    from django.contrib.auth.models import User

    from monitor import exports
    from monitor.activity import Filters

    staff = User.objects.get(username="staff")

    async def read() -> int:
        return sum([len(part) async for part in exports.stream(staff.pk, Filters(), exports.CSV)])

    began = time.monotonic()
    size = asyncio.run(read())
    print(f"{time.monotonic() - began:8.2f} s  export.csv, {size / 1e6:.0f} MB")
    tracemalloc.start()

    async def read_some() -> None:
        left = 50
        async for _ in exports.stream(staff.pk, Filters(), exports.CSV):
            left -= 1
            if not left:
                return

    asyncio.run(read_some())
    print(f"{tracemalloc.get_traced_memory()[1] / 2**20:8.1f} MiB at the most, while it is read")
    tracemalloc.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, default=200_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="llmchat-statistics-") as folder:
        prepare(folder)
        from django.db import connection

        began = time.monotonic()
        fill(options.rows)
        print(
            f"{connection.vendor}, {options.rows:,} rows, made in {time.monotonic() - began:.0f} s"
        )
        pages()
        export()
        connection.close()


if __name__ == "__main__":
    main()
