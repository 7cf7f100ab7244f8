"""Ensembles of quantile forecasts: mean, given or learned weights, greedy selection, stacking."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from models.ensembles.bagging import bag_of, bagged, bagged_rows
from models.ensembles.cubes import SCALE, Bools, Cube, Floats, combined, cubes_of, pinball, unit
from models.ensembles.selection import greedy_selection, simplex_optimum
from models.ensembles.stacking import Stack, fit_stack
from nightcast.contracts.columns import CUTOFF, HORIZON, ID, MODEL, QUANTILES, TARGET, TIME
from nightcast.contracts.errors import ConfigError, TrainingError
from nightcast.contracts.frequency import Frequency
from nightcast.contracts.prediction import KEYS, Quantiles, sort_quantiles
from nightcast.contracts.recipe import CombinerPlan, MetaPlan

METHODS: Final = ("weighted", "mean", "greedy", "stacking")
"""Methods of `CombinerPlan` that combine quantiles."""

_ROW: Final = "_row"


def check_method(plan: CombinerPlan) -> None:
    """Refuse a method that does not combine quantiles.

    Raises
    ------
    ConfigError
        If the plan names one.
    """
    if plan.method not in METHODS:
        raise ConfigError(
            f"recipe.combiner.method {plan.method!r} does not combine quantiles",
            expected=f"one of {', '.join(METHODS)}",
            remedy="correct `recipe.combiner` in the workload file; voting and blending join class probabilities",
        )


@dataclass(frozen=True)
class QuantileCombiner:
    """Average the members' quantiles (Vincentization), or stack their medians.

    `plan.method` says how:

    - `mean`: equal weights.
    - `weighted`: the plan's own `weights`, one table for all horizons; where it has none, weights on the simplex that
      minimise the scaled pinball loss, per horizon.
    - `greedy`: weights by forward selection with replacement, per horizon (Caruana et al. 2004).
    - `stacking`: a meta-model on the members' medians gives the median, and the spread is that of the members with
      learned weights, moved along. With `stack_origins` origins or fewer the learned weights serve alone, and the
      evidence says so.

    Learned weights are moved towards equal ones by `plan.shrinkage`, and further the fewer origins there are: estimated
    weights seldom beat equal ones on few origins (Wang et al. 2023, arXiv 2205.04216). Equal shares go to members that
    are about as good as the best baseline, less to those that are worse than the best member by more than chance, and
    the baselines, which are variations of one thought, count as one member; the rest would only dilute them. The best
    baseline keeps at least `naive_floor`. A stack is held back towards the learned weights in the same measure. Given
    weights are taken as they are, without shrinkage or floor.

    Series differ in who forecasts them well: learned weights (not those of a stack) are multiplied, series by series,
    by `exp(-steep t r)`, where `r` is by how much a member's mean loss on the series is above the least, relative to
    it, and `t = n / (n + 1)` the trust in `n` independent origins (target times over horizons).

    If the combination, however it was made, did worse than the best baseline on origins later than those it was learned
    from, by more than chance, that baseline takes the whole weight at every horizon it forecasts. Members are compared
    by their losses over all horizons; one horizon's rows tell too little.

    Members `label#2`, `label#3`, ... are seeds of the member `label`, and are averaged with it before all else.

    Attributes
    ----------
    naive_floor
        Least weight of the best baseline (or the equal weight, if that is less).
    caution
        Origins at which half of the way from equal to optimal weights is gone (before `plan.shrinkage`).
    trim, patience
        The equal weights go to members whose loss is at most `1 + (trim - 1) (1 + patience / origins)` times the best
        baseline's.
    doubt
        A member whose loss is `z` standard errors above the best member's has `exp(-(z / doubt)^2 / 2)` of an equal
        share: how likely so large a difference is between two that are as good.
    steep
        How steeply weights of a series follow the losses on it. 0: all series have the same weights.
    diverged
        A member, no baseline, whose loss is more than so many times the members' median gets no weight, unless no
        other member forecasts the horizon.
    max_rows
        Rows per horizon the weights are learnt from; more are thinned evenly.
    judged_origins
        Origins with closed ones before them that the guard wants to see (two at least); with fewer it does not act.
    stack_origins
        A stack is learned from more origins than these.
    greedy_rounds
        Most additions of the greedy selection.
    label
        Name of the ensemble in tables.
    """

    naive_floor: float = 0.05
    caution: float = 6.0
    trim: float = 1.1
    patience: float = 12.0
    doubt: float = 1.0
    steep: float = 2.0
    diverged: float = 10.0
    max_rows: int = 4000
    judged_origins: int = 3
    stack_origins: int = 20
    greedy_rounds: int = 40
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
            `method`, `members`, `weights` (horizon -> label -> weight, each horizon sums to one), `series` (series ->
            label -> factor of the weights there), `stack` if there is one, and `evidence` (horizon -> its rows and
            origins; the origins judged, the loss of combination and best baseline on them, over all horizons; whether
            the guard acted there; what was done, `given` for the plan's own weights, and why it is not what was asked),
            as JSON values.

        Raises
        ------
        ConfigError
            If there are no rows, columns are missing, a row repeats, an outcome or scale is unknown, or the method is
            none for quantiles.
        """
        check_method(plan)
        oof = bagged_rows(oof)
        members, cubes = cubes_of(oof)
        ends = dict(oof.group_by(CUTOFF).agg(pl.col(TIME).max()).rows())
        naive = _places(members, baselines)
        nested = self._nested(members, cubes, ends, plan, naive)
        everything = {horizon: np.ones(len(cube.y), dtype=bool) for horizon, cube in cubes.items()}
        guard = self._judge(cubes, everything, nested, naive)
        taught = self._teach(members, cubes, everything, plan, naive)
        weights: dict[str, dict[str, float]] = {}
        evidence: dict[str, dict[str, Any]] = {}
        for horizon, cube in cubes.items():
            acts = _takes_over(guard, cube, everything[horizon])
            found = taught.weights[horizon]
            if guard is not None and acts:
                found = unit(len(members), guard.baseline)
            weights[str(horizon)] = dict(zip(members, found.tolist(), strict=True))
            evidence[str(horizon)] = {
                "rows": len(cube.y),
                "origins": len(cube.cutoffs),
                "judged_origins": 0 if guard is None else guard.origins,
                "loss": None if guard is None else guard.loss,
                "baseline": None if guard is None else members[guard.baseline],
                "baseline_loss": None if guard is None else guard.baseline_loss,
                "guard": acts,
                "method": taught.method,
                "why": taught.why,
            }
        table: dict[str, Any] = {"method": plan.method, "members": members, "weights": weights, "evidence": evidence}
        table["series"] = {
            name: dict(zip(members, factor.tolist(), strict=True)) for name, factor in taught.factors.items()
        }
        if taught.stack is not None:
            stacked = [int(horizon) for horizon, its in evidence.items() if not its["guard"]]
            table["stack"] = {**taught.stack.to_json(members), "horizons": stacked}
        return table

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
        bags = bagged(members)
        stacked: dict[str, Any] | None = weights.get("stack")
        labels = sorted(set(bags) | set(stacked["members"] if stacked else ()))
        keys = pl.concat([its.frame.select(KEYS) for its in bags.values()]).unique().sort(ID, CUTOFF, HORIZON)
        index = keys.with_row_index(_ROW)
        values = np.full((keys.height, len(labels), len(QUANTILES)), np.nan)
        for i, label in enumerate(labels):
            if label in bags:
                rows = bags[label].frame.join(index, on=list(KEYS), how="left")
                values[rows.get_column(_ROW).to_numpy(), i] = rows.select(QUANTILES).to_numpy()
        learnt = {int(horizon): table for horizon, table in weights["weights"].items()}
        wanted = keys.get_column(HORIZON).to_numpy()
        share = np.zeros((keys.height, len(labels)))
        nearest = {
            int(h): min(learnt, key=lambda seen: (abs(seen - int(h)), seen)) for h in np.unique(wanted) if learnt
        }
        for horizon, source in nearest.items():
            share[wanted == horizon] = [learnt[source].get(label, 0.0) for label in labels]
        by_series: dict[str, dict[str, float]] = weights.get("series", {})
        factors = {name: np.array([its.get(label, 1.0) for label in labels]) for name, its in by_series.items()}
        share *= _factors_at(keys, factors, len(labels))
        out = combined(values, share)
        if stacked:
            stack = Stack.from_json(stacked, labels)
            for horizon, source in nearest.items():
                if source in stacked["horizons"]:
                    at = wanted == horizon
                    out[at] = stack.shifted(out[at], values[at], source)
        return Quantiles.of(keys.with_columns(pl.Series(name, out[:, i]) for i, name in enumerate(QUANTILES)))

    def prequential_oof(
        self,
        oof: pl.DataFrame,
        plan: CombinerPlan,
        baselines: Sequence[str],
        horizon_steps: int,
        freq: Frequency,
    ) -> pl.DataFrame:
        """Give the ensemble's own out-of-fold rows, as each night would have combined them.

        At each cutoff the weights, a stack, and the guard's verdict come only from origins whose full horizon had
        closed by then; while there are none the members weigh equally, or as given.

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

        Raises
        ------
        ConfigError
            As in `fit`.
        """
        check_method(plan)
        oof = bagged_rows(oof)
        members, cubes = cubes_of(oof)
        naive = _places(members, baselines)
        ends = {cutoff: freq.shift(cutoff, horizon_steps) for cutoff in oof.get_column(CUTOFF).unique().to_list()}
        nested = self._nested(members, cubes, ends, plan, naive)
        guards: dict[datetime, _Verdict | None] = {}
        parts = []
        for horizon, cube in cubes.items():
            values = nested[horizon].values.copy()
            for i, cutoff in enumerate(cube.cutoffs):
                if cutoff not in guards:
                    guards[cutoff] = self._judge(cubes, _closed(cubes, cutoff, ends), nested, naive)
                guard = guards[cutoff]
                if guard is not None and _takes_over(guard, cube, cube.closed(cutoff, ends)):
                    at = cube.origin == i
                    values[at] = combined(cube.values[at], unit(len(members), guard.baseline))
            part = cube.keys.with_columns(
                pl.lit(self.label).alias(MODEL),
                *(pl.Series(name, values[:, i]) for i, name in enumerate(QUANTILES)),
            )
            parts.append(sort_quantiles(part))
        columns = [*KEYS, MODEL, *QUANTILES, TARGET, SCALE]
        return pl.concat(parts).select(columns).sort(CUTOFF, ID, HORIZON)

    def _nested(
        self,
        members: list[str],
        cubes: Mapping[int, Cube],
        ends: Mapping[datetime, datetime],
        plan: CombinerPlan,
        naive: list[int],
    ) -> dict[int, _Nested]:
        """Per horizon: each origin combined by what its closed predecessors teach, and what came of it."""
        out = {horizon: _Nested.empty(cube) for horizon, cube in cubes.items()}
        cutoffs = sorted({cutoff for cube in cubes.values() for cutoff in cube.cutoffs})
        seen: list[datetime] = []
        nothing = {horizon: np.zeros(len(cube.y), dtype=bool) for horizon, cube in cubes.items()}
        taught = self._teach(members, cubes, nothing, plan, naive)
        for cutoff in cutoffs:
            closed = _closed(cubes, cutoff, ends)
            past = [origin for origin in cutoffs if ends[origin] <= cutoff]
            # An origin that closed at another horizon only changes the members' standing, hence these weights too.
            if past != seen:
                seen, taught = past, self._teach(members, cubes, closed, plan, naive)
            for horizon, cube in cubes.items():
                if cutoff not in cube.cutoffs:
                    continue
                at = cube.origin == cube.cutoffs.index(cutoff)
                its = out[horizon]
                its.values[at] = taught.combine(horizon, cube.values[at], cube.keys.filter(pl.Series(at)))
                its.losses[at] = pinball(its.values[at], cube.y[at], cube.scale[at])
                # Given weights never saw an outcome: every origin is a later one to them.
                its.learnt[at] = plan.weights is not None or bool(closed[horizon].any())
        return out

    def _teach(
        self,
        members: list[str],
        cubes: Mapping[int, Cube],
        rows: Mapping[int, Bools],
        plan: CombinerPlan,
        naive: list[int],
    ) -> _Taught:
        """What some rows of all horizons teach; where a horizon has none, its members weigh equally."""
        equal = np.full(len(members), 1 / len(members))
        alike = equal_shares(equal, naive)
        if plan.weights is not None:
            given = np.array([plan.weights.get(label, 0.0) for label in members])
            if given.sum() > 0:
                return _Taught(dict.fromkeys(cubes, given / given.sum()), "given")
            return _Taught(dict.fromkeys(cubes, equal), "mean", "no member with a given weight has an out-of-fold row")
        if plan.method == "mean":
            return _Taught(dict.fromkeys(cubes, equal), "mean")
        learnt: Literal["weighted", "greedy"] = "greedy" if plan.method == "greedy" else "weighted"
        if not any(its.any() for its in rows.values()):
            return _Taught(dict.fromkeys(cubes, alike), "mean", "no origin has closed")
        pooled = self._standing(cubes, rows, naive)
        belief = np.exp(-0.5 * (errors_above_best(cubes, rows, pooled) / self.doubt) ** 2)
        weights = {
            horizon: self._learn(cube, rows[horizon], plan, naive, pooled, belief) if rows[horizon].any() else alike
            for horizon, cube in cubes.items()
        }
        factors = self._by_series(cubes, rows) if self.steep else {}
        if plan.method != "stacking":
            return _Taught(weights, learnt, factors=factors)
        origins = len({cube.cutoffs[i] for h, cube in cubes.items() for i in np.unique(cube.origin[rows[h]])})
        if origins <= self.stack_origins:
            why = f"{origins} origins, and stacking needs more than {self.stack_origins}: the learned weights serve"
            return _Taught(weights, learnt, why, factors=factors)
        sound = tuple(int(i) for i in np.flatnonzero(np.isfinite(pooled)))
        stack = fit_stack(
            cubes,
            rows,
            weights,
            plan.meta or MetaPlan(),
            members=sound,
            trust=1 - self._held_back(plan, origins),
            origins=origins,
            max_rows=self.max_rows,
        )
        return _Taught(weights, "stacking", stack=stack)

    def _by_series(self, cubes: Mapping[int, Cube], rows: Mapping[int, Bools]) -> dict[str, Floats]:
        """Factors of the members' weights, series by series; 1 for a member without a row of the series."""
        keys = pl.concat([cube.keys.filter(pl.Series(rows[h])).select(ID, TIME) for h, cube in cubes.items()])
        losses = np.concatenate([cube.member_loss[rows[h]] for h, cube in cubes.items()])
        told = keys.group_by(ID).agg(pl.col(TIME).n_unique().alias("times")).sort(ID)
        series = keys.get_column(ID).rank("dense").cast(pl.Int64).to_numpy() - 1
        present = np.isfinite(losses)
        total, count = np.zeros((2, told.height, losses.shape[1]))
        np.add.at(total, series, np.where(present, losses, 0.0))
        np.add.at(count, series, present)
        mean = np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)
        best = np.nanmin(mean, axis=1, keepdims=True)
        relative = np.divide(mean - best, best, out=np.zeros(mean.shape), where=(best > 0) & (count > 0))
        independent = told.get_column("times").to_numpy() / max(1, len(cubes))
        trust = (independent / (independent + 1.0))[:, None]
        # A member may be very bad on a series, and is as good as left out long before six times the least loss.
        factor = np.exp(-self.steep * trust * np.minimum(relative, 5.0))
        return dict(zip(told.get_column(ID).to_list(), factor, strict=True))

    def _held_back(self, plan: CombinerPlan, origins: int) -> float:
        """How far what was learned is moved towards what needs no learning."""
        return plan.shrinkage + (1 - plan.shrinkage) * self.caution / (self.caution + origins)

    def _learn(
        self, cube: Cube, rows: Bools, plan: CombinerPlan, naive: list[int], pooled: Floats, belief: Floats
    ) -> Floats:
        """Weights from some rows of one horizon: optimal, shrunk, with the naive member's floor.

        Who is worthy of an equal share is judged by `pooled`, the members' standing over all horizons, and of how much
        of one by `belief`.
        """
        count = cube.values.shape[1]
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
        shares = np.where(worthy, belief, 0.0)
        target = equal_shares(shares if shares.any() else worthy.astype(np.float64), naive)
        best = np.zeros(count)
        if plan.method == "greedy":
            best[usable] = greedy_selection(values, cube.y[at], cube.scale[at], rounds=self.greedy_rounds)
        else:
            best[usable] = simplex_optimum(values, cube.y[at], cube.scale[at])
        shrinkage = self._held_back(plan, origins)
        weights: Floats = (1 - shrinkage) * best + shrinkage * target
        if anchors:
            anchor = min(anchors, key=lambda i: pooled[i])
            floor = min(self.naive_floor, 1 / usable.sum())
            if weights[anchor] < floor:
                weights *= (1 - floor) / (1 - weights[anchor])
                weights[anchor] = floor
        return np.asarray(weights / weights.sum())

    def _standing(self, cubes: Mapping[int, Cube], rows: Mapping[int, Bools], naive: list[int]) -> Floats:
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
        cubes: Mapping[int, Cube],
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
class _Taught:
    """How each horizon's rows are combined, what that is called, and why it is not what was asked."""

    weights: dict[int, Floats]
    method: Literal["given", "mean", "weighted", "greedy", "stacking"]
    why: str | None = None
    stack: Stack | None = None
    factors: dict[str, Floats] = field(default_factory=dict)

    def combine(self, horizon: int, values: Floats, keys: pl.DataFrame) -> Floats:
        """Quantiles (rows, levels) of members (rows, members, levels), of the series that `keys` names."""
        base = combined(values, self.weights[horizon] * _factors_at(keys, self.factors, values.shape[1]))
        return base if self.stack is None else self.stack.shifted(base, values, horizon)


@dataclass(frozen=True)
class _Nested:
    """One horizon: per row the combination its origin's past taught, its loss, and whether it was taught at all."""

    values: Floats
    losses: Floats
    learnt: Bools

    @classmethod
    def empty(cls, cube: Cube) -> _Nested:
        rows = len(cube.y)
        return cls(np.full((rows, len(QUANTILES)), np.nan), np.full(rows, np.nan), np.zeros(rows, dtype=bool))


def _factors_at(keys: pl.DataFrame, factors: Mapping[str, Floats], members: int) -> Floats:
    """(rows, members): what each row's series multiplies the weights with; 1 where nothing is known of it."""
    out = np.ones((keys.height, members))
    if factors:
        nothing = np.ones(members)
        out[:] = [factors.get(name, nothing) for name in keys.get_column(ID).to_list()]
    return out


def _places(members: list[str], baselines: Sequence[str]) -> list[int]:
    bags = {bag_of(label) for label in baselines}
    return [i for i, name in enumerate(members) if name in bags]


def _closed(cubes: Mapping[int, Cube], cutoff: datetime, ends: Mapping[datetime, datetime]) -> dict[int, Bools]:
    return {horizon: cube.closed(cutoff, ends) for horizon, cube in cubes.items()}


def _takes_over(guard: _Verdict | None, cube: Cube, rows: Bools) -> bool:
    """Whether the guard acts at a horizon: a baseline that never forecast it cannot."""
    return guard is not None and guard.worse and bool(np.isfinite(cube.member_loss[rows, guard.baseline]).any())


def equal_shares(belief: Floats, naive: Sequence[int]) -> Floats:
    """Shares that sum to one, in proportion to `belief`, where the naive members together count as their best one.

    Raises
    ------
    TrainingError
        If no member is believed at all.
    """
    total = float(belief[list(naive)].sum())
    out = belief.astype(np.float64)
    if total > 0:
        out[list(naive)] *= belief[list(naive)].max() / total
    if not out.sum() > 0:
        raise TrainingError(
            f"no member has a share in {belief.tolist()}",
            expected="a belief above 0 in some member",
            remedy="look at the members' out-of-fold losses: all of them diverged",
        )
    return np.asarray(out / out.sum())


def errors_above_best(cubes: Mapping[int, Cube], rows: Mapping[int, Bools], pooled: Floats) -> Floats:
    """By how many standard errors each member's loss is above the best member's, over some rows of all horizons.

    The larger standard error of two kinds: between series, and between origins, of which, as they share most of their
    targets, only target times over horizons count. Where a panel's wells share every shock, the latter are wide and
    hardly anyone is told from the best. 0 for a member that cannot be: it shares less than half of the rows with the
    best one, or there are fewer than three series or origins.
    """
    above = np.zeros(len(pooled))
    usable = np.isfinite(pooled)
    if usable.sum() < 2:
        return above
    losses = np.concatenate([cube.member_loss[rows[h]] for h, cube in cubes.items()])
    keys = pl.concat(
        [cube.keys.filter(pl.Series(rows[h])).select(ID, TIME, CUTOFF, HORIZON) for h, cube in cubes.items()]
    )
    horizons = keys.get_column(HORIZON).n_unique()
    origins = min(keys.get_column(TIME).n_unique() / max(1, horizons), keys.get_column(CUTOFF).n_unique())
    series = keys.get_column(ID).rank("dense").cast(pl.Int64).to_numpy() - 1
    origin = keys.get_column(CUTOFF).rank("dense").cast(pl.Int64).to_numpy() - 1
    best = int(np.flatnonzero(usable)[pooled[usable].argmin()])
    for i in np.flatnonzero(usable):
        difference = losses[:, i] - losses[:, best]
        known = np.isfinite(difference)
        if i == best or 2 * known.sum() < len(known):
            continue
        by_series, by_origin = (_group_means(difference[known], its[known]) for its in (series, origin))
        if min(len(by_series), len(by_origin)) < 3:
            continue
        gap = float(difference[known].mean())
        error = max(
            float(by_series.std(ddof=1) / np.sqrt(len(by_series))), float(by_origin.std(ddof=1) / np.sqrt(origins))
        )
        if gap > 0:
            above[i] = gap / max(error, 1e-9 * gap)
    return above


def _group_means(values: Floats, group: NDArray[np.int64]) -> Floats:
    count = np.bincount(group)
    total = np.bincount(group, weights=values)
    return np.asarray(total[count > 0] / count[count > 0])
