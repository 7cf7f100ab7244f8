"""Bar features: what they are worth on bars anyone can follow, where they begin, and what their documentation says."""

from __future__ import annotations

from datetime import datetime
from itertools import groupby
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from nightcast.contracts.errors import ConfigError
from nightcast.contracts.schema import BarsSchema
from nightcast.features.bars import catalog, sentry
from nightcast.features.bars.catalog import BAR_FEATURES, FEATURE_SETS, BarFeature, build_bar_features, feature_table
from nightcast.features.segments import segmented

SCHEMA = BarsSchema(freq="5min")
PRICES = ("open", "high", "low", "close")
EVERY = ("boosting_optimal", "chronos_raw")
"""Sets that hold every column of the catalogue between them."""
CALENDAR = [name for name, its in BAR_FEATURES.items() if its.calendar]
MOVING = [name for name in BAR_FEATURES if name not in (*CALENDAR, "raw_close")]
LONGEST = max(its.warmup for its in BAR_FEATURES.values())
DATA = Path(__file__).parents[2].parent / "shared" / "data" / "market"


def walk(bars: int, *, seed: int = 1, symbol: str = "AAA", segment: int = 0, level: float = 100.0) -> pl.DataFrame:
    """Consistent 5-minute bars of a random walk."""
    rng = np.random.default_rng(seed)
    close = level * np.exp(np.cumsum(rng.normal(scale=2e-3, size=bars)))
    open_ = np.append(level, close[:-1]) * np.exp(rng.normal(scale=1e-4, size=bars))
    return pl.DataFrame(
        {
            "unique_id": symbol,
            "ds": np.datetime64("2024-01-01", "us") + np.arange(bars) * np.timedelta64(5, "m"),
            "segment": segment,
            "session": segment,
            "open": open_,
            "high": np.maximum(open_, close) * (1 + np.abs(rng.normal(scale=1e-3, size=bars))),
            "low": np.minimum(open_, close) * (1 - np.abs(rng.normal(scale=1e-3, size=bars))),
            "close": close,
            "volume": np.exp(rng.normal(size=bars)) * 1000,
        }
    )


@pytest.fixture(scope="module")
def bars() -> pl.DataFrame:
    return walk(LONGEST + 120)


@pytest.fixture(scope="module")
def built(bars: pl.DataFrame) -> pl.DataFrame:
    return build_bar_features(bars, EVERY, SCHEMA)[0]


def test_two_sets_hold_every_column_of_the_catalogue() -> None:
    held = {column for name in EVERY for column in FEATURE_SETS[name].columns}

    assert held == set(BAR_FEATURES)


@pytest.mark.parametrize(
    ("name", "least", "most"),
    [
        ("boosting_optimal", 80, 120),
        ("neural_optimal", 40, 60),
        ("transformer_raw", 10, 15),
        ("ensemble_base", 60, 80),
        ("itransformer_optimal", 30, 60),
        ("nbeats_raw", 1, 5),
        ("linear_raw", 1, 5),
        ("chronos_raw", 1, 5),
        ("plain10", 10, 10),
    ],
)
def test_a_set_has_as_many_columns_as_its_models_want_and_none_twice(name: str, least: int, most: int) -> None:
    columns = FEATURE_SETS[name].columns

    assert least <= len(columns) <= most
    assert len(set(columns)) == len(columns)
    assert set(columns) <= set(BAR_FEATURES)


PREFIXES = {
    "boosting_optimal": (
        "return_ log_return_ roc_ rsi_ macd_ stoch_ williams_ cci_ mfi_ adx_ supertrend atr_ hvol_ parkinson_ garman_ "
        "bb_width bb_position kc_position volume_ obv hour_ dayofweek_ session_ micro_ wavelet_"
    ),
    "neural_optimal": (
        "return_ log_return_ rsi_ stoch_ williams_ mfi_ hvol_ atr_ratio bb_position kc_position volume_ratio "
        "volume_zscore wavelet_ hour_sin hour_cos dayofweek_sin dayofweek_cos"
    ),
    "transformer_raw": "return_ log_return_ volume_ratio hour_sin hour_cos dayofweek_sin dayofweek_cos",
    "tft": "hour_sin hour_cos session_ return_1 volume_ hvol_",
}
"""What sets must hold at least one column of."""
LEVELS = ("sma_", "ema_", "vwap", "bb_upper", "bb_lower", "raw_", "open", "high", "low", "close")
"""What they must not: columns in units of the price."""


@pytest.mark.parametrize("name", list(PREFIXES))
def test_a_set_holds_every_family_its_models_read(name: str) -> None:
    columns = FEATURE_SETS[name].columns

    assert [prefix for prefix in PREFIXES[name].split() if not any(c.startswith(prefix) for c in columns)] == []


@pytest.mark.parametrize("name", [name for name in FEATURE_SETS if name != "chronos_raw"])
def test_no_set_but_that_of_chronos_holds_a_level(name: str) -> None:
    assert [column for column in FEATURE_SETS[name].columns if column.startswith(LEVELS)] == []


@pytest.mark.parametrize("name", ["boosting_optimal", "neural_optimal", "ensemble_base", "volatility_time", "plain10"])
def test_no_set_for_trees_or_networks_holds_a_price_or_a_volume_as_it_is(name: str) -> None:
    assert not {"open", "high", "low", "close", "volume"} & set(FEATURE_SETS[name].columns)


def test_the_volatility_set_knows_nothing_of_direction() -> None:
    # The same bars upside down: log prices mirrored, so every move goes the other way.
    up = walk(LONGEST + 60)
    down = up.with_columns(
        (1e4 / pl.col("open")).alias("open"),
        (1e4 / pl.col("low")).alias("high"),
        (1e4 / pl.col("high")).alias("low"),
        (1e4 / pl.col("close")).alias("close"),
    )

    one, columns, _ = build_bar_features(up, ["volatility_time"], SCHEMA)
    other, _, _ = build_bar_features(down, ["volatility_time"], SCHEMA)

    assert len(columns) > 10
    for name in columns:
        assert one[name].is_null().equals(other[name].is_null()), name
        assert float((one[name] - other[name]).abs().max()) <= 1e-9, name  # type: ignore[arg-type]


def test_the_roles_of_the_tft_say_which_columns_are_known_ahead() -> None:
    chosen = FEATURE_SETS["tft"]

    assert set(chosen.roles) == set(chosen.columns)
    assert all(BAR_FEATURES[name].calendar == (role == "known") for name, role in chosen.roles.items())
    assert {"hour_sin", "hour_cos"} <= {name for name, role in chosen.roles.items() if role == "known"}


@pytest.mark.parametrize("name", list(BAR_FEATURES))
def test_a_column_is_null_up_to_its_warm_up_and_a_number_ever_after(name: str, built: pl.DataFrame) -> None:
    warmup = BAR_FEATURES[name].warmup

    assert built[name][:warmup].null_count() == warmup
    assert built[name][warmup:].null_count() == 0
    assert built[name][warmup:].is_finite().all()


def test_the_newest_value_needs_its_warm_up_and_nothing_older(bars: pl.DataFrame, built: pl.DataFrame) -> None:
    # Live, a model gets the last bars alone: they must give what the whole history gives.
    by_warmup = sorted(MOVING, key=lambda name: BAR_FEATURES[name].warmup)
    for warmup, names in groupby(by_warmup, key=lambda name: BAR_FEATURES[name].warmup):
        few, _, _ = build_bar_features(bars.tail(warmup + 1), EVERY, SCHEMA)
        for name in names:
            assert few[name][warmup] == pytest.approx(built[name][-1], rel=1e-9, abs=1e-9), name


def test_no_warm_up_is_longer_than_what_the_newest_value_looks_at() -> None:
    # The oldest bar of the window must matter: on some walk, moving it alone moves the newest value. Every variant is
    # a segment of its own.
    idle = set(MOVING)
    for seed in (1, 2, 3):
        bars = walk(LONGEST + 5, seed=seed)
        variants = [(0, "close", 1.0)] + [
            (warmup, moved, by)
            for warmup in sorted({BAR_FEATURES[name].warmup for name in MOVING})
            for moved, by in (("close", 1.2), ("low", 0.7), ("high", 1.4), ("volume", 3.0))
        ]
        parts = []
        for number, (warmup, moved, by) in enumerate(variants):
            at = pl.int_range(pl.len()) == bars.height - 1 - warmup
            value = pl.when(at).then(pl.col(moved) * by).otherwise(pl.col(moved)).alias(moved)
            parts.append(bars.with_columns(value, pl.lit(number, dtype=pl.Int64).alias("segment")))
        made, _, _ = build_bar_features(pl.concat(parts), EVERY, SCHEMA)
        plain, *rows = made.group_by("segment", maintain_order=True).last().rows(named=True)
        for (warmup, _, _), row in zip(variants[1:], rows, strict=True):
            for name in [name for name in idle if BAR_FEATURES[name].warmup == warmup]:
                bounds = BAR_FEATURES[name].bounds or (0, 1)
                if abs(row[name] - plain[name]) > 1e-12 * (bounds[1] - bounds[0]):
                    idle.remove(name)

    # SuperTrend may carry its line over the whole window, and on a random walk never does.
    assert idle == {"supertrend_side", "supertrend_gap"}


def test_the_newest_value_is_as_good_after_a_tick_a_million_times_too_high(bars: pl.DataFrame) -> None:
    # A running sum would carry the tick's rounding for ever.
    hit = pl.int_range(pl.len()) == 20
    wild = bars.with_columns(
        pl.when(hit).then(pl.col(name) * 1e6).otherwise(pl.col(name)).alias(name) for name in (*PRICES, "volume")
    )
    end = bars.height - 1

    whole, _, _ = build_bar_features(wild, EVERY, SCHEMA)
    few, _, _ = build_bar_features(wild.slice(end - LONGEST, LONGEST + 1), EVERY, SCHEMA)

    for name in MOVING:
        assert few[name][LONGEST] == pytest.approx(whole[name][end], rel=1e-9, abs=1e-9), name


def test_ties_of_prices_on_a_tick_are_ties_in_any_unit_and_in_any_tail() -> None:
    # Directional movement and money flow ask which of two moves is larger: rounding must not answer.
    ticks = walk(4 * LONGEST, level=60).with_columns(pl.col(PRICES).round(2))
    whole, columns, _ = build_bar_features(ticks, EVERY, SCHEMA)
    rated = [name for name in columns if name != "raw_close"]

    for unit in (1e5, 1e-3, 3.7):
        other, _, _ = build_bar_features(ticks.with_columns(pl.col(PRICES) * unit), EVERY, SCHEMA)
        for name in rated:
            assert float((whole[name] - other[name]).abs().max()) <= 1e-8, (name, unit)  # type: ignore[arg-type]
    for end in range(2 * LONGEST, 4 * LONGEST, 61):
        few, _, _ = build_bar_features(ticks.slice(end - LONGEST, LONGEST + 1), EVERY, SCHEMA)
        for name in rated:
            assert few[name][LONGEST] == pytest.approx(whole[name][end], rel=1e-9, abs=1e-9), (name, end)


@pytest.mark.parametrize("missing", [*PRICES, "volume"])
@pytest.mark.parametrize("value", [None, float("nan"), float("inf"), -1.0])
def test_a_missing_value_empties_what_reads_it_and_changes_nothing_else(
    missing: str, value: float | None, bars: pl.DataFrame, built: pl.DataFrame
) -> None:
    at = 60
    holed = bars.with_columns(
        pl.when(pl.int_range(pl.len()) == at).then(pl.lit(value, dtype=pl.Float64)).otherwise(missing).alias(missing)
    )

    made, columns, _ = build_bar_features(holed, ["boosting_optimal"], SCHEMA)

    for name, its in columns.items():
        # never a number made of a hole, and none withheld for longer than the hole is in the window
        assert float((made[name] - built[name]).abs().max()) <= 1e-9, name  # type: ignore[arg-type]
        assert made[name][:at].equals(built[name][:at]), name
        reach = slice(max(at, its.warmup), at + its.warmup + 1)
        read = made[name][at] is None if its.warmup <= at else made[name].null_count() > its.warmup
        assert made[name][reach].null_count() == (len(made[name][reach]) if read else 0), name
        assert made[name][at + its.warmup + 1 :].null_count() == 0, name
    emptied = {name for name in columns if made[name].null_count() > columns[name].warmup}
    seen = {"open": "micro_body", "high": "stoch_k_14", "low": "cci_14", "close": "macd_hist", "volume": "mfi_14"}
    spared = {"open": "rsi_14", "high": "hvol_20", "low": "macd_hist", "close": "hvol_bar", "volume": "adx_14"}
    assert seen[missing] in emptied
    assert spared[missing] not in emptied
    assert not emptied & set(CALENDAR)


def test_a_missing_first_close_costs_the_first_bar_alone() -> None:
    first = pl.int_range(pl.len()) == 0
    holed = walk(40).with_columns(pl.when(first).then(None).otherwise(pl.col("close")).alias("close"))

    made, _, _ = build_bar_features(holed, ["plain10"], SCHEMA)

    assert made["return_1"][:3].is_null().to_list() == [True, True, False]
    assert made["hvol_20"][21] is not None


def test_two_symbols_together_give_what_each_gives_alone(bars: pl.DataFrame, built: pl.DataFrame) -> None:
    other = walk(LONGEST + 40, seed=7, symbol="BBB", segment=1, level=3e4)

    together, _, _ = build_bar_features(pl.concat([bars, other]), EVERY, SCHEMA)
    alone, _, _ = build_bar_features(other, EVERY, SCHEMA)

    assert together.filter(pl.col("unique_id") == "AAA").equals(built)
    assert together.filter(pl.col("unique_id") == "BBB").equals(alone)


def test_a_new_segment_of_one_symbol_warms_up_anew(bars: pl.DataFrame) -> None:
    cut = bars.with_columns((pl.int_range(pl.len()) >= 60).cast(pl.Int64).alias("segment"))

    made, columns, _ = build_bar_features(cut, ["plain10"], SCHEMA)

    for name, its in columns.items():
        assert made[name][60 : 60 + its.warmup].null_count() == its.warmup, name
        assert made[name][60 + its.warmup] is not None, name


def test_a_segment_shorter_than_every_window_has_no_values_and_no_error() -> None:
    made, columns, _ = build_bar_features(walk(1), EVERY, SCHEMA)

    assert [name for name in columns if made[name][0] is not None] == [
        name for name, its in BAR_FEATURES.items() if its.warmup == 0
    ]


def test_a_market_that_stands_still_without_volume_gives_neutral_numbers() -> None:
    still = walk(LONGEST + 5).with_columns(*(pl.lit(100.1).alias(name) for name in PRICES), pl.lit(0.0).alias("volume"))

    made, columns, _ = build_bar_features(still, EVERY, SCHEMA)
    last = made.row(-1, named=True)

    assert all(made[name].null_count() == its.warmup for name, its in columns.items())
    assert (last["rsi_14"], last["stoch_k_14"], last["williams_14"], last["mfi_14"]) == (50, 50, -50, 50)
    assert (last["bb_position"], last["kc_position"], last["volume_ratio_20"]) == (0.5, 0.5, 1)
    assert all(value is None or np.isfinite(value) for value in (last[name] for name in columns))
    for name in ("return_20", "macd_hist", "cci_20", "adx_14", "hvol_20", "atr_ratio_14", "volume_zscore_20", "obv_20"):
        assert last[name] == pytest.approx(0, abs=1e-12), name


def test_a_market_that_comes_to_rest_forgets_its_last_move() -> None:
    # Rolling variances that keep rounding errors would divide noise by noise here.
    bars = walk(2 * LONGEST + 120)
    last = bars["close"][LONGEST]
    rest = pl.int_range(pl.len()) > LONGEST
    calm = bars.with_columns(
        *(pl.when(rest).then(last).otherwise(pl.col(name)).alias(name) for name in PRICES),
        pl.when(rest).then(1000.0).otherwise(pl.col("volume")).alias("volume"),
    )

    last_row = build_bar_features(calm, EVERY, SCHEMA)[0].row(-1, named=True)

    for name in ("return_z_20", "hvol_60", "slope_60", "cci_20", "volume_zscore_50", "micro_autocorr_20", "macd_hist"):
        assert last_row[name] == pytest.approx(0, abs=1e-9), name
    assert last_row["bb_position"] == last_row["kc_position"] == 0.5


def test_rising_prices_rise_in_every_column_of_direction() -> None:
    n = LONGEST + 10
    close = 100 * 1.001 ** np.arange(n)
    up = walk(n).with_columns(
        pl.Series("open", close / 1.001), pl.Series("high", close), pl.Series("low", close / 1.001), close=close
    )

    row = build_bar_features(up, EVERY, SCHEMA)[0].row(-1, named=True)

    assert row["return_5"] == pytest.approx(1.001**5 - 1)
    assert row["log_return_20"] == pytest.approx(20 * np.log(1.001))
    assert row["roc_10"] == pytest.approx(100 * (1.001**10 - 1))
    assert row["rsi_14"] == pytest.approx(100)
    assert (row["stoch_k_14"], row["williams_14"]) == pytest.approx((100, 0))
    assert row["adx_14"] == pytest.approx(100)
    assert row["adx_minus_14"] == 0
    assert row["adx_plus_14"] > 90
    assert (row["supertrend_side"], row["micro_clv"], row["obv_20"]) == (1, 1, 1)
    assert min(row["macd_line"], row["supertrend_gap"], row["wavelet_close_d1"], row["wavelet_close_d3"]) > 0
    assert row["wavelet_close_approx"] == pytest.approx(3.5 * np.log(1.001))


def test_hours_and_days_turn_once_around_their_circles() -> None:
    times = [datetime(2024, 1, 1, 6), datetime(2024, 1, 1, 14, 30), datetime(2024, 1, 3, 23, 55)]  # Monday, Wednesday
    made, _, _ = build_bar_features(walk(3).with_columns(ds=pl.Series(times).cast(pl.Datetime("us"))), ["tft"], SCHEMA)

    assert made.select("hour_sin", "hour_cos").row(0) == pytest.approx((1, 0))
    assert made["hour_sin"][1] == pytest.approx(np.sin(2 * np.pi * 14.5 / 24))
    assert made.select("dayofweek_sin", "dayofweek_cos").row(0) == pytest.approx((0, 1))
    assert made["dayofweek_sin"][2] == pytest.approx(np.sin(2 * np.pi * 2 / 7))
    assert made.select("session_asia", "session_london", "session_newyork").rows() == [(1, 0, 0), (0, 1, 1), (0, 0, 0)]


def test_the_clock_stands_still_on_daily_bars() -> None:
    days = walk(40).with_columns(
        ds=pl.datetime_range(datetime(2024, 1, 1), datetime(2024, 2, 9), "1d", time_unit="us", eager=True)
    )

    made, _, _ = build_bar_features(days, ["tft"], BarsSchema(freq="D"))

    assert made["hour_sin"].n_unique() == made["hour_cos"].n_unique() == 1
    assert made["dayofweek_sin"].n_unique() > 1


def test_columns_asked_for_by_two_sets_are_made_once(bars: pl.DataFrame) -> None:
    made, columns, sets = build_bar_features(bars, ["plain10", "volatility_time"], SCHEMA)

    assert list(sets) == ["plain10", "volatility_time"]
    assert list(columns) == list(dict.fromkeys((*sets["plain10"], *sets["volatility_time"])))
    assert made.columns == [*bars.columns, *columns]
    assert made.select(bars.columns).equals(bars)
    assert all(columns[name].block == BAR_FEATURES[name].block for name in columns)
    assert all(columns[name].warmup == BAR_FEATURES[name].warmup for name in columns)


def test_an_unknown_set_is_refused_with_those_there_are(bars: pl.DataFrame) -> None:
    with pytest.raises(ConfigError, match=r"unknown feature set 'boosting'.*boosting_optimal.*feature_set"):
        build_bar_features(bars, ["boosting"], SCHEMA)


def test_the_sentry_finds_nothing_in_any_set(bars: pl.DataFrame) -> None:
    for cutoff in (bars["ds"][LONGEST - 100], bars["ds"][LONGEST + 40]):
        assert sentry.bar_future_leaks(bars, list(FEATURE_SETS), SCHEMA, cutoff, seed=3) == []


def test_the_sentry_names_a_column_that_looks_ahead(bars: pl.DataFrame, monkeypatch: pytest.MonkeyPatch) -> None:
    def leaky(frame: pl.DataFrame, sets: object, schema: BarsSchema) -> object:
        made, columns, resolved = build_bar_features(frame, ["plain10"], schema)
        # one bar ahead: what a smoother centred on its bar sees
        return made.with_columns(pl.col("return_5").shift(-1).over("segment")), columns, resolved

    monkeypatch.setattr(sentry, "build_bar_features", leaky)

    assert sentry.bar_future_leaks(bars, ["plain10"], SCHEMA, bars["ds"][100], seed=3) == ["return_5"]


def test_the_sentry_names_a_window_centred_on_its_bar(bars: pl.DataFrame, monkeypatch: pytest.MonkeyPatch) -> None:
    # Planted in the catalogue itself, beside sound columns: what a smoother of the whole history would do.
    def centred() -> pl.Expr:
        return pl.col("_c") / pl.col("_c").rolling_mean(5, center=True) - 1

    planted = BarFeature("trend", 4, centred)
    chosen = FEATURE_SETS["plain10"]
    wider = catalog.FeatureSet((*chosen.columns, "gap_centred_5"), "with a leak")
    monkeypatch.setattr(catalog, "BAR_FEATURES", {**BAR_FEATURES, "gap_centred_5": planted})
    monkeypatch.setattr(catalog, "FEATURE_SETS", {**FEATURE_SETS, "plain10": wider})

    cutoff = bars["ds"][200]
    made, _, _ = build_bar_features(bars, ["plain10"], SCHEMA)

    assert made["gap_centred_5"][4:-2].null_count() == 0
    assert sentry.bar_future_leaks(bars, ["plain10"], SCHEMA, cutoff, seed=3) == ["gap_centred_5"]


def test_the_documentation_holds_the_catalogue_as_it_is(repository: Path) -> None:
    assert feature_table() in (repository / "docs" / "bar-features.md").read_text()


@pytest.mark.real_data
@pytest.mark.skipif(not DATA.is_dir(), reason="the real bars are not beside the checkout (../shared/data/market)")
@pytest.mark.parametrize(
    ("file", "freq", "calendar"),
    [
        ("crypto_30m", "30min", "continuous"),
        ("crypto_5m", "5min", "continuous"),
        ("fx_1h", "h", "weekdays"),
        ("fx_5m", "5min", "weekdays"),
        ("stocks_daily", "D", "business_days"),
    ],
)
def test_real_bars_give_whole_bounded_columns_that_do_not_repeat_one_another(
    file: str, freq: str, calendar: str
) -> None:
    schema = BarsSchema.model_validate({"freq": freq, "calendar": calendar})
    rows = pl.read_parquet(DATA / f"{file}.parquet").rename({"symbol": "unique_id", "ts": "ds"})
    rows = rows.with_columns(pl.col("ds").cast(pl.Datetime("us")), pl.col(*PRICES, "volume").cast(pl.Float64))
    some = rows["unique_id"].unique().sort()[:2].implode()
    # as the raw gate leaves them: bars with a missing price are out
    kept = rows.filter(pl.col("unique_id").is_in(some)).drop_nulls().sort("unique_id", "ds")
    frame, _ = segmented(kept.group_by("unique_id", maintain_order=True).tail(3000), schema)

    made, columns, sets = build_bar_features(frame, EVERY, schema)
    position = pl.int_range(pl.len()).over("segment")
    warm = made.filter(frame.select(position >= LONGEST).to_series())

    assert warm.height > 1000
    for name, its in columns.items():
        assert warm[name].null_count() == 0, name
        bounds = BAR_FEATURES[name].bounds
        if bounds is not None:
            low, high = float(warm[name].min()), float(warm[name].max())  # type: ignore[arg-type]
            assert bounds[0] - 1e-9 <= low <= high <= bounds[1] + 1e-9, name
        assert its.warmup < schema.bars_per_year
    values = warm.select(sets["boosting_optimal"]).to_numpy()
    values = values[:, values.std(axis=0) > 0]
    same = np.abs(np.corrcoef(values, rowvar=False)) > 0.98
    distinct = [i for i in range(values.shape[1]) if not same[i, :i].any()]
    assert len(distinct) >= 70
