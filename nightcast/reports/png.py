"""Plots as PNG, for trackers and mail; Agg through matplotlib's object-oriented interface, no global state."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from typing import Any, Final

from nightcast.contracts.errors import ConfigError
from nightcast.reports.plot import PALETTE, Band, Block, Dot, Key, Line, Plot, Rule

_INK, _FAINT = "#3c4653", "#e3e7ec"
_BESIDE: Final = {
    "right": ("left", "center", (1, 0)),
    "left": ("right", "center", (-1, 0)),
    "above": ("center", "bottom", (0, 1)),
    "below": ("center", "top", (0, -1)),
}
"""Side of a marker -> alignment of its label, and the direction to it."""


def draw_grid(plots: Sequence[tuple[str, Plot]], *, title: str, columns: int = 3, dpi: int = 110) -> bytes:
    """Titled plots as small multiples in one picture; the same plots give the same bytes.

    Raises
    ------
    ConfigError
        If there is no plot to draw.
    """
    if not plots:
        raise ConfigError(
            f"the picture {title!r} has no chart in it",
            expected="at least one plot",
            remedy="leave the picture out where there is nothing to show",
        )
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = min(columns, len(plots))
    rows = math.ceil(len(plots) / columns)
    width, height = (max(plot.size[i] for _, plot in plots) for i in (0, 1))
    figure = Figure(
        figsize=(columns * width / 72, rows * (height + 22) / 72 + 0.9),
        dpi=dpi,
        facecolor="white",
        layout="constrained",
    )
    FigureCanvasAgg(figure)
    figure.suptitle(_literal(title), fontsize=11, color=_INK)
    keys: dict[str, Key] = {}
    for index, (name, plot) in enumerate(plots):
        axes = figure.add_subplot(rows, columns, index + 1)
        _draw(axes, plot)
        axes.set_title(_literal(name), fontsize=8, loc="left", color=_INK)
        keys.update({key.label: key for key in plot.legend})
    if keys:
        figure.legend(
            [_handle(key) for key in keys.values()],
            [_literal(label) for label in keys],
            loc="outside lower left",
            ncols=min(len(keys), 2 * columns),
            fontsize=7,
            frameon=False,
        )
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def _literal(text: str) -> str:
    """Text for matplotlib: names are data, and a dollar sign in one must not start a formula."""
    return text.replace("$", r"\$")


def _colour(role: str) -> str:
    return PALETTE[role][0]


def _handle(key: Key) -> Any:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    colour = _colour(key.role)
    if key.shape in ("band", "block"):
        return Patch(color=colour, alpha=0.35 if key.shape == "band" else 1)
    marker = {"dot": "o", "ring": "o", "triangle": "^"}.get(key.shape, "")
    return Line2D(
        [], [], color=colour, linestyle="none" if marker else "--" if key.shape == "dash" else "-", marker=marker,
        markersize=3, markerfacecolor="white" if key.shape == "ring" else colour,
    )  # fmt: skip


def _draw(axes: Any, plot: Plot) -> None:
    for mark in plot.marks:
        if isinstance(mark, Band):
            axes.fill_between(mark.x, mark.low, mark.high, color=_colour(mark.role), alpha=0.2, linewidth=0)
        elif isinstance(mark, Line):
            heights = [math.nan if y is None else y for y in mark.y]
            alone = mark.dots or sum(y is not None for y in mark.y) == 1
            axes.plot(
                mark.x, heights, color=_colour(mark.role), linewidth=0.8 if mark.thin else 1.3,
                linestyle="--" if mark.dash else "-", marker="o" if alone else "", markersize=2.2,
            )  # fmt: skip
        elif isinstance(mark, Block):
            axes.bar(
                (mark.left + mark.right) / 2, mark.top - mark.bottom, mark.right - mark.left, mark.bottom,
                color=_colour(mark.role), edgecolor="white", linewidth=0.4,
            )  # fmt: skip
        elif isinstance(mark, Dot):
            colour = _colour(mark.role)
            axes.plot(
                mark.x, mark.y, color=colour, linestyle="none", marker="^" if mark.shape == "triangle" else "o",
                markersize=2 * mark.size, markerfacecolor="white" if mark.hollow else colour,
            )  # fmt: skip
            if mark.label:
                across, level, off = _BESIDE[mark.side]
                gap = mark.size + 2.5
                axes.annotate(
                    _literal(mark.label), (mark.x, mark.y), (off[0] * gap, off[1] * gap), ha=across, va=level,
                    textcoords="offset points", fontsize=6, color=_INK,
                )  # fmt: skip
        elif isinstance(mark, Rule):
            line = axes.axvline if mark.axis == "x" else axes.axhline
            line(mark.at, color=_colour(mark.role), linewidth=0.8, linestyle=":")
    axes.set_xlim(plot.x.low, plot.x.high)
    axes.set_ylim(plot.y.low, plot.y.high)
    for axis, its in ((axes.xaxis, plot.x), (axes.yaxis, plot.y)):
        axis.set_ticks([place for place, _ in its.ticks])
        axis.set_ticklabels([_literal(label) for _, label in its.ticks], fontsize=7, color=_INK)
    axes.set_xlabel(_literal(plot.x.label), fontsize=7, color=_INK)
    axes.set_ylabel(_literal(plot.y.label), fontsize=7, color=_INK)
    axes.grid(axis="y", color=_FAINT, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(length=2, color=_INK)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(_INK)
