"""The catalogue of bar features: one row a column, with its family, the bars it needs first, and its bounds."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

import polars as pl

from nightcast.contracts.bars import BarColumn
from nightcast.contracts.columns import CLOSE, SEGMENT, TIME
from nightcast.contracts.errors import ConfigError
from nightcast.contracts.schema import BarsSchema
from nightcast.features.bars import expressions as x

Bounds = tuple[float, float]


@dataclass(frozen=True)
class BarFeature:
    """One column.

    Attributes
    ----------
    block
        Family.
    warmup
        Bars of a segment before its first value.
    make
        Its expression over one segment's prepared columns.
    bounds
        Least and largest value it can take, if there are such.
    calendar
        It reads the time alone.
    """

    block: str
    warmup: int
    make: Callable[..., pl.Expr]
    bounds: Bounds | None = None
    calendar: bool = False


def _catalogue() -> dict[str, BarFeature]:
    f: dict[str, BarFeature] = {}

    def add(name: str, block: str, warmup: int, make: Callable[..., pl.Expr], bounds: Bounds | None = None) -> None:
        f[name] = BarFeature(block, warmup, make, bounds)

    price = pl.col(x.C)
    for n in (1, 2, 3, 5, 10, 15, 20, 30, 60):
        add(f"return_{n}", "returns", n, lambda n=n: x.change(n))
    for n in (1, 5, 20):
        add(f"log_return_{n}", "returns", n, lambda n=n: x.log_change(n))
    for n in (1, 5, 20):
        add(f"return_z_{n}", "returns", 60, lambda n=n: x.scaled_change(n, 60), (-10, 10))
    for n in (5, 10, 20):
        add(f"roc_{n}", "momentum", n, lambda n=n: 100 * x.change(n))
    for n in (7, 14, 21):
        add(f"rsi_{n}", "momentum", x.wilder_window(n), lambda n=n: x.rsi(n), (0, 100))
    for part in ("line", "signal", "hist"):
        add(f"macd_{part}", "momentum", x.macd_window(part) - 1, lambda part=part: x.macd(part))
    for n in (14, 28):
        add(f"stoch_k_{n}", "momentum", n - 1, lambda n=n: 100 * x.place(n), (0, 100))
        add(f"stoch_d_{n}", "momentum", n + 1, lambda n=n: 100 * x.mean(x.place(n), 3), (0, 100))
    for n in (14, 28):
        add(f"williams_{n}", "momentum", n - 1, lambda n=n: 100 * (x.place(n) - 1), (-100, 0))
    for n in (14, 20):
        add(f"cci_{n}", "momentum", n - 1, lambda n=n: x.cci(n), (-500, 500))
    add("mfi_14", "momentum", 14, lambda: x.mfi(14), (0, 100))
    for part in ("plus", "minus", "adx"):
        name = "adx_14" if part == "adx" else f"adx_{part}_14"
        add(name, "trend", x.directional_window(14, part) - 1, lambda part=part: x.directional(14, part), (0, 100))
    for n in (10, 20, 50):
        add(f"gap_ema_{n}", "trend", x.ema_window(n) - 1, lambda n=n: price / x.ema(price, n) - 1)
    for n in (20, 50):
        add(f"gap_mean_{n}", "trend", n - 1, lambda n=n: price / x.mean(price, n) - 1)
    for n in (10, 20, 60):
        add(f"slope_{n}", "trend", n, lambda n=n: x.slope(n), (-3, 3))
        add(f"range_place_{n}", "trend", n - 1, lambda n=n: x.place(n), (0, 1))
    add("supertrend_side", "trend", SUPERTREND, lambda: pl.col(SIDE), (-1, 1))
    add("supertrend_gap", "trend", SUPERTREND, lambda: pl.col(GAP))
    for n in (7, 14, 28):
        add(f"atr_ratio_{n}", "volatility", x.wilder_window(n), lambda n=n: x.atr(n))
    for n in (5, 10, 20, 60):
        add(f"hvol_{n}", "volatility", n, lambda n=n: x.volatility(n))
    for n in (10, 20):
        add(f"parkinson_{n}", "volatility", n - 1, lambda n=n: x.parkinson(n))
        add(f"garman_{n}", "volatility", n - 1, lambda n=n: x.garman_klass(n))
    for n, slow in ((5, 20), (10, 60)):
        add(f"hvol_ratio_{n}_{slow}", "volatility", slow, lambda n=n, slow=slow: x.calm(n, slow), (0, 10))
    add("hvol_bar", "volatility", 0, lambda: (pl.col(x.H) / pl.col(x.L)).log())
    add("bb_width", "volatility", 19, lambda: x.band_width(20))
    add("bb_position", "volatility", 19, lambda: x.band_position(20), (-1, 2))
    add("kc_position", "volatility", x.wilder_window(20), lambda: x.channel_position(20), (-1, 2))
    for n in (5, 20):
        add(f"volume_ratio_{n}", "volume", n - 1, lambda n=n: x.volume_ratio(n), (0, 20))
    for n in (10, 20, 50):
        add(f"volume_zscore_{n}", "volume", n - 1, lambda n=n: x.volume_zscore(n), (-10, 10))
    for lag in (1, 2, 3, 5, 7, 10, 20, 40):
        name = f"volume_zscore_50_lag_{lag}"
        add(name, "volume", 49 + lag, lambda lag=lag: x.volume_zscore(50).shift(lag), (-10, 10))
    for n in (5, 10, 20):
        add(f"volume_trend_{n}", "volume", 49 + n - 1, lambda n=n: x.mean(x.volume_zscore(50), n), (-10, 10))
    for n in (10, 20):
        add(f"obv_{n}", "volume", n, lambda n=n: x.obv(n), (-1, 1))
    add("micro_clv", "microstructure", 0, x.close_location, (-1, 1))
    add("micro_clv_10", "microstructure", 9, lambda: x.mean(x.close_location(), 10), (-1, 1))
    spread = pl.col(x.H) - pl.col(x.L)
    top, bottom = pl.max_horizontal(pl.col(x.O), pl.col(x.C)), pl.min_horizontal(pl.col(x.O), pl.col(x.C))
    add("micro_body", "microstructure", 0, lambda: x.ratio(pl.col(x.C) - pl.col(x.O), spread).clip(-1, 1), (-1, 1))
    add("micro_upper_shadow", "microstructure", 0, lambda: x.ratio(pl.col(x.H) - top, spread).clip(0, 1), (0, 1))
    add("micro_lower_shadow", "microstructure", 0, lambda: x.ratio(bottom - pl.col(x.L), spread).clip(0, 1), (0, 1))
    add("micro_gap", "microstructure", 1, lambda: pl.col(x.O) / pl.col(x.C).shift(1) - 1)
    add("micro_corwin_schultz_20", "microstructure", 20, lambda: x.corwin_schultz(20))
    add("micro_roll_20", "microstructure", 21, lambda: x.roll_spread(20))
    add("micro_amihud_20", "microstructure", 20, lambda: x.amihud(20), (-5, 5))
    add("micro_kyle_20", "microstructure", 20, lambda: x.kyle(20), (-1, 1))
    add("micro_autocorr_20", "microstructure", 21, lambda: x.autocorrelation(20), (-1, 1))
    add("wavelet_close_approx", "wavelets", 7, lambda: x.haar(0) - x.haar(x.LEVELS))
    for j in range(1, x.LEVELS + 1):
        add(f"wavelet_close_d{j}", "wavelets", 2**j - 1, lambda j=j: x.detail(j))
        add(f"wavelet_close_energy_d{j}", "wavelets", 2**x.LEVELS - 1 + 31, lambda j=j: x.energy(j), (0, 1))
    add("wavelet_close_trend_strength", "wavelets", 32, x.trend_strength, (0, 10))
    for name, make, bounds in (
        ("hour_sin", lambda: _hour().sin(), (-1, 1)),
        ("hour_cos", lambda: _hour().cos(), (-1, 1)),
        ("dayofweek_sin", lambda: _day().sin(), (-1, 1)),
        ("dayofweek_cos", lambda: _day().cos(), (-1, 1)),
        ("session_asia", lambda: _between(0, 8), (0, 1)),
        ("session_london", lambda: _between(7, 16), (0, 1)),
        ("session_newyork", lambda: _between(13, 21), (0, 1)),
    ):
        f[name] = BarFeature("calendar", 0, make, bounds, calendar=True)
    add("raw_close", "raw", 0, lambda: pl.col(CLOSE).cast(pl.Float64))
    return f


def _hour() -> pl.Expr:
    return (pl.col(TIME).dt.hour() + pl.col(TIME).dt.minute() / 60) * (2 * math.pi / 24)


def _day() -> pl.Expr:
    return (pl.col(TIME).dt.weekday() - 1) * (2 * math.pi / 7)


def _between(first: int, last: int) -> pl.Expr:
    hour = pl.col(TIME).dt.hour()
    return ((hour >= first) & (hour < last)).cast(pl.Float64)


SIDE, GAP = "_supertrend_side", "_supertrend_gap"
READS: Final = {**x.READS, SIDE: x.READS[x.TR], GAP: x.READS[x.TR]}
"""Column of an expression -> the columns of the bars it is made of."""
SUPERTREND: Final = x.wilder_window(10) + 60
"""Bars before the SuperTrend is known: its true range, and 60 bars for its band to settle."""

BAR_FEATURES: Final[Mapping[str, BarFeature]] = MappingProxyType(_catalogue())
"""Column -> feature."""


@dataclass(frozen=True)
class FeatureSet:
    """Columns that a family of models reads.

    Attributes
    ----------
    roles
        Column -> `static`, `known` or `unknown`, for models that tell them apart.
    """

    columns: tuple[str, ...]
    why: str
    roles: Mapping[str, str] = field(default_factory=dict)


def _of(*prefixes: str, leave: Sequence[str] = ()) -> tuple[str, ...]:
    return tuple(
        name for name in BAR_FEATURES if name not in leave and any(name == p or name.startswith(p) for p in prefixes)
    )


_CLOCK = ("hour_sin", "hour_cos", "dayofweek_sin", "dayofweek_cos")
_SESSIONS = ("session_asia", "session_london", "session_newyork")
_UNKNOWN = ("return_1", "volume_ratio_20", "volume_zscore_20", "hvol_20", "atr_ratio_14")
_RAW = ("return_1", "log_return_1", "volume_ratio_20")

FEATURE_SETS: Final[Mapping[str, FeatureSet]] = MappingProxyType(
    {
        "boosting_optimal": FeatureSet(
            tuple(name for name in BAR_FEATURES if name != "raw_close"), "everything without a level, for trees"
        ),
        "neural_optimal": FeatureSet(
            (
                *("return_1", "return_2", "return_3", "return_5", "return_10", "return_20"),
                *("log_return_1", "log_return_5", "log_return_20", "return_z_1", "return_z_5", "return_z_20"),
                *("rsi_7", "rsi_14", "stoch_k_14", "stoch_d_14", "williams_14", "mfi_14"),
                *("hvol_5", "hvol_20", "hvol_60", "hvol_ratio_5_20", "hvol_bar", "atr_ratio_14"),
                *("bb_position", "kc_position", "volume_ratio_5", "volume_ratio_20"),
                *("volume_zscore_10", "volume_zscore_20", "volume_zscore_50", "volume_trend_10", "obv_20"),
                *("micro_clv", "micro_body", "range_place_20", "slope_20"),
                *("wavelet_close_approx", "wavelet_close_d1", "wavelet_close_d2", "wavelet_close_d3"),
                *("wavelet_close_energy_d1", "wavelet_close_energy_d2", "wavelet_close_trend_strength"),
                *_CLOCK,
            ),
            "bounded or scaled by volatility, for networks",
        ),
        "transformer_raw": FeatureSet(
            (
                *("return_1", "return_5", "log_return_1", "log_return_5", "volume_ratio_5", "volume_ratio_20"),
                *_CLOCK,
                *("wavelet_close_d1", "wavelet_close_d2", "wavelet_close_d3"),
            ),
            "little and raw: a transformer finds its own patterns",
        ),
        "ensemble_base": FeatureSet(
            (
                *_of("return_", "rsi_", "macd_", "stoch_k", "williams_14", "cci_20", leave=("return_15",)),
                *_of("mfi_", "adx_"),
                *("slope_20", "slope_60", "range_place_20", "range_place_60", "supertrend_side", "supertrend_gap"),
                *("atr_ratio_14", "hvol_5", "hvol_20", "hvol_60", "parkinson_20", "garman_20", "hvol_ratio_5_20"),
                *("bb_width", "bb_position", "kc_position", "volume_ratio_20", "volume_zscore_20", "volume_zscore_50"),
                *("volume_zscore_50_lag_1", "volume_zscore_50_lag_3", "volume_zscore_50_lag_7"),
                *("volume_trend_10", "obv_20"),
                *_of("micro_", "wavelet_"),
                *_CLOCK,
            ),
            "a little of every family, for ensembles",
        ),
        "itransformer_optimal": FeatureSet(
            (
                *_of("return_", "hvol_", leave=("return_15", "return_30")),
                *("rsi_14", "macd_hist", "stoch_k_14", "mfi_14", "adx_14", "bb_position", "kc_position"),
                "atr_ratio_14",
                *("volume_ratio_20", "volume_zscore_20", "volume_zscore_50", "volume_trend_10", "obv_20"),
                *("micro_clv", "micro_roll_20", "micro_amihud_20", "wavelet_close_approx", *_CLOCK),
            ),
            "correlated columns that mean something alone, as tokens",
        ),
        "tft": FeatureSet(
            (*_CLOCK, *_SESSIONS, *_UNKNOWN),
            "columns by when they are known; the symbol is the static one",
            MappingProxyType(dict.fromkeys((*_CLOCK, *_SESSIONS), "known") | dict.fromkeys(_UNKNOWN, "unknown")),
        ),
        "nbeats_raw": FeatureSet(("log_return_1",), "returns alone"),
        "linear_raw": FeatureSet((*_RAW, "hvol_bar"), "returns, volume and range"),
        "chronos_raw": FeatureSet(("raw_close",), "the close as it is; the model scales it itself"),
        "volatility_time": FeatureSet(
            (
                *("hvol_5", "hvol_10", "hvol_20", "hvol_60", "hvol_ratio_5_20", "hvol_ratio_10_60", "hvol_bar"),
                # no atr_ratio: older ranges over the newest close tell which way the price went since
                *("parkinson_10", "parkinson_20", "garman_10", "garman_20"),
                *_CLOCK,
            ),
            "how much moves and when, nothing of where to",
        ),
        "plain10": FeatureSet(
            (
                *("return_1", "return_5", "return_20", "rsi_14", "macd_hist", "bb_position", "hvol_20"),
                *("volume_zscore_20", "hour_sin", "hour_cos"),
            ),
            "ten plain columns",
        ),
    }
)


def build_bar_features(
    frame: pl.DataFrame, sets: Sequence[str], schema: BarsSchema
) -> tuple[pl.DataFrame, dict[str, BarColumn], dict[str, tuple[str, ...]]]:
    """Add the columns of some sets; the first `warmup` bars of each segment are null.

    After a missing price or volume (null, not finite, not positive) a column that reads it warms up anew.

    Parameters
    ----------
    frame
        `unique_id, ds, segment, open .. volume`, sorted by symbol and time.

    Returns
    -------
    tuple
        The frame with the columns added, column -> block and warm-up, set -> its columns.

    Raises
    ------
    ConfigError
        If a set is unknown.
    """
    from nightcast.features.bars.recursions import add_supertrend

    for name in sets:
        if name not in FEATURE_SETS:
            raise ConfigError(
                f"unknown feature set {name!r}",
                expected=f"one of {', '.join(FEATURE_SETS)}",
                remedy="correct the model's `feature_set`",
            )
    names = list(dict.fromkeys(column for name in sets for column in FEATURE_SETS[name].columns))
    work = x.prepared(frame)
    if any(name.startswith("supertrend") for name in names):
        work = add_supertrend(work, side=SIDE, gap=GAP)
    made = {name: BAR_FEATURES[name] for name in names}
    columns = [
        its.make().alias(name) if its.calendar else its.make().over(SEGMENT).alias(name) for name, its in made.items()
    ]
    values = (
        work.lazy()
        .with_columns(columns)
        .select(
            *(
                pl.when(_warm(its) & pl.col(name).is_finite()).then(pl.col(name)).alias(name)
                for name, its in made.items()
            )
        )
        .collect()
    )
    facts = {name: BarColumn(block=its.block, warmup=its.warmup) for name, its in made.items()}
    return frame.hstack(values), facts, {name: FEATURE_SETS[name].columns for name in sets}


def _warm(feature: BarFeature) -> pl.Expr:
    """Whether every value that a feature looks at is known; its warm-up starts anew after a missing one."""
    roots = feature.make().meta.root_names()
    bars = {column for root in roots for column in READS.get(root, ())}
    return pl.all_horizontal(pl.lit(True), *(pl.col(x.since(column)) >= feature.warmup for column in sorted(bars)))


def feature_table() -> str:
    """The catalogue as Markdown, for the docs."""
    lines = ["| column | block | warm-up | bounds |", "|---|---|---|---|"]
    for name, its in BAR_FEATURES.items():
        bounds = "" if its.bounds is None else f"{its.bounds[0]:g} to {its.bounds[1]:g}"
        lines.append(f"| `{name}` | {its.block} | {its.warmup} | {bounds} |")
    lines += ["", "| set | columns | longest warm-up | what for |", "|---|---|---|---|"]
    for name, chosen in FEATURE_SETS.items():
        warm = max(BAR_FEATURES[column].warmup for column in chosen.columns)
        lines.append(f"| `{name}` | {len(chosen.columns)} | {warm} | {chosen.why} |")
    return "\n".join(lines)
