"""What a night of bars leaves beside its page: a tearsheet per model and horizon, and the comparison of models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl

from nightcast.contracts.bars import BarDataset
from nightcast.contracts.columns import HORIZON, ID, MODEL, SIGNAL, TIME
from nightcast.contracts.workload import Document
from nightcast.evaluation.backtest import run_backtest
from nightcast.evaluation.class_scores import scores_of_rows
from nightcast.evaluation.market_verdicts import ENSEMBLE, trading_baselines
from nightcast.reports.tearsheet import render_tearsheet
from workloads.factory.comparison import comparison_report, markdown, prediction_correlation

RANDOM_ENTRIES = 40
"""Draws of random entries beside the ensemble."""


def market_documents(evaluation: Any, dataset: BarDataset, folder: Path) -> tuple[Document, ...]:
    """Write `model_comparison.md` and `<model>_<h>bar_tearsheet.html` of every model into a folder.

    Parameters
    ----------
    evaluation
        The night's `Evaluation`: out-of-fold rows of members and ensemble, verdicts, league with seconds.
    """
    folder.mkdir(parents=True, exist_ok=True)
    schema, costs = dataset.schema, dataset.costs
    verdicts = {(row[MODEL], row[HORIZON]): row for row in evaluation.verdicts.iter_rows(named=True)}
    documents, rows = [], []
    for (model, horizon), part in sorted(evaluation.members.partition_by(MODEL, HORIZON, as_dict=True).items()):
        test = run_backtest(dataset.frame, part.select(ID, TIME, SIGNAL), horizon=int(horizon), costs=costs)
        scores = scores_of_rows(part)
        path = folder / f"{model}_{horizon}bar_tearsheet.html"
        page = render_tearsheet(
            test,
            title=f"{model}, {horizon} bars ahead",
            schema=schema,
            costs=costs,
            scores=scores,
            verdict=verdicts.get((model, horizon)),
        )
        path.write_text(page, encoding="utf-8")
        documents.append(Document(f"{model}, {horizon} bars", path))
        metrics = test.metrics(days_per_year=schema.days_per_year, bars_per_year=schema.bars_per_year)
        names = ("accuracy", "macro_f1", "direction_auc", "log_loss")
        money = ("sharpe", "gross_sharpe", "max_drawdown", "trades")
        rows.append(
            {MODEL: model, HORIZON: int(horizon)}
            | {name: scores[name] for name in names}
            | {name: metrics[name] for name in money}
        )
    table = pl.DataFrame(rows, infer_schema_length=None).sort(HORIZON, "log_loss")
    if "seconds" in evaluation.league.columns:
        seconds = evaluation.league.select(MODEL, "seconds")
        table = table.join(
            seconds.with_columns(pl.col("seconds") / table.get_column(HORIZON).n_unique()), on=MODEL, how="left"
        )
    path = folder / "model_comparison.md"
    text = comparison_report(table, prediction_correlation(evaluation.members))
    joined = evaluation.members.filter(pl.col(MODEL) == ENSEMBLE)
    rules = trading_baselines(joined, dataset, seed=1, draws=RANDOM_ENTRIES)
    words = f"Random entries keep the ensemble's turnover; 5 and 95 % of {RANDOM_ENTRIES} draws, after costs."
    text += "\n".join(["", "## Plain rules on the same bars", "", words, "", *markdown(rules), ""])
    path.write_text(text, encoding="utf-8")
    return (Document("Comparison of all models", path), *documents)
