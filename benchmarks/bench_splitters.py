"""Time of the purged splitters, beside plain pandas and a plain loop over the same rows in the same run.

    python -m benchmarks.bench_splitters [--rows 281060] [--horizon 20] [--runs 5]

Rows are decisions of two symbols on 5-minute bars with gaps, labels of random length up to the horizon. `pandas` drops
what meets each test span from a Series of label ends, as in Lopez de Prado (2018), snippet 7.1; `loop` asks every row
in Python. Every split must agree before any ratio is printed; ratios are taken within a run, then the median over runs.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from statistics import median

import numpy as np
import pandas as pd

from nightcast.evaluation.purged import CombinatorialPurgedCV, PurgedKFold, PurgedWalkForward

EMBARGO = 20
Splitter = PurgedWalkForward | PurgedKFold | CombinatorialPurgedCV
Rows = tuple[np.ndarray, np.ndarray, np.ndarray]
Spans = list[tuple[np.datetime64, np.datetime64, np.datetime64]]
"""First decision, last label end, and first time that may train again, of each test span."""


def samples(rows: int, horizon: int, seed: int) -> Rows:
    """Decision times, label ends and symbols, in order of symbol and time."""
    rng = np.random.default_rng(seed)
    parts = []
    for symbol, size in enumerate((rows // 2, rows - rows // 2)):
        steps = 1 + np.where(rng.random(size + horizon) < 1e-3, 12, 0)
        times = np.datetime64("2020-01-01", "us") + np.cumsum(steps) * np.timedelta64(5, "m")
        ends = times[np.arange(size) + rng.integers(1, horizon + 1, size)]
        parts.append((times[:size], ends, np.full(size, symbol)))
    decision, end, symbol = (np.concatenate(values) for values in zip(*parts, strict=True))
    return decision, end, symbol


def spans_of(rows: Rows, tested: list[np.ndarray]) -> Spans:
    decision, end, _ = rows
    clock = np.unique(decision)
    out = []
    for mine in tested:
        last = end[mine].max()
        resume = int(np.searchsorted(clock, last, side="right")) + EMBARGO
        out.append((decision[mine].min(), last, clock[resume] if resume < len(clock) else np.datetime64("9999-01-01")))
    return out


def by_pandas(ends: pd.Series, spans: Spans) -> pd.Series:
    """Label ends by decision, less all that begin or end inside a span, or envelop it."""
    left = ends.copy()
    for first, _, resume in spans:
        begins = left[(left.index >= first) & (left.index < resume)].index
        closes = left[(left >= first) & (left < resume)].index
        around = left[(left.index <= first) & (left >= resume)].index
        left = left.drop(begins.union(closes).union(around).unique())
    return left


def by_loop(decision: list[int], end: list[int], spans: list[tuple[int, int, int]]) -> list[int]:
    kept = []
    for i, (begin, close) in enumerate(zip(decision, end, strict=True)):
        for first, _, resume in spans:
            if close >= first and begin < resume:
                break
        else:
            kept.append(i)
    return kept


def timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=281_060)
    parser.add_argument("--horizon", type=int, default=20)
    parser.add_argument("--runs", type=int, default=5)
    args = parser.parse_args()

    rows = samples(args.rows, args.horizon, seed=1)
    decision, end, symbol = rows
    # one row a decision for pandas, whose drop works by label: the symbols' rows are kept apart by a nanosecond
    apart = pd.Series(
        end, index=pd.DatetimeIndex(decision).astype("datetime64[ns]") + pd.to_timedelta(symbol, unit="ns")
    )
    ticks, closes = decision.astype(np.int64).tolist(), end.astype(np.int64).tolist()
    bars = len(np.unique(decision))
    splitters: dict[str, Splitter] = {
        "walk-forward, 6 folds": PurgedWalkForward(6, bars // 12, min_train=1000),
        "k-fold, k = 6": PurgedKFold(6, EMBARGO),
        "combinatorial, 6 over 2": CombinatorialPurgedCV(6, 2, EMBARGO),
    }
    print(f"{args.rows} rows, {bars} bars, labels of up to {args.horizon} bars, {args.runs} runs")
    for name, splitter in splitters.items():
        pairs = list(splitter.split(decision, end, symbol))
        spans = [spans_of(rows, tested_runs(splitter, decision, test)) for _, test in pairs]
        if isinstance(splitter, PurgedWalkForward):  # nothing after the span trains
            spans = [[(first, last, np.datetime64("9999-01-01")) for first, last, _ in its] for its in spans]
        whole = [[tuple(int(t.astype("datetime64[us]").astype(np.int64)) for t in s) for s in its] for its in spans]
        for (train, _), its, ints in zip(pairs, spans, whole, strict=True):
            assert by_loop(ticks, closes, ints) == train.tolist()
            assert np.array_equal(np.sort(by_pandas(apart, its).index), np.sort(apart.index[train]))

        found = []
        for _ in range(args.runs):
            own = timed(lambda splitter=splitter: list(splitter.split(decision, end, symbol)))
            pandas = timed(lambda spans=spans: [by_pandas(apart, its) for its in spans])
            loop = timed(lambda whole=whole: [by_loop(ticks, closes, its) for its in whole])
            found.append((own / len(pairs), pandas / own, loop / own))
        each, against_pandas, against_loop = (median(column) for column in zip(*found, strict=True))
        ratios = f"pandas / ours {against_pandas:6.1f}, loop / ours {against_loop:6.1f}"
        print(f"  {name:24} {1e3 * each:6.1f} ms a split; {ratios}")


def tested_runs(splitter: Splitter, decision: np.ndarray, test: np.ndarray) -> list[np.ndarray]:
    """Positions of each test span: adjacent groups together."""
    if isinstance(splitter, PurgedWalkForward):
        return [test]
    groups = splitter.k if isinstance(splitter, PurgedKFold) else splitter.groups
    group = CombinatorialPurgedCV(groups, 1, 0).groups_of(decision)[test]
    found = np.unique(group)
    return [test[np.isin(group, run)] for run in np.split(found, np.flatnonzero(np.diff(found) > 1) + 1)]


if __name__ == "__main__":
    main()
