"""A recipe: everything a refit needs, as data with a hash."""

from __future__ import annotations

import math
from typing import Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationInfo,
    field_validator,
    model_serializer,
)

from nightcast.contracts.hashing import hash_json

Preset = Literal["ci", "nightly_cpu", "seed"]
"""`ci`: seconds, for tests. `nightly_cpu`: minutes on two cores. `seed`: the specification's exact numbers."""
PRESETS: tuple[Preset, ...] = ("ci", "nightly_cpu", "seed")


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class FeatureChoice(_Frozen):
    """One feature block and its parameters."""

    name: str
    params: dict[str, Any] = Field(default_factory=dict)


class ModelChoice(_Frozen):
    """One catalog entry with its hyperparameters resolved.

    `label` names it in tables, so that one family can take part twice with other parameters.
    """

    name: str
    label: str
    params: dict[str, Any] = Field(default_factory=dict)
    seed_index: int = 0


class FoldPlan(_Frozen):
    """How a walk-forward is laid out.

    Attributes
    ----------
    cutoffs
        Number of origins, the last one a full horizon (plus `gap`) before the as-of date.
    step
        Steps between two origins.
    refits
        Number of fits the origins share (the refit budget).
    window
        `expanding` or `rolling`.
    window_size
        Steps in a rolling window.
    gap
        Steps between the last training row and the cutoff (data latency).
    min_train
        Fewest steps of history before the first origin; origins with less are left out.
    """

    cutoffs: int = Field(default=8, ge=1)
    step: int = Field(default=1, ge=1)
    refits: int = Field(default=2, ge=1)
    window: Literal["expanding", "rolling"] = "expanding"
    window_size: int | None = Field(default=None, ge=1)
    gap: int = Field(default=0, ge=0)
    min_train: int = Field(default=12, ge=1)


class MetaPlan(_Frozen):
    """The meta-model of stacked quantiles.

    Attributes
    ----------
    kind
        `ridge`: linear in the members' medians, coefficients per horizon. `boosting`: a small LightGBM over all
        horizons.
    nonnegative
        Ridge: no member counts against itself.
    strength
        Ridge: how strongly coefficients are held to the learned weights; its pull falls with the number of origins.
    rounds
        Boosting: trees.
    """

    kind: Literal["ridge", "boosting"] = "ridge"
    nonnegative: bool = True
    strength: float = Field(default=1.0, ge=0, allow_inf_nan=False)
    rounds: int = Field(default=80, ge=1, le=2000)


class CombinerPlan(_Frozen):
    """How members are combined.

    Attributes
    ----------
    method
        `weighted`: the given `weights`, else simplex weights learned per horizon. `mean`: equal weights. For
        quantiles also `greedy` (forward selection with replacement) and `stacking` (a meta-model on out-of-fold
        medians). For classes also `voting` (equal weights in log-odds), `stacking` (multinomial logistic on
        out-of-fold log-odds) and `blending` (simplex weights learned on the newest tenth of the rows).
    shrinkage
        Towards equal weights, in [0, 1].
    weights
        Label -> weight, one table for all horizons; a member without one has none. They are scaled to sum to one.
    meta
        The meta-model of stacked quantiles; by default a ridge.
    """

    method: Literal["weighted", "mean", "greedy", "voting", "stacking", "blending"] = "weighted"
    shrinkage: float = Field(default=0.3, ge=0, le=1)
    weights: dict[str, float] | None = None
    meta: MetaPlan | None = None

    @field_validator("weights")
    @classmethod
    def _on_a_simplex(cls, value: dict[str, float] | None, info: ValidationInfo) -> dict[str, float] | None:
        if value is None:
            return None
        if "method" in info.data and info.data["method"] != "weighted":
            raise ValueError(f"weights are given with method weighted only, not with {info.data['method']}")
        for label, weight in value.items():
            if not (math.isfinite(weight) and weight >= 0):
                raise ValueError(f"the weight of {label!r} should be a finite number, 0 or more")
        if not sum(value.values()) > 0:
            raise ValueError("at least one weight should be above 0")
        return value

    @field_validator("meta")
    @classmethod
    def _of_a_stack(cls, value: MetaPlan | None, info: ValidationInfo) -> MetaPlan | None:
        if value is not None and "method" in info.data and info.data["method"] != "stacking":
            raise ValueError(f"a meta-model belongs to method stacking, not to {info.data['method']}")
        return value

    @model_serializer(mode="wrap")
    def _without_what_is_not_set(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # A recipe that does not use an option has the hash it had before there was one.
        return {name: value for name, value in handler(self).items() if value is not None}


class GatePlan(_Frozen):
    """When a challenger replaces the champion.

    Attributes
    ----------
    confidence
        Confidence of the block bootstrap's two-sided interval.
    min_effect
        Relative improvement of the mean loss below which a change is not worth it.
    max_bias
        Largest |bias| as a share of the mean actual.
    coverage
        Range the coverage of the central 80 % interval must lie in.
    worst_segment
        Largest loss ratio to the champion (or to the naive) in any segment.
    block
        Origins in one bootstrap block; origins whose horizons overlap are dependent, so about a horizon's worth.
    draws
        Bootstrap draws.
    """

    confidence: float = Field(default=0.9, gt=0.5, lt=1)
    min_effect: float = Field(default=0.002, ge=0)
    max_bias: float = Field(default=0.15, gt=0)
    coverage: tuple[float, float] = (0.6, 0.97)
    worst_segment: float = Field(default=1.25, gt=1)
    block: int = Field(default=6, ge=1)
    draws: int = Field(default=1000, ge=100)


class LimitPlan(_Frozen):
    """Ceilings of one unit of work (a model's fit and forecasts in one fold)."""

    seconds: float = Field(default=900, gt=0)
    memory_gib: float = Field(default=6, gt=0)


class Recipe(_Frozen):
    """Instructions of one refit; equal recipes have equal hashes.

    Attributes
    ----------
    preparation
        What else decides which rows and series a night uses (thresholds, retirement), so that a change of it makes
        another night.
    """

    horizon: int = Field(ge=1)
    features: tuple[FeatureChoice, ...] = ()
    models: tuple[ModelChoice, ...]
    folds: FoldPlan = FoldPlan()
    combiner: CombinerPlan = CombinerPlan()
    gate: GatePlan = GatePlan()
    limits: LimitPlan = LimitPlan()
    preparation: dict[str, Any] = Field(default_factory=dict)
    seed: int = 1

    @property
    def hash(self) -> str:
        """Sixteen hex digits over every field but the ceilings, which change no number."""
        return hash_json(self.model_dump(mode="json", exclude={"limits"}))
