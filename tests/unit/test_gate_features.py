"""Every rule of the feature gate."""

from __future__ import annotations

from datetime import datetime

import polars as pl
import pytest

from expectations.diagnostics import missing_plan
from expectations.panel import feature_gate
from nightcast.contracts.errors import GateError
from nightcast.contracts.frequency import Frequency
from nightcast.contracts.panel import PanelDataset
from nightcast.contracts.schema import FeatureColumn, PanelSchema

AS_OF = datetime(2020, 12, 1)
STEPS, HORIZON = 12, 3
MONTH = Frequency.parse("MS")
COLUMNS = {
    "whp": FeatureColumn(role="past"),
    "choke": FeatureColumn(role="plan"),
    "month": FeatureColumn(role="plan", block="calendar"),
    "lag12": FeatureColumn(role="plan", scaled=True, block="lags"),
    "depth": FeatureColumn(role="static"),
}


def dataset_of(frame: pl.DataFrame, *, plan: pl.DataFrame | None = None, columns=None) -> PanelDataset:
    schema = PanelSchema(freq="MS", horizon=HORIZON, lower=0.0, covariates={"whp": "past", "choke": "plan"})
    return PanelDataset(frame=frame, schema=schema, columns=columns or COLUMNS, as_of=AS_OF, plan=plan)


def clean() -> pl.DataFrame:
    rows = []
    for number, series in enumerate(("w1", "w2", "w3", "w4", "w5")):
        for i in range(STEPS + HORIZON):
            stamp = MONTH.shift(AS_OF, i - STEPS + 1)
            past = stamp <= AS_OF
            rows.append(
                {
                    "unique_id": series,
                    "ds": stamp,
                    "y": 10.0 + number + i if past else None,
                    "whp": 1.0 if past else None,
                    "choke": 0.5 if past else None,
                    "month": float(stamp.month),
                    "lag12": 9.0,
                    "depth": 2.0 + number,
                }
            )
    return pl.DataFrame(rows).with_columns(pl.col("ds").cast(pl.Datetime("us")))


def given_plan() -> pl.DataFrame:
    return clean().filter(pl.col("ds") > AS_OF).select("unique_id", "ds", choke=pl.lit(0.7))


def found(dataset):
    verdict = feature_gate(dataset)
    assert verdict.broken == ()
    return [(finding.series, finding.reason, finding.severity, finding.rows) for finding in verdict.findings]


def row(series: str, step: int) -> pl.Expr:
    return (pl.col("unique_id") == series) & (pl.col("ds") == MONTH.shift(AS_OF, step))


def put(frame: pl.DataFrame, where: pl.Expr, column: str, value: float | None) -> pl.DataFrame:
    return frame.with_columns(pl.when(where).then(pl.lit(value, dtype=pl.Float64)).otherwise(column).alias(column))


def test_a_clean_dataset_passes_without_a_word():
    assert found(dataset_of(clean())) == []
    assert found(dataset_of(clean(), plan=given_plan())) == []


def test_a_missing_step_is_found():
    assert found(dataset_of(clean().filter(~row("w2", -4)))) == [("w2", "missing_steps", "quarantine", 1)]


def test_a_repeated_step_is_found():
    frame = pl.concat([clean(), clean().filter(row("w2", -4))])

    assert found(dataset_of(frame)) == [("w2", "duplicate_rows", "quarantine", 1)]


@pytest.mark.parametrize("column", ["y", "whp", "lag12"])
def test_an_infinite_value_is_found_and_its_column_named(column):
    dataset = dataset_of(put(clean(), row("w3", -2), column, float("inf")))

    assert found(dataset) == [("w3", "infinite_value", "quarantine", 1)]
    assert f"'{column}'" in feature_gate(dataset).findings[0].detail


def test_nan_in_the_target_quarantines_and_in_an_input_warns():
    assert found(dataset_of(put(clean(), row("w3", -2), "y", float("nan")))) == [
        ("w3", "infinite_value", "quarantine", 1)
    ]
    assert found(dataset_of(put(clean(), row("w3", -2), "whp", float("nan")))) == [("w3", "nan_value", "warn", 1)]


def test_an_input_without_any_value_is_warned_of():
    assert found(dataset_of(put(clean(), pl.lit(True), "whp", None))) == [(None, "empty_feature", "warn", 0)]


def test_a_missing_known_ahead_value_is_found_with_its_series_and_time():
    dataset = dataset_of(put(clean(), row("w4", 2), "month", None))

    assert found(dataset) == [("w4", "plan_missing", "quarantine", 1)]
    assert "month at 2021-02-01" in feature_gate(dataset).findings[0].detail
    assert missing_plan(dataset).rows() == [("w4", datetime(2021, 2, 1), "month", "feature")]


def test_a_known_ahead_column_without_future_values_passes_the_budget():
    verdict = feature_gate(dataset_of(put(clean(), pl.col("ds") > AS_OF, "month", None)))

    assert len(verdict.quarantined) == 5
    with pytest.raises(GateError, match="plan_missing"):
        verdict.raise_if_stopped()


def test_a_known_ahead_column_that_a_series_never_had_is_not_missing_ahead():
    assert found(dataset_of(put(clean(), pl.col("unique_id") == "w4", "month", None))) == []


def test_a_gap_in_a_lag_of_the_target_warns():
    assert found(dataset_of(put(clean(), row("w4", 2), "lag12", None))) == [("w4", "lag_missing", "warn", 1)]


def test_a_plan_with_holes_names_the_pairs_that_are_carried_on():
    plan = given_plan().filter(~row("w1", 1) & ~row("w1", 3))
    dataset = dataset_of(clean(), plan=plan)

    assert found(dataset) == [("w1", "plan_carried_on", "warn", 2)]
    assert "choke at 2021-01-01 00:00, choke at 2021-03-01 00:00" in feature_gate(dataset).findings[0].detail


def test_a_series_without_all_its_future_rows_is_found():
    assert found(dataset_of(clean().filter(~row("w5", 3)))) == [("w5", "future_rows", "quarantine", 0)]


def test_a_retired_series_needs_no_future_rows():
    frame = clean().with_columns(pl.col("ds").dt.offset_by("-60mo").alias("early"))
    old = frame.filter(pl.col("unique_id") == "w5").with_columns(ds="early", unique_id=pl.lit("w6"))

    assert found(dataset_of(pl.concat([clean(), old.drop("early")]))) == []


def test_the_dataset_is_not_changed():
    frame = clean().sample(fraction=1.0, shuffle=True, seed=1)
    before = frame.clone()

    feature_gate(dataset_of(frame))

    assert frame.equals(before)


def stopped(dataset):
    verdict = feature_gate(dataset)
    with pytest.raises(GateError):
        verdict.raise_if_stopped()
    return [finding.reason for finding in verdict.findings]


def test_a_declared_column_that_is_absent_stops_the_run():
    assert stopped(dataset_of(clean().drop("month"))) == ["missing_column"]


def test_a_text_column_among_the_inputs_stops_the_run():
    assert stopped(dataset_of(clean().with_columns(pl.col("month").cast(pl.String)))) == ["wrong_type"]


def test_a_dataset_without_a_target_stops_the_run():
    assert stopped(dataset_of(clean().drop("y"))) == ["no_target_column"]


def test_an_empty_dataset_stops_the_run():
    assert stopped(dataset_of(clean().clear())) == ["empty_table"]


def test_a_row_that_names_no_series_stops_the_run():
    frame = clean().with_columns(pl.when(~row("w1", -11)).then("unique_id").alias("unique_id"))

    assert stopped(dataset_of(frame)) == ["missing_id"]
