"""The night, as a table of contents."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import date, datetime
from pathlib import Path
from typing import Annotated, Any

from prefect import flow
from prefect.futures import PrefectFuture, as_completed
from prefect.task_runners import ThreadPoolTaskRunner
from pydantic import Field

from flows.parameters import PresetName, WorkloadName
from nightcast.contracts.columns import MODEL
from nightcast.contracts.decision import Decision
from nightcast.contracts.progress import Progress
from nightcast.evaluation.units import UnitFailure
from nightcast.evaluation.walk_forward import Outcome, describe, outcome
from nightcast.publishing import Lease, Publication
from tasks import steps
from tasks.housekeeping import prune
from tasks.night import Mode, Night
from tasks.orchestrator import quiet_libraries
from tasks.pages import page_artifacts, page_link, page_to_tracking, report_of, report_path, write_page
from tasks.progress import PrefectArtifact, Several, screen
from tasks.provenance import provenance
from tasks.settings import Settings, get_settings
from tasks.tracking import CHAMPION, Tracking, Version
from workloads.stages import CHAMPION as CHAMPION_SERVES
from workloads.stages import ENSEMBLE, Evaluation


@flow(name="nightly", log_prints=False, validate_parameters=True)
def nightly(
    workload: Annotated[WorkloadName, Field(description="A shipped workload")] = WorkloadName.wells,
    preset: Annotated[PresetName, Field(description="How much work the night may be")] = PresetName.nightly_cpu,
    as_of: Annotated[date | datetime | None, Field(description="Last known time; empty: the data's own end")] = None,
    data: Annotated[str | None, Field(description="File, folder or glob to read instead of the declared one")] = None,
    workload_file: Annotated[str | None, Field(description="A workload file of your own, instead of a name")] = None,
) -> dict[str, Any]:
    """Retrain, compare, register, publish, report; returns where everything is.

    Raises
    ------
    NightcastError
        If the input or a gate stops the night; nothing is published then.
    """
    return run_night(
        workload_file or workload.value,
        preset=preset.value,
        as_of=as_of.isoformat() if as_of else None,
        data=data,
        mode="nightly",
    )


def run_night(
    spec: str,
    *,
    preset: Any,
    as_of: str | None,
    data: str | None,
    mode: Mode,
    home: Path | None = None,
) -> dict[str, Any]:
    """One night inside a flow run; `backfill` calls it once a date."""
    quiet_libraries()
    settings = get_settings(home)
    progress: Progress = Several((screen(), PrefectArtifact()))
    clock = Stopwatch(settings.deadline_seconds)
    progress.stage("read source")
    with clock("read"):
        night = steps.read_source(settings, spec, preset, mode, as_of, data)
    found = steps.published(night)
    if found is not None:
        progress.say(f"night {night.night_id} was already published as {found.folder}")
        return summary(night, found, status="already published")
    steps.workers_import_ahead(night)
    with steps.holding(night, progress) as lease:
        return _work(night, lease, progress, clock)


def _work(night: Night, lease: Lease, progress: Progress, clock: Stopwatch) -> dict[str, Any]:
    settings, workload = night.settings, night.workload
    progress.stage("gates and features")
    with clock("raw gate"):
        quarantine = steps.raw_gate(night)
    for series, reasons in quarantine.items():
        progress.say(f"quarantined {series}: {', '.join(reasons)}")
    with clock("features"):
        steps.prepare(night)
    with clock("feature gate"):
        steps.feature_gate(night)
    units, refused = steps.plan(night)

    champion = None
    with _parent_run(night, progress) as (tracking, run_id):
        if tracking is not None and night.mode == "nightly":
            champion = tracking.alias(night.name, CHAMPION)
        trained = Trained()
        try:
            with clock("models x folds"), steps.importing_ahead(night):
                trained.out = fit_all(units, settings, progress, clock.deadline, refused)
            steps.keep_finals(night, trained.out)
            progress.stage("combine, calibrate, compare")
            with clock("combine"):
                trained.evaluation = steps.combine(night, trained.out)
                trained.folder = steps.bundle(night, trained.evaluation, trained.out)
            with clock("champion gate"):
                trained.decision = compare_with_champion(night, trained.evaluation, champion, tracking, progress)
        except Exception as error:  # noqa: BLE001  # whatever training died of, the morning gets its forecast
            trained.reason = f"training failed: {type(error).__name__}: {error}"
            progress.say(f"{trained.reason} (traceback: {steps.keep_traceback(night, error)})")

        progress.stage("register")
        with clock("register"):
            version, serving, folder = choose(night, trained, champion, tracking, run_id, progress)
        progress.stage("forecast and publish")
        previous = steps.previous_forecast(night)
        with clock("forecast"):
            label = ENSEMBLE if folder == trained.folder else CHAMPION_SERVES
            served = steps.forecast_all(night, folder, trained.reason or trained.refusal, label, trained.baseline)
        owed, _ = workload.promised(night.raw())
        status = "published"
        if served.fallbacks:
            status = f"published, {len(served.fallbacks)} of {len(owed)} series by fallback"
        if trained.refusal is not None:
            status = f"published by {trained.baseline}: no model passed the gate"
        if trained.reason is not None:
            status = f"published without tonight's training ({trained.reason})"
        facts = provenance() | {
            "registered_version": version.number if version else "none",
            "serving_version": serving.number if serving else "none",
            "champion_version": serving.number if serving and trained.refusal is None else "none",
            "champion_as_of": serving.as_of if serving and trained.refusal is None else "",
            **({"champion_against_gate": serving.forced} if serving and serving.forced else {}),
            "mlflow_run": run_id or "none",
            "snapshot": night.snapshot,
            "recipe": night.recipe_hash,
            "preset": night.preset,
            "source": night.raw().origin,
        }
        failures = [failure.to_json() for failure in trained.out.failures] if trained.out else []
        manifest = steps.manifest(night, served, facts, status=status, decision=trained.decision, failures=failures)
        with clock("derive"):
            oof = None if trained.evaluation is None else trained.evaluation.ensemble
            beside = steps.derived(night, served, oof, progress)
        with clock("publish"):
            publication = steps.publish(night, served, manifest, lease, beside)
        progress.stage("report")
        report_failed = None
        try:
            with clock("report"):
                before = steps.before_of(night, previous, tracking)
                morning = steps.morning_of(night, served, folder, trained.evaluation, beside, before)
                report = report_of(
                    night,
                    out=trained.out,
                    decision=trained.decision,
                    status=status,
                    provenance=facts,
                    timings=clock.seconds,
                    morning=morning,
                    chapters=steps.chapters(night, morning, progress),
                )
                page = write_page(night, report)
                page_artifacts(night, report, page, page_link(night, page, tracking, run_id))
                if tracking is not None and run_id is not None:
                    page_to_tracking(tracking, run_id, report, page)
                    seconds = {f"seconds.{k}".replace(" ", "_"): v for k, v in clock.seconds.items()}
                    tracking.log_metrics(run_id, seconds)
        except Exception as error:  # noqa: BLE001  # the forecast is out; the command says so and exits with 1
            report_failed = f"{type(error).__name__}: {error}"
            progress.say(f"report failed: {report_failed}")
    try:
        removed = prune(settings, current=night.path)
        if removed:
            progress.say(f"removed {removed} working folders and cached fits older than {settings.keep_days:g} days")
    except OSError as error:  # the forecast is out; a folder that cannot be removed is only worth a line
        progress.say(f"old working files could not be removed: {error}")
    answer = summary(night, publication, status=status)
    answer["training_failed"] = trained.reason
    answer["report_failed"] = report_failed
    answer["decision"] = trained.decision.reason if trained.decision else None
    return answer


class Trained:
    """What training left behind, as far as it came."""

    def __init__(self) -> None:
        self.out: Outcome | None = None
        self.evaluation: Evaluation | None = None
        self.folder: str | None = None
        self.decision: Decision | None = None
        self.reason: str | None = None

    @property
    def refusal(self) -> str | None:
        """Why no model may serve, if the gate found none good enough and no champion is there."""
        if self.decision is None or self.decision.kind != "none":
            return None
        failed = ", ".join(guard.name for guard in self.decision.guards if not guard.passed)
        return f"no model passed the gate ({failed or self.decision.reason})"

    @property
    def baseline(self) -> str | None:
        """The best baseline, which serves alone then."""
        if self.refusal is None or self.evaluation is None:
            return None
        return str(self.evaluation.naive.get_column(MODEL)[0])


class Stopwatch:
    """Seconds per stage, and the night's deadline."""

    def __init__(self, deadline_seconds: float | None) -> None:
        self.seconds: dict[str, float] = {}
        self.deadline = None if deadline_seconds is None else time.time() + deadline_seconds

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Time a block."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - started


@contextmanager
def _parent_run(night: Night, progress: Progress) -> Iterator[tuple[Tracking | None, str | None]]:
    """The night's MLflow run; attempts that were killed are closed first.

    If MLflow cannot be reached the night goes on without it and says so: a missing entry in the registry hurts less
    than a missing forecast.
    """
    with ExitStack() as stack:
        tracking, run_id = None, None
        try:
            tracking = Tracking(night.settings)
            tracking.close_dead_runs(night.name, night.night_id)
            tags = {"night_id": night.night_id, "as_of": night.as_of, "snapshot": night.snapshot, "mode": night.mode}
            run_id = stack.enter_context(tracking.run(night.name, f"night {night.as_of[:10]}", tags=tags))
            _describe_run(tracking, run_id, night)
        except Exception as error:  # noqa: BLE001  # MLflow's and its database's errors have no common base
            progress.say(f"MLflow cannot be reached, the night goes on without it: {type(error).__name__}: {error}")
            tracking, run_id = None, None
        yield tracking, run_id


def _describe_run(tracking: Tracking, run_id: str, night: Night) -> None:
    recipe, raw = night.recipe, night.raw()
    params = {
        "workload": night.name,
        "preset": night.preset,
        "recipe": night.recipe_hash,
        "snapshot": night.snapshot,
        "models": ", ".join(choice.label for choice in recipe.models),
        "cutoffs": recipe.folds.cutoffs,
        "refits": recipe.folds.refits,
        **{k: v for k, v in provenance().items() if k != "platform"},
    }
    tracking.log_params(run_id, params)
    tracking.log_text(run_id, json.dumps(recipe.model_dump(mode="json"), indent=1), "recipe.json")
    tracking.log_dataset(run_id, raw.frame, name=night.name, digest=night.snapshot, origin=raw.origin)


def fit_all(
    units: list[Any], settings: Settings, progress: Progress, deadline: float | None, refused: Sequence[UnitFailure]
) -> Outcome:
    """One task run a unit, as many at a time as there are worker processes; refused models are told of as failures."""
    progress.stage("models x folds", len(units))
    runner: ThreadPoolTaskRunner[Any] = ThreadPoolTaskRunner(max_workers=max(1, settings.processes))
    answers = []
    with runner:
        futures = [runner.submit(steps.fit, {"unit": u, "settings": settings, "deadline": deadline}) for u in units]
        for future in as_completed(list[PrefectFuture[Any]](futures)):
            answer = future.result()
            progress.step(describe(answer))
            answers.append(answer)
    done = outcome([*answers, *refused])
    for failure in done.failures:
        progress.say(describe(failure))
    return done


def compare_with_champion(
    night: Night, evaluation: Evaluation, champion: Version | None, tracking: Tracking | None, progress: Progress
) -> Decision:
    """The promotion gate; without enough common origins the champion's recipe is walked forward tonight."""
    if champion is None or tracking is None:
        return steps.champion_gate(night, evaluation, None, None)
    rows = steps.champion_rows(tracking, champion)
    if steps.needs_replay(night, champion, rows, evaluation.ensemble):
        progress.say("too few common origins: the champion's recipe is walked forward on tonight's data")
        rows = steps.replay_champion(night, tracking, champion)
    return steps.champion_gate(night, evaluation, rows, champion.recipe_hash)


def choose(
    night: Night,
    trained: Trained,
    champion: Version | None,
    tracking: Tracking | None,
    run_id: str | None,
    progress: Progress,
) -> tuple[Version | None, Version | None, str | None]:
    """Register the challenger, promote it if the gate says so; returns (registered, serving, serving bundle)."""
    if night.mode == "backfill" or tracking is None or run_id is None:
        return None, None, trained.folder
    version = None
    try:
        if trained.folder is not None and trained.evaluation is not None and trained.out is not None:
            version = steps.register(night, tracking, run_id, trained.folder, trained.evaluation, trained.out)
            version = tracking.record_gate(version, trained.decision)
            if trained.decision is not None and trained.decision.promote:
                tracking.promote(night.name, version.number)
                return version, version, trained.folder
        if champion is not None:
            return version, champion, str(tracking.bundle(champion))
    except Exception as error:  # noqa: BLE001  # a registry that fails must not keep the forecast from its readers
        progress.say(f"the registry failed, publishing goes on: {type(error).__name__}: {error}")
    return version, version, trained.folder


def summary(night: Night, publication: Publication, *, status: str) -> dict[str, Any]:
    """Where a night's results are."""
    store = steps.store_of(night.settings)
    page = report_path(night)
    manifest = publication.manifest
    return {
        "workload": night.name,
        "as_of": night.as_of,
        "night_id": night.night_id,
        "status": status,
        "forecast": store.uri(f"{publication.folder}/forecast.parquet"),
        "manifest": store.uri(f"{publication.folder}/manifest.json"),
        "report": str(page) if page.exists() else None,
        "registered_model": manifest.get("registered_model"),
        "registered_version": manifest.get("registered_version"),
        "serving_version": manifest.get("serving_version"),
        "tracking_uri": night.settings.tracking_uri,
        "series": manifest.get("series"),
        "counts": manifest.get("counts"),
    }
