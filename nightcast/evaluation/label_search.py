"""Search the width of triple barriers, on the training span alone, before any model is chosen.

Labels are judged by balance and by whether anything can be earned on them: chasing equal shares alone makes barriers
narrower than the costs. Scores of models on different labels never compare; only their net profit does.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
import polars as pl

from nightcast.contracts.bars import label_columns
from nightcast.contracts.columns import CLASSES, HORIZON, NEUTRAL, TIME
from nightcast.contracts.errors import ConfigError, TrainingError
from nightcast.contracts.schema import BarsSchema, CostPlan, LabelPlan

Labeller = Callable[[pl.DataFrame, BarsSchema, LabelPlan], pl.DataFrame]
"""Adds label columns to segmented bars: `nightcast.features.labels.triple_barrier`."""
LabelFacts = Callable[[pl.DataFrame, Sequence[int]], pl.DataFrame]
"""One row per horizon on what its labels are like: `nightcast.features.labels.label_facts`."""

COSTS_IN_A_MOVE: Final = 3.0
"""The median move to a barrier must pay the round trip this often."""
AMBIGUOUS_AT_MOST: Final = 0.02
"""Share of labels whose bar touched both barriers."""
UNIQUENESS_AT_LEAST: Final = 0.1
"""Mean share of its own bars that a label has for itself."""
VARIATION_AT_MOST: Final = 0.35
"""Coefficient of variation of a class's share from month to month."""
LABELS_A_MONTH: Final = 30
"""Labels below which a month says nothing about the shares."""
ENTROPY_WEIGHT: Final = 0.2
BROKEN: Final = 0.5
"""Cost of a condition that is not met, apart from how far it is missed (which costs as much again at most)."""

GRID: Final[tuple[float, ...]] = tuple(float(x) for x in np.geomspace(0.25, 4.0, 13))
"""Multipliers of the volatility over the horizon."""
MINIMUM_GRID: Final[tuple[float, ...]] = (0.25, 0.5, 1.0)
"""Least widths of an adaptive barrier, in units of the median volatility over the middle horizon."""
SEARCHED: Final[dict[str, tuple[str, ...]]] = {
    "volatility": ("multiplier",),
    "fixed": ("threshold",),
    "adaptive": ("multiplier", "minimum"),
}
"""What is searched for each kind of barrier."""


@dataclass(frozen=True)
class LabelSearch:
    """What was found, and everything that was tried.

    Attributes
    ----------
    best
        The plan of the highest score.
    trials
        One row a trial, in the order tried: `trial, stage, multiplier, threshold, minimum, score, divergence, entropy,
        feasibility, feasible`, and for each horizon `h` the shares `short_h, neutral_h, long_h, ambiguous_h`, the
        number `known_h`, `uniqueness_h`, `move_h` (median absolute return of labels that are not neutral) and
        `variation_h`.
    train_end
        Last time of the bars that were looked at.
    target
        Class shares aimed at.
    seed
        Of the second stage.
    """

    best: LabelPlan
    trials: pl.DataFrame
    train_end: datetime
    target: tuple[float, float, float]
    seed: int

    def save(self, path: Path) -> None:
        """Write the best plan and all trials as JSON."""
        facts = {
            "best": self.best.model_dump(mode="json"),
            "train_end": self.train_end.isoformat(),
            "target": dict(zip(CLASSES, self.target, strict=True)),
            "seed": self.seed,
            "trials": self.trials.to_dicts(),
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(facts, indent=1, allow_nan=False), encoding="utf-8")


def search_labels(
    frame: pl.DataFrame,
    schema: BarsSchema,
    costs: CostPlan,
    *,
    label: Labeller,
    facts: LabelFacts,
    base: LabelPlan,
    train_end: datetime,
    target: Sequence[float] = (1 / 3, 1 / 3, 1 / 3),
    grids: Mapping[str, Sequence[float]] | None = None,
    trials: int = 24,
    seed: int = 0,
) -> LabelSearch:
    """Find the barrier widths of a plan that make balanced labels worth trading.

    The score of a plan, a mean over the horizons:

        -KL(shares, target) + 0.2 entropy(shares) / log 3 + feasibility

    `feasibility` is 0 where all four conditions are met: the median move to a barrier pays the round trip three times,
    fewer than 2 % of the labels are ambiguous, the mean uniqueness is at least 0.1, and no class's share varies by more
    than 35 % (coefficient of variation) from month to month. A condition that is missed by a relative `x` costs
    `0.5 + 0.5 min(x, 1)`. With fewer than two months of labels the last one cannot be judged and costs nothing.

    The plan itself is tried first, then a grid, then random plans within a step of the grid around the best so far.
    Bars after `train_end` are cut off before anything is looked at; labels that would need them are unknown.

    Parameters
    ----------
    frame
        Segmented bars, `unique_id, ds, segment, session, open .. volume`.
    schema
        Declares the horizons.
    costs
        Costs a side; a round trip pays them twice.
    label, facts
        How bars are labelled and described: `triple_barrier` and `label_facts` of `nightcast.features.labels`.
    base
        Kind of barrier, span and treatment of ambiguous bars, which the search keeps. It looks for `multiplier`
        (`volatility`), `threshold` (`fixed`), or `multiplier` and `minimum` (`adaptive`).
    train_end
        Last time that may be looked at.
    target
        Class shares aimed at, short, neutral, long. The entropy draws unequal ones together: what scores best has
        shares in proportion to `target ** 0.85`.
    grids
        Values to try in place of the grid, for the names above; a name left out keeps its default grid.
    trials
        Random plans after the grid.
    seed
        Of the random plans.

    Raises
    ------
    ConfigError
        If the target is no distribution, a grid names what is not searched or holds no positive values, or `trials`
        is negative.
    TrainingError
        If a horizon has no known label in the training span.
    """
    aim = _target(target)
    names = SEARCHED[base.barrier]
    _check_grids(grids or {}, names, base.barrier)
    if trials < 0:
        raise ConfigError(f"trials = {trials}", expected="0 or more", remedy="0 tries the grid alone")
    train = frame.filter(pl.col(TIME) <= train_end)
    unit = _median_width(train, schema, base, label)
    grid = {name: tuple((grids or {}).get(name) or _default_grid(name, unit)) for name in names}
    rows: list[dict[str, Any]] = []

    def attempt(stage: str, plan: LabelPlan) -> None:
        rows.append(
            {"trial": len(rows), "stage": stage, "multiplier": plan.multiplier, "threshold": plan.threshold}
            | {"minimum": plan.minimum}
            | _judged(facts, label(train, schema, plan), schema.horizons, costs, aim)
        )

    attempt("base", base)
    for values in _product(grid):
        attempt("grid", base.model_copy(update=values))
    centre = _best(rows)
    rng = np.random.default_rng(seed)
    for _ in range(trials):
        drawn = {name: _near(float(centre[name]), grid[name], rng) for name in names}
        attempt("random", base.model_copy(update=drawn))
    best = _best(rows)
    found = LabelPlan.model_validate(base.model_dump() | {name: best[name] for name in names})
    return LabelSearch(found, pl.DataFrame(rows, infer_schema_length=None), train_end, aim, seed)


def divergence(shares: Sequence[float], target: Sequence[float]) -> float:
    """Kullback-Leibler divergence of class shares from a target, in nats; 0 for equal ones."""
    return sum(p * math.log(p / q) for p, q in zip(shares, target, strict=True) if p > 0)


def entropy(shares: Sequence[float]) -> float:
    """Entropy of class shares over that of equal ones, from 0 to 1."""
    return -sum(p * math.log(p) for p in shares if p > 0) / math.log(len(shares))


def _target(target: Sequence[float]) -> tuple[float, float, float]:
    if len(target) != len(CLASSES) or any(not 0 < p < 1 for p in target) or abs(sum(target) - 1) > 1e-6:
        raise ConfigError(
            f"target shares {list(target)}",
            expected="three positive shares, short, neutral and long, that sum to 1",
            remedy="leave the target out for equal shares",
        )
    return (float(target[0]), float(target[1]), float(target[2]))


def _check_grids(grids: Mapping[str, Sequence[float]], names: tuple[str, ...], barrier: str) -> None:
    for name, values in grids.items():
        if name not in names or not values or any(not 0 < value < math.inf for value in values):
            raise ConfigError(
                f"the grid {name} = {list(values)} for {barrier} barriers",
                expected=f"positive values of {' and '.join(names)}",
                remedy="correct the grid, or the plan's `barrier`",
            )


def _median_width(train: pl.DataFrame, schema: BarsSchema, base: LabelPlan, label: Labeller) -> float:
    """Median barrier at a multiplier of 1 over the horizons' geometric mean."""
    horizon = schema.horizons[0]
    plan = base.model_copy(update={"barrier": "volatility", "multiplier": 1.0})
    width = label(train, schema, plan).get_column(label_columns(horizon)["width"]).median()
    if not isinstance(width, float):
        raise TrainingError(
            f"none of {train.height} training bars has a known volatility",
            expected="segments longer than the warm-up of the volatility, with prices that move",
            remedy="choose a later end of training, a shorter `labels.span`, or a larger `max_gap`",
        )
    middle = float(np.exp(np.mean(np.log(schema.horizons))))
    return width * math.sqrt(middle / horizon)


def _default_grid(name: str, unit: float) -> tuple[float, ...]:
    if name == "multiplier":
        return GRID
    return tuple(unit * x for x in (GRID if name == "threshold" else MINIMUM_GRID))


def _product(grid: Mapping[str, Sequence[float]]) -> Iterator[dict[str, float]]:
    plans: list[dict[str, float]] = [{}]
    for name, values in grid.items():
        plans = [plan | {name: float(value)} for plan in plans for value in values]
    yield from plans


def _near(centre: float, grid: Sequence[float], rng: np.random.Generator) -> float:
    """A value within a step of the grid around the centre, log-uniform; within a factor of 1.25 for a grid of one."""
    step = max((b / a for a, b in zip(sorted(grid), sorted(grid)[1:], strict=False)), default=1.25)
    return centre * float(np.exp(rng.uniform(-1, 1) * math.log(step)))


def _best(rows: list[dict[str, Any]]) -> dict[str, Any]:
    return max(rows, key=lambda row: (row["score"], -row["trial"]))


def _judged(
    facts: LabelFacts,
    labelled: pl.DataFrame,
    horizons: tuple[int, ...],
    costs: CostPlan,
    target: tuple[float, float, float],
) -> dict[str, Any]:
    described = {row[HORIZON]: row for row in facts(labelled, horizons).to_dicts()}
    apart, spread, missed = [], [], []
    details: dict[str, Any] = {}
    for horizon in horizons:
        its = described[horizon]
        if not its["known"]:
            raise TrainingError(
                f"no label of horizon {horizon} is known in {labelled.height} training bars",
                expected="sessions longer than the horizon",
                remedy="leave out the horizon, or choose a later end of training",
            )
        shares = [its[name] for name in CLASSES]
        move, variation = _median_move(labelled, horizon), _variation(labelled, horizon)
        misses = _misses(move, its["ambiguous"], its["mean_uniqueness"], variation, costs)
        apart.append(divergence(shares, target))
        spread.append(entropy(shares))
        missed.append(misses)
        details |= {f"{name}_{horizon}": share for name, share in zip(CLASSES, shares, strict=True)}
        details |= {
            f"ambiguous_{horizon}": its["ambiguous"],
            f"known_{horizon}": its["known"],
            f"uniqueness_{horizon}": its["mean_uniqueness"],
            f"move_{horizon}": move,
            f"variation_{horizon}": variation,
        }
    feasibility = 0.0 - float(np.mean([sum(BROKEN + BROKEN * min(x, 1.0) for x in its) for its in missed]))
    kl, even = float(np.mean(apart)), float(np.mean(spread))
    return {
        "score": -kl + ENTROPY_WEIGHT * even + feasibility,
        "divergence": kl,
        "entropy": even,
        "feasibility": feasibility,
        "feasible": not any(missed),
        **details,
    }


def _misses(
    move: float | None, ambiguous: float, unique: float, variation: float | None, costs: CostPlan
) -> list[float]:
    """Relative misses of the conditions that are not met."""
    needed = COSTS_IN_A_MOVE * 2 * costs.side
    misses = []
    if move is None or move < needed:
        misses.append(1.0 if move is None else 1 - move / needed)
    if ambiguous >= AMBIGUOUS_AT_MOST:
        misses.append(ambiguous / AMBIGUOUS_AT_MOST - 1)
    if unique < UNIQUENESS_AT_LEAST:
        misses.append(1 - unique / UNIQUENESS_AT_LEAST)
    if variation is not None and variation >= VARIATION_AT_MOST:
        misses.append(variation / VARIATION_AT_MOST - 1)
    return misses


def _median_move(labelled: pl.DataFrame, horizon: int) -> float | None:
    names = label_columns(horizon)
    moved = labelled.filter(pl.col(names["y"]) != NEUTRAL).get_column(names["ret"])
    median = moved.abs().median()
    return float(median) if isinstance(median, float) else None


def _variation(labelled: pl.DataFrame, horizon: int) -> float | None:
    """Largest coefficient of variation of a class's monthly share; None with fewer than two months.

    A class that never occurs varies in no month: its absence is the divergence's matter.
    """
    y = label_columns(horizon)["y"]
    months = (
        labelled.drop_nulls(y)
        .group_by(pl.col(TIME).dt.truncate("1mo").alias("month"))
        .agg(pl.len(), *((pl.col(y) == k).mean().alias(name) for k, name in enumerate(CLASSES)))
        .filter(pl.col("len") >= LABELS_A_MONTH)
        .sort("month")
    )
    if months.height < 2:
        return None
    shares = months.select(CLASSES).to_numpy()
    mean = shares.mean(axis=0)
    seen = mean > 0
    return float((shares.std(axis=0, ddof=1)[seen] / mean[seen]).max())
