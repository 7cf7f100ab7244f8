"""Intervals around a point forecast from the panel's own multi-step errors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np

from models.grid import FloatArray
from nightcast.contracts.columns import LEVELS

FEWEST_ERRORS = 20
"""Errors a horizon needs before its own quantiles are trusted."""


@dataclass(frozen=True)
class ErrorQuantiles:
    """Quantiles of scaled errors, pooled over the panel, per horizon.

    Attributes
    ----------
    offsets
        [H, Q] in units of a series' level; 0 at the median, so that the point forecast is q50.
    floor
        Smallest level, in the target's unit.
    counts
        Errors behind each horizon.
    """

    offsets: FloatArray
    floor: float
    counts: tuple[int, ...]

    def around(self, point: FloatArray, level: FloatArray) -> FloatArray:
        """[N, H, Q] from points [N, H] and levels [N], both in the target's unit."""
        width = np.maximum(level, self.floor)[:, None, None]
        return point[:, :, None] + width * self.offsets[None, :, :]

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {"offsets": self.offsets.tolist(), "floor": self.floor, "counts": list(self.counts)}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> ErrorQuantiles:
        """Back from JSON values."""
        return cls(np.array(value["offsets"], dtype=float), float(value["floor"]), tuple(value["counts"]))


def learn_error_quantiles(errors: Sequence[FloatArray], *, floor: float) -> ErrorQuantiles:
    """Quantiles of scaled errors (actual minus forecast, over level), one array per horizon; NaN is skipped.

    A horizon with fewer than `FEWEST_ERRORS` borrows the nearest shorter one's quantiles, widened by the square root
    of the horizons' ratio (errors of a random walk). Without any error to learn from, a series' level itself is taken
    as the standard deviation: wide on purpose.
    """
    levels = np.array(LEVELS)
    clean = [values[~np.isnan(values)] for values in errors]
    rows: list[FloatArray] = []
    base, base_horizon = np.array([NormalDist().inv_cdf(level) for level in LEVELS]), 1
    for horizon, values in enumerate(clean, start=1):
        if values.size >= FEWEST_ERRORS:
            row = np.quantile(values, levels)
            base, base_horizon = row, horizon
        else:
            row = base * np.sqrt(horizon / base_horizon)
        rows.append(np.where(levels < 0.5, np.minimum(row, 0), np.where(levels > 0.5, np.maximum(row, 0), 0.0)))
    return ErrorQuantiles(np.array(rows), floor, tuple(values.size for values in clean))
