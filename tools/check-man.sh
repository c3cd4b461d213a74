#!/usr/bin/env bash
# The manual pages are sound and sje-executor(8) has every option of its program.
#
#   check-man.sh BIN      the directory of the built programs
set -euo pipefail
cd "$(dirname "$0")/.."

failed=0
for page in docs/man/*; do
    warnings=$(groff -man -ww -Tutf8 -z "$page" 2>&1)
    [ -z "$warnings" ] || { echo "$warnings" >&2; failed=1; }
done
text=$(sed 's/\\-/-/g' docs/man/sje-executor.8)
while read -r option; do
    grep -qF -- "$option" <<<"$text" || { echo "man: sje-executor.8 lacks $option" >&2; failed=1; }
done < <("$1"/sje-executor --help | grep -oE -- '--[a-z-]+' | sort -u)
[ "$failed" = 0 ] && echo "man: $(find docs/man -type f | wc -l) pages in order"
exit "$failed"
