"""Before a fit: a model with too few decisions a column, or too large for a unit, is not fitted and told of."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from models.classifiers import CLASSIFIERS
from nightcast.contracts.bars import BarColumn, BarDataset, label_columns
from nightcast.contracts.fold import Fold
from nightcast.contracts.recipe import LimitPlan, ModelChoice, Recipe
from nightcast.contracts.schema import BarsSchema, CostPlan, LabelPlan
from nightcast.evaluation.units import Unit
from nightcast.evaluation.walk_forward import outcome
from tasks.steps import apart_from_refused
from workloads.fits import fit_findings, refused_fits

START = datetime(2024, 1, 1)


def dataset_of(bars: int, columns: int = 30) -> BarDataset:
    """One symbol, all of whose bars can bear a decision."""
    rng = np.random.default_rng(0)
    names = tuple(f"f{i}" for i in range(columns))
    labels = label_columns(1)
    frame = pl.DataFrame(
        {
            "unique_id": ["A"] * bars,
            "ds": [START + k * timedelta(minutes=5) for k in range(bars)],
            "segment": [0] * bars,
            "session": [0] * bars,
            **{name: np.ones(bars) for name in ("open", "high", "low", "close", "volume")},
            **{name: rng.standard_normal(bars).astype(np.float32) for name in names},
            labels["y"]: pl.Series(rng.integers(0, 3, bars), dtype=pl.Int8),
            labels["hold"]: pl.Series(np.ones(bars), dtype=pl.Int32),
            labels["ret"]: np.zeros(bars),
        }
    ).with_columns(pl.col("ds").cast(pl.Datetime("us")))
    return BarDataset(
        frame=frame,
        schema=BarsSchema(freq="5min", horizons=(1,)),
        columns={name: BarColumn(block="momentum", warmup=0) for name in names},
        sets={"wide": names, "narrow": names[:3]},
        as_of=frame["ds"][-1],
        lead=0,
        labels=LabelPlan(),
        costs=CostPlan(),
    )


def choice(name: str, label: str, **params: object) -> ModelChoice:
    return CLASSIFIERS.choose(name, "ci", label=label, **params)


def recipe(*models: ModelChoice, memory_gib: float = 4, **preparation: object) -> Recipe:
    return Recipe(horizon=1, models=models, limits=LimitPlan(memory_gib=memory_gib), preparation=preparation)


MODELS = (
    choice("climatology", "climatology"),
    choice("logistic", "wide", feature_set="wide"),
    choice("logistic", "narrow", feature_set="narrow"),
)


@pytest.mark.parametrize(("bars", "refused"), [(299, {"wide"}), (300, set())])
def test_fewer_than_ten_decisions_a_column_refuse_the_fit_and_ten_do_not(bars: int, refused: set[str]) -> None:
    made = recipe(*MODELS)

    assert set(refused_fits(fit_findings(dataset_of(bars), made), made.models)) == refused


def test_the_reason_names_the_numbers_and_the_key_that_changes_the_limit() -> None:
    made = recipe(*MODELS)
    (why,) = refused_fits(fit_findings(dataset_of(200), made), made.models).values()

    assert why.startswith("few_samples_per_feature: 200 decisions for 30 columns, 6.67 for each; at least 10")
    assert "gates.samples_per_feature" in why


def test_a_workload_file_may_lower_the_ratio_or_ask_for_none() -> None:
    for least, refused in ((5, []), (8, ["wide"]), (0, [])):
        made = recipe(*MODELS, samples_per_feature=least)
        assert list(refused_fits(fit_findings(dataset_of(200), made), made.models)) == refused


def test_rows_that_a_model_thins_out_do_not_count() -> None:
    thin = recipe(choice("logistic", "thin", feature_set="wide", max_rows=250))

    assert list(refused_fits(fit_findings(dataset_of(2000), thin), thin.models)) == ["thin"]


def test_an_estimate_above_the_units_ceiling_refuses_the_fit_and_baselines_are_never_refused() -> None:
    made = recipe(*MODELS, memory_gib=0.01)
    found = refused_fits(fit_findings(dataset_of(2000), made), made.models)

    assert list(found) == ["wide", "narrow"]
    assert found["wide"].startswith("fit_too_large: an estimated 0.")
    assert "at most 0.0 GiB (limits.memory_gib)" in found["wide"]


def test_a_short_supply_of_free_memory_is_a_warning_and_refuses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nightcast.evaluation.guards.available_memory_gib", lambda: 0.01)
    made = recipe(*MODELS)
    found = fit_findings(dataset_of(2000), made)

    assert [finding.reason for finding in found] == ["memory_gib", "memory_gib"]
    assert {finding.severity for finding in found} == {"warn"}
    assert refused_fits(found, made.models) == {}


def test_a_refused_model_has_no_unit_and_one_row_of_failures() -> None:
    made = recipe(*MODELS)
    folds = [
        Fold(name=name, train_start=None, train_end=START, cutoffs=(START + timedelta(days=k),))
        for k, name in enumerate(("fold-0", "final"))
    ]
    units = [
        Unit(model, CLASSIFIERS[model.name].target, fold, Path("dataset"), "hash", 1)
        for model in made.models
        for fold in folds
    ]

    left, failures = apart_from_refused(units, fit_findings(dataset_of(200), made))

    assert [unit.model.label for unit in left] == ["climatology"] * 2 + ["narrow"] * 2
    (row,) = (failure.to_json() for failure in outcome(failures).failures)
    assert (row["model"], row["fold"], row["kind"]) == ("wide", "all folds", "refused")
    assert "200 decisions for 30 columns" in row["reason"]


def test_a_night_without_such_findings_runs_every_unit() -> None:
    units = [
        Unit(MODELS[1], "module:Class", Fold("f", None, START, (START,)), Path("dataset"), "hash", 1),
    ]

    assert apart_from_refused(units, ()) == (units, [])
