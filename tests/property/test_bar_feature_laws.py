"""Laws of bar features, on bars as rough as markets make them: flat stretches, ties, bars without volume, gaps."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from nightcast.contracts.schema import BarsSchema
from nightcast.features.bars.catalog import BAR_FEATURES, build_bar_features
from nightcast.features.bars.sentry import bar_future_leaks

SCHEMA = BarsSchema(freq="5min")
SET = "boosting_optimal"
PRICES = ("open", "high", "low", "close")
LONGEST = max(its.warmup for its in BAR_FEATURES.values())
ROUND = settings(max_examples=12, deadline=None)


@st.composite
def markets(draw: st.DrawFn) -> pl.DataFrame:
    """One to three segments of one or two symbols; the first is long enough for every column."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    tick = draw(st.sampled_from([0.0, 0.01, 1.0]))
    scale = draw(st.sampled_from([1e-5, 2e-3, 5e-2]))
    idle = draw(st.sampled_from([0.0, 0.5]))
    parts = []
    for number, size in enumerate([LONGEST + 40, *draw(st.lists(st.integers(1, 80), max_size=2))]):
        moves = rng.normal(scale=scale, size=size)
        first = draw(st.integers(0, size - 1))
        moves[first : first + draw(st.integers(0, 60))] = 0.0
        close = np.maximum(100 * np.exp(np.cumsum(moves)), 1e-3)
        open_ = np.append(100.0, close[:-1])
        wick = np.abs(rng.normal(scale=scale, size=(2, size))) * (rng.random(size) > idle)
        prices = {
            "open": open_,
            "high": np.maximum(open_, close) * (1 + wick[0]),
            "low": np.minimum(open_, close) / (1 + wick[1]),
            "close": close,
        }
        if tick:
            prices = {name: np.maximum(np.round(its / tick), 1) * tick for name, its in prices.items()}
        start = np.datetime64("2024-03-01", "us") + np.timedelta64(number, "D") * 5
        parts.append(
            pl.DataFrame(
                {
                    "unique_id": "AAA" if number < 2 else "BBB",
                    "ds": start + np.arange(size) * np.timedelta64(5, "m"),
                    "segment": number,
                    "session": number,
                    **prices,
                    "volume": rng.exponential(1000, size) * (rng.random(size) > idle),
                }
            )
        )
    return pl.concat(parts)


def _built(frame: pl.DataFrame) -> pl.DataFrame:
    return build_bar_features(frame, [SET], SCHEMA)[0]


@ROUND
@given(markets())
def test_every_column_is_a_number_within_its_bounds_once_it_is_warm(frame: pl.DataFrame) -> None:
    made, columns, _ = build_bar_features(frame, [SET], SCHEMA)
    position = frame.select(pl.int_range(pl.len()).over("segment")).to_series()

    for name, its in columns.items():
        assert made.filter(position < its.warmup)[name].null_count() == (position < its.warmup).sum(), name
        warm = made.filter(position >= its.warmup)[name]
        assert warm.null_count() == 0, name
        bounds = BAR_FEATURES[name].bounds
        assert bounds is None or warm.is_between(bounds[0] - 1e-9, bounds[1] + 1e-9).all(), name


@ROUND
@given(markets(), st.floats(0.05, 0.95), st.integers(0, 100))
def test_noise_in_the_future_leaves_the_past_as_it_was_to_the_last_bit(
    frame: pl.DataFrame, share: float, seed: int
) -> None:
    cutoff = frame["ds"].sort()[int(share * frame.height)]

    assert bar_future_leaks(frame, [SET], SCHEMA, cutoff, seed) == []


@ROUND
@given(markets(), st.floats(0.05, 0.95))
def test_a_night_in_the_past_would_have_made_the_same_columns(frame: pl.DataFrame, share: float) -> None:
    known = pl.col("ds") <= frame["ds"].sort()[int(share * frame.height)]

    assert _built(frame).filter(known).equals(_built(frame.filter(known)))


@ROUND
@given(markets(), st.integers(0, 39))
def test_the_last_warm_up_bars_and_one_give_what_the_whole_history_gives(frame: pl.DataFrame, back: int) -> None:
    bars = frame.filter(pl.col("segment") == 0)
    known = bars.head(bars.height - back)
    whole = _built(known).row(-1, named=True)

    # every tail is a segment of its own
    warmups = sorted({its.warmup for its in BAR_FEATURES.values()})
    tails = [
        known.tail(warmup + 1).with_columns(pl.lit(number, dtype=pl.Int64).alias("segment"))
        for number, warmup in enumerate(warmups)
    ]
    rows = _built(pl.concat(tails)).group_by("segment", maintain_order=True).last().rows(named=True)
    few = dict(zip(warmups, rows, strict=True))
    for name, its in BAR_FEATURES.items():
        if name in whole:
            assert abs(few[its.warmup][name] - whole[name]) <= 1e-9 * max(1.0, abs(whole[name])), name


@ROUND
@given(markets(), st.integers(0, 2**32 - 1))
def test_another_segments_prices_change_nothing(frame: pl.DataFrame, seed: int) -> None:
    # Noise in every segment but one, before it as well as after it.
    rng = np.random.default_rng(seed)
    factor = pl.Series(np.exp(rng.normal(size=frame.height)))
    whole = _built(frame)

    for kept in frame["segment"].unique().sort():
        own = pl.col("segment") == kept
        other = frame.with_columns(
            pl.when(own).then(pl.col(name)).otherwise(pl.col(name) * factor).alias(name) for name in (*PRICES, "volume")
        )
        assert _built(other).filter(own).equals(whole.filter(own))


@ROUND
@given(markets())
def test_a_segment_alone_gives_what_it_gives_among_others(frame: pl.DataFrame) -> None:
    whole = _built(frame)

    for (_,), part in frame.group_by("segment", maintain_order=True):
        own = whole.filter(pl.col("segment") == part["segment"][0])
        assert own.equals(_built(part))


@ROUND
@given(markets(), st.integers(-7, 17))
def test_a_price_in_other_units_changes_nothing(frame: pl.DataFrame, power: int) -> None:
    # Powers of two, so that ties and thresholds stay what they are.
    other = frame.with_columns(pl.col(PRICES) * 2.0**power)

    one, two = _built(frame), _built(other)

    for name in one.columns[frame.width :]:
        assert one[name].is_null().equals(two[name].is_null())
        assert float((one[name] - two[name]).abs().max() or 0) <= 1e-9, name  # type: ignore[arg-type]


@ROUND
@given(markets(), st.integers(1, 500))
def test_only_the_calendar_reads_the_clock(frame: pl.DataFrame, hours: int) -> None:
    later = frame.with_columns(pl.col("ds") + timedelta(hours=hours))
    timeless = [name for name in BAR_FEATURES if not BAR_FEATURES[name].calendar and name != "raw_close"]

    assert _built(frame).select(timeless).equals(_built(later).select(timeless))
