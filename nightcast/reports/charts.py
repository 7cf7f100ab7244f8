"""Frames to plots: small pure functions, one a chart."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from itertools import pairwise
from statistics import median
from typing import Final

import polars as pl

from nightcast.contracts.columns import CUTOFF, HORIZON, ID, LEVELS, MEDIAN, MODEL, QUANTILES, TARGET, TIME
from nightcast.reports.plot import (
    CATEGORIES,
    Axis,
    Band,
    Block,
    Hint,
    Key,
    Line,
    Mark,
    Plot,
    Rule,
    number_axis,
    seconds_of,
    steps_axis,
    time_axis,
)
from nightcast.reports.table import number, percent, time_format

SHARES: Final = tuple(round(high - low, 2) for low, high in zip(LEVELS[:4], reversed(LEVELS[5:]), strict=True))
"""Central intervals of the quantile levels, widest first: 0.8, 0.6, 0.4, 0.2."""
INTERVALS: Final = tuple(zip(SHARES, QUANTILES[:4], reversed(QUANTILES[5:]), strict=True))

FAN_LEGEND: Final = (
    Key("actual", "actual"),
    Key("median forecast", "forecast"),
    Key("central 20, 40, 60 and 80 % of the forecast", "forecast", "band"),
    Key("served by a fallback", "fallback"),
    Key("median of the forecast before", "previous", "dash"),
)
HINDCAST_LEGEND: Final = (
    Key("actual", "actual"),
    Key("median forecast made at the start of its fan", "forecast"),
    Key("its central 40 and 80 %", "forecast", "band"),
    Key("medians from the other origins", "other", "line"),
)


def fan(
    name: str,
    forecast: pl.DataFrame,
    history: pl.DataFrame,
    *,
    unit: str,
    previous: pl.DataFrame | None = None,
    fallback: bool = False,
    past: int = 36,
) -> Plot:
    """One series' recent actuals and its forecast as a fan of central intervals.

    Parameters
    ----------
    forecast
        `ds, q10 .. q90` of one series and cutoff, sorted by time.
    history
        `ds, y` of the series; the last `past` rows are drawn, gaps stay gaps.
    previous
        `ds, q50` of the forecast published before this one.
    """
    recent = history.sort(TIME).tail(past)
    role = "fallback" if fallback else "forecast"
    times = [seconds_of(time) for time in forecast.get_column(TIME)]
    gap = _step([*(seconds_of(time) for time in recent.get_column(TIME)), *times])
    marks: list[Mark] = [
        *(_bands(forecast, times, gap, role, QUANTILES[:4])),
        _line_of(recent, TARGET, "actual", gap),
    ]
    if previous is not None and previous.height:
        marks.append(_line_of(previous.sort(TIME), MEDIAN, "previous", gap, dash=True))
    marks.append(Line(tuple(times), tuple(forecast.get_column(MEDIAN)), role, dash=fallback, dots=len(times) <= 12))
    form = time_format([*forecast.get_column(TIME), *recent.get_column(TIME)])
    if len(times) <= 31:
        marks += [
            Hint(
                time - gap / 2,
                time + gap / 2,
                f"{row[TIME]:{form}}: median {number(row[MEDIAN])} {unit}, "
                f"80 % within {number(row['q10'])} to {number(row['q90'])}",
            )
            for time, row in zip(times, forecast.iter_rows(named=True), strict=True)
        ]
    heights = reaches(marks)
    span = [x for mark in marks if isinstance(mark, Line | Band) for x in mark.x]
    return Plot(
        tuple(marks),
        time_axis(min(span), max(span)) if span else time_axis(0, 0),
        number_axis(heights, label=unit),
        _fan_words(name, forecast, recent, unit, form),
        FAN_LEGEND,
    )


def hindcast(name: str, oof: pl.DataFrame, history: pl.DataFrame, *, unit: str) -> Plot:
    """Out-of-fold forecasts of one series over what then happened.

    Fans are drawn from the newest origin backwards as long as they do not overlap; all other origins show their median.

    Parameters
    ----------
    oof
        `ds, cutoff, q10 .. q90, y` of one series.
    history
        `ds, y` of the series.
    """
    oof = oof.sort(CUTOFF, TIME)
    first = oof.get_column(CUTOFF).min()
    chosen, free_until = set(), None
    origins = {key[0]: part for key, part in oof.partition_by(CUTOFF, as_dict=True, maintain_order=True).items()}
    for cutoff in sorted(origins, reverse=True):
        if free_until is None or origins[cutoff].get_column(TIME).max() <= free_until:
            chosen.add(cutoff)
            free_until = cutoff
    actuals = pl.concat([history.select(TIME, TARGET), oof.select(TIME, TARGET)], how="vertical_relaxed").drop_nulls()
    actuals = actuals.unique(TIME, keep="first", maintain_order=True).sort(TIME)
    before = actuals.filter(pl.col(TIME) < first).tail(6)
    actuals = pl.concat([before, actuals.filter(pl.col(TIME) >= first)])
    gap = _step([seconds_of(time) for time in actuals.get_column(TIME)])
    fans: list[Mark] = []
    others: list[Mark] = []
    for cutoff, part in origins.items():
        times = [seconds_of(time) for time in part.get_column(TIME)]
        if cutoff in chosen:
            fans += [*_bands(part, times, gap, "forecast", ("q10", "q30")), Rule(seconds_of(cutoff), "x")]
            fans.append(Line(tuple(times), tuple(part.get_column(MEDIAN)), "forecast"))
        else:
            others.append(_line_of(part, MEDIAN, "other", gap, thin=True))
    marks = [*others, *fans, _line_of(actuals, TARGET, "actual", gap)]
    inside, misses = _inside(oof), (oof.get_column(MEDIAN) - oof.get_column(TARGET)).abs().mean()
    words = (
        f"{name}: out-of-fold forecasts from {len(origins)} origins over the actuals; "
        f"mean absolute error {number(_float(misses))} {unit}, "
        f"{percent(inside, digits=0)} of the actuals inside the 80 % band."
    )
    span = [x for mark in marks if isinstance(mark, Line) for x in mark.x]
    return Plot(
        tuple(marks),
        time_axis(min(span), max(span), ticks=7),
        number_axis(reaches(marks), label=unit),
        words,
        HINDCAST_LEGEND,
        size=(540, 230),
    )


def league_ratios(league: pl.DataFrame, *, baselines: Sequence[str], most: int = 24) -> Plot:
    """Each model's error as a multiple of the best naive's, best on top; left of the line at one is better."""
    rows = [
        (str(model), float(ratio))
        for model, ratio in league.select(MODEL, "ratio").iter_rows()
        if ratio is not None and math.isfinite(ratio)
    ][:most]
    top = len(rows)
    marks: list[Mark] = [Rule(1.0, "x")]
    for place, (model, ratio) in enumerate(rows):
        y = float(top - place)
        role = "naive" if model in baselines else "forecast"
        marks += [
            Line((1.0, ratio), (y, y), role, thin=True),
            Line((ratio,), (y,), role, dots=True),
        ]
    names = tuple((float(top - place), shortened(model, 26)) for place, (model, _) in enumerate(rows))
    words = "; ".join(f"{model} {number(ratio)}" for model, ratio in rows)
    return Plot(
        tuple(marks),
        number_axis(
            (ratio for _, ratio in rows), include=(1.0,), label="error / error of the best naive", floor_at_zero=False
        ),
        Axis(0.4, top + 0.6, names),
        f"Error relative to the best naive: {words}.",
        (Key("model", "forecast", "dot"), Key("naive family", "naive", "dot")),
        size=(560, 46 + 18 * max(top, 3)),
        left=20 + round(5.6 * max((len(label) for _, label in names), default=4)),
    )


def by_horizon(frame: pl.DataFrame, *, value: str, label: str, order: Sequence[str], baselines: Sequence[str]) -> Plot:
    """One metric per horizon and model: the leaders in colour, the best naive dashed, the rest faint.

    Parameters
    ----------
    frame
        `model, horizon` and the column `value`.
    order
        Models, best first.
    """
    parts = {str(key[0]): part.sort(HORIZON) for key, part in frame.partition_by(MODEL, as_dict=True).items()}
    ranked = [name for name in order if name in parts] + sorted(name for name in parts if name not in order)
    leaders = [name for name in ranked if name not in baselines][:4]
    naive = next((name for name in ranked if name in baselines), None)
    marks: list[Mark] = [Rule(1.0, "y")] if value == "ratio" else []
    keys: list[Key] = []
    rest = [name for name in ranked if name not in leaders and name != naive]
    for name in [*reversed(rest), *([naive] if naive else []), *reversed(leaders)]:
        role = f"category-{leaders.index(name)}" if name in leaders else ("naive" if name == naive else "other")
        xs = tuple(float(step) for step in parts[name].get_column(HORIZON))
        ys = tuple(_float(y) for y in parts[name].get_column(value))
        marks.append(Line(xs, ys, role, dash=name == naive, dots=name not in rest, thin=name in rest))
    keys = [Key(name, f"category-{place}") for place, name in enumerate(leaders)]
    keys += [Key(f"{naive} (best naive)", "naive", "dash")] if naive else []
    keys += [Key(f"{len(rest)} more", "other")] if rest else []
    steps = sorted({int(step) for step in frame.get_column(HORIZON)})
    told = leaders[0] if leaders else naive
    words = ", ".join(
        f"{number(_float(y))} at step {step}" for step, y in parts[told].select(HORIZON, value).iter_rows()
    ) if told else "no model"  # fmt: skip
    return Plot(
        tuple(marks),
        steps_axis(steps, label="steps ahead"),
        number_axis(reaches(marks), label=label, include=(1.0,) if value == "ratio" else (), floor_at_zero=False),
        f"{label} by horizon; {told}: {words}.",
        tuple(keys),
        size=(480, 270),
    )


def weights(table: Mapping[str, Mapping[str, float]]) -> Plot:
    """Member weights as one stacked bar a horizon; the smallest members share one colour beyond eight."""
    horizons = sorted(table, key=_natural)
    mean: dict[str, float] = {}
    for members in table.values():
        for member, weight in members.items():
            mean[member] = mean.get(member, 0.0) + weight / len(table)
    ranked = sorted(mean, key=lambda member: (-mean[member], member))
    shown = ranked if len(ranked) <= CATEGORIES else ranked[: CATEGORIES - 1]
    marks: list[Mark] = []
    ceiling = 0.0
    for place, horizon in enumerate(horizons):
        base = 0.0
        its = [(member, table[horizon].get(member, 0.0)) for member in shown]
        its.append(("", sum(weight for member, weight in table[horizon].items() if member not in shown)))
        for rank, (_, weight) in enumerate(its):
            if weight > 0:
                role = f"category-{min(rank, CATEGORIES - 1)}"
                marks.append(Block(place + 0.6, place + 1.4, base, base + weight, role))
                base += weight
        words = ", ".join(f"{m} {percent(w, digits=0)}" for m, w in sorted(table[horizon].items(), key=lambda i: -i[1]))
        marks.append(Hint(place + 0.5, place + 1.5, f"horizon {horizon}: {words}"))
        ceiling = max(ceiling, base)
    keys = [Key(f"{m} ({percent(mean[m], digits=0)})", f"category-{rank}", "block") for rank, m in enumerate(shown)]
    if len(shown) < len(ranked):
        rest = ranked[len(shown) :]
        total = percent(sum(mean[m] for m in rest), digits=0)
        keys.append(Key(f"{len(rest)} more ({total})", f"category-{CATEGORIES - 1}", "block"))
    every = max(1, math.ceil(len(horizons) / 12))
    ticks = tuple((place + 1.0, name) for place, name in enumerate(horizons) if place % every == 0)
    top = max(ceiling, 1e-9)
    y_ticks = tuple((top * part / 4, percent(top * part / 4, digits=0)) for part in range(5))
    lead = ", ".join(f"{member} {percent(mean[member], digits=0)}" for member in ranked[:4])
    return Plot(
        tuple(marks),
        Axis(0.5, len(horizons) + 0.5, ticks, "steps ahead"),
        Axis(0, top * 1.02, y_ticks, "weight"),
        f"Weights of {len(ranked)} members over {len(horizons)} horizons; on average {lead}.",
        tuple(keys),
        size=(480, 270),
    )


def level_shares(oof: pl.DataFrame) -> pl.DataFrame:
    """Share of actuals at or below each quantile: `level, share`."""
    scored = oof.drop_nulls(TARGET)
    return pl.DataFrame(
        {
            "level": list(LEVELS),
            "share": [_float((scored[TARGET] <= scored[name]).mean()) for name in QUANTILES],
        },
        schema={"level": pl.Float64, "share": pl.Float64},
    )


def coverages(oof: pl.DataFrame) -> pl.DataFrame:
    """Share of actuals inside each central interval, per horizon and over all (`horizon` null).

    Returns `horizon, rows, nominal, coverage, width`; the width is the mean one, in the target's unit.
    """
    scored = oof.drop_nulls(TARGET)
    frames = []
    for nominal, low, high in INTERVALS:
        measures = (
            pl.len().alias("rows"),
            pl.lit(nominal).alias("nominal"),
            pl.col(TARGET).is_between(pl.col(low), pl.col(high)).mean().alias("coverage"),
            (pl.col(high) - pl.col(low)).mean().alias("width"),
        )
        whole = scored.select(pl.lit(None, dtype=pl.Int64).alias(HORIZON), *measures)
        each = scored.group_by(pl.col(HORIZON).cast(pl.Int64)).agg(measures).sort(HORIZON)
        frames += [whole, each]
    return pl.concat(frames, how="vertical_relaxed")


def reliability(shares: pl.DataFrame) -> Plot:
    """Nominal level against the share of actuals at or below that quantile; the diagonal is perfect."""
    levels = tuple(shares.get_column("level"))
    found = tuple(_float(share) for share in shares.get_column("share"))
    ticks = tuple((level / 5, f"{level * 20} %") for level in range(6))
    words = ", ".join(
        f"{percent(level, digits=0)} → {percent(share)}" for level, share in zip(levels, found, strict=True)
    )
    return Plot(
        (Line((0.0, 1.0), (0.0, 1.0), "rule", dash=True, thin=True), Line(levels, found, "forecast", dots=True)),
        Axis(0, 1, ticks, "quantile level"),
        Axis(0, 1, ticks, "actuals at or below"),
        f"Share of actuals at or below each quantile: {words}.",
        (Key("measured", "forecast"), Key("perfect", "rule", "dash")),
        size=(480, 270),
    )


def coverage_by_horizon(table: pl.DataFrame) -> Plot:
    """Measured coverage of the central intervals per horizon, each beside its nominal share (dotted)."""
    each = table.drop_nulls(HORIZON)
    marks: list[Mark] = []
    keys = []
    for place, nominal in enumerate(SHARES):
        part = each.filter((pl.col("nominal") - nominal).abs() < 1e-9).sort(HORIZON)
        marks += [
            Rule(nominal, "y", f"category-{place}"),
            Line(
                tuple(float(step) for step in part.get_column(HORIZON)),
                tuple(_float(share) for share in part.get_column("coverage")),
                f"category-{place}",
                dots=True,
            ),
        ]
        keys.append(Key(f"central {percent(nominal, digits=0)}", f"category-{place}"))
    widest = each.filter((pl.col("nominal") - SHARES[0]).abs() < 1e-9).sort(HORIZON)
    words = ", ".join(
        f"step {step} {percent(_float(share))}" for step, share in widest.select(HORIZON, "coverage").iter_rows()
    )
    return Plot(
        tuple(marks),
        steps_axis([int(step) for step in widest.get_column(HORIZON)], label="steps ahead"),
        Axis(0, 1, tuple((level / 5, f"{level * 20} %") for level in range(6)), "actuals inside"),
        f"Coverage of the central 80 % by horizon: {words}.",
        (*keys, Key("nominal", "rule", "dash")),
        size=(480, 270),
    )


def _float(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def _inside(oof: pl.DataFrame) -> float | None:
    scored = oof.drop_nulls(TARGET)
    return _float(scored.select(pl.col(TARGET).is_between(pl.col("q10"), pl.col("q90")).mean()).item())


def _step(times: Sequence[float]) -> float:
    """The usual distance of neighbours, one day where there are none."""
    steps = [b - a for a, b in pairwise(sorted(set(times)))]
    return median(steps) if steps else 86_400.0


def _line_of(
    frame: pl.DataFrame, column: str, role: str, gap: float, *, dash: bool = False, thin: bool = False
) -> Line:
    """A line that breaks where a value is missing or a row is."""
    xs: list[float] = []
    ys: list[float | None] = []
    for time, value in frame.select(TIME, column).iter_rows():
        x = seconds_of(time)
        if xs and x - xs[-1] > 1.6 * gap:
            xs.append((x + xs[-1]) / 2)
            ys.append(None)
        xs.append(x)
        ys.append(_float(value))
    return Line(tuple(xs), tuple(ys), role, dash=dash, thin=thin)


def _bands(frame: pl.DataFrame, times: Sequence[float], gap: float, role: str, lows: Sequence[str]) -> list[Band]:
    """Central intervals, widest first; a single step gets a width, so that it can be seen."""
    wide = list(times) if len(times) > 1 else [time + side * gap for time in times for side in (-0.3, 0.3)]
    bands = []
    for _, low, high in INTERVALS:
        if low in lows and times:
            repeat = 2 if len(times) == 1 else 1
            lower, upper = (tuple(frame.get_column(name).to_list() * repeat) for name in (low, high))
            bands.append(Band(tuple(wide), lower, upper, role))
    return bands


def reaches(marks: Sequence[Mark]) -> list[float | None]:
    """Every height that lines and bands reach, for an axis that holds them all."""
    out: list[float | None] = []
    for mark in marks:
        if isinstance(mark, Line):
            out += mark.y
        elif isinstance(mark, Band):
            out += [*mark.low, *mark.high]
    return out


def _fan_words(name: str, forecast: pl.DataFrame, recent: pl.DataFrame, unit: str, form: str) -> str:
    seen = recent.drop_nulls(TARGET)
    last = f"last actual {number(seen[TARGET][-1])} {unit} at {seen[TIME][-1]:{form}}" if seen.height else "no actuals"
    if not forecast.height:
        return f"{name}: {last}; no forecast."
    start, end = forecast.row(0, named=True), forecast.row(-1, named=True)
    return (
        f"{name}: {last}; median forecast {number(start[MEDIAN])} {unit} at {start[TIME]:{form}} and "
        f"{number(end[MEDIAN])} at {end[TIME]:{form}}, 80 % then within {number(end['q10'])} to {number(end['q90'])}."
    )


def shortened(text: str, most: int) -> str:
    """Names are told apart by their ends as often as by their beginnings, so the middle goes."""
    head = (most - 1) // 2
    return text if len(text) <= most else f"{text[:head]}…{text[-(most - 1 - head) :]}"


def _natural(text: str) -> tuple[int, float, str]:
    """Horizons in the order of their numbers, names after them."""
    try:
        return 0, float(text), text
    except ValueError:
        return 1, 0.0, text


def levels_of(history: pl.DataFrame, *, last: int = 12) -> dict[str, float]:
    """Each series' mean over its last known values: what the largest series are chosen by."""
    known = history.drop_nulls(TARGET).sort(ID, TIME)
    means = known.group_by(ID, maintain_order=True).agg(pl.col(TARGET).tail(last).mean())
    return {str(name): float(level) for name, level in means.iter_rows()}


def newest(frame: pl.DataFrame, column: str = TIME) -> datetime | None:
    """The latest time in a column, None for an empty frame."""
    value = frame.get_column(column).max() if frame.height else None
    return value if isinstance(value, datetime) else None
