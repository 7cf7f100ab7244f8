"""Out-of-fold quantiles as arrays: one cube per horizon, NaN where a member has no row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from nightcast.contracts.columns import CUTOFF, HORIZON, ID, LEVELS, MODEL, QUANTILES, TARGET, TIME
from nightcast.contracts.errors import ConfigError
from nightcast.contracts.prediction import KEYS
from nightcast.evaluation.league import loss_scale_expr

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

SCALE: Final = "scale"
MEDIAN: Final = LEVELS.index(0.5)
"""Place of the median among the levels."""
_LOSS_SCALE: Final = "_loss_scale"
_LEVELS: Final = np.array(LEVELS)
_ROW: Final = "_row"


@dataclass(frozen=True)
class Cube:
    """Rows of one horizon.

    Attributes
    ----------
    keys
        Series, time, cutoff, horizon, actual and scale of each row, sorted by cutoff and series.
    values
        (rows, members, levels) in the target's unit; NaN where a member lacks the row.
    y, scale
        Per row: the actual, and what its losses are divided by.
    member_loss
        (rows, members) scaled pinball losses.
    cutoffs, origin
        The origins, rising, and each row's place among them.
    """

    keys: pl.DataFrame
    values: Floats
    y: Floats
    scale: Floats
    member_loss: Floats
    cutoffs: list[datetime]
    origin: NDArray[np.int64]

    def closed(self, cutoff: datetime, ends: Mapping[datetime, datetime]) -> Bools:
        """Rows of origins whose outcomes were all known at `cutoff`."""
        known = np.array([ends[origin] <= cutoff for origin in self.cutoffs])
        return np.asarray(known[self.origin], dtype=bool)


def cubes_of(oof: pl.DataFrame) -> tuple[list[str], dict[int, Cube]]:
    """Members, sorted, and horizon -> cube; a row whose quantiles are not all finite counts as lacking.

    Parameters
    ----------
    oof
        `unique_id, ds, cutoff, horizon, model, q10 .. q90, y` and, if there is one, `scale`.

    Raises
    ------
    ConfigError
        If there are no rows, columns are missing, a row repeats, or an outcome or scale is unknown.
    """
    missing = [name for name in (*KEYS, MODEL, *QUANTILES, TARGET) if name not in oof.columns]
    if missing or not oof.height:
        raise ConfigError(
            f"the combiner got {oof.height} out-of-fold rows, columns lacking: {missing or 'none'}",
            expected=f"at least one row with {[*KEYS, MODEL, *QUANTILES, TARGET]}",
            remedy="look at the walk-forward: every member failed, or no outcome is known",
        )
    keys = [ID, TIME, CUTOFF, HORIZON]
    if oof.select(*keys, MODEL).is_duplicated().any():
        twice = oof.filter(oof.select(*keys, MODEL).is_duplicated())
        raise ConfigError(
            f"member {twice[MODEL][0]!r} has series {twice[ID][0]!r} twice at cutoff {twice[CUTOFF][0]}",
            expected="one out-of-fold row per member, series, cutoff and horizon",
            remedy="give members different labels",
        )
    finite = pl.all_horizontal(pl.col(QUANTILES).cast(pl.Float64).is_finite().fill_null(False))
    oof, given = oof.filter(finite), oof
    if not oof.height:
        raise ConfigError(
            f"none of the {given.height} out-of-fold rows has finite quantiles, first of member {given[MODEL][0]!r}",
            expected=f"finite numbers in {QUANTILES[0]} .. {QUANTILES[-1]}",
            remedy="look at the members: a row that cannot be forecast is left out, not filled with NaN",
        )
    oof = _scaled(oof)
    unknown = oof.filter(~pl.all_horizontal(pl.col(TARGET, SCALE).cast(pl.Float64).is_finite().fill_null(False)))
    if unknown.height:
        raise ConfigError(
            f"{unknown.height} out-of-fold rows have no actual or no scale, first of series {unknown[ID][0]!r}",
            expected="rows whose outcome and scale are known",
            remedy="drop rows with a null `y`, join the scale of every series and cutoff",
        )
    members: list[str] = oof.get_column(MODEL).unique().sort().to_list()
    place = {name: i for i, name in enumerate(members)}
    cubes = {}
    for part in oof.sort(HORIZON).partition_by(HORIZON, maintain_order=True):
        base = part.select(*keys, TARGET, SCALE, _LOSS_SCALE).unique(subset=keys, keep="first", maintain_order=True)
        base = base.sort(CUTOFF, ID)
        at = part.join(base.select(*keys).with_row_index(_ROW), on=keys, how="left").get_column(_ROW).to_numpy()
        member = part.get_column(MODEL).replace_strict(place, return_dtype=pl.Int64).to_numpy()
        values = np.full((base.height, len(members), len(QUANTILES)), np.nan)
        values[at, member] = part.select(pl.col(QUANTILES).cast(pl.Float64)).to_numpy()
        y = base.get_column(TARGET).cast(pl.Float64).to_numpy()
        scale = base.get_column(_LOSS_SCALE).to_numpy()
        cutoffs: list[datetime] = base.get_column(CUTOFF).unique().sort().to_list()
        origin = base.get_column(CUTOFF).rank("dense").cast(pl.Int64).to_numpy() - 1
        loss = np.stack([pinball(values[:, i], y, scale) for i in range(len(members))], axis=1)
        cubes[int(part[HORIZON][0])] = Cube(base, values, y, scale, loss, cutoffs, origin)
    return members, cubes


def _scaled(oof: pl.DataFrame) -> pl.DataFrame:
    """Make sure of a scale, and add the one losses are divided by.

    Without a scale given it is the mean absolute actual of the series' rows.
    """
    if SCALE not in oof.columns:
        level = oof.group_by(ID, maintain_order=True).agg(pl.col(TARGET).abs().mean().cast(pl.Float64).alias(SCALE))
        typical = level.filter(pl.col(SCALE) > 0).get_column(SCALE).median()
        floor = 0.01 * typical if isinstance(typical, float) else 1.0
        oof = oof.join(level.with_columns(pl.col(SCALE).clip(lower_bound=floor)), on=ID, how="left")
    return oof.with_columns(loss_scale_expr().alias(_LOSS_SCALE))


def pinball(values: Floats, y: Floats, scale: Floats) -> Floats:
    """Mean pinball loss over levels, per row, over the scale; NaN where the values are."""
    above = y[:, None] - values
    return np.asarray(np.maximum(_LEVELS * above, (_LEVELS - 1) * above).mean(axis=1) / scale)


def unit(count: int, index: int) -> Floats:
    """All the weight on one member."""
    weights = np.zeros(count)
    weights[index] = 1.0
    return weights


def renormalised(share: Floats, present: Bools) -> Floats:
    """Weights (rows, members) over the members present in each row; equal where none of these has weight."""
    held = np.where(present, share, 0.0)
    total = held.sum(axis=1, keepdims=True)
    equal = present / np.maximum(present.sum(axis=1, keepdims=True), 1)
    return np.where(total > 1e-12, held / np.where(total > 1e-12, total, 1.0), equal)


def combined(values: Floats, weights: Floats) -> Floats:
    """Weighted quantiles (rows, levels) of members (rows, members, levels) with gaps.

    `weights` are (members) or (rows, members); where no member with weight is present, those present weigh equally.
    """
    present = np.isfinite(values[..., 0])
    share = renormalised(np.broadcast_to(weights, present.shape), present)
    return np.asarray(np.einsum("rm,rmq->rq", share, np.where(present[..., None], values, 0.0)))


def filled(values: Floats, weights: Floats) -> Floats:
    """(rows, members, levels) without gaps: one counts as the weighted quantiles of the members present."""
    present = np.isfinite(values[..., 0])
    return np.where(present[..., None], values, combined(values, weights)[:, None, :])
