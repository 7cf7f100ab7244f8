"""The chapter that says where a forecast is worth having over the naive one."""

from __future__ import annotations

import re
from datetime import datetime
from itertools import pairwise
from typing import Any
from xml.etree import ElementTree

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nightcast.contracts.columns import QUANTILES
from nightcast.contracts.errors import ConfigError
from nightcast.contracts.frequency import Frequency
from nightcast.reports import svg
from nightcast.reports.plot import Block, Hint, Line
from nightcast.reports.png import draw_grid
from nightcast.reports.table import Cell, Table
from nightcast.reports.value_added import SHOWN, separate, value_added
from nightcast.reports.views import Chapter

MONTHS = Frequency.parse("MS")
START = datetime(2022, 1, 1)
HALF_WIDTHS = np.array([-4.0, -3, -2, -1, 0, 1, 2, 3, 4])


def rows(
    errors: dict[str, float],
    *,
    origins: int = 4,
    step: int = 1,
    horizon: int = 3,
    level: float = 100.0,
    segments: dict[str, str] | None = None,
) -> pl.DataFrame:
    """Out-of-fold rows whose median is off by a given amount per well, under actuals of 100, with bands of +-4."""
    table = [
        {
            "unique_id": name,
            "ds": MONTHS.shift(START, origin * step + h),
            "cutoff": MONTHS.shift(START, origin * step),
            "horizon": h,
            **dict(zip(QUANTILES, (level + error + HALF_WIDTHS).tolist(), strict=True)),
            "y": level,
            "loss": 1.0,
            "segment": (segments or {}).get(name, "steady"),
        }
        for name, error in errors.items()
        for origin in range(origins)
        for h in range(1, horizon + 1)
    ]
    return pl.DataFrame(table, schema_overrides={"ds": pl.Datetime("us"), "cutoff": pl.Datetime("us")})


def history(names: list[str], level: float = 100.0) -> pl.DataFrame:
    times = [MONTHS.shift(START, place) for place in range(12)]
    return pl.DataFrame([{"unique_id": name, "ds": time, "y": level} for name in names for time in times])


def chapter(
    ours: dict[str, float], naive: dict[str, float], segments: dict[str, str] | None = None, **shape: Any
) -> Chapter:
    made = value_added(
        rows(ours, segments=segments, **shape),
        rows(naive, **shape),
        history(sorted(ours)),
        unit="m3/d",
        naive_name="last value",
    )
    assert made is not None
    return made


def cells(table: Table, name: str) -> dict[str, Cell]:
    """One row of a table by its first cell."""
    (found,) = [row for row in table.rows if row.cells[0].text == name]
    return {column.label: cell for column, cell in zip(table.columns, found.cells, strict=True)}


def test_each_well_stands_beside_the_naive_on_the_same_rows() -> None:
    made = chapter({"A": 2.0, "B": -6.0}, {"A": 8.0, "B": 4.0})

    a, b = (cells(made.tables[0], name) for name in "AB")
    assert [a[label].text for label in ("MAE (m3/d)", "naive's MAE (m3/d)", "R", "gain (m3/d)")] == [
        "2.00", "8.00", "0.250", "+6.00",
    ]  # fmt: skip
    assert [b[label].text for label in ("R", "gain (m3/d)", "origins won")] == ["1.50", "−2.00", "0 of 4"]
    assert (a["R"].tone, b["R"].tone) == ("good", "bad")
    assert a["bias"].text == "+2.0 %"
    assert b["bias"].text == "−6.0 %"
    assert (a["80 % coverage"].text, b["80 % coverage"].text) == ("100 %", "0 %")
    assert a["recent mean (m3/d)"].text == "100"


def test_shares_of_saved_error_add_up_to_one_less_the_ratio() -> None:
    made = chapter({"A": 2.0, "B": -6.0, "C": 1.0}, {"A": 8.0, "B": 4.0, "C": 1.0})

    shares = [float(str(cells(made.tables[0], name)["share saved"].sort)) for name in "ABC"]
    whole = float(str(cells(made.tables[1], "all")["R"].sort))
    assert sum(shares) == pytest.approx(1 - whole)


def test_words_count_and_name_the_wells_that_gain_and_lose() -> None:
    made = chapter({"A": 2.0, "B": -6.0, "C": 1.0}, {"A": 8.0, "B": 4.0, "C": 1.0})

    words = " ".join(made.words)
    assert "Of 3 wells, this forecast is better in 1 and the naive in 1; in 1 they are equal" in words
    assert "Gain most: A (+6.00 m3/d, R 0.250)." in words
    assert "The naive is better in: B (−2.00 m3/d, R 1.50)." in words
    # 4 origins x 3 steps: 12 x (8 + 4 + 1) before, 12 x (2 + 6 + 1) after.
    assert "It saves 30.8 % of the naive's absolute error: 48.0 of 156 m3/d" in words
    assert "In 1 (33.3 %) the error is more than 1.15 times the naive's." in words


def test_a_forecast_that_is_worse_says_that_it_adds_error() -> None:
    words = " ".join(chapter({"A": 6.0}, {"A": 4.0}).words)

    assert "It adds 50.0 % of the naive's absolute error" in words
    assert "Gain most" not in words


def test_rows_that_only_one_of_both_has_count_for_neither() -> None:
    ours = rows({"A": 2.0, "B": 50.0})
    naive = rows({"A": 4.0, "C": 90.0}).filter(pl.col("horizon") < 3)
    unknown = ours.with_columns(pl.when(pl.col("cutoff") > START).then("y").alias("y"))

    made = value_added(unknown, naive, history(["A", "B"]), unit="m3/d", naive_name="n")

    assert made is not None
    assert [row.key for row in made.tables[0].rows] == ["A"]
    assert cells(made.tables[0], "A")["rows"].text == "6"
    assert "1 series with a history had no common row to compare on: B." in made.words


def test_without_common_rows_there_is_no_chapter() -> None:
    none = rows({"A": 1.0}).clear()
    for ours, naive in ((rows({"A": 1.0}), rows({"B": 1.0})), (none, rows({"A": 1.0})), (rows({"A": 1.0}), none)):
        assert value_added(ours, naive, history(["A"]), unit="", naive_name="n") is None
    gone = rows({"A": 1.0}).with_columns(y=pl.lit(None, dtype=pl.Float64))
    assert value_added(gone, rows({"A": 1.0}), history(["A"]), unit="", naive_name="n") is None


def test_origins_are_counted_with_those_that_do_not_overlap() -> None:
    # Ten monthly origins over three months: those of month 0, 3, 6 and 9 share no step.
    made = chapter({"A": 1.0}, {"A": 2.0}, origins=10, horizon=3)

    assert cells(made.tables[0], "A")["not overlapping"].text == "4"
    assert "the 10 origins overlap. At most 4 of them" in made.words[-1]
    apart = chapter({"A": 1.0}, {"A": 2.0}, origins=3, step=3, horizon=3)
    assert "the 3 origins do not overlap" in apart.words[-1]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 30), st.integers(1, 8)), min_size=1, max_size=8))
def test_no_larger_set_of_origins_without_overlap_exists(spans: list[tuple[int, int]]) -> None:
    intervals = [(MONTHS.shift(START, at), MONTHS.shift(START, at + length)) for at, length in spans]

    best = 0
    for chosen in range(2 ** len(intervals)):
        its = sorted(span for place, span in enumerate(intervals) if chosen >> place & 1)
        if all(left[1] <= right[0] for left, right in pairwise(its)):
            best = max(best, len(its))
    assert separate(intervals) == best


def test_regimes_have_their_own_errors_and_coverage() -> None:
    made = chapter(
        {"A": 2.0, "B": 1.0, "C": 30.0},
        {"A": 8.0, "B": 4.0, "C": 10.0},
        segments={"A": "steady", "B": "steady", "C": "shut_in"},
        origins=10,
    )

    table = made.tables[1]
    assert [row.cells[0].text for row in table.rows] == ["all", "steady", "shut-in"]
    assert cells(table, "steady")["R"].text == "0.250"
    assert cells(table, "shut-in")["R"].text == "3.00"
    assert [cells(table, name)["wells with R > 1.15"].text for name in ("all", "steady", "shut-in")] == ["1", "0", "1"]
    words = " ".join(made.words)
    assert "By regime R is lowest in steady (R 0.250, 60 rows) and highest in shut-in (R 3.00, 30 rows)." in words
    assert "shut-in 0 %" in words


def test_the_matrix_tones_cells_outside_70_to_90_percent_unless_rows_are_few() -> None:
    ours = rows({f"W{place}": 0.0 if place < 8 else 20.0 for place in range(10)}, origins=3)
    extra = rows({"F": 20.0}, origins=1, segments={"F": "new"})
    shut = ours.with_columns(
        pl.concat_str(pl.lit("S"), "unique_id").alias("unique_id"), pl.lit("shut_in").alias("segment"), q90=pl.lit(0.0)
    )
    every = pl.concat([ours, extra, shut])

    made = value_added(every, every, history([]), unit="m3/d", naive_name="n")

    assert made is not None
    matrix = made.tables[2]
    assert [column.label for column in matrix.columns] == ["regime", "step 1", "step 2", "step 3", "all steps"]
    assert (cells(matrix, "steady")["step 1"].text, cells(matrix, "steady")["step 1"].tone) == ("80 %", "")
    assert (cells(matrix, "shut-in")["step 2"].text, cells(matrix, "shut-in")["step 2"].tone) == ("0 %", "bad")
    assert (cells(matrix, "new")["step 3"].text, cells(matrix, "new")["step 3"].tone) == ("0 % of 1", "")


def test_a_thousand_wells_are_all_in_the_table_and_their_extremes_in_the_picture() -> None:
    names = [f"W-{place:04d}" for place in range(1000)]
    naive = dict.fromkeys(names, 10.0)
    ours = {name: 5.0 + place / 100 for place, name in enumerate(names)}  # worse than the naive from W-0501 on

    made = chapter(ours, naive, origins=1, horizon=1)

    assert len(made.tables[0].rows) == 1000
    plot = made.pictures[0].plot
    shown = [label.split()[0] for _, label in plot.y.ticks]
    assert len(shown) == SHOWN
    assert shown[: SHOWN // 2] == names[: SHOWN // 2]
    assert shown[SHOWN // 2 :] == names[-SHOWN // 2 :]
    assert f"{1000 - SHOWN} wells in between" in plot.x.label
    blocks = [mark for mark in plot.marks if isinstance(mark, Block)]
    assert {mark.role for mark in blocks if mark.left < 0} == {"fallback"}
    assert {mark.role for mark in blocks if mark.right > 0} == {"forecast"}


def test_few_losses_leave_their_place_in_the_picture_to_gains() -> None:
    ours = {f"W-{place:02d}": 1.0 + place / 100 for place in range(40)} | {"loser": 30.0}

    made = chapter(ours, dict.fromkeys(ours, 10.0), origins=1)

    shown = [label.split()[0] for _, label in made.pictures[0].plot.y.ticks]
    assert len(shown) == SHOWN
    assert shown[-1] == "loser"
    assert shown[:-1] == [f"W-{place:02d}" for place in range(SHOWN - 1)]


def test_a_ratio_beyond_the_picture_keeps_its_number() -> None:
    made = chapter({"A": 50.0}, {"A": 2.0})

    plot = made.pictures[2].plot
    assert plot.x.high < 3
    assert all(label.endswith("25.0") for _, label in plot.y.ticks)
    assert "bars end at 2.00" in plot.x.label


def test_a_naive_without_error_leaves_no_ratio_but_a_chapter() -> None:
    made = chapter({"A": 3.0, "B": 0.0}, {"A": 0.0, "B": 0.0})

    assert "there is nothing to save" in made.words[0]
    assert cells(made.tables[0], "A")["R"].text == "–"
    assert cells(made.tables[0], "B")["R"].text == "1.00"
    assert "In 1 (50.0 %) the error is more than 1.15 times the naive's." in made.words[1]


def test_every_step_of_the_horizon_is_drawn_for_both_and_told_on_hover() -> None:
    plot = chapter({"A": 2.0}, {"A": 8.0}, horizon=4).pictures[1].plot

    naive, ours = (mark for mark in plot.marks if isinstance(mark, Line))
    assert (naive.y, ours.y) == ((8.0,) * 4, (2.0,) * 4)
    assert naive.dash
    assert not ours.dash
    hints = [mark.text for mark in plot.marks if isinstance(mark, Hint)]
    assert hints[0] == "step 1: 2.00 against 8.00 m3/d of the naive, R 0.250, 4 rows"


def test_pictures_hold_no_label_that_runs_out_of_the_left_margin() -> None:
    names = ["a very long name of a well on a far platform 0017-ST2", "B"]
    made = chapter({names[0]: 1.0, "B": 9.0}, {names[0]: 2.0, "B": 5.0}, segments={"B": "shut_in"})

    for picture in made.pictures:
        root = ElementTree.fromstring(svg.draw(picture.plot))
        for text in root.iter("text"):
            if text.attrib["class"] == "end":
                assert float(text.attrib["x"]) - 5.4 * len(text.text or "") >= 0
    assert names[0] in made.words[2]
    assert draw_grid([(picture.title, picture.plot) for picture in made.pictures], title="t", columns=2)


def test_several_rows_for_one_step_are_refused() -> None:
    twice = pl.concat([rows({"A": 1.0}), rows({"A": 2.0})])

    with pytest.raises(ConfigError, match="24 out-of-fold rows of the naive share series, cutoff and step, first 'A'"):
        value_added(rows({"A": 1.0}), twice, history(["A"]), unit="m3/d", naive_name="n")


def test_a_missing_column_is_named() -> None:
    with pytest.raises(ConfigError, match=re.escape("the ensemble's out-of-fold rows lack the columns ['segment']")):
        value_added(rows({"A": 1.0}).drop("segment"), rows({"A": 1.0}), history(["A"]), unit="", naive_name="n")


def test_the_order_of_rows_changes_nothing() -> None:
    ours, naive = rows({"B": 2.0, "A": -6.0, "C": 1.0}), rows({"A": 8.0, "C": 4.0, "B": 1.0})
    known = history(["A", "B", "C"])

    one = value_added(ours, naive, known, unit="m3/d", naive_name="n")
    other = value_added(
        ours.sample(fraction=1.0, shuffle=True, seed=3),
        naive.sample(fraction=1.0, shuffle=True, seed=5),
        known.reverse(),
        unit="m3/d",
        naive_name="n",
    )

    assert one == other
