"""The head every sequence classifier ends in: one hidden layer, then all horizons in one matrix product."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from nightcast.contracts.columns import CLASSES

Activation = Literal["relu", "gelu"]


class MultiHorizonHead(nn.Module):
    """`[B, D]` to logits `[B, H, 3]`: (norm, dropout,) linear, activation, dropout, linear.

    Parameters
    ----------
    inputs
        D, the encoder's `out_dim`.
    horizons
        H.
    hidden
        Units of the hidden layer.
    norm
        Normalise the encoding and drop parts of it before the hidden layer.
    """

    def __init__(
        self,
        inputs: int,
        horizons: int,
        *,
        hidden: int = 256,
        dropout: float = 0.0,
        activation: Activation = "relu",
        norm: bool = True,
    ) -> None:
        super().__init__()
        self.horizons = horizons
        before: list[nn.Module] = [nn.LayerNorm(inputs), nn.Dropout(dropout)] if norm else []
        self.body = nn.Sequential(
            *before,
            nn.Linear(inputs, hidden),
            nn.ReLU() if activation == "relu" else nn.GELU(),
            nn.Dropout(dropout),
        )
        self.logits = nn.Linear(hidden, horizons * len(CLASSES))

    def forward(self, z: Tensor) -> Tensor:
        """Logits `[B, H, 3]` of encodings `[B, D]`."""
        out: Tensor = self.logits(self.body(z))  # [B, H * 3]
        return out.view(len(z), self.horizons, len(CLASSES))

    def start_at(self, priors: NDArray[np.float64]) -> None:
        """Begin at the climatology: the log of `[H, 3]` class shares as the last bias, under a tenth of the weights."""
        bias = np.log(np.clip(priors, 1e-4, None))
        with torch.no_grad():
            self.logits.weight.mul_(0.1)
            self.logits.bias.copy_(torch.from_numpy(bias - bias.mean(axis=1, keepdims=True)).reshape(-1))


class SequenceNetwork(nn.Module):
    """Input dropout, an encoder and a head: windows `[B, L, F]` to logits `[B, H, 3]`."""

    def __init__(self, encoder: nn.Module, head: MultiHorizonHead, *, input_dropout: float = 0.0) -> None:
        super().__init__()
        self.input_dropout = nn.Dropout(input_dropout)
        self.encoder, self.head = encoder, head

    def forward(self, x: Tensor) -> Tensor:
        """Logits `[B, H, 3]` of windows `[B, L, F]`."""
        out: Tensor = self.head(self.encoder(self.input_dropout(x)))
        return out
