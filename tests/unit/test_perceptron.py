"""Quantile perceptrons: the network's own arithmetic, what they learn, and what they bear."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

from models.families.perceptron import FAR, PerceptronGlobal, Standardised, _gelu
from models.ratios import Rows
from nightcast.contracts.columns import LEVELS


def rows(count: int, seed: int, *, missing: float = 0.0) -> Rows:
    """The ratio is 1 + 0.5 a + noise; `b` is noise. Quantiles of the noise are those of a normal of 0.1."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(count, 2)).astype(np.float32)
    y = 1 + 0.5 * np.sign(x[:, 0]) * np.log1p(np.abs(x[:, 0])) + 0.1 * rng.normal(size=count)
    x[rng.random(count) < missing, 1] = np.nan
    return Rows(("a", "b"), x, y, np.ones(count), np.ones(count, dtype=np.int64), ())


def learnt(its: Rows, **params: object) -> PerceptronGlobal:
    model = PerceptronGlobal(**{"hidden": (), "members": 1, "learning_rate": 0.02, "epochs": 30, **params})
    model.learn(its, seed=1)
    return model


def test_a_linear_one_finds_the_planted_quantiles() -> None:
    from scipy.stats import norm

    new = rows(200, 2)

    got = learnt(rows(6000, 1)).ratios(new.x, 1)

    centre = 1 + 0.5 * np.sign(new.x[:, 0]) * np.log1p(np.abs(new.x[:, 0]))
    assert np.abs(got - (centre[:, None] + 0.1 * norm.ppf(LEVELS))).mean() < 0.02


def test_hidden_layers_learn_what_a_linear_one_cannot() -> None:
    def bent(count: int, seed: int) -> Rows:
        its = rows(count, seed)
        return Rows(its.names, its.x, 1 + np.abs(its.x[:, 0]).clip(0, 2), its.weight, its.horizon, ())

    new = bent(500, 2)
    errors = [
        np.abs(learnt(bent(6000, 1), hidden=hidden).ratios(new.x, 1)[:, 4] - new.y).mean() for hidden in ((), (16,))
    ]

    assert errors[1] < errors[0] / 3


def test_quantiles_of_the_members_are_averaged_level_by_level() -> None:
    its, new = rows(600, 1), rows(50, 2).x
    both = learnt(its, hidden=(4,), members=2, epochs=2)
    alone = []
    for layers in both.weights:
        one = learnt(its, hidden=(4,), members=1, epochs=1)
        one.inputs, one.weights = both.inputs, [layers]
        alone.append(one.ratios(new, 1))

    assert both.ratios(new, 1) == pytest.approx(np.mean(alone, axis=0))
    assert not np.allclose(alone[0], alone[1])


def test_the_forward_pass_is_that_of_torch() -> None:
    import torch
    from torch import nn

    model, new = learnt(rows(600, 1), hidden=(5, 3), epochs=1), rows(40, 2).x
    sizes = (2, 5, 3, 9)
    linears = [nn.Linear(a, b) for a, b in itertools.pairwise(sizes)]
    with torch.no_grad():
        for i, linear in enumerate(linears):
            linear.weight.copy_(torch.from_numpy(model.weights[0][2 * i]))
            linear.bias.copy_(torch.from_numpy(model.weights[0][2 * i + 1]))
        value = torch.from_numpy(model.inputs.apply(new))
        for i, linear in enumerate(linears):
            value = linear(nn.functional.gelu(value) if i else value)

    assert np.abs(model.ratios(new, 1) - np.sort(value.numpy(), axis=1)).max() < 1e-5


def test_gelu_is_the_exact_one() -> None:
    import torch

    x = np.linspace(-6, 6, 101, dtype=np.float32)

    assert _gelu(x) == pytest.approx(torch.nn.functional.gelu(torch.from_numpy(x)).numpy(), abs=1e-6)


def test_unknown_inputs_enter_at_the_mean_and_are_marked() -> None:
    its = rows(2000, 1, missing=0.3)
    entry = Standardised.of(its.x)

    out = entry.apply(np.array([[np.nan, np.nan], [1.0, 1.0]], dtype=np.float32))

    assert entry.marked.tolist() == [1]
    assert out[0].tolist() == [0.0, 0.0, 1.0]
    assert out[1, 2] == 0.0


def test_wild_inputs_are_pulled_in() -> None:
    entry = Standardised.of(rows(500, 1).x)

    out = entry.apply(np.array([[1e30, -1e30], [np.inf, 0.0]], dtype=np.float32))

    assert out[0].tolist() == [FAR, -FAR]
    assert out[1, 0] == 0.0  # no number: unknown


def test_a_constant_input_changes_nothing() -> None:
    its = rows(800, 1)
    x = np.hstack([its.x, np.full((800, 1), 7.0, dtype=np.float32)])

    out = learnt(Rows((*its.names, "c"), x, its.y, its.weight, its.horizon, ())).inputs.apply(x)

    assert np.abs(out[:, 2]).max() < 1e-9


def test_a_restart_from_almost_nothing_does_not_carry_the_rest_away() -> None:
    its = rows(3000, 1)
    y = its.y.copy()
    y[:3] = 1e6
    new = rows(100, 2).x

    wild = learnt(Rows(its.names, its.x, y, its.weight, its.horizon, ())).ratios(new, 1)

    assert np.abs(wild - learnt(its).ratios(new, 1)).max() < 0.1


def test_what_is_written_is_read_back_to_the_bit(tmp_path: Path) -> None:
    model, new = learnt(rows(400, 1), hidden=(4,), members=2, epochs=1), rows(30, 2).x
    state = model.write_learnt(tmp_path)
    again = PerceptronGlobal(**model.params.model_dump())

    again.read_learnt(tmp_path, state)

    assert np.array_equal(again.ratios(new, 1), model.ratios(new, 1))
