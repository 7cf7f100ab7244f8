"""Reading a user's own panel from Parquet and CSV."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from nightcast.contracts.errors import ConfigError, SourceError
from nightcast.contracts.source import RawData
from nightcast.sources.handover import known_at
from nightcast.sources.panel_files import PanelFiles
from nightcast.sources.spec import FileOptions, WorkloadFile
from nightcast.sources.tables import scan, time

NOW = datetime(2024, 1, 1)


def _months(count: int, start: datetime = datetime(2020, 1, 1)) -> list[datetime]:
    return [datetime(start.year + (start.month - 1 + i) // 12, (start.month - 1 + i) % 12 + 1, 1) for i in range(count)]


def _panel(wells: int = 3, months: int = 12) -> pl.DataFrame:
    return pl.DataFrame(
        [
            {"well": f"W{w}", "month": month, "oil": 10.0 * w + i, "water": 1.0 + i, "pad": "AB"[w % 2]}
            for w in range(wells)
            for i, month in enumerate(_months(months))
        ]
    )


def _source(folder: Path, *, path: str | None = "panel.parquet", **changes: Any) -> PanelFiles:
    source = {"path": path, **changes.pop("source", {})}
    columns = {"id": "well", "time": "month", "target": "oil", **changes.pop("columns", {})}
    spec = {"name": "own", "source": source, "columns": columns, "freq": "MS", "horizon": 3, **changes}
    return PanelFiles(WorkloadFile.model_validate(spec), folder)


def _read(source: PanelFiles, **changes: Any) -> RawData:
    return source.read(**{"as_of": None, "data": None, "now": NOW, **changes})


def test_the_frame_has_our_columns_in_our_types(tmp_path: Path) -> None:
    _panel().write_parquet(tmp_path / "panel.parquet")

    raw = _read(_source(tmp_path, columns={"covariates": {"water": "past", "pad": "static"}}))

    assert raw.frame.schema == {
        "unique_id": pl.String,
        "ds": pl.Datetime("us"),
        "y": pl.Float64,
        "water": pl.Float64,
        "pad": pl.String,
        "series_role": pl.String,
        "row_unparsable": pl.Boolean,
    }
    assert raw.as_of == datetime(2020, 12, 1)
    assert raw.frame.get_column("series_role").unique().to_list() == ["target"]
    assert raw.schema.covariates == {"water": "past", "pad": "static"}
    assert raw.notes == ()
    assert raw.origin == "panel.parquet"


def test_csv_and_parquet_hold_the_same(tmp_path: Path) -> None:
    frame = _panel().with_columns(pl.when(pl.col("oil") > 5).then("oil"))
    frame.write_parquet(tmp_path / "panel.parquet")
    frame.write_csv(tmp_path / "panel.csv")
    columns = {"covariates": {"water": "past", "pad": "static"}}

    parquet = _read(_source(tmp_path, columns=columns))
    csv = _read(_source(tmp_path, path="panel.csv", columns=columns))

    assert_frame_equal(parquet.frame, csv.frame)
    assert parquet.as_of == csv.as_of


def test_the_target_may_be_an_expression_over_the_row_and_the_length_of_its_month(tmp_path: Path) -> None:
    _panel(1).write_csv(tmp_path / "panel.csv")

    raw = _read(_source(tmp_path, path="panel.csv", columns={"target": "(oil + water) * 2 / days_in_period"}))

    february = raw.frame.filter(pl.col("ds") == datetime(2020, 2, 1)).row(0, named=True)
    assert february["y"] == pytest.approx((1.0 + 2.0) * 2 / 29)


def test_integer_columns_divide_as_numbers(tmp_path: Path) -> None:
    _panel(1).with_columns(pl.col("oil").cast(pl.Int64)).write_parquet(tmp_path / "panel.parquet")

    raw = _read(_source(tmp_path, columns={"target": "oil / 4"}))

    assert raw.frame.get_column("y")[1] == 0.25


def test_a_missing_part_makes_the_expression_missing_and_not_zero(tmp_path: Path) -> None:
    _panel(1).with_columns(pl.lit(None, pl.Float64).alias("water")).write_parquet(tmp_path / "panel.parquet")

    raw = _read(_source(tmp_path, columns={"target": "oil + water"}))

    assert raw.frame.get_column("y").null_count() == 12
    assert not raw.frame.get_column("row_unparsable").any()


def test_text_conditions_work_in_expressions(tmp_path: Path) -> None:
    _panel(2).write_csv(tmp_path / "panel.csv")

    raw = _read(_source(tmp_path, path="panel.csv", columns={"target": "CASE WHEN pad = 'A' THEN oil ELSE NULL END"}))

    known = raw.frame.filter(pl.col("y").is_not_null()).get_column("unique_id").unique().to_list()
    assert known == ["W0"]


def test_a_file_whose_columns_are_called_like_ours_is_not_confused(tmp_path: Path) -> None:
    frame = _panel(1).rename({"well": "y", "oil": "ds", "water": "unique_id"})
    frame.write_parquet(tmp_path / "panel.parquet")

    raw = _read(
        _source(
            tmp_path,
            columns={"id": "y", "target": "ds", "covariates": {"wet": {"column": "unique_id", "role": "past"}}},
        )
    )

    assert raw.frame.row(1)[:4] == ("W0", datetime(2020, 2, 1), 1.0, 2.0)


def test_text_in_numbers_and_times_is_missing_flagged_and_counted(tmp_path: Path) -> None:
    rows = [["W0", month.strftime("%Y-%m-%d"), str(i)] for i, month in enumerate(_months(12))]
    rows[3][2], rows[5][2], rows[7][2], rows[9][1] = "n.a.?", "", "null", "Oktober 2020"
    text = "well,month,oil\n" + "".join(",".join(row) + "\n" for row in rows)
    (tmp_path / "panel.csv").write_text(text)

    raw = _read(_source(tmp_path, path="panel.csv"))

    flagged = raw.frame.filter("row_unparsable")
    assert flagged.select("ds", "y").rows() == [(None, 9.0), (datetime(2020, 4, 1), None)]
    assert raw.frame.filter(pl.col("y").is_null() & ~pl.col("row_unparsable")).height == 2
    assert [(note.code, note.rows) for note in raw.notes] == [("unparsable_text_set_missing", 2)]


def test_thousands_decimal_commas_and_old_encodings_are_options(tmp_path: Path) -> None:
    rows = "".join(f"Brønn;{month:%d/%m/%Y};1.234,{i}\n" for i, month in enumerate(_months(6)))
    (tmp_path / "panel.csv").write_bytes(
        ("well;month;oil\n" + rows + "Brønn 2;01/03/2020;1.23,5\n").encode("windows-1252")
    )
    options = {
        "encoding": "windows-1252",
        "delimiter": ";",
        "thousands": ".",
        "decimal": ",",
        "date_format": "%d/%m/%Y",
    }

    raw = _read(_source(tmp_path, path="panel.csv", source={"options": options}))

    assert raw.frame.get_column("unique_id").unique().sort().to_list() == ["Brønn", "Brønn 2"]
    assert raw.frame.get_column("y")[2] == pytest.approx(1234.2)
    assert raw.frame.get_column("row_unparsable").to_list() == [False] * 6 + [True]  # 1.23,5 is a slip


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2020-03", datetime(2020, 3, 1)),
        ("2020-03-01", datetime(2020, 3, 1)),
        ("2020/03/01", datetime(2020, 3, 1)),
        ("20200301", datetime(2020, 3, 1)),
        ("01-Mar-20", datetime(2020, 3, 1)),
        ("01-Mar-2020", datetime(2020, 3, 1)),
        ("2020-03-01 06:30", datetime(2020, 3, 1, 6, 30)),
        ("2020-03-01T06:30:15", datetime(2020, 3, 1, 6, 30, 15)),
        ("2020-03-01 06:30:15.25", datetime(2020, 3, 1, 6, 30, 15, 250_000)),
        ("2020-03-01T06:30:15Z", datetime(2020, 3, 1, 6, 30, 15)),
        ("2020-03-01T06:30:15+02:00", datetime(2020, 3, 1, 4, 30, 15)),
        ("03/04/2020", None),
        ("20-03-01", None),
        ("1583020800", None),
    ],
)
def test_unambiguous_times_are_understood_and_others_left_alone(
    tmp_path: Path, text: str, expected: datetime | None
) -> None:
    rows = "".join(f"W0,{month:%Y-%m-%d},1\n" for month in _months(6, datetime(2019, 1, 1)))
    (tmp_path / "panel.csv").write_text("well,month,oil\n" + rows + f"W1,{text},1\n")

    raw = _read(_source(tmp_path, path="panel.csv"), as_of=datetime(2021, 1, 1))

    row = raw.frame.filter(pl.col("unique_id") == "W1").row(0, named=True)
    assert (row["ds"], row["row_unparsable"]) == (expected, expected is None)


def test_a_byte_order_mark_is_no_part_of_a_column_name(tmp_path: Path) -> None:
    _panel().write_csv(tmp_path / "panel.csv", include_bom=True)

    assert _read(_source(tmp_path, path="panel.csv")).frame.height == 36


def test_a_typed_time_is_cut_while_the_file_is_scanned(tmp_path: Path) -> None:
    _panel().write_parquet(tmp_path / "panel.parquet")
    lazy = scan(tmp_path / "panel.parquet", FileOptions())
    when, _ = time("month", lazy.collect_schema()["month"], FileOptions())

    plan = lazy.filter(known_at(when, datetime(2020, 6, 1), NOW)).select("oil").explain()

    assert "SELECTION" in plan
    assert "FILTER" not in plan


def test_times_with_a_zone_become_naive_utc(tmp_path: Path) -> None:
    frame = _panel(1).with_columns(pl.col("month").dt.replace_time_zone("Europe/Oslo"))
    frame.write_parquet(tmp_path / "panel.parquet")

    assert _read(_source(tmp_path)).frame.get_column("ds")[0] == datetime(2019, 12, 31, 23)


def test_ids_are_text_whatever_they_were(tmp_path: Path) -> None:
    frame = _panel(1).with_columns(pl.lit(7405.0).alias("well"))
    frame.write_parquet(tmp_path / "panel.parquet")

    assert _read(_source(tmp_path)).frame.get_column("unique_id").unique().to_list() == ["7405"]


def test_static_numbers_in_text_become_numbers_and_mixed_text_stays(tmp_path: Path) -> None:
    _panel(2).with_columns(
        pl.lit("12").alias("depth"),
        pl.when(pl.col("well") == "W0").then(pl.lit("3")).otherwise(pl.lit("B")).alias("zone"),
    ).write_csv(tmp_path / "panel.csv")

    raw = _read(_source(tmp_path, path="panel.csv", columns={"covariates": {"depth": "static", "zone": "static"}}))

    assert raw.frame.schema["depth"] == pl.Float64
    assert raw.frame.schema["zone"] == pl.String


def test_duplicates_wild_and_negative_values_are_left_for_the_gate(tmp_path: Path) -> None:
    frame = _panel(1)
    wild = frame.tail(1).with_columns(pl.lit(-1e12).alias("oil"))
    pl.concat([frame, wild]).write_parquet(tmp_path / "panel.parquet")

    raw = _read(_source(tmp_path))

    assert raw.frame.height == 13
    assert raw.frame.get_column("y").min() == -1e12


def test_rows_without_a_series_are_dropped_and_counted(tmp_path: Path) -> None:
    frame = _panel(2).with_columns(pl.when(pl.col("oil") != 3.0).then("well"))
    frame.write_parquet(tmp_path / "panel.parquet")

    raw = _read(_source(tmp_path))

    assert raw.frame.get_column("unique_id").null_count() == 0
    assert [(note.code, note.rows) for note in raw.notes] == [("rows_without_id_dropped", 1)]


def test_no_row_after_the_as_of_date_is_used_except_impossible_ones(tmp_path: Path) -> None:
    odd = pl.DataFrame({"well": ["W9"], "month": [datetime(2031, 1, 1)], "oil": [1.0], "water": [1.0], "pad": ["A"]})
    pl.concat([_panel(), odd]).write_parquet(tmp_path / "panel.parquet")

    raw = _read(_source(tmp_path), as_of=datetime(2020, 6, 15))

    assert raw.as_of == datetime(2020, 6, 15)
    assert sorted(raw.frame.get_column("ds").unique()) == [*_months(6), datetime(2031, 1, 1)]
    assert [(note.code, note.rows) for note in raw.notes] == [("rows_after_the_clock", 1)]


def test_a_stray_last_date_does_not_move_the_as_of_date(tmp_path: Path) -> None:
    stray = pl.DataFrame({"well": ["W1"], "month": [datetime(2023, 5, 1)], "oil": [1.0], "water": [1.0], "pad": ["A"]})
    pl.concat([_panel(wells=30), stray]).write_parquet(tmp_path / "panel.parquet")

    raw = _read(_source(tmp_path))

    assert raw.as_of == datetime(2020, 12, 1)
    assert raw.frame.get_column("ds").max() == datetime(2020, 12, 1)


def test_rows_that_report_nothing_do_not_move_the_as_of_date(tmp_path: Path) -> None:
    frame = _panel().with_columns(pl.when(pl.col("month") < datetime(2020, 10, 1)).then("oil"))
    frame.write_parquet(tmp_path / "panel.parquet")

    assert _read(_source(tmp_path)).as_of == datetime(2020, 9, 1)


def test_the_as_of_date_is_never_after_the_clock(tmp_path: Path) -> None:
    _panel().write_parquet(tmp_path / "panel.parquet")

    raw = _read(_source(tmp_path), now=datetime(2020, 8, 20))

    assert raw.as_of == datetime(2020, 8, 1)


def test_a_folder_and_a_glob_read_all_their_files(tmp_path: Path) -> None:
    for number, part in enumerate(_panel(2).partition_by("well")):
        part.write_csv(tmp_path / f"part{number}.csv")

    folder = _read(_source(tmp_path, path="."))
    glob = _read(_source(tmp_path, path="part*.csv"))

    assert folder.frame.height == 24
    assert_frame_equal(folder.frame, glob.frame)


def test_data_overrides_the_declared_path(tmp_path: Path) -> None:
    _panel(2).write_parquet(tmp_path / "other.parquet")

    raw = _read(_source(tmp_path, path="missing.parquet"), data=tmp_path / "other.parquet")

    assert raw.frame.height == 24


def test_planned_values_come_from_their_own_file(tmp_path: Path) -> None:
    _panel(1).write_parquet(tmp_path / "panel.parquet")
    ahead = pl.DataFrame({"well": ["W0"] * 3, "month": _months(3, datetime(2021, 1, 1)), "water": [1.0, None, 3.0]})
    ahead.write_csv(tmp_path / "plan.csv")

    raw = _read(_source(tmp_path, source={"plan": "plan.csv"}, columns={"covariates": {"water": "plan"}}))

    assert raw.plan is not None
    assert raw.plan.columns == ["unique_id", "ds", "water"]
    assert raw.plan.get_column("water").to_list() == [1.0, None, 3.0]
    assert raw.frame.get_column("ds").max() == datetime(2020, 12, 1)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("well,month,water\nW0,2021-01-01,1\nW0,2021-01-01,2\n", "2 rows for a series and time it has already"),
        ("well,month,water\nW0,soon,1\n", "text in place of a number or time"),
        ("well,month,watr\nW0,2021-01-01,1\n", "no column 'water'.*did you mean 'watr'"),
        ("well,month,water\n", "holds no rows"),
    ],
)
def test_a_wrong_plan_is_refused(tmp_path: Path, text: str, match: str) -> None:
    _panel(1).write_parquet(tmp_path / "panel.parquet")
    (tmp_path / "plan.csv").write_text(text)

    with pytest.raises(SourceError, match=match):
        _read(_source(tmp_path, source={"plan": "plan.csv"}, columns={"covariates": {"water": "plan"}}))


def test_a_plan_without_a_plan_covariate_is_refused(tmp_path: Path) -> None:
    _panel(1).write_parquet(tmp_path / "panel.parquet")

    with pytest.raises(SourceError, match="no covariate has the role plan"):
        _read(_source(tmp_path, source={"plan": "plan.csv"}))


@pytest.mark.parametrize(
    ("columns", "match"),
    [
        ({"id": "wel"}, r"no column 'wel'; expected one of well, month, .*did you mean 'well'\? correct columns\.id"),
        ({"time": "date"}, r"no column 'date'.*columns\.time"),
        ({"target": "Oil"}, r"no column 'Oil'.*did you mean 'oil'"),
        ({"target": "oil + watr"}, r"no column 'watr'.*did you mean 'water'"),
        ({"target": "oil rate (m3/d)"}, r"no column 'oil rate \(m3/d\)'"),
        ({"target": "SUM(oil)"}, "joins several rows"),
        ({"target": "LEAD(oil) OVER (PARTITION BY well ORDER BY month)"}, "joins several rows"),
        ({"target": "5"}, "names no column"),
        ({"target": "month"}, "holds Datetime"),
        ({"covariates": {"gas": "past"}}, r"no column 'gas'.*columns\.covariates\.gas"),
    ],
)
def test_a_column_that_is_not_there_is_named_with_the_nearest_one(
    tmp_path: Path, columns: dict[str, Any], match: str
) -> None:
    _panel().write_parquet(tmp_path / "panel.parquet")

    with pytest.raises(SourceError, match=match) as caught:
        _read(_source(tmp_path, columns=columns))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("path", "match"),
    [
        ("missing.parquet", r"no file or folder .*missing\.parquet.*correct the file name"),
        ("panl.parquet", r"did you mean .*panel\.parquet"),
        ("nowhere/panel.parquet", "the folder .*nowhere does not exist"),
        ("*.csv", r"no file matches .*\*\.csv"),
        ("notes.txt", r"ends in '\.txt'.*\.parquet"),
        ("empty", "holds no table"),
        ("both", "several formats"),
        ("torn.parquet", "torn.parquet cannot be read"),
        ("ragged.csv", "ragged.csv cannot be read.*delimiter"),
        ("latin.csv", r"latin.csv cannot be read.*source\.options\.encoding"),
        ("blank.csv", "blank.csv is empty"),
        ("header.csv", "holds no rows"),
        (None, r"names no input.*set source\.path"),
    ],
)
def test_an_input_that_cannot_be_read_is_named_with_the_remedy(tmp_path: Path, path: str | None, match: str) -> None:
    _panel().write_parquet(tmp_path / "panel.parquet")
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "empty").mkdir()
    (tmp_path / "both").mkdir()
    _panel().write_csv(tmp_path / "both" / "a.csv")
    _panel().write_parquet(tmp_path / "both" / "a.parquet")
    (tmp_path / "torn.parquet").write_bytes(b"PAR1 torn")
    (tmp_path / "ragged.csv").write_text("well,month,oil\nW0,2020-01-01,1,2,3\n")
    (tmp_path / "latin.csv").write_bytes("well,month,oil\nBrønn,2020-01-01,1\n".encode("latin-1"))
    (tmp_path / "blank.csv").write_text("")
    (tmp_path / "header.csv").write_text("well,month,oil\n")

    with pytest.raises(SourceError, match=match) as caught:
        _read(_glob(tmp_path) if path == "*.csv" else _source(tmp_path, path=path))
    assert "\n" not in str(caught.value)


def _glob(folder: Path) -> PanelFiles:
    (folder / "void").mkdir()
    return _source(folder / "void", path="*.csv")


def test_nothing_before_the_as_of_date_is_an_error(tmp_path: Path) -> None:
    _panel().write_parquet(tmp_path / "panel.parquet")

    with pytest.raises(SourceError, match="no row at or before 2019-06-01"):
        _read(_source(tmp_path), as_of=datetime(2019, 6, 1))


def test_only_impossible_dates_are_an_error(tmp_path: Path) -> None:
    _panel().write_parquet(tmp_path / "panel.parquet")

    with pytest.raises(SourceError, match="its dates run from 2020-01-01 to 2020-12-01"):
        _read(_source(tmp_path), now=datetime(2010, 1, 1))


def test_an_as_of_date_after_the_clock_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="lies after the clock"):
        _read(_source(tmp_path), as_of=datetime(2025, 1, 1))


def test_a_time_column_that_nobody_understands_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "panel.csv").write_text("well,month,oil\nW0,03/04/2020,1\n")

    with pytest.raises(SourceError, match=r"no time .*date_format"):
        _read(_source(tmp_path, path="panel.csv"))


@pytest.mark.parametrize(("horizon", "enough"), [(10, True), (11, False)])
def test_the_longest_series_must_have_two_rows_more_than_the_horizon(
    tmp_path: Path, horizon: int, enough: bool
) -> None:
    _panel().write_parquet(tmp_path / "panel.parquet")
    source = _source(tmp_path, horizon=horizon)

    if enough:
        assert _read(source).frame.height == 36
    else:
        with pytest.raises(SourceError, match=r"horizon of 11 is too long.*\(W0\) has 12 rows.*at least 13"):
            _read(source)


def test_bars_are_refused_by_the_panel_path(tmp_path: Path) -> None:
    spec = WorkloadFile.model_validate({"name": "mine", "kind": "bars", "source": {"path": "bars.csv"}})

    with pytest.raises(ConfigError, match="'mine' is of kind 'bars'; expected kind: panel"):
        _read(PanelFiles(spec, tmp_path))
