"""`manage.py setup`: all that llmchat needs before it can serve. Can be run again at any time.

Database, static files, configurations, and on a fresh install the first administrator. Their
password is shown once, on the standard output, and kept nowhere but hashed in the database.
"""

import secrets
from pathlib import Path
from typing import Any

from django.conf import settings
from django.contrib.auth import get_user_model
from django.contrib.auth.password_validation import validate_password
from django.core.exceptions import ValidationError
from django.core.management import BaseCommand, CommandError, call_command
from django.db import IntegrityError, transaction

# Without what looks alike on paper: 0 and o, 1, i and l.
READABLE = "23456789abcdefghjkmnpqrstuvwxyz"
GROUPS, GROUP_CHARACTERS = 4, 5


class Command(BaseCommand):
    help = "Makes everything ready: database, static files, configurations, a first administrator."

    def handle(self, *args: Any, **options: Any) -> None:
        call_command("migrate", interactive=False, verbosity=0)
        if not settings.DEBUG:
            call_command("collectstatic", interactive=False, verbosity=0)
        file = settings.CONFIGURATIONS_FILE
        call_command(
            "seed_configurations",
            file=Path(file) if file else None,
            stdout=self.stdout,
            stderr=self.stderr,
        )
        self.make_administrator()

    def make_administrator(self) -> None:
        """Create the first administrator if there is none, and say how to log in."""
        users = get_user_model().objects
        name, given = settings.ADMIN_USERNAME, settings.ADMIN_PASSWORD
        password = given or new_password()
        try:
            with transaction.atomic():
                if users.filter(is_superuser=True).exists():
                    return
                users.create_superuser(username=name, password=password)
        except IntegrityError:
            if users.filter(is_superuser=True).exists():
                return  # another process was faster, and has said so
            raise CommandError(
                f"There is no administrator, and the user name {name} is taken. "
                "Set ADMIN_USERNAME to another one."
            ) from None
        if given:
            self._judge(given)
            shown = "the password is that of ADMIN_PASSWORD"
        else:
            shown = f"password {password}"
        self.stdout.write(
            f"\nFirst login, at http://localhost:{settings.PORT}/ (the admin is at /admin/):\n"
            f"  user name {name}, {shown}\n"
        )
        if not given:
            self.stdout.write("The password is not shown again. Change it in the admin.\n")

    def _judge(self, password: str) -> None:
        """Say that a chosen password is weak: whoever runs this may want it so on their desk."""
        try:
            validate_password(password)
        except ValidationError as error:
            self.stderr.write(f"ADMIN_PASSWORD is weak: {' '.join(error.messages)}")


def new_password() -> str:
    """A password of 99 bits that can be copied by hand, such as k7mqp-x3vtr-9hwdn-ce4fz."""
    return "-".join(
        "".join(secrets.choice(READABLE) for _ in range(GROUP_CHARACTERS)) for _ in range(GROUPS)
    )
