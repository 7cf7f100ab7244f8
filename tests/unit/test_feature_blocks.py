import math
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from nightcast.contracts.errors import ConfigError
from nightcast.contracts.recipe import FeatureChoice
from nightcast.contracts.schema import PanelSchema
from nightcast.features.catalog import FEATURES, build_features, covariate_columns

MONTHLY = PanelSchema(freq="MS", horizon=1, lower=0)
N = None


def panel(freq: str = "1mo", start: datetime = datetime(2020, 1, 1), **series: list[Any]) -> pl.DataFrame:
    return pl.concat(
        pl.DataFrame({"unique_id": name, "y": pl.Series(values, dtype=pl.Float64)})
        .with_row_index("step")
        .select("unique_id", pl.lit(start).dt.offset_by(_every(freq)).alias("ds"), "y")
        for name, values in series.items()
    )


def _every(freq: str) -> pl.Expr:
    unit = freq.lstrip("0123456789")
    return pl.format("{}" + unit, pl.col("step") * int(freq.removesuffix(unit)))


def built(frame: pl.DataFrame, block: str, schema: PanelSchema = MONTHLY, **params: Any) -> pl.DataFrame:
    return build_features(frame, schema, [FeatureChoice(name=block, params=params)])[0]


def column(frame: pl.DataFrame, name: str) -> list[float | None]:
    return [None if v is None else round(v, 6) for v in frame[name].to_list()]


def test_lag_0_is_the_value_itself_and_lags_stop_at_the_start_of_a_series() -> None:
    frame = built(panel(A=[1, 2, N, 4], B=[9, 8]), "lags", steps=2)

    assert column(frame, "lag_0") == [1, 2, N, 4, 9, 8]
    assert column(frame, "lag_1") == [N, 1, 2, N, N, 9]
    assert column(frame, "lag_2") == [N, N, 1, 2, N, N]


def test_rolling_statistics_are_of_the_known_values_in_the_window() -> None:
    frame = built(panel(A=[1, N, 5, 9], B=[N, 7]), "rolling", windows=[3])

    assert column(frame, "roll_mean_3") == [1, 1, 3, 7, N, 7]
    assert column(frame, "roll_min_3") == [1, 1, 1, 5, N, 7]
    assert column(frame, "roll_max_3") == [1, 1, 5, 9, N, 7]
    assert column(frame, "roll_median_3") == [1, 1, 3, 7, N, 7]
    assert column(frame, "roll_std_3") == [N, N, round(math.sqrt(8), 6), round(math.sqrt(8), 6), N, N]


def test_the_median_of_three_is_the_middle_one() -> None:
    assert column(built(panel(A=[9, 1, 4]), "rolling", windows=[3]), "roll_median_3") == [9, 5, 4]


def test_rolling_agrees_with_pandas_where_nothing_is_missing() -> None:
    values = np.random.default_rng(3).gamma(2, 10, 40)
    frame = built(panel(A=values.tolist()), "rolling", windows=[12])
    expected = pl.from_pandas(
        frame.to_pandas()["y"].rolling(12, min_periods=2).agg(["mean", "std", "min", "max", "median"])
    )

    for name in ("mean", "std", "min", "max", "median"):
        np.testing.assert_allclose(frame[f"roll_{name}_12"][1:], expected[name][1:], rtol=1e-12)


def test_a_rate_that_falls_by_a_tenth_each_month_has_the_log_slope_ln_0_9() -> None:
    frame = built(panel(A=[100 * 0.9**k for k in range(6)]), "trend", windows=[3])

    assert column(frame, "trend_log_slope_3") == [N, N] + [round(math.log(0.9), 6)] * 4


def test_shut_and_missing_months_do_not_bend_the_slope_but_keep_their_place_in_time() -> None:
    decline = [100 * 0.9**k for k in range(7)]
    frame = built(panel(A=[decline[0], decline[1], 0, N, decline[4], 0, decline[6]]), "trend", windows=[3])

    slope = round(math.log(0.9), 6)
    assert column(frame, "trend_log_slope_3") == [N, N, N, N, slope, slope, slope]


def test_slopes_do_not_reach_into_the_series_before() -> None:
    frame = built(panel(A=[1, 2, 4], B=[8, 4, 2]), "trend", windows=[3])

    assert column(frame, "trend_log_slope_3") == [N, N, round(math.log(2), 6), N, N, round(-math.log(2), 6)]


def test_ratios_compare_short_means_with_long_ones() -> None:
    frame = built(panel(A=[4, 4, 1]), "trend", windows=[3])

    assert column(frame, "trend_ratio_1_3") == [1, 1, round(1 / 3, 6)]


def test_a_well_that_stands_still_has_no_ratio() -> None:
    assert column(built(panel(A=[0, 0]), "trend", windows=[3]), "trend_ratio_1_3") == [N, N]


def test_months_know_their_length() -> None:
    frame = built(panel(A=[1, 1, 1]), "calendar")

    assert column(frame, "cal_month") == [1, 2, 3]
    assert column(frame, "cal_quarter") == [1, 1, 1]
    assert column(frame, "cal_days") == [31, 29, 31]


@pytest.mark.parametrize(
    ("freq", "step", "names"),
    [
        ("YS", "1y", ["cal_days"]),
        ("QS", "1q", ["cal_quarter", "cal_days"]),
        ("MS", "1mo", ["cal_month", "cal_quarter", "cal_days"]),
        ("W-MON", "1w", ["cal_month", "cal_quarter", "cal_week"]),
        ("D", "1d", ["cal_month", "cal_day", "cal_weekday"]),
        ("h", "1h", ["cal_weekday", "cal_hour"]),
        ("30min", "30m", ["cal_weekday", "cal_hour"]),
    ],
)
def test_the_calendar_fits_the_frequency(freq: str, step: str, names: list[str]) -> None:
    schema = PanelSchema(freq=freq, horizon=1)
    frame, columns, _ = build_features(panel(step, A=[1, 2]), schema, [FeatureChoice(name="calendar")])

    assert list(columns) == names
    assert frame.select(names).null_count().row(0) == (0,) * len(names)


def test_half_hours_and_mondays_are_pinned() -> None:
    monday = datetime(2024, 1, 1, 6, 30)
    frame = built(panel("30m", monday, A=[1, 2]), "calendar", PanelSchema(freq="30min", horizon=1))

    assert column(frame, "cal_weekday") == [1, 1]
    assert column(frame, "cal_hour") == [6.5, 7]


def test_fourier_pairs_turn_once_a_season_and_start_in_january() -> None:
    frame = built(panel(A=[1.0] * 13), "fourier", pairs=2)

    assert column(frame, "fourier_sin_1")[:4] == [0, 0.5, round(math.sqrt(3) / 2, 6), 1]
    assert column(frame, "fourier_cos_1")[6] == -1
    assert column(frame, "fourier_sin_2")[3] == 0
    assert frame["fourier_sin_1"][12] == frame["fourier_sin_1"][0]


def test_the_pair_at_half_the_season_has_no_sine() -> None:
    _, columns, _ = build_features(
        panel(A=[1.0]), MONTHLY, [FeatureChoice(name="fourier", params={"pairs": 2, "season": 4})]
    )

    assert list(columns) == ["fourier_sin_1", "fourier_cos_1", "fourier_cos_2"]


def test_weeks_start_their_season_on_monday() -> None:
    frame = built(panel("1d", datetime(2024, 1, 1), A=[1.0] * 8), "fourier", PanelSchema(freq="D", horizon=1), pairs=1)

    assert column(frame, "fourier_cos_1")[0] == 1
    assert column(frame, "fourier_cos_1")[7] == 1


def test_without_a_number_there_are_three_fourier_pairs_or_as_many_as_a_short_season_has() -> None:
    quarters = panel("3mo", A=[1.0] * 5)

    monthly = built(panel(A=[1.0] * 13), "fourier")
    quarterly = built(quarters, "fourier", PanelSchema(freq="QS", horizon=1))

    assert [n for n in monthly.columns if n.startswith("fourier_cos")] == [f"fourier_cos_{k}" for k in (1, 2, 3)]
    assert [n for n in quarterly.columns if n.startswith("fourier_cos")] == ["fourier_cos_1", "fourier_cos_2"]


@pytest.mark.parametrize("params", [{"pairs": 7}, {"pairs": 0}, {"season": 1}, {"pairs": 1, "season": 2.5}])
def test_fourier_pairs_that_cannot_be_are_refused(params: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        built(panel(A=[1.0]), "fourier", **params)


def test_status_follows_a_well_through_shut_in_and_restart() -> None:
    frame = built(panel(A=[0, 5, 6, 0, 0, 7, N, 8]), "status", windows=[3])

    assert column(frame, "status_shut") == [1, 0, 0, 1, 1, 0, N, 0]
    assert column(frame, "status_since_shut") == [0, 1, 2, 0, 0, 1, 2, 3]
    assert column(frame, "status_since_restart") == [N, 0, 1, N, N, 0, 1, 2]
    assert column(frame, "status_since_first") == [N, 0, 1, 2, 3, 4, 5, 6]
    assert column(frame, "status_last_rate") == [N, 5, 6, 6, 6, 7, 7, 8]
    thirds = [round(k / 3, 6) for k in range(4)]
    assert column(frame, "status_share_3") == [0, 0.5, thirds[2], thirds[2], thirds[1], thirds[1], 0.5, 1]


def test_a_well_that_never_was_shut_has_no_time_since() -> None:
    frame = built(panel(A=[5, 6], B=[0, 1]), "status")

    assert column(frame, "status_since_shut")[:2] == [N, N]
    assert column(frame, "status_since_restart") == [N, N, N, 0]


def test_uptime_decides_where_it_is_known_and_the_target_elsewhere() -> None:
    frame = panel(A=[5, 5, 0, 0]).with_columns(pl.Series("uptime", [0.0, 0.9, 0.4, None]))

    assert column(built(frame, "status"), "status_shut") == [1, 0, 0, 1]
    assert column(built(frame, "status", least_uptime=0.5), "status_shut") == [1, 0, 1, 1]
    assert column(built(frame, "status"), "status_last_rate") == [N, 5, 5, 5]


def test_pressure_is_compared_with_its_own_past() -> None:
    frame = panel(A=[10, 20, 30, 40]).with_columns(pl.Series("wbhp", [200.0, 100.0, 0.0, 150.0]))
    out = built(frame, "pressure", steps=[1, 2])

    assert column(out, "press_delta_1") == [N, -100, N, N]
    assert column(out, "press_delta_2") == [N, N, N, 50]
    assert column(out, "press_to_max") == [0, 100, N, 50]
    assert column(out, "press_to_min") == [0, 0, N, 50]
    assert column(out, "press_rate_per_bar_lag_1") == [N, N, 0.2, N]


def test_extremes_of_pressure_stay_in_their_series() -> None:
    frame = panel(A=[1, 1], B=[1, 1]).with_columns(pl.Series("wbhp", [300.0, 100.0, 150.0, 140.0]))

    assert column(built(frame, "pressure"), "press_to_max") == [0, 200, 0, 10]


def test_age_counts_from_the_first_row() -> None:
    frame = built(panel(A=[1, N, 3], B=[1]), "age")

    assert column(frame, "age_steps") == [0, 1, 2, 0]
    assert column(frame, "age_log") == [0, round(math.log(2), 6), round(math.log(3), 6), 0]


# --- injection ------------------------------------------------------------------------------------------------------


def field(
    injectors: dict[str, tuple[float | None, list[float | None]]], producer: list[float | None], at: float | None = 0.0
) -> pl.DataFrame:
    frame = panel(P=producer).with_columns(
        pl.lit(None).cast(pl.Float64).alias("wwir"),
        pl.lit(at).cast(pl.Float64).alias("x_m"),
        pl.lit(0.0).alias("y_m"),
        pl.lit("target").alias("series_role"),
    )
    parts = [frame]
    for name, (x, rates) in injectors.items():
        parts.append(
            panel(**{name: [None] * len(rates)}).with_columns(  # type: ignore[arg-type]
                pl.Series("wwir", rates, dtype=pl.Float64),
                pl.lit(x).cast(pl.Float64).alias("x_m"),
                pl.lit(0.0).alias("y_m"),
                pl.lit("support").alias("series_role"),
            )
        )
    return pl.concat(parts)


def support(frame: pl.DataFrame, **params: Any) -> list[float | None]:
    return column(built(frame, "injection", **params).filter(pl.col("unique_id") == "P"), "inj_wwir_lag_weighted")


def test_a_step_of_injection_arrives_with_the_time_constant_of_its_distance() -> None:
    # theta = 20 d at 400 m; a month of 30.4375 d lets 1 - exp(-30.4375 / 20) of a change through.
    through = 1 - math.exp(-30.4375 / 20)

    felt = support(field({"I": (400.0, [0, 100, 100])}, [1, 1, 1]))

    assert felt == [0, round(100 * through, 6), round(100 * (1 - (1 - through) ** 2), 6)]


def test_far_injection_arrives_later() -> None:
    near = support(field({"I": (200.0, [0, 100])}, [1, 1]))
    far = support(field({"I": (1200.0, [0, 100])}, [1, 1]))

    assert near[1] is not None
    assert far[1] is not None
    assert near[1] > 99 > far[1] > 15


def test_a_near_injector_counts_more_by_the_kernel() -> None:
    weights = [math.exp(-((d / 500) ** 1.5)) for d in (250, 1000)]

    felt = support(field({"I1": (250.0, [100]), "I2": (1000.0, [0])}, [1]), length_m=500)

    assert felt == [round(100 * weights[0] / sum(weights), 6)]


def test_the_default_reach_is_the_distance_to_the_nearest_injector() -> None:
    assert support(field({"I1": (300.0, [100]), "I2": (600.0, [0])}, [1])) == support(
        field({"I1": (300.0, [100]), "I2": (600.0, [0])}, [1]), length_m=300
    )


def test_injectors_without_positions_count_alike_and_a_note_says_so() -> None:
    frame = field({"I1": (None, [100]), "I2": (None, [50])}, [1])

    assert support(frame) == [75]
    for given in (frame, frame.drop("x_m", "y_m")):
        _, _, notes = build_features(given, MONTHLY, [FeatureChoice(name="injection")])
        assert [note.code for note in notes] == ["injection_equal_weights"]
    assert support(frame.drop("x_m")) == [75]


def test_an_injector_that_falls_silent_stands_for_a_while_and_is_then_left_out() -> None:
    frame = field({"I1": (400.0, [100, N, N, N]), "I2": (400.0, [0, 0, 0, 0])}, [1, 1, 1, 1])

    assert support(frame, silent_after=2) == [50, 50, 0, 0]


def test_an_injector_drilled_later_changes_nothing_before() -> None:
    # Two injectors first, so that the default reach matters: a nearer third one would shorten it.
    first = {"I1": (400.0, [100, 50, 80]), "I2": (900.0, [10, 20, 30])}

    early = support(field(first, [1, 1, 1]))
    later = support(field(first | {"I3": (100.0, [N, N, 300])}, [1, 1, 1]))

    assert later[:2] == early[:2]
    assert later[2] != early[2]


def test_a_producer_drilled_later_changes_nothing_before() -> None:
    frame = field({"I1": (400.0, [100, 50, 80]), "I2": (900.0, [10, 20, 30])}, [1, 1, 1])
    newcomer = field({}, [5.0], at=800.0).with_columns(unique_id=pl.lit("Q"), ds=pl.lit(datetime(2020, 3, 1)))

    early, later = (
        support(frame),
        support(pl.concat([frame, newcomer.with_columns(pl.col("ds").cast(pl.Datetime("us")))])),
    )

    assert later[:2] == early[:2]
    assert later[2] != early[2]


def test_changes_and_the_ratio_follow_from_the_support() -> None:
    frame = built(field({"I": (400.0, [100, 100])}, [50, 0]), "injection", changes=[1])
    producer = frame.filter(pl.col("unique_id") == "P")

    assert column(producer, "inj_change_1") == [N, 0]
    assert column(producer, "inj_to_rate") == [2, N]
    assert column(frame.filter(pl.col("unique_id") == "I"), "inj_wwir_lag_weighted") == [N, N]


def test_without_injectors_the_columns_are_empty_and_a_note_says_so() -> None:
    frame, columns, notes = build_features(field({}, [1, 2]), MONTHLY, [FeatureChoice(name="injection")])

    assert frame["inj_wwir_lag_weighted"].null_count() == 2
    assert len(columns) == 5
    assert [note.code for note in notes] == ["injection_without_injectors"]


@pytest.mark.parametrize("order", [("injection", "crm_support"), ("crm_support", "injection")])
def test_beside_a_fit_the_distance_kernel_takes_a_name_of_its_own(order: tuple[str, str]) -> None:
    frame = field({"I": (400.0, [100, 100])}, [50, 60])
    alone = build_features(frame, MONTHLY, [FeatureChoice(name="injection")])[0]

    out, columns, _ = build_features(frame, MONTHLY, [FeatureChoice(name=name) for name in order])

    assert columns["inj_wwir_lag_weighted"].block == "crm_support"
    assert columns["inj_distance_weighted"].block == "injection"
    assert columns["inj_distance_weighted"].scaled
    assert columns["inj_wwir_lag_weighted"].scaled
    assert out["inj_distance_weighted"].equals(alone["inj_wwir_lag_weighted"])
    assert out["inj_wwir_lag_weighted"].null_count() == out.height, "two months are no ground for a fit"
    assert [its.block for its in columns.values()] == sorted((c.block for c in columns.values()), key=order.index)


# --- the catalog ----------------------------------------------------------------------------------------------------


def full() -> pl.DataFrame:
    frame = field({"I": (300.0, [50, 60, 70, 80])}, [5, 0, 7, 8])
    return frame.with_columns(
        pl.Series("wbhp", [200.0, 150.0, 120.0, 110.0] * 2),
        pl.lit(0.9).alias("uptime"),
        (pl.col("y") * 0.4).alias("wopr"),
    )


@pytest.mark.parametrize("name", list(FEATURES))
def test_every_block_keeps_rows_and_columns_and_names_its_own_by_its_prefix(name: str) -> None:
    frame = full()
    out, columns, _ = build_features(frame, MONTHLY, [FeatureChoice(name=name)])
    block = FEATURES[name]

    assert out.select(frame.columns).equals(frame.sort("unique_id", "ds"))
    assert out.columns == [*frame.columns, *columns]
    assert columns
    assert all(column.startswith(block.prefix) or column in block.also for column in columns)
    assert {c.role for c in columns.values()} == {block.role}
    assert {c.block for c in columns.values()} == {name}
    assert block.scaled_except | block.also | set(block.cedes) <= set(columns)
    assert all(out.schema[column] == pl.Float64 for column in columns)


@pytest.mark.parametrize("name", list(FEATURES))
def test_every_block_stands_an_empty_frame(name: str) -> None:
    out, columns, _ = build_features(full().clear(), MONTHLY, [FeatureChoice(name=name)])

    assert out.height == 0
    assert columns


@pytest.mark.parametrize("name", list(FEATURES))
def test_columns_in_the_target_s_unit_grow_with_it_and_the_others_do_not(name: str) -> None:
    # Injection is in the target's unit as well, so both are scaled.
    rng = np.random.default_rng(5)
    frame = field({"I": (300.0, rng.uniform(40, 90, 20).tolist())}, rng.uniform(1, 9, 20).tolist())
    frame = frame.with_columns(
        pl.Series("wbhp", rng.uniform(50, 200, 40)),
        pl.Series("uptime", rng.uniform(0.6, 1.0, 40)),
        (pl.col("y") * pl.Series(rng.uniform(0.2, 0.8, 40))).alias("wopr"),
    )
    larger = frame.with_columns(pl.col("y") * 8, pl.col("wwir") * 8, pl.col("wopr") * 8)

    one, columns, _ = build_features(frame, MONTHLY, [FeatureChoice(name=name)])
    other = build_features(larger, MONTHLY, [FeatureChoice(name=name)])[0]

    for column_name, its in columns.items():
        before, after = one[column_name].to_numpy(), other[column_name].to_numpy()
        np.testing.assert_allclose(after, before * (8 if its.scaled else 1), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", list(FEATURES))
def test_every_block_and_its_parameters_are_explained_in_the_documentation(name: str) -> None:
    import inspect

    page = (Path(__file__).parents[2] / "docs" / "features.md").read_text()
    section = page.split(f"\n## `{name}`", 1)[1].split("\n## ", 1)[0]

    for parameter in list(inspect.signature(FEATURES[name].build).parameters)[2:]:
        assert f"`{parameter}`" in section


def test_a_block_whose_columns_are_not_in_the_data_is_skipped_with_a_note() -> None:
    out, columns, notes = build_features(
        panel(A=[1, 2]), MONTHLY, [FeatureChoice(name="pressure"), FeatureChoice(name="injection")]
    )

    assert columns == {}
    assert out.width == 3
    assert [note.code for note in notes] == ["feature_block_skipped"] * 2
    assert "wbhp" in notes[0].detail
    assert "wwir" in notes[1].detail


def test_blocks_do_not_see_one_another_so_their_order_changes_no_value() -> None:
    choices = [FeatureChoice(name=name) for name in FEATURES]

    one, columns, _ = build_features(full(), MONTHLY, choices)
    other, _, _ = build_features(full(), MONTHLY, choices[::-1])

    assert one.select(sorted(columns)).equals(other.select(sorted(columns)))


def test_after_the_as_of_date_only_columns_known_ahead_hold_values() -> None:
    choices = [FeatureChoice(name="status"), FeatureChoice(name="age")]
    frame, columns, _ = build_features(panel(A=[1, 2, N]), MONTHLY, choices, as_of=datetime(2020, 2, 1))

    future = frame.filter(pl.col("ds") > datetime(2020, 2, 1))
    for name, its in columns.items():
        assert future[name].null_count() == (1 if its.role == "past" else 0)
    assert column(frame, "status_last_rate") == [1, 2, N]


def test_one_block_can_be_chosen_twice_with_other_parameters() -> None:
    choices = [FeatureChoice(name="rolling", params={"windows": [w], "statistics": ["mean"]}) for w in (2, 3)]

    assert list(build_features(panel(A=[1]), MONTHLY, choices)[1]) == ["roll_mean_2", "roll_mean_3"]
    with pytest.raises(ConfigError, match="'roll_mean_2' is made twice"):
        build_features(panel(A=[1]), MONTHLY, choices[:1] * 2)


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        (FeatureChoice(name="lagz"), "unknown feature block 'lagz'"),
        (FeatureChoice(name="lags", params={"k": 3}), "has no parameter 'k'"),
        (FeatureChoice(name="calendar", params={"k": 3}), "expected no parameters"),
        (FeatureChoice(name="lags", params={"steps": -1}), "lags.steps"),
        (FeatureChoice(name="lags", params={"steps": "3"}), "lags.steps"),
        (FeatureChoice(name="rolling", params={"windows": []}), "rolling.windows"),
        (FeatureChoice(name="rolling", params={"windows": [3, 3]}), "rolling.windows"),
        (FeatureChoice(name="rolling", params={"statistics": ["mode"]}), "unknown rolling statistics"),
        (FeatureChoice(name="rolling", params={"statistics": []}), "no rolling statistic"),
        (FeatureChoice(name="trend", params={"windows": [1]}), "trend.windows"),
        (FeatureChoice(name="status", params={"least_uptime": -0.1}), "status.least_uptime"),
        (FeatureChoice(name="pressure", params={"least_drawdown": float("nan")}), "pressure.least_drawdown"),
        (FeatureChoice(name="injection", params={"length_m": 0}), "injection.length_m"),
    ],
)
def test_a_wrong_choice_is_named_with_what_is_right(choice: FeatureChoice, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_features(full(), MONTHLY, [choice])


def test_a_frame_off_its_grid_is_refused() -> None:
    gap = panel(A=[1, 2, 3]).filter(pl.col("y") != 2)

    with pytest.raises(ConfigError, match=r"series 'A' is not one month apart at 2020-03-01"):
        build_features(gap, MONTHLY, [FeatureChoice(name="lags")])


def test_repeated_rows_are_refused() -> None:
    frame = panel(A=[1, 2])

    with pytest.raises(ConfigError, match="not one month apart"):
        build_features(pl.concat([frame, frame[:1]]), MONTHLY, [FeatureChoice(name="lags")])


def test_an_input_column_with_the_name_of_a_feature_is_refused() -> None:
    with pytest.raises(ConfigError, match="'lag_days' has a name that feature blocks use"):
        build_features(panel(A=[1]).with_columns(lag_days=1.0), MONTHLY, [FeatureChoice(name="age")])


def test_covariates_keep_their_declared_roles() -> None:
    schema = PanelSchema(freq="MS", horizon=1, covariates={"wbhp": "past", "uptime": "plan"})

    columns = covariate_columns(schema)

    assert {name: (its.role, its.block, its.scaled) for name, its in columns.items()} == {
        "wbhp": ("past", "covariate", False),
        "uptime": ("plan", "covariate", False),
    }
