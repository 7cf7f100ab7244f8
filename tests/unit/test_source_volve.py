"""Volve from the workbook, exports and Parquet."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from nightcast.contracts.errors import ConfigError, SourceError
from nightcast.contracts.source import RawData
from nightcast.sources.spec import WorkloadFile
from nightcast.sources.volve import VolveSource

NOW = datetime(2024, 1, 1)
HEADER = (
    "DATEPRD,WELL_BORE_CODE,NPD_WELL_BORE_NAME,ON_STREAM_HRS,AVG_DOWNHOLE_PRESSURE,AVG_CHOKE_SIZE_P,AVG_WHP_P,"
    "BORE_OIL_VOL,BORE_WAT_VOL,BORE_WI_VOL,FLOW_KIND,WELL_TYPE,NPD_FACILITY_NAME"
)
MONTHLY = """\
Wellbore name,NPDCode,Year,Month,On Stream,Oil,Gas,Water,GI,WI
,,,,hrs,Sm3,Sm3,Sm3,Sm3,Sm3
F-12,1,2014,1,"745","1,240","9,999,999",310,NULL,NULL
F-12,1,2014,2,336,840,1,-28,NULL,NULL
F-12,1,2014,3,0,0,0,0,NULL,NULL
F-12,1,2014,4,n/k,300,1,300,NULL,NULL
F-12,1,2014,5,744,620,1,620,NULL,NULL
F-5,2,2014,1,,NULL,NULL,NULL,NULL,NULL
F-5,2,2014,2,672,NULL,NULL,NULL,NULL,"2,800"
F-5,2,2014,3,700,155,1,0,NULL,"1,550"
F-5,2,2014,4,720,60,1,30,NULL,0
F-5,2,2014,5,744,62,1,31,NULL,NULL
"""


def _source(folder: Path, **changes: Any) -> VolveSource:
    spec = {
        "name": "volve",
        "source": {"kind": "volve", "path": "."},
        "freq": "MS",
        "horizon": 2,
        "lower": 0,
        **changes,
    }
    return VolveSource(WorkloadFile.model_validate(spec), folder)


def _read(source: VolveSource, **changes: Any) -> RawData:
    return source.read(**{"as_of": None, "data": None, "now": NOW, **changes})


def _notes(raw: RawData) -> dict[str, int]:
    return {note.code: note.rows for note in raw.notes}


def _row(raw: RawData, series: str, month: int) -> dict[str, Any]:
    return raw.frame.filter((pl.col("unique_id") == series) & (pl.col("ds") == datetime(2014, month, 1))).row(
        0, named=True
    )


def _daily_lines() -> list[str]:
    lines = []
    for day in (datetime(2014, 1, 1) + timedelta(days=i) for i in range(150)):
        if day == datetime(2014, 2, 10):
            continue  # a day nobody reported
        hours = "25.00" if day == datetime(2014, 1, 26) else "12.00"
        gauge = "0.000" if day.day % 2 else "200.5"
        water = "-7" if day == datetime(2014, 1, 5) else "10"
        date = day.strftime("%d-%b-%y")
        lines.append(f'{date},NO F-12,F-12,{hours},{gauge},50.0,30.0,"1,000",{water},,production,OP,MÆRSK')
        kind = "injection,WI" if day < datetime(2014, 3, 11) else "production,OP"
        volumes = ',,"3,100"' if day < datetime(2014, 3, 11) else "31,0,"
        lines.append(f"{date},NO F-5,F-5,24,,,0,{volumes},{kind},MÆRSK")
    return lines


def _write_daily(folder: Path) -> Path:
    path = folder / "raw_daily.csv"
    path.write_bytes(("\r\n".join([HEADER, *_daily_lines()]) + "\r\n").encode("windows-1252"))
    return path


def _write_workbook(folder: Path, sheet: str) -> Path:
    import openpyxl

    book = openpyxl.Workbook()
    page = book.active
    assert page is not None
    page.title = sheet
    page.append(HEADER.split(","))
    for line in _daily_lines():
        # The export's cells as a workbook holds them: real dates and numbers.
        cells: list[Any] = line.replace('"1,000"', "1000").replace('"3,100"', "3100").split(",")
        typed = [datetime.strptime(cells[0], "%d-%b-%y"), *cells[1:3]]
        typed += [float(cell) if cell else None for cell in cells[3:10]] + cells[10:]
        page.append(typed)
    path = folder / "Volve production data.xlsx"
    book.save(path)
    return path


def test_the_monthly_export_gives_rates_per_calendar_day(tmp_path: Path) -> None:
    (tmp_path / "raw_monthly.csv").write_text(MONTHLY, newline="\r\n")

    raw = _read(_source(tmp_path))

    assert raw.schema.covariates == {"uptime": "past", "wwir": "past"}
    assert _row(raw, "F-12", 1)["y"] == pytest.approx(1550 / 31)
    assert _row(raw, "F-12", 1)["uptime"] == 1.0  # 745 hours in January
    assert _row(raw, "F-12", 2)["uptime"] == pytest.approx(0.5)
    assert _row(raw, "F-12", 3)["y"] == 0.0
    assert raw.as_of == datetime(2014, 5, 1)


def test_every_treatment_of_the_monthly_export_is_counted(tmp_path: Path) -> None:
    (tmp_path / "raw_monthly.csv").write_text(MONTHLY)

    assert _notes(_read(_source(tmp_path))) == {
        "units_line_dropped": 1,
        "unparsable_text_set_missing": 1,
        "negative_water_set_missing": 1,
        "clock_hours_clipped": 1,
        "mixed_month_split": 1,
        "rows_without_volumes_dropped": 1,
        "injecting_rows_made_support": 2,
        "injector_became_producer": 3,
    }


def test_unreadable_hours_are_missing_and_the_row_is_flagged(tmp_path: Path) -> None:
    (tmp_path / "raw_monthly.csv").write_text(MONTHLY)

    row = _row(_read(_source(tmp_path)), "F-12", 4)

    assert (row["uptime"], row["row_unparsable"], row["y"]) == (None, True, 20.0)


def test_a_month_with_injection_and_production_becomes_two_rows_without_hours(tmp_path: Path) -> None:
    (tmp_path / "raw_monthly.csv").write_text(MONTHLY)

    raw = _read(_source(tmp_path))

    producing, injecting = _row(raw, "F-5", 3), _row(raw, "F-5 (injector)", 3)
    assert (producing["y"], producing["uptime"], producing["wwir"]) == (5.0, None, 0.0)
    assert (injecting["y"], injecting["uptime"], injecting["wwir"]) == (None, None, 50.0)
    assert raw.frame.filter(pl.col("unique_id") == "F-5").get_column("ds").min() == datetime(2014, 3, 1)
    assert raw.frame.filter(pl.col("unique_id") == "F-5 (injector)").height == 2


def test_junk_in_an_injector_s_only_volume_stays_with_the_injector(tmp_path: Path) -> None:
    (tmp_path / "raw_monthly.csv").write_text(MONTHLY + "F-4,3,2014,3,1,NULL,,,,100\nF-4,3,2014,4,1,NULL,,,,1OO\n")

    row = _row(_read(_source(tmp_path)), "F-4 (injector)", 4)

    assert (row["wwir"], row["row_unparsable"], row["series_role"]) == (None, True, "support")


def test_days_become_months_with_pressures_of_the_days_on_stream(tmp_path: Path) -> None:
    _write_daily(tmp_path)

    raw = _read(_source(tmp_path))

    january, february = _row(raw, "F-12", 1), _row(raw, "F-12", 2)
    assert january["y"] == pytest.approx((31 * 1000 + 30 * 10) / 31)
    assert january["uptime"] == pytest.approx((30 * 12 + 25) / (31 * 24))
    assert (january["wbhp"], january["whp"], january["choke"], january["wwir"]) == (200.5, 30.0, 50.0, 0.0)
    assert february["y"] == pytest.approx(27 * 1010 / 28)  # the missing day adds nothing
    assert _row(raw, "F-5 (injector)", 3)["wwir"] == pytest.approx(10 * 3100 / 31)
    assert _row(raw, "F-5", 3)["y"] == pytest.approx(21 * 31 / 31)
    notes = _notes(raw)
    assert (notes["negative_water_set_missing"], notes["clock_hours_clipped"]) == (1, 1)
    assert notes["days_without_a_row"] == 2
    assert notes["dead_gauge_set_missing"] == sum(
        1 for i in range(150) if (datetime(2014, 1, 1) + timedelta(days=i)).day % 2
    )


def test_days_stay_days_where_the_workload_asks_for_them(tmp_path: Path) -> None:
    _write_daily(tmp_path)

    raw = _read(_source(tmp_path, freq="D"))

    day = raw.frame.filter((pl.col("unique_id") == "F-12") & (pl.col("ds") == datetime(2014, 1, 26))).row(0, named=True)
    assert (day["y"], day["uptime"]) == (1010.0, 1.0)
    wrong = raw.frame.filter((pl.col("unique_id") == "F-12") & (pl.col("ds") == datetime(2014, 1, 5)))
    assert wrong.get_column("y").to_list() == [None]  # negative water: the day's liquid is unknown
    assert raw.as_of == datetime(2014, 5, 30)


@pytest.mark.parametrize("sheet", ["Dayle", "Daily Production Data"])
def test_the_workbook_and_its_export_hold_the_same(tmp_path: Path, sheet: str) -> None:
    workbook, export = _write_workbook(tmp_path, sheet), _write_daily(tmp_path)

    from_book = _read(_source(tmp_path), data=workbook)
    from_export = _read(_source(tmp_path), data=export)

    assert_frame_equal(from_book.frame, from_export.frame)
    assert from_book.notes == from_export.notes


def test_a_folder_gives_its_daily_table_before_its_monthly_one(tmp_path: Path) -> None:
    (tmp_path / "raw_monthly.csv").write_text(MONTHLY)
    assert "wbhp" not in _read(_source(tmp_path)).schema.covariates

    _write_daily(tmp_path)

    assert "wbhp" in _read(_source(tmp_path)).schema.covariates


def test_the_past_does_not_know_that_an_injector_will_produce(tmp_path: Path) -> None:
    _write_daily(tmp_path)
    whole = _read(_source(tmp_path, horizon=1)).frame
    cut = datetime(2014, 2, 1)

    early = _read(_source(tmp_path, freq="D", horizon=1), as_of=cut).frame

    assert early.get_column("unique_id").unique().sort().to_list() == ["F-12", "F-5 (injector)"]
    later = _read(_source(tmp_path, horizon=1), as_of=datetime(2014, 3, 1)).frame
    assert_frame_equal(later, whole.filter(pl.col("ds") <= datetime(2014, 3, 1)))


def test_notes_count_known_rows_only(tmp_path: Path) -> None:
    (tmp_path / "raw_monthly.csv").write_text(MONTHLY.replace("744,620,1,620", "744,620,1,-620"))

    notes = _notes(_read(_source(tmp_path), as_of=datetime(2014, 4, 1)))

    assert notes["negative_water_set_missing"] == 1


def test_a_month_that_has_not_ended_is_left_out(tmp_path: Path) -> None:
    _write_daily(tmp_path)

    raw = _read(_source(tmp_path), now=datetime(2014, 5, 20))

    assert raw.as_of == datetime(2014, 4, 1)
    assert raw.frame.get_column("ds").max() == datetime(2014, 4, 1)


def test_covariates_can_be_chosen_and_unknown_ones_are_refused(tmp_path: Path) -> None:
    _write_daily(tmp_path)

    assert _read(_source(tmp_path, columns={"covariates": {"wbhp": "past"}})).schema.covariates == {"wbhp": "past"}
    with pytest.raises(ConfigError, match="no covariate 'gor'"):
        _read(_source(tmp_path, columns={"covariates": {"gor": "past"}}))


def test_wrong_inputs_are_named(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="holds no production table of Volve"):
        _read(_source(tmp_path))
    with pytest.raises(SourceError, match="names no input"):
        _read(_source(tmp_path, source={"kind": "volve"}))
    with pytest.raises(SourceError, match="there is no file or folder"):
        _read(_source(tmp_path), data=tmp_path / "none.xlsx")
    (tmp_path / "torn.xlsx").write_bytes(b"PK torn")
    with pytest.raises(SourceError, match=r"torn\.xlsx cannot be read"):
        _read(_source(tmp_path), data=tmp_path / "torn.xlsx")
    (tmp_path / "torn.xlsx").unlink()
    (tmp_path / "raw_monthly.csv").write_text(MONTHLY)
    with pytest.raises(SourceError, match="holds months, and freq is D"):
        _read(_source(tmp_path, freq="D"))
    with pytest.raises(ConfigError, match="freq W-MON is not one Volve comes in"):
        _read(_source(tmp_path, freq="W"))
    (tmp_path / "short.csv").write_text(HEADER.replace(",AVG_WHP_P", "") + "\n")
    with pytest.raises(SourceError, match="lacks whp"):
        _read(_source(tmp_path), data=tmp_path / "short.csv")
