"""Mixers: networks of linear layers that mix a window over time and over its channels, for any L, H and C.

`MultiScaleTSMixer` reads a window at several resolutions at once; `AttentionTSMixerx` puts attention over input
features and time steps in front of any mixer of the same `forward`. A batch item is one window: the past of one well
(`n_series = 1`, weights shared over wells, so that a new well needs no new network), or of several series side by side.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nightcast.contracts.columns import LEVELS
from nightcast.contracts.errors import ConfigError

FIRST_SPREAD = 0.05
"""Distance between neighbouring quantiles before any training, in units of the (scaled) target."""
FIRST_HALF_LIFE = 2.0
"""Half-life of the anchor's weights before any training, in steps."""


class Mixer(Protocol):
    """What attention can be put in front of.

    Attributes
    ----------
    input_size, horizon
        L and H.
    n_series, n_rates, n_past, n_plan
        Forecast series, companion series, past and plan covariates.
    """

    input_size: int
    horizon: int
    n_series: int
    n_rates: int
    n_past: int
    n_plan: int

    def __call__(
        self,
        y: Tensor,
        known: Tensor | None = None,
        past: Tensor | None = None,
        plan: Tensor | None = None,
        static: Tensor | None = None,
        exposure: Tensor | None = None,
    ) -> Tensor:
        """Quantiles of windows, as `MultiScaleTSMixer.forward` has it."""
        ...


class MixingBlock(nn.Module):
    """Time mixing, then feature mixing, each normalised first and added to its input (Chen et al. 2023, figure 1).

    Parameters
    ----------
    length
        Steps of the input.
    hidden_dim
        D, its channels.
    """

    def __init__(self, length: int, hidden_dim: int, *, dropout: float = 0.1) -> None:
        super().__init__()
        self.time_norm, self.feature_norm = nn.LayerNorm(hidden_dim), nn.LayerNorm(hidden_dim)
        self.time = nn.Linear(length, length)
        self.widen, self.narrow = nn.Linear(hidden_dim, 2 * hidden_dim), nn.Linear(2 * hidden_dim, hidden_dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """`[B, length, D]` to the same shape."""
        over_time = F.gelu(self.time(self.time_norm(x).transpose(1, 2))).transpose(1, 2)
        x = x + self.dropout(over_time)
        over_features = self.narrow(self.dropout(F.gelu(self.widen(self.feature_norm(x)))))
        out: Tensor = x + self.dropout(over_features)
        return out


class Anchor(nn.Module):
    """A learned weighted mean of the known steps of a window, one set of weights per horizon.

    It begins as exponential smoothing; unknown steps have no weight, and the others share it.
    """

    def __init__(self, length: int, horizon: int) -> None:
        super().__init__()
        lag = torch.arange(length - 1, -1, -1, dtype=torch.float32)
        self.score = nn.Parameter((-math.log(2) / FIRST_HALF_LIFE * lag).repeat(horizon, 1))

    def forward(self, y: Tensor, known: Tensor) -> Tensor:
        """`[B, L, S]` values and their mask to `[B, H, S]` means; 0 where nothing is known."""
        known = known.unsqueeze(1)  # [B, 1, L, S]
        score = self.score[None, :, :, None].masked_fill(known == 0, torch.finfo(y.dtype).min)
        # A window without a known step has even weights here, and the mask takes them all away.
        weight = torch.softmax(score, dim=2) * known
        return (weight * y.unsqueeze(1)).sum(dim=2)


class MultiScaleTSMixer(nn.Module):
    """A mixer over several resolutions of one window (Wang et al. 2024), with TSMixer blocks (Chen et al. 2023).

    Each scale s averages s neighbouring steps, is mixed by blocks of its own and projected to the horizon; gates that
    depend on the window add the scales up. The planned future joins there. The median is a learned mean of the
    window's known values (`Anchor`) plus what the mixing adds to it; the other levels are placed around it by
    distances that cannot be negative, so that quantiles never cross.

    Parameters
    ----------
    input_size
        L, steps of the window.
    horizon
        H, steps ahead.
    n_series
        N, series that are forecast together; 1: each window is one well's, and any well can be forecast.
    scales
        Steps averaged into one, per scale; 1 is the full resolution.
    hidden_dim
        D, channels of the mixing.
    n_blocks
        Mixing blocks per scale.
    dropout
        Share of units dropped in the blocks while training.
    n_past, n_plan, n_static
        Covariates known up to the origin, known ahead, and of one value a window.
    n_rates
        Companion series in the target's unit (a producing-day rate), read beside the target; with them the median may
        follow their anchors too. Only with `n_series = 1`.
    levels
        Q quantile levels, rising.
    anchored
        Add the anchor. Without it the network has to say the whole level itself.

    Raises
    ------
    ConfigError
        If a size is out of range.
    """

    def __init__(
        self,
        input_size: int = 48,
        horizon: int = 6,
        n_series: int = 1,
        scales: Sequence[int] = (1, 2, 4),
        hidden_dim: int = 64,
        n_blocks: int = 2,
        dropout: float = 0.1,
        *,
        n_past: int = 0,
        n_plan: int = 0,
        n_static: int = 0,
        n_rates: int = 0,
        levels: Sequence[float] = LEVELS,
        anchored: bool = True,
    ) -> None:
        super().__init__()
        for name, value, least in (
            ("input_size", input_size, 1),
            ("horizon", horizon, 1),
            ("n_series", n_series, 1),
            ("hidden_dim", hidden_dim, 1),
            ("n_blocks", n_blocks, 1),
            ("n_past", n_past, 0),
            ("n_plan", n_plan, 0),
            ("n_static", n_static, 0),
            ("n_rates", n_rates, 0),
        ):
            if value < least:
                raise ConfigError(f"{name}={value!r} of a mixer", expected=f"{least} or more", remedy=f"set `{name}`")
        if not scales or min(scales) < 1 or max(scales) > input_size or len(set(scales)) != len(scales):
            raise ConfigError(
                f"scales {list(scales)} of a window of {input_size} steps",
                expected=f"different whole numbers from 1 to {input_size}",
                remedy="correct `scales`, or widen `input_size`",
            )
        if n_rates and (n_series > 1 or not anchored):
            raise ConfigError(
                f"{n_rates} companion rates beside {n_series} forecast series, anchored: {anchored}",
                expected="companions of one series, with the anchor",
                remedy="hand them over as past covariates instead",
            )
        if not levels or list(levels) != sorted(set(levels)) or levels[0] <= 0 or levels[-1] >= 1:
            raise ConfigError(
                f"quantile levels {list(levels)}",
                expected="rising levels between 0 and 1",
                remedy="correct `levels`",
            )
        self.input_size, self.horizon, self.n_series, self.n_rates = input_size, horizon, n_series, n_rates
        self.n_past, self.n_plan, self.n_static = n_past, n_plan, n_static
        self.scales, self.levels = tuple(scales), tuple(levels)
        # the level nearest the median carries the forecast, the others are distances from it
        self.middle = min(range(len(levels)), key=lambda i: abs(levels[i] - 0.5))
        series = n_series + n_rates
        lengths = [math.ceil(input_size / scale) for scale in self.scales]
        self.embed = nn.ModuleList(nn.Linear(2 * series + n_past + n_plan, hidden_dim) for _ in lengths)
        self.blocks = nn.ModuleList(
            nn.Sequential(*(MixingBlock(length, hidden_dim, dropout=dropout) for _ in range(n_blocks)))
            for length in lengths
        )
        self.ahead = nn.ModuleList(nn.Linear(length, horizon) for length in lengths)
        # A gate over one scale, or a mixture of one anchor, would be a constant.
        self.gate = nn.Linear(hidden_dim, 1, bias=False) if len(lengths) > 1 else None
        self.preference = nn.Parameter(torch.zeros(len(lengths))) if len(lengths) > 1 else None
        self.static = nn.Linear(n_static, hidden_dim) if n_static else None
        self.plan = nn.Linear(n_plan, hidden_dim) if n_plan else None
        self.decode = MixingBlock(horizon, hidden_dim, dropout=dropout)
        self.norm = nn.LayerNorm(hidden_dim)
        self.head = nn.Linear(hidden_dim, n_series * len(levels))
        self.anchor = Anchor(input_size, horizon) if anchored else None
        self.follow = nn.Linear(hidden_dim, series) if n_rates else None
        self._start_small()

    def forward(
        self,
        y: Tensor,
        known: Tensor | None = None,
        past: Tensor | None = None,
        plan: Tensor | None = None,
        static: Tensor | None = None,
        exposure: Tensor | None = None,
    ) -> Tensor:
        """Quantiles `[B, H, Q]` of windows (`[B, H, N, Q]` if N > 1), rising along Q.

        Parameters
        ----------
        y
            `[B, L]`, or `[B, L, N + n_rates]`: the scaled target, oldest step first, then its companions. What stands
            at unknown steps is not read.
        known
            Like `y`: 1 where the value is known, 0 where not; None: all known.
        past
            `[B, L, n_past]` covariates known up to the origin, standardised.
        plan
            `[B, L + H, n_plan]` covariates known ahead, over the window and the horizon.
        static
            `[B, n_static]`.
        exposure
            `[B, H]` planned share of each step ahead on stream, which the companions' anchors are multiplied by; None
            where there is no such plan.

        Raises
        ------
        ConfigError
            If an input's shape is not the one the network was built for.
        """
        y, known = self._series(y, known)
        batch = y.shape[0]
        past = _checked("past", past, (batch, self.input_size, self.n_past), y)
        plan = _checked("plan", plan, (batch, self.input_size + self.horizon, self.n_plan), y)
        static = _checked("static", static, (batch, self.n_static), y)
        others = torch.cat([past, plan[:, : self.input_size]], dim=2)
        fixed = self.static(static).unsqueeze(1) if self.static is not None else None
        carried = carry(y, known)
        parts = []
        for i, scale in enumerate(self.scales):
            x = self.embed[i](_pooled(carried, known, others, scale))  # [B, ceil(L / s), D]
            x = x if fixed is None else x + fixed
            parts.append(self.ahead[i](self.blocks[i](x).transpose(1, 2)).transpose(1, 2))  # [B, H, D]
        z = self._fuse(torch.stack(parts, dim=2))
        if self.plan is not None:
            z = z + self.plan(plan[:, self.input_size :])
        z = self.norm(self.decode(z))
        raw = self.head(z).view(batch, self.horizon, self.n_series, len(self.levels))
        out = spread_out(raw, self.middle)
        if self.anchor is not None:
            means = self._follow(self.anchor(y, known), known, z, exposure)
            out = out + means.unsqueeze(3)
        return out.squeeze(2) if self.n_series == 1 else out

    def _series(self, y: Tensor, known: Tensor | None) -> tuple[Tensor, Tensor]:
        """Values and mask as `[B, L, N + n_rates]`, unknown values at 0."""
        series = self.n_series + self.n_rates
        if y.dim() == 2 and series == 1:
            y, known = y.unsqueeze(2), known.unsqueeze(2) if known is not None else None
        if y.dim() != 3 or y.shape[1:] != (self.input_size, series):
            raise _misfit("y", y, ("B", self.input_size, series))
        known = torch.ones_like(y) if known is None else known.to(y.dtype)
        if known.shape != y.shape:
            raise _misfit("known", known, tuple(y.shape))
        return torch.where(known > 0, y, torch.zeros((), dtype=y.dtype, device=y.device)), known

    def _fuse(self, parts: Tensor) -> Tensor:
        """Scales `[B, H, K, D]` added up under gates that sum to 1, `[B, H, D]`."""
        if self.gate is None or self.preference is None:
            return parts.squeeze(2)
        gates = torch.softmax(self.gate(parts).squeeze(3) + self.preference, dim=2)
        return (gates.unsqueeze(3) * parts).sum(dim=2)

    def _follow(self, means: Tensor, known: Tensor, z: Tensor, exposure: Tensor | None) -> Tensor:
        """`[B, H, N]` anchors; of one series with companions, the mixture that the window asks for."""
        if self.follow is None:
            return means
        if exposure is not None:
            if exposure.shape != means.shape[:2]:
                raise _misfit("exposure", exposure, tuple(means.shape[:2]))
            means = torch.cat([means[:, :, :1], means[:, :, 1:] * exposure.unsqueeze(2)], dim=2)
        # A companion that is nowhere known has no anchor to follow.
        there = known.amax(dim=1, keepdim=True)
        score = self.follow(z).masked_fill(there == 0, torch.finfo(z.dtype).min)
        return (torch.softmax(score, dim=2) * means).sum(dim=2, keepdim=True)

    def _start_small(self) -> None:
        """Begin at the anchor, with narrow intervals around it."""
        with torch.no_grad():
            self.head.weight.mul_(0.1)
            bias = torch.full((self.n_series, len(self.levels)), math.log(math.expm1(FIRST_SPREAD)))
            bias[:, self.middle] = 0.0
            self.head.bias.copy_(bias.reshape(-1))
            if self.follow is not None:
                self.follow.weight.mul_(0.1)
                self.follow.bias.zero_()


@dataclass(frozen=True, eq=False)
class AttentionWeights:
    """What an `AttentionTSMixerx` attended to in its latest batch; detached.

    Attributes
    ----------
    feature_names
        The F input features.
    lags
        Steps back from the origin of each time step, oldest first: L - 1 .. 0.
    features
        `[B, F]` weight of each feature; each row sums to 1.
    steps
        `[B, L]` weight of each time step; each row sums to 1.
    """

    feature_names: tuple[str, ...]
    lags: tuple[int, ...]
    features: Tensor
    steps: Tensor

    @property
    def by_feature(self) -> dict[str, float]:
        """Feature -> its weight, averaged over the batch; they sum to 1."""
        return dict(zip(self.feature_names, self.features.mean(dim=0).tolist(), strict=True))

    @property
    def by_lag(self) -> dict[int, float]:
        """Lag -> its weight, averaged over the batch; they sum to 1."""
        return dict(zip(self.lags, self.steps.mean(dim=0).tolist(), strict=True))


class AttentionTSMixerx(nn.Module):
    """Attention over input features and over time steps, in front of any mixer (after Lim et al. 2021).

    Additive attention with several heads scores each feature by its course over the window, and each step by all its
    features. The weights do two things. Covariates reach the base model multiplied by them (relative to the largest
    one), so that what is not attended to is not seen; the series' own past stays whole, because the base model's
    anchor reads its level there. And the attended values, mixed by head, move the forecast directly.

    Parameters
    ----------
    base_model
        A mixer; any module of `MultiScaleTSMixer`'s `forward` and sizes.
    n_features
        F, the input features: the series (with companions), the past covariates and the plan covariates, in this order.
    attention_hidden_dim
        Units of the attention; a multiple of the heads.
    attention_heads
        Heads, whose weights are averaged in what is shown.
    feature_names
        Names to show; None: `feature_0`, `feature_1`, ...

    Raises
    ------
    ConfigError
        If the sizes do not fit one another.
    """

    def __init__(
        self,
        base_model: Mixer,
        n_features: int,
        attention_hidden_dim: int = 32,
        attention_heads: int = 4,
        *,
        feature_names: Sequence[str] | None = None,
    ) -> None:
        super().__init__()
        series = base_model.n_series + base_model.n_rates
        offered = series + base_model.n_past + base_model.n_plan
        if n_features != offered:
            raise ConfigError(
                f"attention over {n_features} features of a base model that reads {offered}",
                expected=f"{offered}: series {series}, past {base_model.n_past}, plan {base_model.n_plan}",
                remedy="correct `n_features`, or the base model's sizes",
            )
        if attention_heads < 1 or attention_hidden_dim < 1 or attention_hidden_dim % attention_heads:
            raise ConfigError(
                f"attention of {attention_hidden_dim} units and {attention_heads} heads",
                expected="units that are a multiple of the heads",
                remedy="correct `attention_hidden_dim` or `attention_heads`",
            )
        names = tuple(feature_names) if feature_names is not None else tuple(f"feature_{i}" for i in range(n_features))
        if len(names) != n_features or len(set(names)) != n_features:
            raise ConfigError(
                f"the feature names {list(names)}",
                expected=f"{n_features} different names",
                remedy="correct `feature_names`",
            )
        self.base_model = base_model
        self.input_size, self.horizon = base_model.input_size, base_model.horizon
        self.n_series, self.n_rates = base_model.n_series, base_model.n_rates
        self.n_past, self.n_plan = base_model.n_past, base_model.n_plan
        self.heads, self.feature_names = attention_heads, names
        units = attention_hidden_dim
        self.course = nn.Linear(self.input_size, units)
        self.feature_place = nn.Parameter(0.1 * torch.randn(n_features, units))
        self.feature_score = nn.Linear(units, attention_heads, bias=False)
        self.moment = nn.Linear(n_features, units)
        self.step_place = nn.Parameter(0.1 * torch.randn(self.input_size, units))
        self.step_score = nn.Linear(units, attention_heads, bias=False)
        self.value = nn.Parameter(torch.randn(n_features, units) / math.sqrt(units))
        self.shift = nn.Linear(units, self.horizon * self.n_series, bias=False)
        self._latest: AttentionWeights | None = None
        self._focus: Tensor | None = None

    @property
    def latest_attention_weights(self) -> AttentionWeights:
        """The weights of the latest batch.

        Raises
        ------
        ConfigError
            If no batch went through yet.
        """
        if self._latest is None:
            raise ConfigError(
                "no attention weights yet",
                expected="a batch that went through the network",
                remedy="call the network once",
            )
        return self._latest

    @property
    def latest_entropy(self) -> Tensor:
        """Mean entropy of the latest batch's weights, each as a share of the largest possible; still in the graph.

        Added to the loss with a small factor it makes attention choose, where the data leave it a choice.
        """
        if self._focus is None:
            raise ConfigError("no attention weights yet", expected="a batch", remedy="call the network once")
        return self._focus

    def forward(
        self,
        y: Tensor,
        known: Tensor | None = None,
        past: Tensor | None = None,
        plan: Tensor | None = None,
        static: Tensor | None = None,
        exposure: Tensor | None = None,
    ) -> Tensor:
        """Quantiles of windows; arguments and result are those of `MultiScaleTSMixer.forward`."""
        batch, length = y.shape[0], self.input_size
        series = self.n_series + self.n_rates
        own = y.unsqueeze(2) if y.dim() == 2 and series == 1 else y
        if own.dim() != 3 or own.shape[1:] != (length, series):
            raise _misfit("y", y, ("B", length, series))
        mask = torch.ones_like(own) if known is None else known.reshape(own.shape).to(own.dtype)
        past = _checked("past", past, (batch, length, self.n_past), own)
        plan = _checked("plan", plan, (batch, length + self.horizon, self.n_plan), own)
        # The series as deviations from their mean over the window: its level is the base model's matter.
        values = carry(torch.where(mask > 0, own, torch.zeros((), dtype=own.dtype, device=own.device)), mask)
        centre = (values * mask).sum(dim=1, keepdim=True) / mask.sum(dim=1, keepdim=True).clamp_min(1)
        x = torch.cat([(values - centre) * mask, past, plan[:, :length]], dim=2)  # [B, L, F]
        by_feature, by_step = self._attend(x, mask)
        attended = torch.einsum("bfh,blh,blf->bfh", by_feature, by_step, x)
        size = self.value.shape[1] // self.heads
        context = torch.einsum("bfh,fhd->bhd", attended, self.value.view(-1, self.heads, size)).reshape(batch, -1)
        features, steps = by_feature.mean(dim=2), by_step.mean(dim=2)
        self._remember(features, steps)
        relative = features / features.amax(dim=1, keepdim=True)
        when = (steps / steps.amax(dim=1, keepdim=True)).unsqueeze(2)  # [B, L, 1]
        past_seen = past * relative[:, None, series : series + self.n_past] * when
        plan_share = relative[:, None, series + self.n_past :]
        plan_seen = torch.cat([plan[:, :length] * plan_share * when, plan[:, length:] * plan_share], dim=1)
        out = self.base_model(y, known, past_seen, plan_seen, static, exposure)
        shift: Tensor = self.shift(context).view(batch, self.horizon, self.n_series)
        return out + (shift if self.n_series == 1 else shift.unsqueeze(3))

    def _attend(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Weights `[B, F, heads]` of the features and `[B, L, heads]` of the steps of inputs `[B, L, F]`."""
        feature = torch.tanh(self.course(x.transpose(1, 2)) + self.feature_place)
        by_feature = torch.softmax(self.feature_score(feature), dim=1)
        score = self.step_score(torch.tanh(self.moment(x) + self.step_place))
        # The padding before a series begins is no step of it; a window without any value is attended to evenly.
        begun = mask.amax(dim=2).cummax(dim=1).values
        begun = torch.where(begun.amax(dim=1, keepdim=True) > 0, begun, torch.ones_like(begun))
        score = score.masked_fill(begun.unsqueeze(2) == 0, torch.finfo(x.dtype).min)
        return by_feature, torch.softmax(score, dim=1)

    def _remember(self, features: Tensor, steps: Tensor) -> None:
        lags = tuple(range(self.input_size - 1, -1, -1))
        self._latest = AttentionWeights(self.feature_names, lags, features.detach(), steps.detach())
        self._focus = (_entropy(features) + _entropy(steps)) / 2


def carry(y: Tensor, known: Tensor) -> Tensor:
    """Fill unknown steps of `[B, L, S]` with the latest known value, those before the first with the first one.

    A series without any known value is 0 throughout.
    """
    place = torch.arange(y.shape[1], device=y.device).view(1, -1, 1)
    latest = torch.where(known > 0, place, -1).cummax(dim=1).values
    first = (latest < 0).sum(dim=1, keepdim=True).clamp_max(y.shape[1] - 1)
    return torch.gather(y * (known > 0), 1, torch.where(latest >= 0, latest, first))


def spread_out(raw: Tensor, middle: int) -> Tensor:
    """Rising values from free ones along the last axis: the middle one stays, the others become distances."""
    centre = raw[..., middle : middle + 1]
    above = centre + F.softplus(raw[..., middle + 1 :]).cumsum(dim=-1)
    below = centre - F.softplus(raw[..., :middle].flip(-1)).cumsum(dim=-1).flip(-1)
    return torch.cat([below, centre, above], dim=-1)


def _pooled(y: Tensor, known: Tensor, others: Tensor, scale: int) -> Tensor:
    """Means over runs of `scale` steps that end at the origin: `[B, ceil(L / scale), 2 S + C]`; `y` is filled.

    The oldest run may be shorter.
    """
    x = torch.cat([y, known, others], dim=2)
    if scale == 1:
        return x
    batch, length, channels = x.shape
    lacking = -length % scale
    summed = F.pad(x, (0, 0, lacking, 0)).view(batch, -1, scale, channels).sum(dim=2)
    count = torch.full((summed.shape[1], 1), float(scale), dtype=x.dtype, device=x.device)
    count[0] -= lacking
    return summed / count


def _entropy(weights: Tensor) -> Tensor:
    """Mean entropy of the rows of `[B, K]`, as a share of log K; 0 for K = 1."""
    if weights.shape[1] == 1:
        return weights.sum() * 0.0
    return -(weights * weights.clamp_min(1e-12).log()).sum(dim=1).mean() / math.log(weights.shape[1])


def _checked(name: str, value: Tensor | None, shape: tuple[int, ...], like: Tensor) -> Tensor:
    """An input of the expected shape; where the network has no such channels, an empty one."""
    if value is None and 0 in shape:
        return like.new_zeros(shape)
    if value is None or tuple(value.shape) != shape:
        raise _misfit(name, value, shape)
    return value


def _misfit(name: str, value: Tensor | None, shape: tuple[object, ...]) -> ConfigError:
    return ConfigError(
        f"a mixer got {name} of shape {None if value is None else list(value.shape)}",
        expected=str(list(shape)),
        remedy="build the network with the sizes of its inputs",
    )
