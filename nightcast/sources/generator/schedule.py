"""What the operator does: drilling, shut-ins, workovers, bottom-hole pressures, injection; and the calendar."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nightcast.sources.generator.config import FieldConfig
from nightcast.sources.generator.network import Bools, Floats, Ints


@dataclass(frozen=True)
class Months:
    """The real calendar as day numbers.

    Attributes
    ----------
    label
        `(M,)` first day of each month.
    days
        `(M,)` days in each month.
    first
        `(M,)` number of each month's first day, counted from 0.
    of_day
        `(D,)` month of each day.
    """

    label: NDArray[np.datetime64]
    days: Ints
    first: Ints
    of_day: Ints

    @classmethod
    def of(cls, config: FieldConfig) -> Months:
        """The months of a configuration."""
        start = np.datetime64(str(config.start), "M")
        label = (start + np.arange(config.months + 1)).astype("datetime64[D]")
        days = np.diff(label).astype(np.int64)
        first = np.concatenate([[0], np.cumsum(days)[:-1]]).astype(np.int64)
        return cls(label[:-1].astype("datetime64[us]"), days, first, np.repeat(np.arange(config.months), days))

    @property
    def total(self) -> int:
        """Days in all months."""
        return int(self.days.sum())

    def sums(self, daily: NDArray[np.generic]) -> Floats:
        """Monthly sums of `(D, n)` daily values, `(M, n)`."""
        return np.asarray(np.add.reduceat(daily.astype(np.float64), self.first, axis=0), dtype=np.float64)


@dataclass(frozen=True)
class Wells:
    """A producer's life: `[start, end)` in days, `(J,)` each; `end` is the day it is converted, if it is."""

    start: Ints
    end: Ints


def drilling(config: FieldConfig, months: Months) -> tuple[Ints, Bools]:
    """First day of each producer `(J,)`, and whether it is drilled after the field's start; 30 % are."""
    rng = config.stream("drilling")
    is_new = np.zeros(config.producers, dtype=bool)
    is_new[rng.permutation(config.producers)[: int(0.3 * config.producers)]] = True
    late = np.floor(rng.uniform(0.05, 0.8, config.producers) * months.total).astype(np.int64)
    return np.where(is_new, late, 0), is_new


def _events(rng: np.random.Generator, rate: Floats, days: int) -> Ints:
    """`(n, 2)` day and well of Poisson events, `rate` a day for each well."""
    return np.argwhere(rng.random((days, len(rate))) < rate)


def producer_days(config: FieldConfig, wells: Wells, days: int) -> tuple[Bools, Floats]:
    """Days on stream `(D, J)` and the productivity relative to a new well's `(D, J)`.

    Short trips, long outages, and workovers that shut the well and then change its productivity; skin grows between.
    """
    n = len(wells.start)
    rng = config.stream("uptime")
    poor = config.variant == "poor_uptime"
    hazard = rng.lognormal(-0.5 * 0.4**2, 0.4, n)
    short_rate, long_rate = (1 / 60, 1 / 700) if poor else (1 / 300, 1 / 12000)
    day = np.arange(days)[:, None]
    is_open = (day >= wells.start) & (day < wells.end)

    trips = _events(rng, hazard * short_rate, days)
    outages = _events(rng, hazard * long_rate, days)
    workovers = _events(rng, np.full(n, 1 / 1200), days)
    lengths = (
        np.ceil(rng.lognormal(np.log(6.0), 0.8, len(trips))),
        rng.integers(30, 181, len(outages)),
        rng.integers(5, 36, len(workovers)),
    )
    for events, length in zip((trips, outages, workovers), lengths, strict=True):
        for (begin, well), span in zip(events, length.astype(np.int64), strict=True):
            is_open[begin : begin + span, well] = False

    age = np.maximum(day - wells.start, 0)
    relative = np.exp(-age / rng.uniform(1500, 5000, n))
    fails = rng.random(len(workovers)) < 0.2
    gains = np.where(fails, rng.uniform(0.6, 1.0, len(workovers)), rng.uniform(1.1, 1.7, len(workovers)))
    for (begin, well), span, gain in zip(workovers, lengths[2], gains, strict=True):
        if begin >= wells.start[well]:
            relative[begin + span :, well] *= gain
    return is_open, relative


def bottom_hole_pressure(config: FieldConfig, days: int) -> Floats:
    """Flowing bottom-hole pressure `(D, J)` in bar: set points that jump, Ornstein-Uhlenbeck noise around them."""
    rng = config.stream("bhp")
    n = config.producers
    level, wander = rng.uniform(80, 130, n), np.zeros(n)
    jumps = np.where(rng.random((days, n)) < 1 / 200, rng.normal(-6, 12, (days, n)), 0.0)
    noise = 0.5 * rng.normal(size=(days, n))
    out = np.empty((days, n))
    for day in range(days):
        level = np.clip(level + jumps[day], 35.0, 170.0)
        wander = wander * (1 - 1 / 20) + noise[day]
        out[day] = level + wander
    return np.clip(out, 35.0, 170.0)


def injection(config: FieldConfig, months: Months, starts: Ints, outlet: Floats) -> Floats:
    """Injected water `(D, I)` in m3/d before scaling: targets that change, shut-ins, monthly jitter.

    Parameters
    ----------
    starts
        `(I,)` first day of each injector.
    outlet
        `(I,)` how well the tanks an injector feeds can drain, relative to the mean: targets are set in proportion, as
        an engineer who balances the patterns would.
    """
    rng = config.stream("injection")
    n, days = len(starts), months.total
    base = rng.lognormal(np.log(200.0), 0.4, n) * outlet
    if config.variant == "constant_injection":
        return np.tile(base, (days, 1))
    target = np.ones((config.months, n))
    for i in range(n):
        month = int(rng.integers(4, 15))
        while month < config.months:
            target[month:, i] = rng.uniform(0.5, 1.5)
            month += int(rng.integers(4, 15))
    target *= np.clip(1 + 0.05 * rng.normal(size=target.shape), 0.8, 1.2)
    rate = base * target[months.of_day]
    shut = _events(rng, np.full(n, 1 / 300), days)
    for (begin, i), span in zip(shut, rng.integers(10, 61, len(shut)), strict=True):
        rate[begin : begin + span, i] = 0.0
    return np.where(np.arange(days)[:, None] >= starts, rate, 0.0)


def injection_starts(config: FieldConfig, days: int, conversions: Ints) -> Ints:
    """First day of each injector: 40 % begin later; a converted producer injects some weeks after it was shut."""
    rng = config.stream("injection starts")
    late = np.zeros(config.injectors, dtype=bool)
    if config.variant != "constant_injection":
        late[rng.permutation(config.injectors)[: int(0.4 * config.injectors)]] = True
    day = np.floor(rng.uniform(0.03, 0.5, config.injectors) * days).astype(np.int64)
    rebuilt = conversions + rng.integers(20, 61, len(conversions))
    return np.concatenate([np.where(late, day, 0), rebuilt])
