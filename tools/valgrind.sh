#!/usr/bin/env bash
# Unit tests, and a server that works and is stopped, under valgrind: no error, nothing lost.
set -euo pipefail
cd "$(dirname "$0")/.."

tools/deps.sh lint
export SJE_WRAP='valgrind -q --leak-check=full --errors-for-leak-kinds=definite --error-exitcode=99'
export SJE_SLOW=10
export SJE_TESTS='tests/e2e/test_queue.py tests/e2e/test_log.py tests/e2e/test_bad_input.py'
exec tools/test.sh release unit e2e
