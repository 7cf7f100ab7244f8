"""The promotion gate's arithmetic: paired losses, a block bootstrap by origin, non-inferiority guards.

Series share their shocks, so rows are no independent evidence: losses are summed per origin. Windows of neighbouring
origins overlap, so origins are resampled in blocks (Künsch 1989) of `plan.block`, which should reach the horizon over
the step between origins. One challenger a night is compared, chosen before its out-of-fold rows are looked at (the
combiner's weights are nested), so no correction for the number of candidates is due here; a search over many recipes
must correct where it searches.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import polars as pl

from nightcast.contracts.columns import CUTOFF, HORIZON, ID, MEDIAN, MODEL, TARGET, TIME
from nightcast.contracts.decision import Decision, Guard, Kind
from nightcast.contracts.errors import ConfigError
from nightcast.contracts.recipe import GatePlan
from nightcast.evaluation.scores import ERROR, check_columns, covered_expr

KEYS: Final = (ID, TIME, CUTOFF)
"""What names a row; where rows hold a horizon (labels of bars differ by it), that too."""
MIN_CUTOFFS: Final = 4
"""Common origins below which no interval is trusted."""
NAIVE_TOLERANCE: Final = 0.02
"""How much worse than the best naive, as a share of its loss, still passes as not worse."""
MIN_SHARED: Final = 0.5
"""Least share of the reference's rows, at the common origins, that the challenger must cover."""
SEGMENT_ROWS: Final = 20
"""Paired rows below which a segment has no say."""
SEGMENT_SHARE: Final = 0.05
"""Share of the paired rows below which a segment has no say."""
_SEGMENT_PAD: Final = 0.1
_CAP: Final = 1e9

Guards = Callable[[pl.DataFrame, pl.DataFrame, str, GatePlan], Sequence[Guard]]
"""Challenger's and reference's rows with the same keys in the same order, the reference's name, the plan -> guards."""


@dataclass(frozen=True)
class Effect:
    """Relative change of the mean loss on paired rows, with its interval; negative is better."""

    effect: float
    low: float
    high: float
    rows: int
    cutoffs: int


def compare(
    challenger: pl.DataFrame,
    champion: pl.DataFrame | None,
    naive: pl.DataFrame,
    plan: GatePlan,
    *,
    same_recipe: bool,
    seed: int,
    verdicts: pl.DataFrame | None = None,
) -> Decision:
    """Decide whether quantile forecasts of a challenger replace those of the champion.

    Parameters
    ----------
    challenger, champion, naive
        Out-of-fold rows `unique_id, ds, cutoff, horizon, q10 .. q90, y, loss, segment`; `naive` may hold several models
        in `model`, of which the one with the least loss is the yardstick. `champion` is None when there is none yet.
    same_recipe
        The challenger is the champion's recipe on newer data: it is promoted unless a guard fails.
    seed
        Of the bootstrap.
    verdicts
        Not used: panels have no gates beside the guards.

    Raises
    ------
    ConfigError
        If a frame lacks a column, repeats a key or holds a loss that is not finite.
    """
    return decide(challenger, champion, naive, plan, same_recipe=same_recipe, seed=seed, guards=quantile_guards)


def decide(
    challenger: pl.DataFrame,
    champion: pl.DataFrame | None,
    naive: pl.DataFrame,
    plan: GatePlan,
    *,
    same_recipe: bool,
    seed: int,
    guards: Guards,
) -> Decision:
    """Apply the rules of the gate with guards of any prediction type; `compare` is the one of quantiles.

    No champion: `first` if the guards against the best naive pass, else `none`. Same recipe: `refit` unless a guard
    fails. Another recipe: `replace` if the whole interval is below zero, the effect reaches `plan.min_effect` and
    the guards pass. Otherwise, and with fewer than 4 common origins: `keep`.
    """
    mine = _checked(challenger, "the challenger's rows")
    best_name, best = _best_naive(mine, _naive_models(naive))
    shared_cutoffs = 0
    theirs: pl.DataFrame | None = None
    if champion is not None:
        theirs = _checked(champion, "the champion's rows")
        shared_cutoffs = _paired(mine, theirs)[0].get_column(CUTOFF).n_unique()
    measured: Effect | None = None
    checks = _naive_guards(mine, best, best_name)
    if theirs is not None and shared_cutoffs >= MIN_CUTOFFS:
        own, other = _paired(mine, theirs)
        measured = paired_effect(mine, theirs, plan, seed=seed)
        checks.append(_shared_guard(own, theirs, "champion"))
        if same_recipe:
            checks.append(_refit_guard(measured, plan))
        checks.extend(guards(own, other, "champion", plan))
    elif best is not None:
        own, other = _paired(mine, best)
        checks.append(_shared_guard(own, best, best_name))
        checks.extend(guards(own, other, best_name, plan))
    failed = [check for check in checks if not check.passed]
    kind, promote, reason = _ruling(
        measured, failed, plan, has_champion=champion is not None, same_recipe=same_recipe, shared=shared_cutoffs
    )
    return Decision(
        kind=kind,
        promote=promote,
        reason=reason,
        guards=tuple(checks),
        effect=None if measured is None else measured.effect,
        low=None if measured is None else measured.low,
        high=None if measured is None else measured.high,
        rows=mine.height if measured is None else measured.rows,
        cutoffs=mine.get_column(CUTOFF).n_unique() if measured is None else measured.cutoffs,
    )


def paired_effect(challenger: pl.DataFrame, champion: pl.DataFrame, plan: GatePlan, *, seed: int) -> Effect:
    """Measure the relative change of the mean loss on shared keys, with a moving-block bootstrap interval by origin.

    The interval is two-sided at `plan.confidence`. Bootstrap deviations are widened by `sqrt(K / (K - b)) * t / z` for
    K origins in blocks of b, with t of K / b - 1 degrees of freedom: a handful of blocks understates the spread.

    Raises
    ------
    ConfigError
        If no key is shared.
    """
    from scipy.stats import norm, t

    own, other = _paired(challenger, champion)
    if not own.height:
        raise ConfigError(
            "challenger and champion share no row",
            expected="out-of-fold rows with common series, times and cutoffs",
            remedy="score both on the same folds",
        )
    sums = (
        pl.DataFrame({CUTOFF: own[CUTOFF], "own": own["loss"], "other": other["loss"]})
        .group_by(CUTOFF)
        .agg(pl.sum("own", "other"))
        .sort(CUTOFF)
    )
    losses = sums.select("own", "other").to_numpy()
    count = len(losses)
    effect = _ratio(losses[:, 0].sum(), losses[:, 1].sum()) - 1
    if count < 2:
        return Effect(effect, -1.0, _CAP, own.height, count)
    block = max(1, min(plan.block, count // 2))
    blocks = math.ceil(count / block)
    starts = np.random.default_rng(seed).integers(0, count - block + 1, size=(plan.draws, blocks))
    picked = (starts[:, :, None] + np.arange(block)).reshape(plan.draws, -1)[:, :count]
    drawn = losses[picked].sum(axis=1)
    safe = np.where(drawn[:, 1] > 0, drawn[:, 1], 1.0)
    ratios = np.where(drawn[:, 1] > 0, drawn[:, 0] / safe, np.where(drawn[:, 0] > 0, _CAP, 1.0)) - 1
    tail = (1 - plan.confidence) / 2
    degrees = max(count / block - 1, 1.0)
    widen = math.sqrt(count / (count - block)) * float(t.ppf(1 - tail, degrees) / norm.ppf(1 - tail))
    low, high = np.quantile(ratios - ratios.mean(), [tail, 1 - tail]) * widen
    return Effect(effect, effect + min(float(low), 0.0), effect + max(float(high), 0.0), own.height, count)


def quantile_guards(own: pl.DataFrame, other: pl.DataFrame, name: str, plan: GatePlan) -> list[Guard]:
    """Check bias, coverage of the central 80 % and the worst segment against the plan.

    A limit that the reference itself misses is moved to where the reference stands: non-inferiority, not a promise.
    """
    check_columns(own, (TARGET, "q10", MEDIAN, "q90", "segment"), what="the challenger's rows")
    check_columns(other, (TARGET, "q10", MEDIAN, "q90"), what=f"the rows of {name}")
    bias, its_bias = _bias(own), abs(_bias(other))
    largest = max(plan.max_bias, its_bias)
    bounds = f"|bias| at most {plan.max_bias:.3g}" + (
        f", or that of the {name}, {its_bias:.3g}" if its_bias > plan.max_bias else ""
    )
    found = [Guard("bias", bias, bounds, abs(bias) <= largest)]

    inside, its_inside = (float(frame.select(covered_expr(0.1, 0.9).mean()).item() or 0.0) for frame in (own, other))
    low, high = min(plan.coverage[0], its_inside), max(plan.coverage[1], its_inside)
    words = f"share inside q10..q90 from {plan.coverage[0]:.3g} to {plan.coverage[1]:.3g}"
    if not plan.coverage[0] <= its_inside <= plan.coverage[1]:
        words += f", or not farther out than the {name}'s {its_inside:.3g}"
    found.append(Guard("coverage80", inside, words, low <= inside <= high))

    ratio, segment = _worst_segment(own, other)
    found.append(
        Guard(
            "worst_segment",
            ratio,
            f"loss at most {plan.worst_segment:.3g} times the {name}'s in every segment"
            + (f" (worst: {segment})" if segment else f" (none has {SEGMENT_ROWS} rows)"),
            ratio <= plan.worst_segment,
        )
    )
    return found


def _ruling(
    measured: Effect | None,
    failed: Sequence[Guard],
    plan: GatePlan,
    *,
    has_champion: bool,
    same_recipe: bool,
    shared: int,
) -> tuple[Kind, bool, str]:
    blame = "; ".join(f"{guard.name} is {guard.value:.3g} (limit: {guard.limit})" for guard in failed)
    if not has_champion:
        if failed:
            return "none", False, f"There is no champion, and the challenger fails a guard: {blame}."
        return "first", True, "There is no champion yet, and the challenger passes every guard against the best naive."
    if measured is None:
        few = f"Challenger and champion share {shared} origins, fewer than {MIN_CUTOFFS}"
        if not same_recipe:
            return "keep", False, f"{few}: too few to tell two recipes apart, so the champion stays."
        if failed:
            return "keep", False, f"{few}, and against the best naive the refit fails a guard: {blame}."
        return "refit", True, f"{few}; the champion's recipe on newer data passes every guard against the best naive."
    change = f"{abs(measured.effect):.1%} {'lower' if measured.effect < 0 else 'higher'} than"
    if measured.effect == 0:
        change = "equal to"
    facts = (
        f"the challenger's loss is {change} the champion's on {measured.rows} rows of {measured.cutoffs} origins "
        f"({plan.confidence:.0%} interval {measured.low:+.1%} to {measured.high:+.1%})"
    )
    if failed:
        return "keep", False, f"The champion stays: {facts}, but a guard fails: {blame}."
    if same_recipe:
        return "refit", True, f"The champion's recipe on newer data takes over: {facts}, and every guard passes."
    if measured.high >= 0:
        return "keep", False, f"The champion stays: {facts}, which may be chance."
    if measured.effect > -plan.min_effect:
        return (
            "keep",
            False,
            f"The champion stays: {facts}, less than the {plan.min_effect:.1%} that is worth a change.",
        )
    return "replace", True, f"The challenger takes over: {facts}, and every guard passes."


def _checked(frame: pl.DataFrame, what: str) -> pl.DataFrame:
    check_columns(frame, (*KEYS, "loss"), what=what)
    keys = _keys(frame)
    if frame.select(keys).is_duplicated().any():
        twice = frame.filter(frame.select(keys).is_duplicated())
        raise ConfigError(
            f"{what} hold series {twice[ID][0]!r}, cutoff {twice[CUTOFF][0]}, time {twice[TIME][0]} twice",
            expected="one row per series, time, cutoff and horizon",
            remedy="hand over the rows of one model",
        )
    bad = frame.filter(~pl.col("loss").is_finite().fill_null(False))
    if bad.height:
        raise ConfigError(
            f"{what} hold {bad.height} losses that are not finite, first of series {bad[ID][0]!r}",
            expected="a finite loss in every row",
            remedy="drop rows without a known outcome before comparing",
        )
    return frame.with_columns(pl.col(TIME, CUTOFF).cast(pl.Datetime("us")))


def _naive_models(naive: pl.DataFrame) -> dict[str, pl.DataFrame]:
    if MODEL not in naive.columns:
        return {"naive": _checked(naive, "the naive's rows")}
    return {
        str(key[0]): _checked(part, f"the rows of {key[0]}")
        for key, part in naive.sort(MODEL).partition_by(MODEL, as_dict=True).items()
    }


def _best_naive(mine: pl.DataFrame, models: dict[str, pl.DataFrame]) -> tuple[str, pl.DataFrame | None]:
    """The naive that shares most rows with the challenger and, of these, has the least loss on them."""
    best: tuple[tuple[int, float], str, pl.DataFrame] | None = None
    for name, frame in models.items():
        keys = _keys(frame, mine)
        shared = frame.join(mine.select(keys), on=keys, how="semi")
        if shared.height:
            rank = (-shared.height, float(shared["loss"].sum()))
            if best is None or rank < best[0]:
                best = rank, name, frame
    return ("naive", None) if best is None else (best[1], best[2])


def _paired(first: pl.DataFrame, second: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Both frames' rows with shared keys, in the same order."""
    keys = _keys(first, second)
    return (
        first.join(second.select(keys), on=keys, how="semi").sort(keys),
        second.join(first.select(keys), on=keys, how="semi").sort(keys),
    )


def _keys(*frames: pl.DataFrame) -> list[str]:
    """The key columns of frames that are to be matched."""
    return [*KEYS, *([HORIZON] if all(HORIZON in frame.columns for frame in frames) else [])]


def _naive_guards(mine: pl.DataFrame, best: pl.DataFrame | None, name: str) -> list[Guard]:
    if best is None:
        return [Guard("naive_rows", 0.0, "at least one row shared with a naive forecast", False)]
    own, other = _paired(mine, best)
    ratio = _ratio(float(own["loss"].sum()), float(other["loss"].sum()))
    limit = 1 + NAIVE_TOLERANCE
    return [Guard("loss_vs_naive", ratio, f"at most {limit:.3g} times the loss of {name}", ratio <= limit)]


def _shared_guard(own: pl.DataFrame, reference: pl.DataFrame, name: str) -> Guard:
    """A challenger that skips the hard series must not win by it."""
    there = reference.filter(pl.col(CUTOFF).is_in(own.get_column(CUTOFF).unique().implode())).height
    share = own.height / there if there else 0.0
    return Guard(
        "shared_rows",
        share,
        f"at least {MIN_SHARED:.0%} of the {name}'s rows at the common origins",
        share >= MIN_SHARED,
    )


def _refit_guard(measured: Effect, plan: GatePlan) -> Guard:
    limit = f"a refit not clearly worse: low end of the effect's interval at most {plan.min_effect:.2%}"
    return Guard("loss_vs_champion", measured.low, limit, measured.low <= plan.min_effect)


def _bias(frame: pl.DataFrame) -> float:
    error, actual = frame.select(ERROR.sum().alias("e"), pl.col(TARGET).abs().sum().alias("a")).row(0)
    if actual > 0:
        return float(error / actual)
    return 0.0 if error == 0 else math.copysign(_CAP, error)


def _worst_segment(own: pl.DataFrame, other: pl.DataFrame) -> tuple[float, str]:
    """The largest loss ratio of a segment, and its name.

    A tenth of the reference's mean loss is added to both sides: a segment that the reference forecasts without error
    (shut-in series stay at zero) would veto any challenger. Neither may a segment of a few rows, or of less than a
    twentieth of them: two or three series are no segment.
    """
    both = pl.DataFrame({"segment": own["segment"], "own": own["loss"], "other": other["loss"]})
    pad = _SEGMENT_PAD * float(both["other"].mean() or 0.0)  # type: ignore[arg-type]
    worst, name = 0.0, ""
    for segment, mine, theirs, rows in (
        both.group_by("segment").agg(pl.mean("own", "other"), pl.len()).sort("segment").rows()
    ):
        if rows >= max(SEGMENT_ROWS, SEGMENT_SHARE * both.height):
            ratio = _ratio(mine + pad, theirs + pad)
            if ratio > worst:
                worst, name = ratio, str(segment)
    return worst, name


def _ratio(value: float, reference: float) -> float:
    """A quotient that stays finite, so that it can be written as JSON."""
    if reference > 0:
        return float(min(value / reference, _CAP))
    return 1.0 if value == 0 else _CAP
