"""Roll-up of well forecasts to pads and the field: rates, cumulatives, reconciliation, and how well the sums did.

Sums are taken over joint sample paths (`evaluation.paths`), draw by draw, so children add up to their parents in every
draw. Hence the column `mean` adds up exactly at every level; quantiles do not, and should not: the P90 of a sum is not
the sum of P90s.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final, Literal, TypeAlias

import numpy as np
import polars as pl
from numpy.typing import NDArray

from nightcast.contracts.columns import CUTOFF, HORIZON, ID, LEVELS, MODEL, QUANTILES, TARGET, TIME
from nightcast.contracts.errors import ConfigError, TrainingError
from nightcast.contracts.frequency import Frequency
from nightcast.contracts.prediction import KEYS, Quantiles
from nightcast.evaluation.folds import closed_cutoffs
from nightcast.evaluation.paths import Paths, past_blocks, quantile_function, sample_paths
from nightcast.evaluation.scores import bias, check_columns, coverage, mae, nmae, width

FloatArray: TypeAlias = NDArray[np.float64]
Method = Literal["bottom_up", "mint"]
Level = Literal["well", "pad", "field"]

FIELD: Final = "field"
LEVEL: Final = "level"
NAME: Final = "name"
KIND: Final = "kind"
MEAN: Final = "mean"
RATE: Final = "rate"
CUMULATIVE: Final = "cumulative"
INDUSTRY: Final[Mapping[str, str]] = {"q10": "P90", "q50": "P50", "q90": "P10"}
"""Statistical quantile -> the industry's name of it."""
COLUMNS: Final = (LEVEL, NAME, TIME, CUTOFF, HORIZON, KIND, *QUANTILES, *INDUSTRY.values(), MEAN)

_ORDER: Final[tuple[Level, ...]] = ("well", "pad", "field")
_SCHEMA: Final[dict[str, Any]] = {
    LEVEL: pl.String,
    NAME: pl.String,
    TIME: pl.Datetime("us"),
    CUTOFF: pl.Datetime("us"),
    HORIZON: pl.Int32,
    KIND: pl.String,
    **dict.fromkeys((*QUANTILES, MEAN), pl.Float64),
}
_SMOOTHING: Final = np.linspace(0.05, 1.0, 20)
"""Weights of the newest value among which exponential smoothing chooses."""
_FEWEST_RESIDUALS: Final = 3
"""Closed origins a well needs for errors of its own in MinT; with fewer it borrows its neighbours'."""


def industry_names(frame: pl.DataFrame) -> pl.DataFrame:
    """Add the industry's names of quantiles: **P90 is the low case, P10 the high one**.

    In petroleum practice Pxx is the value that is *exceeded* with xx % probability (SPE-PRMS), in statistics qxx is
    the value *not exceeded* with xx % probability. So `P90 = q10` (low, "proved"), `P50 = q50`, `P10 = q90` (high), and
    `P90 <= P50 <= P10`. The columns q10, q50, q90 stay.

    Raises
    ------
    ConfigError
        If q10, q50 or q90 is missing.
    """
    missing = [name for name in INDUSTRY if name not in frame.columns]
    if missing:
        raise ConfigError(
            f"the frame lacks the columns {missing}",
            expected=f"{list(INDUSTRY)}, to be named {list(INDUSTRY.values())}",
            remedy="pass a frame of quantiles",
        )
    return frame.with_columns(pl.col(quantile).alias(name) for quantile, name in INDUSTRY.items())


def roll_up(
    paths: Paths,
    *,
    freq: Frequency,
    groups: Mapping[str, str] | None = None,
    method: Method = "bottom_up",
    oof: pl.DataFrame | None = None,
    history: pl.DataFrame | None = None,
) -> pl.DataFrame:
    """Roll wells up to pads and the field: monthly rates and the cumulative over the horizon in one frame.

    Parameters
    ----------
    paths
        Joint paths of the wells (`sample_paths`), in units per day.
    freq
        The panel's step.
    groups
        Well -> pad. None: no pads.
    method, oof, history
        As in `reconcile`.

    Returns
    -------
    pl.DataFrame
        `level` (`well`, `pad`, `field`), `name, ds, cutoff, horizon` (null for cumulatives), `kind` (`rate`,
        `cumulative`), `q10 .. q90, P90, P50, P10, mean`. `mean` adds up exactly over children; quantiles are those of
        the sums, which is why they do not.

    Raises
    ------
    ConfigError
        If a well has no pad, or as `reconcile`.
    """
    coherent = reconcile(paths, method=method, oof=oof, history=history, groups=groups)
    return pl.concat([rates(coherent, groups=groups), cumulatives(coherent, freq=freq, groups=groups)])


def rates(paths: Paths, *, groups: Mapping[str, str] | None = None) -> pl.DataFrame:
    """Quantiles and means of the rates of every well, pad and the field; columns as `roll_up`.

    A well's quantiles are the forecast's own, a sum's those of its paths.

    Raises
    ------
    ConfigError
        If a well has no pad.
    """
    parts = []
    for node in _nodes(paths.series, groups):
        total = paths.values[:, node.members].sum(axis=1)
        levels = paths.marginals[node.members[0]] if node.level == "well" else _quantiles(total)
        parts.append(_rows(node, paths, paths.times, paths.horizons, RATE, levels, _mean(paths.values, node)))
    return _frame(parts)


def cumulatives(paths: Paths, *, freq: Frequency, groups: Mapping[str, str] | None = None) -> pl.DataFrame:
    """Quantiles and means of the volume over the whole horizon of every well, pad and the field; columns as `roll_up`.

    Volume = sum over the steps of rate x days in the step, path by path: months of 28 and of 31 days do not weigh
    alike, and the P90 of the sum is not the sum of the months' P90s. `ds` is the last step's label, `horizon` null.

    Parameters
    ----------
    paths
        Rates in units per calendar day.
    freq
        The panel's step; a month counts its 28 to 31 days.

    Raises
    ------
    ConfigError
        If a well has no pad.
    """
    volumes = (paths.values @ _days(paths.times, freq))[:, :, None]
    parts = []
    for node in _nodes(paths.series, groups):
        levels = _quantiles(volumes[:, node.members].sum(axis=1))
        parts.append(_rows(node, paths, paths.times[-1:], (None,), CUMULATIVE, levels, _mean(volumes, node)))
    return _frame(parts)


def reconcile(
    paths: Paths,
    *,
    method: Method = "bottom_up",
    oof: pl.DataFrame | None = None,
    history: pl.DataFrame | None = None,
    groups: Mapping[str, str] | None = None,
) -> Paths:
    """Move the wells' paths so that their mean forecast agrees with what pads and the field by themselves suggest.

    `bottom_up` returns the paths as they are: a parent is the sum of its children. `mint` (MinT with a shrunk
    covariance, Wickramasuriya et al. 2019; non-negative above `lower`, Wickramasuriya et al. 2020; by
    `hierarchicalforecast`) takes the wells' path means and, for every pad and the field, simple exponential smoothing
    of the summed history of the wells forecast, its weight chosen by one-step squared errors at every origin anew. The
    covariance is that of the errors of all these at the closed origins of `oof`, horizons pooled. Sums of well
    forecasts would be coherent already, and MinT would leave them as they are; that is why a history is needed.

    A well's paths and quantiles move with its mean: up by a shift, down towards `lower` by a factor (without a bound by
    a shift). So levels never cross, the bound holds, and sums of paths have the reconciled means. A well that is
    forecast to stay at the bound, or was never wrong, stays as it is.

    Parameters
    ----------
    oof
        As in `sample_paths`; needed by `mint`.
    history
        `unique_id, ds, y` of the wells on a regular grid, needed by `mint`; rows after the cutoff are not read, missing
        values within a well's life are carried forward.
    groups
        Well -> pad. None: no pads.

    Raises
    ------
    ConfigError
        If the method is unknown, `oof` or `history` is missing or no well has three closed origins, or
        `hierarchicalforecast` is not installed.
    TrainingError
        If the library finds no solution.
    """
    if method == "bottom_up":
        return paths
    if method != "mint":
        raise ConfigError(
            f"unknown method of reconciliation {method!r}", expected="bottom_up or mint", remedy="correct `method`"
        )
    if oof is None or history is None:
        raise ConfigError(
            f"MinT was asked for without {'out-of-fold rows' if oof is None else 'a history'}",
            expected="both: errors tell whom to trust, the history what pads and the field suggest",
            remedy="pass `oof` and `history`, or use method='bottom_up'",
        )
    return _moved(paths, _mint(paths, oof, history, groups))


def hindcast(
    oof: pl.DataFrame,
    *,
    freq: Frequency,
    groups: Mapping[str, str] | None = None,
    lower: float | None = None,
    method: Method = "bottom_up",
    history: pl.DataFrame | None = None,
    origins: int = 8,
    draws: int = 1000,
    seed: int = 0,
) -> pl.DataFrame:
    """Roll every out-of-fold origin up as its own night would have, beside what came.

    Dependence (and MinT's covariance) is learnt from the origins closed before each one, so coverage measured on the
    result is honest. A well counts at an origin if its outcome is known at every step of the horizon.

    Parameters
    ----------
    oof
        `unique_id, ds, cutoff, horizon, q10 .. q90, y`, one model, calibrated by earlier origins only.
    origins
        Closed origins an origin needs before it to be rolled up.
    groups, method, history
        As in `roll_up`.

    Returns
    -------
    pl.DataFrame
        The columns of `roll_up`, pads and the field only, with `y` and `wells`, the number summed; no rows if no origin
        has enough before it.
    """
    check_columns(oof, (*KEYS, *QUANTILES, TARGET), what="out-of-fold rows")
    known = oof.filter(pl.col(TARGET).cast(pl.Float64).is_finite().fill_null(False))
    horizon = known.get_column(HORIZON).n_unique()
    whole = known.filter(pl.len().over(ID, CUTOFF) == horizon)
    cutoffs: list[datetime] = known.get_column(CUTOFF).unique().sort().to_list()
    longest = known.get_column(HORIZON).max()
    reach = longest if isinstance(longest, int) else 0
    parts = []
    for cutoff in cutoffs:
        earlier = closed_cutoffs(cutoffs, cutoff, horizon=reach, freq=freq)
        tonight = whole.filter(pl.col(CUTOFF) == cutoff)
        if len(earlier) < origins or not tonight.height:
            continue
        past = known.filter(pl.col(CUTOFF).is_in(list(earlier)))
        if not past.get_column(ID).is_in(tonight.get_column(ID).implode()).any():
            continue
        paths = sample_paths(Quantiles.of(tonight), past, draws=draws, seed=seed, lower=lower, groups=groups)
        rolled = roll_up(paths, freq=freq, groups=groups, method=method, oof=past, history=history)
        parts.append(
            rolled.filter(pl.col(LEVEL) != "well").join(
                _outcomes(tonight, paths, freq, groups),
                on=[LEVEL, NAME, TIME, KIND],
                how="left",
                maintain_order="left",
            )
        )
    empty = pl.DataFrame(schema={name: _SCHEMA.get(name, pl.Float64) for name in COLUMNS}).with_columns(
        pl.lit(None, dtype=pl.Float64).alias(TARGET), pl.lit(None, dtype=pl.Int64).alias("wells")
    )
    return pl.concat([empty, *parts])


def rollup_scores(
    oof: pl.DataFrame,
    naive: pl.DataFrame,
    *,
    freq: Frequency,
    groups: Mapping[str, str] | None = None,
    lower: float | None = None,
    method: Method = "bottom_up",
    history: pl.DataFrame | None = None,
    origins: int = 8,
    draws: int = 1000,
    seed: int = 0,
) -> pl.DataFrame:
    """Score the sums beside the best naive's sums, on the same origins, wells and months.

    Both are rolled up from their own rows with the dependence of their own errors; the naive always bottom-up. The
    point forecast is the median of the sum.

    Parameters
    ----------
    oof, naive
        As in `hindcast`: the ensemble's rows and the best naive's.

    Returns
    -------
    pl.DataFrame
        One row per level (`field`, and `pad` with all pads pooled), kind and model (`forecast`, `naive`): `origins,
        rows, wells` (mean number summed), `mae, nmae, bias, coverage80, width80`, and `ratio`, MAE over the naive's.
        `mae` and `width80` of cumulatives are volumes. No rows if no origin has enough before it.
    """
    for rows in (oof, naive):
        check_columns(rows, (*KEYS, *QUANTILES, TARGET), what="out-of-fold rows")
    keys = [ID, CUTOFF, HORIZON]
    typed = [pl.col(TIME, CUTOFF).cast(pl.Datetime("us")), pl.col(HORIZON).cast(pl.Int32)]
    pair = [rows.drop(MODEL, strict=False).with_columns(typed) for rows in (oof, naive)]
    shared = (
        pair[0].join(pair[1].select(keys), on=keys, how="semi"),
        pair[1].join(pair[0].select(keys), on=keys, how="semi"),
    )
    parts = []
    tasks: tuple[tuple[str, pl.DataFrame, Method], ...] = (
        ("forecast", shared[0], method),
        ("naive", shared[1], "bottom_up"),
    )
    for model, rows, its in tasks:
        rolled = hindcast(
            rows,
            freq=freq,
            groups=groups,
            lower=lower,
            method=its,
            history=history,
            origins=origins,
            draws=draws,
            seed=seed,
        )
        parts.append(rolled.with_columns(pl.lit(model).alias(MODEL)))
    return _scored(pl.concat(parts))


@dataclass(frozen=True, eq=False)
class _Node:
    """A well, a pad or the field, and the positions of its wells."""

    level: Level
    name: str
    members: NDArray[np.int64]
    children: tuple[NDArray[np.int64], ...] = ()


def _nodes(series: Sequence[str], groups: Mapping[str, str] | None) -> list[_Node]:
    """Wells, pads by name, the field."""
    wells = [_Node("well", name, np.array([i])) for i, name in enumerate(series)]
    everything = np.arange(len(series))
    if groups is None:
        return [*wells, _Node("field", FIELD, everything, tuple(well.members for well in wells))]
    homeless = [name for name in series if groups.get(name) is None]
    if homeless:
        raise ConfigError(
            f"{len(homeless)} of {len(series)} series have no pad, first {homeless[0]!r}",
            expected="a pad for every series, or no `groups` at all: pads have to add up to the field",
            remedy="give such series a pad of their own, such as 'unassigned'",
        )
    members: dict[str, list[int]] = {}
    for i, name in enumerate(series):
        members.setdefault(groups[name], []).append(i)
    pads = [_Node("pad", pad, np.array(its), tuple(np.array([i]) for i in its)) for pad, its in sorted(members.items())]
    return [*wells, *pads, _Node("field", FIELD, everything, tuple(pad.members for pad in pads))]


def _mean(values: FloatArray, node: _Node) -> FloatArray:
    """Mean over draws, `[S, N, H] -> [H]`, summed over wells afterwards: sums of children to the last bits."""
    return np.asarray(values.mean(axis=0)[node.members].sum(axis=0), dtype=np.float64)


def _quantiles(total: FloatArray) -> FloatArray:
    """`[S, H] -> [H, Q]`; Hazen's positions are those of the paths."""
    return np.asarray(np.quantile(total, LEVELS, axis=0, method="hazen").T, dtype=np.float64)


def _days(times: Iterable[datetime], freq: Frequency) -> FloatArray:
    return np.array([(freq.shift(time, 1) - time).total_seconds() / 86_400 for time in times])


def _rows(
    node: _Node,
    paths: Paths,
    times: Sequence[datetime],
    horizons: Sequence[int | None],
    kind: str,
    levels: FloatArray,
    mean: FloatArray,
) -> list[dict[str, Any]]:
    keys = {LEVEL: node.level, NAME: node.name, CUTOFF: paths.cutoff, KIND: kind}
    return [
        keys | {TIME: time, HORIZON: horizon, MEAN: centre} | dict(zip(QUANTILES, row, strict=True))
        for time, horizon, centre, row in zip(times, horizons, mean.tolist(), levels.tolist(), strict=True)
    ]


def _frame(parts: Iterable[list[dict[str, Any]]]) -> pl.DataFrame:
    frame = pl.DataFrame([row for part in parts for row in part], schema=_SCHEMA)
    return industry_names(frame).select(COLUMNS)


def _outcomes(tonight: pl.DataFrame, paths: Paths, freq: Frequency, groups: Mapping[str, str] | None) -> pl.DataFrame:
    """What came, `level, name, ds, kind, y, wells`, of pads and the field."""
    ordered = tonight.sort(ID, HORIZON).get_column(TARGET).cast(pl.Float64).to_numpy()
    actual = ordered.reshape(len(paths.series), len(paths.horizons))
    days = _days(paths.times, freq)
    rows = []
    for node in _nodes(paths.series, groups):
        total = actual[node.members].sum(axis=0)
        wells = len(node.members)
        rows += [(node.level, node.name, time, RATE, y, wells) for time, y in zip(paths.times, total, strict=True)]
        rows.append((node.level, node.name, paths.times[-1], CUMULATIVE, float(total @ days), wells))
    schema: dict[str, Any] = {name: _SCHEMA[name] for name in (LEVEL, NAME, TIME, KIND)}
    return pl.DataFrame(rows, schema=schema | {TARGET: pl.Float64, "wells": pl.Int64}, orient="row")


def _scored(rows: pl.DataFrame) -> pl.DataFrame:
    out: list[dict[str, Any]] = []
    for level in ("field", "pad"):
        for kind in (RATE, CUMULATIVE):
            found: dict[str, dict[str, Any]] = {}
            for model in ("forecast", "naive"):
                part = rows.filter((pl.col(LEVEL) == level) & (pl.col(KIND) == kind) & (pl.col(MODEL) == model))
                if not part.height:
                    continue
                named = part.rename({NAME: ID})
                values = {"mae": mae, "nmae": nmae, "bias": bias, "coverage80": coverage, "width80": width}
                found[model] = {
                    LEVEL: level,
                    KIND: kind,
                    MODEL: model,
                    "origins": part.get_column(CUTOFF).n_unique(),
                    "rows": part.height,
                    "wells": part.get_column("wells").mean(),
                } | {name: score(named) for name, score in values.items()}
            for row in found.values():
                base = found["naive"]["mae"] if "naive" in found else 0.0
                out.append(row | {"ratio": row["mae"] / base if base else None})
    names = ("wells", "mae", "nmae", "bias", "coverage80", "width80", "ratio")
    schema: dict[str, Any] = {LEVEL: pl.String, KIND: pl.String, MODEL: pl.String}
    schema |= {"origins": pl.Int64, "rows": pl.Int64, **dict.fromkeys(names, pl.Float64)}
    return pl.DataFrame(out, schema=schema).with_columns(pl.col(name).fill_nan(None) for name in names)


def _moved(paths: Paths, means: FloatArray) -> Paths:
    """Move each well's paths and quantiles so that its path means are `means`, `[N, H]`."""
    before = paths.values.mean(axis=0)
    by = means - before
    if paths.lower is None:
        return replace(paths, values=paths.values + by, marginals=paths.marginals + by[:, :, None])
    lower = paths.lower
    with np.errstate(divide="ignore", invalid="ignore"):
        factor = np.where((by < 0) & (before > lower), np.maximum(means - lower, 0.0) / (before - lower), 1.0)
    shift = np.maximum(by, 0.0)
    return replace(
        paths,
        values=lower + (paths.values - lower) * factor + shift,
        marginals=lower + (paths.marginals - lower) * factor[:, :, None] + shift[:, :, None],
    )


def _mint(paths: Paths, oof: pl.DataFrame, history: pl.DataFrame, groups: Mapping[str, str] | None) -> FloatArray:
    """Reconciled means of the wells, `[N, H]`."""
    method = _min_trace()
    blocks = past_blocks(oof, paths, paths.lower)
    floor = 0.0 if paths.lower is None else paths.lower
    series, horizons = len(paths.series), len(paths.horizons)
    # [N, H]; from here on all values are distances to the bound.
    base: FloatArray = np.asarray(paths.values.mean(axis=0) - floor, dtype=np.float64)
    grid = (np.arange(200) + 0.5) / 200
    expected = quantile_function(blocks.marginals, grid, paths.lower).mean(axis=0) - floor  # [C, N, H]
    actual = blocks.outcome - floor
    whole: NDArray[np.bool_] = np.asarray(~np.isnan(actual).any(axis=2))  # [C, N]
    used = whole.any(axis=1)
    error = np.where(whole[:, :, None], actual - expected, np.nan)[used]
    error = _completed(error, expected[used], base, paths.series, groups)

    # A well at the bound, or never wrong, has nothing to give or take; without it the covariance can be inverted.
    size = float(np.abs(base).max()) or 1.0
    wrong = np.sqrt((error**2).mean(axis=(0, 2)))
    free = np.flatnonzero((np.abs(base).max(axis=1) > 1e-9 * size) & (wrong > 1e-9 * size))
    nodes = [node for node in _nodes(paths.series, groups) if node.level != "well"]
    known, times = _history_grid(history, paths, floor)
    summed: list[FloatArray] = []  # the parents' base forecasts less their fixed wells, [H] each
    errors: list[FloatArray] = []  # and their errors, [C, H] each
    sums: list[FloatArray] = []  # their rows of the summing matrix
    for node in nodes:
        inside = np.intersect1d(node.members, free)
        row = np.isin(free, inside).astype(np.float64)
        if inside.size < 2 or any(np.array_equal(row, other) for other in sums):
            continue  # a sum of one well, or of what another sum holds, has no opinion of its own
        sums.append(row)
        summed.append(np.full(horizons, _smoothed(known[:, inside].sum(axis=1))))
        node_errors = np.full((len(blocks.cutoffs), horizons), np.nan)
        for c, cutoff in enumerate(blocks.cutoffs):
            there = inside[whole[c, inside]]
            until = int(np.searchsorted(times, np.datetime64(cutoff, "us"), side="right"))
            if there.size and until:
                node_errors[c] = actual[c, there].sum(axis=0) - _smoothed(known[:until, there].sum(axis=1))
        errors.append(node_errors[used])
    if not sums:
        return base + floor
    summing = np.vstack([*sums, np.eye(free.size)])
    outlook = np.vstack([*summed, base[free]]) / size
    misses = np.vstack([*(its.ravel() for its in errors), *(error[:, i].ravel() for i in free)]) / size
    misses = misses[:, ~np.isnan(misses).any(axis=0)]
    if misses.shape[1] < 2:
        raise ConfigError(
            "no closed origin has errors of the wells, the pads and the field together",
            expected="a history that begins before the origins",
            remedy="pass a longer history, or use method='bottom_up'",
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the solver, about the storage of its matrices
            answer = method(method="mint_shrink", nonnegative=paths.lower is not None).fit_predict(
                S=summing, y_hat=outlook, y_insample=misses, y_hat_insample=np.zeros_like(misses)
            )["mean"]
    except Exception as fault:  # the library raises bare Exceptions
        raise TrainingError(
            f"MinT found no solution for {series} wells and {len(sums)} sums ({type(fault).__name__}: {fault})",
            expected="errors whose covariance can be inverted",
            remedy="evaluate more origins, or use method='bottom_up'",
        ) from fault
    means = base.copy()
    means[free] = np.asarray(answer, dtype=np.float64)[len(sums) :] * size
    if paths.lower is not None:
        means = np.maximum(means, 0.0)
    return means + floor


def _min_trace() -> Any:
    try:
        return importlib.import_module("hierarchicalforecast.methods").MinTrace
    except ImportError as error:
        raise ConfigError(
            f"MinT needs the package hierarchicalforecast, which cannot be imported ({error})",
            expected="hierarchicalforecast 1.5 and qpsolvers with clarabel",
            remedy="install nightcast with the extra `mint` (pip install 'nightcast[mint]'), or use method='bottom_up'",
        ) from error


def _completed(
    error: FloatArray,
    expected: FloatArray,
    base: FloatArray,
    series: Sequence[str],
    groups: Mapping[str, str] | None,
) -> FloatArray:
    """Errors `[C, N, H]` without gaps: at an origin that a well lacks, its pad's (the panel's) mean relative error.

    A covariance of errors with gaps need not be one. The mean of several wells' errors is smaller than any; it is
    brought back to the well's own typical size, or its neighbours' where the well has too few origins to tell.
    """
    there = ~np.isnan(error[:, :, 0])
    enough = there.sum(axis=0) >= _FEWEST_RESIDUALS
    if not enough.any():
        raise ConfigError(
            f"none of {len(series)} wells has {_FEWEST_RESIDUALS} closed origins",
            expected="errors to estimate a covariance from",
            remedy="evaluate more origins, or use method='bottom_up'",
        )
    level = np.where(enough, np.abs(np.where(there[:, :, None], expected, 0.0)).sum(axis=(0, 2)), 0.0)
    level /= np.maximum(there.sum(axis=0), 1) * error.shape[2]
    usable = level > 0
    relative = np.where(there[:, :, None], error, 0.0) / np.where(usable, level, 1.0)[None, :, None]
    pads = np.array(["" if groups is None else groups.get(name) or "" for name in series])
    out = error.copy()
    for i in np.flatnonzero(~there.all(axis=0)).tolist():
        near = there & (usable & (pads == pads[i]))[None, :]
        near = np.where(near.any(axis=1)[:, None], near, there & usable[None, :])  # [C, N]
        many = near.sum(axis=1)
        mean = np.where(near[:, :, None], relative, 0.0).sum(axis=1) / np.maximum(many, 1)[:, None]  # [C, H]
        size = float(np.sqrt(np.mean(mean**2)))
        if usable[i]:
            wanted = float(np.sqrt(np.mean(error[there[:, i], i] ** 2)))
        else:
            spread = (np.where(near[:, :, None], relative, 0.0) ** 2).sum() / max(int(many.sum()) * error.shape[2], 1)
            wanted = float(np.sqrt(spread) * np.abs(base[i]).mean())
        gaps = ~there[:, i]
        out[gaps, i] = mean[gaps] * (wanted / size if size > 0 else 0.0)
    return out


def _history_grid(history: pl.DataFrame, paths: Paths, floor: float) -> tuple[FloatArray, NDArray[np.datetime64]]:
    """`[T, N]` known values up to the cutoff above the bound, carried forward; 0 before a well's first."""
    check_columns(history, (ID, TIME, TARGET), what="history rows")
    wide = (
        history.select(
            pl.col(ID).cast(pl.String),
            pl.col(TIME).cast(pl.Datetime("us")),
            (pl.col(TARGET).cast(pl.Float64).fill_nan(None) - floor).alias(TARGET),
        )
        .filter((pl.col(TIME) <= paths.cutoff) & pl.col(ID).is_in(list(paths.series)))
        .pivot(on=ID, index=TIME, values=TARGET, aggregate_function="first")
        .sort(TIME)
    )
    if not wide.height:
        raise ConfigError(
            f"the history has no row of the forecast's wells up to {paths.cutoff:%Y-%m-%d}",
            expected="`unique_id, ds, y` of the wells that are forecast",
            remedy="pass dataset.truth(), or use method='bottom_up'",
        )
    columns = [
        pl.col(name).forward_fill().fill_null(0.0) if name in wide.columns else pl.lit(0.0).alias(name)
        for name in paths.series
    ]
    values = np.asarray(wide.select(columns).to_numpy(), dtype=np.float64)
    return values, wide.get_column(TIME).to_numpy()


def _smoothed(values: FloatArray) -> float:
    """The forecast of simple exponential smoothing (Brown 1959), from the first value on, weight by one-step errors."""
    begun = np.flatnonzero(values)
    values = values[begun[0] :] if begun.size else values[-1:]
    level = np.full(_SMOOTHING.shape, values[0])
    loss = np.zeros(_SMOOTHING.shape)
    for value in values[1:]:
        loss += (value - level) ** 2
        level += _SMOOTHING * (value - level)
    return float(level[int(loss.argmin())])
