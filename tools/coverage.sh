#!/usr/bin/env bash
# All tests in flavour coverage, then a browsable report: coverage-report/index.html.
set -euo pipefail
cd "$(dirname "$0")/.."

tools/deps.sh lint
find build/coverage -name '*.gcda' -delete 2>/dev/null || true
status=0
tools/test.sh coverage unit integration e2e || status=$?
rm -rf coverage-report
mkdir coverage-report
gcovr --root . --object-directory build/coverage --filter 'internal/|pkg/|api/|cmd/' \
    --gcov-ignore-parse-errors --html-details coverage-report/index.html --txt coverage-report/summary.txt \
    build/coverage
cat coverage-report/summary.txt
echo "coverage: coverage-report/index.html; the tests ended with $status"
exit "$status"
