"""The chapter of the sums over pads and the field."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Any
from xml.etree import ElementTree

import numpy as np
import polars as pl
import pytest

from nightcast.contracts.columns import QUANTILES
from nightcast.contracts.errors import ConfigError
from nightcast.contracts.frequency import Frequency
from nightcast.contracts.prediction import Quantiles
from nightcast.evaluation.paths import sample_paths
from nightcast.evaluation.rollup import roll_up, rollup_scores
from nightcast.reports import svg
from nightcast.reports.plot import Band, Hint, Line, Plot, seconds_of
from nightcast.reports.png import draw_grid
from nightcast.reports.rollup_views import PADS, rollup_chapter, volume_unit
from nightcast.reports.table import Table
from nightcast.reports.views import Chapter

MONTHS = Frequency.parse("MS")
NOW = datetime(2024, 1, 1)
NORMAL = np.array([-1.2816, -0.8416, -0.5244, -0.2533, 0.0, 0.2533, 0.5244, 0.8416, 1.2816])
LEVELS = {"a": 100.0, "b": 50.0, "c": 400.0}
GROUPS = {"a": "north", "b": "north", "c": "south"}


def forecast(levels: dict[str, float], cutoff: datetime = NOW, horizon: int = 3) -> pl.DataFrame:
    table = [
        {"unique_id": name, "ds": MONTHS.shift(cutoff, h), "cutoff": cutoff, "horizon": h}
        | dict(zip(QUANTILES, (level * (1 + 0.1 * NORMAL)).tolist(), strict=True))
        for name, level in levels.items()
        for h in range(1, horizon + 1)
    ]
    return pl.DataFrame(table, schema_overrides={"ds": pl.Datetime("us"), "cutoff": pl.Datetime("us")})


def past(levels: dict[str, float], origins: int = 8, seed: int = 0) -> pl.DataFrame:
    """Out-of-fold rows whose outcomes err independently of one another."""
    rng = np.random.default_rng(seed)
    parts = [forecast(levels, MONTHS.shift(NOW, -3 - back)) for back in range(origins)]
    rows = pl.concat(parts)
    return rows.with_columns(y=pl.col("q50") * (1 + 0.1 * pl.Series(rng.normal(size=rows.height))), scale=pl.lit(1.0))


def sums(levels: dict[str, float] | None = None, groups: dict[str, str] | None = None) -> pl.DataFrame:
    its = levels or LEVELS
    paths = sample_paths(Quantiles.of(forecast(its)), past(its), draws=200, seed=1, lower=0.0, groups=groups)
    return roll_up(paths, freq=MONTHS, groups=groups)


def history(levels: dict[str, float] | None = None, months: int = 12) -> pl.DataFrame:
    times = [MONTHS.shift(NOW, back) for back in range(1 - months, 1)]
    table = [
        {"unique_id": name, "ds": time, "y": level} for name, level in (levels or LEVELS).items() for time in times
    ]
    return pl.DataFrame(table, schema_overrides={"ds": pl.Datetime("us")})


def without(frame: pl.DataFrame, name: str, *backs: int) -> pl.DataFrame:
    """The history with some months of a well unknown."""
    gone = [MONTHS.shift(NOW, -back) for back in backs]
    lost = (pl.col("unique_id") == name) & pl.col("ds").is_in(gone)
    return frame.with_columns(pl.when(~lost).then("y").alias("y"))


def chapter(known: pl.DataFrame | None = None, *, groups: dict[str, str] | None = None, **given: Any) -> Chapter:
    made = rollup_chapter(
        sums(groups=groups), history() if known is None else known, unit="m3/d", groups=groups, **given
    )
    assert made is not None
    return made


def actual(plot: Plot) -> Line:
    (line,) = [mark for mark in plot.marks if isinstance(mark, Line) and mark.role == "actual"]
    return line


def filled(plot: Plot) -> list[tuple[float, float | None]]:
    """The points of incomplete steps."""
    return [
        (mark.x[0], mark.y[0]) for mark in plot.marks if isinstance(mark, Line) and mark.role == "naive" and mark.dots
    ]


def column(table: Table, label: str) -> list[str]:
    (place,) = [i for i, its in enumerate(table.columns) if its.label == label]
    return [row.cells[place].text for row in table.rows]


def test_the_field_comes_first_and_pads_follow_by_size() -> None:
    made = chapter(groups=GROUPS)

    assert [picture.title for picture in made.pictures] == ["The field", "south", "north"]
    assert column(made.tables[1], "sum") == ["The field", "south", "north"]
    assert column(made.tables[1], "wells") == ["3", "1", "2"]
    assert [picture.note.split(";")[0] for picture in made.pictures] == ["3 wells", "1 well", "2 wells"]


def test_the_past_is_the_sum_of_the_wells_that_are_forecast_and_of_no_other() -> None:
    known = pl.concat([history(), history({"retired": 1e6})])

    made = chapter(known, groups=GROUPS)

    assert set(actual(made.pictures[0].plot).y) == {550.0}
    assert set(actual(made.pictures[1].plot).y) == {400.0}
    assert set(actual(made.pictures[2].plot).y) == {150.0}
    assert filled(made.pictures[0].plot) == []


def test_a_month_in_which_a_well_does_not_report_is_no_drop() -> None:
    made = chapter(without(history(), "c", 0, 5), groups=GROUPS)

    field, south, north = (picture.plot for picture in made.pictures)
    for plot, level in ((field, 550.0), (south, 400.0)):
        line = actual(plot)
        assert [line.y[line.x.index(seconds_of(MONTHS.shift(NOW, -back)))] for back in (0, 4, 5, 6)] == [
            None, level, None, level,
        ]  # fmt: skip
        assert filled(plot) == [(seconds_of(MONTHS.shift(NOW, -back)), level) for back in (5, 0)]
    assert filled(north) == []
    words = " ".join(made.words)
    assert "In 2 of the 12 steps shown not all wells that had begun report, last in 2024-01 (2 of 3)." in words
    assert "which makes up to 72.7 % of the sum" in words
    hints = [mark.text for mark in field.marks if isinstance(mark, Hint)]
    assert "2024-01: 2 of 3 wells report; 550 m3/d with the last known values of the others" in hints


def test_a_well_that_had_not_begun_is_not_missing() -> None:
    late = history().filter((pl.col("unique_id") != "b") | (pl.col("ds") >= MONTHS.shift(NOW, -2)))

    made = chapter(late)

    assert list(actual(made.pictures[0].plot).y) == [500.0] * 9 + [550.0] * 3
    assert "not all wells" not in " ".join(made.words)


def test_a_row_that_is_not_there_counts_as_one_without_a_value() -> None:
    gap = history().filter((pl.col("unique_id") != "b") | (pl.col("ds") != MONTHS.shift(NOW, -2)))

    assert filled(chapter(gap).pictures[0].plot) == [(seconds_of(MONTHS.shift(NOW, -2)), 550.0)]


def test_months_after_the_cutoff_are_no_past() -> None:
    later = pl.concat([history(), history().with_columns(pl.col("ds").dt.offset_by("12mo"))])

    assert max(actual(chapter(later).pictures[0].plot).x) == seconds_of(NOW)


def test_the_fan_is_that_of_the_sum_and_names_its_cases() -> None:
    table = sums(groups=GROUPS).filter((pl.col("level") == "field") & (pl.col("kind") == "rate")).sort("ds")
    plot = chapter(groups=GROUPS).pictures[0].plot

    widest = next(mark for mark in plot.marks if isinstance(mark, Band))
    assert widest.low == tuple(table["P90"])
    assert widest.high == tuple(table["P10"])
    median = [mark for mark in plot.marks if isinstance(mark, Line) and mark.role == "forecast" and mark.dots]
    assert median[0].y == tuple(table["P50"])
    assert re.fullmatch(r"2024-04: P90 \d+ · P50 \d+ · P10 \d+ m3/d", plot.x.label)
    assert plot.y.high > max(table["P10"])


def test_the_tables_give_both_names_of_each_case() -> None:
    table = sums(groups=GROUPS)
    made = chapter(groups=GROUPS)

    rates, volumes = made.tables[:2]
    names = [its.label for its in rates.columns]
    assert names == ["sum", "at", "step", "P90 (q10), m3/d", "P50 (q50), m3/d", "P10 (q90), m3/d", "mean, m3/d"]
    assert column(rates, "sum") == ["The field"] * 3 + ["south"] * 3 + ["north"] * 3
    assert column(rates, "at")[:3] == ["2024-02", "2024-03", "2024-04"]
    whole = table.filter((pl.col("level") == "field") & (pl.col("kind") == "cumulative")).row(0, named=True)
    for label, name in (("P90 (q10), m3", "P90"), ("P10 (q90), m3", "P10"), ("mean, m3", "mean")):
        assert float(column(volumes, label)[0].replace(",", "")) == pytest.approx(whole[name], rel=1e-3)
    shares = [float(text.removesuffix(" %")) for text in column(volumes, "share of the field")]
    assert shares[0] == 100.0
    assert sum(shares[1:]) == pytest.approx(100.0, abs=0.2)


def test_words_say_what_p90_means_and_what_adds_up() -> None:
    table = sums(groups=GROUPS)
    words = " ".join(chapter(groups=GROUPS).words)

    assert "P90 is the value that is exceeded with 90 % probability, the low case (statistically q10)" in words
    assert "Means add up exactly, from wells to pads to the field. Quantiles do not, because" in words
    volumes = table.filter(pl.col("kind") == "cumulative")
    parts = volumes.filter(pl.col("level") == "well")["q10"].sum()
    whole = volumes.filter(pl.col("level") == "field")["q10"][0]
    assert parts < whole
    found = re.search(r"cumulative P90 add up to ([\d,]+) m3 .* the field's own are ([\d,]+) and", words)
    assert found
    said = [float(group.replace(",", "")) for group in found.groups()]
    assert said == [pytest.approx(parts, rel=0.01), pytest.approx(whole, rel=0.01)]


def test_means_that_do_not_add_up_are_told() -> None:
    off = sums(groups=GROUPS).with_columns(
        pl.when(pl.col("level") == "pad").then(pl.col("mean") * 1.01).otherwise("mean").alias("mean")
    )

    made = rollup_chapter(off, history(), unit="m3/d", groups=GROUPS)

    assert made is not None
    assert "here they are up to 1.000 % off: distrust these sums" in " ".join(made.words)


def test_the_forecast_before_is_compared_on_the_wells_and_months_of_both() -> None:
    before = forecast({"a": 90.0, "b": 50.0, "gone": 7000.0}, MONTHS.shift(NOW, -1))

    made = chapter(previous=before)

    table = made.tables[2]
    assert column(table, "at") == ["2024-02", "2024-03"]
    assert column(table, "wells in both") == ["2", "2"]
    assert column(table, "before (m3/d)") == ["140.0", "140.0"]
    assert column(table, "now (m3/d)") == ["150.0", "150.0"]
    assert column(table, "change, %") == ["+7.1 %", "+7.1 %"]
    assert "Over 2024-02 to 2024-03, which the forecast before covered too" in " ".join(made.words)
    other = chapter(previous=forecast({"gone": 1.0}))
    assert "The forecast before shares no well and step with this one." in other.words
    assert len(other.tables) == 2


def test_scores_of_earlier_sums_stand_beside_the_naives() -> None:
    oof = past(LEVELS, origins=12)
    naive = oof.with_columns(pl.col(q) * 1.3 for q in QUANTILES)
    scores = rollup_scores(oof, naive, freq=MONTHS, groups=GROUPS, lower=0.0, origins=2, draws=100, seed=0)
    assert scores.height

    made = chapter(groups=GROUPS, scores=scores)

    table = made.tables[-1]
    assert column(table, "sum") == ["the field" if level == "field" else "all pads" for level in scores["level"]]
    assert column(table, "model") == scores["model"].to_list()
    assert [text.endswith("m3/d") for text in column(table, "MAE")] == [kind == "rate" for kind in scores["kind"]]
    (words,) = [text for text in made.words if "earlier origin" in text]
    mine = scores.filter(
        (pl.col("level") == "field") & (pl.col("kind") == "cumulative") & (pl.col("model") == "forecast")
    ).row(0, named=True)
    assert f"missed by {mine['nmae'] * 100:.1f} %" in words
    assert f"(R {mine['ratio']:.3g}" in words
    assert "too few earlier origins" in " ".join(chapter(scores=scores.clear()).words)


def test_no_more_than_the_largest_pads_have_a_picture() -> None:
    levels = {f"w{place:02d}": 100.0 + place for place in range(PADS + 3)}
    groups = {name: f"pad {name}" for name in levels}

    made = rollup_chapter(sums(levels, groups), history(levels), unit="m3/d", groups=groups)

    assert made is not None
    assert [picture.title for picture in made.pictures[1:]] == [f"pad w{place:02d}" for place in range(PADS + 2, 2, -1)]
    assert len(made.tables[1].rows) == PADS + 4
    assert f"The {PADS} largest of {PADS + 3} pads have a picture" in made.words[-1]


def test_the_newest_cutoff_is_shown() -> None:
    old = sums().with_columns(pl.col("cutoff", "ds").dt.offset_by("-1mo"), pl.col("mean") * 5)

    made = rollup_chapter(pl.concat([old, sums()]), history(), unit="m3/d", groups=None)

    assert made == chapter()


def test_without_a_field_or_a_past_the_chapter_says_less() -> None:
    assert rollup_chapter(sums().clear(), history(), unit="m3/d", groups=None) is None
    assert rollup_chapter(sums().filter(pl.col("level") == "well"), history(), unit="", groups=None) is None
    made = chapter(history().clear())
    assert "No actual of these wells is known, so the pictures show no past." in made.words
    rates_alone = rollup_chapter(sums().filter(pl.col("kind") == "rate"), history(), unit="m3/d", groups=None)
    assert rates_alone is not None
    assert rates_alone.pictures[0].note == "3 wells"
    assert rates_alone.tables[1].rows == ()


def test_bad_input_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match="'sums' lacks mean"):
        rollup_chapter(sums().drop("mean"), history(), unit="", groups=None)
    with pytest.raises(ConfigError, match="'previous' lacks q50"):
        chapter(previous=forecast(LEVELS).drop("q50"))
    with pytest.raises(ConfigError, match="'scores' lacks level"):
        chapter(scores=pl.DataFrame({"x": [1]}))
    with pytest.raises(ConfigError, match="1 of 3 wells have no pad, first 'c'"):
        rollup_chapter(sums(groups=GROUPS), history(), unit="", groups={"a": "north", "b": "north"})
    with pytest.raises(ConfigError, match="the sums have no rows of wells"):
        rollup_chapter(sums().filter(pl.col("level") == "field"), history(), unit="", groups=None)


@pytest.mark.parametrize(
    ("unit", "volume"), [("m3/d", "m3"), ("bbl/day", "bbl"), ("t", "t·days"), ("", ""), ("m3/day/d", "m3/day")]
)
def test_a_cumulative_has_the_unit_of_the_rate_times_days(unit: str, volume: str) -> None:
    assert volume_unit(unit) == volume


def test_pictures_can_be_drawn_in_both_ways_and_escape_hostile_names() -> None:
    hostile = {name: "<script>$x$" for name in LEVELS}

    made = rollup_chapter(
        sums(groups=hostile), without(history(), "a", 3), unit="m3/d", groups=hostile, previous=forecast(LEVELS)
    )

    assert made is not None
    for picture in made.pictures:
        drawn = svg.draw(picture.plot)
        ElementTree.fromstring(drawn)
        assert "<script>" not in drawn
    assert draw_grid([(picture.title, picture.plot) for picture in made.pictures], title="t", columns=2)


def test_the_order_of_rows_changes_nothing() -> None:
    table, known = sums(groups=GROUPS), without(history(), "c", 0, 5)

    one = rollup_chapter(table, known, unit="m3/d", groups=GROUPS)
    other = rollup_chapter(
        table.sample(fraction=1.0, shuffle=True, seed=1),
        known.reverse(),
        unit="m3/d",
        groups=dict(reversed(GROUPS.items())),
    )

    assert one == other
