"""What the raw gate says about real fields and wells; docs/gates.md quotes these numbers."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from expectations.diagnostics import raw_rows
from expectations.gate import load_gx
from expectations.panel import RawThresholds, accepted_rows, raw_gate
from nightcast.contracts.schema import PanelSchema
from nightcast.contracts.source import RawData

DATA = Path(__file__).parents[2].parent / "shared" / "data"
BARREL_M3 = 0.158987295
SETS = {
    "norne": ("norne/monthly.parquet", "well", pl.col("liquid_sm3_d")),
    "sodir": (
        "sodir_fields/monthly.parquet",
        "field",
        (pl.col("oil_mill_sm3") + pl.col("water_mill_sm3")) * 1e6 / pl.col("date").dt.month_end().dt.day(),
    ),
    "eddy": (
        "nm_eddy_wells/monthly.parquet",
        "api",
        pl.when(pl.col("oil_bbl").is_not_null() | pl.col("water_bbl").is_not_null()).then(
            pl.sum_horizontal("oil_bbl", "water_bbl") * BARREL_M3 / pl.col("date").dt.month_end().dt.day()
        ),
    ),
}
pytestmark = pytest.mark.real_data


def raw_of(name: str) -> RawData:
    file, series, liquid = SETS[name]
    path = DATA / file
    if not path.exists():
        pytest.skip(f"the real data set {file} is not beside the checkout")
    frame = pl.read_parquet(path).select(
        pl.col(series).cast(pl.String).alias("unique_id"), pl.col("date").cast(pl.Datetime("us")).alias("ds"), y=liquid
    )
    schema = PanelSchema(freq="MS", horizon=6, unit="m3/d", lower=0.0)
    return RawData(frame=frame.sort("unique_id", "ds"), schema=schema, as_of=frame["ds"].max(), origin=name)


@pytest.mark.parametrize(
    ("name", "series", "expected"),
    [
        ("norne", 23, {}),
        ("sodir", 79, {("mask", "negative_value"): 5, ("warn", "gap"): 4}),
        ("eddy", 163, {("quarantine", "scale_jump"): 7, ("warn", "gap"): 15, ("warn", "stale"): 9}),
    ],
)
def test_real_data_pass_within_the_budget(name, series, expected):
    raw = raw_of(name)

    verdict = raw_gate(raw)

    verdict.raise_if_stopped()
    assert verdict.series == series
    assert Counter((finding.severity, finding.reason) for finding in verdict.findings) == expected
    accepted = accepted_rows(raw, verdict)
    assert accepted["unique_id"].n_unique() == series - len(verdict.quarantined)
    assert accepted["y"].min() >= 0


def test_negative_months_of_fields_are_masked_one_by_one():
    assert raw_gate(raw_of("sodir")).masked_rows == 9


def draws(raw: RawData) -> RawData:
    """The same rows with one value of each series, drawn at random, a hundred times too large."""
    generator = np.random.default_rng(0)
    rows = raw.frame.with_row_index("i").filter(pl.col("y") > 0)
    hit = [int(generator.choice(part["i"].to_numpy())) for part in rows.partition_by("unique_id", maintain_order=True)]
    scaled = pl.when(pl.int_range(pl.len()).is_in(hit)).then(pl.col("y") * 100).otherwise("y").alias("y")
    return RawData(frame=raw.frame.with_columns(scaled), schema=raw.schema, as_of=raw.as_of, origin=raw.origin)


def jumping(raw: RawData, ratio: float) -> int:
    rows = raw_rows(raw, neighbours=RawThresholds().spike_neighbours, spike_recent=None)
    return rows.filter(pl.col("spike") > ratio)["unique_id"].n_unique()


@pytest.mark.parametrize(
    ("name", "ratio", "as_published", "corrupted", "of"),
    [
        ("norne", 10, 0, 10, 11),
        ("norne", 20, 0, 10, 11),
        ("sodir", 10, 0, 72, 77),
        ("sodir", 20, 0, 70, 77),
        ("eddy", 10, 7, 155, 163),
        ("eddy", 20, 5, 143, 163),
    ],
)
def test_the_default_ratio_finds_more_jumps_at_the_price_of_two_more_real_wells(
    name, ratio, as_published, corrupted, of
):
    raw = raw_of(name)

    assert raw.frame.filter(pl.col("y") > 0)["unique_id"].n_unique() == of
    assert (jumping(raw, ratio), jumping(draws(raw), ratio)) == (as_published, corrupted)


def test_the_raw_gate_takes_seconds_on_a_panel_of_many_wells():
    raw = raw_of("eddy")
    load_gx()
    began = time.perf_counter()

    raw_gate(raw)

    # 0.2 s on a quiet machine with two cores; the bound leaves room for a busy one.
    assert time.perf_counter() - began < 5
