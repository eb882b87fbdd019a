"""An engine that ends takes nothing new and leaves nothing half begun (D2). Whole processes that
end are in tests/faults/test_f16_shutdown.py."""

import asyncio
import threading
from collections.abc import AsyncIterator

import pytest

from conversations import engine as module
from conversations.engine import Engine
from conversations.errors import ShuttingDown
from conversations.models import Run
from conversations.runs import Owner, Started

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
async def engine(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Engine]:
    """The engine of this process, as far as the module knows."""
    made = Engine()
    monkeypatch.setattr(module, "_engine", made)
    made.start()
    yield made
    await made.shutdown(0)


def never(owner: Owner) -> Started:
    raise AssertionError("nothing may be started any more")


@pytest.mark.contract("D2")
async def test_after_a_shutdown_the_same_engine_refuses_what_still_comes(engine: Engine):
    await module.shut_down_engine()
    assert module.get_engine() is engine
    with pytest.raises(ShuttingDown):
        await engine.begin(never)


@pytest.mark.contract("D2")
async def test_a_shutdown_waits_for_a_start_that_is_under_way(engine: Engine):
    may_end, has_begun = threading.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def slow(owner: Owner) -> Started:
        loop.call_soon_threadsafe(has_begun.set)
        assert may_end.wait(10)
        return Started(Run(), None)

    starting = asyncio.create_task(engine.begin(slow))
    await has_begun.wait()
    ending = asyncio.create_task(engine.shutdown(10))
    done, _ = await asyncio.wait({ending}, timeout=0.3)
    assert not done
    may_end.set()
    assert (await starting).plan is None
    await ending
