"""What a generated market proves: noise stays noise, and a planted signal is found. Prints tables for docs/results.md.

python -m benchmarks.market_proofs noise --seeds 5
python -m benchmarks.market_proofs planted --seeds 3 --bars 12000
python -m benchmarks.market_proofs ranking --seeds 20 --bars 90000
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from nightcast.contracts.columns import HORIZON, ID, MODEL, TARGET, TIME
from nightcast.evaluation.class_scores import block_bootstrap, class_scores, time_blocks
from nightcast.evaluation.walk_forward import plan_units, walk_forward
from nightcast.evaluation.workers import WorkerPool
from nightcast.sources.spec import WorkloadFile
from workloads.bars import BASELINES, LEARNERS, bars_workload
from workloads.stages import Evaluation, decide, evaluate

HORIZON_BARS = (5, 20)
TRIED = (*BASELINES, *LEARNERS, "voting", "stacking", "blending")
GATES = ("seed_gate", "skill_gate", "economic_gate")
RANKING_THRESHOLD = 0.00215
"""0.8 standard deviations of 20 bars of 6 basis points each."""


def market(
    params: dict[str, Any],
    models: Sequence[str | dict[str, Any]],
    folds: dict[str, int],
    threshold: float | None = None,
    *,
    horizons: Sequence[int] = HORIZON_BARS,
    combiner: str = "weighted",
) -> Any:
    """A workload value of one generated market; barriers scaled by volatility, or fixed as a fraction of the price."""
    labels = {"multiplier": 0.8} if threshold is None else {"barrier": "fixed", "threshold": threshold}
    spec = WorkloadFile.model_validate(
        {
            "name": "proof",
            "kind": "bars",
            "source": {"kind": "market_generator", "params": params},
            "bars": {"horizons": list(horizons), "labels": labels},
            "models": list(models),
            "folds": folds,
            "recipe": {"combiner": {"method": combiner}},
        }
    )
    return bars_workload(spec, Path())


def judged(workload: Any, pool: WorkerPool, folder: Path, preset: str = "ci") -> tuple[Evaluation, Any, Any]:
    """Gates, features, folds x models and evaluation of one market, as a night does them."""
    raw = workload.source.read(as_of=None, data=None, now=datetime.now(UTC).replace(tzinfo=None))
    recipe = workload.recipe(preset)
    verdict = workload.gates.raw(raw)
    verdict.raise_if_stopped()
    dataset = workload.prepare(raw, verdict, recipe)
    place = folder / dataset.hash
    dataset.save(place)
    units = plan_units(workload, recipe, workload.folds(dataset, recipe.folds), dataset, place, keep_final=False)
    out = walk_forward(units, pool)
    for failure in out.failures:
        print(f"FAILED {failure.unit.title}: {failure.reason}")
    return evaluate(workload, recipe, dataset, out), dataset, recipe


def noise(pool: WorkerPool, folder: Path, seeds: int, bars: int, threshold: float | None) -> None:
    """kappa = 0, flat volatility: direction AUC and balanced accuracy against chance, and what each gate says.

    The gates are counted over learners, ensembles and the night's own, one line a model and horizon; baselines are
    nobody's candidates.
    """
    rows, passed = [], []
    for seed in range(seeds):
        params = {"bars": bars, "kappa": 0.0, "volatility": "flat", "seed": 100 + seed}
        workload = market(params, TRIED, {"cutoffs": bars // 2, "refits": 4, "min_train": 300}, threshold)
        evaluation, _, _ = judged(workload, pool, folder)
        # One horizon at a time: knowing which horizon a row has tells much about how often it is neutral.
        for (model, horizon), part in evaluation.members.partition_by(MODEL, HORIZON, as_dict=True).items():
            part = part.drop_nulls(TARGET).sort(TIME, ID)
            y = part.get_column(TARGET).cast(pl.Int64).to_numpy()
            p = part.select("p_short", "p_neutral", "p_long").to_numpy()
            # blocks of 60 bars or more: three times the longest horizon, whose labels overlap
            blocks = time_blocks(part.get_column(TIME).to_numpy(), part.get_column(TIME).n_unique() // 60)
            scores = class_scores(y, p)
            for name, chance in (("direction_auc", 0.5), ("balanced_accuracy", 1 / 3)):
                drawn = block_bootstrap(
                    blocks, lambda at, name=name, y=y, p=p: class_scores(y[at], p[at])[name], draws=200, seed=seed
                )
                error = float(drawn.std())
                value = scores[name]
                z = 0.0 if error < 1e-9 else (value - chance) / error
                rows.append(
                    {
                        MODEL: model,
                        HORIZON: horizon,
                        "seed": seed,
                        "score": name,
                        "value": value,
                        "error": error,
                        "z": z,
                    }
                )
        gates = evaluation.verdicts.filter(~pl.col(MODEL).is_in(BASELINES)).with_columns(pl.lit(seed).alias("seed"))
        passed.append(gates)
        print(f"seed {seed}: {counts(gates)}", flush=True)
    table = (
        pl.DataFrame(rows)
        .group_by(MODEL, HORIZON, "score")
        .agg(
            pl.col("value").mean(),
            (pl.col("z").abs().max()).alias("worst_z"),
            (pl.col("z").mean() * np.sqrt(seeds)).alias("pooled_z"),
        )
        .sort("score", HORIZON, MODEL)
    )
    show(table)
    gates = pl.concat(passed)
    print(f"all {seeds} seeds: {counts(gates)}")
    show(gates.filter(pl.col("skill_gate") | pl.col("economic_gate")).select(MODEL, HORIZON, "seed", *GATES, "why"))


def counts(gates: pl.DataFrame) -> str:
    """How many of some verdicts pass each gate, and both."""
    said = gates.select(
        pl.col("skill_gate").sum(),
        pl.col("economic_gate").sum(),
        both=(pl.col("skill_gate") & pl.col("economic_gate")).sum(),
    ).row(0, named=True)
    words = [f"{name.replace('_', ' ')} {count}" for name, count in said.items()]
    return f"of {gates.height} (model, horizon) pass: " + ", ".join(words)


def planted(pool: WorkerPool, folder: Path, seeds: int, bars: int, preset: str) -> None:
    """kappa = .10 with volatility: how often each learner passes each gate over some seeds, and its mean numbers."""
    names = ("macro_f1", "f1_excess_low", "direction_auc", "auc_low", "sharpe", "gross_sharpe", "psr", "dsr", "trades")
    found = []
    for seed in range(seeds):
        params = {"bars": bars, "kappa": 0.10, "volatility": "on", "seed": 7 + seed}
        workload = market(params, TRIED, {"cutoffs": bars // 2, "refits": 4, "min_train": 300})
        evaluation, _, _ = judged(workload, pool, folder, preset)
        found.append(evaluation.verdicts)
        print(f"seed {seed}: {counts(evaluation.verdicts.filter(~pl.col(MODEL).is_in(BASELINES)))}", flush=True)
    rows = pl.concat(found).group_by(MODEL, HORIZON)
    show(rows.agg(pl.len().alias("seeds"), pl.col(GATES).sum(), pl.col(names).mean()).sort(HORIZON, MODEL))


def ranking(pool: WorkerPool, folder: Path, seeds: int, bars: int, silent_bars: int) -> None:
    """How often the gate's skill finds a signal of kappa = .05, and how often it finds one in noise.

    Volatility is flat and the barriers are fixed, so that nothing but the signal tells the classes apart. What counts
    is skill, not log loss: a signal that weak moves the log loss by less than a fit's own noise. `skilled` asks the two
    lower bounds (direction AUC above chance, macro-F1 above a model that knows volatility alone), `gate` the whole
    skill gate, `promoted` the champion gate without a champion, whose economic guard asks for profit after costs.
    """
    learner = {"name": "logistic", "params": {"feature_set": "ensemble_base", "c": 0.01, "max_rows": 40_000}}
    models = ("climatology", "volatility_only", learner)
    counted = {kind: {"skilled": 0, "gate": 0, "promoted": 0} for kind in ("signal", "noise")}
    for seed in range(seeds):
        for kind, kappa, size in (("signal", 0.05, bars), ("noise", 0.0, silent_bars)):
            params = {"bars": size, "kappa": kappa, "volatility": "flat", "seed": 300 + seed}
            folds = {"cutoffs": size // 2, "refits": 4, "min_train": 300}
            workload = market(params, models, folds, RANKING_THRESHOLD, horizons=(20,))
            evaluation, _, recipe = judged(workload, pool, folder)
            row = evaluation.verdicts.filter(pl.col(MODEL) == "logistic").row(0, named=True)
            decision = decide(workload, recipe, evaluation, None, None)
            said = {
                "skilled": (row["auc_low"] or 0.0) > 0.5 and (row["f1_excess_low"] or 0.0) > 0,
                "gate": row["skill_gate"],
                "promoted": decision.promote,
            }
            counted[kind] = {name: count + int(said[name]) for name, count in counted[kind].items()}
            numbers = ", ".join(f"{name} {cell(row[name])}" for name in ("direction_auc", "auc_low", "f1_excess_low"))
            print(f"seed {seed}, {kind}: {numbers}; of {seed + 1}: {counted[kind]}", flush=True)


def cell(value: Any) -> str:
    """A value of a table."""
    return "–" if value is None else f"{value:.4f}" if isinstance(value, float) else str(value)


def show(table: pl.DataFrame) -> None:
    """As Markdown."""
    print("| " + " | ".join(table.columns) + " |")
    print("|" + "---|" * table.width)
    for row in table.iter_rows():
        print("| " + " | ".join(cell(value) for value in row) + " |")


def main() -> None:
    """Run one proof."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("proof", choices=("noise", "planted", "ranking"))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--bars", type=int, default=6000)
    parser.add_argument("--silent-bars", type=int, default=60_000, help="ranking: bars of the markets without a signal")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--preset", default="ci")
    parser.add_argument("--threshold", type=float, help="noise: a fixed barrier as a fraction of the price")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pool = WorkerPool(folder / "cache", chosen.processes)
        try:
            if chosen.proof == "noise":
                noise(pool, folder, chosen.seeds, chosen.bars, chosen.threshold)
            elif chosen.proof == "planted":
                planted(pool, folder, chosen.seeds, chosen.bars, chosen.preset)
            else:
                ranking(pool, folder, chosen.seeds, chosen.bars, chosen.silent_bars)
        finally:
            pool.close()


if __name__ == "__main__":
    main()
