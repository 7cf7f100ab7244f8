"""Fans of a regime that are too narrow are stretched, as far as its rows can tell; the others stay."""

from __future__ import annotations

from datetime import datetime
from statistics import NormalDist

import numpy as np
import polars as pl
import pytest

from nightcast.contracts.columns import LEVELS, QUANTILES
from nightcast.evaluation.calibration import LARGEST_STRETCH, ConformalQuantiles
from nightcast.evaluation.scores import coverage

REGIMES = {"steady": 1.0, "ramp_up": 3.0}
FAN = {name: NormalDist().inv_cdf(level) for name, level in zip(QUANTILES, LEVELS, strict=True)}


def rows(*, rare: int, seed: int = 1, regimes: dict[str, float] = REGIMES) -> pl.DataFrame:
    """Forty series at 24 origins with fans of unit spread; the first `rare` of them err by more than that."""
    rng = np.random.default_rng(seed)
    names = list(regimes)
    parts = []
    for series in range(40):
        regime = names[1] if series < rare else names[0]
        for origin in range(24):
            for horizon in (1, 2):
                month = origin + horizon
                parts.append(
                    {
                        "unique_id": f"s{series:02d}",
                        "ds": datetime(2020 + month // 12, month % 12 + 1, 1),
                        "cutoff": datetime(2020 + origin // 12, origin % 12 + 1, 1),
                        "horizon": horizon,
                        "y": 50.0 + regimes[regime] * rng.normal(),
                        "scale": 50.0,
                        "segment": regime,
                        **{name: 50.0 + place for name, place in FAN.items()},
                    }
                )
    times = {"ds": pl.Datetime("us"), "cutoff": pl.Datetime("us"), "horizon": pl.Int32}
    return pl.DataFrame(parts, schema_overrides=times)


def covered(frame: pl.DataFrame, table: dict[str, object]) -> dict[str, float]:
    corrected = ConformalQuantiles(regime="segment")._shift(frame, table)
    return {str(name): coverage(part) for (name,), part in corrected.partition_by("segment", as_dict=True).items()}


def test_a_regime_with_larger_errors_is_covered_nearly_as_often_as_the_rest() -> None:
    table = ConformalQuantiles(regime="segment").fit(rows(rare=8))

    unseen = rows(rare=8, seed=2)
    with_it, without = (covered(unseen, its) for its in (table, {**table, "stretch": {}}))

    assert without["ramp_up"] < 0.5
    assert with_it["ramp_up"] > 0.68
    assert with_it["steady"] == pytest.approx(without["steady"], abs=0.01)
    assert table["stretch"]["ramp_up"] > 1.5


def test_a_regime_that_is_covered_already_is_left_alone() -> None:
    alike = rows(rare=8, regimes={"steady": 1.0, "ramp_up": 1.0})

    table = ConformalQuantiles(regime="segment").fit(alike)

    assert table["stretch"]["ramp_up"] < 1.2
    assert min(table["stretch"].values()) >= 1.0


def test_few_rows_of_a_regime_move_little() -> None:
    frame = rows(rare=8)
    few = frame.filter((pl.col("segment") == "steady") | (pl.col("cutoff") == frame["cutoff"].min()))

    many, little = (ConformalQuantiles(regime="segment").fit(its)["stretch"]["ramp_up"] for its in (frame, few))

    assert 1.0 <= little < many <= LARGEST_STRETCH


def test_the_median_stays_where_the_shifts_put_it() -> None:
    frame = rows(rare=8)
    table = ConformalQuantiles(regime="segment").fit(frame)
    calibrator = ConformalQuantiles(regime="segment")

    with_it, without = (calibrator._shift(frame, its).get_column("q50") for its in (table, {**table, "stretch": {}}))

    assert with_it.to_list() == pytest.approx(without.to_list())


def test_fans_without_an_arm_say_nothing() -> None:
    flat = rows(rare=8).with_columns(
        pl.when(pl.col("segment") == "ramp_up").then(50.0).otherwise(pl.col(name)).alias(name) for name in QUANTILES
    )

    table = ConformalQuantiles(regime="segment", lower=0.0).fit(flat)

    assert all(np.isfinite(value) for value in table["stretch"].values())
