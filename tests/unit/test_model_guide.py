"""The guide to a first model follows the decision tree, branch by branch."""

from __future__ import annotations

from typing import Any

import pytest

from models.classifiers import CLASSIFIERS
from models.guide import recommend
from nightcast.contracts.errors import ConfigError


@pytest.mark.parametrize(
    ("facts", "first", "because"),
    [
        ({"rows": 49_999}, "chronos_bolt", "fewer than 50,000 rows"),
        ({"rows": 50_000}, "tcn", "none of the special cases"),
        ({"rows": 200_000, "interpretable": True}, "nbeats", "people must see why"),
        ({"rows": 200_000, "sub_second": True, "features": 50}, "tcn", "a decision within a second"),
        ({"rows": 200_000, "features": 31}, "itransformer", "more than 30 correlated features"),
        ({"rows": 200_000, "features": 30}, "tcn", "none of the special cases"),
        ({"rows": 200_000, "context": 257}, "mamba", "a context of more than 256 bars"),
        ({"rows": 200_000, "context": 256}, "tcn", "none of the special cases"),
        ({"rows": 200_000, "covariates": True}, "tft", "static or known covariates"),
    ],
)
def test_each_branch_of_the_tree_names_its_model_and_reason(facts: dict[str, Any], first: str, because: str) -> None:
    found = recommend(CLASSIFIERS, **facts)
    assert found.models[0] == first
    assert found.because == because


def test_every_branch_offers_something_this_installation_has() -> None:
    for facts in ({"rows": 10}, {"rows": 10**6, "interpretable": True}, {"rows": 10**6, "features": 99}):
        found = recommend(CLASSIFIERS, **facts)
        assert found.installed
        assert set(found.installed) <= set(CLASSIFIERS)


def test_a_negative_count_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match="features is -1"):
        recommend(CLASSIFIERS, rows=10, features=-1)
