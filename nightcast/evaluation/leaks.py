"""Audits that name a leak: each looks at one place where the future can slip into training.

Every audit returns findings, none where it found nothing; `docs/validation.md` lists which leak each of them names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, DTypeLike, NDArray

from nightcast.contracts.bars import UNKNOWN_LABEL, BarDataset, label_columns
from nightcast.contracts.columns import CLOSE, HIGH, ID, LABEL_END, LOW, OPEN, SEGMENT, TARGET, TIME
from nightcast.contracts.errors import ConfigError

Ints = NDArray[np.int64]
Times = NDArray[np.datetime64]
Build = Callable[[pl.DataFrame], pl.DataFrame]
"""Bars `unique_id, ds, ...` -> rows `unique_id, ds` and what was built of them; a pure function."""

Leak = Literal[
    "rows_on_both_sides",
    "overlapping_labels",
    "missing_embargo",
    "fit_on_held_out_rows",
    "feature_sees_the_future",
    "copies_across_the_split",
    "oversampled_before_the_split",
    "label_known_at_decision",
    "label_outlives_its_end",
    "label_off_its_bars",
    "too_good_to_be_true",
]

ROWS: Final = "rows"
"""Stands for a column in a finding: rows at or before the cutoff come or go with the future."""
MAX_AUC: Final = 0.65
"""Direction AUC beyond which a result is taken for a leak; honest bars reach .50 to .53."""
MAX_SHARPE: Final = 4.0
"""Annual Sharpe ratio, before or after costs, beyond which a result is taken for a leak."""
PRICES: Final = (OPEN, HIGH, LOW, CLOSE)
LEVEL: Final = 2.0
"""Factor on past prices in the label audit; a power of two keeps their ratios exact."""


@dataclass(frozen=True)
class LeakFinding:
    """One leak, named.

    Attributes
    ----------
    leak
        What kind it is.
    where
        The split, step or column it was found in.
    rows
        Rows it touches.
    detail
        One sentence with the numbers, for people.
    """

    leak: Leak
    where: str
    rows: int
    detail: str


# -- splits ------------------------------------------------------------------------------------------------------------


def audit_split(
    decision: Times, label_end: Times, splits: Iterable[tuple[ArrayLike, ArrayLike]], *, embargo: int = 0
) -> list[LeakFinding]:
    """Look for training labels that meet test labels, and for training too soon after a test span.

    Parameters
    ----------
    decision, label_end
        `[n]` datetime64: start of the decision's bar and of the bar in which its label ends.
    splits
        Training and test positions of each split.
    embargo
        Whole bars (distinct decision times) that must lie between the end of a test label and a later training
        decision; 0 asks for none.

    Returns
    -------
    list of LeakFinding
        `rows_on_both_sides`, `overlapping_labels` (what shuffled cross-validation does) and `missing_embargo`; `rows`
        counts training rows.

    Raises
    ------
    ConfigError
        If the arrays do not fit one another, or there is no split.
    """
    begins, ends = np.asarray(decision), np.asarray(label_end)
    if begins.shape != ends.shape or begins.ndim != 1 or embargo < 0:
        raise ConfigError(
            f"decisions of shape {begins.shape}, label ends of shape {ends.shape}, an embargo of {embargo}",
            expected="two one-dimensional arrays of one length, and 0 bars or more",
            remedy="pass the same samples that were split",
        )
    clock = np.unique(begins)
    findings: list[LeakFinding] = []
    number = -1
    for number, (train_rows, test_rows) in enumerate(splits):
        where = f"split {number}"
        train, test = np.asarray(train_rows, dtype=np.int64), np.asarray(test_rows, dtype=np.int64)
        both = len(np.intersect1d(train, test))
        if both:
            findings.append(LeakFinding("rows_on_both_sides", where, both, f"{both} rows train and test in {where}"))
        train = np.setdiff1d(train, test)
        if not len(train) or not len(test):
            continue
        met = _meets(begins[train], ends[train], begins[test], ends[test])
        if met.any():
            first = train[np.flatnonzero(met)[0]]
            findings.append(
                LeakFinding(
                    "overlapping_labels",
                    where,
                    int(met.sum()),
                    f"{met.mean():.0%} of the training labels of {where} overlap a test label, first that of "
                    f"{begins[first]} with its end at {ends[first]}: purge by label end, and never shuffle",
                )
            )
        if embargo:
            soon = _soon(clock, begins[train], ends[test], embargo) & ~met
            if soon.any():
                first = train[np.flatnonzero(soon)[0]]
                findings.append(
                    LeakFinding(
                        "missing_embargo",
                        where,
                        int(soon.sum()),
                        f"{int(soon.sum())} training decisions of {where} fall within {embargo} bars after a test "
                        f"label's end, first {begins[first]}",
                    )
                )
    if number < 0:
        raise ConfigError("no split to audit", expected="at least one", remedy="pass what the splitter yields, once")
    return findings


def _meets(begins: Times, ends: Times, test_begins: Times, test_ends: Times) -> NDArray[np.bool_]:
    """Which labels `(begin, end]` meet the time `[begin, end]` of any test sample."""
    order = np.argsort(test_begins, kind="stable")
    starts, reach = test_begins[order], np.maximum.accumulate(test_ends[order])
    last = np.searchsorted(starts, ends, side="right") - 1
    return np.asarray((last >= 0) & (reach[np.maximum(last, 0)] > begins))


def _soon(clock: Times, begins: Times, test_ends: Times, embargo: int) -> NDArray[np.bool_]:
    """Which decisions fall at a test label's end or within the embargo after it, in bars of the clock."""
    closed = np.unique(test_ends)
    last = np.searchsorted(closed, begins, side="right") - 1
    allowed = np.searchsorted(clock, closed, side="right") + embargo
    return np.asarray((last >= 0) & (np.searchsorted(clock, begins) < allowed[np.maximum(last, 0)]))


# -- what a fit touches ------------------------------------------------------------------------------------------------


class RecordingArray:
    """An array that writes down which of its rows are read: hand it to a fit, then audit `touched`.

    Reading it as a whole (`numpy.asarray`, `mean`, a comparison) counts as touching every row.

    Parameters
    ----------
    values
        `[N, ...]` array. Indexing gives plain arrays.
    """

    def __init__(self, values: NDArray[Any]) -> None:
        self._values = values
        self._seen = np.zeros(len(values), dtype=bool)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the array; asking for it touches nothing."""
        return self._values.shape

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return self._values.ndim

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the values."""
        return self._values.dtype

    @property
    def touched(self) -> Ints:
        """Rows read so far, rising."""
        return np.flatnonzero(self._seen)

    def __len__(self) -> int:
        return len(self._values)

    def __getitem__(self, key: Any) -> Any:
        self._seen[key[0] if isinstance(key, tuple) else key] = True
        return self._values[key]

    def __iter__(self) -> Iterator[Any]:
        for row in range(len(self)):
            yield self[row]

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[Any]:
        self._seen[:] = True
        return np.array(self._values, dtype=dtype, copy=True if copy is None else copy)


def audit_rows(touched: ArrayLike, train: ArrayLike, *, step: str = "the fit") -> list[LeakFinding]:
    """Look for rows that a fit read and that are not its training rows.

    Parameters
    ----------
    touched
        Row numbers that were read: `RecordingArray.touched`, or what the step itself kept.
    train
        Row numbers it may read.
    step
        Its name.

    Returns
    -------
    list of LeakFinding
        `fit_on_held_out_rows`, as of a scaler that is fitted on all rows.

    Raises
    ------
    ConfigError
        If nothing was touched: then nothing was audited.
    """
    seen, allowed = np.unique(np.asarray(touched, dtype=np.int64)), np.asarray(train, dtype=np.int64)
    if not len(seen):
        raise ConfigError(
            f"{step} touched no row",
            expected="the rows it was fitted on",
            remedy="hand the RecordingArray itself to the fit, not a copy",
        )
    outside = np.setdiff1d(seen, allowed)
    if not len(outside):
        return []
    return [
        LeakFinding(
            "fit_on_held_out_rows",
            step,
            len(outside),
            f"{step} read {len(outside)} rows that are none of its {len(np.unique(allowed))} training rows, first row "
            f"{outside[0]}",
        )
    ]


# -- features ----------------------------------------------------------------------------------------------------------


def audit_features(build: Build, frame: pl.DataFrame, cutoff: datetime, *, seed: int = 0) -> list[LeakFinding]:
    """Change everything after the cutoff, and look for columns whose past changes with it, to the last bit.

    The future is once removed and once shuffled and stretched. Whatever `build` returns is held to it: features,
    weights, scaled values, predictions.

    Parameters
    ----------
    frame
        Bars with `unique_id, ds`, some of them after the cutoff.
    cutoff
        Last known time.
    seed
        Of the shuffling.

    Returns
    -------
    list of LeakFinding
        `feature_sees_the_future`, one per column; `rows` counts rows at or before the cutoff that change.

    Raises
    ------
    ConfigError
        If the cutoff leaves nothing before or after it.
    """
    _check_both_sides(frame, cutoff)
    known = pl.col(TIME) <= cutoff
    whole = build(frame).filter(known).sort(ID, TIME)
    changed: dict[str, int] = {}
    for other in (frame.filter(known), _scrambled(frame, cutoff, seed)):
        again = build(other).filter(known).sort(ID, TIME)
        for name, rows in _differences(whole, again).items():
            changed[name] = max(changed.get(name, 0), rows)
    return [
        LeakFinding(
            "feature_sees_the_future",
            name,
            rows,
            f"{rows} rows of {name!r} at or before {cutoff:%Y-%m-%d %H:%M} change with what comes after",
        )
        for name, rows in sorted(changed.items())
    ]


def _check_both_sides(frame: pl.DataFrame, cutoff: datetime) -> None:
    before = frame.filter(pl.col(TIME) <= cutoff).height
    if not 0 < before < frame.height:
        raise ConfigError(
            f"a cutoff at {cutoff} with {before} rows up to it and {frame.height - before} after it",
            expected="rows on both sides",
            remedy="choose a cutoff inside the data",
        )


def _scrambled(frame: pl.DataFrame, cutoff: datetime, seed: int) -> pl.DataFrame:
    """The future's values shuffled among its rows, and each row stretched by a factor of its own.

    One factor a row keeps the prices of a bar in order.
    """
    rng = np.random.default_rng(seed)
    keys = pl.col(TIME) > cutoff
    past, future = frame.filter(~keys), frame.filter(keys)
    factor = pl.Series(np.exp(rng.normal(0.0, 1.0, future.height)))
    order = rng.permutation(future.height)
    names = [name for name, kind in frame.schema.items() if kind.is_numeric() and name not in (ID, TIME)]
    moved = [(future.get_column(name)[order].cast(pl.Float64) * factor).cast(frame.schema[name]) for name in names]
    return pl.concat([past, future.with_columns(moved)]).sort(ID, TIME)


def _differences(one: pl.DataFrame, other: pl.DataFrame) -> dict[str, int]:
    """Column -> rows in which it differs; missing on one side counts as all."""
    if not one.select(ID, TIME).equals(other.select(ID, TIME)):
        gone = one.join(other, on=[ID, TIME], how="anti").height + other.join(one, on=[ID, TIME], how="anti").height
        return {ROWS: max(gone, 1)}
    out = {name: one.height for name in set(one.columns) ^ set(other.columns)}
    for name in one.columns:
        if name in (ID, TIME) or name not in other.columns:
            continue
        rows = int((~one.get_column(name).eq_missing(other.get_column(name))).sum())
        if rows:
            out[name] = rows
    return out


# -- copies ------------------------------------------------------------------------------------------------------------


def audit_duplicates(
    train: NDArray[Any],
    test: NDArray[Any],
    *,
    closeness: float = 0.1,
    limit: float = 0.02,
    most: int = 1000,
    where: str = "the split",
) -> list[LeakFinding]:
    """Look for test rows that lie far closer to a training row than test rows usually do.

    Distances are Euclidean in columns scaled by the training rows. In `F` independent columns about `0.7 closeness^F`
    of the rows do so by chance, 1 in 1500 for three; a fifth of the rows interpolated between a row and its neighbour
    do.

    Parameters
    ----------
    train, test
        `[n, F]` and `[m, F]` finite features, F of 3 or more. Rows with a label alone are enough.
    closeness
        Share of the median distance below which a row counts as a copy.
    limit
        Share of the test rows that may be copies.
    most
        Test rows looked at, evenly spaced.

    Returns
    -------
    list of LeakFinding
        `copies_across_the_split`, as of oversampling before the split, or of shuffled overlapping windows. `rows`
        counts the test rows looked at that are copies.

    Raises
    ------
    ConfigError
        If a side is empty, the columns differ, are fewer than 3, or hold values that are not finite.
    """
    a, b = np.asarray(train, dtype=np.float64), np.asarray(test, dtype=np.float64)
    fits = a.ndim == 2 and b.ndim == 2 and a.shape[1:] == b.shape[1:] and min(len(a), len(b)) > 0 and a.shape[1] >= 3
    if not fits or not np.isfinite(a).all() or not np.isfinite(b).all():
        raise ConfigError(
            f"training rows of shape {a.shape} and test rows of shape {b.shape}"
            + (", some values not finite" if fits else ""),
            expected="finite rows on both sides, of the same 3 columns or more",
            remedy="pass the features after the fold's pipeline",
        )
    scale = a.std(axis=0)
    scale[scale == 0] = 1.0
    a, b = a / scale, b / scale
    picked = np.unique(np.round(np.linspace(0, len(b) - 1, min(most, len(b)))).astype(np.int64))
    distance = _nearest(a, b[picked])
    usual = float(np.median(distance))
    copies = distance <= closeness * usual
    if copies.mean() <= limit:
        return []
    return [
        LeakFinding(
            "copies_across_the_split",
            where,
            int(copies.sum()),
            f"{copies.mean():.1%} of {len(picked)} test rows of {where} have a training row within {closeness:g} times "
            f"the median distance {usual:.3g}, more than {limit:.0%}: oversample inside the training rows",
        )
    ]


def audit_oversampling(parents: ArrayLike, train: ArrayLike, *, step: str = "oversampling") -> list[LeakFinding]:
    """Look for synthetic training rows with a parent that is not a training row.

    Parameters
    ----------
    parents
        `[m, p]` row numbers that each synthetic training row was made of.
    train
        Rows it may be made of.

    Returns
    -------
    list of LeakFinding
        `oversampled_before_the_split`; `rows` counts synthetic rows.
    """
    made = np.asarray(parents, dtype=np.int64)
    made = made.reshape(len(made), -1)
    foreign = ~np.isin(made, np.asarray(train, dtype=np.int64)).all(axis=1)
    if not foreign.any():
        return []
    return [
        LeakFinding(
            "oversampled_before_the_split",
            step,
            int(foreign.sum()),
            f"{int(foreign.sum())} of {len(made)} synthetic rows of {step} have a parent outside the training rows",
        )
    ]


def _nearest(rows: NDArray[np.float64], asked: NDArray[np.float64], chunk: int = 4096) -> NDArray[np.float64]:
    """Distance of each asked row to the nearest of `rows`."""
    best = np.full(len(asked), np.inf)
    at = np.zeros(len(asked), dtype=np.int64)
    for start in range(0, len(rows), chunk):
        part = rows[start : start + chunk]
        square = (part**2).sum(axis=1) - 2.0 * (asked @ part.T)
        near = square.argmin(axis=1)
        value = square[np.arange(len(asked)), near]
        closer = value < best
        best[closer], at[closer] = value[closer], start + near[closer]
    # the expanded square loses what matters for copies; the found neighbour's own distance does not
    return np.asarray(np.sqrt(((asked - rows[at]) ** 2).sum(axis=1)))


# -- labels ------------------------------------------------------------------------------------------------------------


def audit_labels(build: Build, frame: pl.DataFrame, cutoff: datetime, *, probes: int = 20) -> list[LeakFinding]:
    """Look for labels that hold something known when they are decided, or that look beyond their stated end.

    A label of the decision at bar `t` starts at the open of bar `t + 1`: doubling every price up to and including `t`
    changes no return and no volatility known at `t`, nor any later price, so it must not change the label. It changes
    one that is shifted by a bar and so spans the bar of its own decision. And scrambling the bars after a time must
    leave the labels that had ended by then as they are. Both are asked at `probes` times up to the cutoff.

    Parameters
    ----------
    build
        Bars -> `unique_id, ds, y, label_end`, null where unknown. Barriers may follow the volatility of past returns,
        not the level of past prices.
    frame
        Bars `unique_id, ds, open, high, low, close`, some of them after the cutoff.
    cutoff
        Last time to ask at.
    probes
        Decision times to ask at, evenly spaced over the known labels.

    Returns
    -------
    list of LeakFinding
        `label_known_at_decision` (a label that is shifted, or ends by its own decision) and `label_outlives_its_end`.

    Raises
    ------
    ConfigError
        If a column is missing, the cutoff leaves nothing on a side, or no label is known up to it.
    """
    missing = [name for name in (ID, TIME, *PRICES) if name not in frame.columns]
    if missing:
        raise ConfigError(f"bars without {missing}", expected=f"{[ID, TIME, *PRICES]}", remedy="pass bars")
    _check_both_sides(frame, cutoff)
    known = _labels_of(build, frame).drop_nulls(TARGET)
    times = known.filter(pl.col(TIME) <= cutoff).get_column(TIME).unique().sort()
    if not len(times):
        raise ConfigError(
            f"no label is known up to {cutoff}", expected="at least one", remedy="pass more bars than the horizon"
        )
    findings = []
    early = known.filter(pl.col(LABEL_END) <= pl.col(TIME)).height
    asked = np.unique(np.round(np.linspace(0, len(times) - 1, min(probes, len(times)))).astype(np.int64))
    probed = spanning = outliving = 0
    for time in times[asked]:
        raised = frame.with_columns(
            pl.when(pl.col(TIME) <= time).then(pl.col(name) * LEVEL).otherwise(pl.col(name)).alias(name)
            for name in PRICES
        )
        here, ended = known.filter(pl.col(TIME) == time), known.filter(pl.col(LABEL_END) <= time)
        probed += here.height
        spanning += _unlike(here, _labels_of(build, raised))
        outliving += _unlike(ended, _labels_of(build, _scrambled(frame, time, seed=0)))
    if early or spanning:
        findings.append(
            LeakFinding(
                "label_known_at_decision",
                TARGET,
                early + spanning,
                f"{spanning} of {probed} labels asked follow prices up to their own decision, and {early} of "
                f"{known.height} end by then: a label starts at the open of the next bar; is it shifted?",
            )
        )
    if outliving:
        findings.append(
            LeakFinding(
                "label_outlives_its_end",
                TARGET,
                outliving,
                f"{outliving} times at {len(asked)} cutoffs a label that had ended changes with later bars: a purge by "
                "its stated end is too short",
            )
        )
    return findings


def _labels_of(build: Build, frame: pl.DataFrame) -> pl.DataFrame:
    built = build(frame)
    missing = [name for name in (ID, TIME, TARGET, LABEL_END) if name not in built.columns]
    if missing:
        raise ConfigError(
            f"labels without {missing}",
            expected=f"{[ID, TIME, TARGET, LABEL_END]}",
            remedy="let the label builder return them",
        )
    return built.select(ID, TIME, TARGET, LABEL_END)


def _unlike(one: pl.DataFrame, other: pl.DataFrame) -> int:
    """Rows of `one` that the other lacks, or has with another label or end."""
    return one.join(other, on=[ID, TIME, TARGET, LABEL_END], how="anti").height


def audit_label_returns(dataset: BarDataset, *, limit: float = 0.001) -> list[LeakFinding]:
    """Look for labels whose return cannot have been made between their entry and their end.

    From the open of the next bar to a price inside the bar in which the label ends: a return outside that range
    belongs to other bars. Nothing is rebuilt, so this runs on any dataset.

    Parameters
    ----------
    limit
        Share of a horizon's known labels that may lie outside.

    Returns
    -------
    list of LeakFinding
        `label_off_its_bars`, one per horizon.
    """
    frame = dataset.frame
    prices = {name: frame.get_column(name).cast(pl.Float64).to_numpy() for name in (OPEN, HIGH, LOW)}
    segment = frame.get_column(SEGMENT).to_numpy()
    findings = []
    for horizon in dataset.schema.horizons:
        names = label_columns(horizon)
        y = frame.get_column(names["y"]).fill_null(UNKNOWN_LABEL).to_numpy()
        hold = frame.get_column(names["hold"]).fill_null(0).to_numpy().astype(np.int64)
        ret = frame.get_column(names["ret"]).fill_null(float("nan")).to_numpy()
        rows = np.flatnonzero(y != UNKNOWN_LABEL)
        if not len(rows):
            continue
        end = np.minimum(rows + hold[rows], len(y) - 1)
        entry = prices[OPEN][np.minimum(rows + 1, len(y) - 1)]
        slack = 1e-9
        fits = (ret[rows] >= prices[LOW][end] / entry - 1 - slack) & (
            ret[rows] <= prices[HIGH][end] / entry - 1 + slack
        )
        fits &= (hold[rows] >= 1) & (hold[rows] <= horizon) & (segment[end] == segment[rows])
        off = int((~fits).sum())
        if off > limit * len(rows):
            findings.append(
                LeakFinding(
                    "label_off_its_bars",
                    names["y"],
                    off,
                    f"{off} of {len(rows)} labels of horizon {horizon} carry a return that their bars, from the open "
                    "after the decision to the stated end, cannot have made",
                )
            )
    return findings


# -- results -----------------------------------------------------------------------------------------------------------


def suspicious(direction_auc: float | None, sharpe: float | None, *, where: str = "the result") -> list[LeakFinding]:
    """Take a result that is too good for a leak: direction AUC above 0.65, or an annual Sharpe ratio above 4.

    Parameters
    ----------
    direction_auc
        Area under the curve of long against short on the rows that are not neutral; None where it is undefined.
    sharpe
        Annual Sharpe ratio; None without trades.
    """
    findings = []
    for name, value, most in (("direction AUC", direction_auc, MAX_AUC), ("Sharpe ratio", sharpe, MAX_SHARPE)):
        if value is not None and value > most:
            findings.append(
                LeakFinding(
                    "too_good_to_be_true",
                    where,
                    0,
                    f"the {name} of {where} is {value:.2f}, above {most:g}: look for a leak before anything else",
                )
            )
    return findings
