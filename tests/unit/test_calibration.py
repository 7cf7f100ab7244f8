import json
from datetime import datetime

import numpy as np
import polars as pl
import pytest
from scipy.stats import binom, norm

from nightcast.contracts.columns import LEVELS, QUANTILES
from nightcast.contracts.errors import ConfigError
from nightcast.contracts.frequency import Frequency
from nightcast.contracts.prediction import Quantiles
from nightcast.evaluation.calibration import ConformalQuantiles, prequential

DAYS = Frequency.parse("D")
START = datetime(2023, 1, 1)


def rows(
    seed: int,
    *,
    origins: int = 40,
    series: int = 25,
    horizons: int = 2,
    stated: float = 1.0,
    true: float = 1.0,
    offset: float = 0.0,
) -> pl.DataFrame:
    """Forecasts that state a normal of deviation `stated * scale` around 100 * scale; truth has `true`, `offset`."""
    rng = np.random.default_rng(seed)
    keys = [
        (f"s{s}", DAYS.shift(START, o + h), DAYS.shift(START, o), h)
        for o in range(origins)
        for s in range(series)
        for h in range(1, horizons + 1)
    ]
    scale = np.array([1.0 + int(key[0][1:]) for key in keys])
    levels = norm.ppf(LEVELS)
    frame = pl.DataFrame(keys, schema=["unique_id", "ds", "cutoff", "horizon"], orient="row")
    return frame.with_columns(
        *(pl.Series(name, scale * (100 + stated * levels[i])) for i, name in enumerate(QUANTILES)),
        y=pl.Series(scale * (100 + offset + true * rng.normal(size=len(keys)))),
        scale=pl.Series(scale),
    )


def split(frame: pl.DataFrame) -> tuple[Quantiles, pl.DataFrame]:
    return Quantiles.of(frame), frame.select("unique_id", "cutoff", "scale").unique()


def share_below(prediction: Quantiles, frame: pl.DataFrame) -> list[float]:
    joined = prediction.frame.join(
        frame.select("unique_id", "cutoff", "horizon", "y"), on=["unique_id", "cutoff", "horizon"]
    )
    return [float((joined["y"] <= joined[name]).mean()) for name in QUANTILES]


@pytest.mark.parametrize(("stated", "offset"), [(0.3, 0.0), (3.0, 0.0), (1.0, 0.8), (0.5, -1.2)])
def test_levels_hold_what_they_say_after_calibration_on_exchangeable_rows(stated: float, offset: float):
    table = ConformalQuantiles(centre=0).fit(rows(1, origins=200, stated=stated, offset=offset))
    fresh = rows(2, stated=stated, offset=offset)

    below = share_below(ConformalQuantiles().apply(*split(fresh), table), fresh)

    for level, share in zip(LEVELS, below, strict=True):
        low, high = binom.interval(0.9999, fresh.height, level)
        # Learning from 10 000 rows and trusting 200 origins by 200/204 moves the level by less than 0.02.
        assert low / fresh.height - 0.02 <= share <= high / fresh.height + 0.02, level


def test_forecasts_that_are_already_calibrated_hardly_move():
    table = ConformalQuantiles().fit(rows(3, origins=100))

    assert np.abs([group["shift"] for group in table["groups"]]).max() < 0.12


def test_the_table_survives_json():
    table = ConformalQuantiles().fit(rows(4, stated=0.5))
    fresh = rows(5, stated=0.5, origins=2)

    direct = ConformalQuantiles().apply(*split(fresh), table)
    through_json = ConformalQuantiles().apply(*split(fresh), json.loads(json.dumps(table)))

    assert direct.frame.equals(through_json.frame)


def test_adjacent_horizons_are_pooled_until_enough_rows_are_together():
    oof = rows(6, origins=4, series=10, horizons=5)

    groups = ConformalQuantiles(min_rows=60).fit(oof)["groups"]

    assert [group["horizons"] for group in groups] == [[1, 2], [3, 4, 5]]
    assert [group["rows"] for group in groups] == [80, 120]


def test_few_rows_and_few_origins_earn_little_trust():
    many = ConformalQuantiles().fit(rows(7, origins=96, series=3, horizons=1))["groups"][0]["trust"]
    few_rows = ConformalQuantiles().fit(rows(7, origins=4, series=5, horizons=1))["groups"][0]["trust"]
    one_origin = ConformalQuantiles().fit(rows(7, origins=1, series=200, horizons=1))["groups"][0]["trust"]

    assert many == pytest.approx(0.96)
    assert few_rows == pytest.approx(20 / 200 * 4 / 8)
    assert one_origin == pytest.approx(1 / 5)


def test_a_past_bias_of_the_median_is_believed_by_half_at_as_many_origins_as_centre_says():
    biased = rows(7, origins=24, series=60, horizons=1, offset=5.0)

    def shift_of_median(centre: float) -> float:
        return float(ConformalQuantiles(centre=centre).fit(biased)["groups"][0]["shift"][QUANTILES.index("q50")])

    assert shift_of_median(24) == pytest.approx(0.5 * shift_of_median(0))
    assert shift_of_median(0) == pytest.approx(5.0, abs=0.2)


def test_the_distances_from_the_median_are_mended_whatever_is_believed_of_its_bias():
    narrow = rows(7, origins=96, series=60, horizons=1, stated=0.3, offset=5.0)

    def width(centre: float) -> float:
        shift = ConformalQuantiles(centre=centre).fit(narrow)["groups"][0]["shift"]
        return float(shift[-1] - shift[0])

    assert width(24) == pytest.approx(width(0))
    # What is lacking between q10 and q90 of a normal stated at 0.3 of its deviation, trusted by 96 / 100.
    assert width(0) == pytest.approx(0.96 * 2 * 1.2816 * 0.7, abs=0.08)


def test_without_rows_nothing_is_corrected():
    fresh = rows(8, origins=1)
    table = ConformalQuantiles().fit(fresh.clear())

    assert ConformalQuantiles().apply(*split(fresh), table).frame.equals(Quantiles.of(fresh).frame)


def test_a_horizon_never_seen_takes_the_nearest_groups_shift():
    table = ConformalQuantiles().fit(rows(9, stated=0.3, horizons=2))
    fresh = rows(10, stated=0.3, horizons=4, origins=1)

    moved = (
        ConformalQuantiles()
        .apply(*split(fresh), table)
        .frame.join(
            fresh.select("unique_id", "cutoff", "horizon", "scale", before="q90"), on=["unique_id", "cutoff", "horizon"]
        )
    )
    per_horizon = dict(
        moved.group_by("horizon").agg(((pl.col("q90") - pl.col("before")) / pl.col("scale")).mean()).rows()
    )

    assert per_horizon[3] == per_horizon[4] == pytest.approx(per_horizon[2])
    assert per_horizon[1] != per_horizon[2]


def spikes(residuals: list[tuple[str, int, int, float]]) -> pl.DataFrame:
    """Forecasts of zero at every level, scale one: `series, origin, horizon, residual`."""
    return pl.DataFrame(
        [
            (s, DAYS.shift(START, o + h), DAYS.shift(START, o), h, *[0.0] * len(QUANTILES), residual, 1.0)
            for s, o, h, residual in residuals
        ],
        schema=["unique_id", "ds", "cutoff", "horizon", *QUANTILES, "y", "scale"],
        orient="row",
    )


def test_the_finite_sample_correction_takes_position_level_times_n_plus_one():
    nine = spikes([("a", origin, 1, float(origin + 1)) for origin in range(9)])

    (group,) = ConformalQuantiles(min_rows=9, centre=0).fit(nine)["groups"]

    # Of nine residuals 1 .. 9 the k-th has position k / 10; distances from the median are trusted by 9 / (9 + 4).
    assert group["shift"] == pytest.approx([5 + 9 / 13 * (k - 5) for k in range(1, 10)])


def test_a_level_beyond_the_last_residual_takes_the_last_one():
    three = spikes([("a", origin, 1, float(origin + 1)) for origin in range(3)])

    (group,) = ConformalQuantiles(min_rows=1, centre=0).fit(three)["groups"]

    assert group["shift"][0] == pytest.approx(2.0 - 3 / 7)
    assert group["shift"][4] == pytest.approx(2.0)
    assert group["shift"][8] == pytest.approx(2.0 + 3 / 7)


def test_every_series_origin_weighs_the_same_when_horizons_are_pooled():
    # Four origins with one row each at -1, and one with twelve rows at +1: a fifth of the weight, not three quarters.
    single = [("a", origin, 1, -1.0) for origin in range(4)]
    many = [("a", 4, horizon, 1.0) for horizon in range(1, 13)]

    (group,) = ConformalQuantiles(min_rows=16, centre=0).fit(spikes(single + many))["groups"]

    assert group["horizons"] == list(range(1, 13))
    assert group["shift"][QUANTILES.index("q50")] == pytest.approx(-1)
    assert group["shift"][QUANTILES.index("q90")] == pytest.approx(-1 + 2 * group["trust"])


def test_a_regime_with_small_errors_gets_small_shifts():
    loud = rows(12, stated=0.1, true=2.0).with_columns(segment=pl.lit("steady"))
    quiet = rows(13, stated=0.1, true=0.02).with_columns(segment=pl.lit("shut_in"))
    calibrator = ConformalQuantiles(regime="segment")

    table = calibrator.fit(pl.concat([loud, quiet]))

    def widening(frame: pl.DataFrame) -> float:
        scale = frame.select("unique_id", "cutoff", "scale", "segment").unique()
        after = calibrator.apply(Quantiles.of(frame), scale, table).frame
        return float((after["q90"] - after["q10"]).mean() - (frame["q90"] - frame["q10"]).mean())

    assert abs(widening(quiet)) < 0.1 * widening(loud)


def test_a_series_without_a_scale_is_refused_by_name():
    fresh = rows(14, origins=1)
    prediction, scale = split(fresh)

    with pytest.raises(ConfigError, match="series 's7' has no scale"):
        ConformalQuantiles().apply(
            prediction, scale.filter(pl.col("unique_id") != "s7"), ConformalQuantiles().fit(fresh)
        )


@pytest.mark.parametrize(("column", "value"), [("y", None), ("y", float("nan")), ("scale", None), ("scale", 0.0)])
def test_rows_without_an_outcome_or_a_positive_scale_are_refused_by_name(column: str, value: float | None):
    oof = rows(14, origins=3).with_columns(
        pl.when(pl.col("unique_id") == "s7").then(pl.lit(value, pl.Float64)).otherwise(column).alias(column)
    )

    with pytest.raises(ConfigError, match="no actual or no positive scale, first of series 's7'"):
        ConformalQuantiles().fit(oof)


def test_prequential_calibration_uses_closed_origins_only():
    oof = rows(15, origins=12, horizons=3, stated=0.3)
    at = DAYS.shift(START, 8)
    # Outcomes of origins still open at `at` are scrambled: rows of `at` must not move.
    opened = pl.col("cutoff") > DAYS.shift(at, -3)
    scrambled = oof.with_columns(y=pl.when(opened).then(pl.col("y") * 5 - 1000).otherwise("y"))

    first, second = (prequential(frame, horizon=3, freq=DAYS) for frame in (oof, scrambled))

    keep = pl.col("cutoff") <= at
    assert first.filter(keep).drop("y").equals(second.filter(keep).drop("y"))
    assert not first.filter(~keep).drop("y").equals(second.filter(~keep).drop("y"))


def test_the_first_origins_are_left_alone_and_later_ones_are_mended():
    oof = rows(16, origins=120, horizons=3, stated=0.3)

    after = prequential(oof, horizon=3, freq=DAYS)

    def coverage(frame: pl.DataFrame) -> float:
        return float(frame["y"].is_between(frame["q10"], frame["q90"]).mean())

    early = pl.col("cutoff") < DAYS.shift(START, 3)
    order = ["cutoff", "unique_id", "horizon"]
    assert after.filter(early).equals(oof.filter(early).sort(order))
    assert after.columns == oof.columns
    assert after.height == oof.height
    assert coverage(oof) < 0.4
    assert 0.72 < coverage(after.filter(pl.col("cutoff") >= DAYS.shift(START, 80))) < 0.85


def test_several_models_are_calibrated_each_on_its_own():
    narrow = rows(17, stated=0.3, origins=10).with_columns(model=pl.lit("narrow"))
    wide = rows(17, stated=3.0, origins=10).with_columns(model=pl.lit("wide"))

    both = prequential(pl.concat([narrow, wide]), horizon=2, freq=DAYS)

    assert both.filter(model="narrow").equals(prequential(narrow, horizon=2, freq=DAYS))
    assert both.filter(model="wide").equals(prequential(wide, horizon=2, freq=DAYS))


def test_origins_whose_horizons_overlap_are_fewer_pieces_of_evidence():
    daily = rows(3, origins=24, horizons=6)
    weekly = daily.filter(pl.col("cutoff").is_in([DAYS.shift(START, 6 * k) for k in range(4)]))

    many, few = (ConformalQuantiles().fit(part)["groups"][0] for part in (daily, weekly))

    assert many["origins"] == pytest.approx(29 / 6)
    assert few["origins"] == 4
    assert many["trust"] == pytest.approx((29 / 6) / (29 / 6 + 4))


def test_next_to_the_lower_bound_is_the_bound():
    frame = rows(4, origins=1, series=1, horizons=1).with_columns(
        q10=pl.lit(0.004), q20=pl.lit(0.009), q30=pl.lit(0.011), scale=pl.lit(1.0)
    )
    prediction = Quantiles.of(frame)
    table = ConformalQuantiles(lower=0.0).fit(frame.clear())

    out = ConformalQuantiles().apply(prediction, frame.select("unique_id", "cutoff", "scale"), table).frame

    assert out.select("q10", "q20", "q30").row(0) == (0.0, 0.0, 0.011)


def test_without_a_lower_bound_small_values_stay():
    frame = rows(4, origins=1, series=1, horizons=1).with_columns(q10=pl.lit(0.004), scale=pl.lit(1.0))
    table = ConformalQuantiles().fit(frame.clear())

    out = ConformalQuantiles().apply(Quantiles.of(frame), frame.select("unique_id", "cutoff", "scale"), table).frame

    assert out["q10"][0] == 0.004


def test_origins_without_an_earlier_closed_one_are_held_to_the_bound_too():
    frame = rows(5, origins=2, series=1, horizons=2).with_columns(q10=pl.lit(0.001), scale=pl.lit(1.0))

    out = prequential(frame, horizon=2, freq=DAYS, calibrator=ConformalQuantiles(lower=0.0))

    assert out["q10"].to_list() == [0.0] * 4
