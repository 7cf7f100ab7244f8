"""Which class reads which kind of source."""

from __future__ import annotations

import glob
import importlib
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final, cast

from nightcast.contracts.source import DataSheet, RawData, Source
from nightcast.sources.spec import Kind, SourceKind, WorkloadFile

SOURCES: Final[dict[tuple[Kind, SourceKind], str]] = {
    ("panel", "files"): "nightcast.sources.panel_files:PanelFiles",
    ("panel", "volve"): "nightcast.sources.volve:VolveSource",
    ("panel", "norne"): "nightcast.sources.norne:NorneSource",
    ("panel", "field_generator"): "nightcast.sources.generator.source:FieldSource",
    ("bars", "files"): "nightcast.sources.bar_files:BarFiles",
    ("bars", "market_generator"): "nightcast.sources.market.source:MarketSource",
}
"""Family and kind -> `module:Class`, imported when a source is opened; each is made from the workload file and its
folder."""


@dataclass(frozen=True)
class GeneratedOrFiles:
    """A generated market that also reads bars from files: `--data` names them, and nothing needs to be declared.

    Parameters
    ----------
    generator
        The source that `source.kind` names.
    files
        Reader of bars in files, made from the same workload file.
    """

    generator: Source
    files: Source

    @property
    def sheet(self) -> DataSheet:
        """The generator's data sheet."""
        return self.generator.sheet

    def read(self, *, as_of: datetime | None, data: Path | None, now: datetime) -> RawData:
        """Read everything known at `as_of`; of the generator, unless `data` names tables of bars.

        Parameters
        ----------
        data
            File, glob, or folder of tables; a folder with a JSON file in it is a saved market.
        """
        source = self.files if data is not None and _holds_tables(data) else self.generator
        return source.read(as_of=as_of, data=data, now=now)


def _holds_tables(data: Path) -> bool:
    """Whether a path names tables of bars, and not a saved market."""
    if data.is_dir():
        return not any(data.glob("*.json"))
    return data.is_file() or bool(data.suffix) or glob.has_magic(str(data))


def open_source(spec: WorkloadFile, base: Path) -> Source:
    """The source a workload file names.

    Parameters
    ----------
    spec
        The workload file.
    base
        Folder that relative paths in it start from.

    Raises
    ------
    ConfigError
        If the file contradicts what its source yields.
    """
    source = _open(spec.kind, spec.source.kind, spec, base)
    if spec.source.kind == "market_generator":
        return GeneratedOrFiles(source, _open("bars", "files", spec, base))
    return source


def _open(kind: Kind, source: SourceKind, spec: WorkloadFile, base: Path) -> Source:
    module, _, name = SOURCES[kind, source].partition(":")
    return cast(Source, getattr(importlib.import_module(module), name)(spec, base))
