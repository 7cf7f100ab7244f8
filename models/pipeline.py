"""What is learned from a fold's training rows before a model sees them: fill, clip, scale, prune.

Only `fit` touches data, at the rows it is given; it keeps their numbers, so that a test can show that no row outside
the training decisions had a say. `transform` is pure and works row by row.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from nightcast.contracts.errors import ConfigError, TrainingError

Scaling = Literal["none", "standard", "robust"]


@dataclass
class FoldPipeline:
    """Fill with the median, clip to quantiles, scale, and drop columns that repeat an earlier one.

    Parameters
    ----------
    scaling
        `none`; `standard`: mean 0, deviation 1; `robust`: median 0, interquartile range 1.
    prune
        Of two columns whose training values correlate beyond this, the later one is dropped; 1 keeps all. Constant
        columns are dropped always.
    clip
        Share clipped at each end, on training quantiles; 0 clips nothing.
    """

    scaling: Scaling = "none"
    prune: float = 0.98
    clip: float = 0.0005
    names_in: tuple[str, ...] = ()
    names_out: tuple[str, ...] = ()
    kept: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    fill: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))
    low: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))
    high: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))
    centre: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))
    scale: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))
    touched: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, dtype=np.int64), repr=False)

    @classmethod
    def identity(cls, names: tuple[str, ...]) -> Self:
        """A pipeline that changes nothing, for inputs that are prepared already."""
        count = len(names)
        return cls(
            scaling="none",
            prune=1.0,
            clip=0.0,
            names_in=names,
            names_out=names,
            kept=np.arange(count),
            fill=np.zeros(count),
            low=np.full(count, -np.inf),
            high=np.full(count, np.inf),
            centre=np.zeros(count),
            scale=np.ones(count),
        )

    def fit(self, base: NDArray[np.float32], rows: NDArray[np.int64], names: tuple[str, ...]) -> Self:
        """Learn from the given rows of `base` `[N, C]` alone.

        Raises
        ------
        ConfigError
            If the names do not match the columns.
        TrainingError
            If no column varies on the rows.
        """
        if base.ndim != 2 or base.shape[1] != len(names):
            raise ConfigError(
                f"{len(names)} column names for a base of shape {base.shape}",
                expected="one name a column",
                remedy="take both from the same view",
            )
        picked = base[rows]
        if not len(picked):
            raise TrainingError(
                f"no training row for {len(names)} columns",
                expected="at least one",
                remedy="bring more bars, or a plan with fewer or later folds",
            )
        self.touched = np.unique(rows)
        count = len(names)
        x = np.empty(picked.shape, dtype=np.float64, order="F")
        self.fill, self.centre, self.scale = np.zeros(count), np.zeros(count), np.ones(count)
        self.low, self.high = np.full(count, -np.inf), np.full(count, np.inf)
        # column by column, so that memory stays near one 64-bit copy of the training rows
        for j in range(count):
            column = picked[:, j].astype(np.float64)
            known = np.isfinite(column)
            if known.any():
                self.fill[j] = np.quantile(column[known], 0.5)
            column[~known] = self.fill[j]
            if self.clip > 0:
                self.low[j], self.high[j] = _bounds(column, self.clip)
            x[:, j] = np.clip(column, self.low[j], self.high[j])
            self.centre[j], self.scale[j] = _location(x[:, j], self.scaling)
        varies = x.max(axis=0) > x.min(axis=0)
        if not varies.any():
            raise TrainingError(
                f"none of the {count} columns varies on {len(picked)} training rows",
                expected="at least one feature that varies",
                remedy="look at the feature gate's findings",
            )
        self.kept = _distinct(x, varies, self.prune)
        self.names_in = tuple(names)
        self.names_out = tuple(names[i] for i in self.kept)
        return self

    def transform(self, base: NDArray[np.float32]) -> NDArray[np.float32]:
        """`[N, C]` to `[N, F]` float32, C-contiguous and finite; column by column, so memory stays near one copy."""
        if base.shape[1] != len(self.names_in):
            raise ConfigError(
                f"a base of {base.shape[1]} columns for a pipeline fitted on {len(self.names_in)}",
                expected="the columns of the fit, in their order",
                remedy="select `pipeline.names_in`",
            )
        out = np.empty((base.shape[0], len(self.kept)), dtype=np.float32)
        for j, i in enumerate(self.kept):
            column = base[:, i].astype(np.float64)
            column = np.where(np.isfinite(column), column, self.fill[i])
            out[:, j] = (np.clip(column, self.low[i], self.high[i]) - self.centre[i]) / self.scale[i]
        return out

    def to_json(self) -> dict[str, Any]:
        """As JSON values; infinite bounds are null."""
        return {
            "scaling": self.scaling,
            "prune": self.prune,
            "clip": self.clip,
            "names_in": list(self.names_in),
            "kept": self.kept.tolist(),
            "fill": self.fill.tolist(),
            "low": [v if np.isfinite(v) else None for v in self.low.tolist()],
            "high": [v if np.isfinite(v) else None for v in self.high.tolist()],
            "centre": self.centre.tolist(),
            "scale": self.scale.tolist(),
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        """Back from JSON values."""
        names = tuple(value["names_in"])
        kept = np.asarray(value["kept"], dtype=np.int64)
        return cls(
            scaling=value["scaling"],
            prune=value["prune"],
            clip=value["clip"],
            names_in=names,
            names_out=tuple(names[i] for i in kept),
            kept=kept,
            fill=np.asarray(value["fill"], dtype=np.float64),
            low=np.asarray([-np.inf if v is None else v for v in value["low"]], dtype=np.float64),
            high=np.asarray([np.inf if v is None else v for v in value["high"]], dtype=np.float64),
            centre=np.asarray(value["centre"], dtype=np.float64),
            scale=np.asarray(value["scale"], dtype=np.float64),
        )


def _bounds(column: NDArray[np.float64], clip: float) -> tuple[float, float]:
    """Outer quantiles of a column; its extremes where those meet, for a rare event must not be clipped away."""
    low, high = np.quantile(column, [clip, 1 - clip])
    return (float(low), float(high)) if low < high else (float(column.min()), float(column.max()))


def _location(column: NDArray[np.float64], scaling: Scaling) -> tuple[float, float]:
    """Centre and scale of a column; a scale of 1 where it does not vary."""
    if scaling == "none":
        return 0.0, 1.0
    if scaling == "standard":
        centre, scale = float(column.mean()), float(column.std())
    else:
        low, centre, high = (float(q) for q in np.quantile(column, [0.25, 0.5, 0.75]))
        scale = high - low if high > low else float(column.std())
    return centre, scale if scale > 0 else 1.0


def _distinct(x: NDArray[np.float64], varies: NDArray[np.bool_], limit: float) -> NDArray[np.int64]:
    """Columns that vary and correlate with no earlier kept one beyond the limit; uses up `x`."""
    columns = np.flatnonzero(varies)
    if limit >= 1:
        return columns
    for j in columns:
        x[:, j] -= x[:, j].mean()
        x[:, j] /= np.sqrt(x[:, j] @ x[:, j])
    close = np.abs(x.T @ x) > limit
    kept: list[int] = []
    for j in columns:
        if not any(close[j, i] for i in kept):
            kept.append(int(j))
    return np.asarray(kept, dtype=np.int64)
