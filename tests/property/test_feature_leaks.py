from datetime import datetime

import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from nightcast.contracts.recipe import FeatureChoice
from nightcast.contracts.schema import PanelSchema
from nightcast.features.catalog import FEATURES, build_features
from nightcast.features.grid import regular_grid
from nightcast.features.sentry import future_leaks

START = datetime(2015, 1, 1)
SCHEMA = PanelSchema(
    freq="MS",
    horizon=3,
    covariates={"wwir": "past", "wbhp": "past", "wopr": "past", "uptime": "plan", "x_m": "static", "y_m": "static"},
    lower=0,
)
CHOICES = [FeatureChoice(name=name) for name in FEATURES]
RATE = st.one_of(st.none(), st.just(0.0), st.floats(0.01, 500))


@st.composite
def panels(draw: st.DrawFn) -> pl.DataFrame:
    """Accepted rows of a small field: irregular starts, gaps, nulls, zeros, injectors with or without positions."""
    parts = []
    for number in range(draw(st.integers(1, 5))):
        injector = number > 0 and draw(st.booleans())
        first, length = draw(st.integers(0, 20)), draw(st.integers(1, 24))
        steps = draw(st.lists(st.integers(first, first + length), min_size=1, max_size=length, unique=True))
        draws = [draw(st.tuples(RATE, RATE, RATE)) for _ in steps]
        place = draw(st.one_of(st.none(), st.tuples(st.floats(0, 2000), st.floats(0, 2000))))
        parts.append(
            pl.DataFrame(
                {
                    "unique_id": f"W{number}",
                    "ds": [SCHEMA.freq.shift(START, step) for step in steps],
                    "y": pl.Series([None if injector else d[0] for d in draws], dtype=pl.Float64),
                    "wwir": pl.Series([d[1] if injector else None for d in draws], dtype=pl.Float64),
                    "wbhp": pl.Series([d[2] for d in draws], dtype=pl.Float64),
                    "wopr": pl.Series([d[2] for d in draws], dtype=pl.Float64),
                    "uptime": pl.Series([None if d[1] is None else min(d[1], 1.0) for d in draws], dtype=pl.Float64),
                    "x_m": pl.Series([place[0] if place else None] * len(steps), dtype=pl.Float64),
                    "y_m": pl.Series([place[1] if place else None] * len(steps), dtype=pl.Float64),
                    "series_role": "support" if injector else "target",
                }
            )
        )
    return pl.concat(parts)


def _grid(rows: pl.DataFrame, months: int) -> pl.DataFrame:
    return regular_grid(rows, SCHEMA, as_of=SCHEMA.freq.shift(START, months), retire_after=6)[0]


@settings(max_examples=60, deadline=None)
@given(panels(), st.integers(0, 44), st.integers(0, 10))
def test_no_block_lets_the_future_change_the_past(rows: pl.DataFrame, cut: int, seed: int) -> None:
    cutoff = SCHEMA.freq.shift(START, cut)

    leaks = future_leaks(lambda f, s: build_features(f, s, CHOICES), _grid(rows, 45), SCHEMA, cutoff, seed)

    assert leaks == []


@settings(max_examples=60, deadline=None)
@given(panels(), st.integers(0, 44))
def test_a_night_in_the_past_would_have_made_the_same_features(rows: pl.DataFrame, cut: int) -> None:
    # The whole way from accepted rows: grid and features as of then, against those as of now.
    as_of = SCHEMA.freq.shift(START, cut)
    now, columns, _ = build_features(_grid(rows, 45), SCHEMA, CHOICES)
    then, _, _ = build_features(_grid(rows, cut), SCHEMA, CHOICES)

    made = ["unique_id", "ds", *columns]
    known = pl.col("ds") <= as_of
    grown = now.filter(known)
    # A well that starts again after it retired has its silent months in today's grid only.
    both = grown.select(made).join(then.select("unique_id", "ds"), on=["unique_id", "ds"], how="semi")
    assert both.equals(then.filter(known).select(made))


@settings(max_examples=30, deadline=None)
@given(panels())
def test_the_grid_keeps_every_accepted_value_and_invents_none(rows: pl.DataFrame) -> None:
    grid = _grid(rows, 45)

    kept = rows.filter(pl.col("y").is_not_null()).select("unique_id", "ds", "y").sort("unique_id", "ds")
    assert grid.filter(pl.col("y").is_not_null()).select("unique_id", "ds", "y").equals(kept)
    assert not grid.select("unique_id", "ds").is_duplicated().any()


@settings(max_examples=30, deadline=None)
@given(panels())
def test_the_order_of_the_rows_changes_no_feature(rows: pl.DataFrame) -> None:
    grid = _grid(rows, 45)

    one, _, _ = build_features(grid, SCHEMA, CHOICES)
    other, _, _ = build_features(grid.reverse(), SCHEMA, CHOICES)

    assert one.equals(other)


@settings(max_examples=30, deadline=None)
@given(panels())
def test_another_target_series_changes_no_feature_of_a_series_alone(rows: pl.DataFrame) -> None:
    # Injection and its support look at other wells on purpose; everything else must not.
    choices = [choice for choice in CHOICES if choice.name not in ("injection", "crm_support")]
    grid = _grid(rows, 45)
    whole, _, _ = build_features(grid, SCHEMA, choices)

    for name in grid["unique_id"].unique().to_list():
        alone, _, _ = build_features(grid.filter(pl.col("unique_id") == name), SCHEMA, choices)
        assert whole.filter(pl.col("unique_id") == name).equals(alone)
