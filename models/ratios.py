"""Rows of ratios: a panel of any size as one regression table, for models that learn over all series at once.

Each row is one (series, origin, horizon). The target is divided by the series' level at the origin, and so is every
input in the target's unit: one model serves wells of any size, also wells it never saw. A family subclasses
`RatioForecaster` and says how it learns from such a table.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import polars as pl
from pydantic import Field

from models.base import Answer, Forecaster, Hyperparameters
from models.grid import (
    FloatArray,
    Grid,
    IntArray,
    answer_frame,
    grid_of,
    last_known,
    level_floor,
    mean_of_known,
    steps_since_known,
)
from nightcast.contracts.columns import HORIZON, ID, LEVELS, UPTIME
from nightcast.contracts.errors import TrainingError
from nightcast.contracts.frequency import Frequency
from nightcast.contracts.panel import PanelView

Float32Array = npt.NDArray[np.float32]

LEVEL_ROWS: Final = 3
"""Known values whose mean absolute value is a series' level at an origin."""
MEMORY_ROWS: Final = 24
"""Known values whose mean absolute value the level remembers."""
COMPARED_ROWS: Final = 12
"""Known values of a covariate whose mean its newest ones are compared with."""
LEAST_UPTIME: Final = 0.1
"""Share of a step on stream from which its rate of days on stream is believed."""
LEAST_SHARE: Final = 1e-4
"""Smallest level, as a share of the panel's median level: below it a series counts as nothing."""


class RatioParams(Hyperparameters):
    """What the rows hold and how they count.

    Attributes
    ----------
    lags
        Steps of the series' own past used as ratios to its level.
    windows
        Widths, in steps, of rolling statistics.
    own_lags
        Whether these are built at all; off, only the view's feature columns are used.
    half_life
        Steps after which an origin counts half; None weighs all alike.
    level_weight
        Power of the level in the row weights: 0 all series alike, 1 by the error in the target's unit.
    memory_share
        Smallest level of a series, as a share of its mean over the last 24 known values: a shut well's level is small,
        not nothing.
    producing_days
        Where `uptime` is planned: learn the rate of days on stream, and multiply it by the plan.
    max_origins
        Latest origins of a series in training.
    max_rows
        Latest training rows over the whole panel.
    """

    lags: int = Field(default=12, ge=0)
    windows: tuple[int, ...] = (3, 6, 12, 24)
    own_lags: bool = True
    half_life: float | None = Field(default=120.0, gt=0)
    level_weight: float = Field(default=0.5, ge=0, le=1)
    memory_share: float = Field(default=0.1, ge=0, le=1)
    producing_days: bool = True
    max_origins: int = Field(default=300, ge=1)
    max_rows: int = Field(default=200_000, ge=100)


@dataclass(frozen=True)
class Columns:
    """Inputs taken from the view, by the way they are used; what `fit` decides and the bundle stores.

    Attributes
    ----------
    scaled, plain
        Numeric columns read at the origin, in and not in the target's unit.
    plan_scaled, plan_plain
        Plan columns, read at the origin and at the target time.
    codes
        Text column -> its values, in code order; an unseen value counts as missing.
    measured
        Numeric past and plan covariates, read as ratios to their own mean, too.
    planned
        The plan covariates among them, whose plan is also read as a ratio to their latest values.
    """

    scaled: tuple[str, ...]
    plain: tuple[str, ...]
    plan_scaled: tuple[str, ...]
    plan_plain: tuple[str, ...]
    codes: dict[str, tuple[str, ...]]
    measured: tuple[str, ...]
    planned: tuple[str, ...]

    @property
    def plans(self) -> tuple[str, ...]:
        """All plan columns."""
        return (*self.plan_scaled, *self.plan_plain)

    @classmethod
    def of(cls, view: PanelView) -> Columns:
        """Sort a view's columns."""
        text = {n for n in view.columns if not _is_number(view.history.schema[n])}
        past = [n for n, c in view.columns.items() if c.role != "plan"]
        covariates = [n for n, c in view.columns.items() if c.block == "covariate" and n not in text]
        return cls(
            scaled=tuple(n for n in past if view.columns[n].scaled and n not in text),
            plain=tuple(n for n in past if not view.columns[n].scaled or n in text),
            plan_scaled=view.names("plan", scaled=True),
            plan_plain=view.names("plan", scaled=False),
            codes={n: tuple(view.history.get_column(n).cast(pl.String).drop_nulls().unique().sort()) for n in text},
            measured=tuple(n for n in covariates if view.columns[n].role in ("past", "plan")),
            planned=tuple(n for n in covariates if view.columns[n].role == "plan"),
        )

    def values(self, frame: pl.DataFrame, name: str) -> FloatArray:
        """One column as numbers, text by its code, null as NaN."""
        column = frame.get_column(name)
        if name in self.codes:
            table = {value: float(code) for code, value in enumerate(self.codes[name])}
            column = column.cast(pl.String).replace_strict(table, default=None, return_dtype=pl.Float64)
        return column.cast(pl.Float64).fill_null(float("nan")).to_numpy()

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "scaled": list(self.scaled),
            "plain": list(self.plain),
            "plan_scaled": list(self.plan_scaled),
            "plan_plain": list(self.plan_plain),
            "codes": {name: list(values) for name, values in sorted(self.codes.items())},
            "measured": list(self.measured),
            "planned": list(self.planned),
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Columns:
        """Back from JSON values."""
        return cls(
            tuple(value["scaled"]),
            tuple(value["plain"]),
            tuple(value["plan_scaled"]),
            tuple(value["plan_plain"]),
            {name: tuple(values) for name, values in value["codes"].items()},
            tuple(value["measured"]),
            tuple(value["planned"]),
        )


@dataclass(frozen=True)
class Inputs:
    """Inputs known at a set of origins: names, [R, F] values, levels [R], and covariates' latest means [R]."""

    names: tuple[str, ...]
    values: Float32Array
    level: FloatArray
    lately: Mapping[str, FloatArray]


@dataclass(frozen=True)
class Anchor:
    """A forecast that is there already, whose error is learnt in place of the target itself.

    Everything is in the unit of the grid's values, and becomes an input as a ratio to the level.

    Attributes
    ----------
    centre
        `[R, H]` forecast of each origin; an origin without one (NaN) is left out of training.
    at_origin
        Further inputs known at the origins, `[R]` each.
    at_target
        Further inputs known at the origins for each target, `[R, H]` each.
    """

    centre: FloatArray
    at_origin: Mapping[str, FloatArray]
    at_target: Mapping[str, FloatArray]


@dataclass(frozen=True)
class Rows:
    """A training table.

    Attributes
    ----------
    names
        Of the F inputs.
    x
        `[R, F]` inputs, NaN where unknown.
    y
        `[R]` target, less the anchor's forecast, over the level at the origin.
    weight
        `[R]`, mean 1.
    horizon
        `[R]` steps from origin to target.
    codes
        Names of inputs that are codes of text.
    """

    names: tuple[str, ...]
    x: Float32Array
    y: FloatArray
    weight: FloatArray
    horizon: IntArray
    codes: tuple[str, ...]


class RatioForecaster(Forecaster):
    """One model over all series on rows of ratios, direct in the horizon.

    Inputs are ratios to the series' level at the origin: own lags, window statistics, the slope of the logarithm, the
    value one season before the target, calendar of origin and target, the horizon, and the view's columns; a past
    covariate also as a ratio to its own mean. A family fills in `learn`, `ratios`, `write_learnt` and `read_learnt`.
    """

    Params = RatioParams
    params: RatioParams
    floor: float
    columns: Columns
    names: tuple[str, ...]

    @abstractmethod
    def learn(self, rows: Rows, *, seed: int) -> None:
        """Fit the model."""

    @abstractmethod
    def ratios(self, x: Float32Array, horizon: int) -> FloatArray:
        """`[R, Q]` quantiles of the ratio for `[R, F]` inputs at one horizon, in any order within a row."""

    def anchor(self, view: PanelView, grid: Grid, series: IntArray, origin: IntArray) -> Anchor:
        """What the model learns the error of, at series and steps of the grid: 0 here, so the target itself."""
        return Anchor(np.zeros((series.size, view.schema.horizon)), {}, {})

    @abstractmethod
    def write_learnt(self, folder: Path) -> dict[str, Any]:
        """Write own files, if any; return the rest as JSON values."""

    @abstractmethod
    def read_learnt(self, folder: Path, state: dict[str, Any]) -> None:
        """Read what `write_learnt` wrote."""

    # -- the forecaster's steps ----------------------------------------------------------------------------------

    def _fit(self, view: PanelView, *, seed: int) -> None:
        rows = self._table(view)
        if rows.y.size == 0:
            raise TrainingError(
                f"no known value follows another one within {self.horizon} steps",
                expected="at least one series with two known values no further apart than the horizon",
                remedy="choose a later cutoff or a longer history",
            )
        self.learn(rows, seed=seed)

    def _table(self, view: PanelView) -> Rows:
        """The training rows of a view, perhaps none; sets what turning views into rows needs."""
        params, horizon = self.params, view.schema.horizon
        self.columns = Columns.of(view)
        # All of the history, as at a forecast: what is counted from a series' start must not depend on `max_origins`.
        grid = self._on_stream(view, grid_of(view))
        self.floor = level_floor(grid.y, share=LEAST_SHARE)
        series, origin = self._origins(grid, horizon)
        anchor = self.anchor(view, grid, series, origin)
        inputs = self._inputs(view, grid, series, origin, anchor)
        plans = {name: grid.matrix(self.columns.values(view.history, name)) for name in self.columns.plans}
        # the typical size of a series: weights are relative to it
        usual = np.median(inputs.level) if inputs.level.size else 1.0
        parts: list[tuple[Float32Array, FloatArray, FloatArray, IntArray]] = []
        for h in range(1, horizon + 1):
            ahead = origin + h
            inside = ahead < grid.width
            actual = np.where(inside, grid.y[series, np.minimum(ahead, grid.width - 1)], np.nan)
            actual = actual - anchor.centre[:, h - 1]
            known = ~np.isnan(actual)
            plan_at = {name: values[series[known], ahead[known]] for name, values in plans.items()}
            level = inputs.level[known]
            decay = 1.0 if params.half_life is None else 0.5 ** ((grid.width - 1 - ahead[known]) / params.half_life)
            parts.append(
                (
                    self._rows(view, grid, inputs, known, series, origin, h, plan_at, anchor),
                    actual[known] / level,
                    decay * (level / usual) ** params.level_weight,
                    np.full(int(known.sum()), h),
                )
            )
        x, y, weight, step = (np.concatenate(its) for its in zip(*parts, strict=True))
        self.names = (*inputs.names, *self._horizon_names(view), *anchor.at_target)
        codes = tuple(name for name in self.names if name in self.columns.codes)
        return Rows(self.names, x, y, weight / (weight.mean() if weight.size else 1.0), step, codes)

    def _predict(self, view: PanelView) -> Answer:
        return Answer(answer_frame(view.series, self._quantiles(view)))

    def _quantiles(self, view: PanelView) -> FloatArray:
        """`[N, H, Q]` of the view's series, in the target's unit."""
        self._check_columns(view)
        grid = self._on_stream(view, grid_of(view))
        series = view.series
        rows = grid.rows_of(series)
        origin = np.full(rows.size, grid.width - 1)
        anchor = self.anchor(view, grid, rows, origin)
        inputs = self._inputs(view, grid, rows, origin, anchor)
        everyone = np.ones(rows.size, dtype=bool)
        out = np.empty((rows.size, self.horizon, len(LEVELS)))
        for h in range(1, self.horizon + 1):
            ahead = view.future.filter(pl.col(HORIZON) == h).sort(ID)
            plan_at = {name: self.columns.values(ahead, name) for name in self.columns.plans}
            x = self._rows(view, grid, inputs, everyone, rows, origin, h, plan_at, anchor)
            out[:, h - 1] = np.sort(self.ratios(x, h), axis=1) * inputs.level[:, None] + anchor.centre[:, h - 1, None]
            if self._by_producing_day:
                out[:, h - 1] *= np.nan_to_num(plan_at[UPTIME], nan=1.0)[:, None]
        return out

    def _write(self, folder: Path) -> dict[str, Any]:
        facts = {"floor": self.floor, "names": list(self.names), "columns": self.columns.to_json()}
        return {**facts, "learnt": self.write_learnt(folder)}

    def _read(self, folder: Path, state: dict[str, Any]) -> None:
        self.floor, self.names = float(state["floor"]), tuple(state["names"])
        self.columns = Columns.from_json(state["columns"])
        self.read_learnt(folder, state["learnt"])

    # -- rows ----------------------------------------------------------------------------------------------------

    @property
    def _by_producing_day(self) -> bool:
        return self.params.producing_days and UPTIME in self.columns.planned

    def _on_stream(self, view: PanelView, grid: Grid) -> Grid:
        """The grid, with rates of days on stream in place of calendar-day rates where uptime is planned."""
        if not self._by_producing_day:
            return grid
        uptime = grid.matrix(self.columns.values(view.history, UPTIME))
        known = np.isnan(uptime) | (uptime >= LEAST_UPTIME)
        return replace(
            grid, y=np.where(known, grid.y / np.where(np.isnan(uptime), 1.0, np.maximum(uptime, LEAST_UPTIME)), np.nan)
        )

    def _origins(self, grid: Grid, horizon: int) -> tuple[IntArray, IntArray]:
        """Series and step of the training origins: after the first known value, the latest ones kept."""
        idle = steps_since_known(grid.y)
        first = max(grid.width - 1 - horizon - self.params.max_origins + 1, 0)
        able = ~np.isnan(idle) & (idle <= max(12, Frequency.parse(self.freq).season_length))
        able[:, :first] = False
        able[:, -1] = False
        col, row = np.nonzero(able.T)
        keep = slice(-max(1, self.params.max_rows // horizon), None)
        return row[keep].astype(np.int64), col[keep].astype(np.int64)

    def _inputs(self, view: PanelView, grid: Grid, series: IntArray, origin: IntArray, anchor: Anchor) -> Inputs:
        """Everything known at the origins that does not depend on the horizon."""
        size = np.abs(grid.y)
        level_all = np.fmax(
            mean_of_known(size, LEVEL_ROWS), self.params.memory_share * mean_of_known(size, MEMORY_ROWS)
        )
        level = np.fmax(level_all, self.floor)[series, origin]
        named: dict[str, FloatArray] = {}
        if self.params.own_lags:
            named |= _own_past(grid, series, origin, level, lags=self.params.lags, windows=self.params.windows)
        named |= {name: values / level for name, values in anchor.at_origin.items()}
        named |= _calendar(view, grid.width, origin, "origin")
        for name in (*self.columns.scaled, *self.columns.plan_scaled):
            values = grid.matrix(self.columns.values(view.history, name))
            named[name] = values[series, origin] / level
        for name in (*self.columns.plain, *self.columns.plan_plain):
            named[name] = grid.matrix(self.columns.values(view.history, name))[series, origin]
        lately: dict[str, FloatArray] = {}
        for name in self.columns.measured:
            values = grid.matrix(self.columns.values(view.history, name))
            usual = mean_of_known(np.abs(values), COMPARED_ROWS)[series, origin]
            lately[name] = mean_of_known(values, LEVEL_ROWS)[series, origin]
            named[f"{name}_now"] = _ratio(values[series, origin], usual)
            named[f"{name}_lately"] = _ratio(lately[name], usual)
        return Inputs(tuple(named), np.column_stack(list(named.values())).astype(np.float32), level, lately)

    def _horizon_names(self, view: PanelView) -> tuple[str, ...]:
        dates = tuple(_calendar(view, 1, np.zeros(1, dtype=np.int64), "target"))
        plans = (f"{name}_at_target" for name in self.columns.plans)
        changes = (f"{name}_change" for name in self.columns.planned)
        return ("horizon", *dates, "season_before_target", *plans, *changes)

    def _rows(
        self,
        view: PanelView,
        grid: Grid,
        inputs: Inputs,
        chosen: npt.NDArray[np.bool_],
        series: IntArray,
        origin: IntArray,
        horizon: int,
        plan_at: dict[str, FloatArray],
        anchor: Anchor,
    ) -> Float32Array:
        """[R, F] model rows of the chosen origins, one horizon ahead."""
        origin, series, level = origin[chosen], series[chosen], inputs.level[chosen]
        season = Frequency.parse(self.freq).season_length
        back = origin + horizon - season * -(-horizon // season)
        before = np.where(back >= 0, grid.y[series, np.maximum(back, 0)], np.nan) / level
        extra = [
            np.full(level.size, float(horizon)),
            *_calendar(view, grid.width, origin + horizon, "target").values(),
            before,
            *(plan_at[name] / level for name in self.columns.plan_scaled),
            *(plan_at[name] for name in self.columns.plan_plain),
            *(_ratio(plan_at[name], inputs.lately[name][chosen]) for name in self.columns.planned),
            *(values[chosen, horizon - 1] / level for values in anchor.at_target.values()),
        ]
        return np.hstack([inputs.values[chosen], np.column_stack(extra).astype(np.float32)])

    def _check_columns(self, view: PanelView) -> None:
        used = {*self.columns.scaled, *self.columns.plain, *self.columns.plans}
        if missing := sorted(used - set(view.columns)):
            raise TrainingError(
                f"the view lacks the input columns {missing}",
                expected="the columns the model was fitted on",
                remedy="build the features with the recipe of the fit",
            )


def _own_past(
    grid: Grid, series: IntArray, origin: IntArray, level: FloatArray, *, lags: int, windows: Sequence[int]
) -> dict[str, FloatArray]:
    """Inputs from the series' own values at or before the origin, as ratios to its level."""
    named: dict[str, FloatArray] = {}
    scaled = level[:, None]
    deepest = max((lags + 1, *windows))
    # One gather of the last `deepest` values of every origin, newest first: [R, deepest].
    back = origin[:, None] - np.arange(deepest)[None, :]
    past = np.where(back >= 0, grid.y[series[:, None], np.maximum(back, 0)], np.nan) / scaled
    for lag in range(lags + 1):
        named[f"lag_{lag}"] = past[:, lag]
    known = ~np.isnan(past)
    value = np.where(known, past, 0.0)
    logs = np.where(known, np.log1p(np.maximum(past, 0.0)), 0.0)
    age = np.arange(deepest, dtype=float)
    for width in windows:
        count = known[:, :width].sum(axis=1)
        mean = _ratio(value[:, :width].sum(axis=1), count)
        square = _ratio((np.where(known[:, :width], past[:, :width] - mean[:, None], 0.0) ** 2).sum(axis=1), count)
        named[f"mean_{width}"] = mean
        named[f"std_{width}"] = np.sqrt(square)
        named[f"idle_{width}"] = _ratio((known[:, :width] & (past[:, :width] == 0)).sum(axis=1), count)
        if width >= 6:
            named[f"log_slope_{width}"] = _slope(logs[:, :width], known[:, :width], -age[:width])
    named["last_known"] = last_known(grid.y)[series, origin] / level
    named["since_known"] = steps_since_known(grid.y)[series, origin]
    peak = np.maximum.accumulate(np.where(np.isnan(grid.y), -np.inf, grid.y), axis=1)[series, origin]
    named["of_peak"] = np.where(peak > 0, level / np.where(peak > 0, peak, 1.0), np.nan)
    # Logarithm: the difference between the 3rd and the 6th month tells more than that of the 203rd and the 206th.
    named["log_history"] = np.log1p((~np.isnan(grid.y)).cumsum(axis=1)[series, origin])
    return named


def _ratio(total: npt.NDArray[Any], count: npt.NDArray[Any]) -> FloatArray:
    ratio: FloatArray = np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)
    return ratio


def _slope(value: FloatArray, known: npt.NDArray[np.bool_], time: FloatArray) -> FloatArray:
    """Least-squares slope per step over the known values of each row; NaN with fewer than three."""
    count = known.sum(axis=1)
    when = np.where(known, time, 0.0)
    mean_t = _ratio(when.sum(axis=1), count)
    mean_v = _ratio(value.sum(axis=1), count)
    dt = np.where(known, time - mean_t[:, None], 0.0)
    dv = np.where(known, value - mean_v[:, None], 0.0)
    slope = _ratio((dt * dv).sum(axis=1), (dt * dt).sum(axis=1))
    return np.where(count >= 3, slope, np.nan)


def _calendar(view: PanelView, width: int, steps: IntArray, prefix: str) -> dict[str, FloatArray]:
    """Calendar numbers of grid steps (the last step, `width - 1`, is the cutoff)."""
    freq = view.schema.freq
    low, high = int(steps.min(initial=0)), int(steps.max(initial=0))
    labels: list[datetime] = [freq.shift(view.cutoff, step - (width - 1)) for step in range(low, high + 1)]
    parts: dict[str, list[int]] = {"month": [label.month for label in labels]}
    if freq.unit in ("D", "h", "min"):
        parts["weekday"] = [label.weekday() for label in labels]
    if freq.unit in ("h", "min"):
        parts["hour"] = [label.hour for label in labels]
    return {f"{name}_of_{prefix}": np.array(values, dtype=float)[steps - low] for name, values in parts.items()}


def _is_number(dtype: pl.DataType) -> bool:
    return dtype.is_numeric() or dtype == pl.Boolean
