"""Baselines of markets: what each knows, what it says, and how it trades."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import pytest

from models.classifier import Classifier, Inputs, Samples
from models.classifiers import CLASSIFIERS
from models.families.baseline_classes import (
    CERTAIN,
    AlwaysNeutral,
    BuyAndHold,
    Climatology,
    Majority,
    MeanReversion,
    Momentum,
    Persistence,
    StratifiedRandom,
    VolatilityOnly,
    past_return,
    scaled_moves,
)
from nightcast.contracts.bars import BarDataset, BarView
from nightcast.contracts.columns import CLASS_PROBS, HORIZON, SIGNAL
from tests.contract.bar_data import HORIZONS, bar_dataset, last_fold

SETS = ("boosting_optimal", "plain10", "volatility_time")


def data() -> BarDataset:
    return bar_dataset(SETS)


def views(its: BarDataset) -> tuple[BarView, BarView]:
    fold = last_fold(its)
    return its.training(fold), next(its.tests(fold))


def inputs_of(close: list[float], rows: list[int], *, segment: list[int] | None = None, **more: Any) -> Inputs:
    n = len(close)
    raw = np.repeat(np.asarray(close, dtype=float)[:, None], 5, axis=1)
    facts: dict[str, Any] = {
        "base": np.zeros((n, 1), np.float32),
        "rows": np.asarray(rows),
        "names": ("a",),
        "horizons": (2,),
        "raw": raw,
        "segment": np.asarray(segment or [0] * n),
        "times": np.datetime64("2024-01-01", "us") + np.arange(n) * np.timedelta64(60, "m"),
        "symbol": np.zeros(n, dtype=np.int64),
    }
    return Inputs(**{**facts, **more})


def samples_of(inputs: Inputs, y: list[int], weight: list[float] | None = None) -> Samples:
    labels = np.asarray(y, dtype=np.int8)[:, None]
    w = np.asarray(weight or [1.0] * len(y), dtype=np.float32)[:, None]
    return Samples(inputs, labels, w, np.ones((len(y), 1), np.int32))


def learnt(model: Classifier, samples: Samples, freq: str = "h") -> Any:
    return model.fit_samples(samples, samples, seed=1, freq=freq)


def test_every_baseline_a_report_must_contain_is_in_the_table() -> None:
    marked = {name for name, entry in CLASSIFIERS.items() if entry.capabilities.baseline}

    assert marked == {
        "always_neutral",
        "buy_and_hold",
        "climatology",
        "logistic10",
        "majority",
        "mean_reversion",
        "momentum",
        "persistence",
        "stratified_random",
        "volatility_only",
    }
    sets = {name: CLASSIFIERS[name].load()().params.feature_set for name in marked}
    assert {name for name, its in sets.items() if its != "plain10"} == {"volatility_only"}
    assert sets["volatility_only"] == "volatility_time"


# -- shares within cells ---------------------------------------------------------------------------------------------


def test_climatology_answers_the_weighted_shares_of_the_hour() -> None:
    # hours 0 to 23 twice; long at midnight, neutral at all other hours
    inputs = inputs_of([1.0] * 48, list(range(48)))
    y = [2 if hour % 24 == 0 else 1 for hour in range(48)]

    model = learnt(Climatology(pseudo=0.0), samples_of(inputs, y))

    probs = model.probabilities(inputs)[:, 0]
    assert probs[0] == pytest.approx([0, 0, 1])
    assert probs[5] == pytest.approx([0, 1, 0])


def test_climatology_shrinks_a_rare_hour_to_the_overall_shares() -> None:
    inputs = inputs_of([1.0] * 48, list(range(48)))
    y = [2 if hour % 24 == 0 else 1 for hour in range(48)]

    model = learnt(Climatology(pseudo=2.0), samples_of(inputs, y))

    prior = model.priors[0]
    assert model.probabilities(inputs)[0, 0] == pytest.approx((np.array([0, 0, 2.0]) + 2 * prior) / 4)


def test_an_hour_that_training_lacks_gets_the_overall_shares() -> None:
    inputs = inputs_of([1.0] * 48, [0, 1, 24, 25])

    model = learnt(Climatology(), samples_of(inputs, [0, 1, 2, 1]))

    assert model.probabilities(inputs_of([1.0] * 48, [5]))[0, 0] == pytest.approx(model.priors[0])


def test_climatology_of_daily_bars_goes_by_the_day_of_the_week() -> None:
    times = np.datetime64("2024-01-01", "us") + np.arange(28) * np.timedelta64(24 * 60, "m")  # a Monday
    inputs = inputs_of([1.0] * 28, list(range(28)), times=times)

    model = learnt(Climatology(pseudo=0.0), samples_of(inputs, [2 if d % 7 == 4 else 0 for d in range(28)]), freq="D")

    assert model.cells(inputs, 0).tolist() == [d % 7 for d in range(28)]
    assert model.probabilities(inputs)[4, 0] == pytest.approx([0, 0, 1])


def test_weights_count_in_the_shares() -> None:
    inputs = inputs_of([1.0] * 4, [0, 1, 2, 3], times=np.full(4, np.datetime64("2024-01-01", "us")))

    model = learnt(Climatology(pseudo=0.0), samples_of(inputs, [0, 2, 1, 1], [3.0, 1.0, 0.0, 0.0]))

    assert model.probabilities(inputs)[0, 0] == pytest.approx([0.75, 0.0, 0.25])


# -- moves -----------------------------------------------------------------------------------------------------------


def test_a_past_return_ends_at_the_decision_and_stays_in_its_segment() -> None:
    inputs = inputs_of([1.0, 2.0, 4.0, 8.0, 1.0, 3.0], [0, 1, 2, 3, 4, 5], segment=[0, 0, 0, 0, 1, 1])

    moves = past_return(inputs, 2)

    assert np.isnan(moves[[0, 1, 4, 5]]).all()
    assert moves[2:4] == pytest.approx(np.log([4.0, 4.0]))


def test_a_move_is_measured_in_the_volatility_before_it() -> None:
    rng = np.random.default_rng(1)
    close = 100 * np.exp(np.cumsum(0.01 * rng.normal(size=400)))
    jumped = close.copy()
    jumped[398:] *= 1.5
    quiet = scaled_moves(inputs_of(close.tolist(), [397, 399]), 2, 100)
    loud = scaled_moves(inputs_of(jumped.tolist(), [397, 399]), 2, 100)

    assert loud[0] == quiet[0], "what comes later has no say"
    assert abs(quiet[1]) < 4
    assert loud[1] == pytest.approx(np.log(1.5) / (0.01 * np.sqrt(2)), rel=0.3), "the jump is not in its own yardstick"


def test_inputs_without_bars_get_the_overall_shares() -> None:
    inputs = inputs_of([1.0] * 6, list(range(6)), raw=np.empty((0, 5)))

    for kind in (Persistence, Momentum):
        model = learnt(kind(), samples_of(inputs, [0, 1, 2, 1, 1, 1]))

        assert np.allclose(model.probabilities(inputs)[:, 0], model.priors[0])


def test_momentum_answers_the_shares_of_the_sign_and_trades_with_it() -> None:
    train, view = views(data())
    momentum, reversion = (kind().fit(train, seed=1) for kind in (Momentum, MeanReversion))

    frame, against = momentum.predict(view).frame, reversion.predict(view).frame

    close, rows = view.bars[:, 3], view.rows
    for horizon in HORIZONS:
        sign = np.sign(close[rows] - close[rows - horizon])
        told = frame.filter(pl.col(HORIZON) == horizon)
        assert told[SIGNAL].to_list() == sign.astype(int).tolist()
        assert against.filter(pl.col(HORIZON) == horizon)[SIGNAL].to_list() == (-sign).astype(int).tolist()
        assert told.select(CLASS_PROBS).unique().height == len(np.unique(sign))
    assert frame.select(CLASS_PROBS).equals(against.select(CLASS_PROBS))


def test_persistence_stands_in_for_the_last_known_label() -> None:
    its = data()
    train, _ = views(its)
    assert train.labels is not None
    model = Persistence().fit(train, seed=1)
    position = {int(row): i for i, row in enumerate(train.rows)}

    for h, horizon in enumerate(HORIZONS):
        inputs = model.inputs(train, train.base, train.rows)
        cell = model.cells(inputs, h)
        pairs = [
            (int(cell[i]), int(train.labels.y[position[int(row) - horizon], h]))
            for i, row in enumerate(train.rows)
            if int(row) - horizon in position
        ]
        agree = np.mean([a == b for a, b in pairs if a >= 0 and b >= 0])
        chance = float((model.priors[h] ** 2).sum())
        assert agree > chance + 0.2
        assert (cell >= 0).all(), "every decision has a move behind it"


def test_the_stand_in_for_the_last_label_has_the_labels_own_shares() -> None:
    train, _ = views(data())
    model = Persistence(validation=0.0).fit(train, seed=1)
    inputs = model.inputs(train, train.base, train.rows)

    for h in range(len(HORIZONS)):
        shares = np.bincount(model.cells(inputs, h), minlength=3) / len(train.rows)
        assert shares == pytest.approx(model.priors[h], abs=0.01)


# -- constants and chance --------------------------------------------------------------------------------------------


def test_majority_answers_the_priors_and_follows_the_largest() -> None:
    train, view = views(data())
    model = Majority().fit(train, seed=1)

    frame = model.predict(view).frame

    for h, horizon in enumerate(HORIZONS):
        told = frame.filter(pl.col(HORIZON) == horizon)
        assert np.allclose(told.select(CLASS_PROBS).to_numpy(), model.priors[h])
        assert told[SIGNAL].unique().to_list() == [int(np.argmax(model.priors[h])) - 1]


def test_always_neutral_is_flat_and_buy_and_hold_is_long() -> None:
    train, view = views(data())

    flat = AlwaysNeutral().fit(train, seed=1).predict(view).frame
    long = BuyAndHold().fit(train, seed=1).predict(view).frame

    assert flat[SIGNAL].unique().to_list() == [0]
    assert np.allclose(flat["p_neutral"], CERTAIN)
    assert long[SIGNAL].unique().to_list() == [1]
    assert long["p_neutral"].n_unique() == len(HORIZONS), "probabilities stay the priors"


def test_stratified_random_calls_classes_by_their_shares() -> None:
    n = 20_000
    inputs = inputs_of([1.0] * n, list(range(n)))
    rng = np.random.default_rng(2)
    model = learnt(StratifiedRandom(), samples_of(inputs, rng.choice(3, n, p=[0.2, 0.5, 0.3]).tolist()))

    drawn = model.probabilities(inputs)[:, 0].argmax(axis=1)

    assert np.bincount(drawn) / n == pytest.approx(model.priors[0], abs=3 * np.sqrt(0.25 / n))
    assert abs(np.corrcoef(drawn[1:], drawn[:-1])[0, 1]) < 0.03, "neighbours are drawn independently"


def test_stratified_random_draws_anew_for_another_seed_symbol_or_horizon() -> None:
    n = 2000
    inputs = inputs_of([1.0] * n, list(range(n)), horizons=(1, 2))
    y = np.tile(np.arange(n) % 3, 1).astype(np.int8)
    both = Samples(inputs, np.stack([y, y], axis=1), np.ones((n, 2), np.float32), np.ones((n, 2), np.int32))
    model, other = (StratifiedRandom().fit_samples(both, both, seed=seed, freq="h") for seed in (1, 2))

    draws = model.probabilities(inputs).argmax(axis=2)
    elsewhere = model.probabilities(replace(inputs, symbol=np.ones(n, dtype=np.int64))).argmax(axis=2)

    for a, b in ((draws, other.probabilities(inputs).argmax(axis=2)), (draws, elsewhere), (draws[:, :1], draws[:, 1:])):
        assert 0.25 < (a == b).mean() < 0.42, "as often alike as chance has it"


# -- what a model without direction may read -------------------------------------------------------------------------


def test_the_volatility_only_model_reads_no_column_but_those_of_its_set() -> None:
    its = data()
    its = replace(its, sets={**its.sets, "volatility_time": ("hvol_10", "hour_sin", "hour_cos")})
    train, view = views(its)
    model = VolatilityOnly(rounds=20).fit(train, seed=1)
    base = np.full_like(view.base, 7.0)
    own = [view.names.index(name) for name in ("hvol_10", "hour_sin", "hour_cos")]
    base[:, own] = view.base[:, own]

    blind = model.predict(replace(view, base=base)).frame

    assert model.pipeline.names_in == ("hvol_10", "hour_sin", "hour_cos")
    assert blind.equals(model.predict(view).frame)
    assert set(model.importance() or {}) == set(model.pipeline.names_out)
