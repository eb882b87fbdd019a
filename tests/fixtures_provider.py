"""Fixtures around the provider double. Registered in tests/conftest.py by `pytest_plugins`."""

from collections.abc import Iterator

import pytest

from tests.servers.provider import Provider


@pytest.fixture
def provider() -> Iterator[Provider]:
    """A provider double on a free port of 127.0.0.1, without a script yet."""
    with Provider() as running:
        yield running
