"""The classifiers, as a literal table; a row imports nothing until its model is made."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nightcast.contracts.catalog import Capabilities, Catalog, Entry
from nightcast.contracts.prediction import ClassProbs
from nightcast.contracts.recipe import Preset

_BASELINE = Capabilities(baseline=True)
_ROBUST_WINDOWS = Capabilities(scaling="robust", sequence=True)
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
            summary="class shares by hour of day, shrunk to the overall shares",
            capabilities=_BASELINE,
            presets={"ci": {}, "nightly_cpu": {}, "seed": {}},
        ),
        Entry(
            name="persistence",
            family="baseline",
            target="models.families.baseline_classes:Persistence",
            summary="class shares given the last label that was known at the decision",
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
            name="volatility_only",
            family="baseline",
            target="models.families.baseline_classes:VolatilityOnly",
            summary="LightGBM on volatility and time of day alone: what a model without direction can know",
            capabilities=_BASELINE,
            presets={"ci": {"rounds": 30, "max_rows": 8000}, "nightly_cpu": {"max_rows": 40_000}, "seed": {}},
            packages=("lightgbm",),
        ),
        Entry(
            name="logistic10",
            family="baseline",
            target="models.families.baseline_classes:LogisticTen",
            summary="multinomial logistic regression on ten plain features",
            capabilities=Capabilities(baseline=True, scaling="standard"),
            presets={"ci": {"max_rows": 8000}, "nightly_cpu": {"max_rows": 40_000}, "seed": {}},
            packages=("sklearn",),
        ),
        # -- boosting ------------------------------------------------------------------------------------------------
        Entry(
            name="xgboost",
            family="boosting",
            target="models.families.boosted_classes:XGBoostClassifier",
            summary="XGBoost, one model a horizon, early stopping on log loss",
            presets={"ci": {}, "nightly_cpu": {}, "seed": {}},
            packages=("xgboost",),
        ),
        Entry(
            name="lightgbm",
            family="boosting",
            target="models.families.boosted_classes:LightGBMClassifier",
            summary="LightGBM, one model a horizon, early stopping on log loss",
            presets={"ci": {}, "nightly_cpu": {}, "seed": {}},
            packages=("lightgbm",),
        ),
        Entry(
            name="catboost",
            family="boosting",
            target="models.families.boosted_classes:CatBoostClassifier",
            summary="CatBoost, one model a horizon, early stopping on log loss",
            presets={"ci": {}, "nightly_cpu": {}, "seed": {}},
            packages=("catboost",),
        ),
        # -- classical -----------------------------------------------------------------------------------------------
        Entry(
            name="random_forest",
            family="classical",
            target="models.families.classical_classes:RandomForest",
            summary="random forest, bootstrap samples as small as labels are unique",
            presets={"ci": {}, "nightly_cpu": {}, "seed": {}},
            packages=("sklearn",),
        ),
        Entry(
            name="logistic",
            family="classical",
            target="models.families.classical_classes:Logistic",
            summary="multinomial logistic regression, L2",
            capabilities=Capabilities(scaling="standard"),
            presets={"ci": {}, "nightly_cpu": {}, "seed": {}},
            packages=("sklearn",),
        ),
        Entry(
            name="svm",
            family="classical",
            target="models.families.classical_classes:Svm",
            summary="support vector machine on Nystroem features, probabilities calibrated on purged rows",
            capabilities=Capabilities(scaling="standard"),
            presets={"ci": {}, "nightly_cpu": {}, "seed": {}},
            packages=("sklearn",),
        ),
        # -- neural --------------------------------------------------------------------------------------------------
        Entry(
            name="lstm",
            family="neural",
            target="models.families.neural_classes:LstmClassifier",
            summary="LSTM over windows of bars, one head for all horizons",
            capabilities=_ROBUST_WINDOWS,
            presets={"ci": {}, "nightly_cpu": {}, "seed": {}},
            packages=("torch",),
        ),
        Entry(
            name="gru",
            family="neural",
            target="models.families.neural_classes:GruClassifier",
            summary="GRU over windows of bars, one head for all horizons",
            capabilities=_ROBUST_WINDOWS,
            presets={"ci": {}, "nightly_cpu": {}, "seed": {}},
            packages=("torch",),
        ),
        Entry(
            name="tcn",
            family="neural",
            target="models.families.neural_classes:TcnClassifier",
            summary="dilated causal convolutions whose receptive field covers the window, one head for all horizons",
            capabilities=_ROBUST_WINDOWS,
            presets={"ci": {}, "nightly_cpu": {}, "seed": {}},
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
        ),
        Entry(
            name="stacking",
            family="ensemble",
            target="models.families.ensemble_classes:StackingClassifier",
            summary="multinomial logistic regression on its members' out-of-fold log-odds",
            capabilities=_ENSEMBLE,
            presets=_ENSEMBLE_PRESETS,
            cheap={"members": ("logistic", "lightgbm"), "blocks": 1},
            packages=("sklearn",),
        ),
        Entry(
            name="blending",
            family="ensemble",
            target="models.families.ensemble_classes:BlendingClassifier",
            summary="simplex weights learned on the newest tenth of the training rows",
            capabilities=_ENSEMBLE,
            presets=_ENSEMBLE_PRESETS,
            cheap={"members": ("logistic", "lightgbm")},
        ),
    ),
    group="nightcast.classifiers",
)
