"""What classifiers need of the data and of the machine, asked before a fit: which of them are not fitted, and why."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from models.classifier import Classifier
from models.classifiers import CLASSIFIERS
from nightcast.contracts.bars import BarDataset
from nightcast.contracts.recipe import ModelChoice, Recipe
from nightcast.contracts.verdict import Finding
from nightcast.evaluation.guards import MIN_RATIO, memory_estimate, memory_guard, sample_feature_guard

TOO_LARGE: Final = "fit_too_large"
FEW_SAMPLES: Final = "few_samples_per_feature"
REFUSING: Final = frozenset({TOO_LARGE, FEW_SAMPLES})
"""Reasons for which a model is not fitted; other findings about a fit are warnings."""
RATIO: Final = "samples_per_feature"
"""Key of `Recipe.preparation` with the least ratio, where the workload's file sets one."""


def about(label: str) -> str:
    """The rule that a finding about a model's fit names."""
    return f"before the fit of {label}"


def fit_findings(dataset: BarDataset, recipe: Recipe) -> tuple[Finding, ...]:
    """What the recipe's models lack before they are fitted: decisions per column, memory.

    `fit_too_large` (an estimate above the unit's ceiling) and `few_samples_per_feature` (fewer decisions a column than
    10, or than the workload's file says) refuse the fit; see `refused_fits`. More columns than the number of decisions
    bears, and more memory than is free now, are warnings.
    """
    least = float(recipe.preparation.get(RATIO, MIN_RATIO))
    ready = int(dataset.ready.sum())
    found = []
    for choice in recipe.models:
        entry = CLASSIFIERS[choice.name]
        if entry.capabilities.baseline:
            continue
        model: Classifier = entry.load()(**choice.params)
        rows = min(ready, model.params.max_rows or ready)
        columns = len(dataset.sets[model.params.feature_set])
        # a network's weights, from its widths: eight matrices of (columns + hidden) x hidden cover an LSTM
        hidden, layers = (int(getattr(model.params, name, 0)) for name in ("hidden", "layers"))
        estimate = memory_estimate(
            entry.family,
            len(dataset.ready),
            columns,
            window=model.window,
            params=8 * hidden * (hidden + columns) * max(layers, 1),
            horizons=len(dataset.schema.horizons),
        )
        samples = sample_feature_guard(rows, columns)
        ceiling = memory_guard(estimate, available_gib=math.inf, limit_gib=recipe.limits.memory_gib)
        free = memory_guard(estimate)
        words = []
        if samples.value < least:
            counted = f"{rows} decisions for {columns} columns, {samples.value:.3g} for each"
            words.append((FEW_SAMPLES, f"{counted}; at least {least:g} (gates.{RATIO} of the workload file)"))
        elif not samples.passed:
            words.append((samples.name, f"{samples.name} is {samples.value:.3g}, {samples.limit}"))
        if not ceiling.passed:
            words.append((TOO_LARGE, f"an estimated {ceiling.value:.3g} GiB, {ceiling.limit}"))
        elif not free.passed:
            words.append((free.name, f"an estimated {free.value:.3g} GiB, {free.limit}"))
        found += [
            Finding(None, reason, "warn", 0, f"{choice.label}: {detail}", about(choice.label))
            for reason, detail in words
        ]
    return tuple(found)


def refused_fits(findings: Sequence[Finding], models: Sequence[ModelChoice]) -> dict[str, str]:
    """Label -> reasons, of the models that a gate's findings keep from being fitted."""
    out: dict[str, str] = {}
    for choice in models:
        its = [f for f in findings if f.reason in REFUSING and f.rule == about(choice.label)]
        if its:
            out[choice.label] = "; ".join(f"{f.reason}: {f.detail.removeprefix(choice.label + ': ')}" for f in its)
    return out
