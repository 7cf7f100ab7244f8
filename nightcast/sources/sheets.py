"""Data sheets: what a user must know of each source before trusting it."""

from __future__ import annotations

from dataclasses import replace
from difflib import get_close_matches
from typing import Final

from nightcast.contracts.errors import ConfigError
from nightcast.contracts.source import DataSheet
from nightcast.sources.spec import WorkloadFile

VOLVE: Final = DataSheet(
    name="volve",
    title="Volve field, North Sea: six wells, daily and monthly",
    row="one well and month (or day, with freq: D); an injecting spell is a series of its own, `<well> (injector)`",
    units={
        "y": "m3/d of liquid (oil + water), per calendar day",
        "uptime": "hours on stream / hours of the period, 0 to 1",
        "wbhp": "bar, mean over the days on stream",
        "whp": "bar, mean over the days on stream",
        "choke": "% open, mean over the days",
        "wwir": "m3/d of water injected, per calendar day; 0 for a producer",
    },
    time_zone="Norwegian local time by day; months are labelled by their first day",
    dirt=(
        "the downhole gauge of 15/9-F-12 reads 0 on about 69 % of the days and that of 15/9-F-14 on about 6.5 %",
        "negative water volumes on 4 days, down to -457.84 m3",
        "days of 25 hours at the change of the clock",
        "days missing inside the records; the month's volume is what is listed",
        "15/9-F-5 is a water injector until April 2016 and an oil producer afterwards",
        "some rows have well_type WI with flow_kind production; flow_kind is believed",
        "a units line under the header of the monthly table, thousands commas, the text NULL",
        "no coordinates",
    ),
    publisher="Equinor and the Volve licence partners (Volve data village, 2018)",
    licence="Equinor Open Data Licence for Volve: credit Equinor, not for sale; read the terms before use",
    home_page="https://www.equinor.com/energy/volve-data-sharing",
    how_to="accept the terms on the home page, download `Volve production data.xlsx` and pass it (or CSV exports of "
    "its two sheets) with --data",
)

NORNE: Final = DataSheet(
    name="norne",
    title="Norne field, Norwegian Sea: allocated well histories of the public benchmark model",
    row="one well and month; an injector is a series of its own, `<well> (injector)`",
    units={
        "y": "Sm3/d of liquid (oil + water), per calendar day",
        "uptime": "days with flow / days of the month, 0 to 1",
        "wwir": "Sm3/d of water injected, per calendar day; 0 for a producer",
        "x_m": "m, grid cell of the well head times 100 m: relative positions only",
        "y_m": "m, as x_m",
        "well_group": "manifold",
    },
    time_zone="none (dates); months are labelled by their first day",
    dirt=(
        "rates are those of a history match: allocated, constant between report steps of 1 to 31 days",
        "placeholder rows of rate 0 or 0.001 when a well is introduced; some wells never flow",
        "November 1997 is a partial month, from the 6th",
        "C-1H, C-3H and C-4H switch between water and gas injection; only water is in `wwir`",
        "side-tracks are wells of their own (B-4H, B-4BH, B-4DH): short series where another ends",
        "no bottom-hole pressures, no real coordinates",
    ),
    publisher="Statoil (Equinor), Eni and Petoro through NTNU; distributed by the Open Porous Media initiative",
    licence="Open Database License 1.0 (contents: Database Contents License 1.0): attribution, share-alike",
    home_page="https://github.com/OPM/opm-data",
    url="https://raw.githubusercontent.com/OPM/opm-data/master/norne/INCLUDE/BC0407_HIST01122006.SCH",
    file_name="BC0407_HIST01122006.SCH",
    how_to="download norne/INCLUDE/BC0407_HIST01122006.SCH from the repository and pass it with --data",
)

EDDY: Final = DataSheet(
    name="nm_eddy_wells",
    title="Eddy County, New Mexico: monthly production of some 250 wells",
    row="one well and month",
    units={"y": "m3/d of liquid (oil + water), per calendar day"},
    time_zone="none (months), labelled by their first day",
    dirt=(
        "oil is missing in 13.5 % of the rows, water in 14.3 %: not reported is not zero",
        "single months with 100 times the well's level",
        "32 wells lack months inside the record, up to 154",
        "series of 1 to 458 months: young horizontal wells beside 30-year-old vertical ones",
        "no injectors, no pressures, no coordinates",
    ),
    publisher="New Mexico Oil Conservation Division; collected in the pydca repository",
    licence="US state public record; the repository is under Apache-2.0",
    home_page="https://github.com/derrickturk/pydca",
    url="https://raw.githubusercontent.com/derrickturk/pydca/master/data/eddy.zip",
    file_name="eddy.zip",
    how_to="download data/eddy.zip from the repository, unpack it, and describe its CSV in a workload file of your own",
)

SODIR: Final = DataSheet(
    name="sodir_fields",
    title="Norwegian shelf: monthly production of fields",
    row="one field and month",
    units={"y": "m3/d of liquid (oil + water), per calendar day"},
    time_zone="none (months), labelled by their first day",
    dirt=(
        "saleable net volumes of fields, not of wells",
        "negative months (corrections), about 0.1 %",
        "7 to 10 % of the months have no liquid: gas fields, shut-ins, water not reported",
        "water is 0 in the early years of many fields: not measured",
        "missing months inside series; a dip every summer for maintenance",
    ),
    publisher="Norwegian Offshore Directorate (Sodir), FactPages, table field_production_monthly",
    licence="Norwegian Licence for Open Government Data (NLOD): attribution",
    home_page="https://factpages.sodir.no",
    url="https://factpages.sodir.no/public?/Factpages/external/tableview/field_production_monthly"
    "&rs:Command=Render&rc:Toolbar=false&rc:Parameters=f&IpAddress=not_used&CultureCode=en&rs:Format=CSV&Top100=false",
    file_name="field_production_monthly.csv",
    how_to="on the home page open Field, Table view, Production monthly by field, export it as CSV, and name its "
    "columns in a workload file of your own",
)

WELLS: Final = DataSheet(
    name="wells",
    title="Generated field: producers and injectors of a tank network with known truth",
    row="one well and month",
    units={
        "y": "m3/d of liquid, per calendar day",
        "uptime": "0 to 1",
        "wbhp": "bar",
        "wwir": "m3/d of water injected",
        "x_m": "m",
        "y_m": "m",
        "pad": "name of the well pad",
    },
    time_zone="UTC; months are labelled by their first day",
    dirt=("made on purpose: allocation noise, missing pressures, shut-ins",),
    publisher="none: generated from a seed, needs no data and no network",
    licence="as Nightcast itself",
    home_page="",
    how_to="nothing to fetch: `nightcast run wells` generates it",
)
WELLS_WEIGHTED3: Final = replace(
    WELLS, name="wells_weighted3", title="Generated field: three mixers with given weights"
)
WELLS_ENSEMBLE4: Final = replace(WELLS, name="wells_ensemble4", title="Generated field: four mixers with given weights")

_BAR_ROW: Final = "one symbol and bar; the time is the bar's start"

MARKETS: Final = DataSheet(
    name="markets",
    title="Generated market: bars with sessions, regimes of volatility, a planted signal and a known optimum",
    row=_BAR_ROW,
    units={"open, high, low, close": "price, in units of the quote currency", "volume": "contracts"},
    time_zone="UTC",
    dirt=("none unless asked for: gaps, duplicates, bad ticks and stale runs are parameters, and are listed",),
    publisher="none: generated from a seed, needs no data and no network",
    licence="as Nightcast itself",
    home_page="",
    how_to="nothing to fetch: `nightcast run markets` generates it; `--data` reads bars of your own instead",
)

MARKETS_H5_20: Final = replace(MARKETS, name="markets_h5_20", title="Generated market, horizons of 5, 10, 15, 20 bars")

_CRYPTO_LICENCE: Final = "none stated; exchange data under the exchange's terms: for development only"
_NO_DIRT: Final = "none known in this copy: no gaps, no duplicates, prices in order"
_FETCH: Final = "export bars into one Parquet or CSV file and name it with --data"

CRYPTO_30M: Final = DataSheet(
    name="crypto_30m",
    title="Six USDT-margined perpetual futures, half-hourly, from 2023",
    row=_BAR_ROW,
    units={"open, high, low, close": "USDT", "volume": "base coin"},
    time_zone="UTC",
    dirt=(_NO_DIRT,),
    publisher="Binance, by way of github.com/yagokhan/Varanus-Neo-Flow-Hybrid-Extended (commit ccee8ee)",
    licence=_CRYPTO_LICENCE,
    home_page="https://github.com/yagokhan/Varanus-Neo-Flow-Hybrid-Extended",
    how_to=_FETCH,
)

CRYPTO_5M: Final = replace(
    CRYPTO_30M,
    name="crypto_5m",
    title="RENDERUSDT, a perpetual future, every five minutes, from July 2024",
    dirt=("5 bars without volume",),
)

FX_1H: Final = DataSheet(
    name="fx_1h",
    title="Seven currency pairs, hourly, 2012 to 2020",
    row=_BAR_ROW,
    units={"open, high, low, close": "quote currency (points divided by 1000 for the yen, else by 100000)"}
    | {"volume": "ticks"},
    time_zone="not stated: the broker's server time, with daylight saving",
    dirt=(
        "prices are stored in points, some with float noise such as 100304.00000000001",
        "about 500 gaps a pair: weekends and holidays, up to 3 days 7 hours",
        "volume counts ticks of one broker",
    ),
    publisher="ejtraderLabs (MetaTrader bars), github.com/ejtraderLabs/historical-data (commit fbd29b3)",
    licence="Apache-2.0",
    home_page="https://github.com/ejtraderLabs/historical-data",
    how_to=_FETCH,
)

FX_5M: Final = DataSheet(
    name="fx_5m",
    title="EURUSD every five minutes, February to August 2020",
    row=_BAR_ROW,
    units={"open, high, low, close": "USD for one EUR", "volume": "ticks"},
    time_zone="not stated: the broker's server time",
    dirt=("30 gaps longer than five minutes, most of them weekends", "volume counts ticks of one broker"),
    publisher="MetaTrader export in github.com/SillyDEV/Market-Finance-Introduction-Forex (commit 10c2d80)",
    licence="none stated: for development only",
    home_page="https://github.com/SillyDEV/Market-Finance-Introduction-Forex",
    how_to=_FETCH,
)

STOCKS_DAILY: Final = DataSheet(
    name="stocks_daily",
    title="Sixty large US companies, daily, from 2013",
    row=_BAR_ROW,
    units={"open, high, low, close": "USD, adjusted for splits, not for dividends", "volume": "shares"},
    time_zone="New York trading days",
    dirt=(
        "some open, high and low are missing where the close is not",
        "companies that were listed later have short series",
        "ES lacks 10 trading days",
        "only members of the index in 2018: survivorship bias",
    ),
    publisher="S&P 500 stock data (Kaggle), by way of github.com/CNuge/kaggle-code (commit f110943)",
    licence="CC0 as published on Kaggle; repository MIT",
    home_page="https://github.com/CNuge/kaggle-code",
    how_to=_FETCH,
)

SHEETS: Final[dict[str, DataSheet]] = {
    sheet.name: sheet
    for sheet in (
        *(WELLS, WELLS_WEIGHTED3, WELLS_ENSEMBLE4, NORNE, VOLVE, EDDY, SODIR),
        *(MARKETS, MARKETS_H5_20, CRYPTO_30M, CRYPTO_5M, FX_1H, FX_5M, STOCKS_DAILY),
    )
}
"""The sheets of the shipped sources, by the name of their workload."""


def get_sheet(name: str) -> DataSheet:
    """The data sheet of a shipped source.

    Raises
    ------
    ConfigError
        If there is none of that name.
    """
    try:
        return SHEETS[name]
    except KeyError:
        near = get_close_matches(name, list(SHEETS), n=1)
        raise ConfigError(
            f"unknown data set {name!r}",
            expected=f"one of {', '.join(SHEETS)}",
            remedy=f"did you mean {near[0]!r}?" if near else "a panel of your own needs no sheet, only a workload file",
        ) from None


def sheet_of(spec: WorkloadFile) -> DataSheet:
    """The sheet of a workload file: the shipped one of its name, or one made from the file."""
    if spec.name in SHEETS:
        return SHEETS[spec.name]
    if spec.kind == "bars":
        price = spec.unit or "not declared"
        return DataSheet(
            name=spec.name,
            title=spec.title or spec.name,
            row=_BAR_ROW,
            units={"open, high, low, close": price, "volume": "not declared"},
            time_zone=spec.bars.time_zone or "UTC where the file does not say otherwise",
            dirt=(),
            publisher="the user",
            licence="the user's own",
            home_page="",
            how_to=f"read from {spec.source.path or 'the path given with --data'}",
        )
    return DataSheet(
        name=spec.name,
        title=spec.title or spec.name,
        row=f"one series ({spec.columns.id}) and {spec.freq.word.removeprefix('one ')} ({spec.columns.time})",
        units={"y": spec.unit or "not declared"},
        time_zone="UTC where the file does not say otherwise",
        dirt=(),
        publisher="the user",
        licence="the user's own",
        home_page="",
        how_to=f"read from {spec.source.path or 'the path given with --data'}",
    )
