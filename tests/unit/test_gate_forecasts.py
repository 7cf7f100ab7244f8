"""Every rule of the forecast gate."""

from __future__ import annotations

from datetime import datetime

import polars as pl
import pytest

from expectations.panel import forecast_gate
from nightcast.contracts.columns import QUANTILES
from nightcast.contracts.errors import ConfigError, GateError
from nightcast.contracts.frequency import Frequency
from nightcast.contracts.panel import PanelDataset
from nightcast.contracts.schema import PanelSchema

AS_OF = datetime(2020, 12, 1)
MONTH = Frequency.parse("MS")
SERIES = ("w1", "w2", "w3", "w4", "w5", "w6")
HORIZON = 3


def history() -> pl.DataFrame:
    rows = [(s, MONTH.shift(AS_OF, -i), 100.0) for s in SERIES for i in range(30)]
    return pl.DataFrame(rows, schema={"unique_id": pl.String, "ds": pl.Datetime("us"), "y": pl.Float64}, orient="row")


def clean() -> pl.DataFrame:
    keys = [(s, MONTH.shift(AS_OF, h)) for s in SERIES for h in range(1, HORIZON + 1)]
    frame = pl.DataFrame(keys, schema={"unique_id": pl.String, "ds": pl.Datetime("us")}, orient="row")
    values = [pl.lit(50.0 + 10 * i).alias(name) for i, name in enumerate(QUANTILES)]
    return frame.with_columns(*values, model_used=pl.lit("ensemble"), fallback_reason=pl.lit(None, dtype=pl.String))


def dataset() -> PanelDataset:
    return PanelDataset(
        frame=history(), schema=PanelSchema(freq="MS", horizon=HORIZON, lower=0.0), columns={}, as_of=AS_OF
    )


def ask(forecast, *, lower=0.0, known=None, promised=SERIES, data=None, **more):
    past = history() if known is None else known
    verdict = forecast_gate(
        forecast, data or dataset(), promised=promised, horizon=HORIZON, lower=lower, history=past, budget=0.2, **more
    )
    assert verdict.broken == ()
    return verdict


def found(verdict):
    return [(finding.series, finding.reason, finding.severity, finding.rows) for finding in verdict.findings]


def row(series: str, step: int) -> pl.Expr:
    return (pl.col("unique_id") == series) & (pl.col("ds") == MONTH.shift(AS_OF, step))


def put(where: pl.Expr, column: str, value) -> pl.DataFrame:
    frame = clean()
    return frame.with_columns(
        pl.when(where).then(pl.lit(value, dtype=frame.schema[column])).otherwise(column).alias(column)
    )


def test_a_clean_forecast_passes_without_a_word():
    verdict = ask(clean())

    assert found(verdict) == []
    assert (verdict.gate, verdict.series) == ("forecast", len(SERIES))


def test_a_promised_series_without_a_forecast_is_found():
    assert found(ask(clean().filter(pl.col("unique_id") != "w2"))) == [("w2", "missing_series", "quarantine", 0)]


def test_a_forecast_that_lacks_a_step_is_found():
    verdict = ask(clean().filter(~row("w2", 2)))

    assert found(verdict) == [("w2", "missing_rows", "quarantine", 0)]
    assert verdict.findings[0].detail == "2 of 3 steps are forecast"


def test_a_step_beyond_the_horizon_is_found_by_count_and_by_time():
    extra = clean().filter(row("w2", 3)).with_columns(pl.col("ds").dt.offset_by("1mo"))

    assert found(ask(pl.concat([clean(), extra]))) == [
        ("w2", "extra_rows", "quarantine", 0),
        ("w2", "wrong_time", "quarantine", 1),
    ]


def test_a_forecast_for_other_times_is_found():
    late = clean().with_columns(
        pl.when(pl.col("unique_id") == "w2").then(pl.col("ds").dt.offset_by("1mo")).otherwise("ds").alias("ds")
    )

    assert found(ask(late)) == [("w2", "wrong_time", "quarantine", 1)]


def test_times_are_not_judged_without_a_dataset():
    late = clean().with_columns(pl.col("ds").dt.offset_by("1mo"))
    verdict = forecast_gate(late, None, promised=SERIES, horizon=HORIZON, lower=None, history=history(), budget=0.2)

    assert found(verdict) == []


def test_a_repeated_row_is_found():
    frame = pl.concat([clean(), clean().filter(row("w3", 1))])

    assert found(ask(frame)) == [("w3", "duplicate_rows", "quarantine", 2)]


@pytest.mark.parametrize("value", [None, float("nan"), float("inf")])
def test_a_value_that_is_not_finite_is_found(value):
    assert found(ask(put(row("w3", 1), "q20", value))) == [("w3", "non_finite", "quarantine", 1)]


def test_crossing_quantiles_are_found():
    assert found(ask(put(row("w3", 1), "q30", 81.0))) == [("w3", "crossing_quantiles", "quarantine", 1)]


def test_a_value_below_the_lower_bound_is_found_where_there_is_one():
    frame = put(row("w3", 1), "q10", -0.5)

    assert found(ask(frame)) == [("w3", "below_lower_bound", "quarantine", 1)]
    assert found(ask(frame, lower=None)) == []


def exploded(factor: float) -> pl.DataFrame:
    return clean().with_columns(
        pl.when(row("w4", 3)).then(pl.col(name) * factor).otherwise(name).alias(name) for name in QUANTILES
    )


def test_a_median_far_above_the_recent_maximum_has_exploded():
    verdict = ask(exploded(12))

    assert found(verdict) == [("w4", "exploded", "quarantine", 1)]
    assert "1080" in verdict.findings[0].detail
    assert found(ask(exploded(11))) == []


def test_only_recent_values_count_for_an_explosion():
    rich_past = history().with_columns(
        pl.when(pl.col("ds") < MONTH.shift(AS_OF, -24)).then(100_000.0).otherwise("y").alias("y")
    )

    assert found(ask(exploded(12), known=rich_past)) == [("w4", "exploded", "quarantine", 1)]


def test_a_well_shut_for_long_is_measured_by_its_producing_past():
    shut = history().with_columns(pl.when(pl.col("ds") >= MONTH.shift(AS_OF, -26)).then(0.0).otherwise("y").alias("y"))

    assert found(ask(clean(), known=shut)) == []
    assert found(ask(exploded(12), known=shut)) == [("w4", "exploded", "quarantine", 1)]


def test_a_series_without_history_is_not_called_exploded():
    assert found(ask(exploded(1000), known=history().filter(pl.col("unique_id") != "w4"))) == []


@pytest.mark.parametrize("value", [None, "", " "])
def test_a_row_that_does_not_name_its_model_is_found(value):
    assert found(ask(put(row("w5", 1), "model_used", value))) == [("w5", "no_model_named", "quarantine", 1)]


def test_many_fallbacks_are_warned_of():
    def share(fallen):
        return found(ask(put(pl.col("unique_id").is_in(SERIES[:fallen]), "fallback_reason", "quarantined")))

    assert share(3) == []
    assert share(4) == [(None, "many_fallbacks", "warn", 4)]


def test_a_series_nobody_was_promised_is_warned_of():
    verdict = ask(clean(), promised=SERIES[1:])

    assert found(verdict) == [(None, "unpromised_series", "warn", 0)]
    assert "'w1'" in verdict.findings[0].detail


@pytest.mark.parametrize("column", ["unique_id", "ds", "q50", "q90", "model_used", "fallback_reason"])
def test_a_missing_column_stops_the_run_and_is_named(column):
    verdict = ask(clean().drop(column))

    assert found(verdict) == [(None, "missing_column", "stop", 0)]
    with pytest.raises(GateError, match=column):
        verdict.raise_if_stopped()


def test_more_failing_series_than_the_budget_stop_the_run():
    verdict = ask(clean().filter(~pl.col("unique_id").is_in(["w1", "w2"])))

    with pytest.raises(GateError, match="missing_series"):
        verdict.raise_if_stopped()


def test_a_horizon_of_no_steps_is_refused():
    with pytest.raises(ConfigError, match="horizon is 0"):
        forecast_gate(clean(), None, promised=SERIES, horizon=0, lower=None, history=history(), budget=0.2)


def test_a_night_without_promises_passes():
    assert found(ask(clean().clear(), promised=())) == []
