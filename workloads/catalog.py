"""The workloads that ship with Nightcast, and the way to a user's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from nightcast.contracts.errors import ConfigError
from nightcast.contracts.workload import Workload

WORKLOADS: Final[tuple[str, ...]] = (
    "wells",
    "wells_weighted3",
    "wells_ensemble4",
    "norne",
    "volve",
    "nm_eddy_wells",
    "sodir_fields",
    "markets",
    "markets_h5_20",
    "crypto_30m",
    "crypto_5m",
    "fx_1h",
    "fx_5m",
    "stocks_daily",
)
"""Each is a file `workloads/<name>.yaml`; `wells`, `wells_*` and `markets*` are generated and need no data."""
FAMILIES: Final[dict[str, str]] = {
    "panel": "workloads.panel:panel_workload",
    "bars": "workloads.bars:bars_workload",
}
"""`kind` of a workload file -> what composes it."""


def workload_path(name: str | Path) -> Path:
    """The file behind a shipped workload's name, or the user's file itself.

    Raises
    ------
    ConfigError
        If it is neither.
    """
    if str(name) in WORKLOADS:
        return Path(__file__).parent / f"{name}.yaml"
    path = Path(name)
    if path.suffix in (".yaml", ".yml"):
        return path
    raise ConfigError(
        f"unknown workload {str(name)!r}",
        expected=f"one of {', '.join(WORKLOADS)}, or a path to a .yaml file",
        remedy="`nightcast data` lists the shipped ones; docs/workloads.md shows the file's five lines",
    )


def get_workload(name: str | Path) -> Workload[Any]:
    """The workload value of a shipped name or a file.

    Raises
    ------
    ConfigError
        If the name is unknown or the file is wrong.
    """
    from nightcast.evaluation.units import load_class
    from nightcast.sources.spec import load_workload_file

    path = workload_path(name)
    spec = load_workload_file(path)
    shipped = str(name) in WORKLOADS
    compose = load_class(FAMILIES[spec.kind])
    return compose(spec, Path.cwd() if shipped else path.resolve().parent)  # type: ignore[no-any-return]
