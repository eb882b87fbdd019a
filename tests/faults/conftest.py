"""Fixtures of the fault tests. `invariants` is what each of their modules uses for every test."""

import gc
from collections.abc import Iterator

import pytest
from pytest_django import DjangoDbBlocker

from tests.faults.checks import check_runs
from tests.faults.footprint import Footprint, warm_up
from tests.servers.app import AppServer
from tests.servers.provider import Provider


@pytest.fixture(scope="session")
def warm_app(running_app: AppServer, django_db_blocker: DjangoDbBlocker) -> AppServer:
    """llmchat with all the threads and connections that it may keep."""
    with django_db_blocker.unblock():
        warm_up(running_app)
    return running_app


@pytest.fixture
def invariants(
    warm_app: AppServer,
    transactional_db: None,
    provider: Provider,
    caplog: pytest.LogCaptureFixture,
) -> Iterator[None]:
    """What must hold after each fault; checked when the test's people have left."""
    before = Footprint.now()
    yield
    check_runs(provider)
    # An exception that was logged keeps its frames, and those cursors and connections, until pytest
    # and the collector of cycles let it go.
    caplog.get_records("call").clear()
    gc.collect()
    provider.close_idle()
    before.wait_until_back()
    assert provider.busy == 0
