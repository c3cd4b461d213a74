"""Several managers: all accept and apply, one leads, and none is needed for long."""
import signal
import socket
import threading
import time

import requests
from test_faults import NOOP, complete, shell

from sje import Client, Server, free_port, until


class Managers:
    """Two managers and workers of one cluster; a call goes to any manager that answers."""

    def __init__(self, sje, workers=1):
        self.sje, self.servers, self.clients = sje, [sje.manager], [Client(sje.url)]
        self.workers = [sje.worker]
        port = free_port()
        self.servers.append(self.add("manager", "second", SJE_API_PORT=str(port)))
        self.clients.append(Client(f"http://127.0.0.1:{port}"))
        for i in range(2, workers + 1):
            self.workers.append(self.add("worker", f"node{i}", SJE_NODE_WORK_DIR=str(sje.work / str(i))))
        for i in range(2):
            until(lambda i=i: self.status(i), 30, f"manager {i}")
        until(lambda: self.leader() is not None, 30, "a leader")
        until(lambda: all(self.up(i) == workers for i in range(2)), 30, "all workers are up")

    def add(self, role, name, **settings):
        server = Server(self.sje.dir / name, {**self.sje.settings, "SJE_NODE_NODE_ID": name, **settings}, role)
        self.sje.servers.append(server)
        return server

    def status(self, i):
        try:
            return self.clients[i].get("/mgmt/status", None, timeout=5).json()
        except requests.RequestException:
            return None

    def up(self, i):
        workers = (self.status(i) or {}).get("workers", {})
        return workers.get("UP", 0)

    def state(self, i, worker="node1"):
        answer = self.clients[i].get(f"/mgmt/workers/{worker}", None)
        return answer.json()["state"] if answer.status_code == 200 else None

    def leader(self):
        leading = [i for i in range(2) if (self.status(i) or {}).get("leader")]
        return leading[0] if len(leading) == 1 else None

    def events(self, kind):
        with self.sje.database() as db, db.cursor() as c:
            c.execute("SELECT subject, detail FROM cluster_event WHERE event = %s ORDER BY seq", [kind])
            return c.fetchall()


class Load(threading.Thread):
    """Submits to one manager after the other until told to stop; not too far ahead of what ends."""

    def __init__(self, managers, task):
        super().__init__(daemon=True)
        self.managers, self.task, self.ids, self.stopping = managers, task, [], False
        self.start()

    def run(self):
        turn = 0
        while not self.stopping:
            turn += 1
            try:
                url = self.managers.clients[turn % 2].url
                r = requests.post(url + "/tasks", json=[self.task] * 10, timeout=5)
                if r.status_code == 202:
                    self.ids += [t["taskId"] for t in r.json()["tasks"]]
                if len(self.ids) > 100:
                    r = requests.get(f"{url}/task/{self.ids[-100]}?wait=5", timeout=10)
                if r.status_code >= 500:
                    time.sleep(0.1)
            except requests.RequestException:
                time.sleep(0.1)

    def more(self, n=30, within=30):
        until(lambda have=len(self.ids): len(self.ids) >= have + n, within, "load goes on")

    def stop(self):
        self.stopping = True
        self.join(60)
        return list(self.ids)


def succeeded_once(sje, ids):
    ended = complete(sje, ids, 90)
    assert {(t["state"], t["attempt"]) for t in ended} == {("SUCCEEDED", 1)}


def test_a_killed_leader_is_followed(own):
    both = Managers(own(split=True, SJE_NODE_SLOTS="8"))
    load = Load(both, shell("true"))
    load.more(60)
    old = both.leader()
    both.servers[old].kill()
    until(lambda: (both.status(1 - old) or {}).get("leader"), 10, "the other leads")
    other = both.clients[1 - old]
    # what is submitted now can only be fed by the new leader
    assert other.end(other.submit(NOOP), 10)["state"] == "SUCCEEDED"
    load.more()
    both.servers[old].start()
    both.sje.ready(30)
    succeeded_once(both.sje, load.stop())


def test_who_leads_next_knows_how_long_to_wait(own):
    """The row tells for how long its predecessor may still renew leases."""
    def row():
        with both.sje.database() as db, db.cursor() as c:
            c.execute("SELECT epoch, grace_s FROM leader")
            return c.fetchone()
    both = Managers(own(split=True, SJE_MANAGER_DATABASE_GRACE_SECONDS="3"))
    assert row() == (1, 3)
    old = both.leader()
    assert both.servers[old].terminate() == 0
    until(lambda: both.leader() == 1 - old, 30, "the other leads")
    assert row() == (2, 3)
    with both.sje.database() as db, db.cursor() as c:
        c.execute("UPDATE leader SET grace_s = 8")  # as if one with more had been killed
    both.servers[1 - old].kill()
    both.servers[old].start()
    until(lambda: both.leader() == old, 30, "the first leads")
    assert row() == (3, 8)
    until(lambda: row() == (3, 3), 60, "it has waited")
    assert both.servers[old].terminate() == 0
    assert row() == (3, 0)
    both.servers[1 - old].start()
    until(lambda: both.leader() == 1 - old, 30, "the other leads")
    assert row() == (4, 3)


def test_a_leader_that_was_paused_does_no_harm(own):
    both = Managers(own(split=True, SJE_NODE_SLOTS="8", SJE_NODE_HEARTBEAT_SECONDS="1"))
    long = both.sje.submit(shell("sleep 12"))
    both.sje.running(long)
    load = Load(both, shell("sleep 0.05"))
    load.more()
    old = both.leader()
    process, other = both.servers[old].process, both.clients[1 - old]
    process.send_signal(signal.SIGSTOP)
    try:
        until(lambda: (both.status(1 - old) or {}).get("leader"), 30, "the other leads")
        epoch = both.status(1 - old)["epoch"]
        # what the paused one has fed takes 2 s more
        assert other.end(other.submit({**NOOP, "priority": 9}), 45)["state"] == "SUCCEEDED"
    finally:
        process.send_signal(signal.SIGCONT)
    until(lambda: both.status(old) and not both.status(old)["leader"], 20, "the old one knows")
    load.more()
    assert both.status(1 - old)["epoch"] == epoch and both.leader() == 1 - old
    assert len(both.events("leader")) == epoch
    # a claim that waited with the paused one until its worker gave it up is a loss, told by the audit
    assert {t["state"] for t in complete(both.sje, load.stop(), 90)} == {"SUCCEEDED"}
    succeeded_once(both.sje, [long])


def test_orders_given_to_a_manager_that_does_not_lead(own):
    both = Managers(own(split=True))
    sje, leader = both.sje, both.leader()
    follower = both.clients[1 - leader]
    drained = follower.call("POST", "/mgmt/workers/node1/drain", 200).json()
    assert drained["state"] == "DRAINING"
    until(lambda: both.state(leader) == "DRAINING", 10, "the leader knows")
    follower.call("POST", "/mgmt/workers/nobody/drain", 404)
    follower.call("POST", "/mgmt/queues/default/pause", 200)
    ids = [c.submit(NOOP) for c in both.clients]
    for server in [*both.servers, *both.workers]:
        assert server.terminate() == 0
    for server in [*both.servers, *both.workers]:
        server.start()
    until(lambda: both.leader() is not None, 30, "a leader")
    until(lambda: all(both.state(i) == "DRAINING" for i in range(2)), 30, "still draining")
    follower = both.clients[1 - both.leader()]
    follower.call("POST", "/mgmt/workers/node1/resume", 200)
    until(lambda: all(both.state(i) == "UP" for i in range(2)), 20, "not draining")
    queue = [q for q in follower.get("/mgmt/queues").json()["queues"] if q["pool"] == "default"][0]
    assert queue["paused"] and queue["waitingFor"] == "the pool is paused"
    assert {follower.task(i)["state"] for i in ids} == {"QUEUED"}
    follower.call("POST", "/mgmt/queues/default/resume", 200)
    succeeded_once(sje, ids)
    told = [both.events(e)[0][0] for e in ("workerDrained", "workerResumed", "poolPaused", "poolResumed")]
    assert told == ["node1", "node1", "default", "default"]


def test_settings_hold_for_all_managers(own):
    both = Managers(own(split=True))

    def losses(i):
        answer = both.clients[i].get("/mgmt/config", None)
        return answer.json()["managerConfig"]["maxLosses"]

    change = {"managerConfig": {"maxLosses": 7}, "monitoring": {"logLevel": "info"}}
    answer = both.clients[0].call("PATCH", "/mgmt/config", 200, json=change).json()
    assert answer["managerConfig"]["maxLosses"] == 7
    until(lambda: losses(1) == 7, 10, "the other has it too")
    seeded = {"executorNodeConfig": {"deadAfterSeconds": 30}}  # by the first leader
    assert both.events("settingsChanged") == [(None, seeded), (None, change)]
    for bad, field in [({"managerConfig": {"maxLosses": 0}}, "managerConfig.maxLosses"),
                       ({"apiConfig": {"port": 1}}, "apiConfig.port"), ({"x": {"y": 1}}, "x")]:
        refused = both.clients[1].call("PATCH", "/mgmt/config", 422, json=bad).json()
        assert refused["errors"][0]["field"] == field
    for server in both.servers:
        assert server.terminate() == 0
        server.start()
    until(lambda: all(both.status(i) for i in range(2)), 30, "both managers")
    until(lambda: losses(0) == losses(1) == 7, 20, "kept")
    both.clients[1].call("PATCH", "/mgmt/config", 200, json={"managerConfig": {"maxLosses": None}})
    until(lambda: losses(0) == losses(1) == 5, 10, "back to the default")


def post_and_leave(url, body, key):
    """Sends a request and closes the connection without having read the answer."""
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=5) as s:
        s.sendall(f"POST /task HTTP/1.1\r\nHost: localhost\r\nIdempotency-Key: {key}\r\n"
                  f"Content-Length: {len(body)}\r\n\r\n{body}".encode())


def test_one_key_makes_one_task(own):
    both = Managers(own(split=True))
    sje, keys = both.sje, [f"key-{i}" for i in range(30)]
    first = {}

    def ask(key, turn):
        """One answer, or none."""
        url = both.clients[turn % 2].url
        try:
            post_and_leave(url, '{"jobType":"Noop","jobId":"%s"}' % key, key)
            r = requests.post(url + "/task", data='{"jobType":"Noop","jobId":"%s"}' % key,
                              headers={"Idempotency-Key": key}, timeout=5)
        except (requests.RequestException, OSError):
            return
        if r.status_code == 202:
            assert first.setdefault(key, r.json()["taskId"]) == r.json()["taskId"]
        else:
            assert r.status_code == 503, r.text

    for n, key in enumerate(keys):
        if n % 10 == 5:  # while requests are under way
            threads = [threading.Thread(target=ask, args=(key, t)) for t in range(8)]
            for t in threads:
                t.start()
            victim = both.servers[(n // 10) % 2]
            victim.kill()
            for t in threads:
                t.join()
            victim.start()
        for turn in range(4):
            ask(key, turn)
    until(lambda: all(both.status(i) for i in range(2)), 30, "both managers")
    for key in keys:
        until(lambda key=key: [ask(key, t) for t in range(2)] and key in first, 20, f"an answer to {key}")
    with sje.database() as db, db.cursor() as c:
        c.execute("SELECT job_id, count(*), min(id::text) FROM task GROUP BY job_id")
        found = {job: (n, task) for job, n, task in c.fetchall()}
    assert found == {key: (1, first[key]) for key in keys}
    succeeded_once(sje, list(first.values()))


def test_everything_is_restarted_in_turn_under_load(own, tmp_path):
    both = Managers(own(split=True, SJE_NODE_SLOTS="4"), workers=2)
    marks = tmp_path / "marks"
    load = Load(both, shell(f'echo "$SJE_TASK_ID start" >>{marks}; sleep 0.2; echo "$SJE_TASK_ID end" >>{marks}'))
    load.more()
    for server in [*both.servers, *both.workers]:
        assert server.terminate() == 0, server.tail()
        server.start()
        load.more(20, 60)
        until(lambda: all(both.status(i) for i in range(2)), 30, "both managers")
    ids = load.stop()
    succeeded_once(both.sje, ids)
    lines = marks.read_text().splitlines()
    assert len(lines) == len(set(lines)), "a task ran twice"
    assert {f"{i} {what}" for i in ids for what in ("start", "end")} <= set(lines)


def test_who_waits_at_any_manager_is_told_at_once(own):
    """Whichever of them applied the result. The slow look at the database, each 5 s, is for what was missed."""
    ms = Managers(own(split=True))
    for client in ms.clients:
        took = []
        until(lambda client=client, took=took: took.append(waited(client)) or took[-1] < 2, 30, "managers know of each other")
        took = [waited(client) for _ in range(12)]
        assert max(took) < 2, took


def waited(client):
    begin = time.monotonic()
    client.end(client.submit(NOOP))
    return time.monotonic() - begin
