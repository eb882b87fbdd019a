"""Callers of the API: a token of a person, and clients that use it."""

import shutil
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import openai as openai_package
import pytest
from django.contrib.auth.models import User

from conversations import tokens
from conversations.models import ApiToken
from tests.conftest import PASSWORD
from tests.people import Person
from tests.servers.app import AppServer

# Left out, not skipped: there is nothing to mend where nobody uses JavaScript.
collect_ignore = (
    [] if shutil.which("node") and shutil.which("npm") else ["test_javascript_client.py"]
)

DEADLINE = 20.0  # s that a test waits for an answer before it fails


@pytest.fixture
def user(make_user: Callable[..., User]) -> User:
    return make_user()


@pytest.fixture
def secret(user: User) -> str:
    """Of a token that is good for all that its user may use."""
    _, secret = tokens.make(user, "laptop")
    return secret


@pytest.fixture
def token(secret: str) -> ApiToken:
    return ApiToken.objects.get()


@pytest.fixture
def program(app: AppServer) -> Iterator[Callable[[str], httpx.Client]]:
    """Makes a program that sends this token with each request."""
    clients: list[httpx.Client] = []

    def make(secret: str) -> httpx.Client:
        headers = {"Authorization": f"Bearer {secret}"} if secret else {}
        clients.append(
            httpx.Client(base_url=app.url, headers=headers, timeout=DEADLINE, trust_env=False)
        )
        return clients[-1]

    yield make
    for client in clients:
        client.close()


@pytest.fixture
def http(program: Callable[[str], httpx.Client], secret: str) -> httpx.Client:
    return program(secret)


@pytest.fixture
def client(app: AppServer, secret: str) -> Iterator[Any]:
    """OpenAI's own client, which repeats nothing by itself. Of any type, as what it gives has
    fields that its types do not know."""
    with openai_package.OpenAI(
        base_url=f"{app.url}/v1", api_key=secret, max_retries=0, timeout=DEADLINE
    ) as made:
        yield made


@pytest.fixture
def ada_at_the_page(app: AppServer, user: User) -> Iterator[Person]:
    """The person whose token it is, signed in."""
    with Person(app.url, user.get_username(), PASSWORD) as person:
        yield person


def call(text: str = "hello", model: str = "double", **fields: Any) -> dict[str, Any]:
    """The body of a call."""
    return {"model": model, "messages": [{"role": "user", "content": text}], **fields}


def problem(answer: httpx.Response, status: int) -> dict[str, Any]:
    """The error object of a refusal."""
    assert answer.status_code == status, answer.text
    error: dict[str, Any] = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]
    return error
