"""The workload file: a user's panel described in a few lines of YAML."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator

from nightcast.contracts import columns as names
from nightcast.contracts.columns import Role
from nightcast.contracts.errors import ConfigError
from nightcast.contracts.recipe import CombinerPlan, FoldPlan, GatePlan
from nightcast.contracts.schema import FrequencyField, PanelSchema

_Plan = TypeVar("_Plan", bound=BaseModel)

SourceKind = Literal["files", "volve", "norne", "field_generator"]

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
    plan: str | None = Field(None, description="File with planned values of the plan covariates.")
    options: FileOptions = Field(default_factory=FileOptions, description="How text files are written.")
    params: dict[str, Any] = Field(default_factory=dict, description="Parameters of the field generator.")


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


class Columns(_Frozen):
    """Which columns are the series id, the time, the target and the covariates."""

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

    @field_validator("covariates")
    @classmethod
    def _free_names(cls, value: dict[str, CovariateChoice]) -> dict[str, CovariateChoice]:
        for name in value:
            if name in _RESERVED or name.startswith("_"):
                raise ValueError(f"another name than {name!r}, which Nightcast uses itself")
        return value


class GateChoice(_Frozen):
    """When bad data stop a run."""

    budget: float = Field(0.2, ge=0, le=1, description="Largest share of series in quarantine.")
    raw: dict[str, int | float] = Field(default_factory=dict, description="Thresholds of the raw gate to override.")


def _expand_features(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return {name: {} for name in value}
    if isinstance(value, Mapping):
        return {name: {} if params is None else params for name, params in value.items()}
    return value


class WorkloadFile(_Frozen):
    """A workload file: what to read, what to forecast, how far.

    `name`, `source`, `freq` and `horizon` have no default; `columns` has the names `unique_id`, `ds` and `y`.
    """

    name: str = Field(pattern=r"^[a-z][a-z0-9_-]{0,62}$", description="Lower-case name; names the registered model.")
    title: str = Field("", description="Name for people.")
    kind: Literal["panel", "bars"] = Field("panel", description="Family of workload.")
    source: SourceChoice = Field(description="Where the rows come from.")
    columns: Columns = Field(default_factory=Columns, description="Which column is what.")
    freq: FrequencyField = Field(description="Step between two rows of a series: MS, W-MON, D, h, 30min, ...")
    horizon: int = Field(ge=1, le=1000, description="Steps to forecast.")
    unit: str = Field("", description="Unit of the target, for axes and tables.")
    lower: float | None = Field(None, description="Physical lower bound of the target; 0 for a rate.")
    retire_after: int = Field(12, ge=1, description="A series silent for this many steps is owed no forecast.")
    gates: GateChoice = Field(default_factory=GateChoice, description="When bad data stop a run.")
    features: Annotated[dict[str, dict[str, Any]] | None, BeforeValidator(_expand_features)] = Field(
        None, description="Feature blocks: names, or name -> parameters; by default the family's own."
    )
    models: tuple[str, ...] | None = Field(
        None, min_length=1, description="Catalog names of the candidate models; by default those of the preset."
    )
    folds: dict[str, Any] = Field(default_factory=dict, description="Overrides of the walk-forward's layout.")
    recipe: dict[str, Any] = Field(default_factory=dict, description="Overrides of `combiner`, `gate` and `seed`.")

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

    def require_panel(self) -> None:
        """Raise if the file describes another family than panels.

        Raises
        ------
        ConfigError
            If `kind` is not `panel`.
        """
        if self.kind != "panel":
            raise ConfigError(
                f"workload {self.name!r} is of kind {self.kind!r}",
                expected="kind: panel; only panels can be run by this version",
                remedy="describe the data as a panel (columns id, time and target) or use a version that runs bars",
            )


def _checked(model: type[_Plan], value: Any) -> _Plan:
    try:
        return model.model_validate(value)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ValueError(f"{where}: {first['msg'].lower()}, not {first['input']!r}") from None


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
    inner: dict[str, type[BaseModel]] = {
        "source": SourceChoice,
        "options": FileOptions,
        "columns": Columns,
        "gates": GateChoice,
    }
    model: type[BaseModel] = WorkloadFile
    for part in location:
        inside = CovariateChoice if model is Columns and part != "covariates" else model
        model = inner.get(str(part), inside)
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
