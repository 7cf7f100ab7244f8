"""Laws of the gates: order does not matter, series do not infect one another, jumps are found wherever they are."""

from __future__ import annotations

import math
from datetime import datetime

import numpy as np
import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from expectations.diagnostics import raw_rows
from expectations.panel import RawThresholds, forecast_gate, raw_gate
from nightcast.contracts.columns import QUANTILES
from nightcast.contracts.frequency import Frequency
from nightcast.contracts.schema import PanelSchema
from nightcast.contracts.source import RawData

AS_OF = datetime(2020, 12, 1)
MONTH = Frequency.parse("MS")
SCHEMA = PanelSchema(freq="MS", horizon=6, lower=0.0)


def raw_of(frame: pl.DataFrame) -> RawData:
    return RawData(frame=frame, schema=SCHEMA, as_of=AS_OF, origin="made for the test")


def series_of(name: str, values: list[float | None]) -> pl.DataFrame:
    stamps = [MONTH.shift(AS_OF, i - len(values) + 1) for i in range(len(values))]
    schema = {"unique_id": pl.String, "ds": pl.Datetime("us"), "y": pl.Float64}
    frame = pl.DataFrame({"unique_id": [name] * len(values), "ds": stamps, "y": values}, schema=schema)
    return frame.with_columns(row_unparsable=pl.lit(False))


rates = st.one_of(st.none(), st.just(0.0), st.floats(-1.0, 1e4, allow_subnormal=False).map(lambda v: round(v, 3)))


@st.composite
def dirty_series(draw, name: str) -> pl.DataFrame:
    """A series with any mixture of faults."""
    frame = series_of(name, draw(st.lists(rates, min_size=1, max_size=20)))
    n = frame.height
    wrong = draw(st.lists(st.integers(0, n - 1), max_size=2))
    frame = frame.with_columns(row_unparsable=pl.int_range(pl.len()).is_in(wrong))
    dropped = draw(st.lists(st.integers(1, max(1, n - 1)), max_size=2))
    frame = frame.filter(~pl.int_range(pl.len()).is_in(dropped))
    again = draw(st.lists(st.integers(0, frame.height - 1), max_size=2))
    frame = pl.concat([frame, frame[again]])
    shift = draw(st.sampled_from(["0d", "0d", "0d", "9d", "20y"]))
    return frame.with_columns(pl.col("ds").dt.offset_by(shift))


def panels(names: str = "abc"):
    return st.tuples(*(dirty_series(name) for name in names)).map(list)


HEALTHY = series_of("healthy", [100.0 + (7 * i) % 11 for i in range(30)])


@settings(max_examples=8, deadline=None)
@given(parts=panels(), seed=st.integers(0, 1000))
def test_the_order_of_rows_and_series_does_not_change_the_raw_verdict(parts, seed):
    frame = pl.concat([*parts, HEALTHY])

    verdict = raw_gate(raw_of(frame))

    assert verdict.broken == ()
    assert raw_gate(raw_of(frame.sample(fraction=1.0, shuffle=True, seed=seed))) == verdict
    assert raw_gate(raw_of(pl.concat([HEALTHY, *reversed(parts)]))) == verdict


@settings(max_examples=8, deadline=None)
@given(parts=panels("ab"), intruder=dirty_series("intruder"))
def test_another_series_never_changes_the_findings_of_the_rest(parts, intruder):
    alone = raw_gate(raw_of(pl.concat([*parts, HEALTHY])))
    beside = raw_gate(raw_of(pl.concat([*parts, HEALTHY, intruder])))

    assert beside.series == alone.series + 1
    assert [f for f in beside.findings if f.series != "intruder"] == list(alone.findings)
    assert not [f for f in beside.findings if f.series == "healthy"]


@settings(max_examples=100, deadline=None)
@given(
    level=st.floats(1e-3, 1e6),
    length=st.integers(6, 60),
    where=st.floats(0, 1, exclude_max=True),
    seed=st.integers(0, 10_000),
)
def test_a_value_a_hundred_times_too_large_is_found_anywhere_in_a_series(level, length, where, seed):
    noise = np.random.default_rng(seed).lognormal(0.0, 0.3, length)
    values = (level * noise * np.exp(-np.arange(length) / 40)).tolist()
    at = int(where * length)
    corrupt = [value * 100 if i == at else value for i, value in enumerate(values)]

    assert jumps(values) == []
    assert jumps(corrupt) == [at]


def jumps(values: list[float]) -> list[int]:
    limits = RawThresholds()
    rows = raw_rows(raw_of(series_of("w", values)), neighbours=limits.spike_neighbours, spike_recent=None)
    return [i for i, spike in enumerate(rows["spike"]) if spike > limits.spike_ratio]


def reference_by_hand(values: list[float | None], at: int, neighbours: int) -> float | None:
    known = [(i, abs(v)) for i, v in enumerate(values) if v is not None and v >= 0]
    place = [i for i, _ in known].index(at)
    sizes = [size for _, size in known]
    near = [s for s in sizes[max(0, place - neighbours) : place] + sizes[place + 1 : place + 1 + neighbours] if s > 0]
    if len(near) >= 3:
        return max(near)
    others = sorted(s for i, s in enumerate(sizes) if i != place and s > 0)
    if len(others) < 2:
        return None
    return others[math.ceil(0.95 * (len(others) - 1))]


@settings(max_examples=150, deadline=None)
@given(values=st.lists(rates, min_size=1, max_size=40), neighbours=st.integers(2, 7))
def test_the_reference_of_a_value_is_what_the_definition_says(values, neighbours):
    frame = pl.concat([series_of("v", [5.0, 6.0, 7.0]), series_of("w", values), series_of("x", [1e5] * 3)])
    rows = raw_rows(raw_of(frame), neighbours=neighbours, spike_recent=None).filter(pl.col("unique_id") == "w")

    for at, (value, spike, reference) in enumerate(rows.select("y", "spike", "reference").rows()):
        if value is None or value <= 0:
            assert spike is None
            continue
        expected = reference_by_hand(values, at, neighbours)
        assert reference == expected
        assert spike == (None if expected is None else value / expected)


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 1000), dropped=st.integers(0, 11), bad=st.integers(0, 11))
def test_the_order_of_rows_does_not_change_the_forecast_verdict(seed, dropped, bad):
    keys = [(s, MONTH.shift(AS_OF, h)) for s in "abcd" for h in (1, 2, 3)]
    frame = (
        pl.DataFrame(keys, schema={"unique_id": pl.String, "ds": pl.Datetime("us")}, orient="row")
        .with_columns(*(pl.lit(10.0 + i).alias(name) for i, name in enumerate(QUANTILES)))
        .with_columns(model_used=pl.lit("m"), fallback_reason=pl.lit(None, dtype=pl.String))
        .with_columns(pl.when(pl.int_range(pl.len()) == bad).then(1e9).otherwise("q90").alias("q80"))
        .filter(pl.int_range(pl.len()) != dropped)
    )

    def verdict(forecast, promised):
        return forecast_gate(
            forecast, None, promised=promised, horizon=3, lower=0.0, history=HEALTHY.drop("row_unparsable"), budget=0.2
        )

    first = verdict(frame, list("abcd"))
    assert first.findings
    assert verdict(frame.sample(fraction=1.0, shuffle=True, seed=seed), list("dcba")) == first
