"""How Great Expectations' answers become findings, broken rules and errors."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from expectations.docs import verdict_table, write_data_docs
from expectations.gate import ask, because, load_gx, suite
from nightcast.contracts.errors import BrokenRuleError, ConfigError, GateError
from nightcast.contracts.verdict import Verdict

FRAME = pl.DataFrame({"unique_id": ["a", "a", "b", "c"], "ds": [1, 2, 1, 1], "size": [5.0, 9.0, 1.0, None]})


def at_most(column: str, limit: float, **meaning):
    meaning = {"reason": "too_big", "severity": "quarantine", "detail": "{rows} rows, first {size} at {ds}"} | meaning
    return load_gx().expectations.ExpectColumnValuesToBeBetween(column=column, max_value=limit, **because(**meaning))


def judge(*expectations, frame: pl.DataFrame = FRAME, series: int = 3, budget: float = 0.5) -> Verdict:
    return ask("raw", {"rows": frame}, {"rows": suite("rows", expectations)}, series=series, budget=budget)


def test_offending_rows_are_grouped_by_series_and_the_first_one_is_the_example():
    verdict = judge(at_most("size", 2))

    assert [(f.series, f.reason, f.severity, f.rows, f.detail) for f in verdict.findings] == [
        ("a", "too_big", "quarantine", 2, "2 rows, first 5 at 1")
    ]
    assert verdict.quarantined == {"a": ("too_big",)}
    assert verdict.rules == 1


def test_a_null_diagnostic_is_not_judged():
    assert judge(at_most("size", 100)).findings == ()


def test_rows_without_a_series_lead_to_findings_of_the_table():
    verdict = judge(at_most("size", 2, severity="stop"), frame=FRAME.drop("unique_id"))

    assert [finding.series for finding in verdict.findings] == [None, None]
    with pytest.raises(GateError, match="too_big"):
        verdict.raise_if_stopped()


def test_the_number_of_rows_may_stand_in_a_column():
    verdict = judge(at_most("size", 2, rows="ds"))

    assert [finding.rows for finding in verdict.findings] == [3]


def test_a_rule_on_the_whole_asset_answers_with_what_it_observed():
    rule = load_gx().expectations.ExpectTableRowCountToBeBetween(
        min_value=9, **because("short", "stop", "only {observed} rows")
    )

    assert [(f.series, f.rows, f.detail) for f in judge(rule).findings] == [(None, 0, "only 4 rows")]


@pytest.mark.parametrize(
    ("column", "message"),
    [("no_such_column", '"no_such_column" in BatchData does not exist'), ("unique_id", "of the same type")],
)
def test_a_rule_that_raises_is_a_broken_rule_and_never_a_finding(column, message):
    verdict = judge(at_most(column, 2, detail="too big"), at_most("size", 2))

    assert [rule.rule for rule in verdict.broken] == [f"rows.expect_column_values_to_be_between({column})"]
    assert message in verdict.broken[0].error
    assert {finding.series for finding in verdict.findings} == {"a"}
    with pytest.raises(BrokenRuleError, match=column):
        verdict.raise_if_stopped()


def test_a_rule_that_does_not_say_what_its_failure_means_is_broken_even_while_it_holds():
    rule = load_gx().expectations.ExpectColumnValuesToBeBetween(column="size", max_value=100)

    verdict = judge(rule)

    assert "because" in verdict.broken[0].error


def test_a_detail_that_names_an_unknown_column_is_a_broken_rule():
    verdict = judge(at_most("size", 2, detail="{nothing_of_the_kind}"))

    assert verdict.findings == ()
    assert "nothing_of_the_kind" in verdict.broken[0].error


def test_an_unknown_severity_is_a_broken_rule():
    rule = load_gx().expectations.ExpectColumnValuesToBeBetween(
        column="size", max_value=2, meta={"reason": "r", "severity": "shrug", "detail": "", "rows": None}
    )

    assert "shrug" in judge(rule).broken[0].error


def test_more_series_in_quarantine_than_the_budget_allows_stop_the_run():
    judge(at_most("size", 2), budget=0.34).raise_if_stopped()
    with pytest.raises(GateError, match=r"1 of 3 series \(33%\)"):
        judge(at_most("size", 2), budget=0.3).raise_if_stopped()


def test_a_budget_that_is_no_share_is_refused():
    with pytest.raises(ConfigError, match=r"1\.5"):
        judge(at_most("size", 2), budget=1.5)


def test_an_asset_without_a_suite_is_refused():
    with pytest.raises(ConfigError, match="one suite for each asset"):
        ask("raw", {"rows": FRAME}, {}, series=3, budget=0.2)


def test_a_verdict_survives_the_way_through_json():
    verdict = judge(at_most("size", 2), at_most("unique_id", 1))

    assert Verdict.from_json(verdict.to_json()) == verdict


def test_the_table_shows_broken_rules_first_and_warnings_last():
    verdict = judge(
        at_most("size", 2, severity="warn", reason="hint"), at_most("size", 6), at_most("no_such_column", 2)
    )

    table = verdict_table(verdict)

    assert [row["severity"] for row in table] == ["broken rule", "quarantine", "warn"]
    assert {tuple(row) for row in table} == {("gate", "severity", "series", "reason", "rows", "detail")}


def test_a_clean_verdict_has_an_empty_table():
    assert verdict_table(judge(at_most("size", 100))) == []


def test_data_docs_are_written_where_they_are_asked_for(tmp_path, monkeypatch):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)

    page = write_data_docs(
        tmp_path / "docs", {"rows": FRAME}, {"rows": suite("rows", [at_most("size", 2)])}, title="raw"
    )

    assert page == tmp_path / "docs" / "index.html"
    assert "<html" in page.read_text()
    assert list((tmp_path / "docs" / "validations").rglob("*.html"))
    assert list(elsewhere.iterdir()) == []


def test_data_docs_refuse_assets_without_suites(tmp_path):
    with pytest.raises(ConfigError):
        write_data_docs(tmp_path, {"rows": FRAME}, {}, title="raw")


def test_importing_the_gates_does_not_import_great_expectations():
    program = (
        "import sys, expectations.panel, expectations.docs; "
        "assert not [m for m in sys.modules if m.split('.')[0] in ('great_expectations', 'pandas')]"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr


def test_analytics_are_off_at_the_moment_great_expectations_is_imported():
    program = """
import os, sys
os.environ["GX_ANALYTICS_ENABLED"] = "true"
seen = []

class Watch:
    def find_spec(self, name, path=None, target=None):
        if name == "great_expectations":
            seen.append(os.environ["GX_ANALYTICS_ENABLED"])

sys.meta_path.insert(0, Watch())
from expectations.gate import load_gx
load_gx()
assert seen == ["false"], seen
"""
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
