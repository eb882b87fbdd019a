"""Fixtures for all tests: the app on a real socket, people in it, and configurations."""

import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.contrib.auth.models import User

from providers.models import Configuration
from tests.people import Person
from tests.servers.app import AppServer

pytest_plugins = [
    "tests.databases",
    "tests.fixtures_provider",
    "tests.fixtures_sites",
    "tests.skips",
]

PASSWORD = "correct horse battery staple"


def pytest_configure() -> None:
    # A shell has what it starts in the background ignore Ctrl+C, and so would the servers of tests.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def running_app(django_db_setup: None) -> Iterator[AppServer]:
    """llmchat on a real socket, once for all tests."""
    with AppServer() as server:
        yield server


@pytest.fixture
def app(running_app: AppServer, transactional_db: None) -> AppServer:
    """llmchat on a real socket, with an empty database."""
    return running_app


@pytest.fixture
def make_user(transactional_db: None) -> Callable[..., User]:
    def make(username: str = "ada", **fields: Any) -> User:
        return User.objects.create_user(username, password=PASSWORD, **fields)

    return make


@pytest.fixture
def make_person(app: AppServer, make_user: Callable[..., User]) -> Iterator[Callable[..., Person]]:
    """Makes a user and logs them in."""
    people: list[Person] = []

    def make(username: str = "ada", **fields: Any) -> Person:
        make_user(username, **fields)
        people.append(Person(app.url, username, PASSWORD))
        return people[-1]

    yield make
    for person in people:
        person.http.close()


@pytest.fixture
def ada(make_person: Callable[..., Person]) -> Person:
    """A plain user, logged in."""
    return make_person()


@pytest.fixture
def demo(transactional_db: None) -> Configuration:
    """The demo, at full speed."""
    return Configuration.objects.create(
        name="Demo", slug="demo", kind="demo", model="demo", extra_body={"pace": 0}
    )


@pytest.fixture
def openai(transactional_db: None, provider: Any) -> Configuration:
    """The provider double, as an OpenAI-shaped one with a key and prices."""
    configuration = Configuration(
        name="Double",
        slug="double",
        kind="openai",
        model="double-1",
        base_url=provider.url,
        input_price="1",
        output_price="2",
    )
    configuration.set_api_key("sk-marked-key-0123456789")
    configuration.save()
    return configuration
