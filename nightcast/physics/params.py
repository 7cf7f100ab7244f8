"""How to fit a capacitance-resistance model."""

from __future__ import annotations

from dataclasses import dataclass

from nightcast.contracts.errors import ConfigError


@dataclass(frozen=True)
class CrmParams:
    """How to fit.

    Attributes
    ----------
    length
        Kernel length of the distance prior to begin with, metres; None: the spacing of the wells.
    reach
        Farthest pair considered, in spacings.
    loss, loss_spread
        Share of injected water that is lost, typically, and the standard deviation of its log.
    spread
        Standard deviation of a connectivity's log around the map's; smaller is a stronger prior.
    recency
        Weight of a month against the month after it.
    least_uptime
        Share of a month on stream from which a month's producing-day rate is used.
    taus, leaks, drifts, memories, noises
        Grids of the tanks: days; relative to productivity; relative to level; months; relative to level. Where wells
        are seldom shut a larger leak looks like smaller connectivities, hence one value for all by default.
    delays
        Grid of the delay at 400 m, days; that of other pairs goes with the square of distance.
    inflow, inflow_spread
        Constant inflow other than from injectors, relative to the producer's rate: mean, standard deviation.
    discrepancy
        How much larger the model's error is than the noise it sees: it multiplies the standard deviations behind the
        connectivities, for what the tanks leave out (flow between tanks, workovers, errors of gauges).
    rounds
        How often tanks and connectivities are fitted in turn.
    draws, block
        Draws behind the intervals (0: no resampling, intervals from the curvature alone), months in a block.
    """

    length: float | None = None
    reach: float = 3.0
    loss: float = 0.2
    loss_spread: float = 0.6
    spread: float = 1.0
    recency: float = 0.985
    least_uptime: float = 0.3
    taus: tuple[float, ...] = (12.0, 18.0, 26.0, 36.0, 50.0, 70.0, 100.0, 140.0, 200.0, 280.0)
    leaks: tuple[float, ...] = (0.25,)
    drifts: tuple[float, ...] = (0.02, 0.05, 0.1, 0.2, 0.4)
    memories: tuple[float, ...] = (3.0, 10.0, 30.0)
    noises: tuple[float, ...] = (0.025, 0.04, 0.06, 0.1, 0.16)
    delays: tuple[float, ...] = (5.0, 10.0, 20.0, 40.0)
    inflow: float = 0.2
    inflow_spread: float = 0.3
    discrepancy: float = 2.1
    rounds: int = 2
    draws: int = 200
    block: int = 6

    def __post_init__(self) -> None:
        positive = ("reach", "loss_spread", "spread", "inflow_spread", "discrepancy") + (
            () if self.length is None else ("length",)
        )
        for name in positive:
            _require(name, getattr(self, name), getattr(self, name) > 0, "a number above 0")
        for name in ("recency", "least_uptime"):
            _require(name, getattr(self, name), 0 < getattr(self, name) <= 1, "a number in (0, 1]")
        _require("loss", self.loss, 0 < self.loss < 1, "a share between 0 and 1")
        for name in ("taus", "leaks", "drifts", "memories", "noises", "delays"):
            grid = getattr(self, name)
            _require(name, grid, len(grid) > 0 and all(point > 0 for point in grid), "one or more numbers above 0")
            object.__setattr__(self, name, tuple(float(point) for point in grid))
        for name, least in (("rounds", 1), ("draws", 0), ("block", 1)):
            _require(name, getattr(self, name), getattr(self, name) >= least, f"a whole number of at least {least}")


def _require(name: str, value: object, holds: bool, expected: str) -> None:
    if not holds:
        raise ConfigError(f"{name} of a CRM is {value!r}", expected=expected, remedy=f"set CrmParams.{name}")
