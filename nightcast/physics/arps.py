"""Arps decline curves of many wells at once: rate, volume, the last consistent segment, and a robust fit.

Time is in steps (months, days) on stream, rates in any unit; a decline is nominal, per step. With `x = D t`,
`u = b x` and `g = ln(q_i / q) = ln(1 + u) / b`, one formula covers all of Arps (1945): `b = 0` is the exponential,
`b = 1` the harmonic decline. The modified hyperbolic goes on exponentially once its decline has fallen to a terminal
one (Robertson 1988).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final, Literal, get_args

import numpy as np
import numpy.typing as npt

from nightcast.contracts.errors import ConfigError

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]
Kind = Literal["exponential", "hyperbolic", "harmonic", "modified"]

KINDS: Final[tuple[Kind, ...]] = get_args(Kind)
MOST_B: Final = 2.0
"""Largest exponent: transient flow reaches 2, boundary-dominated flow stays below 1."""
MOST_DECLINE: Final = 2.0
"""Largest nominal decline per step: a rate falls to an eighth of itself."""
LEAST_NOISE: Final = 0.02
"""Smallest standard deviation of a logarithmic rate: allocation is no better."""
TAIL: Final = 4.0
"""Degrees of freedom of the Student t whose weights make the fit robust."""


@dataclass(frozen=True)
class Decline:
    """Decline curves of N wells.

    Attributes
    ----------
    rate
        `[N]` rate at time 0; NaN for a well without a month to fit.
    decline
        `[N]` nominal decline at time 0, per step, not negative.
    b
        `[N]` exponent, 0 to 2.
    terminal
        `[N]` nominal decline per step below which a curve does not flatten; 0 for none.

    Raises
    ------
    ConfigError
        If a decline, an exponent or a terminal decline is out of range.
    """

    rate: FloatArray
    decline: FloatArray
    b: FloatArray
    terminal: FloatArray

    def __post_init__(self) -> None:
        for name, values, most in (
            ("decline", self.decline, np.inf),
            ("b", self.b, MOST_B),
            ("terminal", self.terminal, np.inf),
        ):
            bad = ~((values >= 0) & (values <= most))
            if bad.any():
                raise ConfigError(
                    f"the {name} of a decline curve is {values[bad][0]:g}",
                    expected=f"a number from 0 to {most:g}",
                    remedy="correct it, or fit the curve with `fit_decline`",
                )

    @classmethod
    def of(
        cls, rate: npt.ArrayLike, decline: npt.ArrayLike, b: npt.ArrayLike = 0.0, terminal: npt.ArrayLike = 0.0
    ) -> Decline:
        """Curves from numbers or arrays that broadcast together."""
        arrays = np.broadcast_arrays(*(np.atleast_1d(np.asarray(its, float)) for its in (rate, decline, b, terminal)))
        return cls(*(np.array(its) for its in arrays))

    def rates(self, time: npt.ArrayLike) -> FloatArray:
        """`[N, T]` rates at times `[T]` or `[N, T]`, not negative."""
        return self._column(self.rate) * np.exp(-self.falls(time))

    def falls(self, time: npt.ArrayLike) -> FloatArray:
        """`[N, T]` logarithm of the first rate over the rate."""
        t = np.asarray(time, dtype=np.float64)
        decline, b, terminal = (self._column(its) for its in (self.decline, self.b, self.terminal))
        switch = self._column(self.switch)
        before = np.minimum(t, switch)
        after = np.where(t > switch, t - before, 0.0)
        x = decline * before
        return np.asarray(x * _log_ratio(b * x) + terminal * after, dtype=np.float64)

    def volumes(self, time: npt.ArrayLike) -> FloatArray:
        """`[N, T]` volumes produced from time 0 to times `[T]` or `[N, T]`: the integral of the rate."""
        t = np.asarray(time, dtype=np.float64)
        decline, b, terminal = (self._column(its) for its in (self.decline, self.b, self.terminal))
        switch = self._column(self.switch)
        before = np.minimum(t, switch)
        after = np.where(t > switch, t - before, 0.0)
        ratio = _log_ratio(b * decline * before)
        fall = decline * before * ratio
        first = before * ratio * _exp_ratio((1.0 - b) * fall)
        second = np.exp(-fall) * after * _exp_ratio(terminal * after)
        return np.asarray(self._column(self.rate) * (first + second), dtype=np.float64)

    @property
    def switch(self) -> FloatArray:
        """`[N]` time at which the terminal decline takes over; infinite if never.

        A curve that starts below its terminal decline stays as it is: the terminal decline stops a curve from
        flattening, it does not steepen one.
        """
        flattens = (self.terminal > 0) & (self.decline > self.terminal) & (self.b > 0)
        terminal = np.where(flattens, self.terminal, 1.0)
        with np.errstate(over="ignore", divide="ignore"):
            # 1 / (b Dt) - 1 / (b D), in the form that stays finite for small declines
            time = (1.0 / terminal - 1.0 / np.where(flattens, self.decline, 1.0)) / np.where(flattens, self.b, 1.0)
        return np.where(flattens, time, np.inf)

    def declines(self, time: npt.ArrayLike) -> FloatArray:
        """`[N, T]` nominal decline per step at times `[T]` or `[N, T]`."""
        t = np.asarray(time, dtype=np.float64)
        decline, b = self._column(self.decline), self._column(self.b)
        late = t > self._column(self.switch)
        return np.where(late, self._column(self.terminal), decline / (1.0 + b * decline * t))

    @staticmethod
    def _column(values: FloatArray) -> FloatArray:
        return values[:, None]


def fit_decline(
    time: FloatArray,
    rate: FloatArray,
    weight: FloatArray,
    *,
    kind: Kind,
    terminal: float = 0.0,
    most_b: float = MOST_B,
    prior_decline: tuple[float, float] | None = None,
    prior_b: tuple[float, float] = (0.5, 0.5),
    rounds: int = 40,
) -> Decline:
    """Fit every well at once to the logarithm of its rates.

    Weighted nonlinear least squares (Levenberg and Marquardt, the level solved for exactly), with weights of a Student
    t against outliers. The priors say what a well with few or noisy months is taken for: they weigh as one more
    observation whose standard deviation is the prior's.

    Parameters
    ----------
    time
        `[N, T]` steps on stream.
    rate
        `[N, T]` rates of days on stream; months that are NaN or not positive do not count.
    weight
        `[N, T]` weights, not negative, of 1 for a full month; 0 leaves a month out.
    kind
        Which curve; `modified` is the hyperbolic with `terminal`.
    terminal
        Nominal terminal decline per step of the modified hyperbolic.
    most_b
        Largest exponent.
    prior_decline, prior_b
        Mean and standard deviation of the decline at time 0 and of the exponent.

    Raises
    ------
    ConfigError
        If the kind is unknown, or a modified hyperbolic has no terminal decline.
    """
    if kind not in KINDS:
        raise ConfigError(f"the decline is {kind!r}", expected=f"one of {', '.join(KINDS)}", remedy="correct `kind`")
    if kind == "modified" and terminal <= 0:
        raise ConfigError(
            f"the terminal decline of a modified hyperbolic is {terminal:g}",
            expected="a positive decline per step",
            remedy="give `terminal`, or fit a hyperbolic",
        )
    used = np.isfinite(rate) & (rate > 0) & (weight > 0) & np.isfinite(time)
    problem = _Problem(
        t=np.where(used, time, 0.0),
        y=np.log(np.where(used, rate, 1.0)),
        w=np.where(used, weight, 0.0),
        used=used,
        floor=0.0 if kind != "modified" else terminal,
        prior_decline=(0.0, 0.0) if prior_decline is None else (prior_decline[0], 1.0 / prior_decline[1] ** 2),
        prior_b=(prior_b[0], 1.0 / prior_b[1] ** 2),
        most_b=most_b,
        free_b=kind in ("hyperbolic", "modified"),
    )
    fixed = {"exponential": 0.0, "harmonic": 1.0}
    b = np.full(len(rate), fixed.get(kind, min(prior_b[0], most_b)))
    found = problem.solve(b, rounds=rounds)
    return replace(found, rate=np.where(used.any(axis=1), found.rate, np.nan))


def last_segment(
    time: FloatArray, rate: FloatArray, weight: FloatArray, *, least: int = 4, step: float = 0.25
) -> BoolArray:
    """`[N, T]`: months from the last lasting change of level on, which a decline may be fitted to.

    A change of level is a step in the logarithm of the rate beside a decline of any curvature, with `least` months or
    more on either side, larger than `step` and than three times the scatter from month to month, and whose F statistic
    is beyond 16. Wells are asked twice, so that the last one of several steps is found.

    Parameters
    ----------
    time, rate, weight
        `[N, T]`, as in `fit_decline`.
    """
    used = np.isfinite(rate) & (rate > 0) & (weight > 0) & np.isfinite(time)
    y = np.log(np.where(used, rate, 1.0))
    kept = used
    for _ in range(2):
        first = _largest_step(np.where(kept, time, 0.0), np.where(kept, y, 0.0), kept, least=least, step=step)
        kept = kept & (np.arange(rate.shape[1]) >= first[:, None])
    start = np.where(kept.any(axis=1), kept.argmax(axis=1), 0)
    return np.asarray(np.arange(rate.shape[1]) >= start[:, None])


@dataclass
class _Problem:
    """Rows of a fit; `floor` is the terminal decline, priors are means with precisions."""

    t: FloatArray
    y: FloatArray
    w: FloatArray
    used: BoolArray
    floor: float
    prior_decline: tuple[float, float]
    prior_b: tuple[float, float]
    most_b: float
    free_b: bool

    def solve(self, b: FloatArray, *, rounds: int) -> Decline:
        decline = self._first_decline()
        damping = np.full(len(b), 1e-2)
        noise = np.full(len(b), 0.1)
        robust = self.w
        for step in range(rounds):
            fall, by_decline, by_b = self._derivatives(decline, b)
            level, error = self._errors(fall, robust)
            if step < rounds // 2:
                # The scale and the weights stand still in the second half, so that the steps converge.
                noise = self._noise(error)
                robust = self.w * (TAIL + 1.0) / (TAIL + (error / noise[:, None]) ** 2)
                level, error = self._errors(fall, robust)
            scaled = robust / noise[:, None] ** 2
            total = np.maximum(scaled.sum(axis=1), 1e-300)
            # The level is solved for exactly: what is left are the centred derivatives.
            j_decline = -(by_decline - (scaled * by_decline).sum(axis=1)[:, None] / total[:, None])
            j_b = -(by_b - (scaled * by_b).sum(axis=1)[:, None] / total[:, None])
            a11 = (scaled * j_decline**2).sum(axis=1) + self.prior_decline[1]
            a12 = (scaled * j_decline * j_b).sum(axis=1)
            a22 = (scaled * j_b**2).sum(axis=1) + self.prior_b[1]
            g1 = (scaled * j_decline * error).sum(axis=1) + self.prior_decline[1] * (self.prior_decline[0] - decline)
            g2 = (scaled * j_b * error).sum(axis=1) + self.prior_b[1] * (self.prior_b[0] - b)
            held = ((decline <= 0) & (g1 < 0)) | ((decline >= MOST_DECLINE) & (g1 > 0)) | (a11 <= 1e-12)
            stuck = ((b <= 0) & (g2 < 0)) | ((b >= self.most_b) & (g2 > 0)) | (not self.free_b)
            d1, d2 = _two_by_two(a11 * (1 + damping), a12, a22 * (1 + damping), g1, g2, held, stuck)
            tried = np.clip(decline + d1, 0.0, MOST_DECLINE)
            tried_b = np.clip(b + d2, 0.0, self.most_b) if self.free_b else b
            better = self._loss(tried, tried_b, scaled) <= self._loss(decline, b, scaled)
            decline, b = np.where(better, tried, decline), np.where(better, tried_b, b)
            damping = np.clip(np.where(better, damping * 0.3, damping * 5.0), 1e-9, 1e9)
        level, _ = self._errors(self._curve(decline, b).falls(self.t), robust)
        return replace(self._curve(decline, b), rate=np.exp(level))

    def _first_decline(self) -> FloatArray:
        total = np.maximum(self.w.sum(axis=1), 1e-300)[:, None]
        t = self.t - (self.w * self.t).sum(axis=1)[:, None] / total
        y = self.y - (self.w * self.y).sum(axis=1)[:, None] / total
        square = (self.w * t**2).sum(axis=1) + 1e-2 * self.prior_decline[1]
        slope = (-(self.w * t * y).sum(axis=1) + 1e-2 * self.prior_decline[1] * self.prior_decline[0]) / np.maximum(
            square, 1e-12
        )
        return np.asarray(np.clip(slope, 0.0, 0.5 * MOST_DECLINE))

    def _curve(self, decline: FloatArray, b: FloatArray) -> Decline:
        return Decline(np.ones_like(decline), decline, b, np.full_like(decline, self.floor))

    def _errors(self, fall: FloatArray, weight: FloatArray) -> tuple[FloatArray, FloatArray]:
        """`[N]` level and `[N, T]` what it leaves, 0 in months that do not count."""
        level = (weight * (self.y + fall)).sum(axis=1) / np.maximum(weight.sum(axis=1), 1e-300)
        return level, np.where(self.used, self.y - level[:, None] + fall, 0.0)

    def _noise(self, error: FloatArray) -> FloatArray:
        size = np.sort(np.where(self.used, np.abs(error), np.inf), axis=1)
        count = self.used.sum(axis=1)
        middle = size[np.arange(len(size)), np.maximum((count - 1) // 2, 0)]
        return np.maximum(1.4826 * np.where(count > 0, middle, 0.0), LEAST_NOISE)

    def _loss(self, decline: FloatArray, b: FloatArray, weight: FloatArray) -> FloatArray:
        _, error = self._errors(self._curve(decline, b).falls(self.t), weight)
        priors = self.prior_decline[1] * (decline - self.prior_decline[0]) ** 2
        if self.free_b:
            priors = priors + self.prior_b[1] * (b - self.prior_b[0]) ** 2
        return np.asarray((weight * error**2).sum(axis=1) + priors)

    def _derivatives(self, decline: FloatArray, b: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        """`[N, T]` fall, and its derivatives by decline and exponent."""
        curve = self._curve(decline, b)
        switch = curve.switch[:, None]
        late = self.t > switch
        before = np.minimum(self.t, switch)
        x = decline[:, None] * before
        u = b[:, None] * x
        by_decline = before / (1.0 + u)
        by_b = x**2 * _log_ratio_slope(u)
        if late.any():
            # After the switch at t* = 1 / (b Dt) - 1 / (b D) the fall is ln(D / Dt) / b + Dt (t - t*).
            some = np.isfinite(switch[:, 0])
            safe_b, safe_d = np.where(some, b, 1.0)[:, None], np.where(some, decline, 1.0)[:, None]
            ratio = self.floor / safe_d
            by_decline = np.where(late, (1.0 - ratio) / (safe_b * safe_d), by_decline)
            by_b = np.where(late, (np.log(ratio) + 1.0 - ratio) / safe_b**2, by_b)
        return curve.falls(self.t), by_decline, by_b


def _two_by_two(
    a11: FloatArray, a12: FloatArray, a22: FloatArray, g1: FloatArray, g2: FloatArray, held: BoolArray, stuck: BoolArray
) -> tuple[FloatArray, FloatArray]:
    """Solve `[[a11, a12], [a12, a22]] d = g` per well; a held first or stuck second unknown stays."""
    cross = np.where(held | stuck, 0.0, a12)
    det = np.maximum(a11 * a22 - cross**2, 1e-300)
    d1, d2 = (a22 * g1 - cross * g2) / det, (a11 * g2 - cross * g1) / det
    return np.where(held, 0.0, d1), np.where(stuck, 0.0, d2)


def _largest_step(t: FloatArray, y: FloatArray, used: BoolArray, *, least: int, step: float) -> npt.NDArray[np.int64]:
    """`[N]` column at which the largest believable step of `y` happens; 0 for none."""
    wells, steps = y.shape
    number = used.cumsum(axis=1)
    count = number[:, -1]
    # Arps curves in the logarithm are close to a sum of t and ln(1 + t).
    since = np.where(used, t - np.where(used, t, np.inf).min(axis=1, initial=np.inf)[:, None], 0.0)
    base = np.stack([used.astype(float), since, np.where(used, np.log1p(since), 0.0)], axis=2)
    base[:, :, 2] *= (count >= 3 * least)[:, None]
    q = _orthonormal(base)
    left = y - np.einsum("ntk,nk->nt", q, np.einsum("ntk,nt->nk", q, y))
    after = used[:, :, None] & (np.arange(steps)[:, None] >= np.arange(steps))[None]
    shape = after - np.einsum("ntk,nks->nts", q, np.einsum("ntk,nts->nks", q, after))
    size = (shape**2).sum(axis=1)
    dot = np.einsum("nt,nts->ns", left, shape)
    before = np.concatenate([np.zeros((wells, 1), dtype=np.int64), number[:, :-1]], axis=1)
    able = used & (before >= least) & (count[:, None] - before >= least) & (size > 1e-6)
    jump = np.where(able, dot / np.where(able, size, 1.0), 0.0)
    gain = np.where(able, jump * dot, 0.0)
    best = gain.argmax(axis=1)
    rows = np.arange(wells)
    rest = np.maximum((left**2).sum(axis=1) - gain[rows, best], 1e-12) / np.maximum(count - 4, 1)
    noise = _scatter(y, used)
    real = (gain[rows, best] > 16.0 * rest) & (np.abs(jump[rows, best]) > np.maximum(step, 3.0 * noise))
    return np.where(real, best, 0)


def _orthonormal(base: FloatArray) -> FloatArray:
    """`[N, T, K]` orthonormal columns; one that adds nothing is 0 (Gram and Schmidt, twice over)."""
    out = np.zeros_like(base)
    for k in range(base.shape[2]):
        column = base[:, :, k]
        size = np.sqrt((column**2).sum(axis=1))
        for _ in range(2):
            column = column - np.einsum("ntk,nk->nt", out, np.einsum("ntk,nt->nk", out, column))
        norm = np.sqrt((column**2).sum(axis=1))
        fine = norm > 1e-6 * np.maximum(size, 1e-12)
        out[:, :, k] = np.where(fine[:, None], column / np.where(fine, norm, 1.0)[:, None], 0.0)
    return out


def _scatter(y: FloatArray, used: BoolArray) -> FloatArray:
    """`[N]` standard deviation of the noise from changes between neighbouring months."""
    both = used[:, 1:] & used[:, :-1]
    change = np.sort(np.where(both, np.abs(np.diff(y, axis=1)), np.inf), axis=1)
    count = both.sum(axis=1)
    if change.shape[1] == 0:
        return np.zeros(len(y))
    middle = change[np.arange(len(y)), np.maximum((count - 1) // 2, 0)]
    return np.where(count > 0, 1.4826 / np.sqrt(2.0) * np.where(np.isfinite(middle), middle, 0.0), 0.0)


def _log_ratio(u: FloatArray) -> FloatArray:
    """`ln(1 + u) / u`, 1 at 0."""
    safe = np.where(u > 0, u, 1.0)
    return np.where(u > 0, np.log1p(safe) / safe, 1.0)


def _exp_ratio(c: FloatArray) -> FloatArray:
    """`(1 - e^-c) / c`, 1 at 0; c may be negative."""
    safe = np.where(c == 0, 1.0, c)
    return np.where(c == 0, 1.0, -np.expm1(-safe) / safe)


def _log_ratio_slope(u: FloatArray) -> FloatArray:
    """`(u / (1 + u) - ln(1 + u)) / u^2`: derivative of `ln(1 + b x) / b` by b, over `x^2`; -1/2 at 0."""
    small = u < 1e-3
    safe = np.where(small, 1.0, u)
    # Three terms of the series: the closed form cancels for small u.
    return np.where(small, -0.5 + 2.0 * u / 3.0 - 0.75 * u**2, (safe / (1.0 + safe) - np.log1p(safe)) / safe**2)
