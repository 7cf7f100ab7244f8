"""Injection support: which injectors a producer feels, how much of them, and how late.

Weights and delays follow the prior of a capacitance-resistance model (Holanda et al. 2018, Energies 11:3368): near
injectors count more, f ~ exp(-(d / L)^1.5), and pressure diffuses with a time constant that grows with the square of
the distance, theta = 20 d (d / 400 m)^2. Delays come from that smoothing, not from cross-correlation, which field-wide
changes of injection mislead.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import polars as pl

from nightcast.contracts.columns import ID, ROLE_SUPPORT, SERIES_ROLE, TARGET, TIME
from nightcast.contracts.schema import PanelSchema
from nightcast.contracts.source import Note
from nightcast.features.windows import (
    Flags,
    Floats,
    Ints,
    as_column,
    divided,
    exponential,
    lagged,
    number,
    position_of,
    sizes,
    values_of,
)

INJECTION: Final = "wwir"
X: Final = "x_m"
Y: Final = "y_m"
SUPPORT: Final = "inj_wwir_lag_weighted"
"""What reaches a producer, by the best that a recipe has: the fit's where `crm_support` is on, else the map's."""
BY_DISTANCE: Final = "inj_distance_weighted"
"""The map's, where `crm_support` makes `inj_wwir_lag_weighted`."""
_LENGTH_M: Final = 450.0
_THETA_DAYS, _THETA_AT_M, _THETA_RANGE = 20.0, 400.0, (3.0, 180.0)
_DAYS: Final = {"YS": 365.25, "QS": 91.3125, "MS": 30.4375, "W-MON": 7.0, "D": 1.0, "h": 1 / 24, "min": 1 / 1440}


def injection(
    frame: pl.DataFrame,
    schema: PanelSchema,
    *,
    length_m: float | None = None,
    changes: Sequence[int] = (1, 3, 6),
    silent_after: int = 3,
) -> pl.DataFrame:
    """Weighted, delayed injection that each producer feels, in the unit of `wwir`.

    `inj_wwir_lag_weighted` = sum_i f_ij EWMA_ij(I_i) over the support series, f normalised to 1 over the injectors
    heard from in the last `silent_after` steps; `inj_change_<k>` its change over k steps; `inj_to_rate` its ratio to
    the target (a local voidage replacement). Rows of support series hold nothing. In a recipe with `crm_support` the
    first is called `inj_distance_weighted`.

    Parameters
    ----------
    length_m
        Reach L of an injector, m. None: the median distance from a producer to its nearest injector, among the wells
        there were at that time; 450 m without positions.
    silent_after
        Steps without a reported rate after which an injector is left out until it reports again; until then its
        smoothed rate stands.
    """
    length_m = None if length_m is None else number(length_m, "injection.length_m", least=1)
    (silent_after,) = sizes([silent_after], "injection.silent_after")
    spans = sizes(changes, "injection.changes")
    y, position = values_of(frame, TARGET), position_of(frame)
    support = _support(frame, schema, length_m, silent_after)
    columns = {SUPPORT: support}
    columns |= {f"inj_change_{k}": support - lagged(support, position, k) for k in spans}
    columns["inj_to_rate"] = divided(support, y)
    return frame.with_columns(as_column(name, values) for name, values in columns.items())


def remarks(frame: pl.DataFrame, schema: PanelSchema) -> tuple[Note, ...]:
    """What a reader should know of the support computed from this frame."""
    injectors = is_injector(frame)
    if not injectors.any():
        detail = f"No support series reports {INJECTION}: the injection columns are empty."
        return (Note("injection_without_injectors", 0, detail),)
    if not {X, Y} <= set(frame.columns):
        return (Note("injection_equal_weights", 0, f"No {X}, {Y}: all injectors have equal weights."),)
    placed = frame.select(ID, (pl.col(X).is_not_null() & pl.col(Y).is_not_null()).alias("placed"))
    homeless = placed.group_by(ID).agg(pl.col("placed").any()).filter(~pl.col("placed")).height
    if homeless:
        detail = f"{homeless} series have no position: their pairs count as one reach apart."
        return (Note("injection_equal_weights", homeless, detail),)
    return ()


def is_injector(frame: pl.DataFrame) -> Flags:
    """Rows of support series that report injection somewhere; shape [rows]."""
    if SERIES_ROLE not in frame.columns:
        return np.zeros(frame.height, dtype=np.bool_)
    chosen = (pl.col(SERIES_ROLE) == ROLE_SUPPORT) & pl.col(INJECTION).is_not_null()
    series = frame.filter(chosen).get_column(ID).unique()
    return (
        frame.select((pl.col(SERIES_ROLE) == ROLE_SUPPORT) & pl.col(ID).is_in(series.implode()))
        .to_series()
        .fill_null(False)
        .to_numpy()
        .astype(np.bool_)
    )


def is_producer(frame: pl.DataFrame) -> Flags:
    """Rows of series that are forecast; shape [rows]."""
    if SERIES_ROLE not in frame.columns:
        return np.ones(frame.height, dtype=np.bool_)
    return (frame.get_column(SERIES_ROLE) != ROLE_SUPPORT).fill_null(True).to_numpy().astype(np.bool_)


def _support(frame: pl.DataFrame, schema: PanelSchema, length_m: float | None, silent_after: int) -> Floats:
    out = np.full(frame.height, np.nan)
    injecting, producing = is_injector(frame), is_producer(frame)
    if not injecting.any() or not producing.any():
        return out

    times = frame.get_column(TIME)
    origin = times.min()
    step = (
        frame.select(pl.lit(origin).cast(pl.Datetime("us")).alias("_origin"), TIME)
        .select(schema.freq.steps_between_expr("_origin", TIME))
        .to_series()
        .to_numpy()
        .astype(np.int64)
    )
    series = frame.select(pl.col(ID).rle_id()).to_series().to_numpy().astype(np.int64)
    injectors, injector_of = _numbered(series, injecting)
    producers, producer_of = _numbered(series, producing)

    rate = np.full((int(step.max()) + 1, len(injectors)), np.nan)  # [T, I]
    rate[step[injecting], injector_of] = values_of(frame, INJECTION)[injecting]
    distance = _distances(frame, series, producers, injectors)  # [J, I], NaN where a position is missing
    first_row = np.array([step[series == number_][0] for number_ in producers])  # [J]
    days = _DAYS[schema.freq.unit] * schema.freq.count

    theta = np.clip(_THETA_DAYS * (_or(distance, _LENGTH_M) / _THETA_AT_M) ** 2, *_THETA_RANGE)
    gain = 1 - exponential(-days / theta)  # [J, I]
    smooth = np.full(distance.shape, np.nan)
    heard = np.full(len(injectors), -1)
    kernel, known = np.zeros(distance.shape), (-1, -1)
    felt = np.full((len(rate), len(producers)), np.nan)  # [T, J]
    started = np.zeros(len(injectors), dtype=np.bool_)
    for t, now in enumerate(rate):
        reported = ~np.isnan(now)
        started |= reported
        there = first_row <= t
        if known != (count := (int(started.sum()), int(there.sum()))):
            # The default reach is of the wells there are: a well drilled later must not change the past.
            reach = _reach(distance[there][:, started]) if length_m is None else length_m
            relative = _or(distance, reach) / reach
            kernel, known = exponential(-relative * np.sqrt(relative)), count
        moved = np.where(np.isnan(smooth), now, smooth + gain * (now - smooth))
        smooth = np.where(reported, moved, smooth)
        heard = np.where(reported, t, heard)
        audible = (heard >= 0) & (t - heard < silent_after)
        above, below = np.zeros(len(producers)), np.zeros(len(producers))
        for i in np.flatnonzero(audible):  # one after the other: the same bits whatever injectors come later
            above += kernel[:, i] * smooth[:, i]
            below += kernel[:, i]
        felt[t] = divided(above, below)
    out[producing] = felt[step[producing], producer_of]
    return out


def _numbered(series: Ints, chosen: Flags) -> tuple[Ints, Ints]:
    """Series numbers among the chosen rows, sorted, and for each chosen row the place of its series in them."""
    numbers, places = np.unique(series[chosen], return_inverse=True)
    return numbers, places.astype(np.int64)


def _distances(frame: pl.DataFrame, series: Ints, producers: Ints, injectors: Ints) -> Floats:
    if not {X, Y} <= set(frame.columns):
        return np.full((len(producers), len(injectors)), np.nan)
    place = np.full((2, int(series.max()) + 1), np.nan)
    for axis, name in enumerate((X, Y)):
        values = values_of(frame, name)
        known = np.flatnonzero(~np.isnan(values))[::-1]  # backwards, so that the first known value stays
        place[axis, series[known]] = values[known]
    apart = place[:, producers][:, :, None] - place[:, injectors][:, None, :]  # [2, J, I]
    distance: Floats = np.sqrt(apart[0] ** 2 + apart[1] ** 2)
    return distance


def _reach(distance: Floats) -> float:
    nearest = np.fmin.reduce(distance, axis=1) if distance.size else np.zeros(0)
    nearest = nearest[~np.isnan(nearest)]
    # Wells on one pad can share a head position; a reach of nothing would give no weight to anyone.
    return max(float(np.median(nearest)), 1.0) if len(nearest) else _LENGTH_M


def _or(values: Floats, default: float) -> Floats:
    return np.where(np.isnan(values), default, values)
