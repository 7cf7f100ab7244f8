"""Laws of windows and of the networks that read them."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.nn.encoders import GruEncoder, LstmEncoder, TcnEncoder
from models.nn.heads import MultiHorizonHead, SequenceNetwork
from models.nn.losses import MultiHorizonLoss
from models.nn.windows import Windows
from nightcast.contracts.errors import TrainingError

ENCODERS: dict[str, Any] = {
    "lstm": lambda features: LstmEncoder(features, hidden=6, layers=2, dropout=0.2),
    "gru": lambda features: GruEncoder(features, hidden=6, layers=1),
    "tcn": lambda features: TcnEncoder(features, channels=(5, 6, 6), kernel=3, dropout=0.2),
    "tcn_attention": lambda features: TcnEncoder(features, channels=(5, 6), pool="attention"),
}
each_encoder = pytest.mark.parametrize("name", ENCODERS)
few = settings(max_examples=15, deadline=None)


def network(name: str, features: int, *, horizons: int = 2, seed: int = 0) -> SequenceNetwork:
    torch.manual_seed(seed)
    encoder = ENCODERS[name](features)
    return SequenceNetwork(encoder, MultiHorizonHead(encoder.out_dim, horizons, hidden=7, dropout=0.2))


@given(
    bars=st.integers(1, 60),
    features=st.integers(1, 5),
    length=st.integers(1, 20),
    data=st.data(),
)
@settings(deadline=None)
def test_a_gathered_window_is_the_slice_it_names(bars: int, features: int, length: int, data: st.DataObject) -> None:
    length = min(length, bars)
    base = np.random.default_rng(bars).standard_normal((bars, features)).astype(np.float32)
    rows = np.array(data.draw(st.lists(st.integers(length - 1, bars - 1), min_size=1, max_size=8)))
    index = np.array(data.draw(st.lists(st.integers(0, len(rows) - 1), min_size=1, max_size=8)))

    got = Windows(base, rows, length, limit=None).batch(index).numpy()

    assert np.array_equal(got, np.stack([base[rows[i] - length + 1 : rows[i] + 1] for i in index]))


@given(data=st.data(), length=st.integers(1, 6))
@settings(deadline=None)
def test_windows_are_accepted_exactly_when_every_bar_is_of_the_decisions_own_segment(
    data: st.DataObject, length: int
) -> None:
    sizes = data.draw(st.lists(st.integers(1, 8), min_size=1, max_size=5))
    segment = np.repeat(np.arange(len(sizes)), sizes)
    row = data.draw(st.integers(0, len(segment) - 1))
    inside = row - length + 1 >= 0 and bool((segment[row - length + 1 : row + 1] == segment[row]).all())

    expected = nullcontext() if inside else pytest.raises(TrainingError, match=f"at row {row} would leave its segment")
    with expected:
        Windows(np.zeros((len(segment), 1), dtype=np.float32), np.array([row]), length, segment=segment)


@each_encoder
@given(features=st.integers(1, 5), length=st.integers(1, 12), batch=st.integers(2, 6), seed=st.integers(0, 99))
@few
def test_reordering_the_batch_reorders_the_logits(name: str, features: int, length: int, batch: int, seed: int) -> None:
    net = network(name, features).eval()
    generator = torch.Generator().manual_seed(seed)
    x, order = torch.randn(batch, length, features, generator=generator), torch.randperm(batch, generator=generator)

    with torch.no_grad():
        assert torch.allclose(net(x)[order], net(x[order]), atol=1e-6)


@each_encoder
@given(length=st.integers(1, 12), value=st.sampled_from([-10.0, 0.0, 10.0]))
@few
def test_constant_windows_give_finite_logits_and_gradients(name: str, length: int, value: float) -> None:
    net = network(name, 3).train()

    logits = net(torch.full((4, length, 3), value))
    logits.sum().backward()

    assert logits.shape == (4, 2, 3)
    assert torch.isfinite(logits).all()
    assert all(torch.isfinite(p.grad).all() for p in net.parameters() if p.grad is not None)


@each_encoder
def test_every_parameter_receives_a_gradient(name: str) -> None:
    net = network(name, 4).eval()
    y = torch.randint(0, 3, (16, 2), generator=torch.Generator().manual_seed(1))

    x = torch.randn(16, 9, 4, generator=torch.Generator().manual_seed(2))
    MultiHorizonLoss((1.0, 1.0))(net(x), y, torch.ones(16, 2)).backward()

    without = [n for n, p in net.named_parameters() if p.grad is None or not bool((p.grad != 0).any())]
    assert without == []


@each_encoder
def test_evaluation_is_deterministic_and_training_drops_units(name: str) -> None:
    net, x = network(name, 4), torch.randn(8, 9, 4, generator=torch.Generator().manual_seed(2))

    net.eval()
    with torch.no_grad():
        assert torch.equal(net(x), net(x))
        net.train()
        assert not torch.equal(net(x), net(x))


@each_encoder
@given(scale=st.floats(0.1, 100), seed=st.integers(0, 50))
@few
def test_bars_outside_the_window_change_nothing(name: str, scale: float, seed: int) -> None:
    length, rows = 6, np.array([9, 14])
    base = np.random.default_rng(seed).standard_normal((24, 3)).astype(np.float32)
    other = base.copy()
    other[:4] += scale  # before row 9 - 6 + 1
    other[15:] -= scale  # after row 14
    net = network(name, 3).eval()

    with torch.no_grad():
        before, after = (net(Windows(b, rows, length).batch(np.arange(2))) for b in (base, other))
    assert torch.equal(before, after)


@each_encoder
def test_the_oldest_and_the_newest_bar_of_the_window_both_count(name: str) -> None:
    x = torch.randn(4, 7, 3, generator=torch.Generator().manual_seed(3), requires_grad=True)

    network(name, 3).eval()(x).sum().backward()

    assert x.grad is not None
    assert bool((x.grad[:, 0] != 0).any())
    assert bool((x.grad[:, -1] != 0).any())


@given(length=st.integers(2, 20), cut=st.integers(1, 19), seed=st.integers(0, 50))
@few
def test_a_step_of_the_tcn_knows_nothing_of_the_steps_after_it(length: int, cut: int, seed: int) -> None:
    cut = min(cut, length - 1)
    torch.manual_seed(seed)
    encoder = TcnEncoder(2, channels=(4, 4, 4), dropout=0.0).eval()
    x = torch.randn(3, length, 2)
    other = x.clone()
    other[:, cut:] = torch.randn(3, length - cut, 2) * 5

    with torch.no_grad():
        assert torch.equal(encoder.steps(x)[:, :, :cut], encoder.steps(other)[:, :, :cut])


@given(kernel=st.integers(2, 4), levels=st.integers(1, 3))
@few
def test_the_receptive_field_is_exact(kernel: int, levels: int) -> None:
    torch.manual_seed(kernel)
    encoder = TcnEncoder(1, channels=(3,) * levels, kernel=kernel, dropout=0.0).double().eval()
    seen = encoder.receptive_field
    # positive weights and inputs keep every unit alive, so that a path that exists carries a gradient
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.abs_()
    x = torch.rand(1, seen + 5, 1, dtype=torch.float64, requires_grad=True)

    encoder(x).sum().backward()

    assert x.grad is not None
    reached = (x.grad[0, :, 0] != 0).nonzero().flatten()
    assert int(reached.min()) == 5
