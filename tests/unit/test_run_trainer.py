"""A run of the trainer: purged data, a complete run directory, the same numbers twice."""

from __future__ import annotations

import functools
import json
import re
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import polars as pl
import pytest
import yaml

from models.catalog import load_model
from models.classifiers import CLASSIFIERS
from models.factory import REGISTRY
from nightcast.contracts.bars import BarDataset, label_columns
from nightcast.contracts.columns import CLASS_PROBS, CUTOFF, HORIZON, ID, SIGNAL, TARGET, TIME
from nightcast.contracts.errors import ConfigError, TrainingError
from nightcast.evaluation.backtest import run_backtest
from nightcast.evaluation.class_scores import class_scores
from tests.contract.bar_data import COLUMNS, HORIZONS, LEAD, bar_dataset
from workloads.factory.container import MIN_VALIDATION, Split, TimeSeriesDataContainer
from workloads.factory.metrics import METRICS_SCHEMA
from workloads.factory.trainer import ARTEFACTS, Trainer, TrainerConfig, importance_table, one_horizon

SETS = ("boosting_optimal", "neural_optimal", "ensemble_base")
SPLITS: tuple[Split, ...] = ("train", "val")
H = 4
RECURRENT = {"window": 8, "hidden": 8, "head": 8, "epochs": 2, "max_rows": 600}


@functools.cache
def dataset() -> BarDataset:
    return bar_dataset(SETS)


@functools.cache
def container(feature_set: str = "boosting_optimal", horizon: int = H) -> TimeSeriesDataContainer:
    return TimeSeriesDataContainer(dataset(), horizon, feature_set)


@functools.cache
def finished(name: str, seed: int = 42) -> tuple[dict[str, Any], Path]:
    """A run's answer and directory."""
    params = RECURRENT if name == "gru" else dict(CLASSIFIERS[name].cheap)
    config = TrainerConfig(
        name, H, random_seed=seed, output_dir=Path(tempfile.mkdtemp()), preset="ci", model_config=params
    )
    trainer = Trainer(config)
    answer = trainer.run_full_pipeline(container(trainer.model.params.feature_set))
    return answer, Path(answer["output_path"])


# -- the container ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("horizon", HORIZONS)
def test_no_training_label_ends_inside_the_validation_span(horizon: int) -> None:
    its = container(horizon=horizon)
    view, h = its.train, HORIZONS.index(horizon)
    assert view.labels is not None
    known = view.labels.y[:, h] >= 0
    ends = view.times[(view.rows + horizon)[known]]

    assert known.sum() > 500
    assert (view.labels.hold[known, h] <= horizon).all()
    assert ends.max() < np.datetime64(its.border), "even its last possible bar lies before"
    assert view.times.max() < np.datetime64(its.border), "nothing of the validation span is in the view at all"


def test_training_keeps_every_label_whose_last_possible_bar_lay_before_validation() -> None:
    its = container()
    frame = its.dataset.frame.with_columns(
        pl.Series("ready", its.dataset.ready), pl.col(TIME).shift(-H).over(ID).alias("end")
    )
    in_time = frame.filter(pl.col("ready") & pl.col(label_columns(H)["y"]).is_not_null() & (pl.col("end") < its.border))

    assert len(its.get_sklearn_arrays("train")[1]) == in_time.height


def test_validation_begins_with_the_newest_fifth_of_the_decision_times() -> None:
    its = container()
    times = np.unique(dataset().frame[TIME].filter(pl.Series(dataset().ready)).to_numpy())

    later = times[times >= np.datetime64(its.border)]

    assert len(later) == round(0.2 * len(times))
    assert its.val.times[its.val.rows].min() == np.datetime64(its.border)


@pytest.mark.parametrize("split", SPLITS)
def test_arrays_and_sequences_hold_the_same_decisions(split: Split) -> None:
    x, y, weight = container().get_sklearn_arrays(split)
    windows, y_too, weight_too = container().get_pytorch_sequences(split, 8)

    assert x.shape == (len(y), len(COLUMNS))
    assert windows.shape == (len(y), 8, len(COLUMNS))
    assert np.array_equal(windows[:, -1], x, equal_nan=True)
    assert np.array_equal(y_too, y)
    assert np.array_equal(weight_too, weight)
    assert set(np.unique(y)) == {0, 1, 2}
    assert weight.mean() == pytest.approx(1.0)
    assert (weight >= 0).all()


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("length", [2, LEAD, 2 * LEAD])
def test_a_window_holds_consecutive_bars_of_one_symbol_and_segment(split: Split, length: int) -> None:
    """A column that numbers the bars and one that names the segment show where each window's bars come from."""
    frame = dataset().frame.with_columns(
        pl.int_range(pl.len()).cast(pl.Float32).alias("signal"), pl.col("segment").cast(pl.Float32).alias("noise_a")
    )
    its = TimeSeriesDataContainer(replace(dataset(), frame=frame), H, "boosting_optimal")
    windows, _, _ = its.get_pytorch_sequences(split, length)
    number, segment = (windows[:, :, list(COLUMNS).index(name)] for name in ("signal", "noise_a"))

    assert len(windows) > 50
    assert (np.diff(number, axis=1) == 1).all()
    assert (segment == segment[:, :1]).all()


def test_longer_windows_leave_out_the_first_decisions_of_each_segment_alone() -> None:
    _, y, _ = container().get_pytorch_sequences("train", LEAD + 1)
    _, fewer, _ = container().get_pytorch_sequences("train", LEAD + 11)

    assert len(y) == len(container().get_sklearn_arrays("train")[1])
    assert len(y) - len(fewer) == 3 * 10, "ten decisions at the start of each of three segments"


def test_a_symbols_arrays_do_not_depend_on_the_other_symbols() -> None:
    other = pl.col(ID) == "BBB"
    noise = [pl.when(other).then(pl.col(c) * -3 + 7).otherwise(pl.col(c)).alias(c) for c in COLUMNS]
    changed = TimeSeriesDataContainer(
        replace(dataset(), frame=dataset().frame.with_columns(noise)), H, "boosting_optimal"
    )

    for split in SPLITS:
        view = container().view(split)
        assert view.labels is not None
        mine = (view.symbol[view.rows] == 0)[view.labels.y[:, HORIZONS.index(H)] >= 0]
        x, changed_x = (its.get_sklearn_arrays(split)[0] for its in (container(), changed))
        assert np.array_equal(x[mine], changed_x[mine], equal_nan=True)
        assert not np.array_equal(x[~mine], changed_x[~mine], equal_nan=True)


def test_scrambling_the_validation_span_changes_no_training_array() -> None:
    late = pl.col(TIME) >= container().border
    noise = [pl.when(late).then(pl.col(c) * -3 + 7).otherwise(pl.col(c)).alias(c) for c in (*COLUMNS, "close")]
    changed = TimeSeriesDataContainer(
        replace(dataset(), frame=dataset().frame.with_columns(noise)), H, "boosting_optimal"
    )

    for mine, its in zip(container().get_sklearn_arrays("train"), changed.get_sklearn_arrays("train"), strict=True):
        assert np.array_equal(mine, its, equal_nan=True)
    assert not np.array_equal(
        container().get_sklearn_arrays("val")[0], changed.get_sklearn_arrays("val")[0], equal_nan=True
    )


def test_the_factorys_models_learn_from_the_containers_arrays() -> None:
    x, y, weight = container().get_sklearn_arrays("train")
    x_val, y_val, _ = container().get_sklearn_arrays("val")
    model = REGISTRY.create("logistic", hold=H)

    metrics = model.fit(x, y, x_val, y_val, sample_weights=weight)

    shares = np.bincount(y, minlength=3) / len(y)
    assert metrics.val_loss < -np.log(shares[y_val]).mean() - 0.02, "the signal is planted"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"horizon": 7}, "horizon 7 is not labelled; expected one of 1, 4"),
        ({"feature_set": "plain10"}, "unknown feature set 'plain10'"),
        ({"share": 0.0}, "validation share 0"),
        ({"share": 1.0}, "validation share 1"),
        ({"share": 0.01}, f"expected at least {MIN_VALIDATION}"),
    ],
)
def test_a_container_that_cannot_be_cut_is_refused_in_words(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        TimeSeriesDataContainer(**{"dataset": dataset(), "horizon": H, "feature_set": SETS[0], **arguments})


def test_bars_too_short_for_a_decision_are_refused() -> None:
    with pytest.raises(ConfigError, match="5000 bars behind it"):
        TimeSeriesDataContainer(replace(dataset(), lead=5000), H, SETS[0])


def test_a_test_split_and_a_window_longer_than_every_segment_are_refused() -> None:
    with pytest.raises(ConfigError, match="walk-forward"):
        container().get_sklearn_arrays("test")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="2000 bars of its segment"):
        container().get_pytorch_sequences("train", 2000)


# -- the run directory -----------------------------------------------------------------------------------------------


def artefacts(folder: Path) -> set[str]:
    """Files below a run directory but for a network's epochs; the model's own folder counts as one."""
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    files = {name for name in files if not re.match(r"checkpoints/(epoch-\d+\.safetensors|index\.json)$", name)}
    return {re.sub(r"^(checkpoints/best_model)/.*", r"\1", name) for name in files}


def test_a_network_leaves_its_best_epochs_as_checkpoints_and_a_model_without_epochs_leaves_none() -> None:
    from models.training.checkpoints import Checkpoints

    _, folder = finished("gru")
    epochs = sorted(path.name for path in (folder / "checkpoints").glob("epoch-*.safetensors"))
    kept = Checkpoints(folder / "checkpoints")

    assert epochs == ["epoch-0001.safetensors", "epoch-0002.safetensors"]
    assert kept.best is not None
    tensors, _ = kept.load(kept.best)
    assert tensors
    assert [path.name for path in (finished("lightgbm")[1] / "checkpoints").iterdir()] == ["best_model"]


@pytest.mark.parametrize("name", ["logistic", "lightgbm", "gru", "voting"])
def test_a_run_leaves_exactly_the_fourteen_artefacts(name: str) -> None:
    answer, folder = finished(name)

    assert len(ARTEFACTS) == 14
    assert artefacts(folder) == set(ARTEFACTS)
    assert folder.name == answer["run_id"]
    assert re.fullmatch(rf"{name}_h{H}_\d{{8}}T\d{{9}}", folder.name)
    assert set(answer) == {"run_id", "training_metrics", "evaluation_metrics", "output_path"}


@pytest.mark.parametrize("name", ["logistic", "lightgbm", "gru", "voting"])
def test_the_metrics_pass_the_schema_and_are_json_without_nan(name: str) -> None:
    answer, folder = finished(name)
    files = {path.name: path.read_text() for path in (folder / "metrics").iterdir()}

    for text in files.values():
        json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))
    metrics = json.loads(files["evaluation_metrics.json"])
    jsonschema.validate(metrics, METRICS_SCHEMA)
    assert metrics == answer["evaluation_metrics"]
    assert metrics["model_name"] == name
    assert metrics["horizon"] == H
    training = json.loads(files["training_metrics.json"])
    assert set(training) == {
        *("train_loss", "val_loss", "train_accuracy", "val_accuracy", "train_f1", "val_f1"),
        *("epochs_trained", "training_time_seconds", "early_stopped", "best_epoch", "history"),
    }
    assert training["val_f1"] == metrics["classification"]["macro_f1"]
    if name == "gru":
        assert {len(values) for values in training["history"].values()} == {2}


def test_the_metrics_are_those_of_the_stored_predictions() -> None:
    _, folder = finished("logistic")
    rows = pl.read_parquet(folder / "predictions" / "val_predictions.parquet")
    probs = np.load(folder / "predictions" / "val_probabilities.npy")
    metrics = json.loads((folder / "metrics" / "evaluation_metrics.json").read_text())

    assert rows.columns == [ID, TIME, CUTOFF, HORIZON, *CLASS_PROBS, SIGNAL, TARGET, "ret"]
    assert np.array_equal(rows.select(CLASS_PROBS).to_numpy(), probs)
    scores = class_scores(rows[TARGET].cast(pl.Int64).to_numpy(), probs)
    told = metrics["classification"]
    assert told["macro_f1"] == pytest.approx(scores["macro_f1"])
    assert told["log_loss"] == pytest.approx(scores["log_loss"])
    assert np.array_equal(told["confusion_matrix"], scores["confusion"])
    assert sum(map(sum, told["confusion_matrix"])) == rows.height == len(container().get_sklearn_arrays("val")[1])
    test = run_backtest(dataset().frame, rows.select(ID, TIME, SIGNAL), horizon=H, costs=dataset().costs).metrics(
        days_per_year=dataset().schema.days_per_year, bars_per_year=dataset().schema.bars_per_year
    )
    assert metrics["trading"]["sharpe_ratio"] == pytest.approx(test["sharpe"])
    assert metrics["trading"]["num_trades"] == test["trades"] > 0


def test_predictions_are_of_validation_decisions_with_their_own_labels() -> None:
    _, folder = finished("logistic")
    rows = pl.read_parquet(folder / "predictions" / "val_predictions.parquet")

    assert rows[TIME].min() == container().border
    assert rows[HORIZON].unique().to_list() == [H]
    truth = dataset().truth().filter(pl.col(HORIZON) == H)
    both = rows.join(truth, on=[ID, TIME, HORIZON], suffix="_true")
    assert both.height == rows.height
    assert (both[TARGET] == both[f"{TARGET}_true"]).all()
    assert both["ret"].to_numpy() == pytest.approx(both["ret_true"].to_numpy())


@pytest.mark.parametrize("name", ["lightgbm", "gru", "stacking"])
def test_the_same_seed_gives_the_same_run_twice(name: str) -> None:
    first, folder = finished(name)
    finished.cache_clear()
    second, again = finished(name)

    assert folder != again
    for file in ("predictions/val_predictions.parquet", "predictions/val_probabilities.npy"):
        assert (folder / file).read_bytes() == (again / file).read_bytes()
    for file in sorted(path.relative_to(folder) for path in (folder / "checkpoints").rglob("*") if path.is_file()):
        assert (folder / file).read_bytes() == (again / file).read_bytes(), file
    for part in ("classification", "trading"):
        assert first["evaluation_metrics"][part] == second["evaluation_metrics"][part]
    assert (folder / "tearsheet.html").read_bytes() == (again / "tearsheet.html").read_bytes()
    assert (folder / "metrics" / "feature_importance.json").read_bytes() == (
        again / "metrics" / "feature_importance.json"
    ).read_bytes()


def test_another_seed_gives_another_run() -> None:
    files = [finished("gru", seed)[1] / "predictions" / "val_probabilities.npy" for seed in (42, 43)]

    assert not np.array_equal(np.load(files[0]), np.load(files[1]))


def test_the_stored_model_answers_as_the_run_did() -> None:
    _, folder = finished("lightgbm")
    rows = pl.read_parquet(folder / "predictions" / "val_predictions.parquet")

    model = load_model(folder / "checkpoints" / "best_model")
    frame = model.predict(one_horizon(container().val, H)).frame

    assert frame.sort(ID, TIME).select(CLASS_PROBS).equals(rows.select(CLASS_PROBS))


def test_the_configuration_files_say_what_was_done() -> None:
    _, folder = finished("gru")
    facts = {path.stem: yaml.safe_load(path.read_text()) for path in (folder / "config").iterdir()}

    assert facts["training_config"]["model_name"] == "gru"
    assert facts["training_config"]["random_seed"] == 42
    assert facts["training_config"]["model_config"] == RECURRENT
    assert facts["model_config"]["window"] == 8
    assert facts["model_config"]["hidden"] == 8
    assert facts["feature_config"]["feature_set"] == "neural_optimal"
    assert facts["feature_config"]["columns"] == list(COLUMNS)
    assert "constant" not in facts["feature_config"]["used"]
    assert facts["feature_config"]["dataset"] == dataset().hash
    again = CLASSIFIERS["gru"].load()(**facts["model_config"])
    assert again.params.model_dump(mode="json") == facts["model_config"]


def test_importance_is_sorted_cumulated_and_categorised() -> None:
    _, folder = finished("lightgbm")
    table = json.loads((folder / "metrics" / "feature_importance.json").read_text())

    assert list(table[0]) == ["feature", "importance", "category", "cumulative"]
    shares = [row["importance"] for row in table]
    assert shares == sorted(shares, reverse=True)
    assert table[-1]["cumulative"] == pytest.approx(1.0)
    assert table[0]["feature"] in ("signal", "hvol_10")
    assert {row["feature"]: row["category"] for row in table}.items() <= COLUMNS.items()


def test_a_model_without_importance_leaves_an_empty_table_and_a_picture() -> None:
    _, folder = finished("gru")

    assert json.loads((folder / "metrics" / "feature_importance.json").read_text()) == []
    assert importance_table({}, {}).columns == ["feature", "importance", "category", "cumulative"]
    for picture in (folder / "plots").iterdir():
        assert picture.read_bytes().startswith(b"\x89PNG")
        assert picture.stat().st_size > 3000


def test_curves_of_one_kind_share_a_panel_and_every_series_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    from nightcast.reports import run_pictures

    drawn: list[Any] = []
    monkeypatch.setattr(run_pictures, "_png", lambda figure, title: drawn.append(figure) or b"")
    history = {
        name: [0.5, 0.4, 0.3]
        for name in ("train_loss", "val_loss", "val_nll", "train_accuracy", "val_accuracy", "val_f1_long", "lr")
    }

    run_pictures.curves_picture(history, title="run")

    panels = {axes.get_ylabel(): [line.get_label() for line in axes.lines] for axes in drawn[0].axes}
    assert panels == {
        "loss": ["train_loss", "val_loss", "val_nll"],
        "score": ["train_accuracy", "val_accuracy"],
        "F1 by class": ["val_f1_long"],
        "learning rate": ["lr"],
    }
    train, val = drawn[0].axes[1].lines
    assert train.get_color() == val.get_color()
    assert train.get_linestyle() != val.get_linestyle()
    assert all(tick == int(tick) for axes in drawn[0].axes for tick in axes.get_xticks())


def test_the_log_tells_the_run_and_its_epochs() -> None:
    _, folder = finished("gru")
    text = (folder / "logs" / "training.log").read_text()

    for words in (folder.name, "training and", "validation decisions of 2 symbols", "2 epochs", "val_loss", "wrote"):
        assert words in text
    assert "Traceback" not in text


def test_the_tearsheet_fetches_nothing() -> None:
    _, folder = finished("logistic")
    page = (folder / "tearsheet.html").read_text()

    assert f"logistic, {H} bars ahead" in page
    assert not re.findall(r"https?://|url\(|@import|<script|<link(?! rel=.icon. href=.data:,.)|<img", page)


def test_a_run_directory_names_no_place_of_this_machine_but_where_it_was_asked_to_write() -> None:
    _, folder = finished("voting")
    root = str(Path(__file__).parents[2])

    for path in folder.rglob("*"):
        if path.is_file() and path.suffix in (".json", ".yaml", ".html", ".log"):
            assert root not in path.read_text(), path.name


# -- what is told and refused ----------------------------------------------------------------------------------------


def test_the_run_tells_its_steps(tmp_path: Path) -> None:
    class Heard:
        def __init__(self) -> None:
            self.lines: list[str] = []

        def stage(self, name: str, total: int | None = None) -> None:
            self.lines.append(f"{name} of {total}")

        def step(self, message: str = "", advance: int = 1) -> None:
            self.lines.append(message)

    heard = Heard()
    trainer = Trainer(TrainerConfig("logistic", H, output_dir=tmp_path, preset="ci"), heard)  # type: ignore[arg-type]
    trainer.run_full_pipeline(container())

    assert heard.lines == ["load of 4", "prepare and train", "evaluate", "save", str(trainer.output_path)]


def test_an_own_configuration_overrides_the_preset_and_unknown_names_are_refused() -> None:
    config = TrainerConfig(
        "gru",
        H,
        sequence_length=12,
        batch_size=32,
        max_epochs=7,
        early_stopping_patience=2,
        preset="ci",
        model_config={"hidden": 9},
    )
    params = Trainer(config).model.params.model_dump()
    assert {name: params[name] for name in ("window", "batch_size", "epochs", "patience", "hidden")} == {
        "window": 12,
        "batch_size": 32,
        "epochs": 7,
        "patience": 2,
        "hidden": 9,
    }
    assert params["lr"] == CLASSIFIERS["gru"].presets["ci"]["lr"]
    # what a model does not know of the run's own settings does not concern it
    assert Trainer(replace(config, model_name="logistic", model_config={})).model.window == 1
    with pytest.raises(ConfigError, match="wibble"):
        Trainer(replace(config, model_config={"wibble": 1}))
    with pytest.raises(ConfigError, match=r"unknown model 'grru'; expected .*gru"):
        Trainer(replace(config, model_name="grru"))


def test_a_container_of_another_horizon_or_feature_set_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    trainer = Trainer(TrainerConfig("logistic", H, output_dir=tmp_path, preset="ci"))

    with pytest.raises(ConfigError, match="the container holds horizon 1; expected 4"):
        trainer.run_full_pipeline(container(horizon=1))
    with pytest.raises(ConfigError, match="holds the feature set 'ensemble_base'; expected 'boosting_optimal'"):
        trainer.run_full_pipeline(container("ensemble_base"))
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_fails_leaves_its_log_and_no_metrics(tmp_path: Path) -> None:
    y = label_columns(H)["y"]
    still = replace(
        dataset(), frame=dataset().frame.with_columns(pl.when(pl.col(y).is_not_null()).then(1).cast(pl.Int8).alias(y))
    )
    trainer = Trainer(TrainerConfig("logistic", H, output_dir=tmp_path, preset="ci"))

    with pytest.raises(TrainingError, match="hold the classes neutral only"):
        trainer.run_full_pipeline(TimeSeriesDataContainer(still, H, "boosting_optimal"))

    assert artefacts(trainer.output_path) == {"logs/training.log"}
    assert "neutral only" in (trainer.output_path / "logs" / "training.log").read_text()


def test_two_runs_never_share_a_directory(tmp_path: Path) -> None:
    trainer = Trainer(TrainerConfig("logistic", H, output_dir=tmp_path, preset="ci"))
    trainer.run_full_pipeline(container())

    with pytest.raises(FileExistsError):
        trainer.run_full_pipeline(container())


def test_a_model_that_never_takes_a_position_has_null_trading_numbers(tmp_path: Path) -> None:
    """On labels that are nearly all neutral the most probable class is neutral everywhere."""
    y = label_columns(H)["y"]
    calm = pl.when(pl.int_range(pl.len()) % 40 < 38).then(1).otherwise(pl.col(y)).cast(pl.Int8).alias(y)
    quiet = replace(dataset(), frame=dataset().frame.with_columns(pl.when(pl.col(y).is_not_null()).then(calm).alias(y)))
    trainer = Trainer(TrainerConfig("logistic", H, output_dir=tmp_path, preset="ci"))

    answer = trainer.run_full_pipeline(TimeSeriesDataContainer(quiet, H, "boosting_optimal"))

    trading = answer["evaluation_metrics"]["trading"]
    assert trading["num_trades"] == 0
    assert trading["sharpe_ratio"] is None
    assert "No position was ever taken" in (trainer.output_path / "tearsheet.html").read_text()
