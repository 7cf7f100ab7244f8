"""Axes, charts and their two renderings."""

from __future__ import annotations

import math
import re
from datetime import datetime
from xml.etree import ElementTree

import polars as pl
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from nightcast.contracts.columns import LEVELS, QUANTILES
from nightcast.contracts.errors import ConfigError
from nightcast.reports import charts, svg
from nightcast.reports.plot import (
    CATEGORIES,
    PALETTE,
    Axis,
    Band,
    Block,
    Hint,
    Line,
    Plot,
    Rule,
    number_axis,
    seconds_of,
    steps_axis,
    tick_label,
    time_axis,
)
from nightcast.reports.png import draw_grid

FINITE = st.floats(-1e12, 1e12, allow_nan=False).map(lambda value: 0.0 if abs(value) < 1e-9 else value)
TIMES = st.datetimes(datetime(1970, 1, 2), datetime(2090, 1, 1)).map(seconds_of)


@given(st.lists(FINITE | st.none() | st.just(math.nan), max_size=20))
@example([])
@example([5.0])
@example([0.0])
@example([-3.0, -3.0])
def test_a_number_axis_holds_every_value_and_has_rising_ticks_inside_it(values: list[float | None]) -> None:
    axis = number_axis(values)
    places = [place for place, _ in axis.ticks]
    assert all(axis.low <= value <= axis.high for value in values if value is not None and math.isfinite(value))
    assert 1 <= len(places) <= 10
    assert places == sorted(set(places))
    slack = 1e-6 * (axis.high - axis.low)
    assert all(axis.low - slack <= place <= axis.high + slack for place in places)


@given(TIMES, TIMES)
def test_a_time_axis_holds_its_ends_and_has_few_ticks_with_different_labels(first: float, last: float) -> None:
    low, high = sorted((first, last))
    axis = time_axis(low, high)
    assert axis.low <= low <= high <= axis.high
    assert 1 <= len(axis.ticks) <= 8
    assert all(axis.low <= place <= axis.high for place, _ in axis.ticks)


def test_months_are_ticked_at_their_first_day() -> None:
    axis = time_axis(seconds_of(datetime(2023, 1, 1)), seconds_of(datetime(2024, 1, 1)), ticks=5)
    assert [label for _, label in axis.ticks] == ["Jan 23", "Apr 23", "Jul 23", "Oct 23", "Jan 24"]
    assert axis.ticks[1][0] == seconds_of(datetime(2023, 4, 1))


def test_zero_is_shown_where_it_costs_little_and_left_out_where_it_flattens_the_chart() -> None:
    assert number_axis([40.0, 100.0]).low == 0
    assert number_axis([99.0, 100.0]).low > 90
    assert number_axis([-5.0, 100.0]).low < -5
    assert number_axis([40.0, 100.0], floor_at_zero=False).low > 30


@pytest.mark.parametrize(
    ("value", "step", "label"),
    [(1500, 500, "1,500"), (0.25, 0.05, "0.25"), (-0.2, 0.1, "−0.2"), (3e6, 1e6, "3M"), (150_000, 50_000, "150k")],
)
def test_ticks_have_as_many_decimals_as_their_step(value: float, step: float, label: str) -> None:
    assert tick_label(value, step) == label


def test_steps_are_labelled_while_they_fit() -> None:
    assert [label for _, label in steps_axis([1, 2, 3], label="").ticks] == ["1", "2", "3"]
    assert len(steps_axis(list(range(1, 61)), label="").ticks) <= 12


AXIS = Axis(0, 10, ((0, "0"), (5, "5")), "x <unit>")


def plot(*marks: Line | Band | Block | Rule | Hint) -> Plot:
    return Plot(marks, AXIS, AXIS, 'a "description" of <it>')


def test_svg_is_well_formed_and_escapes_every_text() -> None:
    drawn = svg.draw(plot(Hint(1, 2, "<b>&"), Rule(3, "x"), Block(1, 2, 0, 4, "rule"), Line((1, 2), (1, 2), "actual")))
    root = ElementTree.fromstring(drawn)
    assert root.attrib["aria-label"] == 'a "description" of <it>'
    assert root.attrib["role"] == "img"
    assert {node.text for node in root.iter() if node.tag in ("text", "title")} >= {"<b>&", "x <unit>"}


def test_a_missing_value_breaks_the_line_and_a_lone_one_is_a_dot() -> None:
    drawn = svg.draw(plot(Line((0, 1, 2, 3, 4), (1, 2, None, 5, None), "actual")))
    (path,) = re.findall(r'class="line r-actual" d="([^"]+)"', drawn)
    assert path.count("M") == 1
    assert path.count("L") == 1
    assert drawn.count("<circle") == 1


def test_a_missing_row_breaks_the_line_as_a_missing_value_does() -> None:
    months = [datetime(2023, m, 1) for m in (1, 2, 3, 7, 8)]
    history = pl.DataFrame({"ds": months, "y": [1.0, 2.0, 3.0, 4.0, 5.0]})
    forecast = pl.DataFrame({"ds": [datetime(2023, 9, 1)], **{q: [5.0] for q in QUANTILES}})
    actual = next(m for m in charts.fan("A", forecast, history, unit="t").marks if isinstance(m, Line))
    assert actual.y == (1.0, 2.0, 3.0, None, 4.0, 5.0)


def test_a_higher_value_is_drawn_higher() -> None:
    (path,) = re.findall(
        r'class="line r-actual" d="M\S+ (\S+)L\S+ (\S+)"', svg.draw(plot(Line((1, 2), (2, 8), "actual")))
    )
    assert float(path[0]) > float(path[1])


def test_every_role_has_a_colour_for_light_and_dark_in_the_style_sheet() -> None:
    style = svg.style()
    for role, (light, dark) in PALETTE.items():
        assert f".r-{role}{{--c:{light}}}" in style
        assert f".r-{role}{{--c:{dark}}}" in style
    assert all(f"category-{place}" in PALETTE for place in range(CATEGORIES))


def test_an_empty_picture_is_refused() -> None:
    with pytest.raises(ConfigError, match="'Forecasts' has no chart"):
        draw_grid([], title="Forecasts")


def test_png_shows_the_same_marks_as_svg_and_is_deterministic() -> None:
    shown = plot(Band((1, 2), (1, 1), (3, 4), "forecast"), Line((1, 2), (2, None), "actual"), Block(4, 5, 0, 3, "rule"))
    assert draw_grid([("a $x$ b", shown)], title="$") == draw_grid([("a $x$ b", shown)], title="$")
    assert draw_grid([("a", shown)], title="t") != draw_grid([("a", plot())], title="t")


def oof_rows(actual: list[float], *, horizon: list[int] | None = None) -> pl.DataFrame:
    """Quantiles 10, 20, .., 90 against given actuals."""
    size = len(actual)
    return pl.DataFrame(
        {
            "unique_id": ["A"] * size,
            "ds": [datetime(2023, 1 + place, 1) for place in range(size)],
            "cutoff": [datetime(2022, 12, 1)] * size,
            "horizon": horizon or list(range(1, size + 1)),
            **{q: [level * 100] * size for q, level in zip(QUANTILES, LEVELS, strict=True)},
            "y": actual,
        }
    )


def test_coverage_counts_actuals_between_the_bounds() -> None:
    table = charts.coverages(oof_rows([5.0, 15.0, 50.0, 95.0], horizon=[1, 1, 2, 2]))
    whole = dict(table.filter(pl.col("horizon").is_null()).select("nominal", "coverage").iter_rows())
    assert whole == {0.8: 0.5, 0.6: 0.25, 0.4: 0.25, 0.2: 0.25}
    steps = table.filter((pl.col("nominal") == 0.8) & pl.col("horizon").is_not_null())
    assert steps.select("horizon", "rows", "coverage", "width").rows() == [(1, 2, 0.5, 80.0), (2, 2, 0.5, 80.0)]


def test_level_shares_count_actuals_at_or_below_each_quantile() -> None:
    shares = dict(charts.level_shares(oof_rows([10.0, 35.0, 95.0, 5.0])).iter_rows())
    assert shares[0.1] == 0.5
    assert shares[0.4] == 0.75
    assert shares[0.9] == 0.75


def test_rows_without_an_actual_do_not_count_as_misses() -> None:
    table = charts.coverages(oof_rows([50.0, 50.0]).with_columns(y=pl.Series([50.0, None])))
    assert table.filter(pl.col("horizon").is_null() & (pl.col("nominal") == 0.8)).row(0)[1:4] == (1, 0.8, 1.0)


def test_weights_stack_to_their_sum_and_small_members_share_a_colour() -> None:
    members = {f"m{place:02d}": (20 - place) / 190 for place in range(1, 20)}
    drawn = charts.weights({"10": members, "2": members})
    blocks = [mark for mark in drawn.marks if isinstance(mark, Block)]
    assert max(block.top for block in blocks) == pytest.approx(1.0)
    assert len({block.role for block in blocks}) == CATEGORIES
    assert [label for _, label in drawn.x.ticks] == ["2", "10"]
    assert drawn.legend[-1].label.startswith("12 more")


def test_fans_of_a_hindcast_do_not_overlap_and_every_origin_is_drawn() -> None:
    rows = []
    for start in range(1, 7):
        for step in (1, 2, 3):
            rows.append(
                {
                    "ds": datetime(2023, start + step, 1),
                    "cutoff": datetime(2023, start, 1),
                    **{q: 10.0 + place for place, q in enumerate(QUANTILES)},
                    "y": 14.0,
                }
            )
    history = pl.DataFrame({"ds": [datetime(2022, 12, 1)], "y": [14.0]})
    marks = charts.hindcast("A", pl.DataFrame(rows), history, unit="t").marks
    fans = sorted((mark.x[0], mark.x[-1]) for mark in marks if isinstance(mark, Band))
    ends = sorted(set(fans))
    assert len(ends) == 2
    assert ends[0][1] < ends[1][0]
    medians = [mark for mark in marks if isinstance(mark, Line) and mark.role in ("other", "forecast")]
    assert len(medians) == 6


def test_levels_rank_series_by_their_recent_mean() -> None:
    history = pl.DataFrame(
        {
            "unique_id": ["A"] * 3 + ["B"] * 3,
            "ds": [datetime(2023, m, 1) for m in (1, 2, 3)] * 2,
            "y": [100.0, 2.0, None, 1.0, 5.0, 9.0],
        }
    )
    assert charts.levels_of(history, last=2) == {"A": 51.0, "B": 7.0}
