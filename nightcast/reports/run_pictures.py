"""Pictures of one training run, as PNG."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from nightcast.contracts.columns import CLASSES

MOST_FEATURES = 25


def curves_picture(history: Mapping[str, Sequence[float]], *, title: str) -> bytes:
    """Every series of a fit's history over its epochs: losses, scores, F1 by class and the rest apart.

    `train_` series are dashed, and share their colour with the `val_` series of the same name.
    """
    from matplotlib.ticker import MaxNLocator

    parts: dict[str, dict[str, Sequence[float]]] = {}
    for name, values in history.items():
        parts.setdefault(_panel(name), {})[name] = values
    figure = _figure(4.6 * max(len(parts), 1), 3.6)
    if not parts:
        figure.text(0.5, 0.5, "this model has no epochs", ha="center")
    for place, (label, its) in enumerate(parts.items(), start=1):
        axes = figure.add_subplot(1, len(parts), place)
        colours = {name: f"C{k}" for k, name in enumerate(dict.fromkeys(_measure(name) for name in its))}
        for name, values in its.items():
            axes.plot(
                range(1, len(values) + 1),
                list(values),
                label=name,
                color=colours[_measure(name)],
                linestyle="--" if name.startswith("train_") else "-",
                marker="." if len(values) < 30 else None,
            )
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.set_xlabel("epoch")
        axes.set_ylabel(label)
        axes.legend(fontsize=7)
    return _png(figure, title)


def _measure(name: str) -> str:
    return name.removeprefix("train_").removeprefix("val_")


def _panel(name: str) -> str:
    """The panel a series of a fit's history belongs to."""
    measure = _measure(name)
    if "loss" in measure or "nll" in measure:
        return "loss"
    if measure in {f"f1_{label}" for label in CLASSES}:
        return "F1 by class"
    return "learning rate" if measure == "lr" else "score"


def confusion_picture(confusion: Any, *, title: str) -> bytes:
    """Counts of true against predicted class."""
    matrix = np.asarray(confusion)
    figure = _figure(4.4, 3.8)
    axes = figure.add_subplot()
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for i in range(len(CLASSES)):
        for j in range(len(CLASSES)):
            tone = "white" if shares[i, j] > 0.6 else "black"
            axes.text(j, i, f"{matrix[i, j]:,}\n{shares[i, j]:.0%}", ha="center", va="center", color=tone, fontsize=8)
    axes.set_xticks(range(len(CLASSES)), CLASSES)
    axes.set_yticks(range(len(CLASSES)), CLASSES)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    return _png(figure, title)


def importance_picture(table: pl.DataFrame, *, title: str) -> bytes:
    """The most important features, `feature, importance`."""
    top = table.head(MOST_FEATURES).reverse()
    figure = _figure(6.0, max(2.0, 0.22 * top.height + 1))
    if top.is_empty():
        figure.text(0.5, 0.5, "this model states no importance", ha="center")
    else:
        axes = figure.add_subplot()
        axes.barh(top.get_column("feature").to_list(), top.get_column("importance").to_list(), color="#0b62a8")
        axes.tick_params(labelsize=7)
        axes.set_xlabel("share of the importance")
    return _png(figure, title)


def _figure(width: float, height: float) -> Any:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _png(figure: Any, title: str) -> bytes:
    figure.suptitle(title, fontsize=9)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()
