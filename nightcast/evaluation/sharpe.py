"""What a Sharpe ratio is worth: its error, how many were tried, and whether the best in sample holds out of it.

Ratios are per period (not annualised) unless said otherwise; kurtosis is 3 for a normal.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations
from typing import Final

import numpy as np
from numpy.typing import NDArray

from nightcast.contracts.errors import ConfigError

Floats = NDArray[np.float64]
EULER: Final = 0.5772156649015329


def _normal(x: float) -> float:
    return 0.5 * math.erfc(-x / math.sqrt(2))


def _quantile(p: float) -> float:
    from scipy.special import ndtri

    return float(ndtri(p))


def moments(returns: Floats) -> tuple[float, int, float, float]:
    """Sharpe ratio per period, number of periods, skewness and kurtosis of returns; ratio 0 without variation."""
    n = len(returns)
    spread = float(returns.std(ddof=1)) if n > 1 else 0.0
    if spread <= 1e-15:
        return 0.0, n, 0.0, 3.0
    z = (returns - returns.mean()) / returns.std(ddof=0)
    return float(returns.mean() / spread), n, float((z**3).mean()), float((z**4).mean())


def probabilistic_sharpe(
    ratio: float, periods: int, skew: float = 0.0, kurtosis: float = 3.0, *, benchmark: float = 0.0
) -> float:
    """Probability that the true ratio exceeds the benchmark (Bailey & Lopez de Prado 2012, equation 11)."""
    if periods < 2:
        return 0.5
    variance = max(1 - skew * ratio + (kurtosis - 1) / 4 * ratio**2, 1e-12)
    return _normal((ratio - benchmark) * math.sqrt(periods - 1) / math.sqrt(variance))


def expected_max_sharpe(spread: float, trials: float) -> float:
    """Expected largest ratio of `trials` independent ones without skill, whose deviation is `spread` (2014, eq. 1)."""
    if trials <= 1:
        return 0.0
    return spread * ((1 - EULER) * _quantile(1 - 1 / trials) + EULER * _quantile(1 - 1 / (trials * math.e)))


def deflated_sharpe(ratio: float, periods: int, skew: float, kurtosis: float, *, spread: float, trials: float) -> float:
    """`probabilistic_sharpe` against the largest ratio that luck alone would show (Bailey & Lopez de Prado 2014)."""
    return probabilistic_sharpe(ratio, periods, skew, kurtosis, benchmark=expected_max_sharpe(spread, trials))


def min_track_record(
    ratio: float, skew: float = 0.0, kurtosis: float = 3.0, *, benchmark: float = 0.0, confidence: float = 0.95
) -> float:
    """Periods needed until the ratio is above the benchmark with confidence; infinite if it is not (2012, eq. 12)."""
    if ratio <= benchmark:
        return math.inf
    variance = 1 - skew * ratio + (kurtosis - 1) / 4 * ratio**2
    return 1 + variance * (_quantile(confidence) / (ratio - benchmark)) ** 2


def effective_trials(returns: Floats) -> float:
    """Number of independent trials that `[T, N]` returns amount to: N eigenvalues' squared sum over sum of squares.

    N for uncorrelated columns, 1 for copies of one.
    """
    varying = returns[:, returns.std(axis=0) > 1e-15]
    if varying.shape[1] < 2:
        return float(max(varying.shape[1], 1))
    values = np.linalg.eigvalsh(np.corrcoef(varying, rowvar=False))
    return float(values.sum() ** 2 / (values**2).sum())


def pbo_cscv(returns: Floats, *, blocks: int = 16, max_splits: int = 500, seed: int = 0) -> float:
    """Probability of backtest overfitting by combinatorially symmetric cross-validation (Bailey et al. 2015).

    Over splits of the time blocks into halves: how often the column with the best Sharpe ratio in one half is in the
    lower half of the ranking in the other.

    Parameters
    ----------
    returns
        `[T, N]` per period and strategy.
    max_splits
        Splits drawn where there are more.

    Raises
    ------
    ConfigError
        If there are fewer than two strategies, or fewer periods than two a block.
    """
    periods, count = returns.shape
    if count < 2 or periods < 2 * blocks or blocks % 2:
        raise ConfigError(
            f"{count} strategies over {periods} periods in {blocks} blocks",
            expected="two strategies or more, an even number of blocks, two periods a block",
            remedy="bring a longer record, or fewer blocks",
        )
    parts = np.array_split(np.arange(periods), blocks)
    sums = np.stack([returns[part].sum(axis=0) for part in parts])
    squares = np.stack([(returns[part] ** 2).sum(axis=0) for part in parts])
    sizes = np.array([len(part) for part in parts])
    every = list(combinations(range(blocks), blocks // 2))
    rng = np.random.default_rng(seed)
    if len(every) > max_splits:
        every = [every[i] for i in np.sort(rng.choice(len(every), max_splits, replace=False))]
    below = 0
    for inside in every:
        mask = np.zeros(blocks, dtype=bool)
        mask[list(inside)] = True
        best = int(np.argmax(_ratios(sums[mask], squares[mask], sizes[mask])))
        outside = _ratios(sums[~mask], squares[~mask], sizes[~mask])
        rank = float((outside < outside[best]).sum() + ((outside == outside[best]).sum() + 1) / 2) / (count + 1)
        below += math.log(rank / (1 - rank)) <= 0
    return below / len(every)


def _ratios(sums: Floats, squares: Floats, sizes: NDArray[np.int64]) -> Floats:
    n = sizes.sum()
    mean = sums.sum(axis=0) / n
    variance = np.maximum(squares.sum(axis=0) / n - mean**2, 0)
    return np.asarray(np.divide(mean, np.sqrt(variance), out=np.zeros_like(mean), where=variance > 1e-30))


def newey_west_error(returns: Floats, lags: int = 5) -> float:
    """Standard error of the ratio per period with autocorrelation up to `lags` (Newey & West 1987; Lo 2002)."""
    n = len(returns)
    ratio, _, _, _ = moments(returns)
    spread = returns.std(ddof=1)
    if n < 2 or spread <= 1e-15:
        return math.nan
    # influence of a period on the ratio: its own deviation, less half its squared one
    z = (returns - returns.mean()) / spread
    influence = z - ratio / 2 * (z**2 - 1)
    total = float(influence @ influence) / n
    for lag in range(1, min(lags, n - 1) + 1):
        total += 2 * (1 - lag / (lags + 1)) * float(influence[lag:] @ influence[:-lag]) / n
    return math.sqrt(max(total, 0.0) / n)


def bootstrap_error(returns: Floats, *, block: float = 5.0, draws: int = 500, seed: int = 0) -> float:
    """Standard error of the ratio per period by the stationary bootstrap (Politis & Romano 1994)."""
    n = len(returns)
    rng = np.random.default_rng(seed)
    start = rng.integers(0, n, size=(draws, n))
    new = rng.random((draws, n)) < 1 / block
    new[:, 0] = True
    place = np.where(new, np.arange(n), 0)
    origin = np.maximum.accumulate(place, axis=1)
    rows = (np.take_along_axis(start, origin, axis=1) + np.arange(n) - origin) % n
    drawn = returns[rows]
    spread = drawn.std(axis=1, ddof=1)
    ratios = np.divide(drawn.mean(axis=1), spread, out=np.zeros(draws), where=spread > 1e-15)
    return float(ratios.std(ddof=1))


def zero_skill_probability(
    years: float, horizons: int = 1, *, threshold: float = 0.3, correlation: float = 0.5
) -> float:
    """Probability that a strategy without skill shows an annual ratio above the threshold on at least one horizon.

    Annual ratios without skill are normal with deviation `1 / sqrt(years)`; horizons are equicorrelated.
    """
    from scipy.stats import norm

    edge = threshold * math.sqrt(years)
    if horizons == 1:
        return 1 - _normal(edge)
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    common = math.sqrt(correlation) * nodes
    inside = norm.cdf((edge - common) / math.sqrt(1 - correlation)) ** horizons
    return float(1 - (weights * inside).sum() / weights.sum())


def join_days(parts: Sequence[tuple[NDArray[np.datetime64], Floats]]) -> Floats:
    """`[T, N]` returns of several records on all their days, 0 where one has none."""
    days = np.unique(np.concatenate([day for day, _ in parts]))
    out = np.zeros((len(days), len(parts)))
    for j, (day, values) in enumerate(parts):
        out[np.searchsorted(days, day), j] = values
    return out
