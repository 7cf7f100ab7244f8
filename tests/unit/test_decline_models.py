"""The Arps forecaster: anchored at the cutoff, on stream only, shrunk to the panel's decline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, get_args

import numpy as np
import polars as pl
import pytest

from models.families.decline import Arps, years_per_step
from nightcast.contracts.columns import HORIZON, ID, QUANTILES, TARGET, TIME, Role
from nightcast.contracts.errors import ConfigError
from nightcast.contracts.panel import PanelDataset, PanelView
from nightcast.contracts.schema import FeatureColumn, PanelSchema
from nightcast.physics.arps import Decline, Kind

AS_OF = datetime(2022, 12, 1)
HORIZON_STEPS = 6
NAN = float("nan")


def view_of(
    wells: Mapping[str, Mapping[str, Sequence[float]]],
    roles: Mapping[str, Role] | None = None,
    *,
    plan: Sequence[float] | None = None,
) -> PanelView:
    """A view at the wells' common last month; `plan` is every well's uptime ahead."""
    schema = PanelSchema(freq="MS", horizon=HORIZON_STEPS, lower=0.0, covariates=dict(roles or {}))
    columns = [TARGET, *schema.covariates]
    ahead = [schema.freq.shift(AS_OF, step) for step in range(1, HORIZON_STEPS + 1)]
    parts, plans = [], []
    for name, its in wells.items():
        length = len(its[TARGET])
        times = [schema.freq.shift(AS_OF, step) for step in range(1 - length, 1)] + ahead
        values = {key: [*its[key], *[NAN] * HORIZON_STEPS] for key in columns}
        parts.append(pl.DataFrame({ID: [name] * len(times), TIME: times, **values}))
        if plan is not None:
            plans.append(pl.DataFrame({ID: [name] * HORIZON_STEPS, TIME: ahead, "uptime": list(plan)}))
    exact = pl.col(TIME).cast(pl.Datetime("us"))
    frame = pl.concat(parts).with_columns(exact, *(pl.col(key).cast(pl.Float64).fill_nan(None) for key in columns))
    given = pl.concat(plans).with_columns(exact) if plans else None
    of = {name: FeatureColumn(role=role) for name, role in schema.covariates.items()}
    return PanelDataset(frame.sort(ID, TIME), schema, of, as_of=AS_OF, plan=given).view(AS_OF)


def medians(model: Any, view: PanelView, series: str) -> np.ndarray:
    frame = model.predict(view).frame.filter(pl.col(ID) == series).sort(HORIZON)
    return np.asarray(frame.get_column("q50").to_numpy())


def declining(months: int = 48, *, b: float = 0.0, decline: float = 0.04, noise: float = 0.01) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    out = {}
    for well in range(10):
        curve = Decline.of(100.0 * (well + 1), decline, b)
        y = curve.rates(np.arange(months, dtype=float))[0] * rng.lognormal(0, noise, months)
        out[f"w{well}"] = {TARGET: y.tolist()}
    return out


@pytest.mark.parametrize(
    ("kind", "b"), [("exponential", 0.0), ("hyperbolic", 0.5), ("harmonic", 1.0), ("modified", 0.5)]
)
def test_a_declining_well_goes_on_along_its_curve(kind: Kind, b: float) -> None:
    view = view_of(declining(b=b))
    ahead = np.arange(48, 48 + HORIZON_STEPS, dtype=float)

    got = medians(Arps(kind=kind).fit(view, seed=1), view, "w4")

    assert got == pytest.approx(Decline.of(500.0, 0.04, b).rates(ahead)[0], rel=0.03)


@pytest.mark.parametrize("level", ["mean", "ses"])
def test_the_forecast_starts_from_the_level_at_the_cutoff(level: str) -> None:
    wells = declining()
    # A last step up that is too young to be a segment: the level follows, the decline stays.
    for its in wells.values():
        its[TARGET][-3:] = [value * 1.5 for value in its[TARGET][-3:]]
    view = view_of(wells)

    got = medians(Arps(level=level).fit(view, seed=1), view, "w2")

    start = 1.5 * 300.0 * np.exp(-0.04 * 48)
    assert got[0] == pytest.approx(start, rel=0.12)
    assert got[-1] < got[0]


def test_a_well_after_a_workover_declines_from_its_new_level() -> None:
    wells = declining(months=60)
    for its in wells.values():
        its[TARGET][45:] = [value * 2.0 for value in its[TARGET][45:]]
    view = view_of(wells)

    got = medians(Arps().fit(view, seed=1), view, "w2")

    assert got == pytest.approx(2.0 * 300.0 * np.exp(-0.04 * np.arange(60, 66)), rel=0.08)


def test_a_shut_well_does_not_decline() -> None:
    wells = declining(noise=0.001)
    rng = np.random.default_rng(1)
    for its in wells.values():
        uptime = np.where(rng.random(48) < 0.3, 0.0, 1.0)
        uptime[-4:] = 1.0
        time = np.cumsum(uptime)
        its[TARGET] = (100.0 * np.exp(-0.06 * time) * uptime).tolist()
        its["uptime"] = uptime.tolist()
    view = view_of(wells, {"uptime": "plan"}, plan=[1.0, 0.0, 0.0, 0.0, 1.0, 1.0])

    got = medians(Arps().fit(view, seed=1), view, "w3")

    assert (got[1:4] == 0).all()
    assert got[4] / got[0] == pytest.approx(np.exp(-0.06), rel=0.01)
    assert got[5] / got[4] == pytest.approx(np.exp(-0.06), rel=0.01)


def test_part_months_scale_the_volume() -> None:
    wells = declining(decline=0.0, noise=0.001)
    for its in wells.values():
        its["uptime"] = [1.0] * 48
    view = view_of(wells, {"uptime": "plan"}, plan=[1.0, 0.5, 1.0, 0.25, 1.0, 1.0])

    got = medians(Arps().fit(view, seed=1), view, "w0")

    assert got / got[0] == pytest.approx([1.0, 0.5, 1.0, 0.25, 1.0, 1.0], rel=0.02)


def test_a_rising_well_is_not_extrapolated_upwards() -> None:
    wells = {f"w{k}": {TARGET: (50 * np.exp(0.03 * np.arange(40))).tolist()} for k in range(8)}
    view = view_of(wells)

    got = medians(Arps(level="mean").fit(view, seed=1), view, "w1")

    assert np.diff(got).max() < 0.05 * got[0], "what it rises by is learned from past errors, and is not compounded"


def test_flush_production_after_a_shut_in_does_not_set_the_level() -> None:
    wells = declining(decline=0.001, noise=0.001)
    for its in wells.values():
        its[TARGET][-3], its[TARGET][-2] = 0.0, 1.6 * its[TARGET][-2]
    view = view_of(wells)

    got = medians(Arps().fit(view, seed=1), view, "w1")

    assert got[0] == pytest.approx(wells["w1"][TARGET][-1], rel=0.1)


def test_a_new_well_declines_like_the_panel() -> None:
    wells = declining(decline=0.08)
    wells["young"] = {TARGET: [200.0]}
    view = view_of(wells)
    model = Arps().fit(view, seed=1)

    got = medians(model, view, "young")

    assert model.usual[0] == pytest.approx(0.08, rel=0.1)
    assert got == pytest.approx(200.0 * np.exp(-0.08 * np.arange(1, 7)), rel=0.05)


def test_intervals_widen_with_the_horizon_and_hold_their_share() -> None:
    rng = np.random.default_rng(0)
    wells, truth = {}, {}
    for well in range(60):
        y = 100.0 * np.exp(-0.02 * np.arange(66) + np.cumsum(rng.normal(0, 0.06, 66)))
        wells[f"w{well:02d}"] = {TARGET: y[:60].tolist()}
        truth[f"w{well:02d}"] = y[60:]
    view = view_of(wells)

    frame = Arps().fit(view, seed=1).predict(view).frame.sort(ID, HORIZON)

    low, high = (frame.get_column(name).to_numpy().reshape(60, 6) for name in ("q10", "q90"))
    actual = np.stack([truth[name] for name in sorted(truth)])
    assert np.median(high[:, 5] - low[:, 5]) > 1.5 * np.median(high[:, 0] - low[:, 0])
    assert 0.68 < ((actual >= low) & (actual <= high)).mean() < 0.92


@pytest.mark.parametrize(("freq", "steps"), [("MS", 12.0), ("D", 365.25), ("h", 8766.0)])
def test_the_terminal_decline_is_per_year_whatever_the_step(freq: str, steps: float) -> None:
    assert 1 / years_per_step(freq) == pytest.approx(steps, rel=1e-3)


def test_a_modified_hyperbolic_does_not_flatten_below_its_terminal_decline() -> None:
    wells = {}
    for well in range(10):
        rates = Decline.of(100.0 * (well + 1), 0.2, 0.9, 0.03).rates(np.arange(48, dtype=float))[0]
        wells[f"w{well}"] = {TARGET: rates.tolist()}
    view = view_of(wells)

    got = medians(Arps(kind="modified", terminal=0.36, window=48, half_life=100).fit(view, seed=1), view, "w5")

    assert np.log(got[:-1] / got[1:]) == pytest.approx([0.03] * 5, abs=0.002)


@pytest.mark.parametrize("kind", get_args(Kind))
def test_every_curve_serves_short_constant_zero_and_gappy_wells(kind: Kind) -> None:
    rng = np.random.default_rng(0)
    gappy = 50 * rng.lognormal(0, 0.1, 40)
    gappy[[3, 9, 10, 11, 25, 39]] = NAN
    wells = {
        "constant": {TARGET: [10.0] * 40},
        "gappy": {TARGET: gappy.tolist()},
        "one": {TARGET: [5.0]},
        "two": {TARGET: [5.0, 0.0]},
        "zero": {TARGET: [0.0] * 40},
    }
    view = view_of(wells)

    forecast = Arps(kind=kind).fit(view, seed=1).forecast(view)

    values = forecast.prediction.frame.select(QUANTILES).to_numpy()
    assert not forecast.left_out
    assert np.isfinite(values).all()
    assert medians(Arps(kind=kind).fit(view, seed=1), view, "constant") == pytest.approx([10.0] * 6, rel=0.1)
    assert (medians(Arps(kind=kind).fit(view, seed=1), view, "zero") == 0).all()


def test_names_and_order_of_wells_change_nothing() -> None:
    wells = declining(b=0.7, noise=0.1)
    renamed = {f"z{9 - int(name[1:])}": its for name, its in reversed(wells.items())}
    one, other = view_of(wells), view_of(renamed)

    first = Arps(kind="hyperbolic").fit(one, seed=1)
    second = Arps(kind="hyperbolic").fit(other, seed=1)

    for well in range(10):
        assert medians(second, other, f"z{9 - well}") == pytest.approx(medians(first, one, f"w{well}"), rel=1e-9)


def test_a_bundle_keeps_what_was_learned(tmp_path: Path) -> None:
    view = view_of(declining(noise=0.1))
    model = Arps(kind="harmonic").fit(view, seed=1)
    model.save(tmp_path)

    assert Arps.load(tmp_path).predict(view).frame.equals(model.predict(view).frame)


def test_an_unknown_curve_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match="kind='linear'"):
        Arps(kind="linear")
