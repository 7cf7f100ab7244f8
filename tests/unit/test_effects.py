"""Set points behind noisy gauges, and productivities that are not made small by them."""

from __future__ import annotations

import numpy as np
import pytest

from nightcast.physics.effects import set_points


def test_set_points_keep_levels_and_drop_gauge_noise() -> None:
    rng = np.random.default_rng(1)
    truth = np.repeat([90.0, 70.0, 110.0, 95.0], 30)[:, None]

    found = set_points(truth + 1.5 * rng.normal(size=truth.shape))

    assert np.abs(found - truth).mean() < 0.75  # half of the noise's mean size is gone at least
    assert len(np.unique(found)) < 40


def test_set_points_keep_unknown_months_unknown_and_a_constant_as_it_is() -> None:
    pressure = np.full((24, 2), 80.0)
    pressure[[0, 7, 23], 1] = np.nan

    found = set_points(pressure)

    assert np.array_equal(found, pressure, equal_nan=True)


@pytest.mark.parametrize("months", [0, 1, 2])
def test_a_short_record_stays_as_it_is(months: int) -> None:
    pressure = np.linspace(80.0, 95.0, max(months, 1))[:months, None]

    assert np.array_equal(set_points(pressure), pressure)


def test_the_mean_of_a_stretch_is_kept() -> None:
    rng = np.random.default_rng(2)
    pressure = 100.0 + rng.normal(size=(60, 3))

    assert np.allclose(set_points(pressure).mean(axis=0), pressure.mean(axis=0))
