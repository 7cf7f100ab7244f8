"""Laws of labels and weights: the compiled loops against slow ones, no look beyond the end, no crossing of borders."""

from __future__ import annotations

import math
from datetime import datetime, timedelta

import numpy as np
import pandas as pd
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from nightcast.contracts.bars import label_columns
from nightcast.contracts.schema import BarsSchema, LabelPlan
from nightcast.features.labels import SIGMA, triple_barrier
from nightcast.features.segments import segmented
from nightcast.features.weights import (
    concurrency,
    return_attribution,
    sample_weights,
    sequential_bootstrap,
    time_decay,
    uniqueness,
)

START = datetime(2024, 1, 5, 12)
"""A Friday."""
Label = tuple[int | None, int | None, float | None, bool | None]


@st.composite
def markets(draw: st.DrawFn) -> tuple[pl.DataFrame, BarsSchema]:
    """Segmented bars of one to three symbols, with gaps, closes, missing prices and jumps beyond barriers."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    dirty = draw(st.booleans())
    frames = []
    for symbol in range(draw(st.integers(1, 3))):
        size = draw(st.integers(1, 90))
        steps = 1 + np.where(rng.random(size) < 0.08, rng.integers(1, 8, size), 0)
        close = 100 * np.exp(np.cumsum(rng.normal(scale=0.01, size=size)))
        open_ = np.append(100.0, close[:-1]) * np.exp(rng.normal(scale=0.004, size=size))
        high = np.maximum(open_, close) * np.exp(np.abs(rng.normal(scale=0.006, size=size)))
        low = np.minimum(open_, close) * np.exp(-np.abs(rng.normal(scale=0.006, size=size)))
        prices = {"open": open_, "high": high, "low": low, "close": close}
        if dirty:
            for values in prices.values():
                values[rng.random(size) < 0.01] = np.nan
        times = [START + timedelta(hours=int(k)) for k in np.cumsum(steps)]
        frames.append(pl.DataFrame({"unique_id": f"S{symbol}", "ds": times, **prices, "volume": 1.0}))
    schema = BarsSchema(
        freq="h",
        horizons=tuple(sorted(draw(st.sets(st.integers(1, 12), min_size=1, max_size=3)))),
        calendar=draw(st.sampled_from(["continuous", "weekdays"])),
        max_gap=draw(st.integers(0, 4)),
    )
    frame = pl.concat(frames).with_columns(pl.selectors.float().fill_nan(None), pl.col("ds").cast(pl.Datetime("us")))
    return segmented(frame, schema)[0], schema


plans = st.builds(
    LabelPlan,
    barrier=st.sampled_from(["volatility", "fixed", "adaptive"]),
    multiplier=st.floats(0.2, 3),
    threshold=st.floats(0.002, 0.05),
    minimum=st.floats(0.002, 0.03),
    span=st.integers(2, 30),
    ambiguous=st.sampled_from(["neutral", "worst"]),
)


def slow_label(rows: list[dict[str, float | None]], t: int, horizon: int, width: float | None, worst: bool) -> Label:
    """One label, by the words of the documentation, bar by bar."""
    unknown: Label = (None, None, None, None)
    path = rows[t + 1 : t + 1 + horizon]
    if width is None or len(path) < horizon or any(bar["session"] != rows[t]["session"] for bar in path):
        return unknown
    if any(bar[name] is None for bar in path for name in ("open", "high", "low", "close")):
        return unknown
    entry: float = path[0]["open"]  # type: ignore[assignment]
    upper, lower = entry * (1 + width), entry * (1 - width)
    for number, bar in enumerate(path, start=1):
        open_, high, low, close = (bar[name] or 0.0 for name in ("open", "high", "low", "close"))
        if number > 1 and (open_ >= upper or open_ <= lower):
            return (2 if open_ >= upper else 0), number, open_ / entry - 1, False
        if high >= upper and low <= lower:
            if worst and close != entry:
                return (0, number, -width, True) if close > entry else (2, number, width, True)
            return 1, number, min(max(close / entry - 1, -width), width), True
        if high >= upper:
            return 2, number, width, False
        if low <= lower:
            return 0, number, -width, False
    last: float = path[-1]["close"]  # type: ignore[assignment]
    return 1, horizon, last / entry - 1, False


def slow_sigma(frame: pl.DataFrame, span: int) -> NDArray[np.float64]:
    """Pandas' exponentially weighted deviation, segment by segment, of the returns inside sessions."""
    out = []
    for _, part in frame.group_by("segment", maintain_order=True):
        close = part["close"].to_pandas()
        session = part["session"].to_pandas()
        r = np.log(close / close.shift(1)).where(session == session.shift(1))
        deviation = r.ewm(span=span, ignore_na=True, min_periods=min(span, 20)).std().ffill()
        broken = part.select("open", "high", "low", "close").to_pandas().isna().any(axis=1)
        out.append(deviation.where(~broken).to_numpy())
    return np.concatenate(out)


@settings(max_examples=60, deadline=None)
@given(market=markets(), plan=plans)
def test_labels_equal_those_of_a_slow_loop(market: tuple[pl.DataFrame, BarsSchema], plan: LabelPlan) -> None:
    frame, schema = market

    out = triple_barrier(frame, schema, plan)

    sigma = out[SIGMA].fill_null(math.nan).to_numpy()
    np.testing.assert_allclose(sigma, slow_sigma(frame, plan.span), rtol=1e-9, atol=1e-15)
    rows = frame.to_dicts()
    for horizon in schema.horizons:
        names = label_columns(horizon)
        width = plan.multiplier * sigma * math.sqrt(horizon)
        if plan.barrier == "fixed":
            width = np.full(len(sigma), plan.threshold)
        elif plan.barrier == "adaptive":
            width = np.maximum(width, plan.minimum)
        width = np.where(sigma > 0, width, np.nan)
        found = out.select(names[name] for name in ("y", "hold", "ret", "ambiguous")).rows()
        for t in range(frame.height):
            known = None if math.isnan(width[t]) else float(width[t])
            assert out[names["width"]][t] == known
            expected = slow_label(rows, t, horizon, known, plan.ambiguous == "worst")
            assert found[t] == pytest.approx(expected, abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(market=markets(), plan=plans, seed=st.integers(0, 2**32 - 1), data=st.data())
def test_no_label_looks_beyond_its_end(
    market: tuple[pl.DataFrame, BarsSchema], plan: LabelPlan, seed: int, data: st.DataObject
) -> None:
    frame, schema = market
    t1 = data.draw(st.integers(0, frame.height - 1))
    rng = np.random.default_rng(seed)
    later = pl.int_range(pl.len()) > t1
    factor = pl.Series(np.exp(rng.normal(scale=0.2, size=frame.height)))
    scrambled = frame.with_columns(
        pl.when(later).then(pl.col(name) * factor).otherwise(name).alias(name)
        for name in ("open", "high", "low", "close", "volume")
    )

    before, after = (triple_barrier(f, schema, plan) for f in (frame, scrambled))

    assert before[SIGMA].head(t1 + 1).equals(after[SIGMA].head(t1 + 1), null_equal=True)
    for horizon in schema.horizons:
        names = list(label_columns(horizon).values())
        ended = (pl.int_range(pl.len()) + pl.col(names[1]) <= t1).fill_null(False)
        kept = before.select(ended).to_series()
        assert before.filter(kept).select(names).equals(after.filter(kept).select(names))


@settings(max_examples=60, deadline=None)
@given(market=markets(), plan=plans)
def test_labels_stay_in_their_session_segment_and_symbol(
    market: tuple[pl.DataFrame, BarsSchema], plan: LabelPlan
) -> None:
    frame, schema = market

    out = triple_barrier(frame, schema, plan)

    for horizon in schema.horizons:
        names = label_columns(horizon)
        rows = np.flatnonzero(out[names["y"]].is_not_null())
        hold = out[names["hold"]].drop_nulls().to_numpy()
        assert ((hold >= 1) & (hold <= horizon)).all()
        for column in ("session", "segment", "unique_id"):
            values = out[column].rle_id().to_numpy()
            assert (values[rows + hold] == values[rows]).all()
            assert (values[rows + horizon] == values[rows]).all()
        kept = out.drop_nulls(names["y"])
        size, width = kept[names["ret"]].abs(), kept[names["width"]]
        neutral = kept[names["y"]] == 1
        assert (size <= width).filter(neutral).all()
        assert (size >= width).filter(~neutral).all()
        assert (kept[names["ret"]] > 0).filter(kept[names["y"]] == 2).all()
        assert (kept[names["ret"]] < 0).filter(kept[names["y"]] == 0).all()


@settings(max_examples=40, deadline=None)
@given(market=markets(), plan=plans)
def test_a_symbol_is_labelled_as_if_it_were_alone(market: tuple[pl.DataFrame, BarsSchema], plan: LabelPlan) -> None:
    frame, schema = market

    together = triple_barrier(frame, schema, plan)

    alone = [triple_barrier(part, schema, plan) for _, part in frame.group_by("unique_id", maintain_order=True)]
    assert together.equals(pl.concat(alone))


# -- weights ----------------------------------------------------------------------------------------------------------


@st.composite
def overlapping(draw: st.DrawFn) -> tuple[NDArray[np.int64], NDArray[np.int32], int]:
    """Rows in any order, what their labels hold, and the number of bars."""
    total = draw(st.integers(2, 80))
    rows = draw(st.lists(st.integers(0, total - 2), min_size=1, max_size=60))
    hold = [draw(st.integers(1, min(12, total - 1 - row))) for row in rows]
    return np.array(rows, dtype=np.int64), np.array(hold, dtype=np.int32), total


def slow_weights(
    rows: NDArray[np.int64], hold: NDArray[np.int32], total: int, returns: NDArray[np.float64]
) -> tuple[list[int], list[float], list[float]]:
    """Concurrency, uniqueness and attribution before its clip, label by label and bar by bar."""
    count = [0] * total
    for row, length in zip(rows, hold, strict=True):
        for t in range(row + 1, row + length + 1):
            count[t] += 1
    spans = [range(row + 1, row + length + 1) for row, length in zip(rows, hold, strict=True)]
    unique = [sum(1 / count[t] for t in span) / len(span) for span in spans]
    owed = [abs(sum(returns[t] / count[t] for t in span)) for span in spans]
    return count, unique, owed


@settings(max_examples=100, deadline=None)
@given(labels=overlapping(), seed=st.integers(0, 1000))
def test_concurrency_uniqueness_and_attribution_equal_slow_loops(
    labels: tuple[NDArray[np.int64], NDArray[np.int32], int], seed: int
) -> None:
    rows, hold, total = labels
    returns = np.random.default_rng(seed).normal(size=total)

    count, unique, owed = slow_weights(rows, hold, total, returns)

    assert concurrency(rows, hold, total).tolist() == count
    np.testing.assert_allclose(uniqueness(rows, hold, total), unique, rtol=0, atol=1e-12)
    np.testing.assert_allclose(
        return_attribution(rows, hold, returns), np.minimum(owed, np.quantile(owed, 0.99)), rtol=0, atol=1e-12
    )


@given(rows=st.sets(st.integers(0, 98), min_size=1))
def test_labels_of_one_bar_are_unique(rows: set[int]) -> None:
    row = np.array(sorted(rows))

    assert (uniqueness(row, np.ones(len(row), dtype=np.int32), 100) == 1).all()


@given(hold=st.integers(1, 20), blocks=st.integers(3, 6))
def test_labels_of_constant_length_share_their_bars_equally_inside(hold: int, blocks: int) -> None:
    rows = np.arange(hold * blocks)

    found = uniqueness(rows, np.full(len(rows), hold, dtype=np.int32), hold * (blocks + 1))

    inside = found[hold - 1 : len(rows) - hold + 1]
    np.testing.assert_allclose(inside, 1 / hold, atol=1e-12)
    assert (found >= 1 / hold - 1e-12).all()


@given(labels=overlapping())
def test_the_shares_of_all_labels_in_a_block_sum_to_its_length(
    labels: tuple[NDArray[np.int64], NDArray[np.int32], int],
) -> None:
    """Uniqueness times length is what a label has for itself; together they have the bars they cover."""
    rows, hold, total = labels

    own = uniqueness(rows, hold, total) * hold

    assert own.sum() == pytest.approx((concurrency(rows, hold, total) > 0).sum())


@given(labels=overlapping(), seed=st.integers(0, 1000), decay=st.floats(0.05, 1), attributed=st.booleans())
def test_weights_have_mean_one_and_do_not_depend_on_the_order_of_the_decisions(
    labels: tuple[NDArray[np.int64], NDArray[np.int32], int], seed: int, decay: float, attributed: bool
) -> None:
    rows, hold, total = labels
    rng = np.random.default_rng(seed)
    returns = rng.normal(size=total) if attributed else None
    # two symbols one after another share their times
    times = np.datetime64("2024-01-01", "us") + (np.arange(total) % (total // 2 + 1)) * np.timedelta64(1, "h")
    order = rng.permutation(len(rows))

    found = sample_weights(rows, hold, returns, times=times, decay=decay)
    shuffled = sample_weights(rows[order], hold[order], returns, times=times, decay=decay)

    assert found.mean() == pytest.approx(1)
    assert (found >= 0).all()
    np.testing.assert_allclose(found[order], shuffled, rtol=1e-9, atol=1e-12)


@given(unique=st.lists(st.floats(0.05, 1), min_size=2, max_size=40), decay=st.floats(0, 1))
def test_the_newest_decision_weighs_one_and_the_oldest_the_decay(unique: list[float], decay: float) -> None:
    times = np.datetime64("2024-01-01", "us") + np.arange(len(unique)) * np.timedelta64(1, "h")

    found = time_decay(unique, times, decay=decay)

    assert found[0] == pytest.approx(decay)
    assert found[-1] == 1
    assert (np.diff(found) >= -1e-15).all()


@settings(max_examples=30, deadline=None)
@given(labels=overlapping(), seed=st.integers(0, 1000))
def test_the_sequential_bootstrap_equals_a_slow_one(
    labels: tuple[NDArray[np.int64], NDArray[np.int32], int], seed: int
) -> None:
    rows, hold, total = labels
    rng = np.random.default_rng(seed)
    order = np.argsort(rows, kind="stable")
    count, expected = np.zeros(total), []
    for _ in range(len(rows)):
        average = np.array([np.mean(1 / (1 + count[rows[i] + 1 : rows[i] + hold[i] + 1])) for i in order])
        grown = np.cumsum(average)
        pick = order[min(np.searchsorted(grown, rng.random() * grown[-1], side="right"), len(rows) - 1)]
        count[rows[pick] + 1 : rows[pick] + hold[pick] + 1] += 1
        expected.append(pick)

    assert sequential_bootstrap(rows, hold, total, seed=seed).tolist() == expected


def test_the_slow_volatility_is_one_of_pandas() -> None:
    """Guards the oracle itself: a known deviation of known returns."""
    close = pl.Series(100 * np.exp(np.cumsum([0.0, 0.01, -0.01, 0.02])))
    frame = pl.DataFrame({"segment": 0, "session": 0, **dict.fromkeys(("open", "high", "low", "close"), close)})

    r = pd.Series([0.01, -0.01, 0.02])
    assert slow_sigma(frame, 3)[-1] == pytest.approx(r.ewm(span=3).std().iloc[-1])
