"""The live system that is attacked: two managers, two workers, a broker and a database, all private.

It measures itself from outside: memory, descriptors, turns of the loop, and how long its threads
waited for a processor that others had.
"""
import json
import os
import re
import sys
import time
from pathlib import Path

import requests
from requests.adapters import HTTPAdapter

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "e2e"))
from sje import Client, Server, Services, free_port, kill, processes_with, until  # noqa: E402

INNOCENT = "127.0.0.2"  # the address of the innocent client, and of what measures
UNHEARD = ("superseded",)  # events of reports that were recorded and dropped
BACKLOG = 20000         # tasks that wait all the time, in a pool that nobody serves
HELD = 4                # real tasks that run during all attacks
INTRUDER = ("intruder", "intruder")  # of the broker


class From(HTTPAdapter):
    """Connections from that address."""

    def init_poolmanager(self, *args, **kw):
        super().init_poolmanager(*args, source_address=(INNOCENT, 0), **kw)


def session():
    s = requests.Session()
    s.mount("http://", From())
    return s


class Node:
    """One process, looked at through /proc."""

    def __init__(self, name, server, url=None):
        self.name, self.server, self.url = name, server, url

    @property
    def pid(self):
        return self.server.process.pid

    def alive(self):
        return self.server.process.poll() is None

    def status(self, key):
        """MiB."""
        text = Path(f"/proc/{self.pid}/status").read_text()
        return int(text.split(key + ":")[1].split()[0]) / 1024

    def reset_peak(self):
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")

    def descriptors(self):
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def waited(self):
        """Seconds that the loop's thread was ready and had no processor."""
        return int(Path(f"/proc/{self.pid}/task/{self.pid}/schedstat").read_text().split()[1]) / 1e9


class Turns:
    """What /metrics tells of the turns of a manager's loop."""

    def __init__(self, text):
        self.longest = float(re.search(r"^sje_loop_longest_turn_seconds (\S+)", text, re.M)[1])
        self.longest_cpu = float(re.search(r"^sje_loop_longest_turn_cpu_seconds (\S+)", text, re.M)[1])
        buckets = re.findall(r'^sje_loop_turn_seconds_bucket\{le="(\S+?)"\} (\d+)', text, re.M)
        self.buckets = [(float(bound), int(n)) for bound, n in buckets]

    def since(self, before):
        """The longest turn since then: exact where it is the longest of the last minute, else at most that."""
        if self.longest > before.longest:
            return self.longest
        now, old = self.buckets, before.buckets
        beyond = [bound for i, (bound, n) in enumerate(now)
                  if n - old[i][1] > (now[i - 1][1] - old[i - 1][1] if i else 0)]
        return min(max(beyond, default=0), self.longest)

    def cpu_since(self, before, longest):
        return self.longest_cpu if self.longest_cpu > before.longest_cpu else min(self.longest_cpu, longest)


class Target:
    def __init__(self, directory):
        self.dir, self.nodes, self.names, self.listed = Path(directory), [], [], -60.0
        self.services = Services(self.dir / "services")
        try:
            self.start()
        except BaseException:
            self.close()
            raise

    def start(self):
        self.settings = {**self.services.tenant(), "SJE_MONITORING_LOG_LEVEL": "warn",
                         "SJE_NODE_SLOTS": "8", "SJE_NODE_HEARTBEAT_SECONDS": "1",
                         "SJE_NODE_DEAD_AFTER_SECONDS": "30", "SJE_NODE_KILL_GRACE_SECONDS": "1"}
        self.vhost = self.settings["SJE_RABBITMQ_VHOST"]
        self.http = session()
        self.managers = [self.manager(i) for i in (1, 2)]
        self.workers = [self.worker(i) for i in (1, 2)]
        until(self.all_up, 60, "every manager sees every worker")
        self.admit_intruder()
        for _ in range(BACKLOG // 10000):
            self.client().post("/tasks", [{"jobType": "Noop", "pool": "nobody"}] * 10000)
        self.fifo = self.dir / "held"
        os.mkfifo(self.fifo)
        self.held = [self.hold() for _ in range(HELD)]
        self.before = {t: self.story(t) for t in self.held}

    def node(self, name, role, url=None, **settings):
        directory = self.dir / name
        settings = {**self.settings, "SJE_NODE_NODE_ID": name,
                    "SJE_NODE_WORK_DIR": str(directory / "work"), **settings}
        self.nodes.append(Node(name, Server(directory, settings, role), url))
        return self.nodes[-1]

    def manager(self, i):
        port = free_port()
        return self.node(f"m{i}", "manager", f"http://127.0.0.1:{port}", SJE_API_PORT=str(port))

    def worker(self, i):
        return self.node(f"w{i}", "worker", SJE_NODE_MANAGER_URL=self.managers[0].url)

    def admit_intruder(self):
        """A user of the broker who may publish to whatever begins with `sje.`, and nothing else."""
        name, password = INTRUDER
        self.services.ctl("eval", f'rabbit_auth_backend_internal:add_user(<<"{name}">>, <<"{password}">>, '
                          f'<<"test">>), rabbit_auth_backend_internal:set_permissions(<<"{name}">>, '
                          f'<<"{self.vhost}">>, <<"^$">>, <<"^(sje[.].*|amq[.]default)$">>, <<"^$">>, <<"test">>).')

    def all_up(self):
        return all(self.up(m) == {w.name for w in self.workers} for m in self.managers)

    def up(self, manager):
        """Real workers that it sees UP."""
        assert all(n.alive() for n in self.nodes), "a process ended"
        try:
            states = {}
            for w in self.workers:
                r = self.http.get(f"{manager.url}/mgmt/workers/{w.name}", timeout=10)
                states[w.name] = r.json().get("state")
        except (requests.RequestException, ValueError):
            return set()
        return {name for name, state in states.items() if state == "UP"}

    def client(self):
        c = Client(self.managers[0].url)
        c.http = self.http
        return c

    def hold(self):
        """A task that runs until it is let go."""
        task = self.client().submit({"jobType": "Command", "command": ["cat", str(self.fifo)],
                                     "maxAttempts": 3})
        self.client().running(task)
        return task

    def story(self, task):
        """Of its audit what a forged message could change."""
        return [(e["event"], e["attempt"], e["workerId"]) for e in self.client().events(task)
                if e["event"] not in UNHEARD]

    def let_go(self):
        """The tasks that were held end by themselves; their views."""
        os.close(os.open(self.fifo, os.O_RDWR | os.O_NONBLOCK))
        return [self.client().end(task) for task in self.held]

    def turns(self, manager):
        return Turns(self.http.get(manager.url + "/metrics", timeout=60).text)

    def queues(self):
        """Asked for now and then: rabbitmqctl is not cheap, and the names change with reconnections only."""
        if time.monotonic() < self.listed + 60:
            return self.names
        text = self.services.ctl("list_queues", "-p", self.vhost, "--quiet", "--no-table-headers", "name")
        self.names, self.listed = text.split(), time.monotonic()
        return self.names

    def describe(self, path):
        """What an attacker knows, as a file: all but secrets."""
        workers = {w["workerId"]: w for w in self.client().get("/mgmt/workers").json()["workers"]}
        Path(path).write_text(json.dumps({
            "urls": [m.url for m in self.managers], "amqp": int(self.settings["SJE_RABBITMQ_PORT"]),
            "vhost": self.vhost, "queues": self.queues(), "held": self.held,
            "workers": [workers[w.name] for w in self.workers],
            "holder": {t: story[-1][2] for t, story in self.before.items()}}))

    def query(self, sql, *arguments):
        db = self.services.database(self.settings["SJE_DB_DATABASE"])
        try:
            with db.cursor() as c:
                c.execute(sql, arguments)
                return c.fetchall()
        finally:
            db.close()

    def stop(self):
        """Exit statuses of a stop in order, by name."""
        codes = {n.name: n.server.terminate(60) if n.alive() else n.server.process.returncode
                 for n in reversed(self.nodes)}
        for pid in processes_with(str(self.dir / "w")):
            kill(pid)
        return codes

    def close(self):
        try:
            return self.stop()
        finally:
            self.services.script("stop")
