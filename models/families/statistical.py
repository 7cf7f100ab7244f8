"""Per-series statistical models through statsforecast: simple exponential smoothing, theta, ETS.

They are local: nothing but the intervals is learnt in `fit`; each series is fitted on its own history at predict.
"""

from __future__ import annotations

import warnings
from abc import abstractmethod
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from models.base import Answer, Forecaster, Hyperparameters
from models.grid import FloatArray, answer_frame, grid_of, level_floor, mean_of_known
from models.residuals import ErrorQuantiles, learn_error_quantiles
from nightcast.contracts.catalog import Capabilities
from nightcast.contracts.errors import TrainingError
from nightcast.contracts.frequency import Frequency
from nightcast.contracts.panel import PanelView
from nightcast.contracts.source import Note

LEVEL_ROWS = 12
"""Known rows whose mean absolute value is a series' level."""


class StatisticalParams(Hyperparameters):
    """Parameters all statistical models share.

    Attributes
    ----------
    max_history
        Latest steps of a series that it is fitted on.
    error_fits
        Fits at earlier origins that the intervals are learnt from.
    """

    max_history: int = Field(default=120, ge=8)
    error_fits: int = Field(default=240, ge=1)


class Statistical(Forecaster):
    """One statsforecast model per series, with the panel's own multi-step errors as intervals.

    Values missing inside a series' history are filled forward and counted; values missing at its end are bridged by
    forecasting that many steps further. A series the library fails on is left out under its own name, with the
    library's words.
    """

    Params = StatisticalParams
    params: StatisticalParams
    errors: ErrorQuantiles

    @abstractmethod
    def _model(self, rows: int, season: int) -> Any:
        """A fresh statsforecast model for a series of `rows` values."""

    def _points(self, y: FloatArray, horizon: int) -> tuple[FloatArray, int]:
        """[H] forecast of one series from its values [T] up to the origin, and how many gaps were filled."""
        known = np.flatnonzero(~np.isnan(y))
        trailing = y.size - 1 - known[-1]
        y = y[known[0] : known[-1] + 1]
        gaps = np.isnan(y)
        filled = y[np.maximum.accumulate(np.where(gaps, 0, np.arange(y.size)))]
        filled = filled[-self.params.max_history :]
        # The libraries' optimisers have absolute bounds and tolerances; at a common size they treat all series alike.
        size = float(np.abs(filled).mean()) or 1.0
        model = self._model(filled.size, Frequency.parse(self.freq).season_length)
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            mean = np.asarray(model.forecast(y=filled / size, h=horizon + int(trailing))["mean"], dtype=float)
        mean = mean[-horizon:] * size
        if not np.isfinite(mean).all():
            raise TrainingError(
                f"the forecast holds {mean[~np.isfinite(mean)][0]}",
                expected="finite numbers",
                remedy="the series is left out; the ensemble covers it",
            )
        return mean, int(gaps.sum())

    def _try(self, y: FloatArray, horizon: int) -> tuple[FloatArray, int] | str:
        """`_points`, or the reason in words: one series must not cost the others their forecast."""
        try:
            return self._points(y, horizon)
        except Exception as error:  # noqa: BLE001 - whatever the library raises concerns this series alone
            return f"{type(self).__name__} failed on it ({type(error).__name__}: {error})"

    def _fit(self, view: PanelView, *, seed: int) -> None:
        horizon = view.schema.horizon
        y = grid_of(view, length=self.params.max_history + 8 * horizon).y
        floor = level_floor(y)
        level = np.maximum(mean_of_known(np.abs(y), LEVEL_ROWS), floor)
        counts = (~np.isnan(y)).sum(axis=1)
        able = np.flatnonzero(counts >= max(self.capabilities.min_history, 1) + horizon)
        errors: list[list[FloatArray]] = [[] for _ in range(horizon)]
        step = max(1, horizon // 2)
        origins = range(y.shape[1] - 1 - step, 0, -step)
        budget = self.params.error_fits
        # Origins are taken from the latest back, so that a small panel looks further into its past.
        for origin in origins:
            past = (~np.isnan(y[able, : origin + 1])).sum(axis=1)
            rows = able[past >= max(self.capabilities.min_history, 1)]
            if rows.size > self.params.error_fits // 3:
                rows = rows[:: -(-rows.size * 3 // self.params.error_fits)]
            for row in rows[:budget]:
                answer = self._try(y[row, : origin + 1], horizon)
                if isinstance(answer, str):
                    continue
                actual = y[row, origin + 1 : origin + 1 + horizon]
                scaled = (actual - answer[0][: actual.size]) / level[row, origin]
                for h, value in enumerate(scaled):
                    errors[h].append(np.atleast_1d(value))
            budget -= rows.size
            if budget <= 0:
                break
        pooled = [np.concatenate(values) if values else np.empty(0) for values in errors]
        self.errors = learn_error_quantiles(pooled, floor=floor)

    def _predict(self, view: PanelView) -> Answer:
        grid = grid_of(view)
        rows = grid.rows_of(view.series)
        level = mean_of_known(np.abs(grid.y), LEVEL_ROWS)[:, -1]
        series: list[str] = []
        points: list[FloatArray] = []
        left_out: dict[str, str] = {}
        gaps = 0
        for name, row in zip(view.series, rows, strict=True):
            answer = self._try(grid.y[row], self.horizon)
            if isinstance(answer, str):
                left_out[name] = answer
                continue
            series.append(name)
            points.append(answer[0])
            gaps += answer[1]
        point = np.array(points).reshape(len(points), self.horizon)
        values = self.errors.around(point, level[grid.rows_of(series)])
        notes = (Note("gaps_filled_forward", gaps, "missing values inside histories, filled forward"),) if gaps else ()
        return Answer(answer_frame(series, values), left_out, notes)

    def _write(self, folder: Path) -> dict[str, Any]:
        return {"errors": self.errors.to_json()}

    def _read(self, folder: Path, state: dict[str, Any]) -> None:
        self.errors = ErrorQuantiles.from_json(state["errors"])


class Ses(Statistical):
    """Simple exponential smoothing with an optimised weight (Brown 1959); one of the naive family."""

    capabilities: ClassVar[Capabilities] = Capabilities(baseline=True)

    def _model(self, rows: int, season: int) -> Any:
        from statsforecast.models import SimpleExponentialSmoothingOptimized

        return SimpleExponentialSmoothingOptimized()


class ThetaParams(StatisticalParams):
    """Parameters of the theta method.

    Attributes
    ----------
    seasonal
        Whether the series is tested for a season and adjusted (needs two full seasons).
    decomposition
        How the season is taken out; `additive` also bears zeros.
    """

    seasonal: bool = True
    decomposition: Literal["additive", "multiplicative"] = "additive"


class Theta(Statistical):
    """Dynamic optimised theta (Fiorucci et al. 2016)."""

    Params = ThetaParams
    capabilities: ClassVar[Capabilities] = Capabilities(min_history=6)
    params: ThetaParams

    def _model(self, rows: int, season: int) -> Any:
        from statsforecast.models import DynamicOptimizedTheta

        seasonal = self.params.seasonal and rows > 2 * season
        return DynamicOptimizedTheta(season if seasonal else 1, decomposition_type=self.params.decomposition)


class EtsParams(StatisticalParams):
    """Parameters of ETS.

    Attributes
    ----------
    model
        Error, trend and season, each none, additive, multiplicative or chosen by AICc: three letters of `NAMZ`.
    damped
        Whether the trend is damped; None lets AICc choose.
    """

    model: str = Field(default="AZN", pattern="^[AMZ][NAMZ][NAMZ]$")
    damped: bool | None = None


class Ets(Statistical):
    """Exponential smoothing in state-space form, components chosen by AICc (Hyndman and Khandakar 2008)."""

    Params = EtsParams
    capabilities: ClassVar[Capabilities] = Capabilities(min_history=10)
    params: EtsParams

    def _model(self, rows: int, season: int) -> Any:
        from statsforecast.models import AutoETS

        seasonal = self.params.model[2] != "N" and rows > 2 * season + 4
        kind = self.params.model if seasonal else self.params.model[:2] + "N"
        return AutoETS(season if seasonal else 1, model=kind, damped=self.params.damped)
