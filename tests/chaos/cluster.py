"""Managers, workers, broker and database of one chaos run, all private to it.

Every connection of a process goes through a proxy of its own. A process that ends is started again
after a while; each end is recorded, with whether it was to be expected.
"""
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psycopg2
import requests

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "e2e"))
from sje import Services, free_port, processes_with, until  # noqa: E402

from proxy import Network  # noqa: E402

LEASE = 8  # seconds; short, so that losses are seen often
GRACE = 10  # so long beats are answered without the database; a dead leader makes losses later by as much
BEAT = 1
SLOTS = 10


def boot_ms():
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1000000


def program_of(pid):
    """The first word of its command line."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0]
    except OSError:
        return b""


def is_shim(pid):
    return b"sje-shim" in program_of(pid)


def is_executor(pid):
    return program_of(pid).endswith(b"/sje-executor")


def parent_of(pid):
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


class Node:
    """One sje-executor, with the proxies of its connections."""

    def __init__(self, cluster, name, role, steady):
        self.cluster, self.name, self.role, self.steady = cluster, name, role, steady
        self.dir = cluster.dir / name
        self.works = []  # every workDir that it has had; the first is its own
        self.wall = self.dir / "wall-offset"
        self.settings = {}
        self.move("work")
        net, services = cluster.net, cluster.services
        self.broker = net.path(lambda: ("127.0.0.1", int(services.env["SJE_RABBITMQ_PORT"])))
        self.settings = {**self.settings, **services.env, "SJE_RABBITMQ_PORT": str(self.broker.port),
                         "SJE_RABBITMQ_HEARTBEAT_SECONDS": "5", "SJE_NODE_NODE_ID": name,
                         "SJE_NODE_SLOTS": str(SLOTS), "SJE_NODE_KILL_GRACE_SECONDS": "1",
                         "SJE_NODE_HEARTBEAT_SECONDS": str(BEAT),
                         "SJE_NODE_DEAD_AFTER_SECONDS": str(LEASE),
                         "SJE_MANAGER_MAX_LOSSES": "50",
                         "SJE_MANAGER_DATABASE_GRACE_SECONDS": str(GRACE),
                         "SJE_CHAOS_WALL": str(self.wall),
                         "SJE_BREAK": os.environ.get("SJE_BREAK", "")}
        if role == "manager":
            self.db = net.path(lambda: ("127.0.0.1", int(services.env["SJE_DB_PORT"])))
            self.settings["SJE_DB_PORT"] = str(self.db.port)
            port = free_port()
            self.settings["SJE_API_PORT"] = str(port)
            self.direct = f"http://127.0.0.1:{port}"
            self.api = net.path(lambda: ("127.0.0.1", port))
            self.url = f"http://127.0.0.1:{self.api.port}"
        else:
            manager = random.choice([n for n in cluster.nodes if n.role == "manager"])
            self.http = net.path(lambda: ("127.0.0.1", int(manager.settings["SJE_API_PORT"])))
            self.settings["SJE_NODE_MANAGER_URL"] = f"http://127.0.0.1:{self.http.port}"
        self.file = dict(self.settings)  # what it is to have again
        self.process = None
        self.twin = None       # a second process with the same nodeId
        self.armed = set()     # names of the crash points that it may have died at
        self.restart_at = 0.0  # when it is to be started; monotonic
        self.down = False      # not to be started now
        self.expected = False  # the end that comes is ours
        self.started = 0
        self.samples = []

    def move(self, name):
        """Another workDir, from the next start on."""
        self.work = self.dir / name
        if self.work not in self.works:
            self.works.append(self.work)
        # Managers share them: a point is for whichever comes there first.
        self.points = self.work / "chaos" if self.role == "worker" else (
            self.dir if self.steady else self.cluster.dir / "points")
        self.points.mkdir(parents=True, exist_ok=True)
        self.work.mkdir(parents=True, exist_ok=True)
        self.settings.update({"SJE_NODE_WORK_DIR": str(self.work), "SJE_CHAOS_DIR": str(self.points)})

    def launch(self, settings, output):
        env = {k: v for k, v in os.environ.items() if not k.startswith("SJE_")}
        env.update(settings)
        config = self.dir / "sje-config.yaml"  # or it would look for one elsewhere
        config.write_text("monitoring: {logLevel: debug}\n")
        with open(self.dir / output, "ab") as out:
            return subprocess.Popen(
                [str(self.cluster.bin / "sje-executor"), "--config", str(config), "--role", self.role],
                cwd=self.dir, env=env, stdout=out, stderr=out, stdin=subprocess.DEVNULL)

    def start(self):
        self.process = self.launch(self.settings, "output")
        self.expected, self.started = False, boot_ms()

    def start_twin(self):
        """A second one of that name, with a workDir of its own."""
        work = self.dir / "twin"
        (work / "chaos").mkdir(parents=True, exist_ok=True)
        if work not in self.works:
            self.works.append(work)
        self.twin = self.launch({**self.settings, "SJE_NODE_WORK_DIR": str(work),
                                 "SJE_CHAOS_DIR": str(work / "chaos")}, "twin-output")

    def stop_twin(self, sig):
        twin, self.twin = self.twin, None
        if twin is None:
            return 0
        if (code := twin.poll()) is None:
            twin.send_signal(signal.SIGCONT)
            twin.send_signal(sig)
            try:
                twin.wait(30)
            except subprocess.TimeoutExpired:
                twin.kill()
                twin.wait()
        return code

    def alive(self):
        return self.process is not None and self.process.poll() is None

    def signal(self, sig):
        try:
            self.process.send_signal(sig)
        except (ProcessLookupError, AttributeError):
            pass

    def kill(self, restart_after=0.5):
        self.expected = True
        self.restart_at = time.monotonic() + restart_after
        self.signal(signal.SIGKILL)

    def family(self):
        """Shims and tasks of this worker, in whichever workDir it had."""
        own = [p.pid for p in (self.process, self.twin) if p]
        return sorted({pid for work in self.works for pid in processes_with(f"{work}/")
                       if pid not in own and not is_executor(pid)})

    def shims(self):
        return [pid for pid in self.family() if is_shim(pid)]

    def outer_shims(self):
        """Of each shim the process that has no shim above it."""
        shims = set(self.shims())
        return [pid for pid in sorted(shims) if parent_of(pid) not in shims]

    def sample(self):
        try:
            status = Path(f"/proc/{self.process.pid}/status").read_text()
            rss = int(status.split("VmRSS:")[1].split()[0])
            fds = len(os.listdir(f"/proc/{self.process.pid}/fd"))
        except (OSError, IndexError, AttributeError):
            return
        self.samples.append({"node": self.name, "pid": self.process.pid, "at": boot_ms(),
                             "age": boot_ms() - self.started, "rss": rss, "fds": fds})


class Cluster:
    def __init__(self, directory, binaries, seed, managers=3):
        self.dir, self.bin = Path(directory), Path(binaries)
        self.dir.mkdir(parents=True, exist_ok=True)
        self.rng = random.Random(seed)
        self.exits, self.nodes = [], []
        self.net = Network()
        self.services = Services(self.dir / "services")
        for i in range(1, managers + 1):  # the last of each kind is never killed
            self.nodes.append(Node(self, f"m{i}", "manager", i == managers > 1))
        for i in range(1, 4):
            self.nodes.append(Node(self, f"w{i}", "worker", i == 3))
        self.managers = [n for n in self.nodes if n.role == "manager"]
        self.workers = [n for n in self.nodes if n.role == "worker"]
        self.stopping = threading.Event()
        self.keeper = threading.Thread(target=self.keep, daemon=True)

    def start(self):
        for n in self.nodes:
            n.start()
        self.keeper.start()
        until(lambda: all(self.healthy(n) for n in self.managers), 60, "managers are healthy")

    def healthy(self, node):
        try:
            return requests.get(node.direct + "/health", timeout=3).status_code == 200
        except requests.RequestException:
            return False

    def up(self, node):
        """How many workers that manager sees up."""
        try:
            workers = requests.get(node.direct + "/mgmt/workers", timeout=3).json()["workers"]
            return sum(w["state"] == "UP" for w in workers)
        except (requests.RequestException, ValueError, KeyError):
            return 0

    def note_exit(self, node):
        code = node.process.returncode
        taken = [p for p in node.armed if not (node.points / p).exists()]
        expected = node.expected or (code == -signal.SIGKILL and bool(taken))
        self.exits.append({"node": node.name, "at": boot_ms(), "code": code, "expected": expected,
                           "points": taken})
        if not node.expected:
            node.restart_at = time.monotonic() + self.rng.uniform(0.2, 4)
        node.process = None

    def keep(self):
        """Starts again what ended, and looks at what lives."""
        look = 0.0
        while not self.stopping.wait(0.05):
            now = time.monotonic()
            for n in self.nodes:
                if n.process is not None and n.process.poll() is not None:
                    self.note_exit(n)
                if n.process is None and not n.down and now >= n.restart_at:
                    n.start()
            if now >= look:
                look = now + 2
                for n in self.nodes:
                    n.sample()

    def database(self):
        db = self.services.database()
        db.autocommit = True
        return db

    def query(self, sql, *arguments):
        db = self.database()
        try:
            with db.cursor() as c:
                c.execute(sql, arguments)
                return c.fetchall() if c.description else []
        finally:
            db.close()

    def leader(self):
        """The manager whose process holds the lead, as the database has it; or None."""
        try:
            (name,), = self.query("select manager_id from leader")
        except (psycopg2.Error, ValueError):
            return None
        for m in self.managers:  # the id is host.pid.random
            if m.alive() and f".{m.process.pid}." in f"{name}.":
                return m
        return None

    def strays(self, node=None):
        """Processes of tasks, whatever they have done to be nobody's. Of one node: and of nobody yet, while it
        is being executed ("exe")."""
        found = []
        for proc in Path("/proc").glob("[0-9]*"):
            try:
                if os.readlink(proc / "exe") == str(self.dir / "mark") and (
                        not node or (proc / "comm").read_text().strip() in (node.name, "exe")):
                    found.append(int(proc.name))
            except OSError:
                pass
        return found

    def change_settings(self, patch):
        """True once a manager has taken it."""
        for m in self.managers:
            try:
                if requests.patch(m.direct + "/mgmt/config", json=patch, timeout=5).status_code == 200:
                    return True
            except requests.RequestException:
                pass
        return False

    def sees_up(self, node):
        """Whether every manager sees that worker UP."""
        for m in self.managers:
            try:
                workers = requests.get(m.direct + "/mgmt/workers", timeout=3).json()["workers"]
            except (requests.RequestException, ValueError, KeyError):
                return False
            if not any(w["workerId"] == node.name and w["state"] == "UP" for w in workers):
                return False
        return True

    def heal(self):
        """Everything back to normal: paths, clocks, processes, services."""
        for n in self.nodes:
            n.stop_twin(signal.SIGKILL)
            n.down = False
            for path in (n.broker, getattr(n, "db", None), getattr(n, "api", None),
                         getattr(n, "http", None)):
                if path:
                    path.heal()
            n.wall.unlink(missing_ok=True)
            for point in n.armed:
                (n.points / point).unlink(missing_ok=True)
            n.signal(signal.SIGCONT)
        self.services.script("start")

    def queues(self):
        """Names and numbers of messages."""
        text = self.services.script("ctl", "list_queues", "--quiet", "--no-table-headers", "name",
                                    "messages")
        return {name: int(n) for name, n in (line.split() for line in text.splitlines())}

    def stop(self):
        """Ends everything; the exit statuses of a clean stop are recorded too."""
        self.stopping.set()
        if self.keeper.is_alive():
            self.keeper.join()
        for n in self.nodes:
            if n.alive():
                n.signal(signal.SIGTERM)
        for n in self.nodes:
            if n.process is None:
                continue
            try:
                code = n.process.wait(60)
            except subprocess.TimeoutExpired:
                n.process.kill()
                code = n.process.wait()
            self.exits.append({"node": n.name, "at": boot_ms(), "code": code,
                               "expected": code == 0, "points": []})
        for pid in [p for n in self.workers for p in n.family()] + self.strays():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        self.services.script("stop")

    def dump(self):
        """The task and event tables, the exits and the samples, as files for the checker."""
        wall_minus_boot = int(time.time() * 1000) - boot_ms()
        write = lambda name, value: (self.dir / name).write_text(json.dumps(value))  # noqa: E731
        db = self.database()
        with db.cursor() as c:
            c.execute("select id::text, seq, state, attempt, failures, losses, requeues, job_id,"
                      " job_type, worker_id, cancel_requested,"
                      " (extract(epoch from finished_at) * 1000)::bigint, output, error from task")
            names = ("id", "seq", "state", "attempt", "failures", "losses", "requeues", "job_id",
                     "job_type", "worker", "cancel_requested", "finished_at", "output", "error")
            write("tasks.json", [dict(zip(names, row)) for row in c.fetchall()])
            c.execute("select task_id::text, seq, (extract(epoch from at) * 1000)::bigint, attempt,"
                      " from_state, to_state, event, worker_id, detail from event"
                      " order by task_id, seq")
            names = ("task", "seq", "at", "attempt", "from", "to", "event", "worker", "detail")
            write("events.json", [dict(zip(names, row)) for row in c.fetchall()])
            c.execute("select (extract(epoch from at) * 1000)::bigint, manager_id, event, subject,"
                      " detail from cluster_event order by seq")
            write("cluster.json", [list(row) for row in c.fetchall()])
        db.close()
        write("samples.json", [s for n in self.nodes for s in n.samples])
        write("clock.json", {"wallMinusBoot": wall_minus_boot})
