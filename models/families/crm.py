"""The capacitance-resistance grey box: producers as tanks that injectors feed, a forecast that answers to plans.

The field is fitted at the cutoff as a whole (`nightcast.physics.crm`). Uptime, bottom-hole pressure and injection of
the months ahead are taken from the plan columns where there is a plan, else carried on.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from models.base import Answer, Forecaster, Hyperparameters
from models.fields import days_of, injectors_of, plans_of, waterflood_of
from models.grid import FloatArray, answer_frame, level_floor, mean_of_known
from models.residuals import ErrorQuantiles, learn_error_quantiles
from nightcast.contracts.catalog import Capabilities
from nightcast.contracts.columns import ID, LEVELS, TARGET
from nightcast.contracts.panel import PanelView
from nightcast.physics.crm import Crm, fit_crm
from nightcast.physics.params import CrmParams
from nightcast.physics.waterflood import Waterflood

LEVEL_ROWS = 12
"""Known rows whose mean absolute value is a series' level."""


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
        settings = CrmParams(rounds=params.rounds, spread=params.spread, recency=params.recency, draws=0)
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
