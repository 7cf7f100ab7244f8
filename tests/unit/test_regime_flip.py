"""A signal that changes sign: the model of the old sign turns harmful, and retraining brings it back in two windows."""

from __future__ import annotations

import functools
from datetime import datetime

import numpy as np
import polars as pl
from numpy.typing import NDArray

from models.classifiers import CLASSIFIERS
from nightcast.contracts.bars import BarDataset, label_columns
from nightcast.contracts.fold import Fold
from nightcast.contracts.schema import CostPlan, LabelPlan
from nightcast.evaluation.class_scores import direction_auc
from nightcast.features.bars.catalog import build_bar_features
from nightcast.features.labels import triple_barrier
from nightcast.features.segments import segmented
from nightcast.sources.market.config import MarketConfig
from nightcast.sources.market.source import MarketSource

BARS, HORIZON, WINDOW = 14_000, 5, 1500
FLIP = 0.6
VOLUMES = ("volume_zscore_10", "volume_zscore_20", "volume_zscore_50", "volume_ratio_5", "volume_ratio_20")
"""What the signal can be read off; past returns follow it with either sign, so that momentum would hide the flip."""


@functools.cache
def dataset(flip: float | None = FLIP) -> BarDataset:
    """One symbol with a strong linear signal that changes sign after a share of the bars."""
    config = MarketConfig(
        symbols=("MES",),  # type: ignore[arg-type]  # names stand for instruments
        bars=BARS,
        seed=11,
        kappa=0.2,
        kappa_flip_at=flip,
        volatility="flat",
    )
    source = MarketSource.of(config, horizons=(HORIZON,))
    raw = source.read(as_of=None, data=None, now=datetime(2026, 1, 1))
    cut, _ = segmented(raw.frame.select("unique_id", "ds", "open", "high", "low", "close", "volume"), raw.bars)
    built, columns, _ = build_bar_features(cut, ["boosting_optimal"], raw.bars)
    frame = triple_barrier(built, raw.bars, LabelPlan(multiplier=0.8))
    return BarDataset(
        frame=frame,
        schema=raw.bars,
        columns=columns,
        sets={"volumes": VOLUMES},
        as_of=raw.as_of,
        lead=max(its.warmup for its in columns.values()),
        labels=LabelPlan(multiplier=0.8),
        costs=CostPlan(),
    )


def auc(train: tuple[int, int], test: tuple[int, int], flip: float | None = FLIP) -> float:
    """Direction AUC over some bars of a logistic regression fitted on others, purged."""
    its = dataset(flip)
    times = its.frame["ds"]
    end = times[train[1] - HORIZON - 1]
    fold = Fold("window", times[train[0]], end, (times[test[0]], times[test[1] - 1]))
    model = CLASSIFIERS["logistic"].load()(feature_set="volumes", c=0.1).fit(its.training(fold), seed=1)
    (view,) = its.tests(fold)
    probs = model.predict(view).frame.sort("ds")
    truth = its.frame.select("unique_id", "ds", y=pl.col(label_columns(HORIZON)["y"])).drop_nulls()
    rows = probs.join(truth, on=["unique_id", "ds"])
    found = direction_auc(rows["y"].cast(pl.Int64).to_numpy(), values(rows))
    assert found is not None
    return found


def values(rows: pl.DataFrame) -> NDArray[np.float64]:
    return rows.select("p_short", "p_neutral", "p_long").to_numpy().astype(np.float64)


def windows_after(flip: int) -> list[tuple[int, int]]:
    return [(flip + k * WINDOW, flip + (k + 1) * WINDOW) for k in range(3)]


def rolling(test: tuple[int, int]) -> tuple[int, int]:
    """The two windows before a test, which a nightly retrain reads."""
    return test[0] - 2 * WINDOW, test[0]


def test_a_model_of_the_old_sign_ranks_the_wrong_way_round_after_the_flip() -> None:
    flip = round(FLIP * BARS)
    first = windows_after(flip)[0]

    assert auc((200, flip - 3 * WINDOW), (flip - 3 * WINDOW, flip)) > 0.55, "before the flip it had learnt the signal"
    assert auc((200, flip), first) < 0.4


def test_a_retrained_model_recovers_within_two_windows_of_the_flip() -> None:
    first, _, third = windows_after(round(FLIP * BARS))
    never = [auc((200, first[0]), window) for window in windows_after(first[0])]
    retrained = [auc(rolling(window), window) for window in windows_after(first[0])]

    assert retrained[0] < 0.4, "at first it knows nothing but the old sign"
    assert retrained[2] > 0.6, "two windows on it reads bars of the new sign alone"
    assert max(never) < 0.4, "without a retrain it would have gone on being wrong"
    assert retrained[2] - auc(rolling(third), third, flip=None) > -0.05, "as good as where nothing ever flipped"
