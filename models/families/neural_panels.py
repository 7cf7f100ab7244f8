"""More networks through neuralforecast 3.3, one small declaration each; what they share is `Neural`.

Three of the library's networks are corrected here, each in a subclass that is registered with the library under its
own name, so that a bundle comes back as what was saved:

- iTransformer lays several quantiles out quantile by series where the loss reads series by quantile: a well would get
  the numbers of others. The two axes are swapped back.
- TimesNet reads planned columns inside the window alone. Here the plan of the target steps is embedded beside them.
- xLSTM needs compiled extensions. `models/nn/xlstm.py` holds its cells in plain torch.
"""

from __future__ import annotations

import functools
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import Field, model_validator

from models.families.neural import Channel, Neural, NeuralParams, Scaler
from models.grid import Grid
from nightcast.contracts.catalog import Capabilities, Uses
from nightcast.contracts.panel import PanelView

_ALL: frozenset[Uses] = frozenset({"past", "plan", "static"})
_PLAN: frozenset[Uses] = frozenset({"plan"})


class PanelNetwork(Neural):
    """A `Neural` that hands its network no covariate roles but those it reads, and covariates before made features.

    Windows hold the lags that features are made of, and a calendar has no gaps: by filling alone it would crowd out a
    planned uptime.
    """

    @abstractmethod
    def _network(self, settings: dict[str, Any], *, series: int) -> Any:
        """The unfitted neuralforecast model, from the settings all networks share."""

    def _choose(self, view: PanelView, full: Grid, members: Sequence[str], role: str) -> tuple[Channel, ...]:
        # The library refuses a role that a network does not read.
        if role not in self.capabilities.uses:
            return ()
        found: list[Channel] = []
        for measured in (True, False):
            columns = {name: its for name, its in view.columns.items() if (its.block == "covariate") == measured}
            found += super()._choose(replace(view, columns=columns), full, members, role)
        return tuple(found[: self.params.max_exog])


class DLinearParams(NeuralParams):
    """Parameters of DLinear: width of the moving average, in steps, that parts trend from remainder."""

    learning_rate: float = Field(default=2e-3, gt=0)
    input_size: int = Field(default=24, ge=2)
    max_steps: int = Field(default=1000, ge=1)
    trend_window: int = Field(default=13, ge=1)

    @model_validator(mode="after")
    def _is_centred(self) -> Self:
        if self.trend_window % 2 == 0:
            raise ValueError("an odd trend_window, so that it has a middle")
        return self


class DLinear(PanelNetwork):
    """One linear map of the moving average and one of the remainder, shared by all series (Zeng et al. 2023)."""

    Params = DLinearParams
    capabilities: ClassVar[Capabilities] = Capabilities(min_history=3)
    params: DLinearParams

    def _network(self, settings: dict[str, Any], *, series: int) -> Any:
        from neuralforecast.models import DLinear as Network

        return Network(**settings, moving_avg_window=self.params.trend_window)


class NLinearParams(NeuralParams):
    """Parameters of NLinear; it has none of its own."""

    learning_rate: float = Field(default=2e-3, gt=0)
    input_size: int = Field(default=24, ge=2)
    max_steps: int = Field(default=1000, ge=1)


class NLinear(PanelNetwork):
    """One linear map of the window less its last value, which is added back (Zeng et al. 2023)."""

    Params = NLinearParams
    capabilities: ClassVar[Capabilities] = Capabilities(min_history=3)
    params: NLinearParams

    def _network(self, settings: dict[str, Any], *, series: int) -> Any:
        from neuralforecast.models import NLinear as Network

        return Network(**settings)


class PatchTSTParams(NeuralParams):
    """Parameters of PatchTST.

    Attributes
    ----------
    hidden, linear_hidden, heads, layers
        Units of a token and of the layer behind the attention, attention heads, encoder layers.
    patch, stride
        Steps of a patch and from one patch to the next.
    dropout
        Share of units dropped in the encoder.
    """

    input_size: int = Field(default=36, ge=2)
    max_steps: int = Field(default=600, ge=1)
    hidden: int = Field(default=32, ge=1)
    linear_hidden: int = Field(default=64, ge=1)
    heads: int = Field(default=4, ge=1)
    layers: int = Field(default=2, ge=1)
    patch: int = Field(default=6, ge=1)
    stride: int = Field(default=3, ge=1)
    dropout: float = Field(default=0.1, ge=0, lt=1)

    @model_validator(mode="after")
    def _heads_fit(self) -> Self:
        _require_whole_heads(self.hidden, self.heads)
        return self


class PatchTST(PanelNetwork):
    """A transformer over patches of each series, which is normalised by its own window (Nie et al. 2023)."""

    Params = PatchTSTParams
    capabilities: ClassVar[Capabilities] = Capabilities(min_history=3)
    params: PatchTSTParams

    def _network(self, settings: dict[str, Any], *, series: int) -> Any:
        from neuralforecast.models import PatchTST as Network

        params = self.params
        return Network(
            **settings,
            encoder_layers=params.layers,
            n_heads=params.heads,
            hidden_size=params.hidden,
            linear_hidden_size=params.linear_hidden,
            dropout=params.dropout,
            fc_dropout=params.dropout,
            patch_len=params.patch,
            stride=params.stride,
        )


class NbeatsxParams(NeuralParams):
    """Parameters of N-BEATSx: units of the hidden layers, blocks per stack, dropout of the basis coefficients."""

    input_size: int = Field(default=36, ge=2)
    hidden: int = Field(default=128, ge=1)
    blocks: int = Field(default=1, ge=1)
    dropout: float = Field(default=0.2, ge=0, lt=1)


class Nbeatsx(PanelNetwork):
    """Neural basis expansion with covariates: identity, trend and seasonality stacks (Olivares et al. 2023)."""

    Params = NbeatsxParams
    capabilities: ClassVar[Capabilities] = Capabilities(uses=_ALL, min_history=3)
    params: NbeatsxParams

    def _network(self, settings: dict[str, Any], *, series: int) -> Any:
        from neuralforecast.models import NBEATSx as Network

        params = self.params
        # A horizon of one step has neither trend nor season, and the library refuses their stacks.
        stacks = ["identity", "trend", "seasonality"] if self.horizon > 1 else ["identity"] * 3
        return Network(
            **settings,
            stack_types=stacks,
            n_blocks=[params.blocks] * 3,
            mlp_units=[[params.hidden, params.hidden]] * 3,
            dropout_prob_theta=params.dropout,
        )


class TftParams(NeuralParams):
    """Parameters of the temporal fusion transformer: units, attention heads, dropout of the variable selection."""

    input_size: int = Field(default=24, ge=2)
    windows_batch_size: int = Field(default=64, ge=1)
    max_exog: int = Field(default=6, ge=0)
    hidden: int = Field(default=16, ge=1)
    heads: int = Field(default=2, ge=1)
    dropout: float = Field(default=0.1, ge=0, lt=1)

    @model_validator(mode="after")
    def _heads_fit(self) -> Self:
        _require_whole_heads(self.hidden, self.heads)
        return self


class Tft(PanelNetwork):
    """Temporal fusion transformer: variable selection, LSTM, interpretable attention (Lim et al. 2021)."""

    Params = TftParams
    capabilities: ClassVar[Capabilities] = Capabilities(uses=_ALL, min_history=3)
    params: TftParams

    def _network(self, settings: dict[str, Any], *, series: int) -> Any:
        from neuralforecast.models import TFT as Network

        params = self.params
        return Network(**settings, hidden_size=params.hidden, n_head=params.heads, dropout=params.dropout)


class TimesNetParams(NeuralParams):
    """Parameters of TimesNet.

    Attributes
    ----------
    hidden, conv_hidden, layers
        Units of a step, channels of the convolutions, blocks.
    kernels
        Convolutions side by side, of widths 1, 3, 5, ...
    periods
        Periods the window is folded by; fewer where it has fewer frequencies.
    dropout
        Share of units dropped behind the embedding.
    """

    input_size: int = Field(default=24, ge=2)
    max_steps: int = Field(default=600, ge=1)
    learning_rate: float = Field(default=3e-3, gt=0)
    windows_batch_size: int = Field(default=32, ge=1)
    max_exog: int = Field(default=6, ge=0)
    hidden: int = Field(default=16, ge=2, multiple_of=2)
    conv_hidden: int = Field(default=16, ge=1)
    layers: int = Field(default=1, ge=1)
    kernels: int = Field(default=3, ge=1)
    periods: int = Field(default=3, ge=1)
    dropout: float = Field(default=0.1, ge=0, lt=1)


class TimesNet(PanelNetwork):
    """Convolutions over a window folded by its strongest periods (Wu et al. 2023).

    The periods are those of the mean spectrum of a batch. Series are therefore forecast one at a time: a forecast does
    not depend on which other series are asked for.
    """

    Params = TimesNetParams
    capabilities: ClassVar[Capabilities] = Capabilities(uses=_PLAN, min_history=3)
    params: TimesNetParams

    def _network(self, settings: dict[str, Any], *, series: int) -> Any:
        params = self.params
        return _networks()["timesnet"](
            **settings,
            valid_batch_size=1,
            hidden_size=params.hidden,
            conv_hidden_size=params.conv_hidden,
            encoder_layers=params.layers,
            num_kernels=params.kernels,
            # The constant has no period: of n steps, n // 2 frequencies are left.
            top_k=min(params.periods, (self.input_size + self.horizon) // 2),
            dropout=params.dropout,
        )

    def _read(self, folder: Path, state: dict[str, Any]) -> None:
        _networks()
        super()._read(folder, state)


class TimeMixerParams(NeuralParams):
    """Parameters of TimeMixer.

    The library's reversible normalisation stays off: with several quantiles, it is undone before the layer that makes
    the quantiles, which mixes series in their own units. The window scaler does that work.

    Attributes
    ----------
    hidden, linear_hidden, layers
        Units of a step, of the layer behind the mixing, and mixing blocks.
    scales
        Times the window is halved; fewer where it is too short. The window is shortened to a multiple of the halves.
    trend_window
        Width of the moving average, in steps.
    dropout
        Share of units dropped.
    """

    scaler: Scaler = "standard"
    input_size: int = Field(default=24, ge=2)
    max_steps: int = Field(default=600, ge=1)
    learning_rate: float = Field(default=3e-3, gt=0)
    windows_batch_size: int = Field(default=32, ge=1)
    hidden: int = Field(default=16, ge=1)
    linear_hidden: int = Field(default=32, ge=1)
    layers: int = Field(default=2, ge=1)
    scales: int = Field(default=1, ge=1)
    trend_window: int = Field(default=13, ge=1)
    dropout: float = Field(default=0.1, ge=0, lt=1)

    @model_validator(mode="after")
    def _is_centred(self) -> Self:
        if self.trend_window % 2 == 0:
            raise ValueError("an odd trend_window, so that it has a middle")
        return self


class TimeMixer(PanelNetwork):
    """Mixing of trends and seasons across time scales (Wang et al. 2024), over all series of the training panel.

    The series are the network's channels: one that was not seen in training cannot be forecast before a refit.
    """

    Params = TimeMixerParams
    capabilities: ClassVar[Capabilities] = Capabilities(cold_start=False, min_history=3)
    multivariate: ClassVar[bool] = True
    params: TimeMixerParams

    def _network(self, settings: dict[str, Any], *, series: int) -> Any:
        from neuralforecast.models import TimeMixer as Network

        params = self.params
        scales = min(params.scales, self.input_size.bit_length() - 1)
        # The library halves the window without a remainder.
        self.input_size -= self.input_size % 2**scales
        return Network(
            **{**settings, "input_size": self.input_size},
            n_series=series,
            d_model=params.hidden,
            d_ff=params.linear_hidden,
            e_layers=params.layers,
            down_sampling_layers=scales,
            moving_avg=params.trend_window,
            dropout=params.dropout,
            use_norm=False,
        )


class ITransformerParams(NeuralParams):
    """Parameters of iTransformer: units of a token, of the layer behind the attention, heads, layers, dropout.

    Every series is a token, and so is every planned column of every series: attention grows with the square of both.
    """

    input_size: int = Field(default=24, ge=2)
    windows_batch_size: int = Field(default=16, ge=1)
    max_exog: int = Field(default=3, ge=0)
    hidden: int = Field(default=32, ge=1)
    linear_hidden: int = Field(default=64, ge=1)
    heads: int = Field(default=4, ge=1)
    layers: int = Field(default=2, ge=1)
    dropout: float = Field(default=0.1, ge=0, lt=1)

    @model_validator(mode="after")
    def _heads_fit(self) -> Self:
        _require_whole_heads(self.hidden, self.heads)
        return self


class ITransformer(PanelNetwork):
    """Attention between series, each one token that is normalised by its own window (Liu et al. 2024).

    The series are the network's channels: one that was not seen in training cannot be forecast before a refit.
    """

    Params = ITransformerParams
    capabilities: ClassVar[Capabilities] = Capabilities(uses=_PLAN, cold_start=False, min_history=3)
    multivariate: ClassVar[bool] = True
    params: ITransformerParams

    def _network(self, settings: dict[str, Any], *, series: int) -> Any:
        params = self.params
        return _networks()["itransformer"](
            **settings,
            n_series=series,
            hidden_size=params.hidden,
            d_ff=params.linear_hidden,
            n_heads=params.heads,
            e_layers=params.layers,
            dropout=params.dropout,
        )

    def _read(self, folder: Path, state: dict[str, Any]) -> None:
        _networks()
        super()._read(folder, state)


class XlstmParams(NeuralParams):
    """Parameters of xLSTM: the kind of each block (`m` or `s`, a letter each), units, heads, dropout."""

    input_size: int = Field(default=24, ge=2)
    windows_batch_size: int = Field(default=64, ge=1)
    cells: str = Field(default="ms", pattern="^[ms]+$")
    hidden: int = Field(default=32, ge=1)
    heads: int = Field(default=4, ge=1)
    dropout: float = Field(default=0.1, ge=0, lt=1)

    @model_validator(mode="after")
    def _heads_fit(self) -> Self:
        _require_whole_heads(self.hidden, self.heads)
        return self


class Xlstm(PanelNetwork):
    """Extended LSTM: blocks of matrix and scalar memories with exponential gates (Beck et al. 2024)."""

    Params = XlstmParams
    capabilities: ClassVar[Capabilities] = Capabilities(uses=_ALL, min_history=3)
    params: XlstmParams

    def _network(self, settings: dict[str, Any], *, series: int) -> Any:
        params = self.params
        return _networks()["xlstm"](
            **settings, cells=params.cells, width=params.hidden, heads=params.heads, dropout=params.dropout
        )

    def _read(self, folder: Path, state: dict[str, Any]) -> None:
        _networks()
        super()._read(folder, state)


def _require_whole_heads(hidden: int, heads: int) -> None:
    if hidden % heads:
        raise ValueError(f"hidden a multiple of heads, not {hidden} of {heads}")


@functools.cache
def _networks() -> dict[str, type[Any]]:
    """The corrected networks, registered with the library so that it can save and load them."""
    import torch
    from neuralforecast.common._base_model import BaseModel
    from neuralforecast.core import MODEL_FILENAME_DICT
    from neuralforecast.models import TimesNet as LibraryTimesNet
    from neuralforecast.models import iTransformer as LibraryITransformer

    from models.nn.xlstm import XlstmForecastNet

    class NightcastITransformer(LibraryITransformer):  # type: ignore[misc]
        """iTransformer whose output is series by quantile, as the loss reads it."""

        def forward(self, windows_batch: dict[str, Any]) -> Any:
            y = windows_batch["insample_y"]  # [B, L, N]
            out = self.forecast(y, futr_exog=windows_batch.get("futr_exog"))  # [B, H Q, N]
            out = out.reshape(len(y), self.h, self.loss.outputsize_multiplier, -1)
            return out.transpose(2, 3).flatten(2)  # [B, H, N Q]

    class NightcastTimesNet(LibraryTimesNet):  # type: ignore[misc]
        """TimesNet that reads the plan of the target steps too."""

        def forward(self, windows_batch: dict[str, Any]) -> Any:
            plan = windows_batch["futr_exog"]  # [B, L + H, F]
            if not self.futr_exog_size:
                return super().forward(windows_batch)
            inside = self.enc_embedding(windows_batch["insample_y"], plan[:, : self.input_size])
            state = self.predict_linear(inside.transpose(1, 2)).transpose(1, 2)  # [B, L + H, D]
            ahead = self.enc_embedding.temporal_embedding(plan[:, self.input_size :])
            state = torch.cat((state[:, : self.input_size], state[:, self.input_size :] + ahead), dim=1)
            for block in self.model:
                state = self.layer_norm(block(state))
            return self.projection(state)[:, -self.h :]

    class NightcastXlstm(BaseModel):  # type: ignore[misc]
        """The frame the library asks for around `XlstmForecastNet`."""

        EXOGENOUS_FUTR = True
        EXOGENOUS_HIST = True
        EXOGENOUS_STAT = True
        MULTIVARIATE = False
        RECURRENT = False

        def __init__(
            self,
            h: int,
            input_size: int,
            loss: Any,
            cells: str,
            width: int,
            heads: int,
            dropout: float,
            **settings: Any,
        ) -> None:
            # A saved network comes back with every argument of the base, so all of them can be overridden.
            training = {
                "valid_loss": None,
                "val_check_steps": 100,
                "valid_batch_size": None,
                "inference_windows_batch_size": 1024,
                "start_padding_enabled": False,
                "num_lr_decays": -1,
            }
            super().__init__(h=h, input_size=input_size, loss=loss, **{**training, **settings})
            self.network = XlstmForecastNet(
                1 + self.hist_exog_size + self.futr_exog_size + self.stat_exog_size,
                self.futr_exog_size,
                steps=input_size,
                horizon=h,
                outputs=loss.outputsize_multiplier,
                cells=cells,
                width=width,
                heads=heads,
                dropout=dropout,
            )

        def forward(self, windows_batch: dict[str, Any]) -> Any:
            y = windows_batch["insample_y"]  # [B, L, 1]
            parts, plan = [y], None
            if self.hist_exog_size:
                parts.append(windows_batch["hist_exog"])
            if self.futr_exog_size:
                parts.append(windows_batch["futr_exog"][:, : y.shape[1]])
                plan = windows_batch["futr_exog"][:, -self.h :]
            if self.stat_exog_size:
                parts.append(windows_batch["stat_exog"][:, None].expand(-1, y.shape[1], -1))
            # Around the last value: what a network says of a series it has little of is then near the naive forecast.
            return y[:, -1:] + self.network(torch.cat(parts, dim=-1), plan)

    made: dict[str, type[Any]] = {
        "itransformer": NightcastITransformer,
        "timesnet": NightcastTimesNet,
        "xlstm": NightcastXlstm,
    }
    for network in made.values():
        MODEL_FILENAME_DICT[network.__name__.lower()] = network
    return made
