#!/usr/bin/env bash
# An attack on a live system of this build: hostile clients and a hostile user of the broker, an innocent
# client beside them, and bars for memory, time and truth (docs/security.md).
#
#   attack.sh SECONDS [OPTION...]    options: see tests/attack/run.py
#
# The evidence is kept below build/ where a bar was violated.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=tools/proc.sh
. tools/proc.sh

seconds=$1
shift
tools/deps.sh test
"${MAKE:-make}" -s -j"$(nproc)" all
mkdir -p build
RUN=$(mktemp -d "$PWD/build/attack-run.XXXXXX")
chmod 755 "$RUN"
status=0
.venv/bin/python tests/attack/run.py "$RUN" "$seconds" "$@" || status=$?
if [ "$status" = 0 ]; then
    rm -rf "$RUN"
else
    echo "attack: the evidence is in ${RUN#"$PWD"/}" >&2
fi
exit "$status"
