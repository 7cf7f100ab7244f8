from datetime import datetime

import polars as pl
import pytest

from nightcast.contracts.errors import ConfigError
from nightcast.contracts.frequency import Frequency
from nightcast.contracts.panel import PanelDataset
from nightcast.contracts.recipe import FoldPlan
from nightcast.contracts.schema import PanelSchema
from nightcast.evaluation.folds import closed_cutoffs, final_fold, panel_folds

MONTHS = Frequency.parse("MS")


def month(index: int) -> datetime:
    return MONTHS.shift(datetime(2015, 1, 1), index)


def panel(lengths: dict[str, tuple[int, int]], *, as_of: int, horizon: int = 3) -> PanelDataset:
    """Series with known values in the months `first .. last`."""
    rows = [(name, month(i), float(i)) for name, (first, last) in lengths.items() for i in range(first, last + 1)]
    frame = pl.DataFrame(rows, schema={"unique_id": pl.String, "ds": pl.Datetime("us"), "y": pl.Float64}, orient="row")
    return PanelDataset(frame, PanelSchema(freq=MONTHS, horizon=horizon), {}, month(as_of))


def test_the_layout_is_the_one_in_the_picture():
    dataset = panel({"a": (0, 19)}, as_of=19)

    folds = panel_folds(dataset, FoldPlan(cutoffs=4, step=1, refits=2, gap=1, min_train=3))

    assert [fold.name for fold in folds] == ["fold-00", "fold-01"]
    assert [fold.cutoffs for fold in folds] == [(month(12), month(13)), (month(14), month(15))]
    assert [fold.train_end for fold in folds] == [month(11), month(13)]
    assert all(fold.train_start is None for fold in folds)


def test_without_a_gap_the_last_cutoff_lies_exactly_one_horizon_before_the_as_of_date():
    folds = panel_folds(panel({"a": (0, 30)}, as_of=30, horizon=6), FoldPlan(cutoffs=5, step=2, refits=3))

    assert folds[-1].cutoffs[-1] == month(24)
    assert [len(fold.cutoffs) for fold in folds] == [2, 2, 1]


def test_the_final_fold_trains_up_to_the_as_of_date_and_forecasts_from_it():
    dataset = panel({"a": (0, 30)}, as_of=30)

    final = final_fold(dataset, FoldPlan())
    rolling = final_fold(dataset, FoldPlan(window="rolling", window_size=10))

    assert (final.name, final.train_start, final.train_end, final.cutoffs) == ("final", None, month(30), (month(30),))
    assert rolling.train_start == month(21)
    assert dataset.training(rolling).history.height == 10


def test_a_rolling_window_without_a_size_is_sixty_steps_wide():
    dataset = panel({"a": (0, 90)}, as_of=90)

    (fold,) = panel_folds(dataset, FoldPlan(cutoffs=1, refits=1, window="rolling"))

    assert dataset.training(fold).history.height == 60


def test_a_rolling_window_counts_only_the_known_values_inside_it():
    dataset = panel({"a": (0, 30)}, as_of=30)
    # Ten steps of window; eight of the last ten before the cutoff are known, so nine are asked for in vain.
    holed = dataset.frame.with_columns(pl.when(~pl.col("ds").is_in([month(20), month(22)])).then("y"))
    rolling = PanelDataset(holed, dataset.schema, {}, dataset.as_of)

    def last_origin(min_train: int) -> FoldPlan:
        return FoldPlan(cutoffs=1, refits=1, window="rolling", window_size=10, min_train=min_train)

    assert panel_folds(rolling, last_origin(8))[0].cutoffs == (month(27),)
    with pytest.raises(ConfigError, match="rolling window 10 steps"):
        panel_folds(rolling, last_origin(9))


def test_a_short_history_gives_fewer_cutoffs_than_asked_for():
    folds = panel_folds(panel({"a": (0, 19)}, as_of=19), FoldPlan(cutoffs=50, refits=4, min_train=12))

    cutoffs = [cutoff for fold in folds for cutoff in fold.cutoffs]
    assert cutoffs == [month(i) for i in range(11, 17)]


def test_one_series_with_enough_history_carries_an_origin_but_many_short_ones_do_not():
    short = {f"s{i}": (10, 19) for i in range(20)}
    plan = FoldPlan(cutoffs=2, refits=1, min_train=12)

    assert panel_folds(panel({**short, "old": (0, 19)}, as_of=19), plan)
    with pytest.raises(ConfigError, match="longest series has 10 known values"):
        panel_folds(panel(short, as_of=19), plan)


def test_missing_values_do_not_count_as_history():
    dataset = panel({"a": (0, 19)}, as_of=19)
    holed = dataset.frame.with_columns(pl.when(~pl.col("ds").is_between(month(4), month(6))).then("y"))
    plan = FoldPlan(cutoffs=20, min_train=12)

    folds = panel_folds(PanelDataset(holed, dataset.schema, {}, dataset.as_of), plan)

    assert [cutoff for fold in folds for cutoff in fold.cutoffs] == [month(14), month(15), month(16)]


def test_a_history_shorter_than_the_horizon_names_the_numbers_and_the_remedy():
    with pytest.raises(ConfigError) as caught:
        panel_folds(panel({"a": (0, 7)}, as_of=7, horizon=6), FoldPlan(min_train=12, gap=2))

    text = str(caught.value)
    assert "horizon longer than the history" in text
    assert "8 known values" in text
    assert "at least 12" in text
    assert "gap of 2" in text
    assert "6 steps" in text
    assert "lower `horizon`" in text


def test_a_panel_without_any_known_value_is_refused():
    dataset = panel({"a": (0, 5)}, as_of=5)
    empty = PanelDataset(dataset.frame.with_columns(y=pl.lit(None, pl.Float64)), dataset.schema, {}, dataset.as_of)

    with pytest.raises(ConfigError, match="0 known values"):
        panel_folds(empty, FoldPlan())


def test_a_rolling_window_narrower_than_the_least_training_length_is_refused_with_its_width():
    with pytest.raises(ConfigError, match=r"rolling window 6 steps.*widen `folds.window_size`"):
        panel_folds(panel({"a": (0, 60)}, as_of=60), FoldPlan(window="rolling", window_size=6, min_train=12))


def test_an_origin_is_closed_once_its_last_step_is_known():
    origins = [month(i) for i in (3, 1, 2, 1)]

    assert closed_cutoffs(origins, month(5), horizon=3, freq=MONTHS) == (month(1), month(2))
    assert closed_cutoffs(origins, month(3), horizon=3, freq=MONTHS) == ()
