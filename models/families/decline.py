"""Arps decline of the rate of days on stream, anchored at the cutoff, times uptime."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from models.families.uptime import (
    SHUT,
    Ahead,
    OnStream,
    OnStreamForecaster,
    OnStreamParams,
    latest_known,
    smoothed,
    smoothing_losses,
)
from models.grid import BoolArray, FloatArray
from nightcast.contracts.catalog import Capabilities
from nightcast.contracts.frequency import Frequency
from nightcast.physics.arps import MOST_B, Decline, Kind, fit_decline, last_segment


class ArpsParams(OnStreamParams):
    """Parameters of the decline forecaster.

    Attributes
    ----------
    kind
        Which Arps curve.
    window
        Latest steps that a curve is fitted to.
    half_life
        Steps after which a month counts half in the fit.
    level
        The level that the decline goes on from: the `mean` of the latest producing steps, each brought to the cutoff
        along the curve, or their exponential smoothing (`ses`).
    anchor
        Producing steps in the mean.
    terminal
        Nominal terminal decline per year of the modified hyperbolic.
    most_b
        Largest exponent.
    segments
        Fit only what follows the last lasting change of level.
    """

    kind: Kind = "exponential"
    window: int = Field(default=36, ge=3)
    half_life: float = Field(default=18.0, gt=0)
    level: Literal["mean", "ses"] = "ses"
    anchor: int = Field(default=3, ge=1)
    terminal: float = Field(default=0.06, gt=0)
    most_b: float = Field(default=1.5, gt=0, le=MOST_B)
    segments: bool = True


class Arps(OnStreamForecaster):
    """Decline curve per well (Arps 1945; modified: Robertson 1988), shrunk to the panel's usual decline.

    Time runs on stream: a shut well does not decline. Shut months, months next to them (partial or flush) and months
    before the last lasting change of level do not count in the fit; later months count more.
    """

    Params = ArpsParams
    capabilities: ClassVar[Capabilities] = Capabilities(uses=frozenset({"plan"}))
    params: ArpsParams
    usual: tuple[float, float]
    """Mean and spread over the panel of a curve's decline per step at the first month it is fitted to."""
    losses: FloatArray
    """[weights] what each smoothing weight costs on the panel."""

    def _learn(self, past: OnStream) -> None:
        self.losses = smoothing_losses(past.rate)
        # Without a prior first: the panel's usual decline is that of the wells with enough months to tell.
        time, rate, weight = self._rows(past)
        found = self._fitted(time, rate, weight)
        told = (weight > 0).sum(axis=1) >= 12
        declines = found.decline[told & np.isfinite(found.rate)]
        if declines.size < 3:
            # No panel to speak of: a decline of 1 % a step, give or take 3 %.
            self.usual = (0.01, 0.03)
            return
        middle = float(np.median(declines))
        spread = 1.4826 * float(np.median(np.abs(declines - middle)))
        self.usual = (middle, float(np.clip(spread, max(0.003, 0.3 * middle), 0.5)))

    def _rates(self, past: OnStream, ahead: Ahead) -> FloatArray:
        time, rate, weight = self._rows(past)
        curve = self._fitted(time, rate, weight, self.usual)
        fall = curve.falls(time)
        # Months beside a shut one count in the level only where there are no others.
        steady = weight > 0
        alone = steady.sum(axis=1, keepdims=True) == 0
        known = steady | (alone & np.isfinite(rate))
        now = time[:, -1:]
        brought = np.where(known, rate * np.exp(fall - curve.falls(now)), np.nan)
        level = smoothed(brought, self.losses) if self.params.level == "ses" else self._mean(brought)
        later = now + np.cumsum(ahead.uptime, axis=1)
        return np.asarray(level[:, None] * np.exp(curve.falls(now) - curve.falls(later)))

    def _mean(self, brought: FloatArray) -> FloatArray:
        latest = latest_known(brought, self.params.anchor)
        count = np.isfinite(latest).sum(axis=1)
        return np.asarray(np.where(count > 0, np.nansum(latest, axis=1) / np.maximum(count, 1), np.nan))

    def _fitted(
        self, time: FloatArray, rate: FloatArray, weight: FloatArray, usual: tuple[float, float] | None = None
    ) -> Decline:
        """Curves of the last segments; `usual` is the prior of the decline at the window's first month."""
        params = self.params
        if params.segments:
            weight = np.where(last_segment(time, rate, weight), weight, 0.0)
        terminal = params.terminal * years_per_step(self.freq) if params.kind == "modified" else 0.0
        return fit_decline(
            time,
            rate,
            weight,
            kind=params.kind,
            terminal=terminal,
            most_b=params.most_b,
            prior_decline=usual,
        )

    def _rows(self, past: OnStream) -> tuple[FloatArray, FloatArray, FloatArray]:
        """`[N, window]` time on stream, rate of days on stream, and weight of each month."""
        width = min(self.params.window, past.y.shape[1])
        share, rate = past.share[:, -width:], past.rate[:, -width:]
        # An unknown month counts as one on stream.
        time = np.cumsum(np.nan_to_num(share, nan=1.0), axis=1)
        off: BoolArray = np.asarray(share <= SHUT)
        # A month before or after a shut one is partial, and the first after it flush production.
        beside: BoolArray = np.zeros(off.shape, dtype=bool)
        beside[:, 1:] |= off[:, :-1]
        beside[:, :-1] |= off[:, 1:]
        weight = np.where(np.isfinite(rate) & ~beside, 0.5 ** (np.arange(width)[::-1] / self.params.half_life), 0.0)
        return time, rate, weight

    def _write(self, folder: Path) -> dict[str, Any]:
        return {**super()._write(folder), "usual": list(self.usual), "losses": self.losses.tolist()}

    def _read(self, folder: Path, state: dict[str, Any]) -> None:
        super()._read(folder, state)
        mean, spread = state["usual"]
        self.usual = (float(mean), float(spread))
        self.losses = np.array(state["losses"], dtype=float)


def years_per_step(freq: str) -> float:
    """Mean length of a step in years of 365.25 days."""
    start, steps = datetime(2000, 1, 1), 1200
    return (Frequency.parse(freq).shift(start, steps) - start) / timedelta(days=365.25) / steps
