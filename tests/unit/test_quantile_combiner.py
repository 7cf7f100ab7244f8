"""Ensembles of quantiles: given weights, greedy selection, stacking, seeds; and how a workload file asks for them."""

from __future__ import annotations

import json
import math
from datetime import datetime
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from pydantic import ValidationError

from models.catalog import FORECASTERS
from models.ensembles.quantiles import QuantileCombiner
from models.ensembles.selection import greedy_selection, simplex_optimum
from models.ensembles.simplex import SimplexCombiner
from nightcast.contracts.columns import QUANTILES
from nightcast.contracts.errors import ConfigError, NightcastError
from nightcast.contracts.frequency import Frequency
from nightcast.contracts.prediction import Quantiles
from nightcast.contracts.recipe import CombinerPlan, ModelChoice, Recipe
from nightcast.sources.spec import load_workload_file
from workloads.catalog import get_workload, workload_path

DAYS = Frequency.parse("D")
START = datetime(2024, 1, 1)
KEYS = ["unique_id", "ds", "cutoff", "horizon"]
GREEDY = CombinerPlan(method="greedy", shrinkage=0.0)
RIDGE = CombinerPlan(method="stacking", shrinkage=0.0)
BOOSTING = CombinerPlan.model_validate({"method": "stacking", "shrinkage": 0.0, "meta": {"kind": "boosting"}})
BOLD = QuantileCombiner(caution=0.0)
"""Holds nothing back, so that what is learned shows as it is."""
WEIGHTS = {"a": 0.4, "b": 0.3, "c": 0.3}
GIVEN = CombinerPlan(weights=WEIGHTS)


def rows(
    noise: dict[str, float],
    *,
    seed: int = 0,
    origins: int = 30,
    series: int = 8,
    horizons: int = 2,
    truth: dict[str, float] | None = None,
) -> pl.DataFrame:
    """Members whose median errs by so much; with `truth`, the actual is that linear combination of the medians."""
    rng = np.random.default_rng(seed)
    keys = [
        (f"s{s}", DAYS.shift(START, o + h), DAYS.shift(START, o), h)
        for o in range(origins)
        for s in range(series)
        for h in range(1, horizons + 1)
    ]
    schema = {"unique_id": pl.String, "ds": pl.Datetime("us"), "cutoff": pl.Datetime("us"), "horizon": pl.Int32}
    base = pl.DataFrame(keys, schema=schema, orient="row")
    y = rng.uniform(20, 80, len(keys))
    medians = {name: y + rng.normal(size=len(keys)) * its for name, its in noise.items()}
    if truth is not None:
        y = sum(weight * medians[name] for name, weight in truth.items()) + rng.normal(0, 0.2, len(keys))
    spread = {name: 1 + i for i, name in enumerate(noise)}
    return pl.concat(
        base.with_columns(
            pl.lit(name).alias("model"),
            *(pl.Series(q, median + spread[name] * (i - 4)) for i, q in enumerate(QUANTILES)),
            y=pl.Series(y),
            scale=pl.lit(50.0),
        )
        for name, median in medians.items()
    )


def predictions(oof: pl.DataFrame) -> dict[str, Quantiles]:
    return {str(key[0]): Quantiles.of(part) for key, part in oof.partition_by("model", as_dict=True).items()}


def matrix(frame: pl.DataFrame, columns: tuple[str, ...] = QUANTILES) -> np.ndarray:
    return frame.sort("cutoff", "unique_id", "horizon").select(columns).to_numpy()


def miss(frame: pl.DataFrame) -> float:
    return float((frame["q50"] - frame["y"]).abs().mean())


# -- given weights ---------------------------------------------------------------------------------------------------


def test_given_weights_are_taken_exactly_as_they_are_at_every_horizon():
    oof = rows({"a": 9.0, "b": 1.0, "c": 4.0, "naive": 5.0})

    table = QuantileCombiner().fit(oof, GIVEN, baselines=["naive"])

    assert table["weights"] == {h: {"a": 0.4, "b": 0.3, "c": 0.3, "naive": 0.0} for h in ("1", "2")}
    assert {its["method"] for its in table["evidence"].values()} == {"given"}
    joined = matrix(QuantileCombiner().apply(predictions(oof), table).frame)
    by_hand = sum(weight * matrix(oof.filter(model=name)) for name, weight in WEIGHTS.items())
    assert joined == pytest.approx(by_hand, abs=1e-12)


def test_given_weights_need_no_closed_origin():
    oof = rows({"a": 9.0, "b": 1.0, "c": 4.0}, origins=4)

    own = QuantileCombiner().prequential_oof(oof, GIVEN, [], 2, DAYS)

    by_hand = sum(weight * matrix(oof.filter(model=name)) for name, weight in WEIGHTS.items())
    assert matrix(own) == pytest.approx(by_hand, abs=1e-12)


def test_given_weights_that_do_worse_than_the_naive_give_way_to_it():
    oof = rows({"a": 20.0, "b": 20.0, "c": 20.0, "naive": 1.0})

    table = QuantileCombiner().fit(oof, GIVEN, baselines=["naive"])

    assert all(its["guard"] for its in table["evidence"].values())
    assert table["weights"]["1"] == {"a": 0.0, "b": 0.0, "c": 0.0, "naive": 1.0}
    # No outcome was needed for the weights, so every origin judges them; learned ones need two closed origins first.
    assert table["evidence"]["1"]["judged_origins"] == 30


def test_given_weights_are_scaled_to_sum_to_one_over_the_members_that_delivered():
    table = QuantileCombiner().fit(
        rows({"a": 1.0, "b": 1.0}), CombinerPlan(weights={"a": 3, "b": 1, "c": 4}), baselines=[]
    )

    assert table["weights"]["1"] == {"a": 0.75, "b": 0.25}


def test_without_any_member_of_the_given_weights_the_rest_weigh_equally_and_the_evidence_says_why():
    table = QuantileCombiner().fit(rows({"x": 1.0, "z": 1.0}), GIVEN, baselines=[])

    assert table["weights"]["1"] == {"x": 0.5, "z": 0.5}
    assert table["evidence"]["1"]["method"] == "mean"
    assert "no member with a given weight" in table["evidence"]["1"]["why"]


def test_a_member_that_lacks_a_row_leaves_its_given_weight_to_the_others():
    oof = rows({"a": 1.0, "b": 1.0, "c": 1.0}).filter((pl.col("model") != "c") | (pl.col("unique_id") != "s3"))
    table = QuantileCombiner().fit(oof, GIVEN, baselines=[])

    joined = QuantileCombiner().apply(predictions(oof), table).frame.filter(unique_id="s3")

    a, b = (matrix(oof.filter(model=name, unique_id="s3")) for name in "ab")
    assert matrix(joined) == pytest.approx((0.4 * a + 0.3 * b) / 0.7)


# -- greedy selection ------------------------------------------------------------------------------------------------


def test_greedy_gives_a_perfect_member_nearly_all():
    oof = rows({"perfect": 0.0, "bad": 8.0, "worse": 12.0})

    for weights in BOLD.fit(oof, GREEDY, baselines=[])["weights"].values():
        assert weights["perfect"] == 1.0
    for weights in QuantileCombiner().fit(oof, GREEDY, baselines=[])["weights"].values():
        assert weights["perfect"] > 0.85


def test_greedy_drops_a_member_that_never_helps_and_the_simplex_agrees_on_the_rest():
    oof = rows({"a": 2.0, "b": 3.0, "noise": 40.0}, origins=200, series=4, horizons=1)
    values = np.stack([matrix(oof.filter(model=name)) for name in ("a", "b", "noise")], axis=1)
    y, scale = matrix(oof.filter(model="a"), ("y",))[:, 0], np.full(800, 50.0)

    greedy, optimum = greedy_selection(values, y, scale), simplex_optimum(values, y, scale)

    assert greedy[2] == 0.0
    assert greedy == pytest.approx(optimum, abs=0.06)
    assert sum(greedy) == pytest.approx(1)


def test_greedy_weights_are_shares_of_the_additions():
    values = np.array([[[10.0] * 9, [0.0] * 9]] * 20)

    # The best mixture of 10 and 0 for an actual of 7.5 adds the first three times, the second once.
    assert greedy_selection(values, np.full(20, 7.5), np.ones(20)).tolist() == [0.75, 0.25]
    assert greedy_selection(values[:, :1], np.full(20, 7.5), np.ones(20)).tolist() == [1.0]
    assert greedy_selection(values[:0], np.empty(0), np.empty(0)).tolist() == [0.5, 0.5]


def test_greedy_keeps_the_cautions_of_the_simplex():
    oof = rows({"good": 1.0, "bad": 12.0, "naive": 9.0}, origins=4, series=40)

    few = QuantileCombiner(doubt=math.inf).fit(oof, GREEDY, baselines=[])["weights"]["1"]
    floored = QuantileCombiner(trim=1.0, caution=0.0).fit(oof, GREEDY, baselines=["naive"])["weights"]["1"]
    beaten = QuantileCombiner().fit(rows({"a": 20.0, "naive": 1.0}), GREEDY, baselines=["naive"])

    # 4 / (4 + 6) of the way from a third to one.
    assert few["good"] == pytest.approx(0.4 + 0.6 / 3)
    assert floored["naive"] == pytest.approx(0.05)
    assert beaten["weights"]["1"]["naive"] > 0.6


# -- stacking --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("truth", [{"a": 0.7, "b": 0.5}, {"a": 0.2, "b": 0.6}])
def test_a_ridge_learns_a_planted_linear_combination_that_no_weights_reach(truth: dict[str, float]):
    oof = rows({"a": 6.0, "b": 6.0, "c": 6.0}, truth=truth, origins=60)

    table = BOLD.fit(oof, RIDGE, baselines=[])

    for found in table["stack"]["coefficients"].values():
        assert found == pytest.approx([truth["a"], truth["b"], 0.0], abs=0.03)
    joined = BOLD.apply(predictions(oof), table).frame.join(oof.filter(model="a").select(*KEYS, "y"), on=KEYS)
    weighted = BOLD.apply(predictions(oof), {**table, "stack": None}).frame
    weighted = weighted.join(oof.filter(model="a").select(*KEYS, "y"), on=KEYS)
    assert miss(joined) < 0.3
    assert miss(weighted) > 5 * miss(joined)


def test_a_planted_member_that_counts_against_itself_needs_the_ridge_to_be_free():
    oof = rows({"a": 6.0, "b": 6.0}, truth={"a": 1.3, "b": -0.3}, origins=60)
    free = CombinerPlan.model_validate({"method": "stacking", "shrinkage": 0.0, "meta": {"nonnegative": False}})

    held = BOLD.fit(oof, RIDGE, baselines=[])["stack"]["coefficients"]["1"]
    found = BOLD.fit(oof, free, baselines=[])["stack"]["coefficients"]["1"]

    assert min(held) >= 0
    assert found == pytest.approx([1.3, -0.3], abs=0.03)


def test_a_strong_ridge_is_the_learned_weights():
    oof = rows({"a": 6.0, "b": 6.0}, truth={"a": 0.7, "b": 0.7})
    strong = CombinerPlan.model_validate({"method": "stacking", "shrinkage": 0.0, "meta": {"strength": 1e9}})

    table = BOLD.fit(oof, strong, baselines=[])

    assert table["stack"]["coefficients"]["1"] == pytest.approx(list(table["weights"]["1"].values()), abs=1e-4)


def test_a_ridge_of_moderate_strength_is_the_optimum_on_a_grid():
    oof = rows({"a": 6.0}, truth={"a": 1.2}, horizons=1)
    plan = CombinerPlan.model_validate({"method": "stacking", "shrinkage": 0.0, "meta": {"strength": 3000.0}})
    x, y = matrix(oof, ("q50",))[:, 0] / 50, matrix(oof, ("y",))[:, 0] / 50
    typical = float(np.abs(y - x).mean())

    def objective(b: float) -> float:
        return float(np.sqrt((y - b * x) ** 2 + (0.02 * typical) ** 2).mean()) / typical + 3000 / 30 * (b - 1) ** 2

    found = BOLD.fit(oof, plan, baselines=[])["stack"]["coefficients"]["1"]

    grid = np.linspace(1, 1.3, 3001)
    assert found == pytest.approx([grid[np.argmin([objective(b) for b in grid])]], abs=1e-3)
    assert 1.02 < found[0] < 1.18


def test_boosting_learns_what_depends_on_the_horizon():
    """One member, right at the first horizon and a tenth too high at the second: nothing else tells them apart."""
    oof = rows({"a": 1.0}, origins=60, series=12)
    oof = oof.with_columns(y=pl.when(pl.col("horizon") == 2).then(0.9 * pl.col("y")).otherwise("y"))

    table = BOLD.fit(oof, BOOSTING, baselines=[])
    joined = BOLD.apply(predictions(oof), table).frame.join(oof.select(*KEYS, "y"), on=KEYS)

    near, far = (joined.filter(horizon=h) for h in (1, 2))
    assert abs(float((near["q50"] / near["y"]).median()) - 1) < 0.01
    assert abs(float((far["q50"] / far["y"]).median()) - 1) < 0.03


def test_boosting_weighs_rows_by_the_loss_they_count_for():
    """Five of eight series lie a fifth above the member, on a scale that makes a fifth next to nothing."""
    oof = rows({"a": 0.5}, origins=40)
    light = pl.col("unique_id") < "s5"
    oof = oof.with_columns(
        y=pl.when(light).then(1.2 * pl.col("y")).otherwise("y"), scale=pl.when(light).then(5000.0).otherwise(50.0)
    )

    joined = BOLD.apply(predictions(oof), BOLD.fit(oof, BOOSTING, baselines=[])).frame

    moved = (joined.sort(*KEYS)["q50"] / oof.sort(*KEYS)["q50"]).median()
    assert moved == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("plan", [RIDGE, BOOSTING])
def test_with_few_origins_stacking_falls_back_to_the_learned_weights_and_says_so(plan: CombinerPlan):
    oof = rows({"a": 2.0, "b": 6.0}, origins=20)

    few = QuantileCombiner().fit(oof, plan, baselines=[])
    weighted = QuantileCombiner().fit(oof, CombinerPlan(shrinkage=0.0), baselines=[])
    enough = QuantileCombiner().fit(rows({"a": 2.0, "b": 6.0}, origins=21), plan, baselines=[])

    assert "stack" not in few
    assert few["weights"] == weighted["weights"]
    assert {its["method"] for its in few["evidence"].values()} == {"weighted"}
    assert "20 origins, and stacking needs more than 20" in few["evidence"]["1"]["why"]
    assert enough["stack"]["kind"] == (plan.meta.kind if plan.meta else "ridge")
    assert enough["evidence"]["1"]["method"] == "stacking"
    assert enough["evidence"]["1"]["why"] is None


@pytest.mark.parametrize("plan", [RIDGE, BOOSTING])
def test_the_spread_of_a_stack_is_that_of_the_weighted_members(plan: CombinerPlan):
    oof = rows({"a": 6.0, "b": 6.0}, truth={"a": 0.7, "b": 0.7})
    table = BOLD.fit(oof, plan, baselines=[])

    joined = BOLD.apply(predictions(oof), table).frame
    weighted = BOLD.apply(predictions(oof), {**table, "stack": None}).frame

    moved = matrix(joined) - matrix(weighted)
    assert np.abs(moved).max() > 1
    assert np.ptp(moved, axis=1).max() == pytest.approx(0, abs=1e-9)
    assert (np.diff(matrix(joined), axis=1) >= 0).all()


def test_a_stack_is_held_back_in_the_measure_of_shrinkage_and_origins():
    oof = rows({"a": 6.0, "b": 6.0}, truth={"a": 0.7, "b": 0.7}, origins=30)

    table = QuantileCombiner().fit(oof, CombinerPlan(method="stacking", shrinkage=0.4), baselines=[])

    assert table["stack"]["trust"] == pytest.approx(0.6 * 30 / 36)
    full = QuantileCombiner().apply(predictions(oof), {**table, "stack": {**table["stack"], "trust": 1.0}}).frame
    none = QuantileCombiner().apply(predictions(oof), {**table, "stack": None}).frame
    held = QuantileCombiner().apply(predictions(oof), table).frame
    assert matrix(held) == pytest.approx(0.5 * (matrix(full) + matrix(none)))


@pytest.mark.parametrize("plan", [RIDGE, BOOSTING])
def test_a_stack_worse_than_the_naive_gives_way_to_it(plan: CombinerPlan):
    oof = rows({"a": 30.0, "b": 30.0, "naive": 0.5}, origins=26)
    twist = 1 - 2 * (pl.col("cutoff").dt.ordinal_day() % 2)
    # The naive is off and on good, so that no weights learned from the past lean on it; now it is always good.
    late = pl.col("cutoff") >= DAYS.shift(START, 13)
    oof = oof.with_columns(
        pl.when(~late & (pl.col("model") == "naive")).then(pl.col(q) + 200 * twist).otherwise(q).alias(q)
        for q in QUANTILES
    )

    table = QuantileCombiner(judged_origins=3).fit(
        oof.filter(late | (pl.col("model") != "naive")), plan, baselines=["naive"]
    )

    assert all(its["guard"] for its in table["evidence"].values())
    assert table["weights"]["1"]["naive"] == 1.0
    assert table["stack"]["horizons"] == []
    served = QuantileCombiner().apply(predictions(oof.filter(late)), table).frame
    assert matrix(served) == pytest.approx(matrix(oof.filter(late, model="naive")))


@pytest.mark.parametrize("plan", [RIDGE, BOOSTING])
def test_a_stack_survives_json_and_gives_the_same_bits(plan: CombinerPlan):
    oof = rows({"a": 3.0, "b": 6.0, "c": 4.0})
    table = QuantileCombiner().fit(oof, plan, baselines=["c"])

    text = json.dumps(table, allow_nan=False)
    again = QuantileCombiner().fit(oof.sample(fraction=1, shuffle=True, seed=1), plan, baselines=["c"])

    assert json.loads(text) == table
    assert json.dumps(again, allow_nan=False) == text
    first, second = (QuantileCombiner().apply(predictions(oof), its).frame for its in (table, json.loads(text)))
    assert first.equals(second)


@pytest.mark.parametrize("plan", [RIDGE, BOOSTING])
def test_a_stacks_member_that_lacks_a_row_counts_as_the_others_there(plan: CombinerPlan):
    oof = rows({"a": 3.0, "b": 3.0}, truth={"a": 0.6, "b": 0.4})
    table = BOLD.fit(oof, plan, baselines=[])
    alone = {"a": predictions(oof)["a"]}
    twins = {**alone, "b": alone["a"]}

    assert matrix(BOLD.apply(alone, table).frame) == pytest.approx(matrix(BOLD.apply(twins, table).frame), abs=1e-9)


@pytest.mark.parametrize("plan", [GIVEN, GREEDY, RIDGE, BOOSTING, CombinerPlan(), CombinerPlan(method="mean")])
def test_the_ensembles_own_rows_know_closed_origins_only(plan: CombinerPlan):
    oof = rows({"a": 2.0, "b": 5.0, "c": 4.0, "naive": 4.5}, origins=30, horizons=3, series=5)
    at = DAYS.shift(START, 26)
    opened = pl.col("cutoff") > DAYS.shift(at, -3)
    scrambled = oof.with_columns(y=pl.when(opened).then(500 - pl.col("y")).otherwise("y"))

    first, second = (QuantileCombiner().prequential_oof(frame, plan, ["naive"], 3, DAYS) for frame in (oof, scrambled))

    keep = pl.col("cutoff") <= at
    assert first.filter(keep).drop("y").equals(second.filter(keep).drop("y"))
    learns = plan.method != "mean" and plan.weights is None
    assert first.filter(~keep).drop("y").equals(second.filter(~keep).drop("y")) is not learns


@pytest.mark.parametrize("plan", [RIDGE, BOOSTING])
def test_the_last_origins_own_rows_are_what_a_fit_on_the_closed_ones_gives(plan: CombinerPlan):
    oof = rows({"a": 3.0, "b": 6.0}, truth={"a": 0.6, "b": 0.6}, origins=30)
    last = DAYS.shift(START, 29)
    closed = oof.filter(pl.col("cutoff") <= DAYS.shift(last, -2))

    own = QuantileCombiner().prequential_oof(oof, plan, [], 2, DAYS).filter(cutoff=last)
    table = QuantileCombiner().fit(closed, plan, baselines=[])
    live = QuantileCombiner().apply(predictions(oof.filter(cutoff=last)), table).frame

    assert table["stack"]["horizons"] == [1, 2]
    assert matrix(own) == pytest.approx(matrix(live), abs=1e-9)


# -- faults ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("plan", [GREEDY, RIDGE, BOOSTING, CombinerPlan()])
def test_a_member_row_with_nan_counts_as_lacking(plan: CombinerPlan):
    oof = rows({"a": 2.0, "b": 5.0})
    hit = (pl.col("model") == "b") & (pl.col("unique_id") == "s3")

    holed = oof.with_columns(pl.when(hit).then(float("nan")).otherwise("q70").alias("q70"))

    assert QuantileCombiner().fit(holed, plan, baselines=[]) == QuantileCombiner().fit(
        oof.filter(~hit), plan, baselines=[]
    )


def test_rows_that_are_nan_altogether_are_an_error_that_names_a_member():
    oof = rows({"a": 2.0}).with_columns(q50=float("nan"))

    with pytest.raises(ConfigError, match="none of the 480 out-of-fold rows has finite quantiles, first of member 'a'"):
        QuantileCombiner().fit(oof, CombinerPlan(), baselines=[])


@pytest.mark.parametrize("plan", [GREEDY, RIDGE, BOOSTING, CombinerPlan(weights={"a": 2})])
def test_one_member_alone_weighs_all(plan: CombinerPlan):
    oof = rows({"a": 2.0})

    table = QuantileCombiner().fit(oof, plan, baselines=[])
    joined = QuantileCombiner().apply(predictions(oof), {**table, "stack": None}).frame

    assert table["weights"] == {"1": {"a": 1.0}, "2": {"a": 1.0}}
    assert matrix(joined) == pytest.approx(matrix(oof))
    assert np.isfinite(matrix(QuantileCombiner().apply(predictions(oof), table).frame)).all()


def test_a_series_at_zero_is_stacked_without_blowing_up():
    oof = rows({"a": 3.0, "b": 3.0}, origins=30)
    shut = pl.col("unique_id") == "s0"
    oof = oof.with_columns(
        *(pl.when(shut).then(0.0).otherwise(q).alias(q) for q in (*QUANTILES, "y")),
        scale=pl.when(shut).then(0.01).otherwise("scale"),
    )

    for plan in (RIDGE, BOOSTING):
        with np.errstate(divide="raise", invalid="raise"):
            table = QuantileCombiner().fit(oof, plan, baselines=[])
            joined = QuantileCombiner().apply(predictions(oof), table).frame
        assert np.abs(matrix(joined.filter(shut))).max() < 1
        assert np.abs(matrix(joined)).max() < 200


@pytest.mark.parametrize("method", ["voting", "blending"])
def test_methods_of_classes_are_refused(method: str):
    with pytest.raises(ConfigError, match=f"'{method}' does not combine quantiles"):
        QuantileCombiner().fit(rows({"a": 1.0}), CombinerPlan(method=method), baselines=[])


def test_a_bundle_of_an_earlier_release_is_applied_as_before():
    oof = rows({"a": 1.0, "b": 2.0}, origins=1)
    old = {"members": ["a", "b"], "weights": {"1": {"a": 0.25, "b": 0.75}, "2": {"a": 1.0, "b": 0.0}}, "evidence": {}}

    joined = SimplexCombiner().apply(predictions(oof), old).frame

    a, b = (matrix(oof.filter(model=name, horizon=1)) for name in "ab")
    assert matrix(joined.filter(horizon=1)) == pytest.approx(0.25 * a + 0.75 * b)


# -- seeds -----------------------------------------------------------------------------------------------------------


def test_seeds_are_averaged_and_weigh_as_one_member():
    oof = rows({"net": 4.0, "net#2": 4.0, "net#3": 4.0, "ses": 4.0})
    mean = (
        oof.filter(pl.col("model").str.starts_with("net"))
        .group_by(*KEYS)
        .agg(*(pl.col(q).mean() for q in QUANTILES), pl.col("y").first(), pl.col("scale").first())
        .with_columns(model=pl.lit("net"))
        .select(oof.columns)
    )
    bag = pl.concat([mean, oof.filter(model="ses")])

    for plan in (CombinerPlan(method="mean"), CombinerPlan(), GREEDY, CombinerPlan(weights={"net": 1, "ses": 3})):
        table = QuantileCombiner().fit(oof, plan, baselines=["ses"])
        by_hand = QuantileCombiner().fit(bag, plan, baselines=["ses"])
        assert table["members"] == ["net", "ses"]
        for horizon in ("1", "2"):
            assert table["weights"][horizon] == pytest.approx(by_hand["weights"][horizon], abs=1e-6)
        joined = QuantileCombiner().apply(predictions(oof), table).frame
        assert matrix(joined) == pytest.approx(matrix(QuantileCombiner().apply(predictions(bag), table).frame))
        own = QuantileCombiner().prequential_oof(oof, plan, ["ses"], 2, DAYS)
        assert matrix(own) == pytest.approx(
            matrix(QuantileCombiner().prequential_oof(bag, plan, ["ses"], 2, DAYS)), abs=1e-5
        )


def test_a_seed_that_failed_leaves_the_bag_to_the_others():
    oof = rows({"net": 4.0, "net#2": 4.0, "ses": 4.0})
    table = QuantileCombiner().fit(oof, CombinerPlan(weights={"net": 1.0}), baselines=[])
    left = {name: its for name, its in predictions(oof).items() if name != "net"}

    joined = QuantileCombiner().apply(left, table).frame

    assert matrix(joined) == pytest.approx(matrix(oof.filter(model="net#2")))


def test_the_same_row_twice_within_a_bag_is_still_refused():
    oof = rows({"net": 4.0, "net#2": 4.0})

    with pytest.raises(ConfigError, match="member 'net#2' has series 's0' twice"):
        QuantileCombiner().fit(pl.concat([oof, oof.filter(model="net#2")]), CombinerPlan(), baselines=[])


# -- plans and workload files ----------------------------------------------------------------------------------------


def test_a_recipe_that_does_not_use_the_new_options_keeps_its_hash():
    recipe = Recipe(horizon=6, models=(ModelChoice(name="ses", label="ses"),))

    assert recipe.model_dump(mode="json")["combiner"] == {"method": "weighted", "shrinkage": 0.3}
    assert recipe.hash == "042be8c0cac13133"
    others = [CombinerPlan(weights={"ses": 1}), RIDGE, BOOSTING, GREEDY]
    assert len({recipe.model_copy(update={"combiner": plan}).hash for plan in others} | {recipe.hash}) == 5
    for plan in others:
        assert CombinerPlan.model_validate_json(plan.model_dump_json()) == plan


@pytest.mark.parametrize(
    ("plan", "words"),
    [
        ({"weights": {"a": -0.1}}, "weight of 'a'"),
        ({"weights": {"a": float("nan")}}, "weight of 'a'"),
        ({"weights": {"a": float("inf")}}, "weight of 'a'"),
        ({"weights": {"a": 0, "b": 0}}, "above 0"),
        ({"weights": {}}, "above 0"),
        ({"weights": {"a": 1}, "method": "greedy"}, "weighted only, not with greedy"),
        ({"meta": {"kind": "ridge"}}, "belongs to method stacking, not to weighted"),
        ({"meta": {"kind": "forest"}, "method": "stacking"}, "'ridge' or 'boosting'"),
    ],
)
def test_a_plan_that_makes_no_sense_is_refused(plan: dict[str, object], words: str):
    with pytest.raises(ValidationError, match=words):
        CombinerPlan.model_validate(plan)


HEAD = (
    "name: tiny\nkind: panel\nsource: {path: t.parquet}\ncolumns: {id: a, time: b, target: c}\nfreq: MS\nhorizon: 3\n"
)


def write(folder: Path, text: str, head: str = HEAD) -> Path:
    path = folder / "tiny.yaml"
    path.write_text(head + text)
    return path


def test_a_file_names_models_alone_or_with_label_seeds_and_parameters(tmp_path: Path):
    path = write(
        tmp_path,
        "models: [ses, {name: lightgbm_global, label: small, seeds: 3, params: {rounds: 7}}, lightgbm_global]\n",
    )

    recipe = get_workload(path).recipe("ci")

    assert [choice.label for choice in recipe.models] == ["ses", "small", "small#2", "small#3", "lightgbm_global"]
    assert [choice.seed_index for choice in recipe.models] == [0, 0, 1, 2, 0]
    preset = FORECASTERS["lightgbm_global"].presets["ci"]
    assert [choice.params for choice in recipe.models[1:4]] == [{**preset, "rounds": 7}] * 3
    assert recipe.models[4] == FORECASTERS.choose("lightgbm_global", "ci")
    assert get_workload(path).baselines == ("ses",)


def test_a_baseline_under_another_label_is_still_a_baseline(tmp_path: Path):
    path = write(tmp_path, "models: [{name: ses, label: smooth}, theta]\n")

    assert get_workload(path).baselines == ("smooth",)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("models: [ses, ses]", ("models", "'ses' stands twice", "label")),
        ("models: [{name: ses, label: theta}, theta]", ("'theta' stands twice",)),
        ("models: [{name: ses, label: ensemble}]", ("another label than 'ensemble'",)),
        ("models: [{name: ses, label: 'ses#2'}]", ("models.0.label", "'ses#2'")),
        ("models: [{name: ses, seeds: 0}]", ("models.0.seeds", "0")),
        ("models: [{name: ses, seed: 2}]", ("unknown key 'models.0.seed'", "did you mean 'seeds'?")),
        ("models: [{label: ses}]", ("'models.0.name' is missing",)),
        ("models: [{name: sess}]", ("unknown model 'sess'",)),
        ("models: [{name: ses, params: {eror_fits: 3}}]", ("no parameter 'eror_fits'", "error_fits")),
        ("models: [ses]\nrecipe: {combiner: {weights: {sess: 1}}}", ("'sess'", "labels among ses")),
        ("models: [{name: ses, seeds: 2}]\nrecipe: {combiner: {weights: {'ses#2': 1}}}", ("'ses#2'", "one weight")),
        ("recipe: {combiner: {weights: {ses: -1}}}", ("recipe", "weights", "the weight of 'ses'", "0 or more")),
        ("recipe: {combiner: {method: voting}}", ("'voting' does not combine quantiles", "stacking")),
    ],
)
def test_a_wrong_line_about_the_ensemble_is_named_with_what_would_be_right(
    tmp_path: Path, text: str, words: tuple[str, ...]
):
    path = write(tmp_path, text + "\n")

    with pytest.raises(NightcastError) as caught:
        get_workload(path).recipe("ci")

    assert "value error" not in str(caught.value).lower()
    for word in words:
        assert word in str(caught.value)


BARS = "name: toy\nkind: bars\nsource: {path: bars.parquet}\n"


def test_bars_take_labels_and_parameters_too(tmp_path: Path):
    path = write(tmp_path, "models: [climatology, {name: logistic, label: strict, params: {c: 0.01}}]\n", BARS)

    recipe = get_workload(path).recipe("ci")

    assert [choice.label for choice in recipe.models] == ["climatology", "strict"]
    assert recipe.models[1].params["c"] == 0.01


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("models: [climatology, {name: logistic, seeds: 2}]", ("2 seeds of 'logistic'", "seeds: 1")),
        ("recipe: {combiner: {method: greedy}}", ("'greedy'", "voting")),
        ("recipe: {combiner: {weights: {logistic: 1}}}", ("weights", "voting")),
        ("recipe: {combiner: {method: stacking, meta: {kind: ridge}}}", ("meta", "voting")),
    ],
)
def test_what_only_quantiles_have_is_refused_for_bars(tmp_path: Path, text: str, words: tuple[str, ...]):
    with pytest.raises(ConfigError) as caught:
        get_workload(write(tmp_path, text + "\n", BARS)).recipe("ci")

    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("name", "models", "weights"),
    [
        (
            "wells_weighted3",
            [
                ("tsmixerx", {"dropout": 0.1, "hidden": 64}),
                ("tsmixerx", {"dropout": 0.15, "hidden": 128}),
                ("multiscale_tsmixer", {"scales": [1, 2, 4]}),
            ],
            [0.4, 0.3, 0.3],
        ),
        (
            "wells_ensemble4",
            [
                ("tsmixerx", {"dropout": 0.1}),
                ("tsmixerx", {"dropout": 0.15}),
                ("tsmixerx", {"dropout": 0.2}),
                ("multiscale_tsmixer", {"scales": [1, 2, 4]}),
            ],
            [0.3, 0.3, 0.2, 0.2],
        ),
    ],
)
def test_the_shipped_ensembles_hold_the_models_and_weights_of_the_specification(
    name: str, models: list[tuple[str, dict[str, object]]], weights: list[float]
):
    spec = load_workload_file(Path(str(workload_path("wells"))).parent / f"{name}.yaml")

    assert spec.name == name
    assert spec.source.kind == "field_generator"
    lines = spec.models or ()
    naive = [line for line in lines if line.name in FORECASTERS and FORECASTERS[line.name].capabilities.baseline]
    others = [line for line in lines if line not in naive]
    assert [(line.name, line.params) for line in others] == models
    plan = CombinerPlan.model_validate(spec.recipe["combiner"])
    assert plan.weights == dict(zip([line.title for line in others], weights, strict=True))
    assert naive, "the guard needs a yardstick"
