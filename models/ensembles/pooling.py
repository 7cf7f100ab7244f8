"""Joining class probabilities: pools, simplex weights and a stacked logistic, on plain arrays.

Arrays are `[M, n, K]`: members, decisions, classes.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

FLOOR: Final = 1e-6
"""Probabilities below this are raised to it before a logarithm is taken."""


def logs(probs: Floats) -> Floats:
    """Logarithms of probabilities, floored."""
    return np.asarray(np.log(np.clip(probs, FLOOR, 1.0)))


def softmax(scores: Floats) -> Floats:
    """Softmax over the last axis."""
    moved = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return np.asarray(moved / moved.sum(axis=-1, keepdims=True))


def log_pool(probs: Floats, weights: Floats) -> Floats:
    """Logarithmic opinion pool, `[n, K]`: proportional to the product of `p_m ** w_m` (Genest & Zidek 1986)."""
    return softmax(np.tensordot(weights, logs(probs), axes=1))


def log_loss(probs: Floats, y: NDArray[np.int8], weight: Floats | None = None) -> float:
    """Weighted mean negative log probability of the true class of `[n, K]` probabilities."""
    picked = -logs(probs)[np.arange(len(y)), y]
    return float(np.average(picked, weights=weight))


def simplex_weights(probs: Floats, y: NDArray[np.int8], weight: Floats | None = None, *, steps: int = 200) -> Floats:
    """Weights of a log pool, not negative and summing to 1, that minimise its log loss.

    The loss is convex in the weights; exponentiated gradient steps (Kivinen & Warmuth 1997) stay on the simplex.
    """
    members, n = probs.shape[0], probs.shape[1]
    w = np.full(members, 1.0 / members)
    if members == 1 or n == 0:
        return w
    z = logs(probs)
    mass = np.full(n, 1.0 / n) if weight is None else weight / weight.sum()
    true = z[:, np.arange(n), y] @ mass
    best, best_loss, rate = w, np.inf, 1.0
    for _ in range(steps):
        scores = np.tensordot(w, z, axes=1)
        top = scores.max(axis=1, keepdims=True)
        total = np.exp(scores - top).sum(axis=1, keepdims=True)
        loss = float(((top + np.log(total))[:, 0]) @ mass - w @ true)
        if loss < best_loss - 1e-12:
            best, best_loss, rate = w, loss, min(rate * 1.1, 50.0)
        else:
            w, rate = best, rate / 2
            if rate < 1e-3:
                break
            continue
        pooled = np.exp(scores - top) / total
        gradient = np.einsum("mnk,nk,n->m", z, pooled, mass) - true
        step = w * np.exp(-rate * (gradient - gradient.min()))
        w = step / step.sum()
    return np.asarray(best)


def log_odds(probs: Floats) -> Floats:
    """`[n, M * (K - 1)]` log-odds of each member's classes against its middle class."""
    z = logs(probs)
    middle = z.shape[2] // 2
    others = [k for k in range(z.shape[2]) if k != middle]
    return np.concatenate([z[m][:, others] - z[m][:, [middle]] for m in range(z.shape[0])], axis=1)


def fit_stack(probs: Floats, y: NDArray[np.int8], weight: Floats | None = None, *, strength: float = 10.0) -> Floats:
    """Multinomial logistic regression on the members' log-odds, L2-penalised towards their equal log pool.

    Returns `[M * (K - 1) + 1, K]` coefficients, the last row the intercepts; a class that never occurs keeps the
    pool's own score.
    """
    from scipy.optimize import minimize

    members, n, classes = probs.shape
    x = np.column_stack([log_odds(probs), np.ones(n)])
    mass = np.full(n, 1.0 / n) if weight is None else weight / weight.sum()
    start = equal_stack(members, classes)
    hot = np.zeros((n, classes))
    hot[np.arange(n), y] = 1.0

    def objective(flat: Floats) -> tuple[float, Floats]:
        c = flat.reshape(start.shape)
        p = softmax(x @ c)
        distance = c - start
        value = -float(np.log(np.clip(p[np.arange(n), y], 1e-300, None)) @ mass) + strength / n * float(
            (distance**2).sum()
        )
        gradient = x.T @ ((p - hot) * mass[:, None]) + 2 * strength / n * distance
        return value, gradient.ravel()

    found = minimize(objective, start.ravel(), jac=True, method="L-BFGS-B", options={"maxiter": 200})
    return np.asarray(found.x.reshape(start.shape))


def equal_stack(members: int, classes: int) -> Floats:
    """The coefficients that make a stack the members' equal log pool."""
    middle = classes // 2
    others = [k for k in range(classes) if k != middle]
    out = np.zeros((members * (classes - 1) + 1, classes))
    for m in range(members):
        for place, k in enumerate(others):
            out[m * (classes - 1) + place, k] = 1.0 / members
    return out


def apply_stack(probs: Floats, coefficients: Floats) -> Floats:
    """`[n, K]` probabilities of a fitted stack."""
    x = np.column_stack([log_odds(probs), np.ones(probs.shape[1])])
    return softmax(x @ coefficients)
