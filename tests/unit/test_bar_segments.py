"""Segments end at gaps, sessions at scheduled closes, and no bar is ever inserted."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from nightcast.contracts.errors import ConfigError, SourceError
from nightcast.contracts.schema import BarsSchema, Calendar
from nightcast.features.segments import infer_calendar, infer_frequency, segmented

MARKET = Path(__file__).parents[2].parent / "shared" / "data" / "market"
MONDAY = datetime(2024, 1, 8)

Opening = Callable[[datetime], bool]


def clock(first: datetime, last: datetime, minutes: int, is_open: Opening) -> list[datetime]:
    steps = int((last - first) / timedelta(minutes=minutes))
    times = (first + timedelta(minutes=minutes * k) for k in range(steps + 1))
    return [time for time in times if is_open(time)]


def forex(time: datetime) -> bool:
    """Sunday 22:00 to Friday 22:00."""
    hours = time.weekday() * 24 + time.hour
    return not 4 * 24 + 22 <= hours < 6 * 24 + 22


def globex(time: datetime) -> bool:
    """As forex, with a break from 22:00 to 23:00 every day."""
    return time.hour != 22 and (forex(time) or (time.weekday() == 4 and time.hour == 22))


def shares(time: datetime) -> bool:
    """14:30 to 21:00 in winter, an hour earlier from 11 March 2024, on weekdays."""
    local = time + timedelta(hours=1) if time >= datetime(2024, 3, 11) else time
    return local.weekday() < 5 and 14 * 60 + 30 <= local.hour * 60 + local.minute < 21 * 60


def frame(times: Iterable[datetime], symbol: str = "AAA") -> pl.DataFrame:
    times = pl.Series("ds", list(times), dtype=pl.Datetime("us"))
    return pl.DataFrame({"unique_id": pl.repeat(symbol, len(times), eager=True), "ds": times}).with_columns(
        *(pl.lit(1.0).alias(name) for name in ("open", "high", "low", "close", "volume"))
    )


def schema(freq: str, calendar: Calendar, max_gap: int = 3) -> BarsSchema:
    return BarsSchema(freq=freq, calendar=calendar, max_gap=max_gap)


def ends(out: pl.DataFrame, column: str) -> list[datetime]:
    """Last time of each segment or session but the last."""
    return out.group_by(column).agg(pl.col("ds").max()).sort("ds")["ds"].to_list()[:-1]


def without(times: list[datetime], first: datetime, last: datetime) -> list[datetime]:
    return [time for time in times if not first <= time < last]


def every(time: datetime) -> bool:
    return True


# -- continuous -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("missing", "segments"), [(1, 1), (3, 1), (4, 2)])
def test_a_gap_ends_a_segment_only_beyond_the_largest_one_allowed(missing: int, segments: int) -> None:
    times = clock(MONDAY, MONDAY + timedelta(days=1), 30, every)
    times = times[:20] + times[20 + missing :]

    out, notes = segmented(frame(times), schema("30min", "continuous"))

    assert out["segment"].n_unique() == out["session"].n_unique() == segments
    assert {note.code for note in notes} == ({"gaps"} if segments == 2 else {"bars_missing"})


def test_a_continuous_market_has_no_closes() -> None:
    times = clock(MONDAY, MONDAY + timedelta(days=21), 60, forex)

    out, _ = segmented(frame(times), schema("h", "continuous"))

    assert out["segment"].n_unique() == 4
    assert out["session"].to_list() == out["segment"].to_list()


def test_numbers_rise_and_never_serve_two_symbols() -> None:
    times = clock(MONDAY, MONDAY + timedelta(hours=5), 60, every)
    both = pl.concat([frame(times, "AAA"), frame(times[:2] + times[-1:], "BBB"), frame(times, "CCC")])

    out, _ = segmented(both, schema("h", "continuous", max_gap=1))

    assert out["segment"].to_list() == [0] * 6 + [1, 1, 2] + [3] * 6
    assert out["session"].to_list() == out["segment"].to_list()
    assert out.columns == ["unique_id", "ds", "segment", "session", "open", "high", "low", "close", "volume"]
    assert out.schema["segment"] == out.schema["session"] == pl.Int64


def test_no_bar_is_inserted_and_none_is_changed() -> None:
    bars = frame(without(clock(MONDAY, MONDAY + timedelta(days=9), 60, forex), MONDAY, MONDAY + timedelta(hours=30)))

    out, _ = segmented(bars, schema("h", "weekdays"))

    assert out.drop("segment", "session").equals(bars)


def test_months_of_unequal_length_are_one_step_each() -> None:
    months = [datetime(2023, m, 1) for m in range(1, 13)]

    out, notes = segmented(frame(months), schema("MS", "continuous", max_gap=0))

    assert out["segment"].n_unique() == 1
    assert notes == ()


def test_nothing_in_is_nothing_out() -> None:
    out, notes = segmented(frame([]), schema("h", "weekdays"))

    assert out.height == 0
    assert {"segment", "session"} <= set(out.columns)
    assert notes == ()


# -- weekdays ---------------------------------------------------------------------------------------------------------


def test_a_weekend_ends_the_session_and_not_the_segment() -> None:
    out, notes = segmented(frame(clock(MONDAY, MONDAY + timedelta(days=18), 5, forex)), schema("5min", "weekdays"))

    assert out["segment"].n_unique() == 1
    assert ends(out, "session") == [datetime(2024, 1, 12, 21, 55), datetime(2024, 1, 19, 21, 55)]
    assert [(note.code, note.rows) for note in notes] == [("scheduled_closes", 2)]


def test_a_weekend_is_one_in_a_clock_twelve_hours_ahead() -> None:
    times = [time + timedelta(hours=12) for time in clock(MONDAY, MONDAY + timedelta(days=18), 60, forex)]

    out, _ = segmented(frame(times), schema("h", "weekdays"))

    assert (out["segment"].n_unique(), out["session"].n_unique()) == (1, 3)


@pytest.mark.parametrize(
    ("closes", "opens"),
    [
        (datetime(2024, 1, 10, 19), datetime(2024, 1, 12, 9)),  # as on many a 24 December
        (datetime(2024, 1, 11, 20), datetime(2024, 1, 16, 0)),  # Easter: Friday to Monday
        (datetime(2024, 1, 9, 22), datetime(2024, 1, 13, 0)),  # before a weekend
        (datetime(2024, 1, 8, 2), datetime(2024, 1, 12, 0)),  # almost four days
    ],
)
def test_a_holiday_of_up_to_four_days_ends_the_session_and_not_the_segment(closes: datetime, opens: datetime) -> None:
    times = without(clock(MONDAY, MONDAY + timedelta(days=18), 60, forex), closes, opens)

    out, _ = segmented(frame(times), schema("h", "weekdays"))

    assert out["segment"].n_unique() == 1
    assert closes - timedelta(hours=1) in ends(out, "session")


@pytest.mark.parametrize(
    ("stops", "resumes"),
    [
        (datetime(2024, 1, 10, 9), datetime(2024, 1, 10, 14)),  # five hours of a morning
        (datetime(2024, 1, 10, 1), datetime(2024, 1, 10, 15)),
        (datetime(2024, 1, 9, 22), datetime(2024, 1, 17, 0)),  # more than four days beside the weekend
    ],
)
def test_an_outage_ends_the_segment(stops: datetime, resumes: datetime) -> None:
    times = without(clock(MONDAY, MONDAY + timedelta(days=18), 60, forex), stops, resumes)

    out, notes = segmented(frame(times), schema("h", "weekdays"))

    assert ends(out, "segment") == [stops - timedelta(hours=1)]
    assert notes[0].code == "gaps"
    assert notes[0].rows == 1


@pytest.mark.parametrize(("freq", "minutes"), [("5min", 5), ("h", 60)])
def test_a_daily_break_ends_the_session_however_few_bars_it_lasts(freq: str, minutes: int) -> None:
    out, _ = segmented(frame(clock(MONDAY, MONDAY + timedelta(days=11), minutes, globex)), schema(freq, "weekdays"))

    assert out["segment"].n_unique() == 1
    last = timedelta(hours=22) - timedelta(minutes=minutes)
    assert ends(out, "session") == [MONDAY + timedelta(days=d) + last for d in (0, 1, 2, 3, 4, 7, 8, 9, 10)]


def test_a_daily_break_stays_one_where_a_bar_beside_it_is_missing() -> None:
    times = without(
        clock(MONDAY, MONDAY + timedelta(days=11), 60, globex),
        MONDAY + timedelta(hours=47),
        MONDAY + timedelta(hours=48),
    )

    out, _ = segmented(frame(times), schema("h", "weekdays"))

    assert MONDAY + timedelta(hours=45) in ends(out, "session")
    assert out["segment"].n_unique() == 1


def test_a_daily_break_follows_the_clock_change_from_its_first_day() -> None:
    times = clock(datetime(2024, 2, 1), datetime(2024, 4, 12), 5, shares)

    out, _ = segmented(frame(times), schema("5min", "weekdays"))

    assert out["segment"].n_unique() == 1
    assert out["session"].n_unique() == out["ds"].dt.date().n_unique()


def test_an_early_close_is_the_start_of_the_break_that_follows() -> None:
    times = clock(datetime(2024, 2, 1), datetime(2024, 2, 28), 5, shares)
    times = without(times, datetime(2024, 2, 13, 18), datetime(2024, 2, 13, 22))

    out, _ = segmented(frame(times), schema("5min", "weekdays"))

    assert out["segment"].n_unique() == 1
    assert datetime(2024, 2, 13, 17, 55) in ends(out, "session")


def test_an_outage_that_merely_contains_a_daily_break_ends_the_segment() -> None:
    times = without(
        clock(MONDAY, MONDAY + timedelta(days=18), 5, globex),
        MONDAY + timedelta(hours=44),
        MONDAY + timedelta(hours=49),
    )

    out, _ = segmented(frame(times), schema("5min", "weekdays"))

    assert ends(out, "segment") == [MONDAY + timedelta(hours=43, minutes=55)]


def test_a_hole_at_a_clock_time_that_usually_trades_is_no_close() -> None:
    times = without(
        clock(MONDAY, MONDAY + timedelta(days=18), 5, globex),
        MONDAY + timedelta(hours=40),
        MONDAY + timedelta(hours=41),
    )

    out, _ = segmented(frame(times), schema("5min", "weekdays"))

    assert ends(out, "segment") == [MONDAY + timedelta(hours=39, minutes=55)]


def test_a_single_missing_bar_ends_nothing() -> None:
    times = clock(MONDAY, MONDAY + timedelta(days=4), 60, forex)

    out, notes = segmented(frame(times[:30] + times[31:]), schema("h", "weekdays"))

    assert out["session"].n_unique() == 1
    assert [(note.code, note.rows) for note in notes] == [("bars_missing", 1)]


def test_sessions_never_cross_a_segment() -> None:
    times = clock(MONDAY, MONDAY + timedelta(days=40), 5, globex)
    times = [time for k, time in enumerate(times) if k % 977 not in range(9)]

    out, _ = segmented(frame(times), schema("5min", "weekdays"))

    assert out.group_by("session").agg(pl.col("segment").n_unique())["segment"].max() == 1


# -- business days ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("gone", "segments"), [(3, 1), (4, 2)])
def test_weekends_count_for_nothing_between_daily_bars(gone: int, segments: int) -> None:
    days = clock(MONDAY, MONDAY + timedelta(days=40), 1440, lambda time: time.weekday() < 5)
    days = days[:9] + days[9 + gone :]

    out, _ = segmented(frame(days), schema("D", "business_days"))

    assert out["segment"].n_unique() == segments
    assert out["session"].to_list() == out["segment"].to_list()


def test_daily_bars_of_a_market_that_keeps_weekdays_are_business_days() -> None:
    days = clock(MONDAY, MONDAY + timedelta(days=40), 1440, lambda time: time.weekday() < 5)

    out, _ = segmented(frame(days), schema("D", "weekdays", max_gap=0))

    assert out["session"].n_unique() == 1


# -- refusals ---------------------------------------------------------------------------------------------------------


def test_rows_out_of_order_are_refused_with_the_row() -> None:
    times = clock(MONDAY, MONDAY + timedelta(hours=5), 60, every)

    with pytest.raises(SourceError, match=r"row 1.*sorted"):
        segmented(frame([times[0], times[2], times[1]]), schema("h", "continuous"))


def test_repeated_and_too_close_times_are_refused() -> None:
    with pytest.raises(SourceError, match="one hour apart"):
        segmented(frame([MONDAY, MONDAY]), schema("h", "continuous"))
    with pytest.raises(SourceError, match="one hour apart"):
        segmented(frame([MONDAY, MONDAY + timedelta(minutes=30)]), schema("h", "continuous"))


def test_a_symbol_in_two_places_is_refused() -> None:
    scattered = pl.concat([frame([MONDAY], "A"), frame([MONDAY], "B"), frame([MONDAY + timedelta(hours=1)], "A")])

    with pytest.raises(SourceError, match="do not stand together"):
        segmented(scattered, schema("h", "continuous"))


def test_a_bar_without_a_time_is_refused() -> None:
    with pytest.raises(SourceError, match="1 bars have no ds"):
        segmented(pl.concat([frame([MONDAY]), frame([None])]), schema("h", "continuous"))  # type: ignore[list-item]


def test_business_days_want_daily_bars() -> None:
    with pytest.raises(ConfigError, match="weekdays"):
        segmented(frame([MONDAY]), schema("h", "business_days"))


# -- recognising ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("times", "calendar"),
    [
        (clock(MONDAY, MONDAY + timedelta(days=20), 60, every), "continuous"),
        (clock(MONDAY, MONDAY + timedelta(days=20), 60, forex), "weekdays"),
        (clock(MONDAY, MONDAY + timedelta(days=20), 60, globex), "weekdays"),
        (clock(datetime(2024, 2, 1), datetime(2024, 4, 12), 5, shares), "weekdays"),
        ([t + timedelta(hours=12) for t in clock(MONDAY, MONDAY + timedelta(days=20), 60, forex)], "weekdays"),
        (clock(MONDAY, MONDAY + timedelta(days=3), 60, every), "continuous"),
        (clock(MONDAY, MONDAY + timedelta(days=3), 60, globex), "weekdays"),
        (clock(MONDAY, MONDAY + timedelta(days=40), 1440, every), "continuous"),
        (clock(MONDAY, MONDAY + timedelta(days=40), 1440, lambda t: t.weekday() < 5), "business_days"),
    ],
)
def test_the_calendar_is_recognised_by_the_times(times: list[datetime], calendar: Calendar) -> None:
    assert infer_calendar(pl.Series(times)) == calendar


@pytest.mark.parametrize(
    ("times", "freq"),
    [
        (clock(MONDAY, MONDAY + timedelta(days=20), 5, globex), "5min"),
        (clock(MONDAY, MONDAY + timedelta(days=20), 240, every), "4h"),
        (clock(MONDAY, MONDAY + timedelta(days=40), 1440, lambda t: t.weekday() < 5), "D"),
        (clock(MONDAY, MONDAY + timedelta(days=40), 10080, every), "W-MON"),
        ([datetime(2023, m, 1) for m in range(1, 13)], "MS"),
        ([datetime(y, 1, 1) for y in range(2000, 2012)], "YS"),
    ],
)
def test_the_step_is_the_most_common_one(times: list[datetime], freq: str) -> None:
    both = pl.concat([frame(times), frame(times[::-1], "BBB")])

    assert infer_frequency(both).alias == freq


def test_what_cannot_be_recognised_is_refused() -> None:
    with pytest.raises(SourceError, match="declare `freq`"):
        infer_frequency(pl.concat([frame([MONDAY], "A"), frame([MONDAY + timedelta(hours=1)], "B")]))
    with pytest.raises(SourceError, match="30 seconds"):
        infer_frequency(frame([MONDAY, MONDAY + timedelta(seconds=30)]))
    with pytest.raises(SourceError, match="declare `calendar`"):
        infer_calendar(pl.Series([MONDAY, MONDAY]))


# -- real bars --------------------------------------------------------------------------------------------------------

REAL = {
    # name: (step, calendar, segments, sessions)
    "crypto_30m": ("30min", "continuous", 6, 6),
    "crypto_5m": ("5min", "continuous", 1, 1),
    "fx_1h": ("h", "weekdays", 8, 2801),
    "fx_5m": ("5min", "weekdays", 1, 29),
    "stocks_daily": ("D", "business_days", 61, 61),
}


@pytest.mark.real_data
@pytest.mark.parametrize("name", REAL)
def test_real_bars_break_where_their_markets_close(name: str) -> None:
    path = MARKET / f"{name}.parquet"
    if not path.exists():
        pytest.skip(f"{path.name} is not beside the checkout")
    bars = pl.read_parquet(path).rename({"symbol": "unique_id", "ts": "ds"}).sort("unique_id", "ds")
    freq, calendar = infer_frequency(bars), infer_calendar(bars["ds"])

    out, _ = segmented(bars, BarsSchema(freq=freq, calendar=calendar))

    assert (freq.alias, calendar, out["segment"].n_unique(), out["session"].n_unique()) == REAL[name]
