"""The yardstick of skill: it knows what the barriers are made of, keeps the better learner, and has no direction."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from models.families.baseline_classes import VolatilityOnly
from models.families.boosted_classes import Native
from models.families.classical_classes import Linear
from nightcast.contracts.bars import BarDataset
from nightcast.contracts.columns import BAR_COLUMNS, ID, TIME
from nightcast.contracts.fold import Fold
from nightcast.contracts.schema import BarsSchema, CostPlan, LabelPlan
from nightcast.evaluation.market_verdicts import LIMITS, _macro_f1, _skill, _without_direction
from workloads.bars import BARRIER_SETS, dataset_from_bars

START = datetime(2024, 1, 1)
ADDED = ["barrier_sigma", "barrier_hvol_5", "barrier_hvol_20", "barrier_hvol_60", "barrier_parkinson_20"]


def bars(n: int = 900, *, seed: int = 0, wild_after: int | None = None) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    sigma = 0.002 * np.exp(np.cumsum(rng.normal(0, 0.05, n)) * 0.3)
    move = rng.normal(0, 1, n) * sigma
    if wild_after is not None:
        move[wild_after:] *= 7
    close = 100 * np.exp(np.cumsum(move))
    open_ = np.append(100.0, close[:-1])
    edge = np.abs(rng.normal(0, 0.3, n)) * sigma
    return pl.DataFrame(
        {
            ID: "a",
            TIME: [START + timedelta(hours=i) for i in range(n)],
            "open": open_,
            "high": np.maximum(open_, close) * (1 + edge),
            "low": np.minimum(open_, close) * (1 - edge),
            "close": close,
            "volume": rng.lognormal(5, 0.3, n),
        }
    )


def dataset(rows: pl.DataFrame, sets: tuple[str, ...] = ("volatility_time", "plain10")) -> BarDataset:
    return dataset_from_bars(
        rows.select(ID, TIME, *BAR_COLUMNS),
        BarsSchema(freq="h", horizons=(5,)),
        sets,
        rows[TIME][-1],
        window=1,
        labels=LabelPlan(),
        costs=CostPlan(),
        retire_after=12,
    )


def test_the_yardstick_sees_the_volatility_that_the_barriers_are_made_of() -> None:
    data = dataset(bars())
    assert [name for name in data.sets["volatility_time"] if name.startswith("barrier_")] == ADDED
    assert not [name for name in data.sets["plain10"] if name.startswith("barrier_")]
    known = data.frame.drop_nulls("barrier_sigma")
    np.testing.assert_allclose(known["barrier_sigma"], np.log(known["sigma"]), rtol=1e-5)
    both = data.frame.drop_nulls("barrier_hvol_20")
    np.testing.assert_allclose(both["barrier_hvol_20"], np.log(both["hvol_20"] / both["sigma"]), atol=1e-4)


def test_learners_that_stand_beside_it_see_it_too() -> None:
    data = dataset(bars(), BARRIER_SETS)
    assert all("barrier_sigma" in data.sets[name] for name in BARRIER_SETS)


def test_nothing_of_the_barriers_columns_is_known_from_later_bars() -> None:
    calm, wild = (dataset(bars(wild_after=after)).frame for after in (None, 600))
    before = pl.col(TIME) < START + timedelta(hours=600)
    assert calm.filter(before).select(ADDED).equals(wild.filter(before).select(ADDED))
    assert not calm.filter(~before).select(ADDED).equals(wild.filter(~before).select(ADDED))


@pytest.mark.parametrize(("kind", "losses"), [(Linear, (0.1, 0.2)), (Native, (0.2, 0.1))])
def test_each_horizon_keeps_the_learner_with_the_less_validation_loss_and_loads_it_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind: type, losses: tuple[float, float]
) -> None:
    line, trees = losses
    monkeypatch.setattr(VolatilityOnly, "_loss", lambda _, model, __: line if isinstance(model, Linear) else trees)
    data = dataset(bars())
    middle = START + timedelta(hours=700)
    train = data.training(Fold("fold-00", None, middle, (middle,)))
    view = next(iter(data.tests(Fold("fold-00", None, middle, (middle, data.as_of)))))

    model = VolatilityOnly(rounds=5).fit(train, seed=1)
    model.save(tmp_path)
    again = VolatilityOnly.load(tmp_path)

    assert [type(its) for its in model.models] == [kind]
    assert [type(its) for its in again.models] == [kind]
    assert again.predict(view).frame.equals(model.predict(view).frame)
    assert sum((model.importance() or {}).values()) == pytest.approx(1.0)


def test_without_validation_decisions_it_keeps_the_trees() -> None:
    data = dataset(bars())
    train = data.training(Fold("fold-00", None, data.as_of, (data.as_of,)))
    model = VolatilityOnly(rounds=5, validation=0.0).fit(train, seed=1)
    assert [type(its) for its in model.models] == [Native]


def test_calling_sides_and_neutral_more_evenly_is_no_skill() -> None:
    """A coin beside a yardstick that names one side of two equal ones: the excess is none."""
    rng = np.random.default_rng(5)
    n = 4000
    y = rng.choice([0, 1, 2], n, p=[0.36, 0.28, 0.36])
    probs = np.tile([0.355, 0.28, 0.365], (n, 1)) + rng.normal(0, 1e-4, (n, 1)) * [0, 1, 0]
    coin = rng.choice([0, 1, 2], n, p=[0.36, 0.28, 0.36])
    assert _macro_f1(y, coin) - _macro_f1(y, probs.argmax(axis=1)) > 0.1
    assert abs(_macro_f1(y, coin) - _macro_f1(y, _without_direction(y, probs, coin))) < 0.02


def test_a_yardstick_that_says_neutral_at_the_right_places_is_left_as_it_is() -> None:
    rng = np.random.default_rng(6)
    y = rng.integers(0, 3, 600)
    probs = np.eye(3)[y] * 0.8 + 0.2 / 3
    assert np.array_equal(_without_direction(y, probs, y), probs.argmax(axis=1))


def test_no_more_than_chance_has_an_excess_where_a_model_guesses_sides_over_forty_seeds() -> None:
    passed = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        n = 1500
        active = rng.uniform(0.4, 0.8, n)
        y = np.where(rng.random(n) < active, np.where(rng.random(n) < 0.5, 2, 0), 1)
        frames = []
        for lean in (np.full(n, 0.51), rng.uniform(0.4, 0.6, n)):
            frames.append(
                pl.DataFrame(
                    {
                        ID: "a",
                        TIME: [START + timedelta(hours=i) for i in range(n)],
                        "cutoff": [START + timedelta(hours=i) for i in range(n)],
                        "y": y,
                        "p_short": active * (1 - lean),
                        "p_neutral": 1 - active,
                        "p_long": active * lean,
                    }
                )
            )
        found: dict[str, Any] = _skill(frames[1], frames[0], None, "guess", 1, seed, LIMITS)
        passed += found["f1_excess_low"] > 0
    assert passed <= 4
