"""Scenarios: what a setting means, and that the answer has the direction of the physics and the generator's truth."""

from __future__ import annotations

import functools
from datetime import datetime
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from models.fields import injectors_of
from nightcast.contracts.errors import ConfigError
from nightcast.contracts.panel import PanelView
from nightcast.sources.generator import FieldConfig, simulate_field
from nightcast.sources.spec import WorkloadFile
from workloads.panel import panel_workload
from workloads.scenario import FIELD, Answer, Block, Change, Published, fitted, parse_change
from workloads.scenario import answer as answered
from workloads.scenario_settings import case_of

CONFIG = FieldConfig(producers=12, injectors=4, months=84, seed=3)


@functools.cache
def view() -> PanelView:
    spec = WorkloadFile.model_validate(
        {
            "name": "wells",
            "source": {"kind": "field_generator", "params": CONFIG.to_json()},
            "freq": "MS",
            "horizon": 6,
            "unit": "m3/d",
            "lower": 0,
            "features": ["status"],
        }
    )
    workload = panel_workload(spec, Path())
    raw = workload.source.read(as_of=None, data=None, now=datetime(2026, 1, 1))
    data = workload.prepare(raw, workload.gates.raw(raw), workload.recipe("ci"))
    found: PanelView = data.view(data.as_of)
    return found


@functools.cache
def block() -> Block:
    return fitted(view(), draws=30, seed=1)


@functools.cache
def answer(*settings: str) -> Answer:
    return answered(block(), [parse_change(text) for text in settings])


def months() -> list[str]:
    return [f"{time:%Y-%m}" for time in view().future["ds"].unique().sort()]


def wells(found: Answer) -> pl.DataFrame:
    return found.rows.filter(pl.col("unique_id") != FIELD)


def published(factor: float = 2.0) -> Published:
    base = wells(answer(f"{block().injectors[0]}.wwir:+0%")).select("unique_id", "ds", q50=pl.col("base") * factor)
    return Published(base)


@pytest.mark.parametrize(
    ("text", "change"),
    [
        ("I03.wwir:+10%", Change("I03", "wwir", 0.1, True)),
        ("I03.wwir:-2.5%", Change("I03", "wwir", -0.025, True)),
        ("P*.uptime:0.9", Change("P*", "uptime", 0.9, False)),
        (" P1.wbhp = 80 ", Change("P1", "wbhp", 80.0, False)),
        ("I03.wwir:+10%@2025-03", Change("I03", "wwir", 0.1, True, "2025-03", "2025-03")),
        ("I03.wwir:+10%@2025-03..2025-05", Change("I03", "wwir", 0.1, True, "2025-03", "2025-05")),
        ("I03.wwir:250 @ 2025-03 ..", Change("I03", "wwir", 250.0, False, "2025-03", "")),
        ("15/9-F-1 C.uptime:0.5", Change("15/9-F-1 C", "uptime", 0.5, False)),
    ],
)
def test_a_setting_names_wells_a_column_and_a_value(text: str, change: Change) -> None:
    assert parse_change(text) == change


@pytest.mark.parametrize(
    "text", ["I03:+10%", "I03.wwir", "I03.wwir:+10", "I03.wopr:5", "x.wwir:ten", "I03.wwir:10%", "I03.wwir:5@soon"]
)
def test_a_setting_that_cannot_be_meant_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="--set"):
        parse_change(text)


def test_a_well_that_is_not_there_is_named_with_those_that_are() -> None:
    with pytest.raises(ConfigError, match="NOBODY"):
        answer("NOBODY.wwir:+10%")


def test_more_injection_never_takes_from_a_well_and_is_felt_by_the_connected_ones() -> None:
    truth = simulate_field(CONFIG).truth
    injector = max(injectors_of(view()), key=lambda name: truth.connectivity[truth.injectors.index(name)].sum())
    share = truth.connectivity[truth.injectors.index(injector)]

    rows = answer(f"{injector}.wwir:+10%").rows.filter(pl.col("unique_id") != FIELD)

    assert (rows["change"] >= -1e-9).all()
    gained = dict(rows.filter(pl.col("horizon") == 6).select("unique_id", "change").iter_rows())
    felt = [gained[name] > 0 for name, f in zip(truth.producers, share, strict=True) if f > 0.05 and name in gained]
    assert np.mean(felt) >= 0.95


def test_the_gain_is_no_more_than_the_water_and_grows_as_it_arrives() -> None:
    injector = injectors_of(view())[0]
    last = view().support.filter(pl.col("unique_id") == injector)["wwir"].drop_nulls()[-1]

    field = answer(f"{injector}.wwir:+10%").rows.filter(pl.col("unique_id") == FIELD).sort("horizon")

    assert field["change"].max() <= 0.1 * last * 1.001
    assert field["change"].is_sorted()
    assert (field["change_low"] <= field["change"] + 1e-9).all()
    assert (field["change_high"] >= field["change"] - 1e-9).all()


def test_less_uptime_gives_less_in_proportion_at_first() -> None:
    rows = answer("P*.uptime:0").rows

    assert rows["case"].max() == pytest.approx(0.0, abs=1e-9)


def test_a_value_outside_what_a_well_has_seen_is_flagged() -> None:
    injector = injectors_of(view())[0]

    (flag,) = answer(f"{injector}.wwir:+900%").flags
    assert "FAR outside" in flag
    assert "times that range" in flag
    assert answer(f"{injector}.wwir:+0%").flags == ()


def test_nothing_changes_when_nothing_is_changed() -> None:
    rows = answer(f"{injectors_of(view())[0]}.wwir:+0%").rows

    assert rows["change"].abs().max() == 0.0


def test_the_sum_over_the_wells_is_the_field() -> None:
    rows = answer(f"{injectors_of(view())[0]}.wwir:+10%").rows
    sums = rows.filter(pl.col("unique_id") != FIELD).group_by("ds").agg(pl.col("case").sum()).sort("ds")

    assert np.allclose(sums["case"], rows.filter(pl.col("unique_id") == FIELD).sort("ds")["case"])


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("I03.wwir:-150%", "150 %"),
        ("P07.uptime:90", "90"),
        ("P07.uptime:1.5", "1.5"),
        ("P07.uptime:-101%", "101 %"),
        ("P07.wbhp:0", "0 bar"),
        ("P07.wbhp:-100%", "100 %"),
    ],
)
def test_a_value_that_cannot_be_is_refused_by_its_name(text: str, value: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_change(text)

    assert value in caught.value.what
    assert caught.value.expected
    assert caught.value.remedy


def test_ninety_per_cent_of_uptime_is_offered_as_a_share() -> None:
    with pytest.raises(ConfigError, match=r"uptime:0\.9"):
        parse_change("P07.uptime:90")


def test_the_same_well_and_column_is_not_set_twice_for_a_month() -> None:
    first, second = months()[:2]
    for settings in (
        ("I01.wwir:+10%", "I01.wwir:+10%"),
        ("I01.wwir:+10%", "I0*.wwir:+20%"),
        (f"I01.wwir:+10%@{first}..{second}", f"I01.wwir:+20%@{second}"),
    ):
        with pytest.raises(ConfigError, match="set twice"):
            answer(*settings)


def test_settings_of_one_well_in_months_that_do_not_overlap_make_a_schedule() -> None:
    first, third = months()[0], months()[2]
    rows = wells(answer(f"P*.uptime:0@{first}", f"P*.uptime:0@{third}"))

    assert rows.filter(pl.col("horizon").is_in([1, 3]))["case"].max() == 0.0
    assert rows.filter(pl.col("horizon") == 2)["case"].sum() > 0


def test_a_change_from_a_month_on_is_not_felt_before_it() -> None:
    rows = answer(f"I01.wwir:+50%@{months()[2]}..").rows.filter(pl.col("unique_id") == FIELD).sort("horizon")

    assert (rows["change"][:2] == 0).all()
    assert (rows["change"][2:] > 0).all()


@pytest.mark.parametrize("when", ["2031-01", "2020-13", "2031-01..2031-03"])
def test_a_month_that_is_not_forecast_is_refused(when: str) -> None:
    with pytest.raises(ConfigError, match=r"there is no 2020-13|not forecast"):
        answer(f"I01.wwir:+10%@{when}")


def test_the_error_names_real_injectors_with_the_likeliest_first() -> None:
    with pytest.raises(ConfigError) as caught:
        answer("INJ-3.wwir:+10%")

    assert caught.value.expected.startswith("one of I03")
    assert caught.value.remedy == 'such as --set "I03.wwir:+10%"'


def test_the_change_is_laid_on_the_published_forecast() -> None:
    setting = f"{block().injectors[0]}.wwir:+10%"
    own, told = answer(setting), answered(block(), [parse_change(setting)], published=published())

    assert (own.base, told.base) == ("physical", "published")
    assert np.allclose(wells(told)["base"], 2.0 * wells(own)["base"])
    assert np.allclose(wells(told)["change"], wells(own)["change"])
    assert np.allclose(told.rows["case"], told.rows["base"] + told.rows["change"])


def test_the_field_is_the_published_field_where_there_is_a_roll_up() -> None:
    field = view().future.select("ds").unique().sort("ds").with_columns(q50=pl.lit(1234.0))
    told = answered(block(), [parse_change("I01.wwir:+10%")], published=Published(published().rows, field))

    rows = told.rows.filter(pl.col("unique_id") == FIELD).sort("ds")
    change = wells(told).group_by("ds").agg(pl.col("change").sum()).sort("ds")["change"]
    assert (rows["base"] == 1234.0).all()
    assert np.allclose(rows["change"], change)


def test_a_published_well_that_is_shut_in_the_case_gives_nothing_and_none_goes_below_0() -> None:
    shut = answered(block(), [parse_change("P*.uptime:0")], published=published(2.0))
    less = answered(block(), [parse_change("P*.uptime:-90%")], published=published(0.2))

    assert (wells(shut)["case"] == 0).all()
    assert np.allclose(wells(shut)["change"], -wells(shut)["base"])
    assert (wells(less)["case"] >= 0).all()
    assert (wells(less)["base"] + wells(less)["change_low"] >= -1e-9).all()


def test_a_lower_pressure_gives_more_with_an_interval_that_is_one() -> None:
    rows = wells(answer("P*.wbhp:-10%")).filter(pl.col("change") != 0)

    assert rows.height > 0
    assert (rows["change"] > 0).all()
    assert (rows["change_high"] > rows["change_low"]).all()


def test_the_interval_of_injection_is_wider_than_what_its_connectivities_leave_open() -> None:
    """Time constants and what a tank leaves out are drawn as well: no pair is known to a tenth."""
    rows = wells(answer("I01.wwir:+10%")).filter((pl.col("change") > 0.2) & (pl.col("horizon") == 6))

    assert rows.height > 0
    assert ((rows["change_high"] - rows["change_low"]) > 0.2 * rows["change"]).all()


def test_rows_that_an_outlying_setting_reaches_say_by_how_much() -> None:
    setting = f"I01.wwir:+5000%@{months()[1]}.."
    rows = wells(answer(setting))
    reached = rows.filter(pl.col("change") != 0)

    assert reached["extrapolated"].all()
    assert (reached["beyond"] > 5).all()
    assert not rows.filter(pl.col("horizon") == 1)["extrapolated"].any()
    assert not answer("I01.wwir:+0%").rows["extrapolated"].any()


def test_voidage_of_base_and_case_stand_beside_the_answer() -> None:
    table = answer("*.wwir:+20%").voidage

    assert table["injected_case"].to_numpy() == pytest.approx(1.2 * table["injected_base"].to_numpy())
    assert (table["vrr_case"] > table["vrr_base"]).all()
    assert np.allclose(table["vrr_base"], table["injected_base"] / table["produced_base"])


def test_a_uptime_above_the_whole_month_is_capped_and_said() -> None:
    assert any("no more than 1" in flag for flag in answer("P*.uptime:+50%").flags)


def test_a_percentage_of_nothing_is_said_to_change_nothing() -> None:
    base = {"injection": np.zeros((6, 1)), "uptime": np.ones((6, 0)), "pressure": np.ones((6, 0))}
    seen = {"injection": np.zeros((9, 1)), "uptime": np.ones((9, 0)), "pressure": np.ones((9, 0))}
    names: dict[str, tuple[str, ...]] = {"injection": ("I01",), "uptime": (), "pressure": ()}

    found = case_of(base, seen, [parse_change("I01.wwir:+10%")], names, view().future["ds"].unique().sort().to_list())

    assert "give a value" in found.flags[0]


def test_pressure_of_a_well_without_a_gauge_is_refused_and_a_pattern_leaves_it_out() -> None:
    times = view().future["ds"].unique().sort().to_list()
    pressure = np.column_stack([np.full(6, 90.0), np.full(6, np.nan)])
    base = {"injection": np.ones((6, 0)), "uptime": np.ones((6, 2)), "pressure": pressure}
    names: dict[str, tuple[str, ...]] = {"injection": (), "uptime": ("P1", "P2"), "pressure": ("P1", "P2")}

    with pytest.raises(ConfigError, match="P2 has no known bottom-hole pressure"):
        case_of(base, base, [parse_change("P2.wbhp:-5%")], names, times)
    found = case_of(base, base, [parse_change("P*.wbhp:90")], names, times)

    assert found.changed == ("P1",)
    assert "P2" in found.flags[0]


def test_the_same_seed_gives_the_same_answer() -> None:
    once, again = (fitted(view(), draws=10, seed=4) for _ in range(2))
    changes = [parse_change("I01.wwir:+10%")]

    assert answered(once, changes).rows.equals(answered(again, changes).rows)
