"""The workload file: a user's panel or bars described in a few lines of YAML."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeVar, cast

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    PlainValidator,
    ValidationError,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    field_validator,
)
from pydantic_core import PydanticKnownError

from nightcast.contracts import columns as names
from nightcast.contracts.columns import Role
from nightcast.contracts.errors import ConfigError
from nightcast.contracts.frequency import Frequency
from nightcast.contracts.recipe import CombinerPlan, FoldPlan, GatePlan
from nightcast.contracts.schema import ALL_SYMBOLS, BarsSchema, Calendar, CostPlan, LabelPlan, PanelSchema

_Plan = TypeVar("_Plan", bound=BaseModel)

SourceKind = Literal["files", "volve", "norne", "field_generator", "market_generator"]
Kind = Literal["panel", "bars"]

SOURCE_KINDS: Final[dict[Kind, tuple[SourceKind, ...]]] = {
    "panel": ("files", "volve", "norne", "field_generator"),
    "bars": ("files", "market_generator"),
}
"""Which sources yield rows of which kind."""
AUTO: Final = "auto"
"""In a workload file of bars: found out from the data."""
DEFAULT_SCALE: Final = "default"
"""Key of `bars.price_scale` for the symbols that no other key matches."""
_MAX_HORIZON: Final = 1000

_RESERVED: Final = frozenset(
    {
        names.ID,
        names.TIME,
        names.TARGET,
        names.CUTOFF,
        names.HORIZON,
        names.MODEL,
        names.SERIES_ROLE,
        names.ROW_UNPARSABLE,
        names.MODEL_USED,
        names.FALLBACK_REASON,
        names.NIGHT_ID,
        *names.QUANTILES,
    }
)


_TAKEN: Final = frozenset({"ensemble", "champion", "simple_ensemble"})


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class FileOptions(_Frozen):
    """How text files are written; Parquet needs none of it, except where a column holds text."""

    encoding: str = Field("utf-8", description="Text encoding, `windows-1252` for old spreadsheets.")
    delimiter: str = Field(",", min_length=1, max_length=1, description="Character between two fields.")
    thousands: str | None = Field(None, max_length=1, description="Character between thousands, if any.")
    decimal: str = Field(".", min_length=1, max_length=1, description="Decimal mark.")
    null_values: tuple[str, ...] = Field(
        ("NULL", "NA", "N/A", "NaN", "None"), description="Words that mean missing, in any case; blanks always do."
    )
    date_format: str | None = Field(
        None, description="Format of the time column (`%d/%m/%Y`); by default ISO forms and `07-Apr-14` are understood."
    )

    @field_validator("encoding")
    @classmethod
    def _known_encoding(cls, value: str) -> str:
        import codecs

        try:
            codecs.lookup(value)
        except LookupError:
            raise ValueError("an encoding that Python knows, such as utf-8 or windows-1252") from None
        return value


class SourceChoice(_Frozen):
    """Where the rows come from."""

    kind: SourceKind = Field("files", description="`files`: Parquet or CSV; the others know one data set each.")
    path: str | None = Field(None, description="File, folder or glob, relative to the workload file.")
    plan: str | None = Field(
        None, description="File with planned values of the plan covariates; of a generated field, `known` or `noisy`."
    )
    options: FileOptions = Field(default_factory=FileOptions, description="How text files are written.")
    params: dict[str, Any] = Field(default_factory=dict, description="Parameters of the generator.")


class CovariateChoice(_Frozen):
    """One covariate: where its values stand and when they are known."""

    column: str = Field(description="Column name, or an SQL expression over columns of the same row.")
    role: Role = Field(description="`past`: known up to the cutoff; `plan`: known ahead; `static`: one value a series.")


def _expand_covariates(value: Any) -> Any:
    if not isinstance(value, Mapping):
        return value
    out: dict[Any, Any] = {}
    for name, choice in value.items():
        if isinstance(choice, str):
            choice = {"column": name, "role": choice}
        elif isinstance(choice, Mapping) and "column" not in choice:
            choice = {"column": name, **choice}
        out[name] = choice
    return out


class BarNames(_Frozen):
    """Columns of prices and volume; one that is not declared is looked for under its common names."""

    open: str = Field(names.OPEN, min_length=1, description="Column with the first price of the bar.")
    high: str = Field(names.HIGH, min_length=1, description="Column with the highest price.")
    low: str = Field(names.LOW, min_length=1, description="Column with the lowest price.")
    close: str = Field(names.CLOSE, min_length=1, description="Column with the last price.")
    volume: str = Field(names.VOLUME, min_length=1, description="Column with the volume, or the number of ticks.")


class Columns(_Frozen):
    """Which columns are the series id, the time, the target and the covariates; for bars, prices and volume."""

    id: str = Field(names.ID, min_length=1, description="Column with the series' name.")
    time: str = Field(names.TIME, min_length=1, description="Column with the start of the period.")
    target: str = Field(
        names.TARGET,
        min_length=1,
        description="Column to forecast, or an SQL expression over columns of the same row; `days_in_period` holds "
        "the calendar days of the row's period.",
    )
    covariates: Annotated[dict[str, CovariateChoice], BeforeValidator(_expand_covariates)] = Field(
        default_factory=dict, description="Name -> role, or name -> {column, role}."
    )
    bars: BarNames = Field(
        default_factory=BarNames, description="Columns `open, high, low, close, volume` of bars, where named otherwise."
    )

    @field_validator("covariates")
    @classmethod
    def _free_names(cls, value: dict[str, CovariateChoice]) -> dict[str, CovariateChoice]:
        for name in value:
            if name in _RESERVED or name.startswith("_"):
                raise ValueError(f"another name than {name!r}, which Nightcast uses itself")
        return value


def _expand_rolls(value: Any) -> Any:
    return {ALL_SYMBOLS: value} if isinstance(value, list | tuple) else value


def _naive_utc(time: datetime) -> datetime:
    return time if time.tzinfo is None else time.astimezone(UTC).replace(tzinfo=None)


class BarsChoice(_Frozen):
    """What only bars have: horizons, calendar, labels, costs."""

    horizons: tuple[int, ...] = Field((1, 5, 20), min_length=1, description="Bars a label may look ahead, rising.")
    calendar: Calendar | Literal["auto"] = Field(
        AUTO, description="`continuous`, `weekdays`, `business_days`, or `auto`: as the data have it."
    )
    max_gap: int = Field(3, ge=0, description="Missing bars in a row that still belong to one segment.")
    rolls: Annotated[dict[str, tuple[datetime, ...]], BeforeValidator(_expand_rolls)] = Field(
        default_factory=dict,
        description="Times in UTC at which a new contract takes over: a list for all symbols, or symbol -> list.",
    )
    labels: LabelPlan = Field(default_factory=LabelPlan, description="How triple-barrier labels are made.")
    costs: CostPlan = Field(default_factory=CostPlan, description="Costs of a unit of turnover, per side.")
    alarm_auc: float = Field(0.65, gt=0.5, le=1, description="Direction AUC above which a leak is suspected.")
    alarm_sharpe: float = Field(4.0, gt=0, description="Sharpe ratio after costs above which a leak is suspected.")
    price_scale: dict[str, float] = Field(
        default_factory=dict,
        description="Symbol, or pattern of symbols -> divisor of its prices; `default` for all others.",
    )
    time_zone: str = Field("", description="Zone of times that carry none, for the notes; times are taken as they are.")

    @field_validator("horizons")
    @classmethod
    def _rising(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if any(not 1 <= h <= _MAX_HORIZON for h in value) or list(value) != sorted(set(value)):
            raise ValueError(f"rising horizons from 1 to {_MAX_HORIZON} bars")
        return value

    @field_validator("rolls")
    @classmethod
    def _rolls_in_utc(cls, value: dict[str, tuple[datetime, ...]]) -> dict[str, tuple[datetime, ...]]:
        return {symbol: tuple(sorted({_naive_utc(time) for time in times})) for symbol, times in value.items()}

    @field_validator("price_scale")
    @classmethod
    def _divisors(cls, value: dict[str, float]) -> dict[str, float]:
        for pattern, divisor in value.items():
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"a symbol or a regular expression in place of {pattern!r} ({error})") from None
            if not 0 < divisor < float("inf"):
                raise ValueError(f"a positive divisor for {pattern!r}, not {divisor!r}")
        return value

    def divisor(self, symbol: str) -> float:
        """What a symbol's prices are divided by: its own entry, the first pattern that fits it whole, `default`, 1."""
        if symbol in self.price_scale:
            return self.price_scale[symbol]
        patterns = (key for key in self.price_scale if key != DEFAULT_SCALE)
        found = next((key for key in patterns if re.fullmatch(key, symbol)), DEFAULT_SCALE)
        return self.price_scale.get(found, 1.0)


class RollupChoice(_Frozen):
    """Sums over groups of series, over all of them, and over the horizon; for targets that are rates per day."""

    groups: str | None = Field(None, description="Static covariate that names each series' group (a pad, say).")
    method: Literal["bottom_up", "mint"] = Field(
        "bottom_up", description="`bottom_up`, or `mint`: reconciled with forecasts of the sums (needs an extra)."
    )
    draws: int = Field(1000, ge=100, le=100_000, description="Joint sample paths behind the quantiles of sums.")


class VoidageChoice(_Frozen):
    """Formation volume factors behind the page's voidage replacement: reservoir volume of a surface volume."""

    water_fvf: float = Field(1.0, gt=0, description="Of injected water, and of produced water where oil is told apart.")
    liquid_fvf: float = Field(1.0, gt=0, description="Of produced liquid, where oil is not told apart.")
    oil_fvf: float | None = Field(None, gt=0, description="Of oil; wants the covariate `wopr`, the oil rate.")


class GateChoice(_Frozen):
    """When bad data stop a run."""

    budget: float = Field(0.2, ge=0, le=1, description="Largest share of series in quarantine.")
    raw: dict[str, int | float] = Field(default_factory=dict, description="Thresholds of the raw gate to override.")
    samples_per_feature: float | None = Field(
        None,
        ge=0,
        description="Bars: decisions a column below which a model is not fitted; by default 10, with 0 all are.",
    )


def _step(value: Any) -> Frequency:
    return value if isinstance(value, Frequency) else Frequency.parse(str(value))


_Step = Annotated[
    Frequency,
    PlainValidator(_step),
    PlainSerializer(lambda freq: AUTO if freq is None else freq.alias, return_type=str),
]


def _expand_features(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return {name: {} for name in value}
    if isinstance(value, Mapping):
        return {name: {} if params is None else params for name, params in value.items()}
    return value


class MemberChoice(_Frozen):
    """One candidate model, under a label of its own."""

    name: str = Field(min_length=1, description="Catalog name of the model.")
    label: str = Field(
        "",
        pattern=r"^([A-Za-z0-9][A-Za-z0-9_.-]*)?$",
        description="Name in tables and in `recipe.combiner.weights`; by default the catalog's.",
    )
    seeds: int = Field(1, ge=1, le=32, description="Fits from different seeds, averaged and weighed as one member.")
    params: dict[str, Any] = Field(default_factory=dict, description="Hyperparameters that differ from the preset's.")

    @property
    def title(self) -> str:
        """The label, or the catalog's name."""
        return self.label or self.name


def _expand_models(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [{"name": line} if isinstance(line, str) else line for line in value]
    return value


class WorkloadFile(_Frozen):
    """A workload file: what to read, what to forecast, how far.

    `name` and `source` have no default. A panel also needs `freq` and `horizon`; its `columns` have the names
    `unique_id`, `ds` and `y`. Of bars the step may be left to the data (`freq` is then None: read `bars_freq`), columns
    are recognised by their common names, and `horizon` is the longest of `bars.horizons`.
    """

    name: str = Field(pattern=r"^[a-z][a-z0-9_-]{0,62}$", description="Lower-case name; names the registered model.")
    title: str = Field("", description="Name for people.")
    kind: Kind = Field("panel", description="Family of workload.")
    source: SourceChoice = Field(description="Where the rows come from.")
    columns: Columns = Field(default_factory=Columns, description="Which column is what.")
    bars: BarsChoice = Field(default_factory=BarsChoice, description="Horizons, calendar, labels and costs of bars.")
    freq: _Step = Field(
        cast(Frequency, None),
        validate_default=True,
        description="Step between two rows of a series: MS, W-MON, D, h, 30min, ...",
    )
    horizon: int = Field(
        cast(int, None), ge=1, le=_MAX_HORIZON, validate_default=True, description="Steps to forecast."
    )
    unit: str = Field("", description="Unit of the target, for axes and tables.")
    lower: float | None = Field(None, description="Physical lower bound of the target; 0 for a rate.")
    retire_after: int = Field(12, ge=1, description="A series silent for this many steps is owed no forecast.")
    gates: GateChoice = Field(default_factory=GateChoice, description="When bad data stop a run.")
    features: Annotated[dict[str, dict[str, Any]] | None, BeforeValidator(_expand_features)] = Field(
        None, description="Feature blocks: names, or name -> parameters; by default the family's own."
    )
    models: Annotated[tuple[MemberChoice, ...] | None, BeforeValidator(_expand_models)] = Field(
        None,
        min_length=1,
        description="Candidate models: catalog names, or {name, label, seeds, params}; by default those of the preset.",
    )
    rollup: RollupChoice | None = Field(None, description="Sums that are published beside the rows; by default none.")
    voidage: VoidageChoice = Field(VoidageChoice(), description="Formation volume factors for the page.")
    folds: dict[str, Any] = Field(default_factory=dict, description="Overrides of the walk-forward's layout.")
    recipe: dict[str, Any] = Field(default_factory=dict, description="Overrides of `combiner`, `gate` and `seed`.")

    @field_validator("source")
    @classmethod
    def _source_of_its_kind(cls, value: SourceChoice, info: ValidationInfo) -> SourceChoice:
        kind: Kind | None = info.data.get("kind")
        if kind is not None and value.kind not in SOURCE_KINDS[kind]:
            raise ValueError(f"one of {', '.join(SOURCE_KINDS[kind])} as source.kind of {kind}")
        if kind == "bars" and value.plan is not None:
            raise ValueError("no source.plan: nothing of bars is known ahead")
        return value

    @field_validator("columns")
    @classmethod
    def _columns_of_its_kind(cls, value: Columns, info: ValidationInfo) -> Columns:
        kind = info.data.get("kind")
        wrong = {"bars": ("target", "covariates"), "panel": ("bars",)}.get(str(kind), ())
        for key in wrong:
            if key in value.model_fields_set:
                meant = "columns.bars names prices and volume" if kind == "bars" else "set kind: bars for OHLCV"
                raise ValueError(f"no columns.{key} in a file of kind {kind}; {meant}")
        return value

    @field_validator("bars")
    @classmethod
    def _bars_of_bars(cls, value: BarsChoice, info: ValidationInfo) -> BarsChoice:
        if info.data.get("kind") == "panel":
            raise ValueError("no `bars` in a file of kind panel; set kind: bars for OHLCV")
        return value

    @field_validator("lower")
    @classmethod
    def _no_bound_of_bars(cls, value: float | None, info: ValidationInfo) -> float | None:
        if value is not None and info.data.get("kind") == "bars":
            raise ValueError("no lower bound: bars are forecast as classes")
        return value

    @field_validator("freq", mode="wrap")
    @classmethod
    def _step_of_its_kind(cls, value: Any, handler: ValidatorFunctionWrapHandler, info: ValidationInfo) -> Any:
        bars = info.data.get("kind") == "bars"
        if bars and value in (None, AUTO):
            return None
        if value is None:
            raise PydanticKnownError("missing")
        freq = handler(value)
        if bars and freq.unit in ("MS", "QS", "YS"):
            raise ValueError("a step of fixed length (W-MON, D, h, 30min, ...) for bars")
        return freq

    @field_validator("horizon", mode="wrap")
    @classmethod
    def _horizon_of_its_kind(cls, value: Any, handler: ValidatorFunctionWrapHandler, info: ValidationInfo) -> Any:
        if info.data.get("kind") == "bars":
            if value is not None:
                raise ValueError("no `horizon` in a file of kind bars; list the horizons under bars.horizons")
            bars = info.data.get("bars")
            return max(bars.horizons) if bars is not None else 1
        if value is None:
            raise PydanticKnownError("missing")
        return handler(value)

    @field_validator("models")
    @classmethod
    def _labels_of_their_own(cls, value: tuple[MemberChoice, ...] | None) -> tuple[MemberChoice, ...] | None:
        labels = [line.title for line in value or ()]
        twice = next((label for label in labels if labels.count(label) > 1), None)
        if twice is not None:
            raise ValueError(f"a label of its own for each model; {twice!r} stands twice, so add `label: ...` to one")
        if taken := sorted(_TAKEN & set(labels)):
            raise ValueError(f"another label than {taken[0]!r}, which the combination itself goes by")
        return value

    @field_validator("folds")
    @classmethod
    def _valid_folds(cls, value: dict[str, Any]) -> dict[str, Any]:
        checked = _checked(FoldPlan, value).model_dump()
        return {key: checked[key] for key in value}

    @field_validator("recipe")
    @classmethod
    def _valid_recipe(cls, value: dict[str, Any]) -> dict[str, Any]:
        for key, item in value.items():
            if key == "combiner":
                _checked(CombinerPlan, item)
            elif key == "gate":
                _checked(GatePlan, item)
            elif key == "seed":
                if not isinstance(item, int) or isinstance(item, bool):
                    raise ValueError(f"a whole number for seed, not {item!r}")
            else:
                raise ValueError(f"only combiner, gate and seed, not {key!r}")
        return value

    def panel_schema(self, covariates: Mapping[str, Role] | None = None) -> PanelSchema:
        """The panel's declared facts.

        Parameters
        ----------
        covariates
            Covariate -> role, where the source knows them better than the file.
        """
        if covariates is None:
            covariates = {name: choice.role for name, choice in self.columns.covariates.items()}
        return PanelSchema(
            freq=self.freq, horizon=self.horizon, unit=self.unit, covariates=dict(covariates), lower=self.lower
        )

    @property
    def bars_freq(self) -> Frequency | None:
        """The declared step of bars; None: the data's own."""
        return self.freq

    def bars_schema(self, freq: Frequency, calendar: Calendar) -> BarsSchema:
        """The bars' declared facts.

        Parameters
        ----------
        freq, calendar
            As declared, or as the source found them.
        """
        return BarsSchema(
            freq=freq,
            horizons=self.bars.horizons,
            calendar=calendar,
            max_gap=self.bars.max_gap,
            rolls=self.bars.rolls,
            unit=self.unit,
        )

    def require_panel(self) -> None:
        """Raise if the file describes another family than panels.

        Raises
        ------
        ConfigError
            If `kind` is not `panel`.
        """
        self._require("panel", "columns id, time and target, freq and horizon")

    def require_bars(self) -> None:
        """Raise if the file describes another family than bars.

        Raises
        ------
        ConfigError
            If `kind` is not `bars`.
        """
        self._require("bars", "columns id, time, open, high, low, close and volume, and bars.horizons")

    def _require(self, kind: Kind, needs: str) -> None:
        if self.kind != kind:
            raise ConfigError(
                f"workload {self.name!r} is of kind {self.kind!r}",
                expected=f"kind: {kind}",
                remedy=f"describe the data as {kind} ({needs}), or use a workload of that kind",
            )


def _checked(model: type[_Plan], value: Any) -> _Plan:
    try:
        return model.model_validate(value)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        wrong = first["msg"].lower().removeprefix("value error, ")
        raise ValueError(f"{where}: {wrong}, not {first['input']!r}") from None


def load_workload_file(path: Path) -> WorkloadFile:
    """Read and check a workload file.

    Raises
    ------
    ConfigError
        If the file is missing, is not YAML, or a key or value is wrong; the message names the file, the key, the
        value, what was expected and the remedy.
    """
    import yaml

    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(
            f"{path}: there is no such workload file",
            expected="a readable .yaml file",
            remedy=_near_files(path),
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{path}: the workload file cannot be read ({error})",
            expected="a readable .yaml file in UTF-8",
            remedy="check the path, its permissions and its encoding",
        ) from None
    try:
        value = yaml.load(text, Loader=_strict_loader())
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark is not None else ""
        raise ConfigError(
            f"{path}{where}: not valid YAML ({getattr(error, 'problem', None) or 'syntax error'})",
            expected="key: value lines",
            remedy="mend the line; indent with spaces and quote text that holds a colon",
        ) from None
    if not isinstance(value, dict):
        raise ConfigError(
            f"{path}: the file holds {type(value).__name__ if value is not None else 'nothing'}",
            expected="key: value lines with at least name, source, freq and horizon",
            remedy="start from one of the shipped workload files",
        )
    try:
        return WorkloadFile.model_validate(value)
    except ConfigError as error:  # the frequency names its own remedy
        raise ConfigError(f"{path}: {error.what}", expected=error.expected, remedy=error.remedy) from None
    except ValidationError as error:
        raise _config_error(path, error) from None


def _config_error(path: Path, error: ValidationError) -> ConfigError:
    """The first fault of a file, in one line."""
    # An unknown key comes first: it is often the misspelt form of one that is missing.
    faults = sorted(error.errors(), key=lambda fault: fault["type"] != "extra_forbidden")
    first = faults[0]
    key = ".".join(str(part) for part in first["loc"])
    more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
    if first["type"] == "missing":
        return ConfigError(
            f"{path}: the key {key!r} is missing{more}",
            expected=_description(first["loc"]) or "a value",
            remedy=f"add a line `{first['loc'][-1]}: ...`",
        )
    if first["type"] == "extra_forbidden":
        fields = sorted(_model_at(first["loc"][:-1]).model_fields)
        near = get_close_matches(str(first["loc"][-1]), fields, n=1)
        return ConfigError(
            f"{path}: unknown key {key!r} with the value {_short(first['input'])}{more}",
            expected=f"one of {', '.join(fields)}",
            remedy=f"did you mean {near[0]!r}?" if near else "correct or remove the line",
        )
    message = first["msg"].removeprefix("Value error, ")
    message = message[:1].lower() + message[1:]
    return ConfigError(
        f"{path}: {key}: {_short(first['input'])} is not right{more}",
        expected=message.removeprefix("input should be ").removeprefix("input should "),
        remedy=f"correct `{key}` ({_description(first['loc']).rstrip('.') or 'see the workload file reference'})",
    )


def _model_at(location: tuple[int | str, ...]) -> type[BaseModel]:
    """The model whose key a validation error's location names."""
    inner: dict[tuple[type[BaseModel], str], type[BaseModel]] = {
        (WorkloadFile, "source"): SourceChoice,
        (SourceChoice, "options"): FileOptions,
        (WorkloadFile, "columns"): Columns,
        (Columns, "bars"): BarNames,
        (WorkloadFile, "gates"): GateChoice,
        (WorkloadFile, "models"): MemberChoice,
        (WorkloadFile, "bars"): BarsChoice,
        (BarsChoice, "labels"): LabelPlan,
        (BarsChoice, "costs"): CostPlan,
    }
    model: type[BaseModel] = WorkloadFile
    for part in location:
        inside = CovariateChoice if model is Columns and part != "covariates" else model
        model = inner.get((model, str(part)), inside)
    return model


def _description(location: tuple[int | str, ...]) -> str:
    field = _model_at(location[:-1]).model_fields.get(str(location[-1])) if location else None
    return (field.description or "").rstrip(".") if field else ""


def _short(value: Any) -> str:
    text = repr(value).replace("\n", " ")
    return text if len(text) <= 60 else text[:57] + "..."


def _near_files(path: Path) -> str:
    folder = path.parent
    found = sorted(p.name for p in folder.glob("*.y*ml")) if folder.is_dir() else []
    near = get_close_matches(path.name, found, n=1)
    if near:
        return f"did you mean {folder / near[0]}?"
    return f"check the path; {folder} " + ("exists" if folder.is_dir() else "does not exist either")


def _strict_loader() -> Any:
    """PyYAML's safe loader, but a key that stands twice is an error and not the last one's victory."""
    import yaml

    class Loader(yaml.SafeLoader):
        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
            seen: set[Any] = set()
            for key_node, _ in node.value:
                key = self.construct_object(key_node, deep=True)
                if isinstance(key, str) and key in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"key {key!r} stands twice", key_node.start_mark
                    )
                if isinstance(key, str):
                    seen.add(key)
            return super().construct_mapping(node, deep)

    return Loader
