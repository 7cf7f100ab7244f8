from collections.abc import Callable
from datetime import datetime

import numpy as np
import polars as pl
import pytest

from nightcast.contracts.recipe import FeatureChoice
from nightcast.contracts.schema import FeatureColumn, PanelSchema
from nightcast.features.catalog import FEATURES, build_features
from nightcast.features.sentry import Built, future_leaks

SCHEMA = PanelSchema(freq="MS", horizon=3, covariates={"wbhp": "past", "uptime": "plan", "x_m": "static"})
CUTOFF = datetime(2021, 6, 1)


def panel() -> pl.DataFrame:
    rng = np.random.default_rng(11)
    times = pl.datetime_range(datetime(2020, 1, 1), datetime(2022, 1, 1), "1mo", eager=True)
    return pl.concat(
        pl.DataFrame(
            {
                "unique_id": name,
                "ds": times,
                "y": rng.gamma(3, 10, len(times)),
                "wbhp": rng.uniform(50, 150, len(times)),
                "uptime": rng.uniform(0, 1, len(times)),
                "x_m": 100.0,
            }
        )
        for name in ("A", "B", "C")
    )


Y, BY = pl.col("y"), "unique_id"

LEAKS: dict[str, pl.Expr] = {
    "centred_window": Y.rolling_mean(3, center=True).over(BY),
    "next_value": Y.shift(-1).over(BY),
    "global_scaler": (Y - Y.mean()) / Y.std(),
    "series_scaler": Y / Y.max().over(BY),
    "median_of_all": Y - Y.median().over(BY),
    "rank_in_history": Y.rank().over(BY),
    "filled_backwards": pl.when(Y > 30).then(Y).backward_fill().over(BY),
    "interpolated": pl.when(Y > 30).then(Y).interpolate().over(BY),
    "length_of_series": pl.len().over(BY).cast(pl.Float64),
    "last_time": (pl.col("ds").max().over(BY) - pl.col("ds")).dt.total_days(),
    "covariate_ahead": pl.col("wbhp").shift(-2).over(BY),
    "target_encoded_id": Y.mean().over(BY),
    "reversed_ewm": Y.reverse().ewm_mean(alpha=0.3).reverse().over(BY),
}


@pytest.mark.parametrize("name", list(LEAKS))
def test_a_planted_leak_is_caught_and_named(name: str) -> None:
    def build(frame: pl.DataFrame, schema: PanelSchema) -> pl.DataFrame:
        return frame.with_columns(LEAKS[name].alias(name), Y.shift(1).over(BY).alias("honest"))

    assert future_leaks(build, panel(), SCHEMA, CUTOFF, seed=1) == [name]


def test_a_recipe_that_looks_back_only_raises_no_alarm() -> None:
    choices = [FeatureChoice(name=name) for name in FEATURES]

    assert future_leaks(lambda f, s: build_features(f, s, choices), panel(), SCHEMA, CUTOFF, seed=1) == []


def test_the_sentry_leaves_the_frame_alone() -> None:
    frame = panel()

    future_leaks(lambda f, s: f, frame, SCHEMA, CUTOFF, seed=1)

    assert frame.equals(panel())


def test_rows_that_come_and_go_with_the_future_are_reported() -> None:
    def build(frame: pl.DataFrame, schema: PanelSchema) -> pl.DataFrame:
        return frame.filter(Y.last().over(BY) > 0)

    assert future_leaks(build, panel(), SCHEMA, CUTOFF, seed=1) == ["rows"]


def test_a_column_that_is_there_only_for_some_futures_is_reported() -> None:
    def build(frame: pl.DataFrame, schema: PanelSchema) -> pl.DataFrame:
        return frame.with_columns(pl.lit(1.0).alias("season")) if frame["ds"].max() > CUTOFF else frame  # type: ignore[operator]

    assert future_leaks(build, panel(), SCHEMA, CUTOFF, seed=1) == ["season"]


def _declared(role: str, expression: pl.Expr) -> Callable[[pl.DataFrame, PanelSchema], Built]:
    def build(frame: pl.DataFrame, schema: PanelSchema) -> Built:
        columns = {"new": FeatureColumn.model_validate({"role": role, "block": "mine"})}
        return frame.with_columns(expression.alias("new")), columns, ()

    return build


def test_a_column_declared_as_known_ahead_must_not_read_the_target_of_the_future() -> None:
    own_value = pl.col("wbhp") * 2

    assert future_leaks(_declared("past", own_value), panel(), SCHEMA, CUTOFF, seed=1) == []
    assert future_leaks(_declared("plan", own_value), panel(), SCHEMA, CUTOFF, seed=1) == ["new"]


def test_a_column_known_ahead_may_read_the_plan_of_its_own_row() -> None:
    assert future_leaks(_declared("plan", pl.col("uptime") * 2), panel(), SCHEMA, CUTOFF, seed=1) == []


def test_static_columns_are_not_the_future() -> None:
    def build(frame: pl.DataFrame, schema: PanelSchema) -> pl.DataFrame:
        return frame.with_columns((pl.col("x_m").first().over(BY) * Y).alias("placed"))

    assert future_leaks(build, panel(), SCHEMA, CUTOFF, seed=1) == []
