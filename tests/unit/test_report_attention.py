"""The chapter on attention: means, ranges, and words that do not say too much."""

from __future__ import annotations

import re
from typing import Any
from xml.etree import ElementTree

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nightcast.contracts.errors import ConfigError
from nightcast.reports import svg
from nightcast.reports.attention_views import MOST_FEATURES, MOST_RIDGES, attention_chapter, choices
from nightcast.reports.plot import Band, Block, Line, Plot, Rule
from nightcast.reports.png import draw_grid
from nightcast.reports.views import Chapter


def weights(series: int = 3, lags: int = 12, features: int = 4, *, peak: float = 8.0, seed: int = 0) -> pl.DataFrame:
    """Most attention on the cutoff and on `x0`."""
    rng = np.random.default_rng(seed)
    parts = []
    for number in range(series):
        for kind, names in (
            ("feature", [f"x{at}" for at in range(features)]),
            ("lag", [str(lag) for lag in range(lags - 1, -1, -1)]),
        ):
            raw = rng.uniform(0.8, 1.2, len(names))
            raw[names.index("0" if kind == "lag" else "x0")] *= peak
            values = raw / raw.sum()
            parts += [(f"W{number:02d}", kind, name, float(w)) for name, w in zip(names, values, strict=True)]
    return pl.DataFrame(parts, schema=["unique_id", "kind", "name", "weight"], orient="row")


def told(frame: pl.DataFrame, **more: Any) -> Chapter:
    chapter = attention_chapter(frame, **more)
    assert chapter is not None
    return chapter


def picture(chapter: Chapter, name: str) -> Plot:
    return next(its.plot for its in chapter.pictures if its.name == name)


def marks(plot: Plot, kind: type[Any]) -> list[Any]:
    return [mark for mark in plot.marks if isinstance(mark, kind)]


def test_the_line_is_the_mean_by_lag_and_the_band_most_series_the_cutoff_on_the_right() -> None:
    frame = weights()
    plot = picture(told(frame), "attention-lags")
    (line,), (band,), (rule,) = marks(plot, Line), marks(plot, Band), marks(plot, Rule)

    assert line.x == tuple(float(at) for at in range(-11, 1))
    newest = frame.filter(kind="lag", name="0")["weight"].to_numpy()
    assert line.y[-1] == pytest.approx(newest.mean())
    assert (band.low[-1], band.high[-1]) == pytest.approx(tuple(np.quantile(newest, (0.1, 0.9))))
    assert sum(line.y) == pytest.approx(1.0)
    assert rule.at == pytest.approx(1 / 12)
    assert (plot.x.ticks[-1][1], plot.x.label) == ("0", "months before the cutoff")


def test_bars_are_the_largest_inputs_from_the_top_down() -> None:
    chapter = told(weights(features=30))
    plot = picture(chapter, "attention-features")
    blocks = sorted(marks(plot, Block), key=lambda block: -float(block.top))

    assert len(blocks) == MOST_FEATURES
    assert [block.right for block in blocks] == sorted((block.right for block in blocks), reverse=True)
    assert plot.y.ticks[-1][1] == "x0"
    assert next(its.note for its in chapter.pictures if its.name == "attention-features").startswith(
        "the 20 largest of 30"
    )


def test_series_furthest_from_the_mean_have_ridges_of_their_own_on_one_scale() -> None:
    frame = weights(series=20)
    odd = (pl.col("unique_id") == "W07") & (pl.col("kind") == "lag")
    frame = frame.with_columns(
        pl.when(odd).then((pl.col("name") == "11").cast(pl.Float64)).otherwise("weight").alias("weight")
    )

    plot = picture(told(frame), "attention-series")

    assert len(marks(plot, Band)) == MOST_RIDGES
    assert plot.y.ticks[-1][1] == "W07"
    top = max(marks(plot, Band), key=lambda band: float(band.low[0]))
    assert max(top.high) - top.low[0] == pytest.approx(0.9)
    assert "100.0 %" in plot.description


def test_words_tell_where_attention_goes_and_that_it_is_no_cause() -> None:
    first, second, third = told(weights(), freq_word="one month").words

    assert "Of the 12 months that are read" in first
    assert "on the cutoff itself" in first
    assert "most attention goes to x0" in second
    assert "not what causes the rate" in third


def test_even_attention_is_said_to_tell_little() -> None:
    first, second, _ = told(weights(peak=1.0)).words

    assert "spread nearly evenly over the 12 months" in first
    assert "spread nearly evenly" in second


def test_steps_of_other_lengths_read_well() -> None:
    chapter = told(weights(peak=1.0), freq_word="15 minutes")

    assert "over the 12 steps of 15 minutes that are read" in chapter.words[0]
    assert picture(chapter, "attention-lags").x.label == "steps of 15 minutes before the cutoff"


def test_the_table_has_each_series_largest_inputs_and_step() -> None:
    rows = told(weights(series=2)).tables[0].rows

    assert [line.cells[0].text for line in rows] == ["W00", "W01"]
    assert all(line.cells[1].text.startswith("x0, ") for line in rows)
    assert all(line.cells[-1].text == "the cutoff" for line in rows)
    assert "the first 150 of 160" in told(weights(series=160, lags=2, features=1)).tables[0].caption


def test_one_kind_alone_is_enough_and_none_gives_no_chapter() -> None:
    frame = weights()

    assert [its.name for its in told(frame.filter(kind="feature")).pictures] == ["attention-features"]
    assert [its.name for its in told(frame.filter(kind="lag")).pictures] == ["attention-lags", "attention-series"]
    assert attention_chapter(frame.head(0)) is None


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda frame: frame.drop("weight"), "lacks weight"),
        (lambda frame: frame.with_columns(kind=pl.lit("head")), "has the kind 'head'"),
        (lambda frame: frame.with_columns(weight=pl.lit(float("nan"))), "has the weight nan of 'x0'"),
        (lambda frame: frame.with_columns(weight=-pl.col("weight")), "has the weight -"),
        (lambda frame: frame.with_columns(name=pl.lit("t-1")), "has the lag 't-1'"),
    ],
)
def test_what_is_no_attention_is_refused_by_name(change: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        attention_chapter(change(weights()))


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30).filter(lambda values: sum(values) > 1e-6))
def test_weights_are_spread_over_at_least_one_and_at_most_all_choices(values: list[float]) -> None:
    assert 1 - 1e-9 <= choices(values) <= len(values) + 1e-9
    assert choices([1.0] * len(values)) == pytest.approx(len(values))


@pytest.mark.parametrize("frame", [weights(), weights(series=1), weights(lags=1, features=1), weights(lags=60)])
def test_every_picture_draws_as_svg_and_png(frame: pl.DataFrame) -> None:
    chapter = told(frame)
    for its in chapter.pictures:
        text = svg.draw(its.plot)
        ElementTree.fromstring(text)
        assert not re.search(r"nan|inf", text)
    assert draw_grid([(its.title, its.plot) for its in chapter.pictures], title="t")
