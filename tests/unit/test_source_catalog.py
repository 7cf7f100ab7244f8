"""Opening sources by kind, and their data sheets."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

from nightcast.sources.bar_files import BarFiles
from nightcast.sources.catalog import SOURCES, open_source
from nightcast.sources.norne import NorneSource
from nightcast.sources.panel_files import PanelFiles
from nightcast.sources.sheets import SHEETS, get_sheet
from nightcast.sources.spec import SOURCE_KINDS, SourceKind, WorkloadFile, load_workload_file
from nightcast.sources.volve import VolveSource

WORKLOADS = Path(__file__).parents[2] / "workloads"


def test_every_kind_of_source_has_a_class() -> None:
    assert set(SOURCES) == {(kind, source) for kind, sources in SOURCE_KINDS.items() for source in sources}
    assert {source for _, source in SOURCES} == set(get_args(SourceKind))


@pytest.mark.parametrize(
    ("name", "kind"),
    [("norne", NorneSource), ("volve", VolveSource), ("nm_eddy_wells", PanelFiles), ("sodir_fields", PanelFiles)],
)
def test_a_workload_file_opens_its_source_with_its_data_sheet(name: str, kind: type) -> None:
    source = open_source(load_workload_file(WORKLOADS / f"{name}.yaml"), Path())

    assert isinstance(source, kind)
    assert source.sheet == get_sheet(name)


def test_the_sheet_of_a_user_s_own_panel_is_made_from_the_file() -> None:
    spec = WorkloadFile.model_validate(
        {"name": "mine", "source": {"path": "a.csv"}, "freq": "D", "horizon": 7, "unit": "kWh"}
    )

    sheet = open_source(spec, Path()).sheet

    assert (sheet.name, sheet.units, sheet.row) == ("mine", {"y": "kWh"}, "one series (unique_id) and day (ds)")


def test_files_of_bars_are_read_as_bars() -> None:
    spec = WorkloadFile.model_validate({"name": "m", "kind": "bars", "source": {"path": "a.csv"}})

    assert isinstance(open_source(spec, Path()), BarFiles)


@pytest.mark.parametrize("sheet", SHEETS.values(), ids=lambda sheet: sheet.name)
def test_every_data_sheet_says_what_a_user_must_know(sheet: object) -> None:
    facts = json.loads(json.dumps(sheet.to_json()))  # type: ignore[attr-defined]

    for key in ("name", "title", "row", "units", "time_zone", "dirt", "publisher", "licence", "how_to"):
        assert facts[key], key


def test_reading_workload_files_needs_no_heavy_library() -> None:
    program = (
        "import sys, nightcast.sources.spec, nightcast.sources.catalog, nightcast.sources.fetch;"
        "print([m for m in ('pandas', 'openpyxl', 'pyarrow', 'prefect', 'mlflow', 'torch') if m in sys.modules])"
    )

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"
