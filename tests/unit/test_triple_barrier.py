"""Triple-barrier labels on bars made by hand: entries, touches, fills, and what is unknown."""

from __future__ import annotations

import math
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from nightcast.contracts.bars import label_columns
from nightcast.contracts.errors import ConfigError, SourceError
from nightcast.contracts.schema import BarsSchema, LabelPlan
from nightcast.features.labels import barrier_width, label_facts, seasonal_factor, triple_barrier
from nightcast.features.segments import infer_calendar, infer_frequency, segmented

MARKET = Path(__file__).parents[2].parent / "shared" / "data" / "market"
START = datetime(2024, 1, 8)
WARM = [(100.0, 100.0, 100.0, c) for c in (100.0, 100.1, 100.0, 100.1, 100.0)]
"""Bars whose closes move a little: enough of them for a volatility at a span of 2."""
FIXED = LabelPlan(barrier="fixed", threshold=0.02, span=2)

Bar = tuple[float | None, float | None, float | None, float | None]


def bars(rows: list[Bar], *, session: list[int] | None = None, segment: list[int] | None = None) -> pl.DataFrame:
    """Open, high, low, close of one symbol, after the warm-up."""
    everything = [*WARM, *rows]
    size = len(everything)
    warm = [0] * len(WARM)
    values = {name: [row[k] for row in everything] for k, name in enumerate(("open", "high", "low", "close"))}
    return pl.DataFrame(
        {
            "unique_id": ["AAA"] * size,
            "ds": [START + timedelta(hours=k) for k in range(size)],
            "segment": [0] * size if segment is None else warm + segment,
            "session": [0] * size if session is None else warm + session,
            **values,
            "volume": [1.0] * size,
        },
        schema_overrides=dict.fromkeys(values, pl.Float64),
    )


def label(frame: pl.DataFrame, horizon: int, plan: LabelPlan = FIXED, row: int = len(WARM) - 1) -> dict[str, Any]:
    """The label of the last bar of the warm-up, or of another row."""
    out = triple_barrier(frame, BarsSchema(freq="h", horizons=(horizon,)), plan)
    return {name: out[column][row] for name, column in label_columns(horizon).items()}


QUIET: Bar = (100.0, 100.5, 99.5, 100.0)


# -- the three barriers -----------------------------------------------------------------------------------------------


def test_the_upper_barrier_touched_first_is_long_and_returns_exactly_the_width() -> None:
    frame = bars([QUIET, (100.0, 102.0, 99.0, 101.0), (101.0, 101.0, 90.0, 90.0)])

    assert label(frame, 3) == {"y": 2, "hold": 2, "ret": 0.02, "width": 0.02, "ambiguous": False}


def test_the_lower_barrier_touched_first_is_short() -> None:
    frame = bars([QUIET, QUIET, (100.0, 101.0, 97.0, 100.0)])

    assert label(frame, 3) == {"y": 0, "hold": 3, "ret": -0.02, "width": 0.02, "ambiguous": False}


def test_no_touch_is_neutral_and_measured_at_the_last_close() -> None:
    frame = bars([QUIET, QUIET, (100.0, 101.9, 98.1, 101.5), (101.5, 150.0, 101.5, 150.0)])

    found = label(frame, 3)

    assert (found["y"], found["hold"], found["ambiguous"]) == (1, 3, False)
    assert found["ret"] == pytest.approx(0.015)


def test_the_entry_is_the_next_open_and_not_the_close_of_the_decision() -> None:
    frame = bars([(105.0, 105.5, 104.5, 105.0), (105.0, 107.2, 105.0, 106.0)])

    assert label(frame, 2)["y"] == 2
    assert label(bars([(105.0, 107.0, 103.0, 105.0), (105.0, 107.0, 103.0, 105.0)]), 2)["y"] == 1


def test_the_bar_of_the_decision_itself_counts_for_nothing() -> None:
    frame = bars([(100.0, 200.0, 50.0, 100.0), QUIET, QUIET])

    assert label(frame, 2, row=len(WARM))["y"] == 1


def test_an_exact_touch_is_a_touch() -> None:
    assert label(bars([(100.0, 102.0, 100.0, 100.0)]), 1)["y"] == 2
    assert label(bars([(100.0, 100.0, 98.0, 100.0)]), 1)["y"] == 0
    assert label(bars([(100.0, np.nextafter(102.0, 0), np.nextafter(98.0, 100), 100.0)]), 1)["y"] == 1


def test_an_exact_touch_of_both_barriers_is_ambiguous() -> None:
    assert label(bars([(100.0, 102.0, 98.0, 100.0)]), 1)["ambiguous"] is True


@pytest.mark.parametrize(("opens", "y"), [(104.0, 2), (95.0, 0)])
def test_a_bar_that_opens_beyond_a_barrier_is_filled_at_its_open(opens: float, y: int) -> None:
    frame = bars([QUIET, (opens, 110.0, 90.0, 100.0)])

    found = label(frame, 2)

    assert (found["y"], found["hold"], found["ambiguous"]) == (y, 2, False)
    assert found["ret"] == pytest.approx(opens / 100 - 1)


# -- both barriers in one bar -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("close", [101.0, 99.0, 100.0])
def test_one_bar_through_both_barriers_is_flagged_and_neutral(close: float) -> None:
    found = label(bars([QUIET, (100.0, 103.0, 97.0, close), QUIET]), 3)

    assert (found["y"], found["hold"], found["ambiguous"]) == (1, 2, True)
    assert found["ret"] == pytest.approx(close / 100 - 1)


def test_the_return_of_an_ambiguous_neutral_label_stays_between_the_barriers() -> None:
    assert label(bars([(100.0, 109.0, 90.0, 109.0)]), 1)["ret"] == 0.02


@pytest.mark.parametrize(("close", "y", "ret"), [(101.0, 0, -0.02), (99.0, 2, 0.02), (100.0, 1, 0.0)])
def test_the_worst_case_is_a_loss_for_the_side_of_the_close(close: float, y: int, ret: float) -> None:
    plan = FIXED.model_copy(update={"ambiguous": "worst"})

    found = label(bars([(100.0, 103.0, 97.0, close)]), 1, plan)

    assert (found["y"], found["ret"], found["ambiguous"]) == (y, ret, True)


# -- unknown labels ---------------------------------------------------------------------------------------------------

UNKNOWN = {"y": None, "hold": None, "ret": None, "ambiguous": None}


def unknown(found: dict[str, Any]) -> bool:
    return {name: found[name] for name in UNKNOWN} == UNKNOWN


def test_a_label_whose_horizon_passes_the_end_of_the_bars_is_unknown() -> None:
    assert label(bars([QUIET, QUIET]), 2)["y"] == 1
    assert unknown(label(bars([QUIET, QUIET]), 3))


def test_a_label_never_leaves_its_session() -> None:
    frame = bars([QUIET, QUIET, QUIET, QUIET], session=[0, 0, 1, 1])

    assert label(frame, 2)["y"] == 1
    assert unknown(label(frame, 3))
    assert unknown(label(frame, 1, row=len(WARM) + 1))


def test_a_touch_before_the_close_of_a_session_too_short_for_the_horizon_is_unknown_too() -> None:
    touched = [QUIET, (100.0, 103.0, 100.0, 103.0), QUIET, QUIET]

    assert label(bars(touched), 3)["y"] == 2
    assert unknown(label(bars(touched, session=[0, 0, 1, 1]), 3))


def test_the_last_bars_of_sessions_do_not_lean_towards_touches() -> None:
    """Keeping early touches alone would leave the last bars of a session without any neutral label."""
    rng = np.random.default_rng(3)
    steps = rng.normal(scale=0.01, size=4000)
    close = 100 * np.exp(np.cumsum(steps))
    frame = pl.DataFrame(
        {
            "unique_id": "AAA",
            "ds": [START + timedelta(hours=k) for k in range(4000)],
            "segment": 0,
            "session": np.arange(4000) // 16,
            "open": np.append(100.0, close[:-1]),
            "high": np.maximum(close, np.append(100.0, close[:-1])),
            "low": np.minimum(close, np.append(100.0, close[:-1])),
            "close": close,
            "volume": 1.0,
        }
    )
    plan = LabelPlan(barrier="fixed", threshold=0.015, span=2)

    out = triple_barrier(frame, BarsSchema(freq="h", horizons=(4,)), plan).with_columns(
        (pl.int_range(pl.len()) % 16).alias("place")
    )

    known = out.drop_nulls("label_4_y")
    assert known["place"].max() == 11
    neutral = known.group_by("place").agg((pl.col("label_4_y") == 1).mean().alias("share"))
    inner, last = (
        neutral.filter(pl.col("place") < 11)["share"].mean(),
        neutral.filter(pl.col("place") == 11)["share"][0],
    )
    assert abs(inner - last) < 0.1


@pytest.mark.parametrize("hole", range(4))
def test_a_bar_that_lacks_a_price_gives_no_label_over_it(hole: int) -> None:
    broken: Bar = tuple(None if k == hole else p for k, p in enumerate(QUIET))  # type: ignore[assignment]
    frame = bars([QUIET, broken, QUIET, QUIET])

    assert label(frame, 1)["y"] == 1
    assert unknown(label(frame, 2))
    assert unknown(label(frame, 1, row=len(WARM)))
    assert unknown(label(frame, 1, row=len(WARM) + 1))
    assert label(frame, 1, row=len(WARM) + 2)["y"] == 1


def test_a_touch_before_a_broken_bar_within_the_horizon_is_unknown_too() -> None:
    frame = bars([(100.0, 103.0, 100.0, 103.0), (None, 103.0, 103.0, 103.0), QUIET])

    assert label(frame, 1)["y"] == 2
    assert unknown(label(frame, 3))


@pytest.mark.parametrize("price", [0.0, -1.0, math.inf, math.nan])
def test_a_price_that_is_none_counts_as_missing(price: float) -> None:
    assert unknown(label(bars([(100.0, 100.0, price, 100.0)]), 1))


def test_without_a_volatility_nothing_is_known() -> None:
    frame = bars([QUIET] * 3)

    found = label(frame, 1, row=1)  # one return is no deviation yet

    assert unknown(found)
    assert found["width"] is None
    flat = frame.with_columns(pl.lit(100.0).alias(name) for name in ("open", "high", "low", "close"))
    out = triple_barrier(flat, BarsSchema(freq="h", horizons=(1,)), FIXED)
    assert out["sigma"].drop_nulls().eq(0).all()
    assert out["label_1_y"].null_count() == out["label_1_width"].null_count() == out.height


def test_the_width_is_known_where_the_label_is_not_yet() -> None:
    assert label(bars([QUIET, QUIET]), 5)["width"] == 0.02


# -- volatility and widths --------------------------------------------------------------------------------------------


def test_the_volatility_starts_anew_in_a_segment_and_skips_the_move_over_a_close() -> None:
    jump = [(150.0, 150.0, 150.0, c) for c in (150.0, 150.1, 150.0, 150.1)]

    over_close = triple_barrier(bars(jump, session=[1] * 4), BarsSchema(freq="h", horizons=(1,)), FIXED)["sigma"]
    over_gap = triple_barrier(bars(jump, session=[1] * 4, segment=[1] * 4), BarsSchema(freq="h", horizons=(1,)), FIXED)[
        "sigma"
    ]
    in_session = triple_barrier(bars(jump), BarsSchema(freq="h", horizons=(1,)), FIXED)["sigma"]

    assert in_session[5] > 0.1
    assert over_close[5] == over_close[4] < 0.002
    assert over_gap[5:].is_null().to_list() == [True, True, False, False]


def test_the_volatility_needs_twenty_returns_at_longer_spans() -> None:
    frame = bars([(100.0, 100.0, 100.0, 100.0 + k % 2) for k in range(40)])

    sigma = triple_barrier(frame, BarsSchema(freq="h", horizons=(1,)), LabelPlan(span=100))["sigma"]

    assert sigma.is_null().to_list() == [True] * 20 + [False] * 25


@pytest.mark.parametrize(("barrier", "expected"), [("volatility", 2 * 0.01 * 2), ("fixed", 0.01), ("adaptive", 0.05)])
def test_each_kind_of_barrier_has_its_width(barrier: str, expected: float) -> None:
    plan = LabelPlan(barrier=barrier, multiplier=2.0, threshold=0.01, minimum=0.05)  # type: ignore[arg-type]

    width = barrier_width(np.array([0.01, 0.0, np.nan]), 4, plan)

    assert width[0] == pytest.approx(expected)
    assert np.isnan(width[1:]).all()


def test_an_adaptive_barrier_grows_beyond_its_minimum_with_the_volatility() -> None:
    plan = LabelPlan(barrier="adaptive", multiplier=1.2, minimum=0.003)

    assert barrier_width(np.array([0.0001, 0.01]), 4, plan) == pytest.approx([0.003, 0.024])


# -- seasons ----------------------------------------------------------------------------------------------------------


def seasonal(days: int, seed: int) -> tuple[pl.DataFrame, np.ndarray]:
    """Hourly bars that move three times as much from 14:00 to 15:59."""
    rng = np.random.default_rng(seed)
    hour = np.arange(24 * days) % 24
    factor = np.where((hour == 14) | (hour == 15), 3.0, 1.0)
    close = 100 * np.exp(np.cumsum(0.001 * factor * rng.normal(size=len(hour))))
    frame = pl.DataFrame(
        {
            "unique_id": "AAA",
            "ds": [START + timedelta(hours=k) for k in range(len(hour))],
            "segment": 0,
            "session": 0,
            **dict.fromkeys(("open", "high", "low", "close"), close),
            "volume": 1.0,
        }
    )
    return frame, factor


def test_the_season_is_found_and_makes_the_volatility_follow_the_clock() -> None:
    frame, factor = seasonal(400, seed=1)
    train = np.arange(frame.height) < 300 * 24

    season = seasonal_factor(frame, train)

    assert season.to_numpy() == pytest.approx(factor / factor.mean(), rel=0.2)
    with_season = triple_barrier(frame, BarsSchema(freq="h", horizons=(1,)), LabelPlan(), season=season)["sigma"]
    rows = slice(24 * 30, None)
    assert with_season.to_numpy()[rows] == pytest.approx(0.001 * factor[rows], rel=0.5)


def test_the_season_knows_training_rows_alone() -> None:
    frame, _ = seasonal(60, seed=2)
    train = np.arange(frame.height) < 40 * 24
    scrambled = frame.with_columns(
        pl.when(pl.Series(train)).then("close").otherwise(pl.col("close").shuffle(seed=1)).alias("close")
    )

    assert seasonal_factor(frame, train).equals(seasonal_factor(scrambled, train))


def test_a_clock_time_without_enough_training_has_no_season() -> None:
    frame, _ = seasonal(60, seed=2)

    assert seasonal_factor(frame, np.arange(frame.height) < 10 * 24).to_list() == [1.0] * frame.height


def test_a_season_that_does_not_fit_is_refused() -> None:
    frame, _ = seasonal(2, seed=2)

    with pytest.raises(ConfigError, match="48 bars"):
        triple_barrier(frame, BarsSchema(freq="h", horizons=(1,)), LabelPlan(), season=np.zeros(48))
    with pytest.raises(ConfigError, match="one flag a bar"):
        seasonal_factor(frame, np.ones(3, dtype=bool))


# -- the frame --------------------------------------------------------------------------------------------------------


def test_every_horizon_gets_its_columns_in_the_agreed_types_and_nothing_else_changes() -> None:
    frame = bars([QUIET] * 6)

    out = triple_barrier(frame, BarsSchema(freq="h", horizons=(1, 4)), FIXED)

    types = {"y": pl.Int8, "hold": pl.Int32, "ret": pl.Float64, "width": pl.Float64, "ambiguous": pl.Boolean}
    added = {c: types[n] for h in (1, 4) for n, c in label_columns(h).items()}
    assert dict(out.schema) == {**frame.schema, "sigma": pl.Float64, **added}
    assert out.select(frame.columns).equals(frame)


def test_an_empty_frame_gets_its_columns_too() -> None:
    frame = bars([]).head(0)

    out = triple_barrier(frame, BarsSchema(freq="h", horizons=(1,)), FIXED)

    assert out.height == 0
    assert "label_1_y" in out.columns
    assert label_facts(out, (1,)).row(0) == (1, 0, 0, *[None] * 6)


def test_bars_without_sessions_are_refused() -> None:
    with pytest.raises(SourceError, match="segmented"):
        triple_barrier(bars([QUIET]).drop("session"), BarsSchema(freq="h", horizons=(1,)), FIXED)


@pytest.mark.parametrize("sessions", [[1, 0, 0], [1, 1, 0], [0, None, 0]])
def test_sessions_that_are_not_numbered_in_order_are_refused(sessions: list[int]) -> None:
    with pytest.raises(SourceError, match="not numbered"):
        triple_barrier(bars([QUIET] * 3, session=sessions), BarsSchema(freq="h", horizons=(1,)), FIXED)


def test_a_session_of_two_symbols_is_refused() -> None:
    first = bars([QUIET])
    both = pl.concat([first, first.with_columns(pl.lit("BBB").alias("unique_id"))])

    with pytest.raises(SourceError, match="not numbered"):
        triple_barrier(both, BarsSchema(freq="h", horizons=(1,)), FIXED)


def test_facts_count_the_known_labels() -> None:
    up, down, both = (100.0, 103.0, 100.0, 100.0), (100.0, 100.0, 97.0, 100.0), (100.0, 103.0, 97.0, 100.0)
    out = triple_barrier(bars([up, down, QUIET, both]), BarsSchema(freq="h", horizons=(1,)), FIXED)

    facts = label_facts(out.filter(pl.int_range(pl.len()) >= len(WARM) - 1), (1,)).to_dicts()[0]

    assert (facts["rows"], facts["known"]) == (5, 4)
    assert [facts[name] for name in ("short", "neutral", "long", "ambiguous")] == [0.25, 0.5, 0.25, 0.25]
    assert (facts["mean_hold"], facts["mean_uniqueness"]) == (1.0, 1.0)


def test_facts_want_labels() -> None:
    with pytest.raises(SourceError, match="triple_barrier"):
        label_facts(bars([QUIET]), (1,))


# -- compilation ------------------------------------------------------------------------------------------------------


def test_where_no_folder_can_hold_the_cache_the_loops_are_compiled_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import numba

    from nightcast.features import _label_kernels

    njit, asked = numba.njit, []

    def unwritable(*args: Any, **options: Any) -> Any:
        asked.append(options)
        if options.get("cache"):
            raise RuntimeError("cannot cache function: no locator available")
        return njit(*args, **options)

    monkeypatch.setattr(numba, "njit", unwritable)

    loop = _label_kernels._compiled(_label_kernels._reach)

    assert loop(np.ones(3, dtype=bool), np.array([0, 0, 1])).tolist() == [1, 1, 2]
    assert asked == [{"cache": True}, {}]


# -- real bars --------------------------------------------------------------------------------------------------------


@pytest.mark.real_data
@pytest.mark.parametrize("name", ["crypto_30m", "crypto_5m", "fx_1h", "fx_5m", "stocks_daily"])
def test_no_label_of_real_bars_crosses_a_gap_or_a_close(name: str) -> None:
    path = MARKET / f"{name}.parquet"
    if not path.exists():
        pytest.skip(f"{path.name} is not beside the checkout")
    raw = pl.read_parquet(path).rename({"symbol": "unique_id", "ts": "ds"}).sort("unique_id", "ds")
    rows = raw.with_columns(pl.col("ds").dt.replace_time_zone(None).cast(pl.Datetime("us")))
    schema = BarsSchema(freq=infer_frequency(rows), calendar=infer_calendar(rows["ds"]), horizons=(1, 5, 20))

    out = triple_barrier(segmented(rows, schema)[0], schema, LabelPlan())

    # told from times alone, apart from the numbering: what a label spans is at most its bars and some missing ones
    step, days = schema.step, 3 if schema.calendar == "business_days" else 0
    for horizon in schema.horizons:
        names = label_columns(horizon)
        last = pl.int_range(pl.len()) + pl.col(names["hold"])
        known = out.with_columns(
            pl.col("ds").gather(last.fill_null(0)).alias("end"),
            pl.col("unique_id").gather(last.fill_null(0)).alias("its"),
        ).drop_nulls(names["y"])
        assert known.height > 0.75 * out.height
        assert (known["its"] == known["unique_id"]).all()
        assert known[names["hold"]].is_between(1, horizon).all()
        span = known["end"] - known["ds"]
        slack = 1 if schema.calendar == "continuous" else 4 if days == 0 else 7  # calendar steps a bar may take
        assert (span <= known[names["hold"]].cast(pl.Int64) * step * slack).all()
        if schema.calendar == "weekdays":
            assert (span < timedelta(hours=24) + horizon * step).all()
            assert not ((known["end"].dt.weekday() == 1) & (known["ds"].dt.weekday() == 5)).any()
        facts = label_facts(out, (horizon,)).to_dicts()[0]
        assert facts["ambiguous"] < 0.05
        assert abs(facts["short"] - facts["long"]) < 0.1
