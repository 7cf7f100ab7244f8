"""Benchmarks of the wells: true effects of injection, scores of pairs, young wells, rows that all lines have."""

from __future__ import annotations

import functools
from datetime import datetime
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest

from benchmarks.wells_proofs import (
    given_weights,
    mean_curve,
    pair_rows,
    pair_scores,
    peer_origins,
    plain_scores,
    shared,
    true_answer,
    true_change,
    well_scores,
    with_oracle,
    young_rows,
    young_wells,
)
from nightcast.contracts.columns import CUTOFF, HORIZON, ID, MODEL, QUANTILES, TARGET, TIME
from nightcast.contracts.panel import PanelDataset
from nightcast.contracts.recipe import FoldPlan
from nightcast.contracts.schema import PanelSchema
from nightcast.contracts.source import RawData
from nightcast.sources.generator import FieldConfig
from nightcast.sources.generator.field import Simulation, simulate_days

MONTHS, BEGIN = 30, 24


@functools.cache
def simulation() -> Simulation:
    return simulate_days(FieldConfig(producers=6, injectors=2, months=MONTHS, seed=2))


def panel(wells: dict[str, tuple[int, list[float | None]]]) -> PanelDataset:
    """Wells by first month (from 2020 on) and rates; the panel ends with the last of them."""
    schema = PanelSchema(freq="MS", horizon=6, lower=0.0)
    rows = [
        {ID: name, TIME: schema.freq.shift(datetime(2020, 1, 1), first + at), TARGET: value}
        for name, (first, values) in wells.items()
        for at, value in enumerate(values)
    ]
    frame = pl.DataFrame(rows, schema={ID: pl.String, TIME: pl.Datetime("us"), TARGET: pl.Float64}).sort(ID, TIME)
    as_of = frame[TIME].max()
    assert isinstance(as_of, datetime)
    horizon = [{ID: name, TIME: schema.freq.shift(as_of, step), TARGET: None} for name in wells for step in range(1, 7)]
    ahead = pl.DataFrame(horizon, schema=frame.schema)
    return PanelDataset(pl.concat([frame, ahead]).sort(ID, TIME), schema, {}, as_of)


def test_a_field_simulated_again_without_a_change_does_not_change() -> None:
    for carried in (False, True):
        change, extra = true_change(simulation(), None, BEGIN, carried=carried)

        assert np.abs(change).max() == 0.0
        assert np.abs(extra).max() == 0.0


def test_more_water_gives_more_liquid_but_never_more_than_the_water() -> None:
    for carried in (False, True):
        change, extra = true_change(simulation(), 0, BEGIN, carried=carried)

        assert change.shape == (MONTHS - BEGIN, 6)
        assert change.min() >= -1e-9
        assert 0 < change.sum() <= extra.sum()


def test_the_effect_goes_where_the_connectivity_is() -> None:
    its = simulation()
    share = its.tanks.network.connectivity[0]

    change, _ = true_change(its, 0, BEGIN, carried=True)

    assert change.mean(axis=0)[share > 0.05].min() > change.mean(axis=0)[share == 0].max()


def answer_rows(told: dict[str, float], low: float, high: float) -> pl.DataFrame:
    return pl.DataFrame(
        [
            {ID: name, HORIZON: step, "change": value, "change_low": low, "change_high": high}
            for name, value in told.items()
            for step in (1, 2)
        ]
    )


def test_a_pair_is_right_if_it_answers_upward_and_off_by_its_relative_error() -> None:
    truth = np.array([[1.0, 2.0, 0.0, 0.5], [3.0, 2.0, 0.0, 0.5]])
    told = answer_rows({"a": 1.0, "b": 0.0, "c": 1.0, "d": 1.0, "field": 3.0}, 0.5, 1.5)

    pairs = pair_rows(told, truth, ["a", "b", "c", "d"], np.array([0.3, 0.2, 0.1, 0.01]), "I1")
    scores = pair_scores(pairs)

    assert pairs["producer"].to_list() == ["a", "b", "c", "d"]
    assert pairs["truth"].to_list() == [2.0, 2.0, 0.0, 0.5]
    assert pairs["inside"].to_list() == [0.5, 0.0, 0.0, 1.0]
    assert (scores["pairs"], scores["shut"]) == (2, 1)
    assert scores["sign"] == 0.5
    assert scores["median_error"] == pytest.approx(0.75)
    assert scores["told_over_true"] == pytest.approx(0.25)
    assert scores["inside_all"] == pytest.approx(0.375)


def nursery() -> PanelDataset:
    old: list[float | None] = [5.0] * 20
    return panel(
        {
            "old": (0, old),
            "new": (16, [9.0, 8.0, None, 7.0]),
            "dry": (17, [0.0, 0.0, 0.0]),
            "six": (14, [4.0] * 6),
        }
    )


def test_a_young_well_is_one_that_the_panel_saw_begin_a_few_months_ago() -> None:
    data = nursery()
    first = data.frame[TIME].min()
    assert isinstance(first, datetime)

    assert young_wells(data.view(data.as_of), first) == ["new"]


def test_rows_of_young_wells_are_those_of_the_wells_young_at_their_origin() -> None:
    data = nursery()
    rows = [
        {ID: name, TIME: data.schema.freq.shift(cutoff, 1), CUTOFF: cutoff, HORIZON: 1}
        for cutoff in (data.as_of, data.schema.freq.shift(data.as_of, -1))
        for name in ("old", "new", "dry", "six")
    ]
    frame = pl.DataFrame(rows).with_columns(pl.col(TIME, CUTOFF).cast(pl.Datetime("us")))

    found = young_rows(frame, data).sort(CUTOFF, ID)

    assert set(found.columns) == set(frame.columns)
    assert found.join(frame, on=frame.columns).height == found.height
    assert found[ID].to_list() == ["new", "six", "new"]


def test_the_mean_curve_is_that_of_rates_over_the_first_three_months() -> None:
    data = panel({"a": (0, [12.0, 10.0, 8.0, 6.0]), "b": (1, [6.0, 5.0, 4.0])})

    curve, wells = mean_curve(data.view(data.as_of))

    assert curve[:4] == pytest.approx([1.2, 1.0, 0.8, 0.6])
    assert np.isnan(curve[4:]).all()
    assert wells == {"a": (10.0, 4), "b": (5.0, 3)}


def forecast_rows(names: list[str], value: float, **more: Any) -> pl.DataFrame:
    return pl.DataFrame(
        [
            {ID: name, TIME: datetime(2020, 2, 1), CUTOFF: datetime(2020, 1, 1), HORIZON: 1, **more}
            | dict.fromkeys(QUANTILES, value)
            for name in names
        ]
    ).with_columns(pl.col(TIME, CUTOFF).cast(pl.Datetime("us")))


def test_lines_are_scored_on_the_rows_that_all_have() -> None:
    rows = shared({"x": forecast_rows(["a", "b"], 1.0), "y": forecast_rows(["c", "b"], 2.0)})

    assert {name: part[ID].to_list() for name, part in rows.items()} == {"x": ["b"], "y": ["b"]}


def test_pooled_r2_hides_what_r2_about_each_wells_mean_shows() -> None:
    y = [10.0, 12.0, 100.0, 102.0]
    rows = pl.DataFrame({ID: ["a", "a", "b", "b"], TARGET: y, "q50": [12.0, 10.0, 102.0, 100.0]})

    scores = plain_scores(rows)

    assert scores["MAE"] == scores["RMSE"] == 2.0
    assert scores["R2_pooled"] > 0.99
    assert scores["R2_within"] == scores["NSE_median"] == pytest.approx(-3.0)


def test_given_weights_average_the_rows_that_every_weighted_member_has() -> None:
    truth = panel({"a": (0, [1.0, 4.0]), "b": (0, [1.0, 5.0])})
    oof = pl.concat([forecast_rows(["a", "b"], 2.0, model="m"), forecast_rows(["a"], 6.0, model="n")])
    oof = pl.concat([oof, forecast_rows(["a"], 99.0, model="weightless")])
    its: Any = SimpleNamespace(
        recipe=SimpleNamespace(combiner=SimpleNamespace(weights={"m": 0.6, "n": 0.2})), data=truth
    )
    out: Any = SimpleNamespace(out_of_fold=lambda: oof.select(ID, TIME, CUTOFF, HORIZON, MODEL, *QUANTILES))

    rows = given_weights(out, its)

    assert rows[ID].to_list() == ["a"]
    assert rows["q50"].to_list() == pytest.approx([3.0])
    assert rows[TARGET].to_list() == [4.0]


def test_the_oracle_plans_what_will_come_and_nothing_else() -> None:
    schema = PanelSchema(freq="MS", horizon=1, covariates={"uptime": "past", "wwir": "past"})
    frame = pl.DataFrame({ID: ["a"], TIME: [datetime(2020, 1, 1)], TARGET: [1.0], "uptime": [0.5], "wwir": [3.0]})

    raw = with_oracle(RawData(frame, schema, datetime(2020, 1, 1), "here"), "uptime")

    assert raw.panel.covariates == {"uptime": "plan", "wwir": "past"}
    assert raw.plan is not None
    assert raw.plan.columns == [ID, TIME, "uptime"]


def test_a_peers_origins_do_not_overlap_and_are_the_latest() -> None:
    data = panel({"a": (0, [1.0] * 40)})
    recipe: Any = SimpleNamespace(folds=FoldPlan(cutoffs=20, refits=2))

    origins = peer_origins(data, recipe, 3)

    assert origins == [data.schema.freq.shift(data.as_of, -back) for back in (18, 12, 6)]


def test_a_lower_pressure_gives_more_and_a_well_shut_every_fifth_day_gives_less_but_not_by_more_than_a_fifth() -> None:
    field = simulation()
    days = field.months.days[BEGIN:]
    rate = field.months.sums(field.flow.rate)[BEGIN:, 0] / days

    assert (true_answer(field, 0, BEGIN, "wbhp") > 0).all()
    change = true_answer(field, 0, BEGIN, "uptime")
    assert (change < 0).all()
    assert -change.mean() < 0.25 * rate.mean()


def test_of_pressure_only_wells_with_a_gauge_are_scored() -> None:
    rows = pl.DataFrame(
        {
            "truth": [2.0, 4.0, 5.0],
            "told": [1.0, 4.0, 0.0],
            "inside": [1.0, 0.5, 0.0],
            "clear": [1.0, 1.0, 0.0],
            "gauged": [True, True, False],
        }
    )

    pressure, uptime = well_scores(rows, "wbhp"), well_scores(rows, "uptime")

    assert (pressure["wells"], pressure["not_answered"], uptime["wells"]) == (2, 1, 3)
    assert pressure["told_over_true"] == pytest.approx(5 / 6)
    assert pressure["inside"] == pytest.approx(0.75)
    assert uptime["sign"] == pytest.approx(2 / 3)
