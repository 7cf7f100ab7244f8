"""Bars from files: recognised columns, inferred step and calendar, the as-of bar, and errors people can act on."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from nightcast.contracts.columns import BAR_COLUMNS
from nightcast.contracts.errors import ConfigError, SourceError
from nightcast.contracts.source import RawData
from nightcast.sources.bar_files import BarFiles
from nightcast.sources.catalog import GeneratedOrFiles, open_source
from nightcast.sources.spec import WorkloadFile, load_workload_file
from workloads.catalog import workload_path

DATA = Path(__file__).parents[2].parent / "shared" / "data"
NOW = datetime(2026, 1, 1)
START = datetime(2024, 1, 1)  # a Monday
RAW_COLUMNS = ["unique_id", "ds", *BAR_COLUMNS, "series_role", "row_unparsable"]


def bars(
    symbol: str = "A", n: int = 60, step: timedelta = timedelta(minutes=30), start: datetime = START
) -> pl.DataFrame:
    """Bars that rise by one a step, under the names of the vocabulary's neighbours."""
    close = [100.0 + i for i in range(n)]
    return pl.DataFrame(
        {
            "symbol": [symbol] * n,
            "ts": [start + i * step for i in range(n)],
            "open": close,
            "high": [price + 1 for price in close],
            "low": [price - 1 for price in close],
            "close": close,
            "volume": [10] * n,
        },
        schema_overrides={"ts": pl.Datetime("us")},
    )


def files(folder: Path, **spec: Any) -> BarFiles:
    return BarFiles(WorkloadFile.model_validate({"name": "mine", "kind": "bars", "source": {}, **spec}), folder)


def read(
    folder: Path, frame: pl.DataFrame, *, as_of: datetime | None = None, now: datetime = NOW, **spec: Any
) -> RawData:
    path = folder / "bars.parquet"
    frame.write_parquet(path)
    return files(folder, **spec).read(as_of=as_of, data=path, now=now)


def codes(raw: RawData) -> dict[str, int]:
    return {note.code: note.rows for note in raw.notes}


def test_bars_under_common_names_need_no_declaration(tmp_path: Path) -> None:
    raw = read(tmp_path, bars().cast({"ts": pl.Datetime("us", "UTC")}))

    assert raw.frame.columns == RAW_COLUMNS
    assert raw.frame.schema["ds"] == pl.Datetime("us")
    assert raw.frame.schema["volume"] == pl.Float64
    assert (raw.frame["unique_id"][0], raw.frame["ds"][0], raw.frame["close"][0]) == ("A", START, 100.0)
    assert raw.as_of == START + 59 * timedelta(minutes=30)
    assert (raw.bars.freq.alias, raw.bars.horizons) == ("30min", (1, 5, 20))
    assert codes(raw) == {"frequency_inferred": 60, "calendar_inferred": 60}


@pytest.mark.parametrize(
    "names",
    [
        ("unique_id", "ds", "open", "high", "low", "close", "volume"),
        ("Ticker", "Date", "Open", "High", "Low", "Close", "Volume"),
        ("PAIR", "timestamp", "o", "h", "l", "c", "v"),
        ("pair", "datetime", "Open", "High", "Low", "Close", "tick_volume"),
    ],
)
def test_columns_are_recognised_in_any_case(tmp_path: Path, names: tuple[str, ...]) -> None:
    frame = bars()

    assert read(tmp_path, frame.rename(dict(zip(frame.columns, names, strict=True)))).frame.height == 60


def test_declared_columns_are_taken_and_no_others(tmp_path: Path) -> None:
    frame = bars().with_columns(close=pl.lit(7.0), adjusted=pl.col("close"), when="ts", name="symbol")

    raw = read(tmp_path, frame, columns={"id": "name", "time": "when", "bars": {"close": "adjusted"}})

    assert raw.frame["close"].to_list() == bars()["close"].to_list()
    with pytest.raises(SourceError, match=r"no column 'adjustd'.*did you mean 'adjusted'\? correct columns.bars.close"):
        read(tmp_path, frame, columns={"bars": {"close": "adjustd"}})


@pytest.mark.parametrize(("column", "key"), [("ts", "columns.time"), ("high", "bars.high"), ("volume", "bars.volume")])
def test_a_column_that_is_not_there_is_named_with_the_key_to_set(tmp_path: Path, column: str, key: str) -> None:
    with pytest.raises(SourceError, match=rf"no column for the .*it has symbol.*set columns.*{key.split('.')[-1]}"):
        read(tmp_path, bars().drop(column))


def test_a_file_without_symbols_is_named_after_itself(tmp_path: Path) -> None:
    for name in ("AAA", "BBB"):
        bars().drop("symbol").write_csv(tmp_path / f"{name}.csv")

    raw = files(tmp_path, source={"path": "*.csv"}).read(as_of=None, data=None, now=NOW)

    assert raw.frame["unique_id"].unique().sort().to_list() == ["AAA", "BBB"]
    assert [note.code for note in raw.notes].count("symbol_from_file_name") == 2


def test_a_csv_with_zones_and_junk_is_read_leniently_and_counted(tmp_path: Path) -> None:
    frame = bars().with_columns(pl.col("ts").dt.strftime("%Y-%m-%dT%H:%M:%S+02:00"), pl.col("close").cast(pl.String))
    frame = frame.with_columns(close=pl.when(pl.int_range(pl.len()) == 3).then(pl.lit("n.v.")).otherwise("close"))
    frame.write_csv(tmp_path / "bars.csv")

    raw = files(tmp_path).read(as_of=None, data=tmp_path / "bars.csv", now=NOW)

    assert raw.frame["ds"][0] == START - timedelta(hours=2)
    assert raw.frame["row_unparsable"].to_list() == [i == 3 for i in range(60)]
    assert raw.frame["close"].null_count() == 1
    assert codes(raw)["unparsable_text_set_missing"] == 1
    assert "time_zone_not_stated" not in codes(raw)


@pytest.mark.parametrize(("unit", "per_second"), [("s", 1), ("ms", 1_000), ("us", 1_000_000)])
@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_unix_times_are_understood_by_their_digits(tmp_path: Path, unit: str, per_second: int, suffix: str) -> None:
    frame = bars().with_columns((pl.col("ts").dt.epoch("us") // (1_000_000 // per_second)).alias("ts"))
    path = tmp_path / f"bars.{suffix}"
    frame.write_csv(path) if suffix == "csv" else frame.write_parquet(path)

    raw = files(tmp_path).read(as_of=None, data=path, now=NOW)

    assert raw.frame["ds"].to_list() == bars()["ts"].to_list()
    assert "time_zone_not_stated" not in codes(raw)


def test_naive_times_are_taken_as_they_are_and_said_to_be_so(tmp_path: Path) -> None:
    unknown = read(tmp_path, bars())
    declared = read(tmp_path, bars(), bars={"time_zone": "the broker's"})

    assert unknown.frame["ds"][0] == declared.frame["ds"][0] == START
    assert "nowhere stated" in next(note.detail for note in unknown.notes if note.code == "time_zone_not_stated")
    assert "the broker's" in next(note.detail for note in declared.notes if note.code == "time_zone_not_stated")


@pytest.mark.parametrize(
    ("step", "alias"),
    [
        (timedelta(minutes=1), "min"),
        (timedelta(minutes=90), "90min"),
        (timedelta(hours=4), "4h"),
        (timedelta(days=1), "D"),
        (timedelta(days=7), "W-MON"),
    ],
)
def test_the_step_is_inferred_from_the_most_common_one(tmp_path: Path, step: timedelta, alias: str) -> None:
    frame = bars(step=step).filter(pl.int_range(pl.len()) % 10 != 4)

    assert read(tmp_path, frame).bars.freq.alias == alias


def test_a_declared_step_is_not_inferred(tmp_path: Path) -> None:
    raw = read(tmp_path, bars(), freq="15min", bars={"calendar": "continuous"})

    assert raw.bars.freq.alias == "15min"
    assert not {"frequency_inferred", "calendar_inferred"} & set(codes(raw))


def test_times_without_a_regular_step_are_refused(tmp_path: Path) -> None:
    irregular = bars().with_columns(ts=START + pl.duration(minutes=pl.int_range(pl.len()) ** 2))

    with pytest.raises(SourceError, match=r"no regular step.*set `freq`"):
        read(tmp_path, irregular)
    with pytest.raises(SourceError, match=r"most common one, 0:00:10, makes 100%"):
        read(tmp_path, bars(step=timedelta(seconds=10)))


@pytest.mark.parametrize(
    ("step", "open_days", "calendar"),
    [
        (timedelta(hours=1), 7, "continuous"),
        (timedelta(hours=1), 5, "weekdays"),
        (timedelta(days=1), 7, "continuous"),
        (timedelta(days=1), 5, "business_days"),
        (timedelta(days=7), 5, "continuous"),
    ],
)
def test_the_calendar_is_inferred_from_weekends(tmp_path: Path, step: timedelta, open_days: int, calendar: str) -> None:
    frame = bars(n=30 * int(max(timedelta(days=1) / step, 1)), step=step)
    frame = frame.filter(pl.col("ts").dt.weekday() <= open_days)

    raw = read(tmp_path, frame)

    assert raw.bars.calendar == calendar
    assert calendar in next(note.detail for note in raw.notes if note.code == "calendar_inferred")


def test_a_few_days_without_a_weekend_do_not_close_the_market(tmp_path: Path) -> None:
    assert read(tmp_path, bars(n=48, step=timedelta(hours=1))).bars.calendar == "continuous"


def test_only_a_declared_scale_divides_prices(tmp_path: Path) -> None:
    frame = pl.concat([bars("USDJPY"), bars("EURUSD")]).with_columns(pl.col("open", "high", "low", "close") * 1000)

    raw = read(tmp_path, frame, bars={"price_scale": {".*JPY": 1000}})

    assert dict(raw.frame.group_by("unique_id").agg(pl.col("close").min()).iter_rows()) == {
        "USDJPY": 100.0,
        "EURUSD": 100_000.0,
    }
    assert codes(raw)["prices_scaled"] == 60
    assert raw.frame["volume"].unique().to_list() == [10.0]
    assert "prices_scaled" not in codes(read(tmp_path, frame))


def test_the_as_of_time_is_the_last_bar_at_or_before_what_was_asked(tmp_path: Path) -> None:
    between = read(tmp_path, bars(), as_of=START + timedelta(minutes=1000))
    day = read(tmp_path, bars(n=120), as_of=START + timedelta(days=1))
    much_later = read(tmp_path, bars(), as_of=START + timedelta(days=300))

    assert between.as_of == between.frame["ds"].max() == START + timedelta(minutes=990)
    assert day.as_of == START + timedelta(days=1)
    assert much_later.as_of == START + 59 * timedelta(minutes=30)


def test_rows_before_the_as_of_time_do_not_depend_on_later_ones(tmp_path: Path) -> None:
    whole = pl.concat([bars(n=300), bars("B", n=300)])
    as_of = START + timedelta(minutes=30 * 99)

    later = read(tmp_path, whole, as_of=as_of)
    never = read(tmp_path, whole.filter(pl.col("ts") <= as_of), as_of=as_of)

    assert later.frame.equals(never.frame)
    assert (later.schema, later.as_of, later.notes) == (never.schema, never.as_of, never.notes)


def test_stray_dates_of_one_symbol_do_not_move_the_as_of_time(tmp_path: Path) -> None:
    stray = bars("S0", n=1, start=START + timedelta(days=9))
    frame = pl.concat([*(bars(f"S{i}") for i in range(30)), stray])

    raw = read(tmp_path, frame)

    assert raw.as_of == START + 59 * timedelta(minutes=30)
    assert raw.frame["ds"].max() == raw.as_of
    assert codes(raw)["stray_rows_dropped"] == 1


def test_rows_after_the_clock_are_kept_for_the_gate(tmp_path: Path) -> None:
    frame = pl.concat([bars(), bars(n=2, start=datetime(2030, 1, 1))])

    raw = read(tmp_path, frame)

    assert raw.as_of == START + 59 * timedelta(minutes=30)
    assert raw.frame.filter(pl.col("ds") > NOW).height == 2
    assert codes(raw)["rows_after_the_clock"] == 2


def test_a_bar_that_still_runs_is_not_known(tmp_path: Path) -> None:
    last = START + 59 * timedelta(minutes=30)

    running = read(tmp_path, bars(), now=last + timedelta(minutes=10))
    closed = read(tmp_path, bars(), now=last + timedelta(minutes=30))

    assert running.as_of == last - timedelta(minutes=30)
    assert codes(running)["unfinished_bars_dropped"] == 1
    assert closed.as_of == last


def test_a_trading_day_counts_on_the_evening_of_the_day(tmp_path: Path) -> None:
    frame = bars(step=timedelta(days=1)).filter(pl.col("ts").dt.weekday() <= 5)
    last = frame["ts"].max()

    assert read(tmp_path, frame, now=last + timedelta(hours=22)).as_of == last


@pytest.mark.parametrize(
    ("frame", "spec", "as_of", "words"),
    [
        (bars(n=0), {}, None, "holds no rows"),
        (bars(), {}, START - timedelta(days=1), "no row at or before 2023-12-31.*run from 2024-01-01"),
        (bars(n=12), {}, None, r"horizon of 20 bars is too long.*\(A\) has 12 bars.*at least 22 bars.*bars.horizons"),
        (bars().with_columns(ts=pl.lit(None, pl.Datetime)), {"freq": "h"}, None, "no time in .* can be read"),
        (bars().with_columns(close=pl.col("ts")), {}, None, "column 'close' of .* holds Datetime"),
    ],
)
def test_what_cannot_be_used_is_refused_with_numbers_and_a_remedy(
    tmp_path: Path, frame: pl.DataFrame, spec: dict[str, Any], as_of: datetime | None, words: str
) -> None:
    with pytest.raises(SourceError, match=words):
        read(tmp_path, frame, as_of=as_of, **spec)


def test_an_as_of_time_in_the_future_and_a_file_of_panels_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="lies after the clock"):
        read(tmp_path, bars(), as_of=NOW + timedelta(days=1))
    panel = WorkloadFile.model_validate({"name": "p", "source": {"path": "a.csv"}, "freq": "D", "horizon": 3})
    with pytest.raises(ConfigError, match="of kind 'panel'"):
        BarFiles(panel, tmp_path).read(as_of=None, data=None, now=NOW)


def test_no_path_and_no_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="names no input"):
        files(tmp_path).read(as_of=None, data=None, now=NOW)
    with pytest.raises(SourceError, match="there is no file or folder"):
        files(tmp_path).read(as_of=None, data=tmp_path / "none.parquet", now=NOW)


def test_rows_without_a_symbol_are_left_out_and_counted(tmp_path: Path) -> None:
    raw = read(tmp_path, pl.concat([bars(), bars(" ", n=3), bars(n=2).with_columns(symbol=pl.lit(None, pl.String))]))

    assert raw.frame.height == 60
    assert codes(raw)["rows_without_id_dropped"] == 5


def test_the_order_of_rows_and_files_does_not_matter(tmp_path: Path) -> None:
    frame = pl.concat([bars("A"), bars("B")])

    shuffled = frame.sample(fraction=1.0, shuffle=True, seed=3)

    assert read(tmp_path, shuffled).frame.equals(read(tmp_path, frame).frame)


def test_the_generated_market_reads_a_file_given_as_data(tmp_path: Path) -> None:
    bars().write_parquet(tmp_path / "mine.parquet")
    source = open_source(load_workload_file(workload_path("markets")), tmp_path)

    raw = source.read(as_of=None, data=tmp_path / "mine.parquet", now=NOW)
    by_glob = source.read(as_of=None, data=tmp_path / "*.parquet", now=NOW)
    by_folder = source.read(as_of=None, data=tmp_path, now=NOW)

    assert isinstance(source, GeneratedOrFiles)
    assert raw.frame.height == by_glob.frame.height == by_folder.frame.height == 60
    assert raw.origin == str(tmp_path / "mine.parquet")


def test_a_folder_with_a_saved_market_is_left_to_the_generator(tmp_path: Path) -> None:
    asked = []

    class Recorder:
        def read(self, **kwargs: Any) -> Any:
            asked.append(kwargs["data"])

    source = GeneratedOrFiles(Recorder(), files(tmp_path))  # type: ignore[arg-type]
    (tmp_path / "market.json").write_text("{}")

    source.read(as_of=None, data=tmp_path, now=NOW)
    source.read(as_of=None, data=None, now=NOW)

    assert asked == [tmp_path, None]


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("name", "rows", "symbols", "freq", "calendar", "last", "notes"),
    [
        ("crypto_30m", 271_584, 6, "30min", "continuous", datetime(2025, 7, 31, 23, 30), set()),
        ("crypto_5m", 141_864, 1, "5min", "continuous", datetime(2025, 11, 30, 23, 55), set()),
        ("fx_1h", 322_818, 7, "h", "weekdays", datetime(2020, 4, 30, 23), {"time_zone_not_stated", "prices_scaled"}),
        ("fx_5m", 40_606, 1, "5min", "weekdays", datetime(2020, 8, 31, 23, 55), {"time_zone_not_stated"}),
        ("stocks_daily", 58_699, 60, "D", "business_days", datetime(2017, 2, 7), {"time_zone_not_stated"}),
    ],
)
def test_real_bars_are_read_as_declared_and_without_a_declaration(
    name: str, rows: int, symbols: int, freq: str, calendar: str, last: datetime, notes: set[str]
) -> None:
    path = DATA / "market" / f"{name}.parquet"
    if not path.exists():
        pytest.skip(f"the real data set market/{name}.parquet is not beside the checkout")

    declared = open_source(load_workload_file(workload_path(name)), DATA.parent).read(as_of=None, data=None, now=NOW)
    guessed = files(Path()).read(as_of=None, data=path, now=NOW)

    for raw in (declared, guessed):
        assert raw.frame.height == rows
        assert raw.frame["unique_id"].n_unique() == symbols
        assert (raw.bars.freq.alias, raw.bars.calendar, raw.as_of) == (freq, calendar, last)
        assert not raw.frame["row_unparsable"].any()
    assert set(codes(declared)) == notes
    assert set(codes(guessed)) == notes - {"prices_scaled"} | {"frequency_inferred", "calendar_inferred"}


@pytest.mark.real_data
def test_real_currency_pairs_come_out_at_their_prices() -> None:
    if not (DATA / "market" / "fx_1h.parquet").exists():
        pytest.skip("the real data set market/fx_1h.parquet is not beside the checkout")

    raw = open_source(load_workload_file(workload_path("fx_1h")), DATA.parent).read(as_of=None, data=None, now=NOW)

    usual = dict(raw.frame.group_by("unique_id").agg(pl.col("close").median()).iter_rows())
    assert 90 < usual["USDJPY"] < 130
    assert 1.1 < usual["GBPUSD"] < 1.8


def test_times_with_a_zone_become_utc(tmp_path: Path) -> None:
    frame = bars().with_columns(pl.col("ts").dt.replace_time_zone("America/New_York"))

    assert read(tmp_path, frame).frame["ds"][0] == datetime(2024, 1, 1, 5, tzinfo=UTC).replace(tzinfo=None)
