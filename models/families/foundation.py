"""Pretrained forecasters without training: Chronos-Bolt, TimesFM and TinyTimeMixer, from weights in a local folder.

Weights are declared, never fetched: a folder that holds the published files, and optionally the sha256 of its weights.
While one is opened, the Hugging Face client is held offline. Only safetensors are read, and no code from the folder.
A fit keeps facts about scale and the hashes of the files; a bundle keeps the folder's path and these hashes, or, with
`bundle_weights`, the files.

What the weights were trained on may include the very months a back-test scores: only rows later than their release are
out of sample for them.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import warnings
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from models.base import Answer, Forecaster, Hyperparameters
from models.grid import FloatArray, answer_frame, grid_of, last_known, level_floor, mean_of_known
from models.residuals import ErrorQuantiles, learn_error_quantiles
from nightcast.contracts.catalog import Capabilities
from nightcast.contracts.columns import LEVELS
from nightcast.contracts.errors import ConfigError, RegistryError
from nightcast.contracts.panel import PanelView
from nightcast.contracts.source import Note

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
BUNDLED = "weights"
"""Folder inside a bundle that holds the weights, if they are bundled."""


class FoundationParams(Hyperparameters):
    """Parameters that all pretrained models share.

    Attributes
    ----------
    weights
        Folder with the published files; a relative path starts from the working folder.
    sha256
        Expected hash of its `model.safetensors`, as published beside the file; none: whatever is there is taken.
    bundle_weights
        Copy the files into the bundle, which then needs no folder beside it.
    context
        Latest steps of a series that are read.
    level_rows
        Known rows whose mean absolute value is a series' level.
    batch_size
        Series asked at a time.
    """

    weights: str = Field(min_length=1)
    sha256: str | None = Field(default=None, pattern="^[0-9a-f]{64}$")
    bundle_weights: bool = False
    context: int = Field(default=512, ge=1)
    level_rows: int = Field(default=12, ge=1)
    batch_size: int = Field(default=64, ge=1)


class Foundation(Forecaster):
    """A pretrained forecaster of single series, asked as it is.

    Each series is divided by its level before it is handed over. A subclass names its package and files, opens the
    weights and asks them.
    """

    capabilities: ClassVar[Capabilities] = Capabilities()
    package: ClassVar[str]
    """Import name of the library."""
    extra: ClassVar[str]
    """The extra of ours that installs it."""
    published: ClassVar[str]
    """Whose files the folder is meant to hold, for messages."""

    params: FoundationParams
    floor: float
    source: Path
    """Folder the weights were read from."""
    hashes: dict[str, str]
    """File that is read -> its sha256."""
    engine: Any
    """The library's model."""

    @abstractmethod
    def _open(self, folder: Path) -> Any:
        """The library's model; raises `ConfigError` where the files are another model's."""

    @abstractmethod
    def _ask(self, values: FloatArray) -> FloatArray:
        """[N, H, Q] after the windows [N, L], which end at the cutoff; NaN where nothing is known."""

    @property
    def _files(self) -> tuple[str, ...]:
        return (CONFIG_FILE, WEIGHTS_FILE)

    def _fit(self, view: PanelView, *, seed: int) -> None:
        self.source = Path(self.params.weights)
        self.hashes = self._hashes_of(self.source)
        found, expected = self.hashes[WEIGHTS_FILE], self.params.sha256
        if expected is not None and found != expected:
            raise ConfigError(
                f"{self.params.weights}/{WEIGHTS_FILE} has the sha256 {found}",
                expected=f"{expected}, the parameter `sha256` of {type(self).__name__}",
                remedy="copy the published file again, or correct the parameter",
            )
        self.engine = self._opened(self.source)
        self.floor = level_floor(grid_of(view).y)

    def _predict(self, view: PanelView) -> Answer:
        grid = grid_of(view, length=self.params.context)
        y = grid.y[grid.rows_of(view.series)]
        values = self._forecast(y)
        finite = np.array([bool(np.isfinite(its).all()) for its in values])
        reason = f"{type(self).__name__} gave a number that is not finite"
        left_out = {name: reason for name, good in zip(view.series, finite, strict=True) if not good}
        gaps = int((np.isnan(y) & ~np.isnan(last_known(y))).sum())
        notes = (Note("gaps_filled", gaps, "values missing inside input windows, left to the model"),) if gaps else ()
        return Answer(answer_frame([s for s in view.series if s not in left_out], values[finite]), left_out, notes)

    def _write(self, folder: Path) -> dict[str, Any]:
        if self.params.bundle_weights:
            (folder / BUNDLED).mkdir(exist_ok=True)
            for name in self.hashes:
                shutil.copyfile(self.source / name, folder / BUNDLED / name)
        return {"floor": self.floor, "files": self.hashes}

    def _read(self, folder: Path, state: dict[str, Any]) -> None:
        self.floor, self.hashes = float(state["floor"]), dict(state["files"])
        self.source = folder / BUNDLED if self.params.bundle_weights else Path(self.params.weights)
        found = self._hashes_of(self.source)
        if found != self.hashes:
            other = sorted(name for name in {*found, *self.hashes} if found.get(name) != self.hashes.get(name))
            raise RegistryError(
                f"{other[0]!r} of the weights has the sha256 {found.get(other[0])}",
                expected=f"{self.hashes.get(other[0])}, as when {type(self).__name__} was fitted",
                remedy="put the files of the fit back, or fit the model again on the new ones",
            )
        self.engine = self._opened(self.source)

    # -- weights -------------------------------------------------------------------------------------------------

    def _hashes_of(self, folder: Path) -> dict[str, str]:
        missing = [name for name in self._files if not (folder / name).is_file()]
        if missing:
            what = f"has no {missing[0]!r}" if folder.is_dir() else "does not exist"
            raise ConfigError(
                f"the folder {str(folder)!r} with the weights of {type(self).__name__} {what}",
                expected=f"{' and '.join(self._files)}, as published with {self.published}",
                remedy="copy them there, or name their folder as the parameter `weights`; nothing is downloaded",
            )
        return {name: _sha256(folder / name) for name in self._files}

    def _opened(self, folder: Path) -> Any:
        if find_spec(self.package) is None:
            raise ConfigError(
                f"{type(self).__name__} needs the package {self.package!r}, which is not installed",
                expected=f"an installation with the extra {self.extra!r}",
                remedy=f"`pip install 'nightcast[{self.extra}]'`, or leave the model out of the recipe",
            )
        with _offline(), _one_thread():
            try:
                return self._open(folder)
            except ConfigError:
                raise
            except Exception as error:
                raise ConfigError(
                    f"{type(self).__name__} cannot read {str(folder)!r} ({type(error).__name__}: {error})",
                    expected=f"the files published with {self.published}",
                    remedy="copy them again; if they are whole, they may need another release of the package",
                ) from error

    def _facts(self, folder: Path) -> dict[str, Any]:
        facts = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
        return facts if isinstance(facts, dict) else {}

    def _refuse(self, folder: Path, found: str) -> ConfigError:
        return ConfigError(
            f"{folder.name}/{CONFIG_FILE} is that of {found}",
            expected=f"the files published with {self.published}",
            remedy=f"name the right folder as the parameter `weights` of {type(self).__name__}",
        )

    # -- forecasts -----------------------------------------------------------------------------------------------

    def _forecast(self, y: FloatArray) -> FloatArray:
        """[N, H, Q] in the target's unit, after the windows [N, L]."""
        level = self._level(y)
        scaled = y / level[:, None]
        size = self.params.batch_size
        with _one_thread():
            parts = [self._ask(scaled[start : start + size]) for start in range(0, len(y), size)]
        return np.concatenate(parts) * level[:, None, None]

    def _level(self, y: FloatArray) -> FloatArray:
        """[N]: each series' level at the window's end; the floor where nothing is known."""
        level = mean_of_known(np.abs(y), self.params.level_rows)[:, -1]
        return np.maximum(np.nan_to_num(level, nan=0.0), self.floor)


class ChronosBoltParams(FoundationParams):
    """Parameters of Chronos-Bolt."""

    weights: str = Field(default="weights/chronos-bolt-small", min_length=1)


class ChronosBolt(Foundation):
    """Chronos-Bolt, a T5 over patches with nine quantile outputs (Ansari et al. 2024, arXiv 2403.07815).

    Missing values are handed over as such: the model was trained with them.
    """

    Params = ChronosBoltParams
    package = "chronos"
    extra = "chronos"
    published = "amazon/chronos-bolt-small"
    params: ChronosBoltParams

    def _open(self, folder: Path) -> Any:
        facts = self._facts(folder)
        if facts.get("chronos_pipeline_class") != "ChronosBoltPipeline":
            raise self._refuse(folder, str(facts.get("chronos_pipeline_class") or facts.get("model_type")))
        lacking = sorted(set(LEVELS) - set(facts["chronos_config"]["quantiles"]))
        if lacking:
            raise self._refuse(folder, f"a Chronos-Bolt without the quantiles {lacking}")
        import torch

        return import_module(self.package).ChronosBoltPipeline.from_pretrained(
            str(folder), device_map="cpu", dtype=torch.float32, local_files_only=True, use_safetensors=True
        )

    def _ask(self, values: FloatArray) -> FloatArray:
        import torch

        quantiles, _ = self.engine.predict_quantiles(
            torch.tensor(values, dtype=torch.float32),
            prediction_length=self.horizon,
            quantile_levels=list(LEVELS),
        )
        return np.asarray(quantiles.numpy(), dtype=float)


class TimesFmParams(FoundationParams):
    """Parameters of TimesFM: the release of the weights.

    Those of 2.5 are under Apache-2.0; those of 3.0 may not be used commercially.
    """

    weights: str = Field(default="weights/timesfm-2.5-200m", min_length=1)
    release: Literal["2.5", "3.0"] = "2.5"


class TimesFm(Foundation):
    """TimesFM, a decoder over patches with nine quantile outputs (Das et al. 2024, arXiv 2310.10688).

    The library fills gaps by straight lines and what is missing at the end by the last value.
    """

    Params = TimesFmParams
    package = "timesfm"
    extra = "timesfm"
    published = "google/timesfm-2.5-200m-pytorch"
    params: TimesFmParams

    @property
    def _files(self) -> tuple[str, ...]:
        # The architecture of 2.5 is fixed in the package.
        return (WEIGHTS_FILE,) if self.params.release == "2.5" else (CONFIG_FILE, WEIGHTS_FILE)

    def _open(self, folder: Path) -> Any:
        if self.params.release == "3.0":
            if "transformer_config" not in self._facts(folder):
                raise self._refuse(folder, "no TimesFM 3.0")
            forecaster = import_module("timesfm3").TimesFM3Forecaster.from_pretrained(
                str(folder), device="cpu", local_files_only=True, per_core_batch_size=self.params.batch_size
            )
            lacking = sorted(set(LEVELS) - set(forecaster.config.quantiles))
            if lacking:
                raise self._refuse(folder, f"a TimesFM without the quantiles {lacking}")
            return forecaster
        import torch

        library = import_module(self.package)
        model = library.TimesFM_2p5_200M_torch(torch_compile=False)
        # The library would take every GPU it sees, whose sums are not those of the bundle's maker.
        model.model.device, model.model.device_count = torch.device("cpu"), 1
        model.load_checkpoint(str(folder), torch_compile=False)
        model.compile(
            library.ForecastConfig(
                max_context=self.params.context,
                max_horizon=self.horizon,
                per_core_batch_size=self.params.batch_size,
                use_continuous_quantile_head=True,
                infer_is_positive=False,
                fix_quantile_crossing=True,
            )
        )
        return model

    def _ask(self, values: FloatArray) -> FloatArray:
        # Each series from its first known value on; a batch is padded in front, under a mask.
        known = ~np.isnan(values)
        series = [
            row[first:].astype(np.float32) for row, first in zip(values, known.argmax(axis=1).tolist(), strict=True)
        ]
        if self.params.release == "3.0":
            columns = [list(self.engine.config.quantiles).index(level) for level in LEVELS]
            answers = self.engine.predict_batch(series, horizon=self.horizon, return_quantiles=True)
            return np.stack([answer.quantiles[:, columns] for answer in answers]).astype(float)
        _, quantiles = self.engine.forecast(self.horizon, series)
        return np.asarray(quantiles[:, : self.horizon, 1:], dtype=float)  # the first of ten is the mean


class TtmParams(FoundationParams):
    """Parameters of TinyTimeMixer: past origins that the errors behind its intervals are taken from."""

    weights: str = Field(default="weights/ttm-r2", min_length=1)
    error_origins: int = Field(default=24, ge=1)


class Ttm(Foundation):
    """TinyTimeMixer, a small mixer over patches (Ekambaram et al. 2024, arXiv 2401.03955).

    It gives points; the panel's own errors at past origins, over the level, make the intervals. It reads exactly as
    many steps as it was trained with: a shorter series is filled with its first value, counted in the notes.
    """

    Params = TtmParams
    package = "tsfm_public"
    extra = "ttm"
    published = "ibm-granite/granite-timeseries-ttm-r2"
    params: TtmParams
    errors: ErrorQuantiles

    def _fit(self, view: PanelView, *, seed: int) -> None:
        super()._fit(view, seed=seed)
        y = grid_of(view).y
        ahead: list[list[FloatArray]] = [[] for _ in range(self.horizon)]
        for origin in range(max(1, y.shape[1] - self.params.error_origins), y.shape[1]):
            seen = y[:, :origin][:, -self.params.context :]
            begun = ~np.isnan(seen).all(axis=1)
            if not begun.any():
                continue
            point, level = self._points(seen[begun]), self._level(seen[begun])
            for step in range(min(self.horizon, y.shape[1] - origin)):
                ahead[step].append((y[begun, origin + step] - point[:, step]) / level)
        errors = [np.concatenate(its) if its else np.empty(0) for its in ahead]
        self.errors = learn_error_quantiles(errors, floor=self.floor)

    def _predict(self, view: PanelView) -> Answer:
        answer = super()._predict(view)
        grid = grid_of(view, length=self.params.context)
        known = ~np.isnan(grid.y[grid.rows_of(view.series)])
        begun = np.where(known.any(axis=1), known.shape[1] - known.argmax(axis=1), 0)
        short = int((begun < self._steps).sum())
        if not short:
            return answer
        told = Note(
            "windows_padded", short, f"series with fewer than {self._steps} steps, filled with their first value"
        )
        return Answer(answer.frame, answer.left_out, (*answer.notes, told))

    def _write(self, folder: Path) -> dict[str, Any]:
        return {**super()._write(folder), "errors": self.errors.to_json()}

    def _read(self, folder: Path, state: dict[str, Any]) -> None:
        super()._read(folder, state)
        self.errors = ErrorQuantiles.from_json(state["errors"])

    def _open(self, folder: Path) -> Any:
        facts = self._facts(folder)
        if facts.get("model_type") != "tinytimemixer":
            raise self._refuse(folder, str(facts.get("model_type")))
        if int(facts["prediction_length"]) < self.horizon:
            raise self._refuse(folder, f"a TinyTimeMixer of {facts['prediction_length']} steps, for {self.horizon}")
        library = import_module(f"{self.package}.models.tinytimemixer")
        model = library.TinyTimeMixerForPrediction.from_pretrained(
            str(folder), num_input_channels=1, local_files_only=True, use_safetensors=True
        )
        return model.eval()

    @property
    def _steps(self) -> int:
        return int(self.engine.config.context_length)

    def _forecast(self, y: FloatArray) -> FloatArray:
        return self.errors.around(self._points(y), self._level(y))

    def _points(self, y: FloatArray) -> FloatArray:
        """[N, H] in the target's unit."""
        return super()._forecast(y)[:, :, 0]

    def _ask(self, values: FloatArray) -> FloatArray:
        import torch

        steps = self._steps
        values = values[:, -steps:]
        forward = last_known(values)
        first = np.take_along_axis(values, (~np.isnan(values)).argmax(axis=1)[:, None], axis=1)
        filled = np.where(np.isnan(forward), first, forward)
        short = steps - filled.shape[1]
        window = np.concatenate([np.repeat(first, short, axis=1), filled], axis=1)
        token = None
        if self.engine.config.resolution_prefix_tuning:
            tokens = import_module(f"{self.package}.toolkit.time_series_preprocessor").DEFAULT_FREQUENCY_MAPPING
            token = torch.full((len(window),), tokens.get(self.freq, tokens["oov"]))
        with torch.inference_mode():
            answer = self.engine(torch.tensor(window, dtype=torch.float32)[:, :, None], freq_token=token)
        points = answer.prediction_outputs[:, : self.horizon]  # [N, H, 1]
        return np.asarray(points.numpy(), dtype=float)


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@contextmanager
def _offline() -> Iterator[None]:
    """Hold the Hugging Face client offline: in the environment, and where it has been imported already."""
    before = os.environ.get("HF_HUB_OFFLINE")
    os.environ["HF_HUB_OFFLINE"] = "1"
    client: Any = sys.modules.get("huggingface_hub.constants")
    was = bool(before) if client is None else client.HF_HUB_OFFLINE
    if client is not None:
        client.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        if before is None:
            del os.environ["HF_HUB_OFFLINE"]
        else:
            os.environ["HF_HUB_OFFLINE"] = before
        client = sys.modules.get("huggingface_hub.constants")
        if client is not None:
            client.HF_HUB_OFFLINE = was


@contextmanager
def _one_thread() -> Iterator[None]:
    """One thread, no warnings, and torch's random state given back."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.set_num_threads(threads)
