"""The promotion decision and its evidence."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

Kind = Literal["first", "refit", "replace", "keep", "none"]
"""`first`: no champion yet. `refit`: the champion's own recipe on newer data. `replace`: another recipe that is
better. `keep`: the champion stays. `none`: no champion and the challenger fails a guard."""


@dataclass(frozen=True)
class Guard:
    """One non-inferiority check: `value` against `limit`, in words."""

    name: str
    value: float
    limit: str
    passed: bool


@dataclass(frozen=True)
class Decision:
    """Challenger against champion.

    Attributes
    ----------
    effect
        Relative change of the mean loss, challenger against champion on the same rows; negative is better.
    low, high
        Bootstrap interval of the effect at the plan's confidence (two-sided).
    rows, cutoffs
        Paired rows and origins compared.
    """

    kind: Kind
    promote: bool
    reason: str
    guards: tuple[Guard, ...] = ()
    effect: float | None = None
    low: float | None = None
    high: float | None = None
    rows: int = 0
    cutoffs: int = 0

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Decision:
        """Back from JSON values."""
        rest = {key: item for key, item in value.items() if key != "guards"}
        return cls(**rest, guards=tuple(Guard(**guard) for guard in value["guards"]))
