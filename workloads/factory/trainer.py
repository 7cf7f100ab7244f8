"""Train one classifier for one horizon and leave a complete run directory behind."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
import polars as pl
import yaml

from models.classifier import Classifier, class_frame
from models.classifiers import CLASSIFIERS
from models.training.checkpoints import LAST_FILE
from nightcast.contracts.bars import UNKNOWN_LABEL, BarView
from nightcast.contracts.columns import CLASSES, CUTOFF, HORIZON, ID, SIGNAL, TARGET, TIME
from nightcast.contracts.errors import ConfigError
from nightcast.contracts.prediction import ClassProbs
from nightcast.contracts.progress import Progress, Silent
from nightcast.contracts.recipe import Preset
from nightcast.evaluation.backtest import Backtest, run_backtest
from nightcast.evaluation.class_scores import class_scores
from workloads.factory.container import TimeSeriesDataContainer
from workloads.factory.metrics import checked_metrics

ARTEFACTS: Final[tuple[str, ...]] = (
    "config/training_config.yaml",
    "config/model_config.yaml",
    "config/feature_config.yaml",
    "checkpoints/best_model",
    "predictions/val_predictions.parquet",
    "predictions/val_probabilities.npy",
    "metrics/training_metrics.json",
    "metrics/evaluation_metrics.json",
    "metrics/feature_importance.json",
    "plots/training_curves.png",
    "plots/confusion_matrix.png",
    "plots/feature_importance.png",
    "logs/training.log",
    "tearsheet.html",
)
"""What every run directory holds; `checkpoints/best_model` is a folder in the model's native format. That of a model
that trains in epochs also holds the best ones, `checkpoints/epoch-*.safetensors`, and their `index.json`."""


@dataclass(frozen=True)
class TrainerConfig:
    """How a run is done; hyperparameters of the model stand apart, in `model_config`.

    Attributes
    ----------
    feature_set
        Columns to read; empty: the model's own default.
    sequence_length
        Bars in a window, for models that read windows; None: the model's own default.
    """

    model_name: str
    horizon: int
    feature_set: str = ""
    sequence_length: int | None = None
    batch_size: int | None = None
    max_epochs: int | None = None
    early_stopping_patience: int | None = None
    random_seed: int = 42
    experiment_name: str | None = None
    output_dir: Path = Path("experiments/runs")
    preset: Preset = "nightly_cpu"
    model_config: Mapping[str, Any] = field(default_factory=dict)

    def hyperparameters(self) -> dict[str, Any]:
        """The model's parameters: those of the preset, overridden by this run's.

        Raises
        ------
        ConfigError
            If the model is unknown.
        """
        entry = CLASSIFIERS[self.model_name]
        known = entry.load().Params.model_fields
        chosen = {
            "feature_set": self.feature_set or None,
            "window": self.sequence_length,
            "batch_size": self.batch_size,
            "epochs": self.max_epochs,
            "patience": self.early_stopping_patience,
        }
        own = {name: value for name, value in chosen.items() if value is not None and name in known}
        return {**entry.presets.get(self.preset, {}), **own, **self.model_config}


class Trainer:
    """Runs load, prepare, train, evaluate and save for one model and horizon.

    Parameters
    ----------
    config
        What to do.
    progress
        Where to tell of it.

    Raises
    ------
    ConfigError
        If the model or a hyperparameter is unknown.
    """

    def __init__(self, config: TrainerConfig, progress: Progress | None = None) -> None:
        self.config = config
        self.progress = progress or Silent()
        self.model: Classifier = CLASSIFIERS[config.model_name].load()(**config.hyperparameters())
        stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S%f")[:-3]
        self.run_id = f"{config.model_name}_h{config.horizon}_{stamp}"
        self.output_path = Path(config.output_dir) / self.run_id

    def run_full_pipeline(self, container: TimeSeriesDataContainer) -> dict[str, Any]:
        """Train on the container's training decisions and judge on its validation ones.

        Returns
        -------
        dict
            `run_id`, `training_metrics`, `evaluation_metrics`, `output_path`.

        Raises
        ------
        ConfigError
            If the container is for another horizon or feature set.
        TrainingError
            If there is too little to learn from.
        """
        if container.horizon != self.config.horizon:
            raise ConfigError(
                f"the container holds horizon {container.horizon}",
                expected=f"{self.config.horizon}, the trainer's",
                remedy="make both for one horizon",
            )
        if container.feature_set != self.model.params.feature_set:
            raise ConfigError(
                f"the container holds the feature set {container.feature_set!r}",
                expected=f"{self.model.params.feature_set!r}, which {self.config.model_name} reads",
                remedy="name the same `feature_set` in both",
            )
        self.output_path.mkdir(parents=True, exist_ok=False)
        with _log_to(self.output_path / "logs" / "training.log") as log:
            self.progress.stage("load", 4)
            train, val = (one_horizon(container.view(split), self.config.horizon) for split in ("train", "val"))
            log.info(
                "%s: %d training and %d validation decisions of %d symbols, border %s",
                *(self.run_id, len(train.rows), len(val.rows), len(val.symbols), container.border),
            )
            self.progress.step("prepare and train")
            started = time.perf_counter()
            checkpoints = self.output_path / "checkpoints"
            if hasattr(self.model, "checkpoints"):
                self.model.checkpoints = checkpoints
            self.model.fit(train, seed=self.config.random_seed)
            # for going on after an interruption only; it holds the wall clock
            (checkpoints / LAST_FILE).unlink(missing_ok=True)
            seconds = time.perf_counter() - started
            report = self.model.report
            log.info(
                "%d epochs in %.1f s, best %s, early stopped: %s",
                *(report.epochs, seconds, report.best_epoch, report.early_stopped),
            )
            for name, values in report.history.items():
                log.info("%s: %s", name, " ".join(f"{value:.5f}" for value in values))
            self.progress.step("evaluate")
            evaluation = self._evaluate(container, train, val, seconds)
            log.info("validation: %s", json.dumps(evaluation["metrics"]["classification"]))
            self.progress.step("save")
            self._save(container, evaluation)
            log.info("wrote %s", self.output_path)
        self.progress.step(str(self.output_path))
        return {
            "run_id": self.run_id,
            "training_metrics": evaluation["training"],
            "evaluation_metrics": evaluation["metrics"],
            "output_path": str(self.output_path),
        }

    def _evaluate(
        self, container: TimeSeriesDataContainer, train: BarView, val: BarView, seconds: float
    ) -> dict[str, Any]:
        rows = labelled_rows(self.model, val)
        scores = scores_of(rows)
        past = scores_of(labelled_rows(self.model, thinned_view(train)))
        dataset = container.dataset
        test = run_backtest(
            dataset.frame, rows.select(ID, TIME, SIGNAL), horizon=self.config.horizon, costs=dataset.costs
        )
        money = test.metrics(days_per_year=dataset.schema.days_per_year, bars_per_year=dataset.schema.bars_per_year)
        report = self.model.report
        training = {
            "train_loss": past["log_loss"],
            "val_loss": scores["log_loss"],
            "train_accuracy": past["accuracy"],
            "val_accuracy": scores["accuracy"],
            "train_f1": past["macro_f1"],
            "val_f1": scores["macro_f1"],
            "epochs_trained": report.epochs,
            "training_time_seconds": seconds,
            "early_stopped": report.early_stopped,
            "best_epoch": report.best_epoch,
            "history": {name: list(values) for name, values in report.history.items()},
        }
        metrics = checked_metrics(
            {
                "model_name": self.config.model_name,
                "horizon": self.config.horizon,
                "timestamp": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
                "classification": {
                    "accuracy": scores["accuracy"],
                    "macro_f1": scores["macro_f1"],
                    "weighted_f1": scores["weighted_f1"],
                    "per_class_f1": {name: scores[f"f1_{name}"] for name in CLASSES},
                    "confusion_matrix": np.asarray(scores["confusion"]).astype(int).tolist(),
                    **{n: scores[n] for n in ("log_loss", "direction_auc", "balanced_accuracy", "brier", "ece", "mcc")},
                },
                "trading": {
                    "sharpe_ratio": money["sharpe"],
                    "gross_sharpe_ratio": money["gross_sharpe"],
                    "annualized_return": money["annualized_return"],
                    "max_drawdown": money["max_drawdown"],
                    "win_rate": money["win_rate"],
                    "profit_factor": money["profit_factor"],
                    "num_trades": int(money["trades"] or 0),
                    "turnover": money["turnover"],
                },
                "training": {
                    name: training[name]
                    for name in (
                        *("epochs_trained", "best_epoch", "training_time_seconds", "early_stopped"),
                        *("train_loss", "val_loss", "train_f1", "val_f1"),
                    )
                },
            }
        )
        return {"rows": rows, "backtest": test, "training": training, "metrics": metrics, "scores": scores}

    def _save(self, container: TimeSeriesDataContainer, evaluation: dict[str, Any]) -> None:
        from nightcast.reports.run_pictures import confusion_picture, curves_picture, importance_picture
        from nightcast.reports.tearsheet import render_tearsheet

        folder, config = self.output_path, self.config
        for name in ("config", "checkpoints", "predictions", "metrics", "plots"):
            (folder / name).mkdir(exist_ok=True)
        settings = {**asdict(config), "output_dir": str(config.output_dir), "model_config": dict(config.model_config)}
        _yaml(folder / "config" / "training_config.yaml", settings)
        _yaml(folder / "config" / "model_config.yaml", self.model.params.model_dump(mode="json"))
        pipeline = self.model.pipeline
        features = {
            "feature_set": self.model.params.feature_set,
            "columns": list(pipeline.names_in),
            "used": list(pipeline.names_out),
            "scaling": pipeline.scaling,
            "dataset": container.dataset.hash,
        }
        _yaml(folder / "config" / "feature_config.yaml", features)
        self.model.save(folder / "checkpoints" / "best_model")
        rows: pl.DataFrame = evaluation["rows"]
        rows.write_parquet(folder / "predictions" / "val_predictions.parquet")
        np.save(folder / "predictions" / "val_probabilities.npy", rows.select("^p_.*$").to_numpy(), allow_pickle=False)
        importance = self.model.importance() or {}
        table = importance_table(importance, {n: c.block for n, c in container.dataset.columns.items()})
        for name, value in (
            ("training_metrics", _finite(evaluation["training"])),
            ("evaluation_metrics", evaluation["metrics"]),
            ("feature_importance", table.to_dicts()),
        ):
            (folder / "metrics" / f"{name}.json").write_text(json.dumps(value, indent=1, allow_nan=False))
        pictures = {
            "training_curves": curves_picture(self.model.report.history, title=self.run_id),
            "confusion_matrix": confusion_picture(evaluation["scores"]["confusion"], title=self.run_id),
            "feature_importance": importance_picture(table, title=self.run_id),
        }
        for name, picture in pictures.items():
            (folder / "plots" / f"{name}.png").write_bytes(picture)
        backtest: Backtest = evaluation["backtest"]
        page = render_tearsheet(
            backtest,
            title=f"{config.model_name}, {config.horizon} bars ahead",
            schema=container.dataset.schema,
            costs=container.dataset.costs,
            scores=evaluation["scores"],
        )
        (folder / "tearsheet.html").write_text(page, encoding="utf-8")


def one_horizon(view: BarView, horizon: int) -> BarView:
    """A view with the labels of one horizon, at the decisions where it is known."""
    from dataclasses import replace

    h = view.horizons.index(horizon)
    schema = view.schema.model_copy(update={"horizons": (horizon,)})
    if view.labels is None:
        return replace(view, schema=schema)
    known = view.labels.y[:, h] != UNKNOWN_LABEL
    labels = view.labels.chosen(known, slice(h, h + 1))
    return replace(view, schema=schema, rows=view.rows[known], labels=labels)


def thinned_view(view: BarView, most: int = 20_000) -> BarView:
    """A view with at most so many decisions, evenly spaced; for scores on training rows."""
    from dataclasses import replace

    from models.classifier import thinned

    at = thinned(len(view.rows), most)
    return replace(view, rows=view.rows[at], labels=view.labels and view.labels.chosen(at))


def labelled_rows(model: Classifier, view: BarView) -> pl.DataFrame:
    """A model's probabilities and signals at a view's decisions with their labels, `..., y, ret`."""
    if view.labels is None:
        raise ConfigError("a view without labels", expected="labels", remedy="take the view from a container")
    frame = model.predict(view).frame
    n = len(view.rows)
    keys = class_frame(view, np.full((n, len(view.horizons), len(CLASSES)), 1 / len(CLASSES)))
    facts = keys.select(ID, TIME, CUTOFF, HORIZON).with_columns(
        pl.Series(TARGET, view.labels.y.reshape(-1)), pl.Series("ret", view.labels.ret.reshape(-1))
    )
    return frame.join(facts, on=[ID, TIME, CUTOFF, HORIZON]).filter(pl.col(TARGET) != UNKNOWN_LABEL).sort(ID, TIME)


def scores_of(rows: pl.DataFrame) -> dict[str, Any]:
    """`class_scores` of labelled rows."""
    probs = rows.select(ClassProbs.value_columns()[:3]).to_numpy()
    return dict(class_scores(rows.get_column(TARGET).cast(pl.Int64).to_numpy(), probs))


def importance_table(importance: Mapping[str, float], blocks: Mapping[str, str]) -> pl.DataFrame:
    """`feature, importance, cumulative, category`, most important first."""
    frame = pl.DataFrame(
        {
            "feature": list(importance),
            "importance": [float(v) for v in importance.values()],
            "category": [blocks.get(name, "") for name in importance],
        },
        schema={"feature": pl.String, "importance": pl.Float64, "category": pl.String},
    )
    return frame.sort("importance", "feature", descending=[True, False]).with_columns(
        pl.col("importance").cum_sum().alias("cumulative")
    )


@contextmanager
def _log_to(path: Path) -> Iterator[logging.Logger]:
    path.parent.mkdir(parents=True, exist_ok=True)
    log = logging.getLogger(f"nightcast.trainer.{path.parent.parent.name}")
    log.setLevel(logging.INFO)
    log.propagate = False
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    log.addHandler(handler)
    try:
        yield log
    except Exception:
        log.exception("the run failed")
        raise
    finally:
        log.removeHandler(handler)
        handler.close()


def _yaml(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(yaml.safe_dump(json.loads(json.dumps(value, default=str)), sort_keys=False))


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(its) for name, its in value.items()}
    if isinstance(value, list):
        return [_finite(its) for its in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value
