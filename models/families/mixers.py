"""Mixers whose weights all wells share: the channels of a window are the covariates of one well.

A training row is one (well, origin): the window before the origin and the horizon after it, in units of the well's
level there. Missing months and the time before a well's first one are masked, and a producing-day rate is read beside
the calendar-day one, so that a shut-in does not pass for a decline. A well that was never seen gets a forecast as any
other does.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt
import polars as pl
from pydantic import Field, field_validator

from models.base import Answer, Forecaster, Hyperparameters
from models.grid import (
    FloatArray,
    Grid,
    IntArray,
    answer_frame,
    grid_of,
    last_known,
    level_floor,
    mean_of_known,
    steps_since_known,
)
from nightcast.contracts.catalog import Capabilities
from nightcast.contracts.columns import HORIZON, ID, MEDIAN, QUANTILES, UPTIME
from nightcast.contracts.errors import ConfigError, RegistryError, TrainingError
from nightcast.contracts.hashing import derive_seed
from nightcast.contracts.panel import PanelView
from nightcast.contracts.source import Note

if TYPE_CHECKING:
    from torch import Tensor, nn

    from models.nn.mixers import MultiScaleTSMixer
    from models.nn.panel_windows import PanelArrays, PanelWindows, Standard
    from models.training.panel import PanelReport

NETWORK_FILE = "network.safetensors"
"""Column with the share of each step on stream, 0 to 1."""
LEAST_UPTIME = 0.1
"""On-stream share under which a producing-day rate is too uncertain to be read."""
LEVEL_ROWS = 3
"""Known values whose mean is a series' level at an origin."""
KNOCKED_ORIGINS, MOST_KNOCKED = 12, 2000
"""Latest origins, and most windows, that inputs are knocked out of."""
IDLE_STEPS = 12
"""Origins with no known value in so many steps are left out of training."""

_CAPABILITIES = Capabilities(uses=frozenset({"past", "plan", "static"}), min_history=3, sequence=True)


class MixerParams(Hyperparameters):
    """Parameters that the mixers share.

    Attributes
    ----------
    input_size
        L, steps of the window.
    hidden, blocks, dropout
        Channels, mixing blocks per scale, and the share of units dropped in them.
    epochs, max_steps
        Passes over the training windows, and optimiser steps; whichever ends first.
    batch_size, lr, weight_decay, ema
        Windows a step, AdamW's rate and decay, and the decay of the averaged weights (None: the last ones are kept).
        A step shrinks the weights by `lr * weight_decay`, towards the anchor alone; a panel of tens of wells needs
        that.
    valid_steps, patience
        Latest steps kept apart to stop by, and epochs without a gain there that end a fit; None: train on everything,
        for all epochs.
    members
        Networks from different seeds, whose quantiles are averaged.
    max_seconds
        Wall clock of the whole fit; a fit that reaches it keeps what it has, and says so.
    covariates
        Whether covariates are read at all.
    static
        Whether static columns are among them.
    producing_rate
        Read the producing-day rate (`y / uptime`; without an uptime, `y` where it is positive) beside the target.
    skip_blocks
        Feature blocks that are left out because they restate the window.
    max_exog, max_null_share
        Largest number of columns of each role, the best-filled ones, and the missing share a column may have.
    half_life
        Steps after which a training origin counts half; None weighs all alike.
    level_weight
        Power of the level in the weights: 0 all wells alike, 1 by the error in the target's unit.
    floor_share
        Smallest level, as a share of the panel's median level.
    min_known
        Known values that a training window must hold.
    max_origins
        Latest origins of a series in training.
    """

    input_size: int = Field(default=48, ge=2)
    hidden: int = Field(default=64, ge=1)
    blocks: int = Field(default=2, ge=1)
    dropout: float = Field(default=0.3, ge=0, lt=1)
    epochs: int = Field(default=20, ge=1)
    max_steps: int | None = Field(default=None, ge=1)
    batch_size: int = Field(default=128, ge=1)
    lr: float = Field(default=1e-3, gt=0)
    weight_decay: float = Field(default=5.0, ge=0)
    ema: float | None = Field(default=0.99, gt=0, lt=1)
    valid_steps: int = Field(default=6, ge=1)
    patience: int | None = Field(default=None, ge=1)
    members: int = Field(default=1, ge=1)
    max_seconds: float | None = Field(default=600.0, gt=0)
    covariates: bool = True
    static: bool = True
    producing_rate: bool = True
    skip_blocks: tuple[str, ...] = ("lags", "rolling", "trend")
    max_exog: int = Field(default=16, ge=0)
    max_null_share: float = Field(default=0.5, ge=0, le=1)
    half_life: float | None = Field(default=None, gt=0)
    level_weight: float = Field(default=0.5, ge=0, le=1)
    floor_share: float = Field(default=0.05, gt=0, lt=1)
    min_known: int = Field(default=3, ge=1)
    max_origins: int = Field(default=240, ge=1)


@dataclass(frozen=True)
class InputColumn:
    """One column of the view that a network reads.

    Attributes
    ----------
    scaled
        In the target's unit: divided by the level before it is standardised.
    mean, std
        It is read as `(x - mean) / std`.
    value
        Of a text column: the value that counts as 1, all others as 0; None for numbers.
    """

    name: str
    scaled: bool
    mean: float
    std: float
    value: str | None = None

    @property
    def label(self) -> str:
        """Its name where it is shown."""
        return self.name if self.value is None else f"{self.name}={self.value}"

    def read(self, frame: pl.DataFrame) -> FloatArray:
        """The column as numbers, null and not finite as NaN."""
        column = frame.get_column(self.name)
        if self.value is not None:
            column = column.cast(pl.String) == self.value
        values = column.cast(pl.Float64).fill_null(float("nan")).to_numpy()
        return np.where(np.isfinite(values), values, np.nan)


class Mixer(Forecaster):
    """A network of `models.nn.mixers` over the windows of all series; a subclass names it in `_network`.

    The loss is the mean pinball loss over the nine levels, in units of the well's level at the origin (the mean of its
    last three producing-day rates), weighted by a power of that level and by recency.
    """

    Params = MixerParams
    capabilities: ClassVar[Capabilities] = _CAPABILITIES

    params: MixerParams
    floor: float
    columns: dict[str, tuple[InputColumn, ...]]
    """Role -> the columns in use."""
    networks: list[nn.Module]
    stopped: tuple[str, ...]
    """Why each member's fit ended."""
    reports: tuple[PanelReport, ...]
    """How the fits went; not part of the bundle."""

    @abstractmethod
    def _network(self) -> nn.Module:
        """An untrained network for `self.columns`."""

    def _penalty(self, network: nn.Module) -> Callable[[], Tensor] | None:
        """What is added to the loss after each forward pass."""
        return None

    def _fit(self, view: PanelView, *, seed: int) -> None:
        from models.training.devices import deterministic
        from models.training.panel import PanelSettings, fit_panel

        params = self.params
        grid = grid_of(view, length=params.max_origins + view.schema.horizon + params.input_size)
        self.floor = level_floor(grid.y, share=params.floor_share)
        self.columns = {role: self._choose(view, grid, role) for role in ("past", "plan", "static")}
        arrays = self._arrays(view, grid)
        windows = self._training_windows(arrays)
        train, valid = windows, None
        if params.patience is not None:
            train, valid = self._apart(windows)
        networks: list[nn.Module] = []
        reports: list[PanelReport] = []
        for member in range(params.members):
            own = derive_seed("mixer", seed, member)
            with deterministic(own):
                network = self._network()
            used = sum(report.seconds for report in reports)
            left = (
                None if params.max_seconds is None else max(params.max_seconds - used, 1e-3) / (params.members - member)
            )
            settings = PanelSettings(
                epochs=params.epochs,
                max_steps=params.max_steps,
                batch_size=params.batch_size,
                lr=params.lr,
                weight_decay=params.weight_decay,
                ema=params.ema,
                patience=params.patience,
                max_seconds=left,
                seed=own,
            )
            reports.append(fit_panel(network, train, settings, valid=valid, penalty=self._penalty(network)))
            networks.append(network)
        self.networks, self.reports = networks, tuple(reports)
        self.stopped = tuple(report.stopped for report in reports)

    def _predict(self, view: PanelView) -> Answer:
        from models.training.panel import predict_panel

        windows, series, level = self._asked(view)
        total = sum(predict_panel(network, windows).double().numpy() for network in self.networks)
        values = np.sort(np.asarray(total) / len(self.networks), axis=2) * level[:, None, None]
        gaps = int(np.isnan(windows.arrays.y[windows.series, -1]).sum())
        notes = (Note("value_missing_at_cutoff", gaps, "series without a value at the cutoff, masked"),) if gaps else ()
        return Answer(answer_frame(series, values), notes=notes)

    def _write(self, folder: Path) -> dict[str, Any]:
        from safetensors.torch import save

        tensors = {
            f"{member}/{name}": value.detach().cpu().contiguous()
            for member, network in enumerate(self.networks)
            for name, value in network.state_dict().items()
        }
        (folder / NETWORK_FILE).write_bytes(save(tensors))
        return {
            "floor": self.floor,
            "columns": {role: [asdict(column) for column in its] for role, its in self.columns.items()},
            "stopped": list(self.stopped),
        }

    def _read(self, folder: Path, state: dict[str, Any]) -> None:
        from safetensors import SafetensorError
        from safetensors.torch import load

        from models.training.devices import deterministic

        self.floor = float(state["floor"])
        self.columns = {role: tuple(InputColumn(**value) for value in its) for role, its in state["columns"].items()}
        self.stopped = tuple(state["stopped"])
        try:
            tensors = load((folder / NETWORK_FILE).read_bytes())
            self.networks = []
            for member in range(len(self.stopped)):
                with deterministic(0):
                    network = self._network()
                own = {k.partition("/")[2]: v for k, v in tensors.items() if k.startswith(f"{member}/")}
                network.load_state_dict(own)
                self.networks.append(network.eval())
        except (RuntimeError, SafetensorError) as error:
            raise RegistryError(
                f"the network of {type(self).__name__} cannot be read ({str(error).splitlines()[0]})",
                expected=f"the {NETWORK_FILE} that was saved beside model.json",
                remedy="compare its sha256 with the manifest's, and register the model again",
            ) from error

    # -- inputs ------------------------------------------------------------------------------------------------------

    def _mixer(self, scales: Sequence[int]) -> MultiScaleTSMixer:
        """The untrained mixer of some scales, for the columns in use."""
        from models.nn.mixers import MultiScaleTSMixer

        return MultiScaleTSMixer(
            self.params.input_size,
            self.horizon,
            scales=scales,
            hidden_dim=self.params.hidden,
            n_blocks=self.params.blocks,
            dropout=self.params.dropout,
            n_past=len(self.columns["past"]),
            n_plan=len(self.columns["plan"]),
            n_static=len(self.columns["static"]),
            n_rates=int(self.params.producing_rate),
        )

    def _choose(self, view: PanelView, grid: Grid, role: str) -> tuple[InputColumn, ...]:
        """Columns of a role with tolerable gaps and some variation, the best-filled ones in declared order."""
        params = self.params
        if not params.covariates or (role == "static" and not params.static):
            return ()
        level = self._levels(view, grid)
        inside = grid.matrix(np.ones(view.history.height)) == 1
        found: list[tuple[float, InputColumn]] = []
        for name in view.names(role):
            column = view.columns[name]
            if column.block in params.skip_blocks:
                continue
            for raw in _readings(view.history, name, column.scaled, role):
                values = grid.matrix(raw.read(view.history))
                ratio = values / level if raw.scaled else values
                known = inside & np.isfinite(ratio)
                missing = 1 - known.sum() / max(inside.sum(), 1)
                if known.sum() < 2 or missing > params.max_null_share:
                    continue
                mean, std = float(ratio[known].mean()), float(ratio[known].std())
                if std > 1e-9 * max(abs(mean), 1e-9):
                    found.append((float(missing), InputColumn(name, raw.scaled, mean, std, raw.value)))
        best = sorted(range(len(found)), key=lambda i: found[i][0])[: params.max_exog]
        return tuple(found[i][1] for i in sorted(best))

    def _arrays(self, view: PanelView, grid: Grid) -> PanelArrays:
        """The view as arrays, values in units of the panel's floor: what is left is free of the target's unit."""
        from models.nn.panel_windows import PanelArrays

        self._check_columns(view)
        level = self._levels(view, grid)
        n, steps = grid.y.shape
        rate = self._rates(view, grid)
        past = [self._filled(view, grid, column, level) for column in self.columns["past"]]
        plan = [self._planned(view, grid, column, level) for column in self.columns["plan"]]
        static = [_latest(grid, column.read(view.history)) for column in self.columns["static"]]
        scores = [
            np.clip(np.nan_to_num((values - column.mean) / column.std, nan=0.0), -6.0, 6.0)
            for values, column in zip(static, self.columns["static"], strict=True)
        ]
        return PanelArrays(
            y=grid.y / self.floor,
            rates=rate[:, :, None] / self.floor if self.params.producing_rate else np.empty((n, steps, 0)),
            past=_stacked(past, (n, steps)),
            plan=_stacked(plan, (n, steps + view.schema.horizon)),
            static=_stacked(scores, (n,)),
            exposure=self._exposure(view, grid),
            level=level / self.floor,
            past_scale=self._standard("past"),
            plan_scale=self._standard("plan"),
        )

    def _standard(self, role: str) -> Standard:
        from models.nn.panel_windows import Standard

        its = self.columns[role]
        # columns in the target's unit reach the windows in units of the floor, as the target does
        return Standard(
            np.array([column.scaled for column in its], dtype=bool),
            np.array([column.mean for column in its], dtype=np.float32),
            np.array([column.std for column in its], dtype=np.float32),
        )

    def _levels(self, view: PanelView, grid: Grid) -> FloatArray:
        """[N, T]: the mean of the latest producing-day rates at each step; the floor where there is none."""
        level = mean_of_known(np.abs(self._rates(view, grid)), LEVEL_ROWS)
        return np.maximum(np.nan_to_num(level, nan=0.0), self.floor)

    def _rates(self, view: PanelView, grid: Grid) -> FloatArray:
        """[N, T]: producing-day rate; NaN in months that are missing, shut in or hardly on stream."""
        rate = np.where(grid.y > 0, grid.y, np.nan)
        uptime = self._uptime(view, grid)
        if uptime is None:
            return rate
        share = np.clip(np.nan_to_num(uptime, nan=1.0), 0.0, 1.0)
        return np.where(share >= LEAST_UPTIME, rate / np.maximum(share, LEAST_UPTIME), np.nan)

    def _uptime(self, view: PanelView, grid: Grid) -> FloatArray | None:
        known = view.columns.get(UPTIME)
        if not (self.params.covariates and self.params.producing_rate) or known is None or known.role == "static":
            return None
        return grid.matrix(InputColumn(UPTIME, False, 0.0, 1.0).read(view.history))

    def _exposure(self, view: PanelView, grid: Grid) -> FloatArray | None:
        """[N, T + H]: uptime where it is planned; 1 where the plan says nothing."""
        if self._uptime(view, grid) is None or view.columns[UPTIME].role != "plan":
            return None
        column = InputColumn(UPTIME, False, 1.0, 1.0)
        return np.clip(self._planned(view, grid, column, np.ones(grid.y.shape)), 0.0, 1.0)

    def _filled(self, view: PanelView, grid: Grid, column: InputColumn, level: FloatArray) -> FloatArray:
        """[N, T]: a column, missing values carried forward, at the column's mean before the first."""
        values = last_known(grid.matrix(column.read(view.history)))
        mean = column.mean * level if column.scaled else np.full(level.shape, column.mean)
        values = np.where(np.isnan(values), mean, values)
        return values / self.floor if column.scaled else values

    def _planned(self, view: PanelView, grid: Grid, column: InputColumn, level: FloatArray) -> FloatArray:
        """[N, T + H]: a plan column; past the cutoff as the view gives it, else its last value carried on."""
        behind = self._filled(view, grid, column, level)
        ahead = np.repeat(behind[:, -1:], view.schema.horizon, axis=1)
        where = pl.DataFrame({ID: list(grid.ids), "row": np.arange(len(grid.ids))}, schema_overrides={ID: pl.String})
        asked = view.future.join(where, on=ID).filter(pl.col(HORIZON) <= view.schema.horizon)
        row, step = asked.get_column("row").to_numpy(), asked.get_column(HORIZON).to_numpy() - 1
        given = column.read(asked) / (self.floor if column.scaled else 1.0)
        ahead[row, step] = np.where(np.isnan(given), ahead[row, step], given)
        return np.concatenate([behind, ahead], axis=1)

    def _check_columns(self, view: PanelView) -> None:
        used = {column.name for its in self.columns.values() for column in its}
        if missing := sorted(used - set(view.columns)):
            raise TrainingError(
                f"the view lacks the input columns {missing}",
                expected="the columns the model was fitted on",
                remedy="build the features with the recipe of the fit",
            )

    # -- windows -----------------------------------------------------------------------------------------------------

    def _training_windows(self, arrays: PanelArrays) -> PanelWindows:
        """Windows with a known value before and after their origin, in an order that no series' name decides."""
        from models.nn.panel_windows import PanelWindows

        params, (n, steps), horizon = self.params, arrays.y.shape, self.horizon
        known = np.isfinite(arrays.y)
        count = known.cumsum(axis=1)
        before = np.zeros_like(count)
        before[:, params.input_size :] = count[:, : steps - params.input_size]
        inside = count - before
        follows = np.zeros((n, steps), dtype=bool)
        for h in range(1, min(horizon, steps - 1) + 1):
            follows[:, :-h] |= known[:, h:]
        idle = steps_since_known(arrays.y)
        able = follows & (np.nan_to_num(idle, nan=np.inf) <= IDLE_STEPS)
        able[:, : max(steps - horizon - params.max_origins, 0)] = False
        # A panel of newborn wells has no window of `min_known` values; it is learned from what there is.
        chosen = able & (inside >= params.min_known)
        chosen = chosen if chosen.any() else able & (inside >= 1)
        if not chosen.any():
            raise TrainingError(
                f"no known value follows another one within {horizon} steps",
                expected="at least one series with two known values no further apart than the horizon",
                remedy="choose a later cutoff or a longer history",
            )
        order = _order(arrays)
        origin, place = np.nonzero(chosen[order].T)
        series = order[place]
        age = steps - 1 - origin
        decay = 1.0 if params.half_life is None else 0.5 ** (age / params.half_life)
        weight = decay * arrays.level[series, origin] ** params.level_weight
        weight = np.repeat((weight / weight.mean())[:, None], horizon, axis=1)
        return PanelWindows(arrays, params.input_size, series, origin, weight=weight)

    def _apart(self, windows: PanelWindows) -> tuple[PanelWindows, PanelWindows | None]:
        """Windows to learn from and to stop by; no target of the first lies after an origin of the second."""
        first = windows.arrays.y.shape[1] - 1 - self.horizon - self.params.valid_steps + 1
        late = windows.origin >= first
        early = windows.origin + self.horizon <= first
        if not late.any() or not early.any():
            return windows, None
        return windows.subset(np.flatnonzero(early)), windows.subset(np.flatnonzero(late))

    def _asked(self, view: PanelView) -> tuple[PanelWindows, list[str], FloatArray]:
        """The windows that end at the cutoff, their series, and each one's level in the target's unit."""
        from models.nn.panel_windows import PanelWindows

        params = self.params
        grid = grid_of(view, length=params.max_origins + view.schema.horizon + params.input_size)
        arrays = self._arrays(view, grid)
        wanted = grid.rows_of(view.series)
        # The order of the batch is that of training's, so that no name reaches the numbers.
        rank = np.empty(len(grid.ids), dtype=np.int64)
        rank[_order(arrays)] = np.arange(len(grid.ids))
        rows = wanted[np.argsort(rank[wanted], kind="stable")]
        last = grid.width - 1
        windows = PanelWindows(arrays, params.input_size, rows, np.full(rows.size, last))
        return windows, [grid.ids[row] for row in rows], arrays.level[rows, last] * self.floor


class WellMixerParams(MixerParams):
    """Parameters of the well mixer."""

    input_size: int = Field(default=24, ge=2)
    hidden: int = Field(default=32, ge=1)
    blocks: int = Field(default=1, ge=1)


class WellMixer(Mixer):
    """TSMixer over the window of one well, weights shared over wells (Chen et al. 2023, without series mixing)."""

    Params = WellMixerParams
    params: WellMixerParams

    def _network(self) -> nn.Module:
        return self._mixer((1,))


class MultiScaleParams(MixerParams):
    """Parameters of the multi-scale mixer: `scales` are the steps averaged into one, per scale."""

    scales: tuple[int, ...] = (1, 2, 4)

    @field_validator("scales")
    @classmethod
    def _different(cls, scales: tuple[int, ...]) -> tuple[int, ...]:
        if not scales or min(scales) < 1 or len(set(scales)) != len(scales):
            raise ValueError("different whole numbers from 1 up")
        return scales


class MultiScaleMixer(Mixer):
    """A mixer over several resolutions of one well's window (Wang et al. 2024)."""

    Params = MultiScaleParams
    params: MultiScaleParams

    def __init__(self, **params: Any) -> None:
        super().__init__(**params)
        if max(self.params.scales) > self.params.input_size:
            raise ConfigError(
                f"{type(self).__name__} got scales={list(self.params.scales)} of a window of {self.params.input_size}",
                expected="scales no larger than input_size",
                remedy="correct `scales` or `input_size`",
            )

    def _network(self) -> nn.Module:
        return self._mixer(self.params.scales)


class AttentionParams(MultiScaleParams):
    """Parameters of the attention mixer.

    Attributes
    ----------
    attention_hidden, attention_heads
        Units and heads of the attention.
    focus
        Factor of the attention's entropy in the loss; it makes attention choose.
    """

    scales: tuple[int, ...] = (1,)
    attention_hidden: int = Field(default=32, ge=1)
    attention_heads: int = Field(default=4, ge=1)
    focus: float = Field(default=2e-3, ge=0)


class AttentionMixer(MultiScaleMixer):
    """A mixer behind attention over features and time steps, which is kept to be read (after Lim et al. 2021)."""

    Params = AttentionParams
    params: AttentionParams

    def __init__(self, **params: Any) -> None:
        super().__init__(**params)
        if self.params.attention_hidden % self.params.attention_heads:
            raise ConfigError(
                f"{type(self).__name__} got attention_hidden={self.params.attention_hidden} "
                f"for attention_heads={self.params.attention_heads}",
                expected="units that are a multiple of the heads",
                remedy="correct one of the two",
            )

    @property
    def feature_names(self) -> tuple[str, ...]:
        """What attention is divided among: the target, its producing-day rate, past and plan columns."""
        own = ("y", "producing_rate") if self.params.producing_rate else ("y",)
        return own + tuple(column.label for role in ("past", "plan") for column in self.columns[role])

    def attention(self, view: PanelView) -> pl.DataFrame:
        """What the network attends to when it forecasts from a view, averaged over the members.

        Returns
        -------
        `unique_id, kind, name, weight`: per series one row for each `feature` and one for each `lag` (steps before the
        cutoff, `"0"` the cutoff itself); each kind's weights sum to 1. They say what the forecast was made from, not
        what causes the rate.

        Raises
        ------
        ConfigError
            If the model is not fitted, or was fitted for another horizon or frequency.
        """
        from models.training.panel import predict_panel

        self._check_fits(view)
        out_of_reach = list(self._out_of_reach(view))
        wanted = view.future.filter(~pl.col(ID).is_in(out_of_reach))
        schema = {ID: pl.String, "kind": pl.String, "name": pl.String, "weight": pl.Float64}
        if not wanted.height:
            return pl.DataFrame(schema=schema)
        windows, series, _ = self._asked(replace(view, future=wanted))
        features, steps = [], []
        for network in self.networks:
            its: Any = network
            predict_panel(network, windows, batch_size=len(windows))
            features.append(its.latest_attention_weights.features.double().numpy())
            steps.append(its.latest_attention_weights.steps.double().numpy())
        lags = [str(lag) for lag in range(self.params.input_size - 1, -1, -1)]
        parts = []
        for kind, names, weights in (
            ("feature", list(self.feature_names), np.mean(features, axis=0)),
            ("lag", lags, np.mean(steps, axis=0)),
        ):
            parts.append(
                pl.DataFrame(
                    {
                        ID: [name for name in series for _ in names],
                        "kind": [kind] * (len(series) * len(names)),
                        "name": names * len(series),
                        "weight": weights.ravel(),
                    },
                    schema=schema,
                )
            )
        return pl.concat(parts).sort(ID, "kind", maintain_order=True)

    def knock_outs(self, view: PanelView, *, origins: int = KNOCKED_ORIGINS) -> pl.DataFrame:
        """What each input is worth to the forecast, found by knocking it out; the check on attention.

        An input's course is exchanged among the windows of all series at the latest origins whose outcome the view
        knows, and the forecast made anew (permutation importance, Breiman 2001, of whole courses). The other inputs,
        the level and the plan's exposure stay.

        Parameters
        ----------
        origins
            Latest origins that windows are taken from; at most 2000 windows.

        Returns
        -------
        `name, own, weight, change, rise`: per input whether it is the well's own rate, its mean attention over these
        windows, the mean absolute change of the median in levels, and the rise of the absolute error as a share of the
        error; no row where no origin has an outcome. The windows are those of training where the view is: a rise says
        what the fit relies on, not what it will be worth.

        Raises
        ------
        ConfigError
            If the model is not fitted, or was fitted for another horizon or frequency.
        """
        from models.training.devices import deterministic

        self._check_fits(view)
        schema = {"name": pl.String, "own": pl.Boolean, "weight": pl.Float64, "change": pl.Float64, "rise": pl.Float64}
        grid = grid_of(view, length=self.params.max_origins + view.schema.horizon + self.params.input_size)
        arrays = self._arrays(view, grid)
        last = grid.width - 1 - self.horizon
        try:
            windows = self._training_windows(arrays)
        except TrainingError:
            return pl.DataFrame(schema=schema)
        chosen = np.flatnonzero((windows.origin <= last) & (windows.origin > last - origins))
        if not chosen.size:
            return pl.DataFrame(schema=schema)
        chosen = chosen[:: -(-chosen.size // MOST_KNOCKED)]
        batch = windows.batch(chosen)
        order = np.random.default_rng(derive_seed("knock-out", self.seed)).permutation(chosen.size)
        target, known = batch.target.double().numpy(), batch.target_known.numpy() > 0

        def median(inputs: tuple[Tensor | None, ...]) -> FloatArray:
            total = sum(network(*inputs).detach().double().numpy() for network in self.networks)
            middle = QUANTILES.index(MEDIAN)
            return np.asarray(np.sort(np.asarray(total) / len(self.networks), axis=2)[:, :, middle])

        def error(found: FloatArray) -> float:
            return float(np.abs(found - target)[known].mean())

        rows = []
        with deterministic(0):
            for network in self.networks:
                network.eval()
            usual = median(batch.inputs)
            least = error(usual)
            read: list[Any] = [network.latest_attention_weights.features for network in self.networks]  # type: ignore[union-attr]
            weight = np.mean([its.double().mean(dim=0).numpy() for its in read], axis=0)
            series, past = batch.y.shape[2], batch.past.shape[2]
            for place, name in enumerate(self.feature_names):
                y, mask, behind, ahead = (its.clone() for its in (batch.y, batch.known, batch.past, batch.plan))
                if place < series:
                    y[:, :, place], mask[:, :, place] = y[order, :, place], mask[order, :, place]
                elif place < series + past:
                    behind[:, :, place - series] = behind[order, :, place - series]
                else:
                    ahead[:, :, place - series - past] = ahead[order, :, place - series - past]
                found = median((y, mask, behind, ahead, batch.static, batch.exposure))
                rise = error(found) / least - 1.0 if least > 0 else None
                rows.append((name, place < series, float(weight[place]), float(np.abs(found - usual).mean()), rise))
        return pl.DataFrame(rows, schema=schema, orient="row")

    def evidence(self, view: PanelView) -> Mapping[str, pl.DataFrame]:
        """`attention`: what `attention` returns; `attention_check`: what `knock_outs` returns.

        Raises
        ------
        ConfigError
            If the model is not fitted, or was fitted for another horizon or frequency.
        """
        return {"attention": self.attention(view), "attention_check": self.knock_outs(view)}

    def _network(self) -> nn.Module:
        from models.nn.mixers import AttentionTSMixerx

        return AttentionTSMixerx(
            self._mixer(self.params.scales),
            n_features=len(self.feature_names),
            attention_hidden_dim=self.params.attention_hidden,
            attention_heads=self.params.attention_heads,
            feature_names=self.feature_names,
        )

    def _penalty(self, network: nn.Module) -> Callable[[], Tensor] | None:
        its: Any = network

        def dispersion() -> Tensor:
            entropy: Tensor = its.latest_entropy
            return self.params.focus * entropy

        return dispersion if self.params.focus else None


MAX_CODES = 16
"""Text columns of more values than this are not read."""


def _readings(history: pl.DataFrame, name: str, scaled: bool, role: str) -> list[InputColumn]:
    """A column as numbers: itself, or one 0/1 column per value of a static text column."""
    dtype = history.schema[name]
    if dtype.is_numeric() or dtype == pl.Boolean:
        return [InputColumn(name, scaled, 0.0, 1.0)]
    if role != "static":
        return []
    values = history.get_column(name).cast(pl.String).drop_nulls().unique().sort().to_list()
    return [InputColumn(name, False, 0.0, 1.0, value) for value in values] if len(values) <= MAX_CODES else []


def _latest(grid: Grid, values: FloatArray) -> FloatArray:
    """[N]: the latest known value of each series."""
    return last_known(grid.matrix(values))[:, -1]


def _stacked(parts: Sequence[FloatArray], shape: tuple[int, ...]) -> FloatArray:
    return np.stack(parts, axis=-1) if parts else np.empty((*shape, 0))


def _order(arrays: PanelArrays) -> IntArray:
    """Series in an order that depends on what they hold: not on their names, nor on the target's unit."""
    keys: list[npt.NDArray[Any]] = [np.nan_to_num(arrays.y).sum(axis=1), np.isfinite(arrays.y).sum(axis=1)]
    keys += list(arrays.past.sum(axis=1).T) + list(arrays.plan.sum(axis=1).T) + list(arrays.static.T)
    return np.lexsort(keys[::-1])
