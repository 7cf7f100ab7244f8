"""The sections of the page that only panels have: why it changed, sums, value added, and what models found."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import polars as pl

from models.fields import INJECTION
from nightcast.contracts.columns import MODEL
from nightcast.evaluation.rollup import rollup_scores
from nightcast.evaluation.voidage import voidage_replacement
from nightcast.reports.attention_views import attention_chapter
from nightcast.reports.change_views import change_chapter
from nightcast.reports.connectivity_views import connectivity_chapter, recent_rates, voidage_chapter
from nightcast.reports.rollup_views import rollup_chapter
from nightcast.reports.value_added import value_added
from nightcast.reports.views import Chapter
from nightcast.sources.spec import RollupChoice, VoidageChoice
from workloads.panel_changes import change_reasons
from workloads.panel_sums import ROLLUP, groups_of
from workloads.stages import Morning, history_of

Tell = Callable[[Morning], Chapter | None]

SCORED_DRAWS = 300
"""Sample paths per past origin behind the scores of sums: the level of a 10 % quantile is then right to two points."""


def panel_chapters(rollup: RollupChoice | None, factors: VoidageChoice) -> tuple[Tell, ...]:
    """The functions that tell a panel's chapters, in the page's order."""

    def sums(morning: Morning) -> Chapter | None:
        return _sums(morning, rollup)

    def voidage(morning: Morning) -> Chapter | None:
        """How much of the volume that left the reservoir was put back."""
        view = morning.view
        if view is None or INJECTION not in view.support.columns:
            return None
        ratios = voidage_replacement(view.history, view.support, **factors.model_dump())
        return voidage_chapter(ratios, unit=morning.unit)

    return (why, sums, added, connectivity, voidage, attention)


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


def connectivity(morning: Morning) -> Chapter | None:
    """Who supports whom, as the capacitance-resistance member found it."""
    found, view = _evidence(morning, "connectivity"), morning.view
    if found is None or view is None:
        return None
    rates = recent_rates(view.history, view.support)
    return connectivity_chapter(
        found["connectivity"], found["injectors"], rates=rates, drive=found["drive"], unit=morning.unit
    )


def attention(morning: Morning) -> Chapter | None:
    """What a member with attention looked at."""
    found = _evidence(morning, "attention")
    if found is None:
        return None
    return attention_chapter(
        found["attention"], freq_word=morning.raw.panel.freq.word, check=found.get("attention_check")
    )


def _evidence(morning: Morning, kind: str) -> Mapping[str, pl.DataFrame] | None:
    """What the first member that knows of a kind of evidence found; None if no member serves or none knows."""
    return next((found for found in morning.evidence if kind in found), None)


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
