#!/usr/bin/env bash
# Every check of the source. Each counts as one; the last line is `N passed, N failed`.
set -uo pipefail
cd "$(dirname "$0")/.." || exit

MAKE=${MAKE:-make}
JOBS=$(nproc)
passed=0
failed=0

step() { # NAME COMMAND...
    local name=$1 out
    shift
    if out=$("$@" 2>&1); then
        passed=$((passed + 1))
        echo "ok    $name"
    else
        failed=$((failed + 1))
        echo "FAIL  $name"
        tail -n 60 <<<"$out" | sed 's/^/      | /'
    fi
}

files() { # PATHSPEC...: of the project, also those not yet added
    git ls-files --cached --others --exclude-standard -- "$@"
}

format() {
    files '*.c' '*.h' | xargs clang-format --dry-run -Werror
}

spelling() {
    files ':!examples/data' ':!tests/fuzz/corpus' ':!tests/data' |
        xargs -d '\n' codespell -L fo,nd,pasword,runing,priorty,postgressql
}

build() { # COMPILER: everything, warnings are errors
    "$MAKE" -s -j"$JOBS" CI=1 CC="$1" OUT="build/lint-$1" all unit-bins integration-bins bench-bins
}

headers() { # each header compiles alone
    files '*.h' | xargs -P"$JOBS" -I{} gcc -std=c17 -D_GNU_SOURCE -Wall -Wextra -Werror -I. \
        -I"$(pg_config --includedir)" -fsyntax-only -x c {}
}

tidy() {
    local flags
    flags=$(pkg-config --cflags libuv jansson libpq librabbitmq libmicrohttpd yaml-0.1)
    # shellcheck disable=SC2086
    files '*.c' ':!tests' | xargs -P"$JOBS" -n4 sh -c \
        'clang-tidy --quiet --warnings-as-errors="*" "$@" 2>/dev/null -- '"-std=c17 -D_GNU_SOURCE -DSJE_VERSION='\"lint\"' -I. $flags" sh
}

generated() { # making the generated documents again changes nothing
    local before
    before=$(sha256sum docs/*.md)
    "$MAKE" -s docs && sha256sum --check --quiet <<<"$before"
}

tools/deps.sh lint || exit 1
step "format (make fmt mends it)" format
step "floors" tools/check-floors.sh
step "banned functions" tools/check-banned.sh
step "documents" tools/check-docs.sh
step "headers are self-contained" headers
step "shellcheck" bash -c 'shellcheck -x .ci/run tools/*.sh tests/bench/*.sh'
step "spelling" spelling
step "gcc, warnings are errors" build gcc
step "clang, warnings are errors" build clang
step "clang-tidy" tidy
step "manual pages" tools/check-man.sh build/lint-gcc/bin
step "generated documents" generated
[ -z "${SJE_COUNTS:-}" ] || echo "$passed $failed" >>"$SJE_COUNTS"
echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
