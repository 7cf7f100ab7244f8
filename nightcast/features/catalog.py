"""The catalog of feature blocks, and the one function that runs a recipe's choice of them.

To add a block: one pure function `(frame, schema, **params) -> frame` that adds columns named with its prefix, and one
line in `FEATURES`. The shared tests ask every line the same questions.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

import polars as pl

from nightcast.contracts.columns import ID, TARGET, TIME, UPTIME, Role
from nightcast.contracts.errors import ConfigError
from nightcast.contracts.recipe import FeatureChoice
from nightcast.contracts.schema import FeatureColumn, PanelSchema
from nightcast.contracts.source import Note
from nightcast.features import calendar, connectivity, history, injection, production

Build = Callable[..., pl.DataFrame]


def _nothing(frame: pl.DataFrame, schema: PanelSchema) -> tuple[Note, ...]:
    return ()


@dataclass(frozen=True)
class FeatureBlock:
    """One row of the catalog.

    Attributes
    ----------
    build
        Adds the columns to a frame on its regular grid, sorted by series and time.
    role
        `past`: a row's values depend on rows at or before its time. `plan`: on its time label and plan columns alone.
        `static`: one value a series.
    scaled
        Whether the columns are in the target's unit.
    scaled_except
        Columns of which the opposite is true.
    prefix
        What the columns' names start with.
    also
        Columns whose names are the field's own and start otherwise.
    cedes
        Column -> the block that makes it in this one's stead where a recipe has both, and the name it has then.
    after
        Whether it may read other blocks' columns, and so runs after them.
    needs
        Columns without which the block is skipped, with a note.
    remarks
        Notes on how the block read this frame.
    """

    name: str
    build: Build
    role: Role
    scaled: bool
    summary: str
    prefix: str
    needs: tuple[str, ...] = ()
    scaled_except: frozenset[str] = field(default_factory=frozenset)
    also: frozenset[str] = field(default_factory=frozenset)
    cedes: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    after: bool = False
    remarks: Callable[[pl.DataFrame, PanelSchema], tuple[Note, ...]] = _nothing

    def is_scaled(self, column: str) -> bool:
        """Whether one of its columns is in the target's unit."""
        return self.scaled != (column in self.scaled_except)


def _catalog(*blocks: FeatureBlock) -> dict[str, FeatureBlock]:
    return {block.name: block for block in blocks}


FEATURES: Final[Mapping[str, FeatureBlock]] = _catalog(
    FeatureBlock("lags", history.lags, "past", True, "the target now and some steps back", "lag_"),
    FeatureBlock("rolling", history.rolling, "past", True, "mean, std, min, max, median over the last steps", "roll_"),
    FeatureBlock(
        "trend", history.trend, "past", False, "decline: slopes of the log target, ratios of its means", "trend_"
    ),
    FeatureBlock("calendar", calendar.calendar, "plan", False, "month, quarter, weekday, days in the period", "cal_"),
    FeatureBlock("fourier", calendar.fourier, "plan", False, "sine and cosine pairs of the season", "fourier_"),
    FeatureBlock(
        "status",
        history.status,
        "past",
        False,
        "producing or shut, since when, and the last producing rate",
        "status_",
        scaled_except=frozenset({"status_last_rate"}),
    ),
    FeatureBlock(
        "injection",
        injection.injection,
        "past",
        True,
        "injection a producer feels: weighted by distance, delayed by diffusion",
        "inj_",
        needs=(injection.INJECTION,),
        scaled_except=frozenset({"inj_to_rate"}),
        cedes={injection.SUPPORT: ("crm_support", injection.BY_DISTANCE)},
        remarks=injection.remarks,
    ),
    FeatureBlock(
        "crm_support",
        connectivity.crm_support,
        "past",
        False,
        "injected water that reaches a producer, by a capacitance-resistance fit on earlier years",
        "crm_",
        needs=(injection.INJECTION,),
        scaled_except=frozenset({injection.SUPPORT}),
        also=frozenset({injection.SUPPORT}),
        remarks=connectivity.remarks,
    ),
    FeatureBlock(
        "pressure",
        history.pressure,
        "past",
        False,
        "bottom-hole pressure: changes, distance to its extremes, lagged specific rate",
        "press_",
        needs=(history.PRESSURE,),
        scaled_except=frozenset({"press_rate_per_bar_lag_1"}),
    ),
    FeatureBlock(
        "water_cut",
        production.water_cut,
        "past",
        False,
        "water cut from the oil rate, its changes, the water-oil ratio",
        "wct_",
        needs=(production.OIL,),
    ),
    FeatureBlock(
        "cumulative", production.cumulative, "past", False, "cumulative volume over rate, over peak, of late", "cum_"
    ),
    FeatureBlock(
        "productivity",
        production.productivity,
        "past",
        True,
        "lagged productivity index, its mean and trend",
        "pi_",
        needs=(history.PRESSURE,),
        scaled_except=frozenset({"pi_trend"}),
    ),
    FeatureBlock(
        "workovers",
        production.workovers,
        "past",
        False,
        "steps since a likely workover, and what it gained",
        "work_",
        needs=(UPTIME,),
    ),
    FeatureBlock("decline", production.decline, "past", True, "exponential decline carried on from here", "dca_"),
    FeatureBlock(
        "embedding",
        production.embedding,
        "past",
        False,
        "principal components of the shape of the last year: target, pressure, injection",
        "emb_",
        after=True,
    ),
    FeatureBlock("age", calendar.age, "plan", False, "steps since the series began", "age_"),
)
"""All feature blocks, by the name a recipe uses."""


def build_features(
    frame: pl.DataFrame, schema: PanelSchema, choices: Sequence[FeatureChoice], *, as_of: datetime | None = None
) -> tuple[pl.DataFrame, dict[str, FeatureColumn], tuple[Note, ...]]:
    """Run a recipe's feature blocks.

    Parameters
    ----------
    frame
        What `regular_grid` returns: target and support series; support rows stay in (`apart` takes them out).
    choices
        Blocks and parameters. All see the frame as given; those that come `after` also the others' columns.
    as_of
        Last known time; past columns of later rows are emptied (None: they carry on with what was known).

    Returns
    -------
    tuple
        The frame, sorted, with the new columns (Float64); new column -> role, scaling, block; notes.

    Raises
    ------
    ConfigError
        If a block or parameter is unknown, or two choices make the same column.
    """
    frame = _checked(frame, schema)
    notes: list[Note] = []
    asked: list[tuple[FeatureChoice, FeatureBlock]] = []
    for choice in choices:
        block = _block(choice)
        missing = [name for name in block.needs if name not in frame.columns]
        if missing:
            detail = f"Feature block {block.name!r} was skipped: the data have no column {', '.join(missing)}."
            notes.append(Note("feature_block_skipped", 0, detail))
        else:
            asked.append((choice, block))
    there = {block.name for _, block in asked}
    built: dict[int, list[pl.Series]] = {}
    columns: dict[str, FeatureColumn] = {}
    seen = frame
    for place in sorted(range(len(asked)), key=lambda place: asked[place][1].after):
        choice, block = asked[place]
        given = seen if block.after else frame
        own = block.build(given, schema, **choice.params)
        built[place] = []
        for name in own.columns[given.width :]:
            to, other = block.cedes.get(name, ("", name))
            called = other if to in there else name
            if called in columns:
                raise ConfigError(
                    f"the feature column {called!r} is made twice (block {block.name!r})",
                    expected="each column once",
                    remedy="join the two choices into one, or give them parameters that do not overlap",
                )
            columns[called] = FeatureColumn(role=block.role, scaled=block.is_scaled(name), block=block.name)
            built[place].append(own.get_column(name).cast(pl.Float64).alias(called))
        if not block.after:
            seen = seen.with_columns(built[place])
    for _, block in asked:
        notes += block.remarks(frame, schema)
    made = [column for place in range(len(asked)) for column in built[place]]  # in the order of the choices
    frame = frame.with_columns(made)
    columns = {column.name: columns[column.name] for column in made}
    if as_of is not None:
        past = [name for name, column in columns.items() if column.role == "past"]
        frame = frame.with_columns(pl.when(pl.col(TIME) <= as_of).then(pl.col(name)).alias(name) for name in past)
    return frame, columns, tuple(notes)


def covariate_columns(schema: PanelSchema) -> dict[str, FeatureColumn]:
    """The declared covariates as input columns, beside those that `build_features` makes."""
    return {name: FeatureColumn(role=role) for name, role in schema.covariates.items()}


def _block(choice: FeatureChoice) -> FeatureBlock:
    block = FEATURES.get(choice.name)
    if block is None:
        raise ConfigError(
            f"unknown feature block {choice.name!r}",
            expected=f"one of {', '.join(FEATURES)}",
            remedy="correct `features` in the workload file or recipe; docs/features.md explains each",
        )
    known = list(inspect.signature(block.build).parameters)[2:]
    unknown = sorted(set(choice.params) - set(known))
    if unknown:
        raise ConfigError(
            f"feature block {choice.name!r} has no parameter {unknown[0]!r}",
            expected=f"some of {', '.join(known)}" if known else "no parameters",
            remedy="correct `features` in the workload file or recipe; docs/features.md lists the parameters",
        )
    return block


def _checked(frame: pl.DataFrame, schema: PanelSchema) -> pl.DataFrame:
    missing = [name for name in (ID, TIME, TARGET) if name not in frame.columns]
    if missing:
        raise ConfigError(
            f"the frame for features lacks {missing}",
            expected=f"{ID}, {TIME} and {TARGET}",
            remedy="build features on what `regular_grid` returns",
        )
    taken = [name for name in frame.columns if any(name.startswith(block.prefix) for block in FEATURES.values())]
    if taken:
        raise ConfigError(
            f"the input column {taken[0]!r} has a name that feature blocks use",
            expected=f"names that do not start with {', '.join(block.prefix for block in FEATURES.values())}",
            remedy="rename the covariate in the source",
        )
    frame = frame.sort(ID, TIME)
    step = pl.col(TIME).shift(1).over(ID)
    off = frame.filter(schema.freq.shift_expr(TIME, 0) != step.dt.offset_by(schema.freq.every()))
    if off.height:
        raise ConfigError(
            f"series {off[ID][0]!r} is not {schema.freq.word} apart at {off[TIME][0]}",
            expected=f"one row for each step of {schema.freq.alias}",
            remedy="pass the rows through `regular_grid` first",
        )
    return frame
