"""A panel ready for models, and what of it is known at a cutoff."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import polars as pl

from nightcast.contracts.columns import CUTOFF, HORIZON, ID, TARGET, TIME
from nightcast.contracts.errors import ConfigError
from nightcast.contracts.fold import Fold
from nightcast.contracts.hashing import hash_frame, hash_json
from nightcast.contracts.schema import FeatureColumn, PanelSchema
from nightcast.contracts.source import Note


def _no_support() -> pl.DataFrame:
    return pl.DataFrame(schema={ID: pl.String, TIME: pl.Datetime("us"), HORIZON: pl.Int32})


@dataclass(frozen=True)
class PanelView:
    """What is known at one cutoff; the only thing a model ever sees.

    Attributes
    ----------
    history
        `unique_id, ds, y` and every input column, `ds <= cutoff`, sorted by series and time, on a regular grid:
        a missing month is a row with `y` null.
    future
        `unique_id, ds, horizon` and the plan columns, one row per active series and horizon 1..H. The series in
        `future` are the ones a forecast is wanted for.
    columns
        Input column -> role, scaling and origin.
    support
        `unique_id, ds` and the covariates of the support series (injectors, say), `ds <= cutoff`, on the same grid;
        no rows where there are none.
    support_future
        `unique_id, ds, horizon` and their plan covariates, one row per support series and horizon 1..H.
    """

    history: pl.DataFrame
    future: pl.DataFrame
    cutoff: datetime
    schema: PanelSchema
    columns: Mapping[str, FeatureColumn]
    support: pl.DataFrame = field(default_factory=_no_support)
    support_future: pl.DataFrame = field(default_factory=_no_support)

    def names(self, role: str, *, scaled: bool | None = None) -> tuple[str, ...]:
        """Input columns of one role, in order; `scaled` narrows them to those in (not in) the target's unit."""
        return tuple(
            name
            for name, column in self.columns.items()
            if column.role == role and (scaled is None or column.scaled == scaled)
        )

    @property
    def series(self) -> list[str]:
        """Series a forecast is wanted for, sorted."""
        return self.future.get_column(ID).unique().sort().to_list()


@dataclass(frozen=True)
class PanelDataset:
    """Accepted rows on a regular grid, with features; the input of the walk-forward.

    Attributes
    ----------
    frame
        `unique_id, ds, y` and the input columns. Each series runs from its first row to `retire_after + horizon`
        steps past its last one, at most to `as_of + horizon`; past `as_of` only plan columns hold values.
    plan
        Planned values of plan covariates (`unique_id, ds, ...`) where the user gave them; otherwise the last known
        value is carried on, in cross-validation as in the live forecast.
    retire_after
        A series without a row in the last `retire_after` steps before a cutoff is not forecast from it.
    notes
        Counted fills and drops of the preparation.
    support
        `unique_id, ds` and the covariates of series that are seen and never forecast, on the same grid.
    """

    frame: pl.DataFrame
    schema: PanelSchema
    columns: Mapping[str, FeatureColumn]
    as_of: datetime
    retire_after: int = 12
    plan: pl.DataFrame | None = None
    notes: tuple[Note, ...] = ()
    support: pl.DataFrame | None = None

    @cached_property
    def hash(self) -> str:
        """Content hash over values, schema and as-of date."""
        return hash_json(
            {
                "frame": hash_frame(self.frame),
                "support": None if self.support is None else hash_frame(self.support),
                "plan": None if self.plan is None else hash_frame(self.plan),
                "schema": self.schema.model_dump(mode="json"),
                "columns": {name: column.model_dump(mode="json") for name, column in self.columns.items()},
                "as_of": self.as_of.isoformat(),
                "retire_after": self.retire_after,
            }
        )

    @cached_property
    def _last_seen(self) -> pl.DataFrame:
        return self.frame.filter(pl.col(TARGET).is_not_null()).select(ID, TIME)

    def view(self, cutoff: datetime, *, start: datetime | None = None) -> PanelView:
        """What is known at `cutoff`, from `start` on.

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
        freq = self.schema.freq
        history = self.frame.filter(pl.col(TIME) <= cutoff)
        if start is not None:
            history = history.filter(pl.col(TIME) >= start)
        oldest = freq.shift(cutoff, -self.retire_after)
        active = self._last_seen.filter(pl.col(TIME).is_between(oldest, cutoff)).get_column(ID).unique()
        plan_features = [n for n, c in self.columns.items() if c.role == "plan" and c.block != "covariate"]
        planned = [n for n, c in self.columns.items() if c.role == "plan" and c.block == "covariate"]
        future = self._ahead(self.frame.filter(pl.col(ID).is_in(active.implode())), cutoff)
        future = self._planned(future.select(ID, TIME, HORIZON, *plan_features), history, planned)
        view = PanelView(history.sort(ID, TIME), future.sort(ID, TIME), cutoff, self.schema, self.columns)
        if self.support is None:
            return view
        support = self.support.filter(pl.col(TIME) <= cutoff)
        if start is not None:
            support = support.filter(pl.col(TIME) >= start)
        known = self.support.filter(pl.col(ID).is_in(support.get_column(ID).unique().implode()))
        ahead = self._planned(self._ahead(known, cutoff).select(ID, TIME, HORIZON), support, planned)
        return replace(view, support=support.sort(ID, TIME), support_future=ahead.sort(ID, TIME))

    def _ahead(self, frame: pl.DataFrame, cutoff: datetime) -> pl.DataFrame:
        """Rows of the horizon after a cutoff, numbered."""
        freq = self.schema.freq
        return (
            frame.filter((pl.col(TIME) > cutoff) & (pl.col(TIME) <= freq.shift(cutoff, self.schema.horizon)))
            .with_columns(pl.lit(cutoff).cast(pl.Datetime("us")).alias(CUTOFF))
            .with_columns(freq.steps_between_expr(CUTOFF, TIME).cast(pl.Int32).alias(HORIZON))
        )

    def _planned(self, future: pl.DataFrame, history: pl.DataFrame, columns: Sequence[str]) -> pl.DataFrame:
        """Add plan covariates: as planned where there is a plan, else the last known value carried on."""
        if not columns:
            return future
        carried = history.group_by(ID).agg(pl.col(name).drop_nulls().last() for name in columns)
        if self.plan is None:
            return future.join(carried, on=ID, how="left")
        given = self.plan.select(ID, TIME, *(pl.col(name).alias(f"_plan_{name}") for name in columns))
        future = future.join(given, on=[ID, TIME], how="left").join(carried, on=ID, how="left")
        return future.with_columns(pl.coalesce(f"_plan_{name}", name).alias(name) for name in columns).drop(
            f"_plan_{name}" for name in columns
        )

    def training(self, fold: Fold) -> PanelView:
        """What a model is fitted on in one fold."""
        return self.view(fold.train_end, start=fold.train_start)

    def tests(self, fold: Fold) -> Iterator[PanelView]:
        """What the fitted model forecasts from, one view a cutoff; a rolling window slides along."""
        for cutoff in fold.cutoffs:
            start = None
            if fold.train_start is not None:
                width = self.schema.freq.steps_between(fold.train_start, fold.train_end)
                start = self.schema.freq.shift(cutoff, -width)
            yield self.view(cutoff, start=start)

    def request_facts(self) -> dict[str, Any]:
        """Schema and retirement, as JSON values."""
        return {"schema": self.schema.model_dump(mode="json"), "retire_after": self.retire_after}

    def truth(self) -> pl.DataFrame:
        """The known target, `unique_id, ds, y`, to score forecasts with."""
        return self.frame.filter(pl.col(TARGET).is_not_null()).select(ID, TIME, TARGET)

    def save(self, folder: Path) -> None:
        """Write the dataset as Parquet and JSON."""
        folder.mkdir(parents=True, exist_ok=True)
        self.frame.write_parquet(folder / "frame.parquet")
        if self.plan is not None:
            self.plan.write_parquet(folder / "plan.parquet")
        if self.support is not None:
            self.support.write_parquet(folder / "support.parquet")
        facts: dict[str, Any] = {
            "type": "nightcast.contracts.panel:PanelDataset",
            "schema": self.schema.model_dump(mode="json"),
            "columns": {name: column.model_dump(mode="json") for name, column in self.columns.items()},
            "as_of": self.as_of.isoformat(),
            "retire_after": self.retire_after,
            "notes": [asdict(note) for note in self.notes],
        }
        (folder / "dataset.json").write_text(json.dumps(facts, indent=1))

    @classmethod
    def load(cls, folder: Path) -> PanelDataset:
        """Read what `save` wrote."""
        facts = json.loads((folder / "dataset.json").read_text())
        plan, support = folder / "plan.parquet", folder / "support.parquet"
        return cls(
            frame=pl.read_parquet(folder / "frame.parquet"),
            schema=PanelSchema.model_validate(facts["schema"]),
            columns={name: FeatureColumn.model_validate(column) for name, column in facts["columns"].items()},
            as_of=datetime.fromisoformat(facts["as_of"]),
            retire_after=facts["retire_after"],
            plan=pl.read_parquet(plan) if plan.exists() else None,
            support=pl.read_parquet(support) if support.exists() else None,
            notes=tuple(Note(**note) for note in facts["notes"]),
        )
