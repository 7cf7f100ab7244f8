"""League tables over out-of-fold rows, the segments they are cut by, and the scaled loss that ranks them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

import polars as pl

from nightcast.contracts.columns import CUTOFF, HORIZON, ID, MODEL, QUANTILES, TARGET, TIME, UPTIME
from nightcast.contracts.errors import ConfigError
from nightcast.contracts.panel import PanelDataset
from nightcast.evaluation.scores import (
    ERROR,
    METRICS,
    check_columns,
    covered_expr,
    known_at,
    pinball_expr,
)

SEGMENT: Final = "segment"
SCALE: Final = "scale"
LOSS: Final = "loss"

LEVEL_ROWS: Final = 12
"""Newest known values that make a series' level."""
NEW_ROWS: Final = 12
"""A series with fewer known values is `new`."""
RAMP_STEPS: Final = 3
"""A series that restarted within so many steps is in `ramp_up`."""
IDLE_UPTIME: Final = 0.1
"""A step with less of its time on stream counts as shut in."""
PART_UPTIME: Final = 0.5
"""A step with less of its time on stream tells little of a full one: `ramp_up`."""
SCALE_FLOOR: Final = 0.01
"""Smallest scale, as a share of the panel's median scale at the same cutoff."""
LOSS_FLOOR: Final = 0.1
"""Smallest scale a loss is divided by, as a share of the median scale of the rows at the same cutoff."""
_LEAST_SCALE: Final = 1e-9

_KEYS: Final = (ID, TIME, CUTOFF)
_COLUMNS: Final = (
    *("mae", "nmae", "mase", "rmsse", "bias", "r2_pooled", "r2_within", "nse_median"),
    *("pinball", "coverage80", "width80"),
)


def league(oof: pl.DataFrame, baselines: Sequence[str], *, history: pl.DataFrame | None = None) -> pl.DataFrame:
    """Rank models, one row each, best first.

    Every model is scored on its own rows, whose number stands in `rows`. `ratio` is its MAE over that of the best
    baseline *on the same rows*: the baseline that shares most rows with it and, of these, has the least MAE. The order
    is that of the mean pinball loss, taken relative to the same baseline's, so that a model which skips the hard
    series gains nothing; where all models cover the same rows this is the order of the column `pinball`.

    Parameters
    ----------
    oof
        `unique_id, ds, cutoff, horizon, model, q10 .. q90, y`, all models below one another.
    baselines
        Labels of the naive family; those without rows are passed over, without any `ratio` is null.
    history
        `unique_id, ds, y`; without it `mase` and `rmsse` are null.
    """
    check_columns(oof, (ID, TIME, CUTOFF, MODEL, *QUANTILES, TARGET), what="out-of-fold rows")
    parts = {str(key[0]): part for key, part in oof.sort(MODEL, *_KEYS).partition_by(MODEL, as_dict=True).items()}
    yardsticks = {name: _row_losses(parts[name]) for name in dict.fromkeys(baselines) if name in parts}
    rows: list[dict[str, Any]] = []
    for model, part in parts.items():
        row: dict[str, Any] = {MODEL: model, "rows": part.height, "series": part.get_column(ID).n_unique()}
        for name in _COLUMNS:
            metric = METRICS[name]
            if metric.needs_history:
                value = math.nan if history is None else metric.function(part, history=history)
            else:
                value = metric.function(part)
            row[name] = None if math.isnan(value) else value
        row["ratio"], relative = _against_best(_row_losses(part), yardsticks)
        row["_order"] = row["pinball"] if relative is None else relative
        rows.append(row)
    schema: dict[str, Any] = {MODEL: pl.String, "rows": pl.Int64, "series": pl.Int64}
    schema |= dict.fromkeys((*_COLUMNS, "ratio", "_order"), pl.Float64)
    return pl.DataFrame(rows, schema=schema).sort("_order", "mae", MODEL, nulls_last=True).drop("_order")


def by_horizon(oof: pl.DataFrame) -> pl.DataFrame:
    """Score per model and horizon: `model, horizon, rows, mae, nmae, bias, pinball, coverage80, width80`."""
    check_columns(oof, (MODEL, HORIZON, *QUANTILES, TARGET), what="out-of-fold rows")
    actual = pl.col(TARGET).abs().sum()
    return (
        oof.group_by(MODEL, HORIZON)
        .agg(
            pl.len().cast(pl.Int64).alias("rows"),
            ERROR.abs().mean().alias("mae"),
            (ERROR.abs().sum() / actual).alias("nmae"),
            (ERROR.sum() / actual).alias("bias"),
            pinball_expr().mean().alias("pinball"),
            covered_expr(0.1, 0.9).mean().alias("coverage80"),
            (pl.col("q90") - pl.col("q10")).mean().alias("width80"),
        )
        .with_columns(pl.when(pl.col(name).is_finite()).then(name) for name in ("nmae", "bias"))
        .sort(MODEL, HORIZON)
    )


def segments(oof: pl.DataFrame, *, history: pl.DataFrame | None = None) -> pl.DataFrame:
    """Add `segment`, the state a series was in at the cutoff, from rows known there; the order of rows is kept.

    `new`: fewer than 12 known values. `shut_in`: the last value is zero, or next to no time of its step was on stream.
    `ramp_up`: it is neither, but less than half of the step was on stream, or one of the three steps before it was shut
    in. `steady`: the rest. The first that holds counts.

    Parameters
    ----------
    history
        `unique_id, ds, y`, and `uptime` (share of the step on stream) where it is reported: `states(dataset)`. None:
        the rows already carry `segment` (from `series_segments`, say) and are given back.

    Raises
    ------
    ConfigError
        If there is neither a history nor the column.
    """
    if history is None:
        if SEGMENT in oof.columns:
            return oof
        raise ConfigError(
            "the rows have no column 'segment' and no history was given",
            expected="`unique_id, ds, y` known at the cutoffs",
            remedy="pass history=states(dataset), or join series_segments(dataset, cutoffs) to the rows",
        )
    check_columns(history, (ID, TIME, TARGET), what="history rows")
    told = UPTIME in history.columns
    share = (pl.col(UPTIME).cast(pl.Float64) if told else pl.lit(1.0)).fill_nan(None).fill_null(1.0)
    idle = pl.any_horizontal(pl.col("_shut").shift(back).over(ID) for back in range(1, RAMP_STEPS + 1))
    known = (
        history.filter(pl.col(TARGET).cast(pl.Float64).is_finite().fill_null(False))
        .sort(ID, TIME)
        .with_columns(
            (pl.col(TARGET).eq(0) | (share < IDLE_UPTIME)).alias("_shut"), (share < PART_UPTIME).alias("_part")
        )
        .with_columns(
            pl.when(pl.int_range(1, pl.len() + 1).over(ID) < NEW_ROWS)
            .then(pl.lit("new"))
            .when("_shut")
            .then(pl.lit("shut_in"))
            .when(pl.col("_part") | idle.fill_null(False))
            .then(pl.lit("ramp_up"))
            .otherwise(pl.lit("steady"))
            .alias(SEGMENT)
        )
    )
    return known_at(oof, known, columns=(SEGMENT,)).with_columns(pl.col(SEGMENT).fill_null("new"))


def states(dataset: PanelDataset) -> pl.DataFrame:
    """What `segments` reads: the known target, with the share of each step on stream where it is reported."""
    truth = dataset.truth()
    if UPTIME not in dataset.frame.columns or not dataset.frame.schema[UPTIME].is_numeric():
        return truth
    return truth.join(dataset.frame.select(ID, TIME, UPTIME), on=[ID, TIME], how="left", maintain_order="left")


def series_segments(dataset: PanelDataset, cutoffs: Sequence[datetime]) -> pl.DataFrame:
    """Tell each series' segment at each cutoff, `unique_id, cutoff, segment`; series not yet begun are left out."""
    keys = _grid(dataset, cutoffs)
    return segments(keys, history=states(dataset)).sort(ID, CUTOFF)


def series_facts(dataset: PanelDataset, cutoffs: Sequence[datetime]) -> pl.DataFrame:
    """Each series' `scale` and `segment` at each cutoff, from rows known there."""
    scale = series_scale(dataset, cutoffs)
    return segments(scale, history=states(dataset)) if scale.height else scale.with_columns(pl.lit("").alias(SEGMENT))


def loss_scale_expr() -> pl.Expr:
    """Build the scale a loss is divided by: `scale`, at least a tenth of the median over the rows of the same cutoff.

    Without this floor the restarts of a few shut-in wells, divided by next to nothing, outweigh all other rows. It
    looks at one cutoff only, so rows of later origins never change the loss of earlier ones.
    """
    least = (LOSS_FLOOR * pl.col(SCALE).median().over(CUTOFF)).clip(lower_bound=_LEAST_SCALE)
    return pl.max_horizontal(pl.col(SCALE), least).cast(pl.Float64)


def panel_loss(oof: pl.DataFrame) -> pl.DataFrame:
    """Add `loss`: mean pinball loss over the levels divided by `scale` with its floor, comparable between series.

    The floor depends on the series at hand: frames whose losses are compared should hold the same ones.

    Raises
    ------
    ConfigError
        If a scale is missing.
    """
    check_columns(oof, (ID, CUTOFF, *QUANTILES, TARGET, SCALE), what="out-of-fold rows")
    missing = oof.filter(~pl.col(SCALE).is_finite().fill_null(False))
    if missing.height:
        raise ConfigError(
            f"{missing.height} out-of-fold rows have no scale, first of series {missing[ID][0]!r}",
            expected="the level of every series at every cutoff",
            remedy="join series_scale(dataset, cutoffs) on `unique_id, cutoff`",
        )
    return oof.with_columns((pinball_expr() / loss_scale_expr()).alias(LOSS))


def series_scale(dataset: PanelDataset, cutoffs: Sequence[datetime]) -> pl.DataFrame:
    """Tell each series' level at each cutoff, `unique_id, cutoff, scale`, from rows known there; always positive.

    The level is the mean absolute value of the last 12 known values. It is floored at 1 % of the median level of the
    panel's series at the same cutoff (of those that are not all zero), so that a shut-in series counts, finitely.
    """
    known = dataset.truth().filter(pl.col(TARGET).cast(pl.Float64).is_finite()).sort(ID, TIME)
    parts = []
    for cutoff in sorted(set(cutoffs)):
        level = (
            known.filter(pl.col(TIME) <= cutoff)
            .group_by(ID, maintain_order=True)
            .agg(pl.col(TARGET).cast(pl.Float64).tail(LEVEL_ROWS).abs().mean().alias(SCALE))
        )
        median = level.filter(pl.col(SCALE) > 0).get_column(SCALE).median()
        floor = SCALE_FLOOR * median if isinstance(median, float) else 1.0
        parts.append(
            level.select(
                ID,
                pl.lit(cutoff).cast(pl.Datetime("us")).alias(CUTOFF),
                pl.col(SCALE).clip(lower_bound=max(floor, _LEAST_SCALE)),
            )
        )
    if not parts:
        return pl.DataFrame(schema={ID: pl.String, CUTOFF: pl.Datetime("us"), SCALE: pl.Float64})
    return pl.concat(parts).sort(ID, CUTOFF)


def _grid(dataset: PanelDataset, cutoffs: Sequence[datetime]) -> pl.DataFrame:
    begun = dataset.truth().group_by(ID).agg(pl.col(TIME).min().alias("_begun"))
    times = pl.DataFrame({CUTOFF: sorted(set(cutoffs))}, schema={CUTOFF: pl.Datetime("us")})
    return begun.join(times, how="cross").filter(pl.col("_begun") <= pl.col(CUTOFF)).select(ID, CUTOFF)


def _row_losses(part: pl.DataFrame) -> pl.DataFrame:
    return part.select(*_KEYS, ERROR.abs().alias("_error"), pinball_expr().alias("_pinball"))


def _against_best(own: pl.DataFrame, yardsticks: dict[str, pl.DataFrame]) -> tuple[float | None, float | None]:
    """MAE and pinball loss relative to the best baseline on the rows shared with it."""
    best: tuple[int, float] | None = None
    found: tuple[float | None, float | None] = (None, None)
    for other in yardsticks.values():
        shared = own.join(other, on=list(_KEYS), suffix="_base")
        if not shared.height:
            continue
        sums = shared.select(pl.sum("_error", "_error_base", "_pinball", "_pinball_base")).row(0, named=True)
        rank = (-shared.height, sums["_error_base"])
        if best is None or rank < best:
            best = rank
            found = (
                _relative(sums["_error"], sums["_error_base"]),
                _relative(sums["_pinball"], sums["_pinball_base"]),
            )
    return found


def _relative(value: float, reference: float) -> float | None:
    if reference > 0:
        return value / reference
    return 1.0 if value == 0 else None
