"""Sites under test: an environment, a database that is set up, and servers in their own processes.

A site is the environment of its processes, so a test changes a setting with
`{**site, "LEASE_DURATION": "1"}`. It has an administrator (ADMIN, PASSWORD) and two configurations:
`double`, the default, which asks the provider double, and `demo`.

Set-up takes seconds. `Sites` does it once for each kind of database and gives copies.
"""

import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Self
from uuid import uuid4

import psycopg

from tests.people import Person
from tests.servers.postgres import database
from tests.servers.processes import ROOT, Process, running

Site = dict[str, str]
Server = Callable[[Site], AbstractContextManager[tuple[Process, str]]]

ADMIN = "admin"
PASSWORD = "correct horse battery staple"
CONFIGURATIONS = """
[[configuration]]
slug = "double"
name = "Double"
kind = "openai"
model = "m"
base_url = "http://127.0.0.1:9"
api_key = "sk-0123456789"
is_default = true

[[configuration]]
slug = "demo"
name = "Demo"
kind = "demo"
model = "demo"
"""
POINT_AT = "UPDATE providers_configuration SET base_url = {} WHERE slug = 'double'"
DURATIONS = {"SHUTDOWN_GRACE": "2", "LEASE_DURATION": "2", "HEARTBEAT_INTERVAL": "1"}


class Sites:
    """Makes sites in a folder. A context manager: at its end they are gone."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._until_the_end = ExitStack()
        self._templates: dict[str, Site] = {}  # by the URL of their database server, "" for SQLite

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._until_the_end.close()

    def keep(self, server: AbstractContextManager[str]) -> str:
        """Enters a server that sites will use; it ends after the last of their databases."""
        return self._until_the_end.enter_context(server)

    @contextmanager
    def on_sqlite(self, provider_url: str) -> Iterator[Site]:
        """A site with a database of its own. `double` asks the provider at this URL."""
        site = self._copy_of_folder(self._template(""))
        with sqlite3.connect(f"{site['DATA_DIR']}/llmchat.sqlite3") as connection:
            connection.execute(POINT_AT.format("?"), [provider_url])
        connection.close()
        yield site

    @contextmanager
    def on_postgres(
        self, provider_url: str, server_url: str, redis_url: str = ""
    ) -> Iterator[Site]:
        """The same at a PostgreSQL server; with Redis it may have several processes."""
        template = self._template(server_url)
        name = template["DATABASE_URL"].rpartition("/")[2]
        with database(server_url, template=name) as url:
            with psycopg.connect(url) as connection:
                connection.execute(POINT_AT.format("%s"), [provider_url])
            yield {
                **self._copy_of_folder(template),
                "DATABASE_URL": url,
                "REDIS_URL": redis_url,
            }

    def _template(self, server_url: str) -> Site:
        if server_url not in self._templates:
            self._templates[server_url] = self._set_up(server_url)
        return self._templates[server_url]

    def _set_up(self, server_url: str) -> Site:
        site = {
            "DATA_DIR": str(self._folder / uuid4().hex),
            "DJANGO_SETTINGS_MODULE": "llmchat.settings",
            "DEBUG": "true",  # static files straight from the sources
            "REDIS_URL": "",
            **DURATIONS,
        }
        site["DATABASE_URL"] = (
            self._until_the_end.enter_context(database(server_url)) if server_url else ""
        )
        file = self._folder / "configurations.toml"
        file.write_text(CONFIGURATIONS)
        steering = {
            "ADMIN_PASSWORD": PASSWORD,
            "CONFIGURATIONS_FILE": str(file),
            "OLLAMA_HOST": "http://127.0.0.1:9",
        }
        subprocess.run(
            [sys.executable, "manage.py", "setup"],
            cwd=ROOT,
            env={**os.environ, **site, **steering},
            check=True,
            timeout=60,
            stdout=subprocess.DEVNULL,
        )
        return site

    def _copy_of_folder(self, template: Site) -> Site:
        """The keys have to go with the database, whichever it is."""
        folder = self._folder / uuid4().hex
        shutil.copytree(template["DATA_DIR"], folder)
        return {**template, "DATA_DIR": str(folder)}


# ---- Servers


@contextmanager
def daphne(site: Site, port: int = 0) -> Iterator[tuple[Process, str]]:
    """One process of the site, and its address. Killed at the end if it still runs."""
    with running("manage.py", "serve", "--port", str(port), **site) as process:
        said = process.wait_for(r"llmchat is running at http://localhost:(\d+)/")
        yield process, f"http://127.0.0.1:{said[1]}"  # one host for both, so cookies hold for both


@contextmanager
def uvicorn(site: Site, port: int = 0) -> Iterator[tuple[Process, str]]:
    """The same under uvicorn."""
    options = ["--port", str(port), "--timeout-graceful-shutdown", "2"]
    with running("-m", "uvicorn", "llmchat.asgi:application", *options, **site) as process:
        said = process.wait_for(r"running on (http://127.0.0.1:\d+)")
        yield process, said[1]


@contextmanager
def two_processes(site: Site) -> Iterator[tuple[Person, Person]]:
    """The administrator, signed in at each of two processes of the site."""
    with (
        uvicorn(site) as (_, first),
        uvicorn(site) as (_, second),
        Person(first, ADMIN, PASSWORD) as here,
        here.at(second) as there,
    ):
        yield here, there
