"""A generated field looks like a field, and its tables agree with one another."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from nightcast.contracts.errors import ConfigError, SourceError
from nightcast.contracts.hashing import hash_frame
from nightcast.sources.generator import SIZES, Field, FieldConfig, simulate_field
from nightcast.sources.generator.field import simulate_days

COLUMNS = ["unique_id", "ds", "y", "uptime", "wbhp", "wwir", "wopr", "series_role", "x_m", "y_m", "pad"]


@pytest.fixture(scope="module")
def field() -> Field:
    return simulate_field(FieldConfig(seed=2))


@pytest.fixture(scope="module")
def clean() -> Field:
    return simulate_field(FieldConfig(seed=2, dirt=False))


def producers(field: Field) -> pl.DataFrame:
    return field.monthly.filter(pl.col("series_role") == "target")


def supports(field: Field) -> pl.DataFrame:
    return field.monthly.filter(pl.col("series_role") == "support")


def test_monthly_frame_has_the_declared_columns_in_order(field: Field) -> None:
    assert field.monthly.columns == COLUMNS
    assert field.monthly.schema["ds"] == pl.Datetime("us")
    assert field.monthly.equals(field.monthly.sort("unique_id", "ds"))
    assert not field.monthly.select("unique_id", "ds").is_duplicated().any()
    assert not any(field.monthly.get_column(name).is_nan().any() for name in ("y", "uptime", "wbhp", "wwir", "wopr"))


def test_months_follow_the_real_calendar(field: Field) -> None:
    times = field.monthly.get_column("ds").unique().sort()

    assert times[0] == datetime(2015, 1, 1)
    assert times[-1] == datetime(2024, 12, 1)
    assert len(times) == 120
    assert (times.dt.day() == 1).all()


def test_injectors_support_and_producers_are_targets(field: Field) -> None:
    assert producers(field).get_column("wwir").is_null().all()
    assert producers(field).get_column("unique_id").n_unique() == 40
    injected = supports(field)
    assert injected.select("y", "wbhp", "wopr").null_count().sum_horizontal().item() == 3 * injected.height
    assert injected.get_column("wwir").is_not_null().all()
    assert injected.get_column("unique_id").n_unique() >= 14


def test_allocation_noise_keeps_the_field_total(clean: Field) -> None:
    seen = producers(clean).group_by("ds").agg(pl.col("y").sum()).sort("ds")
    true = clean.truth.rate.group_by("ds").agg(pl.col("rate").sum()).sort("ds")

    np.testing.assert_allclose(seen["y"].to_numpy(), true["rate"].to_numpy(), rtol=1e-12)
    paired = producers(clean).join(clean.truth.rate, on=["unique_id", "ds"]).filter(pl.col("rate") > 0)
    assert 0.02 < (paired["y"] / paired["rate"]).log().std() < 0.08


def test_test_based_allocation_keeps_an_error_for_some_months() -> None:
    config = FieldConfig(producers=12, injectors=4, months=48, dirt=False)

    def repeats(config: FieldConfig) -> float:
        field = simulate_field(config)
        paired = producers(field).join(field.truth.rate, on=["unique_id", "ds"]).filter(pl.col("rate") > 0)
        # The rescaling moves all wells of a month together; differences between two wells stay put between tests.
        error = paired.with_columns((pl.col("y") / pl.col("rate")).log().alias("error"))
        wide = error.pivot("unique_id", index="ds", values="error").sort("ds")
        gap = (wide["P01"] - wide["P02"]).diff().drop_nulls()
        return float((gap.abs() < 1e-9).mean())

    assert repeats(config.with_(allocation="test")) > 0.15
    assert repeats(config) == 0


def test_a_month_without_uptime_has_no_rate(clean: Field) -> None:
    down = producers(clean).filter(pl.col("uptime") == 0)

    assert down.height > 0
    assert (down["y"] == 0).all()
    assert down["wbhp"].is_null().all()
    assert (producers(clean).filter(pl.col("uptime") > 0)["y"] > 0).all()


def test_calendar_day_rate_is_producing_day_rate_times_uptime(clean: Field) -> None:
    monthly = clean.truth.monthly.filter(pl.col("uptime") > 0)

    np.testing.assert_allclose(monthly["rate"], monthly["producing_day_rate"] * monthly["uptime"], rtol=1e-12)


def test_rates_uptime_and_voidage_are_those_of_an_ordinary_field(clean: Field) -> None:
    flowing = clean.truth.monthly.filter(pl.col("rate") > 0)

    assert 20 < flowing["rate"].median() < 120
    assert 0.92 < clean.truth.monthly["uptime"].mean() < 0.97
    assert 0.9 < clean.truth.vrr < 1.1
    assert flowing["p_wf"].min() >= 35
    assert flowing["p_wf"].max() <= 170


def test_voidage_ratio_is_injected_over_produced_volume(clean: Field) -> None:
    days = pl.col("ds").dt.month_end().dt.day()
    injected = supports(clean).select((pl.col("wwir") * days).sum()).item()
    produced = clean.truth.monthly.select((pl.col("rate") * days).sum()).item()

    assert injected / produced == pytest.approx(clean.truth.vrr, rel=1e-9)


def test_oil_is_part_of_the_liquid_and_water_cut_rises(clean: Field) -> None:
    rows = producers(clean).filter(pl.col("y") > 0)

    assert (rows["wopr"] >= 0).all()
    assert (rows["wopr"] <= rows["y"]).all()
    cut = clean.truth.monthly.drop_nulls("water_cut").group_by("unique_id", maintain_order=True)
    change = cut.agg((pl.col("water_cut").last() - pl.col("water_cut").first()).alias("change"))
    assert change["change"].min() > -1e-9  # a well without an injector keeps its water cut
    assert change["change"].median() > 0.1


def test_later_wells_start_with_a_peak(clean: Field) -> None:
    starts = clean.truth.positions.filter(
        (pl.col("series_role") == "target") & (pl.col("start") > datetime(2015, 1, 1))
    )
    late = clean.truth.monthly.join(starts.select("unique_id"), on="unique_id", how="semi").drop_nulls(
        "producing_day_rate"
    )
    peaks = (
        late.sort("unique_id", "ds")
        .group_by("unique_id", maintain_order=True)
        .agg(
            pl.col("producing_day_rate").head(2).max().alias("peak"),
            pl.col("producing_day_rate").slice(6, 12).median().alias("settled"),
        )
        .drop_nulls()
    )

    assert starts.height == 12
    assert 1.3 < (peaks["peak"] / peaks["settled"]).median() < 5


def test_rows_of_a_producer_end_when_it_is_converted_and_its_injection_is_a_series_of_its_own(clean: Field) -> None:
    converted = clean.truth.positions.drop_nulls("end")

    assert converted.height == 2
    for name, end in converted.select("unique_id", "end").iter_rows():
        own = producers(clean).filter(pl.col("unique_id") == name)
        injector = supports(clean).filter(pl.col("unique_id") == f"{name} (injector)")
        assert own["ds"].max() <= end
        assert injector["ds"].min() >= end.replace(day=1)
        assert injector["wwir"].max() > 0
        row, column = clean.truth.injectors.index(f"{name} (injector)"), clean.truth.producers.index(name)
        assert clean.truth.connectivity[row, column] == 0


def test_connectivity_falls_with_distance_less_sharply_at_harder_levels() -> None:
    def rank_correlation(level: str) -> float:
        values = []
        for seed in range(4):
            pairs = simulate_field(FieldConfig(seed=seed, months=2, level=level, dirt=False)).truth.pairs  # type: ignore[arg-type]
            near = pairs.filter(pl.col("distance_m") < 1200)
            values.append(near.select(pl.corr("distance_m", "connectivity", method="spearman")).item())
        return float(np.mean(values))

    easy, reference, hard = (rank_correlation(level) for level in ("easy", "reference", "hard"))

    assert easy < reference < hard < -0.4


def test_constant_injection_never_changes_and_starts_at_once() -> None:
    field = simulate_field(FieldConfig(producers=12, injectors=4, months=36, variant="constant_injection"))

    spread = supports(field).group_by("unique_id").agg(pl.col("wwir").std().alias("spread"), pl.len())

    assert spread.height == 4
    assert (spread["len"] == 36).all()
    assert spread["spread"].max() < 1e-9


def test_poor_uptime_is_like_that_of_an_old_offshore_field() -> None:
    field = simulate_field(FieldConfig(variant="poor_uptime"))

    assert 0.55 < field.truth.monthly["uptime"].mean() < 0.91
    assert 0.9 < field.truth.vrr < 1.1


def test_feedback_makes_injection_answer_to_pressure() -> None:
    config = FieldConfig(producers=12, injectors=4, months=60)
    free, tied = simulate_days(config), simulate_days(config.with_(feedback=True))

    first = tied.months.first[1:]
    factor = tied.flow.injection[first].sum(axis=1) / tied.schedule.injection[first].sum(axis=1)
    pressure = tied.flow.pressure[first].mean(axis=1)

    assert np.corrcoef(factor, pressure)[0, 1] < -0.9
    np.testing.assert_array_equal(free.flow.injection, free.schedule.injection)


def test_sizes_are_those_promised() -> None:
    assert SIZES == {"small": (12, 4), "default": (40, 14), "scale": (200, 60)}
    config = FieldConfig.from_params({"size": "small", "months": 24, "start": "2020-01-01"})
    assert (config.producers, config.injectors, config.months, config.start) == (12, 4, 24, "2020-01-01")


def test_naive_forecasts_do_about_as_well_as_on_the_prototype() -> None:
    errors, levels = [], []
    for seed in (1, 2, 3):
        frame = producers(simulate_field(FieldConfig(seed=seed, dirt=False)))
        y = frame.pivot("unique_id", index="ds", values="y").sort("ds").drop("ds").to_numpy()
        for origin in range(83, 114, 6):
            for step in range(1, 7):
                known = ~np.isnan(y[origin - 23]) & ~np.isnan(y[origin + step])
                errors.append(np.abs(y[origin + step] - y[origin])[known])
                levels.append(y[origin + step, known])

    nmae = np.concatenate(errors).sum() / np.concatenate(levels).sum()

    assert 0.15 < nmae < 0.22


def test_a_saved_field_comes_back_bit_for_bit(field: Field, tmp_path: Path) -> None:
    field.save(tmp_path / "field")
    back = Field.load(tmp_path / "field")

    assert back.config == field.config
    assert hash_frame(back.monthly) == field.hash
    assert back.ledger.equals(field.ledger)
    assert back.truth.monthly.equals(field.truth.monthly)
    assert back.truth.positions.equals(field.truth.positions)
    assert back.truth.pairs.equals(field.truth.pairs)
    for name in ("connectivity", "theta", "loss", "tau", "J0"):
        np.testing.assert_array_equal(getattr(back.truth, name), getattr(field.truth, name))
    assert (back.truth.vrr, back.truth.injectors, back.truth.producers) == (
        field.truth.vrr,
        field.truth.injectors,
        field.truth.producers,
    )
    assert {path.suffix for path in (tmp_path / "field").iterdir()} == {".json", ".parquet"}


def test_a_folder_that_holds_no_field_is_named_in_the_error(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"does not hold a saved field .*expected field\.json"):
        Field.load(tmp_path)

    (tmp_path / "field.json").write_text("{")
    with pytest.raises(SourceError, match="does not hold a saved field"):
        Field.load(tmp_path)


def test_a_field_of_another_format_is_refused(field: Field, tmp_path: Path) -> None:
    field.save(tmp_path)
    facts = tmp_path / "field.json"
    facts.write_text(facts.read_text().replace('"format": 1', '"format": 99'))

    with pytest.raises(SourceError, match="saved in format 99"):
        Field.load(tmp_path)


def test_truth_cannot_be_written_to(field: Field) -> None:
    with pytest.raises(ValueError, match="read-only"):
        field.truth.connectivity[0, 0] = 1.0


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"producers": 0}, "producers of a generated field is 0"),
        ({"injectors": 1.5}, "injectors of a generated field is 1.5"),
        ({"months": True}, "months of a generated field is True"),
        ({"seed": -1}, "seed of a generated field is -1"),
        ({"level": "brutal"}, "level of a generated field is 'brutal'"),
        ({"variant": ["standard"]}, "variant of a generated field is"),
        ({"allocation": None}, "allocation of a generated field is None"),
        ({"feedback": 1}, "feedback of a generated field is 1"),
        ({"dirt": "yes"}, "dirt of a generated field is 'yes'"),
        ({"start": "2015-01-15"}, "start of a generated field is '2015-01-15'"),
        ({"start": "soon"}, "start of a generated field is 'soon'"),
        ({"start": 2015}, "start of a generated field is 2015"),
        ({"size": "huge"}, "size of a generated field is 'huge'"),
        ({"wells": 3}, r"unknown parameter\(s\) \['wells'\]"),
        ({"feedback": True, "variant": "constant_injection"}, "feedback is on"),
    ],
)
def test_wrong_parameters_are_refused_by_name(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        FieldConfig.from_params(wrong)
