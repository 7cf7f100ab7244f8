"""Windows of bars as views: only the batch at hand is ever copied.

A window is a run of whole rows of a C-contiguous base, so it is itself one run of memory: the strided view
`[N - L + 1, L * F]` has every window as a row, and gathering a batch copies each with one block copy.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nightcast.contracts.bars import UNKNOWN_LABEL
from nightcast.contracts.errors import ConfigError, TrainingError

if TYPE_CHECKING:
    import torch

IntArray = NDArray[np.int64]

INPUT_LIMIT = 10.0
"""Scaled inputs are held to this many scales either way: one broken bar must not decide a gradient."""
_CHUNK = 65_536
"""Rows of the base looked at together when it is checked."""


class Windows:
    """Windows of length L that end at given rows of a base array.

    Parameters
    ----------
    base
        `[N, F]` float32, C-contiguous; kept, never copied, so a memory map serves as well.
    rows
        `[n]` the last row of each window: window i is `base[rows[i] - L + 1 : rows[i] + 1]`.
    length
        L, in rows.
    segment
        `[N]` code of the segment a row belongs to; None: the base is one segment.
    limit
        Values of a batch are clamped to this many units either way; None leaves them.

    Raises
    ------
    ConfigError
        If the base is not a C-contiguous float32 matrix, the length is below 1, or a row lies outside the base.
    TrainingError
        If a window would leave its segment, or holds a value that is not finite; the message names the row.
    """

    def __init__(
        self,
        base: NDArray[np.float32],
        rows: IntArray,
        length: int,
        *,
        segment: NDArray[np.int64] | None = None,
        limit: float | None = INPUT_LIMIT,
    ) -> None:
        if base.ndim != 2 or base.dtype != np.float32 or not base.flags.c_contiguous:
            raise ConfigError(
                f"a base of shape {base.shape}, {base.dtype}, C-contiguous: {base.flags.c_contiguous}",
                expected="a C-contiguous float32 matrix [bars, features]",
                remedy="pass `np.ascontiguousarray(base, dtype=np.float32)`",
            )
        if length < 1:
            raise ConfigError(f"windows of {length} bars", expected="1 bar or more", remedy="correct `window`")
        rows = np.asarray(rows, dtype=np.int64)
        outside = (rows < 0) | (rows >= len(base))
        if outside.any():
            raise ConfigError(
                f"decision row {rows[outside][0]} for a base of {len(base)} bars",
                expected=f"rows from 0 to {len(base) - 1}",
                remedy="take rows and base from the same view",
            )
        self.base, self.rows, self.length, self.limit = base, rows, length, limit
        self._stay_in_segments(segment)
        self._stay_finite()

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def features(self) -> int:
        """F."""
        return int(self.base.shape[1])

    def subset(self, index: IntArray) -> Windows:
        """Some of the windows, over the same base; they were checked already."""
        out = object.__new__(Windows)
        out.base, out.rows, out.length, out.limit = self.base, self.rows[index], self.length, self.limit
        return out

    def gather(self, index: IntArray) -> NDArray[np.float32]:
        """`[B, L, F]` copies of the windows at these positions."""
        taken = self._view[self.rows[index] - (self.length - 1)]
        if self.limit is not None:
            np.clip(taken, -self.limit, self.limit, out=taken)
        return taken.reshape(len(taken), self.length, self.features)

    def batch(self, index: IntArray) -> torch.Tensor:
        """`gather` as a tensor over the same memory, `[B, L, F]`."""
        import torch

        return torch.from_numpy(self.gather(index))

    @cached_property
    def _view(self) -> NDArray[np.float32]:
        """`[N - L + 1, L * F]`: row s is the window that begins at bar s."""
        count, width = self.base.shape
        step, item = self.base.strides
        shape = (max(count - self.length + 1, 0), self.length * width)
        return np.lib.stride_tricks.as_strided(self.base, shape, (step, item), writeable=False)

    def _stay_in_segments(self, segment: NDArray[np.int64] | None) -> None:
        first = self.rows - (self.length - 1)
        start = np.zeros(len(self.base), dtype=np.int64)
        if segment is not None and len(segment):
            # first row of the run of equal codes that each row belongs to
            border = np.append(True, segment[1:] != segment[:-1])
            start = np.maximum.accumulate(np.where(border, np.arange(len(segment)), 0))
        short = first < start[self.rows]
        if short.any():
            row = int(self.rows[short][0])
            raise TrainingError(
                f"the window of {self.length} bars at row {row} would leave its segment, which begins at row "
                f"{int(start[row])} ({int(short.sum())} of {len(self.rows)} decisions)",
                expected=f"{self.length - 1} bars of the same segment before every decision",
                remedy="choose a shorter `window`, or prepare the data with a longer lead",
            )

    def _stay_finite(self) -> None:
        broken = np.zeros(len(self.base) + 1, dtype=np.int64)
        for begin in range(0, len(self.base), _CHUNK):
            finite: NDArray[np.bool_] = np.isfinite(self.base[begin : begin + _CHUNK])
            broken[begin + 1 : begin + 1 + len(finite)] = ~finite.all(axis=1)
        np.cumsum(broken, out=broken)
        first = self.rows - (self.length - 1)
        reached = broken[self.rows + 1] > broken[first]
        if reached.any():
            row, begin = int(self.rows[reached][0]), int(first[reached][0])
            bar, column = (int(i[0]) for i in np.nonzero(~np.isfinite(self.base[begin : row + 1])))
            raise TrainingError(
                f"bar {begin + bar}, which the window at row {row} reaches, holds {self.base[begin + bar, column]} in "
                f"column {column} ({int(reached.sum())} of {len(self.rows)} decisions)",
                expected="finite inputs",
                remedy="fill and scale with `FoldPipeline` first",
            )


@dataclass(frozen=True)
class Batch:
    """One batch on its device.

    Attributes
    ----------
    x
        `[B, L, F]` float32 inputs.
    y
        `[B, H]` int64 classes, -1 where unknown.
    weight
        `[B, H]` float32, 0 where unknown.
    index
        `[B]` positions in the data they were taken from.
    """

    x: torch.Tensor
    y: torch.Tensor
    weight: torch.Tensor
    index: IntArray


@dataclass(frozen=True)
class LabelledWindows:
    """Windows with labels and weights: what a network is trained and judged on.

    Attributes
    ----------
    windows
        The n windows.
    y
        `[n, H]` int8 class, -1 where unknown.
    weight
        `[n, H]` float32, 0 where unknown.

    Raises
    ------
    ConfigError
        If the shapes do not match, or a known label is no class.
    """

    windows: Windows
    y: NDArray[np.int8]
    weight: NDArray[np.float32]

    def __post_init__(self) -> None:
        if self.y.ndim != 2 or self.y.shape != self.weight.shape or len(self.y) != len(self.windows):
            raise ConfigError(
                f"{len(self.windows)} windows with labels {self.y.shape} and weights {self.weight.shape}",
                expected="labels and weights of shape [windows, horizons]",
                remedy="take all three from the same samples",
            )

    def __len__(self) -> int:
        return len(self.windows)

    @property
    def horizons(self) -> int:
        """H."""
        return int(self.y.shape[1])

    def usable(self) -> LabelledWindows:
        """Those with a known label of positive weight in at least one horizon."""
        return self.subset(np.flatnonzero(((self.y != UNKNOWN_LABEL) & (self.weight > 0)).any(axis=1)))

    def subset(self, index: IntArray) -> LabelledWindows:
        """Some of them, over the same base."""
        return LabelledWindows(self.windows.subset(index), self.y[index], self.weight[index])

    def batch(self, index: IntArray, device: Any = "cpu") -> Batch:
        """The windows, labels and weights at these positions, on a device."""
        import torch

        return Batch(
            x=self.windows.batch(index).to(device),
            y=torch.from_numpy(self.y[index].astype(np.int64)).to(device),
            weight=torch.from_numpy(self.weight[index].astype(np.float32)).to(device),
            index=index,
        )

    def fingerprint(self) -> str:
        """Sixteen hex digits over base, rows, labels and weights: a fit resumes on the data it was begun on."""
        digest = blake2b(digest_size=8)
        digest.update(repr((self.windows.length, self.windows.limit, self.windows.base.shape, self.y.shape)).encode())
        for array in (self.windows.base, self.windows.rows, self.y, self.weight):
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()
