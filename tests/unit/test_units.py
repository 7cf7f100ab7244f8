"""The unit of work, its cache and its ceilings."""

from __future__ import annotations

import os
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from models.base import Forecast
from nightcast.contracts.columns import QUANTILES
from nightcast.contracts.fold import Fold
from nightcast.contracts.panel import PanelDataset, PanelView
from nightcast.contracts.prediction import Quantiles
from nightcast.contracts.recipe import LimitPlan, ModelChoice
from nightcast.contracts.schema import PanelSchema
from nightcast.evaluation.units import Unit, UnitFailure, UnitResult, find_unit, run_unit, unit_folder
from nightcast.evaluation.workers import WorkerPool

HERE = "tests.unit.test_units"


class Counting:
    """Forecasts the last value and leaves a mark for each fit, so that a test can count fits."""

    def __init__(self, *, marks: str, sleep: float = 0.0, gib: float = 0.0, die: int = 0, fail: str = "") -> None:
        self.marks, self.sleep, self.gib, self.die, self.fail = Path(marks), sleep, gib, die, fail

    def fit(self, view: PanelView, *, seed: int) -> Counting:
        (self.marks / f"{os.getpid()}-{time.time_ns()}").touch()
        if self.fail:
            raise ValueError(self.fail)
        if self.die:
            os._exit(self.die)
        hold = bytearray(int(self.gib * 2**30))
        hold[::4096] = b"x" * len(hold[::4096])
        time.sleep(self.sleep)
        return self

    def predict(self, view: PanelView) -> Quantiles:
        last = view.history.group_by("unique_id").agg(pl.col("y").drop_nulls().last())
        rows = view.future.join(last, on="unique_id").with_columns(pl.lit(view.cutoff).alias("cutoff"))
        return Quantiles.of(rows.with_columns(pl.col("y").alias(name) for name in QUANTILES))

    def forecast(self, view: PanelView) -> Forecast:
        return Forecast(self.predict(view), {}, ())

    def save(self, folder: Path) -> None:
        (folder / "model.json").write_text("{}")


@pytest.fixture
def dataset() -> PanelDataset:
    times = [datetime(2020 + m // 12, m % 12 + 1, 1) for m in range(24)]
    known = [float(i) if i < 20 else None for i in range(24)]
    frame = pl.concat(
        [
            pl.DataFrame({"unique_id": name, "ds": times, "y": known}).cast({"ds": pl.Datetime("us")})
            for name in ("a", "b")
        ]
    )
    return PanelDataset(frame, PanelSchema(freq="MS", horizon=4), {}, times[19])


@pytest.fixture
def make_unit(dataset: PanelDataset, tmp_path: Path) -> Any:
    marks = tmp_path / "marks"
    marks.mkdir()
    dataset.save(tmp_path / "dataset")

    def make(**params: Any) -> Unit:
        limits = LimitPlan(seconds=params.pop("seconds", 60), memory_gib=params.pop("memory_gib", 8))
        fold = Fold("fold-00", None, datetime(2021, 1, 1), (datetime(2021, 1, 1), datetime(2021, 2, 1)))
        return Unit(
            ModelChoice(name="counting", label="counting", params={"marks": str(marks), **params}),
            f"{HERE}:Counting",
            fold,
            tmp_path / "dataset",
            dataset.hash,
            7,
            keep_model=True,
            limits=limits,
        )

    return make


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch, repository: Path) -> None:
    monkeypatch.syspath_prepend(str(repository))
    monkeypatch.setenv("PYTHONPATH", str(repository))


def fits(unit: Unit) -> int:
    return len(list(Path(unit.model.params["marks"]).iterdir()))


def test_a_finished_unit_is_found_and_not_fitted_again(make_unit: Any, tmp_path: Path) -> None:
    unit = make_unit()

    first = run_unit(unit, tmp_path / "cache")
    second = run_unit(unit, tmp_path / "cache")

    assert fits(unit) == 1
    assert not first.reused
    assert second.reused
    assert first.predictions().equals(second.predictions())
    assert first.predictions().get_column("cutoff").n_unique() == 2
    assert (second.model_folder / "model.json").exists()


def test_another_parameter_seed_or_dataset_is_another_unit(make_unit: Any) -> None:
    from dataclasses import replace

    unit = make_unit()
    others = [make_unit(sleep=0.001), replace(unit, seed=8), replace(unit, dataset_hash="other")]

    assert len({unit.key, *(other.key for other in others)}) == 4


def test_ceilings_and_the_folder_of_the_dataset_are_no_part_of_the_address(make_unit: Any, tmp_path: Path) -> None:
    from dataclasses import replace

    unit = make_unit()

    assert make_unit(seconds=5).key == unit.key
    assert replace(unit, dataset=tmp_path / "elsewhere").key == unit.key


def test_a_half_written_result_counts_as_nothing(make_unit: Any, tmp_path: Path) -> None:
    unit = make_unit()
    folder = unit_folder(tmp_path / "cache", unit.key)
    scratch = tmp_path / "cache" / "scratch" / f"{unit.key}-dead"
    scratch.mkdir(parents=True)
    (scratch / "unit.json").write_text("{")

    assert find_unit(unit, tmp_path / "cache") is None
    run_unit(unit, tmp_path / "cache")
    assert (folder / "unit.json").exists()


@pytest.mark.parametrize(
    ("params", "kind", "words"),
    [
        ({"sleep": 60.0, "seconds": 1.0}, "timeout", "1 s"),
        ({"gib": 3.0, "sleep": 20.0, "memory_gib": 1.0}, "memory", "1 GiB"),
        ({"die": 9}, "crash", "exit code 9"),
        ({"fail": "no such column"}, "error", "ValueError: no such column"),
    ],
)
def test_a_failing_unit_has_a_name_and_leaves_the_pool_working(
    make_unit: Any, tmp_path: Path, params: dict[str, Any], kind: str, words: str
) -> None:
    with WorkerPool(tmp_path / "cache", processes=1) as pool:
        failed = pool.run(make_unit(**params))
        after = pool.run(make_unit())

    assert isinstance(failed, UnitFailure)
    assert failed.kind == kind
    assert words in failed.reason
    assert find_unit(failed.unit, tmp_path / "cache") is None
    assert isinstance(after, UnitResult)


def test_a_pool_that_broke_is_replaced_and_the_unit_runs(make_unit: Any, tmp_path: Path) -> None:
    with WorkerPool(tmp_path / "cache", processes=1) as pool:
        broken = pool._started()
        broken.stop()
        broken.join()
        answer = pool.run(make_unit())
        assert isinstance(answer, UnitResult)
        assert pool._started() is not broken


def test_without_processes_units_run_here_with_equal_results(make_unit: Any, tmp_path: Path) -> None:
    unit = make_unit()

    with WorkerPool(tmp_path / "here", processes=0) as here, WorkerPool(tmp_path / "child", processes=1) as child:
        one, other = here.run(unit), child.run(unit)

    assert isinstance(one, UnitResult)
    assert isinstance(other, UnitResult)
    assert one.predictions().equals(other.predictions())


def test_workers_that_import_ahead_still_run_units_and_a_missing_library_is_no_ones_fault(
    make_unit: Any, tmp_path: Path
) -> None:
    with WorkerPool(tmp_path / "cache", processes=1) as pool:
        pool.import_ahead(["json", "no_such_library"])
        answer = pool.run(make_unit())

    assert isinstance(answer, UnitResult)
