"""Norne from its monthly table and from the deck."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from nightcast.contracts.errors import ConfigError, SourceError
from nightcast.contracts.source import RawData
from nightcast.sources.norne import NorneSource
from nightcast.sources.spec import WorkloadFile

NOW = datetime(2024, 1, 1)


def _source(folder: Path, **changes: Any) -> NorneSource:
    spec = {
        "name": "norne",
        "source": {"kind": "norne", "path": "."},
        "freq": "MS",
        "horizon": 2,
        "lower": 0,
        **changes,
    }
    return NorneSource(WorkloadFile.model_validate(spec), folder)


def _read(source: NorneSource, **changes: Any) -> RawData:
    return source.read(**{"as_of": None, "data": None, "now": NOW, **changes})


def _write(folder: Path, *, wells: bool = True) -> None:
    rows = []
    for i in range(8):
        month = datetime(1997 + (10 + i) // 12, (10 + i) % 12 + 1, 1)
        rows.append(("P-1", month, 100.0 * (i > 0), 0.0, 0.0, 15.0 * (i > 0), 0.0))
        rows.append(("I-1", month, 0.0, 50.0 * (i > 1), 9.0 * (i == 1), 0.0, 10.0 * (i > 0)))
        # A producer that is made an injector, with a pause between.
        rows.append(("C-1", month, 70.0 * (i < 4), 30.0 * (i > 4), 0.0, 30.0 * (i < 4), 28.0 * (i > 4)))
    rows.append(("X-1", datetime(1998, 1, 1), 0.0, 0.001, 0.0, 0.0, 0.0))
    names = ["well", "date", "liquid_sm3_d", "water_inj_sm3_d", "gas_inj_sm3_d", "days_producing", "days_injecting"]
    pl.DataFrame(rows, schema=names, orient="row").write_parquet(folder / "monthly.parquet")
    if wells:
        pl.DataFrame(
            {"well": ["P-1", "I-1", "C-1"], "well_group": ["B", "C", "C"], "i_cell": [1, 2, 3], "j_cell": [10, 20, 30]}
        ).write_parquet(folder / "wells.parquet")


def test_producers_are_targets_and_injectors_support(tmp_path: Path) -> None:
    _write(tmp_path)

    raw = _read(_source(tmp_path))

    roles = raw.frame.select("unique_id", "series_role").unique().sort("unique_id").rows()
    assert roles == [("C-1", "target"), ("C-1 (injector)", "support"), ("I-1 (injector)", "support"), ("P-1", "target")]
    assert raw.frame.filter(pl.col("series_role") == "support").get_column("y").null_count() == 10
    assert raw.schema.covariates == {
        "uptime": "past",
        "wwir": "past",
        "x_m": "static",
        "y_m": "static",
        "well_group": "static",
    }
    injector = raw.frame.filter(pl.col("unique_id") == "I-1 (injector)").row(1, named=True)
    assert (injector["wwir"], injector["x_m"], injector["y_m"], injector["well_group"]) == (50.0, 200.0, 2000.0, "C")
    assert injector["uptime"] == pytest.approx(10 / 31)


def test_a_well_that_pauses_keeps_its_kind_until_it_flows_again(tmp_path: Path) -> None:
    _write(tmp_path)

    frame = _read(_source(tmp_path)).frame

    assert frame.filter(pl.col("unique_id") == "C-1").get_column("y").to_list() == [70.0] * 4 + [0.0]
    assert frame.filter(pl.col("unique_id") == "C-1 (injector)").get_column("wwir").to_list() == [30.0] * 3


def test_rows_before_the_first_flow_are_dropped_and_counted(tmp_path: Path) -> None:
    _write(tmp_path)

    raw = _read(_source(tmp_path))

    notes = {note.code: note for note in raw.notes}
    assert notes["placeholder_rows_dropped"].rows == 3
    assert "X-1 never flowed" in notes["placeholder_rows_dropped"].detail
    assert notes["partial_month_kept"].rows == 1
    assert notes["gas_injection_left_out"].rows == 1


def test_what_happens_later_does_not_change_earlier_rows(tmp_path: Path) -> None:
    _write(tmp_path)
    whole = _read(_source(tmp_path)).frame
    cut = datetime(1998, 3, 1)

    early = _read(_source(tmp_path), as_of=cut)

    assert_frame_equal(early.frame, whole.filter(pl.col("ds") <= cut))
    assert "C-1 (injector)" not in early.frame.get_column("unique_id")


def test_finding_the_as_of_date_and_naming_it_give_the_same_notes(tmp_path: Path) -> None:
    _write(tmp_path)
    found = _read(_source(tmp_path))

    named = _read(_source(tmp_path), as_of=found.as_of)

    assert named.notes == found.notes


def test_without_a_table_of_wells_there_are_no_positions(tmp_path: Path) -> None:
    _write(tmp_path, wells=False)

    assert _read(_source(tmp_path)).schema.covariates == {"uptime": "past", "wwir": "past"}


def test_covariates_can_be_chosen_and_unknown_ones_are_refused(tmp_path: Path) -> None:
    _write(tmp_path)

    chosen = _read(_source(tmp_path, columns={"covariates": {"wwir": "past"}}))

    assert chosen.schema.covariates == {"wwir": "past"}
    with pytest.raises(ConfigError, match="no covariate 'wbhp'"):
        _read(_source(tmp_path, columns={"covariates": {"wbhp": "past"}}))


def test_the_deck_gives_the_same_kind_of_rows(tmp_path: Path) -> None:
    lines = ["WELSPECS\n 'P-1' 'MANI-B' 3 4 1* 'OIL' /\n 'I-1' 'MANI-C' 5 6 1* 'OIL' /\n/"]
    for month, name in enumerate(("DEC", "JAN", "FEB", "MAR", "APR", "MAY")):
        lines.append("WCONHIST\n 'P-1' OPEN RESV 90.0 10.0 1 /\n/\nWCONINJE\n 'I-1' WATER OPEN RATE 60 /\n/")
        lines.append(f"DATES\n 1 '{name}' {1997 + (month > 0)} /\n/")
    (tmp_path / "HIST.SCH").write_text("\n".join(lines) + "\n")

    raw = _read(_source(tmp_path))

    assert raw.as_of == datetime(1998, 4, 1)
    assert raw.frame.filter(pl.col("unique_id") == "P-1").get_column("y").to_list() == pytest.approx(
        [100 * 25 / 30] + [100.0] * 5
    )
    assert raw.frame.filter(pl.col("series_role") == "support").get_column("wwir")[-1] == 60.0
    assert raw.frame.get_column("x_m").unique().sort().to_list() == [300.0, 500.0]


def test_wrong_inputs_are_named(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"holds no monthly\.parquet and 0 schedule files"):
        _read(_source(tmp_path))
    pl.DataFrame({"well": ["a"], "when": [1]}).write_parquet(tmp_path / "monthly.parquet")
    with pytest.raises(SourceError, match="no column 'date'"):
        _read(_source(tmp_path))
    with pytest.raises(ConfigError, match="freq D is not one Norne comes in"):
        _read(_source(tmp_path, freq="D"))
    with pytest.raises(SourceError, match="names no input"):
        _read(_source(tmp_path, source={"kind": "norne"}))
