"""How much a decision is worth in training: labels that overlap share their information.

Decisions are row numbers in arrays of bars; label i covers the bars `rows[i] + 1 .. rows[i] + hold[i]`. Symbols follow
one another in the arrays, so labels of different symbols never meet.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from nightcast.contracts.errors import ConfigError

Floats = NDArray[np.float64]
Rows = NDArray[np.int64]
Holds = NDArray[np.int32]

TIERS: Final[tuple[tuple[str, float, float], ...]] = (
    ("A+", 0.9, 1.5),
    ("A", 0.7, 1.25),
    ("B", 0.4, 1.0),
    ("C", 0.0, 0.75),
)
"""Tier, least clarity, weight."""
MOST_EVENTS: Final = 5000
"""Events the sequential bootstrap takes: it is quadratic in them."""


def concurrency(rows: Rows, hold: Holds, total: int) -> Rows:
    """`[total]` labels alive at each bar.

    Raises
    ------
    ConfigError
        If a hold is below 1 or a row lies outside the bars.
    """
    from nightcast.features._label_kernels import count_alive

    _check(rows, hold, total)
    return np.asarray(count_alive(rows.astype(np.int64), hold.astype(np.int32), total))


def uniqueness(rows: Rows, hold: Holds, total: int) -> Floats:
    """`[n]` mean over each label's bars of 1 / concurrency, in (0, 1] (Lopez de Prado 2018, section 4.3)."""
    from nightcast.features._label_kernels import mean_over

    alive = concurrency(rows, hold, total)
    share = np.where(alive > 0, 1.0 / np.maximum(alive, 1), 0.0)
    return np.asarray(mean_over(rows.astype(np.int64), hold.astype(np.int32), share, True))


def return_attribution(rows: Rows, hold: Holds, returns: Floats, *, clip: float = 0.99) -> Floats:
    """`[n]` |sum over the label's bars of log return / concurrency|, clipped at a quantile (same book, section 4.6)."""
    from nightcast.features._label_kernels import mean_over

    alive = concurrency(rows, hold, len(returns))
    shared = np.where(np.isfinite(returns) & (alive > 0), returns / np.maximum(alive, 1), 0.0)
    size = np.abs(mean_over(rows.astype(np.int64), hold.astype(np.int32), shared, False))
    return np.asarray(np.minimum(size, np.quantile(size, clip))) if len(size) else size


def time_decay(unique: Floats, times: NDArray[np.datetime64], oldest: float) -> Floats:
    """`[n]` weight linear in cumulated uniqueness, newest 1, oldest about `oldest` (same book, section 4.7)."""
    order = np.argsort(times, kind="stable")
    grown = np.cumsum(unique[order])
    out = np.empty(len(unique))
    out[order] = oldest + (1 - oldest) * grown / grown[-1] if len(grown) else grown
    return out


def quality_tier(ret: Floats, width: Floats, hold: Holds, horizon: int) -> tuple[NDArray[np.str_], Floats]:
    """Tier and weight of each label by how clear it is: how far it went in units of its barrier, and how soon.

    Clarity is `min(1, |ret| / width) * (1 - (hold - 1) / (2 * horizon))`: 1 for a barrier touched at once, below
    half for a vertical barrier reached near the entry price.
    """
    reach = np.minimum(1.0, np.abs(ret) / np.where(width > 0, width, np.nan))
    clarity = np.nan_to_num(reach * (1 - (hold - 1) / (2 * horizon)))
    names = np.full(len(ret), TIERS[-1][0], dtype="<U2")
    weights = np.full(len(ret), TIERS[-1][2])
    for name, least, weight in reversed(TIERS):
        names[clarity >= least], weights[clarity >= least] = name, weight
    return names, weights


def sample_weights(
    rows: Rows,
    hold: Holds,
    returns: Floats | None,
    *,
    times: NDArray[np.datetime64],
    decay: float = 0.5,
    tier: Floats | None = None,
) -> Floats:
    """`[n]` weights of training decisions, mean 1: uniqueness x return attribution x time decay x tier.

    Parameters
    ----------
    rows, hold
        Training decisions and the bars to their labels' ends, purged already.
    returns
        `[N]` one-bar log returns, or None to leave the attribution out.
    times
        `[N]` start of each bar.
    decay
        Weight of the oldest decision; 1 for no decay.
    tier
        `[n]` weights of `quality_tier`.
    """
    if not len(rows):
        return np.empty(0)
    unique = uniqueness(rows, hold, len(times))
    weight = unique * time_decay(unique, times[rows], decay)
    if returns is not None:
        weight = weight * return_attribution(rows, hold, returns)
    if tier is not None:
        weight = weight * tier
    mean = weight.mean()
    return np.asarray(weight / mean) if mean > 0 else np.ones(len(rows))


def sequential_bootstrap(rows: Rows, hold: Holds, draws: int, *, seed: int) -> Rows:
    """Positions drawn so that labels overlap little: the chance of each falls with what was drawn (section 4.5.1).

    Raises
    ------
    ConfigError
        If there are more than 5000 events.
    """
    count = len(rows)
    if count > MOST_EVENTS:
        raise ConfigError(
            f"a sequential bootstrap over {count} events",
            expected=f"at most {MOST_EVENTS}: its cost grows with their square",
            remedy="thin the events, or draw with sizes of mean uniqueness instead",
        )
    rng = np.random.default_rng(seed)
    first = int(rows.min(initial=0))
    span = int((rows + hold).max(initial=0)) - first + 1
    alive = np.zeros(span)
    starts, ends = rows - first + 1, rows - first + hold
    out = np.empty(draws, dtype=np.int64)
    for draw in range(draws):
        total = np.concatenate([[0.0], np.cumsum(1.0 / (alive + 1.0))])
        mean = (total[np.minimum(ends + 1, span)] - total[starts]) / hold
        out[draw] = rng.choice(count, p=mean / mean.sum())
        alive[starts[out[draw]] : ends[out[draw]] + 1] += 1
    return out


def _check(rows: Rows, hold: Holds, total: int) -> None:
    if len(rows) != len(hold):
        raise ConfigError(
            f"{len(rows)} decisions with {len(hold)} holds", expected="one hold a decision", remedy="cut both alike"
        )
    if len(rows) and (hold.min() < 1 or rows.min() < 0 or (rows + hold).max() >= total):
        raise ConfigError(
            f"holds from {hold.min()} bars and a label that ends at row {(rows + hold).max()} of {total} bars",
            expected="holds of at least 1 that end inside the bars",
            remedy="leave decisions without a known label out",
        )
