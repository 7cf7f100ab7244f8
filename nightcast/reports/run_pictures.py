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
    """Every series of a fit's history over its epochs, losses and scores apart."""
    losses = {name: values for name, values in history.items() if "loss" in name}
    others = {name: values for name, values in history.items() if name not in losses}
    parts = [(label, its) for label, its in (("loss", losses), ("score", others)) if its]
    figure = _figure(5.5 * max(len(parts), 1), 3.6)
    if not parts:
        figure.text(0.5, 0.5, "this model has no epochs", ha="center")
    for place, (label, its) in enumerate(parts, start=1):
        axes = figure.add_subplot(1, len(parts), place)
        for name, values in its.items():
            axes.plot(range(1, len(values) + 1), list(values), label=name, marker="." if len(values) < 30 else None)
        axes.set_xlabel("epoch")
        axes.set_ylabel(label)
        axes.legend(fontsize=7)
    return _png(figure, title)


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
