"""Injection support by a capacitance-resistance fit: the water that reaches a producer, as its own history says.

Where `injection` knows the map alone, this block learns who supports whom (`nightcast.physics`): connectivities shrunk
to the distance prior, no injector giving more than it injects. A calendar year is served by a fit on rows before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from itertools import pairwise
from typing import Final

import numpy as np
import polars as pl

from nightcast.contracts.columns import ID, TARGET, TIME, UPTIME
from nightcast.contracts.schema import PanelSchema
from nightcast.contracts.source import Note
from nightcast.features.history import PRESSURE
from nightcast.features.injection import INJECTION, SUPPORT, X, Y, is_injector, is_producer
from nightcast.features.windows import (
    Flags,
    Floats,
    Ints,
    as_column,
    count_and_mean,
    divided,
    position_of,
    sizes,
    values_of,
)
from nightcast.physics import Crm, CrmParams, Waterflood, fit_crm
from nightcast.physics.balance import Slots
from nightcast.physics.tank import arriving
from nightcast.physics.waterflood import carried

QUICK: Final = CrmParams(
    taus=(20.0, 50.0, 120.0),
    drifts=(0.05, 0.2),
    memories=(10.0,),
    noises=(0.04, 0.1),
    delays=(20.0,),
    rounds=1,
    # Enough for a standard deviation good to a tenth.
    draws=60,
)
"""A fit coarse enough to be made once a year of the history."""
_INTERVAL_WIDTH: Final = 3.29
"""Standard deviations between the ends of the fit's 90 % intervals."""


def crm_support(
    frame: pl.DataFrame,
    schema: PanelSchema,
    *,
    refit_every_years: int = 1,
    least_history: int = 24,
    window: int = 120,
    most_wells: int = 400,
    changes: Sequence[int] = (1, 3, 6),
) -> pl.DataFrame:
    """Injected water that reaches each producer by a fit of the field on rows before the row's calendar year.

    `inj_wwir_lag_weighted` = sum_i f_ij EWMA_ij(I_i), in the unit of `wwir`, and about it: `crm_support_share` its
    ratio to the mean of the last 12 known values of the target; `crm_support_change_<k>` its relative change over k
    steps, both ends by one fit; `crm_support_to_come` by how much it will rise, relatively, once all of what is
    injected now has arrived; `crm_support_sd` its posterior standard deviation, relatively (intervals of the pairs by
    resampled blocks of months, pairs taken as independent); `crm_vrr` its ratio to the target, a local voidage
    replacement; `crm_vrr_cumulative` the same of the volumes since the fit's first step; `crm_largest_share` share
    of it that is lost if its largest injector stops; `crm_lag_days` mean delay of the water in it. All are missing for
    wells that the fit did not know, for support series, and in years before there is a fit.

    Parameters
    ----------
    refit_every_years
        Calendar years that one fit serves, counted from the first year of the data.
    least_history
        Steps from the first row to the fit, and steps with a positive rate that some producer has in them.
    window
        Latest steps that a fit is made on.
    most_wells
        Producers up to which the field is fitted: the time goes up with them.
    """
    (every,) = sizes([refit_every_years], "crm_support.refit_every_years")
    (least_history,) = sizes([least_history], "crm_support.least_history", least=2)
    (window,) = sizes([window], "crm_support.window", least=2)
    (most_wells,) = sizes([most_wells], "crm_support.most_wells")
    spans = sizes(changes, "crm_support.changes")
    y, position = values_of(frame, TARGET), position_of(frame)
    change = [f"crm_support_change_{k}" for k in spans]
    names = (SUPPORT, *change, "crm_support_to_come", "crm_support_sd")
    names += ("crm_vrr_cumulative", "crm_largest_share", "crm_lag_days")
    columns = {name: np.full(frame.height, np.nan) for name in names}
    producing, injecting = is_producer(frame), is_injector(frame)
    if producing.any() and injecting.any():
        panel = _Panel(frame, schema, producing, injecting)
        for first in range(panel.first_year, panel.last_year + 1, every):
            found = panel.fitted(first, least_history, window, most_wells)
            if found is not None:
                rows, told = found.served(panel, first + every, spans)
                for name, values in told.items():
                    columns[name][rows] = values
    columns["crm_support_share"] = divided(columns[SUPPORT], count_and_mean(np.abs(y), position, 12)[1])
    columns["crm_vrr"] = divided(columns[SUPPORT], y)
    return frame.with_columns(as_column(name, values) for name, values in columns.items())


def remarks(frame: pl.DataFrame, schema: PanelSchema) -> tuple[Note, ...]:
    """What a reader should know of the support computed from this frame."""
    if is_injector(frame).any():
        return ()
    detail = f"No support series reports {INJECTION}: the columns of crm_support are empty."
    return (Note("crm_support_without_injectors", 0, detail),)


def _fit(flood: Waterflood) -> Crm:
    """One thread: matrices are small, threads would wait for one another, and their number must not change a value."""
    from threadpoolctl import threadpool_limits

    # A draw far off the fit may overflow; it makes the spread unknown, not the fit wrong.
    with threadpool_limits(1), np.errstate(over="ignore", invalid="ignore"):
        return fit_crm(flood, QUICK)


class _Panel:
    """The frame's rows by well and step."""

    def __init__(self, frame: pl.DataFrame, schema: PanelSchema, producing: Flags, injecting: Flags) -> None:
        self.producing, self.injecting, self.freq = producing, injecting, schema.freq
        origin = frame.get_column(TIME).min()
        assert isinstance(origin, datetime)
        self.origin = origin
        self.year = frame.get_column(TIME).dt.year().to_numpy().astype(np.int64)
        self.step: Ints = (
            frame.select(pl.lit(origin).cast(pl.Datetime("us")).alias("_origin"), TIME)
            .select(schema.freq.steps_between_expr("_origin", TIME))
            .to_series()
            .to_numpy()
            .astype(np.int64)
        )
        self.well: Ints = frame.select(pl.col(ID).rle_id()).to_series().to_numpy().astype(np.int64)
        self.first_year, self.last_year = int(self.year.min()), int(self.year.max())
        nothing = np.full(frame.height, np.nan)
        rate, uptime, pressure, injection = (
            values_of(frame, name) if name in frame.columns else nothing
            for name in (TARGET, UPTIME, PRESSURE, INJECTION)
        )
        self.rate = np.where(rate < 0, np.nan, rate)
        self.uptime = np.clip(uptime, 0.0, 1.0)
        self.pressure = np.where(pressure > 0, pressure, np.nan)
        self.injection = np.where(injection < 0, np.nan, injection)
        self.x, self.y = (values_of(frame, name) if name in frame.columns else nothing for name in (X, Y))

    def fitted(self, year: int, least_history: int, window: int, most_wells: int) -> _Fitted | None:
        """The field as rows before a year tell it; None if they are too few."""
        past = self.year < year
        known = past & self.producing & ~np.isnan(self.rate)
        producers = np.unique(self.well[known])
        injectors = np.unique(self.well[past & self.injecting & ~np.isnan(self.injection)])
        if not len(producers) or not len(injectors) or len(producers) > most_wells:
            return None
        end = self._steps_before(year)
        start = max(0, end - window)
        usable = self.well[known & (self.rate > 0) & (self.step >= start)]
        if end < least_history or np.bincount(usable, minlength=1).max() < min(least_history, window):
            return None
        flood = self._flood(past, start, end, producers, injectors)
        return _Fitted(_fit(flood), flood, start, end, producers, injectors)

    def _steps_before(self, year: int) -> int:
        """Steps of the grid, from its origin, whose label lies before a year."""
        low, high = 0, 1
        while self.freq.shift(self.origin, high).year < year:
            low, high = high, 2 * high
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self.freq.shift(self.origin, middle).year < year else (low, middle)
        return high

    def _flood(self, chosen: Flags, start: int, end: int, producers: Ints, injectors: Ints) -> Waterflood:
        inside = chosen & (self.step >= start) & (self.step < end)
        labels = [self.freq.shift(self.origin, step) for step in range(start, end + 1)]
        laid = {name: self._laid(name, inside, start, end, producers) for name in ("rate", "uptime", "pressure")}
        return Waterflood(
            days=np.array([(b - a).total_seconds() / 86_400 for a, b in pairwise(labels)]),
            injection=self._laid("injection", inside, start, end, injectors),
            producers=self._places(chosen, producers),
            injectors=self._places(chosen, injectors),
            **laid,
        )

    def _laid(self, name: str, rows: Flags, start: int, end: int, wells: Ints) -> Floats:
        """`[steps, wells]` of one quantity."""
        rows = rows & np.isin(self.well, wells)
        out = np.full((end - start, len(wells)), np.nan)
        values: Floats = getattr(self, name)
        out[self.step[rows] - start, np.searchsorted(wells, self.well[rows])] = values[rows]
        return out

    def _places(self, rows: Flags, wells: Ints) -> Floats:
        """`[wells, 2]` metres: a well's first known ones."""
        out = np.full((len(wells), 2), np.nan)
        for axis, values in enumerate((self.x, self.y)):
            known = np.flatnonzero(rows & ~np.isnan(values) & np.isin(self.well, wells))[::-1]
            out[np.searchsorted(wells, self.well[known]), axis] = values[known]  # backwards, so that the first stays
        return out


class _Fitted:
    """A fitted field, and the wells and steps it was fitted to."""

    def __init__(self, crm: Crm, flood: Waterflood, start: int, end: int, producers: Ints, injectors: Ints) -> None:
        self.crm, self.flood, self.start, self.end = crm, flood, start, end
        self.producers, self.injectors = producers, injectors

    def served(self, panel: _Panel, until: int, spans: Sequence[int]) -> tuple[Ints, dict[str, Floats]]:
        """Rows from the fit to the year `until`, and column -> their values."""
        # To the end of the last year, filled up with unknown months: the same shapes, whatever rows are there by now.
        last = panel._steps_before(until)
        chosen = np.ones(len(panel.step), dtype=np.bool_)
        longer = panel._flood(chosen, self.start, last, self.producers, self.injectors)
        rows = np.flatnonzero(
            panel.producing & (panel.step >= self.end) & (panel.step < last) & np.isin(panel.well, self.producers)
        )
        well, step = np.searchsorted(self.producers, panel.well[rows]), panel.step[rows] - self.start

        slots = Slots.of(np.isfinite(self.crm.theta))
        delay = np.where(slots.used, slots.of_pairs(np.nan_to_num(self.crm.theta)), 1.0)  # [J, K] days
        injection = carried(longer.injection, 0.0)
        water = arriving(injection, longer.days, delay, slots.near)  # [T, J, K], before any sharing
        parts = water * slots.of_pairs(self.crm.connectivity)
        support = parts.sum(axis=2)  # [T, J]
        spread = slots.of_pairs(self.crm.high - self.crm.low) / _INTERVAL_WIDTH
        told = {
            "crm_support_to_come": divided(injection @ self.crm.connectivity, support) - 1.0,
            "crm_support_sd": divided(np.sqrt(((water * spread) ** 2).sum(axis=2)), support),
            "crm_largest_share": divided(parts.max(axis=2, initial=0.0), support),
            "crm_lag_days": divided((parts * delay).sum(axis=2), support),
        }
        days = np.where(np.isnan(longer.rate), 0.0, longer.days[:, None])
        put = np.cumsum(support * days, axis=0)
        told["crm_vrr_cumulative"] = divided(put, np.cumsum(np.nan_to_num(longer.rate) * days, axis=0))
        out = {name: values[step, well] for name, values in told.items()}
        out[SUPPORT] = support[step, well]
        for k in spans:
            before = np.where(step >= k, support[np.maximum(step - k, 0), well], np.nan)
            out[f"crm_support_change_{k}"] = divided(out[SUPPORT], before) - 1.0
        return rows, out
