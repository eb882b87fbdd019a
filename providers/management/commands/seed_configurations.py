"""manage.py seed_configurations: something to chat with, without the admin (contract P8)."""

from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from providers import seeding


class Command(BaseCommand):
    help = (
        "Sets up configurations: the demo, the models of a reachable Ollama and one for each API "
        "key in the environment; or, with --file, those that a TOML file declares. Can be run "
        "again at any time."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--file", type=Path, help="a TOML file with [[configuration]] tables, used instead"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        path: Path | None = options["file"]
        try:
            if path:
                seeding.store(seeding.read_file(path), self.stdout.write)
            else:
                seeding.store(seeding.discovered(self.stdout.write), self.stdout.write)
                seeding.choose_default()
        except seeding.BadDeclaration as error:
            raise CommandError(str(error)) from None
