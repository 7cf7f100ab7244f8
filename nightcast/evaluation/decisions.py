"""From class probabilities to decisions: temperature, class offsets, and the abstain zone.

Order (each on rows of its own, in time): temperature on slice A, offsets and expected moves on slice B; then they are
applied to rows that neither has seen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from nightcast.contracts.columns import CLASS_PROBS, CUTOFF, HORIZON, LABEL_END, MODEL, SIGNAL, TARGET
from nightcast.contracts.fold import Fold
from nightcast.contracts.prediction import ClassProbs
from nightcast.contracts.schema import CostPlan

Floats = NDArray[np.float64]
T_LOW, T_HIGH = 0.05, 20.0
FLOOR: Final = 1e-9
MIN_ROWS: Final = 200
"""Known rows of a horizon below which nothing is learnt for it."""
GRID: Final = np.linspace(-0.8, 0.8, 9)
"""Log-offsets tried for short and long, neutral being 0."""
JUDGED: Final = "judged"


def fit_temperature(probs: Floats, y: NDArray[np.int64]) -> float:
    """Temperature that minimises the log loss of `softmax(log p / T)`, within [0.05, 20]; never worse than 1.

    Guo et al. 2017 (arXiv 1706.04599), on the logarithms of probabilities; golden-section search over log T, in which
    the loss is unimodal.
    """
    z = np.log(np.clip(probs, FLOOR, 1.0))
    rows = np.arange(len(y))

    def loss(log_t: float) -> float:
        s = z / np.exp(log_t)
        top = s.max(axis=1, keepdims=True)
        return float((np.log(np.exp(s - top).sum(axis=1)) + top[:, 0] - s[rows, y]).mean())

    low, high = np.log(T_LOW), np.log(T_HIGH)
    ratio = (np.sqrt(5) - 1) / 2
    a, b = high - ratio * (high - low), low + ratio * (high - low)
    fa, fb = loss(a), loss(b)
    for _ in range(40):
        if fa < fb:
            high, b, fb = b, a, fa
            a = high - ratio * (high - low)
            fa = loss(a)
        else:
            low, a, fa = a, b, fb
            b = low + ratio * (high - low)
            fb = loss(b)
    best = (low + high) / 2
    return float(np.exp(best)) if loss(best) <= loss(0.0) else 1.0


def apply_temperature(probs: Floats, temperature: float) -> Floats:
    """`softmax(log p / T)` of `[n, 3]` probabilities; keeps the order of the classes."""
    s = np.log(np.clip(probs, FLOOR, 1.0)) / temperature
    e = np.exp(s - s.max(axis=1, keepdims=True))
    return np.asarray(e / e.sum(axis=1, keepdims=True))


def class_offsets(probs: Floats, y: NDArray[np.int64]) -> tuple[float, float, float]:
    """Log-offsets w of `argmax(log p + w)` that maximise macro-F1 on a 9 x 9 grid; ties go to the smallest offsets."""
    z = np.log(np.clip(probs, FLOOR, 1.0))
    best, chosen = -1.0, (0.0, 0.0)
    for short in sorted(GRID, key=abs):
        for long in sorted(GRID, key=abs):
            score = _macro_f1(y, (z + np.array([short, 0.0, long])).argmax(axis=1))
            if score > best + 1e-12:
                best, chosen = score, (float(short), float(long))
    return chosen[0], 0.0, chosen[1]


def _macro_f1(y: NDArray[np.int64], told: NDArray[np.int64]) -> float:
    confusion = np.bincount(y * 3 + told, minlength=9).reshape(3, 3)
    both = confusion.sum(axis=0) + confusion.sum(axis=1)
    return float((2 * np.diag(confusion) / np.maximum(both, 1))[both > 0].mean())


@dataclass(frozen=True)
class MarketCalibrator:
    """Temperature per horizon, then a position where it pays: implements `Calibrator[ClassProbs]`.

    A position is taken where the class with its offset is short or long *and* the expected gain
    `|p_long - p_short| * move` exceeds `margin` times a round trip's cost. `move` is the mean |return| of the labels
    that moved, in units of the row's own volatility where that is known.

    Attributes
    ----------
    costs
        Of one side; kept in the table at fit, so that `apply` needs none.
    margin
        Round trips' worth of expected gain to ask for.
    share
        Of the rows, in time, that teach the temperature (slice A); the rest, purged, teaches offsets and moves.
    """

    costs: CostPlan = field(default_factory=CostPlan)
    margin: float = 1.0
    share: float = 0.5

    def fit(self, oof: pl.DataFrame) -> dict[str, Any]:
        """Learn from rows with `y`, `ret`, `label_end` and, where known, `scale` (one-bar volatility)."""
        horizons: dict[str, Any] = {}
        for (h,), part in sorted(oof.drop_nulls(TARGET).partition_by(HORIZON, as_dict=True).items()):
            horizons[str(h)] = self._learn(part)
        return {"round_trip": 2 * self.costs.side, "margin": self.margin, "horizons": horizons}

    def _learn(self, part: pl.DataFrame) -> dict[str, Any]:
        part = part.sort(CUTOFF)
        nothing = {"temperature": 1.0, "offsets": [0.0, 0.0, 0.0], "move": None, "rows": part.height}
        if part.height < 2 * MIN_ROWS:
            return nothing
        border = part.get_column(CUTOFF)[int(self.share * (part.height - 1))]
        first = ended_before(part, border)
        second = part.filter(pl.col(CUTOFF) >= border)
        if min(first.height, second.height) < MIN_ROWS:
            return nothing
        temperature = fit_temperature(_probs(first), _labels(first))
        calibrated = apply_temperature(_probs(second), temperature)
        offsets = class_offsets(calibrated, _labels(second))
        moved = second.filter(pl.col(TARGET) != 1)
        size = moved.get_column("ret").abs()
        if "scale" in moved.columns and moved.get_column("scale").null_count() < moved.height:
            size = (size / moved.get_column("scale")).drop_nulls()
            unit = "scale"
        else:
            unit = "return"
        mean = size.filter(size.is_finite()).mean()
        return {
            "temperature": temperature,
            "offsets": list(offsets),
            "move": None if mean is None else float(mean),  # type: ignore[arg-type]
            "unit": unit,
            "rows": part.height,
        }

    def apply(self, prediction: ClassProbs, scale: pl.DataFrame, table: dict[str, Any]) -> ClassProbs:
        """Calibrated probabilities and the positions they justify; a horizon that was not learnt stays flat."""
        keys = ["unique_id", CUTOFF]
        rows = prediction.frame.join(scale.select(*keys, "scale").unique(keys), on=keys, how="left")
        return ClassProbs.of(self.decide(rows, table).drop("scale"))

    def decide(self, rows: pl.DataFrame, table: Mapping[str, Any]) -> pl.DataFrame:
        """As `apply`, on rows that hold `scale` and any other columns, which stay."""
        done = []
        for (h,), part in rows.with_row_index("_row").partition_by(HORIZON, as_dict=True).items():
            its = table["horizons"].get(str(h))
            done.append(self._decide(part, its, float(table["round_trip"]) * float(table["margin"])))
        return pl.concat(done).sort("_row").drop("_row") if done else rows

    def _decide(self, part: pl.DataFrame, its: Mapping[str, Any] | None, hurdle: float) -> pl.DataFrame:
        probs = _probs(part)
        signal = np.zeros(len(probs), dtype=np.int8)
        if its is not None:
            probs = apply_temperature(probs, float(its["temperature"]))
            if its["move"] is not None:
                told = (np.log(np.clip(probs, FLOOR, 1.0)) + np.asarray(its["offsets"])).argmax(axis=1) - 1
                lean = probs[:, 2] - probs[:, 0]
                move = np.full(len(probs), float(its["move"]))
                if its["unit"] == "scale":
                    move *= part.get_column("scale").fill_null(0.0).to_numpy()
                pays = (np.abs(lean) * move > hurdle) & (np.sign(lean) == told)
                signal = np.where(pays, told, 0).astype(np.int8)
        return part.with_columns(
            *(pl.Series(name, probs[:, k]) for k, name in enumerate(CLASS_PROBS)), pl.Series(SIGNAL, signal)
        )


def ended_before(rows: pl.DataFrame, first: datetime) -> pl.DataFrame:
    """The rows whose labels could not end at or after a time, whatever came true.

    A label that is touched early ends early; to keep it and drop its undecided neighbours would teach that a lot
    happens just before every border. So the last `horizon` decision times before `first` are left out, too.
    """
    kept = []
    for (horizon,), part in rows.partition_by(HORIZON, as_dict=True, maintain_order=True).items():
        clock = part.get_column(CUTOFF).unique().sort()
        before = clock.filter(clock < first)
        if len(before) > int(horizon):
            newest = before[len(before) - 1 - int(horizon)]
            kept.append(part.filter((pl.col(CUTOFF) <= newest) & (pl.col(LABEL_END) < first)))
    return pl.concat(kept) if kept else rows.clear()


def prequential_decisions(rows: pl.DataFrame, calibrator: MarketCalibrator, *, folds: Sequence[Fold]) -> pl.DataFrame:
    """Decide out-of-fold rows as each night would have: by what earlier folds' closed labels teach, model by model.

    Parameters
    ----------
    rows
        `unique_id, ds, cutoff, horizon, model, p_short, p_neutral, p_long, signal, y, label_end, ret, scale`.
    folds
        The walk-forward's folds, in time order.

    Returns
    -------
    polars.DataFrame
        The rows, calibrated, and `judged`: False in folds that had nothing to learn from, whose rows stay as they are
        and flat.
    """
    done = []
    for (_model,), part in rows.partition_by(MODEL, as_dict=True, maintain_order=True).items():
        for fold in folds:
            first, last = fold.cutoffs[0], fold.cutoffs[-1]
            mine = part.filter(pl.col(CUTOFF).is_between(first, last))
            known = ended_before(part, first)
            if mine.is_empty():
                continue
            if known.is_empty():
                flat = mine.with_columns(pl.lit(0, dtype=pl.Int8).alias(SIGNAL), pl.lit(False).alias(JUDGED))
                done.append(flat)
                continue
            done.append(calibrator.decide(mine, calibrator.fit(known)).with_columns(pl.lit(True).alias(JUDGED)))
    return pl.concat(done) if done else rows.with_columns(pl.lit(False).alias(JUDGED))


def _probs(part: pl.DataFrame) -> Floats:
    return part.select(pl.col(CLASS_PROBS).cast(pl.Float64)).to_numpy()


def _labels(part: pl.DataFrame) -> NDArray[np.int64]:
    return part.get_column(TARGET).cast(pl.Int64).to_numpy()
