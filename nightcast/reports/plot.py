"""A chart as a value: marks and axes in data units, which `svg` draws for the page and `png` for the tracker.

Colours are roles, not hex codes, so that one chart serves light, dark and print.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Literal

EPOCH: Final = datetime(1970, 1, 1)

PALETTE: Final[dict[str, tuple[str, str]]] = {
    # role: (on light, on dark); categories follow Okabe and Ito (2008), told apart by every kind of colour vision
    "actual": ("#1b2430", "#eef1f5"),
    "forecast": ("#0b62a8", "#73bdf7"),
    "fallback": ("#b45309", "#f5a94f"),
    "previous": ("#8b3f8f", "#e0a0e3"),
    "naive": ("#6b7280", "#9aa4b2"),
    "other": ("#b4bcc8", "#556070"),
    "rule": ("#77828f", "#8b96a5"),
    "category-0": ("#0072b2", "#4aa8e0"),
    "category-1": ("#e69f00", "#e9ad2b"),
    "category-2": ("#009e73", "#2fbf97"),
    "category-3": ("#cc79a7", "#dd94bd"),
    "category-4": ("#56b4e9", "#9ad3f5"),
    "category-5": ("#d55e00", "#ef7f33"),
    "category-6": ("#c9bb1d", "#f0e442"),
    "category-7": ("#8a8f98", "#a3a9b3"),
}
CATEGORIES: Final = 8

Shape = Literal["line", "dash", "band", "block", "dot", "ring", "triangle"]
Side = Literal["right", "left", "above", "below"]


@dataclass(frozen=True)
class Line:
    """A line through points; a missing `y` breaks it. Lone points between gaps are drawn as dots."""

    x: tuple[float, ...]
    y: tuple[float | None, ...]
    role: str
    dash: bool = False
    dots: bool = False
    thin: bool = False


@dataclass(frozen=True)
class Band:
    """The area between two lines; nested bands add up to a darker tone."""

    x: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    role: str


@dataclass(frozen=True)
class Block:
    """A filled rectangle."""

    left: float
    right: float
    bottom: float
    top: float
    role: str


@dataclass(frozen=True)
class Rule:
    """A line across the chart at one `x` or one `y`."""

    at: float
    axis: Literal["x", "y"]
    role: str = "rule"


@dataclass(frozen=True)
class Hint:
    """Words for a vertical slice of the chart, shown on hover."""

    left: float
    right: float
    text: str


@dataclass(frozen=True)
class Dot:
    """A marker at one place.

    Attributes
    ----------
    size
        Half its width, CSS pixels at scale one.
    hollow
        Its outline alone.
    label, side
        Text beside it, and where.
    hint
        Words shown on hover.
    """

    x: float
    y: float
    role: str
    shape: Literal["circle", "triangle"] = "circle"
    size: float = 2.5
    hollow: bool = False
    label: str = ""
    side: Side = "right"
    hint: str = ""


Mark = Line | Band | Block | Rule | Hint | Dot


@dataclass(frozen=True)
class Axis:
    """A range with labelled ticks."""

    low: float
    high: float
    ticks: tuple[tuple[float, str], ...]
    label: str = ""


@dataclass(frozen=True)
class Key:
    """One line of a legend."""

    label: str
    role: str
    shape: Shape = "line"


@dataclass(frozen=True)
class Plot:
    """One chart.

    Attributes
    ----------
    marks
        In drawing order.
    description
        What a reader who cannot see it should know.
    size
        Width and height in CSS pixels at scale one.
    left
        Width of the margin that holds the labels of the y axis, in the same pixels.
    """

    marks: tuple[Mark, ...]
    x: Axis
    y: Axis
    description: str
    legend: tuple[Key, ...] = ()
    size: tuple[int, int] = (360, 200)
    left: int = 46


def seconds_of(time: datetime) -> float:
    """A naive UTC time as a position on an axis."""
    return (time - EPOCH).total_seconds()


def number_axis(
    values: Iterable[float | None],
    *,
    label: str = "",
    ticks: int = 5,
    include: Sequence[float] = (),
    floor_at_zero: bool = True,
) -> Axis:
    """An axis that holds all values, with ticks at round numbers.

    Zero is shown when no value is negative and the smallest is at most three quarters of the largest.
    """
    known = [value for value in (*values, *include) if value is not None and math.isfinite(value)]
    low, high = (min(known), max(known)) if known else (0.0, 1.0)
    if floor_at_zero and low >= 0 and low <= 0.75 * high:
        low = 0.0
    if high - low <= 1e-12 * max(abs(low), abs(high), 1e-300):
        spread = abs(high) * 0.1 or 1.0
        low, high = low - (spread if low != 0 else 0), high + spread
    pad = 0.04 * (high - low)
    low, high = (low if low == 0 else low - pad), high + pad
    step = _round_step((high - low) / ticks)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return Axis(low, high, tuple((k * step, tick_label(k * step, step)) for k in range(first, last + 1)), label)


def _round_step(raw: float) -> float:
    power: float = 10.0 ** math.floor(math.log10(raw))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * 0.7)


def tick_label(value: float, step: float) -> str:
    """A tick's number with as many decimals as its step needs: 1,500 · 0.25 · 3M."""
    if abs(value) < step * 1e-6:
        return "0"
    for limit, unit, suffix in ((1e9, 1e9, "G"), (1e6, 1e6, "M"), (1e5, 1e3, "k")):
        if abs(value) >= limit:
            return tick_label(value / unit, step / unit) + suffix
    if step < 1e-4:
        return f"{value:.1e}".replace("-", "−")
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    return f"{value:,.{decimals}f}".replace("-", "−")


def steps_axis(steps: Sequence[int], *, label: str) -> Axis:
    """An axis of whole steps, every one labelled while they fit."""
    low, high = min(steps), max(steps)
    every = max(1, math.ceil((high - low + 1) / 12))
    ticks = tuple((float(step), str(step)) for step in range(low, high + 1) if (step - low) % every == 0)
    return Axis(low - 0.5, high + 0.5, ticks, label)


_MONTH_STEPS: Final = (1, 2, 3, 6, 12, 24, 60, 120, 240)
_SECOND_STEPS: Final = (60, 300, 900, 1800, 3600, 10800, 21600, 43200, 86400, 172800, 604800, 1209600)
_MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def time_axis(low: float, high: float, *, ticks: int = 5, label: str = "") -> Axis:
    """An axis of calendar time (seconds since 1970) with ticks at whole years, months, days or minutes."""
    if high <= low:
        low, high = low - 43_200, high + 43_200
    pad = 0.015 * (high - low)
    low, high = low - pad, high + pad
    span = high - low
    if span / 1_209_600 > ticks:
        months = next((m for m in _MONTH_STEPS if span / (m * 2_629_800) <= ticks), _MONTH_STEPS[-1])
        return Axis(low, high, tuple(_month_ticks(low, high, months)), label)
    step = next(s for s in _SECOND_STEPS if span / s <= ticks)
    first = math.ceil(low / step)
    places = [float(k * step) for k in range(first, math.floor(high / step) + 1)]
    return Axis(low, high, tuple((place, _moment(place, step)) for place in places), label)


def _month_ticks(low: float, high: float, months: int) -> Iterable[tuple[float, str]]:
    start = EPOCH + timedelta(seconds=low)
    month = (start.year * 12 + start.month - 1) // months * months
    while True:
        time = datetime(month // 12, month % 12 + 1, 1)
        place = seconds_of(time)
        if place > high:
            return
        if place >= low:
            yield place, str(time.year) if months >= 12 else f"{_MONTHS[time.month - 1]} {time.year % 100:02d}"
        month += months


def _moment(place: float, step: int) -> str:
    time = EPOCH + timedelta(seconds=place)
    if step >= 86_400:
        return f"{time.day} {_MONTHS[time.month - 1]}"
    return f"{time.day} {_MONTHS[time.month - 1]} {time:%H:%M}" if step >= 21_600 else f"{time:%H:%M}"
