"""Type curves: young wells go on as their analogs did."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.families.naive import NaiveLast
from models.families.type_curve import Aligned, Library, Places, TypeCurve
from models.families.uptime import OnStream
from nightcast.contracts.columns import HORIZON, ID, QUANTILES, TARGET, TIME, Role
from nightcast.contracts.panel import PanelDataset, PanelView
from nightcast.contracts.schema import FeatureColumn, PanelSchema

AS_OF = datetime(2022, 12, 1)
HORIZON_STEPS = 6
MONTHS = 90
NAN = float("nan")
WELLS = Path(__file__).parents[2].parent / "shared" / "data" / "nm_eddy_wells" / "monthly.parquet"


def curve(age: np.ndarray, pace: float = 1.0) -> np.ndarray:
    """The planted curve: hyperbolic, steep at first."""
    return np.asarray((1.0 + 0.25 * pace * age) ** -1.2)


def view_of(
    wells: Mapping[str, np.ndarray],
    static: Mapping[str, Mapping[str, Any]] | None = None,
    *,
    uptime: Mapping[str, np.ndarray] | None = None,
    plan: list[float] | None = None,
) -> PanelView:
    """Each well's last value lies at the cutoff; `static` gives pad or position by well."""
    roles: dict[str, Role] = dict.fromkeys(next(iter(static.values())) if static else {}, "static")
    if uptime is not None:
        roles["uptime"] = "plan" if plan is not None else "past"
    schema = PanelSchema(freq="MS", horizon=HORIZON_STEPS, lower=0.0, covariates=roles)
    ahead = [schema.freq.shift(AS_OF, step) for step in range(1, HORIZON_STEPS + 1)]
    exact = pl.col(TIME).cast(pl.Datetime("us"))
    parts, plans = [], []
    for name, y in wells.items():
        times = [schema.freq.shift(AS_OF, step) for step in range(1 - len(y), 1)] + ahead
        values: dict[str, Any] = {TARGET: [*y.tolist(), *[NAN] * HORIZON_STEPS]}
        for key, value in (static or {}).get(name, {}).items():
            values[key] = [value] * len(times)
        if uptime is not None:
            values["uptime"] = [*uptime[name].tolist(), *[NAN] * HORIZON_STEPS]
        parts.append(pl.DataFrame({ID: [name] * len(times), TIME: times, **values}))
        if plan is not None:
            plans.append(pl.DataFrame({ID: [name] * HORIZON_STEPS, TIME: ahead, "uptime": plan}).with_columns(exact))
    frame = pl.concat(parts).with_columns(exact).with_columns(pl.col(pl.Float64).fill_nan(None))
    columns = {name: FeatureColumn(role=role) for name, role in roles.items()}
    given = pl.concat(plans) if plans else None
    return PanelDataset(frame.sort(ID, TIME), schema, columns, as_of=AS_OF, plan=given).view(AS_OF)


def field(
    wells: int = 24, *, young: tuple[int, ...] = (4,), noise: float = 0.03, seed: int = 0, pace: float = 1.0
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Wells of the planted curve, one older than all, and young ones; and what the young ones did next."""
    rng = np.random.default_rng(seed)
    out = {"first": 80.0 * curve(np.arange(MONTHS)) * rng.lognormal(0, noise, MONTHS)}
    truth = {}
    for well in range(wells):
        months = int(rng.integers(30, MONTHS - 2))
        out[f"w{well:02d}"] = rng.lognormal(5, 0.5) * curve(np.arange(months)) * rng.lognormal(0, noise, months)
    for number, months in enumerate(young):
        level = rng.lognormal(5, 0.5)
        whole = level * curve(np.arange(months + HORIZON_STEPS), pace)
        out[f"young{number}"] = whole[:months] * rng.lognormal(0, noise, months)
        truth[f"young{number}"] = whole[months:]
    return out, truth


def medians(model: Any, view: PanelView, series: str) -> np.ndarray:
    frame = model.predict(view).frame.filter(pl.col(ID) == series).sort(HORIZON)
    return np.asarray(frame.get_column("q50").to_numpy())


@pytest.mark.parametrize("months", [2, 3, 4, 6, 10])
def test_a_young_well_goes_on_along_the_curve_of_the_others(months: int) -> None:
    wells, truth = field(young=(months,))
    view = view_of(wells)

    got = medians(TypeCurve().fit(view, seed=1), view, "young0")

    assert got == pytest.approx(truth["young0"], rel=0.2)


def test_a_well_with_one_month_is_served() -> None:
    # Its only month may be a part of one: level from it and from the analogs, shape from the analogs.
    wells, truth = field(young=(1,))
    view = view_of(wells)

    got = medians(TypeCurve().fit(view, seed=1), view, "young0")

    assert (got > 0).all()
    assert got[-1] / got[0] == pytest.approx(truth["young0"][-1] / truth["young0"][0], rel=0.15)


def test_rates_align_at_first_production_not_at_the_first_row() -> None:
    y = np.array([[NAN, 0.0, 0.0, 9.0, 7.0, NAN, 5.0], [4.0, 3.0, 2.0, 1.0, 1.0, 1.0, 1.0]])

    wells = Aligned.of(OnStream.of(y), 5)

    assert np.exp(wells.log[0, [0, 1, 3]]) == pytest.approx([9.0, 7.0, 5.0])
    assert np.isnan(wells.log[0, [2, 4]]).all()
    assert wells.months.tolist() == [4, 7]


def test_a_well_older_than_the_panel_is_no_analog() -> None:
    wells, _ = field()
    model = TypeCurve().fit(view_of(wells), seed=1)

    assert "first" not in model.library.ids
    assert len(model.library.ids) >= 20


def test_a_well_is_never_its_own_analog() -> None:
    wells, _ = field(wells=8)
    model = TypeCurve().fit(view_of(wells), seed=1)
    library = model.library

    for rule in ("pad", "near", "panel", "vintage"):
        chosen = library.analogs(rule, library.ids, library.places, nearest=3, least=1)
        assert not np.diag(chosen).any(), rule
        assert chosen.any(axis=1).all(), rule


def library_of(pads: list[str | None], at: list[tuple[float, float]], born: list[float]) -> Library:
    places = Places(tuple(pads), np.array(at, dtype=float), np.array(born, dtype=float))
    ids = tuple(f"a{k}" for k in range(len(pads)))
    return Library(ids, places, np.zeros((len(pads), 4)), np.zeros(len(pads)))


def test_analogs_are_the_pads_the_nearest_or_the_same_age_by_rule() -> None:
    library = library_of(["p", "p", "q", "q"], [(0, 0), (9, 0), (1, 0), (8, 0)], [0, 10, 11, 1])
    new = Places(("p",), np.array([[0.0, 0.0]]), np.array([11.0]))

    def chosen(rule: str, nearest: int) -> list[int]:
        return np.flatnonzero(library.analogs(rule, ["new"], new, nearest=nearest, least=1)[0]).tolist()

    assert chosen("pad", 2) == [0, 1]
    assert chosen("near", 2) == [0, 2]
    assert chosen("vintage", 1) == [1, 2]
    assert chosen("panel", 1) == [0, 1, 2, 3]


def test_too_few_analogs_of_a_rule_give_way_to_the_panel() -> None:
    library = library_of(["p", "q", None, None], [(NAN, NAN)] * 4, [0, 1, 2, 3])
    new = Places(("p",), np.full((1, 2), NAN), np.array([1.0]))

    assert library.analogs("pad", ["new"], new, nearest=2, least=2).all()
    assert library.analogs("near", ["new"], new, nearest=2, least=2).all()


def test_pads_that_differ_are_told_apart() -> None:
    rng = np.random.default_rng(3)
    wells, static = {"first": 50.0 * curve(np.arange(MONTHS))}, {"first": {"pad": "none"}}
    for well in range(36):
        pad = "slow" if well % 2 else "fast"
        months = int(rng.integers(40, 80))
        pace = 0.2 if pad == "slow" else 3.0
        wells[f"w{well:02d}"] = 100 * curve(np.arange(months), pace) * rng.lognormal(0, 0.05, months)
        static[f"w{well:02d}"] = {"pad": pad}
    for pad in ("slow", "fast"):
        wells[pad] = 100 * curve(np.arange(3), 0.2 if pad == "slow" else 3.0)
        static[pad] = {"pad": pad}
    view = view_of(wells, static)

    model = TypeCurve().fit(view, seed=1)

    assert model.settings.rule == "pad"
    for pad, pace in (("slow", 0.2), ("fast", 3.0)):
        assert medians(model, view, pad) == pytest.approx(100 * curve(np.arange(3, 9), pace), rel=0.15)


def test_a_well_with_a_pace_of_its_own_is_followed_as_months_come_in() -> None:
    rng = np.random.default_rng(0)
    wells = {"first": 50.0 * curve(np.arange(MONTHS))}
    for well in range(40):
        months = int(rng.integers(30, 80))
        whole = rng.lognormal(5, 0.5) * np.exp(-rng.uniform(0.01, 0.15) * np.arange(months))
        wells[f"w{well:02d}"] = whole * rng.lognormal(0, 0.01, months)
    # Declines at 14 % a month where the panel's middle is 8 %.
    for months in (3, 18):
        wells[f"own{months:02d}"] = 100.0 * np.exp(-0.14 * np.arange(months))
    view = view_of(wells)

    model = TypeCurve().fit(view, seed=1)

    falls = {months: np.log(np.divide(*medians(model, view, f"own{months:02d}")[[0, 5]])) / 5 for months in (3, 18)}
    assert falls[18] == pytest.approx(0.14, rel=0.2)
    assert falls[18] > falls[3] > 0.06


def test_an_old_well_goes_on_at_its_own_level() -> None:
    wells, _ = field()
    wells["old"] = np.full(80, 33.0)
    view = view_of(wells)

    assert medians(TypeCurve().fit(view, seed=1), view, "old") == pytest.approx([33.0] * 6, rel=0.02)


def test_intervals_of_young_and_old_wells_come_from_errors_of_their_own_age() -> None:
    wells, _ = field(wells=30, noise=0.05)
    rng = np.random.default_rng(1)
    for well in range(20):
        wells[f"old{well:02d}"] = 50.0 * rng.lognormal(0, 0.3, MONTHS)
    view = view_of(wells)
    frame = TypeCurve().fit(view, seed=1).predict(view).frame.filter(pl.col(HORIZON) == 1)
    spread = {row[ID]: (row["q90"] - row["q10"]) / row["q50"] for row in frame.iter_rows(named=True)}

    assert 0.5 < np.median([its for name, its in spread.items() if name.startswith("old")]) < 1.2
    assert spread["young0"] < 0.3


def test_planned_uptime_scales_the_forecast() -> None:
    wells, _ = field()
    share = {name: np.ones(len(y)) for name, y in wells.items()}
    full = view_of(wells, uptime=share, plan=[1.0] * 6)
    part = view_of(wells, uptime=share, plan=[1.0, 0.5, 0.0, 1.0, 1.0, 1.0])
    model = TypeCurve().fit(full, seed=1)

    ratio = medians(model, part, "young0") / medians(model, full, "young0")

    assert ratio == pytest.approx([1.0, 0.5, 0.0, 1.0, 1.0, 1.0], abs=0.02)


def test_a_part_first_month_with_known_days_is_as_good_as_any() -> None:
    wells, truth = field(young=(2,), noise=0.01)
    share = {name: np.ones(len(y)) for name, y in wells.items()}
    for name, y in wells.items():
        share[name][0] = 0.3
        y[0] *= 0.3
    view = view_of(wells, uptime=share)

    assert medians(TypeCurve().fit(view, seed=1), view, "young0") == pytest.approx(truth["young0"], rel=0.15)


def test_a_drilled_well_with_a_planned_start_gets_the_level_of_its_analogs() -> None:
    wells, _ = field()
    wells["waiting"] = np.zeros(2)
    share = {name: (y > 0).astype(float) for name, y in wells.items()}
    view = view_of(wells, uptime=share, plan=[0.0, 1.0, 1.0, 1.0, 1.0, 1.0])
    model = TypeCurve().fit(view, seed=1)

    got = medians(model, view, "waiting")

    assert got[0] == 0
    assert 0.3 * np.exp(np.median(model.library.level)) < got[1] < 3 * np.exp(np.median(model.library.level))


def test_a_well_without_a_known_month_is_left_out_with_a_reason() -> None:
    wells, _ = field()
    view = view_of(wells)
    blank = view.future.filter(pl.col(ID) == "young0").with_columns(pl.lit("blank").alias(ID))
    asked = PanelView(
        view.history, pl.concat([view.future, blank]).sort(ID, TIME), view.cutoff, view.schema, view.columns
    )

    assert "0 known rows" in TypeCurve().fit(view, seed=1).left_out(asked)["blank"]


@pytest.mark.parametrize("only", ["zeros", "one", "constant"])
def test_a_panel_without_a_single_curve_is_served(only: str) -> None:
    y = {"zeros": np.zeros(9), "one": np.array([5.0]), "constant": np.full(9, 5.0)}[only]
    view = view_of({"a": y})

    forecast = TypeCurve().fit(view, seed=1).forecast(view)

    values = forecast.prediction.frame.select(QUANTILES).to_numpy()
    assert np.isfinite(values).all()
    assert values[:, 4] == pytest.approx([0.0 if only == "zeros" else 5.0] * 6, rel=0.15)


def test_names_and_order_of_wells_change_nothing() -> None:
    wells, _ = field()
    renamed = {f"z{99 - k}": y for k, y in enumerate(wells.values())}
    one, other = view_of(wells), view_of(renamed)

    first, second = TypeCurve().fit(one, seed=1), TypeCurve().fit(other, seed=1)

    for k, name in enumerate(wells):
        assert medians(second, other, f"z{99 - k}") == pytest.approx(medians(first, one, name), rel=1e-9)


def test_a_bundle_holds_the_analogs_so_that_a_well_alone_is_served(tmp_path: Path) -> None:
    wells, truth = field()
    view = view_of(wells)
    TypeCurve().fit(view, seed=1).save(tmp_path)

    got = medians(TypeCurve.load(tmp_path), view_of({"young0": wells["young0"]}), "young0")

    assert got == pytest.approx(medians(TypeCurve().fit(view, seed=1), view, "young0"), rel=1e-6)
    assert got == pytest.approx(truth["young0"], rel=0.2)


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 10_000))
def test_forecasts_are_finite_and_positive_whatever_the_record(seed: int) -> None:
    rng = np.random.default_rng(seed)
    wells = {}
    for well in range(8):
        y = rng.lognormal(3, 1, int(rng.integers(2, 40)))
        y[rng.random(y.size) < 0.2] = 0.0
        y[rng.random(y.size) < 0.1] = NAN
        y[-1] = rng.lognormal(3, 1)
        wells[f"w{well}"] = y
    view = view_of(wells)

    values = TypeCurve().fit(view, seed=1).predict(view).frame.select(QUANTILES).to_numpy()

    assert np.isfinite(values).all()
    assert (values >= 0).all()
    assert values.max() < 1e4


def test_it_beats_the_last_value_on_young_wells_of_a_planted_field() -> None:
    errors = np.zeros(2)
    for seed in range(3):
        wells, truth = field(young=(1, 2, 3, 4, 5), noise=0.15, seed=seed)
        view = view_of(wells)
        for which, model in enumerate((TypeCurve(), NaiveLast())):
            model.fit(view, seed=1)
            errors[which] += sum(np.abs(medians(model, view, name) - true).sum() for name, true in truth.items())

    assert errors[0] < 0.6 * errors[1]


@pytest.mark.real_data
@pytest.mark.skipif(not WELLS.exists(), reason="the Eddy County wells are not beside the checkout")
def test_it_beats_the_last_value_and_the_mean_curve_on_young_wells_of_eddy_county() -> None:
    data = eddy_county_liquid()
    truth, errors = data.truth(), np.zeros(3)
    for year in (2011, 2013, 2015, 2017):
        view = data.view(datetime(year, 6, 1))
        known = view.history.drop_nulls(TARGET).group_by(ID).agg(pl.len(), pl.col(TARGET).max())
        young = known.filter((pl.col("len") < 6) & (pl.col(TARGET) > 0)).get_column(ID)
        wells = view.history.with_columns(pl.col(TARGET).is_not_null().cum_sum().over(ID).alias("age"))
        first = pl.col(TARGET).filter(pl.col("age") <= 3).mean().over(ID)
        shapes = wells.with_columns(shape=pl.col(TARGET) / first).filter(pl.col("shape").is_finite())
        mean = dict(shapes.group_by("age").agg(pl.col("shape").mean()).iter_rows())
        model = TypeCurve().fit(view, seed=1)
        rows = model.predict(view).frame.filter(pl.col(ID).is_in(young.implode())).join(truth, on=[ID, TIME])
        for row in rows.iter_rows(named=True):
            own = view.history.filter(pl.col(ID) == row[ID]).drop_nulls(TARGET).get_column(TARGET).to_numpy()
            told = (row["q50"], own[-1], own[:3].mean() * mean[len(own) + row[HORIZON]])
            errors += np.abs(np.array(told) - row[TARGET])

    assert errors[0] < 0.9 * errors[1]
    assert errors[0] < 0.8 * errors[2]


def eddy_county_liquid() -> PanelDataset:
    """Monthly liquid rate, m3/d, on a regular grid."""
    schema = PanelSchema(freq="MS", horizon=HORIZON_STEPS, lower=0.0, unit="m3/d")
    days = pl.col(TIME).dt.month_end().dt.day()
    rows = (
        pl.read_parquet(WELLS)
        .select(
            "oil_bbl",
            "water_bbl",
            pl.col("api").cast(pl.String).alias(ID),
            pl.col("date").cast(pl.Datetime("us")).alias(TIME),
        )
        .select(
            ID, TIME, ((pl.col("oil_bbl").cast(pl.Float64) + pl.col("water_bbl")) * 0.158987295 / days).alias(TARGET)
        )
    )
    as_of = rows.get_column(TIME).max()
    assert isinstance(as_of, datetime)
    grid = (
        rows.group_by(ID)
        .agg(pl.col(TIME).min().alias("first"), pl.col(TIME).max().dt.offset_by("18mo").alias("last"))
        .select(ID, pl.datetime_ranges("first", "last", interval="1mo", time_unit="us").alias(TIME))
        .explode(TIME)
        .join(rows, on=[ID, TIME], how="left")
        .sort(ID, TIME)
    )
    return PanelDataset(grid, schema, {}, as_of=as_of)


def test_with_an_oldest_month_count_only_young_wells_are_answered_and_theirs_are_the_same_numbers() -> None:
    wells = {f"w{i:02d}": 100 * curve(np.arange(40 + i)) for i in range(12)} | {"young": 80 * curve(np.arange(5))}
    view = view_of(wells)

    everyone, few = (TypeCurve(**params).fit(view, seed=1) for params in ({}, {"oldest": 12}))

    young = everyone.predict(view).frame.filter(pl.col(ID) == "young")
    assert few.predict(view).frame.equals(young)
    assert set(few.left_out(view)) == set(wells) - {"young"}
    assert "more than 12 months" in few.left_out(view)["w00"]
