"""Scores of class probabilities, and tables of them over out-of-fold rows."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from nightcast.contracts.columns import (
    CLASS_PROBS,
    CLASSES,
    CUTOFF,
    HORIZON,
    ID,
    LONG,
    MODEL,
    SHORT,
    SIGNAL,
    TARGET,
    TIME,
)

Floats = NDArray[np.float64]
FLOOR: Final = 1e-6
BINS: Final = 15
MOST_BLOCKS: Final = 40
FEWEST_BLOCKS: Final = 4
"""Blocks below which a bootstrap says nothing about a spread."""
BLOCK_HORIZONS: Final = 3
"""Horizons a block of time lasts at least: neighbours' labels overlap, and what predicts them is slow, too."""
FOLD: Final = "fold"
"""Number of the fit a row comes from, where rows have it."""
CLIMATOLOGY: Final = "climatology"


def class_scores(
    y: NDArray[np.int64], probs: Floats, weights: Floats | None = None, *, folds: NDArray[Any] | None = None
) -> dict[str, Any]:
    """Scores of `[n, 3]` probabilities against classes 0, 1, 2; a score that does not exist is None.

    Parameters
    ----------
    folds
        `[n]` the fit each row comes from, for `direction_auc`.

    Returns
    -------
    dict
        accuracy, balanced_accuracy, macro_f1, weighted_f1, per class `f1_`, `precision_`, `recall_` and `share_`,
        `confusion` (true x predicted), log_loss, brier, ece (15 bins of equal mass, mean over classes), mcc,
        direction_auc (ranks long above short by p_long / (p_long + p_short), among rows that moved).
    """
    y = np.asarray(y, dtype=np.int64)
    n, k = len(y), len(CLASSES)
    if n == 0:
        names = (
            "accuracy",
            "balanced_accuracy",
            "macro_f1",
            "weighted_f1",
            "log_loss",
            "brier",
            "ece",
            "mcc",
            "direction_auc",
        )
        return {name: None for name in names} | {"confusion": np.zeros((k, k), dtype=np.int64)}
    w = np.ones(n) if weights is None else np.asarray(weights, dtype=np.float64)
    predicted = probs.argmax(axis=1)
    confusion = np.zeros((k, k))
    np.add.at(confusion, (y, predicted), w)
    true, told, hit = confusion.sum(axis=1), confusion.sum(axis=0), np.diag(confusion)
    recall = np.divide(hit, true, out=np.zeros(k), where=true > 0)
    precision = np.divide(hit, told, out=np.zeros(k), where=told > 0)
    f1 = np.divide(2 * hit, true + told, out=np.zeros(k), where=true + told > 0)
    present = true > 0
    hot = np.eye(k)[y]
    out: dict[str, Any] = {
        "accuracy": float(hit.sum() / w.sum()),
        "balanced_accuracy": float(recall[present].mean()),
        "macro_f1": float(f1[present | (told > 0)].mean()),
        "weighted_f1": float((f1 * true).sum() / true.sum()),
        "confusion": confusion if weights is not None else confusion.astype(np.int64),
        "log_loss": float(np.average(-np.log(np.clip(probs[np.arange(n), y], FLOOR, 1.0)), weights=w)),
        "brier": float(np.average(((probs - hot) ** 2).sum(axis=1), weights=w)),
        "ece": expected_calibration_error(y, probs),
        "mcc": matthews(confusion),
        "direction_auc": direction_auc(y, probs, w, folds=folds),
    }
    for i, name in enumerate(CLASSES):
        out[f"f1_{name}"], out[f"precision_{name}"] = float(f1[i]), float(precision[i])
        out[f"recall_{name}"], out[f"share_{name}"] = float(recall[i]), float(told[i] / w.sum())
    return out


def matthews(confusion: Floats) -> float | None:
    """Matthews correlation of a confusion matrix (Gorodkin 2004); None where one side never varies."""
    true, told, total = confusion.sum(axis=1), confusion.sum(axis=0), confusion.sum()
    spread = (total**2 - (told**2).sum()) * (total**2 - (true**2).sum())
    if spread <= 0:
        return None
    return float((np.trace(confusion) * total - true @ told) / np.sqrt(spread))


def rank_auc(positive: NDArray[np.bool_], score: Floats, weights: Floats | None = None) -> float | None:
    """Weighted share of (positive, negative) pairs that the score ranks right, ties half; None without both kinds."""
    w = np.ones(len(score)) if weights is None else weights
    up, down = w * positive, w * ~positive
    if up.sum() <= 0 or down.sum() <= 0:
        return None
    values, group = np.unique(score, return_inverse=True)
    ups, downs = np.bincount(group, up, len(values)), np.bincount(group, down, len(values))
    below = np.cumsum(downs) - downs
    return float((ups * (below + downs / 2)).sum() / (up.sum() * down.sum()))


def direction_auc(
    y: NDArray[np.int64],
    probs: Floats,
    weights: Floats | None = None,
    *,
    folds: NDArray[Any] | None = None,
) -> float | None:
    """`rank_auc` of long against short among the rows that moved.

    Parameters
    ----------
    folds
        `[n]` the fit each row comes from: pairs are made inside a fold only, so that a classifier that says the same
        all through a fold has 0.5, however its level moves with the base rate from fold to fold. None: one fold.
    """
    moved = (y == SHORT) | (y == LONG)
    if not moved.any():
        return None
    side = _side(probs[moved])
    w = np.ones(int(moved.sum())) if weights is None else weights[moved]
    return _PairRanks(side, None if folds is None else folds[moved]).auc(w * (y[moved] == LONG), w * (y[moved] != LONG))


def direction_draws(
    y: NDArray[np.int64], probs: Floats, *, folds: NDArray[Any] | None = None
) -> Callable[[NDArray[np.int64]], float | None]:
    """`direction_auc` as a function of row numbers, for `block_bootstrap`: rows are ranked once, not at each draw."""
    ranks = _PairRanks(_side(probs), folds)
    long, short = (y == LONG).astype(np.float64), (y == SHORT).astype(np.float64)

    def statistic(at: NDArray[np.int64]) -> float | None:
        times = np.bincount(at, minlength=len(y))
        return ranks.auc(times * long, times * short)

    return statistic


def _side(probs: Floats) -> Floats:
    """`p_long / (p_long + p_short)`."""
    return np.asarray(probs[:, LONG] / np.maximum(probs[:, LONG] + probs[:, SHORT], 1e-12))


class _PairRanks:
    """Rows in order of fold and score, to count the pairs of each fold that a score ranks right."""

    def __init__(self, score: Floats, folds: NDArray[Any] | None) -> None:
        fold = np.zeros(len(score), dtype=np.int64) if folds is None else np.unique(folds, return_inverse=True)[1]
        order = np.lexsort((score, fold))
        f, s = fold[order], score[order]
        new = np.ones(len(score), dtype=bool)
        new[1:] = (np.diff(f) != 0) | (np.diff(s) != 0)
        self.code = np.empty(len(score), dtype=np.int64)
        self.code[order] = np.cumsum(new) - 1
        self.fold = f[new]
        self.starts = np.flatnonzero(np.diff(self.fold, prepend=-1))

    def auc(self, up: Floats, down: Floats) -> float | None:
        """Share of the pairs (up, down) of one fold that are ranked right, ties half: the folds' areas by their pairs.

        `up` and `down` are the rows' weights on either side.
        """
        size = len(self.fold)
        ups, downs = np.bincount(self.code, up, size), np.bincount(self.code, down, size)
        pairs = float((np.add.reduceat(ups, self.starts) * np.add.reduceat(downs, self.starts)).sum())
        if pairs <= 0:
            return None
        below = np.cumsum(downs) - downs
        below = below - np.repeat(below[self.starts], np.diff(np.append(self.starts, size)))
        return float((ups * (below + downs / 2)).sum()) / pairs


def expected_calibration_error(y: NDArray[np.int64], probs: Floats, bins: int = BINS) -> float:
    """Mean over classes of the mean |stated - true| share in bins of equal mass."""
    gaps = []
    for k in range(probs.shape[1]):
        order = np.argsort(probs[:, k], kind="stable")
        hit = y[order] == k
        p = probs[order, k]
        parts = np.array_split(np.arange(len(order)), min(bins, len(order)))
        gaps.append(sum(len(at) * abs(p[at].mean() - hit[at].mean()) for at in parts) / len(order))
    return float(np.mean(gaps))


def block_bootstrap(
    blocks: NDArray[Any], statistic: Callable[[NDArray[np.int64]], float | None], *, draws: int, seed: int
) -> Floats:
    """Draws of a statistic of row numbers, whole blocks resampled with replacement; draws without a value are left out.

    Parameters
    ----------
    blocks
        `[n]` the block of each row: a stretch of time, shared by all symbols, so that dependent rows stay together.
    """
    names, group = np.unique(blocks, return_inverse=True)
    order = np.argsort(group, kind="stable")
    starts = np.searchsorted(group[order], np.arange(len(names) + 1))
    rng = np.random.default_rng(seed)
    out = []
    for _ in range(draws):
        picked = rng.integers(0, len(names), len(names))
        rows = np.concatenate([order[starts[b] : starts[b + 1]] for b in picked])
        value = statistic(rows)
        if value is not None and np.isfinite(value):
            out.append(float(value))
    return np.asarray(out)


def time_blocks(times: NDArray[np.datetime64], count: int = MOST_BLOCKS, *, length: int = 1) -> NDArray[np.int64]:
    """`[n]` number of the block each time lies in: so many stretches of equally many distinct times.

    Parameters
    ----------
    count
        Most blocks.
    length
        Fewest distinct times of a block; labels that overlap ask for a multiple of their horizon.
    """
    unique, group = np.unique(times, return_inverse=True)
    blocks = max(1, min(count, len(unique) // max(1, length)))
    return np.asarray(group * blocks // max(1, len(unique)), dtype=np.int64)


def label_blocks(rows: pl.DataFrame, horizon: int, count: int = MOST_BLOCKS) -> NDArray[np.int64]:
    """`[n]` blocks of time for rows `unique_id, cutoff` whose labels last `horizon` bars: at least three horizons each.

    The length is counted on the clock of all symbols: where each has a bar only at every k-th of its times, a horizon
    takes k times as many.
    """
    times = rows.get_column(CUTOFF)
    clock = times.unique().len()
    longest = rows.group_by(ID).len().get_column("len")
    stride = clock / float(longest.median()) if len(longest) else 1.0  # type: ignore[arg-type]
    return time_blocks(times.to_numpy(), count, length=math.ceil(BLOCK_HORIZONS * horizon * max(1.0, stride)))


def lower_bound(value: float | None, drawn: Floats, blocks: NDArray[np.int64], tail: float = 0.05) -> float | None:
    """One-sided lower bound of a statistic from draws of `block_bootstrap`; None with fewer than four blocks.

    The deviations of the draws are widened by `sqrt(K / (K - 1)) * t / z` for K blocks, with t of K - 1 degrees of
    freedom: a handful of blocks understates the spread.
    """
    from scipy.stats import norm, t

    count = len(np.unique(blocks))
    if value is None or count < FEWEST_BLOCKS or not len(drawn):
        return None
    widen = math.sqrt(count / (count - 1)) * float(t.ppf(1 - tail, count - 1) / norm.ppf(1 - tail))
    return value + min(0.0, float(np.quantile(drawn - drawn.mean(), tail))) * widen


def class_loss(rows: pl.DataFrame) -> pl.DataFrame:
    """Add `loss`, the log loss of each row, from `p_short, p_neutral, p_long, y`."""
    picked = pl.lit(None, dtype=pl.Float64)
    for k, name in enumerate(CLASS_PROBS):
        picked = pl.when(pl.col(TARGET) == k).then(pl.col(name)).otherwise(picked)
    return rows.with_columns((-picked.clip(FLOOR, 1.0).log()).alias("loss"))


def scores_of_rows(rows: pl.DataFrame) -> dict[str, Any]:
    """`class_scores` of the rows whose label is known; the direction's area by `fold`, where they have one."""
    known = rows.drop_nulls(TARGET)
    y = known.get_column(TARGET).cast(pl.Int64).to_numpy()
    return class_scores(y, known.select(CLASS_PROBS).to_numpy(), folds=folds_of(known))


def folds_of(rows: pl.DataFrame) -> NDArray[Any] | None:
    """The column `fold`, where rows have it."""
    return rows.get_column(FOLD).to_numpy() if FOLD in rows.columns else None


_SHOWN: Final = ("log_loss", "macro_f1", "direction_auc", "balanced_accuracy", "brier_skill", "ece", "mcc")
_MONEY: Final = ("sharpe", "gross_sharpe", "max_drawdown", "turnover", "trades")


def class_league(rows: pl.DataFrame, baselines: Sequence[str], dataset: Any) -> pl.DataFrame:
    """One row a model, least log loss first: scores of known labels and trading of all decisions, means over horizons.

    Parameters
    ----------
    rows
        Out-of-fold rows `unique_id, ds, horizon, model, p_short, p_neutral, p_long, signal, y`; `y` is null where the
        outcome is not known.
    baselines
        Labels of the baselines; `ratio` is the log loss over that of the best of them on the common rows.
    dataset
        The bars to trade on, or None to leave trading out.
    """
    table = _per_horizon(rows, dataset)
    rows = rows.drop_nulls(TARGET)
    keys = [ID, TIME, HORIZON]
    counts = rows.group_by(MODEL).len()
    full = counts.get_column("len").max()
    best = table.filter(pl.col(MODEL).is_in(list(baselines))).group_by(MODEL).agg(pl.col("log_loss").mean())
    yard = class_loss(rows.filter(pl.col(MODEL) == best.sort("log_loss", MODEL)[MODEL][0])) if best.height else None
    out = []
    for (model,), part in rows.partition_by(MODEL, as_dict=True).items():
        its = table.filter(pl.col(MODEL) == model)
        ratio = None
        if yard is not None:
            both = class_loss(part).select(*keys, "loss").join(yard.select(*keys, pl.col("loss").alias("_y")), on=keys)
            mine, naive = (float(np.sum(both.get_column(name).to_numpy())) for name in ("loss", "_y"))
            ratio = mine / naive if naive > 0 else None
        row: dict[str, Any] = {MODEL: model, "ratio": ratio}
        row |= {name: its.get_column(name).mean() for name in _SHOWN}
        row |= {name: its.get_column(name).mean() for name in _MONEY if name in its.columns}
        row |= {"rows": part.height, "series": part.get_column(ID).n_unique()}
        out.append(row)
    frame = pl.DataFrame(out, infer_schema_length=None)
    floats = [name for name in frame.columns if name not in (MODEL, "rows", "series")]
    frame = frame.with_columns(pl.col(floats).cast(pl.Float64))
    complete = pl.col("rows") >= 0.5 * (full or 0)  # type: ignore[operator]
    return frame.sort(complete, "log_loss", MODEL, descending=[True, False, False])


def class_by_horizon(rows: pl.DataFrame) -> pl.DataFrame:
    """`model, horizon`, scores, and `ratio` to the least log loss of any model at the horizon's climatology."""
    table = _per_horizon(rows, None)
    reference = table.filter(pl.col(MODEL) == CLIMATOLOGY).select(HORIZON, pl.col("log_loss").alias("_c"))
    joined = table.join(reference, on=HORIZON, how="left").with_columns(
        (pl.col("log_loss") / pl.col("_c")).alias("ratio")
    )
    return joined.drop("_c").sort(MODEL, HORIZON)


def _per_horizon(rows: pl.DataFrame, dataset: Any) -> pl.DataFrame:
    out = []
    brier: dict[int, float] = {}
    parts = rows.partition_by(MODEL, HORIZON, as_dict=True)
    for (model, horizon), part in parts.items():
        if model == CLIMATOLOGY:
            brier[int(horizon)] = scores_of_rows(part)["brier"]
    for (model, horizon), part in parts.items():
        scores = scores_of_rows(part)
        reference = brier.get(int(horizon))
        own = scores["brier"]
        scores["brier_skill"] = None if not reference or own is None else 1 - own / reference
        row = {MODEL: model, HORIZON: int(horizon), "rows": part.get_column(TARGET).count()}
        row |= {name: scores[name] for name in _SHOWN}
        if dataset is not None:
            row |= {name: value for name, value in trading(part, dataset, int(horizon)).items() if name in _MONEY}
        out.append(row)
    frame = pl.DataFrame(out, infer_schema_length=None)
    floats = [name for name in frame.columns if name not in (MODEL, HORIZON, "rows")]
    return frame.with_columns(pl.col(HORIZON).cast(pl.Int32), pl.col(floats).cast(pl.Float64)).sort(MODEL, HORIZON)


def trading(part: pl.DataFrame, dataset: Any, horizon: int, cost_factor: float = 1.0) -> dict[str, Any]:
    """The backtest's metrics of one model's signals at one horizon."""
    from nightcast.evaluation.backtest import run_backtest

    schema = dataset.schema
    test = run_backtest(
        dataset.frame, part.select(ID, TIME, SIGNAL), horizon=horizon, costs=dataset.costs, cost_factor=cost_factor
    )
    return test.metrics(days_per_year=schema.days_per_year, bars_per_year=schema.bars_per_year)


def class_segments(rows: pl.DataFrame, dataset: Any) -> pl.DataFrame:
    """Add `segment`: calm, usual or wild, by thirds of each symbol's volatility known at the decision."""
    known = dataset.frame.select(ID, pl.col(TIME).alias(CUTOFF), "sigma")
    cuts = known.group_by(ID).agg(
        pl.col("sigma").quantile(1 / 3).alias("_low"), pl.col("sigma").quantile(2 / 3).alias("_high")
    )
    joined = rows.join(known.join(cuts, on=ID), on=[ID, CUTOFF], how="left")
    word = (
        pl.when(pl.col("sigma") <= pl.col("_low"))
        .then(pl.lit("calm"))
        .when(pl.col("sigma") <= pl.col("_high"))
        .then(pl.lit("usual"))
        .otherwise(pl.lit("wild"))
    )
    return joined.with_columns(word.alias("segment")).drop("sigma", "_low", "_high")
