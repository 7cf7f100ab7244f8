"""Joint sample paths of a panel forecast: its own quantiles as marginals, dependence from out-of-fold ranks.

What adds up over wells or months is a path, never a quantile. A path draws one past origin as a whole, all series and
horizons of that block together, so that series that erred together err together again, and so do the months of one
origin. The block says only *where in its forecast's distribution* each outcome fell; how far off that is tonight,
tonight's own calibrated quantiles say.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, TypeAlias

import numpy as np
import polars as pl
from numpy.typing import NDArray

from nightcast.contracts.columns import CUTOFF, HORIZON, ID, LEVELS, QUANTILES, TARGET, TIME
from nightcast.contracts.errors import ConfigError
from nightcast.contracts.prediction import Quantiles
from nightcast.evaluation.scores import check_columns

FloatArray: TypeAlias = NDArray[np.float64]
IntArray: TypeAlias = NDArray[np.int64]

FEWEST_DONORS: Final = 3
"""Series of a pad with errors at an origin that make the pad a place to borrow from; else the whole panel is."""
_TAIL: Final = float(np.log(2.0))
"""An exponential tail falls from level 0.2 to 0.1 within its scale times this."""


@dataclass(frozen=True, eq=False)
class Paths:
    """Joint sample paths from one cutoff. `S` draws, `N` series, `H` horizons, `Q` levels.

    Attributes
    ----------
    values
        `[S, N, H]`, in the target's unit.
    marginals
        `[N, H, Q]`: each series' own quantiles, which its paths reproduce.
    series
        Names along `N`, sorted.
    times, horizons
        Labels and step numbers along `H`.
    lower
        Lower bound of the target that the paths respect, or None.
    origins
        Past origins the dependence was learnt from; of few, intervals of sums are too narrow.
    """

    values: FloatArray
    marginals: FloatArray
    series: tuple[str, ...]
    cutoff: datetime
    times: tuple[datetime, ...]
    horizons: tuple[int, ...]
    lower: float | None
    origins: int

    def index(self, names: Sequence[str]) -> IntArray:
        """Positions of some series along `N`.

        Raises
        ------
        ConfigError
            If one of them has no path.
        """
        position = {name: i for i, name in enumerate(self.series)}
        unknown = sorted(set(names) - position.keys())
        if unknown:
            raise ConfigError(
                f"series {unknown[0]!r} has no sample path",
                expected=f"names among the {len(self.series)} series of the forecast",
                remedy="forecast it too, or leave it out of the sum",
            )
        return np.array([position[name] for name in names], dtype=np.int64)


def sample_paths(
    forecast: Quantiles,
    oof: pl.DataFrame,
    *,
    draws: int = 2000,
    seed: int,
    lower: float | None = None,
    groups: Mapping[str, str] | None = None,
) -> Paths:
    """Draw joint paths of all series and horizons of one origin.

    *Marginals*: linear between the nine levels, beyond them exponential tails that go on as the outer two levels fall
    off, cut at `lower`. The `S` values of a series and horizon are the quantiles at (k - 1/2) / S, each used once, so
    the paths give back the forecast's quantiles without sampling error.

    *Dependence* is the order in which these values are used (the Schaake shuffle, Clark et al. 2004; ensemble copula
    coupling, Schefzik et al. 2013). An out-of-fold outcome has a position in its own forecast's distribution, and that
    a normal score. A draw takes the scores of one whole origin, all series and horizons together, with a random sign
    for all (a wild block bootstrap: positions are not centred on their own mean, so an error that all series shared
    throughout the few origins counts as shared), plus noise with the same correlations and the bandwidth
    `(4 / (3 n))^(1/5)` of `n` origins (a smoothed bootstrap, Silverman & Young 1987), without which `n` origins would
    give a sum only `2 n` values. Origins overlap: what is common to the series was seen at only `v` origins whose
    horizons do not, so the variance of the common part is raised by `(t_v(0.9) / z(0.9))^2`, as of a Student's
    prediction interval; with independent series there is next to nothing common to raise.

    Only origins whose last horizon was known at the forecast's cutoff count. A horizon that a series lacks within an
    origin takes the nearest one's position; an origin that it lacks, those of a random series of its pad (of the panel,
    if fewer than three of the pad have that origin), chosen anew at each origin.

    Parameters
    ----------
    forecast
        Calibrated quantiles of one cutoff, every series at every horizon.
    oof
        `unique_id, ds, cutoff, horizon, q10 .. q90, y`, one model; rows with an unknown `y` are passed over.
    draws
        Number of paths, `S`.
    lower
        Lower bound of the target (`PanelSchema.lower`).
    groups
        Series -> pad; only used to borrow from. None: everything is one pad.

    Raises
    ------
    ConfigError
        If the forecast has several cutoffs or lacks a horizon of a series, a row of `oof` repeats, or no origin was
        closed at the cutoff.
    """
    if draws < 2:
        raise ConfigError(
            f"{draws} sample paths were asked for", expected="at least 2, better 1000", remedy="raise `draws`"
        )
    target = _arrange(forecast, lower)
    blocks = past_blocks(oof, target, lower)
    rng = np.random.default_rng(seed)
    position = _complete(blocks.position, target.series, groups or {}, rng)
    order = _draw_order(position, draws, rng, independent=blocks.independent)
    grid = (np.arange(draws) + 0.5) / draws
    values = np.take_along_axis(quantile_function(target.marginals, grid, lower), order, axis=0)
    return Paths(
        values,
        target.marginals,
        target.series,
        target.cutoff,
        target.times,
        target.horizons,
        lower,
        origins=len(blocks.cutoffs),
    )


def quantile_function(marginals: FloatArray, at: FloatArray, lower: float | None) -> FloatArray:
    """Values of distributions given by nine quantiles, `[..., Q] -> [S, ...]` at `S` probabilities inside (0, 1).

    Linear between the levels; beyond them `q90 + b ln(0.1 / (1 - p))` with `b = (q90 - q80) / ln 2`, and its mirror
    image below: the exponential that passes through the outer two levels.
    """
    levels = np.array(LEVELS)
    right = np.clip(np.searchsorted(levels, at), 1, len(levels) - 1)
    share = np.clip((at - levels[right - 1]) / (levels[right] - levels[right - 1]), 0.0, 1.0)
    knots = np.moveaxis(marginals, -1, 0)
    shape = (-1,) + (1,) * (knots.ndim - 1)
    share = share.reshape(shape)
    values = knots[right - 1] * (1 - share) + knots[right] * share
    below = np.log(levels[0] / np.minimum(at, levels[0])).reshape(shape)
    above = np.log((1 - levels[-1]) / np.minimum(1 - at, 1 - levels[-1])).reshape(shape)
    values = values - below * (knots[1] - knots[0]) / _TAIL + above * (knots[-1] - knots[-2]) / _TAIL
    return np.asarray(values if lower is None else np.maximum(values, lower), dtype=np.float64)


def position_in(marginals: FloatArray, outcome: FloatArray, lower: float | None) -> FloatArray:
    """Probability that a distribution gives to values below an outcome, `[..., Q], [...] -> [...]` in [0, 1].

    The inverse of `quantile_function`; at a point that holds probability (equal levels, the lower bound) the middle.
    """
    levels = np.array(LEVELS)
    y = outcome[..., None]
    first, last = (marginals < y).sum(axis=-1), (marginals <= y).sum(axis=-1)

    def knot(index: NDArray[np.intp]) -> FloatArray:
        safe = np.clip(index, 0, len(levels) - 1)
        return np.asarray(np.take_along_axis(marginals, safe[..., None], axis=-1)[..., 0], dtype=np.float64)

    left, right = knot(first - 1), knot(first)
    inner_levels = np.clip(first, 1, len(levels) - 1)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        share = np.where(right > left, (outcome - left) / (right - left), 0.0)
        between = levels[inner_levels - 1] + share * (levels[inner_levels] - levels[inner_levels - 1])
        fall = (marginals[..., 1] - marginals[..., 0]) / _TAIL
        rise = (marginals[..., -1] - marginals[..., -2]) / _TAIL
        below = np.where(fall > 0, levels[0] * np.exp(-(marginals[..., 0] - outcome) / fall), 0.0)
        above = np.where(rise > 0, 1 - (1 - levels[-1]) * np.exp(-(outcome - marginals[..., -1]) / rise), 1.0)
    free = np.where(first == 0, below, np.where(first == len(levels), above, between))
    # The outcome meets one level or more: all probability from the first of them to the last lies on it, and a tail's
    # too where its two levels coincide.
    low = np.where((first == 0) & (fall == 0), 0.0, levels[np.clip(first, 0, len(levels) - 1)])
    high = np.where((last == len(levels)) & (rise == 0), 1.0, levels[np.clip(last - 1, 0, len(levels) - 1)])
    at_bound = np.zeros(outcome.shape, dtype=bool) if lower is None else outcome <= lower
    low = np.where(at_bound, 0.0, low)
    met = np.where(at_bound & (last == first), free / 2, (low + high) / 2)
    return np.asarray(np.where((last > first) | at_bound, met, free), dtype=np.float64)


@dataclass(frozen=True, eq=False)
class Blocks:
    """Closed past origins on the axes of a forecast. `C` origins; NaN where a row or its outcome is missing.

    Attributes
    ----------
    marginals, outcome, position
        `[C, N, H, Q]`, `[C, N, H]`, `[C, N, H]`; the position is that of the outcome in its forecast's distribution.
    independent
        How many of the origins, at most, have horizons that do not overlap.
    """

    cutoffs: tuple[datetime, ...]
    marginals: FloatArray
    outcome: FloatArray
    position: FloatArray
    independent: int


@dataclass(frozen=True, eq=False)
class _Target:
    marginals: FloatArray
    series: tuple[str, ...]
    cutoff: datetime
    times: tuple[datetime, ...]
    horizons: tuple[int, ...]


def _arrange(forecast: Quantiles, lower: float | None) -> _Target:
    frame = forecast.frame.sort(ID, HORIZON)
    cutoffs = frame.get_column(CUTOFF).unique().sort().to_list()
    if len(cutoffs) != 1:
        raise ConfigError(
            f"the forecast has {len(cutoffs)} cutoffs",
            expected="one: paths are joint within one origin",
            remedy="sample each cutoff by itself" if cutoffs else "pass a forecast with rows",
        )
    steps = frame.select(TIME, HORIZON).unique().sort(HORIZON)
    series = tuple(frame.get_column(ID).unique().sort().to_list())
    if frame.height != len(series) * steps.height or steps.get_column(HORIZON).is_duplicated().any():
        short = frame.group_by(ID).len().sort("len", ID)
        raise ConfigError(
            f"series {short[ID][0]!r} is forecast at {short['len'][0]} of {steps.height} steps",
            expected="every series at the same horizons and times",
            remedy="leave the series out, or complete its forecast by the fallback",
        )
    marginals = frame.select(QUANTILES).to_numpy().reshape(len(series), steps.height, len(QUANTILES)).astype(np.float64)
    return _Target(
        marginals if lower is None else np.maximum(marginals, lower),
        series,
        cutoffs[0],
        tuple(steps.get_column(TIME).to_list()),
        tuple(steps.get_column(HORIZON).to_list()),
    )


def past_blocks(oof: pl.DataFrame, target: Paths | _Target, lower: float | None) -> Blocks:
    """Arrange out-of-fold rows of a forecast's series by origin; only origins closed at its cutoff.

    An origin is closed if its last horizon's outcome lies at or before the cutoff. A horizon of the forecast that no
    out-of-fold row has takes the nearest one's rows.

    Raises
    ------
    ConfigError
        If columns are missing, a row repeats, or no origin is closed.
    """
    check_columns(oof, (ID, TIME, CUTOFF, HORIZON, *QUANTILES, TARGET), what="out-of-fold rows")
    rows = oof.select(
        pl.col(ID).cast(pl.String),
        pl.col(TIME, CUTOFF).cast(pl.Datetime("us")),
        pl.col(HORIZON).cast(pl.Int64),
        pl.col(*QUANTILES, TARGET).cast(pl.Float64),
    ).filter(pl.all_horizontal(pl.col(name).is_finite().fill_null(False) for name in (*QUANTILES, TARGET)))
    repeated = rows.filter(rows.select(ID, CUTOFF, HORIZON).is_duplicated())
    if repeated.height:
        raise ConfigError(
            f"series {repeated[ID][0]!r} has several out-of-fold rows at {repeated[CUTOFF][0]}",
            expected="one row per series, cutoff and horizon",
            remedy="pass the rows of one model",
        )
    closed = (
        rows.group_by(CUTOFF)
        .agg(pl.col(TIME).max().alias("_end"), pl.col(HORIZON).max().alias("_far"))
        .filter((pl.col("_end") <= target.cutoff) & (pl.col("_far") == pl.col("_far").max()))
        .get_column(CUTOFF)
        .sort()
        .to_list()
    )
    known = {name: i for i, name in enumerate(target.series)}
    rows = rows.filter(pl.col(CUTOFF).is_in(closed) & pl.col(ID).is_in(list(known)))
    if not rows.height:
        raise ConfigError(
            f"no out-of-fold origin of the forecast's series had closed by {target.cutoff:%Y-%m-%d %H:%M}",
            expected="rows whose whole horizon is known, to learn from which series err together",
            remedy="evaluate more origins (`folds.cutoffs`), or pass the out-of-fold rows of these series",
        )
    cutoffs = rows.get_column(CUTOFF).unique().sort().to_list()
    seen = rows.get_column(HORIZON).unique().sort().to_list()
    c = rows.get_column(CUTOFF).replace_strict(cutoffs, range(len(cutoffs)), return_dtype=pl.Int64).to_numpy()
    i = rows.get_column(ID).replace_strict(known, return_dtype=pl.Int64).to_numpy()
    k = rows.get_column(HORIZON).replace_strict(seen, range(len(seen)), return_dtype=pl.Int64).to_numpy()
    marginals = np.full((len(cutoffs), len(known), len(seen), len(QUANTILES)), np.nan)
    outcome = np.full(marginals.shape[:-1], np.nan)
    quantiles = np.sort(rows.select(QUANTILES).to_numpy(), axis=1)
    marginals[c, i, k] = quantiles if lower is None else np.maximum(quantiles, lower)
    outcome[c, i, k] = rows.get_column(TARGET).to_numpy()
    nearest = [min(range(len(seen)), key=lambda at: (abs(seen[at] - h), at)) for h in target.horizons]
    marginals, outcome = marginals[:, :, nearest], outcome[:, :, nearest]
    position = np.where(np.isnan(outcome), np.nan, position_in(marginals, outcome, lower))
    ends = dict(rows.group_by(CUTOFF).agg(pl.col(TIME).max()).iter_rows())
    independent, free_from = 0, cutoffs[0]
    for cutoff in cutoffs:
        if cutoff >= free_from:
            independent, free_from = independent + 1, ends[cutoff]
    return Blocks(tuple(cutoffs), marginals, outcome, position, independent)


def _complete(
    position: FloatArray, series: tuple[str, ...], groups: Mapping[str, str], rng: np.random.Generator
) -> FloatArray:
    """Positions `[C, N, H]` without gaps: from the nearest horizon, or from another series at the same origin."""
    filled = _from_nearest_horizon(position)
    there = ~np.isnan(filled[:, :, 0])
    pads = np.array([groups.get(name) or "" for name in series])
    out = filled.copy()
    for c, i in np.argwhere(~there):
        donors = np.flatnonzero(there[c] & (pads == pads[i]))
        if donors.size < FEWEST_DONORS:
            donors = np.flatnonzero(there[c])
        out[c, i] = filled[c, rng.choice(donors)]
    return out


def _from_nearest_horizon(position: FloatArray) -> FloatArray:
    """Fill each horizon that a series lacks within an origin by its nearest known one; blocks without any stay NaN."""
    out = position.copy()
    horizons = np.arange(position.shape[2])
    for c, i in np.argwhere(np.isnan(position).any(axis=2) & ~np.isnan(position).all(axis=2)):
        known = horizons[~np.isnan(position[c, i])]
        out[c, i] = position[c, i, known[np.abs(known[None] - horizons[:, None]).argmin(axis=1)]]
    return out


def _draw_order(position: FloatArray, draws: int, rng: np.random.Generator, *, independent: int) -> IntArray:
    """`[S, N, H]`: for each series and horizon, in which order its `S` sorted values are used."""
    from scipy.special import ndtri

    origins, series, _ = position.shape
    # A position among n says no more than a rank among n would: no outlier outweighs the other origins.
    edge = 0.5 / (origins + 1)
    past = ndtri(np.clip(position, edge, 1 - edge))
    drawn = rng.permutation(np.resize(np.arange(origins), draws))  # every origin equally often
    sign = rng.choice(np.array([-1.0, 1.0]), draws)
    score = sign[:, None, None] * past[drawn]
    width = bandwidth(origins)
    score += width * np.tensordot(_weights(rng, draws, origins), past, axes=1)
    common = past.mean(axis=1)  # [C, H]
    raised = np.sqrt((shared_inflation(independent) - 1) * (1 + width**2))
    score += raised * (_weights(rng, draws, origins) @ common)[:, None, :]
    # Series that were never wrong have equal scores in all draws: their order must not be a common one.
    score += 1e-9 * rng.standard_normal((draws, series))[:, :, None]
    return np.argsort(np.argsort(score, axis=0, kind="stable"), axis=0, kind="stable").astype(np.int64)


def _weights(rng: np.random.Generator, draws: int, origins: int) -> FloatArray:
    """Normal weights `[S, C]` whose combination of scores has the scores' covariance about zero."""
    return np.asarray(rng.standard_normal((draws, origins)) / np.sqrt(origins), dtype=np.float64)


def bandwidth(origins: int) -> float:
    """Silverman's normal-reference bandwidth in one dimension, in standard deviations."""
    return float((4 / (3 * origins)) ** 0.2)


def shared_inflation(independent: int) -> float:
    """Factor of a variance known from so many independent squares, so that 80 % intervals cover 80 %."""
    from scipy.special import ndtri, stdtrit

    return float((stdtrit(independent, 0.9) / ndtri(0.9)) ** 2)
