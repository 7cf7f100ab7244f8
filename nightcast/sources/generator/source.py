"""The generated field as a way in."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Final

import polars as pl

from nightcast.contracts.columns import ROW_UNPARSABLE, TIME, Role
from nightcast.contracts.errors import ConfigError, SourceError
from nightcast.contracts.source import DataSheet, Note, RawData
from nightcast.sources.generator.config import FieldConfig
from nightcast.sources.generator.field import Field, plan_of, simulate_field
from nightcast.sources.handover import hand_over, require_past
from nightcast.sources.sheets import WELLS
from nightcast.sources.spec import Columns, SourceChoice, WorkloadFile

COVARIATES: Final[dict[str, Role]] = {
    "uptime": "past",
    "wbhp": "past",
    "wwir": "past",
    "wopr": "past",
    "x_m": "static",
    "y_m": "static",
    "pad": "static",
}
PLANNED: Final = ("uptime", "wbhp", "wwir")
"""Covariates that a plan covers."""
PLANS: Final = ("known", "noisy")
"""`source.plan` of a generated field: as carried out, or with its errors."""
UNIT: Final = "m3/d"


class FieldSource:
    """Generates a field, or reads a saved one.

    Parameters
    ----------
    spec
        The workload file; `source.params` are the fields of `FieldConfig`, and `size`. `source.path` names a saved
        field instead.
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
        self._config = FieldConfig.from_params(spec.source.params)

    @classmethod
    def of(cls, config: FieldConfig, *, horizon: int = 6) -> FieldSource:
        """A source of one field, without a workload file."""
        choice = SourceChoice(kind="field_generator", params=config.to_json())
        spec = WorkloadFile.model_validate(
            {"name": "wells", "source": choice, "freq": "MS", "horizon": horizon, "unit": UNIT, "lower": 0.0}
        )
        return cls(spec, Path())

    @property
    def sheet(self) -> DataSheet:
        """The data sheet."""
        return replace(WELLS, name=self.spec.name, title=self.spec.title or WELLS.title)

    def field(self, data: Path | None = None) -> Field:
        """The field behind the rows, with its truth.

        Parameters
        ----------
        data
            Folder written by `Field.save`.

        Raises
        ------
        SourceError
            If the folder does not hold a field.
        """
        if data is not None:
            return Field.load(data)
        if self.spec.source.path is not None:
            return Field.load(self.base / self.spec.source.path)
        return _generated(self._config)

    def read(self, *, as_of: datetime | None, data: Path | None, now: datetime) -> RawData:
        """Read everything known at `as_of`.

        The whole field is simulated whatever the as-of date, so the rows before it do not depend on it.

        Parameters
        ----------
        as_of
            Last known month; None: the field's last month that is not after `now`.
        data
            Folder of a saved field to read instead; a relative one starts from the working folder.
        now
            The clock, naive UTC; months that begin after it have not been measured yet.

        Raises
        ------
        ConfigError
            If the as-of date lies in the future.
        SourceError
            If the folder does not hold a field, or too few months are known.
        """
        require_past(as_of, now)
        field = self.field(data)
        saved = data if data is not None else self.spec.source.path
        origin = _describe(field.config) + (f", saved in {saved}" if saved is not None else "")
        frame = field.monthly.filter(pl.col(TIME) <= now).with_columns(pl.lit(False).alias(ROW_UNPARSABLE))
        if frame.is_empty():
            raise SourceError(
                f"the {origin} begins on {field.config.start}, after the clock, {now:%Y-%m-%d}",
                expected="a field with a past",
                remedy="set source.params.start to an earlier month",
            )
        unborn = field.monthly.height - frame.height
        notes = []
        if unborn:
            notes.append(Note("months_after_the_clock", unborn, f"{unborn} rows of months yet to come are left out"))
        roles: dict[str, Role] = dict(COVARIATES)
        plan = None
        if (choice := self.spec.source.plan) is not None:
            plan = plan_of(field, noisy=choice == "noisy")
            roles |= dict.fromkeys(PLANNED, "plan")
        schema = self.spec.panel_schema(roles).model_copy(update={"unit": UNIT, "lower": 0.0})
        return hand_over(frame, schema, as_of=as_of, now=now, origin=origin, notes=notes, plan=plan)


@lru_cache(maxsize=4)
def _generated(config: FieldConfig) -> Field:
    return simulate_field(config)


def _describe(config: FieldConfig) -> str:
    return (
        f"generated field (seed {config.seed}, {config.producers} producers, {config.injectors} injectors, "
        f"{config.months} months, {config.level}, {config.variant})"
    )


def _require_fitting(spec: WorkloadFile) -> None:
    def refuse(what: str, expected: str, remedy: str) -> ConfigError:
        return ConfigError(f"workload {spec.name!r}: {what}", expected=expected, remedy=remedy)

    if spec.freq.alias != "MS":
        raise refuse(f"freq is {spec.freq.alias!r}", "MS: the generator makes months", "set freq: MS")
    if spec.unit not in ("", UNIT):
        raise refuse(f"unit is {spec.unit!r}", f"{UNIT}, the generator's unit", f"set unit: {UNIT}")
    if spec.lower not in (None, 0.0):
        raise refuse(f"lower is {spec.lower!r}", "0, the lower bound of a rate", "set lower: 0")
    if spec.columns != Columns():
        raise refuse("columns are declared", "the generator's own columns", "remove `columns`")
    if spec.source.plan not in (None, *PLANS):
        raise refuse(f"source.plan is {spec.source.plan!r}", f"{' or '.join(PLANS)}, or no plan", "correct the line")
    if spec.source.path is not None and spec.source.params:
        raise refuse(
            "source names both a path and params",
            "either a saved field or parameters to generate one",
            "remove one of the two",
        )
