"""The family of bars: from a workload file to a workload value.

Everything a market needs is here: gates, features, labels, purged folds, classifiers, the ensemble, calibration,
backtest and the gates to the champion. A user's own bars need a YAML file and no code.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import polars as pl
from pydantic import ValidationError

from expectations.bars import (
    BarThresholds,
    accepted_bars,
    bar_feature_gate,
    probability_gate,
    raw_bar_assets,
    raw_bar_suites,
    raw_bars_gate,
)
from expectations.docs import write_data_docs
from models.classifier import Classifier
from models.classifiers import CLASSIFIERS
from models.ensembles.classes import ClassCombiner
from nightcast.contracts.bars import BarColumn, BarDataset, label_columns
from nightcast.contracts.columns import (
    BAR_COLUMNS,
    CLASS_PROBS,
    CUTOFF,
    FALLBACK_REASON,
    HORIZON,
    ID,
    MODEL,
    MODEL_USED,
    SIGNAL,
    TIME,
)
from nightcast.contracts.errors import ConfigError
from nightcast.contracts.fold import Fold
from nightcast.contracts.prediction import ClassProbs
from nightcast.contracts.recipe import (
    CombinerPlan,
    FeatureChoice,
    FoldPlan,
    LimitPlan,
    ModelChoice,
    Preset,
    Recipe,
)
from nightcast.contracts.schema import BarsSchema, CostPlan, LabelPlan
from nightcast.contracts.source import RawData
from nightcast.contracts.verdict import Verdict
from nightcast.contracts.workload import Gates, Nested, Scoring, Workload
from nightcast.evaluation.class_scores import FOLD, class_by_horizon, class_league, class_loss, class_segments
from nightcast.evaluation.decisions import MarketCalibrator, prequential_decisions
from nightcast.evaluation.market_verdicts import LIMITS as VERDICT_LIMITS
from nightcast.evaluation.market_verdicts import compare_classes, market_verdicts
from nightcast.evaluation.purged import bar_folds, final_bar_fold
from nightcast.features.bars.catalog import build_bar_features
from nightcast.features.bars.sentry import bar_future_leaks
from nightcast.features.labels import LEAST_RETURNS, SIGMA, triple_barrier
from nightcast.features.segments import segmented
from nightcast.reports.class_views import class_views
from nightcast.sources.catalog import open_source
from nightcast.sources.spec import MemberChoice, WorkloadFile
from workloads.bar_documents import market_documents
from workloads.fits import fit_findings

BASELINES = (
    "climatology",
    "majority",
    "always_neutral",
    "stratified_random",
    "persistence",
    "momentum",
    "mean_reversion",
    "buy_and_hold",
    "volatility_only",
    "logistic10",
)
LEARNERS = ("lightgbm", "xgboost", "catboost", "random_forest", "logistic", "svm", "gru", "lstm", "tcn")
MODELS: Mapping[Preset, tuple[str, ...]] = {
    "ci": (*BASELINES, "logistic", "lightgbm"),
    "nightly_cpu": (*BASELINES, *LEARNERS),
    "seed": (*BASELINES, *LEARNERS),
}
FOLDS: Mapping[Preset, FoldPlan] = {
    # origins are bars: `refits` folds share them evenly
    "ci": FoldPlan(cutoffs=1200, refits=3, min_train=600),
    "nightly_cpu": FoldPlan(cutoffs=12_000, refits=6, min_train=250),
    "seed": FoldPlan(cutoffs=24_000, refits=12, min_train=2000),
}
LIMITS: Mapping[Preset, LimitPlan] = {
    "ci": LimitPlan(seconds=180, memory_gib=4),
    "nightly_cpu": LimitPlan(seconds=900, memory_gib=8),
    "seed": LimitPlan(seconds=24 * 3600, memory_gib=64),
}
COMBINERS = ("weighted", "mean", "voting", "stacking", "blending")
"""Methods of `CombinerPlan` that combine class probabilities."""
BARRIER_SETS = ("volatility_time", "boosting_optimal", "ensemble_base", "neural_optimal")
"""Feature sets that hold the volatility the barriers are made of: the yardstick's, and those of most learners."""
BARRIER_RATIOS = ("hvol_5", "hvol_20", "hvol_60", "parkinson_20")
"""Measures of volatility shown in units of the barriers' own, where a set has them."""
SENTRY_SYMBOLS = 2
SENTRY_BARS = 4000
"""Newest bars of each symbol that the leak sentry rebuilds."""


def bars_workload(spec: WorkloadFile, base: Path) -> Workload[ClassProbs]:
    """Compose the workload a file describes.

    Parameters
    ----------
    spec
        The checked file, `kind: bars`.
    base
        Folder that relative paths in it start from.

    Raises
    ------
    ConfigError
        If it names an unknown model, feature set or source, or an ensemble that only quantiles have.
    """
    spec.require_bars()
    for line in spec.models or ():
        CLASSIFIERS[line.name]
        if line.seeds > 1:
            raise ConfigError(
                f"models of workload {spec.name!r} asks for {line.seeds} seeds of {line.title!r}",
                expected="seeds: 1 in a file of kind bars",
                remedy="remove `seeds`; classifiers are not averaged over seeds",
            )
    if spec.features is not None:
        raise ConfigError(
            f"workload {spec.name!r} names features",
            expected="no `features`: each classifier reads its own feature set",
            remedy="remove the key; a model's parameter `feature_set` chooses another set",
        )
    source = open_source(spec, base)
    limits = _thresholds(spec)
    labels, costs = spec.bars.labels, spec.bars.costs
    calibrator = MarketCalibrator(costs)

    def recipe(preset: Preset) -> Recipe:
        lines = spec.models or tuple(MemberChoice(name=name) for name in MODELS[preset])
        models = tuple(_choice(line, preset) for line in lines)
        made = Recipe(
            horizon=max(spec.bars.horizons),
            features=tuple(FeatureChoice(name=name) for name in _feature_sets(models)),
            models=models,
            folds=FOLDS[preset].model_copy(update=dict(spec.folds)),
            limits=LIMITS[preset],
            preparation={
                "retire_after": spec.retire_after,
                "raw_gate": limits.model_dump(mode="json"),
                "labels": labels.model_dump(mode="json"),
                "costs": costs.model_dump(mode="json"),
                "alarms": [spec.bars.alarm_auc, spec.bars.alarm_sharpe],
                "window": _window(models),
                **({} if (least := spec.gates.samples_per_feature) is None else {"samples_per_feature": least}),
            },
            **spec.recipe,
        )
        _check_combiner(made.combiner)
        return made

    def prepare(raw: RawData, verdict: Verdict, recipe: Recipe) -> BarDataset:
        rows, notes = accepted_bars(raw, verdict, limits)
        dataset = dataset_from_bars(
            rows,
            raw.bars,
            [choice.name for choice in recipe.features],
            raw.as_of,
            window=recipe.preparation["window"],
            labels=LabelPlan.model_validate(recipe.preparation["labels"]),
            costs=CostPlan.model_validate(recipe.preparation["costs"]),
            retire_after=spec.retire_after,
        )
        return replace(dataset, notes=notes + dataset.notes)

    def sentry(raw: RawData, verdict: Verdict, recipe: Recipe) -> list[str]:
        rows, _ = accepted_bars(raw, verdict, limits)
        return leak_sentry(rows, raw.bars, recipe)

    def nested(
        oof: pl.DataFrame, plan: CombinerPlan, baselines: Sequence[str], dataset: BarDataset, folds: tuple[Fold, ...]
    ) -> Nested:
        oof = with_folds(oof, folds)
        joined = ClassCombiner().prequential_oof(oof, plan, baselines, folds)
        # a baseline trades by its own rule, which calibration would take from it
        naive = pl.col(MODEL).is_in(list(baselines))
        learners = prequential_decisions(oof.filter(~naive), calibrator, folds=folds).drop("judged")
        return Nested(
            members=pl.concat([oof.filter(naive).select(learners.columns), learners]),
            joined=joined,
            corrected=prequential_decisions(joined, calibrator, folds=folds).filter("judged").drop("judged"),
        )

    alarms = replace(VERDICT_LIMITS, leak_auc=spec.bars.alarm_auc, leak_sharpe=spec.bars.alarm_sharpe)

    def verdicts(
        rows: pl.DataFrame, baselines: Sequence[str], dataset: BarDataset, seed: int, *, trials: int | None = None
    ) -> pl.DataFrame:
        return market_verdicts(rows, baselines, dataset, seed, trials=trials, limits=alarms)

    return Workload(
        name=spec.name,
        title=spec.title or spec.name,
        source=source,
        prediction=ClassProbs,
        catalog=CLASSIFIERS,
        recipe=recipe,
        gates=_gates(spec, limits),
        prepare=prepare,
        sentry=sentry,
        folds=bar_folds,
        final=final_bar_fold,
        scale=bar_scale,
        combiner=ClassCombiner(),
        calibrator=calibrator,
        nested=nested,
        scoring=Scoring(
            loss=class_loss,
            league=class_league,
            by_horizon=class_by_horizon,
            by_segment=class_segments,
            verdicts=verdicts,
        ),
        fallback=flat_fallback,
        promised=lambda raw: promised(raw, spec.retire_after),
        compare=compare_classes,
        baselines=_baselines(spec),
        stand_down=stand_down,
        views=class_views,
        documents=market_documents,
        facts={
            "information": "bars up to the decision, nothing of the future",
            "unit": "",
            "lower": None,
            "prepare": "workloads.bars:dataset_from_request",
        },
    )


def _choice(line: MemberChoice, preset: Preset) -> ModelChoice:
    """The recipe's line for a line of the file."""
    choice = CLASSIFIERS.choose(line.name, preset, label=line.title)
    return choice.model_copy(update={"params": {**choice.params, **line.params}})


def _baselines(spec: WorkloadFile) -> tuple[str, ...]:
    """Labels of the baselines."""
    lines = spec.models or tuple(MemberChoice(name=name) for name in MODELS["seed"])
    return tuple(line.title for line in lines if CLASSIFIERS[line.name].capabilities.baseline)


def _check_combiner(plan: CombinerPlan) -> None:
    """Refuse what `ClassCombiner` would pass over in silence."""
    given = [name for name in ("weights", "meta") if getattr(plan, name) is not None]
    if plan.method not in COMBINERS or given:
        raise ConfigError(
            f"recipe.combiner of a file of kind bars: {given[0] if given else f'method {plan.method!r}'}",
            expected=f"a method among {', '.join(COMBINERS)}, and no weights or meta",
            remedy="correct `recipe.combiner` in the workload file; docs/ensembles.md lists what each kind has",
        )


def with_models(recipe: Recipe, models: tuple[ModelChoice, ...]) -> Recipe:
    """The recipe with other models, and the features and window they read."""
    return recipe.model_copy(
        update={
            "models": models,
            "features": tuple(FeatureChoice(name=name) for name in _feature_sets(models)),
            "preparation": {**recipe.preparation, "window": _window(models)},
        }
    )


def _feature_sets(models: Sequence[ModelChoice]) -> tuple[str, ...]:
    """The feature sets the models read, each once."""
    return tuple(dict.fromkeys(_made(choice).params.feature_set for choice in models))


def _window(models: Sequence[ModelChoice]) -> int:
    """The longest window a model reads, in bars."""
    return max(_made(choice).window for choice in models)


def _made(choice: ModelChoice) -> Classifier:
    made: Classifier = CLASSIFIERS[choice.name].load()(**choice.params)
    return made


def _thresholds(spec: WorkloadFile) -> BarThresholds:
    try:
        return BarThresholds(**{"retire_after": spec.retire_after, **spec.gates.raw})
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigError(
            f"gates.raw.{'.'.join(map(str, first['loc']))} of workload {spec.name!r} is wrong: {first['msg']}",
            expected=f"any of {', '.join(BarThresholds.model_fields)}",
            remedy="correct `gates.raw` in the workload file; docs/gates.md lists the thresholds",
        ) from None


def _gates(spec: WorkloadFile, limits: BarThresholds) -> Gates:
    def raw(data: RawData) -> Verdict:
        return raw_bars_gate(data, budget=spec.gates.budget, thresholds=limits)

    def features(dataset: BarDataset, recipe: Recipe) -> Verdict:
        verdict = bar_feature_gate(dataset, budget=spec.gates.budget)
        asked = fit_findings(dataset, recipe)
        return replace(verdict, rules=verdict.rules + 2 * len(recipe.models), findings=verdict.findings + asked)

    def forecasts(frame: pl.DataFrame, context: Any) -> Verdict:
        known = {name: its for name, its in context.items() if name != "schema"}
        return probability_gate(frame, horizons=context["schema"].horizons, **known)

    def docs(data: RawData, folder: Path) -> Path:
        assets, suites = raw_bar_assets(data, limits), raw_bar_suites(limits)
        return write_data_docs(folder, assets, suites, title=spec.title or spec.name)

    return Gates(raw=raw, features=features, forecasts=forecasts, docs=docs)


def dataset_from_bars(
    rows: pl.DataFrame,
    schema: BarsSchema,
    sets: Sequence[str],
    as_of: datetime,
    *,
    window: int,
    labels: LabelPlan,
    costs: CostPlan,
    retire_after: int,
) -> BarDataset:
    """Accepted bars with segments, features and labels.

    Parameters
    ----------
    rows
        `unique_id, ds, open .. volume`, unique keys.
    sets
        Feature sets to build.
    window
        Longest window a model reads; with the longest warm-up it decides where decisions can begin.
    """
    bars = rows.select(ID, TIME, *BAR_COLUMNS).sort(ID, TIME)
    schema = schema.counted(bars)
    cut, notes = segmented(bars, schema)
    frame, columns, resolved = build_bar_features(cut, sets, schema)
    labelled, columns, resolved = barrier_features(triple_barrier(frame, schema, labels), columns, resolved, labels)
    names = [name for h in schema.horizons for name in label_columns(h).values()]
    kept = [ID, TIME, "segment", "session", *BAR_COLUMNS, "sigma", *columns, *names]
    frame = labelled.select(list(dict.fromkeys(kept))).with_columns(pl.col(list(columns)).cast(pl.Float32))
    warm = max((column.warmup for column in columns.values()), default=0)
    return BarDataset(
        frame=frame,
        schema=schema,
        columns=columns,
        sets=resolved,
        as_of=as_of,
        lead=warm + window - 1,
        labels=labels,
        costs=costs,
        retire_after=retire_after,
        notes=tuple(notes),
    )


def barrier_features(
    frame: pl.DataFrame,
    columns: Mapping[str, BarColumn],
    sets: Mapping[str, tuple[str, ...]],
    labels: LabelPlan,
) -> tuple[pl.DataFrame, dict[str, BarColumn], dict[str, tuple[str, ...]]]:
    """Tell the yardstick of skill, and the learners beside it, what the barriers are made of.

    Barriers are as wide as the volatility at the decision says, so whether one is touched depends on how that compares
    with other measures of volatility. A yardstick without it would know less than any model that can guess it; a
    learner without it would lose its weight in the ensemble to the yardstick, whatever it knew of the direction.

    Parameters
    ----------
    frame
        What `triple_barrier` returned, with the columns of the sets.

    Returns
    -------
    tuple
        The frame with `barrier_sigma` (logarithm of the label's own volatility) and `barrier_<name>` (logarithm of
        a measure of the set over it); columns and sets with them, in the sets of `BARRIER_SETS`.
    """
    given = {name: its for name, its in sets.items() if name in BARRIER_SETS}
    if not given:
        return frame, dict(columns), dict(sets)
    least = min(labels.span, LEAST_RETURNS)
    made = {"barrier_sigma": (pl.col(SIGMA), least)}
    for name in BARRIER_RATIOS:
        if any(name in its for its in given.values()):
            ratio = pl.col(name).cast(pl.Float64) / pl.col(SIGMA)
            made[f"barrier_{name}"] = (ratio, max(columns[name].warmup, least))
    added = [pl.when(ratio > 0).then(ratio).log().alias(name) for name, (ratio, _) in made.items()]
    new = {name: BarColumn(block="volatility", warmup=warmup) for name, (_, warmup) in made.items()}
    wider = {
        name: (*its, "barrier_sigma", *(f"barrier_{ratio}" for ratio in BARRIER_RATIOS if ratio in its))
        for name, its in given.items()
    }
    return frame.with_columns(added), {**columns, **new}, {**sets, **wider}


def dataset_from_request(rows: pl.DataFrame, facts: Mapping[str, Any]) -> tuple[BarDataset, pl.DataFrame]:
    """A served request's bars as a dataset, cut at their last time, and each symbol's scale there.

    Parameters
    ----------
    rows
        `unique_id, ds, open, high, low, close, volume`; at least the lead's number of bars a symbol.
    facts
        The bundle's dataset facts.

    Raises
    ------
    ConfigError
        If a column is missing or no row has a time.
    """
    schema = BarsSchema.model_validate(facts["schema"])
    missing = [name for name in (ID, TIME, *BAR_COLUMNS) if name not in rows.columns]
    if missing:
        raise ConfigError(
            f"the input lacks {missing}",
            expected=f"columns {ID}, {TIME} and {', '.join(BAR_COLUMNS)}",
            remedy=f"send at least {facts['lead'] + 1} bars a symbol in long form",
        )
    rows = rows.select(
        pl.col(ID).cast(pl.String), pl.col(TIME).cast(pl.Datetime("us")), pl.col(BAR_COLUMNS).cast(pl.Float64)
    ).drop_nulls()
    as_of = rows.get_column(TIME).max()
    if not isinstance(as_of, datetime):
        raise ConfigError(
            "the input has no complete bar with a time",
            expected=f"at least {facts['lead'] + 1} bars a symbol",
            remedy="send bars in long form, one row per symbol and time",
        )
    labels = LabelPlan.model_validate(facts["labels"])
    sets = [choice["name"] for choice in facts["features"]]
    dataset = dataset_from_bars(
        rows.unique([ID, TIME], keep="first"),
        schema,
        sets,
        as_of,
        window=1,
        labels=labels,
        costs=CostPlan.model_validate(facts["costs"]),
        retire_after=facts["retire_after"],
    )
    dataset = replace(dataset, lead=facts["lead"])
    return dataset, bar_scale(dataset, [as_of])


def bar_scale(dataset: BarDataset, cutoffs: Sequence[datetime]) -> pl.DataFrame:
    """`unique_id, cutoff, scale`: volatility of one bar known at each cutoff; of a lone cutoff each symbol's newest."""
    known = dataset.frame.select(ID, pl.col(TIME).alias(CUTOFF), pl.col("sigma").cast(pl.Float64).alias("scale"))
    if len(cutoffs) == 1:
        known = known.filter(pl.col(CUTOFF) <= cutoffs[0])
        return known.sort(ID, CUTOFF).group_by(ID, maintain_order=True).last().select(ID, CUTOFF, "scale")
    asked = pl.DataFrame({CUTOFF: list(cutoffs)}, schema={CUTOFF: pl.Datetime("us")}).unique()
    return known.join(asked, on=CUTOFF, how="semi").sort(ID, CUTOFF)


def with_folds(rows: pl.DataFrame, folds: Sequence[Fold]) -> pl.DataFrame:
    """Add `fold`, the number of the walk-forward's fold that each row's cutoff lies in."""
    number = pl.lit(None, dtype=pl.Int32)
    for k, fold in enumerate(folds):
        number = pl.when(pl.col(CUTOFF).is_between(fold.cutoffs[0], fold.cutoffs[-1])).then(k).otherwise(number)
    return rows.with_columns(number.cast(pl.Int32).alias(FOLD))


def leak_sentry(rows: pl.DataFrame, schema: BarsSchema, recipe: Recipe) -> list[str]:
    """Columns whose past changes when the future is scrambled, on the longest symbols' newest bars."""
    longest = (
        rows.group_by(ID).len().sort("len", ID, descending=[True, False]).head(SENTRY_SYMBOLS).get_column(ID).implode()
    )
    part = rows.filter(pl.col(ID).is_in(longest)).sort(ID, TIME).group_by(ID, maintain_order=True).tail(SENTRY_BARS)
    frame, _ = segmented(part.select(ID, TIME, *BAR_COLUMNS).sort(ID, TIME), schema)
    times = frame.get_column(TIME).unique().sort()
    cutoff = times[max(0, len(times) - 1 - schema.horizon - 10)]
    return bar_future_leaks(frame, [choice.name for choice in recipe.features], schema, cutoff, recipe.seed)


def promised(raw: RawData, retire_after: int) -> tuple[tuple[str, ...], dict[str, str]]:
    """Symbols that are owed a decision, and the retired ones with the reason.

    A symbol is retired when the market had more than `retire_after` bars since its last one.
    """
    rows = raw.frame.filter(pl.col(TIME).is_not_null() & (pl.col(TIME) <= raw.as_of))
    clock = rows.get_column(TIME).unique().sort()
    if not len(clock):
        return tuple(raw.frame.get_column(ID).unique().sort()), {}
    oldest = clock[max(0, len(clock) - 1 - retire_after)]
    seen = rows.group_by(ID).agg(pl.col(TIME).max().alias("last")).sort(ID)
    alive = seen.filter(pl.col("last") >= oldest).get_column(ID).to_list()
    reasons = {
        name: f"last bar {last:%Y-%m-%d %H:%M}, more than {retire_after} bars before {raw.as_of:%Y-%m-%d %H:%M}"
        for name, last in seen.filter(pl.col("last") < oldest).iter_rows()
    }
    return tuple(alive), reasons


def flat_fallback(raw: RawData, series: Sequence[str]) -> pl.DataFrame:
    """No view: equal probabilities and no position, dated at each symbol's last bar."""
    schema = raw.bars
    rows = raw.frame.filter(pl.col(TIME).is_not_null() & (pl.col(TIME) <= raw.as_of) & pl.col(ID).is_in(list(series)))
    last = dict(rows.group_by(ID).agg(pl.col(TIME).max()).iter_rows())
    frame = pl.DataFrame(
        [
            {ID: name, TIME: last.get(name, raw.as_of), CUTOFF: last.get(name, raw.as_of), HORIZON: h}
            for name in series
            for h in schema.horizons
        ],
        schema={ID: pl.String, TIME: pl.Datetime("us"), CUTOFF: pl.Datetime("us"), HORIZON: pl.Int32},
    )
    frame = frame.with_columns(*(pl.lit(1 / len(CLASS_PROBS)).alias(name) for name in CLASS_PROBS))
    return ClassProbs.of(frame).frame.with_columns(
        pl.lit("flat").alias(MODEL_USED), pl.lit(None, dtype=pl.String).alias(FALLBACK_REASON)
    )


def stand_down(frame: pl.DataFrame) -> pl.DataFrame:
    """No position where a fallback serves: nothing judged stands behind it."""
    return frame.with_columns(
        pl.when(pl.col(FALLBACK_REASON).is_null()).then(pl.col(SIGNAL)).otherwise(0).cast(pl.Int8).alias(SIGNAL)
    )
