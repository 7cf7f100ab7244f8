"""Column names of every frame that crosses a room's border.

Frames are long: one row per series and time. Times are naive timestamps in UTC and label the *start* of their
month, day or bar.
"""

from typing import Final, Literal

ID: Final = "unique_id"
TIME: Final = "ds"
TARGET: Final = "y"
CUTOFF: Final = "cutoff"
HORIZON: Final = "horizon"
MODEL: Final = "model"
UPTIME: Final = "uptime"
"""Share of a step on stream, 0 to 1: a covariate that rates of days on stream and regimes are read from."""

SERIES_ROLE: Final = "series_role"
"""`target` (gets a forecast) or `support` (an injector, say: seen by features, never forecast)."""
ROLE_TARGET: Final = "target"
ROLE_SUPPORT: Final = "support"

ROW_UNPARSABLE: Final = "row_unparsable"
"""True where the source held text that is neither a number nor a blank in a numeric or time column."""

MODEL_USED: Final = "model_used"
FALLBACK_REASON: Final = "fallback_reason"
NIGHT_ID: Final = "night_id"

Role = Literal["past", "plan", "static"]
"""`past`: known up to the cutoff. `plan`: known ahead. `static`: one value a series."""

LEVELS: Final[tuple[float, ...]] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
"""The quantile levels every forecast carries."""


def quantile_column(level: float) -> str:
    """Name of the column of one quantile level, `0.1 -> "q10"`."""
    return f"q{round(level * 100):02d}"


QUANTILES: Final[tuple[str, ...]] = tuple(quantile_column(level) for level in LEVELS)
MEDIAN: Final = "q50"

OPEN: Final = "open"
HIGH: Final = "high"
LOW: Final = "low"
CLOSE: Final = "close"
VOLUME: Final = "volume"
BAR_COLUMNS: Final[tuple[str, ...]] = (OPEN, HIGH, LOW, CLOSE, VOLUME)

SEGMENT: Final = "segment"
"""Number of a run of bars without a gap, unique over all symbols: no window, feature or label crosses its ends."""
SESSION: Final = "session"
"""Number of a run of bars without a scheduled close, unique over all symbols; a segment holds one or more."""
LABEL_END: Final = "label_end"
"""When a label becomes known: the start of the last bar it looked at."""
SIGNAL: Final = "signal"
"""-1 short, 0 flat, 1 long."""

CLASSES: Final[tuple[str, ...]] = ("short", "neutral", "long")
"""Class k of a triple-barrier label: 0 the lower barrier came first, 1 none (or both), 2 the upper one."""
SHORT, NEUTRAL, LONG = 0, 1, 2
CLASS_PROBS: Final[tuple[str, ...]] = tuple(f"p_{name}" for name in CLASSES)
