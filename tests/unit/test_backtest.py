"""The backtest against a slow loop and against what must be true of any backtest."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nightcast.contracts.errors import ConfigError
from nightcast.contracts.schema import CostPlan
from nightcast.evaluation.backtest import Backtest, run_backtest

START = datetime(2024, 1, 1)
FREE = CostPlan(fee_bps=0, half_spread_bps=0, slippage_bps=0)
COSTS = CostPlan(fee_bps=3, half_spread_bps=1, slippage_bps=1)
YEAR = {"days_per_year": 252.0, "bars_per_year": 252.0 * 24}


def make_bars(sessions: list[int], *, symbols: int = 1, seed: int = 0, sigma: float = 0.01) -> pl.DataFrame:
    """Hourly bars; `sessions` are the lengths of each symbol's sessions, a day apart."""
    rng = np.random.default_rng(seed)
    parts = []
    for s in range(symbols):
        time, price = START, 100.0
        rows: list[dict[str, Any]] = []
        for number, length in enumerate(sessions):
            for _ in range(length):
                open_ = price * np.exp(rng.normal(0, sigma / 5))
                close = open_ * np.exp(rng.normal(0, sigma))
                rows.append({"ds": time, "session": s * 1000 + number, "open": open_, "close": close})
                price, time = close, time + timedelta(hours=1)
            time += timedelta(days=1)
        parts.append(pl.DataFrame(rows).with_columns(pl.lit(f"s{s}").alias("unique_id")))
    return pl.concat(parts).select("unique_id", "ds", "session", "open", "close")


def with_signals(bars: pl.DataFrame, values: Any) -> pl.DataFrame:
    return bars.select("unique_id", "ds").with_columns(pl.Series("signal", np.asarray(values)).cast(pl.Int8))


def slow(
    bars: pl.DataFrame, signals: pl.DataFrame, horizon: int, side: float, single: bool
) -> list[tuple[float, float]]:
    """Gross return and cost of every bar, decision by decision, in plain Python."""
    rows = bars.join(signals, on=["unique_id", "ds"], how="left").sort("unique_id", "ds").to_dicts()
    n = len(rows)
    position = [0.0] * n
    busy = 0
    for t, row in enumerate(rows):
        if not row["signal"] or (single and t < busy):
            continue
        held = []
        for i in range(t + 1, min(t + horizon, n - 1) + 1):
            if (rows[i]["unique_id"], rows[i]["session"]) != (row["unique_id"], row["session"]):
                break
            held.append(i)
        for i in held:
            position[i] += row["signal"] if single else row["signal"] / horizon
        if single and held:
            busy = held[-1]
    out = []

    def same(i: int, j: int) -> bool:
        return 0 <= j < n and all(rows[i][key] == rows[j][key] for key in ("unique_id", "session"))

    for i, row in enumerate(rows):
        before = position[i - 1] if same(i, i - 1) else 0.0
        cost = abs(position[i] - before) * side
        if same(i, i + 1):
            gross = position[i] * (rows[i + 1]["open"] / row["open"] - 1)
        else:
            gross = position[i] * (row["close"] / row["open"] - 1)
            cost += abs(position[i]) * side
        out.append((gross, cost))
    return out


@settings(max_examples=60, deadline=None)
@given(
    sessions=st.lists(st.integers(1, 12), min_size=1, max_size=4),
    symbols=st.integers(1, 3),
    horizon=st.integers(1, 7),
    single=st.booleans(),
    seed=st.integers(0, 10_000),
)
def test_the_engine_equals_a_slow_loop(
    sessions: list[int], symbols: int, horizon: int, single: bool, seed: int
) -> None:
    bars = make_bars(sessions, symbols=symbols, seed=seed)
    values = np.random.default_rng(seed).integers(-1, 2, bars.height)
    signals = with_signals(bars, values)
    test = run_backtest(bars, signals, horizon=horizon, costs=COSTS, policy="single" if single else "tranches")
    expected = slow(bars, signals, horizon, COSTS.side, single)
    assert test.bars["gross"].to_list() == pytest.approx([g for g, _ in expected], abs=1e-12)
    assert test.bars["cost"].to_list() == pytest.approx([c for _, c in expected], abs=1e-12)
    assert test.bars["net"].to_list() == pytest.approx([g - c for g, c in expected], abs=1e-12)


def total(test: Backtest, name: str = "net") -> float:
    return float(test.bars[name].sum())


def test_foresight_of_the_next_bar_earns_every_move() -> None:
    bars = make_bars([200])
    moves = bars["open"].to_numpy()[1:] / bars["open"].to_numpy()[:-1] - 1
    last = bars["close"][-1] / bars["open"][-1] - 1
    held = np.append(moves[1:], last)
    signal = np.append(np.sign(held), 0)
    test = run_backtest(bars, with_signals(bars, signal), horizon=1, costs=FREE)
    assert total(test) == pytest.approx(np.abs(held).sum(), abs=1e-12)


def test_a_signal_one_bar_late_loses_a_planted_one_bar_edge() -> None:
    rng = np.random.default_rng(1)
    side = rng.choice([-1, 1], 4000)
    move = np.append(0.0, side[:-1] * 0.002) + rng.normal(0, 0.0005, 4000)
    open_ = 100 * np.exp(np.cumsum(np.append(0.0, move[:-1])))
    times = [START + i * timedelta(hours=1) for i in range(4000)]
    bars = pl.DataFrame({"unique_id": ["a"] * 4000, "ds": times, "session": [0] * 4000, "open": open_, "close": open_})
    right = run_backtest(bars, with_signals(bars, side), horizon=1, costs=FREE)
    late = run_backtest(bars, with_signals(bars, np.append(0, side[:-1])), horizon=1, costs=FREE)
    assert total(right) == pytest.approx(0.002 * 3998, rel=0.02)
    assert abs(total(late)) < 0.1 * total(right)


def test_shuffled_signals_earn_nothing_on_average_before_costs() -> None:
    bars = make_bars([500], seed=2)
    rng = np.random.default_rng(3)
    values = np.repeat([-1, 1], 250)
    sums = [
        total(run_backtest(bars, with_signals(bars, rng.permutation(values)), horizon=5, costs=FREE))
        for _ in range(200)
    ]
    assert abs(np.mean(sums)) < 4 * np.std(sums) / np.sqrt(200)


def test_costs_only_ever_take_and_a_signal_and_its_mirror_pay_them_twice() -> None:
    bars = make_bars([300], seed=4)
    values = np.random.default_rng(5).integers(-1, 2, 300)
    nets = [
        total(run_backtest(bars, with_signals(bars, values), horizon=3, costs=COSTS, cost_factor=factor))
        for factor in (0.0, 0.5, 1.0, 2.0)
    ]
    assert nets == sorted(nets, reverse=True)
    long = run_backtest(bars, with_signals(bars, values), horizon=3, costs=COSTS)
    short = run_backtest(bars, with_signals(bars, -values), horizon=3, costs=COSTS)
    assert total(long) + total(short) == pytest.approx(-2 * total(long, "cost"), abs=1e-12)


def test_nothing_is_held_over_the_end_of_a_session() -> None:
    bars = make_bars([5, 5])
    test = run_backtest(bars, with_signals(bars, [0, 0, 0, 1, 0, 0, 0, 0, 0, 0]), horizon=4, costs=FREE)
    assert test.bars["position"].to_list() == [0, 0, 0, 0, 0.25, 0, 0, 0, 0, 0]
    late = run_backtest(bars, with_signals(bars, [0, 0, 0, 0, 1, 0, 0, 0, 0, 0]), horizon=4, costs=FREE)
    assert late.trades.height == 0


def test_one_position_ignores_signals_until_it_is_closed() -> None:
    bars = make_bars([10])
    test = run_backtest(
        bars, with_signals(bars, [1, -1, -1, 0, -1, 0, 0, 0, 0, 0]), horizon=3, costs=FREE, policy="single"
    )
    assert test.bars["position"].to_list() == [0, 1, 1, 1, 0, -1, -1, -1, 0, 0]
    assert test.trades["side"].to_list() == [1, -1]


def test_without_a_trade_metrics_are_none_and_never_zero_or_nan() -> None:
    bars = make_bars([50])
    metrics = run_backtest(bars, with_signals(bars, [0] * 50), horizon=5, costs=COSTS).metrics(**YEAR)
    assert metrics["trades"] == 0
    assert metrics["sharpe"] is None
    assert metrics["win_rate"] is None
    assert metrics["profit_factor"] is None


def test_metrics_of_a_tiny_example() -> None:
    times = [START, START + timedelta(days=1), START + timedelta(days=2), START + timedelta(days=3)]
    bars = pl.DataFrame(
        {
            "unique_id": ["a"] * 4,
            "ds": times,
            "session": [0] * 4,
            "open": [100.0, 100, 110, 99],
            "close": [100.0, 110, 99, 99],
        }
    )
    test = run_backtest(bars, with_signals(bars, [1, 1, 0, 0]), horizon=1, costs=FREE)
    assert test.daily["net"].to_list() == pytest.approx([0, 0.1, -0.1, 0])
    metrics = test.metrics(**YEAR)
    assert metrics["trades"] == 2
    assert metrics["win_rate"] == 0.5
    assert metrics["max_drawdown"] == pytest.approx(0.1)
    assert metrics["profit_factor"] == pytest.approx(1.0)
    assert metrics["mean_hold"] == 1


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"signal": 2}, "signal 2 for 's0'"),
        ({"ds": START + timedelta(minutes=7)}, "1 of 1 signals lie on no bar"),
    ],
)
def test_a_wrong_signal_is_refused_with_its_value(change: dict[str, Any], what: str) -> None:
    bars = make_bars([5])
    row = {"unique_id": "s0", "ds": START, "signal": 1} | change
    with pytest.raises(ConfigError, match=what):
        run_backtest(bars, pl.DataFrame([row]), horizon=1, costs=FREE)


def test_two_signals_for_one_bar_and_a_horizon_of_nothing_are_refused() -> None:
    bars = make_bars([5])
    one = with_signals(bars, [1, 0, 0, 0, 0])
    with pytest.raises(ConfigError, match="two signals for 's0'"):
        run_backtest(bars, pl.concat([one, one]), horizon=1, costs=FREE)
    with pytest.raises(ConfigError, match="horizon 0"):
        run_backtest(bars, one, horizon=0, costs=FREE)
