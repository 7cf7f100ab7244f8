"""Learners on top of physics: a physical base, and a global model of what it leaves out.

The base (a capacitance-resistance field, a decline curve or a two-part rate) carries plans and what physics says; the
learners see its forecast, its late errors and the inputs of `models.ratios`, and answer with the distribution of what
is missing. They learn from errors of forecasts as they were made at the time: the base is fitted again on expanding
history every `refit_every` steps, and a past origin is forecast by the last base fitted at or before it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any, ClassVar, Final, Literal

import numpy as np
import polars as pl
from pydantic import Field

from models.base import Answer, Forecaster
from models.families.boosting import LightGBMGlobal
from models.families.crm import CrmForecaster
from models.families.decline import Arps
from models.families.perceptron import PerceptronGlobal
from models.families.uptime import TwoPart
from models.grid import FloatArray, Grid, IntArray, answer_frame, mean_of_known
from models.ratios import Anchor, Float32Array, RatioForecaster, RatioParams, Rows
from nightcast.contracts.catalog import Capabilities, Uses
from nightcast.contracts.columns import HORIZON, ID, MEDIAN, QUANTILES, TARGET, TIME, UPTIME
from nightcast.contracts.panel import PanelView
from nightcast.contracts.schema import FeatureColumn

_COVARIATES: Final[frozenset[Uses]] = frozenset({"past", "plan", "static"})

STALE: Final = 12
"""Steps without a known value up to which a series is forecast from a past origin."""
BASE_FOLDER: Final = "base"
EARLIER_FOLDER: Final = "earlier"
LARGEST: Final = 4.0
"""Levels of a series above which an error is learnt as so many: a restart from almost nothing is off by thousands."""


@dataclass(frozen=True)
class Physics:
    """A base of the table: how it is made, and what makes it cheaper where its intervals are not asked for."""

    make: Callable[..., Forecaster]
    given: Mapping[str, Any] = field(default_factory=dict)
    point_only: Mapping[str, Any] = field(default_factory=lambda: {"origins": 1})


BASES: Final[Mapping[str, Physics]] = {
    "crm": Physics(CrmForecaster),
    "arps_exponential": Physics(Arps, {"kind": "exponential"}),
    "arps_hyperbolic": Physics(Arps, {"kind": "hyperbolic"}),
    "arps_harmonic": Physics(Arps, {"kind": "harmonic"}),
    "arps_modified": Physics(Arps, {"kind": "modified"}),
    "uptime_rate": Physics(TwoPart),
}


LEARNERS: Final[Mapping[str, tuple[Callable[..., RatioForecaster], Mapping[str, Any]]]] = {
    "boosting": (LightGBMGlobal, {}),
    "linear": (PerceptronGlobal, {"hidden": (), "members": 1, "learning_rate": 0.01}),
}


class ResidualParams(RatioParams):
    """Parameters of learners on physics.

    Attributes
    ----------
    base
        The physics, by its name in `BASES`.
    base_params
        Parameters of the base, by name.
    learners
        Boosted trees, linear quantile regression, or both: then their quantiles are averaged.
    boosting, linear
        Parameters of each, by name, as `lightgbm_global` and `linear_global` take them.
    refit_every
        Steps after which the base is fitted again on the way through the past.
    refits
        Most refits of the base in the past; learners see origins from the first of them on.
    least_history
        Steps of the panel that the first refit needs.
    doubt
        Origins whose evidence weighs as much as the base alone: with n origins learners count n / (n + doubt).
    least_origins
        Origins below which nothing is learnt and the base answers alone.
    memory
        Latest errors of the base whose mean is an input.
    """

    base: Literal["crm", "arps_exponential", "arps_hyperbolic", "arps_harmonic", "arps_modified", "uptime_rate"] = (
        "uptime_rate"
    )
    base_params: dict[str, Any] = Field(default_factory=dict)
    learners: tuple[Literal["boosting", "linear"], ...] = Field(default=("boosting", "linear"), min_length=1)
    boosting: dict[str, Any] = Field(default_factory=dict)
    linear: dict[str, Any] = Field(default_factory=dict)
    refit_every: int = Field(default=12, ge=1)
    refits: int = Field(default=6, ge=1)
    least_history: int = Field(default=24, ge=2)
    doubt: float = Field(default=12.0, ge=0)
    least_origins: int = Field(default=12, ge=1)
    memory: int = Field(default=6, ge=1)


class PhysicsResidual(RatioForecaster):
    """Physical base plus learnt out-of-sample errors, shrunk to the base where origins are few.

    The quantiles are those of the base's median plus the learnt error, averaged level by level with the base's own
    quantiles: the learners' share is n / (n + doubt), n the number of past origins, and 0 below `least_origins`.
    """

    Params = ResidualParams
    capabilities: ClassVar[Capabilities] = Capabilities(uses=_COVARIATES)
    params: ResidualParams
    base: Forecaster
    fitted_at: datetime
    earlier: list[tuple[datetime, Forecaster]]
    """Bases of the past, oldest first, each with the last time it knew."""
    share: float
    """Of the learners in the quantiles."""
    learnt: dict[str, RatioForecaster]

    def __init__(self, **params: Any) -> None:
        super().__init__(**params)
        # Whom the base cannot serve, nobody here can. A wrong parameter is told now, not in the middle of a night.
        self.capabilities = replace(self._new_base().capabilities, uses=_COVARIATES)  # type: ignore[misc]
        self._new_learners()

    def anchor(self, view: PanelView, grid: Grid, series: IntArray, origin: IntArray) -> Anchor:
        """The base's forecast from each origin, and its latest errors as they were known there."""
        horizon, memory = view.schema.horizon, self.params.memory
        if not origin.size:
            return _anchor_of(np.empty((0, horizon)), np.empty(0), np.empty(0), np.empty((0, horizon)))
        first = max(0, int(origin.min()) - memory - horizon + 1)
        told = self._told(view, grid, first, int(origin.max()))  # [N, S, H]
        if self._by_producing_day:
            told = told / self._planned(view, grid, first, told.shape[1])
        steps = np.arange(first, first + told.shape[1])
        errors = np.full((horizon, len(grid.ids), steps.size), np.nan)  # by the month that was forecast
        for step in range(1, horizon + 1):
            errors[step - 1][:, step:] = grid.y[:, steps[step:]] - told[:, : steps.size - step, step - 1]
        at = origin - first
        late = np.stack([mean_of_known(its, memory)[series, at] for its in errors], axis=1)  # [R, H]
        latest = errors[0][series, at]
        known = ~np.isnan(late)
        total = np.where(known, late, 0.0).sum(axis=1)
        usual = np.divide(total, known.sum(axis=1), out=np.full(total.shape, np.nan), where=known.any(axis=1))
        return _anchor_of(told[series, at], latest, usual, late)

    def learn(self, rows: Rows, *, seed: int) -> None:
        """Train each learner on the base's errors."""
        rows = replace(rows, y=np.clip(rows.y, -LARGEST, LARGEST))
        self.learnt = self._new_learners()
        for learner in self.learnt.values():
            learner.horizon = self.horizon
            learner.learn(rows, seed=seed)

    def ratios(self, x: Float32Array, horizon: int) -> FloatArray:
        """Mean of the learners' sorted quantiles of the error."""
        each = [np.sort(learner.ratios(x, horizon), axis=1) for learner in self.learnt.values()]
        return np.asarray(np.mean(each, axis=0))

    def write_learnt(self, folder: Path) -> dict[str, Any]:
        """One folder a learner."""
        out = {}
        for name, learner in self.learnt.items():
            (folder / name).mkdir(parents=True, exist_ok=True)
            out[name] = learner.write_learnt(folder / name)
        return out

    def read_learnt(self, folder: Path, state: dict[str, Any]) -> None:
        """One folder a learner."""
        self.learnt = {name: its for name, its in self._new_learners().items() if name in state}
        for name, learner in self.learnt.items():
            learner.horizon = self.horizon
            learner.read_learnt(folder / name, state[name])

    def evidence(self, view: PanelView) -> Mapping[str, pl.DataFrame]:
        """The base's."""
        return self.base.evidence(view)

    # -- the forecaster's steps ----------------------------------------------------------------------------------

    def _fit(self, view: PanelView, *, seed: int) -> None:
        params, freq = self.params, view.schema.freq
        self.base, self.fitted_at = self._new_base().fit(view, seed=seed), view.cutoff
        self.earlier, self.share, self.learnt = [], 0.0, {}
        past = Past(view)
        for back in range(params.refits, 0, -1):
            cutoff = freq.shift(view.cutoff, -back * params.refit_every)
            then = past.at(cutoff)
            if then is not None and freq.steps_between(past.first, cutoff) + 1 >= params.least_history:
                self.earlier.append((cutoff, self._new_base(point_only=True).fit(then, seed=seed)))
        rows = self._table(view)
        origins = freq.steps_between(self.earlier[0][0], view.cutoff) if self.earlier else 0
        if rows.y.size and origins >= params.least_origins:
            self.share = origins / (origins + params.doubt)
            self.learn(rows, seed=seed)
        # Errors from before the fit are inputs of a forecast, too: they are those of the last base of the past.
        self.earlier = self.earlier[-1:] if self.share else []

    def _predict(self, view: PanelView) -> Answer:
        told = self.base.forecast(view)
        kept = told.prediction.frame.sort(ID, HORIZON)
        if not self.share or not kept.height:
            return Answer(kept.select(ID, HORIZON, *QUANTILES), told.left_out, told.notes)
        part = replace(view, future=view.future.filter(pl.col(ID).is_in(kept.get_column(ID).unique().implode())))
        learnt = self._quantiles(part)
        alone = kept.select(QUANTILES).to_numpy().reshape(learnt.shape)
        return Answer(answer_frame(part.series, self.share * learnt + (1.0 - self.share) * alone), told.left_out)

    def _write(self, folder: Path) -> dict[str, Any]:
        self.base.save(folder / BASE_FOLDER)
        for _, base in self.earlier:
            base.save(folder / EARLIER_FOLDER)
        return {
            **super()._write(folder),
            "fitted_at": self.fitted_at.isoformat(),
            "earlier": [cutoff.isoformat() for cutoff, _ in self.earlier],
            "share": self.share,
        }

    def _read(self, folder: Path, state: dict[str, Any]) -> None:
        super()._read(folder, state)
        kind: Any = type(self._new_base())
        self.base, self.fitted_at = kind.load(folder / BASE_FOLDER), datetime.fromisoformat(state["fitted_at"])
        self.earlier = [(datetime.fromisoformat(its), kind.load(folder / EARLIER_FOLDER)) for its in state["earlier"]]
        self.share = float(state["share"])

    # -- the base in the past ------------------------------------------------------------------------------------

    def _new_base(self, *, point_only: bool = False) -> Forecaster:
        physics = BASES[self.params.base]
        given = {**physics.given, **self.params.base_params}
        return physics.make(**given, **{k: v for k, v in physics.point_only.items() if point_only and k not in given})

    def _new_learners(self) -> dict[str, RatioForecaster]:
        chosen = {name: LEARNERS[name] for name in self.params.learners}
        return {name: make(**{**given, **getattr(self.params, name)}) for name, (make, given) in chosen.items()}

    def _told(self, view: PanelView, grid: Grid, first: int, last: int) -> FloatArray:
        """`[N, S, H]` medians from steps `first` to `last`, of the base that was there then; NaN where there was none.

        From the view's own cutoff it is always the last base that answers.
        """
        out = np.full((len(grid.ids), last - first + 1, view.schema.horizon), np.nan)
        past = Past(view)
        row_of = {name: row for row, name in enumerate(grid.ids)}
        for step in range(first, last + 1):
            cutoff = view.schema.freq.shift(view.cutoff, step - (grid.width - 1))
            base = self.base if cutoff == view.cutoff else self._base_at(cutoff)
            then = view if cutoff == view.cutoff else past.at(cutoff)
            if base is None or then is None:
                continue
            frame = base.predict(then).frame
            rows = frame.get_column(ID).replace_strict(row_of, return_dtype=pl.Int64).to_numpy()
            out[rows, step - first, frame.get_column(HORIZON).to_numpy() - 1] = frame.get_column(MEDIAN).to_numpy()
        return out

    def _base_at(self, cutoff: datetime) -> Forecaster | None:
        there = [base for known, base in (*self.earlier, (self.fitted_at, self.base)) if known <= cutoff]
        return there[-1] if there else None

    def _planned(self, view: PanelView, grid: Grid, first: int, count: int) -> FloatArray:
        """`[N, S, H]` share on stream that a forecast was multiplied by: 1 where it is unknown, or nothing is left."""
        horizon = view.schema.horizon
        past = grid.matrix(self.columns.values(view.history, UPTIME))
        ahead = np.full((len(grid.ids), horizon), np.nan)
        row_of = {name: row for row, name in enumerate(grid.ids)}
        rows = view.future.get_column(ID).replace_strict(row_of, return_dtype=pl.Int64).to_numpy()
        ahead[rows, view.future.get_column(HORIZON).to_numpy() - 1] = self.columns.values(view.future, UPTIME)
        both = np.hstack([past, ahead])
        uptime = both[:, first + 1 + np.arange(count)[:, None] + np.arange(horizon)]
        return np.where(uptime > 0, uptime, 1.0)


class Past:
    """A view as it was at earlier cutoffs: what was planned then is taken to be what was carried out."""

    def __init__(self, view: PanelView) -> None:
        self.view = view
        self.columns: dict[str, FeatureColumn] = {n: c for n, c in view.columns.items() if c.block == "covariate"}
        self.plans = tuple(name for name, column in self.columns.items() if column.role == "plan")
        self.history = view.history.select(ID, TIME, TARGET, *self.columns)
        first = view.history.get_column(TIME).min()
        self.first = first if isinstance(first, datetime) else view.cutoff

    def at(self, cutoff: datetime) -> PanelView | None:
        """The view of a cutoff, over the series with a late known value; None if there are none."""
        view, freq = self.view, self.view.schema.freq
        history = self.history.filter(pl.col(TIME) <= cutoff)
        known = history.filter(pl.col(TARGET).is_not_null() & (pl.col(TIME) >= freq.shift(cutoff, -STALE)))
        if not known.height:
            return None
        support = view.support.filter(pl.col(TIME) <= cutoff)
        return PanelView(
            history,
            self._ahead(known, self.history, cutoff),
            cutoff,
            view.schema,
            self.columns,
            support,
            self._ahead(support, view.support, cutoff),
        )

    def _ahead(self, known: pl.DataFrame, rows: pl.DataFrame, cutoff: datetime) -> pl.DataFrame:
        """Keys of the horizon for the series of `known`, with the plan columns that `rows` has; null past its end."""
        freq, horizon = self.view.schema.freq, self.view.schema.horizon
        steps = pl.DataFrame(
            {
                TIME: [freq.shift(cutoff, step) for step in range(1, horizon + 1)],
                HORIZON: list(range(1, horizon + 1)),
            },
            schema={TIME: pl.Datetime("us"), HORIZON: pl.Int32},
        )
        keys = known.select(pl.col(ID).unique()).join(steps, how="cross")
        later = rows.filter(pl.col(TIME) > cutoff).select(ID, TIME, *(n for n in self.plans if n in rows.columns))
        return keys.join(later, on=[ID, TIME], how="left").sort(ID, TIME)


def _anchor_of(told: FloatArray, latest: FloatArray, usual: FloatArray, late: FloatArray) -> Anchor:
    return Anchor(
        told,
        {"base_latest_error": latest, "base_usual_error": usual},
        {"base_at_target": told, "base_late_error": late},
    )
