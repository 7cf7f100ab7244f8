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
from nightcast.features.sentry import future_leaks

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


def flooded(years: int = 4, wells: int = 6) -> pl.DataFrame:
    """Wells with a gauge, one without, and injectors that they feel."""
    rng = np.random.default_rng(4)
    months = 12 * years

    def rates(spread: float) -> list[float]:
        return (50 * np.exp(np.cumsum(rng.normal(0, spread, months)))).tolist()

    nothing: list[float | None] = [N] * months
    place = {"x_m": [0.0] * months, "y_m": [0.0] * months}
    parts = [
        well(rates(0.1), f"W{i}", wbhp=rates(0.05) if i else nothing, wwir=nothing, **place).with_columns(
            series_role=pl.lit("target")
        )
        for i in range(wells)
    ]
    for i in range(2):
        injector = well(nothing, f"I{i}", wbhp=nothing, wwir=rates(0.2), **place)
        parts.append(injector.with_columns(series_role=pl.lit("support"), x_m=pl.lit(300.0 * (i + 1))))
    return pl.concat(parts)


FLOODED = PanelSchema(
    freq="MS", horizon=3, covariates={"wbhp": "past", "wwir": "past", "x_m": "static", "y_m": "static"}
)
EMB = ["emb_1", "emb_2", "emb_3"]


def embedded(frame: pl.DataFrame, *blocks: str, **params: Any) -> pl.DataFrame:
    choices = [FeatureChoice(name="embedding", params=params), *(FeatureChoice(name=name) for name in blocks)]
    return build_features(frame, FLOODED, choices)[0]


def test_an_embedding_reads_pressure_and_the_injection_of_another_block_where_they_are_there() -> None:
    frame = flooded()
    bare = frame.drop("wbhp")

    target = embedded(frame, columns=["y"]).select(EMB)
    assert embedded(bare).select(EMB).equals(target), "the target alone"
    pressed = embedded(frame).select(EMB)
    assert not pressed.equals(target)
    assert pressed.equals(embedded(frame, columns=["y", "wbhp"]).select(EMB))
    fed = embedded(frame, "injection")
    assert fed.select(EMB).equals(embedded(frame, "injection", columns=["y", "wbhp", "inj_wwir_lag_weighted"])[EMB])
    assert not fed.select(EMB).equals(pressed)
    assert fed.columns.index("emb_1") < fed.columns.index("inj_change_1"), "the order of the recipe stays"


def test_an_embedding_of_several_columns_says_nothing_of_support_series_and_something_of_wells_without_a_gauge() -> (
    None
):
    out = embedded(flooded(), "injection")

    assert out.filter(series_role="support")["emb_1"].count() == 0
    assert out.filter(unique_id="W0")["emb_1"].count() == out.filter(unique_id="W1")["emb_1"].count() == 24


def test_a_column_that_too_few_windows_know_is_left_out_of_the_embedding() -> None:
    frame = flooded()
    sparse = frame.with_columns(pl.when(pl.col("unique_id").is_in(["W1", "W2"])).then("wbhp").alias("wbhp"))

    assert embedded(sparse).select(EMB).equals(embedded(frame, columns=["y"]).select(EMB))


def test_no_column_of_an_embedding_outweighs_the_others_by_its_size_or_its_unit() -> None:
    frame = flooded()
    other = frame.with_columns(pl.col("wbhp") * 1000)

    one, two = embedded(frame).drop_nulls("emb_1"), embedded(other).drop_nulls("emb_1")

    for name in EMB:
        np.testing.assert_allclose(one[name].to_numpy(), two[name].to_numpy(), rtol=1e-9)
    quiet = frame.with_columns(100 + pl.col("wbhp") / 1000)
    assert abs(embedded(quiet).select(pl.corr("emb_1", embedded(frame)["emb_1"])).item()) > 0.8


@pytest.mark.parametrize("cutoff", [datetime(2017, 6, 1), datetime(2018, 1, 1), datetime(2018, 8, 1)])
def test_the_future_of_no_column_changes_an_embedding_of_the_past(cutoff: datetime) -> None:
    choices = [FeatureChoice(name="embedding"), FeatureChoice(name="injection")]

    assert future_leaks(lambda f, s: build_features(f, s, choices), flooded(), FLOODED, cutoff, 3) == []


@pytest.mark.parametrize("columns", [["y", "whp"], ["x_m"], ["y", "y"], [], "y", ["inj_wwir_lag_weighted"]])
def test_columns_that_cannot_be_embedded_are_refused(columns: Any) -> None:
    with pytest.raises(ConfigError, match=r"embedding\.columns"):
        embedded(flooded(), columns=columns)
