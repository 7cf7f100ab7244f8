"""The unit of work: one model in one fold, with a content address, so that nothing finished is computed twice."""

from __future__ import annotations

import functools
import hashlib
import importlib
import json
import os
import shutil
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from nightcast.contracts.columns import MODEL
from nightcast.contracts.fold import Fold
from nightcast.contracts.hashing import hash_json
from nightcast.contracts.recipe import LimitPlan, ModelChoice


@functools.cache
def code_hash() -> str:
    """Hash of the source files a result depends on: changed code never meets an old result."""
    digest = hashlib.sha256()
    for package in ("nightcast", "models"):
        root = Path(str(importlib.import_module(package).__file__)).parent
        for path in sorted(root.rglob("*.py")):
            if "reports" not in path.parts:
                digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


@dataclass(frozen=True)
class Unit:
    """One (model, fold): fit once, forecast from every cutoff of the fold.

    Attributes
    ----------
    target
        `module:Class` of the model.
    dataset
        Folder that `Dataset.save` wrote.
    dataset_hash
        Its content hash; part of the address, the folder is not.
    seed
        Derived from model, fold and seed index.
    keep_model
        Store the fitted model too (the final fold's are published from).
    """

    model: ModelChoice
    target: str
    fold: Fold
    dataset: Path
    dataset_hash: str
    seed: int
    keep_model: bool = False
    limits: LimitPlan = field(default_factory=LimitPlan)

    @property
    def key(self) -> str:
        """Content address of the result."""
        return hash_json(
            {
                "name": self.model.name,
                "params": self.model.params,
                "seed": self.seed,
                "target": self.target,
                "fold": {key: value for key, value in self.fold.to_json().items() if key != "name"},
                "dataset": self.dataset_hash,
                "keep_model": self.keep_model,
                "code": code_hash(),
            },
            length=32,
        )

    @property
    def title(self) -> str:
        """For progress lines."""
        return f"{self.model.label} {self.fold.name}"


@dataclass(frozen=True)
class UnitResult:
    """Where a finished unit's files lie, and what it cost.

    Attributes
    ----------
    folder
        Holds `predictions.parquet`, `unit.json` and, if kept, `model/`.
    left_out
        Series the model did not forecast -> reason.
    reused
        True if it was found, not computed.
    """

    unit: Unit
    folder: Path
    seconds: float
    fit_seconds: float
    peak_gib: float
    left_out: dict[str, str]
    reused: bool = False

    def predictions(self) -> pl.DataFrame:
        """Out-of-fold (or final) forecasts with the column `model`."""
        frame = pl.read_parquet(self.folder / "predictions.parquet")
        return frame.with_columns(pl.lit(self.unit.model.label).alias(MODEL))

    @property
    def model_folder(self) -> Path:
        """The kept model."""
        return self.folder / "model"


@dataclass(frozen=True)
class UnitFailure:
    """A unit that did not finish, and why."""

    unit: Unit
    kind: str
    """`error`, `timeout`, `memory` or `crash`; `refused` by a gate before it was started."""
    reason: str

    def to_json(self) -> dict[str, str]:
        """As JSON values."""
        return {
            "model": self.unit.model.label,
            "fold": self.unit.fold.name,
            "kind": self.kind,
            "reason": self.reason,
        }


def unit_folder(cache: Path, key: str) -> Path:
    """Where a unit's result lies in the cache."""
    return cache / "units" / key[:2] / key


def find_unit(unit: Unit, cache: Path) -> UnitResult | None:
    """The finished result, if there is one."""
    folder = unit_folder(cache, unit.key)
    facts = folder / "unit.json"
    if not facts.exists():
        return None
    meta = json.loads(facts.read_text())
    return UnitResult(
        unit, folder, meta["seconds"], meta["fit_seconds"], meta["peak_gib"], meta["left_out"], reused=True
    )


def load_dataset(folder: Path) -> Any:
    """Load a saved dataset by the class its `dataset.json` names."""
    facts = json.loads((folder / "dataset.json").read_text())
    module, _, name = facts["type"].partition(":")
    return getattr(importlib.import_module(module), name).load(folder)


@functools.lru_cache(maxsize=2)
def _dataset(folder: Path, _hash: str) -> Any:
    return load_dataset(folder)


def load_class(target: str) -> Any:
    """Import `module:Class`."""
    module, _, name = target.partition(":")
    return getattr(importlib.import_module(module), name)


def run_unit(unit: Unit, cache: Path) -> UnitResult:
    """Fit one model in one fold and forecast from its cutoffs; a finished result is returned as it is.

    The result appears in the cache by one rename, so that a killed process leaves nothing half-written behind.

    Raises
    ------
    NightcastError
        Whatever the model raises; nothing is cached then.
    """
    found = find_unit(unit, cache)
    if found is not None:
        return found
    import psutil

    started = time.perf_counter()
    dataset = _dataset(unit.dataset, unit.dataset_hash)
    model = load_class(unit.target)(**unit.model.params)
    model.fit(dataset.training(unit.fold), seed=unit.seed)
    fit_seconds = time.perf_counter() - started
    frames: list[pl.DataFrame] = []
    left_out: dict[str, str] = {}
    treated: dict[str, int] = {}
    for view in dataset.tests(unit.fold):
        forecast = model.forecast(view)
        frames.append(forecast.prediction.frame)
        left_out.update(forecast.left_out)
        for note in forecast.notes:
            treated[note.code] = treated.get(note.code, 0) + note.rows
    final = unit_folder(cache, unit.key)
    scratch = cache / "scratch" / f"{unit.key}-{uuid.uuid4().hex[:8]}"
    scratch.mkdir(parents=True)
    try:
        pl.concat(frames).write_parquet(scratch / "predictions.parquet")
        if unit.keep_model:
            (scratch / "model").mkdir()
            model.save(scratch / "model")
        seconds = time.perf_counter() - started
        peak_gib = psutil.Process().memory_info().rss / 2**30
        facts: dict[str, Any] = {
            "model": unit.model.model_dump(mode="json"),
            "fold": unit.fold.to_json(),
            "dataset": unit.dataset_hash,
            "seed": unit.seed,
            "seconds": seconds,
            "fit_seconds": fit_seconds,
            "peak_gib": peak_gib,
            "left_out": left_out,
            "treated": treated,
        }
        (scratch / "unit.json").write_text(json.dumps(facts, indent=1))
        final.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.rename(scratch, final)
        except OSError:
            if not (final / "unit.json").exists():  # not a twin that was quicker: a real fault
                raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return UnitResult(unit, final, seconds, fit_seconds, peak_gib, left_out)
