"""The mixers as forecasters: masks, levels, cold start, causality, attention, and skill on a planted rule."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from models.base import Forecaster
from models.families.mixers import AttentionMixer, Mixer, MultiScaleMixer, WellMixer
from models.families.naive import NaiveLast, NaiveMean3
from models.grid import grid_of
from nightcast.contracts.columns import HORIZON, ID, QUANTILES, TARGET, TIME
from nightcast.contracts.errors import ConfigError, RegistryError, TrainingError
from nightcast.contracts.panel import PanelDataset, PanelView
from nightcast.contracts.schema import FeatureColumn, PanelSchema
from nightcast.sources.generator import FieldConfig, simulate_field

TINY: dict[str, Any] = {"max_steps": 8, "input_size": 12, "hidden": 8, "blocks": 1, "batch_size": 64}
MAKERS: dict[str, Callable[..., Mixer]] = {
    "well_mixer": WellMixer,
    "multiscale_tsmixer": MultiScaleMixer,
    "attention_tsmixerx": AttentionMixer,
}
AS_OF = datetime(2024, 12, 1)
KINDS = list(MAKERS)


def dataset(frame: pl.DataFrame, roles: dict[str, Any], *, horizon: int = 3, as_of: datetime = AS_OF) -> PanelDataset:
    schema = PanelSchema(freq="MS", horizon=horizon, lower=0.0, covariates=roles)
    columns = {name: FeatureColumn(role=role) for name, role in roles.items()}
    return PanelDataset(frame.sort(ID, TIME), schema, columns, as_of=as_of)


def long(series: dict[str, dict[str, Any]], *, horizon: int = 3) -> pl.DataFrame:
    """Columns of equal length per series, the last `horizon` rows of which lie past the as-of date."""
    freq = PanelSchema(freq="MS", horizon=1).freq
    parts = []
    for name, columns in series.items():
        count = len(columns[TARGET])
        times = [freq.shift(AS_OF, horizon - count + 1 + k) for k in range(count)]
        parts.append(
            pl.DataFrame({ID: [name] * count, TIME: times, **columns}, strict=False).with_columns(
                pl.col(TIME).cast(pl.Datetime("us")), pl.col(TARGET).cast(pl.Float64)
            )
        )
    return pl.concat(parts)


def field_panel(*, uptime: str = "past", scramble: bool = False, drop: tuple[str, ...] = ()) -> PanelDataset:
    """Eight generated producers over five years, the last three months in the future of the as-of date."""
    field = simulate_field(FieldConfig(producers=8, injectors=3, months=64, seed=3, start="2019-12-01"))
    roles = {"uptime": uptime, "wbhp": "past", "x_m": "static", "pad": "static"}
    roles = {name: role for name, role in roles.items() if name not in drop}
    frame = field.monthly.filter(pl.col("series_role") == "target").select(ID, TIME, TARGET, *roles)
    if scramble:
        late = pl.col(TIME) > AS_OF
        frame = frame.with_columns(
            pl.when(late).then(pl.col(name) * 7.7 + 3).otherwise(pl.col(name)).alias(name)
            for name in (TARGET, "wbhp", *(("uptime",) if uptime == "past" else ()))
        )
    plan = frame.select(ID, TIME, "uptime").drop_nulls() if uptime == "plan" else None
    data = dataset(frame, roles)
    return PanelDataset(data.frame, data.schema, data.columns, as_of=AS_OF, plan=plan)


def numbers(model: Forecaster, view: PanelView) -> np.ndarray:
    return model.predict(view).frame.select(QUANTILES).to_numpy()


@pytest.mark.parametrize("kind", KINDS)
def test_a_well_without_a_row_in_training_gets_a_forecast_near_its_level(kind: str) -> None:
    view = field_panel().view(AS_OF)
    new = view.series[0]
    without = PanelView(
        view.history.filter(pl.col(ID) != new),
        view.future.filter(pl.col(ID) != new),
        view.cutoff,
        view.schema,
        view.columns,
    )
    model = MAKERS[kind](**TINY).fit(without, seed=1)

    mine = model.predict(view).frame.filter(pl.col(ID) == new)

    known = view.history.filter((pl.col(ID) == new) & (pl.col(TARGET) > 0))[TARGET].tail(6)
    assert mine.height == 3
    assert 0.5 * known.min() < mine["q50"].min() <= mine["q50"].max() < 1.5 * known.max()


@pytest.mark.parametrize("kind", KINDS)
def test_scrambling_what_follows_the_cutoff_changes_nothing(kind: str) -> None:
    view, scrambled = field_panel().view(AS_OF), field_panel(scramble=True).view(AS_OF)

    one = MAKERS[kind](**TINY).fit(view, seed=1)
    two = MAKERS[kind](**TINY).fit(scrambled, seed=1)

    assert np.array_equal(numbers(one, view), numbers(two, scrambled))


def test_an_earlier_origin_of_the_training_panel_reads_nothing_that_came_later() -> None:
    """The window cut at a past origin out of the whole panel is the one that was seen on that day."""
    data = field_panel()
    model = WellMixer(**TINY).fit(data.view(AS_OF), seed=1)
    then = data.view(datetime(2024, 3, 1))
    now = data.view(AS_OF)
    whole = model._arrays(now, grid_of(now))
    seen, _, _ = model._asked(then)

    from models.nn.panel_windows import PanelWindows

    back = 9
    series = np.array([whole_row for whole_row in seen.series])
    cut = PanelWindows(whole, 12, series, np.full(series.size, whole.y.shape[1] - 1 - back))
    places = np.arange(series.size)
    for mine, theirs in zip(cut.batch(places).inputs, seen.batch(places).inputs, strict=True):
        assert (mine is None) == (theirs is None)
        if mine is not None and theirs is not None:
            np.testing.assert_allclose(mine.numpy(), theirs.numpy(), atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_renaming_the_wells_changes_nothing_but_the_names(kind: str) -> None:
    view = field_panel().view(AS_OF)
    names = view.history.get_column(ID).unique().sort().to_list()
    renamed = dict(zip(names, reversed([f"w{i}" for i in range(len(names))]), strict=True))

    def under_new_names(frame: pl.DataFrame) -> pl.DataFrame:
        return frame.with_columns(pl.col(ID).replace_strict(renamed)).sort(ID, TIME)

    other = PanelView(
        under_new_names(view.history), under_new_names(view.future), view.cutoff, view.schema, view.columns
    )

    mine = MAKERS[kind](**TINY).fit(view, seed=1).predict(view).frame
    theirs = MAKERS[kind](**TINY).fit(other, seed=1).predict(other).frame

    assert under_new_names(mine).select(ID, HORIZON, *QUANTILES).equals(theirs.select(ID, HORIZON, *QUANTILES))


def test_members_are_different_networks_and_their_mean_is_the_forecast() -> None:
    view = field_panel().view(AS_OF)
    both = WellMixer(**TINY, members=2).fit(view, seed=1)
    first = WellMixer(**TINY).fit(view, seed=1)

    from models.training.panel import predict_panel

    windows, series, level = both._asked(view)
    parts = [predict_panel(network, windows).numpy() for network in both.networks]

    assert len(both.networks) == 2
    assert not np.allclose(parts[0], parts[1], atol=1e-4)
    alone = first.networks[0].state_dict()
    assert all((value == alone[name]).all() for name, value in both.networks[0].state_dict().items())
    mean = np.sort((parts[0].astype(float) + parts[1]) / 2, axis=2) * level[:, None, None]
    order = np.argsort(series)
    assert np.allclose(numbers(both, view), np.maximum(mean[order].reshape(-1, 9), 0.0))


@pytest.mark.parametrize("kind", KINDS)
def test_panels_without_covariates_constant_dead_and_gappy_ones_get_finite_forecasts(kind: str) -> None:
    rng = np.random.default_rng(0)
    alive = (100 * rng.lognormal(0, 0.1, 43)).tolist()
    gappy = [None if i % 3 else value for i, value in enumerate(alive)]
    frame = long(
        {
            "alive": {TARGET: alive},
            "constant": {TARGET: [50.0] * 43},
            "dead": {TARGET: [0.0] * 43},
            "gappy": {TARGET: gappy},
            "late": {TARGET: [None] * 34 + [10.0, 12.0, 11.0, None, None, None, None, None, None]},
            "young": {TARGET: alive[:7]},
        }
    )
    view = dataset(frame, {}).view(AS_OF)

    forecast = MAKERS[kind](**{**TINY, "max_steps": 60}).fit(view, seed=1).forecast(view)

    assert forecast.left_out == {}
    values = forecast.prediction.frame
    assert np.isfinite(values.select(QUANTILES).to_numpy()).all()
    assert values.filter(pl.col(ID) == "constant")["q50"].is_between(25, 75).all()
    assert (values.filter(pl.col(ID) == "dead")["q50"] < 20).all()
    missing_now = {"late"}
    assert [(note.code, note.rows) for note in forecast.notes if "missing" in note.code] == [
        ("value_missing_at_cutoff", len(missing_now))
    ]


def test_a_panel_of_newborn_wells_is_learned_from_what_there_is() -> None:
    frame = long(
        {"a": {TARGET: [10.0, 11.0, 12.0, None, None, None]}, "b": {TARGET: [5.0, 5.0, 6.0, None, None, None]}}
    )
    view = dataset(frame, {}).view(AS_OF)

    assert np.isfinite(numbers(WellMixer(**TINY).fit(view, seed=1), view)).all()


def test_a_panel_with_nothing_to_learn_from_is_refused_with_a_remedy() -> None:
    view = dataset(long({"a": {TARGET: [10.0, None, None, None]}}), {}).view(AS_OF)

    with pytest.raises(TrainingError, match="longer history"):
        WellMixer(**TINY).fit(view, seed=1)


def test_the_level_and_the_rate_are_those_of_producing_months() -> None:
    y = [80.0, 100.0, 50.0, 0.0, 0.0, None, 2.0] + [None] * 3
    uptime = [0.8, 1.0, 0.5, 0.0, 0.0, None, 0.02] + [None] * 3
    view = dataset(long({"a": {TARGET: y, "uptime": uptime}}), {"uptime": "past"}).view(AS_OF)
    model = WellMixer(**TINY)
    model.floor = 1.0
    grid = grid_of(view)

    rates, levels = model._rates(view, grid), model._levels(view, grid)

    assert rates[0, :3].tolist() == pytest.approx([100.0, 100.0, 100.0])
    assert np.isnan(rates[0, 3:]).all(), "shut in, missing or hardly on stream"
    assert levels[0].tolist() == pytest.approx([100.0] * 7)


def test_without_an_uptime_the_rate_is_the_target_where_the_well_produces() -> None:
    view = dataset(long({"a": {TARGET: [5.0, 0.0, 7.0] + [None] * 3}}), {}).view(AS_OF)

    rates = WellMixer(**TINY)._rates(view, grid_of(view))

    assert np.array_equal(rates, [[5.0, np.nan, 7.0]], equal_nan=True)


def test_a_planned_stop_lowers_the_forecast_and_an_unplanned_panel_has_no_exposure() -> None:
    data = field_panel(uptime="plan")
    view = data.view(AS_OF)
    model = WellMixer(**{**TINY, "max_steps": 150}).fit(view, seed=1)
    stopped = PanelView(
        view.history,
        view.future.with_columns(pl.lit(0.3).alias("uptime")),
        view.cutoff,
        view.schema,
        view.columns,
    )

    usual, down = model.predict(view).frame["q50"].sum(), model.predict(stopped).frame["q50"].sum()

    assert down < 0.7 * usual
    past = field_panel().view(AS_OF)
    assert WellMixer(**TINY)._exposure(past, grid_of(past)) is None


def test_blocks_that_restate_the_window_and_unreadable_columns_are_left_out() -> None:
    rng = np.random.default_rng(1)
    y = (100 * rng.lognormal(0, 0.1, 43)).tolist()
    noise = rng.normal(size=43).tolist()
    frame = long(
        {
            name: {
                TARGET: y,
                "lag_1": noise,
                "level": noise,
                "flat": [1.0] * 43,
                "sparse": [1.0, 2.0] + [None] * 41,
                "zone": [name] * 43,
            }
            for name in ("a", "b")
        }
    )
    data = dataset(frame, {"level": "past", "flat": "past", "sparse": "past", "zone": "static"})
    columns = {**data.columns, "lag_1": FeatureColumn(role="past", scaled=True, block="lags")}
    view = PanelDataset(data.frame, data.schema, columns, as_of=AS_OF).view(AS_OF)

    model = WellMixer(**TINY).fit(view, seed=1)

    assert [column.label for column in model.columns["past"]] == ["level"]
    assert [column.label for column in model.columns["static"]] == ["zone=a", "zone=b"]
    bare = WellMixer(**TINY, covariates=False).fit(view, seed=1)
    assert all(not its for its in bare.columns.values())
    assert [c.label for c in WellMixer(**TINY, skip_blocks=()).fit(view, seed=1).columns["past"]] == ["level", "lag_1"]


def test_a_value_of_a_text_column_that_training_never_saw_is_no_error() -> None:
    view = field_panel().view(AS_OF)
    model = WellMixer(**TINY).fit(view, seed=1)
    moved = PanelView(
        view.history.with_columns(pl.lit("elsewhere").alias("pad")),
        view.future,
        view.cutoff,
        view.schema,
        view.columns,
    )

    assert np.isfinite(numbers(model, moved)).all()


def test_a_view_without_a_column_of_the_fit_is_refused_by_name() -> None:
    model = WellMixer(**TINY).fit(field_panel().view(AS_OF), seed=1)

    with pytest.raises(TrainingError, match="wbhp"):
        model.predict(field_panel(drop=("wbhp",)).view(AS_OF))


def test_a_budget_is_only_felt_when_it_is_hit() -> None:
    view = field_panel().view(AS_OF)
    free = WellMixer(**{**TINY, "max_seconds": None}).fit(view, seed=1)
    ample = WellMixer(**{**TINY, "max_seconds": 1e5}).fit(view, seed=1)
    tight = WellMixer(**{**TINY, "max_steps": 10_000, "epochs": 10_000, "max_seconds": 0.3, "members": 2}).fit(
        view, seed=1
    )

    assert np.array_equal(numbers(free, view), numbers(ample, view))
    assert (free.stopped, tight.stopped) == (("max_steps",), ("budget", "budget"))
    assert np.isfinite(numbers(tight, view)).all()


def test_patience_learns_from_windows_whose_targets_end_before_the_first_judged_origin() -> None:
    view = field_panel().view(AS_OF)
    model = WellMixer(**{**TINY, "patience": 1, "valid_steps": 4}).fit(view, seed=1)
    grid = grid_of(view)
    windows = model._training_windows(model._arrays(view, grid))

    train, valid = model._apart(windows)

    assert valid is not None
    assert set(valid.origin) == set(range(grid.width - 7, grid.width - 1))
    assert train.origin.max() + 3 == valid.origin.min()
    assert model.reports[0].best_epoch is not None


def test_attention_tells_a_feature_and_a_lag_weight_per_series_that_sum_to_one() -> None:
    view = field_panel().view(AS_OF)
    model = AttentionMixer(**TINY, members=2).fit(view, seed=1)

    weights = model.attention(view)

    assert weights.columns == [ID, "kind", "name", "weight"]
    totals = weights.group_by(ID, "kind").agg(pl.col("weight").sum(), pl.len())
    assert totals["weight"].to_list() == pytest.approx([1.0] * totals.height, abs=1e-5)
    assert set(totals.filter(pl.col("kind") == "feature")["len"]) == {4}
    assert set(totals.filter(pl.col("kind") == "lag")["len"]) == {12}
    assert set(weights.filter(pl.col("kind") == "feature")["name"]) == {"y", "producing_rate", "uptime", "wbhp"}
    assert sorted(weights[ID].unique()) == view.series
    assert weights.equals(model.attention(view)), "reading it changes nothing"


def test_attention_survives_saving_and_asks_for_a_fitted_model(tmp_path: Path) -> None:
    view = field_panel().view(AS_OF)
    model = AttentionMixer(**TINY).fit(view, seed=1)
    model.save(tmp_path)

    assert AttentionMixer.load(tmp_path).attention(view).equals(model.attention(view))
    with pytest.raises(ConfigError, match="not fitted"):
        AttentionMixer(**TINY).attention(view)


def planted(seed: int, *, driven: bool) -> PanelDataset:
    """Twelve wells whose next month follows column `b` two months back, or nothing that is there to see."""
    rng = np.random.default_rng(seed)
    series = {}
    for i in range(12):
        columns = {name: rng.normal(size=81) for name in ("a", "b", "c")}
        driver = columns["b"] if driven else rng.normal(size=81)
        y = np.ones(81)
        y[3:] += 0.2 * driver[:-3]
        series[f"w{i:02d}"] = {TARGET: (50 + 20 * i) * (y + 0.02 * rng.normal(size=81)), **columns}
    return dataset(long(series, horizon=1), {"a": "past", "b": "past", "c": "past"}, horizon=1)


PLANTED: dict[str, Any] = {
    "input_size": 8,
    "hidden": 8,
    "blocks": 1,
    "epochs": 15,
    "lr": 1e-2,
    "weight_decay": 1e-2,
    "batch_size": 64,
    "dropout": 0.0,
    "producing_rate": False,
}


@pytest.mark.parametrize("seed", [4, 5])
def test_attention_points_at_the_column_and_the_month_that_drive_the_wells_and_at_none_where_none_does(
    seed: int,
) -> None:
    """The target's own share is left aside: the level that windows are scaled by makes it informative by itself."""
    sizes = {**PLANTED, "lr": 2e-2, "attention_hidden": 16, "attention_heads": 2}

    def attended(driven: bool) -> tuple[float, dict[str, float]]:
        """How far column `b` stands out among the covariates, and the weights of the lags."""
        view = planted(seed, driven=driven).view(AS_OF)
        means = (
            AttentionMixer(**sizes).fit(view, seed=1).attention(view).group_by("kind", "name").agg(pl.mean("weight"))
        )
        weights = {(kind, name): weight for kind, name, weight in means.iter_rows()}
        share = weights["feature", "b"] / max(weights["feature", "a"], weights["feature", "c"])
        return share, {name: weight for (kind, name), weight in weights.items() if kind == "lag"}

    (share, lags), (idle_share, idle_lags) = attended(True), attended(False)

    assert share > 2
    assert lags["2"] > 1.5 * max(weight for name, weight in lags.items() if name != "2")
    assert idle_share < 0.7 * share
    assert idle_lags["2"] < 0.7 * lags["2"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_planted_rule_is_learned_better_than_the_naive_methods_and_noise_is_not(kind: str) -> None:
    def errors(driven: bool) -> tuple[float, float]:
        data = planted(6, driven=driven)
        first = datetime(2023, 12, 1)
        views = [data.view(data.schema.freq.shift(first, k)) for k in range(12)]
        truth = data.truth()

        def mae(model: Forecaster) -> float:
            model.fit(views[0], seed=1)
            frame = pl.concat([model.predict(view).frame for view in views]).join(truth, on=[ID, TIME])
            return float((frame["q50"] - frame[TARGET]).abs().mean())  # type: ignore[arg-type]

        return mae(MAKERS[kind](**PLANTED)), min(mae(NaiveLast()), mae(NaiveMean3()))

    mine, naive = errors(driven=True)
    idle, idle_naive = errors(driven=False)

    assert mine < 0.5 * naive
    assert idle > 0.7 * idle_naive, "skill where there is nothing to know would be a leak"


def test_a_bundle_with_a_foreign_network_is_refused_with_a_remedy(tmp_path: Path) -> None:
    view = field_panel().view(AS_OF)
    WellMixer(**TINY).fit(view, seed=1).save(tmp_path / "one")
    WellMixer(**{**TINY, "hidden": 4}).fit(view, seed=1).save(tmp_path / "other")
    (tmp_path / "one" / "network.safetensors").write_bytes((tmp_path / "other" / "network.safetensors").read_bytes())

    with pytest.raises(RegistryError, match="sha256"):
        WellMixer.load(tmp_path / "one")
    (tmp_path / "one" / "network.safetensors").write_bytes(b"nothing")
    with pytest.raises(RegistryError, match="sha256"):
        WellMixer.load(tmp_path / "one")


@pytest.mark.parametrize(
    ("maker", "params", "named"),
    [
        (MultiScaleMixer, {"scales": (1, 1)}, "scales"),
        (MultiScaleMixer, {"scales": (1, 24), "input_size": 12}, "scales no larger than input_size"),
        (AttentionMixer, {"attention_hidden": 10, "attention_heads": 4}, "attention_heads=4"),
        (WellMixer, {"members": 0}, "members=0"),
    ],
)
def test_parameters_that_make_no_network_are_refused_by_name(
    maker: Callable[..., Mixer], params: dict[str, Any], named: str
) -> None:
    with pytest.raises(ConfigError, match=named):
        maker(**params)
