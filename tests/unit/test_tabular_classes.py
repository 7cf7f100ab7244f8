"""Tabular classifiers: what their libraries fitted is what numpy predicts, stops early, and is calibrated in time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.classifier import Inputs, Samples
from models.classifiers import CLASSIFIERS
from models.families.boosted_classes import CatBoostClassifier, LightGBMClassifier, XGBoostClassifier
from models.families.classical_classes import Forest, Logistic, RandomForest, Svm, fit_sigmoid, machine_scores
from models.families.tabular_classes import PRIOR_SHARE, Table, horizon_table, softmax
from nightcast.contracts.errors import ConfigError
from nightcast.contracts.hashing import derive_seed

BOOSTERS = (XGBoostClassifier, LightGBMClassifier, CatBoostClassifier)


def samples(
    n: int, seed: int, *, signal: float = 1.0, classes: int = 3, columns: int = 6, hold: int = 1, start: int = 0
) -> Samples:
    """One horizon; the class follows the first column, the others are noise."""
    rng = np.random.default_rng(seed)
    base = rng.normal(size=(n, columns)).astype(np.float32)
    score = signal * base[:, 0] + rng.normal(size=n)
    y = np.where(score > 0.7, 2, np.where(score < -0.7, 0, 1)) if classes == 3 else np.where(score > 0, 2, 1)
    weight = rng.uniform(0.5, 1.5, n)
    times = np.datetime64("2024-01-01", "us") + (start + np.arange(n)) * np.timedelta64(5, "m")
    inputs = Inputs(
        base=base,
        rows=np.arange(n),
        names=tuple(f"c{i}" for i in range(columns)),
        horizons=(hold,),
        raw=np.empty((0, 5)),
        segment=np.zeros(n, dtype=np.int64),
        times=times,
        symbol=np.zeros(n, dtype=np.int64),
    )
    y = y.astype(np.int8)[:, None]
    return Samples(inputs, y, (weight / weight.mean()).astype(np.float32)[:, None], np.full((n, 1), hold, np.int32))


def table(its: Samples) -> Table:
    classes = tuple(int(k) for k in np.unique(its.y[its.known(0), 0]))
    return horizon_table(its, its.inputs.table(), 0, classes)


def nothing() -> Samples:
    full = samples(10, 0)
    rows = full.inputs.rows[:0]
    empty = Inputs(**{**vars(full.inputs), "rows": rows})
    return Samples(empty, full.y[:0], full.weight[:0], full.hold[:0])


def log_loss(probs: np.ndarray, its: Samples) -> float:
    return float(-np.log(probs[np.arange(len(probs)), 0, its.y[:, 0]]).mean())


# -- numpy says what the library says --------------------------------------------------------------------------------


@pytest.mark.parametrize("classes", [2, 3])
def test_a_forest_laid_out_as_arrays_answers_as_scikit_learn_does(classes: int) -> None:
    from sklearn.ensemble import RandomForestClassifier

    part, new = table(samples(600, 1, classes=classes)), samples(400, 2).inputs.table()
    forest = RandomForestClassifier(n_estimators=25, max_depth=7, min_samples_leaf=3, random_state=4)
    forest.fit(part.x, part.y, sample_weight=part.weight)

    laid_out = Forest.of(forest)

    assert np.abs(laid_out.probabilities(new) - forest.predict_proba(new)).max() < 1e-9
    assert laid_out.importance == pytest.approx(forest.feature_importances_)


def test_the_forest_is_fitted_by_its_parameters_and_draws_as_few_rows_as_labels_are_unique(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import sklearn.ensemble

    seen: dict[str, Any] = {}
    real = sklearn.ensemble.RandomForestClassifier

    def spy(**given: Any) -> Any:
        seen.update(given)
        return real(**given)

    monkeypatch.setattr(sklearn.ensemble, "RandomForestClassifier", spy)
    part = table(samples(4000, 1, hold=10))

    RandomForest(trees=3).fit_horizon(part, table(nothing()), seed=7)

    # ten labels are alive at every bar but the first nine and the last nine
    assert seen["max_samples"] == pytest.approx(400, rel=0.01)
    assert {k: seen[k] for k in ("max_depth", "min_samples_split", "min_samples_leaf", "max_features", "n_jobs")} == {
        "max_depth": 10,
        "min_samples_split": 20,
        "min_samples_leaf": 10,
        "max_features": "sqrt",
        "n_jobs": 1,
    }
    RandomForest(trees=3, row_share=0.5).fit_horizon(part, table(nothing()), seed=7)
    assert seen["max_samples"] == 2000


@pytest.mark.parametrize("classes", [2, 3])
def test_logistic_coefficients_answer_as_scikit_learn_does(classes: int) -> None:
    from sklearn.linear_model import LogisticRegression

    part, new = table(samples(500, 1, classes=classes)), samples(300, 2).inputs.table()
    solver = LogisticRegression(C=1.0, max_iter=500).fit(part.x.astype(float), part.y, sample_weight=part.weight)

    model = Logistic()
    fitted = model.fit_horizon(part, table(nothing()), seed=1)

    ours = model.class_probabilities(fitted.model, new)
    assert np.abs(ours - solver.predict_proba(new.astype(float))).max() < 1e-9
    assert fitted.rounds == solver.n_iter_[0]


@pytest.mark.parametrize("classes", [2, 3])
def test_svm_scores_are_those_of_scikit_learn(classes: int) -> None:
    from sklearn.kernel_approximation import Nystroem
    from sklearn.svm import LinearSVC

    part, later = table(samples(500, 1, classes=classes)), table(samples(200, 3, classes=classes, start=600))
    new = samples(300, 2).inputs.table()
    model = Svm(landmarks=30)

    fitted = model.fit_horizon(part, later, seed=5).model

    features = Nystroem(gamma=0.3 / 6, n_components=30, random_state=5)
    machine = LinearSVC(C=0.1, dual=False, random_state=5)

    def phi(x: np.ndarray) -> np.ndarray:
        return np.hstack([features.transform(x), x / np.sqrt(6)])

    features.fit(part.x.astype(float))
    machine.fit(phi(part.x.astype(float)), part.y, sample_weight=part.weight)
    theirs = machine.decision_function(phi(new.astype(float))).reshape(len(new), -1)
    assert np.abs(machine_scores(fitted, new) - theirs).max() < 1e-9


def test_the_linear_part_of_the_svm_finds_a_weak_trend_among_many_columns() -> None:
    part, later, new = (
        table(samples(2000, seed, signal=0.3, columns=80, start=start))
        for seed, start in ((1, 0), (2, 3000), (3, 6000))
    )

    def skill(linear: float) -> float:
        model = Svm(landmarks=20, linear=linear)
        probs = model.class_probabilities(model.fit_horizon(part, later, seed=1).model, new.x)
        return float(np.corrcoef(probs[:, 2] - probs[:, 0], new.y)[0, 1])

    assert skill(1.0) > 0.1
    assert skill(1.0) > skill(1e-6) + 0.05


def test_softmax_survives_large_scores() -> None:
    assert softmax(np.array([[1e4, 0.0], [-1e4, -1e4]])) == pytest.approx(np.array([[1.0, 0.0], [0.5, 0.5]]))


# -- the machine's calibration ---------------------------------------------------------------------------------------


def test_svm_probabilities_are_calibrated_on_the_later_decisions() -> None:
    train, later, new = samples(1500, 1), samples(600, 2, start=2000), samples(4000, 3)

    model = Svm(landmarks=40).fit_samples(train, later, seed=1)

    probs = model.probabilities(new.inputs)[:, 0]
    hit = new.y[:, 0] == 2
    for low, high in ((0.0, 0.2), (0.2, 0.5), (0.5, 1.0)):
        inside = (probs[:, 2] >= low) & (probs[:, 2] < high)
        assert inside.sum() > 100
        assert abs(hit[inside].mean() - probs[inside, 2].mean()) < 0.06


def test_svm_scores_do_not_depend_on_the_decisions_its_probabilities_are_learnt_from() -> None:
    train, later = table(samples(600, 1)), table(samples(300, 2, start=800))
    other = table(samples(300, 9, signal=0.0, start=800))
    model = Svm(landmarks=20)

    one, two = (model.fit_horizon(train, valid, seed=1).model for valid in (later, other))

    assert np.array_equal(one.slope, two.slope)
    assert not np.allclose(one.sigmoid.slope, two.sigmoid.slope)


@pytest.mark.parametrize("classes", [2, 3])
def test_the_sigmoid_finds_a_planted_slope_and_offsets(classes: int) -> None:
    rng = np.random.default_rng(8)
    scores = rng.normal(size=(20_000, 1 if classes == 2 else 3))
    wide = np.hstack([np.zeros_like(scores), scores]) if classes == 2 else scores
    offset = np.array([0.2, -0.5, 0.3])[:classes]
    probs = softmax(1.7 * wide + offset)
    y = (rng.random(len(probs))[:, None] > probs.cumsum(axis=1)).sum(axis=1)

    fitted = fit_sigmoid(scores, y, np.ones(len(y)))

    assert np.abs(softmax(fitted.scores(scores)) - probs).max() < 0.03


def test_the_sigmoid_never_turns_the_scores_around() -> None:
    rng = np.random.default_rng(9)
    scores = rng.normal(size=(500, 3))
    against = (-scores).argmax(axis=1)

    fitted = fit_sigmoid(scores, against, np.ones(500))

    assert (np.diag(fitted.slope) > 0).all()


def test_without_validation_decisions_the_svm_takes_the_newest_of_its_own() -> None:
    train = samples(1000, 1, hold=5)
    model = Svm(landmarks=20)

    alone = model.fit_horizon(table(train), table(nothing()), seed=1).model

    earlier, newest = table(train).split_in_time(0.15)
    split = model.fit_horizon(earlier, newest, seed=1).model
    assert np.array_equal(alone.slope, split.slope)
    assert np.array_equal(alone.sigmoid.slope, split.sigmoid.slope)


@given(
    holds=st.lists(st.integers(1, 30), min_size=60, max_size=200),
    share=st.floats(0.05, 0.45),
    twice=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_no_label_of_the_older_part_ends_in_the_newest_part(holds: list[int], share: float, twice: bool) -> None:
    n = len(holds)
    clock = np.datetime64("2024-01-01", "us") + np.arange(n + 31) * np.timedelta64(5, "m")
    row = np.arange(n) // 2 if twice else np.arange(n)  # two symbols share each time
    end = row + np.array(holds)
    part = Table(
        np.zeros((n, 1), np.float32), np.zeros(n, np.int64), np.ones(n), row, end, clock[row], clock[end], n + 31
    )

    older, newest = part.split_in_time(share)

    assert len(newest) >= round(share * n)
    assert not len(older) or older.end_time.max() < newest.time.min()
    assert not len(older) or older.weight.mean() == pytest.approx(1.0)
    assert set(older.row.tolist()).isdisjoint(newest.row.tolist())


# -- boosting --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", BOOSTERS)
def test_boosting_stops_when_the_validation_loss_no_longer_falls(kind: type[Any]) -> None:
    train, later = samples(800, 1), samples(400, 2, start=900)

    model = kind(rounds=400, learning_rate=0.3, patience=8, depth=3).fit_samples(train, later, seed=1)

    curve = model.report.history["val_loss_1"]
    assert model.report.early_stopped
    assert len(curve) == model.report.epochs < 400
    assert model.report.best_epoch == int(np.argmin(curve)) + 1
    assert model.report.epochs == model.report.best_epoch + 8
    # what is kept is the booster of the best round: its loss is the curve's least
    part = table(later)
    told = model.class_probabilities(model.models[0], part.x)
    assert -np.average(np.log(told[np.arange(len(part)), part.y]), weights=part.weight) == pytest.approx(
        min(curve), abs=1e-5
    )


@pytest.mark.parametrize("kind", BOOSTERS)
def test_boosting_runs_all_rounds_without_validation_decisions(kind: type[Any]) -> None:
    model = kind(rounds=12, depth=3).fit_samples(samples(400, 1), nothing(), seed=1)

    assert (model.report.epochs, model.report.best_epoch, model.report.early_stopped) == (12, None, False)
    assert dict(model.report.history) == {}


@pytest.mark.parametrize("name", ["xgboost", "lightgbm", "catboost", "random_forest", "logistic", "svm"])
def test_every_family_finds_the_planted_column_and_beats_the_class_shares(name: str) -> None:
    entry = CLASSIFIERS[name]
    model = entry.load()(**entry.presets["ci"])
    new = samples(3000, 3)

    model.fit_samples(samples(2000, 1), samples(500, 2, start=2100), seed=1)

    probs = model.probabilities(new.inputs)
    assert log_loss(probs, new) < log_loss(np.tile(model.priors, (len(new.y), 1, 1)), new) - 0.1
    importance = model.importance()
    assert importance is None or max(importance, key=lambda column: importance[column]) == "c0"


@pytest.mark.parametrize("name", ["xgboost", "lightgbm", "catboost", "random_forest", "logistic", "svm"])
def test_a_column_that_does_not_vary_and_two_classes_break_nothing(name: str, tmp_path: Path) -> None:
    entry = CLASSIFIERS[name]
    train = samples(400, 1, classes=2)
    train.inputs.base[:, 3] = 0.0

    model = entry.load()(**entry.cheap).fit_samples(train, samples(100, 2, classes=2, start=500), seed=1)

    probs = model.probabilities(samples(200, 3).inputs)
    assert probs.shape == (200, 1, 3)
    assert 0 < probs[..., 0].min() == probs[..., 0].max() < 0.01
    assert probs[..., 2].std() > 0.01


def test_a_horizon_of_one_class_answers_its_prior() -> None:
    train = samples(400, 1)
    one = Samples(train.inputs, np.full_like(train.y, 2), train.weight, train.hold)

    model = Logistic().fit_samples(one, nothing(), seed=1)

    assert model.models == [None]
    assert np.allclose(model.probabilities(train.inputs), model.priors)
    assert model.importance() is None


def test_a_little_of_the_prior_keeps_every_class_possible() -> None:
    train = samples(600, 1, signal=50.0)

    model = RandomForest(trees=5, row_share=1.0).fit_samples(train, nothing(), seed=1)

    probs = model.probabilities(train.inputs)[:, 0]
    assert probs.min() == pytest.approx(PRIOR_SHARE * model.priors.min(), rel=0.5)


def test_inputs_with_other_columns_are_refused() -> None:
    model = Logistic().fit_samples(samples(400, 1), nothing(), seed=1)
    other = samples(10, 2)
    renamed = Inputs(**{**vars(other.inputs), "names": tuple(reversed(other.inputs.names))})

    with pytest.raises(ConfigError, match="c5"):
        model.probabilities(renamed)


def test_each_horizon_has_a_seed_of_its_own() -> None:
    one = samples(500, 1)
    inputs = Inputs(**{**vars(one.inputs), "horizons": (1, 2)})
    both = Samples(inputs, one.y.repeat(2, axis=1), one.weight.repeat(2, axis=1), one.hold.repeat(2, axis=1))
    none = nothing()
    empty = Samples(
        Inputs(**{**vars(none.inputs), "horizons": (1, 2)}),
        none.y.repeat(2, axis=1),
        none.weight.repeat(2, axis=1),
        none.hold.repeat(2, axis=1),
    )

    model = LightGBMClassifier(rounds=5).fit_samples(both, empty, seed=1)

    probs = model.probabilities(inputs)
    assert derive_seed(1, 1) != derive_seed(1, 2)
    assert not np.array_equal(probs[:, 0], probs[:, 1])


# -- the specification's numbers -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "numbers"),
    [
        (
            "xgboost",
            {
                "rounds": 500,
                "depth": 6,
                "min_child_weight": 10,
                "row_share": 0.8,
                "column_share": 0.8,
                "learning_rate": 0.05,
                "min_gain": 0.1,
                "l1": 0.1,
                "l2": 1,
                "patience": 50,
                "class_weight": "balanced",
            },
        ),
        (
            "lightgbm",
            {
                "rounds": 500,
                "depth": 6,
                "leaves": 31,
                "min_leaf_rows": 20,
                "row_share": 0.8,
                "column_share": 0.8,
                "learning_rate": 0.05,
                "l1": 0.1,
                "l2": 1,
                "patience": 50,
            },
        ),
        (
            "catboost",
            {
                "rounds": 500,
                "depth": 6,
                "learning_rate": 0.05,
                "l2": 3,
                "random_strength": 1,
                "bagging_temperature": 1,
                "patience": 50,
            },
        ),
        (
            "random_forest",
            {"trees": 200, "depth": 10, "min_split_rows": 20, "min_leaf_rows": 10, "column_share": "sqrt"},
        ),
        ("logistic", {"c": 1, "iterations": 500}),
        ("svm", {"class_weight": "none"}),
    ],
)
def test_the_seed_preset_has_the_specifications_numbers(name: str, numbers: dict[str, Any]) -> None:
    entry = CLASSIFIERS[name]

    params = entry.load()(**entry.presets["seed"]).params

    assert {key: getattr(params, key) for key in numbers} == numbers
    assert params.max_rows is None
    assert params.feature_set == "boosting_optimal"
