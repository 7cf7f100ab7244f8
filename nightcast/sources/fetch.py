"""Fetching a public data set from its origin, where the network and the licence allow it."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Protocol

import polars as pl

from nightcast.contracts.errors import SourceError
from nightcast.contracts.source import DataSheet
from nightcast.sources.sheets import get_sheet

TIMEOUT_S: Final = 60.0
_CHUNK: Final = 1 << 20


class Readable(Protocol):
    """An open response."""

    def read(self, size: int = -1, /) -> bytes:
        """The next bytes, at most `size`; none at the end."""
        ...


Opener = Callable[[str], AbstractContextManager[Readable]]
"""URL -> response; the default goes through urllib and the proxies of the environment."""


@dataclass(frozen=True)
class FetchResult:
    """What was fetched.

    Attributes
    ----------
    path
        The file to read: the download itself, or the table made from it.
    url
        Where it came from.
    sha256
        Of the download.
    size
        Of the download, bytes.
    fetched
        False if an intact earlier download was found and kept.
    """

    name: str
    path: Path
    url: str
    sha256: str
    size: int
    fetched: bool


# Header of the origin -> column of our workload file.
_EDDY: Final[Mapping[str, tuple[str, ...]]] = {
    "api": ("api", "api_no", "api_number", "well_id", "well"),
    "oil_bbl": ("oil_bbl", "oil", "oil_volume"),
    "gas_mcf": ("gas_mcf", "gas", "gas_volume"),
    "water_bbl": ("water_bbl", "water", "water_volume"),
    "date": ("date", "month_date", "production_date", "prod_date"),
    "year": ("year", "production_year"),
    "month": ("month", "production_month"),
}
_SODIR: Final[Mapping[str, tuple[str, ...]]] = {
    "field": ("prfinformationcarrier", "field"),
    "year": ("prfyear", "year"),
    "month": ("prfmonth", "month"),
    "oil_mill_sm3": ("prfprdoilnetmillsm3", "oil_mill_sm3"),
    "gas_bill_sm3": ("prfprdgasnetbillsm3", "gas_bill_sm3"),
    "ngl_mill_sm3": ("prfprdnglnetmillsm3", "ngl_mill_sm3"),
    "condensate_mill_sm3": ("prfprdcondensatenetmillsm3", "condensate_mill_sm3"),
    "oe_mill_sm3": ("prfprdoenetmillsm3", "oe_mill_sm3"),
    "water_mill_sm3": ("prfprdproducedwaterinfieldmillsm3", "water_mill_sm3"),
    "npdid": ("prfnpdidinformationcarrier", "npdid"),
}


def fetch(name: str, folder: Path, *, opener: Opener | None = None) -> FetchResult:
    """Download a public data set into `folder`, with its origin recorded beside it in `origin.json`.

    The file is written whole or not at all. An intact earlier download (same address, same sha256) is kept.

    Parameters
    ----------
    name
        Name of a shipped source: `norne`, `nm_eddy_wells`, `sodir_fields`, `volve`.
    folder
        Where to put it; made if missing. The shipped workload files look in `data/<name>`.
    opener
        Opens an address, for tests and for sites with a mirror.

    Raises
    ------
    ConfigError
        If the name is unknown.
    SourceError
        If the origin cannot be reached, does not hold what it used to, or must be fetched by hand; the message
        gives the home page, the licence and the steps.
    """
    sheet = get_sheet(name)
    if sheet.url is None or sheet.file_name is None:
        raise _by_hand(sheet, f"{name} is not fetched by program", folder)
    target = folder / sheet.file_name
    made = folder / "monthly.parquet" if name in _TABLES else target
    earlier = _earlier(folder, sheet.url, target, made)
    if earlier is not None:
        return FetchResult(name, made, sheet.url, *earlier, fetched=False)
    body = _download(sheet, folder, opener or _urlopen)
    digest = hashlib.sha256(body).hexdigest()
    table = _TABLES[name](sheet, body, folder) if name in _TABLES else None
    _write(target, body, sheet)
    if table is not None:
        buffer = io.BytesIO()
        table.write_parquet(buffer)
        _write(made, buffer.getvalue(), sheet)
    origin = {
        "name": name,
        "url": sheet.url,
        "file": target.name,
        "sha256": digest,
        "size": len(body),
        "read": made.name,
        "fetched_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "publisher": sheet.publisher,
        "licence": sheet.licence,
        "home_page": sheet.home_page,
    }
    # Last, so that a record stands only beside complete files.
    _write(folder / "origin.json", (json.dumps(origin, indent=1) + "\n").encode(), sheet)
    return FetchResult(name, made, sheet.url, digest, len(body), fetched=True)


def _urlopen(url: str) -> AbstractContextManager[Readable]:
    from urllib.request import Request, urlopen

    response: AbstractContextManager[Readable] = urlopen(
        Request(url, headers={"User-Agent": "nightcast"}), timeout=TIMEOUT_S
    )
    return response


def _download(sheet: DataSheet, folder: Path, opener: Opener) -> bytes:
    from http.client import HTTPException

    assert sheet.url is not None
    parts: list[bytes] = []
    promised: str | None = None
    try:
        with opener(sheet.url) as response:
            promised = getattr(response, "headers", {}).get("Content-Length")
            while chunk := response.read(_CHUNK):
                parts.append(chunk)
    except (OSError, HTTPException, ValueError) as error:  # URLError and timeouts are OSErrors
        raise _by_hand(sheet, f"{sheet.url} cannot be fetched ({error or type(error).__name__})", folder) from None
    body = b"".join(parts)
    # Reading in pieces, http.client takes a connection that closes early for the end.
    if promised is not None and promised.isdigit() and len(body) < int(promised):
        raise _by_hand(sheet, f"{sheet.url} stopped after {len(body)} of {promised} bytes", folder)
    if not body:
        raise _by_hand(sheet, f"{sheet.url} answered with nothing", folder)
    if body.lstrip()[:15].lower().startswith((b"<!doctype html", b"<html")):
        raise _by_hand(sheet, f"{sheet.url} answered with a web page instead of the data", folder)
    return body


def _by_hand(sheet: DataSheet, what: str, folder: Path) -> SourceError:
    page = f"home page {sheet.home_page}; " if sheet.home_page else ""
    return SourceError(
        what,
        expected="a data set that can be downloaded from here",
        remedy=f"by hand: {sheet.how_to} (target folder {folder}); {page}licence: {sheet.licence}",
    )


def _earlier(folder: Path, url: str, target: Path, made: Path) -> tuple[str, int] | None:
    """Hash and size of an intact earlier download."""
    try:
        origin = json.loads((folder / "origin.json").read_text(encoding="utf-8"))
        body = target.read_bytes()
    except (OSError, ValueError):
        return None
    digest = hashlib.sha256(body).hexdigest()
    intact = isinstance(origin, dict) and origin.get("url") == url and origin.get("sha256") == digest
    return (digest, len(body)) if intact and made.is_file() else None


def _write(path: Path, body: bytes, sheet: DataSheet) -> None:
    """Write a file whole or not at all."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, part = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError as error:
        raise _unwritable(path, error) from None
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(body)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(part, 0o644)
        os.replace(part, path)
    except OSError as error:
        raise _unwritable(path, error) from None
    finally:
        Path(part).unlink(missing_ok=True)


def _unwritable(path: Path, error: OSError) -> SourceError:
    return SourceError(
        f"{path} cannot be written ({error.strerror or error})",
        expected="a folder with room and permission to write",
        remedy="choose another folder",
    )


def _eddy_table(sheet: DataSheet, body: bytes, folder: Path) -> pl.DataFrame:
    try:
        with zipfile.ZipFile(io.BytesIO(body)) as archive:
            members = [m for m in archive.infolist() if m.filename.lower().endswith((".csv", ".txt")) and m.file_size]
            if not members:
                raise _by_hand(sheet, f"{sheet.url} holds no CSV ({', '.join(archive.namelist()[:5])})", folder)
            text = archive.read(max(members, key=lambda member: member.file_size))
    except zipfile.BadZipFile:
        raise _by_hand(sheet, f"{sheet.url} is no zip archive (its size is {len(body)} bytes)", folder) from None
    return _monthly(sheet, text, _EDDY, ("api",), ("oil_bbl", "gas_mcf", "water_bbl"), folder)


def _sodir_table(sheet: DataSheet, body: bytes, folder: Path) -> pl.DataFrame:
    volumes = tuple(name for name in _SODIR if name.endswith("_sm3"))
    return _monthly(sheet, body, _SODIR, ("field",), volumes, folder)


def _monthly(
    sheet: DataSheet,
    text: bytes,
    headers: Mapping[str, tuple[str, ...]],
    ids: tuple[str, ...],
    volumes: tuple[str, ...],
    folder: Path,
) -> pl.DataFrame:
    """The origin's CSV under the column names of our workload file, rows as they are.

    Volumes stay text where they are not numbers, so that reading flags them; nothing is repaired here.
    """
    try:
        raw = pl.read_csv(io.BytesIO(text), infer_schema=False, encoding="utf8-lossy")
    except pl.exceptions.PolarsError as error:
        raise _by_hand(sheet, f"{sheet.url} holds no readable CSV ({str(error).splitlines()[0]})", folder) from None
    plain = {"_".join(name.strip().strip("\ufeff").lower().replace(".", " ").split()): name for name in raw.columns}
    found = {ours: plain[word] for ours, words in headers.items() for word in reversed(words) if word in plain}
    dated = "date" in found or {"year", "month"} <= set(found)
    missing = [name for name in (*ids, *volumes) if name not in found] + ([] if dated else ["date, or year and month"])
    if missing:
        what = f"the table behind {sheet.url} lacks {', '.join(missing)} (it has {', '.join(raw.columns)})"
        raise _by_hand(sheet, what, folder)
    if "date" in found:
        date = pl.col(found["date"]).str.strip_chars()
    else:
        date = pl.col(found["year"]).str.strip_chars() + "-" + pl.col(found["month"]).str.strip_chars().str.zfill(2)
        date = date + "-01"
    return raw.select(
        *(pl.col(found[name]).str.strip_chars().alias(name) for name in ids),
        date.alias("date"),
        *(pl.col(found[name]).alias(name) for name in volumes),
    )


_TABLES: Final[Mapping[str, Callable[[DataSheet, bytes, Path], pl.DataFrame]]] = {
    "nm_eddy_wells": _eddy_table,
    "sodir_fields": _sodir_table,
}
"""Sources whose download is turned into `monthly.parquet` with the columns their workload file names."""
