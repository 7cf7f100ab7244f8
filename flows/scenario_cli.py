"""`nightcast scenario`: the wells' answer to other injection, uptime or pressure."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

from nightcast.contracts.errors import ConfigError

ROLLUP = "rollup.parquet"
SHOWN_WELLS = 12
"""Wells that are printed, those that change most; the file holds all."""


def play_scenario(
    spec: str, settings: list[str], *, data: str | None, as_of: str | None, draws: int, to: Path, store: Any = None
) -> dict[str, Any]:
    """Answer a scenario from a workload's newest rows and write `scenario.parquet`.

    Parameters
    ----------
    store
        Where forecasts are published; one of the same rows becomes the base. None: the physical block's own is.

    Returns
    -------
    dict
        `workload, as_of, base, base_from, changed, flags, extrapolated, file`; `field`, one row a step; `wells`, those
        that change most; `voidage`, the field's ratio in both cases, by step.

    Raises
    ------
    ConfigError
        If nothing is set, or the workload is none of wells.
    """
    import polars as pl

    from nightcast.contracts.prediction import Quantiles
    from nightcast.sources.spec import load_workload_file
    from tasks.night import clock, load_workload, parse_as_of
    from workloads.catalog import workload_path
    from workloads.scenario import EXAMPLE, FIELD, parse_change, play
    from workloads.stages import snapshot_hash

    if not settings:
        raise ConfigError(
            "no setting was given", expected="at least one --set WELL.COLUMN:VALUE", remedy=f"such as {EXAMPLE}"
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
    published, base_from = _published(store, workload.name, dataset.as_of, snapshot_hash(raw))
    factors = load_workload_file(workload_path(spec)).voidage.model_dump()
    view = dataset.view(dataset.as_of)
    answer = play(view, changes, draws=draws, seed=recipe.seed, published=published, factors=factors)
    to.mkdir(parents=True, exist_ok=True)
    path = to / "scenario.parquet"
    answer.rows.write_parquet(path)
    field = answer.rows.filter(pl.col("unique_id") == FIELD)
    ratios = answer.voidage.select("ds", "vrr_base", "vrr_case") if answer.voidage.height else answer.voidage
    numbers = ("base", "case", "change", "change_low", "change_high")
    wells = (
        answer.rows.filter(pl.col("unique_id") != FIELD)
        .group_by("unique_id")
        .agg(*(pl.col(name).mean() for name in numbers), pl.col("beyond").max())
        .sort(pl.col("change").abs(), "unique_id", descending=[True, False])
        .filter(pl.col("change") != 0)
    )
    return {
        "workload": workload.name,
        "as_of": f"{dataset.as_of:%Y-%m-%d}",
        "base": answer.base,
        "base_from": base_from,
        "changed": list(answer.changed),
        "flags": list(answer.flags),
        "extrapolated": answer.rows.filter(pl.col("extrapolated") & (pl.col("unique_id") != FIELD)).height,
        "file": str(path),
        "unit": str(workload.facts.get("unit") or ""),
        "field": [_shown(row) for row in field.drop("unique_id", "extrapolated").iter_rows(named=True)],
        "wells": [_shown(row) for row in wells.head(SHOWN_WELLS).iter_rows(named=True)],
        "voidage": [_shown(row) for row in ratios.iter_rows(named=True)],
    }


def _published(store: Any, workload: str, as_of: datetime, snapshot: str) -> tuple[Any, str]:
    """The newest published forecast of these rows, and what is said of the base."""
    import io

    import polars as pl

    from nightcast.publishing import find_published, read_forecast
    from workloads.scenario import Published

    own = "the physical block's own forecast"
    found = None if store is None else find_published(store, workload, as_of)
    if found is None:
        return None, f"{own}: no forecast is published as of {as_of:%Y-%m-%d} (nightcast run {workload})"
    if found.manifest.get("snapshot") != snapshot:
        return None, f"{own}: what is published as of {as_of:%Y-%m-%d} was made from other rows"
    rows = read_forecast(store, found)
    field = None
    if ROLLUP in found.manifest["files"]:
        table = pl.read_parquet(io.BytesIO(store.read(f"{found.folder}/{ROLLUP}")))
        field = table.filter((pl.col("level") == "field") & (pl.col("kind") == "rate")).select("ds", "q50")
    return Published(rows, field), f"published forecast (P50), revision {found.revision}, {store.uri(found.folder)}"


def _shown(row: dict[str, Any]) -> dict[str, Any]:
    def plain(value: Any) -> Any:
        if isinstance(value, datetime):
            return f"{value:%Y-%m-%d}"
        return round(value, 3) if isinstance(value, float) else value

    return {name: plain(value) for name, value in row.items()}
