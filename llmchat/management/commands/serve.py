"""`manage.py serve`: the site, served by daphne until SIGINT or SIGTERM."""

import errno
import sys
from typing import Any

# First, as it installs the reactor that everything else from Twisted then uses.
import daphne.server  # isort: skip
from daphne.access import AccessLogGenerator
from daphne.endpoints import build_endpoint_description_strings
from django.conf import settings
from django.core.management import BaseCommand, CommandError, CommandParser
from django.db import DatabaseError, connection
from django.db.migrations.executor import MigrationExecutor
from django.utils.module_loading import import_string
from twisted.internet.error import CannotListenError
from twisted.python.failure import Failure

from llmchat import lifecycle


class Server(daphne.server.Server):
    """daphne, which keeps the reason when it cannot listen instead of logging it."""

    listen_failure: BaseException | None = None

    def listen_error(self, failure: Failure) -> None:
        self.listen_failure = failure.value
        self.stop()


class Command(BaseCommand):
    help = "Serves llmchat at HOST and PORT until it is stopped."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--host", default=settings.HOST, help="address to listen on")
        parser.add_argument(
            "--port", default=settings.PORT, type=int, help="port to listen on; 0: any free one"
        )

    def handle(self, *, host: str, port: int, verbosity: int, **options: Any) -> None:
        self._look_at_database()
        self.has_failed = False
        self.server = Server(
            application=import_string(settings.ASGI_APPLICATION),
            endpoints=build_endpoint_description_strings(host=host, port=port),
            http_timeout=None,  # it would cut event streams too
            action_logger=_access_log() if verbosity > 1 else None,
            ready_callable=lambda: lifecycle.when_started(self._announce),
            verbosity=verbosity,
        )
        self.server.run()
        if self.server.listen_failure is not None:
            raise CommandError(_why_not(self.server.listen_failure, host, port))
        if self.has_failed:
            raise CommandError("llmchat could not start; the lines above say why.")

    def _announce(self, succeeded: bool) -> None:
        self.has_failed = not succeeded
        if succeeded:
            _, port = self.server.listening_addresses[0]
            self.stdout.write(f"llmchat is running at http://localhost:{port}/")
            self.stdout.flush()

    def _look_at_database(self) -> None:
        try:
            executor = MigrationExecutor(connection)
            plan = executor.migration_plan(executor.loader.graph.leaf_nodes())
        except DatabaseError as error:
            reason = str(error).strip().partition("\n")[0]
            raise CommandError(
                f"The database cannot be used: {reason}. See DATABASE_URL."
            ) from None
        finally:
            connection.close()
        if plan:
            self.stderr.write(
                f"The database lacks {len(plan)} migrations; run `manage.py migrate` to apply them."
            )


def _access_log() -> Any:
    write = AccessLogGenerator(sys.stdout)

    def log(protocol: str, action: str, details: dict[str, Any]) -> None:
        # Without the query: that of a one-request stream holds a prompt.
        write(protocol, action, details | {"path": details["path"].partition("?")[0]})

    return log


def _why_not(failure: BaseException, host: str, port: int) -> str:
    if not isinstance(failure, CannotListenError):
        return f"Cannot listen on port {port} of {host}: {failure}."
    if failure.socketError.errno == errno.EADDRINUSE:
        return f"Port {port} of {host} is in use; choose another, as in `make run PORT={port + 1}`."
    reason = failure.socketError.strerror or failure.socketError
    return f"Cannot listen on port {port} of {host}: {reason}."
