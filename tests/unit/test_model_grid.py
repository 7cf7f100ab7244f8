"""The dense arrays and the pooled error quantiles that families build on."""

from __future__ import annotations

from datetime import datetime

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from models.grid import answer_frame, grid_of, last_known, level_floor, mean_of_known, steps_since_known
from models.residuals import FEWEST_ERRORS, ErrorQuantiles, learn_error_quantiles
from nightcast.contracts.columns import LEVELS
from nightcast.contracts.panel import PanelView
from nightcast.contracts.schema import PanelSchema

VALUES = hnp.arrays(
    np.float64,
    hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=9),
    elements=st.one_of(st.just(float("nan")), st.floats(-1e6, 1e6, allow_nan=False)),
)


@given(VALUES, st.integers(1, 4))
def test_the_mean_of_known_values_is_what_a_loop_over_each_prefix_says(values: np.ndarray, count: int) -> None:
    result = mean_of_known(values, count)

    for i, j in np.ndindex(values.shape):
        known = [v for v in values[i, : j + 1] if not np.isnan(v)][-count:]
        if known:
            assert result[i, j] == pytest.approx(np.mean(known), rel=1e-12, abs=1e-9)
        else:
            assert np.isnan(result[i, j])


@given(VALUES)
def test_the_last_known_value_never_comes_from_later(values: np.ndarray) -> None:
    result, since = last_known(values), steps_since_known(values)

    for i, j in np.ndindex(values.shape):
        known = [k for k in range(j + 1) if not np.isnan(values[i, k])]
        if known:
            assert result[i, j] == values[i, known[-1]]
            assert since[i, j] == j - known[-1]
        else:
            assert np.isnan(result[i, j])
            assert np.isnan(since[i, j])


def test_zeros_after_a_large_value_have_a_mean_of_exactly_zero() -> None:
    values = np.array([[1e9, 1e-3, 0.0, 0.0, 0.0]])

    assert mean_of_known(values, 3)[0, -1] == 0.0


def test_the_floor_grows_with_the_unit_and_bears_a_panel_of_zeros() -> None:
    values = np.array([[1.0, 3.0], [np.nan, 10.0], [0.0, 0.0]])

    assert level_floor(values, share=0.1) == pytest.approx(0.1 * 6.0)
    assert level_floor(values * 1000, share=0.1) == pytest.approx(1000 * 0.1 * 6.0)
    assert level_floor(np.zeros((2, 3))) == 1.0


def view(rows: list[tuple[str, datetime, float | None]], cutoff: datetime) -> PanelView:
    schema = PanelSchema(freq="MS", horizon=1)
    history = pl.DataFrame(
        rows, schema={"unique_id": pl.String, "ds": pl.Datetime("us"), "y": pl.Float64}, orient="row"
    )
    future = pl.DataFrame(schema={"unique_id": pl.String, "ds": pl.Datetime("us"), "horizon": pl.Int32})
    return PanelView(history, future, cutoff, schema, {})


def test_the_last_column_of_the_grid_is_the_cutoff_also_for_a_series_that_ended_before() -> None:
    rows = [
        ("a", datetime(2020, 1, 1), 1.0),
        ("a", datetime(2020, 2, 1), 2.0),
        ("b", datetime(2020, 3, 1), None),
        ("b", datetime(2020, 4, 1), 4.0),
    ]

    grid = grid_of(view(rows, datetime(2020, 4, 1)))
    short = grid_of(view(rows, datetime(2020, 4, 1)), length=2)

    nan = np.nan
    np.testing.assert_array_equal(grid.y, [[1, 2, nan, nan], [nan, nan, nan, 4]])
    np.testing.assert_array_equal(short.y, [[nan, nan], [nan, 4]])
    assert list(short.rows_of(["b", "a"])) == [1, 0]


def test_the_answer_frame_keeps_each_series_beside_its_own_numbers() -> None:
    values = np.arange(2 * 3 * 9, dtype=float).reshape(2, 3, 9)

    frame = answer_frame(["b", "a"], values)

    row = frame.filter((pl.col("unique_id") == "a") & (pl.col("horizon") == 2))
    assert row["q10"][0] == values[1, 1, 0]
    assert row["q90"][0] == values[1, 1, 8]


@given(
    st.lists(hnp.arrays(np.float64, st.integers(0, 60), elements=st.floats(-5, 5)), min_size=1, max_size=5),
)
def test_error_quantiles_rise_with_the_level_and_are_zero_at_the_median(errors: list[np.ndarray]) -> None:
    learnt = learn_error_quantiles(errors, floor=1.0)

    assert (np.diff(learnt.offsets, axis=1) >= 0).all()
    assert (learnt.offsets[:, LEVELS.index(0.5)] == 0).all()
    assert learnt.counts == tuple(len(values) for values in errors)


def test_pooled_errors_cover_as_their_levels_say() -> None:
    errors = np.random.default_rng(1).normal(0, 2.0, 20_000)

    offsets = learn_error_quantiles([errors], floor=1.0).offsets[0]

    assert ((errors >= offsets[0]) & (errors <= offsets[-1])).mean() == pytest.approx(0.8, abs=0.01)


def test_a_horizon_with_few_errors_borrows_a_shorter_one_widened_by_the_square_root() -> None:
    many = np.linspace(-1, 1, FEWEST_ERRORS)

    learnt = learn_error_quantiles([many, np.array([0.3]), np.empty(0), np.empty(0)], floor=1.0)

    np.testing.assert_allclose(learnt.offsets[3], learnt.offsets[0] * 2.0)


def test_without_any_error_the_interval_is_as_wide_as_the_level() -> None:
    learnt = learn_error_quantiles([np.empty(0)], floor=2.0)

    values = learnt.around(np.array([[10.0], [0.0]]), np.array([10.0, 0.0]))

    assert values[0, 0, 8] == pytest.approx(10 + 1.2816 * 10, abs=1e-2)
    assert values[1, 0, 8] == pytest.approx(1.2816 * 2, abs=1e-2), "the floor holds a zero series"


def test_error_quantiles_survive_json() -> None:
    learnt = learn_error_quantiles([np.linspace(-1, 2, 50), np.empty(0)], floor=0.1)

    again = ErrorQuantiles.from_json(learnt.to_json())

    np.testing.assert_array_equal(again.offsets, learnt.offsets)
    assert (again.floor, again.counts) == (learnt.floor, learnt.counts)
