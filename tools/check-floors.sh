#!/usr/bin/env bash
# Who may include whom. Includes of the project are written from the root ("internal/log.h").
#
#   internal <- pkg/task <- pkg/executors <- pkg/worker,  pkg/task <- pkg/manager,  both <- api <- cmd
#
# A library header that belongs to one module is included by that module's .c alone.
set -euo pipefail
cd "$(dirname "$0")/.."

# directory, then what it may include of the project (a prefix ending in / is a whole directory)
RULES='
internal            internal/
pkg/task            internal/ pkg/task/
pkg/executors       internal/ pkg/task/ pkg/executors/
pkg/worker          internal/ pkg/task/ pkg/executors/ pkg/worker/
pkg/manager         internal/ pkg/task/ pkg/manager/
api                 internal/ pkg/task/ pkg/manager/ pkg/worker/ pkg/executors/ api/
cmd/sje-executor    internal/ pkg/ api/ cmd/sje-executor/
cmd/sje             internal/ pkg/task/ cmd/sje/
cmd/sje-shim        internal/chaos.h pkg/executors/plan.h cmd/sje-shim/
cmd/sje-spark       internal/ pkg/task/ pkg/executors/ cmd/sje-spark/
'
OWNERS='
amqp.h          internal/mq
amqp_framing.h  internal/mq
libpq-fe.h      internal/db
microhttpd.h    internal/http
yaml.h          internal/config
'
failed=0

fail() {
    echo "floors: $*" >&2
    failed=1
}

includes() { # FILE...: file:line:header of every #include "..."
    grep -nHoE '^ *# *include +"[^"]+"' "$@" | sed -E 's/# *include +"([^"]+)"/\1/; s/: +/:/' || true
}

allowed_for() { # FILE: the right-hand side of its rule
    local dir allowed
    while read -r dir allowed; do
        [ -n "$dir" ] && [[ $1 == "$dir"/* ]] && echo "$allowed" && return 0
    done <<<"$RULES"
    return 1
}

mapfile -t sources < <(git ls-files --cached --others --exclude-standard -- \
    'internal/*.[ch]' 'pkg/*.[ch]' 'api/*.[ch]' 'cmd/*.[ch]' '*.def')
for file in "${sources[@]}"; do
    allowed=$(allowed_for "$file") || { fail "$file: no rule for its directory"; continue; }
    while IFS=: read -r _ line header; do
        [ -n "$header" ] || continue
        ok=no
        for prefix in $allowed; do
            [[ $header == "$prefix" || ($prefix == */ && $header == "$prefix"*) ]] && ok=yes
        done
        [ "$ok" = yes ] || fail "$file:$line: may not include $header (only: $allowed)"
    done < <(includes "$file")
done

while read -r header owner; do
    [ -n "$header" ] || continue
    while IFS=: read -r file line _; do
        [[ -z $file || $file == "$owner"*.c ]] || fail "$file:$line: <$header> belongs to $owner"
    done < <(grep -nH "include <$header>" "${sources[@]}" || true)
done <<<"$OWNERS"

[ "$failed" = 0 ] && echo "floors: ${#sources[@]} files in order"
exit "$failed"
