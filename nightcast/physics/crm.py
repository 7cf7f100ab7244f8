"""The capacitance-resistance model of a field, fitted: tanks and noise, connectivities, both again, then the intervals.

Each producer's tank and noise are chosen by marginal likelihood (`likelihood`), the connectivities of all pairs are
solved jointly (`balance`), and both are repeated around the result. Intervals come from resampling blocks of months and
moving the prior at the same time (randomised maximum likelihood, Oliver, He & Reynolds 1996).
"""

from __future__ import annotations

from typing import Final

import numpy as np

from nightcast.physics.balance import SHAPE_SPREAD, Prior, Shares, Slots, solve, split
from nightcast.physics.connectivity_prior import Pairs
from nightcast.physics.likelihood import EXTRA, Linear, Producers, Tanks, information_of, theta_of, tune
from nightcast.physics.model import Crm
from nightcast.physics.params import CrmParams
from nightcast.physics.waterflood import Bools, Floats, History, Waterflood

__all__ = ["Crm", "CrmParams", "Waterflood", "fit_crm"]

STEADY: Final = 0.02
"""Standard deviation of arriving water, relative to its mean, below which it tells a producer nothing."""
FEWEST_MONTHS: Final = 12
"""Usable months a pair needs to be identifiable."""
LEARNT: Final = 0.8
"""Spread of a connectivity's log after the data, relative to before, from which it counts as not identified."""
LEAST_SHARE: Final = 0.02
"""Connectivity that cannot be told from none; an interval that reaches below it begins at 0."""
INTERVAL: Final = (0.05, 0.95)
_TYPICAL: Final = {"tau": (60.0, 0.8), "leak": (0.25, 0.8), "drift": (0.08, 1.0), "noise": (0.045, 0.5)}
"""Median and log spread of the prior of what is chosen by marginal likelihood."""
_DRAWDOWN: Final = 80.0
"""Bar; a guess of productivity to begin with, replaced by the field's own."""


def fit_crm(field: Waterflood, params: CrmParams | None = None, *, seed: int = 0) -> Crm:
    """Fit a field.

    Parameters
    ----------
    field
        Everything known.
    params
        How to fit; None: the defaults.
    seed
        Of the draws behind the intervals; the fit itself draws nothing.
    """
    params = CrmParams() if params is None else params
    return _Fit(field, params).run(seed)


class _Fit:
    """The state of one fit."""

    def __init__(self, field: Waterflood, params: CrmParams) -> None:
        self.params = params
        self.producers = Producers.of(History.of(field, params.least_uptime), recency=params.recency)
        self.pairs = Pairs.of(field.producers, field.injectors, params.length, params.reach)
        self.slots = Slots.of(self.pairs.allowed)
        self.prior = Prior(params.loss, params.spread, params.loss_spread)
        wells = len(self.producers.typical)
        self.tanks = Tanks(
            tau=np.full(wells, 60.0),
            leak=np.full(wells, _middle(params.leaks)),
            drift=np.full(wells, 0.1),
            memory=np.full(wells, 10.0),
            noise=np.full(wells, 0.04),
        )
        self.weight = np.ones_like(self.producers.relative)
        guess = self.producers.typical / _DRAWDOWN
        self.productivity = (guess, guess)  # mean and standard deviation, (J,)
        shares = (1 - params.loss) * np.exp(self.pairs.log_shares(np.zeros(3)))
        mean = self.slots.of_pairs(shares)
        self.mean, self.variance = mean, np.where(self.slots.used, (mean * params.spread + 0.01) ** 2, 0.0)

        self.waters = {
            delay: self.producers.water(self.slots, theta_of(self.pairs.distance, self.slots, delay))
            for delay in params.delays
        }
        self.delay = _middle(params.delays)
        self.varies = self._variation()

    @property
    def water(self) -> Floats:
        """`(T, J, K)` arriving water."""
        return self.waters[self.delay]

    def _variation(self) -> Bools:
        """`(J, K)` slots whose water changed while the producer was watched."""
        seen = self.producers.seen[..., None]
        count = np.maximum(seen.sum(axis=0), 1)
        mean = np.where(seen, self.water, 0.0).sum(axis=0) / count
        spread = np.sqrt(np.where(seen, (self.water - mean) ** 2, 0.0).sum(axis=0) / count)
        return np.asarray(self.slots.used & (spread > STEADY * mean) & (mean > 0))

    def linear(self) -> Linear:
        """Prior of all coefficients."""
        extra = self.extra()
        return Linear(
            np.concatenate([self.mean, extra.mean], axis=1), np.concatenate([self.variance, extra.variance], axis=1)
        )

    def extra(self) -> Linear:
        """Prior of the constant inflow, the productivity and the first state."""
        typical, first = self.producers.typical, self.producers.first
        mean, spread = self.productivity
        gauged = self.producers.gauged
        return Linear(
            np.stack([self.params.inflow * typical, np.where(gauged, mean, 0.0), first], axis=1),
            np.stack([self.params.inflow_spread * typical, np.where(gauged, spread, 0.0), first], axis=1) ** 2,
        )

    def value(self, tanks: Tanks) -> Floats:
        """Log posterior of tanks, `(J,)`."""
        design = self.producers.design(self.water, tanks)
        evidence = self.producers.evidence(design, self.producers.covariance(tanks, self.weight), self.linear())
        for name, (middle, spread) in _TYPICAL.items():
            evidence = evidence - 0.5 * (np.log(getattr(tanks, name) / middle) / spread) ** 2
        return evidence

    def tune_tanks(self, passes: int) -> None:
        """Choose the delay, then each producer's tank and noise, then robust weights and the field's productivity."""
        if len(self.waters) > 1 and len(self.slots.source):
            worth = {}
            for delay in self.waters:
                self.delay = delay
                worth[delay] = float(self.value(self.tanks).sum())
            self.delay = max(worth, key=lambda delay: worth[delay])
        grids = {
            "drift": self.params.drifts,
            "tau": self.params.taus,
            "leak": self.params.leaks,
            "memory": self.params.memories,
            "noise": self.params.noises,
        }
        self.tanks, _ = tune(self.value, self.tanks, grids, passes)
        producers = self.producers
        design = producers.design(self.water, self.tanks)
        beta = producers.posterior(design, producers.covariance(self.tanks, self.weight), self.linear())
        rest = producers.relative - np.einsum("jtk,jk->jt", design, beta)
        self.weight = producers.robust_weights(rest, self.tanks)

        told = producers.gauged & producers.seen.any(axis=0)
        if told.any():
            ratio = float(np.median(beta[told, -2] / producers.typical[told]))
            mean = producers.typical * max(ratio, 1e-4)
            self.productivity = (mean, 0.6 * mean)

    def run(self, seed: int) -> Crm:
        """Fit in rounds."""
        producers, slots = self.producers, self.slots
        injectors = len(self.pairs.allowed)
        frozen = np.bincount(slots.source, self.varies[slots.sink, slots.slot], minlength=injectors) == 0
        state = None
        for turn in range(self.params.rounds):
            self.tune_tanks(passes=2 if turn == 0 else 1)
            design = producers.design(self.water, self.tanks)
            covariance = producers.covariance(self.tanks, self.weight)
            white, rest = producers.whitened(design, covariance, self.extra())
            white, rest = white / self.params.discrepancy, rest / self.params.discrepancy
            shares = solve(information_of(white, rest), self.pairs, slots, self.prior, frozen=frozen, start=state)
            state = shares.state
            spread = np.sqrt(np.einsum("pn,pn->p", shares.slope @ shares.inverse, shares.slope))
            self.mean = slots.of_pairs(slots.to_matrix(shares.values, injectors))
            self.variance = slots.of_pairs(slots.to_matrix(spread, injectors)) ** 2
        certain = self.linear()
        certain.variance[:, :-EXTRA] = 0.0
        beta = producers.posterior(design, covariance, certain)
        low, high = self._interval(shares, white, rest, seed)

        learnt = np.sqrt(np.diag(shares.inverse)[: len(slots.source)]) < LEARNT
        enough = producers.seen.sum(axis=0)[slots.sink] >= FEWEST_MONTHS
        varies = self.varies[slots.sink, slots.slot]
        rho = float(np.hypot(shares.shape[1], shares.shape[2]))
        theta = np.full(self.pairs.allowed.shape, np.nan)
        theta[slots.source, slots.sink] = theta_of(self.pairs.distance, slots, self.delay)[slots.sink, slots.slot]
        return Crm(
            connectivity=slots.to_matrix(shares.values, injectors),
            low=slots.to_matrix(low, injectors),
            high=slots.to_matrix(high, injectors),
            identifiable=slots.to_matrix((learnt & enough & varies).astype(np.float64), injectors) > 0,
            loss=shares.lost,
            theta=theta,
            coefficients=beta[:, -EXTRA:],
            tanks=self.tanks,
            reference=producers.reference,
            fitted=np.asarray(producers.seen.any(axis=0), dtype=np.bool_),
            shape=np.array(
                [
                    self.pairs.length * float(np.exp(shares.shape[0])),
                    float(np.exp(rho)),
                    float(np.arctan2(shares.shape[2], shares.shape[1]) / 2 % np.pi),
                ]
            ),
            delay=self.delay,
            params=self.params,
        )

    def _interval(self, shares: Shares, white: Floats, rest: Floats, seed: int) -> tuple[Floats, Floats]:
        """90 % interval of the pairs, `(P,)` each.

        Each draw solves the problem again, to first order, with blocks of months resampled and the prior's means moved
        by as much as the prior leaves open.
        """
        slots, params = self.slots, self.params
        if not len(slots.source):
            return shares.values, shares.values
        rng = np.random.default_rng(seed)
        size = len(shares.state)
        if params.draws:
            pull = self._resampled(white, rest, rng) @ shares.slope
            weight = np.concatenate([np.ones(size - 3), SHAPE_SPREAD**-2])
            pull += np.sqrt(weight) * rng.standard_normal((params.draws, size))
            moved = pull @ shares.inverse
        else:
            moved = rng.standard_normal((400, size)) @ np.linalg.cholesky(shares.inverse).T
        values = np.stack([split(shares.state + move, self.pairs, slots, self.prior)[0] for move in moved])
        low, high = np.quantile(values, INTERVAL, axis=0)
        low = np.where(low < LEAST_SHARE, 0.0, low)
        return np.minimum(low, shares.values), np.maximum(high, shares.values)

    def _resampled(self, white: Floats, rest: Floats, rng: np.random.Generator) -> Floats:
        """Change of the score of the pairs in each draw, `(draws, P)`, as blocks of months are left out or repeated.

        Innovations are nearly independent in time, and blocks are common to all wells, whose errors are not.
        """
        slots, params, months = self.slots, self.params, white.shape[1]
        left = rest - np.einsum("jtk,jk->jt", white, self.mean)
        score = white[slots.sink, :, slots.slot] * left[slots.sink]  # (P, T)
        begin = rng.integers(0, months, (params.draws, -(-months // params.block)))
        taken = ((begin[..., None] + np.arange(params.block)) % months).reshape(params.draws, -1)[:, :months]
        repeats = np.stack([np.bincount(row, minlength=months) for row in taken]) - 1.0
        # The model's error is as much larger than the noise here as it is in `solve`.
        return np.asarray(params.discrepancy * repeats @ score.T)


def _middle(grid: tuple[float, ...]) -> float:
    return sorted(grid)[len(grid) // 2]
