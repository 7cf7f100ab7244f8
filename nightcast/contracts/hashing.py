"""Content addresses: the same values give the same name, on any machine and in any row-group layout."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import polars as pl


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spaces; the form that is hashed."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False, default=str)


def hash_json(value: Any, *, length: int = 16) -> str:
    """The first `length` hex digits of the sha256 of a JSON value."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:length]


def hash_frame(frame: pl.DataFrame, *, length: int = 16) -> str:
    """The content hash of a frame: names, types, order of rows and values; NaN counts as null."""
    import numpy as np
    import polars as pl

    digest = hashlib.sha256()
    for name in frame.columns:
        column = frame.get_column(name)
        if column.dtype.is_float():
            column = column.cast(pl.Float64).fill_nan(None)
        digest.update(f"{name}|{column.dtype}|{len(column)}|".encode())
        digest.update(np.packbits(column.is_null().to_numpy()).tobytes())
        if column.dtype == pl.String or column.dtype == pl.Categorical or column.dtype == pl.Enum:
            text = column.cast(pl.String).fill_null("")
            digest.update(text.str.len_bytes().cast(pl.UInt32).to_numpy().tobytes())
            digest.update("".join(text.to_list()).encode())
        elif column.dtype == pl.Boolean:
            digest.update(np.packbits(column.fill_null(False).to_numpy()).tobytes())
        elif column.dtype.is_temporal():
            digest.update(column.to_physical().fill_null(0).to_numpy().tobytes())
        else:
            digest.update(np.ascontiguousarray(column.fill_null(0).to_numpy()).tobytes())
    return digest.hexdigest()[:length]


def derive_seed(*parts: object) -> int:
    """A reproducible 31-bit seed from whatever names the draw (model, fold, seed index)."""
    text = "|".join(str(part) for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") & 0x7FFF_FFFF
