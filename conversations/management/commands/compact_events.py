"""`manage.py compact_events`: packs the events of runs that ended long ago."""

from argparse import ArgumentTypeError
from typing import Any

from django.conf import settings
from django.core.management import BaseCommand, CommandError, CommandParser
from django.db import DatabaseError

from conversations.compaction import NOTHING, compact

MOST_SECONDS = 10**9  # as for the setting


class Command(BaseCommand):
    help = (
        "Packs the events of runs that ended long ago into one row each. The server does so by "
        "itself; this does it now. It is safe while the server runs, and no event changes."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--older-than",
            type=_seconds,
            default=settings.COMPACT_AFTER,
            metavar="SECONDS",
            help="since the end of a run; without it, COMPACT_AFTER (%(default)s)",
        )

    def handle(self, *, older_than: int, **options: Any) -> None:
        total = NOTHING
        try:
            while (portion := compact(older_than)) != NOTHING:
                total += portion
        except DatabaseError as error:
            reason = str(error).strip().partition("\n")[0]
            raise CommandError(f"The database cannot be used: {reason}. {total}.") from None
        except KeyboardInterrupt:
            raise CommandError(f"Stopped. {total}.", returncode=130) from None
        self.stdout.write(f"{total}.")


def _seconds(text: str) -> int:
    try:
        seconds = int(text)
    except ValueError:
        seconds = -1
    if not 0 <= seconds <= MOST_SECONDS:
        raise ArgumentTypeError(f"{text!r} is no whole number from 0 to {MOST_SECONDS}")
    return seconds
