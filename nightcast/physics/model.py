"""A fitted capacitance-resistance model of a field: who supports whom, and what the wells will do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Final

import numpy as np

from nightcast.contracts.errors import SourceError
from nightcast.physics.balance import Slots
from nightcast.physics.likelihood import Producers, Tanks, slow_error
from nightcast.physics.params import CrmParams
from nightcast.physics.tank import arriving
from nightcast.physics.waterflood import Bools, Floats, History, Waterflood, carried, require_possible

FORMAT: Final = 1


@dataclass(frozen=True)
class Crm:
    """A fitted field. `J` producers, `I` injectors, in the order of the waterflood it was fitted to.

    Attributes
    ----------
    connectivity
        `(I, J)` share of an injector's water that supports a producer; a row sums to at most 1.
    low, high
        `(I, J)` 90 % interval of it.
    identifiable
        `(I, J)` False where the data say next to nothing and the value is the map's.
    loss
        `(I,)` share of an injector's water that supports no producer.
    theta
        `(I, J)` delay of the water, days.
    coefficients
        `(J, 3)` constant inflow m3/d, productivity m3/d/bar, first state m3/d.
    tanks
        Time constants (days) and the rest of what is not linear.
    reference
        `(J,)` pressure that drawdowns are measured from, bar; NaN without a gauge.
    fitted
        `(J,)` producers that had at least one usable month.
    shape
        `(3,)` length of the distance kernel in metres, its anisotropy ratio, azimuth of the better direction in radians
        counter-clockwise from x.
    delay
        Days of delay at 400 m.
    """

    connectivity: Floats
    low: Floats
    high: Floats
    identifiable: Bools
    loss: Floats
    theta: Floats
    coefficients: Floats
    tanks: Tanks
    reference: Floats
    fitted: Bools
    shape: Floats
    delay: float
    params: CrmParams

    def support(self, field: Waterflood) -> Floats:
        """Water that reaches each producer, `(T, J)` m3/d: `sum_i f_ij EWMA(I_i)`. Later months change no earlier one.

        Raises
        ------
        SourceError
            If the field has other wells.
        """
        self._require_same(field)
        slots = self._slots
        water = arriving(carried(field.injection, 0.0), field.days, self._delays(slots), slots.near)
        return np.asarray(np.einsum("tjk,jk->tj", water, slots.of_pairs(self.connectivity)))

    def hindcast(self, field: Waterflood, *, producing_day: bool = False) -> Floats:
        """The model's rate in the field's months, `(T, J)` m3/d, never anchored to what was observed.

        Parameters
        ----------
        producing_day
            The rate of days on stream instead of the calendar-day rate.

        Raises
        ------
        SourceError
            If the field has other wells.
        """
        producers = self._prepared(field)
        rate = np.maximum(self._modelled(producers), 0.0)
        existing = np.arange(len(field.rate))[:, None] >= producers.history.begin
        rate = np.where(existing & self.fitted, rate, np.nan)
        return rate if producing_day else rate * producers.history.uptime

    def forecast(
        self,
        field: Waterflood,
        *,
        days: Floats,
        uptime: Floats | None = None,
        pressure: Floats | None = None,
        injection: Floats | None = None,
    ) -> Floats:
        """Calendar-day rates of the months after the field's, `(H, J)` m3/d; NaN for producers without a past.

        The slow error seen up to the origin is carried on and damped.

        Parameters
        ----------
        field
            Everything known at the origin.
        days
            `(H,)` days of the months to come.
        uptime, pressure, injection
            `(H, J)`, `(H, J)` and `(H, I)` as planned; what is None or NaN is unknown: then pressure and injection stay
            as they were last, and uptime is the producer's own mean of the last twelve months.

        Raises
        ------
        SourceError
            If the field has other wells, or a plan has the wrong shape or impossible values.
        """
        horizon, (months, wells) = len(days), field.rate.shape
        producers = self._prepared(field)
        history = producers.history
        shapes = {"uptime": wells, "pressure": wells, "injection": field.injection.shape[1]}
        plans = {}
        for (name, width), plan in zip(shapes.items(), (uptime, pressure, injection), strict=True):
            plans[name] = np.full((horizon, width), np.nan) if plan is None else np.asarray(plan, dtype=np.float64)
            if plans[name].shape != (horizon, width):
                raise SourceError(
                    f"the plan of {name} has shape {plans[name].shape}",
                    expected=f"{(horizon, width)}: months to come, wells",
                    remedy=f"give one row per month of `days` in `{name}`",
                )
        days = np.asarray(days, dtype=np.float64)
        require_possible(days, plans["uptime"], plans["injection"])
        usual = _usual_uptime(history)
        after = Waterflood(
            days=np.concatenate([history.days, days]),
            rate=np.concatenate([field.rate, np.full((horizon, wells), np.nan)]),
            uptime=np.concatenate([history.uptime, np.where(np.isnan(plans["uptime"]), usual, plans["uptime"])]),
            pressure=np.concatenate([history.pressure, plans["pressure"]]),
            injection=np.concatenate([history.injection, plans["injection"]]),
            producers=field.producers,
            injectors=field.injectors,
        )
        longer = History.of(after, self.params.least_uptime)
        longer = replace(longer, begin=history.begin)
        rate = self._modelled(replace(producers, history=longer))

        rest = np.where(producers.seen, history.producing - rate[:months], 0.0) / producers.level
        weight = producers.robust_weights(rest.T, self.tanks)
        slow = slow_error(
            np.arange(months, months + horizon),
            np.arange(months),
            producers.covariance(self.tanks, weight),
            rest.T,
            self.tanks,
        )
        ahead = np.maximum(rate[months:] + slow.T * producers.level[-1], 0.0) * longer.uptime[months:]
        return np.where(self.fitted & producers.seen.any(axis=0), ahead, np.nan)

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values; unknown numbers are null. `from_json` restores every bit."""
        arrays = {field.name: _plain(getattr(self, field.name)) for field in fields(self) if field.name in _ARRAYS}
        tanks = {field.name: _plain(getattr(self.tanks, field.name)) for field in fields(Tanks)}
        params = {
            name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self.params).items()
        }
        return {"format": FORMAT, **arrays, "tanks": tanks, "delay": self.delay, "params": params}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Crm:
        """Read what `to_json` wrote.

        Raises
        ------
        SourceError
            If it is not a fitted field of this format.
        """
        if value.get("format") != FORMAT:
            raise SourceError(
                f"a saved CRM has format {value.get('format')!r}",
                expected=f"format {FORMAT}",
                remedy="fit the field anew with this version",
            )
        try:
            arrays: dict[str, Any] = {name: _array(value[name], kind) for name, kind in _ARRAYS.items()}
            tanks = Tanks(**{field.name: _array(value["tanks"][field.name], "f8") for field in fields(Tanks)})
            params: dict[str, Any] = {
                name: tuple(v) if isinstance(v, list) else v for name, v in value["params"].items()
            }
            crm = cls(**arrays, tanks=tanks, delay=float(value["delay"]), params=CrmParams(**params))
        except (KeyError, TypeError, ValueError) as error:
            raise SourceError(
                f"a saved CRM is damaged ({type(error).__name__}: {error})",
                expected="what Crm.to_json wrote",
                remedy="fit the field anew",
            ) from error
        return crm

    @property
    def _slots(self) -> Slots:
        return Slots.of(np.isfinite(self.theta))

    def _prepared(self, field: Waterflood) -> Producers:
        self._require_same(field)
        history = History.of(field, self.params.least_uptime)
        return Producers.of(history, recency=self.params.recency, reference=self.reference)

    def _modelled(self, producers: Producers) -> Floats:
        """Producing-day rates `(T, J)`."""
        slots = self._slots
        regressors = producers.regressors(producers.water(slots, self._delays(slots)), self.tanks)
        weights = np.concatenate([slots.of_pairs(self.connectivity), self.coefficients], axis=1)
        return np.asarray(np.einsum("jtk,jk->tj", regressors, weights))

    def _delays(self, slots: Slots) -> Floats:
        return np.where(slots.used, slots.of_pairs(np.nan_to_num(self.theta)), 1.0)

    def _require_same(self, field: Waterflood) -> None:
        wanted = self.connectivity.shape
        found = (field.injection.shape[1], field.rate.shape[1])
        if found != wanted:
            raise SourceError(
                f"the field has {found[1]} producers and {found[0]} injectors",
                expected=f"the {wanted[1]} producers and {wanted[0]} injectors of the fit, in their order",
                remedy="fit the field anew, or give the wells it was fitted to",
            )


def _usual_uptime(history: History) -> Floats:
    """Mean share on stream of each producer's last twelve months, `(J,)`."""
    months = np.arange(len(history.uptime))[:, None]
    lived = (months >= history.begin) & (months >= len(months) - 12)
    total = np.where(lived, history.uptime, 0.0).sum(axis=0)
    return np.asarray(total / np.maximum(lived.sum(axis=0), 1))


_ARRAYS: Final = {
    "connectivity": "f8",
    "low": "f8",
    "high": "f8",
    "identifiable": "?",
    "loss": "f8",
    "theta": "f8",
    "coefficients": "f8",
    "reference": "f8",
    "fitted": "?",
    "shape": "f8",
}


def _plain(array: Floats | Bools) -> Any:
    """Nested lists, NaN as None; an axis of length 0 is kept by its shape."""
    values = [None if value != value else value for value in array.ravel().tolist()]
    return {"shape": list(array.shape), "values": values}


def _array(value: Mapping[str, Any], kind: str) -> Any:
    values = [np.nan if number is None else number for number in value["values"]]
    return np.array(values, dtype=kind).reshape(value["shape"])
