"""Connectivities of all pairs at once, so that no injector gives more than it injects.

Injector i splits its water over its producers and a loss: `f_ij = e^u_ij / (e^v_i + sum_k e^u_ik)`. Shares between 0
and 1 that sum to at most 1 are then a matter of form. `u` and `v` are normal around what the map says (a
logistic-normal distribution, Aitchison & Shen 1980, Biometrika 67(2) 261), the shape of the map's kernel is estimated
along with them as in Henderson's mixed-model equations, and the data enter as one quadratic form per producer. The mode
is found by Gauss-Newton steps with Levenberg's damping.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nightcast.physics.connectivity_prior import Pairs
from nightcast.physics.waterflood import Bools, Floats, Ints

SHAPE_SPREAD = np.array([0.4, 0.7, 0.7])
"""Prior standard deviations of the kernel's log length and its two anisotropy parameters."""


@dataclass(frozen=True)
class Slots:
    """Each producer's injectors: `K` slots, and the same as a list of `P` pairs.

    Attributes
    ----------
    near
        `(J, K)` injector of each slot.
    used
        `(J, K)` False where a producer has fewer injectors than slots.
    source, sink, slot
        `(P,)` injector, producer and slot of each pair.
    """

    near: Ints
    used: Bools
    source: Ints
    sink: Ints
    slot: Ints

    @classmethod
    def of(cls, within: Bools) -> Slots:
        """Slots of the pairs within reach, `(I, J)`."""
        allowed = within.T
        width = int(allowed.sum(axis=1).max(initial=0))
        near = np.argsort(~allowed, axis=1, kind="stable")[:, :width].astype(np.int64)
        used = np.take_along_axis(allowed, near, axis=1)
        sink, slot = np.nonzero(used)
        return cls(near, used, near[sink, slot], sink.astype(np.int64), slot.astype(np.int64))

    def of_pairs(self, matrix: Floats) -> Floats:
        """`(I, J)` values as `(J, K)`, 0 in unused slots."""
        return np.where(self.used, np.take_along_axis(matrix.T, self.near, axis=1), 0.0)

    def to_matrix(self, values: Floats, injectors: int) -> Floats:
        """`(P,)` values as `(I, J)`, 0 out of reach."""
        out = np.zeros((injectors, len(self.near)))
        out[self.source, self.sink] = values
        return out


@dataclass(frozen=True)
class Information:
    """The data's log-likelihood of the connectivities, `sum_j g_j f_j - f_j H_j f_j / 2`.

    Attributes
    ----------
    precision
        `(J, K, K)` H.
    score
        `(J, K)` g.
    """

    precision: Floats
    score: Floats


@dataclass(frozen=True)
class Prior:
    """Normal distributions of the logs of shares.

    Attributes
    ----------
    loss
        Share of injected water that is lost, typically.
    spread, loss_spread
        Standard deviations of a pair's and a loss's log around the map.
    """

    loss: float
    spread: float
    loss_spread: float


@dataclass(frozen=True)
class Shares:
    """The mode and its neighbourhood.

    Attributes
    ----------
    values
        `(P,)` connectivities.
    lost
        `(I,)` loss shares.
    state
        `(P + I + 3,)` standardised logs of pairs and losses, and the kernel's shape.
    inverse
        `(n, n)` inverse of the curvature in the state; the covariance in Laplace's approximation.
    slope
        `(P, n)` of the connectivities in the state.
    """

    values: Floats
    lost: Floats
    state: Floats
    inverse: Floats
    slope: Floats

    @property
    def shape(self) -> Floats:
        """`(3,)` the kernel's shape."""
        return self.state[-3:]


def split(state: Floats, pairs: Pairs, slots: Slots, prior: Prior) -> tuple[Floats, Floats]:
    """Connectivities `(P,)` and losses `(I,)` of a state."""
    n, injectors = len(slots.source), len(pairs.allowed)
    mean = pairs.log_shares(state[-3:])[slots.source, slots.sink]
    pair = np.log1p(-prior.loss) + mean + prior.spread * state[:n]
    lost = np.log(prior.loss) + prior.loss_spread * state[n : n + injectors]
    top = lost.copy()
    np.maximum.at(top, slots.source, pair)
    pair, lost = np.exp(pair - top[slots.source]), np.exp(lost - top)
    total = lost + np.bincount(slots.source, pair, minlength=injectors)
    return pair / total[slots.source], lost / total


def solve(
    information: Information,
    pairs: Pairs,
    slots: Slots,
    prior: Prior,
    *,
    frozen: Bools,
    start: Floats | None = None,
    steps: int = 60,
) -> Shares:
    """Find the most probable connectivities.

    Parameters
    ----------
    information
        What each producer's history says.
    frozen
        `(I,)` injectors that data can say nothing about: their shares stay at the prior.
    start
        State to begin from.
    """
    n, injectors = len(slots.source), len(pairs.allowed)
    size = n + injectors + 3
    state = np.zeros(size) if start is None else start.copy()
    precision = np.zeros((n, n))
    for j in range(len(slots.near)):
        own = np.flatnonzero(slots.sink == j)
        precision[np.ix_(own, own)] = information.precision[j][np.ix_(slots.slot[own], slots.slot[own])]
    score = information.score[slots.sink, slots.slot]

    still = np.concatenate([frozen[slots.source], frozen, np.full(3, bool(frozen.all()))])
    state[still] = 0.0
    held = frozen[slots.source]
    fixed = np.where(held, split(state, pairs, slots, prior)[0], 0.0)
    weight = np.concatenate([np.ones(n + injectors), SHAPE_SPREAD**-2])

    def cost(state: Floats) -> tuple[float, Floats, Floats]:
        values, lost = split(state, pairs, slots, prior)
        values = np.where(held, fixed, values)
        fit = 0.5 * values @ precision @ values - score @ values
        return float(fit + 0.5 * (weight * state * state).sum()), values, lost

    def slope_at(state: Floats, values: Floats, lost: Floats) -> Floats:
        slope = np.zeros((n, size))
        same = slots.source[:, None] == slots.source[None]
        slope[:, :n] = prior.spread * (np.diag(values) - np.where(same, np.outer(values, values), 0.0))
        rows = np.arange(n)
        slope[rows, n + slots.source] = -prior.loss_spread * values * lost[slots.source]
        for k in range(3):
            step = np.zeros(3)
            step[k] = 1e-4
            at = (slots.source, slots.sink)
            change = (pairs.log_shares(state[-3:] + step)[at] - pairs.log_shares(state[-3:] - step)[at]) / 2e-4
            mean = np.bincount(slots.source, values * change, minlength=injectors)
            slope[:, n + injectors + k] = values * (change - mean[slots.source])
        slope[held] = 0.0
        slope[:, still] = 0.0
        return slope

    damping = 1e-3
    now, values, lost = cost(state)
    slope = slope_at(state, values, lost)
    curvature = slope.T @ precision @ slope + np.diag(weight)
    for _ in range(steps):
        downhill = slope.T @ (score - precision @ values) - weight * state
        trial = state + np.linalg.solve(curvature + damping * np.diag(np.diag(curvature)), downhill)
        then, new_values, new_lost = cost(trial)
        if then < now:
            gain, now = now - then, then
            state, values, lost = trial, new_values, new_lost
            slope = slope_at(state, values, lost)
            curvature = slope.T @ precision @ slope + np.diag(weight)
            if gain < 1e-6 * (1 + abs(now)) and damping < 0.1:  # a small gain of a short step proves nothing
                break
            damping = max(damping / 5, 1e-9)
        else:
            damping *= 5
            if damping > 1e6:
                break
    values, lost = split(state, pairs, slots, prior)
    inverse = np.linalg.inv(curvature)
    return Shares(values, lost, state, np.asarray(0.5 * (inverse + inverse.T), dtype=np.float64), slope)
