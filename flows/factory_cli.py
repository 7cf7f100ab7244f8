"""Commands that work on one classifier or one set of labels, without a night: train, backtest, recommend, labels."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nightcast.contracts.errors import ConfigError


def parse_settings(items: list[str]) -> dict[str, Any]:
    """`name=value` pairs; values are JSON where they can be read as such, else text.

    Raises
    ------
    ConfigError
        If an item has no `=`.
    """
    out: dict[str, Any] = {}
    for item in items:
        name, sep, text = item.partition("=")
        if not sep or not name:
            raise ConfigError(f"--set {item!r}", expected="name=value", remedy="such as --set max_depth=4")
        try:
            out[name.strip()] = json.loads(text)
        except ValueError:
            out[name.strip()] = text
    return out


def read_bars(spec: str, data: str | None, as_of: str | None) -> tuple[Any, Any, Any]:
    """A bars workload, its raw rows and the raw gate's verdict.

    Raises
    ------
    ConfigError
        If the workload is none of bars.
    GateError
        If the raw gate stops.
    """
    from nightcast.contracts.prediction import ClassProbs
    from tasks.night import clock, load_workload, parse_as_of

    workload = load_workload(spec)
    if workload.prediction is not ClassProbs:
        raise ConfigError(
            f"workload {workload.name!r} forecasts {workload.prediction.__name__}",
            expected="a workload of kind bars",
            remedy="name markets, crypto_30m, fx_1h, stocks_daily or a file of your own with kind: bars",
        )
    raw = workload.source.read(as_of=parse_as_of(as_of), data=Path(data) if data else None, now=clock())
    verdict = workload.gates.raw(raw)
    verdict.raise_if_stopped()
    return workload, raw, verdict


def train_one(
    spec: str,
    *,
    model: str,
    horizon: int,
    preset: str,
    data: str | None,
    as_of: str | None,
    feature_set: str,
    seed: int,
    share: float,
    output: Path,
    settings: Mapping[str, Any],
    progress: Any,
) -> dict[str, Any]:
    """One run of the trainer on a workload's data."""
    from workloads.bars import with_models
    from workloads.factory.container import TimeSeriesDataContainer
    from workloads.factory.trainer import Trainer, TrainerConfig

    config = TrainerConfig(
        model_name=model,
        horizon=horizon,
        feature_set=feature_set,
        random_seed=seed,
        output_dir=output,
        preset=preset,  # type: ignore[arg-type]  # the command checked it
        model_config=dict(settings),
    )
    trainer = Trainer(config, progress)
    workload, raw, verdict = read_bars(spec, data, as_of)
    choice = workload.catalog.choose(model, preset, **config.hyperparameters())
    dataset = workload.prepare(raw, verdict, with_models(workload.recipe(preset), (choice,)))
    chosen = trainer.model.params.feature_set
    container = TimeSeriesDataContainer(dataset, horizon, chosen, share)
    return trainer.run_full_pipeline(container)


def run_lines(answer: Mapping[str, Any]) -> str:
    """A run's result for people."""
    metrics = answer["evaluation_metrics"]

    def show(value: Any) -> str:
        return "–" if value is None else f"{value:.4g}"

    classes, money = metrics["classification"], metrics["trading"]
    return "\n".join(
        [
            f"{answer['run_id']}",
            f"  log loss        {show(classes['log_loss'])}",
            f"  macro F1        {show(classes['macro_f1'])}",
            f"  direction AUC   {show(classes['direction_auc'])}",
            f"  Sharpe, net     {show(money['sharpe_ratio'])} (gross {show(money['gross_sharpe_ratio'])}, "
            f"{money['num_trades']} trades)",
            f"  run directory   {answer['output_path']}",
            f"  tearsheet       {Path(answer['output_path']) / 'tearsheet.html'}",
        ]
    )


def backtest_signals(
    spec: str,
    *,
    signals: Path,
    horizon: int | None,
    data: str | None,
    as_of: str | None,
    policy: str,
    cost_factor: float,
    to: Path | None,
) -> list[dict[str, Any]]:
    """Run the engine over signals in a file, per horizon; writes tearsheets if a folder is given.

    Raises
    ------
    ConfigError
        If the file lacks a column, holds another type in it or no row of the horizon, or an option does not fit.
    SourceError
        If there is no such file, or it cannot be read.
    """
    import polars as pl

    from nightcast.contracts.columns import HORIZON, ID, SIGNAL, TIME
    from nightcast.contracts.errors import SourceError
    from nightcast.evaluation.backtest import run_backtest
    from nightcast.reports.tearsheet import render_tearsheet
    from workloads.bars import with_models

    if not signals.exists():
        raise SourceError(
            f"there is no file {signals}",
            expected=f"Parquet or CSV with {ID}, {TIME}, {SIGNAL} and, for several horizons, {HORIZON}",
            remedy="a run directory holds predictions/val_predictions.parquet",
        )
    try:
        rows = pl.read_csv(signals, try_parse_dates=True) if signals.suffix == ".csv" else pl.read_parquet(signals)
    except pl.exceptions.PolarsError as error:
        raise SourceError(
            f"{signals} cannot be read ({str(error).splitlines()[0]})",
            expected="Parquet, or CSV with the suffix .csv",
            remedy="write the signals again",
        ) from None
    missing = [name for name in (ID, TIME, SIGNAL) if name not in rows.columns]
    if missing:
        raise ConfigError(
            f"{signals} lacks {', '.join(missing)}; it has {', '.join(rows.columns)}",
            expected=f"{ID}, {TIME} (decision time) and {SIGNAL} (-1, 0, 1)",
            remedy="rename the columns",
        )
    clock = rows.schema[TIME]
    if not (isinstance(clock, pl.Date | pl.Datetime) and rows.schema[SIGNAL].is_numeric()):
        raise ConfigError(
            f"{signals} holds {TIME} as {clock} and {SIGNAL} as {rows.schema[SIGNAL]}",
            expected="times such as 2024-05-01T16:00:00 and numbers -1, 0, 1",
            remedy="correct the two columns",
        )
    odd = rows.filter(~pl.col(SIGNAL).cast(pl.Float64).is_in([-1.0, 0.0, 1.0]).fill_null(False))
    if odd.height:
        raise ConfigError(
            f"signal {odd[SIGNAL][0]} for {odd[ID][0]!r} at {odd[TIME][0]}",
            expected="-1, 0 or 1",
            remedy="turn probabilities into signals first",
        )
    if isinstance(clock, pl.Datetime) and clock.time_zone is not None:
        rows = rows.with_columns(pl.col(TIME).dt.convert_time_zone("UTC").dt.replace_time_zone(None))
    if cost_factor < 0:
        raise ConfigError(f"costs × {cost_factor:g}", expected="0 or more", remedy="correct --costs")
    if policy not in ("tranches", "single"):
        raise ConfigError(f"policy {policy!r}", expected="tranches or single", remedy="correct --policy")
    if HORIZON not in rows.columns:
        if horizon is None:
            raise ConfigError(
                f"{signals} has no column {HORIZON}", expected="--horizon", remedy="say how many bars a signal is held"
            )
        rows = rows.with_columns(pl.lit(horizon, dtype=pl.Int32).alias(HORIZON))
    if horizon is not None:
        rows = rows.filter(pl.col(HORIZON) == horizon)
    if rows.is_empty():
        raise ConfigError(
            f"{signals} holds no signal of horizon {horizon}", expected="at least one", remedy="correct --horizon"
        )
    workload, raw, verdict = read_bars(spec, data, as_of)
    cheapest = workload.catalog.choose("climatology", "ci")
    dataset = workload.prepare(raw, verdict, with_models(workload.recipe("ci"), (cheapest,)))
    out = []
    for (step,), part in sorted(rows.partition_by(HORIZON, as_dict=True).items()):
        test = run_backtest(
            dataset.frame,
            part.select(pl.col(ID).cast(pl.String), pl.col(TIME).cast(pl.Datetime("us")), pl.col(SIGNAL).cast(pl.Int8)),
            horizon=int(step),
            costs=dataset.costs,
            policy=policy,  # type: ignore[arg-type]
            cost_factor=cost_factor,
        )
        schema = dataset.schema
        metrics = test.metrics(days_per_year=schema.days_per_year, bars_per_year=schema.bars_per_year)
        row = {HORIZON: int(step), **metrics}
        if to is not None:
            to.mkdir(parents=True, exist_ok=True)
            page = to / f"{signals.stem}_{step}bar_tearsheet.html"
            title = f"{signals.name}, {step} bars, {policy}, costs × {cost_factor:g}"
            page.write_text(render_tearsheet(test, title=title, schema=schema, costs=dataset.costs), encoding="utf-8")
            row["tearsheet"] = str(page)
        out.append(row)
    return out


def search(
    spec: str, *, data: str | None, as_of: str | None, share: float, seed: int, to: Path | None
) -> dict[str, Any]:
    """Search label parameters on the older part of a workload's bars.

    Raises
    ------
    ConfigError
        If the share is none.
    """
    from nightcast.contracts.columns import BAR_COLUMNS, ID, TIME
    from nightcast.evaluation.label_search import search_labels
    from nightcast.features.labels import label_facts, triple_barrier
    from nightcast.features.segments import segmented
    from workloads.bars import with_models

    if not 0 < share < 1:
        raise ConfigError(f"hold-out {share:g}", expected="a share between 0 and 1", remedy="correct --hold-out")
    workload, raw, verdict = read_bars(spec, data, as_of)
    cheapest = workload.catalog.choose("climatology", "ci")
    dataset = workload.prepare(raw, verdict, with_models(workload.recipe("ci"), (cheapest,)))
    bars, _ = segmented(dataset.frame.select(ID, TIME, *BAR_COLUMNS), raw.bars)
    times = bars.get_column(TIME).unique().sort()
    end = times[min(len(times) - 1, round((1 - share) * len(times)))]
    found = search_labels(
        bars,
        raw.bars,
        dataset.costs,
        label=triple_barrier,
        facts=label_facts,
        base=dataset.labels,
        train_end=end,
        seed=seed,
    )
    answer = {"train_end": str(end), "best": found.best.model_dump(mode="json"), "trials": found.trials.to_dicts()}
    if to is not None:
        found.save(to)
        answer["file"] = str(to)
    return answer
