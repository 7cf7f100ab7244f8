"""From probabilities to positions: temperature, offsets, abstaining, and what each fold may learn from."""

from __future__ import annotations

import json
from datetime import datetime, timedelta

import numpy as np
import polars as pl
import pytest

from nightcast.contracts.columns import CLASS_PROBS, CUTOFF, HORIZON, ID, LABEL_END, MODEL, SIGNAL, TARGET, TIME
from nightcast.contracts.fold import Fold
from nightcast.contracts.prediction import ClassProbs
from nightcast.contracts.schema import CostPlan
from nightcast.evaluation.class_scores import class_scores
from nightcast.evaluation.decisions import (
    MarketCalibrator,
    apply_temperature,
    class_offsets,
    fit_temperature,
    prequential_decisions,
)

START = datetime(2024, 1, 1)
HOUR = timedelta(hours=1)
CHEAP = CostPlan(fee_bps=0.1, half_spread_bps=0, slippage_bps=0)


def game(n: int, a: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Labels drawn from softmax([-a x, .4, a x]) and these probabilities."""
    rng = np.random.default_rng(seed)
    x = rng.standard_t(5, n) / np.sqrt(5 / 3)
    z = np.stack([-a * x, 0.4 * np.ones(n), a * x], axis=1)
    probs = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
    return (rng.random(n)[:, None] > probs.cumsum(axis=1)).sum(axis=1).clip(0, 2), probs


def rows(n: int = 3000, *, h: int = 5, seed: int = 0, edge: float = 1.0, model: str = "m") -> pl.DataFrame:
    """Out-of-fold rows whose returns follow their labels, one an hour."""
    y, probs = game(n, edge, seed)
    rng = np.random.default_rng(seed + 1)
    times = [START + i * HOUR for i in range(n)]
    frame = pl.DataFrame({ID: ["a"] * n, TIME: times, CUTOFF: times, MODEL: [model] * n, TARGET: y.astype(np.int8)})
    return frame.with_columns(
        pl.lit(h, dtype=pl.Int32).alias(HORIZON),
        (pl.col(TIME) + h * HOUR).alias(LABEL_END),
        pl.Series("ret", (y - 1) * 0.01 + rng.normal(0, 0.001, n)),
        pl.lit(0.004).alias("scale"),
        pl.lit(0, dtype=pl.Int8).alias(SIGNAL),
        *(pl.Series(c, probs[:, k]) for k, c in enumerate(CLASS_PROBS)),
    )


def test_a_temperature_undoes_sharpening() -> None:
    y, probs = game(20_000, 1.0)
    sharp = apply_temperature(probs, 1 / 3)
    assert fit_temperature(sharp, y) == pytest.approx(3.0, abs=0.1)
    assert fit_temperature(probs, y) == pytest.approx(1.0, abs=0.05)


def test_a_temperature_keeps_the_order_of_classes_and_is_never_worse_than_none_on_its_slice() -> None:
    for seed in range(8):
        y, probs = game(300, 0.3, seed)
        warm = apply_temperature(probs, fit_temperature(probs, y))
        assert (warm.argmax(axis=1) == probs.argmax(axis=1)).all()
        assert class_scores(y, warm)["log_loss"] <= class_scores(y, probs)["log_loss"] + 1e-9
        assert warm.sum(axis=1) == pytest.approx(np.ones(300))


def test_offsets_bring_back_classes_that_the_argmax_never_names() -> None:
    y, probs = game(20_000, 0.35)
    offsets = np.array(class_offsets(probs, y))
    told = (np.log(probs) + offsets).argmax(axis=1)
    plain = class_scores(y, probs)["macro_f1"]
    moved = class_scores(y, np.eye(3)[told] * 0.98 + 0.01)["macro_f1"]
    assert plain == pytest.approx(0.35, abs=0.02)
    assert moved == pytest.approx(0.40, abs=0.02)
    assert offsets[1] == 0.0


def test_positions_follow_the_lean_and_fewer_are_taken_the_more_they_cost() -> None:
    oof = rows()
    taken = []
    for bps in (0.0, 5.0, 20.0, 60.0, 500.0):
        calibrator = MarketCalibrator(CostPlan(fee_bps=bps, half_spread_bps=0, slippage_bps=0))
        decided = calibrator.decide(oof, calibrator.fit(oof))
        lean = decided["p_long"] - decided["p_short"]
        signal = decided[SIGNAL]
        assert ((signal == 0) | (lean.sign() == signal)).all()
        taken.append(int((signal != 0).sum()))
    assert taken == sorted(taken, reverse=True)
    assert taken[0] > 1000
    assert taken[-1] == 0


def test_a_position_is_taken_only_where_the_expected_move_pays_for_itself() -> None:
    oof = rows()
    calibrator = MarketCalibrator(CostPlan(fee_bps=10, half_spread_bps=0, slippage_bps=0))
    table = calibrator.fit(oof)
    move = table["horizons"]["5"]["move"] * 0.004
    assert move == pytest.approx(0.01, rel=0.02)
    decided = calibrator.decide(oof, table).filter(pl.col(SIGNAL) != 0)
    assert ((decided["p_long"] - decided["p_short"]).abs() * move > 0.002).all()


def test_too_few_rows_teach_nothing_and_leave_everything_flat() -> None:
    oof = rows(150)
    calibrator = MarketCalibrator(CHEAP)
    decided = calibrator.decide(oof, calibrator.fit(oof))
    assert (decided[SIGNAL] == 0).all()
    assert decided.select(CLASS_PROBS).to_numpy() == pytest.approx(oof.select(CLASS_PROBS).to_numpy())


def test_the_table_survives_json_and_a_calibrator_made_from_nothing_applies_it() -> None:
    oof = rows()
    table = json.loads(json.dumps(MarketCalibrator(CHEAP).fit(oof), allow_nan=False))
    prediction = ClassProbs.of(oof.select(ID, TIME, CUTOFF, HORIZON, *CLASS_PROBS))
    scale = oof.select(ID, CUTOFF, "scale")
    served = MarketCalibrator().apply(prediction, scale, table).frame
    decided = MarketCalibrator(CHEAP).decide(oof, table).sort(ID, CUTOFF)
    assert served[SIGNAL].to_list() == decided[SIGNAL].to_list()
    assert (served[SIGNAL] != 0).sum() > 500


def test_a_horizon_that_was_never_learnt_stays_flat() -> None:
    table = MarketCalibrator(CHEAP).fit(rows(h=5))
    other = MarketCalibrator(CHEAP).decide(rows(h=20), table)
    assert (other[SIGNAL] == 0).all()


def folds(n: int, count: int) -> tuple[Fold, ...]:
    size = n // count
    spans = [(START + i * size * HOUR, START + ((i + 1) * size - 1) * HOUR) for i in range(count)]
    return tuple(Fold(f"fold-{i:02d}", None, first - HOUR, (first, last)) for i, (first, last) in enumerate(spans))


def test_a_fold_is_decided_by_labels_that_ended_before_it_and_by_no_others() -> None:
    oof, plan, calibrator = rows(3000), folds(3000, 3), MarketCalibrator(CHEAP)
    first = plan[2].cutoffs[0]
    values = [*CLASS_PROBS, SIGNAL]
    whole = prequential_decisions(oof, calibrator, folds=plan)
    late = pl.col(LABEL_END) >= first
    changed = oof.with_columns(pl.when(late).then((pl.col(TARGET) + 1) % 3).otherwise(pl.col(TARGET)).alias(TARGET))
    again = prequential_decisions(changed, calibrator, folds=plan)
    assert whole.select(values).equals(again.select(values))
    early = oof.with_columns(pl.when(~late).then((pl.col(TARGET) + 1) % 3).otherwise(pl.col(TARGET)).alias(TARGET))
    other = prequential_decisions(early, calibrator, folds=plan)
    last = pl.col(CUTOFF) >= first
    assert not whole.filter(last).select(values).equals(other.filter(last).select(values))


def test_the_first_fold_teaches_only_and_says_so() -> None:
    decided = prequential_decisions(rows(3000), MarketCalibrator(CHEAP), folds=folds(3000, 3))
    first = decided.filter(~pl.col("judged"))
    assert first.height == 1000
    assert (first[SIGNAL] == 0).all()
    assert (decided.filter("judged")[SIGNAL] != 0).sum() > 300


def test_models_do_not_teach_one_another() -> None:
    plan, calibrator = folds(3000, 3), MarketCalibrator(CHEAP)
    one, two = rows(seed=1, model="one"), rows(seed=2, edge=0.1, model="two")
    alone = prequential_decisions(one, calibrator, folds=plan)
    beside = prequential_decisions(pl.concat([one, two]), calibrator, folds=plan).filter(pl.col(MODEL) == "one")
    assert alone.equals(beside)


def test_the_slices_of_temperature_and_offsets_share_no_label_time() -> None:
    oof = rows(2000)
    calibrator = MarketCalibrator(CHEAP)
    table = calibrator.fit(oof)
    border = oof[CUTOFF][int(0.5 * (oof.height - 1))]
    between = (pl.col(CUTOFF) < border) & (pl.col(LABEL_END) >= border)
    changed = oof.with_columns(pl.when(between).then((pl.col(TARGET) + 1) % 3).otherwise(pl.col(TARGET)).alias(TARGET))
    assert oof.filter(between).height == 5
    assert calibrator.fit(changed) == table
