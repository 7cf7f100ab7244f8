#!/usr/bin/env bash
# Is what was just installed whole? Run with the environment's bin folder first on PATH, outside the source tree.
set -euo pipefail

nightcast --help > /dev/null
nightcast doctor --quick

python - <<'PYTHON'
"""Every top-level package has to be ours alone: a second owner would overwrite files without a word."""
from importlib.metadata import packages_distributions

OURS = ("nightcast", "workloads", "models", "expectations", "tasks", "flows")
owners = packages_distributions()
wrong = {name: owners.get(name) for name in OURS if set(owners.get(name, ())) != {"nightcast"}}
if wrong:
    raise SystemExit(f"packages that are not ours alone: {wrong}")

from flows.services import deployments_file

assert deployments_file().parent.name == "flows", deployments_file()
print("smoke test passed")
PYTHON
