"""Nothing crosses a contract roll that the workload file declares: no segment, window, label or feature."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from nightcast.contracts.errors import ConfigError
from nightcast.contracts.schema import BarsSchema, LabelPlan
from nightcast.features.bars.catalog import build_bar_features
from nightcast.features.labels import triple_barrier
from nightcast.features.segments import segmented
from nightcast.sources.market.config import MarketConfig
from nightcast.sources.market.simulate import simulate_market
from nightcast.sources.spec import WorkloadFile, load_workload_file

NOON = datetime(2024, 3, 15, 12)
HORIZON = 5


def bars(symbol: str, count: int = 12) -> pl.DataFrame:
    """Hourly bars around a roll at noon."""
    times = [NOON + timedelta(hours=k - count // 2) for k in range(count)]
    return pl.DataFrame({"unique_id": symbol, "ds": times}).with_columns(
        pl.col("ds").cast(pl.Datetime("us")),
        *(pl.lit(1.0).alias(name) for name in ("open", "high", "low", "close", "volume")),
    )


def spec(**choice: Any) -> WorkloadFile:
    return WorkloadFile.model_validate(
        {"name": "futures", "kind": "bars", "source": {"path": "bars.parquet"}, "bars": choice}
    )


def firsts(frame: pl.DataFrame) -> list[datetime]:
    """First time of each segment but a symbol's first."""
    starts = frame.group_by("unique_id", "segment").agg(pl.col("ds").min()).sort("unique_id", "ds")
    return starts.filter(pl.col("ds") > pl.col("ds").min().over("unique_id"))["ds"].to_list()


def test_a_roll_begins_a_segment_and_a_session_at_the_first_bar_at_or_after_it() -> None:
    for roll in (NOON, NOON - timedelta(minutes=20)):
        out, notes = segmented(bars("ES"), BarsSchema(freq="h", rolls={"*": (roll,)}))

        assert firsts(out) == [NOON]
        assert out["session"].n_unique() == 2
        assert [(note.code, note.rows) for note in notes] == [("rolls", 1)]


def test_a_roll_of_one_symbol_leaves_the_others_whole() -> None:
    both = pl.concat([bars("ES"), bars("GC")])
    out, _ = segmented(both, BarsSchema(freq="h", rolls={"GC": (NOON,)}))

    segments = out.group_by("unique_id").agg(pl.col("segment").n_unique()).sort("unique_id")
    assert segments.rows() == [("ES", 1), ("GC", 2)]


def test_rolls_outside_the_bars_cut_nothing_and_a_symbol_without_bars_is_told_of() -> None:
    outside = (NOON - timedelta(days=30), NOON - timedelta(hours=6), NOON + timedelta(days=30))
    out, notes = segmented(bars("ES"), BarsSchema(freq="h", rolls={"ES": outside, "EZ": (NOON,)}))

    assert out["segment"].n_unique() == 1
    assert [note.code for note in notes] == ["rolls_of_no_symbol"]
    assert "EZ" in notes[0].detail


def test_rolls_of_a_workload_file_are_a_list_for_all_symbols_or_lists_by_symbol(tmp_path: Path) -> None:
    file = tmp_path / "futures.yaml"
    file.write_text(
        "name: futures\nkind: bars\nsource: {path: bars.parquet}\n"
        "bars: {rolls: {ES: [2024-06-21, 2024-03-15 12:00:00], GC: ['2024-03-15T14:00:00+02:00']}}\n"
    )
    schema = load_workload_file(file).bars_schema(BarsSchema(freq="h").freq, "weekdays")

    assert schema.rolls_of("ES") == (NOON, datetime(2024, 6, 21))
    assert schema.rolls_of("GC") == (NOON,)
    assert schema.rolls_of("NQ") == ()
    everywhere = spec(rolls=[NOON]).bars_schema(schema.freq, "weekdays")
    assert everywhere.rolls_of("NQ") == (NOON,)


def test_a_roll_that_is_no_time_is_named(tmp_path: Path) -> None:
    file = tmp_path / "futures.yaml"
    file.write_text("name: futures\nkind: bars\nsource: {path: b.parquet}\nbars: {rolls: [third friday]}\n")

    with pytest.raises(ConfigError, match="third friday"):
        load_workload_file(file)


def test_a_schema_comes_back_from_json_with_its_rolls_and_one_without_keeps_its_old_form() -> None:
    schema = BarsSchema(freq="h", rolls={"ES": (NOON,)})

    assert BarsSchema.model_validate(schema.model_dump(mode="json")) == schema
    assert "rolls" not in BarsSchema(freq="h").model_dump(mode="json")


@pytest.fixture(scope="module")
def rolled() -> tuple[pl.DataFrame, pl.DataFrame, datetime]:
    """A market with one planted roll: its bars with features and labels, those of the new contract alone, the roll."""
    config = MarketConfig(
        symbols=("MES",),  # type: ignore[arg-type]  # names stand for instruments
        bars=900,
        seed=4,
        dirt=1.0,
        dirt_kinds=("roll_gap",),
    )
    market = simulate_market(config)
    planted = market.ledger.filter(pl.col("kind") == "roll_gap")
    assert planted.height == 1
    roll = planted["ds"][0]

    def prepared(frame: pl.DataFrame, schema: BarsSchema) -> pl.DataFrame:
        cut, _ = segmented(frame.select("unique_id", "ds", "open", "high", "low", "close", "volume"), schema)
        built, _, _ = build_bar_features(cut, ["boosting_optimal"], schema)
        return triple_barrier(built, schema, LabelPlan())

    schema = BarsSchema(freq="5min", horizons=(1, HORIZON), rolls={"*": (roll,)})
    after = market.bars.filter(pl.col("ds") >= roll)
    return prepared(market.bars, schema), prepared(after, schema), roll


def test_no_label_of_the_old_contract_looks_at_the_new_one(rolled: tuple[pl.DataFrame, pl.DataFrame, datetime]) -> None:
    whole, _, roll = rolled
    old = whole.filter(pl.col("ds") < roll)

    assert old[f"label_{HORIZON}_y"].tail(HORIZON).null_count() == HORIZON
    assert old[f"label_{HORIZON}_y"].tail(HORIZON + 1)[0] is not None
    assert old["label_1_y"].tail(2).is_null().to_list() == [False, True]


def test_features_and_labels_of_the_new_contract_are_those_of_its_own_bars_alone(
    rolled: tuple[pl.DataFrame, pl.DataFrame, datetime],
) -> None:
    whole, alone, roll = rolled
    new = whole.filter(pl.col("ds") >= roll)
    values = [name for name in alone.columns if name not in ("segment", "session", "unique_id", "ds")]

    assert new["ds"].to_list() == alone["ds"].to_list()
    for name in values:
        ours, theirs = new[name].cast(pl.Float64).to_numpy(), alone[name].cast(pl.Float64).to_numpy()
        np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-9, err_msg=name)


def test_without_the_declaration_the_roll_is_taken_for_a_move(
    rolled: tuple[pl.DataFrame, pl.DataFrame, datetime],
) -> None:
    whole, _, roll = rolled
    raw = whole.select("unique_id", "ds", "open", "high", "low", "close", "volume")
    cut, _ = segmented(raw, BarsSchema(freq="5min", horizons=(1, HORIZON)))
    labelled = triple_barrier(cut, BarsSchema(freq="5min", horizons=(1, HORIZON)), LabelPlan())

    # entered at the open of the old contract's last bar
    assert labelled.filter(pl.col("ds") < roll)[f"label_{HORIZON}_y"].tail(2)[0] in (0, 2)
