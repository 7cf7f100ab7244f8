"""A generated field: what people would have measured, what was true, and what was soiled on purpose."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import polars as pl

from nightcast.contracts.columns import ID, ROLE_SUPPORT, ROLE_TARGET, SERIES_ROLE, TARGET, TIME
from nightcast.contracts.errors import SourceError
from nightcast.contracts.hashing import hash_frame
from nightcast.sources.generator.config import FieldConfig
from nightcast.sources.generator.dirt import soil
from nightcast.sources.generator.layout import Layout, Tanks, distances, make_tanks, place_wells
from nightcast.sources.generator.network import (
    Bools,
    Feedback,
    Floats,
    Schedule,
    Trajectory,
    simulate_network,
    steady_pressure,
)
from nightcast.sources.generator.observation import (
    MonthlyTruth,
    allocate,
    read_gauges,
    sample_oil,
    to_months,
    water_cut,
)
from nightcast.sources.generator.schedule import (
    Months,
    Wells,
    bottom_hole_pressure,
    drilling,
    injection,
    injection_starts,
    producer_days,
)

TARGET_VRR = 1.03
"""Injected over produced volume that the field's injection is scaled to; 0.9 to 1.1 is the promise."""
FORMAT = 1

_Run: TypeAlias = tuple[Schedule, Trajectory, float]


@dataclass(frozen=True)
class Simulation:
    """Everything about a field, day by day.

    Attributes
    ----------
    vrr
        Volume of water injected over volume of liquid produced, whole field, all days.
    """

    config: FieldConfig
    months: Months
    layout: Layout
    wells: Wells
    is_new: Bools
    tanks: Tanks
    schedule: Schedule
    flow: Trajectory
    vrr: float


@dataclass(frozen=True)
class FieldTruth:
    """What nobody would know of a real field. `J` producers, `I` sources: injectors, then converted producers.

    Attributes
    ----------
    producers, injectors
        Names, in the order of the arrays' axes.
    connectivity
        `(I, J)` f_ij; a row sums to one less the injector's loss.
    theta
        `(I, J)` delay, days.
    loss
        `(I,)` share of the injected water that leaves the zone.
    tau, J0
        `(J,)` time constant in days and first productivity index in m3/d/bar.
    vrr
        Injected over produced volume.
    monthly
        `unique_id, ds, rate, producing_day_rate, uptime, p_wf, p_res, productivity, support, water_cut`, noiseless; the
        ceiling any forecast can reach is `rate`. Producers only; units as in `MonthlyTruth`.
    positions
        `unique_id, series_role, x_m, y_m, pad, block, start, end`: one row a well; `end` is a conversion.
    """

    producers: tuple[str, ...]
    injectors: tuple[str, ...]
    connectivity: Floats
    theta: Floats
    loss: Floats
    tau: Floats
    J0: Floats
    vrr: float
    monthly: pl.DataFrame
    positions: pl.DataFrame

    @property
    def rate(self) -> pl.DataFrame:
        """Noiseless rates, `unique_id, ds, rate, producing_day_rate`."""
        return self.monthly.select(ID, TIME, "rate", "producing_day_rate")

    @property
    def p_res(self) -> pl.DataFrame:
        """Monthly reservoir pressure, `unique_id, ds, p_res` in bar."""
        return self.monthly.select(ID, TIME, "p_res")

    @cached_property
    def pairs(self) -> pl.DataFrame:
        """Every pair: `injector, producer, distance_m, connectivity, theta, same_block`."""
        wells = {row[ID]: row for row in self.positions.iter_rows(named=True)}
        of = [wells[name] for name in self.injectors]
        to = [wells[name] for name in self.producers]
        start = np.array([(well["x_m"], well["y_m"]) for well in of])
        end = np.array([(well["x_m"], well["y_m"]) for well in to])
        same = np.array([well["block"] for well in of])[:, None] == np.array([well["block"] for well in to])[None]
        return pl.DataFrame(
            {
                "injector": np.repeat(self.injectors, len(to)).tolist(),
                "producer": list(self.producers) * len(of),
                "distance_m": distances(start, end).ravel(),
                "connectivity": self.connectivity.ravel(),
                "theta": self.theta.ravel(),
                "same_block": same.ravel(),
            }
        )


@dataclass(frozen=True)
class Field:
    """A generated field.

    Attributes
    ----------
    monthly
        `unique_id, ds, y, uptime, wbhp, wwir, wopr, series_role, x_m, y_m, pad`, sorted: calendar-day liquid m3/d,
        share of the month on stream, bar, injected water m3/d, oil m3/d. Injectors have the role `support`, no
        `y`, `wbhp` or `wopr`; producers have no `wwir`. A producer has rows from the month it is drilled to the month
        it is converted.
    ledger
        What the dirt changed: `unique_id, ds, kind, column, original, corrupted`.
    """

    config: FieldConfig
    monthly: pl.DataFrame
    truth: FieldTruth
    ledger: pl.DataFrame

    @cached_property
    def hash(self) -> str:
        """Content hash of what was measured."""
        return hash_frame(self.monthly)

    def save(self, folder: Path) -> None:
        """Write the field as Parquet and JSON."""
        folder.mkdir(parents=True, exist_ok=True)
        truth = self.truth
        wells = pl.DataFrame({"producer": truth.producers, "tau": truth.tau, "J0": truth.J0})
        sources = pl.DataFrame({"injector": truth.injectors, "loss": truth.loss})
        frames = {
            "monthly": self.monthly,
            "ledger": self.ledger,
            "truth_monthly": truth.monthly,
            "truth_positions": truth.positions,
            "truth_pairs": truth.pairs,
            "truth_producers": wells,
            "truth_injectors": sources,
        }
        for name, frame in frames.items():
            frame.write_parquet(folder / f"{name}.parquet")
        facts = {"format": FORMAT, "config": self.config.to_json(), "vrr": truth.vrr}
        (folder / "field.json").write_text(json.dumps(facts, indent=1))

    @classmethod
    def load(cls, folder: Path) -> Field:
        """Read what `save` wrote.

        Raises
        ------
        SourceError
            If the folder does not hold a saved field, or one of another format.
        """
        try:
            facts: dict[str, Any] = json.loads((folder / "field.json").read_text())
            frames = {name: pl.read_parquet(folder / f"{name}.parquet") for name in _FRAMES}
            found, vrr, config = facts["format"], float(facts["vrr"]), dict(facts["config"])
        except (OSError, KeyError, TypeError, ValueError, pl.exceptions.PolarsError) as error:
            raise SourceError(
                f"{folder} does not hold a saved field ({type(error).__name__}: {error})",
                expected=f"field.json and {', '.join(f'{name}.parquet' for name in _FRAMES)}",
                remedy="name a folder written by `Field.save`, or leave the path out to generate the field",
            ) from error
        if found != FORMAT:
            raise SourceError(
                f"the field in {folder} is saved in format {found!r}",
                expected=f"format {FORMAT}",
                remedy="generate and save it again with this version",
            )
        wells, sources, pairs = frames["truth_producers"], frames["truth_injectors"], frames["truth_pairs"]
        shape = (sources.height, wells.height)
        truth = FieldTruth(
            producers=tuple(wells["producer"].to_list()),
            injectors=tuple(sources["injector"].to_list()),
            connectivity=_constant(pairs["connectivity"].to_numpy().reshape(shape)),
            theta=_constant(pairs["theta"].to_numpy().reshape(shape)),
            loss=_constant(sources["loss"].to_numpy()),
            tau=_constant(wells["tau"].to_numpy()),
            J0=_constant(wells["J0"].to_numpy()),
            vrr=vrr,
            monthly=frames["truth_monthly"],
            positions=frames["truth_positions"],
        )
        return cls(FieldConfig(**config), frames["monthly"], truth, frames["ledger"])


_FRAMES = (
    "monthly",
    "ledger",
    "truth_monthly",
    "truth_positions",
    "truth_pairs",
    "truth_producers",
    "truth_injectors",
)


def simulate_days(config: FieldConfig) -> Simulation:
    """Simulate the field day by day, with injection scaled so that the voidage replacement ratio is near 1."""
    months = Months.of(config)
    start, is_new = drilling(config, months)
    layout = place_wells(config, is_new)
    tanks = make_tanks(config, layout)
    days = months.total

    end = np.full(config.producers, days)
    converted = np.array(layout.converted, dtype=np.int64)
    end[converted] = np.floor(config.stream("conversion days").uniform(0.4, 0.85, len(converted)) * days)
    wells = Wells(start, end)

    # What a tank can drain: its well's productivity, for as long as there is a well.
    outlet = tanks.network.connectivity / (1.0 - tanks.loss)[:, None] @ (tanks.J0 * (end - start) / days)
    outlet /= outlet.mean()

    is_open, relative = producer_days(config, wells, days)
    schedule = Schedule(
        is_open=is_open,
        p_wf=bottom_hole_pressure(config, days),
        productivity=tanks.J0 * relative,
        injection=injection(config, months, injection_starts(config, days, end[converted]), outlet),
    )
    review = np.zeros(days, dtype=bool)
    review[months.first] = True
    feedback = Feedback(review) if config.feedback else None
    spent = config.stream("depletion").uniform(0.7, 1.0, config.producers)

    def run(scale: float) -> _Run:
        scaled = Schedule(schedule.is_open, schedule.p_wf, schedule.productivity, scale * schedule.injection)
        arriving = tanks.network.connectivity * scaled.injection[0][:, None]
        drilled = ~is_new  # a well that happens to be down on the first day has still depleted its tank
        settled = steady_pressure(
            tanks.network,
            is_open=drilled,
            p_wf=scaled.p_wf[0],
            productivity=scaled.productivity[0],
            arriving=arriving.sum(axis=0),
        )
        pressure = tanks.network.p_init + spent * (settled - tanks.network.p_init)
        flow = simulate_network(tanks.network, scaled, pressure=pressure, arriving=arriving, feedback=feedback)
        produced = float(flow.rate.sum())
        return scaled, flow, float(flow.injection.sum()) / produced if produced > 0 else float("nan")

    floods = bool(schedule.injection.any() and schedule.is_open.any())  # a field of days may do neither
    scaled, flow, vrr = _balance(run, TARGET_VRR) if floods else run(1.0)
    return Simulation(config, months, layout, wells, is_new, tanks, scaled, flow, vrr)


def _balance(run: Callable[[float], _Run], target: float) -> _Run:
    """Find the injection scale that meets the target ratio.

    Produced volume is close to linear in the scale, so 1/VRR is close to linear in 1/scale; a secant in these
    converges in a few runs.
    """
    inverse = [1.0, 1.0 / 0.8]
    results = [run(1.0 / x) for x in inverse]
    for _ in range(6):
        if abs(results[-1][2] - target) < 0.01:
            break
        (x0, y0), (x1, y1) = ((x, 1.0 / result[2]) for x, result in zip(inverse[-2:], results[-2:], strict=True))
        slope = (y1 - y0) / (x1 - x0)
        guess = x1 + (1.0 / target - y1) / slope if slope > 0 else x1 * 1.5
        inverse.append(float(np.clip(guess, x1 / 3, x1 * 3)))
        results.append(run(1.0 / inverse[-1]))
    return min(results, key=lambda result: abs(result[2] - target))


def plan_of(field: Field, *, noisy: bool = False) -> pl.DataFrame:
    """What people meant to do, month by month: `unique_id, ds, uptime, wbhp, wwir`, all months of the field.

    Uptime and flowing pressure of producers, rates and uptime of injectors, as they were carried out. A `noisy` plan
    knows of half the downtime only, misses pressures by 4 bar and injection by 8 %.

    Parameters
    ----------
    field
        A field with its truth.
    """
    injected = field.monthly.filter(pl.col(SERIES_ROLE) == ROLE_SUPPORT)
    plan = pl.concat(
        [
            field.truth.monthly.select(ID, TIME, "uptime", pl.col("p_wf").alias("wbhp")).with_columns(
                pl.lit(None, dtype=pl.Float64).alias("wwir")
            ),
            injected.select(ID, TIME, "uptime", pl.lit(None, dtype=pl.Float64).alias("wbhp"), "wwir"),
        ]
    ).sort(ID, TIME)
    if not noisy:
        return plan
    rng = field.config.stream("plan")
    known = rng.random(plan.height) < 0.5
    pressure = 4.0 * rng.normal(size=plan.height)
    injection = rng.lognormal(0.0, 0.08, plan.height)
    return plan.with_columns(
        pl.when(pl.Series(known))
        .then("uptime")
        .otherwise(pl.when(pl.col("uptime").is_not_null()).then(1.0))
        .alias("uptime"),
        pl.col("wbhp") + pl.Series(pressure),
        pl.col("wwir") * pl.Series(injection),
    )


def simulate_field(config: FieldConfig) -> Field:
    """Generate a field.

    Parameters
    ----------
    config
        What field; the same configuration gives the same bytes.
    """
    simulation = simulate_days(config)
    months, layout, wells = simulation.months, simulation.layout, simulation.wells
    cut = water_cut(config, simulation.flow.arriving, simulation.is_new)
    true = to_months(months, simulation.schedule, simulation.flow, cut)

    last = months.first + months.days
    exists = (last[:, None] > wells.start) & (months.first[:, None] < wells.end)
    allocated = allocate(config, true.rate)
    producers = _long(
        layout.producers,
        months,
        exists,
        {
            TARGET: allocated,
            "uptime": true.uptime,
            "wbhp": read_gauges(config, true.p_wf),
            "wwir": np.full_like(allocated, np.nan),
            "wopr": sample_oil(config, allocated, true.water_cut),
        },
    )
    producers, ledger = soil(producers, config)

    injected = simulation.flow.injection
    volume, active = months.sums(injected), injected > 0
    begun = np.cumsum(volume > 0, axis=0) > 0
    blank = np.full_like(volume, np.nan)
    supports = _long(
        layout.sources,
        months,
        begun,
        {
            TARGET: blank,
            "uptime": months.sums(active) / months.days[:, None],
            "wbhp": blank,
            "wwir": volume / months.days[:, None],
            "wopr": blank,
        },
    )
    positions = _positions(simulation, begun)
    monthly = (
        pl.concat([producers, supports])
        .join(positions.select(ID, SERIES_ROLE, "x_m", "y_m", "pad"), on=ID, how="left")
        .sort(ID, TIME)
    )
    truth = _truth(simulation, true, exists, positions)
    return Field(config, monthly, truth, ledger)


def _long(names: tuple[str, ...], months: Months, exists: Bools, values: dict[str, Floats]) -> pl.DataFrame:
    """`(M, n)` arrays to a long frame, well by well; NaN becomes null."""
    kept = exists.T.ravel()
    frame = pl.DataFrame(
        {
            ID: np.repeat(names, len(months.label))[kept].tolist(),
            TIME: np.tile(months.label, len(names))[kept],
            **{name: value.T.ravel()[kept] for name, value in values.items()},
        },
        schema_overrides={ID: pl.String, TIME: pl.Datetime("us")},
    )
    return frame.with_columns(pl.col(name).fill_nan(None) for name in values)


def _positions(simulation: Simulation, begun: Bools) -> pl.DataFrame:
    layout, wells, months = simulation.layout, simulation.wells, simulation.months
    day = np.datetime64(months.label[0], "D") + np.arange(months.total + 1)
    converted = np.isin(np.arange(len(layout.producers)), layout.converted)
    started = (simulation.flow.injection > 0).argmax(axis=0)
    injects = begun.any(axis=0)
    none = np.datetime64("NaT")
    xy = np.concatenate([layout.xy, layout.source_xy])
    return pl.DataFrame(
        {
            ID: [*layout.producers, *layout.sources],
            SERIES_ROLE: [ROLE_TARGET] * len(layout.producers) + [ROLE_SUPPORT] * len(layout.sources),
            "x_m": xy[:, 0],
            "y_m": xy[:, 1],
            "pad": [*layout.pad, *layout.source_pad],
            "block": np.concatenate([layout.block, layout.source_block]),
            "start": np.concatenate([day[wells.start], np.where(injects, day[started], none)]).astype("datetime64[us]"),
            "end": np.concatenate(
                [np.where(converted, day[wells.end], none), np.full(len(layout.sources), none)]
            ).astype("datetime64[us]"),
        }
    )


def _truth(simulation: Simulation, true: MonthlyTruth, exists: Bools, positions: pl.DataFrame) -> FieldTruth:
    layout, tanks = simulation.layout, simulation.tanks
    monthly = _long(
        layout.producers,
        simulation.months,
        exists,
        {
            "rate": true.rate,
            "producing_day_rate": true.producing_day_rate,
            "uptime": true.uptime,
            "p_wf": true.p_wf,
            "p_res": true.p_res,
            "productivity": true.productivity,
            "support": true.support,
            "water_cut": true.water_cut,
        },
    ).sort(ID, TIME)
    return FieldTruth(
        producers=layout.producers,
        injectors=layout.sources,
        connectivity=_constant(tanks.network.connectivity),
        theta=_constant(tanks.network.theta),
        loss=_constant(tanks.loss),
        tau=_constant(tanks.tau),
        J0=_constant(tanks.J0),
        vrr=simulation.vrr,
        monthly=monthly,
        positions=positions,
    )


def _constant(array: Floats) -> Floats:
    """A copy nobody can write to: a field may be shared."""
    copy = np.array(array, dtype=np.float64)
    copy.setflags(write=False)
    return copy
