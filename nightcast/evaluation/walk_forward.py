"""The one loop of every workload: folds x models -> out-of-fold predictions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import polars as pl

from nightcast.contracts.columns import CUTOFF, HORIZON, ID, MODEL, SIGNAL, TARGET, TIME
from nightcast.contracts.errors import TrainingError
from nightcast.contracts.fold import Fold
from nightcast.contracts.hashing import derive_seed
from nightcast.contracts.progress import Progress, Silent
from nightcast.contracts.recipe import Recipe
from nightcast.contracts.workload import Dataset, Workload
from nightcast.evaluation.units import Unit, UnitFailure, UnitResult
from nightcast.evaluation.workers import WorkerPool

FINAL = "final"


@dataclass(frozen=True)
class Outcome:
    """What came of a set of units."""

    results: tuple[UnitResult, ...]
    failures: tuple[UnitFailure, ...]

    def out_of_fold(self) -> pl.DataFrame:
        """All predictions of the walk-forward, `unique_id, ds, cutoff, horizon, model, <values>`; without `final`."""
        return self._predictions(lambda unit: unit.fold.name != FINAL)

    def final(self) -> pl.DataFrame:
        """The predictions of the final fits."""
        return self._predictions(lambda unit: unit.fold.name == FINAL)

    def folds(self) -> tuple[Fold, ...]:
        """The walk-forward's folds that at least one model finished, in time order."""
        folds = {r.unit.fold for r in self.results if r.unit.fold.name != FINAL}
        return tuple(sorted(folds, key=lambda fold: (fold.train_end, fold.cutoffs)))

    def final_models(self) -> dict[str, Path]:
        """Label -> folder of the kept model."""
        return {r.unit.model.label: r.model_folder for r in self.results if r.unit.fold.name == FINAL}

    def seconds(self) -> dict[str, float]:
        """Label -> seconds spent over all its units."""
        out: dict[str, float] = {}
        for result in self.results:
            out[result.unit.model.label] = out.get(result.unit.model.label, 0.0) + result.seconds
        return out

    def _predictions(self, keep: Callable[[Unit], bool]) -> pl.DataFrame:
        frames = [result.predictions() for result in self.results if keep(result.unit)]
        if not frames:
            raise TrainingError(
                "no model finished a single fold: "
                + "; ".join(f"{f.unit.title}: {f.reason}" for f in self.failures[:3]),
                expected="at least the naive family to finish",
                remedy="see workers.log in the home's cache folder",
            )
        return pl.concat(frames, how="diagonal").sort(MODEL, ID, CUTOFF, HORIZON)


def plan_units(
    workload: Workload[Any],
    recipe: Recipe,
    folds: Sequence[Fold],
    dataset: Dataset,
    folder: Path,
    *,
    keep_final: bool = True,
) -> tuple[Unit, ...]:
    """All units of a recipe, the heavier models (later in the recipe) first, so that none is left over at the end.

    A model's seed depends on its name, parameters' place (`seed_index`) and fold, never on the order of work.
    """
    return tuple(
        Unit(
            model=choice,
            target=workload.catalog[choice.name].target,
            fold=fold,
            dataset=folder,
            dataset_hash=dataset.hash,
            seed=derive_seed(recipe.seed, choice.name, choice.seed_index, fold.train_end.isoformat()),
            keep_model=keep_final and fold.name == FINAL,
            limits=recipe.limits,
        )
        for choice in reversed(recipe.models)
        for fold in folds
    )


def walk_forward(units: Iterable[Unit], pool: WorkerPool, progress: Progress | None = None) -> Outcome:
    """Run all units on a pool; failures are collected, never raised."""
    progress = progress or Silent()
    units = tuple(units)
    progress.stage("models x folds", len(units))
    done: list[UnitResult | UnitFailure] = []
    with ThreadPoolExecutor(max_workers=max(1, pool.processes)) as threads:
        for future in as_completed([threads.submit(pool.run, unit) for unit in units]):
            answer = future.result()
            done.append(answer)
            progress.step(describe(answer))
    return outcome(done)


def outcome(answers: Iterable[UnitResult | UnitFailure]) -> Outcome:
    """Sort answers into results and failures, in a fixed order."""
    answers = tuple(answers)
    results = sorted((a for a in answers if isinstance(a, UnitResult)), key=lambda a: a.unit.title)
    failures = sorted((a for a in answers if isinstance(a, UnitFailure)), key=lambda a: a.unit.title)
    return Outcome(tuple(results), tuple(failures))


def describe(answer: UnitResult | UnitFailure) -> str:
    """One progress line."""
    if isinstance(answer, UnitFailure):
        return f"{answer.unit.title}: {answer.kind}, {answer.reason}"
    return f"{answer.unit.title}: " + ("found" if answer.reused else f"{answer.seconds:.1f} s")


def score_rows(oof: pl.DataFrame, dataset: Dataset, workload: Workload[Any]) -> pl.DataFrame:
    """Out-of-fold rows with `y` and the series' `scale` at the cutoff.

    Rows whose outcome is not known are left out, unless they carry a position (`signal`): what is decided is traded,
    whether or not its label came to an end, so those stay with a null `y` and `known_rows` are the ones to score.
    """
    cutoffs = oof.get_column(CUTOFF).unique().sort().to_list()
    scale = workload.scale(dataset, cutoffs)
    truth = dataset.truth()
    keys = [ID, TIME, HORIZON] if HORIZON in truth.columns else [ID, TIME]
    how: Literal["left", "inner"] = "left" if SIGNAL in oof.columns else "inner"
    joined = oof.join(truth, on=keys, how=how, maintain_order="left")
    return joined.join(scale, on=[ID, CUTOFF], how="left", maintain_order="left")


def known_rows(rows: pl.DataFrame) -> pl.DataFrame:
    """The rows whose outcome is known: those that scores, weights and calibration learn from."""
    return rows.drop_nulls(TARGET)
