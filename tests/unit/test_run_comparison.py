"""Metrics of runs keep their shape, and runs are compared on what they share."""

from __future__ import annotations

import copy
import json
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from nightcast.contracts.columns import HORIZON, ID, MODEL, TIME
from nightcast.contracts.errors import SourceError, TrainingError
from workloads.factory.comparison import comparison_report, prediction_correlation, read_runs
from workloads.factory.metrics import checked_metrics


def metrics(**changes: Any) -> dict[str, Any]:
    """Metrics as a run writes them; changes by dotted path with `__`."""
    out: dict[str, Any] = {
        "model_name": "xgboost",
        "horizon": 20,
        "timestamp": "2024-05-01T03:00:00Z",
        "classification": {
            "accuracy": 0.5,
            "macro_f1": 0.4,
            "weighted_f1": 0.45,
            "per_class_f1": {"short": 0.3, "neutral": 0.5, "long": 0.4},
            "confusion_matrix": [[3, 1, 1], [2, 5, 1], [1, 1, 2]],
            "log_loss": 1.0,
            "direction_auc": 0.51,
            "balanced_accuracy": 0.4,
            "brier": 0.6,
            "ece": 0.02,
            "mcc": 0.1,
        },
        "trading": {
            "sharpe_ratio": None,
            "gross_sharpe_ratio": None,
            "annualized_return": None,
            "max_drawdown": None,
            "win_rate": None,
            "profit_factor": None,
            "num_trades": 0,
            "turnover": None,
        },
        "training": {
            "epochs_trained": 1,
            "best_epoch": None,
            "training_time_seconds": 1.5,
            "early_stopped": False,
            "train_loss": 0.9,
            "val_loss": 1.0,
            "train_f1": 0.5,
            "val_f1": 0.4,
        },
    }
    for path, value in changes.items():
        *parents, last = path.split("__")
        place = out
        for name in parents:
            place = place[name]
        place[last] = value
    return out


def test_metrics_as_declared_pass_unchanged() -> None:
    assert checked_metrics(metrics()) == metrics()


def test_a_number_that_is_not_finite_becomes_null_and_the_result_is_json() -> None:
    clean = checked_metrics(metrics(trading__profit_factor=float("inf"), trading__sharpe_ratio=float("nan")))
    assert clean["trading"]["profit_factor"] is None
    assert clean["trading"]["sharpe_ratio"] is None
    json.dumps(clean, allow_nan=False)


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"classification__accuracy": 1.2}, "classification.accuracy"),
        ({"trading__num_trades": None}, "trading.num_trades"),
        ({"extra": 1}, "extra"),
        ({"timestamp": "yesterday"}, "timestamp"),
        ({"classification__confusion_matrix": [[1]]}, "confusion_matrix"),
    ],
)
def test_metrics_of_another_shape_are_refused_with_their_place(changes: dict[str, Any], what: str) -> None:
    with pytest.raises(TrainingError, match=what):
        checked_metrics(metrics(**changes))


def test_a_missing_metric_is_refused() -> None:
    lacking = copy.deepcopy(metrics())
    del lacking["training"]["train_f1"]
    with pytest.raises(TrainingError, match="train_f1"):
        checked_metrics(lacking)


def write_run(folder: Path, name: str, **changes: Any) -> None:
    """A finished run's metrics file."""
    path = folder / name / "metrics" / "evaluation_metrics.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(metrics(**changes)))


def test_the_newest_run_of_each_model_and_horizon_counts(tmp_path: Path) -> None:
    write_run(tmp_path, "a", timestamp="2024-05-01T03:00:00Z")
    write_run(tmp_path, "b", timestamp="2024-05-02T03:00:00Z", classification__log_loss=0.9)
    write_run(tmp_path, "c", horizon=5)
    runs = read_runs(tmp_path)
    assert runs.select(HORIZON, "run").rows() == [(5, "c"), (20, "b")]


def test_a_folder_without_runs_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="nightcast train"):
        read_runs(tmp_path)


def test_predictions_correlate_by_their_lean_on_common_decisions() -> None:
    rng = np.random.default_rng(0)
    lean = rng.normal(size=200) / 10
    times = [datetime(2024, 1, 1) + i * timedelta(hours=1) for i in range(200)]
    parts = [
        pl.DataFrame(
            {
                ID: ["a"] * 200,
                TIME: times,
                HORIZON: [5] * 200,
                MODEL: [name] * 200,
                "p_short": 0.4 - its,
                "p_long": 0.4 + its,
            }
        )
        for name, its in (("one", lean), ("same", lean * 2), ("against", -lean), ("still", np.zeros(200)))
    ]
    table = prediction_correlation(pl.concat([*parts[:3], parts[3].head(150)]))
    found = {(a, b): c for a, b, c in table.select(MODEL, "other", "correlation").iter_rows()}
    assert found[("one", "same")] == pytest.approx(1.0)
    assert found[("against", "one")] == pytest.approx(-1.0)
    assert found[("one", "still")] is None
    assert table.filter(pl.col("other") == "still").get_column("rows").to_list() == [150, 150, 150]


def test_the_report_names_the_best_of_each_horizon_and_the_cost() -> None:
    table = pl.DataFrame(
        {
            MODEL: ["a", "b", "a", "b"],
            HORIZON: [1, 1, 5, 5],
            "log_loss": [1.0, 0.9, 0.8, 1.1],
            "macro_f1": [0.3, 0.4, 0.5, 0.2],
            "seconds": [1.0, 2.0, 1.0, 2.0],
        }
    )
    empty = pl.DataFrame(
        schema={HORIZON: pl.Int32, MODEL: pl.String, "other": pl.String, "correlation": pl.Float64, "rows": pl.Int64}
    )
    text = comparison_report(table, empty)
    best = text.split("## Best per horizon")[1].split("## Correlation")[0]
    assert "| 1 | b | 0.9 | 0.4 |" in best
    assert "| 5 | a | 0.8 | 0.5 |" in best
    assert "| a | 2 |" in text.split("## Cost")[1]
