"""The classifiers, as a literal table; a row imports nothing until its model is made."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nightcast.contracts.catalog import Capabilities, Catalog, Entry
from nightcast.contracts.prediction import ClassProbs
from nightcast.contracts.recipe import Preset

_BASELINE = Capabilities(baseline=True)
_ROBUST_WINDOWS = Capabilities(scaling="robust", sequence=True)

_CI_NETWORK: dict[str, Any] = {
    "window": 16,
    "hidden": 32,
    "head": 64,
    "dropout": 0.2,
    "epochs": 5,
    "batch_size": 64,
    "lr": 5e-3,
    "weight_decay": 0.2,
    "warmup": 0.5,
    "ema": 0.99,
    "max_rows": 8000,
    "budget_seconds": 120,
}
_NIGHTLY_NETWORK: dict[str, Any] = {
    "window": 48,
    "hidden": 64,
    "dropout": 0.2,
    "epochs": 10,
    "batch_size": 128,
    "lr": 2e-3,
    "weight_decay": 0.1,
    "warmup": 1,
    "ema": 0.99,
    "max_rows": 20_000,
    "patience": 4,
    "budget_seconds": 600,
}
_SEED_NETWORK: dict[str, Any] = {
    "epochs": 100,
    "batch_size": 256,
    "optimiser": "adamw",
    "lr": 1e-3,
    "weight_decay": 1e-4,
    "schedule": "cosine",
    "warmup": 5,
    "clip": 1.0,
    "patience": 15,
    "min_delta": 1e-4,
    "budget_seconds": None,
    "amp": True,
}
_RECURRENT_PRESETS: dict[Preset, dict[str, Any]] = {
    "ci": _CI_NETWORK,
    "nightly_cpu": _NIGHTLY_NETWORK,
    "seed": {**_SEED_NETWORK, "window": 60, "hidden": 128, "layers": 2, "head": 128, "dropout": 0.3},
}
_CHEAP_NETWORK: dict[str, Any] = {"window": 8, "hidden": 8, "head": 8, "epochs": 1, "max_rows": 600}
_ENSEMBLE = Capabilities(scaling="robust")
_ENSEMBLE_PRESETS: Mapping[Preset, Mapping[str, Any]] = {
    "ci": {"max_rows": 8000, "member_preset": "ci"},
    "nightly_cpu": {"max_rows": 20_000, "member_preset": "nightly_cpu"},
    "seed": {"member_preset": "seed"},
}

CLASSIFIERS: Catalog[ClassProbs] = Catalog(
    ClassProbs,
    (
        # -- baselines -----------------------------------------------------------------------------------------------
        Entry(
            name="climatology",
            family="baseline",
            target="models.families.baseline_classes:Climatology",
            summary="class shares by hour of day (day of week for daily bars), shrunk to the overall shares",
            capabilities=_BASELINE,
            presets={"ci": {}, "nightly_cpu": {}, "seed": {}},
        ),
        Entry(
            name="persistence",
            family="baseline",
            target="models.families.baseline_classes:Persistence",
            summary="class shares given the last label that was known at the decision, as the bars show it",
            capabilities=_BASELINE,
            presets={"ci": {}, "nightly_cpu": {}, "seed": {}},
        ),
        Entry(
            name="momentum",
            family="baseline",
            target="models.families.baseline_classes:Momentum",
            summary="class shares given the sign of the return over the last horizon; trades with it",
            capabilities=_BASELINE,
            presets={"ci": {}, "nightly_cpu": {}, "seed": {}},
        ),
        Entry(
            name="mean_reversion",
            family="baseline",
            target="models.families.baseline_classes:MeanReversion",
            summary="class shares given the sign of the return over the last horizon; trades against it",
            capabilities=_BASELINE,
            presets={"ci": {}, "nightly_cpu": {}, "seed": {}},
        ),
        Entry(
            name="majority",
            family="baseline",
            target="models.families.baseline_classes:Majority",
            summary="the overall class shares everywhere",
            capabilities=_BASELINE,
            presets={"ci": {}, "nightly_cpu": {}, "seed": {}},
        ),
        Entry(
            name="always_neutral",
            family="baseline",
            target="models.families.baseline_classes:AlwaysNeutral",
            summary="calls every decision neutral",
            capabilities=_BASELINE,
            presets={"ci": {}, "nightly_cpu": {}, "seed": {}},
        ),
        Entry(
            name="stratified_random",
            family="baseline",
            target="models.families.baseline_classes:StratifiedRandom",
            summary="calls a class drawn from the overall shares",
            capabilities=_BASELINE,
            presets={"ci": {}, "nightly_cpu": {}, "seed": {}},
        ),
        Entry(
            name="buy_and_hold",
            family="baseline",
            target="models.families.baseline_classes:BuyAndHold",
            summary="the overall class shares, long at every decision",
            capabilities=_BASELINE,
            presets={"ci": {}, "nightly_cpu": {}, "seed": {}},
        ),
        Entry(
            name="volatility_only",
            family="baseline",
            target="models.families.baseline_classes:VolatilityOnly",
            summary="LightGBM or logistic on volatility and time of day: what a model without direction can know",
            capabilities=Capabilities(baseline=True, scaling="standard"),
            presets={
                "ci": {"rounds": 60, "learning_rate": 0.1, "patience": 10, "max_rows": 12_000},
                "nightly_cpu": {"rounds": 300, "max_rows": 40_000},
                "seed": {},
            },
            cheap={"rounds": 6, "depth": 3, "patience": 3},
            packages=("lightgbm", "sklearn"),
        ),
        Entry(
            name="logistic10",
            family="baseline",
            target="models.families.baseline_classes:LogisticTen",
            summary="multinomial logistic regression on ten plain features",
            capabilities=Capabilities(baseline=True, scaling="standard"),
            presets={"ci": {"max_rows": 12_000}, "nightly_cpu": {"max_rows": 40_000}, "seed": {}},
            packages=("sklearn",),
        ),
        # -- boosting ------------------------------------------------------------------------------------------------
        Entry(
            name="xgboost",
            family="boosting",
            target="models.families.boosted_classes:XGBoostClassifier",
            summary="XGBoost, one model a horizon, early stopping on log loss",
            presets={
                "ci": {"rounds": 60, "learning_rate": 0.1, "depth": 4, "patience": 10, "max_rows": 12_000},
                "nightly_cpu": {"rounds": 300, "max_rows": 40_000},
                "seed": {"class_weight": "balanced"},
            },
            cheap={"rounds": 6, "depth": 3, "patience": 3},
            packages=("xgboost",),
        ),
        Entry(
            name="lightgbm",
            family="boosting",
            target="models.families.boosted_classes:LightGBMClassifier",
            summary="LightGBM, one model a horizon, early stopping on log loss",
            presets={
                "ci": {"rounds": 60, "learning_rate": 0.1, "leaves": 15, "patience": 10, "max_rows": 12_000},
                "nightly_cpu": {"rounds": 300, "max_rows": 40_000},
                "seed": {},
            },
            cheap={"rounds": 6, "depth": 3, "patience": 3},
            packages=("lightgbm",),
        ),
        Entry(
            name="catboost",
            family="boosting",
            target="models.families.boosted_classes:CatBoostClassifier",
            summary="CatBoost, one model a horizon, early stopping on log loss",
            presets={
                "ci": {
                    "rounds": 60,
                    "learning_rate": 0.1,
                    "depth": 4,
                    "borders": 32,
                    "patience": 10,
                    "max_rows": 12_000,
                },
                "nightly_cpu": {"rounds": 300, "borders": 64, "max_rows": 30_000},
                "seed": {},
            },
            cheap={"rounds": 6, "depth": 3, "borders": 16, "patience": 3},
            packages=("catboost",),
        ),
        # -- classical -----------------------------------------------------------------------------------------------
        Entry(
            name="random_forest",
            family="classical",
            target="models.families.classical_classes:RandomForest",
            summary="random forest, bootstrap samples as small as labels are unique",
            presets={
                "ci": {"trees": 50, "max_rows": 12_000},
                "nightly_cpu": {"trees": 150, "max_rows": 30_000},
                "seed": {},
            },
            cheap={"trees": 8, "depth": 4},
            packages=("sklearn",),
        ),
        Entry(
            name="logistic",
            family="classical",
            target="models.families.classical_classes:Logistic",
            summary="multinomial logistic regression, L2",
            capabilities=Capabilities(scaling="standard"),
            presets={"ci": {"max_rows": 12_000}, "nightly_cpu": {"max_rows": 40_000}, "seed": {}},
            packages=("sklearn",),
        ),
        Entry(
            name="svm",
            family="classical",
            target="models.families.classical_classes:Svm",
            summary="support vector machine on Nystroem features, probabilities calibrated on purged later rows",
            capabilities=Capabilities(scaling="standard"),
            presets={
                "ci": {"landmarks": 100, "max_rows": 12_000},
                "nightly_cpu": {"max_rows": 30_000},
                "seed": {"landmarks": 500},
            },
            cheap={"landmarks": 20},
            packages=("sklearn",),
        ),
        # -- neural --------------------------------------------------------------------------------------------------
        Entry(
            name="lstm",
            family="neural",
            target="models.families.neural_classes:LstmClassifier",
            summary="LSTM over windows of bars, one head for all horizons",
            capabilities=_ROBUST_WINDOWS,
            presets=_RECURRENT_PRESETS,
            cheap=_CHEAP_NETWORK,
            packages=("torch",),
        ),
        Entry(
            name="gru",
            family="neural",
            target="models.families.neural_classes:GruClassifier",
            summary="GRU over windows of bars, one head for all horizons",
            capabilities=_ROBUST_WINDOWS,
            presets=_RECURRENT_PRESETS,
            cheap=_CHEAP_NETWORK,
            packages=("torch",),
        ),
        Entry(
            name="tcn",
            family="neural",
            target="models.families.neural_classes:TcnClassifier",
            summary="dilated causal convolutions whose receptive field covers the window, one head for all horizons",
            capabilities=_ROBUST_WINDOWS,
            presets={
                "ci": {**_CI_NETWORK, "layers": 3},
                "nightly_cpu": {**_NIGHTLY_NETWORK, "hidden": 48, "layers": 4},
                # five levels, not four: the receptive field of 125 bars then covers the window
                "seed": {**_SEED_NETWORK, "window": 120, "hidden": 64, "layers": 5, "kernel": 3, "dropout": 0.2},
            },
            cheap={**_CHEAP_NETWORK, "layers": 2},
            packages=("torch",),
        ),
        # -- ensembles -----------------------------------------------------------------------------------------------
        Entry(
            name="voting",
            family="ensemble",
            target="models.families.ensemble_classes:VotingClassifier",
            summary="mean of its members' log-odds",
            capabilities=_ENSEMBLE,
            presets=_ENSEMBLE_PRESETS,
            cheap={"members": ("logistic", "lightgbm")},
            packages=("lightgbm", "sklearn"),
        ),
        Entry(
            name="stacking",
            family="ensemble",
            target="models.families.ensemble_classes:StackingClassifier",
            summary="multinomial logistic regression on its members' out-of-fold log-odds",
            capabilities=_ENSEMBLE,
            presets=_ENSEMBLE_PRESETS,
            cheap={"members": ("logistic", "lightgbm"), "blocks": 1},
            packages=("lightgbm", "sklearn"),
        ),
        Entry(
            name="blending",
            family="ensemble",
            target="models.families.ensemble_classes:BlendingClassifier",
            summary="simplex weights learned on the newest tenth of the training rows",
            capabilities=_ENSEMBLE,
            presets=_ENSEMBLE_PRESETS,
            cheap={"members": ("logistic", "lightgbm")},
            packages=("lightgbm", "sklearn"),
        ),
    ),
    group="nightcast.classifiers",
)
