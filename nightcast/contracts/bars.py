"""Bars ready for classifiers: schema, labels, and what of them is known when a decision falls.

A bar is labelled by its start and known at its close. A decision at bar `t` uses bars up to and including `t`, enters
at the open of the next bar, and its label looks at the bars after `t`, at most `horizon` of them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from nightcast.contracts.columns import (
    BAR_COLUMNS,
    HORIZON,
    ID,
    LABEL_END,
    SEGMENT,
    SERIES_ROLE,
    SESSION,
    TARGET,
    TIME,
)
from nightcast.contracts.errors import ConfigError
from nightcast.contracts.fold import Fold
from nightcast.contracts.hashing import hash_frame, hash_json
from nightcast.contracts.schema import BarsSchema, CostPlan, LabelPlan
from nightcast.contracts.source import Note

UNKNOWN_LABEL = -1
"""In label arrays: the label is not known (yet), or cut off by a gap or a scheduled close."""


def label_columns(horizon: int) -> dict[str, str]:
    """Names of a horizon's label columns in `BarDataset.frame`.

    `y` (Int8: 0, 1, 2 or null), `hold` (Int32: bars from the decision to the label's end), `ret` (Float64: simple
    return from the entry to the label's end), `width` (Float64: barrier as a fraction of the entry price),
    `ambiguous` (Boolean).
    """
    return {name: f"label_{horizon}_{name}" for name in ("y", "hold", "ret", "width", "ambiguous")}


class BarColumn(BaseModel):
    """One feature column.

    Attributes
    ----------
    block
        Family of the feature: `momentum`, `volatility`, `microstructure`, ...
    warmup
        Bars of a segment before its first value.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    block: str
    warmup: int = Field(ge=0)


@dataclass(frozen=True)
class BarLabels:
    """Labels of a view's decisions, one row each and one column a horizon.

    Attributes
    ----------
    y
        `[n, H]` int8: class 0, 1, 2, or -1 where unknown.
    hold
        `[n, H]` int32: bars from the decision to the label's end; 0 where unknown.
    ret
        `[n, H]` float64: simple return from the entry (open of the next bar) to the label's end; nan where unknown.
    width
        `[n, H]` float64: the barrier as a fraction of the entry price, nan where unknown; None if labels have none.
    ambiguous
        `[n, H]` bool: one bar touched both barriers; None if nobody looked.
    """

    y: NDArray[np.int8]
    hold: NDArray[np.int32]
    ret: NDArray[np.float64]
    width: NDArray[np.float64] | None = None
    ambiguous: NDArray[np.bool_] | None = None

    def chosen(self, rows: Any, horizons: slice = slice(None)) -> BarLabels:
        """Some decisions' labels, and some horizons'."""
        own = (self.y, self.hold, self.ret, self.width, self.ambiguous)
        return BarLabels(*(None if its is None else its[rows, horizons] for its in own))  # type: ignore[arg-type]


@dataclass(frozen=True)
class BarView:
    """What a classifier sees: arrays over bars, and the rows at which it learns or decides.

    Attributes
    ----------
    base
        `[N, C]` float32 features, rows sorted by symbol and time; nan before a feature is warm.
    names
        The C column names.
    sets
        Feature set -> its columns, in order.
    bars
        `[N, 5]` float64 open, high, low, close, volume.
    symbol, segment, session
        `[N]` int64 codes; `symbol` indexes `symbols`.
    times
        `[N]` datetime64[us], start of each bar.
    rows
        `[n]` int64 row numbers of the decisions, rising; everything a decision may use lies at or before its row.
    labels
        Of the decisions; None when the outcome is not to be known.
    cutoff
        Last known time.
    """

    base: NDArray[np.float32]
    names: tuple[str, ...]
    sets: Mapping[str, tuple[str, ...]]
    bars: NDArray[np.float64]
    symbols: tuple[str, ...]
    symbol: NDArray[np.int64]
    segment: NDArray[np.int64]
    session: NDArray[np.int64]
    times: NDArray[np.datetime64]
    rows: NDArray[np.int64]
    labels: BarLabels | None
    schema: BarsSchema
    cutoff: datetime

    @property
    def horizons(self) -> tuple[int, ...]:
        """Horizons in bars."""
        return self.schema.horizons

    @property
    def series(self) -> list[str]:
        """Symbols a decision is wanted for, sorted."""
        return sorted({self.symbols[code] for code in np.unique(self.symbol[self.rows])})

    def columns_of(self, feature_set: str) -> list[int]:
        """Positions in `base` of a set's columns.

        Raises
        ------
        ConfigError
            If the set is unknown.
        """
        if feature_set not in self.sets:
            raise ConfigError(
                f"unknown feature set {feature_set!r}",
                expected=f"one of {', '.join(self.sets)}",
                remedy="add it to `features` of the recipe, or correct the model's `feature_set`",
            )
        position = {name: i for i, name in enumerate(self.names)}
        return [position[name] for name in self.sets[feature_set]]


@dataclass(frozen=True)
class BarDataset:
    """Accepted bars with segments, features and labels; the input of the walk-forward over bars.

    A fold's `cutoffs` are the first and the last decision time of its test span; every decision between them is
    scored; a single cutoff means the newest decisions there. Its training decisions are those from `train_start` to
    `train_end`; a label that could end after `train_end` is unknown to it, so nothing that ends inside the test span
    is ever trained on.

    Attributes
    ----------
    frame
        `unique_id, ds, segment, session, open .. volume`, the feature columns, and per horizon those of
        `label_columns`; sorted by symbol and time.
    columns
        Feature column -> block and warm-up.
    sets
        Feature set -> its columns.
    lead
        Bars of a segment before its first decision: the longest warm-up plus the longest window.
    retire_after
        A symbol without a bar in the last `retire_after` bars before the cutoff gets no decision.
    """

    frame: pl.DataFrame
    schema: BarsSchema
    columns: Mapping[str, BarColumn]
    sets: Mapping[str, tuple[str, ...]]
    as_of: datetime
    lead: int
    labels: LabelPlan
    costs: CostPlan
    retire_after: int = 12
    notes: tuple[Note, ...] = ()

    @cached_property
    def hash(self) -> str:
        """Content hash over values and declared facts."""
        facts = self._facts()
        return hash_json({"frame": hash_frame(self.frame), **{k: v for k, v in facts.items() if k != "notes"}})

    @cached_property
    def _arrays(self) -> dict[str, Any]:
        frame, names = self.frame, tuple(self.columns)
        symbols = tuple(frame.get_column(ID).unique().sort().to_list())
        code = frame.get_column(ID).replace_strict(list(symbols), list(range(len(symbols))), return_dtype=pl.Int64)
        segment = frame.get_column(SEGMENT).cast(pl.Int64).to_numpy()
        starts = np.flatnonzero(np.diff(segment, prepend=-1))
        position = np.arange(len(segment)) - np.repeat(starts, np.diff(np.append(starts, len(segment))))
        base = np.full((frame.height, len(names)), np.nan, dtype=np.float32)
        for i, name in enumerate(names):
            base[:, i] = frame.get_column(name).cast(pl.Float32).fill_null(float("nan")).to_numpy()
        labels = [label_columns(h) for h in self.schema.horizons]
        return {
            "base": base,
            "names": names,
            "bars": frame.select(pl.col(BAR_COLUMNS).cast(pl.Float64)).to_numpy(),
            "symbols": symbols,
            "symbol": code.to_numpy(),
            "segment": segment,
            "session": frame.get_column(SESSION).cast(pl.Int64).to_numpy(),
            "times": frame.get_column(TIME).cast(pl.Datetime("us")).to_numpy(),
            "ready": position >= self.lead,
            "y": _stack(frame, [c["y"] for c in labels], np.int8, UNKNOWN_LABEL),
            "hold": _stack(frame, [c["hold"] for c in labels], np.int32, 0),
            "ret": _stack(frame, [c["ret"] for c in labels], np.float64, np.nan),
            "width": _stack_if_there(frame, [c["width"] for c in labels], np.float64, np.nan),
            "ambiguous": _stack_if_there(frame, [c["ambiguous"] for c in labels], np.bool_, False),
        }

    @cached_property
    def ready(self) -> NDArray[np.bool_]:
        """`[N]` bars at which a decision can fall: warm in all features, with a full window behind them."""
        return np.asarray(self._arrays["ready"], dtype=bool)

    def _known_end(self, until: np.datetime64) -> NDArray[np.bool_]:
        """`[N, H]` labels whose last possible bar starts at or before a time.

        A barrier that is touched early ends a label early; to know those already and not their undecided neighbours
        would make every training end look eventful.
        """
        a = self._arrays
        rows = np.arange(len(a["times"]))[:, None] + np.asarray(self.schema.horizons)
        ends = a["times"][np.minimum(rows, len(a["times"]) - 1)]
        return np.asarray((a["y"] != UNKNOWN_LABEL) & (ends <= until))

    def _view(self, keep: NDArray[np.bool_], decide: NDArray[np.bool_], cutoff: datetime, labelled: bool) -> BarView:
        a = self._arrays
        new_row = np.cumsum(keep) - 1
        chosen = np.flatnonzero(decide & keep)
        labels = None
        if labelled:
            known = self._known_end(np.datetime64(cutoff, "us"))[chosen]
            labels = BarLabels(
                y=np.where(known, a["y"][chosen], UNKNOWN_LABEL).astype(np.int8),
                hold=np.where(known, a["hold"][chosen], 0).astype(np.int32),
                ret=np.where(known, a["ret"][chosen], np.nan),
                width=None if a["width"] is None else np.where(known, a["width"][chosen], np.nan),
                ambiguous=None if a["ambiguous"] is None else known & a["ambiguous"][chosen],
            )
        return BarView(
            base=a["base"][keep],
            names=a["names"],
            sets=self.sets,
            bars=a["bars"][keep],
            symbols=a["symbols"],
            symbol=a["symbol"][keep],
            segment=a["segment"][keep],
            session=a["session"][keep],
            times=a["times"][keep],
            rows=new_row[chosen].astype(np.int64),
            labels=labels,
            schema=self.schema,
            cutoff=cutoff,
        )

    def training(self, fold: Fold) -> BarView:
        """Decisions to learn from in one fold, purged: labels that end after `train_end` are unknown to it."""
        a = self._arrays
        end = np.datetime64(fold.train_end, "us")
        keep = a["times"] <= end
        decide = keep & a["ready"] & self._known_end(end).any(axis=1)
        if fold.train_start is not None:
            decide &= a["times"] >= np.datetime64(fold.train_start, "us")
        return self._view(keep, decide, fold.train_end, labelled=True)

    def tests(self, fold: Fold) -> Iterator[BarView]:
        """One view with every decision of the fold's test span; outcomes are not in it.

        A fold of one cutoff asks for the newest decision of every active symbol, as `view` gives it.
        """
        a = self._arrays
        if len(fold.cutoffs) == 1:
            yield self.view(fold.cutoffs[0], start=fold.train_start)
            return
        first, last = np.datetime64(fold.cutoffs[0], "us"), np.datetime64(fold.cutoffs[-1], "us")
        keep = a["times"] <= last
        yield self._view(keep, keep & a["ready"] & (a["times"] >= first), fold.cutoffs[-1], labelled=False)

    def labelled(self, first: datetime, last: datetime) -> BarView:
        """Every decision from `first` to `last` with its labels, as far as they are known at the as-of date.

        For judging, never for training: nothing is purged.
        """
        a = self._arrays
        low, high = np.datetime64(first, "us"), np.datetime64(last, "us")
        keep = a["times"] <= np.datetime64(self.as_of, "us")
        decide = a["ready"] & (a["times"] >= low) & (a["times"] <= high)
        return self._view(keep, decide, self.as_of, labelled=True)

    def view(self, cutoff: datetime, *, start: datetime | None = None) -> BarView:
        """The newest decision of every active symbol at `cutoff`.

        Raises
        ------
        ConfigError
            If the cutoff lies after the as-of date.
        """
        if cutoff > self.as_of:
            raise ConfigError(
                f"cutoff {cutoff:%Y-%m-%d %H:%M} lies after the as-of date {self.as_of:%Y-%m-%d %H:%M}",
                expected="a cutoff at or before the as-of date",
                remedy="choose an earlier cutoff or a later --as-of",
            )
        a = self._arrays
        keep = a["times"] <= np.datetime64(cutoff, "us")
        if start is not None:
            keep &= a["times"] >= np.datetime64(start, "us")
        clock = np.unique(a["times"][a["times"] <= np.datetime64(cutoff, "us")])
        oldest = clock[max(0, len(clock) - 1 - self.retire_after)] if len(clock) else np.datetime64(cutoff, "us")
        newest = np.zeros(len(keep), dtype=bool)
        for code in range(len(a["symbols"])):
            mine = np.flatnonzero(keep & (a["symbol"] == code))
            if len(mine) and a["times"][mine[-1]] >= oldest and a["ready"][mine[-1]]:
                newest[mine[-1]] = True
        return self._view(keep, newest, cutoff, labelled=False)

    def request_facts(self) -> dict[str, Any]:
        """Schema, labels, costs, lead and retirement, as JSON values."""
        facts = self._facts()
        return {name: facts[name] for name in ("schema", "labels", "costs", "lead", "retire_after")}

    def truth(self) -> pl.DataFrame:
        """Known labels, `unique_id, ds, horizon, y, label_end, ret`, to score decisions with."""
        parts = []
        times = self.frame.get_column(TIME).to_numpy()
        for h in self.schema.horizons:
            names = label_columns(h)
            hold = self.frame.get_column(names["hold"]).fill_null(0).to_numpy()
            ends = times[np.minimum(np.arange(len(times)) + hold, len(times) - 1)]
            part = self.frame.select(ID, TIME, pl.col(names["y"]).alias(TARGET), pl.col(names["ret"]).alias("ret"))
            part = part.with_columns(
                pl.lit(h, dtype=pl.Int32).alias(HORIZON), pl.Series(LABEL_END, ends).cast(pl.Datetime("us"))
            )
            parts.append(part.filter(pl.col(TARGET).is_not_null()))
        return pl.concat(parts).select(ID, TIME, HORIZON, TARGET, LABEL_END, "ret").sort(ID, TIME, HORIZON)

    def _facts(self) -> dict[str, Any]:
        return {
            "type": "nightcast.contracts.bars:BarDataset",
            "schema": self.schema.model_dump(mode="json"),
            "columns": {name: column.model_dump(mode="json") for name, column in self.columns.items()},
            "sets": {name: list(its) for name, its in self.sets.items()},
            "as_of": self.as_of.isoformat(),
            "lead": self.lead,
            "labels": self.labels.model_dump(mode="json"),
            "costs": self.costs.model_dump(mode="json"),
            "retire_after": self.retire_after,
            "notes": [asdict(note) for note in self.notes],
        }

    def save(self, folder: Path) -> None:
        """Write the dataset as Parquet and JSON."""
        folder.mkdir(parents=True, exist_ok=True)
        self.frame.write_parquet(folder / "frame.parquet")
        (folder / "dataset.json").write_text(json.dumps(self._facts(), indent=1))

    @classmethod
    def load(cls, folder: Path) -> BarDataset:
        """Read what `save` wrote."""
        facts = json.loads((folder / "dataset.json").read_text())
        return cls(
            frame=pl.read_parquet(folder / "frame.parquet"),
            schema=BarsSchema.model_validate(facts["schema"]),
            columns={name: BarColumn.model_validate(column) for name, column in facts["columns"].items()},
            sets={name: tuple(its) for name, its in facts["sets"].items()},
            as_of=datetime.fromisoformat(facts["as_of"]),
            lead=facts["lead"],
            labels=LabelPlan.model_validate(facts["labels"]),
            costs=CostPlan.model_validate(facts["costs"]),
            retire_after=facts["retire_after"],
            notes=tuple(Note(**note) for note in facts["notes"]),
        )


def _stack(frame: pl.DataFrame, names: list[str], dtype: Any, missing: Any) -> NDArray[Any]:
    """Columns as a `[N, len(names)]` array, nulls filled."""
    columns = [frame.get_column(name).fill_null(missing).to_numpy().astype(dtype) for name in names]
    return np.column_stack(columns) if columns else np.empty((frame.height, 0), dtype=dtype)


def _stack_if_there(frame: pl.DataFrame, names: list[str], dtype: Any, missing: Any) -> NDArray[Any] | None:
    """As `_stack`; None where labels do not tell."""
    return _stack(frame, names, dtype, missing) if set(names) <= set(frame.columns) else None


BARS_RAW_COLUMNS = (ID, TIME, *BAR_COLUMNS, SERIES_ROLE)
"""Columns of raw bars beside `row_unparsable`."""
