"""A family to copy: the drift forecaster, whole and tested, registered nowhere.

To add a model:

1. copy this file to `models/families/<family>.py` and rename the classes after the method;
2. name its hyperparameters, typed, in `Params`: unknown names are then refused for you;
3. state its `capabilities`: the base class leaves out series with less history, or unseen ones, and says why;
4. fill in `_fit`, `_predict`, `_write` and `_read`; import heavy libraries inside them;
5. add a row to `models/catalog.py`, with the same capabilities, presets and `cheap` parameters for the tests.

`tests/contract/test_forecasters.py` then asks it what it asks every entry; no other test is needed for that.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from models.base import Answer, Forecaster, Hyperparameters
from models.grid import FloatArray, answer_frame, grid_of, last_known, level_floor, mean_of_known
from models.residuals import ErrorQuantiles, learn_error_quantiles
from nightcast.contracts.catalog import Capabilities
from nightcast.contracts.panel import PanelView


class DriftParams(Hyperparameters):
    """Parameters of the drift method: steps the slope is measured over, and its damping per step ahead."""

    window: int = Field(default=12, ge=1)
    damping: float = Field(default=0.9, ge=0, le=1)


class Drift(Forecaster):
    """The latest value plus a damped drift (Gardner and McKenzie 1985, without smoothing)."""

    Params = DriftParams
    capabilities: ClassVar[Capabilities] = Capabilities(min_history=2)
    params: DriftParams
    errors: ErrorQuantiles

    def _fit(self, view: PanelView, *, seed: int) -> None:
        # The dense arrays are [N, T]: series by steps, NaN where nothing is known, the last column the cutoff.
        y = grid_of(view).y
        floor = level_floor(y)
        level = np.maximum(mean_of_known(np.abs(y), 12), floor)
        ahead = range(1, min(view.schema.horizon, y.shape[1] - 1) + 1)
        errors = [((y[:, h:] - self._points(y, h)[:, :-h]) / level[:, :-h]).ravel() for h in ahead]
        errors += [np.empty(0)] * (view.schema.horizon - len(errors))
        self.errors = learn_error_quantiles(errors, floor=floor)

    def _predict(self, view: PanelView) -> Answer:
        grid = grid_of(view)
        y = grid.y[grid.rows_of(view.series)]
        level = mean_of_known(np.abs(y), 12)[:, -1]
        point = np.stack([self._points(y, h)[:, -1] for h in range(1, self.horizon + 1)], axis=1)
        return Answer(answer_frame(view.series, self.errors.around(point, level)))

    def _write(self, folder: Path) -> dict[str, Any]:
        return {"errors": self.errors.to_json()}

    def _read(self, folder: Path, state: dict[str, Any]) -> None:
        self.errors = ErrorQuantiles.from_json(state["errors"])

    def _points(self, y: FloatArray, horizon: int) -> FloatArray:
        """[N, T]: the forecast `horizon` steps ahead of every step."""
        filled = last_known(y)
        window = min(self.params.window, y.shape[1] - 1)
        before = np.hstack([np.full((y.shape[0], window), np.nan), filled[:, : y.shape[1] - window]])
        slope = np.nan_to_num((filled - before) / max(window, 1), nan=0.0)
        steps = sum(self.params.damping**h for h in range(1, horizon + 1))
        ahead: FloatArray = filled + slope * steps
        return ahead
