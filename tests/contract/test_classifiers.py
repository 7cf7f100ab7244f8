"""Every classifier of the catalog answers the same questions; a new entry is asked them without a new test."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray

from models.catalog import load_model
from models.classifier import MIN_ROWS, Classifier, Inputs, Samples
from models.classifiers import CLASSIFIERS
from models.families._class_template import ENTRY as TEMPLATE
from nightcast.contracts.bars import UNKNOWN_LABEL, BarDataset, BarView
from nightcast.contracts.catalog import Entry
from nightcast.contracts.columns import CLASS_PROBS, CUTOFF, HORIZON, ID, SIGNAL, TIME
from nightcast.contracts.errors import ConfigError, RegistryError, TrainingError
from nightcast.contracts.recipe import PRESETS
from nightcast.sources.market.label_game import LabelGame, label_game
from tests.contract.bar_data import HORIZONS, bar_dataset, last_fold

ROOT = Path(__file__).parents[2]
ENTRIES: Mapping[str, Entry] = {**CLASSIFIERS, TEMPLATE.name: TEMPLATE}
NAMES = sorted(ENTRIES)
TABULAR = sorted(name for name in NAMES if ENTRIES[name].family in ("boosting", "classical"))
CONVEX_OR_TREES = sorted(name for name in NAMES if ENTRIES[name].family in ("baseline", "boosting", "classical"))
PLAYERS = sorted(n for n in NAMES if not ENTRIES[n].capabilities.baseline or n in ("logistic10", "volatility_only"))
"""They read features, so they can learn."""
SUFFIXES = {".json", ".txt", ".ubj", ".cbm", ".safetensors"}
ASKED = [ID, TIME, CUTOFF, HORIZON]

# The same decision in another batch: sums in matrix products may be taken in another order.
EXACT = {"baseline": 1e-12, "boosting": 1e-12, "classical": 1e-9, "ensemble": 1e-9}
FLOAT32 = 1e-5


@functools.cache
def dataset(freq: str = "30min") -> BarDataset:
    sets = {ENTRIES[name].load()().params.feature_set for name in NAMES}
    return bar_dataset({*sets, "boosting_optimal", "neural_optimal", "plain10"}, freq=freq)


@functools.cache
def training_view(freq: str = "30min") -> BarView:
    return dataset(freq).training(last_fold(dataset(freq)))


@functools.cache
def decisions(freq: str = "30min") -> BarView:
    return next(dataset(freq).tests(last_fold(dataset(freq))))


decisions.__test__ = False  # type: ignore[attr-defined]


def fresh(name: str, **params: Any) -> Classifier:
    entry = ENTRIES[name]
    model: Classifier = entry.load()(**{**entry.cheap, **params})
    return model


@functools.cache
def fitted(name: str, freq: str = "30min") -> Classifier:
    return fresh(name).fit(training_view(freq), seed=3)


@functools.cache
def answer(name: str) -> pl.DataFrame:
    return fitted(name).predict(decisions()).frame


@functools.cache
def samples(name: str) -> tuple[Samples, Samples]:
    return fresh(name).split(training_view(), seed=3)


def bundle_bytes(model: Classifier, folder: Path) -> dict[str, bytes]:
    model.save(folder)
    return {str(f.relative_to(folder)): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()}


def values(frame: pl.DataFrame) -> NDArray[np.float64]:
    return frame.select(CLASS_PROBS).to_numpy()


def close(name: str, a: pl.DataFrame, b: pl.DataFrame) -> bool:
    assert a.select(ASKED).equals(b.select(ASKED))
    return bool(np.abs(values(a) - values(b)).max() <= EXACT.get(ENTRIES[name].family, FLOAT32))


def plug_in(folder: Path) -> Path:
    """A folder that holds what an installed package with one classifier would."""
    facts = folder / "night_bayes-1.0.dist-info"
    facts.mkdir(parents=True)
    (folder / "night_bayes.py").write_text("from models.families._class_template import ENTRY\n")
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: night-bayes\nVersion: 1.0\n")
    (facts / "entry_points.txt").write_text("[nightcast.classifiers]\ngaussian_bayes = night_bayes:ENTRY\n")
    return folder


def run(script: str, *arguments: str, path: tuple[Path, ...] = ()) -> str:
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (ROOT, *path))), "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def fresh_processes(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Two processes: each loads every bundle while it refuses to unpickle, and fits every entry anew."""
    home = tmp_path_factory.mktemp("bundles")
    dataset().save(home / "data")
    for name in NAMES:
        fitted(name).save(home / name)
    script = """
import json, sys
from pathlib import Path

refusing = False

def refuse(event, args):
    if refusing and event == "pickle.find_class":
        raise RuntimeError(f"unpickling {args}")

import catboost, lightgbm, sklearn.ensemble, torch, xgboost  # what importing does is not the bundle's doing
from models.catalog import load_model
from models.classifiers import CLASSIFIERS
from nightcast.contracts.bars import BarDataset
from nightcast.contracts.columns import CLASS_PROBS
from tests.contract.bar_data import last_fold
sys.addaudithook(refuse)
home, data = Path(sys.argv[1]), BarDataset.load(Path(sys.argv[1]) / "data")
fold = last_fold(data)
train, view = data.training(fold), next(data.tests(fold))
loaded, fitted = {}, {}
for name in sys.argv[2:]:
    refusing = True
    loaded[name] = load_model(home / name).predict(view).frame.select(CLASS_PROBS).rows()
    refusing = False
    entry = CLASSIFIERS[name]
    model = entry.load()(**entry.cheap).fit(train, seed=3)
    fitted[name] = model.predict(view).frame.select(CLASS_PROBS).rows()
print("ANSWERS" + json.dumps({"loaded": loaded, "fitted": fitted}))
"""
    plugged = plug_in(tmp_path_factory.mktemp("plugged"))
    return [json.loads(run(script, str(home), *NAMES, path=(plugged,)).split("ANSWERS")[1]) for _ in range(2)]


# -- what it says ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_every_decision_and_horizon_gets_probabilities_that_sum_to_one(name: str) -> None:
    view, frame = decisions(), answer(name)

    assert frame.height == len(view.rows) * len(HORIZONS)
    assert set(frame[HORIZON].unique()) == set(HORIZONS)
    symbols = np.asarray(view.symbols)[view.symbol[view.rows]].tolist()
    asked = set(zip(symbols, view.times[view.rows].tolist(), strict=True))
    assert set(frame.select(ID, TIME).rows()) == asked
    assert (frame[TIME] == frame[CUTOFF]).all()
    assert np.isfinite(values(frame)).all()
    assert (values(frame) > 0).all(), "no class is impossible"
    assert np.allclose(values(frame).sum(axis=1), 1.0, rtol=0, atol=1e-12)
    assert frame[SIGNAL].is_in([-1, 0, 1]).all()


@pytest.mark.parametrize("name", [n for n in NAMES if not ENTRIES[n].capabilities.baseline])
def test_what_reads_features_answers_differently_at_different_decisions(name: str) -> None:
    for horizon in HORIZONS:
        told = answer(name).filter(pl.col(HORIZON) == horizon)

        assert values(told).std(axis=0).max() > 1e-3


@pytest.mark.parametrize("name", NAMES)
def test_no_decisions_get_no_rows(name: str) -> None:
    view = replace(decisions(), rows=decisions().rows[:0])

    assert fitted(name).predict(view).frame.is_empty()


@pytest.mark.parametrize("name", NAMES)
def test_importance_is_of_its_own_columns_and_sums_to_one(name: str) -> None:
    importance = fitted(name).importance()

    if importance is None:
        assert ENTRIES[name].family not in ("boosting",)
        return
    assert set(importance) <= set(fitted(name).pipeline.names_out)
    assert min(importance.values()) >= 0
    assert sum(importance.values()) == pytest.approx(1.0)
    if ENTRIES[name].family in ("boosting", "classical"):
        assert max(importance, key=lambda column: importance[column]) in ("signal", "return_1", "return_4")


# -- what it depends on ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_nothing_after_a_decision_changes_its_probabilities(name: str) -> None:
    view = decisions()
    middle = np.sort(view.times[view.rows])[len(view.rows) // 2]
    late = view.times > middle
    rng = np.random.default_rng(1)
    base, bars = view.base.copy(), view.bars.copy()
    base[late] = rng.normal(0, 50, base[late].shape)
    bars[late] = np.exp(rng.normal(4, 1, bars[late].shape))
    model = fitted(name)

    scrambled = model.predict(replace(view, base=base, bars=bars)).frame

    early = pl.col(TIME) <= pl.lit(middle).cast(pl.Datetime("us"))
    assert close(name, scrambled.filter(early), answer(name).filter(early))
    assert scrambled.filter(early)[SIGNAL].equals(answer(name).filter(early)[SIGNAL])
    if not ENTRIES[name].capabilities.baseline:
        assert not scrambled.filter(~early).equals(answer(name).filter(~early)), "there was something to see"


@pytest.mark.parametrize("name", NAMES)
def test_a_subset_of_the_decisions_gets_the_same_answers(name: str) -> None:
    view = decisions()
    some = view.rows[1::3]
    keys = pl.DataFrame(
        {ID: np.asarray(view.symbols)[view.symbol[some]].tolist(), TIME: view.times[some]},
        schema_overrides={TIME: pl.Datetime("us")},
    )

    part = fitted(name).predict(replace(view, rows=some)).frame

    assert close(name, part, answer(name).join(keys, on=[ID, TIME], how="semi").sort(ID, CUTOFF, HORIZON))


@pytest.mark.parametrize("name", NAMES)
def test_the_order_of_the_decisions_is_the_order_of_the_answers(name: str) -> None:
    model, view = fitted(name), decisions()
    base = model.pipeline.transform(view.base[:, [view.names.index(c) for c in model.pipeline.names_in]])
    forward = model.inputs(view, base, view.rows)

    backward = model.probabilities(replace(forward, rows=view.rows[::-1].copy()))

    assert np.abs(backward[::-1] - model.probabilities(forward)).max() <= EXACT.get(ENTRIES[name].family, FLOAT32)


@pytest.mark.parametrize("name", [n for n in NAMES if n != "stratified_random"])
def test_a_symbol_gets_the_same_answers_without_the_others(name: str) -> None:
    """True of everything that does not draw by the symbol's number: a view of one symbol numbers it anew."""
    data = dataset()
    alone = replace(data, frame=data.frame.filter(pl.col(ID) == "BBB"))
    view = next(alone.tests(last_fold(data)))
    assert view.symbols == ("BBB",)

    frame = fitted(name).predict(view).frame

    assert frame.height > 100
    assert close(name, frame, answer(name).filter(pl.col(ID) == "BBB"))


@pytest.mark.parametrize("name", NAMES)
def test_missing_and_infinite_values_are_tolerated(name: str) -> None:
    view = decisions()
    base = view.base.copy()
    base[:, view.names.index("signal")] = np.nan
    base[::2, view.names.index("noise_a")] = np.inf
    base[1::2, view.names.index("noise_b")] = -np.inf

    frame = fitted(name).predict(replace(view, base=base)).frame

    assert np.isfinite(values(frame)).all()


@pytest.mark.parametrize("name", NAMES)
def test_only_training_decisions_are_touched_by_the_pipeline(name: str) -> None:
    touched = fitted(name).pipeline.touched
    train, later = samples(name)

    assert len(touched) >= MIN_ROWS
    assert set(touched.tolist()) <= set(training_view().rows.tolist())
    if len(later.inputs.rows):
        assert training_view().times[touched].max() < later.inputs.times[later.inputs.rows].min()
    assert set(touched.tolist()) == set(train.inputs.rows.tolist())


@pytest.mark.parametrize("name", NAMES)
def test_scrambling_what_follows_training_changes_no_fit(name: str, tmp_path: Path) -> None:
    data = dataset()
    fold = last_fold(data)
    noise = [
        pl.when(pl.col(TIME) > fold.train_end).then(pl.col(c) * -3.5 + 11).otherwise(pl.col(c)).alias(c)
        for c in ("open", "high", "low", "close", *data.columns)
    ]
    scrambled = replace(data, frame=data.frame.with_columns(noise))
    assert not scrambled.frame.equals(data.frame)

    model = fresh(name).fit(scrambled.training(fold), seed=3)

    assert bundle_bytes(model, tmp_path / "a") == bundle_bytes(fitted(name), tmp_path / "b")


@pytest.mark.parametrize("name", CONVEX_OR_TREES)
def test_decisions_without_weight_do_not_count(name: str) -> None:
    train, later = samples(name)
    mute = np.zeros(train.y.shape, dtype=bool)
    mute[::4] = True
    weight = np.where(mute, 0.0, train.weight).astype(np.float32)
    turned = np.where(mute & (train.y >= 0), 2 - train.y, train.y).astype(np.int8)
    assert (turned != train.y).any()

    plain = fresh(name).fit_samples(replace(train, weight=weight), later, seed=3)
    other = fresh(name).fit_samples(replace(train, weight=weight, y=turned), later, seed=3)

    assert np.array_equal(other.probabilities(later.inputs), plain.probabilities(later.inputs))
    if not ENTRIES[name].capabilities.baseline:
        full = fresh(name).fit_samples(replace(train, y=turned), later, seed=3)
        assert not np.array_equal(full.probabilities(later.inputs), plain.probabilities(later.inputs))


@pytest.mark.parametrize("name", NAMES)
def test_training_without_validation_decisions_works(name: str) -> None:
    model = fresh(name, validation=0.0).fit(training_view(), seed=3)

    assert np.isfinite(values(model.predict(decisions()).frame)).all()
    assert not model.report.early_stopped


@pytest.mark.parametrize("name", NAMES)
def test_a_class_that_training_lacks_gets_a_small_probability(name: str, tmp_path: Path) -> None:
    train, later = samples(name)
    y = train.y.copy()
    y[y[:, 1] == 0, 1] = -1
    weight = np.where(y >= 0, train.weight, 0.0).astype(np.float32)
    lacking = replace(train, y=y, weight=weight, hold=np.where(y >= 0, train.hold, 0))

    model = fresh(name).fit_samples(lacking, later, seed=3)

    probs = model.checked(model.probabilities(later.inputs), len(later.inputs.rows))
    assert (probs > 0).all()
    if name in TABULAR:
        assert probs[:, 1, 0].max() < 0.01
        assert probs[:, 0, 0].mean() > 0.1, "the other horizon knows the class"
        model.save(tmp_path)
        assert np.array_equal(type(model).load(tmp_path).probabilities(later.inputs), model.probabilities(later.inputs))


# -- it can be repeated ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_the_same_seed_gives_the_same_bits(name: str, tmp_path: Path) -> None:
    again = fresh(name).fit(training_view(), seed=3)

    assert again.predict(decisions()).frame.equals(answer(name))
    assert bundle_bytes(again, tmp_path / "a") == bundle_bytes(fitted(name), tmp_path / "b")


@pytest.mark.parametrize("name", NAMES)
def test_two_fresh_processes_fit_the_same_model(name: str, fresh_processes: list[dict[str, Any]]) -> None:
    first, second = (np.array(process["fitted"][name]) for process in fresh_processes)

    assert np.array_equal(first, second)
    assert np.array_equal(first, values(answer(name)))


@pytest.mark.parametrize("name", NAMES)
def test_a_bundle_answers_alike_in_a_process_that_refuses_pickle(
    name: str, fresh_processes: list[dict[str, Any]]
) -> None:
    assert np.array_equal(np.array(fresh_processes[0]["loaded"][name]), values(answer(name)))


@pytest.mark.parametrize("name", NAMES)
def test_a_second_fit_of_one_object_is_a_fresh_one(name: str, tmp_path: Path) -> None:
    early = last_fold(dataset(), share=0.6)
    model = fresh(name).fit(dataset().training(early), seed=8)

    refitted = model.fit(training_view(), seed=3)

    assert bundle_bytes(refitted, tmp_path / "a") == bundle_bytes(fitted(name), tmp_path / "b")


@pytest.mark.parametrize("name", NAMES)
def test_predicting_changes_neither_the_model_nor_its_next_answer(name: str, tmp_path: Path) -> None:
    model = fitted(name)
    before = bundle_bytes(model, tmp_path / "before")

    model.predict(training_view())

    assert bundle_bytes(model, tmp_path / "after") == before
    assert model.predict(decisions()).frame.equals(answer(name))


@pytest.mark.parametrize("name", NAMES)
def test_the_random_state_of_the_caller_is_left_alone(name: str) -> None:
    np.random.seed(5)
    expected = np.random.random(3)
    np.random.seed(5)

    fresh(name).fit(training_view(), seed=3).predict(decisions())

    assert np.array_equal(np.random.random(3), expected)


# -- its bundle ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_a_saved_model_loads_and_answers_alike(name: str, tmp_path: Path) -> None:
    first = bundle_bytes(fitted(name), tmp_path / "bundle")

    loaded = ENTRIES[name].load().load(tmp_path / "bundle")

    assert type(loaded) is type(fitted(name))
    assert loaded.predict(decisions()).frame.equals(answer(name))
    assert loaded.report == fitted(name).report
    assert bundle_bytes(loaded, tmp_path / "again") == first


@pytest.mark.parametrize("name", sorted(CLASSIFIERS))
def test_the_catalog_finds_the_class_of_a_bundle(name: str, tmp_path: Path) -> None:
    fitted(name).save(tmp_path)

    assert type(load_model(tmp_path)) is type(fitted(name))


@pytest.mark.parametrize("name", NAMES)
def test_a_bundle_holds_no_pickle(name: str, tmp_path: Path) -> None:
    files = bundle_bytes(fitted(name), tmp_path)

    assert {Path(file).suffix for file in files} <= SUFFIXES
    for file, content in files.items():
        # Protocol 2 and later begin with PROTO; zip archives (torch, numpy) hold pickles.
        assert not content.startswith((b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05", b"PK\x03\x04")), file
        assert b"data.pkl" not in content, file


@pytest.mark.parametrize("name", NAMES)
def test_a_bundle_names_no_path_of_this_machine(name: str, tmp_path: Path) -> None:
    for file, content in bundle_bytes(fitted(name), tmp_path).items():
        for place in (tempfile.gettempdir(), Path.home(), ROOT):
            assert f"{place}/".encode() not in content, file


@pytest.mark.parametrize("name", NAMES)
def test_a_broken_bundle_is_refused_in_words(name: str, tmp_path: Path) -> None:
    fitted(name).save(tmp_path)
    facts = json.loads((tmp_path / "model.json").read_text())
    natives = sorted(f for f in tmp_path.rglob("*") if f.is_file() and f.name != "model.json" and f.suffix != ".json")
    if natives:
        natives[0].write_bytes(b"\x00broken" + natives[0].read_bytes()[7:40])
    else:
        facts["pipeline"] = {}
        (tmp_path / "model.json").write_text(json.dumps(facts))

    with pytest.raises(RegistryError):
        ENTRIES[name].load().load(tmp_path)


# -- what it refuses -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_other_horizons_frequencies_and_columns_are_refused(name: str) -> None:
    view = decisions()
    other = view.schema.model_copy(update={"horizons": (2, 4)})
    with pytest.raises(ConfigError, match=r"\[1, 4\]"):
        fitted(name).predict(replace(view, schema=other))

    slow = view.schema.model_copy(update={"freq": dataset("h").schema.freq})
    with pytest.raises(ConfigError, match="30min"):
        fitted(name).predict(replace(view, schema=slow))

    lost = fitted(name).pipeline.names_in[-1]
    keep = [i for i, column in enumerate(view.names) if column != lost]
    with pytest.raises(ConfigError, match=lost):
        fitted(name).predict(replace(view, base=view.base[:, keep], names=tuple(view.names[i] for i in keep)))


@pytest.mark.parametrize("name", NAMES)
def test_columns_are_found_by_name_wherever_they_stand(name: str) -> None:
    view = decisions()
    turned = replace(view, base=view.base[:, ::-1].copy(), names=view.names[::-1])

    assert fitted(name).predict(turned).frame.equals(answer(name))


@pytest.mark.parametrize("name", NAMES)
def test_an_unfitted_model_neither_predicts_nor_saves(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not fitted"):
        fresh(name).predict(decisions())
    with pytest.raises(ConfigError, match="not fitted"):
        fresh(name).save(tmp_path)


@pytest.mark.parametrize("name", NAMES)
def test_a_view_without_labels_or_with_too_few_is_refused(name: str) -> None:
    with pytest.raises(TrainingError, match="without labels"):
        fresh(name).fit(decisions(), seed=3)
    view = training_view()
    assert view.labels is not None
    labels = replace(view.labels, y=view.labels.y[:30], hold=view.labels.hold[:30], ret=view.labels.ret[:30])
    with pytest.raises(TrainingError, match="training decisions"):
        fresh(name).fit(replace(view, rows=view.rows[:30], labels=labels), seed=3)


@pytest.mark.parametrize("name", NAMES)
def test_an_unknown_parameter_is_refused_with_the_allowed_ones(name: str) -> None:
    with pytest.raises(ConfigError, match="wibble") as caught:
        ENTRIES[name].load()(wibble=1)

    assert all(parameter in str(caught.value) for parameter in ENTRIES[name].load().Params.model_fields)


# -- it learns -------------------------------------------------------------------------------------------------------


@functools.cache
def game(decisions: int) -> LabelGame:
    return label_game(0.7, decisions, window=64, n_test=20_000, seed=5)


def reached(name: str, its: LabelGame) -> float:
    """Share of the way from guessing by the prior to the best possible macro-F1, with the preset `ci`."""
    model = ENTRIES[name].load()(**ENTRIES[name].presets["ci"])
    model.fit(its.train, seed=1)
    return its.reached(values(model.predict(its.test).frame))


@pytest.mark.parametrize("name", PLAYERS)
def test_on_a_known_posterior_it_comes_close_to_the_best_possible_f1_within_a_minute(name: str) -> None:
    began = time.process_time()

    assert reached(name, game(12_000)) >= 0.85
    assert time.process_time() - began <= 60


@pytest.mark.parametrize("name", sorted(n for n in NAMES if ENTRIES[n].family == "baseline" and n not in PLAYERS))
def test_baselines_that_read_no_features_do_not_learn_the_game(name: str) -> None:
    assert reached(name, game(3_000)) < 0.1


# -- its row in the table --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_every_preset_makes_a_model_and_the_class_has_the_entrys_capabilities(name: str) -> None:
    entry = ENTRIES[name]
    assert set(entry.presets) == set(PRESETS)

    for preset in PRESETS:
        model = entry.load()(**entry.presets[preset])

        assert model.capabilities == entry.capabilities
        if preset != "seed":
            assert model.params.max_rows is None or model.params.max_rows >= 1000


@pytest.mark.parametrize("name", NAMES)
def test_daily_bars_work_alike(name: str) -> None:
    frame = fitted(name, "D").predict(decisions("D")).frame

    assert frame.height == len(decisions("D").rows) * len(HORIZONS)


def test_listing_the_classifiers_imports_no_heavy_library() -> None:
    script = """
import sys, models.classifiers
for entry in models.classifiers.CLASSIFIERS.values():
    entry.load()
heavy = {"torch", "lightgbm", "xgboost", "catboost", "sklearn", "scipy", "pandas", "numba", "safetensors"}
print(sorted(heavy & set(sys.modules)))
"""
    assert run(script).strip() == "[]"


def test_a_plug_in_enters_through_the_entry_point_group(tmp_path: Path) -> None:
    plugged = plug_in(tmp_path / "site")
    dataset().save(tmp_path / "data")
    script = """
import sys
from pathlib import Path
from models.catalog import load_model
from models.classifiers import CLASSIFIERS
from nightcast.contracts.bars import BarDataset
from tests.contract.bar_data import last_fold
home = Path(sys.argv[1])
data = BarDataset.load(home / "data")
choice = CLASSIFIERS.choose("gaussian_bayes", "ci", smoothing=0.5)
model = CLASSIFIERS[choice.name].load()(**choice.params).fit(data.training(last_fold(data)), seed=1)
model.save(home / "bundle")
view = next(data.tests(last_fold(data)))
assert load_model(home / "bundle").predict(view).frame.equals(model.predict(view).frame)
print("gaussian_bayes" in CLASSIFIERS, len(CLASSIFIERS))
"""
    assert run(script, str(tmp_path), path=(plugged,)).split() == ["True", str(len(CLASSIFIERS) + 1)]
    assert run("from models.classifiers import CLASSIFIERS; print('gaussian_bayes' in CLASSIFIERS)").split() == [
        "False"
    ]


def test_the_fixture_holds_two_symbols_a_gap_and_all_classes_at_every_horizon() -> None:
    view = training_view()

    assert view.series == ["AAA", "BBB"]
    assert len(np.unique(view.segment)) == 3
    assert view.labels is not None
    for h in range(len(HORIZONS)):
        assert np.bincount(view.labels.y[view.labels.y[:, h] >= 0, h]).min() > 50
    assert isinstance(fitted("logistic").inputs(view, view.base, view.rows), Inputs)


def test_with_tiers_clear_labels_weigh_more_and_nothing_else_changes() -> None:
    from nightcast.features.weights import quality_tier

    view = training_view()
    plain, tiered = (CLASSIFIERS["logistic"].load()(tiers=tiers).split(view, seed=1)[0] for tiers in (False, True))
    assert view.labels is not None
    place = {int(row): i for i, row in enumerate(view.rows)}
    at = [place[int(row)] for row in tiered.inputs.rows]
    its = view.labels.chosen(at)
    assert its.width is not None

    for h, horizon in enumerate(view.horizons):
        known = tiered.y[:, h] != UNKNOWN_LABEL
        of = [part[known, h] for part in (its.y, its.ret, its.width, its.hold)]
        assert its.ambiguous is not None
        tier = quality_tier(*of, horizon=horizon, ambiguous=its.ambiguous[known, h])
        ratio = tiered.weight[known, h] / plain.weight[known, h]
        assert len(np.unique(tier)) >= 3
        base = ratio[tier == 2].mean()
        for number, weight in enumerate((1.5, 1.25, 1.0, 0.5)):
            if (tier == number).any():
                assert ratio[tier == number] / base == pytest.approx(weight, rel=1e-3)
    assert np.array_equal(plain.y, tiered.y)
    assert np.array_equal(plain.inputs.base, tiered.inputs.base)


def test_tiers_need_to_know_the_barriers() -> None:
    view = training_view()
    assert view.labels is not None
    blind = replace(view, labels=replace(view.labels, width=None))

    with pytest.raises(TrainingError, match="without barriers"):
        CLASSIFIERS["logistic"].load()(tiers=True).split(blind, seed=1)
