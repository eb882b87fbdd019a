"""`manage.py seed_demo_activity`: made-up activity, to try the app and its monitor with."""

from argparse import ArgumentTypeError
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from django.core.management import BaseCommand, CommandError, CommandParser
from django.db import DatabaseError

from conversations import demo_activity

MOST_RUNS = 200_000
MOST_DAYS = 3_650


class Command(BaseCommand):
    help = (
        "Makes people, sessions, runs and usage rows that look real. Done twice it makes nothing "
        "more. Where there is real activity already it refuses, so that nobody takes the one for "
        "the other."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--runs", type=_whole(1, MOST_RUNS), default=2_000)
        parser.add_argument("--days", type=_whole(1, MOST_DAYS), default=30, help="up to now")
        parser.add_argument("--seed", type=_whole(0, 2**32), default=1, help="of the dice")
        parser.add_argument("--force", action="store_true", help="beside real activity too")
        parser.add_argument("--remove", action="store_true", help="take away what was made")

    def handle(
        self, *, runs: int, days: int, seed: int, force: bool, remove: bool, **options: Any
    ) -> None:
        try:
            if remove:
                self.stdout.write(f"Removed {demo_activity.remove()}.")
                return
            if demo_activity.people().exists():
                self.stdout.write(
                    f"There are {demo_activity.made()} already. Nothing was made; "
                    "--remove takes them away."
                )
                return
            if not force and demo_activity.is_used():
                raise CommandError(
                    "There is real activity here, with which this would be mixed. "
                    "Use --force to make it all the same; --remove takes it away again."
                )
            result = demo_activity.make(runs, days, seed, datetime.now(UTC), self._tell)
        except DatabaseError as error:
            reason = str(error).strip().partition("\n")[0]
            raise CommandError(f"The database cannot be used: {reason}.") from None
        except KeyboardInterrupt:
            raise CommandError(
                "Stopped. --remove takes away what was made.", returncode=130
            ) from None
        self.stdout.write(f"Made {result}.")

    def _tell(self, runs: int) -> None:
        if self.stdout.isatty():
            self.stdout.write(f"\r{runs:,} runs", ending="\r")
            self.stdout.flush()


def _whole(least: int, most: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = least - 1
        if not least <= value <= most:
            raise ArgumentTypeError(f"{text!r} is no whole number from {least} to {most}")
        return value

    return number
