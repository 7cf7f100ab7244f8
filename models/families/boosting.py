"""Gradient boosting: one global LightGBM over all series, on a scaled target.

Each training row is one (series, origin, horizon). The target is divided by the series' level at the origin (mean of
its last three known values), and so is every input in the target's unit: one tree ensemble serves wells of any size,
also wells it never saw.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import polars as pl
from pydantic import Field, field_validator

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
from nightcast.contracts.catalog import Capabilities
from nightcast.contracts.columns import HORIZON, ID, LEVELS
from nightcast.contracts.errors import RegistryError, TrainingError
from nightcast.contracts.frequency import Frequency
from nightcast.contracts.panel import PanelView

Float32Array = npt.NDArray[np.float32]

LEVEL_ROWS = 3
"""Known values whose mean absolute value is a series' level at an origin."""


class LightGBMParams(Hyperparameters):
    """Parameters of the global LightGBM.

    Attributes
    ----------
    levels
        Quantile levels that are trained; the others are interpolated between them.
    rounds, learning_rate, num_leaves, min_leaf_rows, feature_share, row_share, l2
        LightGBM's own.
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
    floor_share
        Smallest level, as a share of the panel's median level.
    max_origins
        Latest origins of a series in training.
    max_rows
        Latest training rows over the whole panel.
    per_horizon
        One model per horizon instead of the horizon as an input.
    """

    levels: tuple[float, ...] = (0.1, 0.3, 0.5, 0.7, 0.9)
    rounds: int = Field(default=200, ge=1)
    learning_rate: float = Field(default=0.05, gt=0, le=1)
    num_leaves: int = Field(default=15, ge=2)
    min_leaf_rows: int = Field(default=40, ge=1)
    feature_share: float = Field(default=0.7, gt=0, le=1)
    row_share: float = Field(default=0.8, gt=0, le=1)
    l2: float = Field(default=1.0, ge=0)
    lags: int = Field(default=12, ge=0)
    windows: tuple[int, ...] = (3, 6, 12, 24)
    own_lags: bool = True
    half_life: float | None = Field(default=48.0, gt=0)
    level_weight: float = Field(default=0.5, ge=0, le=1)
    floor_share: float = Field(default=0.05, gt=0, lt=1)
    max_origins: int = Field(default=120, ge=1)
    max_rows: int = Field(default=80_000, ge=100)
    per_horizon: bool = False

    @field_validator("levels")
    @classmethod
    def _rising_and_known(cls, levels: tuple[float, ...]) -> tuple[float, ...]:
        if 0.5 not in levels or list(levels) != sorted(set(levels)) or not set(levels) <= set(LEVELS):
            raise ValueError(f"rising levels among {LEVELS}, 0.5 with them")
        return levels


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
    """

    scaled: tuple[str, ...]
    plain: tuple[str, ...]
    plan_scaled: tuple[str, ...]
    plan_plain: tuple[str, ...]
    codes: dict[str, tuple[str, ...]]

    @classmethod
    def of(cls, view: PanelView) -> Columns:
        """Sort a view's columns."""
        text = {n for n in view.columns if not _is_number(view.history.schema[n])}
        past = [n for n, c in view.columns.items() if c.role != "plan"]
        return cls(
            scaled=tuple(n for n in past if view.columns[n].scaled and n not in text),
            plain=tuple(n for n in past if not view.columns[n].scaled or n in text),
            plan_scaled=view.names("plan", scaled=True),
            plan_plain=view.names("plan", scaled=False),
            codes={n: tuple(view.history.get_column(n).cast(pl.String).drop_nulls().unique().sort()) for n in text},
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
        )


@dataclass(frozen=True)
class Inputs:
    """Inputs known at a set of origins: names and [R, F] values, and each origin's level [R]."""

    names: tuple[str, ...]
    values: Float32Array
    level: FloatArray


class LightGBMGlobal(Forecaster):
    """One LightGBM over all series, direct in the horizon, quantile objectives (Ke et al. 2017).

    Inputs are ratios to the series' level at the origin: own lags, window statistics, the slope of the logarithm, the
    value one season before the target, calendar of origin and target, the horizon, and the view's columns.
    """

    Params = LightGBMParams
    capabilities: ClassVar[Capabilities] = Capabilities(uses=frozenset({"past", "plan", "static"}), min_history=1)
    params: LightGBMParams
    floor: float
    columns: Columns
    names: tuple[str, ...]
    boosters: dict[str, str]
    """File name -> LightGBM's own text."""

    def _fit(self, view: PanelView, *, seed: int) -> None:
        import lightgbm

        params, horizon = self.params, view.schema.horizon
        reach = max(params.lags, *params.windows, 2 * Frequency.parse(self.freq).season_length, 1)
        grid = grid_of(view, length=params.max_origins + horizon + reach)
        self.columns = Columns.of(view)
        self.floor = level_floor(grid.y, share=params.floor_share)
        series, origin = self._origins(grid, horizon)
        inputs = self._inputs(view, grid, series, origin)
        rows, target, weight, at = [], [], [], []
        for h in range(1, horizon + 1):
            ahead = origin + h
            inside = ahead < grid.width
            actual = np.where(inside, grid.y[series, np.minimum(ahead, grid.width - 1)], np.nan)
            known = ~np.isnan(actual)
            plans = {n: grid.matrix(self.columns.values(view.history, n)) for n in self._plans()}
            plan_at = {n: values[series[known], ahead[known]] for n, values in plans.items()}
            rows.append(self._rows(view, grid, inputs, known, series, origin, h, plan_at))
            target.append(actual[known] / inputs.level[known])
            age = grid.width - 1 - ahead[known]
            decay = 1.0 if params.half_life is None else 0.5 ** (age / params.half_life)
            weight.append(decay * (inputs.level[known] / self.floor) ** params.level_weight)
            at.append(np.full(int(known.sum()), h))
        x, y = np.concatenate(rows), np.concatenate(target)
        w, step = np.concatenate(weight), np.concatenate(at)
        if y.size == 0:
            raise TrainingError(
                f"no known value follows another one within {horizon} steps",
                expected="at least one series with two known values no further apart than the horizon",
                remedy="choose a later cutoff or a longer history",
            )
        self.names = (*inputs.names, *self._horizon_names(view))
        self.boosters = {}
        for part in range(1, horizon + 1) if params.per_horizon else (None,):
            chosen = np.ones(y.size, dtype=bool) if part is None else step == part
            if not chosen.any():
                continue
            data = lightgbm.Dataset(
                x[chosen],
                y[chosen],
                weight=w[chosen] / w[chosen].mean(),
                feature_name=list(self.names),
                categorical_feature=[name for name in self.names if name in self.columns.codes],
                params=self._settings(seed, 0.5, int(chosen.sum())),
                free_raw_data=False,
            )
            for level in params.levels:
                booster = lightgbm.train(self._settings(seed, level, int(chosen.sum())), data, params.rounds)
                self.boosters[_file(level, part)] = booster.model_to_string()

    def _predict(self, view: PanelView) -> Answer:
        import lightgbm

        self._check_columns(view)
        grid = grid_of(view)
        series = view.series
        rows = grid.rows_of(series)
        origin = np.full(rows.size, grid.width - 1)
        inputs = self._inputs(view, grid, rows, origin)
        everyone = np.ones(rows.size, dtype=bool)
        boosters = {name: lightgbm.Booster(model_str=text) for name, text in self.boosters.items()}
        out = np.empty((rows.size, self.horizon, len(LEVELS)))
        for h in range(1, self.horizon + 1):
            ahead = view.future.filter(pl.col(HORIZON) == h).sort(ID)
            plan_at = {name: self.columns.values(ahead, name) for name in self._plans()}
            x = self._rows(view, grid, inputs, everyone, rows, origin, h, plan_at)
            part = self._nearest_part(h)
            trained = np.stack(
                [boosters[_file(level, part)].predict(x, num_threads=1) for level in self.params.levels], axis=1
            )
            trained = np.sort(trained, axis=1) * inputs.level[:, None]
            out[:, h - 1] = _interpolate(trained, self.params.levels)
        return Answer(answer_frame(series, out))

    def _write(self, folder: Path) -> dict[str, Any]:
        for name, text in self.boosters.items():
            (folder / name).write_text(text)
        return {
            "floor": self.floor,
            "names": list(self.names),
            "columns": self.columns.to_json(),
            "boosters": sorted(self.boosters),
        }

    def _read(self, folder: Path, state: dict[str, Any]) -> None:
        self.floor, self.names = float(state["floor"]), tuple(state["names"])
        self.columns = Columns.from_json(state["columns"])
        self.boosters = {}
        for name in state["boosters"]:
            if Path(name).name != name:
                raise RegistryError(
                    f"the bundle names the file {name!r}",
                    expected="plain file names inside the bundle",
                    remedy="do not load it; compare its sha256 with the manifest's",
                )
            self.boosters[name] = (folder / name).read_text()

    # -- rows ----------------------------------------------------------------------------------------------------

    def _plans(self) -> tuple[str, ...]:
        return (*self.columns.plan_scaled, *self.columns.plan_plain)

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

    def _inputs(self, view: PanelView, grid: Grid, series: IntArray, origin: IntArray) -> Inputs:
        """Everything known at the origins that does not depend on the horizon."""
        level_all = np.maximum(mean_of_known(np.abs(grid.y), LEVEL_ROWS), self.floor)
        level = level_all[series, origin]
        named: dict[str, FloatArray] = {}
        if self.params.own_lags:
            named |= _own_past(grid, series, origin, level, lags=self.params.lags, windows=self.params.windows)
        named |= _calendar(view, grid.width, origin, "origin")
        for name in (*self.columns.scaled, *self.columns.plan_scaled):
            values = grid.matrix(self.columns.values(view.history, name))
            named[name] = values[series, origin] / level
        for name in (*self.columns.plain, *self.columns.plan_plain):
            named[name] = grid.matrix(self.columns.values(view.history, name))[series, origin]
        return Inputs(tuple(named), np.column_stack(list(named.values())).astype(np.float32), level)

    def _horizon_names(self, view: PanelView) -> tuple[str, ...]:
        dates = tuple(_calendar(view, 1, np.zeros(1, dtype=np.int64), "target"))
        return ("horizon", *dates, "season_before_target", *(f"{name}_at_target" for name in self._plans()))

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
        ]
        return np.hstack([inputs.values[chosen], np.column_stack(extra).astype(np.float32)])

    def _nearest_part(self, horizon: int) -> int | None:
        """The model of a horizon; of the longest shorter one, where training had no row for it."""
        if not self.params.per_horizon:
            return None
        middle = 0.5
        parts = [h for h in range(1, self.horizon + 1) if _file(middle, h) in self.boosters]
        return max((h for h in parts if h <= horizon), default=parts[0])

    def _settings(self, seed: int, level: float, rows: int) -> dict[str, Any]:
        params = self.params
        return {
            "objective": "quantile",
            "alpha": level,
            "learning_rate": params.learning_rate,
            "num_leaves": params.num_leaves,
            # A tiny panel could not split at all at a leaf size made for a large one.
            "min_data_in_leaf": max(1, min(params.min_leaf_rows, rows // 10)),
            "feature_fraction": params.feature_share,
            "bagging_fraction": params.row_share,
            "bagging_freq": 1,
            "lambda_l2": params.l2,
            "seed": seed,
            "deterministic": True,
            "force_row_wise": True,
            "num_threads": 1,
            "verbosity": -1,
        }

    def _check_columns(self, view: PanelView) -> None:
        used = {*self.columns.scaled, *self.columns.plain, *self._plans()}
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


def _interpolate(trained: FloatArray, levels: Sequence[float]) -> FloatArray:
    """[R, Q] from the trained levels [R, K]: linear between them, the outermost carried on."""
    out = np.empty((trained.shape[0], len(LEVELS)))
    for column, level in enumerate(LEVELS):
        right = int(np.searchsorted(levels, level))
        if right < len(levels) and levels[right] == level:
            out[:, column] = trained[:, right]
        elif right in (0, len(levels)):
            out[:, column] = trained[:, min(right, len(levels) - 1)]
        else:
            share = (level - levels[right - 1]) / (levels[right] - levels[right - 1])
            out[:, column] = (1 - share) * trained[:, right - 1] + share * trained[:, right]
    return out


def _file(level: float, horizon: int | None) -> str:
    return f"q{round(level * 100):02d}.txt" if horizon is None else f"h{horizon:03d}_q{round(level * 100):02d}.txt"


def _is_number(dtype: pl.DataType) -> bool:
    return dtype.is_numeric() or dtype == pl.Boolean
