#!/usr/bin/env bash
# Runs the test suite with the oldest versions that setup.py allows (and of what they need in turn
# the newest that fit), in .venv-floors: what its lower bounds promise.
#
# usage: scripts/test_floors.sh PYTHON
#   INSTALL_ONLY=1   make the environment, run no test
set -euo pipefail
cd "$(dirname "$0")/.."
tools=.venv-tools venv=.venv-floors
[ -x $tools/bin/uv ] || { "$1" -m venv $tools && $tools/bin/python -m pip install -q uv; }
"$1" -m venv --clear $venv
$tools/bin/uv pip install -q --python $venv/bin/python --resolution lowest-direct -e '.[dev]' pip
$venv/bin/prosocial setup --yes
$tools/bin/uv pip list --python $venv/bin/python >$venv/versions.txt
[ -n "${INSTALL_ONLY:-}" ] || $venv/bin/python -m pytest -q -n auto --maxprocesses 4 --dist loadfile
