"""Encoders: shapes, sizes and what each of them is made of."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn.utils import parametrize

from models.nn.encoders import CausalBlock, GruEncoder, LstmEncoder, TcnEncoder, receptive_field
from models.nn.heads import MultiHorizonHead, SequenceNetwork

ENCODERS: tuple[Any, ...] = (LstmEncoder, GruEncoder, TcnEncoder)


@pytest.mark.parametrize("kind", ENCODERS)
@pytest.mark.parametrize(("length", "features"), [(1, 1), (5, 3), (40, 7)])
def test_an_encoding_has_out_dim_numbers_for_any_window_and_width(kind: Any, length: int, features: int) -> None:
    encoder = kind(features)

    assert encoder(torch.randn(4, length, features)).shape == (4, encoder.out_dim)


@pytest.mark.parametrize(("kind", "gates"), [(LstmEncoder, 4), (GruEncoder, 3)])
def test_recurrent_encoders_have_the_weights_of_their_cell_and_read_the_last_state(kind: Any, gates: int) -> None:
    encoder = kind(5, hidden=8, layers=2, dropout=0.3).eval()
    x = torch.randn(3, 6, 5, generator=torch.Generator().manual_seed(0))

    states, last = encoder.network(x)
    top = (last[0] if gates == 4 else last)[-1]

    assert encoder.network.weight_ih_l0.shape == (gates * 8, 5)
    assert encoder.network.num_layers == 2
    assert encoder.network.dropout == 0.3
    assert torch.equal(encoder(x), top)
    assert torch.equal(encoder(x), states[:, -1])


@pytest.mark.parametrize("kind", [LstmEncoder, GruEncoder])
def test_one_layer_has_no_dropout_between_layers(kind: Any, recwarn: pytest.WarningsRecorder) -> None:
    assert kind(5, hidden=8, layers=1, dropout=0.3).network.dropout == 0
    assert not recwarn.list


def test_five_levels_of_kernel_three_see_125_bars_and_four_only_61() -> None:
    assert receptive_field(5, 3) == 125
    assert receptive_field(4, 3) == 61
    assert TcnEncoder(2, channels=(4,) * 5, kernel=3).receptive_field == 125


def test_causal_blocks_double_their_dilation_and_use_the_parametrized_weight_norm() -> None:
    encoder = TcnEncoder(2, channels=(4, 4, 4), kernel=3)
    blocks = [block for block in encoder.blocks if isinstance(block, CausalBlock)]

    assert [block.first.dilation for block in blocks] == [(1,), (2,), (4,)]
    assert all(parametrize.is_parametrized(conv, "weight") for b in blocks for conv in (b.first, b.second))
    assert [type(block.shortcut).__name__ for block in blocks] == ["Conv1d", "Identity", "Identity"]


def test_a_causal_block_is_the_sum_it_says_it_is() -> None:
    block = CausalBlock(1, 1, kernel=2, dilation=2, dropout=0.0).double()
    with torch.no_grad():
        for conv, (then, now) in ((block.first, (1.0, 2.0)), (block.second, (0.5, 1.0))):
            conv.weight = torch.tensor([[[then, now]]], dtype=torch.float64)
            conv.bias.zero_()
    x = torch.tensor([[[1.0, 2.0, 3.0, 4.0, 5.0]]], dtype=torch.float64)

    # first: 1 x[t-2] + 2 x[t] = 2, 4, 7, 10, 13; second: 0.5 a[t-2] + a[t] = 2, 4, 8, 12, 16.5; plus x
    assert torch.allclose(block(x), torch.tensor([[[3.0, 6.0, 11.0, 16.0, 21.5]]], dtype=torch.float64))


def test_attention_pooling_is_a_weighted_mean_over_the_steps() -> None:
    encoder = TcnEncoder(2, channels=(3,), pool="attention", dropout=0.0).eval()
    assert encoder.score is not None
    torch.nn.init.zeros_(encoder.score.weight)
    x = torch.randn(4, 6, 2)

    assert torch.allclose(encoder(x), encoder.steps(x).mean(-1), atol=1e-6)


def test_input_dropout_drops_inputs_in_training_only() -> None:
    encoder = LstmEncoder(3, hidden=4, layers=1)
    network = SequenceNetwork(encoder, MultiHorizonHead(4, 1, hidden=4), input_dropout=0.5)
    x = torch.randn(5, 6, 3)

    with torch.no_grad():
        assert torch.equal(network.eval()(x), network.head(encoder(x)))
        assert not torch.equal(network.train()(x), network.head(encoder(x)))
