"""Two-part forecasts: shut-ins learned from the record, the mixture they make, and the rate by productivity."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.families.uptime import (
    GRID,
    Hazard,
    MixtureErrors,
    OnStream,
    ProductivityIndex,
    TwoPart,
    latest_known,
    on_stream_of,
    row_median,
    smoothed,
    smoothing_losses,
)
from models.grid import grid_of
from nightcast.contracts.columns import HORIZON, ID, QUANTILES, TARGET, TIME, Role
from nightcast.contracts.panel import PanelDataset, PanelView
from nightcast.contracts.schema import FeatureColumn, PanelSchema

AS_OF = datetime(2022, 12, 1)
NAN = float("nan")


def view_of(
    wells: Mapping[str, Mapping[str, Sequence[float]]],
    roles: Mapping[str, Role] | None = None,
    *,
    horizon: int = 3,
    plan: Mapping[str, Sequence[float]] | None = None,
) -> PanelView:
    """A view at the wells' common last month; `plan` gives the uptime or pressure of every well's months ahead."""
    schema = PanelSchema(freq="MS", horizon=horizon, lower=0.0, covariates=dict(roles or {}))
    parts = []
    for name, columns in wells.items():
        length = len(columns[TARGET])
        first = schema.freq.shift(AS_OF, 1 - length)
        values = {key: [*its, *[NAN] * horizon] for key, its in columns.items()}
        times = [schema.freq.shift(first, step) for step in range(length + horizon)]
        parts.append(pl.DataFrame({ID: [name] * len(times), TIME: times, **values}).with_columns(pl.col(TIME)))
    frame = pl.concat(parts).with_columns(
        pl.col(TIME).cast(pl.Datetime("us")),
        *(pl.col(key).cast(pl.Float64).fill_nan(None) for key in next(iter(wells.values()))),
    )
    given_plan = None
    if plan is not None:
        ahead = [schema.freq.shift(AS_OF, step) for step in range(1, horizon + 1)]
        given_plan = pl.concat(
            pl.DataFrame({ID: [name] * horizon, TIME: ahead, **plan}).with_columns(pl.col(TIME).cast(pl.Datetime("us")))
            for name in wells
        )
    columns_of = {name: FeatureColumn(role=role) for name, role in schema.covariates.items()}
    return PanelDataset(frame.sort(ID, TIME), schema, columns_of, as_of=AS_OF, plan=given_plan).view(AS_OF)


def values_of(model: Any, view: PanelView, series: str) -> np.ndarray:
    frame = model.predict(view).frame.filter(pl.col(ID) == series).sort(HORIZON)
    return np.asarray(frame.select(QUANTILES).to_numpy())


# -- what is known of a month ------------------------------------------------------------------------------------


def test_a_zero_is_a_shut_month_and_a_missing_one_is_unknown() -> None:
    past = OnStream.of(np.array([[5.0, 0.0, NAN, 4.0]]))

    assert past.share[0, [0, 1, 3]].tolist() == [1.0, 0.0, 1.0]
    assert np.isnan(past.share[0, 2])
    assert np.isnan(past.rate[0, 1:3]).all()


def test_a_missing_month_between_known_ones_counts_as_shut() -> None:
    view = view_of({"w": {TARGET: [NAN, 0.0, NAN, 5.0, NAN, NAN, 4.0, NAN]}})
    grid = grid_of(view)

    share = on_stream_of(view, grid).share[0]

    told = dict(zip(range(-len(share), 0), share, strict=True))
    assert [told[back] for back in (-4, -3)] == [0.0, 0.0]
    assert np.isnan(told[-1]), "after the last known month nobody knows yet"
    assert np.isnan(told[-6]), "before first production a well is not shut in"
    assert np.isnan(on_stream_of(view, grid, missing_is_shut=False).share[0, [-4, -3]]).all()


@pytest.mark.parametrize("step", range(1, 9))
def test_an_earlier_origin_knows_of_missing_months_what_a_forecast_made_then_would_have_known(step: int) -> None:
    values = [5.0, NAN, 4.0, NAN, NAN, 3.0, NAN, 2.0]

    def told(known: list[float]) -> OnStream:
        view = view_of({"w": {TARGET: known}})
        return on_stream_of(view, grid_of(view))

    later, then = told(values).before(step), told(values[:step])

    np.testing.assert_array_equal(later.share[0], then.share[0, -step:])
    np.testing.assert_array_equal(later.before(step).share, later.share)


def test_the_producing_day_rate_divides_by_uptime_where_that_is_believable() -> None:
    past = OnStream.of(np.array([[5.0, 0.2, 6.0, 0.0]]), np.array([[0.5, 0.05, NAN, 0.4]]))

    assert past.rate[0, 0] == 10.0
    assert np.isnan(past.rate[0, 1]), "a day or two on stream say nothing of a month's rate"
    assert past.rate[0, 2] == 6.0
    assert past.share[0, 3] == 0.0, "no volume, no days"


def test_a_volume_without_days_on_stream_counts_as_a_whole_month() -> None:
    assert OnStream.of(np.array([[5.0]]), np.array([[0.0]])).share[0, 0] == 1.0


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(st.sampled_from([NAN, 1.0, 2.0, 3.5]), min_size=7, max_size=7), min_size=1, max_size=4))
def test_the_latest_known_values_and_their_median_are_those_of_plain_lists(rows: list[list[float]]) -> None:
    values = np.array(rows)

    latest, middle = latest_known(values, 3), row_median(values)

    for row, its in enumerate(rows):
        known = [value for value in its if value == value]
        assert latest[row][np.isfinite(latest[row])].tolist() == known[::-1][:3]
        assert (middle[row] == np.median(known)) if known else np.isnan(middle[row])


# -- shut-ins -------------------------------------------------------------------------------------------------------


def simulated(wells: int, steps: int, begins: float, ends: float, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    off, out = np.zeros(wells, dtype=bool), np.empty((wells, steps))
    for step in range(steps):
        off = np.where(off, rng.random(wells) >= ends, rng.random(wells) < begins)
        out[:, step] = np.where(off, 0.0, 1.0)
    return out


def test_planted_probabilities_are_learned() -> None:
    hazard = Hazard.learn(simulated(200, 200, begins=0.05, ends=0.3))

    assert hazard.begins == pytest.approx([0.05] * 4, abs=0.012)
    assert hazard.ends[:4] == pytest.approx([0.3] * 4, abs=0.04)
    assert hazard.mean_duration() == pytest.approx(1 / 0.3, rel=0.1)


def test_probabilities_ahead_are_those_of_the_two_state_chain() -> None:
    share = simulated(300, 200, begins=0.04, ends=0.25, seed=1)
    hazard = Hazard.learn(share)

    shut = hazard.shut(share, 60)

    is_off = share[:, -1] == 0
    step = np.arange(1, 61)
    limit, decay = 0.04 / 0.29, (1 - 0.29) ** step
    assert shut[is_off].mean(axis=0) == pytest.approx(limit + (1 - limit) * decay, abs=0.06)
    assert shut[~is_off].mean(axis=0) == pytest.approx(limit - limit * decay, abs=0.03)


def test_a_well_that_was_shut_often_is_expected_to_be_shut_more_often() -> None:
    calm = simulated(40, 120, begins=0.01, ends=0.5)
    wild = simulated(10, 120, begins=0.25, ends=0.5, seed=3)
    share = np.vstack([calm, wild])
    share[:, -3:] = 1.0

    shut = Hazard.learn(share).shut(share, 1)[:, 0]

    assert shut[40:].min() > 3 * np.median(shut[:40])
    assert Hazard.learn(calm).begin_shape > Hazard.learn(share).begin_shape


def test_a_well_with_a_short_record_is_taken_for_an_average_one() -> None:
    share = simulated(60, 100, begins=0.1, ends=0.4)
    share[:5, :-1] = NAN
    share[:, -2:] = 1.0
    hazard = Hazard.learn(share)

    shut = hazard.shut(share, 1)[:5, 0]

    assert shut == pytest.approx([hazard.begins[0]] * 5, rel=0.35)


def test_an_unknown_last_month_moves_the_chain_one_step_on() -> None:
    share = simulated(50, 100, begins=0.05, ends=0.3)
    known = np.hstack([share, np.full((50, 2), NAN)])
    hazard = Hazard.learn(share)

    assert hazard.shut(known, 3) == pytest.approx(hazard.shut(share, 5)[:, 2:])


def test_long_shut_ins_end_less_often_if_the_record_says_so() -> None:
    rng = np.random.default_rng(0)
    share = np.ones((80, 90))
    for well in range(80):
        at = int(rng.integers(10, 30))
        share[well, at : at + 1] = 0.0
        if well % 2:
            share[well, 40:] = 0.0

    hazard = Hazard.learn(share)

    assert hazard.ends[0] > 0.3
    assert hazard.ends[-1] < 0.02


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000))
def test_probabilities_are_probabilities_whatever_the_record(seed: int) -> None:
    rng = np.random.default_rng(seed)
    share = rng.choice([NAN, 0.0, 0.4, 1.0], (4, 12))
    share[:, -3] = 1.0

    shut = Hazard.learn(share).shut(share, 8)

    assert ((shut >= 0) & (shut <= 1)).all()


# -- the mixture ------------------------------------------------------------------------------------------------------


def test_the_mixture_is_zero_up_to_the_probability_of_a_shut_month() -> None:
    offsets = np.tile((GRID - 0.5), (1, 1))
    errors = MixtureErrors(offsets, noise=0.1, floor=1e-6, counts=(100,))

    got = errors.quantiles(np.array([[10.0]]), np.array([2.0]), np.array([[0.25]]))[0, 0]

    assert (got[:2] == 0).all()
    levels = np.arange(1, 10) / 10
    assert got[2:] == pytest.approx(10.0 + 2.0 * ((levels[2:] - 0.25) / 0.75 - 0.5), abs=0.02)


@settings(max_examples=40, deadline=None)
@given(st.floats(0, 1), st.floats(0, 100), st.floats(0.01, 50))
def test_mixture_quantiles_rise_and_are_not_negative(shut: float, center: float, width: float) -> None:
    errors = MixtureErrors(np.sort(np.random.default_rng(0).normal(0, 1, (1, 99)), axis=1), 0.1, 1e-6, (500,))

    got = errors.quantiles(np.array([[center]]), np.array([width]), np.array([[shut]]))[0, 0]

    assert (np.diff(got) >= 0).all()
    assert (got >= 0).all()
    assert (got[4] == 0) or shut < 0.5


# -- the forecasts ----------------------------------------------------------------------------------------------------


def test_a_well_that_is_usually_down_for_a_month_is_back_in_the_forecast() -> None:
    wells = {}
    for well in range(12):
        y = np.full(60, 50.0) * np.random.default_rng(well).lognormal(0, 0.05, 60)
        y[8 + well :: 12] = 0.0
        y[-1] = 0.0 if well == 0 else y[-2]
        wells[f"w{well:02d}"] = {TARGET: y.tolist()}
    view = view_of(wells)

    got = values_of(TwoPart().fit(view, seed=1), view, "w00")

    assert got[0, 4] == pytest.approx(50.0, rel=0.15), "the last value, 0, is not carried on"
    assert got[0, 0] <= got[0, 4]


def test_a_well_that_has_been_shut_for_long_among_wells_that_stay_shut_is_forecast_as_shut() -> None:
    wells = {}
    for well in range(12):
        y = np.full(60, 50.0) * np.random.default_rng(well).lognormal(0, 0.05, 60)
        if well % 2:
            y[20 + well :] = 0.0
        wells[f"w{well:02d}"] = {TARGET: y.tolist()}
    view = view_of(wells)
    model = TwoPart().fit(view, seed=1)

    assert (values_of(model, view, "w01")[:, 4] == 0).all()
    assert (values_of(model, view, "w00")[:, 4] > 40).all()


def test_a_planned_uptime_is_taken_as_planned() -> None:
    rng = np.random.default_rng(0)
    wells = {}
    for well in range(8):
        uptime = np.where(rng.random(48) < 0.1, 0.0, rng.uniform(0.5, 1.0, 48))
        wells[f"w{well}"] = {TARGET: (40.0 * uptime).tolist(), "uptime": uptime.tolist()}
    view = view_of(wells, {"uptime": "plan"}, plan={"uptime": [1.0, 0.5, 0.0]})

    got = values_of(TwoPart().fit(view, seed=1), view, "w3")

    assert got[:2, 4] == pytest.approx([40.0, 20.0], rel=0.02)
    assert (got[2] == 0).all()


def test_without_a_plan_the_usual_uptime_of_producing_months_is_expected() -> None:
    wells = {f"w{k}": {TARGET: [24.0] * 40, "uptime": [0.8] * 40} for k in range(6)}
    wells["low"] = {TARGET: [12.0] * 40, "uptime": [0.4] * 40}
    view = view_of(wells, {"uptime": "past"})

    got = values_of(TwoPart(rate="median").fit(view, seed=1), view, "low")

    assert got[:, 4] == pytest.approx([12.0] * 3, rel=0.01)


@pytest.mark.parametrize("rate", ["median", "ses"])
def test_a_restart_at_part_uptime_does_not_lower_the_rate(rate: str) -> None:
    rng = np.random.default_rng(0)
    wells = {}
    for well in range(8):
        uptime = rng.uniform(0.85, 1.0, 40)
        uptime[-1] = 0.3
        wells[f"w{well}"] = {TARGET: (40.0 * uptime).tolist(), "uptime": uptime.tolist()}
    view = view_of(wells, {"uptime": "past"})

    got = values_of(TwoPart(rate=rate).fit(view, seed=1), view, "w1")

    assert got[0, 4] > 33.0


def test_a_well_that_never_produced_is_forecast_as_zero() -> None:
    wells = {f"w{k}": {TARGET: [24.0 + k] * 30} for k in range(6)} | {"dry": {TARGET: [0.0] * 30}}
    view = view_of(wells)

    assert (values_of(TwoPart().fit(view, seed=1), view, "dry")[:, 4] == 0).all()


def test_the_smoothing_weight_follows_the_noise() -> None:
    rng = np.random.default_rng(0)
    still = 50.0 + rng.normal(0, 5, (30, 80))
    walk = 500.0 + np.cumsum(rng.normal(0, 10, (30, 80)), axis=1)

    low, high = smoothing_losses(still).argmin(), smoothing_losses(walk).argmin()

    assert low < high
    assert smoothed(still, smoothing_losses(still)) == pytest.approx([50.0] * 30, abs=4.0)
    assert smoothed(walk, smoothing_losses(walk)) == pytest.approx(walk[:, -1], abs=20.0)


def test_noisy_wells_get_wider_intervals() -> None:
    rng = np.random.default_rng(0)
    wells = {f"w{k:02d}": {TARGET: (50 * rng.lognormal(0, 0.02 if k % 2 else 0.3, 60)).tolist()} for k in range(16)}
    view = view_of(wells)
    model = TwoPart().fit(view, seed=1)

    quiet, loud = values_of(model, view, "w01"), values_of(model, view, "w00")

    assert (loud[:, -1] - loud[:, 0] > 2.5 * (quiet[:, -1] - quiet[:, 0])).all()


# -- productivity --------------------------------------------------------------------------------------------------


def pumped(wells: int = 8, months: int = 60, *, known: float = 0.8, seed: int = 0) -> dict[str, dict[str, list[float]]]:
    """Wells with q = J (200 - p_wf); pressures wander, some gauges are silent."""
    rng = np.random.default_rng(seed)
    out = {}
    for well in range(wells):
        pressure = 90.0 + np.cumsum(rng.normal(0, 5, months))
        y = 0.5 * (well + 1) * (200.0 - pressure) * rng.lognormal(0, 0.01, months)
        seen = np.where(rng.random(months) < known, pressure, NAN)
        seen[-1] = pressure[-1]
        out[f"w{well}"] = {TARGET: y.tolist(), "wbhp": seen.tolist()}
    return out


def test_a_planned_drawdown_moves_the_rate() -> None:
    wells = pumped()
    low, high = (view_of(wells, {"wbhp": "plan"}, plan={"wbhp": [pressure] * 3}) for pressure in (70.0, 100.0))
    model = ProductivityIndex().fit(low, seed=1)

    for well in ("w0", "w5"):
        more, less = values_of(model, low, well)[0, 4], values_of(model, high, well)[0, 4]
        assert more / less == pytest.approx((200 - 70) / (200 - 100), rel=0.15)


def test_with_pressures_planned_it_beats_the_carried_rate() -> None:
    rng = np.random.default_rng(1)
    wells = pumped(known=1.0)
    ahead = rng.uniform(60, 120, 3)
    view = view_of(wells, {"wbhp": "plan"}, plan={"wbhp": ahead.tolist()})
    by_index, by_rate = ProductivityIndex().fit(view, seed=1), TwoPart().fit(view, seed=1)

    errors = np.zeros(2)
    for well in range(8):
        true = 0.5 * (well + 1) * (200.0 - ahead)
        for which, model in enumerate((by_index, by_rate)):
            errors[which] += np.abs(values_of(model, view, f"w{well}")[:, 4] - true).sum()
    assert errors[0] < 0.4 * errors[1]


def test_shut_in_pressures_are_the_reservoir_pressure() -> None:
    wells = pumped(known=1.0)
    for its in wells.values():
        its["uptime"] = [1.0] * 60
        for month in (20, 40):
            its["uptime"][month], its[TARGET][month], its["wbhp"][month] = 0.0, 0.0, 200.0
    view = view_of(wells, {"wbhp": "plan", "uptime": "past"}, plan={"wbhp": [60.0] * 3})

    got = values_of(ProductivityIndex().fit(view, seed=1), view, "w3")

    assert got[:, 4] == pytest.approx([2.0 * 140.0] * 3, rel=0.05)


def test_the_index_of_the_months_ahead_is_not_read() -> None:
    wells = pumped()
    view = view_of(wells, {"wbhp": "past"})
    model = ProductivityIndex().fit(view, seed=1)

    assert "wbhp" not in view.future.columns
    assert values_of(model, view, "w2").shape == (3, 9)


def test_wells_without_a_pressure_are_left_out_with_a_reason() -> None:
    wells = pumped()
    wells["blind"] = {TARGET: [30.0] * 60, "wbhp": [NAN] * 60}
    view = view_of(wells, {"wbhp": "past"})
    model = ProductivityIndex().fit(view, seed=1)

    forecast = model.forecast(view)

    assert set(forecast.left_out) == {"blind"}
    assert "bottom-hole pressure" in forecast.left_out["blind"]
    assert set(forecast.prediction.frame[ID]) == set(wells) - {"blind"}


def test_a_panel_without_pressures_leaves_every_well_out() -> None:
    view = view_of({f"w{k}": {TARGET: [30.0] * 30} for k in range(3)})

    forecast = ProductivityIndex().fit(view, seed=1).forecast(view)

    assert len(forecast.left_out) == 3
    assert forecast.prediction.frame.is_empty()


def test_a_thin_drawdown_falls_back_to_the_rate_and_is_counted() -> None:
    wells = pumped(known=1.0)
    for its in wells.values():
        its["uptime"] = [1.0] * 60
        its["uptime"][30], its[TARGET][30], its["wbhp"][30] = 0.0, 0.0, 200.0
    view = view_of(wells, {"wbhp": "plan", "uptime": "past"}, plan={"wbhp": [195.0] * 3})
    model = ProductivityIndex().fit(view, seed=1)

    forecast = model.forecast(view)

    assert [(note.code, note.rows) for note in forecast.notes if note.code == "thin_drawdown"] == [("thin_drawdown", 8)]
    assert (values_of(model, view, "w4")[:, 4] > 100.0).all(), "not 5 bar times the index"
