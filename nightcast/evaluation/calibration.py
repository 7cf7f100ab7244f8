"""Conformal correction of quantiles, learnt on rows of its own."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from nightcast.contracts.columns import CUTOFF, HORIZON, ID, LEVELS, MEDIAN, MODEL, QUANTILES, TARGET, TIME
from nightcast.contracts.errors import ConfigError
from nightcast.contracts.frequency import Frequency
from nightcast.contracts.prediction import Quantiles, sort_quantiles
from nightcast.evaluation.folds import closed_cutoffs
from nightcast.evaluation.scores import check_columns

_SCALE = "scale"
_EFFECTIVE = "_effective_scale"
_ORIGINS = 4
"""Independent origins at which half of the shifts relative to the median's is trusted."""
INTERVAL: Final = 0.8
"""Share of actuals that the regimes' stretches are to hold, between q10 and q90."""
LARGEST_STRETCH: Final = 4.0
STRETCH_DOUBT: Final = 20.0
"""Series-origins of a regime at which half of its stretch, as a power, is believed."""


@dataclass(frozen=True)
class ConformalQuantiles:
    """Shift each quantile by what out-of-fold rows say it lacks (one-sided split conformal, per level and horizon).

    With `r = (y - q_tau) / scale`, the level tau moves by `scale` times the tau-quantile of `r`; of `n` exchangeable
    residuals the k-th smallest covers the next with probability k / (n + 1), which is the position used (Vovk et al.
    2005; Romano, Patterson & Candès 2019 for quantile forecasts). Every series-origin has the same weight. Adjacent
    horizons are pooled until `min_rows` rows are together. Shifts are shrunk to none by `min(1, n / min_rows)` and, as
    series share their shocks and neighbouring origins most of their targets, for few independent origins `o` (target
    times over horizons): the levels' shifts relative to the median's by `o / (o + 4)`, the median's own, a bias, which
    lasts least of all, by `o / (o + centre)`.

    Attributes
    ----------
    min_rows
        Rows a group of horizons should have.
    centre
        Independent origins at which half of a past bias of the median is believed to last. 0: all of it, always.
    regime
        Column of the out-of-fold rows and of `scale` (such as `segment`) within which residuals are first divided by
        their typical size, so that quiet series get small shifts; afterwards the fans of a regime that still were too
        narrow are stretched around the median. None: one size for all.
    lower
        Physical lower bound. Quantiles within `near` of the scale above it count as the bound: a shut well gives
        nothing at all, and an interval from next to nothing up would miss that.
    """

    min_rows: int = 200
    centre: float = 6.0
    regime: str | None = None
    lower: float | None = None
    near: float = 0.01

    def fit(self, oof: pl.DataFrame) -> dict[str, Any]:
        """Learn the shifts as JSON values, in units of the scale.

        Parameters
        ----------
        oof
            `unique_id, ds, cutoff, horizon, q10 .. q90, y, scale` (and the regime column), one model.

        Returns
        -------
        dict
            `method`, `regime`, `factors` (of the regimes' sizes), `stretch` (of the regimes' fans), `lower`, `near` and
            `groups`: `horizons`, `rows`, `origins` (independent ones), `shift` per level, and `trust`, by which shifts
            relative to the median's were shrunk.

        Raises
        ------
        ConfigError
            If a column is missing, or a row has no actual or no positive scale.
        """
        check_columns(oof, (ID, TIME, CUTOFF, HORIZON, *QUANTILES, TARGET, _SCALE), what="out-of-fold rows")
        unknown = oof.filter(
            ~(
                pl.col(TARGET).cast(pl.Float64).is_finite() & pl.col(_SCALE).is_finite() & (pl.col(_SCALE) > 0)
            ).fill_null(False)
        )
        if unknown.height:
            raise ConfigError(
                f"{unknown.height} out-of-fold rows have no actual or no positive scale, first of series "
                f"{unknown[ID][0]!r}",
                expected="rows whose outcome and scale are known",
                remedy="drop rows with a null `y`, join the scale of every series and cutoff",
            )
        factors: dict[str, float] = {}
        if self.regime is not None:
            check_columns(oof, (self.regime,), what="out-of-fold rows")
            factors = _regime_factors(oof, self.regime, self.min_rows)
        rows = self._effective(oof, factors).sort(HORIZON, ID, CUTOFF)
        sizes = rows.group_by(HORIZON).len().sort(HORIZON).rows()
        independent = rows.get_column(TIME).n_unique() / max(1, len(sizes))
        groups = []
        for horizons in _pool(sizes, self.min_rows):
            part = rows.filter(pl.col(HORIZON).is_in(horizons))
            weight = part.select(1.0 / pl.len().over(ID, CUTOFF)).to_series().to_numpy()
            origins = min(independent, part.get_column(CUTOFF).n_unique())
            enough = min(1.0, part.height / self.min_rows)
            trust = enough * origins / (origins + _ORIGINS)
            values = part.select(QUANTILES).to_numpy()
            residuals = (part.get_column(TARGET).to_numpy()[:, None] - values) / part.get_column(_EFFECTIVE).to_numpy()[
                :, None
            ]
            shifts = [_conformal_quantile(residuals[:, i], weight, level) for i, level in enumerate(LEVELS)]
            full = shifts[LEVELS.index(0.5)]
            middle = full * enough * origins / (origins + self.centre)
            groups.append(
                {
                    "horizons": horizons,
                    "rows": part.height,
                    "origins": origins,
                    "trust": trust,
                    "shift": [middle + trust * (shift - full) for shift in shifts],
                }
            )
        table = {
            "method": "conformal",
            "regime": self.regime,
            "factors": factors,
            "lower": self.lower,
            "near": self.near,
            "groups": groups,
            "stretch": {},
        }
        if self.regime is not None:
            moved = _bounded(self._shift(oof, table), self.lower, self.near)
            table["stretch"] = _regime_stretch(moved, self.regime)
        return table

    def apply(self, prediction: Quantiles, scale: pl.DataFrame, table: dict[str, Any]) -> Quantiles:
        """Shift, sort, and hold to the lower bound.

        Parameters
        ----------
        scale
            `unique_id, cutoff, scale` (and the regime column).

        Raises
        ------
        ConfigError
            If a series of the prediction has no scale.
        """
        columns = [_SCALE, *([table["regime"]] if table["regime"] else [])]
        check_columns(scale, (ID, CUTOFF, *columns), what="scale rows")
        keyed = scale.select(ID, pl.col(CUTOFF).cast(pl.Datetime("us")), *columns)
        rows = prediction.frame.join(keyed, on=[ID, CUTOFF], how="left", maintain_order="left")
        lacking = rows.filter(pl.col(_SCALE).is_null())
        if lacking.height:
            raise ConfigError(
                f"series {lacking[ID][0]!r} has no scale at {lacking[CUTOFF][0]}",
                expected="one row of `scale` per series and cutoff of the prediction",
                remedy="compute the scale for the prediction's own cutoffs",
            )
        return Quantiles.of(_bounded(self._shift(rows, table), table["lower"], table["near"]))

    def _shift(self, rows: pl.DataFrame, table: dict[str, Any]) -> pl.DataFrame:
        """Move and sort the quantile columns of rows that carry their scale; the other columns stay."""
        if not table["groups"] or not rows.height:
            return rows
        shift_of: dict[int, list[float]] = {h: g["shift"] for g in table["groups"] for h in g["horizons"]}
        learnt = sorted(shift_of)
        shifts = np.array(
            [
                shift_of[min(learnt, key=lambda seen: (abs(seen - horizon), seen))]
                for horizon in rows.get_column(HORIZON).to_list()
            ]
        )
        effective = self._effective(rows, table["factors"], regime=table["regime"]).get_column(_EFFECTIVE).to_numpy()
        moved = np.sort(rows.select(QUANTILES).to_numpy() + shifts * effective[:, None], axis=1)
        if stretch := table.get("stretch"):
            regime_of = rows.get_column(table["regime"]).cast(pl.String).fill_null("")
            wider = regime_of.replace_strict(stretch, default=1.0, return_dtype=pl.Float64).to_numpy()[:, None]
            middle = moved[:, LEVELS.index(0.5), None]
            moved = middle + (moved - middle) * wider
        return sort_quantiles(rows.with_columns(pl.Series(name, moved[:, i]) for i, name in enumerate(QUANTILES)))

    def _effective(self, rows: pl.DataFrame, factors: dict[str, float], regime: str | None = None) -> pl.DataFrame:
        column = regime or self.regime
        if column is None or not factors:
            return rows.with_columns(pl.col(_SCALE).cast(pl.Float64).alias(_EFFECTIVE))
        regime_of = pl.col(column).cast(pl.String).fill_null("")
        factor = regime_of.replace_strict(factors, default=1.0, return_dtype=pl.Float64)
        return rows.with_columns((pl.col(_SCALE) * factor).alias(_EFFECTIVE))


def prequential(
    oof: pl.DataFrame, *, horizon: int, freq: Frequency, calibrator: ConformalQuantiles | None = None
) -> pl.DataFrame:
    """Correct out-of-fold rows as each night would have: for every cutoff the table of origins closed before it.

    Coverage measured on the result is honest; that of a table on its own rows is not. Cutoffs without a closed
    origin keep their rows as they are. Columns stay; rows are sorted by model, cutoff, series and horizon.

    Parameters
    ----------
    oof
        `unique_id, cutoff, horizon, q10 .. q90, y, scale`, of one or more models, each corrected on its own.
    horizon
        Steps in a full horizon.
    """
    calibrator = calibrator or ConformalQuantiles()
    keys = [name for name in (MODEL, CUTOFF, ID, HORIZON) if name in oof.columns]
    done = []
    for model in oof.sort(keys).partition_by(MODEL, maintain_order=True) if MODEL in oof.columns else [oof.sort(keys)]:
        cutoffs: list[datetime] = model.get_column(CUTOFF).unique().sort().to_list()
        learnt: tuple[tuple[datetime, ...], dict[str, Any]] | None = None
        for cutoff in cutoffs:
            rows = model.filter(pl.col(CUTOFF) == cutoff)
            closed = closed_cutoffs(cutoffs, cutoff, horizon=horizon, freq=freq)
            if closed:
                if learnt is None or learnt[0] != closed:
                    learnt = closed, calibrator.fit(model.filter(pl.col(CUTOFF).is_in(list(closed))))
                rows = calibrator._shift(rows, learnt[1])
            done.append(_bounded(rows, calibrator.lower, calibrator.near))
    return pl.concat(done) if done else oof


def _bounded(rows: pl.DataFrame, lower: float | None, near: float) -> pl.DataFrame:
    """Quantiles at least the lower bound, and equal to it where they are next to it; rows carry their scale."""
    if lower is None:
        return rows
    least = pl.lit(lower) + near * pl.col(_SCALE)
    return rows.with_columns(
        pl.when(pl.col(name) < least).then(pl.lit(lower)).otherwise(pl.col(name)).alias(name) for name in QUANTILES
    )


def _pool(sizes: list[tuple[int, int]], min_rows: int) -> list[list[int]]:
    """Group adjacent horizons until each group has `min_rows` rows; what is left at the end joins the last group."""
    groups: list[list[int]] = []
    current: list[int] = []
    rows = 0
    for horizon, size in sizes:
        current.append(int(horizon))
        rows += size
        if rows >= min_rows:
            groups.append(current)
            current, rows = [], 0
    if current and groups:
        groups[-1].extend(current)
    elif current:
        groups.append(current)
    return groups


def _conformal_quantile(values: NDArray[np.float64], weight: NDArray[np.float64], level: float) -> float:
    """The weighted quantile at position `level * (n + 1)`, where `n` is the sum of the weights; clamped to the range.

    With unit weights this is definition 6 of Hyndman & Fan (1996).
    """
    order = np.argsort(values, kind="stable")
    its = weight[order]
    position = (np.cumsum(its) - its / 2 + 0.5) / (its.sum() + 1)
    return float(np.interp(level, position, values[order]))


def _regime_factors(oof: pl.DataFrame, column: str, min_rows: int) -> dict[str, float]:
    """Size of a regime's errors relative to all, shrunk to 1 when its rows are few."""
    error = ((pl.col(TARGET) - pl.col(MEDIAN)) / pl.col(_SCALE)).abs()
    overall = oof.select(error.mean()).item()
    if not overall:
        return {}
    found = oof.group_by(column).agg(error.mean().alias("size"), pl.len().alias("rows")).sort(column)
    factors = {}
    for name, size, rows in found.rows():
        trust = rows / (rows + min_rows)
        # Never zero: a regime without any error so far may still have one.
        factors[str(name)] = max(trust * size / overall + (1 - trust), 0.01)
    return factors


def _regime_stretch(oof: pl.DataFrame, column: str) -> dict[str, float]:
    """By how much each regime's fans are stretched around the median, after the shifts that all regimes share.

    A row's miss is its distance from the median in units of the fan's arm on that side: up to 1 inside the central
    80 %. The 80 % quantile of a regime's misses is the stretch that would have held so many. Its logarithm is shrunk to
    0 by `n / (n + STRETCH_DOUBT)`, n the series-origins of the regime; rows without an arm say nothing. No fan is made
    narrower: the shared shifts hold for most rows, and a regime that looks safe may only have been lucky.
    """
    low, high = (pl.col(QUANTILES[LEVELS.index(level)]) for level in (0.1, 0.9))
    above = pl.col(TARGET) >= pl.col(MEDIAN)
    arm = pl.when(above).then(high - pl.col(MEDIAN)).otherwise(pl.col(MEDIAN) - low)
    misses = oof.select(
        pl.col(column).cast(pl.String).fill_null("").alias("regime"),
        ID,
        CUTOFF,
        ((pl.col(TARGET) - pl.col(MEDIAN)).abs() / arm).alias("miss"),
        (arm > 1e-9 * pl.col(_SCALE)).alias("told"),
    ).filter("told")
    found = {}
    for (name,), part in sorted(misses.partition_by("regime", as_dict=True).items()):
        weight = part.select(1.0 / pl.len().over(ID, CUTOFF)).to_series().to_numpy()
        full = _conformal_quantile(part.get_column("miss").to_numpy(), weight, INTERVAL)
        trust = weight.sum() / (weight.sum() + STRETCH_DOUBT)
        found[str(name)] = float(np.clip(full, 1.0, LARGEST_STRETCH) ** trust)
    return found
