"""What a soak counts, what it finds wrong, and the one table of it all."""

import sys
import threading
from collections import Counter
from collections.abc import Sequence
from enum import Enum
from time import monotonic

from tests.servers.footprint import MIB

# In the order of the table. The first ones are how runs ended.
COUNTED = (
    *("done", "stopped", "error", "interrupted", "deleted with their chat"),
    *("kill -9", "SIGTERM"),
    *("viewers", "of these polling", "returns of viewers cut off", "events seen"),
)
ENDINGS = COUNTED[:5]
WIDTH = 30  # characters of the first column


class Wrong(Enum):
    """What may be wrong; each is a row of the table, and has to be 0."""

    MISMATCH = "mismatches"
    LOST = "lost or doubled"
    LEAK = "leaks"
    OTHER = "other faults"


class Figures:
    """Those of one part of the soak. May be added to from any thread."""

    def __init__(self, title: str) -> None:
        self.title = title
        self.counts: Counter[str] = Counter()
        self.faults: Counter[Wrong] = Counter()
        self.peak_memory = 0  # bytes, of the largest process
        self.kept_memory = 0  # bytes that the measured work left behind in a process at the most
        self.blows: list[str] = []  # what became of processes, and when
        self._began_at = monotonic()
        self._lock = threading.Lock()

    def count(self, name: str, by: int = 1) -> None:
        assert name in COUNTED
        with self._lock:
            self.counts[name] += by

    def fault(self, wrong: Wrong, text: str) -> None:
        """Notes it, and says it at once: a long soak need not be waited for."""
        with self._lock:
            self.faults[wrong] += 1
            say(f"{self._moment} WRONG ({wrong.value}), {self.title}: {text}")

    def blow(self, text: str) -> None:
        self.blows.append(f"{self._moment} {text}")

    @property
    def _moment(self) -> str:
        return f"[{monotonic() - self._began_at:6.1f} s]"


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def table(parts: Sequence[Figures]) -> str:
    """The figures of all parts, one column for each."""
    widths = [max(len(part.title), 10) for part in parts]

    def row(name: str, *values: object) -> str:
        cells = (f"{value:>{width}}" for value, width in zip(values, widths, strict=True))
        return f"{name:<{WIDTH}}" + "   ".join(cells)

    return "\n".join(
        [
            row("", *(part.title for part in parts)),
            row("runs", *(sum(part.counts[end] for end in ENDINGS) for part in parts)),
            *(
                row(
                    f"  {name}" if name in ENDINGS else name, *(part.counts[name] for part in parts)
                )
                for name in COUNTED
            ),
            *(row(wrong.value, *(part.faults[wrong] for part in parts)) for wrong in Wrong),
            row("peak memory, MiB", *(part.peak_memory // MIB for part in parts)),
            row("memory that it kept, MiB", *(f"{part.kept_memory / MIB:.1f}" for part in parts)),
        ]
    )
