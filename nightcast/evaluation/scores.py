"""Scores of quantile forecasts: plain functions on out-of-fold rows of one model.

Rows hold `unique_id, ds, cutoff, horizon, q10 .. q90, y`, with `y` known. An error is forecast less actual, the point
forecast is the median, and no score divides by a single actual: actuals may be zero, so MAPE is not offered.
An undefined score (no rows, constant actuals) is NaN.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, Literal

import polars as pl

from nightcast.contracts.columns import CUTOFF, ID, LEVELS, MEDIAN, QUANTILES, TARGET, TIME, quantile_column
from nightcast.contracts.errors import ConfigError

Direction = Literal["lower", "higher", "nearest"]

OWN_FLOOR: Final = 0.05
"""Smallest scale of `mase` and `rmsse`, as a share of the series' own mean level at the cutoff."""

ERROR: Final = pl.col(MEDIAN) - pl.col(TARGET)
"""Forecast less actual: positive where the forecast is too high."""


@dataclass(frozen=True)
class Metric:
    """A score and how to read it.

    Attributes
    ----------
    function
        Out-of-fold rows of one model (and `history` where `needs_history`) -> value.
    direction
        `lower` or `higher` is better, or `nearest` to `ideal`.
    unit
        `target` (the target's own unit) or `1` (a pure number).
    """

    name: str
    title: str
    function: Callable[..., float]
    direction: Direction
    unit: Literal["target", "1"]
    ideal: float | None = None
    needs_history: bool = False

    def better(self, value: float, other: float) -> bool:
        """Tell whether `value` is strictly better than `other`; an undefined value is better than nothing."""
        return not math.isnan(value) and (math.isnan(other) or self.badness(value) < self.badness(other))

    def badness(self, value: float) -> float:
        """Turn a value into one that is lower the better it is."""
        if self.direction == "nearest":
            return abs(value - (self.ideal or 0.0))
        return value if self.direction == "lower" else -value


def pinball_expr() -> pl.Expr:
    """Build the mean pinball loss of a row over the levels 0.1 .. 0.9, in the target's unit.

    Twice this value approximates the CRPS (Gneiting & Raftery 2007, eq. 24, on a grid of levels).
    """
    losses = []
    for level, name in zip(LEVELS, QUANTILES, strict=True):
        above = pl.col(TARGET) - pl.col(name)
        losses.append(pl.max_horizontal(level * above, (level - 1) * above))
    return pl.sum_horizontal(losses) / len(losses)


def covered_expr(low: float, high: float) -> pl.Expr:
    """Tell whether the actual of a row lies in the closed interval between two levels."""
    return pl.col(TARGET).is_between(pl.col(quantile_column(low)), pl.col(quantile_column(high)))


def mae(oof: pl.DataFrame) -> float:
    """Mean absolute error of the median, in the target's unit."""
    return _value(oof, ERROR.abs().mean())


def nmae(oof: pl.DataFrame) -> float:
    """Sum of absolute errors over the sum of absolute actuals (wMAPE): large series weigh more."""
    return _value(oof, ERROR.abs().sum() / pl.col(TARGET).abs().sum())


def bias(oof: pl.DataFrame) -> float:
    """Sum of errors over the sum of absolute actuals: 0.05 means the forecast is 5 % too high."""
    return _value(oof, ERROR.sum() / pl.col(TARGET).abs().sum())


def mase(oof: pl.DataFrame, *, history: pl.DataFrame, floor: float = 0.1) -> float:
    """Mean absolute scaled error (Hyndman & Koehler 2006), averaged per series, then over series.

    Parameters
    ----------
    history
        `unique_id, ds, y` on a regular grid; only rows at or before each row's cutoff scale it.
    floor
        Smallest scale, as a share of the panel's median scale: a flat series would divide by zero. No scale is below
        `OWN_FLOOR` of the series' own mean level either: a well in its first month has no steps to scale by.
    """
    scaled = _with_naive_scale(oof, history=history, power=1, floor=floor)
    return _value(scaled.group_by(ID).agg((ERROR.abs() / pl.col("_scale")).mean().alias("_e")), pl.col("_e").mean())


def rmsse(oof: pl.DataFrame, *, history: pl.DataFrame, floor: float = 0.1) -> float:
    """Root mean squared scaled error (Makridakis et al. 2022, M5), per series, then averaged; arguments as `mase`."""
    scaled = _with_naive_scale(oof, history=history, power=2, floor=floor)
    per_series = scaled.group_by(ID).agg((ERROR / pl.col("_scale")).pow(2).mean().sqrt().alias("_e"))
    return _value(per_series, pl.col("_e").mean())


def pinball(oof: pl.DataFrame) -> float:
    """Mean pinball loss over rows and the nine levels, in the target's unit."""
    return _value(oof, pinball_expr().mean())


def coverage(oof: pl.DataFrame, *, low: float = 0.1, high: float = 0.9) -> float:
    """Share of actuals inside the closed interval between two levels; ideal is `high - low`."""
    return _value(oof, covered_expr(low, high).mean())


def width(oof: pl.DataFrame, *, low: float = 0.1, high: float = 0.9) -> float:
    """Mean width of the interval between two levels, in the target's unit."""
    return _value(oof, (pl.col(quantile_column(high)) - pl.col(quantile_column(low))).mean())


def r2_pooled(oof: pl.DataFrame) -> float:
    """1 - SSE / SST around the grand mean; inflated by differences between series, never shown alone."""
    return _value(oof, _efficiency(pl.col(TARGET) - pl.col(TARGET).mean()))


def r2_within(oof: pl.DataFrame) -> float:
    """1 - SSE / SST around each series' own mean: what is explained beyond the level of a series."""
    return _value(oof, _efficiency(pl.col(TARGET) - pl.col(TARGET).mean().over(ID)))


def nse(oof: pl.DataFrame) -> pl.DataFrame:
    """Nash-Sutcliffe efficiency per series, `unique_id, nse`, over all its origins; null where actuals are constant."""
    return (
        _checked(oof)
        .group_by(ID)
        .agg(_efficiency(pl.col(TARGET) - pl.col(TARGET).mean()).alias("nse"))
        .with_columns(pl.when(pl.col("nse").is_finite()).then("nse"))
        .sort(ID)
    )


def nse_median(oof: pl.DataFrame) -> float:
    """Median over series of the Nash-Sutcliffe efficiency (its mean is unbounded below)."""
    return _value(nse(oof), pl.col("nse").median(), check=False)


def nse_share_positive(oof: pl.DataFrame) -> float:
    """Share of series forecast better than by their own mean in hindsight."""
    return _value(nse(oof), (pl.col("nse").drop_nulls() > 0).mean(), check=False)


def between_share(oof: pl.DataFrame) -> float:
    """Share of the actuals' variance that lies between series; a fact of the data, shown beside the pooled R2."""
    within = (pl.col(TARGET) - pl.col(TARGET).mean().over(ID)).pow(2).sum()
    total = (pl.col(TARGET) - pl.col(TARGET).mean()).pow(2).sum()
    return _value(oof, 1 - within / total)


METRICS: Final[Mapping[str, Metric]] = MappingProxyType(
    {
        metric.name: metric
        for metric in (
            Metric("mae", "mean absolute error", mae, "lower", "target"),
            Metric("nmae", "sum of absolute errors / sum of actuals", nmae, "lower", "1"),
            Metric("mase", "MAE / in-sample one-step naive", mase, "lower", "1", needs_history=True),
            Metric("rmsse", "RMSE / in-sample one-step naive", rmsse, "lower", "1", needs_history=True),
            Metric("bias", "forecast too high (+) or too low (-)", bias, "nearest", "1", ideal=0.0),
            Metric("r2_pooled", "R2 around the grand mean (inflated)", r2_pooled, "higher", "1"),
            Metric("r2_within", "R2 around each series' mean", r2_within, "higher", "1"),
            Metric("nse_median", "median NSE over series", nse_median, "higher", "1"),
            Metric("nse_share_positive", "share of series with NSE > 0", nse_share_positive, "higher", "1"),
            Metric("pinball", "mean pinball loss, levels 0.1 .. 0.9", pinball, "lower", "target"),
            Metric("coverage80", "share of actuals in q10 .. q90", coverage, "nearest", "1", ideal=0.8),
            Metric("width80", "mean width of q10 .. q90", width, "lower", "target"),
        )
    }
)
"""Every score by the name it has in tables."""


def check_columns(frame: pl.DataFrame, columns: tuple[str, ...], *, what: str) -> None:
    """Raise if a frame lacks columns.

    Raises
    ------
    ConfigError
        With the names that are missing.
    """
    missing = [name for name in columns if name not in frame.columns]
    if missing:
        raise ConfigError(
            f"{what} lack the columns {missing}",
            expected=f"{list(columns)}",
            remedy="join the known target (and the series' scale) to the forecasts first",
        )


def _checked(oof: pl.DataFrame) -> pl.DataFrame:
    check_columns(oof, (ID, *QUANTILES, TARGET), what="out-of-fold rows")
    unknown = oof.filter(~pl.col(TARGET).cast(pl.Float64).is_finite().fill_null(False))
    if unknown.height:
        raise ConfigError(
            f"{unknown.height} out-of-fold rows have no actual, first of series {unknown[ID][0]!r}",
            expected="rows whose outcome is known",
            remedy="drop rows with a null `y` before scoring",
        )
    return oof


def _value(frame: pl.DataFrame, expression: pl.Expr, *, check: bool | None = None) -> float:
    if check is None and TARGET in frame.columns:
        _checked(frame)
    value: Any = frame.select(expression.alias("_value")).item()
    return math.nan if value is None or not math.isfinite(value) else float(value)


def _efficiency(deviation: pl.Expr) -> pl.Expr:
    return 1 - ERROR.pow(2).sum() / deviation.pow(2).sum()


def _with_naive_scale(oof: pl.DataFrame, *, history: pl.DataFrame, power: int, floor: float) -> pl.DataFrame:
    """Add `_scale`, the error of the one-step naive on the history known at each row's cutoff."""
    check_columns(history, (ID, TIME, TARGET), what="history rows")
    step = (pl.col(TARGET) - pl.col(TARGET).shift(1)).over(ID, order_by=TIME).abs().pow(power)
    known = history.sort(ID, TIME).with_columns(step.alias("_step")).filter(pl.col(TARGET).is_not_null())
    running = known.select(
        ID,
        TIME,
        (pl.col("_step").fill_null(0).cum_sum() / pl.col("_step").cum_count()).over(ID).pow(1 / power).alias("_scale"),
        (pl.col(TARGET).abs().cum_sum() / pl.col(TARGET).cum_count()).over(ID).alias("_own"),
    ).with_columns(pl.col("_scale").fill_nan(None))
    scaled = known_at(oof, running, columns=("_scale", "_own"))
    typical = scaled.filter(pl.col("_scale") > 0).get_column("_scale").median()
    least = floor * typical if isinstance(typical, float) else math.nan
    return scaled.with_columns(
        pl.max_horizontal(pl.col("_scale").fill_null(least), pl.lit(least), OWN_FLOOR * pl.col("_own")).alias("_scale")
    ).drop("_own")


def known_at(rows: pl.DataFrame, facts: pl.DataFrame, *, columns: tuple[str, ...]) -> pl.DataFrame:
    """Join to each row the newest facts of its series at or before its cutoff; null where there are none.

    Parameters
    ----------
    rows
        Anything with `unique_id, cutoff`; its order is kept.
    facts
        `unique_id, ds` and `columns`, one row per series and time.
    """
    keys = rows.select(ID, pl.col(CUTOFF).cast(pl.Datetime("us"))).unique().sort(CUTOFF, ID)
    newest = keys.join_asof(
        facts.select(ID, pl.col(TIME).cast(pl.Datetime("us")), *columns).sort(TIME, ID),
        left_on=CUTOFF,
        right_on=TIME,
        by=ID,
        strategy="backward",
        check_sortedness=False,  # sorted in the line above; polars cannot verify it within groups
    ).select(ID, CUTOFF, *columns)
    return rows.drop(columns, strict=False).join(
        newest.with_columns(pl.col(CUTOFF).cast(rows.schema[CUTOFF])),
        on=[ID, CUTOFF],
        how="left",
        maintain_order="left",
    )
