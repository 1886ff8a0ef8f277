#!/usr/bin/env bash
# Runs the test suite on every supported Python, with transformers 4 and 5, each in an environment
# of its own (.venv-matrix-*, kept for the next run), and prints a table at the end. A Python that
# is not on this machine is skipped and named as skipped.
#
# usage: scripts/test_matrix.sh
#   PYTHONS="3.11 3.12 3.13"  TRANSFORMERS="4 5"   which ones to run
#   INSTALL_ONLY=1                                 make the environments, run no test
set -uo pipefail
cd "$(dirname "$0")/.."
pythons=${PYTHONS:-3.11 3.12 3.13}
transformers=${TRANSFORMERS:-4 5}

# A pyenv shim named python3.x can exist for a version that is not active: only one that runs counts.
find_python() {
    local candidate
    for candidate in ~/.pyenv/versions/"$1".*/bin/python "$(command -v "python$1")"; do
        if "$candidate" -c 'pass' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
}

up_to_date() {
    [ -f "$1/.installed" ] && [ "$1/.installed" -nt setup.py ] && [ "$1/.installed" -nt "$2" ]
}

run_one() {
    local python=$1 venv=$2 constraints=$3
    if ! up_to_date "$venv" "$constraints"; then
        scripts/install.sh "$python" "$venv" "$constraints" || return 1
    fi
    "$venv/bin/python" -c 'import sys, torch, transformers, numpy, datasets
print("python", sys.version.split()[0], " torch", torch.__version__, " transformers",
      transformers.__version__, " numpy", numpy.__version__, " datasets", datasets.__version__)'
    if [ -z "${INSTALL_ONLY:-}" ]; then
        "$venv/bin/python" -m pytest -q || return 1
    fi
}

done_word=passed
[ -n "${INSTALL_ONLY:-}" ] && done_word=installed
table=()
failed=0
for version in $pythons; do
    python=$(find_python "$version")
    for major in $transformers; do
        constraints=constraints.txt
        [ "$major" = 4 ] && constraints=constraints-transformers4.txt
        echo "== Python $version, transformers $major"
        started=$SECONDS
        if [ -z "$python" ]; then
            result="skipped: no Python $version on this machine"
        elif run_one "$python" ".venv-matrix-$version-transformers$major" "$constraints"; then
            result="$done_word in $((SECONDS - started)) s"
        else
            result="FAILED"
            failed=1
        fi
        echo "$result"
        table+=("$(printf '%-8s %-14s %s' "$version" "$major" "$result")")
    done
done

echo
printf '%-8s %-14s %s\n' Python transformers result
printf '%s\n' "${table[@]}"
exit $failed
