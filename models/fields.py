"""A view of a panel as a waterflood: wells by month, in the order a fitted field keeps."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from itertools import pairwise

import numpy as np
import polars as pl

from models.grid import FloatArray
from nightcast.contracts.columns import CUTOFF, HORIZON, ID, TARGET, TIME, UPTIME
from nightcast.contracts.errors import ConfigError
from nightcast.contracts.frequency import Frequency
from nightcast.contracts.panel import PanelView
from nightcast.physics.waterflood import Waterflood

PRESSURE, INJECTION, X, Y = "wbhp", "wwir", "x_m", "y_m"


def injectors_of(view: PanelView) -> tuple[str, ...]:
    """Support series that report injection, sorted."""
    if INJECTION not in view.support.columns:
        return ()
    known = view.support.filter(pl.col(INJECTION).is_not_null())
    return tuple(known.get_column(ID).unique().sort().to_list())


def waterflood_of(view: PanelView, producers: Sequence[str], injectors: Sequence[str]) -> Waterflood:
    """What is known at a view's cutoff, wells in the order given; a well the view lacks is unknown throughout.

    Raises
    ------
    ConfigError
        If the view has no history.
    """
    first = view.history.get_column(TIME).min()
    if not isinstance(first, datetime):
        raise ConfigError("the view has no rows", expected="a history", remedy="choose a later cutoff")
    freq = view.schema.freq
    earliest = view.support.get_column(TIME).min()
    if isinstance(earliest, datetime):
        first = min(first, earliest)
    months = freq.steps_between(first, view.cutoff) + 1
    rows = _Rows(view.history, producers, first, months, freq)
    other = _Rows(view.support, injectors, first, months, freq)
    uptime = np.clip(rows.values(UPTIME), 0.0, 1.0)
    rate = rows.values(TARGET)
    injection = other.values(INJECTION)
    return Waterflood(
        days=days_of(view, first, months),
        rate=np.where(rate < 0, np.nan, rate),
        uptime=uptime,
        pressure=np.where(rows.values(PRESSURE) > 0, rows.values(PRESSURE), np.nan),
        injection=np.where(injection < 0, np.nan, injection),
        producers=rows.places(),
        injectors=other.places(),
    )


def plans_of(view: PanelView, producers: Sequence[str], injectors: Sequence[str]) -> dict[str, FloatArray]:
    """What is planned for the horizon, of what has a plan role: `uptime`, `pressure` `[H, J]`, `injection` `[H, I]`."""
    out: dict[str, FloatArray] = {}
    for name, column, frame, wells in (
        ("uptime", UPTIME, view.future, producers),
        ("pressure", PRESSURE, view.future, producers),
        ("injection", INJECTION, view.support_future, injectors),
    ):
        if column not in frame.columns:
            continue
        values = np.full((view.schema.horizon, len(wells)), np.nan)
        where = {well: at for at, well in enumerate(wells)}
        for well, step, value in frame.select(ID, HORIZON, column).iter_rows():
            if well in where and value is not None:
                values[step - 1, where[well]] = value
        out[name] = values
    if "uptime" in out:
        out["uptime"] = np.clip(out["uptime"], 0.0, 1.0)
    if "injection" in out:
        out["injection"] = np.maximum(out["injection"], 0.0)
    return out


def days_of(view: PanelView, first: datetime, steps: int) -> FloatArray:
    """`[steps]` days in each step from `first` on."""
    freq = view.schema.freq
    edges = [freq.shift(first, step) for step in range(steps + 1)]
    return np.array([(b - a).total_seconds() / 86_400 for a, b in pairwise(edges)])


class _Rows:
    """Rows of some wells laid out by month."""

    def __init__(
        self, frame: pl.DataFrame, wells: Sequence[str], first: datetime, months: int, freq: Frequency
    ) -> None:
        self.shape = (months, len(wells))
        where = pl.DataFrame({ID: list(wells), "_well": np.arange(len(wells))}, schema_overrides={ID: pl.String})
        self.frame = (
            frame.join(where, on=ID, how="inner")
            .with_columns(pl.lit(first).cast(pl.Datetime("us")).alias(CUTOFF))
            .with_columns(freq.steps_between_expr(CUTOFF, TIME).alias("_month"))
        )

    def values(self, column: str) -> FloatArray:
        out = np.full(self.shape, np.nan)
        if column in self.frame.columns and self.frame.height:
            found = self.frame.get_column(column).cast(pl.Float64).fill_null(float("nan")).to_numpy()
            out[self.frame.get_column("_month").to_numpy(), self.frame.get_column("_well").to_numpy()] = found
        return np.where(np.isfinite(out), out, np.nan)

    def places(self) -> FloatArray:
        out = np.full((self.shape[1], 2), np.nan)
        for axis, column in enumerate((X, Y)):
            values = self.values(column)
            known = ~np.isnan(values)
            last = np.where(known.any(axis=0), values.shape[0] - 1 - known[::-1].argmax(axis=0), -1)
            at = last >= 0
            out[at, axis] = values[last[at], np.flatnonzero(at)]
        return out
