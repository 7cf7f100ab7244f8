"""`nightcast scenario`: the wells' answer to other injection, uptime or pressure."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

from nightcast.contracts.errors import ConfigError

SHOWN_WELLS = 12
"""Wells that are printed, those that change most; the file holds all."""


def play_scenario(
    spec: str, settings: list[str], *, data: str | None, as_of: str | None, draws: int, to: Path
) -> dict[str, Any]:
    """Answer a scenario from a workload's newest rows and write `scenario.parquet`.

    Returns
    -------
    dict
        `workload, as_of, changed, flags, file`; `field`, one row a step; `wells`, those that change most.

    Raises
    ------
    ConfigError
        If nothing is set, or the workload is none of wells.
    """
    import polars as pl

    from nightcast.contracts.prediction import Quantiles
    from tasks.night import clock, load_workload, parse_as_of
    from workloads.scenario import FIELD, parse_change, play

    if not settings:
        raise ConfigError(
            "no setting was given", expected="at least one --set", remedy='such as --set "INJ-3.wwir:+10%"'
        )
    changes = [parse_change(text) for text in settings]
    workload = load_workload(spec)
    if workload.prediction is not Quantiles:
        raise ConfigError(
            f"workload {workload.name!r} forecasts {workload.prediction.__name__}",
            expected="a workload of wells",
            remedy="name wells, norne, volve or a file of your own with kind: panel",
        )
    raw = workload.source.read(as_of=parse_as_of(as_of), data=Path(data) if data else None, now=clock())
    verdict = workload.gates.raw(raw)
    verdict.raise_if_stopped()
    recipe = workload.recipe("ci")
    dataset = workload.prepare(raw, verdict, recipe)
    answer = play(dataset.view(dataset.as_of), changes, draws=draws, seed=recipe.seed)
    to.mkdir(parents=True, exist_ok=True)
    path = to / "scenario.parquet"
    answer.rows.write_parquet(path)
    field = answer.rows.filter(pl.col("unique_id") == FIELD)
    numbers = ("base", "case", "change", "change_low", "change_high")
    wells = (
        answer.rows.filter(pl.col("unique_id") != FIELD)
        .group_by("unique_id")
        .agg(pl.col(name).mean() for name in numbers)
        .sort(pl.col("change").abs(), "unique_id", descending=[True, False])
        .filter(pl.col("change") != 0)
    )
    return {
        "workload": workload.name,
        "as_of": f"{dataset.as_of:%Y-%m-%d}",
        "changed": list(answer.changed),
        "flags": list(answer.flags),
        "file": str(path),
        "unit": str(workload.facts.get("unit") or ""),
        "field": [_shown(row) for row in field.drop("unique_id").iter_rows(named=True)],
        "wells": [_shown(row) for row in wells.head(SHOWN_WELLS).iter_rows(named=True)],
    }


def _shown(row: dict[str, Any]) -> dict[str, Any]:
    def plain(value: Any) -> Any:
        if isinstance(value, datetime):
            return f"{value:%Y-%m-%d}"
        return round(value, 3) if isinstance(value, float) else value

    return {name: plain(value) for name, value in row.items()}
