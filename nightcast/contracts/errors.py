"""Errors a person reads: the value, what was expected, and the remedy, on one line."""

from __future__ import annotations

from typing import ClassVar


class NightcastError(Exception):
    """Base of all errors that Nightcast raises on purpose.

    Parameters
    ----------
    what
        What was found, with the offending value.
    expected
        What would have been right.
    remedy
        What the reader can do next.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, what: str, *, expected: str, remedy: str) -> None:
        self.what, self.expected, self.remedy = what, expected, remedy
        super().__init__(f"{what}; expected {expected}; {remedy}")

    def __reduce__(self) -> tuple[object, ...]:
        # Errors cross process borders; the keyword-only constructor needs this.
        return _rebuild, (type(self), self.what, self.expected, self.remedy)


def _rebuild(kind: type[NightcastError], what: str, expected: str, remedy: str) -> NightcastError:
    return kind(what, expected=expected, remedy=remedy)


class ConfigError(NightcastError):
    """A workload file, a recipe, a setting or a command-line value is wrong."""

    exit_code = 2


class SourceError(NightcastError):
    """The input cannot be read, or lacks what the workload names."""

    exit_code = 3


class GateError(NightcastError):
    """A gate stopped the run: a table-level rule failed, or more series are in quarantine than the budget allows."""

    exit_code = 4


class BrokenRuleError(NightcastError):
    """An expectation itself raised: a broken rule, not bad data."""

    exit_code = 5


class TrainingError(NightcastError):
    """A model could not be fitted or could not predict."""

    exit_code = 6


class RegistryError(NightcastError):
    """The registry lacks what was asked for, or a bundle fails its checks."""

    exit_code = 7


class PublishError(NightcastError):
    """The store refused a write: another attempt holds the night, or the pointer moved."""

    exit_code = 8


EXIT_CODES: dict[int, str] = {
    0: "done (also: this night was already published)",
    1: "an unexpected error; the traceback is in the log",
    2: "a wrong option, workload file, recipe or setting",
    3: "the input cannot be read or lacks what the workload names",
    4: "a gate stopped the run; nothing was published",
    5: "an expectation raised: a broken rule, not bad data",
    6: "a model could not be fitted or could not predict",
    7: "the registry lacks what was asked for, or a bundle failed its checks",
    8: "the store refused a write: another attempt holds the night",
}
