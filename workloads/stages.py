"""The stages of a night as plain functions, the same for every workload; Prefect tasks only call them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import polars as pl

from models.ensembles.bundle import Bundle, write_bundle
from nightcast.contracts.columns import (
    CUTOFF,
    FALLBACK_REASON,
    HORIZON,
    ID,
    MODEL,
    MODEL_USED,
    NIGHT_ID,
    ROLE_TARGET,
    SERIES_ROLE,
    TARGET,
    TIME,
)
from nightcast.contracts.decision import Decision
from nightcast.contracts.hashing import hash_frame, hash_json
from nightcast.contracts.recipe import Recipe
from nightcast.contracts.source import RawData
from nightcast.contracts.verdict import Verdict
from nightcast.contracts.workload import Workload
from nightcast.evaluation.sharpe_trials import TrialBook, recipe_trials
from nightcast.evaluation.walk_forward import Outcome, known_rows, score_rows

ENSEMBLE = "ensemble"
CHAMPION = "champion"
SIMPLE = "simple_ensemble"
FRAMES = ("members", "ensemble", "naive", "league", "verdicts")


def snapshot_hash(raw: RawData) -> str:
    """The content hash of everything a night reads: rows, schema, plan."""
    return hash_json(
        {
            "frame": hash_frame(raw.frame.sort(raw.frame.columns)),
            "plan": None if raw.plan is None else hash_frame(raw.plan.sort(raw.plan.columns)),
            "schema": raw.schema.model_dump(mode="json"),
        }
    )


def night_id(workload: str, as_of: datetime, snapshot: str, recipe: str) -> str:
    """The night's name, derived from its inputs alone: the same night has the same id on any machine."""
    return hash_json({"workload": workload, "as_of": as_of.isoformat(), "snapshot": snapshot, "recipe": recipe})


@dataclass(frozen=True)
class Evaluation:
    """What the walk-forward taught.

    Attributes
    ----------
    members
        Out-of-fold rows of every member and the ensemble, with `model`, `y`, `scale`; a decision that was traded and
        whose outcome is not known has a null `y`.
    ensemble
        The ensemble's own out-of-fold rows of known outcome, calibrated by earlier origins only, with `y`, `scale`,
        `loss`, `segment`.
    weights, calibration
        Learned on all out-of-fold rows; what the bundle uses.
    league
        One row a model, the ensemble among them.
    verdicts
        One row per model and horizon with the workload's named gates; empty where it has none.
    naive
        The best baseline's out-of-fold rows, with `loss` and `segment`.
    """

    members: pl.DataFrame
    ensemble: pl.DataFrame
    naive: pl.DataFrame
    league: pl.DataFrame
    verdicts: pl.DataFrame
    weights: dict[str, Any]
    calibration: dict[str, Any]

    def save(self, folder: Path) -> None:
        """Write as Parquet and JSON."""
        folder.mkdir(parents=True, exist_ok=True)
        for name in FRAMES:
            getattr(self, name).write_parquet(folder / f"{name}.parquet")
        (folder / "weights.json").write_text(json.dumps(self.weights))
        (folder / "calibration.json").write_text(json.dumps(self.calibration))

    @classmethod
    def load(cls, folder: Path) -> Evaluation:
        """Read what `save` wrote."""
        frames = {name: pl.read_parquet(folder / f"{name}.parquet") for name in FRAMES}
        weights = json.loads((folder / "weights.json").read_text())
        calibration = json.loads((folder / "calibration.json").read_text())
        return cls(**frames, weights=weights, calibration=calibration)


def evaluate(
    workload: Workload[Any], recipe: Recipe, dataset: Any, out: Outcome, *, trials: int | None = None
) -> Evaluation:
    """From out-of-fold predictions to weights, calibration, the ensemble's honest scores and the league table.

    Parameters
    ----------
    trials
        Trials of this workload in all, earlier nights included, for verdicts that count them; None: tonight's alone.
    """
    from threadpoolctl import threadpool_limits

    # How a threaded BLAS adds up depends on the cores it has; a night's bytes must not.
    with threadpool_limits(1):
        return _evaluate(workload, recipe, dataset, out, trials)


def _evaluate(workload: Workload[Any], recipe: Recipe, dataset: Any, out: Outcome, trials: int | None) -> Evaluation:
    members = score_rows(out.out_of_fold(), dataset, workload)
    labels = [choice.label for choice in recipe.models]
    baselines = [choice.label for choice in recipe.models if workload.catalog[choice.name].capabilities.baseline]
    weights = workload.combiner.fit(known_rows(members), recipe.combiner, baselines=baselines)
    nested = workload.nested(members, recipe.combiner, baselines, dataset, out.folds())
    members = nested.members
    calibration = workload.calibrator.fit(nested.joined)
    ensemble = nested.corrected.with_columns(pl.lit(ENSEMBLE).alias(MODEL))
    ensemble = _bounded(ensemble, workload)
    judged_at = ensemble.get_column(CUTOFF).unique().to_list()
    everything = pl.concat([members.filter(pl.col(CUTOFF).is_in(judged_at)), ensemble.select(members.columns)])
    league = workload.scoring.league(everything, baselines, dataset)
    judged = judge(everything, dataset, workload)
    verdicts = workload.scoring.verdicts(everything, baselines, dataset, recipe.seed, trials=trials)
    ranked = [name for name in league.get_column(MODEL).to_list() if name in baselines]
    best = ranked[0] if ranked else labels[0]
    return Evaluation(
        members=everything,
        ensemble=judged.filter(pl.col(MODEL) == ENSEMBLE),
        naive=judged.filter(pl.col(MODEL) == best),
        league=league,
        verdicts=verdicts,
        weights=weights,
        calibration=calibration,
    )


def ever_tried(workload: Workload[Any], recipe: Recipe, dataset: Any, folder: Path) -> int | None:
    """Write a night's trials into the workload's book, and count all that are in it; None where horizons are no trials.

    Parameters
    ----------
    folder
        Where the books of a home lie, one file a workload.

    Raises
    ------
    RegistryError
        If the book is there and cannot be read.
    """
    horizons = getattr(dataset.schema, "horizons", None)
    if horizons is None:
        return None
    baselines = [choice.label for choice in recipe.models if workload.catalog[choice.name].capabilities.baseline]
    return TrialBook(folder / f"{workload.name}.json").add(recipe_trials(recipe, baselines, horizons))


def _bounded(frame: pl.DataFrame, workload: Workload[Any]) -> pl.DataFrame:
    lower = workload.facts.get("lower")
    if lower is None:
        return frame
    return frame.with_columns(pl.col(name).clip(lower_bound=lower) for name in workload.prediction.value_columns())


def judge(rows: pl.DataFrame, dataset: Any, workload: Workload[Any]) -> pl.DataFrame:
    """Out-of-fold rows of known outcome, with `loss` and `segment`."""
    return workload.scoring.by_segment(workload.scoring.loss(known_rows(rows)), dataset)


def bundle_facts(
    workload: Workload[Any], recipe: Recipe, evaluation: Evaluation, dataset: Any, provenance: Mapping[str, Any]
) -> dict[str, Any]:
    """Everything `bundle.json` holds beside its members."""
    return {
        "workload": workload.name,
        "recipe": recipe.model_dump(mode="json"),
        "recipe_hash": recipe.hash,
        "combiner": class_path(workload.combiner),
        "calibrator": class_path(workload.calibrator),
        "weights": evaluation.weights,
        "calibration": evaluation.calibration,
        "lower": workload.facts.get("lower"),
        "prepare": workload.facts["prepare"],
        "dataset": {
            **dataset.request_facts(),
            "features": [choice.model_dump(mode="json") for choice in recipe.features],
        },
        "provenance": dict(provenance),
    }


def class_path(value: object) -> str:
    """`module:Class` of an object."""
    return f"{type(value).__module__}:{type(value).__qualname__}"


def make_bundle(
    folder: Path,
    workload: Workload[Any],
    recipe: Recipe,
    evaluation: Evaluation,
    dataset: Any,
    out: Outcome,
    provenance: Mapping[str, Any],
) -> Bundle:
    """Write the night's bundle from the final fits and load it back through its own checks."""
    targets = {choice.label: workload.catalog[choice.name].target for choice in recipe.models}
    members = {label: (targets[label], path) for label, path in out.final_models().items()}
    write_bundle(folder, facts=bundle_facts(workload, recipe, evaluation, dataset, provenance), members=members)
    return Bundle.load(folder)


@dataclass(frozen=True)
class Served:
    """A complete forecast: every promised series, each row labelled.

    Attributes
    ----------
    frame
        `unique_id, ds, cutoff, horizon, <values>, model_used, fallback_reason, night_id`.
    failures
        Member -> why it could not forecast.
    """

    frame: pl.DataFrame
    failures: dict[str, str]

    @property
    def fallbacks(self) -> dict[str, str]:
        """Series served by a fallback -> why."""
        rows = self.frame.filter(pl.col(FALLBACK_REASON).is_not_null()).unique(ID).sort(ID)
        return dict(rows.select(ID, FALLBACK_REASON).iter_rows())


@dataclass(frozen=True)
class Before:
    """The publication before tonight's.

    Attributes
    ----------
    frame
        Its rows.
    bundle
        What made them; None if it is not at hand.
    missing
        Why not.
    """

    frame: pl.DataFrame
    bundle: Bundle | None
    missing: str = ""


@dataclass(frozen=True)
class Morning:
    """All that a night leaves behind, for the workload's own chapters of the page.

    Attributes
    ----------
    dataset
        Tonight's rows as the recipe prepares them; None if preparation died.
    evaluation
        None where nothing was trained.
    bundle
        What serves tonight; None where fallbacks do.
    beside
        Tables published beside the rows, by name.
    before
        None on the first night.
    """

    workload: Workload[Any]
    raw: RawData
    verdict: Verdict
    dataset: Any | None
    evaluation: Evaluation | None
    served: Served
    bundle: Bundle | None
    beside: Mapping[str, pl.DataFrame]
    before: Before | None

    @cached_property
    def view(self) -> Any | None:
        """Tonight's view of the dataset."""
        return None if self.dataset is None else self.dataset.view(self.dataset.as_of)

    @cached_property
    def evidence(self) -> tuple[Mapping[str, pl.DataFrame], ...]:
        """What each member can tell of what it found, asked once for all chapters."""
        if self.bundle is None or self.view is None:
            return ()
        return tuple(model.evidence(self.view) for model in self.bundle.members.values())

    @property
    def unit(self) -> str:
        """Unit of the target, as the workload's file names it."""
        return str(self.workload.facts.get("unit") or "")


def serve(
    workload: Workload[Any],
    raw: RawData,
    verdict: Verdict,
    night: str,
    *,
    bundle: Bundle | None,
    dataset: Any | None,
    finals: pl.DataFrame | None = None,
    label: str = ENSEMBLE,
    only: str | None = None,
    reason: str | None = None,
) -> Served:
    """Forecast every promised series by the chain: ensemble, simple ensemble or baseline, the workload's fallback.

    Parameters
    ----------
    bundle, dataset
        The fitted ensemble and tonight's prepared data; None if training or preparation died.
    finals
        Forecasts of those final fits that did finish, for the simple ensemble when there is no bundle.
    label
        Whose bundle it is: tonight's `ensemble` or the `champion` of an earlier night.
    only
        Serve this member alone, as it is: the best baseline, when no model passed the gate.
    reason
        Why tonight's ensemble does not serve, if it failed.
    """
    series, _ = workload.promised(raw)
    values = workload.prediction.value_columns()
    failures: dict[str, str] = {}
    answer: tuple[Any, str, str | None] | None = None
    if bundle is not None and dataset is not None:
        view = dataset.view(dataset.as_of)
        scale = workload.scale(dataset, [dataset.as_of])
        predictions, failures = bundle.predict_members(view)
        if only is not None and only in predictions:
            answer = predictions[only], only, reason
        elif predictions:
            try:
                answer = bundle.join(predictions, failures, scale), label, reason
            except Exception as error:  # noqa: BLE001  # the next link of the chain takes over, labelled
                why = f"ensemble failed: {type(error).__name__}: {error}"
                answer = simple_ensemble(workload, predictions.values()), SIMPLE, why
    elif finals is not None and finals.height:
        members = [workload.prediction.of(part) for part in finals.partition_by(MODEL, maintain_order=True)]
        answer = simple_ensemble(workload, members), SIMPLE, reason
    served: list[pl.DataFrame] = []
    covered: set[str] = set()
    if answer is not None:
        prediction, used, note = answer
        frame = prediction.frame.filter(
            pl.col(ID).is_in(list(series)) & ~pl.col(ID).is_in(list(verdict.quarantined))
        ).with_columns(pl.lit(used).alias(MODEL_USED), pl.lit(note, dtype=pl.String).alias(FALLBACK_REASON))
        served.append(frame)
        covered = set(frame.get_column(ID))
    rest = [name for name in series if name not in covered]
    if rest:
        reasons = {
            name: "quarantined: " + ", ".join(verdict.quarantined[name])
            if name in verdict.quarantined
            else (reason or "no model could forecast it")
            for name in rest
        }
        frame = workload.fallback(raw, rest).with_columns(
            pl.col(ID).replace_strict(reasons, return_dtype=pl.String).alias(FALLBACK_REASON)
        )
        served.append(frame)
    columns = [ID, TIME, CUTOFF, HORIZON, *values, MODEL_USED, FALLBACK_REASON]
    out = workload.stand_down(pl.concat([frame.select(columns) for frame in served])).sort(ID, TIME, HORIZON)
    return Served(out.with_columns(pl.lit(night).alias(NIGHT_ID)), failures)


def simple_ensemble(workload: Workload[Any], predictions: Iterable[Any]) -> Any:
    """The plain mean of the members' values: the second link of the chain, with nothing learned in it."""
    return workload.prediction.mean(predictions)


def replace_failed(workload: Workload[Any], raw: RawData, served: Served, verdict: Verdict) -> Served:
    """Give the fallback to the series whose forecast did not pass the forecast gate."""
    failed = verdict.quarantined
    if not failed:
        return served
    because = {name: "forecast gate: " + ", ".join(reasons) for name, reasons in failed.items()}
    names = sorted(failed)
    frame = workload.fallback(raw, names).with_columns(
        pl.col(ID).replace_strict(because, return_dtype=pl.String).alias(FALLBACK_REASON),
        pl.lit(served.frame.get_column(NIGHT_ID)[0]).alias(NIGHT_ID),
    )
    kept = served.frame.filter(~pl.col(ID).is_in(names))
    frame = workload.stand_down(frame.select(kept.columns))
    return Served(pl.concat([kept, frame]).sort(ID, TIME, HORIZON), served.failures)


def decide(
    workload: Workload[Any],
    recipe: Recipe,
    challenger: Evaluation,
    champion: pl.DataFrame | None,
    champion_recipe: str | None,
) -> Decision:
    """The promotion gate."""
    return workload.compare(
        challenger.ensemble,
        champion,
        challenger.naive,
        recipe.gate,
        same_recipe=champion_recipe == recipe.hash,
        seed=recipe.seed,
        verdicts=challenger.verdicts,
    )


def counts(served: Served, raw: RawData, verdict: Verdict, retired: Mapping[str, str]) -> dict[str, int]:
    """What the manifest counts."""
    targets = raw.frame.filter(pl.col(SERIES_ROLE) == ROLE_TARGET)
    return {
        "series_in_source": targets.get_column(ID).n_unique(),
        "series_promised": served.frame.get_column(ID).n_unique(),
        "series_by_fallback": len(served.fallbacks),
        "series_quarantined": len(verdict.quarantined),
        "series_retired": len(retired),
        "rows_read": raw.frame.height,
        "rows_masked": verdict.masked_rows,
        "rows_published": served.frame.height,
    }


def history_of(raw: RawData, series: Sequence[str]) -> pl.DataFrame:
    """Known values of some series, `unique_id, ds, y`, for gates and pictures."""
    value = raw.schema.value
    return (
        raw.frame.filter(
            pl.col(ID).is_in(list(series)) & pl.col(value).is_finite().fill_null(False) & pl.col(TIME).is_not_null()
        )
        .filter(pl.col(TIME) <= raw.as_of)
        .unique([ID, TIME], keep="first", maintain_order=True)
        .select(ID, TIME, pl.col(value).alias(TARGET))
        .sort(ID, TIME)
    )
