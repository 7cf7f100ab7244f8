"""The capacitance-resistance model on small fields that are made by hand."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from nightcast.contracts.errors import ConfigError, SourceError
from nightcast.physics import Crm, CrmParams, Waterflood, fit_crm
from nightcast.physics.tank import arriving, respond
from nightcast.physics.waterflood import carried

PRODUCERS = np.array([[0.0, 0.0], [400.0, 0.0], [0.0, 400.0], [800.0, 400.0]])
INJECTORS = np.array([[200.0, 200.0], [600.0, 200.0]])
TRUE = np.array([[0.45, 0.05, 0.3, 0.0], [0.0, 0.4, 0.1, 0.35]])
QUICK = CrmParams(draws=50)


def make(months: int = 72, noise: float = 0.02, seed: int = 0, constant: bool = False) -> Waterflood:
    """Four producers, two injectors: CRMP by the day with a time constant of 45 days and J = 1.2 m3/d/bar."""
    rng = np.random.default_rng(seed)
    water = 300.0 * (np.ones((months, 2)) if constant else rng.uniform(0.3, 1.7, (months, 2)))
    pressure = 100.0 + np.cumsum(rng.normal(0, 3, (months, 4)), axis=0)
    uptime = np.where(rng.random((months, 4)) < 0.1, np.round(rng.uniform(12, 30, (months, 4))) / 30, 1.0)
    state, rate = water[0] @ TRUE + 30.0 + 1.2 * pressure[0], np.zeros((months, 4))
    for month in range(months):
        for day in range(30):
            is_open = day >= np.round(30 * (1 - uptime[month]))
            q = is_open * (state - 1.2 * pressure[month])
            state = state + (water[month] @ TRUE + 30.0 - q) / 45.0
            rate[month] += q / 30
    return Waterflood(
        days=np.full(months, 30.0),
        rate=np.maximum(rate, 0.0) * rng.lognormal(0, noise, rate.shape),
        uptime=uptime,
        pressure=pressure,
        injection=water,
        producers=PRODUCERS,
        injectors=INJECTORS,
    )


@pytest.fixture(scope="module")
def flood() -> Waterflood:
    return make()


@pytest.fixture(scope="module")
def crm(flood: Waterflood) -> Crm:
    return fit_crm(flood, QUICK)


def test_connectivities_of_a_small_field_are_found(crm: Crm) -> None:
    assert np.abs(crm.connectivity - TRUE).max() < 0.12
    assert np.abs(crm.connectivity - TRUE).mean() < 0.05
    assert (crm.identifiable | (TRUE < 0.2)).all()


def test_the_interval_holds_the_value_and_most_true_ones(crm: Crm) -> None:
    assert ((crm.low <= crm.connectivity) & (crm.connectivity <= crm.high)).all()
    assert ((crm.low <= TRUE) & (crm.high >= TRUE)).mean() >= 0.75
    assert (crm.high - crm.low).max() < 0.5


def test_a_steady_injection_arrives_unchanged_and_a_step_arrives_by_the_exponential() -> None:
    days, near = np.full(3, 30.0), np.zeros((1, 1), dtype=np.int64)
    step = np.array([[10.0], [10.0], [20.0]])

    water = arriving(step, days, np.full((1, 1), 60.0), near)[:, 0, 0]

    np.testing.assert_allclose(water[:2], 10.0)
    np.testing.assert_allclose(water[2], 20 - 10 * 60 / 30 * (1 - np.exp(-30 / 60)))


def test_an_open_tank_without_leak_is_the_capacitance_resistance_model() -> None:
    """q(t) = q0 e^{-t/tau} + w (1 - e^{-t/tau}), averaged over the month."""
    mean = respond(
        np.full((2, 1, 1), 50.0),
        np.full((1, 1), 80.0),
        uptime=np.ones((2, 1)),
        days=np.full(2, 30.0),
        tau=np.array([40.0]),
        leak=np.array([1e-12]),
        begin=np.array([0]),
    )[:, 0, 0]

    day = (np.arange(60_000) + 0.5) / 1000
    exact = 50 + 30 * np.exp(-day / 40)
    np.testing.assert_allclose(mean, [exact[:30_000].mean(), exact[30_000:].mean()], rtol=1e-6)


def test_a_shut_tank_fills_up_and_flushes_when_it_opens() -> None:
    uptime = np.array([[1.0], [0.0], [1.0]])
    state = respond(
        np.full((3, 1, 1), 50.0),
        np.full((1, 1), 50.0),
        uptime=uptime,
        days=np.full(3, 30.0),
        tau=np.array([40.0]),
        leak=np.array([1e-9]),
        begin=np.array([0]),
    )[:, 0, 0]

    np.testing.assert_allclose(state[0], 50.0, rtol=1e-6)
    np.testing.assert_allclose(state[1], 50 * (1 + 15 / 40), rtol=1e-6)  # half a month of filling, on average
    assert state[2] > 60


def test_hindcast_follows_the_measured_rate(flood: Waterflood, crm: Crm) -> None:
    error = np.abs(crm.hindcast(flood) - flood.rate).mean()

    assert error < 0.07 * flood.rate.mean()
    np.testing.assert_allclose(crm.hindcast(flood), crm.hindcast(flood, producing_day=True) * flood.uptime, rtol=1e-9)


def test_support_is_connectivity_times_delayed_injection(flood: Waterflood, crm: Crm) -> None:
    steady = replace(flood, injection=np.full_like(flood.injection, 100.0))

    np.testing.assert_allclose(crm.support(steady), np.tile(100 * crm.connectivity.sum(axis=0), (72, 1)))


def test_a_known_plan_beats_an_unknown_future(flood: Waterflood) -> None:
    past, ahead = flood.before(60), slice(60, 66)
    crm = fit_crm(past, QUICK)

    blind = crm.forecast(past, days=flood.days[ahead])
    known = crm.forecast(
        past,
        days=flood.days[ahead],
        uptime=flood.uptime[ahead],
        pressure=flood.pressure[ahead],
        injection=flood.injection[ahead],
    )

    assert np.abs(known - flood.rate[ahead]).mean() < 0.6 * np.abs(blind - flood.rate[ahead]).mean()
    assert np.abs(known - flood.rate[ahead]).mean() < 0.08 * flood.rate.mean()


def test_an_unknown_future_is_the_last_known_carried_on(flood: Waterflood, crm: Crm) -> None:
    days = flood.days[:3]
    plain = crm.forecast(flood, days=days)

    spelt_out = crm.forecast(
        flood,
        days=days,
        uptime=np.tile(flood.uptime[-12:].mean(axis=0), (3, 1)),
        pressure=np.tile(flood.pressure[-1], (3, 1)),
        injection=np.tile(flood.injection[-1], (3, 1)),
    )

    np.testing.assert_allclose(plain, spelt_out)
    np.testing.assert_allclose(plain, crm.forecast(flood, days=days, uptime=np.full((3, 4), np.nan)))


def test_a_shut_month_is_forecast_as_zero_and_flushes_after(flood: Waterflood, crm: Crm) -> None:
    uptime = np.ones((4, 4))
    plain = crm.forecast(flood, days=flood.days[:4], uptime=uptime)
    uptime[1, 0] = 0.0
    shut = crm.forecast(flood, days=flood.days[:4], uptime=uptime)

    assert shut[1, 0] == 0
    assert shut[2, 0] > plain[2, 0]
    np.testing.assert_array_equal(shut[:, 1:], plain[:, 1:])


def test_more_injection_helps_its_producers_and_no_other(flood: Waterflood, crm: Crm) -> None:
    base = np.tile(flood.injection[-1], (6, 1))
    more = base * [1.1, 1.0]
    gain = crm.forecast(flood, days=flood.days[:6], injection=more) - crm.forecast(
        flood, days=flood.days[:6], injection=base
    )

    strong, none = crm.connectivity[0] > 0.1, crm.connectivity[0] < 0.01
    assert (gain[-1, strong] > 0).all()
    assert np.abs(gain[-1, none]).max(initial=0) < 0.05 * gain[-1, strong].min()


def test_the_level_at_the_origin_is_carried_on(flood: Waterflood, crm: Crm) -> None:
    raised = replace(flood, rate=flood.rate * np.where(np.arange(72) >= 66, 1.3, 1.0)[:, None])

    change = crm.forecast(raised, days=flood.days[:6]) / crm.forecast(flood, days=flood.days[:6])

    assert (change[0] > 1.05).all()
    assert (change < 1.3).all()
    assert change[-1].mean() < change[0].mean()


def test_constant_injection_is_not_identifiable_and_keeps_the_map() -> None:
    crm = fit_crm(make(constant=True), QUICK)
    mirrored = fit_crm(replace(make(constant=True), rate=make(constant=True).rate[:, ::-1]), QUICK)

    assert not crm.identifiable.any()
    np.testing.assert_allclose(crm.connectivity.sum(axis=1), 1 - QUICK.loss)
    np.testing.assert_array_equal(crm.connectivity, mirrored.connectivity)  # whatever the producers did
    assert (crm.high - crm.low)[crm.connectivity > 0.1].min() > 0.1


def test_one_constant_injector_among_others_is_told_apart(flood: Waterflood) -> None:
    half = replace(flood, injection=np.where([False, True], 300.0, flood.injection))

    crm = fit_crm(half, QUICK)

    assert crm.identifiable[0].any()
    assert not crm.identifiable[1].any()


def test_missing_pressure_positions_and_months_are_no_obstacle(flood: Waterflood) -> None:
    rng = np.random.default_rng(1)
    torn = replace(
        flood,
        rate=np.where(rng.random(flood.rate.shape) < 0.2, np.nan, flood.rate),
        pressure=np.where(np.arange(4) < 2, np.nan, flood.pressure),
        producers=np.full_like(PRODUCERS, np.nan),
        injectors=np.full_like(INJECTORS, np.nan),
    )

    crm = fit_crm(torn, QUICK)

    assert np.abs(crm.connectivity - TRUE).mean() < 0.12
    assert np.isfinite(crm.hindcast(torn)).all()
    assert np.isfinite(crm.forecast(torn, days=flood.days[:6])).all()


def test_without_positions_and_changes_every_producer_gets_the_same() -> None:
    lost = replace(
        make(constant=True), producers=np.full_like(PRODUCERS, np.nan), injectors=np.full_like(INJECTORS, np.nan)
    )

    np.testing.assert_allclose(fit_crm(lost, QUICK).connectivity, 0.2)


def test_wells_and_injectors_may_start_late(flood: Waterflood) -> None:
    month = np.arange(72)[:, None]
    young = (month < [0, 40, 0, 68]) & np.ones((1, 4), dtype=bool)
    late = replace(
        flood,
        rate=np.where(young, np.nan, flood.rate),
        uptime=np.where(young, np.nan, flood.uptime),
        pressure=np.where(young, np.nan, flood.pressure),
        injection=np.where(month < [0, 24], np.nan, flood.injection),
    )

    crm = fit_crm(late, QUICK)

    assert np.isnan(crm.hindcast(late)[:40, 1]).all()
    assert np.isfinite(crm.hindcast(late)[40:, 1]).all()
    assert np.isfinite(crm.forecast(late, days=flood.days[:6])).all()
    assert not crm.identifiable[:, 3].any()  # four months are too few


def test_a_producer_that_never_produced_has_no_forecast_and_disturbs_no_other(flood: Waterflood) -> None:
    empty = replace(flood, rate=np.where([False, False, True, False], np.nan, flood.rate))
    empty = replace(empty, uptime=np.where([False, False, True, False], np.nan, empty.uptime))

    ahead = fit_crm(empty, QUICK).forecast(empty, days=flood.days[:2])

    assert np.isnan(ahead[:, 2]).all()
    assert np.isfinite(np.delete(ahead, 2, axis=1)).all()


def test_a_field_without_injectors_is_forecast_by_its_tanks(flood: Waterflood) -> None:
    dry = replace(flood, injection=np.zeros((72, 0)), injectors=np.zeros((0, 2)))

    crm = fit_crm(dry, QUICK)

    assert crm.connectivity.shape == (0, 4)
    assert (crm.support(dry) == 0).all()
    assert np.isfinite(crm.forecast(dry, days=flood.days[:6])).all()


def test_one_month_of_history_is_enough_to_say_something(flood: Waterflood) -> None:
    short = flood.before(1)

    ahead = fit_crm(short, QUICK).forecast(short, days=flood.days[:2])

    np.testing.assert_allclose(ahead[0], flood.rate[0] / flood.uptime[0] * flood.uptime[0], rtol=0.5)


def test_wells_that_produce_nothing_are_forecast_near_nothing(flood: Waterflood) -> None:
    nought = replace(flood, rate=np.where(np.arange(4) == 1, 0.0, flood.rate))

    ahead = fit_crm(nought, QUICK).forecast(nought, days=flood.days[:3])

    assert ahead[:, 1].max() < 0.05 * flood.rate[:, 1].mean()


def test_a_converted_producer_does_not_feed_itself(flood: Waterflood) -> None:
    moved = replace(flood, injectors=np.array([[0.0, 0.0], [600.0, 200.0]]))

    crm = fit_crm(moved, QUICK)

    assert crm.connectivity[0, 0] == 0
    assert np.isnan(crm.theta[0, 0])


def test_json_restores_every_bit(flood: Waterflood, crm: Crm) -> None:
    restored = Crm.from_json(json.loads(json.dumps(crm.to_json(), allow_nan=False)))

    for name in ("connectivity", "low", "high", "identifiable", "loss", "theta", "coefficients", "reference", "shape"):
        np.testing.assert_array_equal(getattr(restored, name), getattr(crm, name))
    assert restored.params == crm.params
    np.testing.assert_array_equal(
        restored.forecast(flood, days=flood.days[:6]), crm.forecast(flood, days=flood.days[:6])
    )


@pytest.mark.parametrize("damage", [{"format": 0}, {"tanks": {}}, {"connectivity": {"shape": [3], "values": [1.0]}}])
def test_a_damaged_file_is_refused(crm: Crm, damage: dict[str, object]) -> None:
    with pytest.raises(SourceError, match="saved CRM"):
        Crm.from_json({**crm.to_json(), **damage})


def test_the_same_seed_gives_the_same_intervals_and_another_the_same_fit(flood: Waterflood, crm: Crm) -> None:
    again, other = fit_crm(flood, QUICK), fit_crm(flood, QUICK, seed=1)

    np.testing.assert_array_equal(again.low, crm.low)
    np.testing.assert_array_equal(other.connectivity, crm.connectivity)
    assert (other.high != crm.high).any()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("days", np.zeros(72)),
        ("rate", np.full((72, 4), -1.0)),
        ("rate", np.ones((72, 3))),
        ("rate", np.full((72, 4), np.inf)),
        ("pressure", np.full((72, 4), np.inf)),
        ("uptime", np.full((72, 4), 1.5)),
        ("injection", np.full((72, 2), -5.0)),
        ("injectors", np.zeros((3, 2))),
    ],
)
def test_impossible_observations_are_refused_by_name(flood: Waterflood, name: str, value: np.ndarray) -> None:
    with pytest.raises(SourceError, match="waterflood"):
        replace(flood, **{name: value})


@pytest.mark.parametrize(
    "wrong",
    [
        {"recency": 0.0},
        {"recency": 1.5},
        {"loss": 1.0},
        {"spread": -1.0},
        {"length": 0.0},
        {"taus": ()},
        {"delays": (0.0,)},
        {"rounds": 0},
        {"draws": -1},
        {"discrepancy": 0.0},
    ],
)
def test_impossible_parameters_are_refused_by_name(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        CrmParams(**wrong)  # type: ignore[arg-type]


def test_other_wells_and_misshapen_plans_are_refused(flood: Waterflood, crm: Crm) -> None:
    fewer = replace(flood, injection=flood.injection[:, :1], injectors=INJECTORS[:1])

    with pytest.raises(SourceError, match="1 injectors"):
        crm.support(fewer)
    with pytest.raises(SourceError, match="plan of pressure"):
        crm.forecast(flood, days=flood.days[:3], pressure=np.ones((2, 4)))
    with pytest.raises(SourceError, match="uptime"):
        crm.forecast(flood, days=flood.days[:3], uptime=np.full((3, 4), 2.0))


def test_carrying_on_looks_back_only() -> None:
    values = np.array([[np.nan, 1.0], [2.0, np.nan], [np.nan, 3.0]])

    np.testing.assert_array_equal(carried(values), [[np.nan, 1.0], [2.0, 1.0], [2.0, 3.0]])
    np.testing.assert_array_equal(carried(values, 0.0)[0], [0.0, 1.0])
