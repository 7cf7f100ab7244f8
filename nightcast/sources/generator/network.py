"""The tank network: each producer drains a tank that injectors, an aquifer and neighbouring tanks feed.

It is the capacitance-resistance model for producers (CRMP) with drainage pressure as its state, so that wells may be
shut and productivity may change. With constant productivity, wells always open, no aquifer and no flow between tanks it
is CRMP: tau dq/dt + q = sum_i w_i - J tau dp_wf/dt (Holanda et al. 2018, Energies 11(12) 3368).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float64]
Ints: TypeAlias = NDArray[np.int64]
Bools: TypeAlias = NDArray[np.bool_]

PRESSURE_CAP = 320.0
"""Bar. Water that would lift a tank above it leaves the zone through fractures (counted as spilled)."""


@dataclass(frozen=True)
class Network:
    """What does not change: `J` tanks, each drained by one producer, and `I` injectors.

    Attributes
    ----------
    capacity
        `(J,)` total compressibility times pore volume, m3/bar.
    aquifer
        `(J,)` aquifer strength, m3/d/bar.
    p_init
        `(J,)` initial pressure, also the aquifer's, bar.
    connectivity
        `(I, J)` share of an injector's water that reaches a tank; a row sums to one less its loss.
    theta
        `(I, J)` delay of the arriving water, days.
    exchange
        `(J, J)` symmetric transmissibility between tanks, m3/d/bar, zero diagonal.
    """

    capacity: Floats
    aquifer: Floats
    p_init: Floats
    connectivity: Floats
    theta: Floats
    exchange: Floats


@dataclass(frozen=True)
class Schedule:
    """What the operator does each day.

    Attributes
    ----------
    is_open
        `(D, J)` True on days a producer flows.
    p_wf
        `(D, J)` flowing bottom-hole pressure, bar.
    productivity
        `(D, J)` productivity index, m3/d/bar.
    injection
        `(D, I)` injected water, m3/d (before feedback).
    """

    is_open: Bools
    p_wf: Floats
    productivity: Floats
    injection: Floats


@dataclass(frozen=True)
class Feedback:
    """The operator's answer to falling pressure: injection times `1 + gain * relative fall`, clipped.

    Attributes
    ----------
    review
        `(D,)` True on days the factor is set anew, from the tanks' mean pressure that morning.
    low, high
        Limits of the factor.
    """

    review: Bools
    gain: float = 3.0
    low: float = 0.6
    high: float = 1.6


@dataclass(frozen=True)
class Trajectory:
    """What happens each day. Volumes are m3 per day; pressures are bar.

    Attributes
    ----------
    rate
        `(D, J)` liquid produced.
    pressure
        `(D + 1, J)` tank pressure at the start of each day, and at the end of the last.
    mean_pressure
        `(D, J)` mean over the day.
    arriving, from_aquifer, from_neighbours, spilled
        `(D, J)` water that reaches a tank from injectors, from its aquifer, from other tanks (net), and that leaves it
        above the pressure cap.
    injection
        `(D, I)` water injected, after feedback.
    in_transit
        `(D + 1, J)` injected water on its way to a tank, m3.
    """

    rate: Floats
    pressure: Floats
    mean_pressure: Floats
    arriving: Floats
    from_aquifer: Floats
    from_neighbours: Floats
    spilled: Floats
    injection: Floats
    in_transit: Floats


def simulate_network(
    network: Network,
    schedule: Schedule,
    *,
    pressure: Floats,
    arriving: Floats,
    feedback: Feedback | None = None,
) -> Trajectory:
    """Step the network through every day of the schedule.

    Within a day controls and what flows into a tank are constant; the delay of injected water and the drawdown of an
    open well follow their exact exponentials, so the step equals CRMP's for daily means of the arriving water. Every
    step closes the mass balance by construction: a tank gains what flows in less what is produced.

    Parameters
    ----------
    pressure
        `(J,)` tank pressure at the start, bar.
    arriving
        `(I, J)` water reaching each tank from each injector at the start, m3/d.
    """
    days, producers = schedule.p_wf.shape
    start, injectors = pressure, schedule.injection.shape[1]

    # Pairs that exist, as flat lists: one multiplication a day instead of a sparse matrix.
    source, sink = np.nonzero(network.connectivity)
    share, theta = network.connectivity[source, sink], network.theta[source, sink]
    keep = np.exp(-1.0 / theta)
    blend = theta * (1.0 - keep)
    arrival = np.asarray(arriving[source, sink], dtype=np.float64)

    left, right = np.nonzero(np.triu(network.exchange, 1))
    link = network.exchange[left, right]

    # Exact exponential of an open well, for every day at once.
    exponent = schedule.productivity / network.capacity
    weight = -np.expm1(-exponent) / exponent

    p = pressure.astype(np.float64).copy()
    p_ref, factor = float(start.mean()), 1.0
    out = _empty_trajectory(days, producers, injectors)
    out.pressure[0] = p
    out.in_transit[0] = np.bincount(sink, theta * arrival, minlength=producers)

    for day in range(days):
        if feedback is not None and feedback.review[day]:
            fall = (p_ref - float(p.mean())) / p_ref
            factor = min(max(1.0 + feedback.gain * fall, feedback.low), feedback.high)
        injected = schedule.injection[day] * factor
        supply = share * injected[source]
        excess = arrival - supply
        w = np.bincount(sink, supply + excess * blend, minlength=producers)
        arrival = supply + excess * keep

        flow = link * (p[left] - p[right])
        exchanged = np.bincount(right, flow, minlength=producers) - np.bincount(left, flow, minlength=producers)
        aquifer = network.aquifer * (network.p_init - p)
        inflow = w + aquifer + exchanged

        productivity, p_wf, is_open = schedule.productivity[day], schedule.p_wf[day], schedule.is_open[day]
        p_eq = p_wf + inflow / productivity
        flowing = p_eq + (p - p_eq) * weight[day]
        rate = np.where(is_open, np.maximum(productivity * (flowing - p_wf), 0.0), 0.0)
        after = p + (inflow - rate) / network.capacity
        spilled = np.maximum(after - PRESSURE_CAP, 0.0) * network.capacity

        out.mean_pressure[day] = np.where(rate > 0.0, flowing, 0.5 * (p + np.minimum(after, PRESSURE_CAP)))
        p = np.minimum(after, PRESSURE_CAP)
        out.rate[day], out.arriving[day], out.injection[day] = rate, w, injected
        out.from_aquifer[day], out.from_neighbours[day], out.spilled[day] = aquifer, exchanged, spilled
        out.pressure[day + 1] = p
        out.in_transit[day + 1] = np.bincount(sink, theta * arrival, minlength=producers)
    return out


def _empty_trajectory(days: int, producers: int, injectors: int) -> Trajectory:
    def tanks(rows: int = days) -> Floats:
        return np.empty((rows, producers))

    return Trajectory(
        rate=tanks(),
        pressure=tanks(days + 1),
        mean_pressure=tanks(),
        arriving=tanks(),
        from_aquifer=tanks(),
        from_neighbours=tanks(),
        spilled=tanks(),
        injection=np.empty((days, injectors)),
        in_transit=tanks(days + 1),
    )


def steady_pressure(
    network: Network, *, is_open: Bools, p_wf: Floats, productivity: Floats, arriving: Floats
) -> Floats:
    """Pressure at which each open tank gains as much as it gives; shut tanks stay at `p_init`.

    Parameters
    ----------
    is_open, p_wf, productivity, arriving
        `(J,)` each, the controls held constant.
    """
    drain = np.where(is_open, productivity, 0.0)
    matrix = np.diag(network.aquifer + network.exchange.sum(axis=1) + drain) - network.exchange
    right = arriving + network.aquifer * network.p_init + drain * p_wf
    shut = ~is_open
    matrix[shut] = np.eye(len(right))[shut]
    right = np.where(shut, network.p_init, right)
    solved = np.linalg.solve(matrix, right)
    return np.asarray(np.clip(solved, p_wf, PRESSURE_CAP), dtype=np.float64)
