"""What a night of a panel publishes beside its rows: sums over pads and the field, and over the horizon."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import polars as pl

from nightcast.contracts.columns import ID, ROLE_TARGET, SERIES_ROLE
from nightcast.contracts.prediction import Quantiles
from nightcast.contracts.source import RawData
from nightcast.evaluation.paths import sample_paths
from nightcast.evaluation.rollup import roll_up
from nightcast.sources.spec import RollupChoice

Derive = Callable[[pl.DataFrame, pl.DataFrame, RawData, int], Mapping[str, pl.DataFrame]]

ROLLUP = "rollup"
UNGROUPED = "without group"


def rolled_up(choice: RollupChoice | None) -> Derive:
    """The function that makes a night's roll-up from what is published and how the ensemble did; None: no roll-up."""

    def derive(published: pl.DataFrame, oof: pl.DataFrame, raw: RawData, seed: int) -> Mapping[str, pl.DataFrame]:
        if choice is None:
            return {}
        groups = groups_of(raw, choice.groups)
        forecast = Quantiles.of(published)
        paths = sample_paths(forecast, oof, draws=choice.draws, seed=seed, lower=raw.panel.lower, groups=groups)
        history = raw.frame.filter(pl.col(SERIES_ROLE) == ROLE_TARGET)
        table = roll_up(paths, freq=raw.panel.freq, groups=groups, method=choice.method, oof=oof, history=history)
        return {ROLLUP: table}

    return derive


def groups_of(raw: RawData, column: str | None) -> Mapping[str, str] | None:
    """Series -> the group a static column names; series without one are a group of their own."""
    if column is None:
        return None
    named = (
        raw.frame.filter(pl.col(SERIES_ROLE) == ROLE_TARGET)
        .group_by(ID)
        .agg(pl.col(column).drop_nulls().first().cast(pl.String).fill_null(UNGROUPED))
        .sort(ID)
    )
    return dict(named.iter_rows())
