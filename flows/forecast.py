"""Between nights: the champion forecasts from the newest rows, without training."""

from __future__ import annotations

from datetime import date, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from prefect import flow
from pydantic import Field

from flows.nightly import Stopwatch, summary
from flows.parameters import PresetName, WorkloadName
from nightcast.contracts.errors import RegistryError
from nightcast.contracts.progress import Progress
from tasks import steps
from tasks.orchestrator import quiet_libraries
from tasks.pages import page_artifacts, report_of, write_page
from tasks.progress import PrefectArtifact, Several, screen
from tasks.provenance import provenance
from tasks.settings import get_settings
from tasks.tracking import CHAMPION, Tracking
from workloads.stages import CHAMPION as CHAMPION_SERVES


@flow(name="forecast", log_prints=False)
def forecast(
    workload: Annotated[WorkloadName, Field(description="A shipped workload")] = WorkloadName.wells,
    as_of: Annotated[date | datetime | None, Field(description="Last known time; empty: the data's own end")] = None,
    data: Annotated[str | None, Field(description="File, folder or glob to read instead of the declared one")] = None,
    workload_file: Annotated[str | None, Field(description="A workload file of your own, instead of a name")] = None,
    without_champion: Annotated[
        Literal["error", "fallback"], Field(description="What to do while no version has been promoted")
    ] = "error",
) -> dict[str, Any]:
    """Forecast with the champion and publish, if there is anything new.

    Raises
    ------
    NightcastError
        If there is no champion (unless the fallback is asked for), or the input or a gate stops the run.
    """
    return run_forecast(
        workload_file or workload.value,
        as_of=as_of.isoformat() if as_of else None,
        data=data,
        fallback=without_champion == "fallback",
    )


def run_forecast(
    spec: str, *, as_of: str | None, data: str | None, home: Path | None = None, fallback: bool = False
) -> dict[str, Any]:
    """One forecast inside a flow run; with `fallback`, that of the workload serves while there is no champion."""
    quiet_libraries()
    settings = get_settings(home)
    progress: Progress = Several((screen(), PrefectArtifact()))
    clock = Stopwatch(settings.deadline_seconds)
    tracking = Tracking(settings)
    progress.stage("read source")
    with clock("read"):
        night = steps.read_source(settings, spec, PresetName.nightly_cpu.value, "forecast", as_of, data)
    champion = tracking.alias(night.name, CHAMPION)
    if champion is None and not fallback:
        raise RegistryError(
            f"nightcast-{night.name} has no champion",
            expected="a promoted version in the registry",
            remedy=f"`nightcast run {spec}` trains and promotes one",
        )
    night = steps.named_by_champion(night, champion)
    reason = None if champion is not None else "no champion: no version has been promoted"
    found = steps.published(night)
    if found is not None:
        progress.say(f"nothing new since {found.folder}")
        return summary(night, found, status="already published")
    with steps.holding(night, progress) as lease:
        progress.stage("gates and features")
        with clock("raw gate"):
            steps.raw_gate(night)
        folder = None if champion is None else tracking.bundle(champion)
        if folder is not None:
            with clock("features"):
                steps.prepare_for_bundle(night, folder)
        progress.stage("forecast and publish")
        previous = steps.previous_forecast(night)
        with clock("forecast"):
            served = steps.forecast_all(night, str(folder) if folder else None, reason, CHAMPION_SERVES)
        status = "published by the champion" if reason is None else f"published by fallback: {reason}"
        if champion is not None and champion.forced:
            status += f", which was promoted against its gate: {champion.forced}"
        number = champion.number if champion else "none"
        facts = provenance() | {
            "registered_version": number,
            "serving_version": number,
            "champion_version": number,
            "champion_as_of": champion.as_of if champion else "",
            **({"champion_against_gate": champion.forced} if champion and champion.forced else {}),
            "mlflow_run": champion.run_id if champion else "none",
            "snapshot": night.snapshot,
            "recipe": night.recipe_hash,
            "source": night.raw().origin,
        }
        failures = [{"model": label, "fold": "forecast", "reason": why} for label, why in served.failures.items()]
        manifest = steps.manifest(night, served, facts, status=status, decision=None, failures=failures)
        with clock("derive"):
            oof = None if champion is None else steps.champion_rows(tracking, champion)
            beside = steps.derived(night, served, oof, progress)
        with clock("publish"):
            publication = steps.publish(night, served, manifest, lease, beside)
        progress.stage("report")
        before = steps.before_of(night, previous, tracking)
        morning = steps.morning_of(night, served, str(folder) if folder else None, None, beside, before)
        report = report_of(
            night,
            out=None,
            decision=None,
            status=status,
            provenance=facts,
            timings=clock.seconds,
            morning=morning,
            chapters=steps.chapters(night, morning, progress),
        )
        page = write_page(night, report)
        page_artifacts(night, report, page, page.as_uri())
    return summary(night, publication, status=status)
