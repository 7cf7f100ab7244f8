"""Windows of a panel, one per (series, origin): views of one base array, scaled by the series' level at the origin."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from models.nn.windows import IntArray, Windows
from nightcast.contracts.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

FloatArray = NDArray[np.float64]

LARGEST_RATIO = 20.0
"""Values in the target's unit are held to this many levels."""
LARGEST_SCORE = 6.0
"""Standardised covariates are held to this many standard deviations."""


@dataclass(frozen=True)
class Standard:
    """How covariates `[..., C]` are standardised: `(x - mean) / std`, of `x / level` where `scaled`."""

    scaled: NDArray[np.bool_]
    mean: NDArray[np.float32]
    std: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.mean)


@dataclass(frozen=True)
class PanelArrays:
    """A panel as dense arrays; step `T - 1` is the cutoff, the H steps after it are the future.

    Attributes
    ----------
    y
        `[N, T]` target, NaN where unknown.
    rates
        `[N, T, R]` companion series in the target's unit, NaN where unknown.
    past
        `[N, T, P]` covariates known up to the origin, finite.
    plan
        `[N, T + H, F]` covariates known ahead, finite.
    static
        `[N, S]`, standardised.
    exposure
        `[N, T + H]` share of each step on stream where it is planned; None where it is not.
    level
        `[N, T]` level of each series at each step, above 0.
    past_scale, plan_scale
        How the covariates are standardised.
    """

    y: FloatArray
    rates: FloatArray
    past: FloatArray
    plan: FloatArray
    static: FloatArray
    exposure: FloatArray | None
    level: FloatArray
    past_scale: Standard
    plan_scale: Standard

    @property
    def horizon(self) -> int:
        """H."""
        return int(self.plan.shape[1] - self.y.shape[1])


@dataclass(frozen=True)
class PanelBatch:
    """A batch of windows, everything in units of the series' level at the origin.

    Attributes
    ----------
    y, known
        `[B, L, 1 + R]` target and companions, 0 where unknown, and their mask.
    past, plan, static
        `[B, L, P]`, `[B, L + H, F]`, `[B, S]`, standardised.
    exposure
        `[B, H]` planned share on stream, or None.
    target, target_known
        `[B, H]` what followed, 0 where unknown, and its mask.
    weight
        `[B, H]` weight in the loss.
    """

    y: Tensor
    known: Tensor
    past: Tensor
    plan: Tensor
    static: Tensor
    exposure: Tensor | None
    target: Tensor
    target_known: Tensor
    weight: Tensor

    @property
    def inputs(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor | None]:
        """The arguments of a mixer's `forward`."""
        return self.y, self.known, self.past, self.plan, self.static, self.exposure


class PanelWindows:
    """Windows of L steps up to an origin and H after it.

    Series are padded on the left by L unknown steps, so that young ones take part. Only the batch at hand is copied.

    Parameters
    ----------
    arrays
        The panel.
    length
        L.
    series, origin
        `[n]` row and step of each window's origin.
    weight
        `[n, H]` weight of each window's targets; None: 1.

    Raises
    ------
    ConfigError
        If an origin lies outside the panel.
    """

    def __init__(
        self,
        arrays: PanelArrays,
        length: int,
        series: IntArray,
        origin: IntArray,
        *,
        weight: FloatArray | None = None,
    ) -> None:
        steps = arrays.y.shape[1]
        if len(origin) and (origin.min() < 0 or origin.max() >= steps):
            raise ConfigError(
                f"origins at steps {origin.min()} to {origin.max()} of a panel of {steps} steps",
                expected=f"origins from 0 to {steps - 1}",
                remedy="take arrays and origins from the same view",
            )
        self.arrays, self.length, self.series, self.origin = arrays, length, series, origin
        shape = (len(series), arrays.horizon)
        self.weight = np.ones(shape, dtype=np.float32) if weight is None else weight.astype(np.float32)

    def __len__(self) -> int:
        return len(self.series)

    def subset(self, index: IntArray) -> PanelWindows:
        """Some of the windows, over the same base."""
        out = PanelWindows(
            self.arrays, self.length, self.series[index], self.origin[index], weight=self.weight[index].astype(float)
        )
        out.__dict__["base"] = self.base
        return out

    @cached_property
    def base(self) -> NDArray[np.float32]:
        """`[N, L + T + H, channels]`: value and mask of target and companions, exposure, past, plan; no NaN."""
        its = self.arrays
        n, steps = its.y.shape
        series = np.concatenate([its.y[:, :, None], its.rates], axis=2)
        known = np.isfinite(series)
        mine = (slice(None), slice(self.length, self.length + steps))
        ahead = (slice(None), slice(self.length, None))
        s, p = series.shape[2], its.past.shape[2]
        base = np.zeros((n, self.length + steps + its.horizon, 2 * s + 1 + p + its.plan.shape[2]), dtype=np.float32)
        base[*mine, :s], base[*mine, s : 2 * s] = np.where(known, series, 0.0), known
        base[:, :, 2 * s] = 1.0
        if its.exposure is not None:
            base[*ahead, 2 * s] = its.exposure
        base[*mine, 2 * s + 1 : 2 * s + 1 + p] = its.past
        base[*ahead, 2 * s + 1 + p :] = its.plan
        return base

    @cached_property
    def _windows(self) -> Windows:
        n, steps, channels = self.base.shape
        rows = self.series * steps + self.length + self.origin + self.arrays.horizon
        flat = self.base.reshape(n * steps, channels)
        segment = np.repeat(np.arange(n), steps)
        return Windows(flat, rows, self.length + self.arrays.horizon, segment=segment, limit=None)

    def batch(self, index: IntArray) -> PanelBatch:
        """The windows at these positions."""
        import torch

        its, length = self.arrays, self.length
        taken = self._windows.gather(index)  # [B, L + H, channels]
        row, origin = self.series[index], self.origin[index]
        level = its.level[row, origin].astype(np.float32)[:, None, None]
        s, p = 1 + its.rates.shape[2], its.past.shape[2]
        values, known = taken[:, :, :s] / level, taken[:, :, s : 2 * s]
        begun = _begun(its.y, row, origin, length)
        past = _standardised(taken[:, :length, 2 * s + 1 : 2 * s + 1 + p], its.past_scale, level)
        plan = _standardised(taken[:, :, 2 * s + 1 + p :], its.plan_scale, level)
        # the padding before a series begins has no covariates
        past *= begun[:, :, None]
        plan[:, :length] *= begun[:, :, None]
        tensor = torch.from_numpy
        return PanelBatch(
            y=tensor(np.clip(values[:, :length], -LARGEST_RATIO, LARGEST_RATIO)),
            known=tensor(np.ascontiguousarray(known[:, :length])),
            past=tensor(past),
            plan=tensor(plan),
            static=tensor(its.static[row].astype(np.float32)),
            exposure=None if its.exposure is None else tensor(np.ascontiguousarray(taken[:, length:, 2 * s])),
            target=tensor(np.ascontiguousarray(values[:, length:, 0])),
            target_known=tensor(np.ascontiguousarray(known[:, length:, 0])),
            weight=tensor(self.weight[index]),
        )


def _begun(y: FloatArray, row: IntArray, origin: IntArray, length: int) -> NDArray[np.float32]:
    """`[B, L]`: 1 from a window's first step inside its series on."""
    first = np.where(np.isfinite(y).any(axis=1), np.isfinite(y).argmax(axis=1), y.shape[1])
    step = origin[:, None] - np.arange(length - 1, -1, -1)[None, :]
    return np.asarray(step >= first[row][:, None], dtype=np.float32)


def _standardised(x: NDArray[np.float32], scale: Standard, level: NDArray[np.float32]) -> NDArray[np.float32]:
    """Standardised copies of covariates `[B, ..., C]`, held to `LARGEST_SCORE`."""
    if not len(scale):
        return np.ascontiguousarray(x)
    ratio = np.where(scale.scaled, x / level, x)
    score = np.clip((ratio - scale.mean) / scale.std, -LARGEST_SCORE, LARGEST_SCORE)
    return np.asarray(score, dtype=np.float32)
