"""The bus between processes: Redis Streams carry the events, a channel layer the word to stop.

Each process keeps a local bus for its own readers. What a run's owner publishes goes there at
once, and to the run's stream in Redis a moment later; a process whose readers follow somebody
else's run feeds its local bus from that stream, through one connection however many they are.

Redis may be away, come back empty, or lose what was sent meanwhile: readers find the gap and turn
to the database, which is why nothing here is ever waited for or repeated.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Any
from uuid import UUID

from channels.layers import get_channel_layer
from redis.asyncio import Redis
from redis.exceptions import RedisError

from conversations.background import spawn
from conversations.bus import KEPT_EVENTS, LocalBus
from conversations.events import RunEvent, numbered

log = logging.getLogger(__name__)

PREFIX = "llmchat:run:"
BLOCK = 2_000  # ms that one look into a stream waits; below the socket's own timeout
SOCKET_TIMEOUT = 5.0  # s
CLOSING = 0.5  # s for taking leave of Redis
RECONNECT = 0.5  # s before the next try after Redis failed
LOOK = 2.0  # s after which readers look into the database while Redis is away
UNSENT_EVENTS = 20_000  # of all runs; more is dropped while Redis is away
RUNNING_EXPIRES, ENDED_EXPIRES = 3_600, 60  # s after the last event
FAILURES = (RedisError, OSError, TimeoutError)


class RedisBus:
    """A `Bus` for the processes that share one Redis."""

    def __init__(self, url: str) -> None:
        self._local = LocalBus()
        self._redis: Redis = Redis.from_url(
            url, decode_responses=True, socket_connect_timeout=2, socket_timeout=SOCKET_TIMEOUT
        )
        self._own: set[UUID] = set()  # runs whose events are made here
        self._unsent: list[tuple[UUID, RunEvent]] = []
        self._has_unsent = asyncio.Event()
        self._feeds: dict[UUID, asyncio.Task[None]] = {}
        self._is_away = False

    # ---- the owner's side

    def publish(self, run_id: UUID, events: Sequence[RunEvent]) -> None:
        self._own.add(run_id)
        self._local.publish(run_id, events)
        if len(self._unsent) < UNSENT_EVENTS:
            self._unsent.extend((run_id, event) for event in events)
        self._has_unsent.set()

    def forget(self, run_id: UUID) -> None:
        self._own.discard(run_id)
        self._local.forget(run_id)

    # ---- the readers' side

    async def read(self, run_id: UUID, after: int, wait: float) -> Sequence[RunEvent]:
        if run_id not in self._own and wait > 0:
            self._feed(run_id)
        return await self._local.read(run_id, after, min(wait, LOOK) if self._is_away else wait)

    def _feed(self, run_id: UUID) -> None:
        if run_id not in self._feeds:
            feed = spawn(self._feed_while_read(run_id), f"feed of run {run_id}")
            self._feeds[run_id] = feed
            feed.add_done_callback(lambda _: self._feeds.pop(run_id, None))

    async def _feed_while_read(self, run_id: UUID) -> None:
        """Brings a run's stream here until its end, or until nobody waits for it any more."""
        key = PREFIX + run_id.hex
        position = 0
        while True:
            try:
                # A list of streams, each with its entries: (id, fields).
                found: Any = await self._redis.xread({key: f"0-{position}"}, KEPT_EVENTS, BLOCK)
            except FAILURES as error:
                self._went_away(error)
                await asyncio.sleep(RECONNECT)
                found = None
            else:
                self._came_back()
            events = [
                numbered(int(id_.partition("-")[2]), fields["data"])
                for _, entries in found or ()
                for id_, fields in entries
            ]
            if events:
                self._local.publish(run_id, events)
                position = events[-1].number
                if events[-1].is_end:
                    break
            elif not self._local.is_read(run_id):
                break
        self._local.forget(run_id)

    # ---- between processes

    async def ask_to_stop(self, worker: UUID, run_id: UUID) -> None:
        layer = get_channel_layer()
        try:
            await layer.group_send(_group(worker), {"type": "stop", "run_id": str(run_id)})
        except FAILURES as error:
            self._went_away(error)

    async def serve(self, worker: UUID, on_stop: Callable[[UUID], None]) -> None:
        tasks = {
            spawn(self._send_forever(), "sender to Redis"),
            spawn(self._listen_forever(worker, on_stop), "listener for stops"),
        }
        try:
            await asyncio.wait(tasks)
        finally:
            for _ in range(2):
                # Twice: at the first the layer takes its leave of Redis, which may never answer.
                for task in (*tasks, *self._feeds.values()):
                    task.cancel()
                await asyncio.wait(tasks, timeout=CLOSING)
            await self._redis.aclose()

    async def _send_forever(self) -> None:
        while True:
            await self._has_unsent.wait()
            self._has_unsent.clear()
            unsent, self._unsent = self._unsent, []
            try:
                await self._send(unsent)
            except FAILURES as error:
                # Dropped: they are in the database by now, or soon.
                self._went_away(error)
            else:
                self._came_back()

    async def _send(self, unsent: Sequence[tuple[UUID, RunEvent]]) -> None:
        last = dict(unsent)
        async with self._redis.pipeline(transaction=False) as pipe:
            for run_id, event in unsent:
                key = PREFIX + run_id.hex
                pipe.xadd(key, {"data": event.data}, f"0-{event.number}", KEPT_EVENTS)
            for run_id, event in last.items():
                expires = ENDED_EXPIRES if event.is_end else RUNNING_EXPIRES
                pipe.expire(PREFIX + run_id.hex, expires)
            # A number that is there already is refused, and that is right.
            await pipe.execute(raise_on_error=False)

    async def _listen_forever(self, worker: UUID, on_stop: Callable[[UUID], None]) -> None:
        layer = get_channel_layer()
        channel = await layer.new_channel()
        while True:
            try:
                # Joining again costs nothing, and a Redis that came back has forgotten us.
                await layer.group_add(_group(worker), channel)
                message = await layer.receive(channel)
            except FAILURES as error:
                self._went_away(error)
                await asyncio.sleep(RECONNECT)
            else:
                on_stop(UUID(message["run_id"]))

    def _went_away(self, error: BaseException) -> None:
        if not self._is_away:
            log.warning("Redis does not answer (%s); readers use the database", error)
        self._is_away = True

    def _came_back(self) -> None:
        if self._is_away:
            log.warning("Redis answers again")
        self._is_away = False


def _group(worker: UUID) -> str:
    return f"llmchat.worker.{worker.hex}"
