"""The command line. Nothing heavy is imported until a command needs it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from nightcast import __version__
from nightcast.contracts.errors import EXIT_CODES, ConfigError, NightcastError
from nightcast.contracts.recipe import PRESETS

_EPILOG = "Exit codes: " + "; ".join(f"{code} {meaning}" for code, meaning in EXIT_CODES.items())

app = typer.Typer(
    name="nightcast",
    help="Production forecasting that retrains every night and never leaves its users without a forecast.",
    epilog=_EPILOG,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
data_app = typer.Typer(help="Data sheets of the shipped sources, and their download.", no_args_is_help=True)
app.add_typer(data_app, name="data")
labels_app = typer.Typer(help="Triple-barrier labels of bars.", no_args_is_help=True)
app.add_typer(labels_app, name="labels")

WorkloadArg = Annotated[str, typer.Argument(help="A shipped workload (`nightcast data list`) or a .yaml file.")]
AsOf = Annotated[str | None, typer.Option("--as-of", help="Last known time, 2024-12-01; no later row is read.")]
Data = Annotated[Path | None, typer.Option("--data", help="File, folder or glob to read instead of the declared one.")]
PresetOption = Annotated[str, typer.Option("--preset", help=f"How much work: {', '.join(PRESETS)}.")]
Home = Annotated[
    Path | None, typer.Option("--home", help="Folder for everything kept. [env NIGHTCAST_HOME; ./nightcast-home]")
]
Json = Annotated[bool, typer.Option("--json", help="The result as JSON on stdout, progress as JSON lines on stderr.")]


class State:
    """What the outermost call must know when an error passes by."""

    json = False


@contextlib.contextmanager
def _session(home: Path | None, as_json: bool, *, prefect: bool = False, bars: bool = True) -> Iterator[Any]:
    """Settings and progress for one command."""
    State.json = as_json
    if home is not None:
        os.environ["NIGHTCAST_HOME"] = str(home)
    from tasks import progress
    from tasks.settings import get_settings

    settings = get_settings(home)
    listener: Any
    if as_json:
        listener = progress.JsonLines()
    elif bars and sys.stderr.isatty():
        listener = progress.Bars()
    else:
        listener = progress.Plain()
    try:
        with contextlib.ExitStack() as stack:
            stack.enter_context(progress.on_screen(listener))
            if prefect:
                from tasks.orchestrator import prefect_session

                listener.stage("start")
                stack.enter_context(prefect_session(settings))
            yield settings
    finally:
        if isinstance(listener, progress.Bars):
            listener.close()
        if prefect:
            from tasks.steps import close_pools

            close_pools()


def _show(answer: Any, text: str) -> None:
    """The result: for people, or as JSON."""
    typer.echo(json.dumps(answer, indent=1, default=str) if State.json else text)


def _preset(name: str) -> str:
    if name not in PRESETS:
        raise ConfigError(
            f"unknown preset {name!r}", expected=f"one of {', '.join(PRESETS)}", remedy="correct --preset"
        )
    return name


def _night_lines(answer: dict[str, Any]) -> str:
    counts = answer.get("counts") or {}
    model = answer.get("registered_model")
    version = answer.get("registered_version")
    lines = [
        f"{answer['workload']} as of {answer['as_of'][:10]}: {answer['status']}",
        f"  forecast   {answer['forecast']}",
        f"  manifest   {answer['manifest']}",
        f"  report     {answer['report'] or 'none'}",
        f"  model      {model} version {version} (serving: version {answer.get('serving_version')})",
        f"  registry   {answer['tracking_uri']}",
        f"  series     {counts.get('series_promised')} promised, {counts.get('series_by_fallback')} by fallback, "
        f"{counts.get('series_quarantined')} in quarantine, {counts.get('series_retired')} retired",
    ]
    if answer.get("decision"):
        lines.append(f"  decision   {answer['decision']}")
    return "\n".join(lines)


def _finish(answer: dict[str, Any]) -> None:
    _show(answer, _night_lines(answer))
    if answer.get("training_failed"):
        typer.secho(f"error: {answer['training_failed']}; the forecast is a fallback", err=True, fg="red")
        raise typer.Exit(6)
    if answer.get("report_failed"):
        typer.secho(f"error: the forecast is published, its page is not: {answer['report_failed']}", err=True, fg="red")
        raise typer.Exit(1)


def _spec(workload: str) -> str:
    """Names stay, files become absolute, and a wrong one fails before anything starts."""
    from workloads.catalog import WORKLOADS, workload_path

    return workload if workload in WORKLOADS else str(workload_path(workload).resolve())


def _absolute(path: Path | None) -> str | None:
    return None if path is None else str(path if any(c in str(path) for c in "*?[") else path.expanduser().resolve())


@app.command()
def run(
    workload: WorkloadArg,
    as_of: AsOf = None,
    data: Data = None,
    preset: PresetOption = "nightly_cpu",
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Run one night: gates, features, models x folds, ensemble, champion gate, registry, publish, report."""
    _preset(preset)
    with _session(home, as_json, prefect=True) as settings:
        from flows.nightly import nightly
        from flows.parameters import PresetName, WorkloadName
        from tasks.night import load_workload, parse_as_of
        from workloads.catalog import WORKLOADS

        spec = _spec(workload)
        load_workload(spec)
        when = parse_as_of(as_of)
        named = {"workload": WorkloadName(spec)} if spec in WORKLOADS else {"workload_file": spec}
        _started(settings)
        answer: Any = nightly(**named, preset=PresetName(preset), as_of=when, data=_absolute(data))
    _finish(answer)


def _started(settings: Any) -> None:
    from tasks.progress import screen

    screen().say(f"home {settings.root}")


@app.command()
def forecast(
    workload: WorkloadArg, as_of: AsOf = None, data: Data = None, home: Home = None, as_json: Json = False
) -> None:
    """Forecast with the champion, without training, and publish if anything is new."""
    with _session(home, as_json, prefect=True):
        from flows.forecast import forecast as flow
        from flows.parameters import WorkloadName
        from tasks.night import parse_as_of
        from workloads.catalog import WORKLOADS

        spec = _spec(workload)
        named = {"workload": WorkloadName(spec)} if spec in WORKLOADS else {"workload_file": spec}
        answer: Any = flow(**named, as_of=parse_as_of(as_of), data=_absolute(data))
    _finish(answer)


@app.command()
def backfill(
    workload: WorkloadArg,
    first: Annotated[str, typer.Option("--from", help="First as-of date.")],
    last: Annotated[str, typer.Option("--to", help="Last as-of date.")],
    every: Annotated[str, typer.Option("--every", help="Calendar step: MS, D, W-MON, 3MS, ...")] = "MS",
    data: Data = None,
    preset: PresetOption = "nightly_cpu",
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Publish what past nights would have said; each date reads no later row, the registry is left alone."""
    _preset(preset)
    with _session(home, as_json, prefect=True) as settings:
        from flows.backfill import backfill as flow
        from flows.backfill import dates_between
        from tasks.night import load_workload, parse_as_of

        spec = _spec(workload)
        load_workload(spec)
        begin, end = parse_as_of(first), parse_as_of(last)
        if begin is None or end is None:
            raise ConfigError(
                "an empty as-of date", expected="--from and --to as dates", remedy="give both, 2024-01-01"
            )
        dates = dates_between(begin, end, every)
        answers = flow(spec, dates, preset=preset, data=_absolute(data), home=str(settings.root))
    _show(answers, "\n".join(_night_lines(answer) for answer in answers))


@app.command()
def promote(
    workload: WorkloadArg,
    version: Annotated[str | None, typer.Option("--version", help="Version to promote; default: challenger.")] = None,
    force: Annotated[
        str | None, typer.Option("--force", metavar="REASON", help="Promote against the gate; the reason is recorded.")
    ] = None,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Make the challenger (or a version) the champion; one that its gate refused only with --force and a reason."""
    with _session(home, as_json) as settings:
        from tasks.night import load_workload
        from tasks.tracking import Tracking

        target = Tracking(settings).promote(load_workload(_spec(workload)).name, version, force=force)
    against = f", against its gate, which was {target.gate}" if target.forced else ""
    _show(
        {"model": target.name, "champion": target.number, "as_of": target.as_of, "against_gate": target.forced},
        f"{target.name}: version {target.number} (as of {target.as_of[:10]}) is the champion now{against}",
    )


@app.command()
def rollback(workload: WorkloadArg, home: Home = None, as_json: Json = False) -> None:
    """Make the previous champion the champion again."""
    with _session(home, as_json) as settings:
        from tasks.night import load_workload
        from tasks.tracking import Tracking

        target = Tracking(settings).rollback(load_workload(_spec(workload)).name)
    _show(
        {"model": target.name, "champion": target.number, "as_of": target.as_of},
        f"{target.name}: back to version {target.number} (as of {target.as_of[:10]})",
    )


@app.command()
def models(
    workload: Annotated[str | None, typer.Argument(help="List this workload's registered versions instead.")] = None,
    kind: Annotated[str | None, typer.Option("--kind", help="Only models of panel, or of bars.")] = None,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """List the model catalog, or a workload's registered versions."""
    with _session(home, as_json) as settings:
        if kind is not None and workload is not None:
            raise ConfigError(
                f"--kind {kind} with the workload {workload!r}",
                expected="the catalog's models of a kind, or a workload's versions",
                remedy="leave one of the two out",
            )
        if workload is None:
            from models.catalog import CATALOGS, cost_of

            if kind is not None and kind not in CATALOGS:
                raise ConfigError(
                    f"unknown kind {kind!r}", expected=f"one of {', '.join(CATALOGS)}", remedy="correct --kind"
                )
            rows = [
                {
                    "name": entry.name,
                    "for": entry_kind,
                    "family": entry.family,
                    "baseline": entry.capabilities.baseline,
                    "needs": entry.needs,
                    "packages": list(entry.packages),
                    "presets": sorted(entry.presets),
                    "cost": cost_of(entry.name),
                    "summary": entry.summary,
                }
                for entry_kind, catalog in CATALOGS.items()
                if kind is None or entry_kind == kind
                for entry in catalog.values()
            ]
        else:
            from tasks.night import load_workload
            from tasks.tracking import CHALLENGER, CHAMPION, Tracking

            tracking = Tracking(settings)
            name = load_workload(_spec(workload)).name
            aliases = {
                alias: found.number for alias in (CHAMPION, CHALLENGER) if (found := tracking.alias(name, alias))
            }
            rows = [
                {
                    "version": version.number,
                    "alias": ", ".join(alias for alias, number in aliases.items() if number == version.number),
                    "as_of": version.as_of[:10],
                    "gate": version.gate + (f"; promoted by hand: {version.forced}" if version.forced else ""),
                    "night": version.night_id,
                    "recipe": version.recipe_hash,
                    "run": version.run_id,
                }
                for version in tracking.versions(name)
            ]
    _table(rows, empty="nothing is registered yet; `nightcast run` registers the first version")


def _table(rows: list[dict[str, Any]], *, empty: str) -> None:
    if State.json:
        typer.echo(json.dumps(rows, indent=1))
        return
    if not rows:
        typer.echo(empty)
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in rows[0]:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*(", ".join(v) if isinstance(v, list) else str(v) for v in row.values()))
    Console(width=None if sys.stdout.isatty() else 200).print(table)


@app.command()
def validate(
    workload: WorkloadArg,
    as_of: AsOf = None,
    data: Data = None,
    docs: Annotated[
        Path | None, typer.Option("--docs", help="Also write GX Data Docs here (they load styles from the web).")
    ] = None,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Read the data and ask the raw gate, without training; shows every finding."""
    with _session(home, as_json, bars=False):
        from tasks.night import clock, load_workload, parse_as_of

        value = load_workload(_spec(workload))
        raw = value.source.read(
            as_of=parse_as_of(as_of), data=Path(path) if (path := _absolute(data)) else None, now=clock()
        )
        verdict = value.gates.raw(raw)
        if docs is not None:
            typer.echo(f"Data Docs: {value.gates.docs(raw, docs)}", err=True)
    if State.json:
        notes = [vars(note) for note in raw.notes]
        typer.echo(json.dumps({"as_of": raw.as_of.isoformat(), **verdict.to_json(), "notes": notes}, indent=1))
    else:
        typer.echo(
            f"{value.name} as of {raw.as_of:%Y-%m-%d}: {verdict.series} series, {raw.frame.height} rows, {raw.origin}"
        )
        for note in raw.notes:
            typer.echo(f"  treated    {note.detail}")
        _table(
            [
                {
                    "severity": finding.severity,
                    "series": finding.series or "(table)",
                    "reason": finding.reason,
                    "rows": finding.rows,
                    "detail": finding.detail,
                }
                for finding in sorted(verdict.findings, key=lambda f: (f.severity, f.reason, f.series or ""))
            ],
            empty="  no findings",
        )
    verdict.raise_if_stopped()


@app.command()
def report(
    workload: WorkloadArg,
    browse: Annotated[bool, typer.Option("--open", help="Open it in the browser.")] = False,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Tell where the newest nightly page is."""
    with _session(home, as_json) as settings:
        from nightcast.contracts.errors import SourceError
        from tasks.night import load_workload

        name = load_workload(_spec(workload)).name
        pages = sorted((settings.reports / name).glob("*.html"), key=lambda p: (p.name[:10], p.stat().st_mtime))
        if not pages:
            raise SourceError(
                f"no nightly page of {name!r} in {settings.reports}",
                expected="at least one finished night",
                remedy=f"`nightcast run {workload}` makes one; --home names another home",
            )
    _show({"report": str(pages[-1])}, str(pages[-1]))
    if browse:
        typer.launch(pages[-1].as_uri())


Settings = Annotated[list[str] | None, typer.Option("--set", help="A hyperparameter, name=value; may repeat.")]


@app.command()
def train(
    model: Annotated[str, typer.Option("--model", help="A classifier (`nightcast models`).")],
    horizon: Annotated[int, typer.Option("--horizon", help="Bars ahead; one of the workload's horizons.")],
    workload: Annotated[str, typer.Option("--workload", help="A workload of kind bars, or its file.")] = "markets",
    data: Data = None,
    as_of: AsOf = None,
    preset: PresetOption = "nightly_cpu",
    feature_set: Annotated[str, typer.Option("--feature-set", help="Columns to read; default: the model's own.")] = "",
    settings: Settings = None,
    seed: Annotated[int, typer.Option("--seed", help="Of the fit.")] = 42,
    validation: Annotated[float, typer.Option("--validation", help="Newest share of the decisions to judge on.")] = 0.2,
    output: Annotated[Path, typer.Option("--to", help="Folder of run directories.")] = Path("experiments/runs"),
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Train one classifier for one horizon and leave a run directory with metrics, pictures and a tearsheet."""
    _preset(preset)
    if not 0 < validation < 0.9:
        raise ConfigError(
            f"validation share {validation:g}", expected="a share between 0 and 0.9", remedy="correct --validation"
        )
    with _session(home, as_json):
        from flows.factory_cli import parse_settings, run_lines, train_one
        from tasks.progress import screen

        answer = train_one(
            _spec(workload),
            model=model,
            horizon=horizon,
            preset=preset,
            data=_absolute(data),
            as_of=as_of,
            feature_set=feature_set,
            seed=seed,
            share=validation,
            output=output,
            settings=parse_settings(settings or []),
            progress=screen(),
        )
    _show(answer, run_lines(answer))


@app.command()
def compare(
    folder: Annotated[Path, typer.Argument(help="Folder of run directories.")] = Path("experiments/runs"),
    to: Annotated[Path | None, typer.Option("--to", help="File to write instead of the screen.")] = None,
) -> None:
    """Compare the newest run of every model and horizon: metrics, best, correlation of predictions, cost."""
    import polars as pl

    from nightcast.contracts.columns import MODEL
    from workloads.factory.comparison import comparison_report, prediction_correlation, read_runs

    runs = read_runs(folder)
    predictions = pl.concat(
        pl.read_parquet(folder / run / "predictions" / "val_predictions.parquet").with_columns(
            pl.lit(model).alias(MODEL)
        )
        for model, run in runs.select(MODEL, "run").iter_rows()
    )
    text = comparison_report(runs, prediction_correlation(predictions))
    if to is None:
        typer.echo(text)
    else:
        to.write_text(text, encoding="utf-8")
        typer.echo(str(to))


@app.command("recommend")
def recommend_model(
    rows: Annotated[int, typer.Option("--rows", help="Training decisions.")],
    features: Annotated[int, typer.Option("--features", help="Correlated input columns.")] = 0,
    context: Annotated[int, typer.Option("--context", help="Bars of context a decision should read.")] = 60,
    interpretable: Annotated[bool, typer.Option("--interpretable", help="People must see why.")] = False,
    sub_second: Annotated[bool, typer.Option("--sub-second", help="A decision within a second.")] = False,
    covariates: Annotated[bool, typer.Option("--covariates", help="Static or known covariates.")] = False,
    as_json: Json = False,
) -> None:
    """Say which classifier to try first, and why."""
    State.json = as_json
    from models.classifiers import CLASSIFIERS
    from models.guide import recommend

    found = recommend(
        CLASSIFIERS,
        rows=rows,
        features=features,
        context=context,
        interpretable=interpretable,
        sub_second=sub_second,
        covariates=covariates,
    )
    first = found.installed[0] if found.installed else "none of them is installed"
    lines = [
        f"try first: {first}",
        f"  because    {found.because}",
        f"  in order   {', '.join(name if name in found.installed else f'{name} (not here)' for name in found.models)}",
    ]
    _show(vars(found), "\n".join(lines))


@app.command()
def backtest(
    signals: Annotated[Path, typer.Argument(help="Parquet or CSV: unique_id, ds, signal and, if several, horizon.")],
    workload: Annotated[str, typer.Option("--workload", help="Whose bars and costs; kind bars.")] = "markets",
    horizon: Annotated[int | None, typer.Option("--horizon", help="Bars a signal is held.")] = None,
    data: Data = None,
    as_of: AsOf = None,
    policy: Annotated[
        str, typer.Option("--policy", help="tranches (overlapping) or single (one position).")
    ] = "tranches",
    costs: Annotated[float, typer.Option("--costs", help="Multiple of the declared costs: 0, 1, 2, ...")] = 1.0,
    to: Annotated[Path | None, typer.Option("--to", help="Folder for tearsheets.")] = None,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Backtest signals on a workload's bars: next bar's open, costs, flat at gaps and closes."""
    with _session(home, as_json, bars=False):
        from flows.factory_cli import backtest_signals

        rows = backtest_signals(
            _spec(workload),
            signals=signals,
            horizon=horizon,
            data=_absolute(data),
            as_of=as_of,
            policy=policy,
            cost_factor=costs,
            to=to,
        )
    names = ("horizon", "sharpe", "gross_sharpe", "annualized_return", "max_drawdown", "win_rate", "trades", "turnover")
    shown = [
        {n: "–" if row.get(n) is None else (f"{row[n]:.4g}" if isinstance(row[n], float) else row[n]) for n in names}
        | ({"tearsheet": row["tearsheet"]} if "tearsheet" in row else {})
        for row in rows
    ]
    _table(rows if as_json else shown, empty="no signal")


@app.command()
def scenario(
    workload: Annotated[str, typer.Argument(help="A workload of wells, or the path of a YAML file.")] = "wells",
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="WELL.COLUMN:+10% or WELL.COLUMN:VALUE (wwir, uptime, wbhp), such as I03.wwir:+10%; for some months "
            "@2025-03 or @2025-03..2025-05 after it; may be repeated.",
        ),
    ] = None,
    data: Data = None,
    as_of: AsOf = None,
    draws: Annotated[int, typer.Option("--draws", min=10, help="Draws behind the intervals.")] = 100,
    to: Annotated[Path, typer.Option("--to", help="Folder for scenario.parquet.")] = Path(),
    home: Home = None,
    as_json: Json = False,
) -> None:
    """What if: other injection, uptime or pressure ahead, by the physical block on the published forecast."""
    with _session(home, as_json, bars=False) as its:
        from flows.scenario_cli import play_scenario
        from tasks.steps import store_of

        where = _absolute(data)
        answer = play_scenario(
            _spec(workload), settings or [], data=where, as_of=as_of, draws=draws, to=to, store=store_of(its)
        )
    if as_json:
        _show(answer, "")
        return
    lines = [
        f"{answer['workload']} as of {answer['as_of']}: {', '.join(answer['changed'])} changed",
        f"  base       {answer['base_from']}",
        *(f"  note       {flag}" for flag in answer["flags"]),
        *([f"  beyond     {answer['extrapolated']} rows of wells are extrapolated"] if answer["extrapolated"] else []),
        f"  file       {answer['file']}",
    ]
    _show(answer, "\n".join(lines))
    _table(answer["field"], empty="no well")
    _table(answer["wells"], empty="no well changes")
    if answer["voidage"]:
        typer.echo("voidage replacement (injected over produced volume)")
        _table(answer["voidage"], empty="")


@labels_app.command("search")
def labels_search(
    workload: WorkloadArg,
    data: Data = None,
    as_of: AsOf = None,
    share: Annotated[float, typer.Option("--hold-out", help="Newest share of the bars the search never sees.")] = 0.3,
    seed: Annotated[int, typer.Option("--seed", help="Of the search.")] = 1,
    to: Annotated[Path | None, typer.Option("--to", help="JSON file for the best parameters and all trials.")] = None,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Find barrier parameters whose labels are balanced, tradeable and stable, on the older bars alone."""
    with _session(home, as_json, bars=False):
        from flows.factory_cli import search

        answer = search(_spec(workload), data=_absolute(data), as_of=as_of, share=share, seed=seed, to=to)
    best = ", ".join(f"{name}: {value}" for name, value in answer["best"].items())
    lines = [
        f"best of {len(answer['trials'])} trials on bars up to {answer['train_end'][:16]}",
        f"  labels     {{{best}}}",
        "  put it under `bars.labels` of the workload file",
    ]
    _show(answer, "\n".join([*lines, *([f"  written    {answer['file']}"] if "file" in answer else [])]))


@data_app.command("list")
def data_list(as_json: Json = False) -> None:
    """List the shipped sources."""
    State.json = as_json
    from nightcast.sources.sheets import SHEETS

    _table(
        [
            {"name": sheet.name, "title": sheet.title, "row": sheet.row, "licence": sheet.licence}
            for sheet in SHEETS.values()
        ],
        empty="none",
    )


@data_app.command("sheet")
def data_sheet(name: Annotated[str, typer.Argument(help="A shipped source.")], as_json: Json = False) -> None:
    """Print a source's data sheet: one row per what, units, time zone, known dirt, origin, licence."""
    State.json = as_json
    from nightcast.sources.sheets import get_sheet

    sheet = get_sheet(name)
    facts = sheet.to_json()
    lines = [sheet.title, ""]
    for key, value in facts.items():
        if key in ("name", "title") or not value:
            continue
        if isinstance(value, dict):
            value = ", ".join(f"{column}: {unit}" for column, unit in value.items())
        if isinstance(value, list | tuple):
            lines += [f"{key}:", *(f"  - {item}" for item in value)]
        else:
            lines.append(f"{key}: {value}")
    _show(facts, "\n".join(lines))


@data_app.command("fetch")
def data_fetch(
    name: Annotated[str, typer.Argument(help="A shipped source.")],
    folder: Annotated[Path, typer.Option("--to", help="Folder to download into.")] = Path("data"),
    as_json: Json = False,
) -> None:
    """Name a source's public origin and licence, and download it where the network allows."""
    State.json = as_json
    from nightcast.sources.fetch import fetch
    from nightcast.sources.sheets import get_sheet

    sheet = get_sheet(name)
    typer.echo(f"{sheet.title}\n  publisher  {sheet.publisher}\n  licence    {sheet.licence}", err=True)
    typer.echo(f"  origin     {sheet.url or sheet.home_page}", err=True)
    result = fetch(name, folder / name)
    _show({"path": str(result.path), "sha256": result.sha256}, f"{result.path} ({result.sha256[:16]})")


@app.command()
def up(
    home: Home = None,
    prefect_port: Annotated[int, typer.Option("--prefect-port", help="Port of the Prefect page.")] = 4200,
    mlflow_port: Annotated[int, typer.Option("--mlflow-port", help="Port of the MLflow page.")] = 5000,
) -> None:
    """Start Prefect, MLflow and a worker with the nightly schedule, all on loopback, until Ctrl-C."""
    with _session(home, False, bars=False) as settings:
        from flows.services import up as start

        start(settings.root, prefect_port=prefect_port, mlflow_port=mlflow_port)


@app.command()
def doctor(
    quick: Annotated[bool, typer.Option("--quick", help="Leave out what takes more than a moment.")] = False,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Check this machine and home: versions, store, registry, schedules; says what to do about what is wrong."""
    with _session(home, as_json, bars=False) as settings:
        from flows.doctor import diagnose

        checks = diagnose(settings, quick=quick)
    if as_json:
        typer.echo(json.dumps([vars(check) for check in checks], indent=1, default=str))
    else:
        for check in checks:
            mark = typer.style("ok  ", fg="green") if check.ok else typer.style("fix ", fg="red")
            typer.echo(f"{mark} {check.name}: {check.found}" + ("" if check.ok else f"; {check.remedy}"))
    if not all(check.ok for check in checks):
        raise typer.Exit(1)


def _version(value: bool) -> None:
    if value:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")] = False,
) -> None:
    pass


def main() -> None:
    """Run the command line; an error is one line on stderr and an exit code."""
    # Told to stop, Python would end without stopping what it started; so it leaves by the front door.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        app()
    except NightcastError as error:
        if State.json:
            typer.echo(
                json.dumps(
                    {
                        "error": type(error).__name__,
                        "what": error.what,
                        "expected": error.expected,
                        "remedy": error.remedy,
                    }
                )
            )
        typer.secho(f"error: {error}", err=True, fg="red")
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
