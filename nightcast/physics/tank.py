"""The tank of a producer, month by month: how injected water arrives, and how the well answers.

A producer drains a tank of capacity `C = J tau`. With `y = J (P - p_ref)`, pressure `p = p_wf - p_ref`, share of the
month on stream `u` and leak `a` (aquifer and neighbours over productivity):

    tau dy/dt = sum_i w_i + c + u J p - (u + a) y        producing-day rate = y - J p

which is linear in the connectivities behind `w_i`, in `c`, `J` and the first `y`, and becomes the
capacitance-resistance model for producers where `u = 1` and `a = 0` (Holanda et al. 2018, Energies 11(12) 3368).
Because shut months only stop the outflow, build-up and flush production follow. Within a month inputs are constant and
the step is exact.
"""

from __future__ import annotations

import numpy as np

from nightcast.physics.waterflood import Floats, Ints


def arriving(injection: Floats, days: Floats, delay: Floats, near: Ints) -> Floats:
    """Monthly mean of the injected water after its way through the rock, `(T, J, K)`, before any sharing.

    `theta dw/dt = I - w`: an exponentially weighted mean of the injection, at `I` in the first month.

    Parameters
    ----------
    injection
        `(T, I)` m3/d, no NaN.
    days
        `(T,)` days of each month.
    delay
        `(J, K)` theta in days.
    near
        `(J, K)` injector behind each slot.
    """
    source = injection[:, near]
    stretch = days[:, None, None] / delay
    keep = np.exp(-stretch)
    blend = -np.expm1(-stretch) / stretch
    out = np.empty_like(source)
    state = source[0].copy()
    for t in range(len(source)):
        excess = state - source[t]
        out[t] = source[t] + excess * blend[t]
        state = source[t] + excess * keep[t]
    return out


def respond(
    inflow: Floats, first: Floats, *, uptime: Floats, days: Floats, tau: Floats, leak: Floats, begin: Ints
) -> Floats:
    """Monthly mean of the tank's state `y`, `(T, J, K)`, to each of `K` inflows at a time.

    Parameters
    ----------
    inflow
        `(T, J, K)` m3/d.
    first
        `(J, K)` state on the first day of the producer's first month.
    uptime
        `(T, J)` share of the month on stream, no NaN.
    days
        `(T,)` days of each month.
    tau
        `(J,)` time constant, days.
    leak
        `(J,)` outflow other than the well's, relative to the well's; above 0.
    begin
        `(J,)` first month of each producer; before it the state rests.
    """
    drain = uptime + leak
    stretch = drain / tau * days[:, None]
    keep = np.exp(-stretch)[..., None]
    blend = (-np.expm1(-stretch) / stretch)[..., None]
    settled = inflow / drain[..., None]
    state = np.broadcast_to(first, inflow.shape[1:]).astype(np.float64)
    out = np.empty_like(inflow)
    for t in range(len(inflow)):
        alive = (begin <= t)[:, None]
        excess = state - settled[t]
        out[t] = np.where(alive, settled[t] + excess * blend[t], state)
        state = np.where(alive, settled[t] + excess * keep[t], state)
    return out


def regressors(
    water: Floats, drawdown: Floats, *, uptime: Floats, days: Floats, tau: Floats, leak: Floats, begin: Ints
) -> Floats:
    """What a producing-day rate is linear in, `(J, T, K + 3)`: arriving water, constant inflow, `J`, first `y`.

    Parameters
    ----------
    water
        `(T, J, K)` of `arriving`.
    drawdown
        `(T, J)` bottom-hole pressure against its reference, bar; 0 where there is no gauge.
    uptime, days, tau, leak, begin
        As for `respond`.
    """
    months, producers, sources = water.shape
    inflow = np.zeros((months, producers, sources + 3))
    inflow[..., :sources] = water
    inflow[..., sources] = 1.0
    inflow[..., sources + 1] = uptime * drawdown
    first = np.zeros((producers, sources + 3))
    first[:, sources + 2] = 1.0
    out = respond(inflow, first, uptime=uptime, days=days, tau=tau, leak=leak, begin=begin)
    out[..., sources + 1] -= drawdown
    return np.ascontiguousarray(out.transpose(1, 0, 2))
