"""The generated market as a way in."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from functools import lru_cache
from pathlib import Path

import polars as pl

from nightcast.contracts.columns import ROW_UNPARSABLE, TIME
from nightcast.contracts.errors import ConfigError, SourceError
from nightcast.contracts.frequency import Frequency
from nightcast.contracts.schema import BarsSchema
from nightcast.contracts.source import DataSheet, Note, RawData
from nightcast.sources.handover import hand_over_bars, require_past
from nightcast.sources.market.config import CALENDARS, MarketConfig
from nightcast.sources.market.simulate import Market, simulate_market
from nightcast.sources.sheets import MARKETS
from nightcast.sources.spec import AUTO, BarNames, Columns, SourceChoice, WorkloadFile


class MarketSource:
    """Generates a market, or reads a saved one.

    Parameters
    ----------
    spec
        The workload file; `source.params` are the fields of `MarketConfig`, and `size`. `source.path` names a saved
        market instead.
    base
        Folder that relative paths in it start from.

    Raises
    ------
    ConfigError
        If the workload file contradicts what the generator makes.
    """

    def __init__(self, spec: WorkloadFile, base: Path) -> None:
        self.spec = spec
        self.base = base
        _require_fitting(spec)
        freq = {} if spec.bars_freq is None else {"freq": spec.bars_freq.alias}
        self._config = MarketConfig.from_params({**freq, **spec.source.params})

    @classmethod
    def of(cls, config: MarketConfig, *, horizons: tuple[int, ...] = (1, 5, 20)) -> MarketSource:
        """A source of one market, without a workload file."""
        choice = SourceChoice(kind="market_generator", params=config.to_json())
        spec = WorkloadFile.model_validate(
            {"name": "markets", "kind": "bars", "source": choice, "bars": {"horizons": horizons}}
        )
        return cls(spec, Path())

    @property
    def sheet(self) -> DataSheet:
        """The data sheet."""
        return replace(MARKETS, name=self.spec.name, title=self.spec.title or MARKETS.title)

    def market(self, data: Path | None = None) -> Market:
        """The market behind the rows, with its truth and ledger.

        Parameters
        ----------
        data
            Folder written by `Market.save`.

        Raises
        ------
        SourceError
            If the folder does not hold a market, or a file is named.
        """
        if data is None and self.spec.source.path is None:
            return _generated(self._config)
        folder = data if data is not None else self.base / str(self.spec.source.path)
        if folder.is_file():
            raise SourceError(
                f"{folder} is a file, and workload {self.spec.name!r} generates its bars",
                expected="a folder written by `Market.save`",
                remedy="describe your own OHLCV file in a workload file with `kind: bars` and `source: {kind: files}`",
            )
        return Market.load(folder)

    def read(self, *, as_of: datetime | None, data: Path | None, now: datetime) -> RawData:
        """Read everything known at `as_of`.

        The whole market is simulated whatever the as-of date, so the bars before it do not depend on it.

        Parameters
        ----------
        as_of
            Limit, or None: the clock; the last bar before it that the market as a whole has is the last known one.
        data
            Folder of a saved market to read instead; a relative one starts from the working folder.
        now
            The clock, naive UTC; bars that have not closed by then have not been traded yet.

        Raises
        ------
        ConfigError
            If the as-of date lies in the future, or the workload file declares another frequency or calendar.
        SourceError
            If the folder does not hold a market, or no bar is known.
        """
        require_past(as_of, now)
        market = self.market(data)
        config = market.config
        saved = data if data is not None else self.spec.source.path
        origin = _describe(config) + (f", saved in {saved}" if saved is not None else "")
        schema = self._schema(config)
        traded = market.bars.filter(pl.col(TIME) <= now)
        if traded.is_empty():
            raise SourceError(
                f"the {origin} begins at {market.bars[TIME].dt.min()}, after the clock, {now:%Y-%m-%d %H:%M}",
                expected="a market with a past",
                remedy="set source.params.start to an earlier day, or leave it out",
            )
        notes = _notes(market, traded, as_of or now)
        frame = traded.with_columns(pl.lit(False).alias(ROW_UNPARSABLE))
        return hand_over_bars(frame, schema, as_of=as_of, now=now, origin=origin, notes=notes)

    def _schema(self, config: MarketConfig) -> BarsSchema:
        spec, calendar = self.spec, CALENDARS[config.calendar]
        freq = Frequency.parse(config.freq)
        if spec.bars_freq not in (None, freq):
            raise _refuse(spec, f"freq is {spec.bars_freq.alias!r}", f"the market's, {freq.alias}", "remove `freq`")
        if spec.bars.calendar not in (AUTO, calendar):
            what = f"bars.calendar is {spec.bars.calendar!r} and source.params.calendar {config.calendar!r}"
            raise _refuse(
                spec, what, f"bars.calendar: {calendar}", "remove bars.calendar, or set source.params.calendar"
            )
        return spec.bars_schema(freq, calendar).model_copy(update={"planted": config.kappa != 0})


@lru_cache(maxsize=4)
def _generated(config: MarketConfig) -> Market:
    return simulate_market(config)


def _notes(market: Market, traded: pl.DataFrame, limit: datetime) -> list[Note]:
    notes = []
    untraded = market.bars.height - traded.height
    if untraded:
        notes.append(Note("bars_after_the_clock", untraded, f"{untraded} bars yet to come are left out"))
    planted = market.ledger.filter(pl.col(TIME) <= limit)
    if planted.height:
        kinds = ", ".join(planted.get_column("kind").unique().sort())
        notes.append(Note("planted_defects", planted.height, f"bars soiled on purpose: {kinds}"))
    return notes


def _describe(config: MarketConfig) -> str:
    return (
        f"generated market (seed {config.seed}, {', '.join(config.names)}, {config.bars} bars of {config.freq}, "
        f"{config.calendar}, kappa {config.kappa:g}, {config.difficulty}, volatility {config.volatility}, "
        f"dirt {config.dirt:g})"
    )


def _require_fitting(spec: WorkloadFile) -> None:
    spec.require_bars()
    if spec.columns != Columns(bars=BarNames()):
        raise _refuse(spec, "columns are declared", "the generator's own columns", "remove `columns`")
    if spec.bars.price_scale:
        raise _refuse(spec, "bars.price_scale is set", "prices as generated", "set source.params.symbols instead")
    if spec.source.path is not None and spec.source.params:
        raise _refuse(
            spec,
            "source names both a path and params",
            "either a saved market or parameters to generate one",
            "remove one of the two",
        )


def _refuse(spec: WorkloadFile, what: str, expected: str, remedy: str) -> ConfigError:
    return ConfigError(f"workload {spec.name!r}: {what}", expected=expected, remedy=remedy)
