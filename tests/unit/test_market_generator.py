"""The market generator: its laws, its configuration, and the generated market as a source."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray

from nightcast.contracts.columns import BAR_COLUMNS
from nightcast.contracts.errors import ConfigError, SourceError
from nightcast.sources.catalog import open_source
from nightcast.sources.market import DIRT_KINDS, MarketConfig, simulate_market
from nightcast.sources.market.config import Instrument
from nightcast.sources.market.dirt import RATES
from nightcast.sources.market.simulate import Market, simulate_paths
from nightcast.sources.market.source import MarketSource
from nightcast.sources.spec import WorkloadFile

NOW = datetime(2026, 6, 15)
SMALL = MarketConfig(bars=1_200, seed=4)
EXACT = MarketConfig(symbols=("MES",), bars=60_000, bounce=False, rounding=False, volatility="flat", seed=2)  # type: ignore[arg-type]
"""Close to close returns are those of the law, to rounding error."""


def parts(market: Market, name: str = "MES") -> tuple[NDArray[np.float64], dict[str, NDArray[np.float64]]]:
    """Log returns of bars 1 to n - 1, and the truth."""
    close = market.bars.filter(pl.col("unique_id") == name)["close"].to_numpy()
    truth = market.truth.filter(pl.col("unique_id") == name)
    return np.diff(np.log(close)), {c.name: c.to_numpy() for c in truth}


def shocks(market: Market, name: str = "MES") -> NDArray[np.float64]:
    """The noise eps, from the bars and the truth by the declared law."""
    returns, truth = parts(market, name)
    return (returns - truth["kappa"][1:] * truth["sigma"][1:] * truth["signal"][:-1]) / truth["sigma"][1:]


def autocorrelation(x: NDArray[np.float64], lag: int) -> float:
    return float(np.corrcoef(x[lag:], x[:-lag])[0, 1])


# -- laws of the clean market ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kappa", [0.0, 0.02, 0.05, 0.1, 0.2])
def test_the_signal_predicts_the_next_return_as_strongly_as_kappa_says(kappa: float) -> None:
    returns, truth = parts(simulate_market(EXACT.with_(kappa=kappa)))

    ic = np.corrcoef(truth["signal"][:-1], returns)[0, 1]

    # r = sigma (kappa s + eps) with s and eps of variance 1
    assert abs(ic - kappa / np.sqrt(1 + kappa**2)) < 3 / np.sqrt(len(returns))


@pytest.mark.parametrize("difficulty", ["linear", "nonlinear", "long_memory"])
def test_what_the_law_leaves_of_a_return_is_white_noise_of_variance_one(difficulty: str) -> None:
    eps = shocks(simulate_market(EXACT.with_(kappa=0.1, difficulty=difficulty, volatility="on")))

    assert abs(eps.mean()) < 3 / np.sqrt(len(eps))
    assert eps.var() == pytest.approx(1.0, abs=0.05)
    assert all(abs(autocorrelation(eps, lag)) < 3.5 / np.sqrt(len(eps)) for lag in (1, 2, 10))


def test_the_noise_is_student_with_five_degrees_of_freedom() -> None:
    from scipy.stats import kstest, t

    eps = shocks(simulate_market(EXACT.with_(kappa=0.0)))

    assert kstest(eps * np.sqrt(5 / 3), t(5).cdf).pvalue > 0.01
    assert kstest(eps, "norm").pvalue < 1e-6


def test_the_signal_has_variance_one_and_a_half_life_of_34_bars() -> None:
    truth = simulate_market(EXACT.with_(bars=200_000)).truth
    signal = truth["signal"].to_numpy()

    # the variance of an AR(1)'s sample variance: 2 / n * (1 + rho^2) / (1 - rho^2)
    assert signal.var() == pytest.approx(1.0, abs=3 * np.sqrt(2 / 200_000 * 1.96 / 0.0396))
    assert autocorrelation(signal, 34) == pytest.approx(0.5, abs=0.04)
    assert np.log(0.5) / np.log(0.98) == pytest.approx(34.3, abs=0.05)


@pytest.mark.parametrize("difficulty", ["nonlinear", "long_memory"])
def test_harder_signals_are_standardised_too_and_made_of_the_observed_feature(difficulty: str) -> None:
    _, truth = parts(simulate_market(EXACT.with_(difficulty=difficulty, bars=200_000, rho=0.5, tau=0.3)))
    f, v = truth["feature"], 1 + 0.3**2

    if difficulty == "long_memory":
        expected = f[:-40] / np.sqrt(v)
    else:
        expected = (f[4:-3] * f[:-7] - 0.5**4) / np.sqrt(v**2 + 0.5**8)

    np.testing.assert_allclose(truth["signal"][-len(expected) :], expected, rtol=1e-12)
    assert truth["signal"].mean() == pytest.approx(0.0, abs=0.02)
    assert truth["signal"].var() == pytest.approx(1.0, abs=0.05)


def test_volumes_show_the_observed_feature_linearly_in_their_logarithm() -> None:
    market = simulate_market(EXACT.with_(tau=0.25, gain=0.6, volume_noise=0.15))
    _, truth = parts(market)
    logs = np.log(market.bars["volume"].to_numpy())

    slope, level = np.polyfit(truth["feature"], logs, 1)

    assert slope == pytest.approx(0.6, abs=0.005)
    assert level == pytest.approx(np.log(2000), abs=0.01)
    assert (logs - slope * truth["feature"] - level).std() == pytest.approx(0.15, abs=0.003)
    assert np.std(truth["feature"] - truth["hidden"]) == pytest.approx(0.25, abs=0.005)


def test_a_gain_of_nothing_hides_the_signal() -> None:
    market = simulate_market(EXACT.with_(gain=0.0, bars=20_000, rho=0.0))

    assert abs(np.corrcoef(np.log(market.bars["volume"].to_numpy()), market.truth["signal"])[0, 1]) < 0.025


def test_the_noise_of_two_symbols_correlates_as_declared() -> None:
    market = simulate_market(MarketConfig(bars=60_000, bounce=False, rounding=False, seed=6))

    assert np.corrcoef(shocks(market, "MES"), shocks(market, "MGC"))[0, 1] == pytest.approx(0.2, abs=0.03)
    assert abs(np.corrcoef(parts(market)[1]["signal"], parts(market, "MGC")[1]["signal"])[0, 1]) < 0.15


def test_flat_volatility_does_not_cluster_and_the_other_does() -> None:
    config = EXACT.with_(kappa=0.0)

    flat, on = (np.abs(parts(simulate_market(config.with_(volatility=v)))[0]) for v in ("flat", "on"))

    assert all(abs(autocorrelation(flat, lag)) < 3.5 / np.sqrt(len(flat)) for lag in (1, 2, 5, 20))
    assert autocorrelation(on, 1) > 0.2


@pytest.mark.parametrize(("calendar", "count"), [("continuous", 288), ("globex", 276), ("rth", 78)])
def test_volatility_follows_the_time_of_day(calendar: str, count: int) -> None:
    config = EXACT.with_(calendar=calendar, volatility="on", garch=(0.0, 0.0), regimes=(1.0, 1.0), kappa=0.0)
    market = simulate_market(config)
    returns, truth = parts(market)
    k = np.arange(len(truth["season"])) % count

    np.testing.assert_allclose(truth["season"], np.exp(0.6 * np.cos(2 * np.pi * k / count)), rtol=1e-12)
    np.testing.assert_allclose(truth["sigma"], 6e-4 * truth["season"], rtol=1e-12)
    measured = [returns[k[1:] == at].std() for at in (1, count // 2)]
    assert measured[0] / measured[1] == pytest.approx(np.exp(1.2), rel=0.35)


def test_regimes_last_800_bars_on_average_and_scale_volatility() -> None:
    config = EXACT.with_(volatility="on", garch=(0.0, 0.0), season=0.0, bars=400_000)
    [path] = simulate_paths(config)

    leaves = (np.diff(path.regime) != 0).mean()
    assert leaves == pytest.approx(1 / 800, abs=3 * np.sqrt(1 / 800 / 400_000))
    np.testing.assert_allclose(path.sigma, 6e-4 * np.where(path.regime == 0, 0.8, 1.8))


def test_garch_follows_its_recursion_and_has_mean_one() -> None:
    [path] = simulate_paths(EXACT.with_(volatility="on", season=0.0, regimes=(1.0, 1.0), bars=300_000, kappa=0.0))
    h = (path.sigma / 6e-4) ** 2
    eps = np.diff(np.log(np.append(5000.0, path.mid))) / path.sigma

    np.testing.assert_allclose(h[1:], 0.02 + (0.05 * eps[:-1] ** 2 + 0.93) * h[:-1], rtol=1e-6)
    assert h.mean() == pytest.approx(1.0, abs=0.05)


def test_kappa_changes_sign_where_told_and_vanishes_in_the_dead_regime() -> None:
    config = EXACT.with_(kappa=0.2, kappa_flip_at=0.6)
    returns, truth = parts(simulate_market(config))
    late = np.arange(1, config.bars) >= 36_000

    early_ic, late_ic = (np.corrcoef(truth["signal"][:-1][part], returns[part])[0, 1] for part in (~late, late))
    assert early_ic == pytest.approx(0.196, abs=0.02)
    assert late_ic == pytest.approx(-0.196, abs=0.02)

    _, dead = parts(simulate_market(config.with_(regime_dead=True)))
    assert set(dead["regime"]) == {0, 1}
    assert (dead["kappa"][dead["regime"] == 1] == 0).all()
    assert (np.abs(dead["kappa"][dead["regime"] == 0]) == 0.2).all()


def test_inner_prices_make_highs_and_lows_as_wide_as_a_walk_of_six_steps() -> None:
    market = simulate_market(EXACT.with_(kappa=0.0, df=1e6))
    bars = market.bars.select(BAR_COLUMNS).to_numpy()

    spread = (np.log(bars[:, 1]) - np.log(bars[:, 2])) / 6e-4

    # the expected range of n Gaussian steps: sum over k of sqrt(2 / (pi k)) times 2 / 2 (Spitzer 1956)
    spitzer = 2 * sum(np.sqrt(k / 6) * np.sqrt(1 / (2 * np.pi)) / k for k in range(1, 7))
    assert spread.mean() == pytest.approx(spitzer, rel=0.01)


def test_perfect_knowledge_earns_what_the_law_allows() -> None:
    returns, truth = parts(simulate_market(EXACT.with_(kappa=0.1)))
    gains = np.sign(truth["signal"][:-1]) * returns / 6e-4

    # E[kappa |s|] = 0.1 sqrt(2 / pi)
    assert gains.mean() == pytest.approx(0.1 * np.sqrt(2 / np.pi), abs=3 / np.sqrt(len(gains)))
    unknowing = np.sign(np.roll(truth["signal"], len(returns) // 2)[:-1]) * returns / 6e-4
    assert abs(unknowing.mean()) < 4 / np.sqrt(len(gains))


def test_bounce_puts_every_trade_half_a_tick_beside_the_middle() -> None:
    market = simulate_market(EXACT.with_(bounce=True, bars=5_000))
    off = market.bars["close"].to_numpy() - market.truth["mid"].to_numpy()

    np.testing.assert_allclose(np.abs(off), 0.125, atol=1e-9)
    assert abs((off > 0).mean() - 0.5) < 3 * 0.5 / np.sqrt(5_000)


# -- calendars -------------------------------------------------------------------------------------------------------


def test_globex_rests_an_hour_a_day_and_over_the_weekend() -> None:
    times = pl.Series(MarketConfig(calendar="globex", bars=276 * 10, start="2024-03-03").times())

    assert times[0] == datetime(2024, 3, 3, 23)
    assert times[275] == datetime(2024, 3, 4, 21, 55)
    assert times[276] == datetime(2024, 3, 4, 23)
    assert times[276 * 5 - 1] == datetime(2024, 3, 8, 21, 55)
    assert times[276 * 5] == datetime(2024, 3, 10, 23)


def test_regular_hours_have_78_bars_on_weekdays() -> None:
    times = pl.Series(MarketConfig(calendar="rth", bars=78 * 7, start="2024-03-07").times())

    assert times[0] == datetime(2024, 3, 7, 14, 30)
    assert times[77] == datetime(2024, 3, 7, 20, 55)
    assert set(times.dt.weekday()) == {1, 2, 3, 4, 5}
    assert times[78 * 2] == datetime(2024, 3, 11, 14, 30)


@pytest.mark.parametrize("calendar", ["continuous", "globex", "rth"])
@pytest.mark.parametrize("bars", [100, 1_379, 20_000, 281_060])
def test_without_a_start_every_market_ends_in_the_last_weeks_of_2024(calendar: str, bars: int) -> None:
    times = pl.Series(MarketConfig(calendar=calendar, bars=bars).times())  # type: ignore[arg-type]

    assert times.is_sorted()
    assert times.n_unique() == bars
    assert datetime(2024, 12, 11) < times[-1] < datetime(2025, 1, 1)


def test_a_start_on_a_closed_day_moves_to_the_next_session() -> None:
    assert MarketConfig(calendar="rth", start="2024-03-09").times(1)[0] == np.datetime64("2024-03-11T14:30")
    assert MarketConfig(calendar="globex", start="2024-03-08").times(1)[0] == np.datetime64("2024-03-10T23:00")


# -- layers and determinism ------------------------------------------------------------------------------------------


def test_the_same_configuration_gives_the_same_bytes_in_a_fresh_process() -> None:
    config = SMALL.with_(dirt=1.0, calendar="rth")
    code = (
        "import json, sys; from nightcast.sources.market import MarketConfig, simulate_market;"
        "m = simulate_market(MarketConfig.from_params(json.loads(sys.argv[1])));"
        "from nightcast.contracts.hashing import hash_frame;"
        "print(m.hash, hash_frame(m.truth), hash_frame(m.ledger))"
    )
    import json

    from nightcast.contracts.hashing import hash_frame

    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps(config.to_json())],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "PYTHONHASHSEED": "7"},
    )

    market = simulate_market(config)
    assert done.stdout.split() == [market.hash, hash_frame(market.truth), hash_frame(market.ledger)]
    assert simulate_market(config.with_(seed=5)).hash != market.hash


@pytest.mark.parametrize(
    ("change", "kept"),
    [
        ({"kappa": 0.0}, ("hidden", "feature", "regime", "season", "sigma", "volume")),
        ({"volatility": "flat"}, ("hidden", "feature", "signal", "regime", "eps")),
        ({"tau": 0.0}, ("hidden", "regime", "sigma", "eps", "prices")),
        ({"gain": 0.0}, ("hidden", "feature", "sigma", "prices")),
        ({"volume_noise": 0.0}, ("hidden", "feature", "sigma", "prices")),
        ({"bounce": False}, ("hidden", "feature", "sigma", "mid", "volume")),
        ({"rounding": False}, ("hidden", "feature", "sigma", "mid")),
        ({"rho": 0.0}, ("regime", "sigma", "eps")),
        ({"correlation": 0.0}, ("hidden", "feature", "signal", "regime")),
        ({"symbols": ("MES",)}, ("hidden", "feature", "sigma", "prices", "volume", "eps")),
        ({"difficulty": "nonlinear"}, ("hidden", "feature", "sigma", "volume", "eps")),
        ({"dirt": 1.0}, ("hidden", "feature", "sigma", "mid", "prices", "volume", "eps")),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_switching_one_layer_leaves_the_draws_of_the_others(change: dict[str, Any], kept: tuple[str, ...]) -> None:
    before, after = SMALL, SMALL.with_(**change)

    def values(config: MarketConfig, name: str) -> NDArray[np.float64]:
        path = simulate_paths(config)[0]
        if name != "eps":
            return np.asarray(getattr(path, name), dtype=np.float64)
        returns = np.diff(np.log(np.append(5000.0, path.mid)))[1:]
        return np.asarray(returns / path.sigma[1:] - path.kappa[1:] * path.signal[:-1])

    for name in kept:
        np.testing.assert_allclose(values(after, name), values(before, name), rtol=1e-6, atol=1e-8, err_msg=name)
    everything = ("hidden", "feature", "signal", "sigma", "prices", "volume", "kappa")
    if "dirt" not in change and "symbols" not in change:
        assert any(not np.allclose(values(after, name), values(before, name)) for name in everything)


def test_more_bars_only_add_to_the_end() -> None:
    config = SMALL.with_(start="2024-01-01", volatility="on", regimes=(0.8, 1.8, 3.0))
    short, long = simulate_market(config), simulate_market(config.with_(bars=2_000))

    first = long.bars.filter(pl.col("ds") <= short.bars["ds"].max())
    assert first.equals(short.bars)


# -- dirt ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def dirty() -> Market:
    return simulate_market(MarketConfig(bars=12_000, calendar="globex", dirt=2.0, seed=8))


@pytest.fixture(scope="module")
def clean(dirty: Market) -> Market:
    return simulate_market(dirty.config.with_(dirt=0.0))


def test_a_clean_market_has_an_empty_ledger(clean: Market) -> None:
    assert clean.ledger.is_empty()
    assert clean.washed().equals(clean.bars)


@pytest.mark.parametrize("calendar", ["continuous", "globex", "rth"])
def test_washing_off_the_dirt_gives_the_clean_bars_back(calendar: str) -> None:
    config = MarketConfig(bars=6_000, calendar=calendar, dirt=3.0, seed=9)  # type: ignore[arg-type]
    dirty, clean = simulate_market(config), simulate_market(config.with_(dirt=0.0))

    assert not dirty.bars.equals(clean.bars)
    assert dirty.washed().equals(clean.bars)
    assert dirty.truth.equals(clean.truth)


def test_every_kind_of_dirt_happens_to_every_symbol(dirty: Market) -> None:
    found = dirty.ledger.group_by("unique_id").agg(pl.col("kind").unique())

    assert all(set(kinds) == set(DIRT_KINDS) for kinds in found["kind"])


def test_nothing_is_soiled_that_is_not_in_the_ledger(dirty: Market, clean: Market) -> None:
    """Bars that no entry names differ from the clean ones by the level of the gaps alone."""
    gaps = (
        dirty.ledger.filter(pl.col("shift").is_not_null()).group_by("unique_id", "ds_true").agg(pl.col("shift").sum())
    )
    levels = gaps.sort("unique_id", "ds_true").with_columns(pl.col("shift").cum_sum().over("unique_id").alias("level"))
    expected = clean.bars.join_asof(
        levels.select("unique_id", pl.col("ds_true").alias("ds"), "level"),
        on="ds",
        by="unique_id",
        check_sortedness=False,
    ).with_columns(pl.col(c) + pl.col("level").fill_null(0.0) for c in BAR_COLUMNS[:4])
    named = dirty.ledger.filter(pl.col("shift").is_null())

    untouched = dirty.bars.join(named, on=["unique_id", "ds"], how="anti")
    both = untouched.join(expected, on=["unique_id", "ds"], how="left", suffix="_clean")

    assert untouched.height > 8_000
    assert both["open_clean"].null_count() == 0
    for column in BAR_COLUMNS:
        np.testing.assert_allclose(both[column], both[f"{column}_clean"], atol=1e-9)


def test_each_defect_looks_as_its_name_says(dirty: Market) -> None:
    bars = dirty.bars.with_row_index("row")
    late = dirty.ledger.filter(pl.col("kind") == "dst_shift")
    assert (late["ds"] - late["ds_true"]).unique().to_list() == [timedelta(hours=1)]

    def entries(*kinds: str) -> pl.DataFrame:
        return dirty.ledger.filter(pl.col("kind").is_in(kinds))

    def found(kind: str) -> pl.DataFrame:
        return entries(kind).join(bars, on=["unique_id", "ds"], how="inner", suffix="_now")

    assert entries("missing_bar", "missing_burst").join(bars, on=["unique_id", "ds"], how="semi").is_empty()
    bursts = entries("missing_burst").group_by("unique_id", "event").len()
    assert set(bursts["len"]) == {12}
    assert (found("zero_volume")["volume_now"] == 0).all()
    broken = found("ohlc_violation").with_columns(
        low_ok=pl.col("low_now") <= pl.min_horizontal("open_now", "close_now"),
        high_ok=pl.col("high_now") >= pl.max_horizontal("open_now", "close_now"),
    )
    assert not (broken["low_ok"] & broken["high_ok"]).any()
    twice = bars.group_by("unique_id", "ds").len().filter(pl.col("len") > 1).drop("len")
    assert twice.sort("unique_id", "ds").equals(
        entries("duplicate_stamp").select("unique_id", "ds").sort("unique_id", "ds")
    )
    assert set(entries("duplicate_stamp")["detail"]) == {"exact copy", "copy with other prices"}
    stale = found("stale_run").sort("unique_id", "event", "ds")
    for _, run in stale.group_by("unique_id", "event"):
        before = bars.filter(pl.col("row") == run["row"].min() - 1)  # type: ignore[operator]
        assert run.select("open_now", "high_now", "low_now", "close_now", "volume_now").unique().height == 1
        assert before.select(BAR_COLUMNS).row(0) == run.select([f"{c}_now" for c in BAR_COLUMNS]).row(0)


def test_bad_ticks_jump_thirty_sigmas_and_are_gone_the_next_bar(dirty: Market) -> None:
    bad = dirty.ledger.filter(pl.col("kind") == "bad_tick").join(
        dirty.truth, left_on=["unique_id", "ds_true"], right_on=["unique_id", "ds"]
    )
    bars = dirty.bars.with_columns(pl.col("close").shift(-1).over("unique_id").alias("next"))
    seen = bad.join(bars, on=["unique_id", "ds"], suffix="_now")

    jump = (seen["close_now"] / seen["close"] - 1).abs() / seen["sigma"]
    back = (seen["next"] / seen["close"] - 1).abs() / seen["sigma"]
    assert seen.height == bad.height > 0
    assert jump.to_numpy() == pytest.approx(30.0, abs=0.5)
    assert back.max() < 12  # type: ignore[operator]
    assert (seen["high_now"] >= seen["close_now"]).all()
    assert (seen["low_now"] <= seen["close_now"]).all()


def test_overnight_gaps_have_a_deviation_of_four_sigmas() -> None:
    config = MarketConfig(bars=78 * 800, calendar="rth", dirt=1.0, volatility="flat", kappa=0.0, seed=3)
    ledger = simulate_market(config).ledger.filter(pl.col("kind") == "overnight_gap")
    clean = simulate_market(config.with_(dirt=0.0)).bars.with_columns(
        pl.col("close").shift(1).over("unique_id").alias("before")
    )
    sized = ledger.join(clean, left_on=["unique_id", "ds_true"], right_on=["unique_id", "ds"], suffix="_clean")

    sigmas = (sized["shift"] / sized["before"] / 6e-4).to_numpy()

    assert sigmas.std() == pytest.approx(4.0, rel=3 / np.sqrt(2 * len(sigmas)))
    assert abs(sigmas.mean()) < 3 * 4 / np.sqrt(len(sigmas))


def test_a_market_that_never_closes_has_no_overnight_gaps() -> None:
    kinds = set(simulate_market(SMALL.with_(dirt=1.0)).ledger["kind"])

    assert "overnight_gap" not in kinds
    assert {"roll_gap", "missing_bar", "bad_tick"} <= kinds


@pytest.mark.parametrize("off", DIRT_KINDS)
def test_switching_off_one_kind_of_dirt_leaves_the_others_where_they_were(dirty: Market, off: str) -> None:
    kinds = tuple(kind for kind in DIRT_KINDS if kind != off)
    without = simulate_market(dirty.config.with_(dirt_kinds=kinds))
    what = ["unique_id", "ds_true", "kind", "event"]

    assert (
        without.ledger.select(what)
        .sort(what)
        .equals(dirty.ledger.filter(pl.col("kind") != off).select(what).sort(what))
    )
    assert without.washed().equals(dirty.washed())


def test_rates_of_dirt_are_those_declared() -> None:
    config = MarketConfig(bars=100_000, dirt=1.0, symbols=("MES",), seed=1)  # type: ignore[arg-type]
    counts = dict(simulate_market(config).ledger.group_by("kind").agg(pl.col("event").n_unique()).iter_rows())

    for kind, rate in RATES.items():
        expected = rate * 100_000
        assert counts[kind] == pytest.approx(expected, abs=4 * np.sqrt(expected) + 0.05 * expected), kind


# -- configuration ---------------------------------------------------------------------------------------------------


def test_a_configuration_survives_json() -> None:
    import json

    config = MarketConfig(kappa_flip_at=0.5, calendar="rth", start="2020-01-01", dirt=0.5, dirt_kinds=("bad_tick",))

    assert MarketConfig.from_params(json.loads(json.dumps(config.to_json()))) == config
    assert hash(config) == hash(MarketConfig.from_params(config.to_json()))


def test_yaml_reads_on_as_true_and_the_market_understands() -> None:
    assert MarketConfig.from_params({"volatility": True}).volatility == "on"
    assert MarketConfig.from_params({"volatility": False}).volatility == "flat"


def test_sizes_name_numbers_of_bars_and_bars_overrule_them() -> None:
    assert MarketConfig.from_params({"size": "small"}).bars == 5_000
    assert MarketConfig.from_params({"size": "small", "bars": 300}).bars == 300


def test_symbols_are_names_or_described() -> None:
    config = MarketConfig.from_params({"symbols": ["MGC", {"name": "X", "price": 10, "tick": 0.05}]})

    assert config.names == ("MGC", "X")
    assert config.symbols[1] == Instrument("X", price=10.0, tick=0.05)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"kapa": 0.1}, r"unknown parameter\(s\) \['kapa'\]"),
        ({"kappa": 2}, "kappa of a generated market is 2.0; expected a number from -1 to 1"),
        ({"kappa": float("nan")}, "kappa of a generated market is nan"),
        ({"kappa": "strong"}, "kappa of a generated market is 'strong'"),
        ({"bars": 10}, "bars of a generated market is 10; expected a whole number of at least 100"),
        ({"bars": 1000.0}, "bars of a generated market is 1000.0"),
        ({"seed": -1}, "seed of a generated market is -1"),
        ({"size": "huge"}, "size of a generated market is 'huge'; expected one of small, default, scale"),
        ({"calendar": "nyse"}, "calendar of a generated market is 'nyse'"),
        ({"difficulty": "hard"}, "difficulty of a generated market is 'hard'"),
        ({"volatility": "wild"}, "volatility of a generated market is 'wild'"),
        ({"rho": 1}, "rho of a generated market is 1.0"),
        ({"df": 2}, "df of a generated market is 2.0"),
        ({"kappa_flip_at": 1.5}, "kappa_flip_at of a generated market is 1.5"),
        ({"regimes": [1.0]}, "regimes of a generated market is"),
        ({"garch": [0.2, 0.9]}, "garch of a generated market is"),
        ({"symbols": ["EURUSD"]}, "a symbol of a generated market is 'EURUSD'"),
        ({"symbols": ["MES", "MES"]}, "expected names that differ"),
        ({"symbols": []}, "symbols of a generated market is"),
        ({"symbols": [{"name": "X", "price": 1, "tick": 0.1}]}, "at least 100 ticks"),
        ({"symbols": [{"name": "X", "tick": 0}]}, "tick of instrument X of a generated market is 0.0"),
        ({"start": "soon"}, "start of a generated market is 'soon'"),
        ({"freq": "7min"}, "freq of a generated market is '7min'"),
        ({"freq": "D"}, "freq of a generated market is 'D'"),
        ({"dirt": -1}, "dirt of a generated market is -1.0"),
        ({"dirt_kinds": ["mud"]}, "dirt_kinds of a generated market is"),
        ({"bounce": 1}, "bounce of a generated market is 1"),
    ],
)
def test_a_wrong_parameter_is_named_with_what_was_expected(params: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        MarketConfig.from_params(params)


def test_gaps_that_would_take_a_price_below_a_tick_are_an_error() -> None:
    config = MarketConfig(
        symbols=(Instrument("X", price=1.0, tick=0.01),),
        calendar="rth",
        freq="30min",
        bars=13 * 300,
        sigma_bps=400,
        dirt=1,
    )

    with pytest.raises(ConfigError, match="price gaps take X down to"):
        simulate_market(config)


# -- saving and the source -------------------------------------------------------------------------------------------


def workload(source: dict[str, Any] | None = None, **changes: Any) -> WorkloadFile:
    choice = {"kind": "market_generator", "params": SMALL.to_json()} if source is None else source
    return WorkloadFile.model_validate({"name": "bars", "kind": "bars", "source": choice, **changes})


def test_a_saved_market_is_read_back_whole(tmp_path: Path) -> None:
    market = simulate_market(SMALL.with_(dirt=1.0))
    market.save(tmp_path / "m")
    again = Market.load(tmp_path / "m")

    assert again.config == market.config
    for name in ("bars", "truth", "ledger"):
        assert getattr(again, name).equals(getattr(market, name))
        assert getattr(again, name).schema == getattr(market, name).schema


def test_rows_carry_the_declared_columns_and_schema() -> None:
    raw = MarketSource.of(SMALL, horizons=(1, 5)).read(as_of=None, data=None, now=NOW)

    assert raw.frame.columns == ["unique_id", "ds", *BAR_COLUMNS, "series_role", "row_unparsable"]
    assert raw.frame.select("unique_id", "ds", *BAR_COLUMNS).equals(simulate_market(SMALL).bars)
    assert set(raw.frame["series_role"]) == {"target"}
    assert not raw.frame["row_unparsable"].any()
    assert raw.bars.horizons == (1, 5)
    assert raw.bars.freq.alias == "5min"
    assert raw.bars.calendar == "continuous"
    assert raw.as_of == raw.frame["ds"].max()
    assert raw.notes == ()


def test_a_workload_file_opens_the_market_it_describes() -> None:
    spec = workload(
        {"kind": "market_generator", "params": {"size": "small", "calendar": "globex", "seed": 3}},
        freq="15min",
        bars={"horizons": [2, 4], "max_gap": 7},
    )
    raw = open_source(spec, Path()).read(as_of=None, data=None, now=NOW)

    assert raw.frame.height == 2 * 5_000
    assert raw.bars.freq.alias == "15min"
    assert raw.bars.calendar == "weekdays"
    assert raw.bars.max_gap == 7
    assert "seed 3" in raw.origin


def test_bars_after_the_as_of_date_are_not_handed_over_and_the_past_does_not_depend_on_it() -> None:
    source = MarketSource.of(SMALL.with_(start="2024-05-01"))
    early = source.read(as_of=datetime(2024, 5, 3), data=None, now=NOW)
    late = source.read(as_of=None, data=None, now=NOW)

    assert early.as_of == datetime(2024, 5, 3)
    assert early.frame.equals(late.frame.filter(pl.col("ds") <= early.as_of))


def test_bars_that_begin_after_the_clock_have_not_happened() -> None:
    raw = MarketSource.of(SMALL.with_(start="2024-05-01")).read(as_of=None, data=None, now=datetime(2024, 5, 2, 0, 2))

    assert raw.as_of == datetime(2024, 5, 1, 23, 55)
    assert raw.frame["ds"].max() == datetime(2024, 5, 1, 23, 55)
    assert {note.code for note in raw.notes} == {"bars_after_the_clock", "unfinished_bars_dropped"}


def test_planted_defects_are_noted() -> None:
    raw = MarketSource.of(SMALL.with_(dirt=1.0)).read(as_of=None, data=None, now=NOW)
    [note] = raw.notes

    assert note.code == "planted_defects"
    assert note.rows == simulate_market(SMALL.with_(dirt=1.0)).ledger.height
    assert "bad_tick" in note.detail


def test_a_saved_market_can_be_read_in_place_of_a_generated_one(tmp_path: Path) -> None:
    simulate_market(SMALL.with_(seed=77)).save(tmp_path / "saved")

    by_option = open_source(workload(), Path()).read(as_of=None, data=tmp_path / "saved", now=NOW)
    by_path = open_source(workload({"kind": "market_generator", "path": "saved"}), tmp_path).read(
        as_of=None, data=None, now=NOW
    )

    assert by_option.frame.equals(by_path.frame)
    assert "seed 77" in by_option.origin
    assert "saved in" in by_option.origin


def test_a_file_or_a_folder_without_a_market_is_an_error(tmp_path: Path) -> None:
    file = tmp_path / "bars.csv"
    file.write_text("ds,open\n")
    source = MarketSource.of(SMALL)

    with pytest.raises(SourceError, match=r"bars.csv is a file.*source: \{kind: files\}"):
        source.read(as_of=None, data=file, now=NOW)
    with pytest.raises(SourceError, match="does not hold a saved market"):
        source.read(as_of=None, data=tmp_path, now=NOW)
    simulate_market(SMALL).save(tmp_path / "old")
    facts = tmp_path / "old" / "market.json"
    facts.write_text(facts.read_text().replace('"format": 1', '"format": 0'))
    with pytest.raises(SourceError, match="saved in format 0"):
        source.read(as_of=None, data=tmp_path / "old", now=NOW)


def test_times_that_cannot_be_are_errors() -> None:
    with pytest.raises(ConfigError, match="lies after the clock"):
        MarketSource.of(SMALL).read(as_of=datetime(2027, 1, 1), data=None, now=NOW)
    with pytest.raises(SourceError, match="begins at 2030-01-01 00:00:00, after the clock"):
        MarketSource.of(SMALL.with_(start="2030-01-01")).read(as_of=None, data=None, now=NOW)


@pytest.mark.parametrize(
    ("source", "changes", "message"),
    [
        ({"kind": "market_generator", "path": "x", "params": {"seed": 1}}, {}, "both a path and params"),
        (None, {"freq": "30min"}, "freq is '30min'"),
        (None, {"bars": {"calendar": "weekdays"}}, "bars.calendar is 'weekdays'"),
        (None, {"columns": {"time": "date"}}, "columns are declared"),
        (None, {"bars": {"price_scale": {"MES": 100.0}}}, "bars.price_scale is set"),
    ],
)
def test_a_workload_file_that_contradicts_the_generator_is_refused(
    source: dict[str, Any] | None, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        MarketSource(workload(source, **changes), Path()).read(as_of=None, data=None, now=NOW)
