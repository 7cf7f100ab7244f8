"""Dirt is mild where it should be, gross where it is asked for, and always on the ledger."""

from __future__ import annotations

from datetime import datetime

import numpy as np
import polars as pl
import pytest

from nightcast.contracts.errors import ConfigError
from nightcast.sources.generator import CORRUPTIONS, Field, FieldConfig, corrupt, simulate_field

LEDGER = ["unique_id", "ds", "kind", "column", "original", "corrupted"]


@pytest.fixture(scope="module")
def field() -> Field:
    return simulate_field(FieldConfig(seed=5))


@pytest.fixture(scope="module")
def clean() -> Field:
    return simulate_field(FieldConfig(seed=5, dirt=False))


def panel(series: int = 6, rows: int = 12, every: str = "1mo") -> pl.DataFrame:
    start = datetime(2020, 1, 1)
    times = pl.select(pl.datetime_range(start, pl.lit(start).dt.offset_by("20y"), every)).to_series().head(rows)
    return pl.concat(
        pl.DataFrame({"unique_id": f"s{k}", "ds": times, "y": [1.0 + k + i for i in range(rows)]})
        for k in range(series)
    ).with_columns(pl.col("ds").cast(pl.Datetime("us")))


def of_kind(kind: str, frame: pl.DataFrame | None = None) -> tuple[pl.DataFrame, pl.DataFrame, str, pl.DataFrame]:
    """The broken series, the ledger, its name, and the series as it was."""
    frame = panel() if frame is None else frame
    broken, ledger = corrupt(frame, 0.01, 7, [kind])  # type: ignore[list-item]
    name = ledger["unique_id"][0]
    assert ledger["unique_id"].n_unique() == 1
    assert (ledger["kind"] == kind).all()
    return broken.filter(pl.col("unique_id") == name), ledger, name, frame.filter(pl.col("unique_id") == name)


def test_mild_dirt_is_undone_by_its_ledger(field: Field, clean: Field) -> None:
    healed = field.monthly
    for column in ("y", "wbhp", "wopr"):
        fixes = field.ledger.filter(pl.col("column") == column).select(
            "unique_id", "ds", pl.col("original").cast(pl.Float64).alias("fix")
        )
        healed = healed.join(fixes, on=["unique_id", "ds"], how="left").with_columns(
            pl.coalesce("fix", column).alias(column)
        )
        healed = healed.drop("fix")

    assert field.ledger.columns == LEDGER
    assert clean.ledger.is_empty()
    assert clean.ledger.columns == LEDGER
    assert not field.monthly.equals(clean.monthly)
    assert healed.equals(clean.monthly)


def test_mild_dirt_has_the_promised_size() -> None:
    pressures, volumes, kinds = [], [], set()
    for seed in range(5):
        field = simulate_field(FieldConfig(seed=seed))
        rows = field.monthly.filter(pl.col("series_role") == "target")
        lost = field.ledger.filter(pl.col("corrupted").is_null())
        pressures.append(lost.filter(pl.col("column") == "wbhp").height / rows.height)
        volumes.append(rows["y"].null_count() / rows.height)
        kinds |= set(field.ledger["kind"])

    assert 0.10 < np.mean(pressures) < 0.30
    assert 0.01 < np.mean(volumes) < 0.02
    assert max(volumes) < 0.025
    assert kinds == {"bhp_gap", "bhp_dead_gauge", "bhp_no_gauge", "bhp_stuck_gauge", "volume_missing"}


def test_a_stuck_gauge_repeats_its_value(field: Field) -> None:
    stuck = field.ledger.filter(pl.col("kind") == "bhp_stuck_gauge")

    assert stuck.height > 0
    assert (stuck["original"] != stuck["corrupted"]).all()
    for name in stuck["unique_id"].unique():
        values = stuck.filter(pl.col("unique_id") == name)["corrupted"].unique()
        assert len(values) == 1
        readings = field.monthly.filter(pl.col("unique_id") == name)["wbhp"].drop_nulls()
        assert (readings == float(values[0])).sum() >= 2


def test_mild_dirt_leaves_every_producer_most_of_its_volumes(field: Field) -> None:
    known = (
        field.monthly.filter(pl.col("series_role") == "target")
        .group_by("unique_id")
        .agg(pl.col("y").is_not_null().mean())
    )

    assert known["y"].min() > 0.85


def test_duplicate_rows_stand_twice() -> None:
    broken, ledger, _, before = of_kind("duplicate_rows")

    assert broken.height == before.height + 3
    assert broken.unique().sort("ds").equals(before)
    assert ledger.height == 3
    assert broken.filter(broken.is_duplicated())["ds"].unique().sort().equals(ledger["ds"])


def test_text_turns_the_column_into_text_and_back_but_for_the_words() -> None:
    frame = panel()
    broken, ledger = corrupt(frame, 0.01, 7, ["text_in_number"])

    assert broken.schema["y"] == pl.String
    back = broken.with_columns(pl.col("y").cast(pl.Float64, strict=False))
    wrong = back.join(ledger, on=["unique_id", "ds"], how="semi")
    assert 1 <= wrong.height <= 3
    assert wrong["y"].is_null().all()
    assert back.join(ledger, on=["unique_id", "ds"], how="anti").equals(
        frame.join(ledger, on=["unique_id", "ds"], how="anti")
    )


def test_text_shows_as_a_reader_leaves_it_where_rows_are_already_read() -> None:
    frame = panel().with_columns(pl.lit(False).alias("row_unparsable"))
    broken, ledger, _, _ = of_kind("text_in_number", frame)

    flagged = broken.filter(pl.col("row_unparsable"))
    assert broken.schema["y"] == pl.Float64
    assert flagged["ds"].equals(ledger["ds"])
    assert flagged["y"].is_null().all()
    assert ledger["corrupted"].is_not_null().all()


def test_future_date_moves_the_last_row_a_century_ahead() -> None:
    broken, ledger, _, before = of_kind("future_date")

    assert broken["ds"].max() == datetime(2120, 12, 1)
    assert ledger["original"].to_list() == ["2020-12-01T00:00:00"]
    assert broken.height == before.height
    assert broken["ds"].sort()[:-1].equals(before["ds"][:-1])


def test_future_date_of_a_leap_day_exists() -> None:
    leap = pl.DataFrame(
        {
            "unique_id": ["a"] * 4,
            "ds": [datetime(2020, 2, day) for day in (26, 27, 28, 29)],
            "y": [1.0, 2.0, 3.0, 4.0],
        }
    )

    broken, _ = corrupt(leap, 1.0, 0, ["future_date"])

    assert broken["ds"].max() == datetime(2120, 2, 28)


def test_all_null_leaves_the_rows_and_no_value() -> None:
    broken, ledger, _, before = of_kind("all_null")

    assert broken["y"].null_count() == before.height == ledger.height
    assert ledger["corrupted"].is_null().all()


def test_scale_jump_is_one_value_a_hundred_times_too_large() -> None:
    broken, ledger, _, before = of_kind("scale_jump")

    ratio = broken["y"] / before["y"]
    assert sorted(ratio.to_list()) == pytest.approx([1.0] * 11 + [100.0])
    assert float(ledger["corrupted"][0]) == pytest.approx(100 * float(ledger["original"][0]))


@pytest.mark.parametrize(("every", "step"), [("1mo", "7d"), ("1w", "1d"), ("1d", "6h"), ("30m", "7m30s")])
def test_wrong_frequency_stamps_rows_more_densely(every: str, step: str) -> None:
    broken, _, _, before = of_kind("wrong_frequency", panel(every=every))

    assert broken["ds"][-1] == before["ds"][-1]
    assert broken["ds"].equals(
        pl.select(pl.datetime_range(broken["ds"][0], broken["ds"][-1], step, time_unit="us").alias("ds")).to_series()
    )
    assert broken["y"].equals(before["y"])


def test_every_corruption_occurs_and_support_series_are_spared(field: Field) -> None:
    broken, ledger = corrupt(field.monthly, 0.3, 1)

    assert set(ledger["kind"]) == set(CORRUPTIONS)
    assert ledger["unique_id"].n_unique() == 12
    spared = broken.filter(pl.col("series_role") == "support").with_columns(pl.col("y").cast(pl.Float64))
    assert spared.equals(field.monthly.filter(pl.col("series_role") == "support"))


@pytest.mark.parametrize(
    ("share", "kinds", "message"),
    [
        (1.2, list(CORRUPTIONS), "the share to corrupt is 1.2"),
        (0.5, ["rust"], r"unknown corruption\(s\) \['rust'\]"),
        (0.5, [], "no corruption is named"),
    ],
)
def test_wrong_requests_are_refused(share: float, kinds: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        corrupt(panel(), share, 0, kinds)  # type: ignore[arg-type]


def test_series_too_poor_to_be_broken_are_named() -> None:
    with pytest.raises(ConfigError, match="3 series are to be corrupted and 0 of 6 can be"):
        corrupt(panel(rows=2), 0.5, 0)
