"""The training engine: it learns, stops, goes back, resumes to the bit, and leaves the process as it found it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from models.nn.heads import MultiHorizonHead, SequenceNetwork
from models.nn.losses import CrossEntropy, MultiHorizonLoss
from models.nn.windows import LabelledWindows, Windows
from models.training.callbacks import Callback, CollapseAlarm, ProgressLines, divergence
from models.training.checkpoints import Checkpoints, read_checkpoint, write_checkpoint
from models.training.devices import autocast, deterministic, resolve_device
from models.training.engine import Run, Shuffled, TrainingReport, TrainingSettings, fit
from models.training.schedules import Plateau, make_schedule
from models.training.scoring import EpochScores, evaluate, predict_logits
from nightcast.contracts.errors import ConfigError, TrainingError

FEATURES, LENGTH, HORIZONS = 3, 4, 2


def data(count: int = 300, *, seed: int = 0, strength: float = 2.0) -> LabelledWindows:
    """Windows whose newest bar's first column decides the class of both horizons, in part."""
    rng = np.random.default_rng(seed)
    base = rng.standard_normal((count + LENGTH, FEATURES)).astype(np.float32)
    rows = np.arange(LENGTH, count + LENGTH)
    logits = np.stack([-strength * base[rows, 0], np.zeros(count), strength * base[rows, 0]], axis=1)
    share = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    y = (rng.random((count, HORIZONS, 1)) > share.cumsum(1)[:, None, :2]).sum(2).astype(np.int8)
    weight = rng.uniform(0.5, 1.5, y.shape).astype(np.float32)
    y[rng.random(y.shape) < 0.05] = -1
    weight[y == -1] = 0
    return LabelledWindows(Windows(base, rows, LENGTH), y, weight)


class Flat(nn.Module):
    """The newest bar as the encoding."""

    out_dim = FEATURES

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, -1]


def network(seed: int = 0, *, dropout: float = 0.2) -> SequenceNetwork:
    with deterministic(seed):
        return SequenceNetwork(Flat(), MultiHorizonHead(FEATURES, HORIZONS, hidden=8, dropout=dropout, norm=False))


def settings(**params: Any) -> TrainingSettings:
    return TrainingSettings(**{"epochs": 4, "batch_size": 32, "lr": 0.02, "device": "cpu", "seed": 5, **params})


def loss() -> MultiHorizonLoss:
    return MultiHorizonLoss((1.0, 0.5))


def run(
    params: TrainingSettings | None = None,
    *,
    net: nn.Module | None = None,
    train: LabelledWindows | None = None,
    valid: LabelledWindows | None = None,
    **more: Any,
) -> tuple[TrainingReport, dict[str, np.ndarray]]:
    net = net or network()
    report = fit(net, train or data(), valid or data(120, seed=1), loss(), params or settings(), **more)
    return report, {name: value.cpu().numpy().copy() for name, value in net.state_dict().items()}


def same(first: dict[str, np.ndarray], second: dict[str, np.ndarray]) -> bool:
    return first.keys() == second.keys() and all(np.array_equal(first[name], second[name]) for name in first)


class Ticking:
    """A clock on which every look costs a second."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 1
        return self.now


# It learns.


def test_a_fit_learns_and_reports_every_epoch_on_both_parts() -> None:
    report, _ = run(settings(epochs=6))

    names = ("loss", "nll", "accuracy", "macro_f1", "f1_short", "f1_neutral", "f1_long")
    assert set(report.history) == {"lr", *(f"{part}_{name}" for part in ("train", "val") for name in names)}
    assert all(len(values) == 6 and np.isfinite(values).all() for values in report.history.values())
    assert report.history["val_nll"][-1] < report.history["val_nll"][0] - 0.05
    assert (report.stopped, report.epochs, report.early_stopped) == ("epochs", 6, False)
    assert report.best_epoch == 1 + int(np.argmin(report.history["val_nll"]))


def test_the_network_is_left_with_the_best_epochs_weights_in_evaluation_mode() -> None:
    net = network()
    report, _ = run(settings(epochs=8, lr=0.5, schedule="none"), net=net)

    assert report.best_epoch is not None
    assert report.best_epoch < report.epochs, "the case needs an epoch after the best one"
    scores = evaluate(net, data(120, seed=1).usable(), loss())
    assert scores.nll == pytest.approx(min(report.history["val_nll"]), abs=1e-12)
    assert not net.training


def test_the_same_seed_gives_the_same_bits_and_another_seed_does_not() -> None:
    (first, a), (second, b), (_, c) = run(), run(), run(settings(seed=6))

    assert same(a, b)
    assert first == second
    assert not same(a, c)


def test_a_fit_leaves_the_random_state_the_threads_and_the_choice_of_algorithms_alone() -> None:
    torch.manual_seed(11)
    threads = torch.get_num_threads()
    before = torch.get_rng_state()

    run(settings(threads=2))

    assert torch.equal(before, torch.get_rng_state())
    assert torch.get_num_threads() == threads
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]


def test_what_surrounds_a_fit_does_not_change_it() -> None:
    _, a = run()
    torch.manual_seed(99)
    torch.rand(5)
    np.random.seed(3)
    _, b = run()

    assert same(a, b)


def test_without_validation_the_last_epoch_is_kept() -> None:
    report = fit(network(), data(), None, loss(), settings(patience=1))

    assert (report.epochs, report.best_epoch, report.stopped) == (4, 4, "epochs")
    assert not any(name.startswith("val_") for name in report.history)


def test_validation_without_a_known_label_counts_as_none() -> None:
    blind = data(50, seed=1)
    blind = LabelledWindows(blind.windows, np.full_like(blind.y, -1), np.zeros_like(blind.weight))

    report, _ = run(valid=blind)

    assert not any(name.startswith("val_") for name in report.history)


def test_windows_without_a_label_are_never_trained_on() -> None:
    seen: set[int] = set()

    class Watch(Callback):
        def after_batch(self, run: Run, batch: Any, loss: float) -> None:
            seen.update(run.train.windows.rows[batch.index].tolist())

    train = data()
    train.y[:10] = -1
    run(settings(epochs=1), train=train, callbacks=[Watch()])

    assert seen == set(train.usable().windows.rows.tolist())
    assert min(seen) == LENGTH + 10


def test_nothing_to_learn_from_is_said() -> None:
    train = data()
    train.weight[:] = 0

    with pytest.raises(TrainingError, match="no training window has a known label"):
        run(train=train)


# Optimiser steps.


def test_accumulated_parts_take_the_steps_of_the_whole_batch() -> None:
    def weights(parts: int) -> dict[str, np.ndarray]:
        return run(settings(accumulate=parts, epochs=2), net=network(dropout=0.0))[1]

    whole, parts = weights(1), weights(4)
    assert all(np.allclose(whole[name], parts[name], atol=2e-5) for name in whole)


def test_a_part_of_a_batch_without_labels_of_a_horizon_still_counts_the_others_once() -> None:
    train = data(40)
    train.y[:20, 1] = -1
    train.weight[:20, 1] = 0

    def weights(parts: int) -> dict[str, np.ndarray]:
        return run(settings(accumulate=parts, epochs=1, batch_size=64), net=network(dropout=0.0), train=train)[1]

    whole, parts = weights(1), weights(8)
    assert all(np.allclose(whole[name], parts[name], atol=2e-5) for name in whole)


def test_gradients_are_clipped_to_the_norm_that_is_set() -> None:
    norms: list[float] = []

    class Watch(Callback):
        def after_batch(self, run: Run, batch: Any, loss: float) -> None:
            grads = [p.grad for p in run.module.parameters() if p.grad is not None]
            norms.append(float(torch.linalg.vector_norm(torch.cat([grad.flatten() for grad in grads]))))

    run(settings(clip=0.01, epochs=1), callbacks=[Watch()])
    assert max(norms) == pytest.approx(0.01, rel=1e-3)

    norms.clear()
    run(settings(clip=None, epochs=1), callbacks=[Watch()])
    assert max(norms) > 0.1


@pytest.mark.parametrize(("name", "kind"), [("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW)])
def test_the_optimiser_is_the_one_asked_for(name: Any, kind: type[torch.optim.Optimizer]) -> None:
    net, mine = network(dropout=0.0), network(dropout=0.0)
    train, params = data(32), settings(optimiser=name, epochs=1, schedule="none", clip=None, weight_decay=0.1)
    run(params, net=net, train=train)

    optimiser = kind(mine.parameters(), lr=0.02, weight_decay=0.1)  # type: ignore[call-arg]
    usable = train.usable()
    batch = usable.batch(next(Shuffled(len(usable), 32, seed=5).epoch()))
    loss()(mine(batch.x), batch.y, batch.weight).backward()
    optimiser.step()

    assert same(
        {name: value.numpy() for name, value in net.state_dict().items()},
        {name: value.numpy() for name, value in mine.state_dict().items()},
    )


def test_averaged_weights_are_scored_and_kept() -> None:
    kept: list[dict[str, np.ndarray]] = []

    class Watch(Callback):
        def on_end(self, run: Run) -> None:
            kept.append({name: value.numpy().copy() for name, value in run.module.state_dict().items()})

    def fitted(ema: float | None) -> tuple[TrainingReport, dict[str, np.ndarray]]:
        return run(settings(ema=ema, lr=0.3, schedule="none", epochs=5), callbacks=[Watch()])

    (plain, a), (averaged, b) = fitted(None), fitted(0.99)
    assert not same(a, b)
    assert min(averaged.history["val_nll"]) < min(plain.history["val_nll"]), "wild steps average out"
    net = network()
    net.load_state_dict({name: torch.from_numpy(value) for name, value in b.items()})
    assert evaluate(net, data(120, seed=1).usable(), loss()).nll == pytest.approx(min(averaged.history["val_nll"]))


# Schedules.


def test_warm_up_rises_in_equal_steps_to_the_full_rate() -> None:
    schedule = make_schedule("none", epochs=10, steps_per_epoch=5, warmup=1)

    assert [schedule.factor(step) for step in range(6)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.0])


def test_the_cosine_falls_from_one_to_its_floor_over_the_steps_after_the_warm_up() -> None:
    schedule = make_schedule("cosine", epochs=10, steps_per_epoch=10, warmup=2, floor=0.1)

    assert schedule.factor(19) == pytest.approx(1.0)
    assert schedule.factor(20) == pytest.approx(1.0)
    assert schedule.factor(60) == pytest.approx(0.55)
    assert schedule.factor(100) == schedule.factor(500) == pytest.approx(0.1)
    after = [schedule.factor(step) for step in range(20, 101)]
    assert after == sorted(after, reverse=True)


def test_a_warm_up_longer_than_the_fit_takes_half_of_it() -> None:
    schedule = make_schedule("cosine", epochs=2, steps_per_epoch=10, warmup=50)

    assert schedule.factor(9) == 1.0


def test_the_plateau_cuts_after_more_than_patience_epochs_without_a_lower_loss() -> None:
    schedule = Plateau(patience=2, cut=0.5, floor=0.2)
    factors = []
    for value in [1.0, 0.9, 0.95, 0.95, 0.95, 0.95, 0.95, 0.95, 0.95, 0.95, 0.95]:
        schedule.observe(value)
        factors.append(schedule.factor(10))

    assert factors == [1, 1, 1, 1, 0.5, 0.5, 0.5, 0.25, 0.25, 0.25, 0.2]


def test_the_rate_in_the_history_is_that_of_the_epochs_last_step() -> None:
    report, _ = run(settings(schedule="cosine", warmup=0, epochs=4))
    steps = len(Shuffled(len(data().usable()), 32, seed=0))

    schedule = make_schedule("cosine", epochs=4, steps_per_epoch=steps)
    assert report.history["lr"] == pytest.approx([0.02 * schedule.factor((e + 1) * steps - 1) for e in range(4)])


# Stopping.


def test_patience_ends_a_fit_that_no_longer_improves() -> None:
    report, _ = run(settings(epochs=50, lr=0.3, schedule="none", patience=3))

    assert report.stopped == "patience"
    assert report.early_stopped
    assert report.best_epoch is not None
    assert report.epochs <= report.best_epoch + 3


def test_an_improvement_below_min_delta_is_kept_but_buys_no_time() -> None:
    report, _ = run(settings(epochs=20, lr=1e-3, schedule="none", patience=3, min_delta=10.0))

    # the first epoch sets the reference; none of the next beats it by ten nats
    assert report.epochs == 4
    assert report.best_epoch == 1 + int(np.argmin(report.history["val_nll"])) > 1


def test_the_best_epoch_can_be_chosen_by_macro_f1() -> None:
    report, _ = run(settings(epochs=6, monitor="macro_f1", lr=0.1))

    assert report.best_epoch == 1 + int(np.argmax(report.history["val_macro_f1"]))


def test_a_spent_budget_finishes_the_batch_scores_the_epoch_and_says_so() -> None:
    report, weights = run(settings(epochs=50), budget_seconds=5, clock=Ticking())

    assert report.stopped == "budget"
    assert report.epochs == 1
    assert report.best_epoch == 1
    assert len(report.history["val_nll"]) == 1
    [event] = report.events
    assert (event.epoch, event.kind) == (1, "budget")
    assert "of 10 batches when 5 s were spent" in event.detail
    assert not same(weights, {name: value.numpy() for name, value in network().state_dict().items()})


def test_a_spent_budget_keeps_the_best_epoch_not_the_last() -> None:
    report, _ = run(settings(epochs=50, lr=0.5, schedule="none"), budget_seconds=30, clock=Ticking())

    assert report.stopped == "budget"
    assert report.best_epoch == 1 + int(np.argmin(report.history["val_nll"])) < report.epochs


def test_a_budget_that_is_not_spent_changes_no_bit() -> None:
    assert same(run()[1], run(budget_seconds=1e6)[1])


# Numbers that are not finite.


class Poisoned(nn.Module):
    """Answers NaN at one training step, once or always."""

    def __init__(self, inner: nn.Module, step: int, *, always: bool = False) -> None:
        super().__init__()
        self.inner, self.at, self.always, self.calls = inner, step, always, 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.inner(x)
        if self.training:
            self.calls += 1
            if self.calls == self.at or (self.always and self.calls > self.at):
                return out * float("nan")
        return out


def test_a_loss_that_is_not_finite_goes_back_to_the_last_good_epoch_at_half_the_rate() -> None:
    report, weights = run(settings(schedule="none"), net=Poisoned(network(), step=15))

    [event] = report.events
    assert (event.epoch, event.kind) == (2, "rollback")
    assert report.epochs == 4
    assert report.history["lr"] == pytest.approx([0.02, 0.01, 0.01, 0.01])
    assert all(np.isfinite(value).all() for value in weights.values())


def test_the_state_gone_back_to_is_that_of_the_good_epoch_with_its_optimiser() -> None:
    net = Poisoned(network(), step=15)
    states: list[Any] = []

    class Watch(Callback):
        def before_epoch(self, run: Run) -> None:
            step = run._optimiser.state_dict()["state"].get(0, {}).get("step")
            weights = {name: value.numpy().copy() for name, value in run.module.state_dict().items()}
            states.append((run.epoch, run.step, None if step is None else float(step), weights))

    run(settings(epochs=2), net=net, callbacks=[Watch()])

    (_, _, _, _), (epoch, step, moments, first), (again, back, moments_back, second) = states
    assert (epoch, step, moments) == (again, back, moments_back) == (1, 10, 10.0)
    assert same(first, second)


def test_a_gradient_that_is_not_finite_takes_no_step() -> None:
    class Root(nn.Module):
        """Finite values, infinite gradient at 0."""

        def __init__(self) -> None:
            super().__init__()
            self.inner, self.scale = network(), nn.Parameter(torch.zeros(1))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.inner(x) + self.scale.abs().sqrt() * x[:, -1, :1, None]
            return out

    with pytest.raises(TrainingError, match="not finite"):
        run(net=Root())


def test_a_fit_that_never_was_finite_fails_and_names_the_rate() -> None:
    with pytest.raises(TrainingError, match=r"loss of Poisoned is not finite, at the learning rate 0.00125 too"):
        run(settings(schedule="none"), net=Poisoned(network(), step=0, always=True))


def test_a_fit_that_diverges_for_good_keeps_its_best_epoch() -> None:
    report, weights = run(settings(max_rollbacks=2), net=Poisoned(network(), step=25, always=True))

    assert report.stopped == "diverged"
    assert [event.kind for event in report.events] == ["rollback", "rollback", "diverged"]
    assert report.epochs == 2
    assert report.best_epoch in (1, 2)
    assert all(np.isfinite(value).all() for value in weights.values())


# Callbacks.


def scores(share: list[list[float]]) -> EpochScores:
    return EpochScores(1.0, 1.0, np.ones((len(share), 3, 3), dtype=np.int64), np.asarray(share))


class Listening:
    def __init__(self) -> None:
        self.heard: list[str] = []

    def stop(self, why: str, detail: str) -> None:
        self.heard.append(f"stop {why}: {detail}")

    def rollback(self, kind: str, detail: str) -> None:
        self.heard.append(f"rollback {kind}")


PRIOR = np.array([[0.2831, 0.3386, 0.3783]])


def test_the_divergence_of_known_shares_is_what_paper_and_pencil_give() -> None:
    assert divergence(PRIOR, PRIOR) == pytest.approx(0)
    expected = 0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.25)
    assert divergence(np.array([0.5, 0.5, 0.0]), np.array([0.25, 0.25, 0.5])) == pytest.approx(expected)


def test_95_4_1_sets_the_alarm_off_at_the_second_epoch_and_40_30_30_never_does() -> None:
    alarm, run = CollapseAlarm(PRIOR), Listening()
    for _ in range(5):
        alarm.after_epoch(run, scores([[0.3, 0.3, 0.4]]), None)  # type: ignore[arg-type]
    assert run.heard == []

    collapsed = scores([[0.01, 0.04, 0.95]])
    alarm.after_epoch(run, scores([[0.3, 0.3, 0.4]]), collapsed)  # type: ignore[arg-type]
    assert run.heard == []
    alarm.after_epoch(run, scores([[0.3, 0.3, 0.4]]), collapsed)  # type: ignore[arg-type]
    assert run.heard == ["stop collapse: mean probabilities 0.01, 0.04, 0.95, 0.76 nats from the prior"]


def test_one_collapsed_epoch_between_sound_ones_is_forgiven() -> None:
    alarm, run = CollapseAlarm(PRIOR), Listening()
    for share in ([0.01, 0.04, 0.95], [0.3, 0.3, 0.4], [0.01, 0.04, 0.95]):
        alarm.after_epoch(run, scores([share]), None)  # type: ignore[arg-type]

    assert run.heard == []


def test_the_worst_horizon_decides() -> None:
    alarm, run = CollapseAlarm(np.repeat(PRIOR, 2, axis=0), action="rollback"), Listening()
    for _ in range(2):
        alarm.after_epoch(run, scores([[0.3, 0.3, 0.4], [0.95, 0.04, 0.01]]), None)  # type: ignore[arg-type]

    assert run.heard == ["rollback collapse"]


class Collapsing(Callback):
    """Pushes the last bias towards one class from the second epoch on."""

    def before_epoch(self, run: Run) -> None:
        if run.epoch >= 2:
            with torch.no_grad():
                run.module.head.logits.bias[2::3] += 50


def priors() -> np.ndarray:
    return np.full((HORIZONS, 3), 1 / 3)


def test_a_collapse_stops_the_fit_and_keeps_an_epoch_before_it() -> None:
    report, weights = run(settings(epochs=10), callbacks=[Collapsing(), CollapseAlarm(priors())])

    assert (report.stopped, report.epochs) == ("collapse", 4)
    assert report.best_epoch in (1, 2)
    assert not report.early_stopped
    [event] = report.events
    assert (event.epoch, event.kind) == (4, "collapse")
    assert np.abs(weights["head.logits.bias"]).max() < 10


def test_a_collapse_can_also_go_back_to_the_best_weights_at_half_the_rate() -> None:
    alarm = CollapseAlarm(priors(), action="rollback")

    report, _ = run(settings(epochs=7, schedule="none", max_rollbacks=1), callbacks=[Collapsing(), alarm])

    assert [event.kind for event in report.events] == ["collapse", "collapse"]
    assert report.history["lr"] == pytest.approx([0.02] * 4 + [0.01] * 2)
    assert (report.stopped, report.epochs) == ("collapse", 6)
    assert report.best_epoch in (1, 2)


def test_callbacks_hear_every_moment_in_order() -> None:
    heard: list[str] = []

    class Listen(Callback):
        def on_start(self, run: Run) -> None:
            heard.append("start")

        def before_epoch(self, run: Run) -> None:
            heard.append(f"before {run.epoch}")

        def after_batch(self, run: Run, batch: Any, loss: float) -> None:
            if heard[-1] != "batch":
                heard.append("batch")

        def after_epoch(self, run: Run, train: EpochScores, valid: EpochScores | None) -> None:
            heard.append(f"after {run.epoch}")

        def on_end(self, run: Run) -> None:
            heard.append("end")

    run(settings(epochs=2), callbacks=[Listen()])

    assert heard == ["start", "before 0", "batch", "after 1", "before 1", "batch", "after 2", "end"]


def test_progress_hears_the_stage_each_epoch_and_what_went_wrong() -> None:
    class Lines:
        def __init__(self) -> None:
            self.lines: list[str] = []

        def stage(self, name: str, total: int | None = None) -> None:
            self.lines.append(f"stage {name} {total}")

        def step(self, message: str) -> None:
            self.lines.append(message)

        def say(self, message: str) -> None:
            self.lines.append(message)

    progress = Lines()
    run(settings(epochs=2), net=Poisoned(network(), step=3), callbacks=[ProgressLines(progress, name="lstm")])

    assert progress.lines[0] == "stage lstm 2"
    assert [line.split(":")[0] for line in progress.lines[1:]] == ["epoch 1", "epoch 2", "epoch 1"]
    assert "val nll" in progress.lines[1]
    assert "rollback" in progress.lines[3]


def test_a_sampler_decides_what_each_batch_holds() -> None:
    seen: list[list[int]] = []

    class FirstTwo:
        def __len__(self) -> int:
            return 1

        def epoch(self) -> Iterator[np.ndarray]:
            yield np.array([0, 1])

        def state(self) -> dict[str, Any]:
            return {}

        def restore(self, state: dict[str, Any]) -> None:
            assert state == {}

    class Watch(Callback):
        def after_batch(self, run: Run, batch: Any, loss: float) -> None:
            seen.append(batch.index.tolist())

    run(settings(epochs=3), sampler=FirstTwo(), callbacks=[Watch()])

    assert seen == [[0, 1]] * 3


def test_shuffled_batches_hold_everything_once_an_epoch_and_are_nearly_equal() -> None:
    sampler = Shuffled(1001, 100, seed=3)

    first, second = list(sampler.epoch()), list(sampler.epoch())

    assert len(sampler) == len(first) == 11
    assert {len(batch) for batch in first} == {91}
    assert sorted(np.concatenate(first)) == list(range(1001))
    assert not np.array_equal(np.concatenate(first), np.concatenate(second))


# Scores.


def test_scores_are_those_of_paper_and_pencil() -> None:
    confusion = np.array([[[2, 1, 0], [0, 3, 1], [1, 0, 2]]])
    its = EpochScores(0.0, 0.0, confusion, np.zeros((1, 3)))

    assert its.accuracy == pytest.approx(7 / 10)
    assert its.f1 == pytest.approx([4 / 6, 6 / 8, 4 / 6])
    assert its.macro_f1 == pytest.approx((4 / 6 + 6 / 8 + 4 / 6) / 3)


def test_scores_agree_with_scikit_learn_and_do_not_depend_on_the_batch_size() -> None:
    from sklearn.metrics import f1_score, log_loss

    net, held = network().eval(), data(200, seed=4).usable()
    its = evaluate(net, held, loss(), batch_size=37)
    logits = predict_logits(net, held.windows).astype(float)
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)

    known = [held.y[:, h] >= 0 for h in range(HORIZONS)]
    each = [f1_score(held.y[k, h], p[k, h].argmax(1), average="macro", labels=[0, 1, 2]) for h, k in enumerate(known)]
    nll = [
        log_loss(held.y[k, h], p[k, h], sample_weight=held.weight[k, h], labels=[0, 1, 2]) for h, k in enumerate(known)
    ]
    assert its.macro_f1 == pytest.approx(np.mean(each))
    assert its.nll == pytest.approx((nll[0] + 0.5 * nll[1]) / 1.5, rel=1e-5)
    assert its.loss == pytest.approx(nll[0] + 0.5 * nll[1], rel=1e-5)
    assert its.share == pytest.approx(p.mean(0), rel=1e-5)
    whole = evaluate(net, held, loss(), batch_size=1000)
    assert np.array_equal(whole.confusion, its.confusion)
    assert whole.nll == pytest.approx(its.nll, rel=1e-6)


def test_smoothing_moves_the_loss_but_not_the_likelihood() -> None:
    net, held = network().eval(), data(50, seed=4).usable()

    plain, smooth = (
        evaluate(net, held, MultiHorizonLoss((1.0, 1.0), CrossEntropy(smoothing))) for smoothing in (0.0, 0.2)
    )

    assert plain.nll == smooth.nll
    assert plain.loss != smooth.loss


def test_scoring_gives_the_mode_back() -> None:
    net = network().train()

    evaluate(net, data(20).usable(), loss())

    assert net.training


# Checkpoints.


def offer(checkpoints: Checkpoints, epoch: int, value: float) -> bool:
    return checkpoints.offer(epoch, value, {"w": torch.full((2,), float(epoch))}, {"value": value})


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} - {"index.json"}


@pytest.mark.parametrize(("mode", "kept"), [("min", [4, 2, 1]), ("max", [3, 5, 1])])
def test_the_three_best_epochs_stay_and_the_rest_go(tmp_path: Path, mode: Any, kept: list[int]) -> None:
    checkpoints = Checkpoints(tmp_path, mode=mode)
    for epoch, value in enumerate([0.5, 0.4, 0.9, 0.3, 0.8], start=1):
        offer(checkpoints, epoch, value)

    assert [each.epoch for each in checkpoints.kept] == kept
    assert files(tmp_path) == {f"epoch-{epoch:04d}.safetensors" for epoch in kept}
    assert Checkpoints(tmp_path, mode=mode).kept == checkpoints.kept


def test_among_equals_the_earlier_epoch_is_better(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=2)

    assert [offer(checkpoints, epoch, 0.5) for epoch in (1, 2, 3)] == [True, True, False]
    assert checkpoints.best is not None
    assert [each.epoch for each in checkpoints.kept] == [1, 2]


def test_a_kept_epoch_gives_back_its_tensors_and_facts(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    offer(checkpoints, 1, 0.1 + 0.2)
    assert checkpoints.best is not None

    tensors, facts = checkpoints.load(checkpoints.best)

    assert tensors["w"].tolist() == [1, 1]
    assert facts == {"value": 0.1 + 0.2}


def test_an_epoch_trained_again_replaces_its_earlier_self(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=2)
    offer(checkpoints, 1, 0.5)
    offer(checkpoints, 2, 0.1)
    offer(checkpoints, 3, 0.4)
    offer(checkpoints, 2, 0.9)

    assert [(each.epoch, each.value) for each in checkpoints.kept] == [(3, 0.4), (2, 0.9)]
    offer(checkpoints, 4, 0.1)
    assert files(tmp_path) == {"epoch-0003.safetensors", "epoch-0004.safetensors"}


def test_a_fit_that_dies_while_writing_leaves_the_old_checkpoint_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "last.safetensors"
    write_checkpoint(path, {"w": torch.ones(2)}, {"epoch": 1})

    def die(self: Path, target: Path) -> Path:
        raise OSError("no power")

    monkeypatch.setattr(Path, "replace", die)
    with pytest.raises(OSError, match="no power"):
        write_checkpoint(path, {"w": torch.zeros(2)}, {"epoch": 2})
    monkeypatch.undo()

    assert read_checkpoint(path)[1] == {"epoch": 1}
    Checkpoints(tmp_path)
    assert files(tmp_path) == {"last.safetensors"}


def test_the_index_never_names_a_file_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoints = Checkpoints(tmp_path, keep=1)
    offer(checkpoints, 1, 0.5)

    def die(self: Checkpoints) -> None:
        raise OSError("no power")

    monkeypatch.setattr(Checkpoints, "_write_index", die)
    with pytest.raises(OSError, match="no power"):
        offer(checkpoints, 2, 0.1)
    monkeypatch.undo()

    assert [each.epoch for each in Checkpoints(tmp_path, keep=1).kept] == [1]


def test_broken_folders_of_checkpoints_are_refused_in_words(tmp_path: Path) -> None:
    offer(Checkpoints(tmp_path / "a"), 1, 0.5)
    (tmp_path / "a" / "epoch-0001.safetensors").unlink()
    with pytest.raises(TrainingError, match=r"'epoch-0001.safetensors' is gone from 'a'"):
        Checkpoints(tmp_path / "a")

    offer(Checkpoints(tmp_path / "b"), 1, 0.5)
    with pytest.raises(ConfigError, match="ranked by mode 'min'"):
        Checkpoints(tmp_path / "b", mode="max")
    (tmp_path / "b" / "index.json").write_text("{")
    with pytest.raises(TrainingError, match="index of the checkpoints in 'b' cannot be read"):
        Checkpoints(tmp_path / "b")

    (tmp_path / "c.safetensors").write_bytes(b"torn")
    with pytest.raises(TrainingError, match=r"'c.safetensors' cannot be read"):
        read_checkpoint(tmp_path / "c.safetensors")
    with pytest.raises(ConfigError, match="0 checkpoints"):
        Checkpoints(tmp_path / "d", keep=0)


# Resuming.


class Interrupt(Callback):
    """Pulls the plug in the middle of an epoch."""

    def __init__(self, epoch: int | None) -> None:
        self.epoch = epoch

    def after_batch(self, run: Run, batch: Any, loss: float) -> None:
        if run.epoch == self.epoch and run.step % 10 == 4:
            raise KeyboardInterrupt


RESUMED = {
    "cosine": settings(epochs=6, warmup=1.0),
    "plateau and average": settings(epochs=6, schedule="plateau", plateau_patience=0, ema=0.9, optimiser="adam"),
    "parts and patience": settings(epochs=12, lr=0.3, schedule="none", accumulate=2, patience=2),
}


@pytest.mark.parametrize("name", RESUMED)
@pytest.mark.parametrize("epoch", [1, 3])
def test_an_interrupted_fit_that_resumes_equals_an_uninterrupted_one_to_the_bit(
    tmp_path: Path, name: str, epoch: int
) -> None:
    params = RESUMED[name]
    whole, a = run(params, callbacks=[Interrupt(None), CollapseAlarm(priors())])

    with pytest.raises(KeyboardInterrupt):
        run(params, callbacks=[Interrupt(epoch), CollapseAlarm(priors())], folder=tmp_path)
    torch.manual_seed(1234)
    resumed, b = run(
        params, net=network(seed=77), callbacks=[Interrupt(None), CollapseAlarm(priors())], folder=tmp_path, resume=True
    )

    assert resumed == whole
    assert same(a, b)
    assert Checkpoints(tmp_path).best is not None


def test_a_resumed_fit_remembers_rollbacks_and_what_callbacks_counted(tmp_path: Path) -> None:
    class Count(Callback):
        def __init__(self) -> None:
            self.epochs = 0

        def after_epoch(self, run: Run, train: EpochScores, valid: EpochScores | None) -> None:
            self.epochs += 1

        def state(self) -> dict[str, Any]:
            return {"epochs": self.epochs}

        def restore(self, state: dict[str, Any]) -> None:
            self.epochs = state["epochs"]

    params = settings(schedule="none")
    with pytest.raises(KeyboardInterrupt):
        run(params, net=Poisoned(network(), step=15), callbacks=[Count(), Interrupt(3)], folder=tmp_path)
    counted = Count()
    report, _ = run(
        params, net=Poisoned(network(), step=-1), callbacks=[counted, Interrupt(None)], folder=tmp_path, resume=True
    )

    assert counted.epochs == 4
    assert [event.kind for event in report.events] == ["rollback"]
    assert report.history["lr"] == pytest.approx([0.02, 0.01, 0.01, 0.01])


def test_a_finished_fit_resumes_to_its_own_result_without_a_step(tmp_path: Path) -> None:
    class Count(Callback):
        steps = 0

        def after_batch(self, run: Run, batch: Any, loss: float) -> None:
            self.steps += 1

    first, second = Count(), Count()
    whole, a = run(folder=tmp_path, callbacks=[first])
    again, b = run(folder=tmp_path, callbacks=[second], net=network(seed=3), resume=True)

    assert (first.steps, second.steps) == (40, 0)
    assert again == whole
    assert same(a, b)


def test_a_fit_cut_by_its_budget_goes_on_from_the_last_whole_epoch(tmp_path: Path) -> None:
    whole, a = run(settings(epochs=6))

    cut, _ = run(settings(epochs=6), folder=tmp_path, budget_seconds=30, clock=Ticking())
    resumed, b = run(settings(epochs=6), folder=tmp_path, resume=True, budget_seconds=1e9)

    assert cut.stopped == "budget"
    assert 1 < cut.epochs < 6
    assert resumed == whole
    assert same(a, b)


def test_resuming_an_empty_folder_begins(tmp_path: Path) -> None:
    whole, a = run()
    begun, b = run(folder=tmp_path / "new", resume=True)

    assert begun == whole
    assert same(a, b)


def test_the_checkpoints_of_another_fit_are_refused(tmp_path: Path) -> None:
    run(folder=tmp_path)

    with pytest.raises(ConfigError, match="holds the checkpoints of a fit already"):
        run(folder=tmp_path)
    with pytest.raises(ConfigError, match="those of another fit"):
        run(settings(lr=0.01), folder=tmp_path, resume=True)
    with pytest.raises(ConfigError, match="those of another fit"):
        run(train=data(seed=9), folder=tmp_path, resume=True)
    with pytest.raises(ConfigError, match="those of another fit"):
        fit(
            network(), data(), data(120, seed=1), MultiHorizonLoss((1.0, 1.0)), settings(), folder=tmp_path, resume=True
        )


def test_a_folder_of_checkpoints_holds_the_best_three_ranked_by_validation(tmp_path: Path) -> None:
    report, weights = run(settings(epochs=6, lr=0.2, schedule="none"), folder=tmp_path)

    kept = Checkpoints(tmp_path).kept
    order = np.argsort(report.history["val_nll"], kind="stable")[:3] + 1
    assert [each.epoch for each in kept] == order.tolist()
    tensors, facts = Checkpoints(tmp_path).load(kept[0])
    assert same({name: value.numpy() for name, value in tensors.items()}, weights)
    assert facts["val_nll"] == min(report.history["val_nll"])


def test_nothing_is_written_in_a_form_that_can_run_code(tmp_path: Path) -> None:
    run(folder=tmp_path)

    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".safetensors"}
    json.loads((tmp_path / "index.json").read_text())


# Devices.


def test_cuda_is_refused_in_words_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)

    assert resolve_device("auto").type == "cpu"
    with pytest.raises(ConfigError, match="device 'cuda' on a machine without CUDA"):
        run(settings(device="cuda"))


def test_mixed_precision_never_touches_the_cpu() -> None:
    with autocast("cpu", amp=True):
        assert not torch.is_autocast_enabled("cpu")
    assert same(run(settings(amp=True))[1], run()[1])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("amp", [False, True])
def test_a_fit_on_cuda_learns_and_resumes(tmp_path: Path, amp: bool) -> None:
    report, _ = run(settings(device="cuda", epochs=6, amp=amp), folder=tmp_path)

    assert report.history["val_nll"][-1] < report.history["val_nll"][0]
    again, _ = run(settings(device="cuda", epochs=6, amp=amp), folder=tmp_path, resume=True)
    assert again == report
