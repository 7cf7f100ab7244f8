"""What each producer's history says about its tank, its noise and its connectivities.

Producing-day rates are `X beta + slow error + noise`, relative to the producer's level. The slow error stands for what
the tank leaves out (workovers, skin, neighbours) and follows an Ornstein-Uhlenbeck process; it is also what carries the
level at a forecast's origin on and damps it. Everything linear has a normal prior and is integrated out, so that tanks
are compared by marginal likelihood (Rasmussen & Williams 2006, section 2.7). All producers are worked on at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from nightcast.physics.balance import Information, Slots
from nightcast.physics.tank import arriving, regressors
from nightcast.physics.waterflood import Bools, Floats, History, Ints

EXTRA = 3
"""Regressors after the injectors': constant inflow, productivity, first state."""
SHORT_MONTH = 0.3
"""How much the variance of a producing-day rate grows with days off stream per day on stream."""
HUBER = 2.0
"""Standardised noise from which a month counts less."""


@dataclass(frozen=True)
class Tanks:
    """What is not linear, `(J,)` each.

    Attributes
    ----------
    tau
        Time constant, days.
    leak
        Outflow other than the well's, relative to the well's.
    drift, memory
        Standard deviation (relative to the level) and memory (months) of the slow error.
    noise
        Standard deviation of a month's noise, relative to the level.
    """

    tau: Floats
    leak: Floats
    drift: Floats
    memory: Floats
    noise: Floats


@dataclass(frozen=True)
class Linear:
    """Normal distribution of what is linear, independent; `(J, K + 3)` each."""

    mean: Floats
    variance: Floats


def level_of(producing: Floats) -> tuple[Floats, Floats]:
    """Each producer's typical rate `(J,)`, and its level month by month `(T, J)`, half way to the running median."""
    months, producers = producing.shape
    typical, level = np.ones(producers), np.ones((months, producers))
    rates = producing[~np.isnan(producing)]
    least = (
        max(0.01 * float(np.median(rates)), 1e-3) if len(rates) else 1.0
    )  # a well that gives nothing has a level too
    for j in range(producers):
        known = np.flatnonzero(~np.isnan(producing[:, j]))
        if not len(known):
            continue
        values = producing[known, j]
        middle = float(np.median(values))
        typical[j] = max(middle if middle > 0 else float(values.mean()), least)
        near = np.abs(known[:, None] - np.arange(months)[None]) <= 3
        local = np.full(months, typical[j])
        for t in np.flatnonzero(near.any(axis=0)):
            local[t] = np.median(values[near[:, t]])
        level[:, j] = np.maximum(0.5 * (typical[j] + local), 0.1 * typical[j])
    return typical, level


def theta_of(distance: Floats, slots: Slots, delay: float) -> Floats:
    """Delay of each slot `(J, K)` in days: diffusion, so the square of distance; `delay` is that of 400 m.

    Parameters
    ----------
    distance
        `(I, J)` metres; NaN unknown, which takes the delay of 400 m.
    """
    relative = slots.of_pairs(np.where(np.isnan(distance), 1.0, np.nan_to_num(distance) / 400.0))
    return np.clip(np.where(slots.used, relative, 1.0) ** 2 * delay, 3.0, 180.0)


@dataclass(frozen=True)
class Producers:
    """All producers' histories, ready to be compared with tanks.

    Attributes
    ----------
    level, seen
        `(T, J)` level of the rate in m3/d; months with a usable rate.
    typical, first
        `(J,)` median producing-day rate, and the mean of the first three.
    reference, gauged
        `(J,)` reference pressure in bar; producers with a pressure gauge.
    relative
        `(J, T)` producing-day rate over level, 0 where not seen.
    spread
        `(J, T)` variance of a month's noise relative to that of a whole, recent month.
    """

    history: History
    level: Floats
    seen: Bools
    typical: Floats
    first: Floats
    reference: Floats
    gauged: Bools
    relative: Floats
    spread: Floats

    @classmethod
    def of(cls, history: History, *, recency: float, reference: Floats | None = None) -> Producers:
        """Prepare histories.

        Parameters
        ----------
        recency
            Weight of a month against the month after it.
        reference
            `(J,)` reference pressures of an earlier fit, NaN without a gauge; None: each producer's median.
        """
        seen = ~np.isnan(history.producing)
        typical, level = level_of(history.producing)
        heads = [rate[known][:3] for rate, known in zip(history.producing.T, seen.T, strict=True)]
        first = np.array(
            [max(head.mean(), 0.1 * t) if len(head) else t for head, t in zip(heads, typical, strict=True)]
        )
        if reference is None:
            known = ~np.isnan(history.pressure)
            reference = np.array(
                [np.median(p[k]) if k.any() else np.nan for p, k in zip(history.pressure.T, known.T, strict=True)]
            )
        age = len(seen) - 1 - np.arange(len(seen))
        off = (1 - history.uptime.T) / np.maximum(history.uptime.T, 0.1)
        return cls(
            history=history,
            level=level,
            seen=seen,
            typical=typical,
            first=first,
            reference=reference,
            gauged=~np.isnan(reference),
            relative=np.where(seen, history.producing / level, 0.0).T,
            spread=np.where(seen.T, (1 + SHORT_MONTH * off) / recency**age, 1.0),
        )

    def water(self, slots: Slots, theta: Floats) -> Floats:
        """Arriving injection of each slot, `(T, J, K)`, with delays `(J, K)` in days."""
        return np.where(slots.used, arriving(self.history.injection, self.history.days, theta, slots.near), 0.0)

    def regressors(self, water: Floats, tanks: Tanks) -> Floats:
        """`(J, T, K + 3)`, m3/d per unit of each coefficient."""
        drawdown = np.where(self.gauged, self.history.pressure - np.nan_to_num(self.reference), 0.0)
        return regressors(
            water,
            np.nan_to_num(drawdown),
            uptime=self.history.uptime,
            days=self.history.days,
            tau=tanks.tau,
            leak=tanks.leak,
            begin=self.history.begin,
        )

    def design(self, water: Floats, tanks: Tanks) -> Floats:
        """`(J, T, K + 3)` regressors of the relative rate, 0 in months that are not seen."""
        return self.regressors(water, tanks) * (self.seen / self.level).T[..., None]

    def covariance(self, tanks: Tanks, weight: Floats) -> Floats:
        """`(J, T, T)` of slow error and noise; unseen months stand apart with variance 1.

        Parameters
        ----------
        weight
            `(J, T)` robust weights of the months.
        """
        months = np.arange(len(self.seen))
        lag = np.abs(months[:, None] - months[None])
        both = self.seen.T[:, :, None] & self.seen.T[:, None, :]
        slow = np.exp(-lag / tanks.memory[:, None, None]) * (tanks.drift**2)[:, None, None]
        out = np.where(both, slow, 0.0)
        out[:, months, months] += np.where(self.seen.T, tanks.noise[:, None] ** 2 * self.spread / weight, 1.0)
        return out

    def evidence(self, design: Floats, covariance: Floats, linear: Linear) -> Floats:
        """Log marginal likelihood of each producer, `(J,)`, less a constant."""
        total = covariance + (design * linear.variance[:, None]) @ design.transpose(0, 2, 1)
        rest = self.relative - np.einsum("jtk,jk->jt", design, linear.mean)
        root = np.linalg.cholesky(total)
        fit = (rest * np.linalg.solve(total, rest[..., None])[..., 0]).sum(axis=1)
        return np.asarray(-0.5 * fit - np.log(np.diagonal(root, axis1=1, axis2=2)).sum(axis=1))

    def posterior(self, design: Floats, covariance: Floats, linear: Linear) -> Floats:
        """Mean of the coefficients, `(J, K + 3)`."""
        total = covariance + (design * linear.variance[:, None]) @ design.transpose(0, 2, 1)
        rest = self.relative - np.einsum("jtk,jk->jt", design, linear.mean)
        pull = np.linalg.solve(total, rest[..., None])[..., 0]
        return np.asarray(linear.mean + linear.variance * np.einsum("jtk,jt->jk", design, pull))

    def robust_weights(self, rest: Floats, tanks: Tanks, rounds: int = 2) -> Floats:
        """`(J, T)` weights of Huber's: 1, less where the noise (not the slow error) is large.

        Parameters
        ----------
        rest
            `(J, T)` relative rate less its fit.
        """
        weight = np.ones_like(rest)
        spread = tanks.noise[:, None] * np.sqrt(self.spread)
        for _ in range(rounds):
            pull = np.linalg.solve(self.covariance(tanks, weight), rest[..., None])[..., 0]
            noise = np.abs(pull * spread / weight)
            weight = np.where(self.seen.T, np.clip(HUBER / np.maximum(noise, 1e-12), 0.05, 1.0), 1.0)
        return weight

    def whitened(self, design: Floats, covariance: Floats, extra: Linear) -> tuple[Floats, Floats]:
        """Injectors' regressors `(J, T, K)` and rates `(J, T)` as innovations, the other coefficients integrated out.

        Parameters
        ----------
        extra
            Distribution of the last three coefficients, `(J, 3)` each.
        """
        own, other = design[..., :-EXTRA], design[..., -EXTRA:]
        total = covariance + (other * extra.variance[:, None]) @ other.transpose(0, 2, 1)
        rest = self.relative - np.einsum("jtk,jk->jt", other, extra.mean)
        root = np.linalg.cholesky(total)
        both = np.linalg.solve(root, np.concatenate([own, rest[..., None]], axis=2))
        return both[..., :-1], both[..., -1]


def information_of(white: Floats, rest: Floats) -> Information:
    """The quadratic form in the connectivities behind whitened regressors and rates."""
    return Information(white.transpose(0, 2, 1) @ white, np.einsum("jtk,jt->jk", white, rest))


def tune(
    value: Callable[[Tanks], Floats], tanks: Tanks, grids: Mapping[str, Sequence[float]], passes: int
) -> tuple[Tanks, Floats]:
    """Improve tanks coordinate by coordinate over grids, each producer for itself.

    Parameters
    ----------
    value
        Tanks to `(J,)` what is to be largest.
    """
    best = value(tanks)
    for _ in range(passes):
        for name, grid in grids.items():
            for point in grid:
                now = getattr(tanks, name)
                trial = value(replace(tanks, **{name: np.full_like(now, point)}))
                better = trial > best
                tanks = replace(tanks, **{name: np.where(better, point, now)})
                best = np.where(better, trial, best)
    return tanks, best


def slow_error(lag_to: Ints, lag_within: Ints, covariance: Floats, rest: Floats, tanks: Tanks) -> Floats:
    """The slow error expected in later months, `(J, H)` (simple kriging).

    Parameters
    ----------
    lag_to, lag_within
        Months `(H,)` of the forecast and `(T,)` of the history, counted alike.
    covariance
        `(J, T, T)` of the history.
    rest
        `(J, T)` relative rate less its fit, 0 where not seen.
    """
    pull = np.linalg.solve(covariance, rest[..., None])[..., 0]
    apart = np.abs(lag_to[:, None] - lag_within[None])
    cross = (tanks.drift**2)[:, None, None] * np.exp(-apart[None] / tanks.memory[:, None, None])
    return np.asarray(np.einsum("jht,jt->jh", cross, pull))
