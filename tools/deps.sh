#!/usr/bin/env bash
# Installs what is missing, for one of three purposes, each including the one before:
#
#   deps.sh run     build and run: compiler, libraries, RabbitMQ, PostgreSQL, Java, pyspark in .venv
#   deps.sh test    also the tests
#   deps.sh lint    also the checks of the source
#
# musl, with which the shim is linked, is unpacked below .deps and never installed: its loader in /lib
# makes the native libraries of Spark (snappy) take the machine for one of musl, and no Parquet file is
# written on it any more.
#
# Debian packages need root; without it this names the one command that an administrator must run.
# No service of the system is started or changed by it. Python packages go to .venv only.
set -euo pipefail
cd "$(dirname "$0")/.."

RUN=(gcc libc6-dev make pkg-config git
    libuv1-dev libjansson-dev libyaml-dev libpq-dev librabbitmq-dev libmicrohttpd-dev
    libcurl4-openssl-dev uthash-dev
    rabbitmq-server postgresql python3 python3-venv procps curl)
TEST=(libcmocka-dev pgbouncer chromium)
LINT=(clang libclang-rt-dev clang-format clang-tidy shellcheck codespell gcovr groff-base valgrind)
JDK=openjdk-17-jdk-headless

# shellcheck source=tools/proc.sh
. tools/proc.sh

retry() { # COMMAND...: a network step, up to three times
    local try
    for try in 1 2 3; do
        "$@" && return 0
        [ "$try" = 3 ] || say "failed, trying again in $((try * 5))s: $*"
        [ "$try" = 3 ] || sleep $((try * 5))
    done
    return 1
}

installed() { # PACKAGE
    [ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null)" = installed ]
}

# Any Java 17 or later will do.
java_ok() { # PROGRAM
    local major
    major=$("$1" -version 2>&1 | sed -nE '1s/.*[" ]([0-9]+)(\..*)?("|$).*/\1/p') || return 1
    [ "${major:-0}" -ge 17 ]
}

missing_packages() { # PURPOSE
    local wanted=("${RUN[@]}") package
    [ "$1" = run ] || wanted+=("${TEST[@]}")
    [ "$1" != lint ] || wanted+=("${LINT[@]}")
    for package in "${wanted[@]}"; do
        installed "$package" || echo "$package"
    done
    { java_ok java && java_ok javac; } || echo "$JDK"
}

# Packages of servers start them at once. While this policy is in place they do not; a policy that
# is already there is left alone. What came new is not started at the next boot either.
POLICY=/usr/sbin/policy-rc.d

policy_off() {
    ! grep -qs 'sje: temporary' "$POLICY" || rm -f "$POLICY"
}

apt_install() { # PACKAGE...
    local service new=()
    installed rabbitmq-server || new+=(rabbitmq-server.service epmd.socket)
    installed postgresql || new+=(postgresql.service)
    installed pgbouncer || new+=(pgbouncer.service)
    trap policy_off EXIT
    [ -e "$POLICY" ] || install -m 755 /dev/stdin "$POLICY" <<'SH'
#!/bin/sh
# sje: temporary, no services while packages are installed
exit 101
SH
    export DEBIAN_FRONTEND=noninteractive
    retry apt-get -q update || return 1
    retry apt-get -q -y -o Dpkg::Use-Pty=0 -o Acquire::Retries=3 -o DPkg::Lock::Timeout=600 install \
        --no-install-recommends "$@" || return 1
    policy_off
    trap - EXIT
    for service in "${new[@]}"; do
        systemctl disable "$service" >/dev/null 2>&1 || true
    done
}

debian() { # PURPOSE
    local missing
    command -v dpkg-query >/dev/null || die "this is not Debian; install the equivalents of:" \
        "${RUN[@]}" "${TEST[@]}" "$JDK"
    mapfile -t missing < <(missing_packages "$1")
    [ "${#missing[@]}" -gt 0 ] || return 0
    if [ "$(id -u)" != 0 ]; then
        {
            echo "Some Debian packages are missing. An administrator must run this once:"
            echo
            echo "    apt-get update && apt-get install -y --no-install-recommends ${missing[*]}"
            echo
        } >&2
        exit 1
    fi
    say "installing ${#missing[@]} Debian packages: ${missing[*]}"
    apt_install "${missing[@]}" || die "the Debian packages could not be installed"
}

# A requirements file is installed again when it changes.
python_packages() { # REQUIREMENTS
    local stamp
    stamp=.venv/$(sha256sum "$1" | cut -c1-16).done
    [ ! -f "$stamp" ] || return 0
    say "installing into .venv: $(paste -sd' ' "$1")"
    [ -x .venv/bin/pip ] || python3 -m venv --clear .venv || die "python3 -m venv failed"
    PIP_DISABLE_PIP_VERSION_CHECK=1 retry .venv/bin/pip install --no-input -r "$1" ||
        die "pip could not install $1"
    : >"$stamp"
}

# What is needed of musl to link a static program. Where it cannot be had the shim is linked with glibc.
musl() {
    local dir=.deps/musl
    if [ -e /lib/ld-musl-"$(uname -m)".so.1 ]; then
        say "musl is installed on this machine: Spark cannot write Parquet files with snappy while it is." \
            "If nothing else needs it: apt-get remove musl" >&2
    fi
    [ ! -e "$dir/done" ] || return 0
    rm -rf "$dir"
    mkdir -p "$dir"
    if (cd "$dir" && apt-get -q download musl-dev && dpkg-deb -x ./*.deb . && rm -- *.deb) >"$dir.log" 2>&1; then
        rm -f "$dir.log"
        : >"$dir/done"
    else
        say "musl-dev could not be fetched (see $dir.log): sje-shim is linked with glibc, which works as well"
    fi
}

purpose=${1:-run}
case $purpose in
run | test | lint) ;;
*) die "usage: deps.sh run|test|lint" ;;
esac
exec 7<Makefile # one at a time in this checkout
flock 7
debian "$purpose"
musl
python_packages examples/requirements.txt
[ "$purpose" = run ] || python_packages tests/requirements.txt
