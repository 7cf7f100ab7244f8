"""Ensembles of class probabilities: pools, stacks, and what each fold may learn from."""

from __future__ import annotations

from datetime import datetime, timedelta

import numpy as np
import polars as pl
import pytest

from models.ensembles.classes import ClassCombiner
from models.ensembles.pooling import (
    apply_stack,
    equal_stack,
    fit_stack,
    log_loss,
    log_pool,
    simplex_weights,
    softmax,
)
from nightcast.contracts.columns import CLASS_PROBS, CUTOFF, HORIZON, ID, LABEL_END, MODEL, TARGET, TIME
from nightcast.contracts.errors import TrainingError
from nightcast.contracts.fold import Fold
from nightcast.contracts.prediction import KEYS, ClassProbs
from nightcast.contracts.recipe import CombinerPlan

START = datetime(2024, 1, 1)
HOUR = timedelta(hours=1)
METHODS = ("mean", "voting", "weighted", "blending", "stacking")


def cube(n: int = 4000, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Three members: one that knows the truth, one that knows it badly, one that says nothing."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=n)
    truth = softmax(np.stack([-x, 0.2 * np.ones(n), x], axis=1))
    y = (rng.random(n)[:, None] > truth.cumsum(axis=1)).sum(axis=1).clip(0, 2).astype(np.int8)
    noisy = softmax(np.log(truth) + rng.normal(size=(n, 3)))
    return np.stack([truth, noisy, np.full((n, 3), 1 / 3)]), y


def rows(n: int = 1200, seed: int = 0, horizons: tuple[int, ...] = (1,)) -> pl.DataFrame:
    """Out-of-fold rows of the three members, one decision an hour, labels that end `horizon` hours later."""
    parts = []
    for h in horizons:
        probs, y = cube(n, seed + h)
        times = [START + i * HOUR for i in range(n)]
        for m, name in enumerate(("good", "noisy", "naive")):
            part = pl.DataFrame({ID: ["a"] * n, TIME: times, CUTOFF: times, MODEL: [name] * n, TARGET: y})
            part = part.with_columns(
                pl.lit(h, dtype=pl.Int32).alias(HORIZON),
                (pl.col(TIME) + h * HOUR).alias(LABEL_END),
                *(pl.Series(c, probs[m, :, k]) for k, c in enumerate(CLASS_PROBS)),
            )
            parts.append(ClassProbs.of(part).frame.join(part.select(*KEYS, MODEL, TARGET, LABEL_END), on=list(KEYS)))
    return pl.concat(parts)


def test_the_simplex_finds_the_member_that_knows() -> None:
    probs, y = cube()
    weights = simplex_weights(probs, y)
    assert weights.sum() == pytest.approx(1.0)
    assert (weights >= 0).all()
    assert weights[0] > 0.95
    assert log_loss(log_pool(probs, weights), y) <= min(log_loss(p, y) for p in probs) + 1e-6


def test_the_simplex_is_no_worse_than_equal_weights_or_any_member() -> None:
    for seed in range(5):
        probs, y = cube(500, seed)
        probs = probs[1:]
        found = log_loss(log_pool(probs, simplex_weights(probs, y)), y)
        assert found <= log_loss(log_pool(probs, np.full(2, 0.5)), y) + 1e-9
        assert found <= min(log_loss(p, y) for p in probs) + 1e-6


def test_an_equal_stack_is_the_equal_pool() -> None:
    probs, _ = cube(50)
    assert apply_stack(probs, equal_stack(3, 3)) == pytest.approx(log_pool(probs, np.full(3, 1 / 3)))


def test_a_fitted_stack_beats_the_equal_pool_and_survives_a_class_that_never_occurs() -> None:
    probs, y = cube()
    stack = fit_stack(probs, y)
    assert log_loss(apply_stack(probs, stack), y) < log_loss(log_pool(probs, np.full(3, 1 / 3)), y)
    only = np.where(y == 0, 1, y).astype(np.int8)
    assert np.isfinite(apply_stack(probs, fit_stack(probs, only))).all()


@pytest.mark.parametrize("method", METHODS)
def test_every_method_gives_probabilities_for_every_row(method: str) -> None:
    oof = rows(horizons=(1, 5))
    plan = CombinerPlan(method=method)
    combiner = ClassCombiner()
    table = combiner.fit(oof, plan, baselines=["naive"])
    members = {str(k[0]): ClassProbs.of(part) for k, part in oof.partition_by(MODEL, as_dict=True).items()}
    joined = combiner.apply(members, table).frame
    assert joined.height == 2400
    assert set(table["weights"]) == {"1", "5"}
    for weights in table["weights"].values():
        assert sum(weights.values()) == pytest.approx(1.0)


def test_learnt_weights_go_to_the_member_that_knows_and_equal_ones_leave_out_the_baseline() -> None:
    learnt = ClassCombiner().fit(rows(), CombinerPlan(method="weighted", shrinkage=0.0), baselines=["naive"])
    assert learnt["weights"]["1"]["good"] > 0.9
    equal = ClassCombiner().fit(rows(), CombinerPlan(method="voting"), baselines=["naive"])
    assert equal["weights"]["1"] == {"good": 0.5, "noisy": 0.5, "naive": 0.0}


def test_a_member_that_is_missing_leaves_its_weight_to_the_others() -> None:
    oof = rows()
    for method in METHODS:
        table = ClassCombiner().fit(oof, CombinerPlan(method=method), baselines=["naive"])
        noisy = ClassProbs.of(oof.filter(pl.col(MODEL) == "noisy"))
        alone = ClassCombiner().apply({"noisy": noisy}, table).frame
        assert alone.select(CLASS_PROBS).to_numpy() == pytest.approx(noisy.frame.select(CLASS_PROBS).to_numpy())
    with pytest.raises(TrainingError, match="no member delivered"):
        ClassCombiner().apply({}, table)


def test_a_fold_is_combined_by_labels_that_closed_before_it_and_by_nothing_else() -> None:
    oof = rows(n=900, horizons=(5,))
    folds = [
        Fold(f"fold-{i:02d}", None, START, (START + 300 * i * HOUR, START + (300 * i + 299) * HOUR)) for i in range(3)
    ]
    plan = CombinerPlan(method="weighted")
    combiner = ClassCombiner()
    whole = combiner.prequential_oof(oof, plan, ["naive"], folds)
    assert whole.height == 900
    assert whole.columns == oof.columns
    assert whole[MODEL].unique().to_list() == ["ensemble"]
    # outcomes at or after the last fold, and labels that end in it, have no say in its combination
    late = pl.col(LABEL_END) >= folds[2].cutoffs[0]
    changed = oof.with_columns(pl.when(late).then((pl.col(TARGET) + 1) % 3).otherwise(pl.col(TARGET)).alias(TARGET))
    again = combiner.prequential_oof(changed, plan, ["naive"], folds)
    values = [*KEYS, *CLASS_PROBS]
    assert whole.select(values).equals(again.select(values))
    # while closed labels do
    closed = oof.with_columns(
        pl.when(pl.col(LABEL_END) < folds[2].cutoffs[0])
        .then((pl.col(TARGET) + 1) % 3)
        .otherwise(pl.col(TARGET))
        .alias(TARGET)
    )
    other = combiner.prequential_oof(closed, plan, ["naive"], folds)
    last = pl.col(CUTOFF) >= folds[2].cutoffs[0]
    assert not whole.filter(last).select(values).equals(other.filter(last).select(values))


def test_the_first_fold_weighs_members_equally() -> None:
    oof = rows(n=600, horizons=(1,))
    folds = [Fold("fold-00", None, START, (START, START + 599 * HOUR))]
    joined = ClassCombiner().prequential_oof(oof, CombinerPlan(), ["naive"], folds)
    pair = np.stack(
        [oof.filter(pl.col(MODEL) == m).sort(CUTOFF).select(CLASS_PROBS).to_numpy() for m in ("good", "noisy")]
    )
    assert joined.sort(CUTOFF).select(CLASS_PROBS).to_numpy() == pytest.approx(log_pool(pair, np.full(2, 0.5)))
