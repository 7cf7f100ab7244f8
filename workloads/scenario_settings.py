"""What a scenario changes: settings as people write them, and the plans that they make of the base's."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from difflib import SequenceMatcher
from fnmatch import fnmatchcase
from typing import Final

import numpy as np
from numpy.typing import NDArray

from nightcast.contracts.errors import ConfigError

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

COLUMNS: Final[Mapping[str, str]] = {"uptime": "uptime", "wbhp": "pressure", "wwir": "injection"}
"""Covariate -> what the model calls it."""
EXAMPLE: Final = '--set "I03.wwir:+10%"'
"""A setting that the generated field understands."""
_FORM: Final = "WELL.COLUMN:+10%, WELL.COLUMN:-10% or WELL.COLUMN:VALUE, and @MONTH or @MONTH..MONTH after it"
_MONTH = r"\d{4}-\d{2}(?:-\d{2})?"
_SETTING = re.compile(
    r"^(?P<wells>[^=:@]+)\.(?P<column>[A-Za-z_]+)\s*[:=]\s*(?P<sign>[+-]?)(?P<number>\d+(\.\d+)?)\s*(?P<percent>%?)\s*"
    rf"(?:@\s*(?P<first>{_MONTH})(?P<range>\s*\.\.\s*(?P<last>{_MONTH})?)?)?$"
)
_NEAREST: Final = 12
"""Wells that an error names."""


@dataclass(frozen=True)
class Change:
    """One setting: which wells, which covariate, the new value (or the change of the old one), and when.

    Attributes
    ----------
    wells
        Name, or a pattern with `*` and `?`.
    column
        `uptime`, `wbhp` or `wwir`.
    relative
        Whether `amount` is a factor's change (`+10 %` is 0.1) and not a value.
    first, last
        First and last month, `2025-03` or a period's first day; empty: from the first one on, to the end.
    """

    wells: str
    column: str
    amount: float
    relative: bool
    first: str = ""
    last: str = ""
    text: str = field(default="", compare=False)

    def applied(self, values: Floats) -> Floats:
        """New values for old ones."""
        return values * (1.0 + self.amount) if self.relative else np.full_like(values, self.amount)

    def within(self, times: Sequence[datetime]) -> Bools:
        """`(H,)` steps in which it holds, by the first day of each.

        Raises
        ------
        ConfigError
            If a month does not exist or the setting holds in none of the steps.
        """
        for month in (self.first, self.last):
            try:
                datetime.strptime(f"{month}-01"[:10] if month else "2000-01-01", "%Y-%m-%d")
            except ValueError as error:
                raise ConfigError(
                    f"--set {self.said!r}: there is no {month}", expected="a month of the calendar", remedy="correct it"
                ) from error
        labels = [f"{time:%Y-%m-%d}" for time in times]
        # A month without a day stands for all that begins in it: `~` comes after every digit.
        hit = np.array([self.first <= label and (not self.last or label <= f"{self.last}~") for label in labels])
        unknown = [month for month in (self.first, self.last) if month and not any(x.startswith(month) for x in labels)]
        if unknown or not hit.any():
            raise ConfigError(
                f"--set {self.said!r} holds in {' and '.join(sorted(set(unknown))) or 'no month'}: not forecast",
                expected=f"months from {labels[0][:7]} to {labels[-1][:7]}, the first one no later than the last",
                remedy=f"such as @{labels[0][:7]}..{labels[-1][:7]}",
            )
        return hit

    @property
    def said(self) -> str:
        """As it was written."""
        return self.text or f"{self.wells}.{self.column}"


def parse_change(text: str) -> Change:
    """Read `I03.wwir:+10%`, `P*.uptime:0.9`, `P07.wbhp:-5%`, `I03.wwir:+10%@2025-03..2025-05`.

    Raises
    ------
    ConfigError
        If the text is not of that form, names no covariate of the physical block, or asks for what cannot be: a
        negative rate, a pressure of nothing, an uptime above 1.
    """
    found = _SETTING.match(text.strip())
    if found is None or bool(found["sign"]) != bool(found["percent"]):
        raise ConfigError(
            f"--set {text!r} cannot be read",
            expected=f"{_FORM}; a percentage with its sign, a value with none; WELL may be a pattern such as I*",
            remedy=f"such as {EXAMPLE}",
        )
    column = found["column"].lower()
    if column not in COLUMNS:
        raise ConfigError(
            f"--set {text!r} changes {found['column']!r}",
            expected=f"one of {', '.join(COLUMNS)}",
            remedy="name what people can set: uptime, bottom-hole pressure or injection",
        )
    number = float(found["number"]) * (-1 if found["sign"] == "-" else 1)
    relative = bool(found["percent"])
    _require_possible(text, column, number, relative)
    first = found["first"] or ""
    last = (found["last"] or "") if found["range"] else first
    return Change(found["wells"].strip(), column, number / 100 if relative else number, relative, first, last, text)


def _require_possible(text: str, column: str, number: float, relative: bool) -> None:
    if relative:
        if number < -100 or (column == "wbhp" and number == -100):
            least = "more than -100 %" if column == "wbhp" else "-100 % or more"
            raise ConfigError(
                f"--set {text!r} takes {-number:g} % off {column}",
                expected=f"{least}: nothing is left to take",
                remedy=f"such as {column}:-50%, or a value" if column == "wbhp" else f"{column}:0 shuts it",
            )
    elif column == "uptime" and not 0 <= number <= 1:
        raise ConfigError(
            f"--set {text!r} sets an uptime of {number:g}",
            expected="a share of the month on stream between 0 and 1",
            remedy=f"{number:g} % is uptime:{number / 100:g}" if 2 <= number <= 100 else "such as uptime:0.9",
        )
    elif column == "wbhp" and number <= 0:
        raise ConfigError(
            f"--set {text!r} sets a pressure of {number:g} bar", expected="bar above 0", remedy="such as wbhp:80"
        )


@dataclass(frozen=True)
class Outside:
    """A setting beyond what its well has seen.

    Attributes
    ----------
    times
        Distance from the nearest value seen, in spans of the range seen (in largest values where it is one point).
    steps
        `(H,)` when.
    """

    well: str
    column: str
    times: float
    steps: Bools


@dataclass(frozen=True)
class Case:
    """Plans of a case.

    Attributes
    ----------
    plans
        As those of the base, changed.
    flags
        A sentence on each thing to know before the answer is believed.
    """

    plans: dict[str, Floats]
    flags: tuple[str, ...]
    changed: tuple[str, ...]
    outside: tuple[Outside, ...]


FAR: Final = 1.0
"""Spans of the range seen from which an answer is not merely extrapolated but without foundation."""


def case_of(
    base: Mapping[str, Floats],
    seen: Mapping[str, Floats],
    changes: Sequence[Change],
    wells: Mapping[str, Sequence[str]],
    times: Sequence[datetime],
) -> Case:
    """Apply settings to the plans of the base.

    Parameters
    ----------
    base
        `uptime` and `pressure` `(H, J)`, `injection` `(H, I)`.
    seen
        The same of the past, `(T, J)` and `(T, I)`.
    wells
        Names of the wells of each.
    times
        First days of the steps.

    Raises
    ------
    ConfigError
        If a setting names no well that has the covariate, none of the steps, or what another setting has set already.
    """
    plans = {name: values.copy() for name, values in base.items()}
    flags: list[str] = []
    outside: list[Outside] = []
    changed: set[str] = set()
    taken: dict[tuple[str, str], list[tuple[Change, Bools]]] = {}
    for change in changes:
        name = COLUMNS[change.column]
        steps = change.within(times)
        hit = [at for at, well in enumerate(wells[name]) if well == change.wells or fnmatchcase(well, change.wells)]
        if not hit:
            raise _no_well(change, wells)
        if name == "pressure":
            hit = _gauged(change, hit, base[name], wells[name], flags)
        for at in hit:
            well = wells[name][at]
            for other, its in taken.setdefault((well, change.column), []):
                if (its & steps).any():
                    raise ConfigError(
                        f"{well} {change.column} is set twice for {times[int((its & steps).argmax())]:%Y-%m}: by "
                        f"{other.said!r} and {change.said!r}",
                        expected="one setting of a well and column in each month",
                        remedy="leave one out, or give them months that do not overlap (@2025-01..2025-03)",
                    )
            taken[well, change.column].append((change, steps))
            new = change.applied(base[name][steps, at])
            if name == "uptime" and (new > 1).any():
                flags.append(f"{well} uptime would be {new.max():.4g}: a month has no more than 1, which was taken")
                new = np.minimum(new, 1.0)
            if change.relative and change.amount and not base[name][steps, at].any():
                flags.append(
                    f"{well} {change.column} is 0 in the base: a percentage of it changes nothing; give a value"
                )
            plans[name][steps, at] = new
            changed.add(well)
            _judge(change, well, plans[name][:, at], steps, seen[name][:, at], flags, outside)
    return Case(plans, tuple(flags), tuple(sorted(changed)), tuple(outside))


def _gauged(change: Change, hit: list[int], pressure: Floats, wells: Sequence[str], flags: list[str]) -> list[int]:
    """Wells with a known pressure: without one there is no productivity, and nothing can be told."""
    gauged = [well for well, its in zip(wells, pressure.T, strict=True) if np.isfinite(its).all()]
    known = [at for at in hit if wells[at] in gauged]
    if not known:
        raise ConfigError(
            f"--set {change.said!r}: {_named([wells[at] for at in hit])} has no known bottom-hole pressure",
            expected=f"a well with a gauge: {_named(gauged) or 'there is none'}",
            remedy="choose one of these, or set its uptime",
        )
    if lacking := [wells[at] for at in hit if at not in known]:
        flags.append(f"{_named(lacking)}: no known bottom-hole pressure, so no answer to wbhp; left as in the base")
    return known


def _judge(
    change: Change, well: str, values: Floats, steps: Bools, past: Floats, flags: list[str], outside: list[Outside]
) -> None:
    past = past[np.isfinite(past)]
    if not past.size:
        flags.append(f"{well} {change.column}: no past value is known, the answer extrapolates")
        outside.append(Outside(well, change.column, float("inf"), steps))
        return
    low, high = float(past.min()), float(past.max())
    excess = np.where(steps, np.maximum(np.maximum(low - values, values - high), 0.0), 0.0)
    beyond = excess > 1e-9 * max(abs(high), 1.0)
    if not beyond.any():
        return
    span = high - low if high > low else max(abs(high), 1e-9)
    worst = int(excess.argmax())
    times = float(excess[worst]) / span
    how = "lies FAR outside" if times > FAR else "lies outside"
    what = "the answer has no foundation in the data, do not use it" if times > FAR else "the answer extrapolates"
    flags.append(
        f"{well} {change.column} = {values[worst]:,.4g} {how} what it has seen ({low:,.4g} to {high:,.4g}), by "
        f"{excess[worst]:,.4g} or {times:.2g} times that range: {what}"
    )
    outside.append(Outside(well, change.column, times, np.asarray(beyond)))


def _no_well(change: Change, wells: Mapping[str, Sequence[str]]) -> ConfigError:
    """An error that names real wells, the likeliest first."""
    name = COLUMNS[change.column]
    own = sorted(
        wells[name],
        key=lambda well: (-SequenceMatcher(None, _bare(change.wells), _bare(well)).ratio(), well),
    )
    kinds = "injectors have wwir, producers uptime and wbhp"
    if not own:
        return ConfigError(
            f"no well has {change.column}: these data report no injection", expected="data with injectors", remedy=kinds
        )
    others = {well for its in wells.values() for well in its}
    what = f"{change.wells!r} has no {change.column}" if change.wells in others else f"no well {change.wells!r}"
    amount = change.said.partition(":")[2] or "+10%"
    return ConfigError(
        f"--set {change.said!r}: {what}",
        expected=f"one of {_named(own)} ({kinds})",
        remedy=f'such as --set "{own[0]}.{change.column}:{amount}"',
    )


def _bare(name: str) -> str:
    """Upper case, no separators or leading zeros, so that INJ-3 is next to I03."""
    return re.sub(r"[^A-Z0-9]", "", re.sub(r"0+(?=\d)", "", name.upper()))


def _named(wells: Sequence[str]) -> str:
    return ", ".join(wells[:_NEAREST]) + (f" and {len(wells) - _NEAREST} more" if len(wells) > _NEAREST else "")
