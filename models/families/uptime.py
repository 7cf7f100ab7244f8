"""Two-part forecasts of wells: the rate of days on stream, times the share of days on stream.

Most error of a well's forecast comes from months that it is shut. Where uptime is planned it is taken as planned; else
a shut-in begins and ends with probabilities learned from the panel and the well's own record, so that a well that is
shut now restarts with a learned probability. The quantiles are those of the mixture: zero with the probability of a
shut month, else around the rate. A month is shut if its uptime says so, or its rate is 0, or, where uptime is not
known, if it is missing between two known months.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import NormalDist
from typing import Any, ClassVar, Final, Literal

import numpy as np
import polars as pl
from pydantic import Field

from models.base import Answer, Forecaster, Hyperparameters
from models.grid import (
    BoolArray,
    FloatArray,
    Grid,
    IntArray,
    answer_frame,
    grid_of,
    last_known,
    level_floor,
    steps_since_known,
)
from models.residuals import FEWEST_ERRORS
from nightcast.contracts.catalog import Capabilities
from nightcast.contracts.columns import HORIZON, ID, LEVELS, UPTIME
from nightcast.contracts.panel import PanelView
from nightcast.contracts.source import Note

PRESSURE: Final = "wbhp"
SHUT: Final = 0.02
"""Share of a step on stream up to which a well counts as shut all step long."""
LEAST_UPTIME: Final = 0.1
"""Share on stream from which the rate of days on stream is believed."""
LATEST: Final = 12
"""Producing steps whose median uptime is the usual one, and steps a series may be silent and still count."""
GRID: Final = np.linspace(0.01, 0.99, 99)
"""Levels at which the distribution of errors is kept."""
ON_AGES: Final = (1, 2, 4, 13)
"""First steps of the age classes of a run on stream, for the probability that a shut-in begins."""
OFF_AGES: Final = (1, 2, 3, 4, 7, 13)
"""First steps of the age classes of a shut-in, for the probability that it ends."""
OLDEST: Final = 13
"""Ages are counted up to here."""


# -- what is known of each well ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class OnStream:
    """Wells by step, the last column being the cutoff; NaN where unknown.

    Attributes
    ----------
    y
        `[N, T]` calendar-day rate.
    share
        `[N, T]` share of the step on stream; 1 for a rate, and 0 for none, where uptime is not known.
    rate
        `[N, T]` rate of days on stream, where there are enough of them.
    pressure
        `[N, T]` bottom-hole pressure, bar.
    guessed
        `[N, T]` where a missing rate was taken for a shut step because a later one is known; None: nowhere.
    """

    y: FloatArray
    share: FloatArray
    rate: FloatArray
    pressure: FloatArray
    guessed: BoolArray | None = None

    @classmethod
    def of(cls, y: FloatArray, uptime: FloatArray | None = None, pressure: FloatArray | None = None) -> OnStream:
        """From calendar-day rates, and the share on stream and the pressure if they are reported."""
        positive = np.where(np.isnan(y), np.nan, (y > 0).astype(float))
        share = positive if uptime is None else np.where(np.isnan(uptime), positive, np.clip(uptime, 0.0, 1.0))
        # A volume without days on stream, or days without a volume: the volume decides.
        share = np.where((positive == 1.0) & (share <= SHUT), 1.0, np.where(positive == 0.0, 0.0, share))
        believed = (share >= LEAST_UPTIME) & (y > 0)
        rate = np.where(believed, y / np.where(believed, share, 1.0), np.nan)
        bar = np.full(y.shape, np.nan) if pressure is None else np.where(pressure > 0, pressure, np.nan)
        return cls(np.where(y < 0, 0.0, y), share, rate, bar)

    def before(self, step: int) -> OnStream:
        """The first `step` steps only, as they were known then: a missing rate was not yet told to be a shut step."""
        y, share, rate, pressure = (its[:, :step] for its in (self.y, self.share, self.rate, self.pressure))
        if self.guessed is None:
            return OnStream(y, share, rate, pressure)
        told = _later_known(y)
        guessed = self.guessed[:, :step] & told
        return OnStream(y, np.where(self.guessed[:, :step] & ~told, np.nan, share), rate, pressure, guessed)

    def rows(self, rows: IntArray) -> OnStream:
        """Some wells only."""
        guessed = None if self.guessed is None else self.guessed[rows]
        return OnStream(self.y[rows], self.share[rows], self.rate[rows], self.pressure[rows], guessed)

    def usual_uptime(self) -> FloatArray:
        """`[N]` share on stream to expect of a producing step: see `usual_share`."""
        return usual_share(self.share)


def on_stream_of(view: PanelView, grid: Grid, *, missing_is_shut: bool = True) -> OnStream:
    """The wells of a grid, with uptime and pressure if the view reports them.

    `missing_is_shut` takes a missing rate between two known ones, after first production, for a shut month where
    uptime says nothing: it counts as shut, its rate stays unknown.
    """
    uptime = covariate_of(view, grid, UPTIME)
    past = OnStream.of(grid.y, uptime, covariate_of(view, grid, PRESSURE))
    if not missing_is_shut:
        return past
    before = np.cumsum(np.nan_to_num(grid.y, nan=0.0) > 0, axis=1) > 0
    guessed = np.isnan(past.share) & before & _later_known(grid.y)
    return replace(past, share=np.where(guessed, 0.0, past.share), guessed=guessed)


def _later_known(y: FloatArray) -> BoolArray:
    """`[N, T]`: whether a value is known at the step or after it."""
    known = ~np.isnan(y)
    return np.asarray(np.cumsum(known[:, ::-1], axis=1)[:, ::-1] > 0)


def covariate_of(view: PanelView, grid: Grid, name: str) -> FloatArray | None:
    """`[N, T]` of a numeric covariate, None if the view has no such column."""
    if name not in view.columns or not view.history.schema[name].is_numeric():
        return None
    return grid.matrix(view.history.get_column(name).cast(pl.Float64).fill_null(float("nan")).to_numpy())


def plan_of(view: PanelView, name: str) -> FloatArray | None:
    """`[N, H]` planned values of the asked series, sorted by series; None if the column is no plan."""
    if name not in view.names("plan") or not view.future.schema[name].is_numeric():
        return None
    ahead = view.future.sort(ID, HORIZON).get_column(name).cast(pl.Float64).fill_null(float("nan")).to_numpy()
    return np.asarray(ahead.reshape(len(view.series), view.schema.horizon), dtype=np.float64)


def latest_known(values: FloatArray, count: int) -> FloatArray:
    """`[N, count]`: the latest known values, newest first; NaN if there are fewer."""
    known = ~np.isnan(values)
    back = known.sum(axis=1, keepdims=True) - known.cumsum(axis=1)
    row, col = np.nonzero(known & (back < count))
    out = np.full((len(values), count), np.nan)
    out[row, back[row, col]] = values[row, col]
    return out


def row_median(values: FloatArray) -> FloatArray:
    """`[N]`: median of each row's known values, NaN if there are none."""
    ordered = np.sort(values, axis=1)
    count = (~np.isnan(values)).sum(axis=1)
    rows = np.arange(len(values))
    low = ordered[rows, np.maximum((count - 1) // 2, 0)]
    high = ordered[rows, np.minimum(count // 2, values.shape[1] - 1)]
    return np.asarray(np.where(count > 0, (low + high) / 2, np.nan))


@dataclass(frozen=True)
class Ahead:
    """What is planned or expected of the months ahead: `[N, H]` uptime, and pressure if that is planned."""

    uptime: FloatArray
    pressure: FloatArray | None = None


def usual_share(share: FloatArray) -> FloatArray:
    """`[N]` median share on stream of the latest producing steps of `[N, T]`; 1 for a well that never produced.

    A well's first producing step is a part of one by nature, and counts only where it is the only one.
    """
    on = np.where(share > SHUT, share, np.nan)
    number = np.isfinite(on).cumsum(axis=1)
    latest = latest_known(np.where((number > 1) | (number[:, -1:] == 1), on, np.nan), LATEST)
    return np.asarray(np.nan_to_num(row_median(latest), nan=1.0))


# -- shut-ins ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Hazard:
    """Probabilities that a shut-in begins and ends, per step, by the age of the run, for a panel.

    A well's own record scales them: with `c` events where the panel's probabilities expect `E`, by
    `(c + m) / (E + m)`, the mean of a Gamma posterior whose prior has mean 1 and shape `m`.

    Attributes
    ----------
    begins, ends
        Per age class of `ON_AGES` and `OFF_AGES`.
    begin_shape, end_shape
        The shapes `m`: large where wells are alike.
    """

    begins: FloatArray
    ends: FloatArray
    begin_shape: float
    end_shape: float

    @classmethod
    def learn(cls, share: FloatArray) -> Hazard:
        """From `[N, T]` shares on stream, NaN where unknown."""
        runs = _Runs.of(share)
        begins, begin_shape = _learn_rates(*runs.counts(off=False), prior=(0.5, 49.5))
        ends, end_shape = _learn_rates(*runs.counts(off=True), prior=(1.0, 3.0))
        return cls(begins, ends, begin_shape, end_shape)

    def shut(self, share: FloatArray, horizon: int) -> FloatArray:
        """`[N, H]` probability that a well is shut, 1..H steps after the last column of `share`."""
        runs = _Runs.of(share)
        wells = np.arange(len(share))
        begin = self._scaled(runs, off=False)[:, _class_of(ON_AGES)]
        end = self._scaled(runs, off=True)[:, _class_of(OFF_AGES)]
        idle = np.nan_to_num(steps_since_known(share)[:, -1], nan=0.0).astype(np.int64)
        idle = np.minimum(idle, 2 * LATEST)
        last = last_known(share)[:, -1]
        # Probability of each state: on stream for 1.. OLDEST steps, shut for 1.. OLDEST steps.
        on, off = np.zeros((len(share), OLDEST)), np.zeros((len(share), OLDEST))
        age = np.clip(runs.age[wells, share.shape[1] - 1 - idle] - 1, 0, OLDEST - 1)
        is_off = last <= SHUT
        off[wells[is_off], age[is_off]] = 1.0
        on[wells[~is_off], age[~is_off]] = 1.0
        out = np.empty((len(share), int(idle.max(initial=0)) + horizon))
        for step in range(out.shape[1]):
            stops, starts = (on * begin).sum(axis=1), (off * end).sum(axis=1)
            on, off = _older(on * (1 - begin), starts), _older(off * (1 - end), stops)
            out[:, step] = off.sum(axis=1)
        return np.take_along_axis(out, idle[:, None] + np.arange(horizon), axis=1)

    def mean_duration(self) -> float:
        """Expected steps of a shut-in of an average well, from its first step; infinite if none ends."""
        stays = np.cumprod(1.0 - self.ends[_class_of(OFF_AGES)])
        tail = stays[-1] / self.ends[-1] if self.ends[-1] > 0 else np.inf
        return float(1.0 + stays[:-1].sum() + tail)

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "begins": self.begins.tolist(),
            "ends": self.ends.tolist(),
            "begin_shape": self.begin_shape,
            "end_shape": self.end_shape,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Hazard:
        """Back from JSON values."""
        begins, ends = np.array(value["begins"], dtype=float), np.array(value["ends"], dtype=float)
        return cls(begins, ends, float(value["begin_shape"]), float(value["end_shape"]))

    def _scaled(self, runs: _Runs, *, off: bool) -> FloatArray:
        """`[N, classes]`."""
        rates, shape = (self.ends, self.end_shape) if off else (self.begins, self.begin_shape)
        exposed, events = runs.counts(off=off)
        own = (events.sum(axis=1) + shape) / (exposed @ rates + shape)
        return np.asarray(np.clip(own[:, None] * rates[None, :], 0.0, 0.98))


@dataclass(frozen=True)
class _Runs:
    """`[N, T]` each: known, shut, and the age of the run, which unknown steps interrupt but do not end."""

    known: BoolArray
    off: BoolArray
    age: IntArray

    @classmethod
    def of(cls, share: FloatArray) -> _Runs:
        known = ~np.isnan(share)
        off = known & (share <= SHUT)
        age = np.zeros(share.shape, dtype=np.int64)
        run, was_off = np.zeros(len(share), dtype=np.int64), np.zeros(len(share), dtype=bool)
        for step in range(share.shape[1]):
            same = (run > 0) & (was_off == off[:, step])
            run = np.where(known[:, step], np.where(same, run + 1, 1), np.where(run > 0, run + 1, 0))
            was_off = np.where(known[:, step], off[:, step], was_off)
            age[:, step] = run
        return cls(known, off, age)

    def counts(self, *, off: bool) -> tuple[FloatArray, FloatArray]:
        """`[N, classes]` steps at risk and events in them, between known neighbours."""
        edges = OFF_AGES if off else ON_AGES
        risk = self.known[:, :-1] & self.known[:, 1:] & (self.off[:, :-1] == off)
        event = risk & (self.off[:, 1:] != off)
        which = _class_of(edges)[np.clip(self.age[:, :-1] - 1, 0, OLDEST - 1)]
        shape = (len(self.known), len(edges))
        exposed, events = np.zeros(shape), np.zeros(shape)
        for its in range(len(edges)):
            exposed[:, its] = (risk & (which == its)).sum(axis=1)
            events[:, its] = (event & (which == its)).sum(axis=1)
        return exposed, events


def _class_of(edges: tuple[int, ...]) -> IntArray:
    """`[OLDEST]` age class of ages 1.. OLDEST."""
    return np.asarray(np.searchsorted(edges, np.arange(1, OLDEST + 1), side="right") - 1, dtype=np.int64)


def _older(state: FloatArray, fresh: FloatArray) -> FloatArray:
    """One step later: ages up by one, the oldest pooled, `fresh` at age 1."""
    out = np.empty_like(state)
    out[:, 0], out[:, 1:] = fresh, state[:, :-1]
    out[:, -1] += state[:, -1]
    return out


def _learn_rates(exposed: FloatArray, events: FloatArray, *, prior: tuple[float, float]) -> tuple[FloatArray, float]:
    """Probability per age class, shrunk to the overall one (Beta), and the shape of wells' multipliers (Gamma)."""
    at_risk, happened = exposed.sum(axis=0), events.sum(axis=0)
    overall = (happened.sum() + prior[0]) / (at_risk.sum() + sum(prior))
    rates = (happened + 20.0 * overall) / (at_risk + 20.0)
    expected, seen = exposed @ rates, events.sum(axis=1)
    # Moments of a Poisson count whose rate varies: Var = E + E^2 / m.
    extra = ((seen - expected) ** 2 - expected).sum()
    shape = float(np.clip((expected**2).sum() / extra, 0.5, 100.0)) if extra > 0 else 100.0
    return np.asarray(rates), shape


# -- errors of a producing month -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class MixtureErrors:
    """Distribution of a producing month's error, per horizon, in units of level times a well's own noise.

    Attributes
    ----------
    offsets
        `[H, len(GRID)]`, rising.
    noise
        Usual noise of a well of the panel: the median of its absolute changes of the logarithm from step to step.
    floor
        Smallest level, in the target's unit.
    counts
        Errors behind each horizon.
    """

    offsets: FloatArray
    noise: float
    floor: float
    counts: tuple[int, ...]

    def quantiles(self, center: FloatArray, width: FloatArray, shut: FloatArray) -> FloatArray:
        """`[N, H, Q]` of the mixture: 0 with probability `shut`, else `center + width * offset`.

        Parameters
        ----------
        center, shut
            `[N, H]`.
        width
            `[N]`, in the target's unit.
        """
        out = np.zeros((*center.shape, len(LEVELS)))
        on = np.maximum(1.0 - shut, 1e-9)
        for column, level in enumerate(LEVELS):
            inner = (level - shut) / on
            for step in range(center.shape[1]):
                value = center[:, step] + width * np.interp(inner[:, step], GRID, self.offsets[step])
                out[:, step, column] = np.where(inner[:, step] > 0, np.maximum(value, 0.0), 0.0)
        return out

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "offsets": self.offsets.tolist(),
            "noise": self.noise,
            "floor": self.floor,
            "counts": list(self.counts),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> MixtureErrors:
        """Back from JSON values."""
        offsets = np.array(value["offsets"], dtype=float)
        return cls(offsets, float(value["noise"]), float(value["floor"]), tuple(value["counts"]))

    @classmethod
    def learn(cls, errors: list[FloatArray], *, noise: float, floor: float, origins: int) -> MixtureErrors:
        """From one array of errors a horizon.

        The median is taken as it is only as far as the number of origins behind it tells it from chance: months share
        their surprises. A horizon with few errors borrows the nearest shorter one's, as in `models.residuals`.
        """
        rows: list[FloatArray] = []
        base, base_horizon = np.array([NormalDist().inv_cdf(level) for level in GRID]), 1
        for horizon, values in enumerate(errors, start=1):
            if values.size >= FEWEST_ERRORS:
                row = np.quantile(values, GRID)
                middle = float(np.median(values))
                row = row - middle * (1.0 - origins / (origins + 12.0))
                base, base_horizon = row, horizon
            else:
                row = base * np.sqrt(horizon / base_horizon)
            rows.append(row)
        return cls(np.array(rows), noise, floor, tuple(values.size for values in errors))


def own_noise(rate: FloatArray) -> FloatArray:
    """`[N]` median absolute change of the logarithm of the rate over the latest 24 changes; NaN without one."""
    with np.errstate(invalid="ignore", divide="ignore"):
        log = np.log(rate)
    return row_median(np.abs(latest_known(np.diff(log, axis=1), 24)))


# -- the forecasters -----------------------------------------------------------------------------------------------


class OnStreamParams(Hyperparameters):
    """What two-part forecasters share.

    Attributes
    ----------
    memory
        Latest steps of the panel that anything is learned from.
    origins
        Past origins whose errors make the intervals.
    missing_is_shut
        A missing month between two known ones counts as shut where uptime says nothing; off, it is unknown.
    """

    memory: int = Field(default=120, ge=4)
    origins: int = Field(default=24, ge=1)
    missing_is_shut: bool = True


class OnStreamForecaster(Forecaster):
    """A rate of days on stream times the share of days on stream; a family says how the rate goes on."""

    Params = OnStreamParams
    capabilities: ClassVar[Capabilities] = Capabilities(uses=frozenset({"plan"}))
    params: OnStreamParams
    hazard: Hazard
    errors: MixtureErrors
    planned: tuple[str, ...]
    """Which of uptime and pressure are plans."""

    @abstractmethod
    def _rates(self, past: OnStream, ahead: Ahead) -> FloatArray:
        """`[N, H]` rates of days on stream after the last column; NaN for a well that cannot be served."""

    def _learn(self, past: OnStream) -> None:
        """Learn what `_rates` needs, from the whole panel."""

    def _refused(self, past: OnStream) -> list[str]:
        """Per well, why it cannot be served; empty if it can."""
        return [""] * len(past.y)

    def _notes(self, past: OnStream, ahead: Ahead) -> tuple[Note, ...]:
        """Counted treatments of the wells that are served."""
        return ()

    def _fit(self, view: PanelView, *, seed: int) -> None:
        grid = grid_of(view, length=self.params.memory)
        past = on_stream_of(view, grid, missing_is_shut=self.params.missing_is_shut)
        self.planned = tuple(name for name in (UPTIME, PRESSURE) if name in view.names("plan"))
        self.hazard = Hazard.learn(past.share)
        self._learn(past)
        self.errors = self._learn_errors(past, view.schema.horizon)

    def _predict(self, view: PanelView) -> Answer:
        grid = grid_of(view, length=self.params.memory)
        past = on_stream_of(view, grid, missing_is_shut=self.params.missing_is_shut)
        past = past.rows(grid.rows_of(view.series))
        refused = self._refused(past)
        able = np.array([not reason for reason in refused], dtype=bool)
        left_out = {name: reason for name, reason in zip(view.series, refused, strict=True) if reason}
        kept = [name for name, reason in zip(view.series, refused, strict=True) if not reason]
        rows = np.flatnonzero(able)
        plans = {name: plan_of(view, name) for name in self.planned}
        plans = {name: None if values is None else values[rows] for name, values in plans.items()}
        past = past.rows(rows)
        usual = np.repeat(past.usual_uptime()[:, None], self.horizon, axis=1)
        shut = self.hazard.shut(past.share, self.horizon)
        uptime = usual
        if (given := plans.get(UPTIME)) is not None:
            known = np.isfinite(given)
            uptime = np.where(known, np.clip(given, 0.0, 1.0), usual)
            shut = np.where(known, uptime <= SHUT, shut)
        ahead = Ahead(uptime, plans.get(PRESSURE))
        # A well that never produced has no rate: nothing is expected of it.
        rate = np.nan_to_num(self._rates(past, ahead), nan=0.0)
        level = np.maximum(rate[:, 0] * usual[:, 0], self.errors.floor)
        values = self.errors.quantiles(rate * uptime, level * self._own_width(past, self.errors.noise), shut)
        return Answer(answer_frame(kept, values), left_out, self._notes(past, ahead))

    def _write(self, folder: Path) -> dict[str, Any]:
        return {"hazard": self.hazard.to_json(), "errors": self.errors.to_json(), "planned": list(self.planned)}

    def _read(self, folder: Path, state: dict[str, Any]) -> None:
        self.hazard = Hazard.from_json(state["hazard"])
        self.errors = MixtureErrors.from_json(state["errors"])
        self.planned = tuple(state["planned"])

    @staticmethod
    def _own_width(past: OnStream, usual: float) -> FloatArray:
        """`[N]` a well's noise over the panel's, drawn to 1 where few changes are known."""
        count = (~np.isnan(latest_known(np.diff(past.rate, axis=1), 24))).sum(axis=1)
        own = np.nan_to_num(own_noise(past.rate), nan=usual)
        return np.asarray(np.clip((count * own + 12.0 * usual) / ((count + 12.0) * usual), 0.25, 4.0))

    def _learn_errors(self, past: OnStream, horizon: int) -> MixtureErrors:
        width = past.y.shape[1]
        floor = level_floor(past.y)
        known = own_noise(past.rate)
        known = known[np.isfinite(known) & (known > 0)]
        noise = float(np.median(known)) if known.size else 1.0
        errors: list[list[FloatArray]] = [[] for _ in range(horizon)]
        last = width - 1
        origins = range(max(1, last - self.params.origins), last)
        for origin in origins:
            then = past.before(origin + 1)
            usual = then.usual_uptime()
            after = slice(origin + 1, min(origin + horizon, last) + 1)
            ahead = self._told(past, after, usual, horizon)
            rate = self._rates(then, ahead)
            level = np.maximum(rate[:, 0] * usual, floor) * self._own_width(then, noise)
            idle = steps_since_known(then.y)[:, -1]
            able = np.isfinite(rate).all(axis=1) & (idle <= LATEST)
            steps = past.y[:, after].shape[1]
            scaled = (past.y[:, after] - (rate * ahead.uptime)[:, :steps]) / level[:, None]
            counts = able[:, None] & (past.share[:, after] > SHUT) & np.isfinite(scaled)
            for step in range(steps):
                errors[step].append(scaled[counts[:, step], step])
        pooled = [np.concatenate(its) if its else np.empty(0) for its in errors]
        return MixtureErrors.learn(pooled, noise=noise, floor=floor, origins=len(origins))

    def _told(self, past: OnStream, after: slice, usual: FloatArray, horizon: int) -> Ahead:
        """What a forecast from a past origin would have been told: of plans, what was carried out."""
        uptime = np.repeat(usual[:, None], horizon, axis=1)
        steps = past.y[:, after].shape[1]
        if UPTIME in self.planned:
            known = ~np.isnan(past.share[:, after])
            uptime[:, :steps] = np.where(known, past.share[:, after], uptime[:, :steps])
        if PRESSURE not in self.planned:
            return Ahead(uptime)
        pressure = np.full(uptime.shape, np.nan)
        pressure[:, :steps] = past.pressure[:, after]
        return Ahead(uptime, pressure)


class TwoPartParams(OnStreamParams):
    """Parameters of the two-part forecaster.

    Attributes
    ----------
    rate
        `median` of the latest producing steps, or `ses`: exponential smoothing over them.
    latest
        Producing steps in the median.
    """

    rate: Literal["median", "ses"] = "ses"
    latest: int = Field(default=3, ge=1)


WEIGHTS: Final = (0.1, 0.2, 0.3, 0.45, 0.6, 0.8, 1.0)
"""Smoothing weights tried per well."""


class TwoPart(OnStreamForecaster):
    """Rate of days on stream (median or exponential smoothing) times uptime, planned or by learned shut-ins."""

    Params = TwoPartParams
    params: TwoPartParams
    losses: FloatArray
    """[weights] what each smoothing weight costs on the panel."""

    def _learn(self, past: OnStream) -> None:
        self.losses = smoothing_losses(past.rate)

    def _rates(self, past: OnStream, ahead: Ahead) -> FloatArray:
        if self.params.rate == "median":
            level = row_median(latest_known(past.rate, self.params.latest))
        else:
            level = smoothed(past.rate, self.losses)
        return np.repeat(level[:, None], self.horizon, axis=1)

    def _write(self, folder: Path) -> dict[str, Any]:
        return {**super()._write(folder), "losses": self.losses.tolist()}

    def _read(self, folder: Path, state: dict[str, Any]) -> None:
        super()._read(folder, state)
        self.losses = np.array(state["losses"], dtype=float)


def smoothing_losses(values: FloatArray) -> FloatArray:
    """`[weights]` mean relative one-step error of exponential smoothing over a panel, per weight of `WEIGHTS`."""
    total, count, _ = _smooth(values)
    return np.asarray(total.sum(axis=0) / max(float(count.sum()), 1.0))


def smoothed(values: FloatArray, losses: FloatArray) -> FloatArray:
    """`[N]` exponentially smoothed level of `[N, T]` at the last column, steps unknown skipped; NaN without a value.

    Each row's weight is the best for its own one-step errors, to which the panel's losses are added as 12 steps more.
    """
    total, _, levels = _smooth(values)
    best = (total + 12.0 * losses).argmin(axis=1)
    return np.asarray(levels[np.arange(len(best)), best])


def _smooth(rate: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Exponential smoothing over known steps: `[N, W]` summed relative errors, `[N]` their number, `[N, W]` levels."""
    weights = np.array(WEIGHTS)
    level = np.full((len(rate), weights.size), np.nan)
    total, count = np.zeros(level.shape), np.zeros(len(rate))
    for step in range(rate.shape[1]):
        now = rate[:, step][:, None]
        known = np.isfinite(now)
        follows = known & np.isfinite(level[:, :1])
        scale = np.maximum(np.where(follows, level, 1.0), 1e-12)
        # Relative to the sum, so that a step from next to nothing does not outweigh everything.
        total += np.where(follows, np.abs(now - level) / np.where(follows, now + scale, 1.0), 0.0)
        count += follows[:, 0]
        level = np.where(follows, weights * now + (1.0 - weights) * level, np.where(known, now, level))
    return total, count, level


class ProductivityParams(OnStreamParams):
    """Parameters of the productivity forecaster.

    Attributes
    ----------
    build_up
        Steps back that the highest pressure is looked for.
    least_drawdown
        Drawdown, bar, below which the index explodes and the latest rate is carried on instead.
    """

    build_up: int = Field(default=36, ge=1)
    least_drawdown: float = Field(default=10.0, gt=0)


MARGINS: Final = (10.0, 20.0, 40.0, 60.0, 80.0, 120.0, 160.0, 240.0, 1e6)
"""Reservoir pressure above the highest flowing pressure, bar, to choose from; the last one means no answer to it."""


class ProductivityIndex(OnStreamForecaster):
    """Lagged productivity index times planned drawdown, `q = J (p_res - p_wf)`, times uptime.

    The index of a month comes from that month and earlier ones only, and is smoothed exponentially. Reservoir pressure
    is the highest shut-in pressure of the latest `build_up` steps; where none is known, the highest flowing pressure
    plus a margin that is learned from the panel. A month without a pressure takes the one before it; pressure ahead is
    the plan's, else the latest known. Where a drawdown is below `least_drawdown`, the smoothed rate is carried on, and
    the series is counted in a note.
    """

    Params = ProductivityParams
    capabilities: ClassVar[Capabilities] = Capabilities(uses=frozenset({"past", "plan"}))
    params: ProductivityParams
    margin: float
    losses: FloatArray
    """[weights] what each smoothing weight costs on the panel's rates."""

    def _learn(self, past: OnStream) -> None:
        self.losses = smoothing_losses(past.rate)
        last = past.y.shape[1] - 1
        errors = np.zeros(len(MARGINS))
        for origin in range(max(1, last - self.params.origins), last, 2):
            then = past.before(origin + 1)
            after = slice(origin + 1, min(origin + self.horizon, last) + 1)
            ahead = self._told(past, after, then.usual_uptime(), self.horizon)
            actual = past.rate[:, after]
            level = row_median(latest_known(then.rate, LATEST))[:, None]
            for which, margin in enumerate(MARGINS):
                told = self._served(then, ahead, margin)[0][:, : actual.shape[1]]
                errors[which] += np.nansum(np.minimum(np.abs(actual - told) / level, 1.0))
        # On a tie, with no pressure say, the last one: no answer to pressure.
        self.margin = MARGINS[len(MARGINS) - 1 - int(errors[::-1].argmin())]

    def _rates(self, past: OnStream, ahead: Ahead) -> FloatArray:
        return self._served(past, ahead, self.margin)[0]

    def _refused(self, past: OnStream) -> list[str]:
        known = _any(np.isfinite(past.rate) & np.isfinite(past.pressure))
        reason = f"no month with both a rate and a bottom-hole pressure ({PRESSURE!r}) in the latest {past.y.shape[1]}"
        return ["" if fine else reason for fine in known.tolist()]

    def _notes(self, past: OnStream, ahead: Ahead) -> tuple[Note, ...]:
        thin = int(self._served(past, ahead, self.margin)[1].sum())
        if not thin:
            return ()
        text = f"series with a drawdown below {self.params.least_drawdown:g} bar go on at their smoothed rate"
        return (Note("thin_drawdown", thin, text),)

    def _served(self, past: OnStream, ahead: Ahead, margin: float) -> tuple[FloatArray, BoolArray]:
        """`[N, H]` rates, NaN without a pressure, and `[N]` whether the drawdown was too thin to divide by."""
        reservoir = self._reservoir(past, margin)
        flowing = last_known(np.where(np.isfinite(past.rate), past.pressure, np.nan))
        drawdown = reservoir - flowing
        index = np.where(drawdown >= self.params.least_drawdown, past.rate / np.maximum(drawdown, 1e-9), np.nan)
        latest = smoothed(index, self.losses)
        pressure = np.repeat(flowing[:, -1:], ahead.uptime.shape[1], axis=1)
        if ahead.pressure is not None:
            pressure = np.where(ahead.pressure > 0, ahead.pressure, pressure)
        left = reservoir[:, -1:] - pressure
        on = ahead.uptime > SHUT
        thin = np.isnan(latest) | _any((left < self.params.least_drawdown) & on)
        carried = smoothed(past.rate, self.losses)
        rate = np.where(thin[:, None], carried[:, None], latest[:, None] * np.maximum(left, 0.0))
        lost = np.isnan(flowing[:, -1])
        return np.where(lost[:, None], np.nan, rate), thin & ~lost

    def _reservoir(self, past: OnStream, margin: float) -> FloatArray:
        """`[N, T]` reservoir pressure as seen at each step, bar."""
        closed = np.where(past.share <= SHUT, past.pressure, np.nan)
        flowing = np.where(past.share > SHUT, past.pressure, np.nan)
        built_up = _rolling_max(closed, self.params.build_up)
        proxy = _rolling_max(flowing, self.params.build_up) + margin
        return np.where(np.isfinite(built_up), built_up, proxy)

    def _write(self, folder: Path) -> dict[str, Any]:
        return {**super()._write(folder), "margin": self.margin, "losses": self.losses.tolist()}

    def _read(self, folder: Path, state: dict[str, Any]) -> None:
        super()._read(folder, state)
        self.margin, self.losses = float(state["margin"]), np.array(state["losses"], dtype=float)


def _any(mask: BoolArray) -> BoolArray:
    """`[N]`: true where any of a row is."""
    return np.asarray(mask.sum(axis=1) > 0)


def _rolling_max(values: FloatArray, window: int) -> FloatArray:
    """`[N, T]` largest known value of the latest `window` steps, NaN without one."""
    padded = np.pad(np.where(np.isnan(values), -np.inf, values), ((0, 0), (window - 1, 0)), constant_values=-np.inf)
    best = np.lib.stride_tricks.sliding_window_view(padded, window, axis=1).max(axis=2)
    return np.where(np.isfinite(best), best, np.nan)
