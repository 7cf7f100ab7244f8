"""Laws that hold for every generated field."""

from __future__ import annotations

from datetime import datetime

import numpy as np
import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from nightcast.contracts.frequency import Frequency
from nightcast.contracts.hashing import hash_frame
from nightcast.sources.generator import CORRUPTIONS, FieldConfig, corrupt, simulate_field
from nightcast.sources.generator.field import simulate_days
from nightcast.sources.generator.source import FieldSource

NOW = datetime(2030, 1, 1)

configs = st.builds(
    FieldConfig,
    producers=st.integers(1, 10),
    injectors=st.integers(1, 5),
    months=st.integers(2, 14),
    level=st.sampled_from(["easy", "reference", "hard"]),
    start=st.sampled_from(["2015-01-01", "2019-07-01", "2020-02-01"]),
    seed=st.integers(0, 10_000),
    variant=st.sampled_from(["standard", "constant_injection", "poor_uptime"]),
    allocation=st.sampled_from(["monthly", "test"]),
    dirt=st.booleans(),
)


@settings(max_examples=25, deadline=None)
@given(config=configs)
def test_connectivities_are_shares_that_sum_to_one_less_the_loss(config: FieldConfig) -> None:
    truth = simulate_field(config).truth

    np.testing.assert_allclose(truth.connectivity.sum(axis=1), 1 - truth.loss, rtol=1e-12)
    assert truth.connectivity.min() >= 0
    assert truth.connectivity.max() <= 1
    assert ((truth.connectivity == 0) | (truth.connectivity >= 0.02)).all()
    assert ((truth.theta >= 3) & (truth.theta <= 180)).all()
    assert ((truth.tau >= 15) & (truth.tau <= 240)).all()


@settings(max_examples=25, deadline=None)
@given(config=configs)
def test_mass_balance_closes_for_every_field(config: FieldConfig) -> None:
    simulation = simulate_days(config)
    flow = simulation.flow

    stored = simulation.tanks.network.capacity * np.diff(flow.pressure, axis=0)
    net = flow.arriving + flow.from_aquifer + flow.from_neighbours - flow.rate - flow.spilled

    np.testing.assert_allclose(stored, net, atol=1e-9, rtol=1e-9)
    assert (flow.rate >= 0).all()
    assert (flow.rate[~simulation.schedule.is_open] == 0).all()


@settings(max_examples=15, deadline=None)
@given(config=configs)
def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(config: FieldConfig) -> None:
    first, again = simulate_field(config), simulate_field(config)
    other = simulate_field(config.with_(seed=config.seed + 1))

    assert hash_frame(first.monthly) == hash_frame(again.monthly)
    assert hash_frame(first.truth.monthly) == hash_frame(again.truth.monthly)
    assert hash_frame(first.ledger) == hash_frame(again.ledger)
    assert hash_frame(first.monthly) != hash_frame(other.monthly)


@settings(max_examples=25, deadline=None)
@given(config=configs)
def test_a_month_without_uptime_has_no_volume_and_no_pressure(config: FieldConfig) -> None:
    monthly = simulate_field(config).monthly.filter(pl.col("series_role") == "target")

    down = monthly.filter(pl.col("uptime") == 0)
    assert (down["y"].drop_nulls() == 0).all()
    assert down["wbhp"].is_null().all()
    assert monthly["uptime"].is_between(0, 1).all()
    assert (monthly["y"].drop_nulls() >= 0).all()
    assert monthly["unique_id"].n_unique() == config.producers


@settings(max_examples=20, deadline=None)
@given(config=configs.filter(lambda config: config.months >= 8), known=st.integers(8, 14))
def test_the_past_does_not_depend_on_the_as_of_date(config: FieldConfig, known: int) -> None:
    source = FieldSource.of(config, horizon=1)
    as_of = Frequency.parse("MS").shift(config.first, min(known, config.months) - 1)

    cut = source.read(as_of=as_of, data=None, now=NOW)
    full = source.read(as_of=None, data=None, now=NOW)

    assert hash_frame(cut.frame) == hash_frame(full.frame.filter(pl.col("ds") <= as_of))


@settings(max_examples=6, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    level=st.sampled_from(["easy", "reference", "hard"]),
    variant=st.sampled_from(["standard", "constant_injection", "poor_uptime"]),
    feedback=st.booleans(),
)
def test_voidage_is_replaced_to_within_a_tenth(seed: int, level: str, variant: str, feedback: bool) -> None:
    config = FieldConfig(
        seed=seed,
        level=level,  # type: ignore[arg-type]
        variant=variant,  # type: ignore[arg-type]
        feedback=feedback and variant != "constant_injection",
        months=96,
    )

    assert 0.9 < simulate_days(config).vrr < 1.1


@settings(max_examples=50, deadline=None)
@given(
    series=st.integers(1, 12),
    share=st.floats(0, 1),
    seed=st.integers(0, 1000),
    kinds=st.lists(st.sampled_from(CORRUPTIONS), min_size=1, max_size=6, unique=True),
)
def test_corruption_touches_its_share_of_series_and_nothing_else(
    series: int, share: float, seed: int, kinds: list[str]
) -> None:
    rng = np.random.default_rng(seed)
    times = [Frequency.parse("MS").shift(datetime(2020, 1, 1), step) for step in range(10)]
    frame = pl.DataFrame(
        {
            "unique_id": np.repeat([f"s{k}" for k in range(series)], 10).tolist(),
            "ds": times * series,
            "y": rng.lognormal(3, 1, 10 * series),
        },
        schema_overrides={"ds": pl.Datetime("us")},
    ).sample(fraction=1.0, shuffle=True, seed=seed)

    broken, ledger = corrupt(frame, share, seed, kinds)  # type: ignore[arg-type]
    again, _ = corrupt(frame, share, seed, kinds)  # type: ignore[arg-type]

    touched = ledger["unique_id"].unique()
    wanted = 0 if share == 0 else max(1, round(share * series))
    spared = broken.filter(~pl.col("unique_id").is_in(touched.implode())).with_columns(pl.col("y").cast(pl.Float64))
    assert len(touched) == wanted
    assert ledger.group_by("unique_id").agg(pl.col("kind").n_unique())["kind"].eq(1).all()
    assert spared.equals(frame.filter(~pl.col("unique_id").is_in(touched.implode())))
    assert broken.columns == frame.columns
    assert broken.equals(again)
