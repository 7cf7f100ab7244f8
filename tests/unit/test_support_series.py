from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from pathlib import Path

import polars as pl
import pytest

from nightcast.contracts.columns import Role
from nightcast.contracts.panel import PanelDataset
from nightcast.contracts.schema import PanelSchema
from workloads.panel import dataset_from_rows

ROLES: dict[str, Role] = {"uptime": "plan", "wwir": "plan", "wbhp": "past"}


def month(number: int) -> datetime:
    return datetime(2020 + (number - 1) // 12, (number - 1) % 12 + 1, 1)


def field(plan: pl.DataFrame | None = None, roles: dict[str, Role] = ROLES) -> PanelDataset:
    months = range(1, 13)
    producer = pl.DataFrame(
        {
            "unique_id": "P",
            "ds": [month(m) for m in months],
            "y": [100.0 - m for m in months],
            "uptime": [0.9] * 12,
            "wwir": [None] * 12,
            "wbhp": [80.0] * 12,
            "series_role": "target",
        },
        schema_overrides={"wwir": pl.Float64},
    )
    injector = producer.with_columns(
        unique_id=pl.lit("I"),
        y=pl.lit(None, pl.Float64),
        wwir=pl.Series([200.0 + m for m in months]),
        wbhp=None,
        series_role=pl.lit("support"),
    )
    schema = PanelSchema(freq="MS", horizon=3, covariates=roles)
    return dataset_from_rows(pl.concat([producer, injector], how="vertical_relaxed"), schema, (), month(12), 12, plan)


def test_a_view_holds_the_support_series_up_to_the_cutoff_beside_the_panel() -> None:
    view = field().view(month(8))

    assert view.history["unique_id"].unique().to_list() == ["P"]
    assert view.support.select("unique_id", "ds", "wwir").rows() == [("I", month(m), 200.0 + m) for m in range(1, 9)]


def test_without_a_plan_the_support_series_carry_their_last_known_value_on() -> None:
    view = field().view(month(8))

    assert view.support_future.select("ds", "horizon", "wwir").rows() == [(month(8 + h), h, 208.0) for h in (1, 2, 3)]


def test_a_plan_of_a_support_series_reaches_the_view_step_by_step() -> None:
    plan = pl.DataFrame(
        {"unique_id": ["I", "I"], "ds": [month(9), month(11)], "wwir": [0.0, 300.0], "uptime": [None, 1.0]}
    )

    view = field(plan).view(month(8))

    assert view.support_future["wwir"].to_list() == [0.0, 208.0, 300.0]
    assert view.future["uptime"].to_list() == [0.9, 0.9, 0.9]


def test_past_covariates_of_support_series_have_no_future() -> None:
    view = field(roles={"uptime": "past", "wwir": "past", "wbhp": "past"}).view(month(8))

    assert view.support_future.columns == ["unique_id", "ds", "horizon"]
    assert view.support_future.height == 3


def test_what_support_series_do_after_the_cutoff_changes_nothing_in_the_view() -> None:
    data = field()
    assert data.support is not None
    later = pl.when(pl.col("ds") > month(8)).then(9e9).otherwise(pl.col("wwir")).alias("wwir")

    other = replace(data, support=data.support.with_columns(later)).view(month(8))

    assert other.support.equals(data.view(month(8)).support)
    assert other.support_future.equals(data.view(month(8)).support_future)


def test_a_rolling_window_cuts_support_series_too() -> None:
    view = field().view(month(8), start=month(5))

    assert view.support["ds"].min() == month(5)


def test_support_series_survive_saving_and_count_in_the_hash(tmp_path: Path) -> None:
    data = field()
    assert data.support is not None
    data.save(tmp_path)

    again = PanelDataset.load(tmp_path)

    assert again.hash == data.hash
    assert again.support is not None
    assert again.support.equals(data.support)
    assert replace(data, support=data.support.with_columns(wwir=pl.col("wwir") + 1)).hash != data.hash


@pytest.mark.parametrize("role", ["past", "plan"])
def test_a_panel_without_support_series_has_empty_support(role: Role) -> None:
    data = replace(field(roles={"uptime": role, "wwir": role, "wbhp": role}), support=None)

    view = data.view(month(8))

    assert view.support.is_empty()
    assert view.support_future.is_empty()
