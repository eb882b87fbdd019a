"""Fixtures for sites in processes of their own. Registered in tests/conftest.py."""

from collections.abc import Iterator

import pytest

from tests.servers.postgres import NoPostgres, postgres
from tests.servers.provider import Provider
from tests.servers.redis import RedisServer
from tests.servers.sites import Site, Sites


@pytest.fixture(scope="session")
def sites(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sites]:
    """Sets up each kind of site once for all tests."""
    with Sites(tmp_path_factory.mktemp("sites")) as made:
        yield made


@pytest.fixture(scope="session")
def postgres_url(sites: Sites) -> str:
    """A PostgreSQL server, which tests share and must not stop."""
    try:
        return sites.keep(postgres())
    except NoPostgres as reason:
        pytest.skip(str(reason))


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    """A Redis of the test's own."""
    if not RedisServer.is_installed():
        pytest.skip("redis-server is not installed")
    with RedisServer() as server:
        yield server


@pytest.fixture
def sqlite_site(sites: Sites, provider: Provider) -> Iterator[Site]:
    """A fresh site on SQLite."""
    with sites.on_sqlite(provider.url) as site:
        yield site


@pytest.fixture
def postgres_site(sites: Sites, provider: Provider, postgres_url: str) -> Iterator[Site]:
    """A fresh site on PostgreSQL, for one process."""
    with sites.on_postgres(provider.url, postgres_url) as site:
        yield site


@pytest.fixture
def shared_site(
    sites: Sites, provider: Provider, postgres_url: str, redis: RedisServer
) -> Iterator[Site]:
    """A fresh site on PostgreSQL and Redis, for several processes."""
    with sites.on_postgres(provider.url, postgres_url, redis.url) as site:
        yield site
