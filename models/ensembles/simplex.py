"""Weights on the simplex, per horizon, learnt from out-of-fold quantiles."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from nightcast.contracts.columns import CUTOFF, HORIZON, ID, LEVELS, MODEL, QUANTILES, TARGET, TIME
from nightcast.contracts.errors import ConfigError, TrainingError
from nightcast.contracts.frequency import Frequency
from nightcast.contracts.prediction import KEYS, Quantiles, sort_quantiles
from nightcast.contracts.recipe import CombinerPlan
from nightcast.evaluation.league import loss_scale_expr

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

_SCALE: Final = "scale"
_LOSS_SCALE: Final = "_loss_scale"
_LEVELS: Final = np.array(LEVELS)
_ROW: Final = "_row"


@dataclass(frozen=True)
class SimplexCombiner:
    """Average the members' quantiles (Vincentization) with weights that minimise the scaled pinball loss.

    Weights are learnt per horizon, then moved towards equal ones by `plan.shrinkage`, and further the fewer origins
    there are: estimated weights seldom beat equal ones on few origins (Wang et al. 2023, arXiv 2205.04216). Equal means
    equal among the members that are about as good as the best baseline; the rest would only dilute them. The best
    baseline keeps at least `naive_floor`. If the combination (learnt, or the mean) did worse than the best baseline on
    origins later than those its weights came from, by more than chance, that baseline takes the whole weight at every
    horizon it forecasts. Members are compared by their losses over all horizons; one horizon's rows tell too little.

    Attributes
    ----------
    naive_floor
        Least weight of the best baseline (or the equal weight, if that is less).
    caution
        Origins at which half of the way from equal to optimal weights is gone (before `plan.shrinkage`).
    trim, patience
        The equal weights go to members whose loss is at most `1 + (trim - 1) (1 + patience / origins)` times the best
        baseline's.
    diverged
        A member, no baseline, whose loss is more than so many times the members' median gets no weight, unless no
        other member forecasts the horizon.
    max_rows
        Rows per horizon the weights are learnt from; more are thinned evenly.
    judged_origins
        Origins with closed ones before them that the guard wants to see (two at least); with fewer it does not act.
    label
        Name of the ensemble in tables.
    """

    naive_floor: float = 0.05
    caution: float = 6.0
    trim: float = 1.1
    patience: float = 12.0
    diverged: float = 10.0
    max_rows: int = 4000
    judged_origins: int = 3
    label: str = "ensemble"

    def fit(self, oof: pl.DataFrame, plan: CombinerPlan, *, baselines: Sequence[str]) -> dict[str, Any]:
        """Learn weights from all rows given.

        Parameters
        ----------
        oof
            `unique_id, ds, cutoff, horizon, model, q10 .. q90, y` and, if there is one, `scale`.
        baselines
            Labels of the naive family; those that are no member are passed over.

        Returns
        -------
        dict
            `members`, `weights` (horizon -> label -> weight, each horizon sums to one) and `evidence` (horizon -> its
            rows and origins; the origins judged, the loss of combination and best baseline on them, over all horizons;
            whether the guard acted there), as JSON values.

        Raises
        ------
        ConfigError
            If there are no rows, columns are missing, a row repeats, or an outcome or scale is unknown.
        """
        members, cubes = _cubes(oof)
        ends = dict(oof.group_by(CUTOFF).agg(pl.col(TIME).max()).rows())
        naive = [i for i, name in enumerate(members) if name in set(baselines)]
        nested = self._nested(cubes, ends, plan, naive)
        everything = {horizon: np.ones(len(cube.y), dtype=bool) for horizon, cube in cubes.items()}
        guard = self._judge(cubes, everything, nested, naive)
        pooled = self._standing(cubes, everything, naive)
        weights: dict[str, dict[str, float]] = {}
        evidence: dict[str, dict[str, Any]] = {}
        for horizon, cube in cubes.items():
            acts = _takes_over(guard, cube, everything[horizon])
            if guard is not None and acts:
                found = _unit(len(members), guard.baseline)
            else:
                found = self._learn(cube, everything[horizon], plan, naive, pooled)
            weights[str(horizon)] = dict(zip(members, found.tolist(), strict=True))
            evidence[str(horizon)] = {
                "rows": len(cube.y),
                "origins": len(cube.cutoffs),
                "judged_origins": 0 if guard is None else guard.origins,
                "loss": None if guard is None else guard.loss,
                "baseline": None if guard is None else members[guard.baseline],
                "baseline_loss": None if guard is None else guard.baseline_loss,
                "guard": acts,
            }
        return {"members": list(members), "weights": weights, "evidence": evidence}

    def apply(self, members: Mapping[str, Quantiles], weights: dict[str, Any]) -> Quantiles:
        """Combine predictions; a member that lacks a row leaves its weight to the others.

        A horizon that was never learnt takes the nearest one's weights; a row that only members without weight cover
        takes their mean. Rows that no member covers are absent.

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
        index = keys.with_row_index(_ROW)
        learnt = {int(horizon): table for horizon, table in weights["weights"].items()}
        rows = {label: members[label].frame.join(index, on=list(KEYS), how="left") for label in labels}
        present = np.zeros((keys.height, len(labels)), dtype=bool)
        for i, label in enumerate(labels):
            present[rows[label].get_column(_ROW).to_numpy(), i] = True
        wanted = keys.get_column(HORIZON).to_numpy()
        share = np.zeros(present.shape)
        for horizon in np.unique(wanted):
            nearest = min(learnt, key=lambda seen: (abs(seen - int(horizon)), seen)) if learnt else None
            table = learnt[nearest] if nearest is not None else {}
            share[wanted == horizon] = [table.get(label, 0.0) for label in labels]
        share = _renormalised(share, present)
        combined = np.zeros((keys.height, len(QUANTILES)))
        for i, label in enumerate(labels):
            at = rows[label].get_column(_ROW).to_numpy()
            combined[at] += share[at, i, None] * rows[label].select(QUANTILES).to_numpy()
        return Quantiles.of(keys.with_columns(pl.Series(name, combined[:, i]) for i, name in enumerate(QUANTILES)))

    def prequential_oof(
        self,
        oof: pl.DataFrame,
        plan: CombinerPlan,
        baselines: Sequence[str],
        horizon_steps: int,
        freq: Frequency,
    ) -> pl.DataFrame:
        """Give the ensemble's own out-of-fold rows, as each night would have combined them.

        At each cutoff the weights, and the guard's verdict, come only from origins whose full horizon had closed by
        then; while there are none the members weigh equally.

        Parameters
        ----------
        oof
            As in `fit`.
        horizon_steps
            Steps in a full horizon.

        Returns
        -------
        polars.DataFrame
            `unique_id, ds, cutoff, horizon, model, q10 .. q90, y, scale`, sorted by cutoff, series and horizon.
        """
        members, cubes = _cubes(oof)
        naive = [i for i, name in enumerate(members) if name in set(baselines)]
        ends = {cutoff: freq.shift(cutoff, horizon_steps) for cutoff in oof.get_column(CUTOFF).unique().to_list()}
        nested = self._nested(cubes, ends, plan, naive)
        guards: dict[datetime, _Verdict | None] = {}
        parts = []
        for horizon, cube in cubes.items():
            values = np.empty((len(cube.y), len(QUANTILES)))
            for i, cutoff in enumerate(cube.cutoffs):
                if cutoff not in guards:
                    guards[cutoff] = self._judge(cubes, _closed(cubes, cutoff, ends), nested, naive)
                guard = guards[cutoff]
                its = nested[horizon].weights[i]
                if guard is not None and _takes_over(guard, cube, cube.closed(cutoff, ends)):
                    its = _unit(len(members), guard.baseline)
                at = cube.origin == i
                values[at] = _combined(cube.values[at], its)
            part = cube.keys.with_columns(
                pl.lit(self.label).alias(MODEL),
                *(pl.Series(name, values[:, i]) for i, name in enumerate(QUANTILES)),
            )
            parts.append(sort_quantiles(part))
        columns = [*KEYS, MODEL, *QUANTILES, TARGET, _SCALE]
        return pl.concat(parts).select(columns).sort(CUTOFF, ID, HORIZON)

    def _nested(
        self, cubes: Mapping[int, _Cube], ends: Mapping[datetime, datetime], plan: CombinerPlan, naive: list[int]
    ) -> dict[int, _Nested]:
        """Per horizon: what each origin's closed predecessors teach, and what came of it."""
        out = {horizon: _Nested.empty(cube) for horizon, cube in cubes.items()}
        cutoffs = sorted({cutoff for cube in cubes.values() for cutoff in cube.cutoffs})
        seen: list[datetime] = []
        pooled: Floats | None = None
        known: dict[int, Floats] = {}
        for cutoff in cutoffs:
            closed = _closed(cubes, cutoff, ends)
            past = [origin for origin in cutoffs if ends[origin] <= cutoff]
            # An origin that closed at another horizon only changes the members' standing, hence these weights too.
            if past != seen:
                seen, known = past, {}
                pooled = self._standing(cubes, closed, naive)
            for horizon, cube in cubes.items():
                if cutoff not in cube.cutoffs:
                    continue
                taught = bool(closed[horizon].any())
                if pooled is None or not taught:
                    weights = np.full(cube.values.shape[1], 1 / cube.values.shape[1])
                else:
                    if horizon not in known:
                        known[horizon] = self._learn(cube, closed[horizon], plan, naive, pooled)
                    weights = known[horizon]
                at = cube.origin == cube.cutoffs.index(cutoff)
                its = out[horizon]
                its.losses[at] = _loss(_combined(cube.values[at], weights), cube.y[at], cube.scale[at])
                its.learnt[at] = taught
                its.weights.append(weights)
        return out

    def _learn(self, cube: _Cube, rows: Bools, plan: CombinerPlan, naive: list[int], pooled: Floats) -> Floats:
        """Weights from some rows of one horizon: optimal, shrunk, with the naive member's floor.

        Who is worthy of an equal share is judged by `pooled`, the members' standing over all horizons.
        """
        count = cube.values.shape[1]
        if plan.method == "mean":
            return np.full(count, 1 / count)
        seen = np.array([np.isfinite(cube.member_loss[rows, i]).any() for i in range(count)])
        usable = seen & np.isfinite(pooled)
        if not usable.any():
            usable = seen
        at = np.flatnonzero(rows)
        if len(at) > self.max_rows:
            at = at[np.linspace(0, len(at) - 1, self.max_rows).astype(int)]
        values = cube.values[np.ix_(at, usable)]
        covered = np.isfinite(values[..., 0]).any(axis=1)
        values, at = values[covered], at[covered]
        anchors = [i for i in naive if usable[i]]
        origins = len(np.unique(cube.origin[rows]))
        worthy = usable
        if anchors:
            # A month that hit all wells alike can make any member look best: few origins exclude almost none.
            margin = 1 + (self.trim - 1) * (1 + self.patience / origins)
            worthy = usable & (pooled <= margin * min(pooled[i] for i in anchors))
        target = worthy / worthy.sum()
        best = np.zeros(count)
        best[usable] = _optimum(values, cube.y[at], cube.scale[at])
        shrinkage = plan.shrinkage + (1 - plan.shrinkage) * self.caution / (self.caution + origins)
        weights: Floats = (1 - shrinkage) * best + shrinkage * target
        if anchors:
            anchor = min(anchors, key=lambda i: pooled[i])
            floor = min(self.naive_floor, 1 / usable.sum())
            if weights[anchor] < floor:
                weights *= (1 - floor) / (1 - weights[anchor])
                weights[anchor] = floor
        return np.asarray(weights / weights.sum())

    def _standing(self, cubes: Mapping[int, _Cube], rows: Mapping[int, Bools], naive: list[int]) -> Floats:
        """Each member's mean loss over some rows of all horizons; NaN if it has none, infinite if it diverged.

        A row that a member lacks counts as the best baseline's there (the members' median, if there is none): who
        forecasts only the far horizons, or only the easy wells, is neither worse nor better for that.
        """
        losses = np.concatenate([cube.member_loss[rows[horizon]] for horizon, cube in cubes.items()])
        present = np.isfinite(losses)
        out = np.full(losses.shape[1], np.nan)
        if not len(losses):
            return out
        own = np.array([losses[present[:, i], i].mean() if present[:, i].any() else np.nan for i in range(len(out))])
        typical = np.full(len(losses), np.nan)
        held = [i for i in naive if present[:, i].any()]
        for best in sorted(held, key=lambda i: (2 * present[:, i].sum() < len(losses), own[i])):
            typical = np.where(np.isnan(typical), losses[:, best], typical)
        rest = np.isnan(typical)
        if rest.any():
            typical[rest] = np.nanmedian(losses[rest], axis=1)
        for i in np.flatnonzero(np.isfinite(own)):
            out[i] = np.where(present[:, i], losses[:, i], typical).mean()
        diverged = own > self.diverged * np.nanmedian(own)
        diverged[naive] = False
        out[diverged] = np.inf
        return out

    def _judge(
        self,
        cubes: Mapping[int, _Cube],
        rows: Mapping[int, Bools],
        nested: Mapping[int, _Nested],
        naive: list[int],
    ) -> _Verdict | None:
        """Hold the nested loss against the baseline that is hardest to beat, origin by origin, over all horizons.

        The baseline takes over only where the evidence is more than chance: origins share shocks and their horizons
        overlap, so about two in `H` origins count as independent. Baselines that cover less than half of the rows are
        not asked.
        """
        judged = {h: rows[h] & nested[h].learnt for h in cubes}
        own = np.concatenate([nested[h].losses[judged[h]] for h in cubes])
        others = np.concatenate([cube.member_loss[judged[h]] for h, cube in cubes.items()])
        known = np.isfinite(others)
        asked = [i for i in naive if 0 < len(own) <= 2 * known[:, i].sum()]
        if not asked:
            return None
        anchor = max(asked, key=lambda i: (own - others[:, i])[known[:, i]].mean())
        keys = pl.concat([cube.keys.select(CUTOFF, HORIZON).filter(judged[h]) for h, cube in cubes.items()])
        # Horizons weigh equally within an origin, origins equally in all.
        table = (
            keys.with_columns(pl.Series("gap", own - others[:, anchor]))
            .filter(known[:, anchor])
            .group_by(CUTOFF, HORIZON, maintain_order=True)
            .agg(pl.col("gap").mean())
        )
        gaps = table.group_by(CUTOFF, maintain_order=True).agg(pl.col("gap").mean()).get_column("gap").to_numpy()
        if len(gaps) < max(2, self.judged_origins):
            return None
        independent = max(1.0, 2 * len(gaps) / max(2, table.get_column(HORIZON).n_unique()))
        error = float(gaps.std(ddof=1)) / math.sqrt(independent)
        return _Verdict(
            anchor,
            float(own[known[:, anchor]].mean()),
            float(others[known[:, anchor], anchor].mean()),
            len(gaps),
            worse=bool(gaps.mean() > error + 1e-12),
        )


@dataclass(frozen=True)
class _Verdict:
    baseline: int
    loss: float
    baseline_loss: float
    origins: int
    worse: bool


@dataclass(frozen=True)
class _Nested:
    """One horizon: per origin the weights its past taught; per row the loss with them, and whether they were taught."""

    weights: list[Floats]
    losses: Floats
    learnt: Bools

    @classmethod
    def empty(cls, cube: _Cube) -> _Nested:
        return cls([], np.full(len(cube.y), np.nan), np.zeros(len(cube.y), dtype=bool))


def _closed(cubes: Mapping[int, _Cube], cutoff: datetime, ends: Mapping[datetime, datetime]) -> dict[int, Bools]:
    return {horizon: cube.closed(cutoff, ends) for horizon, cube in cubes.items()}


def _takes_over(guard: _Verdict | None, cube: _Cube, rows: Bools) -> bool:
    """Whether the guard acts at a horizon: a baseline that never forecast it cannot."""
    return guard is not None and guard.worse and bool(np.isfinite(cube.member_loss[rows, guard.baseline]).any())


@dataclass(frozen=True)
class _Cube:
    """Rows of one horizon: `keys` (with y and scales), `values` (rows, members, levels), NaN where one is lacking."""

    keys: pl.DataFrame
    values: Floats
    y: Floats
    scale: Floats
    member_loss: Floats
    cutoffs: list[datetime]
    origin: NDArray[np.int64]

    def closed(self, cutoff: datetime, ends: Mapping[datetime, datetime]) -> Bools:
        """Rows of origins whose outcomes were all known at `cutoff`."""
        known = np.array([ends[origin] <= cutoff for origin in self.cutoffs])
        return np.asarray(known[self.origin], dtype=bool)


def _cubes(oof: pl.DataFrame) -> tuple[list[str], dict[int, _Cube]]:
    missing = [name for name in (*KEYS, MODEL, *QUANTILES, TARGET) if name not in oof.columns]
    if missing or not oof.height:
        raise ConfigError(
            f"the combiner got {oof.height} out-of-fold rows, columns lacking: {missing or 'none'}",
            expected=f"at least one row with {[*KEYS, MODEL, *QUANTILES, TARGET]}",
            remedy="look at the walk-forward: every member failed, or no outcome is known",
        )
    keys = [ID, TIME, CUTOFF, HORIZON]
    if oof.select(*keys, MODEL).is_duplicated().any():
        twice = oof.filter(oof.select(*keys, MODEL).is_duplicated())
        raise ConfigError(
            f"member {twice[MODEL][0]!r} has series {twice[ID][0]!r} twice at cutoff {twice[CUTOFF][0]}",
            expected="one out-of-fold row per member, series, cutoff and horizon",
            remedy="give members different labels",
        )
    oof = _scaled(oof)
    unknown = oof.filter(~pl.all_horizontal(pl.col(TARGET, _SCALE).cast(pl.Float64).is_finite().fill_null(False)))
    if unknown.height:
        raise ConfigError(
            f"{unknown.height} out-of-fold rows have no actual or no scale, first of series {unknown[ID][0]!r}",
            expected="rows whose outcome and scale are known",
            remedy="drop rows with a null `y`, join the scale of every series and cutoff",
        )
    members: list[str] = oof.get_column(MODEL).unique().sort().to_list()
    place = {name: i for i, name in enumerate(members)}
    cubes = {}
    for part in oof.sort(HORIZON).partition_by(HORIZON, maintain_order=True):
        base = part.select(*keys, TARGET, _SCALE, _LOSS_SCALE).unique(subset=keys, keep="first", maintain_order=True)
        base = base.sort(CUTOFF, ID)
        at = part.join(base.select(*keys).with_row_index(_ROW), on=keys, how="left").get_column(_ROW).to_numpy()
        member = part.get_column(MODEL).replace_strict(place, return_dtype=pl.Int64).to_numpy()
        values = np.full((base.height, len(members), len(QUANTILES)), np.nan)
        values[at, member] = part.select(pl.col(QUANTILES).cast(pl.Float64)).to_numpy()
        y = base.get_column(TARGET).cast(pl.Float64).to_numpy()
        scale = base.get_column(_LOSS_SCALE).to_numpy()
        cutoffs: list[datetime] = base.get_column(CUTOFF).unique().sort().to_list()
        origin = base.get_column(CUTOFF).rank("dense").cast(pl.Int64).to_numpy() - 1
        loss = np.stack([_loss(values[:, i], y, scale) for i in range(len(members))], axis=1)
        cubes[int(part[HORIZON][0])] = _Cube(base, values, y, scale, loss, cutoffs, origin)
    return members, cubes


def _scaled(oof: pl.DataFrame) -> pl.DataFrame:
    """Make sure of a scale, and add the one losses are divided by.

    Without a scale given it is the mean absolute actual of the series' rows.
    """
    if _SCALE not in oof.columns:
        level = oof.group_by(ID, maintain_order=True).agg(pl.col(TARGET).abs().mean().cast(pl.Float64).alias(_SCALE))
        typical = level.filter(pl.col(_SCALE) > 0).get_column(_SCALE).median()
        floor = 0.01 * typical if isinstance(typical, float) else 1.0
        oof = oof.join(level.with_columns(pl.col(_SCALE).clip(lower_bound=floor)), on=ID, how="left")
    return oof.with_columns(loss_scale_expr().alias(_LOSS_SCALE))


def _loss(values: Floats, y: Floats, scale: Floats) -> Floats:
    """Mean pinball loss over levels, per row, over the scale; NaN where the values are."""
    above = y[:, None] - values
    return np.asarray(np.maximum(_LEVELS * above, (_LEVELS - 1) * above).mean(axis=1) / scale)


def _unit(count: int, index: int) -> Floats:
    weights = np.zeros(count)
    weights[index] = 1.0
    return weights


def _renormalised(share: Floats, present: Bools) -> Floats:
    """Weights (rows, members) over the members present in each row; equal where none of these has weight."""
    held = np.where(present, share, 0.0)
    total = held.sum(axis=1, keepdims=True)
    equal = present / np.maximum(present.sum(axis=1, keepdims=True), 1)
    return np.where(total > 1e-12, held / np.where(total > 1e-12, total, 1.0), equal)


def _combined(values: Floats, weights: Floats) -> Floats:
    """Weighted quantiles (rows, levels) of members (rows, members, levels) with gaps."""
    present = np.isfinite(values[..., 0])
    share = _renormalised(np.broadcast_to(weights, present.shape), present)
    return np.asarray(np.einsum("rm,rmq->rq", share, np.where(present[..., None], values, 0.0)))


def _optimum(values: Floats, y: Floats, scale: Floats) -> Floats:
    """Minimise the mean scaled pinball loss over the simplex.

    The pinball loss is smoothed, `(sqrt(u^2 + e^2) + (2 tau - 1) u) / 2`, so that a quasi-Newton method (SLSQP)
    applies, and a small ridge towards equal weights makes the optimum unique when members agree. A gap counts as the
    mean of the members present, which is what their renormalised equal weights would give.
    """
    from scipy.optimize import minimize

    count = values.shape[1]
    equal = np.full(count, 1 / count)
    if count == 1 or not len(values):
        return equal
    present = np.isfinite(values[..., 0])
    mean = _combined(values, equal)
    filled = np.where(present[..., None], values, mean[:, None, :])
    members = (filled / scale[:, None, None]).transpose(0, 2, 1).reshape(-1, count)
    actual = np.repeat(y / scale, len(QUANTILES))
    tilt = 2 * np.tile(_LEVELS, len(values)) - 1
    start = np.abs(actual - members @ equal)
    typical = float(start.mean())
    if typical <= 0:
        return equal
    smooth = 0.02 * typical

    def objective(weights: Floats) -> tuple[float, Floats]:
        above = actual - members @ weights
        root = np.sqrt(above**2 + smooth**2)
        ridge = weights - equal
        value = float((root + tilt * above).mean()) / typical + 1e-3 * float(ridge @ ridge)
        slope = (above / root + tilt) / len(actual)
        return value, -(members.T @ slope) / typical + 2e-3 * ridge

    found = minimize(
        objective,
        equal,
        jac=True,
        method="SLSQP",
        bounds=[(0.0, 1.0)] * count,
        constraints={"type": "eq", "fun": lambda w: w.sum() - 1, "jac": lambda w: np.ones(count)},
        options={"maxiter": 200, "ftol": 1e-9},
    )
    weights = np.clip(np.asarray(found.x, dtype=float), 0.0, None)
    # A solver that stopped short is judged by what it reached, not by its flag.
    if not np.isfinite(weights).all() or weights.sum() <= 0:
        return equal
    weights = weights / weights.sum()
    return weights if objective(weights)[0] <= objective(equal)[0] else equal
