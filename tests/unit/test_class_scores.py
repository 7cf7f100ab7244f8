"""Scores of class probabilities, against scikit-learn and by hand."""

from __future__ import annotations

from datetime import datetime, timedelta

import numpy as np
import polars as pl
import pytest
from sklearn import metrics as oracle

from nightcast.contracts.columns import CLASS_PROBS, CUTOFF, HORIZON, ID, MODEL, TARGET, TIME
from nightcast.evaluation.class_scores import (
    block_bootstrap,
    class_by_horizon,
    class_league,
    class_loss,
    class_scores,
    direction_auc,
    expected_calibration_error,
    rank_auc,
    time_blocks,
)


def sample(n: int = 800, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    probs = rng.dirichlet([2, 3, 2], n)
    y = (rng.random(n)[:, None] > probs.cumsum(axis=1)).sum(axis=1).clip(0, 2)
    return y, probs


def test_scores_agree_with_scikit_learn() -> None:
    y, probs = sample()
    told = probs.argmax(axis=1)
    found = class_scores(y, probs)
    assert found["accuracy"] == pytest.approx(oracle.accuracy_score(y, told))
    assert found["balanced_accuracy"] == pytest.approx(oracle.balanced_accuracy_score(y, told))
    assert found["macro_f1"] == pytest.approx(oracle.f1_score(y, told, average="macro"))
    assert found["weighted_f1"] == pytest.approx(oracle.f1_score(y, told, average="weighted"))
    assert found["log_loss"] == pytest.approx(oracle.log_loss(y, probs))
    assert found["mcc"] == pytest.approx(oracle.matthews_corrcoef(y, told))
    assert found["confusion"].tolist() == oracle.confusion_matrix(y, told).tolist()
    moved = y != 1
    side = probs[moved, 2] / (probs[moved, 0] + probs[moved, 2])
    assert found["direction_auc"] == pytest.approx(oracle.roc_auc_score(y[moved] == 2, side))
    for k, name in enumerate(("short", "neutral", "long")):
        assert found[f"f1_{name}"] == pytest.approx(oracle.f1_score(y, told, average=None)[k])


def test_weights_count_as_repetition() -> None:
    y, probs = sample(200)
    weights = np.random.default_rng(1).integers(1, 4, 200)
    twice = class_scores(np.repeat(y, weights), np.repeat(probs, weights, axis=0))
    once = class_scores(y, probs, weights.astype(float))
    for name in ("accuracy", "macro_f1", "log_loss", "direction_auc", "brier"):
        assert once[name] == pytest.approx(twice[name])


def test_a_rank_auc_counts_ties_half_and_needs_both_sides() -> None:
    up = np.array([True, True, False, False])
    assert rank_auc(up, np.array([1.0, 1, 1, 1])) == 0.5
    assert rank_auc(up, np.array([2.0, 1, 1, 0])) == pytest.approx(0.875)
    assert rank_auc(np.array([True, True]), np.array([1.0, 2])) is None
    rng = np.random.default_rng(2)
    label, score = rng.random(300) > 0.4, rng.integers(0, 9, 300).astype(float)
    assert rank_auc(label, score) == pytest.approx(oracle.roc_auc_score(label, score))


def test_swapping_the_sides_turns_the_direction_around() -> None:
    y, probs = sample()
    assert direction_auc(2 - y, probs[:, ::-1]) == pytest.approx(direction_auc(y, probs))
    assert direction_auc(y, probs[:, ::-1]) == pytest.approx(1 - direction_auc(y, probs))  # type: ignore[operator]


def test_honest_probabilities_have_little_calibration_error_and_sharpened_ones_more() -> None:
    y, probs = sample(20_000)
    sharp = probs**3 / (probs**3).sum(axis=1, keepdims=True)
    honest = expected_calibration_error(y, probs)
    assert honest < 0.02
    assert expected_calibration_error(y, sharp) > 5 * honest


def test_nothing_to_score_gives_none() -> None:
    empty = class_scores(np.empty(0, dtype=np.int64), np.empty((0, 3)))
    assert empty["macro_f1"] is None
    assert class_scores(np.ones(5, dtype=np.int64), np.full((5, 3), 1 / 3))["direction_auc"] is None


def test_a_block_bootstrap_keeps_rows_of_a_block_together() -> None:
    blocks = np.repeat(np.arange(10), 7)
    sizes = block_bootstrap(blocks, lambda at: float(len(at)), draws=20, seed=1)
    assert set(sizes) == {70.0}
    means = block_bootstrap(blocks, lambda at: float(blocks[at].mean()), draws=400, seed=1)
    # ten independent blocks, not seventy rows
    assert float(means.std()) == pytest.approx(np.arange(10).std() / np.sqrt(10), rel=0.15)


def test_blocks_of_time_are_stretches_shared_by_all_symbols() -> None:
    times = np.tile(np.arange("2024-01-01", "2024-04-10", dtype="datetime64[D]"), 2)
    blocks = time_blocks(times, 10)
    assert blocks[:100].tolist() == blocks[100:].tolist()
    assert np.bincount(blocks).tolist() == [20] * 10


def rows(models: tuple[str, ...] = ("climatology", "good"), horizons: tuple[int, ...] = (1, 5)) -> pl.DataFrame:
    parts = []
    times = [datetime(2024, 1, 1) + i * timedelta(hours=1) for i in range(300)]
    for h in horizons:
        y, probs = sample(300, seed=h)
        flat = np.tile(np.bincount(y, minlength=3) / 300, (300, 1))
        for name in models:
            p = flat if name == "climatology" else probs
            part = pl.DataFrame({ID: ["a"] * 300, TIME: times, CUTOFF: times, TARGET: y, "signal": [0] * 300})
            parts.append(
                part.with_columns(
                    pl.lit(h, dtype=pl.Int32).alias(HORIZON),
                    pl.lit(name).alias(MODEL),
                    *(pl.Series(c, p[:, k]) for k, c in enumerate(CLASS_PROBS)),
                )
            )
    return pl.concat(parts)


def test_the_loss_of_a_row_is_that_of_what_came_true() -> None:
    frame = class_loss(rows().head(3))
    for entry in frame.iter_rows(named=True):
        assert entry["loss"] == pytest.approx(-np.log(entry[CLASS_PROBS[entry[TARGET]]]))


def test_the_league_ranks_by_log_loss_beside_the_best_baseline() -> None:
    table = class_league(rows(), ["climatology"], None)
    assert table[MODEL].to_list() == ["good", "climatology"]
    assert table["ratio"][1] == pytest.approx(1.0)
    assert table["ratio"][0] < 1
    assert table["brier_skill"][1] == pytest.approx(0.0)
    assert table["brier_skill"][0] > 0


def test_a_model_that_skips_most_rows_cannot_lead_the_league() -> None:
    whole = rows()
    picky = (
        whole.filter(pl.col(MODEL) == "good")
        .head(40)
        .with_columns(
            pl.lit("picky").alias(MODEL),
            *(pl.when(pl.col(TARGET) == k).then(0.98).otherwise(0.01).alias(c) for k, c in enumerate(CLASS_PROBS)),
        )
    )
    table = class_league(pl.concat([whole, picky]), ["climatology"], None)
    assert table[MODEL][-1] == "picky"


def test_each_horizon_is_scored_alone() -> None:
    table = class_by_horizon(rows())
    assert table.select(MODEL, HORIZON).rows() == [("climatology", 1), ("climatology", 5), ("good", 1), ("good", 5)]
    assert table.filter(pl.col(MODEL) == "climatology")["ratio"].to_list() == pytest.approx([1.0, 1.0])
