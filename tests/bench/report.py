"""What the benchmark prints, and docs/benchmarks.md."""
import os
import platform
import re
import subprocess
from datetime import datetime, timezone
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOC = ROOT / "docs/benchmarks.md"


def number(value):
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def verdict(row):
    return {True: "yes", False: "NO", None: ""}[row["holds"]]


def line(row):
    ratio = "" if row["ratio"] is None else f"{row['ratio']:.3g} × {row['reference']}"
    return (f"{row['measure']:<58} {number(row['value']):>9} {row['unit']:<12} {ratio:<34} "
            f"{row['bar']:<34} {verdict(row)}").rstrip()


def said(*command):
    """The first line that a program prints about itself."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return (done.stdout or done.stderr).splitlines()[0].strip()


def package(name):
    done = subprocess.run(["dpkg-query", "-W", "-f", "${Version}", name], capture_output=True, text=True,
                          check=False)
    return done.stdout or "?"


def machine():
    cpu = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    memory = int(re.search(r"MemTotal:\s*(\d+)", Path("/proc/meminfo").read_text())[1]) / 2**20
    return f"{os.cpu_count()} × {cpu[1] if cpu else platform.machine()}, {memory:.0f} GiB, " \
           f"Linux {platform.release()}"


def versions():
    peers = re.findall(r"(celery|dramatiq).*==(.*)", (ROOT / "tests/bench/requirements.txt").read_text())
    spark = re.search(r"pyspark==(.*)", (ROOT / "examples/requirements.txt").read_text())[1]
    commit = said("git", "-C", str(ROOT), "rev-parse", "--short", "HEAD")
    return (f"SJE at {commit}; RabbitMQ {package('rabbitmq-server')}; PostgreSQL {package('postgresql-15')}; "
            f"{said('gcc', '--version')}; Spark {spark}; "
            + "; ".join(f"{name.capitalize()} {version}" for name, version in peers))


HEAD = """# Benchmarks

<!-- Written by `make bench`: change tests/bench/report.py, not this. -->

One run of `make bench` on {date}, at scale {scale:g}. It starts a broker, a database and SJE of its own
and measures everything in one go, references included: numbers depend on the machine, the ratios much less.
Nothing is switched off: PostgreSQL with `fsync` and `synchronous_commit`, quorum queues with persistent,
confirmed messages, the whole audit, claims and grants for each task.

* Machine: {machine}.
* Versions: {versions}.

| measure | value | unit | ratio | bar | holds |
|---|---:|---|---|---|---|
"""

TAIL = """
![throughput](benchmarks/throughput.png)

![cost as work grows](benchmarks/growth.png)

## How each is measured

| measure | how |
|---|---|
| floor | librabbitmq alone: one quorum queue, persistent messages of 400 bytes, confirms, window of 2,000 (`floor.c`); before and after the tasks |
| Noop, end to end | tasks by `POST /tasks` of 1,000 from 4 connections (`load.c`), one manager, one worker with 500 slots, until the outcome of the last is committed; then counted in the database, with their audit |
| Celery, Dramatiq | an empty task, durable queue, late acknowledgement, publisher confirms, two publishers and two worker processes, no result kept (`peer.py`) |
| accept, bulk | `POST /tasks` of 1,000 from 4 connections, no worker; in turns with multi-row `INSERT`s of the same tasks and events over 2 connections, made beforehand (`rows.c`); medians |
| accept, single | `POST /task` from 64 connections; pgbench inserts one small row per transaction from 64 connections |
| latency | open loop at 50 tasks/s, counted from when a task was due to be posted. The start of a Noop is what its worker says, that of a process the first thing it does (`stamp.c`); the outcome is seen by `GET /task/{id}?wait=60` |
| due | 400 tasks at 50/s with delays of 0.2 to 3.2 s, then 400 that fail once, with a backoff of up to 1 s; from the time that the row says to the start of the attempt |
| short commands | `Command ["true"]`, 16 slots; before and after it bare fork, exec, wait, one at a time (`forks.c`) |
| Spark overhead | `examples/pi` by `spark-submit` and through SJE in turns; median of the paired differences, from POST to the outcome |
| growth | so many tasks are put into the tables by SQL; then one is posted for each that ends, 500 at once. 250 slots; beside it 20 tasks/s of priority 9, timed from POST to outcome |
| many workers | 200 whole workers with 4 slots each in one process (`fleet.c`); 10,000 that only beat, every 5 s; 1,000 that serve one pool or 32 |
| memory, idle | `/proc`; at rest for 10 s before; ready is a healthy manager, and a worker that the manager says is up |

`BENCH_SCALE=0.1 make bench` does a tenth; `make bench BENCH='noop idle'` only these; `make bench-quick` runs
everything with very little, and fails where a measurement no longer works, never on a time. All results are
in `build/bench/results.json`.
"""

# Where the time of a measure goes that does not reach its bar: printed for those that did not.
WHY = {
    "Noop, end to end": "The rows *Noop: CPU of …* say who works: PostgreSQL most, for each task is inserted, granted and "
    "ended, with an event each. No update can be HOT, because the state is in the condition of partial indexes.",
    "latency": "A task passes three commits (accepted, granted, ended) and two messages that RabbitMQ writes to disk (hint, "
    "result); a process an exec more, with its directory and five files. Of a process, p50: accepted after 1.4 ms, started "
    "at the worker 1.2 later, first instruction 2.4 later, outcome 1.8 later. Nothing waits for a timer.",
    "short commands": "Two execs for one (shim and task), a directory, a log, an exit record and a result each.",
    "growth.*p99": "It depends on how much is under way, not on how much waits: a task of highest priority stands behind the "
    "claims and results that are being written. More is under way where more waits, up to as many claims as there are slots. "
    "p50 of its parts with 250 slots, 1,000 and 100,000 queued: accepted after 5 and 7 ms, granted after 9 and 20, started "
    "9 later in both, outcome 12 later in both.",
}


def why(rows):
    text = ""
    for pattern, reason in WHY.items():
        short = [r["measure"] for r in rows if r["holds"] is False and re.match(pattern, r["measure"])]
        text += f"* **{'; '.join(short)}**: {reason}\n" if short else ""
    return text and "\n## What falls short, and why\n\n" + text


def write(rows, scale):
    out = HEAD.format(date=f"{datetime.now(timezone.utc):%Y-%m-%d}", scale=scale, machine=machine(),
                      versions=versions())
    for r in rows:
        ratio = "" if r["ratio"] is None else f"{r['ratio']:.3g} × {r['reference']}"
        out += f"| {r['measure']} | {number(r['value'])} | {r['unit']} | {ratio} | {r['bar']} | {verdict(r)} |\n"
    DOC.write_text(out + why(rows) + TAIL)
