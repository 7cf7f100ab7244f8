"""What made a night: commit, lock, code, machine."""

from __future__ import annotations

import functools
import hashlib
import platform
import subprocess
from importlib.metadata import distributions
from pathlib import Path

import nightcast
from nightcast.evaluation.units import code_hash


@functools.cache
def lock_hash() -> str:
    """Hash of every installed distribution and its version."""
    names = sorted({f"{d.metadata['Name'].lower()}=={d.version}" for d in distributions() if d.metadata["Name"]})
    return hashlib.sha256("\n".join(names).encode()).hexdigest()[:16]


@functools.cache
def git_commit() -> str:
    """The commit of the source tree (`+dirty` with local changes), or the wheel's version outside one."""
    root = Path(str(nightcast.__file__)).parent.parent
    if not (root / ".git").exists():
        return f"wheel-{nightcast.__version__}"
    try:
        head = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, timeout=20, check=True
        ).stdout.strip()
        changed = subprocess.run(
            ["git", "status", "--porcelain"], cwd=root, capture_output=True, text=True, timeout=20, check=True
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return f"unknown (nightcast {nightcast.__version__}, git did not answer)"
    return head + ("+dirty" if changed else "")


def provenance() -> dict[str, str]:
    """For manifests, bundles and reports."""
    return {
        "nightcast": nightcast.__version__,
        "git_commit": git_commit(),
        "lock_hash": lock_hash(),
        "code_hash": code_hash(),
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
    }
