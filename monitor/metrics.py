"""What this process counts and does at the moment, in Prometheus' text format.

Names that OpenTelemetry's conventions for generative AI have are used in the spelling that
Prometheus makes of them; the others begin with `llmchat_`. Every process tells its own figures:
Prometheus asks each of them, and adds up.

Source: prometheus.io/docs/instrumenting/exposition_formats, version 0.0.4.
"""

from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Final

from conversations.engine import running_engine
from conversations.metering import Counter, Histogram, Labels, Meter, meter
from conversations.views.streams import open_streams

Gauge = tuple[str, str, float]  # name, help, value
CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"


def exposition(gauges: Sequence[Gauge] = (), counted: Meter = meter) -> str:
    """All that was counted, and these gauges. With many models it takes some 100 ms."""
    lines: list[str] = []
    for counter in counted.counters():
        lines += _counter(counter)
    for histogram in counted.histograms():
        lines += _histogram(histogram)
    for name, text, value in gauges:
        lines += [*_head(name, text, "gauge"), f"{name} {_number(value)}"]
    return "\n".join([*lines, ""])


def gauges() -> Iterator[Gauge]:
    """What this process does at the moment. To be called on the event loop."""
    engine = running_engine()
    yield "llmchat_running_runs", "Runs that this process drives.", engine.running if engine else 0
    yield "llmchat_open_streams", "Streams that this process sends.", open_streams()
    yield (
        "llmchat_journal_lag_seconds",
        "How long the oldest event has been waiting to be stored.",
        engine.journal.lag if engine else 0,
    )


def _counter(counter: Counter) -> Iterator[str]:
    yield from _head(counter.name, counter.help, "counter")
    for values, number in counter.values.items():
        yield f"{counter.name}{_labels(counter.labels, values)} {_number(number)}"


def _histogram(histogram: Histogram) -> Iterator[str]:
    yield from _head(histogram.name, histogram.help, "histogram")
    names = (*histogram.labels, "le")
    boundaries = [*(_number(boundary) for boundary in histogram.boundaries), "+Inf"]
    for values, found in histogram.values.items():
        total = 0
        for boundary, total in zip(boundaries, accumulate(found.counts), strict=True):
            yield f"{histogram.name}_bucket{_labels(names, (*values, boundary))} {total}"
        labels = _labels(histogram.labels, values)
        yield f"{histogram.name}_sum{labels} {_number(found.sum)}"
        yield f"{histogram.name}_count{labels} {total}"


def _head(name: str, text: str, kind: str) -> Iterator[str]:
    yield f"# HELP {name} {text}"
    yield f"# TYPE {name} {kind}"


def _labels(names: Labels, values: Labels) -> str:
    """An empty value stands for a label that is not there, so it is left out."""
    pairs = [
        f'{name}="{_escaped(value)}"' for name, value in zip(names, values, strict=True) if value
    ]
    return f"{{{','.join(pairs)}}}" if pairs else ""


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(value)
