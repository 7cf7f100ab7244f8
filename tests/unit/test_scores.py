import math
from datetime import datetime

import numpy as np
import polars as pl
import pytest

from nightcast.contracts.columns import QUANTILES
from nightcast.contracts.errors import ConfigError
from nightcast.evaluation import scores
from nightcast.evaluation.scores import METRICS


def rows(y: list[float], q50: list[float], *, spread: float = 0.0, series: list[str] | None = None) -> pl.DataFrame:
    """Out-of-fold rows, one step after cutoff 2024-01-01 + i days, quantiles `q50 + spread * (level - 0.5)`."""
    n = len(y)
    return pl.DataFrame(
        {
            "unique_id": series or ["a"] * n,
            "ds": [datetime(2024, 1, 2 + i) for i in range(n)],
            "cutoff": [datetime(2024, 1, 1 + i) for i in range(n)],
            "horizon": [1] * n,
            **{name: [m + spread * ((i + 1) / 10 - 0.5) for m in q50] for i, name in enumerate(QUANTILES)},
            "y": y,
        }
    )


def test_a_forecast_that_is_too_high_has_positive_bias():
    assert scores.bias(rows([10.0, 30.0], [12.0, 30.0])) == pytest.approx(0.05)
    assert scores.bias(rows([10.0, 30.0], [6.0, 30.0])) == pytest.approx(-0.1)


def test_absolute_errors_are_averaged_and_related_to_the_sum_of_actuals():
    oof = rows([10.0, 0.0, 30.0], [12.0, 1.0, 27.0])

    assert scores.mae(oof) == pytest.approx(2.0)
    assert scores.nmae(oof) == pytest.approx(6 / 40)


def test_pinball_of_a_spike_forecast_is_half_its_absolute_error():
    oof = rows([10.0, 30.0], [12.0, 27.0])

    assert scores.pinball(oof) == pytest.approx(0.5 * scores.mae(oof))


def test_pinball_punishes_a_low_quantile_above_the_actual_more_than_one_below():
    oof = rows([0.0], [0.0])

    too_high, too_low = oof.with_columns(q10=pl.lit(9.0)), oof.with_columns(q10=pl.lit(-9.0))

    assert scores.pinball(too_high) == pytest.approx(0.9)
    assert scores.pinball(too_low) == pytest.approx(0.1)


def test_coverage_counts_the_interval_ends_and_width_is_in_the_targets_unit():
    oof = rows([10.0, 14.0, 14.1], [10.0, 10.0, 10.0], spread=10.0)

    assert scores.coverage(oof) == pytest.approx(2 / 3)
    assert scores.width(oof) == pytest.approx(8.0)
    assert scores.width(oof, low=0.3, high=0.7) == pytest.approx(4.0)
    assert scores.coverage(oof, low=0.3, high=0.7) == pytest.approx(1 / 3)


def test_forecasting_each_series_mean_has_high_pooled_r2_and_no_r2_within():
    oof = rows([9.0, 11.0, 99.0, 101.0], [10.0, 10.0, 100.0, 100.0], series=["a", "a", "b", "b"])

    assert scores.r2_pooled(oof) > 0.99
    assert scores.r2_within(oof) == pytest.approx(0.0)
    assert scores.nse_median(oof) == pytest.approx(0.0)
    assert scores.between_share(oof) == pytest.approx(scores.r2_pooled(oof))


def test_nse_is_one_for_the_truth_and_undefined_for_constant_actuals():
    oof = rows([1.0, 2.0, 3.0, 5.0, 5.0], [1.0, 2.0, 3.0, 4.0, 4.0], series=["a", "a", "a", "flat", "flat"])

    assert scores.nse(oof).rows() == [("a", 1.0), ("flat", None)]
    assert scores.nse_median(oof) == 1.0
    assert scores.nse_share_positive(oof) == 1.0


def test_mase_divides_by_the_naive_error_known_at_the_cutoff_only():
    oof = rows([10.0], [13.0])
    known = pl.DataFrame(
        {"unique_id": ["a"] * 3, "ds": [datetime(2023, 12, d) for d in (29, 30, 31)], "y": [4.0, 6.0, 2.0]}
    )
    future = pl.DataFrame({"unique_id": ["a"], "ds": [datetime(2024, 1, 2)], "y": [900.0]})

    assert scores.mase(oof, history=known) == pytest.approx(3 / 3)
    assert scores.rmsse(oof, history=known) == pytest.approx(3 / math.sqrt((4 + 16) / 2))
    assert scores.mase(oof, history=pl.concat([known, future])) == scores.mase(oof, history=known)


def test_mase_weighs_series_equally_and_floors_the_scale_of_a_flat_one():
    history = pl.DataFrame(
        {
            "unique_id": ["a"] * 3 + ["flat"] * 3,
            "ds": [datetime(2023, 12, d) for d in (29, 30, 31)] * 2,
            "y": [0.0, 10.0, 0.0, 5.0, 5.0, 5.0],
        }
    )
    oof = rows([0.0, 5.0, 5.0], [10.0, 6.0, 6.0], series=["a", "flat", "flat"])

    # a: 10 / 10; flat: 1 / (0.1 x the median scale of the panel, 10)
    assert scores.mase(oof, history=history, floor=0.1) == pytest.approx((1.0 + 1.0) / 2)


def test_a_missing_step_is_no_difference_of_the_naive():
    history = pl.DataFrame(
        {"unique_id": ["a"] * 4, "ds": [datetime(2023, 12, d) for d in (28, 29, 30, 31)], "y": [4.0, None, 9.0, 7.0]}
    )

    assert scores.mase(rows([10.0], [12.0]), history=history) == pytest.approx(1.0)


def test_every_metric_knows_its_direction_and_none_is_a_percentage_of_single_actuals():
    assert METRICS["mae"].better(1.0, 2.0)
    assert METRICS["r2_within"].better(0.2, 0.1)
    assert METRICS["bias"].better(-0.1, 0.2)
    assert METRICS["coverage80"].better(0.75, 0.9)
    assert not METRICS["mae"].better(1.0, 1.0)
    assert not METRICS["mae"].better(math.nan, 5.0)
    assert METRICS["mae"].better(5.0, math.nan)
    assert not any("mape" in name for name in METRICS)


def test_a_better_forecast_is_better_by_every_accuracy_metric():
    rng = np.random.default_rng(3)
    y = rng.normal(50, 10, 20)
    good, bad = rows(y.tolist(), (y + 1).tolist()), rows(y.tolist(), (y + 9).tolist())
    for name in ("mae", "nmae", "bias", "r2_pooled", "r2_within", "nse_median", "pinball"):
        metric = METRICS[name]
        assert metric.better(metric.function(good), metric.function(bad)), name


def test_scores_of_no_rows_are_undefined_and_unknown_outcomes_are_refused():
    empty = rows([1.0], [1.0]).clear()

    assert math.isnan(scores.mae(empty))
    assert math.isnan(scores.nmae(rows([0.0], [1.0])))
    with pytest.raises(ConfigError, match="1 out-of-fold rows have no actual"):
        scores.mae(rows([1.0, 2.0], [1.0, 2.0]).with_columns(y=pl.Series([1.0, None])))
    with pytest.raises(ConfigError, match=r"lack the columns \['q50'\]"):
        scores.mae(rows([1.0], [1.0]).drop("q50"))


def test_a_well_in_its_first_month_is_scaled_by_its_own_level():
    history = pl.DataFrame(
        {
            "unique_id": ["a"] * 3 + ["b"],
            "ds": [datetime(2023, m, 1) for m in (10, 11, 12)] + [datetime(2023, 12, 1)],
            "y": [1.0, 2.0, 1.0, 500.0],
        }
    )
    young = rows([450.0], [500.0]).with_columns(unique_id=pl.lit("b"))

    assert scores.mase(young, history=history) == pytest.approx(50 / (scores.OWN_FLOOR * 500))
