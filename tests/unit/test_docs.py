"""What the documentation promises exists, and what exists is documented."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from flows.parameters import PresetName, WorkloadName
from models.catalog import FORECASTERS
from nightcast.contracts.recipe import PRESETS
from nightcast.features.catalog import FEATURES
from nightcast.sources.sheets import SHEETS
from nightcast.sources.spec import WorkloadFile
from workloads.catalog import WORKLOADS, get_workload, workload_path


def test_the_drop_downs_offer_exactly_the_shipped_workloads_and_presets() -> None:
    assert tuple(name.value for name in WorkloadName) == WORKLOADS
    assert tuple(name.value for name in PresetName) == PRESETS


def test_every_workload_file_is_listed_and_every_listed_one_has_a_sheet_and_a_line_in_the_readme(
    repository: Path,
) -> None:
    readme = (repository / "README.md").read_text()

    assert {path.stem for path in (repository / "workloads").glob("*.yaml")} == set(WORKLOADS)
    assert set(WORKLOADS) == set(SHEETS)
    assert all(f"| `{name}` |" in readme for name in WORKLOADS)


@pytest.mark.parametrize("name", WORKLOADS)
@pytest.mark.parametrize("preset", PRESETS)
def test_every_shipped_workload_composes_with_every_preset(name: str, preset: str) -> None:
    workload = get_workload(name)
    recipe = workload.recipe(preset)

    assert workload.name == name
    assert set(workload.baselines) <= {choice.label for choice in recipe.models}
    assert recipe.hash == get_workload(name).recipe(preset).hash


def test_every_deployment_names_a_shipped_workload_and_an_importable_flow(repository: Path) -> None:
    import importlib

    facts = yaml.safe_load((repository / "deployments/prefect.yaml").read_text())
    for deployment in facts["deployments"]:
        module, _, flow = deployment["entrypoint"].rpartition(".")
        assert callable(getattr(importlib.import_module(module), flow))
        assert deployment["parameters"]["workload"] in WORKLOADS


def test_every_model_feature_and_key_is_documented(repository: Path) -> None:
    models = (repository / "docs/models.md").read_text()
    features = (repository / "docs/features.md").read_text()
    keys = (repository / "docs/workloads.md").read_text()

    assert all(f"`{name}`" in models for name in FORECASTERS)
    assert all(f"`{name}`" in features for name in FEATURES)
    assert all(f"`{name}" in keys or f", {name}`" in keys for name in WorkloadFile.model_fields if name != "columns")


def test_links_between_pages_lead_somewhere(repository: Path) -> None:
    for page in [repository / "README.md", *(repository / "docs").rglob("*.md")]:
        for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_an_unknown_name_is_not_taken_for_a_file() -> None:
    from nightcast.contracts.errors import ConfigError

    with pytest.raises(ConfigError, match="unknown workload 'walls'"):
        workload_path("walls")


def test_whatever_changes_a_night_changes_its_recipe(tmp_path: Path) -> None:
    """Else the changed night would be taken for one that was already published."""
    text = (
        "name: tiny\nkind: panel\nsource: {path: t.parquet}\ncolumns: {id: a, time: b, target: c}\n"
        "freq: MS\nhorizon: 3\n"
    )
    path = tmp_path / "tiny.yaml"

    def hash_with(line: str) -> str:
        path.write_text(text + line)
        return get_workload(path).recipe("ci").hash

    plain = hash_with("")
    changes = (
        "retire_after: 3",
        "gates: {raw: {spike_ratio: 50}}",
        "folds: {step: 4}",
        "features: [lags]",
        "models: [ses]",
        "recipe: {seed: 2}",
    )
    assert len({plain, *(hash_with(line) for line in changes)}) == len(changes) + 1
    assert hash_with("gates: {budget: 0.9}") == plain, "a budget stops a night or lets it pass; it changes no number"
