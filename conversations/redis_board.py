"""The board's relay between processes: a key in Redis for each process that has live runs.

A process writes its figures only while a key says that somebody looks, which viewers' processes
renew. All keys expire by themselves, so nothing is left of processes that are gone.
"""

import json
import logging
from collections.abc import Sequence
from time import monotonic
from uuid import UUID

from redis.asyncio import Redis
from redis.exceptions import RedisError

from conversations.board import Progress
from conversations.events import encode

log = logging.getLogger(__name__)

PREFIX = "llmchat:board:"
WATCHED = f"{PREFIX}watched"
WATCHED_EXPIRES = 5  # s after the last look
FIGURES_EXPIRE = 4  # s after they were told
SOCKET_TIMEOUT = 1.0  # s
LEFT_ALONE = 5.0  # s after Redis failed
FAILURES = (RedisError, OSError, TimeoutError)


class RedisRelay:
    """A `Relay` for the processes that share one Redis."""

    def __init__(self, url: str) -> None:
        self._redis: Redis = Redis.from_url(
            url,
            decode_responses=True,
            socket_connect_timeout=SOCKET_TIMEOUT,
            socket_timeout=SOCKET_TIMEOUT,
        )
        self._away_until = 0.0  # monotonic

    async def tell(self, worker: UUID, figures: Sequence[Progress]) -> None:
        if monotonic() < self._away_until:
            return
        try:
            if await self._redis.exists(WATCHED):
                text = encode([progress.told for progress in figures])
                await self._redis.set(_key(worker), text, ex=FIGURES_EXPIRE)
        except FAILURES as error:
            self._failed(error)

    async def ask(self, workers: Sequence[UUID]) -> list[Progress]:
        if monotonic() < self._away_until:
            return []
        try:
            # First: a process whose runs have just begun has to know as well.
            await self._redis.set(WATCHED, "1", ex=WATCHED_EXPIRES)
            told = await self._redis.mget([_key(worker) for worker in workers]) if workers else []
        except FAILURES as error:
            self._failed(error)
            return []
        return [progress for text in told if text for progress in _read(text)]

    async def aclose(self) -> None:
        await self._redis.aclose()

    def _failed(self, error: BaseException) -> None:
        self._away_until = monotonic() + LEFT_ALONE
        log.info("the board goes without the figures of other processes for a moment: %s", error)


def _key(worker: UUID) -> str:
    return f"{PREFIX}figures:{worker.hex}"


def _read(text: str | bytes) -> list[Progress]:
    """Nothing where a process of another version has written something else."""
    try:
        return [Progress.of(told) for told in json.loads(text)]
    except (KeyError, TypeError, ValueError):
        return []
