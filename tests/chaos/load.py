"""The clients of a chaos run: they submit, repeat, cancel and look, and log what they were told.

The log is a line of JSON for each thing sent and each answer; an answer is on the disk before anything
is done with it.
"""
import json
import os
import random
import threading
import time
import uuid

import requests

from cluster import LEASE

FINAL = ("SUCCEEDED", "FAILED", "CANCELLED")


class Log:
    def __init__(self, path):
        self.fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self.lock, self.wanted, self.synced = threading.Condition(), 0, 0
        threading.Thread(target=self.sync, daemon=True).start()

    def write(self, sync=False, **entry):
        line = json.dumps({"at": int(time.time() * 1000), **entry}) + "\n"
        os.write(self.fd, line.encode())
        if sync:  # many writers share one fsync
            with self.lock:
                self.wanted += 1
                mine = self.wanted
                self.lock.notify_all()
                while self.synced < mine:
                    self.lock.wait()

    def sync(self):
        while True:
            with self.lock:
                while self.synced == self.wanted:
                    self.lock.wait()
                until = self.wanted
            os.fsync(self.fd)
            with self.lock:
                self.synced = until
                self.lock.notify_all()


class Load:
    """Submits `rate` tasks a second with a few threads until told to stop.

    long: the share of commands that go on for one to four leases; detach: of those that leave
    descendants which nothing tells.
    """

    def __init__(self, cluster, mark, seed, rate, threads=6, long=0.0, detach=0.0):
        self.cluster, self.mark = cluster, str(mark)
        self.log = Log(cluster.dir / "client.jsonl")
        self.rate, self.seed, self.long, self.detach = rate, seed, long, detach
        self.stopping = threading.Event()
        self.give_up = threading.Event()
        self.accepted = []  # (task, at)
        self.counts = {"accepted": 0, "retried": 0, "cancelled": 0}
        self.threads = [threading.Thread(target=self.submit_all, args=(i, rate / threads), daemon=True)
                        for i in range(threads)]
        self.threads += [threading.Thread(target=self.cancel_all, daemon=True),
                         threading.Thread(target=self.look_all, daemon=True)]
        self.has_memory = (cluster.dir / "memory").exists()

    def start(self):
        for t in self.threads:
            t.start()

    def stop(self, within=60):
        """No new task; what was sent without an answer is repeated until it has one."""
        self.stopping.set()
        end = time.monotonic() + within
        for t in self.threads:
            t.join(max(0, end - time.monotonic()))
        self.give_up.set()
        for t in self.threads:
            t.join()

    def command(self, rng):
        kind = rng.random()
        ms, code, way, more = int(rng.expovariate(1 / 300)), 0, "", {}
        if kind < 0.03:
            ms = rng.randint(5000, 20000)  # longer than leases and many faults
        elif kind < 0.08:
            code, more = -rng.choice((2, 3)), {"maxAttempts": 3, "retryBackoffSeconds": 1}
        elif kind < 0.10:
            code, more = 3, {"maxAttempts": rng.choice((1, 2)), "retryBackoffSeconds": 0}
        elif kind < 0.14:
            way = rng.choice(("tree", "stubborn"))
        elif kind < 0.15:
            ms, more = rng.randint(20000, 60000), {"timeoutSeconds": 2}
        elif self.long and rng.random() < self.long:
            ms = rng.randint(1000 * LEASE, 4000 * LEASE)
        if not way and self.detach and rng.random() < self.detach:
            way = "detach"
        return {"jobType": "Command", **more,
                "command": [self.mark, str(self.cluster.dir), str(ms), str(code), way]}

    def task(self, rng):
        task = {"jobType": "Noop"} if rng.random() < 0.6 else self.command(rng)
        task["priority"] = rng.randint(0, 9)
        if rng.random() < 0.05:
            task["delaySeconds"] = rng.randint(1, 5)
        return task

    def expect(self, task):
        """What may become of it: the checker reads this, not the specification."""
        if task["jobType"] == "Noop":
            return "noop"
        code = int(task["command"][3])
        if "timeoutSeconds" in task:
            return "timeout"
        return "oom" if task["command"][4] == "oom" else "fails" if code > 0 else "ends"

    def call(self, http, method, path, timeout=8, **kw):
        """(status, body), or (0, why) where nothing came back that could be relied on."""
        url = random.choice(self.cluster.managers).url + path
        try:
            r = http.request(method, url, timeout=timeout, **kw)
            return r.status_code, r.json()
        except (requests.RequestException, ValueError) as e:
            return 0, str(e)

    def submit(self, http, tasks, keyed=True, deadline=float("inf")):
        """Repeated with its key until it is accepted, or the deadline; ids or None."""
        key = uuid.uuid4().hex
        for i, t in enumerate(tasks):
            t["jobId"] = f"{key}.{i}"
        self.log.write(sync=True, what="send", key=key, keyed=keyed,
                       tasks=[{"job": t["jobId"], "expect": self.expect(t)} for t in tasks])
        headers = {"Idempotency-Key": key} if keyed else {}
        body = tasks[0] if len(tasks) == 1 else tasks
        path = "/task" if len(tasks) == 1 else "/tasks"
        while True:
            status, answer = self.call(http, "POST", path, json=body, headers=headers)
            if status == 202:
                ids = [answer["taskId"]] if len(tasks) == 1 else [t["taskId"] for t in answer["tasks"]]
                self.log.write(sync=True, what="accepted", key=key, ids=ids)
                return ids
            if status and status != 503:
                self.log.write(sync=True, what="refused", key=key, status=status, answer=answer)
                if status < 500:
                    return None
            if not keyed or self.give_up.is_set() or time.monotonic() > deadline:
                return None
            self.counts["retried"] += 1
            time.sleep(random.uniform(0.05, 0.5))

    def probe(self, within):
        """Seconds until a task submitted now has ended, or None where it has not in time."""
        http, begin = requests.Session(), time.monotonic()
        ids = self.submit(http, [{"jobType": "Noop", "priority": 9}], deadline=begin + within)
        while ids and time.monotonic() < begin + within:
            status, view = self.call(http, "GET", f"/task/{ids[0]}?wait=5")
            if status == 200 and view["state"] in FINAL:
                return time.monotonic() - begin
            time.sleep(0.05)
        return None

    def submit_all(self, number, rate):
        rng, http = random.Random(f"{self.seed}.{number}"), requests.Session()
        due = time.monotonic()
        while not self.stopping.is_set():
            n = rng.choice((1, 1, 1, 1, 1, 1, 1, 1, 10))
            keyed = rng.random() < 0.9
            tasks = [self.task(rng) for _ in range(n)]
            ids = self.submit(http, tasks, keyed)
            if ids:
                self.accepted += [(i, time.monotonic()) for i in ids]
                self.counts["accepted"] += n
                if keyed and rng.random() < 0.05:  # said again, it is the same task
                    status, answer = self.call(http, "POST", "/task" if n == 1 else "/tasks",
                                               json=tasks[0] if n == 1 else tasks,
                                               headers={"Idempotency-Key": tasks[0]["jobId"][:-2]})
                    if status == 202:
                        again = [answer["taskId"]] if n == 1 else [t["taskId"] for t in answer["tasks"]]
                        self.log.write(what="accepted", key=tasks[0]["jobId"][:-2], ids=again)
            due = max(due + n / rate, time.monotonic() - 5)
            self.stopping.wait(max(0, due - time.monotonic()))

    def cancel_all(self):
        """Some of the latest are cancelled, in whatever state they are."""
        rng, http = random.Random(f"{self.seed}.cancel"), requests.Session()
        while not self.stopping.wait(rng.expovariate(self.rate / 40)):
            recent = self.accepted[-30:]
            if recent:
                task, _ = rng.choice(recent)
                status, _ = self.call(http, "DELETE", f"/task/{task}")
                self.log.write(sync=True, what="cancel", id=task, status=status)
                self.counts["cancelled"] += status in (200, 202)

    def look_all(self):
        """What a client sees as final must stay."""
        rng, http = random.Random(f"{self.seed}.look"), requests.Session()
        while not self.stopping.wait(0.2):
            if self.accepted:
                task, _ = rng.choice(self.accepted[-500:])
                status, view = self.call(http, "GET", f"/task/{task}")
                if status == 200 and view["state"] in FINAL:
                    self.log.write(what="saw", id=task, state=view["state"])
                elif status == 404:
                    self.log.write(what="saw", id=task, state="UNKNOWN")
