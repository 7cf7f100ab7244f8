"""Voidage replacement: volumes by month, what is unknown, groups, and factors."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nightcast.contracts.errors import ConfigError
from nightcast.evaluation.voidage import COLUMNS, voidage_replacement
from nightcast.sources.generator import FieldConfig, simulate_field

RATES = st.lists(st.floats(0.5, 500) | st.none(), min_size=1, max_size=8)


def month(number: int) -> datetime:
    return datetime(2023 + (number - 1) // 12, (number - 1) % 12 + 1, 1)


def rows(column: str, **wells: Sequence[float | None]) -> pl.DataFrame:
    """Wells from January 2023 on; `P1__A` is the well P1 of pad A."""
    parts = []
    for name, values in wells.items():
        well, _, pad = name.partition("__")
        parts += [(well, month(at), value, pad or None) for at, value in enumerate(values, start=1)]
    schema: dict[str, Any] = {"unique_id": pl.String, "ds": pl.Datetime("us"), column: pl.Float64, "pad": pl.String}
    return pl.DataFrame(parts, schema=schema, orient="row")


def told(history: pl.DataFrame, support: pl.DataFrame, group: str = "field", **more: Any) -> pl.DataFrame:
    return voidage_replacement(history, support, **more).filter(group=group)


def test_a_month_counts_with_its_days_and_the_cumulative_ratio_weighs_months_by_volume() -> None:
    table = told(rows("y", P1=[100, 50]), rows("wwir", I1=[100, 150]))

    assert table.columns == list(COLUMNS)
    assert table["produced"].to_list() == [3100, 50 * 28]
    assert table["injected"].to_list() == [3100, 150 * 28]
    assert table["vrr"].to_list() == [1.0, 3.0]
    assert table["cumulative_vrr"].to_list() == pytest.approx([1.0, (3100 + 150 * 28) / (3100 + 50 * 28)])


def test_an_unknown_month_is_null_not_zero_and_stays_out_of_the_cumulative() -> None:
    table = told(rows("y", P1=[100, 100, 100]), rows("wwir", I1=[80, None, 80]))

    assert table["injected"].to_list() == [80 * 31, None, 80 * 31]
    assert table["vrr"].to_list() == [0.8, None, 0.8]
    assert table["cumulative_produced"].to_list() == [3100, 3100, 6200]
    assert table["cumulative_vrr"].to_list() == pytest.approx([0.8] * 3)
    assert table["injectors_known"].to_list() == [1, 0, 1]


def test_one_well_missing_among_many_is_told_and_does_not_hide_the_month() -> None:
    producers = {f"P{at}": [100.0, 100.0] for at in range(1, 11)} | {"P3": [100.0, None]}
    history, support = rows("y", **producers), rows("wwir", I1=[1000, 900])

    table = told(history, support)
    strict = told(history, support, least_known=1.0)

    assert table.select("producers", "producers_known").rows() == [(10, 10), (10, 9)]
    assert table["vrr"].to_list() == [1.0, 1.0]
    assert strict["vrr"].to_list() == [1.0, None]


def test_a_well_is_expected_from_its_first_month_on_and_no_longer_once_it_is_long_gone() -> None:
    early, late = [100.0] * 3 + [None] * 17, [None] * 5 + [100.0] * 15
    history = rows("y", P1=[100.0] * 20, P2=early, P3=late)

    table = told(history, rows("wwir", I1=[200.0] * 20))

    assert table["producers"].to_list() == [2] * 3 + [1] * 2 + [2] * 15
    assert table["vrr"].to_list() == [1.0] * 3 + [2.0] * 2 + [1.0] * 15


def test_a_well_that_has_not_reported_the_last_months_is_missing_not_gone() -> None:
    table = told(rows("y", P1=[100, 100], P2=[100, None]), rows("wwir", I1=[200, 200]))

    assert table["producers"].to_list() == [2, 2]
    assert table["vrr"].to_list() == [1.0, None]


def test_before_the_first_known_injection_the_ratio_is_unknown_and_reported_zeros_are_zeros() -> None:
    history = rows("y", P1=[100, 100])

    assert told(history, rows("wwir", I1=[None, 100]))["vrr"].to_list() == [None, 1.0]
    assert told(history, rows("wwir", I1=[0, 100]))["vrr"].to_list() == [0.0, 1.0]
    assert told(history, rows("wwir"))["vrr"].to_list() == [None, None]
    assert told(rows("y", P1=[None, 50]), rows("wwir", I1=[100, 100]))["cumulative_vrr"].to_list() == [None, 2.0]


def test_pads_add_up_to_the_field_and_an_injector_counts_on_its_own_pad() -> None:
    history = rows("y", P1__A=[100, 100], P2__B=[100, 100])
    support = rows("wwir", I1__A=[150, 150])

    table = voidage_replacement(history, support)

    assert table["group"].unique(maintain_order=True).to_list() == ["field", "A", "B"]
    ratios = dict(table.group_by("group", maintain_order=True).agg(pl.col("cumulative_vrr").last()).iter_rows())
    assert ratios == {"field": 0.75, "A": 1.5, "B": 0.0}
    volumes = table.filter(pl.col("group") != "field").group_by("ds").agg(pl.col("produced", "injected").sum())
    whole = table.filter(group="field")
    assert volumes.sort("ds").select("produced", "injected").equals(whole.select("produced", "injected"))


def test_groups_may_be_given_and_a_well_without_one_counts_in_the_field_alone() -> None:
    table = voidage_replacement(
        rows("y", P1__A=[100], P2__B=[300]), rows("wwir", I1__A=[100]), group={"P1": "north", "I1": "north"}
    )

    assert dict(table.select("group", "vrr").iter_rows()) == {"field": 0.25, "north": 1.0}


def test_factors_turn_surface_volumes_into_reservoir_volumes() -> None:
    history = rows("y", P1=[100]).with_columns(wopr=pl.lit(40.0))
    support = rows("wwir", I1=[100])

    assert told(history, support, water_fvf=1.02)["vrr"].item() == pytest.approx(1.02)
    assert told(history, support, liquid_fvf=1.25)["vrr"].item() == pytest.approx(0.8)
    split = told(history, support, oil_fvf=1.3, water_fvf=1.02)
    assert split["produced"].item() == pytest.approx(31 * (40 * 1.3 + 60 * 1.02))


def test_a_month_without_an_oil_rate_is_unknown_where_oil_has_a_factor_of_its_own() -> None:
    history = rows("y", P1=[100, 100]).with_columns(wopr=pl.Series([40.0, None]))

    table = told(history, rows("wwir", I1=[100, 100]), oil_fvf=1.3)

    assert table["produced"].null_count() == 1
    assert table["vrr"][1] is None


def test_a_month_in_which_nothing_was_produced_has_no_ratio() -> None:
    table = told(rows("y", P1=[0, 100]), rows("wwir", I1=[100, 100]))

    assert table["vrr"].to_list() == [None, 1.0]
    assert table["cumulative_vrr"].to_list() == pytest.approx([None, (31 + 28) / 28])


def test_a_month_without_a_row_of_any_well_is_there_and_unknown() -> None:
    gap = pl.col("ds") != month(2)

    table = told(rows("y", P1=[100] * 3).filter(gap), rows("wwir", I1=[100] * 3).filter(gap))

    assert table["ds"].to_list() == [month(1), month(2), month(3)]
    assert table["vrr"].to_list() == [1.0, None, 1.0]


@given(RATES, RATES, st.floats(0.5, 2.0))
def test_scaling_injection_scales_every_ratio_and_sums_follow_from_months(
    out: list[float | None], put: list[float | None], factor: float
) -> None:
    history, support = rows("y", P1=out), rows("wwir", I1=put)
    scaled = support.with_columns(pl.col("wwir") * factor)

    table, other = told(history, support), told(history, scaled)

    for name in ("vrr", "cumulative_vrr"):
        assert other[name].to_list() == pytest.approx([None if v is None else v * factor for v in table[name]])
    both = table.filter(pl.col("produced").is_not_null() & pl.col("injected").is_not_null())
    assert table["cumulative_injected"][-1] == pytest.approx(sum(both["injected"]))
    assert table["vrr"].drop_nulls().len() == both.height


def test_a_generated_field_replaces_the_voidage_its_truth_says() -> None:
    """With observation errors of rates and wells that come and go."""
    field = simulate_field(FieldConfig(producers=12, injectors=4, months=48, seed=3))
    history = field.monthly.filter(pl.col("series_role") == "target")
    support = field.monthly.filter(pl.col("series_role") == "support")

    table = told(history, support)

    assert table["vrr"].drop_nulls().len() >= 30
    assert table["cumulative_vrr"][-1] == pytest.approx(field.truth.vrr, rel=0.06)


def test_no_rows_give_no_rows() -> None:
    assert voidage_replacement(rows("y"), rows("wwir")).is_empty()


@pytest.mark.parametrize(
    ("history", "support", "more", "said"),
    [
        (rows("y", P1=[1]).drop("y"), rows("wwir", I1=[1]), {}, r"producers lack \['y'\]"),
        (rows("y", P1=[1]), rows("wwir", I1=[1]), {"oil_fvf": 1.2}, r"producers lack \['wopr'\]"),
        (rows("y", P1=[-1]), rows("wwir", I1=[1]), {}, "'y' of 'P1' .* is -1"),
        (rows("y", P1=[1]), rows("wwir", I1=[float("inf")]), {}, "'wwir' of 'I1' .* is inf"),
        (pl.concat([rows("y", P1=[1])] * 2), rows("wwir", I1=[1]), {}, "'P1' has 2023-01-01 .* twice"),
        (rows("y", P1=[1]).with_columns(ds=pl.lit(datetime(2023, 1, 5))), rows("wwir"), {}, "2023-01-05"),
        (rows("y", P1=[1]), rows("wwir"), {"water_fvf": 0.0}, "water_fvf is 0.0"),
        (rows("y", P1=[1]), rows("wwir"), {"least_known": 0.0}, "least_known is 0.0"),
        (rows("y", P1=[1]), rows("wwir"), {"gone_after": -1}, "gone_after is -1"),
        (rows("y", P1__field=[1]), rows("wwir"), {}, "a group is called 'field'"),
    ],
)
def test_what_cannot_be_summed_is_refused_by_name(
    history: pl.DataFrame, support: pl.DataFrame, more: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        voidage_replacement(history, support, **more)
