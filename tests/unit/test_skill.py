"""Skill against a naive: single series, intervals by origins, the test on origins, totals by medians and by paths."""

from __future__ import annotations

import math
from datetime import datetime
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from nightcast.contracts.columns import CUTOFF, HORIZON, ID, MEDIAN, QUANTILES, TARGET, TIME
from nightcast.contracts.errors import ConfigError
from nightcast.contracts.frequency import Frequency
from nightcast.evaluation.skill import (
    BASE,
    diebold_mariano,
    paired,
    path_totals,
    per_origin,
    ratio_interval,
    series_interval,
    series_ratios,
    total_volumes,
)

MONTHS = Frequency.parse("MS")
BEGIN = datetime(2020, 1, 1)
NORMAL = np.array([-1.2816, -0.8416, -0.5244, -0.2533, 0.0, 0.2533, 0.5244, 0.8416, 1.2816])


def fan(
    wells: dict[str, float], off: np.ndarray, *, spread: float = 0.1, begin: datetime = BEGIN, median_off: float = 0.0
) -> pl.DataFrame:
    """Rows of monthly origins whose outcomes lie `off` [origins, wells, horizon] spreads above the level."""
    origins, count, horizon = off.shape
    assert count == len(wells)
    rows = [
        {
            ID: name,
            TIME: MONTHS.shift(begin, c + h),
            CUTOFF: MONTHS.shift(begin, c),
            HORIZON: h,
            TARGET: level * (1 + spread * off[c, w, h - 1]),
        }
        | dict(zip(QUANTILES, (level * (1 + spread * (NORMAL + median_off))).tolist(), strict=True))
        for c in range(origins)
        for w, (name, level) in enumerate(wells.items())
        for h in range(1, horizon + 1)
    ]
    types = {TIME: pl.Datetime("us"), CUTOFF: pl.Datetime("us"), HORIZON: pl.Int32}
    return pl.DataFrame(rows, schema_overrides=types)


def pairs_of(own: dict[str, list[float]], base: dict[str, list[float]]) -> pl.DataFrame:
    """Paired rows around outcomes of 100 with the errors given."""
    rows = [
        {ID: name, MEDIAN: 100 + error, BASE: 100 + other, TARGET: 100.0}
        for name, errors in own.items()
        for error, other in zip(errors, base[name], strict=True)
    ]
    return pl.DataFrame(rows)


# -- pairs and single series


def test_only_rows_of_both_are_paired_and_the_naive_keeps_its_own_median() -> None:
    ours = fan({"a": 100.0, "b": 50.0}, np.zeros((2, 2, 3)))
    naive = fan({"a": 100.0}, np.zeros((3, 1, 2)), median_off=1.0)

    pairs = paired(ours, naive)

    assert pairs.height == 4  # well a, two origins, two months
    assert pairs[MEDIAN].to_list() == [100.0] * 4
    assert pairs[BASE].to_list() == pytest.approx([110.0] * 4)


def test_rows_of_two_models_are_not_paired() -> None:
    ours = fan({"a": 100.0}, np.zeros((2, 1, 3)))

    with pytest.raises(ConfigError, match="twice"):
        paired(pl.concat([ours, ours]), ours)
    with pytest.raises(ConfigError, match="share no row"):
        paired(ours, fan({"b": 100.0}, np.zeros((2, 1, 3))))


def test_each_well_has_its_own_ratio_and_short_ones_none() -> None:
    found = series_ratios(
        pairs_of(
            {"good": [1.0, -1.0], "bad": [6.0, -6.0], "short": [1.0]}, {"good": [2, 2], "bad": [4, 4], "short": [1]}
        ),
        least_rows=2,
    )

    assert found[ID].to_list() == ["bad", "good"]
    assert found["ratio"].to_list() == pytest.approx([1.5, 0.5])
    assert found["rows"].to_list() == [2, 2]


def test_a_naive_without_error_counts_against_whoever_errs() -> None:
    found = series_ratios(pairs_of({"both": [0.0], "ours": [1.0]}, {"both": [0.0], "ours": [0.0]}), least_rows=1)

    assert found["ratio"].to_list() == [1.0, math.inf]


# -- intervals


def test_sums_per_origin_stand_in_the_order_of_time() -> None:
    rows = pl.DataFrame({CUTOFF: [3, 1, 3], "a": [1.0, 2.0, 4.0], "b": [True, True, False]})

    assert per_origin(rows, pl.col("a"), pl.col("b")).tolist() == [[2.0, 1.0], [5.0, 1.0]]


def test_a_ratio_that_is_the_same_at_every_origin_has_no_width() -> None:
    sums = np.array([[0.8 * k, k] for k in range(1, 19)], dtype=float)

    assert ratio_interval(sums) == pytest.approx((0.8, 0.8))


def test_an_interval_needs_two_blocks_of_origins_and_something_to_divide_by() -> None:
    assert ratio_interval(np.ones((11, 2))) is None
    assert ratio_interval(np.ones((12, 2))) is not None
    assert ratio_interval(np.column_stack([np.ones(12), np.zeros(12)])) is None
    assert series_interval(np.ones(1)) is None


def test_errors_that_last_over_origins_widen_the_interval() -> None:
    rng = np.random.default_rng(4)
    chance = 1 + 0.3 * rng.standard_normal(60)
    lasting = 1 + 0.3 * np.repeat(rng.standard_normal(10), 6)
    widths = []
    for values in (chance, lasting):
        interval = ratio_interval(np.column_stack([values, np.ones(60)]))
        assert interval is not None
        widths.append(interval[1] - interval[0])

    assert widths[1] > 1.5 * widths[0]


def test_the_mean_over_wells_of_a_few_bad_ones_is_wider_than_the_median() -> None:
    values = np.r_[np.full(28, 0.9), 3.0, 4.0]
    mean, median = series_interval(values), series_interval(values, median=True)

    assert mean is not None
    assert median == (0.9, 0.9)
    assert mean[0] < values.mean() < mean[1]


# -- the test on origins


def moving_sums(seed: int, origins: int, over: int) -> np.ndarray:
    return np.convolve(np.random.default_rng(seed).standard_normal(origins + over - 1), np.ones(over), "valid")


@pytest.mark.parametrize(("over", "most"), [(1, 0.13), (6, 0.18)])
def test_chance_alone_is_seldom_called_a_difference(over: int, most: float) -> None:
    """At the 10 % level, 18 origins; the variance of Newey and West would call 37 % of the moving sums one."""
    found = [diebold_mariano(moving_sums(seed, 18, over), horizon=6).p < 0.1 for seed in range(1000)]

    assert 0.06 < np.mean(found) < most


def test_a_difference_at_every_origin_is_found() -> None:
    found = [diebold_mariano(moving_sums(seed, 60, 6) - 12.0, horizon=6) for seed in range(50)]

    assert np.mean([test.p < 0.1 for test in found]) > 0.9
    assert all(test.statistic < 0 and test.degrees == 6 for test in found)


def test_the_statistic_of_a_known_series() -> None:
    # Two values in turn with a slow wave: the first ordinate of 12 origins is that of the wave alone.
    wave = np.cos(2 * np.pi * np.arange(12) / 12)
    test = diebold_mariano(0.5 + wave, horizon=6)

    # |sum wave e^(-iwt)|^2 / 12 = (12 / 2)^2 / 12 = 3, so the error of the mean is sqrt(3 / 12) = 0.5.
    assert test.difference == pytest.approx(0.5)
    assert test.statistic == pytest.approx(1.0)
    assert test.degrees == 2
    assert test.p == pytest.approx(0.42264973)  # of t = 1 at two degrees: 1 - 1 / sqrt(3)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.floats(-100, 100, allow_subnormal=False), min_size=3, max_size=40),
    st.floats(0.01, 100),
    st.integers(1, 12),
)
def test_the_test_does_not_depend_on_units_nor_on_who_comes_first(
    values: list[float], unit: float, horizon: int
) -> None:
    one = diebold_mariano(np.round(values, 3), horizon=horizon)
    scaled = diebold_mariano(-unit * np.round(values, 3), horizon=horizon)

    assert scaled.difference == pytest.approx(-unit * one.difference, abs=1e-9 * unit)
    if math.isfinite(one.statistic) and math.isfinite(scaled.statistic):
        assert scaled.statistic == pytest.approx(-one.statistic, rel=1e-6, abs=1e-9)
        assert scaled.p == pytest.approx(one.p, rel=1e-6, abs=1e-9)


def test_equal_forecasts_do_not_differ_and_a_constant_gap_surely_does() -> None:
    assert diebold_mariano(np.zeros(18), horizon=6).p == 1.0
    constant = diebold_mariano(np.full(18, -2.0), horizon=6)
    assert (constant.statistic, constant.p) == (-math.inf, 0.0)


def test_two_origins_tell_nothing() -> None:
    test = diebold_mariano(np.array([1.0, 2.0]), horizon=6)

    assert test.difference == 1.5
    assert math.isnan(test.p)


@pytest.mark.parametrize(
    ("values", "horizon", "words"), [([1.0, math.nan, 2.0], 6, "1 of 3"), ([1.0, 2.0, 3.0], 0, "0")]
)
def test_what_cannot_be_tested_is_refused(values: list[float], horizon: int, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        diebold_mariano(np.array(values), horizon=horizon)


# -- totals


def test_the_fields_volume_counts_the_days_of_its_months() -> None:
    rows = fan({"a": 100.0, "b": 10.0}, np.zeros((1, 2, 2)))  # February and March 2020

    volumes = total_volumes(rows, freq=MONTHS)

    assert volumes["forecast"].to_list() == pytest.approx([110 * (29 + 31)])
    assert volumes["actual"].to_list() == pytest.approx([110 * (29 + 31)])


def test_a_well_with_an_unknown_month_is_in_neither_total() -> None:
    rows = fan({"a": 100.0, "b": 10.0}, np.zeros((2, 2, 2)))
    lost = (pl.col(ID) == "b") & (pl.col(CUTOFF) == BEGIN) & (pl.col(HORIZON) == 2)

    volumes = total_volumes(rows.with_columns(pl.when(~lost).then(TARGET).alias(TARGET)), freq=MONTHS)

    assert volumes["series"].to_list() == [1, 2]
    assert volumes["forecast"][0] == pytest.approx(100 * (29 + 31))


def chance(origins: int, wells: int, horizon: int = 3, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((origins, wells, horizon))


WELLS = {"a": 100.0, "b": 60.0, "c": 30.0}


def totals(rows: pl.DataFrame, **options: Any) -> pl.DataFrame:
    return path_totals(rows, freq=MONTHS, lower=0.0, **{"origins": 4, "draws": 300} | options)


def test_paths_give_the_field_by_month_and_volumes_of_field_and_wells() -> None:
    found = totals(fan(WELLS, chance(12, 3)))

    counted = dict(found.group_by("total").len().iter_rows())
    origins = 12 - 3 - 4 + 1  # four must have closed, three months before
    assert counted == {"field_rate": 3 * origins, "field_volume": origins, "well_volume": 3 * origins}
    assert set(found.filter(pl.col("total") == "well_volume")["name"]) == set(WELLS)
    assert found[TARGET].null_count() == 0


def test_paths_of_an_origin_know_no_outcome_that_came_later() -> None:
    rows = fan(WELLS, chance(12, 3))
    first = totals(rows)[CUTOFF].min()
    later = rows.with_columns(
        pl.when(pl.col(TIME) > first).then(pl.col(TARGET) * 3 + 7).otherwise(TARGET).alias(TARGET)
    )

    before, after = (
        totals(frame).filter(pl.col(CUTOFF) == first).select("total", "name", *QUANTILES) for frame in (rows, later)
    )

    assert before.height == 7
    assert_frame_equal(before, after)


def test_volumes_of_independent_wells_are_covered_about_as_often_as_said() -> None:
    wells = {f"w{i:02d}": 50.0 + i for i in range(12)}
    found = totals(fan(wells, chance(40, 12, seed=3)), origins=8)
    inside = pl.col(TARGET).is_between("q10", "q90")
    share = dict(found.group_by("total").agg(inside.mean()).iter_rows())

    assert 0.7 < share["well_volume"] < 0.9
    assert 0.65 < share["field_volume"] <= 1.0


def test_too_few_closed_origins_give_no_totals() -> None:
    assert totals(fan(WELLS, chance(5, 3)), origins=8).is_empty()
