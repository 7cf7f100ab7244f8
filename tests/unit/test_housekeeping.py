"""What a home forgets, and what it never does."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from tasks.housekeeping import prune
from tasks.settings import Settings


def old_folder(path: Path, days: float) -> Path:
    path.mkdir(parents=True)
    (path / "file").write_text("x")
    stamp = time.time() - days * 86_400
    os.utime(path, (stamp, stamp))
    return path


def test_old_working_files_go_and_everything_published_stays(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    gone = [
        old_folder(settings.work / "night-a", 20),
        old_folder(settings.cache / "units" / "ab" / "abc", 20),
        old_folder(settings.cache / "scratch" / "dead", 20),
    ]
    kept = [
        old_folder(settings.work / "tonight", 20),
        old_folder(settings.work / "night-b", 3),
        old_folder(tmp_path / "store" / "forecasts", 400),
        old_folder(settings.reports / "wells", 400),
    ]

    assert prune(settings, current=settings.work / "tonight") == 3
    assert not any(path.exists() for path in gone)
    assert all((path / "file").exists() for path in kept)


def test_without_a_limit_nothing_is_removed(tmp_path: Path) -> None:
    kept = old_folder(tmp_path / "work" / "night-a", 4000)

    assert prune(Settings(home=tmp_path, keep_days=None), current=tmp_path) == 0
    assert kept.exists()


def test_settings_come_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NIGHTCAST_HOME", str(tmp_path))
    monkeypatch.setenv("NIGHTCAST_KEEP_DAYS", "3")
    monkeypatch.setenv("NIGHTCAST_S3_SECRET_ACCESS_KEY", "very-secret-word")
    settings = Settings()

    assert settings.root == tmp_path.resolve()
    assert settings.keep_days == 3
    assert "very-secret-word" not in repr(settings)
