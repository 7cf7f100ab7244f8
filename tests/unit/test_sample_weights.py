"""Sample weights by hand: who shares which bar, how weights fade, and what a clear label is."""

from __future__ import annotations

import numpy as np
import pytest

from nightcast.contracts.errors import ConfigError, TrainingError
from nightcast.features.weights import (
    TIERS,
    concurrency,
    quality_tier,
    return_attribution,
    sample_weights,
    sequential_bootstrap,
    tier_weights,
    time_decay,
    uniqueness,
)

TIMES = np.datetime64("2024-01-01", "us") + np.arange(20) * np.timedelta64(1, "h")


def test_a_label_looks_at_the_bars_after_its_decision_up_to_its_end() -> None:
    assert concurrency([0, 1], [2, 3], 6).tolist() == [0, 1, 2, 1, 1, 0]


def test_uniqueness_is_the_mean_share_of_the_bars() -> None:
    assert uniqueness([0, 1, 10], [2, 3, 1], 12) == pytest.approx([(1 + 1 / 2) / 2, (1 / 2 + 1 + 1) / 3, 1.0])


def test_the_order_of_the_decisions_is_kept() -> None:
    assert uniqueness([10, 1, 0], [1, 3, 2], 12) == pytest.approx([1.0, (1 / 2 + 1 + 1) / 3, (1 + 1 / 2) / 2])


def test_a_return_belongs_in_equal_parts_to_the_labels_that_hold_it() -> None:
    returns = np.array([9.0, 0.02, 0.04, -0.01, 0.0])

    assert return_attribution([0, 1], [2, 2], returns) == pytest.approx([0.02 + 0.02, 0.02 - 0.01], rel=0.01)


def test_attribution_is_clipped_at_its_99th_percentile() -> None:
    rows = np.arange(1000)
    returns = np.append(0.0, np.full(1000, 0.01))
    returns[500] = -5.0

    found = return_attribution(rows, np.ones(1000, dtype=np.int32), returns)

    assert found.max() == pytest.approx(0.01)


def test_a_missing_return_counts_as_none() -> None:
    assert return_attribution([0, 2], [2, 1], [np.nan, np.nan, 0.5, 0.5]).tolist() == [0.5, 0.5]


def test_weights_are_the_product_of_their_parts_at_mean_one() -> None:
    rows, hold, returns = [0, 1, 6], [2, 3, 2], np.linspace(0.01, 0.2, 20)
    tier = tier_weights([0, 2, 3])
    unique = uniqueness(rows, hold, 20)
    raw = unique * return_attribution(rows, hold, returns) * time_decay(unique, TIMES[rows], decay=0.3) * tier

    found = sample_weights(rows, hold, returns, times=TIMES, decay=0.3, tier=tier)

    assert found == pytest.approx(raw / raw.mean())


def test_without_returns_and_decay_weights_are_uniqueness_alone() -> None:
    found = sample_weights([0, 1, 10], [2, 3, 1], None, times=TIMES, decay=1.0)

    unique = uniqueness([0, 1, 10], [2, 3, 1], 20)
    assert found == pytest.approx(unique / unique.mean())


def test_decay_ages_by_cumulated_uniqueness_and_not_by_time() -> None:
    times = np.datetime64("2024-01-01", "us") + np.array([0, 1, 1000]) * np.timedelta64(1, "h")

    assert time_decay([1.0, 0.5, 0.5], times, decay=0.5) == pytest.approx([0.5, 0.75, 1.0])
    assert time_decay([1.0, 0.1, 0.9], times, decay=0.0) == pytest.approx([0.0, 0.1, 1.0])


def test_decisions_at_one_time_fade_alike_whatever_their_symbol() -> None:
    times = np.tile(TIMES[:3], 2)

    found = time_decay(np.ones(6), times, decay=0.5)

    assert found.tolist() == [0.5, 0.75, 1.0, 0.5, 0.75, 1.0]


def test_one_decision_weighs_one_and_none_gives_none() -> None:
    assert sample_weights([3], [2], None, times=TIMES).tolist() == [1.0]
    assert sample_weights(np.empty(0, np.int64), np.empty(0, np.int32), None, times=TIMES).tolist() == []


# -- tiers ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("y", "ret", "hold", "tier"),
    [
        (2, 0.02, 1, "A+"),  # touched at once
        (0, -0.02, 3, "A+"),  # in the first third of nine bars
        (2, 0.02, 5, "A"),
        (2, 0.02, 8, "B"),  # at the last moment
        (2, 0.05, 8, "A"),  # late, but far beyond the barrier
        (1, 0.005, 9, "A"),  # ended where it began
        (1, -0.012, 9, "B"),
        (1, 0.019, 9, "C"),  # ended beside the barrier
    ],
)
def test_a_label_is_the_clearer_the_faster_and_farther_it_moved(y: int, ret: float, hold: int, tier: str) -> None:
    assert TIERS[quality_tier([y], [ret], [0.02], [hold], horizon=9)[0]] == tier


def test_thirds_of_the_horizon_are_met_exactly() -> None:
    tiers = quality_tier([2] * 9, [0.02] * 9, [0.02] * 9, np.arange(1, 10), horizon=9)

    assert [TIERS[t] for t in tiers] == ["A+"] * 4 + ["A"] * 3 + ["B"] * 2


def test_an_ambiguous_label_is_of_the_lowest_tier() -> None:
    assert TIERS[quality_tier([2], [0.02], [0.02], [1], horizon=9, ambiguous=[True])[0]] == "C"


def test_a_better_tier_weighs_more() -> None:
    weights = tier_weights([0, 1, 2, 3])

    assert (np.diff(weights) < 0).all()
    assert (weights > 0).all()


# -- the sequential bootstrap -----------------------------------------------------------------------------------------


def test_the_sequential_bootstrap_repeats_itself_less_than_a_plain_one() -> None:
    rows, hold = np.arange(200), np.full(200, 20, dtype=np.int32)

    def mean_uniqueness(picks: np.ndarray) -> float:
        return float(uniqueness(rows[picks], hold[picks], 221).mean())

    plain = [mean_uniqueness(np.random.default_rng(seed).integers(0, 200, 12)) for seed in range(200)]
    drawn = [mean_uniqueness(sequential_bootstrap(rows, hold, 221, seed=seed, size=12)) for seed in range(200)]

    assert np.mean(drawn) > 1.05 * np.mean(plain)


def test_the_same_seed_draws_the_same() -> None:
    first, second, other = (sequential_bootstrap([0, 1, 2, 9], [3, 3, 3, 3], 15, seed=s, size=50) for s in (1, 1, 2))

    assert first.tolist() == second.tolist() != other.tolist()
    assert set(first) == {0, 1, 2, 3}


def test_the_second_draw_follows_the_probabilities_of_the_published_example() -> None:
    """Lopez de Prado (2018), 4.5.3: labels over bars 0-2, 2-3 and 4-5; the second was drawn first."""
    rows, hold = np.array([0, 2, 4]), np.array([3, 2, 2])

    draws = np.array([sequential_bootstrap(rows, hold, 7, seed=seed, size=2) for seed in range(6000)])

    first = np.bincount(draws[:, 0], minlength=3) / len(draws)
    second = draws[draws[:, 0] == 1, 1]
    assert first == pytest.approx([1 / 3] * 3, abs=0.02)
    assert np.bincount(second, minlength=3) / len(second) == pytest.approx([5 / 14, 3 / 14, 6 / 14], abs=0.03)


# -- refusals ---------------------------------------------------------------------------------------------------------


def test_labels_that_are_unknown_or_leave_the_bars_are_refused() -> None:
    with pytest.raises(ConfigError, match="row 4 holds for 0 bars"):
        uniqueness([1, 4], [2, 0], 9)
    with pytest.raises(ConfigError, match="an end before bar 9"):
        concurrency([6], [3], 9)
    with pytest.raises(ConfigError, match="one hold a row"):
        uniqueness([1, 2], [1], 9)
    with pytest.raises(ConfigError, match="whole numbers"):
        uniqueness([1.5], [1], 9)


def test_returns_of_the_decisions_alone_are_refused() -> None:
    with pytest.raises(ConfigError, match="one return a bar"):
        sample_weights([1, 2], [1, 1], [0.1, 0.2], times=TIMES)


@pytest.mark.parametrize("decay", [-0.1, 1.5, float("nan")])
def test_a_decay_outside_its_range_is_refused(decay: float) -> None:
    with pytest.raises(ConfigError, match="from 0 to 1"):
        sample_weights([1, 2], [1, 1], None, times=TIMES, decay=decay)


def test_weights_of_prices_that_never_move_are_refused() -> None:
    with pytest.raises(TrainingError, match="attribution"):
        sample_weights([1, 2], [1, 1], np.zeros(20), times=TIMES)


def test_tiers_of_unknown_labels_and_weights_of_other_rows_are_refused() -> None:
    with pytest.raises(ConfigError, match="label 1 has class -1"):
        quality_tier([1, -1], [0.0, 0.0], [0.02, 0.02], [1, 1], horizon=1)
    with pytest.raises(ConfigError, match="one value a label"):
        quality_tier([1], [0.0, 0.0], [0.02], [1], horizon=1)
    with pytest.raises(ConfigError, match="2 decisions"):
        sample_weights([1, 2], [1, 1], None, times=TIMES, tier=[1.0])


def test_a_bootstrap_of_too_many_labels_or_of_none_is_refused() -> None:
    with pytest.raises(ConfigError, match="thin the labels"):
        sequential_bootstrap(np.arange(5001), np.ones(5001, dtype=np.int64), 5100, seed=0)
    with pytest.raises(ConfigError, match="0 labels"):
        sequential_bootstrap([], [], 10, seed=0, size=3)
