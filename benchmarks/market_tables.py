"""Print the verdict tables of finished nights of bars: `python -m benchmarks.market_tables HOME [HOME ...]`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import polars as pl

from nightcast.contracts.columns import HORIZON, MODEL
from workloads.bars import BASELINES

NUMBERS = (
    *("macro_f1", "f1_excess_low", "direction_auc", "auc_low", "brier_skill"),
    *("seed_sharpe", "gross_sharpe", "sharpe", "dsr", "trades"),
)


def cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "**yes**" if value else "no"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def table(night: Path, manifest: dict[str, Any]) -> str:
    verdicts = pl.read_parquet(night / "evaluation" / "verdicts.parquet")
    league = pl.read_parquet(night / "evaluation" / "league.parquet")
    ensemble = pl.read_parquet(night / "evaluation" / "ensemble.parquet")
    days = ensemble.get_column("cutoff").dt.truncate("1d").n_unique()
    counts = manifest["counts"]
    names = ("seed_gate", "skill_gate", "economic_gate", *NUMBERS)
    plain = [name for name in BASELINES if name != "volatility_only"]
    shown = verdicts.filter(~pl.col(MODEL).is_in(plain)).sort(HORIZON, MODEL)
    pbo = verdicts.get_column("pbo").drop_nulls()
    lines = [
        f"### {manifest['source'].rsplit('/', 1)[-1]}, as of {str(manifest['as_of'])[:16]}",
        "",
        f"{counts['series_promised']} symbols promised, {counts['series_quarantined']} in quarantine; "
        f"{ensemble.height} ensemble decisions judged on {days} days; PBO over all trials "
        f"{cell(float(pbo[0])) if len(pbo) else '-'}; a model without skill shows a Sharpe above 0.3 on some horizon "
        f"with probability {cell(verdicts['luck'][0])}.",
        "",
        "| model | horizon | " + " | ".join(name.removesuffix("_gate") for name in names) + " |",
        "|---|---" + "|---" * len(names) + "|",
    ]
    for row in shown.iter_rows(named=True):
        model = f"**{row[MODEL]}**" if row[MODEL] == "ensemble" else row[MODEL]
        lines.append(f"| {model} | {row[HORIZON]} | " + " | ".join(cell(row[name]) for name in names) + " |")
    lines += ["", "| model | log loss / best baseline | log loss | ECE | seconds |", "|---|---|---|---|---|"]
    lines += [
        "| " + " | ".join(cell(row[n]) for n in (MODEL, "ratio", "log_loss", "ece", "seconds")) + " |"
        for row in league.iter_rows(named=True)
    ]
    return "\n".join([*lines, "", f"Gate: {manifest['decision']['reason']}", ""])


def main(homes: list[str]) -> None:
    for home in homes:
        for path in sorted(Path(home).glob("store/forecasts/*/*/manifest.json")):
            manifest = json.loads(path.read_text())
            print(table(Path(home) / "work" / manifest["night_id"], manifest))


if __name__ == "__main__":
    main(sys.argv[1:])
