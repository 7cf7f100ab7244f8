"""Observations of a field under water flood, as plain arrays."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from nightcast.contracts.errors import SourceError

Floats: TypeAlias = NDArray[np.float64]
Ints: TypeAlias = NDArray[np.int64]
Bools: TypeAlias = NDArray[np.bool_]

OPEN = 1e-9
"""Share of a month on stream below which a producer counts as shut."""


@dataclass(frozen=True)
class Waterflood:
    """What was observed, on one monthly grid; NaN is unknown. `T` months, `J` producers, `I` injectors.

    Attributes
    ----------
    days
        `(T,)` days in each month.
    rate
        `(T, J)` liquid produced, calendar-day m3/d.
    uptime
        `(T, J)` share of the month on stream, 0 to 1.
    pressure
        `(T, J)` flowing bottom-hole pressure, bar.
    injection
        `(T, I)` water injected, calendar-day m3/d. Unknown before an injector's first value: it did not inject yet.
    producers, injectors
        `(J, 2)` and `(I, 2)` positions in metres.

    Raises
    ------
    SourceError
        If shapes disagree or a value is impossible.
    """

    days: Floats
    rate: Floats
    uptime: Floats
    pressure: Floats
    injection: Floats
    producers: Floats
    injectors: Floats

    def __post_init__(self) -> None:
        for name in ("days", "rate", "uptime", "pressure", "injection", "producers", "injectors"):
            object.__setattr__(self, name, np.asarray(getattr(self, name), dtype=np.float64))
        if self.rate.ndim != 2 or self.injection.ndim != 2:
            raise _refuse("rate", self.rate.shape, "two axes: months, wells")
        months, producers = self.rate.shape
        injectors = self.injection.shape[1]
        wanted = {
            "days": (months,),
            "uptime": (months, producers),
            "pressure": (months, producers),
            "injection": (months, injectors),
            "producers": (producers, 2),
            "injectors": (injectors, 2),
        }
        for name, shape in wanted.items():
            if getattr(self, name).shape != shape:
                raise _refuse(name, getattr(self, name).shape, f"shape {shape}")
        if months == 0 or producers == 0:
            raise _refuse("rate", self.rate.shape, "at least one month and one producer")
        require_possible(self.days, self.uptime, self.injection)
        if ((self.rate < 0) | np.isinf(self.rate)).any():
            wrong = self.rate[(self.rate < 0) | np.isinf(self.rate)]
            raise _refuse("rate", float(wrong[0]), "0 or more, finite")
        if np.isinf(self.pressure).any():
            raise _refuse("pressure", float(self.pressure[np.isinf(self.pressure)][0]), "a finite number")

    def before(self, month: int) -> Waterflood:
        """The first `month` months alone."""
        return replace(
            self,
            days=self.days[:month],
            rate=self.rate[:month],
            uptime=self.uptime[:month],
            pressure=self.pressure[:month],
            injection=self.injection[:month],
        )


def require_possible(days: Floats, uptime: Floats, injection: Floats) -> None:
    """Refuse impossible inputs of a past or a plan.

    Raises
    ------
    SourceError
        If a month has no days, an uptime lies outside [0, 1], or an injection is negative or infinite.
    """
    if not (np.isfinite(days) & (days > 0)).all():
        raise _refuse("days", days.tolist(), "a positive number of days in every month")
    if ((uptime < 0) | (uptime > 1 + 1e-6)).any():
        raise _refuse("uptime", float(uptime[(uptime < 0) | (uptime > 1 + 1e-6)][0]), "a share between 0 and 1")
    if ((injection < 0) | np.isinf(injection)).any():
        raise _refuse("injection", float(injection[(injection < 0) | np.isinf(injection)][0]), "0 or more, finite")


def _refuse(name: str, value: object, expected: str) -> SourceError:
    return SourceError(f"{name} of a waterflood is {value}", expected=expected, remedy=f"correct the array `{name}`")


def carried(values: Floats, start: Floats | float = np.nan) -> Floats:
    """`(T, n)` values with each NaN replaced by the last known one, `start` before the first."""
    known = ~np.isnan(values)
    at = np.maximum.accumulate(np.where(known, np.arange(len(values))[:, None], -1), axis=0)
    taken = np.take_along_axis(values, np.maximum(at, 0), axis=0)
    return np.where(at >= 0, taken, start)


@dataclass(frozen=True)
class History:
    """A waterflood made complete, looking back only, so that a tank can be run through it.

    Attributes
    ----------
    uptime, pressure, injection
        As observed, gaps filled: uptime 0 before a producer's first month; pressure and injection carried on.
    producing
        `(T, J)` producing-day rate m3/d, NaN where it is unknown or rests on too few days.
    begin
        `(J,)` first month of each producer; `T` if it has none.
    """

    days: Floats
    uptime: Floats
    pressure: Floats
    injection: Floats
    producing: Floats
    begin: Ints

    @classmethod
    def of(cls, field: Waterflood, least_uptime: float) -> History:
        """Complete a field's observations."""
        rate = field.rate
        seen = ~np.isnan(rate) | ~np.isnan(field.uptime)
        begin = np.where(seen.any(axis=0), seen.argmax(axis=0), len(rate)).astype(np.int64)
        guess = np.where(np.isnan(rate), np.nan, (rate > 0).astype(np.float64))
        uptime = np.minimum(carried(np.where(np.isnan(field.uptime), guess, field.uptime), 0.0), 1.0)
        enough = ~np.isnan(rate) & (uptime >= max(least_uptime, OPEN))
        producing = np.where(enough, rate / np.where(enough, uptime, 1.0), np.nan)
        pressure = carried(np.where(uptime > OPEN, field.pressure, np.nan))
        return cls(field.days, uptime, pressure, carried(field.injection, 0.0), producing, begin)
