from dataclasses import replace
from datetime import datetime

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.ensembles.simplex import SimplexCombiner
from nightcast.contracts.columns import QUANTILES
from nightcast.contracts.frequency import Frequency
from nightcast.contracts.prediction import Quantiles
from nightcast.contracts.recipe import CombinerPlan
from nightcast.evaluation.scores import pinball

DAYS = Frequency.parse("D")
KEYS = ["unique_id", "ds", "cutoff", "horizon"]
FAR = SimplexCombiner(diverged=1e9, doubt=1e9)


def rows(seed: int, members: int, origins: int, series: int, horizons: int, missing: float) -> pl.DataFrame:
    """Members of differing quality; a share of (member, series) pairs is missing, never all of a series."""
    rng = np.random.default_rng(seed)
    keys = [
        (f"s{s}", DAYS.shift(datetime(2024, 1, 1), o + h), DAYS.shift(datetime(2024, 1, 1), o), h)
        for o in range(origins)
        for s in range(series)
        for h in range(1, horizons + 1)
    ]
    base = pl.DataFrame(
        keys,
        schema={"unique_id": pl.String, "ds": pl.Datetime("us"), "cutoff": pl.Datetime("us"), "horizon": pl.Int32},
        orient="row",
    )
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
        if m:
            absent = [f"s{s}" for s in range(series) if rng.random() < missing]
            part = part.filter(~pl.col("unique_id").is_in(absent))
        parts.append(part)
    return pl.concat(parts)


frames = st.builds(
    rows,
    st.integers(0, 9999),
    st.integers(1, 5),
    st.integers(1, 7),
    st.integers(1, 4),
    st.integers(1, 3),
    st.sampled_from([0.0, 0.3]),
)
plans = st.builds(CombinerPlan, method=st.sampled_from(["weighted", "mean"]), shrinkage=st.floats(0, 1))


def predictions(oof: pl.DataFrame) -> dict[str, Quantiles]:
    return {str(key[0]): Quantiles.of(part) for key, part in oof.partition_by("model", as_dict=True).items()}


@settings(max_examples=40, deadline=None)
@given(oof=frames, plan=plans, baselines=st.sampled_from([[], ["m0"], ["m1", "m2"]]))
def test_weights_lie_on_the_simplex_at_every_horizon(oof, plan, baselines):
    table = SimplexCombiner().fit(oof, plan, baselines=baselines)

    assert sorted(map(int, table["weights"])) == oof["horizon"].unique().sort().to_list()
    for weights in table["weights"].values():
        assert list(weights) == table["members"] == oof["model"].unique().sort().to_list()
        assert all(0 <= weight <= 1 for weight in weights.values())
        assert sum(weights.values()) == pytest.approx(1)


@settings(max_examples=25, deadline=None)
@given(oof=frames, shuffle=st.randoms(use_true_random=False))
def test_the_names_and_order_of_members_do_not_matter(oof, shuffle):
    names = oof["model"].unique().sort().to_list()
    others = [f"x{i}" for i in range(len(names))]
    shuffle.shuffle(others)
    renamed = oof.with_columns(pl.col("model").replace_strict(dict(zip(names, others, strict=True))))

    first = SimplexCombiner().fit(oof, CombinerPlan(shrinkage=0.1), baselines=["m0"])["weights"]
    baseline = others[names.index("m0")]
    second = SimplexCombiner().fit(renamed, CombinerPlan(shrinkage=0.1), baselines=[baseline])["weights"]

    for horizon, weights in first.items():
        moved = {new: weights[old] for old, new in zip(names, others, strict=True)}
        assert second[horizon] == pytest.approx(moved, abs=2e-3)


@settings(max_examples=25, deadline=None)
@given(oof=frames)
def test_full_shrinkage_is_the_equal_mean(oof):
    weights = FAR.fit(oof, CombinerPlan(shrinkage=1.0), baselines=[])["weights"]

    count = oof["model"].n_unique()
    for its in weights.values():
        assert list(its.values()) == pytest.approx([1 / count] * count)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 9999), members=st.integers(2, 4))
def test_a_duplicated_member_does_no_harm(seed, members):
    oof = rows(seed, members, 12, 4, 1, 0.0)
    twin = oof.filter(model="m0").with_columns(model=pl.lit("twin"))
    plan = CombinerPlan(shrinkage=0.0)
    panel = replace(FAR, steep=0.0)  # the panel's weights; a handful of rows a series tell nothing of the series
    truth = oof.filter(model="m0").select(*KEYS, "y")

    def loss(frame: pl.DataFrame) -> float:
        combined = panel.apply(predictions(frame), panel.fit(frame, plan, baselines=[])).frame
        return pinball(combined.join(truth, on=KEYS))

    # m0 is the best member: its twin moves the equal part of the weights towards it.
    assert loss(pl.concat([oof, twin])) <= loss(oof) * 1.01


@settings(max_examples=25, deadline=None)
@given(oof=frames, plan=plans)
def test_one_member_alone_is_given_back_as_it_is(oof, plan):
    table = SimplexCombiner().fit(oof, plan, baselines=[])
    for label, its in predictions(oof).items():
        assert SimplexCombiner().apply({label: its}, table).frame.equals(its.frame)


@settings(max_examples=25, deadline=None)
@given(oof=frames, plan=plans)
def test_a_combination_lies_between_its_members_and_covers_every_row_that_one_covers(oof, plan):
    combined = SimplexCombiner().apply(predictions(oof), SimplexCombiner().fit(oof, plan, baselines=["m0"])).frame

    span = oof.group_by(KEYS).agg(
        *(pl.col(name).min().alias(f"{name}_low") for name in QUANTILES),
        *(pl.col(name).max().alias(f"{name}_high") for name in QUANTILES),
    )
    both = combined.join(span, on=KEYS)
    assert both.height == combined.height == span.height
    for name in QUANTILES:
        assert both.select(
            ((pl.col(name) >= pl.col(f"{name}_low") - 1e-9) & (pl.col(name) <= pl.col(f"{name}_high") + 1e-9)).all()
        ).item()


@settings(max_examples=20, deadline=None)
@given(oof=frames, plan=plans)
def test_the_ensembles_own_rows_are_those_that_any_member_covers(oof, plan):
    own = SimplexCombiner().prequential_oof(oof, plan, ["m0"], int(oof["horizon"].max()), DAYS)

    assert own.select(KEYS).sort(KEYS).equals(oof.select(KEYS).unique().sort(KEYS))
    assert (np.diff(own.select(QUANTILES).to_numpy(), axis=1) >= 0).all()


@settings(max_examples=15, deadline=None)
@given(oof=frames, cut=st.integers(1, 6))
def test_rows_of_past_origins_do_not_change_when_newer_origins_arrive(oof, cut):
    cutoffs = oof["cutoff"].unique().sort().to_list()
    horizon = int(oof["horizon"].max())
    past = oof.filter(pl.col("cutoff") <= cutoffs[min(cut, len(cutoffs)) - 1])
    # The same members must stand in both; m0 covers everything, others may be missing altogether.
    own = SimplexCombiner().prequential_oof(oof, CombinerPlan(), ["m0"], horizon, DAYS)
    before = SimplexCombiner().prequential_oof(past, CombinerPlan(), ["m0"], horizon, DAYS)

    again = own.filter(pl.col("cutoff") <= past["cutoff"].max())
    assert again.select(QUANTILES).to_numpy() == pytest.approx(before.select(QUANTILES).to_numpy(), abs=1e-9)
