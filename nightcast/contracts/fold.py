"""Folds: one fit and the origins it is judged at."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any


@dataclass(frozen=True)
class Fold:
    """One train/test pair of a walk-forward.

    A model is fitted once on rows with `train_start <= ds <= train_end` and then forecasts from every cutoff, each
    time with the history known at that cutoff. With one cutoff per fold this is refitting at every origin; more
    cutoffs per fold spend a smaller refit budget.

    Attributes
    ----------
    name
        `fold-00`, `fold-01`, ... in time order; `final` is the fit that is published from.
    train_start
        First time in training (None: all history, the expanding window).
    train_end
        Last time in training.
    cutoffs
        Origins to forecast from, rising; each is at or after `train_end`.
    """

    name: str
    train_start: datetime | None
    train_end: datetime
    cutoffs: tuple[datetime, ...]

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "name": self.name,
            "train_start": self.train_start.isoformat() if self.train_start else None,
            "train_end": self.train_end.isoformat(),
            "cutoffs": [cutoff.isoformat() for cutoff in self.cutoffs],
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Fold:
        """Back from JSON values."""
        start = value["train_start"]
        return cls(
            value["name"],
            datetime.fromisoformat(start) if start else None,
            datetime.fromisoformat(value["train_end"]),
            tuple(datetime.fromisoformat(cutoff) for cutoff in value["cutoffs"]),
        )
