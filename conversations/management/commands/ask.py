"""`manage.py ask "…"`: one question to a configuration, its answer streamed to the terminal."""

import asyncio
from dataclasses import replace
from typing import Any

from django.core.management import BaseCommand, CommandError, CommandParser

from conversations import runs
from conversations.engine import get_engine, shut_down_engine
from conversations.events import RunEvent
from conversations.forms import MessageForm
from conversations.models import Origin
from conversations.planning import Asked, Source
from providers.models import Configuration

COMMAND = Source(Origin.COMMAND)


class Command(BaseCommand):
    help = "Asks a question and streams the answer. It is in the usage log like any other run."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("prompt")
        parser.add_argument(
            "--configuration", default="", help="slug or id; without it, the default one"
        )

    def handle(self, *, prompt: str, configuration: str, **options: Any) -> None:
        form = MessageForm({"prompt": prompt})
        if not form.is_valid():
            raise CommandError(form.errors["prompt"][0])
        chosen = self._configuration(configuration)
        try:
            end = asyncio.run(self._ask(chosen, replace(form.asked, source=COMMAND)))
        except KeyboardInterrupt:
            raise CommandError("Stopped.", returncode=130) from None
        except BrokenPipeError:
            raise CommandError("Stopped: nobody reads the output any more.") from None
        self.stdout.write("")
        if end is not None and end.type == "error":
            raise CommandError(f"{end.fields['code']}: {end.fields['message']}")

    def _configuration(self, name: str) -> Configuration:
        active = Configuration.objects.active()
        try:
            chosen = active.find(name) if name else active.preferred()
        except Configuration.DoesNotExist:
            chosen = None
        if chosen is None:
            slugs = ", ".join(active.values_list("slug", flat=True)) or "none"
            raise CommandError(
                f"There is no active configuration {name!r}. Active ones: {slugs}. "
                "`manage.py seed_configurations` makes the demo."
            )
        return chosen

    async def _ask(self, configuration: Configuration, asked: Asked) -> RunEvent | None:
        engine = get_engine()
        started = await engine.begin(
            lambda owner: runs.start_alone(None, configuration, asked, owner)
        )
        try:
            async for batch in engine.journal.follow(started.run.pk):
                for event in batch:
                    if event.type == "chunk":
                        self.stdout.write(event.fields["content"], ending="")
                        self.stdout.flush()
                    elif event.type == "retry":
                        self.stderr.write(f"{event.fields['code']}: trying again")
                    elif event.is_end:
                        return event
        finally:
            # Interrupted from the keyboard: the provider is closed, the usage row written.
            await engine.stop(started.run.pk)
            await shut_down_engine()
        return None
