"""Class probabilities as a contract."""

from __future__ import annotations

from datetime import datetime

import polars as pl
import pytest

from nightcast.contracts.columns import CLASS_PROBS, CUTOFF, HORIZON, ID, SIGNAL, TIME
from nightcast.contracts.errors import TrainingError
from nightcast.contracts.prediction import ClassProbs, Prediction

NOON = datetime(2024, 3, 1, 12)


def frame(*rows: tuple[float, float, float], **more: list[object]) -> pl.DataFrame:
    """One row per triple, horizons 1, 2, ..."""
    data: dict[str, object] = {
        ID: ["a"] * len(rows),
        TIME: [NOON] * len(rows),
        CUTOFF: [NOON] * len(rows),
        HORIZON: list(range(1, len(rows) + 1)),
    }
    for k, name in enumerate(CLASS_PROBS):
        data[name] = [row[k] for row in rows]
    return pl.DataFrame(data | more)


def test_class_probabilities_are_a_prediction() -> None:
    assert isinstance(ClassProbs.of(frame((0.2, 0.5, 0.3))), Prediction)
    assert ClassProbs.value_columns() == ("p_short", "p_neutral", "p_long", "signal")


def test_a_missing_signal_is_the_most_probable_class_and_neutral_wins_ties() -> None:
    probs = ClassProbs.of(frame((0.5, 0.3, 0.2), (0.2, 0.3, 0.5), (0.3, 0.4, 0.3), (0.4, 0.2, 0.4), (0.4, 0.4, 0.2)))
    assert probs.frame[SIGNAL].to_list() == [-1, 1, 0, 0, 0]


def test_a_given_signal_is_kept() -> None:
    assert ClassProbs.of(frame((0.1, 0.1, 0.8), signal=[0])).frame[SIGNAL].to_list() == [0]


def test_small_errors_of_rounding_are_scaled_away() -> None:
    probs = ClassProbs.of(frame((0.3, 0.3, 0.4 + 5e-7)))
    assert probs.frame.select(pl.sum_horizontal(CLASS_PROBS)).item() == pytest.approx(1.0, abs=1e-15)


@pytest.mark.parametrize(
    "row", [(0.5, 0.5, 0.5), (-0.1, 0.6, 0.5), (float("nan"), 0.5, 0.5), (0.2, 0.2, 0.2), (float("inf"), 0.0, 0.0)]
)
def test_what_is_no_probability_is_refused_with_the_symbol(row: tuple[float, float, float]) -> None:
    with pytest.raises(TrainingError, match="first for 'a'"):
        ClassProbs.of(frame(row))


def test_a_signal_that_is_none_of_three_is_refused() -> None:
    with pytest.raises(TrainingError, match="signal of -1, 0 or 1"):
        ClassProbs.of(frame((0.2, 0.5, 0.3), signal=[2]))


def test_a_repeated_key_and_a_missing_column_are_refused() -> None:
    one = frame((0.2, 0.5, 0.3))
    with pytest.raises(TrainingError, match="forecast twice"):
        ClassProbs.of(pl.concat([one, one]))
    with pytest.raises(TrainingError, match="p_long"):
        ClassProbs.of(one.drop("p_long"))


def test_the_mean_of_predictions_is_taken_row_by_row() -> None:
    first = ClassProbs.of(frame((0.2, 0.2, 0.6), (0.2, 0.6, 0.2)))
    second = ClassProbs.of(frame((0.4, 0.4, 0.2)))
    mean = ClassProbs.mean([first, second]).frame
    assert mean["p_short"].to_list() == pytest.approx([0.3, 0.2])
    assert mean["p_long"].to_list() == pytest.approx([0.4, 0.2])
    assert mean[SIGNAL].to_list() == [1, 0]
