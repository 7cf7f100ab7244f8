"""The facts the gates judge, computed in polars: a few columns per row, one row per series, one row per column.

A null in a diagnostic column means "not judged"; expectations pass over it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from datetime import datetime
from itertools import pairwise
from typing import Final

import numpy as np
import polars as pl

from nightcast.contracts.columns import (
    FALLBACK_REASON,
    ID,
    MEDIAN,
    MODEL_USED,
    QUANTILES,
    ROLE_TARGET,
    ROW_UNPARSABLE,
    SERIES_ROLE,
    TARGET,
    TIME,
)
from nightcast.contracts.panel import PanelDataset
from nightcast.contracts.source import RawData

_PAIRS_SHOWN: Final = 5
_KINDS: Final = {
    "text": "text",
    "time": "a time without a zone",
    "number": "numbers",
    "value": "numbers or text",
}


def required_columns(frame: pl.DataFrame, wanted: Iterable[tuple[str, str]]) -> pl.DataFrame:
    """One row per wanted column: is it there, and of the wanted kind (a key of `_KINDS`)."""
    rows = []
    for name, kind in wanted:
        present = name in frame.columns
        dtype = frame.schema[name] if present else None
        there = (None, present) if name == TARGET else (present, None)
        typed = None if dtype is None else _is_kind(dtype, kind)
        rows.append((name, _KINDS[kind], *there, str(dtype) if present else None, typed))
    schema = {
        "column": pl.String,
        "kind": pl.String,
        "present": pl.Boolean,
        "target_present": pl.Boolean,
        "dtype": pl.String,
        "typed": pl.Boolean,
    }
    return pl.DataFrame(rows, schema=schema, orient="row")


def _is_kind(dtype: pl.DataType, kind: str) -> bool:
    if kind == "text":
        return dtype == pl.String
    if kind == "time":
        return isinstance(dtype, pl.Datetime) and dtype.time_zone is None
    number = dtype.is_numeric() or dtype == pl.Boolean or dtype == pl.Null
    return number or (kind == "value" and dtype in (pl.String, pl.Categorical, pl.Enum))


def table_facts(frame: pl.DataFrame) -> pl.DataFrame:
    """One row: the number of rows and of rows without a series."""
    unnamed = frame.get_column(ID).null_count() if ID in frame.columns else 0
    return pl.DataFrame({"height": [frame.height], "unnamed": [unnamed]})


def covariate_facts(raw: RawData) -> pl.DataFrame:
    """One row per covariate: how much of it is missing, in target or support series, whichever report it better.

    So an injection rate that only injectors have is not called missing.
    """
    rows = _with_defaults(raw.frame)
    facts = []
    for name in raw.panel.covariates:
        best = (0, 0)
        for part in (rows.filter("is_target"), rows.filter(~pl.col("is_target"))):
            nulls = part.get_column(name).null_count() + _nans(part.get_column(name))
            if part.height and (not best[1] or nulls * best[1] < best[0] * part.height):
                best = (nulls, part.height)
        facts.append((name, *best))
    schema = {"covariate": pl.String, "nulls": pl.Int64, "of": pl.Int64}
    frame = pl.DataFrame(facts, schema=schema, orient="row")
    return frame.with_columns((pl.col("nulls") / pl.max_horizontal("of", 1)).alias("null_share"))


def _with_defaults(frame: pl.DataFrame) -> pl.DataFrame:
    role = pl.col(SERIES_ROLE) if SERIES_ROLE in frame.columns else pl.lit(ROLE_TARGET)
    unparsable = pl.col(ROW_UNPARSABLE).fill_null(False) if ROW_UNPARSABLE in frame.columns else pl.lit(False)
    return frame.with_columns(
        pl.col(TIME).cast(pl.Datetime("us")),
        pl.col(TARGET).cast(pl.Float64),
        unparsable.alias("unparsable"),
        role.fill_null(ROLE_TARGET).alias("_role"),
    ).with_columns((pl.col("_role") == ROLE_TARGET).any().over(ID).alias("is_target"))


def raw_rows(raw: RawData, *, neighbours: int, spike_recent: int | None) -> pl.DataFrame:
    """One row per input row with a series: what can be wrong with it.

    Parameters
    ----------
    neighbours
        Known values on each side that a value is compared with.
    spike_recent
        Steps before the as-of date up to which a spike counts as recent; None: always.

    Returns
    -------
    DataFrame
        `unique_id, ds, y` and

        - `bad_time`: the time is missing;
        - `unparsable`, `support_unparsable`: text where a number belongs, in target and support series;
        - `steps_ahead`: steps after the as-of date, at least 1 for a future row, else 0;
        - `copies`: rows with the same series and time;
        - `off_grid`: the time is not the start of a period;
        - `state`: `missing`, `infinite`, `below` (the lower bound) or `known`;
        - `spike`, `old_spike`: size of the value as a multiple of `reference`, split by `spike_recent`;
        - `reference`: the largest known non-zero neighbour. With fewer than three of them, the 95th percentile of
          the other non-zero values of the series; null (not judged) with fewer than two others.

        Sorted by series, time and value. Rows without a time, or after the as-of date, get no further diagnostics.
    """
    freq, lower = raw.schema.freq, raw.schema.lower
    as_of = pl.lit(raw.as_of).cast(pl.Datetime("us"))
    rows = (
        _with_defaults(raw.frame)
        .filter(pl.col(ID).is_not_null())
        .select(ID, TIME, TARGET, "is_target", "unparsable")
        .sort(ID, TIME, TARGET, "unparsable", nulls_last=True)
        .with_columns(freq.floor_expr(TIME).alias("period"), as_of.alias("as_of"))
        .with_columns(
            pl.when(pl.col("period") > pl.col("as_of"))
            .then(pl.max_horizontal(freq.steps_between_expr("as_of", "period"), 1))
            .otherwise(0)
            .alias("steps_ahead"),
            pl.col(TIME).is_null().alias("bad_time"),
        )
        .with_columns((~pl.col("bad_time") & (pl.col("steps_ahead") == 0)).alias("in_record"))
    )
    below = pl.lit(False) if lower is None else pl.col(TARGET) < lower
    rows = rows.with_columns(
        pl.when("in_record").then(pl.len().over(ID, TIME)).cast(pl.Int64).alias("copies"),
        pl.when("in_record").then(pl.col("period") != pl.col(TIME)).alias("off_grid"),
        pl.when(pl.col(TARGET).is_null())
        .then(pl.lit("missing"))
        .when(~pl.col(TARGET).is_finite())
        .then(pl.lit("infinite"))
        .when(below)
        .then(pl.lit("below"))
        .otherwise(pl.lit("known"))
        .alias("state"),
        (pl.col("unparsable") & ~pl.col("bad_time") & ~pl.col("is_target")).alias("support_unparsable"),
        (pl.col("unparsable") & ~pl.col("bad_time") & pl.col("is_target")).alias("unparsable"),
        pl.int_range(pl.len()).alias("_position"),
    )
    spikes = _spikes(rows, neighbours)
    rows = rows.join(spikes, on="_position", how="left", maintain_order="left")
    age = freq.steps_between_expr("period", "as_of")
    recent = pl.lit(True) if spike_recent is None else age <= spike_recent
    return rows.with_columns(
        pl.when(recent).then("spike").alias("spike"),
        pl.when(~recent).then("spike").alias("old_spike"),
    ).drop("_position", "as_of")


def _spikes(rows: pl.DataFrame, neighbours: int) -> pl.DataFrame:
    """`_position, spike, reference` of the known non-zero values of target series."""
    known = (
        rows.filter(pl.col("is_target") & pl.col("in_record") & (pl.col("state") == "known"))
        .select("_position", ID, pl.col(TARGET).abs().alias("size"))
        .with_columns(pl.when(pl.col("size") > 0).then("size").alias("size"))
    )
    offsets = [step for step in range(-neighbours, neighbours + 1) if step != 0]
    near = [pl.col("size").shift(step).over(ID).alias(f"_near{step}") for step in offsets]
    names = [f"_near{step}" for step in offsets]
    known = (
        known.with_columns(near)
        .with_columns(
            pl.max_horizontal(names).alias("reference"),
            pl.sum_horizontal(pl.col(name).is_not_null() for name in names).alias("near"),
        )
        .drop(names)
        .filter(pl.col("size").is_not_null())
    )
    lonely = known.filter((pl.col("near") < 3).any().over(ID))
    parts = [
        pl.DataFrame({"_position": part["_position"], "level": _level_of_others(part["size"].to_numpy())})
        for part in lonely.partition_by(ID)
    ]
    levels = pl.concat(
        [pl.DataFrame(schema={"_position": known.schema["_position"], "level": pl.Float64}), *parts]
    ).with_columns(pl.col("level").fill_nan(None))
    return (
        known.join(levels, on="_position", how="left")
        .with_columns(pl.when(pl.col("near") < 3).then("level").otherwise("reference").alias("reference"))
        .select("_position", (pl.col("size") / pl.col("reference")).alias("spike"), "reference")
    )


def _level_of_others(sizes: np.ndarray) -> np.ndarray:
    """For each value the 95th percentile (the order statistic above it) of the others; NaN with fewer than two."""
    n = len(sizes)
    if n < 3:
        return np.full(n, np.nan)
    order = np.argsort(sizes, kind="stable")
    rank = np.empty(n, dtype=np.int64)
    rank[order] = np.arange(n)
    at = math.ceil(0.95 * (n - 2))
    # Taking one value away moves every larger one down by a place.
    return np.asarray(sizes[order][np.where(rank <= at, at + 1, at)], dtype=np.float64)


def raw_profile(
    rows: pl.DataFrame, raw: RawData, *, mask_share: float, mask_rows: int, retire_after: int
) -> pl.DataFrame:
    """One row per series, from `raw_rows`.

    Parameters
    ----------
    mask_share, mask_rows
        Share of the given values, and number of them, up to which impossible ones are masked.
    retire_after
        Steps without a known value after which a series counts as retired.

    Returns
    -------
    DataFrame
        `unique_id` and, for target series only except `typical_step`,

        - `known`: number of usable values;
        - `typical_step`: lower median of the steps between rows, given three rows on the grid;
        - `below_rows, below_few, below_many, lowest, lowest_at`: values under the lower bound;
        - `infinite_rows, infinite_few, infinite_many, infinite_at`: values that are infinite or NaN;
        - `stuck_rows, stuck_value, stuck_from`: the longest run of one non-zero value;
        - `missing_steps, first_at, last_at, missing_at`: steps without a row inside the record;
        - `silent_steps, last_known_at`: age of the last usable value; null once retired.

        `_few` holds the number of rows to mask; where they are too many for that, it is 0 and `_many` holds them.
    """
    freq = raw.schema.freq
    inside = rows.filter("in_record")
    given = pl.col("state") != "missing"
    base = rows.group_by(ID).agg(pl.col("is_target").first())
    values = inside.group_by(ID, maintain_order=True).agg(
        (pl.col("state") == "known").sum().cast(pl.Int64).alias("known"),
        given.sum().cast(pl.Int64).alias("given"),
        (pl.col("state") == "below").sum().cast(pl.Int64).alias("below_rows"),
        (pl.col("state") == "infinite").sum().cast(pl.Int64).alias("infinite_rows"),
        pl.col(TARGET).filter(pl.col("state") == "below").min().alias("lowest"),
        pl.col(TIME)
        .filter(pl.col("state") == "below")
        .sort_by(pl.col(TARGET).filter(pl.col("state") == "below"))
        .first()
        .alias("lowest_at"),
        pl.col(TIME).filter(pl.col("state") == "infinite").first().alias("infinite_at"),
        pl.col(TIME).filter(pl.col("state") == "known").last().alias("last_known_at"),
        pl.col("period").filter(pl.col("state") == "known").last().alias("_last_period"),
        pl.col("off_grid").any().alias("_off_grid"),
    )
    few = {
        what: (pl.col(f"{what}_rows") <= mask_rows) | (pl.col(f"{what}_rows") <= mask_share * pl.col("given"))
        for what in ("below", "infinite")
    }
    values = values.with_columns(
        pl.lit(raw.as_of).cast(pl.Datetime("us")).alias("_as_of"),
        *(pl.when(its).then(f"{what}_rows").otherwise(0).alias(f"{what}_few") for what, its in few.items()),
        *(pl.when(its).then(0).otherwise(f"{what}_rows").alias(f"{what}_many") for what, its in few.items()),
    ).with_columns(freq.steps_between_expr("_last_period", "_as_of").alias("silent_steps"))
    values = values.with_columns(pl.when(pl.col("silent_steps") <= retire_after).then("silent_steps"))
    out = (
        base.join(values, on=ID, how="left")
        .join(_steps(inside, raw), on=ID, how="left")
        .join(_stuck(inside), on=ID, how="left")
        .with_columns(pl.col("known").fill_null(0))
    )
    on_grid = pl.col("_off_grid").not_()
    judged = on_grid & (pl.col("stamps") >= 3)
    # Two rows far apart are a gap; from three rows on the distance may be another frequency.
    regular = on_grid & ((pl.col("stamps") < 3) | (pl.col("typical_step") == 1))
    out = out.with_columns(
        pl.when(judged).then("typical_step").alias("typical_step"),
        pl.when(regular).then("missing_steps").alias("missing_steps"),
    )
    # Support series feed the features only: their values are judged there.
    everywhere = (ID, "is_target", "typical_step", "stamps")
    targets = [pl.when("is_target").then(name).alias(name) for name in out.columns if name not in everywhere]
    return out.with_columns(targets).select(pl.exclude("^_.*$")).sort(ID)


def _steps(inside: pl.DataFrame, raw: RawData) -> pl.DataFrame:
    freq = raw.schema.freq
    stamps = (
        inside.select(ID, "period")
        .unique()
        .sort(ID, "period")
        .with_columns(pl.col("period").shift(1).over(ID).alias("_before"))
        .with_columns(freq.steps_between_expr("_before", "period").alias("_step"))
    )
    return stamps.group_by(ID).agg(
        pl.len().cast(pl.Int64).alias("stamps"),
        pl.col("_step").quantile(0.5, "lower").alias("typical_step"),
        (pl.col("_step") - 1).sum().cast(pl.Int64).alias("missing_steps"),
        pl.col("period").min().alias("first_at"),
        pl.col("period").max().alias("last_at"),
        pl.col("_before").filter(pl.col("_step") > 1).first().alias("missing_at"),
    )


def _stuck(inside: pl.DataFrame) -> pl.DataFrame:
    known = inside.filter(pl.col("state") == "known").unique([ID, "period"], keep="first", maintain_order=True)
    runs = (
        known.with_columns(pl.struct(ID, TARGET).rle_id().alias("_run"))
        .filter(pl.col(TARGET) != 0)
        .group_by(ID, "_run", maintain_order=True)
        .agg(
            pl.len().cast(pl.Int64).alias("stuck_rows"),
            pl.col(TARGET).first().alias("stuck_value"),
            pl.col(TIME).first().alias("stuck_from"),
        )
    )
    return runs.sort("stuck_rows", descending=True, maintain_order=True).unique(ID, keep="first").drop("_run")


def panel_facts(profile: pl.DataFrame) -> pl.DataFrame:
    """One row: target series, and those with a usable value."""
    return profile.select(
        pl.col("is_target").sum().cast(pl.Int64).alias("targets"),
        (pl.col("is_target") & (pl.col("known") > 0)).sum().cast(pl.Int64).alias("targets_with_values"),
    )


def dataset_rows(dataset: PanelDataset) -> pl.DataFrame:
    """One row per dataset row: `unique_id, ds`, `step` since the row before, and what is not a finite number.

    `infinite_in` names the first column that is infinite (for the target: or NaN), `nan_in` the first input column
    that is NaN.
    """
    freq = dataset.schema.freq
    inputs = [name for name in dataset.columns if dataset.frame.schema[name].is_float()]
    frame = dataset.frame.sort(ID, TIME).with_columns(pl.col(TIME).shift(1).over(ID).alias("_before"))
    infinite = [pl.when(pl.col(name).is_infinite()).then(pl.lit(name)) for name in inputs]
    if frame.schema[TARGET].is_float():
        infinite.insert(0, pl.when(~pl.col(TARGET).is_finite()).then(pl.lit(TARGET)))
    nans = [pl.when(pl.col(name).is_nan()).then(pl.lit(name)) for name in inputs]
    nothing = pl.lit(None, dtype=pl.String)
    return frame.select(
        ID,
        TIME,
        pl.col("_before").alias("before"),
        freq.steps_between_expr("_before", TIME).alias("step"),
        pl.coalesce(*infinite, nothing).alias("infinite_in"),
        pl.coalesce(*nans, nothing).alias("nan_in"),
        pl.coalesce(*infinite, nothing).is_null().alias("finite"),
        pl.coalesce(*nans, nothing).is_null().alias("not_nan"),
    )


def dataset_columns(dataset: PanelDataset) -> pl.DataFrame:
    """One row per input column: role and share of missing values up to the as-of date."""
    history = dataset.frame.filter(pl.col(TIME) <= dataset.as_of)
    known = [
        history.height - history.get_column(name).null_count() - _nans(history.get_column(name))
        for name in dataset.columns
    ]
    return pl.DataFrame(
        {
            "column": list(dataset.columns),
            "role": [column.role for column in dataset.columns.values()],
            "block": [column.block for column in dataset.columns.values()],
            "known": known,
        },
        schema={"column": pl.String, "role": pl.String, "block": pl.String, "known": pl.Int64},
    )


def _nans(column: pl.Series) -> int:
    return int(column.is_nan().sum()) if column.dtype.is_float() else 0


def active_series(dataset: PanelDataset) -> list[str]:
    """Series that are forecast from the as-of date, sorted."""
    oldest = dataset.schema.freq.shift(dataset.as_of, -dataset.retire_after)
    recent = dataset.truth().filter(pl.col(TIME).is_between(oldest, dataset.as_of))
    return recent.get_column(ID).unique().sort().to_list()


def future_keys(dataset: PanelDataset) -> pl.DataFrame:
    """`unique_id, ds` of every future row the live forecast needs."""
    freq, horizon = dataset.schema.freq, dataset.schema.horizon
    stamps = [freq.shift(dataset.as_of, step) for step in range(1, horizon + 1)]
    series = pl.DataFrame({ID: active_series(dataset)}, schema={ID: pl.String})
    return series.join(pl.DataFrame({TIME: stamps}, schema={TIME: pl.Datetime("us")}), how="cross").sort(ID, TIME)


def missing_plan(dataset: PanelDataset) -> pl.DataFrame:
    """Every future value of a known-ahead column that is missing, `unique_id, ds, column, kind`.

    `kind` is `feature` (a known-ahead feature that its series has in the past), `lag` (the same, in the target's
    unit: made from past values, so a gap in them shows here) or `carried` (a covariate the user's plan lacks for
    this row: its last known value is carried on).
    """
    keys = future_keys(dataset)
    parts = [pl.DataFrame(schema={**keys.schema, "column": pl.String, "kind": pl.String})]
    history = dataset.frame.filter(pl.col(TIME) <= dataset.as_of)
    for name, column in dataset.columns.items():
        if column.role != "plan":
            continue
        if column.block == "covariate":
            if dataset.plan is None:
                continue
            source, kind, wanted = dataset.plan, "carried", keys
        else:
            source, kind = dataset.frame, "lag" if column.scaled else "feature"
            past = history.filter(_is_value(history, name)).get_column(ID).unique()
            wanted = keys.filter(pl.col(ID).is_in(past.implode()))
        there = source.filter(_is_value(source, name)) if name in source.columns else source.clear()
        gone = wanted.join(there.select(ID, TIME), on=[ID, TIME], how="anti")
        parts.append(gone.with_columns(pl.lit(name).alias("column"), pl.lit(kind).alias("kind")))
    return pl.concat(parts).sort(ID, TIME, "column")


def _is_value(frame: pl.DataFrame, name: str) -> pl.Expr:
    if frame.schema[name].is_float():
        return pl.col(name).is_not_null() & pl.col(name).is_not_nan()
    return pl.col(name).is_not_null()


def dataset_profile(dataset: PanelDataset) -> pl.DataFrame:
    """One row per active series: `future_rows`, and missing known-ahead values by kind with the first pairs."""
    keys = future_keys(dataset)
    ahead = dataset.frame.select(ID, TIME).join(keys, on=[ID, TIME], how="semi")
    counts = ahead.group_by(ID).agg(pl.len().cast(pl.Int64).alias("future_rows"))
    out = keys.select(ID).unique().join(counts, on=ID, how="left").with_columns(pl.col("future_rows").fill_null(0))
    gone = missing_plan(dataset)
    # A row that is absent altogether has its own rule.
    present = gone.join(ahead, on=[ID, TIME], how="semi")
    for kind in ("feature", "lag", "carried"):
        pairs = present.filter(pl.col("kind") == kind)
        counted = pairs.group_by(ID, maintain_order=True).agg(
            pl.len().cast(pl.Int64).alias(f"{kind}_missing"),
            pl.format("{} at {}", pl.col("column"), pl.col(TIME).dt.strftime("%Y-%m-%d %H:%M"))
            .head(_PAIRS_SHOWN)
            .str.join(", ")
            .alias(f"{kind}_pairs"),
        )
        out = out.join(counted, on=ID, how="left").with_columns(pl.col(f"{kind}_missing").fill_null(0))
    return out.sort(ID)


def forecast_rows(
    forecast: pl.DataFrame,
    *,
    promised: Sequence[str],
    history: pl.DataFrame,
    recent: int,
    stamps: Sequence[datetime] | None,
) -> pl.DataFrame:
    """One row per forecast row of a promised series.

    Parameters
    ----------
    history
        `unique_id, ds, y`.
    recent
        Known values, counted from the last one, that the median is compared with.
    stamps
        Times a forecast may have; None: not judged.

    Returns
    -------
    DataFrame
        `unique_id, ds, q50`, `copies`, `finite`, `crossing` (largest amount by which a lower level lies above the
        next one), `lowest` (smallest quantile), `growth` (size of the median over the largest recent value; over the
        largest of all history where the recent ones are zero), `largest`, `on_time`, `labelled`.
    """
    values = (
        history.filter(pl.col(TARGET).is_not_null() & pl.col(TARGET).is_finite())
        .sort(ID, TIME)
        .group_by(ID)
        .agg(
            pl.col(TARGET).abs().tail(recent).max().alias("_recent"),
            pl.col(TARGET).abs().max().alias("_ever"),
        )
        .select(ID, pl.when(pl.col("_recent") > 0).then("_recent").otherwise("_ever").alias("largest"))
        .with_columns(pl.when(pl.col("largest") > 0).then("largest").alias("largest"))
    )
    quantiles = [pl.col(name) for name in QUANTILES]
    finite = pl.all_horizontal(each.is_finite().fill_null(False) for each in quantiles)
    crossing = pl.max_horizontal(low - high for low, high in pairwise(quantiles))
    on_time = pl.lit(True) if stamps is None else pl.col(TIME).is_in(list(stamps))
    return (
        forecast.filter(pl.col(ID).is_in(list(promised)))
        .with_columns(pl.col(name).cast(pl.Float64) for name in QUANTILES)
        .join(values, on=ID, how="left")
        .with_columns(finite.alias("finite"))
        .select(
            ID,
            TIME,
            MEDIAN,
            "finite",
            "largest",
            pl.len().over(ID, TIME).cast(pl.Int64).alias("copies"),
            pl.when("finite").then(crossing).alias("crossing"),
            pl.when("finite").then(pl.min_horizontal(quantiles)).alias("lowest"),
            pl.when("finite").then(pl.col(MEDIAN).abs() / pl.col("largest")).alias("growth"),
            on_time.fill_null(False).alias("on_time"),
            (pl.col(MODEL_USED).fill_null("").str.strip_chars() != "").alias("labelled"),
        )
        .sort(ID, TIME, MEDIAN, nulls_last=True)
    )


def forecast_profile(forecast: pl.DataFrame, *, promised: Sequence[str]) -> pl.DataFrame:
    """One row per promised series: `there`, and the number of distinct `steps` forecast (null if not there)."""
    counts = forecast.group_by(ID).agg(pl.col(TIME).drop_nulls().n_unique().cast(pl.Int64).alias("steps"))
    return (
        pl.DataFrame({ID: sorted(set(promised))}, schema={ID: pl.String})
        .join(counts, on=ID, how="left")
        .with_columns(pl.col("steps").is_not_null().alias("there"))
        .sort(ID)
    )


def forecast_facts(forecast: pl.DataFrame, *, promised: Sequence[str]) -> pl.DataFrame:
    """One row: share of promised series with a fallback in any row, and the series nobody was promised."""
    wanted = set(promised)
    reason = pl.col(FALLBACK_REASON).cast(pl.String).fill_null("").str.strip_chars()
    fallen = set(forecast.filter(reason != "").get_column(ID).to_list()) & wanted
    extra = sorted(set(forecast.get_column(ID).drop_nulls().to_list()) - wanted)
    return pl.DataFrame(
        {
            "fallbacks": [len(fallen)],
            "promised": [len(wanted)],
            "fallback_share": [len(fallen) / max(len(wanted), 1)],
            "unpromised": [len(extra)],
            "unpromised_first": [extra[0] if extra else None],
        },
        schema_overrides={"unpromised_first": pl.String},
    )
