"""Rows of ratios: what a past origin is trained with is what it would have been forecast from."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from models.grid import FloatArray
from models.ratios import Float32Array, RatioForecaster, Rows
from nightcast.contracts.columns import LEVELS
from nightcast.contracts.panel import PanelDataset
from nightcast.contracts.schema import PanelSchema

MONTHS, HORIZON = 90, 3


class Recorder(RatioForecaster):
    """Learns nothing, and keeps what it is shown."""

    trained: Rows
    asked: dict[int, Float32Array]

    def learn(self, rows: Rows, *, seed: int) -> None:
        self.trained, self.asked = rows, {}

    def ratios(self, x: Float32Array, horizon: int) -> FloatArray:
        self.asked[horizon] = x
        return np.ones((len(x), len(LEVELS)))

    def write_learnt(self, folder: Path) -> dict[str, Any]:
        return {}

    def read_learnt(self, folder: Path, state: dict[str, Any]) -> None:
        pass


def month(i: int) -> datetime:
    return datetime(2015 + i // 12, i % 12 + 1, 1)


@pytest.mark.parametrize("kept", [2, 20, 500])
def test_a_past_origin_has_the_same_inputs_in_training_as_at_a_forecast_however_few_origins_are_kept(kept: int) -> None:
    rng = np.random.default_rng(1)
    wells = {name: 100 * np.exp(rng.normal(0, 0.2, MONTHS)) * np.linspace(4, 1, MONTHS) for name in ("a", "b", "c")}
    wells["c"][:30] = np.nan
    frame = pl.concat(
        [
            pl.DataFrame({"unique_id": [name] * MONTHS, "ds": [month(i) for i in range(MONTHS)], "y": values})
            for name, values in wells.items()
        ]
    ).with_columns(pl.col("ds").cast(pl.Datetime("us")), pl.col("y").fill_nan(None))
    data = PanelDataset(frame, PanelSchema(freq="MS", horizon=HORIZON, lower=0.0), {}, as_of=month(MONTHS - 1))
    fitted_at = MONTHS - 1 - HORIZON

    model = Recorder(max_origins=kept).fit(data.view(month(fitted_at)), seed=1)
    its = model.trained
    newest = its.x[its.horizon == 1][-len(wells) :]
    model.predict(data.view(month(fitted_at - 1)))

    assert {"log_history", "of_peak"} <= set(its.names)
    np.testing.assert_array_equal(model.asked[1], newest)
