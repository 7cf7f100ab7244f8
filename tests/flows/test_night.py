"""Whole nights on a small panel: what is promised is delivered, once, and says where it comes from."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import polars as pl
import pytest
from prefect.settings import get_current_settings

from nightcast.sources.generator.dirt import corrupt
from tests.flows.panels import NAIVE, monthly_panel, write_workload

pytestmark = pytest.mark.usefixtures("prefect_server")
Run = Callable[..., dict[str, Any]]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NIGHTCAST_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NIGHTCAST_PROCESSES", "0")
    return tmp_path / "home"


@pytest.fixture
def run(home: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    from flows.nightly import nightly
    from flows.parameters import PresetName

    def start(spec: Path, *, at: Path | None = None, **params: Any) -> dict[str, Any]:
        monkeypatch.setenv("NIGHTCAST_HOME", str(at or home))
        return nightly(workload_file=str(spec), preset=PresetName.ci, **params)  # type: ignore[return-value]

    return start


def path_of(uri: str) -> Path:
    return Path(urlparse(uri).path)


def digest(answer: dict[str, Any]) -> str:
    return hashlib.sha256(path_of(answer["forecast"]).read_bytes()).hexdigest()


def forecast_of(answer: dict[str, Any]) -> pl.DataFrame:
    return pl.read_parquet(path_of(answer["forecast"]))


def manifest_of(answer: dict[str, Any]) -> dict[str, Any]:
    return json.loads(path_of(answer["manifest"]).read_text())


def nothing_published(home: Path) -> bool:
    return (
        not list(home.rglob("forecast.parquet")) + list(home.rglob("manifest.json")) + list(home.rglob("current.json"))
    )


def test_a_night_ends_with_a_champion_a_complete_forecast_and_a_page(run: Run, home: Path, tmp_path: Path) -> None:
    from tasks.settings import get_settings
    from tasks.tracking import CHALLENGER, CHAMPION, Tracking

    spec = write_workload(tmp_path, monthly_panel(), models=(*NAIVE, "lightgbm_global"))
    answer = run(spec)

    rows = forecast_of(answer)
    assert rows.height == 20 * 3
    assert rows.columns[:4] == ["unique_id", "ds", "cutoff", "horizon"]
    assert rows.columns[-3:] == ["model_used", "fallback_reason", "night_id"]
    assert rows.get_column("model_used").unique().to_list() == ["ensemble"]
    assert rows.get_column("fallback_reason").null_count() == rows.height
    assert rows.get_column("ds").min() == datetime(2022, 1, 1)
    manifest = manifest_of(answer)
    assert {"registered_version", "mlflow_run", "snapshot", "recipe", "git_commit", "lock_hash", "counts"} <= set(
        manifest
    )
    current = json.loads((home / "store/forecasts/tiny/current.json").read_text())
    assert current["night_id"] == answer["night_id"]
    page = Path(answer["report"]).read_text()
    assert "w07" in page
    tracking = Tracking(get_settings())
    champion = tracking.alias("tiny", CHAMPION)
    challenger = tracking.alias("tiny", CHALLENGER)
    assert champion is not None
    assert challenger is not None
    assert champion.number == challenger.number == "1"
    children = tracking.client.search_runs(
        [tracking.experiment("tiny")], f"tags.mlflow.parentRunId = '{manifest['mlflow_run']}'"
    )
    assert {child.data.tags["model"] for child in children} == {*NAIVE, "lightgbm_global", "ensemble"}
    assert all("origin_loss" in child.data.metrics for child in children)


def test_the_same_night_twice_publishes_and_registers_once(run: Run, tmp_path: Path) -> None:
    from tasks.settings import get_settings
    from tasks.tracking import Tracking

    spec = write_workload(tmp_path, monthly_panel())
    first = run(spec)
    before = {p: p.read_bytes() for p in path_of(first["forecast"]).parent.iterdir()}
    second = run(spec)

    assert second["status"] == "already published"
    assert {p: p.read_bytes() for p in path_of(first["forecast"]).parent.iterdir()} == before
    assert len(Tracking(get_settings()).versions("tiny")) == 1


def test_other_data_for_the_same_date_become_a_revision_and_the_pointer_follows(
    run: Run, home: Path, tmp_path: Path
) -> None:
    frame = monthly_panel()
    run(write_workload(tmp_path, frame))
    changed = run(write_workload(tmp_path, frame.with_columns(pl.col("y") * 1.01)))

    assert changed["forecast"].endswith("2021-12-01.r2/forecast.parquet")
    assert json.loads((home / "store/forecasts/tiny/current.json").read_text())["night_id"] == changed["night_id"]


def test_a_backfilled_date_equals_a_run_on_data_cut_at_that_date(run: Run, home: Path, tmp_path: Path) -> None:
    from flows.backfill import backfill, dates_between

    frame = monthly_panel()
    models = ("naive_last", "naive_mean3", "lightgbm_global")
    spec = write_workload(tmp_path, frame, models=models)
    dates = dates_between(datetime(2021, 6, 1), datetime(2021, 12, 1), "2MS")
    answers = backfill(str(spec), dates, preset="ci", home=str(home))

    assert len(answers) == 4
    for date, answer in zip(dates, answers, strict=True):
        cut = write_workload(tmp_path / f"{date:%Y%m}", frame.filter(pl.col("ds") <= date), models=models)
        alone = run(cut, at=tmp_path / f"{date:%Y%m}" / "home")
        assert alone["night_id"] == answer["night_id"]
        assert digest(alone) == digest(answer)


def test_rows_after_the_as_of_date_are_not_read(run: Run, tmp_path: Path) -> None:
    frame = monthly_panel()
    late = frame.with_columns(pl.when(pl.col("ds") > datetime(2021, 6, 1)).then(-1e9).otherwise(pl.col("y")).alias("y"))

    honest = run(write_workload(tmp_path / "a", frame), at=tmp_path / "a/home", as_of=datetime(2021, 6, 1))
    scrambled = run(write_workload(tmp_path / "b", late), at=tmp_path / "b/home", as_of=datetime(2021, 6, 1))

    assert digest(honest) == digest(scrambled)


def test_a_killed_night_recomputes_nothing_finished_and_ends_with_the_same_bytes(run: Run, tmp_path: Path) -> None:
    spec = write_workload(tmp_path, monthly_panel(), models=(*NAIVE, "lightgbm_global"))
    whole = run(spec, at=tmp_path / "whole")
    home = tmp_path / "killed"
    units = home / "cache" / "units"
    env = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")}
    env |= {"NIGHTCAST_PROCESSES": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    env["PREFECT_API_URL"] = get_current_settings().api.url or ""
    command = [sys.executable, "-m", "flows.cli", "run", str(spec), "--preset", "ci", "--home", str(home)]

    process = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 180
    while not list(units.glob("*/*/unit.json")):
        assert process.poll() is None, "the night ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    time.sleep(1.0)
    finished = {p: p.stat().st_mtime_ns for p in units.glob("*/*/unit.json")}
    assert finished
    assert nothing_published(home)
    again = subprocess.run([*command, "--json"], env=env, capture_output=True, text=True, check=True, timeout=300)

    assert {p: p.stat().st_mtime_ns for p in finished} == finished
    assert sum("found" in line for line in again.stderr.splitlines()) == len(finished)
    assert digest(json.loads(again.stdout)) == digest(whole)


KINDS = ("duplicate_rows", "text_in_number", "future_date", "all_null", "scale_jump", "wrong_frequency")


def test_corrupted_series_are_quarantined_by_name_and_served_by_labelled_fallbacks(run: Run, tmp_path: Path) -> None:
    dirty, ledger = corrupt(monthly_panel(), share=0.3, seed=3, kinds=list(KINDS))
    bad = dict(ledger.select("unique_id", "kind").unique().iter_rows())
    answer = run(write_workload(tmp_path, dirty), as_of=datetime(2021, 12, 1))

    quarantine = manifest_of(answer)["quarantine"]
    rows = forecast_of(answer)
    assert set(bad.values()) == set(KINDS)
    assert set(quarantine) == set(bad)
    assert rows.height == 20 * 3
    for series, kind in bad.items():
        served = rows.filter(pl.col("unique_id") == series)
        assert kind in quarantine[series]
        assert served.get_column("fallback_reason").str.contains(kind).all()
        assert served.get_column("model_used").str.starts_with("fallback").all()
    page = Path(answer["report"]).read_text()
    assert all(series in page and kind in page for series, kind in bad.items())


def test_the_other_series_of_per_series_models_do_not_change(run: Run, tmp_path: Path) -> None:
    frame = monthly_panel()
    dirty, ledger = corrupt(frame, share=0.3, seed=3, kinds=list(KINDS))
    bad = set(ledger.get_column("unique_id"))
    homes = {"clean": frame, "dirty": dirty}
    members = {}
    for name, rows in homes.items():
        answer = run(write_workload(tmp_path / name, rows), at=tmp_path / name / "home", as_of=datetime(2021, 12, 1))
        path = tmp_path / name / "home/work" / answer["night_id"] / "evaluation/members.parquet"
        members[name] = pl.read_parquet(path).filter(
            pl.col("model").is_in(["naive_last", "naive_mean3", "naive_seasonal", "ses"])
            & ~pl.col("unique_id").is_in(list(bad))
        )

    keys = ["model", "unique_id", "cutoff", "ds"]
    points = [m.sort(keys).select(*keys, "q50") for m in members.values()]
    assert points[0].height > 0
    assert points[0].equals(points[1])


def test_when_training_dies_every_series_still_gets_a_labelled_forecast(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tasks import steps

    def die(*args: Any, **kwargs: Any) -> Any:
        raise MemoryError("no more")

    monkeypatch.setattr(steps, "evaluate", die)
    answer = run(write_workload(tmp_path, monthly_panel()))

    rows = forecast_of(answer)
    assert "MemoryError" in answer["training_failed"]
    assert rows.get_column("unique_id").n_unique() == 20
    assert rows.get_column("model_used").unique().to_list() == ["simple_ensemble"]
    assert rows.get_column("fallback_reason").str.contains("MemoryError").all()


def test_when_training_dies_the_champion_of_an_earlier_night_serves(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tasks import steps

    frame = monthly_panel()
    spec = write_workload(tmp_path, frame.filter(pl.col("ds") < datetime(2021, 12, 1)))
    run(spec)
    write_workload(tmp_path, frame)

    def die(*args: Any, **kwargs: Any) -> Any:
        raise MemoryError("no more")

    monkeypatch.setattr(steps, "evaluate", die)
    answer = run(spec)

    rows = forecast_of(answer)
    assert rows.get_column("cutoff").unique().to_list() == [datetime(2021, 12, 1)]
    assert rows.get_column("model_used").unique().to_list() == ["champion"]
    assert rows.get_column("fallback_reason").str.contains("MemoryError").all()
    assert manifest_of(answer)["serving_version"] == "1"


def test_when_no_model_passes_the_gate_the_best_baseline_serves_and_says_so(
    run: Run, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nightcast.contracts.decision import Decision
    from tasks import steps
    from tasks.settings import get_settings
    from tasks.tracking import CHAMPION, Tracking

    monkeypatch.setattr(steps, "decide", lambda *a, **k: Decision("none", False, "planted: worse than the naive"))
    answer = run(write_workload(tmp_path, monthly_panel()))

    rows = forecast_of(answer)
    evaluation = home / "work" / answer["night_id"] / "evaluation"
    best = pl.read_parquet(evaluation / "naive.parquet").get_column("model")[0]
    assert rows.get_column("unique_id").n_unique() == 20
    assert rows.get_column("model_used").unique().to_list() == [best]
    assert rows.get_column("fallback_reason").str.contains("planted").all()
    assert Tracking(get_settings()).alias("tiny", CHAMPION) is None


def test_when_the_deadline_passes_what_is_there_is_published(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NIGHTCAST_DEADLINE_SECONDS", "0.01")
    answer = run(write_workload(tmp_path, monthly_panel()))

    assert forecast_of(answer).get_column("unique_id").n_unique() == 20
    assert {failure["kind"] for failure in manifest_of(answer)["failures"]} == {"deadline"}


def test_when_every_model_dies_the_workloads_fallback_serves(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import models.base as base

    def die(self: Any, *args: Any, **kwargs: Any) -> Any:
        from nightcast.contracts.errors import TrainingError

        raise TrainingError("planted", expected="a fit", remedy="none")

    monkeypatch.setattr(base.Forecaster, "fit", die)
    answer = run(write_workload(tmp_path, monthly_panel()))

    rows = forecast_of(answer)
    assert rows.get_column("unique_id").n_unique() == 20
    assert rows.get_column("model_used").str.starts_with("fallback").all()


def test_without_mlflow_the_forecast_is_published_all_the_same(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "not-a-database"
    broken.write_text("this is no SQLite file, and MLflow will say so")
    monkeypatch.setenv("NIGHTCAST_MLFLOW_URI", f"sqlite:///{broken}")
    answer = run(write_workload(tmp_path, monthly_panel()))

    assert forecast_of(answer).get_column("unique_id").n_unique() == 20
    assert manifest_of(answer)["registered_version"] == "none"


def test_the_champion_forecasts_new_rows_without_training_and_nothing_new_publishes_nothing(
    run: Run, home: Path, tmp_path: Path
) -> None:
    from flows.forecast import forecast

    frame = monthly_panel()
    spec = write_workload(tmp_path, frame.filter(pl.col("ds") < datetime(2021, 12, 1)))
    run(spec)
    write_workload(tmp_path, frame)
    units = len(list((home / "cache/units").glob("*/*")))

    first: Any = forecast(workload_file=str(spec))
    second: Any = forecast(workload_file=str(spec))

    assert first["as_of"].startswith("2021-12-01")
    assert first["status"] == "published by the champion"
    assert forecast_of(first).get_column("model_used").unique().to_list() == ["champion"]
    assert second["status"] == "already published"
    assert len(list((home / "cache/units").glob("*/*"))) == units
    assert forecast_of(first).get_column("unique_id").n_unique() == 20


def test_the_page_takes_the_change_apart_into_revised_data_new_months_and_the_model(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flows.forecast import forecast
    from tasks import steps
    from workloads.panel_changes import change_reasons
    from workloads.stages import Morning

    frame = monthly_panel()
    spec = write_workload(tmp_path, frame.filter(pl.col("ds") < datetime(2021, 12, 1)))
    before = forecast_of(run(spec))
    corrected = (pl.col("unique_id") == "w03") & (pl.col("ds") == datetime(2021, 11, 1))
    write_workload(
        tmp_path, frame.with_columns(pl.when(corrected).then(pl.col("y") * 2).otherwise(pl.col("y")).alias("y"))
    )
    mornings: list[Morning] = []
    told = steps.chapters
    monkeypatch.setattr(
        steps, "chapters", lambda night, its, progress: mornings.append(its) or told(night, its, progress)
    )

    answer: Any = forecast(workload_file=str(spec))
    steps_of = change_reasons(mornings[0])

    now = forecast_of(answer)
    both = before.join(now, on=["unique_id", "ds"], suffix="_now").sort("unique_id", "ds")
    assert steps_of.height == both.height == 20 * 2
    assert steps_of.get_column("before").to_list() == both.get_column("q50").to_list()
    assert steps_of.get_column("now").to_list() == both.get_column("q50_now").to_list()
    total = steps_of.select(
        (pl.col("before") + pl.col("revised") + pl.col("new_months") + pl.col("model")).alias("now")
    )
    assert total.get_column("now").to_list() == pytest.approx(steps_of.get_column("now").to_list())
    # The bundle before answers as it did, bit for bit, but for the one well whose past was corrected.
    moved = steps_of.filter(pl.col("revised") != 0).get_column("unique_id").unique().to_list()
    assert moved == ["w03"]
    assert steps_of.filter(pl.col("unique_id") == "w03").get_column("revised").min() > 0
    assert steps_of.get_column("new_months").abs().min() > 0
    assert steps_of.get_column("model").abs().max() == 0
    page = Path(answer["report"]).read_text()
    assert 'id="why"' in page
    assert "could not be told" not in page


def test_a_bundle_that_is_refused_costs_neither_the_forecast_nor_the_page(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flows import nightly

    (tmp_path / "damaged").mkdir()
    monkeypatch.setattr(nightly, "choose", lambda *_: (None, None, str(tmp_path / "damaged")))

    answer = run(write_workload(tmp_path, monthly_panel(), name="refused"))

    assert forecast_of(answer).get_column("unique_id").n_unique() == 20
    reasons = forecast_of(answer).get_column("fallback_reason").unique().to_list()
    assert len(reasons) == 1
    assert "no manifest.json in the bundle" in reasons[0]
    assert answer["report_failed"] is None
    assert "w07" in Path(answer["report"]).read_text()


def test_weights_are_learnt_on_one_thread_so_that_a_nights_bytes_do_not_depend_on_the_machines_cores(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from threadpoolctl import threadpool_info

    from models.ensembles.quantiles import QuantileCombiner

    threads: list[int] = []
    fit = QuantileCombiner.fit

    def watched(self: QuantileCombiner, *args: object, **named: object) -> dict[str, object]:
        threads.extend(int(pool["num_threads"]) for pool in threadpool_info())
        return fit(self, *args, **named)

    monkeypatch.setattr(QuantileCombiner, "fit", watched)

    run(write_workload(tmp_path, monthly_panel(), name="alone"))

    assert threads
    assert set(threads) == {1}


def test_a_fields_page_tells_of_its_sums_its_injectors_and_what_the_forecast_adds(run: Run, tmp_path: Path) -> None:
    from models.catalog import FORECASTERS

    spec = tmp_path / "field.yaml"
    its = {
        "name": "field",
        "kind": "panel",
        "source": {"kind": "field_generator", "params": {"producers": 12, "injectors": 4, "months": 72, "seed": 3}},
        "freq": "MS",
        "horizon": 3,
        "unit": "m3/d",
        "lower": 0,
        "features": ["status"],
        "rollup": {"groups": "pad"},
        "voidage": {"water_fvf": 1.02},
        "models": [
            "naive_last",
            "ses",
            "crm",
            {"name": "attention_tsmixerx", "params": dict(FORECASTERS["attention_tsmixerx"].cheap)},
        ],
    }
    spec.write_text(json.dumps(its))

    answer = run(spec)

    page = Path(answer["report"]).read_text()
    assert "could not be told" not in page
    for chapter in ("rollup", "value-added", "connectivity", "voidage", "attention"):
        assert f'<h2 id="{chapter}">' in page
    assert '<h2 id="why">' not in page  # nothing was published before
    assert {"rollup.parquet", "forecast.parquet"} <= {
        path.name for path in path_of(answer["forecast"]).parent.iterdir()
    }


def test_a_chapter_that_fails_says_so_in_its_place_and_the_night_is_published(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from workloads import panel

    def why(_morning: Any) -> None:
        raise ZeroDivisionError("no well was left")

    monkeypatch.setattr(panel, "panel_chapters", lambda *_: (why,))
    answer = run(write_workload(tmp_path, monthly_panel(), name="untold"))

    assert answer["status"] == "published"
    assert answer["report_failed"] is None
    page = Path(answer["report"]).read_text()
    assert "Why: could not be told" in page
    assert "no well was left" in page


def test_a_rollback_serves_the_bytes_of_the_champion_before(run: Run, tmp_path: Path) -> None:
    from tasks.settings import get_settings
    from tasks.tracking import CHAMPION, Tracking

    frame = monthly_panel()
    spec = write_workload(tmp_path, frame.filter(pl.col("ds") < datetime(2021, 12, 1)))
    run(spec)
    tracking = Tracking(get_settings())
    first = tracking.alias("tiny", CHAMPION)
    assert first is not None
    bytes_before = (tracking.bundle(first) / "manifest.json").read_bytes()
    write_workload(tmp_path, frame)
    run(spec)
    promoted = tracking.promote("tiny", "2", force="whatever the gate said of it")
    assert promoted.number == "2"

    back = tracking.rollback("tiny")

    assert back.number == first.number
    assert (tracking.bundle(back) / "manifest.json").read_bytes() == bytes_before


def test_a_changed_bundle_is_refused_by_name(run: Run, tmp_path: Path) -> None:
    from models.ensembles.bundle import Bundle
    from nightcast.contracts.errors import RegistryError
    from tasks.settings import get_settings
    from tasks.tracking import CHAMPION, Tracking

    run(write_workload(tmp_path, monthly_panel()))
    tracking = Tracking(get_settings())
    champion = tracking.alias("tiny", CHAMPION)
    assert champion is not None
    folder = tracking.bundle(champion)
    target = folder / "bundle.json"
    target.write_text(target.read_text().replace("naive_last", "naive_lost"))

    with pytest.raises(RegistryError, match=r"bundle\.json"):
        Bundle.load(folder)


def test_no_file_of_a_registered_model_is_a_pickle(run: Run, home: Path, tmp_path: Path) -> None:
    run(write_workload(tmp_path, monthly_panel(), models=(*NAIVE, "lightgbm_global")))

    files = [p for p in (home / "mlflow/artifacts").rglob("*") if p.is_file()]
    assert any(p.name == "bundle.json" for p in files)
    assert not [p for p in files if p.suffix in (".pkl", ".pickle", ".joblib", ".pt", ".pth")]
    assert not [p for p in files if p.read_bytes()[:2] in (b"\x80\x03", b"\x80\x04", b"\x80\x05")]


def test_the_same_recipe_on_newer_data_is_a_refit_of_the_champion(run: Run, tmp_path: Path) -> None:
    from tasks.settings import get_settings
    from tasks.tracking import CHAMPION, Tracking

    frame = monthly_panel()
    spec = write_workload(tmp_path, frame.filter(pl.col("ds") < datetime(2021, 12, 1)))
    run(spec)
    write_workload(tmp_path, frame)
    answer = run(spec)

    decision = manifest_of(answer)["decision"]
    champion = Tracking(get_settings()).alias("tiny", CHAMPION)
    assert decision["kind"] in ("refit", "keep")
    assert champion is not None
    assert champion.number == ("2" if decision["promote"] else "1")
    assert manifest_of(answer)["serving_version"] == champion.number


def test_a_champion_of_another_recipe_without_common_origins_is_walked_forward_on_tonights_data(
    run: Run, home: Path, tmp_path: Path
) -> None:
    frame = monthly_panel()
    spec = write_workload(tmp_path, frame.filter(pl.col("ds") < datetime(2020, 6, 1)))
    run(spec)
    write_workload(tmp_path, frame, models=(*NAIVE, "theta"))
    answer = run(spec)

    decision = manifest_of(answer)["decision"]
    assert answer["training_failed"] is None
    assert (home / "work" / answer["night_id"] / "champion-dataset").exists()
    assert decision["kind"] in ("replace", "keep")
    assert decision["cutoffs"] >= 4
    assert decision["effect"] is not None
