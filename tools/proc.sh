# shellcheck shell=bash
# For the scripts here: messages, free ports, and background processes below a directory.
#
# DIR/run/NAME.pid holds a pid and the start time of that process, so that only what was started here
# is ever taken for running or stopped, even where the pid has been used again.

STOP_SECONDS=30

die() {
    echo "$(basename "$0" .sh): $*" >&2
    exit 1
}

say() {
    echo "$(basename "$0" .sh): $*"
}

start_time() { # PID: start time in clock ticks since boot; fails when there is no such process
    local stat
    read -r stat 2>/dev/null <"/proc/$1/stat" || return 1
    stat=${stat##*) }
    # shellcheck disable=SC2086
    set -- $stat
    [ "$1" != Z ] || return 1
    echo "${20}"
}

running_pid() { # NAME: its pid, if that very process lives
    local pid started
    read -r pid started 2>/dev/null <"$DIR/run/$1.pid" || return 1
    [ "$(start_time "$pid")" = "$started" ] || return 1
    echo "$pid"
}

spawn() { # NAME COMMAND...: a session of its own, output to DIR/log/NAME.out
    local name=$1 pid
    shift
    setsid "$@" </dev/null >>"$DIR/log/$name.out" 2>&1 9>&- &
    pid=$!
    echo "$pid $(start_time "$pid")" >"$DIR/run/$name.pid"
}

halt() { # NAME SIGNAL: ask, wait, and at last kill the whole process group
    local pid end=$((SECONDS + STOP_SECONDS))
    if pid=$(running_pid "$1"); then
        kill -s "$2" "$pid"
        while running_pid "$1" >/dev/null; do
            if [ "$SECONDS" -ge "$end" ]; then
                say "$1 does not stop; killing it"
                kill -s KILL -- "-$pid" || true
            fi
            sleep 0.05
        done
        say "$1 stopped"
    fi
    rm -f "$DIR/run/$1.pid"
}

# Below the ephemeral range, so that no outgoing connection can sit on one. Checked by binding.
ports_pick() { # COUNT
    python3 - "$1" <<'PY'
import random, socket, sys
held = []
while len(held) < int(sys.argv[1]):
    s = socket.socket()
    try:
        s.bind(("127.0.0.1", random.randint(20000, 31999)))
        held.append(s)
    except OSError:
        s.close()
print(*(s.getsockname()[1] for s in held))
PY
}

port_free() { # PORT
    python3 - "$1" <<'PY' 2>/dev/null
import socket, sys
s = socket.socket()
s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.bind(("127.0.0.1", int(sys.argv[1])))
PY
}
