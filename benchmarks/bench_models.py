"""What each model cost in finished nights: `python -m benchmarks.bench_models HOME ...` writes models/costs.json.

Seconds over all units of a model, as a multiple of those of the cheapest model that is no baseline; the median over
homes. Models that no home has keep the values they have.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from statistics import median

from models.catalog import CATALOGS

BASELINES = {name for catalog in CATALOGS.values() for name, its in catalog.items() if its.capabilities.baseline}


def ratios(home: Path) -> dict[str, float]:
    total: dict[str, float] = {}
    for path in home.glob("cache/units/*/*/unit.json"):
        facts = json.loads(path.read_text())
        name = facts["model"]["name"]
        total[name] = total.get(name, 0.0) + facts["seconds"]
    unit = min(seconds for name, seconds in total.items() if name not in BASELINES)
    return {name: seconds / unit for name, seconds in total.items()}


def main(homes: list[str]) -> None:
    path = Path(__file__).parents[1] / "models" / "costs.json"
    costs: dict[str, float] = json.loads(path.read_text())
    found = [ratios(Path(home)) for home in homes]
    for name in sorted({name for its in found for name in its}):
        costs[name] = float(f"{median(its[name] for its in found if name in its):.3g}")
    path.write_text(json.dumps(costs, indent=1, sort_keys=True) + "\n")
    print(path.read_text())


if __name__ == "__main__":
    main(sys.argv[1:])
