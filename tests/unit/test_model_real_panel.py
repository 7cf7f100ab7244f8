"""How the learning models fare against the naive family on a real panel; prints the table of docs/models.md."""

from __future__ import annotations

import time
from pathlib import Path

import polars as pl
import pytest

from models.catalog import FORECASTERS, make_forecaster
from nightcast.contracts.panel import PanelDataset
from nightcast.contracts.schema import PanelSchema

WELLS = Path(__file__).parents[2].parent / "shared" / "data" / "nm_eddy_wells" / "monthly.parquet"
NAIVE = ("naive_last", "naive_mean3", "ses")
BARREL_M3 = 0.158987295

# Pretrained members need weights, which are not there.
NAMES = tuple(name for name, entry in FORECASTERS.items() if entry.family != "foundation")

pytestmark = [
    pytest.mark.long,
    pytest.mark.real_data,
    pytest.mark.skipif(not WELLS.exists(), reason="the Eddy County wells are not beside the checkout"),
]


def eddy_county_liquid() -> PanelDataset:
    """Monthly liquid rate, m3/d, on a regular grid; a month without oil or water reported counts as missing."""
    schema = PanelSchema(freq="MS", horizon=6, lower=0.0, unit="m3/d")
    days = pl.col("ds").dt.month_end().dt.day()
    rows = (
        pl.read_parquet(WELLS)
        .select(
            "oil_bbl", "water_bbl", unique_id=pl.col("api").cast(pl.String), ds=pl.col("date").cast(pl.Datetime("us"))
        )
        .select("unique_id", "ds", y=(pl.col("oil_bbl").cast(pl.Float64) + pl.col("water_bbl")) * BARREL_M3 / days)
    )
    as_of = rows["ds"].max()
    grid = (
        rows.group_by("unique_id")
        .agg(first=pl.col("ds").min(), last=pl.col("ds").max().dt.offset_by("18mo"))
        .with_columns(last=pl.min_horizontal("last", pl.lit(as_of).dt.offset_by("6mo")))
        .select("unique_id", ds=pl.datetime_ranges("first", "last", interval="1mo", time_unit="us"))
        .explode("ds")
        .join(rows, on=["unique_id", "ds"], how="left")
        .sort("unique_id", "ds")
    )
    return PanelDataset(grid, schema, {}, as_of=as_of)


@pytest.mark.parametrize("months_back", [(18, 12, 6), (42, 36, 30)], ids=["recent", "earlier"])
def test_the_global_models_beat_the_best_naive_on_eddy_county_wells(months_back: tuple[int, ...]) -> None:
    data = eddy_county_liquid()
    cutoffs = [data.schema.freq.shift(data.as_of, -back) for back in months_back]
    rows, seconds = [], dict.fromkeys(NAMES, 0.0)
    for cutoff in cutoffs:
        view = data.view(cutoff)
        level = view.history.group_by("unique_id").agg(pl.col("y").drop_nulls().tail(12).mean().alias("level"))
        for name in NAMES:
            began = time.perf_counter()
            model = make_forecaster(FORECASTERS.choose(name, "nightly_cpu")).fit(view, seed=1)
            seconds[name] += (time.perf_counter() - began) / len(cutoffs)
            rows.append(model.predict(view).frame.join(level, on="unique_id").with_columns(model=pl.lit(name)))
    scored = pl.concat(rows).join(data.truth(), on=["unique_id", "ds"])
    # The same rows for all: those that every model forecast.
    keys = ["unique_id", "cutoff", "horizon"]
    scored = scored.filter(pl.len().over(keys) == len(NAMES))
    error = (pl.col("q50") - pl.col("y")).abs()
    table = scored.group_by("model").agg(
        mae=error.mean(),
        scaled=(error / pl.col("level")).filter(pl.col("level") > 0.1).median(),
        coverage=pl.col("y").is_between("q10", "q90").mean(),
        rows=pl.len(),
    )
    best = table.filter(pl.col("model").is_in(NAIVE)).select(pl.col("mae", "scaled").min())
    table = table.with_columns(
        ratio=pl.col("mae") / best["mae"][0],
        scaled_ratio=pl.col("scaled") / best["scaled"][0],
        fit_s=pl.col("model").replace_strict(seconds, return_dtype=pl.Float64),
    ).sort("ratio")
    with pl.Config(tbl_rows=20, tbl_cols=10, float_precision=3):
        print(table)
    ratio = dict(table.select("model", "ratio").iter_rows())

    assert table["rows"].n_unique() == 1
    assert ratio["lightgbm_global"] <= 0.93
    assert ratio["nhits"] <= 1.0
