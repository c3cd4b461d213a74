#!/usr/bin/env bash
# Builds and runs test suites; the last line is `N passed, N failed`, the exit status follows it.
#
#   test.sh FLAVOUR SUITE...     suites: unit, sim, integration, e2e, chaos, attack; flavours: see the Makefile
#
# Each run has a directory of its own below build/, so two runs side by side do not meet; it is removed
# when everything passed. What needs services runs in lanes: each lane has a broker, a database and
# ports of its own, and runs one program or one file of end-to-end tests at a time. SJE_LANES=N chooses
# how many. SJE_COUNTS=FILE collects the counts of several runs; SJE_TESTS='tests/e2e/test_log.py -x'
# goes to pytest; SJE_WRAP=COMMAND is put before test programs and servers.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=tools/proc.sh
. tools/proc.sh

TIMEOUT=300 # seconds for one test program
ALONE="e2e/test_proc_hangs" # what it makes is in the way of all others
# Started first, so that no lane works alone at the end.
LONG="e2e/test_spark e2e/test_faults e2e/test_broker e2e/test_database e2e/test_openapi"
FLAVOUR=$1
shift
OUT=build/$FLAVOUR
# The shell may have those of a server that runs here (var/sje.env): the tests set their own.
unset SJE_URL "${!SJE_API_@}" "${!SJE_DB_@}" "${!SJE_MANAGER_@}" "${!SJE_MONITORING_@}" \
    "${!SJE_NODE_@}" "${!SJE_RABBITMQ_@}"
LANES=${SJE_LANES:-$(($(nproc) < 4 ? 2 : 3))}
read -ra WRAP <<<"${SJE_WRAP:-}"

finish() {
    local status=$? passed failed job
    trap - EXIT
    for job in $(jobs -rp); do
        kill -s INT -- "-$job" 2>/dev/null || true
    done
    wait
    for job in "$RUN"/services*; do
        [ ! -d "$job" ] || tools/services.sh stop "$job" >/dev/null || true
    done
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

# One line, and what it printed if it failed. A crash or a time-out counts as a failure.
outcome() { # NAME STATUS PASSED FAILED
    local failed=$4
    [ "$2" = 0 ] || [ "$failed" != 0 ] || failed=1
    echo "$3 $failed" >>"$RUN/counts"
    if [ "$failed" = 0 ]; then
        echo "ok    $1 ($3)"
        sed -n 's/^SKIPPED /      | skipped /p' "$RUN/$1.log"
    else
        echo "FAIL  $1 (exit status $2)"
        [ "$LIVE" = 1 ] || tail -n 1000 "$RUN/$1.log" | sed 's/^/      | /'
    fi
}

program() { # NAME COMMAND...: a cmocka program, or one that says no more than its exit status
    local name=$1 log=$RUN/$1.log status=0 counts
    shift
    timeout --foreground -k 5 "$TIMEOUT" "${WRAP[@]}" "$@" >"$log" 2>&1 </dev/null || status=$?
    read -ra counts < <(awk '/^\[  PASSED  \] [0-9]+ test/ { p += $4 }
        /^\[  FAILED  \] [0-9]+ test/ { f += $4 } END { print p + 0, f + 0 }' "$log")
    outcome "$name" "$status" "${counts[@]}"
}

pytests() { # NAME ARGUMENT...
    local name=$1 log=$RUN/$1.log status=0 counts
    shift
    SJE_BIN="$PWD/$OUT/bin" SJE_E2E_DIR="$RUN/$name" \
        .venv/bin/python -m pytest -c tests/pytest.ini "$@" 2>&1 </dev/null | tee "$log" >&"$LIVE" || status=$?
    # its closing line: ==== 1 failed, 20 passed, 1 error in 61.2s ====
    read -ra counts < <(tail -n 1 "$log" | awk '{
        for (i = 2; i <= NF; i++) {
            if ($i ~ /^passed/) p = $(i - 1)
            if ($i ~ /^(failed|errors?)/) f += $(i - 1)
        }
        print p + 0, f + 0
    }')
    outcome "$name" "$status" "${counts[@]}"
}

# What items() names.
unit() { program "unit/$1" "$OUT/tests/unit/$1"; }
corpus() { program "corpus/$1" "$OUT/tests/fuzz/fuzz_$1" "tests/fuzz/corpus/$1"; }
integration() { program "integration/$1" "$OUT/tests/integration/$1"; }
e2e() { pytests "e2e/$1" "tests/e2e/$1.py"; }
chaos() { # has programs with crash points, and services, of its own
    "${MAKE:-make}" -s -j"$(nproc)" FLAVOUR=chaos chaos-bins
    SJE_RUN_DIR="$RUN" pytests chaos tests/chaos
}
attack() { # has services of its own
    SJE_RUN_DIR="$RUN" pytests attack tests/attack
}
# A fixed seed, and one of this run, which is in the log.
sim() {
    local n=4000
    [ "$FLAVOUR" = release ] || n=300
    SIM_JOBS=1 SIM_SCHEDULES=$n SEED=$1 program "sim/$1" "$OUT/tests/sim/sim"
}
selected() {
    local LIVE=1 options
    read -ra options <<<"$SJE_TESTS"
    pytests e2e/selected "${options[@]}"
}

items() { # SUITE: "SUITE NAME" for each; those in LONG first
    local source name first=() rest=()
    for source in tests/"$1"/test_*.{c,py}; do
        [ -f "$source" ] || continue
        name=$(basename "${source%.*}")
        if [[ " $ALONE " == *" $1/$name "* ]]; then
            continue
        elif [[ " $LONG " == *" $1/$name "* ]]; then
            first+=("$1 $name")
        else
            rest+=("$1 $name")
        fi
    done
    [ "$1" != unit ] || for source in tests/fuzz/corpus/*; do
        rest+=("corpus $(basename "$source")")
    done
    printf '%s\n' "${first[@]}" "${rest[@]}"
}

# Runs each item in a lane that is free, with the settings of that lane.
run_in() { # LANES ITEM...
    local item lane lanes=$1 free
    shift
    mkfifo "$RUN/free"
    exec {free}<>"$RUN/free" # holds the numbers of the lanes that are free
    rm "$RUN/free"
    seq "$lanes" >&"$free"
    for item in "$@"; do
        read -r lane <&"$free"
        (
            trap 'echo "$lane" >&"$free"' EXIT
            # shellcheck disable=SC1090
            [ ! -f "$RUN/services$lane/env" ] || . "$RUN/services$lane/env"
            $item
        ) &
    done
    wait
}

services() { # LANES: starts those of each lane
    local lane pid starting=()
    for ((lane = 1; lane <= $1; lane++)); do
        mkdir -p "$RUN/services$lane"
        tools/services.sh start "$RUN/services$lane" &
        starting+=($!)
    done
    for pid in "${starting[@]}"; do
        wait "$pid"
    done
}

tools/deps.sh test
mkdir -p build
RUN=$(mktemp -d "$PWD/build/test.XXXXXX")
mkdir "$RUN/unit" "$RUN/corpus" "$RUN/integration" "$RUN/e2e" "$RUN/sim"
: >"$RUN/counts"
exec {LIVE}>/dev/null
set -m # each job has a process group, and can be interrupted
trap finish EXIT
trap 'exit 130' INT TERM

"${MAKE:-make}" -s -j"$(nproc)" FLAVOUR="$FLAVOUR" all examples unit-bins integration-bins fuzz-bins
ITEMS=() # those that need services
last=()
alone=
for suite in "$@"; do
    case $suite${SJE_TESTS:+ some} in
    unit*)
        mapfile -t UNITS < <(items unit)
        run_in "$(nproc)" "${UNITS[@]}"
        ;;
    sim*)
        "${MAKE:-make}" -s FLAVOUR="$FLAVOUR" "$OUT/tests/sim/sim"
        run_in "$(nproc)" "sim 1" "sim $(date +%s)"
        ;;
    chaos* | attack*) last+=("${suite% some}") ;; # they want the machine for themselves
    "e2e some") ITEMS+=(selected) ;;
    *) mapfile -t -O "${#ITEMS[@]}" ITEMS < <(items "${suite% some}") ;;
    esac
    [ "$suite${SJE_TESTS:+ some}" != e2e ] || alone=$ALONE
done
if [ "${#ITEMS[@]}" -gt 0 ]; then
    [ "$LANES" -le "${#ITEMS[@]}" ] || LANES=${#ITEMS[@]}
    services "$LANES"
    run_in "$LANES" "${ITEMS[@]}"
fi
for name in $alone; do
    run_in 1 "${name/\// }"
done
for suite in "${last[@]}"; do
    "$suite"
done
