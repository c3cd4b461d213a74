#!/usr/bin/env bash
# Builds and runs test suites; the last line is `N passed, N failed`, the exit status follows it.
#
#   test.sh FLAVOUR SUITE...     suites: unit, integration, e2e, chaos; flavours: see the Makefile
#
# Each run has a directory of its own below build/ with a broker, a database and ports of its own, so
# two runs side by side do not meet. It is removed when everything passed. SJE_COUNTS=FILE collects
# the counts of several runs; SJE_TESTS='tests/e2e/test_log.py -x' goes to pytest; SJE_WRAP=COMMAND is
# put before test programs and servers.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=tools/proc.sh
. tools/proc.sh

TIMEOUT=300 # seconds for one test program
FLAVOUR=$1
shift
SUITES=" $* "
OUT=build/$FLAVOUR
read -ra WRAP <<<"${SJE_WRAP:-}"

finish() {
    local status=$? passed failed
    trap - EXIT
    [ ! -d "$RUN/services" ] || tools/services.sh stop "$RUN/services" >/dev/null || true
    read -r passed failed < <(awk '{ p += $1; f += $2 } END { print p + 0, f + 0 }' "$RUN/counts")
    [ "$status" = 0 ] || [ "$failed" != 0 ] || failed=1
    if [ "$failed" = 0 ]; then
        rm -rf "$RUN"
    else
        say "logs are in ${RUN#"$PWD"/}"
        status=1
    fi
    [ -z "${SJE_COUNTS:-}" ] || echo "$passed $failed" >>"$SJE_COUNTS"
    echo "$passed passed, $failed failed"
    exit "$status"
}

# Runs one cmocka program and adds up its closing lines; a crash or a time-out counts as a failure.
program() { # NAME COMMAND...
    local name=$1 log status=0 passed failed
    log=$RUN/${name//\//.}.log
    shift
    timeout -k 5 "$TIMEOUT" "${WRAP[@]}" "$@" >"$log" 2>&1 </dev/null || status=$?
    read -r passed failed < <(awk '/^\[  PASSED  \] [0-9]+ test/ { p += $4 }
        /^\[  FAILED  \] [0-9]+ test/ { f += $4 } END { print p + 0, f + 0 }' "$log")
    [ "$status" = 0 ] || [ "$failed" != 0 ] || failed=1
    echo "$passed $failed" >>"$RUN/counts"
    if [ "$failed" = 0 ]; then
        echo "ok    $name ($passed)"
    else
        echo "FAIL  $name (exit status $status)"
        sed 's/^/      | /' "$log"
    fi
}

programs() { # SUITE JOBS: every program of that suite, JOBS at a time
    local source name
    for source in tests/"$1"/test_*.c; do
        name=$(basename "$source" .c)
        while [ "$(jobs -rp | wc -l)" -ge "$2" ]; do
            wait -n || true
        done
        program "$1/$name" "$OUT/tests/$1/$name" &
    done
    wait
}

# A fuzz target's corpus is run through the target, without fuzzing.
corpora() {
    local source name
    for source in tests/fuzz/fuzz_*.c; do
        [ -f "$source" ] || continue
        name=$(basename "$source" .c)
        program "fuzz/$name" "$OUT/tests/fuzz/$name" "tests/fuzz/corpus/${name#fuzz_}"
    done
}

services() {
    mkdir -p "$RUN/services"
    tools/services.sh start "$RUN/services"
    # shellcheck disable=SC1091
    . "$RUN/services/env"
}

pytests() { # NAME OPTION...
    local name=$1 status=0
    shift
    .venv/bin/python -m pytest -c tests/pytest.ini "$@" 2>&1 | tee "$RUN/$name.log" || status=$?
    # its closing line: ==== 1 failed, 20 passed, 1 error in 61.2s ====
    tail -n 1 "$RUN/$name.log" | awk -v status="$status" '{
        for (i = 2; i <= NF; i++) {
            if ($i ~ /^passed/) p = $(i - 1)
            if ($i ~ /^(failed|errors?)/) f += $(i - 1)
        }
        print p + 0, (status != 0 && f == 0) ? 1 : f + 0
    }' >>"$RUN/counts"
}

e2e() {
    local options
    read -ra options <<<"${SJE_TESTS:-tests/e2e}"
    SJE_BIN="$PWD/$OUT/bin" SJE_SERVICES="$RUN/services" SJE_E2E_DIR="$RUN/e2e" \
        pytests e2e "${options[@]}"
}

# Broker, database and programs of its own: those have crash points.
chaos() {
    "${MAKE:-make}" -s -j"$(nproc)" FLAVOUR=chaos chaos-bins
    SJE_RUN_DIR="$RUN" pytests chaos tests/chaos
}

tools/deps.sh test
mkdir -p build
RUN=$(mktemp -d "$PWD/build/test.XXXXXX")
: >"$RUN/counts"
trap finish EXIT
trap 'exit 130' INT TERM

"${MAKE:-make}" -s -j"$(nproc)" FLAVOUR="$FLAVOUR" all examples unit-bins integration-bins fuzz-bins
if [[ $SUITES == *" unit "* ]]; then
    programs unit "$(nproc)"
    corpora
fi
if [[ $SUITES == *" integration "* || $SUITES == *" e2e "* ]]; then
    services
fi
if [[ $SUITES == *" integration "* ]]; then
    programs integration 1
fi
if [[ $SUITES == *" e2e "* ]]; then
    e2e
fi
if [[ $SUITES == *" chaos "* ]]; then
    chaos
fi
