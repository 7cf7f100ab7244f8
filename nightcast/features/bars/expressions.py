"""Building blocks of bar features. Every one looks at a finite window of its own segment and at nothing later.

Expressions are written for one segment; the builder evaluates each `.over("segment")`. The columns they start from are
made by `prepared`: prices relative to the segment's first close and volumes relative to its first volume, so that
no level enters and sums stay near one.
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Iterable
from typing import Final

import polars as pl

from nightcast.contracts.columns import BAR_COLUMNS, CLOSE, HIGH, LOW, OPEN, SEGMENT, VOLUME

TINY: Final = 1e-12
O, H, L, C, V, R, TR = "_o", "_h", "_l", "_c", "_v", "_r", "_tr"  # noqa: E741  # the field's own letters
WILDER_WINDOWS: Final = 8
"""A Wilder average of n bars is cut off after 8 n, where its weights have fallen to 3 in 10,000."""


def prepared(frame: pl.DataFrame) -> pl.DataFrame:
    """Add `_o, _h, _l, _c` (over the segment's first close), `_v` (over its first volume), `_r` and `_tr`.

    `_r` is the one-bar log return and `_tr` the true range, both as if the bar before the segment had closed at the
    first bar's open.

    A price that is not positive, a volume below 0 and what is not finite count as missing. Something stands in for them
    here, because weighted windows take no nulls; `_since_<column>` counts the known values in a row up to each bar,
    less one, and the builder leaves out every value that would reach further back.
    """
    row = pl.int_range(pl.len(), dtype=pl.Int64)
    known = {name: _known(name) for name in BAR_COLUMNS}
    frame = frame.with_columns(known.values())
    # prices are relative to the first known close: before it there are none
    begun = pl.col(CLOSE).is_not_null().cum_max()
    for name in BAR_COLUMNS:
        missing = pl.col(name).is_null() if name == VOLUME else pl.col(name).is_null() | ~begun
        last = pl.when(missing).then(row).forward_fill().fill_null(-1)
        frame = frame.with_columns((row - last - 1).over(SEGMENT).alias(since(name)))
    base = pl.col(CLOSE).drop_nulls().first().over(SEGMENT)
    reference = pl.col(VOLUME).filter(pl.col(VOLUME) > 0).first().over(SEGMENT).fill_null(1.0)
    frame = frame.with_columns(
        *((pl.col(name) / base).alias(short) for name, short in ((OPEN, O), (HIGH, H), (LOW, L), (CLOSE, C))),
        (pl.col(VOLUME) / reference).alias(V),
    ).with_columns(
        *(pl.col(name).forward_fill().over(SEGMENT).fill_null(1.0) for name in (O, H, L, C)),
        *(pl.col(name).forward_fill().over(SEGMENT).fill_null(0.0) for name in (V, VOLUME)),
        *(pl.col(name).forward_fill().over(SEGMENT).fill_null(1.0) for name in (OPEN, HIGH, LOW, CLOSE)),
    )
    before = pl.col(C).shift(1).over(SEGMENT).fill_null(pl.col(O))
    return frame.with_columns(
        (pl.col(C) / before).log().alias(R),
        (pl.max_horizontal(pl.col(H), before) - pl.min_horizontal(pl.col(L), before)).alias(TR),
    )


def _known(name: str) -> pl.Expr:
    value = pl.col(name).cast(pl.Float64)
    sound = value >= 0 if name == VOLUME else value > 0
    return pl.when(value.is_finite() & sound).then(value).alias(name)


def since(column: str) -> str:
    """Name of the count of known values in a row."""
    return f"_since_{column}"


READS: Final = {
    **{O: (OPEN,), H: (HIGH,), L: (LOW,), C: (CLOSE,), V: (VOLUME,), R: (CLOSE,), TR: (HIGH, LOW, CLOSE)},
    **{name: (name,) for name in BAR_COLUMNS},
}
"""Prepared column -> the columns of the bars it is made of."""


def added(terms: Iterable[pl.Expr]) -> pl.Expr:
    """A sum in the order given, so that equal inputs give equal bits (`sum_horizontal` adds in any order)."""
    return functools.reduce(operator.add, terms)


def ratio(top: pl.Expr, bottom: pl.Expr, otherwise: float = 0.0) -> pl.Expr:
    """A quotient that is `otherwise` where the denominator vanishes."""
    return pl.when(bottom.abs() > TINY).then(top / bottom).otherwise(otherwise)


def change(bars: int) -> pl.Expr:
    """Simple return over some bars."""
    return pl.col(C) / pl.col(C).shift(bars) - 1


def scaled_change(bars: int, window: int) -> pl.Expr:
    """Log return over some bars in volatilities of it, within +-10."""
    return ratio(log_change(bars) / math.sqrt(bars), volatility(window)).clip(-10, 10)


def calm(fast: int, slow: int) -> pl.Expr:
    """Volatility of few bars over that of many, at most 10; 1 where nothing moves."""
    return ratio(volatility(fast), volatility(slow), 1.0).clip(0, 10)


def volume_ratio(bars: int) -> pl.Expr:
    """Volume over its rolling mean, at most 20; 1 where there is none."""
    return ratio(pl.col(V), mean(pl.col(V), bars), 1.0).clip(0, 20)


def volume_zscore(bars: int) -> pl.Expr:
    """`zscore` of log(1 + volume)."""
    return zscore(pl.col(VOLUME).cast(pl.Float64).log1p(), bars)


def log_change(bars: int) -> pl.Expr:
    """Log return over some bars."""
    return (pl.col(C) / pl.col(C).shift(bars)).log()


def ema(x: pl.Expr, span: int) -> pl.Expr:
    """Exponential average of a span, cut off after 4 spans."""
    return _weighted(x, 1 - 2 / (span + 1), ema_window(span))


def ema_window(span: int) -> int:
    """Bars an `ema` looks at."""
    return 4 * span


def wilder(x: pl.Expr, bars: int) -> pl.Expr:
    """Wilder's average, cut off after 8 n bars."""
    return _weighted(x, 1 - 1 / bars, wilder_window(bars))


def wilder_window(bars: int) -> int:
    """Bars a `wilder` looks at."""
    return WILDER_WINDOWS * bars


def _weighted(x: pl.Expr, keep: float, window: int) -> pl.Expr:
    weights = [keep ** (window - 1 - i) for i in range(window)]
    # nulls stand only before the first full window, in rows that the warm-up leaves out
    return x.fill_null(0.0).rolling_mean(window, weights=weights)


def mean(x: pl.Expr, bars: int) -> pl.Expr:
    """Rolling mean."""
    return x.rolling_mean(bars)


def deviation(x: pl.Expr, bars: int) -> pl.Expr:
    """Rolling standard deviation, never below 0."""
    return x.rolling_var(bars).clip(lower_bound=0.0).sqrt()


def zscore(x: pl.Expr, bars: int) -> pl.Expr:
    """Distance from the rolling mean in rolling deviations, within +-10."""
    return ratio(x - mean(x, bars), deviation(x, bars)).clip(-10, 10)


def volatility(bars: int) -> pl.Expr:
    """Deviation of one-bar log returns."""
    return deviation(pl.col(R), bars)


def rsi(bars: int) -> pl.Expr:
    """Relative strength index (Wilder 1978), 0 to 100; 50 where nothing moves."""
    step = pl.col(C).diff().fill_null(0.0)
    up, down = wilder(step.clip(lower_bound=0), bars), wilder((-step).clip(lower_bound=0), bars)
    return (100 * ratio(up, up + down, 0.5)).clip(0, 100)


def place(bars: int) -> pl.Expr:
    """Where the close lies between the lowest low (0) and the highest high (1); 0.5 where they are the same."""
    low, high = pl.col(L).rolling_min(bars), pl.col(H).rolling_max(bars)
    return ratio(pl.col(C) - low, high - low, 0.5).clip(0, 1)


def macd(part: str) -> pl.Expr:
    """Moving average convergence of 12 and 26 bars, over the close: `line`, `signal` (9 bars) or `hist`."""
    line = ema(pl.col(C), 12) - ema(pl.col(C), 26)
    signal = ema(line, 9)
    chosen = {"line": line, "signal": signal, "hist": line - signal}[part]
    return chosen / pl.col(C)


def macd_window(part: str) -> int:
    """Bars `macd` looks at."""
    return ema_window(26) if part == "line" else ema_window(26) + ema_window(9) - 1


def cci(bars: int) -> pl.Expr:
    """Commodity channel index with the deviation from the mean of each bar's own window (Lambert 1980), within +-500.

    The mean absolute deviation is taken around the rolling mean of the last bar, as a mean over the window's lags.
    """
    typical = (pl.col(H) + pl.col(L) + pl.col(C)) / 3
    centre = mean(typical, bars)
    spread = added((typical.shift(lag) - centre).abs() for lag in range(bars)) / bars
    return ratio(typical - centre, 0.015 * spread).clip(-500, 500)


def mfi(bars: int) -> pl.Expr:
    """Money flow index, 0 to 100; 50 where no money flows."""
    typical = (pl.col(H) + pl.col(L) + pl.col(C)) / 3
    # ties must stay ties in any unit: a difference of rounding is none
    flow, step = typical * pl.col(V), typical.diff().fill_null(0.0)
    up = pl.when(step > TINY).then(flow).otherwise(0.0).rolling_sum(bars)
    down = pl.when(step < -TINY).then(flow).otherwise(0.0).rolling_sum(bars)
    return (100 * ratio(up, up + down, 0.5)).clip(0, 100)


def directional(bars: int, part: str) -> pl.Expr:
    """Directional movement (Wilder 1978), 0 to 100: `plus`, `minus` or `adx`."""
    up, down = pl.col(H).diff().fill_null(0.0), (-pl.col(L).diff()).fill_null(0.0)
    plus = pl.when((up > down + TINY) & (up > 0)).then(up).otherwise(0.0)
    minus = pl.when((down > up + TINY) & (down > 0)).then(down).otherwise(0.0)
    spread = wilder(pl.col(TR), bars)
    p, m = 100 * ratio(wilder(plus, bars), spread), 100 * ratio(wilder(minus, bars), spread)
    if part == "adx":
        return wilder(100 * ratio((p - m).abs(), p + m), bars).clip(0, 100)
    return (p if part == "plus" else m).clip(0, 100)


def directional_window(bars: int, part: str) -> int:
    """Bars `directional` looks at, the one before its first difference included."""
    return (2 * wilder_window(bars) - 1 if part == "adx" else wilder_window(bars)) + 1


def atr(bars: int) -> pl.Expr:
    """Average true range over the close."""
    return wilder(pl.col(TR), bars) / pl.col(C)


def parkinson(bars: int) -> pl.Expr:
    """Volatility of one bar from highs and lows (Parkinson 1980)."""
    each = (pl.col(H) / pl.col(L)).log() ** 2 / (4 * math.log(2))
    return each.rolling_mean(bars).clip(lower_bound=0).sqrt()


def garman_klass(bars: int) -> pl.Expr:
    """Volatility of one bar from open, high, low and close (Garman & Klass 1980)."""
    each = 0.5 * (pl.col(H) / pl.col(L)).log() ** 2 - (2 * math.log(2) - 1) * (pl.col(C) / pl.col(O)).log() ** 2
    return each.rolling_mean(bars).clip(lower_bound=0).sqrt()


def band_width(bars: int) -> pl.Expr:
    """Width of Bollinger's bands (two deviations to each side) over their middle."""
    return 4 * population_deviation(bars) / mean(pl.col(C), bars)


def band_position(bars: int) -> pl.Expr:
    """Where the close lies between Bollinger's bands: 0 the lower, 1 the upper, 0.5 without spread; within -1 to 2."""
    spread = population_deviation(bars)
    return ratio(pl.col(C) - mean(pl.col(C), bars) + 2 * spread, 4 * spread, 0.5).clip(-1, 2)


def population_deviation(bars: int) -> pl.Expr:
    """Rolling deviation of the close, divided by n."""
    return pl.col(C).rolling_var(bars, ddof=0).clip(lower_bound=0).sqrt()


def channel_position(bars: int) -> pl.Expr:
    """Where the close lies in Keltner's channel (two average true ranges around an ema), within -1 to 2."""
    spread = wilder(pl.col(TR), bars)
    return ratio(pl.col(C) - ema(pl.col(C), bars) + 2 * spread, 4 * spread, 0.5).clip(-1, 2)


def obv(bars: int) -> pl.Expr:
    """Share of the volume that went up less that which went down, -1 to 1."""
    signed = pl.col(R).sign() * pl.col(V)
    return ratio(signed.rolling_sum(bars), pl.col(V).rolling_sum(bars)).clip(-1, 1)


def slope(bars: int) -> pl.Expr:
    """Slope of log prices over the window's bars, in one-bar volatilities, within +-3."""
    x = pl.col(C).log()
    rising = x.rolling_mean(bars, weights=[float(i) for i in range(1, bars + 1)])
    # sum((i - middle) x) / sum((i - middle)^2), with the mean weighted by i = 1 .. n
    steep = 6 * (rising - mean(x, bars)) / (bars - 1)
    return ratio(steep, volatility(bars)).clip(-3, 3)


def autocorrelation(bars: int) -> pl.Expr:
    """Correlation of neighbouring returns, -1 to 1."""
    now, before = pl.col(R), pl.col(R).shift(1)
    covariance = (now * before).rolling_mean(bars) - now.rolling_mean(bars) * before.rolling_mean(bars)
    return ratio(covariance, deviation(now, bars) * deviation(before, bars)).clip(-1, 1)


def corwin_schultz(bars: int) -> pl.Expr:
    """Bid-ask spread from two bars' highs and lows (Corwin & Schultz 2012), mean over a window, negative ones 0."""
    one = (pl.col(H) / pl.col(L)).log() ** 2
    beta = one + one.shift(1)
    high, low = pl.max_horizontal(pl.col(H), pl.col(H).shift(1)), pl.min_horizontal(pl.col(L), pl.col(L).shift(1))
    two = (high / low).log() ** 2
    root = 3 - 2 * math.sqrt(2)
    alpha = (math.sqrt(2) - 1) * beta.sqrt() / root - (two / root).sqrt()
    spread = (2 * (alpha.exp() - 1) / (1 + alpha.exp())).clip(lower_bound=0)
    return spread.rolling_mean(bars)


def roll_spread(bars: int) -> pl.Expr:
    """Bid-ask spread from the covariance of neighbouring returns (Roll 1984); 0 where it is positive."""
    first, second = pl.col(R), pl.col(R).shift(1)
    covariance = (first * second).rolling_mean(bars) - first.rolling_mean(bars) * second.rolling_mean(bars)
    return 2 * (-covariance).clip(lower_bound=0).sqrt()


def amihud(bars: int) -> pl.Expr:
    """Log ratio of the last bar's |return| per volume to its rolling mean (Amihud 2002), within +-5."""
    each = ratio(pl.col(R).abs(), pl.col(V))
    usual = each.rolling_mean(bars)
    return pl.when((each > TINY) & (usual > TINY)).then((each / usual).log()).otherwise(0.0).clip(-5, 5)


def kyle(bars: int) -> pl.Expr:
    """Correlation of returns with signed volume: how far trading moves the price (after Kyle 1985), -1 to 1."""
    signed = pl.col(R).sign() * pl.col(V)
    covariance = (pl.col(R) * signed).rolling_mean(bars) - pl.col(R).rolling_mean(bars) * signed.rolling_mean(bars)
    scale = (bars - 1) / bars
    return ratio(covariance, scale * deviation(pl.col(R), bars) * deviation(signed, bars)).clip(-1, 1)


def close_location() -> pl.Expr:
    """Where the close lies in its bar: -1 at the low, 1 at the high, 0 without a range."""
    return ratio(2 * pl.col(C) - pl.col(H) - pl.col(L), pl.col(H) - pl.col(L)).clip(-1, 1)


def haar(level: int) -> pl.Expr:
    """Causal a-trous Haar approximation of the log price: a mean of the last 2 ** level bars."""
    x = pl.col(C).log()
    return x if level == 0 else x.rolling_mean(2**level)


def detail(level: int) -> pl.Expr:
    """Haar detail of a level: the approximation before it less its own."""
    return haar(level - 1) - haar(level)


LEVELS: Final = 3


def energy(level: int, bars: int = 32) -> pl.Expr:
    """Share of a level in the energy of all details, over a window; 0 to 1."""
    each = {j: (detail(j) ** 2).rolling_sum(bars) for j in range(1, LEVELS + 1)}
    return ratio(each[level], added(each.values())).clip(0, 1)


def trend_strength() -> pl.Expr:
    """|change of the coarsest approximation over 8 bars| in volatilities of 32 bars, at most 10."""
    smooth = haar(LEVELS)
    return ratio((smooth - smooth.shift(8)).abs() / math.sqrt(8), volatility(32)).clip(0, 10)
