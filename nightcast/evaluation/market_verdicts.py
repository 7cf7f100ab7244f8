"""Three verdicts per model and horizon, what stands beside them, and the champion gate that asks them.

`seed_gate`: macro-F1 and a Sharpe ratio above fixed bars; a model without skill passes it often, so the chance of that
is printed beside it. `skill_gate`: better than a model that knows volatility alone, with direction, in most folds.
`economic_gate`: profit after costs that neither luck, nor the number of trials, nor doubled costs explain.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from nightcast.contracts.columns import (
    CLASS_PROBS,
    CLOSE,
    CUTOFF,
    HORIZON,
    ID,
    LONG,
    MODEL,
    NEUTRAL,
    SHORT,
    SIGNAL,
    TARGET,
    TIME,
    VOLUME,
)
from nightcast.contracts.decision import Decision, Guard
from nightcast.contracts.prediction import argmax_signal
from nightcast.contracts.recipe import GatePlan
from nightcast.evaluation.backtest import Backtest, run_backtest
from nightcast.evaluation.class_scores import (
    BLOCK_HORIZONS,
    CLIMATOLOGY,
    block_bootstrap,
    class_scores,
    direction_auc,
    direction_draws,
    expected_calibration_error,
    folds_of,
    label_blocks,
    lower_bound,
    time_blocks,
)
from nightcast.evaluation.comparison import decide
from nightcast.evaluation.sharpe import (
    deflated_sharpe,
    join_days,
    moments,
    newey_west_error,
    pbo_cscv,
    probabilistic_sharpe,
    zero_skill_probability,
)

Floats = NDArray[np.float64]

VOLATILITY_ONLY: Final = "volatility_only"
ENSEMBLE: Final = "ensemble"


@dataclass(frozen=True)
class Limits:
    """Where the gates stand.

    Attributes
    ----------
    seed_f1, seed_sharpe
        The seed gate's bars; the second on at least one horizon of the model.
    tail
        One-sided tail of the bootstrap's lower bounds.
    parts
        Equal stretches of time that skill is asked in, standing for folds; `held` of them must show it.
    """

    seed_f1: float = 0.35
    seed_sharpe: float = 0.3
    tail: float = 0.05
    draws: int = 200
    parts: int = 6
    held: float = 2 / 3
    probabilistic: float = 0.95
    deflated: float = 0.95
    overfitting: float = 0.2
    trades: int = 200
    month: float = 0.5
    collapse: float = 0.5
    leak_auc: float = 0.65
    leak_sharpe: float = 4.0


LIMITS: Final = Limits()


def market_verdicts(
    rows: pl.DataFrame,
    baselines: Sequence[str],
    dataset: Any,
    seed: int,
    *,
    trials: int | None = None,
    limits: Limits = LIMITS,
) -> pl.DataFrame:
    """One row per model and horizon: numbers, the three gates, `leak_alarm`, and `why` not.

    Parameters
    ----------
    rows
        Out-of-fold rows `unique_id, ds, cutoff, horizon, model, p_short, p_neutral, p_long, signal, y`, and `fold`
        where they come from several fits. Rows whose `y` is null are traded and not scored; a model and horizon
        without any known label has no verdict.
    baselines
        Labels of the baselines; `volatility_only` and `climatology` among the rows are the yardsticks of skill, and
        without them the skill gate is shut.
    dataset
        The bars to trade on.
    trials
        Trials in all, searches before tonight included; at least every model (baselines aside) and horizon here.
    """
    if rows.is_empty():
        return pl.DataFrame(schema={MODEL: pl.String, HORIZON: pl.Int32})
    schema = dataset.schema
    split = rows.sort(ID, TIME).partition_by(MODEL, HORIZON, as_dict=True, maintain_order=True)
    parts = {(str(model), int(h)): its for (model, h), its in split.items() if its.get_column(TARGET).count()}
    if not parts:
        return pl.DataFrame(schema={MODEL: pl.String, HORIZON: pl.Int32})
    tests = {
        key: run_backtest(dataset.frame, its.select(ID, TIME, SIGNAL), horizon=key[1], costs=dataset.costs)
        for key, its in parts.items()
    }
    records = {
        key: (test.daily.get_column("day").to_numpy(), test.daily.get_column("net").to_numpy())
        for key, test in tests.items()
    }
    order = sorted(parts)
    matrix = join_days([records[key] for key in order])
    # a yardstick is no trial: nobody would choose it for its ratio, and its costs alone would blow up the spread
    tried = [j for j, key in enumerate(order) if key[0] not in set(baselines)]
    traded = [j for j in tried if tests[order[j]].trades.height]
    ratios = np.array([moments(matrix[:, j])[0] for j in traded])
    spread = float(ratios.std(ddof=1)) if len(ratios) > 1 else 0.0
    counted = max(trials or 0, len(tried), 1)
    blocks = 16 if len(matrix) >= 64 else 8 if len(matrix) >= 16 else 0
    pbo = pbo_cscv(matrix[:, traded], blocks=blocks, seed=seed) if len(traded) > 1 and blocks else None
    years = len(matrix) / schema.days_per_year
    luck = zero_skill_probability(years, len(schema.horizons), threshold=limits.seed_sharpe) if years > 0 else None
    out: list[dict[str, Any]] = []
    for model, horizon in order:
        key = (model, horizon)
        part, test = parts[key], tests[key]
        yardsticks = parts.get((VOLATILITY_ONLY, horizon)), parts.get((CLIMATOLOGY, horizon))
        skill = _skill(part, *yardsticks, model, horizon, seed, limits)
        # every trial counts whole: what they have in common is in the spread of their ratios already
        money = _money(part, test, dataset, horizon, spread, counted, pbo)
        out.append({MODEL: model, HORIZON: horizon} | skill | money | {"luck": luck, "trials": counted})
    best: dict[Any, float] = {}
    for row in out:
        if row["seed_sharpe"] is not None:
            best[row[MODEL]] = max(best.get(row[MODEL], -np.inf), row["seed_sharpe"])
    if schema.planted:
        limits = replace(limits, leak_auc=1.0, leak_sharpe=math.inf)
    judged = [_gates(row, best.get(row[MODEL]), limits) for row in out]
    names = (
        *(MODEL, HORIZON, "seed_gate", "skill_gate", "economic_gate", "leak_alarm", "why"),
        *("macro_f1", "f1_excess", "f1_excess_low", "direction_auc", "auc_low", "brier_skill", "parts_held"),
        *(
            "seed_sharpe",
            "sharpe",
            "gross_sharpe",
            "sharpe_2x",
            "sharpe_error",
            "psr",
            "dsr",
            "pbo",
            "trades",
            "turnover",
            "breakeven_bps",
            "capacity",
            "worst_month_share",
        ),
        *("collapse", "luck", "trials"),
    )
    frame = pl.DataFrame([{name: row[name] for name in names} for row in judged], infer_schema_length=None)
    whole = {"trades": pl.Int64, "trials": pl.Int64, HORIZON: pl.Int32}
    floats = [name for name in names if name not in (MODEL, "why", "leak_alarm", *whole) and not name.endswith("_gate")]
    return frame.with_columns(pl.col(floats).cast(pl.Float64), *(pl.col(n).cast(t) for n, t in whole.items()))


def _skill(
    part: pl.DataFrame,
    volatility: pl.DataFrame | None,
    climatology: pl.DataFrame | None,
    model: str,
    horizon: int,
    seed: int,
    limits: Limits,
) -> dict[str, Any]:
    """Scores of the known labels beside the yardsticks, with block-bootstrap lower bounds."""
    part = part.drop_nulls(TARGET)
    y, probs = _arrays(part)
    scores = class_scores(y, probs, folds=folds_of(part))
    blocks = label_blocks(part, horizon)
    out: dict[str, Any] = {
        "macro_f1": scores["macro_f1"],
        "direction_auc": scores["direction_auc"],
        "f1_excess": None,
        "f1_excess_low": None,
        "auc_low": None,
        "brier_skill": None,
        "parts_held": None,
        "collapse": _collapse(y, probs),
    }
    aucs = block_bootstrap(blocks, direction_draws(y, probs, folds=folds_of(part)), draws=limits.draws, seed=seed)
    out["auc_low"] = lower_bound(out["direction_auc"], aucs, blocks, limits.tail)
    if climatology is not None:
        both = part.join(climatology.select(ID, TIME, *(pl.col(c).alias(f"_{c}") for c in CLASS_PROBS)), on=[ID, TIME])
        cy, cp = _arrays(both)
        reference = both.select(f"_{c}" for c in CLASS_PROBS).to_numpy()
        hot = np.eye(3)[cy]
        lost = float(((reference - hot) ** 2).sum())
        out["brier_skill"] = 1 - float(((cp - hot) ** 2).sum()) / lost if lost > 0 else None
    if volatility is not None and model != VOLATILITY_ONLY:
        both = part.join(volatility.select(ID, TIME, *(pl.col(c).alias(f"_{c}") for c in CLASS_PROBS)), on=[ID, TIME])
        vy, vp = _arrays(both)
        mine = vp.argmax(axis=1)
        other = _without_direction(vy, both.select(f"_{c}" for c in CLASS_PROBS).to_numpy(), mine)
        own_blocks = label_blocks(both, horizon)
        out["f1_excess"] = _macro_f1(vy, mine) - _macro_f1(vy, other)
        drawn = block_bootstrap(
            own_blocks,
            lambda at: _macro_f1(vy[at], mine[at]) - _macro_f1(vy[at], other[at]),
            draws=limits.draws,
            seed=seed,
        )
        out["f1_excess_low"] = lower_bound(out["f1_excess"], drawn, own_blocks, limits.tail)
        stretch = time_blocks(both.get_column(CUTOFF).to_numpy(), limits.parts)
        folds = folds_of(both)
        held = 0
        for number in range(limits.parts):
            at = stretch == number
            auc = direction_auc(vy[at], vp[at], folds=None if folds is None else folds[at])
            better = at.any() and _macro_f1(vy[at], mine[at]) > _macro_f1(vy[at], other[at])
            held += int(bool(better) and auc is not None and auc > 0.5)
        out["parts_held"] = held / limits.parts
    return out


def _without_direction(y: NDArray[np.int64], probs: Floats, mine: NDArray[np.int64]) -> NDArray[np.int64]:
    """What the yardstick of skill calls, as well as it can without naming a side on purpose.

    Macro-F1 hangs on how evenly classes are called. Which of two nearly equal sides the yardstick names more often, and
    how often it says neutral, are accidents of its fit, and a model that calls more evenly would look better by it. So
    it may draw its sides by a coin, and say neutral as often as the model it is compared with (`mine`), where it finds
    neutral most probable: the best of the three is the yardstick.
    """
    own = probs.argmax(axis=1)
    side = np.where(np.random.default_rng(0).random(len(own)) < 0.5, LONG, SHORT)
    order = np.argsort(-probs[:, NEUTRAL], kind="stable")
    as_often = side.copy()
    as_often[order[: int((mine == NEUTRAL).sum())]] = NEUTRAL
    return max(own, np.where(own == NEUTRAL, own, side), as_often, key=lambda told: _macro_f1(y, told))


def _money(
    part: pl.DataFrame,
    test: Backtest,
    dataset: Any,
    horizon: int,
    spread: float,
    trials: float,
    pbo: float | None,
) -> dict[str, Any]:
    schema = dataset.schema
    metrics = test.metrics(days_per_year=schema.days_per_year, bars_per_year=schema.bars_per_year)
    # the specification's own rule: the most probable class, before costs
    plain = run_backtest(
        dataset.frame,
        part.select(ID, TIME, argmax_signal()),
        horizon=horizon,
        costs=dataset.costs,
        cost_factor=0.0,
    ).metrics(days_per_year=schema.days_per_year, bars_per_year=schema.bars_per_year)
    out = {name: metrics[name] for name in ("sharpe", "gross_sharpe", "trades", "turnover", "worst_month_share")}
    out |= {"sharpe_2x": None, "psr": None, "dsr": None, "pbo": pbo, "seed_sharpe": plain["sharpe"]}
    out |= {"sharpe_error": None, "breakeven_bps": breakeven_bps(test), "capacity": capacity(test, dataset.frame)}
    if metrics["sharpe"] is None:
        return out
    net = test.daily.get_column("net").to_numpy()
    # positions last as long as labels do, so days as far apart share some of theirs
    error = newey_west_error(net, max(5, 2 * _label_days(part)))
    out["sharpe_error"] = error * math.sqrt(schema.days_per_year) if math.isfinite(error) else None
    ratio, periods, skew, kurtosis = moments(net)
    out["psr"] = probabilistic_sharpe(ratio, periods, skew, kurtosis)
    out["dsr"] = deflated_sharpe(ratio, periods, skew, kurtosis, spread=spread, trials=trials)
    dear = run_backtest(
        dataset.frame, part.select(ID, TIME, SIGNAL), horizon=horizon, costs=dataset.costs, cost_factor=2.0
    )
    out["sharpe_2x"] = dear.metrics(days_per_year=schema.days_per_year, bars_per_year=schema.bars_per_year)["sharpe"]
    return out


def breakeven_bps(test: Backtest) -> float | None:
    """Cost of a side, in basis points, at which the gain is used up; None without a gain or a trade."""
    gross, traded = (float(test.bars.get_column(name).sum()) for name in ("gross", "traded"))
    return gross / traded * 1e4 if gross > 0 and traded > 0 else None


def capacity(test: Backtest, bars: pl.DataFrame, share: float = 0.01) -> float | None:
    """Capital of one symbol at which its median order is `share` of what its bar trades (volume times close).

    In the prices' currency where volume counts units; None where the bars have no volume, or nothing was traded. An
    order of magnitude: no price impact is modelled.
    """
    if VOLUME not in bars.columns:
        return None
    orders = test.bars.filter(pl.col("traded") > 0).select(ID, TIME, "traded")
    worth = (pl.col(VOLUME) * pl.col(CLOSE) / pl.col("traded")).cast(pl.Float64)
    found = orders.join(bars.select(ID, TIME, VOLUME, CLOSE), on=[ID, TIME]).select(worth).to_series()
    middle = found.filter(found.is_finite()).median()
    return share * float(middle) if middle else None  # type: ignore[arg-type]


def _gates(row: dict[str, Any], best_sharpe: float | None, limits: Limits) -> dict[str, Any]:
    """The row with its gates and what shut them."""

    def number(value: float | None) -> str:
        return "none" if value is None else f"{value:.3g}"

    def above(value: float | None, bar: float) -> bool:
        return value is not None and value > bar

    seed = {
        f"macro-F1 {number(row['macro_f1'])}, not above {limits.seed_f1}": above(row["macro_f1"], limits.seed_f1),
        f"Sharpe before costs {number(best_sharpe)} at best, not above {limits.seed_sharpe}": (
            above(best_sharpe, limits.seed_sharpe)
        ),
    }
    skill = {
        f"excess F1 over volatility alone {number(row['f1_excess'])} (lower bound {number(row['f1_excess_low'])})": (
            above(row["f1_excess_low"], 0.0)
        ),
        f"direction AUC {number(row['direction_auc'])} (lower bound {number(row['auc_low'])})": (
            above(row["auc_low"], 0.5)
        ),
        f"Brier skill {number(row['brier_skill'])}": above(row["brier_skill"], 0.0),
        f"better in {number(row['parts_held'])} of the time": above(row["parts_held"], limits.held - 1e-9),
    }
    money = {
        f"net Sharpe {number(row['sharpe'])}": above(row["sharpe"], 0.0),
        f"PSR {number(row['psr'])}": above(row["psr"], limits.probabilistic - 1e-12),
        f"DSR {number(row['dsr'])}": above(row["dsr"], limits.deflated - 1e-12),
        f"PBO {number(row['pbo'])}": row["pbo"] is not None and row["pbo"] < limits.overfitting,
        f"Sharpe at doubled costs {number(row['sharpe_2x'])}": above(row["sharpe_2x"], 0.0),
        f"{row['trades']} trades, fewer than {limits.trades}": row["trades"] >= limits.trades,
        f"largest month {number(row['worst_month_share'])} of the profit": (
            row["worst_month_share"] is not None and row["worst_month_share"] <= limits.month
        ),
    }
    failed = {
        name: [words for words, passed in checks.items() if not passed]
        for name, checks in (("seed", seed), ("skill", skill), ("economic", money))
    }
    why = "; ".join(f"{name}: {', '.join(words)}" for name, words in failed.items() if words)
    leak = above(row["direction_auc"], limits.leak_auc) or above(row["sharpe"], limits.leak_sharpe)
    if leak:
        why = f"too good to be true, look for a leak. {why}".strip()
    return row | {f"{name}_gate": not words for name, words in failed.items()} | {"leak_alarm": leak, "why": why}


def _arrays(part: pl.DataFrame) -> tuple[NDArray[np.int64], Floats]:
    return part.get_column(TARGET).cast(pl.Int64).to_numpy(), part.select(CLASS_PROBS).to_numpy()


def _macro_f1(y: NDArray[np.int64], told: NDArray[np.int64]) -> float:
    confusion = np.bincount(y * 3 + told, minlength=9).reshape(3, 3)
    both = confusion.sum(axis=0) + confusion.sum(axis=1)
    return float((2 * np.diag(confusion) / np.maximum(both, 1))[both > 0].mean()) if len(y) else 0.0


def _collapse(y: NDArray[np.int64], probs: Floats) -> float:
    """Kullback-Leibler divergence of the classes' mean probabilities from their true shares.

    Of probabilities, not of named classes: without a signal an honest model always names the majority.
    """
    shares, prior = probs.mean(axis=0), np.bincount(y, minlength=probs.shape[1]) / max(1, len(y))
    used = shares > 0
    return float((shares[used] * np.log(shares[used] / np.maximum(prior[used], 1e-6))).sum())


def class_guards(verdicts: pl.DataFrame) -> Any:
    """Guards of a challenger of classes: gates on at least one horizon, no leak alarm, calibration not worse."""

    def guards(own: pl.DataFrame, other: pl.DataFrame, name: str, _plan: GatePlan) -> list[Guard]:
        mine = verdicts.filter(pl.col(MODEL) == ENSEMBLE) if verdicts.height else verdicts
        found = []
        skilled: set[int] = set()
        for gate in ("skill", "economic"):
            passed = mine.filter(pl.col(f"{gate}_gate")).get_column(HORIZON).to_list() if mine.height else []
            skilled = set(passed) if gate == "skill" else skilled & set(passed)
            words = f"horizons that pass the {gate} gate, at least one"
            found.append(Guard(f"{gate}_gate", float(len(passed)), words, bool(passed)))
        found.append(Guard("both_gates", float(len(skilled)), "horizons that pass both, at least one", bool(skilled)))
        alarms = mine.filter("leak_alarm").height if mine.height else 0
        found.append(Guard("leak_alarm", float(alarms), "no horizon too good to be true", alarms == 0))
        worst = max(mine.get_column("collapse").drop_nulls().to_list(), default=0.0) if mine.height else 0.0
        words = f"divergence of stated from true class shares at most {LIMITS.collapse:g} on every horizon"
        found.append(Guard("collapse", worst, words, worst <= LIMITS.collapse))
        ours, theirs = (expected_calibration_error(*_arrays(rows)) for rows in (own, other))
        limit = max(0.05, theirs + 0.02)
        words = f"calibration error at most {limit:.3g} ({name}: {theirs:.3g})"
        found.append(Guard("calibration", ours, words, ours <= limit))
        return found

    return guards


def compare_classes(
    challenger: pl.DataFrame,
    champion: pl.DataFrame | None,
    naive: pl.DataFrame,
    plan: GatePlan,
    *,
    same_recipe: bool,
    seed: int,
    verdicts: pl.DataFrame,
) -> Decision:
    """Decide whether a challenger's class probabilities replace the champion's; origins are days.

    The rules are `comparison.decide`'s, on log losses, with the guards of `class_guards`. Blocks of the bootstrap last
    `plan.block` days or three times the longest label, whichever is longer. If nothing passes, the champion stays;
    without one, nothing is promoted and the night goes flat.
    """

    def by_day(rows: pl.DataFrame) -> pl.DataFrame:
        return rows.drop_nulls(TARGET).with_columns(pl.col(CUTOFF).dt.truncate("1d"))

    days = _label_days(challenger)
    return decide(
        by_day(challenger),
        None if champion is None else by_day(champion),
        by_day(naive),
        plan.model_copy(update={"block": max(plan.block, BLOCK_HORIZONS * days)}),
        same_recipe=same_recipe,
        seed=seed,
        guards=class_guards(verdicts),
    )


def _label_days(rows: pl.DataFrame) -> int:
    """Days with decisions that the longest label lasts, at most."""
    if rows.is_empty():
        return 1
    horizon = int(rows.get_column(HORIZON).max())  # type: ignore[arg-type]
    a_day = rows.group_by(ID, HORIZON, pl.col(CUTOFF).dt.truncate("1d")).len().get_column("len").median()
    return math.ceil(horizon / float(a_day))  # type: ignore[arg-type]


def trading_baselines(rows: pl.DataFrame, dataset: Any, *, seed: int, draws: int = 200) -> pl.DataFrame:
    """What plain rules would have made on the rows' bars, per horizon: buy and hold, and random entries.

    Random entries are the model's own signals (`model` of the rows must be one), each symbol's turned round by a random
    number of decisions: they come at other times, in the same runs, so that they turn over, and pay, as much. Shuffled
    one by one, they would lose by costs alone whatever the model does. `low` and `high` are the 5 % and 95 % of `draws`
    Sharpe ratios after costs.

    Returns
    -------
    polars.DataFrame
        `rule, horizon, sharpe, low, high`.
    """
    schema = dataset.schema
    rng = np.random.default_rng(seed)
    out: list[dict[str, Any]] = []

    def ratio(part: pl.DataFrame, horizon: int) -> float | None:
        test = run_backtest(dataset.frame, part.select(ID, TIME, SIGNAL), horizon=horizon, costs=dataset.costs)
        value = test.metrics(days_per_year=schema.days_per_year, bars_per_year=schema.bars_per_year)["sharpe"]
        return None if value is None else float(value)

    for (h,), its in sorted(rows.partition_by(HORIZON, as_dict=True).items()):
        horizon, part = int(h), its.sort(ID, TIME)
        hold = part.with_columns(pl.lit(1, dtype=pl.Int8).alias(SIGNAL))
        out.append({"rule": "buy_and_hold", HORIZON: horizon, "sharpe": ratio(hold, horizon)})
        runs = [own.get_column(SIGNAL).to_numpy() for own in part.partition_by(ID, maintain_order=True)]
        found = [
            value
            for _ in range(draws)
            if (value := ratio(part.with_columns(pl.Series(SIGNAL, _turned(runs, rng))), horizon)) is not None
        ]
        low, mid, high = np.quantile(found, [0.05, 0.5, 0.95]).tolist() if found else (None, None, None)
        out.append({"rule": "random_entry", HORIZON: horizon, "sharpe": mid, "low": low, "high": high})
    schema_ = {"rule": pl.String, HORIZON: pl.Int32, "sharpe": pl.Float64, "low": pl.Float64, "high": pl.Float64}
    return pl.DataFrame(out, schema=schema_)


def _turned(runs: Sequence[NDArray[np.int8]], rng: np.random.Generator) -> NDArray[np.int8]:
    """Each symbol's signals, turned round by a random number of decisions."""
    return np.concatenate([np.roll(own, int(rng.integers(1, max(2, len(own))))) for own in runs])
