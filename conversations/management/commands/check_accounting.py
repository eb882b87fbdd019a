"""`manage.py check_accounting`: whether every call to a provider has exactly one usage row."""

from typing import Any

from django.core.management import BaseCommand, CommandError
from django.db import DatabaseError

from conversations.accounting import SHOWN, check


class Command(BaseCommand):
    help = (
        "Compares runs, what was sent to providers, and usage rows. The difference must be 0; "
        "where it is not, what does not agree is named, and the exit code is 1."
    )

    def handle(self, **options: Any) -> None:
        try:
            account = check()
        except DatabaseError as error:
            reason = str(error).strip().partition("\n")[0]
            raise CommandError(f"The database cannot be used: {reason}.") from None
        self.stdout.write(
            f"Ended runs: {account.ended_runs:,}. Usage rows: {account.rows:,}, those of deleted "
            f"sessions and of connection tests included. Difference: {account.difference:,}."
        )
        for one in account.differences:
            self.stdout.write(f"{one.count:,} {one.what}:")
            for run_id in one.examples:
                self.stdout.write(f"  {run_id}")
            if one.count > SHOWN:
                self.stdout.write(f"  and {one.count - SHOWN:,} more")
        if account.difference:
            raise CommandError("The accounting is not complete.")
