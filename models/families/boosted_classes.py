"""Gradient boosting for classes: XGBoost, LightGBM and CatBoost, one booster a horizon, stopped on log loss.

Each booster is kept as the library's own bytes, from the end of its fit on: what predicts in memory is what `save`
writes and `load` reads.
"""

from __future__ import annotations

import tempfile
from abc import abstractmethod
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from models.classifier import ClassifierParams
from models.families.tabular_classes import Fitted, Table, TabularClassifier
from nightcast.contracts.errors import RegistryError


class BoostingParams(ClassifierParams):
    """What the three boosters share; the defaults are the specification's numbers.

    Attributes
    ----------
    rounds
        Most rounds; each grows one tree a class.
    learning_rate
        Step of one round.
    depth
        Deepest tree.
    patience
        Rounds without a better validation log loss before a fit stops; without validation decisions all rounds run.
    l2
        Penalty on squared leaf values.
    threads
        Threads of one fit; fits run beside one another, so one each.
    """

    rounds: int = Field(default=500, ge=1)
    learning_rate: float = Field(default=0.05, gt=0, le=1)
    depth: int = Field(default=6, ge=1, le=16)
    patience: int = Field(default=50, ge=1)
    l2: float = Field(default=1.0, ge=0)
    threads: int = Field(default=1, ge=1)


class XGBoostParams(BoostingParams):
    """Parameters of XGBoost.

    Attributes
    ----------
    min_child_weight
        Least sum of second derivatives in a leaf.
    row_share, column_share
        Rows drawn a round and columns drawn a tree.
    min_gain
        Least gain of a split (`gamma`).
    l1
        Penalty on absolute leaf values.
    """

    min_child_weight: float = Field(default=10.0, ge=0)
    row_share: float = Field(default=0.8, gt=0, le=1)
    column_share: float = Field(default=0.8, gt=0, le=1)
    min_gain: float = Field(default=0.1, ge=0)
    l1: float = Field(default=0.1, ge=0)


class LightGBMParams(BoostingParams):
    """Parameters of LightGBM.

    Attributes
    ----------
    leaves, min_leaf_rows
        Most leaves of a tree, fewest rows of a leaf.
    row_share, column_share
        Rows drawn a round and columns drawn a tree.
    l1
        Penalty on absolute leaf values.
    """

    leaves: int = Field(default=31, ge=2)
    min_leaf_rows: int = Field(default=20, ge=1)
    row_share: float = Field(default=0.8, gt=0, le=1)
    column_share: float = Field(default=0.8, gt=0, le=1)
    l1: float = Field(default=0.1, ge=0)


class CatBoostParams(BoostingParams):
    """Parameters of CatBoost.

    Attributes
    ----------
    random_strength
        Noise on the scores of splits.
    bagging_temperature
        Spread of the Bayesian bootstrap's weights.
    borders
        Most borders a column is cut at.
    """

    l2: float = Field(default=3.0, ge=0)
    random_strength: float = Field(default=1.0, ge=0)
    bagging_temperature: float = Field(default=1.0, ge=0)
    borders: int = Field(default=254, ge=1, le=65535)


class Native:
    """A booster as its library's own bytes, parsed once when it is first asked."""

    def __init__(self, content: bytes, family: type[Boosting]) -> None:
        self.content = content
        self._family = family

    @cached_property
    def booster(self) -> Any:
        """The library's object."""
        return self._family.parse(self.content)


class Boosting(TabularClassifier[Native]):
    """Boosted trees, one booster a horizon."""

    suffix: ClassVar[str]
    """Of the native files."""

    @classmethod
    @abstractmethod
    def parse(cls, content: bytes) -> Any:
        """The library's object from its own bytes."""

    def write_horizon(self, folder: Path, stem: str, model: Native) -> dict[str, Any]:
        """Write the native file."""
        (folder / f"{stem}{self.suffix}").write_bytes(model.content)
        return {}

    def read_horizon(self, folder: Path, stem: str, state: Mapping[str, Any]) -> Native:
        """Read the native file, parsing it at once so that a broken bundle is found when it is loaded."""
        file = folder / f"{stem}{self.suffix}"
        model = Native(file.read_bytes(), type(self))
        try:
            model.booster  # noqa: B018  # parses
        except Exception as error:  # each library has its own kinds of errors
            raise RegistryError(
                f"{file.name!r} cannot be read ({type(error).__name__}: {str(error).splitlines()[0]})",
                expected=f"the native file that {type(self).__name__} wrote",
                remedy="fetch the bundle again and compare its sha256 with the manifest's",
            ) from error
        return model

    def horizon_importance(self, model: Native) -> NDArray[np.float64]:
        """`[F]` total gain."""
        return self.gain(model.booster)

    @abstractmethod
    def gain(self, booster: Any) -> NDArray[np.float64]:
        """`[F]` total gain of each column's splits."""


class XGBoostClassifier(Boosting):
    """XGBoost, histogram trees, softmax objective (Chen and Guestrin 2016)."""

    Params = XGBoostParams
    params: XGBoostParams
    suffix = ".ubj"

    def fit_horizon(self, train: Table, valid: Table, *, seed: int) -> Fitted[Native]:
        """Boost until the validation log loss stops falling."""
        import xgboost

        p = self.params
        settings = {
            "objective": "multi:softprob",
            "num_class": int(train.y.max()) + 1,
            "eval_metric": "mlogloss",
            "tree_method": "hist",
            "max_depth": p.depth,
            "learning_rate": p.learning_rate,
            "min_child_weight": p.min_child_weight,
            "subsample": p.row_share,
            "colsample_bytree": p.column_share,
            "gamma": p.min_gain,
            "alpha": p.l1,
            "lambda": p.l2,
            "nthread": p.threads,
            "seed": seed,
            "verbosity": 0,
        }
        data = xgboost.DMatrix(train.x, train.y, weight=train.weight, nthread=p.threads)
        if not len(valid):
            booster = xgboost.train(settings, data, p.rounds)
            return Fitted(Native(bytes(booster.save_raw("ubj")), type(self)), rounds=p.rounds)
        later = xgboost.DMatrix(valid.x, valid.y, weight=valid.weight, nthread=p.threads)
        seen: dict[str, Any] = {}
        booster = xgboost.train(
            settings,
            data,
            p.rounds,
            evals=[(later, "valid")],
            early_stopping_rounds=p.patience,
            evals_result=seen,
            verbose_eval=False,
        )
        curve, best = seen["valid"]["mlogloss"], int(booster.best_iteration) + 1
        content = bytes(booster[:best].save_raw("ubj"))
        return Fitted(Native(content, type(self)), len(curve), best, len(curve) < p.rounds, curve)

    @classmethod
    def parse(cls, content: bytes) -> Any:
        """The booster of UBJ bytes, on one thread."""
        import xgboost

        booster = xgboost.Booster(model_file=bytearray(content))
        booster.set_param({"nthread": 1})
        return booster

    def class_probabilities(self, model: Native, x: NDArray[np.float32]) -> NDArray[np.float64]:
        """Softmax of the trees' sums."""
        import xgboost

        return np.asarray(model.booster.predict(xgboost.DMatrix(x, nthread=1)), dtype=np.float64)

    def gain(self, booster: Any) -> NDArray[np.float64]:
        """Total gain; columns without a split have 0."""
        out = np.zeros(len(self.names))
        for name, value in booster.get_score(importance_type="total_gain").items():
            out[int(name.removeprefix("f"))] = value
        return out


class LightGBMClassifier(Boosting):
    """LightGBM, softmax objective (Ke et al. 2017)."""

    Params = LightGBMParams
    params: LightGBMParams
    suffix = ".txt"

    def fit_horizon(self, train: Table, valid: Table, *, seed: int) -> Fitted[Native]:
        """Boost until the validation log loss stops falling."""
        import lightgbm

        p = self.params
        settings = {
            "objective": "multiclass",
            "num_class": int(train.y.max()) + 1,
            "metric": "multi_logloss",
            "max_depth": p.depth,
            "num_leaves": p.leaves,
            "learning_rate": p.learning_rate,
            "min_data_in_leaf": p.min_leaf_rows,
            "bagging_fraction": p.row_share,
            "bagging_freq": 1,
            "feature_fraction": p.column_share,
            "lambda_l1": p.l1,
            "lambda_l2": p.l2,
            "num_threads": p.threads,
            "seed": seed,
            "deterministic": True,
            "force_row_wise": True,
            "feature_pre_filter": False,
            "verbosity": -1,
        }
        data = lightgbm.Dataset(train.x, train.y, weight=train.weight, params=settings)
        if not len(valid):
            booster = lightgbm.train(settings, data, p.rounds)
            return Fitted(Native(booster.model_to_string().encode(), type(self)), rounds=p.rounds)
        seen: dict[str, Any] = {}
        booster = lightgbm.train(
            settings,
            data,
            p.rounds,
            valid_sets=[data.create_valid(valid.x, valid.y, weight=valid.weight)],
            valid_names=["valid"],
            callbacks=[lightgbm.early_stopping(p.patience, verbose=False), lightgbm.record_evaluation(seen)],
        )
        curve, best = seen["valid"]["multi_logloss"], int(booster.best_iteration)
        content = booster.model_to_string(num_iteration=best).encode()
        return Fitted(Native(content, type(self)), len(curve), best, len(curve) < p.rounds, curve)

    @classmethod
    def parse(cls, content: bytes) -> Any:
        """The booster of LightGBM's text."""
        import lightgbm

        return lightgbm.Booster(model_str=content.decode())

    def class_probabilities(self, model: Native, x: NDArray[np.float32]) -> NDArray[np.float64]:
        """Softmax of the trees' sums."""
        return np.asarray(model.booster.predict(x, num_threads=1), dtype=np.float64)

    def gain(self, booster: Any) -> NDArray[np.float64]:
        """Total gain."""
        return np.asarray(booster.feature_importance("gain"), dtype=np.float64)


class CatBoostClassifier(Boosting):
    """CatBoost, symmetric trees, softmax objective (Prokhorenkova et al. 2018)."""

    Params = CatBoostParams
    params: CatBoostParams
    suffix = ".cbm"

    def fit_horizon(self, train: Table, valid: Table, *, seed: int) -> Fitted[Native]:
        """Boost until the validation log loss stops falling."""
        import catboost

        p = self.params
        settings: dict[str, Any] = {
            "loss_function": "MultiClass",
            "classes_count": int(train.y.max()) + 1,
            "iterations": p.rounds,
            "learning_rate": p.learning_rate,
            "depth": p.depth,
            "l2_leaf_reg": p.l2,
            "random_strength": p.random_strength,
            "bootstrap_type": "Bayesian",
            "bagging_temperature": p.bagging_temperature,
            "border_count": p.borders,
            "boosting_type": "Plain",
            "thread_count": p.threads,
            "random_seed": seed,
            "allow_writing_files": False,
            "logging_level": "Silent",
        }
        data = catboost.Pool(train.x, train.y, weight=train.weight)
        if not len(valid):
            booster = catboost.CatBoost(settings)
            booster.fit(data)
            return Fitted(Native(_cbm(booster), type(self)), rounds=p.rounds)
        booster = catboost.CatBoost({**settings, "od_type": "Iter", "od_wait": p.patience, "use_best_model": True})
        booster.fit(data, eval_set=catboost.Pool(valid.x, valid.y, weight=valid.weight))
        curve = [float(value) for value in booster.get_evals_result()["validation"]["MultiClass"]]
        best = int(booster.get_best_iteration()) + 1
        return Fitted(Native(_cbm(booster), type(self)), len(curve), best, len(curve) < p.rounds, curve)

    @classmethod
    def parse(cls, content: bytes) -> Any:
        """The model of CatBoost's binary form."""
        import catboost

        booster = catboost.CatBoost()
        booster.load_model(blob=content)
        return booster

    def class_probabilities(self, model: Native, x: NDArray[np.float32]) -> NDArray[np.float64]:
        """Softmax of the trees' sums."""
        told = model.booster.predict(x, prediction_type="Probability", thread_count=1)
        return np.asarray(told, dtype=np.float64)

    def gain(self, booster: Any) -> NDArray[np.float64]:
        """Mean change of the prediction along each column's splits, CatBoost's counterpart of gain."""
        return np.asarray(booster.get_feature_importance(type="PredictionValuesChange"), dtype=np.float64)


def _cbm(booster: Any) -> bytes:
    """CatBoost's binary form, without the stamps that differ between equal models."""
    stamps = booster.get_metadata()
    for name in ("model_guid", "train_finish_time"):
        stamps[name] = ""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.cbm"
        booster.save_model(str(file), format="cbm")
        return file.read_bytes()
