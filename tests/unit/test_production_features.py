"""Feature blocks of producing wells against hand-made histories and planted truths."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import numpy as np
import polars as pl
import pytest

from nightcast.contracts.errors import ConfigError
from nightcast.contracts.recipe import FeatureChoice
from nightcast.contracts.schema import PanelSchema
from nightcast.features.catalog import build_features

MONTHLY = PanelSchema(freq="MS", horizon=3)
N = None


def well(y: list[float | None], name: str = "A", **columns: list[float | None]) -> pl.DataFrame:
    times = [datetime(2015 + k // 12, k % 12 + 1, 1) for k in range(len(y))]
    frame = pl.DataFrame({"unique_id": name, "ds": times, "y": pl.Series(y, dtype=pl.Float64)})
    return frame.with_columns(pl.Series(n, its, dtype=pl.Float64) for n, its in columns.items())


def built(frame: pl.DataFrame, block: str, **params: Any) -> pl.DataFrame:
    return build_features(frame, MONTHLY, [FeatureChoice(name=block, params=params)])[0]


def test_water_cut_is_what_is_not_oil() -> None:
    frame = built(well([100.0, 100.0, 50.0, 0.0], wopr=[80.0, 60.0, N, 0.0]), "water_cut", steps=[1])

    assert frame["wct_now"].to_list() == [pytest.approx(0.2), pytest.approx(0.4), N, N]
    assert frame["wct_delta_1"].to_list()[1] == pytest.approx(0.2)
    assert frame["wct_log_wor"][0] == pytest.approx(np.log(0.25))


def test_cumulative_volume_counts_in_steps_at_the_present_rate() -> None:
    frame = built(well([10.0, 10.0, N, 10.0, 40.0]), "cumulative")

    assert frame["cum_steps_at_rate"].to_list()[3] == pytest.approx(3.0)
    assert frame["cum_of_peak"].to_list()[4] == pytest.approx(70 / 40)
    assert frame["cum_last_year_share"].to_list()[4] == pytest.approx(1.0)


def test_the_productivity_index_of_a_month_does_not_know_that_month_s_rate() -> None:
    pressure = [200.0, 100.0, 100.0, 100.0]
    one, other = (
        built(well([0.0, 50.0, 60.0, last], wbhp=pressure, uptime=[0.0, 1.0, 0.5, 1.0]), "productivity")
        for last in (70.0, 7.0)
    )

    assert one["pi_lag_1"].to_list() == [N, N, pytest.approx(0.5), pytest.approx(1.2)]
    assert one["pi_lag_1"].equals(other["pi_lag_1"])


def test_a_planted_workover_is_seen_one_month_after_the_stop() -> None:
    rate = [100.0] * 6 + [50.0] + [140.0] * 4
    uptime = [1.0] * 6 + [0.5] + [1.0] * 4

    frame = built(well(rate, uptime=uptime), "workovers")

    assert frame["work_since"].to_list() == [N] * 7 + [0, 1, 2, 3]
    assert frame["work_gain"].to_list()[7:] == [pytest.approx(1.4)] * 4


def test_a_stop_without_a_gain_is_no_workover() -> None:
    frame = built(well([100.0] * 8, uptime=[1.0, 1.0, 1.0, 1.0, 0.8, 1.0, 1.0, 1.0]), "workovers")

    assert frame["work_since"].null_count() == 8


def test_decline_carries_half_of_the_slope_on() -> None:
    frame = built(well([100.0 * 0.95**k for k in range(24)]), "decline", ahead=[1, 6])

    anchor = 100 * np.mean([0.95**k for k in (21, 22, 23)])
    assert frame["dca_rate_6"][23] == pytest.approx(anchor * 0.95**3, rel=1e-6)
    assert frame["dca_rate_1"][23] == pytest.approx(anchor * 0.95**0.5, rel=1e-6)


def panel(years: int = 4, wells: int = 6) -> pl.DataFrame:
    rng = np.random.default_rng(3)
    return pl.concat(
        well((50 * np.exp(np.cumsum(rng.normal(0, 0.1, 12 * years)))).tolist(), name=f"W{i}") for i in range(wells)
    )


def test_the_embedding_begins_when_there_are_windows_of_an_earlier_year() -> None:
    frame = built(panel(), "embedding")

    known = frame.filter(pl.col("emb_1").is_not_null())
    assert known["ds"].min() == datetime(2017, 1, 1)  # windows of 12 are complete from December 2015 on: six, too few
    assert known.height == 6 * 24


def test_the_embedding_of_a_year_does_not_know_the_windows_of_that_year() -> None:
    frame = panel()
    wild = pl.when(pl.col("ds") >= datetime(2018, 7, 1)).then(pl.col("y") * 100).otherwise(pl.col("y")).alias("y")

    one, other = built(frame, "embedding"), built(frame.with_columns(wild), "embedding")

    before = pl.col("ds") < datetime(2018, 7, 1)
    for name in ("emb_1", "emb_2", "emb_3"):
        assert one.filter(before)[name].equals(other.filter(before)[name])


def test_the_first_component_explains_most_of_the_windows() -> None:
    frame = built(panel(), "embedding").drop_nulls("emb_1")

    assert frame["emb_1"].std() > frame["emb_2"].std() > frame["emb_3"].std()


def test_more_components_than_steps_are_refused() -> None:
    with pytest.raises(ConfigError, match="components = 5"):
        built(panel(1, 1), "embedding", size=4, components=5)
