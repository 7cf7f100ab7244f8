"""Every rule of the raw gate, each with a frame that breaks it and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

import numpy as np
import polars as pl
import pytest

from expectations.panel import RawThresholds, accepted_rows, raw_gate
from nightcast.contracts.errors import GateError
from nightcast.contracts.frequency import Frequency
from nightcast.contracts.schema import PanelSchema
from nightcast.contracts.source import RawData

AS_OF = datetime(2020, 12, 1)
STEPS = 48
SERIES = ("w1", "w2", "w3", "w4", "w5", "w6")


def clean(series: tuple[str, ...] = SERIES, *, steps: int = STEPS, freq: str = "MS", role: str = "target"):
    step = Frequency.parse(freq)
    frames = []
    for number, name in enumerate(series):
        time = np.arange(steps)
        level = 10.0 ** (number % 4)
        y = level * (1 + 0.2 * np.sin(time * 1.7 + number)) * np.exp(-time / 60)
        stamps = [step.shift(AS_OF, int(t) - steps + 1) for t in time]
        frames.append(pl.DataFrame({"unique_id": [name] * steps, "ds": stamps, "y": y}))
    return pl.concat(frames).with_columns(
        pl.col("ds").cast(pl.Datetime("us")), series_role=pl.lit(role), row_unparsable=pl.lit(False)
    )


def raw_of(frame: pl.DataFrame, *, freq: str = "MS", lower: float | None = 0.0, **covariates) -> RawData:
    schema = PanelSchema(freq=freq, horizon=6, lower=lower, covariates=covariates)
    return RawData(frame=frame, schema=schema, as_of=AS_OF, origin="made for the test")


def found(verdict):
    assert verdict.broken == ()
    return [(finding.series, finding.reason, finding.severity, finding.rows) for finding in verdict.findings]


def at(frame: pl.DataFrame, series: str, position: int, column: str, value) -> pl.DataFrame:
    rows = frame.with_row_index("i").filter(pl.col("unique_id") == series)
    target = rows["i"][position]
    return (
        frame.with_row_index("i")
        .with_columns(
            pl.when(pl.col("i") == target)
            .then(pl.lit(value, dtype=frame.schema[column]))
            .otherwise(column)
            .alias(column)
        )
        .drop("i")
    )


def of(series: str) -> pl.Expr:
    return pl.col("unique_id") == series


# --- the corruption kinds ---


def repeat_rows(frame, series):
    return pl.concat([frame, frame.filter(of(series)).head(1)])


def repeat_time_with_another_value(frame, series):
    return pl.concat([frame, frame.filter(of(series)).tail(2).with_columns(pl.col("y") * 1.5)])


def put_text(frame, series):
    frame = at(frame, series, 7, "y", None)
    return at(frame, series, 7, "row_unparsable", True)


def date_into_the_future(frame, series):
    return at(frame, series, STEPS - 1, "ds", datetime(2099, 1, 15))


def blank_out(frame, series):
    return frame.with_columns(pl.when(~of(series)).then("y").alias("y"))


def scale_up(position):
    def corrupt(frame, series):
        value = frame.filter(of(series))["y"][position]
        return at(frame, series, position, "y", value * 100)

    return corrupt


def mid_month(frame, series):
    return frame.with_columns(pl.when(of(series)).then(pl.col("ds") + timedelta(days=14)).otherwise("ds").alias("ds"))


def month_end(frame, series):
    return frame.with_columns(pl.when(of(series)).then(pl.col("ds").dt.month_end()).otherwise("ds").alias("ds"))


def quarterly(frame, series):
    return frame.filter(~of(series) | (pl.col("ds").dt.month() % 3 == 1))


def daily(frame, series):
    days = [AS_OF - timedelta(days=STEPS - 1 - i) for i in range(STEPS)]
    its = frame.filter(of(series)).with_columns(pl.Series("ds", days).cast(pl.Datetime("us")))
    return pl.concat([frame.filter(~of(series)), its])


CORRUPTIONS: dict[str, tuple[Callable[[pl.DataFrame, str], pl.DataFrame], str]] = {
    "one row twice": (repeat_rows, "duplicate_rows"),
    "one time twice": (repeat_time_with_another_value, "duplicate_rows"),
    "text": (put_text, "text_in_number"),
    "future": (date_into_the_future, "future_date"),
    "all null": (blank_out, "all_null"),
    "jump at the start": (scale_up(0), "scale_jump"),
    "jump at the second row": (scale_up(1), "scale_jump"),
    "jump in the middle": (scale_up(20), "scale_jump"),
    "jump at the end": (scale_up(-1), "scale_jump"),
    "mid-month": (mid_month, "wrong_frequency"),
    "month end": (month_end, "wrong_frequency"),
    "quarterly": (quarterly, "wrong_frequency"),
    "daily": (daily, "wrong_frequency"),
}


def test_clean_rows_pass_without_a_word():
    verdict = raw_gate(raw_of(clean()))

    assert found(verdict) == []
    assert (verdict.gate, verdict.series) == ("raw", len(SERIES))
    assert verdict.rules >= 20


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_each_corruption_is_found_with_its_reason_in_its_series_alone(kind):
    series = "w4"
    corrupt, reason = CORRUPTIONS[kind]

    verdict = raw_gate(raw_of(corrupt(clean(), series)))

    assert [(f.series, f.reason, f.severity) for f in verdict.findings] == [(series, reason, "quarantine")]
    assert verdict.quarantined == {series: (reason,)}
    verdict.raise_if_stopped()


def test_six_corruptions_at_once_are_told_apart_and_exceed_the_budget():
    frame = clean()
    chosen = ("one row twice", "text", "future", "all null", "jump in the middle", "quarterly")
    for series, kind in zip(SERIES, chosen, strict=True):
        frame = CORRUPTIONS[kind][0](frame, series)

    verdict = raw_gate(raw_of(frame), budget=0.2)

    assert verdict.quarantined == {s: (CORRUPTIONS[k][1],) for s, k in zip(SERIES, chosen, strict=True)}
    with pytest.raises(GateError, match="6 of 6 series"):
        verdict.raise_if_stopped()


# --- details ---


def test_the_detail_names_the_value_and_the_time():
    frame = at(clean(), "w3", 20, "y", 12345.0)
    (finding,) = raw_gate(raw_of(frame)).findings

    assert "12345" in finding.detail
    assert "2018-09-01" in finding.detail


def test_duplicates_are_counted_row_by_row():
    ((_, _, _, rows),) = found(raw_gate(raw_of(repeat_time_with_another_value(clean(), "w1"))))

    assert rows == 4


def test_a_row_without_a_time_is_a_bad_time_also_when_it_held_text():
    frame = at(at(clean(), "w2", 0, "ds", None), "w2", 0, "row_unparsable", True)

    assert found(raw_gate(raw_of(frame))) == [("w2", "bad_time", "quarantine", 1)]


def test_a_row_without_a_series_is_masked_for_the_table():
    frame = at(clean(), "w2", 0, "unique_id", None)
    raw = raw_of(frame)
    verdict = raw_gate(raw)

    assert found(verdict) == [(None, "missing_id", "mask", 1)]
    assert accepted_rows(raw, verdict).height == frame.height - 1


# --- values ---


def test_a_few_negative_values_are_masked_and_many_quarantine():
    few = at(clean(), "w2", 5, "y", -1.0)
    many = few
    for position in range(6, 10):
        many = at(many, "w2", position, "y", -2.0)

    assert found(raw_gate(raw_of(few))) == [("w2", "negative_value", "mask", 1)]
    assert found(raw_gate(raw_of(many))) == [("w2", "negative_value", "quarantine", 5)]
    assert found(raw_gate(raw_of(few, lower=None))) == []


def test_a_long_series_may_have_more_negative_values_and_a_short_one_a_few():
    long = clean(("w1",), steps=100)
    for position in range(4):
        long = at(long, "w1", position, "y", -1.0)
    short = at(clean(("w1",), steps=5), "w1", 2, "y", -1.0)

    assert found(raw_gate(raw_of(long))) == [("w1", "negative_value", "mask", 4)]
    assert found(raw_gate(raw_of(short))) == [("w1", "negative_value", "mask", 1)]


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan")])
def test_a_few_values_that_are_not_finite_are_masked(value):
    frame = at(clean(), "w2", 5, "y", value)
    raw = raw_of(frame, lower=None)
    verdict = raw_gate(raw)

    assert found(verdict) == [("w2", "non_finite", "mask", 1)]
    accepted = accepted_rows(raw, verdict)
    assert accepted["y"].is_finite().sum() == frame.height - 1
    assert accepted["y"].null_count() == 1


def test_many_values_that_are_not_finite_quarantine():
    frame = clean()
    for position in range(5, 9):
        frame = at(frame, "w2", position, "y", float("inf"))

    assert found(raw_gate(raw_of(frame))) == [("w2", "non_finite", "quarantine", 4)]


def test_accepted_rows_refuse_a_verdict_that_stops_the_run():
    raw = raw_of(clean().drop("y"))

    with pytest.raises(GateError, match="no_target_column"):
        accepted_rows(raw, raw_gate(raw))


def test_accepted_rows_leave_quarantined_series_out_and_set_masked_values_missing():
    frame = at(put_text(clean(), "w1"), "w2", 5, "y", -1.0)
    raw = raw_of(frame)
    verdict = raw_gate(raw)

    accepted = accepted_rows(raw, verdict)

    assert accepted.columns == frame.columns
    assert sorted(accepted["unique_id"].unique()) == list(SERIES[1:])
    assert accepted["y"].null_count() == verdict.masked_rows == 1
    untouched = accepted.filter(of("w3"))
    assert untouched.equals(frame.filter(of("w3")))


def test_a_stuck_value_is_warned_of_and_a_shut_well_is_not():
    def stuck(value, length):
        frame = clean()
        for position in range(10, 10 + length):
            frame = at(frame, "w3", position, "y", value)
        return found(raw_gate(raw_of(frame)))

    assert stuck(80.0, 12) == [("w3", "constant_stuck", "warn", 12)]
    assert stuck(80.0, 11) == []
    assert stuck(0.0, 20) == []


# --- scale jumps that are none ---


def panel_with(values, series="w3"):
    values = [None if v is None else float(v) for v in values]
    stamps = [Frequency.parse("MS").shift(AS_OF, i - len(values) + 1) for i in range(len(values))]
    its = pl.DataFrame({"unique_id": [series] * len(values), "ds": stamps, "y": values}).with_columns(
        pl.col("ds").cast(pl.Datetime("us")), series_role=pl.lit("target"), row_unparsable=pl.lit(False)
    )
    return pl.concat([clean().filter(~of(series)), its.select(clean().columns)])


@pytest.mark.parametrize(
    "values",
    [
        pytest.param([0.5, 0.4, 0.6, 0.5, 0.7] * 3 + [300, 280, 290, 260], id="ramp-up that stays high"),
        pytest.param([3, 310, 300, 280, 260, 250, 240], id="first month partial"),
        pytest.param([3, 310], id="young well, first month partial, one full month"),
        pytest.param([3, 310, 290], id="young well, two full months"),
        pytest.param([200, 180, 0, 0, 0, 0, 0, 0, 0, 0, 150, 160, 155], id="shut-in and restart"),
        pytest.param([200, 180, 190, 0, 0, 0, 0, 0, 0, 0, 150], id="restart in the last month"),
        pytest.param(
            [200, 180, 190, None, None, None, None, None, None, None, 150], id="restart after unreported months"
        ),
        pytest.param([0.02, 0.05, 0.01, 0.08, 0.03, 0.06, 0.02, 0.09], id="stripper well"),
        pytest.param([5, 0, 0, 7, 0, 0, 0, 20, 0, 0, 9, 0, 0, 0, 6], id="intermittent"),
        pytest.param([900, 300, 120, 60, 30, 18, 12, 9, 7, 6, 5], id="steep decline"),
        pytest.param([0, 0, 0, 0, 500, 0, 0, 0], id="a single month of production"),
        pytest.param([0, 0, 0, 0, 0, 0], id="never on stream"),
    ],
)
def test_a_genuine_course_is_not_called_a_scale_jump(values):
    assert [f for f in found(raw_gate(raw_of(panel_with(values)))) if f[1] == "scale_jump"] == []


@pytest.mark.parametrize(
    "values",
    [
        pytest.param([50, 5000, 52], id="young well"),
        pytest.param([5, 0, 0, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 600, 0, 0, 0, 0, 0, 0, 0, 8], id="among zeros"),
        pytest.param([50, 51, 52, 5300, None, None, 49, 48], id="before unreported months"),
        pytest.param([800] * 3 + [2, 2.1, 1.9, 2.2, 2, 2.1, 210, 2, 1.9, 2, 2.1], id="stripper with a rich past"),
    ],
)
def test_a_value_a_hundred_times_too_large_is_found_where_neighbours_are_scarce(values):
    findings = [f for f in found(raw_gate(raw_of(panel_with(values)))) if f[2] != "warn"]

    assert findings == [("w3", "scale_jump", "quarantine", 1)]


def test_a_jump_in_a_target_that_may_be_negative_is_found_by_its_size():
    frame = clean().with_columns(-pl.col("y"))
    frame = at(frame, "w2", 9, "y", -2000.0)

    assert found(raw_gate(raw_of(frame, lower=None))) == [("w2", "scale_jump", "quarantine", 1)]


def test_old_jumps_are_masked_where_the_thresholds_say_so():
    raw = raw_of(scale_up(5)(clean(), "w1"))
    limits = RawThresholds(spike_recent=24)
    verdict = raw_gate(raw, thresholds=limits)

    assert found(verdict) == [("w1", "scale_jump", "mask", 1)]
    accepted = accepted_rows(raw, verdict, thresholds=limits)
    assert accepted.filter(of("w1"))["y"].is_null().to_list().index(True) == 5
    assert accepted["y"].null_count() == 1
    recent = raw_gate(raw_of(scale_up(30)(clean(), "w1")), thresholds=limits)
    assert found(recent) == [("w1", "scale_jump", "quarantine", 1)]


# --- time ---


def test_missing_steps_are_counted_and_do_not_change_the_frequency():
    frame = clean().filter(~(of("w5") & pl.col("ds").is_between(datetime(2018, 3, 1), datetime(2018, 7, 1))))
    (finding,) = raw_gate(raw_of(frame)).findings

    assert (finding.series, finding.reason, finding.severity, finding.rows) == ("w5", "gap", "warn", 5)
    assert "2018-02-01" in finding.detail


@pytest.mark.parametrize("months", [(1, 24), (1, 2, 24)])
def test_few_rows_far_apart_are_a_gap_and_no_other_frequency(months):
    stamps = [Frequency.parse("MS").shift(AS_OF, month - 24) for month in months]
    frame = clean().filter(~of("w5") | pl.col("ds").is_in(stamps))

    assert found(raw_gate(raw_of(frame))) == [("w5", "gap", "warn", 24 - len(months))]


@pytest.mark.parametrize(("behind", "expected"), [(3, []), (4, ["stale"]), (12, ["stale"]), (13, [])])
def test_a_silent_series_is_stale_until_it_is_retired(behind, expected):
    frame = clean()
    last = Frequency.parse("MS").shift(AS_OF, -behind)
    frame = frame.filter(~of("w5") | (pl.col("ds") <= last))

    assert [reason for _, reason, _, _ in found(raw_gate(raw_of(frame)))] == expected


@pytest.mark.parametrize("freq", ["D", "W-MON", "h", "30min", "QS"])
def test_clean_rows_of_other_frequencies_pass(freq):
    frame = clean()
    step = Frequency.parse(freq)
    anchor = {"QS": datetime(2020, 10, 1), "W-MON": datetime(2020, 11, 30)}.get(freq, AS_OF)
    stamps = [step.shift(anchor, i - STEPS + 1) for i in range(STEPS)] * len(SERIES)
    frame = frame.with_columns(pl.Series("ds", stamps).cast(pl.Datetime("us")))

    assert found(raw_gate(raw_of(frame, freq=freq))) == []


def test_a_weekly_series_in_a_daily_panel_has_the_wrong_frequency():
    frame = clean(freq="D")
    frame = frame.filter(~of("w2") | (pl.col("ds").dt.weekday() == 1))

    assert [(f.series, f.reason) for f in raw_gate(raw_of(frame, freq="D")).findings if f.severity != "warn"] == [
        ("w2", "wrong_frequency")
    ]


# --- roles and covariates ---


def test_support_series_are_judged_on_times_and_duplicates_only():
    support = blank_out(clean(("i1",), role="support"), "i1")
    assert found(raw_gate(raw_of(pl.concat([clean(), support])))) == []

    twice = pl.concat([clean(), repeat_rows(support, "i1")])
    assert found(raw_gate(raw_of(twice))) == [("i1", "duplicate_rows", "quarantine", 2)]
    late = pl.concat([clean(), date_into_the_future(support, "i1")])
    assert found(raw_gate(raw_of(late))) == [("i1", "future_date", "quarantine", 1)]
    text = pl.concat([clean(), put_text(support, "i1")])
    assert found(raw_gate(raw_of(text))) == [("i1", "text_in_number", "warn", 1)]


def test_a_covariate_that_is_mostly_missing_is_warned_of_once():
    frame = clean().with_columns(
        whp=pl.when(pl.int_range(pl.len()) % 10 < 3).then(1.0), choke=pl.when(pl.int_range(pl.len()) % 10 < 5).then(1.0)
    )

    findings = raw_gate(raw_of(frame, whp="past", choke="plan")).findings

    assert [(f.series, f.reason, f.severity) for f in findings] == [(None, "covariate_missing", "warn")]
    assert "'whp'" in findings[0].detail


def test_a_covariate_that_only_support_series_report_is_not_missing():
    targets = clean().with_columns(wwir=pl.lit(None, dtype=pl.Float64))
    injector = clean(("i1",), role="support").with_columns(wwir=pl.lit(300.0))

    assert found(raw_gate(raw_of(pl.concat([targets, injector]), wwir="past"))) == []
    assert found(raw_gate(raw_of(targets, wwir="past"))) == [(None, "covariate_missing", "warn", 288)]


def test_role_and_text_columns_are_optional():
    assert found(raw_gate(raw_of(clean().select("unique_id", "ds", "y")))) == []


# --- the table ---


def stopped(raw):
    verdict = raw_gate(raw)
    with pytest.raises(GateError):
        verdict.raise_if_stopped()
    return [finding.reason for finding in verdict.findings if finding.severity == "stop"]


def test_an_empty_table_stops_the_run():
    assert stopped(raw_of(clean().clear())) == ["empty_table"]


def test_a_missing_target_column_stops_the_run():
    assert stopped(raw_of(clean().drop("y"))) == ["no_target_column"]


@pytest.mark.parametrize("column", ["unique_id", "ds"])
def test_a_missing_key_column_stops_the_run(column):
    assert stopped(raw_of(clean().drop(column))) == ["missing_column"]


def test_a_declared_covariate_that_is_absent_stops_the_run_and_is_named():
    raw = raw_of(clean(), whp="past")

    assert stopped(raw) == ["missing_column"]
    assert "'whp'" in raw_gate(raw).findings[0].detail


@pytest.mark.parametrize(
    "expression",
    [
        pl.col("y").cast(pl.String),
        pl.col("ds").cast(pl.String),
        pl.col("ds").dt.replace_time_zone("UTC"),
        pl.col("unique_id").str.len_bytes(),
    ],
)
def test_a_column_of_the_wrong_type_stops_the_run(expression):
    assert stopped(raw_of(clean().with_columns(expression))) == ["wrong_type"]


def test_a_panel_without_any_value_stops_the_run():
    frame = clean().with_columns(pl.lit(None, dtype=pl.Float64).alias("y"))

    assert stopped(raw_of(frame)) == ["all_series_null"]
