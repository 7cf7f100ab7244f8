"""Finding and reading tables: paths, lazy scans, and text that should have been numbers or times."""

from __future__ import annotations

import glob
import io
import re
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Final

import polars as pl

from nightcast.contracts.errors import SourceError
from nightcast.sources.spec import FileOptions

SUFFIXES: Final = (".parquet", ".pq", ".csv")
MICROSECONDS: Final = pl.Datetime("us")

_DATE_TIMES: Final = (
    "%Y-%m-%d %H:%M:%S%.f",
    "%Y-%m-%dT%H:%M:%S%.f",
    "%Y-%m-%d %H:%M:%S",
    "%Y-%m-%dT%H:%M:%S",
    "%Y-%m-%d %H:%M",
    "%Y-%m-%dT%H:%M",
)
_ZONED: Final = ("%Y-%m-%d %H:%M:%S%.f%z", "%Y-%m-%dT%H:%M:%S%.f%z", "%Y-%m-%d %H:%M:%S%z", "%Y-%m-%dT%H:%M:%S%z")
# Day and month as numbers stay out: 03/04/2020 is two dates. The two-digit year stands before the four-digit one,
# which would read 14 as the year 14.
_DATES: Final = ("%Y-%m-%d", "%Y/%m/%d", "%Y%m%d", "%d-%b-%y", "%d-%b-%Y")


def find_files(path: str | Path, base: Path, suffixes: Sequence[str] = SUFFIXES) -> list[Path]:
    """Files behind a path, a folder or a glob, sorted.

    Parameters
    ----------
    base
        Folder that a relative path starts from.

    Raises
    ------
    SourceError
        If there is none, if a file has an unsupported suffix, or a folder holds tables in more than one format.
    """
    whole = base / path
    if whole.is_file():
        return [_supported(whole, suffixes)]
    if whole.is_dir():
        found = sorted(p for p in whole.iterdir() if p.is_file() and p.suffix.lower() in suffixes)
        if not found:
            raise SourceError(
                f"the folder {whole} holds no table",
                expected=f"files ending in {', '.join(suffixes)}",
                remedy="name the file, or another folder, in source.path or --data",
            )
        kinds = {p.suffix.lower() for p in found}
        if len(kinds) > 1:
            raise SourceError(
                f"the folder {whole} holds tables in several formats ({', '.join(p.name for p in found)})",
                expected="one format, so that no row is read twice",
                remedy=f"name the files with a glob such as {whole}/*{found[0].suffix}",
            )
        return found
    if glob.has_magic(str(path)):
        found = sorted(Path(p) for p in glob.glob(str(whole), recursive=True) if Path(p).is_file())
        if not found:
            raise SourceError(
                f"no file matches {whole}",
                expected="at least one file",
                remedy="check the pattern and the folder it starts from",
            )
        return [_supported(p, suffixes) for p in found]
    raise SourceError(
        f"there is no file or folder {whole}",
        expected="an existing file, folder or glob",
        remedy=_nearby(whole),
    )


def _supported(path: Path, suffixes: Sequence[str]) -> Path:
    if path.suffix.lower() not in suffixes:
        raise SourceError(
            f"{path} ends in {path.suffix or 'no suffix'!r}",
            expected=f"a file ending in {', '.join(suffixes)}",
            remedy="save the table as Parquet or CSV",
        )
    return path


def _nearby(path: Path) -> str:
    folder = path.parent
    if not folder.is_dir():
        return f"the folder {folder} does not exist; correct source.path or --data, or fetch the data first"
    present = {p.stem: p for p in sorted(folder.iterdir())}
    near = get_close_matches(path.stem, list(present), n=1)
    if near:
        return f"did you mean {present[near[0]]}?"
    return f"the folder {folder} exists; correct the file name in source.path or --data"


def scan(path: Path, options: FileOptions) -> pl.LazyFrame:
    """A lazy frame over one file; every column of a CSV is text.

    Raises
    ------
    SourceError
        If the file cannot be read.
    """
    try:
        if path.suffix.lower() != ".csv":
            lazy = pl.scan_parquet(path)
        elif options.encoding.lower().replace("_", "-") in ("utf-8", "utf8", "utf-8-sig", "ascii"):
            lazy = pl.scan_csv(path, separator=options.delimiter, infer_schema=False)
        else:
            text = path.read_bytes().decode(options.encoding)
            lazy = pl.read_csv(io.StringIO(text), separator=options.delimiter, infer_schema=False).lazy()
        lazy.collect_schema()
    except (pl.exceptions.PolarsError, OSError, UnicodeError) as error:
        raise unreadable(path, error) from None
    return lazy


def collect(lazy: pl.LazyFrame, path: Path) -> pl.DataFrame:
    """Run a scan.

    Raises
    ------
    SourceError
        If the file turns out to be unreadable on the way.
    """
    try:
        return lazy.collect()
    except (pl.exceptions.PolarsError, OSError) as error:
        raise unreadable(path, error) from None


def unreadable(path: Path, error: Exception) -> SourceError:
    """The error of a file that is not what its suffix says."""
    if isinstance(error, pl.exceptions.NoDataError):
        return SourceError(
            f"{path} is empty",
            expected="a header line and at least one row",
            remedy="check the export that wrote it",
        )
    text = str(error).strip()
    first = text.splitlines()[0] if text else type(error).__name__
    hint = "check the file"
    if "utf-8" in text.lower() or isinstance(error, UnicodeError):
        hint = "set source.options.encoding (windows-1252 for old spreadsheets)"
    elif path.suffix.lower() == ".csv":
        hint = "check source.options.delimiter and the quoting"
    return SourceError(f"{path} cannot be read ({first})", expected="a readable table", remedy=hint)


def unknown_column(name: str, available: Sequence[str], where: Path | str, *, key: str) -> SourceError:
    """The error of a column that the input lacks, with the nearest one it has."""
    lowered = {column.lower(): column for column in available}
    near = get_close_matches(name.lower(), list(lowered), n=1, cutoff=0.5)
    return SourceError(
        f"{where} has no column {name!r}",
        expected=f"one of {', '.join(available)}",
        remedy=f"did you mean {lowered[near[0]]!r}? " + f"correct {key}" if near else f"correct {key}",
    )


def number_from_text(column: str, options: FileOptions) -> tuple[pl.Expr, pl.Expr]:
    """Text to Float64, leniently.

    Returns
    -------
    value, unparsable
        The number (null for blanks, declared nulls and junk), and True where there was junk.
    """
    text = pl.col(column).str.strip_chars()
    blank = text.is_null() | (text == "") | _is_word(text, options.null_values)
    plain = text
    if options.thousands:
        mark = re.escape(options.thousands)
        grouped = rf"^[+-]?\d{{1,3}}({mark}\d{{3}})+({re.escape(options.decimal)}\d*)?$"
        # Only well-formed groups count: 1,23 is a slip, not 123.
        plain = pl.when(text.str.contains(grouped)).then(text.str.replace_all(mark, "")).otherwise(text)
    if options.decimal != ".":
        plain = plain.str.replace_all(".", "x", literal=True).str.replace(options.decimal, ".", literal=True)
    logical = text.str.to_lowercase().replace_strict({"true": 1.0, "false": 0.0}, default=None, return_dtype=pl.Float64)
    value = pl.when(~blank).then(pl.coalesce(plain.cast(pl.Float64, strict=False).fill_nan(None), logical))
    return value, ~blank & value.is_null()


def _is_word(text: pl.Expr, words: Sequence[str]) -> pl.Expr:
    return text.str.to_lowercase().is_in([word.lower() for word in words])


def text_or_number(column: str, dtype: pl.DataType, options: FileOptions) -> pl.Expr:
    """A static column: text stays text (blanks and declared nulls are missing), everything else becomes Float64."""
    if dtype != pl.String:
        return pl.col(column).cast(pl.Float64, strict=False).fill_nan(None)
    text = pl.col(column).str.strip_chars()
    return pl.when(~((text == "") | _is_word(text, options.null_values))).then(text)


def number(column: str, dtype: pl.DataType, options: FileOptions) -> tuple[pl.Expr, pl.Expr]:
    """A column of any type to Float64, with a mark where text was neither a number nor a blank."""
    if dtype == pl.String:
        return number_from_text(column, options)
    value = pl.col(column).cast(pl.Float64, strict=False)
    return value.fill_nan(None), pl.col(column).is_not_null() & value.is_null()


def time(column: str, dtype: pl.DataType, options: FileOptions) -> tuple[pl.Expr, pl.Expr]:
    """A column of any type to naive UTC microseconds, with a mark where it was neither a time nor a blank."""
    source = pl.col(column)
    if isinstance(dtype, pl.Datetime):
        if dtype.time_zone:
            source = source.dt.convert_time_zone("UTC").dt.replace_time_zone(None)
        return source.cast(MICROSECONDS), pl.lit(False)
    if dtype == pl.Date:
        return source.cast(MICROSECONDS), pl.lit(False)
    text = source.cast(pl.String).str.strip_chars()
    blank = text.is_null() | (text == "") | _is_word(text, options.null_values)
    value = pl.when(~blank).then(_time_from_text(text, options.date_format))
    return value, ~blank & value.is_null()


def _time_from_text(text: pl.Expr, date_format: str | None) -> pl.Expr:
    if date_format is not None:
        value = text.str.to_datetime(date_format, time_unit="us", strict=False)
        # A format without a time of day parses as a date only.
        return pl.coalesce(value, text.str.to_date(date_format, strict=False).cast(MICROSECONDS))
    offset = text.str.replace(r"Z$", "+00:00")
    zoned = [
        offset.str.to_datetime(form, time_unit="us", strict=False)
        .dt.convert_time_zone("UTC")
        .dt.replace_time_zone(None)
        for form in _ZONED
    ]
    plain = [text.str.to_datetime(form, time_unit="us", strict=False) for form in _DATE_TIMES]
    dates = [text.str.to_date(form, strict=False).cast(MICROSECONDS) for form in _DATES]
    month = pl.when(text.str.contains(r"^\d{4}-\d{2}$")).then(
        (text + "-01").str.to_date("%Y-%m-%d", strict=False).cast(MICROSECONDS)
    )
    value = pl.coalesce(*dates, month, *plain, *zoned)
    # `%Y` also takes 20-01-02 for the year 20.
    return pl.when(value.dt.year() >= 1000).then(value)
