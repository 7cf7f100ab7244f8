"""What the gates of bars say: each fault is named, counted and answered in its own way."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from expectations.bar_diagnostics import bar_marks, stability_index
from expectations.bars import (
    BarThresholds,
    accepted_bars,
    bar_feature_gate,
    probability_gate,
    raw_bar_assets,
    raw_bar_suites,
    raw_bars_gate,
)
from expectations.docs import write_data_docs
from nightcast.contracts.bars import BarColumn, BarDataset, label_columns
from nightcast.contracts.columns import BAR_COLUMNS
from nightcast.contracts.errors import ConfigError, GateError
from nightcast.contracts.schema import BarsSchema, Calendar, CostPlan, LabelPlan
from nightcast.contracts.source import RawData
from nightcast.contracts.verdict import Verdict

DATA = Path(__file__).parents[2].parent / "shared" / "data"
START = datetime(2024, 1, 1)  # a Monday
STEP = timedelta(minutes=5)
N = 600
FEW = BarThresholds(min_bars=50)


def walk(symbol: str = "A", n: int = N, *, seed: int = 7, step: timedelta = STEP, sigma: float = 6e-4) -> pl.DataFrame:
    """A random walk of bars in order, with volume."""
    rng = np.random.default_rng(seed)
    close = 100 * np.exp(np.cumsum(sigma * rng.standard_t(5, n)))
    opened = np.concatenate([[100.0], close[:-1]])
    wick = 1 + sigma * rng.random((2, n))
    return pl.DataFrame(
        {
            "unique_id": [symbol] * n,
            "ds": [START + i * step for i in range(n)],
            "open": opened,
            "high": np.maximum(opened, close) * wick[0],
            "low": np.minimum(opened, close) / wick[1],
            "close": close,
            "volume": np.round(1000 * np.exp(0.3 * rng.standard_normal(n))),
        },
        schema_overrides={"ds": pl.Datetime("us")},
    ).with_columns(series_role=pl.lit("target"), row_unparsable=pl.lit(False))


def raw_of(frame: pl.DataFrame, *, freq: str = "5min", calendar: Calendar = "continuous") -> RawData:
    schema = BarsSchema(freq=freq, calendar=calendar)
    as_of = frame.filter(pl.col("ds") < datetime(2029, 1, 1))["ds"].max()
    return RawData(frame, schema, as_of, "made for the test")


def judge(frame: pl.DataFrame, *, budget: float = 1.0, limits: BarThresholds = FEW, **schema: Any) -> Verdict:
    verdict = raw_bars_gate(raw_of(frame, **schema), budget=budget, thresholds=limits)
    assert verdict.broken == ()
    return verdict


def said(verdict: Verdict) -> dict[tuple[str | None, str, str], int]:
    return {(its.series, its.severity, its.reason): its.rows for its in verdict.findings}


def at(row: int, **values: pl.Expr) -> Callable[[pl.DataFrame], pl.DataFrame]:
    """Put values into one row."""
    here = pl.int_range(pl.len()) == row

    def change(frame: pl.DataFrame) -> pl.DataFrame:
        return frame.with_columns(
            **{name: pl.when(here).then(value).otherwise(pl.col(name)) for name, value in values.items()}
        )

    return change


# --- raw -------------------------------------------------------------------------------------------------------------


def test_clean_bars_are_accepted_as_they_are() -> None:
    raw = raw_of(pl.concat([walk("B", seed=1), walk("A")]))

    verdict = raw_bars_gate(raw, thresholds=FEW)
    frame, notes = accepted_bars(raw, verdict, FEW)

    assert verdict.findings == ()
    assert notes == ()
    assert frame.equals(raw.frame.select("unique_id", "ds", *BAR_COLUMNS).sort("unique_id", "ds"))


@pytest.mark.parametrize(
    ("reason", "change"),
    [
        ("bad_time", at(300, ds=pl.lit(None, pl.Datetime("us")))),
        ("future_date", at(300, ds=pl.lit(datetime(2030, 1, 1)))),
        ("text_in_number", at(300, row_unparsable=pl.lit(True))),
        ("missing_price", at(300, open=pl.lit(None))),
        ("missing_price", at(300, high=pl.lit(float("nan")))),
        ("missing_price", at(300, high=pl.lit(float("inf")))),
        ("non_positive_price", at(300, low=pl.lit(0.0))),
        ("ohlc_order", at(300, high=pl.col("low") * 0.999)),
        ("ohlc_order", at(300, low=pl.col("close") * 1.001)),
        ("missing_volume", at(300, volume=pl.lit(None))),
        ("negative_volume", at(300, volume=pl.lit(-1.0))),
        ("bad_tick", at(300, close=pl.col("close") * 1.02, high=pl.col("high") * 1.02)),
        ("bad_tick", at(300, close=pl.col("close") * 0.98, low=pl.col("low") * 0.98)),
    ],
)
def test_a_faulty_row_is_masked_and_left_out(reason: str, change: Callable[[pl.DataFrame], pl.DataFrame]) -> None:
    raw = raw_of(walk().pipe(change))

    verdict = raw_bars_gate(raw, thresholds=FEW)
    frame, notes = accepted_bars(raw, verdict, FEW)

    assert said(verdict) == {("A", "mask", reason): 1}
    assert [(note.code, note.rows) for note in notes] == [(f"bars_masked_{reason}", 1)]
    assert frame["ds"].to_list() == walk().filter(pl.int_range(pl.len()) != 300)["ds"].to_list()


def test_float_noise_is_no_fault_of_order() -> None:
    noisy = walk().with_columns(high=pl.max_horizontal("open", "close") * (1 - 1e-12))

    assert said(judge(noisy)) == {}


def test_equal_copies_leave_one_bar_and_different_ones_none() -> None:
    clean = walk()
    twice = clean[[100, 200, 200]]
    other = clean[[300]].with_columns(pl.col("close", "high") * 1.001)
    raw = raw_of(pl.concat([clean, twice, other]))

    verdict = raw_bars_gate(raw, thresholds=FEW)
    frame, _ = accepted_bars(raw, verdict, FEW)

    assert said(verdict) == {("A", "mask", "duplicate_bar"): 3, ("A", "mask", "conflicting_bars"): 2}
    assert frame["ds"].to_list() == clean.filter(pl.int_range(pl.len()) != 300)["ds"].to_list()


def test_a_good_copy_survives_beside_a_faulty_one() -> None:
    clean = walk()
    faulty = clean[[300]].with_columns(high=pl.col("low") * 0.9)
    raw = raw_of(pl.concat([clean, faulty]))

    verdict = raw_bars_gate(raw, thresholds=FEW)

    assert said(verdict) == {("A", "mask", "ohlc_order"): 1}
    assert accepted_bars(raw, verdict, FEW)[0]["ds"].to_list() == clean["ds"].to_list()


def test_a_file_that_was_written_twice_is_read_once() -> None:
    raw = raw_of(pl.concat([walk(), walk()]))

    verdict = raw_bars_gate(raw, thresholds=FEW)

    assert said(verdict) == {("A", "mask", "duplicate_bar"): N}
    assert accepted_bars(raw, verdict, FEW)[0].height == N


def test_a_jump_that_stays_is_no_bad_tick() -> None:
    after = pl.int_range(pl.len()) >= 300
    prices = pl.col("open", "high", "low", "close")
    stays = walk().with_columns(pl.when(after).then(prices * 1.02).otherwise(prices))

    assert said(judge(stays)) == {}


def test_a_split_is_a_warning() -> None:
    after = pl.int_range(pl.len()) >= 300
    prices = pl.col("open", "high", "low", "close")

    verdict = judge(walk().with_columns(pl.when(after).then(prices / 2).otherwise(prices)))

    assert said(verdict) == {("A", "warn", "level_jump"): 1}
    assert "0.49" in verdict.findings[0].detail or "0.5" in verdict.findings[0].detail


def test_a_jump_that_many_trade_is_no_slip() -> None:
    spike = at(300, close=pl.col("close") * 1.02, high=pl.col("high") * 1.02, volume=pl.lit(50_000.0))

    assert said(judge(walk().pipe(spike))) == {}


def test_a_jump_of_the_last_bar_is_unconfirmed() -> None:
    last = walk().pipe(at(N - 1, close=pl.col("close") * 1.02, high=pl.col("high") * 1.02))

    assert said(judge(last)) == {("A", "warn", "unconfirmed_jump"): 0}


def test_one_tick_of_a_cheap_symbol_is_no_jump() -> None:
    rng = np.random.default_rng(1)
    close = pl.Series(0.05 + 0.001 * (rng.random(N) < 0.05))
    cheap = walk().with_columns(open=close, high=close, low=close, close=close)

    assert not [its for its in judge(cheap).findings if its.reason == "bad_tick"]


def test_a_feed_that_hangs_is_cut_after_its_first_bar() -> None:
    hangs = pl.int_range(pl.len()).is_between(301, 308)
    prices = {name: pl.when(hangs).then(pl.col(name).get(300)).otherwise(pl.col(name)) for name in BAR_COLUMNS[:4]}
    raw = raw_of(walk().with_columns(**prices))

    verdict = raw_bars_gate(raw, thresholds=FEW)

    assert said(verdict) == {("A", "mask", "stale_run"): 8}
    assert accepted_bars(raw, verdict, FEW)[0].height == N - 8


def test_a_short_standstill_without_trades_is_a_bar_like_any_other() -> None:
    still = pl.int_range(pl.len()).is_between(301, 320)
    held = {name: pl.when(still).then(pl.col("close").get(300)).otherwise(pl.col(name)) for name in BAR_COLUMNS[:4]}
    quiet = walk().with_columns(**held, volume=pl.when(still).then(0.0).otherwise("volume"))

    assert said(judge(quiet)) == {}
    assert said(judge(quiet, limits=FEW.model_copy(update={"flat_bars": 10}))) == {
        ("A", "mask", "stale_run"): 19,
        ("A", "warn", "gap"): 19,
    }


def test_bars_without_volume_are_a_warning_where_they_are_many() -> None:
    often = walk().with_columns(volume=pl.when(pl.int_range(pl.len()) % 5 == 0).then(0.0).otherwise("volume"))

    assert said(judge(often)) == {("A", "warn", "zero_volume"): 120}


@pytest.mark.parametrize(
    ("lost", "found"),
    [
        (range(300, 306), {}),
        (range(300, 330), {("A", "warn", "gap"): 30}),
        (range(200, 500), {("A", "quarantine", "too_many_gaps"): 300, ("A", "warn", "gap"): 300}),
    ],
)
def test_gaps_are_counted_by_the_clock(lost: range, found: dict[Any, int]) -> None:
    assert said(judge(walk().filter(~pl.int_range(pl.len()).is_in(list(lost))))) == found


def test_closes_of_the_calendar_are_no_gaps() -> None:
    weeks = walk(n=24 * 7 * 20, step=timedelta(hours=1))
    sessions = weeks.filter((pl.col("ds").dt.weekday() <= 5) & pl.col("ds").dt.hour().is_between(8, 19))
    holiday = sessions.filter(pl.col("ds").dt.date() != START.date() + timedelta(days=72))
    broken = holiday.filter(~pl.col("ds").is_between(START + timedelta(days=50, hours=8), START + timedelta(days=52)))
    silent = sessions.filter(
        ~pl.col("ds").is_between(START + timedelta(days=50), START + timedelta(days=64), closed="none")
    )

    assert said(judge(sessions, freq="h", calendar="weekdays")) == {}
    assert said(judge(holiday, freq="h", calendar="weekdays")) == {}
    assert said(judge(silent, freq="h", calendar="weekdays")).keys() == {("A", "warn", "gap")}
    pair = pl.concat([broken, holiday.with_columns(unique_id=pl.lit("B"))])
    assert said(judge(pair, freq="h", calendar="weekdays", limits=FEW.model_copy(update={"gap_share": 0.01}))) == {
        ("A", "warn", "gap"): 24
    }


def test_an_hour_of_summer_time_in_some_sessions_is_a_warning() -> None:
    weeks = walk(n=24 * 7 * 40, step=timedelta(hours=1))
    sessions = weeks.filter((pl.col("ds").dt.weekday() <= 5) & pl.col("ds").dt.hour().is_between(8, 19))
    late = pl.col("ds").is_between(START + timedelta(days=100), START + timedelta(days=120))
    shifted = sessions.with_columns(ds=pl.when(late).then(pl.col("ds") + timedelta(hours=1)).otherwise("ds"))

    assert said(judge(shifted, freq="h", calendar="weekdays")) == {("A", "warn", "off_hours"): 14}


def test_a_day_without_any_bar_of_the_market_is_a_holiday() -> None:
    days = walk(n=400, step=timedelta(days=1)).filter(pl.col("ds").dt.weekday() <= 5)
    holiday = days.filter(~pl.int_range(pl.len()).is_in([100, 150]))
    pair = pl.concat([holiday, holiday.with_columns(unique_id=pl.lit("B")).filter(pl.int_range(pl.len()) % 20 != 5)])

    assert said(judge(holiday, freq="D", calendar="business_days")) == {}
    assert said(judge(pair, freq="D", calendar="business_days")) == {("B", "warn", "gap"): 14}


def test_bars_of_another_length_than_declared_go_to_quarantine() -> None:
    assert said(judge(walk(), freq="min", calendar="weekdays")) == {("A", "quarantine", "wrong_frequency"): 0}


def test_bars_off_the_grid_are_a_warning() -> None:
    shifted = walk().with_columns(
        ds=pl.col("ds") + pl.when(pl.int_range(pl.len()) == 300).then(60).otherwise(0) * pl.duration(seconds=1)
    )
    later = walk().with_columns(ds=pl.col("ds") + timedelta(minutes=2))

    assert said(judge(shifted)) == {("A", "warn", "off_grid"): 1}
    assert said(judge(later)) == {}


def test_a_symbol_that_is_too_short_goes_to_quarantine() -> None:
    raw = raw_of(pl.concat([walk(), walk("B").tail(20)]))

    verdict = raw_bars_gate(raw, budget=0.5, thresholds=FEW)
    frame, notes = accepted_bars(raw, verdict, FEW)

    assert said(verdict) == {("B", "quarantine", "too_short"): 0}
    assert frame["unique_id"].unique().to_list() == ["A"]
    assert [(note.code, note.rows) for note in notes] == [("bars_in_quarantine", 20)]


@pytest.mark.parametrize(
    ("behind", "found"),
    [(3, {}), (4, {("B", "quarantine", "stale"): 0}), (12, {("B", "quarantine", "stale"): 0}), (13, {})],
)
def test_a_symbol_that_stops_before_the_market_goes_to_quarantine_until_it_is_retired(
    behind: int, found: dict[Any, int]
) -> None:
    assert said(judge(pl.concat([walk(), walk("B", n=N - behind)]))) == found


def test_a_feed_that_hangs_to_the_end_counts_as_stopped() -> None:
    hangs = pl.int_range(pl.len()) > N - 9
    prices = {name: pl.when(hangs).then(pl.col(name).get(N - 9)).otherwise(pl.col(name)) for name in BAR_COLUMNS[:4]}

    verdict = judge(pl.concat([walk(), walk("B").with_columns(**prices)]))

    assert said(verdict) == {("B", "mask", "stale_run"): 8, ("B", "quarantine", "stale"): 0}


def test_a_symbol_with_too_many_faulty_rows_goes_to_quarantine() -> None:
    dirty = walk().with_columns(
        high=pl.when(pl.int_range(pl.len()) % 10 == 0).then(pl.col("low") / 2).otherwise("high")
    )

    assert said(judge(dirty)) == {
        ("A", "quarantine", "many_masked"): 0,
        ("A", "mask", "ohlc_order"): 60,
        ("A", "warn", "gap"): 59,
    }


def test_a_market_without_a_usable_bar_stops_the_run() -> None:
    dead = judge(walk().with_columns(close=pl.lit(None, pl.Float64)))

    assert (None, "stop", "no_usable_bars") in said(dead)
    with pytest.raises(GateError, match="none of 1 symbols holds a usable bar"):
        dead.raise_if_stopped()


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        (walk().drop("volume"), "missing_column"),
        (walk().with_columns(pl.col("close").cast(pl.String)), "wrong_type"),
        (walk().with_columns(pl.col("ds").dt.replace_time_zone("UTC")), "wrong_type"),
        (walk().clear(), "empty_table"),
    ],
)
def test_a_table_that_is_no_bars_stops_the_run(frame: pl.DataFrame, reason: str) -> None:
    raw = RawData(frame, BarsSchema(freq="5min"), START + N * STEP, "made for the test")

    verdict = raw_bars_gate(raw)

    assert (None, "stop", reason) in said(verdict)
    with pytest.raises(GateError):
        accepted_bars(raw, verdict)


def test_rows_without_a_symbol_are_masked_and_counted() -> None:
    raw = raw_of(pl.concat([walk(), walk().head(4).with_columns(unique_id=pl.lit(None, pl.String))]))

    verdict = raw_bars_gate(raw, thresholds=FEW)

    assert said(verdict) == {(None, "mask", "missing_id"): 4}
    assert [(note.code, note.rows) for note in accepted_bars(raw, verdict, FEW)[1]] == [("rows_without_id_dropped", 4)]


def test_the_budget_stops_a_run_with_too_many_symbols_in_quarantine() -> None:
    with pytest.raises(GateError, match=r"1 of 2 symbols|1 of 2 series"):
        judge(pl.concat([walk(), walk("B").tail(20)]), budget=0.2).raise_if_stopped()
    with pytest.raises(ConfigError, match="budget"):
        raw_bars_gate(raw_of(walk()), budget=2)


def test_the_raw_gate_s_pages_can_be_written(tmp_path: Path) -> None:
    raw = raw_of(walk(n=100))

    page = write_data_docs(tmp_path / "docs", raw_bar_assets(raw, FEW), raw_bar_suites(FEW), title="bars")

    assert page.is_file()


@pytest.mark.parametrize("calendar", ["continuous", "globex", "rth"])
@pytest.mark.parametrize("volatility", ["on", "flat"])
def test_planted_dirt_is_found_and_little_else(calendar: str, volatility: str) -> None:
    from nightcast.sources.market.config import CALENDARS, MarketConfig
    from nightcast.sources.market.simulate import simulate_market

    found: dict[str, list[bool]] = {}
    false, rows = 0, 0
    for seed in (1, 2, 3):
        config = MarketConfig(bars=8000, dirt=4.0, calendar=calendar, volatility=volatility, seed=seed)  # type: ignore[arg-type]
        market = simulate_market(config)
        raw = raw_of(market.bars, calendar=CALENDARS[config.calendar])
        marked = bar_marks(raw, BarThresholds()).drop_nulls("mark").select("unique_id", "ds").unique()
        planted = market.ledger.filter(pl.col("open").is_not_null() | (pl.col("kind") == "duplicate_stamp"))
        hit = planted.join(marked.with_columns(hit=True), on=["unique_id", "ds"], how="left")
        for kind, its in hit.select("kind", pl.col("hit").fill_null(False)).iter_rows():
            found.setdefault(kind, []).append(its)
        false += marked.join(planted, on=["unique_id", "ds"], how="anti").height
        rows += market.bars.height

    for kind in ("duplicate_stamp", "ohlc_violation", "stale_run"):
        assert all(found[kind]), kind
    assert len(found["bad_tick"]) >= 10
    assert np.mean(found["bad_tick"]) >= 0.95
    assert false / rows <= 0.001


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("name", "freq", "calendar", "rows", "found"),
    [
        ("crypto_30m", "30min", "continuous", 271_584, {}),
        ("crypto_5m", "5min", "continuous", 141_864, {("RENDERUSDT", "warn", "level_jump"): 2}),
        ("fx_1h", "h", "weekdays", 322_818, {}),
        ("fx_5m", "5min", "weekdays", 40_606, {}),
        (
            "stocks_daily",
            "D",
            "business_days",
            58_650,
            {
                ("AOS", "mask", "ohlc_order"): 1,
                ("BAX", "warn", "level_jump"): 1,
                ("ES", "mask", "missing_price"): 1,
                ("EVHC", "quarantine", "too_short"): 0,
                ("WRK", "mask", "missing_price"): 1,
                ("WRK", "mask", "ohlc_order"): 1,
            },
        ),
    ],
)
def test_real_bars_pass_with_their_known_faults_named(
    name: str, freq: str, calendar: Calendar, rows: int, found: dict[Any, int]
) -> None:
    path = DATA / "market" / f"{name}.parquet"
    if not path.exists():
        pytest.skip(f"the real data set market/{name}.parquet is not beside the checkout")
    frame = pl.read_parquet(path).rename({"symbol": "unique_id", "ts": "ds"})
    if isinstance(frame.schema["ds"], pl.Datetime) and frame.schema["ds"].time_zone:
        frame = frame.with_columns(pl.col("ds").dt.replace_time_zone(None))
    raw = raw_of(frame.with_columns(pl.col("volume").cast(pl.Float64)), freq=freq, calendar=calendar)

    verdict = raw_bars_gate(raw)
    accepted, _ = accepted_bars(raw, verdict)

    assert said(verdict) == found
    assert accepted.height == rows


# --- features and labels ---------------------------------------------------------------------------------------------


def dataset_of(symbols: tuple[str, ...] = ("A", "B"), n: int = 4000, *, lead: int = 20) -> BarDataset:
    """A dataset with two features and sound labels at 1 and 5 bars, in sessions of 100 bars."""
    parts = []
    for number, symbol in enumerate(symbols):
        rng = np.random.default_rng(number)
        room = 99 - np.arange(n) % 100
        columns: dict[str, Any] = {"segment": np.full(n, number), "session": number * n + np.arange(n) // 100}
        columns |= {f"f{i}": rng.standard_normal(n).astype(np.float32) for i in range(2)}
        for horizon in (1, 5):
            names = label_columns(horizon)
            known = room >= horizon
            hold = rng.integers(1, horizon + 1, n)
            columns[names["y"]] = pl.Series(rng.integers(0, 3, n), dtype=pl.Int8).set(pl.Series(~known), None)
            columns[names["hold"]] = pl.Series(hold, dtype=pl.Int32).set(pl.Series(~known), None)
            columns[names["ret"]] = pl.Series(rng.normal(0, 1e-3, n)).set(pl.Series(~known), None)
            columns[names["width"]] = pl.Series(np.full(n, 1e-3))
            columns[names["ambiguous"]] = pl.Series(np.zeros(n, dtype=bool))
        parts.append(walk(symbol, n, seed=number).drop("series_role", "row_unparsable").with_columns(**columns))
    frame = pl.concat(parts)
    return BarDataset(
        frame=frame,
        schema=BarsSchema(freq="5min", horizons=(1, 5)),
        columns={"f0": BarColumn(block="momentum", warmup=lead), "f1": BarColumn(block="volatility", warmup=3)},
        sets={"both": ("f0", "f1")},
        as_of=frame["ds"].max(),
        lead=lead,
        labels=LabelPlan(),
        costs=CostPlan(),
    )


def changed(dataset: BarDataset, **columns: Any) -> BarDataset:
    return replace(dataset, frame=dataset.frame.with_columns(**columns))


def features(dataset: BarDataset, **limits: Any) -> dict[tuple[str | None, str, str], int]:
    verdict = bar_feature_gate(dataset, budget=1.0, drift_days=2, **limits)
    assert verdict.broken == ()
    assert verdict.gate == "features"
    return said(verdict)


def test_a_sound_dataset_passes_the_feature_gate() -> None:
    assert features(dataset_of()) == {}


NTH = pl.int_range(pl.len())


@pytest.mark.parametrize(
    ("columns", "found"),
    [
        ({"f0": pl.when(pl.int_range(pl.len()).over("unique_id") < 20).then(None).otherwise("f0")}, {}),
        ({"f0": pl.when(NTH % 15 == 0).then(None).otherwise("f0")}, {(None, "warn", "missing_after_warmup"): 0}),
        (
            {"f0": pl.when(NTH % 15 == 0).then(float("nan")).otherwise("f0")},
            {(None, "warn", "missing_after_warmup"): 0},
        ),
        ({"f0": pl.lit(2.5)}, {(None, "warn", "constant_feature"): 0}),
        ({"f0": pl.when(NTH == 2000).then(float("inf")).otherwise("f0")}, {("A", "quarantine", "infinite_value"): 1}),
        (
            {"f0": pl.lit(None, pl.Float32)},
            {
                (None, "warn", "empty_feature"): 0,
                (None, "warn", "missing_after_warmup"): 0,
                ("A", "quarantine", "features_missing"): 0,
                ("B", "quarantine", "features_missing"): 0,
            },
        ),
        (
            {"f1": pl.col("f1") + 3 * (pl.col("ds") > pl.col("ds").max() - timedelta(days=1))},
            {(None, "warn", "feature_drift"): 0},
        ),
        ({"label_5_ambiguous": NTH % 20 == 0}, {(None, "warn", "ambiguous_labels"): 0}),
        (
            {"label_5_y": pl.when(pl.col("label_5_y").is_not_null()).then(1).cast(pl.Int8)},
            {(None, "stop", "single_class"): 0, (None, "warn", "class_share"): 0},
        ),
        (
            {
                "label_5_y": pl.when((pl.col("label_5_y") == 0) & (NTH % 10 > 0))
                .then(1)
                .otherwise("label_5_y")
                .cast(pl.Int8)
            },
            {(None, "warn", "class_share"): 0},
        ),
        ({"label_1_y": pl.lit(None, pl.Int8)}, {(None, "stop", "no_labels"): 0, (None, "warn", "few_labels"): 0}),
        ({"label_5_hold": pl.col("label_5_hold").cast(pl.Int64) + 10}, {(None, "warn", "overlapping_labels"): 0}),
    ],
)
def test_each_fault_of_a_dataset_is_named(columns: dict[str, pl.Expr], found: dict[Any, int]) -> None:
    dataset = changed(dataset_of(), **columns)
    if "label_5_hold" in columns:  # longer lives within one long session
        dataset = changed(dataset, session=pl.col("segment"))
        dataset = changed(dataset, label_5_y=pl.when(NTH % 4000 < 3900).then("label_5_y"))

    assert features(dataset) == found


def test_a_label_past_a_close_stops_the_run() -> None:
    late = pl.col("session") != pl.col("session").shift(-1)
    dataset = changed(
        dataset_of(),
        label_1_y=pl.when(late).then(pl.lit(1, pl.Int8)).otherwise("label_1_y"),
        label_1_hold=pl.when(late).then(pl.lit(1, pl.Int32)).otherwise("label_1_hold"),
    )

    verdict = bar_feature_gate(dataset, drift_days=2)

    # The last bar of the last symbol is no close of `late`, which compares with the bar after it.
    assert said(verdict)[None, "stop", "label_past_close"] == 79
    with pytest.raises(GateError, match="label_past_close"):
        verdict.raise_if_stopped()


def test_a_symbol_without_a_warm_bar_goes_to_quarantine() -> None:
    dataset = dataset_of()
    cut = dataset.frame.filter((pl.col("unique_id") == "A") | (NTH < 4015))
    unknown = [pl.when(pl.col("unique_id") == "A").then(f"label_{h}_y").alias(f"label_{h}_y") for h in (1, 5)]
    short = replace(dataset, frame=cut.with_columns(unknown))

    assert features(short) == {("B", "quarantine", "too_short"): 0}


def test_more_features_than_the_labels_can_carry_are_a_warning() -> None:
    assert features(dataset_of(n=400), per_feature=500) == {(None, "warn", "few_labels"): 0}


def test_a_dataset_that_lacks_a_column_stops_the_run() -> None:
    dataset = dataset_of(n=300)

    for name in ("f0", "label_5_hold", "session"):
        assert (None, "stop", "missing_column") in features(replace(dataset, frame=dataset.frame.drop(name)))


def test_the_stability_index_is_zero_for_equal_samples_and_known_for_a_shift_between_two_bins() -> None:
    values = np.arange(1000.0)

    assert stability_index(values, values) == pytest.approx(0)
    # Half of the mass in each of two values against a share of 0.9 in the upper one.
    before, after = np.repeat([0.0, 1.0], [500, 500]), np.repeat([0.0, 1.0], [100, 900])
    assert stability_index(before, after) == pytest.approx(
        (0.1 - 0.5) * np.log(0.1 / 0.5) + (0.9 - 0.5) * np.log(0.9 / 0.5)
    )


# --- probabilities ---------------------------------------------------------------------------------------------------

DECIDED = datetime(2024, 3, 1, 12)
SYMBOLS = tuple("ABCDEFGHIJ")


def decisions(symbols: tuple[str, ...] = SYMBOLS, horizons: tuple[int, ...] = (1, 5)) -> pl.DataFrame:
    rng = np.random.default_rng(3)
    rows = []
    for symbol in symbols:
        for horizon in horizons:
            probability = rng.dirichlet([3, 3, 3])
            rows.append(
                (symbol, DECIDED, DECIDED, horizon, *probability, int(probability.argmax()) - 1, "lightgbm", None)
            )
    return pl.DataFrame(
        rows,
        schema={
            "unique_id": pl.String,
            "ds": pl.Datetime("us"),
            "cutoff": pl.Datetime("us"),
            "horizon": pl.Int32,
            "p_short": pl.Float64,
            "p_neutral": pl.Float64,
            "p_long": pl.Float64,
            "signal": pl.Int8,
            "model_used": pl.String,
            "fallback_reason": pl.String,
        },
        orient="row",
    )


def published(frame: pl.DataFrame, symbols: tuple[str, ...] = SYMBOLS) -> dict[tuple[str | None, str, str], int]:
    history = pl.DataFrame(
        {"unique_id": ["A"], "ds": [DECIDED], "y": [1.0]}, schema_overrides={"ds": pl.Datetime("us")}
    )
    verdict = probability_gate(
        frame,
        dataset=None,
        promised=symbols,
        horizon=5,
        lower=None,
        history=history,
        budget=1.0,
        horizons=(1, 5),
    )
    assert verdict.broken == ()
    assert verdict.gate == "forecast"
    return said(verdict)


def test_sound_decisions_pass() -> None:
    assert published(decisions()) == {}


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (at(0, p_long=pl.lit(float("nan"))), {("A", "quarantine", "no_probability"): 1}),
        (at(0, p_long=pl.lit(-0.1)), {("A", "quarantine", "no_probability"): 1}),
        (
            at(0, p_short=pl.lit(0.5), p_neutral=pl.lit(0.5), p_long=pl.lit(0.1)),
            {("A", "quarantine", "sum_not_one"): 1},
        ),
        (at(0, signal=pl.lit(2, pl.Int8)), {("A", "quarantine", "bad_signal"): 1}),
        (at(0, model_used=pl.lit(" ")), {("A", "quarantine", "no_model_named"): 1}),
        (at(0, cutoff=pl.lit(DECIDED - STEP)), {("A", "quarantine", "wrong_time"): 1}),
        (
            at(0, ds=pl.lit(DECIDED + STEP), cutoff=pl.lit(DECIDED + STEP)),
            {("A", "quarantine", "wrong_time"): 1},
        ),
        (
            at(0, horizon=pl.lit(3, pl.Int32)),
            {("A", "quarantine", "extra_rows"): 1, ("A", "quarantine", "missing_rows"): 0},
        ),
        (
            at(0, horizon=pl.lit(5, pl.Int32)),
            {("A", "quarantine", "duplicate_rows"): 2, ("A", "quarantine", "missing_rows"): 0},
        ),
        (
            at(0, fallback_reason=pl.lit("late"), signal=pl.lit(1, pl.Int8)),
            {("A", "quarantine", "fallback_with_position"): 1},
        ),
        (at(0, fallback_reason=pl.lit("late"), signal=pl.lit(0, pl.Int8)), {}),
        (lambda frame: frame.filter(pl.col("unique_id") != "C"), {("C", "quarantine", "missing_series"): 0}),
        (lambda frame: frame.slice(1), {("A", "quarantine", "missing_rows"): 0}),
        (
            lambda frame: pl.concat([frame, decisions(("Z",))]),
            {(None, "warn", "unpromised_series"): 0},
        ),
        (
            lambda frame: frame.with_columns(p_short=0.2, p_neutral=0.3, p_long=0.5),
            {(None, "warn", "collapsed"): 0},
        ),
        (
            lambda frame: frame.with_columns(signal=pl.lit(1, pl.Int8)),
            {(None, "warn", "one_sided"): 0},
        ),
        (
            lambda frame: frame.with_columns(fallback_reason=pl.lit("late"), signal=pl.lit(0, pl.Int8)),
            {(None, "warn", "many_fallbacks"): 10},
        ),
        (lambda frame: frame.drop("cutoff"), {(None, "stop", "missing_column"): 0}),
    ],
)
def test_each_fault_of_decisions_is_named(
    change: Callable[[pl.DataFrame], pl.DataFrame], found: dict[Any, int]
) -> None:
    assert published(change(decisions())) == found


def named(shares: tuple[float, float, float], strength: float, symbols: int = 100) -> pl.DataFrame:
    """Decisions whose most probable class falls on short, neutral, long in these shares, `strength` above others."""
    kinds = np.repeat(np.arange(3), [round(share * symbols) for share in shares])
    prior = np.array([0.2831, 0.3386, 0.3783])
    probs = np.array([(1 - strength) * prior + strength * np.eye(3)[kind] for kind in kinds])
    frame = decisions(tuple(f"S{i:03}" for i in range(symbols)), horizons=(1,))
    jitter = np.random.default_rng(0).uniform(0, 1e-3, symbols)
    return frame.with_columns(
        p_short=pl.Series(probs[:, 0] + jitter),
        p_neutral=pl.Series(probs[:, 1] - jitter),
        p_long=pl.Series(probs[:, 2]),
        signal=pl.lit(0, pl.Int8),
    )


def asked_of_classes(frame: pl.DataFrame, labels: tuple[int, int, int] = (2831, 3386, 3783)) -> list[str]:
    dataset = dataset_of(n=5000)
    y = pl.Series(np.resize(np.repeat(np.arange(3), labels), dataset.frame.height)).cast(pl.Int8)
    verdict = probability_gate(
        frame,
        dataset=replace(changed(dataset, label_1_y=y), as_of=DECIDED, schema=BarsSchema(freq="30min", horizons=(1,))),
        promised=tuple(frame["unique_id"].unique()),
        horizon=1,
        lower=None,
        history=pl.DataFrame(schema={"ds": pl.Datetime("us")}),
        horizons=(1,),
    )
    assert verdict.broken == ()
    return [finding.detail for finding in verdict.findings if finding.reason == "collapsed_classes"]


def test_ninety_five_percent_of_one_class_is_a_collapse_at_night_and_forty_thirty_thirty_is_none() -> None:
    (told,) = asked_of_classes(named((0.01, 0.04, 0.95), 0.6))

    assert "long 95% (prior 38%)" in told
    assert "mean probabilities lie 0.2" in told
    assert asked_of_classes(named((0.4, 0.3, 0.3), 0.6)) == []


def test_probabilities_too_alike_to_name_another_class_are_told_from_a_real_collapse_by_their_mean() -> None:
    (told,) = asked_of_classes(named((0.0, 0.0, 1.0), 0.0))

    assert float(re.findall(r"mean probabilities lie (\S+) nats", told)[0]) < 1e-3


def test_a_handful_of_symbols_has_no_shares_of_classes() -> None:
    assert asked_of_classes(named((0.0, 0.0, 1.0), 0.6, symbols=19)) == []


def test_few_symbols_may_agree() -> None:
    pair = decisions(("A", "B")).with_columns(p_short=0.2, p_neutral=0.3, p_long=0.5, signal=pl.lit(1, pl.Int8))

    assert published(pair, ("A", "B")) == {}


def test_horizons_that_do_not_fit_one_another_are_refused() -> None:
    for horizons, lower in (((1, 5, 9), None), ((), None), ((1, 5), 0.0)):
        with pytest.raises(ConfigError, match="horizons"):
            probability_gate(
                decisions(),
                dataset=None,
                promised=SYMBOLS,
                horizon=5,
                lower=lower,
                history=pl.DataFrame(schema={"ds": pl.Datetime("us")}),
                horizons=horizons,
            )


def test_a_decision_after_the_dataset_s_as_of_time_is_not_on_time() -> None:
    dataset = dataset_of(n=300)
    frame = decisions(("A",)).with_columns(ds=pl.lit(dataset.as_of + STEP), cutoff=pl.lit(dataset.as_of + STEP))

    verdict = probability_gate(
        frame,
        dataset=dataset,
        promised=("A",),
        horizon=5,
        lower=None,
        history=dataset.frame.select("unique_id", "ds", y="close"),
        horizons=(1, 5),
    )

    assert said(verdict) == {("A", "quarantine", "wrong_time"): 2}
