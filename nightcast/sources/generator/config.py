"""What field to generate."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from datetime import date, datetime
from typing import Any, Final, Literal, get_args

import numpy as np

from nightcast.contracts.errors import ConfigError
from nightcast.contracts.hashing import derive_seed

Level = Literal["easy", "reference", "hard"]
Variant = Literal["standard", "constant_injection", "poor_uptime"]
Allocation = Literal["monthly", "test"]
Size = Literal["small", "default", "scale"]

SIZES: Final[dict[Size, tuple[int, int]]] = {"small": (12, 4), "default": (40, 14), "scale": (200, 60)}
"""Size -> producers, injectors."""

LEVELS: Final[dict[Level, tuple[float, float]]] = {"easy": (0.5, 2.0), "reference": (1.0, 3.0), "hard": (1.3, 4.0)}
"""Level -> spread of the log connectivity around the distance kernel, anisotropy ratio."""


@dataclass(frozen=True)
class FieldConfig:
    """A field to generate; equal configurations give equal fields.

    Attributes
    ----------
    producers, injectors
        Wells drilled as such.
    months
        Calendar months to simulate.
    level
        How far true connectivities stray from distance: `easy`, `reference`, `hard`.
    start
        First month, an ISO date or a `date`, the first of a month.
    variant
        `standard`; `constant_injection`: no injector ever changes, so connectivities cannot be identified;
        `poor_uptime`: wells are down a quarter of the time.
    feedback
        The operator raises injection when the field's pressure falls (reverse causality).
    allocation
        `monthly`: a new allocation error each month; `test`: the error of the last well test, for 1 to 4 months.
    dirt
        Missing and stuck gauges and missing volumes, listed in the ledger.

    Raises
    ------
    ConfigError
        If a value is out of range, or the variant contradicts the feedback.
    """

    producers: int = 40
    injectors: int = 14
    months: int = 120
    level: Level = "reference"
    start: str | date = "2015-01-01"
    seed: int = 1
    variant: Variant = "standard"
    feedback: bool = False
    allocation: Allocation = "monthly"
    dirt: bool = True

    def __post_init__(self) -> None:
        for name, least in (("producers", 1), ("injectors", 1), ("months", 2), ("seed", 0)):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise ConfigError(
                    f"{name} of a generated field is {value!r}",
                    expected=f"a whole number of at least {least}",
                    remedy=f"set source.params.{name}",
                )
        for name, choices in (("level", Level), ("variant", Variant), ("allocation", Allocation)):
            _require_choice(name, getattr(self, name), get_args(choices))
        for name in ("feedback", "dirt"):
            _require_choice(name, getattr(self, name), (True, False))
        object.__setattr__(self, "start", _first_of_month(self.start))
        if self.feedback and self.variant == "constant_injection":
            raise ConfigError(
                "feedback is on and the variant is 'constant_injection'",
                expected="injection that either answers to pressure or never changes",
                remedy="switch one of the two off",
            )

    @classmethod
    def from_params(cls, params: Mapping[str, Any]) -> FieldConfig:
        """Read the parameters of a workload file; `size` names a preset of producers and injectors.

        Raises
        ------
        ConfigError
            If a key or a value is unknown.
        """
        known = {field.name for field in fields(cls)} | {"size"}
        unknown = sorted(set(params) - known)
        if unknown:
            raise ConfigError(
                f"unknown parameter(s) {unknown} of the field generator",
                expected=f"some of {sorted(known)}",
                remedy="correct source.params in the workload file",
            )
        given = dict(params)
        size = given.pop("size", "default")
        _require_choice("size", size, get_args(Size))
        producers, injectors = SIZES[size]
        return cls(**{"producers": producers, "injectors": injectors, **given})

    def with_(self, **changes: Any) -> FieldConfig:
        """The same field but for some values."""
        return replace(self, **changes)

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)

    @property
    def first(self) -> datetime:
        """Label of the first month."""
        return datetime.fromisoformat(str(self.start))

    def stream(self, *names: str) -> np.random.Generator:
        """Random numbers for one purpose; purposes do not disturb one another."""
        return np.random.default_rng(derive_seed("field", self.seed, *names))


def _require_choice(name: str, value: Any, choices: tuple[Any, ...]) -> None:
    # `in` would let 1 pass for True and fail on unhashable values with another error.
    if not any(type(value) is type(choice) and value == choice for choice in choices):
        raise ConfigError(
            f"{name} of a generated field is {value!r}",
            expected=f"one of {', '.join(map(str, choices))}",
            remedy=f"set source.params.{name}",
        )


def _first_of_month(value: Any) -> str:
    try:
        day = value.date() if isinstance(value, datetime) else value
        day = day if isinstance(day, date) else datetime.fromisoformat(day).date()
    except (TypeError, ValueError):
        day = None
    if day is None or day.day != 1:
        raise ConfigError(
            f"start of a generated field is {value!r}",
            expected="the first day of a month, such as 2015-01-01",
            remedy="set source.params.start",
        )
    return str(day.isoformat())
