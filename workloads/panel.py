"""The panel family: from a workload file to a workload value.

Everything a panel of series needs is here: which gates, features and models by default, how accepted rows become a
dataset, who is owed a forecast. A user's own panel needs a YAML file and no code.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import polars as pl
from pydantic import ValidationError

from expectations.docs import write_data_docs
from expectations.panel import RawThresholds, feature_gate, forecast_gate, raw_assets, raw_gate, raw_suites
from expectations.panel import accepted_rows as gate_rows
from models.catalog import FORECASTERS, make_forecaster
from models.ensembles.bagging import refuse_unknown, seeded
from models.ensembles.quantiles import QuantileCombiner, check_method
from nightcast.contracts.columns import (
    CUTOFF,
    ID,
    ROLE_TARGET,
    ROW_UNPARSABLE,
    SERIES_ROLE,
    TARGET,
    TIME,
    UPTIME,
)
from nightcast.contracts.errors import ConfigError
from nightcast.contracts.fold import Fold
from nightcast.contracts.panel import PanelDataset
from nightcast.contracts.prediction import Quantiles
from nightcast.contracts.recipe import CombinerPlan, FeatureChoice, FoldPlan, LimitPlan, ModelChoice, Preset, Recipe
from nightcast.contracts.schema import FeatureColumn, PanelSchema
from nightcast.contracts.source import Note, RawData
from nightcast.contracts.verdict import Verdict
from nightcast.contracts.workload import Gates, Nested, Scoring, Workload
from nightcast.evaluation.calibration import ConformalQuantiles, prequential
from nightcast.evaluation.comparison import compare
from nightcast.evaluation.fallback import panel_fallback
from nightcast.evaluation.folds import closed_cutoffs, final_fold, panel_folds
from nightcast.evaluation.league import SEGMENT, by_horizon, league, panel_loss, segments, series_facts, states
from nightcast.features.catalog import FEATURES, build_features
from nightcast.features.grid import apart, regular_grid
from nightcast.features.sentry import Built, future_leaks
from nightcast.sources.catalog import open_source
from nightcast.sources.spec import MemberChoice, RollupChoice, WorkloadFile
from workloads.panel_chapters import panel_chapters
from workloads.panel_sums import rolled_up

ALL_MODELS = (
    "naive_last",
    "naive_mean3",
    "naive_seasonal",
    "ses",
    "theta",
    "ets",
    "uptime_rate",
    "crm",
    "crm_residual",
    "linear_global",
    "mlp_global",
    "lightgbm_global",
    "type_curve",
    "well_mixer",
    "attention_tsmixerx",
    "tsmixerx",
)
MEMBER_PARAMS: Mapping[str, dict[str, Any]] = {"type_curve": {"oldest": 12}}
"""Parameters of members that a file without `models` gets: the type curve is for wells that have just started."""
UPTIME_NAIVE, PLANNED_NAIVE = "naive_uptime", "naive_planned"
REPORT_UPTIME = frozenset({"field_generator", "norne", "volve"})
"""Sources that tell the share of each step on stream without being asked."""
MODELS: Mapping[Preset, tuple[str, ...]] = {
    "ci": ("naive_last", "naive_mean3", "naive_seasonal", "ses", "linear_global", "lightgbm_global"),
    "nightly_cpu": ALL_MODELS,
    "seed": ALL_MODELS,
}
FOLDS: Mapping[Preset, FoldPlan] = {
    "ci": FoldPlan(cutoffs=4, refits=1),
    "nightly_cpu": FoldPlan(cutoffs=18, refits=3),
    "seed": FoldPlan(cutoffs=30, refits=10),
}
LIMITS: Mapping[Preset, LimitPlan] = {
    "ci": LimitPlan(seconds=120, memory_gib=4),
    "nightly_cpu": LimitPlan(seconds=600, memory_gib=6),
    "seed": LimitPlan(seconds=7200, memory_gib=16),
}
JUDGED_ORIGINS = 3
"""Fewest origins with learned weights to judge the ensemble by; with fewer all origins count."""
DEFAULT_FEATURES = (
    "lags",
    "rolling",
    "trend",
    "calendar",
    "fourier",
    "status",
    "injection",
    "crm_support",
    "pressure",
    "age",
)


def panel_workload(spec: WorkloadFile, base: Path) -> Workload[Quantiles]:
    """Compose the workload a file describes.

    Parameters
    ----------
    spec
        The checked file.
    base
        Folder that relative paths in it start from.

    Raises
    ------
    ConfigError
        If it names an unknown model, feature or source.
    """
    spec.require_panel()
    for line in spec.models or ():
        FORECASTERS[line.name]
    features = _feature_choices(spec.features)
    source = open_source(spec, base)
    limits = _thresholds(spec)
    calibrator = ConformalQuantiles(regime=SEGMENT, lower=spec.lower)

    def recipe(preset: Preset) -> Recipe:
        lines = spec.models or _members(spec, MODELS[preset])
        made = Recipe(
            horizon=spec.horizon,
            features=features,
            models=tuple(choice for line in lines for choice in seeded(_choice(line, preset), line.seeds)),
            folds=_folds(spec, preset),
            limits=LIMITS[preset],
            preparation={"retire_after": spec.retire_after, "raw_gate": limits.model_dump(mode="json")},
            **spec.recipe,
        )
        check_method(made.combiner)
        refuse_unknown(made.combiner.weights, made.models)
        return made

    def prepare(raw: RawData, verdict: Verdict, recipe: Recipe) -> PanelDataset:
        rows, notes = accepted_rows(raw, verdict, limits)
        dataset = dataset_from_rows(rows, raw.panel, recipe.features, raw.as_of, spec.retire_after, raw.plan)
        return replace(dataset, notes=notes + dataset.notes)

    def nested(
        oof: pl.DataFrame,
        plan: CombinerPlan,
        baselines: Sequence[str],
        dataset: PanelDataset,
        _folds: tuple[Fold, ...],
    ) -> Nested:
        horizon, freq = dataset.schema.horizon, dataset.schema.freq
        joined = QuantileCombiner().prequential_oof(oof, plan, baselines, horizon, freq)
        joined = segments(joined, history=states(dataset))
        corrected = prequential(joined, horizon=horizon, freq=freq, calibrator=calibrator)
        cutoffs = joined.get_column(CUTOFF).unique().to_list()
        judged = [c for c in cutoffs if closed_cutoffs(cutoffs, c, horizon=horizon, freq=freq)]
        if len(judged) < JUDGED_ORIGINS:
            return Nested(oof, joined, corrected)
        # Origins before any outcome closed had nothing to learn weights from: they only warm the later ones up.
        return Nested(oof, joined.filter(pl.col(CUTOFF).is_in(judged)), corrected.filter(pl.col(CUTOFF).is_in(judged)))

    def sentry(raw: RawData, verdict: Verdict, recipe: Recipe) -> list[str]:
        rows, _ = accepted_rows(raw, verdict, limits)
        return leak_sentry(rows, raw, recipe, spec.retire_after)

    return Workload(
        name=spec.name,
        title=spec.title or spec.name,
        source=source,
        prediction=Quantiles,
        catalog=FORECASTERS,
        recipe=recipe,
        gates=_gates(spec, limits),
        prepare=prepare,
        sentry=sentry,
        folds=panel_folds,
        final=final_fold,
        scale=series_facts,
        combiner=QuantileCombiner(),
        calibrator=calibrator,
        nested=nested,
        scoring=Scoring(
            loss=panel_loss,
            league=lambda oof, baselines, dataset: league(oof, baselines, history=dataset.truth()),
            by_horizon=by_horizon,
            by_segment=lambda rows, dataset: segments(rows, history=states(dataset)),
        ),
        fallback=lambda raw, series: panel_fallback(raw.frame, raw.panel, raw.as_of, series),
        promised=lambda raw: promised(raw, spec.retire_after),
        compare=compare,
        derive=rolled_up(None if spec.rollup is None else _known_group(spec, spec.rollup)),
        baselines=_baselines(spec),
        chapters=panel_chapters(spec.rollup, spec.voidage),
        facts={
            "information": _information(spec),
            "unit": spec.unit,
            "lower": spec.lower,
            "prepare": "workloads.panel:dataset_from_request",
        },
    )


def _members(spec: WorkloadFile, names: Sequence[str]) -> tuple[MemberChoice, ...]:
    """The members of a file that names none; naive ones that read uptime are among them where it is told."""
    told = spec.source.kind in REPORT_UPTIME or UPTIME in spec.columns.covariates
    naive = (UPTIME_NAIVE, *([PLANNED_NAIVE] if spec.source.plan is not None else [])) if told else ()
    return tuple(MemberChoice(name=name, params=MEMBER_PARAMS.get(name, {})) for name in (*naive, *names))


def _choice(line: MemberChoice, preset: Preset) -> ModelChoice:
    """The recipe's line for a line of the file; a wrong hyperparameter is refused here, not in every fold."""
    choice = FORECASTERS.choose(line.name, preset, label=line.title)
    if not line.params:
        return choice
    choice = choice.model_copy(update={"params": {**choice.params, **line.params}})
    make_forecaster(choice)
    return choice


def _baselines(spec: WorkloadFile) -> tuple[str, ...]:
    """Labels of the naive family."""
    lines = spec.models or _members(spec, ALL_MODELS)
    return tuple(line.title for line in lines if FORECASTERS[line.name].capabilities.baseline)


def _known_group(spec: WorkloadFile, choice: RollupChoice) -> RollupChoice:
    """The roll-up as asked for, if the groups' column can be among the file's static covariates."""
    declared = spec.columns.covariates
    if choice.groups is not None and declared and choice.groups not in declared:
        raise ConfigError(
            f"rollup.groups of workload {spec.name!r} names {choice.groups!r}",
            expected=f"a static covariate: one of {', '.join(n for n, c in declared.items() if c.role == 'static')}",
            remedy="declare it under columns.covariates with role: static, or leave `groups` out",
        )
    return choice


def _information(spec: WorkloadFile) -> str:
    """Which information mode the scores are for; U, P and N are never mixed."""
    if spec.source.plan is None:
        return "future unknown (U)"
    if spec.source.kind == "field_generator":
        return {"known": "plan known, as carried out (P)", "noisy": "plan with noise (N)"}[spec.source.plan]
    return "plan known (P)"


def _folds(spec: WorkloadFile, preset: Preset) -> FoldPlan:
    """The preset's plan with the file's changes.

    Unless the file says otherwise, origins lie so far apart that they span two horizons: weights are learned from
    origins whose horizon has closed, and neighbours that share most of theirs teach little.
    """
    plan = FOLDS[preset].model_copy(update=dict(spec.folds))
    if "step" in spec.folds:
        return plan
    return plan.model_copy(update={"step": max(1, math.ceil(2 * spec.horizon / plan.cutoffs))})


def _thresholds(spec: WorkloadFile) -> RawThresholds:
    try:
        return RawThresholds(**spec.gates.raw)
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigError(
            f"gates.raw.{'.'.join(map(str, first['loc']))} of workload {spec.name!r} is wrong: {first['msg']}",
            expected=f"any of {', '.join(RawThresholds.model_fields)}",
            remedy="correct `gates.raw` in the workload file; docs/gates.md lists the thresholds",
        ) from None


def _feature_choices(asked: Any) -> tuple[FeatureChoice, ...]:
    if asked is None:
        asked = {name: {} for name in DEFAULT_FEATURES}
    if not isinstance(asked, Mapping):
        asked = {name: {} for name in asked}
    for name in asked:
        if name not in FEATURES:
            raise ConfigError(
                f"unknown feature block {name!r}",
                expected=f"any of {', '.join(FEATURES)}",
                remedy="correct `features` in the workload file",
            )
    return tuple(FeatureChoice(name=name, params=dict(params or {})) for name, params in asked.items())


def _gates(spec: WorkloadFile, limits: RawThresholds) -> Gates:
    def raw(data: RawData) -> Verdict:
        return raw_gate(data, budget=spec.gates.budget, thresholds=limits)

    def features(dataset: PanelDataset, _recipe: Recipe) -> Verdict:
        return feature_gate(dataset, budget=spec.gates.budget)

    def forecasts(frame: pl.DataFrame, context: Any) -> Verdict:
        return forecast_gate(frame, **{name: its for name, its in context.items() if name != "schema"})

    def docs(data: RawData, folder: Path) -> Path:
        return write_data_docs(folder, raw_assets(data, limits), raw_suites(limits), title=spec.title or spec.name)

    return Gates(raw=raw, features=features, forecasts=forecasts, docs=docs)


def accepted_rows(raw: RawData, verdict: Verdict, thresholds: RawThresholds) -> tuple[pl.DataFrame, tuple[Note, ...]]:
    """Rows of the series that passed the raw gate; masked and repeated values are counted."""
    kept = gate_rows(raw, verdict, thresholds=thresholds)
    kept = kept.filter(pl.col(TIME).is_not_null() & (pl.col(TIME) <= raw.as_of))
    notes: list[Note] = []
    known = kept.select(ID, TIME).join(raw.frame.select(ID, TIME, TARGET), on=[ID, TIME], how="left")
    masked = kept.get_column(TARGET).null_count() - known.get_column(TARGET).null_count()
    if masked > 0:
        notes.append(Note("masked_values", masked, f"{masked} values that no rate can have count as missing"))
    unique = kept.unique([ID, TIME], keep="first", maintain_order=True)
    repeated = kept.height - unique.height
    if repeated:
        notes.append(
            Note("support_duplicates_dropped", repeated, f"{repeated} repeated rows of support series dropped")
        )
    return unique.sort(ID, TIME), tuple(notes)


def dataset_from_rows(
    rows: pl.DataFrame,
    schema: PanelSchema,
    features: Sequence[FeatureChoice],
    as_of: datetime,
    retire_after: int,
    plan: pl.DataFrame | None = None,
) -> PanelDataset:
    """Accepted rows on a regular grid, with features; support series are seen by features and then left out."""
    grid, filled = regular_grid(rows.drop(ROW_UNPARSABLE, strict=False), schema, as_of=as_of, retire_after=retire_after)
    frame, columns, skipped = build_features(grid, schema, features, as_of=as_of)
    inputs = {name: FeatureColumn(role=role) for name, role in schema.covariates.items()} | columns
    frame, support = apart(frame)
    return PanelDataset(
        frame.select(ID, TIME, TARGET, *inputs).sort(ID, TIME),
        schema,
        inputs,
        as_of,
        retire_after,
        plan,
        filled + skipped,
        support.select(ID, TIME, *schema.covariates).sort(ID, TIME) if support.height else None,
    )


def dataset_from_request(rows: pl.DataFrame, facts: Mapping[str, Any]) -> tuple[PanelDataset, pl.DataFrame]:
    """A served request's rows as a dataset, cut at their last time, and each series' scale there.

    Parameters
    ----------
    rows
        `unique_id, ds, y` and covariates; missing covariates count as unknown. `series_role` is optional.
    facts
        The bundle's dataset facts: schema, features, retire_after.
    """
    schema = PanelSchema.model_validate(facts["schema"])
    features = [FeatureChoice.model_validate(choice) for choice in facts["features"]]
    missing = [name for name in (ID, TIME, TARGET) if name not in rows.columns]
    if missing:
        raise ConfigError(
            f"the input lacks {missing}",
            expected=f"columns {ID}, {TIME}, {TARGET} and, where known, {list(schema.covariates)}",
            remedy="send whole histories in long form, one row per series and time",
        )
    rows = rows.with_columns(
        pl.col(ID).cast(pl.String), pl.col(TIME).cast(pl.Datetime("us")), pl.col(TARGET).cast(pl.Float64)
    ).with_columns(pl.lit(None, dtype=pl.Float64).alias(name) for name in schema.covariates if name not in rows.columns)
    if SERIES_ROLE not in rows.columns:
        rows = rows.with_columns(pl.lit(ROLE_TARGET).alias(SERIES_ROLE))
    as_of = rows.get_column(TIME).max()
    if not isinstance(as_of, datetime):
        raise ConfigError(
            "the input has no row with a time",
            expected="at least one row per series",
            remedy="send whole histories in long form, one row per series and time",
        )
    dataset = dataset_from_rows(
        rows.select(ID, TIME, TARGET, *schema.covariates, SERIES_ROLE).unique([ID, TIME], keep="first").sort(ID, TIME),
        schema,
        features,
        as_of,
        facts["retire_after"],
    )
    return dataset, series_facts(dataset, [as_of])


SENTRY_SERIES = 24


def leak_sentry(rows: pl.DataFrame, raw: RawData, recipe: Recipe, retire_after: int) -> list[str]:
    """Columns whose past changes when the future is scrambled, on the largest series and all supporting ones."""
    largest = (
        rows.filter(pl.col(SERIES_ROLE) == ROLE_TARGET)
        .group_by(ID)
        .agg(pl.len().alias("rows"))
        .sort("rows", ID, descending=[True, False])
        .head(SENTRY_SERIES)
        .get_column(ID)
    )
    part = rows.filter(pl.col(ID).is_in(largest.implode()) | (pl.col(SERIES_ROLE) != ROLE_TARGET))
    grid, _ = regular_grid(part.drop(ROW_UNPARSABLE), raw.panel, as_of=raw.as_of, retire_after=retire_after)

    def build(frame: pl.DataFrame, schema: PanelSchema) -> Built:
        return build_features(frame, schema, recipe.features)

    cutoff = raw.schema.freq.shift(raw.as_of, -raw.schema.horizon)
    return future_leaks(build, grid, raw.panel, cutoff, recipe.seed)


def promised(raw: RawData, retire_after: int) -> tuple[tuple[str, ...], dict[str, str]]:
    """Series that are owed a forecast, and the retired ones with the reason.

    A series is retired when its last known value lies more than `retire_after` steps before the as-of date. One
    that never had a known value is owed a (fallback) forecast while it has rows: something is wrong with it.
    """
    oldest = raw.schema.freq.shift(raw.as_of, -retire_after)
    known = pl.col(TIME).filter(pl.col(TARGET).is_not_null())
    seen = (
        raw.frame.filter(pl.col(SERIES_ROLE) == ROLE_TARGET)
        .group_by(ID)
        .agg(known.max().alias("known"), pl.col(TIME).max().alias("row"))
        .with_columns(pl.coalesce("known", "row").alias("last"))
        .sort(ID)
    )
    alive = seen.filter(pl.col("last").is_null() | (pl.col("last") >= oldest))
    retired = seen.filter(pl.col("last") < oldest)
    reasons = {
        series: f"last value {last:%Y-%m-%d}, more than {retire_after} steps before {raw.as_of:%Y-%m-%d}"
        for series, last in retired.select(ID, "last").iter_rows()
    }
    return tuple(alive.get_column(ID).to_list()), reasons
