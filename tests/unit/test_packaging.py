"""The wheel, the pins, the house rules on imports, and the files that start things elsewhere."""

import importlib
import importlib.metadata
import json
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
HEAVY = ("prefect", "mlflow", "great_expectations", "lightgbm", "neuralforecast", "statsforecast", "torch", "ray")


def pins() -> dict[str, Version]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    found = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    return {canonicalize_name(name): Version(version) for name, version in found.items()}


def requirements() -> list[Requirement]:
    project, groups = PROJECT["project"], PROJECT["dependency-groups"]
    extras = [text for texts in project["optional-dependencies"].values() for text in texts]
    texts = [*project["dependencies"], *extras, *groups["dev"], *groups["docs"]]
    return [Requirement(text) for text in texts]


# Pins.


def test_every_dependency_is_pinned_at_a_version_it_allows() -> None:
    fixed = pins()

    for requirement in requirements():
        version = fixed.get(canonicalize_name(requirement.name))
        assert version is not None, f"{requirement.name} is missing: run `make constraints`"
        assert requirement.specifier.contains(version, prereleases=True), f"{requirement} but pinned at {version}"


def test_pins_name_released_versions_only() -> None:
    assert all(version.local is None for version in pins().values()), "local builds exist on one machine only"


def test_the_two_caps_that_keep_prefect_working_are_declared() -> None:
    declared = {r.name: r.specifier for r in requirements()}

    # fastapi 0.155 stops the server at import; SQLAlchemy 2.1 silently stops all scheduling.
    assert not declared["fastapi"].contains("0.155.0")
    assert not declared["sqlalchemy"].contains("2.1.0")


def needed(name: str, extra: str = "") -> list[Requirement]:
    texts = importlib.metadata.requires(name) or []
    return [r for r in map(Requirement, texts) if r.marker is None or r.marker.evaluate({"extra": extra})]


def test_pins_agree_with_each_other() -> None:
    """What `pip check` asks, of the pins instead of the environment."""
    fixed, checked = pins(), 0

    for name, version in fixed.items():
        try:
            if (
                importlib.metadata.version(name) != str(version)
                and Version(importlib.metadata.version(name)) != version
            ):
                continue
        except importlib.metadata.PackageNotFoundError:
            continue
        for requirement in needed(name):
            other = fixed.get(canonicalize_name(requirement.name))
            assert other is not None, f"{name} needs {requirement}, which is not pinned"
            assert requirement.specifier.contains(other, prereleases=True), f"{name} needs {requirement}, not {other}"
            checked += 1
    assert checked > 300


def test_the_environment_is_the_pinned_one() -> None:
    made_from = Path(sys.prefix) / "constraints.txt"
    if not made_from.exists() or made_from.read_bytes() != (ROOT / "constraints.txt").read_bytes():
        pytest.skip("this environment was not made by `make setup-dev` from the present constraints.txt")
    fixed, wrong = pins(), []
    for distribution in importlib.metadata.distributions():
        name = canonicalize_name(distribution.name)
        if name in {"pip", "setuptools", "nightcast"}:
            continue
        installed = Version(Version(distribution.version).public)
        if fixed.get(name) != installed:
            wrong.append(f"{name} {installed}, pinned {fixed.get(name)}")

    assert wrong == []


@pytest.mark.long
def test_pip_resolves_everything_at_these_pins(tmp_path: Path) -> None:
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "venv")], check=True)
    subprocess.run([str(python), "-m", "pip", "install", "--quiet", "--upgrade", "pip>=25.1"], check=True)
    command = [str(python), "-m", "pip", "install", "--dry-run", "--quiet", "--report", "-", "-c", "constraints.txt"]
    asked = [*command, ".[postgres,chronos,timesfm,ttm,mint]", "--group", "dev", "--group", "docs"]

    report = json.loads(subprocess.run(asked, cwd=ROOT, check=True, stdout=subprocess.PIPE).stdout)

    found = {canonicalize_name(item["metadata"]["name"]): item["metadata"]["version"] for item in report["install"]}
    assert {name: Version(version).public for name, version in found.items() if name != "nightcast"} == {
        name: version.public for name, version in pins().items() if name in found
    }
    assert set(pins()) - set(found) <= {"setuptools"}


# The wheel.


def shipped_packages() -> list[str]:
    return PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]


def test_the_wheel_lists_every_package_of_the_root() -> None:
    # An editable installation exposes the whole root, so a package nobody listed would work here and nowhere else.
    folders = {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"tests"}

    assert sorted(folders) == sorted(shipped_packages())


@pytest.mark.parametrize("name", shipped_packages())
def test_packages_come_from_this_tree(name: str) -> None:
    module = importlib.import_module(name)

    assert Path(str(module.__file__)).is_relative_to(ROOT), f"another distribution's {name} hides ours"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    out = tmp_path_factory.mktemp("wheel")
    build = "import hatchling.build as b, sys; print(b.build_wheel(sys.argv[1]))"
    subprocess.run([sys.executable, "-c", build, str(out)], cwd=ROOT, check=True)
    return zipfile.ZipFile(next(out.glob("nightcast-*.whl")))


def test_the_wheel_holds_every_source_file_and_every_data_file(wheel: zipfile.ZipFile) -> None:
    built = set(wheel.namelist())

    for package in shipped_packages():
        for path in (ROOT / package).rglob("*"):
            if path.suffix in {".pyc"} or path.is_dir() or "__pycache__" in path.parts or path.name.startswith("."):
                continue
            assert path.relative_to(ROOT).as_posix() in built, f"{path.name} is not in the wheel"


def test_the_wheel_holds_the_deployments_and_the_type_marker(wheel: zipfile.ZipFile) -> None:
    assert wheel.read("flows/prefect.yaml") == (ROOT / "deployments" / "prefect.yaml").read_bytes()
    assert "nightcast/py.typed" in wheel.namelist()


def test_the_wheel_holds_nothing_else(wheel: zipfile.ZipFile) -> None:
    tops = {name.split("/")[0] for name in wheel.namelist()}

    assert tops == {*shipped_packages(), f"nightcast-{PROJECT['project']['version']}.dist-info"}


def test_the_wheel_installs_the_command(wheel: zipfile.ZipFile) -> None:
    entry = next(name for name in wheel.namelist() if name.endswith("entry_points.txt"))

    target = PROJECT["project"]["scripts"]["nightcast"]
    module, _, name = target.partition(":")
    assert f"nightcast = {target}\n" in wheel.read(entry).decode()
    assert callable(getattr(importlib.import_module(module), name))


# Imports.


def test_the_rooms_import_downwards_only() -> None:
    linter = Path(sys.executable).with_name("lint-imports")

    done = subprocess.run([str(linter), "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout


def test_the_command_line_starts_without_the_heavy_libraries() -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", "from flows.cli import app; app(['--help'])"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr[-2000:]
    loaded = {line.rpartition("|")[2].strip().split(".")[0] for line in done.stderr.splitlines() if "|" in line}
    assert "typer" in loaded
    assert loaded.isdisjoint(HEAVY)


# Files that start things elsewhere.


def test_every_deployment_names_a_flow_and_parameters_it_accepts() -> None:
    declared = yaml.safe_load((ROOT / "deployments" / "prefect.yaml").read_text())

    assert declared["prefect-version"] == str(pins()["prefect"])
    assert len({each["name"] for each in declared["deployments"]}) == len(declared["deployments"])
    for each in declared["deployments"]:
        module, _, name = each["entrypoint"].rpartition(".")
        assert ":" not in each["entrypoint"], "a path entry point imports the file a second time"
        flow = getattr(importlib.import_module(module), name)
        flow.validate_parameters(each["parameters"])
        assert each["schedules"][0]["timezone"] == "UTC"


COMPOSE = ROOT / "deployments" / "docker-compose.yaml"


def compose() -> dict:
    return yaml.safe_load(COMPOSE.read_text())


def test_the_sample_environment_names_every_variable_of_the_composition() -> None:
    lines = (ROOT / "deployments" / ".env.sample").read_text().splitlines()
    sample = {line.partition("=")[0] for line in lines if line and not line.startswith("#")}

    assert set(re.findall(r"(?<!\$)\$\{(\w+)", COMPOSE.read_text())) == sample


def test_services_depend_on_services_that_exist_and_can_say_that_they_are_ready() -> None:
    services = compose()["services"]

    for name, service in services.items():
        for other, how in service.get("depends_on", {}).items():
            assert other in services, f"{name} waits for {other}"
            if how["condition"] == "service_healthy":
                assert services[other]["healthcheck"]["test"], f"{name} waits for {other}, which has no health check"


def test_volumes_and_configs_that_are_used_are_declared() -> None:
    whole = compose()

    for service in whole["services"].values():
        for volume in service.get("volumes", []):
            assert volume.split(":")[0] in whole["volumes"]
        for config in service.get("configs", []):
            assert config["source"] in whole["configs"]


def test_ports_are_published_on_loopback_only() -> None:
    ports = [port for service in compose()["services"].values() for port in service.get("ports", [])]

    assert len(ports) == 2
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_nothing_in_the_composition_reports_home() -> None:
    from flows.services import QUIET

    ours = [s for s in compose()["services"].values() if s["image"] == "${NIGHTCAST_IMAGE}"]

    assert len(ours) == 4
    for service in ours:
        for key, value in QUIET.items():
            if not key.startswith("RAY_"):
                assert service["environment"][key] == value


def test_settings_of_the_worker_are_settings_we_know() -> None:
    from tasks.settings import Settings

    given = [key for key in compose()["services"]["worker"]["environment"] if key.startswith("NIGHTCAST_")]

    assert len(given) >= 6
    assert {key.removeprefix("NIGHTCAST_").lower() for key in given} <= set(Settings.model_fields)


@pytest.mark.parametrize(
    "script", [".ci/run", *sorted(str(p.relative_to(ROOT)) for p in ROOT.glob("deployments/*.sh"))]
)
def test_shell_scripts_parse_and_stop_at_the_first_error(script: str) -> None:
    text = (ROOT / script).read_text()

    assert text.startswith("#!/usr/bin/env bash\n")
    assert "\nset -euo pipefail\n" in text
    assert subprocess.run(["bash", "-n", str(ROOT / script)], check=False).returncode == 0


def test_the_image_is_built_and_checked_by_the_scripts_that_can_run_without_it() -> None:
    text = (ROOT / "Dockerfile").read_text()
    ignored = (ROOT / ".dockerignore").read_text().splitlines()

    assert "RUN bash deployments/install_wheel.sh /opt/venv" in text
    assert "RUN bash /opt/nightcast/smoke_test.sh" in text
    assert "USER nightcast" in text
    for package in shipped_packages():
        assert f"!{package}" in ignored


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_make_alone_lists_every_target() -> None:
    listed = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    phony = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)

    assert phony is not None
    for target in phony.group(1).split():
        assert f"make {target} " in listed
