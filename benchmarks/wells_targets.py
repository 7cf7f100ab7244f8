"""How the wells workload stands against its targets: a night's chain on one panel, judged from rolling origins.

    python -m benchmarks.wells_targets eddy|sodir|norne|volve|generated [--plan known] [--cutoffs 24] [--models a,b,c]

R is MAE over the MAE of the best of last, mean-3 and SES (of planned uptime x median of three producing-day rates,
where the plan is known) on the same rows, with a 90 % interval from blocks of six origins. Monthly origins,
horizon 6, one refit every six. The ensemble's weights and calibration at an origin know only outcomes that had
closed by then; origins that only warm them up are not judged.
"""

from __future__ import annotations

import argparse
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from benchmarks.panels import KEYS, NAIVE, against, generated, show
from nightcast.contracts.columns import CUTOFF, HORIZON, ID, MODEL, QUANTILES, SEGMENT, TARGET, TIME
from nightcast.contracts.panel import PanelDataset
from nightcast.evaluation.walk_forward import plan_units, walk_forward
from nightcast.evaluation.workers import WorkerPool
from nightcast.sources.spec import WorkloadFile, load_workload_file
from workloads.panel import panel_workload
from workloads.stages import ENSEMBLE, evaluate

ROOT = Path(__file__).parents[1]
DATA = ROOT.parent / "shared" / "data"
PANELS = {
    "eddy": ("nm_eddy_wells.yaml", "nm_eddy_wells/monthly.parquet"),
    "sodir": ("sodir_fields.yaml", "sodir_fields/monthly.parquet"),
    "norne": ("norne.yaml", "norne/monthly.parquet"),
    "volve": ("volve.yaml", "volve/raw_monthly.csv"),
}


def planned_naive(data: PanelDataset, cutoffs: list[datetime]) -> pl.DataFrame:
    """Planned uptime times the median of the last three producing-day rates."""
    parts = []
    for cutoff in cutoffs:
        view = data.view(cutoff)
        rate = (
            view.history.filter((pl.col("uptime") > 0.05) & pl.col(TARGET).is_not_null())
            .group_by(ID, maintain_order=True)
            .agg((pl.col(TARGET) / pl.col("uptime")).tail(3).median().alias("rate"))
        )
        ahead = view.future.join(rate, on=ID, how="left")
        value = pl.col("rate").fill_null(0) * pl.col("uptime").fill_null(0)
        parts.append(
            ahead.select(ID, TIME, pl.lit(cutoff).alias(CUTOFF), HORIZON, *(value.alias(name) for name in QUANTILES))
        )
    return pl.concat(parts).join(data.truth(), on=[ID, TIME], how="inner").select(*KEYS, TARGET, *QUANTILES)


def spec_of(chosen: argparse.Namespace) -> tuple[WorkloadFile, Path, Path | None]:
    """Workload file, its folder, and the data to read."""
    if chosen.panel == "generated":
        spec, data = generated(chosen.seed, **({"plan": chosen.plan} if chosen.plan else {})), None
    else:
        name, path = PANELS[chosen.panel]
        spec, data = load_workload_file(ROOT / "workloads" / name), DATA / path
    refits = max(1, chosen.cutoffs // 6)
    folds = {"cutoffs": chosen.cutoffs, "refits": refits, "step": 1, "min_train": chosen.history}
    changes: dict[str, Any] = {"folds": folds}
    if chosen.models:
        changes["models"] = tuple(chosen.models.split(","))
    return WorkloadFile.model_validate({**spec.model_dump(mode="json", exclude_unset=True), **changes}), ROOT, data


def main() -> None:
    """Print one panel's tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("panel", choices=[*PANELS, "generated"])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--plan", choices=["known", "noisy"])
    parser.add_argument("--cutoffs", type=int, default=24)
    parser.add_argument("--history", type=int, default=12, help="known months of some series before the first origin")
    parser.add_argument("--well-history", type=int, default=0, help="judge rows of series with so many known months")
    parser.add_argument("--models", help="catalog names, by comma; default: all of the preset")
    parser.add_argument("--preset", default="nightly_cpu")
    parser.add_argument("--cache", type=Path, help="keep finished units here")
    parser.add_argument("--processes", type=int, default=2)
    chosen = parser.parse_args()
    spec, base, path = spec_of(chosen)
    workload = panel_workload(spec, base)
    raw = workload.source.read(as_of=None, data=path, now=datetime.now(UTC).replace(tzinfo=None))
    verdict = workload.gates.raw(raw)
    verdict.raise_if_stopped()
    recipe = workload.recipe(chosen.preset)
    data: PanelDataset = workload.prepare(raw, verdict, recipe)
    with tempfile.TemporaryDirectory() as scratch:
        cache = chosen.cache or Path(scratch)
        place = cache / data.hash
        data.save(place)
        pool = WorkerPool(cache, chosen.processes)
        try:
            units = plan_units(workload, recipe, workload.folds(data, recipe.folds), data, place, keep_final=False)
            out = walk_forward(units, pool)
        finally:
            pool.close()
        for failure in out.failures:
            print(f"FAILED {failure.unit.title}: {failure.reason}")
        evaluation = evaluate(workload, recipe, data, out)
    members = evaluation.members
    if chosen.well_history:
        known = data.truth().sort(ID, TIME).with_columns(pl.int_range(1, pl.len() + 1).over(ID).alias("_known"))
        members = members.sort(CUTOFF).join_asof(
            known.select(ID, TIME, "_known").sort(TIME), left_on=CUTOFF, right_on=TIME, by=ID, check_sortedness=False
        )
        members = members.filter(pl.col("_known") >= chosen.well_history).drop("_known")
    parts = {str(name): part for (name,), part in members.partition_by(MODEL, as_dict=True).items()}
    naive = {name: parts[name] for name in NAIVE if name in parts}
    if chosen.plan:
        naive = {"planned_median3": planned_naive(data, members.get_column(CUTOFF).unique().sort().to_list())}
    print(f"{chosen.panel}: {data.frame[ID].n_unique()} series, {workload.facts['information']}\n")
    rows = [{"model": name, **against(part, naive, data)} for name, part in parts.items()]
    show(sorted(rows, key=lambda row: row["R"]))
    print("\nThe ensemble by regime and horizon: R, coverage of its 80 % interval.\n")
    best = min(
        naive, key=lambda name: float(np.abs(naive[name]["q50"].to_numpy() - naive[name][TARGET].to_numpy()).mean())
    )
    ours = parts[ENSEMBLE].join(naive[best].select(*KEYS, pl.col("q50").alias("_naive")), on=list(KEYS))
    tables = []
    for column in (SEGMENT, HORIZON):
        for (value,), part in sorted(ours.partition_by(column, as_dict=True).items()):
            y, low, middle, high, other = part.select(TARGET, "q10", "q50", "q90", "_naive").to_numpy().T
            ratio = float(np.abs(middle - y).sum() / np.abs(other - y).sum())
            inside = float(((y >= low) & (y <= high)).mean())
            tables.append({"cut": column, "value": value, "rows": part.height, "R": ratio, "coverage80": inside})
    show(tables)


if __name__ == "__main__":
    main()
