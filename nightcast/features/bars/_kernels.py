"""Compiled loops of bar features; imported inside functions, because numba takes its time."""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def supertrend(
    middle: Floats, spread: Floats, close: Floats, first: NDArray[np.int64], width: float, window: int
) -> tuple[Floats, Floats]:
    """Side and relative distance of the SuperTrend line, from `window` bars before each row on; nan before that."""
    n = len(close)
    side, gap = np.full(n, np.nan), np.full(n, np.nan)
    for t in range(n):
        start = t - window
        if start < first[t]:
            continue
        upper = middle[start] + width * spread[start]
        lower = middle[start] - width * spread[start]
        up = close[start] >= middle[start]
        for i in range(start + 1, t + 1):
            high, low = middle[i] + width * spread[i], middle[i] - width * spread[i]
            if high < upper or close[i - 1] > upper:
                upper = high
            if low > lower or close[i - 1] < lower:
                lower = low
            if up and close[i] < lower:
                up = False
            elif not up and close[i] > upper:
                up = True
        line = lower if up else upper
        side[t] = 1.0 if up else -1.0
        gap[t] = close[t] / line - 1.0
    return side, gap
