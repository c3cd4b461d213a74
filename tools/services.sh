#!/usr/bin/env bash
# A private PostgreSQL and RabbitMQ below a directory: loopback only, own ports, own passwords.
# No system service is touched. Works as root (PostgreSQL then runs as an unprivileged user) and as
# an ordinary user.
#
#   services.sh start DIR [postgres|rabbitmq]   start what is not running; addresses to DIR/env
#   services.sh stop DIR [postgres|rabbitmq]    stop what was started here, and nothing else
#   services.sh status DIR                      exit status 0 when both run
#   services.sh ctl DIR ARGUMENT...             rabbitmqctl for this broker
#   services.sh join DIR OTHER                  start a RabbitMQ node in a cluster with the one of OTHER
#   services.sh standby DIR OTHER               start a PostgreSQL that follows the one of OTHER, on the
#                                               same port at 127.0.0.2
#
# DIR/env holds shell exports for sje-executor (SJE_DB_*, SJE_RABBITMQ_*) and for the tests
# (SJE_TEST_*). Ports are kept from one start to the next unless someone else has taken them.
set -euo pipefail
umask 077

# shellcheck source=tools/proc.sh
. "$(dirname "$0")/proc.sh"

START_SECONDS=90

await() { # NAME CHECK: polls the server's own status until CHECK holds
    local end=$((SECONDS + START_SECONDS))
    until "$2"; do
        running_pid "$1" >/dev/null || return 1
        [ "$SECONDS" -lt "$end" ] || return 1
        sleep 0.05
    done
}

# ports NAME COUNT: into PORTS; those of the last start where they are still free
ports() {
    local file="$DIR/run/$1.ports" port
    PORTS=()
    if [ -f "$file" ]; then
        read -ra PORTS <"$file"
        for port in "${PORTS[@]}"; do
            if ! port_free "$port"; then
                say "$1: port $port is taken by someone else, choosing another"
                PORTS=()
                break
            fi
        done
    fi
    [ "${#PORTS[@]}" -gt 0 ] || read -ra PORTS <<<"$(ports_pick "$2")"
    echo "${PORTS[@]}" >"$file"
}

secret() { # NAME: the password of that name, made at the first call
    local file="$DIR/run/$1.password"
    [ -s "$file" ] || od -An -N16 -tx1 /dev/urandom | tr -d ' \n' >"$file"
    cat "$file"
}

# ---- PostgreSQL ----

pg_bin() {
    local dirs
    dirs=$(printf '%s\n' /usr/lib/postgresql/*/bin | sort -V | tail -n 1)
    if [ -x "$dirs/postgres" ]; then
        echo "$dirs"
    elif command -v postgres >/dev/null && command -v initdb >/dev/null; then
        dirname "$(command -v postgres)"
    else
        die "PostgreSQL is not installed (Debian: apt-get install postgresql)"
    fi
}

# PostgreSQL refuses to run as root. AS becomes the prefix that drops to an unprivileged user; where
# that user cannot walk to DIR (a checkout below /root), it keeps the one capability for it.
pg_user() {
    AS=()
    [ "$(id -u)" = 0 ] || return 0
    local user=nobody cap
    getent passwd postgres >/dev/null && user=postgres
    chown "$user" "$PG"
    AS=(setpriv "--reuid=$user" "--regid=$(id -g "$user")" --clear-groups)
    for cap in '' dac_read_search dac_override; do
        local try=("${AS[@]}" ${cap:+"--inh-caps=+$cap"} ${cap:+"--ambient-caps=+$cap"})
        if (cd / && "${try[@]}" touch "$PG/reached") 2>/dev/null; then
            AS=("${try[@]}")
            return 0
        fi
    done
    die "the user $user cannot reach $PG"
}

pg_init() {
    [ -f "$PG/ready" ] && return 0
    rm -rf "$PG/data"
    secret postgres-admin | (cd / && "${AS[@]}" tee "$PG/password") >/dev/null
    (cd / && "${AS[@]}" "$PG_BIN/initdb" -D "$PG/data" -U postgres -A scram-sha-256 \
        --pwfile="$PG/password" -E UTF8 --locale=C) >"$DIR/log/initdb.out" 2>&1 || return 1
    rm "$PG/password"
    # Single-user mode: one statement a line, no server, nothing listening.
    (cd / && printf '%s\n' \
        "CREATE ROLE sje LOGIN CREATEDB PASSWORD '$(secret postgres)'" \
        "CREATE DATABASE sje OWNER sje" |
        "${AS[@]}" "$PG_BIN/postgres" --single -D "$PG/data" postgres) \
        >>"$DIR/log/initdb.out" 2>&1 || return 1
    : >"$PG/ready"
}

pg_check() { # the server writes its pid and its status there
    local pid
    pid=$(running_pid postgres) && [ "$(head -n 1 "$PG/data/postmaster.pid")" = "$pid" ] &&
        grep -q '^ready' "$PG/data/postmaster.pid"
} 2>/dev/null

pg_launch() {
    local address=127.0.0.1 more
    read -ra more <<<"${SJE_POSTGRES_OPTIONS:-}"
    if [ -f "$DIR/run/standby" ]; then
        read -ra PORTS <"$DIR/run/postgres.ports"
        address=127.0.0.2
    else
        ports postgres 1
    fi
    (cd / && spawn postgres "${AS[@]}" "$PG_BIN/postgres" -D "$PG/data" -p "${PORTS[0]}" \
        -c "listen_addresses=$address" -c unix_socket_directories= \
        -c max_connections=60 -c shared_buffers=32MB -c max_wal_size=256MB -c jit=off \
        -c timezone=UTC -c log_timezone=UTC "${more[@]}")
    await postgres pg_check
}

start_postgres() {
    running_pid postgres >/dev/null && return 0
    local PORTS AS PG="$DIR/postgres" PG_BIN
    PG_BIN=$(pg_bin)
    mkdir -p "$PG"
    pg_user
    pg_init || die "PostgreSQL cannot be set up, see $DIR/log/initdb.out"
    if ! pg_launch; then # perhaps a port was taken between the choice and the start
        halt postgres INT
        rm -f "$DIR/run/postgres.ports"
        pg_launch || die "PostgreSQL does not start, see $DIR/log/postgres.out"
    fi
    say "postgres on 127.0.0.1:${PORTS[0]}"
}

standby_init() { # OTHER
    [ ! -f "$DIR/run/standby" ] || return 0
    local AS PG="$DIR/postgres" PG_BIN
    PG_BIN=$(pg_bin)
    mkdir -p "$PG"
    pg_user
    cp "$1"/run/postgres*.password "$1/run/postgres.ports" "$DIR/run/"
    (cd / && "${AS[@]}" env PGPASSWORD="$(secret postgres-admin)" "$PG_BIN/pg_basebackup" -D "$PG/data" \
        -h 127.0.0.1 -p "$(cat "$DIR/run/postgres.ports")" -U postgres -R -c fast) ||
        die "the database of $1 cannot be copied"
    : >"$PG/ready"
    : >"$DIR/run/standby"
}

stop_postgres() {
    halt postgres INT
}

# ---- RabbitMQ ----

# A node that joined another is called after its directory, and uses the other's epmd.
rabbit_node() {
    if [ -f "$DIR/run/join" ]; then
        echo "$(basename "$DIR")@localhost"
    else
        echo sje@localhost
    fi
}

rabbit_env() { # the environment of this broker and of its command-line tools
    export HOME="$DIR/rabbitmq" ERL_EPMD_ADDRESS=127.0.0.1
    RABBITMQ_NODENAME=$(rabbit_node)
    ERL_EPMD_PORT=$(cat "$DIR/run/join" 2>/dev/null) || ERL_EPMD_PORT=$1
    export RABBITMQ_NODENAME ERL_EPMD_PORT RABBITMQ_DIST_PORT=$2 LC_ALL=C.UTF-8
    export RABBITMQ_CONF_ENV_FILE="$DIR/rabbitmq/env.conf"
    export RABBITMQ_CONFIG_FILE="$DIR/rabbitmq/rabbitmq.conf"
    export RABBITMQ_ADVANCED_CONFIG_FILE="$DIR/rabbitmq/advanced.config"
    export RABBITMQ_ENABLED_PLUGINS_FILE="$DIR/rabbitmq/enabled_plugins"
    export RABBITMQ_GENERATED_CONFIG_DIR="$DIR/rabbitmq/generated"
    export RABBITMQ_MNESIA_BASE="$DIR/rabbitmq/data" RABBITMQ_LOG_BASE="$DIR/log"
    export RABBITMQ_PID_FILE="$DIR/rabbitmq/beam.pid"
    export RABBITMQ_IO_THREAD_POOL_SIZE=16
    export RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS="+S 2:2 -kernel inet_dist_use_interface {127,0,0,1}"
}

rabbit_bin() { # PROGRAM. Debian's wrappers in /usr/sbin insist on root or the user rabbitmq.
    local path=/usr/lib/rabbitmq/bin/$1
    [ -x "$path" ] || path=$(command -v "$1") ||
        die "RabbitMQ is not installed (Debian: apt-get install rabbitmq-server)"
    echo "$path"
}

rabbit_configure() { # AMQP-PORT
    cat >"$DIR/rabbitmq/rabbitmq.conf" <<CONF
listeners.tcp.default = 127.0.0.1:$1
default_user = sje
default_pass = $(secret rabbitmq)
vm_memory_high_watermark.absolute = 1GB
disk_free_limit.absolute = 100MB
raft.wal_max_size_bytes = 67108864
log.file = rabbitmq.log
log.file.level = info
log.console = false
CONF
    [ ! -f "$DIR/run/join" ] || cat >>"$DIR/rabbitmq/rabbitmq.conf" <<CONF
cluster_formation.peer_discovery_backend = classic_config
cluster_formation.classic_config.nodes.1 = sje@localhost
cluster_formation.classic_config.nodes.2 = $(rabbit_node)
CONF
    echo '[].' | tee "$DIR/rabbitmq/enabled_plugins" >"$DIR/rabbitmq/advanced.config"
    : >"$DIR/rabbitmq/env.conf"
}

rabbit_check() { # the broker answers the protocol header with Connection.Start, a method frame
    local type=
    exec 8<>"/dev/tcp/127.0.0.1/${PORTS[0]}" || return 1
    printf 'AMQP\000\000\011\001' >&8
    IFS= read -r -t 5 -n 1 -u 8 type || true
    exec 8<&-
    [ "$type" = $'\001' ]
} 2>/dev/null

rabbit_launch() {
    ports rabbitmq 3
    rabbit_configure "${PORTS[0]}"
    (
        rabbit_env "${PORTS[1]}" "${PORTS[2]}"
        cd "$DIR/rabbitmq"
        if [ ! -f "$DIR/run/join" ]; then
            spawn epmd epmd -port "$ERL_EPMD_PORT" -address 127.0.0.1
            await epmd epmd_check || exit 1
        fi
        spawn rabbitmq "$(rabbit_bin rabbitmq-server)"
    ) && await rabbitmq rabbit_check
}

epmd_check() {
    epmd -port "$ERL_EPMD_PORT" -names >/dev/null 2>&1
}

start_rabbitmq() {
    running_pid rabbitmq >/dev/null && return 0
    local PORTS
    rabbit_bin rabbitmq-server >/dev/null
    mkdir -p "$DIR/rabbitmq"
    halt epmd TERM
    if ! rabbit_launch; then
        stop_rabbitmq
        rm -f "$DIR/run/rabbitmq.ports"
        rabbit_launch || die "RabbitMQ does not start, see $DIR/log/rabbitmq.out and rabbitmq.log"
    fi
    say "rabbitmq on 127.0.0.1:${PORTS[0]}"
}

join_init() { # OTHER
    [ ! -f "$DIR/run/join" ] || return 0
    mkdir -p "$DIR/rabbitmq"
    cp "$1/rabbitmq/.erlang.cookie" "$DIR/rabbitmq/"
    cp "$1/run/rabbitmq.password" "$DIR/run/"
    cut -d' ' -f2 "$1/run/rabbitmq.ports" >"$DIR/run/join"
}

stop_rabbitmq() {
    halt rabbitmq TERM
    halt epmd TERM
}

# ---- commands ----

write_env() {
    local pg rabbit
    pg=$(cat "$DIR/run/postgres.ports" 2>/dev/null) || return 0
    rabbit=$(cut -d' ' -f1 "$DIR/run/rabbitmq.ports" 2>/dev/null) || return 0
    cat >"$DIR/env.new" <<ENV
export SJE_SERVICES=$(printf %q "$DIR")
export SJE_DB_HOST=127.0.0.1 SJE_DB_PORT=$pg SJE_DB_DATABASE=sje SJE_DB_USERNAME=sje
export SJE_DB_PASSWORD=$(secret postgres) SJE_DB_SSL_MODE=disable
export SJE_RABBITMQ_HOST=127.0.0.1 SJE_RABBITMQ_PORT=$rabbit SJE_RABBITMQ_USERNAME=sje
export SJE_RABBITMQ_PASSWORD=$(secret rabbitmq) SJE_RABBITMQ_VHOST=/
export SJE_TEST_DB_HOST=127.0.0.1 SJE_TEST_DB_PORT=$pg SJE_TEST_DB_NAME=sje SJE_TEST_DB_USER=sje
export SJE_TEST_DB_PASSWORD=$(secret postgres)
export SJE_TEST_AMQP_HOST=127.0.0.1 SJE_TEST_AMQP_PORT=$rabbit SJE_TEST_AMQP_USER=sje
export SJE_TEST_AMQP_PASSWORD=$(secret rabbitmq) SJE_TEST_AMQP_VHOST=/
ENV
    mv "$DIR/env.new" "$DIR/env"
}

start() {
    local part pids=() failed=0
    for part in "$@"; do
        "start_$part" &
        pids+=($!)
    done
    for part in "${pids[@]}"; do
        wait "$part" || failed=1
    done
    write_env
    return $failed
}

status() {
    local part pid failed=0
    for part in postgres rabbitmq; do
        if pid=$(running_pid "$part"); then
            say "$part runs, pid $pid, 127.0.0.1:$(cut -d' ' -f1 "$DIR/run/$part.ports")"
        else
            say "$part does not run"
            failed=1
        fi
    done
    return $failed
}

usage() {
    sed -n '6,12s/^# *//p' "$0" >&2
    exit 2
}

[ $# -ge 2 ] || usage
command=$1
mkdir -p "$2/run" "$2/log"
DIR=$(cd "$2" && pwd -P)
chmod go+x "$DIR"
exec 9>"$DIR/run/lock"
case "$command ${3:-}" in
"start " | "stop ") parts=(postgres rabbitmq) ;;
"start postgres" | "stop postgres" | "start rabbitmq" | "stop rabbitmq") parts=("$3") ;;
"status ") ;;
"ctl "* | "join "?* | "standby "?*) ;;
*) usage ;;
esac
case $command in
start)
    flock 9
    start "${parts[@]}"
    ;;
stop)
    flock 9
    for part in "${parts[@]}"; do "stop_$part"; done
    ;;
join)
    flock 9
    join_init "$3"
    start rabbitmq
    ;;
standby)
    flock 9
    standby_init "$3"
    start postgres
    ;;
status) status ;;
ctl)
    shift 2
    read -ra ports <"$DIR/run/rabbitmq.ports"
    rabbit_env "${ports[1]}" "${ports[2]}"
    exec "$(rabbit_bin rabbitmqctl)" "$@"
    ;;
esac
