"""Laws of the backtest that hold for any bars and signals: borders, order, symbols, costs and days."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nightcast.contracts.columns import CUTOFF, HORIZON, ID, MODEL, SIGNAL, TIME
from nightcast.contracts.errors import ConfigError
from nightcast.contracts.schema import BarsSchema, CostPlan
from nightcast.evaluation.backtest import Backtest, run_backtest
from nightcast.evaluation.market_verdicts import trading_baselines

START = datetime(2024, 1, 5)
COSTS = CostPlan(fee_bps=3, half_spread_bps=1, slippage_bps=1)
FREE = CostPlan(fee_bps=0, half_spread_bps=0, slippage_bps=0)
Market = tuple[pl.DataFrame, pl.DataFrame, int, str]


@st.composite
def markets(draw: st.DrawFn) -> Market:
    """Bars of one to three symbols in sessions, signals for some of them, a horizon and a policy."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    parts, number = [], 0
    for symbol in range(draw(st.integers(1, 3))):
        size = draw(st.integers(1, 60))
        session = number + np.cumsum(rng.random(size) < 0.1)
        number = int(session[-1]) + 1
        times = [START + timedelta(hours=int(k)) for k in np.cumsum(rng.integers(1, 6, size))]
        open_ = 100 * np.exp(np.cumsum(rng.normal(scale=0.01, size=size)))
        close = open_ * np.exp(rng.normal(scale=0.006, size=size))
        parts.append(pl.DataFrame({ID: f"s{symbol}", TIME: times, "session": session, "open": open_, "close": close}))
    bars = pl.concat(parts).with_columns(pl.col(TIME).cast(pl.Datetime("us")))
    values = pl.Series(SIGNAL, rng.integers(-1, 2, bars.height), dtype=pl.Int8)
    signals = bars.select(ID, TIME).with_columns(values)
    signals = signals.filter(pl.Series(rng.random(bars.height) < draw(st.sampled_from([0.2, 0.6, 1.0]))))
    return bars, signals, draw(st.integers(1, 8)), draw(st.sampled_from(["tranches", "single"]))


def backtest(market: Market, costs: CostPlan = COSTS, **changes: Any) -> Backtest:
    bars, signals, horizon, policy = market
    given_ = {"horizon": horizon, "policy": policy, **changes}
    return run_backtest(bars, signals, costs=costs, **given_)


@settings(max_examples=60, deadline=None)
@given(market=markets(), seed=st.integers(0, 1000))
def test_the_order_of_the_signals_does_not_matter(market: Market, seed: int) -> None:
    bars, signals, horizon, policy = market

    shuffled = signals.sample(fraction=1, shuffle=True, seed=seed)

    assert backtest((bars, shuffled, horizon, policy)).bars.equals(backtest(market).bars)


@settings(max_examples=60, deadline=None)
@given(market=markets())
def test_a_symbol_earns_alone_what_it_earns_among_others(market: Market) -> None:
    bars, signals, horizon, policy = market
    together = backtest(market).bars

    for (name,), own in bars.partition_by(ID, as_dict=True).items():
        mine = signals.filter(pl.col(ID) == name)
        if mine.is_empty():
            continue
        # both ends of the stretch that is traded are those of all symbols
        kept = own.join(together.select(ID, TIME), on=[ID, TIME], how="semi", maintain_order="left")
        silent = kept.select(ID, TIME).join(mine, on=[ID, TIME], how="left", maintain_order="left").fill_null(0)
        alone = backtest((kept, silent, horizon, policy)).bars
        assert alone.equals(together.filter(pl.col(ID) == name))


@settings(max_examples=60, deadline=None)
@given(market=markets())
def test_symbols_that_count_their_sessions_alike_hold_nothing_for_one_another(market: Market) -> None:
    bars, signals, horizon, policy = market
    alike = bars.with_columns((pl.col("session") - pl.col("session").min().over(ID)).alias("session"))

    found = backtest((alike, signals, horizon, policy))

    assert found.bars.equals(backtest(market).bars)


@settings(max_examples=60, deadline=None)
@given(market=markets())
def test_a_session_begins_flat_and_no_position_exceeds_the_capital(market: Market) -> None:
    found = backtest(market).bars.join(market[0].select(ID, TIME, "session"), on=[ID, TIME], maintain_order="left")

    first = found.filter(pl.col("session") != pl.col("session").shift(1).over(ID).fill_null(-1))

    assert (first["position"] == 0).all()
    assert found["position"].abs().max() <= 1 + 1e-12  # type: ignore[operator]


@settings(max_examples=60, deadline=None)
@given(market=markets(), later=st.integers(0, 59), seed=st.integers(0, 1000))
def test_what_happens_later_changes_nothing_that_was_earned_before(market: Market, later: int, seed: int) -> None:
    bars, signals, horizon, policy = market
    when = bars[TIME].sort()[min(later, bars.height - 1)]
    rng = np.random.default_rng(seed)
    factor = pl.Series(np.exp(rng.normal(scale=0.3, size=bars.height)))
    scrambled = bars.with_columns(
        pl.when(pl.col(TIME) > when).then(pl.col(name) * factor).otherwise(name).alias(name)
        for name in ("open", "close")
    )

    before, after = (backtest((frame, signals, horizon, policy)).bars for frame in (bars, scrambled))

    # a bar's move ends at the next bar's open: it must start a bar earlier to be over by then
    ended = bars.filter((pl.col(TIME).shift(-1).over(ID) <= when).fill_null(False)).select(ID, TIME)
    rows = [frame.join(ended, on=[ID, TIME], how="semi", maintain_order="left") for frame in (before, after)]
    assert rows[0].equals(rows[1])


@settings(max_examples=60, deadline=None)
@given(market=markets())
def test_every_bar_adds_to_its_day_and_days_are_means_over_symbols(market: Market) -> None:
    found = backtest(market)
    symbols = max(1, found.bars[ID].n_unique())

    expected = (
        found.bars.group_by(pl.col(TIME).dt.truncate("1d").alias("day"))
        .agg(pl.col("gross", "cost", "net").sum() / symbols)
        .sort("day")
    )

    assert found.daily["day"].equals(expected["day"])
    for name in ("gross", "cost", "net"):
        np.testing.assert_allclose(found.daily[name].to_numpy(), expected[name].to_numpy(), rtol=0, atol=1e-15)


@settings(max_examples=60, deadline=None)
@given(market=markets())
def test_one_whole_position_at_a_time_earns_the_sum_of_its_trades(market: Market) -> None:
    bars, signals, horizon, _ = market
    found = backtest((bars, signals, horizon, "single"))

    for name in ("gross", "net"):
        assert float(found.trades[name].sum()) == pytest.approx(float(found.bars[name].sum()), abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(market=markets())
def test_tranches_earn_their_share_of_the_capital_before_costs(market: Market) -> None:
    bars, signals, horizon, _ = market
    found = backtest((bars, signals, horizon, "tranches"))

    assert float(found.trades["gross"].sum()) / horizon == pytest.approx(float(found.bars["gross"].sum()), abs=1e-12)
    # tranches that meet are netted, so the whole never pays more than its parts
    assert float(found.trades["net"].sum()) / horizon <= float(found.bars["net"].sum()) + 1e-12


def test_a_signal_that_prolongs_a_single_position_costs_nothing_and_one_that_turns_it_pays_twice() -> None:
    bars = hourly(12)
    values = [1, 0, 1, 0, -1, 0, 0, 0, 0, 0, 0, 0]
    signals = bars.select(ID, TIME).with_columns(pl.Series(SIGNAL, values, dtype=pl.Int8))

    found = run_backtest(bars, signals, horizon=2, costs=COSTS, policy="single")

    paid = ((found.trades["gross"] - found.trades["net"]) / COSTS.side).round(9)
    assert paid.to_list() == [1.0, 1.0, 2.0]
    assert float(found.bars["cost"].sum()) == pytest.approx(4 * COSTS.side, abs=1e-15)


@settings(max_examples=60, deadline=None)
@given(market=markets(), factors=st.lists(st.floats(0, 5), min_size=2, max_size=4))
def test_costs_grow_in_proportion_and_touch_nothing_else(market: Market, factors: list[float]) -> None:
    base = backtest(market).bars

    for factor in factors:
        found = backtest(market, cost_factor=factor).bars
        assert found["gross"].equals(base["gross"])
        np.testing.assert_allclose(found["cost"].to_numpy(), factor * base["cost"].to_numpy(), rtol=1e-12, atol=1e-18)


@settings(max_examples=60, deadline=None)
@given(market=markets())
def test_no_metric_is_ever_nan_or_infinite(market: Market) -> None:
    metrics = backtest(market).metrics(days_per_year=252.0, bars_per_year=252.0 * 24)

    assert all(value is None or np.isfinite(value) for value in metrics.values()), metrics
    if not metrics["trades"]:
        assert metrics["sharpe"] is None
        assert backtest(market).hit_rates() == {"short": None, "long": None}


def hourly(count: int, names: tuple[str, ...] = ("a",)) -> pl.DataFrame:
    times = [START + timedelta(hours=k) for k in range(count)]
    price = 100.0 + np.arange(count)
    parts = [pl.DataFrame({ID: n, TIME: times, "session": 0, "open": price, "close": price + 0.5}) for n in names]
    return pl.concat(parts).with_columns(pl.col(TIME).cast(pl.Datetime("us")))


def on_every_bar(bars: pl.DataFrame, signal: int = 1) -> pl.DataFrame:
    return bars.select(ID, TIME).with_columns(pl.lit(signal, dtype=pl.Int8).alias(SIGNAL))


def test_hits_are_counted_for_each_side_apart() -> None:
    bars = hourly(20)
    sides = np.where(np.arange(20) % 2, 1, -1)
    signals = bars.select(ID, TIME).with_columns(pl.Series(SIGNAL, sides, dtype=pl.Int8))

    found = run_backtest(bars, signals, horizon=1, costs=FREE)

    assert found.hit_rates() == {"short": 0.0, "long": 1.0}  # prices only rise


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda bars: bars.reverse(), "not in order"),
        (lambda bars: pl.concat([bars, bars.tail(1)]), "not in order"),
        (lambda bars: bars.sort(TIME), "lie in several places"),
    ],
    ids=["reversed", "repeated", "sorted by time alone"],
)
def test_bars_out_of_order_are_refused_and_never_traded(spoil: Any, words: str) -> None:
    bars = hourly(6, ("a", "b"))

    with pytest.raises(ConfigError, match=words):
        run_backtest(spoil(bars), on_every_bar(bars), horizon=2, costs=COSTS)


@pytest.mark.parametrize("price", [None, float("nan"), 0.0, -1.0, float("inf")])
@pytest.mark.parametrize("name", ["open", "close"])
def test_a_price_that_is_none_is_refused_with_its_bar(name: str, price: float | None) -> None:
    bars = hourly(6)
    spoiled = bars.with_columns(
        pl.when(pl.col(TIME) == bars[TIME][3]).then(pl.lit(price, dtype=pl.Float64)).otherwise(name).alias(name)
    )

    with pytest.raises(ConfigError, match=rf"{name} .* of 'a' at 2024-01-05 03:00"):
        run_backtest(spoiled, on_every_bar(bars), horizon=2, costs=COSTS)


def test_a_missing_price_where_nothing_is_traded_does_no_harm() -> None:
    bars = hourly(30)
    spoiled = bars.with_columns(pl.when(pl.col(TIME) > bars[TIME][20]).then(None).otherwise("open").alias("open"))

    found = run_backtest(spoiled, on_every_bar(bars).head(5), horizon=2, costs=COSTS)

    assert found.bars["net"].is_finite().all()


def test_signals_of_an_unknown_symbol_or_before_all_bars_lie_on_no_bar() -> None:
    bars = hourly(6)
    for change in ({ID: "z"}, {TIME: START - timedelta(hours=1)}, {TIME: START + timedelta(days=900)}):
        row = {ID: "a", TIME: START, SIGNAL: 1} | change
        with pytest.raises(ConfigError, match="1 of 1 signals lie on no bar"):
            run_backtest(bars, pl.DataFrame([row]), horizon=1, costs=COSTS)


def test_random_entries_turn_over_as_much_as_the_model_they_stand_beside() -> None:
    """A model that holds on trades rarely; entries drawn bar by bar would lose to it by costs alone."""

    class Dataset:
        schema = BarsSchema(freq="30min", horizons=(5,))
        costs = COSTS
        frame: pl.DataFrame

    rng = np.random.default_rng(0)
    count = 3000
    price = 100 * np.exp(np.cumsum(rng.normal(scale=0.002, size=count)))
    times = [START + timedelta(minutes=30 * k) for k in range(count)]
    data = Dataset()
    data.frame = pl.DataFrame({ID: "a", TIME: times, "session": 0, "open": price, "close": price})
    held = np.repeat(rng.integers(-1, 2, count // 25), 25)
    rows = data.frame.select(ID, TIME, pl.col(TIME).alias(CUTOFF)).with_columns(
        pl.lit(5, dtype=pl.Int32).alias(HORIZON),
        pl.lit("m").alias(MODEL),
        pl.Series(SIGNAL, held, dtype=pl.Int8),
    )
    shuffled = rows.with_columns(pl.Series(SIGNAL, rng.permutation(held), dtype=pl.Int8))

    def ratio(its: pl.DataFrame) -> float:
        test = run_backtest(data.frame, its.select(ID, TIME, SIGNAL), horizon=5, costs=COSTS)
        return float(test.metrics(days_per_year=365.25, bars_per_year=1.0)["sharpe"])

    random = trading_baselines(rows, data, seed=1, draws=40).filter(pl.col("rule") == "random_entry").row(0, named=True)

    assert random["low"] < ratio(rows) < random["high"]  # noise beside noise
    assert ratio(shuffled) < random["low"]
