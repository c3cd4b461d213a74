#!/usr/bin/env bash
# The faults that the protocol's model did not know, each done to a build that does not stand it: the
# checker must say so. Minutes long, and not part of .ci/run.
#
#   chaos-broken.sh [NAME...]      the beginnings of faults' names; without: all of the table below
#
# BUILD is a rule of internal/broken.h, which the chaos build then breaks (SJE_BREAK), or `before`: the
# commit from before these faults were stood, with the crash points of today. The exit status is 1
# where the rule that is expected was not among those that were violated.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=tools/proc.sh
. tools/proc.sh

BEFORE=44227f8
TREE=build/chaos-before
# FAULT|BUILD|RULE OF THE CHECKER|SECONDS
TABLE="settings changed at random|LEASE_DATA|overlap|60
managers whose files differ|before|overlap|75
workDir swapped|IDENTITY|overlap|40
nodeId doubled|IDENTITY|overlap|40
clock stepped back|before|stuck|40
tasks moved|before|overlap|40
forged beats of a live worker over HTTP|before|harmless|40
forged beats of a live worker through the broker|IDENTITY|harmless|40
beats of a dead worker replayed|STALE|stuck|40
workDir hung for 1 to 3 leases|before|overlap|60
SIGSTOP of a worker and its shims' outer processes|before|overlap|40
node that fails everything|before|outcome|40
kill -9 of a shim whose task left detached descendants|before|overlap|40"

build_before() {
    [ ! -x "$TREE/build/chaos/bin/sje-executor" ] || return 0
    rm -rf "$TREE"
    mkdir -p "$TREE"
    git archive "$BEFORE" | tar -x -C "$TREE"
    cp internal/chaos.h "$TREE/internal/"
    [ ! -d .deps ] || cp -r .deps "$TREE/"
    ln -sfn "$PWD/.venv" "$TREE/.venv"
    "${MAKE:-make}" -s -C "$TREE" -j"$(nproc)" FLAVOUR=chaos all
}

wanted() { # FAULT
    [ "${#names[@]}" -gt 0 ] || return 0
    local name
    for name in "${names[@]}"; do
        [[ $1 != "$name"* ]] || return 0
    done
    return 1
}

names=("$@")
tools/deps.sh test
"${MAKE:-make}" -s -j"$(nproc)" FLAVOUR=chaos chaos-bins
apart=()
if [ "$(id -u)" = 0 ] && unshare --mount true 2>/dev/null; then
    apart=(env SJE_CHAOS_MOUNTS=1 unshare --mount)
fi
caught=0
missed=0
while IFS='|' read -r fault build rule seconds; do
    wanted "$fault" || continue
    bin=build/chaos/bin
    broken=$build
    if [ "$build" = before ]; then
        build_before >/dev/null
        bin=$TREE/build/chaos/bin
        broken=
    fi
    run=$(mktemp -d "$PWD/build/chaos-run.XXXXXX")
    chmod 755 "$run"
    SJE_BREAK=$broken "${apart[@]}" .venv/bin/python tests/chaos/run.py "$run" "$seconds" --bin "$bin" \
        --mark build/chaos/tests/chaos/mark --seed "${SEED:-1}" --rate 5 --long 0.3 --patience 0.3 \
        --only "$fault" >"$run.log" 2>&1 </dev/null || true
    if grep -q "^VIOLATION $rule:" "$run.log"; then
        echo "ok    $fault ($build): $(grep -c '^VIOLATION' "$run.log") violations, $(
            grep -m 1 "^VIOLATION $rule:" "$run.log" | cut -c 11-150)"
        caught=$((caught + 1))
        rm -rf "$run" "$run.log"
    else
        echo "FAIL  $fault ($build): no violation of '$rule'; see ${run#"$PWD"/} and its .log"
        missed=$((missed + 1))
    fi
done <<<"$TABLE"
echo "$caught caught, $missed not caught"
[ "$missed" = 0 ] && [ "$caught" -gt 0 ]
