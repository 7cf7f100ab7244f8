"""The naive family: last value, mean of three, same season, planned uptime; all other models stand beside these."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import polars as pl
from pydantic import Field

from models.base import Answer, Forecaster, Hyperparameters
from models.grid import (
    FloatArray,
    Grid,
    answer_frame,
    grid_of,
    last_known,
    level_floor,
    mean_of_known,
    median_of_known,
)
from models.residuals import ErrorQuantiles, learn_error_quantiles
from nightcast.contracts.catalog import Capabilities
from nightcast.contracts.columns import HORIZON, ID, LEVELS, UPTIME
from nightcast.contracts.frequency import Frequency
from nightcast.contracts.panel import PanelView

LEVEL_ROWS = 12
"""Known rows whose mean absolute value is a series' level."""
LEAST_UPTIME = 0.05
"""Share of time on stream from which a month's rate of days on stream is used."""


class NaiveParams(Hyperparameters):
    """Parameters of the naive family.

    Attributes
    ----------
    error_history
        Latest steps of the panel that the intervals are learnt from.
    """

    error_history: int = Field(default=240, ge=2)


class Naive(Forecaster):
    """A naive point forecast with the panel's own scaled multi-step errors as intervals.

    `_points` answers for every origin at once; errors of all past origins give the intervals, the last origin the
    forecast.
    """

    Params = NaiveParams
    capabilities: ClassVar[Capabilities] = Capabilities(baseline=True)
    params: NaiveParams
    errors: ErrorQuantiles

    @abstractmethod
    def _points(self, y: FloatArray, horizon: int) -> FloatArray:
        """[N, T]: the forecast `horizon` steps ahead of every step; NaN before the first known value."""

    def _told(self, view: PanelView, grid: Grid, horizon: int) -> FloatArray:
        """`_points` of a view's grid."""
        return self._points(grid.y, horizon)

    def _fit(self, view: PanelView, *, seed: int) -> None:
        grid = grid_of(view, length=self.params.error_history)
        y = grid.y
        floor = level_floor(y)
        level = np.maximum(mean_of_known(np.abs(y), LEVEL_ROWS), floor)
        errors = [
            ((y[:, h:] - self._told(view, grid, h)[:, :-h]) / level[:, :-h]).ravel() if h < y.shape[1] else np.empty(0)
            for h in range(1, view.schema.horizon + 1)
        ]
        self.errors = learn_error_quantiles(errors, floor=floor)

    def _predict(self, view: PanelView) -> Answer:
        grid = grid_of(view)
        series = view.series
        rows = grid.rows_of(series)
        level = mean_of_known(np.abs(grid.y[rows]), LEVEL_ROWS)[:, -1]
        point = np.stack([self._told(view, grid, h)[rows, -1] for h in range(1, self.horizon + 1)], axis=1)
        return Answer(answer_frame(series, self.errors.around(point, level)))

    def _write(self, folder: Path) -> dict[str, Any]:
        return {"errors": self.errors.to_json()}

    def _read(self, folder: Path, state: dict[str, Any]) -> None:
        self.errors = ErrorQuantiles.from_json(state["errors"])


class NaiveLast(Naive):
    """The latest known value, carried on (a random walk)."""

    def _points(self, y: FloatArray, horizon: int) -> FloatArray:
        return last_known(y)


class NaiveMean3(Naive):
    """The mean of the latest three known values, carried on."""

    def _points(self, y: FloatArray, horizon: int) -> FloatArray:
        return mean_of_known(y, 3)


class NaiveSeasonal(Naive):
    """The latest known value of the same season (month of the year, day of the week, hour of the day).

    Falls back to the latest known value where no earlier season is known.
    """

    def _points(self, y: FloatArray, horizon: int) -> FloatArray:
        season = Frequency.parse(self.freq).season_length
        steady = last_known(y)
        # A step's seasonal value is its own, or else that of one season earlier; the loop runs over seasons.
        seasonal = y.copy()
        for start in range(season, y.shape[1], season):
            block = seasonal[:, start : start + season]
            before = seasonal[:, start - season : start - season + block.shape[1]]
            np.copyto(block, before, where=np.isnan(block))
        back = season * -(-horizon // season) - horizon
        shifted = np.full(y.shape, np.nan)
        if back < y.shape[1]:
            shifted[:, back:] = seasonal[:, : y.shape[1] - back]
        return np.where(np.isnan(shifted), steady, shifted)


class NaiveUptime(Naive):
    """The latest rate of days on stream, times the series' own mean uptime of the latest 12 steps.

    What a well does while it runs and how much it runs, each carried on. A series that never was on stream for long has
    no such rate, and its latest known value is carried on. Series are left out where `uptime` is not reported.
    """

    capabilities: ClassVar[Capabilities] = Capabilities(baseline=True, uses=frozenset({"plan"}))

    def _points(self, y: FloatArray, horizon: int) -> FloatArray:
        return last_known(y)

    def _told(self, view: PanelView, grid: Grid, horizon: int) -> FloatArray:
        if UPTIME not in view.columns:
            return self._points(grid.y, horizon)
        uptime = _uptime(view, grid)
        rate = last_known(_on_stream(grid.y, uptime)) * mean_of_known(uptime, LEVEL_ROWS)
        return np.where(np.isnan(rate), last_known(grid.y), rate)

    def _predict(self, view: PanelView) -> Answer:
        if UPTIME not in view.columns:
            none = answer_frame([], np.empty((0, self.horizon, len(LEVELS))))
            return Answer(none, dict.fromkeys(view.series, f"no {UPTIME!r} is reported"))
        return super()._predict(view)


class NaivePlanned(Naive):
    """The median of the latest three rates of days on stream, times the planned uptime.

    What is left of a forecast once the plan is known. Series are left out where `uptime` is no plan column.
    """

    capabilities: ClassVar[Capabilities] = Capabilities(baseline=True, uses=frozenset({"plan"}))
    planned: bool

    def _points(self, y: FloatArray, horizon: int) -> FloatArray:
        return median_of_known(y, 3)

    def _fit(self, view: PanelView, *, seed: int) -> None:
        self.planned = UPTIME in view.names("plan")
        if not self.planned:
            self.errors = ErrorQuantiles(np.zeros((view.schema.horizon, len(LEVELS))), 1.0, ())
            return
        grid = grid_of(view, length=self.params.error_history)
        uptime = _uptime(view, grid)
        rate = self._points(_on_stream(grid.y, uptime), 0)
        floor = level_floor(grid.y)
        level = np.maximum(mean_of_known(np.abs(grid.y), LEVEL_ROWS), floor)
        errors = [
            ((grid.y[:, h:] - rate[:, :-h] * uptime[:, h:]) / level[:, :-h]).ravel() if h < grid.width else np.empty(0)
            for h in range(1, view.schema.horizon + 1)
        ]
        self.errors = learn_error_quantiles(errors, floor=floor)

    def _predict(self, view: PanelView) -> Answer:
        if not self.planned or UPTIME not in view.names("plan"):
            none = answer_frame([], np.empty((0, self.horizon, len(LEVELS))))
            return Answer(none, dict.fromkeys(view.series, f"no {UPTIME!r} is planned"))
        grid = grid_of(view)
        rows = grid.rows_of(view.series)
        y, uptime = grid.y[rows], _uptime(view, grid)[rows]
        rate = self._points(_on_stream(y, uptime), 0)[:, -1]
        # A well that never was on stream for long has no such rate: its own last value then, whatever is planned.
        ahead = view.future.sort(ID, HORIZON).get_column(UPTIME).cast(pl.Float64).fill_null(1.0).to_numpy()
        ahead = np.clip(ahead.reshape(rows.size, self.horizon), 0.0, 1.0)
        point = np.where(np.isnan(rate)[:, None], last_known(y)[:, -1:], rate[:, None] * ahead)
        level = mean_of_known(np.abs(y), LEVEL_ROWS)[:, -1]
        return Answer(answer_frame(view.series, self.errors.around(point, level)))

    def _write(self, folder: Path) -> dict[str, Any]:
        return {**super()._write(folder), "planned": self.planned}

    def _read(self, folder: Path, state: dict[str, Any]) -> None:
        super()._read(folder, state)
        self.planned = bool(state["planned"])


def _uptime(view: PanelView, grid: Grid) -> FloatArray:
    """[N, T] share of time on stream; 1 where it is not reported."""
    told = view.history.get_column(UPTIME).cast(pl.Float64).fill_null(float("nan")).to_numpy()
    return np.clip(np.nan_to_num(grid.matrix(told), nan=1.0), 0.0, 1.0)


def _on_stream(y: FloatArray, uptime: FloatArray) -> FloatArray:
    """Rates of days on stream; NaN in months with next to none."""
    return np.where(uptime > LEAST_UPTIME, y / np.maximum(uptime, LEAST_UPTIME), np.nan)
