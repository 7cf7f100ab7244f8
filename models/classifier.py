"""The classifier's template: the base class picks columns, splits, weighs, scales and stores; a family learns.

`fit` sees a view's training decisions only. It sets the newest part aside for early stopping, purged by label end,
fits the fold's pipeline on the rest, and weighs each decision by how much of its label's time it has for itself.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import Field

from models.base import MODEL_FILE, Hyperparameters, quiet_randomness, read_facts, read_params
from models.pipeline import FoldPipeline
from nightcast.contracts.bars import UNKNOWN_LABEL, BarLabels, BarView
from nightcast.contracts.catalog import Capabilities
from nightcast.contracts.columns import CLASS_PROBS, CLASSES, CUTOFF, HORIZON, ID, TIME
from nightcast.contracts.errors import ConfigError, NightcastError, RegistryError, TrainingError
from nightcast.contracts.prediction import ClassProbs
from nightcast.contracts.source import Note

CLASSIFIER_VERSION = 1
"""Layout of a classifier's `model.json`."""
MIN_ROWS = 50
"""Training decisions below which no classifier is fitted."""


class ClassifierParams(Hyperparameters):
    """What every classifier can be told.

    Attributes
    ----------
    feature_set
        Name of the columns it reads.
    max_rows
        Training decisions to keep, evenly thinned in time; overlapping labels repeat one another anyway.
    validation
        Share of the newest training decisions set aside for early stopping and model choice.
    prune
        Of two columns that correlate beyond this on training rows, the later one is dropped; 1 keeps all.
    attribution
        Weigh a decision also by the size of its return (Lopez de Prado 2018, 4.6); moves the predicted priors.
    tiers
        Weigh a decision also by how clear its label is: A+ labels three times as much as C ones (docs/labels.md).
    decay
        Weight of the oldest decision relative to the newest, by cumulated uniqueness.
    class_weight
        `none` keeps the natural prior, which calibration expects.
    """

    feature_set: str = "boosting_optimal"
    max_rows: int | None = Field(default=None, ge=MIN_ROWS)
    validation: float = Field(default=0.15, ge=0, lt=0.5)
    prune: float = Field(default=0.98, gt=0, le=1)
    attribution: bool = False
    tiers: bool = False
    decay: float = Field(default=0.5, ge=0, le=1)
    class_weight: Literal["none", "sqrt", "balanced"] = "none"


@dataclass(frozen=True)
class Inputs:
    """Transformed features over bars, and the rows at which to decide.

    Attributes
    ----------
    base
        `[N, F]` float32, C-contiguous, finite in every row that a decision's window reaches.
    rows
        `[n]` int64 row numbers of the decisions. A window of length L is `base[row - L + 1 : row + 1]`.
    names
        The F column names.
    horizons
        The H horizons, in bars.
    raw
        `[N, 5]` float64 open, high, low, close, volume; empty (`[0, 5]`) where a model is fed plain arrays.
    segment
        `[N]` int64; a window never leaves its segment.
    times, symbol
        `[N]` start and symbol code of each bar.
    """

    base: NDArray[np.float32]
    rows: NDArray[np.int64]
    names: tuple[str, ...]
    horizons: tuple[int, ...]
    raw: NDArray[np.float64]
    segment: NDArray[np.int64]
    times: NDArray[np.datetime64]
    symbol: NDArray[np.int64]

    def table(self) -> NDArray[np.float32]:
        """`[n, F]` features of the decision rows alone."""
        return self.base[self.rows]


@dataclass(frozen=True)
class Samples:
    """Inputs with labels and weights.

    Attributes
    ----------
    y
        `[n, H]` int8 class, -1 where unknown.
    weight
        `[n, H]` float32, mean 1 over the known labels of each horizon, 0 where unknown.
    hold
        `[n, H]` int32 bars from the decision to its label's end, 0 where unknown.
    """

    inputs: Inputs
    y: NDArray[np.int8]
    weight: NDArray[np.float32]
    hold: NDArray[np.int32]

    def known(self, horizon: int) -> NDArray[np.bool_]:
        """`[n]` which decisions have a label for the horizon at this position."""
        return np.asarray(self.y[:, horizon] != UNKNOWN_LABEL)


@dataclass(frozen=True)
class FitReport:
    """How a fit went; what is not iterative has one epoch.

    Attributes
    ----------
    history
        Name -> one value an epoch, `train_loss`, `val_loss`, ...
    """

    epochs: int = 1
    best_epoch: int | None = None
    early_stopped: bool = False
    history: Mapping[str, Sequence[float]] = field(default_factory=dict)


@dataclass(frozen=True)
class ClassForecast:
    """A checked prediction, the symbols it leaves out, and what was treated on the way."""

    prediction: ClassProbs
    left_out: Mapping[str, str]
    notes: tuple[Note, ...] = ()


class Classifier(ABC):
    """A classifier of bars: `fit` once on purged decisions, then `predict` at any later ones.

    A family subclasses this, names its hyperparameters in `Params` and fills in `learn`, `probabilities`, `_write`
    and `_read`. `learn` and `probabilities` work on plain arrays, so they also serve callers without a view.

    Raises
    ------
    ConfigError
        If a hyperparameter is unknown or its value does not fit.
    """

    Params: ClassVar[type[ClassifierParams]] = ClassifierParams
    capabilities: ClassVar[Capabilities] = Capabilities()

    params: ClassifierParams
    horizons: tuple[int, ...]
    freq: str
    seed: int
    pipeline: FoldPipeline
    report: FitReport
    priors: NDArray[np.float64]
    """`[H, 3]` weighted class shares of the training labels."""

    def __init__(self, **params: Any) -> None:
        self.params = read_params(type(self).__name__, self.Params, params)  # type: ignore[assignment]

    # -- what callers use ----------------------------------------------------------------------------------------

    @property
    def window(self) -> int:
        """Bars a decision reads, L; 1 for models of single rows."""
        return int(getattr(self.params, "window", 1))

    def fit(self, view: BarView, *, seed: int) -> Self:
        """Learn from a view's labelled decisions.

        Raises
        ------
        TrainingError
            If the view holds no labels, too few decisions, or only one class.
        """
        train, valid = self.split(view, seed=seed)
        return self.fit_samples(train, valid, seed=seed, freq=view.schema.freq.alias)

    def fit_samples(self, train: Samples, valid: Samples, *, seed: int, freq: str = "") -> Self:
        """As `fit`, from samples that are split, scaled and weighed already."""
        self.horizons, self.freq, self.seed = train.inputs.horizons, freq, seed
        self.priors = class_shares(train)
        if not hasattr(self, "pipeline"):
            self.pipeline = FoldPipeline.identity(train.inputs.names)
        with quiet_randomness(seed):
            self.report = self.learn(train, valid, seed=seed)
        return self

    def split(self, view: BarView, *, seed: int) -> tuple[Samples, Samples]:
        """Training and validation samples of a view: thinned, purged from each other, scaled by the training part.

        Fits `self.pipeline`.
        """
        from nightcast.features.weights import sample_weights

        if view.labels is None:
            raise TrainingError(
                f"{type(self).__name__} got a view without labels",
                expected="a training view",
                remedy="take it from `BarDataset.training`",
            )
        labels = view.labels
        order = np.argsort(view.times[view.rows], kind="stable")
        keep = thinned(len(order), self.params.max_rows)
        order = order[keep]
        cut = len(order) - round(self.params.validation * len(order))
        # decisions at the border's own time belong to one side, whatever their symbol
        times = view.times[view.rows]
        border = times[order[cut]] if cut < len(order) else None
        learn = order if border is None else order[times[order] < border]
        later = order[:0] if border is None else order[times[order] >= border]
        if len(learn) < MIN_ROWS:
            raise TrainingError(
                f"{type(self).__name__} got {len(learn)} training decisions",
                expected=f"at least {MIN_ROWS}",
                remedy="bring more bars, or a plan with fewer or later folds",
            )
        learn, later = np.sort(learn), np.sort(later)
        # by the last bar a label could have, so that no class is dropped more often than another
        ends = view.times[np.minimum(view.rows[:, None] + np.asarray(view.horizons), len(view.times) - 1)]
        y_learn = labels.y[learn].copy()
        if border is not None:
            y_learn[ends[learn] >= border] = UNKNOWN_LABEL
        columns = view.columns_of(self.params.feature_set)
        names = tuple(view.names[c] for c in columns)
        base = view.base[:, columns]
        self.pipeline = FoldPipeline(scaling=self.capabilities.scaling, prune=self.params.prune)
        self.pipeline.fit(base, view.rows[learn], names)
        base = self.pipeline.transform(base)
        close = view.bars[:, 3]
        with np.errstate(divide="ignore", invalid="ignore"):
            returns = np.diff(np.log(close), prepend=np.nan)
        returns[np.flatnonzero(np.diff(view.segment, prepend=-1))] = 0.0

        def samples(part: NDArray[np.int64], y: NDArray[np.int8]) -> Samples:
            rows, hold = view.rows[part], np.where(y == UNKNOWN_LABEL, 0, labels.hold[part]).astype(np.int32)
            weight = np.zeros(y.shape, dtype=np.float32)
            for h in range(y.shape[1]):
                known = y[:, h] != UNKNOWN_LABEL
                if not known.any():
                    continue
                w = sample_weights(
                    rows[known],
                    hold[known, h],
                    returns if self.params.attribution else None,
                    times=view.times,
                    decay=self.params.decay,
                    tier=clearness(labels.chosen(part[known]), h, view.horizons[h]) if self.params.tiers else None,
                )
                weight[known, h] = balance(y[known, h], w, self.params.class_weight)
            return Samples(self.inputs(view, base, rows), y, weight, hold)

        train = samples(learn, y_learn)
        for h, horizon in enumerate(view.horizons):
            classes = np.unique(y_learn[:, h][y_learn[:, h] != UNKNOWN_LABEL])
            if len(classes) < 2:
                words = [CLASSES[c] for c in classes] or ["none"]
                raise TrainingError(
                    f"the training labels of horizon {horizon} hold the classes {', '.join(words)} only",
                    expected="at least two of short, neutral and long",
                    remedy="change `labels.multiplier` (`nightcast labels search` finds one) or bring more bars",
                )
        return train, samples(later, labels.y[later].copy())

    def inputs(self, view: BarView, base: NDArray[np.float32], rows: NDArray[np.int64]) -> Inputs:
        """A view's decisions on a transformed base."""
        return Inputs(
            base=base,
            rows=rows,
            names=self.pipeline.names_out,
            horizons=view.horizons,
            raw=view.bars,
            segment=view.segment,
            times=view.times,
            symbol=view.symbol,
        )

    def predict(self, view: BarView) -> ClassProbs:
        """Class probabilities at the view's decisions; a pure function of the fitted model and the view."""
        return self.forecast(view).prediction

    def forecast(self, view: BarView) -> ClassForecast:
        """`predict`, in the shape every workload's models answer in.

        Raises
        ------
        ConfigError
            If the model is not fitted, or was fitted for other horizons, another frequency or other columns.
        """
        self._check_fits(view)
        columns = self._columns_for(view)
        base = self.pipeline.transform(view.base[:, columns])
        probs = np.empty((0, len(self.horizons), len(CLASSES)))
        if len(view.rows):
            with quiet_randomness(self.seed):
                probs = self.checked(self.probabilities(self.inputs(view, base, view.rows)), len(view.rows))
        return ClassForecast(ClassProbs.of(class_frame(view, probs)), {})

    def checked(self, probs: NDArray[np.float64], rows: int) -> NDArray[np.float64]:
        """Hold a family's answer to its shape and to being probabilities."""
        shape = (rows, len(self.horizons), len(CLASSES))
        if probs.shape != shape or not np.isfinite(probs).all() or (probs < 0).any():
            raise TrainingError(
                f"{type(self).__name__} answered {probs.shape} with {int((~np.isfinite(probs)).sum())} values that are "
                "not finite",
                expected=f"finite probabilities of shape {shape}",
                remedy="look at the fit's report: a loss that is not finite, or a column that is constant",
            )
        return np.asarray(probs / probs.sum(axis=2, keepdims=True))

    def importance(self) -> dict[str, float] | None:
        """Column -> importance, summing to 1, where the family has one."""
        return None

    def save(self, folder: Path) -> None:
        """Write `model.json` and the family's own files; no pickle.

        Raises
        ------
        ConfigError
            If the model is not fitted.
        """
        self._check_fitted()
        folder.mkdir(parents=True, exist_ok=True)
        facts = {
            "target": f"{type(self).__module__}:{type(self).__qualname__}",
            "version": CLASSIFIER_VERSION,
            "params": self.params.model_dump(mode="json"),
            "horizons": list(self.horizons),
            "freq": self.freq,
            "seed": self.seed,
            "priors": self.priors.tolist(),
            "pipeline": self.pipeline.to_json(),
            "report": {
                "epochs": self.report.epochs,
                "best_epoch": self.report.best_epoch,
                "early_stopped": self.report.early_stopped,
                "history": {k: [float(x) for x in v] for k, v in self.report.history.items()},
            },
            "state": self._write(folder),
        }
        (folder / MODEL_FILE).write_text(json.dumps(facts, indent=1, sort_keys=True, allow_nan=False))

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote; the training data are not needed.

        Raises
        ------
        RegistryError
            If the bundle is another class's, of another layout, or broken.
        """
        fields = {"target", "version", "params", "horizons", "freq", "seed", "priors", "pipeline", "report", "state"}
        facts = read_facts(folder, fields=fields, version=CLASSIFIER_VERSION)
        target = f"{cls.__module__}:{cls.__qualname__}"
        if facts["target"] != target:
            raise RegistryError(
                f"the bundle {folder.name!r} holds {facts['target']!r}",
                expected=target,
                remedy="load it with `models.catalog.load_model`, which picks the class",
            )
        model = cls(**facts["params"])
        model.horizons, model.freq, model.seed = tuple(facts["horizons"]), facts["freq"], facts["seed"]
        try:
            model.priors = np.asarray(facts["priors"], dtype=np.float64)
            model.pipeline = FoldPipeline.from_json(facts["pipeline"])
            model.report = FitReport(**facts["report"])
            model._read(folder, facts["state"])
        except NightcastError:
            raise
        except (KeyError, TypeError, ValueError, OSError) as error:
            raise RegistryError(
                f"the bundle {folder.name!r} cannot be read ({type(error).__name__}: {error})",
                expected=f"the files that {target} writes",
                remedy="compare its sha256 with the manifest's, and register it again",
            ) from error
        return model

    # -- what a family fills in ----------------------------------------------------------------------------------

    @abstractmethod
    def learn(self, train: Samples, valid: Samples, *, seed: int) -> FitReport:
        """Learn; set the model's own attributes. `valid` may be empty. Labels of -1 are unknown, weight 0."""

    @abstractmethod
    def probabilities(self, inputs: Inputs) -> NDArray[np.float64]:
        """`[n, H, 3]` probabilities at the decisions; changes nothing in the model."""

    @abstractmethod
    def _write(self, folder: Path) -> dict[str, Any]:
        """Write own files, if any; return the rest of the state as JSON values."""

    @abstractmethod
    def _read(self, folder: Path, state: dict[str, Any]) -> None:
        """Set the attributes that `learn` sets, from what `_write` wrote."""

    # -- the template's own steps --------------------------------------------------------------------------------

    def _check_fitted(self) -> None:
        if not hasattr(self, "report"):
            raise ConfigError(
                f"{type(self).__name__} is not fitted",
                expected="a fitted model",
                remedy="call `fit` first, or `load` a bundle",
            )

    def _check_fits(self, view: BarView) -> None:
        self._check_fitted()
        asked = (view.horizons, view.schema.freq.alias)
        if asked != (self.horizons, self.freq):
            raise ConfigError(
                f"{type(self).__name__} was fitted for the horizons {list(self.horizons)} at {self.freq!r} "
                f"and is asked for {list(asked[0])} at {asked[1]!r}",
                expected="the horizons and frequency of the fit",
                remedy="fit it again on the new schema",
            )

    def _columns_for(self, view: BarView) -> list[int]:
        """Positions in the view's base of the columns the pipeline was fitted on."""
        position = {name: i for i, name in enumerate(view.names)}
        missing = [name for name in self.pipeline.names_in if name not in position]
        if missing:
            raise ConfigError(
                f"{type(self).__name__} was fitted on columns of which the view lacks {missing}",
                expected="the columns of the fit",
                remedy="prepare the data by the bundle's own recipe",
            )
        return [position[name] for name in self.pipeline.names_in]


def class_frame(view: BarView, probs: NDArray[np.float64]) -> pl.DataFrame:
    """`[n, H, 3]` probabilities as the long frame of `ClassProbs`."""
    rows, count = view.rows, len(view.horizons)
    times = np.repeat(view.times[rows], count)
    symbols = np.asarray(view.symbols, dtype=object)[view.symbol[rows]] if len(rows) else np.empty(0, dtype=object)
    flat = probs.reshape(-1, len(CLASSES))
    return pl.DataFrame(
        {
            ID: pl.Series(np.repeat(symbols, count).tolist(), dtype=pl.String),
            TIME: pl.Series(times).cast(pl.Datetime("us")),
            CUTOFF: pl.Series(times).cast(pl.Datetime("us")),
            HORIZON: pl.Series(np.tile(np.asarray(view.horizons, dtype=np.int32), len(rows))),
            **{name: flat[:, k] for k, name in enumerate(CLASS_PROBS)},
        }
    )


def thinned(count: int, most: int | None) -> NDArray[np.int64]:
    """Positions of at most `most` evenly spaced items out of `count`, the newest among them."""
    if most is None or count <= most:
        return np.arange(count)
    return np.unique(np.round(np.linspace(0, count - 1, most)).astype(np.int64))


def balance(y: NDArray[np.int8], weight: NDArray[np.float64], how: str) -> NDArray[np.float64]:
    """Weights with classes brought towards equal shares, mean 1."""
    if how != "none":
        totals = np.bincount(y, weights=weight, minlength=len(CLASSES))
        share = totals / totals.sum()
        factor = np.where(share > 0, 1.0 / np.maximum(share, 1e-12), 0.0)
        weight = weight * (np.sqrt(factor) if how == "sqrt" else factor)[y]
    return np.asarray(weight / weight.mean())


def clearness(labels: BarLabels, column: int, horizon: int) -> NDArray[np.float64]:
    """`[n]` weights of known labels of one horizon by their quality tier.

    Raises
    ------
    TrainingError
        If the labels say nothing of their barriers.
    """
    from nightcast.features.weights import quality_tier, tier_weights

    if labels.width is None:
        raise TrainingError(
            "quality tiers were asked for labels without barriers",
            expected="labels that tell how wide their barriers are, as `triple_barrier` makes them",
            remedy="leave `tiers` off",
        )
    of = (labels.y[:, column], labels.ret[:, column], labels.width[:, column], labels.hold[:, column])
    both = None if labels.ambiguous is None else labels.ambiguous[:, column]
    return tier_weights(quality_tier(*of, horizon=horizon, ambiguous=both))


def class_shares(samples: Samples) -> NDArray[np.float64]:
    """`[H, 3]` weighted class shares, with one pseudo-decision spread over the classes."""
    out = np.empty((samples.y.shape[1], len(CLASSES)))
    for h in range(samples.y.shape[1]):
        known = samples.known(h)
        totals = np.bincount(samples.y[known, h], weights=samples.weight[known, h], minlength=len(CLASSES)) + 1 / 3
        out[h] = totals / totals.sum()
    return out
