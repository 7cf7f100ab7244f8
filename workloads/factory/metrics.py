"""The shape of a run's evaluation metrics, and the check that nothing else is written."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

from nightcast.contracts.columns import CLASSES
from nightcast.contracts.errors import TrainingError

_NUMBER: Final = {"type": ["number", "null"]}
_SHARE: Final = {"type": "number", "minimum": 0, "maximum": 1}


def _object(properties: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": dict(properties),
        "required": list(properties),
        "additionalProperties": False,
    }


METRICS_SCHEMA: Final[dict[str, Any]] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    **_object(
        {
            "model_name": {"type": "string"},
            "horizon": {"type": "integer", "minimum": 1},
            "timestamp": {"type": "string", "pattern": r"^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}"},
            "classification": _object(
                {
                    "accuracy": _SHARE,
                    "macro_f1": _SHARE,
                    "weighted_f1": _SHARE,
                    "per_class_f1": _object(dict.fromkeys(CLASSES, _SHARE)),
                    "confusion_matrix": {
                        "type": "array",
                        "minItems": len(CLASSES),
                        "maxItems": len(CLASSES),
                        "items": {
                            "type": "array",
                            "minItems": len(CLASSES),
                            "maxItems": len(CLASSES),
                            "items": {"type": "integer", "minimum": 0},
                        },
                    },
                    "log_loss": {"type": "number", "minimum": 0},
                    "direction_auc": _NUMBER,
                    "balanced_accuracy": _SHARE,
                    "brier": {"type": "number", "minimum": 0},
                    "ece": {"type": "number", "minimum": 0},
                    "mcc": _NUMBER,
                }
            ),
            "trading": _object(
                {
                    "sharpe_ratio": _NUMBER,
                    "gross_sharpe_ratio": _NUMBER,
                    "annualized_return": _NUMBER,
                    "max_drawdown": _NUMBER,
                    "win_rate": _NUMBER,
                    "profit_factor": _NUMBER,
                    "num_trades": {"type": "integer", "minimum": 0},
                    "turnover": _NUMBER,
                }
            ),
            "training": _object(
                {
                    "epochs_trained": {"type": "integer", "minimum": 0},
                    "best_epoch": {"type": ["integer", "null"]},
                    "training_time_seconds": {"type": "number", "minimum": 0},
                    "early_stopped": {"type": "boolean"},
                    "train_loss": _NUMBER,
                    "val_loss": _NUMBER,
                    "train_f1": _NUMBER,
                    "val_f1": _NUMBER,
                }
            ),
        }
    ),
}
"""Every value has its place; a number that does not exist is null, never 0 or nan."""


def checked_metrics(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Metrics with numbers that are not finite as null, held to the schema.

    Raises
    ------
    TrainingError
        If a value is missing, has the wrong type or range, or is none of the schema's.
    """
    import jsonschema

    clean: dict[str, Any] = _clean(dict(metrics))
    try:
        jsonschema.validate(clean, METRICS_SCHEMA)
    except jsonschema.ValidationError as error:
        where = ".".join(str(part) for part in error.absolute_path) or "the metrics"
        raise TrainingError(
            f"{where}: {error.message}",
            expected="metrics as METRICS_SCHEMA declares them",
            remedy="mend the evaluation that made them",
        ) from None
    return clean


def _clean(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _clean(its) for name, its in value.items()}
    if isinstance(value, list | tuple):
        return [_clean(its) for its in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
