from datetime import datetime

import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from nightcast.contracts.errors import ConfigError
from nightcast.contracts.fold import Fold
from nightcast.contracts.frequency import Frequency
from nightcast.contracts.panel import PanelDataset
from nightcast.contracts.recipe import FoldPlan
from nightcast.contracts.schema import PanelSchema
from nightcast.evaluation.folds import final_fold, panel_folds

STARTS = {
    "MS": datetime(2015, 11, 1),
    "W-MON": datetime(2024, 2, 26),
    "D": datetime(2024, 2, 27),
    "30min": datetime(2024, 2, 28, 22, 30),
}

plans = st.builds(
    FoldPlan,
    cutoffs=st.integers(1, 12),
    step=st.integers(1, 4),
    refits=st.integers(1, 6),
    window=st.sampled_from(["expanding", "rolling"]),
    window_size=st.one_of(st.none(), st.integers(4, 30)),
    gap=st.integers(0, 4),
    min_train=st.integers(1, 14),
)


@st.composite
def panels(draw: st.DrawFn) -> PanelDataset:
    freq = Frequency.parse(draw(st.sampled_from(sorted(STARTS))))
    start = STARTS[freq.alias]
    length = draw(st.integers(1, 45))
    horizon = draw(st.integers(1, 7))
    rows = []
    for series in range(draw(st.integers(1, 3))):
        first = draw(st.integers(0, length - 1))
        rows += [
            (f"s{series}", freq.shift(start, i), None if draw(st.integers(0, 9)) == 0 else float(i))
            for i in range(first, length)
        ]
    frame = pl.DataFrame(rows, schema={"unique_id": pl.String, "ds": pl.Datetime("us"), "y": pl.Float64}, orient="row")
    return PanelDataset(frame, PanelSchema(freq=freq, horizon=horizon), {}, freq.shift(start, length - 1))


def laid_out(dataset: PanelDataset, plan: FoldPlan) -> tuple[Fold, ...]:
    try:
        return panel_folds(dataset, plan)
    except ConfigError:
        return ()


@settings(max_examples=150, deadline=None)
@given(dataset=panels(), plan=plans)
def test_no_fold_sees_its_future_whatever_the_plan(dataset: PanelDataset, plan: FoldPlan):
    freq, horizon = dataset.schema.freq, dataset.schema.horizon
    folds = laid_out(dataset, plan)
    cutoffs = [cutoff for fold in folds for cutoff in fold.cutoffs]

    assert cutoffs == sorted(set(cutoffs))
    assert len(cutoffs) <= plan.cutoffs
    assert len(folds) == min(plan.refits, len(cutoffs))
    sizes = [len(fold.cutoffs) for fold in folds]
    assert not sizes or max(sizes) - min(sizes) <= 1
    for cutoff in cutoffs:
        assert freq.shift(cutoff, horizon) <= dataset.as_of
        back = freq.steps_between(cutoff, dataset.as_of) - horizon - plan.gap
        assert back >= 0
        assert back % plan.step == 0
    for fold in folds:
        history = dataset.training(fold).history
        # No training row within the gap before any of the fold's cutoffs.
        assert all(history["ds"].max() <= freq.shift(cutoff, -plan.gap) for cutoff in fold.cutoffs)
        assert fold.train_end == freq.shift(fold.cutoffs[0], -plan.gap)
        known = history.drop_nulls("y").group_by("unique_id").len()["len"].max()
        assert known >= plan.min_train
        if plan.window == "rolling":
            assert freq.steps_between(fold.train_start, fold.train_end) == (plan.window_size or 60) - 1
        else:
            assert fold.train_start is None


@settings(max_examples=60, deadline=None)
@given(dataset=panels(), plan=plans)
def test_folds_are_the_same_twice_and_blind_to_rows_after_the_as_of_date(dataset: PanelDataset, plan: FoldPlan):
    freq = dataset.schema.freq
    later = pl.DataFrame(
        [("s0", freq.shift(dataset.as_of, i), 1e9) for i in range(1, 40)], schema=dataset.frame.schema, orient="row"
    )
    longer = PanelDataset(pl.concat([dataset.frame, later]), dataset.schema, {}, dataset.as_of)

    assert laid_out(dataset, plan) == laid_out(dataset, plan) == laid_out(longer, plan)
    assert final_fold(dataset, plan) == final_fold(longer, plan)


@settings(max_examples=60, deadline=None)
@given(dataset=panels(), plan=plans)
def test_one_night_later_the_origins_are_those_of_today_moved_by_one_step(dataset: PanelDataset, plan: FoldPlan):
    freq = dataset.schema.freq
    complete = dataset.frame.with_columns(y=pl.lit(1.0))
    last = complete.group_by("unique_id").agg(pl.col("ds").max())
    grown = pl.concat([complete, last.with_columns(freq.shift_expr("ds", 1), y=pl.lit(1.0)).select(complete.columns)])
    today = laid_out(PanelDataset(grown, dataset.schema, {}, dataset.as_of), plan)
    tomorrow = laid_out(PanelDataset(grown, dataset.schema, {}, freq.shift(dataset.as_of, 1)), plan)

    moved = [freq.shift(cutoff, 1) for fold in today for cutoff in fold.cutoffs]
    found = [cutoff for fold in tomorrow for cutoff in fold.cutoffs]

    # A longer history may let one more origin in, never move or drop one.
    assert found[len(found) - len(moved) :] == moved
    if len(moved) == plan.cutoffs:
        assert found == moved
