"""The three gates of bars: raw rows, features and labels, class probabilities.

To add a rule, add one line to a suite: the diagnostic column, its limit, and `because(reason, severity, detail)`; list
the reason in docs/gates.md. A new diagnostic column goes to `expectations/bar_diagnostics.py`. A new reason to leave a
row out is one more line in `bar_diagnostics.MARKS` and one in `_MARK_WORDS`.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

import polars as pl
from pydantic import BaseModel, ConfigDict, Field

from expectations import bar_diagnostics, diagnostics
from expectations.gate import ask, because, check_budget, join, load_gx, suite
from expectations.panel import columns_suite, dataset_table_suite, forecast_table_suite, raw_table_suite
from nightcast.contracts.bars import BarDataset, label_columns
from nightcast.contracts.columns import (
    BAR_COLUMNS,
    CLASS_PROBS,
    CUTOFF,
    FALLBACK_REASON,
    HORIZON,
    ID,
    MODEL_USED,
    SEGMENT,
    SESSION,
    SIGNAL,
    TIME,
)
from nightcast.contracts.errors import ConfigError
from nightcast.contracts.prediction import SUM_TOLERANCE
from nightcast.contracts.source import Note, RawData
from nightcast.contracts.verdict import Verdict
from nightcast.evaluation.guards import COLLAPSE_KL

if TYPE_CHECKING:
    import great_expectations as gx

_MARK_WORDS: Final[dict[str, str]] = {
    "bad_time": "have no readable time",
    "future_date": "are dated after {as_of}",
    "text_in_number": "hold text for a number",
    "missing_price": "lack a price",
    "non_positive_price": "hold a price of zero or less",
    "ohlc_order": "have a high below, or a low above, another price of the bar",
    "missing_volume": "lack a volume",
    "negative_volume": "hold a negative volume",
    "duplicate_bar": "repeat another row exactly",
    "conflicting_bars": "share their time with a different bar",
    "bad_tick": "jump away from both neighbours, which agree with each other",
    "stale_run": "repeat the prices of the bar before, many times over",
}
COLLAPSE_SPREAD: Final = 1e-4
"""Probabilities of all symbols within this are one answer to many questions."""
COLLAPSE_SYMBOLS: Final = 3
ONE_SIDED_SYMBOLS: Final = 10
"""Fewest symbols of which a common answer is worth a warning."""
CLASS_SYMBOLS: Final = 20
"""Fewest symbols whose classes have shares worth comparing with the labels'."""


class BarThresholds(BaseModel):
    """Limits of the raw gate of bars; docs/gates.md tells what they were measured on.

    Attributes
    ----------
    tick_sigmas
        A close is a bad tick if it lies more than this many local standard deviations from both neighbours, on the
        same side of them,
    tick_return
        if these agree with each other to this share of the jump,
    tick_volume
        and its volume is no more than this many times the local median: what so many trade is no slip.
    tick_window
        Bars on each side that the local values are taken from.
    stale_bars
        Bars in a row with equal prices, and some volume, that count as a feed that hangs.
    flat_bars
        The same, where there is no volume.
    mask_share
        Share of a symbol's bars that may be left out; with more it goes to quarantine.
    gap_share, gap_limit
        Share of missing bars, beyond the calendar's closes, above which a symbol is warned of, and goes to quarantine.
    off_hours_share
        Share of bars at times of the week at which a symbol mostly has none that is worth a warning above.
    zero_share
        Share of bars without volume that is worth a warning above.
    jump
        Absolute log return of one bar that stays and is worth a warning above: a split, a change of units.
    min_bars
        Usable bars below which a symbol goes to quarantine.
    behind_bars
        Bars that the market may have after a symbol's last; with more it goes to quarantine,
    retire_after
        up to this many: then it is retired, is owed nothing, and its history still counts.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    tick_sigmas: float = Field(default=12.0, gt=3)
    tick_return: float = Field(default=0.4, gt=0, lt=1)
    tick_volume: float = Field(default=10.0, gt=1)
    tick_window: int = Field(default=50, ge=10)
    stale_bars: int = Field(default=6, ge=3)
    flat_bars: int = Field(default=48, ge=3)
    mask_share: float = Field(default=0.05, ge=0, lt=1)
    gap_share: float = Field(default=0.02, ge=0, le=1)
    gap_limit: float = Field(default=0.3, ge=0, le=1)
    off_hours_share: float = Field(default=0.002, ge=0, le=1)
    zero_share: float = Field(default=0.1, ge=0, le=1)
    jump: float = Field(default=0.4, gt=0)
    min_bars: int = Field(default=250, ge=1)
    behind_bars: int = Field(default=3, ge=0)
    retire_after: int = Field(default=12, ge=1)


# --- raw -------------------------------------------------------------------------------------------------------------


def raw_bars_gate(raw: RawData, *, budget: float = 0.2, thresholds: BarThresholds | None = None) -> Verdict:
    """Judge bars as the source has them.

    Rows that are no usable bar are masked, which makes a gap; symbols that are too short, too late or too dirty go to
    quarantine.

    Parameters
    ----------
    budget
        Largest share of symbols that may be in quarantine.
    thresholds
        Limits; None: the defaults.

    Raises
    ------
    ConfigError
        If the budget is not a share, or the rows are not bars.
    """
    limits = thresholds or BarThresholds()
    freq = raw.bars.freq
    wanted = [(ID, "text"), (TIME, "time"), *((name, "number") for name in BAR_COLUMNS)]
    first = ask(
        "raw",
        {
            "columns": diagnostics.required_columns(raw.frame, wanted),
            "table": diagnostics.table_facts(raw.frame),
        },
        {"columns": columns_suite(f"the input of bars of {freq.word}"), "table": raw_table_suite()},
        series=raw.frame.get_column(ID).drop_nulls().n_unique() if ID in raw.frame.columns else 0,
        budget=budget,
    )
    if first.broken or any(finding.severity == "stop" for finding in first.findings):
        return first
    assets = raw_bar_assets(raw, limits)
    return join(first, ask("raw", assets, raw_bar_suites(limits), series=first.series, budget=budget))


def raw_bar_assets(raw: RawData, thresholds: BarThresholds) -> dict[str, pl.DataFrame]:
    """The frames the raw gate's suites are asked about."""
    marks = bar_diagnostics.bar_marks(raw, thresholds)
    profile = bar_diagnostics.bar_profile(marks, raw, thresholds).with_columns(
        pl.lit(raw.as_of).alias("as_of"), pl.lit(raw.bars.freq.word).alias("declared_step")
    )
    return {"series": profile, "market": bar_diagnostics.market_facts(profile)}


def raw_bar_suites(thresholds: BarThresholds) -> dict[str, gx.ExpectationSuite]:
    """The raw gate's suites, by asset."""
    return {"series": bar_series_suite(thresholds), "market": market_suite()}


def bar_series_suite(thresholds: BarThresholds) -> gx.ExpectationSuite:
    """What each symbol must satisfy (one row per symbol)."""
    expect = load_gx().expectations
    masks = tuple(
        expect.ExpectColumnValuesToBeBetween(
            column=mark,
            max_value=0,
            **because(mark, "mask", f"{{rows}} rows {words}" + _first_at(mark), rows=mark),
        )
        for mark, words in _MARK_WORDS.items()
    )
    gap = (
        "{missing_bars} bars between {first_at} and {last_at} are missing ({missing_share}), the first at {missing_at}"
    )
    return suite(
        "raw series",
        (
            *masks,
            expect.ExpectColumnValuesToBeBetween(
                column="masked_share",
                max_value=thresholds.mask_share,
                **because(
                    "many_masked",
                    "quarantine",
                    "a share of {masked_share} of {of_rows} rows is no usable bar",
                    rows="0",
                ),
            ),
            expect.ExpectColumnValuesToBeBetween(
                column="bars",
                min_value=thresholds.min_bars,
                **because(
                    "too_short", "quarantine", f"{{bars}} usable bars, fewer than {thresholds.min_bars}", rows="0"
                ),
            ),
            expect.ExpectColumnValuesToBeBetween(
                column="typical_step",
                min_value=1,
                max_value=1,
                **because(
                    "wrong_frequency",
                    "quarantine",
                    "bars are typically {typical_step} steps of {declared_step} apart, from {first_at} to {last_at}",
                    rows="0",
                ),
            ),
            expect.ExpectColumnValuesToBeBetween(
                column="off_grid",
                max_value=0,
                **because(
                    "off_grid",
                    "warn",
                    "{off_grid} bars start off the grid of {declared_step} that the others keep, the first at "
                    "{off_grid_at}: a change of the clock, or ticks that were not resampled",
                    rows="off_grid",
                ),
            ),
            expect.ExpectColumnValuesToBeBetween(
                column="off_hours_share",
                max_value=thresholds.off_hours_share,
                **because(
                    "off_hours",
                    "warn",
                    "{off_hours} bars lie at times of the week that mostly have none, the first at {off_hours_at}: "
                    "is an hour of summer time in some of the stamps?",
                    rows="off_hours",
                ),
            ),
            expect.ExpectColumnValuesToBeBetween(
                column="missing_share",
                max_value=thresholds.gap_limit,
                **because("too_many_gaps", "quarantine", gap, rows="missing_bars"),
            ),
            expect.ExpectColumnValuesToBeBetween(
                column="missing_share",
                max_value=thresholds.gap_share,
                **because("gap", "warn", gap, rows="missing_bars"),
            ),
            expect.ExpectColumnValuesToBeBetween(
                column="zero_share",
                max_value=thresholds.zero_share,
                **because(
                    "zero_volume",
                    "warn",
                    "{zero_volume} bars have no volume, a share of {zero_share}",
                    rows="zero_volume",
                ),
            ),
            expect.ExpectColumnValuesToBeBetween(
                column="jumps",
                max_value=0,
                **because(
                    "level_jump",
                    "warn",
                    "{jumps} moves of the price that stay, the first at {jump_at} to {jump} times the price before: "
                    "a split, a roll or a change of units?",
                    rows="jumps",
                ),
            ),
            expect.ExpectColumnValuesToBeBetween(
                column="last_jump",
                max_value=thresholds.tick_sigmas,
                **because(
                    "unconfirmed_jump",
                    "warn",
                    "the last bar, of {last_at}, moved {last_jump} standard deviations; the next one will tell",
                    rows="0",
                ),
            ),
            expect.ExpectColumnValuesToBeBetween(
                column="behind",
                max_value=thresholds.behind_bars,
                **because(
                    "stale",
                    "quarantine",
                    "the last usable bar is of {last_at}, {behind} bars before the market's of {market_at}",
                    rows="0",
                ),
            ),
        ),
    )


def _first_at(mark: str) -> str:
    return "" if mark == "bad_time" else f", the first at {{{mark}_at}}"


def market_suite() -> gx.ExpectationSuite:
    """What the symbols together must satisfy (one row)."""
    expect = load_gx().expectations
    return suite(
        "market",
        (
            expect.ExpectColumnValuesToBeBetween(
                column="usable",
                min_value=1,
                **because("no_usable_bars", "stop", "none of {symbols} symbols holds a usable bar", rows="0"),
            ),
        ),
    )


def accepted_bars(
    raw: RawData, verdict: Verdict, thresholds: BarThresholds | None = None
) -> tuple[pl.DataFrame, tuple[Note, ...]]:
    """The bars that the raw gate accepts, and what was left out.

    Masked rows are left out, so that they make a gap; symbols in quarantine and rows without a symbol as well. Nothing
    is changed or filled in.

    Parameters
    ----------
    verdict
        The answer of `raw_bars_gate` for the same input and thresholds, with nothing that stops the run.

    Returns
    -------
    frame
        `unique_id, ds, open, high, low, close, volume`, sorted by symbol and time, which are unique.
    notes
        One per reason; their rows and those of the frame are all rows of the input.
    """
    verdict.raise_if_stopped()
    marks = bar_diagnostics.bar_marks(raw, thresholds or BarThresholds())
    away = list(verdict.quarantined)
    kept = marks.filter(~pl.col(ID).is_in(away))
    notes = []
    nameless = raw.frame.height - marks.height
    if nameless:
        notes.append(Note("rows_without_id_dropped", nameless, f"{nameless} rows name no symbol and are left out"))
    if kept.height < marks.height:
        rows, words = marks.height - kept.height, ", ".join(away)
        notes.append(Note("bars_in_quarantine", rows, f"{rows} rows of symbols in quarantine are left out: {words}"))
    counts = dict(kept.drop_nulls(bar_diagnostics.MARK).group_by(bar_diagnostics.MARK).len().iter_rows())
    for mark in bar_diagnostics.MARKS:
        if mark in counts:
            words = _MARK_WORDS[mark].format(as_of=f"{raw.as_of:%Y-%m-%d %H:%M}")
            notes.append(Note(f"bars_masked_{mark}", counts[mark], f"{counts[mark]} rows {words}; they are left out"))
    bars = kept.filter(pl.col(bar_diagnostics.MARK).is_null()).select(ID, TIME, *BAR_COLUMNS)
    return bars.sort(ID, TIME), tuple(notes)


# --- features and labels ---------------------------------------------------------------------------------------------


def bar_feature_gate(
    dataset: BarDataset,
    *,
    budget: float = 0.2,
    missing_share: float = 0.05,
    missing_limit: float = 0.2,
    drift_days: int = 20,
    drift: float = 0.25,
    class_share: tuple[float, float] = (0.05, 0.8),
    ambiguous_share: float = 0.02,
    uniqueness: float = 0.1,
    per_feature: float = 10.0,
) -> Verdict:
    """Judge the dataset that classifiers learn from: features at bars where a decision can fall, and labels.

    Parameters
    ----------
    budget
        Largest share of symbols that may be in quarantine.
    missing_share, missing_limit
        Share of missing values above which a column is warned of, and a symbol goes to quarantine.
    drift_days, drift
        The last days whose features are compared with those before; population stability index worth a warning above.
    class_share
        Least and largest share of a class among a horizon's labels.
    ambiguous_share
        Share of labels that touched both barriers in one bar which is worth a warning above.
    uniqueness
        Mean uniqueness of labels (Lopez de Prado 2018, 4.3) that is worth a warning below.
    per_feature
        Labels a feature that are worth a warning below.

    Raises
    ------
    ConfigError
        If the budget is not a share.
    """
    wanted = [(ID, "text"), (TIME, "time"), (SEGMENT, "number"), (SESSION, "number")]
    wanted += [(name, "number") for name in (*BAR_COLUMNS, *dataset.columns)]
    wanted += [(name, "number") for h in dataset.schema.horizons for name in label_columns(h).values()]
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
    columns, symbols = bar_diagnostics.feature_facts(dataset)
    assets = {
        "inputs": columns,
        "series": symbols,
        "drift": bar_diagnostics.drift_facts(dataset, days=drift_days, limit=drift),
        "labels": bar_diagnostics.label_facts(dataset),
    }
    suites = {
        "inputs": bar_inputs_suite(missing_share),
        "series": bar_dataset_suite(missing_limit),
        "drift": drift_suite(drift),
        "labels": labels_suite(class_share, ambiguous_share, uniqueness, per_feature),
    }
    return join(first, ask("features", assets, suites, series=first.series, budget=budget))


def bar_inputs_suite(missing_share: float) -> gx.ExpectationSuite:
    """What each feature column must satisfy (one row per column)."""
    expect = load_gx().expectations
    return suite(
        "inputs",
        (
            expect.ExpectColumnValuesToBeBetween(
                column="known",
                min_value=1,
                **because("empty_feature", "warn", "feature '{column}' ({block}) holds no value", rows="0"),
            ),
            expect.ExpectColumnValuesToBeBetween(
                column="missing_share",
                max_value=missing_share,
                **because(
                    "missing_after_warmup",
                    "warn",
                    "feature '{column}' ({block}) is missing in a share of {missing_share} of the warm bars",
                    rows="0",
                ),
            ),
            expect.ExpectColumnValuesToBeInSet(
                column="constant",
                value_set=[False],
                **because("constant_feature", "warn", "feature '{column}' ({block}) has one value only", rows="0"),
            ),
        ),
    )


def bar_dataset_suite(missing_limit: float) -> gx.ExpectationSuite:
    """What each symbol's features must satisfy (one row per symbol)."""
    expect = load_gx().expectations
    return suite(
        "dataset series",
        (
            expect.ExpectColumnValuesToBeBetween(
                column="ready",
                min_value=1,
                **because(
                    "too_short",
                    "quarantine",
                    "none of {bars} bars has {lead} bars of its segment before it, as the features and windows need",
                    rows="0",
                ),
            ),
            expect.ExpectColumnValuesToBeBetween(
                column="infinite",
                max_value=0,
                **because(
                    "infinite_value",
                    "quarantine",
                    "{infinite} bars hold an infinite feature, the first '{infinite_in}'",
                    rows="infinite",
                ),
            ),
            expect.ExpectColumnValuesToBeBetween(
                column="missing_share",
                max_value=missing_limit,
                **because(
                    "features_missing",
                    "quarantine",
                    "a share of {missing_share} of all features is missing after the warm-up",
                    rows="0",
                ),
            ),
        ),
    )


def drift_suite(limit: float) -> gx.ExpectationSuite:
    """What the features' last days must be like (one row)."""
    expect = load_gx().expectations
    return suite(
        "drift",
        (
            expect.ExpectColumnValuesToBeBetween(
                column="drifted",
                max_value=0,
                **because(
                    "feature_drift",
                    "warn",
                    f"{{drifted}} of {{judged}} features lie elsewhere in the last {{days}} days than before "
                    f"(stability index above {limit:g}): {{worst}}",
                    rows="0",
                ),
            ),
        ),
    )


def labels_suite(
    class_share: tuple[float, float], ambiguous_share: float, uniqueness: float, per_feature: float
) -> gx.ExpectationSuite:
    """What each horizon's labels must satisfy (one row per horizon)."""
    expect = load_gx().expectations
    at = "labels of {label} bars: "
    return suite(
        "labels",
        (
            expect.ExpectColumnValuesToBeBetween(
                column="known", min_value=1, **because("no_labels", "stop", at + "none is known", rows="0")
            ),
            expect.ExpectColumnValuesToBeBetween(
                column="classes",
                min_value=2,
                **because("single_class", "stop", at + "all {known} are {commonest}", rows="0"),
            ),
            expect.ExpectColumnValuesToBeBetween(
                column="past_close",
                max_value=0,
                **because(
                    "label_past_close",
                    "stop",
                    at + "{past_close} end in another session or symbol than they begin in",
                    rows="past_close",
                ),
            ),
            expect.ExpectColumnValuesToBeBetween(
                column="rarest_share",
                min_value=class_share[0],
                **because("class_share", "warn", at + "a share of {rarest_share} is {rarest}", rows="0"),
            ),
            expect.ExpectColumnValuesToBeBetween(
                column="commonest_share",
                max_value=class_share[1],
                **because("class_share", "warn", at + "a share of {commonest_share} is {commonest}", rows="0"),
            ),
            expect.ExpectColumnValuesToBeBetween(
                column="ambiguous_share",
                max_value=ambiguous_share,
                **because(
                    "ambiguous_labels",
                    "warn",
                    at
                    + "a share of {ambiguous_share} touched both barriers in one bar; widen them or shorten the bars",
                    rows="0",
                ),
            ),
            expect.ExpectColumnValuesToBeBetween(
                column="uniqueness",
                min_value=uniqueness,
                **because(
                    "overlapping_labels",
                    "warn",
                    at + "they live {mean_hold} bars on average, a uniqueness of about {uniqueness}: "
                    "count far fewer than {known} independent ones",
                    rows="0",
                ),
            ),
            expect.ExpectColumnValuesToBeBetween(
                column="per_feature",
                min_value=per_feature,
                **because(
                    "few_labels",
                    "warn",
                    at + "{known} for {features} features, {per_feature} for each",
                    rows="0",
                ),
            ),
        ),
    )


# --- probabilities ---------------------------------------------------------------------------------------------------


def probability_gate(
    frame: pl.DataFrame,
    *,
    dataset: BarDataset | None,
    promised: Sequence[str],
    horizon: int,
    lower: float | None,
    history: pl.DataFrame,
    horizons: Sequence[int],
    budget: float = 0.2,
    fallback_share: float = 0.5,
    one_sided_share: float = 0.95,
) -> Verdict:
    """Judge class probabilities that are about to be published.

    Parameters
    ----------
    frame
        `unique_id, ds, cutoff, horizon, p_short, p_neutral, p_long, signal, model_used, fallback_reason`.
    dataset
        What it was made from; None: the last time in `history` is the as-of date.
    promised
        Symbols that are owed a decision.
    horizon
        The longest of `horizons`.
    lower
        Always None for bars.
    history
        Known values, `unique_id, ds, y`.
    horizons
        Horizons that each of the symbols is owed, in bars.
    budget
        Largest share of promised symbols that may be in quarantine.
    fallback_share
        Share of promised symbols with a fallback that is worth a warning above.
    one_sided_share
        Share of ten or more symbols on one side of the market that is worth a warning above.

    Raises
    ------
    ConfigError
        If the budget is not a share, or the horizons do not fit one another.
    """
    check_budget(budget)
    if not horizons or max(horizons) != horizon or lower is not None:
        raise ConfigError(
            f"the horizons are {list(horizons)}, the longest {horizon}, the lower bound {lower}",
            expected="horizons in bars, the longest of them, and no bound",
            remedy="set bars.horizons in the workload file",
        )
    wanted = [(ID, "text"), (TIME, "time"), (CUTOFF, "time"), (HORIZON, "number"), (SIGNAL, "number")]
    wanted += [(name, "number") for name in CLASS_PROBS]
    wanted += [(MODEL_USED, "value"), (FALLBACK_REASON, "value")]
    series = len(set(promised))
    first = ask(
        "forecast",
        {"columns": diagnostics.required_columns(frame, wanted)},
        {"columns": columns_suite("the forecast")},
        series=series,
        budget=budget,
    )
    if first.broken or first.findings:
        return first
    as_of = dataset.as_of if dataset is not None else _last_time(history)
    assets = {
        "rows": bar_diagnostics.probability_rows(frame, promised=promised, horizons=horizons, as_of=as_of),
        "series": bar_diagnostics.probability_profile(frame, promised=promised, horizons=horizons),
        "horizons": bar_diagnostics.collapse_facts(
            frame,
            promised=promised,
            horizons=horizons,
            least=COLLAPSE_SYMBOLS,
            least_one_sided=ONE_SIDED_SYMBOLS,
            least_classes=CLASS_SYMBOLS,
            priors={} if dataset is None else bar_diagnostics.class_priors(dataset),
        ),
        "table": diagnostics.forecast_facts(frame, promised=promised),
    }
    suites = {
        "rows": probability_rows_suite(),
        "series": probability_series_suite(len(horizons)),
        "horizons": collapse_suite(one_sided_share),
        "table": forecast_table_suite(fallback_share),
    }
    return join(first, ask("forecast", assets, suites, series=series, budget=budget))


def _last_time(history: pl.DataFrame) -> datetime | None:
    last: Any = history.get_column(TIME).max() if history.height else None
    return last if isinstance(last, datetime) else None


def probability_rows_suite() -> gx.ExpectationSuite:
    """What each row must satisfy (one row per row of a promised symbol)."""
    expect = load_gx().expectations
    shown = "short {p_short}, neutral {p_neutral}, long {p_long}"
    true = {
        "in_range": ("no_probability", f"{{rows}} rows hold no probabilities, the first for {{horizon}} bars: {shown}"),
        "signal_known": ("bad_signal", "{rows} rows hold no signal of -1, 0 or 1, the first {signal}"),
        "promised_horizon": ("extra_rows", "{rows} rows are for a horizon nobody was promised, the first {horizon}"),
        "on_time": (
            "wrong_time",
            "{rows} rows are not dated at their decision, or lie after the as-of date: {ds}, decided at {cutoff}",
        ),
        "labelled": ("no_model_named", "{rows} rows do not name their model, the first for {horizon} bars"),
        "flat": (
            "fallback_with_position",
            "{rows} rows of a fallback hold a position, the first {signal} for {horizon} bars ({fallback_reason})",
        ),
    }
    return suite(
        "forecast rows",
        (
            *(
                expect.ExpectColumnValuesToBeInSet(
                    column=column, value_set=[True], **because(reason, "quarantine", detail)
                )
                for column, (reason, detail) in true.items()
            ),
            expect.ExpectColumnValuesToBeBetween(
                column="off_sum",
                max_value=SUM_TOLERANCE,
                **because(
                    "sum_not_one", "quarantine", f"{{rows}} rows do not sum to 1, the first by {{off_sum}}: {shown}"
                ),
            ),
            expect.ExpectColumnValuesToBeBetween(
                column="copies",
                max_value=1,
                **because("duplicate_rows", "quarantine", "{rows} rows share their horizon, the first {horizon}"),
            ),
        ),
    )


def probability_series_suite(horizons: int) -> gx.ExpectationSuite:
    """What each promised symbol must satisfy (one row per symbol)."""
    expect = load_gx().expectations
    return suite(
        "forecast series",
        (
            expect.ExpectColumnValuesToBeInSet(
                column="there",
                value_set=[True],
                **because("missing_series", "quarantine", "promised, and has no decision", rows="0"),
            ),
            expect.ExpectColumnValuesToBeBetween(
                column="decided",
                min_value=horizons,
                **because("missing_rows", "quarantine", "{decided} of {owed} horizons are decided", rows="0"),
            ),
        ),
    )


def collapse_suite(one_sided_share: float) -> gx.ExpectationSuite:
    """What a horizon's decisions over all symbols must be like (one row per horizon)."""
    expect = load_gx().expectations
    return suite(
        "forecast horizons",
        (
            expect.ExpectColumnValuesToBeBetween(
                column="spread_judged",
                min_value=COLLAPSE_SPREAD,
                **because(
                    "collapsed",
                    "warn",
                    "horizon of {label} bars: {symbols} symbols get the same probabilities, within {spread}",
                    rows="0",
                ),
            ),
            expect.ExpectColumnValuesToBeBetween(
                column="side_judged",
                max_value=one_sided_share,
                **because(
                    "one_sided",
                    "warn",
                    "horizon of {label} bars: a share of {side_share} of {symbols} symbols is {side}",
                    rows="0",
                ),
            ),
            expect.ExpectColumnValuesToBeBetween(
                column="class_judged",
                max_value=COLLAPSE_KL,
                **because(
                    "collapsed_classes",
                    "warn",
                    "horizon of {label} bars: {class_words}; their mean probabilities lie {mean_divergence} nats from "
                    "it (near 0: calibrated, but too alike for another class to lead)",
                    rows="0",
                ),
            ),
        ),
    )
