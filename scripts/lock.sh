#!/usr/bin/env bash
# Writes constraints-hashed.txt anew: every version of constraints.txt, of ParlAI and of the model
# packages, with the SHA-256 of each of its files on the package index. All but torch: it has builds
# for CPU and CUDA in several places, and pip would prefer the one whose hash the index names.
#
# usage: scripts/lock.sh PYTHON
set -euo pipefail
cd "$(dirname "$0")/.."
tools=.venv-tools
[ -x $tools/bin/uv ] || { "$1" -m venv $tools && $tools/bin/python -m pip install -q uv; }
pins=$(mktemp)
trap 'rm -f "$pins"' EXIT
grep -v "^torch==" constraints.txt >"$pins"
"$1" - >>"$pins" <<'PY'
import ast
source = open("parlai_prosocial/compat/installation.py").read()
for node in ast.parse(source).body:
    if isinstance(node, ast.Assign) and node.targets[0].id == "INSTALLED_WITHOUT_DEPENDENCIES":
        for name, version in ast.literal_eval(node.value).items():
            print(f"{name}=={version}")
PY
{
    echo "# Made by scripts/lock.sh (make lock) from constraints.txt; install with"
    echo "# pip install --require-hashes --no-deps -r constraints-hashed.txt"
    "$tools/bin/uv" pip compile -q --no-deps --generate-hashes --no-annotate --no-header \
        --python-version 3.11 "$pins"
} >constraints-hashed.txt.part
mv constraints-hashed.txt.part constraints-hashed.txt
grep -c == constraints-hashed.txt
