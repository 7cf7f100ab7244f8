"""The leak sentry of bar features: the past must not change when the future does."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import numpy as np
import polars as pl

from nightcast.contracts.columns import BAR_COLUMNS, CLOSE, HIGH, LOW, OPEN, TIME, VOLUME
from nightcast.contracts.schema import BarsSchema
from nightcast.features.bars.catalog import build_bar_features


def bar_future_leaks(
    frame: pl.DataFrame, sets: Sequence[str], schema: BarsSchema, cutoff: datetime, seed: int
) -> list[str]:
    """Columns whose values at or before the cutoff change when every later bar is replaced by noise.

    Parameters
    ----------
    frame
        `unique_id, ds, segment, session, open .. volume`, sorted by symbol and time.
    """
    rng = np.random.default_rng(seed)
    late = pl.col(TIME) > cutoff
    count = frame.height
    price = np.exp(rng.normal(0, 2, count)) * 100
    spread = np.abs(rng.normal(0, 0.1, (2, count)))
    noise = {
        OPEN: price,
        CLOSE: price * np.exp(rng.normal(0, 0.05, count)),
        VOLUME: rng.exponential(1000, count),
    }
    noise[HIGH] = np.maximum(noise[OPEN], noise[CLOSE]) * (1 + spread[0])
    noise[LOW] = np.minimum(noise[OPEN], noise[CLOSE]) / (1 + spread[1])
    scrambled = frame.with_columns(
        pl.when(late).then(pl.Series(name, noise[name])).otherwise(pl.col(name).cast(pl.Float64)).alias(name)
        for name in BAR_COLUMNS
    )
    plain = frame.with_columns(pl.col(BAR_COLUMNS).cast(pl.Float64))
    past, columns, _ = build_bar_features(plain, sets, schema)
    other, _, _ = build_bar_features(scrambled, sets, schema)
    known = past.get_column(TIME) <= cutoff
    before, after = past.filter(known), other.filter(known)
    return [name for name in columns if not before.get_column(name).equals(after.get_column(name))]
