"""Scenarios: what a setting means, and that the answer has the direction of the physics and the generator's truth."""

from __future__ import annotations

import functools
from datetime import datetime
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from models.fields import injectors_of
from nightcast.contracts.errors import ConfigError
from nightcast.contracts.panel import PanelView
from nightcast.sources.generator import FieldConfig, simulate_field
from nightcast.sources.spec import WorkloadFile
from workloads.panel import panel_workload
from workloads.scenario import FIELD, Answer, Change, parse_change, play

CONFIG = FieldConfig(producers=12, injectors=4, months=84, seed=3)


@functools.cache
def view() -> PanelView:
    spec = WorkloadFile.model_validate(
        {
            "name": "wells",
            "source": {"kind": "field_generator", "params": CONFIG.to_json()},
            "freq": "MS",
            "horizon": 6,
            "unit": "m3/d",
            "lower": 0,
            "features": ["status"],
        }
    )
    workload = panel_workload(spec, Path())
    raw = workload.source.read(as_of=None, data=None, now=datetime(2026, 1, 1))
    data = workload.prepare(raw, workload.gates.raw(raw), workload.recipe("ci"))
    found: PanelView = data.view(data.as_of)
    return found


@functools.cache
def answer(setting: str) -> Answer:
    return play(view(), [parse_change(setting)], draws=30, seed=1)


@pytest.mark.parametrize(
    ("text", "change"),
    [
        ("INJ-3.wwir:+10%", Change("INJ-3", "wwir", 0.1, True)),
        ("INJ-3.wwir:-2.5%", Change("INJ-3", "wwir", -0.025, True)),
        ("P*.uptime:0.9", Change("P*", "uptime", 0.9, False)),
        (" P1.wbhp = 80 ", Change("P1", "wbhp", 80.0, False)),
    ],
)
def test_a_setting_names_wells_a_column_and_a_value(text: str, change: Change) -> None:
    assert parse_change(text) == change


@pytest.mark.parametrize("text", ["INJ-3:+10%", "INJ-3.wwir", "INJ-3.wwir:+10", "INJ-3.wopr:5", "x.wwir:ten"])
def test_a_setting_that_cannot_be_meant_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="--set"):
        parse_change(text)


def test_a_well_that_is_not_there_is_named_with_those_that_are() -> None:
    with pytest.raises(ConfigError, match="NOBODY"):
        play(view(), [parse_change("NOBODY.wwir:+10%")], draws=1)


def test_more_injection_never_takes_from_a_well_and_is_felt_by_the_connected_ones() -> None:
    truth = simulate_field(CONFIG).truth
    injector = max(injectors_of(view()), key=lambda name: truth.connectivity[truth.injectors.index(name)].sum())
    share = truth.connectivity[truth.injectors.index(injector)]

    rows = answer(f"{injector}.wwir:+10%").rows.filter(pl.col("unique_id") != FIELD)

    assert (rows["change"] >= -1e-9).all()
    gained = dict(rows.filter(pl.col("horizon") == 6).select("unique_id", "change").iter_rows())
    felt = [gained[name] > 0 for name, f in zip(truth.producers, share, strict=True) if f > 0.05 and name in gained]
    assert np.mean(felt) >= 0.95


def test_the_gain_is_no_more_than_the_water_and_grows_as_it_arrives() -> None:
    injector = injectors_of(view())[0]
    last = view().support.filter(pl.col("unique_id") == injector)["wwir"].drop_nulls()[-1]

    field = answer(f"{injector}.wwir:+10%").rows.filter(pl.col("unique_id") == FIELD).sort("horizon")

    assert field["change"].max() <= 0.1 * last * 1.001
    assert field["change"].is_sorted()
    assert (field["change_low"] <= field["change"] + 1e-9).all()
    assert (field["change_high"] >= field["change"] - 1e-9).all()


def test_less_uptime_gives_less_in_proportion_at_first() -> None:
    rows = answer("P*.uptime:0").rows

    assert rows["case"].max() == pytest.approx(0.0, abs=1e-9)


def test_a_value_outside_what_a_well_has_seen_is_flagged() -> None:
    injector = injectors_of(view())[0]

    assert "outside" in answer(f"{injector}.wwir:+900%").flags[0]
    assert answer(f"{injector}.wwir:+0%").flags == ()


def test_nothing_changes_when_nothing_is_changed() -> None:
    rows = answer(f"{injectors_of(view())[0]}.wwir:+0%").rows

    assert rows["change"].abs().max() == 0.0


def test_the_sum_over_the_wells_is_the_field() -> None:
    rows = answer(f"{injectors_of(view())[0]}.wwir:+10%").rows
    sums = rows.filter(pl.col("unique_id") != FIELD).group_by("ds").agg(pl.col("case").sum()).sort("ds")

    assert np.allclose(sums["case"], rows.filter(pl.col("unique_id") == FIELD).sort("ds")["case"])
