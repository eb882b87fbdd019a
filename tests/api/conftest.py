"""Callers of the API: a token of a person, and clients that use it."""

from collections.abc import Callable, Iterator

import httpx
import openai as openai_package
import pytest
from django.contrib.auth.models import User

from conversations import tokens
from conversations.models import ApiToken
from tests.servers.app import AppServer

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
def http(app: AppServer, secret: str) -> Iterator[httpx.Client]:
    """A program that sends the token with each request."""
    headers = {"Authorization": f"Bearer {secret}"}
    with httpx.Client(
        base_url=app.url, headers=headers, timeout=DEADLINE, trust_env=False
    ) as client:
        yield client


@pytest.fixture
def client(app: AppServer, secret: str) -> Iterator[openai_package.OpenAI]:
    """OpenAI's own client, which repeats nothing by itself."""
    with openai_package.OpenAI(
        base_url=f"{app.url}/v1", api_key=secret, max_retries=0, timeout=DEADLINE
    ) as made:
        yield made
