"""The workload file: what it accepts, and how it says no."""

from __future__ import annotations

from pathlib import Path

import pytest

from nightcast.contracts.errors import ConfigError
from nightcast.contracts.frequency import Frequency
from nightcast.sources.spec import WorkloadFile, load_workload_file

SHORTEST = """\
name: eddy
kind: panel
source: {path: eddy.parquet}
columns: {id: api, time: date, target: oil}
freq: MS
horizon: 6
"""
SHIPPED = Path(__file__).parents[2] / "workloads"


def _load(folder: Path, text: str) -> WorkloadFile:
    path = folder / "work.yaml"
    path.write_text(text, encoding="utf-8")
    return load_workload_file(path)


def _fault(folder: Path, text: str) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        _load(folder, text)
    assert "\n" not in str(caught.value)
    assert str(folder / "work.yaml") in str(caught.value)
    return caught.value


def test_six_lines_are_a_whole_workload(tmp_path: Path) -> None:
    spec = _load(tmp_path, SHORTEST)

    assert (spec.name, spec.kind, spec.source.kind, spec.source.path) == ("eddy", "panel", "files", "eddy.parquet")
    assert spec.freq == Frequency(1, "MS")
    assert (spec.retire_after, spec.gates.budget, spec.lower) == (12, 0.2, None)
    assert spec.features is None
    assert spec.models is None
    assert spec.panel_schema().covariates == {}


def test_columns_default_to_the_names_of_the_vocabulary(tmp_path: Path) -> None:
    spec = _load(tmp_path, "name: a\nsource: {path: a.csv}\nfreq: D\nhorizon: 3\n")

    assert (spec.columns.id, spec.columns.time, spec.columns.target) == ("unique_id", "ds", "y")


def test_covariates_are_given_by_role_or_by_column_and_role(tmp_path: Path) -> None:
    spec = _load(
        tmp_path,
        SHORTEST.replace("target: oil}", "target: oil, covariates: {gas: past, up: {column: hrs / 24, role: plan}}}"),
    )

    assert spec.columns.covariates["gas"].column == "gas"
    assert spec.columns.covariates["up"].column == "hrs / 24"
    assert spec.panel_schema().covariates == {"gas": "past", "up": "plan"}


def test_features_are_named_alone_or_with_parameters(tmp_path: Path) -> None:
    by_name = _load(tmp_path, SHORTEST + "features: [lags, trend]\n")
    with_params = _load(tmp_path, SHORTEST + "features: {lags: {steps: [1, 2]}, trend: }\n")

    assert by_name.features == {"lags": {}, "trend": {}}
    assert with_params.features == {"lags": {"steps": [1, 2]}, "trend": {}}


def test_fold_overrides_keep_only_what_was_given_and_are_typed(tmp_path: Path) -> None:
    assert _load(tmp_path, SHORTEST + "folds: {cutoffs: '4'}\n").folds == {"cutoffs": 4}


def test_recipe_overrides_are_combiner_gate_and_seed(tmp_path: Path) -> None:
    spec = _load(tmp_path, SHORTEST + "recipe: {seed: 7, combiner: {method: mean}}\n")

    assert spec.recipe == {"seed": 7, "combiner": {"method": "mean"}}


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("horizon: 0", ("horizon", "0", "greater than or equal to 1")),
        ("horizon: six", ("horizon", "'six'", "integer")),
        ("freq: fortnight", ("fortnight", "MS", "`freq`")),
        ("kind: pannel", ("kind", "'pannel'", "'panel' or 'bars'")),
        ("name: Eddy Wells", ("name", "'Eddy Wells'", "pattern")),
        ("gates: {budget: 2}", ("gates.budget", "2", "less than or equal to 1")),
        ("folds: {cutoff: 3}", ("folds", "cutoff")),
        ("recipe: {models: []}", ("recipe", "models", "combiner, gate and seed")),
        ("recipe: {gate: {confidence: 3}}", ("recipe", "confidence", "3")),
        ("horizn: 6", ("unknown key", "'horizn'", "did you mean 'horizon'?")),
        ("source: {pth: a.csv}", ("'source.pth'", "did you mean 'path'?")),
        ("source: {kind: s3}", ("source.kind", "'s3'", "'files'")),
        ("source: {path: a, options: {encoding: klingon}}", ("source.options.encoding", "'klingon'", "utf-8")),
        ("source: {path: a, options: {delimiter: ';;'}}", ("source.options.delimiter", "at most 1 character")),
        ("columns: {id: a, target: y, covariates: {y: past}}", ("columns.covariates", "another name than 'y'")),
        ("columns: {covariates: {gas: future}}", ("columns.covariates.gas.role", "'future'", "'past'")),
        ("columns: {covariates: {gas: {colum: a, role: past}}}", ("columns.covariates.gas.colum", "did you mean")),
    ],
)
def test_a_wrong_line_is_named_with_its_value_and_what_would_be_right(
    tmp_path: Path, line: str, words: tuple[str, ...]
) -> None:
    key = line.partition(":")[0]
    text = "".join(f"{kept}\n" for kept in SHORTEST.splitlines() if not kept.startswith(f"{key}:")) + line + "\n"

    message = str(_fault(tmp_path, text))

    for word in words:
        assert word in message


def test_a_missing_key_is_named(tmp_path: Path) -> None:
    message = str(_fault(tmp_path, SHORTEST.replace("horizon: 6\n", "")))

    assert "'horizon' is missing" in message
    assert "add a line `horizon: ...`" in message


def test_several_faults_are_counted(tmp_path: Path) -> None:
    assert "(and 1 more)" in str(_fault(tmp_path, SHORTEST + "horizn: 6\nunits: m3\n"))


def test_a_key_that_stands_twice_is_refused(tmp_path: Path) -> None:
    message = str(_fault(tmp_path, SHORTEST + "horizon: 12\n"))

    assert "'horizon' stands twice" in message
    assert "line 7" in message


@pytest.mark.parametrize("text", ["", "- a\n- b\n", "name: [a\n", "a: b: c\n"])
def test_text_that_is_no_mapping_is_refused(tmp_path: Path, text: str) -> None:
    _fault(tmp_path, text)


def test_a_missing_file_is_a_configuration_error_with_the_nearest_name(tmp_path: Path) -> None:
    (tmp_path / "eddy.yaml").write_text(SHORTEST)

    with pytest.raises(ConfigError, match=r"edy\.yaml: there is no such workload file.*did you mean .*eddy\.yaml"):
        load_workload_file(tmp_path / "edy.yaml")


def test_a_folder_is_not_a_workload_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load_workload_file(tmp_path)


def test_bars_are_a_valid_kind_that_the_panel_path_refuses(tmp_path: Path) -> None:
    spec = _load(tmp_path, "name: mine\nkind: bars\nsource: {path: bars.parquet}\n")

    with pytest.raises(ConfigError, match="'mine' is of kind 'bars'; expected kind: panel"):
        spec.require_panel()


@pytest.mark.parametrize("path", sorted(SHIPPED.glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_workload_files_are_sound_and_named_after_their_file(path: Path) -> None:
    spec = load_workload_file(path)

    assert spec.name == path.stem
    if spec.kind == "panel":
        assert (spec.freq.alias, spec.horizon, spec.unit, spec.lower) == ("MS", 6, "m3/d", 0)


def test_every_field_of_the_workload_file_is_described() -> None:
    for name, field in WorkloadFile.model_fields.items():
        assert field.description, name
