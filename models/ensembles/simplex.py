"""The name under which bundles of earlier releases hold the combiner of quantiles."""

from __future__ import annotations

from dataclasses import dataclass

from models.ensembles.quantiles import QuantileCombiner


@dataclass(frozen=True)
class SimplexCombiner(QuantileCombiner):
    """As `QuantileCombiner`; bundles name the class that applies their weights."""
