#!/usr/bin/env bash
# A chaos run: faults of all kinds under load, judged by an independent checker (docs/reliability.md).
#
#   chaos.sh SECONDS [--report] [OPTION...]    options: see tests/chaos/run.py; --report replaces the
#                                              table in docs/reliability.md by that of this run
#
# The evidence is kept below build/ where something was violated.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=tools/proc.sh
. tools/proc.sh

OUT=build/chaos
seconds=$1
shift
options=()
for option in "$@"; do
    [ "$option" != --report ] || option=--table=docs/reliability.md
    options+=("$option")
done

tools/deps.sh test
"${MAKE:-make}" -s -j"$(nproc)" FLAVOUR=chaos chaos-bins
mkdir -p build
RUN=$(mktemp -d "$PWD/build/chaos-run.XXXXXX")
chmod 755 "$RUN"

# Where it is allowed: mounts that nobody else sees, and that go with the run.
apart=()
if [ "$(id -u)" = 0 ] && unshare --mount true 2>/dev/null; then
    apart=(env SJE_CHAOS_MOUNTS=1 unshare --mount)
fi
status=0
"${apart[@]}" .venv/bin/python tests/chaos/run.py "$RUN" "$seconds" --bin "$OUT/bin" \
    --mark "$OUT/tests/chaos/mark" "${options[@]}" || status=$?
if [ "$status" = 0 ]; then
    rm -rf "$RUN"
else
    say "the evidence is in ${RUN#"$PWD"/}"
fi
exit "$status"
