"""Gradient boosting: one global LightGBM over all series, on rows of ratios."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from pydantic import Field, field_validator

from models.grid import FloatArray
from models.ratios import Float32Array, RatioForecaster, RatioParams, Rows
from nightcast.contracts.catalog import Capabilities
from nightcast.contracts.columns import LEVELS
from nightcast.contracts.errors import RegistryError


class LightGBMParams(RatioParams):
    """Parameters of the global LightGBM.

    Attributes
    ----------
    levels
        Quantile levels that are trained; the others are interpolated between them.
    rounds, learning_rate, num_leaves, min_leaf_rows, feature_share, row_share, l2
        LightGBM's own.
    per_horizon
        One model per horizon instead of the horizon as an input.
    """

    levels: tuple[float, ...] = (0.1, 0.3, 0.5, 0.7, 0.9)
    rounds: int = Field(default=200, ge=1)
    learning_rate: float = Field(default=0.05, gt=0, le=1)
    num_leaves: int = Field(default=8, ge=2)
    min_leaf_rows: int = Field(default=40, ge=1)
    feature_share: float = Field(default=0.3, gt=0, le=1)
    row_share: float = Field(default=0.8, gt=0, le=1)
    l2: float = Field(default=1.0, ge=0)
    per_horizon: bool = False

    @field_validator("levels")
    @classmethod
    def _rising_and_known(cls, levels: tuple[float, ...]) -> tuple[float, ...]:
        if 0.5 not in levels or list(levels) != sorted(set(levels)) or not set(levels) <= set(LEVELS):
            raise ValueError(f"rising levels among {LEVELS}, 0.5 with them")
        return levels


class LightGBMGlobal(RatioForecaster):
    """One LightGBM over all series, direct in the horizon, quantile objectives (Ke et al. 2017)."""

    Params = LightGBMParams
    capabilities: ClassVar[Capabilities] = Capabilities(uses=frozenset({"past", "plan", "static"}), min_history=1)
    params: LightGBMParams
    boosters: dict[str, str]
    """File name -> LightGBM's own text."""
    _loaded: dict[str, Any]

    def learn(self, rows: Rows, *, seed: int) -> None:
        """Train one booster per level (and horizon)."""
        import lightgbm

        self.boosters = {}
        parts = range(1, self.horizon + 1) if self.params.per_horizon else (None,)
        for part in parts:
            chosen = np.ones(rows.y.size, dtype=bool) if part is None else rows.horizon == part
            if not chosen.any():
                continue
            data = lightgbm.Dataset(
                rows.x[chosen],
                rows.y[chosen],
                weight=rows.weight[chosen] / rows.weight[chosen].mean(),
                feature_name=list(rows.names),
                categorical_feature=list(rows.codes),
                params=self._settings(seed, 0.5, int(chosen.sum())),
                free_raw_data=False,
            )
            for level in self.params.levels:
                booster = lightgbm.train(self._settings(seed, level, int(chosen.sum())), data, self.params.rounds)
                self.boosters[_file(level, part)] = booster.model_to_string()
        self._loaded = {}

    def ratios(self, x: Float32Array, horizon: int) -> FloatArray:
        """The trained levels, and the others between them."""
        part = self._nearest_part(horizon)
        trained = [self._booster(_file(level, part)).predict(x, num_threads=1) for level in self.params.levels]
        return _interpolate(np.sort(np.stack(trained, axis=1), axis=1), self.params.levels)

    def write_learnt(self, folder: Path) -> dict[str, Any]:
        """LightGBM's own text files."""
        for name, text in self.boosters.items():
            (folder / name).write_text(text)
        return {"boosters": sorted(self.boosters)}

    def read_learnt(self, folder: Path, state: dict[str, Any]) -> None:
        """LightGBM's own text files."""
        self.boosters, self._loaded = {}, {}
        for name in state["boosters"]:
            if Path(name).name != name:
                raise RegistryError(
                    f"the bundle names the file {name!r}",
                    expected="plain file names inside the bundle",
                    remedy="do not load it; compare its sha256 with the manifest's",
                )
            self.boosters[name] = (folder / name).read_text()

    def _booster(self, name: str) -> Any:
        import lightgbm

        if name not in self._loaded:
            self._loaded[name] = lightgbm.Booster(model_str=self.boosters[name])
        return self._loaded[name]

    def _nearest_part(self, horizon: int) -> int | None:
        """The model of a horizon; of the longest shorter one, where training had no row for it."""
        if not self.params.per_horizon:
            return None
        middle = 0.5
        parts = [h for h in range(1, self.horizon + 1) if _file(middle, h) in self.boosters]
        return max((h for h in parts if h <= horizon), default=parts[0])

    def _settings(self, seed: int, level: float, rows: int) -> dict[str, Any]:
        params = self.params
        return {
            "objective": "quantile",
            "alpha": level,
            "learning_rate": params.learning_rate,
            "num_leaves": params.num_leaves,
            # A tiny panel could not split at all at a leaf size made for a large one.
            "min_data_in_leaf": max(1, min(params.min_leaf_rows, rows // 10)),
            "feature_fraction": params.feature_share,
            "bagging_fraction": params.row_share,
            "bagging_freq": 1,
            "lambda_l2": params.l2,
            "seed": seed,
            "deterministic": True,
            "force_row_wise": True,
            "num_threads": 1,
            "verbosity": -1,
        }


def _interpolate(trained: FloatArray, levels: Sequence[float]) -> FloatArray:
    """[R, Q] from the trained levels [R, K]: linear between them, the outermost carried on."""
    out = np.empty((trained.shape[0], len(LEVELS)))
    for column, level in enumerate(LEVELS):
        right = int(np.searchsorted(levels, level))
        if right < len(levels) and levels[right] == level:
            out[:, column] = trained[:, right]
        elif right in (0, len(levels)):
            out[:, column] = trained[:, min(right, len(levels) - 1)]
        else:
            share = (level - levels[right - 1]) / (levels[right] - levels[right - 1])
            out[:, column] = (1 - share) * trained[:, right - 1] + share * trained[:, right]
    return out


def _file(level: float, horizon: int | None) -> str:
    return f"q{round(level * 100):02d}.txt" if horizon is None else f"h{horizon:03d}_q{round(level * 100):02d}.txt"
