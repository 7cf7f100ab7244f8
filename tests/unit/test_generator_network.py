"""The tank network obeys mass balance and reduces to CRMP."""

from __future__ import annotations

import numpy as np
import pytest

from nightcast.sources.generator.config import FieldConfig
from nightcast.sources.generator.field import Simulation, simulate_days
from nightcast.sources.generator.network import (
    PRESSURE_CAP,
    Feedback,
    Network,
    Schedule,
    Trajectory,
    simulate_network,
    steady_pressure,
)


@pytest.fixture(scope="module")
def small() -> Simulation:
    return simulate_days(FieldConfig(producers=12, injectors=4, months=60, seed=3))


def crm(connectivity: np.ndarray, theta: float, *, tau: float = 40.0, productivity: float = 1.3) -> Network:
    injectors, producers = connectivity.shape
    return Network(
        capacity=np.full(producers, productivity * tau),
        aquifer=np.zeros(producers),
        p_init=np.full(producers, 200.0),
        connectivity=connectivity,
        theta=np.full((injectors, producers), theta),
        exchange=np.zeros((producers, producers)),
    )


def changing_schedule(days: int, *, producers: int = 2, injectors: int = 2, productivity: float = 1.3) -> Schedule:
    rng = np.random.default_rng(0)
    return Schedule(
        is_open=np.ones((days, producers), dtype=bool),
        p_wf=100 + np.repeat(rng.normal(0, 5, (-(-days // 20), producers)), 20, axis=0)[:days],
        productivity=np.full((days, producers), productivity),
        injection=np.repeat(rng.uniform(50, 150, (-(-days // 30), injectors)), 30, axis=0)[:days],
    )


def test_mass_balance_of_every_tank_closes_each_day(small: Simulation) -> None:
    flow = small.flow

    stored = small.tanks.network.capacity * np.diff(flow.pressure, axis=0)
    net = flow.arriving + flow.from_aquifer + flow.from_neighbours - flow.rate - flow.spilled

    np.testing.assert_allclose(stored, net, atol=1e-9)


def test_mass_balance_of_the_field_closes_from_wellhead_to_wellhead(small: Simulation) -> None:
    flow, network = small.flow, small.tanks.network

    injected = float((flow.injection @ network.connectivity.sum(axis=1)).sum())
    gained = injected + float(flow.from_aquifer.sum())
    given = float(flow.rate.sum() + flow.spilled.sum())
    stored = float((network.capacity * (flow.pressure[-1] - flow.pressure[0])).sum())
    on_its_way = float((flow.in_transit[-1] - flow.in_transit[0]).sum())

    assert gained == pytest.approx(given + stored + on_its_way, rel=1e-9)
    assert injected > 10_000


def test_injected_water_is_lost_arrives_or_is_on_its_way(small: Simulation) -> None:
    flow, network = small.flow, small.tanks.network

    entering = flow.injection @ network.connectivity

    np.testing.assert_allclose(np.diff(flow.in_transit, axis=0), entering - flow.arriving, atol=1e-9)


def test_flow_between_tanks_creates_no_liquid(small: Simulation) -> None:
    assert np.abs(small.flow.from_neighbours).max() > 0.1
    np.testing.assert_allclose(small.flow.from_neighbours.sum(axis=1), 0.0, atol=1e-9)


def test_no_liquid_flows_between_fault_blocks(small: Simulation) -> None:
    block = small.layout.block
    apart = block[:, None] != block[None]

    assert apart.any()
    assert (small.tanks.network.exchange[apart] == 0).all()
    np.testing.assert_array_equal(small.tanks.network.exchange, small.tanks.network.exchange.T)


def test_network_is_crmp_when_wells_stay_open_and_nothing_else_feeds_the_tanks() -> None:
    tau, productivity, days = 40.0, 1.3, 400
    network = crm(np.array([[0.5, 0.3], [0.2, 0.6]]), theta=12.0, tau=tau, productivity=productivity)
    schedule = changing_schedule(days, productivity=productivity)
    arriving = network.connectivity * schedule.injection[0][:, None]
    pressure = np.array([150.0, 170.0])

    flow = simulate_network(network, schedule, pressure=pressure, arriving=arriving)

    # The textbook recursion of CRMP for steps of one day, q0 at the start of each day after the step in p_wf.
    keep = np.exp(-1 / tau)
    q = productivity * (pressure - schedule.p_wf[0])
    for day in range(days):
        if day:
            q = q - productivity * (schedule.p_wf[day] - schedule.p_wf[day - 1])
        mean = flow.arriving[day] + (q - flow.arriving[day]) * tau * (1 - keep)
        np.testing.assert_allclose(flow.rate[day], mean, rtol=1e-10)
        q = flow.arriving[day] + (q - flow.arriving[day]) * keep


def test_network_follows_a_direct_integration_of_the_crmp_equation() -> None:
    tau, theta, productivity, days, steps = 40.0, 12.0, 1.3, 200, 40
    network = crm(np.array([[0.5, 0.3], [0.2, 0.6]]), theta=theta, tau=tau, productivity=productivity)
    schedule = changing_schedule(days, productivity=productivity)
    arriving = network.connectivity * schedule.injection[0][:, None]

    flow = simulate_network(network, schedule, pressure=np.array([150.0, 170.0]), arriving=arriving)

    # tau dq/dt + q = sum_i w_i - J tau dp_wf/dt with theta dw/dt = f I - w, midpoint rule; p_wf changes at midnight.
    q = productivity * (np.array([150.0, 170.0]) - schedule.p_wf[0])
    w, dt = arriving.copy(), 1 / steps
    expected = np.empty((days, 2))
    for day in range(days):
        if day:
            q = q - productivity * (schedule.p_wf[day] - schedule.p_wf[day - 1])
        supply = network.connectivity * schedule.injection[day][:, None]
        total = np.zeros(2)
        for _ in range(steps):
            w_mid = w + 0.5 * dt * (supply - w) / theta
            q_mid = q + 0.5 * dt * (w.sum(axis=0) - q) / tau
            w = w + dt * (supply - w_mid) / theta
            q = q + dt * (w_mid.sum(axis=0) - q_mid) / tau
            total += q_mid * dt
        expected[day] = total
    np.testing.assert_allclose(flow.rate, expected, rtol=3e-4)


def run_one_well(is_open: np.ndarray) -> Trajectory:
    days = len(is_open)
    schedule = Schedule(
        is_open=is_open[:, None],
        p_wf=np.full((days, 1), 100.0),
        productivity=np.ones((days, 1)),
        injection=np.full((days, 1), 50.0),
    )
    network = crm(np.array([[0.8]]), theta=10.0, productivity=1.0)
    return simulate_network(network, schedule, pressure=np.array([140.0]), arriving=np.array([[40.0]]))


def test_a_shut_well_builds_pressure_and_flushes_after_it_reopens() -> None:
    is_open = np.ones(200, dtype=bool)
    is_open[50:80] = False

    flow = run_one_well(is_open)
    rate, pressure = flow.rate[:, 0], flow.pressure[:, 0]

    np.testing.assert_allclose(rate[:50], 40.0, rtol=1e-12)
    assert (rate[50:80] == 0).all()
    np.testing.assert_allclose(np.diff(pressure[50:81]), 40.0 / 40.0, rtol=1e-9)
    assert rate[80] > 1.5 * rate[49]
    assert (np.diff(rate[80:]) < 0).all()
    assert rate[-1] == pytest.approx(40.0, rel=0.06)


def test_flush_production_returns_exactly_what_was_held_back() -> None:
    is_open = np.ones(800, dtype=bool)
    is_open[50:80] = False

    with_outage, without = run_one_well(is_open), run_one_well(np.ones(800, dtype=bool))

    assert with_outage.rate.sum() == pytest.approx(without.rate.sum(), rel=1e-6)


def test_a_tank_below_the_bottom_hole_pressure_gives_nothing_and_takes_nothing() -> None:
    schedule = Schedule(
        is_open=np.ones((5, 1), dtype=bool),
        p_wf=np.full((5, 1), 150.0),
        productivity=np.ones((5, 1)),
        injection=np.zeros((5, 1)),
    )

    flow = simulate_network(
        crm(np.array([[0.8]]), theta=10.0), schedule, pressure=np.array([140.0]), arriving=np.zeros((1, 1))
    )

    assert (flow.rate == 0).all()
    np.testing.assert_array_equal(flow.pressure, 140.0)


def test_pressure_stops_at_the_cap_and_the_rest_is_counted_as_spilled() -> None:
    flow = run_one_well(np.zeros(400, dtype=bool))

    assert flow.pressure.max() == PRESSURE_CAP
    assert flow.spilled.sum() == pytest.approx(400 * 40.0 - 40.0 * (PRESSURE_CAP - 140.0))


def test_steady_pressure_stays_when_controls_stay(small: Simulation) -> None:
    network, days = small.tanks.network, 300
    count = len(network.capacity)
    is_open = np.arange(count) % 5 > 0
    injection = np.full((days, network.connectivity.shape[0]), 60.0)
    p_wf, productivity = np.full(count, 90.0), small.tanks.J0
    arriving = network.connectivity * 60.0
    settled = steady_pressure(
        network, is_open=is_open, p_wf=p_wf, productivity=productivity, arriving=arriving.sum(axis=0)
    )

    flow = simulate_network(
        network,
        Schedule(np.tile(is_open, (1, 1)), p_wf[None], productivity[None], injection[:1]),
        pressure=settled,
        arriving=arriving,
    )

    np.testing.assert_allclose(flow.pressure[1][is_open], settled[is_open], rtol=1e-12)
    assert (settled[~is_open] == network.p_init[~is_open]).all()


def test_feedback_raises_injection_as_pressure_falls() -> None:
    days = 120
    schedule = Schedule(
        is_open=np.ones((days, 1), dtype=bool),
        p_wf=np.full((days, 1), 60.0),
        productivity=np.ones((days, 1)),
        injection=np.full((days, 1), 50.0),
    )
    review = np.arange(days) % 30 == 0
    start = {"pressure": np.array([180.0]), "arriving": np.array([[40.0]])}
    network = crm(np.array([[0.8]]), theta=10.0)

    flow = simulate_network(network, schedule, feedback=Feedback(review), **start)

    decided = flow.injection[review, 0]
    assert decided[0] == 50.0
    assert (np.diff(decided[:3]) > 0).all()
    assert decided.max() <= 1.6 * 50.0
    assert (simulate_network(network, schedule, **start).injection == 50.0).all()
