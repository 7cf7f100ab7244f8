from datetime import datetime

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nightcast.contracts.columns import QUANTILES
from nightcast.contracts.frequency import Frequency
from nightcast.contracts.recipe import GatePlan
from nightcast.evaluation.comparison import compare, paired_effect

DAYS = Frequency.parse("D")


def rows(seed: int, origins: int, series: int) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    keys = [
        (f"s{s}", DAYS.shift(datetime(2024, 1, 1), o + 1), DAYS.shift(datetime(2024, 1, 1), o))
        for o in range(origins)
        for s in range(series)
    ]
    q = np.sort(rng.normal(50, 10, (len(keys), len(QUANTILES))), axis=1)
    base = pl.DataFrame(
        keys, schema={"unique_id": pl.String, "ds": pl.Datetime("us"), "cutoff": pl.Datetime("us")}, orient="row"
    )
    return base.with_columns(
        *(pl.Series(name, q[:, i]) for i, name in enumerate(QUANTILES)),
        y=pl.Series(rng.gamma(2, 25, len(keys)) * rng.integers(0, 2, len(keys))),
        loss=pl.Series(rng.gamma(1, 1, len(keys)) * rng.integers(0, 2, len(keys))),
        segment=pl.Series(rng.choice(["steady", "new", "shut_in"], len(keys))),
    )


frames = st.builds(rows, st.integers(0, 9999), st.integers(1, 12), st.integers(1, 8))
plans = st.builds(
    GatePlan,
    confidence=st.floats(0.55, 0.99),
    min_effect=st.floats(0, 0.1),
    block=st.integers(1, 20),
    draws=st.just(100),
)


@settings(max_examples=80, deadline=None)
@given(challenger=frames, champion=st.one_of(st.none(), frames), naive=frames, plan=plans, same=st.booleans())
def test_every_decision_follows_the_rules(challenger, champion, naive, plan, same):
    decision = compare(challenger, champion, naive, plan, same_recipe=same, seed=1)

    failed = [guard for guard in decision.guards if not guard.passed]
    assert decision.promote == (decision.kind in ("first", "refit", "replace"))
    assert not (decision.promote and failed)
    assert (decision.kind in ("first", "none")) == (champion is None)
    if decision.kind == "refit":
        assert same
    if decision.kind == "replace":
        assert not same
        assert decision.high < 0
        assert decision.effect <= -plan.min_effect
    if decision.effect is not None:
        assert decision.low <= decision.effect <= decision.high
        assert decision.cutoffs >= 4
    assert all(np.isfinite(guard.value) for guard in decision.guards)
    assert decision.reason.endswith(".")


@settings(max_examples=30, deadline=None)
@given(challenger=frames, champion=frames, plan=plans, factor=st.floats(0.01, 100))
def test_the_effect_ignores_the_unit_of_the_loss(challenger, champion, plan, factor):
    scaled = [frame.with_columns(pl.col("loss") * factor) for frame in (challenger, champion)]

    first, second = paired_effect(challenger, champion, plan, seed=3), paired_effect(*scaled, plan, seed=3)

    for name in ("effect", "low", "high"):
        assert getattr(second, name) == pytest.approx(getattr(first, name), rel=1e-6, abs=1e-6)


@settings(max_examples=30, deadline=None)
@given(rows_=frames, plan=plans, factor=st.floats(0.2, 3))
def test_losses_that_differ_by_one_factor_leave_no_doubt(rows_, plan, factor):
    rows_ = rows_.with_columns(loss=pl.col("loss") + 0.1)

    found = paired_effect(rows_.with_columns(pl.col("loss") * factor), rows_, plan, seed=3)

    assert found.effect == pytest.approx(factor - 1)
    if found.cutoffs >= 2:
        assert (found.low, found.high) == pytest.approx((factor - 1, factor - 1))


@settings(max_examples=30, deadline=None)
@given(challenger=frames, champion=frames, confidence=st.floats(0.55, 0.9))
def test_more_confidence_gives_a_wider_interval(challenger, champion, confidence):
    narrow = paired_effect(challenger, champion, GatePlan(confidence=confidence, draws=200), seed=3)
    wide = paired_effect(challenger, champion, GatePlan(confidence=confidence + 0.09, draws=200), seed=3)

    assert wide.low <= narrow.low <= narrow.high <= wide.high
