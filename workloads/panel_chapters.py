"""The sections of the page that only panels have: why the forecast changed."""

from __future__ import annotations

from nightcast.reports.change_views import change_chapter
from nightcast.reports.views import Chapter
from workloads.panel_changes import change_reasons
from workloads.stages import Morning


def why(morning: Morning) -> Chapter | None:
    """Why the forecast changed since the one before."""
    if morning.before is None:
        return None
    return change_chapter(change_reasons(morning), unit=morning.unit, missing=morning.before.missing)


CHAPTERS = (why,)
"""In the page's order."""
