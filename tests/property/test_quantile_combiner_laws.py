"""Laws of the ensembles of quantiles, whatever the members."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.ensembles.quantiles import QuantileCombiner
from models.ensembles.selection import greedy_selection
from nightcast.contracts.columns import QUANTILES
from nightcast.contracts.frequency import Frequency
from nightcast.contracts.prediction import Quantiles
from nightcast.contracts.recipe import CombinerPlan

DAYS = Frequency.parse("D")
START = datetime(2024, 1, 1)
KEYS = ["unique_id", "ds", "cutoff", "horizon"]
EARLY = QuantileCombiner(stack_origins=2)
"""Stacks from three origins on, so that small panels reach it."""


def rows(seed: int, members: int, origins: int, series: int, horizons: int, missing: float) -> pl.DataFrame:
    """Members of differing quality; a share of the rows is missing, of `m0` none."""
    rng = np.random.default_rng(seed)
    keys = [
        (f"s{s}", DAYS.shift(START, o + h), DAYS.shift(START, o), h)
        for o in range(origins)
        for s in range(series)
        for h in range(1, horizons + 1)
    ]
    schema = {"unique_id": pl.String, "ds": pl.Datetime("us"), "cutoff": pl.Datetime("us"), "horizon": pl.Int32}
    base = pl.DataFrame(keys, schema=schema, orient="row")
    y = rng.gamma(2, 20, len(keys))
    parts = []
    for m in range(members):
        q = np.sort(y[:, None] + rng.normal(0, 2 + 3 * m, (len(keys), 1)) + rng.normal(0, 4, (len(keys), 9)), axis=1)
        part = base.with_columns(
            pl.lit(f"m{m}").alias("model"),
            *(pl.Series(name, q[:, i]) for i, name in enumerate(QUANTILES)),
            y=pl.Series(y),
            scale=pl.lit(20.0),
        )
        parts.append(part.filter(pl.Series(rng.random(len(keys)) >= missing)) if m else part)
    return pl.concat(parts)


frames = st.builds(
    rows,
    st.integers(0, 9999),
    st.integers(1, 4),
    st.integers(1, 8),
    st.integers(1, 4),
    st.integers(1, 3),
    st.sampled_from([0.0, 0.3]),
)


def plan_of(method: str, shrinkage: float, meta: str) -> CombinerPlan:
    """A plan; `given` are weights of the first two members."""
    if method == "given":
        return CombinerPlan(weights={"m0": 1.0, "m1": 3.0})
    extra: dict[str, Any] = {"meta": {"kind": meta, "rounds": 10}} if method == "stacking" else {}
    return CombinerPlan.model_validate({"method": method, "shrinkage": shrinkage, **extra})


plans = st.builds(
    plan_of,
    st.sampled_from(["weighted", "mean", "greedy", "stacking", "given"]),
    st.sampled_from([0.0, 0.3, 1.0]),
    st.sampled_from(["ridge", "boosting"]),
)
baselines = st.sampled_from([[], ["m0"], ["m1", "m2"]])


def predictions(oof: pl.DataFrame) -> dict[str, Quantiles]:
    return {str(key[0]): Quantiles.of(part) for key, part in oof.partition_by("model", as_dict=True).items()}


def values(frame: pl.DataFrame) -> np.ndarray:
    return frame.sort(KEYS).select(QUANTILES).to_numpy()


@settings(max_examples=40, deadline=None)
@given(oof=frames, plan=plans, naive=baselines)
def test_weights_lie_on_the_simplex_and_the_table_is_json(oof, plan, naive):
    table = EARLY.fit(oof, plan, baselines=naive)

    assert json.loads(json.dumps(table, allow_nan=False)) == table
    assert sorted(map(int, table["weights"])) == oof["horizon"].unique().sort().to_list()
    for weights in table["weights"].values():
        assert list(weights) == table["members"] == oof["model"].unique().sort().to_list()
        assert all(0 <= weight <= 1 for weight in weights.values())
        assert sum(weights.values()) == pytest.approx(1)


@settings(max_examples=30, deadline=None)
@given(oof=frames, plan=plans, naive=baselines)
def test_every_row_that_a_member_covers_is_combined_and_no_levels_cross(oof, plan, naive):
    joined = EARLY.apply(predictions(oof), EARLY.fit(oof, plan, baselines=naive)).frame
    own = EARLY.prequential_oof(oof, plan, naive, int(oof["horizon"].max()), DAYS)

    for frame in (joined, own):
        assert frame.select(KEYS).sort(KEYS).equals(oof.select(KEYS).unique().sort(KEYS))
        assert np.isfinite(values(frame)).all()
        assert (np.diff(values(frame), axis=1) >= 0).all()


@settings(max_examples=20, deadline=None)
@given(oof=frames, plan=plans, order=st.randoms(use_true_random=False))
def test_the_order_of_rows_does_not_matter_to_the_last_bit(oof, plan, order):
    shuffled = oof.sample(fraction=1, shuffle=True, seed=order.randrange(1000))

    assert EARLY.fit(oof, plan, baselines=["m0"]) == EARLY.fit(shuffled, plan, baselines=["m0"])


@settings(max_examples=20, deadline=None)
@given(oof=frames, method=st.sampled_from(["greedy", "stacking"]), shuffle=st.randoms(use_true_random=False))
def test_renamed_members_carry_their_weights_with_them(oof, method, shuffle):
    names = oof["model"].unique().sort().to_list()
    others = [f"x{i}" for i in range(len(names))]
    shuffle.shuffle(others)
    moved = dict(zip(names, others, strict=True))
    renamed = oof.with_columns(pl.col("model").replace_strict(moved))
    plan = CombinerPlan(method=method, shrinkage=0.1)

    first, second = EARLY.fit(oof, plan, baselines=["m0"]), EARLY.fit(renamed, plan, baselines=[moved["m0"]])

    for horizon, weights in first["weights"].items():
        assert second["weights"][horizon] == pytest.approx({moved[k]: w for k, w in weights.items()}, abs=2e-3)
    # The two solvers stop at points that differ in the fourth digit.
    joined = EARLY.apply(predictions(oof), first).frame
    assert values(EARLY.apply(predictions(renamed), second).frame) == pytest.approx(values(joined), abs=0.5)


@settings(max_examples=20, deadline=None)
@given(oof=frames, weights=st.dictionaries(st.sampled_from(["m0", "m1", "m2", "m3"]), st.floats(0.01, 9), min_size=1))
def test_given_weights_are_reproduced_whatever_the_rows(oof, weights):
    members = oof["model"].unique().sort().to_list()
    table = EARLY.fit(oof, CombinerPlan(weights=weights), baselines=[])

    total = sum(weights.get(name, 0.0) for name in members)
    for its in table["weights"].values():
        if total:
            assert its == pytest.approx({name: weights.get(name, 0.0) / total for name in members})
        else:
            assert its == pytest.approx(dict.fromkeys(members, 1 / len(members)))


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 9999), members=st.integers(2, 4), method=st.sampled_from(["mean", "greedy"]))
def test_a_duplicated_member_changes_little(seed, members, method):
    oof = rows(seed, members, 30, 4, 1, 0.0)
    twin = oof.filter(model="m0").with_columns(model=pl.lit("twin"))
    plan, bold = CombinerPlan(method=method, shrinkage=0.0), QuantileCombiner(caution=0.0)

    def joined(frame: pl.DataFrame) -> np.ndarray:
        return values(bold.apply(predictions(frame), bold.fit(frame, plan, baselines=[])).frame)

    before, after = joined(oof), joined(pl.concat([oof, twin]))
    if method == "greedy":
        assert after == pytest.approx(before)
    else:
        # The mean moves towards the twins: from 1 / n of the member to 2 / (n + 1).
        m0 = values(oof.filter(model="m0"))
        assert after == pytest.approx(before + (m0 - before) / (members + 1))


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 9999), members=st.integers(1, 4))
def test_greedy_is_no_worse_on_its_rows_than_the_best_member(seed, members):
    rng = np.random.default_rng(seed)
    y = rng.gamma(2, 20, 60)
    cube = np.sort(y[:, None, None] + rng.normal(0, 8, (60, members, 9)), axis=2)
    scale = rng.uniform(5, 50, 60)
    levels = np.arange(1, 10) / 10

    def loss(quantiles: np.ndarray) -> float:
        above = (y[:, None] - quantiles) / scale[:, None]
        return float(np.maximum(levels * above, (levels - 1) * above).mean())

    weights = greedy_selection(cube, y, scale)

    assert weights.sum() == pytest.approx(1)
    assert loss(np.einsum("m,nmq->nq", weights, cube)) <= min(loss(cube[:, i]) for i in range(members)) + 1e-12


@settings(max_examples=15, deadline=None)
@given(oof=frames, plan=plans, cut=st.integers(1, 6))
def test_rows_of_past_origins_do_not_change_when_newer_origins_arrive(oof, plan, cut):
    cutoffs = oof["cutoff"].unique().sort().to_list()
    horizon = int(oof["horizon"].max())
    past = oof.filter(pl.col("cutoff") <= cutoffs[min(cut, len(cutoffs)) - 1])
    # A member with no past row at all would not stand in both.
    if set(past["model"].unique()) != set(oof["model"].unique()):
        return

    own = EARLY.prequential_oof(oof, plan, ["m0"], horizon, DAYS)
    before = EARLY.prequential_oof(past, plan, ["m0"], horizon, DAYS)

    again = own.filter(pl.col("cutoff") <= past["cutoff"].max())
    assert values(again) == pytest.approx(values(before), abs=1e-9)


@settings(max_examples=15, deadline=None)
@given(oof=frames, plan=plans, at=st.integers(0, 7))
def test_scrambled_outcomes_of_open_origins_change_nothing_earlier(oof, plan, at):
    horizon = int(oof["horizon"].max())
    now = DAYS.shift(START, at)
    opened = pl.col("cutoff") > DAYS.shift(now, -horizon)
    scrambled = oof.with_columns(y=pl.when(opened).then(500 - pl.col("y")).otherwise("y"))

    first, second = (EARLY.prequential_oof(frame, plan, ["m0"], horizon, DAYS) for frame in (oof, scrambled))

    keep = pl.col("cutoff") <= now
    assert first.filter(keep).drop("y").equals(second.filter(keep).drop("y"))
