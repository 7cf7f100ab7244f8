"""docs/gates.md is under test: every reason a suite can give stands in it, and nothing else does."""

from __future__ import annotations

import re
from pathlib import Path

from expectations import panel

PAGE = Path(__file__).parents[2] / "docs" / "gates.md"


def suites():
    limits = panel.RawThresholds()
    yield panel.columns_suite("the input")
    yield panel.raw_table_suite()
    yield from panel.raw_suites(limits).values()
    yield panel.dataset_table_suite()
    yield panel.dataset_rows_suite()
    yield panel.inputs_suite()
    yield panel.dataset_series_suite(6)
    yield panel.forecast_rows_suite(lower=0.0, explode_ratio=10)
    yield panel.forecast_series_suite(6)
    yield panel.forecast_table_suite(0.5)


def test_every_reason_is_documented_and_every_documented_reason_exists():
    given = {rule.meta["reason"] for suite in suites() for rule in suite.expectations}
    reasons = PAGE.read_text().split("## Reasons")[1].split("## Scale jumps")[0]
    documented = set()
    for line in reasons.splitlines():
        if line.startswith("| `"):
            documented |= set(re.findall(r"`(\w+)`", line.split("|")[1]))

    assert documented == given


def test_every_suite_function_is_asked_about_here():
    known = {name for name in dir(panel) if name.endswith("_suite")}

    assert known == {
        "columns_suite",
        "raw_table_suite",
        "raw_rows_suite",
        "raw_series_suite",
        "covariates_suite",
        "panel_suite",
        "dataset_table_suite",
        "dataset_rows_suite",
        "inputs_suite",
        "dataset_series_suite",
        "forecast_rows_suite",
        "forecast_series_suite",
        "forecast_table_suite",
    }


def test_the_documented_limits_are_the_defaults():
    text = PAGE.read_text()
    limits = panel.RawThresholds()

    assert f"more than {limits.spike_ratio:g} times as large" in text
    assert f"{limits.stuck_steps} or more steps" in text
    assert f"more than {limits.stale_steps} steps, not yet retired ({limits.retire_after})" in text
    assert f"more than {limits.covariate_null_share:.0%} of the rows".replace("%", " %") in text
    assert f"at most {limits.mask_share:.0%}".replace("%", " %") in text
