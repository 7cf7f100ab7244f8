"""Sample paths and the sums over them: wells, pads, the field, rates and cumulatives."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from datetime import datetime
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from nightcast.contracts.columns import LEVELS, QUANTILES
from nightcast.contracts.errors import ConfigError, TrainingError
from nightcast.contracts.frequency import Frequency
from nightcast.contracts.prediction import Quantiles
from nightcast.evaluation.paths import Paths, position_in, quantile_function, sample_paths, shared_inflation
from nightcast.evaluation.rollup import (
    COLUMNS,
    cumulatives,
    hindcast,
    industry_names,
    rates,
    reconcile,
    roll_up,
    rollup_scores,
)

MONTHS = Frequency.parse("MS")
NOW = datetime(2024, 1, 1)
NORMAL = np.array([-1.2816, -0.8416, -0.5244, -0.2533, 0.0, 0.2533, 0.5244, 0.8416, 1.2816])
PADS = {"a": "north", "b": "north", "c": "south"}


def forecast_rows(
    levels: Mapping[str, float], *, cutoff: datetime = NOW, horizon: int = 3, spread: float = 0.1
) -> pl.DataFrame:
    """A normal fan around one level a well, as wide as `spread` times the level."""
    rows = [
        {"unique_id": name, "ds": MONTHS.shift(cutoff, h), "cutoff": cutoff, "horizon": h}
        | dict(zip(QUANTILES, (level * (1 + spread * NORMAL)).tolist(), strict=True))
        for name, level in levels.items()
        for h in range(1, horizon + 1)
    ]
    return pl.DataFrame(rows, schema_overrides={"ds": pl.Datetime("us"), "cutoff": pl.Datetime("us")})


def past_rows(
    levels: Mapping[str, float], scores: np.ndarray, *, step: int = 3, spread: float = 0.1, before: datetime = NOW
) -> pl.DataFrame:
    """Out-of-fold rows whose outcomes lie `scores` [origins, wells, horizon] standard deviations off the median."""
    origins, _, horizon = scores.shape
    parts = []
    for c in range(origins):
        cutoff = MONTHS.shift(before, -horizon - step * (origins - 1 - c))
        rows = forecast_rows(levels, cutoff=cutoff, horizon=horizon, spread=spread)
        off = np.repeat(list(levels.values()), horizon) * spread * scores[c].ravel()
        parts.append(rows.with_columns(y=pl.col("q50") + pl.Series(off)))
    return pl.concat(parts).with_columns(scale=pl.lit(1.0))


LEVELS_OF = {"a": 100.0, "b": 50.0, "c": 10.0}


def shared(origins: int, wells: int, horizon: int = 3, seed: int = 0) -> np.ndarray:
    """Scores of wells that always err together, all months of an origin alike."""
    draws = np.random.default_rng(seed).standard_normal(origins)
    return np.broadcast_to(draws[:, None, None], (origins, wells, horizon)).copy()


def apart(origins: int, wells: int, horizon: int = 3, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((origins, wells, horizon))


def sampled(scores: np.ndarray | None = None, **options: Any) -> Paths:
    past = past_rows(LEVELS_OF, apart(20, 3) if scores is None else scores)
    return sample_paths(Quantiles.of(forecast_rows(LEVELS_OF)), past, **{"seed": 1, "draws": 500} | options)


# --- marginals


def test_beyond_the_outer_levels_a_distribution_goes_on_as_an_exponential_through_them() -> None:
    tens = np.arange(10.0, 91.0, 10.0)

    values = quantile_function(tens, np.array([0.025, 0.05, 0.1, 0.15, 0.5, 0.95, 0.975]), None)

    # Halving the probability costs one spacing of the outer levels.
    assert values == pytest.approx([-10.0, 0.0, 10.0, 15.0, 50.0, 100.0, 110.0])
    assert quantile_function(tens, np.array([0.025, 0.2]), 0.0) == pytest.approx([0.0, 20.0])


def test_the_position_of_an_outcome_undoes_the_quantile_function() -> None:
    fan = np.sort(np.random.default_rng(3).gamma(2, 10, 9))
    at = np.array([0.001, 0.05, 0.1, 0.33, 0.5, 0.87, 0.9, 0.97, 0.9999])

    values = quantile_function(fan, at, None)

    assert position_in(np.tile(fan, (len(at), 1)), values, None) == pytest.approx(at)


def test_an_outcome_on_probability_that_sits_on_one_point_has_the_middle_of_it() -> None:
    shut = np.zeros(9)
    half = np.array([0.0, 0, 0, 0, 1, 2, 3, 4, 5])  # zero up to level 0.4
    above = np.array([1.0, 2, 3, 4, 5, 6, 7, 8, 9])  # the tail reaches the bound with probability 0.05

    assert position_in(shut, np.array(0.0), 0.0) == pytest.approx(0.5)
    assert position_in(half, np.array(0.0), 0.0) == pytest.approx(0.2)
    assert position_in(above, np.array(0.0), 0.0) == pytest.approx(0.025)
    assert position_in(shut, np.array(3.0), 0.0) == 1.0


def test_paths_give_back_the_forecasts_own_quantiles() -> None:
    paths = sampled(draws=1000)

    found = np.quantile(paths.values, LEVELS, axis=0, method="hazen")

    assert np.moveaxis(found, 0, -1) == pytest.approx(paths.marginals, rel=1e-3)


def test_no_path_falls_below_the_bound_even_where_the_tail_would() -> None:
    wide = Quantiles.of(forecast_rows(LEVELS_OF, spread=0.7))
    past = past_rows(LEVELS_OF, apart(20, 3))

    bounded = sample_paths(wide, past, seed=1, lower=0.0)

    assert bounded.values.min() == 0.0
    assert sample_paths(wide, past, seed=1).values.min() < 0.0


# --- dependence


def test_wells_that_erred_together_rise_and_fall_together_in_every_path() -> None:
    paths = sampled(shared(20, 3))

    order = np.argsort(np.argsort(paths.values, axis=0), axis=0)
    assert (order == order[:, :1, :1]).all()


def test_months_of_one_origin_stay_together_while_wells_stay_apart() -> None:
    scores = np.repeat(apart(80, 3, 1, seed=5), 3, axis=2)

    paths = sampled(scores, draws=2000)

    between_months = np.corrcoef(paths.values[:, 0].T)
    between_wells = np.corrcoef(paths.values[:, :, 0].T)
    assert between_months.min() > 0.99
    assert np.abs(between_wells - np.eye(3)).max() < 0.25


def test_wells_that_erred_in_opposite_ways_cancel_out() -> None:
    scores = shared(30, 2)
    scores[:, 1] *= -1
    equal = {"a": 100.0, "b": 100.0}

    paths = sample_paths(Quantiles.of(forecast_rows(equal)), past_rows(equal, scores), seed=1, draws=500)

    assert paths.values.sum(axis=1).std() < 0.05 * paths.values[:, 0].std()


def test_an_error_all_wells_shared_at_every_origin_counts_as_shared() -> None:
    noise = 0.3 * apart(12, 3)

    steady = sampled(1.0 + noise).values
    centred = sampled(noise).values

    assert np.corrcoef(steady[:, :, 0].T).min() > 0.78
    assert np.corrcoef(centred[:, :, 0].T).max(initial=-1, where=~np.eye(3, dtype=bool)) < 0.6


def test_wells_that_were_never_wrong_are_not_taken_to_err_together() -> None:
    paths = sampled(np.zeros((20, 3, 3)), draws=2000)

    between_wells = np.corrcoef(paths.values[:, :, 0].T)
    assert np.abs(between_wells - np.eye(3)).max() < 0.1


def test_few_independent_origins_widen_what_is_shared_as_students_t_does() -> None:
    assert shared_inflation(1) == pytest.approx((3.0777 / 1.2816) ** 2, rel=1e-3)
    assert shared_inflation(10) == pytest.approx((1.3722 / 1.2816) ** 2, rel=1e-3)
    assert shared_inflation(10_000) == pytest.approx(1.0, abs=1e-3)


def test_overlapping_origins_make_sums_wider_than_as_many_origins_apart() -> None:
    levels = {f"w{i:02d}": 10.0 for i in range(12)}
    scores = 0.4 * shared(18, 12) + 0.9 * apart(18, 12, seed=1)
    forecast = Quantiles.of(forecast_rows(levels))

    close, far = (
        sample_paths(forecast, past_rows(levels, scores, step=step), seed=1).values.sum(axis=1).std() for step in (1, 3)
    )

    assert close > 1.05 * far


def test_a_well_without_past_takes_after_its_own_pad() -> None:
    names = [f"n{i}" for i in range(3)] + [f"s{i}" for i in range(3)]
    levels = dict.fromkeys(names, 10.0)
    pads = {name: name[0] for name in [*names, "new"]}
    scores = np.concatenate([shared(60, 3, seed=1), shared(60, 3, seed=2)], axis=1)

    paths = sample_paths(
        Quantiles.of(forecast_rows({**levels, "new": 10.0})), past_rows(levels, scores), seed=1, groups=pads
    )

    new = paths.values[:, paths.index(["new"])[0], 0]
    with_own = np.corrcoef(new, paths.values[:, paths.index(["n0"])[0], 0])[0, 1]
    with_other = np.corrcoef(new, paths.values[:, paths.index(["s0"])[0], 0])[0, 1]
    assert with_own > 0.95
    assert abs(with_other) < 0.5


def test_a_well_whose_history_is_full_of_holes_still_gets_paths() -> None:
    past = past_rows(LEVELS_OF, apart(20, 3))
    holes = past.with_columns(
        y=pl.when((pl.col("unique_id") == "b") & (pl.col("horizon") != 2)).then(None).otherwise("y")
    )
    none = past.with_columns(y=pl.when(pl.col("unique_id") == "b").then(float("nan")).otherwise("y"))

    for rows in (holes, none):
        paths = sample_paths(Quantiles.of(forecast_rows(LEVELS_OF)), rows, seed=1, draws=200)
        assert np.isfinite(paths.values).all()
        assert paths.origins == 20


def test_what_happened_after_the_cutoff_changes_nothing() -> None:
    past = past_rows(LEVELS_OF, apart(20, 3))
    later = past_rows(LEVELS_OF, apart(2, 3, seed=9), before=MONTHS.shift(NOW, 2), step=1)
    forecast = Quantiles.of(forecast_rows(LEVELS_OF))

    alone = sample_paths(forecast, past, seed=1, draws=200)
    together = sample_paths(forecast, pl.concat([past, later]), seed=1, draws=200)

    assert (alone.values == together.values).all()


def test_the_same_seed_gives_the_same_bits_and_another_seed_others() -> None:
    assert (sampled(seed=4).values == sampled(seed=4).values).all()
    assert (sampled(seed=4).values != sampled(seed=5).values).any()


def test_the_order_of_rows_changes_no_bit() -> None:
    past, ahead = past_rows(LEVELS_OF, apart(20, 3)), forecast_rows(LEVELS_OF)
    shuffled = Quantiles.of(ahead.sample(fraction=1, shuffle=True, seed=3))

    paths = sample_paths(shuffled, past.sample(fraction=1, shuffle=True, seed=3), seed=1, draws=500)

    assert (paths.values == sampled().values).all()


def test_a_horizon_no_origin_has_behaves_like_the_nearest_one() -> None:
    past = past_rows(LEVELS_OF, apart(20, 3, 2), step=2)

    paths = sample_paths(Quantiles.of(forecast_rows(LEVELS_OF, horizon=3)), past, seed=1, draws=300)

    last_two = np.argsort(np.argsort(paths.values[:, :, 1:], axis=0), axis=0)
    assert (last_two[:, :, 0] == last_two[:, :, 1]).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda f, p: (f.filter(~((pl.col("unique_id") == "b") & (pl.col("horizon") == 2))), p),
            "'b' is forecast at 2",
        ),
        (lambda f, p: (pl.concat([f, forecast_rows(LEVELS_OF, cutoff=datetime(2023, 1, 1))]), p), "2 cutoffs"),
        (lambda f, p: (f.clear(), p), "0 cutoffs"),
        (lambda f, p: (f, pl.concat([p, p])), "several out-of-fold rows"),
        (lambda f, p: (f, p.drop("y")), "lack the columns"),
        (lambda f, p: (f, p.with_columns(y=pl.lit(None, dtype=pl.Float64))), "no out-of-fold origin"),
        (lambda f, p: (f, p.with_columns(pl.col("unique_id") + "x")), "no out-of-fold origin"),
    ],
)
def test_input_that_has_no_joint_paths_is_refused_by_name(change: Any, message: str) -> None:
    ahead, past = change(forecast_rows(LEVELS_OF), past_rows(LEVELS_OF, apart(6, 3)))

    with pytest.raises(ConfigError, match=message):
        sample_paths(Quantiles.of(ahead), past, seed=1)


def test_too_few_draws_and_unknown_names_are_refused() -> None:
    with pytest.raises(ConfigError, match="1 sample paths"):
        sampled(draws=1)
    with pytest.raises(ConfigError, match="series 'z' has no sample path"):
        sampled().index(["a", "z"])


# --- sums


def test_p90_is_the_low_case_and_p10_the_high_one() -> None:
    frame = industry_names(pl.DataFrame({"q10": [1.0], "q50": [2.0], "q90": [3.0]}))

    assert frame.row(0, named=True) == {"q10": 1.0, "q50": 2.0, "q90": 3.0, "P90": 1.0, "P50": 2.0, "P10": 3.0}
    with pytest.raises(ConfigError, match=r"lacks the columns \['q90'\]"):
        industry_names(frame.drop("q90"))


def test_the_roll_up_has_a_row_for_every_well_pad_and_the_field_and_its_cumulative() -> None:
    table = roll_up(sampled(), freq=MONTHS, groups=PADS)

    assert tuple(table.columns) == COLUMNS
    assert table.group_by("level", "kind").len().sort("level", "kind").rows() == [
        ("field", "cumulative", 1),
        ("field", "rate", 3),
        ("pad", "cumulative", 2),
        ("pad", "rate", 6),
        ("well", "cumulative", 3),
        ("well", "rate", 9),
    ]
    assert table.filter(pl.col("kind") == "cumulative")["horizon"].null_count() == 6
    assert table.filter(pl.col("kind") == "cumulative")["ds"].unique().to_list() == [datetime(2024, 4, 1)]
    assert table.drop("horizon").null_count().sum_horizontal().item() == 0


def test_a_wells_rates_are_its_published_quantiles() -> None:
    table = rates(sampled()).filter(pl.col("level") == "well").sort("name", "horizon")

    assert_frame_equal(table.select(QUANTILES), forecast_rows(LEVELS_OF).sort("unique_id", "horizon").select(QUANTILES))


def test_a_cumulative_counts_the_days_of_each_month() -> None:
    flat = forecast_rows({"a": 10.0}, spread=0.0)  # February to April 2024
    past = past_rows({"a": 10.0}, apart(5, 1))

    table = cumulatives(sample_paths(Quantiles.of(flat), past, seed=1, draws=50), freq=MONTHS)

    assert table["level"].to_list() == ["well", "field"]
    assert table["q10"].to_list() == pytest.approx([10.0 * (29 + 31 + 30)] * 2)
    assert table["mean"].to_list() == pytest.approx([900.0, 900.0])


def test_one_well_is_its_own_field() -> None:
    one = {"a": 100.0}
    paths = sample_paths(Quantiles.of(forecast_rows(one)), past_rows(one, apart(9, 1)), seed=1, draws=1000)

    table = rates(paths)

    well, field = (table.filter(pl.col("level") == level).sort("horizon") for level in ("well", "field"))
    assert field.select(QUANTILES).to_numpy() == pytest.approx(well.select(QUANTILES).to_numpy(), rel=1e-3)
    assert field["mean"].to_list() == pytest.approx(well["mean"].to_list())


def test_forecasts_of_nothing_add_up_to_nothing() -> None:
    shut = dict.fromkeys(LEVELS_OF, 0.0)

    table = roll_up(
        sample_paths(Quantiles.of(forecast_rows(shut)), past_rows(shut, apart(9, 3)), seed=1, lower=0.0),
        freq=MONTHS,
        groups=PADS,
    )

    assert (table.select(*QUANTILES, "mean").to_numpy() == 0.0).all()


def test_without_groups_there_are_no_pads() -> None:
    assert rates(sampled())["level"].unique().sort().to_list() == ["field", "well"]


def test_a_well_without_a_pad_is_refused_for_pads_have_to_add_up() -> None:
    with pytest.raises(ConfigError, match="1 of 3 series have no pad, first 'c'"):
        rates(sampled(), groups={"a": "north", "b": "north"})


# --- reconciliation


def history(level: Mapping[str, float], months: int = 80, seed: int = 0) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    times = [MONTHS.shift(NOW, -back) for back in range(months - 1, -1, -1)]
    return pl.concat(
        pl.DataFrame({"unique_id": [name] * months, "ds": times, "y": its * (1 + 0.01 * rng.standard_normal(months))})
        for name, its in level.items()
    )


class Doubling:
    """Stands in for the library: keeps what it was given and doubles every well."""

    seen: Mapping[str, Any]

    def __init__(self, method: str, nonnegative: bool) -> None:
        Doubling.seen = {"method": method, "nonnegative": nonnegative}

    def fit_predict(self, **given: Any) -> dict[str, Any]:
        Doubling.seen = {**Doubling.seen, **given}
        summing = given["S"]
        return {"mean": summing @ (2.0 * given["y_hat"][-summing.shape[1] :])}


class Halving(Doubling):
    def fit_predict(self, **given: Any) -> dict[str, Any]:
        return {"mean": super().fit_predict(**given)["mean"] / 4}


class Failing(Doubling):
    def fit_predict(self, **given: Any) -> dict[str, Any]:
        raise Exception("ill-conditioned")


def stand_in(monkeypatch: pytest.MonkeyPatch, library: type[Doubling]) -> None:
    monkeypatch.setitem(sys.modules, "hierarchicalforecast", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "hierarchicalforecast.methods", SimpleNamespace(MinTrace=library))


def by_mint(paths: Paths, *, past: pl.DataFrame | None = None, known: pl.DataFrame | None = None) -> Paths:
    past = past_rows(LEVELS_OF, apart(20, 3)) if past is None else past
    known = history(LEVELS_OF) if known is None else known
    return reconcile(paths, method="mint", oof=past, history=known, groups=PADS)


def test_bottom_up_leaves_the_wells_as_they_are() -> None:
    paths = sampled()

    assert reconcile(paths) is paths


def test_mint_sees_the_field_then_pads_then_wells_and_the_smoothed_history_of_sums(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stand_in(monkeypatch, Doubling)
    paths = sampled(lower=0.0)

    by_mint(paths)

    seen = Doubling.seen
    size = paths.values.mean(axis=0).max()
    assert (seen["method"], seen["nonnegative"]) == ("mint_shrink", True)
    # The pad of one well has no row of its own: it would repeat the well.
    assert seen["S"].tolist() == [
        [1.0, 1.0, 0.0],
        [1.0, 1.0, 1.0],
        [1.0, 0.0, 0.0],
        [0.0, 1.0, 0.0],
        [0.0, 0.0, 1.0],
    ]
    assert seen["y_hat"][:2] * size == pytest.approx(np.array([[150.0] * 3, [160.0] * 3]), rel=0.02)
    assert seen["y_hat"][2:] * size == pytest.approx(paths.values.mean(axis=0))
    assert np.isfinite(seen["y_insample"]).all()
    assert seen["y_insample"].shape == (5, 60)


def test_a_fan_moves_up_by_a_shift_and_down_towards_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    paths = sampled(lower=0.0)

    stand_in(monkeypatch, Doubling)
    up = by_mint(paths)
    stand_in(monkeypatch, Halving)
    down = by_mint(paths)

    assert up.values.mean(axis=0) == pytest.approx(2 * paths.values.mean(axis=0))
    assert np.diff(up.marginals, axis=2) == pytest.approx(np.diff(paths.marginals, axis=2))
    assert down.values == pytest.approx(paths.values / 2)
    assert down.marginals == pytest.approx(paths.marginals / 2)
    assert down.values.min() >= 0.0


def test_reconciled_wells_still_add_up_to_pads_and_the_field(monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(monkeypatch, Halving)
    table = rates(by_mint(sampled(lower=0.0)), groups=PADS)

    sums = table.group_by("level", "horizon").agg(pl.col("mean").sum()).sort("horizon", "level")
    for (_,), part in sums.group_by("horizon"):
        assert part["mean"].to_list() == pytest.approx([part["mean"][0]] * 3, rel=1e-9)


def test_a_shut_well_stays_shut_when_its_field_is_lifted(monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(monkeypatch, Doubling)
    levels = {"a": 100.0, "b": 50.0, "c": 0.0}
    past = past_rows(levels, apart(20, 3))
    paths = sample_paths(Quantiles.of(forecast_rows(levels)), past, seed=1, draws=200, lower=0.0)

    lifted = by_mint(paths, past=past, known=history(levels))

    assert (lifted.values[:, 2] == 0.0).all()
    assert lifted.values[:, :2].mean(axis=0) == pytest.approx(2 * paths.values[:, :2].mean(axis=0))


def test_mint_reads_no_row_after_the_cutoff(monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(monkeypatch, Doubling)
    paths, known = sampled(lower=0.0), history(LEVELS_OF)
    by_mint(paths, known=known)
    before = Doubling.seen
    later = known.with_columns(pl.col("ds").dt.offset_by("80mo"), y=pl.lit(1e6))

    by_mint(paths, known=pl.concat([known, later]))

    for name in ("y_hat", "y_insample"):
        assert (before[name] == Doubling.seen[name]).all()


def test_errors_of_sums_are_those_of_smoothing_up_to_and_with_the_origins_own_month(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stand_in(monkeypatch, Doubling)
    paths, past = sampled(lower=0.0), past_rows(LEVELS_OF, apart(20, 3))
    first = MONTHS.shift(NOW, -79)
    ramp = history(LEVELS_OF).with_columns(  # the best smoothing of a ramp is its last value
        y=(pl.col("ds").dt.year() * 12 + pl.col("ds").dt.month() - first.year * 12 - first.month + 1).cast(pl.Float64)
    )

    by_mint(paths, past=past, known=ramp)

    size = paths.values.mean(axis=0).max()
    came = past.group_by("cutoff", "horizon").agg(pl.col("y").sum()).sort("cutoff", "horizon")
    at_origin = came.join(ramp.filter(pl.col("unique_id") == "a"), left_on="cutoff", right_on="ds", suffix="_at")[
        "y_at"
    ]
    assert Doubling.seen["y_hat"][1] * size == pytest.approx([3 * 80.0] * 3)
    assert Doubling.seen["y_insample"][1] * size == pytest.approx((came["y"] - 3 * at_origin).to_numpy())


def test_a_hole_in_the_history_is_carried_over_and_a_new_well_borrows_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(monkeypatch, Doubling)
    paths = sampled(lower=0.0)
    known = history(LEVELS_OF).with_columns(
        y=pl.when(pl.col("ds") > datetime(2023, 11, 1)).then(float("nan")).otherwise("y")
    )
    past = past_rows(LEVELS_OF, apart(20, 3)).filter((pl.col("unique_id") != "b") | (pl.col("cutoff") > NOW))

    by_mint(paths, past=past, known=known)

    size = paths.values.mean(axis=0).max()
    assert Doubling.seen["y_hat"][0] * size == pytest.approx([150.0] * 3, rel=0.02)
    assert np.isfinite(Doubling.seen["y_insample"]).all()
    assert np.abs(Doubling.seen["y_insample"][3]).max() > 0


@pytest.mark.parametrize("missing", ["oof", "history"])
def test_mint_without_errors_or_history_says_what_it_lacks(missing: str) -> None:
    given = {"oof": past_rows(LEVELS_OF, apart(5, 3)), "history": history(LEVELS_OF), missing: None}

    with pytest.raises(
        ConfigError, match=f"MinT was asked for without {'out-of-fold' if missing == 'oof' else 'a his'}"
    ):
        reconcile(sampled(), method="mint", **given)  # type: ignore[arg-type]


def test_an_unknown_method_a_missing_library_and_a_failing_one_are_told_apart(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(ConfigError, match="unknown method of reconciliation 'magic'"):
        reconcile(sampled(), method="magic")  # type: ignore[arg-type]
    with monkeypatch.context() as patched:
        patched.setitem(sys.modules, "hierarchicalforecast.methods", None)
        with pytest.raises(ConfigError, match="extra `mint`"):
            by_mint(sampled())
    stand_in(monkeypatch, Failing)
    with pytest.raises(TrainingError, match=r"no solution for 3 wells and 2 sums .*ill-conditioned"):
        by_mint(sampled())


def test_mint_needs_closed_origins_and_a_history_of_these_wells(monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(monkeypatch, Doubling)

    with pytest.raises(ConfigError, match="none of 3 wells has 3 closed origins"):
        by_mint(sampled(), past=past_rows(LEVELS_OF, apart(2, 3)))
    with pytest.raises(ConfigError, match="the history has no row"):
        by_mint(sampled(), known=history({"other": 1.0}))
    with pytest.raises(ConfigError, match="no closed origin has errors"):
        by_mint(sampled(), known=history(LEVELS_OF, months=2))


def test_the_real_library_pulls_wells_towards_a_field_that_knows_better() -> None:
    pytest.importorskip("hierarchicalforecast", reason="hierarchicalforecast is an optional package")
    names = [f"w{i}" for i in range(8)]
    levels = dict.fromkeys(names, 10.0)
    low = dict.fromkeys(names, 8.0)  # what the wells' own models say, 20 % below the history, as always
    scores = 2.5 + 0.5 * apart(40, 8)
    past = past_rows(low, scores)
    paths = sample_paths(Quantiles.of(forecast_rows(low)), past, seed=1, draws=500, lower=0.0)

    coherent = reconcile(paths, method="mint", oof=past, history=history(levels))

    before, after = (its.values.mean(axis=0).sum(axis=0) for its in (paths, coherent))
    assert before == pytest.approx([64.0] * 3, rel=0.02)
    assert (np.abs(after - 80.0) < 0.5 * np.abs(before - 80.0)).all()
    assert (np.diff(coherent.marginals, axis=2) >= 0).all()
    assert coherent.values.min() >= 0.0


# --- looking back


def walk(levels: Mapping[str, float], origins: int = 14, step: int = 3, seed: int = 2) -> pl.DataFrame:
    return past_rows(levels, apart(origins, len(levels), seed=seed), step=step)


def test_looking_back_starts_where_enough_origins_had_closed() -> None:
    rows = hindcast(walk(LEVELS_OF), freq=MONTHS, groups=PADS, origins=8, draws=100)

    assert rows["cutoff"].n_unique() == 14 - 8
    assert rows["level"].unique().sort().to_list() == ["field", "pad"]
    assert rows.columns == [*COLUMNS, "y", "wells"]
    assert rows.select("y", "wells").null_count().sum_horizontal().item() == 0


def test_looking_back_over_too_few_origins_gives_no_rows() -> None:
    rows = hindcast(walk(LEVELS_OF, origins=5), freq=MONTHS, origins=8)

    assert rows.height == 0
    assert rows.columns == [*COLUMNS, "y", "wells"]
    assert rollup_scores(walk(LEVELS_OF, origins=5), walk(LEVELS_OF, origins=5), freq=MONTHS).height == 0


def test_looking_back_sums_outcomes_of_wells_known_all_the_way() -> None:
    rows = walk(LEVELS_OF)
    last = rows["cutoff"].max()
    holed = rows.with_columns(
        y=pl.when((pl.col("cutoff") == last) & (pl.col("unique_id") == "a") & (pl.col("horizon") == 2))
        .then(None)
        .otherwise("y")
    )

    found = hindcast(holed, freq=MONTHS, draws=50).filter(pl.col("cutoff") == last)

    counted = rows.filter((pl.col("cutoff") == last) & (pl.col("unique_id") != "a"))
    assert found["wells"].unique().to_list() == [2]
    for row in found.filter(pl.col("kind") == "rate").iter_rows(named=True):
        assert row["y"] == pytest.approx(counted.filter(pl.col("ds") == row["ds"])["y"].sum())
    days = counted.with_columns(days=pl.col("ds").dt.month_end().dt.day())
    volume = found.filter(pl.col("kind") == "cumulative")["y"].item()
    assert volume == pytest.approx((days["y"] * days["days"]).sum())


def test_no_origin_learns_from_what_closed_after_it() -> None:
    rows = walk(LEVELS_OF, step=1, origins=16)
    cutoffs = rows["cutoff"].unique().sort().to_list()
    judged = cutoffs[12]
    scrambled = rows.with_columns(y=pl.when(pl.col("ds") > judged).then(pl.col("y") * 3).otherwise("y"))

    before, after = (
        hindcast(its, freq=MONTHS, draws=100).filter(pl.col("cutoff") <= judged).drop("y") for its in (rows, scrambled)
    )

    assert before.height > 0
    assert_frame_equal(before, after, check_exact=True)


def test_scores_of_sums_stand_beside_the_naives_on_the_same_wells() -> None:
    rows = walk(LEVELS_OF)
    # The naive is 10 % too high throughout and lacks well c; the forecast's own median is always right.
    right = rows.with_columns(pl.col(name) * 0 + pl.col("y") for name in QUANTILES)
    naive = rows.filter(pl.col("unique_id") != "c").with_columns((pl.col("y") * 1.1).alias(name) for name in QUANTILES)

    table = rollup_scores(right, naive, freq=MONTHS, draws=50)

    field = table.filter(pl.col("level") == "field")
    assert field.select("kind", "model").rows() == [
        ("rate", "forecast"),
        ("rate", "naive"),
        ("cumulative", "forecast"),
        ("cumulative", "naive"),
    ]
    assert field["wells"].to_list() == [2.0] * 4
    assert field["nmae"].to_list() == pytest.approx([0.0, 0.1, 0.0, 0.1], abs=1e-9)
    assert field["bias"].to_list() == pytest.approx([0.0, 0.1, 0.0, 0.1], abs=1e-9)
    assert field["ratio"].to_list() == pytest.approx([0.0, 1.0, 0.0, 1.0], abs=1e-9)
    assert field["coverage80"].to_list()[1] == 0.0
    assert field["origins"].unique().to_list() == [6]
    assert field["rows"].to_list() == [18, 18, 6, 6]


def test_pads_are_scored_where_there_are_pads() -> None:
    levels: Sequence[str] = (
        rollup_scores(walk(LEVELS_OF), walk(LEVELS_OF), freq=MONTHS, groups=PADS, draws=50)["level"].unique().to_list()
    )

    assert sorted(levels) == ["field", "pad"]
