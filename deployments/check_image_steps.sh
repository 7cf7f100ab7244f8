#!/usr/bin/env bash
# What the Dockerfile does, without a container engine: build the wheel, install it with the constraints into an
# environment of its own, run the image's smoke test away from the source tree, as a user's home that is empty.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT

bash "$here/install_wheel.sh" "$place/venv"
mkdir "$place/home" "$place/elsewhere"
cd "$place/elsewhere"
env -u PYTHONPATH HOME="$place/home" NIGHTCAST_HOME="$place/home/nightcast" PYTHONUTF8=1 \
    PATH="$place/venv/bin:$PATH" bash "$here/smoke_test.sh"
