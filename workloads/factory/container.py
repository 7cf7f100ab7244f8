"""Training and validation data of one horizon, as arrays, windows or views."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from nightcast.contracts.bars import UNKNOWN_LABEL, BarDataset, BarView
from nightcast.contracts.errors import ConfigError
from nightcast.contracts.fold import Fold
from nightcast.features.weights import sample_weights

Split = Literal["train", "val"]
MIN_VALIDATION: Final = 50

Arrays = tuple[NDArray[np.float32], NDArray[np.int8], NDArray[np.float64]]


@dataclass(frozen=True)
class TimeSeriesDataContainer:
    """A dataset cut in two in time, purged: no training label ends inside the validation span.

    Attributes
    ----------
    horizon
        Bars ahead; one of the dataset's.
    feature_set
        Columns of the arrays.
    share
        Newest share of the decision times that validates.
    """

    dataset: BarDataset
    horizon: int
    feature_set: str
    share: float = 0.2

    def __post_init__(self) -> None:
        """Check horizon, share, set and length."""
        horizons = self.dataset.schema.horizons
        if self.horizon not in horizons:
            raise ConfigError(
                f"horizon {self.horizon} is not labelled",
                expected=f"one of {', '.join(map(str, horizons))}",
                remedy="add it to `bars.horizons` of the workload file",
            )
        if not 0 < self.share < 1:
            raise ConfigError(
                f"validation share {self.share:g}", expected="a share between 0 and 1", remedy="correct it"
            )
        if not self.dataset.ready.any():
            raise ConfigError(
                f"none of {self.dataset.frame.height} bars has the {self.dataset.lead} bars behind it that a decision "
                "needs",
                expected="longer stretches without a gap",
                remedy="bring more bars, raise `max_gap`, or choose a model with a shorter window",
            )
        self.train.columns_of(self.feature_set)
        if len(self.val.rows) < MIN_VALIDATION:
            raise ConfigError(
                f"{len(self.val.rows)} validation decisions",
                expected=f"at least {MIN_VALIDATION}",
                remedy="bring more bars, or validate on a larger share",
            )

    @cached_property
    def border(self) -> datetime:
        """The first validation decision."""
        frame = self.dataset.frame.select("ds").filter(self.dataset.ready)
        times = frame.get_column("ds").unique().sort()
        border: datetime = times[max(1, len(times) - max(1, round(self.share * len(times))))]
        return border

    @cached_property
    def train(self) -> BarView:
        """Training decisions with the labels that had ended before the border."""
        times = self.dataset.frame.get_column("ds").unique().sort()
        before: datetime = times.filter(times < self.border).max()  # type: ignore[assignment]
        return self.dataset.training(Fold("train", None, before, (self.border,)))

    @cached_property
    def val(self) -> BarView:
        """Validation decisions with every label known at the as-of date."""
        return self.dataset.labelled(self.border, self.dataset.as_of)

    def view(self, split: Split) -> BarView:
        """The view of a split.

        Raises
        ------
        ConfigError
            If there is no such split; a test split is left to the walk-forward.
        """
        if split not in ("train", "val"):
            raise ConfigError(
                f"unknown split {split!r}", expected="train or val", remedy="test decisions come from the walk-forward"
            )
        return self.train if split == "train" else self.val

    def get_sklearn_arrays(self, split: Split) -> Arrays:
        """`X (n, F)`, `y (n,)` and weights `(n,)` of the labelled decisions, in order of symbol and time.

        Features are as built: not scaled, nan where a value is missing. Weights are the labels' uniqueness with decay
        in time, mean 1.
        """
        view = self.view(split)
        rows, y, weight = self._labelled(view)
        return view.base[rows][:, view.columns_of(self.feature_set)], y, weight

    def get_pytorch_sequences(self, split: Split, seq_len: int) -> Arrays:
        """`X (n, L, F)`, `y (n,)` and weights `(n,)`; a window never leaves its segment, hence its symbol.

        The windows are copied: for training, the engine's own views need no such copy.

        Raises
        ------
        ConfigError
            If no decision has so long a window behind it.
        """
        view = self.view(split)
        rows, y, weight = self._labelled(view)
        inside = rows >= seq_len - 1
        inside[inside] &= view.segment[rows[inside] - seq_len + 1] == view.segment[rows[inside]]
        if not inside.any():
            raise ConfigError(
                f"no decision of the split {split!r} has {seq_len} bars of its segment behind it",
                expected="a shorter window",
                remedy="lower `sequence_length`",
            )
        columns = view.columns_of(self.feature_set)
        at = rows[inside, None] + np.arange(1 - seq_len, 1)
        return view.base[at][:, :, columns], y[inside], weight[inside]

    def _labelled(self, view: BarView) -> tuple[NDArray[np.int64], NDArray[np.int8], NDArray[np.float64]]:
        if view.labels is None:
            raise ConfigError("a view without labels", expected="labels", remedy="take the view from a container")
        h = view.horizons.index(self.horizon)
        known = view.labels.y[:, h] != UNKNOWN_LABEL
        rows, y = view.rows[known], view.labels.y[known, h]
        return rows, y, sample_weights(rows, view.labels.hold[known, h], None, times=view.times)
