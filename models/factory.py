"""The classifiers behind the plain contract of arrays: fit on `X, y`, predict classes and probabilities.

A thin adapter for callers who bring their own arrays. Every row of `CLASSIFIERS` that is no baseline is registered; a
model of one's own can be registered by a decorator and is then created, listed and described like the others.
"""

from __future__ import annotations

import inspect
import json
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from models.classifier import Classifier, Inputs, Samples
from models.classifiers import CLASSIFIERS
from models.pipeline import FoldPipeline
from nightcast.contracts.catalog import Entry
from nightcast.contracts.columns import CLASSES
from nightcast.contracts.errors import ConfigError, RegistryError, TrainingError

MODEL_FOLDER: Final = "model"
FACTS_FILE: Final = "factory.json"

Array = NDArray[Any]


class ModelNameError(ConfigError, ValueError):
    """A model's name is unknown, or taken."""


@dataclass(frozen=True)
class PredictionOutput:
    """What every model says.

    Attributes
    ----------
    class_predictions
        `(n,)` class 0 short, 1 neutral, 2 long.
    class_probabilities
        `(n, 3)`, rows sum to 1.
    confidence
        `(n,)` the largest probability.
    """

    class_predictions: NDArray[np.int64]
    class_probabilities: NDArray[np.float64]
    confidence: NDArray[np.float64]
    metadata: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, probabilities: NDArray[np.float64], **metadata: Any) -> PredictionOutput:
        """From probabilities alone."""
        return cls(probabilities.argmax(axis=1), probabilities, probabilities.max(axis=1), metadata)


@dataclass(frozen=True)
class TrainingMetrics:
    """How a fit went; validation values are nan without validation rows."""

    train_loss: float
    val_loss: float
    train_accuracy: float
    val_accuracy: float
    train_f1: float
    val_f1: float
    epochs_trained: int
    training_time_seconds: float
    early_stopped: bool
    best_epoch: int | None
    history: dict[str, list[float]]


class BaseModel(ABC):
    """A three-class classifier over arrays."""

    @property
    @abstractmethod
    def model_family(self) -> str:
        """`boosting`, `neural`, `classical`, `ensemble`, ..."""

    @property
    @abstractmethod
    def requires_scaling(self) -> bool:
        """Whether it wants its inputs scaled; it then learns the scaling from the training rows itself."""

    @property
    @abstractmethod
    def requires_sequences(self) -> bool:
        """Whether `X` is `(n, L, F)` instead of `(n, F)`."""

    @abstractmethod
    def get_default_config(self) -> dict[str, Any]:
        """Hyperparameters and their defaults."""

    @abstractmethod
    def fit(
        self,
        X_train: Array,  # the field's convention
        y_train: Array,
        X_val: Array,
        y_val: Array,
        sample_weights: Array | None = None,
        config: Mapping[str, Any] | None = None,
    ) -> TrainingMetrics:
        """Train.

        Parameters
        ----------
        X_train, X_val
            `(n, F)` or `(n, L, F)`; validation arrays may be empty.
        y_train, y_val
            `(n,)` classes 0, 1, 2, or -1, 0, 1 if a -1 occurs in either.
        sample_weights
            `(n,)` for the training rows.
        config
            Hyperparameters that replace those of construction.
        """

    @abstractmethod
    def predict(self, X: Array) -> PredictionOutput:
        """Classes and probabilities of `(n, F)` or `(n, L, F)`."""

    @abstractmethod
    def save(self, path: Path) -> None:
        """Write to a folder."""

    @abstractmethod
    def load(self, path: Path) -> None:
        """Read what `save` wrote."""

    def get_feature_importance(self) -> dict[str, float] | None:
        """Column -> importance, where the model has one."""
        return None


class CatalogModel(BaseModel):
    """One row of `CLASSIFIERS` as a `BaseModel`.

    Parameters
    ----------
    entry
        The row.
    config
        Hyperparameters by name.
    seed
        Of the fit.
    hold
        Rows ahead that a label looks at. Models that split the training rows once more (stacking, blending, the SVM's
        calibration) purge by it; they take the rows in order of time.

    Raises
    ------
    ConfigError
        If a hyperparameter is unknown or does not fit.
    """

    def __init__(self, entry: Entry, config: Mapping[str, Any] | None = None, *, seed: int = 42, hold: int = 1) -> None:
        if hold < 1:
            raise ConfigError(f"hold = {hold}", expected="1 row or more", remedy="give the labels' horizon in rows")
        self.entry, self.seed, self.hold = entry, seed, hold
        self.config = dict(config or {})
        self.classifier: Classifier | None = None
        self._window = self._made(self.config).window
        self._shape: tuple[int, ...] = ()

    @property
    def model_family(self) -> str:
        """The entry's family."""
        return self.entry.family

    @property
    def requires_scaling(self) -> bool:
        """Whether the entry asks for scaled inputs."""
        return self.entry.capabilities.scaling != "none"

    @property
    def requires_sequences(self) -> bool:
        """Whether it reads windows, or one of its members does."""
        return self.entry.capabilities.sequence or self._window > 1

    def get_default_config(self) -> dict[str, Any]:
        """Defaults of the hyperparameters, as JSON values."""
        return default_config(self.entry)

    def fit(
        self,
        X_train: Array,
        y_train: Array,
        X_val: Array,
        y_val: Array,
        sample_weights: Array | None = None,
        config: Mapping[str, Any] | None = None,
    ) -> TrainingMetrics:
        """Train; see `BaseModel.fit`. The window of a model over windows is that of the arrays.

        Raises
        ------
        ConfigError
            If a hyperparameter is unknown or does not fit, or a member reads longer windows than the arrays'.
        TrainingError
            If shapes do not fit each other or the model, or labels hold fewer than two classes.
        """
        from nightcast.evaluation.class_scores import class_scores

        params = {**self.config, **(config or {})}
        x_train, x_val = self._checked(X_train), self._checked(X_val, like=X_train)
        if x_val.shape[1:] != x_train.shape[1:]:
            raise TrainingError(
                f"validation rows of shape {x_val.shape[1:]} beside training rows of shape {x_train.shape[1:]}",
                expected="the same window and columns",
                remedy="cut both arrays from one table",
            )
        y_train, y_val = _class_codes(y_train, y_val)
        for what, x, y in (("training", x_train, y_train), ("validation", x_val, y_val)):
            if len(x) != len(y):
                raise TrainingError(
                    f"{len(x)} {what} rows with {len(y)} labels",
                    expected="one label a row",
                    remedy="cut both arrays from the same rows",
                )
        if len(np.unique(y_train)) < 2:
            raise TrainingError(
                f"the {len(y_train)} training labels hold {len(np.unique(y_train))} class(es)",
                expected="at least two",
                remedy="look at how the labels were made",
            )
        if self.entry.capabilities.sequence:
            params["window"] = x_train.shape[1]
        started = time.perf_counter()
        classifier = self._made(params)
        if x_train.ndim == 3 and classifier.window > x_train.shape[1]:
            raise ConfigError(
                f"{self.entry.name} reads windows of {classifier.window} rows and got arrays of {x_train.shape[1]}",
                expected=f"(n, {classifier.window}, F) at least",
                remedy="bring longer windows, or set the members' `window`",
            )
        names = tuple(f"feature_{i:03d}" for i in range(x_train.shape[-1]))
        base, rows, segment = _as_bars(x_train)
        pipeline = FoldPipeline(scaling=self.entry.capabilities.scaling, prune=1.0)
        pipeline.fit(base, np.arange(len(base)), names)
        classifier.pipeline = pipeline
        weight = np.ones(len(y_train)) if sample_weights is None else np.asarray(sample_weights, dtype=np.float64)
        if weight.shape != y_train.shape or not np.isfinite(weight).all() or (weight < 0).any() or weight.sum() == 0:
            raise TrainingError(
                f"sample weights of shape {weight.shape} for {len(y_train)} rows, smallest {weight.min(initial=0):g}",
                expected="one finite weight a row, not negative, not all zero",
                remedy="leave `sample_weights` out, or mend them",
            )
        hold = self.hold * (x_train.shape[1] if x_train.ndim == 3 else 1)
        train = _samples(pipeline, base, rows, segment, y_train, weight / weight.mean(), hold)
        valid_base, valid_rows, valid_segment = _as_bars(x_val)
        valid = _samples(pipeline, valid_base, valid_rows, valid_segment, y_val, np.ones(len(y_val)), hold)
        classifier.fit_samples(train, valid, seed=self.seed)
        seconds = time.perf_counter() - started
        self.classifier, self.config, self._shape = classifier, params, x_train.shape[1:]
        self._window = classifier.window
        scores = [
            class_scores(y.astype(np.int64), self.predict(x).class_probabilities) if len(y) else None
            for x, y in ((x_train, y_train), (x_val, y_val))
        ]

        def score(which: int, name: str) -> float:
            its = scores[which]
            return float("nan") if its is None else float(its[name])

        report = classifier.report
        return TrainingMetrics(
            train_loss=score(0, "log_loss"),
            val_loss=score(1, "log_loss"),
            train_accuracy=score(0, "accuracy"),
            val_accuracy=score(1, "accuracy"),
            train_f1=score(0, "macro_f1"),
            val_f1=score(1, "macro_f1"),
            epochs_trained=report.epochs,
            training_time_seconds=seconds,
            early_stopped=report.early_stopped,
            best_epoch=report.best_epoch,
            history={name: [float(v) for v in values] for name, values in report.history.items()},
        )

    def predict(self, X: Array) -> PredictionOutput:
        """Classes and probabilities.

        Raises
        ------
        ConfigError
            If the model is not fitted.
        TrainingError
            If the shape is not that of the fit.
        """
        classifier = self._fitted()
        x = self._checked(X)
        if x.shape[1:] != self._shape:
            raise TrainingError(
                f"{self.entry.name} was fitted on rows of shape {self._shape} and is asked for {x.shape[1:]}",
                expected="the window and columns of the fit",
                remedy="prepare both arrays alike",
            )
        base, rows, segment = _as_bars(x)
        inputs = _inputs(classifier.pipeline, base, rows, segment)
        probs = np.empty((0, len(CLASSES)))
        if len(rows):
            probs = classifier.checked(classifier.probabilities(inputs), len(rows))[:, 0]
        return PredictionOutput.of(probs, model=self.entry.name, family=self.entry.family)

    def save(self, path: Path) -> None:
        """Write the fitted classifier and the shape it expects; no pickle."""
        classifier = self._fitted()
        path.mkdir(parents=True, exist_ok=True)
        classifier.save(path / MODEL_FOLDER)
        facts = {
            "name": self.entry.name,
            "shape": list(self._shape),
            "seed": self.seed,
            "hold": self.hold,
            "config": classifier.params.model_dump(mode="json"),
        }
        (path / FACTS_FILE).write_text(json.dumps(facts, indent=1))

    def load(self, path: Path) -> None:
        """Read what `save` wrote.

        Raises
        ------
        RegistryError
            If the folder holds another model, or is broken.
        """
        try:
            facts = json.loads((path / FACTS_FILE).read_text())
            name, shape = facts["name"], tuple(int(size) for size in facts["shape"])
            seed, hold, config = facts["seed"], facts["hold"], dict(facts["config"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RegistryError(
                f"{path.name!r} holds no readable {FACTS_FILE} ({error})",
                expected="a folder that `save` wrote",
                remedy="save the model again",
            ) from error
        if name != self.entry.name:
            raise RegistryError(
                f"{path.name!r} holds the model {name!r}",
                expected=self.entry.name,
                remedy=f"load it with `REGISTRY.create({name!r}).load(path)`",
            )
        classifier: Classifier = self.entry.load().load(path / MODEL_FOLDER)
        self.classifier, self._window = classifier, classifier.window
        self._shape, self.seed, self.hold, self.config = shape, seed, hold, config

    def get_feature_importance(self) -> dict[str, float] | None:
        """Column -> importance of the fitted classifier, where it has one."""
        return self._fitted().importance()

    def _fitted(self) -> Classifier:
        if self.classifier is None:
            raise ConfigError(
                f"{self.entry.name} is not fitted", expected="a fitted model", remedy="call `fit` or `load` first"
            )
        return self.classifier

    def _made(self, params: Mapping[str, Any]) -> Classifier:
        made: Classifier = self.entry.load()(**params)
        return made

    def _checked(self, x: Array, like: Array | None = None) -> NDArray[np.float32]:
        try:
            x = np.asarray(x, dtype=np.float32)
        except (TypeError, ValueError) as error:
            raise TrainingError(
                f"{self.entry.name} got features that are no numbers ({error})",
                expected="an array of numbers",
                remedy="encode or leave out columns of text",
            ) from None
        wanted = 3 if self.requires_sequences else 2
        if like is not None and x.size == 0:
            return np.empty((0, *np.asarray(like).shape[1:]), dtype=np.float32)
        if x.ndim != wanted:
            raise TrainingError(
                f"{self.entry.name} got an array of shape {x.shape}",
                expected="(n, L, F)" if self.requires_sequences else "(n, F)",
                remedy="`requires_sequences` tells which of the two a model reads",
            )
        return x


def _as_bars(x: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.int64]]:
    """`(n, F)` or `(n, L, F)` as base, decision rows and segments: each window is a segment of its own."""
    length = x.shape[1] if x.ndim == 3 else 1
    base = np.ascontiguousarray(x.reshape(-1, x.shape[-1]))
    count = len(x)
    return base, (np.arange(count, dtype=np.int64) + 1) * length - 1, np.repeat(np.arange(count), length)


def _inputs(
    pipeline: FoldPipeline, base: NDArray[np.float32], rows: NDArray[np.int64], segment: NDArray[np.int64]
) -> Inputs:
    return Inputs(
        base=pipeline.transform(base),
        rows=rows,
        names=pipeline.names_out,
        horizons=(1,),
        raw=np.empty((0, 5)),
        segment=segment.astype(np.int64),
        times=np.arange(len(base)).astype("datetime64[us]"),
        symbol=np.zeros(len(base), dtype=np.int64),
    )


def _samples(
    pipeline: FoldPipeline,
    base: NDArray[np.float32],
    rows: NDArray[np.int64],
    segment: NDArray[np.int64],
    y: Array,
    weight: NDArray[np.float64],
    hold: int,
) -> Samples:
    return Samples(
        inputs=_inputs(pipeline, base, rows, segment),
        y=y.astype(np.int8)[:, None],
        weight=weight.astype(np.float32)[:, None],
        hold=np.full((len(y), 1), hold, dtype=np.int32),
    )


def _class_codes(*labels: Array) -> tuple[NDArray[np.int64], ...]:
    """Labels as classes 0, 1, 2; -1, 0, 1 are moved up by one if a -1 occurs in any of them.

    Raises
    ------
    TrainingError
        If a label is something else.
    """
    given = [np.asarray(y) for y in labels]
    # what is no number cannot be sorted, so it is shown as text
    shown = [y if y.dtype.kind in "biuf" else y.astype(str) for y in given]
    found = sorted({value for y in shown for value in np.unique(y).tolist()}, key=str)
    allowed = next((a for a in ((0, 1, 2), (-1, 0, 1)) if set(found) <= set(a)), None)
    flat = [y for y in given if y.ndim != 1]
    if allowed is None or flat:
        raise TrainingError(
            f"labels of shape {flat[0].shape}" if flat else f"labels hold {', '.join(map(repr, found[:8]))}",
            expected="(n,) of 0, 1, 2 or of -1, 0, 1 (short, neutral, long)",
            remedy="leave rows without a label out",
        )
    return tuple(y.astype(np.int64) - allowed[0] for y in given)


def default_config(entry: Entry) -> dict[str, Any]:
    """Defaults of a row's hyperparameters as JSON values; the model is not made."""
    defaults: dict[str, Any] = entry.load().Params().model_dump(mode="json")
    return defaults


M = TypeVar("M", bound=type[BaseModel])


@dataclass(frozen=True)
class _Registration:
    name: str
    family: str
    description: str
    create: Callable[..., BaseModel]
    info: Callable[[], dict[str, Any]]


class ModelRegistry:
    """Names of models, how to make them and what they need; an instance, safe to use from threads.

    Parameters
    ----------
    catalog
        Rows to register when the registry is first asked; baselines are left out, they read bars instead of arrays.
    """

    def __init__(self, catalog: Mapping[str, Entry] | None = None) -> None:
        self._models: dict[str, _Registration] = {}
        self._catalog = catalog
        self._lock = threading.RLock()

    def register(self, name: str, family: str, description: str = "") -> Callable[[M], M]:
        """Decorate a `BaseModel` class so that it can be created by name.

        Raises
        ------
        ModelNameError
            If the name is taken; a `ValueError`.
        ConfigError
            If the class is no `BaseModel`.
        """

        def decorate(model: M) -> M:
            if not (isinstance(model, type) and issubclass(model, BaseModel)):
                raise ConfigError(
                    f"the model {name!r} is {model!r}",
                    expected="a subclass of models.factory.BaseModel",
                    remedy="derive the class from it",
                )

            def create(config: Mapping[str, Any] | None = None, **more: Any) -> BaseModel:
                takes = inspect.signature(model)
                given = {"config": dict(config)} if config is not None and "config" in takes.parameters else {}
                given |= {} if given else dict(config or {})
                try:
                    takes.bind(**given, **more)
                except TypeError as error:
                    raise ConfigError(
                        f"the model {name!r} cannot be made: {error}",
                        expected=f"arguments of {model.__name__}{takes}",
                        remedy="correct the configuration",
                    ) from None
                return model(**given, **more)

            def info() -> dict[str, Any]:
                made = create()
                return {
                    "requires_scaling": made.requires_scaling,
                    "requires_sequences": made.requires_sequences,
                    "default_config": made.get_default_config(),
                }

            self._add(_Registration(name, family, description, create, info))
            return model

        return decorate

    def register_entry(self, entry: Entry) -> None:
        """Register a row of a catalog; nothing is imported until a model is created or described.

        Raises
        ------
        ModelNameError
            If the name is taken; a `ValueError`.
        """
        self._add(_of_entry(entry))

    def create(self, name: str, config: Mapping[str, Any] | None = None, **more: Any) -> BaseModel:
        """An unfitted model.

        Parameters
        ----------
        config
            Hyperparameters by name.
        more
            Further arguments of the model: `seed` and `hold` for rows of the catalog.

        Raises
        ------
        ModelNameError
            If the name is unknown; the message lists what there is.
        ConfigError
            If a hyperparameter is unknown.
        """
        return self._get(name).create(config, **more)

    def list_models(self) -> Mapping[str, tuple[str, ...]]:
        """Family -> names, a view that cannot be changed."""
        families: dict[str, list[str]] = {}
        for its in self._all().values():
            families.setdefault(its.family, []).append(its.name)
        return MappingProxyType({family: tuple(names) for family, names in families.items()})

    def get_model_info(self, name: str) -> dict[str, Any]:
        """Name, family, description, needs and default configuration; a catalog row is not instantiated for it.

        Raises
        ------
        ModelNameError
            If the name is unknown.
        """
        its = self._get(name)
        return {"name": its.name, "family": its.family, "description": its.description, **its.info()}

    def _all(self) -> dict[str, _Registration]:
        """A copy of all registrations, the catalog's rows first read here."""
        with self._lock:
            if self._catalog is not None:
                # every registration passes here first, so none can be there before the catalog's
                entries = self._catalog.values()
                self._models = {its.name: _of_entry(its) for its in entries if not its.capabilities.baseline}
                self._catalog = None
            return dict(self._models)

    def _add(self, registration: _Registration) -> None:
        with self._lock:
            taken = self._all()
            if registration.name in taken:
                raise ModelNameError(
                    f"the model {registration.name!r} is registered already",
                    expected=f"a name other than {', '.join(sorted(taken))}",
                    remedy="rename the newer one",
                )
            self._models[registration.name] = registration

    def _get(self, name: str) -> _Registration:
        known = self._all()
        if name not in known:
            raise ModelNameError(
                f"unknown model {name!r}",
                expected=f"one of {', '.join(sorted(known))}",
                remedy="`nightcast models` lists them with their families",
            )
        return known[name]


def _of_entry(entry: Entry) -> _Registration:
    def create(config: Mapping[str, Any] | None = None, **more: Any) -> BaseModel:
        return CatalogModel(entry, config, **more)

    def info() -> dict[str, Any]:
        return {
            "requires_scaling": entry.capabilities.scaling != "none",
            "requires_sequences": entry.capabilities.sequence,
            "default_config": default_config(entry),
        }

    return _Registration(entry.name, entry.family, entry.summary, create, info)


REGISTRY: Final = ModelRegistry(CLASSIFIERS)
"""The registry of this installation: the classifiers that are no baselines, read when it is first asked."""
