"""The capacitance-resistance grey box: producers as tanks that injectors feed, a forecast that answers to plans.

The field is fitted at the cutoff as a whole (`nightcast.physics.crm`). Uptime, bottom-hole pressure and injection of
the months ahead are taken from the plan columns where there is a plan, else carried on.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Final

import numpy as np
import polars as pl
from pydantic import Field

from models.base import Answer, Forecaster, Hyperparameters, check_view
from models.fields import days_of, injectors_of, plans_of, waterflood_of
from models.grid import FloatArray, answer_frame, level_floor, mean_of_known
from models.residuals import ErrorQuantiles, learn_error_quantiles
from nightcast.contracts.catalog import Capabilities
from nightcast.contracts.columns import ID, LEVELS, TARGET
from nightcast.contracts.panel import PanelView
from nightcast.physics.balance import Slots
from nightcast.physics.crm import Crm, fit_crm
from nightcast.physics.likelihood import Producers
from nightcast.physics.params import CrmParams
from nightcast.physics.waterflood import History, Waterflood

LEVEL_ROWS = 12
"""Known rows whose mean absolute value is a series' level."""
SOURCES: Final = ("injection", "inflow", "drawdown", "start")
"""What a modelled rate is the sum of: injected water, constant inflow, moves of pressure, the rest of the start."""


class CrmForecasterParams(Hyperparameters):
    """Parameters of the grey box.

    Attributes
    ----------
    origins
        Past origins whose errors make the intervals, three months apart, newest first.
    rounds
        How often tanks and connectivities are fitted in turn.
    spread
        Standard deviation of a connectivity's log around the distance prior; smaller is a stronger prior.
    recency
        Weight of a month against the month after it.
    most_wells
        Wells of a panel without injectors up to which it is fitted: more of them say no more than decline, slowly.
    """

    origins: int = Field(default=12, ge=1)
    rounds: int = Field(default=2, ge=1)
    spread: float = Field(default=1.0, gt=0)
    recency: float = Field(default=0.985, gt=0, le=1)
    most_wells: int = Field(default=60, ge=0)


class CrmForecaster(Forecaster):
    """Capacitance-resistance model of the whole field (Sayarpour et al. 2009; Holanda et al. 2018)."""

    Params = CrmForecasterParams
    capabilities: ClassVar[Capabilities] = Capabilities(
        uses=frozenset({"past", "plan"}), cold_start=False, min_history=6
    )
    params: CrmForecasterParams
    producers: tuple[str, ...]
    injectors: tuple[str, ...]
    crm: Crm | None
    errors: ErrorQuantiles

    def _fit(self, view: PanelView, *, seed: int) -> None:
        known = view.history.drop_nulls(TARGET)
        self.producers = tuple(known.get_column(ID).unique().sort().to_list())
        self.injectors = injectors_of(view)
        self.crm, self.errors = None, ErrorQuantiles(np.zeros((view.schema.horizon, len(LEVELS))), 1.0, ())
        if not self.injectors and len(self.producers) > self.params.most_wells:
            return
        field = waterflood_of(view, self.producers, self.injectors)
        params = self.params
        settings = CrmParams(rounds=params.rounds, spread=params.spread, recency=params.recency)
        self.crm = fit_crm(field, settings, seed=seed)
        self.errors = self._errors(view, field, self.crm)

    def _predict(self, view: PanelView) -> Answer:
        if self.crm is None:
            reason = (
                f"no injectors are reported, and {len(self.producers)} wells are more than {self.params.most_wells}"
            )
            return Answer(
                answer_frame([], np.empty((0, self.horizon, len(LEVELS)))), dict.fromkeys(view.series, reason)
            )
        field = waterflood_of(view, self.producers, self.injectors)
        plans = plans_of(view, self.producers, self.injectors)
        days = days_of(view, view.schema.freq.shift(view.cutoff, 1), self.horizon)
        ahead = self.crm.forecast(field, days=days, **plans)
        where = {name: at for at, name in enumerate(self.producers)}
        rows = np.array([where[name] for name in view.series])
        point = ahead[:, rows].T
        known = np.asarray(np.isfinite(point).all(axis=1))
        whole = known.tolist()
        level = mean_of_known(np.abs(field.rate.T), LEVEL_ROWS)[rows, -1]
        kept = [name for name, fine in zip(view.series, whole, strict=True) if fine]
        left_out = {
            name: "no usable month in the fit: too little time on stream"
            for name, fine in zip(view.series, whole, strict=True)
            if not fine
        }
        return Answer(answer_frame(kept, self.errors.around(point[known], level[known])), left_out)

    def evidence(self, view: PanelView) -> Mapping[str, pl.DataFrame]:
        """What the fit says of the field; nothing where no field was fitted or no injector is reported.

        Returns
        -------
        `connectivity`: one row a pair within reach, `injector, producer, f, f_low, f_high, identifiable, theta_days,
        distance_m, x_injector, y_injector, x_producer, y_producer`: the share of the injector's water that supports the
        producer, its 90 % interval, whether the data say anything about it, and the water's delay. An injector's `f`
        add up to 1 less its loss.

        `injectors`: `injector, loss`, the share that supports no producer.

        `tanks`: one row a producer, `producer, tau_days, leak, inflow, productivity, reference_bar, drift,
        memory_months, noise, fitted`: time constant; outflow other than the well's, relative to the well's; constant
        inflow in the target's unit; that unit per bar; the rest as in `nightcast.physics.likelihood.Tanks`.

        `drive`: one row for each producer of `view.future`, `producer, support, rate, injection, inflow, drawdown,
        start` and `<part>_share` of the last four: at the cutoff, the water that arrives, the modelled producing-day
        rate, and the parts it is the sum of (exactly, before a rate below 0 is raised to it). Drawdown is what the
        flowing pressure does by lying below (+) or above (-) its reference, start what is left of the well's first
        state. Shares add up to 1 and are null where the modelled rate is not above 0.

        Raises
        ------
        ConfigError
            If the model is not fitted, or was fitted for another horizon or frequency.
        """
        self._check_fits(view)
        check_view(view)
        if self.crm is None or not self.injectors:
            return {}
        field = waterflood_of(view, self.producers, self.injectors)
        return {
            "connectivity": _pairs(self.crm, field, self.producers, self.injectors),
            "injectors": pl.DataFrame({"injector": list(self.injectors), "loss": self.crm.loss}),
            "tanks": _tanks(self.crm, self.producers),
            "drive": _drive(self.crm, field, self.producers).filter(pl.col("producer").is_in(view.series)),
        }

    def _write(self, folder: Path) -> dict[str, Any]:
        return {
            "producers": list(self.producers),
            "injectors": list(self.injectors),
            "crm": None if self.crm is None else self.crm.to_json(),
            "errors": self.errors.to_json(),
        }

    def _read(self, folder: Path, state: dict[str, Any]) -> None:
        self.producers, self.injectors = tuple(state["producers"]), tuple(state["injectors"])
        self.crm = None if state["crm"] is None else Crm.from_json(state["crm"])
        self.errors = ErrorQuantiles.from_json(state["errors"])

    def _errors(self, view: PanelView, field: Waterflood, crm: Crm) -> ErrorQuantiles:
        """Scaled errors from past origins, with what a plan would have told there; the fit itself knew them all."""
        horizon, months = view.schema.horizon, len(field.days)
        floor = level_floor(field.rate.T)
        level = np.fmax(mean_of_known(np.abs(field.rate.T), LEVEL_ROWS), floor)
        planned = {
            name: values
            for name, column, values in (
                ("uptime", "uptime", field.uptime),
                ("pressure", "wbhp", field.pressure),
                ("injection", "wwir", field.injection),
            )
            if column in view.names("plan")
        }
        errors: list[list[FloatArray]] = [[] for _ in range(horizon)]
        for back in range(self.params.origins):
            origin = months - horizon - 3 * back
            if origin < 2 * horizon:
                break
            ahead = slice(origin, origin + horizon)
            plans = {name: values[ahead] for name, values in planned.items()}
            told = crm.forecast(field.before(origin), days=field.days[ahead], **plans)
            scaled = (field.rate[ahead] - told) / level[:, origin - 1]
            for step in range(horizon):
                errors[step].append(scaled[step][np.isfinite(scaled[step])])
        return learn_error_quantiles([np.concatenate(its) if its else np.empty(0) for its in errors], floor=floor)


def _pairs(crm: Crm, field: Waterflood, producers: tuple[str, ...], injectors: tuple[str, ...]) -> pl.DataFrame:
    """One row for each pair within reach."""
    source, sink = np.nonzero(np.isfinite(crm.theta))
    start, end = field.injectors[source], field.producers[sink]
    apart = end - start
    frame = pl.DataFrame(
        {
            "injector": [injectors[at] for at in source],
            "producer": [producers[at] for at in sink],
            "f": crm.connectivity[source, sink],
            "f_low": crm.low[source, sink],
            "f_high": crm.high[source, sink],
            "identifiable": crm.identifiable[source, sink],
            "theta_days": crm.theta[source, sink],
            "distance_m": np.hypot(apart[:, 0], apart[:, 1]),
            "x_injector": start[:, 0],
            "y_injector": start[:, 1],
            "x_producer": end[:, 0],
            "y_producer": end[:, 1],
        },
        schema_overrides={"injector": pl.String, "producer": pl.String},
    )
    return _known(frame).sort("injector", "producer")


def _tanks(crm: Crm, producers: tuple[str, ...]) -> pl.DataFrame:
    """One row for each producer of the fit; productivity is null without a gauge."""
    inflow, productivity, _ = crm.coefficients.T
    return _known(
        pl.DataFrame(
            {
                "producer": list(producers),
                "tau_days": crm.tanks.tau,
                "leak": crm.tanks.leak,
                "inflow": inflow,
                "productivity": np.where(np.isfinite(crm.reference), productivity, np.nan),
                "reference_bar": crm.reference,
                "drift": crm.tanks.drift,
                "memory_months": crm.tanks.memory,
                "noise": crm.tanks.noise,
                "fitted": crm.fitted,
            }
        )
    )


def _drive(crm: Crm, field: Waterflood, producers: tuple[str, ...]) -> pl.DataFrame:
    """What each fitted producer's modelled rate in the field's last month is made of."""
    histories = Producers.of(
        History.of(field, crm.params.least_uptime), recency=crm.params.recency, reference=crm.reference
    )
    slots = Slots.of(np.isfinite(crm.theta))
    delays = np.where(slots.used, slots.of_pairs(np.nan_to_num(crm.theta)), 1.0)
    weights = np.concatenate([slots.of_pairs(crm.connectivity), crm.coefficients], axis=1)
    # The tank is linear in these weights, so each regressor times its weight is that source's own part of the rate.
    each = histories.regressors(histories.water(slots, delays), crm.tanks)[:, -1] * weights
    width = slots.used.shape[1]
    parts = np.column_stack([each[:, :width].sum(axis=1), each[:, width:]])
    rate = parts.sum(axis=1)
    shares = parts / np.where(rate > 0, rate, np.nan)[:, None]
    frame = pl.DataFrame(
        {
            "producer": list(producers),
            "support": crm.support(field)[-1],
            "rate": rate,
            **{name: parts[:, at] for at, name in enumerate(SOURCES)},
            **{f"{name}_share": shares[:, at] for at, name in enumerate(SOURCES)},
        }
    )
    return _known(frame.filter(pl.Series(crm.fitted)))


def _known(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.with_columns(pl.col(pl.Float64).fill_nan(None))
