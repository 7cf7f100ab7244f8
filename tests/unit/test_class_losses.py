"""Losses over horizons: limits, masks, weights and gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from models.nn.heads import MultiHorizonHead
from models.nn.losses import CrossEntropy, ElementLoss, MultiHorizonLoss
from nightcast.contracts.errors import ConfigError


def example(rows: int = 12, horizons: int = 3, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(rows, horizons, 3, generator=generator, dtype=torch.float64) * 3
    y = torch.randint(0, 3, (rows, horizons), generator=generator)
    return logits, y, torch.rand(rows, horizons, generator=generator, dtype=torch.float64) + 0.1


def test_with_equal_weights_it_is_torchs_cross_entropy_summed_over_the_horizons() -> None:
    logits, y, _ = example()
    loss = MultiHorizonLoss((1.0, 2.0, 0.5))

    expected = sum(a * F.cross_entropy(logits[:, h], y[:, h]) for h, a in enumerate((1.0, 2.0, 0.5)))

    assert torch.allclose(loss(logits, y, torch.ones(12, 3, dtype=torch.float64)), expected)


def test_weights_make_a_weighted_mean_whose_scale_does_not_matter() -> None:
    logits, y, weight = example()
    loss = MultiHorizonLoss((1.0, 1.0, 1.0))
    each = F.cross_entropy(logits.flatten(0, 1), y.flatten(), reduction="none").view(12, 3)

    assert torch.allclose(loss(logits, y, weight), ((each * weight).sum(0) / weight.sum(0)).sum())
    assert torch.allclose(loss(logits, y, weight), loss(logits, y, 1000 * weight))


@pytest.mark.parametrize("smoothing", [0.05, 0.3])
def test_smoothing_is_torchs_label_smoothing(smoothing: float) -> None:
    logits, y, _ = example()

    expected = F.cross_entropy(logits.flatten(0, 1), y.flatten(), reduction="none", label_smoothing=smoothing)

    assert torch.allclose(CrossEntropy(smoothing)(logits, y).flatten(), expected)


def test_an_unknown_label_adds_neither_loss_nor_gradient() -> None:
    logits, y, weight = example()
    y[3, 1] = -1
    logits.requires_grad_(True)
    loss = MultiHorizonLoss((1.0, 1.0, 1.0))

    loss(logits, y, weight).backward()
    known = torch.arange(12) != 3

    assert logits.grad is not None
    assert bool((logits.grad[3, 1] == 0).all())
    assert bool((logits.grad[3, 0] != 0).all())
    each = F.cross_entropy(logits[known, 1], y[known, 1], reduction="none")
    only = MultiHorizonLoss((0.0, 1.0, 0.0))(logits, y, weight)
    assert torch.allclose(only, (each * weight[known, 1]).sum() / weight[known, 1].sum())


def test_an_unknown_label_of_absurd_logits_still_adds_nothing() -> None:
    logits = torch.tensor([[[float("inf"), 0.0, 0.0]], [[0.0, 0.0, 0.0]]])
    y = torch.tensor([[-1], [1]])

    assert torch.allclose(MultiHorizonLoss((1.0,))(logits, y, torch.ones(2, 1)), torch.tensor(3.0).log())


def test_a_horizon_without_known_labels_adds_nothing_and_breaks_nothing() -> None:
    logits, y, weight = example()
    y[:, 2] = -1
    logits.requires_grad_(True)

    both = MultiHorizonLoss((1.0, 1.0, 1.0))(logits, y, weight)
    both.backward()

    assert torch.allclose(both, MultiHorizonLoss((1.0, 1.0))(logits[:, :2], y[:, :2], weight[:, :2]))
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_gradients_are_those_of_finite_differences(smoothing: float) -> None:
    logits, y, weight = example(rows=4, horizons=2)
    y[1, 0] = -1
    loss = MultiHorizonLoss((1.0, 0.5), CrossEntropy(smoothing)).double()

    assert torch.autograd.gradcheck(lambda z: loss(z, y, weight), (logits[:, :2].requires_grad_(True),))


def test_it_stays_finite_at_logits_of_a_hundred() -> None:
    logits = torch.tensor([[[100.0, -100.0, 0.0]]], requires_grad=True)

    value = MultiHorizonLoss((1.0,))(logits, torch.tensor([[1]]), torch.ones(1, 1))
    value.backward()

    assert value.item() == pytest.approx(200.0)
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


def test_parts_of_a_batch_divided_by_its_total_weights_add_up_to_the_batch() -> None:
    logits, y, weight = example()
    y[5:, 1] = -1
    loss = MultiHorizonLoss((1.0, 2.0, 1.0))
    total = torch.where(y >= 0, weight, 0.0).sum(0)

    parts = [loss(logits[part], y[part], weight[part], total=total) for part in (slice(0, 4), slice(4, 12))]

    assert torch.allclose(sum(parts), loss(logits, y, weight))


def test_any_loss_of_single_decisions_fits_in() -> None:
    class Brier(ElementLoss):
        def forward(self, logits: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return ((logits.softmax(-1) - F.one_hot(y, 3)) ** 2).sum(-1)

    even = torch.zeros(5, 1, 3)

    value = MultiHorizonLoss((1.0,), Brier())(even, torch.tensor([[0], [1], [2], [-1], [0]]), torch.ones(5, 1))

    assert float(value) == pytest.approx(2 / 3)


@pytest.mark.parametrize("alphas", [(), (1.0, -0.1), (0.0, 0.0)])
def test_horizon_weights_that_mean_nothing_are_refused(alphas: tuple[float, ...]) -> None:
    with pytest.raises(ConfigError, match="horizon weights"):
        MultiHorizonLoss(alphas)


@pytest.mark.parametrize("smoothing", [-0.1, 1.0])
def test_smoothing_outside_its_range_is_refused(smoothing: float) -> None:
    with pytest.raises(ConfigError, match=f"label smoothing {smoothing}"):
        CrossEntropy(smoothing)


def test_a_head_answers_all_horizons_at_once_in_their_order() -> None:
    head = MultiHorizonHead(5, 4, hidden=6, norm=False)
    z = torch.randn(7, 5, generator=torch.Generator().manual_seed(0))

    logits = head(z)

    assert logits.shape == (7, 4, 3)
    third = F.linear(head.body(z), head.logits.weight[6:9], head.logits.bias[6:9])
    assert torch.allclose(logits[:, 2], third, atol=1e-6)


def test_the_specified_head_is_norm_dropout_hidden_relu_dropout_classes() -> None:
    head = MultiHorizonHead(128, 1, hidden=128, dropout=0.3)

    kinds = [type(layer).__name__ for layer in (*head.body, head.logits)]

    assert kinds == ["LayerNorm", "Dropout", "Linear", "ReLU", "Dropout", "Linear"]
    assert (head.body[1].p, head.body[2].out_features, head.logits.out_features) == (0.3, 128, 3)


def test_a_head_that_starts_at_the_priors_predicts_them_where_the_rest_is_zero() -> None:
    head = MultiHorizonHead(5, 2, hidden=6).eval()
    priors = np.array([[0.2, 0.5, 0.3], [0.05, 0.9, 0.05]])
    head.start_at(priors)
    torch.nn.init.zeros_(head.logits.weight)

    assert np.allclose(head(torch.randn(1, 5)).softmax(-1).detach().numpy()[0], priors, atol=1e-6)


def test_a_class_that_training_never_saw_starts_rare_but_not_impossible() -> None:
    head = MultiHorizonHead(5, 1, hidden=6).eval()
    head.start_at(np.array([[0.0, 0.4, 0.6]]))

    assert torch.isfinite(head.logits.bias).all()
