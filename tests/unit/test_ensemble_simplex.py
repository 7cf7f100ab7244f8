import json
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
    assert many["weights"]["1"]["a"] == pytest.approx(0.5)


def test_the_guard_picks_the_baseline_that_is_hardest_to_beat():
    oof = rows({"model": 9.0, "naive": 5.0, "drift": 0.2})

    table = SimplexCombiner().fit(oof, CombinerPlan(method="mean"), baselines=["naive", "drift", "absent"])

    assert table["weights"]["1"]["drift"] == 1.0


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
