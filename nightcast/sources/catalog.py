"""Which class reads which kind of source."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Final, cast

from nightcast.contracts.source import Source
from nightcast.sources.spec import SourceKind, WorkloadFile

SOURCES: Final[dict[SourceKind, str]] = {
    "files": "nightcast.sources.panel_files:PanelFiles",
    "volve": "nightcast.sources.volve:VolveSource",
    "norne": "nightcast.sources.norne:NorneSource",
    "field_generator": "nightcast.sources.generator.source:FieldSource",
}
"""Kind -> `module:Class`, imported when a source is opened; each is made from the workload file and its folder."""


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
        If the file is not of kind `panel`.
    """
    spec.require_panel()
    module, _, name = SOURCES[spec.source.kind].partition(":")
    return cast(Source, getattr(importlib.import_module(module), name)(spec, base))
