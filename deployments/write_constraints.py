"""Write constraints.txt: one tested version of everything that pyproject.toml asks for, directly or not.

Run by `make constraints`, from the repository root, with pip 25.1 or newer. Nothing is installed: pip resolves and
reports. Versions lose their local part (`2.13.0+cpu` -> `2.13.0`), which only says which build this machine took.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

EXTRAS = "postgres,chronos,timesfm,ttm,mint"
HEADER = """\
# Every package of a full installation, at the versions the tests ran with.
# Made by `make constraints`: pip resolved '.[{extras}]' with the groups dev and docs of pyproject.toml,
# on CPython {python}, Linux. Edit pyproject.toml and run it again instead of editing this file.
# Use: pip install --constraint constraints.txt nightcast
"""


def resolve(root: Path, *extra: str) -> dict[str, str]:
    """Name -> version of every package pip would install; nothing is installed."""
    command = [
        *(sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--quiet", "--report", "-"),
        *(f".[{EXTRAS}]", "--group", "dev", "--group", "docs", *extra),
    ]
    report = json.loads(subprocess.run(command, cwd=root, check=True, stdout=subprocess.PIPE).stdout)
    found = {item["metadata"]["name"]: item["metadata"]["version"] for item in report["install"]}
    del found["nightcast"]
    return {name: version.partition("+")[0] for name, version in found.items()}


def main() -> None:
    """Resolve and write; arguments go to pip (`--constraint FILE` keeps versions that are known)."""
    root = Path(__file__).resolve().parents[1]
    pins = resolve(root, *sys.argv[1:])
    lines = [f"{name}=={version}\n" for name, version in sorted(pins.items(), key=lambda pin: pin[0].lower())]
    python = ".".join(str(part) for part in sys.version_info[:3])
    text = HEADER.format(python=python, extras=EXTRAS) + "".join(lines)
    (root / "constraints.txt").write_text(text, encoding="utf-8")
    print(f"constraints.txt: {len(pins)} packages")


if __name__ == "__main__":
    main()
