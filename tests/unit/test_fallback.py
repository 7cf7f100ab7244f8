"""The last link of the chain."""

from __future__ import annotations

from datetime import datetime

import numpy as np
import polars as pl

from nightcast.contracts.columns import QUANTILES
from nightcast.contracts.schema import PanelSchema
from nightcast.evaluation.fallback import OWN, PANEL, panel_fallback

SCHEMA = PanelSchema(freq="MS", horizon=3, lower=0.0)
AS_OF = datetime(2022, 12, 1)


def panel(**series: list[float | None]) -> pl.DataFrame:
    frames = []
    for name, values in series.items():
        times = [SCHEMA.freq.shift(AS_OF, 1 - len(values) + i) for i in range(len(values))]
        frames.append(
            pl.DataFrame(
                {"unique_id": name, "ds": times, "y": values, "series_role": "target", "row_unparsable": False},
                schema_overrides={"ds": pl.Datetime("us"), "y": pl.Float64},
            )
        )
    return pl.concat(frames)


def test_the_median_of_the_last_six_known_values_serves_and_one_wild_value_does_not_move_it() -> None:
    frame = panel(a=[10.0, 10.0, 11.0, 9.0, 10.0, 1000.0], b=[5.0] * 30)

    out = panel_fallback(frame, SCHEMA, AS_OF, ["a"])

    assert out.get_column("q50").to_list() == [10.0, 10.0, 10.0]
    assert set(out.get_column("model_used")) == {OWN}


def test_a_series_without_any_known_value_gets_the_typical_series_of_the_panel() -> None:
    frame = panel(a=[4.0] * 12, b=[6.0] * 12, c=[5.0] * 12, dead=[None] * 12)

    out = panel_fallback(frame, SCHEMA, AS_OF, ["dead"])

    assert out.get_column("q50").to_list() == [5.0] * 3
    assert set(out.get_column("model_used")) == {PANEL}


def test_rows_that_are_wrong_by_themselves_are_not_used() -> None:
    frame = panel(a=[10.0] * 12)
    late = frame.head(1).with_columns(pl.lit(datetime(2090, 1, 1)).cast(pl.Datetime("us")).alias("ds"), y=pl.lit(9e9))
    text = frame.tail(1).with_columns(y=pl.lit(None, dtype=pl.Float64), row_unparsable=pl.lit(True))
    negative = frame.tail(1).with_columns(y=pl.lit(-5.0))

    out = panel_fallback(pl.concat([text, negative, frame, late]), SCHEMA, AS_OF, ["a"])

    assert out.get_column("q50").to_list() == [10.0] * 3


def test_every_asked_series_gets_every_horizon_with_ordered_bounded_quantiles() -> None:
    rng = np.random.default_rng(3)
    frame = panel(**{f"w{i}": list(rng.gamma(2.0, 20.0, 40)) for i in range(5)}, empty=[None] * 4)

    out = panel_fallback(frame, SCHEMA, AS_OF, ["w1", "empty", "unheard-of"])

    assert out.height == 9
    assert out.select(QUANTILES).to_numpy().min() >= 0
    assert (np.diff(out.select(QUANTILES).to_numpy(), axis=1) >= 0).all()
    assert out.get_column("ds").unique().sort().to_list() == [SCHEMA.freq.shift(AS_OF, s) for s in (1, 2, 3)]
    spread = (out["q90"] - out["q10"]).filter(out["unique_id"] == "w1")
    assert spread.min() > 0


def test_an_empty_panel_still_answers() -> None:
    frame = panel(a=[None] * 3)

    out = panel_fallback(frame, SCHEMA, AS_OF, ["a"])

    assert out.height == 3
    assert out.get_column("q50").to_list() == [0.0] * 3
