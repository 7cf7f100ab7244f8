"""Plots as inline SVG: a few kilobytes each, coloured by the page's style sheet, so dark mode costs nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape
from typing import Final

from nightcast.reports.plot import PALETTE, Band, Block, Dot, Hint, Line, Plot, Rule

_TOP, _RIGHT, _BOTTOM = 16, 14, 22
_AXIS_LABEL = 14

Place = Callable[[float], str]


def inner_size(size: tuple[int, int], left: int, *, x_label: bool) -> tuple[int, int]:
    """Width and height of what the axes enclose in a chart of this size, CSS pixels at scale one.

    Parameters
    ----------
    size, left
        As in `Plot`.
    x_label
        Whether the x axis has a label.
    """
    return size[0] - left - _RIGHT, size[1] - _TOP - _BOTTOM - (_AXIS_LABEL if x_label else 0)


def draw(plot: Plot) -> str:
    """One chart as an `<svg>` element; all text is escaped."""
    width, height = plot.size
    inner_width, inner_height = inner_size(plot.size, plot.left, x_label=bool(plot.x.label))
    bottom = height - _TOP - inner_height

    def at_x(value: float) -> str:
        return _short(plot.left + (value - plot.x.low) / (plot.x.high - plot.x.low) * inner_width)

    def at_y(value: float) -> str:
        return _short(_TOP + (plot.y.high - value) / (plot.y.high - plot.y.low) * inner_height)

    floor = height - bottom
    parts = [
        f'<svg viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img" '
        f'aria-label="{escape(plot.description)}">'
    ]
    for place, label in plot.y.ticks:
        parts.append(f'<path class="gl" d="M{plot.left} {at_y(place)}H{width - _RIGHT}"/>')
        y = float(at_y(place)) + 3.5
        parts.append(f'<text class="end" x="{plot.left - 5}" y="{_short(y)}">{escape(label)}</text>')
    reach = -1e9
    for place, label in plot.x.ticks:
        x = float(at_x(place))
        # A label that would run into its neighbour or out of the picture is left out; its tick stays.
        half = 3.0 * len(label)
        parts.append(f'<path class="tick" d="M{_short(x)} {floor}v4"/>')
        if x - half > reach and x + half <= width + 2:
            parts.append(f'<text class="mid" x="{_short(x)}" y="{floor + 15}">{escape(label)}</text>')
            reach = x + half + 4
    if plot.y.label:
        parts.append(f'<text class="name" x="2" y="10">{escape(plot.y.label)}</text>')
    if plot.x.label:
        middle = plot.left + inner_width / 2
        parts.append(f'<text class="mid name" x="{_short(middle)}" y="{height - 4}">{escape(plot.x.label)}</text>')
    for mark in plot.marks:
        if isinstance(mark, Band):
            parts.append(_band(mark, at_x, at_y))
        elif isinstance(mark, Line):
            parts.append(_line(mark, at_x, at_y))
        elif isinstance(mark, Block):
            x, y = float(at_x(mark.left)), float(at_y(mark.top))
            w, h = float(at_x(mark.right)) - x, float(at_y(mark.bottom)) - y
            parts.append(
                f'<rect class="block r-{mark.role}" x="{_short(x)}" y="{_short(y)}" '
                f'width="{_short(w)}" height="{_short(h)}"/>'
            )
        elif isinstance(mark, Rule):
            d = (
                f"M{at_x(mark.at)} {_TOP}V{floor}"
                if mark.axis == "x"
                else f"M{plot.left} {at_y(mark.at)}h{inner_width}"
            )
            parts.append(f'<path class="rule r-{mark.role}" d="{d}"/>')
        elif isinstance(mark, Dot):
            parts.append(_dot(mark, float(at_x(mark.x)), float(at_y(mark.y))))
        elif isinstance(mark, Hint):
            x, right = float(at_x(mark.left)), float(at_x(mark.right))
            parts.append(
                f'<rect class="hint" x="{_short(x)}" y="{_TOP}" width="{_short(right - x)}" height="{inner_height}">'
                f"<title>{escape(mark.text)}</title></rect>"
            )
    parts.append(f'<path class="tick" d="M{plot.left} {floor}H{width - _RIGHT}"/>')
    parts.append("</svg>")
    return "".join(parts)


def _short(value: float) -> str:
    text = f"{value:.1f}"
    return text[:-2] if text.endswith(".0") else text


def _path(points: Sequence[tuple[str, str]]) -> str:
    return "M" + "L".join(f"{x} {y}" for x, y in points)


def _band(mark: Band, at_x: Place, at_y: Place) -> str:
    upper = [(at_x(x), at_y(y)) for x, y in zip(mark.x, mark.high, strict=True)]
    lower = [(at_x(x), at_y(y)) for x, y in zip(mark.x, mark.low, strict=True)]
    return f'<path class="band r-{mark.role}" d="{_path([*upper, *reversed(lower)])}Z"/>'


def _line(mark: Line, at_x: Place, at_y: Place) -> str:
    runs: list[list[tuple[str, str]]] = [[]]
    for x, y in zip(mark.x, mark.y, strict=True):
        if y is None:
            runs.append([])
        else:
            runs[-1].append((at_x(x), at_y(y)))
    kind = " ".join(("line", f"r-{mark.role}", *(("dash",) if mark.dash else ()), *(("thin",) if mark.thin else ())))
    path = "".join(_path(run) for run in runs if len(run) > 1)
    parts = [f'<path class="{kind}" d="{path}"/>'] if path else []
    dots = [point for run in runs if mark.dots or len(run) == 1 for point in run]
    parts += [f'<circle class="dot r-{mark.role}" cx="{x}" cy="{y}" r="2"/>' for x, y in dots]
    return "".join(parts)


def _dot(mark: Dot, x: float, y: float) -> str:
    kind = f'class="{"ring" if mark.hollow else "dot"} r-{mark.role}"'
    hint = f"<title>{escape(mark.hint)}</title>" if mark.hint else ""
    half = mark.size
    if mark.shape == "triangle":
        corners = f"M{_short(x)} {_short(y - half)}l{_short(half)} {_short(2 * half)}h{_short(-2 * half)}Z"
        text = f'<path {kind} d="{corners}">{hint}</path>'
    else:
        text = f'<circle {kind} cx="{_short(x)}" cy="{_short(y)}" r="{_short(half)}">{hint}</circle>'
    if mark.label:
        anchor, across, down = _BESIDE[mark.side]
        place = f'x="{_short(x + across * (half + 2.5))}" y="{_short(y + 3.5 + down * (half + 6.5))}"'
        text += f'<text class="tag{anchor}" {place}>{escape(mark.label)}</text>'
    return text


_BESIDE: Final = {"right": ("", 1, 0), "left": (" end", -1, 0), "above": (" mid", 0, -1), "below": (" mid", 0, 1)}
"""Side -> class of the text, and the direction from the marker, right and down."""


def style() -> str:
    """The roles' colours as CSS custom properties, for light, dark and print."""
    light = "".join(f".r-{role}{{--c:{colours[0]}}}" for role, colours in PALETTE.items())
    dark = "".join(f".r-{role}{{--c:{colours[1]}}}" for role, colours in PALETTE.items())
    return f"{light}\n@media screen and (prefers-color-scheme:dark){{{dark}}}"
