"""Prefect tasks: each reads a reference, calls one function, writes a reference and reports progress."""

from __future__ import annotations

import json
import shutil
import threading
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
from prefect import task
from prefect.cache_policies import NO_CACHE

from models.ensembles.bundle import Bundle
from nightcast.contracts.columns import CUTOFF, HORIZON, ID, MODEL, ROLE_TARGET, SERIES_ROLE, TIME
from nightcast.contracts.decision import Decision
from nightcast.contracts.errors import GateError, NightcastError, TrainingError
from nightcast.contracts.progress import Progress
from nightcast.contracts.recipe import Preset
from nightcast.contracts.verdict import Finding
from nightcast.evaluation.units import Unit, UnitFailure, UnitResult, find_unit
from nightcast.evaluation.walk_forward import Outcome, plan_units, walk_forward
from nightcast.evaluation.workers import WorkerPool, import_packages
from nightcast.publishing import Lease, Publication, find_published, publish_night, read_current, table_bytes
from nightcast.reports.views import Chapter
from nightcast.storage import Store, open_store
from tasks.night import Mode, Night, clock, load_workload, owner, owner_is_dead, parse_as_of, write_text
from tasks.provenance import provenance
from tasks.settings import Settings
from tasks.tracking import Tracking, Version, registered_name
from workloads.fits import refused_fits
from workloads.stages import (
    Before,
    Evaluation,
    Morning,
    Served,
    counts,
    decide,
    evaluate,
    ever_tried,
    history_of,
    judge,
    make_bundle,
    night_id,
    replace_failed,
    serve,
    snapshot_hash,
)

EXAMPLE_SERIES = 2
MOST_STEPS = 100
"""Most points of a loss curve in MLflow."""


def _transient(_task: Any, _run: Any, state: Any) -> bool:
    """Retry what may pass by itself (a disk, a network), never what a person must mend."""
    try:
        state.result()
    except NightcastError:
        return False
    except (OSError, ConnectionError, TimeoutError):
        return True
    except Exception:  # noqa: BLE001  # everything else is a fault of ours: retrying hides it
        return False
    return False


def store_of(settings: Settings) -> Store:
    """The store forecasts are published to."""
    secret = settings.s3_secret_access_key
    key = settings.s3_access_key_id
    return open_store(
        settings.store_url,
        endpoint_url=settings.s3_endpoint_url,
        region_name=settings.s3_region,
        aws_access_key_id=key.get_secret_value() if key else None,
        aws_secret_access_key=secret.get_secret_value() if secret else None,
    )


@task(name="read source", cache_policy=NO_CACHE, retries=2, retry_delay_seconds=2, retry_condition_fn=_transient)
def read_source(
    settings: Settings, spec: str, preset: Preset, mode: Mode, as_of: str | None, data: str | None
) -> Night:
    """Read everything known at the as-of date and give the night its name."""
    workload = load_workload(spec)
    raw = workload.source.read(as_of=parse_as_of(as_of), data=Path(data) if data else None, now=clock())
    recipe = workload.recipe(preset)
    snapshot = snapshot_hash(raw)
    name = night_id(workload.name, raw.as_of, snapshot, recipe.hash)
    folder = settings.work / name
    raw.save(folder / "raw")
    return Night(
        spec=spec,
        name=workload.name,
        home=str(settings.root),
        preset=preset,
        mode=mode,
        as_of=raw.as_of.isoformat(),
        night_id=name,
        snapshot=snapshot,
        recipe_hash=recipe.hash,
        folder=str(folder),
    )


def named_by_champion(night: Night, champion: Version | None) -> Night:
    """The same input under the champion's recipe (or no champion at all) is another night than tonight's training."""
    by = "no-champion" if champion is None else f"champion-{champion.night_id}"
    name = night_id(night.name, night.as_of_time, night.snapshot, by)
    folder = night.settings.work / name
    night.raw().save(folder / "raw")
    recipe = "none" if champion is None else champion.recipe_hash
    return replace(night, night_id=name, folder=str(folder), recipe_hash=recipe)


def published(night: Night) -> Publication | None:
    """The publication of this night, if it exists."""
    return find_published(store_of(night.settings), night.name, as_of=night.as_of_time, night_id=night.night_id)


@contextmanager
def holding(night: Night, progress: Progress) -> Iterator[Lease]:
    """Hold the night's lease while the block runs; a heartbeat keeps it."""
    settings = night.settings
    store = store_of(settings)
    lease = Lease.acquire(
        store, f"night-{night.night_id}", owner(), settings.lease_seconds, clock(), is_dead=owner_is_dead
    )
    stop = threading.Event()

    def beat() -> None:
        while not stop.wait(settings.lease_seconds / 3):
            try:
                lease.renew(clock())
            except NightcastError as error:
                progress.say(str(error))  # publishing checks the token again and refuses
                return
            except OSError as error:
                progress.say(f"heartbeat failed, trying again: {error}")

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield lease
    finally:
        stop.set()
        thread.join(timeout=10)
        lease.release(clock())


@task(name="raw gate", cache_policy=NO_CACHE)
def raw_gate(night: Night) -> dict[str, list[str]]:
    """Judge the raw rows; returns the quarantine."""
    verdict = night.workload.gates.raw(night.raw())
    night.write_verdict(verdict)
    verdict.raise_if_stopped()
    return {series: list(reasons) for series, reasons in verdict.quarantined.items()}


@task(name="snapshot and features", cache_policy=NO_CACHE)
def prepare(night: Night) -> int:
    """Accepted rows to a dataset with features; returns its number of input columns."""
    workload = night.workload
    dataset = workload.prepare(night.raw(), night.verdict("raw"), night.recipe)
    dataset.save(night.path / "dataset")
    return len(dataset.columns)


@task(name="snapshot and features", cache_policy=NO_CACHE)
def prepare_for_bundle(night: Night, folder: Path) -> None:
    """Accepted rows to the dataset a bundle was made for."""
    recipe = Bundle.load(folder).recipe
    night.workload.prepare(night.raw(), night.verdict("raw"), recipe).save(night.path / "dataset")


@task(name="feature gate", cache_policy=NO_CACHE)
def feature_gate(night: Night) -> None:
    """Judge the features, and let the leak sentry rebuild them with a scrambled future."""
    workload = night.workload
    verdict = workload.gates.features(night.dataset(), night.recipe)
    night.write_verdict(verdict)
    verdict.raise_if_stopped()
    leaks = workload.sentry(night.raw(), night.verdict("raw"), night.recipe)
    if leaks:
        raise GateError(
            f"the leak sentry found columns that look ahead: {', '.join(leaks)}",
            expected="features that depend on rows at or before their own time only",
            remedy="mend or remove the feature block; docs/features.md tells how each is tested",
        )


@task(name="plan folds", cache_policy=NO_CACHE)
def plan(night: Night) -> tuple[list[Unit], list[UnitFailure]]:
    """All units of the night, the walk-forward's folds and the final fits; and the models that are not to be fitted.

    A model that the feature gate refuses (too few rows, or too large for a unit's memory) has one failure, with the
    gate's reason, and no unit.
    """
    workload, recipe, dataset = night.workload, night.recipe, night.dataset()
    folds = (*workload.folds(dataset, recipe.folds), workload.final(dataset, recipe.folds))
    units = plan_units(workload, recipe, folds, dataset, night.path / "dataset")
    return apart_from_refused(units, night.verdict("features").findings)


def apart_from_refused(units: Sequence[Unit], findings: Sequence[Finding]) -> tuple[list[Unit], list[UnitFailure]]:
    """Units to run, and one failure for each model whose fit a gate's findings refuse."""
    refused = refused_fits(findings, [unit.model for unit in units])
    first = {label: next(unit for unit in units if unit.model.label == label) for label in refused}
    whole = {label: replace(unit, fold=replace(unit.fold, name="all folds")) for label, unit in first.items()}
    failures = [UnitFailure(whole[label], "refused", reason) for label, reason in refused.items()]
    return [unit for unit in units if unit.model.label not in refused], failures


_pools: dict[tuple[str, int], WorkerPool] = {}
_pools_lock = threading.Lock()


def pool_of(settings: Settings) -> WorkerPool:
    """The process's worker pool for a home; kept between nights, so that libraries are imported once."""
    key = (str(settings.cache), settings.processes)
    with _pools_lock:
        if key not in _pools:
            _pools[key] = WorkerPool(settings.cache, settings.processes)
        return _pools[key]


def libraries(night: Night) -> tuple[str, ...]:
    """Import names of what the recipe's models need."""
    catalog = night.workload.catalog
    return tuple(dict.fromkeys(name for choice in night.recipe.models for name in catalog[choice.name].packages))


def workers_import_ahead(night: Night) -> None:
    """Let the worker processes import the models' libraries while the gates judge."""
    pool_of(night.settings).import_ahead(libraries(night))


@contextmanager
def importing_ahead(night: Night) -> Iterator[None]:
    """Import here what comes after the block (the bundle's models, pictures) while the workers fit in it."""
    names = (*libraries(night), "matplotlib.figure")
    thread = threading.Thread(target=import_packages, args=[names], daemon=True)
    if night.settings.processes:
        thread.start()
    try:
        yield
    finally:
        if night.settings.processes:
            thread.join()


def close_pools() -> None:
    """Stop all worker processes."""
    with _pools_lock:
        for pool in _pools.values():
            pool.close()
        _pools.clear()


@task(name="fit", task_run_name="{unit.title}", cache_policy=NO_CACHE)
def fit(unit: Unit, settings: Settings, deadline: float | None) -> UnitResult | UnitFailure:
    """Run one unit in a worker process under its ceilings."""
    if deadline is not None and time.time() > deadline and find_unit(unit, settings.cache) is None:
        return UnitFailure(unit, "deadline", "the night's deadline passed before it began")
    return pool_of(settings).run(unit)


def keep_traceback(night: Night, error: BaseException, name: str = "training-error.txt") -> Path:
    """Write down what training, or something else, died of; returns the file."""
    path = night.path / name
    write_text(path, "".join(traceback.format_exception(error)))
    return path


def keep_finals(night: Night, out: Outcome) -> None:
    """Keep the final fits' own forecasts, in case nothing can be made of them."""
    if out.final_models():
        out.final().write_parquet(night.path / "finals.parquet")


@task(name="combine and calibrate", cache_policy=NO_CACHE)
def combine(night: Night, out: Outcome) -> Evaluation:
    """Out-of-fold predictions to weights, calibration and the league table."""
    dataset = night.dataset()
    trials = ever_tried(night.workload, night.recipe, dataset, night.settings.home / "trials")
    evaluation = evaluate(night.workload, night.recipe, dataset, out, trials=trials)
    seconds = pl.DataFrame(
        {MODEL: list(out.seconds()), "seconds": list(out.seconds().values())},
        schema={MODEL: pl.String, "seconds": pl.Float64},
    )
    evaluation = replace(
        evaluation, league=evaluation.league.join(seconds, on=MODEL, how="left", maintain_order="left")
    )
    evaluation.save(night.path / "evaluation")
    return evaluation


@task(name="bundle", cache_policy=NO_CACHE)
def bundle(night: Night, evaluation: Evaluation, out: Outcome) -> str:
    """The final fits, weights and calibration as one checked folder."""
    folder = night.path / "bundle"
    shutil.rmtree(folder, ignore_errors=True)
    if not out.final_models():
        raise TrainingError(
            "no final fit finished: " + "; ".join(f"{f.unit.title}: {f.reason}" for f in out.failures[:3]),
            expected="at least the naive family to finish",
            remedy="see workers.log in the home's cache folder",
        )
    facts = {"night_id": night.night_id, "snapshot": night.snapshot, "as_of": night.as_of, **provenance()}
    make_bundle(folder, night.workload, night.recipe, evaluation, night.dataset(), out, facts)
    return str(folder)


def champion_rows(tracking: Tracking, champion: Version) -> pl.DataFrame:
    """The champion's own out-of-fold rows, as its night judged them."""
    path = tracking.bundle(champion).parent / "evidence" / "ensemble.parquet"
    return pl.read_parquet(path)


def needs_replay(night: Night, champion: Version, rows: pl.DataFrame, ours: pl.DataFrame) -> bool:
    """Whether the champion's recipe must be walked forward tonight, for want of common origins."""
    if champion.recipe_hash == night.recipe_hash:
        return False
    shared = set(rows.get_column("cutoff")) & set(ours.get_column("cutoff"))
    return len(shared) < 4


@task(name="replay champion", cache_policy=NO_CACHE)
def replay_champion(night: Night, tracking: Tracking, champion: Version) -> pl.DataFrame:
    """Walk the champion's recipe forward on tonight's data; its members' finished units are found in the cache."""
    workload = night.workload
    recipe = Bundle.load(tracking.bundle(champion)).recipe
    dataset = workload.prepare(night.raw(), night.verdict("raw"), recipe)
    folder = night.path / "champion-dataset"
    dataset.save(folder)
    folds = workload.folds(dataset, night.recipe.folds)
    units = plan_units(workload, recipe, folds, dataset, folder, keep_final=False)
    asked = workload.gates.features(dataset, recipe).findings
    out = walk_forward(apart_from_refused(units, asked)[0], pool_of(night.settings))
    return evaluate(workload, recipe, dataset, out).ensemble


@task(name="champion gate", cache_policy=NO_CACHE)
def champion_gate(
    night: Night, evaluation: Evaluation, champion: pl.DataFrame | None, champion_recipe: str | None
) -> Decision:
    """Challenger against champion."""
    decision = decide(night.workload, night.recipe, evaluation, champion, champion_recipe)
    write_text(night.path / "decision.json", json.dumps(decision.to_json(), indent=1))
    return decision


@task(name="forecast", cache_policy=NO_CACHE)
def forecast_all(night: Night, folder: str | None, reason: str | None, label: str, only: str | None = None) -> Served:
    """Forecast every promised series from a bundle, by the fallback chain, and judge the result."""
    workload, raw = night.workload, night.raw()
    dataset = None
    model = None
    if (night.path / "dataset" / "dataset.json").exists():
        dataset = night.dataset()
    if folder is not None and dataset is not None:
        try:
            model = Bundle.load(Path(folder))
            made = model.recipe
            same = (made.features, made.preparation) == (night.recipe.features, night.recipe.preparation)
            if not same and night.mode != "forecast":
                dataset = workload.prepare(raw, night.verdict("raw"), made)
        except NightcastError as error:
            reason = f"bundle refused: {error}"
    finals = night.path / "finals.parquet"
    served = serve(
        workload,
        raw,
        night.judged(),
        night.night_id,
        bundle=model,
        dataset=dataset,
        finals=pl.read_parquet(finals) if finals.exists() else None,
        label=label,
        only=only,
        reason=reason,
    )
    series, _ = workload.promised(raw)
    context = {
        "dataset": dataset,
        "promised": series,
        "horizon": raw.schema.horizon,
        "lower": raw.schema.lower,
        "schema": raw.schema,
        "history": history_of(raw, series),
    }
    verdict = workload.gates.forecasts(served.frame, context)
    night.write_verdict(verdict)
    if verdict.quarantined:
        served = replace_failed(workload, raw, served, verdict)
        again = workload.gates.forecasts(served.frame, context)
        replace(again, budget=1.0).raise_if_stopped()
    served.frame.write_parquet(night.path / "forecast.parquet")
    return served


def manifest(
    night: Night,
    served: Served,
    facts: dict[str, str],
    *,
    status: str,
    decision: Decision | None,
    failures: list[dict[str, str]],
) -> dict[str, Any]:
    """What stands in `manifest.json` beside what publishing adds itself."""
    raw, verdict = night.raw(), night.judged()
    _, retired = night.workload.promised(raw)
    return {
        **facts,
        "status": status,
        "horizon": raw.schema.horizon,
        "registered_model": registered_name(night.name),
        "counts": counts(served, raw, verdict, retired),
        "quarantine": {series: list(reasons) for series, reasons in verdict.quarantined.items()},
        "decision": decision.to_json() if decision else None,
        "failures": failures,
    }


def derived(night: Night, served: Served, oof: pl.DataFrame | None, progress: Progress) -> dict[str, pl.DataFrame]:
    """Tables that are published beside the rows (sums over groups, say); none if they cannot be made.

    What people wait for is the rows: a table that fails is told of, and holds nothing up.
    """
    if oof is None or oof.is_empty():
        return {}
    try:
        return dict(night.workload.derive(served.frame, oof, night.raw(), night.recipe.seed))
    except Exception as error:  # noqa: BLE001  # see above
        progress.say(f"nothing is published beside the rows: {type(error).__name__}: {error}")
        keep_traceback(night, error, "derive-error.txt")
        return {}


@task(name="publish", cache_policy=NO_CACHE, retries=3, retry_delay_seconds=5, retry_condition_fn=_transient)
def publish(
    night: Night,
    served: Served,
    manifest: dict[str, Any],
    lease: Lease,
    beside: Mapping[str, pl.DataFrame] | None = None,
) -> Publication:
    """Write the forecast, and the tables beside it, once and flip the pointer."""
    return publish_night(
        store_of(night.settings),
        workload=night.name,
        as_of=night.as_of_time,
        night_id=night.night_id,
        forecast=served.frame,
        manifest=manifest,
        extra={f"{name}.parquet": table_bytes(table) for name, table in (beside or {}).items()},
        lease=lease,
    )


def previous_forecast(night: Night) -> tuple[dict[str, Any], pl.DataFrame] | None:
    """Manifest and rows that are current before this night, if there are any and they are another night's."""
    store = store_of(night.settings)
    if not store.exists(f"forecasts/{night.name}/current.json"):
        return None
    facts, frame = read_current(store, night.name)
    return None if facts.get("night_id") == night.night_id else (facts, frame)


def before_of(
    night: Night, previous: tuple[dict[str, Any], pl.DataFrame] | None, tracking: Tracking | None
) -> Before | None:
    """The forecast before and what made it: wanted for the page alone, so fetched once the night is published."""
    if previous is None:
        return None
    facts, frame = previous
    number = facts.get("serving_version", "none")
    if tracking is None or number == "none":
        return Before(frame, None, "The forecast before was not made by a registered version.")
    try:
        return Before(frame, Bundle.load(tracking.bundle(tracking.numbered(night.name, number))))
    except Exception as error:  # noqa: BLE001  # MLflow's errors have no common base; the page says what is missing
        return Before(frame, None, f"Version {number}, which made the forecast before, cannot be read: {error}")


def morning_of(
    night: Night,
    served: Served,
    folder: str | None,
    evaluation: Evaluation | None,
    beside: Mapping[str, pl.DataFrame],
    before: Before | None,
) -> Morning:
    """What a night leaves behind, for the page."""
    prepared = (night.path / "dataset" / "dataset.json").exists()
    dataset = night.dataset() if prepared else None
    model = None
    if folder is not None and dataset is not None:
        try:
            model = Bundle.load(Path(folder))
            made, ours = model.recipe, night.recipe
            if night.mode != "forecast" and (made.features, made.preparation) != (ours.features, ours.preparation):
                dataset = night.workload.prepare(night.raw(), night.verdict("raw"), made)
        except NightcastError:  # each served row says why: fallbacks stand in for a bundle that is refused
            model = None
    return Morning(night.workload, night.raw(), night.judged(), dataset, evaluation, served, model, beside, before)


def chapters(night: Night, morning: Morning, progress: Progress) -> tuple[Chapter, ...]:
    """The workload's own sections of the page; one that fails says so in its place and takes no other with it."""
    made = []
    for tell in night.workload.chapters:
        try:
            chapter = tell(morning)
        except Exception as error:  # noqa: BLE001  # see above
            name = getattr(tell, "__name__", type(tell).__name__)
            path = keep_traceback(night, error, f"chapter-{name}-error.txt")
            progress.say(f"the page's chapter {name!r} failed: {type(error).__name__}: {error} (traceback: {path})")
            title = f"{name.replace('_', ' ').capitalize()}: could not be told"
            chapter = Chapter(name.replace("_", "-"), title, (f"{type(error).__name__}: {error}",))
        if chapter is not None:
            made.append(chapter)
    return tuple(made)


@task(name="register", cache_policy=NO_CACHE)
def register(
    night: Night,
    tracking: Tracking,
    run_id: str,
    folder: str,
    evaluation: Evaluation,
    out: Outcome,
) -> Version:
    """Log children, evidence and the bundle; make it a version with the alias `challenger`."""
    workload, raw = night.workload, night.raw()
    judged = judge(evaluation.members, night.dataset(), workload)
    for row in evaluation.league.iter_rows(named=True):
        log_child(tracking, night, run_id, row, judged, out)
    evidence = night.path / "evidence"
    evidence.mkdir(exist_ok=True)
    evaluation.ensemble.write_parquet(evidence / "ensemble.parquet")
    series, _ = workload.promised(raw)
    names = [name for name in series if name not in night.judged().quarantined][:EXAMPLE_SERIES]
    columns = [ID, TIME, *raw.schema.inputs]
    example = raw.frame.filter(pl.col(ID).is_in(names) & (pl.col(SERIES_ROLE) == ROLE_TARGET)).select(columns)
    keys = {ID: pl.String(), TIME: pl.Datetime("us"), CUTOFF: pl.Datetime("us"), HORIZON: pl.Int32()}
    values = {name: pl.Float64() for name in workload.prediction.value_columns()}
    output = workload.prediction.of(pl.DataFrame(schema={**keys, **values})).frame
    version = tracking.register(
        night.name,
        run_id,
        Path(folder),
        evidence=evidence,
        example=example,
        output=output,
        optional=raw.schema.optional,
        tags={
            "night_id": night.night_id,
            "recipe": night.recipe_hash,
            "as_of": night.as_of,
            "snapshot": night.snapshot,
            "git_commit": provenance()["git_commit"],
        },
    )
    tracking.set_challenger(version)
    return version


def bucket_means(values: pl.Series, most: int) -> list[float]:
    """At most `most` values: neighbours are averaged where there are more, so that a curve stays a curve."""
    size = max(1, -(-len(values) // most))
    frame = pl.DataFrame({"value": values.cast(pl.Float64), "bucket": pl.arange(len(values), eager=True) // size})
    return frame.group_by("bucket", maintain_order=True).agg(pl.col("value").mean()).get_column("value").to_list()


def log_child(
    tracking: Tracking, night: Night, parent: str, row: dict[str, Any], judged: pl.DataFrame, out: Outcome
) -> None:
    """One child run a model: its league metrics, and its metrics per fold as steps."""
    label = row[MODEL]
    with tracking.run(night.name, label, tags={"night_id": night.night_id, "model": label}, parent=parent) as child:
        choice = next((c for c in night.recipe.models if c.label == label), None)
        if choice is not None:
            tracking.log_params(child, {"model": choice.name, **choice.params})
        tracking.log_metrics(child, {k: v for k, v in row.items() if isinstance(v, int | float)})
        rows = judged.filter(pl.col(MODEL) == label).sort(CUTOFF)
        losses = rows.group_by(CUTOFF, maintain_order=True).agg(pl.col("loss").mean()).get_column("loss")
        tracking.log_steps(child, "origin_loss", bucket_means(losses, MOST_STEPS))
        its = [result for result in out.results if result.unit.model.label == label]
        tracking.log_metrics(child, {f"{result.unit.fold.name}.seconds": result.seconds for result in its})
