"""How many trials a workload has made over all its nights: what the deflated Sharpe ratio must count.

A trial is a way to make signals at one horizon: a model with its parameters, on its features, labels and costs. The
same recipe on newer data is no new trial; a recipe that was changed, looked at and changed again is many.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from nightcast.contracts.errors import RegistryError
from nightcast.contracts.hashing import hash_json
from nightcast.contracts.recipe import Recipe

ENSEMBLE_FIELDS = ("models", "combiner", "features", "preparation", "folds")
"""Fields of a recipe that the ensemble's signals depend on."""
MODEL_FIELDS = ("features", "preparation")
"""Fields that every model's signals depend on, beside its own line."""


def recipe_trials(recipe: Recipe, baselines: Sequence[str], horizons: Sequence[int]) -> tuple[str, ...]:
    """Names of a recipe's trials: each model that is no baseline, and the ensemble, at each horizon.

    Equal names are equal ways to make signals; neither the data nor the recipe's label for a model are in them.
    """
    whole = recipe.model_dump(mode="json")
    common = {name: whole[name] for name in MODEL_FIELDS}
    ways = [
        {**common, "model": {name: value for name, value in line.items() if name != "label"}}
        for line in whole["models"]
        if line["label"] not in set(baselines)
    ]
    ways.append({name: whole[name] for name in ENSEMBLE_FIELDS})
    return tuple(hash_json({**way, "at": horizon}) for way in ways for horizon in horizons)


@dataclass(frozen=True)
class TrialBook:
    """A file of every distinct trial of one workload; what is in it stays.

    Attributes
    ----------
    path
        A JSON list of names. A file that is not there holds none.
    """

    path: Path

    def names(self) -> frozenset[str]:
        """The trials so far.

        Raises
        ------
        RegistryError
            If the file is no JSON list of names: a count that begins anew would flatter every ratio after it.
        """
        if not self.path.exists():
            return frozenset()
        try:
            found = json.loads(self.path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise self._broken(str(error)) from error
        if not isinstance(found, list) or not all(isinstance(name, str) for name in found):
            raise self._broken("not a list of names")
        return frozenset(found)

    def add(self, trials: Iterable[str]) -> int:
        """Write the trials that are new, and count all; adding the same ones again changes nothing."""
        before = self.names()
        after = before | set(trials)
        if after != before:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            draft = self.path.with_name(f"{self.path.name}.{os.getpid()}.part")
            draft.write_text(json.dumps(sorted(after), indent=0), encoding="utf-8")
            draft.replace(self.path)
        return len(after)

    def _broken(self, why: str) -> RegistryError:
        return RegistryError(
            f"the book of trials {self.path.name!r} cannot be read: {why}",
            expected="a JSON list of names, as it was written",
            remedy="bring it back from a backup; without it the deflated Sharpe ratio counts too few trials",
        )
