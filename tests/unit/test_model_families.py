"""What is particular to each family; common behaviour is asked in tests/contract/test_forecasters.py."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from models.base import Answer, Forecaster
from models.catalog import load_model
from models.families._template import Drift
from models.families.boosting import LightGBMGlobal, _interpolate
from models.families.naive import NaiveLast, NaiveMean3, NaiveSeasonal
from models.families.neural import Nhits, Tsmixerx
from models.families.statistical import Ets, Ses, Theta
from nightcast.contracts.errors import ConfigError, RegistryError, TrainingError
from nightcast.contracts.panel import PanelDataset, PanelView
from nightcast.contracts.schema import FeatureColumn, PanelSchema

CUTOFF = datetime(2022, 12, 1)


def view_of(
    series: Mapping[str, list[float | None]],
    *,
    horizon: int = 3,
    freq: str = "MS",
    lower: float | None = 0.0,
    columns: Mapping[str, FeatureColumn] | None = None,
    **inputs: Mapping[str, list[Any]],
) -> PanelView:
    """Series that all end at the cutoff; an input column maps series to its history, plus `horizon` planned values."""
    schema = PanelSchema(freq=freq, horizon=horizon, lower=lower)
    parts = []
    for name, values in sorted(series.items()):
        times = [schema.freq.shift(CUTOFF, k - len(values) + 1) for k in range(len(values) + horizon)]
        data: dict[str, Any] = {"unique_id": [name] * len(times), "ds": times, "y": [*values, *[None] * horizon]}
        for column, its in inputs.items():
            data[column] = [*its[name], *[None] * (len(times) - len(its[name]))]
        parts.append(pl.DataFrame(data, schema_overrides={"ds": pl.Datetime("us"), "y": pl.Float64}, strict=False))
    data_set = PanelDataset(pl.concat(parts), schema, columns or {}, as_of=CUTOFF, retire_after=24)
    return data_set.view(CUTOFF)


def medians(model: Forecaster, view: PanelView, series: str) -> list[float]:
    return model.predict(view).frame.filter(pl.col("unique_id") == series)["q50"].to_list()


def steady(count: int = 6, rows: int = 40) -> dict[str, list[float | None]]:
    rng = np.random.default_rng(0)
    return {f"w{i}": list((10.0 ** (i % 3)) * (10 + rng.normal(0, 1, rows))) for i in range(count)}


# -- naive ----------------------------------------------------------------------------------------------------------


def test_last_and_mean_of_three_skip_what_is_missing() -> None:
    view = view_of({"a": [1.0, 2.0, 6.0, None, 4.0, None]})

    assert medians(NaiveLast().fit(view, seed=0), view, "a") == [4.0, 4.0, 4.0]
    assert medians(NaiveMean3().fit(view, seed=0), view, "a") == [4.0, 4.0, 4.0]


def test_the_seasonal_naive_repeats_the_same_months_and_looks_back_over_a_missing_one() -> None:
    first = [float(month) for month in range(1, 13)]
    second = [month + 100 for month in first]
    view = view_of({"a": [*first, *second[:1], None, *second[2:]]}, horizon=14)

    model = NaiveSeasonal().fit(view, seed=0)

    expected = [101.0, 2.0, *second[2:]]
    assert medians(model, view, "a") == [*expected, *expected[:2]]


def test_the_seasonal_naive_falls_back_to_the_last_value_when_history_is_shorter_than_the_season() -> None:
    view = view_of({"a": [5.0, 7.0]})

    assert medians(NaiveSeasonal().fit(view, seed=0), view, "a") == [7.0, 7.0, 7.0]


def test_naive_intervals_cover_about_four_of_five_new_values() -> None:
    rng = np.random.default_rng(4)
    walks = {f"w{i}": list(500 + rng.normal(0, 5, 61).cumsum()) for i in range(40)}
    past = view_of({name: values[:-1] for name, values in walks.items()}, horizon=1)

    frame = NaiveLast().fit(past, seed=0).predict(past).frame.sort("unique_id")

    actual = np.array([walks[name][-1] for name in frame["unique_id"]])
    inside = (actual >= frame["q10"].to_numpy()) & (actual <= frame["q90"].to_numpy())
    assert 0.65 <= inside.mean() <= 0.95


def test_a_panel_of_one_value_and_of_zeros_still_gets_a_naive_forecast() -> None:
    for values in ([3.0], [0.0, 0.0, 0.0]):
        view = view_of({"a": values})

        frame = NaiveLast().fit(view, seed=0).predict(view).frame

        assert frame["q50"].to_list() == [values[-1]] * 3
        assert (frame["q90"] > frame["q50"]).all()


# -- statistical ----------------------------------------------------------------------------------------------------


def test_a_series_the_library_fails_on_is_left_out_by_name_and_the_others_stand(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    view = view_of(steady())
    model = Ets().fit(view, seed=0)
    expected = model.predict(view).frame.filter(pl.col("unique_id") != "w2")
    genuine = Ets._points

    def failing(self: Ets, y: np.ndarray, horizon: int) -> Any:
        if y[-1] == view.history.filter(pl.col("unique_id") == "w2")["y"][-1]:
            raise ZeroDivisionError("singular")
        return genuine(self, y, horizon)

    monkeypatch.setattr(Ets, "_points", failing)
    forecast = model.forecast(view)

    assert forecast.left_out == {"w2": "Ets failed on it (ZeroDivisionError: singular)"}
    assert forecast.prediction.frame.equals(expected)


def test_gaps_are_filled_forward_and_counted_but_not_those_before_the_first_value() -> None:
    series = steady()
    series["w0"] = [None, None, *series["w0"][2:20], None, None, None, *series["w0"][23:]]
    view = view_of(series)

    notes = Ses().fit(view, seed=0).forecast(view).notes

    assert [(note.code, note.rows) for note in notes] == [("gaps_filled_forward", 3)]


def test_months_missing_at_the_end_are_bridged_by_forecasting_further() -> None:
    line: list[float | None] = [100.0 + 5 * k for k in range(40)]
    whole = view_of({"a": line})
    late = view_of({"a": [*line[:-2], None, None]})
    model = Theta().fit(whole, seed=0)

    reached, bridged = medians(model, whole, "a"), medians(model, late, "a")

    assert bridged == pytest.approx(reached, rel=0.02)
    assert reached[2] > reached[0] > 295


def test_short_series_are_left_out_by_the_capabilities() -> None:
    view = view_of({**steady(), "young": [1.0, 2.0, 3.0]})

    left_out = Ets().fit(view, seed=0).left_out(view)

    assert left_out == {"young": "3 known rows at the cutoff, Ets needs 10"}


# -- boosting -------------------------------------------------------------------------------------------------------

SMALL = {
    "levels": (0.1, 0.5, 0.9),
    "feature_share": 0.7,
    "rounds": 30,
    "learning_rate": 0.2,
    "min_leaf_rows": 5,
    "windows": (3,),
    "lags": 3,
}


def test_lightgbm_follows_the_plan_of_the_target_month() -> None:
    rng = np.random.default_rng(2)
    uptime = {f"w{i}": list(rng.choice([0.5, 1.0], 63)) for i in range(8)}
    series: dict[str, list[float | None]] = {n: [100.0 * u for u in its[:60]] for n, its in uptime.items()}
    columns = {"uptime": FeatureColumn(role="plan", block="plan_feature")}
    view = view_of(series, columns=columns, uptime=uptime)

    frame = (
        LightGBMGlobal(**SMALL, level_weight=0.0)
        .fit(view, seed=0)
        .predict(view)
        .frame.join(view.future.select("unique_id", "horizon", "uptime"), on=["unique_id", "horizon"])
    )

    open_half = frame.filter(pl.col("uptime") == 0.5)["q50"].mean()
    open_full = frame.filter(pl.col("uptime") == 1.0)["q50"].mean()
    assert open_half == pytest.approx(50, rel=0.15)
    assert open_full == pytest.approx(100, rel=0.15)


def test_lightgbm_learns_from_a_static_text_column_and_bears_a_value_it_never_saw() -> None:
    rng = np.random.default_rng(3)
    series, zone = {}, {}
    for i in range(24):
        kind = "up" if i % 2 else "down"
        # Values alternate, so that only the zone tells whether the next one rises or falls.
        series[f"w{i:02d}"] = list(100 * (1.06 if i % 2 else 0.94) ** np.arange(40) * rng.lognormal(0, 0.2, 40))
        zone[f"w{i:02d}"] = [kind] * 43
    columns = {"zone": FeatureColumn(role="static")}
    view = view_of(series, columns=columns, zone=zone)
    model = LightGBMGlobal(**SMALL).fit(view, seed=0)

    strange = view_of(series, columns=columns, zone={name: ["sideways"] * 43 for name in zone})
    swapped = view_of(
        series, columns=columns, zone={n: ["down" if z[0] == "up" else "up"] * 43 for n, z in zone.items()}
    )

    usual = model.predict(view).frame
    assert not model.predict(swapped).frame.equals(usual)
    assert model.predict(strange).frame.height == usual.height


def test_lightgbm_learns_nothing_from_a_label_after_the_cutoff_of_training(monkeypatch: pytest.MonkeyPatch) -> None:
    view = view_of(steady())
    later = replace(
        view, history=view.history.filter(pl.col("ds") <= datetime(2022, 6, 1)), cutoff=datetime(2022, 6, 1)
    )
    model = LightGBMGlobal(**SMALL)
    grid_seen: list[int] = []
    genuine = LightGBMGlobal._rows

    def watching(self: LightGBMGlobal, *args: Any) -> Any:
        grid, chosen, origin, horizon = args[1], args[3], args[5], args[6]
        grid_seen.append(int((origin[chosen] + horizon).max() - (grid.width - 1)))
        return genuine(self, *args)

    monkeypatch.setattr(LightGBMGlobal, "_rows", watching)
    model.fit(later, seed=0)

    assert grid_seen
    assert max(grid_seen) <= 0


def test_one_model_per_horizon_serves_every_horizon() -> None:
    view = view_of(steady())

    model = LightGBMGlobal(**SMALL, per_horizon=True).fit(view, seed=0)

    assert len(model.boosters) == 3 * 3
    assert model.predict(view).frame.height == 6 * 3


def test_untrained_levels_lie_on_the_line_between_trained_ones() -> None:
    values = _interpolate(np.array([[0.0, 4.0, 12.0]]), (0.1, 0.5, 0.9))

    np.testing.assert_allclose(values[0], [0, 1, 2, 3, 4, 6, 8, 10, 12])


@pytest.mark.parametrize("levels", [(0.1, 0.9), (0.9, 0.5), (0.05, 0.5)])
def test_levels_that_cannot_be_interpolated_are_refused(levels: tuple[float, ...]) -> None:
    with pytest.raises(ConfigError, match="rising levels"):
        LightGBMGlobal(levels=levels)


def test_lightgbm_says_which_input_column_a_view_lacks() -> None:
    zone = {name: ["a"] * 43 for name in steady()}
    view = view_of(steady(), columns={"zone": FeatureColumn(role="static")}, zone=zone)
    model = LightGBMGlobal(**SMALL).fit(view, seed=0)

    with pytest.raises(TrainingError, match=r"lacks the input columns \['zone'\]"):
        model.predict(view_of(steady()))


def test_lightgbm_works_on_the_views_features_alone() -> None:
    lag = {name: [None, *values[:-1]] for name, values in steady().items()}
    columns = {"lag_feature": FeatureColumn(role="past", scaled=True, block="lags")}
    view = view_of(steady(), columns=columns, lag_feature=lag)

    model = LightGBMGlobal(**SMALL, own_lags=False).fit(view, seed=0)

    assert "lag_feature" in model.names
    assert "lag_0" not in model.names
    assert model.predict(view).frame.height == 18


# -- neural ---------------------------------------------------------------------------------------------------------

TINY = {"max_steps": 3, "hidden": 8, "input_size": 12, "windows_batch_size": 8}


def test_a_column_with_many_gaps_a_constant_one_and_a_text_are_no_network_inputs() -> None:
    rng = np.random.default_rng(1)
    names = list(steady())
    columns = {
        "good": FeatureColumn(role="past"),
        "gappy": FeatureColumn(role="past"),
        "constant": FeatureColumn(role="past"),
        "zone": FeatureColumn(role="static"),
    }
    view = view_of(
        steady(),
        columns=columns,
        good={n: list(rng.normal(size=40)) for n in names},
        gappy={n: [*[None] * 30, *rng.normal(size=10)] for n in names},
        constant={n: [1.0] * 40 for n in names},
        zone={n: ["a"] * 43 for n in names},
    )

    model = Nhits(**TINY).fit(view, seed=0)

    assert {role: [c.name for c in its] for role, its in model.channels.items()} == {
        "past": ["good"],
        "plan": [],
        "static": [],
    }


def test_only_the_best_filled_columns_up_to_the_limit_are_network_inputs() -> None:
    rng = np.random.default_rng(1)
    names = list(steady())
    gaps = {"a": 8, "b": 0, "c": 4}
    inputs = {c: {n: [*[None] * k, *rng.normal(size=40 - k)] for n in names} for c, k in gaps.items()}
    view = view_of(steady(), columns={c: FeatureColumn(role="past") for c in gaps}, **inputs)

    model = Nhits(**TINY, max_exog=2).fit(view, seed=0)

    assert [channel.name for channel in model.channels["past"]] == ["b", "c"]


def test_the_input_window_shrinks_to_a_short_history() -> None:
    view = view_of({name: values[:20] for name, values in steady().items()})

    model = Nhits(**{**TINY, "input_size": 48}).fit(view, seed=0)

    assert model.input_size == 17
    assert model.predict(view).frame.height == 18


def test_masked_fills_bear_no_weight_in_training() -> None:
    """A stretch of missing values leaves what is learnt close to the level, though the fill is far from it."""
    view = view_of({name: [1e-6 * (values[0] or 0), *[None] * 25, *values[26:]] for name, values in steady().items()})
    model = Nhits(max_steps=150, hidden=16, input_size=12, windows_batch_size=32, learning_rate=5e-3)

    frame = model.fit(view, seed=0).predict(view).frame

    level = view.history.group_by("unique_id").agg(pl.col("y").tail(12).mean().alias("level"))
    ratio = frame.join(level, on="unique_id").select(pl.col("q50") / pl.col("level")).to_series()
    assert ratio.is_between(0.7, 1.3).all()


def test_tsmixerx_gives_each_series_its_own_numbers_though_one_is_missing_from_the_view() -> None:
    view = view_of(steady())
    model = Tsmixerx(**{**TINY, "max_steps": 60}).fit(view, seed=0)
    without = replace(
        view,
        history=view.history.filter(pl.col("unique_id") != "w1"),
        future=view.future.filter(pl.col("unique_id") != "w1"),
    )

    frame = model.predict(without).frame

    assert sorted(set(frame["unique_id"])) == ["w0", "w2", "w3", "w4", "w5"]
    for name, size in (("w0", 10), ("w2", 1000), ("w4", 100)):
        assert frame.filter(pl.col("unique_id") == name)["q50"].mean() == pytest.approx(size, rel=0.6)


def test_tsmixerx_de_normalises_every_series_with_its_own_statistics() -> None:
    """neuralforecast 3.3's reversible normalisation mixes series up under several quantiles; ours must not use it."""
    view = view_of(steady())

    assert Tsmixerx(**TINY).fit(view, seed=0).engine.models[0].revin is False


def test_a_network_bundle_with_a_foreign_file_is_refused(tmp_path: Path) -> None:
    view = view_of(steady())
    Nhits(**TINY).fit(view, seed=0).save(tmp_path)
    (tmp_path / "network" / "dataset.pkl").write_bytes(b"\x80\x04.")

    with pytest.raises(RegistryError, match=r"dataset\.pkl"):
        load_model(tmp_path)


def test_a_network_bundle_that_was_cut_short_is_refused(tmp_path: Path) -> None:
    view = view_of(steady())
    Nhits(**TINY).fit(view, seed=0).save(tmp_path)
    file = next((tmp_path / "network").glob("network*.safetensors"))
    file.write_bytes(file.read_bytes()[:-100])

    with pytest.raises(RegistryError, match="cannot be read"):
        load_model(tmp_path)


def test_fitting_a_network_leaves_no_file_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    view = view_of(steady())

    Nhits(**TINY).fit(view, seed=0).predict(view)

    assert list(tmp_path.iterdir()) == []


def test_a_network_is_quiet(capfd: pytest.CaptureFixture[str]) -> None:
    view = view_of(steady())

    Nhits(**TINY).fit(view, seed=0).predict(view)

    heard = capfd.readouterr()
    assert (heard.out, heard.err) == ("", "")


# -- template -------------------------------------------------------------------------------------------------------


def test_the_template_is_a_whole_forecaster(tmp_path: Path) -> None:
    line: list[float | None] = [10.0 + 2 * k for k in range(30)]
    view = view_of({"a": line, "b": [None, *line[1:]]})

    model = Drift(damping=1.0, window=6).fit(view, seed=0)
    model.save(tmp_path)

    assert medians(model, view, "a") == pytest.approx([70.0, 72.0, 74.0])
    assert Drift.load(tmp_path).predict(view).frame.equals(model.predict(view).frame)
    with pytest.raises(RegistryError, match="_template:Drift"):
        load_model(tmp_path)


# -- the base class's checks ----------------------------------------------------------------------------------------


class Careless(Forecaster):
    """Answers with one horizon too few, or for a series nobody asked for."""

    change: Any = staticmethod(lambda frame: frame)

    def _fit(self, view: PanelView, *, seed: int) -> None:
        self.inner = NaiveLast().fit(view, seed=seed)

    def _predict(self, view: PanelView) -> Answer:
        return Answer(self.change(self.inner._predict(view).frame))

    def _write(self, folder: Path) -> dict[str, Any]:
        return {}

    def _read(self, folder: Path, state: dict[str, Any]) -> None:
        """Nothing to read."""


def test_an_answer_that_lacks_a_row_or_adds_one_is_refused_by_series_and_horizon() -> None:
    view = view_of({"a": [1.0, 2.0], "b": [1.0, 3.0]})
    model = Careless().fit(view, seed=0)

    model.change = lambda frame: frame.filter((pl.col("unique_id") != "b") | (pl.col("horizon") != 2))
    with pytest.raises(TrainingError, match="lacks 1 rows, first series 'b' horizon 2"):
        model.predict(view)

    model.change = lambda frame: pl.concat([frame, frame.head(1).with_columns(unique_id=pl.lit("z"))])
    with pytest.raises(TrainingError, match="was not asked for 1 rows, first series 'z' horizon 1"):
        model.predict(view)


def test_forecasts_below_the_bound_are_raised_to_it_and_counted() -> None:
    falling: dict[str, list[float | None]] = {"a": [50.0 - 5 * k for k in range(10)]}

    bounded = Drift(damping=1.0, window=1).fit(view_of(falling), seed=0).forecast(view_of(falling))
    free = Drift(damping=1.0, window=1).fit(view_of(falling, lower=None), seed=0).predict(view_of(falling, lower=None))

    assert bounded.prediction.frame.select(pl.min_horizontal("q10", "q50").min()).item() == 0
    assert [note.code for note in bounded.notes] == ["clipped_at_lower"]
    assert free.frame["q50"].to_list() == [0.0, -5.0, -10.0]


def broken_views() -> dict[str, tuple[PanelView, str]]:
    view = view_of({"a": [1.0, 2.0, 3.0], "b": [1.0, 2.0, 3.0]})
    history = view.history
    after = history.with_columns(ds=pl.col("ds").dt.offset_by("1mo"))
    return {
        "duplicate": (replace(view, history=pl.concat([history.head(1), history])), "series 'a' steps from"),
        "gap": (replace(view, history=history.filter(pl.int_range(pl.len()) != 1)), "series 'a' steps from"),
        "order": (replace(view, history=history.reverse()), "steps from"),
        "series order": (
            replace(view, history=pl.concat([history.tail(3), history.head(3)])),
            "series 'a' steps from",
        ),
        "future rows": (replace(view, history=after), "after the cutoff"),
        "infinite": (replace(view, history=history.with_columns(y=pl.lit(float("inf")))), "holds inf"),
        "column": (replace(view, columns={"x": FeatureColumn(role="past")}), r"lacks the columns \['x'\]"),
    }


@pytest.mark.parametrize("fault", sorted(broken_views()))
def test_a_view_that_breaks_the_contract_of_panels_is_refused(fault: str) -> None:
    view, message = broken_views()[fault]

    with pytest.raises(TrainingError, match=message):
        NaiveLast().fit(view, seed=0)


def test_a_view_without_a_known_value_is_refused() -> None:
    view = view_of({"a": [1.0, 2.0]})

    with pytest.raises(TrainingError, match="without one known 'y'"):
        NaiveLast().fit(replace(view, history=view.history.with_columns(y=pl.lit(None, pl.Float64))), seed=0)


def test_a_model_refuses_another_horizon_and_an_unfitted_one_refuses_to_predict() -> None:
    view = view_of({"a": [1.0, 2.0]})

    with pytest.raises(ConfigError, match="not fitted"):
        NaiveLast().predict(view)
    with pytest.raises(ConfigError, match="horizon 3 at frequency 'MS'"):
        NaiveLast().fit(view, seed=0).predict(view_of({"a": [1.0, 2.0]}, horizon=4))


def test_nobody_to_forecast_is_an_empty_answer() -> None:
    view = view_of({"a": [1.0, 2.0]})
    model = NaiveLast().fit(view, seed=0)

    assert model.predict(replace(view, future=view.future.clear())).frame.height == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"target": "os:system"}, "names the class 'os:system'"),
        ({"version": 99}, "layout 99"),
        ({"state": {}}, "KeyError"),
    ],
)
def test_a_bundle_that_is_not_ours_is_refused(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    view = view_of({"a": [1.0, 2.0]})
    NaiveLast().fit(view, seed=0).save(tmp_path)
    file = tmp_path / "model.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))

    with pytest.raises(RegistryError, match=message):
        load_model(tmp_path)


def test_a_folder_without_a_bundle_and_one_that_was_cut_short_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RegistryError, match=r"no readable model\.json"):
        load_model(tmp_path)
    (tmp_path / "model.json").write_text('{"target": "models.fam')
    with pytest.raises(RegistryError, match=r"no readable model\.json"):
        load_model(tmp_path)


def test_a_boosting_bundle_cannot_reach_outside_its_folder(tmp_path: Path) -> None:
    view = view_of(steady())
    LightGBMGlobal(**SMALL).fit(view, seed=0).save(tmp_path / "bundle")
    file = tmp_path / "bundle" / "model.json"
    facts = json.loads(file.read_text())
    facts["state"]["learnt"]["boosters"] = ["../secret.txt"]
    file.write_text(json.dumps(facts))

    with pytest.raises(RegistryError, match="secret"):
        load_model(tmp_path / "bundle")
