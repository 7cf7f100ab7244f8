"""Type curves: how wells like this one went on after their first months, shrunk to the well's own record.

Rates of days on stream are aligned at first production and divided by the mean of their first clean months; the type
curve is the median over analogs. A young well's level is matched to the curve over its known months, and the more
months it has, the more its own pace of decline counts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import product
from pathlib import Path
from typing import Any, ClassVar, Final

import numpy as np
import polars as pl
from pydantic import Field

from models.base import Answer, Forecaster, Hyperparameters
from models.families.uptime import (
    LATEST,
    SHUT,
    Hazard,
    MixtureErrors,
    OnStream,
    on_stream_of,
    plan_of,
    row_median,
    usual_share,
)
from models.grid import BoolArray, FloatArray, IntArray, answer_frame, grid_of, level_floor, steps_since_known
from models.residuals import FEWEST_ERRORS
from nightcast.contracts.catalog import Capabilities
from nightcast.contracts.columns import ID, LEVELS, UPTIME
from nightcast.contracts.panel import PanelView

PAD, X, Y = "pad", "x_m", "y_m"
_EPOCH: Final = datetime(1900, 1, 1)
RULES: Final = ("pad", "near", "panel", "vintage")
"""Who a well's analogs are: wells of its pad, the nearest ones, all, those that started at about the same time."""
PRICE: Final = 1.0
"""Share of the error that a departure from the usual settings must save, times the number of wells."""
CLEAN: Final = 3
"""Months whose mean a curve is divided by."""
PARTIAL: Final = 0.25
"""Weight of a first month whose days on stream are not known."""
FEWEST_WELLS: Final = 3
"""Analogs that a month of a type curve takes."""
AGES: Final = (1, 2, 3, 4, 5, 8, 12, 18, 24)
"""Months known at which the settings are judged, and the errors kept."""
FADES: Final = (0.5, 0.7, 0.85)
"""Weights of a month against the one after it, to choose from, when the level is matched."""
PULLS: Final = (0.0, 0.1, 0.3, 1.0)
"""Months that the analogs' own level counts for, to choose from."""
TAUS: Final = (0.0, 2.0, 6.0, 18.0, 60.0, 1e6)
"""Months after which the well's own pace counts half, to choose from; the last one means never."""
RIDGE: Final = 0.02
"""Variance added to that of the curve's logarithm when a well's own pace is measured."""
LARGEST_FALL: Final = 3.0
"""Largest change of the logarithm of the rate that a curve may foresee."""


@dataclass(frozen=True)
class Aligned:
    """Wells from their first month on stream on: `[N, L]` each, NaN where unknown.

    Attributes
    ----------
    log
        Logarithm of the rate of days on stream.
    y, share
        Calendar-day rate, and share of the month on stream.
    months
        `[N]` months from first production to the cutoff; 0 for a well that never produced.
    born
        `[N]` column of first production.
    """

    log: FloatArray
    y: FloatArray
    share: FloatArray
    months: IntArray
    born: IntArray

    @classmethod
    def of(cls, past: OnStream, length: int) -> Aligned:
        """The first `length` months of every well."""
        producing = np.nan_to_num(past.y, nan=0.0) > 0
        some = producing.sum(axis=1) > 0
        width = past.y.shape[1]
        born = np.where(some, producing.argmax(axis=1), width)
        column = born[:, None] + np.arange(length)
        inside = column < width
        column = np.minimum(column, width - 1)

        def taken(values: FloatArray) -> FloatArray:
            return np.where(inside, np.take_along_axis(values, column, axis=1), np.nan)

        with np.errstate(invalid="ignore", divide="ignore"):
            log = np.log(taken(past.rate))
        return cls(log, taken(past.y), taken(past.share), width - born, born)

    def rows(self, rows: IntArray) -> Aligned:
        """Some wells only."""
        return Aligned(self.log[rows], self.y[rows], self.share[rows], self.months[rows], self.born[rows])


@dataclass(frozen=True)
class Places:
    """Where and when wells are: pad (text or None), position in metres (NaN if unknown), `[N]` step of birth."""

    pads: tuple[str | None, ...]
    at: FloatArray
    born: FloatArray

    @classmethod
    def of(cls, view: PanelView, series: Sequence[str], born: FloatArray) -> Places:
        """From the static columns of a view, where it has them."""
        names = [name for name in (PAD, X, Y) if name in view.columns]
        known = view.history.group_by(ID).agg(pl.col(name).drop_nulls().last() for name in names)
        rows = pl.DataFrame({ID: list(series)}, schema={ID: pl.String}).join(
            known, on=ID, how="left", maintain_order="left"
        )
        pads = rows.get_column(PAD).cast(pl.String).to_list() if PAD in names else [None] * len(series)
        at = np.full((len(series), 2), np.nan)
        for axis, name in enumerate((X, Y)):
            if name in names and view.history.schema[name].is_numeric():
                at[:, axis] = rows.get_column(name).cast(pl.Float64).fill_null(float("nan")).to_numpy()
        return cls(tuple(pads), at, born)

    def rows(self, rows: IntArray) -> Places:
        """Some wells only."""
        return Places(tuple(self.pads[row] for row in rows), self.at[rows], self.born[rows])


@dataclass(frozen=True)
class Settings:
    """What leaving one well out chose: analogs, `fade`, `pull` and `tau` (see `FADES`, `PULLS`, `TAUS`)."""

    rule: str
    fade: float
    pull: float
    tau: float


USUAL: Final = Settings("panel", 0.5, 0.1, 18.0)
"""Settings to depart from only where it pays."""


@dataclass(frozen=True)
class Library:
    """Analogs: wells whose first months are known.

    Attributes
    ----------
    ids
        Their names, so that a well is never its own analog.
    shape
        `[A, L]` logarithm of the rate over `exp(level)`.
    level
        `[A]` logarithm of the mean rate of the first clean months.
    """

    ids: tuple[str, ...]
    places: Places
    shape: FloatArray
    level: FloatArray

    @classmethod
    def of(cls, ids: Sequence[str], places: Places, wells: Aligned, *, whole_months: bool, most: int) -> Library:
        """The latest `most` wells that are seen to start: production later than the first month of the panel."""
        level = _first_level(wells.log, whole_months=whole_months)
        able = np.isfinite(level) & (np.isfinite(wells.log).sum(axis=1) >= CLEAN)
        started = able & (wells.born > 0)
        # Without one well seen to start, the panel's first month has to do.
        rows = np.flatnonzero(started if started.sum() >= FEWEST_WELLS else able)
        names = np.array(list(ids), dtype=object)
        order = sorted(rows.tolist(), key=lambda row: (-wells.born[row], names[row]))[:most]
        rows = np.array(sorted(order), dtype=np.int64)
        return cls(
            tuple(ids[int(row)] for row in rows), places.rows(rows), (wells.log - level[:, None])[rows], level[rows]
        )

    def analogs(self, rule: str, ids: Sequence[str], places: Places, *, nearest: int, least: int) -> BoolArray:
        """`[N, A]`: the analogs of each well; all but itself where a rule finds fewer than `least`."""
        others = np.array([[name != own for name in self.ids] for own in ids], dtype=bool)
        others = others.reshape(len(ids), len(self.ids))
        if rule == "pad":
            pads = np.array([pad or "" for pad in self.places.pads], dtype=object)
            chosen = np.array([[bool(pad) and pad == its for its in pads] for pad in places.pads], dtype=bool)
            chosen = chosen.reshape(others.shape) & others
        elif rule == "near":
            gap = np.sqrt(((places.at[:, None, :] - self.places.at[None, :, :]) ** 2).sum(axis=2))
            chosen = _nearest(np.where(others, gap, np.nan), nearest)
        elif rule == "vintage":
            gap = np.abs(places.born[:, None] - self.places.born[None, :])
            chosen = _nearest(np.where(others, gap, np.nan), 2 * nearest)
        else:
            chosen = others
        enough = chosen.sum(axis=1, keepdims=True) >= least
        return np.asarray(np.where(enough, chosen, others))

    def curves(self, chosen: BoolArray) -> tuple[FloatArray, FloatArray]:
        """`[N, L]` median curve and `[N]` median level of each well's analogs; flat past the last month they show."""
        shape, level = np.empty((len(chosen), self.shape.shape[1])), np.empty(len(chosen))
        made: dict[bytes, tuple[FloatArray, float]] = {}
        for row, mask in enumerate(chosen):
            key = mask.tobytes()
            if key not in made:
                made[key] = self._curve(mask)
            shape[row], level[row] = made[key]
        return shape, level

    def _curve(self, mask: BoolArray) -> tuple[FloatArray, float]:
        if not mask.any():
            return np.zeros(self.shape.shape[1]), float("nan")
        rows = self.shape[mask]
        curve = row_median(rows.T)
        told = np.isfinite(rows).sum(axis=0) >= min(FEWEST_WELLS, int(mask.sum()))
        # A month that few analogs show takes the value of the one before it.
        source = np.maximum.accumulate(np.where(told, np.arange(curve.size), -1))
        first = int(told.argmax()) if told.any() else 0
        filled = curve[np.where(source < 0, first, source)]
        return np.nan_to_num(filled, nan=0.0), float(np.median(self.level[mask]))

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "ids": list(self.ids),
            "pads": list(self.places.pads),
            "at": _plain(self.places.at),
            "born": self.places.born.tolist(),
            "shape": _plain(self.shape),
            "level": self.level.tolist(),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any], length: int) -> Library:
        """Back from JSON values."""
        count = len(value["ids"])
        places = Places(
            tuple(value["pads"]),
            np.array(value["at"], dtype=float).reshape(count, 2),
            np.array(value["born"], dtype=float),
        )
        shape = np.array(value["shape"], dtype=float).reshape(count, length)
        return cls(tuple(value["ids"]), places, shape, np.array(value["level"], dtype=float))


class TypeCurveParams(Hyperparameters):
    """Parameters of the type curve.

    Attributes
    ----------
    max_age
        Months that a type curve spans; an older well goes on at its own level.
    nearest
        Analogs by position; by start of production, twice as many.
    least
        Analogs below which all wells serve instead.
    most_wells
        Latest wells kept as analogs.
    origins
        Past origins whose errors make the intervals of wells older than a type curve.
    oldest
        Wells with more known months are left out: their own history serves them better. None: nobody is.
    """

    max_age: int = Field(default=36, ge=2)
    nearest: int = Field(default=12, ge=1)
    least: int = Field(default=5, ge=1)
    most_wells: int = Field(default=250, ge=1)
    origins: int = Field(default=24, ge=1)
    oldest: int | None = Field(default=None, ge=1)


class TypeCurve(Forecaster):
    """Median curve of analogs matched to a well's known months; settings by leaving one well out.

    With `n` months known, `C` the logarithm of the type curve, `a` the level matched over the known months and `s` the
    slope of the well's own logarithm against `C`, the forecast for month `n + h` is
    `exp(a + (1 + w (s - 1)) (C(n + h) - C))`, `w = n / (n + tau)`.
    """

    Params = TypeCurveParams
    capabilities: ClassVar[Capabilities] = Capabilities(uses=frozenset({"plan", "static"}))
    params: TypeCurveParams
    library: Library
    settings: Settings
    hazard: Hazard
    errors: tuple[MixtureErrors, ...]
    """Per entry of `AGES`, then that of wells older than a type curve."""
    by_plan: bool
    whole_months: bool
    """Uptime is reported: a first month on stream for some days is as good as any."""

    def _fit(self, view: PanelView, *, seed: int) -> None:
        params = self.params
        grid = grid_of(view)
        past = on_stream_of(view, grid)
        self.by_plan = UPTIME in view.names("plan")
        self.whole_months = UPTIME in view.columns
        self.hazard = Hazard.learn(past.share)
        wells = Aligned.of(past, self._length(view.schema.horizon))
        places = Places.of(view, grid.ids, self._birthdays(view, wells))
        self.library = Library.of(grid.ids, places, wells, whole_months=self.whole_months, most=params.most_wells)
        where = {name: row for row, name in enumerate(grid.ids)}
        rows = np.array([where[name] for name in self.library.ids], dtype=np.int64)
        judged = _Judged(self, wells.rows(rows), places.rows(rows), view.schema.horizon)
        self.settings = judged.choose()
        floor = level_floor(past.y)
        old = self._old_errors(past, wells.born, view.schema.horizon, floor)
        self.errors = (*judged.errors(self.settings, old, floor=floor), _learned(old, floor))

    def _predict(self, view: PanelView) -> Answer:
        grid = grid_of(view)
        rows = grid.rows_of(view.series)
        past = on_stream_of(view, grid).rows(rows)
        wells = Aligned.of(past, self._length(self.horizon))
        places = Places.of(view, view.series, self._birthdays(view, wells))
        usual = np.repeat(past.usual_uptime()[:, None], self.horizon, axis=1)
        planned = plan_of(view, UPTIME) if self.by_plan else None
        shut, uptime = self.hazard.shut(past.share, self.horizon), usual
        if planned is not None:
            known = np.isfinite(planned)
            uptime = np.where(known, np.clip(planned, 0.0, 1.0), usual)
            shut = np.where(known, uptime <= SHUT, shut)
        rate = np.empty((len(rows), self.horizon))
        young = wells.months <= self.params.max_age
        shape, level = np.zeros(wells.log.shape), np.full(len(rows), np.nan)
        few = np.flatnonzero(young)
        chosen = self._chosen(self.settings.rule, [view.series[row] for row in few], places.rows(few))
        shape[few], level[few] = self.library.curves(chosen)
        rate[young] = self._onward(wells.rows(few), shape[few], level[few], wells.months[few], self.settings)
        old = np.flatnonzero(~young)
        rate[old] = self._own_level(past.rows(old))[:, None]
        rate = np.nan_to_num(rate, nan=0.0)
        center = rate * uptime
        values = np.empty((len(rows), self.horizon, len(LEVELS)))
        group = np.maximum(np.searchsorted(AGES, wells.months, side="right") - 1, 0)
        group = np.where(young, group, len(AGES))
        for its, errors in enumerate(self.errors):
            of = np.flatnonzero(group == its)
            width = np.maximum(rate[of, 0] * usual[of, 0], errors.floor)
            values[of] = errors.quantiles(center[of], width, shut[of])
        oldest = self.params.oldest
        told = wells.months <= (np.inf if oldest is None else oldest)
        series = np.array(view.series, dtype=object)
        reason = f"more than {oldest} months are known: no cold start"
        return Answer(answer_frame(series[told].tolist(), values[told]), dict.fromkeys(series[~told].tolist(), reason))

    # -- steps -----------------------------------------------------------------------------------------------------

    def _length(self, horizon: int) -> int:
        return self.params.max_age + horizon

    def _birthdays(self, view: PanelView, wells: Aligned) -> FloatArray:
        """Step of first production, counted from a fixed day, so that fits and forecasts agree."""
        since = view.schema.freq.steps_between(_EPOCH, view.cutoff)
        return np.asarray(since - wells.months + 1, dtype=np.float64)

    def _chosen(self, rule: str, ids: Sequence[str], places: Places) -> BoolArray:
        return self.library.analogs(rule, ids, places, nearest=self.params.nearest, least=self.params.least)

    def _onward(
        self, wells: Aligned, shape: FloatArray, level: FloatArray, months: IntArray, settings: Settings
    ) -> FloatArray:
        """`[N, H]` rates of days on stream after `months` known months, from what those tell and the type curve."""
        length, horizon = shape.shape[1], self.horizon
        age = np.arange(length)
        known = np.isfinite(wells.log) & (age < months[:, None])
        weight = np.where(known, settings.fade ** np.maximum(months[:, None] - 1 - age, 0), 0.0)
        if not self.whole_months:
            weight[:, 0] *= PARTIAL
        gap = np.where(known, wells.log - shape, 0.0)
        total = weight.sum(axis=1)
        pull = np.where(np.isfinite(level), settings.pull, 0.0)
        # A well with no usable month has only its analogs' level.
        pull = np.where((total <= 0) & np.isfinite(level), 1.0, pull)
        sums = (weight * gap).sum(axis=1) + pull * np.nan_to_num(level, nan=0.0)
        both = total + pull
        match = np.where(both > 0, sums / np.where(both > 0, both, 1.0), np.nan)
        pace = self._pace(wells.log, shape, known, settings)
        middle = np.where(total > 0, (weight * shape).sum(axis=1) / np.where(total > 0, total, 1.0), 0.0)
        ahead = np.take_along_axis(shape, np.minimum(months[:, None] + np.arange(horizon), length - 1), axis=1)
        fall = np.clip(pace[:, None] * (ahead - middle[:, None]), -LARGEST_FALL, LARGEST_FALL)
        return np.asarray(np.exp((match + middle)[:, None] + fall))

    def _pace(self, log: FloatArray, shape: FloatArray, known: BoolArray, settings: Settings) -> FloatArray:
        """`[N]` by how much faster than its analogs a well declines, drawn to 1."""
        use = known.copy()
        if not self.whole_months:
            use[:, 0] = False
        count = np.maximum(use.sum(axis=1), 1)[:, None]
        x = np.where(use, shape - np.where(use, shape, 0.0).sum(axis=1, keepdims=True) / count, 0.0)
        own = np.where(use, log, 0.0)
        y = np.where(use, own - own.sum(axis=1, keepdims=True) / count, 0.0)
        size = (x**2).sum(axis=1)
        slope = ((x * y).sum(axis=1) + RIDGE) / (size + RIDGE)
        months = use.sum(axis=1)
        weight = months / (months + settings.tau) if settings.tau > 0 else (months > 0).astype(float)
        return np.asarray(1.0 + weight * (np.clip(slope, 0.0, 3.0) - 1.0))

    def _own_level(self, past: OnStream) -> FloatArray:
        """`[N]` geometric mean of the rate of days on stream, months fading."""
        known = np.isfinite(past.rate)
        # Fading counts known months, so that a gap does not.
        back = known.sum(axis=1, keepdims=True) - known.cumsum(axis=1)
        weight = np.where(known, self.settings.fade**back, 0.0)
        with np.errstate(invalid="ignore", divide="ignore"):
            log = np.where(known, np.log(past.rate), 0.0)
        total = weight.sum(axis=1)
        some = total > 0
        return np.where(some, np.exp((weight * log).sum(axis=1) / np.where(some, total, 1.0)), np.nan)

    def _old_errors(self, past: OnStream, born: IntArray, horizon: int, floor: float) -> list[FloatArray]:
        """Per horizon, errors at the latest origins of wells that were older than a type curve."""
        last = past.y.shape[1] - 1
        errors: list[list[FloatArray]] = [[np.empty(0)] for _ in range(horizon)]
        for origin in range(max(self.params.max_age, last - self.params.origins), last):
            then = past.before(origin + 1)
            rate, usual = self._own_level(then), then.usual_uptime()
            level = np.maximum(rate * usual, floor)
            able = (origin + 1 - born > self.params.max_age) & (steps_since_known(then.y)[:, -1] <= LATEST)
            for step in range(1, min(horizon, last - origin) + 1):
                share = past.share[:, origin + step]
                uptime = np.where(np.isnan(share), usual, share) if self.by_plan else usual
                scaled = (past.y[:, origin + step] - rate * uptime) / level
                errors[step - 1].append(scaled[able & (share > SHUT) & np.isfinite(scaled)])
        return [np.concatenate(its) for its in errors]

    def _write(self, folder: Path) -> dict[str, Any]:
        settings = self.settings
        return {
            "library": self.library.to_json(),
            "settings": {
                "rule": settings.rule,
                "fade": settings.fade,
                "pull": settings.pull,
                "tau": settings.tau,
            },
            "hazard": self.hazard.to_json(),
            "errors": [its.to_json() for its in self.errors],
            "by_plan": self.by_plan,
            "whole_months": self.whole_months,
        }

    def _read(self, folder: Path, state: dict[str, Any]) -> None:
        self.library = Library.from_json(state["library"], self._length(self.horizon))
        self.settings = Settings(**state["settings"])
        self.hazard = Hazard.from_json(state["hazard"])
        self.errors = tuple(MixtureErrors.from_json(its) for its in state["errors"])
        self.by_plan, self.whole_months = bool(state["by_plan"]), bool(state["whole_months"])


class _Judged:
    """Forecasts of the analogs' own first months, each with itself left out of its analogs."""

    def __init__(self, model: TypeCurve, wells: Aligned, places: Places, horizon: int) -> None:
        self.model, self.wells, self.places, self.horizon = model, wells, places, horizon
        self.curves: dict[str, tuple[FloatArray, FloatArray]] = {}

    def choose(self) -> Settings:
        """The settings with the least error; a departure from the usual ones must pay, the more the fewer the wells."""
        best, least = USUAL, np.inf
        if len(self.wells.log) < 2:
            return best
        price = PRICE / len(self.wells.log)
        for rule in RULES:
            if not self._tells(rule):
                continue
            for its in self._settings(rule):
                changes = (its.rule != USUAL.rule) + (its.fade != USUAL.fade) + (its.pull != USUAL.pull)
                loss = self._loss(its) * (1.0 + price * (changes + (its.tau != USUAL.tau)))
                if loss < least:
                    best, least = its, loss
        return best

    def errors(self, settings: Settings, old: list[FloatArray], *, floor: float) -> tuple[MixtureErrors, ...]:
        """Per entry of `AGES`, from that age and its neighbours; too few errors give way to all ages, then to `old`."""
        scaled = [self._scaled(settings, months, floor) for months in AGES]
        everything = [np.concatenate([part[step] for part in scaled]) for step in range(self.horizon)]
        out = []
        for its in range(len(AGES)):
            near = scaled[max(its - 1, 0) : its + 2]
            pooled = [np.concatenate([part[step] for part in near]) for step in range(self.horizon)]
            choices = (pooled, everything, old)
            out.append(_learned(next((its for its in choices if its[0].size >= FEWEST_ERRORS), pooled), floor))
        return tuple(out)

    def _tells(self, rule: str) -> bool:
        if rule == "pad":
            return any(self.places.pads)
        if rule == "near":
            return bool(np.isfinite(self.places.at).all(axis=1).sum() > 1)
        return True

    @staticmethod
    def _settings(rule: str) -> list[Settings]:
        return [Settings(rule, *its) for its in product(FADES, PULLS, TAUS)]

    def _forecast(self, settings: Settings, months: int) -> FloatArray:
        model = self.model
        if settings.rule not in self.curves:
            chosen = model._chosen(settings.rule, model.library.ids, self.places)
            self.curves[settings.rule] = model.library.curves(chosen)
        shape, level = self.curves[settings.rule]
        known = np.full(len(shape), months, dtype=np.int64)
        return model._onward(self.wells, shape, level, known, settings)

    def _ahead(self, values: FloatArray, months: int) -> FloatArray:
        return values[:, months : months + self.horizon]

    def _loss(self, settings: Settings) -> float:
        """Mean absolute error of producing months up to a year old, wells weighed by the root of their level."""
        total, count = 0.0, 0.0
        level = np.exp(self.model.library.level)
        weight = np.sqrt(level / np.median(level)) / level
        for months in AGES:
            if months > 12 or months + self.horizon > self.wells.log.shape[1]:
                continue
            actual = np.exp(self._ahead(self.wells.log, months))
            error = np.abs(actual - self._forecast(settings, months)) * weight[:, None]
            known = np.isfinite(error)
            total += float(error[known].sum())
            count += float(known.sum())
        return total / count if count else 0.0

    def _scaled(self, settings: Settings, months: int, floor: float) -> list[FloatArray]:
        """Per horizon, errors of the calendar-day rate in shares of the first one foreseen, shut months left out."""
        rate = self._forecast(settings, months)
        share = self._ahead(self.wells.share, months)
        actual = self._ahead(self.wells.y, months)
        usual = usual_share(self.wells.share[:, :months])
        steps = actual.shape[1]
        uptime = np.where(np.isnan(share), usual[:, None], share) if self.model.by_plan else usual[:, None]
        level = np.maximum(rate[:, 0] * usual, floor)
        scaled = (actual - rate[:, :steps] * uptime) / level[:, None]
        counts = (share > SHUT) & np.isfinite(scaled) & (self.wells.months[:, None] > months)
        out = [scaled[counts[:, step], step] for step in range(steps)]
        return out + [np.empty(0)] * (self.horizon - steps)


def _learned(errors: list[FloatArray], floor: float) -> MixtureErrors:
    return MixtureErrors.learn(errors, noise=1.0, floor=floor, origins=0)


def _first_level(log: FloatArray, *, whole_months: bool) -> FloatArray:
    """`[N]` logarithm of the mean rate of the first clean months; a first month may be a part of one."""
    clean = np.exp(log)
    if not whole_months:
        clean[:, 0] = np.nan
    known = np.isfinite(clean)
    first = known & (known.cumsum(axis=1) <= CLEAN)
    count = first.sum(axis=1)
    mean = np.where(first, clean, 0.0).sum(axis=1) / np.maximum(count, 1)
    return np.where(count > 0, np.log(np.where(count > 0, mean, 1.0)), np.nan)


def _nearest(gap: FloatArray, count: int) -> BoolArray:
    """`[N, A]`: the `count` smallest known gaps of each row."""
    order = np.argsort(np.argsort(np.where(np.isnan(gap), np.inf, gap), axis=1, kind="stable"), axis=1, kind="stable")
    return np.asarray((order < count) & np.isfinite(gap))


def _plain(values: FloatArray) -> list[Any]:
    """Nested lists with None for NaN: JSON has no NaN."""
    return [[None if np.isnan(its) else float(its) for its in row] for row in values]
