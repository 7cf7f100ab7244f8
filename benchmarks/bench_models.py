"""What each model cost in finished nights: `python -m benchmarks.bench_models HOME ...` writes models/costs.json.

Seconds over all units of a model, as a multiple of those of the cheapest model that is no baseline; the median over
homes. Models that no home has keep the values they have; with `--only NAME ...` so do all but the named.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Collection
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


def main(homes: list[str], only: Collection[str] | None) -> None:
    path = Path(__file__).parents[1] / "models" / "costs.json"
    costs: dict[str, float] = json.loads(path.read_text())
    found = [ratios(Path(home)) for home in homes]
    measured = {name for its in found for name in its}
    for name in sorted(measured if only is None else measured & set(only)):
        costs[name] = float(f"{median(its[name] for its in found if name in its):.3g}")
    path.write_text(json.dumps(costs, indent=1, sort_keys=True) + "\n")
    print(path.read_text())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("homes", nargs="+", help="homes of finished nights")
    parser.add_argument("--only", nargs="+", help="models whose cost is written")
    chosen = parser.parse_args()
    main(chosen.homes, chosen.only)
