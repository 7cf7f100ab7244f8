"""The generated field as a source."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from nightcast.contracts.errors import ConfigError, SourceError
from nightcast.sources.catalog import open_source
from nightcast.sources.generator import FieldConfig, simulate_field
from nightcast.sources.generator.source import FieldSource
from nightcast.sources.spec import WorkloadFile

NOW = datetime(2026, 6, 15)
SMALL = FieldConfig(producers=8, injectors=3, months=36, seed=4)
COLUMNS = ["unique_id", "ds", "y", "uptime", "wbhp", "wwir", "wopr", "x_m", "y_m", "pad"]
COLUMNS += ["series_role", "row_unparsable"]


def workload(source: dict[str, Any] | None = None, **changes: Any) -> WorkloadFile:
    choice = {"kind": "field_generator", "params": SMALL.to_json()} if source is None else source
    return WorkloadFile.model_validate({"name": "wells", "source": choice, "freq": "MS", "horizon": 3, **changes})


def test_rows_carry_the_declared_columns_roles_and_unit() -> None:
    raw = FieldSource.of(SMALL).read(as_of=None, data=None, now=NOW)

    assert raw.frame.columns == COLUMNS
    assert raw.schema.freq.alias == "MS"
    assert raw.schema.horizon == 6
    assert raw.schema.unit == "m3/d"
    assert raw.schema.lower == 0
    assert raw.schema.columns_of("past") == ("uptime", "wbhp", "wwir", "wopr")
    assert raw.schema.columns_of("static") == ("x_m", "y_m", "pad")
    assert raw.as_of == datetime(2017, 12, 1)
    assert raw.plan is None
    assert raw.notes == ()
    assert not raw.frame["row_unparsable"].any()
    assert set(raw.frame["series_role"]) == {"target", "support"}


def test_a_workload_file_gives_the_same_rows_as_the_configuration() -> None:
    by_file = open_source(workload(), Path()).read(as_of=None, data=None, now=NOW)

    assert by_file.frame.equals(FieldSource.of(SMALL).read(as_of=None, data=None, now=NOW).frame)
    assert by_file.schema.horizon == 3
    assert by_file.schema.unit == "m3/d"
    assert by_file.schema.lower == 0
    assert "seed 4" in by_file.origin


def test_months_after_the_as_of_date_are_not_handed_over() -> None:
    raw = FieldSource.of(SMALL).read(as_of=datetime(2016, 6, 1), data=None, now=NOW)

    assert raw.as_of == datetime(2016, 6, 1)
    assert raw.frame["ds"].max() == datetime(2016, 6, 1)


def test_months_that_begin_after_the_clock_have_not_happened() -> None:
    raw = FieldSource.of(SMALL).read(as_of=None, data=None, now=datetime(2017, 3, 20))

    assert raw.as_of == datetime(2017, 3, 1)
    assert raw.frame["ds"].max() == datetime(2017, 3, 1)
    assert [note.code for note in raw.notes] == ["months_after_the_clock"]
    assert raw.notes[0].rows > 0


def test_a_field_that_lies_wholly_in_the_future_is_an_error() -> None:
    with pytest.raises(SourceError, match="begins on 2015-01-01, after the clock"):
        FieldSource.of(SMALL).read(as_of=None, data=None, now=datetime(2014, 1, 1))


def test_an_as_of_date_after_the_clock_is_an_error() -> None:
    with pytest.raises(ConfigError, match="lies after the clock"):
        FieldSource.of(SMALL).read(as_of=datetime(2027, 1, 1), data=None, now=NOW)


def test_an_as_of_date_before_the_field_is_an_error() -> None:
    with pytest.raises(SourceError, match="no row at or before 2014-01-01"):
        FieldSource.of(SMALL).read(as_of=datetime(2014, 1, 1), data=None, now=NOW)


def test_a_saved_field_is_read_instead_of_generated(tmp_path: Path) -> None:
    other = SMALL.with_(seed=9)
    simulate_field(other).save(tmp_path / "kept")
    expected = FieldSource.of(other).read(as_of=None, data=None, now=NOW).frame

    by_argument = FieldSource.of(SMALL).read(as_of=None, data=tmp_path / "kept", now=NOW)
    by_file = FieldSource(workload({"kind": "field_generator", "path": "kept"}), tmp_path).read(
        as_of=None, data=None, now=NOW
    )

    assert by_argument.frame.equals(expected)
    assert by_file.frame.equals(expected)
    assert "saved in" in by_argument.origin
    assert "seed 9" in by_file.origin


def test_a_folder_without_a_field_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="does not hold a saved field"):
        FieldSource.of(SMALL).read(as_of=None, data=tmp_path, now=NOW)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"freq": "D"}, "freq is 'D'; expected MS"),
        ({"unit": "bbl/d"}, "unit is 'bbl/d'"),
        ({"lower": -1.0}, "lower is -1.0"),
        ({"columns": {"target": "wopr"}}, "columns are declared"),
        ({"source": {"kind": "field_generator", "plan": "plan.csv"}}, "source.plan is 'plan.csv'"),
        ({"source": {"kind": "field_generator", "path": "f", "params": {"seed": 1}}}, "both a path and params"),
        ({"source": {"kind": "field_generator", "params": {"sead": 1}}}, r"unknown parameter\(s\) \['sead'\]"),
    ],
)
def test_a_workload_file_that_contradicts_the_generator_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        FieldSource(workload(**changes), Path())


def test_the_truth_is_at_hand_for_the_rows_of_the_source() -> None:
    source = FieldSource.of(SMALL)
    raw = source.read(as_of=None, data=None, now=NOW)

    joined = raw.frame.filter(pl.col("series_role") == "target").join(
        source.field().truth.rate, on=["unique_id", "ds"], how="left"
    )

    assert joined["rate"].is_not_null().all()


def test_the_sheet_names_the_workload_and_its_units() -> None:
    assert FieldSource(workload(name="my-field"), Path()).sheet.name == "my-field"
    assert FieldSource.of(SMALL).sheet.units["y"].startswith("m3/d")


@pytest.mark.parametrize("kind", ["known", "noisy"])
def test_a_generated_plan_reaches_past_the_as_of_date_and_makes_its_covariates_plans(kind: str) -> None:
    source = FieldSource(
        WorkloadFile.model_validate(
            {
                "name": "wells",
                "source": {"kind": "field_generator", "plan": kind, "params": {"size": "small", "months": 40}},
                "freq": "MS",
                "horizon": 6,
                "unit": "m3/d",
                "lower": 0,
            }
        ),
        Path(),
    )

    raw = source.read(as_of=datetime(2017, 1, 1), data=None, now=datetime(2024, 1, 1))

    assert raw.plan is not None
    assert raw.panel.columns_of("plan") == ("uptime", "wbhp", "wwir")
    assert raw.plan.get_column("ds").max() > raw.as_of
    assert not raw.plan.select("unique_id", "ds").is_duplicated().any()
    true = source.field().truth.monthly.join(raw.plan, on=["unique_id", "ds"], suffix="_plan")
    exact = (true["uptime"] == true["uptime_plan"]).all()
    assert exact == (kind == "known")
    assert (true["uptime_plan"] >= true["uptime"]).all()


def test_without_a_plan_the_covariates_of_a_generated_field_are_past() -> None:
    raw = FieldSource.of(FieldConfig.from_params({"size": "small", "months": 40})).read(
        as_of=None, data=None, now=datetime(2024, 1, 1)
    )

    assert raw.plan is None
    assert raw.panel.columns_of("plan") == ()
