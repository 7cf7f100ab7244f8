"""The tables behind one R: single wells, horizons, intervals, the test on origins, the field's volume, joint paths."""

from __future__ import annotations

import functools
from datetime import datetime
from typing import Any

import numpy as np
import polars as pl
import pytest

from benchmarks.panels import KEYS, dataset, factory, forecasts, generated
from benchmarks.wells_targets import (
    BAD,
    LEAST_ROWS,
    STEADY,
    best_of,
    field_errors,
    horizon_skill,
    interval_rows,
    loss_tests,
    ratio_of,
    show_behind,
    total_coverage,
    wells_alike,
    with_interval,
)
from nightcast.contracts.columns import CUTOFF, HORIZON, ID, QUANTILES, SEGMENT, TARGET, TIME
from nightcast.contracts.frequency import Frequency
from nightcast.contracts.panel import PanelDataset
from nightcast.contracts.recipe import FoldPlan
from nightcast.evaluation.league import series_facts
from nightcast.evaluation.skill import paired

MONTHS = Frequency.parse("MS")
BEGIN = datetime(2020, 1, 1)


def rows_of(errors: dict[str, float], *, origins: int = 14, horizon: int = 6, level: float = 100.0) -> pl.DataFrame:
    """A fan of +-9 around a median that lies `errors` above the outcome, which is the level."""
    rows = [
        {
            ID: name,
            TIME: MONTHS.shift(BEGIN, c + h),
            CUTOFF: MONTHS.shift(BEGIN, c),
            HORIZON: h,
            TARGET: level,
            SEGMENT: STEADY,
            "scale": level,
        }
        | {column: level + error + (k - 4) * 9 / 4 for k, column in enumerate(QUANTILES)}
        for name, error in errors.items()
        for c in range(origins)
        for h in range(1, horizon + 1)
    ]
    return pl.DataFrame(rows, schema_overrides={TIME: pl.Datetime("us"), CUTOFF: pl.Datetime("us")})


def test_the_best_naive_is_best_on_the_rows_that_all_have() -> None:
    ours = rows_of({"a": 1.0, "b": 1.0})
    naive = {"one": rows_of({"a": 3.0, "b": 1.0}), "other": rows_of({"a": 2.0})}

    assert best_of(naive, ours) == "other"  # b is not forecast by all


def test_badly_served_wells_are_counted_and_all_wells_count_alike() -> None:
    naive = rows_of({name: 10.0 for name in "abcd"})
    ours = rows_of({"a": 5.0, "b": 8.0, "c": 9.0, "d": 20.0})

    everything, steady = wells_alike(paired(ours, naive))

    assert steady["wells with R > 1.15"] == "1 of 4 (25.0%)"
    assert steady["R pooled"] == "1.050 (1.050 to 1.050)"
    assert steady["R, mean over wells"].startswith("1.050 (")
    assert steady["R, median over wells"].startswith("0.850 (")
    assert steady["wells with R < 1"] == "3 of 4"
    assert everything["rows of"] == "all"
    assert BAD == 1.15


def test_wells_of_another_regime_or_with_few_rows_do_not_count_as_steady(capsys: pytest.CaptureFixture[str]) -> None:
    ours = rows_of({"a": 5.0, "b": 5.0}).with_columns(
        pl.when(pl.col(ID) == "a").then(pl.lit("ramp_up")).otherwise(SEGMENT).alias(SEGMENT)
    )
    naive = rows_of({"a": 10.0, "b": 10.0})
    found = wells_alike(paired(ours, naive))
    few = paired(ours.filter(pl.col(CUTOFF) == BEGIN), naive)

    assert [table[f"wells with {LEAST_ROWS} rows or more"] for table in found] == [2, 1]
    assert wells_alike(few) == []
    assert "no well has 12 judged rows" in capsys.readouterr().out


def test_skill_per_horizon_is_one_less_the_ratio() -> None:
    pairs = paired(rows_of({"a": 5.0}), rows_of({"a": 10.0}))

    tables = horizon_skill(pairs, rows_of({"a": 20.0}))

    assert [table["horizon"] for table in tables] == [1, 2, 3, 4, 5, 6]
    assert all(table["skill, MAE"] == "0.500 (0.500 to 0.500)" for table in tables)
    assert all(table["skill, MSE"] == pytest.approx(0.75) for table in tables)
    assert all(table["skill, MSE, last value"] == pytest.approx(15 / 16) for table in tables)


def test_coverage_stands_beside_the_naives_with_the_width_over_the_level() -> None:
    ours, naive = rows_of({"a": 5.0, "b": 10.0}), rows_of({"a": 10.0, "b": 10.0})

    tables = interval_rows(paired(ours, naive), naive)

    first = tables[0]
    assert (first["rows"], first["wells"], first["coverage80"]) == (168, 2, "0.500 (0.500 to 0.500)")
    assert first["width / level"] == pytest.approx(0.18)
    assert first["naive's coverage80"] == 0.0
    assert [(table["cut"], table["value"]) for table in tables[1:]] == [
        (SEGMENT, STEADY),
        *((HORIZON, step) for step in range(1, 7)),
    ]


def test_the_test_compares_mean_losses_per_origin() -> None:
    naive = rows_of({"a": 10.0, "b": 10.0})
    noise = np.random.default_rng(1).normal(5, 1, naive.height)
    ours = naive.with_columns(pl.col(name) - 10 + pl.Series(noise) for name in QUANTILES)

    absolute, pinball = loss_tests(paired(ours, naive), naive, overlap=6)

    assert (absolute["origins"], absolute["origins won"], absolute["degrees"]) == (14, 14, 2)
    assert absolute["mean difference"] == pytest.approx(np.abs(noise).mean() - 10)
    assert absolute["p, two-sided"] < 0.05
    assert pinball["mean difference"] < 0


def test_a_naive_that_is_but_a_point_is_not_asked_for_its_fan() -> None:
    ours = rows_of({"a": 5.0})
    point = rows_of({"a": 10.0}).with_columns(pl.col("q50").alias(name) for name in QUANTILES)

    assert [table["loss"] for table in loss_tests(paired(ours, point), point, overlap=6)] == ["absolute error"]
    assert {table["naive's coverage80"] for table in interval_rows(paired(ours, point), point)} == {"-"}


def test_the_fields_error_stands_beside_the_best_naive_field_which_need_not_be_the_best_of_wells() -> None:
    ours = rows_of({"a": 3.0, "b": 3.0})
    naive = {"steady": rows_of({"a": 4.0, "b": 4.0}), "opposed": rows_of({"a": 20.0, "b": -19.0})}
    none = pl.DataFrame(schema={"total": pl.String, CUTOFF: pl.Datetime("us"), "q50": pl.Float64})

    (found,) = field_errors(ours, naive, none, freq=MONTHS)

    assert best_of(naive, ours) == "steady"
    assert found["best naive field"] == "opposed"
    assert found["R"] == "6.000 (6.000 to 6.000)"
    assert found["error / volume"] == pytest.approx(0.03)
    assert found["origins won"] == "0 of 14"


def test_coverage_of_sums_counts_origins_that_do_not_overlap() -> None:
    totals = pl.DataFrame(
        {
            "total": ["field_volume"] * 7,
            CUTOFF: [MONTHS.shift(BEGIN, k) for k in range(7)],
            "q10": 1.0,
            "q50": 2.0,
            "q90": 3.0,
            TARGET: [2.0] * 5 + [5.0] * 2,
        }
    )

    (found,) = total_coverage(totals, overlap=6)

    assert found["within P90 .. P10"] == "5 of 7"
    assert found["coverage80"] == "0.714"  # seven origins are too few for an interval
    assert (found["origins"], found["of them without overlap"]) == (7, 2)


def test_a_ratio_without_an_interval_is_shown_alone() -> None:
    assert with_interval(0.5, None) == "0.500"
    value, text = ratio_of(pl.DataFrame({CUTOFF: [1], "a": [1.0], "b": [0.0]}), pl.col("a"), pl.col("b"))
    assert np.isnan(value)
    assert text == "nan"


# -- the whole report on a small generated field


@functools.cache
def small_field() -> tuple[PanelDataset, dict[str, pl.DataFrame]]:
    config: dict[str, Any] = {"producers": 6, "injectors": 2, "months": 60}
    data = dataset(generated(3, params=config))
    plan = FoldPlan(cutoffs=18, refits=1, step=1, min_train=12)
    parts = {name: forecasts(factory(name, "ci"), data, plan) for name in ("naive_last", "naive_mean3", "ses")}
    facts = series_facts(data, parts["ses"].get_column(CUTOFF).unique().to_list())
    return data, {name: part.join(facts, on=[ID, CUTOFF]) for name, part in parts.items()}


def report(ours: pl.DataFrame, capsys: pytest.CaptureFixture[str]) -> str:
    data, parts = small_field()
    show_behind(ours, parts, data, step=1, field_origins=6, last=parts["naive_last"])
    return capsys.readouterr().out


def test_a_field_is_reported_whole(capsys: pytest.CaptureFixture[str]) -> None:
    text = report(small_field()[1]["ses"], capsys)

    for words in ("Wells beside", "Skill per horizon", "Intervals", "Diebold-Mariano", "The field's volume", "Sums by"):
        assert words in text
    assert "median of joint paths" in text
    assert "wells, volume over the horizon" in text
    assert "no rows" not in text


def test_a_forecast_that_knows_the_outcome_has_no_error_anywhere(capsys: pytest.CaptureFixture[str]) -> None:
    _, parts = small_field()
    known = parts["ses"].with_columns(pl.col(TARGET).alias(name) for name in QUANTILES)
    text = report(known, capsys)

    assert "| steady | " in text
    assert " 0 of " in text.split("Wells beside")[1]
    assert "| sum of the wells' medians | 18 |" in text
    assert "0.000 (0.000 to 0.000)" in text.split("The field's volume")[1]


def test_a_naive_against_itself_is_a_tie(capsys: pytest.CaptureFixture[str]) -> None:
    data, parts = small_field()
    best = best_of(parts, parts["ses"])
    pairs = paired(parts[best], parts[best])

    assert {table["R pooled"].split(" ")[0] for table in wells_alike(pairs)} == {"1.000"}
    assert all(table["p, two-sided"] == 1.0 for table in loss_tests(pairs, parts[best], overlap=6))
    assert data.schema.horizon == 6
    assert set(KEYS) <= set(pairs.columns)
