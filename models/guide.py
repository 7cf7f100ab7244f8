"""Which model to try first: the specification's decision tree, as data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from nightcast.contracts.catalog import Catalog
from nightcast.contracts.errors import ConfigError
from nightcast.contracts.prediction import ClassProbs

FEW_ROWS: Final = 50_000
MANY_FEATURES: Final = 30
LONG_CONTEXT: Final = 256


@dataclass(frozen=True)
class Recommendation:
    """What to try, in order, and why.

    Attributes
    ----------
    models
        Names, the first choice first.
    installed
        Those of them that this installation's catalog holds.
    because
        The branch that decided.
    """

    models: tuple[str, ...]
    installed: tuple[str, ...]
    because: str


def recommend(
    catalog: Catalog[ClassProbs],
    *,
    rows: int,
    features: int = 0,
    context: int = 60,
    interpretable: bool = False,
    sub_second: bool = False,
    covariates: bool = False,
) -> Recommendation:
    """Walk the decision tree; the first branch that applies decides.

    Parameters
    ----------
    rows
        Training decisions.
    features
        Correlated input columns.
    context
        Bars of context a decision should read.
    interpretable
        Whether people must see why.
    sub_second
        Whether a decision must be made within a second.
    covariates
        Whether static or known-ahead covariates are to be used.

    Raises
    ------
    ConfigError
        If a count is negative.
    """
    for name, value in (("rows", rows), ("features", features), ("context", context)):
        if value < 0:
            raise ConfigError(f"{name} is {value}", expected="a count", remedy=f"give --{name} as 0 or more")
    branches = (
        (rows < FEW_ROWS, ("chronos_bolt", "dlinear", "logistic", "lightgbm"), f"fewer than {FEW_ROWS:,} rows"),
        (interpretable, ("nbeats", "xgboost", "logistic"), "people must see why"),
        (sub_second, ("tcn", "dlinear", "logistic"), "a decision within a second"),
        (
            features > MANY_FEATURES,
            ("itransformer", "lightgbm", "xgboost"),
            f"more than {MANY_FEATURES} correlated features",
        ),
        (context > LONG_CONTEXT, ("mamba", "tcn"), f"a context of more than {LONG_CONTEXT} bars"),
        (covariates, ("tft", "lightgbm"), "static or known covariates"),
        (True, ("tcn", "lstm"), "none of the special cases"),
    )
    models, because = next((models, because) for applies, models, because in branches if applies)
    installed = tuple(name for name in models if name in catalog)
    return Recommendation(models, installed, because)
