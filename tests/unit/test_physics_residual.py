"""Learners on physics: what they may know of the past, how much they count, and what they find."""

from __future__ import annotations

import functools
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import polars as pl
import pytest
from numpy.testing import assert_array_equal

from models.base import Forecaster
from models.families import residual
from models.families.crm import CrmForecaster
from models.families.residual import BASES, Past, Physics, PhysicsResidual
from models.families.uptime import TwoPart
from models.ratios import Rows
from nightcast.contracts.columns import HORIZON, ID, LEVELS, QUANTILES, TARGET, TIME, Role
from nightcast.contracts.errors import ConfigError
from nightcast.contracts.panel import PanelDataset, PanelView
from nightcast.contracts.schema import FeatureColumn, PanelSchema
from nightcast.features.grid import apart, regular_grid
from nightcast.sources.generator import FieldConfig, simulate_field

H = 3
QUICK: dict[str, Any] = {"boosting": {"rounds": 60, "learning_rate": 0.1}, "linear": {"epochs": 3}}
SUMMER = pl.col(TIME).dt.month().is_in([6, 7, 8])


@functools.cache
def generated() -> pl.DataFrame:
    return simulate_field(FieldConfig(producers=8, injectors=3, months=96, seed=4, dirt=False)).monthly


def field(*, known: bool = False, disturbed: bool = False, injectors: bool = True) -> PanelDataset:
    """A small generated field; disturbed, a plant that every summer takes in a third less than wells could give."""
    rows = generated()
    if not injectors:
        rows = rows.filter(pl.col("series_role") == "target")
    if disturbed:
        rows = rows.with_columns(pl.when(SUMMER).then(0.67 * pl.col(TARGET)).otherwise(pl.col(TARGET)).alias(TARGET))
    planned: Role = "plan" if known else "past"
    roles: dict[str, Role] = {"uptime": planned, "wbhp": planned, "wwir": planned, "x_m": "static", "y_m": "static"}
    schema = PanelSchema(freq="MS", horizon=H, lower=0.0, covariates=roles)
    last = rows.get_column(TIME).max()
    assert isinstance(last, datetime)
    frame, support = apart(regular_grid(rows, schema, as_of=last, retire_after=12)[0])
    columns = {name: FeatureColumn(role=role) for name, role in roles.items()}
    return PanelDataset(frame, schema, columns, as_of=last, plan=None, support=support)


def planned(data: PanelDataset) -> PanelDataset:
    """The same, with what was carried out as the plan."""
    names = [ID, TIME, "uptime", "wbhp", "wwir"]
    assert data.support is not None
    plan = pl.concat([data.frame.select(names), data.support.select(names)])
    return PanelDataset(data.frame, data.schema, data.columns, data.as_of, plan=plan, support=data.support)


def cutoff_of(data: PanelDataset, back: int) -> datetime:
    return data.schema.freq.shift(data.as_of, -back)


def mae(model: Forecaster, data: PanelDataset, origins: range) -> float:
    truth = data.truth()
    parts = [model.predict(data.view(cutoff_of(data, back))).frame.join(truth, on=[ID, TIME]) for back in origins]
    error: float = pl.concat(parts).select((pl.col("q50") - pl.col(TARGET)).abs().mean()).item()
    return error


def values(model: Forecaster, view: PanelView) -> np.ndarray:
    return np.asarray(model.predict(view).frame.sort(ID, HORIZON).select(QUANTILES).to_numpy())


@pytest.mark.parametrize("known", [False, True])
def test_a_lasting_disturbance_that_the_physics_lacks_is_learnt(known: bool) -> None:
    data = field(known=known, disturbed=True)
    data = planned(data) if known else data
    model = PhysicsResidual(base="crm", **QUICK).fit(data.view(cutoff_of(data, 12 + H)), seed=1)

    origins = range(H, 12 + H)

    assert mae(model, data, origins) < 0.85 * mae(model.base, data, origins)


def test_where_the_physics_is_right_little_is_lost() -> None:
    data = planned(field(known=True))
    model = PhysicsResidual(base="crm", **QUICK).fit(data.view(cutoff_of(data, 12 + H)), seed=1)

    origins = range(H, 12 + H, 2)

    assert mae(model, data, origins) < 1.05 * mae(model.base, data, origins)


class Seen(PhysicsResidual):
    """Keeps its training rows."""

    rows: Rows

    def learn(self, rows: Rows, *, seed: int) -> None:
        self.rows = rows
        super().learn(rows, seed=seed)


@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize("base", ["crm", "uptime_rate"])
def test_a_training_row_knows_nothing_from_after_its_origin(base: str, known: bool) -> None:
    data = field(known=known)
    step = (pl.col(TIME).dt.year().cast(pl.Float64) - 2015) * 12 + pl.col(TIME).dt.month() - 1
    columns = {**data.columns, "step": FeatureColumn(role="past", block="test")}
    data = PanelDataset(
        data.frame.with_columns(step.alias("step")), data.schema, columns, data.as_of, support=data.support
    )
    view = data.view(data.as_of)
    kept = 80
    late = step > kept
    past = [TARGET] if known else [TARGET, "wbhp", "uptime"]
    wild = {TARGET: pl.col(TARGET) * 3.7 + 5, "wbhp": pl.col("wbhp") * 0.5, "uptime": pl.col("uptime") * 0.6}
    history = view.history.with_columns(pl.when(late).then(wild[n]).otherwise(pl.col(n)).alias(n) for n in past)
    support = view.support
    if not known:
        support = support.with_columns(pl.when(late).then(pl.col("wwir") * 2).otherwise(pl.col("wwir")).alias("wwir"))
    other = PanelView(history, view.future, view.cutoff, view.schema, view.columns, support, view.support_future)
    settings = {"base": base, "learners": ("boosting",), "boosting": {"rounds": 2}, "refits": 4, "refit_every": 6}

    one = Seen(**settings).fit(view, seed=1).rows
    two = Seen(**settings).fit(other, seed=1).rows

    assert one.names == two.names
    origin = one.x[:, one.names.index("step")]
    early = origin <= kept
    assert_array_equal(one.x[early], two.x[early])
    known_by_then = origin + one.horizon <= kept
    assert_array_equal(one.y[known_by_then], two.y[known_by_then])
    assert known_by_then.sum() > 100
    assert not np.array_equal(one.x[~early], two.x[~early], equal_nan=True), "the scrambling reaches what it may reach"


class Watched(TwoPart):
    """Writes down what it is fitted on and what it forecasts from."""

    log: ClassVar[list[tuple[datetime, datetime]]] = []
    """Last time it was fitted on, and the origin it forecast."""
    known_at: datetime

    def _fit(self, view: PanelView, *, seed: int) -> None:
        self.known_at = view.cutoff
        assert view.history.get_column(TIME).max() <= view.cutoff  # type: ignore[operator]
        super()._fit(view, seed=seed)

    def _predict(self, view: PanelView) -> Any:
        self.log.append((self.known_at, view.cutoff))
        return super()._predict(view)


def test_past_origins_are_forecast_by_the_last_base_fitted_at_or_before_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(residual, "BASES", {**BASES, "uptime_rate": Physics(Watched)})
    monkeypatch.setattr(Watched, "log", [])
    data = field()
    view, freq = data.view(data.as_of), data.schema.freq

    PhysicsResidual(refit_every=6, refits=4, **QUICK).fit(view, seed=1)

    back = [(freq.steps_between(known, view.cutoff), freq.steps_between(at, view.cutoff)) for known, at in Watched.log]
    assert {known for known, _ in back} == {24, 18, 12, 6}
    assert all(known - 6 < at <= known for known, at in back)
    assert {at for _, at in back} == set(range(1, 25))


def test_with_too_few_origins_the_base_answers_alone() -> None:
    data = field()
    view = data.view(data.as_of)

    few = PhysicsResidual(refits=1, refit_every=11, **QUICK).fit(view, seed=1)
    short = PhysicsResidual(least_history=500, **QUICK).fit(view, seed=1)

    alone = values(TwoPart().fit(view, seed=1), view)
    assert few.share == short.share == 0
    assert_array_equal(values(few, view), alone)
    assert_array_equal(values(short, view), alone)


def test_the_learners_share_grows_with_the_number_of_past_origins() -> None:
    data = field()
    view = data.view(data.as_of)

    shares = [PhysicsResidual(refits=n, doubt=12, **QUICK).fit(view, seed=1).share for n in (1, 2, 5)]

    assert shares == [12 / 24, 24 / 36, 60 / 72]


def test_the_share_draws_the_quantiles_towards_those_of_the_base() -> None:
    data = field()
    view = data.view(data.as_of)

    whole, half, none = (
        values(PhysicsResidual(refits=2, doubt=doubt, **QUICK).fit(view, seed=1), view) for doubt in (0, 24, 1e12)
    )

    np.testing.assert_allclose(none, values(TwoPart().fit(view, seed=1), view), rtol=1e-6)
    np.testing.assert_allclose(half, (whole + none) / 2, rtol=1e-6, atol=1e-6)
    assert np.abs(whole - none).mean() > 0.01 * np.abs(none).mean()


def test_two_learners_answer_with_the_mean_of_their_quantiles() -> None:
    data = field()
    view = data.view(data.as_of)

    def answer(*learners: str) -> np.ndarray:
        return values(PhysicsResidual(refits=2, doubt=0, learners=learners, **QUICK).fit(view, seed=1), view)

    both = answer("boosting", "linear")

    one, other = answer("boosting"), answer("linear")
    inside = (both > 0).all(axis=1) & (one > 0).all(axis=1) & (other > 0).all(axis=1)
    np.testing.assert_allclose(both[inside], ((one + other) / 2)[inside], rtol=1e-6)
    assert inside.mean() > 0.5


@pytest.mark.parametrize("base", ["crm", "arps_hyperbolic", "uptime_rate"])
def test_a_month_planned_shut_is_forecast_as_nothing(base: str) -> None:
    data = planned(field(known=True))
    assert data.plan is not None
    shut = data.schema.freq.shift(data.as_of, -1)
    plan = data.plan.with_columns(pl.when(pl.col(TIME) == shut).then(0.0).otherwise(pl.col("uptime")).alias("uptime"))
    view = PanelDataset(data.frame, data.schema, data.columns, data.as_of, plan=plan, support=data.support).view(
        cutoff_of(data, H)
    )

    frame = PhysicsResidual(base=base, **QUICK).fit(view, seed=1).predict(view).frame

    # The grey box's own upper quantiles are not 0 in a month planned shut; its median is.
    certain = ["q50"] if base == "crm" else list(QUANTILES)
    assert frame.filter(pl.col(TIME) == shut).select(certain).to_numpy().max() == 0
    assert frame.filter(pl.col(TIME) != shut).select("q50").to_numpy().min() > 0


@pytest.mark.parametrize("base", ["crm", "arps_modified"])
def test_a_saved_model_answers_alike_from_later_views_too(base: str, tmp_path: Path) -> None:
    data = field()
    model = PhysicsResidual(base=base, **QUICK).fit(data.view(cutoff_of(data, 5)), seed=1)
    model.save(tmp_path / "bundle")

    loaded = PhysicsResidual.load(tmp_path / "bundle")

    for back in (5, 2, 20):
        view = data.view(cutoff_of(data, back))
        assert_array_equal(values(loaded, view), values(model, view))
    assert loaded.evidence(view).keys() == model.base.evidence(view).keys()


def test_whom_the_base_leaves_out_is_left_out_with_its_reason() -> None:
    data = field(injectors=False)
    view = data.view(data.as_of)

    model = PhysicsResidual(base="crm", base_params={"most_wells": 2}, **QUICK).fit(view, seed=1)

    assert model.left_out(view) == CrmForecaster(most_wells=2).fit(view, seed=1).left_out(view)
    assert set(model.left_out(view)) == set(view.series)


def test_it_serves_the_wells_that_its_base_serves() -> None:
    assert not PhysicsResidual(base="crm").capabilities.cold_start
    assert PhysicsResidual(base="crm").capabilities.min_history == CrmForecaster.capabilities.min_history
    assert PhysicsResidual(base="uptime_rate").capabilities.cold_start
    assert PhysicsResidual(base="crm").capabilities.uses == {"past", "plan", "static"}


def test_wells_without_covariates_are_served() -> None:
    data = field()
    bare = PanelDataset(
        data.frame.select(ID, TIME, TARGET), PanelSchema(freq="MS", horizon=H, lower=0.0), {}, data.as_of
    )
    view = bare.view(bare.as_of)

    found = values(PhysicsResidual(**QUICK).fit(view, seed=1), view)

    assert np.isfinite(found).all()
    assert found.shape == (len(view.series) * H, len(LEVELS))


def test_a_past_view_plans_what_was_carried_out_and_nothing_past_its_end() -> None:
    data = field(known=True)
    view = data.view(data.as_of)
    cutoff = data.schema.freq.shift(data.as_of, -2)

    then = Past(view).at(cutoff)

    assert then is not None
    told = then.future.join(view.history.select(ID, TIME, actual="uptime"), on=[ID, TIME], how="left")
    assert told.filter(pl.col(HORIZON) <= 2).select((pl.col("uptime") == pl.col("actual")).all()).item()
    assert told.filter(pl.col(HORIZON) == 3).get_column("uptime").null_count() == len(then.series)
    assert then.support_future.filter(pl.col(HORIZON) <= 2).get_column("wwir").null_count() == 0


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"base": "tarot"}, "base"),
        ({"base": "crm", "base_params": {"kind": "harmonic"}}, "kind"),
        ({"boosting": {"trees": 3}}, "trees"),
        ({"learners": ()}, "learners"),
    ],
)
def test_a_wrong_parameter_is_refused_before_any_fit(params: dict[str, Any], message: str) -> None:
    make: Callable[..., PhysicsResidual] = PhysicsResidual

    with pytest.raises(ConfigError, match=message):
        make(**params)
