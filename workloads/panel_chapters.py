"""The sections of the page that only panels have: why it changed, the sums, and what it adds to a naive forecast."""

from __future__ import annotations

from collections.abc import Callable

import polars as pl

from nightcast.contracts.columns import MODEL
from nightcast.evaluation.rollup import rollup_scores
from nightcast.reports.change_views import change_chapter
from nightcast.reports.rollup_views import rollup_chapter
from nightcast.reports.value_added import value_added
from nightcast.reports.views import Chapter
from nightcast.sources.spec import RollupChoice
from workloads.panel_changes import change_reasons
from workloads.panel_sums import ROLLUP, groups_of
from workloads.stages import Morning, history_of

Tell = Callable[[Morning], Chapter | None]

SCORED_DRAWS = 300
"""Sample paths per past origin behind the scores of sums: the level of a 10 % quantile is then right to two points."""


def panel_chapters(rollup: RollupChoice | None) -> tuple[Tell, ...]:
    """The functions that tell a panel's chapters, in the page's order."""

    def sums(morning: Morning) -> Chapter | None:
        return _sums(morning, rollup)

    return (why, sums, added) if rollup is not None else (why, added)


def why(morning: Morning) -> Chapter | None:
    """Why the forecast changed since the one before."""
    if morning.before is None:
        return None
    return change_chapter(change_reasons(morning), unit=morning.unit, missing=morning.before.missing)


def added(morning: Morning) -> Chapter | None:
    """Where the forecast is worth having over the best naive."""
    judged = morning.evaluation
    if judged is None or judged.naive.is_empty():
        return None
    name = str(judged.naive.get_column(MODEL)[0])
    return value_added(judged.ensemble, judged.naive, _history(morning), unit=morning.unit, naive_name=name)


def _sums(morning: Morning, choice: RollupChoice | None) -> Chapter | None:
    """Pads and the field: what is published beside the rows, and how such sums did."""
    if choice is None or ROLLUP not in morning.beside:
        return None
    groups, scores, judged = groups_of(morning.raw, choice.groups), None, morning.evaluation
    if judged is not None and not judged.naive.is_empty():
        scores = rollup_scores(
            judged.ensemble,
            judged.naive,
            freq=morning.raw.panel.freq,
            groups=groups,
            lower=morning.raw.panel.lower,
            method=choice.method,
            history=_history(morning),
            draws=SCORED_DRAWS,
        )
    return rollup_chapter(
        morning.beside[ROLLUP],
        _history(morning),
        unit=morning.unit,
        groups=groups,
        previous=None if morning.before is None else morning.before.frame,
        scores=scores,
    )


def _history(morning: Morning) -> pl.DataFrame:
    """Known values of the series that are owed a forecast."""
    series, _ = morning.workload.promised(morning.raw)
    return history_of(morning.raw, series)
