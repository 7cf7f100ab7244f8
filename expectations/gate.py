"""Ask Great Expectations and answer with a verdict per series.

Statistics are computed in polars beforehand; an expectation only compares a diagnostic column with its limit. So the
suites stay declarative, and a rule costs one line: the column, the limit, the reason.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, get_args

import polars as pl

from nightcast.contracts.columns import ID
from nightcast.contracts.errors import ConfigError
from nightcast.contracts.verdict import BrokenRule, Finding, Severity, Verdict

if TYPE_CHECKING:
    import great_expectations as gx

_ROW: Final = "_row"
_SEVERITIES: Final = get_args(Severity)
_GX_SEVERITY: Final = {"stop": "critical", "quarantine": "critical", "mask": "warning", "warn": "info"}


def load_gx() -> Any:
    """Import Great Expectations with its analytics switched off; the only way in for this package."""
    os.environ["GX_ANALYTICS_ENABLED"] = "false"
    import great_expectations

    # This logger sets its own level on import, and tells of every temporary folder.
    logging.getLogger("great_expectations.data_context.types.base").setLevel(logging.WARNING)
    return great_expectations


def because(reason: str, severity: Severity, detail: str, *, rows: str | None = None) -> dict[str, Any]:
    """Keywords every expectation of ours carries: what its failure means.

    Parameters
    ----------
    reason
        Short code, listed in docs/gates.md.
    severity
        What the failure leads to.
    detail
        One sentence; `{column}` is filled from the first offending row of the asset, `{rows}` with the number of
        offending rows.
    rows
        Column that holds the number of offending rows, for assets with one row per series; None: count the asset's
        own offending rows; `"0"`: a rule on the whole series.
    """
    return {
        "severity": _GX_SEVERITY[severity],
        "meta": {"reason": reason, "severity": severity, "detail": detail, "rows": rows},
    }


def suite(name: str, expectations: Iterable[Any]) -> gx.ExpectationSuite:
    """A named suite."""
    return load_gx().ExpectationSuite(name=name, expectations=list(expectations))


def check_budget(budget: float) -> None:
    """Raise a ConfigError unless `budget` is a share."""
    if not 0 <= budget <= 1:
        raise ConfigError(
            f"the quarantine budget is {budget!r}",
            expected="a share of series between 0 and 1",
            remedy="set `gates.budget` in the workload file, 0.2 by default",
        )


def ask(
    name: str,
    assets: Mapping[str, pl.DataFrame],
    suites: Mapping[str, gx.ExpectationSuite],
    *,
    series: int,
    budget: float,
) -> Verdict:
    """Run one suite on each asset and group what fails by series.

    Parameters
    ----------
    name
        Name of the gate.
    assets
        Small diagnostic frames. Rows with `unique_id` lead to findings of that series, rows without it (or with a
        null one) to findings of the table. The first offending row gives the example in the detail, so sort them.
    suites
        Asset -> suite; every expectation is built with `because`.
    series
        Number of series looked at.
    budget
        Largest share of series that may be in quarantine.

    Returns
    -------
    Verdict
        Findings in a fixed order. An expectation that raised, or that does not say what its failure means, is a
        broken rule and never a finding.

    Raises
    ------
    ConfigError
        If assets and suites do not match, or the budget is not a share.
    """
    check_budget(budget)
    if set(assets) != set(suites):
        raise ConfigError(
            f"the {name} gate has the assets {sorted(assets)} and suites for {sorted(suites)}",
            expected="one suite for each asset",
            remedy="add the missing one in expectations/",
        )
    context = load_gx().get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False}
    frames = context.data_sources.add_pandas("frames")
    findings: list[Finding] = []
    broken: list[BrokenRule] = []
    for key in sorted(assets):
        frame = assets[key].with_row_index(_ROW)
        batch = (
            frames.add_dataframe_asset(key)
            .add_batch_definition_whole_dataframe("whole")
            .get_batch({"dataframe": frame.to_pandas()})
        )
        answer = batch.validate(
            suites[key],
            result_format={
                "result_format": "COMPLETE",
                "unexpected_index_column_names": [_ROW],
                "return_unexpected_index_query": False,
            },
        )
        for result in answer.results:
            judged = _judge(frame, result, asset=key)
            if isinstance(judged, BrokenRule):
                broken.append(judged)
            else:
                findings.extend(judged)
    return Verdict(
        gate=name,
        series=series,
        rules=sum(len(its.expectations) for its in suites.values()),
        budget=budget,
        findings=in_order(findings),
        broken=tuple(sorted(broken, key=lambda rule: (rule.rule, rule.error))),
    )


def in_order(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """The table's findings first, then by series, severity and reason."""
    return tuple(
        sorted(
            findings,
            key=lambda f: (
                f.series is not None,
                f.series or "",
                _SEVERITIES.index(f.severity),
                f.reason,
                f.rule,
                f.detail,
            ),
        )
    )


def join(first: Verdict, second: Verdict) -> Verdict:
    """One verdict of two rounds of questions of the same gate."""
    return Verdict(
        gate=first.gate,
        series=max(first.series, second.series),
        rules=first.rules + second.rules,
        budget=first.budget,
        findings=in_order((*first.findings, *second.findings)),
        broken=(*first.broken, *second.broken),
    )


@dataclass(frozen=True)
class _Meaning:
    reason: str
    severity: Severity
    detail: str
    rows: str | None


def _judge(frame: pl.DataFrame, result: Any, *, asset: str) -> list[Finding] | BrokenRule:
    config = result.expectation_config
    rule = f"{asset}.{config.type}({config.kwargs.get('column', '')})"
    raised = _exception(result.exception_info)
    if raised is not None:
        return BrokenRule(rule, raised)
    try:
        meaning = _Meaning(**(config.meta or {}))
    except TypeError as error:
        return BrokenRule(rule, f"its meta does not say what a failure means ({error}); build it with `because`")
    if meaning.severity not in _SEVERITIES:
        return BrokenRule(rule, f"unknown severity {meaning.severity!r}; expected one of {', '.join(_SEVERITIES)}")
    if result.success:
        return []
    marks = (result.result or {}).get("unexpected_index_list")
    try:
        if marks is None:
            # A rule on the whole asset (a row count, a maximum): it answers with one observed value.
            observed = {"observed": word((result.result or {}).get("observed_value"))}
            return [Finding(None, meaning.reason, meaning.severity, 0, meaning.detail.format(**observed), rule)]
        offending = frame.filter(pl.col(_ROW).is_in(sorted({mark[_ROW] for mark in marks})))
        return _per_series(offending, meaning, rule)
    except (KeyError, IndexError, pl.exceptions.ColumnNotFoundError) as error:
        return BrokenRule(rule, f"its detail or its rows name something the asset lacks ({error!r})")


def _per_series(offending: pl.DataFrame, meaning: _Meaning, rule: str) -> list[Finding]:
    if ID in offending.columns:
        groups = offending.partition_by(ID, maintain_order=True)
    else:
        groups = [offending.slice(i, 1) for i in range(offending.height)]
    findings = []
    for group in groups:
        first = group.row(0, named=True)
        rows = group.height
        if meaning.rows is not None:
            rows = 0 if meaning.rows == "0" else int(group.get_column(meaning.rows).sum())
        words = {name: word(value) for name, value in first.items()} | {"rows": str(rows)}
        detail = meaning.detail.format(**words)
        findings.append(Finding(first.get(ID), meaning.reason, meaning.severity, rows, detail, rule))
    return findings


def word(value: Any) -> str:
    """A value as people read it in a sentence."""
    if value is None:
        return "nothing"
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d}" if (value.hour, value.minute) == (0, 0) else f"{value:%Y-%m-%d %H:%M}"
    if isinstance(value, float):
        return f"{value:.6g}" if math.isfinite(value) else str(value)
    return str(value)


def _exception(info: Any) -> str | None:
    """The first exception in a result's `exception_info`, which is flat, or nested by metric."""
    if not info:
        return None
    records = [info] if "raised_exception" in info else [its for its in info.values() if isinstance(its, Mapping)]
    for record in records:
        if record.get("raised_exception"):
            message = str(record.get("exception_message") or record.get("exception_traceback") or "no message")
            return message.strip().splitlines()[-1]
    return None
