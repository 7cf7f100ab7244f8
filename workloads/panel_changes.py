"""Why a panel's forecast changed since the one before: other data, new months, or another model, step by step."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import polars as pl

from models.ensembles.bundle import Bundle
from nightcast.contracts.columns import CUTOFF, FALLBACK_REASON, ID, MEDIAN, MODEL_USED, TIME
from nightcast.contracts.errors import RegistryError
from workloads.stages import CHAMPION, ENSEMBLE, SIMPLE, Morning, simple_ensemble

KEYS = [ID, TIME]
_STEPS = ("before", "revised", "new_months", "model", "now")


def change_reasons(morning: Morning) -> pl.DataFrame:
    """The change of each median since the forecast before, as a sum of steps.

    The bundle that made the forecast before is asked twice more: on tonight's data at its own cutoff, and at tonight's.
    With `before` what was published, `again` the first answer, `later` the second and `now` what is published tonight:

    - `revised` = again - before: rows and plans for the same months that have been corrected since;
    - `new_months` = later - again: what has been reported since, and the plan from there;
    - `model` = now - later: another fit, other weights, another calibration.

    Returns
    -------
    pl.DataFrame
        `unique_id, ds, before, revised, new_months, model, now` for steps that both forecasts cover, both made by a
        model; before + revised + new_months + model = now.

    Raises
    ------
    NightcastError
        If the bundle of the forecast before cannot answer.
    """
    before, dataset = morning.before, morning.dataset
    empty = pl.DataFrame(schema=[(ID, pl.String), (TIME, pl.Datetime("us")), *((name, pl.Float64) for name in _STEPS)])
    if before is None or before.bundle is None or dataset is None:
        return empty
    former = before.frame.filter(pl.col(FALLBACK_REASON).is_null())
    tonight = morning.served.frame.filter(pl.col(FALLBACK_REASON).is_null())
    both = former.select(*KEYS, CUTOFF, MODEL_USED, pl.col(MEDIAN).alias("before")).join(
        tonight.select(*KEYS, pl.col(MEDIAN).alias("now")), on=KEYS
    )
    if both.is_empty():
        return empty
    parts = []
    prepared = _prepared(morning, before.bundle)
    for (used, cutoff), part in both.partition_by(MODEL_USED, CUTOFF, as_dict=True, maintain_order=True).items():
        again = _answer(morning, before.bundle, prepared, cutoff, str(used)).rename({MEDIAN: "again"})
        later = _answer(morning, before.bundle, prepared, prepared.as_of, str(used)).rename({MEDIAN: "later"})
        parts.append(part.join(again, on=KEYS).join(later, on=KEYS))
    return (
        pl.concat(parts)
        .select(
            *KEYS,
            "before",
            (pl.col("again") - pl.col("before")).alias("revised"),
            (pl.col("later") - pl.col("again")).alias("new_months"),
            (pl.col("now") - pl.col("later")).alias("model"),
            "now",
        )
        .sort(KEYS)
    )


def _prepared(morning: Morning, bundle: Bundle) -> Any:
    """Tonight's rows as the older recipe prepares them."""
    ours, recipe = morning.bundle, bundle.recipe
    same = ours is not None and (ours.recipe.features, ours.recipe.preparation) == (recipe.features, recipe.preparation)
    return morning.dataset if same else morning.workload.prepare(morning.raw, morning.verdict, recipe)


def _answer(morning: Morning, bundle: Bundle, dataset: Any, cutoff: datetime, used: str) -> pl.DataFrame:
    """What a bundle says at a cutoff, under the name it was published by: the ensemble, or one member alone."""
    predictions, failures = bundle.predict_members(dataset.view(cutoff))
    if used in (ENSEMBLE, CHAMPION):
        made = bundle.join(predictions, failures, morning.workload.scale(dataset, [cutoff]))
    elif used == SIMPLE:
        made = simple_ensemble(morning.workload, predictions.values())
    elif used in predictions:
        made = predictions[used]
    else:
        raise RegistryError(
            f"the bundle of the forecast before cannot answer as {used!r}",
            expected=f"one of {', '.join((ENSEMBLE, CHAMPION, SIMPLE, *predictions))}",
            remedy="nothing to do: the next night is compared with tonight's",
        )
    frame: pl.DataFrame = made.frame
    return frame.select(*KEYS, MEDIAN)
