"""What the map alone says about connectivities, and the shape parameters data may teach it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nightcast.physics.waterflood import Bools, Floats

EXPONENT = 1.5
"""Of the kernel exp(-(d / L)^1.5)."""


@dataclass(frozen=True)
class Pairs:
    """Injector-producer pairs that may be connected.

    Attributes
    ----------
    offset
        `(I, J, 2)` metres from producer to injector; 0 where a position is unknown.
    allowed
        `(I, J)` pairs within reach.
    placed
        `(I, J)` pairs whose two positions are known.
    length
        Metres over which connectivity falls off, to begin with.
    """

    offset: Floats
    allowed: Bools
    placed: Bools
    length: float

    @property
    def distance(self) -> Floats:
        """`(I, J)` metres; NaN where a position is unknown."""
        return np.where(self.placed, np.hypot(self.offset[..., 0], self.offset[..., 1]), np.nan)

    @classmethod
    def of(cls, producers: Floats, injectors: Floats, length: float | None, reach: float) -> Pairs:
        """Pairs of a map.

        Parameters
        ----------
        producers, injectors
            `(J, 2)` and `(I, 2)` metres, NaN unknown.
        length
            Kernel length in metres; None: the median distance from a well to its nearest neighbour.
        reach
            Farthest pair, in such median distances. An injector always reaches its nearest producer.
        """
        offset = injectors[:, None] - producers[None]
        placed: Bools = np.asarray(np.isfinite(offset).all(axis=-1), dtype=np.bool_)
        wells = np.concatenate([producers, injectors])
        wells = np.unique(wells[np.isfinite(wells).all(axis=1)], axis=0)
        spacing = 400.0
        if len(wells) > 1:
            apart = np.hypot(*np.moveaxis(wells[:, None] - wells[None], -1, 0))
            np.fill_diagonal(apart, np.inf)
            spacing = float(np.median(apart.min(axis=1)))
        offset = np.where(placed[..., None], offset, 0.0)
        distance = np.where(placed, np.hypot(offset[..., 0], offset[..., 1]), np.nan)
        # A producer made into an injector stands on its own former place and does not feed itself.
        itself = placed & (distance < 1.0)
        far = np.where(itself | ~placed, np.inf, distance)
        nearest = far.min(axis=1, keepdims=True) if far.shape[1] else far
        allowed = np.where(placed, (distance <= np.maximum(reach * spacing, nearest)) & ~itself, True)
        return cls(offset, allowed.astype(np.bool_), placed, spacing if length is None else length)

    def log_shares(self, shape: Floats) -> Floats:
        """Log of each injector's shares, `(I, J)`; a row's shares sum to one, pairs out of reach have -inf.

        Parameters
        ----------
        shape
            `(3,)` log of length over the initial one, and `rho cos 2 phi`, `rho sin 2 phi` of the anisotropy: distances
            shrink by `e^(rho/2)` along azimuth `phi` and grow as much across.
        """
        x, y = self.offset[..., 0], self.offset[..., 1]
        rho = float(np.hypot(shape[1], shape[2]))
        slope = np.sinh(rho) / rho if rho > 1e-9 else 1.0
        squared = np.cosh(rho) * (x * x + y * y) - slope * (shape[1] * (x * x - y * y) + shape[2] * 2 * x * y)
        away = np.sqrt(np.maximum(squared, 0.0)) / (self.length * np.exp(shape[0]))
        # Where a position is unknown every producer is as likely as one at the kernel's length.
        score = np.where(self.placed, -(away**EXPONENT), -1.0)
        score = np.where(self.allowed, score, -np.inf)
        top = score.max(axis=1, keepdims=True, initial=-np.inf)
        score = score - np.where(np.isfinite(top), top, 0.0)
        total = np.exp(score).sum(axis=1, keepdims=True)
        return score - np.log(np.where(total > 0, total, 1.0))
