"""What can go wrong, done to a running cluster.

A fault is a function (chaos, node) that does harm, waits as long as it likes with chaos.wait(), mends
what it did and returns; False: it could not be done, or nothing came of it. While it runs, what it
was done to is its own.
"""
import json
import os
import random
import resource
import signal
import subprocess
import threading
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import pika
import psycopg2
import requests

from cluster import LEASE, boot_ms

FAULTS = []
RECOVERY = 90  # seconds after which a cluster that was mended must work again

WORK_QUEUES = tuple(f"sje.work.default.{c}" for c in ("high", "normal", "low"))

# Every row of the crash-point table in docs/reliability.md that a process can die at.
POINTS = {
    "manager": ("accept-before-commit", "accept-committed", "accept-before-publish", "manager-claim",
                "manager-granted", "manager-result", "manager-applied", "manager-cancel"),
    "leader": ("feed-before-publish", "feed-before-confirm", "feed-before-mark"),
    "worker": ("worker-hint", "worker-claimed", "worker-before-ack", "worker-granted",
               "worker-started", "worker-ended", "worker-result-sent", "worker-applied"),
    "shim": ("shim-before-start", "shim-started", "shim-before-record", "shim-recorded"),
}


class Fault(NamedTuple):
    name: str
    on: str         # what it is done to: see Chaos.candidates
    run: callable
    cheap: bool     # part of a short run
    kills: bool     # not for the steady ones
    needs: str      # what the product must have to stand it: see mended.py
    harmless: bool  # no task may be touched by it


def fault(name, on, cheap=False, kills=False, needs=None, harmless=False):
    def register(fn):
        FAULTS.append(Fault(name, on, fn, cheap, kills, needs, harmless))
        return fn
    return register


def kill(pid, sig=signal.SIGKILL):
    try:
        os.kill(pid, sig)
        return True
    except ProcessLookupError:
        return False


def gone(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def kill_all(node):
    """The worker, its shims and their tasks with all that they left, until none is there."""
    node.kill()
    while pids := [*node.family(), *node.cluster.strays(node)]:
        for pid in pids:
            kill(pid)
        time.sleep(0.02)


# ---- kill -9 ----

@fault("kill -9 of a manager", "manager", cheap=True, kills=True)
@fault("kill -9 of the leader", "leader", cheap=True, kills=True)
@fault("kill -9 of a worker", "worker", cheap=True, kills=True)
def kill_node(chaos, node):
    node.kill(chaos.rng.choice((0.1, 1, 4)))
    chaos.wait(0.5)


@fault("kill -9 of a worker, away for two leases", "worker", kills=True)
def kill_worker_long(chaos, node):
    node.kill(2 * LEASE)
    chaos.wait(2 * LEASE)


@fault("node lost: worker, shims and tasks killed", "worker", cheap=True, kills=True)
def kill_host(chaos, node):
    node.down = True
    kill_all(node)
    chaos.wait(chaos.rng.choice((1, 2 * LEASE)) if not chaos.short else 1)
    node.down = False


@fault("kill -9 of a shim", "worker", cheap=True)
def kill_shim(chaos, node):
    pids = chaos.until(node.shims, 10)
    return bool(pids) and node.alive() and kill(random.choice(pids))


@fault("kill -9 of a task", "worker", cheap=True)
def kill_task(chaos, node):
    shims = chaos.until(node.shims, 10) or []
    tasks = [p for p in node.family() if p not in shims]
    return bool(tasks) and kill(random.choice(tasks))


@fault("SIGTERM of a manager", "manager", kills=True)
@fault("SIGTERM of a worker", "worker", kills=True)
def stop_node(chaos, node):
    node.expected = True
    node.restart_at = time.monotonic() + 1
    node.signal(signal.SIGTERM)
    chaos.wait(5)


# ---- SIGSTOP ----

@fault("SIGSTOP of a manager, 1 s to 3 leases", "manager", cheap=True)
@fault("SIGSTOP of the leader, 1 s to 3 leases", "leader")
@fault("SIGSTOP of a worker, 1 s to 3 leases", "worker", cheap=True)
def pause_node(chaos, node):
    node.signal(signal.SIGSTOP)
    chaos.wait(chaos.rng.uniform(1, 3 * LEASE) if not chaos.short else LEASE + 3)
    node.signal(signal.SIGCONT)


@fault("SIGSTOP of a worker and all its shims and tasks", "worker")
def pause_host(chaos, node):
    pids = [node.process.pid, *node.family()] if node.alive() else []
    for pid in pids:
        kill(pid, signal.SIGSTOP)
    chaos.wait(chaos.rng.uniform(1, 3 * LEASE))
    for pid in pids:
        kill(pid, signal.SIGCONT)
    return bool(pids)


@fault("SIGSTOP of a shim", "worker")
def pause_shim(chaos, node):
    pids = chaos.until(node.shims, 10)
    if not pids:
        return False
    pid = random.choice(pids)
    kill(pid, signal.SIGSTOP)
    chaos.wait(chaos.rng.uniform(1, 2 * LEASE))
    kill(pid, signal.SIGCONT)


# ---- the network ----

def partition(chaos, path, directions=("up", "down"), lose=False):
    path.block(directions, lose)
    chaos.wait(chaos.rng.uniform(1, 3 * LEASE) if not chaos.short else 4)
    path.heal()


@fault("worker cut off from the broker, late delivery", "worker", cheap=True)
def worker_held(chaos, node):
    partition(chaos, node.broker)


@fault("worker cut off from the broker, all lost", "worker")
def worker_lost(chaos, node):
    partition(chaos, node.broker, lose=True)


@fault("worker cut off from broker and managers", "worker")
def worker_alone(chaos, node):
    node.http.block()
    partition(chaos, node.broker, lose=True)
    node.http.heal()


@fault("one direction lost: worker to broker", "worker")
def worker_mute(chaos, node):
    partition(chaos, node.broker, ("up",), lose=True)


@fault("one direction lost: broker to worker", "worker")
def worker_deaf(chaos, node):
    partition(chaos, node.broker, ("down",), lose=True)


@fault("slow network of a worker, up to 1 s each way", "worker")
def worker_slow(chaos, node):
    node.broker.slow(0.5)
    chaos.wait(8)
    node.broker.heal()


@fault("half-closed connections of a worker", "worker")
def worker_half(chaos, node):
    node.broker.half_close()


@fault("reset connections of a worker", "worker", cheap=True)
def worker_reset(chaos, node):
    node.broker.reset()


@fault("reset connections of a manager to the broker", "manager", cheap=True)
def manager_reset(chaos, node):
    node.broker.reset()


@fault("manager cut off from the broker", "manager")
def manager_no_broker(chaos, node):
    partition(chaos, node.broker, lose=chaos.rng.random() < 0.5)


@fault("manager cut off from the database", "manager")
def manager_no_db(chaos, node):
    partition(chaos, node.db, lose=chaos.rng.random() < 0.5)


@fault("leader cut off from the database", "leader")
def leader_no_db(chaos, node):
    partition(chaos, node.db, lose=chaos.rng.random() < 0.5)


@fault("slow database, up to 400 ms each way", "manager")
def manager_slow_db(chaos, node):
    node.db.slow(0.2)
    chaos.wait(8)
    node.db.heal()


@fault("reset connections of clients", "manager", cheap=True)
def api_reset(chaos, node):
    for _ in range(10):
        node.api.reset()
        chaos.wait(0.2)


# ---- the broker ----

@fault("kill -9 of the broker", "broker")
def broker_killed(chaos, _):
    chaos.kill_service("rabbitmq")
    chaos.wait(chaos.rng.uniform(0, 3))
    chaos.service("start", "rabbitmq")


@fault("restart of the broker", "broker")
def broker_restarted(chaos, _):
    chaos.service("stop", "rabbitmq")
    chaos.service("start", "rabbitmq")


@fault("broker away for two leases", "broker")
def broker_away(chaos, _):
    chaos.service("stop", "rabbitmq")
    chaos.wait(2 * LEASE)
    chaos.service("start", "rabbitmq")


@fault("broker's data wiped", "broker")
def broker_wiped(chaos, _):
    chaos.kill_service("rabbitmq")
    subprocess.run(["rm", "-rf", chaos.cluster.services.dir / "rabbitmq/data"], check=True)
    chaos.service("start", "rabbitmq")


@fault("memory alarm of the broker", "broker")
def broker_altaken(chaos, _):
    chaos.service("ctl", "set_vm_memory_high_watermark", "0")
    chaos.wait(chaos.rng.uniform(2, 2 * LEASE))
    chaos.service("ctl", "set_vm_memory_high_watermark", "absolute", "1GB")


@fault("disk alarm of the broker", "broker")
def broker_disk(chaos, _):
    chaos.service("ctl", "set_disk_free_limit", "100000GB")
    chaos.wait(chaos.rng.uniform(2, LEASE))
    chaos.service("ctl", "set_disk_free_limit", "100MB")


@fault("queues deleted", "broker")
def queues_deleted(chaos, _):
    delete_queues(chaos, chaos.rng.sample((*WORK_QUEUES, "sje.result"), 2))


def broker(chaos):
    """A connection to the broker that is nobody's."""
    env = chaos.cluster.services.env
    return pika.BlockingConnection(pika.ConnectionParameters(
        env["SJE_RABBITMQ_HOST"], int(env["SJE_RABBITMQ_PORT"]), credentials=pika.PlainCredentials(
            env["SJE_RABBITMQ_USERNAME"], env["SJE_RABBITMQ_PASSWORD"])))


def delete_queues(chaos, names):
    with broker(chaos) as connection:
        channel = connection.channel()
        for name in names:
            channel.queue_delete(name)


@fault("SIGSTOP of the broker", "broker")
def broker_paused(chaos, _):
    pids = chaos.session("rabbitmq")
    for pid in pids:
        kill(pid, signal.SIGSTOP)
    chaos.wait(chaos.rng.uniform(1, LEASE))
    for pid in pids:
        kill(pid, signal.SIGCONT)


# ---- the database ----

@fault("kill -9 of a database backend", "database", cheap=True)
def backend_killed(chaos, _):
    pids = [p for (p,) in chaos.cluster.query(
        "select pid from pg_stat_activity where usename = 'sje' and pid <> pg_backend_pid()")]
    return bool(pids) and kill(random.choice(pids))


@fault("kill -9 of the database", "database")
def db_killed(chaos, _):
    chaos.kill_service("postgres")
    chaos.wait(chaos.rng.uniform(0, 2))
    chaos.service("start", "postgres")


@fault("restart of the database, fast", "database")
def db_fast(chaos, _):
    chaos.service("stop", "postgres")
    chaos.service("start", "postgres")


@fault("restart of the database, immediate", "database")
def db_immediate(chaos, _):
    chaos.signal_service("postgres", signal.SIGQUIT)
    chaos.service("start", "postgres")


@fault("all connections of the database cut", "database", cheap=True)
def db_cut(chaos, _):
    chaos.cluster.query("select pg_terminate_backend(pid) from pg_stat_activity"
                        " where usename = 'sje' and pid <> pg_backend_pid()")


@fault("task table locked for 4 s", "database")
def db_locked(chaos, _):
    db = chaos.cluster.database()
    db.autocommit = False
    with db.cursor() as c:
        c.execute("lock table task in access exclusive mode")
        chaos.wait(4)
    db.rollback()
    db.close()


# ---- the machine ----

@fault("full disk of a worker", "full")
def disk_full(chaos, node):
    fill = node.work / "fill"
    fd = os.open(fill, os.O_WRONLY | os.O_CREAT, 0o644)
    end = time.monotonic() + chaos.rng.uniform(2, LEASE)
    while time.monotonic() < end and not chaos.stopping.is_set():
        try:
            os.write(fd, b"\0" * (1 << 20))
        except OSError:  # it is full; what becomes free is taken too
            time.sleep(0.05)
    os.close(fd)
    fill.unlink()


@fault("no descriptors left in a worker", "worker")
@fault("no descriptors left in a manager", "manager")
def no_descriptors(chaos, node):
    if not node.alive():
        return False
    pid = node.process.pid
    try:
        soft, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        used = len(os.listdir(f"/proc/{pid}/fd"))
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (used, hard))
        chaos.wait(6)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (soft, hard))
    except (OSError, ProcessLookupError):
        return False


@fault("a task runs out of memory", "memory")
def out_of_memory(chaos, _):
    task = {"jobType": "Command",
            "command": [chaos.load.mark, str(chaos.cluster.dir), "0", "0", "oom"]}
    return chaos.load.submit(requests.Session(), [task], deadline=time.monotonic() + 30) is not None


@fault("wall clock of a manager jumps an hour", "manager", cheap=True)
@fault("wall clock of a worker jumps an hour", "worker", cheap=True)
def clock_jump(chaos, node):
    node.wall.symlink_to(chaos.rng.choice(("3600000", "-3600000")))
    chaos.wait(8 if not chaos.short else 3)
    node.wall.unlink(missing_ok=True)


# ---- crash points ----

def prepare(nodes, point):
    for n in nodes:
        n.armed.add(point)
    (nodes[0].points / point).touch()


def taken(chaos, nodes, point, within=20):
    """True once a process has died of it."""
    file = nodes[0].points / point
    if chaos.until(lambda: not file.exists(), within):
        return True
    try:
        file.unlink()
    except FileNotFoundError:
        return True
    return False


def at_point(point, on):
    def run(chaos, node):
        nodes = [node] if on in ("worker", "shim") else [
            m for m in chaos.cluster.managers if not m.steady]
        prepare(nodes, point)
        return taken(chaos, nodes, point)
    return run


for _on, _points in POINTS.items():
    for _point in _points:
        fault(f"crash point {_point}", _on, cheap=True, kills=_on != "shim")(at_point(_point, _on))


@fault("crash point worker-survivors", "worker", cheap=True, kills=True)
def die_while_recovering(chaos, node):
    if not chaos.until(node.shims, 10):
        return False
    prepare([node], "worker-survivors")
    node.kill(0.1)
    return taken(chaos, [node], "worker-survivors", 6)


@fault("crash point leader-elected", "leader", cheap=True, kills=True)
def die_when_elected(chaos, node):
    others = [m for m in chaos.cluster.managers if not m.steady]
    prepare(others, "leader-elected")
    node.kill(0.1)
    return taken(chaos, others, "leader-elected")


@fault("crash point leader-lost", "leader", kills=True)
def die_when_reaping(chaos, leader):
    worker = chaos.take_worker()
    if not worker:
        return False
    chaos.until(worker.shims, 10)
    prepare([leader], "leader-lost")
    worker.down = True
    kill_all(worker)
    done = taken(chaos, [leader], "leader-lost", 3 * LEASE)
    worker.down = False
    chaos.give(worker)
    return done


@fault("crash point feed-returned", "leader", kills=True)
def die_at_return(chaos, leader):
    """While no worker declares the queues again."""
    prepare([leader], "feed-returned")
    for w in chaos.cluster.workers:
        w.signal(signal.SIGSTOP)
    try:
        delete_queues(chaos, WORK_QUEUES)
        return taken(chaos, [leader], "feed-returned", 5)
    finally:
        for w in chaos.cluster.workers:
            w.signal(signal.SIGCONT)


class Chaos:
    """Does faults to a cluster, one after the other and some side by side."""

    def __init__(self, cluster, load, seed, short=False, faults=FAULTS, patience=1.0):
        self.cluster, self.load, self.short = cluster, load, short
        self.patience = patience * float(os.environ.get("SJE_SLOW", "1"))
        self.faults = [f for f in faults if f.cheap or not short]
        self.own = threading.local()
        self.seed, self.order = seed, random.Random(f"{seed}.faults")
        self.times = Counter()  # how often each fault was begun
        self.stopping = threading.Event()
        self.busy, self.lock = set(), threading.Lock()
        self.threads, self.done = [], []
        self.file = open(cluster.dir / "faults.jsonl", "a")
        self.queue, self.moved = [], 0.0

    # ---- for the faults ----

    @property
    def rng(self):
        """Of this fault alone: what it chooses does not depend on what goes on beside it."""
        return self.own.rng

    def wait(self, seconds):
        self.stopping.wait(seconds)

    def until(self, condition, within):
        end = time.monotonic() + within
        while not (value := condition()) and time.monotonic() < end and not self.stopping.is_set():
            time.sleep(0.05)
        return value

    def must(self, condition, within, text):
        """What has to become true again after this fault; where it does not, the checker is told."""
        end = time.monotonic() + within * self.patience
        while not condition():  # also when the run is over: then all is being mended
            if time.monotonic() > end:
                self.own.unmet.append(f"not within {within * self.patience:.0f} s: {text}")
                return False
            time.sleep(0.2)
        return True

    def service(self, *arguments):
        """A start is tried again: what was killed may have left something that is still going."""
        end = time.monotonic() + (40 if arguments[0] == "start" else 0)
        while True:
            try:
                return self.cluster.services.script(*arguments)
            except AssertionError:
                if time.monotonic() > end:
                    raise
            time.sleep(0.3)

    def session(self, name):
        """Pids of a service: all of its session."""
        leader = int((self.cluster.services.dir / f"run/{name}.pid").read_text().split()[0])
        found = []
        for proc in Path("/proc").glob("[0-9]*"):
            try:
                if int((proc / "stat").read_text().rpartition(")")[2].split()[3]) == leader:
                    found.append(int(proc.name))
            except OSError:
                pass
        return found

    def signal_service(self, name, sig):
        pid = int((self.cluster.services.dir / f"run/{name}.pid").read_text().split()[0])
        kill(pid, sig)
        self.until(lambda: gone(pid), 20)

    def kill_service(self, name):
        for pid in self.session(name):  # not the database's backends: they notice, and leave
            kill(pid)

    # ---- planning ----

    def candidates(self, on, kills):
        """What a fault of that kind could be done to now: (node or None, resources)."""
        c = self.cluster
        if on in ("broker", "database"):
            return [(None, {on})]
        if on == "settings":
            return [(None, {on})]
        if on == "memory":
            return [(None, set())] if self.load.has_memory else []
        if on in ("full", "hung"):
            has = "small_disk" if on == "full" else "loop_disk"
            return [(n, {n.name}) for n in c.workers if getattr(n, has, False) and n.alive()]
        if on == "leader":
            leader = c.leader()
            if leader and kills and leader.steady:
                self.move_lead()
                return []
            return [(leader, {leader.name})] if leader else []
        role = "worker" if on in ("worker", "shim") else "manager"
        return [(n, {n.name}) for n in c.nodes
                if n.role == role and n.alive() and not (kills and n.steady)]

    def take_worker(self):
        """Another one for a fault that is under way, or None."""
        return self.take([w for w in self.cluster.workers if not w.steady])

    def take(self, nodes):
        with self.lock:
            free = [n for n in nodes if n.alive() and n.name not in self.busy]
            if not free:
                return None
            self.busy.add(free[0].name)
            return free[0]

    def give(self, node):
        with self.lock:
            self.busy.discard(node.name)

    def next(self):
        """Each fault comes once before any comes again, in a random order, as far as it can."""
        with self.lock:
            for again in (False, True):
                if again:  # the rest of the last round waits for its chance
                    more = list(self.faults)
                    self.order.shuffle(more)
                    self.queue = self.queue[:len(self.faults)] + more
                for i, f in enumerate(self.queue):
                    free = [t for t in self.candidates(f.on, f.kills) if not t[1] & self.busy]
                    if free:
                        del self.queue[i]
                        node, resources = self.order.choice(free)
                        self.busy |= resources
                        return f, node, resources
        return None

    def lead(self, wanted, within=20):
        """Has one of these managers lead, and returns it; None where that did not come about."""
        end = time.monotonic() + within
        while time.monotonic() < end and not self.stopping.is_set():
            leader = self.cluster.leader()
            if leader in wanted:
                return leader
            if leader:
                self.move_lead(2)
            self.wait(0.2)
        return None

    def move_lead(self, rest=10):
        """Cuts the connection that holds the lead, not too often: perhaps another manager takes it."""
        if time.monotonic() > self.moved + rest:
            self.moved = time.monotonic()
            try:
                self.cluster.query("select pg_terminate_backend(pid) from pg_locks"
                                   " where locktype = 'advisory' and granted")
            except psycopg2.Error:
                pass  # it is away

    def run_one(self, f, node, resources):
        begin, error = boot_ms(), None
        with self.lock:
            self.times[f.name] += 1
            self.own.rng = random.Random(f"{self.seed}.{f.name}.{self.times[f.name]}")
        self.own.unmet = unmet = []
        try:
            injected = f.run(self, node) is not False
        except (AssertionError, OSError, psycopg2.Error, subprocess.SubprocessError,
                pika.exceptions.AMQPError) as e:
            injected, error = False, repr(e)[-300:]
        healed = boot_ms()
        if "broker" in resources or "database" in resources:
            try:
                self.service("start")
            except (AssertionError, subprocess.SubprocessError) as e:
                error = repr(e)[-300:]
        with self.lock:
            self.busy -= resources
        recovered = self.load.probe(RECOVERY * self.patience)
        entry = {"name": f.name, "node": node.name if node else None, "at": begin, "healed": healed,
                 "injected": injected, "recovered": recovered, "error": error, "unmet": unmet,
                 "harmless": f.harmless}
        self.done.append(entry)
        self.file.write(json.dumps(entry) + "\n")
        self.file.flush()

    def run(self, seconds, gap):
        """Faults for that long, the next one `gap` (from, to) seconds after the last began."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            chosen = self.next()
            if chosen:
                t = threading.Thread(target=self.run_one, args=chosen, daemon=True)
                self.threads.append(t)
                t.start()
                self.stopping.wait(self.order.uniform(*gap))
            else:
                self.stopping.wait(0.2)
        self.stopping.set()
        for t in self.threads:
            t.join(2 * RECOVERY + 60)
