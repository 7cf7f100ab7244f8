"""Ensembles of classifiers: voting, weighted pools, blending and stacking on out-of-fold probabilities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from models.ensembles.pooling import Floats, apply_stack, fit_stack, log_loss, log_pool, simplex_weights
from nightcast.contracts.columns import CLASS_PROBS, CUTOFF, HORIZON, ID, MODEL, TARGET, TIME
from nightcast.contracts.errors import ConfigError, TrainingError
from nightcast.contracts.fold import Fold
from nightcast.contracts.prediction import KEYS, ClassProbs
from nightcast.contracts.recipe import CombinerPlan
from nightcast.evaluation.decisions import ended_before

LABEL: Final = "ensemble"


@dataclass(frozen=True)
class ClassCombiner:
    """Pool the members' class probabilities; what is learnt, is learnt per horizon on out-of-fold rows.

    `mean` and `voting` weigh the members that are no baseline equally (in probabilities and in log-odds). `weighted`
    minimises the log loss over the simplex, then moves towards equal weights of those members that are as good as
    the best baseline, by `plan.shrinkage`; `blending` does the same on the newest tenth of the rows alone, and
    `stacking` fits a multinomial logistic regression on their log-odds, penalised towards the equal pool.

    Attributes
    ----------
    blend
        Share of the newest rows that blending learns from.
    coverage
        Share of the rows a member must have to take part in learning.
    tolerance
        A member counts as good as the best baseline up to this ratio of log losses.
    max_rows
        Rows per horizon that weights are learnt from; more are thinned evenly.
    """

    blend: float = 0.1
    coverage: float = 0.8
    tolerance: float = 1.002
    max_rows: int = 40_000

    def fit(self, oof: pl.DataFrame, plan: CombinerPlan, *, baselines: Sequence[str]) -> dict[str, Any]:
        """Learn from all rows given.

        Parameters
        ----------
        oof
            `unique_id, ds, cutoff, horizon, model, p_short, p_neutral, p_long, y`.
        baselines
            Labels of the baselines.

        Raises
        ------
        ConfigError
            If there are no rows.
        """
        if oof.is_empty():
            raise ConfigError(
                "no out-of-fold rows to combine",
                expected="at least one member's rows with known labels",
                remedy="look at the failures of the walk-forward",
            )
        members = sorted(oof.get_column(MODEL).unique().to_list())
        weights: dict[str, dict[str, float]] = {}
        stacks: dict[str, Any] = {}
        for key, part in sorted(oof.partition_by(HORIZON, as_dict=True).items()):
            labels, probs, y = _cube(part, self.coverage, self.max_rows)
            naive = [label in set(baselines) for label in labels]
            found = self._weights(probs, y, naive, plan)
            weights[str(key[0])] = {label: 0.0 for label in members} | dict(zip(labels, found.tolist(), strict=True))
            if plan.method == "stacking" and len(y):
                used = [i for i, its in enumerate(naive) if not its] or list(range(len(labels)))
                stacks[str(key[0])] = {
                    "members": [labels[i] for i in used],
                    "coefficients": fit_stack(probs[used], y).tolist(),
                }
        return {"method": plan.method, "members": members, "weights": weights, "stacks": stacks}

    def apply(self, members: Mapping[str, ClassProbs], weights: dict[str, Any]) -> ClassProbs:
        """Combine predictions; a member that lacks a row leaves its weight to the others.

        Raises
        ------
        TrainingError
            If there is no member at all.
        """
        if not members:
            raise TrainingError(
                "no member delivered a prediction to combine",
                expected=f"at least one of {weights.get('members', [])}",
                remedy="look at the members' own errors; the fallback chain serves the night",
            )
        labels = sorted(members)
        keys = pl.concat([members[label].frame.select(KEYS) for label in labels]).unique().sort(ID, CUTOFF, HORIZON)
        cube = np.full((len(labels), keys.height, len(CLASS_PROBS)), np.nan)
        for i, label in enumerate(labels):
            found = keys.join(members[label].frame, on=list(KEYS), how="left", maintain_order="left")
            cube[i] = found.select(pl.col(CLASS_PROBS).cast(pl.Float64)).to_numpy()
        out = np.empty((keys.height, len(CLASS_PROBS)))
        horizons = keys.get_column(HORIZON).to_numpy()
        for horizon in np.unique(horizons):
            at = horizons == horizon
            out[at] = self._joined(labels, cube[:, at], weights, int(horizon))
        return ClassProbs.of(keys.with_columns(pl.Series(name, out[:, k]) for k, name in enumerate(CLASS_PROBS)))

    def prequential_oof(
        self, oof: pl.DataFrame, plan: CombinerPlan, baselines: Sequence[str], folds: Sequence[Fold]
    ) -> pl.DataFrame:
        """Give the ensemble's own out-of-fold rows: in each fold combined by what earlier folds' closed labels teach.

        Parameters
        ----------
        oof
            As in `fit`, with `label_end`.

        Returns
        -------
        polars.DataFrame
            The columns of `oof`, one row per key, `model` being `ensemble`; sorted by symbol, cutoff and horizon.
        """
        rest = [name for name in oof.columns if name not in (*KEYS, MODEL, *CLASS_PROBS, "signal")]
        facts = oof.select(*KEYS, *rest).unique(KEYS)
        parts = []
        for fold in folds:
            first, last = fold.cutoffs[0], fold.cutoffs[-1]
            rows = oof.filter(pl.col(CUTOFF).is_between(first, last))
            if rows.is_empty():
                continue
            known = ended_before(oof, first)
            table = self.fit(known, plan, baselines=baselines) if known.height else self._untaught(rows, baselines)
            its = {str(key[0]): ClassProbs.of(part) for key, part in rows.partition_by(MODEL, as_dict=True).items()}
            parts.append(self.apply(its, table).frame)
        joined = pl.concat(parts).join(facts, on=list(KEYS), how="left").with_columns(pl.lit(LABEL).alias(MODEL))
        return joined.select(oof.columns).sort(ID, CUTOFF, HORIZON)

    def _untaught(self, rows: pl.DataFrame, baselines: Sequence[str]) -> dict[str, Any]:
        """Equal weights of the members that are no baseline, before any label has closed."""
        members = sorted(rows.get_column(MODEL).unique().to_list())
        chosen = [name for name in members if name not in set(baselines)] or members
        equal = {name: (1 / len(chosen) if name in chosen else 0.0) for name in members}
        horizons = rows.get_column(HORIZON).unique().to_list()
        return {"method": "voting", "members": members, "weights": {str(h): equal for h in horizons}, "stacks": {}}

    def _weights(self, probs: Floats, y: NDArray[np.int8], naive: list[bool], plan: CombinerPlan) -> Floats:
        count = probs.shape[0]
        own = [i for i in range(count) if not naive[i]] or list(range(count))
        if plan.method in ("mean", "voting", "stacking") or not len(y):
            return _equal(count, own)
        if plan.method == "blending":
            newest = max(1, round(self.blend * len(y)))
            probs, y = probs[:, -newest:], y[-newest:]
        found = simplex_weights(probs, y)
        losses = np.array([log_loss(probs[i], y) for i in range(count)])
        yardstick = min((losses[i] for i in range(count) if naive[i]), default=np.inf)
        good = [i for i in own if losses[i] <= yardstick * self.tolerance]
        target = _equal(count, good or [int(np.argmin(losses))])
        return (1 - plan.shrinkage) * found + plan.shrinkage * target

    def _joined(self, labels: list[str], cube: Floats, table: dict[str, Any], horizon: int) -> Floats:
        present = np.isfinite(cube).all(axis=2)
        learnt = table["weights"].get(str(horizon))
        if learnt is None:
            nearest = min(table["weights"], key=lambda seen: (abs(int(seen) - horizon), int(seen)), default=None)
            learnt = {} if nearest is None else table["weights"][nearest]
        share = np.array([learnt.get(label, 0.0) for label in labels])
        out = np.empty(cube.shape[1:])
        stack = table["stacks"].get(str(horizon))
        for pattern in np.unique(present, axis=1).T:
            at = (present == pattern[:, None]).all(axis=0)
            here = [i for i, its in enumerate(pattern) if its]
            its = share[here]
            its = its / its.sum() if its.sum() > 0 else np.full(len(here), 1 / len(here))
            part = cube[here][:, at]
            if stack is not None and set(stack["members"]) <= {labels[i] for i in here}:
                order = [here.index(labels.index(name)) for name in stack["members"]]
                out[at] = apply_stack(part[order], np.asarray(stack["coefficients"]))
            elif table["method"] == "mean":
                out[at] = np.tensordot(its, part, axes=1)
            else:
                out[at] = log_pool(part, its)
        return out


def _equal(count: int, chosen: list[int]) -> Floats:
    out = np.zeros(count)
    out[chosen] = 1 / len(chosen)
    return out


def _cube(part: pl.DataFrame, coverage: float, most: int) -> tuple[list[str], Floats, NDArray[np.int8]]:
    """Members with enough rows, their `[M, n, 3]` probabilities on common rows in order of time, and the labels."""
    parts = {str(key[0]): its for key, its in sorted(part.partition_by(MODEL, as_dict=True).items())}
    total = part.select(KEYS).unique().height
    labels = [label for label, its in parts.items() if its.height >= coverage * total] or list(parts)
    common = parts[labels[0]].select(*KEYS, TARGET)
    for label in labels[1:]:
        common = common.join(parts[label].select(KEYS), on=list(KEYS), how="semi")
    common = common.sort(TIME, ID, CUTOFF)
    if common.height > most:
        common = common[np.unique(np.linspace(0, common.height - 1, most).round().astype(np.int64))]
    cube = np.stack(
        [
            common.join(parts[label], on=list(KEYS), how="left", maintain_order="left")
            .select(pl.col(CLASS_PROBS).cast(pl.Float64))
            .to_numpy()
            for label in labels
        ]
    )
    return labels, cube, common.get_column(TARGET).cast(pl.Int8).to_numpy()
