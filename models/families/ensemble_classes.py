"""Ensembles as classifiers of their own: voting, stacking and blending of other rows of the catalog.

Inside a fit they learn from out-of-sample probabilities only: a member never scores a decision whose label's time it
was fitted on.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator, model_validator

from models.classifier import MIN_ROWS, Classifier, ClassifierParams, FitReport, Inputs, Samples
from models.ensembles.pooling import Floats, apply_stack, equal_stack, fit_stack, log_pool, simplex_weights
from nightcast.contracts.bars import UNKNOWN_LABEL
from nightcast.contracts.catalog import Capabilities
from nightcast.contracts.columns import CLASSES
from nightcast.contracts.errors import ConfigError, RegistryError
from nightcast.contracts.hashing import derive_seed
from nightcast.contracts.recipe import Preset

MIN_LEARNED = 200
"""Known labels below which weights stay equal."""


class EnsembleParams(ClassifierParams):
    """Hyperparameters of an ensemble.

    Attributes
    ----------
    members
        Catalog names; each takes the parameters of `member_preset`, overridden by `member_params`.
    """

    feature_set: str = "ensemble_base"
    members: tuple[str, ...] = Field(default=("lightgbm", "logistic", "random_forest"), min_length=2)
    member_preset: Preset = "ci"
    member_params: dict[str, dict[str, Any]] = Field(default_factory=dict)

    @field_validator("members")
    @classmethod
    def _different(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(value)) != len(value):
            raise ValueError(f"different members, not {', '.join(value)}")
        return value

    @model_validator(mode="after")
    def _of_members(self) -> Self:
        strange = sorted(set(self.member_params) - set(self.members))
        if strange:
            raise ValueError(f"parameters of members alone, not of {', '.join(strange)}")
        return self


class StackingParams(EnsembleParams):
    """Hyperparameters of stacking: `blocks` inner test blocks, the L2 penalty `strength` towards equal weights."""

    blocks: int = Field(default=3, ge=1)
    strength: float = Field(default=10.0, gt=0)


class BlendingParams(EnsembleParams):
    """Hyperparameters of blending: the newest `share` of the training decisions teaches the weights."""

    share: float = Field(default=0.1, gt=0, lt=0.5)


class EnsembleClassifier(Classifier):
    """What the three ensembles share: making, fitting, asking and storing members."""

    Params: ClassVar[type[ClassifierParams]] = EnsembleParams
    capabilities: ClassVar[Capabilities] = Capabilities(scaling="robust")

    params: EnsembleParams
    members: dict[str, Classifier]

    def __init__(self, **params: Any) -> None:
        super().__init__(**params)
        self._unfitted = {name: self._make(name) for name in self.params.members}

    @property
    def window(self) -> int:
        """The longest window of a member."""
        return max(member.window for member in self._unfitted.values())

    def _make(self, name: str) -> Classifier:
        from models.classifiers import CLASSIFIERS

        entry = CLASSIFIERS[name]
        if entry.family == "ensemble" or entry.capabilities.baseline:
            raise ConfigError(
                f"{type(self).__name__} cannot take {name!r}, of the family {entry.family!r}, as a member",
                expected="classifiers that are neither ensembles nor baselines",
                remedy="correct `members`",
            )
        given = {**entry.presets.get(self.params.member_preset, {}), **self.params.member_params.get(name, {})}
        made: Classifier = entry.load()(**given)
        return made

    def _fit_members(self, train: Samples, valid: Samples, seed: int) -> dict[str, Classifier]:
        return {
            name: self._make(name).fit_samples(train, valid, seed=derive_seed(seed, name), freq="")
            for name in self.params.members
        }

    @staticmethod
    def _ask(members: Mapping[str, Classifier], inputs: Inputs) -> Floats:
        """`[M, n, H, 3]` probabilities of the members."""
        return np.stack([m.checked(m.probabilities(inputs), len(inputs.rows)) for m in members.values()])

    def _write(self, folder: Path) -> dict[str, Any]:
        for name, member in self.members.items():
            member.save(folder / "members" / name)
        return {"members": list(self.members), **self._learned()}

    def _read(self, folder: Path, state: dict[str, Any]) -> None:
        from models.classifiers import CLASSIFIERS

        if list(state["members"]) != list(self.params.members):
            raise RegistryError(
                f"the bundle {folder.name!r} holds the members {', '.join(state['members'])}",
                expected=", ".join(self.params.members),
                remedy="register it again",
            )
        self.members = {name: CLASSIFIERS[name].load().load(folder / "members" / name) for name in state["members"]}
        self._learn_from(state)

    def _learned(self) -> dict[str, Any]:
        return {}

    def _learn_from(self, state: dict[str, Any]) -> None:
        return None

    def importance(self) -> dict[str, float] | None:
        """Mean of the members' importances, over those that have one."""
        found = [its for member in self.members.values() if (its := member.importance()) is not None]
        if not found:
            return None
        names = dict.fromkeys(name for its in found for name in its)
        return {name: sum(its.get(name, 0.0) for its in found) / len(found) for name in names}


class VotingClassifier(EnsembleClassifier):
    """Mean of the members' log-odds."""

    def learn(self, train: Samples, valid: Samples, *, seed: int) -> FitReport:
        """Fit every member on all training decisions."""
        self.members = self._fit_members(train, valid, seed)
        return FitReport()

    def probabilities(self, inputs: Inputs) -> NDArray[np.float64]:
        """The equal log pool."""
        asked = self._ask(self.members, inputs)
        equal = np.full(len(asked), 1 / len(asked))
        return np.stack([log_pool(asked[:, :, h], equal) for h in range(asked.shape[2])], axis=1)


class StackingClassifier(EnsembleClassifier):
    """Multinomial logistic regression on the members' log-odds, learnt on inner walk-forward blocks (Wolpert 1992).

    The training decisions are cut into `blocks + 1` parts in order of time; each part after the first is scored by
    members fitted on the parts before it, purged by label end.
    """

    Params: ClassVar[type[ClassifierParams]] = StackingParams
    params: StackingParams
    stacks: NDArray[np.float64]
    """`[H, 2 M + 1, 3]` coefficients."""

    def learn(self, train: Samples, valid: Samples, *, seed: int) -> FitReport:
        """Fit the members per block for the stack, then on everything."""
        count, horizons = len(self.params.members), len(train.inputs.horizons)
        asked, labels, weights = [], [], []
        for past, block in inner_blocks(train, self.params.blocks):
            if len(past.inputs.rows) < MIN_LEARNED or not _two_classes(past):
                continue
            none = subset(block, np.empty(0, dtype=np.int64))
            members = self._fit_members(past, none, seed)
            asked.append(self._ask(members, block.inputs))
            labels.append(block.y)
            weights.append(block.weight)
        self.stacks = np.repeat(equal_stack(count, len(CLASSES))[None], horizons, axis=0)
        if asked:
            cube, y, w = np.concatenate(asked, axis=1), np.concatenate(labels), np.concatenate(weights)
            for h in range(horizons):
                known = y[:, h] != UNKNOWN_LABEL
                if known.sum() >= MIN_LEARNED:
                    self.stacks[h] = fit_stack(
                        cube[:, known, h], y[known, h], w[known, h].astype(np.float64), strength=self.params.strength
                    )
        self.members = self._fit_members(train, valid, seed)
        return FitReport()

    def probabilities(self, inputs: Inputs) -> NDArray[np.float64]:
        """The stack of the members fitted on everything."""
        asked = self._ask(self.members, inputs)
        return np.stack([apply_stack(asked[:, :, h], self.stacks[h]) for h in range(asked.shape[2])], axis=1)

    def _learned(self) -> dict[str, Any]:
        return {"stacks": self.stacks.tolist()}

    def _learn_from(self, state: dict[str, Any]) -> None:
        self.stacks = np.asarray(state["stacks"], dtype=np.float64)


class BlendingClassifier(EnsembleClassifier):
    """Simplex weights learnt on the newest part of the training decisions, which the members were not fitted on."""

    Params: ClassVar[type[ClassifierParams]] = BlendingParams
    params: BlendingParams
    weights: NDArray[np.float64]
    """`[H, M]`, rows sum to 1."""

    def learn(self, train: Samples, valid: Samples, *, seed: int) -> FitReport:
        """Fit the members on the older decisions, then the weights on the newer ones.

        With too few older ones for that, the members are fitted on everything and weighed equally.
        """
        order = np.argsort(train.inputs.times[train.inputs.rows], kind="stable")
        held = max(1, round(self.params.share * len(order)))
        past, newest = purged_pair(train, order[:-held], order[-held:])
        horizons, count = len(train.inputs.horizons), len(self.params.members)
        self.weights = np.full((horizons, count), 1 / count)
        if len(past.inputs.rows) < MIN_ROWS or not _two_classes(past):
            self.members = self._fit_members(train, valid, seed)
            return FitReport()
        self.members = self._fit_members(past, valid, seed)
        asked = self._ask(self.members, newest.inputs)
        for h in range(horizons):
            known = newest.known(h)
            if known.sum() >= MIN_LEARNED:
                self.weights[h] = simplex_weights(
                    asked[:, known, h], newest.y[known, h], newest.weight[known, h].astype(np.float64)
                )
        return FitReport()

    def probabilities(self, inputs: Inputs) -> NDArray[np.float64]:
        """The weighted log pool."""
        asked = self._ask(self.members, inputs)
        return np.stack([log_pool(asked[:, :, h], self.weights[h]) for h in range(asked.shape[2])], axis=1)

    def _learned(self) -> dict[str, Any]:
        return {"weights": self.weights.tolist()}

    def _learn_from(self, state: dict[str, Any]) -> None:
        self.weights = np.asarray(state["weights"], dtype=np.float64)


def subset(samples: Samples, at: NDArray[np.int64]) -> Samples:
    """The samples at some positions, on the same base."""
    inputs = samples.inputs
    part = Inputs(
        base=inputs.base,
        rows=inputs.rows[at],
        names=inputs.names,
        horizons=inputs.horizons,
        raw=inputs.raw,
        segment=inputs.segment,
        times=inputs.times,
        symbol=inputs.symbol,
    )
    return Samples(part, samples.y[at], samples.weight[at], samples.hold[at])


def purged_pair(samples: Samples, past: NDArray[np.int64], later: NDArray[np.int64]) -> tuple[Samples, Samples]:
    """Two parts in time; labels of the first that may end at or after the second's first decision become unknown.

    A label counts until the last bar it may look at, even if a barrier was touched earlier: to keep those and not their
    undecided neighbours would make the end of the first part look eventful.
    """
    first, second = subset(samples, np.sort(past)), subset(samples, np.sort(later))
    times, rows = samples.inputs.times, first.inputs.rows
    border = times[second.inputs.rows].min()
    reach = np.maximum(first.hold, np.asarray(samples.inputs.horizons))
    ends = times[np.minimum(rows[:, None] + reach, len(times) - 1)]
    late = ends >= border
    y = np.where(late, UNKNOWN_LABEL, first.y).astype(np.int8)
    weight = np.where(late, 0.0, first.weight).astype(np.float32)
    hold = np.where(late, 0, first.hold).astype(np.int32)
    # a decision at the border itself has no label left either
    kept = np.flatnonzero((y != UNKNOWN_LABEL).any(axis=1))
    return subset(Samples(first.inputs, y, weight, hold), kept), second


def inner_blocks(samples: Samples, blocks: int) -> list[tuple[Samples, Samples]]:
    """(past, block) pairs: `blocks` parts in order of time, each with everything before it, purged."""
    order = np.argsort(samples.inputs.times[samples.inputs.rows], kind="stable")
    parts = np.array_split(order, blocks + 1)
    return [
        purged_pair(samples, np.concatenate(parts[:i]), parts[i])
        for i in range(1, blocks + 1)
        if len(parts[i]) and sum(map(len, parts[:i]))
    ]


def _two_classes(samples: Samples) -> bool:
    return all(len(np.unique(samples.y[samples.known(h), h])) > 1 for h in range(samples.y.shape[1]))
