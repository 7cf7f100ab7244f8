"""The backtest's compiled loops; imported inside functions, because numba takes its time."""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def tranche_positions(signal: NDArray[np.float64], last: NDArray[np.int64], horizon: int) -> NDArray[np.float64]:
    """Position held over each bar, from its open on: the mean of the last `horizon` signals of its session.

    A decision at row t is held over the rows t + 1 .. t + horizon, at most to `last[t]`, the session's last row.
    """
    n = len(signal)
    position = np.zeros(n)
    for t in range(n):
        s = signal[t] / horizon
        if s != 0.0:
            for i in range(t + 1, min(t + horizon, last[t]) + 1):
                position[i] += s
    return position


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def single_positions(signal: NDArray[np.float64], last: NDArray[np.int64], horizon: int) -> NDArray[np.float64]:
    """Position held over each bar with one trade at a time: signals during a trade are ignored."""
    n = len(signal)
    position = np.zeros(n)
    free = 0
    for t in range(n):
        if signal[t] != 0.0 and t >= free and t < last[t]:
            end = min(t + horizon, last[t])
            for i in range(t + 1, end + 1):
                position[i] = signal[t]
            free = end
    return position


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def settle(
    position: NDArray[np.float64],
    open_: NDArray[np.float64],
    close: NDArray[np.float64],
    last: NDArray[np.int64],
    side: float,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Gross return and cost of each bar: open to next open, on a session's last bar open to close.

    A bar pays for the change of position at its own open, and a session's last bar for closing what is left.
    """
    n = len(position)
    gross, cost = np.zeros(n), np.zeros(n)
    for i in range(n):
        first = i == 0 or last[i - 1] != last[i]
        before = 0.0 if first else position[i - 1]
        cost[i] = abs(position[i] - before) * side
        if last[i] == i:
            gross[i] = position[i] * (close[i] / open_[i] - 1.0)
            cost[i] += abs(position[i]) * side
        else:
            gross[i] = position[i] * (open_[i + 1] / open_[i] - 1.0)
    return gross, cost


@numba.njit(cache=True)  # type: ignore[untyped-decorator]
def decision_trades(
    signal: NDArray[np.float64],
    open_: NDArray[np.float64],
    close: NDArray[np.float64],
    last: NDArray[np.int64],
    horizon: int,
    single: bool,
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64], NDArray[np.int64]]:
    """Entry row, exit row, gross return and sides paid of every trade; a trade leaves at the open after its last bar.

    The return is the sum of its bars', on constant capital, as `settle` counts them. A single position that the next
    signal prolongs is not closed and opened again, so neither trade pays for that; a tranche always pays both sides.
    """
    n = len(signal)
    entry = np.empty(n, dtype=np.int64)
    leave = np.empty(n, dtype=np.int64)
    ret = np.empty(n)
    sides = np.empty(n, dtype=np.int64)
    count = 0
    free = 0
    for t in range(n):
        if signal[t] == 0.0 or t >= last[t] or (single and t < free):
            continue
        end = min(t + horizon, last[t])
        made = 0.0
        for i in range(t + 1, end + 1):
            price = close[i] if i == last[t] else open_[i + 1]
            made += price / open_[i] - 1.0
        entry[count], leave[count] = t + 1, end
        ret[count] = signal[t] * made
        sides[count] = 2
        if single and count > 0 and leave[count - 1] == t and signal[entry[count - 1] - 1] == signal[t]:
            sides[count - 1] -= 1
            sides[count] -= 1
        count += 1
        free = end
    return entry[:count], leave[:count], ret[:count], sides[:count]
