"""What market to generate."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any, Final, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from nightcast.contracts.errors import ConfigError
from nightcast.contracts.frequency import Frequency
from nightcast.contracts.schema import Calendar

Hours = Literal["continuous", "globex", "rth"]
Volatility = Literal["on", "flat"]
Difficulty = Literal["linear", "nonlinear", "long_memory"]
Size = Literal["small", "default", "scale"]
DirtKind = Literal[
    "overnight_gap",
    "roll_gap",
    "missing_burst",
    "stale_run",
    "missing_bar",
    "duplicate_stamp",
    "bad_tick",
    "zero_volume",
    "ohlc_violation",
    "dst_shift",
]
DIRT_KINDS: Final[tuple[DirtKind, ...]] = get_args(DirtKind)

SIZES: Final[dict[Size, int]] = {"small": 5_000, "default": 20_000, "scale": 140_530}
"""Size -> bars a symbol."""

END: Final = date(2025, 1, 1)
"""Where no start is given the market ends before this day."""

LAYERS: Final = ("signal", "observation", "mixture", "common", "own", "regime", "bounce", "volume", *DIRT_KINDS)
"""Each draws from its own child of one seed sequence."""


@dataclass(frozen=True)
class Trading:
    """When a calendar has bars, in UTC and without daylight saving.

    Attributes
    ----------
    days
        Sessions a week, on consecutive days; 7 for no close at all.
    first_day
        Weekday on which the week's first session opens, Monday 0.
    opens
        Minutes from midnight to the open.
    minutes
        Length of a session.
    """

    days: int
    first_day: int
    opens: int
    minutes: int


HOURS: Final[dict[Hours, Trading]] = {
    "continuous": Trading(7, 0, 0, 1440),
    "globex": Trading(5, 6, 23 * 60, 1380),
    "rth": Trading(5, 0, 14 * 60 + 30, 390),
}
"""Sessions of 288, 276 and 78 bars of 5 minutes. Globex opens Sunday to Thursday at 23:00 and pauses an hour a day."""

CALENDARS: Final[dict[Hours, Calendar]] = {"continuous": "continuous", "globex": "weekdays", "rth": "weekdays"}
"""Hours -> calendar of the bars' schema."""


def _wrong(name: str, value: Any, expected: str, key: str) -> ConfigError:
    return ConfigError(
        f"{name} of a generated market is {value!r}", expected=expected, remedy=f"set source.params.{key}"
    )


def _number(name: str, value: Any, key: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise _wrong(name, value, "a finite number", key)
    return float(value)


def _require_choice(name: str, value: Any, choices: tuple[Any, ...]) -> None:
    # `in` would let 1 pass for True and fail on unhashable values with another error.
    if not any(type(value) is type(choice) and value == choice for choice in choices):
        raise _wrong(name, value, f"one of {', '.join(map(str, choices))}", name)


@dataclass(frozen=True)
class Instrument:
    """What is traded.

    Attributes
    ----------
    name
        Symbol.
    price
        First price.
    tick
        Smallest step of the price.
    multiplier
        Money per point and contract; information only.
    volume
        Median contracts a bar.
    """

    name: str
    price: float = 100.0
    tick: float = 0.01
    multiplier: float = 1.0
    volume: float = 1000.0

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise _wrong("the name of an instrument", self.name, "a word, such as MES", "symbols")
        for name in ("price", "tick", "multiplier", "volume"):
            value = _number(f"{name} of instrument {self.name}", getattr(self, name), "symbols")
            if value <= 0:
                raise _wrong(f"{name} of instrument {self.name}", value, "a positive number", "symbols")
            object.__setattr__(self, name, value)
        if self.price < 100 * self.tick:
            raise _wrong(
                f"price of instrument {self.name}", self.price, f"at least 100 ticks of {self.tick:g}", "symbols"
            )

    @property
    def decimals(self) -> int:
        """Decimals of the tick, to which a price on its grid is written."""
        return min(10, max(0, -int(Decimal(repr(self.tick)).normalize().as_tuple().exponent)))


INSTRUMENTS: Final[dict[str, Instrument]] = {
    "MES": Instrument("MES", price=5000.0, tick=0.25, multiplier=5.0, volume=2000.0),
    "MGC": Instrument("MGC", price=2000.0, tick=0.1, multiplier=10.0, volume=800.0),
}
"""Symbols that can be named without saying what they are: micro contracts on the S&P 500 and on gold."""


@dataclass(frozen=True)
class MarketConfig:
    """A market to generate; equal configurations give equal bars.

    The log return of bar t+1, close to close, is `kappa_{t+1} sigma_{t+1} s_t + sigma_{t+1} eps_{t+1}`, where `eps` has
    variance 1 and `s_t`, of variance 1, can be read off the volumes up to bar t.

    Attributes
    ----------
    symbols
        Names out of `INSTRUMENTS`, mappings with the fields of `Instrument`, or instruments.
    correlation
        Of the noise `eps` of any two symbols.
    bars
        Bars a symbol.
    freq
        Step of a bar, in minutes or hours; a session holds a whole number of them.
    calendar
        `continuous`, `globex` (23 hours, five days a week) or `rth` (6.5 hours, five days a week).
    start
        First day, an ISO date or a `date`; by default the market ends in the last days of 2024.
    sigma_bps
        Median volatility of one bar, in basis points.
    volatility
        `flat`: constant. `on`: times `exp(season cos(2 pi k / K))` in bar k of a session of K, times the regime's
        factor, times the root of a GARCH(1, 1) of mean 1.
    season
        Amplitude of the log volatility over the session.
    regimes
        Volatility factors of two or three states; a state is left with probability 1/800 a bar.
    garch
        Weights of the last squared shock and of the last variance.
    kappa
        Strength of the signal: the correlation of `s_t` with the next return is `kappa / sqrt(1 + kappa^2)`.
    kappa_flip_at
        Share of the bars after which kappa changes sign, or None.
    regime_dead
        Kappa is 0 in the last regime.
    difficulty
        `linear`: `s` is the hidden AR(1) itself. `nonlinear`: the product of the observed feature 3 and 7 bars ago.
        `long_memory`: the observed feature 40 bars ago.
    rho
        Persistence of the hidden AR(1); 0.98 has a half-life of 34 bars.
    tau
        Deviation of the noise of the observed feature, `f_t = AR(1)_t + tau noise_t`.
    gain
        The volume of a bar is a log-normal times `exp(gain f_t)`; 0 hides the signal altogether.
    volume_noise
        Deviation of that log-normal's logarithm.
    df
        Degrees of freedom of the Student-t noise `eps`.
    substeps
        Prices inside a bar that make its high and low.
    bounce
        Trades alternate between bid and ask, half a tick from the middle.
    rounding
        Prices lie on the tick grid, volumes are whole.
    dirt
        0: clean bars. 1: the usual rate of every defect; other values scale the rates.
    dirt_kinds
        Defects to plant.

    Raises
    ------
    ConfigError
        If a value is out of range.
    """

    symbols: tuple[Instrument, ...] = (INSTRUMENTS["MES"], INSTRUMENTS["MGC"])
    correlation: float = 0.2
    bars: int = SIZES["default"]
    freq: str = "5min"
    calendar: Hours = "continuous"
    start: str | date | None = None
    seed: int = 1
    sigma_bps: float = 6.0
    volatility: Volatility = "on"
    season: float = 0.6
    regimes: tuple[float, ...] = (0.8, 1.8)
    garch: tuple[float, float] = (0.05, 0.93)
    kappa: float = 0.1
    kappa_flip_at: float | None = None
    regime_dead: bool = False
    difficulty: Difficulty = "linear"
    rho: float = 0.98
    tau: float = 0.25
    gain: float = 0.6
    volume_noise: float = 0.15
    df: float = 5.0
    substeps: int = 6
    bounce: bool = True
    rounding: bool = True
    dirt: float = 0.0
    dirt_kinds: tuple[DirtKind, ...] = DIRT_KINDS

    def __post_init__(self) -> None:
        # YAML 1.1 reads a bare `on` as true.
        if isinstance(self.volatility, bool):
            object.__setattr__(self, "volatility", "on" if self.volatility else "flat")
        object.__setattr__(self, "symbols", _instruments(self.symbols))
        for name, least in (("bars", 100), ("seed", 0), ("substeps", 1)):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise _wrong(name, value, f"a whole number of at least {least}", name)
        for name, low, high in _RANGES:
            value = _number(name, getattr(self, name), name)
            if not low <= value <= high:
                raise _wrong(name, value, f"a number from {low:g} to {high:g}", name)
            object.__setattr__(self, name, value)
        for name, choices in (("calendar", Hours), ("volatility", Volatility), ("difficulty", Difficulty)):
            _require_choice(name, getattr(self, name), get_args(choices))
        for name in ("regime_dead", "bounce", "rounding"):
            _require_choice(name, getattr(self, name), (True, False))
        object.__setattr__(self, "regimes", _regimes(self.regimes))
        object.__setattr__(self, "garch", _garch(self.garch))
        object.__setattr__(self, "dirt_kinds", _kinds(self.dirt_kinds))
        if self.kappa_flip_at is not None:
            flip = _number("kappa_flip_at", self.kappa_flip_at, "kappa_flip_at")
            if not 0 < flip < 1:
                raise _wrong("kappa_flip_at", flip, "a share of the bars between 0 and 1, or none", "kappa_flip_at")
            object.__setattr__(self, "kappa_flip_at", flip)
        object.__setattr__(self, "start", _day(self.start))
        object.__setattr__(self, "freq", _step(self.freq, self.calendar))

    @classmethod
    def from_params(cls, params: Mapping[str, Any]) -> MarketConfig:
        """Read the parameters of a workload file; `size` names a preset of bars.

        Raises
        ------
        ConfigError
            If a key or a value is unknown.
        """
        known = {field.name for field in fields(cls)} | {"size"}
        unknown = sorted(str(key) for key in set(params) - known)
        if unknown:
            raise ConfigError(
                f"unknown parameter(s) {unknown} of the market generator",
                expected=f"some of {sorted(known)}",
                remedy="correct source.params in the workload file",
            )
        given = dict(params)
        if "size" in given:
            size = given.pop("size")
            _require_choice("size", size, get_args(Size))
            given.setdefault("bars", SIZES[size])
        return cls(**given)

    def with_(self, **changes: Any) -> MarketConfig:
        """The same market but for some values."""
        return replace(self, **changes)

    def to_json(self) -> dict[str, Any]:
        """As JSON values; `from_params` reads them back."""
        value = asdict(self)
        return {**value, **{name: list(value[name]) for name in ("symbols", "regimes", "garch", "dirt_kinds")}}

    @property
    def minutes(self) -> int:
        """Length of a bar."""
        step = Frequency.parse(self.freq)
        return step.count * (60 if step.unit == "h" else 1)

    @property
    def session_bars(self) -> int:
        """Bars a session, K."""
        return HOURS[self.calendar].minutes // self.minutes

    @property
    def step(self) -> timedelta:
        """One bar."""
        return timedelta(minutes=self.minutes)

    @property
    def names(self) -> tuple[str, ...]:
        """The symbols' names."""
        return tuple(instrument.name for instrument in self.symbols)

    def times(self, bars: int | None = None) -> NDArray[np.datetime64]:
        """Starts of the first `bars` bars (by default all), datetime64[us]."""
        count = self.bars if bars is None else bars
        hours, per_session = HOURS[self.calendar], self.session_bars
        sessions = -(-self.bars // per_session)
        if self.start is None:
            weeks = -(-sessions // hours.days)
            first = END - timedelta(days=7 * (weeks + 1))
            first += timedelta(days=(hours.first_day - first.weekday()) % 7)
        else:
            first = date.fromisoformat(str(self.start))
        skipped = (first.weekday() - hours.first_day) % 7 if hours.days < 7 else 0
        monday = first - timedelta(days=skipped)
        if skipped >= hours.days:
            monday, skipped = monday + timedelta(days=7), 0
        number = np.arange(count)
        session = number // per_session + skipped
        day = 7 * (session // hours.days) + session % hours.days
        minute = day * 1440 + hours.opens + (number % per_session) * self.minutes
        return np.datetime64(monday, "us") + minute * np.timedelta64(60_000_000, "us")

    def stream(self, layer: str, symbol: str | None = None) -> np.random.Generator:
        """Random numbers of one layer, and of one symbol in it: children of one seed sequence that do not meet."""
        key = [LAYERS.index(layer)]
        if symbol is not None:
            key.append(int.from_bytes(hashlib.sha256(symbol.encode()).digest()[:4], "big"))
        return np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=tuple(key)))


_RANGES: Final = (
    ("correlation", 0.0, 0.99),
    ("sigma_bps", 0.01, 500.0),
    ("season", 0.0, 2.0),
    ("kappa", -1.0, 1.0),
    ("rho", 0.0, 0.9999),
    ("tau", 0.0, 100.0),
    ("gain", 0.0, 3.0),
    ("volume_noise", 0.0, 3.0),
    ("df", 2.1, 1e6),
    ("dirt", 0.0, 20.0),
)


def _sequence(name: str, value: Any, expected: str) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple) or not value:
        raise _wrong(name, value, expected, name)
    return tuple(value)


def _instruments(value: Any) -> tuple[Instrument, ...]:
    known = {field.name for field in fields(Instrument)}
    out: list[Instrument] = []
    for item in _sequence("symbols", value, "a list of at least one symbol"):
        if isinstance(item, Instrument):
            out.append(item)
        elif isinstance(item, str) and item in INSTRUMENTS:
            out.append(INSTRUMENTS[item])
        elif isinstance(item, Mapping) and "name" in item and set(item) <= known:
            out.append(Instrument(**item))
        else:
            expected = f"one of {', '.join(INSTRUMENTS)}, or a mapping of {', '.join(sorted(known))}"
            raise _wrong("a symbol", item, expected, "symbols")
    names = [instrument.name for instrument in out]
    if len(set(names)) < len(names):
        raise _wrong("symbols", names, "names that differ", "symbols")
    return tuple(out)


def _regimes(value: Any) -> tuple[float, ...]:
    items = _sequence("regimes", value, "two or three positive volatility factors")
    factors = tuple(_number("a volatility factor of the regimes", item, "regimes") for item in items)
    if len(factors) not in (2, 3) or min(factors) <= 0:
        raise _wrong("regimes", value, "two or three positive volatility factors", "regimes")
    return factors


def _garch(value: Any) -> tuple[float, float]:
    expected = "two weights, not negative, of sum below 1"
    items = tuple(_number("a weight of garch", item, "garch") for item in _sequence("garch", value, expected))
    if len(items) != 2 or min(items) < 0 or sum(items) >= 1:
        raise _wrong("garch", value, expected, "garch")
    return items


def _kinds(value: Any) -> tuple[DirtKind, ...]:
    expected = f"some of {', '.join(DIRT_KINDS)}"
    if not isinstance(value, list | tuple) or any(kind not in DIRT_KINDS for kind in value):
        raise _wrong("dirt_kinds", value, expected, "dirt_kinds")
    return tuple(kind for kind in DIRT_KINDS if kind in value)


def _day(value: Any) -> str | None:
    if value is None:
        return None
    try:
        day = value.date() if isinstance(value, datetime) else value
        return str((day if isinstance(day, date) else date.fromisoformat(day)).isoformat())
    except (TypeError, ValueError):
        raise _wrong("start", value, "a day, such as 2024-01-01, or none", "start") from None


def _step(value: Any, calendar: Hours) -> str:
    step = Frequency.parse(str(value))
    minutes = {"min": 1, "h": 60}.get(step.unit, 0) * step.count
    if not minutes or HOURS[calendar].minutes % minutes:
        expected = f"minutes or hours that divide the {HOURS[calendar].minutes} minutes of a {calendar} session"
        raise _wrong("freq", value, expected, "freq")
    return step.alias
