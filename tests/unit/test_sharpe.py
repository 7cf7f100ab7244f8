"""Statistics of Sharpe ratios against published numbers and known laws."""

from __future__ import annotations

import math

import numpy as np
import pytest

from nightcast.contracts.errors import ConfigError
from nightcast.evaluation.sharpe import (
    bootstrap_error,
    deflated_sharpe,
    effective_trials,
    expected_max_sharpe,
    join_days,
    min_track_record,
    moments,
    newey_west_error,
    pbo_cscv,
    probabilistic_sharpe,
    zero_skill_probability,
)


def test_the_published_example_of_the_deflated_sharpe_ratio() -> None:
    """Bailey and Lopez de Prado (2014): annual ratio 2.5 in five years of days, 100 trials, skew -3, kurtosis 10."""
    spread = math.sqrt(0.5 / 250)
    assert expected_max_sharpe(spread, 100) == pytest.approx(0.1132, abs=5e-5)
    found = deflated_sharpe(2.5 / math.sqrt(250), 1250, -3, 10, spread=spread, trials=100)
    assert found == pytest.approx(0.9004, abs=5e-5)


@pytest.mark.parametrize(
    ("years", "one", "three", "four"), [(1, 0.38, 0.63, 0.69), (2, 0.34, 0.58, 0.63), (5, 0.25, 0.46, 0.52)]
)
def test_how_often_no_skill_looks_like_skill(years: float, one: float, three: float, four: float) -> None:
    found = [zero_skill_probability(years, horizons) for horizons in (1, 3, 4)]
    assert found == pytest.approx([one, three, four], abs=0.006)


def test_the_chance_of_a_lucky_horizon_agrees_with_a_simulation() -> None:
    rng = np.random.default_rng(0)
    common, own = rng.normal(size=200_000), rng.normal(size=(200_000, 3))
    best = (math.sqrt(0.5) * common[:, None] + math.sqrt(0.5) * own).max(axis=1)
    assert zero_skill_probability(1, 3) == pytest.approx(float((best > 0.3).mean()), abs=0.005)


def test_a_probabilistic_ratio_is_even_at_its_benchmark_and_grows_with_the_record() -> None:
    assert probabilistic_sharpe(0.1, 500, benchmark=0.1) == pytest.approx(0.5)
    assert probabilistic_sharpe(0.1, 1000) > probabilistic_sharpe(0.1, 100) > 0.5
    assert probabilistic_sharpe(-0.1, 1000) < 0.5


def test_fat_tails_and_losses_lower_the_probability() -> None:
    plain = probabilistic_sharpe(0.1, 500)
    assert probabilistic_sharpe(0.1, 500, skew=-2.0) < plain
    assert probabilistic_sharpe(0.1, 500, kurtosis=12.0) < plain


def test_the_least_record_is_where_the_probability_reaches_the_confidence() -> None:
    needed = min_track_record(0.1, -1.0, 6.0)
    assert probabilistic_sharpe(0.1, math.ceil(needed), -1.0, 6.0) >= 0.95
    assert probabilistic_sharpe(0.1, math.floor(needed) - 1, -1.0, 6.0) < 0.95
    assert min_track_record(-0.1) == math.inf


def test_one_trial_deflates_nothing_and_more_trials_deflate_more() -> None:
    assert expected_max_sharpe(0.1, 1) == 0.0
    assert expected_max_sharpe(0.1, 10) < expected_max_sharpe(0.1, 1000)


def test_effective_trials_count_copies_once() -> None:
    rng = np.random.default_rng(1)
    noise = rng.normal(size=(4000, 5))
    assert effective_trials(noise) == pytest.approx(5, rel=0.02)
    assert effective_trials(np.repeat(noise[:, :1], 5, axis=1)) == pytest.approx(1)
    assert effective_trials(np.zeros((100, 3))) == 1


def test_overfitting_of_noise_is_about_even_and_a_true_edge_is_not_overfitting() -> None:
    rng = np.random.default_rng(2)
    noise = [pbo_cscv(rng.normal(size=(800, 50)), max_splits=200, seed=seed) for seed in range(12)]
    assert float(np.mean(noise)) == pytest.approx(0.5, abs=0.1)
    edge = rng.normal(size=(800, 50))
    edge[:, 17] += 0.25
    assert pbo_cscv(edge, max_splits=200) < 0.05


def test_a_record_too_short_for_its_blocks_is_refused_with_the_numbers() -> None:
    with pytest.raises(ConfigError, match="2 strategies over 20 periods in 16 blocks"):
        pbo_cscv(np.zeros((20, 2)))
    with pytest.raises(ConfigError, match="1 strategies"):
        pbo_cscv(np.zeros((100, 1)))


def test_the_errors_of_independent_returns_are_the_textbook_one() -> None:
    rng = np.random.default_rng(3)
    returns = rng.normal(0.05, 1, 2000)
    textbook = 1 / math.sqrt(2000)
    assert newey_west_error(returns) == pytest.approx(textbook, rel=0.15)
    assert bootstrap_error(returns) == pytest.approx(textbook, rel=0.15)


def test_the_error_grows_where_returns_follow_one_another() -> None:
    rng = np.random.default_rng(4)
    shocks = rng.normal(size=4001)
    smooth = shocks[1:] + 0.8 * shocks[:-1]
    assert newey_west_error(smooth, lags=10) > 1.15 / math.sqrt(4000)
    assert bootstrap_error(smooth, block=20) > 1.15 / math.sqrt(4000)


def test_returns_without_variation_have_no_ratio() -> None:
    assert moments(np.zeros(10)) == (0.0, 10, 0.0, 3.0)


def test_records_are_joined_by_day_and_idle_days_are_zero() -> None:
    days = np.array(["2024-01-01", "2024-01-02", "2024-01-03"], dtype="datetime64[D]")
    joined = join_days([(days[:2], np.array([0.1, 0.2])), (days[1:], np.array([0.3, 0.4]))])
    assert joined.tolist() == [[0.1, 0.0], [0.2, 0.3], [0.0, 0.4]]


@pytest.mark.parametrize("seed", range(3))
def test_the_ratios_are_those_of_skfolio(seed: int) -> None:
    from skfolio import measures

    rng = np.random.default_rng(seed)
    returns, tried = 0.0008 + 0.01 * rng.standard_t(4, 750), rng.normal(0, 0.02, 40)
    own, spread = moments(returns), float(tried.std(ddof=1))
    assert probabilistic_sharpe(*own) == pytest.approx(measures.probabilistic_sharpe_ratio(returns), abs=1e-12)
    assert expected_max_sharpe(spread, 40) == pytest.approx(measures.expected_max_sharpe_ratio(40, spread), abs=1e-12)
    deflated = measures.deflated_sharpe_ratio(returns, tried - tried.mean())
    assert deflated_sharpe(*own, spread=spread, trials=40) == pytest.approx(deflated, abs=1e-12)
