"""Typed flow parameters: Prefect shows enumerations as drop-downs."""

from __future__ import annotations

from enum import StrEnum


class WorkloadName(StrEnum):
    """A shipped workload; for a user's own, give `workload_file`."""

    wells = "wells"
    wells_weighted3 = "wells_weighted3"
    wells_ensemble4 = "wells_ensemble4"
    norne = "norne"
    volve = "volve"
    nm_eddy_wells = "nm_eddy_wells"
    sodir_fields = "sodir_fields"
    markets = "markets"
    markets_h5_20 = "markets_h5_20"
    crypto_30m = "crypto_30m"
    crypto_5m = "crypto_5m"
    fx_1h = "fx_1h"
    fx_5m = "fx_5m"
    stocks_daily = "stocks_daily"


class PresetName(StrEnum):
    """How much work a night may be."""

    ci = "ci"
    nightly_cpu = "nightly_cpu"
    seed = "seed"
