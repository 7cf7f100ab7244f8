"""Laws that hold for every generated market and every label game."""

from __future__ import annotations

from datetime import datetime

import numpy as np
import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from nightcast.contracts.bars import UNKNOWN_LABEL
from nightcast.contracts.columns import BAR_COLUMNS, LONG, NEUTRAL, SHORT
from nightcast.sources.market import DIRT_KINDS, MarketConfig, label_game, simulate_market
from nightcast.sources.market.config import Instrument
from nightcast.sources.market.label_game import WIDTH
from nightcast.sources.market.oracle import barrier_labels, decide, macro_f1
from nightcast.sources.market.source import MarketSource

NOW = datetime(2030, 1, 1)

instruments = st.builds(
    Instrument,
    name=st.sampled_from(["X"]),
    price=st.sampled_from([120.0, 1_000.0, 20_000.0]),
    tick=st.sampled_from([0.01, 0.05, 0.1, 0.25, 1.0]),
)
configs = st.builds(
    MarketConfig,
    symbols=st.tuples(st.just("MGC"), instruments),
    bars=st.integers(100, 1_500),
    freq=st.sampled_from(["5min", "15min", "30min"]),
    calendar=st.sampled_from(["continuous", "globex", "rth"]),
    start=st.one_of(st.none(), st.dates(datetime(2015, 1, 1).date(), datetime(2020, 1, 1).date())),
    seed=st.integers(0, 10_000),
    volatility=st.sampled_from(["on", "flat"]),
    regimes=st.sampled_from([(0.8, 1.8), (0.5, 1.0, 2.0)]),
    kappa=st.floats(-0.3, 0.3),
    kappa_flip_at=st.one_of(st.none(), st.floats(0.1, 0.9)),
    regime_dead=st.booleans(),
    difficulty=st.sampled_from(["linear", "nonlinear", "long_memory"]),
    rho=st.floats(0, 0.99),
    substeps=st.integers(1, 8),
    bounce=st.booleans(),
)


@settings(max_examples=40, deadline=None)
@given(config=configs)
def test_prices_of_clean_bars_are_in_order_on_the_grid_and_follow_one_another(config: MarketConfig) -> None:
    market = simulate_market(config)

    assert market.ledger.is_empty()
    assert market.bars.select("unique_id", "ds").is_duplicated().sum() == 0
    assert market.bars.null_count().sum_horizontal().item() == 0
    for instrument in config.symbols:
        bars = market.bars.filter(pl.col("unique_id") == instrument.name)
        o, h, low, c, v = (bars[name].to_numpy() for name in BAR_COLUMNS)
        assert bars.height == config.bars
        assert bars["ds"].is_sorted()
        assert (h >= np.maximum(o, c)).all()
        assert (low <= np.minimum(o, c)).all()
        assert (low > 0).all()
        for price in (o, h, low, c):
            np.testing.assert_allclose(price / instrument.tick, np.rint(price / instrument.tick), atol=1e-6)
        # two sides of half a tick, and rounding twice
        assert np.abs(o[1:] - c[:-1]).max() <= 2 * instrument.tick + 1e-9
        assert (v >= 1).all()
        assert (v == np.rint(v)).all()


@settings(max_examples=25, deadline=None)
@given(config=configs)
def test_returns_follow_the_declared_law_whatever_is_switched_on(config: MarketConfig) -> None:
    """The noise of one seed is the same whatever kappa: returns differ by exactly what kappa adds."""
    plain = config.with_(bounce=False, rounding=False, volatility="flat")
    with_signal, without = simulate_market(plain).truth, simulate_market(plain.with_(kappa=0.0)).truth

    for name in config.names:
        truth = with_signal.filter(pl.col("unique_id") == name)
        noise = without.filter(pl.col("unique_id") == name)
        added = np.diff(np.log(truth["mid"].to_numpy())) - np.diff(np.log(noise["mid"].to_numpy()))
        expected = truth["kappa"].to_numpy()[1:] * truth["sigma"].to_numpy()[1:] * truth["signal"].to_numpy()[:-1]
        np.testing.assert_allclose(added, expected, atol=1e-12)


@settings(max_examples=40, deadline=None)
@given(config=configs, dirt=st.floats(0.1, 8), kinds=st.sets(st.sampled_from(DIRT_KINDS), min_size=1))
def test_dirt_is_undone_by_its_ledger(config: MarketConfig, dirt: float, kinds: set[str]) -> None:
    soiled = simulate_market(config.with_(dirt=dirt, dirt_kinds=tuple(kinds)))
    clean = simulate_market(config)

    assert soiled.washed().equals(clean.bars)
    assert soiled.truth.equals(clean.truth)
    assert set(soiled.ledger["kind"]) <= kinds


@settings(max_examples=25, deadline=None)
@given(config=configs, dirt=st.floats(0.1, 8))
def test_no_bar_has_two_defects_of_its_own(config: MarketConfig, dirt: float) -> None:
    ledger = simulate_market(config.with_(dirt=dirt)).ledger
    own = ledger.filter(~pl.col("kind").is_in(["overnight_gap", "roll_gap", "dst_shift"]))

    assert not own.select("unique_id", "ds_true").is_duplicated().any()


@settings(max_examples=25, deadline=None)
@given(config=configs, dirt=st.floats(1, 20))
def test_a_bar_without_defect_stands_between_any_two_events(config: MarketConfig, dirt: float) -> None:
    """Else a bad tick could not be told from its neighbour, and a stale run would repeat a bar that is not there."""
    ledger = simulate_market(config.with_(dirt=dirt)).ledger
    own = ledger.filter(~pl.col("kind").is_in(["overnight_gap", "roll_gap", "dst_shift"]))
    row = {time: i for i, time in enumerate(pl.Series(config.times()).to_list())}

    for name in config.names:
        part = own.filter(pl.col("unique_id") == name).sort("ds_true")
        rows = np.array([row[time] for time in part["ds_true"]])
        same = (part["kind"] == part["kind"].shift(1)) & (part["event"] == part["event"].shift(1))
        steps, within = np.diff(rows), same.to_numpy()[1:].astype(bool)
        assert (steps[within] == 1).all()
        assert (steps[~within] >= 2).all()


@settings(max_examples=25, deadline=None)
@given(config=configs, dirt=st.sampled_from([0.0, 2.0]), share=st.floats(0.3, 1.0))
def test_what_is_handed_over_at_an_earlier_date_is_the_past_of_what_is_handed_over_later(
    config: MarketConfig, dirt: float, share: float
) -> None:
    source = MarketSource.of(config.with_(dirt=dirt), horizons=(1, 5))
    whole = source.read(as_of=None, data=None, now=NOW)
    times = whole.frame["ds"].unique().sort()

    early = source.read(as_of=times[int(share * (len(times) - 1))], data=None, now=NOW)

    assert early.frame.equals(whole.frame.filter(pl.col("ds") <= early.as_of))


@settings(max_examples=25, deadline=None)
@given(
    a=st.floats(0, 3),
    n=st.integers(50, 300),
    window=st.integers(1, 70),
    features=st.integers(1, 50),
    level=st.sampled_from([1, 2, 3]),
    seed=st.integers(0, 1_000),
    horizons=st.sampled_from([(1,), (1, 5, 20)]),
)
def test_bars_of_a_game_bear_out_its_labels(
    a: float, n: int, window: int, features: int, level: int, seed: int, horizons: tuple[int, ...]
) -> None:
    game = label_game(
        a,
        n,
        window=window,
        features=features,
        level=level,
        seed=seed,
        n_test=60,
        horizons=horizons,  # type: ignore[arg-type]
    )
    for view, count in ((game.train, n), (game.test, 60)):
        labels = view.labels
        assert labels is not None
        assert len(view.rows) == count
        assert view.rows.min() >= window - 1
        assert np.isfinite(view.base).all()
        assert labels.y.shape == labels.hold.shape == labels.ret.shape == (count, len(horizons))
        known = labels.y != UNKNOWN_LABEL
        for place, bars in enumerate(horizons):  # the last decisions' labels could still end after the view
            assert known[: count - bars, place].all()
        assert known[:, 0].all()
        assert (labels.hold[known] == 1).all()
        o, h, low, c, _ = view.bars.T
        assert (h >= np.maximum(o, c)).all()
        assert (low <= np.minimum(o, c)).all()
        inside = view.rows[view.rows + 1 < len(view.bars)]  # the last test label ends after the view
        y, after = labels.y[: len(inside), 0], view.bars[inside + 1]
        np.testing.assert_allclose(labels.ret[: len(inside), 0], after[:, 3] / after[:, 0] - 1, rtol=1e-9)
        assert (np.where(y == LONG, 1, np.where(y == SHORT, -1, 0)) * (after[:, 3] / after[:, 0] - 1) >= 0).all()
        touched_up = after[:, 1] >= after[:, 0] * (1 + WIDTH * (1 - 1e-9))
        touched_down = after[:, 2] <= after[:, 0] * (1 - WIDTH * (1 - 1e-9))
        np.testing.assert_array_equal(y == LONG, touched_up)
        np.testing.assert_array_equal(y == SHORT, touched_down)
    np.testing.assert_allclose(game.posterior.sum(axis=1), 1.0)
    assert game.test.rows[0] == game.train.rows[-1] + 1


@settings(max_examples=60, deadline=None)
@given(
    data=st.lists(st.tuples(st.floats(-2, 2), st.floats(0, 1), st.floats(0, 1)), min_size=8, max_size=30),
    horizon=st.integers(1, 4),
    width=st.floats(0.001, 0.02),
)
def test_barrier_labels_are_those_of_a_plain_loop(
    data: list[tuple[float, float, float]], horizon: int, width: float
) -> None:
    close = 100 * np.exp(np.cumsum([step / 100 for step, _, _ in data]))
    opens = np.append(100.0, close[:-1])
    high = np.maximum(opens, close) + [up for _, up, _ in data]
    low = np.minimum(opens, close) - [down for _, _, down in data]
    prices = np.column_stack([opens, high, low, close])

    expected = []
    for t in range(len(close)):
        if t + horizon >= len(close):
            expected.append(UNKNOWN_LABEL)
            continue
        label = NEUTRAL
        for j in range(t + 1, t + horizon + 1):
            up, down = high[j] >= opens[t + 1] * (1 + width), low[j] <= opens[t + 1] * (1 - width)
            if up or down:
                label = NEUTRAL if up and down else LONG if up else SHORT
                break
        expected.append(label)

    assert barrier_labels(prices, np.full(len(close), width), horizon, None).tolist() == expected


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), n=st.integers(3, 80))
def test_macro_f1_is_that_of_scikit_learn(seed: int, n: int) -> None:
    from sklearn.metrics import f1_score

    rng = np.random.default_rng(seed)
    y, decided = rng.integers(0, 3, n), decide(rng.dirichlet([1, 1, 1], n))

    assert macro_f1(y, decided) == f1_score(y, decided, labels=[0, 1, 2], average="macro", zero_division=0)
