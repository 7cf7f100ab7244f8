"""Defects planted in clean bars, with a ledger from which they can be undone.

Every bar has at most one defect of its own; gaps in the price level and stamps that are an hour off come on top. Which
bars a kind gets does not depend on which other kinds are switched on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
import polars as pl
from numpy.typing import NDArray

from nightcast.contracts.columns import BAR_COLUMNS, ID, TIME
from nightcast.contracts.errors import ConfigError
from nightcast.sources.market.config import HOURS, DirtKind, Instrument, MarketConfig

Floats: TypeAlias = NDArray[np.float64]
Ints: TypeAlias = NDArray[np.int64]
Times: TypeAlias = NDArray[np.datetime64]

LEDGER_SCHEMA: Final[dict[str, pl.DataType | type[pl.DataType]]] = {
    ID: pl.String,
    TIME: pl.Datetime("us"),
    "ds_true": pl.Datetime("us"),
    "kind": pl.String,
    "event": pl.Int32,
    "shift": pl.Float64,
    "detail": pl.String,
    **{column: pl.Float64 for column in BAR_COLUMNS},
}
"""`ds`: the bar's stamp as found in the bars (where it would stand, if it is missing); `ds_true`: as it should be.
`event` numbers a symbol's events of one kind; `shift` is what was added to this bar's prices and all later ones; open
to volume are the values before the defect, null where the kind changes none."""

RATES: Final[dict[DirtKind, float]] = {
    "missing_burst": 1 / 5000,
    "stale_run": 1 / 5000,
    "missing_bar": 0.002,
    "duplicate_stamp": 0.0005,
    "bad_tick": 0.0001,
    "zero_volume": 0.0005,
    "ohlc_violation": 0.0002,
}
"""Events a bar at `dirt: 1`; each kind that is on happens at least once. Earlier kinds get the bars both want."""
BURST: Final = 12
"""Bars missing in a row."""
STALE: Final = (6, 25)
"""Bars of a stale run, least and most + 1."""
GAP_SIGMAS: Final = 4.0
BAD_TICK_SIGMAS: Final = 30.0
ROLL_SHARE: Final = 0.004
"""Size of a contract roll as a share of the price."""
DST_SESSIONS: Final = 10
"""Whole sessions stamped an hour late, where the calendar has closes; else all bars after one midnight."""


@dataclass(frozen=True)
class _Event:
    kind: DirtKind
    number: int
    start: int
    stop: int
    seed: int


def to_grid(prices: Floats, instrument: Instrument) -> Floats:
    """Prices on the tick grid, written to the tick's decimals."""
    return np.asarray(np.round(np.rint(prices / instrument.tick) * instrument.tick, instrument.decimals))


def soil(
    values: Floats, times: Times, sigma: Floats, config: MarketConfig, instrument: Instrument
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Plant the configured defects in one symbol's bars.

    Parameters
    ----------
    values
        `[n, 5]` open, high, low, close, volume.
    times
        `[n]` starts of the bars.
    sigma
        `[n]` volatility of the bars.

    Returns
    -------
    tuple
        The bars and the ledger.

    Raises
    ------
    ConfigError
        If a gap takes a price below one tick.
    """
    name = instrument.name
    if config.dirt == 0:
        return _frame(name, times, values), pl.DataFrame(schema=LEDGER_SCHEMA)
    values, seen = values.copy(), times.copy()
    ledger: list[pl.DataFrame] = []

    for kind, at, amounts in _shifts(values, sigma, config, instrument):
        if kind not in config.dirt_kinds:
            continue
        level = np.zeros(len(values))
        level[at] = amounts
        values[:, :4] += np.cumsum(level)[:, None]
        details = [f"all prices from here {amount:+g}" for amount in amounts]
        ledger.append(_entries(name, kind, times, at, np.arange(len(at)), details, shift=amounts))
    if config.rounding:
        values[:, :4] = to_grid(values[:, :4], instrument)
    if values[:, 2].min() < instrument.tick:
        raise ConfigError(
            f"price gaps take {name} down to {values[:, 2].min():g}",
            expected="a market whose prices stay positive",
            remedy="generate fewer bars, a lower source.params.sigma_bps, or leave overnight_gap out of dirt_kinds",
        )

    late = _late_bars(config, name)
    if "dst_shift" in config.dirt_kinds and len(late):
        seen[late] += np.timedelta64(1, "h")
        ledger.append(
            _entries(name, "dst_shift", times, late, np.zeros(len(late)), ["stamped an hour late"] * len(late))
        )

    missing = np.zeros(len(values), dtype=bool)
    again: dict[int, Floats] = {}
    clean = values.copy()
    for event in _events(config, name):
        if event.kind not in config.dirt_kinds:
            continue
        rows = np.arange(event.start, event.stop)
        before: Floats | None = clean[event.start : event.stop]
        rng = np.random.default_rng(event.seed)
        if event.kind in ("missing_bar", "missing_burst"):
            missing[rows] = True
            detail = f"bar left out, {len(rows)} in a row"
        elif event.kind == "duplicate_stamp":
            again[event.start], detail = _double(clean[event.start], rng, instrument)
            before = None
        else:
            detail = _DAMAGE[event.kind](values, clean, event, rng, sigma, instrument)
        numbers = np.full(len(rows), event.number)
        ledger.append(_entries(name, event.kind, times, rows, numbers, [detail] * len(rows), before=before))

    kept = np.flatnonzero(~missing)
    doubled = np.array(sorted(again), dtype=np.int64)
    order = np.argsort(np.concatenate([kept, doubled]), kind="stable")
    stamps = np.concatenate([seen[kept], seen[doubled]])[order]
    rows_out = np.concatenate([values[kept], *(again[row][None] for row in doubled)])[order]
    book = pl.concat(ledger) if ledger else pl.DataFrame(schema=LEDGER_SCHEMA)
    stamp_of = pl.DataFrame({"ds_true": times, TIME: seen}).cast(pl.Datetime("us"))
    book = book.drop(TIME).join(stamp_of, on="ds_true", how="left", maintain_order="left").select(*LEDGER_SCHEMA)
    return _frame(name, stamps, rows_out), book


def wash(bars: pl.DataFrame, ledger: pl.DataFrame, config: MarketConfig) -> pl.DataFrame:
    """Undo what the ledger lists; the inverse of `soil`, over all symbols.

    Parameters
    ----------
    bars
        `unique_id, ds, open, high, low, close, volume`; of rows with one stamp the true one comes first.

    Returns
    -------
    polars.DataFrame
        The clean bars: exactly the ones before the dirt where prices lie on the tick grid, else to rounding error.
    """
    keys = [ID, TIME]
    doubled = ledger.filter(pl.col("kind") == "duplicate_stamp").select(*keys, pl.lit(True).alias("_doubled"))
    frame = bars.with_columns(pl.int_range(pl.len()).over(keys).alias("_copy")).join(doubled, on=keys, how="left")
    frame = frame.filter((pl.col("_copy") == 0) | pl.col("_doubled").is_null()).select(*keys, *BAR_COLUMNS)

    changed = ledger.filter(pl.col("open").is_not_null()).select(*keys, *BAR_COLUMNS)
    frame = pl.concat([frame.join(changed, on=keys, how="anti"), changed])

    late = ledger.filter(pl.col("kind") == "dst_shift").select(*keys, "ds_true")
    frame = frame.join(late, on=keys, how="left")
    frame = frame.with_columns(pl.coalesce("ds_true", TIME).alias(TIME)).drop("ds_true").sort(keys, maintain_order=True)

    levels = (
        ledger.filter(pl.col("shift").is_not_null())
        .group_by(ID, pl.col("ds_true").alias(TIME))
        .agg(pl.col("shift").sum())
        .sort(keys)
        .with_columns(pl.col("shift").cum_sum().over(ID).alias("_level"))
        .select(*keys, "_level")
    )
    frame = frame.join_asof(levels, on=TIME, by=ID, check_sortedness=False)
    frame = frame.with_columns(pl.col(column) - pl.col("_level").fill_null(0.0) for column in BAR_COLUMNS[:4])
    if config.rounding:
        parts = []
        for instrument in config.symbols:
            part = frame.filter(pl.col(ID) == instrument.name)
            prices = to_grid(part.select(BAR_COLUMNS[:4]).to_numpy(), instrument)
            parts.append(part.with_columns(pl.Series(column, prices[:, i]) for i, column in enumerate(BAR_COLUMNS[:4])))
        frame = pl.concat(parts)
    return frame.sort(keys).select(*keys, *BAR_COLUMNS)


def _shifts(
    values: Floats, sigma: Floats, config: MarketConfig, instrument: Instrument
) -> list[tuple[DirtKind, Ints, Floats]]:
    """Kind, first bars and sizes of the jumps of the price level, in whole ticks."""
    n, per_session = len(values), config.session_bars
    rng = config.stream("overnight_gap", instrument.name)
    opens = np.arange(per_session, n, per_session)
    closed = HOURS[config.calendar].days < 7  # a market that never closes has no night
    sizes = GAP_SIGMAS * sigma[opens] * rng.standard_normal(len(opens)) * values[opens - 1, 3]
    gaps = to_grid(sizes, instrument)
    real = (gaps != 0) & closed

    rng = config.stream("roll_gap", instrument.name)
    at = int(rng.integers(n // 3, 2 * n // 3))
    if closed and n > 2 * per_session:
        at = max(per_session, at // per_session * per_session)  # contracts are rolled overnight
    size = max(1.0, np.rint(ROLL_SHARE * values[at - 1, 3] / instrument.tick)) * instrument.tick
    roll = to_grid(np.array([size * rng.choice([-1.0, 1.0])]), instrument)
    return [("overnight_gap", opens[real], gaps[real]), ("roll_gap", np.array([at]), roll)]


def _late_bars(config: MarketConfig, symbol: str) -> Ints:
    """Bars stamped an hour late; no stamp meets another."""
    n, per_session = config.bars, config.session_bars
    sessions = n // per_session
    rng = config.stream("dst_shift", symbol)
    if sessions < 3:
        return np.empty(0, dtype=np.int64)
    first = int(rng.integers(sessions // 3, max(sessions // 3 + 1, 2 * sessions // 3)))
    first = max(1, first)
    if HOURS[config.calendar].days == 7:
        return np.arange(first * per_session, n)
    return np.arange(first * per_session, min(first + DST_SESSIONS, sessions) * per_session)


def _events(config: MarketConfig, symbol: str) -> list[_Event]:
    """The events of every kind, switched on or off, apart from one another by a whole bar at least."""
    n = config.bars
    taken = np.zeros(n, dtype=bool)
    out: list[_Event] = []
    for kind, rate in RATES.items():
        rng = config.stream(kind, symbol)
        count = max(1, int(rng.poisson(rate * config.dirt * n)))
        longest = {"missing_burst": BURST, "stale_run": STALE[1] - 1}.get(kind, 1)
        starts = np.unique(rng.integers(2, n - longest - 1, count))
        lengths = rng.integers(*STALE, len(starts)) if kind == "stale_run" else np.full(len(starts), longest)
        seeds = rng.integers(0, 2**63, len(starts))
        number = 0
        for start, length, seed in zip(starts.tolist(), lengths.tolist(), seeds.tolist(), strict=True):
            around = slice(start - 1, start + length + 1)
            if not taken[around].any():
                taken[around] = True
                out.append(_Event(kind, number, start, start + length, seed))
                number += 1
    return out


def _stale(
    values: Floats, clean: Floats, event: _Event, rng: np.random.Generator, sigma: Floats, instrument: Instrument
) -> str:
    values[event.start : event.stop] = clean[event.start - 1]
    return f"the bar before, {event.stop - event.start} times over"


def _bad_tick(
    values: Floats, clean: Floats, event: _Event, rng: np.random.Generator, sigma: Floats, instrument: Instrument
) -> str:
    row, side = event.start, float(rng.choice([-1.0, 1.0]))
    jump = BAD_TICK_SIGMAS * sigma[row] * clean[row, 3]
    wrong = clean[row, 3] + side * max(1.0, np.rint(jump / instrument.tick)) * instrument.tick
    wrong = max(float(to_grid(np.array([wrong]), instrument)[0]), instrument.tick)
    values[row, 1:4] = max(clean[row, 1], wrong), min(clean[row, 2], wrong), wrong
    return f"close {wrong:g} in place of {clean[row, 3]:g}, back the next bar"


def _zero_volume(
    values: Floats, clean: Floats, event: _Event, rng: np.random.Generator, sigma: Floats, instrument: Instrument
) -> str:
    values[event.start, 4] = 0.0
    return f"volume 0 in place of {clean[event.start, 4]:g}"


def _ohlc_violation(
    values: Floats, clean: Floats, event: _Event, rng: np.random.Generator, sigma: Floats, instrument: Instrument
) -> str:
    row = event.start
    by = int(rng.integers(1, 10)) * instrument.tick
    if rng.random() < 0.5:
        values[row, 1] = max(float(to_grid(clean[row, 2:3] - by, instrument)[0]), 0.5 * instrument.tick)
        return "high below low"
    values[row, 2] = float(to_grid(np.array([max(clean[row, 0], clean[row, 3]) + by]), instrument)[0])
    return "low above open and close"


_DAMAGE: Final = {
    "stale_run": _stale,
    "bad_tick": _bad_tick,
    "zero_volume": _zero_volume,
    "ohlc_violation": _ohlc_violation,
}


def _double(bar: Floats, rng: np.random.Generator, instrument: Instrument) -> tuple[Floats, str]:
    if rng.random() < 0.5:
        return bar.copy(), "exact copy"
    copy = bar.copy()
    copy[:4] = to_grid(bar[:4] + int(rng.integers(1, 20)) * instrument.tick, instrument)
    return copy, "copy with other prices"


def _entries(
    name: str,
    kind: DirtKind,
    times: Times,
    rows: Ints,
    events: Ints | Floats,
    details: list[str],
    *,
    shift: Floats | None = None,
    before: Floats | None = None,
) -> pl.DataFrame:
    """Ledger rows; the stamp as found is filled in at the end."""
    count = len(rows)
    values = {c: [None] * count if before is None else before[:, i].tolist() for i, c in enumerate(BAR_COLUMNS)}
    return pl.DataFrame(
        {
            ID: [name] * count,
            TIME: times[rows],
            "ds_true": times[rows],
            "kind": [kind] * count,
            "event": events.astype(np.int32),
            "shift": [None] * count if shift is None else shift.tolist(),
            "detail": details,
            **values,
        },
        schema=LEDGER_SCHEMA,
    )


def _frame(name: str, times: Times, values: Floats) -> pl.DataFrame:
    columns = {column: values[:, i] for i, column in enumerate(BAR_COLUMNS)}
    frame = pl.DataFrame({TIME: pl.Series(times).cast(pl.Datetime("us")), **columns})
    return frame.select(pl.lit(name).alias(ID), TIME, *BAR_COLUMNS)
