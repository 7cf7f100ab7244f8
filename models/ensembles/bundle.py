"""A bundle: the fitted ensemble as files, with a manifest that is checked before anything is loaded.

Safetensors for networks, native text for boosters, JSON for the rest; no pickle. A bundle forecasts by itself from
a dataset: nothing of the night that made it is needed.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from models.catalog import load_model
from nightcast import __version__
from nightcast.contracts.errors import RegistryError
from nightcast.contracts.recipe import Recipe
from nightcast.evaluation.units import load_class

FORMAT = 1
OWN_PACKAGES = ("models.", "nightcast.", "workloads.")


@dataclass(frozen=True)
class Bundle:
    """A fitted ensemble, ready to forecast.

    Attributes
    ----------
    facts
        `bundle.json`: recipe, weights, calibration, dataset facts, provenance.
    members
        Label -> fitted model.
    """

    folder: Path
    facts: dict[str, Any]
    members: Mapping[str, Any]

    @property
    def recipe(self) -> Recipe:
        """The recipe it was made from."""
        return Recipe.model_validate(self.facts["recipe"])

    def predict_members(self, view: Any) -> tuple[dict[str, Any], dict[str, str]]:
        """Each member's forecast, and what kept a member from it."""
        predictions: dict[str, Any] = {}
        failures: dict[str, str] = {}
        for label, model in self.members.items():
            try:
                predictions[label] = model.predict(view)
            except Exception as error:  # noqa: BLE001  # one member must not keep the others from delivering
                failures[label] = f"{type(error).__name__}: {error}"
        return predictions, failures

    def join(self, predictions: Mapping[str, Any], failures: Mapping[str, str], scale: pl.DataFrame) -> Any:
        """The ensemble's calibrated forecast from its members'.

        Parameters
        ----------
        predictions, failures
            What `predict_members` returned.
        scale
            `unique_id, cutoff, scale` at the view's cutoff.

        Raises
        ------
        RegistryError
            If no member could forecast.
        """
        if not predictions:
            raise RegistryError(
                f"no member of the bundle could forecast ({'; '.join(f'{k}: {v}' for k, v in failures.items())})",
                expected="at least one member to answer",
                remedy="check that the input has the columns the bundle was made with (bundle.json)",
            )
        combiner = load_own(self.facts["combiner"])()
        calibrator = load_own(self.facts["calibrator"])()
        combined = combiner.apply(predictions, self.facts["weights"])
        joined = calibrator.apply(combined, scale, self.facts["calibration"])
        lower = self.facts.get("lower")
        if lower is None:
            return joined
        values = type(joined).value_columns()
        return type(joined).of(joined.frame.with_columns(pl.col(name).clip(lower_bound=lower) for name in values))

    @classmethod
    def load(cls, folder: Path) -> Bundle:
        """Check the manifest and load.

        Raises
        ------
        RegistryError
            If a file is missing or changed, or the bundle's format is unknown.
        """
        verify(folder)
        facts = json.loads((folder / "bundle.json").read_text())
        if facts.get("format") != FORMAT:
            raise RegistryError(
                f"bundle format {facts.get('format')!r} in {folder.name}",
                expected=f"format {FORMAT}, as written by nightcast {__version__}",
                remedy="load it with the nightcast version named in its manifest, or retrain",
            )
        members = {label: load_model(folder / "members" / its["folder"]) for label, its in facts["members"].items()}
        return cls(folder, facts, members)


def load_own(target: str) -> Any:
    """Import `module:name` that a bundle names, if it is ours: a bundle cannot make the loader import anything else.

    Raises
    ------
    RegistryError
        If it lies outside our packages.
    """
    if not target.startswith(OWN_PACKAGES):
        raise RegistryError(
            f"the bundle names {target!r}",
            expected=f"something inside {', '.join(name.rstrip('.') for name in OWN_PACKAGES)}",
            remedy="do not use this version: it was not written by nightcast",
        )
    return load_class(target)


def write_bundle(folder: Path, *, facts: Mapping[str, Any], members: Mapping[str, tuple[str, Path]]) -> None:
    """Write a bundle folder: members' files, `bundle.json`, and `manifest.json` with sha256 of each.

    Parameters
    ----------
    facts
        Recipe, weights, calibration, ...; `members` and `format` are added.
    members
        Label -> (class target, folder of the fitted model).
    """
    (folder / "members").mkdir(parents=True)
    listed = {}
    for index, (label, (target, source)) in enumerate(sorted(members.items())):
        name = f"{index:02d}"
        shutil.copytree(source, folder / "members" / name)
        listed[label] = {"target": target, "folder": name}
    (folder / "bundle.json").write_text(
        json.dumps({**facts, "members": listed, "format": FORMAT, "nightcast": __version__}, indent=1, default=str)
    )
    (folder / "manifest.json").write_text(json.dumps({"files": _digests(folder)}, indent=1))


def _digests(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path != folder / "manifest.json"
    }


def verify(folder: Path) -> None:
    """Compare every file with the manifest.

    Raises
    ------
    RegistryError
        If the manifest is missing, or a file is missing, added or changed.
    """
    manifest = folder / "manifest.json"
    if not manifest.exists():
        raise RegistryError(
            f"no manifest.json in the bundle {folder}",
            expected="a bundle folder as `nightcast run` registers it",
            remedy="retrain, or roll back to an older version",
        )
    declared: dict[str, str] = json.loads(manifest.read_text())["files"]
    found = _digests(folder)
    if declared != found:
        wrong = sorted(name for name in declared.keys() | found.keys() if declared.get(name) != found.get(name))
        raise RegistryError(
            f"bundle file {wrong[0]!r} is missing, added or changed ({len(wrong)} in all)",
            expected="the sha256 of each file as in manifest.json",
            remedy="do not use this version: roll back (`nightcast rollback`) or retrain",
        )
