"""Guards around a fit: are there samples enough, does it fit into memory, has it collapsed to one class."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nightcast.contracts.columns import CLASSES
from nightcast.contracts.decision import Guard
from nightcast.contracts.errors import ConfigError

MIN_RATIO: Final = 10.0
"""Fewest samples a feature."""
OPTIMAL_RATIO: Final = 20.0
"""Samples a feature that are enough."""
MAX_FEATURES: Final[tuple[tuple[int, int], ...]] = ((50_000, 100), (100_000, 200), (200_000, 400), (500_000, 500))
"""Samples -> most features; straight lines between, flat on both sides."""
COLLAPSE_KL: Final = 0.5
"""Divergence of the predicted class shares from the prior, in nats, that counts as a collapse."""

GIB: Final = 2.0**30

Layout = Literal["table", "trees", "network", "attention"]
FAMILIES: Final[Mapping[str, Layout]] = {
    "baseline": "table",
    "classical": "table",
    "linear": "network",
    "boosting": "trees",
    "ensemble": "trees",
    "neural": "network",
    "rnn": "network",
    "cnn": "network",
    "interpretable": "network",
    "state-space": "network",
    "transformer": "attention",
    "foundation": "attention",
}
"""Family -> how it uses memory."""
RUNTIME_GIB: Final[Mapping[Layout, float]] = {"table": 0.3, "trees": 0.3, "network": 0.6, "attention": 0.6}
"""Interpreter and libraries of a worker process."""


def max_features(samples: int) -> int:
    """Most features that a number of samples may have: `MAX_FEATURES`, and never fewer than 10 samples a feature."""
    sizes, most = zip(*MAX_FEATURES, strict=True)
    return int(min(np.interp(samples, sizes, most), samples / MIN_RATIO))


def sample_feature_guard(samples: int, features: int) -> Guard:
    """Samples a feature: at least 10, better 20, and no more features than `max_features`.

    Parameters
    ----------
    samples
        Labelled training decisions; the sum of their uniqueness, to be strict with overlapping labels.
    features
        Columns the model reads, after pruning.

    Returns
    -------
    Guard
        `value` is the ratio; `limit` says in words which bound holds, and where the ratio is short of the optimum.

    Raises
    ------
    ConfigError
        If there is no feature, or a negative number of samples.
    """
    _count("features", features, 1)
    _count("samples", samples, 0)
    ratio, most = samples / features, max_features(samples)
    limit = f"at least {MIN_RATIO:g} samples a feature, and at most {most} features for {samples} samples"
    if MIN_RATIO <= ratio < OPTIMAL_RATIO:
        limit += f"; {OPTIMAL_RATIO:g} a feature would be better"
    return Guard("samples_per_feature", ratio, limit, ratio >= MIN_RATIO and features <= most)


@dataclass(frozen=True)
class CollapseReport:
    """How far predictions have collapsed to few classes.

    Attributes
    ----------
    shares
        Share of the rows whose most probable class is short, neutral, long.
    mean
        Mean probability of each class.
    divergence
        Kullback-Leibler divergence of `shares` from the prior, in nats.
    mean_divergence
        The same of `mean`. Near 0 under a large `divergence`: the probabilities are calibrated, but too alike for any
        but the most frequent class ever to lead.
    entropy
        Of `shares`, in nats; log 3 where all classes are predicted equally often.
    fired
        Whether `divergence` passes the limit.
    detail
        One sentence for people.
    """

    shares: tuple[float, float, float]
    mean: tuple[float, float, float]
    divergence: float
    mean_divergence: float
    entropy: float
    fired: bool
    detail: str


def collapse_alarm(probs: ArrayLike, prior: ArrayLike, *, kl: float = COLLAPSE_KL) -> CollapseReport:
    """Compare how often each class is predicted with how often it occurs.

    Parameters
    ----------
    probs
        `[n, 3]` probabilities of short, neutral, long.
    prior
        `[3]` class shares of the training labels, all positive.
    kl
        Divergence of the predicted shares from the prior beyond which the alarm fires, in nats.

    Raises
    ------
    ConfigError
        If shapes do not fit, a value is no probability, or a class has no share in the prior.
    """
    p, base = np.asarray(probs, dtype=np.float64), np.asarray(prior, dtype=np.float64)
    count = len(CLASSES)
    if p.ndim != 2 or p.shape[1] != count or not len(p) or base.shape != (count,):
        raise ConfigError(
            f"probabilities of shape {p.shape} with a prior of shape {base.shape}",
            expected=f"[n, {count}] with n of 1 or more, and [{count}]",
            remedy="judge one horizon at a time",
        )
    if not np.isfinite(p).all() or (p < 0).any() or np.abs(p.sum(axis=1) - 1).max() > 1e-3:
        raise ConfigError(
            f"{int((~np.isfinite(p)).sum())} probabilities are not finite, row sums reach from {p.sum(axis=1).min():g} "
            f"to {p.sum(axis=1).max():g}",
            expected="rows of probabilities that sum to 1",
            remedy="pass what comes after the softmax",
        )
    if not np.isfinite(base).all() or (base <= 0).any():
        raise ConfigError(
            f"a prior of {base.tolist()}",
            expected="a positive share of every class",
            remedy="smooth the counts by one pseudo-label, or choose barriers that each class reaches",
        )
    base = base / base.sum()
    shares = np.bincount(p.argmax(axis=1), minlength=count) / len(p)
    mean = p.mean(axis=0)
    mean = mean / mean.sum()
    divergence, entropy = _divergence(shares, base), -_plogp(shares, np.ones(count))
    words = ", ".join(
        f"{name} {share:.0%} (prior {own:.0%})" for name, share, own in zip(CLASSES, shares, base, strict=True)
    )
    return CollapseReport(
        shares=_triple(shares),
        mean=_triple(mean),
        divergence=divergence,
        mean_divergence=_divergence(mean, base),
        entropy=entropy,
        fired=divergence > kl,
        detail=f"predicted {words}: {divergence:.2f} nats from the prior, limit {kl:g}",
    )


@dataclass(frozen=True)
class MemoryEstimate:
    """Peak memory of one fit, in GiB by part.

    Attributes
    ----------
    runtime
        Interpreter and libraries.
    base
        Features of all rows: `4 rows features`, twice, as the view's and the scaled copy are alive at once.
    preparation
        The fold pipeline's working copies of the training rows, `12 rows features`; gone before a model learns.
    model
        What the family itself holds beside: weights and optimiser of a network, bins and gradients of trees.
    batch
        Windows, activations and attention of one batch.
    device
        The part of `model` and `batch` that lies on an accelerator when there is one; 0 for tables and trees.
    total
        Peak in the host's memory when everything runs there.
    """

    runtime: float
    base: float
    preparation: float
    model: float
    batch: float
    device: float
    total: float


def memory_estimate(
    family: str,
    rows: int,
    features: int,
    *,
    window: int = 1,
    params: int = 0,
    batch: int = 256,
    layers: int = 2,
    heads: int = 8,
    horizons: int = 1,
) -> MemoryEstimate:
    """Estimate what a fit needs at its peak, in GiB.

    With `N` rows, `F` features, `L` window, `B` batch, `P` weights, `K = 3` classes, `H` horizons, in bytes:

    - base `8 N F`; preparation `12 N F`; a decision costs `16 N K H` for labels, weights and probabilities;
    - trees: bins `N F`, gradients and scores `24 N K H`;
    - tables: one more 64-bit copy, `8 N F`, and `8 F^2` for moments;
    - networks: weights, gradients, two moments of Adam and the best checkpoint, `20 P`; a batch of windows `4 B L F`;
      activations `4 c B L d n` for `n` layers of width `d`, kept for the way back, with `c = 12` values a unit and
      `d = sqrt(P / (8 n))`, an LSTM's width by its weights;
    - attention besides, scores before and after the softmax: `8 B n heads L^2`, where `L` counts tokens (patches, not
      bars, in a patch model), and `d = sqrt(P / (12 n))`, a transformer block's width by its weights.

    Windows are views of the base, so `N L F` appears nowhere.

    Parameters
    ----------
    family
        One of `FAMILIES`.
    rows, features
        Bars, and columns of each.
    window
        Bars (or tokens) a decision reads, L.
    params
        Weights of the network; 0 for other families.
    batch
        Windows in a batch.
    layers, heads
        Of the network.
    horizons
        Horizons with labels.

    Raises
    ------
    ConfigError
        If the family is unknown, a number is out of range, or a network names no weights.
    """
    if family not in FAMILIES:
        raise ConfigError(
            f"unknown family {family!r}", expected=f"one of {', '.join(FAMILIES)}", remedy="correct the family's name"
        )
    least = {"rows": rows, "features": features, "window": window, "batch": batch, "layers": layers}
    for name, value in {**least, "heads": heads, "horizons": horizons}.items():
        _count(name, value, 1)
    _count("params", params, 0)
    layout = FAMILIES[family]
    networked = layout in ("network", "attention")
    if networked and params == 0:
        raise ConfigError(
            f"a {family} model of 0 weights",
            expected="the number of its weights",
            remedy="pass `params=sum(p.numel() for p in module.parameters())`",
        )
    cells, outputs = rows * features, rows * len(CLASSES) * horizons
    base, preparation = 8.0 * cells, 12.0 * cells
    model, alive, device = 16.0 * outputs, 0.0, 0.0
    if layout == "trees":
        model += cells + 24.0 * outputs
    elif layout == "table":
        model += 8.0 * cells + 8.0 * features**2
    else:
        weights = 20.0 * params
        width = math.sqrt(params / ((12 if layout == "attention" else 8) * layers))
        alive = 4.0 * batch * window * features + 4.0 * 12 * batch * window * width * layers
        if layout == "attention":
            alive += 8.0 * batch * layers * heads * window**2
        model, device = model + weights, weights + alive
    # the pipeline's copies are gone before a model allocates its own
    peak = base + max(preparation, model + alive)
    return MemoryEstimate(
        runtime=RUNTIME_GIB[layout],
        base=base / GIB,
        preparation=preparation / GIB,
        model=model / GIB,
        batch=alive / GIB,
        device=device / GIB,
        total=RUNTIME_GIB[layout] + peak / GIB,
    )


def memory_guard(
    estimate: MemoryEstimate, *, available_gib: float | None = None, limit_gib: float | None = None, share: float = 0.8
) -> Guard:
    """Ask before a fit whether it fits into memory.

    Parameters
    ----------
    available_gib
        Memory there is; None for what the machine, or its container, has free now.
    limit_gib
        The unit's own ceiling (`limits.memory_gib` of the recipe), if any.
    share
        Share of the available memory that one fit may take.

    Returns
    -------
    Guard
        `value` is the estimated peak in GiB.

    Raises
    ------
    ConfigError
        If the share is not between 0 and 1.
    """
    if not 0 < share <= 1:
        raise ConfigError(f"share={share}", expected="above 0 and at most 1", remedy="0.8 leaves room for others")
    free = available_memory_gib() if available_gib is None else available_gib
    room, words = share * free, f"at most {share * free:.1f} GiB, {share:.0%} of the {free:.1f} GiB available"
    if limit_gib is not None and limit_gib < room:
        room, words = limit_gib, f"at most {limit_gib:.1f} GiB (limits.memory_gib)"
    return Guard("memory_gib", estimate.total, words, estimate.total <= room)


CGROUP: Final = Path("/sys/fs/cgroup")
"""Where Linux shows a container its limits (control groups, version 2)."""


def available_memory_gib(cgroup: Path = CGROUP) -> float:
    """Memory this process may still take: what the machine has free, or what its container's limit leaves if less."""
    import psutil

    free = float(psutil.virtual_memory().available)
    limit, used = cgroup / "memory.max", cgroup / "memory.current"
    if limit.is_file() and used.is_file():
        word = limit.read_text().strip()
        if word != "max":
            free = min(free, max(0.0, float(word) - float(used.read_text())))
    return free / GIB


def _divergence(shares: NDArray[np.float64], prior: NDArray[np.float64]) -> float:
    return max(0.0, _plogp(shares, prior))


def _plogp(shares: NDArray[np.float64], prior: NDArray[np.float64]) -> float:
    seen = shares > 0
    return float((shares[seen] * np.log(shares[seen] / prior[seen])).sum())


def _triple(values: Sequence[float] | NDArray[np.float64]) -> tuple[float, float, float]:
    short, neutral, long = (float(value) for value in values)
    return short, neutral, long


def _count(name: str, value: int, least: int) -> None:
    if value < least:
        raise ConfigError(f"{name}={value}", expected=f"{least} or more", remedy=f"raise `{name}`")
