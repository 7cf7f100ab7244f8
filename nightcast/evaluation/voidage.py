"""Voidage replacement: how much of the volume that left the reservoir was put back, by month and since the start."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import polars as pl

from nightcast.contracts.columns import ID, TIME
from nightcast.contracts.errors import ConfigError

FIELD: Final = "field"
"""The group of all wells."""
PAD: Final = "pad"
COLUMNS: Final = (
    "group", TIME, "days", "producers", "producers_known", "injectors", "injectors_known", "produced", "injected",
    "vrr", "cumulative_produced", "cumulative_injected", "cumulative_vrr",
)  # fmt: skip


def voidage_replacement(
    history: pl.DataFrame,
    support: pl.DataFrame,
    *,
    group: Mapping[str, str] | None = None,
    liquid: str = "y",
    injection: str = "wwir",
    oil: str = "wopr",
    water_fvf: float = 1.0,
    liquid_fvf: float = 1.0,
    oil_fvf: float | None = None,
    least_known: float = 0.9,
    gone_after: int = 12,
) -> pl.DataFrame:
    """Voidage replacement ratio: injected over produced volume, both at reservoir conditions (Dake 1978, chapter 3).

    Unless told otherwise a surface volume counts as the same volume in the reservoir: no gas comes out of solution, and
    the ratio of a field with much gas is too high.

    A well is expected to report from its first known month to its last one, and to the end of the rows where its last
    one lies within `gone_after` months of that; before, it did not exist. A volume is the sum over the wells that did
    report, and unknown (null, never zero) where their share is below `least_known`. Before the field's first known
    production, or injection, it is unknown too: rows with zeros say that nothing flowed.

    Parameters
    ----------
    history
        Producers: `unique_id, ds`, `liquid`, and `oil` where `oil_fvf` is given; calendar-day rates per month,
        m3/d at surface.
    support
        Injectors: `unique_id, ds`, `injection`, likewise.
    group
        Well -> group; a well it does not name counts in the field alone. None: the wells' last `pad`, if they have one.
    water_fvf, liquid_fvf
        Reservoir volume of a surface volume of water injected, of liquid produced.
    oil_fvf
        Reservoir volume of a surface volume of oil. Then liquid counts as oil and, with `water_fvf`, the rest as water;
        a month without an oil rate is unknown.
    least_known
        Share of expected wells, producers and injectors each, that must have reported.

    Returns
    -------
    `group, ds, days, producers, producers_known, injectors, injectors_known, produced, injected, vrr,
    cumulative_produced, cumulative_injected, cumulative_vrr`: one row per group (`"field"` first) and month from the
    first row of a producer or injector on. Wells are those expected and those that reported; volumes are of the whole
    month, in the reservoir. Cumulatives run over the months in which both volumes are known. A ratio is null where
    nothing was produced.

    Raises
    ------
    ConfigError
        If a column is missing, a month of a well is there twice or is not labelled by its first day, a rate is negative
        or not finite, a group is called `field`, or a factor, share or number of months is out of range.
    """
    for name, value in (("water_fvf", water_fvf), ("liquid_fvf", liquid_fvf), ("oil_fvf", oil_fvf)):
        if value is not None and not 0 < value < float("inf"):
            raise _refuse(f"{name} is {value!r}", "a formation volume factor above 0", f"correct `{name}`")
    if not 0 < least_known <= 1:
        raise _refuse(f"least_known is {least_known!r}", "a share in (0, 1]", "correct `least_known`")
    if gone_after < 0:
        raise _refuse(f"gone_after is {gone_after}", "0 or more months", "correct `gone_after`")
    oils = () if oil_fvf is None else (oil,)
    _check(history, (liquid, *oils), "producers")
    _check(support, (injection,), "injectors")
    groups = _groups(history, support, group)
    if FIELD in groups.get_column("group"):
        raise _refuse(f"a group is called {FIELD!r}", "another name: it stands for all wells", "rename the group")

    out = pl.col(liquid) * liquid_fvf
    if oil_fvf is not None:
        out = pl.col(oil) * oil_fvf + (pl.col(liquid) - pl.col(oil)).clip(lower_bound=0) * water_fvf
    produced = history.select(ID, TIME, out.cast(pl.Float64).alias("rate"))
    injected = support.select(ID, TIME, (pl.col(injection) * water_fvf).cast(pl.Float64).alias("rate"))
    if produced.is_empty() and injected.is_empty():
        return _empty()
    every = pl.concat([produced, injected])
    span = pl.datetime_range(pl.col(TIME).min(), pl.col(TIME).max(), "1mo", time_unit="us")
    months = every.select(span.alias(TIME))
    sums = _sums(produced, months, groups, gone_after, ("produced", "producers")).join(
        _sums(injected, months, groups, gone_after, ("injected", "injectors")),
        on=["group", TIME],
        how="full",
        coalesce=True,
    )
    counts = ["producers", "producers_known", "injectors", "injectors_known"]
    grid = pl.DataFrame({"group": [FIELD, *groups.get_column("group").unique().sort()]}).join(months, how="cross")
    table = (
        grid.join(sums, on=["group", TIME], how="left", maintain_order="left")
        .with_columns(
            pl.col(counts).fill_null(0),
            pl.col("produced", "injected").fill_null(0.0),
            pl.col(TIME).dt.month_end().dt.day().cast(pl.Int64).alias("days"),
        )
        .with_columns(
            pl.when((pl.col(f"{wells}_known") >= least_known * pl.col(wells)) & _begun(rates))
            .then(pl.col(volume) * pl.col("days"))
            .alias(volume)
            for volume, wells, rates in (("produced", "producers", produced), ("injected", "injectors", injected))
        )
    )
    both = pl.col("produced").is_not_null() & pl.col("injected").is_not_null()
    running = (
        pl.when(both).then(pl.col(name)).otherwise(0.0).cum_sum().over("group").alias(f"cumulative_{name}")
        for name in ("produced", "injected")
    )
    return table.with_columns(running).with_columns(_ratio(""), _ratio("cumulative_")).select(COLUMNS)


def _sums(
    rates: pl.DataFrame, months: pl.DataFrame, groups: pl.DataFrame, gone_after: int, names: tuple[str, str]
) -> pl.DataFrame:
    """Rates and wells, expected and known, by group and month."""
    volume, wells = names
    known = rates.drop_nulls("rate")
    end = pl.lit(months.get_column(TIME).max())
    lives = known.group_by(ID).agg(pl.col(TIME).min().alias("begin"), pl.col(TIME).max().alias("last"))
    alive = pl.col("last").dt.offset_by(f"{gone_after}mo") >= end
    lives = lives.with_columns(pl.when(alive).then(end).otherwise("last").alias("last"))
    expected = (
        lives.join(months, how="cross")
        .filter(pl.col(TIME).is_between("begin", "last"))
        .join(known, on=[ID, TIME], how="left")
        .select(ID, TIME, "rate")
    )
    told = pl.concat(
        [expected.with_columns(pl.lit(FIELD).alias("group")), expected.join(groups, on=ID)], how="diagonal"
    )
    return told.group_by("group", TIME).agg(
        pl.col("rate").sum().alias(volume),
        pl.len().cast(pl.Int64).alias(wells),
        pl.col("rate").count().cast(pl.Int64).alias(f"{wells}_known"),
    )


def _begun(rates: pl.DataFrame) -> pl.Expr:
    """Whether a month is not before the first known rate of any well."""
    return (pl.col(TIME) >= pl.lit(rates.drop_nulls("rate").get_column(TIME).min())).fill_null(False)


def _groups(history: pl.DataFrame, support: pl.DataFrame, group: Mapping[str, str] | None) -> pl.DataFrame:
    """`unique_id, group` of the wells that have one."""
    schema = {ID: pl.String, "group": pl.String}
    if group is not None:
        return pl.DataFrame({ID: list(group), "group": list(group.values())}, schema=schema).drop_nulls()
    parts = [frame.select(ID, TIME, PAD) for frame in (history, support) if PAD in frame.columns]
    if not parts:
        return pl.DataFrame(schema=schema)
    told = pl.concat(parts, how="vertical_relaxed").drop_nulls().sort(ID, TIME)
    return told.group_by(ID, maintain_order=True).agg(pl.col(PAD).last().cast(pl.String).alias("group"))


def _ratio(prefix: str) -> pl.Expr:
    injected, produced = pl.col(f"{prefix}injected"), pl.col(f"{prefix}produced")
    return pl.when(produced > 0).then(injected / produced).alias(f"{prefix}vrr")


def _check(frame: pl.DataFrame, columns: tuple[str, ...], what: str) -> None:
    if missing := [name for name in (ID, TIME, *columns) if name not in frame.columns]:
        raise _refuse(
            f"the rows of {what} lack {missing}", f"{[ID, TIME, *columns]}", "name the columns that hold them"
        )
    for name in columns:
        value = pl.col(name).cast(pl.Float64)
        wild = frame.filter(~value.is_finite() | (value < 0))
        if wild.height:
            raise _refuse(
                f"{name!r} of {wild[ID][0]!r} at {wild[TIME][0]} is {wild[name][0]}", "0 or more, or null", "mask it"
            )
    twice = frame.filter(pl.struct(ID, TIME).is_duplicated())
    if twice.height:
        raise _refuse(f"{twice[ID][0]!r} has {twice[TIME][0]} twice", "one row a well and month", "drop duplicates")
    within = frame.filter(pl.col(TIME) != pl.col(TIME).dt.truncate("1mo"))
    if within.height:
        raise _refuse(f"{within[ID][0]!r} has a row at {within[TIME][0]}", "months by their first day", "resample them")


def _refuse(what: str, expected: str, remedy: str) -> ConfigError:
    return ConfigError(f"voidage: {what}", expected=expected, remedy=remedy)


def _empty() -> pl.DataFrame:
    kinds: dict[str, type[pl.DataType] | pl.DataType] = dict.fromkeys(COLUMNS, pl.Float64)
    kinds |= dict.fromkeys(("days", "producers", "producers_known", "injectors", "injectors_known"), pl.Int64)
    return pl.DataFrame(schema={**kinds, "group": pl.String, TIME: pl.Datetime("us")})
