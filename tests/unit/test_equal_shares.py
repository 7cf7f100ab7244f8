"""Who has how much of an equal share: less if worse than the best by more than chance, and the naive family one."""

from __future__ import annotations

from datetime import datetime

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.ensembles.cubes import cubes_of
from models.ensembles.quantiles import QuantileCombiner, equal_shares, errors_above_best
from nightcast.contracts.columns import QUANTILES
from nightcast.contracts.errors import TrainingError
from nightcast.contracts.frequency import Frequency
from nightcast.contracts.prediction import Quantiles
from nightcast.contracts.recipe import CombinerPlan

BEST, OTHER, NAIVE = "best", "other", "naive"


def month(number: int) -> datetime:
    return datetime(2020 + (number - 1) // 12, (number - 1) % 12 + 1, 1)


def rows(*, series: int, origins: int, own: float, shared: float, seed: int = 1, gap: float = 0.3) -> pl.DataFrame:
    """`best` errs by 1, `other` by `gap` more; the difference varies by row (`own`) and origin (`shared`)."""
    rng = np.random.default_rng(seed)
    by_origin = shared * rng.normal(size=origins)
    parts = []
    for s in range(series):
        for o in range(origins):
            for h in (1, 2, 3):
                extra = gap + own * rng.normal() + by_origin[o]
                for name, error in ((BEST, 1.0), (OTHER, max(1.0 + extra, 0.0)), (NAIVE, 1.1)):
                    values = {q: 100.0 + error for q in QUANTILES}
                    parts.append((f"s{s:02d}", month(o + h + 1), month(o + 1), h, name, 100.0, 10.0, *values.values()))
    columns = ["unique_id", "ds", "cutoff", "horizon", "model", "y", "scale", *QUANTILES]
    return pl.DataFrame(parts, schema=columns, orient="row")


def flagged(frame: pl.DataFrame) -> dict[str, bool]:
    """Who is more than one and a half standard errors above the best."""
    members, cubes = cubes_of(frame)
    everything = {h: np.ones(len(cube.y), dtype=bool) for h, cube in cubes.items()}
    pooled = np.array(
        [np.concatenate([cube.member_loss[:, i] for cube in cubes.values()]).mean() for i in range(len(members))]
    )
    above = errors_above_best(cubes, everything, pooled)
    return dict(zip(members, (above > 1.5).tolist(), strict=True))


def test_a_member_that_is_worse_in_every_series_and_month_is_told_apart() -> None:
    found = flagged(rows(series=25, origins=9, own=0.2, shared=0.0))

    assert found == {BEST: False, OTHER: True, NAIVE: True}


def called_worse(*, series: int, own: float, shared: float, gap: float) -> float:
    """Share of 60 draws in which one of the two is called worse than the other."""
    draws = [rows(series=series, origins=9, own=own, shared=shared, seed=seed, gap=gap) for seed in range(60)]
    found = [flagged(its.filter(pl.col("model") != NAIVE)) for its in draws]
    return float(np.mean([its[BEST] or its[OTHER] for its in found]))


def test_shared_months_seldom_make_one_of_two_like_members_look_worse() -> None:
    assert called_worse(series=25, own=0.05, shared=0.3, gap=0.0) <= 0.1


def test_a_few_series_seldom_make_one_of_two_like_members_look_worse() -> None:
    assert called_worse(series=4, own=0.3, shared=0.0, gap=0.0) <= 0.2


def test_the_more_the_months_are_shared_the_less_is_told_apart() -> None:
    alone, shared = (called_worse(series=25, own=0.3, shared=its, gap=0.1) for its in (0.0, 0.4))

    assert alone > 0.9
    assert shared < 0.4


def test_two_origins_tell_nothing() -> None:
    assert not any(flagged(rows(series=25, origins=2, own=0.1, shared=0.0)).values())


def test_the_best_member_is_never_worse() -> None:
    for seed in range(5):
        assert not flagged(rows(series=10, origins=6, own=0.5, shared=0.2, seed=seed))[BEST]


def test_the_clearly_worse_get_next_to_no_weight_but_the_baseline_keeps_its_floor() -> None:
    frame = rows(series=25, origins=9, own=0.2, shared=0.0)

    weights = QuantileCombiner().fit(frame, CombinerPlan(), baselines=(NAIVE,))["weights"]["1"]

    assert weights[OTHER] < 0.01
    assert weights[NAIVE] >= 0.05 - 1e-9
    assert weights[BEST] > 0.9


@given(st.lists(st.floats(0.01, 1), min_size=1, max_size=8), st.data())
def test_shares_sum_to_one_and_the_naive_family_weighs_what_its_best_member_would(
    belief: list[float], data: st.DataObject
) -> None:
    naive = sorted(data.draw(st.sets(st.integers(0, len(belief) - 1))))
    others = [i for i in range(len(belief)) if i not in naive]

    shares = equal_shares(np.array(belief), naive)

    assert shares.sum() == pytest.approx(1)
    unit = sum(belief[i] for i in others) + max((belief[i] for i in naive), default=0.0)
    assert shares[naive].sum() == pytest.approx(max((belief[i] for i in naive), default=0.0) / unit)
    assert shares[others] == pytest.approx([belief[i] / unit for i in others])


def test_shares_of_nobody_are_refused() -> None:
    with pytest.raises(TrainingError, match="no member has a share"):
        equal_shares(np.zeros(3), [0])


def test_before_any_origin_has_closed_all_naive_members_together_have_one_members_share() -> None:
    frame = rows(series=4, origins=3, own=0.1, shared=0.0)
    again = frame.filter(pl.col("model") == NAIVE).with_columns(model=pl.lit("naive_too"))

    out = QuantileCombiner().prequential_oof(
        pl.concat([frame, again]), CombinerPlan(), [NAIVE, "naive_too"], 3, Frequency.parse("MS")
    )

    first = out.filter(pl.col("cutoff") == pl.col("cutoff").min()).sort("unique_id", "horizon")
    keys = ["unique_id", "cutoff", "horizon"]
    mean = frame.group_by(keys).agg(pl.col("q50").mean()).sort("unique_id", "horizon")
    theirs = first.join(mean, on=keys, suffix="_mean")
    assert (theirs["q50"] - theirs["q50_mean"]).abs().max() < 1e-9


def split(origins: int = 12) -> pl.DataFrame:
    """Two halves of a panel: `best` errs by 1 on one and by 3 on the other, `other` the other way round."""
    frame = rows(series=10, origins=origins, own=0.0, shared=0.0, gap=0.0)
    first = pl.col("unique_id") < "s05"
    error = {BEST: pl.when(first).then(1.0).otherwise(3.0), OTHER: pl.when(first).then(3.0).otherwise(1.0)}
    moved = pl.when(pl.col("model") == BEST).then(error[BEST]).when(pl.col("model") == OTHER).then(error[OTHER])
    return frame.filter(pl.col("model") != NAIVE).with_columns((100.0 + moved).alias(q) for q in QUANTILES)


def medians(frame: pl.DataFrame, combiner: QuantileCombiner) -> dict[str, float]:
    """Mean error of the applied ensemble, by series."""
    members = {
        str(name): Quantiles.of(part.select("unique_id", "ds", "cutoff", "horizon", *QUANTILES))
        for (name,), part in frame.partition_by("model", as_dict=True).items()
    }
    out = combiner.apply(members, combiner.fit(frame, CombinerPlan(), baselines=[])).frame
    return dict(out.group_by("unique_id").agg((pl.col("q50") - 100.0).mean()).sort("unique_id").iter_rows())


def test_series_lean_towards_the_members_that_forecast_them_well() -> None:
    alike, leaning = (medians(split(), QuantileCombiner(steep=steep)) for steep in (0.0, 2.0))

    assert all(error == pytest.approx(2.0, abs=0.2) for error in alike.values())
    assert all(leaning[name] < alike[name] - 0.5 for name in alike)


def test_the_fewer_origins_a_series_has_the_less_it_leans() -> None:
    few, many = (medians(split(origins), QuantileCombiner()) for origins in (3, 24))

    assert all(1.0 < many[name] < few[name] < 2.1 for name in many)


def test_a_series_that_was_never_seen_has_the_panels_weights() -> None:
    frame, combiner = split(), QuantileCombiner()
    table = combiner.fit(frame, CombinerPlan(), baselines=[])
    stranger = frame.filter(pl.col("unique_id") == "s00").with_columns(unique_id=pl.lit("new"))
    members = {
        str(name): Quantiles.of(part.select("unique_id", "ds", "cutoff", "horizon", *QUANTILES))
        for (name,), part in stranger.partition_by("model", as_dict=True).items()
    }

    told = combiner.apply(members, table).frame.sort("horizon")
    shared = combiner.apply(members, {**table, "series": {}}).frame.sort("horizon")

    assert told.equals(shared)
    assert not told.equals(combiner.apply(members, {**table, "series": {"new": table["series"]["s00"]}}).frame)


def test_a_stack_and_given_weights_know_no_series() -> None:
    given = QuantileCombiner().fit(split(), CombinerPlan(weights={BEST: 0.3, OTHER: 0.7}), baselines=[])
    stack = QuantileCombiner(stack_origins=3).fit(split(), CombinerPlan(method="stacking"), baselines=[])

    assert given["series"] == stack["series"] == {}
