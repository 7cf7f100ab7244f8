"""Numbers as people write them."""

from __future__ import annotations

import math
from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nightcast.reports.table import count, counted, duration, number, number_cell, percent, time_format


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (12_345.0, "12,300"),
        (1_000_000, "1,000,000"),
        (57.34, "57.3"),
        (9.996, "10.0"),
        (0.041, "0.0410"),
        (-1.2, "−1.20"),
        (0.0, "0"),
        (-0.0, "0"),
        (1.2e-7, "1.20e−07"),
        (None, "–"),
        (math.nan, "–"),
        (math.inf, "∞"),
        (-math.inf, "−∞"),
    ],
)
def test_numbers_have_three_significant_digits(value: float | None, text: str) -> None:
    assert number(value) == text


@given(st.floats(-1e300, 1e300))
def test_a_written_number_is_within_half_of_its_third_digit(value: float) -> None:
    back = float(number(value).replace(",", "").replace("−", "-"))
    assert math.isclose(back, value, rel_tol=0.0051, abs_tol=1e-300)


@pytest.mark.parametrize(
    ("share", "text"), [(0.8123, "81.2 %"), (-0.032, "−3.2 %"), (None, "–"), (math.nan, "–"), (math.inf, "–")]
)
def test_shares_are_written_as_per_cent(share: float | None, text: str) -> None:
    assert percent(share) == text


def test_signs_are_written_on_request() -> None:
    assert number(3.0, sign=True) == "+3.00"
    assert percent(0.05, sign=True) == "+5.0 %"


def test_counts_agree_with_their_noun() -> None:
    assert count(12_345) == "12,345"
    assert counted(1, "row") == "1 row"
    assert counted(2, "series", "series") == "2 series"


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.42, "0.420 s"), (59.4, "59.4 s"), (200, "3 min 20 s"), (3900, "1 h 05 min"), (None, "–")]
)
def test_durations_change_their_unit_with_size(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


def test_cells_without_a_number_have_nothing_to_sort_by() -> None:
    assert number_cell(math.nan).sort is None
    assert number_cell(2.5).sort == 2.5


@pytest.mark.parametrize(
    ("times", "form"),
    [
        ([datetime(2024, 5, 1)], "%Y-%m"),
        ([datetime(2024, 5, 1), datetime(2024, 5, 2)], "%Y-%m-%d"),
        ([datetime(2024, 5, 2), datetime(2024, 5, 2, 0, 30)], "%Y-%m-%d %H:%M"),
    ],
)
def test_times_are_written_as_short_as_tells_them_apart(times: list[datetime], form: str) -> None:
    assert time_format(times) == form
