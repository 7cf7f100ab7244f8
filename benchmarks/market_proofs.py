"""What a generated market proves: noise stays noise, and a planted signal is found. Prints tables for docs/results.md.

python -m benchmarks.market_proofs noise --seeds 5
python -m benchmarks.market_proofs planted
python -m benchmarks.market_proofs ranking --seeds 20
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


def market(params: dict[str, Any], models: Sequence[str], folds: dict[str, int], threshold: float | None = None) -> Any:
    """A workload value of one generated market; barriers scaled by volatility, or fixed as a fraction of the price."""
    labels = {"multiplier": 0.8} if threshold is None else {"barrier": "fixed", "threshold": threshold}
    spec = WorkloadFile.model_validate(
        {
            "name": "proof",
            "kind": "bars",
            "source": {"kind": "market_generator", "params": params},
            "bars": {"horizons": list(HORIZON_BARS), "labels": labels},
            "models": list(models),
            "folds": folds,
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
    """kappa = 0, flat volatility: direction AUC and balanced accuracy against chance, and what the gates say."""
    models = (*BASELINES, *LEARNERS)
    rows = []
    for seed in range(seeds):
        params = {"bars": bars, "kappa": 0.0, "volatility": "flat", "seed": 100 + seed}
        workload = market(params, models, {"cutoffs": bars // 2, "refits": 4, "min_train": 300}, threshold)
        evaluation, _, _ = judged(workload, pool, folder)
        # One horizon at a time: knowing which horizon a row has tells much about how often it is neutral.
        for (model, horizon), part in evaluation.members.partition_by(MODEL, HORIZON, as_dict=True).items():
            part = part.sort(TIME, ID)
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
        gates = evaluation.verdicts
        said = gates.filter(pl.col("skill_gate") & pl.col("economic_gate")).height
        print(
            f"seed {seed}: {said} of {gates.height} (model, horizon) pass the skill and the economic gate", flush=True
        )
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


def planted(pool: WorkerPool, folder: Path, bars: int, preset: str) -> None:
    """kappa = .10 with volatility: every learner's verdicts."""
    models = (*BASELINES, *LEARNERS)
    params = {"bars": bars, "kappa": 0.10, "volatility": "on", "seed": 7}
    workload = market(params, models, {"cutoffs": bars // 2, "refits": 4, "min_train": 300})
    evaluation, _, _ = judged(workload, pool, folder, preset)
    names = ("macro_f1", "f1_excess_low", "direction_auc", "auc_low", "sharpe", "gross_sharpe", "psr", "dsr", "trades")
    show(evaluation.verdicts.select(MODEL, HORIZON, "seed_gate", "skill_gate", "economic_gate", *names))


def ranking(pool: WorkerPool, folder: Path, seeds: int, bars: int) -> None:
    """How often the gate prefers a recipe that sees a signal of kappa = .05 to one that cannot, and noise to noise."""
    better = worse = 0
    for seed in range(seeds):
        params = {"bars": bars, "kappa": 0.05, "volatility": "on", "seed": 300 + seed}
        folds = {"cutoffs": bars // 2, "refits": 4, "min_train": 300}
        baselines = ("climatology", "volatility_only")
        seeing = market(params, (*baselines, "logistic"), folds)
        blind = market(params, baselines, folds)
        good, _, recipe = judged(seeing, pool, folder)
        champion, _, _ = judged(blind, pool, folder)
        decision = decide(seeing, recipe, good, champion.ensemble, "another recipe")
        better += decision.effect is not None and decision.high is not None and decision.high < 0
        silent = {**params, "kappa": 0.0}
        first, _, recipe = judged(market(silent, (*baselines, "logistic"), folds), pool, folder)
        second, _, _ = judged(market(silent, baselines, folds), pool, folder)
        worse += decide(seeing, recipe, first, second.ensemble, "another recipe").promote
        print(f"seed {seed}: signal preferred {better}, noise promoted {worse} of {seed + 1}", flush=True)


def show(table: pl.DataFrame) -> None:
    """As Markdown."""

    def cell(value: Any) -> str:
        return "–" if value is None else f"{value:.3f}" if isinstance(value, float) else str(value)

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
                planted(pool, folder, chosen.bars, chosen.preset)
            else:
                ranking(pool, folder, chosen.seeds, chosen.bars)
        finally:
            pool.close()


if __name__ == "__main__":
    main()
