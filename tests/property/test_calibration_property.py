from datetime import datetime

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nightcast.contracts.columns import QUANTILES
from nightcast.contracts.frequency import Frequency
from nightcast.contracts.prediction import Quantiles
from nightcast.evaluation.calibration import ConformalQuantiles

DAYS = Frequency.parse("D")


def rows(seed: int, origins: int, series: int, horizons: int) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    keys = [
        (f"s{s}", DAYS.shift(datetime(2024, 1, 1), o + h), DAYS.shift(datetime(2024, 1, 1), o), h)
        for o in range(origins)
        for s in range(series)
        for h in range(1, horizons + 1)
    ]
    scale = np.exp(rng.normal(0, 1, series))[[int(key[0][1:]) for key in keys]]
    q = np.sort(rng.normal(size=(len(keys), len(QUANTILES))), axis=1) * scale[:, None]
    frame = pl.DataFrame(keys, schema=["unique_id", "ds", "cutoff", "horizon"], orient="row")
    return frame.with_columns(
        *(pl.Series(name, q[:, i]) for i, name in enumerate(QUANTILES)),
        y=pl.Series(rng.standard_t(3, len(keys)) * scale * rng.uniform(0.1, 5)),
        scale=pl.Series(scale),
    )


frames = st.builds(rows, st.integers(0, 9999), st.integers(1, 6), st.integers(1, 5), st.integers(1, 4))
calibrators = st.builds(ConformalQuantiles, min_rows=st.integers(1, 100))


def applied(calibrator: ConformalQuantiles, frame: pl.DataFrame, table: dict) -> pl.DataFrame:
    return calibrator.apply(Quantiles.of(frame), frame.select("unique_id", "cutoff", "scale").unique(), table).frame


@settings(max_examples=40, deadline=None)
@given(oof=frames, fresh=frames, calibrator=calibrators)
def test_calibrated_quantiles_never_cross_and_no_row_is_lost(oof, fresh, calibrator):
    after = applied(calibrator, fresh, calibrator.fit(oof))

    assert after.height == fresh.height
    values = after.select(QUANTILES).to_numpy()
    assert np.isfinite(values).all()
    assert (np.diff(values, axis=1) >= 0).all()


@settings(max_examples=40, deadline=None)
@given(oof=frames, fresh=frames, calibrator=calibrators, factor=st.floats(0.01, 100))
def test_a_change_of_unit_changes_nothing_but_the_unit(oof, fresh, calibrator, factor):
    scaled = [frame.with_columns(pl.col(*QUANTILES, "y", "scale") * factor) for frame in (oof, fresh)]

    plain = applied(calibrator, fresh, calibrator.fit(oof)).select(QUANTILES).to_numpy()
    other = applied(calibrator, scaled[1], calibrator.fit(scaled[0])).select(QUANTILES).to_numpy()

    assert other / factor == pytest.approx(plain, rel=1e-6, abs=1e-6)


@settings(max_examples=30, deadline=None)
@given(oof=frames, offset=st.floats(-50, 50))
def test_a_constant_added_to_forecasts_and_outcomes_leaves_the_shifts_alone(oof, offset):
    moved = oof.with_columns(pl.col(*QUANTILES, "y") + offset * pl.col("scale"))

    first, second = (ConformalQuantiles().fit(frame)["groups"] for frame in (oof, moved))

    for before, after in zip(first, second, strict=True):
        assert after["shift"] == pytest.approx(before["shift"], abs=1e-6)


@settings(max_examples=30, deadline=None)
@given(oof=frames, seed=st.integers(0, 99), calibrator=calibrators)
def test_the_order_of_rows_does_not_matter(oof, seed, calibrator):
    assert calibrator.fit(oof.sample(fraction=1, shuffle=True, seed=seed)) == calibrator.fit(oof)


@settings(max_examples=30, deadline=None)
@given(oof=frames, calibrator=calibrators)
def test_every_horizon_belongs_to_exactly_one_group_of_neighbours(oof, calibrator):
    groups = [group["horizons"] for group in calibrator.fit(oof)["groups"]]

    assert sorted(h for group in groups for h in group) == oof["horizon"].unique().sort().to_list()
    assert [h for group in groups for h in group] == sorted(h for group in groups for h in group)
