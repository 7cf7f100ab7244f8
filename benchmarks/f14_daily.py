"""Daily oil of Volve's well F-14: the protocol of a published comparison, and an honest one beside it.

    python -m benchmarks.f14_daily [--data DAILY.parquet] [--window published|whole|both] [--choose]

Protocol A, **leaky, for comparison only**: one day ahead, the hours on stream and the choke of the *same* day given,
days on stream, the last 20 % judged. Published on such a split: LSTM MAE 133.5 bbl/d, GA-TCN-LSTM 117.1 (SSRN 4460174),
both picked by the loss on the judged days. One line of physics is the rate per hour and per cent of choke, its median
over five days times the day's hours and choke. The learner corrects that line: boosted trees on the logarithm of
rate / line, absolute error, fitted once on the first 80 % and never again; its parameters were chosen by rolling
origins within the first 80 % (`--choose` prints them), before the last 20 % was looked at.

Protocol B: the same split and well, the next 30 days from every day, nothing known of hours and choke to come, and days
off stream count. Naive lines, a decline of days on stream, and a learner of the same kind.

The published file is not at hand. `published` is the part of the record (days on stream, 2009-01-18 to 2015-04-09) on
which the three naive lines come out as they do on that file (204.6, 138.9 and 129.2 bbl/d); `whole` is all of it.
In brackets 90 % intervals from blocks of 30 days.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import polars as pl
from numpy.typing import NDArray

from benchmarks.panels import show
from benchmarks.wells_targets import DATA, with_interval
from nightcast.contracts.errors import ConfigError
from nightcast.evaluation.skill import ratio_interval

Floats: TypeAlias = NDArray[np.float64]
Flags: TypeAlias = NDArray[np.bool_]

BARRELS = 6.28981077
"""In a cubic metre."""
WELL = "15/9-F-14"
WINDOWS: dict[str, tuple[datetime, datetime]] = {
    "published": (datetime(2009, 1, 18), datetime(2015, 4, 9)),
    "whole": (datetime(2008, 1, 1), datetime(2017, 1, 1)),
}
SHARE = 0.8
"""Of the days, what comes before the judged ones."""
LINE = 5
"""Days whose median is the one-line physics."""
MEMORY = 10
"""Days on stream the learner looks back."""
AHEAD = 30
BLOCK = 30
LEAST_HOURS = 1.0
"""A day with less on stream tells no rate."""
MOST = 0.5
"""Largest correction of the line, in logarithms."""
HALF_LIFE = 300.0
"""Days on stream after which a training day counts half."""
SMALLEST = 1e-9


@dataclass(frozen=True)
class Trees:
    """Parameters of the learner, chosen within the first 80 %."""

    leaves: int = 8
    rounds: int = 600
    half_life: float = HALF_LIFE
    bags: int = 3


GRID = tuple(
    Trees(leaves, rounds, half)
    for leaves in (4, 8)
    for rounds in (300, 600)
    for half in (HALF_LIFE, 2 * HALF_LIFE, float("inf"))
)


@dataclass(frozen=True, eq=False)
class Days:
    """A well's days in order of time; `[T]` each.

    Attributes
    ----------
    day
        Days since the first one.
    hours, choke
        On stream, 0 to 24, and opening, per cent; zero where not known.
    oil
        Barrels a day.
    """

    day: NDArray[np.int64]
    hours: Floats
    choke: Floats
    oil: Floats

    def __len__(self) -> int:
        return len(self.oil)

    @property
    def telling(self) -> Flags:
        """Days that tell a rate per hour and per cent of choke."""
        return (self.hours >= LEAST_HOURS) & (self.choke > 0) & (self.oil > 0)

    @property
    def cut(self) -> int:
        """The first judged day."""
        return int(len(self) * SHARE)

    def where(self, kept: Flags) -> Days:
        return Days(self.day[kept], self.hours[kept], self.choke[kept], self.oil[kept])


def read_days(path: Path, *, well: str = WELL) -> pl.DataFrame:
    """`date, hours, choke, oil` of one well, oil in barrels a day.

    Raises
    ------
    ConfigError
        If the file or the well is not there.
    """
    if not path.exists():
        raise ConfigError(
            f"there is no file {path}", expected="Volve's daily table as Parquet", remedy="give its path by --data"
        )
    frame = pl.read_parquet(path).filter(pl.col("npd_well_bore_name") == well).sort("date")
    if not frame.height:
        raise ConfigError(f"{path.name} holds no day of well {well!r}", expected="its days", remedy="check the file")
    return frame.select(
        pl.col("date"),
        pl.col("on_stream_hrs").fill_null(0).clip(0, 24).alias("hours"),
        pl.col("avg_choke_size_p").fill_null(0).clip(lower_bound=0).alias("choke"),
        (pl.col("bore_oil_vol").fill_null(0) * BARRELS).alias("oil"),
    )


def days_of(frame: pl.DataFrame, begin: datetime, end: datetime) -> Days:
    """The days from `begin` to `end`."""
    part = frame.filter(pl.col("date").is_between(begin, end))
    first = part.get_column("date").min()
    day = part.select((pl.col("date") - first).dt.total_days()).to_series().to_numpy()
    return Days(day, *(part.get_column(name).to_numpy() for name in ("hours", "choke", "oil")))


# -- protocol A ------------------------------------------------------------------------------------------------------


def persistence(days: Days) -> Floats:
    """Yesterday's oil."""
    return np.asarray(np.r_[np.nan, days.oil[:-1]])


def hourly(days: Days) -> Floats:
    """The latest rate per hour times the day's hours."""
    rate = np.where(days.telling, days.oil / np.maximum(days.hours, SMALLEST), np.nan)
    return np.asarray(_carried(rate) * days.hours)


def one_line(days: Days, *, window: int = LINE) -> Floats:
    """Median of rate / (hours x choke) over the last telling days, times the day's hours and choke."""
    told = days.telling
    specific = days.oil[told] / (days.hours[told] * days.choke[told])
    middle = np.array([np.median(specific[max(0, k - window) : k]) if k else np.nan for k in range(len(specific) + 1)])
    return np.asarray(middle[_earlier(told)] * days.hours * days.choke)


def inputs(days: Days) -> tuple[Floats, Floats, Flags]:
    """What the learner reads of each day, `[T, F]`; the line, `[T]`; and the days that have enough before them.

    All but the day's own hours and choke comes from earlier days.
    """
    told = np.flatnonzero(days.telling)
    rate = np.log(np.maximum(days.oil, SMALLEST) / np.maximum(days.hours, SMALLEST))
    choke = np.log(np.maximum(days.choke, 1.0))
    specific = rate - choke
    line, before = one_line(days), _earlier(days.telling)
    ready = (before >= MEMORY) & (line > 0)
    columns = []
    for i in np.flatnonzero(ready):
        past = told[before[i] - MEMORY : before[i]]
        five, last = past[-LINE:], past[-1]
        middle = np.median(specific[five])
        here = middle + choke[i]
        columns.append(
            [
                rate[last] - here,
                np.median(rate[past[-3:]]) - here,
                np.median(rate[five]) - here,
                specific[last] - middle,
                np.median(specific[past[-3:]]) - middle,
                np.median(specific[past]) - middle,
                choke[i] - choke[last],
                choke[i] - np.median(choke[five]),
                choke[i] - np.log(100.0),
                np.log(max(days.hours[i], LEAST_HOURS) / 24),
                np.log(days.hours[last] / 24),
                min(days.day[i] - days.day[last], MEMORY) - 1,
                np.std(specific[five]),
            ]
        )
    table = np.full((len(days), 13), np.nan)
    table[ready] = np.array(columns).reshape(-1, 13)
    return table, line, ready


def corrected(days: Days, until: int, trees: Trees, *, seed: int = 1) -> Floats:
    """The line, corrected by trees that were fitted on days before `until`; the bare line where too little is known."""
    table, line, ready = inputs(days)
    fit = ready & days.telling & (np.arange(len(days)) < until)
    off = np.log(days.oil[fit] / line[fit])
    # Absolute errors of logarithms, weighted by the line, are about absolute errors of the rate.
    weight = line[fit] * 0.5 ** ((until - np.flatnonzero(fit)) / trees.half_life)
    out = line.copy()
    out[ready] *= np.exp(_boosted(table[fit], off, weight, table[ready], trees, seed))
    return out


def _boosted(inside: Floats, off: Floats, weight: Floats, asked: Floats, trees: Trees, seed: int) -> Floats:
    import lightgbm as lgb

    answers = []
    for bag in range(trees.bags):
        settings = {
            "objective": "l1",
            "learning_rate": 0.05,
            "num_leaves": trees.leaves,
            "min_data_in_leaf": 20,
            "feature_fraction": 0.7,
            "bagging_fraction": 0.7,
            "bagging_freq": 1,
            "lambda_l2": 5.0,
            "seed": seed + bag,
            "deterministic": True,
            "num_threads": 1,
            "verbose": -1,
        }
        data = lgb.Dataset(inside, np.clip(off, -MOST, MOST), weight=weight / weight.mean())
        answers.append(lgb.train(settings, data, trees.rounds).predict(asked))
    return np.asarray(np.clip(np.mean(answers, axis=0), -MOST, MOST), dtype=np.float64)


def choose(days: Days, grid: tuple[Trees, ...] = GRID) -> list[dict[str, Any]]:
    """MAE of each set of parameters over the line's, at rolling origins within the first 80 %, best first."""
    cuts = [int(days.cut * share) for share in (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)]
    line, rows = one_line(days), []
    for trees in grid:
        ratios = []
        for begin, end in itertools.pairwise(cuts):
            told = corrected(days, begin, trees)[begin:end]
            base = np.abs(line[begin:end] - days.oil[begin:end]).mean()
            ratios.append(float(np.abs(told - days.oil[begin:end]).mean() / base))
        rows.append(
            {
                "leaves": trees.leaves,
                "rounds": trees.rounds,
                "half-life": trees.half_life,
                "mean ratio": float(np.mean(ratios)),
                "by origin": " ".join(f"{ratio:.2f}" for ratio in ratios),
            }
        )
    return sorted(rows, key=lambda row: row["mean ratio"])


def protocol_a(days: Days, trees: Trees) -> dict[str, Floats]:
    """Forecasts of the judged days by line."""
    lines = {
        "yesterday's oil (no plan)": persistence(days),
        "latest rate per hour x hours": hourly(days),
        "one line of physics": one_line(days),
        "the line, corrected": corrected(days, days.cut, trees),
    }
    return {name: values[days.cut :] for name, values in lines.items()}


# -- protocol B ------------------------------------------------------------------------------------------------------


def protocol_b(days: Days, trees: Trees) -> tuple[Floats, dict[str, Floats]]:
    """Actuals `[K, 30]` after each origin of the judged part (NaN where a day is missing), and forecasts by line.

    An origin is a day from the last one before the judged part on, as long as its thirty days lie within the record.
    Nothing after the origin reaches a forecast; the learner's training days end thirty days before the judged part.
    """
    length = int(days.day[-1]) + 1
    oil, hours = (np.full(length, np.nan) for _ in range(2))
    oil[days.day], hours[days.day] = days.oil, days.hours
    first = int(days.day[days.cut]) - 1
    origins = np.arange(first, length - AHEAD)
    steps = origins[:, None] + np.arange(1, AHEAD + 1)
    facts = _origin_facts(oil, hours)
    held = {name: np.repeat(values[origins][:, None], AHEAD, axis=1) for name, values in facts.items()}
    ahead = np.arange(1, AHEAD + 1)
    lines = {
        "last day's oil": held["last"],
        "mean of 30 days": held["mean30"],
        "rate per hour x mean hours of 30 days": held["rate"] * held["hours30"],
        "the same, declining as the last 90 days": held["rate"] * held["hours30"] * np.exp(held["slope"] * ahead),
    }
    base = "rate per hour x mean hours of 30 days"
    lines["the last but one, corrected"] = _corrected_ahead(oil, facts, origins, first, lines[base], trees)
    return oil[steps], lines


def _origin_facts(oil: Floats, hours: Floats) -> dict[str, Floats]:
    """What is known at each day, `[T]` each."""
    telling = (hours >= LEAST_HOURS) & (oil > 0)
    rate = np.where(telling, oil / np.maximum(hours, LEAST_HOURS), np.nan)
    log_rate = np.log(rate)
    names = ("last", "mean30", "rate", "hours30", "slope", "idle", "share", "week", "month")
    facts = {name: np.full(len(oil), np.nan) for name in names}
    for i in range(len(oil)):
        near, far = slice(max(0, i - 29), i + 1), slice(max(0, i - 89), i + 1)
        known = np.flatnonzero(~np.isnan(oil[: i + 1]))
        told = np.flatnonzero(telling[: i + 1])
        if not len(known) or not len(told):
            continue
        facts["last"][i] = oil[known[-1]]
        facts["mean30"][i] = np.nanmean(oil[near]) if not np.isnan(oil[near]).all() else oil[known[-1]]
        facts["hours30"][i] = np.nanmean(hours[near]) if not np.isnan(hours[near]).all() else hours[known[-1]]
        facts["rate"][i] = np.median(rate[told[-LINE:]])
        recent = np.flatnonzero(telling[far]) + far.start
        slope = np.polyfit(recent, log_rate[recent], 1)[0] if len(recent) >= LINE * 2 else 0.0
        facts["slope"][i] = np.clip(slope, -0.01, 0.0)
        facts["idle"][i] = min(i - told[-1], AHEAD)
        facts["share"][i] = telling[near].mean()
        facts["week"][i] = log_rate[told[-1]] - np.median(log_rate[told[-7:]])
        facts["month"][i] = log_rate[told[-1]] - np.median(log_rate[told[-30:]])
    return facts


def _corrected_ahead(
    oil: Floats, facts: Mapping[str, Floats], origins: NDArray[np.int64], first: int, base: Floats, trees: Trees
) -> Floats:
    """Oil over the line, learnt for all steps together from origins whose thirty days end before the judged part."""
    ahead = np.arange(1, AHEAD + 1)
    names = ("slope", "idle", "share", "week", "month")

    def table(at: NDArray[np.int64]) -> Floats:
        told = np.column_stack([np.repeat(facts[name][at], AHEAD) for name in names])
        relative = np.repeat(facts["last"][at] / np.maximum(facts["rate"][at] * 24, SMALLEST), AHEAD)
        return np.column_stack([told, relative, np.repeat(facts["hours30"][at], AHEAD), np.tile(ahead, len(at))])

    earlier = np.arange(MEMORY, first - AHEAD + 1)
    # Every third origin: neighbours share 29 of their 30 days.
    earlier = earlier[~np.isnan(facts["rate"][earlier])][::3]
    full = np.repeat(facts["rate"][earlier] * 24, AHEAD)
    came = oil[earlier[:, None] + ahead].ravel()
    used = ~np.isnan(came)
    weight = full[used] * 0.5 ** ((first - np.repeat(earlier, AHEAD)[used]) / trees.half_life)
    import lightgbm as lgb

    settings = {
        "objective": "l1",
        "learning_rate": 0.05,
        "num_leaves": trees.leaves,
        "min_data_in_leaf": 200,
        "lambda_l2": 5.0,
        "seed": 1,
        "deterministic": True,
        "num_threads": 1,
        "verbose": -1,
    }
    data = lgb.Dataset(table(earlier)[used], came[used] / full[used], weight=weight / weight.mean())
    share = np.clip(lgb.train(settings, data, trees.rounds // 4).predict(table(origins)), 0.0, 2.0)
    out = share.reshape(len(origins), AHEAD) * facts["rate"][origins][:, None] * 24
    return np.where(np.isnan(out), base, out)


# -- scores ----------------------------------------------------------------------------------------------------------


def scores(actual: Floats, forecast: Floats) -> dict[str, Any]:
    """MAE with its interval, RMSE, wMAPE, R2 of `[K]` or `[K, H]`, rows in order of time; NaN: nothing is known."""
    known = ~np.isnan(actual) & ~np.isnan(forecast)
    y, error = actual[known], (forecast - actual)[known]
    off = np.where(known, np.abs(forecast - actual), 0.0).reshape(len(actual), -1).sum(axis=1)
    count = known.reshape(len(actual), -1).sum(axis=1).astype(np.float64)
    interval = ratio_interval(np.column_stack([off, count]), block=BLOCK)
    around = float(((y - y.mean()) ** 2).sum())
    return {
        "MAE": with_interval(float(np.abs(error).mean()), interval),
        "RMSE": float(np.sqrt((error**2).mean())),
        "wMAPE": f"{np.abs(error).sum() / np.abs(y).sum():.2%}",
        "R2": 1 - float((error**2).sum()) / around if around > 0 else float("nan"),
        "rows": int(known.sum()),
    }


def _earlier(told: Flags) -> NDArray[np.int64]:
    """Telling days before each day, `[T]`."""
    return np.asarray(np.r_[0, np.cumsum(told)[:-1]], dtype=np.int64)


def _carried(values: Floats) -> Floats:
    """The latest known value *before* each day."""
    known = np.where(np.isnan(values), -1, np.arange(len(values)))
    latest = np.r_[-1, np.maximum.accumulate(known)[:-1]]
    return np.asarray(np.where(latest >= 0, values[latest], np.nan))


def print_window(name: str, frame: pl.DataFrame, trees: Trees, *, say: Callable[[str], None] = print) -> None:
    begin, end = WINDOWS[name]
    every = days_of(frame, begin, end)
    days = every.where(every.hours > 0)
    dates = frame.filter(pl.col("date").is_between(begin, end) & (pl.col("hours") > 0)).get_column("date")
    say(f"\n## {name}: {len(days)} days on stream, judged {dates[days.cut]:%Y-%m-%d} to {dates[-1]:%Y-%m-%d}\n")
    say("Protocol A (leaky: the day's own hours and choke are given; for comparison only), bbl/d\n")
    actual = days.oil[days.cut :]
    show([{"line": line, **scores(actual, told)} for line, told in protocol_a(days, trees).items()])
    say(f"\nProtocol B ({AHEAD} days ahead, hours and choke unknown, days off stream count), bbl/d\n")
    came, lines = protocol_b(every, trees)
    tables = []
    for line, told in lines.items():
        volume = [np.where(np.isnan(came).any(axis=1), np.nan, part.mean(axis=1)) for part in (came, told)]
        tables.append({"line": line, **scores(came, told), "MAE of the 30 days' mean": scores(*volume)["MAE"]})
    show(tables)


def main() -> None:
    """Print both protocols."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA / "volve" / "daily.parquet")
    parser.add_argument("--window", choices=[*WINDOWS, "both"], default="both")
    parser.add_argument("--choose", action="store_true", help="compare parameters within the first 80 %% and stop")
    chosen = parser.parse_args()
    frame = read_days(chosen.data)
    if chosen.choose:
        every = days_of(frame, *WINDOWS["published"])
        show(choose(every.where(every.hours > 0)))
        return
    for name in WINDOWS if chosen.window == "both" else [chosen.window]:
        print_window(name, frame, Trees())


if __name__ == "__main__":
    main()
