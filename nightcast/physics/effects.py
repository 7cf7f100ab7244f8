"""What a change of injection, pressure or uptime does to a fitted field, and how surely.

A forecast's errors are judged by its residuals; an effect is never seen, so that its error is that of the fit. Each
draw has its own connectivities (from their intervals), time constants (from their likelihood), productivities (normal,
given the rest) and slow errors ahead, and a factor for what a tank leaves out.

Gauge noise makes a productivity too small, as it does any regression slope (attenuation, Fuller 1987, *Measurement
Error Models*, section 1.1), and most where a slow error leaves only quick moves to learn from. Pressures are therefore
replaced by set points, the means between their jumps: what a mean leaves out is independent of it and does not bias.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

import numpy as np

from nightcast.physics.balance import Slots
from nightcast.physics.likelihood import EXTRA, Linear, Producers, slow_error
from nightcast.physics.model import Crm
from nightcast.physics.waterflood import Floats, History, Waterflood

NINETY: Final = 1.6449
"""Standard deviations from the middle of a normal distribution to either end of its 90 % interval."""
PRODUCTIVITY_SPREAD: Final = 1.0
"""Standard deviation of a productivity around the field's ratio of productivity to rate, relative to it."""
TAU: Final = (60.0, 0.8)
"""Median (days) and log spread of the prior of time constants."""
PRICE: Final = 1.0
"""Price of a jump of set points, in logs of the number of months times the variance."""
LEFT_OUT: Final = 0.3
"""Log spread of true over told effects that remains when all draws are right: flow between tanks, productivities that
move, gauges. It was set on generated fields 1 to 3, others than those that the intervals are judged on."""
ROUNDS: Final = 4
"""How often the field's ratio of productivity to rate is learnt and used in turn."""


def set_points(pressure: Floats) -> Floats:
    """`(T, J)` pressures with each stretch between two jumps replaced by its mean; NaN stays.

    The stretches are the best of all (Jackson et al. 2005, IEEE Signal Processing Letters 12(2) 105): least squares
    plus a price per jump of `log T` times the variance, which comes from the median absolute move.
    """
    out = pressure.copy()
    for j in range(pressure.shape[1]):
        known = np.flatnonzero(np.isfinite(pressure[:, j]))
        if len(known) < 3:  # two values have no scatter to tell a jump from
            continue
        out[known, j] = _stretches(pressure[known, j])
    return out


def _stretches(values: Floats) -> Floats:
    count = len(values)
    scatter = float(np.median(np.abs(np.diff(values)))) / 0.6745 / np.sqrt(2.0)
    if scatter <= 0:
        return values
    price = PRICE * np.log(count) * scatter**2
    centred = values - values.mean()
    sums = np.concatenate([[0.0], np.cumsum(centred)])
    squares = np.concatenate([[0.0], np.cumsum(centred**2)])
    best, back = np.full(count + 1, -price), np.zeros(count + 1, dtype=np.int64)
    for end in range(1, count + 1):
        start = np.arange(end)
        cost = squares[end] - squares[start] - (sums[end] - sums[start]) ** 2 / (end - start)
        total = best[start] + cost + price
        back[end] = int(total.argmin())
        best[end] = total[back[end]]
    out = np.empty(count)
    last = count
    while last > 0:
        begin = int(back[last])
        out[begin:last] = values[begin:last].mean()
        last = begin
    return out


class Effects:
    """Draws of one fitted field.

    Parameters
    ----------
    field
        What the model was fitted to.
    draws
        How many.
    """

    def __init__(self, crm: Crm, field: Waterflood, *, draws: int, seed: int = 0) -> None:
        self.crm, self.field, self._rng = crm, field, np.random.default_rng(seed)
        params, taus = crm.params, np.array(crm.params.taus)
        self.slots = Slots.of(np.isfinite(crm.theta))
        self.delays = np.where(self.slots.used, self.slots.of_pairs(np.nan_to_num(crm.theta)), 1.0)
        self.history = History.of(field, params.least_uptime)
        self.observed = Producers.of(self.history, recency=params.recency, reference=crm.reference)
        quiet = History.of(replace(field, pressure=set_points(field.pressure)), params.least_uptime)
        producers = Producers.of(quiet, recency=params.recency, reference=crm.reference)
        water = producers.water(self.slots, self.delays)
        wells = np.arange(len(crm.tanks.tau))
        designs = np.stack([producers.design(water, replace(crm.tanks, tau=np.full(len(wells), tau))) for tau in taus])
        fitted = designs[np.abs(np.log(taus[:, None] / crm.tanks.tau)).argmin(axis=0), wells]
        shares = self.slots.of_pairs(crm.connectivity)
        weights = np.concatenate([shares, crm.coefficients], axis=1)
        rest = producers.relative - np.einsum("jtk,jk->jt", fitted, weights)
        self.noise = producers.covariance(crm.tanks, producers.robust_weights(rest, crm.tanks))

        below, above = (crm.connectivity - crm.low) / NINETY, (crm.high - crm.connectivity) / NINETY
        own = _extra(crm, producers, fitted, self.noise, shares)
        doubt = self.slots.of_pairs(0.5 * (below + above)) ** 2
        linear = Linear(np.concatenate([shares, own.mean], axis=1), np.concatenate([doubt, own.variance], axis=1))
        # The model's error is as much larger than the noise it sees here as it is behind the connectivities.
        chances = _chances(producers, designs, params.discrepancy**2 * self.noise, linear, taus)
        self.drawn: list[Crm] = []
        for _ in range(draws):
            z = self._rng.normal(size=crm.connectivity.shape)
            drawn = np.clip(crm.connectivity + z * np.where(z < 0, below, above), 0.0, None)
            drawn = drawn / np.maximum(drawn.sum(axis=1, keepdims=True), 1.0)
            at = (self._rng.random((len(wells), 1)) > np.cumsum(chances, axis=1)).sum(axis=1).clip(max=len(taus) - 1)
            normal = params.discrepancy * self._rng.normal(size=(len(wells), EXTRA))
            coefficients = _coefficients(
                producers, designs[at, wells], self.noise, self.slots.of_pairs(drawn), own, normal
            )
            coefficients[:, 1] = np.where(np.isfinite(crm.reference), np.maximum(coefficients[:, 1], 0.0), 0.0)
            tanks = replace(crm.tanks, tau=taus[at])
            self.drawn.append(replace(crm, connectivity=drawn, coefficients=coefficients, tanks=tanks))

    def of(self, days: Floats, base: Mapping[str, Floats], case: Mapping[str, Floats]) -> tuple[Floats, Floats]:
        """What the case changes, m3/d per calendar day.

        Parameters
        ----------
        days
            `(H,)` days of the months to come.
        base, case
            Complete plans: `uptime` and `pressure` `(H, J)` (pressure NaN without a gauge), `injection` `(H, I)`.

        Returns
        -------
        mean, draws
            `(H, J)` expected change, and `(draws, H, J)` changes with all that is not known of them; NaN for producers
            without a past.
        """
        tanks, months, horizon = self.crm.tanks, len(self.history.days), len(days)
        ahead = [self._after(days, plans) for plans in (base, case)]
        waters = [its.water(self.slots, self.delays) for its in ahead]
        steps = np.arange(1, horizon + 1)[:, None]
        grown = tanks.drift * np.sqrt(-np.expm1(-2.0 * steps / tanks.memory))
        plain, wide = [], []
        for crm in self.drawn:
            weights = np.concatenate([self.slots.of_pairs(crm.connectivity), crm.coefficients], axis=1)
            before, after = (
                np.einsum("jtk,jk->tj", its.regressors(water, crm.tanks), weights)
                for its, water in zip(ahead, waters, strict=True)
            )
            seen = self.observed.seen
            rest = np.where(seen, self.history.producing - before[:months], 0.0) / self.observed.level
            slow = slow_error(np.arange(months, months + horizon), np.arange(months), self.noise, rest.T, tanks).T
            carried_on = slow * self.observed.level[-1]
            error = grown * self._rng.normal(size=grown.shape[1]) * self.observed.level[-1]
            factor = np.exp(LEFT_OUT * self._rng.normal(size=grown.shape[1]))
            plain.append(self._change(before[months:] + carried_on, after[months:] + carried_on, base, case))
            off = carried_on + error
            wide.append(self._change(before[months:] + off, after[months:] + off, base, case) * factor)
        known = self.crm.fitted & self.observed.seen.any(axis=0)
        return np.where(known, np.mean(plain, axis=0), np.nan), np.where(known, np.stack(wide), np.nan)

    @staticmethod
    def _change(before: Floats, after: Floats, base: Mapping[str, Floats], case: Mapping[str, Floats]) -> Floats:
        return np.maximum(after, 0.0) * case["uptime"] - np.maximum(before, 0.0) * base["uptime"]

    def _after(self, days: Floats, plans: Mapping[str, Floats]) -> Producers:
        """The field's history and the months to come."""
        field, history, horizon = self.field, self.history, len(days)
        longer = History.of(
            Waterflood(
                days=np.concatenate([history.days, days]),
                rate=np.concatenate([field.rate, np.full((horizon, field.rate.shape[1]), np.nan)]),
                uptime=np.concatenate([history.uptime, plans["uptime"]]),
                pressure=np.concatenate([history.pressure, plans["pressure"]]),
                injection=np.concatenate([history.injection, plans["injection"]]),
                producers=field.producers,
                injectors=field.injectors,
            ),
            self.crm.params.least_uptime,
        )
        return replace(self.observed, history=replace(longer, begin=history.begin))


def _extra(crm: Crm, producers: Producers, design: Floats, noise: Floats, shares: Floats) -> Linear:
    """Prior of inflow, productivity and first state, the field's ratio of productivity to rate learnt anew."""
    typical, first, gauged = producers.typical, producers.first, producers.gauged & producers.seen.any(axis=0)
    ratio = float(np.median(crm.coefficients[gauged, 1] / typical[gauged])) if gauged.any() else 0.0
    nothing = np.zeros_like(shares)
    for turn in range(ROUNDS + 1):
        mean = np.where(producers.gauged, typical * max(ratio, 1e-4), 0.0)
        own = Linear(
            np.stack([crm.params.inflow * typical, mean, first], axis=1),
            np.stack([crm.params.inflow_spread * typical, PRODUCTIVITY_SPREAD * mean, first], axis=1) ** 2,
        )
        if turn == ROUNDS or not gauged.any():
            break
        full = Linear(np.concatenate([shares, own.mean], axis=1), np.concatenate([nothing, own.variance], axis=1))
        found = producers.posterior(design, noise, full)[gauged, -2]
        ratio = float(np.median(found / typical[gauged]))
    return own


def _chances(producers: Producers, designs: Floats, noise: Floats, linear: Linear, taus: Floats) -> Floats:
    """`(J, n)` posterior of the grid of time constants."""
    middle, spread = TAU
    worth = np.stack([producers.evidence(design, noise, linear) for design in designs], axis=1)
    worth = worth - 0.5 * (np.log(taus / middle) / spread) ** 2
    worth = np.exp(worth - worth.max(axis=1, keepdims=True))
    return np.asarray(worth / worth.sum(axis=1, keepdims=True))


def _coefficients(
    producers: Producers, design: Floats, noise: Floats, shares: Floats, own: Linear, normal: Floats
) -> Floats:
    """`(J, 3)` drawn from their normal distribution given the connectivities."""
    other = design[..., -EXTRA:]
    rest = producers.relative - np.einsum("jtk,jk->jt", design[..., :-EXTRA], shares)
    rest = rest - np.einsum("jtk,jk->jt", other, own.mean)
    both = np.linalg.solve(noise, np.concatenate([other, rest[..., None]], axis=2))
    # What has no variance (productivity without a gauge) is held by a variance of next to nothing.
    prior = 1.0 / np.maximum(own.variance, 1e-12)
    precision = other.transpose(0, 2, 1) @ both[..., :EXTRA] + np.eye(EXTRA) * prior[:, None]
    mean = np.linalg.solve(precision, other.transpose(0, 2, 1) @ both[..., EXTRA:])[..., 0]
    root = np.linalg.cholesky(precision)
    move = np.linalg.solve(root.transpose(0, 2, 1), normal[..., None])[..., 0]
    return np.asarray(own.mean + mean + move)
