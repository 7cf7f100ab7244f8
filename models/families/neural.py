"""Neural forecasters through neuralforecast 3.3: NHITS (one series at a time) and TSMixerx (all series at once).

The library is handed a rectangular panel: gaps are filled forward, the time before a series' first value is filled
backward, both under `available_mask` 0, so that they weigh nothing in the loss. Series and time are plain integers, so
every frequency and every kind of name works alike, and the order of series is ours.
"""

from __future__ import annotations

import json
import logging
import tempfile
import warnings
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import polars as pl
from pydantic import Field

from models.base import Answer, Forecaster, Hyperparameters
from models.grid import FloatArray, Grid, answer_frame, grid_of, last_known, level_floor, mean_of_known
from nightcast.contracts.catalog import Capabilities
from nightcast.contracts.columns import HORIZON, ID, LEVELS, TARGET, TIME
from nightcast.contracts.errors import RegistryError, TrainingError
from nightcast.contracts.panel import PanelView
from nightcast.contracts.source import Note

NETWORK_FOLDER = "network"
MASK = "available_mask"
LARGEST_SCORE = 6.0
"""Standardised inputs are held to this many standard deviations."""

Scaler = Literal["identity", "standard", "robust", "minmax", "invariant"]


class NeuralParams(Hyperparameters):
    """Parameters both networks share.

    Attributes
    ----------
    input_size
        Window length L, in steps; shrunk where the panel's history is shorter.
    max_steps, learning_rate, batch_size, windows_batch_size
        Training steps and what each one sees: series, and windows of them.
    scaler
        neuralforecast's scaling of each window, on top of the series' level.
    level_rows
        Known rows whose mean absolute value is a series' level.
    max_history
        Latest steps of the panel in training.
    max_exog
        Largest number of input columns of each role; the best-filled ones are taken.
    max_null_share
        Largest share of missing values an input column may have.
    """

    input_size: int = Field(default=48, ge=2)
    max_steps: int = Field(default=300, ge=1)
    learning_rate: float = Field(default=1e-3, gt=0)
    batch_size: int = Field(default=32, ge=1)
    windows_batch_size: int = Field(default=128, ge=1)
    scaler: Scaler = "identity"
    level_rows: int = Field(default=12, ge=1)
    max_history: int = Field(default=240, ge=4)
    max_exog: int = Field(default=12, ge=0)
    max_null_share: float = Field(default=0.3, ge=0, le=1)


@dataclass(frozen=True)
class Channel:
    """One numeric input column and how it is standardised: `(x / level - mean) / std`, level 1 unless `scaled`."""

    name: str
    scaled: bool
    mean: float
    std: float

    def standardise(self, values: FloatArray, level: FloatArray) -> FloatArray:
        """Standardised values; missing ones at 0, the column's mean."""
        ratio = values / level if self.scaled else values
        score = np.clip((ratio - self.mean) / self.std, -LARGEST_SCORE, LARGEST_SCORE)
        return np.nan_to_num(score, nan=0.0)


class Neural(Forecaster):
    """A neuralforecast model under the nine quantile losses, on series divided by their level.

    A subclass names the network in `_network`. The bundle holds safetensors and JSON; loading needs no training data.
    """

    Params = NeuralParams
    multivariate: ClassVar[bool] = False

    params: NeuralParams
    input_size: int
    floor: float
    channels: dict[str, tuple[Channel, ...]]
    """Role -> the input columns in use."""
    engine: Any
    """The fitted `neuralforecast.NeuralForecast`, with one model and no data."""

    @abstractmethod
    def _network(self, settings: dict[str, Any], *, series: int) -> Any:
        """The unfitted neuralforecast model, from the settings all networks share."""

    def _fit(self, view: PanelView, *, seed: int) -> None:
        horizon = view.schema.horizon
        full = grid_of(view)
        members = self.seen if self.multivariate else _known_lately(full, self.params.max_history)
        grid = _window(full, members, min(full.width, self.params.max_history))
        if grid.width <= horizon + 1:
            raise TrainingError(
                f"the panel spans {grid.width} steps",
                expected=f"at least {horizon + 2} for horizon {horizon}",
                remedy="use the naive or statistical models until there is more history",
            )
        self.input_size = min(self.params.input_size, grid.width - horizon)
        self.floor = level_floor(grid.y)
        level = self._level(_window(full, members, full.width))
        self.channels = {role: self._choose(view, full, members, role) for role in ("past", "plan", "static")}
        # Windows that begin before the first value are filled backward and masked, so that young series take part.
        padded = _window(full, members, grid.width + self.input_size)
        frame, fixed, _ = self._frames(view, full, padded, level)
        with _quiet_torch():
            from neuralforecast import NeuralForecast

            network = self._network(self._settings(seed), series=len(members))
            engine = NeuralForecast(models=[network], freq=1)
            with _scratch(network):
                engine.fit(frame, static_df=fixed, verbose=False)
        # The training data are no part of the model.
        del engine.dataset
        self.engine = engine

    def _predict(self, view: PanelView) -> Answer:
        series = view.series
        members = self.seen if self.multivariate else tuple(series)
        full = grid_of(view)
        level = self._level(_window(full, members, full.width))
        grid = _window(full, members, self.input_size)
        frame, fixed, gaps = self._frames(view, full, grid, level)
        future = self._future(view, full, grid, level)
        with _quiet_torch(), _scratch(self.engine.models[0]):
            raw = self.engine.predict(df=frame, static_df=fixed, futr_df=future, verbose=False)
        values = raw.sort(ID, TIME).drop(ID, TIME).to_numpy().astype(float)
        values = values.reshape(len(members), self.horizon, len(LEVELS)) * level[:, None, None]
        values = values[grid.rows_of(series)]
        finite = np.isfinite(values).all(axis=(1, 2))
        reason = f"{type(self).__name__} gave a number that is not finite"
        left_out = {name: reason for name, good in zip(series, finite, strict=True) if not good}
        notes = (Note("gaps_filled", gaps, "values missing inside input windows, filled and masked"),) if gaps else ()
        return Answer(answer_frame([s for s in series if s not in left_out], values[finite]), left_out, notes)

    def _write(self, folder: Path) -> dict[str, Any]:
        with _quiet_torch():
            self.engine.save(str(folder / NETWORK_FOLDER), save_dataset=False, overwrite=True)
        for file in sorted((folder / NETWORK_FOLDER).glob("*.safetensors")):
            file.write_bytes(_with_sorted_header(file.read_bytes()))
        return {
            "input_size": self.input_size,
            "floor": self.floor,
            "channels": {role: [asdict(channel) for channel in its] for role, its in self.channels.items()},
        }

    def _read(self, folder: Path, state: dict[str, Any]) -> None:
        self.input_size, self.floor = int(state["input_size"]), float(state["floor"])
        self.channels = {role: tuple(Channel(**value) for value in its) for role, its in state["channels"].items()}
        network = folder / NETWORK_FOLDER
        odd = sorted(file.name for file in network.glob("*") if file.suffix not in (".json", ".safetensors"))
        if odd:
            # The library would read pickles of its older releases; no bundle of ours holds one.
            raise RegistryError(
                f"the bundle holds {odd[0]!r} beside the network",
                expected="only .json and .safetensors files",
                remedy="do not load it; compare its sha256 with the manifest's",
            )
        with _quiet_torch():
            from neuralforecast import NeuralForecast

            try:
                self.engine = NeuralForecast.load(str(network))
            except Exception as error:
                raise RegistryError(
                    f"the network of {type(self).__name__} cannot be read ({type(error).__name__}: {error})",
                    expected="the files that were saved beside model.json",
                    remedy="compare their sha256 with the manifest's, and register the model again",
                ) from error

    # -- what the library is handed ------------------------------------------------------------------------------

    def _settings(self, seed: int) -> dict[str, Any]:
        """What every network is built with."""
        from neuralforecast.losses.pytorch import MQLoss

        params = self.params
        return {
            "h": self.horizon,
            "input_size": self.input_size,
            "loss": MQLoss(quantiles=list(LEVELS)),
            "hist_exog_list": [f"past_{i}" for i in range(len(self.channels["past"]))] or None,
            "futr_exog_list": [f"plan_{i}" for i in range(len(self.channels["plan"]))] or None,
            "stat_exog_list": [f"static_{i}" for i in range(len(self.channels["static"]))] or None,
            "max_steps": params.max_steps,
            "learning_rate": params.learning_rate,
            "batch_size": params.batch_size,
            "windows_batch_size": params.windows_batch_size,
            "scaler_type": params.scaler,
            "random_seed": seed,
            "alias": "network",
            "accelerator": "cpu",
            "devices": 1,
            "logger": False,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
        }

    def _level(self, grid: Grid) -> FloatArray:
        """[N]: each series' level at the cutoff; the floor where nothing is known."""
        level = mean_of_known(np.abs(grid.y), self.params.level_rows)[:, -1]
        return np.maximum(np.nan_to_num(level, nan=0.0), self.floor)

    def _choose(self, view: PanelView, full: Grid, members: Sequence[str], role: str) -> tuple[Channel, ...]:
        """Numeric columns of a role with tolerable gaps, the best-filled `max_exog` of them in declared order."""
        level = self._level(_window(full, members, full.width))[:, None]
        found: list[tuple[float, Channel]] = []
        for name in view.names(role):
            if not (view.history.schema[name].is_numeric() or view.history.schema[name] == pl.Boolean):
                continue
            values = _matrix(view, full, members, name, min(full.width, self.params.max_history))
            ratio = values / level if view.columns[name].scaled else values
            inside = _matrix(view, full, members, None, values.shape[1]) == 1
            known = inside & np.isfinite(ratio)
            missing = 1 - known.sum() / max(inside.sum(), 1)
            if known.sum() < 2 or missing > self.params.max_null_share or (std := float(ratio[known].std())) == 0:
                continue
            found.append((missing, Channel(name, view.columns[name].scaled, float(ratio[known].mean()), std)))
        best = sorted(range(len(found)), key=lambda i: found[i][0])[: self.params.max_exog]
        return tuple(found[i][1] for i in sorted(best))

    def _frames(
        self, view: PanelView, full: Grid, grid: Grid, level: FloatArray
    ) -> tuple[pl.DataFrame, pl.DataFrame | None, int]:
        """The library's long frame and static frame, and how many gaps inside the series were filled."""
        n, width = grid.y.shape
        mask = ~np.isnan(grid.y)
        forward = last_known(grid.y)
        gaps = int((~mask & ~np.isnan(forward)).sum())
        # Backward over the time before the first value: the first known value, or 0 for a channel without any.
        first = np.where(mask.any(axis=1), grid.y[np.arange(n), mask.argmax(axis=1)], 0.0)
        filled = np.where(np.isnan(forward), first[:, None], forward)
        data: dict[str, Any] = {
            ID: np.repeat(np.arange(n), width),
            TIME: np.tile(np.arange(width), n),
            TARGET: (filled / level[:, None]).astype(np.float32).ravel(),
            MASK: mask.astype(np.float32).ravel(),
        }
        for role in ("past", "plan"):
            for i, channel in enumerate(self.channels[role]):
                values = _matrix(view, full, grid.ids, channel.name, width)
                data[f"{role}_{i}"] = channel.standardise(last_known(values), level[:, None]).astype(np.float32).ravel()
        fixed = None
        if self.channels["static"]:
            fixed = pl.DataFrame({ID: np.arange(n), **self._static(view, full, grid, level)})
        return pl.DataFrame(data), fixed, gaps

    def _static(self, view: PanelView, full: Grid, grid: Grid, level: FloatArray) -> dict[str, Any]:
        out = {}
        for i, channel in enumerate(self.channels["static"]):
            values = last_known(_matrix(view, full, grid.ids, channel.name, full.width))[:, -1]
            out[f"static_{i}"] = channel.standardise(values, level).astype(np.float32)
        return out

    def _future(self, view: PanelView, full: Grid, grid: Grid, level: FloatArray) -> pl.DataFrame | None:
        """Plan columns at the target times; the last known value where a member has no plan."""
        if not self.channels["plan"]:
            return None
        n, width = grid.y.shape
        where = pl.DataFrame({ID: list(grid.ids), "row": np.arange(n)}, schema_overrides={ID: pl.String})
        asked = view.future.join(where, on=ID).filter(pl.col(HORIZON) <= self.horizon)
        row, step = asked.get_column("row").to_numpy(), asked.get_column(HORIZON).to_numpy() - 1
        data: dict[str, Any] = {
            ID: np.repeat(np.arange(n), self.horizon),
            TIME: np.tile(np.arange(width, width + self.horizon), n),
        }
        for i, channel in enumerate(self.channels["plan"]):
            last = last_known(_matrix(view, full, grid.ids, channel.name, full.width))[:, -1]
            values = np.repeat(last[:, None], self.horizon, axis=1)
            given = asked.get_column(channel.name).cast(pl.Float64).fill_null(float("nan")).to_numpy()
            values[row, step] = np.where(np.isnan(given), values[row, step], given)
            data[f"plan_{i}"] = channel.standardise(values, level[:, None]).astype(np.float32).ravel()
        return pl.DataFrame(data)


class NhitsParams(NeuralParams):
    """Parameters of NHITS: units of the hidden layers, blocks per stack, dropout of the basis coefficients."""

    hidden: int = Field(default=128, ge=1)
    blocks: int = Field(default=1, ge=1)
    dropout: float = Field(default=0.0, ge=0, lt=1)


class Nhits(Neural):
    """Neural hierarchical interpolation, one network over the windows of all series (Challu et al. 2022)."""

    Params = NhitsParams
    capabilities: ClassVar[Capabilities] = Capabilities(uses=frozenset({"past", "plan", "static"}), min_history=3)
    params: NhitsParams

    def _network(self, settings: dict[str, Any], *, series: int) -> Any:
        from neuralforecast.models import NHITS

        params = self.params
        return NHITS(
            **settings,
            mlp_units=[[params.hidden, params.hidden]] * 3,
            n_blocks=[params.blocks] * 3,
            dropout_prob_theta=params.dropout,
        )


class TsmixerxParams(NeuralParams):
    """Parameters of TSMixerx: units of the feature mixing, mixing blocks, dropout.

    The library's reversible normalisation stays off: with several quantiles, release 3.3 gives a series the mean and
    spread of others (its output is laid out series by quantile, and normalised as quantile by series). The window
    scaler does that work.
    """

    scaler: Scaler = "standard"
    windows_batch_size: int = Field(default=32, ge=1)
    hidden: int = Field(default=64, ge=1)
    blocks: int = Field(default=2, ge=1)
    dropout: float = Field(default=0.1, ge=0, lt=1)


class Tsmixerx(Neural):
    """TSMixer with covariates, mixing over all series of the training panel (Chen et al. 2023).

    The series are the network's channels: one that was not seen in training cannot be forecast before a refit.
    """

    Params = TsmixerxParams
    capabilities: ClassVar[Capabilities] = Capabilities(
        uses=frozenset({"past", "plan", "static"}), cold_start=False, min_history=3
    )
    multivariate: ClassVar[bool] = True
    params: TsmixerxParams

    def _network(self, settings: dict[str, Any], *, series: int) -> Any:
        from neuralforecast.models import TSMixerx

        params = self.params
        return TSMixerx(
            **settings,
            n_series=series,
            n_block=params.blocks,
            ff_dim=params.hidden,
            dropout=params.dropout,
            revin=False,
        )


def _known_lately(grid: Grid, width: int) -> tuple[str, ...]:
    known = np.flatnonzero((~np.isnan(grid.y[:, -width:])).any(axis=1))
    return tuple(grid.ids[row] for row in known)


def _window(full: Grid, members: Sequence[str], width: int) -> Grid:
    """The last `width` steps of some series; NaN before the panel begins and for series that it lacks.

    The result's `row`, `col` and `kept` are empty: it is read, not spread into.
    """
    nothing = np.empty(0, dtype=np.int64)
    return Grid(tuple(members), _cut(full, full.y, members, width), nothing, nothing, nothing.astype(bool))


def _matrix(view: PanelView, full: Grid, members: Sequence[str], name: str | None, width: int) -> FloatArray:
    """[N, width] of one numeric column (None: 1 where the history has a row)."""
    if name is None:
        values = np.ones(view.history.height)
    else:
        values = view.history.get_column(name).cast(pl.Float64).fill_null(float("nan")).to_numpy()
    return _cut(full, full.matrix(values), members, width)


def _cut(full: Grid, values: FloatArray, members: Sequence[str], width: int) -> FloatArray:
    where = {name: i for i, name in enumerate(full.ids)}
    out = np.full((len(members), width), np.nan)
    to = [i for i, name in enumerate(members) if name in where]
    take = min(width, full.width)
    out[to, width - take :] = values[[where[members[i]] for i in to], full.width - take :]
    return out


def _with_sorted_header(content: bytes) -> bytes:
    """A safetensors file with its JSON header in sorted order: equal models are then equal bytes.

    The format is a little-endian length, the header padded with spaces to a multiple of 8 bytes, and the data, whose
    offsets count from the header's end. The library writes the header's metadata in the order of a hash table.
    """
    length = int.from_bytes(content[:8], "little")
    header = json.dumps(json.loads(content[8 : 8 + length]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + content[8 + length :]


@contextmanager
def _quiet_torch() -> Iterator[None]:
    """One thread, no lines on the terminal, and torch's random state given back."""
    import neuralforecast  # noqa: F401 - importing it resets the loggers' levels
    import torch

    loud = [logging.getLogger(name) for name in ("pytorch_lightning", "lightning_fabric")]
    before = [(logger, logger.level) for logger in loud]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for logger in loud:
            logger.setLevel(logging.ERROR)
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.set_num_threads(threads)
        for logger, level in before:
            logger.setLevel(level)


@contextmanager
def _scratch(network: Any) -> Iterator[None]:
    """A folder of its own for whatever the trainer writes, removed afterwards; its path never reaches the bundle."""
    with tempfile.TemporaryDirectory(prefix="nightcast-") as folder:
        network.trainer_kwargs["default_root_dir"] = folder
        try:
            yield
        finally:
            del network.trainer_kwargs["default_root_dir"]
