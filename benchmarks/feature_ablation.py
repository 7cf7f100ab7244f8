"""What each feature block is worth: `linear_global` and `lightgbm_global` with all blocks, without one, with one alone.

python -m benchmarks.feature_ablation --seed 1 --seed 2
python -m benchmarks.feature_ablation --workload workloads/norne.yaml --data ../shared/data/norne/monthly.parquet

R is MAE over that of the best of last, mean-3 and SES on the same rows; monthly origins over the last 24 months, four
refits, horizon 6, information mode U. Nothing is tuned; a difference below about .01 says nothing.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks.panels import NAIVE, against, dataset, factory, forecasts, generated, mean_of, show
from nightcast.contracts.recipe import FoldPlan
from nightcast.features.catalog import FEATURES

PLAN = FoldPlan(cutoffs=24, refits=4, step=1)


def ratio(spec: Any, data: Path | None, blocks: Iterable[str], naive: dict[str, Any]) -> float:
    """R with some blocks."""
    table = dataset(spec, data, features={name: {} for name in blocks})
    if not naive:
        naive |= {name: forecasts(factory(name), table, PLAN) for name in NAIVE}
    parts = [
        forecasts(factory("linear_global"), table, PLAN),
        forecasts(factory("lightgbm_global", levels=(0.5,)), table, PLAN),
    ]
    return float(against(mean_of(parts), naive, table, draws=1)["R"])


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, action="append", help="of a generated field; may be repeated")
    parser.add_argument("--workload", type=Path)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--case", action="append", help="a line of the table, such as 'fourier alone'; may be repeated")
    chosen = parser.parse_args()
    specs: dict[str, Any] = {f"seed {seed}": generated(seed) for seed in chosen.seed or ()}
    if chosen.workload is not None:
        specs[chosen.workload.stem] = chosen.workload
    every = list(FEATURES)
    cases = {"none": [], "all": every}
    cases |= {f"all but {name}": [other for other in every if other != name] for name in every}
    cases |= {f"{name} alone": [name] for name in every}
    if unknown := sorted(set(chosen.case or ()) - set(cases)):
        parser.error(f"no such case as {unknown[0]!r}; some of {', '.join(cases)}")
    cases = {case: blocks for case, blocks in cases.items() if not chosen.case or case in chosen.case}
    naive: dict[str, dict[str, Any]] = {name: {} for name in specs}
    rows = []
    for case, blocks in cases.items():
        row: dict[str, Any] = {"blocks": case}
        row |= {name: ratio(spec, chosen.data, blocks, naive[name]) for name, spec in specs.items()}
        rows.append(row)
        print(row, flush=True)
    show(rows)


if __name__ == "__main__":
    main()
