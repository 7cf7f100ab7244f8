"""Purged splits by small examples; their laws stand in tests/property/test_purged_splitters.py."""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import datetime, timedelta

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray

from nightcast.contracts.bars import BarDataset
from nightcast.contracts.errors import ConfigError
from nightcast.contracts.fold import Fold
from nightcast.contracts.recipe import FoldPlan
from nightcast.evaluation.purged import (
    CombinatorialPurgedCV,
    PurgedKFold,
    PurgedWalkForward,
    bar_folds,
    default_embargo,
    final_bar_fold,
)
from tests.contract.bar_data import bar_dataset

BAR = np.timedelta64(1, "h")


def hours(count: int, hold: int = 0) -> NDArray[np.datetime64]:
    return np.datetime64("2024-01-01T00", "us") + (np.arange(count) + hold) * BAR


@pytest.fixture(scope="module")
def dataset() -> BarDataset:
    return bar_dataset({"any"})


def clock_of(dataset: BarDataset) -> list[datetime]:
    return dataset.frame.filter(pl.Series(dataset.ready))["ds"].unique().sort().to_list()


# -- purge and embargo -------------------------------------------------------------------------------------------------


def test_purge_leaves_no_label_that_ends_inside_the_test_window() -> None:
    # 12 bars, labels of 2 bars: the middle span is bars 4 .. 7, its last label ends at bar 9
    pairs = list(PurgedKFold(3, embargo=0).split(hours(12), hours(12, 2)))

    assert [train.tolist() for train, _ in pairs] == [[5, 6, 7, 8, 9, 10, 11], [0, 1, 9, 10, 11], [0, 1, 2, 3, 4, 5]]
    assert [test.tolist() for _, test in pairs] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]


def test_an_embargo_keeps_whole_bars_free_after_the_last_test_label() -> None:
    train = {e: next(iter(PurgedKFold(3, embargo=e).split(hours(12), hours(12, 2))))[0].tolist() for e in (0, 1, 3)}

    # the first span's last label ends at bar 5; with an embargo of 3 the bars 6, 7 and 8 stay free
    assert train == {0: [5, 6, 7, 8, 9, 10, 11], 1: [7, 8, 9, 10, 11], 3: [9, 10, 11]}


def test_an_embargo_counts_bars_not_hours() -> None:
    closed = np.where(np.arange(12) >= 6, 60, 0) * BAR
    train, _ = next(iter(PurgedKFold(3, embargo=2).split(hours(12) + closed, hours(12, 1) + closed)))

    # the span's labels end at bar 4; bars 5 and 6 stay free although a weekend lies between them
    assert train.tolist() == [7, 8, 9, 10, 11]


def test_a_long_label_is_purged_however_early_it_was_decided() -> None:
    ends = hours(12, 1)
    ends[0] = hours(12)[5]
    train, _ = list(PurgedKFold(3, embargo=0).split(hours(12), ends))[1]

    assert 0 not in train
    assert {1, 2} <= set(train.tolist())


def test_a_label_that_spans_the_whole_test_window_is_purged() -> None:
    ends = hours(12, 1)
    ends[1] = hours(12)[11]

    train, test = list(PurgedKFold(3, embargo=0).split(hours(12), ends))[1]

    assert test.tolist() == [4, 5, 6, 7]
    assert 1 not in train


def test_one_symbols_label_purges_another_symbols_decision() -> None:
    times, symbol = np.concatenate([hours(12), hours(12)]), np.repeat([0, 1], 12)
    ends = np.concatenate([hours(12, 1), hours(12, 3)])
    train, _ = next(iter(PurgedKFold(3, embargo=0).split(times, ends, symbol)))

    # the span is bars 0 .. 3; symbol 1's last label ends at bar 6
    assert train.tolist() == [*range(6, 12), *range(18, 24)]


def test_the_default_embargo_is_the_longest_label_or_a_hundredth_of_a_fold() -> None:
    assert (default_embargo(20, 1000), default_embargo(5, 1000), default_embargo(5, 1001)) == (20, 10, 11)

    own = next(iter(PurgedKFold(3).split(hours(30), hours(30, 2))))[0]
    same = next(iter(PurgedKFold(3, embargo=2).split(hours(30), hours(30, 2))))[0]
    assert own.tolist() == same.tolist()


def test_six_groups_of_which_two_test_give_fifteen_splits_and_five_paths() -> None:
    splitter = CombinatorialPurgedCV()

    assert (splitter.n_splits, splitter.n_paths) == (15, 5)
    assert splitter.test_sets()[:3] == ((0, 1), (0, 2), (0, 3))
    # Lopez de Prado (2018), figure 12.1: path 1 takes S1 for G1 and G2, S2 for G3, S3 for G4, S4 for G5, S5 for G6
    assert splitter.paths()[0].tolist() == [0, 0, 1, 2, 3, 4]
    assert splitter.paths()[1].tolist() == [1, 5, 5, 6, 7, 8]


def test_the_purge_is_around_each_of_two_separate_test_groups() -> None:
    pairs = list(CombinatorialPurgedCV(6, 2, 0).split(hours(24), hours(24, 1)))
    train, test = pairs[CombinatorialPurgedCV(6, 2, 0).test_sets().index((1, 3))]

    assert test.tolist() == [4, 5, 6, 7, 12, 13, 14, 15]
    # bar 3 ends in the first span and bar 11 in the second; bars 8 and 16 begin where the spans' labels end
    assert train.tolist() == [0, 1, 2, 8, 9, 10, 16, 17, 18, 19, 20, 21, 22, 23]


def test_walk_forward_moves_its_span_and_counts_gap_and_embargo() -> None:
    plain = list(PurgedWalkForward(2, 3, min_train=1).split(hours(12), hours(12, 1)))
    late = list(PurgedWalkForward(2, 3, gap=2, min_train=1).split(hours(12), hours(12, 1)))
    apart = list(PurgedWalkForward(2, 3, embargo=2, min_train=1).split(hours(12), hours(12, 1)))
    rolling = list(PurgedWalkForward(2, 3, window="rolling", window_bars=4, min_train=1).split(hours(12), hours(12, 1)))

    assert [test.tolist() for _, test in plain] == [[6, 7, 8], [9, 10, 11]]
    assert [train.tolist() for train, _ in plain] == [list(range(5)), list(range(8))]
    assert [train.tolist() for train, _ in late] == [list(range(3)), list(range(6))]
    assert [train.tolist() for train, _ in apart] == [list(range(4)), list(range(7))]
    assert [train.tolist() for train, _ in rolling] == [[2, 3, 4], [5, 6, 7]]


def test_a_split_of_281060_rows_takes_less_than_50_ms() -> None:
    count = 281_060
    times = np.datetime64("2021-01-01", "us") + np.arange(count) * np.timedelta64(5, "m")
    ends = times + np.random.default_rng(0).integers(1, 21, count) * np.timedelta64(5, "m")
    for splitter in (PurgedWalkForward(6, 8000, min_train=1000), PurgedKFold(6), CombinatorialPurgedCV()):
        started = time.process_time()
        splits = sum(1 for _ in splitter.split(times, ends))

        assert splits == splitter.n_splits
        assert (time.process_time() - started) / splits < 0.05


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: PurgedKFold(1), "k=1"),
        (lambda: PurgedKFold(3, -1), "embargo=-1"),
        (lambda: CombinatorialPurgedCV(4, 4), "4 test groups of 4"),
        (lambda: PurgedWalkForward(0, 3, min_train=1), "folds=0"),
        (lambda: PurgedWalkForward(1, 3, window_bars=0, min_train=1), "window_bars=0"),
        (lambda: PurgedWalkForward(1, 3, window="sliding", min_train=1), "window='sliding'"),
        (lambda: PurgedKFold(3).split(hours(5), hours(4)), r"shapes \[\(5,\), \(4,\)\]"),
        (lambda: PurgedKFold(3).split(hours(0), hours(0)), "no sample"),
        (lambda: PurgedKFold(3).split(hours(5), hours(5, -1)), "ends at 2023-12-31T23"),
        (lambda: PurgedKFold(3).split(np.repeat(hours(5), 2), np.repeat(hours(5, 1), 2)), "two decisions"),
        (lambda: PurgedKFold(3).split(np.arange(5.0), hours(5)), "decision of type float64"),
        (lambda: PurgedKFold(3).split(np.append(hours(4), np.datetime64("NaT")), hours(5)), "missing times"),
        (lambda: PurgedKFold(9).split(hours(5), hours(5, 1)), "5 bars for 9 groups"),
        (lambda: list(PurgedKFold(3).split(hours(6), hours(6, 5))), "keeps no training decision"),
        (lambda: PurgedWalkForward(2, 3, min_train=5).split(hours(10), hours(10, 1)), "10 bars leave 4 to train on"),
        (lambda: list(PurgedWalkForward(2, 3, min_train=4).split(hours(10), hours(10, 2))), "split 0 trains on 2 bars"),
    ],
)
def test_what_cannot_be_split_is_named(make: object, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        make()  # type: ignore[operator]


# -- folds of bars -----------------------------------------------------------------------------------------------------


def test_bar_folds_take_the_newest_bars_of_the_clock(dataset: BarDataset) -> None:
    clock = clock_of(dataset)
    folds = bar_folds(dataset, FoldPlan(cutoffs=200, refits=3, gap=2, min_train=50))

    assert [fold.name for fold in folds] == ["fold-00", "fold-01", "fold-02"]
    assert [fold.cutoffs for fold in folds] == [
        (clock[-200], clock[-134]),
        (clock[-133], clock[-67]),
        (clock[-66], clock[-1]),
    ]
    assert [fold.train_end for fold in folds] == [clock[-203], clock[-136], clock[-69]]
    assert all(fold.train_start is None for fold in folds)
    assert all(Fold.from_json(fold.to_json()) == fold for fold in folds)


def test_bar_folds_test_at_most_half_of_the_clock_and_leave_what_a_fit_needs(dataset: BarDataset) -> None:
    clock = clock_of(dataset)
    half = bar_folds(dataset, FoldPlan(cutoffs=10_000, refits=1, min_train=1))
    needy = bar_folds(dataset, FoldPlan(cutoffs=10_000, refits=1, gap=3, min_train=len(clock) - 20))

    assert clock.index(half[0].cutoffs[0]) == len(clock) - len(clock) // 2
    # 20 bars are left: 3 for the gap, 4 for the longest label to close, 13 to test on
    assert clock.index(needy[0].cutoffs[0]) == len(clock) - 13


def test_a_test_span_of_one_bar_asks_for_that_bar_not_for_the_newest_of_every_symbol(dataset: BarDataset) -> None:
    folds = bar_folds(dataset, FoldPlan(cutoffs=3, refits=3, min_train=50))

    assert [fold.cutoffs[0] == fold.cutoffs[1] for fold in folds] == [True] * 3
    for fold in folds:
        (view,) = dataset.tests(fold)
        assert set(view.times[view.rows].tolist()) == {fold.cutoffs[0]}


def test_a_rolling_window_without_a_size_is_as_long_as_the_first_folds_history(dataset: BarDataset) -> None:
    clock = clock_of(dataset)
    plan = FoldPlan(cutoffs=100, refits=4, window="rolling", min_train=50)
    folds = bar_folds(dataset, plan)
    widths = {clock.index(fold.train_end) - clock.index(fold.train_start) for fold in folds}  # type: ignore[arg-type]

    assert folds[0].train_start == clock[0]
    assert widths == {len(clock) - 100 - 1}
    assert final_bar_fold(dataset, plan).train_start == clock[100]
    assert final_bar_fold(dataset, plan.model_copy(update={"window_size": 70})).train_start == clock[-70]


def test_the_final_fold_gives_the_newest_decision_also_of_a_symbol_that_stopped_earlier(dataset: BarDataset) -> None:
    both = dataset.frame.filter(pl.col("ds") <= dataset.frame.filter(pl.col("unique_id") == "BBB")["ds"].max())
    times = both["ds"].unique().sort()
    gone, recent = times[-20], times[-6]
    frame = both.filter((pl.col("unique_id") != "BBB") | (pl.col("ds") <= recent))
    late = replace(dataset, frame=frame, retire_after=12)
    retired = replace(
        dataset, frame=frame.filter((pl.col("unique_id") != "BBB") | (pl.col("ds") <= gone)), retire_after=12
    )
    (view,) = late.tests(final_bar_fold(late, FoldPlan()))
    (other,) = retired.tests(final_bar_fold(retired, FoldPlan()))

    newest = frame.group_by("unique_id").agg(pl.col("ds").max()).sort("unique_id")["ds"].to_list()
    assert newest == [times[-1], recent]
    assert view.times[view.rows].tolist() == newest
    assert view.labels is None
    assert other.series == ["AAA"]


def test_a_short_rolling_window_leaves_the_newest_decisions_the_bars_they_read(dataset: BarDataset) -> None:
    clock = clock_of(dataset)
    fold = final_bar_fold(dataset, FoldPlan(window="rolling", window_size=30, min_train=20))
    (view,) = dataset.tests(fold)

    assert view.rows.tolist() == [dataset.lead]
    assert fold.train_start == clock[-dataset.lead - 1]


def test_the_final_fit_learns_from_every_closed_label(dataset: BarDataset) -> None:
    view = dataset.training(final_bar_fold(dataset, FoldPlan()))
    known = dataset.frame.filter(pl.Series(dataset.ready) & pl.col("label_4_y").is_not_null()).height

    assert view.labels is not None
    assert int((view.labels.y[:, 1] >= 0).sum()) == known


def test_bars_that_are_too_few_are_counted_in_the_error(dataset: BarDataset) -> None:
    short = replace(dataset, frame=dataset.frame.filter(pl.col("ds") < datetime(2024, 1, 1) + timedelta(hours=20)))
    clock = clock_of(dataset)

    with pytest.raises(ConfigError, match=r"none of 80 bars up to .* has 64 bars of its segment before it"):
        bar_folds(short, FoldPlan())
    with pytest.raises(ConfigError, match="none of 80 bars"):
        final_bar_fold(short, FoldPlan())
    with pytest.raises(ConfigError, match=rf"{len(clock)} bars at which .* at least {len(clock)} \(folds.min_train\)"):
        bar_folds(dataset, FoldPlan(min_train=len(clock)))
    with pytest.raises(ConfigError, match=r"rolling window of 53 bars .* at least 50 \(folds.min_train\)"):
        bar_folds(dataset, FoldPlan(window="rolling", window_size=53, min_train=50))
