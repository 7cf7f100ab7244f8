"""Laws that hold for the capacitance-resistance model of every field."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from nightcast.physics import Crm, CrmParams, Waterflood, fit_crm
from nightcast.physics.balance import Information, Prior, Slots, solve, split
from nightcast.physics.connectivity_prior import Pairs

QUICK = CrmParams(
    draws=20, rounds=1, taus=(30.0, 90.0), drifts=(0.05, 0.2), memories=(10.0,), noises=(0.05,), delays=(20.0,)
)
MONTHS = 30


@st.composite
def floods(draw: st.DrawFn) -> Waterflood:
    """A field of random wells with gaps, shut-ins, late starts, wells without gauges; rates that fit no model."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    producers, injectors = draw(st.integers(1, 5)), draw(st.integers(1, 3))
    shape = (MONTHS, producers)
    uptime = np.where(rng.random(shape) < 0.2, rng.random(shape), 1.0)
    uptime[rng.random(shape) < 0.1] = 0.0
    rate = uptime * rng.lognormal(4, 0.3, producers) * rng.lognormal(0, 0.15, shape)
    rate[rng.random(shape) < draw(st.sampled_from([0.0, 0.3]))] = np.nan
    pressure = np.where(rng.random(shape) < 0.2, np.nan, 100 + rng.normal(0, 5, shape))
    pressure[:, rng.random(producers) < 0.3] = np.nan
    water = 200 * rng.uniform(0, 2, (MONTHS, injectors)) * (rng.random((MONTHS, injectors)) > 0.05)
    water[: draw(st.integers(0, 10)), 0] = np.nan
    return Waterflood(
        days=rng.choice([28.0, 30.0, 31.0], MONTHS),
        rate=rate,
        uptime=uptime,
        pressure=pressure,
        injection=water,
        producers=rng.uniform(0, 1500, (producers, 2)),
        injectors=rng.uniform(0, 1500, (injectors, 2)),
    )


def permuted(field: Waterflood, j: np.ndarray, i: np.ndarray) -> Waterflood:
    return replace(
        field,
        rate=field.rate[:, j],
        uptime=field.uptime[:, j],
        pressure=field.pressure[:, j],
        injection=field.injection[:, i],
        producers=field.producers[j],
        injectors=field.injectors[i],
    )


@settings(max_examples=30, deadline=None)
@given(field=floods())
def test_no_injector_gives_more_than_it_injects_and_intervals_are_shares(field: Waterflood) -> None:
    crm = fit_crm(field, QUICK)

    assert (crm.connectivity >= 0).all()
    assert (crm.connectivity.sum(axis=1) <= 1 + 1e-12).all()
    np.testing.assert_allclose(crm.connectivity.sum(axis=1) + crm.loss, 1.0)
    assert (crm.low >= 0).all()
    assert (crm.low <= crm.connectivity).all()
    assert (crm.connectivity <= crm.high).all()
    assert (crm.high <= 1).all()
    assert (crm.connectivity[np.isnan(crm.theta)] == 0).all()


@settings(max_examples=20, deadline=None)
@given(field=floods(), cut=st.integers(1, MONTHS - 1))
def test_support_and_hindcast_of_a_month_depend_on_no_later_month(field: Waterflood, cut: int) -> None:
    crm = fit_crm(field, QUICK)
    rng = np.random.default_rng(cut)
    other = replace(
        field,
        rate=np.vstack([field.rate[:cut], rng.uniform(0, 500, field.rate[cut:].shape)]),
        pressure=np.vstack([field.pressure[:cut], rng.uniform(50, 150, field.pressure[cut:].shape)]),
        injection=np.vstack([field.injection[:cut], rng.uniform(0, 500, field.injection[cut:].shape)]),
    )

    np.testing.assert_array_equal(crm.support(other)[:cut], crm.support(field)[:cut])
    np.testing.assert_allclose(crm.support(field.before(cut)), crm.support(field)[:cut], rtol=1e-12)
    np.testing.assert_array_equal(crm.hindcast(other)[:cut], crm.hindcast(field)[:cut])


@settings(max_examples=20, deadline=None)
@given(field=floods())
def test_forecasts_are_never_negative_pure_and_not_a_number_only_without_a_past(field: Waterflood) -> None:
    crm, days = fit_crm(field, QUICK), np.full(6, 30.0)
    before = {name: getattr(field, name).copy() for name in ("rate", "uptime", "pressure", "injection")}

    first, second = crm.forecast(field, days=days), crm.forecast(field, days=days)

    np.testing.assert_array_equal(first, second)
    for name, value in before.items():
        np.testing.assert_array_equal(getattr(field, name), value)
    usable = (field.uptime >= QUICK.least_uptime) & ~np.isnan(field.rate)
    np.testing.assert_array_equal(np.isnan(first).all(axis=0), ~usable.any(axis=0))
    assert (first[:, usable.any(axis=0)] >= 0).all()


@settings(max_examples=20, deadline=None)
@given(field=floods(), seed=st.integers(0, 1000))
def test_the_order_of_wells_changes_nothing_but_the_order(field: Waterflood, seed: int) -> None:
    rng = np.random.default_rng(seed)
    j, i = rng.permutation(field.rate.shape[1]), rng.permutation(field.injection.shape[1])

    plain, other = fit_crm(field, QUICK), fit_crm(permuted(field, j, i), QUICK)

    np.testing.assert_allclose(other.connectivity, plain.connectivity[np.ix_(i, j)], atol=2e-3)
    days = np.full(3, 30.0)
    np.testing.assert_allclose(
        other.forecast(permuted(field, j, i), days=days), plain.forecast(field, days=days)[:, j], rtol=0.02, atol=0.1
    )


@settings(max_examples=15, deadline=None)
@given(field=floods(), turn=st.floats(0, 2 * np.pi), shift=st.floats(-5000, 5000))
def test_turning_and_moving_the_map_changes_no_connectivity(field: Waterflood, turn: float, shift: float) -> None:
    matrix = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    moved = replace(field, producers=field.producers @ matrix.T + shift, injectors=field.injectors @ matrix.T + shift)

    np.testing.assert_allclose(fit_crm(moved, QUICK).connectivity, fit_crm(field, QUICK).connectivity, atol=2e-3)


@settings(max_examples=15, deadline=None)
@given(field=floods(), factor=st.sampled_from([0.158987, 6.2898]))
def test_the_unit_of_volume_changes_no_connectivity(field: Waterflood, factor: float) -> None:
    other = replace(field, rate=field.rate * factor, injection=field.injection * factor)

    plain, scaled = fit_crm(field, QUICK), fit_crm(other, QUICK)

    np.testing.assert_allclose(scaled.connectivity, plain.connectivity, atol=2e-3)
    days = np.full(3, 30.0)
    np.testing.assert_allclose(
        scaled.forecast(other, days=days), factor * plain.forecast(field, days=days), rtol=0.02, atol=0.1
    )


@settings(max_examples=20, deadline=None)
@given(field=floods())
def test_a_saved_fit_is_the_fit(field: Waterflood) -> None:
    crm = fit_crm(field, QUICK)

    restored = Crm.from_json(crm.to_json())

    np.testing.assert_array_equal(restored.support(field), crm.support(field))
    np.testing.assert_array_equal(
        restored.forecast(field, days=np.full(2, 30.0)), crm.forecast(field, days=np.full(2, 30.0))
    )


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), strength=st.floats(0, 1e4))
def test_the_joint_solution_is_a_minimum_among_its_neighbours(seed: int, strength: float) -> None:
    """No step in any direction makes the connectivities more probable."""
    rng = np.random.default_rng(seed)
    pairs = Pairs.of(rng.uniform(0, 1000, (4, 2)), rng.uniform(0, 1000, (2, 2)), None, 10.0)
    slots, prior = Slots.of(pairs.allowed), Prior(0.2, 1.0, 0.6)
    width = slots.near.shape[1]
    root = rng.normal(size=(4, width, width)) * np.sqrt(strength)
    precision = root @ root.transpose(0, 2, 1)
    told = rng.uniform(0, 0.4, (4, width))  # what the data alone would say, breaking the balance at times
    information = Information(precision, np.einsum("jkl,jl->jk", precision, told))

    shares = solve(information, pairs, slots, prior, frozen=np.zeros(2, bool))

    def cost(state: np.ndarray) -> float:
        values, _ = split(state, pairs, slots, prior)
        f = slots.of_pairs(slots.to_matrix(values, 2))
        fit = 0.5 * np.einsum("jk,jkl,jl->", f, information.precision, f) - (information.score * f).sum()
        return float(fit + 0.5 * (state[:-3] ** 2).sum() + 0.5 * ((state[-3:] / [0.4, 0.7, 0.7]) ** 2).sum())

    best = cost(shares.state)
    for _ in range(20):
        step = rng.normal(size=len(shares.state))
        assert cost(shares.state + 0.05 * step) >= best - 1e-3 * (1 + abs(best))
