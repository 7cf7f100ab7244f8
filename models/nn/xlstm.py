"""The extended LSTM (Beck et al. 2024, arXiv 2405.04517): mLSTM and sLSTM cells, their blocks, and a stack of them.

Plain torch, no compiled kernels: windows of wells are tens of steps long. Axes: `B` batch, `E` heads, `L` steps, `D`
units, `d` units of one head.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

UP_FACTOR = 2
"""Width of an mLSTM block's inside, in units of its outside (paper, appendix A.4.2)."""
GATED_FACTOR = 4 / 3
"""Width of the gated layer after an sLSTM (paper, appendix A.4.1)."""
KERNEL = 4
"""Steps the causal convolution before the gates sees."""


def mlstm(query: Tensor, key: Tensor, value: Tensor, write: Tensor, keep: Tensor) -> Tensor:
    """The matrix memory read at every step, in its stabilised parallel form (equations 21 to 27, appendix A.3).

    Parameters
    ----------
    query, key, value
        [B, E, L, d].
    write, keep
        [B, E, L]: the input gate's logarithm and the forget gate before its sigmoid.

    Returns
    -------
    Tensor
        [B, E, L, d]; step t reads the steps up to t.
    """
    kept = F.logsigmoid(keep).cumsum(dim=-1)
    # weight[t, s]: what step s wrote, times all that was kept from s + 1 to t
    weight = kept[..., :, None] - kept[..., None, :] + write[..., None, :]
    past = torch.ones(weight.shape[-2:], dtype=torch.bool, device=weight.device).tril()
    weight = weight.masked_fill(~past, -math.inf)
    # The largest exponent is taken out of numerator and denominator alike, so it carries no gradient.
    largest = weight.detach().amax(dim=-1, keepdim=True)
    score = query @ key.transpose(-2, -1) / math.sqrt(query.shape[-1]) * torch.exp(weight - largest)
    norm = torch.maximum(score.sum(dim=-1, keepdim=True).abs(), torch.exp(-largest))
    return score @ value / (norm + 1e-6)


def slstm(write: Tensor, keep: Tensor, content: Tensor, show: Tensor, feedback: Tensor) -> Tensor:
    """The scalar memory, with exponential gating and its stabiliser (equations 8 to 17).

    Parameters
    ----------
    write, keep, content, show
        [B, L, E, d]: the inputs of the input, forget, cell and output gates before their functions.
    feedback
        [E, d, 4 d]: what a head's last state adds to the four, in that order.

    Returns
    -------
    Tensor
        [B, L, E, d].
    """
    inputs = torch.stack((write, keep, content, show), dim=-2)  # [B, L, E, 4, d]
    batch, steps, heads, _, units = inputs.shape
    state, cell, norm = (inputs.new_zeros(batch, heads, units) for _ in range(3))
    largest = inputs.new_full((batch, heads, units), -math.inf)
    out = []
    for step in range(steps):
        fed = torch.einsum("bed,edg->beg", state, feedback).view(batch, heads, 4, units)
        into, forget, candidate, shown = (inputs[:, step] + fed).unbind(dim=2)
        kept = F.logsigmoid(forget) + largest
        # Cancels in cell / norm, so it carries no gradient.
        largest_now = torch.maximum(kept, into).detach()
        written, kept = torch.exp(into - largest_now), torch.exp(kept - largest_now)
        cell = kept * cell + written * torch.tanh(candidate)
        norm = kept * norm + written
        state = torch.sigmoid(shown) * cell / norm
        largest = largest_now
        out.append(state)
    return torch.stack(out, dim=1)


def by_head(x: Tensor, heads: int) -> Tensor:
    """[.., D] as [.., E, d]."""
    return x.reshape(*x.shape[:-1], heads, -1)


class HeadwiseLinear(nn.Module):
    """A linear layer without bias inside each head: [.., D] to [.., D], block-diagonal."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        units = width // heads
        self.weight = nn.Parameter(torch.empty(heads, units, units))
        nn.init.normal_(self.weight, std=math.sqrt(2 / (5 * units)))

    def forward(self, x: Tensor) -> Tensor:
        """[B, L, D] to [B, L, D]."""
        heads = self.weight.shape[0]
        return torch.einsum("bled,edu->bleu", by_head(x, heads), self.weight).flatten(-2)


class CausalConv(nn.Module):
    """A convolution per channel over a step and the `KERNEL - 1` steps before it, then SiLU."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(width, width, KERNEL, groups=width)

    def forward(self, x: Tensor) -> Tensor:
        """[B, L, D] to [B, L, D]."""
        return F.silu(self.conv(F.pad(x.transpose(1, 2), (KERNEL - 1, 0)))).transpose(1, 2)


class HeadNorm(nn.Module):
    """Normalisation of each head of each step on its own."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(heads, width)

    def forward(self, x: Tensor) -> Tensor:
        """[B, L, D] to [B, L, D]."""
        out: Tensor = self.norm(x.flatten(0, 1))
        return out.view_as(x)


class MlstmBlock(nn.Module):
    """Pre-norm residual block around an mLSTM: up, convolve, remember, gate, down (figure 11 of the paper)."""

    def __init__(self, width: int, heads: int, *, dropout: float, blocks: int) -> None:
        super().__init__()
        inner = UP_FACTOR * width
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, 2 * inner, bias=False)
        self.conv = CausalConv(inner)
        self.query, self.key, self.value = (HeadwiseLinear(inner, heads) for _ in range(3))
        self.gates = nn.Linear(3 * inner, 2 * heads)
        self.head_norm = HeadNorm(inner, heads)
        self.skip = nn.Parameter(torch.ones(inner))
        self.down = nn.Linear(inner, width, bias=False)
        self.dropout = nn.Dropout(dropout)
        nn.init.normal_(self.up.weight, std=math.sqrt(2 / (5 * width)))
        nn.init.normal_(self.down.weight, std=2 / blocks / math.sqrt(width))
        nn.init.zeros_(self.gates.weight)
        with torch.no_grad():
            self.gates.bias.copy_(torch.cat([torch.zeros(heads), torch.linspace(3, 6, heads)]))

    def forward(self, x: Tensor) -> Tensor:
        """[B, L, D] to [B, L, D]."""
        memory, gate = self.up(self.norm(x)).chunk(2, dim=-1)
        seen = self.conv(memory)
        query, key, value = self.query(seen), self.key(seen), self.value(memory)
        write, keep = self.gates(torch.cat((query, key, value), dim=-1)).transpose(1, 2).chunk(2, dim=1)
        split = [by_head(part, self.heads).transpose(1, 2) for part in (query, key, value)]
        read = mlstm(split[0], split[1], split[2], write, keep).transpose(1, 2).flatten(-2)
        out: Tensor = x + self.dropout(self.down((self.head_norm(read) + self.skip * seen) * F.silu(gate)))
        return out


class SlstmBlock(nn.Module):
    """Pre-norm residual block around an sLSTM, then a gated layer (figure 10 of the paper)."""

    def __init__(self, width: int, heads: int, *, dropout: float, blocks: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.conv = CausalConv(width)
        self.write, self.keep, self.content, self.show = (HeadwiseLinear(width, heads) for _ in range(4))
        units = width // heads
        self.feedback = nn.Parameter(torch.zeros(heads, units, 4 * units))
        self.bias = nn.Parameter(torch.zeros(4, width))
        self.head_norm = HeadNorm(width, heads)
        inner = math.ceil(GATED_FACTOR * width)
        self.gated_norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, 2 * inner, bias=False)
        self.down = nn.Linear(inner, width, bias=False)
        self.dropout = nn.Dropout(dropout)
        nn.init.normal_(self.up.weight, std=math.sqrt(2 / (5 * width)))
        nn.init.normal_(self.down.weight, std=2 / blocks / math.sqrt(width))
        with torch.no_grad():
            # Forget gates from about 0.95 to 0.998: memories of tens to hundreds of steps.
            self.bias[1].copy_(torch.linspace(3, 6, width))

    def forward(self, x: Tensor) -> Tensor:
        """[B, L, D] to [B, L, D]."""
        inside = self.norm(x)
        seen = self.conv(inside)
        raw = (self.write(seen), self.keep(seen), self.content(inside), self.show(inside))
        write, keep, content, show = (by_head(part + self.bias[i], self.heads) for i, part in enumerate(raw))
        state = slstm(write, keep, content, show, self.feedback).flatten(-2)
        x = x + self.dropout(self.head_norm(state))
        gate, content = self.up(self.gated_norm(x)).chunk(2, dim=-1)
        out: Tensor = x + self.dropout(self.down(F.gelu(gate) * content))
        return out


class XlstmStack(nn.Module):
    """Residual xLSTM blocks in order, normalised at the end; step t of the output knows nothing of later steps.

    Parameters
    ----------
    cells
        The kind of each block, a letter each: `m`, matrix memory, parallel over the steps; `s`, scalar memory, step by
        step, whose heads feed back.
    width, heads
        D, and the heads it is split into.
    """

    def __init__(self, cells: str, *, width: int, heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        kinds = {"m": MlstmBlock, "s": SlstmBlock}
        self.blocks = nn.Sequential(*(kinds[c](width, heads, dropout=dropout, blocks=len(cells)) for c in cells))
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        """[B, L, D] to [B, L, D]."""
        out: Tensor = self.norm(self.blocks(x))
        return out


class XlstmForecastNet(nn.Module):
    """Encoder of xLSTM blocks over the window, one linear map from its steps to the horizon, a decoder per target step.

    The frame around the blocks is the one neuralforecast puts around recurrent encoders.

    Parameters
    ----------
    inputs
        Channels at each step of the window: the target and every covariate.
    plans
        Channels known at the target steps.
    steps, horizon, outputs
        L, H and the values per target step.
    """

    def __init__(
        self,
        inputs: int,
        plans: int,
        *,
        steps: int,
        horizon: int,
        outputs: int,
        cells: str,
        width: int,
        heads: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.into = nn.Linear(inputs, width)
        self.stack = XlstmStack(cells, width=width, heads=heads, dropout=dropout)
        self.ahead = nn.Linear(steps, horizon)
        self.decoder = nn.Sequential(nn.Linear(width + plans, width), nn.GELU(), nn.Linear(width, outputs))

    def forward(self, window: Tensor, plan: Tensor | None) -> Tensor:
        """[B, H, outputs] of the window [B, L, inputs] and the plan [B, H, plans]."""
        states = self.stack(self.into(window))
        ahead = self.ahead(states.transpose(1, 2)).transpose(1, 2)
        out: Tensor = self.decoder(ahead if plan is None else torch.cat((ahead, plan), dim=-1))
        return out
