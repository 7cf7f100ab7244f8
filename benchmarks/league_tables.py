"""Print the league tables of finished nights as Markdown: `python -m benchmarks.league_tables HOME [HOME ...]`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import polars as pl

from models.catalog import FORECASTERS

COLUMNS = ("nmae", "ratio", "mase", "bias", "r2_pooled", "r2_within", "pinball", "coverage80")


def table(night: Path, manifest: dict[str, object]) -> str:
    league = pl.read_parquet(night / "evaluation" / "league.parquet")
    baselines = {name for name, entry in FORECASTERS.items() if entry.capabilities.baseline}
    counts = manifest["counts"]
    assert isinstance(counts, dict)
    lines = [
        f"### `{manifest['workload']}`, as of {str(manifest['as_of'])[:10]}",
        "",
        f"{counts['series_promised']} series promised, {counts['series_quarantined']} in quarantine, "
        f"{counts['series_by_fallback']} by fallback, {counts['series_retired']} retired.",
        "",
        "| model | rows | " + " | ".join(COLUMNS) + " |",
        "|---|---" + "|---" * len(COLUMNS) + "|",
    ]
    for row in league.iter_rows(named=True):
        name = f"*{row['model']}*" if row["model"] in baselines else row["model"]
        name = f"**{name}**" if row["model"] == "ensemble" else name
        values = " | ".join("-" if row[c] is None else f"{row[c]:.3g}" for c in COLUMNS)
        lines.append(f"| {name} | {row['rows']} | {values} |")
    decision = manifest["decision"]
    assert isinstance(decision, dict)
    return "\n".join([*lines, "", f"Gate: {decision['reason']}", ""])


def main(homes: list[str]) -> None:
    for home in homes:
        for path in sorted(Path(home).glob("store/forecasts/*/*/manifest.json")):
            manifest = json.loads(path.read_text())
            print(table(Path(home) / "work" / manifest["night_id"], manifest))


if __name__ == "__main__":
    main(sys.argv[1:])
