"""Weights of one horizon from its rows: the optimum on the simplex, and greedy forward selection."""

from __future__ import annotations

from typing import Final

import numpy as np

from models.ensembles.cubes import Floats, filled
from nightcast.contracts.columns import LEVELS, QUANTILES

_LEVELS: Final = np.array(LEVELS)


def simplex_optimum(values: Floats, y: Floats, scale: Floats) -> Floats:
    """Minimise the mean scaled pinball loss over the simplex.

    The pinball loss is smoothed, `(sqrt(u^2 + e^2) + (2 tau - 1) u) / 2`, so that a quasi-Newton method (SLSQP)
    applies, and a small ridge towards equal weights makes the optimum unique when members agree. A gap counts as the
    mean of the members present, which is what their renormalised equal weights would give.
    """
    from scipy.optimize import minimize

    count = values.shape[1]
    equal = np.full(count, 1 / count)
    if count == 1 or not len(values):
        return equal
    members = (filled(values, equal) / scale[:, None, None]).transpose(0, 2, 1).reshape(-1, count)
    actual = np.repeat(y / scale, len(QUANTILES))
    tilt = 2 * np.tile(_LEVELS, len(values)) - 1
    start = np.abs(actual - members @ equal)
    typical = float(start.mean())
    if typical <= 0:
        return equal
    smooth = 0.02 * typical

    def objective(weights: Floats) -> tuple[float, Floats]:
        above = actual - members @ weights
        root = np.sqrt(above**2 + smooth**2)
        ridge = weights - equal
        value = float((root + tilt * above).mean()) / typical + 1e-3 * float(ridge @ ridge)
        slope = (above / root + tilt) / len(actual)
        return value, -(members.T @ slope) / typical + 2e-3 * ridge

    found = minimize(
        objective,
        equal,
        jac=True,
        method="SLSQP",
        bounds=[(0.0, 1.0)] * count,
        constraints={"type": "eq", "fun": lambda w: w.sum() - 1, "jac": lambda w: np.ones(count)},
        options={"maxiter": 200, "ftol": 1e-9},
    )
    weights = np.clip(np.asarray(found.x, dtype=float), 0.0, None)
    # A solver that stopped short is judged by what it reached, not by its flag.
    if not np.isfinite(weights).all() or weights.sum() <= 0:
        return equal
    weights = weights / weights.sum()
    return weights if objective(weights)[0] <= objective(equal)[0] else equal


def greedy_selection(values: Floats, y: Floats, scale: Floats, *, rounds: int = 40, patience: int = 10) -> Floats:
    """Weights by forward selection with replacement (Caruana et al. 2004, ensemble selection from libraries of models).

    Starting from nothing, each round adds the member, new or again, with which the mean of all added ones has the
    least scaled pinball loss; a member's weight is its share of the additions up to the best round. A member that
    never helps gets exactly none. A gap counts as the mean of the members present. Among equal ones the first is taken.

    Parameters
    ----------
    values
        (rows, members, levels), NaN where a member lacks the row.
    y, scale
        Actuals, and what losses are divided by.
    rounds
        Most additions; the finest weight is one over it.
    patience
        Additions in a row without a gain after which the search ends.
    """
    count = values.shape[1]
    equal = np.full(count, 1 / count)
    if count == 1 or not len(values):
        return equal
    members = filled(values, equal) / scale[:, None, None]
    actual = (y / scale)[:, None]
    counts, best = np.zeros(count), equal
    total = np.zeros(members[:, 0].shape)
    least, found = np.inf, 0
    for added in range(1, rounds + 1):
        losses = np.empty(count)
        for i in range(count):
            above = actual - (total + members[:, i]) / added
            losses[i] = np.maximum(_LEVELS * above, (_LEVELS - 1) * above).mean()
        pick = int(np.argmin(losses))
        counts[pick] += 1
        total += members[:, pick]
        if losses[pick] < least * (1 - 1e-9):
            least, found, best = float(losses[pick]), added, counts / added
        elif added - found >= patience:
            break
    return best
