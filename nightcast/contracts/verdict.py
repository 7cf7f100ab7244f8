"""What a gate says: findings with reason codes, per series, and whether the run may go on."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from nightcast.contracts.errors import BrokenRuleError, GateError

Severity = Literal["stop", "quarantine", "mask", "warn"]
"""`stop`: the table is unusable. `quarantine`: the series gets a fallback. `mask`: the row counts as missing.
`warn`: shown, nothing else."""


@dataclass(frozen=True)
class Finding:
    """One rule that one series (or the table, `series=None`) broke.

    Attributes
    ----------
    reason
        Short code, `duplicate_rows`; documented in docs/gates.md.
    rows
        Number of offending rows (0 for a rule on the whole series).
    detail
        One sentence with the value, for people.
    """

    series: str | None
    reason: str
    severity: Severity
    rows: int
    detail: str
    rule: str


@dataclass(frozen=True)
class BrokenRule:
    """An expectation that raised instead of answering."""

    rule: str
    error: str


@dataclass(frozen=True)
class Verdict:
    """The outcome of one gate.

    Attributes
    ----------
    gate
        `raw`, `features` or `forecast`.
    series
        Number of series looked at.
    budget
        Largest share of series that may be in quarantine before the run stops.
    rules
        Number of rules asked.
    """

    gate: str
    series: int
    rules: int
    budget: float
    findings: tuple[Finding, ...] = ()
    broken: tuple[BrokenRule, ...] = field(default=())

    @property
    def quarantined(self) -> dict[str, tuple[str, ...]]:
        """Series in quarantine -> its reason codes, sorted."""
        out: dict[str, set[str]] = {}
        for finding in self.findings:
            if finding.severity == "quarantine" and finding.series is not None:
                out.setdefault(finding.series, set()).add(finding.reason)
        return {series: tuple(sorted(reasons)) for series, reasons in sorted(out.items())}

    @property
    def masked_rows(self) -> int:
        """Rows counted as missing."""
        return sum(finding.rows for finding in self.findings if finding.severity == "mask")

    def raise_if_stopped(self) -> None:
        """Raise if the run must not go on.

        Raises
        ------
        BrokenRuleError
            If a rule raised.
        GateError
            If a table-level rule failed or the quarantine budget is passed.
        """
        if self.broken:
            first = self.broken[0]
            raise BrokenRuleError(
                f"{len(self.broken)} rule(s) of the {self.gate} gate raised, first {first.rule}: {first.error}",
                expected="every expectation to answer yes or no",
                remedy="mend the rule in expectations/; the data were not judged",
            )
        stops = [finding for finding in self.findings if finding.severity == "stop"]
        if stops:
            raise GateError(
                f"the {self.gate} gate stopped the run: {stops[0].detail} ({stops[0].reason})",
                expected="a table that satisfies every table-level rule",
                remedy="mend the input; `nightcast validate` shows all findings without training",
            )
        share = len(self.quarantined) / max(self.series, 1)
        if share > self.budget:
            reasons = sorted({reason for its in self.quarantined.values() for reason in its})
            raise GateError(
                f"{len(self.quarantined)} of {self.series} series ({share:.0%}) are in quarantine at the {self.gate} "
                f"gate ({', '.join(reasons)})",
                expected=f"at most {self.budget:.0%}",
                remedy="mend the input (`nightcast validate` lists the findings) or raise `gates.budget`",
            )

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Verdict:
        """Back from JSON values."""
        rest = {key: item for key, item in value.items() if key not in ("findings", "broken")}
        return cls(
            **rest,
            findings=tuple(Finding(**item) for item in value["findings"]),
            broken=tuple(BrokenRule(**item) for item in value["broken"]),
        )
