"""Small panels for flow tests, written as a user would have them."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import numpy as np
import polars as pl

NAIVE = ("naive_last", "naive_mean3", "naive_seasonal", "ses")


def monthly_panel(*, series: int = 20, months: int = 48, seed: int = 5) -> pl.DataFrame:
    """Declining rates with a season and noise: `unique_id, ds, y`."""
    rng = np.random.default_rng(seed)
    times = [datetime(2018 + m // 12, m % 12 + 1, 1) for m in range(months)]
    frames = []
    for index in range(series):
        level = rng.uniform(20, 200)
        decline = rng.uniform(0.0, 0.02)
        steps = np.arange(months)
        season = 1 + 0.1 * np.sin(2 * np.pi * steps / 12 + index)
        values = level * np.exp(-decline * steps) * season * rng.lognormal(0, 0.08, months)
        frames.append(pl.DataFrame({"unique_id": f"w{index:02d}", "ds": times, "y": values}))
    return pl.concat(frames).with_columns(pl.col("ds").cast(pl.Datetime("us")))


def write_workload(
    folder: Path, frame: pl.DataFrame, *, name: str = "tiny", models: tuple[str, ...] = NAIVE, horizon: int = 3
) -> Path:
    """A Parquet file and the workload file beside it; returns the latter."""
    folder.mkdir(parents=True, exist_ok=True)
    frame.write_parquet(folder / f"{name}.parquet")
    path = folder / f"{name}.yaml"
    path.write_text(
        f"""name: {name}
kind: panel
source: {{path: {name}.parquet}}
columns: {{id: unique_id, time: ds, target: y}}
freq: MS
horizon: {horizon}
lower: 0
models: [{", ".join(models)}]
gates: {{budget: 0.5}}
"""
    )
    return path
