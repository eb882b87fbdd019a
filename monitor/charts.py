"""Charts as plain values, which `monitor/_chart.html` draws as SVG without any script.

Across, everything is in percent, so that a chart is as wide as its place and its words keep their
size; down, in pixels. Colours come from the style sheet, by the class of a series.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import Any

PLOT_HEIGHT = 150  # px
TOP = 8  # px above the plot, for half of the highest label
FEET = 22  # px below it, for the dates
MOST_DATES = 6
GRID_LINES = 4
GAP = 0.25  # of a column

Number = int | float | Decimal | None


@dataclass(frozen=True, slots=True)
class Series:
    """One figure of every day. `kind` is the end of its CSS class."""

    name: str
    kind: str
    values: Sequence[Number]  # None: there is none for that day


@dataclass(frozen=True, slots=True)
class Tick:
    """A line of the grid."""

    y: str
    label: str


@dataclass(frozen=True, slots=True)
class Mark:
    """A date below the plot."""

    x: str
    anchor: str
    label: str


@dataclass(frozen=True, slots=True)
class Bar:
    """A piece of a column."""

    kind: str
    y: str
    height: str


@dataclass(frozen=True, slots=True)
class Column:
    """A day: where it is, its bars or dots, and what is read out for it."""

    x: str
    width: str
    bar_x: str
    bar_width: str
    middle: str
    bars: list[Bar]
    dots: list[Bar]
    label: str


@dataclass(frozen=True, slots=True)
class Curve:
    """A line through the days; where a day has no value it breaks off."""

    kind: str
    path: str  # in a box that is 100 wide and PLOT_HEIGHT high


@dataclass(frozen=True, slots=True)
class Chart:
    title: str
    series: Sequence[Series]
    columns: list[Column]
    curves: list[Curve]
    ticks: list[Tick]
    marks: list[Mark]
    is_empty: bool

    height = TOP + PLOT_HEIGHT + FEET
    top = TOP
    plot_height = PLOT_HEIGHT
    bottom = TOP + PLOT_HEIGHT
    dates_y = TOP + PLOT_HEIGHT + FEET - 6


def stacked(
    title: str,
    days: Sequence[date],
    series: Sequence[Series],
    show: Callable[[Number], str],
    axis: Callable[[float], str],
    least_step: float = 0,
    more: Sequence[str] = (),
) -> Chart:
    """A column a day, its series on top of each other, the first at the bottom. `show` writes what
    a day has, `axis` what a line of the grid stands for. What is counted
    has a `least_step` of 1. `more` is read out too, a text for each day."""
    sums = [sum(float(one.values[at] or 0) for one in series) for at in range(len(days))]
    step = max(nice_step(max(sums, default=0)), least_step)
    return _chart(
        title, days, series, show, axis, max(sums, default=0), step, more, is_stacked=True
    )


def lines(
    title: str,
    days: Sequence[date],
    series: Sequence[Series],
    show: Callable[[float | None], str],
    axis: Callable[[float], str],
) -> Chart:
    """A line for each series."""
    known = [float(value) for one in series for value in one.values if value is not None]
    most = max(known, default=0)
    return _chart(title, days, series, show, axis, most, nice_step(most), (), is_stacked=False)


def _chart(
    title: str,
    days: Sequence[date],
    series: Sequence[Series],
    show: Callable[[Any], str],
    axis: Callable[[float], str],
    most: float,
    step: float,
    more: Sequence[str],
    *,
    is_stacked: bool,
) -> Chart:
    top = step * (math.ceil(most / step - 1e-9) or GRID_LINES)
    scale = PLOT_HEIGHT / top
    width = 100 / max(len(days), 1)
    columns = []
    for at, day in enumerate(days):
        bars, dots = [], []
        floor = 0.0
        for one in series:
            value = one.values[at]
            if value is None:
                continue
            size = float(value) * scale
            if is_stacked and size:
                bars.append(Bar(one.kind, _px(TOP + PLOT_HEIGHT - floor - size), _px(size)))
                floor += size
            elif not is_stacked:
                beside = [one.values[near] for near in (at - 1, at + 1) if 0 <= near < len(days)]
                # No line leads to a day that has none beside it: its dot stands for it.
                kind = one.kind if any(v is not None for v in beside) else f"{one.kind} is-alone"
                dots.append(Bar(kind, _px(TOP + PLOT_HEIGHT - size), ""))
        told = ", ".join(
            [f"{one.name} {show(one.values[at])}" for one in series]
            + [text for text in more[at : at + 1] if text]
        )
        columns.append(
            Column(
                x=_percent(at * width),
                width=_percent(width),
                bar_x=_percent((at + GAP / 2) * width),
                bar_width=_percent((1 - GAP) * width),
                middle=_percent((at + 0.5) * width),
                bars=bars,
                dots=dots,
                label=f"{_named(day)}: {told}",
            )
        )
    curves = [] if is_stacked else [_curve(one, width, scale) for one in series]
    return Chart(
        title=title,
        series=series,
        columns=columns,
        curves=curves,
        ticks=[
            Tick(_px(TOP + PLOT_HEIGHT - value * scale), axis(value)) for value in _grid(step, top)
        ],
        marks=_marks(days, width),
        is_empty=not any(column.bars or column.dots for column in columns),
    )


def nice_step(most: float) -> float:
    """1, 2 or 5 times a power of ten, by which at most GRID_LINES steps reach `most`."""
    if most <= 0:
        return 1.0
    rough = most / GRID_LINES
    power = 10.0 ** math.floor(math.log10(rough))
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * (1 - 1e-9))


def _grid(step: float, top: float) -> list[float]:
    return [step * number for number in range(round(top / step) + 1)]


def _curve(series: Series, width: float, scale: float) -> Curve:
    path, is_down = [], False
    for at, value in enumerate(series.values):
        if value is None:
            is_down = False
            continue
        y = PLOT_HEIGHT - float(value) * scale
        path.append(f"{'L' if is_down else 'M'}{(at + 0.5) * width:.3f} {y:.1f}")
        is_down = True
    return Curve(series.kind, " ".join(path))


def _marks(days: Sequence[date], width: float) -> list[Mark]:
    every = math.ceil(len(days) / MOST_DATES)
    marks = []
    # From the last day backwards: the newest is the one that people look for.
    for at in range(len(days) - 1, -1, -every):
        middle = (at + 0.5) * width
        anchor = "end" if middle > 95 else "start" if middle < 5 else "middle"
        x = {"end": 100.0, "start": 0.0, "middle": middle}[anchor]
        marks.append(Mark(_percent(x), anchor, f"{days[at].day} {days[at]:%b}"))
    return marks


def _named(day: date) -> str:
    return f"{day:%a} {day.day} {day:%b %Y}"


def _percent(value: float) -> str:
    return f"{value:.3f}%"


def _px(value: float) -> str:
    return f"{value:.1f}"
