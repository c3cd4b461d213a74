#!/usr/bin/env bash
# `make run` and `make stop`: the whole system on this machine, below ./var.
#
#   run.sh start    what is missing is installed and built; the services and sje-executor are started
#                   or, where they already run, used as they are; a word count is submitted and watched
#   run.sh stop     stops what was started, and nothing else
#
# SJE_API_PORT chooses the port of the HTTP API (8082; the next free one where it is taken).
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=tools/proc.sh
. tools/proc.sh

BIN=$PWD/build/release/bin
EXAMPLE=examples/tasks/wordcount.json
START_SECONDS=30

settings() { # of the executor, and of everything that wants to reach it: var/sje.env
    local port=$1 spark
    spark=$(printf '%s\n' "$PWD"/.venv/lib/python3*/site-packages/pyspark | head -n 1)
    cat >"$DIR/sje.env" <<ENV
. $(printf '%q' "$DIR/env")
export SJE_API_PORT=$port SJE_URL=http://127.0.0.1:$port
export SJE_NODE_WORK_DIR=$(printf '%q' "$DIR/work")
export SJE_NODE_SPARK_HOME=$(printf '%q' "$spark")
export SJE_NODE_SPARK_PYTHON=$(printf '%q' "$PWD/.venv/bin/python3")
export PATH=$(printf '%q' "$BIN"):\$PATH
ENV
}

api_port() {
    local wanted=${SJE_API_PORT:-8082} port
    for port in $(seq "$wanted" $((wanted + 50))); do
        if port_free "$port"; then
            [ "$port" = "$wanted" ] || say "port $wanted is taken by someone else, using $port" >&2
            echo "$port"
            return
        fi
    done
    die "no free port from $wanted to $((wanted + 50)); choose one with SJE_API_PORT"
}

start_executor() {
    local end=$((SECONDS + START_SECONDS))
    if running_pid executor >/dev/null; then
        # shellcheck disable=SC1091
        . "$DIR/sje.env"
        say "sje-executor runs already, at $SJE_URL"
    else
        settings "$(api_port)"
        # shellcheck disable=SC1091
        . "$DIR/sje.env"
        spawn executor "$BIN/sje-executor" --role all
        say "sje-executor started, at $SJE_URL"
    fi
    until "$BIN/sje" health >/dev/null 2>&1; do
        running_pid executor >/dev/null || fail_executor "ended"
        [ "$SECONDS" -lt "$end" ] || fail_executor "is not healthy after ${START_SECONDS}s"
        sleep 0.2
    done
}

fail_executor() { # WHAT
    tail -n 20 "$DIR/log/executor.out" >&2
    die "sje-executor $1; its log is var/log/executor.out"
}

word_count() {
    local id result
    echo
    echo "\$ sje submit $EXAMPLE"
    id=$("$BIN/sje" submit --json "$EXAMPLE" | python3 -c 'import json, sys; print(json.load(sys.stdin)["taskId"])')
    echo "\$ sje wait $id"
    "$BIN/sje" wait "$id" >/dev/null || die "the word count failed; see: . var/sje.env && sje log --stderr $id"
    result=$("$BIN/sje" result --json "$id")
    python3 -c '
import json, sys
out = json.loads(sys.argv[1])
print("\n{words} words, {distinct} different ones, in {text}; the most frequent:".format(**out),
      *("{:>8}  {}".format(row["count"], row["word"]) for row in out["top"]), sep="\n")
' "$result"
    cat <<END

The task                $id
The server's log        var/log/executor.out
For the commands below  . var/sje.env
Its audit               sje events $id
Its log                 sje log $id

Try next
  sje submit --wait examples/tasks/pi.json       more jobs: examples/README.md
  sje workers                                    sje --help lists the commands
  curl -d @examples/tasks/noop.json $SJE_URL/task
                                                 the same over HTTP
  make stop                                      stop everything; ./var stays
END
}

start() {
    tools/deps.sh run
    say "building"
    "${MAKE:-make}" -s -j"$(nproc)" FLAVOUR=release all
    ! command -v javac >/dev/null || "${MAKE:-make}" -s examples
    mkdir -p "$DIR/run" "$DIR/log"
    tools/services.sh start "$DIR"
    start_executor
    word_count
}

stop() {
    [ -d "$DIR/run" ] || { say "nothing was started here"; return; }
    halt executor INT # which stops its tasks too; TERM leaves them to the next sje-executor
    tools/services.sh stop "$DIR"
}

DIR=$PWD/var
case ${1:-} in
start) start ;;
stop) stop ;;
*) die "usage: run.sh start|stop" ;;
esac
