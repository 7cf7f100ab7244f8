"""The chapter on attention: which months and which inputs a network's forecast was made from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

import polars as pl

from nightcast.contracts.columns import ID
from nightcast.contracts.errors import ConfigError
from nightcast.reports.charts import shortened
from nightcast.reports.plot import Axis, Band, Block, Hint, Key, Line, Mark, Plot, Rule, number_axis
from nightcast.reports.table import Cell, Column, Table, count, counted, percent, percent_cell, row
from nightcast.reports.views import Chapter, Picture

MOST_LETTERS: Final = 26
"""Of a name on an axis."""
MOST_FEATURES: Final = 20
MOST_RIDGES: Final = 12
MOST_ROWS: Final = 150
WIDTH: Final = 420
"""Of a picture: narrower ones have larger letters on a phone."""
TOP: Final = 3
"""Features per series in the table."""
EVEN: Final = 0.9
"""Share of all choices from which attention counts as spread evenly."""

_ROLE, _OTHER = "category-0", "category-1"
_CHARACTER: Final = 5.3
"""Mean width of a character of a tick's label, CSS pixels at scale one."""
_READING: Final = (
    "Attention says what the forecast was made from, not what causes the rate: an input that moves with the true cause "
    "can take its place, and one with little weight may still matter through another. It is no ground for changing a "
    "well's settings; effects of a plan are told by a scenario, support by the fitted connectivities."
)

FEWEST: Final = 5
"""Inputs beside the series' own rate below which ranks agree by chance too easily to be told of."""
AGREES, AGREES_WEAKLY = 0.5, 0.2
"""Rank correlations with knock-outs from which the order of attention may be read, and from which there is some."""


def attention_chapter(
    weights: pl.DataFrame, *, freq_word: str = "month", check: pl.DataFrame | None = None
) -> Chapter | None:
    """What a network attended to, or None where there are no weights.

    Parameters
    ----------
    weights
        `unique_id, kind, name, weight`: per series one row for each `feature`, and one for each `lag` (`name` is the
        number of steps before the cutoff); each kind's weights sum to 1.
    freq_word
        A step in words, `month`; `one month` and `15 minutes` will do, too.
    check
        What knocking inputs out did, `name, own, weight, change`; None: attention was not checked, and no sentence
        says how far it agrees.

    Raises
    ------
    ConfigError
        If a column is missing, a kind is unknown, a weight is not a number of at least 0, or a lag not a whole number.
    """
    _check(weights)
    word = freq_word.removeprefix("one ")
    lags = _lags(weights.filter(kind="lag"))
    features = _mean(weights.filter(kind="feature"))
    if lags.is_empty() and features.is_empty():
        return None
    pictures, words = [], []
    series = weights.get_column(ID).n_unique()
    if lags.height:
        words.append(_lag_words(lags, word))
        pictures.append(Picture("attention-lags", "How far back", _lag_plot(lags, word), note=_many(series)))
    if features.height:
        words.append(_feature_words(features))
        note = _many(series)
        if features.height > MOST_FEATURES:
            note = f"the {MOST_FEATURES} largest of {features.height}, {note}"
        pictures.append(Picture("attention-features", "Which inputs", _feature_plot(features), note=note))
    agreement = None if check is None else rank_agreement(check)
    if check is not None and agreement is not None:
        words.append(_check_words(check, agreement))
    unlike = _unlike(lags)
    if len(unlike) > 1:
        note = f"the {len(unlike)} series furthest from the mean of all, furthest on top"
        if len(unlike) == lags.get_column(ID).n_unique():
            note = "all series, the one furthest from their mean on top"
        pictures.append(Picture("attention-series", "Series by series", _ridges(lags, unlike, word), note=note))
    words.append(_READING)
    return Chapter(
        "attention",
        "What the network looked at",
        tuple(words),
        tuple(pictures),
        (),
        (_table(weights, lags, word),),
        "Attention",
    )


def _many(series: int) -> str:
    return f"mean of {counted(series, 'series', 'series')}"


def _lags(weights: pl.DataFrame) -> pl.DataFrame:
    """`unique_id, lag, weight`, oldest first."""
    lag = pl.col("name").cast(pl.Int64, strict=False)
    return weights.select(ID, lag.alias("lag"), "weight").sort(ID, "lag", descending=[False, True])


def _mean(weights: pl.DataFrame) -> pl.DataFrame:
    """`name, weight, low, high`: mean and 10-90 % range over series, largest first."""
    return (
        weights.group_by("name")
        .agg(
            pl.col("weight").mean(),
            pl.col("weight").quantile(0.1, "linear").alias("low"),
            pl.col("weight").quantile(0.9, "linear").alias("high"),
        )
        .sort("weight", "name", descending=[True, False])
    )


def _by_lag(lags: pl.DataFrame) -> pl.DataFrame:
    """`lag, weight, low, high`, oldest first."""
    mean = _mean(lags.select(pl.col("lag").alias("name"), "weight"))
    return mean.rename({"name": "lag"}).sort("lag", descending=True)


def choices(weights: Sequence[float]) -> float:
    """Number of equal weights that would be as spread out as these: `exp` of their entropy (Hill 1973, order 1)."""
    total = sum(weights)
    if total <= 0:
        return 0.0
    # A share may underflow to 0 although its weight is above 0.
    shares = [share for weight in weights if (share := weight / total) > 0]
    return math.exp(-sum(share * math.log(share) for share in shares))


def rank_agreement(check: pl.DataFrame, *, of: str = "change") -> float | None:
    """Spearman's rank correlation of attention with what knocking an input out does, -1 to 1.

    A series' own rate is left aside: it is read past attention, too. None with fewer than five other inputs, or where
    all weights or all effects are equal.

    Parameters
    ----------
    check
        `name, own, weight`, and the column `of`.

    Raises
    ------
    ConfigError
        If a column is missing.
    """
    if missing := [name for name in ("name", "own", "weight", of) if name not in check.columns]:
        raise _refuse(f"is checked by a frame that lacks {', '.join(missing)}", f"the columns name, own, weight, {of}")
    others = check.filter(~pl.col("own")).drop_nulls(["weight", of])
    if others.height < FEWEST or min(others[name].n_unique() for name in ("weight", of)) < 2:
        return None
    return float(others.select(pl.corr("weight", of, method="spearman")).item())


def _check_words(check: pl.DataFrame, agreement: float) -> str:
    others = check.filter(~pl.col("own"))
    if agreement >= AGREES:
        verdict = "their order may be read, their sizes not"
    elif agreement >= AGREES_WEAKLY:
        verdict = "a weak agreement: go by the changes"
    else:
        verdict = "no agreement: attention does not explain this forecast, go by the changes"
    largest = others.sort("change", "name", descending=[True, False]).head(3)
    said = ", ".join(
        f"{name} {percent(change, digits=1)}" for name, change in largest.select("name", "change").iter_rows()
    )
    return (
        f"Agreement of attention with knock-outs (an input's course exchanged among series and dates, the forecast "
        f"made anew): rank correlation {agreement:.2f} over {counted(others.height, 'input')} beside the series' own "
        f"rate; {verdict}. The forecast changes most, in shares of a series' level, without {said}."
    )


def _lag_words(lags: pl.DataFrame, word: str) -> str:
    mean = _by_lag(lags)
    values = [float(weight) for weight in mean.get_column("weight")]
    spread = choices(values)
    if spread >= EVEN * len(values):
        return (
            f"Attention is spread nearly evenly over the {_steps(len(values), word)} that are read: no part of the "
            "past stands out, and the picture says little."
        )
    recent = sum(weight for lag, weight in mean.select("lag", "weight").iter_rows() if lag < 6)
    top = mean.sort("weight", "lag", descending=[True, False]).row(0, named=True)
    place = "the cutoff itself" if top["lag"] == 0 else f"{_steps(top['lag'], word)} before the cutoff"
    return (
        f"Of the {_steps(len(values), word)} that are read, attention uses about {round(spread)}: "
        f"{percent(recent, digits=0)} of it lies within the last 6, and the largest weight, "
        f"{percent(top['weight'], digits=0)}, on {place} (even would be {percent(1 / len(values))} each)."
    )


def _feature_words(features: pl.DataFrame) -> str:
    values = [float(weight) for weight in features.get_column("weight")]
    said = ", ".join(
        f"{name} {percent(weight, digits=0)}" for name, weight in features.head(3).select("name", "weight").iter_rows()
    )
    if len(values) > 1 and choices(values) >= EVEN * len(values):
        return (
            f"Over the {counted(len(values), 'input')} attention is spread nearly evenly; the largest: {said}. A lead "
            "this small says little."
        )
    return f"Of {counted(len(values), 'input')} most attention goes to {said}."


def _lag_plot(lags: pl.DataFrame, word: str) -> Plot:
    mean = _by_lag(lags)
    x = tuple(-float(lag) for lag in mean.get_column("lag"))
    weight, low, high = (tuple(float(v) for v in mean.get_column(name)) for name in ("weight", "low", "high"))
    marks: list[Mark] = [Rule(1 / len(x), "y")]
    if len(x) > 1:
        marks.append(Band(x, low, high, _ROLE))
    marks.append(Line(x, weight, _ROLE, dots=len(x) <= 30))
    marks += [
        Hint(
            at - 0.5,
            at + 0.5,
            f"{_before(lag, word)}: {percent(w)}, most series {percent(lo)} to {percent(hi)}",
        )
        for at, lag, w, lo, hi in zip(x, mean.get_column("lag"), weight, low, high, strict=True)
    ]
    top = mean.sort("weight", "lag", descending=[True, False]).head(4)
    said = ", ".join(f"{_before(lag, word)} {percent(w)}" for lag, w in top.select("lag", "weight").iter_rows())
    return Plot(
        tuple(marks),
        _lag_axis(mean, word),
        _weight_axis(max(*high, *weight, 0.0)),
        f"Mean attention by step before the cutoff over {counted(lags.get_column(ID).n_unique(), 'series', 'series')}; "
        f"the largest: {said}.",
        (
            Key("mean over series", _ROLE),
            Key("10 to 90 % of series", _ROLE, "band"),
            Key("as much as any other", "rule", "dash"),
        ),
        size=(WIDTH, 250),
    )


def _feature_plot(features: pl.DataFrame) -> Plot:
    """Bars from the largest down, with the 10-90 % range over series."""
    shown = features.head(MOST_FEATURES)
    marks: list[Mark] = []
    ticks = []
    for place, entry in enumerate(shown.reverse().iter_rows(named=True)):
        marks.append(Block(0.0, entry["weight"], place - 0.32, place + 0.32, _ROLE))
        marks.append(Line((entry["low"], entry["high"]), (float(place), float(place)), "actual", thin=True))
        ticks.append((float(place), shortened(str(entry["name"]), MOST_LETTERS)))
    marks.append(Rule(1 / features.height, "x"))
    said = ", ".join(f"{name} {percent(weight)}" for name, weight in shown.head(6).select("name", "weight").iter_rows())
    largest = max(*(float(v) for v in shown.get_column("high")), *(float(v) for v in shown.get_column("weight")))
    axis = _weight_axis(largest)
    return Plot(
        tuple(marks),
        Axis(axis.low, axis.high, axis.ticks, "weight"),
        Axis(-0.6, len(ticks) - 0.4, tuple(ticks)),
        f"Mean attention by input, largest first: {said}.",
        (
            Key("mean over series", _ROLE, "block"),
            Key("10 to 90 % of series", "actual"),
            Key("as much as any other", "rule", "dash"),
        ),
        size=(WIDTH, max(130, 18 * len(ticks) + 74)),
        left=round(min(190, max(46, _CHARACTER * max(len(text) for _, text in ticks) + 12))),
    )


def _unlike(lags: pl.DataFrame) -> list[str]:
    """Series by how far their weights lie from the mean of all (total variation), furthest first."""
    mean = lags.group_by("lag").agg(pl.col("weight").mean().alias("mean"))
    away = (
        lags.join(mean, on="lag")
        .group_by(ID)
        .agg(((pl.col("weight") - pl.col("mean")).abs().sum() / 2).alias("away"))
        .sort("away", ID, descending=[True, False])
        .head(MOST_RIDGES)
    )
    return [str(name) for name in away.get_column(ID)]


def _ridges(lags: pl.DataFrame, names: Sequence[str], word: str) -> Plot:
    """Each series' weights by lag as a ridge of its own; all ridges on one scale."""
    top = max(float(value) for value in lags.filter(pl.col(ID).is_in(names)).get_column("weight")) or 1.0
    marks: list[Mark] = []
    ticks = []
    for place, name in enumerate(reversed(names)):
        its = lags.filter(pl.col(ID) == name)
        x = tuple(-float(lag) for lag in its.get_column("lag"))
        height = tuple(place + 0.9 * float(weight) / top for weight in its.get_column("weight"))
        marks += [Band(x, (float(place),) * len(x), height, _ROLE), Line(x, height, _ROLE, thin=True)]
        ticks.append((float(place), shortened(name, MOST_LETTERS)))
    mean = _by_lag(lags)
    return Plot(
        tuple(marks),
        _lag_axis(mean, word),
        Axis(-0.1, len(names) + 0.05, tuple(ticks)),
        f"Attention by step before the cutoff of {', '.join(names[:6])}{' and others' if len(names) > 6 else ''}; "
        f"the highest ridge is {percent(top)}.",
        (Key(f"weight; the highest ridge is {percent(top, digits=0)}", _ROLE, "band"),),
        size=(WIDTH, max(130, 24 * len(names) + 56)),
        left=round(min(190, max(46, _CHARACTER * max(len(text) for _, text in ticks) + 12))),
    )


def _table(weights: pl.DataFrame, lags: pl.DataFrame, word: str) -> Table:
    features = weights.filter(kind="feature").sort(ID, "weight", "name", descending=[False, True, False])
    tops: dict[str, list[dict[str, Any]]] = {}
    for entry in features.iter_rows(named=True):
        tops.setdefault(entry[ID], []).append(entry)
    recent: dict[str, tuple[float, int]] = {}
    for name, share, lag in (
        lags.group_by(ID)
        .agg(
            pl.col("weight").filter(pl.col("lag") < 6).sum().alias("share"),
            pl.col("lag").sort_by("weight").last(),
        )
        .iter_rows()
    ):
        recent[str(name)] = (float(share), int(lag))
    names = weights.get_column(ID).unique().sort().to_list()
    rows = []
    for name in names[:MOST_ROWS]:
        its = tops.get(name, [])[:TOP]
        cells = [Cell(f"{entry['name']}, {percent(entry['weight'], digits=0)}", sort=entry["weight"]) for entry in its]
        share, lag = recent.get(name, (None, None))
        rows.append(
            row(
                Cell(str(name), "strong"),
                *cells,
                *(Cell("–") for _ in range(TOP - len(cells))),
                percent_cell(share, digits=0),
                Cell("–") if lag is None else Cell(_before(lag, word), sort=float(lag)),
                key=str(name),
            )
        )
    columns = (
        Column("series"),
        Column("first input"),
        Column("second input"),
        Column("third input"),
        Column("on the last 6 steps", True),
        Column("largest step"),
    )
    caption = "What each series' forecast was made from"
    if len(names) > MOST_ROWS:
        caption += f"; the first {MOST_ROWS} of {count(len(names))}"
    return Table(caption, columns, tuple(rows), "", sortable=True)


def _lag_axis(mean: pl.DataFrame, word: str) -> Axis:
    lags = [int(lag) for lag in mean.get_column("lag")]
    oldest, newest = max(lags), min(lags)
    steps = (1, 2, 3, 6, 12, 24, 48, 96)
    every = next((step for step in steps if (oldest - newest) / step <= 10), max(1, (oldest - newest) // 8))
    ticks = tuple((-float(lag), str(lag)) for lag in range(oldest, newest - 1, -1) if lag % every == 0)
    label = f"{word}s before the cutoff" if " " not in word else f"steps of {word} before the cutoff"
    return Axis(-oldest - 0.5, -newest + 0.5, ticks, label)


def _weight_axis(top: float) -> Axis:
    axis = number_axis((0.0, max(top, 1e-3)), ticks=4)
    digits = 0 if len(axis.ticks) < 2 or axis.ticks[1][0] - axis.ticks[0][0] >= 0.0099 else 1
    return Axis(0.0, axis.high, tuple((at, percent(at, digits=digits)) for at, _ in axis.ticks), "weight")


def _steps(lag: int, word: str) -> str:
    return counted(lag, word if " " not in word else f"step of {word}", None if " " not in word else f"steps of {word}")


def _before(lag: int, word: str) -> str:
    return "the cutoff" if lag == 0 else f"{_steps(lag, word)} before"


def _check(weights: pl.DataFrame) -> None:
    if missing := [name for name in (ID, "kind", "name", "weight") if name not in weights.columns]:
        raise _refuse(f"lacks {', '.join(missing)}", "the columns unique_id, kind, name, weight")
    strange = weights.filter(~pl.col("kind").is_in(["feature", "lag"]) | pl.col("kind").is_null())
    if strange.height:
        raise _refuse(f"has the kind {strange['kind'][0]!r}", "feature or lag")
    wild = weights.filter(~(pl.col("weight").is_finite() & (pl.col("weight") >= 0)).fill_null(False))
    if wild.height:
        raise _refuse(f"has the weight {wild['weight'][0]} of {wild['name'][0]!r}", "numbers of at least 0")
    lag = pl.col("name").cast(pl.Int64, strict=False)
    odd = weights.filter((pl.col("kind") == "lag") & (lag.is_null() | (lag < 0)))
    if odd.height:
        raise _refuse(f"has the lag {odd['name'][0]!r}", "whole numbers of steps before the cutoff")


def _refuse(what: str, expected: str) -> ConfigError:
    return ConfigError(
        f"the frame of attention weights {what}",
        expected=expected,
        remedy="hand over what the fitted model's `evidence` returned",
    )
