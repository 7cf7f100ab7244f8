"""Stacked quantiles: a meta-model moves the median of the weighted members, their spread goes with it.

Nothing but the members' rows is read when a stack is applied: it works in ratios to the weighted median, so that no
series' scale is needed with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, Protocol

import numpy as np

from models.ensembles.cubes import MEDIAN, Bools, Cube, Floats, combined
from nightcast.contracts.recipe import MetaPlan

_LEAST_LEVEL: Final = 0.1
"""Smallest level that deviations are divided by, as a share of the training rows' median scale."""
_BOOSTING: Final[dict[str, Any]] = {
    "objective": "regression_l1",
    "learning_rate": 0.05,
    "num_leaves": 7,
    "lambda_l2": 1.0,
    "max_bin": 63,
    "feature_pre_filter": False,
    "deterministic": True,
    "force_row_wise": True,
    "num_threads": 1,
    "seed": 1,
    "verbosity": -1,
}


class Meta(Protocol):
    """A fitted meta-model."""

    def median(self, values: Floats, base: Floats, horizon: int) -> Floats:
        """The median of each row.

        Parameters
        ----------
        values
            (rows, members, levels) without gaps, the members in the order of the fit.
        base
            (rows, levels), the weighted members.
        """
        ...

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        ...


@dataclass(frozen=True)
class Ridge:
    """Horizon -> coefficients of the members' medians, without intercept: the median grows with the members."""

    coefficients: Mapping[int, Floats]

    def median(self, values: Floats, base: Floats, horizon: int) -> Floats:
        """The weighted sum of medians; the base's at a horizon that was never learned."""
        if horizon not in self.coefficients:
            return base[:, MEDIAN]
        return np.asarray(values[..., MEDIAN] @ self.coefficients[horizon])

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {"kind": "ridge", "coefficients": {str(h): its.tolist() for h, its in self.coefficients.items()}}


@dataclass(frozen=True)
class Boosting:
    """A LightGBM on the members' deviations from the base, their disagreement, the base's width, and the horizon.

    Attributes
    ----------
    text
        The booster in LightGBM's own text format.
    floor
        Smallest level that deviations are divided by, in the target's unit.
    """

    text: str
    floor: float

    def median(self, values: Floats, base: Floats, horizon: int) -> Floats:
        """The base's median plus the learned deviation, which is in units of the level."""
        if not len(base):
            return base[:, MEDIAN]
        level = _level(base, self.floor)
        moved = self._booster.predict(_inputs(values, base, level, horizon), num_threads=1)
        return np.asarray(base[:, MEDIAN] + level * np.asarray(moved))

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {"kind": "boosting", "text": self.text, "floor": self.floor}

    @cached_property
    def _booster(self) -> Any:
        from lightgbm import Booster

        return Booster(model_str=self.text)


@dataclass(frozen=True)
class Stack:
    """A meta-model and how far it is trusted.

    Attributes
    ----------
    members
        Places of the members it reads.
    trust
        Share of the way from the weighted median to the meta-model's.
    """

    meta: Meta
    members: tuple[int, ...]
    trust: float

    def shifted(self, base: Floats, values: Floats, horizon: int) -> Floats:
        """The base's quantiles (rows, levels), moved as far as the median moves, and sorted.

        A member that lacks a row counts as the base there, so its part goes to the others.
        """
        target = self.meta.median(_whole(values, base, self.members), base, horizon)
        return np.sort(base + self.trust * (target - base[:, MEDIAN])[:, None], axis=1)

    def to_json(self, labels: list[str]) -> dict[str, Any]:
        """As JSON values; `labels` are all members'."""
        return {"members": [labels[i] for i in self.members], "trust": self.trust, **self.meta.to_json()}

    @classmethod
    def from_json(cls, value: Mapping[str, Any], labels: list[str]) -> Stack:
        """Back from JSON values; `labels` hold every member of the stack."""
        meta: Meta
        if value["kind"] == "ridge":
            meta = Ridge({int(h): np.array(its, dtype=float) for h, its in value["coefficients"].items()})
        else:
            meta = Boosting(value["text"], float(value["floor"]))
        return cls(meta, tuple(labels.index(name) for name in value["members"]), float(value["trust"]))


def fit_stack(
    cubes: Mapping[int, Cube],
    rows: Mapping[int, Bools],
    weights: Mapping[int, Floats],
    plan: MetaPlan,
    *,
    members: tuple[int, ...],
    trust: float,
    origins: int,
    max_rows: int,
) -> Stack:
    """Learn a stack from some rows of all horizons.

    Parameters
    ----------
    rows
        Horizon -> which rows may be learned from.
    weights
        Horizon -> members' weights: what the meta-model departs from.
    members
        Places of the members that take part.
    origins
        Distinct origins of the rows.
    max_rows
        Rows per horizon; more are thinned evenly.
    """
    taken: dict[int, tuple[Floats, Floats, Floats, Floats]] = {}
    for horizon, cube in cubes.items():
        at = np.flatnonzero(rows[horizon])
        if len(at) > max_rows:
            at = at[np.linspace(0, len(at) - 1, max_rows).astype(int)]
        if not len(at):
            continue
        values = cube.values[at]
        base = combined(values, weights[horizon])
        taken[horizon] = _whole(values, base, members), base, cube.y[at], cube.scale[at]
    meta: Meta
    if plan.kind == "ridge":
        found = {}
        for horizon, (values, base, y, scale) in taken.items():
            own = weights[horizon][list(members)]
            anchor = own / own.sum() if own.sum() > 0 else np.full(len(members), 1 / len(members))
            found[horizon] = _ridge(values[..., MEDIAN], base[:, MEDIAN], y, scale, anchor, plan, origins)
        meta = Ridge(found)
    else:
        meta = _boosting(taken, plan)
    return Stack(meta, members, trust)


def _whole(values: Floats, base: Floats, members: tuple[int, ...]) -> Floats:
    its = values[:, list(members)]
    return np.where(np.isfinite(its[..., :1]), its, base[:, None, :])


def _ridge(
    medians: Floats, base: Floats, y: Floats, scale: Floats, anchor: Floats, plan: MetaPlan, origins: int
) -> Floats:
    """Coefficients of least scaled absolute error, with a ridge towards the weights (Hoerl & Kennard 1970).

    The absolute error is smoothed, `sqrt(u^2 + e^2)`, and asks for the median: a well's restart counts once, not
    squared.
    """
    from scipy.optimize import minimize

    x, actual = medians / scale[:, None], y / scale
    typical = float(np.abs(actual - base / scale).mean())
    if typical <= 0:
        return anchor
    smooth = 0.02 * typical
    pull = plan.strength / max(origins, 1)

    def objective(b: Floats) -> tuple[float, Floats]:
        above = actual - x @ b
        root = np.sqrt(above**2 + smooth**2)
        apart = b - anchor
        value = float(root.mean()) / typical + pull * float(apart @ apart)
        return value, -(x.T @ (above / root)) / len(actual) / typical + 2 * pull * apart

    bounds = [(0.0 if plan.nonnegative else None, None)] * len(anchor)
    found = minimize(objective, anchor, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": 500})
    # A solver that stopped short is judged by what it reached, not by its flag.
    better = np.isfinite(found.x).all() and objective(found.x)[0] <= objective(anchor)[0]
    return np.asarray(found.x, dtype=float) if better else anchor


def _boosting(taken: Mapping[int, tuple[Floats, Floats, Floats, Floats]], plan: MetaPlan) -> Boosting:
    from lightgbm import Dataset, train

    floor = _LEAST_LEVEL * float(np.median(np.concatenate([scale for _, _, _, scale in taken.values()])))
    inputs, targets, weights = [], [], []
    for horizon, (values, base, y, scale) in taken.items():
        level = _level(base, floor)
        inputs.append(_inputs(values, base, level, horizon))
        targets.append((y - base[:, MEDIAN]) / level)
        # Deviations are in units of the level, losses in units of the scale.
        weights.append(level / scale)
    data = Dataset(np.concatenate(inputs), np.concatenate(targets), weight=np.concatenate(weights))
    leaf = max(20, sum(map(len, targets)) // 50)
    booster = train({**_BOOSTING, "min_data_in_leaf": leaf}, data, num_boost_round=plan.rounds)
    return Boosting(booster.model_to_string(), floor)


def _level(base: Floats, floor: float) -> Floats:
    return np.asarray(np.maximum(np.abs(base[:, MEDIAN]), floor))


def _inputs(values: Floats, base: Floats, level: Floats, horizon: int) -> Floats:
    """(rows, members + 3): deviations of the medians, their spread, the base's width, the horizon."""
    apart = (values[..., MEDIAN] - base[:, MEDIAN, None]) / level[:, None]
    width = (base[:, -1] - base[:, 0]) / level
    inputs = np.column_stack([apart, apart.std(axis=1), width, np.full(len(base), float(horizon))])
    # A tree may split at 0: the last bit of a sum is not to decide on which side a row lies.
    return np.asarray(np.round(inputs, 9) + 0.0)
