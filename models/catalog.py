"""The forecasters, as a literal table, and the way back from a folder; a row imports nothing until it is made."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from models.base import Forecaster, read_target
from models.classifiers import CLASSIFIERS
from nightcast.contracts.catalog import Capabilities, Catalog, Entry, Uses
from nightcast.contracts.errors import RegistryError
from nightcast.contracts.prediction import Quantiles
from nightcast.contracts.recipe import ModelChoice

_BASELINE = Capabilities(baseline=True)
_COVARIATES: frozenset[Uses] = frozenset({"past", "plan", "static"})

_RESIDUAL_CI: dict[str, Any] = {
    "refits": 2,
    "boosting": {"levels": (0.1, 0.5, 0.9), "rounds": 60, "learning_rate": 0.1},
    "linear": {"epochs": 6},
    "max_rows": 12_000,
}
_RESIDUAL_CHEAP: dict[str, Any] = {
    "refits": 2,
    "least_history": 12,
    "boosting": {"levels": (0.1, 0.5, 0.9), "rounds": 8},
    "linear": {"epochs": 2},
    "windows": (3, 6),
}
_LINEAR: dict[str, Any] = {"hidden": (), "members": 1, "learning_rate": 0.01}

FORECASTERS: Catalog[Quantiles] = Catalog(
    Quantiles,
    (
        Entry(
            name="naive_last",
            family="naive",
            target="models.families.naive:NaiveLast",
            summary="latest known value, carried on",
            capabilities=_BASELINE,
            presets={"ci": {}, "nightly_cpu": {}, "seed": {}},
        ),
        Entry(
            name="naive_mean3",
            family="naive",
            target="models.families.naive:NaiveMean3",
            summary="mean of the latest three known values, carried on",
            capabilities=_BASELINE,
            presets={"ci": {}, "nightly_cpu": {}, "seed": {}},
        ),
        Entry(
            name="naive_seasonal",
            family="naive",
            target="models.families.naive:NaiveSeasonal",
            summary="latest known value of the same season; the latest value where there is none",
            capabilities=_BASELINE,
            presets={"ci": {}, "nightly_cpu": {}, "seed": {}},
        ),
        Entry(
            name="naive_uptime",
            family="naive",
            target="models.families.naive:NaiveUptime",
            summary="latest rate of days on stream, times the mean uptime of the latest twelve steps",
            capabilities=Capabilities(baseline=True, uses=frozenset({"plan"})),
            presets={"ci": {}, "nightly_cpu": {}, "seed": {}},
        ),
        Entry(
            name="naive_planned",
            family="naive",
            target="models.families.naive:NaivePlanned",
            summary="median of the latest three rates of days on stream, times the planned uptime",
            capabilities=Capabilities(baseline=True, uses=frozenset({"plan"})),
            presets={"ci": {}, "nightly_cpu": {}, "seed": {}},
        ),
        Entry(
            name="ses",
            family="statistical",
            target="models.families.statistical:Ses",
            summary="simple exponential smoothing, weight optimised per series",
            capabilities=_BASELINE,
            presets={"ci": {"error_fits": 120}, "nightly_cpu": {}, "seed": {"max_history": 600}},
            cheap={"max_history": 48, "error_fits": 30},
            packages=("statsforecast",),
        ),
        Entry(
            name="theta",
            family="statistical",
            target="models.families.statistical:Theta",
            summary="dynamic optimised theta, seasonally adjusted where a test asks for it",
            capabilities=Capabilities(min_history=6),
            presets={"ci": {"error_fits": 60}, "nightly_cpu": {}, "seed": {"max_history": 600}},
            cheap={"max_history": 48, "error_fits": 30},
            packages=("statsforecast",),
        ),
        Entry(
            name="ets",
            family="statistical",
            target="models.families.statistical:Ets",
            summary="exponential smoothing in state-space form, components chosen by AICc",
            capabilities=Capabilities(min_history=10),
            presets={
                "ci": {"error_fits": 60},
                "nightly_cpu": {},
                "seed": {"model": "AZA", "max_history": 600},
            },
            cheap={"max_history": 48, "error_fits": 30},
            packages=("statsforecast",),
        ),
        Entry(
            name="lightgbm_global",
            family="boosting",
            target="models.families.boosting:LightGBMGlobal",
            summary="one LightGBM over all series on a scaled target, direct in the horizon, quantile objectives",
            capabilities=Capabilities(uses=_COVARIATES),
            presets={
                "ci": {"levels": (0.1, 0.5, 0.9), "rounds": 60, "learning_rate": 0.1, "max_rows": 12_000},
                "nightly_cpu": {},
                "seed": {"rounds": 400, "learning_rate": 0.03, "max_rows": 400_000, "max_origins": 400},
            },
            cheap={"levels": (0.1, 0.5, 0.9), "rounds": 8, "max_origins": 24, "windows": (3, 6)},
            packages=("lightgbm",),
        ),
        Entry(
            name="crm",
            family="physics",
            target="models.families.crm:CrmForecaster",
            summary="capacitance-resistance model of the whole field: injectors, tanks, planned uptime and pressure",
            capabilities=Capabilities(uses=frozenset({"past", "plan"}), cold_start=False, min_history=6),
            presets={"ci": {"rounds": 1, "origins": 4}, "nightly_cpu": {}, "seed": {"origins": 24}},
            cheap={"rounds": 1, "origins": 2},
            packages=("scipy",),
        ),
        Entry(
            name="arps_exponential",
            family="physics",
            target="models.families.decline:Arps",
            summary="exponential decline of the rate of days on stream, anchored at the cutoff, times uptime",
            capabilities=Capabilities(uses=frozenset({"plan"})),
            presets={
                "ci": {"kind": "exponential", "origins": 12},
                "nightly_cpu": {"kind": "exponential"},
                "seed": {"kind": "exponential"},
            },
            cheap={"kind": "exponential", "origins": 8},
        ),
        Entry(
            name="arps_hyperbolic",
            family="physics",
            target="models.families.decline:Arps",
            summary="hyperbolic decline of the rate of days on stream, anchored at the cutoff, times uptime",
            capabilities=Capabilities(uses=frozenset({"plan"})),
            presets={
                "ci": {"kind": "hyperbolic", "origins": 12},
                "nightly_cpu": {"kind": "hyperbolic"},
                "seed": {"kind": "hyperbolic"},
            },
            cheap={"kind": "hyperbolic", "origins": 8},
        ),
        Entry(
            name="arps_harmonic",
            family="physics",
            target="models.families.decline:Arps",
            summary="harmonic decline of the rate of days on stream, anchored at the cutoff, times uptime",
            capabilities=Capabilities(uses=frozenset({"plan"})),
            presets={
                "ci": {"kind": "harmonic", "origins": 12},
                "nightly_cpu": {"kind": "harmonic"},
                "seed": {"kind": "harmonic"},
            },
            cheap={"kind": "harmonic", "origins": 8},
        ),
        Entry(
            name="arps_modified",
            family="physics",
            target="models.families.decline:Arps",
            summary="modified hyperbolic decline (terminal decline), anchored at the cutoff, times uptime",
            capabilities=Capabilities(uses=frozenset({"plan"})),
            presets={
                "ci": {"kind": "modified", "origins": 12},
                "nightly_cpu": {"kind": "modified"},
                "seed": {"kind": "modified"},
            },
            cheap={"kind": "modified", "origins": 8},
        ),
        Entry(
            name="uptime_rate",
            family="physics",
            target="models.families.uptime:TwoPart",
            summary="rate of days on stream times uptime, as planned or from learned shut-ins and restarts",
            capabilities=Capabilities(uses=frozenset({"plan"})),
            presets={"ci": {"origins": 12}, "nightly_cpu": {}, "seed": {}},
            cheap={"origins": 8},
        ),
        Entry(
            name="pi_drawdown",
            family="physics",
            target="models.families.uptime:ProductivityIndex",
            summary="lagged productivity index times planned drawdown, times uptime; wells with pressure only",
            capabilities=Capabilities(uses=frozenset({"past", "plan"})),
            presets={"ci": {"origins": 12}, "nightly_cpu": {}, "seed": {}},
            cheap={"origins": 8},
        ),
        Entry(
            name="type_curve",
            family="physics",
            target="models.families.type_curve:TypeCurve",
            summary="median curve of analog wells from first production on, matched to a young well's own months",
            capabilities=Capabilities(uses=frozenset({"plan", "static"})),
            presets={"ci": {"most_wells": 100}, "nightly_cpu": {}, "seed": {}},
            cheap={"most_wells": 20, "max_age": 24},
        ),
        Entry(
            name="crm_residual",
            family="physics",
            target="models.families.residual:PhysicsResidual",
            summary="capacitance-resistance model plus learnt errors of its forecasts from past origins",
            capabilities=Capabilities(uses=_COVARIATES, cold_start=False, min_history=6),
            presets={
                "ci": {
                    "base": "crm",
                    "base_params": {"rounds": 1, "origins": 4},
                    **_RESIDUAL_CI,
                },
                "nightly_cpu": {"base": "crm"},
                "seed": {"base": "crm", "refits": 12, "refit_every": 6},
            },
            cheap={
                "base": "crm",
                "base_params": {"rounds": 1, "origins": 2},
                **_RESIDUAL_CHEAP,
            },
            packages=("lightgbm", "scipy", "torch"),
        ),
        Entry(
            name="arps_residual",
            family="physics",
            target="models.families.residual:PhysicsResidual",
            summary="hyperbolic decline times uptime, plus learnt errors of its forecasts from past origins",
            capabilities=Capabilities(uses=_COVARIATES),
            presets={
                "ci": {
                    "base": "arps_hyperbolic",
                    "base_params": {"origins": 12},
                    **_RESIDUAL_CI,
                },
                "nightly_cpu": {"base": "arps_hyperbolic"},
                "seed": {"base": "arps_hyperbolic", "refits": 12, "refit_every": 6},
            },
            cheap={
                "base": "arps_hyperbolic",
                "base_params": {"origins": 8},
                **_RESIDUAL_CHEAP,
            },
            packages=("lightgbm", "torch"),
        ),
        Entry(
            name="uptime_residual",
            family="physics",
            target="models.families.residual:PhysicsResidual",
            summary="rate of days on stream times uptime, plus learnt errors of its forecasts from past origins",
            capabilities=Capabilities(uses=_COVARIATES),
            presets={
                "ci": {
                    "base": "uptime_rate",
                    "base_params": {"origins": 12},
                    **_RESIDUAL_CI,
                },
                "nightly_cpu": {"base": "uptime_rate"},
                "seed": {"base": "uptime_rate", "refits": 12, "refit_every": 6},
            },
            cheap={
                "base": "uptime_rate",
                "base_params": {"origins": 8},
                **_RESIDUAL_CHEAP,
            },
            packages=("lightgbm", "torch"),
        ),
        Entry(
            name="linear_global",
            family="perceptron",
            target="models.families.perceptron:PerceptronGlobal",
            summary="one linear quantile regression over all series on a scaled target, direct in the horizon",
            capabilities=Capabilities(uses=_COVARIATES),
            presets={
                "ci": {**_LINEAR, "epochs": 6, "max_rows": 12_000},
                "nightly_cpu": _LINEAR,
                "seed": {**_LINEAR, "epochs": 20, "max_rows": 400_000, "max_origins": 400},
            },
            cheap={**_LINEAR, "epochs": 2, "max_origins": 24, "windows": (3, 6)},
            packages=("torch",),
        ),
        Entry(
            name="mlp_global",
            family="perceptron",
            target="models.families.perceptron:PerceptronGlobal",
            summary="small feed-forward networks over all series on a scaled target, all quantiles at once",
            capabilities=Capabilities(uses=_COVARIATES),
            presets={
                "ci": {"hidden": (32,), "members": 1, "epochs": 6, "max_rows": 12_000},
                "nightly_cpu": {},
                "seed": {"hidden": (128, 128), "members": 8, "epochs": 20, "max_rows": 400_000, "max_origins": 400},
            },
            cheap={"hidden": (8,), "members": 2, "epochs": 2, "max_origins": 24, "windows": (3, 6)},
            packages=("torch",),
        ),
        Entry(
            name="nhits",
            family="neural",
            target="models.families.neural:Nhits",
            summary="NHITS, one network over the windows of all series",
            capabilities=Capabilities(uses=_COVARIATES, min_history=3),
            presets={
                "ci": {"max_steps": 20, "hidden": 32, "windows_batch_size": 64},
                "nightly_cpu": {"hidden": 256},
                "seed": {"input_size": 48, "hidden": 64, "blocks": 2, "dropout": 0.1, "max_steps": 1000},
            },
            cheap={"max_steps": 4, "input_size": 12, "hidden": 8, "windows_batch_size": 16},
            packages=("neuralforecast", "torch"),
        ),
        Entry(
            name="tsmixerx",
            family="neural",
            target="models.families.neural:Tsmixerx",
            summary="TSMixerx, mixing over the series of the training panel; no cold start",
            capabilities=Capabilities(uses=_COVARIATES, cold_start=False, min_history=3),
            presets={
                "ci": {"max_steps": 20, "hidden": 32, "input_size": 12, "max_history": 120},
                "nightly_cpu": {"input_size": 12, "max_history": 120},
                "seed": {"input_size": 48, "hidden": 64, "blocks": 2, "dropout": 0.1, "max_steps": 1000},
            },
            cheap={"max_steps": 4, "input_size": 12, "hidden": 8, "windows_batch_size": 8},
            packages=("neuralforecast", "torch"),
        ),
        Entry(
            name="dlinear",
            family="neural",
            target="models.families.neural_panels:DLinear",
            summary="one linear map of the moving average and one of the remainder, shared by all series",
            capabilities=Capabilities(min_history=3),
            presets={
                "ci": {"max_steps": 20, "windows_batch_size": 64},
                "nightly_cpu": {},
                "seed": {"input_size": 48, "trend_window": 25, "max_steps": 5000, "learning_rate": 1e-4},
            },
            cheap={"max_steps": 40, "learning_rate": 0.02, "input_size": 12, "windows_batch_size": 16},
            packages=("neuralforecast", "torch"),
        ),
        Entry(
            name="nlinear",
            family="neural",
            target="models.families.neural_panels:NLinear",
            summary="one linear map of the window less its last value, shared by all series",
            capabilities=Capabilities(min_history=3),
            presets={
                "ci": {"max_steps": 20, "windows_batch_size": 64},
                "nightly_cpu": {},
                "seed": {"input_size": 48, "max_steps": 5000, "learning_rate": 1e-4},
            },
            cheap={"max_steps": 4, "input_size": 12, "windows_batch_size": 16},
            packages=("neuralforecast", "torch"),
        ),
        Entry(
            name="patchtst",
            family="neural",
            target="models.families.neural_panels:PatchTST",
            summary="transformer over patches of each series' window",
            capabilities=Capabilities(min_history=3),
            presets={
                "ci": {"max_steps": 4, "hidden": 16, "linear_hidden": 16, "heads": 2, "layers": 1},
                "nightly_cpu": {},
                "seed": {
                    "input_size": 48,
                    "hidden": 128,
                    "linear_hidden": 256,
                    "heads": 16,
                    "layers": 3,
                    "patch": 16,
                    "stride": 8,
                    "dropout": 0.2,
                    "max_steps": 5000,
                    "learning_rate": 1e-4,
                },
            },
            cheap={
                "max_steps": 4,
                "input_size": 12,
                "hidden": 8,
                "linear_hidden": 8,
                "heads": 2,
                "layers": 1,
                "windows_batch_size": 16,
            },
            packages=("neuralforecast", "torch"),
        ),
        Entry(
            name="nbeatsx",
            family="neural",
            target="models.families.neural_panels:Nbeatsx",
            summary="N-BEATSx: identity, trend and seasonality stacks over window, covariates and plan",
            capabilities=Capabilities(uses=_COVARIATES, min_history=3),
            presets={
                "ci": {"max_steps": 10, "hidden": 32, "windows_batch_size": 64},
                "nightly_cpu": {},
                "seed": {"input_size": 48, "hidden": 512, "dropout": 0.0, "max_steps": 1000},
            },
            cheap={"max_steps": 4, "input_size": 12, "hidden": 8, "windows_batch_size": 16},
            packages=("neuralforecast", "torch"),
        ),
        Entry(
            name="tft",
            family="neural",
            target="models.families.neural_panels:Tft",
            summary="temporal fusion transformer: variable selection, LSTM, attention",
            capabilities=Capabilities(uses=_COVARIATES, min_history=3),
            presets={
                "ci": {"max_steps": 3, "hidden": 8},
                "nightly_cpu": {},
                "seed": {"input_size": 48, "hidden": 128, "heads": 4, "max_exog": 12, "max_steps": 1000},
            },
            cheap={"max_steps": 12, "learning_rate": 0.05, "input_size": 12, "hidden": 4, "windows_batch_size": 16},
            packages=("neuralforecast", "torch"),
        ),
        Entry(
            name="timesnet",
            family="neural",
            target="models.families.neural_panels:TimesNet",
            summary="convolutions over a window folded by its strongest periods",
            capabilities=Capabilities(uses=frozenset({"plan"}), min_history=3),
            presets={
                "ci": {"max_steps": 4, "hidden": 8, "conv_hidden": 8, "kernels": 2},
                "nightly_cpu": {},
                "seed": {
                    "input_size": 48,
                    "hidden": 64,
                    "conv_hidden": 64,
                    "layers": 2,
                    "kernels": 6,
                    "periods": 5,
                    "windows_batch_size": 64,
                    "max_steps": 1000,
                    "learning_rate": 1e-4,
                },
            },
            cheap={
                "max_steps": 20,
                "learning_rate": 0.05,
                "input_size": 12,
                "hidden": 4,
                "conv_hidden": 4,
                "kernels": 2,
                "windows_batch_size": 16,
            },
            packages=("neuralforecast", "torch"),
        ),
        Entry(
            name="timemixer",
            family="neural",
            target="models.families.neural_panels:TimeMixer",
            summary="mixing of trends and seasons across time scales, over the training panel's series; no cold start",
            capabilities=Capabilities(cold_start=False, min_history=3),
            presets={
                "ci": {"max_steps": 5, "layers": 1},
                "nightly_cpu": {},
                "seed": {
                    "input_size": 48,
                    "hidden": 32,
                    "linear_hidden": 32,
                    "layers": 4,
                    "trend_window": 25,
                    "max_steps": 1000,
                    "learning_rate": 1e-3,
                },
            },
            cheap={
                "max_steps": 4,
                "input_size": 12,
                "hidden": 4,
                "linear_hidden": 4,
                "layers": 1,
                "trend_window": 5,
                "windows_batch_size": 8,
            },
            packages=("neuralforecast", "torch"),
        ),
        Entry(
            name="itransformer",
            family="neural",
            target="models.families.neural_panels:ITransformer",
            summary="attention between the training panel's series, one token each; no cold start",
            capabilities=Capabilities(uses=frozenset({"plan"}), cold_start=False, min_history=3),
            presets={
                "ci": {"max_steps": 3, "hidden": 16, "linear_hidden": 16, "layers": 1, "max_exog": 1},
                "nightly_cpu": {},
                "seed": {
                    "input_size": 48,
                    "hidden": 512,
                    "linear_hidden": 2048,
                    "heads": 8,
                    "windows_batch_size": 32,
                    "max_steps": 1000,
                },
            },
            cheap={
                "max_steps": 4,
                "input_size": 12,
                "hidden": 8,
                "linear_hidden": 8,
                "heads": 2,
                "layers": 1,
                "windows_batch_size": 8,
            },
            packages=("neuralforecast", "torch"),
        ),
        Entry(
            name="xlstm",
            family="neural",
            target="models.families.neural_panels:Xlstm",
            summary="extended LSTM: blocks of matrix and scalar memories with exponential gates",
            capabilities=Capabilities(uses=_COVARIATES, min_history=3),
            presets={
                "ci": {"max_steps": 3, "hidden": 8, "heads": 2, "cells": "m"},
                "nightly_cpu": {},
                "seed": {"input_size": 48, "hidden": 128, "heads": 4, "max_exog": 12, "max_steps": 1000},
            },
            cheap={"max_steps": 4, "input_size": 12, "hidden": 8, "heads": 2, "windows_batch_size": 16},
            packages=("neuralforecast", "torch"),
        ),
        Entry(
            name="well_mixer",
            family="neural",
            target="models.families.mixers:WellMixer",
            summary="TSMixer over the window of one well, weights shared over wells; serves wells it never saw",
            capabilities=Capabilities(uses=_COVARIATES, min_history=3, sequence=True),
            presets={
                "ci": {"epochs": 3, "hidden": 16, "input_size": 12, "max_origins": 60},
                "nightly_cpu": {"members": 3},
                "seed": {"input_size": 48, "hidden": 64, "blocks": 2, "dropout": 0.1, "members": 3},
            },
            cheap={"max_steps": 6, "input_size": 12, "hidden": 8},
            packages=("torch",),
        ),
        Entry(
            name="multiscale_tsmixer",
            family="neural",
            target="models.families.mixers:MultiScaleMixer",
            summary="mixer over one well's window at scales 1, 2 and 4 with learned fusion, weights shared over wells",
            capabilities=Capabilities(uses=_COVARIATES, min_history=3, sequence=True),
            presets={
                "ci": {"epochs": 3, "hidden": 16, "blocks": 1, "input_size": 12, "max_origins": 60},
                "nightly_cpu": {"input_size": 24, "hidden": 32, "blocks": 1, "dropout": 0.3, "members": 2},
                "seed": {"input_size": 48, "hidden": 64, "blocks": 2, "dropout": 0.1, "scales": (1, 2, 4)},
            },
            cheap={"max_steps": 6, "input_size": 12, "hidden": 8, "blocks": 1},
            packages=("torch",),
        ),
        Entry(
            name="attention_tsmixerx",
            family="neural",
            target="models.families.mixers:AttentionMixer",
            summary="mixer behind attention over features and months; its weights can be read per well",
            capabilities=Capabilities(uses=_COVARIATES, min_history=3, sequence=True),
            presets={
                "ci": {"epochs": 3, "hidden": 16, "blocks": 1, "input_size": 12, "max_origins": 60},
                "nightly_cpu": {"input_size": 24, "hidden": 32, "blocks": 1, "dropout": 0.3, "members": 2},
                "seed": {"input_size": 48, "hidden": 64, "blocks": 2, "dropout": 0.1},
            },
            cheap={"max_steps": 6, "input_size": 12, "hidden": 8, "blocks": 1, "attention_hidden": 8},
            packages=("torch",),
        ),
        Entry(
            name="chronos_bolt",
            family="foundation",
            target="models.families.foundation:ChronosBolt",
            summary="pretrained T5 over patches, zero-shot, from a local weights folder",
            capabilities=Capabilities(),
            presets={"ci": {}, "nightly_cpu": {}, "seed": {}},
            packages=("chronos", "torch"),
        ),
        Entry(
            name="timesfm",
            family="foundation",
            target="models.families.foundation:TimesFm",
            summary="pretrained decoder over patches, zero-shot, from a local weights folder",
            capabilities=Capabilities(),
            presets={"ci": {}, "nightly_cpu": {}, "seed": {}},
            packages=("timesfm", "torch"),
        ),
        Entry(
            name="ttm",
            family="foundation",
            target="models.families.foundation:Ttm",
            summary="pretrained TinyTimeMixer, zero-shot, intervals from past errors, from a local weights folder",
            capabilities=Capabilities(),
            presets={"ci": {}, "nightly_cpu": {}, "seed": {}},
            packages=("tsfm_public", "torch"),
        ),
    ),
    group="nightcast.forecasters",
)


CATALOGS: Mapping[str, Catalog[Any]] = {"panel": FORECASTERS, "bars": CLASSIFIERS}
"""Kind of workload -> its models."""


def cost_of(name: str) -> str:
    """Measured cost of a model at the preset `nightly_cpu`, as a multiple of the cheapest one; empty if unknown.

    From `models/costs.json`, which `python -m benchmarks.bench_models` writes.
    """
    costs: dict[str, float] = json.loads(resources.files("models").joinpath("costs.json").read_text(encoding="utf-8"))
    return f"{costs[name]:.3g} x" if name in costs else ""


def make_forecaster(choice: ModelChoice) -> Forecaster:
    """The unfitted model of a recipe's line.

    Raises
    ------
    ConfigError
        If the name or a parameter is unknown, or the model's packages are not installed.
    """
    model: Any = FORECASTERS[choice.name].load()(**choice.params)
    return model  # type: ignore[no-any-return]


def load_model(folder: Path) -> Any:
    """The fitted model of a bundle, by the class its `model.json` names.

    Only classes that a catalog lists are imported: a bundle cannot make the loader import anything else.

    Raises
    ------
    RegistryError
        If the bundle names another class, or is broken.
    """
    target = read_target(folder)
    known = (*FORECASTERS.values(), *CLASSIFIERS.values())
    entry = next((entry for entry in known if entry.target == target), None)
    if entry is None:
        raise RegistryError(
            f"the bundle {folder.name!r} names the class {target!r}",
            expected="a class of the catalogs `FORECASTERS` and `CLASSIFIERS`",
            remedy="install the package that brings the model, or register a model this installation knows",
        )
    return entry.load().load(folder)
