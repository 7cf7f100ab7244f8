"""The leak sentry: change the future, and name the columns in which the past changes.

It treats a feature recipe as a black box, so it also holds for blocks nobody has written yet, and runs inside the
nightly flow on the night's own data.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime

import numpy as np
import polars as pl

from nightcast.contracts.columns import ID, TARGET, TIME
from nightcast.contracts.schema import FeatureColumn, PanelSchema
from nightcast.contracts.source import Note

Built = pl.DataFrame | tuple[pl.DataFrame, Mapping[str, FeatureColumn], tuple[Note, ...]]
BuildFeatures = Callable[[pl.DataFrame, PanelSchema], Built]

ROWS = "rows"
"""Stands in the answer for rows at or before the cutoff that appear or vanish with the future."""


def future_leaks(
    build: BuildFeatures, frame: pl.DataFrame, schema: PanelSchema, cutoff: datetime, seed: int
) -> list[str]:
    """Columns whose values at rows <= cutoff change when everything after the cutoff is removed or scrambled.

    Columns of role `plan` are known ahead; where `build` returns the roles too, they must moreover not change at any
    row, the future ones included, when target and past covariates of the future are scrambled.

    Parameters
    ----------
    build
        `(frame, schema) -> frame`, or what `build_features` returns. Must be a pure function.
    frame
        Rows before features, some of them after the cutoff.
    cutoff
        Last known time.
    seed
        Seed of the scrambling.

    Returns
    -------
    list of str
        The guilty columns, sorted; `rows` if rows themselves come and go; empty if there is no leak.
    """
    whole, roles = _split(build(frame, schema))
    known = pl.col(TIME) <= cutoff
    past = [TARGET, *schema.columns_of("past")]
    plan = [*schema.columns_of("plan")]
    guilty: set[str] = set()
    for other in (
        frame.filter(known),
        _scrambled(frame, [*past, *plan], cutoff, seed),
        _emptied(frame, [*past, *plan], cutoff),
    ):
        guilty |= _different(whole.filter(known), _split(build(other, schema))[0].filter(known))
    ahead = [name for name, column in roles.items() if column.role == "plan" and column.block != "covariate"]
    if ahead:
        keys_and_plan = [ID, TIME, *ahead]
        told, _ = _split(build(_scrambled(frame, past, cutoff, seed + 1), schema))
        guilty |= _different(whole.select(keys_and_plan), told.select(n for n in keys_and_plan if n in told.columns))
    return sorted(guilty)


def _split(built: Built) -> tuple[pl.DataFrame, Mapping[str, FeatureColumn]]:
    return (built, {}) if isinstance(built, pl.DataFrame) else (built[0], built[1])


def _scrambled(frame: pl.DataFrame, columns: list[str], cutoff: datetime, seed: int) -> pl.DataFrame:
    """Wild values of both signs, zeros and nulls in place of the future's."""
    rng = np.random.default_rng(seed)
    out = []
    for name in columns:
        if name not in frame.columns or not frame.schema[name].is_numeric():
            continue
        wild = rng.normal(0, 1e6, frame.height)
        wild[rng.random(frame.height) < 0.2] = 0.0
        value = pl.Series(name, wild).set(pl.Series(rng.random(frame.height) < 0.2), None)
        out.append(
            pl.when(pl.col(TIME) > cutoff)
            .then(value.cast(frame.schema[name], strict=False))
            .otherwise(pl.col(name))
            .alias(name)
        )
    return frame.with_columns(out)


def _emptied(frame: pl.DataFrame, columns: list[str], cutoff: datetime) -> pl.DataFrame:
    return frame.with_columns(
        pl.when(pl.col(TIME) <= cutoff).then(pl.col(name)).alias(name) for name in columns if name in frame.columns
    )


def _different(one: pl.DataFrame, other: pl.DataFrame) -> set[str]:
    one, other = one.sort(ID, TIME), other.sort(ID, TIME)
    if not one.select(ID, TIME).equals(other.select(ID, TIME)):
        return {ROWS}
    missing = set(one.columns) ^ set(other.columns)
    both = [name for name in one.columns if name in other.columns]
    return missing | {name for name in both if not one.get_column(name).equals(other.get_column(name))}
