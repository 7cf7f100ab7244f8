"""Whole nights on a small market: the same flow, gates and registry as panels, and flat where nothing is proven."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import polars as pl
import pytest

pytestmark = pytest.mark.usefixtures("prefect_server")
Run = Callable[..., dict[str, Any]]

MODELS = ("climatology", "momentum", "volatility_only", "logistic")


def write_market(folder: Path, *, name: str = "toy", models: tuple[Any, ...] = MODELS, **params: Any) -> Path:
    """A workload file of a small generated market."""
    import yaml

    spec = {
        "name": name,
        "kind": "bars",
        "source": {"kind": "market_generator", "params": {"bars": 2600, **params}},
        "bars": {"horizons": [1, 5]},
        "models": list(models),
        "folds": {"cutoffs": 600, "refits": 3, "min_train": 300},
    }
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(spec))
    return path


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NIGHTCAST_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NIGHTCAST_PROCESSES", "0")
    return tmp_path / "home"


@pytest.fixture
def run(home: Path) -> Run:
    from flows.nightly import nightly
    from flows.parameters import PresetName

    def start(spec: Path, **params: Any) -> dict[str, Any]:
        return nightly(workload_file=str(spec), preset=PresetName.ci, **params)  # type: ignore[return-value]

    return start


def path_of(uri: str) -> Path:
    return Path(urlparse(uri).path)


def test_a_night_of_bars_delivers_every_symbol_and_horizon_with_a_page_tearsheets_and_a_registered_model(
    run: Run, home: Path, tmp_path: Path
) -> None:
    import mlflow

    answer = run(write_market(tmp_path))
    rows = pl.read_parquet(path_of(answer["forecast"]))
    assert rows.columns == [
        *("unique_id", "ds", "cutoff", "horizon", "p_short", "p_neutral", "p_long", "signal"),
        *("model_used", "fallback_reason", "night_id"),
    ]
    assert rows.select("unique_id", "horizon").rows() == [("MES", 1), ("MES", 5), ("MGC", 1), ("MGC", 5)]
    assert (rows["ds"] == rows["cutoff"]).all()
    assert rows.select(pl.sum_horizontal("^p_.*$")).to_series().to_list() == pytest.approx([1.0] * 4)
    assert set(rows["signal"]) <= {-1, 0, 1}
    flat = rows.filter(pl.col("fallback_reason").is_not_null())
    assert (flat["signal"] == 0).all()
    manifest = json.loads(path_of(answer["manifest"]).read_text())
    assert manifest["counts"]["series_promised"] == 2
    page = Path(answer["report"])
    text = page.read_text()
    assert "Gates per model and horizon" in text
    sheets = sorted(path.name for path in page.with_suffix("").iterdir())
    assert "model_comparison.md" in sheets
    assert {f"{model}_{h}bar_tearsheet.html" for model in (*MODELS, "ensemble") for h in (1, 5)} <= set(sheets)
    assert f"{page.stem}/ensemble_5bar_tearsheet.html" in text

    # the registered model scores bars by itself
    from tasks.settings import get_settings

    mlflow.set_tracking_uri(get_settings().tracking_uri)
    model = mlflow.pyfunc.load_model(f"models:/nightcast-toy/{manifest['registered_version']}")
    raw = pl.read_parquet(next((home / "work").glob("*/raw/raw.parquet")))
    bars = raw.select("unique_id", "ds", "open", "high", "low", "close", "volume")
    served = pl.from_pandas(model.predict(bars.to_pandas()))
    ours = rows.select("unique_id", "horizon", "p_long")
    if not flat.height:
        assert served.sort("unique_id", "horizon")["p_long"].to_list() == pytest.approx(ours["p_long"].to_list())
    assert served.height == 4


def test_the_same_night_of_bars_twice_publishes_once_and_gives_the_same_bytes_elsewhere(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = write_market(tmp_path, models=("climatology", "volatility_only", "logistic"))
    first = run(spec)
    again = run(spec)
    assert again["status"] == "already published"
    assert again["night_id"] == first["night_id"]
    monkeypatch.setenv("NIGHTCAST_HOME", str(tmp_path / "elsewhere"))
    other = run(spec)
    assert path_of(other["forecast"]).read_bytes() == path_of(first["forecast"]).read_bytes()


def test_a_version_that_its_gate_refused_serves_newer_bars_only_when_forced_and_says_so(
    run: Run, home: Path, tmp_path: Path
) -> None:
    from flows.forecast import forecast
    from nightcast.contracts.errors import RegistryError
    from tasks.settings import get_settings
    from tasks.tracking import CHAMPION, Tracking

    spec = write_market(tmp_path)
    from tasks.night import load_workload
    from tasks.steps import clock

    whole = load_workload(str(spec)).source.read(as_of=None, data=None, now=clock())
    earlier = whole.as_of - 40 * timedelta(minutes=5)
    night = run(spec, as_of=earlier)
    tracking = Tracking(get_settings())
    version = json.loads(path_of(night["manifest"]).read_text())["registered_version"]
    with pytest.raises(RegistryError, match=rf"version {version} of nightcast-toy .* economic_gate.*--force REASON"):
        tracking.promote("toy", version)
    assert tracking.alias("toy", CHAMPION) is None
    with pytest.raises(RegistryError, match="no champion"):
        forecast(workload_file=str(spec))
    forced = tracking.promote("toy", version, force="a test of serving")
    assert "economic_gate" in forced.gate_failed
    assert tracking.numbered("toy", version).forced == "a test of serving"
    newer = forecast(workload_file=str(spec))
    rows = pl.read_parquet(path_of(newer["forecast"]))
    assert newer["status"] == "published by the champion, which was promoted against its gate: a test of serving"
    facts = json.loads(path_of(newer["manifest"]).read_text())
    assert facts["champion_against_gate"] == "a test of serving"
    assert rows["cutoff"].max() == whole.as_of
    assert rows["model_used"].unique().to_list() == ["champion"]
    assert rows.height == 4


def test_a_night_on_noise_promotes_nothing_and_goes_flat_and_says_so(run: Run, tmp_path: Path) -> None:
    starved = {"name": "logistic", "label": "starved", "params": {"max_rows": 200}}
    answer = run(write_market(tmp_path, models=(*MODELS, starved), kappa=0.0, volatility="flat"))
    failures = json.loads(path_of(answer["manifest"]).read_text())["failures"]
    assert [(row["model"], row["kind"]) for row in failures] == [("starved", "refused")]
    assert failures[0]["reason"].startswith("few_samples_per_feature: 200 decisions for ")
    assert "few_samples_per_feature" in Path(answer["report"]).read_text()
    rows = pl.read_parquet(path_of(answer["forecast"]))
    assert (rows["signal"] == 0).all()
    assert answer["status"].startswith("published by")
    assert "no model passed the gate" in answer["status"]
    assert rows["fallback_reason"].null_count() == 0
    assert "champion" not in rows["model_used"].unique().to_list()


def test_a_symbol_with_broken_bars_is_quarantined_and_published_flat_beside_the_others(
    run: Run, tmp_path: Path
) -> None:
    from tasks.night import load_workload
    from tasks.steps import clock

    spec = write_market(tmp_path)
    raw = load_workload(str(spec)).source.read(as_of=None, data=None, now=clock())
    bars = raw.frame.select("unique_id", "ds", "open", "high", "low", "close", "volume")
    broken = bars.with_columns(
        pl.when(pl.col("unique_id") == "MGC").then(pl.col("high") * 0.5).otherwise(pl.col("high")).alias("high")
    )
    file = tmp_path / "broken.parquet"
    third = bars.filter(pl.col("unique_id") == "MES").with_columns(pl.lit("THIRD").alias("unique_id"))
    more = [third.with_columns(pl.lit(f"S{i}").alias("unique_id")) for i in range(4)]
    pl.concat([broken, *more]).write_parquet(file)
    answer = run(spec, data=str(file))
    rows = pl.read_parquet(path_of(answer["forecast"]))
    bad = rows.filter(pl.col("unique_id") == "MGC")
    assert bad.height == 2
    assert bad["model_used"].unique().to_list() == ["flat"]
    assert bad["fallback_reason"][0].startswith("quarantined:")
    assert (bad["signal"] == 0).all()
    assert bad["p_long"].to_list() == pytest.approx([1 / 3, 1 / 3])
