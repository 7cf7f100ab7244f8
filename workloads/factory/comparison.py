"""Runs side by side: metrics, the best model per horizon, how alike their predictions are, what they cost."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import polars as pl

from nightcast.contracts.columns import HORIZON, ID, MODEL, TIME
from nightcast.contracts.errors import SourceError


def read_runs(folder: Path) -> pl.DataFrame:
    """One row a run: model, horizon, metrics and cost, newest run of each model and horizon only.

    Raises
    ------
    SourceError
        If the folder holds no finished run.
    """
    rows = []
    for path in sorted(folder.glob("*/metrics/evaluation_metrics.json")):
        metrics = json.loads(path.read_text())
        rows.append(
            {
                MODEL: metrics["model_name"],
                HORIZON: metrics["horizon"],
                "accuracy": metrics["classification"]["accuracy"],
                "macro_f1": metrics["classification"]["macro_f1"],
                "direction_auc": metrics["classification"]["direction_auc"],
                "log_loss": metrics["classification"]["log_loss"],
                "sharpe": metrics["trading"]["sharpe_ratio"],
                "max_drawdown": metrics["trading"]["max_drawdown"],
                "trades": metrics["trading"]["num_trades"],
                "train_f1": metrics["training"]["train_f1"],
                "seconds": metrics["training"]["training_time_seconds"],
                "timestamp": metrics["timestamp"],
                "run": path.parents[1].name,
            }
        )
    if not rows:
        raise SourceError(
            f"no finished run in {folder}",
            expected="folders with metrics/evaluation_metrics.json",
            remedy="`nightcast train --model xgboost --horizon 20` makes one",
        )
    frame = pl.DataFrame(rows, infer_schema_length=None)
    return frame.sort("timestamp", "run").unique([MODEL, HORIZON], keep="last").sort(HORIZON, MODEL)


def prediction_correlation(predictions: pl.DataFrame) -> pl.DataFrame:
    """Correlation of `p_long - p_short` between models on their common decisions, per horizon.

    Parameters
    ----------
    predictions
        `unique_id, ds, horizon, model, p_short, p_long`.

    Returns
    -------
    polars.DataFrame
        `horizon, model, other, correlation, rows`; null where a model never varies.
    """
    lean = predictions.select(ID, TIME, HORIZON, MODEL, (pl.col("p_long") - pl.col("p_short")).alias("lean"))
    out = []
    for (horizon,), part in sorted(lean.partition_by(HORIZON, as_dict=True).items()):
        wide = part.pivot(on=MODEL, index=[ID, TIME], values="lean", aggregate_function="first").drop(ID, TIME)
        names = sorted(wide.columns)
        for i, name in enumerate(names):
            for other in names[i + 1 :]:
                both = wide.select(name, other).drop_nulls()
                value = both.select(pl.corr(name, other)).item() if both.height > 2 else None
                known = value if value is not None and value == value else None
                out.append({HORIZON: horizon, MODEL: name, "other": other, "correlation": known, "rows": both.height})
    schema = {
        HORIZON: pl.Int32,
        MODEL: pl.String,
        "other": pl.String,
        "correlation": pl.Float64,
        "rows": pl.Int64,
    }
    return pl.DataFrame(out, schema=schema)


def comparison_report(table: pl.DataFrame, correlation: pl.DataFrame, *, title: str = "Model comparison") -> str:
    """The comparison as Markdown.

    Parameters
    ----------
    table
        `model, horizon` and any metrics; `log_loss` picks the best per horizon.
    correlation
        What `prediction_correlation` returned.
    """
    lines = [f"# {title}", "", "## Metrics", "", *markdown(table.drop("timestamp", "run", strict=False))]
    best = table.filter(pl.col("log_loss").is_not_null()).sort(HORIZON, "log_loss", MODEL).group_by(HORIZON).first()
    shown = [
        name for name in (HORIZON, MODEL, "log_loss", "macro_f1", "direction_auc", "sharpe") if name in best.columns
    ]
    lines += ["", "## Best per horizon, by log loss", "", *markdown(best.sort(HORIZON).select(shown))]
    lines += ["", "## Correlation of long minus short between models", ""]
    for (horizon,), part in sorted(correlation.partition_by(HORIZON, as_dict=True).items()):
        lines += [f"### {horizon} bars", "", *_matrix(part), ""]
    if "seconds" in table.columns:
        cost = table.group_by(MODEL).agg(pl.col("seconds").sum()).sort("seconds", MODEL)
        lines += [
            "## Cost",
            "",
            "Seconds of fitting and predicting on this machine, all horizons.",
            "",
            *markdown(cost),
        ]
    return "\n".join(lines).rstrip() + "\n"


def _matrix(part: pl.DataFrame) -> list[str]:
    names = sorted({*part.get_column(MODEL), *part.get_column("other")})
    known = {(a, b): c for a, b, c in part.select(MODEL, "other", "correlation").iter_rows()}
    head = ["| |" + "|".join(f" {name} " for name in names) + "|", "|---|" + "---:|" * len(names)]
    rows = []
    for name in names:
        cells = []
        for other in names:
            value = 1.0 if name == other else known.get((name, other), known.get((other, name)))
            cells.append("–" if value is None else f"{value:.2f}")
        rows.append(f"| {name} | " + " | ".join(cells) + " |")
    return head + rows


def markdown(frame: pl.DataFrame) -> list[str]:
    """The lines of a frame as a table; what does not exist is a dash."""

    def cell(value: object) -> str:
        if value is None:
            return "–"
        return f"{value:.4g}" if isinstance(value, float) else str(value)

    columns: Sequence[str] = frame.columns
    numeric = ["---:" if dtype.is_numeric() else "---" for dtype in frame.dtypes]
    lines = ["| " + " | ".join(columns) + " |", "|" + "|".join(numeric) + "|"]
    return lines + ["| " + " | ".join(cell(value) for value in row) + " |" for row in frame.iter_rows()]
