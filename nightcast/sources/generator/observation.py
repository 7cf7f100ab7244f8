"""What the field's people write down: months instead of days, allocated volumes, noisy gauges."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nightcast.sources.generator.config import FieldConfig
from nightcast.sources.generator.network import Floats, Schedule, Trajectory
from nightcast.sources.generator.schedule import Months


@dataclass(frozen=True)
class MonthlyTruth:
    """Noiseless months, `(M, J)` each; NaN where a well was shut all month.

    Attributes
    ----------
    rate
        Calendar-day liquid rate: volume over days in the month, m3/d; 0 if shut.
    producing_day_rate
        Volume over days on stream, m3/d.
    uptime
        Days on stream (with flow) over days in the month.
    p_wf
        Flowing bottom-hole pressure, mean over days on stream, bar.
    p_res
        Tank pressure, mean over all days, bar.
    productivity
        Productivity index, mean over all days, m3/d/bar.
    support
        Injected water that reached the tank, m3/d.
    water_cut
        Share of water in the produced volume.
    """

    rate: Floats
    producing_day_rate: Floats
    uptime: Floats
    p_wf: Floats
    p_res: Floats
    productivity: Floats
    support: Floats
    water_cut: Floats


def water_cut(config: FieldConfig, arriving: Floats, is_new: np.ndarray) -> Floats:
    """Daily water cut `(D, J)`: the water-oil ratio is a power of the water that has reached the tank.

    `WOR = (W / W_half)^b`; a tank holds some water when the simulation begins, more so if its well is old.
    """
    rng = config.stream("water cut")
    n = arriving.shape[1]
    half = rng.lognormal(np.log(80_000.0), 0.5, n)
    power = rng.uniform(0.8, 1.4, n)
    before = np.where(is_new, rng.uniform(1_000, 10_000, n), rng.uniform(10_000, 60_000, n))
    ratio = ((before + np.cumsum(arriving, axis=0)) / half) ** power
    return np.asarray(ratio / (1 + ratio), dtype=np.float64)


def to_months(months: Months, schedule: Schedule, flow: Trajectory, cut: Floats) -> MonthlyTruth:
    """Daily to monthly."""
    days = months.days[:, None]
    volume = months.sums(flow.rate)
    on_stream = flow.rate > 0  # an open well whose tank is below its flowing pressure is not on stream
    on = months.sums(on_stream)
    with np.errstate(divide="ignore", invalid="ignore"):
        return MonthlyTruth(
            rate=volume / days,
            producing_day_rate=volume / on,
            uptime=on / days,
            p_wf=months.sums(np.where(on_stream, schedule.p_wf, 0.0)) / on,
            p_res=months.sums(flow.mean_pressure) / days,
            productivity=months.sums(schedule.productivity) / days,
            support=months.sums(flow.arriving) / days,
            water_cut=months.sums(flow.rate * cut) / volume,
        )


def allocate(config: FieldConfig, rate: Floats) -> Floats:
    """Rates as allocated to wells: each off by a few per cent, together the field's true total.

    The error of a well is log-normal with a spread of its own of 2 to 8 %, new each month or kept from one well test
    to the next.

    Parameters
    ----------
    rate
        `(M, J)` true rates.
    """
    rng = config.stream("allocation")
    spread = np.clip(rng.lognormal(np.log(0.04), 0.35, rate.shape[1]), 0.02, 0.08)
    error = spread * rng.normal(size=rate.shape)
    if config.allocation == "test":
        for well in range(rate.shape[1]):
            tested = 0
            while tested < len(rate):
                until = tested + int(rng.integers(1, 5))
                error[tested:until, well] = error[tested, well]
                tested = until
    seen = rate * np.exp(error)
    total, said = rate.sum(axis=1, keepdims=True), seen.sum(axis=1, keepdims=True)
    return np.asarray(seen * np.divide(total, said, out=np.ones_like(total), where=said > 0), dtype=np.float64)


def read_gauges(config: FieldConfig, p_wf: Floats) -> Floats:
    """Bottom-hole pressures with 1.5 bar of noise; NaN stays where the well was shut."""
    return p_wf + 1.5 * config.stream("gauges").normal(size=p_wf.shape)


def sample_oil(config: FieldConfig, rate: Floats, cut: Floats) -> Floats:
    """Oil rates from allocated liquid and a sampled water cut (2 points of noise); 0 where nothing flowed."""
    noise = 0.02 * config.stream("samples").normal(size=rate.shape)
    return np.asarray(rate * (1 - np.clip(np.where(rate > 0, cut, 0.0) + noise, 0.0, 1.0)), dtype=np.float64)
