"""Guards around a fit: samples a feature, collapse to one class, memory."""

from __future__ import annotations

import math
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.pipeline import FoldPipeline
from nightcast.contracts.errors import ConfigError
from nightcast.evaluation.guards import (
    FAMILIES,
    GIB,
    available_memory_gib,
    collapse_alarm,
    max_features,
    memory_estimate,
    memory_guard,
    sample_feature_guard,
)

PRIOR = (0.2831, 0.3386, 0.3783)
"""Shares of sell, hold and buy labels of the specification's example."""


# -- samples a feature -------------------------------------------------------------------------------------------------


def test_the_bound_on_features_meets_the_table_and_runs_straight_between() -> None:
    sizes = (50_000, 75_000, 100_000, 150_000, 200_000, 350_000, 500_000, 2_000_000)

    assert [max_features(n) for n in sizes] == [100, 150, 200, 300, 400, 450, 500, 500]
    # few samples: the ratio of 10 to 1 binds first
    assert [max_features(n) for n in (0, 99, 500, 5000)] == [0, 9, 50, 100]


@given(samples=st.integers(0, 10**6), features=st.integers(1, 1000))
def test_the_guard_passes_exactly_within_both_bounds(samples: int, features: int) -> None:
    guard = sample_feature_guard(samples, features)

    assert guard.value == samples / features
    assert guard.passed == (samples >= 10 * features and features <= max_features(samples))


def test_the_guard_says_which_numbers_it_holds_and_when_more_would_be_better() -> None:
    enough, few, many = (
        sample_feature_guard(281_060, 100),
        sample_feature_guard(900, 60),
        sample_feature_guard(50_000, 101),
    )

    assert enough.passed
    assert "better" not in enough.limit
    assert few.passed
    assert "20 a feature would be better" in few.limit
    assert not many.passed
    assert "at most 100 features for 50000 samples" in many.limit
    assert not sample_feature_guard(599, 60).passed


@pytest.mark.parametrize(("samples", "features", "words"), [(10, 0, "features=0"), (-1, 3, "samples=-1")])
def test_a_count_that_is_none_is_refused(samples: int, features: int, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        sample_feature_guard(samples, features)


# -- collapse ----------------------------------------------------------------------------------------------------------


def predicted(shares: tuple[float, ...], rows: int = 1000) -> np.ndarray:
    """Probabilities whose argmax falls on the classes in these shares."""
    classes = np.repeat(np.arange(3), [round(share * rows) for share in shares])
    return np.full((rows, 3), 0.25) + 0.25 * np.eye(3)[classes]


def test_ninety_five_percent_buys_set_the_alarm_off_and_forty_thirty_thirty_do_not() -> None:
    collapsed = collapse_alarm(predicted((0.01, 0.04, 0.95)), PRIOR)
    balanced = collapse_alarm(predicted((0.30, 0.30, 0.40)), PRIOR)
    other_way = collapse_alarm(predicted((0.40, 0.30, 0.30)), PRIOR)

    assert collapsed.fired
    assert collapsed.shares == pytest.approx((0.01, 0.04, 0.95))
    expected = 0.95 * math.log(0.95 / 0.3783) + 0.04 * math.log(0.04 / 0.3386) + 0.01 * math.log(0.01 / 0.2831)
    assert collapsed.divergence == pytest.approx(expected)
    assert "long 95% (prior 38%)" in collapsed.detail
    assert not balanced.fired
    assert not other_way.fired
    assert max(balanced.divergence, other_way.divergence) < 0.05


def test_one_class_alone_diverges_by_the_log_of_its_prior_and_has_no_entropy() -> None:
    report = collapse_alarm(predicted((0.0, 0.0, 1.0)), PRIOR)

    assert report.divergence == pytest.approx(-math.log(0.3783))
    assert report.entropy == 0
    assert collapse_alarm(predicted((0.334, 0.333, 0.333)), PRIOR).entropy == pytest.approx(math.log(3), abs=1e-5)


def test_calibrated_probabilities_that_never_lead_elsewhere_show_in_the_mean() -> None:
    report = collapse_alarm(np.tile(PRIOR, (100, 1)), PRIOR)

    assert report.shares == (0.0, 0.0, 1.0)
    assert report.fired
    assert report.mean_divergence == pytest.approx(0, abs=1e-12)
    assert report.mean == pytest.approx(PRIOR)


@given(st.lists(st.floats(0.01, 1), min_size=3, max_size=3), st.integers(0, 2**31))
def test_the_divergence_is_never_negative_and_nil_only_at_the_prior(prior: list[float], seed: int) -> None:
    probs = np.random.default_rng(seed).dirichlet([1, 1, 1], size=40)
    report = collapse_alarm(probs, prior)
    own = collapse_alarm(probs, np.maximum(report.shares, 1e-9))

    assert report.divergence >= 0
    assert own.divergence == pytest.approx(0, abs=1e-6)
    assert sum(report.shares) == pytest.approx(1)


@pytest.mark.parametrize(
    ("probs", "prior", "words"),
    [
        (np.ones((4, 2)) / 2, PRIOR, r"shape \(4, 2\)"),
        (np.ones((0, 3)), PRIOR, r"shape \(0, 3\)"),
        (np.ones((4, 3)), PRIOR, "row sums reach from 3 to 3"),
        (np.full((4, 3), np.nan), PRIOR, "12 probabilities are not finite"),
        (np.ones((4, 3)) / 3, (0.5, 0.5, 0.0), r"prior of \[0.5, 0.5, 0.0\]"),
        (np.ones((4, 3)) / 3, (0.5, 0.5), r"prior of shape \(2,\)"),
    ],
)
def test_what_is_no_probability_is_named(probs: np.ndarray, prior: tuple[float, ...], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        collapse_alarm(probs, prior)


# -- memory ------------------------------------------------------------------------------------------------------------


def test_the_base_of_281060_rows_is_a_sixtieth_of_its_windows() -> None:
    estimate = memory_estimate("rnn", 281_060, 25, window=60, params=150_000)

    # 28 MB of features, held twice; materialised windows would be 1.69 GB
    assert estimate.base * GIB == pytest.approx(2 * 28.1e6, rel=0.01)
    assert estimate.total < 1.2


def test_declared_arrays_are_what_the_pipeline_allocates() -> None:
    rows, features = 40_000, 30
    estimate = memory_estimate("classical", rows, features)
    tracemalloc.start()
    base = np.random.default_rng(0).normal(size=(rows, features)).astype(np.float32)
    tracemalloc.reset_peak()
    pipeline = FoldPipeline(scaling="standard").fit(base, np.arange(rows), tuple(map(str, range(features))))
    fitted = tracemalloc.get_traced_memory()[1]
    scaled = pipeline.transform(base)
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()

    assert base.nbytes + scaled.nbytes == pytest.approx(estimate.base * GIB)
    assert held == pytest.approx(estimate.base * GIB, rel=0.1)
    assert fitted - base.nbytes == pytest.approx(estimate.preparation * GIB, rel=0.25)


def test_attention_grows_with_the_square_of_the_window_and_recurrence_with_the_window() -> None:
    def batch(family: str, window: int) -> float:
        return (
            memory_estimate(family, 10_000, 20, window=window, params=400_000, batch=64, layers=3, heads=8).batch * GIB
        )

    linear = {window: batch("rnn", window) for window in (128, 256)}
    assert linear[256] == pytest.approx(2 * linear[128])
    # doubling the window leaves twice the linear part behind, and of the scores twice their old size more
    scores = batch("transformer", 256) - 2 * batch("transformer", 128)
    assert scores == pytest.approx(2 * 8 * 64 * 3 * 8 * 128**2)


def test_adams_state_and_the_best_checkpoint_count_five_times_the_weights() -> None:
    small = memory_estimate("neural", 1000, 10, window=8, params=1_000_000)
    large = memory_estimate("neural", 1000, 10, window=8, params=3_000_000)

    assert (large.model - small.model) * GIB == pytest.approx(20 * 2_000_000)


def test_trees_and_tables_need_no_accelerator_and_networks_do() -> None:
    for family, layout in FAMILIES.items():
        estimate = memory_estimate(family, 50_000, 60, window=32, params=200_000, horizons=3)

        assert (estimate.device > 0) == (layout in ("network", "attention"))
        parts = (estimate.runtime, estimate.base, estimate.preparation, estimate.model, estimate.batch)
        assert max(parts) <= estimate.total <= sum(parts)


@given(
    family=st.sampled_from(sorted(FAMILIES)),
    rows=st.integers(1, 10**6),
    features=st.integers(1, 300),
    window=st.integers(1, 512),
    params=st.integers(1, 10**7),
    name=st.sampled_from(["rows", "features", "window", "params", "batch", "layers", "horizons"]),
)
def test_more_of_anything_never_needs_less(
    family: str, rows: int, features: int, window: int, params: int, name: str
) -> None:
    sizes = {"rows": rows, "features": features, "window": window, "params": params}
    more = {"batch": 256, "layers": 2, "horizons": 1} | sizes

    one = memory_estimate(family, **more)
    other = memory_estimate(family, **(more | {name: 2 * more[name]}))
    assert other.total >= one.total


def test_a_fit_that_does_not_fit_is_stopped_before_it_starts() -> None:
    estimate = memory_estimate("transformer", 281_060, 50, window=128, params=500_000, batch=256, layers=3)

    assert memory_guard(estimate, available_gib=64).passed
    short = memory_guard(estimate, available_gib=1)
    assert not short.passed
    assert short.limit == "at most 0.8 GiB, 80% of the 1.0 GiB available"
    assert short.value == estimate.total
    ceiling = memory_guard(estimate, available_gib=64, limit_gib=0.5)
    assert not ceiling.passed
    assert "limits.memory_gib" in ceiling.limit
    assert memory_guard(memory_estimate("baseline", 10, 2)).passed


def test_a_containers_limit_counts_where_it_leaves_less_than_the_machine(tmp_path: Path) -> None:
    machine = available_memory_gib(tmp_path)
    (tmp_path / "memory.current").write_text(f"{2**20}\n")
    (tmp_path / "memory.max").write_text("max\n")

    assert available_memory_gib(tmp_path) == pytest.approx(machine, rel=0.2)
    (tmp_path / "memory.max").write_text(f"{3 * 2**20}\n")
    assert available_memory_gib(tmp_path) * GIB == 2 * 2**20


@pytest.mark.parametrize(
    ("ask", "words"),
    [
        (lambda: memory_estimate("magic", 10, 2), "unknown family 'magic'"),
        (lambda: memory_estimate("rnn", 10, 2), "rnn model of 0 weights"),
        (lambda: memory_estimate("boosting", 0, 2), "rows=0"),
        (lambda: memory_estimate("boosting", 10, 2, batch=0), "batch=0"),
        (lambda: memory_guard(memory_estimate("boosting", 10, 2), share=0), "share=0"),
    ],
)
def test_what_cannot_be_estimated_is_named(ask: object, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        ask()  # type: ignore[operator]


def test_every_family_of_the_catalog_has_an_estimate() -> None:
    from models.classifiers import CLASSIFIERS

    assert {entry.family for entry in CLASSIFIERS.values()} <= set(FAMILIES)
