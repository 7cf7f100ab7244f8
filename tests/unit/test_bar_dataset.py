"""Bars ready for classifiers: what a view may hold, what training knows, and that a dataset comes back as it was."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nightcast.contracts.bars import UNKNOWN_LABEL, BarDataset, BarView, label_columns
from nightcast.contracts.errors import ConfigError
from nightcast.contracts.fold import Fold
from nightcast.contracts.recipe import FoldPlan
from nightcast.contracts.source import Note
from nightcast.evaluation.purged import bar_folds, final_bar_fold
from tests.contract.bar_data import HORIZONS, LEAD, bar_dataset

DATA = bar_dataset({"all", "few"})
TIMES = DATA.frame["ds"].unique().sort()

fractions = st.floats(0.2, 0.98)


def at(fraction: float) -> datetime:
    time: datetime = TIMES[int(fraction * (len(TIMES) - 1))]
    return time


def stamp(time: datetime) -> np.datetime64:
    return np.datetime64(time, "us")


def views_of(data: BarDataset, fold: Fold) -> list[BarView]:
    return [data.training(fold), *data.tests(fold), data.view(fold.cutoffs[-1])]


def same(one: BarView, other: BarView) -> bool:
    arrays = ("base", "bars", "symbol", "segment", "session", "times", "rows")
    equal = all(np.array_equal(getattr(one, n), getattr(other, n), equal_nan=n in ("base", "bars")) for n in arrays)
    if (one.labels is None) != (other.labels is None):
        return False
    if one.labels is not None and other.labels is not None:
        equal &= np.array_equal(one.labels.y, other.labels.y) and np.array_equal(one.labels.hold, other.labels.hold)
        equal &= np.array_equal(one.labels.ret, other.labels.ret, equal_nan=True)
    return equal and one.cutoff == other.cutoff and one.names == other.names


def scrambled(data: BarDataset, after: datetime) -> BarDataset:
    """Wild numbers in every column of every row after a time; labels that had ended by then stay."""
    rng = np.random.default_rng(0)
    future = pl.col("ds") > after
    labels = [name for h in data.schema.horizons for name in label_columns(h).values()]
    kept = {"unique_id", "ds", "segment", "session", *labels}
    wild = {
        name: pl.when(future).then(pl.Series(rng.normal(0, 1e6, data.frame.height))).otherwise(pl.col(name))
        for name in data.frame.columns
        if name not in kept
    }
    for horizon in data.schema.horizons:
        names = label_columns(horizon)
        end = (pl.int_range(pl.len()) + pl.col(names["hold"]).fill_null(0)).clip(0, pl.len() - 1)
        unknown = pl.col("ds").gather(end) > after
        other = pl.Series(rng.integers(0, 3, data.frame.height), dtype=pl.Int8)
        wild[names["y"]] = pl.when(unknown & pl.col(names["y"]).is_not_null()).then(other).otherwise(pl.col(names["y"]))
        noise = pl.Series(rng.normal(0, 1e6, data.frame.height))
        wild[names["ret"]] = pl.when(unknown).then(noise).otherwise(pl.col(names["ret"]))
    return replace(data, frame=data.frame.with_columns(**wild))


# -- nothing after the cutoff ------------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(train=fractions, span=st.integers(1, 60))
def test_no_view_holds_a_bar_after_its_cutoff(train: float, span: int) -> None:
    end = at(train)
    first = TIMES[min(len(TIMES) - 1, TIMES.index_of(end) + 1)]  # type: ignore[operator]
    last = TIMES[min(len(TIMES) - 1, TIMES.index_of(end) + span)]  # type: ignore[operator]
    fold = Fold("fold-00", None, end, (first, last))

    training, test, newest = views_of(DATA, fold)
    assert training.times.max() <= stamp(training.cutoff) == stamp(end)
    assert test.times.max() <= stamp(test.cutoff) == stamp(last)
    assert newest.times.max() <= stamp(newest.cutoff) == stamp(last)
    assert test.labels is None
    assert newest.labels is None
    assert (test.times[test.rows] >= stamp(first)).all()


@settings(max_examples=25, deadline=None)
@given(train=st.floats(0.3, 0.9), start=st.one_of(st.none(), st.floats(0.05, 0.25)))
def test_a_training_view_is_bit_identical_whatever_the_future_holds(train: float, start: float | None) -> None:
    end = at(train)
    fold = Fold("fold-00", None if start is None else at(start), end, (end, end))
    other = scrambled(DATA, end)

    assert not other.frame.equals(DATA.frame)
    assert same(DATA.training(fold), other.training(fold))
    assert same(DATA.view(end), other.view(end))
    assert all(same(a, b) for a, b in zip(DATA.tests(fold), other.tests(fold), strict=True))
    cut = replace(DATA, frame=DATA.frame.filter(pl.col("ds") <= end), as_of=end)
    assert np.array_equal(cut.training(fold).base, DATA.training(fold).base, equal_nan=True)


@settings(max_examples=25, deadline=None)
@given(train=st.floats(0.3, 0.9))
def test_a_training_label_has_ended_by_the_end_of_training(train: float) -> None:
    end = at(train)
    view = DATA.training(Fold("fold-00", None, end, (end, end)))
    labels = view.labels

    assert labels is not None
    known = labels.y != UNKNOWN_LABEL
    assert known.any(axis=1).all()
    ends = view.times[view.rows[:, None] + np.where(known, labels.hold, 0)]
    assert (ends[known] <= stamp(end)).all()
    assert (labels.hold[~known] == 0).all()
    assert np.isnan(labels.ret[~known]).all()


def test_training_knows_exactly_the_labels_whose_horizon_is_over() -> None:
    end = at(0.6)
    view = DATA.training(Fold("fold-00", None, end, (end, end)))
    assert view.labels is not None
    got = {
        (DATA_SYMBOL[int(view.symbol[row])], view.times[row].item(), horizon): int(y)
        for row, values in zip(view.rows, view.labels.y, strict=True)
        for horizon, y in zip(HORIZONS, values, strict=True)
        if y != UNKNOWN_LABEL
    }
    # known is what had its whole horizon behind it: a label that ended early waits for its undecided neighbours
    ready = DATA.frame.filter(pl.Series(DATA.ready)).select("unique_id", "ds")
    lasts = [pl.col("ds").shift(-h).over("segment").alias(f"last_{h}") for h in HORIZONS]
    closed = DATA.truth().join(DATA.frame.select("unique_id", "ds", *lasts), on=["unique_id", "ds"])
    last = pl.coalesce(pl.when(pl.col("horizon") == h).then(pl.col(f"last_{h}")) for h in HORIZONS)
    closed = closed.filter(last <= end).join(ready, on=["unique_id", "ds"], how="semi")

    assert got == {(sid, ds, h): y for sid, ds, h, y in closed.select("unique_id", "ds", "horizon", "y").rows()}


DATA_SYMBOL = sorted(DATA.frame["unique_id"].unique().to_list())


# -- which decisions ---------------------------------------------------------------------------------------------------


def test_a_decision_has_its_lead_inside_its_segment() -> None:
    view = DATA.training(final_bar_fold(DATA, FoldPlan()))

    for row in view.rows:
        assert (view.segment[row - LEAD : row + 1] == view.segment[row]).all()
    assert int(DATA.ready.sum()) == sum(max(0, n - LEAD) for n in DATA.frame.group_by("segment").len()["len"])


def test_a_rolling_start_drops_decisions_but_keeps_the_bars_their_windows_read() -> None:
    start, end = at(0.4), at(0.7)
    view = DATA.training(Fold("fold-00", start, end, (end, end)))

    assert view.times[view.rows].min() >= stamp(start)
    assert view.times.min() == stamp(TIMES[0])


def test_a_test_span_is_decided_bar_by_bar_and_a_lone_cutoff_once_a_symbol() -> None:
    first, last = at(0.5), at(0.55)
    (span,) = DATA.tests(Fold("fold-00", None, at(0.45), (first, last)))
    (lone,) = DATA.tests(Fold("final", None, last, (last,)))
    inside = DATA.frame.filter(pl.Series(DATA.ready) & pl.col("ds").is_between(first, last))

    assert len(span.rows) == inside.height
    assert len(lone.rows) == len(lone.series)
    assert lone.series == sorted({lone.symbols[c] for c in lone.symbol[lone.rows]})


def test_a_symbol_without_recent_bars_gets_no_decision() -> None:
    stop = at(0.9)
    frame = DATA.frame.filter((pl.col("unique_id") != "BBB") | (pl.col("ds") <= stop))
    for bars, series in ((12, ["AAA", "BBB"]), (13, ["AAA"])):
        cutoff = TIMES[TIMES.index_of(stop) + bars]  # type: ignore[operator]
        assert replace(DATA, frame=frame, retire_after=12).view(cutoff).series == series


def test_labels_to_judge_with_are_all_known_at_the_as_of_date() -> None:
    first, last = at(0.5), at(0.8)
    view = DATA.labelled(first, last)
    truth = DATA.truth().filter(pl.col("ds").is_between(first, last))
    ready = DATA.frame.filter(pl.Series(DATA.ready)).select("unique_id", "ds")

    assert view.labels is not None
    assert int((view.labels.y != UNKNOWN_LABEL).sum()) == truth.join(ready, on=["unique_id", "ds"], how="semi").height


def test_truth_ends_each_label_hold_bars_after_its_decision_in_its_own_symbol() -> None:
    truth = DATA.truth()
    numbered = DATA.frame.with_columns(row=pl.int_range(pl.len()))
    for horizon in HORIZONS:
        names = label_columns(horizon)
        part = truth.filter(pl.col("horizon") == horizon).join(numbered, on=["unique_id", "ds"])
        ends = part.join(
            numbered.select("unique_id", "segment", pl.col("ds").alias("label_end"), pl.col("row").alias("end")),
            on=["unique_id", "segment", "label_end"],
        )
        assert ends.height == part.height
        assert (ends["end"] - ends["row"]).to_list() == ends[names["hold"]].to_list()


def test_folds_of_one_dataset_never_train_on_what_they_test() -> None:
    for fold in bar_folds(DATA, FoldPlan(cutoffs=300, refits=4, min_train=100)):
        training, test, _ = views_of(DATA, fold)
        learnt = set(zip(training.symbol[training.rows], training.times[training.rows].tolist(), strict=True))
        asked = set(zip(test.symbol[test.rows], test.times[test.rows].tolist(), strict=True))
        assert asked
        assert not learnt & asked


# -- what a view offers ------------------------------------------------------------------------------------------------


def test_a_view_lays_out_rows_by_symbol_and_time_with_features_as_floats() -> None:
    view = DATA.labelled(TIMES[0], TIMES[-1])
    order = np.lexsort((view.times, view.symbol))

    assert order.tolist() == list(range(len(order)))
    assert (view.base.dtype, view.bars.dtype, view.rows.dtype) == (np.float32, np.float64, np.int64)
    assert view.base.shape == (DATA.frame.height, len(DATA.columns))
    assert view.names == tuple(DATA.columns)
    assert (np.diff(view.rows) > 0).all()
    assert view.horizons == HORIZONS
    assert np.isnan(view.base[:, view.names.index("patchy")]).any()


def test_a_feature_set_names_its_columns_in_its_own_order() -> None:
    data = replace(DATA, sets={"two": ("return_4", "signal")})
    view = data.view(at(0.9))

    assert [view.names[i] for i in view.columns_of("two")] == ["return_4", "signal"]
    with pytest.raises(ConfigError, match="unknown feature set 'three'; expected one of two"):
        view.columns_of("three")


def test_a_cutoff_after_the_as_of_date_is_refused() -> None:
    with pytest.raises(ConfigError, match="lies after the as-of date"):
        DATA.view(DATA.as_of + timedelta(minutes=30))


# -- saving and hashing ------------------------------------------------------------------------------------------------


def test_a_dataset_comes_back_as_it_was(tmp_path: Path) -> None:
    data = replace(DATA, notes=(Note("gap", 3, "three bars are missing"),))
    data.save(tmp_path / "data")
    again = BarDataset.load(tmp_path / "data")
    fold = bar_folds(data, FoldPlan(cutoffs=200, refits=2, min_train=100))[1]

    assert again.hash == data.hash
    assert again.frame.equals(data.frame)
    assert (again.schema, again.labels, again.costs, again.notes) == (data.schema, data.labels, data.costs, data.notes)
    assert again.request_facts() == data.request_facts()
    assert all(same(a, b) for a, b in zip(views_of(data, fold), views_of(again, fold), strict=True))


@pytest.mark.parametrize(
    "change",
    [
        lambda d: replace(d, lead=d.lead + 1),
        lambda d: replace(d, as_of=d.as_of - timedelta(minutes=30)),
        lambda d: replace(d, retire_after=5),
        lambda d: replace(d, sets={"all": ("signal",)}),
        lambda d: replace(d, labels=d.labels.model_copy(update={"multiplier": 1.1})),
        lambda d: replace(d, costs=d.costs.model_copy(update={"fee_bps": 2.0})),
        lambda d: replace(d, schema=d.schema.model_copy(update={"max_gap": 1})),
        lambda d: replace(d, frame=d.frame.with_columns(pl.col("close") * (1 + 1e-12))),
        lambda d: replace(d, frame=d.frame.head(d.frame.height - 1)),
    ],
)
def test_whatever_changes_a_dataset_changes_its_hash(change: Callable[[BarDataset], BarDataset]) -> None:
    assert change(DATA).hash != DATA.hash


def test_notes_change_no_hash() -> None:
    assert replace(DATA, notes=(Note("gap", 3, "three bars are missing"),)).hash == DATA.hash == replace(DATA).hash
