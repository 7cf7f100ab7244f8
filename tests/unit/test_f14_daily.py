"""The daily protocols on planted wells: lines that are exact, a learner that helps, nothing from the future."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from benchmarks.f14_daily import (
    AHEAD,
    BARRELS,
    Days,
    Trees,
    choose,
    corrected,
    days_of,
    hourly,
    inputs,
    one_line,
    persistence,
    protocol_a,
    protocol_b,
    read_days,
    scores,
)
from nightcast.contracts.errors import ConfigError

SMALL = Trees(leaves=4, rounds=80, half_life=1000.0, bags=1)


def well(count: int = 400, *, power: float = 1.0, noise: float = 0.0, shut: float = 0.1, seed: int = 0) -> Days:
    """A declining well whose rate per hour goes with a power of the choke."""
    rng = np.random.default_rng(seed)
    day = np.arange(count)
    hours = np.where(rng.random(count) < shut, rng.uniform(2, 20, count), 24.0)
    choke = 60 + 30 * np.sin(day / 9) * (rng.random(count) > 0.2)
    rate = 5.0 * np.exp(-day / 2000) * choke**power
    return Days(day.astype(np.int64), hours, choke, rate * hours * np.exp(noise * rng.standard_normal(count)))


def test_the_one_line_is_exact_where_oil_goes_with_hours_and_choke() -> None:
    days = well(shut=0.3)
    told = one_line(days)

    assert np.isnan(told[0])
    assert told[5:] == pytest.approx(days.oil[5:], rel=0.01)  # the decline of a few days


def test_the_naive_lines_say_yesterday() -> None:
    days = Days(np.arange(4), np.array([24.0, 12.0, 0.0, 24.0]), np.full(4, 50.0), np.array([240.0, 60.0, 0.0, 100.0]))

    assert np.isnan(persistence(days)[0])
    assert persistence(days)[1:].tolist() == [240.0, 60.0, 0.0]
    assert hourly(days)[1:].tolist() == [120.0, 0.0, 120.0]  # a shut day tells no rate: the one before it counts


def test_the_learner_finds_what_the_line_has_wrong() -> None:
    days = well(800, power=0.4, noise=0.02)
    off = {name: float(np.abs(told - days.oil[days.cut :]).mean()) for name, told in protocol_a(days, SMALL).items()}

    assert off["the line, corrected"] < 0.6 * off["one line of physics"]


def test_the_learner_leaves_a_line_that_is_right() -> None:
    days = well(800, noise=0.02)
    told = protocol_a(days, SMALL)
    actual = days.oil[days.cut :]

    assert (
        np.abs(told["the line, corrected"] - actual).mean() < 1.2 * np.abs(told["one line of physics"] - actual).mean()
    )


@pytest.mark.parametrize("at", [200, 330])
def test_no_day_sees_its_own_oil_or_anything_later(at: int) -> None:
    days = well(noise=0.1)
    rng = np.random.default_rng(9)
    later = np.arange(len(days)) >= at
    changed = Days(days.day, days.hours, days.choke, np.where(later, rng.uniform(1, 5000, len(days)), days.oil))
    beyond = np.arange(len(days)) > at
    changed = Days(
        changed.day, np.where(beyond, 7.0, days.hours), np.where(beyond, 33.0, days.choke), changed.oil
    )  # hours and choke of the day itself are given, those of later days are not

    for line in (persistence, hourly, one_line, lambda its: inputs(its)[0][:, 0]):
        np.testing.assert_array_equal(line(days)[: at + 1], line(changed)[: at + 1])
    fitted = [corrected(its, 200, SMALL)[: at + 1] for its in (days, changed)]
    np.testing.assert_array_equal(*fitted)


def test_parameters_are_chosen_without_the_judged_days() -> None:
    days = well(300, power=0.5, noise=0.05)
    judged = np.arange(len(days)) >= days.cut
    other = Days(days.day, days.hours, days.choke, np.where(judged, 1.0, days.oil))
    grid = (SMALL, Trees(leaves=4, rounds=20, half_life=100.0, bags=1))

    assert choose(days, grid) == choose(other, grid)


def test_thirty_days_ahead_nothing_is_known_of_them() -> None:
    days = well(500, noise=0.05)
    first = days.cut - 1  # the first origin; days are complete here
    later = np.arange(len(days)) > first
    changed = Days(
        days.day, np.where(later, 3.0, days.hours), np.where(later, 10.0, days.choke), np.where(later, 9.0, days.oil)
    )
    (came, told), (_, other) = protocol_b(days, SMALL), protocol_b(changed, SMALL)

    assert came.shape == (len(days) - first - AHEAD, AHEAD)
    np.testing.assert_array_equal(came[0], days.oil[first + 1 : first + 1 + AHEAD])
    for name in told:
        np.testing.assert_array_equal(told[name][0], other[name][0])


def test_a_missing_day_is_neither_zero_nor_judged() -> None:
    days = well(500, noise=0.05)
    kept = np.ones(len(days), dtype=bool)
    kept[450] = False
    came, told = protocol_b(days.where(kept), SMALL)

    assert np.isnan(came).sum() == min(AHEAD, len(came))
    assert not any(np.isnan(values).any() for values in told.values())


def test_a_steady_well_is_foretold_for_thirty_days() -> None:
    days = well(500, power=0.0, shut=0.0)
    came, told = protocol_b(days, SMALL)

    assert told["rate per hour x mean hours of 30 days"] == pytest.approx(came, rel=0.03)
    assert told["the same, declining as the last 90 days"] == pytest.approx(came, rel=0.005)
    assert told["the last but one, corrected"] == pytest.approx(came, rel=0.05)


def test_scores_of_known_errors() -> None:
    found = scores(np.array([1.0, 3.0, np.nan]), np.array([2.0, 1.0, 5.0]))

    assert (found["MAE"], found["wMAPE"], found["rows"]) == ("1.500", "75.00%", 2)
    assert found["RMSE"] == pytest.approx(np.sqrt(2.5))
    assert found["R2"] == pytest.approx(1 - 5 / 2)


def test_the_daily_table_is_read_in_barrels_and_hours_of_a_clock_change_are_cut(tmp_path: Path) -> None:
    begin = datetime(2010, 1, 1)
    path = tmp_path / "daily.parquet"
    pl.DataFrame(
        {
            "date": [begin + timedelta(days=k) for k in (2, 0, 0)],
            "npd_well_bore_name": ["15/9-F-14", "15/9-F-14", "15/9-F-12"],
            "on_stream_hrs": [25.0, 12.0, 24.0],
            "avg_choke_size_p": [None, 40.0, 50.0],
            "bore_oil_vol": [100.0, 50.0, 7.0],
        }
    ).write_parquet(path)

    days = days_of(read_days(path), begin, begin + timedelta(days=9))

    assert days.day.tolist() == [0, 2]
    assert days.hours.tolist() == [12.0, 24.0]
    assert days.choke.tolist() == [40.0, 0.0]
    assert days.oil.tolist() == pytest.approx([50 * BARRELS, 100 * BARRELS])
    with pytest.raises(ConfigError, match="no day of well"):
        read_days(path, well="15/9-F-1")
    with pytest.raises(ConfigError, match="there is no file"):
        read_days(tmp_path / "absent.parquet")


@pytest.mark.real_data
def test_the_one_line_repeats_its_known_error_on_the_published_days() -> None:
    from benchmarks.f14_daily import DATA, WINDOWS

    path = DATA / "volve" / "daily.parquet"
    if not path.exists():
        pytest.skip("Volve's daily table is not beside the checkout")
    every = days_of(read_days(path), *WINDOWS["published"])
    days = every.where(every.hours > 0)
    told = protocol_a(days, Trees(rounds=1, bags=1))
    off = {name: float(np.abs(values - days.oil[days.cut :]).mean()) for name, values in told.items()}

    assert off["yesterday's oil (no plan)"] == pytest.approx(204.6, rel=0.02)
    assert off["latest rate per hour x hours"] == pytest.approx(138.9, rel=0.02)
    assert off["one line of physics"] == pytest.approx(129.2, rel=0.02)
