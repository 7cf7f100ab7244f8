"""A workload is a value: everything that differs between wells, markets and a user's own panel.

Flows and tasks read its fields and never its name. Fields are typed by the prediction `P` they trade in, so a
classifier cannot be put into a regression workload without the type checker objecting.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Generic, Protocol

import polars as pl

from nightcast.contracts.catalog import Catalog
from nightcast.contracts.columns import HORIZON, MODEL
from nightcast.contracts.decision import Decision
from nightcast.contracts.fold import Fold
from nightcast.contracts.prediction import P, P_co
from nightcast.contracts.recipe import CombinerPlan, FoldPlan, GatePlan, Preset, Recipe
from nightcast.contracts.source import Note, RawData, Source
from nightcast.contracts.verdict import Verdict


class Dataset(Protocol):
    """What the walk-forward needs of prepared data; `PanelDataset` is the one of panels."""

    @property
    def hash(self) -> str:
        """Content hash."""
        ...

    @property
    def as_of(self) -> datetime:
        """Last known time."""
        ...

    @property
    def frame(self) -> pl.DataFrame:
        """All rows."""
        ...

    def training(self, fold: Fold) -> Any:
        """What a model is fitted on."""
        ...

    def tests(self, fold: Fold) -> Iterator[Any]:
        """What the fitted model predicts from."""
        ...

    def request_facts(self) -> dict[str, Any]:
        """What `Workload.facts["prepare"]` needs to make such a dataset from a request's rows, as JSON values."""
        ...

    def truth(self) -> pl.DataFrame:
        """Known outcomes to score with: `unique_id, ds, y`, and `horizon` where they differ by it."""
        ...

    def save(self, folder: Path) -> None:
        """Write to a folder; `dataset.json` names the class that loads it again."""
        ...


class Answer(Protocol[P_co]):
    """A prediction, who is left out of it and why, and what was treated on the way."""

    @property
    def prediction(self) -> P_co:
        """The prediction."""
        ...

    @property
    def left_out(self) -> Mapping[str, str]:
        """Series without a forecast -> reason."""
        ...

    @property
    def notes(self) -> Sequence[Note]:
        """Counted fills and clips."""
        ...


class Model(Protocol[P_co]):
    """A fitted or unfitted model."""

    def fit(self, view: Any, *, seed: int) -> Any:
        """Learn from a training view."""
        ...

    def predict(self, view: Any) -> P_co:
        """Forecast from a test view; a pure function of the fitted model and the view."""
        ...

    def forecast(self, view: Any) -> Answer[P_co]:
        """As `predict`, with who is left out and what was treated."""
        ...

    def save(self, folder: Path) -> None:
        """Write to a folder, without pickle."""
        ...


class Combiner(Protocol[P]):
    """Joins members' predictions; learns from out-of-fold predictions only."""

    def fit(self, oof: pl.DataFrame, plan: CombinerPlan, *, baselines: Sequence[str]) -> dict[str, Any]:
        """Learn weights, as JSON values, from `unique_id, ds, cutoff, horizon, model, <values>, y`."""
        ...

    def apply(self, members: Mapping[str, P], weights: dict[str, Any]) -> P:
        """Combine predictions of the same rows; a member that lacks a series leaves its weight to the others."""
        ...


class Calibrator(Protocol[P]):
    """Corrects probabilities or quantiles on rows of its own."""

    def fit(self, oof: pl.DataFrame) -> dict[str, Any]:
        """Learn a correction, as JSON values, from out-of-fold ensemble predictions with `y` and `scale`."""
        ...

    def apply(self, prediction: P, scale: pl.DataFrame, table: dict[str, Any]) -> P:
        """Correct a prediction; `scale` holds `unique_id, cutoff, scale`."""
        ...


@dataclass(frozen=True)
class Nested:
    """Out-of-fold rows as each night would have had them: combined and corrected by what was known then.

    Attributes
    ----------
    members
        The members' rows, as they are to be judged.
    joined
        The ensemble's rows, combined.
    corrected
        The same, calibrated; only rows that are to be judged.
    """

    members: pl.DataFrame
    joined: pl.DataFrame
    corrected: pl.DataFrame


@dataclass(frozen=True)
class Gates:
    """The three data gates, as functions that answer with a verdict; `docs` writes the raw gate's own pages.

    The feature gate also sees the recipe: what its models need of the data and of the machine is asked before a fit.
    """

    raw: Callable[[RawData], Verdict]
    features: Callable[[Any, Recipe], Verdict]
    forecasts: Callable[[pl.DataFrame, Any], Verdict]
    docs: Callable[[RawData, Path], Path]


@dataclass(frozen=True)
class Document:
    """A file that belongs to a night's page."""

    title: str
    path: Path


def _no_documents(_evaluation: Any, _dataset: Any, _folder: Path) -> tuple[Document, ...]:
    return ()


def _no_verdicts(
    _rows: pl.DataFrame, _baselines: Sequence[str], _dataset: Any, _seed: int, *, trials: int | None = None
) -> pl.DataFrame:
    return pl.DataFrame(schema={MODEL: pl.String, HORIZON: pl.Int32})


def _nothing_derived(
    _published: pl.DataFrame, _oof: pl.DataFrame, _raw: RawData, _seed: int
) -> Mapping[str, pl.DataFrame]:
    return {}


def _as_it_is(frame: pl.DataFrame) -> pl.DataFrame:
    return frame


@dataclass(frozen=True)
class Scoring:
    """How predictions are judged.

    Attributes
    ----------
    loss
        Adds the column `loss` (lower is better, comparable between series) to out-of-fold rows with `y`, `scale`.
    league
        Out-of-fold rows, baselines, dataset -> league table: one row a model, columns of metrics, best first.
    by_horizon
        The same per horizon, for the report.
    by_segment
        Out-of-fold rows and the dataset -> the rows with the column `segment`, for guards and the report.
    verdicts
        Out-of-fold rows, baselines, dataset, seed -> one row per model and horizon with named gates (`<name>_gate`,
        Boolean), their numbers and `why`; no rows where a workload has none. The keyword `trials` tells how many
        trials there were in all, earlier nights included; None where nobody counts.
    """

    loss: Callable[[pl.DataFrame], pl.DataFrame]
    league: Callable[[pl.DataFrame, Sequence[str], Any], pl.DataFrame]
    by_horizon: Callable[[pl.DataFrame], pl.DataFrame]
    by_segment: Callable[[pl.DataFrame, Any], pl.DataFrame]
    verdicts: Callable[..., pl.DataFrame] = field(default=_no_verdicts)


class Comparison(Protocol):
    """The promotion gate's arithmetic."""

    def __call__(
        self,
        challenger: pl.DataFrame,
        champion: pl.DataFrame | None,
        naive: pl.DataFrame,
        plan: GatePlan,
        *,
        same_recipe: bool,
        seed: int,
        verdicts: pl.DataFrame,
    ) -> Decision:
        """Decide from out-of-fold rows with `y`, `loss` and `segment`; the three frames share most of their keys.

        `verdicts` holds the challenger's rows of `Scoring.verdicts`.
        """
        ...


@dataclass(frozen=True)
class Workload(Generic[P]):
    """One kind of forecast, from source to gate.

    Attributes
    ----------
    name
        Lower-case name; the registered model is `nightcast-<name>`.
    prediction
        The prediction type.
    recipe
        Preset -> recipe.
    prepare
        Accepted raw rows -> dataset with features, for one recipe. Series in quarantine are left out, masked rows
        count as missing.
    sentry
        Raw rows, verdict, recipe -> columns whose past changes when the future does (there must be none).
    folds
        Dataset -> the walk-forward's folds.
    final
        Dataset -> the fold that is published from.
    scale
        Dataset, cutoffs -> `unique_id, cutoff, scale`: each series' level at each cutoff, from known rows only.
    fallback
        Forecast for series that no model may forecast (quarantined, or all members failed).
    promised
        Raw rows -> the series that are owed a forecast, sorted, and those that are not with the reason.
    nested
        Members' out-of-fold rows, plan, baselines, dataset, folds -> the ensemble's own: at each cutoff combined and
        corrected by what was known then, as that night would have done it.
    compare
        The promotion gate.
    stand_down
        Published rows -> the same rows, harmless where `fallback_reason` says that no judged model stands behind them
        (a market goes flat); panels publish them as they are.
    views
        What the report shows of the predictions; None for the views of quantiles.
    documents
        Evaluation, dataset, folder -> files written there that the page links to.
    derive
        Published rows, the serving ensemble's out-of-fold rows, raw rows, seed -> name and table of what is published
        beside the rows (sums over groups, say).
    chapters
        Sections of the page that only this kind of workload has: the night's `Morning` -> a section, or None where
        there is nothing to tell.
    baselines
        Labels of the naive family in the recipe.
    """

    name: str
    title: str
    source: Source
    prediction: type[P]
    catalog: Catalog[P]
    recipe: Callable[[Preset], Recipe]
    gates: Gates
    prepare: Callable[[RawData, Verdict, Recipe], Any]
    sentry: Callable[[RawData, Verdict, Recipe], list[str]]
    folds: Callable[[Any, FoldPlan], tuple[Fold, ...]]
    final: Callable[[Any, FoldPlan], Fold]
    scale: Callable[[Any, Sequence[datetime]], pl.DataFrame]
    combiner: Combiner[P]
    calibrator: Calibrator[P]
    nested: Callable[[pl.DataFrame, CombinerPlan, Sequence[str], Any, tuple[Fold, ...]], Nested]
    scoring: Scoring
    fallback: Callable[[RawData, Sequence[str]], pl.DataFrame]
    promised: Callable[[RawData], tuple[tuple[str, ...], dict[str, str]]]
    compare: Comparison
    baselines: tuple[str, ...]
    stand_down: Callable[[pl.DataFrame], pl.DataFrame] = field(default=_as_it_is)
    views: Callable[[Any], Any] | None = None
    documents: Callable[[Any, Any, Path], tuple[Document, ...]] = field(default=_no_documents)
    derive: Callable[[pl.DataFrame, pl.DataFrame, RawData, int], Mapping[str, pl.DataFrame]] = field(
        default=_nothing_derived
    )
    chapters: tuple[Callable[[Any], Any], ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
