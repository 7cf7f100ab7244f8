"""Features that are recursions over bars, restarted inside a finite window so that they never look back further."""

from __future__ import annotations

import numpy as np
import polars as pl

from nightcast.contracts.columns import SEGMENT
from nightcast.features.bars import expressions as x

BARS = 10
WIDTH = 3.0
WINDOW = 60


def add_supertrend(work: pl.DataFrame, *, side: str, gap: str) -> pl.DataFrame:
    """Add SuperTrend's side (-1 below, 1 above its line) and the close's relative distance from the line.

    Bands of 3 average true ranges of 10 bars around the bars' middles, carried on while price stays on one side. The
    recursion starts anew `WINDOW` bars back, so a value depends on those bars alone.
    """
    from nightcast.features.bars._kernels import supertrend

    spread = x.wilder(pl.col(x.TR), BARS).over(SEGMENT)
    bands = work.select(((pl.col(x.H) + pl.col(x.L)) / 2).alias("middle"), spread.alias("spread"), x.C)
    start = np.flatnonzero(np.diff(work.get_column(SEGMENT).to_numpy(), prepend=-1))
    first = np.zeros(work.height, dtype=np.int64)
    first[start] = start
    first = np.maximum.accumulate(first)
    values = [bands.get_column(name).fill_null(float("nan")).to_numpy() for name in ("middle", "spread", x.C)]
    sides, gaps = supertrend(*values, first + x.wilder_window(BARS) - 1, WIDTH, WINDOW)
    return work.with_columns(pl.Series(side, sides).fill_nan(None), pl.Series(gap, gaps).fill_nan(None))
