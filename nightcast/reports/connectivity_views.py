"""The chapters on a water flood: who supports whom by a fitted model, and whether voidage is replaced."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

import polars as pl

from nightcast.contracts.columns import ID, TARGET, TIME
from nightcast.contracts.errors import ConfigError
from nightcast.evaluation.voidage import FIELD
from nightcast.reports.charts import shortened
from nightcast.reports.plot import (
    Axis,
    Block,
    Dot,
    Hint,
    Key,
    Line,
    Mark,
    Plot,
    Rule,
    Side,
    number_axis,
    seconds_of,
    time_axis,
)
from nightcast.reports.svg import inner_size
from nightcast.reports.table import (
    NOTHING,
    Cell,
    Column,
    Table,
    count,
    counted,
    number,
    number_cell,
    percent,
    percent_cell,
    row,
)
from nightcast.reports.views import Chapter, Picture

MOST_LETTERS: Final = 14
"""Of a name on an axis."""
LEAST: Final = 0.05
"""Share of an injector's water from which a pair is drawn."""
STRONG: Final = 0.2
"""Share from which its line is thick."""
MOST_LINES: Final = 60
MOST_NAMES: Final = 70
"""Wells of a map up to which producers are named on it."""
MOST_INTERVALS: Final = 25
MOST_ROWS: Final = 150
MOST_BARS: Final = 30
MOST_COLUMNS: Final = 40
WIDTH: Final = 420
"""Of a picture: narrower ones have larger letters on a phone."""
PAIRS: Final = ("injector", "producer", "f", "f_low", "f_high", "identifiable", "theta_days", "distance_m")
PLACES: Final = ("x_injector", "y_injector", "x_producer", "y_producer")

_TOLD, _MAP, _INJECTOR, _PRODUCER, _LOST = "category-0", "rule", "category-5", "actual", "other"
_CHARACTER: Final = 5.3
"""Mean width of a character of a tick's label, CSS pixels at scale one."""
_GUESS: Final = {
    True: "The other shares are the map's: the nearer a well, the more.",
    False: "The other shares are assumed: no positions are known, so one producer is as likely as another.",
}
_UNSURE: Final = {True: "from the map alone", False: "assumed"}
"""What a pair that is not identifiable is, where positions are known and where not."""
_CAUTION: Final = (
    "A pair that is not identifiable should not steer a valve: its value is what was likely beforehand, not what the "
    "wells did. To learn more, change that injector's rate in clear steps over some months while its neighbours stay "
    "as they are. Even an identifiable share says how rates moved together; where injection was raised because "
    "rates fell, it may be too low or too high."
)


def recent_rates(history: pl.DataFrame, support: pl.DataFrame, *, last: int = 12) -> pl.DataFrame:
    """Mean of each well's last known rates, `unique_id, rate`: of `y` for producers, of `wwir` for injectors.

    Parameters
    ----------
    history, support
        `unique_id, ds, y` and `unique_id, ds, wwir`.
    last
        Known values that are averaged.
    """
    parts = [
        frame.select(ID, TIME, pl.col(name).cast(pl.Float64).alias("rate"))
        for frame, name in ((history, TARGET), (support, "wwir"))
        if name in frame.columns
    ]
    if not parts:
        return pl.DataFrame(schema={ID: pl.String, "rate": pl.Float64})
    known = pl.concat(parts).drop_nulls("rate").sort(ID, TIME)
    return known.group_by(ID, maintain_order=True).agg(pl.col("rate").tail(last).mean())


def connectivity_chapter(
    pairs: pl.DataFrame,
    injectors: pl.DataFrame,
    *,
    rates: pl.DataFrame | None = None,
    drive: pl.DataFrame | None = None,
    unit: str = "m3/d",
) -> Chapter | None:
    """Who supports whom, or None where there is no pair.

    Parameters
    ----------
    pairs
        `injector, producer, f, f_low, f_high, identifiable, theta_days, distance_m`, and `x_injector, y_injector,
        x_producer, y_producer` in metres where a map is wanted; `f` is the share of the injector's water.
    injectors
        `injector, loss`: share of its water that supports no producer.
    rates
        `unique_id, rate` of producers and injectors, as `recent_rates` makes it; None: shares alone are told.
    drive
        `producer, rate, support` and `injection_share, inflow_share, drawdown_share, start_share`: what each producer's
        modelled rate is made of; None: not told.
    unit
        Of the rates.

    Raises
    ------
    ConfigError
        If a frame lacks a column.
    """
    for frame, columns, what in (
        (pairs, PAIRS, "pairs"),
        (injectors, ("injector", "loss"), "injectors"),
        (rates, (ID, "rate"), "rates"),
        (drive, ("producer", "rate", "support", *_DRIVE), "drive"),
    ):
        if frame is not None:
            _require(frame, columns, what)
    if pairs.is_empty():
        return None
    pairs = pairs.sort("f", "injector", "producer", descending=[True, False, False])
    flow = {} if rates is None else {str(name): float(rate) for name, rate in rates.drop_nulls().iter_rows()}
    balance = _balance(pairs, injectors, flow)
    strongest = pairs.head(MOST_INTERVALS)
    pictures = []
    if (chart := _map(pairs, flow, unit)) is not None:
        shown = min(MOST_LINES, pairs.filter(pl.col("f") >= LEAST).height)
        note = f"{counted(shown, 'pair')} with {percent(LEAST, digits=0)} of an injector's water or more"
        if pairs.filter(pl.col("f") >= LEAST).height > shown:
            note = f"the {shown} strongest pairs"
        pictures.append(
            Picture("connectivity-map", "The map", chart, note=f"{note}; point at a well to read its pairs")
        )
    else:
        pictures.append(
            Picture(
                "connectivity-matrix",
                "Injectors and producers",
                _matrix(pairs),
                note="no positions are known; the area of a mark goes with the share",
            )
        )
    which = "all pairs" if strongest.height == pairs.height else f"the {strongest.height} strongest pairs"
    pictures += [
        Picture("connectivity-intervals", "Shares and their 90 % intervals", _intervals(strongest), note=which),
        Picture(
            "connectivity-balance",
            "Where each injector's water goes",
            _bars(balance, unit if flow else "", _UNSURE[_mapped(pairs)]),
            note=("recent injection" if flow else "shares of its water")
            + (f" of the {MOST_BARS} largest of {len(balance)}" if len(balance) > MOST_BARS else ", by the model"),
        ),
    ]
    tables = [_pair_table(pairs, flow, unit), _injector_table(balance, pairs, unit if flow else "")]
    if drive is not None and drive.height:
        tables.append(_drive_table(drive, unit))
    return Chapter(
        "connectivity",
        "Who supports whom",
        _words(pairs, balance, bool(flow), unit),
        tuple(pictures),
        (),
        tuple(tables),
        "Connectivity",
    )


def voidage_chapter(frame: pl.DataFrame, *, unit: str) -> Chapter | None:
    """Whether injection replaces what is produced, or None where no month's ratio is known.

    Parameters
    ----------
    frame
        As `nightcast.evaluation.voidage.voidage_replacement` makes it.
    unit
        Of rates, `m3/d`.

    Raises
    ------
    ConfigError
        If the frame lacks a column.
    """
    _require(frame, _VOIDAGE, "voidage")
    whole = frame.filter(pl.col("group") == FIELD).sort(TIME)
    if not whole.get_column("vrr").count():
        return None
    groups = [str(name) for name in frame.get_column("group").unique(maintain_order=True)]
    found = {name: _periods(frame.filter(pl.col("group") == name).sort(TIME)) for name in groups}
    pictures = [Picture("voidage-field", "The field", _ratios(whole), note="by month, and all months up to it")]
    if len(groups) > 1:
        pictures.append(
            Picture("voidage-groups", "By group", _group_ratios(found), note=f"the last {_YEAR} months together")
        )
    return Chapter(
        "voidage",
        "Voidage replacement",
        _voidage_words(whole, found, unit),
        tuple(pictures),
        (),
        (_voidage_table(found, unit),),
        "Voidage",
    )


# -- connectivity ------------------------------------------------------------------------------------------------------


def _mapped(pairs: pl.DataFrame) -> bool:
    """Whether positions took part in the fit."""
    return bool(pairs.get_column("distance_m").count())


def _balance(pairs: pl.DataFrame, injectors: pl.DataFrame, flow: Mapping[str, float]) -> list[dict[str, Any]]:
    """Per injector the shares of its water, by how they are known; those with the most water first."""
    seen = pl.col("identifiable")
    shares = pairs.group_by("injector").agg(
        pl.col("f").filter(seen).sum().alias("told"),
        pl.col("f").filter(~seen).sum().alias("guessed"),
        seen.sum().alias("clear"),
        pl.len().alias("pairs"),
    )
    each = injectors.join(shares, on="injector", how="left").with_columns(
        pl.col("told", "guessed").fill_null(0.0), pl.col("clear", "pairs").fill_null(0)
    )
    entries = [{**entry, "rate": flow.get(entry["injector"])} for entry in each.iter_rows(named=True)]
    return sorted(entries, key=lambda entry: (-(entry["rate"] or 0.0), entry["injector"]))


def _words(pairs: pl.DataFrame, balance: Sequence[dict[str, Any]], rated: bool, unit: str) -> tuple[str, ...]:
    clear = pairs.filter("identifiable")
    first = (
        f"A model of the field's tanks was fitted to rates, pressures and injection: {count(clear.height)} of "
        f"{counted(pairs.height, 'injector-producer pair')} within reach "
        f"{'is' if clear.height == 1 else 'are'} identifiable, because injection changed enough, and long enough, for "
        f"the producer's rate to show it. {_GUESS[_mapped(pairs)]}"
    )
    said = "; ".join(
        f"{entry['injector']} → {entry['producer']} {percent(entry['f'], digits=0)} "
        f"({_span(entry)}), after {_days(entry['theta_days'])}"
        for entry in clear.filter(pl.col("f") >= LEAST).head(3).iter_rows(named=True)
    )
    second = (
        f"The strongest identifiable support, as a share of the injector's water with its 90 % interval: {said}."
        if said
        else "No identifiable pair holds a noticeable share: what is shown below was likely beforehand, no more."
    )
    lost = [entry for entry in balance if entry["loss"] is not None]
    unaccounted = ""
    if rated and (total := sum(entry["rate"] or 0.0 for entry in lost)) > 0:
        gone = sum((entry["rate"] or 0.0) * entry["loss"] for entry in lost)
        most = sorted(lost, key=lambda entry: -(entry["rate"] or 0.0) * entry["loss"])[:3]
        each = ", ".join(
            f"{entry['injector']} {number((entry['rate'] or 0.0) * entry['loss'])}" for entry in most if entry["rate"]
        )
        unaccounted = (
            f"By the model {number(gone)} {unit} of the {number(total)} {unit} injected of late "
            f"({percent(gone / total, digits=0)}) support no producer; the most: {each} {unit}."
        )
    elif lost:
        most = sorted(lost, key=lambda entry: -entry["loss"])[:3]
        each = ", ".join(f"{entry['injector']} {percent(entry['loss'], digits=0)}" for entry in most)
        unaccounted = f"The largest shares of water that support no producer: {each}."
    blind = sum(1 for entry in lost if not entry["clear"])
    if unaccounted and blind:
        unaccounted += f" Of {counted(blind, 'injector')} no pair is identifiable: the loss is about what was assumed."
    return tuple(text for text in (first, second, unaccounted, _CAUTION) if text)


def _map(pairs: pl.DataFrame, flow: Mapping[str, float], unit: str) -> Plot | None:
    """Wells in plan view, equal scale on both axes; None where no pair's two wells have a position."""
    if any(name not in pairs.columns for name in PLACES):
        return None
    placed = pairs.drop_nulls(PLACES)
    if placed.is_empty():
        return None
    spots: dict[tuple[str, str], tuple[float, float]] = {}
    for kind in ("injector", "producer"):
        for name, x, y in placed.select(kind, f"x_{kind}", f"y_{kind}").unique().sort(kind).iter_rows():
            spots[kind, str(name)] = (float(x), float(y))
    size, left, x_axis, y_axis = _plan(list(spots.values()))
    drawn = placed.filter(pl.col("f") >= LEAST).head(MOST_LINES)
    marks: list[Mark] = []
    # Weak and unsure lines lie below strong and sure ones.
    for entry in drawn.sort("identifiable", "f").iter_rows(named=True):
        sure = bool(entry["identifiable"])
        marks.append(
            Line(
                (entry["x_injector"], entry["x_producer"]),
                (entry["y_injector"], entry["y_producer"]),
                _TOLD if sure else _MAP,
                dash=not sure,
                thin=entry["f"] < STRONG,
            )
        )
    largest = {
        kind: max((flow.get(name, 0.0) for k, name in spots if k == kind), default=0.0)
        for kind in ("injector", "producer")
    }
    crowded = min(1.0, max(0.6, math.sqrt(60 / len(spots))))
    sizes = {
        (kind, name): crowded * (3.0 + 3.0 * math.sqrt(max(flow.get(name, 0.0), 0.0) / (largest[kind] or 1.0)))
        for kind, name in spots
    }
    inner = inner_size(size, left, x_label=True)
    pixels = {
        key: (
            (x - x_axis.low) / (x_axis.high - x_axis.low) * inner[0],
            (y_axis.high - y) / (y_axis.high - y_axis.low) * inner[1],
        )
        for key, (x, y) in spots.items()
    }
    # Among many wells names would hide the lines: producers then tell theirs on hover alone.
    named = [key for key in spots if key[0] == "injector" or len(spots) <= MOST_NAMES]
    sides = _sides(pixels, sizes, inner, sorted(named, key=lambda key: (key[0], -flow.get(key[1], 0.0), key[1])))
    for key in sorted(spots, reverse=True):  # injectors last: above the producers
        kind, name = key
        marks.append(
            Dot(
                *spots[key],
                _INJECTOR if kind == "injector" else _PRODUCER,
                "triangle" if kind == "injector" else "circle",
                sizes[key],
                label=name if key in sides else "",
                side=sides.get(key, "right"),
                hint=_hint(placed, kind, name, flow, unit),
            )
        )
    strongest = "; ".join(
        f"{entry['injector']} to {entry['producer']} {percent(entry['f'], digits=0)}"
        for entry in drawn.head(5).iter_rows(named=True)
    )
    legend = [
        Key("injector", _INJECTOR, "triangle"),
        Key("producer" + (", both larger with their rate" if largest["injector"] > 0 else ""), _PRODUCER, "dot"),
        Key(f"identifiable pair, thick from {percent(STRONG, digits=0)} on", _TOLD),
        Key(_UNSURE[True], _MAP, "dash"),
    ]
    return Plot(
        tuple(marks),
        x_axis,
        y_axis,
        f"Plan view of {counted(len({n for k, n in spots if k == 'injector'}), 'injector')} and "
        f"{counted(len({n for k, n in spots if k == 'producer'}), 'producer')} with {counted(drawn.height, 'pair')}; "
        f"the strongest: {strongest or 'none'}.",
        tuple(legend),
        size=size,
        left=left,
    )


def _plan(spots: Sequence[tuple[float, float]]) -> tuple[tuple[int, int], int, Axis, Axis]:
    """Size, left margin and axes of a map on which a metre east is as long as a metre north."""
    width, left, least, most = WIDTH, 48, 170, 420
    (low_x, high_x), (low_y, high_y) = (
        (min(spot[axis] for spot in spots), max(spot[axis] for spot in spots)) for axis in (0, 1)
    )
    around = max(0.06 * max(high_x - low_x, high_y - low_y), 1.0)
    span_x, span_y = high_x - low_x + 2 * around, high_y - low_y + 2 * around
    inner_width = inner_size((width, least), left, x_label=True)[0]
    rest = least - inner_size((width, least), left, x_label=True)[1]
    inner_height = min(max(round(inner_width * span_y / span_x), least - rest), most - rest)
    # Metres a pixel: what the tighter of the two directions asks for.
    scale = max(span_x / inner_width, span_y / inner_height)
    middle_x, middle_y = (low_x + high_x) / 2, (low_y + high_y) / 2
    half_x, half_y = scale * inner_width / 2, scale * inner_height / 2
    return (
        (width, inner_height + rest),
        left,
        _metres(middle_x - half_x, middle_x + half_x, "east, m"),
        _metres(middle_y - half_y, middle_y + half_y, "north, m"),
    )


def _metres(low: float, high: float, label: str) -> Axis:
    ticks = number_axis((low, high), ticks=4, floor_at_zero=False).ticks
    return Axis(low, high, tuple(tick for tick in ticks if low <= tick[0] <= high), label)


_Well = tuple[str, str]


def _sides(
    pixels: Mapping[_Well, tuple[float, float]],
    sizes: Mapping[_Well, float],
    inner: tuple[int, int],
    order: Sequence[_Well],
) -> dict[_Well, Side]:
    """Where each well's name fits without touching another name, a well, or the frame; the rest stay without.

    Parameters
    ----------
    order
        Wells, the most important names first.
    """
    taken = [(x - sizes[key], x + sizes[key], y - sizes[key], y + sizes[key]) for key, (x, y) in pixels.items()]
    sides: dict[_Well, Side] = {}
    for key in order:
        (x, y), half, wide = pixels[key], sizes[key], _CHARACTER * len(key[1]) + 2
        boxes: tuple[tuple[Side, tuple[float, float, float, float]], ...] = (
            ("right", (x + half + 1, x + half + 2 + wide, y - 5, y + 5)),
            ("left", (x - half - 2 - wide, x - half - 1, y - 5, y + 5)),
            ("above", (x - wide / 2, x + wide / 2, y - half - 12, y - half - 1)),
            ("below", (x - wide / 2, x + wide / 2, y + half + 1, y + half + 12)),
        )
        for side, box in boxes:
            inside = box[0] >= 0 and box[1] <= inner[0] and box[2] >= 0 and box[3] <= inner[1]
            if inside and not any(
                box[0] < other[1] and other[0] < box[1] and box[2] < other[3] and other[2] < box[3] for other in taken
            ):
                sides[key] = side
                taken.append(box)
                break
    return sides


def _hint(placed: pl.DataFrame, kind: str, name: str, flow: Mapping[str, float], unit: str) -> str:
    """A well's name, rate and strongest pairs."""
    other = "producer" if kind == "injector" else "injector"
    its = placed.filter((pl.col(kind) == name) & (pl.col("f") >= LEAST)).head(6)
    pairs = "; ".join(
        f"{entry[other]} {percent(entry['f'], digits=0)} ({_span(entry)}"
        + (")" if entry["identifiable"] else ", from the map alone)")
        for entry in its.iter_rows(named=True)
    )
    what = "supports" if kind == "injector" else "is supported by shares of"
    rate = f", {number(flow[name])} {unit}" if name in flow else ""
    return f"{name}{rate}: {what} {pairs}" if pairs else f"{name}{rate}: no pair of {percent(LEAST, digits=0)} or more"


def _intervals(pairs: pl.DataFrame) -> Plot:
    """Each pair's share as a dot on its interval, the largest on top."""
    marks: list[Mark] = []
    ticks = []
    for place, entry in enumerate(pairs.reverse().iter_rows(named=True)):
        sure = bool(entry["identifiable"])
        role = _TOLD if sure else _MAP
        words = (
            f"{entry['injector']} → {entry['producer']}: {percent(entry['f'], digits=0)}, 90 % within {_span(entry)}"
        )
        marks += [
            Line((entry["f_low"], entry["f_high"]), (float(place), float(place)), role, dash=not sure),
            Dot(
                entry["f"],
                float(place),
                role,
                size=3.2,
                hollow=not sure,
                hint=words + ("" if sure else f", {_UNSURE[_mapped(pairs)]}"),
            ),
        ]
        ticks.append(
            (
                float(place),
                f"{shortened(entry['injector'], MOST_LETTERS)} → {shortened(entry['producer'], MOST_LETTERS)}",
            )
        )
    top = max(0.1, *(float(value) for value in pairs.get_column("f_high")))
    said = "; ".join(
        f"{entry['injector']} to {entry['producer']} {percent(entry['f'], digits=0)} ({_span(entry)})"
        for entry in pairs.head(5).iter_rows(named=True)
    )
    return Plot(
        tuple(marks),
        _share_axis(top, "share of the injector's water"),
        Axis(-0.7, len(ticks) - 0.3, tuple(ticks)),
        f"Shares of {counted(pairs.height, 'pair')} with their 90 % intervals; the largest: {said}.",
        (Key("identifiable, with its 90 % interval", _TOLD, "dot"), Key(_UNSURE[_mapped(pairs)], _MAP, "ring")),
        size=(WIDTH, 15 * len(ticks) + 68),
        left=_margin(ticks),
    )


def _bars(balance: Sequence[dict[str, Any]], unit: str, unsure: str) -> Plot:
    """One bar an injector: what supports identifiable pairs, pairs that are not, and no one."""
    shown = [entry for entry in balance if not unit or entry["rate"]][:MOST_BARS] or list(balance[:MOST_BARS])
    marks: list[Mark] = []
    ticks = []
    top = 0.0
    for place, entry in enumerate(reversed(shown)):
        whole = (entry["rate"] or 0.0) if unit else 1.0
        start = 0.0
        for share, role in ((entry["told"], _TOLD), (entry["guessed"], _MAP), (entry["loss"] or 0.0, _LOST)):
            if share * whole > 0:
                marks.append(Block(start, start + share * whole, place - 0.32, place + 0.32, role))
            start += share * whole
        top = max(top, start)
        ticks.append((float(place), shortened(entry["injector"], MOST_LETTERS)))
    said = "; ".join(
        f"{entry['injector']} {percent(entry['told'], digits=0)} to identifiable pairs, "
        f"{percent(entry['guessed'], digits=0)} to others, {percent(entry['loss'], digits=0)} to no one"
        for entry in shown[:5]
    )
    axis = number_axis((0.0, top), label=f"water injected, {unit}") if unit else _share_axis(1.0, "share of its water")
    return Plot(
        tuple(marks),
        axis,
        Axis(-0.6, len(ticks) - 0.4, tuple(ticks)),
        f"Where the water of {counted(len(shown), 'injector')} goes by the model: {said}.",
        (
            Key("to producers, identifiable", _TOLD, "block"),
            Key(f"to producers, {unsure}", _MAP, "block"),
            Key("to no producer", _LOST, "block"),
        ),
        size=(WIDTH, 18 * len(ticks) + 74),
        left=_margin(ticks),
    )


def _matrix(pairs: pl.DataFrame) -> Plot:
    """Injectors down, producers across, a mark in each pair's cell; the wells with the most support first."""
    totals = [
        pairs.group_by(kind).agg(pl.col("f").sum()).sort("f", kind, descending=[True, False]).head(most)
        for kind, most in (("injector", MOST_BARS), ("producer", MOST_COLUMNS))
    ]
    down, across = (
        {str(name): place for place, name in enumerate(sorted(total.to_series().to_list()))} for total in totals
    )
    marks: list[Mark] = []
    for entry in pairs.filter(pl.col("f") >= LEAST).iter_rows(named=True):
        if entry["injector"] in down and entry["producer"] in across:
            x, y = across[entry["producer"]], len(down) - 1 - down[entry["injector"]]
            half = 0.46 * math.sqrt(entry["f"])
            marks.append(Block(x - half, x + half, y - half, y + half, _TOLD if entry["identifiable"] else _MAP))
    for name, x in across.items():
        its = pairs.filter((pl.col("producer") == name) & (pl.col("f") >= LEAST)).head(6)
        words = ", ".join(f"{who} {percent(f, digits=0)}" for who, f in its.select("injector", "f").iter_rows())
        marks.append(Hint(x - 0.5, x + 0.5, f"{name}: {words or 'no noticeable share'}"))
    y_ticks = tuple((float(len(down) - 1 - place), shortened(name, MOST_LETTERS)) for name, place in down.items())
    said = "; ".join(
        f"{entry['injector']} to {entry['producer']} {percent(entry['f'], digits=0)}"
        for entry in pairs.head(5).iter_rows(named=True)
    )
    return Plot(
        tuple(marks),
        Axis(
            -0.7,
            len(across) - 0.3,
            tuple((float(at), shortened(name, MOST_LETTERS)) for name, at in across.items()),
            "producer",
        ),
        Axis(-0.7, len(down) - 0.3, y_ticks),
        f"Shares of {counted(len(down), 'injector')} in {counted(len(across), 'producer')}; the largest: {said}.",
        (Key("identifiable pair", _TOLD, "block"), Key(_UNSURE[_mapped(pairs)], _MAP, "block")),
        size=(WIDTH, max(130, 20 * len(down) + 68)),
        left=_margin(y_ticks),
    )


def _pair_table(pairs: pl.DataFrame, flow: Mapping[str, float], unit: str) -> Table:
    shown = pairs.head(MOST_ROWS)
    unsure = "no: the value is the map's" if _mapped(pairs) else "no: the value is assumed"
    rows = tuple(
        row(
            Cell(f"{entry['injector']} → {entry['producer']}", "strong"),
            percent_cell(entry["f"], digits=0),
            Cell(_span(entry), sort=entry["f_low"]),
            Cell("yes", "good") if entry["identifiable"] else Cell(unsure, "warn"),
            *((number_cell(_water(entry, flow)),) if flow else ()),
            number_cell(entry["theta_days"]),
            number_cell(entry["distance_m"]),
            key=f"{entry['injector']} {entry['producer']}",
        )
        for entry in shown.iter_rows(named=True)
    )
    columns = (
        Column("pair"),
        Column("share", True, "share of the injector's water that supports the producer"),
        Column("90 % interval", True),
        Column(
            "identifiable?", meaning="whether the wells' histories say more about it than what was likely beforehand"
        ),
        *((Column(f"water ({unit})", True, "share of the injector's recent rate"),) if flow else ()),
        Column("delay (days)", True, "time constant of the water's way; set by distance, its scale by the data"),
        Column("distance (m)", True),
    )
    what = "All" if shown.height == pairs.height else f"The {shown.height} strongest of"
    return Table(
        f"{what} {counted(pairs.height, 'pair')} within reach, strongest first", columns, rows, "", sortable=True
    )


def _injector_table(balance: Sequence[dict[str, Any]], pairs: pl.DataFrame, unit: str) -> Table:
    best: dict[str, dict[str, Any]] = {}
    for entry in pairs.iter_rows(named=True):
        best.setdefault(entry["injector"], entry)
    rows = []
    for entry in balance:
        top = best.get(entry["injector"])
        said = Cell(NOTHING)
        if top is not None:
            badge = "" if top["identifiable"] else "not identifiable"
            said = Cell(f"{top['producer']}, {percent(top['f'], digits=0)}", sort=top["f"], badge=badge)
        rows.append(
            row(
                Cell(str(entry["injector"]), "strong"),
                *((number_cell(entry["rate"]),) if unit else ()),
                said,
                Cell(f"{entry['clear']} of {entry['pairs']}", sort=float(entry["clear"])),
                percent_cell(entry["told"], digits=0),
                percent_cell(entry["guessed"], digits=0),
                percent_cell(entry["loss"], digits=0),
                *((number_cell(_times(entry["rate"], entry["loss"])),) if unit else ()),
            )
        )
    columns = (
        Column("injector"),
        *((Column(f"recent rate ({unit})", True, "mean of the last known months"),) if unit else ()),
        Column("supports most"),
        Column("identifiable pairs", True),
        Column("to these", True, "share of its water that goes to producers by identifiable pairs"),
        Column("to others", True, "share that goes to producers by pairs that are not identifiable"),
        Column("to no one", True, "share that supports no producer; as assumed where no pair is identifiable"),
        *((Column(f"to no one ({unit})", True),) if unit else ()),
    )
    return Table("Injectors: where the water goes", columns, tuple(rows), "No injector is known.", sortable=True)


_DRIVE: Final = ("injection_share", "inflow_share", "drawdown_share", "start_share")


def _drive_table(drive: pl.DataFrame, unit: str) -> Table:
    rows = tuple(
        row(
            Cell(str(entry["producer"]), "strong"),
            number_cell(entry["rate"]),
            *(percent_cell(entry[name], digits=0) for name in _DRIVE),
            number_cell(entry["support"]),
        )
        for entry in drive.sort("rate", "producer", descending=[True, False]).iter_rows(named=True)
    )
    columns = (
        Column("producer"),
        Column(f"modelled rate ({unit})", True, "of days on stream, in the last month; the four shares add up to it"),
        Column("injected water", True),
        Column("constant inflow", True, "aquifer and whatever else does not change"),
        Column("pressure drawn down", True, "by a flowing pressure below its usual one; negative above it"),
        Column("left of the start", True, "what remains of the well's first rate: decline"),
        Column(f"water arriving ({unit})", True, "before the tank's own delay and losses"),
    )
    return Table("What each producer's modelled rate is made of", columns, rows, "", sortable=True)


# -- voidage -----------------------------------------------------------------------------------------------------------

_VOIDAGE: Final = (
    "group", TIME, "days", "producers", "producers_known", "injectors", "injectors_known", "produced", "injected",
    "vrr", "cumulative_vrr",
)  # fmt: skip
_YEAR: Final = 12
_TOP: Final = 2.5
"""Ratios above this, of months with next to no production, are cut off in the picture."""


def _periods(part: pl.DataFrame) -> dict[str, dict[str, float | None]]:
    """Ratio and rates of the last month, the last twelve, and all, over months in which both volumes are known."""
    both = pl.col("produced").is_not_null() & pl.col("injected").is_not_null()
    out: dict[str, dict[str, float | None]] = {}
    for name, months in (("month", part.tail(1)), ("year", part.tail(_YEAR)), ("start", part)):
        known = months.filter(both)
        days, produced, injected = (float(known.get_column(c).sum()) for c in ("days", "produced", "injected"))
        out[name] = {
            "vrr": injected / produced if produced > 0 else None,
            "produced": produced / days if days else None,
            "injected": injected / days if days else None,
            "months": float(known.height),
            "of": float(months.height),
            "reported": _reported(months),
        }
    return out


def _reported(months: pl.DataFrame) -> float | None:
    """Share of the expected well-months that were reported."""
    expected, known = (
        int(
            months.select(
                pl.sum_horizontal(pl.col(f"{kind}{suffix}").sum() for kind in ("producers", "injectors"))
            ).item()
        )
        for suffix in ("", "_known")
    )
    return known / expected if expected else None


def _voidage_words(
    whole: pl.DataFrame, found: Mapping[str, Mapping[str, Mapping[str, float | None]]], unit: str
) -> tuple[str, ...]:
    its = found[FIELD]
    year, month, start = its["year"], its["month"], its["start"]
    latest = whole.drop_nulls("vrr").row(-1, named=True)
    newest = (
        f"In the last month, {latest[TIME]:%Y-%m}, injection replaced {percent(latest['vrr'], digits=0)} of the "
        "volume produced"
    )
    if month["vrr"] is None:
        newest = (
            f"The ratio of the last month is unknown; in {latest[TIME]:%Y-%m} injection replaced "
            f"{percent(latest['vrr'], digits=0)} of the volume produced"
        )
    first = whole.drop_nulls("vrr").get_column(TIME)[0]
    text = (
        f"{newest}, over the last {_YEAR} months {percent(year['vrr'], digits=0)}, and since {first:%Y-%m} "
        f"{percent(start['vrr'], digits=0)}."
    )
    if (gap := _less(year["injected"], year["produced"])) is not None:
        way = "more" if gap > 0 else "less"
        text += f" Over the last {_YEAR} months {number(abs(gap))} {unit} {way} went in than came out."
    meaning = (
        "Below 1 more is taken out than is put in: reservoir pressure falls unless an aquifer or a gas cap makes up "
        "for it. Above 1 pressure rises, or water leaves the zone: not all injected water supports the producers."
    )
    limits = (
        "Volumes are at reservoir conditions by the formation volume factors that were given; with none, a surface "
        "volume counts as one reservoir volume, which makes the ratio too high where gas comes out of solution. "
        f"{percent(year['reported'], digits=0)} of the well-months of the last {_YEAR} months were reported."
    )
    if missing := int((year["of"] or 0) - (year["months"] or 0)):
        left = "is left out, since" if missing == 1 else "are left out, since"
        limits += f" {counted(missing, 'month')} of these {left} too few wells reported."
    if len(found) > 1:
        limits += " An injector counts in its own group, though its water may support producers of another one."
    return text, meaning, limits


def _ratios(whole: pl.DataFrame) -> Plot:
    """The field's ratio by month and up to it, with the line at 1."""
    times = tuple(seconds_of(time) for time in whole.get_column(TIME))
    monthly, running = (
        tuple(None if value is None else min(float(value), _TOP) for value in whole.get_column(name))
        for name in ("vrr", "cumulative_vrr")
    )
    marks: list[Mark] = [
        Rule(1.0, "y"),
        Line(times, monthly, _TOLD, thin=len(times) > 36),
        Line(times, running, _INJECTOR),
    ]
    half = 1_314_900.0
    marks += [
        Hint(at - half, at + half, _month_words(entry))
        for at, entry in list(zip(times, whole.iter_rows(named=True), strict=True))[-36:]
    ]
    cut = whole.filter(pl.col("vrr") > _TOP).height
    last = whole.drop_nulls("vrr").row(-1, named=True)
    return Plot(
        tuple(marks),
        time_axis(times[0], times[-1]),
        number_axis((*monthly, *running), label="injected / produced", include=(0.0, 1.0)),
        f"Voidage replacement of {counted(whole.height, 'month')}: {number(last['vrr'])} at {last[TIME]:%Y-%m}, "
        f"{number(last['cumulative_vrr'])} over all months up to it."
        + (f" {counted(cut, 'month')} above {_TOP} cut off there." if cut else ""),
        (
            Key("by month" + (f", cut off at {_TOP}" if cut else ""), _TOLD),
            Key("all months up to it", _INJECTOR),
            Key("1: as much in as out", "rule", "dash"),
        ),
        size=(WIDTH, 250),
    )


def _month_words(entry: Mapping[str, Any]) -> str:
    time: datetime = entry[TIME]
    return (
        f"{time:%Y-%m}: {number(entry['vrr'])}, all up to it {number(entry['cumulative_vrr'])}; reported "
        f"{entry['producers_known']} of {counted(entry['producers'], 'producer')}, "
        f"{entry['injectors_known']} of {counted(entry['injectors'], 'injector')}"
    )


def _group_ratios(found: Mapping[str, Mapping[str, Mapping[str, float | None]]]) -> Plot:
    """One bar a group from 1: right of it more goes in, left of it more comes out."""
    shown = {
        name: ratio
        for name, its in list(found.items())[: MOST_BARS + 1]
        if name != FIELD and (ratio := its["year"]["vrr"]) is not None
    }
    marks: list[Mark] = [Rule(1.0, "x")]
    ticks = []
    for place, (name, ratio) in enumerate(reversed(shown.items())):
        end = min(ratio, _TOP)
        role = _TOLD if ratio >= 1 else _INJECTOR
        marks.append(Block(min(1.0, end), max(1.0, end), place - 0.32, place + 0.32, role))
        ticks.append((float(place), shortened(name, MOST_LETTERS)))
    said = "; ".join(f"{name} {number(ratio)}" for name, ratio in list(shown.items())[:10])
    cut = any(ratio > _TOP for ratio in shown.values())
    return Plot(
        tuple(marks),
        number_axis(
            [min(ratio, _TOP) for ratio in shown.values()],
            label=f"injected / produced, last {_YEAR} months",
            include=(0.0, 1.0),
        ),
        Axis(-0.6, max(len(ticks), 1) - 0.4, tuple(ticks)),
        f"Voidage replacement by group over the last {_YEAR} months: {said or 'unknown'}.",
        (
            Key("more in than out" + (f", cut off at {_TOP}" if cut else ""), _TOLD, "block"),
            Key("more out than in", _INJECTOR, "block"),
        ),
        size=(WIDTH, max(140, 18 * len(ticks) + 74)),
        left=_margin(ticks),
    )


def _voidage_table(found: Mapping[str, Mapping[str, Mapping[str, float | None]]], unit: str) -> Table:
    rows = tuple(
        row(
            Cell(name, "strong"),
            *(number_cell(its[period]["vrr"]) for period in ("month", "year", "start")),
            number_cell(its["year"]["injected"]),
            number_cell(its["year"]["produced"]),
            number_cell(_less(its["year"]["injected"], its["year"]["produced"]), sign=True),
            percent_cell(its["year"]["reported"], digits=0),
        )
        for name, its in found.items()
    )
    columns = (
        Column("group"),
        Column("last month", True, "injected over produced volume"),
        Column(f"last {_YEAR} months", True),
        Column("since the start", True, "over all months in which both volumes are known"),
        Column(f"injected ({unit})", True, f"mean of the last {_YEAR} months at reservoir conditions"),
        Column(f"produced ({unit})", True, f"mean of the last {_YEAR} months at reservoir conditions"),
        Column("difference", True),
        Column("reported", True, f"share of the well-months of the last {_YEAR} months that were reported"),
    )
    return Table("Voidage replacement ratio", columns, rows, "", sortable=True)


# -- small things ------------------------------------------------------------------------------------------------------


def _share_axis(top: float, label: str) -> Axis:
    step = next(step for step in (0.02, 0.05, 0.1, 0.2, 0.25) if top / step <= 6 or step == 0.25)
    high = min(max(top * 1.04, step), 1.02)
    ticks = tuple((step * place, percent(step * place, digits=0)) for place in range(int(high / step + 1e-9) + 1))
    return Axis(0.0, high, ticks, label)


def _span(entry: Mapping[str, Any]) -> str:
    return f"{percent(entry['f_low'], digits=0).removesuffix(' %')} to {percent(entry['f_high'], digits=0)}"


def _days(value: float | None) -> str:
    return f"{number(value, digits=2)} days"


def _water(entry: Mapping[str, Any], flow: Mapping[str, float]) -> float | None:
    return _times(flow.get(entry["injector"]), entry["f"])


def _times(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a * b


def _less(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a - b


def _margin(ticks: Sequence[tuple[float, str]]) -> int:
    return round(min(190, max(46, _CHARACTER * max((len(text) for _, text in ticks), default=4) + 12)))


def _require(frame: pl.DataFrame, columns: Sequence[str], what: str) -> None:
    if missing := [name for name in columns if name not in frame.columns]:
        raise ConfigError(
            f"the frame {what!r} of a chapter lacks {', '.join(missing)}",
            expected=f"the columns {', '.join(columns)}",
            remedy="hand over what the fitted model's `evidence` or `voidage_replacement` returned",
        )
