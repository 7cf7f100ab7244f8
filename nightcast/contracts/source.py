"""Ways in: what a source promises and what it hands over."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol, TypeVar

import polars as pl

from nightcast.contracts.errors import ConfigError
from nightcast.contracts.schema import BarsSchema, PanelSchema

Schema = PanelSchema | BarsSchema
"""What a source declares of its rows."""
S = TypeVar("S", PanelSchema, BarsSchema)
_SCHEMAS: dict[str, type[PanelSchema] | type[BarsSchema]] = {"panel": PanelSchema, "bars": BarsSchema}


@dataclass(frozen=True)
class Note:
    """One counted treatment of the input: nothing is repaired silently.

    Attributes
    ----------
    code
        Short code, `negative_water_set_missing`.
    rows
        Rows touched.
    detail
        One sentence for people.
    """

    code: str
    rows: int
    detail: str


@dataclass(frozen=True)
class RawData:
    """Rows as the source has them, in our column names, nothing repaired without a note.

    Attributes
    ----------
    frame
        `unique_id (str), ds (datetime, null where it cannot be read), y, covariates, series_role, row_unparsable`.
        Bars hold `open, high, low, close, volume` in place of `y` and covariates. Duplicates, gaps and wild values
        are still in it: the raw gate judges them. No row later than `as_of`, except rows dated in an impossible
        future (after the clock), kept for the gate to name.
    schema
        Declared facts.
    as_of
        The last known time: as asked for, or found in the data.
    origin
        Where it came from: path or generator, without secrets.
    plan
        Planned values of plan covariates, if the user gave them.
    notes
        Counted treatments.
    """

    frame: pl.DataFrame
    schema: Schema
    as_of: datetime
    origin: str
    plan: pl.DataFrame | None = None
    notes: tuple[Note, ...] = ()

    @property
    def panel(self) -> PanelSchema:
        """The schema of a panel.

        Raises
        ------
        ConfigError
            If these are bars.
        """
        return self._of(PanelSchema)

    @property
    def bars(self) -> BarsSchema:
        """The schema of bars.

        Raises
        ------
        ConfigError
            If this is a panel.
        """
        return self._of(BarsSchema)

    def _of(self, kind: type[S]) -> S:
        if not isinstance(self.schema, kind):
            raise ConfigError(
                f"{self.origin} holds rows of a {type(self.schema).__name__}",
                expected=f"a {kind.__name__}",
                remedy="set `kind` in the workload file to what the rows are: panel or bars",
            )
        return self.schema

    def save(self, folder: Path) -> None:
        """Write as Parquet and JSON."""
        folder.mkdir(parents=True, exist_ok=True)
        self.frame.write_parquet(folder / "raw.parquet")
        if self.plan is not None:
            self.plan.write_parquet(folder / "plan.parquet")
        facts = {
            "kind": next(kind for kind, its in _SCHEMAS.items() if isinstance(self.schema, its)),
            "schema": self.schema.model_dump(mode="json"),
            "as_of": self.as_of.isoformat(),
            "origin": self.origin,
            "notes": [asdict(note) for note in self.notes],
        }
        (folder / "raw.json").write_text(json.dumps(facts, indent=1))

    @classmethod
    def load(cls, folder: Path) -> RawData:
        """Read what `save` wrote."""
        facts = json.loads((folder / "raw.json").read_text())
        plan = folder / "plan.parquet"
        return cls(
            frame=pl.read_parquet(folder / "raw.parquet"),
            schema=_SCHEMAS[facts["kind"]].model_validate(facts["schema"]),
            as_of=datetime.fromisoformat(facts["as_of"]),
            origin=facts["origin"],
            plan=pl.read_parquet(plan) if plan.exists() else None,
            notes=tuple(Note(**note) for note in facts["notes"]),
        )


@dataclass(frozen=True)
class DataSheet:
    """What a user must know of a source: `nightcast data` prints it.

    Attributes
    ----------
    row
        One row per what.
    units
        Column -> unit.
    time_zone
        Of the time column.
    dirt
        Known faults of the data, one sentence each.
    publisher, licence
        Whose data and on which terms.
    url
        Public origin to download from, or None where a person must fetch it by hand.
    """

    name: str
    title: str
    row: str
    units: dict[str, str]
    time_zone: str
    dirt: tuple[str, ...]
    publisher: str
    licence: str
    home_page: str
    url: str | None = None
    file_name: str | None = None
    how_to: str = ""

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)


class Source(Protocol):
    """A way in."""

    @property
    def sheet(self) -> DataSheet:
        """The data sheet."""
        ...

    def read(self, *, as_of: datetime | None, data: Path | None, now: datetime) -> RawData:
        """Read everything known at `as_of`.

        Parameters
        ----------
        as_of
            Last known time; None: the last time at which the panel as a whole reports (single stray dates do not
            move it), never after `now`.
        data
            File, folder or glob to read instead of the declared one.
        now
            The clock, naive UTC; rows dated after it cannot be true.

        Raises
        ------
        SourceError
            If the input is missing, empty, or lacks a declared column.
        """
        ...
