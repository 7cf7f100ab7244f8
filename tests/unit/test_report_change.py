"""The chapter on why the forecast changed: sums, order, and what it says when it cannot tell."""

from __future__ import annotations

from datetime import datetime

import polars as pl
import pytest

from nightcast.reports.change_views import STEPS, change_chapter
from nightcast.reports.plot import Block
from nightcast.reports.svg import draw


def reasons(**wells: tuple[float, float, float, float]) -> pl.DataFrame:
    """Two months a well: before, revised, new months, model."""
    rows = [
        {"unique_id": name, "ds": datetime(2024, month, 1), "before": a, "revised": b, "new_months": c, "model": d}
        for name, (a, b, c, d) in wells.items()
        for month in (1, 2)
    ]
    frame = pl.DataFrame(rows, schema_overrides={"ds": pl.Datetime("us")})
    return frame.with_columns((pl.col("before") + pl.sum_horizontal(*STEPS)).alias("now"))


WELLS = {"A": (100.0, 0.0, -4.0, 1.0), "B": (50.0, 20.0, 0.0, -20.0), "C": (10.0, 0.0, 0.5, 0.0)}


def test_the_sum_of_all_series_is_taken_apart_in_words() -> None:
    chapter = change_chapter(reasons(**WELLS), unit="m3/d")

    assert chapter is not None
    words = chapter.words[0]
    assert "2 steps and 3 series" in words
    assert "from 160 to 158 m3/d" in words
    for text in ("+20.0 by revised data", "−3.50 by new months", "−19.0 by the model"):
        assert text in words


def test_steps_that_cancel_out_are_not_hidden_by_a_change_of_nothing() -> None:
    chapter = change_chapter(reasons(**WELLS), unit="m3/d")

    assert chapter is not None
    assert [row.cells[0].text for row in chapter.tables[0].rows] == ["B", "A", "C"]


def test_the_columns_between_before_and_now_start_where_the_last_one_ended() -> None:
    chapter = change_chapter(reasons(**WELLS), unit="")

    assert chapter is not None
    blocks = [mark for mark in chapter.pictures[0].plot.marks if isinstance(mark, Block)]
    assert [round(block.top, 6) for block in blocks] == [160.0, 180.0, 180.0, 176.5, 157.5]
    assert round(blocks[1].bottom, 6) == 160.0
    assert round(blocks[2].bottom, 6) == 176.5
    assert round(blocks[3].bottom, 6) == 157.5


@pytest.mark.parametrize("count", [1, 40])
def test_any_number_of_series_can_be_drawn(count: int) -> None:
    wells = {f"well {n}": (100.0 + n, 0.0, float(n % 7 - 3), 0.5) for n in range(count)}
    chapter = change_chapter(reasons(**wells), unit="m3/d")

    assert chapter is not None
    assert len(chapter.tables[0].rows) == count
    for picture in chapter.pictures:
        assert draw(picture.plot).startswith("<svg")
        assert "nan" not in draw(picture.plot)


def test_a_forecast_that_did_not_change_at_all_is_drawn_too() -> None:
    chapter = change_chapter(reasons(A=(0.0, 0.0, 0.0, 0.0)), unit="m3/d")

    assert chapter is not None
    assert all("nan" not in draw(picture.plot) for picture in chapter.pictures)


def test_without_a_forecast_before_there_is_no_chapter_and_without_its_model_it_says_so() -> None:
    nothing = reasons(**WELLS).clear()

    assert change_chapter(nothing, unit="") is None
    told = change_chapter(nothing, unit="", missing="Version 3 cannot be read.")
    assert told is not None
    assert told.words == ("Version 3 cannot be read.",)
    assert told.tables == ()
