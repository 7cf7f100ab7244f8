"""Arps curves: laws of the formulas, and fits that find what was planted."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nightcast.contracts.errors import ConfigError
from nightcast.physics.arps import KINDS, Decline, fit_decline, last_segment

RATES = st.floats(0.1, 1e5)
DECLINES = st.floats(1e-6, 1.5)
EXPONENTS = st.floats(0.0, 2.0)
TERMINALS = st.sampled_from([0.0, 0.001, 0.01, 0.05])
TIME = np.linspace(0.0, 240.0, 481)
QUICK = settings(max_examples=60, deadline=None)


@QUICK
@given(RATES, DECLINES, EXPONENTS, TERMINALS)
def test_rates_start_at_the_first_rate_and_never_rise(rate: float, decline: float, b: float, terminal: float) -> None:
    curve = Decline.of(rate, decline, b, terminal)

    rates = curve.rates(TIME)[0]

    assert rates[0] == pytest.approx(rate)
    assert (np.diff(rates) <= 1e-12 * rate).all()
    assert (rates > 0).all() or decline * TIME[-1] > 500


@QUICK
@given(DECLINES, EXPONENTS, TERMINALS)
def test_rate_and_decline_are_continuous_at_the_switch(decline: float, b: float, terminal: float) -> None:
    curve = Decline.of(100.0, decline, b, terminal)
    switch = float(curve.switch[0])
    if not np.isfinite(switch) or switch > 1e6:
        return
    around = np.array([switch * (1 - 1e-9), switch * (1 + 1e-9)])

    assert np.diff(curve.falls(around)[0])[0] == pytest.approx(0, abs=1e-8 * (1 + decline * switch))
    assert np.diff(curve.declines(around)[0])[0] == pytest.approx(0, abs=1e-6)
    assert curve.declines(np.array([switch * 2]))[0, 0] == terminal


@QUICK
@given(DECLINES, EXPONENTS, st.floats(1e-4, 0.1))
def test_a_modified_hyperbolic_is_the_hyperbolic_until_the_switch(decline: float, b: float, terminal: float) -> None:
    plain, modified = Decline.of(1.0, decline, b), Decline.of(1.0, decline, b, terminal)
    until = modified.switch[0] >= TIME

    assert np.allclose(modified.rates(TIME)[0, until], plain.rates(TIME)[0, until], rtol=1e-9)
    assert (modified.rates(TIME) <= plain.rates(TIME) * (1 + 1e-9)).all()


@QUICK
@given(DECLINES, EXPONENTS, TERMINALS)
def test_the_volume_is_the_integral_of_the_rate(decline: float, b: float, terminal: float) -> None:
    curve = Decline.of(10.0, decline, b, terminal)
    nodes, weights = np.polynomial.legendre.leggauss(30)
    edges = np.concatenate([[0.0], np.geomspace(1e-3, 100.0, 40)])
    switch = float(curve.switch[0])
    if switch < 100.0:
        # The curve has a kink in its second derivative there.
        edges = np.sort(np.append(edges, switch))
    half, middle = np.diff(edges) / 2, (edges[1:] + edges[:-1]) / 2
    at = middle[:, None] + half[:, None] * nodes

    integral = (curve.rates(at.ravel())[0].reshape(at.shape) * weights).sum(axis=1) @ half

    assert curve.volumes(np.array([100.0]))[0, 0] == pytest.approx(integral, rel=1e-7)
    assert curve.volumes(np.array([0.0]))[0, 0] == 0


@QUICK
@given(DECLINES, st.floats(1e-12, 1e-7))
def test_a_vanishing_exponent_gives_the_exponential(decline: float, b: float) -> None:
    near, limit = Decline.of(50.0, decline, b), Decline.of(50.0, decline, 0.0)
    time = TIME[decline * TIME < 50]

    assert np.allclose(near.rates(time), limit.rates(time), rtol=1e-3)
    assert np.allclose(near.volumes(time), limit.volumes(time), rtol=1e-3)
    assert np.allclose(limit.rates(time)[0], 50.0 * np.exp(-decline * time), rtol=1e-12)


def test_the_harmonic_is_what_the_book_says() -> None:
    curve = Decline.of(100.0, 0.1, 1.0)

    assert curve.rates(np.array([10.0]))[0, 0] == pytest.approx(50.0)
    assert curve.volumes(np.array([10.0]))[0, 0] == pytest.approx(100.0 / 0.1 * np.log(2.0))


def test_no_decline_is_a_constant_rate() -> None:
    for b in (0.0, 0.5, 1.0, 2.0):
        curve = Decline.of(7.0, 0.0, b)
        assert (curve.rates(TIME) == 7.0).all()
        assert np.allclose(curve.volumes(TIME)[0], 7.0 * TIME)


def test_a_curve_that_starts_below_its_terminal_decline_stays_as_it_is() -> None:
    curve = Decline.of(1.0, 0.01, 0.5, 0.02)

    assert curve.switch[0] == np.inf
    assert np.array_equal(curve.rates(TIME), Decline.of(1.0, 0.01, 0.5).rates(TIME))


@pytest.mark.parametrize(("b", "terminal"), [(0.3, 0.0), (0.8, 0.0), (1.0, 0.0), (1.6, 0.0), (0.8, 0.06), (1.4, 0.1)])
@pytest.mark.parametrize("decline", [0.15, 0.9, 3.0])
def test_rates_and_volumes_agree_with_petbox_dca(decline: float, b: float, terminal: float) -> None:
    dca = pytest.importorskip("petbox.dca", reason="petbox-dca, the oracle, is not installed")
    year = 365.25
    days = np.array([1.0, 30.0, 365.25, 2000.0, 9000.0])
    secant = 1.0 - (1.0 + decline * b) ** (-1.0 / b)
    oracle = dca.MH(120.0, secant, b, 1.0 - np.exp(-terminal))

    curve = Decline.of(120.0, decline / year, b, terminal / year)

    assert np.allclose(curve.rates(days)[0], oracle.rate(days), rtol=1e-8)
    assert np.allclose(curve.volumes(days)[0], oracle.cum(days), rtol=1e-6)


def panel(wells: int = 60, months: int = 48, noise: float = 0.0) -> tuple[Decline, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(4)
    true = Decline.of(rng.lognormal(4, 1, wells), rng.uniform(0.02, 0.12, wells), rng.uniform(0.1, 1.2, wells))
    time = np.tile(np.arange(months, dtype=float), (wells, 1))
    return true, time, true.rates(time) * rng.lognormal(0, noise, time.shape)


def test_the_fit_recovers_planted_parameters() -> None:
    true, time, rate = panel()

    found = fit_decline(time, rate, np.ones_like(rate), kind="hyperbolic", prior_b=(0.5, 100.0))

    assert np.allclose(found.rate, true.rate, rtol=1e-3)
    assert np.allclose(found.decline, true.decline, rtol=5e-3)
    assert np.allclose(found.b, true.b, atol=2e-2)


@pytest.mark.parametrize(("kind", "b"), [("exponential", 0.0), ("harmonic", 1.0)])
def test_the_fit_of_a_fixed_exponent_recovers_level_and_decline(kind: str, b: float) -> None:
    _, time, _ = panel()
    true = Decline.of(np.linspace(1, 900, len(time)), np.linspace(0.0, 0.3, len(time)), b)

    found = fit_decline(time, true.rates(time), np.ones_like(time), kind=kind)  # type: ignore[arg-type]

    assert np.allclose(found.decline, true.decline, atol=1e-5)
    assert np.allclose(found.rate, true.rate, rtol=1e-4)
    assert (found.b == b).all()


def test_the_fit_of_a_modified_hyperbolic_sees_past_the_switch() -> None:
    time = np.tile(np.arange(60, dtype=float), (3, 1))
    true = Decline.of([100.0, 50.0, 10.0], [0.2, 0.15, 0.3], [0.8, 1.1, 0.6], 0.03)
    assert (true.switch < 51).all()

    found = fit_decline(
        time, true.rates(time), np.ones_like(time), kind="modified", terminal=0.03, prior_b=(0.5, 100.0), rounds=80
    )

    assert np.allclose(found.decline, true.decline, rtol=0.02)
    assert np.allclose(found.b, true.b, atol=0.05)


def test_outliers_and_shut_months_do_not_bend_the_curve() -> None:
    true, time, rate = panel(noise=0.03)
    rng = np.random.default_rng(1)
    soiled = rate * np.where(rng.random(rate.shape) < 0.06, 100.0, 1.0)
    soiled[rng.random(rate.shape) < 0.06] = 0.0
    soiled[rng.random(rate.shape) < 0.06] = np.nan

    found = fit_decline(time, soiled, np.ones_like(rate), kind="hyperbolic")

    ahead = np.array([50.0])
    error = np.abs(np.log(found.rates(ahead) / true.rates(ahead)))
    assert np.median(error) < 0.03
    assert np.quantile(error, 0.9) < 0.12


def test_recent_months_weigh_more() -> None:
    time = np.tile(np.arange(40, dtype=float), (1, 1))
    rate = np.exp(np.where(time < 20, 4.0 - 0.1 * time, 2.0 - 0.01 * (time - 20)))

    even = fit_decline(time, rate, np.ones_like(rate), kind="exponential")
    late = fit_decline(time, rate, 0.5 ** ((39 - time) / 3), kind="exponential")

    assert late.decline[0] < 0.5 * even.decline[0]


def test_a_rising_rate_is_fitted_as_flat() -> None:
    time = np.tile(np.arange(24, dtype=float), (1, 1))

    found = fit_decline(time, np.exp(0.03 * time), np.ones_like(time), kind="hyperbolic")

    assert found.decline[0] == 0


def test_a_well_with_few_months_takes_the_prior_and_one_without_has_no_rate() -> None:
    time = np.tile(np.arange(24, dtype=float), (3, 1))
    rate = np.full(time.shape, np.nan)
    rate[0, 5:7] = 10.0
    rate[1, 5] = 10.0

    found = fit_decline(time, rate, np.ones_like(time), kind="exponential", prior_decline=(0.05, 0.001))

    assert found.decline[:2] == pytest.approx([0.05, 0.05], rel=0.02)
    assert found.rates(np.array([5.0]))[1, 0] == pytest.approx(10.0)
    assert np.isnan(found.rate[2])


@QUICK
@given(st.floats(1e-3, 1e6), st.sampled_from(KINDS), st.integers(0, 1000))
def test_the_fit_knows_no_unit_of_the_rate(times: float, kind: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    time = np.tile(np.arange(18, dtype=float), (2, 1))
    rate = np.exp(-0.05 * time + rng.normal(0, 0.1, time.shape))
    settings_ = {"kind": kind, "terminal": 0.005 if kind == "modified" else 0.0}

    one = fit_decline(time, rate, np.ones_like(time), **settings_)  # type: ignore[arg-type]
    other = fit_decline(time, rate * times, np.ones_like(time), **settings_)  # type: ignore[arg-type]

    assert np.allclose(other.rates(time), times * one.rates(time), rtol=1e-4)


@QUICK
@given(st.integers(0, 1000))
def test_wells_do_not_know_of_each_other(seed: int) -> None:
    rng = np.random.default_rng(seed)
    time = np.tile(np.arange(20, dtype=float), (5, 1))
    rate = np.exp(rng.normal(0, 0.5, time.shape) - 0.03 * time)
    order = rng.permutation(5)

    together = fit_decline(time, rate, np.ones_like(time), kind="hyperbolic")
    shuffled = fit_decline(time[order], rate[order], np.ones_like(time), kind="hyperbolic")
    alone = fit_decline(time[:1], rate[:1], np.ones_like(time[:1]), kind="hyperbolic")

    assert np.allclose(together.rates(time)[order], shuffled.rates(time), rtol=1e-9)
    assert np.allclose(together.rates(time)[:1], alone.rates(time[:1]), rtol=1e-9)


def test_the_last_segment_begins_at_the_last_lasting_step() -> None:
    rng = np.random.default_rng(2)
    time = np.tile(np.arange(48, dtype=float), (4, 1))
    rate = np.exp(4 - 0.02 * time + rng.normal(0, 0.05, time.shape))
    rate[1, 20:] *= 1.8
    rate[2, 12:] *= 0.5
    rate[2, 34:] *= 1.7
    rate[3, 25] *= 5.0

    kept = last_segment(time, rate, np.ones_like(rate))

    assert kept.argmax(axis=1).tolist() == [0, 20, 34, 0]


def test_a_steep_curved_decline_is_one_segment() -> None:
    rng = np.random.default_rng(3)
    time = np.tile(np.arange(36, dtype=float), (200, 1))
    rate = Decline.of(100.0, rng.uniform(0.1, 0.8, 200), rng.uniform(0.5, 1.5, 200)).rates(time)

    kept = last_segment(time, rate * rng.lognormal(0, 0.08, rate.shape), np.ones_like(rate))

    assert kept[:, 0].mean() > 0.97


def test_an_unknown_curve_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"'parabolic'.*harmonic"):
        fit_decline(np.zeros((1, 3)), np.ones((1, 3)), np.ones((1, 3)), kind="parabolic")  # type: ignore[arg-type]


def test_a_modified_hyperbolic_without_a_terminal_decline_is_refused() -> None:
    with pytest.raises(ConfigError, match="terminal decline"):
        fit_decline(np.zeros((1, 3)), np.ones((1, 3)), np.ones((1, 3)), kind="modified")


@pytest.mark.parametrize("wrong", [{"decline": -0.1}, {"b": 2.5}, {"decline": 0.1, "terminal": -1.0}])
def test_a_curve_out_of_range_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="of a decline curve is"):
        Decline.of(1.0, **{"decline": 0.1, **wrong})
