"""The plain contract of arrays: every registered model is made, fitted, asked, stored and described alike."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from models.classifiers import CLASSIFIERS
from models.factory import (
    REGISTRY,
    BaseModel,
    CatalogModel,
    ModelRegistry,
    PredictionOutput,
    TrainingMetrics,
)
from nightcast.contracts.errors import ConfigError, RegistryError, TrainingError

ROOT = Path(__file__).parents[2]
NAMES = sorted(name for name, entry in CLASSIFIERS.items() if not entry.capabilities.baseline)
PROMISED = {
    "boosting": {"xgboost", "lightgbm", "catboost"},
    "neural": {"lstm", "gru", "tcn"},
    "classical": {"random_forest", "logistic", "svm"},
    "ensemble": {"voting", "stacking", "blending"},
}
TREES = ("xgboost", "lightgbm", "catboost", "random_forest")
FEATURES, LENGTH = 5, 8


@dataclass(frozen=True)
class Data:
    """Training and validation arrays, and the classes of both."""

    x: NDArray[np.float32]
    y: NDArray[np.int64]
    x_val: NDArray[np.float32]
    y_val: NDArray[np.int64]


@functools.cache
def data(sequences: bool, rows: int = 480, seed: int = 3) -> Data:
    """The class follows the first feature, of the newest row where there are windows; the others are noise."""
    rng = np.random.default_rng(seed)
    shape = (rows + 160, LENGTH, FEATURES) if sequences else (rows + 160, FEATURES)
    x = rng.normal(size=shape).astype(np.float32)
    driver = (x[:, -1, 0] if sequences else x[:, 0]) + 0.3 * rng.normal(size=rows + 160)
    y = np.digitize(driver, [-0.5, 0.5])
    return Data(x[:rows], y[:rows], x[rows:], y[rows:])


def of(name: str) -> Data:
    return data(CLASSIFIERS[name].capabilities.sequence)


def fresh(name: str, **more: Any) -> BaseModel:
    return REGISTRY.create(name, dict(CLASSIFIERS[name].cheap), **more)


@functools.cache
def fitted(name: str) -> tuple[BaseModel, TrainingMetrics]:
    model, its = fresh(name), of(name)
    return model, model.fit(its.x, its.y, its.x_val, its.y_val)


def probs(model: BaseModel, x: NDArray[Any]) -> NDArray[np.float64]:
    return model.predict(x).class_probabilities


# -- every registered model ------------------------------------------------------------------------------------------


def test_the_four_families_hold_the_twelve_promised_models() -> None:
    listed = REGISTRY.list_models()

    assert {family: PROMISED[family] - set(listed[family]) for family in PROMISED} == {
        family: set() for family in PROMISED
    }
    assert sum(map(len, listed.values())) >= 12
    assert sorted(name for names in listed.values() for name in names) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_model_fits_arrays_and_answers_in_the_declared_shapes(name: str) -> None:
    model, _ = fitted(name)
    x = of(name).x_val

    answer = model.predict(x)

    assert isinstance(answer, PredictionOutput)
    assert answer.class_predictions.shape == answer.confidence.shape == (len(x),)
    assert answer.class_probabilities.shape == (len(x), 3)
    assert answer.class_probabilities.sum(axis=1) == pytest.approx(1.0)
    assert (answer.class_probabilities > 0).all()
    assert np.array_equal(answer.class_predictions, answer.class_probabilities.argmax(axis=1))
    assert np.array_equal(answer.confidence, answer.class_probabilities.max(axis=1))
    assert answer.metadata == {"model": name, "family": model.model_family}


@pytest.mark.parametrize("name", NAMES)
def test_the_eleven_training_metrics_tell_of_the_fit(name: str) -> None:
    model, metrics = fitted(name)
    its = of(name)

    assert [f.name for f in fields(TrainingMetrics)] == [
        *("train_loss", "val_loss", "train_accuracy", "val_accuracy", "train_f1", "val_f1"),
        *("epochs_trained", "training_time_seconds", "early_stopped", "best_epoch", "history"),
    ]
    answer = model.predict(its.x_val)
    picked = answer.class_probabilities[np.arange(len(its.y_val)), its.y_val]
    assert metrics.val_accuracy == pytest.approx((answer.class_predictions == its.y_val).mean())
    assert metrics.val_loss == pytest.approx(-np.log(picked).mean())
    assert 0 < metrics.train_loss < 3
    for share in (metrics.train_accuracy, metrics.train_f1, metrics.val_f1):
        assert 0 <= share <= 1
    assert metrics.epochs_trained >= 1
    assert metrics.training_time_seconds > 0
    assert isinstance(metrics.early_stopped, bool)
    assert metrics.best_epoch is None or 0 <= metrics.best_epoch <= metrics.epochs_trained
    assert all(np.isfinite(values).all() for values in metrics.history.values())
    json.dumps(metrics.history)


@pytest.mark.parametrize("name", sorted(PROMISED["boosting"] | PROMISED["classical"] | PROMISED["ensemble"]))
def test_what_is_no_network_learns_the_driver_from_a_few_hundred_rows(name: str) -> None:
    _, metrics = fitted(name)

    assert metrics.val_f1 > 0.55, "guessing by the prior reaches a third"


@pytest.mark.parametrize("name", NAMES)
def test_labels_from_minus_one_mean_the_same_classes(name: str) -> None:
    its = of(name)
    model = fresh(name)

    model.fit(its.x, its.y - 1, its.x_val, its.y_val - 1)

    assert np.array_equal(probs(model, its.x_val), probs(fitted(name)[0], its.x_val))


@pytest.mark.parametrize("name", NAMES)
def test_the_same_seed_gives_the_same_answer(name: str) -> None:
    its = of(name)
    again = fresh(name)
    again.fit(its.x, its.y, its.x_val, its.y_val)

    assert np.array_equal(probs(again, its.x_val), probs(fitted(name)[0], its.x_val))


@pytest.mark.parametrize("name", NAMES)
def test_sample_weights_move_the_answer_to_the_rows_that_weigh(name: str) -> None:
    its = of(name)
    plain, heavy = fresh(name), fresh(name)
    # without validation rows, whose weights are 1 and to which the SVM calibrates its probabilities
    nothing = its.x_val[:0], its.y_val[:0]

    plain.fit(its.x, its.y, *nothing)
    heavy.fit(its.x, its.y, *nothing, sample_weights=np.where(its.y == 2, 20.0, 1.0))

    assert probs(heavy, its.x_val)[:, 2].mean() > probs(plain, its.x_val)[:, 2].mean() + 0.01


@pytest.mark.parametrize("name", NAMES)
def test_the_scale_of_the_weights_does_not_matter(name: str) -> None:
    its = of(name)
    model = fresh(name)

    model.fit(its.x, its.y, its.x_val, its.y_val, sample_weights=np.full(len(its.y), 4.0))

    assert np.array_equal(probs(model, its.x_val), probs(fitted(name)[0], its.x_val))


@pytest.mark.parametrize("name", NAMES)
def test_a_saved_model_loads_into_a_new_one_and_answers_alike(name: str, tmp_path: Path) -> None:
    model, _ = fitted(name)
    model.save(tmp_path / "saved")

    other = REGISTRY.create(name)
    other.load(tmp_path / "saved")

    assert np.array_equal(probs(other, of(name).x_val), probs(model, of(name).x_val))
    assert other.get_feature_importance() == model.get_feature_importance()
    assert other.requires_sequences == model.requires_sequences
    files = {path.suffix for path in (tmp_path / "saved").rglob("*") if path.is_file()}
    assert files <= {".json", ".txt", ".ubj", ".cbm", ".safetensors"}, "no pickle"


@pytest.mark.parametrize("name", NAMES)
def test_a_loaded_model_can_be_fitted_again_with_its_own_configuration(name: str, tmp_path: Path) -> None:
    fitted(name)[0].save(tmp_path)
    its = of(name)
    other = REGISTRY.create(name)
    other.load(tmp_path)

    other.fit(its.x, its.y, its.x_val, its.y_val)

    assert np.array_equal(probs(other, its.x_val), probs(fitted(name)[0], its.x_val))


@pytest.mark.parametrize("name", NAMES)
def test_importance_names_the_driver_or_is_absent(name: str) -> None:
    shares = fitted(name)[0].get_feature_importance()

    assert shares is not None or name not in TREES
    if shares is not None:
        assert sum(shares.values()) == pytest.approx(1.0)
        assert max(shares, key=lambda column: shares[column]) == "feature_000"


@pytest.mark.parametrize("name", NAMES)
def test_empty_validation_arrays_are_allowed_and_their_scores_are_nan(name: str) -> None:
    its = of(name)
    model = fresh(name)

    metrics = model.fit(its.x, its.y, its.x_val[:0], its.y_val[:0])

    assert np.isnan([metrics.val_loss, metrics.val_accuracy, metrics.val_f1]).all()
    assert np.isfinite([metrics.train_loss, metrics.train_accuracy, metrics.train_f1]).all()
    assert not metrics.early_stopped
    assert np.isfinite(probs(model, its.x_val)).all()


@pytest.mark.parametrize("name", NAMES)
def test_no_rows_get_no_answers(name: str) -> None:
    answer = fitted(name)[0].predict(of(name).x_val[:0])

    assert answer.class_probabilities.shape == (0, 3)
    assert answer.class_predictions.shape == answer.confidence.shape == (0,)


@pytest.mark.parametrize("name", NAMES)
def test_missing_values_are_survived(name: str) -> None:
    x = of(name).x_val.copy()
    x[::3, ..., 1] = np.nan
    x[1::3, ..., 2] = np.inf

    assert np.isfinite(probs(fitted(name)[0], x)).all()


@pytest.mark.parametrize("name", [n for n in NAMES if n in PROMISED["classical"] | PROMISED["neural"]])
def test_a_model_that_wants_scaling_does_it_itself(name: str) -> None:
    its, model = of(name), fresh(name)
    scale = np.array([1e3, 1, 1e-3, 1, 1], dtype=np.float32)

    model.fit(its.x * scale, its.y, its.x_val * scale, its.y_val)

    assert probs(model, its.x_val * scale) == pytest.approx(probs(fitted(name)[0], its.x_val), abs=0.02)


@pytest.mark.parametrize("name", NAMES)
def test_scaling_is_learnt_from_all_training_rows_and_no_others(name: str) -> None:
    its, (model, _) = of(name), fitted(name)
    assert isinstance(model, CatalogModel)
    assert model.classifier is not None
    pipeline = model.classifier.pipeline

    assert np.array_equal(pipeline.touched, np.arange(its.x.size // FEATURES))
    assert pipeline.fill == pytest.approx(np.median(its.x.reshape(-1, FEATURES), axis=0), abs=1e-6)


def test_windows_are_kept_apart_from_one_another() -> None:
    x = data(True).x_val

    for name in PROMISED["neural"]:
        model = fitted(name)[0]
        assert probs(model, x[::-1].copy())[::-1] == pytest.approx(probs(model, x), abs=1e-6)


# -- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_arrays_of_the_wrong_number_of_axes_are_refused_with_the_right_one(name: str) -> None:
    wrong = data(not CLASSIFIERS[name].capabilities.sequence)

    with pytest.raises(TrainingError, match=r"\(n, L, F\)|\(n, F\)"):
        fresh(name).fit(wrong.x, wrong.y, wrong.x_val, wrong.y_val)
    with pytest.raises(TrainingError, match="requires_sequences"):
        fitted(name)[0].predict(wrong.x_val)


@pytest.mark.parametrize("name", NAMES)
def test_other_columns_or_windows_than_those_of_the_fit_are_refused(name: str) -> None:
    its = of(name)

    with pytest.raises(TrainingError, match="was fitted on rows of shape"):
        fitted(name)[0].predict(its.x_val[..., :3])
    with pytest.raises(TrainingError, match="validation rows of shape"):
        fresh(name).fit(its.x, its.y, its.x_val[..., :3], its.y_val)
    if its.x.ndim == 3:
        with pytest.raises(TrainingError, match="was fitted on rows of shape"):
            fitted(name)[0].predict(its.x_val[:, 1:])
        with pytest.raises(TrainingError, match="validation rows of shape"):
            fresh(name).fit(its.x, its.y, its.x_val[:, 1:], its.y_val)


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (np.arange(480) % 4, "labels hold 0, 1, 2, 3"),
        (np.arange(480) % 4 - 1, "labels hold -1, 0, 1, 2"),
        (np.where(np.arange(480) == 7, np.nan, 1.0), "nan"),
        (np.full(480, 0.5), "0.5"),
        (np.array(["up", "down"] * 240), "'down', 'up'"),
        (np.eye(3, dtype=int)[np.arange(480) % 3], r"labels of shape \(480, 3\)"),
        (np.ones(480, dtype=int), "hold 1 class"),
        (np.arange(479) % 3, "480 training rows with 479 labels"),
    ],
    ids=["four classes", "four with -1", "a nan", "halves", "words", "one-hot", "one class", "too few"],
)
def test_labels_that_are_no_three_classes_are_refused_in_words(labels: NDArray[Any], words: str) -> None:
    its = data(False)

    with pytest.raises(TrainingError, match=words):
        fresh("logistic").fit(its.x, labels, its.x_val, its.y_val)


@pytest.mark.parametrize(
    "weights",
    [np.ones(7), np.full(480, -1.0), np.zeros(480), np.full(480, np.nan), np.ones((480, 1))],
    ids=["too few", "negative", "all zero", "nan", "two axes"],
)
def test_weights_that_do_not_weigh_the_rows_are_refused(weights: NDArray[Any]) -> None:
    its = data(False)

    with pytest.raises(TrainingError, match="sample weights of shape"):
        fresh("logistic").fit(its.x, its.y, its.x_val, its.y_val, sample_weights=weights)


def test_features_that_are_no_numbers_are_refused() -> None:
    its = data(False)
    words = np.full((480, FEATURES), "text")

    with pytest.raises(TrainingError, match="no numbers"):
        fresh("logistic").fit(words, its.y, its.x_val, its.y_val)


def test_a_failed_fit_leaves_the_earlier_one_in_place() -> None:
    its = data(False)
    model = fresh("logistic")
    model.fit(its.x, its.y, its.x_val, its.y_val)
    before = probs(model, its.x_val)

    with pytest.raises(TrainingError):
        model.fit(its.x[:, :2], np.zeros(480), its.x_val[:, :2], its.y_val)

    assert np.array_equal(probs(model, its.x_val), before)


@pytest.mark.parametrize("name", NAMES)
def test_an_unfitted_model_neither_predicts_nor_saves_nor_explains(name: str, tmp_path: Path) -> None:
    model = fresh(name)

    for act in (
        lambda: model.predict(of(name).x_val),
        lambda: model.save(tmp_path),
        lambda: model.get_feature_importance(),
    ):
        with pytest.raises(ConfigError, match="not fitted"):
            act()


def test_a_folder_of_another_model_or_of_nothing_is_refused(tmp_path: Path) -> None:
    fitted("logistic")[0].save(tmp_path / "logistic")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "factory.json").write_text('{"name": "logistic", "shape": 5}')

    with pytest.raises(RegistryError, match="'logistic'"):
        REGISTRY.create("lightgbm").load(tmp_path / "logistic")
    for folder in ("broken", "absent"):
        with pytest.raises(RegistryError, match=r"no readable factory\.json"):
            REGISTRY.create("logistic").load(tmp_path / folder)


# -- configuration ---------------------------------------------------------------------------------------------------


def test_a_wrong_hyperparameter_is_refused_at_once_with_the_allowed_ones() -> None:
    with pytest.raises(ConfigError, match="learning_rate"):
        REGISTRY.create("lightgbm", {"learning_speed": 0.1})
    with pytest.raises(ConfigError, match="hold = 0"):
        REGISTRY.create("lightgbm", hold=0)


def test_the_configuration_of_a_fit_replaces_that_of_construction() -> None:
    its = data(False)
    few, many = (REGISTRY.create("lightgbm", {"rounds": rounds, "depth": 3}) for rounds in (3, 12))

    told = few.fit(its.x, its.y, its.x_val, its.y_val, config={"rounds": 12})
    many.fit(its.x, its.y, its.x_val, its.y_val)

    assert told.epochs_trained == 12
    assert np.array_equal(probs(few, its.x_val), probs(many, its.x_val))


def test_the_default_configuration_makes_the_same_model_as_none() -> None:
    its = data(False)
    plain = REGISTRY.create("logistic")
    told = REGISTRY.create("logistic", plain.get_default_config())

    for model in (plain, told):
        model.fit(its.x, its.y, its.x_val, its.y_val)

    assert np.array_equal(probs(plain, its.x_val), probs(told, its.x_val))


def test_the_window_of_a_network_is_that_of_the_arrays() -> None:
    its = data(True)
    model = REGISTRY.create("gru", {**CLASSIFIERS["gru"].cheap, "window": 48})

    model.fit(its.x, its.y, its.x_val, its.y_val)

    assert isinstance(model, CatalogModel)
    assert model.classifier is not None
    assert model.classifier.window == LENGTH


def test_an_ensemble_with_a_network_reads_windows_and_its_tables_the_newest_row() -> None:
    its = data(True)
    config = {"members": ["logistic", "gru"], "member_params": {"gru": dict(CLASSIFIERS["gru"].cheap)}}
    model = REGISTRY.create("voting", config)
    assert model.requires_sequences

    model.fit(its.x, its.y, its.x_val, its.y_val)

    assert probs(model, its.x_val).shape == (160, 3)
    with pytest.raises(TrainingError, match=r"\(n, L, F\)"):
        model.predict(its.x_val[:, -1])
    with pytest.raises(ConfigError, match=f"windows of {LENGTH} rows and got arrays of 4"):
        REGISTRY.create("voting", config).fit(its.x[:, -4:], its.y, its.x_val[:, -4:], its.y_val)


@pytest.mark.parametrize("name", ["stacking", "blending", "svm"])
def test_models_that_split_the_training_rows_purge_by_the_hold_of_the_labels(name: str) -> None:
    its = data(False)
    answers = []
    for hold in (1, 60):
        model = fresh(name, hold=hold)
        model.fit(its.x, its.y, its.x_val[:0], its.y_val[:0])
        answers.append(probs(model, its.x_val))

    assert not np.array_equal(*answers)


# -- the registry ----------------------------------------------------------------------------------------------------


class Prior(BaseModel):
    """A user's own model: the class shares of the training labels."""

    def __init__(self, config: Mapping[str, Any] | None = None, *, power: float = 1.0) -> None:
        self.config, self.power = dict(config or {}), power
        self.shares = np.full(3, 1 / 3)

    model_family = "own"
    requires_scaling = False
    requires_sequences = False

    def get_default_config(self) -> dict[str, Any]:
        return {"pseudo": 1.0}

    def fit(
        self,
        X_train: NDArray[Any],
        y_train: NDArray[Any],
        X_val: NDArray[Any],
        y_val: NDArray[Any],
        sample_weights: NDArray[Any] | None = None,
        config: Mapping[str, Any] | None = None,
    ) -> TrainingMetrics:
        pseudo = {**self.get_default_config(), **self.config, **(config or {})}["pseudo"]
        counts = np.bincount(y_train, weights=sample_weights, minlength=3) + pseudo
        self.shares = counts / counts.sum()
        accuracy = float((y_train == self.shares.argmax()).mean())
        return TrainingMetrics(1.0, 1.0, accuracy, accuracy, 0.3, 0.3, 1, 0.0, False, None, {})

    def predict(self, X: NDArray[Any]) -> PredictionOutput:
        return PredictionOutput.of(np.tile(self.shares, (len(X), 1)), model="prior")

    def save(self, path: Path) -> None:
        path.mkdir(parents=True, exist_ok=True)
        (path / "shares.json").write_text(json.dumps(self.shares.tolist()))

    def load(self, path: Path) -> None:
        self.shares = np.array(json.loads((path / "shares.json").read_text()))


def test_a_model_of_ones_own_is_registered_created_described_fitted_and_stored(tmp_path: Path) -> None:
    registry = ModelRegistry(CLASSIFIERS)

    assert registry.register("prior", family="own", description="class shares")(Prior) is Prior

    assert registry.list_models()["own"] == ("prior",)
    assert registry.get_model_info("prior") == {
        "name": "prior",
        "family": "own",
        "description": "class shares",
        "requires_scaling": False,
        "requires_sequences": False,
        "default_config": {"pseudo": 1.0},
    }
    its, model = data(False), registry.create("prior", {"pseudo": 0.0}, power=2.0)
    assert isinstance(model, Prior)
    assert model.power == 2.0
    model.fit(its.x, its.y, its.x_val, its.y_val)
    assert model.predict(its.x_val).class_probabilities[0] == pytest.approx(np.bincount(its.y) / len(its.y))
    assert model.get_feature_importance() is None
    model.save(tmp_path)
    again = registry.create("prior")
    again.load(tmp_path)
    assert np.array_equal(probs(again, its.x_val), probs(model, its.x_val))


def test_a_class_without_config_gets_its_hyperparameters_as_arguments() -> None:
    class Keyword(Prior):
        def __init__(self, pseudo: float = 1.0) -> None:
            super().__init__({"pseudo": pseudo})

    registry = ModelRegistry()
    registry.register("keyword", "own")(Keyword)

    made = registry.create("keyword", {"pseudo": 3.0})

    assert isinstance(made, Keyword)
    assert made.config == {"pseudo": 3.0}
    with pytest.raises(ConfigError, match=r"'keyword' cannot be made: .*'wibble'"):
        registry.create("keyword", {"wibble": 1})


def test_registering_leaves_other_registries_alone() -> None:
    one, other = ModelRegistry(CLASSIFIERS), ModelRegistry()
    one.register("prior", "own")(Prior)

    assert "own" not in REGISTRY.list_models()
    assert other.list_models() == {}


def test_duplicate_and_unknown_names_are_value_errors_that_list_what_exists() -> None:
    registry = ModelRegistry(CLASSIFIERS)
    registry.register("prior", "own")(Prior)

    for name in ("prior", "xgboost"):
        with pytest.raises(ValueError, match=rf"'{name}' is registered already.*lightgbm.*prior"):
            registry.register(name, "own")(Prior)
    with pytest.raises(ValueError, match="'logistic' is registered already"):
        registry.register_entry(CLASSIFIERS["logistic"])
    for ask in (registry.create, registry.get_model_info):
        with pytest.raises(ValueError, match=r"unknown model 'xgbost'.*lightgbm.*prior.*xgboost"):
            ask("xgbost")
    assert registry.list_models()["own"] == ("prior",)


def test_what_is_no_model_cannot_be_registered() -> None:
    with pytest.raises(ConfigError, match=r"subclass of models\.factory\.BaseModel"):
        ModelRegistry().register("number", "own")(int)  # type: ignore[type-var]


def test_the_list_of_models_cannot_be_changed() -> None:
    listed = REGISTRY.list_models()

    with pytest.raises(TypeError):
        listed["boosting"] = ()  # type: ignore[index]
    assert isinstance(listed["boosting"], tuple)
    assert REGISTRY.list_models() == listed


@pytest.mark.parametrize("name", NAMES)
def test_the_info_agrees_with_the_model(name: str) -> None:
    info, model = REGISTRY.get_model_info(name), REGISTRY.create(name)

    assert info == {
        "name": name,
        "family": model.model_family,
        "description": CLASSIFIERS[name].summary,
        "requires_scaling": model.requires_scaling,
        "requires_sequences": model.requires_sequences,
        "default_config": model.get_default_config(),
    }
    json.dumps(info)


def test_describing_a_row_of_the_catalog_does_not_make_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    from models.classifier import Classifier

    def refuse(self: Classifier, **params: Any) -> None:
        raise AssertionError("the model was made")

    monkeypatch.setattr(Classifier, "__init__", refuse)

    for name in NAMES:
        assert REGISTRY.get_model_info(name)["default_config"]["feature_set"]
    with pytest.raises(AssertionError, match="was made"):
        REGISTRY.create("logistic")


def test_describing_every_model_imports_no_learning_library() -> None:
    script = """
import sys
from models.factory import REGISTRY
for names in REGISTRY.list_models().values():
    for name in names:
        REGISTRY.get_model_info(name)
heavy = {"torch", "lightgbm", "xgboost", "catboost", "sklearn", "scipy", "pandas", "numba"}
print(sorted(heavy & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"


def test_importing_the_factory_looks_for_no_plug_in() -> None:
    script = """
import nightcast.contracts.catalog as catalog
def refuse(**given): raise AssertionError("looked for plug-ins")
catalog.entry_points = refuse
import models.factory
print("imported")
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "imported"


def test_many_threads_register_list_and_ask_without_losing_a_model() -> None:
    registry = ModelRegistry(CLASSIFIERS)
    count, each = 8, 25
    start = threading.Barrier(count)
    errors: list[Exception] = []
    refused: list[str] = []

    def work(number: int) -> None:
        start.wait()
        try:
            for i in range(each):
                registry.register(f"own_{number}_{i}", "own")(Prior)
                registry.list_models()
                registry.get_model_info("logistic")
                try:
                    registry.register(f"shared_{i}", "shared")(Prior)
                except ValueError:
                    refused.append(f"shared_{i}")
        except Exception as error:  # noqa: BLE001 - a thread's error is shown by the main one
            errors.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(count)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)

    assert errors == []
    listed = registry.list_models()
    assert len(listed["own"]) == count * each
    assert len(listed["shared"]) == each
    assert len(refused) == (count - 1) * each
    assert set(PROMISED) <= set(listed)
