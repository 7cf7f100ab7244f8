"""Losses over several horizons, weighted and masked.

`MultiHorizonLoss` takes any loss of single decisions (`ElementLoss`); what it adds is the same for all of them:
per-horizon weighted means, so that neither the scale of the weights nor the number of known labels matters.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nightcast.contracts.bars import UNKNOWN_LABEL
from nightcast.contracts.errors import ConfigError


class ElementLoss(nn.Module):
    """A loss of single decisions; a subclass fills in `forward`."""

    def forward(self, logits: Tensor, y: Tensor) -> Tensor:
        """`[...]` losses from logits `[..., K]` and classes `[...]`, all of them known."""
        raise NotImplementedError


class CrossEntropy(ElementLoss):
    """Cross entropy with the target `(1 - e) onehot + e / K` (Szegedy et al. 2016); e = 0 is the plain one."""

    def __init__(self, smoothing: float = 0.0) -> None:
        super().__init__()
        if not 0 <= smoothing < 1:
            raise ConfigError(
                f"label smoothing {smoothing}", expected="at least 0 and below 1", remedy="correct `smoothing`"
            )
        self.smoothing = smoothing

    def extra_repr(self) -> str:
        """What sets it apart, for the fingerprint of a fit."""
        return f"smoothing={self.smoothing}"

    def forward(self, logits: Tensor, y: Tensor) -> Tensor:
        """`[...]` losses from logits `[..., K]` and classes `[...]`."""
        log_p = F.log_softmax(logits, dim=-1)
        loss = -log_p.gather(-1, y.unsqueeze(-1)).squeeze(-1)
        if self.smoothing == 0:
            return loss
        return (1 - self.smoothing) * loss - self.smoothing * log_p.mean(dim=-1)


class MultiHorizonLoss(nn.Module):
    """`sum_h alpha_h * sum_i(w_ih * l_ih) / sum_i(w_ih)` over known labels.

    A horizon without a known label of positive weight in the batch adds nothing.

    Parameters
    ----------
    alphas
        `[H]` weight of each horizon, 0 or more.
    element
        Loss of single decisions; cross entropy by default.

    Raises
    ------
    ConfigError
        If there are no alphas, one is negative, or all are 0.
    """

    alphas: Tensor

    def __init__(self, alphas: Sequence[float], element: ElementLoss | None = None) -> None:
        super().__init__()
        if not alphas or min(alphas) < 0 or max(alphas) <= 0:
            raise ConfigError(
                f"horizon weights {list(alphas)}",
                expected="one per horizon, none negative, one above 0",
                remedy="correct `alphas`",
            )
        self.register_buffer("alphas", torch.tensor(list(alphas), dtype=torch.float32))
        self.element = element or CrossEntropy()

    def forward(self, logits: Tensor, y: Tensor, weight: Tensor, *, total: Tensor | None = None) -> Tensor:
        """The loss of logits `[B, H, K]` for classes `[B, H]` (-1 unknown) and weights `[B, H]`.

        Parameters
        ----------
        total
            `[H]` sums of weights to divide by, where the rows are a part of a larger batch.
        """
        sums, weights = self.sums(logits, y, weight)
        return self.combine(sums, weights if total is None else total)

    def sums(self, logits: Tensor, y: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        """`[H]` sums of weighted losses and `[H]` sums of weights; both add up over batches."""
        known = y != UNKNOWN_LABEL
        losses = self.element(logits, y.clamp_min(0))
        weight = torch.where(known, weight, 0.0)
        # where, not a product: an unknown label's loss must not reach the gradient, whatever its value
        losses = torch.where(known, losses, 0.0)
        return (weight * losses).sum(dim=0), weight.sum(dim=0)

    def combine(self, sums: Tensor, weights: Tensor) -> Tensor:
        """The loss from `[H]` sums of weighted losses and of weights."""
        means = sums / torch.where(weights > 0, weights, 1.0)
        return (self.alphas.to(means.dtype) * means).sum()
