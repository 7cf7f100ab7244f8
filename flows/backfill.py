"""What past nights would have said."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

from prefect import flow

from flows.nightly import run_night
from nightcast.contracts.errors import ConfigError
from nightcast.contracts.frequency import Frequency
from tasks.progress import screen


@flow(name="backfill", log_prints=False)
def backfill(
    spec: str, dates: list[datetime], preset: str = "nightly_cpu", data: str | None = None, home: str | None = None
) -> list[dict[str, Any]]:
    """One night a date, oldest first; each reads no row later than its date and leaves the registry alone."""
    answers = []
    for index, as_of in enumerate(dates):
        screen().say(f"as of {as_of:%Y-%m-%d} ({index + 1} of {len(dates)})")
        answers.append(
            run_night(
                spec,
                preset=preset,
                as_of=as_of.isoformat(),
                data=data,
                mode="backfill",
                home=Path(home) if home else None,
            )
        )
    return answers


def dates_between(first: datetime, last: datetime, every: str) -> list[datetime]:
    """As-of dates from `first` to `last` in calendar steps.

    Raises
    ------
    ConfigError
        If the range is empty or the step unknown.
    """
    step = Frequency.parse(every)
    dates = []
    count = 0
    while (date := step.shift(first, count)) <= last:
        dates.append(date)
        count += 1
    if not dates:
        raise ConfigError(
            f"no as-of date between {first:%Y-%m-%d} and {last:%Y-%m-%d}",
            expected="--from at or before --to",
            remedy="swap them",
        )
    return dates
