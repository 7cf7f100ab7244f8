"""What a market's verdicts may count as evidence: every decision's profit, independent blocks, pairs of one fit."""

from __future__ import annotations

from datetime import datetime, timedelta
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest

from nightcast.contracts.bars import BarDataset
from nightcast.contracts.columns import CLASS_PROBS, CUTOFF, HORIZON, ID, MODEL, SIGNAL, TARGET, TIME
from nightcast.contracts.errors import RegistryError
from nightcast.contracts.fold import Fold
from nightcast.contracts.recipe import FeatureChoice, GatePlan, ModelChoice, Recipe
from nightcast.contracts.schema import BarsSchema, CostPlan, LabelPlan
from nightcast.evaluation.backtest import run_backtest
from nightcast.evaluation.class_scores import (
    block_bootstrap,
    class_by_horizon,
    class_league,
    class_loss,
    direction_auc,
    direction_draws,
    label_blocks,
    lower_bound,
    time_blocks,
)
from nightcast.evaluation.comparison import paired_effect
from nightcast.evaluation.market_verdicts import breakeven_bps, capacity, compare_classes, market_verdicts
from nightcast.evaluation.sharpe_trials import TrialBook, recipe_trials
from nightcast.evaluation.walk_forward import known_rows, score_rows
from nightcast.features.labels import triple_barrier
from nightcast.features.segments import segmented
from workloads.bars import with_folds
from workloads.stages import ever_tried

START = datetime(2024, 1, 1)
COSTS = CostPlan()


# -- decisions before a gap ------------------------------------------------------------------------------------------


def crash_then_outage() -> BarDataset:
    """Half-hourly bars whose price falls by a tenth in one bar, just before eleven bars are missing."""
    n = 400
    rng = np.random.default_rng(0)
    times = [START + timedelta(minutes=30 * i) for i in range(n)]
    close = 100 * np.exp(np.cumsum(rng.normal(0, 0.001, n)))
    close[300:] *= 0.9
    open_ = np.append(100.0, close[:-1])
    bars = pl.DataFrame(
        {
            ID: "a",
            TIME: times,
            "open": open_,
            "high": np.maximum(open_, close) * 1.001,
            "low": np.minimum(open_, close) * 0.999,
            "close": close,
            "volume": 1.0,
        }
    ).filter(~pl.col(TIME).is_between(times[302], times[312]))
    schema = BarsSchema(freq="30min", horizons=(5,))
    frame = triple_barrier(segmented(bars, schema)[0], schema, LabelPlan())
    return BarDataset(frame, schema, {}, {}, times[-1], 0, LabelPlan(), COSTS)


def always_long(dataset: BarDataset) -> pl.DataFrame:
    third = [pl.lit(1 / 3).alias(name) for name in CLASS_PROBS]
    return dataset.frame.select(
        *(ID, TIME, pl.col(TIME).alias(CUTOFF), pl.lit(5, dtype=pl.Int32).alias(HORIZON)),
        *(pl.lit("ensemble").alias(MODEL), *third, pl.lit(1, dtype=pl.Int8).alias(SIGNAL)),
    )


def scale_of(dataset: BarDataset, _cutoffs: list[datetime]) -> pl.DataFrame:
    return dataset.frame.select(ID, pl.col(TIME).alias(CUTOFF), pl.col("sigma").alias("scale"))


def test_a_decision_before_an_outage_is_traded_although_its_label_is_unknown() -> None:
    dataset = crash_then_outage()
    rows = score_rows(always_long(dataset), dataset, SimpleNamespace(scale=scale_of))  # type: ignore[arg-type]

    every = run_backtest(dataset.frame, rows.select(ID, TIME, SIGNAL), horizon=5, costs=COSTS)
    labelled = run_backtest(dataset.frame, known_rows(rows).select(ID, TIME, SIGNAL), horizon=5, costs=COSTS)
    found = market_verdicts(rows, (), dataset, 0).row(0, named=True)

    assert rows.height == dataset.frame.height
    assert known_rows(rows).height == dataset.truth().height < rows.height
    assert float(every.bars["net"].sum()) < -0.10
    assert float(labelled.bars["net"].sum()) > -0.06
    assert found["trades"] == every.trades.height > labelled.trades.height
    days = dataset.schema.days_per_year
    assert found["sharpe"] == pytest.approx(every.metrics(days_per_year=days, bars_per_year=1.0)["sharpe"])


def test_scores_read_known_labels_alone_while_money_counts_all() -> None:
    dataset = crash_then_outage()
    rows = score_rows(always_long(dataset), dataset, SimpleNamespace(scale=scale_of))  # type: ignore[arg-type]
    naive = rows.with_columns(pl.lit("climatology").alias(MODEL))
    both = pl.concat([rows, naive])

    league = class_league(both, ["climatology"], dataset)

    assert league["rows"].to_list() == [known_rows(rows).height] * 2
    assert league["log_loss"].to_list() == pytest.approx([np.log(3)] * 2)
    assert class_by_horizon(both)["rows"].to_list() == [known_rows(rows).height] * 2
    every = run_backtest(dataset.frame, rows.select(ID, TIME, SIGNAL), horizon=5, costs=COSTS)
    assert league["trades"].to_list() == [every.trades.height] * 2


def test_rows_without_a_position_are_left_out_where_nothing_is_known_of_them() -> None:
    dataset = crash_then_outage()
    rows = score_rows(always_long(dataset).drop(SIGNAL), dataset, SimpleNamespace(scale=scale_of))  # type: ignore[arg-type]
    assert rows.height == dataset.truth().height
    assert rows[TARGET].null_count() == 0


def test_a_horizon_whose_labels_are_all_unknown_has_no_verdict() -> None:
    dataset = crash_then_outage()
    rows = always_long(dataset).with_columns(pl.lit(None, dtype=pl.Int8).alias(TARGET))
    assert market_verdicts(rows, (), dataset, 0).is_empty()


# -- bounds ----------------------------------------------------------------------------------------------------------


def slow_noise(seed: int, n: int = 304, horizon: int = 20, symbols: int = 8) -> tuple[Any, Any, pl.DataFrame]:
    """Daily labels 20 days long of symbols that share half their moves, and a slow score that knows nothing of them."""
    rng = np.random.default_rng(seed)
    size = n + horizon

    def slow() -> Any:
        shocks, out = rng.normal(size=size), np.zeros(size)
        for t in range(1, size):
            out[t] = 0.95 * out[t - 1] + shocks[t]
        return out

    market, common = rng.normal(size=size), slow()
    ys, ps = [], []
    for _ in range(symbols):
        path = np.cumsum(np.sqrt(0.5) * (market + rng.normal(size=size)))
        ahead = (path[horizon:] - path[:-horizon])[:n]
        lean = 1 / (1 + np.exp(-0.3 * np.sqrt(0.5) * (slow() + common)[:n]))
        wide = 0.8 * np.sqrt(horizon)
        ys.append(np.where(ahead > wide, 2, np.where(ahead < -wide, 0, 1)))
        ps.append(np.stack([0.7 * (1 - lean), np.full(n, 0.3), 0.7 * lean], axis=1))
    days = [START + timedelta(days=i) for i in range(n)]
    rows = pl.DataFrame({ID: np.repeat([f"s{k}" for k in range(symbols)], n), CUTOFF: days * symbols})
    return np.concatenate(ys), np.concatenate(ps), rows


def test_a_score_without_skill_is_called_skilled_in_at_most_seven_of_a_hundred_seeds() -> None:
    alarms = few = 0
    for seed in range(100):
        y, probs, rows = slow_noise(seed)
        value, statistic = direction_auc(y, probs), direction_draws(y, probs)
        blocks = label_blocks(rows, 20)
        low = lower_bound(value, block_bootstrap(blocks, statistic, draws=100, seed=1), blocks)
        alarms += low is not None and low > 0.5
        # forty blocks of a week are no independent evidence about labels of four weeks
        short = block_bootstrap(time_blocks(rows[CUTOFF].to_numpy()), statistic, draws=100, seed=1)
        few += float(np.quantile(short, 0.05)) > 0.5
    assert alarms <= 7
    assert few > 7


def test_a_block_lasts_three_horizons_on_the_clock_of_the_symbols_themselves() -> None:
    days = [START + timedelta(days=i) for i in range(600)]
    rows = pl.DataFrame({ID: ["a"] * 600, CUTOFF: days})
    assert np.bincount(label_blocks(rows, 20)).tolist() == [60] * 10
    turns = rows.with_columns(pl.Series(ID, ["a", "b", "c"] * 200))  # each symbol has every third day
    assert np.bincount(label_blocks(turns, 20)).tolist() == [200] * 3
    assert len(np.unique(label_blocks(rows, 1))) == 40


def test_fewer_than_four_blocks_bound_nothing() -> None:
    drawn = np.random.default_rng(0).normal(0.6, 0.01, 100)
    assert lower_bound(0.6, drawn, np.arange(3)) is None
    assert lower_bound(None, drawn, np.arange(9)) is None
    few, many = (lower_bound(0.6, drawn, np.arange(k)) for k in (5, 40))
    assert few is not None
    assert many is not None
    assert few < many < 0.6


def test_the_champion_gate_resamples_days_in_blocks_of_three_labels() -> None:
    rng = np.random.default_rng(2)
    n = 304
    parts = []
    for model in ("ensemble", "champion"):
        probs = rng.dirichlet(np.ones(3), n)
        frame = pl.DataFrame({ID: "a", TIME: [START + timedelta(days=i) for i in range(n)]}).with_columns(
            pl.col(TIME).alias(CUTOFF),
            pl.lit(20, dtype=pl.Int32).alias(HORIZON),
            pl.lit(model).alias(MODEL),
            pl.lit("usual").alias("segment"),
            pl.Series(TARGET, (np.arange(n) // 20) % 3),
            *(pl.Series(name, probs[:, k]) for k, name in enumerate(CLASS_PROBS)),
        )
        parts.append(class_loss(frame))
    mine, theirs = parts
    plan = GatePlan(draws=200)
    empty = pl.DataFrame(schema={MODEL: pl.String, HORIZON: pl.Int32})

    found = compare_classes(mine, theirs, theirs, plan, same_recipe=False, seed=1, verdicts=empty)

    long = paired_effect(mine, theirs, plan.model_copy(update={"block": 60}), seed=1)
    assert (found.low, found.high) == (long.low, long.high)
    # intraday bars: twenty of them last a day, and the plan's own six days are longer than three of those
    intraday = [
        part.with_columns((START + pl.int_range(pl.len()) * timedelta(hours=1)).alias(name) for name in (TIME, CUTOFF))
        for part in parts
    ]
    mine, theirs = intraday
    found = compare_classes(mine, theirs, theirs, plan, same_recipe=False, seed=1, verdicts=empty)
    mine, theirs = (part.with_columns(pl.col(CUTOFF).dt.truncate("1d")) for part in intraday)
    short = paired_effect(mine, theirs, plan, seed=1)
    assert (found.low, found.high) == (short.low, short.high)


# -- pairs of one fit ------------------------------------------------------------------------------------------------


def test_a_classifier_that_says_the_same_all_through_a_fold_ranks_nothing() -> None:
    rng = np.random.default_rng(3)
    folds = np.repeat(np.arange(4), 500)
    rate = np.repeat([0.3, 0.4, 0.6, 0.7], 500)
    y = np.where(rng.random(2000) < rate, 2, 0)
    probs = np.stack([1 - rate, np.zeros(2000), rate], axis=1)

    pooled, within = direction_auc(y, probs), direction_auc(y, probs, folds=folds)

    assert pooled is not None
    assert pooled > 0.6
    assert within == 0.5


def test_the_area_by_fold_is_the_mean_of_the_folds_areas_weighted_by_their_pairs() -> None:
    rng = np.random.default_rng(4)
    y, probs = rng.integers(0, 3, 900), rng.dirichlet(np.ones(3), 900).round(2)
    folds = np.repeat([7, 2, 5], [100, 300, 500])
    areas, pairs = [], []
    for fold in np.unique(folds):
        at = folds == fold
        areas.append(direction_auc(y[at], probs[at]))
        pairs.append(int((y[at] == 0).sum()) * int((y[at] == 2).sum()))

    found = direction_auc(y, probs, folds=folds)

    assert found == pytest.approx(np.average(np.asarray(areas, dtype=float), weights=pairs), abs=1e-12)
    rows = rng.integers(0, 900, 900)
    drawn = direction_draws(y, probs, folds=folds)(rows)
    assert drawn == pytest.approx(direction_auc(y[rows], probs[rows], folds=folds[rows]), abs=1e-12)
    assert direction_draws(y, probs)(np.arange(900)) == pytest.approx(direction_auc(y, probs), abs=1e-12)


def test_rows_are_numbered_by_the_fold_their_cutoff_lies_in() -> None:
    times = [START + timedelta(hours=i) for i in range(7)]
    folds = [Fold("one", None, START, (times[1], times[2])), Fold("two", None, START, (times[4], times[6]))]
    rows = with_folds(pl.DataFrame({CUTOFF: times}), folds)
    assert rows["fold"].to_list() == [None, 0, 0, None, 1, 1, 1]


# -- a year ----------------------------------------------------------------------------------------------------------


def stamps(keep: Any, step: timedelta, count: int) -> pl.DataFrame:
    return pl.DataFrame({ID: "a", TIME: [START + i * step for i in range(count)]}).filter(keep)


def test_a_year_of_currency_bars_holds_the_sundays_on_which_they_trade() -> None:
    hour = pl.col(TIME).dt.weekday().cast(pl.Int32) * 24 + pl.col(TIME).dt.hour()
    week = ((hour >= 7 * 24 + 22) | (hour < 5 * 24 + 22)) & (hour >= 24)  # Sunday 22:00 to Friday 22:00
    bars = stamps(week, timedelta(hours=1), 24 * 7 * 104)
    schema = BarsSchema(freq="h", calendar="weekdays")
    assert schema.days_per_year == 252
    assert schema.counted(bars).days_per_year == pytest.approx(6 * 365.25 / 7, rel=0.01)
    assert schema.counted(bars).bars_per_year == pytest.approx(120 * 365.25 / 7, rel=0.01)


def test_a_year_of_a_day_session_holds_its_own_bars_and_not_those_of_the_night() -> None:
    minute = pl.col(TIME).dt.hour().cast(pl.Int32) * 60 + pl.col(TIME).dt.minute().cast(pl.Int32)
    session = (pl.col(TIME).dt.weekday() <= 5) & minute.is_between(570, 955)
    bars = stamps(session, timedelta(minutes=5), 288 * 364)
    schema = BarsSchema(freq="5min", calendar="weekdays")
    assert schema.bars_per_year > 75_000
    assert schema.counted(bars).bars_per_year == pytest.approx(78 * 5 * 365.25 / 7, rel=0.01)
    assert schema.counted(bars.head(78 * 30)).bars_per_year == 78 * 252  # too short to count a year's days


def test_what_is_not_counted_is_not_written_and_what_is_comes_back() -> None:
    schema = BarsSchema(freq="h")
    assert {"counted_days", "counted_bars"}.isdisjoint(schema.model_dump(mode="json"))
    counted = schema.counted(stamps(pl.lit(True), timedelta(hours=1), 24 * 200))
    assert BarsSchema.model_validate(counted.model_dump(mode="json")) == counted
    assert counted.days_per_year == pytest.approx(365.25)
    assert counted.counted(stamps(pl.lit(True), timedelta(hours=5), 24 * 200)) == counted


# -- trials ----------------------------------------------------------------------------------------------------------


def recipe(c: float = 1.0, **changes: Any) -> Recipe:
    models = (
        ModelChoice(name="climatology", label="climatology"),
        ModelChoice(name="logistic", label="logistic", params={"c": c}),
    )
    return Recipe(horizon=5, features=(FeatureChoice(name="plain10"),), models=models, **changes)


def test_trials_of_earlier_nights_count_once_each(tmp_path: Any) -> None:
    book = TrialBook(tmp_path / "trials" / "markets.json")
    first = recipe_trials(recipe(), ["climatology"], (1, 5))
    assert len(first) == 4  # the learner and the ensemble, at two horizons
    assert book.add(first) == 4
    assert book.add(first) == 4  # the same recipe on newer data
    assert book.add(recipe_trials(recipe(c=0.1), ["climatology"], (1, 5))) == 8
    assert TrialBook(book.path).add(()) == 8
    assert [path.name for path in book.path.parent.iterdir()] == ["markets.json"]


def test_a_trial_is_not_made_new_by_a_label_and_is_by_other_costs() -> None:
    plain = recipe()
    line = plain.models[1].model_copy(update={"label": "other name"})
    named = plain.model_copy(update={"models": (plain.models[0], line)})
    assert recipe_trials(plain, ["climatology"], (1,))[0] == recipe_trials(named, ["climatology"], (1,))[0]
    dear = recipe(preparation={"costs": {"fee_bps": 5}})
    assert set(recipe_trials(plain, ["climatology"], (1,))).isdisjoint(recipe_trials(dear, ["climatology"], (1,)))


def test_a_night_adds_its_trials_to_the_book_of_its_workload_and_a_panel_has_none(tmp_path: Any) -> None:
    baseline = SimpleNamespace(capabilities=SimpleNamespace(baseline=True))
    learner = SimpleNamespace(capabilities=SimpleNamespace(baseline=False))
    workload: Any = SimpleNamespace(name="markets", catalog={"climatology": baseline, "logistic": learner})
    data = crash_then_outage()
    assert ever_tried(workload, recipe(), data, tmp_path) == 2
    assert ever_tried(workload, recipe(c=3.0), data, tmp_path) == 4
    assert TrialBook(tmp_path / "markets.json").add(()) == 4
    assert ever_tried(workload, recipe(), SimpleNamespace(schema=SimpleNamespace(horizon=12)), tmp_path) is None


@pytest.mark.parametrize("text", ["{", '{"a": 1}', "[1, 2]"])
def test_a_broken_book_of_trials_stops_the_count(tmp_path: Any, text: str) -> None:
    path = tmp_path / "markets.json"
    path.write_text(text)
    with pytest.raises(RegistryError, match=r"markets\.json"):
        TrialBook(path).add(["a"])


def test_more_trials_deflate_the_ratio_further() -> None:
    dataset = crash_then_outage()
    rows = score_rows(always_long(dataset), dataset, SimpleNamespace(scale=scale_of))  # type: ignore[arg-type]
    rng = np.random.default_rng(1)
    parts = [
        rows.with_columns(
            pl.lit(f"m{k}").alias(MODEL), pl.Series(SIGNAL, rng.integers(-1, 2, rows.height), dtype=pl.Int8)
        )
        for k in range(3)
    ]
    tonight, ever = (market_verdicts(pl.concat(parts), (), dataset, 0, trials=t) for t in (None, 500))
    assert tonight["trials"].to_list() == [3] * 3
    assert ever["trials"].to_list() == [500] * 3
    assert (ever["dsr"] < tonight["dsr"]).all()
    assert (ever["sharpe_error"] > 0).all()


# -- capacity --------------------------------------------------------------------------------------------------------


def test_break_even_costs_use_up_the_gain_and_capacity_is_a_share_of_the_bars_turnover() -> None:
    n = 50
    price = 100.0 * 1.001 ** np.arange(n)
    times = [START + timedelta(hours=i) for i in range(n)]
    bars = pl.DataFrame({ID: "a", TIME: times, "session": 0, "open": price, "close": price, "volume": 1e4})
    signals = bars.select(ID, TIME).with_columns(pl.Series(SIGNAL, [1] * 40 + [0] * 10, dtype=pl.Int8))
    test = run_backtest(bars, signals, horizon=1, costs=COSTS)

    bps = breakeven_bps(test)

    assert bps is not None
    free = run_backtest(bars, signals, horizon=1, costs=COSTS, cost_factor=bps / (COSTS.side * 1e4))
    assert float(free.bars["net"].sum()) == pytest.approx(0.0, abs=1e-12)
    # one order in and one out, of the whole capital
    worth = 1e4 * np.median(price[[1, 41]])
    assert capacity(test, bars) == pytest.approx(0.01 * worth)
    assert capacity(test, bars.with_columns(volume=pl.lit(0.0))) is None
    flat = run_backtest(bars, signals.with_columns(pl.lit(0, dtype=pl.Int8).alias(SIGNAL)), horizon=1, costs=COSTS)
    assert breakeven_bps(flat) is None
    assert capacity(flat, bars) is None
