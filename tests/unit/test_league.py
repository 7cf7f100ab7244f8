from datetime import datetime

import numpy as np
import polars as pl
import pytest

from nightcast.contracts.columns import QUANTILES
from nightcast.contracts.errors import ConfigError
from nightcast.contracts.frequency import Frequency
from nightcast.contracts.panel import PanelDataset
from nightcast.contracts.schema import PanelSchema
from nightcast.evaluation.league import (
    by_horizon,
    league,
    panel_loss,
    segments,
    series_scale,
    series_segments,
)

MONTHS = Frequency.parse("MS")


def month(index: int) -> datetime:
    return MONTHS.shift(datetime(2020, 1, 1), index)


def rows(model: str, errors: dict[str, list[float]], *, actual: float = 100.0, spread: float = 10.0) -> pl.DataFrame:
    """One row per series and error, at horizons 1, 2, ... from month 0; quantiles `spread` wide around the median."""
    return pl.DataFrame(
        [
            {
                "unique_id": series,
                "ds": month(h),
                "cutoff": month(0),
                "horizon": h,
                "model": model,
                **{n: actual + error + spread * (i - 4) / 8 for i, n in enumerate(QUANTILES)},
                "y": actual,
            }
            for series, its in errors.items()
            for h, error in enumerate(its, start=1)
        ]
    )


def panel(values: dict[str, list[float | None]]) -> PanelDataset:
    frame = pl.DataFrame(
        [(name, month(i), v) for name, its in values.items() for i, v in enumerate(its)],
        schema={"unique_id": pl.String, "ds": pl.Datetime("us"), "y": pl.Float64},
        orient="row",
    )
    return PanelDataset(frame, PanelSchema(freq=MONTHS, horizon=3), {}, month(max(map(len, values.values())) - 1))


def test_the_league_ranks_models_by_loss_and_shows_each_beside_the_best_baseline():
    oof = pl.concat(
        [
            rows("good", {"a": [1, 1], "b": [1, 1]}),
            rows("naive", {"a": [4, 4], "b": [4, 4]}),
            rows("worse_naive", {"a": [8, 8], "b": [8, 8]}),
            rows("bad", {"a": [20, 20], "b": [20, 20]}),
        ]
    )

    table = league(oof, ["worse_naive", "naive"])

    assert table["model"].to_list() == ["good", "naive", "worse_naive", "bad"]
    assert table["ratio"].to_list() == pytest.approx([0.25, 1.0, 2.0, 5.0])
    assert table["rows"].to_list() == [4] * 4
    assert table["series"].to_list() == [2] * 4
    assert table["bias"].to_list() == pytest.approx([0.01, 0.04, 0.08, 0.2])
    assert table["mase"].to_list() == [None] * 4


def test_a_model_that_skips_the_hard_series_is_compared_on_the_rows_it_has():
    oof = pl.concat(
        [
            rows("naive", {"easy": [2, 2], "hard": [50, 50]}),
            rows("picky", {"easy": [3, 3]}),
            rows("whole", {"easy": [1.8, 1.8], "hard": [40, 40]}),
        ]
    )

    table = league(oof, ["naive"])
    by_model = {row["model"]: row for row in table.to_dicts()}

    assert by_model["picky"]["rows"] == 2
    assert by_model["picky"]["ratio"] == pytest.approx(1.5)
    assert by_model["picky"]["mae"] < by_model["whole"]["mae"]
    assert table["model"].to_list() == ["whole", "naive", "picky"]


def test_without_a_baseline_there_is_no_ratio_and_the_order_is_by_pinball():
    table = league(pl.concat([rows("x", {"a": [5.0]}), rows("y", {"a": [1.0]})]), ["absent"])

    assert table["model"].to_list() == ["y", "x"]
    assert table["ratio"].to_list() == [None, None]


def test_with_a_history_the_scaled_errors_are_filled():
    history = pl.DataFrame({"unique_id": ["a"] * 3, "ds": [month(i) for i in (-2, -1, 0)], "y": [40.0, 44.0, 40.0]})

    table = league(rows("x", {"a": [2.0, 2.0]}), [], history=history)

    assert table["mase"][0] == table["rmsse"][0] == pytest.approx(0.5)


def test_scores_per_horizon_stand_in_order_and_state_their_rows():
    table = by_horizon(pl.concat([rows("m", {"a": [1, -3], "b": [3]}), rows("n", {"a": [7]})]))

    assert table.select("model", "horizon", "rows", "mae").rows() == [
        ("m", 1, 2, 2.0),
        ("m", 2, 1, 3.0),
        ("n", 1, 1, 7.0),
    ]
    assert table["bias"].to_list() == pytest.approx([0.02, -0.03, 0.07])
    assert table["width80"].to_list() == pytest.approx([10.0] * 3)


def test_zero_actuals_leave_relative_scores_empty_instead_of_infinite():
    table = by_horizon(rows("m", {"a": [1.0]}, actual=0.0))

    assert table["nmae"][0] is None
    assert table["bias"][0] is None
    assert table["mae"][0] == 1.0


HISTORIES = {
    "steady": [10.0] * 14,
    "shut": [10.0] * 13 + [0.0],
    "restarted": [10.0] * 10 + [0.0, 8.0, 8.0, 8.0],
    "long_back": [10.0] * 9 + [0.0, 8.0, 8.0, 8.0, 8.0],
    "young": [None] * 3 + [10.0] * 11,
    "young_and_shut": [None] * 3 + [10.0] * 10 + [0.0],
}


def test_segments_tell_the_state_of_a_series_at_the_cutoff():
    found = dict(series_segments(panel(HISTORIES), [month(13)]).select("unique_id", "segment").rows())

    assert found == {
        "steady": "steady",
        "shut": "shut_in",
        "restarted": "ramp_up",
        "long_back": "steady",
        "young": "new",
        "young_and_shut": "new",
    }


def test_where_uptime_is_reported_a_step_with_little_of_it_is_no_steady_one():
    shares = {
        "full": [1.0] * 14,
        "unknown": [1.0] * 13 + [None],
        "two_days": [1.0] * 13 + [0.05],
        "part": [1.0] * 13 + [0.3],
        "back_after_two_days": [1.0] * 12 + [0.05, 1.0],
        "back_after_part": [1.0] * 12 + [0.3, 1.0],
    }
    history = panel(dict.fromkeys(shares, [10.0] * 14)).truth().sort("unique_id", "ds")
    told = pl.concat([pl.DataFrame({"uptime": shares[name]}, {"uptime": pl.Float64}) for name in sorted(shares)])
    oof = rows("m", {name: [0.0] for name in shares}).with_columns(cutoff=pl.lit(month(13)))

    found = dict(segments(oof, history=history.hstack(told)).select("unique_id", "segment").rows())

    assert found == {
        "full": "steady",
        "unknown": "steady",
        "two_days": "shut_in",
        "part": "ramp_up",
        "back_after_two_days": "ramp_up",
        "back_after_part": "steady",
    }


def test_segments_know_nothing_of_what_came_after_the_cutoff():
    history = panel(HISTORIES).truth()
    later = pl.DataFrame({"unique_id": ["steady"], "ds": [month(14)], "y": [0.0]})
    oof = rows("m", {name: [0.0, 0.0] for name in HISTORIES}).with_columns(cutoff=pl.lit(month(13)))

    before, after = (segments(oof, history=h) for h in (history, pl.concat([history, later])))

    assert before.equals(after)
    assert before.drop("segment").equals(oof)


def test_a_series_without_any_history_is_new():
    oof = rows("m", {"never_seen": [0.0]})

    assert segments(oof, history=panel(HISTORIES).truth())["segment"].to_list() == ["new"]


def test_rows_that_carry_their_segment_need_no_history_and_others_do():
    oof = rows("m", {"a": [0.0]})

    assert segments(oof.with_columns(segment=pl.lit("steady")))["segment"].to_list() == ["steady"]
    with pytest.raises(ConfigError, match="no history was given"):
        segments(oof)


def test_the_scale_is_the_level_of_the_last_twelve_known_values_at_the_cutoff():
    dataset = panel({"a": [1000.0, *[10.0] * 11, None, 22.0, 9999.0]})

    scale = series_scale(dataset, [month(13), month(0)])

    assert scale.select("cutoff", "scale").rows() == [
        (month(0), 1000.0),
        (month(13), pytest.approx((10 * 11 + 22) / 12)),
    ]


def test_the_scale_of_a_shut_in_series_is_one_percent_of_the_panels_median():
    dataset = panel({"a": [50.0] * 5, "b": [100.0] * 5, "c": [150.0] * 5, "shut": [0.0] * 5})

    scale = dict(series_scale(dataset, [month(4)]).select("unique_id", "scale").rows())

    assert scale == {"a": 50.0, "b": 100.0, "c": 150.0, "shut": pytest.approx(1.0)}


def test_the_scale_is_positive_even_where_every_series_is_shut_in():
    assert series_scale(panel({"a": [0.0] * 3, "b": [0.0] * 3}), [month(2)])["scale"].to_list() == [1.0, 1.0]
    assert series_scale(panel({"a": [0.0]}), []).height == 0


def test_the_loss_is_the_pinball_loss_in_units_of_the_scale():
    oof = rows("m", {"a": [4.0], "b": [4.0]}, spread=0.0).with_columns(scale=pl.Series([2.0, 20.0]))

    assert panel_loss(oof)["loss"].to_list() == pytest.approx([1.0, 0.1])


def test_the_restart_of_a_shut_in_series_does_not_outweigh_the_panel():
    oof = rows("m", {"a": [4.0], "b": [4.0], "shut": [100.0]}, spread=0.0)

    loss = panel_loss(oof.with_columns(scale=pl.Series([100.0, 100.0, 1.0])))["loss"]

    assert loss.to_list() == pytest.approx([0.02, 0.02, 5.0])


def test_the_loss_of_an_origin_does_not_depend_on_other_origins():
    one = rows("m", {"a": [4.0], "shut": [9.0]}).with_columns(scale=pl.Series([100.0, 1.0]))
    other = one.with_columns(cutoff=pl.lit(month(5)), scale=pl.lit(1e6))

    assert panel_loss(pl.concat([one, other])).head(2).equals(panel_loss(one))


def test_a_missing_scale_is_refused_and_a_zero_one_stays_finite():
    oof = rows("m", {"a": [4.0], "b": [4.0]})

    with pytest.raises(ConfigError, match="1 out-of-fold rows have no scale, first of series 'b'"):
        panel_loss(oof.with_columns(scale=pl.Series([2.0, None])))
    assert np.isfinite(panel_loss(oof.with_columns(scale=pl.lit(0.0)))["loss"].to_numpy()).all()
