"""A generated market: the bars people would see, what was true, and what was soiled on purpose."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
import polars as pl
from numpy.typing import NDArray

from nightcast.contracts.columns import BAR_COLUMNS, ID, TIME
from nightcast.contracts.errors import SourceError
from nightcast.contracts.hashing import hash_frame
from nightcast.sources.market.config import Instrument, MarketConfig
from nightcast.sources.market.dirt import LEDGER_SCHEMA, soil, to_grid, wash

Floats: TypeAlias = NDArray[np.float64]
Ints: TypeAlias = NDArray[np.int64]

FORMAT: Final = 1
LAGS: Final = (3, 7)
"""Difficulty `nonlinear`: lags of the observed feature whose product drives the next return."""
LONG_LAG: Final = 40
"""Difficulty `long_memory`: the lag of the observed feature that drives the next return."""
LEAVE_REGIME: Final = 1 / 800
"""Probability a bar of leaving the regime."""
_BEFORE: Final = LONG_LAG + 1
"""Bars of signal simulated before the first bar, so that it has a past."""


@dataclass(frozen=True)
class SymbolPath:
    """One symbol's arrays, one value a bar.

    Attributes
    ----------
    prices
        `[n, 4]` open, high, low, close as traded.
    volume
        Contracts.
    mid
        Middle price at the close: no bounce, no rounding.
    sigma
        Volatility of the bar's log return.
    signal
        What the *next* bar's return responds to; mean 0, variance 1.
    hidden
        The AR(1), known to nobody.
    feature
        What of it can be read off the volume of the bar.
    season, regime
        Volatility factor of the time of day, and number of the volatility regime.
    kappa
        Strength in force for this bar's return, which responds to the signal of the bar before.
    """

    prices: Floats
    volume: Floats
    mid: Floats
    sigma: Floats
    signal: Floats
    hidden: Floats
    feature: Floats
    season: Floats
    regime: Ints
    kappa: Floats


@dataclass(frozen=True)
class Market:
    """A generated market.

    Attributes
    ----------
    bars
        `unique_id, ds, open, high, low, close, volume`: prices, contracts; `ds` is the bar's start, UTC. Sorted; of
        rows with one stamp the true one comes first.
    truth
        `unique_id, ds, sigma, signal, season, regime, kappa, hidden, feature, mid`: one row for every bar that should
        be there, at its true time; meanings as in `SymbolPath`.
    ledger
        Every planted defect, one row a bar it touches, as `LEDGER_SCHEMA` says; empty for a clean market.
    """

    config: MarketConfig
    bars: pl.DataFrame
    truth: pl.DataFrame
    ledger: pl.DataFrame

    @cached_property
    def hash(self) -> str:
        """Content hash of the bars."""
        return hash_frame(self.bars)

    def washed(self) -> pl.DataFrame:
        """The bars as they were before the dirt, from the bars and the ledger alone."""
        return wash(self.bars, self.ledger, self.config)

    def save(self, folder: Path) -> None:
        """Write the market as Parquet and JSON."""
        folder.mkdir(parents=True, exist_ok=True)
        for name in _FRAMES:
            getattr(self, name).write_parquet(folder / f"{name}.parquet")
        facts = {"format": FORMAT, "config": self.config.to_json()}
        (folder / "market.json").write_text(json.dumps(facts, indent=1))

    @classmethod
    def load(cls, folder: Path) -> Market:
        """Read what `save` wrote.

        Raises
        ------
        SourceError
            If the folder does not hold a saved market, or one of another format.
        """
        try:
            facts: dict[str, Any] = json.loads((folder / "market.json").read_text())
            frames = {name: pl.read_parquet(folder / f"{name}.parquet") for name in _FRAMES}
            found, config = facts["format"], dict(facts["config"])
        except (OSError, KeyError, TypeError, ValueError, pl.exceptions.PolarsError) as error:
            raise SourceError(
                f"{folder} does not hold a saved market ({type(error).__name__}: {error})",
                expected=f"a folder with market.json and {', '.join(f'{name}.parquet' for name in _FRAMES)}",
                remedy="name a folder written by `Market.save`, or leave the path out to generate the market; "
                "bars in a file of your own are read by `source: {kind: files}`",
            ) from error
        if found != FORMAT:
            raise SourceError(
                f"the market in {folder} is saved in format {found!r}",
                expected=f"format {FORMAT}",
                remedy="generate and save it again with this version",
            )
        return cls(MarketConfig.from_params(config), **frames)


_FRAMES: Final = ("bars", "truth", "ledger")


def simulate_market(config: MarketConfig) -> Market:
    """Generate a market.

    Parameters
    ----------
    config
        What market; the same configuration gives the same bytes.

    Raises
    ------
    ConfigError
        If a symbol's price falls to nothing on the way.
    """
    times = config.times()
    bars, truth, ledger = [], [], []
    for instrument, path in zip(config.symbols, simulate_paths(config), strict=True):
        values = np.column_stack([path.prices, path.volume])
        rows, changes = soil(values, times, path.sigma, config, instrument)
        bars.append(rows)
        ledger.append(changes)
        facts = {name: getattr(path, name) for name in ("sigma", "signal", "season", "regime", "kappa")}
        facts |= {name: getattr(path, name) for name in ("hidden", "feature", "mid")}
        frame = pl.DataFrame({TIME: pl.Series(times).cast(pl.Datetime("us")), **facts})
        truth.append(frame.select(pl.lit(instrument.name).alias(ID), pl.all()))
    return Market(
        config=config,
        bars=pl.concat(bars).sort(ID, TIME, maintain_order=True).select(ID, TIME, *BAR_COLUMNS),
        truth=pl.concat(truth).sort(ID, TIME),
        ledger=pl.concat([pl.DataFrame(schema=LEDGER_SCHEMA), *ledger]).sort(ID, TIME, "kind", maintain_order=True),
    )


def simulate_paths(config: MarketConfig) -> list[SymbolPath]:
    """The clean arrays of every symbol, in the configuration's order."""
    n, steps = config.bars, config.substeps
    # One mixing variable a bar for all symbols: each is Student-t, and their correlation is exactly as asked for.
    mixture = np.sqrt((config.df - 2) / config.stream("mixture").chisquare(config.df, n))
    common = config.stream("common").standard_normal((n, steps))
    return [_simulate(config, instrument, mixture, common) for instrument in config.symbols]


def _simulate(config: MarketConfig, instrument: Instrument, mixture: Floats, common: Floats) -> SymbolPath:
    n, steps, name = config.bars, config.substeps, instrument.name
    hidden, feature, drive = signals(config, name)

    own = config.stream("own", name).standard_normal((n, steps))
    shares = np.sqrt(config.correlation), np.sqrt(1 - config.correlation)
    shocks = (shares[0] * common + shares[1] * own) * (mixture / np.sqrt(steps))[:, None]

    season, regime, sigma = volatility(config, name, shocks.sum(axis=1))
    kappa = strength(config, regime)
    pull = kappa * drive[_BEFORE - 1 : -1] / steps
    log_mid = np.log(instrument.price) + np.cumsum((sigma[:, None] * (shocks + pull[:, None])).ravel())
    inside = np.exp(log_mid).reshape(n, steps)
    mid = inside[:, -1]
    middles = np.column_stack([np.concatenate([[instrument.price], mid[:-1]]), inside])

    if config.bounce:
        side = config.stream("bounce", name).integers(0, 2, size=middles.shape, dtype=np.int8)
        middles += (side - 0.5) * instrument.tick
    if config.rounding:
        middles = to_grid(middles, instrument)
    traded = np.maximum(middles, instrument.tick)  # no exchange quotes a price of nothing
    prices = np.column_stack([traded[:, 0], traded.max(axis=1), traded.min(axis=1), traded[:, -1]])

    logs = np.log(instrument.volume) + np.log(sigma / (config.sigma_bps / 1e4))
    logs += config.volume_noise * config.stream("volume", name).standard_normal(n)
    volume = np.exp(logs + config.gain * feature[_BEFORE:])
    if config.rounding:
        volume = np.maximum(np.rint(volume), 1.0)
    now = slice(_BEFORE, None)
    return SymbolPath(prices, volume, mid, sigma, drive[now], hidden[now], feature[now], season, regime, kappa)


def signals(config: MarketConfig, name: str) -> tuple[Floats, Floats, Floats]:
    """The hidden AR(1), the observed feature and the signal; `[41 + n]` each, of which 41 bars lie before the first.

    The lagged product is centred and scaled by its moments: for a Gaussian feature of variance `v` and autocovariance
    `c` at the lag between the factors these are `c` and `v^2 + c^2` (Isserlis 1918).
    """
    from scipy.signal import lfilter

    count, rho = config.bars + _BEFORE, config.rho
    shocks = config.stream("signal", name).standard_normal(count)
    shocks[1:] *= np.sqrt(1 - rho**2)  # the first value is drawn from the stationary law
    hidden = np.asarray(lfilter([1.0], [1.0, -rho], shocks), dtype=np.float64)
    feature = hidden + config.tau * config.stream("observation", name).standard_normal(count)
    v = 1 + config.tau**2
    if config.difficulty == "linear":
        return hidden, feature, hidden
    drive = np.zeros(count)
    if config.difficulty == "long_memory":
        drive[LONG_LAG:] = feature[:-LONG_LAG] / np.sqrt(v)
        return hidden, feature, drive
    near, far = LAGS
    c = rho ** (far - near)
    drive[far:] = (feature[far - near : -near] * feature[:-far] - c) / np.sqrt(v**2 + c**2)
    return hidden, feature, drive


def volatility(config: MarketConfig, name: str, eps: Floats) -> tuple[Floats, Ints, Floats]:
    """Season factor, regime and sigma of every bar.

    GARCH(1, 1) of mean 1: `h_{t+1} = 1 - a - b + (a eps_t^2 + b) h_t` (Bollerslev 1986).
    """
    n, base = config.bars, config.sigma_bps / 1e4
    states = len(config.regimes)
    # Row by row, so that more bars do not move the draws of the first ones.
    leaves, whither = config.stream("regime", name).random((n, 2)).T
    steps = np.where(leaves < LEAVE_REGIME, 1 + (whither * (states - 1)).astype(np.int64), 0)
    steps[0] = int(whither[0] * states)
    regime = np.asarray(np.cumsum(steps) % states, dtype=np.int64)
    if config.volatility == "flat":
        return np.ones(n), regime, np.full(n, base)
    per_session = config.session_bars
    season = np.exp(config.season * np.cos(2 * np.pi * (np.arange(n) % per_session) / per_session))
    a, b = config.garch
    weights = (a * eps[:-1] ** 2 + b).tolist()
    rest = 1 - a - b
    variance = np.fromiter(accumulate(weights, lambda h, w: rest + w * h, initial=1.0), dtype=np.float64, count=n)
    return season, regime, base * season * np.asarray(config.regimes)[regime] * np.sqrt(variance)


def strength(config: MarketConfig, regime: Ints) -> Floats:
    """Kappa in force for the return of every bar."""
    kappa = np.full(len(regime), config.kappa)
    if config.kappa_flip_at is not None:
        kappa[int(config.kappa_flip_at * len(regime)) :] *= -1
    if config.regime_dead:
        kappa[regime == len(config.regimes) - 1] = 0.0
    return kappa
