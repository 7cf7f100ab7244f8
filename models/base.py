"""The forecaster's template: the base class asks, checks and stores; a family fills in `_fit` and `_predict`."""

from __future__ import annotations

import json
import random
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import polars as pl
from pydantic import BaseModel, ConfigDict, ValidationError

from nightcast.contracts.catalog import Capabilities
from nightcast.contracts.columns import CUTOFF, HORIZON, ID, QUANTILES, TARGET, TIME
from nightcast.contracts.errors import ConfigError, NightcastError, RegistryError, TrainingError
from nightcast.contracts.panel import PanelView
from nightcast.contracts.prediction import Quantiles
from nightcast.contracts.source import Note

BUNDLE_VERSION = 1
"""Layout of `model.json`; raised when an older reader would misread a newer bundle."""

MODEL_FILE = "model.json"


class Hyperparameters(BaseModel):
    """Hyperparameters of a family: every name typed, an unknown one refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


@dataclass(frozen=True)
class Answer:
    """What a family's `_predict` hands back.

    Attributes
    ----------
    frame
        `unique_id, horizon, q10 .. q90` in the target's unit, one row per forecast series and asked horizon.
    left_out
        Series the model cannot serve -> the reason, in words.
    notes
        Counted treatments of the input (fills).
    """

    frame: pl.DataFrame
    left_out: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[Note, ...] = ()


@dataclass(frozen=True)
class Forecast:
    """A checked prediction, the series it leaves out with the reason, and what was filled or clipped on the way."""

    prediction: Quantiles
    left_out: Mapping[str, str]
    notes: tuple[Note, ...]


class Forecaster(ABC):
    """A panel forecaster: `fit` once, then `predict` from any later view.

    A family subclasses this, names its hyperparameters in `Params`, its `capabilities`, and fills in `_fit`,
    `_predict`, `_write` and `_read`; `models/families/_template.py` is the file to copy. Fitting sets the seeds and
    holds linear algebra to one thread; predicting reads the fitted model and changes nothing in it.

    Parameters
    ----------
    params
        Hyperparameters by name.

    Raises
    ------
    ConfigError
        If a hyperparameter is unknown or its value does not fit.
    """

    Params: ClassVar[type[Hyperparameters]] = Hyperparameters
    capabilities: ClassVar[Capabilities] = Capabilities()

    params: Hyperparameters
    horizon: int
    freq: str
    seed: int
    seen: tuple[str, ...]
    """Series with known rows in training; kept only by models without cold start."""

    def __init__(self, **params: Any) -> None:
        self.params = read_params(type(self).__name__, self.Params, params)

    # -- what callers use ----------------------------------------------------------------------------------------

    def fit(self, view: PanelView, *, seed: int) -> Self:
        """Learn from everything in a view's history.

        Raises
        ------
        TrainingError
            If the view holds nothing to learn from, or breaks the contract of panels (order, duplicates, grid).
        """
        check_view(view)
        if view.history.get_column(TARGET).count() == 0:
            raise TrainingError(
                f"{type(self).__name__} got {view.history.height} rows without one known {TARGET!r}",
                expected="at least one known value at or before the cutoff",
                remedy="choose a later cutoff, or look at what the raw gate masked",
            )
        self.horizon, self.freq, self.seed = view.schema.horizon, view.schema.freq.alias, seed
        self.seen = ()
        if not self.capabilities.cold_start:
            known = view.history.filter(pl.col(TARGET).is_not_null()).get_column(ID)
            self.seen = tuple(known.unique().sort().to_list())
        with quiet_randomness(seed):
            self._fit(view, seed=seed)
        return self

    def predict(self, view: PanelView) -> Quantiles:
        """Forecast the series in `view.future`, less those of `left_out`; a pure function of model and view."""
        return self.forecast(view).prediction

    def left_out(self, view: PanelView) -> dict[str, str]:
        """Series of `view.future` that `predict` leaves out -> the reason, in words."""
        return dict(self.forecast(view).left_out)

    def forecast(self, view: PanelView) -> Forecast:
        """`predict` and `left_out` in one pass, with the counted treatments.

        Raises
        ------
        ConfigError
            If the model is not fitted, or was fitted for another horizon or frequency.
        TrainingError
            If the family's answer is not exactly the asked horizons of each forecast series.
        """
        self._check_fits(view)
        check_view(view)
        left_out = self._out_of_reach(view)
        wanted = view.future.filter(~pl.col(ID).is_in(list(left_out)))
        answer = Answer(_no_rows())
        if wanted.height:
            with quiet_randomness(self.seed):
                answer = self._predict(replace(view, future=wanted))
            left_out |= answer.left_out
            wanted = wanted.filter(~pl.col(ID).is_in(list(answer.left_out)))
        frame = self._complete(answer.frame, wanted, view)
        notes = answer.notes
        if (lower := view.schema.lower) is not None:
            clipped = frame.select(pl.any_horizontal(pl.col(name) < lower for name in QUANTILES).sum()).item()
            frame = frame.with_columns(pl.col(name).clip(lower_bound=lower) for name in QUANTILES)
            if clipped:
                notes += (Note("clipped_at_lower", int(clipped), f"forecast rows raised to the bound {lower:g}"),)
        return Forecast(Quantiles.of(frame), dict(sorted(left_out.items())), notes)

    def evidence(self, view: PanelView) -> Mapping[str, pl.DataFrame]:
        """What the fitted model can tell of what it found, as tables for the report; nothing by default.

        `connectivity` holds `injector, producer, f, f_low, f_high, identifiable`, `attention` what
        `AttentionTSMixerx.attention` returns, `attention_check` what its knock-outs do.
        """
        return {}

    def save(self, folder: Path) -> None:
        """Write `model.json` and the family's own files; no pickle.

        Raises
        ------
        ConfigError
            If the model is not fitted.
        """
        self._check_fitted()
        folder.mkdir(parents=True, exist_ok=True)
        facts = {
            "target": f"{type(self).__module__}:{type(self).__qualname__}",
            "version": BUNDLE_VERSION,
            "params": self.params.model_dump(mode="json"),
            "horizon": self.horizon,
            "freq": self.freq,
            "seed": self.seed,
            "seen": list(self.seen),
            "state": self._write(folder),
        }
        (folder / MODEL_FILE).write_text(json.dumps(facts, indent=1, sort_keys=True, allow_nan=False))

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote; the training data are not needed.

        Raises
        ------
        RegistryError
            If the bundle is another class's, of another layout, or broken.
        """
        facts = read_facts(folder)
        target = f"{cls.__module__}:{cls.__qualname__}"
        if facts["target"] != target:
            raise RegistryError(
                f"the bundle {folder.name!r} holds {facts['target']!r}",
                expected=target,
                remedy="load it with `models.catalog.load_model`, which picks the class",
            )
        model = cls(**facts["params"])
        model.horizon, model.freq, model.seed = facts["horizon"], facts["freq"], facts["seed"]
        model.seen = tuple(facts["seen"])
        try:
            model._read(folder, facts["state"])
        except NightcastError:
            raise
        except (KeyError, TypeError, ValueError, OSError) as error:
            raise RegistryError(
                f"the bundle {folder.name!r} cannot be read ({type(error).__name__}: {error})",
                expected=f"the files that {target} writes",
                remedy="compare its sha256 with the manifest's, and register it again",
            ) from error
        return model

    # -- what a family fills in ----------------------------------------------------------------------------------

    @abstractmethod
    def _fit(self, view: PanelView, *, seed: int) -> None:
        """Learn; set the model's own attributes."""

    @abstractmethod
    def _predict(self, view: PanelView) -> Answer:
        """Forecast the series in `view.future`: all are within reach (`capabilities`), at least one is asked."""

    @abstractmethod
    def _write(self, folder: Path) -> dict[str, Any]:
        """Write own files, if any; return the rest of the state as JSON values."""

    @abstractmethod
    def _read(self, folder: Path, state: dict[str, Any]) -> None:
        """Set the attributes that `_fit` sets, from what `_write` wrote."""

    # -- the template's own steps --------------------------------------------------------------------------------

    def _check_fitted(self) -> None:
        if not hasattr(self, "horizon"):
            raise ConfigError(
                f"{type(self).__name__} is not fitted",
                expected="a fitted model",
                remedy="call `fit` first, or `load` a bundle",
            )

    def _check_fits(self, view: PanelView) -> None:
        self._check_fitted()
        asked = (view.schema.horizon, view.schema.freq.alias)
        if asked != (self.horizon, self.freq):
            raise ConfigError(
                f"{type(self).__name__} was fitted for horizon {self.horizon} at frequency {self.freq!r} "
                f"and is asked for horizon {asked[0]} at {asked[1]!r}",
                expected="the horizon and frequency of the fit",
                remedy="fit it again on the new schema",
            )

    def _out_of_reach(self, view: PanelView) -> dict[str, str]:
        """Series the capabilities rule out, with the reason."""
        known = view.history.group_by(ID).agg(pl.col(TARGET).count().alias("known"))
        asked = view.future.select(pl.col(ID).unique()).join(known, on=ID, how="left").fill_null(0)
        need = max(1, self.capabilities.min_history)
        out = {
            series: f"{count} known rows at the cutoff, {type(self).__name__} needs {need}"
            for series, count in asked.filter(pl.col("known") < need).iter_rows()
        }
        if not self.capabilities.cold_start:
            seen = set(self.seen)
            out |= {
                series: f"not seen in training, and {type(self).__name__} has no cold start"
                for series in asked.get_column(ID)
                if series not in seen and series not in out
            }
        return out

    def _complete(self, frame: pl.DataFrame, wanted: pl.DataFrame, view: PanelView) -> pl.DataFrame:
        """Add `ds` and `cutoff`, and hold the answer to what was asked."""
        keys = wanted.select(ID, TIME, pl.col(HORIZON).cast(pl.Int32))
        frame = frame.with_columns(pl.col(HORIZON).cast(pl.Int32))
        lacking = keys.join(frame, on=[ID, HORIZON], how="anti").sort(ID, HORIZON)
        extra = frame.join(keys, on=[ID, HORIZON], how="anti").sort(ID, HORIZON)
        for rows, what in ((lacking, "lacks"), (extra, "was not asked for")):
            if rows.height:
                raise TrainingError(
                    f"{type(self).__name__}'s answer {what} {rows.height} rows, first series {rows[ID][0]!r} "
                    f"horizon {rows[HORIZON][0]}",
                    expected="exactly the asked horizons of each series that is not left out",
                    remedy="report a series as left out with its reason instead of dropping or adding rows",
                )
        cutoff = pl.lit(view.cutoff).cast(pl.Datetime("us")).alias(CUTOFF)
        return frame.join(keys, on=[ID, HORIZON], how="inner").with_columns(cutoff)


def read_params(owner: str, kind: type[Hyperparameters], given: Mapping[str, Any]) -> Hyperparameters:
    """Check hyperparameters against their types.

    Raises
    ------
    ConfigError
        If one is unknown or does not fit; the message names it and those allowed.
    """
    allowed = sorted(kind.model_fields)
    if unknown := sorted(set(given) - set(allowed)):
        raise ConfigError(
            f"{owner} has no parameter {', '.join(map(repr, unknown))}",
            expected=f"among {', '.join(allowed) or 'no parameters at all'}",
            remedy="correct the name in the recipe or workload file",
        )
    try:
        return kind(**given)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"])) or ", ".join(sorted(given))
        raise ConfigError(
            f"{owner} cannot take {name}={first.get('input')!r}",
            expected=first["msg"].removeprefix("Value error, "),
            remedy="correct the value in the recipe or workload file",
        ) from error


FACTS = frozenset({"target", "version", "params", "horizon", "freq", "seed", "seen", "state"})
"""Fields of a forecaster's `model.json`."""


def read_target(folder: Path) -> str:
    """The class that a model's folder names, `module:Class`.

    Raises
    ------
    RegistryError
        If `model.json` is missing, is not JSON, or names no class.
    """
    return str(_read_json(folder, frozenset({"target"}))["target"])


def read_facts(
    folder: Path, *, fields: frozenset[str] | set[str] = FACTS, version: int = BUNDLE_VERSION
) -> dict[str, Any]:
    """The contents of a model's `model.json`.

    Raises
    ------
    RegistryError
        If the file is missing, is not JSON, lacks a field, or has another layout.
    """
    facts = _read_json(folder, fields)
    if facts["version"] != version:
        raise RegistryError(
            f"the bundle {folder.name!r} has layout {facts['version']!r}",
            expected=f"layout {version}",
            remedy="load it with the release that wrote it, or refit the model",
        )
    return facts


def _read_json(folder: Path, fields: frozenset[str] | set[str]) -> dict[str, Any]:
    try:
        facts = json.loads((folder / MODEL_FILE).read_text())
        missing = sorted(set(fields) - set(facts))
        if missing:
            raise ValueError(f"it lacks {', '.join(missing)}")
    except (OSError, ValueError, TypeError) as error:
        raise RegistryError(
            f"the bundle {folder.name!r} has no readable {MODEL_FILE} ({error})",
            expected="a folder that `Forecaster.save` wrote",
            remedy="fetch the bundle again and compare its sha256 with the manifest's",
        ) from error
    return dict(facts)


def check_view(view: PanelView) -> None:
    """Hold a view to the contract of panels, which libraries below would break without a word.

    Raises
    ------
    TrainingError
        If a row lies after the cutoff, keys repeat or are out of order, a month is skipped, an input column is
        missing, or a known target is not finite.
    """
    history, freq = view.history, view.schema.freq
    if missing := [name for name in (ID, TIME, TARGET, *view.columns) if name not in history.columns]:
        raise _broken(f"the history lacks the columns {missing}", "every declared input column")
    if missing := [n for n in (ID, TIME, HORIZON, *view.names("plan")) if n not in view.future.columns]:
        raise _broken(f"the future lacks the columns {missing}", "the keys, the horizon and every plan column")
    late = history.filter(pl.col(TIME) > view.cutoff)
    if late.height:
        raise _broken(f"series {late[ID][0]!r} has a row at {late[TIME][0]}, after the cutoff", "rows known at it")
    same = pl.col(ID) == pl.col(ID).shift()
    step = freq.steps_between_expr("_before", TIME)
    ragged = (
        history.lazy()
        .select(ID, TIME)
        .with_columns(_before=pl.col(TIME).shift(), _same=same)
        .with_columns(_step=step)
        .filter((pl.col("_same") & (pl.col("_step") != 1)) | (~pl.col("_same") & (pl.col(ID) < pl.col(ID).shift())))
        .head(1)
        .collect()
    )
    if ragged.height:
        raise _broken(
            f"series {ragged[ID][0]!r} steps from {ragged['_before'][0]} to {ragged[TIME][0]}",
            f"rows sorted by series and time, {freq.word} apart, a missing value as null",
        )
    wild = history.filter(pl.col(TARGET).is_not_null() & ~pl.col(TARGET).is_finite())
    if wild.height:
        raise _broken(f"series {wild[ID][0]!r} holds {wild[TARGET][0]} at {wild[TIME][0]}", "finite numbers or null")


def _broken(what: str, expected: str) -> TrainingError:
    return TrainingError(what, expected=expected, remedy="build the view with `PanelDataset.view`")


def _no_rows() -> pl.DataFrame:
    return pl.DataFrame(
        schema={ID: pl.String, HORIZON: pl.Int32, **dict.fromkeys(QUANTILES, pl.Float64)},
    )


@contextmanager
def quiet_randomness(seed: int) -> Iterator[None]:
    """Seed the global generators that libraries draw from, hold native threads to one, and give both back."""
    from threadpoolctl import threadpool_limits

    python, numpy = random.getstate(), np.random.get_state()
    random.seed(seed)
    np.random.seed(seed % 2**32)
    try:
        with threadpool_limits(1):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
