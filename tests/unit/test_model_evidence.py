"""What fitted models tell of what they found: against the truth of generated fields, and against themselves."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from models.families.crm import SOURCES, CrmForecaster
from models.families.mixers import AttentionMixer, WellMixer
from models.fields import waterflood_of
from nightcast.contracts.columns import ID, TIME, Role
from nightcast.contracts.errors import ConfigError
from nightcast.contracts.panel import PanelView
from nightcast.contracts.schema import PanelSchema
from nightcast.sources.generator import Field, FieldConfig, simulate_field
from workloads.panel import dataset_from_rows

ROLES: dict[str, Role] = {
    "uptime": "past",
    "wbhp": "past",
    "wwir": "past",
    "x_m": "static",
    "y_m": "static",
    "pad": "static",
}
TINY: dict[str, Any] = {"max_steps": 8, "input_size": 12, "hidden": 8, "blocks": 1, "batch_size": 64}


@cache
def field(variant: str = "standard") -> Field:
    config = FieldConfig(producers=12, injectors=4, months=96, seed=3, level="easy")
    return simulate_field(config.with_(variant=variant))


def view_of(rows: pl.DataFrame, *, without: tuple[str, ...] = ()) -> PanelView:
    roles = {name: role for name, role in ROLES.items() if name not in without}
    last = rows.get_column(TIME).max()
    schema = PanelSchema(freq="MS", horizon=3, lower=0.0, covariates=roles)
    return dataset_from_rows(rows.drop(without), schema, (), last, 12, None).view(last)  # type: ignore[arg-type]


@cache
def fitted(variant: str = "standard") -> tuple[CrmForecaster, PanelView]:
    view = view_of(field(variant).monthly)
    return CrmForecaster().fit(view, seed=1), view


def against_truth(variant: str = "standard") -> pl.DataFrame:
    model, view = fitted(variant)
    truth = field(variant).truth.pairs.select("injector", "producer", "connectivity")
    pairs = model.evidence(view)["connectivity"].join(truth, on=["injector", "producer"], how="left")
    assert pairs["connectivity"].null_count() == 0
    return pairs


def test_the_strongest_identifiable_pairs_of_a_generated_field_are_truly_connected() -> None:
    found = against_truth().filter("identifiable").sort("f", descending=True).head(6)

    assert found.height == 6
    assert (found["connectivity"] > 0.1).all()


def test_identifiable_pairs_rank_as_their_true_connectivities_do() -> None:
    found = against_truth().filter("identifiable")

    assert found.height >= 10
    assert found.select(pl.corr("f", "connectivity", method="spearman")).item() > 0.6
    linked = found.group_by(pl.col("connectivity") > 0.05).agg(pl.col("f").mean())
    means = dict(linked.iter_rows())
    assert means[True] > 2 * means[False]


def test_intervals_from_the_curvature_alone_hold_most_true_connectivities_and_every_estimate() -> None:
    pairs = against_truth()

    assert pairs.select(pl.col("f").is_between("f_low", "f_high")).to_series().all()
    assert pairs["f_low"].is_between(0, 1).all()
    assert pairs["f_high"].is_between(0, 1).all()
    held = pairs.select(pl.col("connectivity").is_between("f_low", "f_high")).to_series().to_numpy()
    assert held.mean() >= 0.8
    assert held[pairs["connectivity"].to_numpy() > 0.05].mean() >= 0.6
    widths = pairs.select(pl.col("f_high") - pl.col("f_low")).to_series().to_numpy()
    assert 0.01 < widths.mean() < 0.4


def test_where_injection_never_changes_no_pair_counts_as_identifiable() -> None:
    assert not against_truth("constant_injection")["identifiable"].any()


def test_an_injectors_shares_and_its_loss_add_up_to_all_of_its_water() -> None:
    model, view = fitted()
    evidence = model.evidence(view)

    total = evidence["connectivity"].group_by("injector").agg(pl.col("f").sum()).join(evidence["injectors"], "injector")

    assert total.height == len(field().truth.injectors)
    np.testing.assert_allclose(total["f"] + total["loss"], 1.0)


def test_the_parts_of_a_modelled_rate_add_up_to_it_and_their_shares_to_one() -> None:
    model, view = fitted()
    assert model.crm is not None
    flood = waterflood_of(view, model.producers, model.injectors)
    modelled = dict(zip(model.producers, model.crm.hindcast(flood, producing_day=True)[-1], strict=True))

    drive = model.evidence(view)["drive"]

    assert drive["producer"].to_list() == view.series
    np.testing.assert_allclose(drive.select(pl.sum_horizontal(SOURCES)).to_series(), drive["rate"])
    np.testing.assert_allclose(drive["rate"].clip(0), [modelled[name] for name in drive["producer"]])
    shares = drive.filter(pl.col("rate") > 0).select(pl.sum_horizontal(f"{name}_share" for name in SOURCES)).to_series()
    assert shares.len() >= 10
    np.testing.assert_allclose(shares, 1.0)
    assert (drive["support"] >= 0).all()


def test_wells_that_never_saw_an_injector_are_not_driven_by_one() -> None:
    """Of two clusters far apart only one is flooded."""
    rows = field().monthly
    far = pl.col(ID).is_in(["P11", "P12"])
    moved = rows.with_columns(pl.when(far).then(pl.col("x_m") + 1e5).otherwise("x_m").alias("x_m"))
    view = view_of(moved)

    evidence = CrmForecaster(origins=1).fit(view, seed=1).evidence(view)

    dry = evidence["drive"].filter(pl.col("producer").is_in(["P11", "P12"]))
    assert dry["injection"].to_list() == [0.0, 0.0]
    assert dry["support"].to_list() == [0.0, 0.0]
    assert not set(evidence["connectivity"]["producer"]) & {"P11", "P12"}


def test_evidence_names_places_and_distances() -> None:
    pairs = against_truth().join(field().truth.pairs, on=["injector", "producer"], suffix="_true")

    np.testing.assert_allclose(pairs["distance_m"], pairs["distance_m_true"], rtol=1e-9)
    gap = np.hypot(pairs["x_injector"] - pairs["x_producer"], pairs["y_injector"] - pairs["y_producer"])
    np.testing.assert_allclose(gap, pairs["distance_m"])
    assert (pairs["theta_days"] > 0).all()


def test_without_coordinates_places_are_null_and_every_pair_is_told_of() -> None:
    view = view_of(field().monthly, without=("x_m", "y_m"))

    pairs = CrmForecaster(origins=1).fit(view, seed=1).evidence(view)["connectivity"]

    nowhere = pairs.select("distance_m", "x_injector", "y_injector", "x_producer", "y_producer")
    assert nowhere.null_count().row(0) == (pairs.height,) * 5
    assert pairs.height == pairs["injector"].n_unique() * pairs["producer"].n_unique()


def test_tanks_tell_the_time_constant_of_every_producer_and_no_productivity_without_a_gauge() -> None:
    model, view = fitted()
    blind = view_of(field().monthly.with_columns(pl.when(pl.col(ID) != "P01").then("wbhp").alias("wbhp")))

    tanks = model.evidence(view)["tanks"]
    other = CrmForecaster(origins=1).fit(blind, seed=1).evidence(blind)["tanks"]

    assert tanks["producer"].to_list() == list(model.producers)
    assert tanks["tau_days"].is_between(10, 300).all()
    gauged = set(view.history.drop_nulls("wbhp")[ID])
    assert set(tanks.drop_nulls("productivity")["producer"]) == gauged
    assert set(other.drop_nulls("productivity")["producer"]) == gauged - {"P01"}
    assert "P01" in gauged


def test_no_injector_and_no_fitted_field_give_no_evidence() -> None:
    view = view_of(field().monthly.filter(pl.col("series_role") == "target"))

    assert CrmForecaster(origins=1).fit(view, seed=1).evidence(view) == {}
    assert CrmForecaster(most_wells=3).fit(view, seed=1).evidence(view) == {}


def test_evidence_survives_saving_and_loading(tmp_path: Path) -> None:
    model, view = fitted()
    model.save(tmp_path)

    again = CrmForecaster.load(tmp_path).evidence(view)

    told = model.evidence(view)
    assert set(again) == set(told) == {"connectivity", "injectors", "tanks", "drive"}
    for name, frame in told.items():
        assert_frame_equal(again[name], frame)


def test_attention_is_told_and_adds_up_to_one_per_series_and_kind() -> None:
    view = view_of(field().monthly.filter(pl.col("series_role") == "target"), without=("wwir",))
    model = AttentionMixer(**TINY).fit(view, seed=1)

    weights = model.evidence(view)["attention"]

    assert weights.columns == ["unique_id", "kind", "name", "weight"]
    sums = weights.group_by(ID, "kind").agg(pl.col("weight").sum(), pl.len())
    np.testing.assert_allclose(sums["weight"], 1.0, atol=1e-6)
    assert set(sums.filter(kind="lag")["len"]) == {12}
    assert set(weights[ID]) == set(view.series)


def test_a_model_that_is_not_fitted_refuses_and_one_without_evidence_gives_none() -> None:
    _, view = fitted()
    for model in (CrmForecaster(), AttentionMixer(**TINY)):
        with pytest.raises(ConfigError, match="not fitted"):
            model.evidence(view)
    assert WellMixer(**TINY).evidence(view) == {}
