"""Sample weights of overlapping labels: uniqueness, return attribution, time decay, quality tiers.

A decision at row `i` whose label holds for `h` bars looks at the bars `i + 1 .. i + h`. Arrays over bars may hold
several symbols one after another: labels never leave their symbol, so labels of different symbols never meet.

Source: Lopez de Prado, Advances in Financial Machine Learning (2018), chapter 4.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nightcast.contracts.columns import NEUTRAL
from nightcast.contracts.errors import ConfigError, TrainingError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

MAX_BOOTSTRAP_EVENTS: Final = 5_000
"""Labels above which the sequential bootstrap, quadratic in them, is refused."""

TIERS: Final[tuple[str, ...]] = ("A+", "A", "B", "C")
"""Quality tiers, best first; `quality_tier` answers with positions in this tuple."""
TIER_WEIGHTS: Final[tuple[float, ...]] = (1.5, 1.25, 1.0, 0.5)
"""Weight of each tier, before the weights are brought to mean 1."""

ATTRIBUTION_CLIP: Final = 0.99
"""Quantile at which return attribution is clipped."""


def concurrency(rows: ArrayLike, hold: ArrayLike, total: int) -> Ints:
    """Number of labels that look at each bar.

    Parameters
    ----------
    rows
        `[n]` row numbers of the decisions, in any order.
    hold
        `[n]` bars from each decision to its label's end, at least 1.
    total
        Number of bars, N.

    Returns
    -------
    NDArray
        `[N]` int64.

    Raises
    ------
    ConfigError
        If the shapes differ, a label holds for less than one bar, or a label leaves the bars.
    """
    row, length = _labels(rows, hold, total)
    return _concurrency(row, length, total)


def uniqueness(rows: ArrayLike, hold: ArrayLike, total: int) -> Floats:
    """Average uniqueness of each label: the mean over its bars of one over the number of labels there.

    1 where a label has its bars for itself. The sum over labels that cover a block of bars is the number of labels'
    worth of information in it, an effective sample size. Parameters and errors as for `concurrency`; `[n]` float64 in
    (0, 1]. Source: Lopez de Prado (2018), 4.4.
    """
    row, length = _labels(rows, hold, total)
    return _uniqueness(row, length, _concurrency(row, length, total))


def return_attribution(rows: ArrayLike, hold: ArrayLike, returns: ArrayLike) -> Floats:
    """Size of the return that belongs to each label, `|sum over its bars of r_t / c_t|`, clipped at its p99.

    Parameters
    ----------
    rows, hold
        As for `concurrency`.
    returns
        `[N]` one-bar log returns, `log(close_t / close_{t-1})`. A value that is not finite counts as no return.

    Returns
    -------
    NDArray
        `[n]` float64, not negative. Source: Lopez de Prado (2018), 4.6; the clip is ours.

    Raises
    ------
    ConfigError
        As for `concurrency`.
    """
    values = np.asarray(returns, dtype=np.float64)
    row, length = _labels(rows, hold, len(values))
    return _attribution(row, length, values, _concurrency(row, length, len(values)))


def time_decay(unique: ArrayLike, times: ArrayLike, *, decay: float) -> Floats:
    """Weights that fall linearly from 1 for the newest decisions to `decay` for the oldest.

    Linear in cumulated uniqueness, not in time: a stretch of redundant labels ages its predecessors less. Decisions at
    one time, of several symbols, share one weight.

    Parameters
    ----------
    unique
        `[n]` average uniqueness of each label.
    times
        `[n]` times of the decisions, in any order.
    decay
        Weight of the oldest, from 0 to 1; 1 switches decay off.

    Returns
    -------
    NDArray
        `[n]` float64. Source: Lopez de Prado (2018), 4.7.

    Raises
    ------
    ConfigError
        If `decay` is not between 0 and 1, or the shapes differ.
    """
    if not 0 <= decay <= 1:
        raise ConfigError(
            f"decay = {decay!r}",
            expected="a number from 0 to 1",
            remedy="set it to the weight of the oldest decision; 1 switches decay off",
        )
    share, when = np.asarray(unique, dtype=np.float64), np.asarray(times)
    if share.shape != when.shape or share.ndim != 1:
        raise ConfigError(
            f"uniqueness of shape {share.shape} with times of shape {when.shape}",
            expected="one time a decision",
            remedy="take the times of the decisions, `times[rows]`",
        )
    if not len(share) or decay == 1:
        return np.ones(len(share))
    _, group = np.unique(when, return_inverse=True)
    grown = np.cumsum(np.bincount(group, weights=share))
    span = grown[-1] - grown[0]
    age = (grown[-1] - grown) / span if span > 0 else np.zeros(len(grown))
    return np.asarray((1.0 - (1.0 - decay) * age)[group])


def quality_tier(
    y: ArrayLike, ret: ArrayLike, width: ArrayLike, hold: ArrayLike, *, horizon: int, ambiguous: ArrayLike | None = None
) -> NDArray[np.int8]:
    """Tier of each label by how clear it is: 0 `A+`, 1 `A`, 2 `B`, 3 `C` (positions in `TIERS`).

    A touched barrier is the clearer the earlier it was touched and the farther the bar opened beyond it:
    `clarity = |ret| / width * (1 - (hold - 1) / horizon)`. A neutral label is the clearer the nearer to the entry the
    price ended: `clarity = 1 - |ret| / width`.

    ========= ========================= =================
    tier      barrier touched, clarity  neutral, clarity
    ========= ========================= =================
    A+        at least 2/3              never
    A         at least 1/3              at least 2/3
    B         below                     at least 1/3
    C         never                     below
    ========= ========================= =================

    An ambiguous label, whose bar touched both barriers, is `C`.

    Parameters
    ----------
    y
        `[n]` classes, 0, 1 or 2; known labels only.
    ret, width, hold
        `[n]` return to the label's end, barrier as a fraction of the entry, bars to the label's end.
    horizon
        Bars that the label may look ahead.
    ambiguous
        `[n]` whether one bar touched both barriers; None for nowhere.

    Raises
    ------
    ConfigError
        If the shapes differ, a label is unknown, or a width is not positive.
    """
    classes, size = np.asarray(y, dtype=np.int64), np.abs(np.asarray(ret, dtype=np.float64))
    barrier, bars = np.asarray(width, dtype=np.float64), np.asarray(hold, dtype=np.int64)
    both = np.zeros(classes.shape, dtype=bool) if ambiguous is None else np.asarray(ambiguous, dtype=bool)
    if not classes.shape == size.shape == barrier.shape == bars.shape == both.shape:
        shapes = [part.shape for part in (classes, size, barrier, bars, both)]
        raise ConfigError(
            f"labels of shapes {shapes}", expected="one value a label", remedy="filter all columns by one mask"
        )
    known = (classes >= 0) & (classes <= 2) & np.isfinite(size) & (barrier > 0) & (bars >= 1) & (bars <= horizon)
    if not known.all():
        bad = int(np.flatnonzero(~known)[0])
        raise ConfigError(
            f"label {bad} has class {classes[bad]}, return {size[bad]:g}, width {barrier[bad]:g} and hold {bars[bad]}",
            expected=f"known labels: class 0, 1 or 2, a positive width, a hold from 1 to {horizon}",
            remedy="leave out the rows whose label is null",
        )
    neutral = classes == NEUTRAL
    clarity = np.where(neutral, 1.0 - size / barrier, size / barrier * (1.0 - (bars - 1) / horizon))
    # thirds are met exactly by whole bars: allow for their rounding
    step = (clarity >= 2 / 3 - 1e-12).astype(np.int8) + (clarity >= 1 / 3 - 1e-12).astype(np.int8)
    tier = np.where(neutral, 3, 2) - step
    return np.asarray(np.where(both, 3, tier), dtype=np.int8)


def tier_weights(tiers: ArrayLike) -> Floats:
    """Weight of each label by its tier, `[n]`; see `TIER_WEIGHTS`."""
    return np.asarray(TIER_WEIGHTS)[np.asarray(tiers, dtype=np.int64)]


def sample_weights(
    rows: ArrayLike,
    hold: ArrayLike,
    returns: ArrayLike | None,
    *,
    times: ArrayLike,
    decay: float = 0.5,
    tier: ArrayLike | None = None,
) -> Floats:
    """Weights to learn with: uniqueness, times return attribution, times time decay, times tier; mean 1.

    Compute them on the training labels of one fold alone, after purging: concurrency with labels that are not trained
    on says nothing about them.

    Parameters
    ----------
    rows
        `[n]` row numbers of the decisions, in any order.
    hold
        `[n]` bars from each decision to its label's end, at least 1.
    returns
        `[N]` one-bar log returns for `return_attribution`; None leaves attribution out.
    times
        `[N]` start of each bar.
    decay
        Weight of the oldest decision relative to the newest, from 0 to 1.
    tier
        `[n]` further weight of each label, as from `tier_weights`; None for 1.

    Returns
    -------
    NDArray
        `[n]` float64, not negative, of mean 1; empty for no decisions.

    Raises
    ------
    ConfigError
        If shapes differ, a label holds for less than one bar or leaves the bars, `decay` lies outside 0 to 1, or a
        tier's weight is negative or not finite.
    TrainingError
        If all weights are zero, as from attribution where no price moves.
    """
    clock = np.asarray(times)
    total = len(clock)
    row, length = _labels(rows, hold, total)
    if not len(row):
        return np.empty(0)
    count = _concurrency(row, length, total)
    unique = _uniqueness(row, length, count)
    weight = unique * time_decay(unique, clock[row], decay=decay)
    if returns is not None:
        values = np.asarray(returns, dtype=np.float64)
        if values.shape != (total,):
            raise ConfigError(
                f"returns of shape {values.shape} with times of shape {clock.shape}",
                expected="one return a bar",
                remedy="pass the one-bar returns of all bars, not those of the decisions",
            )
        weight *= _attribution(row, length, values, count)
    if tier is not None:
        factor = np.asarray(tier, dtype=np.float64)
        if factor.shape != row.shape or not np.isfinite(factor).all() or (factor < 0).any():
            raise ConfigError(
                f"tier weights of shape {factor.shape} for {len(row)} decisions",
                expected="one finite weight of 0 or more a decision",
                remedy="take them from `tier_weights(quality_tier(...))` of the same decisions",
            )
        weight *= factor
    mean = weight.mean()
    if not mean > 0:
        raise TrainingError(
            f"all {len(weight)} sample weights are zero",
            expected="at least one label with a return, a time and a tier that count",
            remedy="leave `attribution` off where prices do not move, and `decay` above 0",
        )
    return np.asarray(weight / mean)


def sequential_bootstrap(
    rows: ArrayLike, hold: ArrayLike, total: int, *, seed: int, size: int | None = None
) -> NDArray[np.int64]:
    """Draw labels with replacement, each draw the less likely the more a label overlaps those drawn already.

    Parameters
    ----------
    rows, hold, total
        As for `concurrency`; at most 5,000 labels.
    seed
        Of the draws.
    size
        Labels to draw; as many as there are by default.

    Returns
    -------
    NDArray
        `[size]` int64 positions in `rows`. Source: Lopez de Prado (2018), 4.5.2.

    Raises
    ------
    ConfigError
        As for `concurrency`, and for more than 5,000 labels or draws, or draws from nothing.
    """
    row, length = _labels(rows, hold, total)
    draws = len(row) if size is None else size
    if not 0 <= draws <= MAX_BOOTSTRAP_EVENTS or len(row) > MAX_BOOTSTRAP_EVENTS or (draws and not len(row)):
        raise ConfigError(
            f"{draws} sequential draws from {len(row)} labels",
            expected=f"at most {MAX_BOOTSTRAP_EVENTS} draws from 1 to {MAX_BOOTSTRAP_EVENTS} labels",
            remedy="thin the labels first, or draw plainly with a share of rows equal to the mean uniqueness",
        )
    rng = np.random.default_rng(seed)
    order = np.argsort(row, kind="stable")
    row, length = row[order], length[order]
    longest = int(length.max(initial=0))
    share = 1.0 / np.ones(total + 1)  # one over one plus the labels drawn, by bar
    average = np.ones(len(row))
    drawn = np.empty(draws, dtype=np.int64)
    for i in range(draws):
        grown = np.cumsum(average)
        pick = min(int(np.searchsorted(grown, rng.random() * grown[-1], side="right")), len(row) - 1)
        drawn[i] = order[pick]
        first, last = row[pick] + 1, row[pick] + length[pick]
        share[first : last + 1] = 1.0 / (1.0 / share[first : last + 1] + 1.0)
        low, high = np.searchsorted(row, [first - 1 - longest, last])  # the labels that may meet the drawn one
        near = slice(int(low), int(high))
        average[near] = _sums(share, row[near], length[near]) / length[near]
    return drawn


def _labels(rows: ArrayLike, hold: ArrayLike, total: int) -> tuple[Ints, Ints]:
    """Checked row numbers and lengths."""
    row, length = _whole(rows, "rows"), _whole(hold, "hold")
    if row.shape != length.shape or row.ndim != 1:
        raise ConfigError(
            f"rows of shape {row.shape} with hold of shape {length.shape}",
            expected="one hold a row",
            remedy="filter both by one mask",
        )
    if not len(row):
        return row, length
    bad = (row < 0) | (length < 1) | (row + length >= total)
    if bad.any():
        i = int(np.flatnonzero(bad)[0])
        raise ConfigError(
            f"the label at row {row[i]} holds for {length[i]} bars",
            expected=f"a hold of at least 1 and an end before bar {total}",
            remedy="leave out unknown labels (hold 0), and cut rows and bars together",
        )
    return row, length


def _whole(values: ArrayLike, name: str) -> Ints:
    found: NDArray[Any] = np.asarray(values)
    if found.size and not np.issubdtype(found.dtype, np.integer):
        raise ConfigError(
            f"{name} of type {found.dtype}", expected="whole numbers", remedy="fill or drop missing values first"
        )
    return found.astype(np.int64)


def _concurrency(row: Ints, length: Ints, total: int) -> Ints:
    starts = np.bincount(row + 1, minlength=total + 1)
    ends = np.bincount(row + length + 1, minlength=total + 1)
    return np.asarray(np.cumsum(starts - ends)[:total], dtype=np.int64)


def _uniqueness(row: Ints, length: Ints, count: Ints) -> Floats:
    share = np.append(1.0 / np.maximum(count, 1), 0.0)
    return _sums(share, row, length) / length


def _attribution(row: Ints, length: Ints, returns: Floats, count: Ints) -> Floats:
    known = np.where(np.isfinite(returns), returns, 0.0)
    size = np.abs(_sums(np.append(known / np.maximum(count, 1), 0.0), row, length))
    return np.minimum(size, np.quantile(size, ATTRIBUTION_CLIP)) if len(size) else size


def _sums(values: Floats, row: Ints, length: Ints) -> Floats:
    """Sum of `values[row + 1 : row + length + 1]` of each label; `values` carries one more entry than there are bars.

    Summed label by label, as differences of one running sum would carry rounding from bar to bar.
    """
    if not len(row):
        return np.empty(0)
    order = np.argsort(row, kind="stable") if (np.diff(row) < 0).any() else None
    if order is not None:
        row, length = row[order], length[order]
    bounds = np.empty(2 * len(row), dtype=np.int64)
    bounds[0::2], bounds[1::2] = row + 1, row + length + 1
    found = np.add.reduceat(values, bounds)[0::2]
    if order is None:
        return np.asarray(found)
    out = np.empty(len(row))
    out[order] = found
    return out
