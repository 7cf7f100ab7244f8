"""Whether wavelets help: LightGBM with and without the wavelet columns, on the same purged folds of one file of bars.

    python -m benchmarks.wavelet_ablation bars.parquet --freq 30min [--calendar continuous] [--bars 12000] [--folds 3]

The file holds `symbol, ts, open, high, low, close, volume`; the newest bars of each symbol are used. Both models get
`boosting_optimal`, one without its `wavelets` block, and nothing is tuned. A fold trains on every decision whose label
could not end inside its test span. A gain is positive where wavelets help; its interval is the middle 95 % of a
bootstrap over 40 stretches of time, shared by all symbols.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from nightcast.contracts.bars import label_columns
from nightcast.contracts.columns import ID, TIME
from nightcast.contracts.schema import BarsSchema, LabelPlan
from nightcast.evaluation.class_scores import FLOOR, block_bootstrap, direction_auc, time_blocks
from nightcast.evaluation.purged import PurgedWalkForward
from nightcast.features.bars.catalog import BAR_FEATURES, build_bar_features
from nightcast.features.labels import triple_barrier
from nightcast.features.segments import segmented

SET = "boosting_optimal"
BLOCK = "wavelets"
PARAMS: dict[str, Any] = {
    "n_estimators": 150,
    "learning_rate": 0.05,
    "num_leaves": 31,
    "min_child_samples": 200,
    "reg_lambda": 1.0,
    "deterministic": True,
    "force_row_wise": True,
    "random_state": 0,
    "verbose": -1,
}
DRAWS = 400
LONGEST = max(its.warmup for its in BAR_FEATURES.values())


def read(path: Path, bars: int, schema: BarsSchema) -> pl.DataFrame:
    """The newest bars of each symbol, in segments, with features and labels; rows in which every column is warm."""
    rows = pl.read_parquet(path).rename({"symbol": ID, "ts": TIME}).drop_nulls()
    rows = rows.with_columns(pl.col(TIME).cast(pl.Datetime("us"))).sort(ID, TIME)
    frame, _ = segmented(rows.group_by(ID, maintain_order=True).tail(bars), schema)
    warm = pl.int_range(pl.len()).over("segment") >= LONGEST
    labelled = triple_barrier(frame, schema, LabelPlan())
    return build_bar_features(labelled, [SET], schema)[0].filter(warm)


def decisions(frame: pl.DataFrame, horizon: int) -> pl.DataFrame:
    """Rows with a known label, and the bar in which it could end at the latest."""
    end = pl.col(TIME).shift(-horizon).over("segment").alias("end")
    return frame.with_columns(end).filter(
        pl.col(label_columns(horizon)["y"]).is_not_null(), pl.col("end").is_not_null()
    )


def forecasts(
    rows: pl.DataFrame, columns: list[str], y: NDArray[np.int64], splits: list[tuple[NDArray[np.int64], ...]]
) -> NDArray[np.float64]:
    """`[n, 3]` probabilities of the tested rows, fold after fold."""
    import lightgbm

    values = rows.select(pl.col(columns).cast(pl.Float32)).to_numpy()
    parts = []
    for train, test in splits:
        classes = np.unique(y[train])
        model = lightgbm.LGBMClassifier(**PARAMS).fit(values[train], y[train])
        out = np.zeros((len(test), 3))
        out[:, classes] = model.predict_proba(values[test])
        parts.append(out)
    return np.concatenate(parts)


def loss(y: NDArray[np.int64], probs: NDArray[np.float64]) -> NDArray[np.float64]:
    """`[n]` log loss of each row."""
    return -np.log(np.clip(probs[np.arange(len(y)), y], FLOOR, 1.0))


def interval(draws: NDArray[np.float64]) -> str:
    """The middle 95 %."""
    low, high = np.quantile(draws, [0.025, 0.975])
    return f"[{low:+.5f}, {high:+.5f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--freq", required=True)
    parser.add_argument("--calendar", default="continuous", choices=["continuous", "weekdays", "business_days"])
    parser.add_argument("--horizons", type=int, nargs="+", default=[1, 5, 20])
    parser.add_argument("--bars", type=int, default=12_000, help="newest bars of each symbol")
    parser.add_argument("--folds", type=int, default=3)
    args = parser.parse_args()

    started = time.perf_counter()
    facts = {"freq": args.freq, "calendar": args.calendar, "horizons": tuple(args.horizons)}
    schema = BarsSchema.model_validate(facts)
    frame = read(args.file, args.bars, schema)
    every = [name for name in BAR_FEATURES if name in frame.columns]
    plain = [name for name in every if BAR_FEATURES[name].block != BLOCK]
    print(f"{frame.height:,} decisions of {frame[ID].n_unique()} symbols, {frame[TIME].min()} to {frame[TIME].max()}")
    print(f"{len(every)} columns, {len(every) - len(plain)} of them wavelets")
    print(
        "horizon   tested  log loss without    with       gain and its interval        "
        "direction AUC without    with       gain and its interval"
    )
    for horizon in args.horizons:
        rows = decisions(frame, horizon)
        y = rows[label_columns(horizon)["y"]].cast(pl.Int64).to_numpy()
        clock = rows[TIME].n_unique()
        folds = PurgedWalkForward(args.folds, clock // (2 * args.folds), min_train=clock // 4)
        code = rows[ID].rank("dense").cast(pl.Int64).to_numpy()
        splits = list(folds.split(rows[TIME].to_numpy(), rows["end"].to_numpy(), code))
        tested = np.concatenate([test for _, test in splits])
        without, having = (forecasts(rows, columns, y, splits) for columns in (plain, every))
        truth, blocks = y[tested], time_blocks(rows[TIME].to_numpy()[tested])
        gain = loss(truth, without) - loss(truth, having)
        one, two = direction_auc(truth, without), direction_auc(truth, having)
        if one is None or two is None:
            raise SystemExit(f"horizon {horizon}: no tested row moved, so there is no direction to rank")

        def ranks(at: NDArray[np.int64]) -> float | None:
            a, b = direction_auc(truth[at], without[at]), direction_auc(truth[at], having[at])  # noqa: B023
            return None if a is None or b is None else b - a

        by_loss = block_bootstrap(blocks, lambda at: float(gain[at].mean()), draws=DRAWS, seed=1)  # noqa: B023
        by_rank = block_bootstrap(blocks, ranks, draws=DRAWS, seed=1)
        print(
            f"{horizon:7} {len(tested):8,} {loss(truth, without).mean():17.5f} {loss(truth, having).mean():7.5f} "
            f"{gain.mean():+10.5f} {interval(by_loss)} {one:23.4f} {two:7.4f} {two - one:+10.5f} {interval(by_rank)}",
            flush=True,
        )
    print(f"{time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
