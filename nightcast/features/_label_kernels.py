"""Loops under the labels, compiled by numba on first use.

Each loop adds in the order of the bars, so a row's result never depends, to the last bit, on what comes after it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class Touches:
    """What `barriers` fills in, one entry a bar; as found there where a label is unknown."""

    y: NDArray[np.int8]
    hold: NDArray[np.int32]
    ret: Floats
    ambiguous: Flags


@dataclass(frozen=True)
class Kernels:
    """The compiled loops."""

    volatility: Callable[[Floats, Floats, Ints, Ints, float, int], Floats]
    reach: Callable[[Flags, Ints], Ints]
    barriers: Callable[..., None]


@cache
def kernels() -> Kernels:
    """Compile the loops, or read them from numba's cache."""
    return Kernels(_compiled(_volatility), _compiled(_reach), _compiled(_barriers))


def _compiled(loop: Callable[..., Any]) -> Callable[..., Any]:
    import numba  # type: ignore[import-untyped,unused-ignore]

    try:
        return numba.njit(cache=True)(loop)  # type: ignore[no-any-return,unused-ignore]
    except RuntimeError:  # no folder to cache in: compile once a process
        return numba.njit(loop)  # type: ignore[no-any-return,unused-ignore]


def _volatility(close: Floats, season: Floats, segment: Ints, session: Ints, span: float, least: int) -> Floats:
    """Exponentially weighted standard deviation of past one-bar log returns, `[N]`, nan where unknown.

    Returns are divided by the season of their bar, the result is multiplied by it. A segment starts anew. A return
    over a session's end or beside a missing close is left out, and ages nothing. Weights and the correction of the
    bias are those of an adjusted mean, as in pandas' `ewm(span, ignore_na=True).std()`.
    """
    out = np.full(len(close), np.nan)
    keep = 1.0 - 2.0 / (span + 1.0)
    count = 0
    mean = covariance = weight = weight2 = 0.0
    for t in range(len(close)):
        if t == 0 or segment[t] != segment[t - 1]:
            count = 0
            mean = covariance = weight = weight2 = 0.0
        if not close[t] > 0.0 or close[t] == np.inf:
            continue
        if t > 0 and session[t] == session[t - 1] and close[t - 1] > 0.0 and close[t - 1] < np.inf:
            x = math.log(close[t] / close[t - 1]) / season[t]
            weight *= keep
            weight2 *= keep * keep
            old = mean
            mean = (weight * old + x) / (weight + 1.0)
            covariance = (weight * (covariance + (old - mean) ** 2) + (x - mean) ** 2) / (weight + 1.0)
            weight += 1.0
            weight2 += 1.0
            count += 1
        if count >= least:
            square = weight * weight
            out[t] = math.sqrt(covariance * square / (square - weight2)) * season[t]
    return out


def _reach(complete: Flags, session: Ints) -> Ints:
    """The last row up to which all bars after each row are complete and of its session, `[N]`; else the row itself."""
    out = np.empty(len(session), dtype=np.int64)
    for t in range(len(session) - 1, -1, -1):
        if t + 1 < len(session) and session[t + 1] == session[t] and complete[t + 1]:
            out[t] = out[t + 1]
        else:
            out[t] = t
    return out


def _barriers(
    open_: Floats,
    high: Floats,
    low: Floats,
    close: Floats,
    width: Floats,
    reach: Ints,
    horizon: int,
    worst: bool,
    y: NDArray[np.int8],
    hold: NDArray[np.int32],
    ret: Floats,
    ambiguous: Flags,
) -> None:
    """Fill in the labels of one horizon, at the rows whose width is known and whose bars all lie within reach."""
    for t in range(len(open_)):
        if not width[t] > 0.0 or reach[t] - t < horizon:
            continue
        entry = open_[t + 1]
        upper = entry * (1.0 + width[t])
        lower = entry * (1.0 - width[t])
        y[t] = 1
        hold[t] = horizon
        ret[t] = close[t + horizon] / entry - 1.0
        for b in range(t + 1, t + horizon + 1):
            if b > t + 1 and open_[b] >= upper:
                y[t] = 2
                ret[t] = open_[b] / entry - 1.0
            elif b > t + 1 and open_[b] <= lower:
                y[t] = 0
                ret[t] = open_[b] / entry - 1.0
            elif high[b] >= upper and low[b] <= lower:
                ambiguous[t] = True
                if worst and close[b] > entry:
                    y[t] = 0
                    ret[t] = -width[t]
                elif worst and close[b] < entry:
                    y[t] = 2
                    ret[t] = width[t]
                else:
                    ret[t] = min(max(close[b] / entry - 1.0, -width[t]), width[t])
            elif high[b] >= upper:
                y[t] = 2
                ret[t] = width[t]
            elif low[b] <= lower:
                y[t] = 0
                ret[t] = -width[t]
            else:
                continue
            hold[t] = b - t
            break
