"""What a home may forget: intermediate files of old nights. Forecasts, pages and the registry are never touched."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

from tasks.settings import Settings


def prune(settings: Settings, *, current: Path) -> int:
    """Remove working folders and cached units older than `keep_days`; returns how many.

    Parameters
    ----------
    current
        The night that just ended; it stays.
    """
    if settings.keep_days is None:
        return 0
    oldest = time.time() - settings.keep_days * 86_400
    found = [*settings.work.glob("*"), *(settings.cache / "units").glob("*/*"), *(settings.cache / "scratch").glob("*")]
    old = [path for path in found if path != current and path.stat().st_mtime < oldest]
    for path in old:
        shutil.rmtree(path)
    return len(old)
