#!/usr/bin/env bash
# libFuzzer with the address and undefined-behaviour sanitizers on each target of tests/fuzz:
#
#   fuzz.sh SECONDS [TARGET...]     SECONDS for each target
#
# New inputs are collected in build/fuzz/corpus, crashes in build/fuzz/crash-*.
set -euo pipefail
cd "$(dirname "$0")/.."

seconds=$1
shift
tools/deps.sh lint
"${MAKE:-make}" -s -j"$(nproc)" FLAVOUR=fuzz CC=clang fuzz-bins
[ $# -gt 0 ] || mapfile -t targets < <(cd tests/fuzz && printf '%s\n' fuzz_*.c | sed 's/^fuzz_//; s/\.c$//')
targets=("${@:-${targets[@]}}")
passed=0
failed=0
for target in "${targets[@]}"; do
    corpus=build/fuzz/corpus/$target
    mkdir -p "$corpus"
    if "build/fuzz/tests/fuzz/fuzz_$target" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 \
        -max_len=65536 -print_final_stats=1 -artifact_prefix="build/fuzz/crash-$target-" \
        "$corpus" "tests/fuzz/corpus/$target" >"build/fuzz/$target.log" 2>&1; then
        passed=$((passed + 1))
        echo "ok    $target: $(sed -nE 's/^stat::number_of_executed_units: *//p' "build/fuzz/$target.log") inputs"
    else
        failed=$((failed + 1))
        echo "FAIL  $target"
        tail -n 40 "build/fuzz/$target.log" | sed 's/^/      | /'
    fi
done
echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
