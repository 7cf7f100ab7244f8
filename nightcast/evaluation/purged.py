"""Splits for labels that take time: no training label meets a test span.

A decision at bar `d` has a label over `(d, e]`, known at `e`. One split of a k-fold, over time (`=` training, `x`
purged, `#` test decisions, `:` bars that test labels still look at, `E` embargo)::

    decisions  =========xxxx##########::::EEE==========
                        |   |         |   |  |
                        |   first test|   |  training again
                        |   decision  |   last test label's end
                        these labels  last test
                        end in the    decision
                        test span

In a walk-forward nothing after the test span is trained on, so there is neither `:` nor `E`: a label that ends before
the first test decision is all that is asked for. Times are counted in bars of the clock: the union of all decision
times, over all symbols. All decisions at one time stand on one side, whatever their symbol, and a label of one symbol
purges the others', for symbols share their shocks.

Source: Lopez de Prado, Advances in Financial Machine Learning (2018), chapters 7 and 12.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import combinations
from typing import Any, Final, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from nightcast.contracts.bars import BarDataset
from nightcast.contracts.columns import TIME
from nightcast.contracts.errors import ConfigError
from nightcast.contracts.fold import Fold
from nightcast.contracts.recipe import FoldPlan

Ints = NDArray[np.int64]
Times = NDArray[np.datetime64]
Split = tuple[Ints, Ints]
"""Training and test positions, each rising."""

EMBARGO_SHARE: Final = 0.01
"""Share of a fold's bars that the default embargo spans at least."""


@dataclass(frozen=True)
class PurgedWalkForward:
    """Consecutive test spans at the end of the clock, each trained on what lies before it.

    Parameters
    ----------
    folds
        Number of splits.
    test_bars
        Bars in a test span.
    window
        `expanding`: all history. `rolling`: the newest `window_bars` bars of it.
    window_bars
        Bars in a rolling window, purged ones included; None for as many as the first split has.
    embargo
        Bars before the gap in which no training decision falls. Not needed against leaks, as training never follows
        its test span; it keeps the inputs of the two sides apart.
    gap
        Bars of data latency before the test span: labels that end in them, and decisions there, are unknown.
    min_train
        Fewest bars with training decisions in a split, after the purge.

    Raises
    ------
    ConfigError
        If a number is out of range.
    """

    folds: int
    test_bars: int
    window: Literal["expanding", "rolling"] = field(default="expanding", kw_only=True)
    window_bars: int | None = field(default=None, kw_only=True)
    embargo: int = field(default=0, kw_only=True)
    gap: int = field(default=0, kw_only=True)
    min_train: int = field(kw_only=True)

    def __post_init__(self) -> None:
        """Check the numbers."""
        _at_least(1, folds=self.folds, test_bars=self.test_bars, min_train=self.min_train)
        _at_least(0, embargo=self.embargo, gap=self.gap)
        if self.window not in ("expanding", "rolling"):
            raise ConfigError(f"window={self.window!r}", expected="expanding or rolling", remedy="choose one of them")
        if self.window_bars is not None:
            _at_least(1, window_bars=self.window_bars)

    @property
    def n_splits(self) -> int:
        """Number of splits."""
        return self.folds

    def split(self, decision: Times, label_end: Times, symbol: NDArray[Any] | None = None) -> Iterator[Split]:
        """Training and test positions of each split, in order of time.

        Parameters
        ----------
        decision, label_end
            `[n]` datetime64: start of the decision's bar and of the bar in which its label ends; in any order. Give
            the last bar in which it could end, as `BarDataset.training` does, where a label may end early: else
            the decisions just before a test span train only if their outcome came soon.
        symbol
            `[n]` symbol codes, to check that none decides twice at one time; None for one symbol.

        Raises
        ------
        ConfigError
            If the arrays do not fit one another, or the clock is too short.
        """
        samples = _Samples.of(decision, label_end, symbol)
        bars, tested = len(samples.clock), self.folds * self.test_bars
        first = bars - tested
        left = first - self.gap - self.embargo
        if left < self.min_train:
            raise ConfigError(
                f"{bars} bars leave {max(left, 0)} to train on before {self.folds} test spans of {self.test_bars}, "
                f"a gap of {self.gap} and an embargo of {self.embargo} bars",
                expected=f"at least {self.min_train} (min_train)",
                remedy="bring more bars, or ask for fewer or shorter test spans",
            )
        return self._splits(samples, first)

    def _splits(self, samples: _Samples, first: int) -> Iterator[Split]:
        width = first - self.gap if self.window_bars is None else self.window_bars
        for index in range(self.folds):
            low = first + index * self.test_bars
            edge = low - self.gap
            train = (samples.end < samples.clock[edge]) & (samples.at < edge - self.embargo)
            if self.window == "rolling":
                train &= samples.at >= edge - width
            used = samples.bars_of(train)
            if used < self.min_train:
                raise ConfigError(
                    f"split {index} trains on {used} bars after the purge",
                    expected=f"at least {self.min_train} (min_train)",
                    remedy="bring more bars, widen `window_bars`, or shorten the labels",
                )
            test = (samples.at >= low) & (samples.at < low + self.test_bars)
            yield np.flatnonzero(train), np.flatnonzero(test)


@dataclass(frozen=True)
class CombinatorialPurgedCV:
    """Every choice of `test_groups` out of `groups` spans of time is tested once, trained on the rest, purged.

    For research and the probability of backtest overfitting, never for a nightly job: training follows the test.

    Parameters
    ----------
    groups
        Spans of nearly equal numbers of bars, N.
    test_groups
        Spans in one test set, k. `C(N, k)` splits give `C(N - 1, k - 1)` paths: 15 and 5 by default.
    embargo
        Whole bars to leave free between the end of a test span's last label and the next training decision; None for
        the longest label or 1 % of a group's bars, whichever is more. What a feature looks back on is not in it.

    Raises
    ------
    ConfigError
        If a number is out of range.

    Notes
    -----
    Source: Lopez de Prado (2018), 12.4. Adjacent test groups make one span.
    """

    groups: int = 6
    test_groups: int = 2
    embargo: int | None = None

    def __post_init__(self) -> None:
        """Check the numbers."""
        _at_least(2, groups=self.groups)
        _at_least(1, test_groups=self.test_groups)
        if self.test_groups >= self.groups:
            raise ConfigError(
                f"{self.test_groups} test groups of {self.groups}",
                expected="fewer test groups than groups",
                remedy="leave at least one group to train on",
            )
        if self.embargo is not None:
            _at_least(0, embargo=self.embargo)

    @property
    def n_splits(self) -> int:
        """Number of splits, C(N, k)."""
        return math.comb(self.groups, self.test_groups)

    @property
    def n_paths(self) -> int:
        """Number of paths, C(N - 1, k - 1): how often each group is tested."""
        return math.comb(self.groups - 1, self.test_groups - 1)

    def test_sets(self) -> tuple[tuple[int, ...], ...]:
        """Groups that each split tests, in the order of `split`."""
        return tuple(combinations(range(self.groups), self.test_groups))

    def paths(self) -> Ints:
        """`[paths, groups]` number of the split whose test predictions a path takes in each group.

        A path covers every group once; together the paths use every tested group of every split once.
        """
        sets = self.test_sets()
        return np.array(
            [[i for i, tested in enumerate(sets) if group in tested] for group in range(self.groups)], dtype=np.int64
        ).T.copy()

    def groups_of(self, decision: Times) -> Ints:
        """`[n]` group of each decision."""
        at = np.unique(np.asarray(decision), return_inverse=True)[1]
        return self._groups(at.reshape(-1), int(at.max(initial=-1)) + 1)

    def split(self, decision: Times, label_end: Times, symbol: NDArray[Any] | None = None) -> Iterator[Split]:
        """Training and test positions of each split, in the order of `test_sets`.

        Parameters and errors as for `PurgedWalkForward.split`.
        """
        samples = _Samples.of(decision, label_end, symbol)
        if len(samples.clock) < self.groups:
            raise ConfigError(
                f"{len(samples.clock)} bars for {self.groups} groups",
                expected="at least one bar a group",
                remedy="bring more bars, or ask for fewer groups",
            )
        embargo = self.embargo
        if embargo is None:
            embargo = default_embargo(samples.longest(), len(samples.clock) // self.groups)
        return self._splits(samples, embargo)

    def _splits(self, samples: _Samples, embargo: int) -> Iterator[Split]:
        group = self._groups(samples.at, len(samples.clock))
        bounds = self._bounds(len(samples.clock))
        ends = np.full(self.groups, np.iinfo(np.int64).min)
        np.maximum.at(ends, group, samples.end)
        for number, tested in enumerate(self.test_sets()):
            test = np.isin(group, tested)
            train = ~test
            for run in _runs(tested):
                start = samples.clock[bounds[run[0]]]
                resume = samples.resume(int(ends[run].max()), embargo)
                train &= (samples.end < start) | (samples.at >= resume)
            if not train.any():
                raise ConfigError(
                    f"split {number} of {self.n_splits} keeps no training decision after the purge of labels of up to "
                    f"{samples.longest()} bars and an embargo of {embargo}",
                    expected=f"groups much longer than both; they have {len(samples.clock) // self.groups} bars",
                    remedy="bring more bars, or ask for fewer groups or a shorter embargo",
                )
            yield np.flatnonzero(train), np.flatnonzero(test)

    def _bounds(self, bars: int) -> Ints:
        """`[groups]` first bar of each group; the first `bars % groups` groups have one more."""
        size, more = divmod(bars, self.groups)
        index = np.arange(self.groups)
        return np.asarray(index * size + np.minimum(index, more), dtype=np.int64)

    def _groups(self, at: Ints, bars: int) -> Ints:
        return np.asarray(np.searchsorted(self._bounds(bars), at, side="right") - 1, dtype=np.int64)


@dataclass(frozen=True)
class PurgedKFold:
    """Every span of time is tested once, trained on all others, purged.

    Parameters
    ----------
    k
        Number of spans, of nearly equal numbers of bars.
    embargo
        As for `CombinatorialPurgedCV`, of which this is the case of one test group.

    Raises
    ------
    ConfigError
        If a number is out of range.
    """

    k: int = 5
    embargo: int | None = None

    def __post_init__(self) -> None:
        """Check the numbers."""
        _at_least(2, k=self.k)
        self._combined()

    @property
    def n_splits(self) -> int:
        """Number of splits."""
        return self.k

    def split(self, decision: Times, label_end: Times, symbol: NDArray[Any] | None = None) -> Iterator[Split]:
        """Training and test positions of each split, in order of time.

        Parameters and errors as for `PurgedWalkForward.split`.
        """
        return self._combined().split(decision, label_end, symbol)

    def _combined(self) -> CombinatorialPurgedCV:
        return CombinatorialPurgedCV(self.k, 1, self.embargo)


def default_embargo(longest: int, fold_bars: int) -> int:
    """Bars of embargo where none is named: the longest label's, or 1 % of a fold's bars, whichever is more."""
    return max(longest, math.ceil(EMBARGO_SHARE * fold_bars))


def bar_folds(dataset: BarDataset, plan: FoldPlan) -> tuple[Fold, ...]:
    """Lay out the scored folds of bars: a walk-forward over the newest bars at which a decision can fall.

    The clock is the union of those bars over all symbols, up to the as-of date. Its newest `plan.cutoffs` bars, at
    most half of it and no more than leave `plan.min_train` bars and one horizon before them, are shared in order of
    time by `plan.refits` folds of sizes that differ by one at most. Each bar of a test span is decided; `cutoffs` are
    the first and the last of them. `train_end` is the last bar before the span and its `plan.gap`;
    `BarDataset.training` purges by it. The labels of the last bars may not be known yet; those are not scored.

    Parameters
    ----------
    plan
        `cutoffs` counts test bars in all. A rolling window without a size is as long as the first fold's history.

    Raises
    ------
    ConfigError
        If the bars are too few, a rolling window is too short, or `plan.step` is not 1.
    """
    clock, horizon = _clock(dataset), dataset.schema.horizon
    if plan.step != 1:
        raise ConfigError(
            f"folds.step is {plan.step}",
            expected="1: every bar of a test span is decided",
            remedy="remove `folds.step` from the workload file",
        )
    size = plan.window_size if plan.window == "rolling" else None
    if size is not None and size < plan.min_train + horizon:
        raise ConfigError(
            f"a rolling window of {size} bars (folds.window_size)",
            expected=f"at least {plan.min_train} (folds.min_train) and one horizon of {horizon}",
            remedy="widen `folds.window_size`, or lower `folds.min_train` in the workload file",
        )
    bars = _test_bars(len(clock), horizon, plan)
    if bars < 1:
        raise ConfigError(
            f"{len(clock)} bars at which a decision can fall, each with {dataset.lead} bars of its segment before it",
            expected=f"at least {plan.min_train} (folds.min_train), one horizon of {horizon}, a gap of {plan.gap} and "
            "a bar to test on",
            remedy="bring more bars, shorten windows and warm-ups, or lower `folds.min_train` in the workload file",
        )
    count = min(plan.refits, bars)
    first = len(clock) - bars
    window = _window(plan, first)
    folds = []
    for index in range(count):
        low = first + index * (bars // count) + min(index, bars % count)
        high = low + bars // count + (index < bars % count)
        edge = low - 1 - plan.gap
        start = None if window is None else clock[max(0, edge - window + 1)]
        # two cutoffs even where they are one bar: a lone one asks for the newest decision of every symbol
        folds.append(Fold(f"fold-{index:02d}", start, clock[edge], (clock[low], clock[high - 1])))
    return tuple(folds)


def final_bar_fold(dataset: BarDataset, plan: FoldPlan) -> Fold:
    """Name the fit that is published from: every label closed at the as-of date, the newest decision of each symbol.

    Its one cutoff, the as-of date, is what asks for the newest decisions (`BarDataset.tests`). Those see no bar before
    `train_start`, so a rolling window reaches back at least as far as the newest decisions' features and windows do.

    Raises
    ------
    ConfigError
        If there is no bar at which a decision can fall.
    """
    clock = _clock(dataset)
    window = _window(plan, len(clock) - max(_test_bars(len(clock), dataset.schema.horizon, plan), 0))
    if window is None:
        return Fold("final", None, dataset.as_of, (dataset.as_of,))
    start = clock[max(0, len(clock) - window)]
    newest = dataset.view(dataset.as_of)
    if len(newest.rows):
        start = min(start, newest.times[newest.rows - dataset.lead].min().item())
    return Fold("final", start, dataset.as_of, (dataset.as_of,))


def _clock(dataset: BarDataset) -> Sequence[datetime]:
    """The union of times at which a decision can fall, rising."""
    ready = dataset.frame.select(TIME).filter(pl.Series(dataset.ready) & (pl.col(TIME) <= dataset.as_of))
    clock: list[datetime] = ready.get_column(TIME).unique().sort().to_list()
    if not clock:
        raise ConfigError(
            f"none of {dataset.frame.height} bars up to {dataset.as_of:%Y-%m-%d %H:%M} has {dataset.lead} bars of its "
            "segment before it",
            expected="bars that are warm in all features, with a full window behind them",
            remedy="bring more bars, raise `bars.max_gap`, or leave out the models with long windows",
        )
    return clock


def _test_bars(bars: int, horizon: int, plan: FoldPlan) -> int:
    return min(plan.cutoffs, bars // 2, bars - plan.gap - plan.min_train - horizon)


def _window(plan: FoldPlan, first: int) -> int | None:
    """Bars in a rolling window, None for an expanding one; `first` counts the bars before the first test span."""
    if plan.window == "expanding":
        return None
    return first - plan.gap if plan.window_size is None else plan.window_size


@dataclass(frozen=True)
class _Samples:
    """Checked samples on their clock: `clock` the distinct decision times, `at` the place of each decision in it."""

    clock: Ints
    at: Ints
    end: Ints

    @classmethod
    def of(cls, decision: Times, label_end: Times, symbol: NDArray[Any] | None) -> _Samples:
        begins, ends = _ticks(decision, "decision"), _ticks(label_end, "label_end")
        if begins.shape != ends.shape or (symbol is not None and np.shape(symbol) != begins.shape):
            shapes = [begins.shape, ends.shape, *([] if symbol is None else [np.shape(symbol)])]
            raise ConfigError(
                f"decisions, label ends and symbols of shapes {shapes}",
                expected="one of each a sample",
                remedy="filter all of them by one mask",
            )
        if not len(begins):
            raise ConfigError("no sample", expected="at least one", remedy="look at what filtered all of them out")
        if (ends < begins).any():
            i = int(np.flatnonzero(ends < begins)[0])
            raise ConfigError(
                f"the label of sample {i} ends at {np.asarray(label_end)[i]}, before its decision at "
                f"{np.asarray(decision)[i]}",
                expected="an end at or after the decision",
                remedy="pass the time of the bar in which the label ends, and leave out unknown labels",
            )
        clock, at = _places(begins)
        _check_once(np.asarray(decision), at, symbol)
        return cls(clock, at, ends)

    def bars_of(self, chosen: NDArray[np.bool_]) -> int:
        """Bars at which the chosen samples fall."""
        seen = np.zeros(len(self.clock), dtype=bool)
        seen[self.at[chosen]] = True
        return int(seen.sum())

    def longest(self) -> int:
        """Bars of the longest label."""
        return int((np.searchsorted(self.clock, self.end) - self.at).max())

    def resume(self, end: int, embargo: int) -> int:
        """Place of the first bar that may train again after a span whose labels end at `end`."""
        if embargo == 0:
            return int(np.searchsorted(self.clock, end, side="left"))
        return int(np.searchsorted(self.clock, end, side="right")) + embargo


def _places(begins: Ints) -> tuple[Ints, Ints]:
    """Distinct times, rising, and the place of each sample among them."""
    step = np.diff(begins)
    if (step >= 0).all():
        new = np.append(True, step > 0)
        return begins[new], np.asarray(np.cumsum(new) - 1, dtype=np.int64)
    clock, at = np.unique(begins, return_inverse=True)
    return clock, np.asarray(at, dtype=np.int64)


def _ticks(times: Times, name: str) -> Ints:
    """Microseconds."""
    values = np.asarray(times)
    if values.dtype.kind != "M" or values.ndim != 1 or np.isnat(values).any():
        raise ConfigError(
            f"{name} of type {values.dtype} and shape {values.shape}"
            + (" with missing times" if values.dtype.kind == "M" and np.isnat(values).any() else ""),
            expected="a one-dimensional datetime64 array without gaps",
            remedy="pass bar times, and leave out samples whose label is unknown",
        )
    return values.astype("datetime64[us]").astype(np.int64)


def _check_once(decision: Times, at: Ints, symbol: NDArray[Any] | None) -> None:
    """No symbol decides twice at one time."""
    if symbol is None:
        order = np.argsort(at, kind="stable")
        same = np.diff(at[order]) == 0
    else:
        codes = np.asarray(symbol)
        order = np.lexsort((at, codes))
        same = (np.diff(at[order]) == 0) & (codes[order][1:] == codes[order][:-1])
    if same.any():
        i = int(order[np.flatnonzero(same)[0]])
        raise ConfigError(
            f"two decisions of one symbol at {decision[i]}",
            expected="one decision a symbol and time",
            remedy="drop the repeated rows" if symbol is not None else "pass `symbol` where there are several",
        )


def _runs(tested: tuple[int, ...]) -> list[list[int]]:
    """Adjacent groups together."""
    runs: list[list[int]] = []
    for group in tested:
        if runs and group == runs[-1][-1] + 1:
            runs[-1].append(group)
        else:
            runs.append([group])
    return runs


def _at_least(least: int, **numbers: int) -> None:
    for name, value in numbers.items():
        if value < least:
            raise ConfigError(f"{name}={value}", expected=f"{least} or more", remedy=f"raise `{name}`")
