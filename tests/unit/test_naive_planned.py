"""The naive that reads the plan: arithmetic on days on stream, and silence where nothing is planned."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from models.families.naive import NaiveLast, NaivePlanned, NaiveUptime
from models.grid import median_of_known
from nightcast.contracts.panel import PanelDataset, PanelView
from nightcast.contracts.schema import FeatureColumn, PanelSchema
from nightcast.sources.spec import WorkloadFile
from workloads.panel import panel_workload

MONTHS = 24
CUTOFF = datetime(2021, 9, 1)


def field(rates: list[float], uptime: list[float], *, role: str = "plan") -> PanelView:
    """One well of a year and nine months to the cutoff; the rows after it are its plan."""
    ds = [datetime(2020 + m // 12, m % 12 + 1, 1) for m in range(len(rates))]
    schema = PanelSchema(freq="MS", horizon=3, lower=0.0, covariates={"uptime": role})
    frame = pl.DataFrame(
        {
            "unique_id": ["w"] * len(ds),
            "ds": ds,
            "y": [r * u for r, u in zip(rates, uptime, strict=True)],
            "uptime": uptime,
        },
        schema_overrides={"ds": pl.Datetime("us")},
    )
    plan = frame.select("unique_id", "ds", "uptime") if role == "plan" else None
    data = PanelDataset(frame, schema, {"uptime": FeatureColumn(role=role)}, as_of=ds[-1], plan=plan)
    return data.view(CUTOFF)


def test_the_forecast_is_the_median_of_the_last_three_producing_day_rates_times_the_planned_uptime() -> None:
    rates = [100.0] * 18 + [90.0, 200.0, 80.0] + [1.0] * 3
    uptime = [1.0] * 19 + [0.5, 0.25] + [0.5, 0.0, 1.0]
    view = field(rates, uptime)

    told = NaivePlanned().fit(view, seed=1).predict(view).frame.sort("horizon")

    assert told.get_column("q50").to_list() == pytest.approx([45.0, 0.0, 90.0], abs=1.0)


def test_shut_months_do_not_count_as_rates() -> None:
    rates = [100.0] * 15 + [60.0, 50.0, 40.0, 999.0, 999.0, 999.0] + [1.0] * 3
    uptime = [1.0] * 18 + [0.0, 0.01, 0.0] + [1.0] * 3
    view = field(rates, uptime)

    told = NaivePlanned().fit(view, seed=1).predict(view).frame.sort("horizon")

    assert told.get_column("q50").to_list() == pytest.approx([50.0] * 3, rel=0.2)


def test_without_a_planned_uptime_every_series_is_left_out_with_the_reason() -> None:
    view = field([100.0] * MONTHS, [1.0] * MONTHS, role="past")
    model = NaivePlanned().fit(view, seed=1)

    assert model.predict(view).frame.is_empty()
    assert model.left_out(view) == {"w": "no 'uptime' is planned"}


def test_a_saved_one_answers_the_same(tmp_path: Path) -> None:
    from models.catalog import load_model

    view = field([100.0 + m % 5 for m in range(MONTHS)], [1.0 - 0.1 * (m % 4) for m in range(MONTHS)])
    model = NaivePlanned().fit(view, seed=1)
    model.save(tmp_path / "m")

    assert load_model(tmp_path / "m").predict(view).frame.equals(model.predict(view).frame)


def test_it_beats_the_last_value_where_the_plan_is_what_changes() -> None:
    rng = np.random.default_rng(3)
    uptime = rng.uniform(0.3, 1.0, MONTHS).tolist()
    view = field(rng.normal(100, 2, MONTHS).tolist(), uptime)
    actual = 100 * np.array(uptime[21:24])
    planned, last = (
        its().fit(view, seed=1).predict(view).frame.sort("horizon").get_column("q50").to_numpy()
        for its in (NaivePlanned, NaiveLast)
    )

    assert np.abs(planned - actual).mean() < 0.2 * np.abs(last - actual).mean()


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_the_running_median_equals_a_loop(count: int) -> None:
    rng = np.random.default_rng(count)
    values = np.where(rng.random((5, 30)) < 0.4, np.nan, rng.normal(size=(5, 30)))

    fast = median_of_known(values, count)

    for n in range(5):
        for t in range(30):
            known = values[n, : t + 1][~np.isnan(values[n, : t + 1])][-count:]
            assert (np.isnan(fast[n, t]) and not known.size) or fast[n, t] == pytest.approx(np.median(known))


def test_nights_with_a_known_plan_hold_themselves_against_it_and_nights_without_do_not() -> None:
    def baselines(**source: str) -> tuple[str, ...]:
        spec = WorkloadFile.model_validate(
            {"name": "w", "kind": "panel", "source": {"kind": "field_generator", **source}, "freq": "MS", "horizon": 6}
        )
        return panel_workload(spec, Path()).baselines

    assert {"naive_planned", "naive_uptime"} <= set(baselines(plan="known"))
    assert "naive_planned" not in baselines()
    assert "naive_uptime" in baselines()


def test_without_a_plan_the_last_producing_day_rate_is_carried_on_at_the_wells_own_mean_uptime() -> None:
    rates = [100.0] * 9 + [50.0] * 10 + [80.0, 999.0] + [1.0] * 3
    uptime = [0.2] * 9 + [1.0] * 9 + [0.5, 0.5, 0.02] + [1.0] * 3
    view = field(rates, uptime, role="past")

    told = NaiveUptime().fit(view, seed=1).predict(view).frame.sort("horizon")

    usual = float(np.mean(uptime[9:21]))  # the twelve steps to the cutoff
    assert told.get_column("q50").to_list() == pytest.approx([80.0 * usual] * 3, rel=0.1)


def test_at_full_uptime_it_is_the_last_value() -> None:
    view = field([100.0] * 10 + [60.0, 70.0] * 7, [1.0] * 24, role="past")

    ours, last = (model.fit(view, seed=1).predict(view).frame for model in (NaiveUptime(), NaiveLast()))

    assert ours.equals(last)


def test_where_uptime_is_not_reported_the_naive_of_uptime_leaves_everyone_out() -> None:
    view = field([100.0] * 24, [1.0] * 24, role="past")
    schema = PanelSchema(freq="MS", horizon=3, lower=0.0)
    data = PanelDataset(view.history.drop("uptime"), schema, {}, as_of=CUTOFF)
    model = NaiveUptime().fit(data.view(CUTOFF), seed=1)

    answer = model.predict(data.view(CUTOFF))

    assert answer.frame.height == 0
