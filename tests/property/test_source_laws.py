"""Laws of every source: the past does not depend on what was written down later, nor on the file's format."""

from __future__ import annotations

import tempfile
from datetime import datetime
from pathlib import Path

import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from nightcast.contracts.source import RawData
from nightcast.sources.panel_files import PanelFiles
from nightcast.sources.spec import WorkloadFile

NOW = datetime(2030, 1, 1)
QUICK = settings(max_examples=40, deadline=None)


def _month(index: int) -> datetime:
    return datetime(2020 + index // 12, index % 12 + 1, 1)


values = st.none() | st.floats(-1e6, 1e6, allow_nan=False).map(lambda value: round(value, 3))
rows = st.lists(
    st.tuples(st.sampled_from("ABC"), st.integers(0, 30), values, values, st.sampled_from(["north", "7", None])),
    min_size=1,
    max_size=60,
)


def _frame(drawn: list[tuple[str, int, float | None, float | None, str | None]]) -> pl.DataFrame:
    # One long series, so that a history is there; duplicates, gaps and blanks are part of the draw.
    whole = [("L", index, float(index), 1.0, "7") for index in range(31)] + drawn
    return pl.DataFrame(
        [(series, _month(index), value, other, zone) for series, index, value, other, zone in whole],
        schema={"id": pl.String, "when": pl.Datetime("us"), "v": pl.Float64, "w": pl.Float64, "zone": pl.String},
        orient="row",
    )


def _read(path: Path, as_of: datetime | None) -> RawData:
    spec = WorkloadFile.model_validate(
        {
            "name": "law",
            "source": {"path": path.name},
            "columns": {
                "id": "id",
                "time": "when",
                "target": "v * 2 / days_in_period",
                "covariates": {"w": "past", "zone": "static"},
            },
            "freq": "MS",
            "horizon": 2,
        }
    )
    return PanelFiles(spec, path.parent).read(as_of=as_of, data=None, now=NOW)


def _same(left: RawData, right: RawData) -> None:
    assert_frame_equal(left.frame, right.frame)
    assert (left.as_of, left.notes, left.schema) == (right.as_of, right.notes, right.schema)


@QUICK
@given(drawn=rows, last=st.integers(4, 30), suffix=st.sampled_from([".csv", ".parquet"]))
def test_cutting_the_file_at_a_date_is_reading_it_as_of_that_date(
    drawn: list[tuple[str, int, float | None, float | None, str | None]], last: int, suffix: str
) -> None:
    frame, as_of = _frame(drawn), _month(last)
    with tempfile.TemporaryDirectory() as name:
        whole, cut = Path(name) / f"whole{suffix}", Path(name) / f"cut{suffix}"
        for path, table in ((whole, frame), (cut, frame.filter(pl.col("when") <= as_of))):
            if suffix == ".csv":
                table.write_csv(path)
            else:
                table.write_parquet(path)

        _same(_read(whole, as_of), _read(cut, as_of))
        _same(_read(cut, as_of), _read(cut, None))


@QUICK
@given(drawn=rows)
def test_csv_and_parquet_give_the_same_data(
    drawn: list[tuple[str, int, float | None, float | None, str | None]],
) -> None:
    frame = _frame(drawn)
    with tempfile.TemporaryDirectory() as name:
        frame.write_csv(Path(name) / "a.csv")
        frame.write_parquet(Path(name) / "a.parquet")

        _same(_read(Path(name) / "a.csv", None), _read(Path(name) / "a.parquet", None))


@QUICK
@given(
    places=st.sets(st.integers(0, 29), min_size=1, max_size=10),
    junk=st.sampled_from(["oil", "1,2,3", "--", "12 m3", "#REF!", "1e", "0x10", "1.2.3"]),
    column=st.sampled_from(["v", "w"]),
)
def test_corrupted_text_is_flagged_and_nothing_else_is(places: set[int], junk: str, column: str) -> None:
    clean = _frame([("A", index, 1.5, 2.5, "7") for index in range(31)])
    text = clean.with_columns(pl.col("v", "w").cast(pl.String)).with_row_index("row")
    hit = (pl.col("id") == "A") & pl.col("when").is_in([_month(place) for place in places])
    dirty = text.with_columns(pl.when(hit).then(pl.lit(junk)).otherwise(column).alias(column)).drop("row")
    with tempfile.TemporaryDirectory() as name:
        for suffix in (".csv", ".parquet"):
            path = Path(name) / f"dirty{suffix}"
            if suffix == ".csv":
                dirty.write_csv(path)
            else:
                dirty.write_parquet(path)

            raw = _read(path, None)

            flagged = raw.frame.filter("row_unparsable")
            assert flagged.get_column("unique_id").unique().to_list() == ["A"]
            assert sorted(flagged.get_column("ds")) == [_month(place) for place in sorted(places)]
            assert flagged.get_column("y" if column == "v" else "w").null_count() == len(places)
            assert [(note.code, note.rows) for note in raw.notes] == [("unparsable_text_set_missing", len(places))]


@QUICK
@given(cell=st.text(max_size=12))
def test_any_text_in_a_number_is_a_number_missing_or_flagged_and_never_a_crash(cell: str) -> None:
    frame = _frame([]).with_columns(pl.col("v").cast(pl.String))
    odd = pl.DataFrame({"id": ["A"], "when": [_month(3)], "v": [cell], "w": [1.0], "zone": ["7"]}, schema=frame.schema)
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "odd.parquet"
        pl.concat([frame, odd]).write_parquet(path)

        raw = _read(path, None)

    row = raw.frame.filter(pl.col("unique_id") == "A").row(0, named=True)
    blank = cell.strip().lower() in {"", "null", "na", "n/a", "nan", "none"}
    if row["y"] is None and not blank:
        assert row["row_unparsable"]
    if row["y"] is not None:
        assert not row["row_unparsable"]
