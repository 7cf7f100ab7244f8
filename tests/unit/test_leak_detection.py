"""Deliberate leaks on a driftless random walk: each is caught and named; the clean pipeline is left alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime

import numpy as np
import polars as pl
import pytest
import pywt
from numpy.typing import NDArray
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import f1_score, roc_auc_score
from sklearn.model_selection import KFold
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler

from models.pipeline import FoldPipeline
from nightcast.contracts.bars import BarDataset, label_columns
from nightcast.contracts.errors import ConfigError
from nightcast.contracts.schema import BarsSchema, LabelPlan
from nightcast.evaluation.leaks import (
    LeakFinding,
    RecordingArray,
    audit_duplicates,
    audit_features,
    audit_label_returns,
    audit_labels,
    audit_oversampling,
    audit_rows,
    audit_split,
    suspicious,
)
from nightcast.evaluation.purged import CombinatorialPurgedCV, PurgedKFold, PurgedWalkForward
from nightcast.features.labels import triple_barrier
from tests.contract.bar_data import bar_dataset

BARS, HORIZON = 3000, 20
START = datetime(2024, 1, 1)
FEATURES = ("ret_5", "ret_10", "ret_20", "ret_40", "ret_80", "vol_20")

Floats = NDArray[np.float64]


def walk(seed: int = 1, bars: int = BARS) -> pl.DataFrame:
    """A driftless random walk of constant volatility: nothing in it can be known."""
    rng = np.random.default_rng(seed)
    steps = rng.normal(0, 0.001, size=(bars, 6))
    path = np.exp(np.cumsum(steps.ravel())).reshape(bars, 6) * 100
    close = path[:, -1]
    open_ = np.append(100.0, close[:-1])
    return pl.DataFrame(
        {
            "unique_id": "AAA",
            "ds": pl.datetime_range(START, START.replace(year=2025), "5m", eager=True)
            .head(bars)
            .cast(pl.Datetime("us")),
            "segment": 0,
            "session": 0,
            "open": open_,
            "high": np.maximum(path.max(axis=1), open_),
            "low": np.minimum(path.min(axis=1), open_),
            "close": close,
            "volume": 1.0,
        }
    )


def features(bars: pl.DataFrame) -> pl.DataFrame:
    """Momentum over several spans and volatility, of rows up to each row."""
    price = pl.col("close").log()
    spans = [(price - price.shift(n)).over("unique_id").alias(f"ret_{n}") for n in (5, 10, 20, 40, 80)]
    step = price.diff().over("unique_id")
    return bars.select("unique_id", "ds", *spans, step.rolling_std(20).over("unique_id").alias("vol_20"))


def labels(bars: pl.DataFrame) -> pl.DataFrame:
    """`unique_id, ds, y, label_end` of triple barriers at one deviation."""
    schema = BarsSchema(freq="5min", horizons=(HORIZON,))
    names = label_columns(HORIZON)
    made = triple_barrier(bars, schema, LabelPlan()).with_row_index("row")
    end = (pl.col("row") + pl.col(names["hold"])).cast(pl.UInt32)
    return made.select("unique_id", "ds", pl.col(names["y"]).alias("y"), pl.col("ds").gather(end).alias("label_end"))


@dataclass(frozen=True)
class Market:
    bars: pl.DataFrame
    x: Floats
    y: NDArray[np.int64]
    decision: NDArray[np.datetime64]
    end: NDArray[np.datetime64]


@pytest.fixture(scope="module")
def market() -> Market:
    bars = walk()
    rows = features(bars).join(labels(bars), on=["unique_id", "ds"]).drop_nulls()
    return Market(
        bars,
        rows.select(FEATURES).to_numpy(),
        rows["y"].to_numpy().astype(np.int64),
        rows["ds"].to_numpy(),
        rows["label_end"].to_numpy(),
    )


def leaks(findings: list[LeakFinding]) -> set[str]:
    return {finding.leak for finding in findings}


# -- a: shuffled cross-validation on overlapping labels ----------------------------------------------------------------


def shuffled(market: Market) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    return list(KFold(5, shuffle=True, random_state=0).split(market.x))


def purged(market: Market) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    return list(PurgedKFold(5).split(market.decision, market.end))


def out_of_fold(
    market: Market, splits: list[tuple[NDArray[np.int64], NDArray[np.int64]]], make: Callable[[], object]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Labels of all test rows in order of time, and what was predicted for them."""
    out = np.full(len(market.y), -1, dtype=np.int64)
    for train, test in splits:
        scaler = StandardScaler().fit(market.x[train])
        model = make()
        model.fit(scaler.transform(market.x[train]), market.y[train])  # type: ignore[attr-defined]
        out[test] = model.predict(scaler.transform(market.x[test]))  # type: ignore[attr-defined]
    return market.y[out >= 0], out[out >= 0]


def by_chance(y: NDArray[np.int64], predicted: NDArray[np.int64], draws: int = 200) -> tuple[float, float]:
    """Mean and deviation of the macro-F1 of the same predictions shifted in time: their runs kept, their skill gone."""
    rng = np.random.default_rng(0)
    shifts = rng.integers(10 * HORIZON, len(y) - 10 * HORIZON, draws)
    scores = [f1_score(y, np.roll(predicted, shift), average="macro") for shift in shifts]
    return float(np.mean(scores)), float(np.std(scores))


MODELS: dict[str, Callable[[], object]] = {
    "kNN": lambda: KNeighborsClassifier(3),
    "random forest": lambda: RandomForestClassifier(40, min_samples_leaf=2, random_state=0),
}


def test_shuffled_folds_are_named_and_purged_ones_are_not(market: Market) -> None:
    findings = audit_split(market.decision, market.end, shuffled(market))

    assert leaks(findings) == {"overlapping_labels"}
    assert [finding.where for finding in findings] == [f"split {i}" for i in range(5)]
    assert all(finding.rows > 1500 and "never shuffle" in finding.detail for finding in findings)
    for splitter in (PurgedKFold(5, 20), CombinatorialPurgedCV(6, 2, 20), PurgedWalkForward(6, 200, min_train=500)):
        splits = splitter.split(market.decision, market.end)
        assert audit_split(market.decision, market.end, splits, embargo=20) == []


def macro_f1(y: NDArray[np.int64], predicted: NDArray[np.int64]) -> float:
    return float(f1_score(y, predicted, average="macro"))


@pytest.mark.parametrize("name", MODELS)
def test_shuffled_folds_score_on_noise_and_purged_ones_stay_within_chance(market: Market, name: str) -> None:
    forward = list(PurgedWalkForward(5, 400, min_train=500).split(market.decision, market.end))

    assert macro_f1(*out_of_fold(market, shuffled(market), MODELS[name])) > 0.5
    for splits in (purged(market), forward):
        y, predicted = out_of_fold(market, splits, MODELS[name])
        chance, error = by_chance(y, predicted)
        assert abs(macro_f1(y, predicted) - chance) < 3 * error
        assert 0.3 < chance < 0.36
        assert 0.005 < error < 0.03


def test_ordered_folds_without_a_purge_or_an_embargo_are_named(market: Market) -> None:
    unpurged = list(KFold(5).split(market.x))
    unguarded = list(PurgedKFold(5, embargo=0).split(market.decision, market.end))

    found = audit_split(market.decision, market.end, unpurged, embargo=30)
    assert leaks(found) == {"overlapping_labels", "missing_embargo"}
    late = audit_split(market.decision, market.end, unguarded, embargo=30)
    # the last split has no training after its test span
    assert [(finding.leak, finding.where, finding.rows) for finding in late] == [
        ("missing_embargo", f"split {i}", 31) for i in range(4)
    ]


def test_rows_that_train_and_test_are_named(market: Market) -> None:
    everything = np.arange(len(market.y))
    (finding,) = audit_split(market.decision, market.end, [(everything, everything[:100])])[:1]

    assert (finding.leak, finding.rows) == ("rows_on_both_sides", 100)


# -- b: a scaler fitted on all rows ------------------------------------------------------------------------------------


def test_a_scaler_fitted_on_all_rows_is_named(market: Market) -> None:
    train, test = next(iter(PurgedWalkForward(1, 500, min_train=500).split(market.decision, market.end)))
    seen = RecordingArray(market.x)
    StandardScaler().fit(seen)
    (finding,) = audit_rows(seen.touched, train, step="the scaler")

    assert (finding.leak, finding.where) == ("fit_on_held_out_rows", "the scaler")
    assert finding.rows == len(market.x) - len(train) >= len(test)


def test_a_scaler_fitted_on_training_rows_is_left_alone(market: Market) -> None:
    train, _ = next(iter(PurgedWalkForward(1, 500, min_train=500).split(market.decision, market.end)))
    one, other = RecordingArray(market.x), RecordingArray(market.x.astype(np.float32))
    StandardScaler().fit(one[train])
    FoldPipeline(scaling="robust").fit(other, train, FEATURES)  # type: ignore[arg-type]

    assert audit_rows(one.touched, train) == audit_rows(other.touched, train) == []
    assert one.touched.tolist() == other.touched.tolist() == train.tolist()


def test_a_recorder_writes_down_rows_however_they_are_read() -> None:
    def touched(read: Callable[[RecordingArray], object]) -> list[int]:
        array = RecordingArray(np.arange(12.0).reshape(6, 2))
        read(array)
        return array.touched.tolist()

    assert touched(lambda a: a[2]) == [2]
    assert touched(lambda a: a[-1]) == [5]
    assert touched(lambda a: a[1:3]) == [1, 2]
    assert touched(lambda a: a[[0, 4], 1]) == [0, 4]
    assert touched(lambda a: a[np.arange(6) > 3]) == [4, 5]
    assert touched(lambda a: a[..., 0]) == list(range(6))
    assert touched(lambda a: list(a)[:1]) == list(range(6))
    assert touched(np.mean) == touched(np.asarray) == list(range(6))
    assert touched(lambda a: (a.shape, a.ndim, a.dtype, len(a))) == []


# -- c: centred windows ------------------------------------------------------------------------------------------------


def wavelet(bars: pl.DataFrame) -> pl.DataFrame:
    """The smooth part of the whole series: every value of it knows the bars after it."""
    parts = pywt.wavedec(bars["close"].to_numpy().copy(), "db4", level=3)
    smooth = pywt.waverec([parts[0], *[np.zeros_like(part) for part in parts[1:]]], "db4")[: bars.height]
    return bars.select("unique_id", "ds", pl.Series("wavelet_approx", smooth))


def centred(bars: pl.DataFrame) -> pl.DataFrame:
    return features(bars).with_columns(
        bars["close"].rolling_mean(9, center=True).alias("centred_mean"),
        ((bars["close"] - bars["close"].mean()) / bars["close"].std()).alias("scaled_by_all"),
        bars["close"].shift(-1).alias("next_close"),
        bars["close"].shift(1).fill_null(strategy="backward").alias("previous_close"),
    )


def test_centred_wavelets_and_windows_are_named(market: Market) -> None:
    cutoff = market.bars["ds"][2000]
    found = audit_features(wavelet, market.bars, cutoff)

    assert [(finding.leak, finding.where) for finding in found] == [("feature_sees_the_future", "wavelet_approx")]
    named = {finding.where: finding.rows for finding in audit_features(centred, market.bars, cutoff)}
    assert set(named) == {"centred_mean", "scaled_by_all", "next_close"}
    assert (named["centred_mean"], named["scaled_by_all"], named["next_close"]) == (4, 2001, 1)


def test_features_of_past_rows_are_left_alone(market: Market) -> None:
    for at in (200, 1500, 2900):
        assert audit_features(features, market.bars, market.bars["ds"][at]) == []


def test_rows_that_come_and_go_with_the_future_are_named(market: Market) -> None:
    def without_calm_tail(bars: pl.DataFrame) -> pl.DataFrame:
        return features(bars).head(bars.height - 50)

    (finding,) = audit_features(without_calm_tail, market.bars, market.bars["ds"][2000])

    assert (finding.where, finding.rows) == ("rows", 50)


# -- d: oversampling before the split ----------------------------------------------------------------------------------


def oversampled(x: Floats, rows: NDArray[np.int64], count: int, seed: int = 0) -> tuple[Floats, NDArray[np.int64]]:
    """Rows between a row and one of its five nearest neighbours (Chawla et al. 2002), and the parents of each."""
    rng = np.random.default_rng(seed)
    scaled = x[rows] / x[rows].std(axis=0)
    first = rng.integers(0, len(rows), count)
    distance = ((scaled[first][:, None] - scaled[None]) ** 2).sum(axis=2)
    second = np.argsort(distance, axis=1)[np.arange(count), rng.integers(1, 6, count)]
    share = rng.random((count, 1))
    made = x[rows[first]] + share * (x[rows[second]] - x[rows[first]])
    return made, np.column_stack([rows[first], rows[second]])


def spaced(market: Market) -> NDArray[np.int64]:
    """Rows a horizon apart: no two of them overlap, so that copies come from oversampling alone."""
    return np.arange(0, len(market.y), HORIZON // 2)


def test_oversampling_before_the_split_is_named_by_its_copies_and_by_its_parents(market: Market) -> None:
    rows = spaced(market)
    made, parents = oversampled(market.x, rows, 3 * len(rows))
    pool = np.concatenate([market.x[rows], made])
    order = np.random.default_rng(1).permutation(len(pool))
    train, test = order[len(order) // 4 :], order[: len(order) // 4]
    (copies,) = audit_duplicates(pool[train], pool[test])

    assert (copies.leak, copies.where) == ("copies_across_the_split", "the split")
    early = rows[rows < 2000]
    (foreign,) = audit_oversampling(parents, early, step="SMOTE")
    assert (foreign.leak, foreign.where) == ("oversampled_before_the_split", "SMOTE")
    assert foreign.rows == int((~np.isin(parents, early).all(axis=1)).sum())


def test_oversampling_inside_the_training_rows_is_left_alone(market: Market) -> None:
    rows = spaced(market)
    train, test = rows[rows < 2000], rows[rows >= 2000 + HORIZON]
    made, parents = oversampled(market.x, train, 3 * len(train))

    assert audit_oversampling(parents, train) == []
    assert audit_duplicates(np.concatenate([market.x[train], made]), market.x[test]) == []


def test_plain_copies_across_the_split_are_named_and_neighbours_in_time_are_not(market: Market) -> None:
    rows = np.arange(len(market.y))
    train, test = rows[:2000], rows[2000 + HORIZON :]
    copied = np.concatenate([market.x[train], market.x[test[::10]]])
    (finding,) = audit_duplicates(copied, market.x[test])

    assert finding.rows >= 80
    assert audit_duplicates(market.x[train], market.x[test]) == []
    assert leaks(audit_duplicates(market.x[test], market.x[test])) == {"copies_across_the_split"}


# -- e: labels shifted by one bar --------------------------------------------------------------------------------------


def shifted(bars: pl.DataFrame) -> pl.DataFrame:
    """Each decision gets the label of the one before it, with its end moved along."""
    made = labels(bars)
    return made.with_columns(
        pl.col("y").shift(1), pl.col("label_end").shift(1) + (pl.col("ds") - pl.col("ds").shift(1))
    )


def test_labels_shifted_by_one_bar_are_named(market: Market) -> None:
    found = audit_labels(shifted, market.bars, market.bars["ds"][2000])

    assert leaks(found) >= {"label_known_at_decision"}
    assert "is it shifted?" in next(f.detail for f in found if f.leak == "label_known_at_decision")


def test_labels_that_end_by_their_own_decision_are_named(market: Market) -> None:
    def persistence(bars: pl.DataFrame) -> pl.DataFrame:
        y = (pl.col("close") > pl.col("open")).cast(pl.Int8)
        return bars.select("unique_id", "ds", y.alias("y"), pl.col("ds").alias("label_end"))

    assert leaks(audit_labels(persistence, market.bars, market.bars["ds"][2000])) == {"label_known_at_decision"}


def test_labels_that_look_beyond_their_stated_end_are_named(market: Market) -> None:
    def hasty(bars: pl.DataFrame) -> pl.DataFrame:
        return labels(bars).with_columns(
            pl.when(pl.col("y").is_not_null()).then(pl.col("ds").shift(-1)).alias("label_end")
        )

    (finding,) = audit_labels(hasty, market.bars, market.bars["ds"][2000])

    assert finding.leak == "label_outlives_its_end"


def test_triple_barriers_are_left_alone(market: Market) -> None:
    for at in (500, 2500):
        assert audit_labels(labels, market.bars, market.bars["ds"][at]) == []


def test_a_dataset_with_shifted_labels_is_named_and_its_own_ones_are_not() -> None:
    data = labelled_dataset()
    names = [name for h in data.schema.horizons for name in list(label_columns(h).values())[:3]]
    moved = replace(data, frame=data.frame.with_columns(pl.col(names).shift(1).over("unique_id")))
    found = audit_label_returns(moved)

    assert audit_label_returns(data) == []
    assert [(finding.leak, finding.where) for finding in found] == [
        ("label_off_its_bars", f"label_{h}_y") for h in data.schema.horizons
    ]


def labelled_dataset() -> BarDataset:
    data = bar_dataset({"any"})
    bare = data.frame.drop(name for h in data.schema.horizons for name in label_columns(h).values())
    return replace(data, frame=triple_barrier(bare, data.schema, LabelPlan()))


# -- results too good to be true ---------------------------------------------------------------------------------------


def test_a_shifted_label_also_shows_in_the_direction_auc(market: Market) -> None:
    made = market.bars.select("unique_id", "ds", last=(pl.col("close") / pl.col("open")).log())
    for build, alarm in ((shifted, True), (labels, False)):
        rows = made.join(build(market.bars), on=["unique_id", "ds"]).drop_nulls().filter(pl.col("y") != 1)
        auc = float(roc_auc_score(rows["y"].to_numpy() == 2, rows["last"].to_numpy()))

        assert bool(suspicious(auc, None)) == (auc > 0.65)
        assert (auc > 0.55) == alarm


def test_a_result_that_is_too_good_is_taken_for_a_leak() -> None:
    found = suspicious(0.71, 5.2, where="gru, h20")

    assert [finding.leak for finding in found] == ["too_good_to_be_true"] * 2
    assert [("0.71" in f.detail, "5.20" in f.detail) for f in found] == [(True, False), (False, True)]
    assert suspicious(0.65, 4.0) == suspicious(None, None) == suspicious(0.2, -9.0) == []


# -- the whole clean pipeline ------------------------------------------------------------------------------------------


def test_the_clean_pipeline_gives_no_finding(market: Market) -> None:
    splits = list(PurgedWalkForward(3, 300, min_train=500).split(market.decision, market.end))
    found = audit_split(market.decision, market.end, splits)
    for train, test in splits:
        seen = RecordingArray(market.x.astype(np.float32))
        pipeline = FoldPipeline(scaling="standard").fit(seen, train, FEATURES)  # type: ignore[arg-type]
        found += audit_rows(seen.touched, train, step="the pipeline")
        x = pipeline.transform(market.x.astype(np.float32))
        found += audit_duplicates(x[train], x[test])
        model = KNeighborsClassifier(15).fit(x[train], market.y[train])
        probs = model.predict_proba(x[test])
        sided = market.y[test] != 1
        found += suspicious(float(roc_auc_score(market.y[test][sided] == 2, (probs[:, 2] - probs[:, 0])[sided])), None)
    cutoff = market.bars["ds"][2000]
    found += audit_features(features, market.bars, cutoff) + audit_labels(labels, market.bars, cutoff)

    assert found == []


# -- an audit that could not fail raises -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("audit", "words"),
    [
        (lambda m: audit_split(m.decision, m.end, []), "no split to audit"),
        (lambda m: audit_split(m.decision, m.end[1:], []), "label ends of shape"),
        (lambda m: audit_rows([], [1, 2], step="the scaler"), "the scaler touched no row"),
        (lambda m: audit_features(features, m.bars, m.bars["ds"][-1]), "0 after it"),
        (lambda m: audit_labels(labels, m.bars, START.replace(year=2020)), "with 0 rows up to it"),
        (lambda m: audit_labels(features, m.bars, m.bars["ds"][99]), "labels without"),
        (lambda m: audit_labels(labels, m.bars.head(15), m.bars["ds"][9]), "no label is known up to"),
        (lambda m: audit_labels(labels, m.bars.drop("open"), m.bars["ds"][99]), r"bars without \['open'\]"),
        (lambda m: audit_duplicates(m.x[:, :2], m.x[:, :2]), "3 columns or more"),
        (lambda m: audit_duplicates(m.x, np.full_like(m.x, np.nan)), "some values not finite"),
        (lambda m: audit_duplicates(m.x, m.x[:0]), r"test rows of shape \(0, 6\)"),
    ],
)
def test_an_audit_that_could_not_fail_is_refused(market: Market, audit: Callable[[Market], object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        audit(market)
