"""Laws of the purged splitters, over their whole parameter grid."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from itertools import pairwise
from math import comb

import numpy as np
import polars as pl
import pytest
from hypothesis import assume, given, reject, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from skfolio.model_selection import CombinatorialPurgedCV as SkfolioCombinatorial
from skfolio.model_selection import WalkForward as SkfolioWalkForward

from nightcast.contracts.bars import BarDataset, label_columns
from nightcast.contracts.errors import ConfigError
from nightcast.contracts.fold import Fold
from nightcast.contracts.recipe import FoldPlan
from nightcast.contracts.schema import BarsSchema, CostPlan, LabelPlan
from nightcast.evaluation.leaks import audit_split
from nightcast.evaluation.purged import (
    CombinatorialPurgedCV,
    PurgedKFold,
    PurgedWalkForward,
    bar_folds,
    final_bar_fold,
)

START = np.datetime64("2024-01-01T00:00", "us")
BAR = np.timedelta64(5, "m")

Pairs = list[tuple[NDArray[np.int64], NDArray[np.int64]]]


@dataclass(frozen=True)
class Samples:
    """Decisions of several symbols on a clock with gaps, in no order."""

    decision: NDArray[np.datetime64]
    end: NDArray[np.datetime64]
    symbol: NDArray[np.int64]

    @property
    def clock(self) -> NDArray[np.datetime64]:
        return np.unique(self.decision)


@st.composite
def samples(draw: st.DrawFn, *, least: int = 12, most: int = 70) -> Samples:
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    bars = draw(st.integers(least, most))
    steps = 1 + rng.choice([0, 0, 0, 0, 1, 12], size=bars)
    times = START + np.cumsum(steps) * BAR
    longest = draw(st.integers(1, 9))
    # labels may end at any bar of the wall clock, decisions or not
    parts = []
    for code in range(draw(st.integers(1, 3))):
        here = np.flatnonzero((rng.random(bars) < 0.7) | (code == 0))
        parts.append((here, rng.integers(1, longest + 1, len(here)), np.full(len(here), code)))
    at, hold, symbol = (np.concatenate(values) for values in zip(*parts, strict=True))
    order = rng.permutation(len(at))
    at, hold, symbol = at[order], hold[order], symbol[order]
    return Samples(times[at], times[at] + hold * BAR, symbol)


def meets_any(begin: np.datetime64, end: np.datetime64, spans: list[tuple[np.datetime64, np.datetime64]]) -> bool:
    """Whether `(begin, end]` meets a span, both of whose ends belong to it."""
    return any(begin < high and end >= low for low, high in spans)


def runs_of(tested: tuple[int, ...]) -> list[list[int]]:
    out: list[list[int]] = []
    for group in tested:
        if out and out[-1][-1] == group - 1:
            out[-1].append(group)
        else:
            out.append([group])
    return out


@settings(max_examples=150, deadline=None)
@given(data=samples(), groups=st.integers(2, 6), test_groups=st.integers(1, 5), embargo=st.integers(0, 6))
def test_no_training_label_meets_a_test_span_and_nothing_more_is_dropped(
    data: Samples, groups: int, test_groups: int, embargo: int
) -> None:
    assume(test_groups < groups)
    splitter = CombinatorialPurgedCV(groups, test_groups, embargo)
    try:
        pairs = list(splitter.split(data.decision, data.end, data.symbol))
    except ConfigError:
        reject()
    group = splitter.groups_of(data.decision)
    clock = data.clock

    for tested, (train, test) in zip(splitter.test_sets(), pairs, strict=True):
        assert test.tolist() == np.flatnonzero(np.isin(group, tested)).tolist()
        spans = []
        for run in runs_of(tested):
            mine = np.isin(group, run)
            spans.append((data.decision[mine].min(), data.end[mine].max()))
        kept = set(train.tolist())
        for i in set(range(len(group))) - set(test.tolist()):
            overlaps = meets_any(data.decision[i], data.end[i], spans)
            # whole bars of the clock between a span's end and this decision
            between = [int(((clock > high) & (clock < data.decision[i])).sum()) for _, high in spans]
            follows = [data.decision[i] >= high for _, high in spans]
            embargoed = embargo > 0 and any(
                after and (free < embargo or data.decision[i] == high)
                for after, free, (_, high) in zip(follows, between, spans, strict=True)
            )
            assert (i in kept) == (not overlaps and not embargoed)


@settings(max_examples=100, deadline=None)
@given(data=samples(), groups=st.integers(2, 6), test_groups=st.integers(1, 5))
def test_every_decision_is_tested_as_often_as_there_are_paths_and_paths_cover_all_once(
    data: Samples, groups: int, test_groups: int
) -> None:
    assume(test_groups < groups)
    splitter = CombinatorialPurgedCV(groups, test_groups, 0)
    try:
        pairs = list(splitter.split(data.decision, data.end, data.symbol))
    except ConfigError:
        reject()
    group, paths = splitter.groups_of(data.decision), splitter.paths()

    assert len(pairs) == splitter.n_splits == comb(groups, test_groups)
    times = np.bincount(np.concatenate([test for _, test in pairs]), minlength=len(group))
    assert set(times.tolist()) == {comb(groups - 1, test_groups - 1)}
    assert paths.shape == (splitter.n_paths, groups) == (comb(groups - 1, test_groups - 1), groups)
    used = set()
    for path in paths:
        covered = np.concatenate(
            [np.intersect1d(pairs[split][1], np.flatnonzero(group == g)) for g, split in enumerate(path)]
        )
        assert np.sort(covered).tolist() == list(range(len(group)))
        used |= {(int(split), g) for g, split in enumerate(path)}
    assert used == {(i, g) for i, tested in enumerate(splitter.test_sets()) for g in tested}


@settings(max_examples=100, deadline=None)
@given(data=samples(), k=st.integers(2, 6), embargo=st.one_of(st.none(), st.integers(0, 4)))
def test_k_fold_tests_every_decision_once_and_is_the_combinatorial_split_of_one_group(
    data: Samples, k: int, embargo: int | None
) -> None:
    try:
        pairs = list(PurgedKFold(k, embargo).split(data.decision, data.end, data.symbol))
    except ConfigError:
        reject()

    assert np.sort(np.concatenate([test for _, test in pairs])).tolist() == list(range(len(data.decision)))
    others = CombinatorialPurgedCV(k, 1, embargo).split(data.decision, data.end, data.symbol)
    for (train, test), (other_train, other_test) in zip(pairs, others, strict=True):
        assert np.array_equal(train, other_train)
        assert np.array_equal(test, other_test)
        # one time, one side
        assert not set(data.decision[train].tolist()) & set(data.decision[test].tolist())
    assert audit_split(data.decision, data.end, pairs, embargo=embargo or 0) == []


@settings(max_examples=150, deadline=None)
@given(
    data=samples(),
    folds=st.integers(1, 5),
    test_bars=st.integers(1, 9),
    window=st.sampled_from(["expanding", "rolling"]),
    window_bars=st.one_of(st.none(), st.integers(3, 30)),
    embargo=st.integers(0, 4),
    gap=st.integers(0, 4),
    min_train=st.integers(1, 8),
)
def test_walk_forward_trains_strictly_before_its_test_span(
    data: Samples,
    folds: int,
    test_bars: int,
    window: str,
    window_bars: int | None,
    embargo: int,
    gap: int,
    min_train: int,
) -> None:
    splitter = PurgedWalkForward(
        folds,
        test_bars,
        window=window,  # type: ignore[arg-type]
        window_bars=window_bars,
        embargo=embargo,
        gap=gap,
        min_train=min_train,
    )
    try:
        pairs = list(splitter.split(data.decision, data.end, data.symbol))
    except ConfigError:
        reject()
    clock = data.clock
    place = {time: i for i, time in enumerate(clock.tolist())}
    at = np.array([place[time] for time in data.decision.tolist()])
    first = len(clock) - folds * test_bars

    assert len(pairs) == splitter.n_splits == folds
    for index, (train, test) in enumerate(pairs):
        low = first + index * test_bars
        assert sorted(set(at[test].tolist())) == list(range(low, low + test_bars))
        assert test.tolist() == np.flatnonzero((at >= low) & (at < low + test_bars)).tolist()
        allowed = (data.end < clock[low - gap]) & (at < low - gap - embargo)
        if window == "rolling":
            allowed &= at >= low - gap - (first - gap if window_bars is None else window_bars)
        assert train.tolist() == np.flatnonzero(allowed).tolist()
        assert data.end[train].max() < data.decision[test].min()
        assert len(set(at[train].tolist())) >= min_train
    assert audit_split(data.decision, data.end, pairs) == []


@settings(max_examples=60, deadline=None)
@given(data=samples(), seed=st.integers(0, 99))
def test_the_order_of_rows_changes_nothing(data: Samples, seed: int) -> None:
    order = np.random.default_rng(seed).permutation(len(data.decision))
    for splitter in (PurgedKFold(3, 1), CombinatorialPurgedCV(4, 2, 1), PurgedWalkForward(2, 2, min_train=1)):
        try:
            one = list(splitter.split(data.decision, data.end, data.symbol))
        except ConfigError:
            continue
        other = list(splitter.split(data.decision[order], data.end[order], data.symbol[order]))
        for mine, theirs in zip(one, other, strict=True):
            for side, its in zip(mine, theirs, strict=True):
                assert side.tolist() == np.sort(order[its]).tolist()


# -- agreement with another implementation, where labels all last equally long -----------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    groups=st.integers(3, 6),
    test_groups=st.integers(2, 5),
    size=st.integers(12, 16),
    hold=st.integers(1, 3),
    embargo=st.integers(1, 3),
)
def test_fixed_labels_give_the_combinatorial_splits_of_skfolio(
    groups: int, test_groups: int, size: int, hold: int, embargo: int
) -> None:
    assume(test_groups < groups)
    bars = groups * size
    times = START + np.arange(bars) * BAR
    mine = CombinatorialPurgedCV(groups, test_groups, embargo)
    theirs = SkfolioCombinatorial(groups, test_groups, purged_size=hold, embargo_size=embargo)

    assert mine.paths().tolist() == theirs.recombined_paths.T.tolist()
    pairs = zip(mine.split(times, times + hold * BAR), theirs.split(np.zeros((bars, 1))), strict=True)
    for (train, test), (other_train, other_test) in pairs:
        assert train.tolist() == other_train.tolist()
        assert test.tolist() == np.sort(np.concatenate(other_test)).tolist()


@settings(max_examples=60, deadline=None)
@given(
    folds=st.integers(1, 5),
    test_bars=st.integers(1, 8),
    train=st.integers(1, 20),
    hold=st.integers(1, 5),
    rolling=st.booleans(),
)
def test_fixed_labels_give_the_walk_forward_of_skfolio(
    folds: int, test_bars: int, train: int, hold: int, rolling: bool
) -> None:
    bars = train + hold + folds * test_bars
    times = START + np.arange(bars) * BAR
    mine = PurgedWalkForward(
        folds,
        test_bars,
        window="rolling" if rolling else "expanding",
        window_bars=train + hold if rolling else None,
        min_train=1,
    )
    theirs = SkfolioWalkForward(test_size=test_bars, train_size=train, expand_train=not rolling, purged_size=hold)

    pairs = zip(mine.split(times, times + hold * BAR), theirs.split(np.zeros((bars, 1))), strict=True)
    for (train_rows, test_rows), (other_train, other_test) in pairs:
        assert train_rows.tolist() == other_train.tolist()
        assert test_rows.tolist() == other_test.tolist()


# -- folds of bars -----------------------------------------------------------------------------------------------------

plans = st.builds(
    FoldPlan,
    cutoffs=st.integers(1, 60),
    refits=st.integers(1, 6),
    window=st.sampled_from(["expanding", "rolling"]),
    window_size=st.one_of(st.none(), st.integers(8, 60)),
    gap=st.integers(0, 4),
    min_train=st.integers(1, 20),
)


@st.composite
def bars(draw: st.DrawFn) -> BarDataset:
    """Symbols with gaps and ends of their own; labels of random length inside their segment."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    schema = BarsSchema(freq="5min", horizons=(1, 4))
    frames, segment = [], 0
    for name in ["AAA", "BBB", "CCC"][: draw(st.integers(1, 3))]:
        first, count = int(rng.integers(0, 20)), draw(st.integers(10, 90))
        step = first + np.arange(count) + np.where(np.arange(count) >= count // 2, int(rng.integers(0, 15)), 0)
        number = segment + np.cumsum(np.diff(step, prepend=step[0]) > 1)
        segment = int(number[-1]) + 1
        columns = {}
        for horizon in schema.horizons:
            names = label_columns(horizon)
            hold = rng.integers(1, horizon + 1, count)
            end = np.minimum(np.arange(count) + horizon, count - 1)
            known = (np.arange(count) + horizon < count) & (number[end] == number)
            columns |= {
                names["y"]: pl.Series(rng.integers(0, 3, count), dtype=pl.Int8).set(pl.Series(~known), None),
                names["hold"]: pl.Series(hold, dtype=pl.Int32).set(pl.Series(~known), None),
                names["ret"]: pl.Series(rng.normal(size=count)).set(pl.Series(~known), None),
                names["width"]: pl.Series(np.full(count, 0.01)),
                names["ambiguous"]: pl.Series(np.zeros(count, dtype=bool)),
            }
        prices = {price: np.full(count, 100.0) for price in ("open", "high", "low", "close", "volume")}
        frames.append(
            pl.DataFrame(
                {
                    "unique_id": name,
                    "ds": START + step * BAR,
                    "segment": number,
                    "session": number,
                    **prices,
                    **columns,
                }
            )
        )
    frame = pl.concat(frames).sort("unique_id", "ds")
    return BarDataset(
        frame=frame,
        schema=schema,
        columns={},
        sets={},
        as_of=frame["ds"].max(),  # type: ignore[arg-type]
        lead=draw(st.integers(0, 6)),
        labels=LabelPlan(),
        costs=CostPlan(),
    )


def laid_out(dataset: BarDataset, plan: FoldPlan) -> tuple[Fold, ...]:
    try:
        return bar_folds(dataset, plan)
    except ConfigError:
        reject()


def clock_of(dataset: BarDataset) -> list[datetime]:
    return dataset.frame.filter(pl.Series(dataset.ready))["ds"].unique().sort().to_list()


@settings(max_examples=150, deadline=None)
@given(dataset=bars(), plan=plans)
def test_bar_folds_share_the_newest_bars_and_train_before_them(dataset: BarDataset, plan: FoldPlan) -> None:
    folds = laid_out(dataset, plan)
    clock = clock_of(dataset)
    place = {time: i for i, time in enumerate(clock)}
    spans = [(place[fold.cutoffs[0]], place[fold.cutoffs[-1]]) for fold in folds]
    sizes = [high - low + 1 for low, high in spans]

    assert sum(sizes) <= min(plan.cutoffs, len(clock) // 2)
    assert len(folds) == min(plan.refits, sum(sizes))
    assert max(sizes) - min(sizes) <= 1
    assert spans[-1][1] == len(clock) - 1
    assert all(later[0] == earlier[1] + 1 for earlier, later in pairwise(spans))
    for fold, (low, _) in zip(folds, spans, strict=True):
        edge = place[fold.train_end]
        assert low - edge == 1 + plan.gap
        assert edge + 1 >= plan.min_train + dataset.schema.horizon
        view = dataset.training(fold)
        assert len(fold.cutoffs) == 2
        if plan.window == "expanding":
            assert fold.train_start is None
        else:
            width = edge - place[fold.train_start] + 1
            assert width == min(edge + 1, spans[0][0] - plan.gap if plan.window_size is None else plan.window_size)
            assert (view.times[view.rows] >= np.datetime64(fold.train_start)).all()
        # no label a model learns from ends inside the gap or the test span
        assert view.labels is not None
        ends = view.times[np.minimum(view.rows[:, None] + view.labels.hold, len(view.times) - 1)]
        assert (ends[view.labels.y >= 0] <= np.datetime64(fold.train_end)).all()


@settings(max_examples=80, deadline=None)
@given(dataset=bars(), plan=plans)
def test_bar_folds_decide_every_ready_bar_of_their_span_once(dataset: BarDataset, plan: FoldPlan) -> None:
    folds = laid_out(dataset, plan)
    decided = []
    for fold in folds:
        (view,) = dataset.tests(fold)
        assert view.labels is None
        decided += [(int(view.symbol[row]), view.times[row]) for row in view.rows]
    ready = dataset.frame.filter(pl.Series(dataset.ready) & (pl.col("ds") >= folds[0].cutoffs[0]))

    assert len(set(decided)) == len(decided) == ready.height


@settings(max_examples=80, deadline=None)
@given(dataset=bars(), plan=plans)
def test_bar_folds_train_on_what_the_splitter_of_arrays_gives(dataset: BarDataset, plan: FoldPlan) -> None:
    folds = laid_out(dataset, plan)
    clock = clock_of(dataset)
    sizes = {clock.index(fold.cutoffs[1]) - clock.index(fold.cutoffs[0]) + 1 for fold in folds}
    assume(len(sizes) == 1)
    horizon = dataset.schema.horizons.index(4)
    everything = dataset.labelled(clock[0], clock[-1])
    assert everything.labels is not None
    rows, known = everything.rows, everything.labels.y[:, horizon] >= 0
    # a label is known at its last possible bar; decisions without one stay on the clock, but train nobody
    ends = everything.times[rows + np.where(known, 4, 0)]
    splitter = PurgedWalkForward(
        len(folds),
        sizes.pop(),
        window=plan.window,
        window_bars=plan.window_size,
        gap=plan.gap,
        min_train=1,
    )
    try:
        pairs = list(splitter.split(everything.times[rows], ends, everything.symbol[rows]))
    except ConfigError:
        reject()
    for fold, (train, _) in zip(folds, pairs, strict=True):
        view = dataset.training(fold)
        assert view.labels is not None
        mine = view.rows[view.labels.y[:, horizon] >= 0]
        learnt = {(int(view.symbol[r]), view.times[r]) for r in mine}
        theirs = {(int(everything.symbol[rows[i]]), everything.times[rows[i]]) for i in train if known[i]}
        assert learnt == theirs


@settings(max_examples=60, deadline=None)
@given(dataset=bars(), plan=plans)
def test_bar_folds_are_blind_to_bars_after_the_as_of_date(dataset: BarDataset, plan: FoldPlan) -> None:
    times = dataset.frame["ds"].unique().sort()
    as_of = times[len(times) * 2 // 3]
    early = replace(dataset, as_of=as_of)
    cut = replace(dataset, frame=dataset.frame.filter(pl.col("ds") <= as_of), as_of=as_of)

    assert laid_out(early, plan) == laid_out(cut, plan) == laid_out(early, plan)


@settings(max_examples=80, deadline=None)
@given(dataset=bars(), plan=plans)
def test_the_final_fold_decides_the_newest_bar_of_every_active_symbol(dataset: BarDataset, plan: FoldPlan) -> None:
    assume(dataset.ready.any())
    fold = final_bar_fold(dataset, plan)

    assert (fold.name, fold.train_end, fold.cutoffs) == ("final", dataset.as_of, (dataset.as_of,))
    assert (fold.train_start is None) == (plan.window == "expanding")
    (view,) = dataset.tests(fold)
    newest = dataset.frame.with_columns(ready=pl.Series(dataset.ready)).group_by("unique_id").last()
    owed = newest.filter("ready")["unique_id"].to_list()
    assert set(view.series) <= set(owed)
    assert all(view.times[row] == view.times[view.symbol == view.symbol[row]].max() for row in view.rows)
    # what a decision reads lies in the view, in its own segment
    for row in view.rows:
        assert row >= dataset.lead
        assert (view.segment[row - dataset.lead : row + 1] == view.segment[row]).all()


@settings(max_examples=80, deadline=None)
@given(dataset=bars(), plan=plans)
def test_the_final_fit_is_as_long_as_the_scored_ones(dataset: BarDataset, plan: FoldPlan) -> None:
    rolling = plan.model_copy(update={"window": "rolling"})
    folds, fold, clock = laid_out(dataset, rolling), final_bar_fold(dataset, rolling), clock_of(dataset)
    assert folds[-1].train_start is not None
    assert fold.train_start is not None

    width = clock.index(folds[-1].train_end) - clock.index(folds[-1].train_start) + 1
    assert sum(time >= fold.train_start for time in clock) >= width


@pytest.mark.parametrize(
    "plan", [FoldPlan(step=2, cutoffs=20), FoldPlan(window="rolling", window_size=4, min_train=12)]
)
def test_a_plan_that_bars_cannot_follow_is_refused(plan: FoldPlan) -> None:
    from tests.contract.bar_data import bar_dataset

    with pytest.raises(ConfigError, match=r"folds\.(step|window_size)"):
        bar_folds(bar_dataset({"any"}), plan)
