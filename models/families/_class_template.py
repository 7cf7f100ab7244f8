"""A classifier to copy: Gaussian naive Bayes, whole and tested, registered nowhere.

To add a classifier:

1. copy this file to `models/families/<family>_classes.py` and rename the classes after the method;
2. name its hyperparameters, typed, in `Params`: unknown names are then refused for you;
3. state its `capabilities`: how its columns are scaled, whether it reads windows;
4. fill in `fit_horizon`, `class_probabilities`, `write_horizon` and `read_horizon`; import heavy libraries inside them
   (a model over windows, or one for all horizons together, subclasses `models.classifier.Classifier` instead);
5. add a row to `models/classifiers.py` with the same capabilities, presets and `cheap` parameters for the tests.

`tests/contract/test_classifiers.py` then asks it what it asks every entry; no other test is needed for that. In a
package of your own, step 5 is an `Entry` like `ENTRY` below, named under the entry-point group
`nightcast.classifiers`; `docs/adding-a-classifier.md` shows both.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from models.classifier import ClassifierParams
from models.families.tabular_classes import Fitted, Table, TabularClassifier, softmax
from nightcast.contracts.catalog import Capabilities, Entry


class GaussianBayesParams(ClassifierParams):
    """Parameters of Gaussian naive Bayes.

    Attributes
    ----------
    smoothing
        Added to every variance; columns are standardised.
    """

    smoothing: float = Field(default=0.01, gt=0)


@dataclass(frozen=True)
class Bells:
    """Log share `[K]`, mean `[K, F]` and variance `[K, F]` of each class."""

    share: NDArray[np.float64]
    mean: NDArray[np.float64]
    variance: NDArray[np.float64]


class GaussianBayes(TabularClassifier[Bells]):
    """Gaussian naive Bayes: columns independent and normal within each class (Hastie et al. 2009, 6.6.3)."""

    Params = GaussianBayesParams
    capabilities: ClassVar[Capabilities] = Capabilities(scaling="standard")
    params: GaussianBayesParams

    def fit_horizon(self, train: Table, valid: Table, *, seed: int) -> Fitted[Bells]:
        """Weighted moments of each class; classes are numbered from 0, weights have mean 1."""
        member = np.eye(int(train.y.max()) + 1)[train.y] * train.weight[:, None]  # [n, K]
        total = member.sum(axis=0)  # [K]
        x = train.x.astype(np.float64)
        mean = member.T @ x / total[:, None]
        variance = np.maximum(member.T @ x**2 / total[:, None] - mean**2, 0.0) + self.params.smoothing
        return Fitted(Bells(np.log(total / total.sum()), mean, variance))

    def class_probabilities(self, model: Bells, x: NDArray[np.float32]) -> NDArray[np.float64]:
        """Bayes' rule."""
        away = x[:, None, :].astype(np.float64) - model.mean  # [n, K, F]
        density = -0.5 * (away**2 / model.variance + np.log(model.variance)).sum(axis=2)
        return softmax(model.share + density)

    def write_horizon(self, folder: Path, stem: str, model: Bells) -> dict[str, Any]:
        """All of it is JSON; larger arrays go to `write_arrays`."""
        return {name: value.tolist() for name, value in vars(model).items()}

    def read_horizon(self, folder: Path, stem: str, state: Mapping[str, Any]) -> Bells:
        """Back from JSON."""
        return Bells(**{name: np.asarray(value, dtype=np.float64) for name, value in state.items()})


ENTRY = Entry(
    name="gaussian_bayes",
    family="classical",
    target="models.families._class_template:GaussianBayes",
    summary="Gaussian naive Bayes",
    capabilities=Capabilities(scaling="standard"),
    presets={"ci": {"max_rows": 8000}, "nightly_cpu": {"max_rows": 40_000}, "seed": {}},
    cheap={"max_rows": 400},
)
"""What the entry point of a package of your own would name."""
