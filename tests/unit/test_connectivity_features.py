"""Support by a capacitance-resistance fit as a feature: from earlier years only, for wells the fit knows."""

from __future__ import annotations

import functools
from datetime import datetime
from typing import Any

import numpy as np
import polars as pl
import pytest

from nightcast.contracts.errors import ConfigError
from nightcast.contracts.recipe import FeatureChoice
from nightcast.contracts.schema import PanelSchema
from nightcast.features import connectivity
from nightcast.features.catalog import build_features
from nightcast.features.grid import regular_grid
from nightcast.features.sentry import future_leaks
from nightcast.physics import Crm, CrmParams, Waterflood, fit_crm
from nightcast.sources.generator import FieldConfig, simulate_field

SCHEMA = PanelSchema(
    freq="MS",
    horizon=3,
    covariates={"wwir": "past", "wbhp": "past", "uptime": "past", "x_m": "static", "y_m": "static"},
    lower=0,
)
MADE = ["crm_support_share", "crm_support_change_3", "crm_support_to_come"]
BY_THE_FIT = [*MADE[1:], "inj_wwir_lag_weighted", "crm_support_sd", "crm_largest_share", "crm_lag_days"]
"""Columns that no rate of the row's own year enters."""


@functools.cache
def field() -> pl.DataFrame:
    """Five years of a small generated field, on its grid."""
    rows = simulate_field(FieldConfig(producers=8, injectors=3, months=60, seed=3)).monthly
    return regular_grid(rows, SCHEMA, as_of=datetime(2019, 12, 1), retire_after=6)[0]


def built(frame: pl.DataFrame, **params: Any) -> pl.DataFrame:
    return build_features(frame, SCHEMA, [FeatureChoice(name="crm_support", params=params)])[0]


def in_year(year: int) -> pl.Expr:
    return pl.col("ds").dt.year() == year


@pytest.mark.parametrize("every", [1, 2])
@pytest.mark.parametrize("cutoff", [datetime(2016, 12, 1), datetime(2017, 1, 1), datetime(2018, 8, 1)])
def test_the_future_changes_no_support_of_the_past(every: int, cutoff: datetime) -> None:
    choice = [FeatureChoice(name="crm_support", params={"refit_every_years": every})]

    assert future_leaks(lambda f, s: build_features(f, s, choice), field(), SCHEMA, cutoff, 7) == []
    assert built(field(), refit_every_years=every).filter(in_year(2018)).get_column(MADE[0]).count() > 50


def test_the_fit_of_a_year_does_not_know_the_rates_of_that_year() -> None:
    wild = pl.when(in_year(2018)).then(pl.col("y") * 9 + 1).otherwise(pl.col("y")).alias("y")

    one, other = built(field()), built(field().with_columns(wild))

    upto = pl.col("ds").dt.year() <= 2018
    assert one.filter(upto).select(BY_THE_FIT).equals(other.filter(upto).select(BY_THE_FIT))
    assert not one.filter(~upto).select(BY_THE_FIT).equals(other.filter(~upto).select(BY_THE_FIT))
    assert one.filter(upto)["crm_lag_days"].count() > 50


def test_support_begins_in_the_year_that_has_enough_months_before_it() -> None:
    known = built(field()).filter(pl.col(MADE[0]).is_not_null())
    patient = built(field(), least_history=30).filter(pl.col(MADE[0]).is_not_null())

    assert known.get_column("ds").min() == datetime(2017, 1, 1)
    assert patient.get_column("ds").min() == datetime(2018, 1, 1)


def test_injectors_and_wells_that_the_fit_did_not_know_have_none() -> None:
    frame = field()
    well = frame.filter(pl.col("y").is_not_null()).get_column("unique_id").unique().sort().first()
    late = (pl.col("unique_id") != well) | (pl.col("ds") >= datetime(2018, 4, 1))

    out = built(frame.filter(late))

    young = out.filter(pl.col("unique_id") == well)
    assert young.filter(in_year(2018)).get_column(MADE[1]).count() == 0
    assert young.filter(in_year(2019)).get_column(MADE[1]).count() == 12
    assert out.filter(pl.col("series_role") == "support").get_column(MADE[0]).count() == 0


@pytest.mark.parametrize(("every", "years"), [(1, [2017, 2018, 2019, 2020]), (2, [2017, 2019])])
def test_a_fit_serves_so_many_years(every: int, years: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def watched(flood: Waterflood, params: CrmParams) -> Crm:
        seen.append(2015 + len(flood.days) // 12)
        return fit_crm(flood, params)

    monkeypatch.setattr(connectivity, "fit_crm", watched)

    built(field(), refit_every_years=every)

    assert seen == years


def test_a_window_keeps_the_latest_months_of_the_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def watched(flood: Waterflood, params: CrmParams) -> Crm:
        seen.append(flood)
        return fit_crm(flood, params)

    monkeypatch.setattr(connectivity, "fit_crm", watched)

    built(field(), window=30)

    assert [len(flood.days) for flood in seen] == [24, 30, 30, 30]
    assert seen[0].days[1] == 28, "February 2015"
    assert seen[1].days[:2].tolist() == [31, 31], "July and August 2015"


def two_pairs(months: int = 48) -> pl.DataFrame:
    """Two far pairs: 60 % of an injector's water supports the producer beside it; the first is doubled at the end."""
    rng = np.random.default_rng(1)
    parts = []
    for pair in range(2):
        water = 200 * rng.uniform(0.5, 1.5, months)
        if pair == 0:
            water[-2:] = 800.0
        state, rate = water[0], np.zeros(months)
        for month in range(months):
            state += (water[month] - state) * 0.6
            rate[month] = 20 + 0.6 * state
        for name, role, y, wwir in (("P", "target", rate, None), ("I", "support", None, water)):
            parts.append(
                pl.DataFrame(
                    {
                        "unique_id": f"{name}{pair}",
                        "ds": [SCHEMA.freq.shift(datetime(2015, 1, 1), k) for k in range(months)],
                        "y": pl.Series([None] * months if y is None else y.tolist(), dtype=pl.Float64),
                        "wwir": pl.Series([None] * months if wwir is None else wwir.tolist(), dtype=pl.Float64),
                        "wbhp": pl.Series([None] * months, dtype=pl.Float64),
                        "uptime": 1.0,
                        "x_m": 5000.0 * pair + (200.0 if name == "I" else 0.0),
                        "y_m": 0.0,
                        "series_role": role,
                    }
                )
            )
    return regular_grid(pl.concat(parts), SCHEMA, as_of=datetime(2018, 12, 1), retire_after=6)[0]


def test_the_share_is_the_water_that_arrives_over_what_is_produced() -> None:
    late = built(two_pairs()).filter(in_year(2018) & (pl.col("ds") < datetime(2018, 11, 1)))

    for pair in (0, 1):
        share = late.filter(pl.col("unique_id") == f"P{pair}").get_column(MADE[0]).mean()
        assert isinstance(share, float)
        assert 0.6 < share < 1.1, "six sevenths by the truth"


def test_a_rise_of_injection_shows_before_it_has_arrived() -> None:
    out = built(two_pairs()).filter(pl.col("ds") == datetime(2018, 11, 1)).sort("unique_id")

    first, second = out.filter(pl.col("unique_id").str.starts_with("P")).get_column(MADE[2])
    assert first > 0.1
    assert first > 2 * second


def test_the_support_the_fit_finds_is_nearer_to_the_truth_than_the_map_s() -> None:
    fld = simulate_field(FieldConfig(producers=12, injectors=4, months=84, seed=3))
    grid = regular_grid(fld.monthly, SCHEMA, as_of=datetime(2021, 12, 1), retire_after=6)[0]
    choices = [FeatureChoice(name="injection"), FeatureChoice(name="crm_support")]
    truth = fld.truth.monthly.select("unique_id", "ds", pl.col("support").alias("true_support"))

    out = build_features(grid, SCHEMA, choices)[0].join(truth, on=["unique_id", "ds"]).drop_nulls("crm_support_sd")
    out = out.filter(pl.col("true_support") > 1)

    def rank(name: str) -> float:
        return float(out.select(pl.corr(name, "true_support", method="spearman")).item())

    assert rank("inj_wwir_lag_weighted") > max(0.7, 1.2 * rank("inj_distance_weighted"))
    away = (out["inj_wwir_lag_weighted"] - out["true_support"]).abs()
    inside = (away < 1.645 * out["crm_support_sd"] * out["inj_wwir_lag_weighted"]).mean()
    assert isinstance(inside, float)
    assert 0.7 < inside < 0.99, "nine tenths, if the standard deviation is right"


def test_the_parts_of_what_is_told_of_the_support_agree_with_one_another() -> None:
    out = built(field()).drop_nulls("crm_vrr")

    support = out["inj_wwir_lag_weighted"]
    np.testing.assert_allclose(out["crm_vrr"], support / out["y"])
    injectors = field().filter(pl.col("series_role") == "support").drop_nulls("wwir")["unique_id"].n_unique()
    assert out["crm_largest_share"].drop_nulls().is_between(1 / injectors - 1e-9, 1 + 1e-9).all()
    assert out["crm_lag_days"].drop_nulls().is_between(0, 400).all()
    for k in (1, 3, 6):
        name = f"crm_support_change_{k}"
        own = out.filter((pl.col("ds").dt.month() > k) & in_year(2019)).drop_nulls(name)
        earlier = out.select("unique_id", pl.col("ds").dt.offset_by(f"{k}mo"), before="inj_wwir_lag_weighted")
        both = own.join(earlier, on=["unique_id", "ds"])
        assert both.height > 20
        np.testing.assert_allclose(both[name], both["inj_wwir_lag_weighted"] / both["before"] - 1, atol=1e-12)


def test_the_cumulative_ratio_is_that_of_volumes_and_of_a_known_pair_near_its_truth() -> None:
    out = built(two_pairs()).filter(in_year(2018) & pl.col("unique_id").str.starts_with("P"))
    steady = out.filter(pl.col("ds") == datetime(2018, 10, 1)).sort("unique_id")

    assert steady["crm_vrr_cumulative"].is_between(0.6, 1.1).all(), "six sevenths by the truth"
    jump = out.filter(unique_id="P0").sort("ds").tail(2)
    moved = jump["crm_vrr"].to_numpy() / steady["crm_vrr"][0] - 1
    cumulated = jump["crm_vrr_cumulative"].to_numpy() / steady["crm_vrr_cumulative"][0] - 1
    assert (np.abs(cumulated) < np.abs(moved)).all(), "three years weigh more than a month"
    assert steady["crm_largest_share"].to_list() == pytest.approx([1.0, 1.0], abs=0.05), "each well has one injector"


def test_a_well_that_two_injectors_support_loses_the_larger_one_s_share() -> None:
    water = {"I0": 150.0, "I1": 50.0}
    rng = np.random.default_rng(2)
    months = 60
    course = {name: mean * rng.uniform(0.5, 1.5, months) for name, mean in water.items()}
    state = {name: its[0] for name, its in course.items()}
    rate = np.zeros(months)
    for month in range(months):
        for name, its in course.items():
            state[name] += (its[month] - state[name]) * 0.7
        rate[month] = 10 + 0.7 * sum(state.values())
    parts = []
    for name, y, wwir, x in (("P", rate, None, 0.0), *((n, None, w, 300.0) for n, w in course.items())):
        parts.append(
            pl.DataFrame(
                {
                    "unique_id": name,
                    "ds": [SCHEMA.freq.shift(datetime(2015, 1, 1), k) for k in range(months)],
                    "y": pl.Series([None] * months if y is None else y.tolist(), dtype=pl.Float64),
                    "wwir": pl.Series([None] * months if wwir is None else wwir.tolist(), dtype=pl.Float64),
                    "wbhp": pl.Series([None] * months, dtype=pl.Float64),
                    "uptime": 1.0,
                    "x_m": x * (-1.0 if name == "I1" else 1.0),
                    "y_m": 0.0,
                    "series_role": "target" if wwir is None else "support",
                }
            )
        )
    frame = regular_grid(pl.concat(parts), SCHEMA, as_of=datetime(2019, 12, 1), retire_after=6)[0]

    late = built(frame, changes=[2]).filter(in_year(2019)).drop_nulls("crm_vrr")

    share = late["crm_largest_share"].mean()
    assert isinstance(share, float)
    assert 0.65 < share < 0.85, "three quarters by the truth"
    assert "crm_support_change_2" in late.columns
    assert "crm_support_change_3" not in late.columns


def test_another_unit_of_the_rates_changes_no_share() -> None:
    larger = field().with_columns(pl.col("y") * 8, pl.col("wwir") * 8)

    one, other = built(field()), built(larger)

    for name in (*MADE, "crm_vrr", "crm_vrr_cumulative", "crm_largest_share", "crm_lag_days"):
        np.testing.assert_allclose(
            one.get_column(name).to_numpy(), other.get_column(name).to_numpy(), rtol=0.02, atol=0.01
        )


def test_a_field_without_injectors_has_none_and_a_note_says_so() -> None:
    frame = field().filter(pl.col("series_role") == "target")

    out, _, notes = build_features(frame, SCHEMA, [FeatureChoice(name="crm_support")])

    assert out.get_column(MADE[0]).null_count() == out.height
    assert [note.code for note in notes] == ["crm_support_without_injectors"]


def test_a_field_of_more_wells_than_asked_for_is_not_fitted() -> None:
    assert built(field(), most_wells=3).get_column(MADE[0]).count() == 0


@pytest.mark.parametrize("name", ["refit_every_years", "least_history", "window", "most_wells"])
def test_a_parameter_that_is_no_number_of_steps_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=f"crm_support.{name}"):
        built(field(), **{name: 0})
