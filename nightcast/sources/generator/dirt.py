"""Faults put into data on purpose, with a ledger of every value that was changed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any, Final, Literal, get_args

import numpy as np
import polars as pl

from nightcast.contracts.columns import ID, ROLE_TARGET, ROW_UNPARSABLE, SERIES_ROLE, TARGET, TIME
from nightcast.contracts.errors import ConfigError
from nightcast.contracts.hashing import derive_seed
from nightcast.sources.generator.config import FieldConfig

Corruption = Literal["duplicate_rows", "text_in_number", "future_date", "all_null", "scale_jump", "wrong_frequency"]
CORRUPTIONS: Final[tuple[Corruption, ...]] = get_args(Corruption)

LEDGER_SCHEMA: Final[dict[str, pl.DataType | type[pl.DataType]]] = {
    ID: pl.String,
    TIME: pl.Datetime("us"),
    "kind": pl.String,
    "column": pl.String,
    "original": pl.String,
    "corrupted": pl.String,
}
"""`ds` is the row's time before it was touched; values are text (`repr` of a number, ISO time), null for none; the
column of a repeated row is `*`."""

_TEXTS: Final = ("no data", "12,7 m3", "#REF!", "shut-in?")


def soil(frame: pl.DataFrame, config: FieldConfig) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The mild dirt of an ordinary field: producers without a gauge, dead and stuck gauges, volumes not reported.

    Together 10 to 30 % of the pressures and 1 to 2 % of the volumes of a field of usual size are missing.

    Parameters
    ----------
    frame
        Producers' rows: `unique_id, ds, y, wbhp, wopr`, sorted.

    Returns
    -------
    tuple
        The frame and the ledger; both as they were and empty if the configuration wants no dirt.
    """
    if not config.dirt:
        return frame, pl.DataFrame(schema=LEDGER_SCHEMA)
    rng = config.stream("dirt")
    names = frame.get_column(ID).to_numpy()
    wells = np.unique(names)
    gauge = frame.get_column("wbhp").to_numpy().copy()
    seen = ~np.isnan(gauge)
    kind = np.full(len(gauge), "", dtype=object)

    order = rng.permutation(len(wells))
    blind, dying, sticking = (round(share * len(wells)) for share in (0.08, 0.2, 0.15))
    kind[seen & (rng.random(len(gauge)) < 0.06)] = "bhp_gap"
    for well in wells[order[blind : blind + dying]]:
        rows = np.flatnonzero(names == well)
        at = int(rng.integers(len(rows)))
        dead = rows[at : at + int(rng.integers(6, 25))]
        kind[dead[seen[dead]]] = "bhp_dead_gauge"
    for well in wells[order[:blind]]:
        kind[(names == well) & seen] = "bhp_no_gauge"
    soiled = np.where(kind != "", np.nan, gauge)
    for well in wells[order[blind + dying : blind + dying + sticking]]:
        rows = np.flatnonzero((names == well) & ~np.isnan(soiled))
        if len(rows) > 1:
            at = int(rng.integers(len(rows) - 1))
            stuck = rows[at + 1 : at + int(rng.integers(3, 10))]
            soiled[stuck], kind[stuck] = soiled[rows[at]], "bhp_stuck_gauge"
    touched = np.flatnonzero(kind != "")
    ledger = [_entries(frame, touched, kind[touched], "wbhp", gauge, soiled)]

    columns = {"wbhp": soiled}
    unreported = np.flatnonzero(rng.random(len(gauge)) < 0.015)
    for column in (TARGET, "wopr"):
        original = frame.get_column(column).to_numpy()
        values = original.copy()
        values[unreported] = np.nan
        label = np.full(len(unreported), "volume_missing", dtype=object)
        ledger.append(_entries(frame, unreported, label, column, original, values))
        columns[column] = values
    soiled_frame = frame.with_columns(pl.Series(name, value).fill_nan(None) for name, value in columns.items())
    return soiled_frame, pl.concat(ledger).sort(ID, TIME, "column")


def _entries(
    frame: pl.DataFrame, rows: np.ndarray, kinds: np.ndarray, column: str, before: np.ndarray, after: np.ndarray
) -> pl.DataFrame:
    def text(values: np.ndarray) -> list[str | None]:
        return [None if np.isnan(value) else repr(float(value)) for value in values]

    return pl.DataFrame(
        {
            ID: frame.get_column(ID)[rows],
            TIME: frame.get_column(TIME)[rows],
            "kind": kinds.tolist(),
            "column": [column] * len(rows),
            "original": text(before[rows]),
            "corrupted": text(after[rows]),
        },
        schema=LEDGER_SCHEMA,
    )


def corrupt(
    frame: pl.DataFrame, share: float, seed: int, kinds: Sequence[Corruption] = CORRUPTIONS
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Break a share of the target series of any panel, each in one way; every other row stays as it is.

    - `duplicate_rows`: three rows appear twice.
    - `text_in_number`: one to three values of `y` are words. Where the frame has a `row_unparsable` column the words
      show as a reader leaves them, null and flagged; otherwise `y` becomes a text column.
    - `future_date`: the last row is dated a century ahead.
    - `all_null`: no value of `y` is left.
    - `scale_jump`: one value is 100 times too large.
    - `wrong_frequency`: the rows are stamped four times as densely, weekly instead of monthly.

    Parameters
    ----------
    frame
        `unique_id, ds, y`; where `series_role` is given only targets are touched.
    share
        Share of the target series, in [0, 1]; at least one series if it is above 0.
    seed
        Which series and rows.
    kinds
        Ways to choose from; they are dealt out in turn, so that as many as possible occur.

    Returns
    -------
    tuple
        The frame, and the ledger `unique_id, ds, kind, column, original, corrupted` with one row per changed row.

    Raises
    ------
    ConfigError
        If the share or a kind is wrong, or too few series hold four rows, all dated, and a positive value.
    """
    _check(share, kinds)
    target = pl.col(SERIES_ROLE) == ROLE_TARGET if SERIES_ROLE in frame.columns else pl.lit(True)
    stats = (
        frame.filter(target)
        .group_by(ID)
        .agg(
            pl.len().alias("rows"),
            pl.col(TIME).null_count().alias("undated"),
            (pl.col(TARGET).cast(pl.Float64, strict=False) > 0).sum().alias("positive"),
        )
        .sort(ID)
    )
    wanted = max(1, round(share * stats.height)) if share > 0 and stats.height else 0
    fit = stats.filter((pl.col("rows") >= 4) & (pl.col("positive") > 0) & (pl.col("undated") == 0)).get_column(ID)
    if wanted > len(fit):
        raise ConfigError(
            f"{wanted} series are to be corrupted and {len(fit)} of {stats.height} can be",
            expected="enough series with four rows, all dated, and a positive value",
            remedy="lower the share or give longer series",
        )
    rng = np.random.default_rng(derive_seed("corrupt", seed))
    chosen = fit.gather(rng.permutation(len(fit))[:wanted]).to_list()
    dealt = {name: kinds[i % len(kinds)] for i, name in enumerate(chosen)}

    columns = frame.columns
    work = frame.with_row_index("_row")
    if "text_in_number" in dealt.values() and ROW_UNPARSABLE not in columns:
        work = work.with_columns(pl.col(TARGET).cast(pl.String))
    ledger: list[dict[str, Any]] = []
    parts = [work.filter(~pl.col(ID).is_in(list(dealt)) | ~target)] if dealt else [work]
    for name, kind in dealt.items():
        part, changes = _BREAK[kind](work.filter((pl.col(ID) == name) & target).sort(TIME), rng)
        parts.append(part)
        ledger += [{ID: name, "kind": kind, **change} for change in changes]
    broken = pl.concat(parts).sort("_row", maintain_order=True).select(columns)
    return broken, pl.DataFrame(ledger, schema=LEDGER_SCHEMA)


def _check(share: float, kinds: Sequence[str]) -> None:
    unknown = [kind for kind in kinds if kind not in CORRUPTIONS]
    if unknown or not kinds:
        raise ConfigError(
            f"unknown corruption(s) {unknown}" if unknown else "no corruption is named",
            expected=f"some of {', '.join(CORRUPTIONS)}",
            remedy="correct `kinds`",
        )
    if not 0 <= share <= 1:
        raise ConfigError(f"the share to corrupt is {share!r}", expected="a number in [0, 1]", remedy="correct `share`")


_Changes = list[dict[str, Any]]


def _change(time: datetime, column: str, original: object, corrupted: object) -> dict[str, Any]:
    def text(value: object) -> str | None:
        if isinstance(value, datetime):
            return value.isoformat()
        return value if value is None or isinstance(value, str) else repr(value)

    return {TIME: time, "column": column, "original": text(original), "corrupted": text(corrupted)}


def _set(part: pl.DataFrame, column: str, values: dict[int, Any]) -> tuple[pl.DataFrame, _Changes]:
    """Replace some values of a column; one ledger entry each."""
    series, times = part.get_column(column), part.get_column(TIME)
    changes = [_change(times[at], column, series[at], value) for at, value in values.items()]
    full = [values.get(at, value) for at, value in enumerate(series.to_list())]
    return part.with_columns(pl.Series(column, full, dtype=series.dtype)), changes


def _duplicate_rows(part: pl.DataFrame, rng: np.random.Generator) -> tuple[pl.DataFrame, _Changes]:
    at = np.sort(rng.permutation(part.height)[:3])
    again = part[at]
    changes = [_change(row[TIME], "*", row[TARGET], row[TARGET]) for row in again.iter_rows(named=True)]
    return pl.concat([part, again]), changes


def _text_in_number(part: pl.DataFrame, rng: np.random.Generator) -> tuple[pl.DataFrame, _Changes]:
    at = [int(i) for i in np.sort(rng.permutation(part.height)[: int(rng.integers(1, 4))])]
    texts = [str(rng.choice(_TEXTS)) for _ in at]
    if ROW_UNPARSABLE not in part.columns:
        return _set(part, TARGET, dict(zip(at, texts, strict=True)))
    part, changes = _set(part, TARGET, dict.fromkeys(at))
    part, _ = _set(part, ROW_UNPARSABLE, dict.fromkeys(at, True))
    return part, [{**change, "corrupted": text} for change, text in zip(changes, texts, strict=True)]


def _future_date(part: pl.DataFrame, rng: np.random.Generator) -> tuple[pl.DataFrame, _Changes]:
    last: datetime = part.get_column(TIME)[-1]
    # The 29th of February has no namesake in most years.
    return _set(part, TIME, {part.height - 1: last.replace(year=last.year + 100, day=min(last.day, 28))})


def _all_null(part: pl.DataFrame, rng: np.random.Generator) -> tuple[pl.DataFrame, _Changes]:
    held = np.flatnonzero(part.get_column(TARGET).is_not_null().to_numpy())
    return _set(part, TARGET, {int(at): None for at in held})


def _scale_jump(part: pl.DataFrame, rng: np.random.Generator) -> tuple[pl.DataFrame, _Changes]:
    numbers = part.get_column(TARGET).cast(pl.Float64, strict=False)
    at = int(rng.choice(np.flatnonzero((numbers > 0).fill_null(False).to_numpy())))
    jump = 100.0 * float(numbers[at])
    return _set(part, TARGET, {at: repr(jump) if part.schema[TARGET] == pl.String else jump})


def _wrong_frequency(part: pl.DataFrame, rng: np.random.Generator) -> tuple[pl.DataFrame, _Changes]:
    times = part.get_column(TIME).to_list()
    dense = np.median(np.diff(np.array(times, dtype="datetime64[us]"))).astype("timedelta64[us]").item() / 4
    if dense >= timedelta(days=1):
        dense = timedelta(days=dense.days)
    stamped = [times[-1] - (len(times) - 1 - i) * dense for i in range(len(times))]
    return _set(part, TIME, {i: time for i, time in enumerate(stamped) if time != times[i]})


_BREAK: Final[dict[str, Callable[[pl.DataFrame, np.random.Generator], tuple[pl.DataFrame, _Changes]]]] = {
    "duplicate_rows": _duplicate_rows,
    "text_in_number": _text_in_number,
    "future_date": _future_date,
    "all_null": _all_null,
    "scale_jump": _scale_jump,
    "wrong_frequency": _wrong_frequency,
}
