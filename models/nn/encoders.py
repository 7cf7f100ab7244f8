"""Encoders: a window `[B, L, F]` to one vector `[B, D]`, for any L and F."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations


class Encoder(Protocol):
    """What a head can be put on.

    Attributes
    ----------
    out_dim
        D, the length of an encoding.
    """

    out_dim: int

    def __call__(self, x: Tensor) -> Tensor:
        """Encodings `[B, D]` of windows `[B, L, F]`."""
        ...


class _RecurrentEncoder(nn.Module):
    """The last state of a recurrent network that reads the window from its oldest bar to its newest."""

    cell: ClassVar[type[nn.LSTM] | type[nn.GRU]]

    def __init__(self, features: int, *, hidden: int = 128, layers: int = 2, dropout: float = 0.0) -> None:
        super().__init__()
        # between layers only, so that a single layer has none (and torch does not warn about it)
        between = dropout if layers > 1 else 0.0
        self.network = self.cell(features, hidden, num_layers=layers, batch_first=True, dropout=between)
        self.out_dim = hidden

    def forward(self, x: Tensor) -> Tensor:
        """The top layer's state after the newest bar, `[B, D]`."""
        states: Tensor = self.network(x)[0]  # [B, L, D]
        return states[:, -1]


class LstmEncoder(_RecurrentEncoder):
    """Long short-term memory (Hochreiter and Schmidhuber 1997)."""

    cell = nn.LSTM


class GruEncoder(_RecurrentEncoder):
    """Gated recurrent units (Cho et al. 2014)."""

    cell = nn.GRU


class CausalBlock(nn.Module):
    """Two dilated causal convolutions with a residual path (Bai et al. 2018, figure 1b).

    Padding is on the past's side alone: step t of the output reads `2 (k - 1) dilation` steps before t and none after.
    """

    def __init__(self, inputs: int, outputs: int, *, kernel: int, dilation: int, dropout: float) -> None:
        super().__init__()
        self.padding = (kernel - 1) * dilation
        self.first = parametrizations.weight_norm(nn.Conv1d(inputs, outputs, kernel, dilation=dilation))
        self.second = parametrizations.weight_norm(nn.Conv1d(outputs, outputs, kernel, dilation=dilation))
        self.dropout = nn.Dropout(dropout)
        self.shortcut = nn.Identity() if inputs == outputs else nn.Conv1d(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """`[B, inputs, L]` to `[B, outputs, L]`."""
        out = self.dropout(F.relu(self.first(F.pad(x, (self.padding, 0)))))
        out = self.dropout(F.relu(self.second(F.pad(out, (self.padding, 0)))))
        return F.relu(out + self.shortcut(x))


def receptive_field(levels: int, kernel: int) -> int:
    """Bars that the last step of a stack of causal blocks sees: `1 + 2 (k - 1) (2^levels - 1)`."""
    return 1 + 2 * (kernel - 1) * ((1 << levels) - 1)


class TcnEncoder(nn.Module):
    """Temporal convolutional network with dilations 1, 2, 4, ... (Bai et al. 2018).

    Parameters
    ----------
    channels
        Channels of each level.
    pool
        `last`: the newest step alone, whose receptive field is the past. `attention`: a learned weighted mean over
        the steps. Averaging them evenly would throw recency away.
    """

    def __init__(
        self,
        features: int,
        *,
        channels: Sequence[int] = (64, 64, 64, 64, 64),
        kernel: int = 3,
        dropout: float = 0.2,
        pool: Literal["last", "attention"] = "last",
    ) -> None:
        super().__init__()
        sizes = (features, *channels)
        self.blocks = nn.Sequential(
            *(
                CausalBlock(sizes[i], sizes[i + 1], kernel=kernel, dilation=2**i, dropout=dropout)
                for i in range(len(channels))
            )
        )
        self.score = nn.Conv1d(channels[-1], 1, 1, bias=False) if pool == "attention" else None
        self.out_dim = channels[-1]
        self.receptive_field = receptive_field(len(channels), kernel)

    def steps(self, x: Tensor) -> Tensor:
        """Every step's features, `[B, L, F]` to `[B, D, L]`; step t knows nothing of the steps after it."""
        out: Tensor = self.blocks(x.transpose(1, 2))
        return out

    def forward(self, x: Tensor) -> Tensor:
        """Encodings `[B, D]` of windows `[B, L, F]`."""
        steps = self.steps(x)
        if self.score is None:
            return steps[:, :, -1]
        share = torch.softmax(self.score(steps), dim=-1)  # [B, 1, L]
        return (steps * share).sum(dim=-1)
