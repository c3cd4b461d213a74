#!/usr/bin/env bash
# Breaks the rules of internal/broken.h in the simulation, one at a time: each must be noticed within
# SIM_SCHEDULES (60000) schedules from SEED (1) on, and the same schedule must be in order with the
# rule kept. The exit status is 1 where that is not so.
#
#   sim-broken.sh PROGRAM [RULE...]     PROGRAM: build/<flavour>/tests/sim/broken
set -euo pipefail
cd "$(dirname "$0")/.."

program=$1
shift
rules=("$@")
if [ "${#rules[@]}" = 0 ]; then
    mapfile -t rules < <(sed -nE 's/^    X\(([A-Z_]+), .*/\1/p' internal/broken.h)
fi
caught=0
missed=0
for rule in "${rules[@]}"; do
    if output=$(SIM_BREAK=$rule SIM_SCHEDULES=${SIM_SCHEDULES:-60000} SEED=${SEED:-1} nice "$program"); then
        echo "FAIL  $rule: nothing was noticed"
        missed=$((missed + 1))
        continue
    fi
    found=$(grep -m 1 '^VIOLATION' <<<"$output" || true)
    seed=$(sed -nE 's/^VIOLATION seed ([0-9]+): .*/\1/p' <<<"$found")
    if [ -z "$seed" ] || ! SIM_BREAK='' SIM_SCHEDULES=1 SEED=$seed "$program" >/dev/null; then
        echo "FAIL  $rule: not because of it: ${found:-$output}"
        missed=$((missed + 1))
    else
        echo "ok    $rule: $found"
        caught=$((caught + 1))
    fi
done
[ -z "${SJE_COUNTS:-}" ] || echo "$caught $missed" >>"$SJE_COUNTS"
echo "$caught caught, $missed not caught"
[ "$missed" = 0 ]
