#!/usr/bin/env bash
# Runs the test suite on every supported Python, with transformers 4 and 5, each in an environment
# of its own (.venv-matrix-*, kept for the next run), and prints a table at the end. A Python that
# is not on this machine is skipped and named as skipped.
#
# usage: scripts/test_matrix.sh
#   PYTHONS="3.11 3.12 3.13"  TRANSFORMERS="4 5"   which ones to run
#   INSTALL_ONLY=1                                 make the environments, run no test
#   JOBS=2                                         how many at a time; default one for two cores
set -uo pipefail
cd "$(dirname "$0")/.."
pythons=${PYTHONS:-3.11 3.12 3.13}
transformers=${TRANSFORMERS:-4 5}
jobs=${JOBS:-$((($(nproc) + 1) / 2))}

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

# Runs one environment, its output in a log; leaves one line of the table.
run_and_record() {
    local version=$1 major=$2 python constraints=constraints.txt started=$SECONDS result
    python=$(find_python "$version")
    [ "$major" = 4 ] && constraints=constraints-transformers4.txt
    if [ -z "$python" ]; then
        result="skipped: no Python $version on this machine"
    elif run_one "$python" ".venv-matrix-$version-transformers$major" "$constraints" \
        >"$logs/$version-$major.log" 2>&1; then
        result="$done_word in $((SECONDS - started)) s"
    else
        result="FAILED"
        cat "$logs/$version-$major.log"
    fi
    grep -E '^python |^[0-9]+ (passed|failed)|^(FAILED|ERROR) ' "$logs/$version-$major.log" 2>/dev/null
    printf '%-8s %-14s %s\n' "$version" "$major" "$result" | tee "$logs/$version-$major.result"
}

done_word=passed
[ -n "${INSTALL_ONLY:-}" ] && done_word=installed
logs=$(mktemp -d)
trap 'rm -rf "$logs"' EXIT
for version in $pythons; do
    for major in $transformers; do
        while [ "$(jobs -rp | wc -l)" -ge "$jobs" ]; do wait -n; done
        run_and_record "$version" "$major" &
    done
done
wait

echo
printf '%-8s %-14s %s\n' Python transformers result
cat "$logs"/*.result
! grep -q FAILED "$logs"/*.result
