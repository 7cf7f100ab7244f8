from datetime import datetime
from typing import Any

import polars as pl
import pytest

from nightcast.contracts.errors import SourceError
from nightcast.contracts.schema import PanelSchema
from nightcast.features.grid import apart, regular_grid

SCHEMA = PanelSchema(
    freq="MS", horizon=2, covariates={"wwir": "past", "uptime": "plan", "x_m": "static"}, unit="m3/d", lower=0
)


def month(number: int) -> datetime:
    return datetime(2020 + (number - 1) // 12, (number - 1) % 12 + 1, 1)


def rows(*values: tuple[str, int, float | None], **columns: Any) -> pl.DataFrame:
    frame = pl.DataFrame(
        {
            "unique_id": [v[0] for v in values],
            "ds": [month(v[1]) for v in values],
            "y": pl.Series([v[2] for v in values], dtype=pl.Float64),
        }
    )
    wanted: dict[str, Any] = {"wwir": 1.0, "uptime": 0.5, "x_m": 7.0, "series_role": "target"} | columns
    return frame.with_columns(
        pl.Series(name, value, strict=False) if isinstance(value, list) else pl.lit(value).alias(name)
        for name, value in wanted.items()
    )


def test_a_missing_month_becomes_a_row_without_target_or_covariates_and_is_counted() -> None:
    grid, notes = regular_grid(rows(("A", 1, 5.0), ("A", 4, 6.0)), SCHEMA, as_of=month(4), retire_after=12)

    assert grid.columns == ["unique_id", "ds", "y", "wwir", "uptime", "x_m", "series_role"]
    assert grid["ds"].to_list() == [month(n) for n in range(1, 7)]
    assert grid["y"].to_list() == [5.0, None, None, 6.0, None, None]
    assert grid["wwir"].to_list() == [1.0, None, None, 1.0, None, None]
    assert grid["uptime"].to_list() == [0.5, None, None, 0.5, None, None]
    assert [(note.code, note.rows) for note in notes] == [("grid_steps_filled", 2)]


def test_static_columns_and_the_role_hold_along_the_whole_series() -> None:
    given = rows(("A", 1, 5.0), ("A", 3, 6.0), x_m=[None, 9.0])

    grid, _ = regular_grid(given, SCHEMA, as_of=month(3), retire_after=12)

    assert grid["x_m"].to_list() == [9.0] * 5
    assert grid["series_role"].to_list() == ["target"] * 5


def test_a_series_starts_at_its_first_known_target() -> None:
    grid, notes = regular_grid(
        rows(("A", 1, None), ("A", 2, None), ("A", 3, 0.0), ("A", 4, 6.0)), SCHEMA, as_of=month(4), retire_after=1
    )

    assert grid["ds"].min() == month(3)
    assert [(note.code, note.rows) for note in notes] == [("rows_before_first_target", 2)]


def test_a_support_series_starts_at_its_first_row() -> None:
    given = rows(("I", 2, None), ("I", 3, None), ("P", 3, 1.0), series_role=["support", "support", "target"])

    grid, notes = regular_grid(given, SCHEMA, as_of=month(3), retire_after=1)

    assert grid.filter(pl.col("unique_id") == "I")["ds"].to_list() == [month(2), month(3), month(4), month(5)]
    assert notes == ()


@pytest.mark.parametrize(("as_of", "last"), [(20, 1 + 3 + 2), (3, 3 + 2), (1, 1 + 2)])
def test_a_series_ends_a_horizon_after_it_retires_or_after_the_as_of_date(as_of: int, last: int) -> None:
    grid, _ = regular_grid(rows(("A", 1, 5.0)), SCHEMA, as_of=month(as_of), retire_after=3)

    assert grid["ds"].max() == month(last)


def test_rows_after_the_as_of_date_are_left_out_and_counted() -> None:
    grid, notes = regular_grid(rows(("A", 1, 5.0), ("A", 2, 6.0)), SCHEMA, as_of=month(1), retire_after=3)

    assert grid["y"].to_list() == [5.0, None, None]
    assert [(note.code, note.rows) for note in notes] == [("rows_after_as_of", 1)]


def test_a_series_without_a_known_target_is_left_out_and_named() -> None:
    grid, notes = regular_grid(rows(("A", 1, 5.0), ("B", 1, None)), SCHEMA, as_of=month(1), retire_after=3)

    assert grid["unique_id"].unique().to_list() == ["A"]
    assert notes[0].code == "series_without_target"
    assert "B" in notes[0].detail


def test_not_a_number_counts_as_missing() -> None:
    given = rows(("A", 1, 5.0), ("A", 2, float("nan")), wwir=[float("nan"), 1.0])

    grid, _ = regular_grid(given, SCHEMA, as_of=month(2), retire_after=3)

    assert grid["y"].to_list()[:2] == [5.0, None]
    assert grid["wwir"].to_list()[:2] == [None, 1.0]


def test_the_order_of_the_rows_does_not_matter() -> None:
    given = rows(("B", 2, 1.0), ("A", 4, 6.0), ("A", 1, 5.0), ("B", 1, 2.0))

    one, _ = regular_grid(given, SCHEMA, as_of=month(4), retire_after=12)
    other, _ = regular_grid(given.reverse(), SCHEMA, as_of=month(4), retire_after=12)

    assert one.equals(other)
    assert one.equals(one.sort("unique_id", "ds"))


def test_repeated_rows_are_refused_by_name() -> None:
    with pytest.raises(SourceError, match=r"series 'A' has ds 2020-01-01.* twice"):
        regular_grid(rows(("A", 1, 5.0), ("A", 1, 6.0)), SCHEMA, as_of=month(4), retire_after=12)


def test_a_time_off_the_calendar_is_refused_by_name() -> None:
    given = rows(("A", 1, 5.0), ("A", 2, 6.0)).with_columns(
        pl.Series("ds", [datetime(2020, 1, 1), datetime(2020, 2, 15)])
    )

    with pytest.raises(SourceError, match=r"series 'A' has a row at 2020-02-15.*one month apart"):
        regular_grid(given, SCHEMA, as_of=month(4), retire_after=12)


def test_a_declared_covariate_that_is_not_there_is_named() -> None:
    with pytest.raises(SourceError, match=r"lack the columns \['uptime'\]"):
        regular_grid(rows(("A", 1, 5.0)).drop("uptime"), SCHEMA, as_of=month(4), retire_after=12)


def test_rows_without_a_time_are_refused() -> None:
    given = rows(("A", 1, 5.0)).with_columns(pl.lit(None).cast(pl.Datetime("us")).alias("ds"))

    with pytest.raises(SourceError, match="no unique_id or no ds"):
        regular_grid(given, SCHEMA, as_of=month(4), retire_after=12)


@pytest.mark.parametrize(("freq", "step"), [("D", "1d"), ("W-MON", "1w"), ("30min", "30m"), ("QS", "3mo")])
def test_other_calendars_get_their_own_steps(freq: str, step: str) -> None:
    start = datetime(2024, 1, 1)
    times = pl.datetime_range(start, datetime(2025, 12, 29), step, eager=True)[:5]
    frame = pl.DataFrame({"unique_id": "A", "ds": times.gather([0, 4]), "y": [1.0, 2.0]})

    grid, _ = regular_grid(frame, PanelSchema(freq=freq, horizon=1), as_of=times[4], retire_after=9)

    assert grid["ds"].to_list()[:5] == times.to_list()
    assert grid.height == 6


def test_support_rows_are_taken_apart_and_the_role_column_is_gone() -> None:
    given = rows(("I", 1, None), ("P", 1, 1.0), series_role=["support", "target"])
    grid, _ = regular_grid(given, SCHEMA, as_of=month(1), retire_after=1)

    targets, support = apart(grid)

    assert targets["unique_id"].unique().to_list() == ["P"]
    assert support["unique_id"].unique().to_list() == ["I"]
    assert "series_role" not in (*targets.columns, *support.columns)
    assert apart(targets)[0].equals(targets)
    assert apart(targets)[1].is_empty()
