"""The chapters on a water flood: the map, intervals, what is told of water, voidage; and the marks they needed."""

from __future__ import annotations

import math
import re
from datetime import datetime
from functools import cache
from typing import Any
from xml.etree import ElementTree

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nightcast.contracts.errors import ConfigError
from nightcast.evaluation.voidage import voidage_replacement
from nightcast.reports import svg
from nightcast.reports.connectivity_views import (
    LEAST,
    MOST_INTERVALS,
    MOST_LINES,
    MOST_ROWS,
    connectivity_chapter,
    recent_rates,
    voidage_chapter,
)
from nightcast.reports.plot import Axis, Block, Dot, Key, Line, Mark, Plot, Rule
from nightcast.reports.png import draw_grid
from nightcast.reports.views import Chapter

PLACES = ("x_injector", "y_injector", "x_producer", "y_producer")


def pair(
    injector: str, producer: str, f: float, sure: bool = True, *, at: tuple[float, float, float, float] = (0, 0, 400, 0)
) -> dict[str, Any]:
    return {
        "injector": injector,
        "producer": producer,
        "f": f,
        "f_low": f * 0.7,
        "f_high": min(1.0, f * 1.3),
        "identifiable": sure,
        "theta_days": 20.0,
        "distance_m": math.dist(at[:2], at[2:]),
        **dict(zip(PLACES, at, strict=True)),
    }


PAIRS = pl.DataFrame(
    [
        pair("I1", "P1", 0.5, at=(0, 0, 400, 0)),
        pair("I1", "P2", 0.1, at=(0, 0, 0, 900)),
        pair("I2", "P1", 0.3, False, at=(800, 0, 400, 0)),
        pair("I2", "P2", 0.02, False, at=(800, 0, 0, 900)),
    ],
    schema_overrides=dict.fromkeys(PLACES, pl.Float64),
)
LOSSES = pl.DataFrame({"injector": ["I1", "I2"], "loss": [0.4, 0.68]})
RATES = pl.DataFrame({"unique_id": ["I1", "I2", "P1", "P2"], "rate": [200.0, 100.0, 80.0, 20.0]})
NOWHERE = PAIRS.with_columns(pl.lit(None, dtype=pl.Float64).alias(name) for name in (*PLACES, "distance_m"))


def told(pairs: pl.DataFrame = PAIRS, losses: pl.DataFrame = LOSSES, **more: Any) -> Chapter:
    chapter = connectivity_chapter(pairs, losses, **({"rates": RATES} | more))
    assert chapter is not None
    return chapter


def picture(chapter: Chapter, name: str) -> Plot:
    return next(its.plot for its in chapter.pictures if its.name == name)


def marks(plot: Plot, kind: type[Any]) -> list[Any]:
    return [mark for mark in plot.marks if isinstance(mark, kind)]


# -- the marker ----------------------------------------------------------------------------------------------------

SQUARE = Axis(0, 10, ((0.0, "0"), (10.0, "10")))


def drawn(*shown: Mark) -> ElementTree.Element:
    return ElementTree.fromstring(svg.draw(Plot(shown, SQUARE, SQUARE, "markers")))


def test_a_marker_has_a_shape_a_label_and_words_on_hover_all_escaped() -> None:
    root = drawn(
        Dot(2, 2, "actual", label="P<1>", hint="a & b"),
        Dot(5, 5, "forecast", "triangle", 4.0, hollow=True, side="above"),
    )

    circle = next(node for node in root.iter("circle"))
    assert circle.attrib["class"] == "dot r-actual"
    assert [node.text for node in circle.iter("title")] == ["a & b"]
    assert "P<1>" in [node.text for node in root.iter("text")]
    assert [node.attrib["class"] for node in root.iter("path") if "r-forecast" in node.attrib["class"]] == [
        "ring r-forecast"
    ]


@pytest.mark.parametrize(
    ("side", "right", "down"), [("right", 1, 0), ("left", -1, 0), ("above", 0, -1), ("below", 0, 1)]
)
def test_a_markers_label_stands_on_its_side(side: Any, right: int, down: int) -> None:
    root = drawn(Dot(5, 5, "actual", size=4, label="X", side=side))
    circle, text = next(root.iter("circle")), next(node for node in root.iter("text") if node.text == "X")

    away = [float(text.attrib[a]) - float(circle.attrib[c]) for a, c in (("x", "cx"), ("y", "cy"))]

    assert (away[0] > 4, away[0] < -4) == (right > 0, right < 0)
    assert (away[1] > 7, away[1] < -4) == (down > 0, down < 0)


def test_png_tells_markers_apart_by_place_shape_and_filling() -> None:
    def bytes_of(*shown: Mark) -> bytes:
        legend = (Key("a", "actual", "triangle"), Key("b", "rule", "ring"))
        return draw_grid([("a", Plot(shown, SQUARE, SQUARE, "markers", legend))], title="t")

    first = bytes_of(Dot(2, 2, "actual", label="$P"))
    others = [
        Dot(3, 2, "actual"),
        Dot(2, 2, "actual", "triangle"),
        Dot(2, 2, "actual", hollow=True),
        Dot(2, 2, "actual"),
    ]

    assert bytes_of(Dot(2, 2, "actual", label="$P")) == first
    assert len({first, *(bytes_of(mark) for mark in others)}) == 5


def test_the_inside_of_a_chart_is_as_large_as_it_is_drawn() -> None:
    plot = Plot((Dot(0, 0, "actual"), Dot(10, 10, "rule")), SQUARE, Axis(0, 10, (), ""), "corners", size=(300, 200))

    low, high = (
        [float(node.attrib[name]) for name in ("cx", "cy")]
        for node in ElementTree.fromstring(svg.draw(plot)).iter("circle")
    )

    assert (high[0] - low[0], low[1] - high[1]) == svg.inner_size(plot.size, plot.left, x_label=False)


# -- who supports whom ---------------------------------------------------------------------------------------------


def test_pairs_that_hold_enough_water_are_lines_solid_if_identifiable_and_thick_if_strong() -> None:
    lines = {(*line.x, *line.y): line for line in marks(picture(told(), "connectivity-map"), Line)}

    assert {key: (line.dash, line.thin) for key, line in lines.items()} == {
        (0, 400, 0, 0): (False, False),
        (0, 0, 0, 900): (False, True),
        (800, 400, 0, 0): (True, False),
    }


def test_injectors_are_triangles_producers_circles_and_both_name_their_pairs() -> None:
    dots = {dot.hint.split(",")[0]: dot for dot in marks(picture(told(), "connectivity-map"), Dot)}

    assert {name: dot.shape for name, dot in dots.items()} == {
        "I1": "triangle",
        "I2": "triangle",
        "P1": "circle",
        "P2": "circle",
    }
    assert dots["I1"].hint == "I1, 200 m3/d: supports P1 50 % (35 to 65 %); P2 10 % (7 to 13 %)"
    assert "I2 30 % (21 to 39 %, from the map alone)" in dots["P1"].hint
    assert dots["I1"].size > dots["I2"].size


@given(st.lists(st.tuples(st.integers(-5000, 5000), st.integers(-5000, 5000)), min_size=2, max_size=40, unique=True))
def test_a_metre_is_as_long_north_as_east_and_every_well_lies_inside(spots: list[tuple[int, int]]) -> None:
    (x, y), rest = spots[0], spots[1:]
    pairs = pl.DataFrame(
        [pair("I", f"P{at}", 0.5 / len(rest), at=(x, y, a, b)) for at, (a, b) in enumerate(rest)],
        schema_overrides=dict.fromkeys(PLACES, pl.Float64),
    )

    plot = picture(told(pairs, pl.DataFrame({"injector": ["I"], "loss": [0.5]})), "connectivity-map")

    width, height = svg.inner_size(plot.size, plot.left, x_label=True)
    assert (plot.x.high - plot.x.low) / width == pytest.approx((plot.y.high - plot.y.low) / height)
    dots = marks(plot, Dot)
    assert len(dots) == len(spots)
    assert all(plot.x.low < dot.x < plot.x.high and plot.y.low < dot.y < plot.y.high for dot in dots)
    assert height <= 420


def test_names_of_wells_do_not_run_into_one_another() -> None:
    spots = [(100.0 * a, 60.0 * b) for a in range(8) for b in range(8)]
    pairs = pl.DataFrame([pair("I", f"WELL-{n:03d}", 0.01, at=(350.0, 230.0, *spot)) for n, spot in enumerate(spots)])
    plot = picture(told(pairs, pl.DataFrame({"injector": ["I"], "loss": [0.4]})), "connectivity-map")

    texts = []
    for node in ElementTree.fromstring(svg.draw(plot)).iter("text"):
        kind = node.attrib["class"]
        if "tag" in kind:
            x, y, wide = float(node.attrib["x"]), float(node.attrib["y"]), 5.0 * len(str(node.text))
            left = x - (wide if "end" in kind else wide / 2 if "mid" in kind else 0)
            texts.append((left, left + wide, y - 8, y))

    assert 5 < len(texts) < len(spots)
    clashes = [
        (a, b)
        for at, a in enumerate(texts)
        for b in texts[at + 1 :]
        if a[0] < b[1] and b[0] < a[1] and a[2] < b[3] and b[2] < a[3]
    ]
    assert not clashes


def test_of_many_pairs_the_strongest_are_drawn_and_the_rest_is_told_to_be_missing() -> None:
    pairs = pl.DataFrame(
        [pair(f"I{n}", f"P{n}", 0.1 + n / 1000, n % 2 == 0, at=(n, 0.0, n, 400.0)) for n in range(200)]
    )
    chapter = told(pairs, pl.DataFrame({"injector": ["I1"], "loss": [0.4]}))

    assert len(marks(picture(chapter, "connectivity-map"), Line)) == MOST_LINES
    names = [dot.label for dot in marks(picture(chapter, "connectivity-map"), Dot) if dot.label]
    assert names
    assert all(name.startswith("I") for name in names)
    assert "the 60 strongest" in chapter.pictures[0].note
    intervals = picture(chapter, "connectivity-intervals")
    assert len(marks(intervals, Dot)) == MOST_INTERVALS
    assert intervals.y.ticks[-1][1] == "I199 → P199"
    assert len(chapter.tables[0].rows) == MOST_ROWS
    assert chapter.tables[0].caption.startswith("The 150 strongest of 200 pairs")


def test_an_interval_is_a_bar_with_its_value_hollow_and_dashed_where_it_is_not_identifiable() -> None:
    plot = picture(told(), "connectivity-intervals")
    names = {place: name for place, name in plot.y.ticks}
    dots = {names[dot.y]: dot for dot in marks(plot, Dot)}
    bars = {names[line.y[0]]: line for line in marks(plot, Line)}

    assert [name for _, name in plot.y.ticks] == ["I2 → P2", "I1 → P2", "I2 → P1", "I1 → P1"]
    assert bars["I1 → P1"].x == pytest.approx((0.35, 0.65))
    assert dots["I1 → P1"].x == 0.5
    assert {name: (dots[name].hollow, bars[name].dash) for name in dots} == {
        "I1 → P1": (False, False),
        "I1 → P2": (False, False),
        "I2 → P1": (True, True),
        "I2 → P2": (True, True),
    }


def test_each_injectors_bar_is_as_long_as_its_rate() -> None:
    plot = picture(told(), "connectivity-balance")
    lengths: dict[str, float] = {}
    names = {place: name for place, name in plot.y.ticks}
    for block in marks(plot, Block):
        name = names[round((block.bottom + block.top) / 2)]
        lengths[name] = lengths.get(name, 0.0) + block.right - block.left

    assert lengths == pytest.approx({"I1": 200.0, "I2": 100.0})


def test_words_count_pairs_name_the_strongest_and_the_water_that_supports_no_one() -> None:
    first, second, third, caution = told().words

    assert "2 of 4 injector-producer pairs within reach are identifiable" in first
    assert "I1 → P1 50 % (35 to 65 %), after 20 days" in second
    assert "I2" not in second
    assert "148 m3/d of the 300 m3/d injected of late (49 %) support no producer; the most: I1 80.0, I2 68.0" in third
    assert "Of 1 injector no pair is identifiable" in third
    assert "should not steer a valve" in caution


def test_without_rates_shares_alone_are_told() -> None:
    chapter = told(rates=None)

    assert "I2 68 %, I1 40 %" in chapter.words[2]
    assert "m3/d" not in " ".join(chapter.words)
    assert "m3/d" not in " ".join(column.label for table in chapter.tables for column in table.columns)
    lengths = [block.right for block in marks(picture(chapter, "connectivity-balance"), Block)]
    assert max(lengths) == pytest.approx(1.0)


def test_without_positions_a_matrix_takes_the_maps_place_and_the_value_is_called_assumed() -> None:
    chapter = told(NOWHERE)
    matrix = picture(chapter, "connectivity-matrix")

    assert "connectivity-map" not in [its.name for its in chapter.pictures]
    assert len(marks(matrix, Block)) == PAIRS.filter(pl.col("f") >= LEAST).height
    assert [name for _, name in matrix.x.ticks] == ["P1", "P2"]
    assert "no positions are known" in chapter.words[0]
    text = repr(chapter)
    assert "map's" not in text
    assert "from the map" not in text
    assert told(PAIRS.drop(PLACES)).pictures[0].name == "connectivity-matrix"


def test_the_table_says_which_values_are_the_maps() -> None:
    rows = {line.cells[0].text: [cell.text for cell in line.cells] for line in told().tables[0].rows}

    assert rows["I1 → P1"] == ["I1 → P1", "50 %", "35 to 65 %", "yes", "100", "20.0", "400"]
    assert rows["I2 → P1"][3] == "no: the value is the map's"


def test_what_drives_a_producer_is_a_table_of_its_own() -> None:
    drive = pl.DataFrame(
        {
            "producer": ["P1"],
            "rate": [100.0],
            "support": [70.0],
            "injection_share": [0.6],
            "inflow_share": [0.3],
            "drawdown_share": [-0.1],
            "start_share": [0.2],
        }
    )

    table = told(drive=drive).tables[2]

    assert [cell.text for cell in table.rows[0].cells] == ["P1", "100", "60 %", "30 %", "−10 %", "20 %", "70.0"]


def test_no_identifiable_pair_is_said_plainly() -> None:
    words = told(PAIRS.with_columns(identifiable=False)).words

    assert "0 of 4" in words[0]
    assert "No identifiable pair" in words[1]


def test_no_pair_gives_no_chapter_and_a_missing_column_is_named() -> None:
    assert connectivity_chapter(PAIRS.head(0), LOSSES) is None
    with pytest.raises(ConfigError, match="'pairs' of a chapter lacks f_low"):
        connectivity_chapter(PAIRS.drop("f_low"), LOSSES)
    with pytest.raises(ConfigError, match="'drive' of a chapter lacks support"):
        told(drive=pl.DataFrame({"producer": ["P"], "rate": [1.0]}))


def test_every_picture_draws_as_svg_and_png_in_every_situation() -> None:
    for chapter in (told(), told(rates=None), told(NOWHERE), told(PAIRS.head(1)), told(PAIRS.tail(1))):
        for its in chapter.pictures:
            text = svg.draw(its.plot)
            ElementTree.fromstring(text)
            assert not re.search(r"nan|inf", text)
        assert draw_grid([(its.title, its.plot) for its in chapter.pictures], title="t")


def test_recent_rates_are_means_of_the_last_known_values() -> None:
    times = [datetime(2024, m, 1) for m in (1, 2, 3)]
    history = pl.DataFrame({"unique_id": ["P"] * 3, "ds": times, "y": [10.0, 20.0, None]})
    support = pl.DataFrame({"unique_id": ["I"] * 3, "ds": times, "wwir": [5.0, 7.0, 9.0]})

    assert dict(recent_rates(history, support, last=2).iter_rows()) == {"P": 15.0, "I": 8.0}
    assert dict(recent_rates(history, support.drop("wwir")).iter_rows()) == {"P": 15.0}


# -- voidage -------------------------------------------------------------------------------------------------------


@cache
def balance(last: float | None = 120.0, *, months: int = 30, pads: bool = True) -> pl.DataFrame:
    """A year and a half of too little, then a year of too much; the last month as given."""
    times = [datetime(2022 + at // 12, at % 12 + 1, 1) for at in range(months)]
    put = [80.0] * (months - 12) + [110.0] * 11 + [last]
    pad = {"pad": ["A"] * months} if pads else {}
    history = pl.DataFrame({"unique_id": ["P"] * months, "ds": times, "y": [100.0] * months, **pad})
    support = pl.DataFrame({"unique_id": ["I"] * months, "ds": times, "wwir": put, **pad})
    return voidage_replacement(history, support)


def voidage(frame: pl.DataFrame) -> Chapter:
    chapter = voidage_chapter(frame, unit="m3/d")
    assert chapter is not None
    return chapter


def test_words_tell_the_last_month_the_last_year_and_all_of_it() -> None:
    text, meaning, limits = voidage(balance()).words

    assert "last month, 2024-06, injection replaced 120 % of the volume produced" in text
    assert "over the last 12 months 111 %, and since 2022-01 92 %" in text
    assert "10.8 m3/d more went in than came out" in text
    assert "Below 1" in meaning
    assert "100 % of the well-months" in limits
    assert "An injector counts in its own group" in limits
    assert "An injector counts" not in voidage(balance(pads=False)).words[2]


def test_a_last_month_that_is_unknown_is_said_to_be() -> None:
    chapter = voidage(balance(None))

    assert "The ratio of the last month is unknown; in 2024-05" in chapter.words[0]
    assert "1 month of these is left out" in chapter.words[2]
    assert chapter.tables[0].rows[0].cells[1].text == "–"


def test_the_picture_has_a_line_at_one_and_gaps_where_nothing_is_known() -> None:
    plot = picture(voidage(balance(None)), "voidage-field")
    monthly, running = marks(plot, Line)

    assert [rule.at for rule in marks(plot, Rule)] == [1.0]
    assert monthly.y[-1] is None
    assert running.y[-1] is not None
    assert plot.y.low == 0
    assert plot.y.high > 1.1


def test_a_month_with_next_to_no_production_is_cut_off_and_told_to_be() -> None:
    frame = balance().with_columns(
        pl.when(pl.col("ds") == datetime(2022, 3, 1)).then(50.0).otherwise("vrr").alias("vrr")
    )

    plot = picture(voidage(frame), "voidage-field")

    assert max(value for value in marks(plot, Line)[0].y if value is not None) == 2.5
    assert "1 month above 2.5 cut off" in plot.description
    assert "cut off at 2.5" in plot.legend[0].label


def test_groups_are_bars_from_one_and_rows_of_the_table() -> None:
    chapter = voidage(balance())
    (block,) = marks(picture(chapter, "voidage-groups"), Block)

    assert (block.left, block.right) == pytest.approx((1.0, 1.108), abs=1e-3)
    assert [line.cells[0].text for line in chapter.tables[0].rows] == ["field", "A"]
    assert [its.name for its in voidage(balance(pads=False)).pictures] == ["voidage-field"]


def test_no_known_ratio_gives_no_chapter_and_a_missing_column_is_named() -> None:
    assert voidage_chapter(balance().with_columns(vrr=pl.lit(None, dtype=pl.Float64)), unit="m3/d") is None
    with pytest.raises(ConfigError, match="'voidage' of a chapter lacks days"):
        voidage_chapter(balance().drop("days"), unit="m3/d")


def test_voidage_draws_as_svg_even_from_one_month() -> None:
    for frame in (balance(), balance(None), balance().group_by("group", maintain_order=True).head(1)):
        for its in voidage(frame).pictures:
            text = svg.draw(its.plot)
            ElementTree.fromstring(text)
            assert not re.search(r"nan|inf", text)
