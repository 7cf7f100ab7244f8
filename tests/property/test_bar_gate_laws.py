"""Laws of the gates of bars: order does not matter, accepting twice is accepting once, no row is lost uncounted."""

from __future__ import annotations

from datetime import datetime, timedelta

import numpy as np
import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from expectations.bar_diagnostics import MARKS, bar_marks
from expectations.bars import BarThresholds, accepted_bars, raw_bars_gate
from nightcast.contracts.columns import BAR_COLUMNS
from nightcast.contracts.schema import BarsSchema
from nightcast.contracts.source import RawData

START = datetime(2024, 1, 1)
STEP = timedelta(hours=1)
LIMITS = BarThresholds(min_bars=10, behind_bars=3, retire_after=6)
COLUMNS = ["unique_id", "ds", *BAR_COLUMNS]
FAULTS = ("none", "spike", "order", "zero", "null", "nan", "no_time", "future", "text", "twice", "twice_other", "hang")


@st.composite
def dirty_bars(draw: st.DrawFn, name: str) -> pl.DataFrame:
    """A walk of bars with any mixture of faults, of any length."""
    n = draw(st.integers(1, 120))
    rng = np.random.default_rng(draw(st.integers(0, 1000)))
    close = 50 * np.exp(np.cumsum(1e-3 * rng.standard_normal(n)))
    opened = np.concatenate([[50.0], close[:-1]])
    high, low = np.maximum(opened, close) * 1.0002, np.minimum(opened, close) * 0.9998
    rows = [
        [START + i * STEP, opened[i], high[i], low[i], close[i], float(rng.integers(0, 50)), False] for i in range(n)
    ]
    extra = []
    for fault in draw(st.lists(st.sampled_from(FAULTS), max_size=8)):
        row = rows[at := draw(st.integers(0, n - 1))]
        if None in row[1:6] and fault in ("spike", "order"):
            continue
        if fault == "spike":
            row[4] *= draw(st.sampled_from([0.9, 0.97, 1.03, 1.1]))
            row[2], row[3] = max(row[2], row[4]), min(row[3], row[4])
        elif fault == "order":
            row[2] = row[3] * 0.99
        elif fault in ("zero", "null", "nan"):
            row[draw(st.integers(1, 5))] = {"zero": 0.0, "null": None, "nan": float("nan")}[fault]
        elif fault in ("no_time", "future"):
            row[0] = None if fault == "no_time" else datetime(2031, 1, 1)
        elif fault == "text":
            row[6] = True
        elif fault in ("twice", "twice_other"):
            extra.append([*row[:5], 7.0 if fault == "twice_other" else row[5], row[6]])
        elif fault == "hang":
            for later in rows[at + 1 : at + 9]:
                later[1:5] = row[1:5]
    if draw(st.booleans()):
        del rows[n // 3 : n // 2]
    schema = {"ds": pl.Datetime("us"), **dict.fromkeys(BAR_COLUMNS, pl.Float64), "row_unparsable": pl.Boolean}
    frame = pl.DataFrame([*rows, *extra], schema=schema, orient="row")
    return frame.select(pl.lit(name, pl.String).alias("unique_id"), pl.all())


def markets(names: str = "abc") -> st.SearchStrategy[list[pl.DataFrame]]:
    return st.tuples(*(dirty_bars(name) for name in names)).map(list)


def raw_of(frame: pl.DataFrame) -> RawData:
    return RawData(frame, BarsSchema(freq="h"), START + 119 * STEP, "made for the test")


def accept(raw: RawData) -> tuple[pl.DataFrame, int]:
    """Accepted bars, and the rows that the notes count."""
    verdict = raw_bars_gate(raw, budget=1.0, thresholds=LIMITS)
    assert verdict.broken == ()
    frame, notes = accepted_bars(raw, verdict, LIMITS)
    return frame, sum(note.rows for note in notes)


@settings(max_examples=5, deadline=None)
@given(parts=markets(), seed=st.integers(0, 1000))
def test_the_order_of_rows_and_symbols_changes_neither_verdict_nor_bars(parts: list[pl.DataFrame], seed: int) -> None:
    raw = raw_of(pl.concat(parts))
    shuffled = raw_of(raw.frame.sample(fraction=1.0, shuffle=True, seed=seed))
    verdict = raw_bars_gate(raw, budget=1.0, thresholds=LIMITS)

    assert verdict.broken == ()
    assert raw_bars_gate(shuffled, budget=1.0, thresholds=LIMITS) == verdict
    if not any(finding.severity == "stop" for finding in verdict.findings):
        assert accept(shuffled)[0].equals(accept(raw)[0])


@settings(max_examples=10, deadline=None)
@given(parts=markets("ab"))
def test_what_is_accepted_is_accepted_again_as_it_is(parts: list[pl.DataFrame]) -> None:
    healthy = pl.DataFrame({"ds": [START + i * STEP for i in range(120)]}).select(
        pl.lit("z").alias("unique_id"),
        pl.col("ds").cast(pl.Datetime("us")),
        *(
            pl.lit(value).alias(name) + pl.int_range(pl.len()) * 0.01
            for name, value in zip(BAR_COLUMNS, (9.0, 9.5, 8.5, 9.0, 5.0), strict=True)
        ),
        pl.lit(False).alias("row_unparsable"),
    )
    once, _ = accept(raw_of(pl.concat([*parts, healthy])))

    again, counted = accept(raw_of(once))

    assert again.equals(once)
    assert counted == 0


@settings(max_examples=12, deadline=None)
@given(parts=markets("ab"), nameless=st.integers(0, 3))
def test_every_row_is_accepted_or_counted_once(parts: list[pl.DataFrame], nameless: int) -> None:
    unnamed = parts[0].head(nameless).with_columns(unique_id=pl.lit(None, pl.String))
    raw = raw_of(pl.concat([*parts, unnamed]))
    verdict = raw_bars_gate(raw, budget=1.0, thresholds=LIMITS)
    if any(finding.severity == "stop" for finding in verdict.findings):
        return

    frame, counted = accept(raw)
    masked = sum(
        its.rows for its in verdict.findings if its.severity == "mask" and its.series not in verdict.quarantined
    )
    away = raw.frame.filter(pl.col("unique_id").is_in(list(verdict.quarantined))).height

    assert frame.height + counted == raw.frame.height
    assert frame.height + masked + away == raw.frame.height


@settings(max_examples=50, deadline=None)
@given(part=dirty_bars("a"))
def test_usable_bars_are_unique_complete_and_in_order(part: pl.DataFrame) -> None:
    raw = raw_of(part)
    marks = bar_marks(raw, LIMITS)
    usable = marks.filter(pl.col("mark").is_null())

    assert set(marks.get_column("mark").drop_nulls()) <= set(MARKS)
    assert marks.height == part.height
    assert not usable.select("unique_id", "ds").is_duplicated().any()
    assert usable.select(COLUMNS).null_count().sum_horizontal().item() == 0
    assert usable.filter(
        (pl.col("high") < pl.max_horizontal("open", "low", "close") * (1 - 1e-9))
        | (pl.col("low") > pl.min_horizontal("open", "high", "close") * (1 + 1e-9))
        | (pl.min_horizontal(BAR_COLUMNS[:4]) <= 0)
        | (pl.col("ds") > raw.as_of)
    ).is_empty()


@settings(max_examples=50, deadline=None)
@given(part=dirty_bars("a"), factor=st.sampled_from([0.25, 8.0, 1024.0]))
def test_the_scale_of_prices_does_not_change_what_is_usable(part: pl.DataFrame, factor: float) -> None:
    scaled = part.with_columns(pl.col(BAR_COLUMNS[:4]) * factor)

    assert bar_marks(raw_of(scaled), LIMITS)["mark"].to_list() == bar_marks(raw_of(part), LIMITS)["mark"].to_list()


@settings(max_examples=25, deadline=None)
@given(parts=markets("ab"))
def test_symbols_do_not_infect_one_another(parts: list[pl.DataFrame]) -> None:
    together = bar_marks(raw_of(pl.concat(parts)), LIMITS)

    for name, part in zip("ab", parts, strict=True):
        alone = bar_marks(raw_of(part), LIMITS)
        assert together.filter(pl.col("unique_id") == name)["mark"].to_list() == alone["mark"].to_list()
