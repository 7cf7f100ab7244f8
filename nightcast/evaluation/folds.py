"""Where a walk-forward fits and from where it forecasts, on a panel with a calendar step.

With `cutoffs=4, step=1, refits=2, gap=1, horizon=3` and an expanding window (`=` training rows, `.` the gap,
`o` a cutoff, `-` the horizon it is scored on, `|` the as-of date)::

    fold-00  ===========.o---
             ===========..o---
    fold-01  =============.o---
             =============..o---|
    final    ===================o---     (published, not scored)

The second cutoff of a fold shares the first one's fit: it sees newer history, but no newer training row. The last
scored cutoff lies `horizon + gap` steps before the as-of date: its outcomes are known, and old enough not to be
among the rows that `gap` declares late.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Final

import polars as pl

from nightcast.contracts.columns import ID, TARGET, TIME
from nightcast.contracts.errors import ConfigError
from nightcast.contracts.fold import Fold
from nightcast.contracts.frequency import Frequency
from nightcast.contracts.panel import PanelDataset
from nightcast.contracts.recipe import FoldPlan

ROLLING_WINDOW: Final = 60
"""Steps in a rolling window whose plan names no size."""


def panel_folds(dataset: PanelDataset, plan: FoldPlan) -> tuple[Fold, ...]:
    """Lay out the scored folds of a panel; a function of the plan and of the rows known at the as-of date.

    Up to `plan.cutoffs` origins, `plan.step` steps apart, are grouped in time order into at most `plan.refits`
    folds of sizes that differ by one at most. An origin is left out if a fit at it would see no series with
    `plan.min_train` known values, so a short history gives fewer origins than asked for.

    Raises
    ------
    ConfigError
        If no origin is left.
    """
    freq, horizon = dataset.schema.freq, dataset.schema.horizon
    size = _window_size(plan)
    known = _known(dataset)
    # A training window is long enough if it holds one of these spans of `min_train` known values of one series.
    spans = known.select(
        pl.col(TIME).shift(plan.min_train - 1).over(ID, order_by=TIME).alias("first"), pl.col(TIME).alias("last")
    ).drop_nulls()
    last = freq.shift(dataset.as_of, -horizon - plan.gap)
    origins: list[datetime] = []
    if known.height:
        oldest = known.get_column(TIME).min()
        assert isinstance(oldest, datetime)
        reachable = freq.steps_between(oldest, last) // plan.step + 1
        for back in range(min(plan.cutoffs, reachable) - 1, -1, -1):
            cutoff = freq.shift(last, -back * plan.step)
            end = freq.shift(cutoff, -plan.gap)
            enough = pl.col("last") <= end
            if size is not None:
                enough &= pl.col("first") >= freq.shift(end, 1 - size)
            if spans.filter(enough).height:
                origins.append(cutoff)
    if not origins:
        longest = max(known.group_by(ID).len().get_column("len").to_list(), default=0)
        raise ConfigError(
            f"horizon longer than the history: the longest series has {longest} known values up to "
            f"{dataset.as_of:%Y-%m-%d %H:%M}" + ("" if size is None else f", the rolling window {size} steps"),
            expected=f"at least {plan.min_train} (folds.min_train) before the first cutoff, then a gap of {plan.gap} "
            f"and {horizon} steps (the horizon) to score it on",
            remedy="lower `horizon` or `folds.min_train` in the workload file"
            + ("" if size is None else ", widen `folds.window_size`")
            + ", or give a longer history",
        )
    return tuple(
        Fold(
            name=f"fold-{index:02d}",
            train_start=_train_start(freq, freq.shift(group[0], -plan.gap), size),
            train_end=freq.shift(group[0], -plan.gap),
            cutoffs=tuple(group),
        )
        for index, group in enumerate(_groups(origins, plan.refits))
    )


def final_fold(dataset: PanelDataset, plan: FoldPlan) -> Fold:
    """Name the fit that is published from: every row known at the as-of date, one cutoff there."""
    return Fold(
        name="final",
        train_start=_train_start(dataset.schema.freq, dataset.as_of, _window_size(plan)),
        train_end=dataset.as_of,
        cutoffs=(dataset.as_of,),
    )


def closed_cutoffs(
    cutoffs: Iterable[datetime], cutoff: datetime, *, horizon: int, freq: Frequency
) -> tuple[datetime, ...]:
    """Origins whose whole horizon was known at `cutoff`, rising: what weights and calibration there may learn from."""
    return tuple(sorted({origin for origin in cutoffs if freq.shift(origin, horizon) <= cutoff}))


def _known(dataset: PanelDataset) -> pl.DataFrame:
    value = pl.col(TARGET).cast(pl.Float64)
    return (
        dataset.frame.select(ID, TIME, TARGET)
        .filter((pl.col(TIME) <= dataset.as_of) & value.is_finite().fill_null(False))
        .sort(ID, TIME)
    )


def _window_size(plan: FoldPlan) -> int | None:
    if plan.window == "expanding":
        return None
    return ROLLING_WINDOW if plan.window_size is None else plan.window_size


def _train_start(freq: Frequency, end: datetime, size: int | None) -> datetime | None:
    return None if size is None else freq.shift(end, 1 - size)


def _groups(origins: Sequence[datetime], refits: int) -> list[list[datetime]]:
    count = min(refits, len(origins))
    base, extra = divmod(len(origins), count)
    groups, start = [], 0
    for index in range(count):
        stop = start + base + (index < extra)
        groups.append(list(origins[start:stop]))
        start = stop
    return groups
