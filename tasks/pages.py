"""What people look at: the nightly page, Prefect artifacts, MLflow pictures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
from prefect.artifacts import create_link_artifact, create_markdown_artifact, create_table_artifact

from expectations.docs import verdict_table
from nightcast.contracts.decision import Decision
from nightcast.evaluation.walk_forward import Outcome
from nightcast.reports.night import NightReport, night_pictures, render_night
from nightcast.reports.views import Chapter
from tasks.night import Night, write_text
from tasks.orchestrator import running_services
from tasks.tracking import Tracking
from workloads.stages import Morning, history_of


def report_of(
    night: Night,
    *,
    out: Outcome | None,
    decision: Decision | None,
    status: str,
    provenance: dict[str, str],
    timings: dict[str, float],
    morning: Morning,
    chapters: tuple[Chapter, ...],
) -> NightReport:
    """Gather one night's page."""
    workload, raw, served, evaluation = night.workload, morning.raw, morning.served, morning.evaluation
    series, retired = workload.promised(raw)
    dataset_notes = () if morning.dataset is None else morning.dataset.notes
    failures = [] if out is None else [failure.to_json() for failure in out.failures]
    failures += [{"model": k, "fold": "forecast", "kind": "error", "reason": v} for k, v in served.failures.items()]
    empty = pl.DataFrame()
    documents: dict[str, str] = {}
    if evaluation is not None:
        folder = report_path(night).with_suffix("")
        made = workload.documents(evaluation, morning.dataset, folder)
        documents = {its.title: its.path.relative_to(folder.parent).as_posix() for its in made}
    return NightReport(
        workload=night.name,
        title=workload.title,
        unit=str(workload.facts.get("unit") or ""),
        as_of=night.as_of_time,
        night_id=night.night_id,
        horizon=raw.schema.horizon,
        freq_word=raw.schema.freq.word,
        status=status,
        forecast=served.frame,
        history=history_of(raw, series),
        league=empty if evaluation is None else evaluation.league,
        by_horizon=empty if evaluation is None else workload.scoring.by_horizon(evaluation.members),
        oof=empty if evaluation is None else evaluation.ensemble,
        weights={} if evaluation is None else evaluation.weights.get("weights", {}),
        verdicts=night.verdicts(),
        notes=raw.notes + dataset_notes,
        decision=decision,
        failures=tuple(failures),
        provenance=provenance,
        timings=timings,
        retired=retired,
        previous=None if morning.before is None else morning.before.frame,
        baselines=workload.baselines,
        promised=series,
        information=str(workload.facts.get("information", "")),
        documents=documents,
        verdict_table=empty if evaluation is None else evaluation.verdicts,
        chapters=chapters,
        **({} if workload.views is None else {"views": workload.views}),
    )


def write_page(night: Night, report: NightReport) -> Path:
    """Render the page into the home."""
    path = report_path(night)
    write_text(path, render_night(report))
    return path


def report_path(night: Night) -> Path:
    """Where a night's page lies."""
    stamp = night.as_of_time.strftime("%Y-%m-%d")
    return night.settings.reports / night.name / f"{stamp}-{night.night_id}.html"


def page_link(night: Night, page: Path, tracking: Tracking | None, run_id: str | None) -> str:
    """Where the night's page can be opened from Prefect's: browsers follow no link from there to a file.

    While `nightcast up` runs, the same page in MLflow; else the file.
    """
    services = running_services(night.settings)
    if services is None or tracking is None or run_id is None:
        return page.as_uri()
    experiment = tracking.experiment(night.name)
    return f"{services['mlflow_url']}/#/experiments/{experiment}/runs/{run_id}/artifacts/report/report.html"


def page_artifacts(night: Night, report: NightReport, page: Path, link: str) -> None:
    """Prefect artifacts of the night: summary, link to the page, league, quarantine."""
    key = f"nightcast-{night.name}".replace("_", "-")
    facts = {
        "as of": night.as_of[:10],
        "status": report.status,
        "series": report.forecast.get_column("unique_id").n_unique(),
        "by fallback": report.forecast.filter(pl.col("fallback_reason").is_not_null())["unique_id"].n_unique(),
        "decision": report.decision.reason if report.decision else "none",
        "night": night.night_id,
    }
    lines = [f"# {report.title}", "", *(f"- **{k}**: {v}" for k, v in facts.items()), "", f"Page: `{page}`"]
    create_markdown_artifact("\n".join(lines), key=f"{key}-night", description="The night in brief")
    create_link_artifact(link, key=f"{key}-page", link_text="Nightly page", description=str(page))
    if report.league.height:
        create_table_artifact(_rows(report.league), key=f"{key}-league", description="League table")
    findings = [row for v in report.verdicts for row in verdict_table(v) if row["severity"] != "warn"]
    create_table_artifact(findings, key=f"{key}-gates", description="Findings of the data gates")


def _rows(frame: pl.DataFrame) -> list[dict[str, Any]]:
    rounded = frame.with_columns(pl.selectors.float().round(4))
    return [{k: (None if v != v else v) for k, v in row.items()} for row in rounded.iter_rows(named=True)]


def page_to_tracking(tracking: Tracking, run_id: str, report: NightReport, page: Path) -> None:
    """The page, its pictures and the verdicts as MLflow artifacts."""
    tracking.log_bytes(run_id, {"report.html": page.read_bytes()}, "report")
    tracking.log_bytes(run_id, night_pictures(report), "plots")
    verdicts = [verdict.to_json() for verdict in report.verdicts]
    tracking.log_text(run_id, json.dumps(verdicts, indent=1), "report/verdicts.json")
