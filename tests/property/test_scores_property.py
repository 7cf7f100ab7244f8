from datetime import datetime

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nightcast.contracts.columns import QUANTILES
from nightcast.evaluation import scores
from nightcast.evaluation.scores import METRICS


def panel(seed: int, series: int, origins: int) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    n = series * origins
    y = rng.gamma(2.0, 20.0, n)
    q = np.sort(y[:, None] + rng.normal(0, 10, (n, len(QUANTILES))), axis=1)
    return pl.DataFrame(
        {
            "unique_id": [f"s{i % series}" for i in range(n)],
            "ds": [datetime(2024, 1, 2 + i // series) for i in range(n)],
            "cutoff": [datetime(2024, 1, 1 + i // series) for i in range(n)],
            "horizon": [1] * n,
            **{name: q[:, i] for i, name in enumerate(QUANTILES)},
            "y": y,
        }
    )


frames = st.builds(panel, st.integers(0, 10_000), st.integers(1, 5), st.integers(2, 12))
plain = [metric for metric in METRICS.values() if not metric.needs_history]


@settings(max_examples=40, deadline=None)
@given(oof=frames, factor=st.floats(0.01, 1000))
def test_pure_numbers_ignore_the_unit_and_others_scale_with_it(oof: pl.DataFrame, factor: float):
    scaled = oof.with_columns(pl.col(*QUANTILES, "y") * factor)
    for metric in plain:
        expected = metric.function(oof) * (factor if metric.unit == "target" else 1)
        assert metric.function(scaled) == pytest.approx(expected, rel=1e-6, abs=1e-6), metric.name


@settings(max_examples=25, deadline=None)
@given(oof=frames, seed=st.integers(0, 100))
def test_the_order_of_rows_does_not_matter(oof: pl.DataFrame, seed: int):
    shuffled = oof.sample(fraction=1, shuffle=True, seed=seed)
    for metric in plain:
        assert metric.function(shuffled) == pytest.approx(metric.function(oof), nan_ok=True), metric.name


@settings(max_examples=25, deadline=None)
@given(oof=frames)
def test_the_truth_cannot_be_beaten(oof: pl.DataFrame):
    truth = oof.with_columns(pl.col("y").alias(name) for name in QUANTILES)
    assert scores.mae(truth) == scores.pinball(truth) == scores.bias(truth) == scores.width(truth) == 0
    assert scores.coverage(truth) == scores.r2_pooled(truth) == 1
    assert scores.pinball(oof) >= 0


@settings(max_examples=25, deadline=None)
@given(oof=frames)
def test_pooled_r2_is_within_r2_seen_through_the_variance_between_series(oof: pl.DataFrame):
    within, share = scores.r2_within(oof), scores.between_share(oof)
    assert 1 - scores.r2_pooled(oof) == pytest.approx((1 - within) * (1 - share))


@settings(max_examples=25, deadline=None)
@given(oof=frames)
def test_wider_levels_cover_more(oof: pl.DataFrame):
    covered = [scores.coverage(oof, low=low, high=round(1 - low, 1)) for low in (0.4, 0.3, 0.2, 0.1)]
    assert covered == sorted(covered)
