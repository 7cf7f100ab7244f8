"""Laws of joint paths and of the sums over them, and how often intervals of sums hold what comes."""

from __future__ import annotations

from datetime import datetime
from functools import cache

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nightcast.contracts.columns import QUANTILES
from nightcast.contracts.frequency import Frequency
from nightcast.contracts.prediction import Quantiles
from nightcast.evaluation.paths import Paths, sample_paths
from nightcast.evaluation.rollup import cumulatives, industry_names, rates, roll_up

MONTHS = Frequency.parse("MS")
NOW = datetime(2024, 1, 1)
NORMAL = np.array([-1.2816, -0.8416, -0.5244, -0.2533, 0.0, 0.2533, 0.5244, 0.8416, 1.2816])


def rows(centre: np.ndarray, spread: np.ndarray, cutoff: datetime) -> pl.DataFrame:
    """Normal fans `[N, H]`."""
    wells, horizon = centre.shape
    keys = [(f"w{i:02d}", MONTHS.shift(cutoff, h), cutoff, h) for i in range(wells) for h in range(1, horizon + 1)]
    frame = pl.DataFrame(keys, schema=["unique_id", "ds", "cutoff", "horizon"], orient="row")
    fan = (centre[:, :, None] + spread[:, :, None] * NORMAL).reshape(-1, len(NORMAL))
    return frame.with_columns(pl.Series(name, fan[:, k]) for k, name in enumerate(QUANTILES))


def past(centre: np.ndarray, spread: np.ndarray, errors: np.ndarray) -> pl.DataFrame:
    """Out-of-fold rows of origins `[C, N, H]` that do not overlap."""
    parts = []
    for c, error in enumerate(errors):
        cutoff = MONTHS.shift(NOW, -error.shape[1] * (len(errors) - c))
        parts.append(rows(centre, spread, cutoff).with_columns(y=pl.Series((centre + error).ravel())))
    return pl.concat(parts)


@st.composite
def panels(draw: st.DrawFn) -> tuple[Quantiles, pl.DataFrame, dict[str, str]]:
    """A forecast, its out-of-fold rows with holes, pads: ragged, bounded, some wells shut, some quantiles equal."""
    wells, horizon, origins = draw(st.integers(1, 6)), draw(st.integers(1, 4)), draw(st.integers(1, 8))
    rng = np.random.default_rng(draw(st.integers(0, 9999)))
    size = np.exp(rng.normal(2, 2, (wells, 1)) * np.ones(horizon)) * (rng.random((wells, 1)) > 0.2)
    spread = size * rng.choice([0.0, 0.1, 0.8], (wells, 1))
    errors = spread * rng.standard_t(3, (origins, wells, horizon))
    oof = past(size, spread, np.maximum(errors, -size))
    holes = pl.Series(rng.random(oof.height) < draw(st.sampled_from([0.0, 0.3])))
    holes[-1] = False  # at least one outcome of the last origin's last step is known
    oof = oof.with_columns(y=pl.when(holes).then(float("nan")).otherwise(pl.col("y")))
    forecast = rows(size, spread, NOW).with_columns(pl.col(name).clip(lower_bound=0.0) for name in QUANTILES)
    return Quantiles.of(forecast), oof, {f"w{i:02d}": f"pad{rng.integers(3)}" for i in range(wells)}


def paths_of(panel: tuple[Quantiles, pl.DataFrame, dict[str, str]]) -> Paths:
    forecast, oof, groups = panel
    return sample_paths(forecast, oof, seed=3, draws=60, lower=0.0, groups=groups)


@settings(max_examples=50, deadline=None)
@given(panels())
def test_means_of_children_add_up_to_their_parents(panel):
    table = roll_up(paths_of(panel), freq=MONTHS, groups=panel[2])

    sums = table.group_by("level", "kind", "ds").agg(pl.col("mean").sum())
    of = {level: sums.filter(pl.col("level") == level).sort("kind", "ds")["mean"].to_numpy() for level in sums["level"]}
    assert of["well"] == pytest.approx(of["field"], rel=1e-9)
    assert of["pad"] == pytest.approx(of["field"], rel=1e-9)


@settings(max_examples=50, deadline=None)
@given(panels())
def test_quantiles_never_cross_nor_fall_below_the_bound_at_any_level(panel):
    paths = paths_of(panel)
    table = roll_up(paths, freq=MONTHS, groups=panel[2])

    values = table.select(QUANTILES).to_numpy()
    assert np.isfinite(paths.values).all()
    assert (np.diff(values, axis=1) >= 0).all()
    assert values.min() >= 0.0
    assert (table["P90"] <= table["P10"]).all()
    assert table.select("P90", "P50", "P10").rows() == table.select("q10", "q50", "q90").rows()


@settings(max_examples=40, deadline=None)
@given(panels(), st.integers(0, 99))
def test_the_order_of_wells_changes_no_bit(panel, seed):
    forecast, oof, groups = panel
    shuffled = (
        Quantiles(forecast.frame.sample(fraction=1, shuffle=True, seed=seed)),
        oof.sample(fraction=1, shuffle=True, seed=seed),
        dict(sorted(groups.items(), reverse=True)),
    )

    assert (paths_of(shuffled).values == paths_of(panel).values).all()


@settings(max_examples=40, deadline=None)
@given(panels(), st.floats(0.01, 1000))
def test_a_change_of_unit_changes_nothing_but_the_unit(panel, factor):
    forecast, oof, groups = panel
    scaled = (
        Quantiles.of(forecast.frame.with_columns(pl.col(name) * factor for name in QUANTILES)),
        oof.with_columns(pl.col(*QUANTILES, "y") * factor),
        groups,
    )

    plain, other = (rates(paths_of(its), groups=groups).select(QUANTILES).to_numpy() for its in (panel, scaled))

    # A well's quantiles scale exactly; outcomes that tie may be ordered by the last bit, so sums scale within noise.
    wells = rates(paths_of(panel))["level"].to_numpy() == "well"
    assert other[: wells.sum()] / factor == pytest.approx(plain[: wells.sum()], rel=1e-9, abs=1e-9)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 12), st.integers(0, 999))
def test_of_wells_that_always_err_together_quantiles_add_up(wells, seed):
    rng = np.random.default_rng(seed)
    centre = np.exp(rng.normal(3, 1, (wells, 1))) * np.ones(3)
    spread = 0.2 * centre
    errors = spread * np.broadcast_to(rng.standard_normal((30, 1, 1)), (30, wells, 3))

    table = rates(sample_paths(Quantiles.of(rows(centre, spread, NOW)), past(centre, spread, errors), seed=1))

    summed = table.filter(pl.col("level") == "well").group_by("horizon").agg(pl.col(QUANTILES).sum()).sort("horizon")
    field = table.filter(pl.col("level") == "field").sort("horizon")
    assert field.select(QUANTILES).to_numpy() == pytest.approx(summed.select(QUANTILES).to_numpy(), rel=2e-3)


@pytest.mark.parametrize("wells", [4, 16, 36])
def test_of_independent_wells_the_interval_is_narrower_by_the_root_of_their_number(wells):
    rng = np.random.default_rng(wells)
    centre, spread = np.full((wells, 2), 100.0), np.full((wells, 2), 10.0)
    errors = 10.0 * rng.standard_normal((400, wells, 2))

    table = rates(
        sample_paths(Quantiles.of(rows(centre, spread, NOW)), past(centre, spread, errors), seed=1, draws=4000)
    )

    width = (pl.col("q90") - pl.col("q10")).mean()
    field = table.filter(pl.col("level") == "field").select(width).item()
    sum_of_widths = wells * table.filter(pl.col("level") == "well").select(width).item()
    assert field / sum_of_widths == pytest.approx(1 / np.sqrt(wells), rel=0.12)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-1e9, 1e9), min_size=9, max_size=9))
def test_the_low_case_is_exceeded_more_often_than_the_high_one(values):
    frame = industry_names(pl.DataFrame(dict(zip(QUANTILES, [[v] for v in sorted(values)], strict=True))))

    assert frame["P90"][0] == frame["q10"][0] <= frame["P50"][0] <= frame["P10"][0] == frame["q90"][0]


# --- coverage on simulated panels whose wells and months depend on one another

WELLS, HORIZON, ORIGINS = 10, 6, 40
CENTRE = np.linspace(50.0, 150.0, WELLS)[:, None] * np.ones(HORIZON)
DAYS = np.array([29, 31, 30, 31, 30, 31])  # February to July 2024


def random_walks(rng: np.random.Generator, size: int, shared: float) -> np.ndarray:
    """Errors `[size, N, H]`: random walks over the months, of which a share of the variance is common to all wells."""
    common = rng.standard_normal((size, 1, HORIZON)).cumsum(axis=2)
    own = rng.standard_normal((size, WELLS, HORIZON)).cumsum(axis=2)
    return 0.05 * CENTRE * (np.sqrt(shared) * common + np.sqrt(1 - shared) * own)


@cache
def coverage(case: str, shared: float = 0.5, fields: int = 25) -> float:
    """Share of 6-month field volumes inside q10 .. q90, over several pasts and many futures of each."""
    spread = 0.05 * CENTRE * np.sqrt(np.arange(1, HORIZON + 1))
    hits = []
    for seed in range(fields):
        rng = np.random.default_rng([seed, 17])
        errors = random_walks(rng, ORIGINS, shared)
        if case == "wells_apart":  # each well keeps its own origins, in an order of its own
            errors = np.stack([errors[rng.permutation(ORIGINS), i] for i in range(WELLS)], axis=1)
        if case == "all_apart":
            errors = rng.permuted(errors, axis=0)
        if case == "all_together":  # as if the first well's first month were everybody's every month
            errors = errors[:, :1, :1] / spread[0, 0] * spread
        forecast, oof = Quantiles.of(rows(CENTRE, spread, NOW)), past(CENTRE, spread, errors)
        paths = sample_paths(forecast, oof, seed=seed, draws=600)
        row = cumulatives(paths, freq=MONTHS).filter(pl.col("level") == "field").row(0, named=True)
        volumes = ((CENTRE + random_walks(rng, 400, shared)) @ DAYS).sum(axis=1)
        hits.append(((volumes >= row["q10"]) & (volumes <= row["q90"])).mean())
    return float(np.mean(hits))


def test_eighty_percent_intervals_of_the_cumulative_hold_about_eighty_percent():
    assert coverage("as it was") == pytest.approx(0.80, abs=0.035)


def test_they_do_so_for_wells_that_share_nothing_too():
    assert coverage("as it was", shared=0.0) == pytest.approx(0.80, abs=0.05)


def test_paths_that_forget_what_wells_share_hold_too_little():
    assert coverage("wells_apart") < 0.60


def test_paths_that_also_forget_what_months_share_hold_still_less():
    assert coverage("all_apart") < coverage("wells_apart") - 0.1


def test_paths_that_let_everything_err_together_hold_too_much():
    assert coverage("all_together") > 0.9
