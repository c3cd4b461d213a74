#!/usr/bin/env bash
# `make bench`: builds, installs what is missing (Python packages below build/bench only), measures.
#
#   run.sh [--quick] [NAME...]    see bench.py
set -euo pipefail
cd "$(dirname "$0")/../.."

tools/deps.sh test
"${MAKE:-make}" -s -j"$(nproc)" all bench-bins
stamp=build/bench/venv/$(sha256sum tests/bench/requirements.txt | cut -c1-16).done
if [ ! -f "$stamp" ]; then
    python3 -m venv --clear build/bench/venv
    PIP_DISABLE_PIP_VERSION_CHECK=1 build/bench/venv/bin/pip install -q --no-input \
        -r tests/bench/requirements.txt
    : >"$stamp"
fi
# A database as one would set it up for this machine; what makes a commit durable stays as it is.
export SJE_POSTGRES_OPTIONS="-c max_connections=120 -c shared_buffers=512MB -c max_wal_size=4GB"
exec .venv/bin/python tests/bench/bench.py "$@"
