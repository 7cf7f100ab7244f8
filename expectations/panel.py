"""The three gates of a panel: raw rows, features, forecasts.

To add a rule, add one line to a suite: the diagnostic column, its limit, and `because(reason, severity, detail)`; list
the reason in docs/gates.md. A new diagnostic column goes to `expectations/diagnostics.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import polars as pl
from pydantic import BaseModel, ConfigDict, Field

from expectations import diagnostics
from expectations.gate import ask, because, check_budget, join, load_gx, suite
from nightcast.contracts.columns import FALLBACK_REASON, ID, MODEL_USED, QUANTILES, TARGET, TIME
from nightcast.contracts.errors import ConfigError
from nightcast.contracts.panel import PanelDataset
from nightcast.contracts.source import RawData
from nightcast.contracts.verdict import Verdict

if TYPE_CHECKING:
    import great_expectations as gx


class RawThresholds(BaseModel):
    """Limits of the raw gate; the defaults were measured on real wells and fields, see docs/gates.md.

    Attributes
    ----------
    spike_ratio
        Multiple of its largest neighbour above which a value is a scale jump.
    spike_neighbours
        Known values on each side of a value that it is compared with.
    spike_recent
        Scale jumps older than this many steps are masked instead of sending their series to quarantine; None: any
        age quarantines.
    mask_share, mask_rows
        Values of a series that may be below the lower bound (or infinite) and are then masked: up to this share, and
        up to this number whatever their share. With more the series goes to quarantine.
    stuck_steps
        Equal non-zero values in a row that are worth a warning.
    stale_steps
        Steps without a usable value, up to the as-of date, that are normal.
    retire_after
        Steps without a usable value after which a series counts as retired, and is not called stale.
    covariate_null_share
        Share of missing values in a covariate that is worth a warning above.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    spike_ratio: float = Field(default=10.0, gt=1)
    spike_neighbours: int = Field(default=6, ge=2)
    spike_recent: int | None = Field(default=None, ge=0)
    mask_share: float = Field(default=0.05, ge=0, lt=1)
    mask_rows: int = Field(default=3, ge=0)
    stuck_steps: int = Field(default=12, ge=2)
    stale_steps: int = Field(default=3, ge=0)
    retire_after: int = Field(default=12, ge=1)
    covariate_null_share: float = Field(default=0.6, ge=0, le=1)


# --- raw -------------------------------------------------------------------------------------------------------------


def raw_gate(raw: RawData, *, budget: float = 0.2, thresholds: RawThresholds | None = None) -> Verdict:
    """Judge rows as the source has them.

    Series with the role `target` are judged on everything, support series on their times and duplicates.

    Parameters
    ----------
    budget
        Largest share of series that may be in quarantine.
    thresholds
        Limits; None: the defaults.

    Raises
    ------
    ConfigError
        If the budget is not a share.
    """
    limits = thresholds or RawThresholds()
    first = ask(
        "raw",
        {
            "columns": diagnostics.required_columns(raw.frame, raw_columns(raw)),
            "table": diagnostics.table_facts(raw.frame),
        },
        {"columns": columns_suite("the input"), "table": raw_table_suite()},
        series=raw.frame.get_column(ID).drop_nulls().n_unique() if ID in raw.frame.columns else 0,
        budget=budget,
    )
    if first.broken or any(finding.severity == "stop" for finding in first.findings):
        return first
    assets = raw_assets(raw, limits)
    return join(first, ask("raw", assets, raw_suites(limits), series=first.series, budget=budget))


def raw_columns(raw: RawData) -> Iterator[tuple[str, str]]:
    """Columns the input must have, and their kinds."""
    yield from ((ID, "text"), (TIME, "time"), (TARGET, "number"))
    for name, role in raw.panel.covariates.items():
        yield name, "value" if role == "static" else "number"


def raw_assets(raw: RawData, thresholds: RawThresholds) -> dict[str, pl.DataFrame]:
    """The frames the raw gate's suites are asked about."""
    rows = diagnostics.raw_rows(raw, neighbours=thresholds.spike_neighbours, spike_recent=thresholds.spike_recent)
    profile = diagnostics.raw_profile(
        rows,
        raw,
        mask_share=thresholds.mask_share,
        mask_rows=thresholds.mask_rows,
        retire_after=thresholds.retire_after,
    ).with_columns(pl.lit(raw.as_of).alias("as_of"), pl.lit(raw.schema.freq.word).alias("declared_step"))
    rows = rows.with_columns(pl.lit(raw.as_of).alias("as_of"), pl.lit(raw.schema.freq.word).alias("declared_step"))
    return {
        "rows": rows,
        "series": profile,
        "covariates": diagnostics.covariate_facts(raw),
        "panel": diagnostics.panel_facts(profile),
    }


def raw_suites(thresholds: RawThresholds) -> dict[str, gx.ExpectationSuite]:
    """The raw gate's suites, by asset."""
    return {
        "rows": raw_rows_suite(thresholds),
        "series": raw_series_suite(thresholds),
        "covariates": covariates_suite(thresholds),
        "panel": panel_suite(),
    }


def columns_suite(what: str) -> gx.ExpectationSuite:
    """Required columns are there and of the right type (one row per column)."""
    expect = load_gx().expectations
    return suite(
        "columns",
        (
            expect.ExpectColumnValuesToBeInSet(
                column="present",
                value_set=[True],
                **because("missing_column", "stop", f"{what} has no column '{{column}}'", rows="0"),
            ),
            expect.ExpectColumnValuesToBeInSet(
                column="target_present",
                value_set=[True],
                **because("no_target_column", "stop", f"{what} has no target column '{{column}}'", rows="0"),
            ),
            expect.ExpectColumnValuesToBeInSet(
                column="typed",
                value_set=[True],
                **because(
                    "wrong_type", "stop", f"column '{{column}}' of {what} holds {{dtype}}, not {{kind}}", rows="0"
                ),
            ),
        ),
    )


def raw_table_suite() -> gx.ExpectationSuite:
    """The input as a whole, before its rows are looked at (one row)."""
    expect = load_gx().expectations
    return suite(
        "raw table",
        (
            expect.ExpectColumnValuesToBeBetween(
                column="height", min_value=1, **because("empty_table", "stop", "the input has no rows", rows="0")
            ),
            expect.ExpectColumnValuesToBeBetween(
                column="unnamed",
                max_value=0,
                **because("missing_id", "mask", "{unnamed} rows name no series and are left out", rows="unnamed"),
            ),
        ),
    )


def raw_rows_suite(thresholds: RawThresholds) -> gx.ExpectationSuite:
    """What each row must satisfy (one row per input row)."""
    expect = load_gx().expectations
    ratio = thresholds.spike_ratio
    jump = "{y} at {ds} is {{size}} times the neighbouring level of {reference}"
    return suite(
        "raw rows",
        (
            expect.ExpectColumnValuesToBeInSet(
                column="bad_time",
                value_set=[False],
                **because("bad_time", "quarantine", "{rows} rows have no readable time, the first with value {y}"),
            ),
            expect.ExpectColumnValuesToBeInSet(
                column="unparsable",
                value_set=[False],
                **because("text_in_number", "quarantine", "{rows} rows hold text for a number, the first at {ds}"),
            ),
            expect.ExpectColumnValuesToBeInSet(
                column="support_unparsable",
                value_set=[False],
                **because("text_in_number", "warn", "{rows} rows hold text for a number, the first at {ds}"),
            ),
            expect.ExpectColumnValuesToBeBetween(
                column="steps_ahead",
                max_value=0,
                **because(
                    "future_date",
                    "quarantine",
                    "{rows} rows are dated after {as_of}, the first at {ds} ({steps_ahead} steps ahead) with value {y}",
                ),
            ),
            expect.ExpectColumnValuesToBeBetween(
                column="copies",
                max_value=1,
                **because(
                    "duplicate_rows",
                    "quarantine",
                    "{rows} rows share their time with another row, the first at {ds} ({copies} rows, value {y})",
                ),
            ),
            expect.ExpectColumnValuesToBeInSet(
                column="off_grid",
                value_set=[False],
                **because(
                    "wrong_frequency",
                    "quarantine",
                    "{rows} rows are not stamped at the start of a period of {declared_step}, the first at {ds} "
                    "with value {y}; {period} is the start",
                ),
            ),
            expect.ExpectColumnValuesToBeBetween(
                column="spike",
                max_value=ratio,
                **because("scale_jump", "quarantine", jump.replace("{{size}}", "{spike}")),
            ),
            expect.ExpectColumnValuesToBeBetween(
                column="old_spike",
                max_value=ratio,
                **because("scale_jump", "mask", jump.replace("{{size}}", "{old_spike}") + "; long ago"),
            ),
        ),
    )


def raw_series_suite(thresholds: RawThresholds) -> gx.ExpectationSuite:
    """What each series must satisfy (one row per series)."""
    expect = load_gx().expectations
    below = "{below_rows} values are below the lower bound, the lowest {lowest} at {lowest_at}"
    infinite = "{infinite_rows} values are not finite, the first at {infinite_at}"
    return suite(
        "raw series",
        (
            expect.ExpectColumnValuesToBeBetween(
                column="known",
                min_value=1,
                **because("all_null", "quarantine", "no row holds a usable value", rows="0"),
            ),
            expect.ExpectColumnValuesToBeBetween(
                column="typical_step",
                min_value=1,
                max_value=1,
                **because(
                    "wrong_frequency",
                    "quarantine",
                    "rows are typically {typical_step} steps of {declared_step} apart, from {first_at} to {last_at}",
                    rows="0",
                ),
            ),
            expect.ExpectColumnValuesToBeBetween(
                column="below_few",
                max_value=0,
                **because("negative_value", "mask", below, rows="below_rows"),
            ),
            expect.ExpectColumnValuesToBeBetween(
                column="below_many",
                max_value=0,
                **because("negative_value", "quarantine", below + ": too many to mask", rows="below_rows"),
            ),
            expect.ExpectColumnValuesToBeBetween(
                column="infinite_few",
                max_value=0,
                **because("non_finite", "mask", infinite, rows="infinite_rows"),
            ),
            expect.ExpectColumnValuesToBeBetween(
                column="infinite_many",
                max_value=0,
                **because("non_finite", "quarantine", infinite + ": too many to mask", rows="infinite_rows"),
            ),
            expect.ExpectColumnValuesToBeBetween(
                column="stuck_rows",
                max_value=thresholds.stuck_steps - 1,
                **because(
                    "constant_stuck",
                    "warn",
                    "{stuck_rows} values in a row equal {stuck_value}, from {stuck_from} on",
                    rows="stuck_rows",
                ),
            ),
            expect.ExpectColumnValuesToBeBetween(
                column="missing_steps",
                max_value=0,
                **because(
                    "gap",
                    "warn",
                    "{missing_steps} steps between {first_at} and {last_at} have no row, the first after {missing_at}",
                    rows="missing_steps",
                ),
            ),
            expect.ExpectColumnValuesToBeBetween(
                column="silent_steps",
                max_value=thresholds.stale_steps,
                **because(
                    "stale",
                    "warn",
                    "the last usable value is of {last_known_at}, {silent_steps} steps before {as_of}",
                    rows="0",
                ),
            ),
        ),
    )


def covariates_suite(thresholds: RawThresholds) -> gx.ExpectationSuite:
    """What each covariate must satisfy over all series (one row per covariate)."""
    expect = load_gx().expectations
    return suite(
        "covariates",
        (
            expect.ExpectColumnValuesToBeBetween(
                column="null_share",
                max_value=thresholds.covariate_null_share,
                **because(
                    "covariate_missing",
                    "warn",
                    "covariate '{covariate}' is missing in {nulls} of {of} rows",
                    rows="nulls",
                ),
            ),
        ),
    )


def panel_suite() -> gx.ExpectationSuite:
    """What the panel as a whole must satisfy (one row)."""
    expect = load_gx().expectations
    return suite(
        "panel",
        (
            expect.ExpectColumnValuesToBeBetween(
                column="targets_with_values",
                min_value=1,
                **because("all_series_null", "stop", "none of {targets} target series holds a usable value", rows="0"),
            ),
        ),
    )


def accepted_rows(raw: RawData, verdict: Verdict, *, thresholds: RawThresholds | None = None) -> pl.DataFrame:
    """The input's rows as the raw gate accepts them.

    Rows of series in quarantine and rows without a series are left out. The target is set to null in masked rows:
    below the lower bound, infinite or NaN, and scale jumps older than `spike_recent`.

    Parameters
    ----------
    verdict
        The answer of `raw_gate` for the same input and thresholds, with nothing that stops the run.

    Returns
    -------
    DataFrame
        The columns of `raw.frame`, sorted by series and time.
    """
    verdict.raise_if_stopped()
    limits = thresholds or RawThresholds()
    kept = raw.frame.filter(
        pl.col(ID).is_not_null() & ~pl.col(ID).is_in(list(verdict.quarantined)),
    ).sort(ID, TIME)
    bad = ~pl.col(TARGET).cast(pl.Float64).is_finite()
    if raw.schema.lower is not None:
        bad = bad | (pl.col(TARGET) < raw.schema.lower)
    kept = kept.with_columns(pl.when(~bad).then(TARGET).alias(TARGET))
    if limits.spike_recent is None:
        return kept
    rows = diagnostics.raw_rows(raw, neighbours=limits.spike_neighbours, spike_recent=limits.spike_recent)
    jumps = rows.filter(pl.col("old_spike") > limits.spike_ratio).select(ID, TIME, pl.lit(True).alias("_jump"))
    return (
        kept.join(jumps, on=[ID, TIME], how="left", maintain_order="left")
        .with_columns(pl.when(pl.col("_jump").is_null()).then(TARGET).alias(TARGET))
        .drop("_jump")
    )


# --- features --------------------------------------------------------------------------------------------------------


def feature_gate(dataset: PanelDataset, *, budget: float = 0.2) -> Verdict:
    """Judge the dataset that models learn from: a regular grid, finite numbers, known-ahead columns that are known.

    The pairs behind `plan_missing` and `plan_carried_on` in full: `diagnostics.missing_plan(dataset)`.

    Parameters
    ----------
    budget
        Largest share of series that may be in quarantine.

    Raises
    ------
    ConfigError
        If the budget is not a share.
    """
    wanted = [(ID, "text"), (TIME, "time"), (TARGET, "number")]
    wanted += [(name, "value" if column.role == "static" else "number") for name, column in dataset.columns.items()]
    first = ask(
        "features",
        {
            "columns": diagnostics.required_columns(dataset.frame, wanted),
            "table": diagnostics.table_facts(dataset.frame),
        },
        {"columns": columns_suite("the dataset"), "table": dataset_table_suite()},
        series=dataset.frame.get_column(ID).n_unique() if ID in dataset.frame.columns else 0,
        budget=budget,
    )
    if first.broken or any(finding.severity == "stop" for finding in first.findings):
        return first
    assets = {
        "rows": diagnostics.dataset_rows(dataset),
        "inputs": diagnostics.dataset_columns(dataset),
        "series": diagnostics.dataset_profile(dataset).with_columns(pl.lit(dataset.schema.horizon).alias("horizon")),
    }
    suites = {
        "rows": dataset_rows_suite(),
        "inputs": inputs_suite(),
        "series": dataset_series_suite(dataset.schema.horizon),
    }
    return join(first, ask("features", assets, suites, series=first.series, budget=budget))


def dataset_table_suite() -> gx.ExpectationSuite:
    """The dataset as a whole (one row)."""
    expect = load_gx().expectations
    return suite(
        "dataset table",
        (
            expect.ExpectColumnValuesToBeBetween(
                column="height", min_value=1, **because("empty_table", "stop", "the dataset has no rows", rows="0")
            ),
            expect.ExpectColumnValuesToBeBetween(
                column="unnamed",
                max_value=0,
                **because("missing_id", "stop", "{unnamed} rows of the dataset name no series", rows="unnamed"),
            ),
        ),
    )


def dataset_rows_suite() -> gx.ExpectationSuite:
    """What each dataset row must satisfy (one row per row)."""
    expect = load_gx().expectations
    return suite(
        "dataset rows",
        (
            expect.ExpectColumnValuesToBeBetween(
                column="step",
                min_value=1,
                **because("duplicate_rows", "quarantine", "{rows} rows repeat the time of the row before, first {ds}"),
            ),
            expect.ExpectColumnValuesToBeBetween(
                column="step",
                max_value=1,
                **because("missing_steps", "quarantine", "{rows} holes in the grid, the first from {before} to {ds}"),
            ),
            expect.ExpectColumnValuesToBeInSet(
                column="finite",
                value_set=[True],
                **because(
                    "infinite_value", "quarantine", "{rows} rows hold an infinite value, first '{infinite_in}' at {ds}"
                ),
            ),
            expect.ExpectColumnValuesToBeInSet(
                column="not_nan",
                value_set=[True],
                **because("nan_value", "warn", "{rows} rows hold NaN instead of a null, first '{nan_in}' at {ds}"),
            ),
        ),
    )


def inputs_suite() -> gx.ExpectationSuite:
    """What each input column must satisfy (one row per column)."""
    expect = load_gx().expectations
    return suite(
        "inputs",
        (
            expect.ExpectColumnValuesToBeBetween(
                column="known",
                min_value=1,
                **because("empty_feature", "warn", "input '{column}' ({role}, {block}) holds no value", rows="0"),
            ),
        ),
    )


def dataset_series_suite(horizon: int) -> gx.ExpectationSuite:
    """What each series that is forecast must satisfy (one row per active series)."""
    expect = load_gx().expectations
    return suite(
        "dataset series",
        (
            expect.ExpectColumnValuesToBeBetween(
                column="future_rows",
                min_value=horizon,
                max_value=horizon,
                **because(
                    "future_rows", "quarantine", "{future_rows} rows after the as-of date, not {horizon}", rows="0"
                ),
            ),
            expect.ExpectColumnValuesToBeBetween(
                column="feature_missing",
                max_value=0,
                **because(
                    "plan_missing",
                    "quarantine",
                    "{feature_missing} known-ahead values are missing: {feature_pairs}",
                    rows="feature_missing",
                ),
            ),
            expect.ExpectColumnValuesToBeBetween(
                column="lag_missing",
                max_value=0,
                **because(
                    "lag_missing",
                    "warn",
                    "{lag_missing} known-ahead values in the target's unit are missing: {lag_pairs}",
                    rows="lag_missing",
                ),
            ),
            expect.ExpectColumnValuesToBeBetween(
                column="carried_missing",
                max_value=0,
                **because(
                    "plan_carried_on",
                    "warn",
                    "the plan lacks {carried_missing} values, the last known one is carried on: {carried_pairs}",
                    rows="carried_missing",
                ),
            ),
        ),
    )


# --- forecasts -------------------------------------------------------------------------------------------------------


def forecast_gate(
    forecast: pl.DataFrame,
    dataset: PanelDataset | None,
    *,
    promised: Sequence[str],
    horizon: int,
    lower: float | None,
    history: pl.DataFrame,
    budget: float = 0.2,
    explode_ratio: float = 10.0,
    recent: int = 24,
    fallback_share: float = 0.5,
) -> Verdict:
    """Judge what is about to be published.

    Parameters
    ----------
    forecast
        `unique_id, ds, q10 .. q90, model_used, fallback_reason`.
    dataset
        What it was made from, for the times a forecast must have; None: times are not judged, only counted.
    promised
        Series that are owed a forecast.
    horizon
        Rows each of them is owed.
    lower
        Lower bound of the target, or None.
    history
        Known values, `unique_id, ds, y`.
    budget
        Largest share of promised series that may be in quarantine.
    explode_ratio
        Largest multiple of the series' recent maximum that the median may reach.
    recent
        Known values, counted from the last one, that the maximum is taken over.
    fallback_share
        Share of promised series with a fallback that is worth a warning above.

    Raises
    ------
    ConfigError
        If the budget is not a share, or the horizon is not positive.
    """
    check_budget(budget)
    if horizon < 1:
        raise ConfigError(
            f"the horizon is {horizon}", expected="at least one step", remedy="set `horizon` in the workload file"
        )
    wanted = [(ID, "text"), (TIME, "time"), *((name, "number") for name in QUANTILES)]
    wanted += [(MODEL_USED, "value"), (FALLBACK_REASON, "value")]
    series = len(set(promised))
    first = ask(
        "forecast",
        {"columns": diagnostics.required_columns(forecast, wanted)},
        {"columns": columns_suite("the forecast")},
        series=series,
        budget=budget,
    )
    if first.broken or first.findings:
        return first
    stamps = None
    if dataset is not None:
        stamps = [dataset.schema.freq.shift(dataset.as_of, step) for step in range(1, horizon + 1)]
    owed = pl.lit(horizon).alias("owed")
    assets = {
        "rows": diagnostics.forecast_rows(forecast, promised=promised, history=history, recent=recent, stamps=stamps),
        "series": diagnostics.forecast_profile(forecast, promised=promised).with_columns(owed),
        "table": diagnostics.forecast_facts(forecast, promised=promised),
    }
    suites = {
        "rows": forecast_rows_suite(lower=lower, explode_ratio=explode_ratio),
        "series": forecast_series_suite(horizon),
        "table": forecast_table_suite(fallback_share),
    }
    return join(first, ask("forecast", assets, suites, series=series, budget=budget))


def forecast_rows_suite(*, lower: float | None, explode_ratio: float) -> gx.ExpectationSuite:
    """What each forecast row must satisfy (one row per row of a promised series)."""
    expect = load_gx().expectations
    bound: tuple[Any, ...] = ()
    if lower is not None:
        bound = (
            expect.ExpectColumnValuesToBeBetween(
                column="lowest",
                min_value=lower,
                **because(
                    "below_lower_bound",
                    "quarantine",
                    f"{{rows}} rows reach below {lower:g}, the first {{lowest}} at {{ds}}",
                ),
            ),
        )
    return suite(
        "forecast rows",
        (
            expect.ExpectColumnValuesToBeInSet(
                column="finite",
                value_set=[True],
                **because(
                    "non_finite", "quarantine", "{rows} rows are not finite in every quantile, the first at {ds}"
                ),
            ),
            expect.ExpectColumnValuesToBeBetween(
                column="copies",
                max_value=1,
                **because("duplicate_rows", "quarantine", "{rows} rows share their time with another, first {ds}"),
            ),
            expect.ExpectColumnValuesToBeBetween(
                column="crossing",
                max_value=0,
                **because(
                    "crossing_quantiles",
                    "quarantine",
                    "quantiles cross in {rows} rows, the first at {ds} by {crossing} (median {q50})",
                ),
            ),
            *bound,
            expect.ExpectColumnValuesToBeBetween(
                column="growth",
                max_value=explode_ratio,
                **because(
                    "exploded",
                    "quarantine",
                    "the median {q50} at {ds} is {growth} times the largest recent value {largest}",
                ),
            ),
            expect.ExpectColumnValuesToBeInSet(
                column="on_time",
                value_set=[True],
                **because("wrong_time", "quarantine", "{rows} rows lie outside the horizon, the first at {ds}"),
            ),
            expect.ExpectColumnValuesToBeInSet(
                column="labelled",
                value_set=[True],
                **because("no_model_named", "quarantine", "{rows} rows do not name their model, the first at {ds}"),
            ),
        ),
    )


def forecast_series_suite(horizon: int) -> gx.ExpectationSuite:
    """What each promised series must satisfy (one row per series)."""
    expect = load_gx().expectations
    return suite(
        "forecast series",
        (
            expect.ExpectColumnValuesToBeInSet(
                column="there",
                value_set=[True],
                **because("missing_series", "quarantine", "promised, and has no forecast", rows="0"),
            ),
            expect.ExpectColumnValuesToBeBetween(
                column="steps",
                min_value=horizon,
                **because("missing_rows", "quarantine", "{steps} of {owed} steps are forecast", rows="0"),
            ),
            expect.ExpectColumnValuesToBeBetween(
                column="steps",
                max_value=horizon,
                **because("extra_rows", "quarantine", "{steps} steps are forecast, {owed} are promised", rows="0"),
            ),
        ),
    )


def forecast_table_suite(fallback_share: float) -> gx.ExpectationSuite:
    """What the forecast as a whole must satisfy (one row)."""
    expect = load_gx().expectations
    return suite(
        "forecast table",
        (
            expect.ExpectColumnValuesToBeBetween(
                column="fallback_share",
                max_value=fallback_share,
                **because(
                    "many_fallbacks",
                    "warn",
                    "{fallbacks} of {promised} promised series get a fallback",
                    rows="fallbacks",
                ),
            ),
            expect.ExpectColumnValuesToBeBetween(
                column="unpromised",
                max_value=0,
                **because(
                    "unpromised_series",
                    "warn",
                    "{unpromised} series are forecast that were not promised, the first '{unpromised_first}'",
                    rows="0",
                ),
            ),
        ),
    )
