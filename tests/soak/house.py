"""The processes of a site in the soak, behind a balancer: struck down, and started again."""

import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from random import Random
from subprocess import TimeoutExpired
from time import monotonic
from typing import Self
from urllib.parse import urlsplit

from tests.servers.balancer import Balancer
from tests.servers.footprint import peak_memory
from tests.servers.sites import DURATIONS, Site, daphne, uvicorn
from tests.soak.figures import Figures, Wrong

GRACE = float(DURATIONS["SHUTDOWN_GRACE"])
MARGIN = 5.0  # s, in which a process ends after that (F16)
TRACEBACK = "Traceback (most recent call last):"
NO_ERRORS = (  # what Django and uvicorn have to say about requests that a shutdown cuts off
    "django.core.exceptions.RequestAborted",
    "asyncio.exceptions.CancelledError: Task cancelled, timeout graceful shutdown exceeded",
    "RuntimeError: Unexpected ASGI message 'http.response.start' sent, after response already",
)


class _Served:
    """One process."""

    def __init__(self, site: Site, chance: Random) -> None:
        self._stack = ExitStack()
        server = chance.choice([daphne, uvicorn])
        self.name = server.__name__
        self.process, self.url = self._stack.enter_context(server(site))
        self.pid = self.process.pid

    @property
    def port(self) -> int:
        port = urlsplit(self.url).port
        assert port
        return port

    def close(self) -> None:
        self._stack.close()


class House:
    """A context manager. `url` is the balancer's, and stays."""

    def __init__(self, site: Site, count: int, chance: Random, figures: Figures) -> None:
        self.site = site
        self.kills: list[float] = []  # the moments (time.monotonic)
        self._count = count
        self._chance = chance
        self._figures = figures
        self._balancer = Balancer()
        self._served: list[_Served] = []  # the oldest first

    def __enter__(self) -> Self:
        self._balancer.__enter__()
        for _ in range(self._count):
            self._start()
        return self

    def __exit__(self, *_: object) -> None:
        for served in self._served:
            served.close()
        self._balancer.__exit__()

    @property
    def url(self) -> str:
        return self._balancer.url

    @property
    def port(self) -> int:
        port = urlsplit(self.url).port
        assert port
        return port

    @property
    def served(self) -> list[tuple[int, str]]:
        """The process id and the address of each process."""
        return [(served.pid, served.url) for served in self._served]

    def strike(self) -> None:
        """Kills the oldest process or has it end, and starts another one in its place."""
        self._end(self._chance.choices([self._kill, self._terminate], [3, 2])[0])
        self._start()

    def renew(self) -> None:
        """Ends each process in order, one after the other, and starts another one in its place."""
        for _ in range(self._count):
            self._end(self._terminate)
            self._start()

    def end(self) -> None:
        """Ends all processes in order."""
        while self._served:
            self._end(self._terminate)

    def _start(self) -> None:
        served = _Served(self.site, self._chance)
        self._figures.blow(f"{served.name} {served.pid} is there")
        self._served.append(served)
        self._balancer.ports = [served.port for served in self._served]

    def _end(self, how: Callable[[_Served], None]) -> None:
        """Ends the oldest process, which has to be there still."""
        served = self._served.pop(0)
        try:
            code = served.process.end(0)
        except TimeoutExpired:
            self._figures.peak_memory = max(self._figures.peak_memory, peak_memory(served.pid))
            how(served)
        else:
            said = "\n".join(served.process.said[-20:])
            text = f"a process had ended with {code} though nobody here ended it; its log:\n{said}"
            self._figures.fault(Wrong.OTHER, text)
        for error in errors(served.process.said):
            self._figures.fault(Wrong.OTHER, f"a process had an error inside:\n{error}")
        served.close()

    def _kill(self, served: _Served) -> None:
        self.kills.append(monotonic())
        served.process.send_signal(signal.SIGKILL)
        served.process.end()
        self._figures.count("kill -9")
        self._figures.blow(f"{served.name} {served.pid} was killed")

    def _terminate(self, served: _Served) -> None:
        sent_at = monotonic()
        served.process.send_signal(signal.SIGTERM)
        code = served.process.end()
        took = monotonic() - sent_at
        if took > GRACE + MARGIN or code not in (0, -signal.SIGTERM):
            text = f"after SIGTERM a process took {took:.1f} s and ended with {code}"
            self._figures.fault(Wrong.OTHER, text)
        self._figures.count("SIGTERM")
        self._figures.blow(
            f"{served.name} {served.pid} ended with {code} {took:.1f} s after SIGTERM"
        )


def errors(said: Sequence[str]) -> Iterator[str]:
    """What went wrong inside a process, by its log: the message and the traceback of each."""
    for start, line in enumerate(said):
        if line == TRACEBACK:
            end = next(
                (at for at in range(start + 1, len(said)) if not said[at].startswith(" ")),
                len(said) - 1,
            )
            if not said[end].startswith(NO_ERRORS):
                yield "\n".join(said[max(0, start - 2) : end + 1])
