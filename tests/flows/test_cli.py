"""The command line as a user meets it: one-line errors, exit codes, JSON, help under a second."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
from prefect.settings import get_current_settings

from nightcast.contracts.errors import EXIT_CODES
from tests.flows.panels import monthly_panel, write_workload

pytestmark = pytest.mark.usefixtures("prefect_server")
HEAVY = ("prefect", "mlflow", "great_expectations", "lightgbm", "neuralforecast", "torch", "polars", "pandas")


def nightcast(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    root = Path(__file__).parents[2]
    env = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "NIGHTCAST_"))}
    env |= {"PYTHONPATH": str(root), "NIGHTCAST_PROCESSES": "0", "NIGHTCAST_HOME": str(cwd / "home")}
    env["PREFECT_API_URL"] = get_current_settings().api.url or ""
    return subprocess.run(
        [sys.executable, "-m", "flows.cli", *arguments], cwd=cwd, env=env, capture_output=True, text=True, timeout=300
    )


def the_error(done: subprocess.CompletedProcess[str]) -> str:
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, done.stderr
    assert "Traceback" not in done.stderr
    return lines[0]


def nothing_published(cwd: Path) -> bool:
    return not list(cwd.rglob("forecast.parquet")) and not list(cwd.rglob("current.json"))


@pytest.mark.parametrize(
    ("change", "exit_code", "words"),
    [
        ({"source: {path: tiny.parquet}": "source: {path: gone.parquet}"}, 3, ["gone.parquet", "--data"]),
        ({"target: y": "target: liquid"}, 3, ["liquid", "unique_id, ds, y"]),
        ({"horizon: 3": "horizon: 60"}, 3, ["60", "48"]),
        ({"models: [": "models: [prophet, "}, 2, ["prophet", "naive_last"]),
        ({"freq: MS": "freq: fortnight"}, 2, ["fortnight", "MS"]),
        ({"horizon: 3": "horizont: 3"}, 2, ["horizont"]),
    ],
    ids=["missing file", "unknown column", "horizon too long", "unknown model", "unknown frequency", "unknown key"],
)
def test_a_wrong_input_is_one_line_that_names_it_and_publishes_nothing(
    tmp_path: Path, change: dict[str, str], exit_code: int, words: list[str]
) -> None:
    spec = write_workload(tmp_path, monthly_panel(series=3))
    text = spec.read_text()
    for old, new in change.items():
        assert old in text
        text = text.replace(old, new)
    spec.write_text(text)

    done = nightcast("run", str(spec), "--preset", "ci", cwd=tmp_path)

    assert done.returncode == exit_code, done.stderr
    error = the_error(done)
    assert all(word in error for word in words), error
    assert nothing_published(tmp_path)


def test_an_empty_frame_is_one_line_and_publishes_nothing(tmp_path: Path) -> None:
    spec = write_workload(tmp_path, monthly_panel(series=3).clear())

    done = nightcast("run", str(spec), "--preset", "ci", cwd=tmp_path)

    assert done.returncode in (3, 4)
    assert "empty" in the_error(done) or "no row" in the_error(done)
    assert nothing_published(tmp_path)


def test_too_many_bad_series_stop_the_night(tmp_path: Path) -> None:
    frame = monthly_panel(series=4)
    twice = pl.concat([frame, frame.filter(pl.col("unique_id") != "w00")])

    done = nightcast("run", str(write_workload(tmp_path, twice)), "--preset", "ci", cwd=tmp_path)

    assert done.returncode == 4
    assert "duplicate_rows" in the_error(done)
    assert nothing_published(tmp_path)


def test_an_unknown_workload_names_the_known_ones(tmp_path: Path) -> None:
    done = nightcast("run", "walls", cwd=tmp_path)

    assert done.returncode == 2
    assert "wells" in the_error(done)


def test_an_unreadable_date_and_an_unknown_preset_are_named(tmp_path: Path) -> None:
    spec = str(write_workload(tmp_path, monthly_panel(series=3)))

    assert "yesterday" in the_error(nightcast("run", spec, "--as-of", "yesterday", cwd=tmp_path))
    assert "slow" in the_error(nightcast("run", spec, "--preset", "slow", cwd=tmp_path))


def test_validate_shows_findings_without_training(tmp_path: Path) -> None:
    frame = monthly_panel(series=6)
    spec = write_workload(tmp_path, pl.concat([frame, frame.head(1)]))

    done = nightcast("validate", str(spec), "--json", cwd=tmp_path)

    findings = json.loads(done.stdout)["findings"]
    assert done.returncode == 0
    assert [f["series"] for f in findings if f["reason"] == "duplicate_rows"] == ["w00"]
    assert nothing_published(tmp_path)


def test_commands_without_a_registry_say_what_to_do(tmp_path: Path) -> None:
    spec = str(write_workload(tmp_path, monthly_panel(series=3)))

    for command in ("promote", "rollback", "report"):
        done = nightcast(command, spec, cwd=tmp_path)
        assert done.returncode in (3, 7), done.stderr
        assert "nightcast" in the_error(done)


def test_models_lists_every_entry_of_the_catalog(tmp_path: Path) -> None:
    from models.catalog import CATALOGS

    rows = json.loads(nightcast("models", "--json", cwd=tmp_path).stdout)

    assert {row["name"] for row in rows} == {name for catalog in CATALOGS.values() for name in catalog}


def test_models_of_one_kind_are_listed_and_an_unknown_kind_is_named(tmp_path: Path) -> None:
    from models.catalog import CATALOGS

    rows = json.loads(nightcast("models", "--kind", "bars", "--json", cwd=tmp_path).stdout)

    assert [row["name"] for row in rows] == list(CATALOGS["bars"])
    assert {row["for"] for row in rows} == {"bars"}
    assert "panel, bars" in the_error(nightcast("models", "--kind", "ticks", cwd=tmp_path))
    assert "leave one" in the_error(nightcast("models", "markets", "--kind", "bars", cwd=tmp_path))


def test_the_package_runs_as_a_module(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "nightcast", "--version"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        check=True,
    )

    assert done.stdout.strip().count(".") == 2


def test_help_names_every_command_and_exit_code_and_loads_nothing_heavy(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    code = f"""
import sys
sys.argv = ["nightcast", "--help"]
from flows.cli import main
try:
    main()
except SystemExit:
    pass
loaded = [name for name in {HEAVY!r} if name in sys.modules]
print("LOADED", loaded)
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(root), "COLUMNS": "200", "TERM": "dumb"},
        capture_output=True,
        text=True,
        check=True,
    )

    assert "LOADED []" in done.stdout
    for command in ("run", "forecast", "backfill", "promote", "rollback", "models", "validate", "report", "data", "up"):
        assert f" {command} " in done.stdout
    words = " ".join(done.stdout.split())
    assert all(f"{exit_code} {meaning}" in words for exit_code, meaning in EXIT_CODES.items())


def test_data_sheets_are_printed_and_listed(tmp_path: Path) -> None:
    listed = {row["name"] for row in json.loads(nightcast("data", "list", "--json", cwd=tmp_path).stdout)}
    sheet = nightcast("data", "sheet", "norne", cwd=tmp_path).stdout

    assert {"norne", "volve", "nm_eddy_wells", "sodir_fields"} <= listed
    assert "licence" in sheet
