"""The search for label parameters: finds what is known, looks at training alone, and minds what can be earned."""

from __future__ import annotations

import json
import math
from datetime import datetime, timedelta
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
import polars as pl
import pytest

from nightcast.contracts.errors import ConfigError, TrainingError
from nightcast.contracts.schema import BarsSchema, CostPlan, LabelPlan
from nightcast.evaluation.label_search import GRID, LabelSearch, divergence, entropy, search_labels
from nightcast.features.labels import label_facts, triple_barrier

START = datetime(2024, 1, 1)
SIGMA = 0.002
FREE = CostPlan(fee_bps=0, half_spread_bps=0, slippage_bps=0)
FIXED = LabelPlan(barrier="fixed", threshold=0.05)


def walk(size: int, *, substeps: int = 1, seed: int = 0, sigma: float = SIGMA) -> pl.DataFrame:
    """A geometric Brownian motion of known volatility, its bars' extremes over `substeps` steps."""
    rng = np.random.default_rng(seed)
    steps = rng.normal(scale=sigma / math.sqrt(substeps), size=(size, substeps))
    path = math.log(100) + np.cumsum(steps.ravel()).reshape(size, substeps)
    open_ = np.append(math.log(100), path[:-1, -1])
    whole = np.column_stack([open_, path])
    return pl.DataFrame(
        {
            "unique_id": "AAA",
            "ds": [START + timedelta(hours=k) for k in range(size)],
            "segment": 0,
            "session": 0,
            "open": np.exp(open_),
            "high": np.exp(whole.max(axis=1)),
            "low": np.exp(whole.min(axis=1)),
            "close": np.exp(path[:, -1]),
            "volume": 1.0,
        },
    ).with_columns(pl.col("ds").cast(pl.Datetime("us")))


def search(frame: pl.DataFrame, horizons: tuple[int, ...], **changes: Any) -> LabelSearch:
    facts: dict[str, Any] = {"base": FIXED, "train_end": frame["ds"].max(), "costs": FREE} | changes
    costs = facts.pop("costs")
    schema = BarsSchema(freq="h", horizons=horizons)
    return search_labels(frame, schema, costs, label=triple_barrier, facts=label_facts, **facts)


# -- what is known ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("neutral", [1 / 3, 0.5])
def test_on_one_bar_without_wicks_the_threshold_is_the_quantile_of_the_returns(neutral: float) -> None:
    """P(|r| > threshold) = 1 - p, so threshold = sigma * quantile((1 + p) / 2).

    The entropy draws unequal targets together: -KL(p, q) + w H(p) / log 3 is largest at p ~ q^(1 / (1 + w / log 3)).
    """
    side = (1 - neutral) / 2
    power = 1 / (1 + 0.2 / math.log(3))
    p = neutral**power / (neutral**power + 2 * side**power)

    found = search(walk(30_000), (1,), target=(side, neutral, side), trials=40)

    assert found.best.threshold == pytest.approx(SIGMA * NormalDist().inv_cdf((1 + p) / 2), rel=0.05)


def test_the_multiplier_is_the_quantile_whatever_the_volatility() -> None:
    for sigma in (0.0005, 0.01):
        found = search(walk(20_000, sigma=sigma), (1,), base=LabelPlan(), trials=40)

        assert found.best.multiplier == pytest.approx(NormalDist().inv_cdf(2 / 3), rel=0.05)


def test_over_several_bars_the_threshold_is_the_quantile_of_the_first_passage() -> None:
    """P(no touch) = 4/pi sum_n (-1)^n/(2n+1) exp(-(2n+1)^2 pi^2 / (8 k^2)) for a barrier of k sigma sqrt(h).

    Extremes over m steps a bar miss those of the continuous path as if the barrier stood 0.5826 steps farther off
    (Broadie, Glasserman & Kou 1997).
    """
    horizon, substeps = 4, 16
    k = math.pi / math.sqrt(8 * math.log(4 / math.pi * 3))
    expected = SIGMA * (k * math.sqrt(horizon) - 0.5826 / math.sqrt(substeps))

    found = search(walk(40_000, substeps=substeps), (horizon,), trials=40)

    assert found.best.threshold == pytest.approx(expected, rel=0.05)


def test_divergence_and_entropy_of_known_shares() -> None:
    assert divergence([0.5, 0.5, 0.0], [0.25, 0.5, 0.25]) == pytest.approx(0.5 * math.log(2))
    assert divergence([0.2, 0.3, 0.5], [0.2, 0.3, 0.5]) == 0
    assert entropy([1 / 3] * 3) == pytest.approx(1)
    assert entropy([1.0, 0.0, 0.0]) == 0


# -- training alone ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("barrier", ["volatility", "fixed", "adaptive"])
def test_scrambling_the_future_changes_nothing(barrier: str) -> None:
    bars, end = walk(3000), START + timedelta(hours=1999)
    factor = pl.Series(np.random.default_rng(1).lognormal(sigma=0.3, size=3000))
    scrambled = bars.with_columns(
        pl.when(pl.col("ds") > end).then(pl.col(name) * factor).otherwise(name).alias(name)
        for name in ("open", "high", "low", "close")
    )
    base = LabelPlan(barrier=barrier)  # type: ignore[arg-type]

    found = [search(b, (1, 5), base=base, train_end=end, trials=5) for b in (bars, scrambled, bars.head(2000))]

    assert found[0].best == found[1].best == found[2].best
    assert found[0].trials.equals(found[1].trials)
    assert found[0].trials.equals(found[2].trials)


def test_labels_that_would_need_the_future_are_not_counted() -> None:
    bars = walk(500)

    found = search(bars, (5,), train_end=START + timedelta(hours=299), trials=0)

    assert set(found.trials["known_5"]) == {300 - 20 - 5}


def test_the_same_seed_tries_the_same() -> None:
    bars = walk(1000)

    first, second, other = (search(bars, (1,), seed=seed, trials=4).trials for seed in (1, 1, 2))

    assert first.equals(second)
    assert not first.equals(other)


# -- what can be earned -----------------------------------------------------------------------------------------------


def test_a_barrier_must_pay_the_round_trip_three_times() -> None:
    """Equal shares would put the barrier at 0.43 sigma = 8.6 bps; a round trip of 6 bps asks for 18."""
    costs = CostPlan(fee_bps=3, half_spread_bps=0, slippage_bps=0)
    bars = walk(10_000)

    free, dear = search(bars, (1,), trials=60), search(bars, (1,), costs=costs, trials=60)

    assert free.best.threshold < 0.001
    assert dear.best.threshold >= 0.0018
    best = dear.trials.sort("score", descending=True).row(0, named=True)
    assert best["feasible"]
    assert best["feasibility"] == 0
    assert best["move_1"] >= 0.0018


def test_ambiguous_labels_push_the_barrier_outwards() -> None:
    wicked = walk(10_000).with_columns(pl.col("high") * (1 + 1.5 * SIGMA), pl.col("low") * (1 - 1.5 * SIGMA))

    found = search(wicked, (2,), base=FIXED.model_copy(update={"ambiguous": "worst"}), trials=60)

    best = found.trials.sort("score", descending=True).row(0, named=True)
    assert best["ambiguous_2"] < 0.02
    narrow = found.trials.filter(pl.col("threshold") < SIGMA)
    assert (narrow["ambiguous_2"] > 0.02).all()
    assert not narrow["feasible"].any()


def test_labels_that_overlap_too_much_are_not_feasible() -> None:
    found = search(walk(3000), (30,), grids={"threshold": [0.05]}, trials=0)

    row = found.trials.row(1, named=True)
    assert row["uniqueness_30"] < 0.1
    assert not row["feasible"]
    assert row["feasibility"] < -0.5


def test_shares_that_change_from_month_to_month_are_not_feasible() -> None:
    calm, wild = walk(24 * 31, sigma=0.001), walk(24 * 29, seed=1, sigma=0.004)
    late = wild.with_columns(pl.col("ds") + timedelta(days=31), pl.lit(1).alias("segment"), pl.lit(1).alias("session"))
    grids = {"threshold": [0.002]}

    steady = search(walk(24 * 60), (1,), grids=grids, trials=0).trials.row(1, named=True)
    changing = search(pl.concat([calm, late]), (1,), grids=grids, trials=0).trials.row(1, named=True)
    one_month = search(calm, (1,), grids=grids, trials=0).trials.row(1, named=True)

    assert steady["variation_1"] < 0.35 < changing["variation_1"]
    assert (steady["feasible"], changing["feasible"]) == (True, False)
    assert one_month["variation_1"] is None


def test_the_score_is_what_it_is_said_to_be() -> None:
    found = search(walk(3000), (1, 3), trials=2)

    for row in found.trials.to_dicts():
        shares = [[row[f"{name}_{h}"] for name in ("short", "neutral", "long")] for h in (1, 3)]
        kl = np.mean([divergence(its, [1 / 3] * 3) for its in shares])
        even = np.mean([entropy(its) for its in shares])
        assert row["score"] == pytest.approx(-kl + 0.2 * even + row["feasibility"])
    assert found.best.threshold == found.trials.sort("score", descending=True)["threshold"][0]


# -- the record -------------------------------------------------------------------------------------------------------


def test_the_plan_itself_comes_first_then_the_grid_then_draws_near_the_best() -> None:
    found = search(walk(1000), (1,), base=LabelPlan(multiplier=7.0, span=50), trials=3)

    assert found.trials["stage"].to_list() == ["base", *["grid"] * len(GRID), *["random"] * 3]
    assert found.trials["multiplier"][0] == 7.0
    assert found.trials["trial"].to_list() == list(range(found.trials.height))
    assert (found.best.span, found.best.barrier) == (50, "volatility")


def test_an_adaptive_plan_is_searched_in_both_its_numbers() -> None:
    grids = {"multiplier": [0.5, 1.0], "minimum": [0.001, 0.002, 0.003]}

    found = search(walk(1000), (1,), base=LabelPlan(barrier="adaptive"), grids=grids, trials=0)

    tried = set(found.trials.filter(pl.col("stage") == "grid").select("multiplier", "minimum").rows())
    assert tried == {(m, n) for m in grids["multiplier"] for n in grids["minimum"]}


def test_the_file_holds_the_best_plan_and_every_trial(tmp_path: Path) -> None:
    found = search(walk(1000), (1, 5), trials=2)

    found.save(tmp_path / "labels" / "search.json")

    facts = json.loads((tmp_path / "labels" / "search.json").read_text())
    assert LabelPlan.model_validate(facts["best"]) == found.best
    assert facts["trials"] == found.trials.to_dicts()
    assert facts["train_end"] == found.train_end.isoformat()
    assert (facts["seed"], facts["target"]["neutral"]) == (0, pytest.approx(1 / 3))


# -- refusals ---------------------------------------------------------------------------------------------------------


def test_what_cannot_be_searched_is_refused() -> None:
    bars = walk(200)
    with pytest.raises(ConfigError, match="sum to 1"):
        search(bars, (1,), target=(0.5, 0.5, 0.5))
    with pytest.raises(ConfigError, match="fixed barriers"):
        search(bars, (1,), grids={"multiplier": [1.0]})
    with pytest.raises(ConfigError, match="positive values"):
        search(bars, (1,), grids={"threshold": [0.0]})
    with pytest.raises(ConfigError, match="trials = -1"):
        search(bars, (1,), trials=-1)


def test_a_training_span_without_labels_is_refused() -> None:
    with pytest.raises(TrainingError, match="no label of horizon 500"):
        search(walk(200), (1, 500))
    with pytest.raises(TrainingError, match="known volatility"):
        search(walk(200), (1,), train_end=START + timedelta(hours=5))
