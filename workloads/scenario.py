"""What if: another injection, uptime or pressure over the months ahead, answered through the physical block.

A free network learnt that operators inject more where rates fall, and would answer backwards; the capacitance-
resistance model can only answer in the direction of the physics. The base case carries everything on as it is, or as
planned.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from models.fields import days_of, injectors_of, plans_of, waterflood_of
from nightcast.contracts.columns import ID, TARGET, TIME
from nightcast.contracts.errors import ConfigError
from nightcast.contracts.panel import PanelView
from nightcast.physics.crm import Crm, fit_crm
from nightcast.physics.params import CrmParams
from nightcast.physics.waterflood import Waterflood, carried

Floats = NDArray[np.float64]

COLUMNS: Final[Mapping[str, str]] = {"uptime": "uptime", "wbhp": "pressure", "wwir": "injection"}
"""Covariate -> what the model calls it."""
FIELD: Final = "field"
_SETTING = re.compile(
    r"^(?P<wells>[^=:]+)\.(?P<column>[a-z_]+)\s*[:=]\s*(?P<sign>[+-]?)(?P<number>\d+(\.\d+)?)(?P<percent>%?)$"
)


@dataclass(frozen=True)
class Change:
    """One setting: which wells, which covariate, and the new value (or the change of the old one).

    Attributes
    ----------
    wells
        Name, or a pattern with `*` and `?`.
    column
        `uptime`, `wbhp` or `wwir`.
    relative
        Whether `amount` is a factor's change (`+10 %` is 0.1) and not a value.
    """

    wells: str
    column: str
    amount: float
    relative: bool

    def applied(self, values: Floats) -> Floats:
        """New values for old ones."""
        return values * (1.0 + self.amount) if self.relative else np.full_like(values, self.amount)


def parse_change(text: str) -> Change:
    """Read `INJ-3.wwir:+10%`, `PROD-*.uptime:0.9`, `PROD-1.wbhp:-5%`.

    Raises
    ------
    ConfigError
        If the text is not of that form, or names no covariate of the physical block.
    """
    found = _SETTING.match(text.strip())
    if found is None or (found["sign"] and not found["percent"]):
        raise ConfigError(
            f"--set {text!r} cannot be read",
            expected="WELL.COLUMN:+10%, WELL.COLUMN:-10% or WELL.COLUMN:VALUE; WELL may be a pattern such as INJ-*",
            remedy='such as --set "INJ-3.wwir:+10%"',
        )
    if found["column"] not in COLUMNS:
        raise ConfigError(
            f"--set {text!r} changes {found['column']!r}",
            expected=f"one of {', '.join(COLUMNS)}",
            remedy="name what people can set: uptime, bottom-hole pressure or injection",
        )
    number = float(found["number"]) * (-1 if found["sign"] == "-" else 1)
    return Change(found["wells"], found["column"], number / 100 if found["percent"] else number, bool(found["percent"]))


@dataclass(frozen=True)
class Answer:
    """What a scenario changes.

    Attributes
    ----------
    rows
        `unique_id, ds, horizon, base, case, change, change_low, change_high` in the target's unit, one row per well and
        step, and the sums over all wells as `unique_id = "field"`. The interval is that of the connectivities (90 %).
    flags
        One sentence per value outside what its well has seen.
    changed
        Wells whose settings changed.
    """

    rows: pl.DataFrame
    flags: tuple[str, ...]
    changed: tuple[str, ...]


def play(view: PanelView, changes: Sequence[Change], *, draws: int = 100, seed: int = 0) -> Answer:
    """Fit the field at a view's cutoff and answer a scenario.

    Parameters
    ----------
    draws
        Draws of the connectivities behind the interval.

    Raises
    ------
    ConfigError
        If a change names no well, or the panel has no well with a known rate.
    """
    producers = tuple(view.history.drop_nulls(TARGET).get_column(ID).unique().sort().to_list())
    injectors = injectors_of(view)
    field = waterflood_of(view, producers, injectors)
    crm = fit_crm(field, CrmParams(), seed=seed)
    days = days_of(view, view.schema.freq.shift(view.cutoff, 1), view.schema.horizon)
    base = _as_it_is(field, plans_of(view, producers, injectors), len(days))
    case, flags, changed = _changed(base, field, changes, producers, injectors)
    told = [_rates(crm, field, days, its) for its in (base, case)]
    spread = _spread(crm, field, days, base, case, draws=draws, seed=seed)
    wanted = [at for at, name in enumerate(producers) if name in set(view.series) and np.isfinite(told[0][:, at]).all()]
    times = view.future.select(TIME, "horizon").unique().sort(TIME)
    parts = []
    for at in [*wanted, None]:
        chosen = wanted if at is None else [at]
        before, after = (its[:, chosen].sum(axis=1) for its in told)
        moved = spread[:, :, chosen].sum(axis=2)
        parts.append(
            times.with_columns(
                pl.lit(FIELD if at is None else producers[at]).alias(ID),
                pl.Series("base", before),
                pl.Series("case", after),
                pl.Series("change", after - before),
                pl.Series("change_low", np.quantile(moved, 0.05, axis=0)),
                pl.Series("change_high", np.quantile(moved, 0.95, axis=0)),
            )
        )
    columns = [ID, TIME, "horizon", "base", "case", "change", "change_low", "change_high"]
    return Answer(pl.concat(parts).select(columns), tuple(flags), tuple(changed))


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


def _changed(
    base: Mapping[str, Floats],
    field: Waterflood,
    changes: Sequence[Change],
    producers: Sequence[str],
    injectors: Sequence[str],
) -> tuple[dict[str, Floats], list[str], list[str]]:
    case = {name: values.copy() for name, values in base.items()}
    flags: list[str] = []
    changed: list[str] = []
    seen = {"uptime": field.uptime, "pressure": field.pressure, "injection": field.injection}
    for change in changes:
        name = COLUMNS[change.column]
        wells = injectors if name == "injection" else producers
        hit = [at for at, well in enumerate(wells) if well == change.wells or fnmatchcase(well, change.wells)]
        if not hit:
            raise ConfigError(
                f"no well {change.wells!r} has {change.column}",
                expected=f"one of {', '.join(wells[:12]) or 'no well at all'}{' ...' if len(wells) > 12 else ''}",
                remedy="injectors have wwir, producers uptime and wbhp",
            )
        for at in hit:
            new = change.applied(base[name][:, at])
            if name == "uptime":
                new = np.clip(new, 0.0, 1.0)
            case[name][:, at] = new
            changed.append(wells[at])
            past = seen[name][:, at]
            past = past[np.isfinite(past)]
            for value in (float(new.min()), float(new.max())):
                if past.size and not past.min() - 1e-9 <= value <= past.max() + 1e-9:
                    flags.append(
                        f"{wells[at]} {change.column} = {value:.4g} lies outside what it has seen "
                        f"({past.min():.4g} to {past.max():.4g}): the answer extrapolates"
                    )
                    break
    return case, flags, sorted(set(changed))


def _rates(crm: Crm, field: Waterflood, days: Floats, plans: Mapping[str, Floats]) -> Floats:
    return crm.forecast(field, days=days, **plans)


def _spread(
    crm: Crm,
    field: Waterflood,
    days: Floats,
    base: Mapping[str, Floats],
    case: Mapping[str, Floats],
    *,
    draws: int,
    seed: int,
) -> Floats:
    """`(draws, H, J)` changes under connectivities drawn from their intervals, each injector's sum at most 1."""
    rng = np.random.default_rng(seed)
    # a 90 % interval is 1.645 standard deviations to either side
    below, above = (crm.connectivity - crm.low) / 1.645, (crm.high - crm.connectivity) / 1.645
    out = []
    for _ in range(draws):
        z = rng.normal(size=crm.connectivity.shape)
        drawn = np.clip(crm.connectivity + z * np.where(z < 0, below, above), 0.0, None)
        total = drawn.sum(axis=1, keepdims=True)
        other = replace(crm, connectivity=drawn / np.maximum(total, 1.0))
        out.append(_rates(other, field, days, case) - _rates(other, field, days, base))
    return np.nan_to_num(np.stack(out))
