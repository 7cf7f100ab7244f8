"""The oracle of a generated market knows what can be known, and no more."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from nightcast.contracts.errors import ConfigError
from nightcast.sources.market import Instrument, MarketConfig, oracle_posterior, oracle_scores, simulate_market
from nightcast.sources.market.oracle import outlook, posterior_table
from nightcast.sources.market.simulate import simulate_paths

COARSE = Instrument("X", price=900.0, tick=0.25)
"""A tick of 0.46 sigma: with it the shares of the classes are those of the market behind the reference values."""
FLAT = MarketConfig(symbols=(COARSE,), volatility="flat", calendar="globex", bars=60_000, seed=5)
TABLE = 250_000


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("posteriors")


REFERENCE = {
    # kappa: IC, F1 of the argmax, direction AUC, gross Sharpe ratio
    0.0: (0.003, 0.179, 0.496, -0.9),
    0.02: (0.021, 0.178, 0.523, 3.0),
    0.05: (0.048, 0.244, 0.556, 8.9),
    0.1: (0.094, 0.380, 0.606, 18.6),
    0.2: (0.183, 0.425, 0.698, 37.9),
}


@pytest.mark.long
@pytest.mark.parametrize("kappa", REFERENCE)
def test_the_oracle_scores_what_is_known_of_such_a_market(kappa: float, cache: Path) -> None:
    """Five bars, barriers at two sigmas. The reference's ticks are not known, hence the width of the bands."""
    # Several short markets: in a long one the price wanders, and with it the size of a tick.
    markets = [simulate_market(FLAT.with_(kappa=kappa, bars=50_000, seed=seed)) for seed in range(6)]
    scores = [oracle_scores(market, 5, cache=cache) for market in markets]
    ic, f1, auc, sharpe = REFERENCE[kappa]

    assert np.mean([s.ic for s in scores]) == pytest.approx(ic, abs=0.01)
    assert np.mean([s.f1_argmax for s in scores]) == pytest.approx(f1, abs=0.02)
    assert np.mean([s.direction_auc for s in scores]) == pytest.approx(auc, abs=0.035)
    assert np.mean([s.gross_sharpe for s in scores]) == pytest.approx(sharpe, abs=2.0 + 0.2 * abs(sharpe))


@pytest.mark.parametrize(("kappa", "auc"), [(0.0, 0.5), (0.1, 0.626), (0.2, 0.727)])
def test_direction_auc_moves_with_kappa(kappa: float, auc: float, cache: Path) -> None:
    scores = oracle_scores(simulate_market(FLAT.with_(kappa=kappa)), 5, table_bars=TABLE, cache=cache)

    # 60 000 bars with labels that overlap fivefold: a standard error of about 0.006
    assert scores.direction_auc == pytest.approx(auc, abs=0.02)
    assert scores.shares[0] == pytest.approx(scores.shares[2], abs=0.05)


def test_perfect_knowledge_earns_and_no_signal_earns_nothing(cache: Path) -> None:
    with_signal, without = (
        oracle_scores(simulate_market(FLAT.with_(kappa=kappa)), 5, table_bars=TABLE, cache=cache)
        for kappa in (0.1, 0.0)
    )
    years = 60_000 / (5 / 7 * 365.25 * 288)

    assert with_signal.gross_sharpe > 12
    assert abs(without.gross_sharpe) < 3 / np.sqrt(years)
    assert abs(without.ic) < 3 / np.sqrt(60_000)


@pytest.mark.parametrize("difficulty", ["linear", "nonlinear", "long_memory"])
@pytest.mark.parametrize("volatility", ["flat", "on"])
def test_posteriors_are_calibrated_whatever_the_law(difficulty: str, volatility: str, cache: Path) -> None:
    market = simulate_market(MarketConfig(bars=30_000, kappa=0.2, difficulty=difficulty, volatility=volatility, seed=6))  # type: ignore[arg-type]
    frame = oracle_posterior(market, 5, table_bars=TABLE, cache=cache)

    p = frame.select("p_short", "p_neutral", "p_long").to_numpy()
    y = frame["y"].to_numpy()
    np.testing.assert_allclose(p.sum(axis=1), 1.0)
    for k in range(3):
        for part in np.array_split(np.argsort(p[:, k], kind="stable"), 4):
            # labels of neighbouring decisions overlap, so there are about five times fewer of them
            spread = np.sqrt(p[part, k].mean() * (1 - p[part, k].mean()) / (len(part) / 5))
            assert abs((y[part] == k).mean() - p[part, k].mean()) < 4 * spread + 0.01


@pytest.mark.parametrize(("difficulty", "horizon"), [("nonlinear", 6), ("nonlinear", 14), ("long_memory", 60)])
def test_the_outlook_is_the_expectation_of_the_signals_ahead(difficulty: str, horizon: int) -> None:
    """Then the error is orthogonal to the outlook and to whatever else is known at the decision."""
    config = FLAT.with_(difficulty=difficulty, rho=0.9, tau=0.3, bars=300_000)
    [path] = simulate_paths(config)
    view = outlook(config, path, horizon)[:-horizon]
    ahead = np.mean([path.signal[j : len(view) + j] for j in range(horizon)], axis=0)
    error = ahead - view

    assert np.std(error) < 0.97 * np.std(ahead)
    hidden, feature = path.hidden[:-horizon], path.feature[:-horizon]
    for known in (
        np.ones_like(view),
        view,
        hidden,
        hidden**2 - 1,
        path.signal[:-horizon],
        hidden * np.roll(feature, 1),
    ):
        size = np.sqrt((known**2).mean() * error.var() * 2 * 19 / len(view))  # an AR(1) of 0.9 repeats itself
        assert abs((error * known).mean()) < 4.5 * size


def test_the_oracle_knows_of_a_flip_and_of_dirt(cache: Path) -> None:
    config = FLAT.with_(kappa=0.2, calendar="continuous")
    plain = oracle_scores(simulate_market(config), 5, table_bars=TABLE, cache=cache)
    flipped = oracle_scores(simulate_market(config.with_(kappa_flip_at=0.6)), 5, table_bars=TABLE, cache=cache)
    dirty = oracle_scores(simulate_market(config.with_(dirt=1.0)), 5, table_bars=TABLE, cache=cache)

    assert flipped.direction_auc == pytest.approx(plain.direction_auc, abs=0.02)
    assert flipped.ic == pytest.approx(plain.ic, abs=0.02)
    assert dirty == plain


def test_more_knowledge_helps_only_where_there_is_a_signal(cache: Path) -> None:
    market = simulate_market(FLAT.with_(kappa=0.2, regime_dead=True))
    frame = oracle_posterior(market, 5, table_bars=TABLE, cache=cache).join(market.truth, on=["unique_id", "ds"])
    view = (pl.col("p_long") - pl.col("p_short")).abs().mean()

    alive, dead = (frame.filter(pl.col("regime") == regime).select(view).item() for regime in (0, 1))

    assert alive > 5 * dead


def test_no_label_of_a_market_with_sessions_crosses_a_close(cache: Path) -> None:
    market = simulate_market(FLAT.with_(calendar="rth", bars=78 * 200))
    frame = oracle_posterior(market, 5, table_bars=TABLE, cache=cache)

    # a label looks at the five bars after its decision, so the last five of a session have none
    assert frame.height == 200 * 73
    minutes = frame["ds"].dt.hour().cast(pl.Int64) * 60 + frame["ds"].dt.minute()
    assert minutes.max() == 14 * 60 + 30 + 5 * 72


def test_a_table_is_counted_once_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = posterior_table(FLAT, COARSE, 5, bars=20_000, cache=tmp_path)
    [file] = tmp_path.iterdir()

    import nightcast.sources.market.oracle as oracle

    def never(*_: object) -> None:
        raise AssertionError("simulated again")

    monkeypatch.setattr(oracle, "simulate_paths", never)
    again = posterior_table(FLAT.with_(seed=9, bars=500, dirt=1.0), COARSE, 5, bars=20_000, cache=tmp_path)

    np.testing.assert_array_equal(again.probs, first.probs)
    assert again.scale == first.scale
    assert file.suffix == ".npz"
    for change in ({"kappa": 0.05}, {"rho": 0.9}, {"volatility": "on"}):
        with pytest.raises(AssertionError, match="simulated again"):
            posterior_table(FLAT.with_(**change), COARSE, 5, bars=20_000, cache=tmp_path)
    with pytest.raises(AssertionError, match="simulated again"):
        posterior_table(FLAT, COARSE, 10, bars=20_000, cache=tmp_path)


def test_a_horizon_or_width_that_cannot_be_is_an_error() -> None:
    with pytest.raises(ConfigError, match="horizon 0"):
        posterior_table(FLAT, COARSE, 0)
    with pytest.raises(ConfigError, match="width -1"):
        posterior_table(FLAT, COARSE, 5, width=-1.0)
