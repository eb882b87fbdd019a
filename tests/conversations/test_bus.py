"""Both buses keep the same promises; the one over Redis keeps them between processes."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID, uuid4

import pytest

from conversations.bus import KEPT_EVENTS, Bus, LocalBus
from conversations.events import RunEvent, chunk
from conversations.redis_bus import RedisBus
from tests.servers.redis import RedisServer

needs_redis = pytest.mark.skipif(
    not RedisServer.is_installed(), reason="redis-server is not installed"
)


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


@pytest.fixture
def layers(redis: RedisServer, settings: Any) -> None:
    settings.CHANNEL_LAYERS = {
        "default": {
            "BACKEND": "channels_redis.pubsub.RedisPubSubChannelLayer",
            "CONFIG": {"hosts": [redis.url]},
        }
    }


def events(first: int, last: int) -> list[RunEvent]:
    return [RunEvent(n, "chunk", chunk(f"{n}", n)) for n in range(first, last + 1)]


def end(number: int) -> RunEvent:
    return RunEvent(number, "done", '{"type":"done"}')


@asynccontextmanager
async def serving(bus: Bus, on_stop: Callable[[UUID], None] = print) -> AsyncIterator[UUID]:
    worker = uuid4()
    task = asyncio.create_task(bus.serve(worker, on_stop))
    try:
        yield worker
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def read_to_the_end(bus: Bus, run_id: UUID, after: int = 0) -> list[int]:
    """All numbers that come; fails when one is missing or comes again."""
    numbers: list[int] = []
    async with asyncio.timeout(10):
        while True:
            for event in await bus.read(run_id, after, 1):
                numbers.append(event.number)
                after = event.number
                if event.is_end:
                    return numbers


class Suite:
    """What every bus promises inside one process."""

    async def test_a_reader_gets_what_is_published_in_order(self, bus: Bus):
        run_id = uuid4()
        async with serving(bus):
            reader = asyncio.create_task(read_to_the_end(bus, run_id))
            await asyncio.sleep(0)
            bus.publish(run_id, events(1, 5))
            bus.publish(run_id, events(6, 6))
            bus.publish(run_id, [end(7)])
            assert await reader == [1, 2, 3, 4, 5, 6, 7]

    async def test_a_reader_may_begin_anywhere(self, bus: Bus):
        run_id = uuid4()
        async with serving(bus):
            bus.publish(run_id, [*events(1, 9), end(10)])
            for after in range(10):
                assert await read_to_the_end(bus, run_id, after) == list(range(after + 1, 11))

    async def test_nothing_comes_after_a_while_without_news(self, bus: Bus):
        async with serving(bus):
            bus.publish(run_id := uuid4(), events(1, 2))
            assert list(await bus.read(run_id, 2, 0.01)) == []
            assert list(await bus.read(uuid4(), 0, 0.01)) == []

    async def test_runs_do_not_mix(self, bus: Bus):
        first, second = uuid4(), uuid4()
        async with serving(bus):
            bus.publish(first, [*events(1, 3), end(4)])
            bus.publish(second, [end(1)])
            assert await read_to_the_end(bus, first) == [1, 2, 3, 4]
            assert await read_to_the_end(bus, second) == [1]

    async def test_old_events_go_and_what_is_left_has_no_gap(self, bus: Bus):
        run_id = uuid4()
        async with serving(bus):
            total = 3 * KEPT_EVENTS
            bus.publish(run_id, events(1, total))
            kept = await bus.read(run_id, 0, 0)
            assert len(kept) <= 2 * KEPT_EVENTS
            assert kept[-1].number == total
            assert [event.number for event in kept] == list(range(kept[0].number, total + 1))


class TestLocalBus(Suite):
    @pytest.fixture
    def bus(self) -> Bus:
        return LocalBus()


@needs_redis
@pytest.mark.usefixtures("layers")
class TestRedisBus(Suite):
    @pytest.fixture
    async def bus(self, redis: RedisServer) -> Bus:
        return RedisBus(redis.url)

    @pytest.fixture
    async def other(self, redis: RedisServer) -> RedisBus:
        return RedisBus(redis.url)

    @pytest.mark.contract("D3")
    async def test_another_process_reads_live_what_is_published_here(
        self, bus: Bus, other: RedisBus
    ):
        run_id = uuid4()
        async with serving(bus), serving(other):
            readers = [asyncio.create_task(read_to_the_end(other, run_id)) for _ in range(20)]
            for first in range(1, 100, 3):
                bus.publish(run_id, events(first, first + 2))
                await asyncio.sleep(0)
            bus.publish(run_id, [end(100)])
            assert await asyncio.gather(*readers) == [list(range(1, 101))] * 20

    async def test_many_readers_share_one_connection(self, bus: Bus, other: RedisBus):
        run_id = uuid4()
        async with serving(bus), serving(other):
            bus.publish(run_id, events(1, 1))
            readers = [asyncio.create_task(read_to_the_end(other, run_id)) for _ in range(50)]
            await other.read(run_id, 0, 5)
            assert len(other._feeds) == 1
            bus.publish(run_id, [end(2)])
            await asyncio.gather(*readers)
            async with asyncio.timeout(15):
                while other._feeds:  # noqa: ASYNC110 - a task that ends tells nobody
                    await asyncio.sleep(0.01)

    @pytest.mark.contract("F14")
    async def test_redis_that_comes_back_empty_carries_what_comes_next(
        self, redis: RedisServer, bus: Bus, other: RedisBus
    ):
        run_id = uuid4()
        async with serving(bus), serving(other):
            bus.publish(run_id, events(1, 3))
            known = 0
            while known < 3:
                known = (await other.read(run_id, known, 5))[-1].number
            await asyncio.to_thread(redis.stop)
            bus.publish(run_id, events(4, 6))  # nobody carries these: the database has them
            await asyncio.to_thread(redis.start)
            number = 6
            async with asyncio.timeout(15):
                while True:
                    number += 1
                    bus.publish(run_id, events(number, number))
                    found = await other.read(run_id, 3, 0.2)
                    if found:
                        break
            numbers = [event.number for event in found]
            assert numbers == list(range(numbers[0], numbers[-1] + 1))
            assert numbers[0] > 3

    async def test_a_wish_to_stop_reaches_the_process_it_is_meant_for(
        self, bus: Bus, other: RedisBus
    ):
        heard: list[UUID] = []
        overheard: list[UUID] = []
        run_id = uuid4()
        async with serving(bus, heard.append) as worker, serving(other, overheard.append):
            async with asyncio.timeout(5):
                while not heard:  # the first words may come before anybody listens
                    await other.ask_to_stop(worker, run_id)
                    await asyncio.sleep(0.01)
        assert set(heard) == {run_id}
        assert overheard == []
