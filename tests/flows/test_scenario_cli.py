"""`nightcast scenario`: the published forecast of the same rows is the base, and the output says which base it is."""

from __future__ import annotations

import io
from datetime import datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from typer.testing import CliRunner

from flows.scenario_cli import play_scenario
from nightcast.contracts.errors import ConfigError
from nightcast.publishing import publish_night
from nightcast.storage import Store, open_store
from tasks.night import load_workload
from workloads.scenario import FIELD
from workloads.stages import snapshot_hash

SETTING = "I03.wwir:+10%"


@pytest.fixture
def spec(tmp_path: Path) -> str:
    path = tmp_path / "tiny_wells.yaml"
    path.write_text(
        "name: tiny_wells\nkind: panel\nfreq: MS\nhorizon: 6\nunit: m3/d\nlower: 0\n"
        "source: {kind: field_generator, params: {producers: 8, injectors: 3, months: 60, seed: 4}}\n"
        "features: [status]\nvoidage: {water_fvf: 2.0}\n"
    )
    return str(path)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store((tmp_path / "store").as_uri())


def ask(spec: str, store: Store | None, to: Path, *settings: str) -> dict[str, Any]:
    return play_scenario(spec, list(settings) or [SETTING], data=None, as_of=None, draws=10, to=to, store=store)


def rows(answer: dict[str, Any]) -> pl.DataFrame:
    return pl.read_parquet(answer["file"])


def publish(spec: str, store: Store, forecast: pl.DataFrame, *, snapshot: str = "", level: float | None = None) -> None:
    workload = load_workload(spec)
    raw = workload.source.read(as_of=None, data=None, now=datetime(2026, 1, 1))
    extra = {}
    if level is not None:
        table = (
            forecast.select("ds").unique().with_columns(level=pl.lit("field"), kind=pl.lit("rate"), q50=pl.lit(level))
        )
        stream = io.BytesIO()
        table.write_parquet(stream)
        extra["rollup.parquet"] = stream.getvalue()
    publish_night(
        store,
        workload=workload.name,
        as_of=raw.as_of,
        night_id="n",
        forecast=forecast,
        manifest={"snapshot": snapshot or snapshot_hash(raw)},
        extra=extra,
    )


def test_without_a_publication_the_base_is_the_physical_blocks_and_says_so(
    spec: str, store: Store, tmp_path: Path
) -> None:
    answer = ask(spec, store, tmp_path)

    assert answer["base"] == "physical"
    assert "no forecast is published" in answer["base_from"]


def test_a_publication_of_the_same_rows_is_the_base_with_its_field(spec: str, store: Store, tmp_path: Path) -> None:
    own = rows(ask(spec, store, tmp_path))
    forecast = own.filter(pl.col("unique_id") != FIELD).select("unique_id", "ds", q50=pl.col("base") + 7.0)
    publish(spec, store, forecast, level=5000.0)

    answer = ask(spec, store, tmp_path)
    told = rows(answer)

    wells = told.filter(pl.col("unique_id") != FIELD).sort("unique_id", "ds")
    assert answer["base"] == "published"
    assert "revision 1" in answer["base_from"]
    assert wells["base"].to_list() == pytest.approx(forecast.sort("unique_id", "ds")["q50"].to_list())
    assert (told.filter(pl.col("unique_id") == FIELD)["base"] == 5000.0).all()
    assert told["change"].to_list() == pytest.approx(own["change"].to_list())


def test_a_publication_of_other_rows_is_not_the_base(spec: str, store: Store, tmp_path: Path) -> None:
    own = rows(ask(spec, store, tmp_path))
    publish(spec, store, own.select("unique_id", "ds", q50=pl.col("base") + 7.0), snapshot="other")

    answer = ask(spec, store, tmp_path)

    assert answer["base"] == "physical"
    assert "other rows" in answer["base_from"]


def test_voidage_is_shown_with_the_workloads_volume_factors(spec: str, tmp_path: Path) -> None:
    first = ask(spec, None, tmp_path)["voidage"][0]
    path = Path(spec)
    path.write_text(path.read_text().replace("water_fvf: 2.0", "water_fvf: 1.0"))
    plain = ask(str(path), None, tmp_path)["voidage"][0]

    assert first["vrr_case"] > first["vrr_base"] > 0
    assert first["vrr_base"] == pytest.approx(2.0 * plain["vrr_base"], rel=0.01)


def test_far_settings_are_counted_by_row(spec: str, tmp_path: Path) -> None:
    answer = ask(spec, None, tmp_path, "I03.wwir:+5000%")

    assert (
        answer["extrapolated"] == rows(answer).filter(pl.col("extrapolated"), pl.col("unique_id") != FIELD).height > 0
    )
    assert max(row["beyond"] for row in answer["wells"]) > 1


def test_the_helps_example_and_the_errors_example_work(spec: str, tmp_path: Path) -> None:
    from flows.cli import app

    shown = CliRunner().invoke(app, ["scenario", "--help"], env={"COLUMNS": "200"}).output
    with pytest.raises(ConfigError, match="INJ-3") as caught:
        ask(spec, None, tmp_path, "INJ-3.wwir:+10%")

    assert SETTING in shown
    assert SETTING in caught.value.remedy
    assert ask(spec, None, tmp_path, SETTING)["changed"] == ["I03"]
