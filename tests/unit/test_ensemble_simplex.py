import json
import math
import time
from datetime import datetime

import numpy as np
import polars as pl
import pytest

from models.ensembles.simplex import SimplexCombiner
from nightcast.contracts.columns import QUANTILES
from nightcast.contracts.errors import ConfigError, TrainingError
from nightcast.contracts.frequency import Frequency
from nightcast.contracts.prediction import Quantiles
from nightcast.contracts.recipe import CombinerPlan

DAYS = Frequency.parse("D")
START = datetime(2024, 1, 1)
WEIGHTED = CombinerPlan(shrinkage=0.0)
LENIENT = SimplexCombiner(trim=100.0, doubt=math.inf)
"""Trims nobody, so that full shrinkage gives equal weights and only the guard changes them."""


def rows(
    noise: dict[str, float | dict[int, float]],
    *,
    seed: int = 0,
    origins: int = 20,
    series: int = 8,
    horizons: int = 2,
    offset: dict[str, float] | None = None,
) -> pl.DataFrame:
    """Members whose median errs with the given deviation (per horizon, if a dict), quantiles one unit around it."""
    rng = np.random.default_rng(seed)
    keys = [
        (f"s{s}", DAYS.shift(START, o + h), DAYS.shift(START, o), h)
        for o in range(origins)
        for s in range(series)
        for h in range(1, horizons + 1)
    ]
    base = pl.DataFrame(
        keys,
        schema={"unique_id": pl.String, "ds": pl.Datetime("us"), "cutoff": pl.Datetime("us"), "horizon": pl.Int32},
        orient="row",
    )
    y = 50 + rng.normal(0, 5, len(keys))
    parts = []
    for name, its in noise.items():
        deviation = np.array([its[key[3]] if isinstance(its, dict) else its for key in keys])
        median = y + rng.normal(size=len(keys)) * deviation + (offset or {}).get(name, 0.0)
        parts.append(
            base.with_columns(
                pl.lit(name).alias("model"),
                *(pl.Series(q, median + (i - 4) / 4) for i, q in enumerate(QUANTILES)),
                y=pl.Series(y),
                scale=pl.lit(10.0),
            )
        )
    return pl.concat(parts)


def with_losses(oof: pl.DataFrame, losses: dict[str, float | dict[int, float]]) -> pl.DataFrame:
    """Members that miss every actual by exactly so much, at all levels; above and below in turn, so none can hedge."""
    side = 1 - 2 * (pl.col("unique_id").str.slice(1).cast(pl.Int32) % 2)
    parts = []
    for name, loss in losses.items():
        size = (
            pl.col("horizon").replace_strict(loss, return_dtype=pl.Float64) if isinstance(loss, dict) else pl.lit(loss)
        )
        parts.append(oof.filter(model=name).with_columns((pl.col("y") + side * size).alias(q) for q in QUANTILES))
    return pl.concat(parts)


def gaps_to_naive(gaps: list[float], *, horizons: int) -> pl.DataFrame:
    """A model and a naive whose equal mix has so much more loss than the naive at each origin judged, in scaled units.

    The model misses on the naive's side; the mean of both misses by half of the sum, so the model by twice the gap
    more. A miss of one above at all levels costs a half of it over the scale (10).
    """
    untaught = horizons
    oof = rows({"model": 0.0, "naive": 0.0}, origins=untaught + len(gaps), series=1, horizons=horizons)
    miss = {DAYS.shift(START, untaught + i): 100 + 2 * 20 * gap for i, gap in enumerate(gaps)}
    size = (
        pl.when(pl.col("model") == "naive")
        .then(100.0)
        .otherwise(pl.col("cutoff").replace_strict(miss, default=100.0, return_dtype=pl.Float64))
    )
    return oof.with_columns((pl.col("y") + size).alias(q) for q in QUANTILES)


def predictions(oof: pl.DataFrame) -> dict[str, Quantiles]:
    return {str(key[0]): Quantiles.of(part) for key, part in oof.partition_by("model", as_dict=True).items()}


def pinball(frame: pl.DataFrame) -> float:
    from nightcast.evaluation.scores import pinball as score

    return score(frame)


def test_the_better_member_gets_the_larger_weight():
    table = SimplexCombiner().fit(rows({"good": 1.0, "bad": 6.0}), WEIGHTED, baselines=[])

    assert table["members"] == ["bad", "good"]
    for weights in table["weights"].values():
        assert weights["good"] > 0.8


def test_weights_differ_by_horizon_where_the_members_do():
    oof = rows({"short": {1: 1.0, 2: 9.0}, "long": {1: 9.0, 2: 1.0}})

    weights = SimplexCombiner().fit(oof, WEIGHTED, baselines=[])["weights"]

    assert weights["1"]["short"] > 0.8
    assert weights["2"]["long"] > 0.8


def test_the_weights_found_are_the_best_on_a_grid():
    oof = rows({"a": 2.0, "b": 3.0}, origins=300, series=4, horizons=1)
    members = predictions(oof)
    truth = oof.filter(model="a").select("unique_id", "cutoff", "horizon", "y")

    def loss(weight: float) -> float:
        table = {"weights": {"1": {"a": weight, "b": 1 - weight}}}
        return pinball(SimplexCombiner().apply(members, table).frame.join(truth, on=["unique_id", "cutoff", "horizon"]))

    found = SimplexCombiner().fit(oof, WEIGHTED, baselines=[])["weights"]["1"]["a"]

    # The theory for independent normal errors: 1/2^2 against 1/3^2.
    assert found == pytest.approx(9 / 13, abs=0.06)
    assert loss(found) <= min(loss(w) for w in np.linspace(0, 1, 21)) * 1.003


def test_members_with_opposite_bias_are_balanced():
    oof = rows({"low": 0.5, "high": 0.5}, offset={"low": -2.0, "high": 6.0}, origins=60)

    weights = SimplexCombiner().fit(oof, WEIGHTED, baselines=[])["weights"]["1"]

    assert weights["low"] == pytest.approx(0.75, abs=0.05)


def test_of_two_members_with_mirrored_quantiles_the_one_with_the_right_skew_is_trusted():
    rng = np.random.default_rng(5)
    base = rows({"right": 0.0}, origins=100, series=4, horizons=1)
    skewed = -np.log(1 - np.arange(1, 10) / 10)  # quantiles of the exponential distribution
    right = base.with_columns(
        *(pl.lit(50 + 5 * value).alias(q) for q, value in zip(QUANTILES, skewed, strict=True)),
        y=50 + 5 * pl.Series(rng.exponential(size=base.height)),
    )
    centre = 2 * (50 + 5 * skewed[4])
    mirrored = right.with_columns(
        pl.lit("wrong").alias("model"),
        *((centre - pl.col(other)).alias(q) for q, other in zip(QUANTILES, reversed(QUANTILES), strict=True)),
    )

    weights = SimplexCombiner().fit(pl.concat([right, mirrored]), WEIGHTED, baselines=[])["weights"]["1"]

    assert weights["right"] > 0.85


def test_of_two_members_with_the_same_median_the_one_with_honest_intervals_is_trusted():
    rng = np.random.default_rng(5)
    base = rows({"honest": 0.0}, origins=100, series=4, horizons=1)
    normal = [-1.2816, -0.8416, -0.5244, -0.2533, 0.0, 0.2533, 0.5244, 0.8416, 1.2816]
    honest = base.with_columns(
        *(pl.lit(50 + 5 * value).alias(q) for q, value in zip(QUANTILES, normal, strict=True)),
        y=50 + 5 * pl.Series(rng.normal(size=base.height)),
    )
    certain = honest.with_columns(pl.lit("certain").alias("model"), *(pl.col("q50").alias(q) for q in QUANTILES))

    weights = SimplexCombiner().fit(pl.concat([honest, certain]), WEIGHTED, baselines=[])["weights"]["1"]

    assert weights["honest"] > 0.85


def test_few_origins_pull_the_weights_towards_equal():
    few = SimplexCombiner().fit(rows({"good": 1.0, "bad": 6.0}, origins=2, series=80), WEIGHTED, baselines=[])
    many = SimplexCombiner().fit(rows({"good": 1.0, "bad": 6.0}, origins=80, series=2), WEIGHTED, baselines=[])

    # The optimum is near 1; of the way from 1/2 to it, 2 / (2 + 6) and 80 / (80 + 6) are gone.
    assert few["weights"]["1"]["good"] == pytest.approx(0.62, abs=0.02)
    assert many["weights"]["1"]["good"] == pytest.approx(0.96, abs=0.02)


def test_caution_is_the_number_of_origins_at_which_half_of_the_way_is_gone():
    oof = rows({"good": 1.0, "bad": 6.0}, origins=10, series=20)

    half, all_of_it = (
        SimplexCombiner(caution=c, doubt=math.inf).fit(oof, WEIGHTED, baselines=[])["weights"]["1"] for c in (10, 0)
    )

    assert half["good"] == pytest.approx((0.5 + all_of_it["good"]) / 2)


@pytest.mark.parametrize(("origins", "trimmed"), [(4, False), (24, True)])
def test_a_clearly_bad_member_loses_its_equal_share_once_there_are_enough_origins(origins: int, trimmed: bool):
    # A loss 1.3 times the baseline's: within 1 + 0.1 (1 + 12 / 4) = 1.4, beyond 1 + 0.1 (1 + 12 / 24) = 1.15.
    oof = rows({"naive": 0.0, "good": 0.0, "bad": 0.0}, origins=origins, series=2, horizons=1)
    oof = with_losses(oof, {"naive": 1.0, "good": 0.6, "bad": 1.3})

    weights = SimplexCombiner().fit(oof, CombinerPlan(shrinkage=1.0), baselines=["naive"])["weights"]["1"]

    expected = (
        {"naive": 1 / 2, "good": 1 / 2, "bad": 0.0} if trimmed else dict.fromkeys(("naive", "good", "bad"), 1 / 3)
    )
    assert weights == pytest.approx(expected)


def test_trimming_judges_a_member_by_its_losses_over_all_horizons():
    # Bad at the first horizon only, and no worse than the naive over both: it keeps its share at both.
    oof = with_losses(rows({"naive": 0.0, "uneven": 0.0}), {"naive": 1.0, "uneven": {1: 1.5, 2: 0.5}})

    weights = SimplexCombiner().fit(oof, CombinerPlan(shrinkage=1.0), baselines=["naive"])["weights"]

    assert [weights[h]["uneven"] for h in ("1", "2")] == pytest.approx([0.5, 0.5])


def test_a_member_that_forecasts_only_the_hard_horizon_is_compared_with_the_baseline_there():
    oof = with_losses(rows({"naive": 0.0, "far": 0.0}), {"naive": {1: 0.1, 2: 4.0}, "far": {1: 0.1, 2: 3.0}})
    oof = oof.filter((pl.col("model") != "far") | (pl.col("horizon") == 2))

    weights = SimplexCombiner(doubt=math.inf).fit(oof, CombinerPlan(shrinkage=1.0), baselines=["naive"])["weights"]

    # Its mean loss of 3 exceeds the naive's over both horizons, 2.05; on shared rows it is the better one.
    assert weights["2"] == pytest.approx({"naive": 0.5, "far": 0.5})
    assert weights["1"] == {"naive": 1.0, "far": 0.0}


def test_the_method_mean_weighs_equally():
    table = SimplexCombiner().fit(rows({"good": 1.0, "bad": 6.0}), CombinerPlan(method="mean"), baselines=[])

    assert table["weights"]["1"] == {"bad": 0.5, "good": 0.5}


def test_the_best_baseline_keeps_a_floor():
    table = SimplexCombiner().fit(
        rows({"good": 0.5, "naive": 9.0}, origins=200, series=2), WEIGHTED, baselines=["naive"]
    )

    assert table["weights"]["1"]["naive"] == pytest.approx(0.05)
    assert not table["evidence"]["1"]["guard"]


def test_a_combination_clearly_worse_than_the_naive_gives_way_to_it_at_every_horizon():
    oof = rows({"model": {1: 9.0, 2: 3.0}, "other": {1: 9.0, 2: 3.0}, "naive": {1: 0.2, 2: 0.2}})

    table = SimplexCombiner().fit(oof, CombinerPlan(method="mean"), baselines=["naive"])

    for horizon in ("1", "2"):
        assert table["weights"][horizon] == {"model": 0.0, "naive": 1.0, "other": 0.0}
        assert table["evidence"][horizon]["guard"]
        assert table["evidence"][horizon]["baseline"] == "naive"
        assert table["evidence"][horizon]["loss"] > table["evidence"][horizon]["baseline_loss"]


def test_the_guard_does_not_act_on_chance():
    """Over many panels where all members are equally good, the baseline takes over in few."""
    acted = [
        SimplexCombiner().fit(
            rows({"a": 2.0, "naive": 2.0}, seed=seed, origins=12, series=3), WEIGHTED, baselines=["naive"]
        )["evidence"]["1"]["guard"]
        for seed in range(20)
    ]

    assert sum(acted) <= 3


def test_the_guard_does_not_judge_on_fewer_origins_than_it_wants():
    oof = rows({"model": 9.0, "naive": 0.2}, origins=4, horizons=2)

    table = SimplexCombiner().fit(oof, CombinerPlan(method="mean"), baselines=["naive"])

    assert not table["evidence"]["1"]["guard"]
    assert table["weights"]["1"] == {"model": 0.5, "naive": 0.5}


def test_a_clearly_bad_member_loses_its_equal_share_only_with_enough_origins():
    plan = CombinerPlan(shrinkage=1.0)
    few = SimplexCombiner().fit(
        rows({"a": 2.0, "bad": 3.0, "naive": 2.0}, origins=2, series=60), plan, baselines=["naive"]
    )
    many = SimplexCombiner().fit(rows({"a": 2.0, "bad": 3.0, "naive": 2.0}, origins=60), plan, baselines=["naive"])

    assert few["weights"]["1"]["bad"] == pytest.approx(1 / 3)
    assert many["weights"]["1"]["bad"] == 0.0
    assert many["weights"]["1"]["a"] == pytest.approx(0.5, abs=0.1)


def test_a_combination_worse_than_the_naive_gives_way_to_it_at_all_horizons_together():
    """Much worse at the first horizon, a little better at the second: over both the baseline wins, and takes both."""
    oof = with_losses(rows({"model": 0.0, "naive": 0.0}), {"model": {1: 9.0, 2: 0.9}, "naive": 1.0})

    table = LENIENT.fit(oof, CombinerPlan(shrinkage=1.0), baselines=["naive"])

    assert table["weights"] == {"1": {"model": 0.0, "naive": 1.0}, "2": {"model": 0.0, "naive": 1.0}}
    for evidence in table["evidence"].values():
        assert evidence["guard"] is True
        assert evidence["baseline"] == "naive"
        assert evidence["loss"] > evidence["baseline_loss"]


def test_a_combination_worse_at_one_horizon_but_better_over_all_is_kept_at_both():
    oof = with_losses(rows({"model": 0.0, "naive": 0.0}), {"model": {1: 1.2, 2: 0.2}, "naive": 1.0})

    table = LENIENT.fit(oof, CombinerPlan(shrinkage=1.0), baselines=["naive"])

    assert table["weights"]["1"] == table["weights"]["2"] == pytest.approx({"model": 0.5, "naive": 0.5})
    assert not any(evidence["guard"] for evidence in table["evidence"].values())


def test_the_guard_does_not_act_on_a_tie():
    oof = rows({"naive": 2.0})
    twin = oof.with_columns(pl.lit("twin").alias("model"))

    table = SimplexCombiner().fit(pl.concat([oof, twin]), WEIGHTED, baselines=["naive"])

    evidence = table["evidence"]["1"]
    assert evidence["loss"] == pytest.approx(evidence["baseline_loss"])
    assert evidence["guard"] is False
    assert table["weights"]["1"] == pytest.approx({"naive": 0.5, "twin": 0.5}, abs=0.01)


@pytest.mark.parametrize(("worse_by", "acts"), [(0.3, False), (0.9, True)])
def test_the_guard_acts_only_beyond_one_standard_error_of_the_origins(worse_by: float, acts: bool):
    """The gap swings by 2 from origin to origin, around `worse_by`; 16 judged origins have an error of 0.5 or so."""
    oof = gaps_to_naive([worse_by + swing for swing in (2.0, -2.0) * 8], horizons=2)

    table = LENIENT.fit(oof, CombinerPlan(shrinkage=1.0), baselines=["naive"])

    evidence = table["evidence"]["1"]
    assert evidence["loss"] > evidence["baseline_loss"]
    assert evidence["guard"] is acts
    assert table["weights"]["1"]["naive"] == (1.0 if acts else 0.5)


@pytest.mark.parametrize(("horizons", "acts"), [(2, True), (12, False)])
def test_overlapping_horizons_count_as_fewer_origins(horizons: int, acts: bool):
    # Two in `H` origins count: the same gaps have an error of 0.5 or so at two horizons, of more than 1 at twelve.
    oof = gaps_to_naive([0.9 + swing for swing in (2.0, -2.0) * 8], horizons=horizons)

    assert LENIENT.fit(oof, CombinerPlan(shrinkage=1.0), baselines=["naive"])["evidence"]["1"]["guard"] is acts


def test_a_horizon_the_baseline_never_forecast_keeps_the_weights_it_learnt():
    oof = with_losses(rows({"good": 0.0, "bad": 0.0, "naive": 0.0}), {"good": 5.0, "bad": 9.0, "naive": 1.0})
    oof = oof.filter((pl.col("model") != "naive") | (pl.col("horizon") == 1))
    oof = pl.concat([oof, oof.filter(horizon=1).with_columns(pl.lit(3, pl.Int32).alias("horizon"))])

    table = LENIENT.fit(oof, WEIGHTED, baselines=["naive"])

    assert [table["evidence"][h]["guard"] for h in ("1", "2", "3")] == [True, False, True]
    assert table["weights"]["2"]["naive"] == 0.0
    assert table["weights"]["2"]["good"] > 0.6


def test_a_baseline_of_a_few_rows_does_not_stand_in_for_the_one_that_covers_all():
    """Where the rare baseline speaks all others are far off: on its rows it is the hardest to beat, on two of them."""
    oof = with_losses(rows({"model": 0.0, "naive": 0.0, "rare": 0.0}), {"model": 9.0, "naive": 1.0, "rare": 0.1})
    spoken = (pl.col("unique_id") == "s0") & (pl.col("cutoff") == DAYS.shift(START, 5))
    oof = oof.filter((pl.col("model") != "rare") | spoken).with_columns(
        pl.when(spoken & (pl.col("model") == "naive")).then(pl.col(q) + 99).otherwise(q).alias(q) for q in QUANTILES
    )

    table = LENIENT.fit(oof, CombinerPlan(shrinkage=1.0), baselines=["naive", "rare"])

    assert table["evidence"]["1"]["baseline"] == "naive"
    assert table["weights"]["1"]["naive"] == 1.0


def test_the_guard_picks_the_baseline_that_is_hardest_to_beat():
    oof = rows({"model": 9.0, "naive": 5.0, "drift": 0.2})

    table = SimplexCombiner().fit(oof, CombinerPlan(method="mean"), baselines=["naive", "drift", "absent"])

    assert table["weights"]["1"]["drift"] == 1.0


def test_the_guard_judges_weights_on_later_origins_than_they_were_learnt_on():
    """A member that shone at the first origin alone is trusted in hindsight, and found out by the guard."""
    oof = with_losses(rows({"lucky": 0.0, "naive": 0.0}, horizons=1), {"lucky": 2.0, "naive": 1.0})
    first = pl.col("cutoff") == START
    oof = oof.with_columns(
        pl.when(first)
        .then(pl.col("y") + pl.when(pl.col("model") == "naive").then(200.0).otherwise(0.0))
        .otherwise(q)
        .alias(q)
        for q in QUANTILES
    )
    in_hindsight = dict(oof.group_by("model").agg((pl.col("q50") - pl.col("y")).abs().mean()).rows())

    table = SimplexCombiner().fit(oof, WEIGHTED, baselines=["naive"])

    assert in_hindsight["lucky"] < 0.3 * in_hindsight["naive"]
    assert table["evidence"]["1"]["guard"] is True
    assert table["weights"]["1"] == {"lucky": 0.0, "naive": 1.0}


def test_the_evidence_is_the_loss_of_the_ensembles_own_rows_at_the_origins_judged():
    oof = rows({"good": 1.0, "bad": 6.0, "naive": 4.0}, origins=14)

    evidence = SimplexCombiner().fit(oof, CombinerPlan(), baselines=["naive"])["evidence"]["1"]
    own = SimplexCombiner().prequential_oof(oof, CombinerPlan(), ["naive"], 2, DAYS)

    late = pl.col("cutoff") >= DAYS.shift(START, 2)
    assert evidence["judged_origins"] == 12
    assert evidence["loss"] == pytest.approx(pinball(own.filter(late)) / 10)
    assert evidence["baseline_loss"] == pytest.approx(pinball(oof.filter(late, model="naive")) / 10)


def test_a_member_that_was_right_early_and_is_wrong_late_is_found_out():
    early = pl.col("cutoff") < DAYS.shift(START, 12)
    oof = rows({"turncoat": 1.0, "naive": 1.5}, origins=24, horizons=1).with_columns(
        pl.when((pl.col("model") == "turncoat") & ~early).then(pl.col(q) + 30).otherwise(q).alias(q) for q in QUANTILES
    )

    table = SimplexCombiner().fit(oof, WEIGHTED, baselines=["naive"])

    assert table["weights"]["1"]["naive"] > 0.9


def test_a_diverged_member_gets_no_weight():
    oof = rows({"a": 1.0, "b": 1.2, "c": 1.1, "exploded": 5000.0})

    weights = SimplexCombiner().fit(oof, CombinerPlan(shrinkage=0.5), baselines=[])["weights"]["1"]

    assert weights["exploded"] == 0.0
    assert min(weights[name] for name in "abc") > 0.1


def test_a_diverged_member_that_alone_forecasts_a_horizon_serves_it():
    oof = rows({"a": 1.0, "b": 1.2, "c": 1.1, "exploded": 5000.0})
    oof = oof.filter((pl.col("model") == "exploded") | (pl.col("horizon") == 1))

    weights = SimplexCombiner().fit(oof, WEIGHTED, baselines=[])["weights"]

    assert weights["1"]["exploded"] == 0.0
    assert weights["2"] == {"a": 0.0, "b": 0.0, "c": 0.0, "exploded": 1.0}


def test_an_origin_with_the_first_horizon_only_still_tells_the_second_who_is_worthy():
    """The second origin has no rows at the second horizon, but finds the model out at the first."""
    oof = with_losses(rows({"model": 0.0, "naive": 0.0}, origins=4), {"model": {1: 9.0, 2: 2.0}, "naive": 1.0})
    first, second = pl.col("cutoff") == START, pl.col("cutoff") == DAYS.shift(START, 1)
    oof = oof.filter(~second | (pl.col("horizon") == 1)).with_columns(
        pl.when(first & (pl.col("model") == "model")).then(pl.col("y") + 1).otherwise(q).alias(q) for q in QUANTILES
    )

    own = SimplexCombiner().prequential_oof(oof, CombinerPlan(shrinkage=1.0), ["naive"], 2, DAYS)

    # Misses: the naive's is 1, the model's 2, that of their equal mix 1.5.
    far = own.filter(horizon=2).with_columns(miss=(pl.col("q50") - pl.col("y")).abs())
    misses = dict(far.group_by("cutoff").agg(pl.col("miss").mean()).rows())
    assert misses[DAYS.shift(START, 2)] == pytest.approx(1.5)
    assert misses[DAYS.shift(START, 3)] == pytest.approx(1.0)


def test_weights_and_evidence_are_json_and_the_same_twice():
    oof = rows({"good": 1.0, "bad": 6.0, "naive": 4.0})

    first = SimplexCombiner().fit(oof, CombinerPlan(), baselines=["naive"])
    second = SimplexCombiner().fit(oof.sample(fraction=1, shuffle=True, seed=1), CombinerPlan(), baselines=["naive"])

    assert json.dumps(first, allow_nan=False, sort_keys=True) == json.dumps(second, allow_nan=False, sort_keys=True)


def test_rows_without_a_scale_are_scaled_by_the_series_own_level():
    oof = rows({"good": 1.0, "bad": 6.0}).drop("scale")

    assert SimplexCombiner().fit(oof, WEIGHTED, baselines=[])["weights"]["1"]["good"] > 0.8


def test_a_member_that_lacks_a_series_leaves_its_weight_to_the_others():
    oof = rows({"a": 1.0, "b": 1.0, "c": 1.0}, origins=1, horizons=1)
    members = predictions(oof)
    partial = Quantiles.of(members["c"].frame.filter(pl.col("unique_id") != "s3"))
    weights = {"weights": {"1": {"a": 0.3, "b": 0.1, "c": 0.6}}}

    combined = SimplexCombiner().apply({**members, "c": partial}, weights).frame

    def q50(name: str, series: str) -> float:
        return float(members[name].frame.filter(unique_id=series)["q50"][0])

    got = dict(combined.select("unique_id", "q50").rows())
    assert got["s3"] == pytest.approx(0.75 * q50("a", "s3") + 0.25 * q50("b", "s3"))
    assert got["s1"] == pytest.approx(0.3 * q50("a", "s1") + 0.1 * q50("b", "s1") + 0.6 * q50("c", "s1"))


def test_a_series_that_only_members_without_weight_cover_is_still_forecast():
    members = predictions(rows({"a": 1.0, "b": 1.0}, origins=1, horizons=1))
    a = Quantiles.of(members["a"].frame.filter(pl.col("unique_id") != "s0"))

    combined = SimplexCombiner().apply({"a": a, "b": members["b"]}, {"weights": {"1": {"a": 1.0, "b": 0.0}}}).frame

    assert combined.height == members["b"].frame.height
    assert combined.filter(unique_id="s0").equals(members["b"].frame.filter(unique_id="s0"))


def test_rows_that_no_member_covers_are_absent():
    members = {
        name: Quantiles.of(its.frame.filter(pl.col("unique_id") != "s0"))
        for name, its in predictions(rows({"a": 1.0, "b": 1.0}, origins=1)).items()
    }

    combined = SimplexCombiner().apply(members, {"weights": {"1": {"a": 1.0}, "2": {"b": 1.0}}}).frame

    assert "s0" not in combined["unique_id"].to_list()
    assert combined.height == members["a"].frame.height


def test_a_horizon_never_learnt_takes_the_nearest_ones_weights():
    members = predictions(rows({"a": 1.0, "b": 1.0}, origins=1, horizons=4))

    combined = SimplexCombiner().apply(members, {"weights": {"1": {"a": 1.0}, "2": {"b": 1.0}}}).frame

    assert combined.filter(pl.col("horizon") >= 2).equals(members["b"].frame.filter(pl.col("horizon") >= 2))


def test_no_member_at_all_and_no_rows_at_all_are_errors_with_a_remedy():
    with pytest.raises(TrainingError, match="no member delivered"):
        SimplexCombiner().apply({}, {"members": ["a"], "weights": {}})
    with pytest.raises(ConfigError, match="got 0 out-of-fold rows"):
        SimplexCombiner().fit(rows({"a": 1.0}).clear(), WEIGHTED, baselines=[])
    for column in ("y", "scale"):
        unknown = rows({"a": 1.0}).with_columns(
            pl.when(pl.col("unique_id") == "s3").then(None).otherwise(column).alias(column)
        )
        with pytest.raises(ConfigError, match="no actual or no scale, first of series 's3'"):
            SimplexCombiner().fit(unknown, WEIGHTED, baselines=[])
    doubled = rows({"a": 1.0})
    with pytest.raises(ConfigError, match="member 'a' has series 's0' twice"):
        SimplexCombiner().fit(pl.concat([doubled, doubled]), WEIGHTED, baselines=[])


def test_the_ensembles_own_rows_use_weights_of_closed_origins_only():
    oof = rows({"good": 1.0, "bad": 6.0, "naive": 4.0}, origins=14, horizons=3)
    at = DAYS.shift(START, 9)
    opened = pl.col("cutoff") > DAYS.shift(at, -3)
    scrambled = oof.with_columns(y=pl.when(opened).then(500 - pl.col("y")).otherwise("y"))

    first, second = (
        SimplexCombiner().prequential_oof(frame, CombinerPlan(), ["naive"], 3, DAYS) for frame in (oof, scrambled)
    )

    keep = pl.col("cutoff") <= at
    assert first.filter(keep).drop("y").equals(second.filter(keep).drop("y"))
    assert not first.filter(~keep).drop("y").equals(second.filter(~keep).drop("y"))


def test_origins_before_the_first_closed_one_are_combined_equally():
    oof = rows({"good": 1.0, "bad": 6.0}, origins=8, horizons=2)
    equal = SimplexCombiner().apply(predictions(oof), {"weights": {"1": {"good": 0.5, "bad": 0.5}}}).frame

    own = SimplexCombiner().prequential_oof(oof, WEIGHTED, [], 2, DAYS)

    both = own.join(equal, on=["unique_id", "cutoff", "horizon"], suffix="_equal")
    gap = dict(both.group_by("cutoff").agg((pl.col("q50") - pl.col("q50_equal")).abs().max()).rows())
    assert [gap[DAYS.shift(START, i)] for i in (0, 1)] == pytest.approx([0, 0], abs=1e-9)
    assert min(gap[DAYS.shift(START, i)] for i in range(2, 8)) > 1e-3
    assert own.columns == ["unique_id", "ds", "cutoff", "horizon", "model", *QUANTILES, "y", "scale"]
    assert own["model"].unique().to_list() == ["ensemble"]
    assert own.height * 2 == oof.height


def test_once_weights_are_learnt_the_ensemble_beats_the_equal_mix_of_a_good_and_a_bad_member():
    oof = rows({"good": 1.0, "bad": 6.0}, origins=30)
    late = pl.col("cutoff") >= DAYS.shift(START, 5)

    weighted = SimplexCombiner().prequential_oof(oof, CombinerPlan(), [], 2, DAYS).filter(late)
    mean = SimplexCombiner().prequential_oof(oof, CombinerPlan(method="mean"), [], 2, DAYS).filter(late)

    assert pinball(weighted) < 0.8 * pinball(mean)


def test_eight_members_on_twenty_thousand_rows_are_combined_in_seconds():
    oof = rows({f"m{i}": 1.0 + i / 2 for i in range(8)}, origins=24, series=140, horizons=6)

    begun = time.perf_counter()
    table = SimplexCombiner().fit(oof, CombinerPlan(), baselines=["m7"])

    assert len(table["weights"]) == 6
    assert time.perf_counter() - begun < 60
