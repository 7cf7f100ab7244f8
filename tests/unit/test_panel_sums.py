"""The roll-up that a night of a panel publishes beside its rows."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from nightcast.contracts.columns import QUANTILES
from nightcast.contracts.errors import ConfigError
from nightcast.contracts.schema import PanelSchema
from nightcast.contracts.source import RawData
from nightcast.sources.spec import RollupChoice, WorkloadFile
from workloads.panel import panel_workload
from workloads.panel_sums import ROLLUP, UNGROUPED, groups_of, rolled_up

WELLS = ("a", "b", "c")
PADS = {"a": "north", "b": "north", "c": None}


def month(number: int) -> datetime:
    return datetime(2020 + (number - 1) // 12, (number - 1) % 12 + 1, 1)


def raw() -> RawData:
    rows = [(w, month(m), 10.0 + i + m % 3, PADS[w], "target") for i, w in enumerate(WELLS) for m in range(1, 25)]
    frame = pl.DataFrame(rows, schema=["unique_id", "ds", "y", "pad", "series_role"], orient="row")
    frame = frame.with_columns(pl.lit(False).alias("row_unparsable"))
    schema = PanelSchema(freq="MS", horizon=2, covariates={"pad": "static"}, lower=0.0)
    return RawData(frame, schema, month(24), "made here")


def rows(cutoffs: range) -> pl.DataFrame:
    rng = np.random.default_rng(1)
    keys = [(w, month(c + h), month(c), h) for w in WELLS for c in cutoffs for h in (1, 2)]
    frame = pl.DataFrame(keys, schema=["unique_id", "ds", "cutoff", "horizon"], orient="row")
    frame = frame.with_columns(pl.lit(10.0 + k).alias(name) for k, name in enumerate(QUANTILES))
    return frame.with_columns(y=pl.Series(14 + 2 * rng.normal(size=frame.height)), scale=pl.lit(14.0))


def test_sums_are_published_for_wells_pads_and_the_field() -> None:
    made = rolled_up(RollupChoice(groups="pad", draws=200))(rows(range(24, 25)), rows(range(8, 22)), raw(), 7)

    table = made[ROLLUP]
    names = table.filter(pl.col("kind") == "rate").group_by("level").agg(pl.col("name").unique().sort()).sort("level")
    assert names.rows() == [
        ("field", ["field"]),
        ("pad", ["north", UNGROUPED]),
        ("well", ["a", "b", "c"]),
    ]
    rates = table.filter((pl.col("kind") == "rate") & (pl.col("horizon") == 1))
    total = rates.filter(pl.col("level") == "field")["mean"][0]
    assert rates.filter(pl.col("level") == "well")["mean"].sum() == pytest.approx(total, rel=1e-6)
    assert rates.filter(pl.col("level") == "pad")["mean"].sum() == pytest.approx(total, rel=1e-6)
    assert (table["P90"] <= table["P50"]).all()
    assert (table["P50"] <= table["P10"]).all()


def test_the_same_night_gives_the_same_sums() -> None:
    make = rolled_up(RollupChoice(draws=200))
    one, other = (make(rows(range(24, 25)), rows(range(8, 22)), raw(), 7)[ROLLUP] for _ in range(2))

    assert one.equals(other)


def test_without_a_choice_nothing_is_derived() -> None:
    assert rolled_up(None)(rows(range(24, 25)), rows(range(8, 22)), raw(), 7) == {}


def test_wells_without_a_pad_are_a_group_of_their_own() -> None:
    assert groups_of(raw(), "pad") == {"a": "north", "b": "north", "c": UNGROUPED}
    assert groups_of(raw(), None) is None


def test_a_group_that_is_no_covariate_is_refused() -> None:
    spec = WorkloadFile.model_validate(
        {
            "name": "mine",
            "source": {"path": "x.csv"},
            "columns": {"covariates": {"pad": "static"}},
            "freq": "MS",
            "horizon": 2,
            "rollup": {"groups": "platform"},
        }
    )
    with pytest.raises(ConfigError, match="'platform'"):
        panel_workload(spec, Path())
