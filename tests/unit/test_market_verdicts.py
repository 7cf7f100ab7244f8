"""The three verdicts and the gate that asks them, on rows whose skill is known."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import numpy as np
import polars as pl
import pytest

from nightcast.contracts.bars import BarDataset
from nightcast.contracts.columns import CLASS_PROBS, CUTOFF, HORIZON, ID, LABEL_END, MODEL, SIGNAL, TARGET, TIME
from nightcast.contracts.recipe import GatePlan
from nightcast.contracts.schema import BarsSchema, CostPlan, LabelPlan
from nightcast.evaluation.class_scores import class_loss
from nightcast.evaluation.market_verdicts import compare_classes, market_verdicts, trading_baselines

START = datetime(2022, 1, 3)
HOUR = timedelta(hours=1)
BASELINES = ("climatology", "volatility_only")


def market(n: int = 6000, *, seed: int = 0, planted: bool = False, cost: float = 1.0) -> tuple[BarDataset, np.ndarray]:
    """Hourly bars of one symbol with clustered volatility, and the log return of each bar's next one."""
    rng = np.random.default_rng(seed)
    wild = np.where((np.arange(n) // 200) % 2 == 0, 0.002, 0.012)
    move = wild * rng.standard_t(5, n) / np.sqrt(5 / 3)
    close = 100 * np.exp(np.cumsum(move))
    open_ = np.append(100.0, close[:-1])
    frame = pl.DataFrame(
        {
            ID: ["a"] * n,
            TIME: [START + i * HOUR for i in range(n)],
            "segment": [0] * n,
            "session": [0] * n,
            "open": open_,
            "high": np.maximum(open_, close) * 1.0005,
            "low": np.minimum(open_, close) / 1.0005,
            "close": close,
            "volume": np.ones(n),
            "sigma": wild,
        }
    )
    schema = BarsSchema(freq="h", horizons=(1,), calendar="continuous", planted=planted)
    costs = CostPlan(fee_bps=cost, half_spread_bps=0, slippage_bps=0)
    dataset = BarDataset(frame, schema, {}, {}, START + (n - 1) * HOUR, 0, LabelPlan(), costs)
    return dataset, np.append(move[1:], 0.0)


def judged(
    dataset: BarDataset, ahead: np.ndarray, *, skill: dict[str, float], seed: int = 0, trade: bool = True
) -> pl.DataFrame:
    """Rows of one-bar labels. A model knows volatility, and the direction as far as its skill (a correlation) goes.

    Skill nan: knows neither (class shares alone).
    """
    rng = np.random.default_rng(seed)
    frame = dataset.frame
    sigma = frame["sigma"].to_numpy()
    width = 0.004
    y = np.where(ahead > width, 2, np.where(ahead < -width, 0, 1)).astype(np.int8)
    n = len(y)
    parts = []
    for name, rho in skill.items():
        if np.isnan(rho):
            probs = np.tile(np.bincount(y, minlength=3) / n, (n, 1))
            view = np.zeros(n)
        else:
            noise = rng.normal(0, 1, n)
            view = rho * ahead / sigma + np.sqrt(1 - rho**2) * noise if rho else noise * 0.0
            active = np.where(sigma > 0.004, 0.36, 0.03)
            tilt = 1 / (1 + np.exp(-2 * rho * view)) if rho else np.full(n, 0.5)
            probs = np.stack([2 * active * (1 - tilt), 1 - 2 * active, 2 * active * tilt], axis=1)
        signal = np.sign(view).astype(np.int8) * (np.abs(view) > 0.5) if trade else np.zeros(n, dtype=np.int8)
        parts.append(
            frame.select(ID, TIME, pl.col(TIME).alias(CUTOFF)).with_columns(
                pl.lit(1, dtype=pl.Int32).alias(HORIZON),
                pl.lit(name).alias(MODEL),
                *(pl.Series(c, probs[:, k]) for k, c in enumerate(CLASS_PROBS)),
                pl.Series(SIGNAL, signal).cast(pl.Int8),
                pl.Series(TARGET, y),
                (pl.col(TIME) + HOUR).alias(LABEL_END),
                pl.Series("ret", ahead),
            )
        )
    return pl.concat(parts)


def verdict(table: pl.DataFrame, model: str) -> dict[str, Any]:
    return table.filter(pl.col(MODEL) == model).row(0, named=True)


def test_a_model_that_knows_volatility_alone_passes_neither_skill_nor_money_over_five_seeds() -> None:
    for seed in range(5):
        dataset, ahead = market(seed=seed)
        skill = {"climatology": float("nan"), "volatility_only": 0.0, "ensemble": 0.0}
        rows = judged(dataset, ahead, skill=skill, seed=seed)
        found = verdict(market_verdicts(rows, BASELINES, dataset, seed), "ensemble")
        assert not found["skill_gate"]
        assert not found["economic_gate"]
        assert found["brier_skill"] > 0  # volatility is worth something, and is not skill


def test_volatility_alone_reaches_a_macro_f1_that_looks_like_skill() -> None:
    dataset, ahead = market()
    rows = judged(dataset, ahead, skill={"climatology": float("nan"), "volatility_only": 0.0, "ensemble": 0.0})
    calls = rows.with_columns(
        pl.when(pl.col("p_neutral") < 0.9).then(0.32).otherwise(pl.col("p_neutral")).alias("p_neutral")
    )
    rest = (1 - pl.col("p_neutral")) / 2
    coin = pl.col(TIME).dt.hour() % 2  # a side for every bar, drawn by the clock
    calls = calls.with_columns((rest * (0.999 + 0.002 * coin)).alias("p_long"))
    calls = calls.with_columns((1 - pl.col("p_neutral") - pl.col("p_long")).alias("p_short"))
    found = verdict(market_verdicts(calls, BASELINES, dataset, 0), "ensemble")
    assert found["macro_f1"] > 0.40
    assert not found["skill_gate"]
    assert "skill:" in found["why"]


def test_a_real_edge_passes_all_three_on_a_market_that_says_it_is_planted() -> None:
    dataset, ahead = market(12_000, planted=True, cost=0.2)
    rows = judged(dataset, ahead, skill={"climatology": float("nan"), "volatility_only": 0.0, "ensemble": 0.35})
    found = verdict(market_verdicts(rows, BASELINES, dataset, 0), "ensemble")
    assert found["seed_gate"]
    assert found["skill_gate"], found["why"]
    assert found["economic_gate"] or found["why"] == "economic: PBO none", found["why"]
    assert not found["leak_alarm"]


def test_the_same_edge_on_a_market_that_plants_nothing_rings_the_leak_alarm() -> None:
    dataset, ahead = market(12_000, cost=0.2)
    rows = judged(dataset, ahead, skill={"climatology": float("nan"), "volatility_only": 0.0, "ensemble": 0.5})
    found = verdict(market_verdicts(rows, BASELINES, dataset, 0), "ensemble")
    assert found["leak_alarm"]
    assert found["why"].startswith("too good to be true")


def test_without_its_yardsticks_the_skill_gate_is_shut_and_says_why() -> None:
    dataset, ahead = market(12_000, planted=True)
    rows = judged(dataset, ahead, skill={"ensemble": 0.35})
    found = verdict(market_verdicts(rows, (), dataset, 0), "ensemble")
    assert not found["skill_gate"]
    assert "Brier skill none" in found["why"]
    assert "excess F1 over volatility alone none" in found["why"]


def test_no_trade_is_no_profit_and_no_ratio() -> None:
    dataset, ahead = market()
    skill = {"climatology": float("nan"), "volatility_only": 0.0, "ensemble": 0.2}
    found = verdict(
        market_verdicts(judged(dataset, ahead, skill=skill, trade=False), BASELINES, dataset, 0), "ensemble"
    )
    assert found["sharpe"] is None
    assert found["trades"] == 0
    assert not found["economic_gate"]


def test_a_profit_that_doubled_costs_eat_is_no_profit() -> None:
    dataset, ahead = market(12_000, planted=True, cost=8.0)
    rows = judged(dataset, ahead, skill={"climatology": float("nan"), "volatility_only": 0.0, "ensemble": 0.2})
    found = verdict(market_verdicts(rows, BASELINES, dataset, 0), "ensemble")
    assert found["sharpe_2x"] < 0
    assert not found["economic_gate"]


def test_no_rows_have_no_verdicts() -> None:
    dataset, ahead = market(300)
    rows = judged(dataset, ahead, skill={"ensemble": 0.0}).clear()
    assert market_verdicts(rows, BASELINES, dataset, 0).height == 0


def gate(
    rows: pl.DataFrame, champion: pl.DataFrame | None, dataset: BarDataset, *, same_recipe: bool = False, seed: int = 0
) -> Any:
    scored = class_loss(rows).with_columns(pl.lit("usual").alias("segment"))
    mine = scored.filter(pl.col(MODEL) == "ensemble")
    theirs = None if champion is None else class_loss(champion).with_columns(pl.lit("usual").alias("segment"))
    table = market_verdicts(rows, BASELINES, dataset, seed)
    naive = scored.filter(pl.col(MODEL) == "volatility_only")
    return compare_classes(mine, theirs, naive, GatePlan(draws=200), same_recipe=same_recipe, seed=seed, verdicts=table)


def test_nothing_passed_promotes_nothing_and_names_the_gates() -> None:
    dataset, ahead = market(2400)
    rows = judged(dataset, ahead, skill={"climatology": float("nan"), "volatility_only": 0.0, "ensemble": 0.0})
    decision = gate(rows, None, dataset)
    assert decision.kind == "none"
    assert not decision.promote
    assert "skill_gate" in decision.reason
    assert "economic_gate" in decision.reason


def test_a_champion_stays_when_the_challenger_shows_no_skill() -> None:
    dataset, ahead = market(2400)
    rows = judged(dataset, ahead, skill={"climatology": float("nan"), "volatility_only": 0.0, "ensemble": 0.0})
    champion = judged(dataset, ahead, skill={"ensemble": 0.1}, seed=5)
    decision = gate(rows, champion, dataset)
    assert decision.kind == "keep"
    assert not decision.promote


def test_a_signal_is_preferred_to_noise_and_noise_is_never_promoted_over_noise_in_twenty_seeds() -> None:
    preferred = promoted = 0
    for seed in range(20):
        dataset, ahead = market(4800, seed=seed, planted=True)
        skill = {"climatology": float("nan"), "volatility_only": 0.0, "ensemble": 0.15}
        noise = judged(dataset, ahead, skill={"ensemble": 0.0}, seed=seed + 100)
        better = gate(judged(dataset, ahead, skill=skill, seed=seed), noise, dataset, seed=seed)
        preferred += better.high is not None and better.high < 0
        other = gate(judged(dataset, ahead, skill={**skill, "ensemble": 0.0}, seed=seed), noise, dataset, seed=seed)
        promoted += other.promote
    assert preferred >= 19
    assert promoted <= 1


def test_buy_and_hold_and_random_entries_stand_beside_a_model() -> None:
    dataset, ahead = market(2400, cost=0.0)
    rows = judged(dataset, ahead, skill={"ensemble": 0.3})
    table = trading_baselines(rows, dataset, seed=1, draws=40)
    assert table["rule"].to_list() == ["buy_and_hold", "random_entry"]
    random = table.row(1, named=True)
    assert random["low"] < random["sharpe"] < random["high"]
    with_skill = verdict(market_verdicts(rows, (), dataset, 0), "ensemble")["sharpe"]
    assert with_skill > random["high"]


@pytest.mark.parametrize("column", ["seed_gate", "skill_gate", "economic_gate", "leak_alarm"])
def test_gates_are_boolean_columns_of_every_row(column: str) -> None:
    dataset, ahead = market(1200)
    rows = judged(dataset, ahead, skill={"climatology": float("nan"), "volatility_only": 0.0, "ensemble": 0.1})
    table = market_verdicts(rows, BASELINES, dataset, 0)
    assert table[column].dtype == pl.Boolean
    assert table[column].null_count() == 0
