"""The system as a user has it: services, servers as processes, and a client that speaks HTTP.

Nothing here sleeps for luck: every wait is for a condition, with a limit.
"""
import contextlib
import os
import re
import signal
import socket
import subprocess
import threading
import time
import uuid
from pathlib import Path

import psycopg2
import requests

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(os.environ.get("SJE_BIN", ROOT / "build/release/bin"))
FINAL = ("SUCCEEDED", "FAILED", "CANCELLED")
SLOW = float(os.environ.get("SJE_SLOW", "1"))  # factor on time limits, for sanitizers and valgrind


def until(condition, within=30, what="the condition"):
    """The first true value of condition(), asked for at most that many seconds."""
    end = time.monotonic() + within * SLOW
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"not within {within}s: {what}")
        time.sleep(0.1)


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def kill(pid):
    """What was listed may have ended since, also because of another that was killed."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def processes_with(needle):
    """Pids of the processes whose command line or environment holds that text."""
    needle, found = needle.encode(), []
    for proc in Path("/proc").glob("[0-9]*"):
        try:
            text = (proc / "cmdline").read_bytes()
            with contextlib.suppress(PermissionError):  # a shim's, and the server's
                text += (proc / "environ").read_bytes()
            state = (proc / "stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if needle in text and state != "Z" and int(proc.name) != os.getpid():
            found.append(int(proc.name))
    return found


class Services:
    """PostgreSQL and RabbitMQ, started by tools/services.sh in a directory of their own."""

    def __init__(self, directory, *start):
        self.dir = Path(directory)
        self.script(*(start or ["start"]))

    def script(self, *arguments):
        done = subprocess.run([ROOT / "tools/services.sh", arguments[0], self.dir, *arguments[1:]],
                              capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def start(self, part):
        self.script("start", part)

    def stop(self, part):
        self.script("stop", part)

    def ctl(self, *arguments):
        return self.script("ctl", *arguments)

    def pid(self, part):
        return int((self.dir / f"run/{part}.pid").read_text().split()[0])

    def port(self, part):
        return int((self.dir / f"run/{part}.ports").read_text().split()[0])

    @property
    def env(self):
        text = (self.dir / "env").read_text()
        return dict(re.findall(r"(SJE_(?:DB|RABBITMQ)_\w+)=(\S*)", text))

    def database(self, name="sje", host="127.0.0.1"):
        env = self.env
        return self.connect(host=host, dbname=name, user=env["SJE_DB_USERNAME"],
                            password=env["SJE_DB_PASSWORD"])

    def admin(self, name="postgres", host="127.0.0.1"):
        """The database as its superuser."""
        return self.connect(host=host, dbname=name, user="postgres",
                            password=(self.dir / "run/postgres-admin.password").read_text())

    def connect(self, **how):
        db = psycopg2.connect(port=self.port("postgres"), **how)
        db.autocommit = True
        return db

    def tenant(self):
        """A database and a virtual host that nobody else uses: settings for one cluster."""
        name = "t" + uuid.uuid4().hex[:12]
        db = self.database()
        db.cursor().execute(f"CREATE DATABASE {name}")
        db.close()
        self.ctl("eval", f'rabbit_vhost:add(<<"{name}">>, <<"test">>), '
                 f'rabbit_auth_backend_internal:set_permissions(<<"sje">>, <<"{name}">>, '
                 f'<<".*">>, <<".*">>, <<".*">>, <<"test">>).')
        return {**self.env, "SJE_DB_DATABASE": name, "SJE_RABBITMQ_VHOST": name}


class Client:
    """HTTP calls of one API, each checked for the status that is expected."""

    def __init__(self, url):
        self.url = url
        self.http = requests.Session()

    def call(self, method, path, expect=None, **kw):
        kw.setdefault("timeout", 90 * SLOW)
        r = self.http.request(method, self.url + path, **kw)
        if expect is not None:
            assert r.status_code == expect, f"{method} {path}: {r.status_code} {r.text[:2000]}"
        return r

    def get(self, path, expect=200, **kw):
        return self.call("GET", path, expect, **kw)

    def post(self, path, body, expect=202, **kw):
        return self.call("POST", path, expect, json=body, **kw)

    def submit(self, task, **headers):
        answer = self.post("/task", task, headers=headers).json()
        assert answer["state"] == "QUEUED" or answer["replayed"]
        return answer["taskId"]

    def task(self, task_id):
        return self.get(f"/task/{task_id}").json()

    def end(self, task_id, within=60):
        """The task view once it is final."""
        limit = time.monotonic() + within * SLOW
        while True:
            left = max(1, min(60, int(limit - time.monotonic())))
            r = self.get(f"/task/{task_id}?wait={left}", None)
            t = r.json()
            if r.status_code == 200 and t["state"] in FINAL:
                return t
            assert r.status_code in (200, 503), r.text
            assert time.monotonic() < limit, f"not final within {within}s: {t}\n{self.story(task_id)}"
            if r.status_code == 503:  # "later, please", and it says when
                time.sleep(int(r.headers["Retry-After"]))

    def run(self, task, within=60):
        return self.end(self.submit(task), within)

    def running(self, task_id, within=30):
        def look():
            t = self.task(task_id)
            assert t["state"] not in FINAL, t
            return t if t["state"] == "RUNNING" else None
        return until(look, within, f"{task_id} is running")

    def events(self, task_id):
        return self.get(f"/task/{task_id}/events").json()["events"]

    def story(self, task_id):
        """The words of the audit, in order."""
        return [e["event"] for e in self.events(task_id)]

    def log(self, task_id, stream="stdout", **params):
        return self.get(f"/task/{task_id}/log", params={"stream": stream, **params})

    def until_status(self, status, method, path, within=20, **kw):
        """Calls until the answer has that status; that answer. (An error answer is not true.)"""
        def ask():
            answer = self.call(method, path, **kw)
            return (answer,) if answer.status_code == status else None
        return until(ask, within, f"{status} to {method} {path}")[0]

    def cancel(self, task_id, expect=202):
        return self.call("DELETE", f"/task/{task_id}", expect)


class Server:
    """One sje-executor process; started again with the same settings after it ended."""

    def __init__(self, directory, settings, role="all", wrap=()):
        self.dir, self.role, self.wrap = Path(directory), role, list(wrap)
        self.dir.mkdir(parents=True, exist_ok=True)
        self.output = self.dir / "output"
        env = {k: v for k, v in os.environ.items() if not k.startswith("SJE_")}
        env.update({k: v for k, v in settings.items() if v is not None})
        self.env, self.process = env, None
        self.start()

    def start(self):
        command = [str(BIN / "sje-executor"), "--role", self.role]
        command = self.wrap + os.environ.get("SJE_WRAP", "").split() + command
        with open(self.output, "ab") as out:
            self.process = subprocess.Popen(command, cwd=ROOT, env=self.env, stdout=out, stderr=out,
                                            stdin=subprocess.DEVNULL)

    def terminate(self, within=30):
        """SIGTERM; the exit status."""
        self.process.terminate()
        try:
            return self.process.wait(within * SLOW)
        except subprocess.TimeoutExpired:
            self.process.send_signal(signal.SIGABRT)
            self.process.wait()
            raise AssertionError(f"{self.role} did not stop within {within}s\n{self.tail()}") from None

    def kill(self):
        self.process.kill()
        self.process.wait()

    def tail(self, lines=30):
        kept = [line for line in self.output.read_text(errors="replace").splitlines()
                if "GET /health" not in line and "GET /mgmt/workers" not in line]
        return "\n".join(kept[-lines:])


class Cluster(Client):
    """A manager and a worker with a database and a virtual host of their own: one process with both
    roles, two processes (split), or the manager alone (worker=False). `wrap` is a command before each."""

    def __init__(self, directory, services, spark, split=False, worker=True, wrap=(), **settings):
        port = free_port()
        super().__init__(f"http://127.0.0.1:{port}")
        self.dir, self.services = Path(directory), services
        self.work = self.dir / "work"
        self.settings = {
            **services.tenant(), **spark,
            "SJE_API_PORT": str(port),
            "SJE_NODE_NODE_ID": "node1",
            "SJE_NODE_WORK_DIR": str(self.work),
            "SJE_NODE_SLOTS": "4",
            "SJE_NODE_KILL_GRACE_SECONDS": "2",
            "SJE_MONITORING_LOG_LEVEL": "debug",
            **settings,
        }
        self.has_worker = worker
        roles = (["manager", "worker"] if split else ["all"]) if worker else ["manager"]
        self.servers = [Server(self.dir / role, self.settings, role, wrap) for role in roles]
        self.manager, self.worker = self.servers[0], self.servers[-1]
        self.ready()

    def ready(self, within=30):
        until(self.healthy, within, f"health of {self.url}\n{self.servers[0].tail(20)}")
        if self.has_worker:
            until(lambda: any(w["state"] == "UP" for w in self.workers()), within, "a worker is up")

    def healthy(self):
        for s in self.servers:
            assert s.process.poll() is None, f"sje-executor ended: {s.tail()}"
        try:
            return self.call("GET", "/health").status_code == 200
        except requests.ConnectionError:
            return False

    def workers(self):
        return self.get("/mgmt/workers").json()["workers"]

    def database(self):
        return self.services.database(self.settings["SJE_DB_DATABASE"])

    def settled(self, within=120):
        """Waits until every task of this cluster has ended; each audit has no gap and exactly one end
        of each grant. How many there are by outward state and attempt."""
        def ended():
            with self.database() as db, db.cursor() as c:
                c.execute("SELECT count(*) FROM task WHERE state < 5")
                return c.fetchone()[0] == 0
        until(ended, within, "all tasks have ended")
        with self.database() as db, db.cursor() as c:
            c.execute("SELECT task_id, array_agg(seq ORDER BY seq), array_agg(event ORDER BY seq) "
                      "FROM event GROUP BY task_id")
            for task_id, seqs, story in c.fetchall():
                assert seqs == list(range(1, len(seqs) + 1)), (task_id, seqs)
                grants = story.count("granted")
                ends = sum(story.count(e) for e in ("succeeded", "failed", "retry", "lost",
                                                      "returned", "dead"))
                assert grants == ends, (task_id, story)
            c.execute("SELECT state, attempt, count(*) FROM task GROUP BY 1, 2")
            names = {5: "SUCCEEDED", 6: "FAILED", 7: "CANCELLED", 8: "FAILED"}
            return {(names[state], attempt): n for state, attempt, n in c.fetchall()}

    def all_succeeded(self, n, unheard=0):
        """Waits until all tasks have ended: well, and n of them, or so many more whose 202 never came.
        A claim or a grant may have gone with what was broken: then that attempt, which never began, is
        lost, and the next one did the work."""
        ended = self.settled()
        assert {state for state, _ in ended} == {"SUCCEEDED"}, ended
        assert n <= sum(ended.values()) <= n + unheard, (n, ended)

    def close(self):
        """Ends everything that was started, also tasks; a clean stop has exit status 0."""
        status = {}
        for s in reversed(self.servers):
            if s.process.poll() is None:
                status[s.role] = s.terminate()
        for pid in processes_with(str(self.work)):
            kill(pid)
        assert all(code == 0 for code in status.values()), f"exit status {status}\n{self.tail()}"

    def tail(self):
        return "\n".join(f"---- {s.role}\n{s.tail()}" for s in self.servers)


class Load(threading.Thread):
    """Submits batches until told to stop, a few tasks ahead of what has ended; keeps every id that
    was accepted with 202."""

    AHEAD = 200

    def __init__(self, sje, task):
        super().__init__(daemon=True)
        self.sje, self.task, self.ids, self.stopping = sje, task, [], False
        self.http = requests.Session()
        self.start()

    def run(self):
        while not self.stopping:
            try:
                r = self.http.post(self.sje.url + "/tasks", json=[self.task] * 20, timeout=20)
                if r.status_code == 202:
                    self.ids += [t["taskId"] for t in r.json()["tasks"]]
                if len(self.ids) > self.AHEAD:
                    r = self.http.get(f"{self.sje.url}/task/{self.ids[-self.AHEAD]}?wait=2", timeout=20)
                if r.status_code >= 500:
                    time.sleep(0.1)  # accepted, but nothing can be read: not thousands ahead
            except requests.RequestException:
                time.sleep(0.1)

    def is_accepted(self, within=60):
        """More is accepted; the last of it."""
        n = len(self.ids)
        until(lambda: len(self.ids) > n + 20, within, "tasks are accepted")
        return self.ids[n + 20]

    def goes_on(self, within=60):
        """What is submitted from now on is accepted and ends."""
        self.sje.end(self.is_accepted(within), within)

    def stop(self):
        self.stopping = True
        self.join(30)
        return self.ids
