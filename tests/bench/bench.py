"""`make bench`: every measure beside its bar. Starts a broker and a database of its own, and SJE as a
user starts it: fsync, confirms, the whole audit and claims are on.

    bench.py [--quick] [NAME...]     names of measures (functions below); all without one

BENCH_SCALE multiplies how much is done (1: as docs/benchmarks.md says). A run of everything writes
build/bench/results.json, plots and docs/benchmarks.md. With --quick little is done, no file of the
project is written, and only what is broken fails: no time is ever judged. The last line is
`N passed, N failed`, in measures.
"""
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from contextlib import closing
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "e2e"))
sys.dont_write_bytecode = True
from sje import BIN, ROOT, Cluster, Server, Services, until  # noqa: E402
import report  # noqa: E402

PROGRAMS = BIN.parent / "tests/bench"
VENV = ROOT / "build/bench/venv/bin"
QUICK = "--quick" in sys.argv
SCALE = float(os.environ.get("BENCH_SCALE") or (0.01 if QUICK else 1))
NOOP = json.dumps({"jobId": "bench", "jobType": "Noop", "parameters": {"n": 1}})
TRUE = json.dumps({"jobId": "bench", "jobType": "Command", "command": ["true"]})
LIMIT_S = 900  # for a load generator
STUCK_S = 60  # without a task that ends

rows, services, directory = [], None, None


def scaled(n, least):
    """So many at this scale; whole thousands, because that many go into one request."""
    n = max(least, int(n * SCALE))
    return n if n < 1000 else n // 1000 * 1000


# ---- rows ----

def row(measure, value, unit, reference="", ratio=None, bar="", holds=None):
    """One line of the table. `ratio` is to what `reference` names; `holds` None: nothing is asked."""
    rows.append({"measure": measure, "value": round(value, 3), "unit": unit, "reference": reference,
                 "ratio": None if ratio is None else round(ratio, 4), "bar": bar, "holds": holds})
    print(report.line(rows[-1]), flush=True)


# ---- programs ----

def program(name, *arguments, env=None, python=None):
    """Runs a load generator; its line of JSON."""
    command = [str(PROGRAMS / name)] if python is None else [str(python), str(ROOT / "tests/bench" / name)]
    done = subprocess.run([*command, *map(str, arguments)], env={**os.environ, **(env or services.env)},
                          capture_output=True, text=True, timeout=LIMIT_S, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, f"{name} {arguments}: {done.stderr[-2000:]}"
    return json.loads(done.stdout.splitlines()[-1])


def rate(result):
    return result["count"] / result["seconds"]


class Background(threading.Thread):
    """A load generator beside what the caller does; result() waits for it."""

    def __init__(self, *arguments, **kw):
        super().__init__()
        self.call, self.value, self.error = (arguments, kw), None, None
        self.start()

    def run(self):
        try:
            self.value = program(*self.call[0], **self.call[1])
        except Exception as e:  # told by result()
            self.error = e

    def result(self):
        self.join()
        if self.error:
            raise self.error
        return self.value


# ---- SJE ----

class Cluster2(Cluster):
    """A manager and a worker as two processes, or the manager alone."""

    def __init__(self, name, **settings):
        super().__init__(directory / f"{name}-{len(list(directory.glob(name + '*')))}", services, {},
                         **{"split": True, "SJE_MONITORING_LOG_LEVEL": "warn", **settings})
        self.port = self.settings["SJE_API_PORT"]

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        if kind is not None:
            print(self.tail(), file=sys.stderr)
        self.close()

    def metric(self, name):
        """The sum over the labels of one metric of the manager."""
        text = self.get("/metrics").text
        return sum(float(line.rsplit(" ", 1)[1]) for line in text.splitlines()
                   if line.split("{")[0].split(" ")[0] == "sje_" + name)

    def load(self, mode, *arguments, background=False):
        call = Background if background else program
        return call("load", mode, self.port, *arguments)

    def drain(self, n, task=NOOP):
        """Seconds from the first POST until the outcome of the last of n tasks is committed."""
        before = ended = self.metric("tasks_ended_total")
        start = moved = time.monotonic()
        load = self.load("bulk", n, 4, min(n, 1000), task, background=True)
        while ended < before + n:
            time.sleep(0.01)
            assert load.error is None, load.error
            assert time.monotonic() < moved + STUCK_S, f"{ended - before:.0f} of {n} tasks end\n{self.tail()}"
            now = self.metric("tasks_ended_total")
            ended, moved = now, time.monotonic() if now > ended else moved
        seconds = time.monotonic() - start
        load.result()
        return seconds

    def check(self, n, state=5, events=3):
        """All of them are there, with their audit."""
        with closing(self.database()) as db, db.cursor() as c:
            c.execute("select count(*) from task where state = %s", (state,))
            assert c.fetchone()[0] == n, "tasks are missing"
            c.execute("select count(*) from event")
            assert c.fetchone()[0] >= n * events, "the audit is not complete"


def children(pid):
    out = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            name, rest = stat.read_text().rsplit(")", 1)
        except OSError:
            continue
        if int(rest.split()[1]) == pid:
            out.append((int(stat.parent.name), name.split("(", 1)[1]))
    return out


def cpu(pid, tree=False):
    """Seconds of processor time of a process, with those of its children that live."""
    total = 0.0
    for thread in Path(f"/proc/{pid}/task").glob("*/schedstat"):
        try:
            total += int(thread.read_text().split()[0]) / 1e9
        except OSError:
            pass
    return total + (sum(cpu(child, True) for child, _ in children(pid)) if tree else 0)


def rss_mib(pid):
    text = Path(f"/proc/{pid}/status").read_text()
    return int(text.split("VmRSS:")[1].split()[0]) / 1024


def service_pid(name):
    return int((services.dir / f"run/{name}.pid").read_text().split()[0])


class Shares:
    """Who takes how much processor time for one task."""

    def __init__(self, cluster):
        self.pids = {"manager": cluster.manager.process.pid, "worker": cluster.worker.process.pid,
                     "postgres": service_pid("postgres"), "rabbitmq": service_pid("rabbitmq")}
        self.before = self.now()

    def now(self):
        return {name: cpu(pid, tree=True) for name, pid in self.pids.items()}

    def rows(self, what, n):
        after = self.now()
        for name in self.pids:
            row(f"{what}: CPU of {name}", (after[name] - self.before[name]) / n * 1e6, "µs/task")


# ---- measures ----

def floor_rate():
    return rate(program("floor", scaled(200_000, 2000), 400, 2000))


def noop():
    """End to end, beside what the broker alone can do and what others make of it."""
    n = scaled(200_000, 2000)
    before = floor_rate()
    with Cluster2("noop", SJE_NODE_SLOTS="500") as sje:
        sje.drain(scaled(5000, 100))
        shares = Shares(sje)
        value = n / sje.drain(n)
        shares.rows("Noop", n)
        sje.check(n + scaled(5000, 100))
    floor = statistics.mean([before, floor_rate()])
    row("floor: quorum queue alone", floor, "messages/s")
    row("Noop, end to end", value, "tasks/s", f"floor {floor:.0f}/s", value / floor, "≥ 0.3 × floor",
        value >= 0.3 * floor)
    for peer, bar in (("celery", 10), ("dramatiq", 3)):
        other = rate(program("peer.py", peer, scaled(10_000, 100), directory / peer, python=VENV / "python"))
        row(peer.capitalize(), other, "tasks/s")
        row("Noop, end to end", value, "tasks/s", f"{peer.capitalize()} {other:.0f}/s", value / other,
            f"≥ {bar} × {peer.capitalize()}", value >= bar * other)


def schema():
    """A database with the schema and nothing in it, for the references."""
    env = services.tenant()
    server = {k: v for k, v in env.items() if k.startswith(("SJE_DB_", "SJE_RABBITMQ_"))}
    subprocess.run([BIN / "sje-executor", "--migrate"], env={**os.environ, **server}, check=True,
                   capture_output=True)
    return server


def accept_bulk():
    """POST /tasks of 1,000, in turns with the bare inserts."""
    n, values, bare = scaled(100_000, 4000), [], []
    for _ in range(1 if QUICK else 3):
        with Cluster2("bulk", split=False, worker=False) as sje:
            values.append(rate(sje.load("bulk", n, 4, 1000, NOOP)))
            sje.check(n, state=2, events=1)
        bare.append(rate(program("rows", n, 1000, 2, env=schema())))
    value, other = statistics.median(values), statistics.median(bare)
    row("bare INSERT of the same rows", other, "tasks/s")
    row("accept, bulk", value, "tasks/s", f"bare INSERT {other:.0f}/s", value / other,
        "≥ 50,000/s or ≥ 0.5 × bare INSERT", value >= 50_000 or value >= 0.5 * other)


PGBENCH = """\\set r random(1, 1000000000)
insert into idempotency (key, body_hash, tasks, created_at) values (gen_random_uuid()::text, '', '{}', now());
"""


def pgbench(seconds):
    """Commits a second of one small row each, from 64 connections."""
    env, script = schema(), directory / "pgbench.sql"
    script.write_text(PGBENCH)
    program_path = shutil.which("pgbench") or str(max(Path("/usr/lib/postgresql").glob("*/bin/pgbench")))
    done = subprocess.run(
        [program_path, "-n", "-M", "prepared", "-c", "64", "-j", "2", "-T", str(seconds), "-f", script],
        env={**os.environ, "PGHOST": env["SJE_DB_HOST"], "PGPORT": env["SJE_DB_PORT"],
             "PGDATABASE": env["SJE_DB_DATABASE"], "PGUSER": env["SJE_DB_USERNAME"],
             "PGPASSWORD": env["SJE_DB_PASSWORD"]}, capture_output=True, text=True, check=True)
    return float(done.stdout.split("tps = ")[1].split()[0])


def accept_single():
    """POST /task from 64 connections."""
    n = scaled(60_000, 1000)
    other = pgbench(scaled(10, 1))
    with Cluster2("single", split=False, worker=False) as sje:
        sje.load("single", scaled(5000, 100), 64, NOOP)
        result = sje.load("single", n, 64, NOOP)
    value, p99 = rate(result), result["accepted"]["p99"]
    row("pgbench, single-row commits", other, "commits/s")
    row("accept, single", value, "tasks/s", f"pgbench {other:.0f}/s", value / other,
        "≥ 8,000/s and ≥ 0.5 × pgbench", value >= 8000 and value >= 0.5 * other)
    row("accept, single: p99", p99, "ms", bar="≤ 25 ms", holds=p99 <= 25)


def latency():
    """50 tasks a second, from when each was due to be posted."""
    stamp = json.dumps({"jobId": "bench", "jobType": "Command", "command": [str(PROGRAMS / "stamp")]})
    with Cluster2("latency") as sje:
        for name, task, ends in (("Noop", NOOP, ("accepted", "started", "outcome")),
                                 ("process", stamp, ("started", "outcome"))):
            sje.load("paced", scaled(100, 10), 50, task)
            times = sje.load("paced", scaled(2000, 50), 50, task)
            for end in ends:
                for part, limit in (("p50", 5), ("p99", 20)):
                    value = times[end][part]
                    asked = end != "accepted"
                    row(f"latency of a {name} at 50/s: POST to {end}, {part}", value, "ms",
                        bar=f"≤ {limit} ms" if asked else "", holds=value <= limit if asked else None)


DUE_SQL = """select extract(epoch from started_at - run_after) * 1000 from task
where state = 5 order by submitted_at desc limit %s"""


def due():
    """How late a task starts after its delay or its backoff, at light load."""
    n, flaky = scaled(400, 20), ["sh", "-c", "test $SJE_ATTEMPT -gt 1"]
    with Cluster2("due", SJE_NODE_SLOTS="50") as sje:
        def lateness(what, tasks):
            for task in tasks:
                sje.submit(task)
                time.sleep(0.02)
            with closing(sje.database()) as db, db.cursor() as c:
                def ended():
                    c.execute(DUE_SQL, (n,))
                    times = sorted(float(t) for (t,) in c.fetchall())
                    return len(times) == n and times
                times = until(ended, 60, f"all of {what} end")
            p99 = times[int(len(times) * 0.99)]
            row(f"due: {what}, p50 of the lateness", statistics.median(times), "ms")
            row(f"due: {what}, p99 of the lateness", p99, "ms", bar="≤ 20 ms", holds=p99 <= 20)
            with closing(sje.database()) as db, db.cursor() as c:
                c.execute("delete from task")

        lateness("delays", ({"jobType": "Noop", "delaySeconds": round(0.2 + i % 97 * 0.0313, 3)} for i in range(n)))
        lateness("backoffs", ({"jobType": "Command", "command": flaky, "maxAttempts": 2, "retryBackoffSeconds": 1}
                              for _ in range(n)))


def commands():
    """Real processes with shim, log and exit record, in turns with bare ones."""
    n, bare = scaled(4000, 50), []
    with Cluster2("commands", SJE_NODE_SLOTS="16") as sje:
        sje.drain(scaled(200, 10), TRUE)
        bare.append(rate(program("forks", n, "/bin/true")))
        value = n / sje.drain(n, TRUE)
        bare.append(rate(program("forks", n, "/bin/true")))
    other = statistics.mean(bare)
    row("bare fork, exec, wait", other, "processes/s")
    row("short commands", value, "tasks/s", f"bare {other:.0f}/s", value / other, "≥ 0.4 × bare",
        value >= 0.4 * other)


def spark():
    """The same application by spark-submit and through SJE, in turns; the median of the differences."""
    python = ROOT / ".venv/bin/python3"
    home = subprocess.run([python, "-c", "import pyspark; print(pyspark.__path__[0])"], check=True,
                          capture_output=True, text=True).stdout.strip()
    settings = {"SJE_NODE_SPARK_HOME": home, "SJE_NODE_SPARK_PYTHON": str(python),
                "SJE_NODE_SPARK_MASTER": "local[2]"}
    app, library = ROOT / "examples/pi/pi.py", ROOT / "examples/pi/sampling.py"
    samples = scaled(10_000_000, 10_000)
    env = {**os.environ, "PYSPARK_PYTHON": str(python), "PYSPARK_DRIVER_PYTHON": str(python), "SPARK_HOME": home}

    def bare():
        start = time.monotonic()
        subprocess.run([f"{home}/bin/spark-submit", "--master", "local[2]", "--py-files", library, app,
                        "--samples", str(samples)], env=env, check=True, capture_output=True)
        return time.monotonic() - start

    differences, bare_times = [], []
    with Cluster2("spark", **settings) as sje:
        def ours():
            start = time.monotonic()
            task = sje.run({"jobType": "SparkApp", "sparkAppPath": str(app), "dependencies": [str(library)],
                            "parameters": {"samples": samples}}, within=300)
            assert task["state"] == "SUCCEEDED", task
            return time.monotonic() - start

        for i in range(scaled(10, 1)):
            one, two = (bare(), ours()) if i % 2 else (ours(), bare())[::-1]
            differences.append(two - one)
            bare_times.append(one)
    overhead, of = statistics.median(differences), statistics.median(bare_times)
    row("Spark overhead", overhead * 1000, "ms", f"spark-submit {of:.2f} s", overhead / of,
        "≤ 2 % and ≤ 150 ms", overhead <= 0.02 * of and overhead <= 0.15)


# The same as the product would have left behind; ids are in order of time, as its own are.
PRELOAD_ID = ("(lpad(to_hex(1700000000000 + i), 12, '0') || '7' || lpad(to_hex(i %% 4096), 3, '0') || '8' || "
              "lpad(to_hex(i), 15, '0'))::uuid")
PRELOAD_TASK = f"""
insert into task (id, seq, state, attempt, failures, losses, requeues, stale, priority, max_attempts,
    backoff_s, slots, lease_s, queue_timeout_s, claim_beat, cancel_requested, rank, incarnation, token,
    submitted_at, run_after, started_at, finished_at, pool, job_type, job_id, worker_id, spec)
select {PRELOAD_ID}, %(seq)s, %(state)s, 1, 0, 0, 0, 0, 5, 1, 5, 1, 0, 0, 0, false,
    (extract(epoch from now()) * 1000)::bigint - 3000000 + i / 1000, 0, 0, now(), now(), now(),
    case when %(state)s = 5 then now() end, 'default', 'Noop', 'bench', 'node1', %(spec)s
from generate_series(%(first)s, %(last)s) i"""
PRELOAD_EVENT = f"""
insert into event (task_id, seq, at, attempt, from_state, to_state, event, worker_id)
select {PRELOAD_ID}, e.seq, now(), 1, e.from_state, e.to_state, e.event, e.worker
from generate_series(%(first)s, %(last)s) i, (values (1, null, 2, 'accepted', null),
    (2, 2, 4, 'granted', 'node1'), (3, 4, 5, 'succeeded', 'node1')) as e(seq, from_state, to_state, event, worker)
where e.seq <= %(seq)s"""


def preload(sje, n, state):
    with closing(sje.database()) as db, db.cursor() as c:
        for first in range(1, n + 1, 100_000):
            values = {"state": state, "seq": 3 if state == 5 else 1, "spec": NOOP,
                      "first": first + (10_000_000 if state == 5 else 0),
                      "last": min(first + 99_999, n) + (10_000_000 if state == 5 else 0)}
            c.execute(PRELOAD_TASK, values)
            c.execute(PRELOAD_EVENT, values)
        c.execute("vacuum analyze task, event")
    with closing(services.admin()) as db:
        db.cursor().execute("checkpoint")


def steady(queued, finished, seconds):
    """Tasks a second while always so many are queued, and how long one of highest priority takes."""
    urgent = json.dumps({**json.loads(NOOP), "priority": 9})
    with Cluster2("steady", split=False, worker=False, SJE_NODE_SLOTS="250") as sje:
        if finished:
            preload(sje, finished, 5)
        preload(sje, queued, 2)
        sje.servers.append(Server(sje.dir / "worker", sje.settings, "worker"))
        size = min(500, queued // 2)  # at once: so far below what is to be queued it falls
        batch = ("[" + ",".join([NOOP] * size) + "]").encode()
        until(lambda: sje.metric("tasks_ended_total") > 0, 60, "a first task has ended")
        posted, begin = 0, time.monotonic()
        start = None
        while True:
            ended, now = sje.metric("tasks_ended_total"), time.monotonic()
            if start is None and now > begin + seconds / 5:
                start, at = now, ended
                probes = sje.load("paced", max(10, int(seconds * 20)), 20, urgent, background=True)
            if start is not None and now > start + seconds:
                break
            while posted + size <= ended:
                sje.call("POST", "/tasks", 202, data=batch)
                posted += size
            time.sleep(0.01)
        value = (ended - at) / (now - start)
        return value, probes.result()["outcome"]["p99"]


def growth():
    """Flat: the same work with more and more of it waiting, or behind us."""
    seconds, first = scaled(15, 1), None
    for queued, finished in ((1000, 0), (100_000, 0), (1_000_000, 0), (1000, 3_000_000)):
        queued, finished = scaled(queued, 1000), finished and scaled(finished, 3000)
        name = f"{finished:,} finished" if finished else f"{queued:,} queued"
        value, p99 = steady(queued, finished, seconds)
        if first is None:
            first = (value, p99)
            row(f"growth: {name}", value, "tasks/s")
            row(f"growth: {name}, p99 of priority 9", p99, "ms")
        else:
            row(f"growth: {name}", value, "tasks/s", f"1,000 queued {first[0]:.0f}/s", value / first[0],
                "within 20 %", value >= 0.8 * first[0])
            row(f"growth: {name}, p99 of priority 9", p99, "ms", f"1,000 queued {first[1]:.0f} ms",
                p99 / first[1], "within 20 %", p99 <= 1.2 * first[1])


def beating(n, seconds, pools):
    """n workers that do nothing but beat: what came of it, and the manager's share of a core."""
    with Cluster2("beats", split=False, worker=False) as sje:
        before, start = cpu(sje.manager.process.pid), time.monotonic()
        beats = program("fleet", "beat", n, seconds, pools, env={**services.env, **sje.settings})
        return beats, (cpu(sje.manager.process.pid) - before) / (time.monotonic() - start)


def many_workers():
    """Whole workers in one process, then beats alone."""
    n, tasks = scaled(200, 10), scaled(50_000, 500)
    with Cluster2("fleet", split=False, worker=False) as sje:
        env = {**os.environ, **sje.settings}
        with open(sje.dir / "fleet.log", "wb") as log:
            fleet = subprocess.Popen(
                [PROGRAMS / "fleet", "work", str(n), "4", sje.dir / "fleet", BIN / "sje-shim"],
                env=env, stdout=log, stderr=log, stdin=subprocess.DEVNULL)

        def all_up():
            assert fleet.poll() is None, (sje.dir / "fleet.log").read_text()
            return sum(w["state"] == "UP" for w in sje.workers()) == n

        try:
            until(all_up, 60, f"{n} workers are up")
            before, start = cpu(sje.manager.process.pid), time.monotonic()
            seconds = sje.drain(tasks)
            share = (cpu(sje.manager.process.pid) - before) / (time.monotonic() - start)
            time.sleep(scaled(10, 1))
            up = sum(w["state"] == "UP" for w in sje.workers())
            lost = sje.metric("attempts_lost_total")
        finally:
            fleet.terminate()
            fleet.wait()
        row(f"{n} workers: tasks", tasks / seconds, "tasks/s")
        row(f"{n} workers: CPU of the manager", share * 100, "% of a core")
        row(f"{n} workers: lost attempts and workers", lost + n - up, "", bar="0", holds=lost + n - up == 0)
    n, seconds = scaled(10_000, 100), scaled(30, 5)
    beats, share = beating(n, seconds, 1)
    missing = beats["beats"] - beats["answered"]
    row(f"{n} beating: CPU of the manager", share * 100, "% of a core")
    row(f"{n} beating: p99 of the answer", beats["answer"]["p99"], "ms")
    row(f"{n} beating: beats without answer", missing, "", bar="0", holds=missing == 0)
    n = scaled(1000, 100)
    _, one = beating(n, seconds, 1)
    _, many = beating(n, seconds, 32)
    row(f"{n} beating, 1 pool: CPU of the manager", one * 100, "% of a core")
    row(f"{n} beating, 32 pools: CPU of the manager", many * 100, "% of a core", "1 pool", many / one,
        "≤ 1.5 × 1 pool", many <= 1.5 * one)


def memory():
    """Resident memory, as the kernel counts it."""
    with Cluster2("memory", split=False, worker=False) as sje:
        sje.load("bulk", scaled(100_000, 2000), 4, 1000, NOOP)
        value = rss_mib(sje.manager.process.pid)
    row(f"memory: manager with {scaled(100_000, 2000)} queued", value, "MiB", bar="≤ 40 MiB", holds=value <= 40)
    with Cluster2("memory") as sje:
        idle = rss_mib(sje.worker.process.pid)
        task = sje.submit({"jobType": "Command", "command": ["sleep", "1000"]})
        sje.running(task)
        shim = until(lambda: [pid for pid, name in children(sje.worker.process.pid) if name == "sje-shim"],
                     what="a shim")
        value = sum(map(rss_mib, [shim[0], *(pid for pid, name in children(shim[0]) if name == "sje-shim")]))
        sje.cancel(task)
        sje.end(task)
    row("memory: worker, idle", idle, "MiB", bar="≤ 12 MiB", holds=idle <= 12)
    row("memory: shim", value, "MiB", bar="≤ 1.5 MiB", holds=value <= 1.5)


def idle():
    """Processor time at rest, and how soon a restarted process is of use."""
    seconds = scaled(30, 1)
    with Cluster2("idle") as sje:
        time.sleep(scaled(10, 1))
        pids = [s.process.pid for s in sje.servers]
        before, start = [cpu(pid) for pid in pids], time.monotonic()
        time.sleep(seconds)
        share = [(cpu(pid) - b) / (time.monotonic() - start) * 100 for pid, b in zip(pids, before)]
        starts = {"manager": [], "worker": []}
        for _ in range(scaled(9, 1)):
            for server in sje.servers:
                server.terminate()
                started = time.monotonic()
                if server.role == "worker":
                    old = {w["startedAt"] for w in sje.workers()}
                    started = time.monotonic()
                    server.start()
                    while not any(w["state"] == "UP" and w["startedAt"] not in old for w in sje.workers()):
                        assert time.monotonic() < started + 30, sje.tail()
                else:
                    server.start()
                    while not sje.healthy():
                        assert time.monotonic() < started + 30, sje.tail()
                        time.sleep(0.001)
                starts[server.role].append((time.monotonic() - started) * 1000)
    for role, value in zip(("manager", "worker"), share):
        row(f"idle: CPU of the {role}", value, "% of a core", bar="< 0.5 %", holds=value < 0.5)
    for role, times in starts.items():
        value = statistics.median(times)
        row(f"start to ready: {role}", value, "ms", bar="≤ 150 ms", holds=value <= 150)


MEASURES = [noop, accept_bulk, accept_single, latency, due, commands, spark, growth, many_workers, memory, idle]


def rest():
    """Nothing that an earlier measure left behind is looked after in the background of the next."""
    with closing(services.admin()) as db, db.cursor() as c:
        c.execute("select datname from pg_database where datname ~ '^t[0-9a-f]{12}$'")
        for (name,) in c.fetchall():
            c.execute(f"drop database {name} with (force)")
            services.ctl("eval", f'rabbit_vhost:delete(<<"{name}">>, <<"bench">>).')
        c.execute("checkpoint")


def main():
    global services, directory
    names = [a for a in sys.argv[1:] if not a.startswith("--")]
    chosen = [m for m in MEASURES if not names or m.__name__ in names]
    out = ROOT / "build/bench"
    directory = Path(tempfile.mkdtemp(prefix="run.", dir=out))
    failed = []
    try:
        services = Services(directory / "services")
        for measure in chosen:
            start = time.monotonic()
            try:
                measure()
            except Exception:
                traceback.print_exc()
                failed.append(measure.__name__)
            rest()
            print(f"-- {measure.__name__}: {time.monotonic() - start:.1f} s", flush=True)
    finally:
        if services:
            services.script("stop")
    (out / "results.json").write_text(json.dumps({"rows": rows}, indent=1, ensure_ascii=False) + "\n")
    if not names and not failed and not QUICK:
        report.write(rows, SCALE)
        subprocess.run([VENV / "python", ROOT / "tests/bench/plot.py"], check=True)
    if failed:
        print(f"logs are in {directory.relative_to(ROOT)}")
    else:
        shutil.rmtree(directory)
    if os.environ.get("SJE_COUNTS"):
        with open(os.environ["SJE_COUNTS"], "a", encoding="utf-8") as counts:
            counts.write(f"{len(chosen) - len(failed)} {len(failed)}\n")
    print(f"{len(chosen) - len(failed)} passed, {len(failed)} failed")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
