"""Well histories from an Eclipse deck."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import polars as pl
import pytest

from nightcast.contracts.errors import SourceError
from nightcast.sources.eclipse_schedule import STEP_SCHEMA, monthly_rates, read_schedule

DECK = """\
-- a schedule by hand -- with 'quotes' in a comment
RPTSCHED
 FIP=2 WELLS /

START
 10 'JAN' 2000 /

WELSPECS
 'P-1' 'MANI-B' 11 35 1* 'OIL' /   comment after the slash
 'I-1' 'MANI-C' 2 3 2* /           two defaults: depth and phase
/

WCONHIST
-- name  status mode  oil   water gas  vfp
 'P-1'  'OPEN' 'ORAT' 100.0 20.0  5D3  4* /
/
WCONINJE
 'I-1' 'WATER' 'OPEN' 'RATE' 300.0 /
/

DATES
 20 'JAN' 2000 /
/

WCONHIST
 'P-1' 1* 'RESV' 2*50.0 0 /
/
WCONINJE
 'I-1' 'GAS' 1* 'RATE' 9000 1* /
/
DATES
 1 'FEB' 2000 /
 1 'MAR' 2000 /
/
WCONHIST
 'P-1' OPEN ORAT 0 * * /
/
DATES
 1 'APR' 2000 /
/
"""


def _deck(folder: Path, text: str = DECK) -> Path:
    path = folder / "HIST.SCH"
    path.write_text(text)
    return path


def test_each_well_and_report_step_is_one_row(tmp_path: Path) -> None:
    steps = read_schedule(_deck(tmp_path)).steps

    assert dict(steps.schema) == STEP_SCHEMA
    producer = steps.filter(pl.col("well") == "P-1")
    columns = ["period_start", "period_end", "control", "oil_sm3_d", "water_sm3_d", "gas_sm3_d", "listed"]
    assert producer.select(columns).rows() == [
        (datetime(2000, 1, 10), datetime(2000, 1, 20), "ORAT", 100.0, 20.0, 5000.0, True),
        (datetime(2000, 1, 20), datetime(2000, 2, 1), "RESV", 50.0, 50.0, 0.0, True),
        (datetime(2000, 2, 1), datetime(2000, 3, 1), "RESV", 50.0, 50.0, 0.0, False),
        (datetime(2000, 3, 1), datetime(2000, 4, 1), "ORAT", 0.0, 0.0, 0.0, True),
    ]
    injector = steps.filter(pl.col("well") == "I-1")
    assert injector.get_column("inj_phase").to_list() == ["WATER", "GAS", "GAS", "GAS"]
    assert injector.get_column("water_inj_sm3_d").to_list() == [300.0, None, None, None]


def test_wells_keep_group_and_cells_of_their_introduction(tmp_path: Path) -> None:
    wells = read_schedule(_deck(tmp_path)).wells

    assert wells.rows() == [
        ("P-1", datetime(2000, 1, 10), "MANI-B", 11, 35, "OIL"),
        ("I-1", datetime(2000, 1, 10), "MANI-C", 2, 3, None),
    ]


def test_months_are_time_weighted_over_calendar_days(tmp_path: Path) -> None:
    months = monthly_rates(read_schedule(_deck(tmp_path)).steps)

    january, february, march = months.filter(pl.col("well") == "P-1").rows(named=True)
    assert january["liquid_sm3_d"] == pytest.approx((120 * 10 + 100 * 12) / 31)
    assert january["oil_sm3_d"] == pytest.approx((100 * 10 + 50 * 12) / 31)
    assert (january["days_producing"], january["listed"]) == (22.0, True)
    assert (february["liquid_sm3_d"], february["days_producing"], february["listed"]) == (100.0, 29.0, False)
    assert (march["liquid_sm3_d"], march["days_producing"], march["listed"]) == (0.0, 0.0, True)
    first = months.filter(pl.col("well") == "I-1").row(0, named=True)
    assert first["water_inj_sm3_d"] == pytest.approx(300 * 10 / 31)
    assert first["gas_inj_sm3_d"] == pytest.approx(9000 * 12 / 31)
    assert first["days_injecting"] == 22.0


def test_a_step_over_several_months_is_shared_between_them(tmp_path: Path) -> None:
    text = "WCONHIST\n 'P' OPEN ORAT 10 0 0 /\n/\nDATES\n 15 'MAR' 2000 /\n/\n"

    months = monthly_rates(read_schedule(_deck(tmp_path, text), start=datetime(2000, 1, 1)).steps)

    assert months.get_column("date").to_list() == [datetime(2000, m, 1) for m in (1, 2, 3)]
    assert months.get_column("oil_sm3_d").to_list() == pytest.approx([10, 10, 10 * 14 / 31])


def test_months_that_do_not_name_a_well_between_two_that_do_are_zero(tmp_path: Path) -> None:
    text = (
        "WCONHIST\n 'P' OPEN ORAT 0 0 0 /\n/\nDATES\n 1 'FEB' 2000 /\n 1 'MAR' 2000 /\n/\n"
        "WCONHIST\n 'P' OPEN ORAT 7 0 0 /\n/\nDATES\n 1 'APR' 2000 /\n/\n"
    )

    months = monthly_rates(read_schedule(_deck(tmp_path, text), start=datetime(2000, 1, 1)).steps)

    assert months.select("oil_sm3_d", "listed").rows() == [(0.0, True), (0.0, False), (7.0, True)]


def test_a_well_shut_by_welopen_stops_flowing_and_one_shut_by_status_too(tmp_path: Path) -> None:
    text = (
        "WELSPECS\n 'B-1' 'G' 1 1 /\n 'B-2' 'G' 1 2 /\n/\n"
        "WCONHIST\n 'B-1' OPEN ORAT 10 0 0 /\n 'B-2' SHUT ORAT 10 0 0 /\n/\nTSTEP\n 31 /\n"
        "WELOPEN\n 'B-1' SHUT 0 0 3 /\n/\nTSTEP\n 29 /\n"
        "WELOPEN\n 'B-*' SHUT /\n/\nTSTEP\n 31 /\n"
    )

    months = monthly_rates(read_schedule(_deck(tmp_path, text), start=datetime(2000, 1, 1)).steps)

    first = months.filter(pl.col("well") == "B-1")
    assert first.get_column("oil_sm3_d").to_list() == [10.0, 10.0]  # a shut connection is not a shut well
    assert months.filter(pl.col("well") == "B-2").get_column("oil_sm3_d").to_list() == [0.0]


def test_dates_may_carry_a_time_of_day(tmp_path: Path) -> None:
    text = "WCONHIST\n 'P' OPEN ORAT 10 0 0 /\n/\nDATES\n 1 'JLY' 2000 '12:30:15' /\n/\n"

    steps = read_schedule(_deck(tmp_path, text), start=datetime(2000, 6, 1)).steps

    assert steps.get_column("period_end").to_list() == [datetime(2000, 7, 1, 12, 30, 15)]


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("DATES\n 31 'FEB' 2000 /\n/\n", r"line 2: the date '31 FEB 2000'"),
        ("DATES\n 1 'FEV' 2000 /\n/\n", r"month's name"),
        ("START\n 1 'FEB' 2000 /\nWCONHIST\n 'P' OPEN ORAT ten /\n/\n", r"line 4: the item 'ten'; expected a number"),
        ("WCONHIST\n 'P' OPEN ORAT 10 /\n/\nDATES\n 1 'FEB' 2000 /\n/\n", "before the first date"),
        ("START\n 1 'FEB' 2000 /\nWCONINJE\n 'P' STEAM OPEN RATE 1 /\n/\n", "injected phase 'STEAM'"),
        ("START\n 1 'FEB' 2000 /\nWCONHIST\n 1* OPEN ORAT 1 /\n/\n", "without a well"),
        ("START\n 1 'FEB' 2000 /\nDATES\n 1 'JAN' 2000 /\n/\n", "rising dates"),
        ("START\n 1 'FEB' 2000 /\nWCONHIST\n 'P' OPEN ORAT 10", "WCONHIST record is not closed"),
        ("TSTEP\n 10 /\n", "TSTEP"),
        ("RUNSPEC\n", "holds no well history"),
    ],
)
def test_a_deck_that_cannot_be_understood_names_the_line(tmp_path: Path, text: str, match: str) -> None:
    with pytest.raises(SourceError, match=match) as caught:
        read_schedule(_deck(tmp_path, text))
    assert "\n" not in str(caught.value)


def test_a_missing_deck_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="cannot be read"):
        read_schedule(tmp_path / "none.SCH")
