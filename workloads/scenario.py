"""What if: another injection, uptime or pressure over the months ahead, answered through the physical block.

A free network learnt that operators inject more where rates fall, and would answer backwards; the capacitance-
resistance model can only answer in the direction of the physics. Only the change is the block's: it is laid on the
published forecast where there is one. The base case carries everything on as it is, or as planned.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import polars as pl

from models.fields import days_of, injectors_of, plans_of, waterflood_of
from nightcast.contracts.columns import HORIZON, ID, MEDIAN, TARGET, TIME
from nightcast.contracts.errors import ConfigError
from nightcast.contracts.panel import PanelView
from nightcast.evaluation.voidage import voidage_replacement
from nightcast.physics.crm import Crm, fit_crm
from nightcast.physics.effects import Effects
from nightcast.physics.params import CrmParams
from nightcast.physics.waterflood import Floats, Waterflood, carried
from workloads.scenario_settings import COLUMNS, EXAMPLE, Change, Outside, case_of, parse_change

__all__ = [
    "COLUMNS",
    "EXAMPLE",
    "FIELD",
    "Answer",
    "Block",
    "Change",
    "Published",
    "answer",
    "fitted",
    "parse_change",
    "play",
]

FIELD: Final = "field"
PUBLISHED: Final = "published"
PHYSICAL: Final = "physical"
ANSWER: Final = (ID, TIME, HORIZON, "base", "case", "change", "change_low", "change_high", "extrapolated", "beyond")


@dataclass(frozen=True)
class Published:
    """A published forecast of the same cutoff, whose medians are the base.

    Attributes
    ----------
    rows
        `unique_id, ds, q50` of the wells.
    field
        `ds, q50` of all wells together, from the roll-up; None: the sum of the wells' medians.
    """

    rows: pl.DataFrame
    field: pl.DataFrame | None = None


@dataclass(frozen=True)
class Block:
    """The physical block, fitted at a view's cutoff."""

    view: PanelView
    producers: tuple[str, ...]
    injectors: tuple[str, ...]
    field: Waterflood
    crm: Crm
    effects: Effects


@dataclass(frozen=True)
class Answer:
    """What a scenario changes.

    Attributes
    ----------
    rows
        `unique_id, ds, horizon, base, case, change, change_low, change_high, extrapolated, beyond` in the target's
        unit, one row per well and step, and all wells together as `unique_id = "field"`. The interval is of 90 %; it is
        that of the change, not of the rate. `extrapolated`: a setting that reaches the well, now or before, lies
        outside what was seen, by `beyond` times the range seen (0 where not).
    voidage
        `ds, injected_base, injected_case, produced_base, produced_case, vrr_base, vrr_case` of the field, volumes of
        the month at reservoir conditions; no row without injectors, or where steps are no months.
    flags
        One sentence per value outside what its well has seen, and whatever else limits the answer.
    changed
        Wells whose settings changed.
    base
        `published` or `physical`: whose forecast the base is.
    """

    rows: pl.DataFrame
    voidage: pl.DataFrame
    flags: tuple[str, ...]
    changed: tuple[str, ...]
    base: str


def fitted(view: PanelView, *, draws: int = 100, seed: int = 0) -> Block:
    """Fit the physical block at a view's cutoff.

    Parameters
    ----------
    draws
        Draws of the fit behind the changes and their intervals.
    """
    producers = tuple(view.history.drop_nulls(TARGET).get_column(ID).unique().sort().to_list())
    injectors = injectors_of(view)
    field = waterflood_of(view, producers, injectors)
    crm = fit_crm(field, CrmParams(), seed=seed)
    return Block(view, producers, injectors, field, crm, Effects(crm, field, draws=draws, seed=seed))


def play(
    view: PanelView,
    changes: Sequence[Change],
    *,
    draws: int = 100,
    seed: int = 0,
    published: Published | None = None,
    factors: Mapping[str, float | None] | None = None,
) -> Answer:
    """Fit the field at a view's cutoff and answer a scenario; `answer` for a block that is fitted already.

    Raises
    ------
    ConfigError
        If a change names no well or no month ahead, two set the same, or the panel has no well with a known rate.
    """
    return answer(fitted(view, draws=draws, seed=seed), changes, published=published, factors=factors)


def answer(
    block: Block,
    changes: Sequence[Change],
    *,
    published: Published | None = None,
    factors: Mapping[str, float | None] | None = None,
) -> Answer:
    """Answer a scenario: base, and base plus the change that the physical block tells, never below 0.

    Parameters
    ----------
    published
        The base; None: the block's own forecast.
    factors
        Formation volume factors of `voidage_replacement`; None: one each.

    Raises
    ------
    ConfigError
        As `play`.
    """
    view, field, wells = block.view, block.field, block.producers
    times = view.future.select(TIME, HORIZON).unique().sort(TIME)
    days = days_of(view, view.schema.freq.shift(view.cutoff, 1), view.schema.horizon)
    plans = _as_it_is(field, plans_of(view, wells, block.injectors), len(days))
    seen = {"uptime": field.uptime, "pressure": field.pressure, "injection": field.injection}
    names = {"uptime": wells, "pressure": wells, "injection": block.injectors}
    case = case_of(plans, seen, changes, names, times.get_column(TIME).to_list())
    flags = list(case.flags)

    told = block.crm.forecast(field, days=days, **plans)
    mean, spread = block.effects.of(days, plans, case.plans)
    base = _laid(published, told, wells, times)
    asked = set(view.series)
    kept = [at for at, name in enumerate(wells) if name in asked and np.isfinite(base[:, at]).all()]
    if not kept:
        raise ConfigError(
            "no well can be answered for", expected="a well with a known past", remedy="choose a later --as-of"
        )
    mute = [wells[at] for at in kept if not np.isfinite(mean[:, at]).all()]
    if mute:
        flags.append(f"{', '.join(mute)}: too little time on stream for the physical block; left as in the base")
    base, mean, spread = base[:, kept], np.nan_to_num(mean[:, kept]), np.nan_to_num(spread[:, :, kept])
    up, was = case.plans["uptime"][:, kept], plans["uptime"][:, kept]
    shut = (up <= 0) & (was > 0)
    after = np.where(shut, 0.0, np.maximum(base + mean, 0.0))
    moved = np.where(shut, 0.0, np.maximum(base + spread, 0.0)) - base
    # A well that is not reached has no change at all, and rounding in a sum must not give it one.
    still = (mean == 0) & ~shut
    after, moved = np.where(still, base, after), np.where(still, 0.0, moved)
    beyond = _beyond(block, case.outside, mean, kept)

    parts = [
        _rows(times, wells[at], base[:, n], after[:, n], moved[:, :, n], beyond[:, n]) for n, at in enumerate(kept)
    ]
    total = base.sum(axis=1)
    level = _field_level(published, times)
    change = (after - base).sum(axis=1)
    whole = total if level is None else level
    parts.append(_rows(times, FIELD, whole, whole + change, moved.sum(axis=2), beyond.max(axis=1)))
    rates = {"base": base, "case": after}
    water = {"base": plans["injection"], "case": case.plans["injection"]}
    voidage = _voidage(block, [wells[at] for at in kept], times, rates, water, factors or {})
    return Answer(
        pl.concat(parts).select(ANSWER),
        voidage,
        tuple(flags),
        case.changed,
        PHYSICAL if published is None else PUBLISHED,
    )


def _rows(times: pl.DataFrame, name: str, base: Floats, case: Floats, moved: Floats, beyond: Floats) -> pl.DataFrame:
    change = case - base
    return times.with_columns(
        pl.lit(name).alias(ID),
        pl.Series("base", base),
        pl.Series("case", case),
        pl.Series("change", change),
        pl.Series("change_low", np.minimum(np.quantile(moved, 0.05, axis=0), change)),
        pl.Series("change_high", np.maximum(np.quantile(moved, 0.95, axis=0), change)),
        pl.Series("extrapolated", beyond > 0),
        pl.Series("beyond", beyond),
    )


def _as_it_is(field: Waterflood, plans: Mapping[str, Floats], horizon: int) -> dict[str, Floats]:
    """Plans of the base case, filled: what is not planned stays as it was last, uptime as over the last year."""
    lately = field.uptime[-12:]
    known = (~np.isnan(lately)).sum(axis=0, keepdims=True)
    usual = np.nansum(lately, axis=0, keepdims=True) / np.maximum(known, 1)
    last = {
        "uptime": np.where(known > 0, usual, 1.0),
        "pressure": carried(field.pressure)[-1:],
        "injection": carried(field.injection, 0.0)[-1:],
    }
    out = {}
    for name, value in last.items():
        plan = plans.get(name, np.full((horizon, value.shape[1]), np.nan))
        out[name] = np.where(np.isnan(plan), value, plan)
    return out


def _laid(published: Published | None, told: Floats, wells: Sequence[str], times: pl.DataFrame) -> Floats:
    """`(H, J)` base: the published medians, or what the block tells; NaN for a well without."""
    if published is None:
        return told
    where = {name: at for at, name in enumerate(wells)}
    step = {time: at for at, time in enumerate(times.get_column(TIME))}
    out = np.full_like(told, np.nan)
    for well, time, value in published.rows.select(ID, TIME, MEDIAN).iter_rows():
        if well in where and time in step and value is not None:
            out[step[time], where[well]] = value
    return out


def _field_level(published: Published | None, times: pl.DataFrame) -> Floats | None:
    if published is None or published.field is None:
        return None
    level = times.join(published.field.select(TIME, MEDIAN), on=TIME, how="left", maintain_order="left")[MEDIAN]
    return None if level.null_count() else level.to_numpy()


def _beyond(block: Block, outside: Sequence[Outside], mean: Floats, kept: Sequence[int]) -> Floats:
    """`(H, kept)` how far the settings that reach a well, in this step or before, lie outside what was seen."""
    out = np.zeros((len(mean), len(block.producers)))
    for its in outside:
        since = np.maximum.accumulate(its.steps)
        reached = np.zeros(len(block.producers), dtype=bool)
        if its.column == "wwir":
            reached = block.crm.connectivity[block.injectors.index(its.well)] > 0
        else:
            reached[block.producers.index(its.well)] = True
        out = np.maximum(out, np.where(since[:, None] & reached, its.times, 0.0))
    return np.where(mean != 0, out[:, kept], 0.0)


def _voidage(
    block: Block,
    wells: Sequence[str],
    times: pl.DataFrame,
    rates: Mapping[str, Floats],
    water: Mapping[str, Floats],
    factors: Mapping[str, float | None],
) -> pl.DataFrame:
    """The field's voidage replacement in base and case."""
    labels = times.get_column(TIME)
    out = times.select(TIME)
    if not block.injectors or (labels != labels.dt.truncate("1mo")).any():
        return out.clear()
    oil = _oil_share(block.view, wells) if factors.get("oil_fvf") is not None else None
    for name in ("base", "case"):
        produced = _long(labels, wells, rates[name], TARGET)
        if oil is not None:
            produced = produced.join(oil, on=ID, how="left").with_columns(
                (pl.col(TARGET) * pl.col("wopr")).alias("wopr")
            )
        found = voidage_replacement(
            produced, _long(labels, block.injectors, water[name], "wwir"), **dict[str, Any](factors)
        )
        own = found.filter(pl.col("group") == FIELD).select(
            TIME, *(pl.col(column).alias(f"{column}_{name}") for column in ("injected", "produced", "vrr"))
        )
        out = out.join(own, on=TIME, how="left", maintain_order="left")
    order = [f"{column}_{name}" for column in ("injected", "produced", "vrr") for name in ("base", "case")]
    return out.select(TIME, *order)


def _long(times: pl.Series, wells: Sequence[str], values: Floats, name: str) -> pl.DataFrame:
    return pl.DataFrame(
        {ID: np.repeat(np.array(wells, dtype=object), len(times)).tolist(), name: values.T.ravel()}
    ).with_columns(pl.Series(TIME, times.to_list() * len(wells), dtype=pl.Datetime("us")))


def _oil_share(view: PanelView, wells: Sequence[str]) -> pl.DataFrame:
    """`unique_id, wopr`: oil per liquid over the last year that both are known; wells without have the others' mean."""
    if "wopr" not in view.history.columns:
        raise ConfigError(
            "voidage.oil_fvf is set and no oil rate is known", expected="the covariate wopr", remedy="leave oil_fvf out"
        )
    known = view.history.filter(pl.col("wopr").is_not_null() & (pl.col(TARGET) > 0)).sort(ID, TIME)
    shares = known.group_by(ID).tail(12).group_by(ID).agg((pl.col("wopr").sum() / pl.col(TARGET).sum()).alias("wopr"))
    every = pl.DataFrame({ID: list(wells)}, schema={ID: pl.String}).join(shares, on=ID, how="left")
    return every.with_columns(pl.col("wopr").fill_null(pl.col("wopr").mean()).fill_null(0.0).clip(0.0, 1.0))
