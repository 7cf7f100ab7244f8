"""Connectivities of all pairs at once, so that no injector gives more than it injects.

Injector i splits its water over its producers and a loss: `f_ij = e^u_ij / (e^v_i + sum_k e^u_ik)`. Shares between 0
and 1 that sum to at most 1 are then a matter of form. `u` and `v` are normal around what the map says (a
logistic-normal distribution, Aitchison & Shen 1980, Biometrika 67(2) 261), the shape of the map's kernel is estimated
along with them as in Henderson's mixed-model equations, and the data enter as one quadratic form per producer. The mode
is found by Gauss-Newton and, near it, Newton steps with Levenberg's damping; the curvature reported is the former's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from nightcast.physics.connectivity_prior import Pairs
from nightcast.physics.waterflood import Bools, Floats, Ints

SHAPE_SPREAD = np.array([0.4, 0.7, 0.7])
"""Prior standard deviations of the kernel's log length and its two anisotropy parameters."""
FARTHEST: Final = 30.0
"""Farthest a step goes in any coordinate of the state; beyond, the quadratic it comes from says nothing."""


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


class _Problem:
    """Minus the log posterior of a state, and its derivatives."""

    def __init__(self, information: Information, pairs: Pairs, slots: Slots, prior: Prior, frozen: Bools) -> None:
        self.pairs, self.slots, self.prior = pairs, slots, prior
        n, injectors = len(slots.source), len(pairs.allowed)
        self.precision = np.zeros((n, n))
        for j in range(len(slots.near)):
            own = np.flatnonzero(slots.sink == j)
            self.precision[np.ix_(own, own)] = information.precision[j][np.ix_(slots.slot[own], slots.slot[own])]
        self.score = information.score[slots.sink, slots.slot]
        self.still = np.concatenate([frozen[slots.source], frozen, np.full(3, bool(frozen.all()))])
        self.held = frozen[slots.source]
        self.weight = np.concatenate([np.ones(n + injectors), SHAPE_SPREAD**-2])
        self.fixed = np.zeros(n)
        self.owner = np.concatenate([slots.source, np.arange(injectors)])
        self.same = self.owner[:, None] == self.owner[None]

    def hold(self, state: Floats) -> Floats:
        """Fix the shares of frozen injectors at the prior of this state, and return it without their own unknowns."""
        state = np.where(self.still, 0.0, state)
        self.fixed = split(state, self.pairs, self.slots, self.prior)[0]
        return state

    def cost(self, state: Floats) -> tuple[float, Floats, Floats]:
        """Minus the log posterior, connectivities and losses."""
        values, lost = split(state, self.pairs, self.slots, self.prior)
        values = np.where(self.held, self.fixed, values)
        fit = 0.5 * values @ self.precision @ values - self.score @ values
        return float(fit + 0.5 * (self.weight * state * state).sum()), values, lost

    def slope(self, state: Floats, values: Floats, lost: Floats) -> tuple[Floats, Floats]:
        """Of the connectivities in the logs of shares `(P, P + I)`, and of these in the state `(P + I, n)`."""
        n = len(values)
        every = np.concatenate([values, lost])
        shares = np.diag(every) - np.where(self.same, np.outer(every, every), 0.0)
        logs = np.zeros((len(every), len(state)))
        logs[np.arange(len(every)), np.arange(len(every))] = np.where(
            np.arange(len(every)) < n, self.prior.spread, self.prior.loss_spread
        )
        at = (self.slots.source, self.slots.sink)
        for k in range(3):
            step = np.zeros(3)
            step[k] = 1e-4
            ahead, behind = self.pairs.log_shares(state[-3:] + step), self.pairs.log_shares(state[-3:] - step)
            logs[:n, k - 3] = (ahead[at] - behind[at]) / 2e-4
        shares[:n][self.held] = 0.0
        logs[:, self.still] = 0.0
        return shares[:n], logs

    def bend(self, state: Floats, residual: Floats, values: Floats, lost: Floats, logs: Floats) -> Floats:
        """Second derivative of `residual @ connectivities` in the state, `(n, n)`."""
        n, every = len(values), np.concatenate([values, lost])
        pull = np.concatenate([np.where(self.held, 0.0, residual), np.zeros(len(lost))])
        mean = np.bincount(self.owner, every * pull, minlength=len(lost))
        push = every * (pull - mean[self.owner])
        cross = np.outer(push, every)
        out = logs.T @ (np.diag(push) - np.where(self.same, cross + cross.T, 0.0)) @ logs

        at, width = (self.slots.source, self.slots.sink), 1e-3
        moves = width * np.eye(3)

        def along(step: Floats) -> float:
            return float(push[:n] @ self.pairs.log_shares(state[-3:] + step)[at])

        for a, b in ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2)):
            if not self.still[-1]:
                plus, minus = moves[a] + moves[b], moves[a] - moves[b]
                second = (along(plus) - along(minus) - along(-minus) + along(-plus)) / (4 * width**2)
                out[a - 3, b - 3] += second
                out[b - 3, a - 3] += second if a != b else 0.0
        return np.asarray(out)


def solve(
    information: Information,
    pairs: Pairs,
    slots: Slots,
    prior: Prior,
    *,
    frozen: Bools,
    start: Floats | None = None,
    steps: int = 100,
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
    problem = _Problem(information, pairs, slots, prior, frozen)
    state = problem.hold(np.zeros(len(slots.source) + len(pairs.allowed) + 3) if start is None else start)
    now, values, lost = problem.cost(state)
    damping, moved, close = 1e-3, True, False
    for _ in range(steps):
        if moved:
            shares, logs = problem.slope(state, values, lost)
            slope = shares @ logs
            residual = problem.precision @ values - problem.score
            gradient = slope.T @ residual + problem.weight * state
            curvature = slope.T @ problem.precision @ slope + np.diag(problem.weight)
            model = curvature + problem.bend(state, residual, values, lost, logs) if close else curvature
        moved = False
        try:
            root = np.linalg.cholesky(model + damping * np.diag(np.diag(curvature)))
        except np.linalg.LinAlgError:  # not convex here: a shorter step, nearer to the gradient
            damping *= 5
            continue
        trial = state - np.linalg.solve(root.T, np.linalg.solve(root, gradient))
        if np.abs(trial - state).max() > FARTHEST and damping <= 1e6:
            damping *= 5
            continue
        then, new_values, new_lost = problem.cost(trial)
        if then < now:
            gain, moved = now - then, True
            state, now, values, lost = trial, then, new_values, new_lost
            if close and gain < 1e-10 * (1 + abs(now)) and damping < 0.1:  # a small gain of a short step proves nothing
                break
            close = close or gain < 1e-3 * (1 + abs(now))
            damping = max(damping / 5, 1e-9)
        elif damping > 1e6:
            break
        else:
            damping *= 5
    shares, logs = problem.slope(state, values, lost)
    slope = shares @ logs
    inverse = np.linalg.inv(slope.T @ problem.precision @ slope + np.diag(problem.weight))
    values, lost = split(state, pairs, slots, prior)
    return Shares(values, lost, state, np.asarray(0.5 * (inverse + inverse.T), dtype=np.float64), slope)
