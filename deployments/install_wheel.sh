#!/usr/bin/env bash
# Build the wheel of this source tree and install it, at the versions of constraints.txt, into a new environment.
# Usage: install_wheel.sh FOLDER      (PYTHON: the interpreter to build with, default python3)
set -euo pipefail

target=$1
source=$(cd "$(dirname "$0")/.." && pwd)
wheels=$(mktemp -d)
trap 'rm -rf "$wheels"' EXIT

"${PYTHON:-python3}" -m venv "$target"
pip=("$target/bin/python" -m pip --quiet --quiet)
"${pip[@]}" install --upgrade "pip>=25.1"
"${pip[@]}" wheel --no-deps --wheel-dir "$wheels" "$source"
wheel=$(echo "$wheels"/nightcast-*.whl)
"${pip[@]}" install --constraint "$source/constraints.txt" "${wheel}[postgres]"
"$target/bin/python" -m pip check
