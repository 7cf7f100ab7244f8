"""What the best possible classifier would score on a generated market: the posterior of the labels given the truth.

The labels here are triple-barrier labels on a market's own bars: entry at the open of the next bar, barriers a number
of one-bar sigmas away, the first touch by high or low within the horizon decides, none or both at once is neutral
(Lopez de Prado 2018, ch. 3). Their posterior has no closed form, so it is counted on a long simulation of the same law.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
import polars as pl
from numpy.typing import NDArray

from nightcast.contracts.columns import BAR_COLUMNS, CLASS_PROBS, ID, LONG, NEUTRAL, SHORT, TARGET, TIME
from nightcast.contracts.errors import ConfigError
from nightcast.contracts.hashing import derive_seed, hash_json
from nightcast.contracts.schema import BarsSchema
from nightcast.sources.market.config import CALENDARS, HOURS, Instrument, MarketConfig
from nightcast.sources.market.simulate import LAGS, LONG_LAG, Market, SymbolPath, simulate_paths

Floats: TypeAlias = NDArray[np.float64]
Ints: TypeAlias = NDArray[np.int64]
Labels: TypeAlias = NDArray[np.int8]

TABLE_BARS: Final = 1_500_000
"""Bars simulated to count a table of posteriors."""
GRID: Final = 41
"""Bins of the signal, from -4 to 4 of its deviations."""
REACH: Final = 4.0
SEASONS: Final = 12
"""Parts of a session with a posterior of their own, where volatility depends on the time of day."""
TABLE_VERSION: Final = 1
_CHUNK: Final = 20_000
"""Bars simulated at once: few enough that the price, and with it the size of a tick, stays where it starts."""
_PSEUDO: Final = 30.0
"""Decisions by which a cell is pulled towards the cells of the same signal."""
_UNKNOWN: Final = -1


@dataclass(frozen=True)
class PosteriorTable:
    """P(label | signal, regime, part of the session).

    Attributes
    ----------
    probs
        `[R, S, 41, 3]`; R and S are 1 where the law does not depend on them.
    scale
        Deviation of the outlook that the grid of signals is in units of.
    """

    probs: Floats
    scale: float

    def look_up(self, outlook: Floats, regime: Ints, season: Ints) -> Floats:
        """`[n, 3]` posteriors of decisions."""
        regimes, seasons = self.probs.shape[:2]
        return np.asarray(self.probs[regime % regimes, season % seasons, _bin(outlook, self.scale)])


@dataclass(frozen=True)
class OracleScores:
    """What full knowledge of the signal is worth, means over symbols.

    Attributes
    ----------
    ic
        Correlation of the signal, times the sign of kappa, with the next bar's return, close to close as traded.
    f1_argmax
        Macro-F1 of the most probable class.
    f1_weighted
        Macro-F1 of the class with the largest weighted probability; the weights maximise the expected macro-F1.
    direction_auc
        AUC of `p_long - p_short` among labels that are not neutral.
    gross_sharpe
        Yearly Sharpe ratio, without costs, of holding the sign of `p_long - p_short` over the next bar.
    gross_sharpe_argmax
        The same for the most probable class, flat where it is neutral.
    shares
        Shares of short, neutral and long.
    decisions
        Labels scored.
    """

    ic: float
    f1_argmax: float
    f1_weighted: float
    direction_auc: float
    gross_sharpe: float
    gross_sharpe_argmax: float
    shares: tuple[float, float, float]
    decisions: int


# -- scores ----------------------------------------------------------------------------------------------------------


def macro_f1(y: NDArray[Any], decided: NDArray[Any]) -> float:
    """Mean of the three classes' F1; a class that neither occurs nor is decided for counts 0."""
    counts = np.bincount(np.asarray(y, dtype=np.int64) * 3 + np.asarray(decided, dtype=np.int64), minlength=9)
    return _f1(counts.reshape(3, 3))


def random_f1(y: NDArray[Any], prior: Floats, *, seed: int, draws: int = 200) -> float:
    """Mean macro-F1 of classes drawn by the prior, over `draws` repetitions."""
    rng = np.random.default_rng(seed)
    # Guesses ignore the label, so each class's row of the confusion matrix is multinomial.
    rows = [rng.multinomial(count, prior / prior.sum(), size=draws) for count in np.bincount(y, minlength=3)]
    return float(np.mean([_f1(table) for table in np.stack(rows, axis=1)]))


def decide(posterior: Floats, weights: Floats | None = None) -> Ints:
    """`[n]` classes of largest (weighted) probability; neutral wins ties."""
    value = posterior if weights is None else posterior * weights
    best = np.where(value[:, LONG] > value[:, SHORT], LONG, SHORT)
    best = np.where(value[:, LONG] == value[:, SHORT], NEUTRAL, best)
    return np.where(value.max(axis=1) <= value[:, NEUTRAL], NEUTRAL, best).astype(np.int64)


def best_weights(posterior: Floats) -> Floats:
    """`[3]` class weights whose decisions have the largest expected macro-F1 under the posterior itself."""
    steps = np.linspace(-2.0, 2.0, 81)
    logs = np.zeros(3)
    for _ in range(2):
        for k in (NEUTRAL, LONG):
            trials = np.tile(logs, (len(steps), 1))
            trials[:, k] = steps
            logs = trials[int(np.argmax([_expected_f1(posterior, np.exp(trial)) for trial in trials]))]
    if _expected_f1(posterior, np.exp(logs)) <= _expected_f1(posterior, np.ones(3)):
        return np.ones(3)
    return np.asarray(np.exp(logs))


def direction_auc(y: NDArray[Any], posterior: Floats) -> float:
    """Probability that a long label has the larger `p_long - p_short` than a short one; 0.5 where one is absent."""
    from scipy.stats import rankdata

    moved = y != NEUTRAL
    up = y[moved] == LONG
    if up.all() or not up.any():
        return 0.5
    ranks = rankdata((posterior[:, LONG] - posterior[:, SHORT])[moved])
    return float((ranks[up].sum() - up.sum() * (up.sum() + 1) / 2) / (up.sum() * (~up).sum()))


def _expected_f1(posterior: Floats, weights: Floats) -> float:
    decided = decide(posterior, weights)
    counts = np.column_stack([np.bincount(decided, posterior[:, k], minlength=3) for k in range(3)]).T
    return _f1(counts)


def _f1(counts: NDArray[Any]) -> float:
    both = counts.sum(axis=0) + counts.sum(axis=1)
    return float(np.divide(2 * np.diag(counts), both, out=np.zeros(3), where=both > 0).mean())


# -- labels and posteriors -------------------------------------------------------------------------------------------


def barrier_labels(prices: Floats, width: Floats, horizon: int, session_bars: int | None) -> Labels:
    """Triple-barrier labels.

    Parameters
    ----------
    prices
        `[n, 4]` open, high, low, close.
    width
        `[n]` distance of the barriers as a fraction of the entry price.
    session_bars
        Bars a session; a label that would cross a close is unknown. None: there is no close.

    Returns
    -------
    numpy.ndarray
        `[n]` class, -1 where unknown.
    """
    n = len(prices)
    out = np.full(n, _UNKNOWN, dtype=np.int8)
    count = n - horizon
    if count < 1:
        return out
    entry = prices[1 : count + 1, 0]
    upper, lower = entry * (1 + width[:count]), entry * (1 - width[:count])
    label = np.full(count, NEUTRAL, dtype=np.int8)
    is_open = np.ones(count, dtype=bool)
    for step in range(1, horizon + 1):
        up = is_open & (prices[step : step + count, 1] >= upper)
        down = is_open & (prices[step : step + count, 2] <= lower)
        label[up & ~down], label[down & ~up] = LONG, SHORT
        is_open &= ~(up | down)
    if session_bars is not None:
        row = np.arange(count)
        label[row // session_bars != (row + horizon) // session_bars] = _UNKNOWN
    out[:count] = label
    return out


def outlook(config: MarketConfig, path: SymbolPath, horizon: int) -> Floats:
    """Expected mean signal of the bars a label looks at, given all that is true at its decision.

    An AR(1) fades alike for every decision, so there it is the signal itself. The other signals are products of the
    past, part of which is known ahead.
    """
    signal, hidden, feature = path.signal, path.hidden, path.feature
    if config.difficulty == "linear":
        return signal
    n, total = len(signal), signal.copy()
    for ahead in range(1, horizon):
        if config.difficulty == "long_memory":
            known = _ahead(signal, ahead) if ahead <= LONG_LAG else config.rho ** (ahead - LONG_LAG) * hidden
            total += known / (1.0 if ahead <= LONG_LAG else np.sqrt(1 + config.tau**2))
            continue
        near, far = LAGS
        c = config.rho ** (far - near)
        scale = np.sqrt((1 + config.tau**2) ** 2 + c**2)
        if ahead <= near:
            total += _ahead(signal, ahead)
        elif ahead <= far:
            past = np.zeros(n)
            past[far - ahead :] = feature[: n - (far - ahead)]
            total += (config.rho ** (ahead - near) * hidden * past - c) / scale
        else:
            fade = config.rho ** (2 * (ahead - far))
            total += c * fade * (hidden**2 - 1) / scale
    return np.asarray(total / horizon)


def posterior_table(
    config: MarketConfig,
    instrument: Instrument,
    horizon: int,
    *,
    width: float = 2.0,
    bars: int = TABLE_BARS,
    cache: Path | None = None,
) -> PosteriorTable:
    """Count the posterior of the labels on a long simulation of one symbol.

    Parameters
    ----------
    config
        The market's law; its seed, bars, start, dirt and flip of kappa have no say.
    horizon
        Bars a label may look ahead.
    width
        Distance of the barriers in one-bar sigmas of the decision's bar.
    bars
        Bars to simulate.
    cache
        Folder that keeps tables under the hash of everything they depend on.

    Raises
    ------
    ConfigError
        If the horizon or the width cannot be.
    """
    if horizon < 1 or width <= 0:
        raise ConfigError(
            f"oracle labels of horizon {horizon} and width {width:g}",
            expected="a horizon of one bar or more and a positive width in sigmas",
            remedy="correct the arguments",
        )
    # Only the size of a tick beside the price matters.
    twin = Instrument("oracle", price=instrument.price / instrument.tick, tick=1.0)
    law = config.with_(symbols=(twin,), start=None, dirt=0.0, kappa_flip_at=None, seed=0, bars=100)
    facts = {"law": law.to_json(), "horizon": horizon, "width": width, "bars": bars, "version": TABLE_VERSION}
    path = cache / f"posterior-{hash_json(facts)}.npz" if cache is not None else None
    if path is not None and path.exists():
        with np.load(path, allow_pickle=False) as saved:
            return PosteriorTable(saved["probs"], float(saved["scale"]))
    by_regime = law.volatility == "on" or law.regime_dead
    regimes, seasons = len(law.regimes) if by_regime else 1, SEASONS if law.volatility == "on" else 1
    counts, scale = np.zeros((regimes, seasons, GRID, 3)), 0.0
    for number, start in enumerate(range(0, bars, _CHUNK)):
        size = max(min(_CHUNK, bars - start), 100)
        part = law.with_(bars=size, seed=derive_seed("oracle", hash_json(facts), number))
        [simulated] = simulate_paths(part)
        view = outlook(part, simulated, horizon)
        scale = scale or float(view.std())
        y = barrier_labels(simulated.prices, width * simulated.sigma, horizon, _closes(part))
        rows = np.flatnonzero(y != _UNKNOWN)
        cell = (simulated.regime[rows] % regimes) * seasons + _season(part, rows) % seasons
        cell = (cell * GRID + _bin(view[rows], scale)) * 3 + y[rows]
        counts += np.bincount(cell, minlength=counts.size).reshape(counts.shape)
    parent = np.broadcast_to(counts.sum(axis=(0, 1)) + counts.sum(axis=(0, 1, 2)) / counts.sum(), counts.shape)
    parent = parent / parent.sum(axis=-1, keepdims=True)
    counts = counts + _PSEUDO * parent
    table = PosteriorTable(counts / counts.sum(axis=-1, keepdims=True), scale)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(f".{derive_seed(np.random.default_rng().bytes(8))}.partial")
        with partial.open("wb") as file:
            np.savez(file, probs=table.probs, scale=np.float64(table.scale))
        partial.replace(path)
    return table


def oracle_posterior(
    market: Market, horizon: int, *, width: float = 2.0, table_bars: int = TABLE_BARS, cache: Path | None = None
) -> pl.DataFrame:
    """The posterior of every label of a market, given the truth at its decision.

    Parameters
    ----------
    market
        The market; dirt is washed off first.
    horizon, width, table_bars, cache
        As for `posterior_table`.

    Returns
    -------
    polars.DataFrame
        `unique_id, ds, p_short, p_neutral, p_long, y, signal, next_return`, one row a decision with a known label;
        `signal` has the sign of kappa, `next_return` is the simple return of the next bar, close to close.
    """
    config = market.config
    clean = market.washed() if market.ledger.height else market.bars
    parts = []
    for instrument in config.symbols:
        path = _path(market, clean, instrument.name)
        table = posterior_table(config, instrument, horizon, width=width, bars=table_bars, cache=cache)
        y = barrier_labels(path.prices, width * path.sigma, horizon, _closes(config))
        rows = np.flatnonzero(y != _UNKNOWN)
        probs = table.look_up(outlook(config, path, horizon)[rows], path.regime[rows], _season(config, rows))
        if config.kappa_flip_at is not None:
            flipped = rows + 1 >= int(config.kappa_flip_at * config.bars)
            # A kappa of the other sign mirrors every return.
            probs[flipped] = probs[flipped][:, ::-1]
        close, sign = path.prices[:, 3], np.where(path.kappa[rows + 1] < 0, -1.0, 1.0)
        times = config.times()[rows]
        parts.append(
            pl.DataFrame(
                {
                    ID: [instrument.name] * len(rows),
                    TIME: pl.Series(times).cast(pl.Datetime("us")),
                    **{name: probs[:, k] for k, name in enumerate(CLASS_PROBS)},
                    TARGET: y[rows],
                    "signal": path.signal[rows] * sign,
                    "next_return": close[rows + 1] / close[rows] - 1,
                }
            )
        )
    return pl.concat(parts).sort(ID, TIME)


def oracle_scores(
    market: Market, horizon: int, *, width: float = 2.0, table_bars: int = TABLE_BARS, cache: Path | None = None
) -> OracleScores:
    """Scores of the classifier that knows the truth; the ceiling of every other one.

    Parameters
    ----------
    market, horizon, width, table_bars, cache
        As for `oracle_posterior`.
    """
    frame = oracle_posterior(market, horizon, width=width, table_bars=table_bars, cache=cache)
    schema = BarsSchema(freq=market.config.freq, calendar=CALENDARS[market.config.calendar])
    rows, counts = [], np.zeros(3)
    for name in market.config.names:
        part = frame.filter(pl.col(ID) == name)
        probs, y = part.select(CLASS_PROBS).to_numpy(), part.get_column(TARGET).to_numpy()
        counts += np.bincount(y, minlength=3)
        gain = part.get_column("next_return").to_numpy()
        side, argmax = np.sign(probs[:, LONG] - probs[:, SHORT]), decide(probs)
        rows.append(
            (
                float(np.corrcoef(part.get_column("signal").to_numpy(), gain)[0, 1]),
                macro_f1(y, argmax),
                macro_f1(y, decide(probs, best_weights(probs))),
                direction_auc(y, probs),
                _sharpe(side * gain, schema.bars_per_year),
                _sharpe((argmax - NEUTRAL) * gain, schema.bars_per_year),
            )
        )
    shares = counts / counts.sum()
    means = np.mean(rows, axis=0)
    return OracleScores(
        ic=float(means[0]),
        f1_argmax=float(means[1]),
        f1_weighted=float(means[2]),
        direction_auc=float(means[3]),
        gross_sharpe=float(means[4]),
        gross_sharpe_argmax=float(means[5]),
        shares=(float(shares[0]), float(shares[1]), float(shares[2])),
        decisions=int(counts.sum()),
    )


def _sharpe(gains: Floats, bars_per_year: float) -> float:
    spread = float(gains.std())
    return float(gains.mean()) / spread * float(np.sqrt(bars_per_year)) if spread > 0 else 0.0


def _path(market: Market, clean: pl.DataFrame, name: str) -> SymbolPath:
    bars = clean.filter(pl.col(ID) == name).select(BAR_COLUMNS).to_numpy()
    truth = {column.name: column.to_numpy() for column in market.truth.filter(pl.col(ID) == name).drop(ID, TIME)}
    return SymbolPath(prices=bars[:, :4], volume=bars[:, 4], **truth)


def _closes(config: MarketConfig) -> int | None:
    return None if HOURS[config.calendar].days == 7 else config.session_bars


def _season(config: MarketConfig, rows: Ints) -> Ints:
    return np.asarray(rows % config.session_bars * SEASONS // config.session_bars, dtype=np.int64)


def _bin(view: Floats, scale: float) -> Ints:
    step = 2 * REACH / (GRID - 1)
    nearest = np.rint(np.clip(view / scale, -REACH, REACH) / step)
    return np.asarray(nearest, dtype=np.int64) + (GRID - 1) // 2


def _ahead(values: Floats, steps: int) -> Floats:
    """Values of `steps` bars later; the last ones, whose labels are unknown, repeat the end."""
    return np.concatenate([values[steps:], np.repeat(values[-1:], steps)])
