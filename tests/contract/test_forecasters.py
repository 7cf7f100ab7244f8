"""Every forecaster of the catalog answers the same questions; a new entry is asked them without a new test."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from models.base import Forecaster
from models.catalog import FORECASTERS, load_model, make_forecaster
from nightcast.contracts.columns import HORIZON, ID, QUANTILES, TARGET, TIME
from nightcast.contracts.errors import ConfigError
from nightcast.contracts.panel import PanelDataset, PanelView
from nightcast.contracts.recipe import PRESETS
from nightcast.contracts.schema import FeatureColumn, PanelSchema

# Pretrained members need weights to be fitted: test_foundation.py asks them the same with tiny ones. Of entries that
# are one class with another formula in it, one stands for all.
ALIKE = {"arps_exponential", "arps_harmonic", "arps_modified", "arps_residual"}
NAMES = sorted(name for name, entry in FORECASTERS.items() if entry.family != "foundation" and name not in ALIKE)
ROOT = Path(__file__).parents[2]
AS_OF = datetime(2023, 12, 1)

# How far the answer may be from exact proportionality, as a share of the series' level.
SCALING = {"naive": 1e-9, "statistical": 1e-3, "boosting": 1e-6, "perceptron": 1e-4, "physics": 1e-3, "neural": 1e-4}


def panel(freq: str = "MS", horizon: int = 4, steps: int = 60, *, times: float = 1.0) -> PanelDataset:
    """Six series: plain, with gaps, with zeros, all zero at the end, short, ended; covariates of each role.

    The data run `horizon` steps past the cutoff that the tests use, so that there is a future to scramble.
    """
    rng = np.random.default_rng(7)
    schema = PanelSchema(
        freq=freq, horizon=horizon, lower=0.0, covariates={"wbhp": "past", "uptime": "plan", "zone": "static"}
    )
    first = schema.freq.shift(AS_OF, 1 - steps)
    ends = {"ended": steps - 20}
    starts = {"short": steps - horizon - 5}
    parts = []
    for i, name in enumerate(("ended", "gaps", "plain", "short", "stopped", "zeros")):
        start, end = starts.get(name, 0), ends.get(name, steps)
        t = np.arange(start, end)
        uptime = np.clip(rng.normal(0.9, 0.1, t.size), 0.2, 1.0)
        pressure = rng.normal(50, 5, t.size)
        drive = 1 + 0.04 * (np.roll(pressure, 1) - 50)
        y = times * 100 * (i + 1) * np.exp(-0.01 * t) * uptime * drive * rng.lognormal(0, 0.05, t.size)
        if name == "zeros":
            y[rng.random(t.size) < 0.2] = 0.0
        if name == "stopped":
            y[-horizon - 15 :] = 0.0
        values: list[float | None] = list(y)
        if name == "gaps":
            for gap in (3, 10, 11, 12, 30, steps - horizon - 2):
                values[gap] = None
        # The grid runs past a series' end until it is retired, as prepared panels do.
        over = max(0, min(12 + horizon, steps + horizon - end))
        whole = t.size + over
        parts.append(
            pl.DataFrame(
                {
                    ID: [name] * whole,
                    TIME: [schema.freq.shift(first, start + k) for k in range(whole)],
                    TARGET: values + [None] * over,
                    "wbhp": [*pressure, *[None] * over],
                    "uptime": [*uptime, *[None] * over],
                    "rate_mean": [*(times * np.abs(rng.normal(100, 10, t.size))), *[None] * over],
                    "depth": [float(1000 + 100 * i)] * whole,
                    "zone": ["north" if i % 2 else "south"] * whole,
                },
                schema_overrides={TIME: pl.Datetime("us"), TARGET: pl.Float64},
                strict=False,
            )
        )
    columns = {
        "wbhp": FeatureColumn(role="past"),
        "rate_mean": FeatureColumn(role="past", scaled=True, block="rolling"),
        "uptime": FeatureColumn(role="plan"),
        "depth": FeatureColumn(role="static"),
        "zone": FeatureColumn(role="static"),
    }
    return PanelDataset(pl.concat(parts).sort(ID, TIME), schema, columns, as_of=AS_OF)


def cutoff_of(data: PanelDataset) -> datetime:
    return data.schema.freq.shift(data.as_of, -data.schema.horizon)


@functools.cache
def view_of(freq: str = "MS", horizon: int = 4) -> PanelView:
    data = panel(freq, horizon)
    return data.view(cutoff_of(data))


def fresh(name: str) -> Forecaster:
    entry = FORECASTERS[name]
    model: Forecaster = entry.load()(**entry.cheap)
    return model


@functools.cache
def fitted(name: str, freq: str = "MS", horizon: int = 4) -> Forecaster:
    return fresh(name).fit(view_of(freq, horizon), seed=3)


def bundle_bytes(model: Forecaster, folder: Path) -> dict[str, bytes]:
    model.save(folder)
    return {str(f.relative_to(folder)): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()}


@pytest.fixture(scope="module")
def answers_of_a_fresh_process(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[list[float]]]:
    """Each entry's forecast from a bundle copied to an empty place, in a process that refuses every unpickling."""
    home = tmp_path_factory.mktemp("bundles")
    panel().save(home / "data")
    for name in NAMES:
        fitted(name).save(home / name)
    script = """
import json, sys
from pathlib import Path
from datetime import datetime

def refuse(event, args):
    if event == "pickle.find_class":
        raise RuntimeError(f"unpickling {args}")

import lightgbm, neuralforecast, statsforecast.models  # what they do while importing is not the bundle's doing
from models.catalog import load_model
from nightcast.contracts.columns import QUANTILES
from nightcast.contracts.panel import PanelDataset
sys.addaudithook(refuse)
home, cutoff = Path(sys.argv[1]), datetime.fromisoformat(sys.argv[2])
view = PanelDataset.load(home / "data").view(cutoff)
out = {}
for name in sys.argv[3:]:
    out[name] = load_model(home / name).predict(view).frame.select(QUANTILES).rows()
print("ANSWERS" + json.dumps(out))
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(home), cutoff_of(panel()).isoformat(), *NAMES],
        capture_output=True,
        text=True,
        cwd=home,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    answers: dict[str, list[list[float]]] = json.loads(done.stdout.split("ANSWERS")[1])
    return answers


@pytest.mark.parametrize("name", NAMES)
def test_every_active_series_is_forecast_or_left_out_with_a_reason(name: str) -> None:
    view, model = view_of(), fitted(name)

    forecast = model.forecast(view)

    told = set(forecast.prediction.frame[ID]) | set(forecast.left_out)
    assert told == set(view.series)
    assert not set(forecast.prediction.frame[ID]) & set(forecast.left_out)
    assert "ended" not in told
    assert forecast.left_out == model.left_out(view)
    assert all(len(reason) > 10 for reason in forecast.left_out.values())
    counts = forecast.prediction.frame.group_by(ID).agg(pl.col(HORIZON).sort())
    assert all(horizons == [1, 2, 3, 4] for horizons in counts[HORIZON].to_list())


@pytest.mark.parametrize("name", NAMES)
def test_only_series_the_capabilities_rule_out_are_left_out(name: str) -> None:
    need = FORECASTERS[name].capabilities.min_history
    known = view_of().history.group_by(ID).agg(pl.col(TARGET).count())
    too_short = {series for series, count in known.iter_rows() if count < need} & set(view_of().series)

    assert set(fitted(name).left_out(view_of())) == too_short


@pytest.mark.parametrize("name", NAMES)
def test_quantiles_are_sorted_finite_and_above_the_lower_bound(name: str) -> None:
    values = fitted(name).predict(view_of()).frame.select(QUANTILES).to_numpy()

    assert np.isfinite(values).all()
    assert (np.diff(values, axis=1) >= 0).all()
    assert (values >= 0).all()
    assert (values[:, -1] > values[:, 0]).mean() > 0.7, "intervals have width"


@pytest.mark.parametrize("name", NAMES)
def test_forecasts_stay_near_the_level_of_their_series(name: str) -> None:
    view = view_of()
    level = view.history.group_by(ID).agg(pl.col(TARGET).drop_nulls().tail(12).mean().alias("level"))
    joined = fitted(name).predict(view).frame.join(level, on=ID).filter(pl.col(ID).is_in(["plain", "gaps", "zeros"]))

    ratio = joined["q50"] / joined["level"]

    assert ratio.min() > 0.2, "a row mixed up between series of other sizes would fall outside"
    assert ratio.max() < 2.5


@pytest.mark.parametrize("name", NAMES)
def test_the_same_seed_gives_the_same_bits(name: str, tmp_path: Path) -> None:
    again = fresh(name).fit(view_of(), seed=3)

    assert again.predict(view_of()).frame.equals(fitted(name).predict(view_of()).frame)
    assert bundle_bytes(again, tmp_path / "a") == bundle_bytes(fitted(name), tmp_path / "b")


@pytest.mark.parametrize("name", NAMES)
def test_a_second_fit_of_one_object_is_a_fresh_one(name: str) -> None:
    data = panel()
    model = fresh(name).fit(data.view(datetime(2022, 6, 1)), seed=8)

    refitted = model.fit(view_of(), seed=3)

    assert refitted.predict(view_of()).frame.equals(fitted(name).predict(view_of()).frame)


@pytest.mark.parametrize("name", NAMES)
def test_a_saved_model_loads_and_answers_alike(name: str, tmp_path: Path) -> None:
    fitted(name).save(tmp_path / "bundle")

    loaded = load_model(tmp_path / "bundle")

    assert type(loaded) is type(fitted(name))
    assert loaded.predict(view_of()).frame.equals(fitted(name).predict(view_of()).frame)
    assert bundle_bytes(loaded, tmp_path / "again") == bundle_bytes(fitted(name), tmp_path / "bundle")


@pytest.mark.parametrize("name", NAMES)
def test_a_bundle_answers_alike_in_a_fresh_process_that_refuses_pickle(
    name: str, answers_of_a_fresh_process: dict[str, list[list[float]]]
) -> None:
    here = fitted(name).predict(view_of()).frame.select(QUANTILES).to_numpy()

    assert np.array_equal(np.array(answers_of_a_fresh_process[name]), here)


@pytest.mark.parametrize("name", NAMES)
def test_a_bundle_holds_no_pickle(name: str, tmp_path: Path) -> None:
    files = bundle_bytes(fitted(name), tmp_path)

    assert {Path(file).suffix for file in files} <= {".json", ".txt", ".safetensors"}
    for file, content in files.items():
        # Protocol 2 and later begin with PROTO; torch's zip archives hold a data.pkl.
        assert not content.startswith((b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05", b"PK\x03\x04")), file
        assert b"data.pkl" not in content, file
        if not file.endswith(".safetensors"):
            content.decode("utf-8")


@pytest.mark.parametrize("name", NAMES)
def test_a_bundle_names_no_path_of_this_machine(name: str, tmp_path: Path) -> None:
    for file, content in bundle_bytes(fitted(name), tmp_path).items():
        assert tempfile.gettempdir().encode() + b"/" not in content, file
        assert str(Path.home()).encode() + b"/" not in content, file


@pytest.mark.parametrize("name", NAMES)
def test_scrambling_the_future_changes_nothing(name: str) -> None:
    data = panel()
    late = pl.col(TIME) > cutoff_of(data)
    # Everything but the plan, which is declared as known ahead.
    noise = [
        pl.when(late & pl.col(c).is_not_null()).then(pl.col(c) * -37.5 + 11).otherwise(pl.col(c)).alias(c)
        for c in (TARGET, "wbhp", "rate_mean")
    ]
    scrambled = PanelDataset(data.frame.with_columns(noise), data.schema, data.columns, as_of=data.as_of)
    assert not scrambled.frame.equals(data.frame)
    view = scrambled.view(cutoff_of(data))

    frame = fresh(name).fit(view, seed=3).predict(view).frame

    assert frame.equals(fitted(name).predict(view_of()).frame)


@pytest.mark.parametrize("name", NAMES)
def test_predicting_changes_neither_the_model_nor_its_next_answer(name: str, tmp_path: Path) -> None:
    model = fitted(name)
    first = model.predict(view_of()).frame
    before = bundle_bytes(model, tmp_path / "before")

    other = model.predict(panel().view(datetime(2023, 2, 1))).frame

    assert bundle_bytes(model, tmp_path / "after") == before
    assert model.predict(view_of()).frame.equals(first)
    assert not other.select(QUANTILES).equals(first.select(QUANTILES))


@pytest.mark.parametrize("name", NAMES)
def test_the_random_state_of_the_caller_is_left_alone(name: str) -> None:
    np.random.seed(5)
    expected = np.random.random(3)
    np.random.seed(5)

    fitted(name).predict(view_of())

    assert np.array_equal(np.random.random(3), expected)


@pytest.mark.parametrize(("freq", "horizon"), [("D", 7), ("h", 3)])
@pytest.mark.parametrize("name", NAMES)
def test_other_frequencies_work_alike(name: str, freq: str, horizon: int) -> None:
    view = view_of(freq, horizon)

    forecast = fitted(name, freq, horizon).forecast(view)

    frame = forecast.prediction.frame
    assert set(frame[ID]) | set(forecast.left_out) == set(view.series)
    plain = frame.filter(pl.col(ID) == "plain")
    assert plain[TIME].to_list() == [view.schema.freq.shift(view.cutoff, h) for h in range(1, horizon + 1)]


@pytest.mark.parametrize("name", NAMES)
def test_cold_start_is_as_the_capabilities_say(name: str) -> None:
    seen = view_of()
    part = PanelView(
        seen.history.filter(pl.col(ID) != "plain"),
        seen.future.filter(pl.col(ID) != "plain"),
        seen.cutoff,
        seen.schema,
        seen.columns,
    )
    model = fresh(name).fit(part, seed=3)

    forecast = model.forecast(seen)

    if FORECASTERS[name].capabilities.cold_start:
        assert "plain" in set(forecast.prediction.frame[ID])
    else:
        assert "not seen in training" in forecast.left_out["plain"]
        assert forecast.prediction.frame.equals(model.predict(part).frame)


@pytest.mark.parametrize("name", NAMES)
def test_another_unit_of_the_target_gives_the_same_forecast_in_that_unit(name: str) -> None:
    data = panel(times=1000.0)
    view = data.view(cutoff_of(data))

    large = fresh(name).fit(view, seed=3).predict(view).frame.select(QUANTILES).to_numpy()

    small = fitted(name).predict(view_of()).frame.select(QUANTILES).to_numpy()
    allowed = SCALING[FORECASTERS[name].family] * np.maximum(np.abs(small), 1.0)
    assert (np.abs(large / 1000 - small) <= allowed).all()


@pytest.mark.parametrize("name", NAMES)
def test_a_model_reads_the_covariate_roles_it_declares_and_no_others(name: str) -> None:
    uses = FORECASTERS[name].capabilities.uses
    data = panel()
    changes: dict[str, Callable[[], pl.Expr]] = {
        "past": lambda: pl.col("wbhp") * pl.col("wbhp").sin() * 3,
        "plan": lambda: 1 - pl.col("uptime"),
        "static": lambda: -pl.col("depth") * pl.col("depth").sin(),
    }
    columns = {"past": "wbhp", "plan": "uptime", "static": "depth"}
    for role, change in changes.items():
        frame = data.frame.with_columns(change().alias(columns[role]))
        view = PanelDataset(frame, data.schema, data.columns, as_of=data.as_of).view(cutoff_of(data))

        same = fresh(name).fit(view, seed=3).predict(view).frame.equals(fitted(name).predict(view_of()).frame)

        if role not in uses:
            assert same, f"{name} reads {role} and does not say so"
        elif role != "static" or name == "tsmixerx":
            # Six series hold too few values of a static column for a tree to split on.
            assert not same, f"{name} says it reads {role} and does not"


@pytest.mark.parametrize("name", NAMES)
def test_an_unknown_parameter_is_refused_with_the_allowed_ones(name: str) -> None:
    allowed = FORECASTERS[name].load().Params.model_fields

    with pytest.raises(ConfigError, match="wibble") as caught:
        FORECASTERS[name].load()(wibble=1)

    assert all(parameter in str(caught.value) for parameter in allowed)


@pytest.mark.parametrize("name", NAMES)
def test_every_preset_makes_a_model_and_the_class_has_the_entrys_capabilities(name: str) -> None:
    entry = FORECASTERS[name]
    assert set(entry.presets) == set(PRESETS)

    for preset in PRESETS:
        model = make_forecaster(FORECASTERS.choose(name, preset))

        assert model.capabilities == entry.capabilities


def test_a_wrong_value_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match="rounds=0"):
        FORECASTERS["lightgbm_global"].load()(rounds=0)


def test_the_catalog_imports_no_heavy_library() -> None:
    script = (
        "import sys, models.catalog\n"
        "import models.families.neural, models.families.boosting, models.families.statistical\n"
        "heavy = {'torch', 'lightgbm', 'neuralforecast', 'statsforecast', 'pandas', 'sklearn', 'scipy'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )

    assert done.stdout.strip() == "[]"
