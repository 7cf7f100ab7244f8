"""The fold's pipeline learns from training rows alone, and transforms row by row."""

from __future__ import annotations

import json
import tracemalloc

import numpy as np
import pytest
from numpy.typing import NDArray

from models.families.classical_classes import Logistic
from models.pipeline import FoldPipeline, Scaling
from nightcast.contracts.bars import BarDataset
from nightcast.contracts.errors import ConfigError, TrainingError
from nightcast.contracts.recipe import FoldPlan
from nightcast.evaluation.leaks import RecordingArray, audit_rows
from nightcast.evaluation.purged import bar_folds
from tests.contract.bar_data import bar_dataset

SCALINGS: tuple[Scaling, ...] = ("none", "standard", "robust")
TRAIN = np.arange(0, 300)


def table(seed: int = 0, rows: int = 400) -> NDArray[np.float32]:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, 6)) * [1, 10, 0.01, 1, 1, 1] + [0, 5, 0, 0, 0, 0]
    x[:, 3] = x[:, 0] * 2 + 1e-4 * rng.normal(size=rows)  # repeats column 0
    x[:, 4] = 7.0  # constant
    x[rng.random(rows) < 0.1, 5] = np.nan
    return x.astype(np.float32)


def names(count: int = 6) -> tuple[str, ...]:
    return tuple(f"c{i}" for i in range(count))


@pytest.mark.parametrize("scaling", SCALINGS)
def test_rows_outside_training_have_no_say_to_the_last_bit(scaling: Scaling) -> None:
    calm, wild = table(), table()
    wild[300:] = np.random.default_rng(1).normal(0, 1e6, size=(100, 6))
    one = FoldPipeline(scaling=scaling).fit(calm, TRAIN, names())
    other = FoldPipeline(scaling=scaling).fit(wild, TRAIN, names())

    assert one.to_json() == other.to_json()
    assert np.array_equal(one.transform(calm)[:300], other.transform(wild)[:300])


@pytest.mark.parametrize("scaling", SCALINGS)
def test_a_recorder_sees_the_training_rows_touched_and_no_other(scaling: Scaling) -> None:
    base, rows = RecordingArray(table()), np.arange(10, 250)
    pipeline = FoldPipeline(scaling=scaling).fit(base, rows, names())  # type: ignore[arg-type]

    assert base.touched.tolist() == pipeline.touched.tolist() == rows.tolist()
    assert audit_rows(base.touched, rows) == audit_rows(pipeline.touched, rows) == []


def test_a_classifier_fits_its_pipeline_on_training_decisions_before_its_validation_part() -> None:
    data: BarDataset = bar_dataset({Logistic().params.feature_set})
    for fold in bar_folds(data, FoldPlan(cutoffs=300, refits=2, min_train=100)):
        view = data.training(fold)
        model = Logistic(validation=0.2)
        train, valid = model.split(view, seed=1)
        touched = model.pipeline.touched

        assert audit_rows(touched, train.inputs.rows, step="the pipeline") == []
        assert not np.isin(touched, valid.inputs.rows).any()
        assert view.times[touched].max() < view.times[valid.inputs.rows].min() <= np.datetime64(fold.train_end)


def test_standard_and_robust_scaling_centre_and_scale_the_training_rows() -> None:
    base = table()
    standard = FoldPipeline(scaling="standard", clip=0, prune=1).fit(base, TRAIN, names())
    robust = FoldPipeline(scaling="robust", clip=0, prune=1).fit(base, TRAIN, names())
    x, z = standard.transform(base)[TRAIN].astype(float), robust.transform(base)[TRAIN].astype(float)

    assert x.mean(axis=0) == pytest.approx(0, abs=1e-5)
    assert x.std(axis=0) == pytest.approx(1, abs=1e-4)
    low, middle, high = np.quantile(z, [0.25, 0.5, 0.75], axis=0)
    assert middle == pytest.approx(0, abs=1e-5)
    assert high - low == pytest.approx(1, abs=1e-4)


def test_constant_and_repeated_columns_are_dropped_the_later_one_first() -> None:
    pipeline = FoldPipeline().fit(table(), TRAIN, names())

    assert pipeline.names_out == ("c0", "c1", "c2", "c5")
    assert FoldPipeline(prune=1).fit(table(), TRAIN, names()).names_out == ("c0", "c1", "c2", "c3", "c5")


def test_correlation_is_measured_on_training_rows_only() -> None:
    base = table()
    base[300:, 3] = np.random.default_rng(3).normal(size=100)

    assert "c3" not in FoldPipeline().fit(base, TRAIN, names()).names_out
    assert "c3" in FoldPipeline().fit(base, np.arange(250, 400), names()).names_out


def test_missing_and_infinite_values_become_the_training_median() -> None:
    base = table()
    base[0, 1], base[1, 1], base[350, 1] = np.nan, np.inf, -np.inf
    pipeline = FoldPipeline(clip=0).fit(base, TRAIN, names())
    median = np.median(base[2:300, 1])

    assert pipeline.fill[1] == median
    assert pipeline.transform(base)[[0, 1, 350], 1].tolist() == [median] * 3


def test_outer_values_are_clipped_to_the_training_quantiles() -> None:
    base = table()
    base[350, 1] = 1e9
    pipeline = FoldPipeline(clip=0.01).fit(base, TRAIN, names())

    assert pipeline.transform(base)[350, 1] == np.float32(np.quantile(base[TRAIN, 1].astype(float), 0.99))


def test_a_rare_flag_of_either_sign_survives_the_clip() -> None:
    base = table()
    base[:, 0] = 0.0
    base[[5, 6], 0] = [1.0, -1.0]
    pipeline = FoldPipeline(clip=0.01).fit(base, TRAIN, names())

    assert pipeline.transform(base)[[4, 5, 6], 0].tolist() == [0.0, 1.0, -1.0]


def test_transform_is_pure_and_row_by_row() -> None:
    base = table()
    pipeline = FoldPipeline(scaling="robust").fit(base, TRAIN, names())
    before, facts = base.copy(), pipeline.to_json()
    whole = pipeline.transform(base)
    parts = np.concatenate([pipeline.transform(base[:137]), pipeline.transform(base[137:])])

    assert np.array_equal(whole, parts)
    assert np.array_equal(base, before, equal_nan=True)
    assert pipeline.to_json() == facts
    assert whole.dtype == np.float32
    assert whole.flags.c_contiguous
    assert np.isfinite(whole).all()


@pytest.mark.parametrize("scaling", SCALINGS)
def test_a_pipeline_comes_back_from_json_as_it_was(scaling: Scaling) -> None:
    pipeline = FoldPipeline(scaling=scaling, clip=0).fit(table(), TRAIN, names())
    again = FoldPipeline.from_json(json.loads(json.dumps(pipeline.to_json(), allow_nan=False)))

    assert again.to_json() == pipeline.to_json()
    assert again.names_out == pipeline.names_out
    assert np.array_equal(again.transform(table(5)), pipeline.transform(table(5)))


def test_the_identity_changes_nothing() -> None:
    base = np.nan_to_num(table())

    assert np.array_equal(FoldPipeline.identity(names()).transform(base), base)


def test_a_fit_needs_little_more_than_the_copies_it_declares() -> None:
    base = np.random.default_rng(0).normal(size=(20_000, 40)).astype(np.float32)
    tracemalloc.start()
    FoldPipeline(scaling="robust").fit(base, np.arange(20_000), names(40))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    # one 32-bit and one 64-bit copy, and a few columns
    assert peak < 14 * base.size


@pytest.mark.parametrize(
    ("fit", "kind", "words"),
    [
        (lambda: FoldPipeline().fit(table(), TRAIN, names(5)), ConfigError, "5 column names"),
        (lambda: FoldPipeline().fit(table(), TRAIN[:0], names()), TrainingError, "no training row for 6 columns"),
        (
            lambda: FoldPipeline().fit(np.ones((9, 2), np.float32), np.arange(9), names(2)),
            TrainingError,
            "none of the 2",
        ),
        (
            lambda: FoldPipeline().fit(table(), TRAIN, names()).transform(table()[:, :4]),
            ConfigError,
            "a base of 4 columns",
        ),
    ],
)
def test_what_cannot_be_fitted_is_named(fit: object, kind: type[Exception], words: str) -> None:
    with pytest.raises(kind, match=words):
        fit()  # type: ignore[operator]


def test_columns_that_are_empty_in_training_are_dropped() -> None:
    base = table()
    base[:300, 2] = np.nan
    pipeline = FoldPipeline(scaling="standard").fit(base, TRAIN, names())

    assert "c2" not in pipeline.names_out
    assert np.isfinite(pipeline.transform(base)).all()
