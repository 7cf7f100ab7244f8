"""Catalogs: literal tables of lazy model entries."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from typing import Any, Generic, Literal

from nightcast.contracts.errors import ConfigError
from nightcast.contracts.prediction import P
from nightcast.contracts.recipe import ModelChoice, Preset

Uses = Literal["past", "plan", "static"]


@dataclass(frozen=True)
class Capabilities:
    """What a family can do; asked by workloads and the contract suite, never by `isinstance`.

    Attributes
    ----------
    uses
        Covariate roles it makes use of.
    cold_start
        Forecasts series that it did not see in `fit`.
    min_history
        Known rows a series needs to get a forecast from it.
    baseline
        A member of the naive family: the yardstick, and the last link of the fallback chain.
    deterministic
        Same seed, same numbers on CPU.
    scaling
        How it wants its inputs scaled: `none`, `standard` or `robust`.
    sequence
        It reads windows of rows, not single rows.
    """

    uses: frozenset[Uses] = frozenset()
    cold_start: bool = True
    min_history: int = 1
    baseline: bool = False
    deterministic: bool = True
    scaling: Literal["none", "standard", "robust"] = "none"
    sequence: bool = False


@dataclass(frozen=True)
class Entry:
    """One row of a catalog.

    Attributes
    ----------
    target
        `module:Class`, imported only when the model is made.
    presets
        Hyperparameters per preset.
    cheap
        Parameters for tests: seconds at most.
    packages
        Import names of the optional packages it needs.
    """

    name: str
    family: str
    target: str
    summary: str
    capabilities: Capabilities = Capabilities()
    presets: Mapping[Preset, Mapping[str, Any]] = field(default_factory=dict)
    cheap: Mapping[str, Any] = field(default_factory=dict)
    packages: tuple[str, ...] = ()

    @property
    def needs(self) -> str:
        """What it wants of its inputs, in words."""
        its = self.capabilities
        words = [f"uses {', '.join(sorted(its.uses))} covariates"] if its.uses else []
        words += ["no cold start"] if not its.cold_start else []
        words += [f"{its.min_history} known rows"] if its.min_history > 1 else []
        words += [f"{its.scaling} scaling"] if its.scaling != "none" else []
        words += ["windows"] if its.sequence else []
        return "; ".join(words)

    def load(self) -> type[Any]:
        """Import the class behind the entry."""
        module, _, name = self.target.partition(":")
        try:
            return getattr(importlib.import_module(module), name)  # type: ignore[no-any-return]
        except (ImportError, AttributeError) as error:
            raise ConfigError(
                f"model {self.name!r} cannot be imported from {self.target!r} ({error})",
                expected=f"the packages {list(self.packages) or 'of a full install'}",
                remedy="install them beside nightcast, or leave the model out of the recipe",
            ) from error


class Catalog(Mapping[str, Entry], Generic[P]):
    """Name -> entry, for models of one prediction type; third-party entries come from an entry-point group."""

    def __init__(self, prediction: type[P], entries: tuple[Entry, ...], *, group: str) -> None:
        self.prediction = prediction
        self.group = group
        self._entries: dict[str, Entry] = {}
        for entry in entries:
            self._add(entry)
        self._found = False

    def _add(self, entry: Entry) -> None:
        if entry.name in self._entries:
            raise ConfigError(
                f"the model name {entry.name!r} is taken twice ({self._entries[entry.name].target}, {entry.target})",
                expected="one entry per name",
                remedy="rename the newer entry",
            )
        self._entries[entry.name] = entry

    def _discover(self) -> None:
        if not self._found:
            self._found = True
            for point in sorted(entry_points(group=self.group), key=lambda p: p.name):
                self._add(point.load())

    def __getitem__(self, name: str) -> Entry:
        self._discover()
        try:
            return self._entries[name]
        except KeyError:
            raise ConfigError(
                f"unknown model {name!r}",
                expected=f"one of {', '.join(sorted(self._entries))}",
                remedy="`nightcast models` lists them with their families",
            ) from None

    def __iter__(self) -> Iterator[str]:
        self._discover()
        return iter(self._entries)

    def __len__(self) -> int:
        self._discover()
        return len(self._entries)

    def __contains__(self, name: object) -> bool:
        self._discover()
        return name in self._entries

    def choose(
        self, name: str, preset: Preset, *, label: str | None = None, seed_index: int = 0, **params: Any
    ) -> ModelChoice:
        """A recipe's line for one entry: the preset's parameters, overridden by `params`."""
        merged = {**self[name].presets.get(preset, {}), **params}
        return ModelChoice(name=name, label=label or name, params=merged, seed_index=seed_index)
