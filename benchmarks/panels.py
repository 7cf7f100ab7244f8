"""Panels for benchmarks: rows as a dataset, forecasts from rolling origins, errors against naive ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from models.catalog import FORECASTERS, make_forecaster
from nightcast.contracts.columns import CUTOFF, HORIZON, ID, MEDIAN, QUANTILES, TARGET, TIME
from nightcast.contracts.panel import PanelDataset
from nightcast.contracts.recipe import FoldPlan, Preset
from nightcast.evaluation.folds import panel_folds
from nightcast.evaluation.scores import mase
from nightcast.sources.spec import WorkloadFile, load_workload_file
from workloads.panel import panel_workload

KEYS = (ID, TIME, CUTOFF, HORIZON)
NAIVE = ("naive_last", "naive_mean3", "ses")
NAIVE_ALL = (*NAIVE, "naive_uptime")
"""With the one that reads past uptime; it answers only where uptime is reported."""
Factory = Callable[[], Any]


def generated(seed: int, **source: Any) -> WorkloadFile:
    """A workload file of a generated field at the reference level."""
    params = {"seed": seed, **source.pop("params", {})}
    return WorkloadFile.model_validate(
        {
            "name": "wells",
            "source": {"kind": "field_generator", "params": params, **source},
            "freq": "MS",
            "horizon": 6,
            "unit": "m3/d",
            "lower": 0,
        }
    )


def dataset(
    spec: WorkloadFile | Path, data: Path | None = None, *, features: Mapping[str, Any] | None = None
) -> PanelDataset:
    """Read, gate and prepare the rows of a workload, as a night does."""
    base = Path()
    if isinstance(spec, Path):
        base = spec.parent
        spec = load_workload_file(spec)
    if features is not None:
        spec = spec.model_copy(update={"features": {name: dict(its) for name, its in features.items()}})
    workload = panel_workload(spec, base)
    raw = workload.source.read(as_of=None, data=data, now=datetime.now(UTC).replace(tzinfo=None))
    verdict = workload.gates.raw(raw)
    verdict.raise_if_stopped()
    prepared: PanelDataset = workload.prepare(raw, verdict, workload.recipe("nightly_cpu"))
    return prepared


def factory(name: str, preset: Preset = "nightly_cpu", **params: Any) -> Factory:
    """A maker of one catalog entry."""
    choice = FORECASTERS.choose(name, preset, **params)
    return lambda: make_forecaster(choice)


def forecasts(make: Factory, data: PanelDataset, plan: FoldPlan, *, seed: int = 1) -> pl.DataFrame:
    """Out-of-fold forecasts whose outcome is known, with `y`."""
    parts = []
    for fold in panel_folds(data, plan):
        model = make().fit(data.training(fold), seed=seed)
        parts += [model.predict(view).frame for view in data.tests(fold)]
    stacked: pl.DataFrame = pl.concat(parts)
    return stacked.join(data.truth(), on=[ID, TIME], how="inner").sort(KEYS)


def mean_of(parts: Sequence[pl.DataFrame]) -> pl.DataFrame:
    """Mean of several models' quantiles, on the rows that all of them have."""
    stacked: pl.DataFrame = pl.concat([part.select(*KEYS, TARGET, *QUANTILES) for part in parts])
    joined = stacked.group_by(*KEYS, TARGET).agg(pl.len().alias("_n"), *(pl.col(name).mean() for name in QUANTILES))
    return joined.filter(pl.col("_n") == len(parts)).drop("_n").sort(KEYS)


def against(
    rows: pl.DataFrame, naive: Mapping[str, pl.DataFrame], data: PanelDataset, *, draws: int = 1000
) -> dict[str, Any]:
    """Scores on the rows shared with every naive: R = MAE over the best naive's, with a 90 % interval by origin blocks.

    Blocks of six origins are drawn with replacement (horizons of neighbouring origins overlap); the best naive is the
    best over all rows.
    """
    joined = rows
    for name, part in naive.items():
        joined = joined.join(part.select(*KEYS, pl.col(MEDIAN).alias(name)), on=list(KEYS))
    y = joined.get_column(TARGET).to_numpy()
    error = {name: np.abs(joined.get_column(name).to_numpy() - y) for name in (*naive, MEDIAN)}
    best = min(naive, key=lambda name: float(error[name].mean()))
    sums = (
        joined.select(CUTOFF, own=pl.Series(error[MEDIAN]), base=pl.Series(error[best]))
        .group_by(CUTOFF)
        .sum()
        .sort(CUTOFF)
        .drop(CUTOFF)
    ).to_numpy()
    rng = np.random.default_rng(1)
    size = min(6, len(sums))
    starts = rng.integers(0, len(sums) - size + 1, (draws, -(-len(sums) // size)))
    drawn = sums[(starts[:, :, None] + np.arange(size)).reshape(draws, -1)].sum(axis=1)
    ratio = drawn[:, 0] / drawn[:, 1]
    scaled = {
        name: mase(joined.with_columns(pl.col(name).alias(MEDIAN)), history=data.truth()) for name in (*naive, MEDIAN)
    }
    low, middle, high = joined.select("q10", MEDIAN, "q90").to_numpy().T
    within = joined.group_by(ID).agg(
        (pl.col(MEDIAN) - pl.col(TARGET)).pow(2).sum().alias("sse"),
        (pl.col(TARGET) - pl.col(TARGET).mean()).pow(2).sum().alias("sst"),
    )
    sse, sst = within.filter(pl.col("sst") > 0).select("sse", "sst").to_numpy().T
    return {
        "rows": joined.height,
        "origins": len(sums),
        "best_naive": best,
        "nmae": float(error[MEDIAN].sum() / np.abs(y).sum()),
        "R": float(error[MEDIAN].sum() / error[best].sum()),
        "R_low": float(np.quantile(ratio, 0.05)),
        "R_high": float(np.quantile(ratio, 0.95)),
        "mase_ratio": scaled[MEDIAN] / min(scaled[name] for name in naive),
        "coverage80": float(((y >= low) & (y <= high)).mean()),
        "r2_pooled": float(1 - ((middle - y) ** 2).sum() / ((y - y.mean()) ** 2).sum()),
        "r2_within": float(1 - sse.sum() / sst.sum()),
        "nse_median": float(np.median(1 - sse / sst)),
    }


def show(rows: Sequence[Mapping[str, Any]]) -> None:
    """As a Markdown table."""

    def cell(value: Any) -> str:
        return f"{value:.3f}" if isinstance(value, float) else str(value)

    print("| " + " | ".join(rows[0]) + " |")
    print("|" + "---|" * len(rows[0]))
    for row in rows:
        print("| " + " | ".join(cell(value) for value in row.values()) + " |", flush=True)
