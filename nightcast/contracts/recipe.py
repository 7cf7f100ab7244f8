"""A recipe: everything a refit needs, as data with a hash."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

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


class CombinerPlan(_Frozen):
    """How members are combined.

    Attributes
    ----------
    method
        `weighted`: simplex weights per horizon. `mean`: equal weights. For classes also `voting` (equal weights in
        log-odds), `stacking` (multinomial logistic on out-of-fold log-odds) and `blending` (simplex weights learned
        on the newest tenth of the rows).
    shrinkage
        Towards equal weights, in [0, 1].
    """

    method: Literal["weighted", "mean", "voting", "stacking", "blending"] = "weighted"
    shrinkage: float = Field(default=0.3, ge=0, le=1)


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
