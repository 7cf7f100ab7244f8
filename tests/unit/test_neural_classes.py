"""LSTM, GRU and TCN classifiers: they learn, store and answer alike, and read nothing but their window."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from models.catalog import load_model
from models.classifier import Inputs, Samples
from models.classifiers import CLASSIFIERS
from models.families.neural_classes import GruClassifier, LstmClassifier, SequenceClassifier, TcnClassifier
from models.nn.encoders import TcnEncoder
from models.nn.losses import CrossEntropy, MultiHorizonLoss
from models.training.callbacks import Callback
from models.training.engine import Run, Shuffled, TrainingReport
from models.training.scoring import evaluate
from nightcast.contracts.errors import ConfigError, RegistryError, TrainingError
from nightcast.sources.market.label_game import label_game

NAMES = ("lstm", "gru", "tcn")
SMALL: dict[str, Any] = {"window": 6, "hidden": 8, "head": 8, "epochs": 2, "batch_size": 64, "device": "cpu"}
each_model = pytest.mark.parametrize("name", NAMES)


def make(name: str, **params: Any) -> SequenceClassifier:
    model: SequenceClassifier = CLASSIFIERS[name].load()(**{**SMALL, **params})
    return model


def samples(
    count: int = 300, *, features: int = 4, horizons: tuple[int, ...] = (1, 5), lead: int = 6, seed: int = 0
) -> Samples:
    rng = np.random.default_rng(seed)
    bars = count + lead
    base = rng.standard_normal((bars, features)).astype(np.float32)
    rows = np.arange(lead, bars)
    inputs = Inputs(
        base=base,
        rows=rows,
        names=tuple(f"f{i}" for i in range(features)),
        horizons=horizons,
        raw=np.empty((0, 5)),
        segment=np.zeros(bars, dtype=np.int64),
        times=np.datetime64("2024-01-01", "us") + np.arange(bars) * np.timedelta64(5, "m"),
        symbol=np.zeros(bars, dtype=np.int64),
    )
    noisy = base[rows, 0][:, None] + rng.standard_normal((count, len(horizons)))
    y = np.digitize(noisy, [-0.7, 0.7]).astype(np.int8)
    return Samples(inputs, y, np.ones(y.shape, dtype=np.float32), np.ones(y.shape, dtype=np.int32))


def fitted(name: str, **params: Any) -> SequenceClassifier:
    return make(name, **params).fit_samples(samples(), samples(100, seed=1), seed=3, freq="5min")


# Learning.


@each_model
def test_the_ci_preset_comes_85_percent_of_the_way_from_guessing_to_the_oracle(name: str) -> None:
    game = label_game(0.7, 12_000, seed=4, n_test=10_000)
    model = CLASSIFIERS[name].load()(**CLASSIFIERS.choose(name, "ci").params)

    began = time.monotonic()
    model.fit(game.train, seed=1)
    seconds = time.monotonic() - began
    frame = model.predict(game.test).frame.sort("ds")

    assert game.reached(frame.select("p_short", "p_neutral", "p_long").to_numpy()) >= 0.85
    assert seconds < 60
    assert model.report.stopped in ("epochs", "patience"), "epochs bound the work, not the clock"


@each_model
def test_a_product_of_lags_inside_the_window_is_learned_too(name: str) -> None:
    game = label_game(1.2, 12_000, level=2, seed=4, n_test=10_000)
    model = CLASSIFIERS[name].load()(**CLASSIFIERS.choose(name, "ci").params).fit(game.train, seed=1)

    frame = model.predict(game.test).frame.sort("ds")

    assert game.reached(frame.select("p_short", "p_neutral", "p_long").to_numpy()) >= 0.85


@each_model
def test_without_anything_to_learn_the_probabilities_stay_near_the_climatology(name: str) -> None:
    game = label_game(0.0, 4000, seed=2, n_test=2000)
    model = CLASSIFIERS[name].load()(**CLASSIFIERS.choose(name, "ci").params).fit(game.train, seed=1)

    probs = model.predict(game.test).frame.select("p_short", "p_neutral", "p_long").to_numpy()

    assert np.abs(probs.mean(axis=0) - model.priors[0]).max() < 0.05
    assert model.report.stopped != "collapse"


@each_model
def test_an_untrained_network_begins_near_the_class_shares(name: str) -> None:
    train = samples()
    model = make(name)
    network = model._network(4, 2, seed=0)
    priors = np.array([[0.1, 0.8, 0.1], [0.3, 0.3, 0.4]])
    network.head.start_at(priors)

    share = evaluate(network, model._labelled(train), MultiHorizonLoss((1.0, 1.0))).share

    assert np.abs(share - priors).max() < 0.02


# Presets.


@each_model
@pytest.mark.parametrize("preset", ["ci", "nightly_cpu", "seed"])
def test_every_preset_is_accepted_and_names_the_scaled_windows_of_the_neural_features(name: str, preset: Any) -> None:
    entry = CLASSIFIERS[name]
    model = entry.load()(**CLASSIFIERS.choose(name, preset).params)

    assert model.params.feature_set == "neural_optimal"
    assert model.capabilities == entry.capabilities
    assert model.window == model.params.window
    assert (model.capabilities.scaling, model.capabilities.sequence) == ("robust", True)


@pytest.mark.parametrize("name", ["lstm", "gru"])
def test_the_seed_preset_of_the_recurrent_networks_has_the_specified_numbers(name: str) -> None:
    p = CLASSIFIERS[name].load()(**CLASSIFIERS.choose(name, "seed").params).params

    assert (p.hidden, p.layers, p.dropout, p.window, p.batch_size, p.epochs) == (128, 2, 0.3, 60, 256, 100)
    assert (p.lr, p.weight_decay, p.clip, p.patience, p.min_delta) == (1e-3, 1e-4, 1.0, 15, 1e-4)
    assert (p.optimiser, p.schedule, p.warmup, p.head, p.max_rows, p.amp) == ("adamw", "cosine", 5, 128, None, True)


def test_the_seed_preset_of_the_tcn_has_the_specified_numbers_and_a_level_more() -> None:
    p = CLASSIFIERS["tcn"].load()(**CLASSIFIERS.choose("tcn", "seed").params).params

    assert (p.hidden, p.layers, p.kernel, p.dropout, p.window) == (64, 5, 3, 0.2, 120)
    assert (p.batch_size, p.epochs, p.lr, p.weight_decay, p.patience) == (256, 100, 1e-3, 1e-4, 15)
    assert (p.optimiser, p.schedule, p.warmup) == ("adamw", "cosine", 5)


@each_model
def test_the_seed_preset_takes_a_step_on_the_cpu(name: str) -> None:
    params = CLASSIFIERS.choose(name, "seed", epochs=1, device="cpu").params
    train = samples(256, features=50, horizons=(1, 5, 20), lead=params["window"])

    model = CLASSIFIERS[name].load()(**params).fit_samples(train, replace_rows(train, 32), seed=1)

    assert model.report.epochs == 1
    assert model.probabilities(replace_rows(train, 8).inputs).shape == (8, 3, 3)


def replace_rows(given: Samples, count: int) -> Samples:
    inputs = replace(given.inputs, rows=given.inputs.rows[:count])
    return Samples(inputs, given.y[:count], given.weight[:count], given.hold[:count])


@pytest.mark.parametrize("preset", ["ci", "nightly_cpu", "seed"])
def test_the_tcns_receptive_field_covers_its_window_in_every_preset(preset: Any) -> None:
    model = CLASSIFIERS["tcn"].load()(**CLASSIFIERS.choose("tcn", preset).params)
    encoder = model._encoder(3)

    assert isinstance(encoder, TcnEncoder)
    assert encoder.receptive_field >= model.window


def test_a_tcn_that_would_not_see_its_whole_window_is_refused() -> None:
    with pytest.raises(ConfigError, match="4 layers of kernel 3 see 61"):
        TcnClassifier(window=120, layers=4)
    assert TcnClassifier(window=120, layers=5).window == 120
    assert TcnClassifier(window=120, layers=2, pool="attention").window == 120


# Answers.


@each_model
def test_a_subset_of_decisions_gets_the_answers_that_all_of_them_get(name: str) -> None:
    model, held = fitted(name), samples(700, seed=5).inputs
    chosen = np.array([3, 699, 400, 401, 17])

    every = model.probabilities(held)
    some = model.probabilities(replace(held, rows=held.rows[chosen]))
    alone = model.probabilities(replace(held, rows=held.rows[chosen[1:2]]))

    assert np.abs(some - every[chosen]).max() < 1e-6
    assert np.abs(alone - every[chosen[1:2]]).max() < 1e-6


@each_model
def test_probabilities_sum_to_one_and_do_not_change_from_call_to_call(name: str) -> None:
    model, held = fitted(name), samples(50, seed=5).inputs

    first = model.probabilities(held)

    assert first.shape == (50, 2, 3)
    assert first.sum(axis=2) == pytest.approx(1)
    assert np.array_equal(first, model.probabilities(held))
    assert model.probabilities(replace(held, rows=held.rows[:0])).shape == (0, 2, 3)


@each_model
def test_bars_after_a_decision_and_before_its_window_change_nothing(name: str) -> None:
    model, held = fitted(name), samples(60, seed=5).inputs
    rows = held.rows[[20, 30]]
    scrambled = held.base.copy()
    scrambled[: rows[0] - 6 + 1] = 9
    scrambled[rows[1] + 1 :] = -9

    before = model.probabilities(replace(held, rows=rows))
    after = model.probabilities(replace(held, rows=rows, base=scrambled))

    assert np.array_equal(before, after)


@each_model
def test_one_absurd_bar_counts_no_more_than_ten_scales(name: str) -> None:
    model, held = fitted(name), samples(60, seed=5).inputs
    absurd, ten = held.base.copy(), held.base.copy()
    absurd[30, 1], ten[30, 1] = 1e30, 10.0

    assert np.array_equal(model.probabilities(replace(held, base=absurd)), model.probabilities(replace(held, base=ten)))


@each_model
def test_the_same_seed_gives_the_same_bits_and_another_one_does_not(name: str, tmp_path: Path) -> None:
    held = samples(40, seed=5).inputs
    first, second = fitted(name), fitted(name)
    other = make(name).fit_samples(samples(), samples(100, seed=1), seed=4, freq="5min")
    first.save(tmp_path / "a")
    second.save(tmp_path / "b")

    assert np.array_equal(first.probabilities(held), second.probabilities(held))
    assert not np.array_equal(first.probabilities(held), other.probabilities(held))
    for file in ("model.json", "network.safetensors"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


# Bundles.


@each_model
def test_a_loaded_model_answers_to_the_bit_and_remembers_how_its_fit_went(name: str, tmp_path: Path) -> None:
    model, held = fitted(name), samples(80, seed=5).inputs
    model.save(tmp_path)

    torch.manual_seed(7)
    state = torch.get_rng_state()
    loaded = load_model(tmp_path)

    assert np.array_equal(loaded.probabilities(held), model.probabilities(held))
    assert isinstance(loaded.report, TrainingReport)
    assert loaded.report == model.report
    assert loaded.report.stopped == "epochs"
    assert torch.equal(state, torch.get_rng_state())
    assert {path.name for path in tmp_path.iterdir()} == {"model.json", "network.safetensors"}


def test_a_network_of_other_sizes_or_a_torn_file_is_refused(tmp_path: Path) -> None:
    fitted("gru").save(tmp_path)
    facts = json.loads((tmp_path / "model.json").read_text())
    facts["params"]["hidden"] = 16
    (tmp_path / "model.json").write_text(json.dumps(facts))
    with pytest.raises(RegistryError, match="network of GruClassifier cannot be read"):
        GruClassifier.load(tmp_path)

    fitted("gru").save(tmp_path)
    (tmp_path / "network.safetensors").write_bytes(b"torn")
    with pytest.raises(RegistryError, match="network of GruClassifier cannot be read"):
        GruClassifier.load(tmp_path)
    (tmp_path / "network.safetensors").unlink()
    with pytest.raises(RegistryError):
        GruClassifier.load(tmp_path)


# The fit's course.


def test_a_budget_that_cuts_a_fit_is_in_the_report_and_in_the_bundle(tmp_path: Path) -> None:
    model = fitted("gru", budget_seconds=1e-6, epochs=50)
    model.save(tmp_path)

    assert model.report.stopped == "budget"
    assert model.report.epochs == 1
    assert load_model(tmp_path).report.stopped == "budget"


def test_a_fit_that_is_interrupted_resumes_from_its_checkpoints(tmp_path: Path) -> None:
    held = samples(40, seed=5).inputs

    class Interrupted:
        def stage(self, name: str, total: int | None = None) -> None:
            assert (name, total) == ("LstmClassifier", 4)

        def step(self, message: str) -> None:
            if message.startswith("epoch 3"):
                raise KeyboardInterrupt

        def say(self, message: str) -> None:
            raise AssertionError(message)

    class Silent(Interrupted):
        def step(self, message: str) -> None:
            assert not message.startswith(("epoch 1", "epoch 2"))

    def begin(progress: Any, folder: Path | None) -> SequenceClassifier:
        model = make("lstm", epochs=4)
        model.progress, model.checkpoints = progress, folder
        return model.fit_samples(samples(), samples(100, seed=1), seed=3)

    with pytest.raises(KeyboardInterrupt):
        begin(Interrupted(), tmp_path)
    resumed = begin(Silent(), tmp_path)

    whole = begin(None, None)
    assert resumed.report == whole.report
    assert np.array_equal(resumed.probabilities(held), whole.probabilities(held))


def test_horizons_can_be_weighed_and_a_wrong_number_of_weights_is_refused() -> None:
    held = samples(40, seed=5).inputs

    with pytest.raises(ConfigError, match=r"weights \[1.0\]; expected 2 of them, for the horizons \[1, 5\]"):
        fitted("gru", alphas=(1.0,))
    first, second = fitted("gru", alphas=(1.0, 0.1)), fitted("gru", alphas=(0.1, 1.0))
    assert not np.array_equal(first.probabilities(held), second.probabilities(held))


def test_an_unknown_horizon_of_a_decision_leaves_the_others_in_training() -> None:
    train = samples()
    train.y[:, 1] = np.where(np.arange(300) < 150, -1, train.y[:, 1])
    train.weight[:150, 1] = 0

    model = make("gru").fit_samples(train, samples(100, seed=1), seed=3)

    assert np.isfinite(model.probabilities(train.inputs)).all()


def test_without_a_validation_part_the_last_epoch_is_kept() -> None:
    model = make("gru").fit_samples(samples(), replace_rows(samples(), 0), seed=3)

    assert model.report.best_epoch == model.report.epochs == 2


def test_windows_that_leave_their_segment_are_refused_with_the_row() -> None:
    train = samples()
    segment = np.repeat([0, 1], [100, 206])

    with pytest.raises(TrainingError, match="window of 6 bars at row 100 would leave its segment"):
        make("lstm").fit_samples(
            Samples(replace(train.inputs, segment=segment), train.y, train.weight, train.hold),
            replace_rows(train, 0),
            seed=1,
        )


def test_inputs_of_another_width_are_refused() -> None:
    with pytest.raises(ConfigError, match="5 columns for a network of 4"):
        fitted("lstm").probabilities(samples(10, features=5).inputs)


def test_another_loss_sampler_and_callback_come_in_by_overriding_one_method() -> None:
    class Twice(Shuffled):
        def __len__(self) -> int:
            return 2 * self.batches

        def epoch(self) -> Any:
            yield from super().epoch()
            yield from super().epoch()

    class Count(Callback):
        steps = 0

        def after_batch(self, run: Run, batch: Any, loss: float) -> None:
            self.steps += 1
            assert isinstance(run.loss.element, CrossEntropy)
            assert run.loss.element.smoothing == 0.3

    class Mine(LstmClassifier):
        counted = Count()

        def _loss(self, alphas: Any) -> MultiHorizonLoss:
            return MultiHorizonLoss(alphas, CrossEntropy(0.3))

        def _sampler(self, train: Any, settings: Any) -> Twice:
            return Twice(len(train), settings.batch_size, seed=settings.seed)

        def _callbacks(self, train: Any, priors: Any) -> list[Callback]:
            return [self.counted]

    Mine(**SMALL).fit_samples(samples(256), samples(50, seed=1), seed=1)

    assert Mine.counted.steps == 2 * 2 * 4


def test_importing_the_family_imports_no_torch() -> None:
    code = "import sys, models.families.neural_classes; assert 'torch' not in sys.modules, 'torch came along'"

    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])
