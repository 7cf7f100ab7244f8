"""Attention and knock-outs against the truth: of generated fields, and of inputs that are known to be idle."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from benchmarks.attention_truth import DRIVERS, FOREIGN, auc, planted
from models.families.mixers import AttentionMixer
from nightcast.contracts.columns import ID, TARGET, TIME
from nightcast.contracts.errors import ConfigError
from nightcast.contracts.panel import PanelView
from nightcast.reports.attention_views import attention_chapter, rank_agreement
from nightcast.sources.generator import FieldConfig

FIELDS = (1, 2, 3)
SMALL = FieldConfig(producers=12, injectors=4, months=84, level="easy")
SIZES: dict[str, Any] = {
    "input_size": 12,
    "hidden": 16,
    "blocks": 1,
    "epochs": 15,
    "lr": 1e-2,
    "weight_decay": 0.1,
    "batch_size": 64,
    "dropout": 0.1,
    "attention_hidden": 16,
    "attention_heads": 2,
    "members": 2,
}
TINY: dict[str, Any] = {"max_steps": 8, "input_size": 12, "hidden": 8, "blocks": 1, "batch_size": 64}


@cache
def fitted(seed: int) -> tuple[AttentionMixer, PanelView]:
    """A model that was given a field's true drivers and those of a field that has nothing to do with it."""
    view = planted(replace(SMALL, seed=seed), horizon=3)
    return AttentionMixer(**SIZES).fit(view, seed=1), view


@cache
def knocked(seed: int) -> pl.DataFrame:
    model, view = fitted(seed)
    return model.knock_outs(view)


def others(seed: int) -> pl.DataFrame:
    return knocked(seed).filter(~pl.col("own"))


def value(seed: int, name: str, column: str) -> float:
    return float(others(seed).filter(name=name)[column].item())


@cache
def tiny() -> tuple[AttentionMixer, PanelView]:
    view = planted(replace(SMALL, producers=6, months=48, seed=5), horizon=3)
    return AttentionMixer(**TINY).fit(view, seed=1), view


@pytest.mark.parametrize("seed", FIELDS)
def test_without_a_true_driver_the_forecast_of_a_generated_field_changes_most(seed: int) -> None:
    assert others(seed).sort("change")["name"][-1] in DRIVERS
    for column in ("change", "rise"):
        assert value(seed, "support", column) > 1.5 * value(seed, FOREIGN + "support", column)


def test_true_drivers_are_attended_to_more_than_those_of_another_field() -> None:
    ratios = []
    for seed in FIELDS:
        weights = dict(others(seed).select("name", "weight").iter_rows())
        ratios.append(sum(weights[name] for name in DRIVERS) / sum(weights[FOREIGN + name] for name in DRIVERS))

    assert float(np.mean(ratios)) > 1.08
    for column, least in (("weight", 0.7), ("change", 0.75)):
        assert np.mean([auc(others(seed), column, (FOREIGN,)) for seed in FIELDS]) > least, "chance is a half"


def test_attention_ranks_inputs_much_as_knock_outs_do() -> None:
    agreements = [rank_agreement(knocked(seed)) for seed in FIELDS]

    assert None not in agreements
    assert float(np.mean([its or 0.0 for its in agreements])) > 0.4


@pytest.mark.parametrize("seed", FIELDS)
def test_the_sizes_of_attention_say_less_than_the_knock_outs(seed: int) -> None:
    found = others(seed)

    def reach(column: str) -> float:
        values = found[column].to_numpy()
        return float(values.max() / values.min())

    assert reach("weight") < 3 < reach("change"), "what the page says: read the order, not the sizes"


def test_an_input_the_network_cannot_see_changes_nothing_when_it_is_knocked_out() -> None:
    import torch

    model, view = tiny()
    blind = AttentionMixer(**TINY).fit(view, seed=1)
    place = blind.feature_names.index("p_wf")
    network: Any = blind.networks[0]
    series = 2 * network.n_series + 2 * network.n_rates  # values and masks come first in the mixer's input
    with torch.no_grad():
        network.base_model.embed[0].weight[:, series + place - 2] = 0.0
        network.value[place] = 0.0
        network.moment.weight[:, place] = 0.0
        network.course.weight.zero_()  # or attention to the others would move with its course

    found = {name: change for name, change in blind.knock_outs(view).select("name", "change").iter_rows()}
    seen = {name: change for name, change in model.knock_outs(view).select("name", "change").iter_rows()}

    assert found["p_wf"] == pytest.approx(0.0, abs=1e-6)
    assert seen["p_wf"] > 1e-5
    assert found["support"] > 1e-5


def test_knock_outs_have_one_row_per_input_and_are_the_same_each_time_and_after_saving(tmp_path: Path) -> None:
    model, view = tiny()
    model.save(tmp_path)

    found = model.knock_outs(view)

    assert found.columns == ["name", "own", "weight", "change", "rise"]
    assert tuple(found["name"]) == model.feature_names
    assert found.filter("own")["name"].to_list() == ["y", "producing_rate"]
    assert found["weight"].sum() == pytest.approx(1.0, abs=1e-5)
    assert (found["change"] >= 0).all()
    assert found.equals(model.knock_outs(view))
    assert found.equals(AttentionMixer.load(tmp_path).knock_outs(view))
    assert set(model.evidence(view)) == {"attention", "attention_check"}
    assert model.evidence(view)["attention_check"].equals(found)


def test_knocking_inputs_out_changes_no_forecast_and_no_attention() -> None:
    model, view = tiny()
    before, weights = model.predict(view).frame, model.attention(view)

    model.knock_outs(view)

    assert model.predict(view).frame.equals(before)
    assert model.attention(view).equals(weights)


def test_knock_outs_know_nothing_of_what_follows_the_cutoff_nor_of_the_wells_names() -> None:
    model, view = tiny()
    names = view.history.get_column(ID).unique().sort().to_list()
    renamed = dict(zip(names, reversed([f"w{i}" for i in range(len(names))]), strict=True))

    def under_new_names(frame: pl.DataFrame) -> pl.DataFrame:
        return frame.with_columns(pl.col(ID).replace_strict(renamed)).sort(ID, TIME)

    other = PanelView(
        under_new_names(view.history), under_new_names(view.future), view.cutoff, view.schema, view.columns
    )

    assert view.history.get_column(TIME).max() == view.cutoff
    assert TARGET not in view.future.columns
    assert model.knock_outs(other).equals(model.knock_outs(view))


def test_a_view_whose_origins_have_no_outcome_gives_no_row_and_an_unfitted_model_refuses() -> None:
    model, view = tiny()
    first = view.history.get_column(TIME).max()
    short = PanelView(view.history.filter(pl.col(TIME) == first), view.future, view.cutoff, view.schema, view.columns)

    assert model.knock_outs(short).height == 0
    assert model.knock_outs(view, origins=1).height == len(model.feature_names)
    with pytest.raises(ConfigError, match="not fitted"):
        AttentionMixer(**TINY).knock_outs(view)


# --- the page -------------------------------------------------------------------------------------------------------


def check(changes: list[float], weights: list[float] | None = None) -> pl.DataFrame:
    count = len(changes)
    return pl.DataFrame(
        {
            "name": ["y", *(f"x{i}" for i in range(count))],
            "own": [True] + [False] * count,
            "weight": [0.5, *(weights or [float(i + 1) for i in range(count)])],
            "change": [0.0, *changes],
        }
    )


def test_the_rank_agreement_is_that_of_the_covariates_and_nothing_where_there_is_nothing_to_rank() -> None:
    assert rank_agreement(check([1, 2, 3, 4, 50])) == pytest.approx(1.0)
    assert rank_agreement(check([5, 4, 3, 2, 1])) == pytest.approx(-1.0)
    assert rank_agreement(check([1, 2, 3, 4])) is None, "four inputs are too few"
    assert rank_agreement(check([1, 1, 1, 1, 1])) is None
    with pytest.raises(ConfigError, match="lacks rise"):
        rank_agreement(check([1, 2, 3, 4, 5]), of="rise")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ([0.1, 0.2, 0.3, 0.4, 0.5], r"correlation 1\.00 over 5 inputs .*; their order may be read, their sizes not"),
        ([0.4, 0.2, 0.1, 0.3, 0.5], r"correlation 0\.30 .*a weak agreement"),
        ([0.5, 0.4, 0.3, 0.2, 0.1], r"correlation -1\.00 .*attention does not explain this forecast"),
    ],
)
def test_the_chapter_says_how_far_attention_agrees_with_knock_outs(changes: list[float], said: str) -> None:
    model, view = tiny()
    weights = model.attention(view)

    chapter, bare = attention_chapter(weights, check=check(changes)), attention_chapter(weights)

    assert chapter is not None
    assert bare is not None
    (told,) = set(chapter.words) - set(bare.words)
    import re

    assert re.search(said, told)
    largest = f"x{int(np.argmax(changes))} 50.0 %"
    assert f"without {largest}" in told


def test_without_enough_inputs_the_chapter_says_nothing_of_agreement() -> None:
    model, view = tiny()
    weights = model.attention(view)

    assert attention_chapter(weights, check=check([1.0, 2.0])) == attention_chapter(weights)


def test_the_drivers_of_the_planted_field_are_those_of_the_generator() -> None:
    view = planted(replace(SMALL, seed=7), horizon=3)

    assert [name for name in view.columns if not name.startswith(FOREIGN)] == list(DRIVERS)
    both = view.history.drop_nulls(["support", FOREIGN + "support"])
    same = both.select(pl.corr("support", FOREIGN + "support")).item()
    assert abs(same) < 0.5
