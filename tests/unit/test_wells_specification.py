"""The files that speak the wells specification's words compose, and the page that explains them names what exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from models.catalog import FORECASTERS, make_forecaster
from nightcast.contracts.recipe import PRESETS
from nightcast.features.catalog import FEATURES
from workloads.catalog import get_workload

FILES = ("wells_multiscale", "wells_complete")


def file_of(repository: Path, name: str) -> Path:
    return repository / "workloads" / "specification" / f"{name}.yaml"


def test_every_file_of_the_folder_is_named_on_the_page(repository: Path) -> None:
    page = (repository / "docs" / "wells-specification.md").read_text()
    found = {path.stem for path in (repository / "workloads" / "specification").glob("*.yaml")}

    assert found == set(FILES)
    assert all(f"nightcast run workloads/specification/{name}.yaml" in page for name in found)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("preset", PRESETS)
def test_each_file_makes_a_recipe_whose_models_can_be_made(repository: Path, name: str, preset: str) -> None:
    workload = get_workload(file_of(repository, name))
    recipe = workload.recipe(preset)

    assert workload.name == name
    for choice in recipe.models:
        assert make_forecaster(choice) is not None
    assert {"naive_last", "naive_mean3", "naive_seasonal", "ses"} <= set(workload.baselines)


def test_the_complete_file_has_the_specifications_numbers_under_the_preset_seed(repository: Path) -> None:
    recipe = get_workload(file_of(repository, "wells_complete")).recipe("seed")
    params = {choice.label: choice.params for choice in recipe.models}
    features = {choice.name: choice.params for choice in recipe.features}

    mixer = params["multiscale_tsmixer"]
    assert (mixer["input_size"], mixer["hidden"], mixer["blocks"], mixer["dropout"]) == (48, 64, 2, 0.1)
    assert list(mixer["scales"]) == [1, 2, 4]
    assert params["attention_tsmixerx"]["attention_hidden"] == 32
    assert params["attention_tsmixerx"]["attention_heads"] == 4
    assert features["fourier"]["pairs"] == 3
    assert (features["embedding"]["size"], features["embedding"]["components"]) == (12, 3)
    assert recipe.combiner.method == "weighted"


def test_the_page_names_only_models_features_and_keys_that_exist(repository: Path) -> None:
    page = (repository / "docs" / "wells-specification.md").read_text()
    named = set(re.findall(r"\{name: (\w+)", page))
    blocks = {name for inner in re.findall(r"features: (\{.*?\}+)`", page) for name in yaml.safe_load(inner)}

    assert named
    assert named <= set(FORECASTERS)
    assert {"fourier", "embedding", "pressure", "productivity", "injection"} <= blocks
    assert blocks <= set(FEATURES)
