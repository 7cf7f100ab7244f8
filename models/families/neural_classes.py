"""Networks over windows of bars: one template, and its LSTM, GRU and TCN.

Inputs are the fold's robustly scaled features, held to `INPUT_LIMIT` scales either way. All horizons share an encoder
and a head, whose last bias begins at the log of the class shares: training starts at the climatology and has only the
difference to learn. The bundle holds safetensors and JSON.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from models.classifier import Classifier, ClassifierParams, Inputs, Samples, class_shares
from nightcast.contracts.catalog import Capabilities
from nightcast.contracts.columns import CLASSES
from nightcast.contracts.errors import ConfigError, RegistryError
from nightcast.contracts.progress import Progress

if TYPE_CHECKING:
    from torch import nn

    from models.nn.heads import MultiHorizonHead, SequenceNetwork
    from models.nn.losses import MultiHorizonLoss
    from models.nn.windows import LabelledWindows, Windows
    from models.training.callbacks import Callback
    from models.training.engine import Sampler, TrainingReport, TrainingSettings

NETWORK_FILE = "network.safetensors"


class SequenceParams(ClassifierParams):
    """What every network over windows can be told.

    Attributes
    ----------
    window
        L, bars a decision reads.
    hidden, layers
        Units and layers of the encoder.
    head
        Units of the head's hidden layer.
    dropout, input_dropout
        Share of units dropped in encoder and head, and of inputs.
    epochs, batch_size, optimiser, lr, weight_decay, schedule, warmup, min_lr, plateau_patience, clip, accumulate, ema
        As in `models.training.engine.TrainingSettings`.
    monitor, patience, min_delta
        Validation score that picks the epoch, and epochs without a better one (beyond `min_delta`) that end the fit.
    smoothing
        Label smoothing.
    alphas
        Weight of each horizon in the loss; None: 1 each.
    budget_seconds
        Wall clock of a fit; generous, because a fit that it cuts depends on the machine's speed.
    threads, device, amp
        Of torch; bfloat16 autocast works on CUDA only.
    """

    feature_set: str = "neural_optimal"
    window: int = Field(default=48, ge=1)
    hidden: int = Field(default=64, ge=1)
    layers: int = Field(default=1, ge=1)
    head: int = Field(default=128, ge=1)
    dropout: float = Field(default=0.1, ge=0, lt=1)
    input_dropout: float = Field(default=0.0, ge=0, lt=1)
    epochs: int = Field(default=10, ge=1)
    batch_size: int = Field(default=256, ge=1)
    optimiser: Literal["adamw", "adam"] = "adamw"
    lr: float = Field(default=1e-3, gt=0)
    weight_decay: float = Field(default=1e-4, ge=0)
    patience: int | None = Field(default=4, ge=1)
    min_delta: float = Field(default=1e-4, ge=0)
    schedule: Literal["none", "cosine", "plateau"] = "cosine"
    warmup: float = Field(default=1.0, ge=0)
    min_lr: float = Field(default=0.0, ge=0)
    plateau_patience: int = Field(default=5, ge=0)
    monitor: Literal["nll", "macro_f1"] = "nll"
    clip: float | None = Field(default=1.0, gt=0)
    accumulate: int = Field(default=1, ge=1)
    ema: float | None = Field(default=None, gt=0, lt=1)
    smoothing: float = Field(default=0.0, ge=0, lt=1)
    alphas: tuple[float, ...] | None = None
    budget_seconds: float | None = Field(default=600.0, gt=0)
    threads: int = Field(default=1, ge=1)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    amp: bool = False


class SequenceClassifier(Classifier):
    """A network over windows; a subclass names its encoder in `_encoder`.

    `_head`, `_loss`, `_callbacks` and `_sampler` are there to be overridden too.

    Attributes
    ----------
    checkpoints
        Folder to keep checkpoints in, and to resume from after an interruption; None: none are kept.
    progress
        Hears one line an epoch; None: nobody does.
    """

    Params = SequenceParams
    capabilities: ClassVar[Capabilities] = Capabilities(scaling="robust", sequence=True)

    params: SequenceParams
    report: TrainingReport
    network: SequenceNetwork
    features: int
    """F that the network was built for."""
    checkpoints: Path | None = None
    progress: Progress | None = None

    @abstractmethod
    def _encoder(self, features: int) -> nn.Module:
        """The untrained encoder, `[B, L, F]` to `[B, D]`, with the attribute `out_dim` = D."""

    def _head(self, inputs: int, horizons: int) -> MultiHorizonHead:
        """The untrained head, `[B, D]` to logits `[B, H, 3]`."""
        from models.nn.heads import MultiHorizonHead

        return MultiHorizonHead(inputs, horizons, hidden=self.params.head, dropout=self.params.dropout)

    def _loss(self, alphas: Sequence[float]) -> MultiHorizonLoss:
        """The training loss."""
        from models.nn.losses import CrossEntropy, MultiHorizonLoss

        return MultiHorizonLoss(alphas, CrossEntropy(self.params.smoothing))

    def _callbacks(self, train: LabelledWindows, priors: NDArray[np.float64]) -> list[Callback]:
        """What watches the fit; the training windows all have a known label."""
        from models.training.callbacks import CollapseAlarm

        return [CollapseAlarm(priors)]

    def _sampler(self, train: LabelledWindows, settings: TrainingSettings) -> Sampler | None:
        """Which windows each batch holds; None: all of them once an epoch, shuffled."""
        return None

    # -- the template's part -----------------------------------------------------------------------------------------

    def learn(self, train: Samples, valid: Samples, *, seed: int) -> TrainingReport:
        """Train on the windows of `train`, choose the epoch on those of `valid` (the last one, if there are none).

        Raises
        ------
        ConfigError
            If the number of `alphas` is not that of the horizons.
        TrainingError
            If a window would leave its segment or is not finite, no label is known, or the loss stays infinite.
        """
        from models.training.callbacks import ProgressLines
        from models.training.engine import fit

        settings = self._settings(seed)
        horizons = train.y.shape[1]
        alphas = self.params.alphas or (1.0,) * horizons
        if len(alphas) != horizons:
            raise ConfigError(
                f"{type(self).__name__} got the horizon weights {list(alphas)}",
                expected=f"{horizons} of them, for the horizons {list(train.inputs.horizons)}",
                remedy="correct `alphas`, or leave it out",
            )
        learned, judged = self._labelled(train).usable(), self._labelled(valid).usable()
        priors = class_shares(train)
        self.features = int(train.inputs.base.shape[1])
        network = self._network(self.features, horizons, seed=seed)
        network.head.start_at(priors)
        callbacks = self._callbacks(learned, priors)
        if self.progress is not None:
            callbacks.append(ProgressLines(self.progress, name=type(self).__name__))
        report = fit(
            network,
            learned,
            judged,
            self._loss(alphas),
            settings,
            callbacks=callbacks,
            budget_seconds=self.params.budget_seconds,
            sampler=self._sampler(learned, settings),
            folder=self.checkpoints,
            resume=self.checkpoints is not None,
        )
        self.network = network.cpu()
        return report

    def probabilities(self, inputs: Inputs) -> NDArray[np.float64]:
        """`[n, H, 3]` probabilities at the decisions.

        Raises
        ------
        ConfigError
            If the inputs have another number of columns than the network.
        TrainingError
            If a window would leave its segment or is not finite.
        """
        from scipy.special import softmax

        from models.training.devices import deterministic, resolve_device
        from models.training.scoring import predict_logits

        if inputs.base.shape[1] != self.features:
            raise ConfigError(
                f"{inputs.base.shape[1]} columns for a network of {self.features}",
                expected="the columns of the fit",
                remedy="transform the inputs with the model's own pipeline",
            )
        windows = self._windows(inputs)
        if not len(windows):
            return np.empty((0, self.network.head.horizons, len(CLASSES)))
        device = resolve_device(self.params.device)
        with deterministic(0, threads=self.params.threads, device=device):
            logits = predict_logits(self.network.to(device), windows, device=device)
        return np.asarray(softmax(logits.astype(np.float64), axis=-1))

    def _settings(self, seed: int) -> TrainingSettings:
        from models.training.engine import TrainingSettings

        shared = set(TrainingSettings.model_fields) & set(type(self.params).model_fields)
        return TrainingSettings(seed=seed, **self.params.model_dump(include=shared))

    def _windows(self, inputs: Inputs) -> Windows:
        from models.nn.windows import Windows

        return Windows(inputs.base, inputs.rows, self.params.window, segment=inputs.segment)

    def _labelled(self, samples: Samples) -> LabelledWindows:
        from models.nn.windows import LabelledWindows

        return LabelledWindows(self._windows(samples.inputs), samples.y, samples.weight)

    def _network(self, features: int, horizons: int, *, seed: int) -> SequenceNetwork:
        """The untrained network, the same for the same seed."""
        from models.nn.heads import SequenceNetwork
        from models.training.devices import deterministic

        with deterministic(seed):
            encoder: Any = self._encoder(features)
            head = self._head(encoder.out_dim, horizons)
            return SequenceNetwork(encoder, head, input_dropout=self.params.input_dropout)

    def _write(self, folder: Path) -> dict[str, Any]:
        from safetensors.torch import save

        tensors = {name: value.detach().cpu().contiguous() for name, value in self.network.state_dict().items()}
        (folder / NETWORK_FILE).write_bytes(save(tensors))
        # the wall clock stays out: the same night twice gives the same bytes
        return {
            "features": self.features,
            "stopped": self.report.stopped,
            "events": [asdict(event) for event in self.report.events],
        }

    def _read(self, folder: Path, state: dict[str, Any]) -> None:
        from safetensors import SafetensorError
        from safetensors.torch import load

        from models.training.engine import Event, TrainingReport

        self.features = int(state["features"])
        self.report = TrainingReport(
            epochs=self.report.epochs,
            best_epoch=self.report.best_epoch,
            early_stopped=self.report.early_stopped,
            history=self.report.history,
            stopped=state["stopped"],
            events=tuple(Event(**event) for event in state["events"]),
        )
        network = self._network(self.features, len(self.horizons), seed=0)
        try:
            network.load_state_dict(load((folder / NETWORK_FILE).read_bytes()))
        except (RuntimeError, SafetensorError) as error:
            raise RegistryError(
                f"the network of {type(self).__name__} cannot be read ({str(error).splitlines()[0]})",
                expected=f"the {NETWORK_FILE} that was saved beside model.json",
                remedy="compare its sha256 with the manifest's, and register the model again",
            ) from error
        self.network = network.eval()


class LstmClassifier(SequenceClassifier):
    """LSTM over the window, its last state into the head (Hochreiter and Schmidhuber 1997)."""

    def _encoder(self, features: int) -> nn.Module:
        from models.nn.encoders import LstmEncoder

        params = self.params
        return LstmEncoder(features, hidden=params.hidden, layers=params.layers, dropout=params.dropout)


class GruClassifier(SequenceClassifier):
    """GRU over the window, its last state into the head (Cho et al. 2014)."""

    def _encoder(self, features: int) -> nn.Module:
        from models.nn.encoders import GruEncoder

        params = self.params
        return GruEncoder(features, hidden=params.hidden, layers=params.layers, dropout=params.dropout)


class TcnParams(SequenceParams):
    """What the TCN can be told beside: `hidden` are its channels and `layers` its levels of dilation 1, 2, 4, ...

    Attributes
    ----------
    kernel
        Bars a convolution looks at, before dilation.
    pool
        `last`: the newest step. `attention`: a learned weighted mean over the steps.
    """

    window: int = Field(default=48, ge=1)
    layers: int = Field(default=4, ge=1)
    kernel: int = Field(default=3, ge=2)
    pool: Literal["last", "attention"] = "last"

    @model_validator(mode="after")
    def _covers_the_window(self) -> Self:
        seen = 1 + 2 * (self.kernel - 1) * (2**self.layers - 1)
        if self.pool == "last" and seen < self.window:
            raise ValueError(
                f"a receptive field that covers the window of {self.window} bars: {self.layers} layers of kernel "
                f"{self.kernel} see {seen} (more layers, or a shorter window)"
            )
        return self


class TcnClassifier(SequenceClassifier):
    """Temporal convolutional network over the window (Bai et al. 2018); refuses a window it could not see whole."""

    Params = TcnParams
    params: TcnParams

    def _encoder(self, features: int) -> nn.Module:
        from models.nn.encoders import TcnEncoder

        params = self.params
        return TcnEncoder(
            features,
            channels=(params.hidden,) * params.layers,
            kernel=params.kernel,
            dropout=params.dropout,
            pool=params.pool,
        )
