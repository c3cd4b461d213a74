"""Who a worker is, and how long a lease is: data, whatever settings, directories and peers say."""
import json
import os
import shutil
import signal
import subprocess
import time
import uuid

import pika
import pytest
from test_faults import shell
from test_survivors import QUICK, begun, marker, runs

from sje import BIN, SLOW, Server, until


def other(c, name, **settings):
    """One more worker of the cluster's."""
    return Server(c.dir / name, {**c.settings, "SJE_NODE_WORK_DIR": str(c.dir / name / "work"), **settings},
                  "worker")


def states(c):
    return sorted((w["workerId"], w["state"]) for w in c.workers())


def table(c):
    return subprocess.run([BIN / "sje", "workers"], env={**os.environ, "SJE_URL": c.url}, capture_output=True,
                          text=True, check=True).stdout


def stop(server):
    """SIGSTOP of the process alone: its shims and tasks go on."""
    os.kill(server.process.pid, signal.SIGSTOP)


def first_then_second(path, within):
    """The second attempt began after the first was over."""
    seen = until(lambda: 2 in (r := runs(path)) and r, within, "the second attempt runs")
    # Once more: the first may have gone on beside it.
    until(lambda: runs(path)[2][1] > seen[2][0] + 0.5, within, "it goes on")
    assert runs(path)[1][1] < runs(path)[2][0], "two attempts ran at a time"


def test_a_lease_that_was_given_does_not_change(own, tmp_path):
    c = own(split=True, SJE_NODE_HEARTBEAT_SECONDS="1", SJE_NODE_DEAD_AFTER_SECONDS="12")
    with c.database() as db, db.cursor() as cur:
        cur.execute("select value from setting")
        assert cur.fetchone()[0]["executorNodeConfig"]["deadAfterSeconds"] == 12, "seeded by the file"
    marks = tmp_path / "marks"
    task_id = c.submit(marker(marks, 60))
    begun(marks)
    c.call("PATCH", "/mgmt/config", 200, json={"executorNodeConfig": {"deadAfterSeconds": 3}})
    c.manager.terminate()
    c.manager.start()
    c.ready()
    helper = other(c, "helper", SJE_NODE_NODE_ID="node2")
    until(lambda: ("node2", "UP") in states(c), 20, "a second worker is there")
    stop(c.worker)
    first_then_second(marks, 60)
    granted = [e["detail"]["leaseMs"] for e in c.events(task_id) if e["event"] == "granted"]
    assert granted == [12000, 3000]
    os.kill(c.worker.process.pid, signal.SIGCONT)
    helper.kill()


def test_the_cluster_has_one_value_whatever_a_file_says(own):
    c = own(split=True, **QUICK)
    c.manager.terminate()
    c.manager.env["SJE_NODE_DEAD_AFTER_SECONDS"] = "50"
    c.manager.start()
    c.ready()
    until(lambda: c.get("/mgmt/config").json()["executorNodeConfig"]["deadAfterSeconds"] == 4, 15,
          "the cluster's value is in force")
    for taken in ({"deadAfterSeconds": None}, None):
        answer = c.call("PATCH", "/mgmt/config", 422, json={"executorNodeConfig": taken})
        assert "one value for the cluster" in answer.text
    with c.database() as db, db.cursor() as cur:  # a manager of another version did it, and knows more
        cur.execute("""update setting set version = version + 1, value = '{"newer":{"key":1}}'""")
        db.commit()

        def kept():
            cur.execute("select value from setting")
            return cur.fetchone()[0]
        until(lambda: kept() == {"newer": {"key": 1}, "executorNodeConfig": {"deadAfterSeconds": 4}}, 15,
              "the value in force is written down again")
    c.manager.terminate()
    c.manager.start()
    c.ready()
    until(lambda: c.get("/mgmt/config").json()["executorNodeConfig"]["deadAfterSeconds"] == 4, 15,
          "what a manager does not know it leaves out alone")


def test_a_slow_worker_beats_as_the_cluster_needs_it(own, tmp_path):
    """Whatever its file says: it is dead in time, and the leases that it has stay as they are."""
    c = own(worker=False, SJE_NODE_HEARTBEAT_SECONDS="2", SJE_NODE_DEAD_AFTER_SECONDS="6")
    slow = Server(c.dir / "slow", {**c.settings, "SJE_NODE_HEARTBEAT_SECONDS": "60"}, "worker")
    c.servers.append(slow)
    until(lambda: states(c) == [("node1", "UP")], 20, "it is up")
    until(lambda: "this one beats every 2000 ms" in slow.output.read_text(), 10, "it says so")
    marks = tmp_path / "marks"
    task_id = c.submit(marker(marks, 60, leaseSeconds=30))
    begun(marks)
    c.call("PATCH", "/mgmt/config", 200, json={"executorNodeConfig": {"deadAfterSeconds": 3}})
    until(lambda: "this one beats every 1000 ms" in slow.output.read_text(), 10, "it adapts again")
    time.sleep(4 * SLOW)  # for longer than deadAfterSeconds
    assert states(c) == [("node1", "UP")]
    slow.kill()
    until(lambda: states(c) == [("node1", "DEAD")], 3 + 1 + 3, "it is dead")
    assert c.task(task_id)["state"] == "RUNNING", "its lease is longer, and stays so"
    granted = [e["detail"]["leaseMs"] for e in c.events(task_id) if e["event"] == "granted"]
    assert granted == [30000]
    assert slow.output.read_text().count("this one beats every 1000 ms") == 1


def test_a_worker_that_cannot_adapt_limits_the_setting(own):
    """One of an earlier version beats as its file says."""
    c = own(worker=False)
    beat = {"v": 1, "type": "beat", "worker": "old", "uuid": str(uuid.uuid4()), "inc": 1, "beat": 1, "host": "h",
            "pid": 1, "version": "0.0.9", "reply": "sje.worker.old.1", "startedAt": 1700000000000,
            "heartbeatMs": 9000, "pools": ["default"], "jobTypes": ["Noop"], "slots": 1, "free": 1, "running": [],
            "claiming": []}
    env = c.settings
    credentials = pika.PlainCredentials(env["SJE_RABBITMQ_USERNAME"], env["SJE_RABBITMQ_PASSWORD"])
    with pika.BlockingConnection(pika.ConnectionParameters(
            "127.0.0.1", int(env["SJE_RABBITMQ_PORT"]), env["SJE_RABBITMQ_VHOST"], credentials)) as broker:
        broker.channel().basic_publish("sje.beat", "", json.dumps(beat).encode())
    until(lambda: states(c) == [("old", "UP")], 20, "it is heard")

    def dead_after(seconds, status):
        return c.call("PATCH", "/mgmt/config", status, json={"executorNodeConfig": {"deadAfterSeconds": seconds}})

    answer = dead_after(26, 422).json()["errors"][0]
    assert answer["field"] == "executorNodeConfig.deadAfterSeconds"
    assert "allowed is at least 27 while worker old beats every 9 s" in answer["message"], answer
    dead_after(27, 200)


def test_another_work_directory_waits_for_the_leases_of_the_first(own, tmp_path):
    c = own(split=True, **QUICK)
    marks = tmp_path / "marks"
    task_id = c.submit(marker(marks, 60))
    begun(marks)
    c.worker.terminate()
    second = other(c, "second")
    left = "came back with another workDir; 1 task of the one before runs again when the lease is over"
    until(lambda: f"node1 is UP: it {left}" in table(c), 20, "it is told")
    assert "worker node1 came back with another workDir" in c.manager.output.read_text()
    first_then_second(marks, 60)
    assert "came back" not in table(c)
    with c.database() as db, db.cursor() as cur:
        cur.execute("select count(*) from cluster_event where event = 'workerReplaced' and subject = 'node1'")
        assert cur.fetchone() == (1,)
    assert c.story(task_id).count("granted") == 2
    lost = [e["detail"]["reason"] for e in c.events(task_id) if e["event"] == "lost"]
    assert lost == ["its worker came back with another work directory: the lease ran out"], lost
    c.cancel(task_id)
    assert c.end(task_id)["state"] == "CANCELLED"
    second.terminate()


def test_another_name_does_not_throw_away_what_runs(own, tmp_path):
    c = own(split=True, **QUICK)
    marks = tmp_path / "marks"
    task_id = c.submit(marker(marks, 6))
    begun(marks)
    c.worker.terminate()
    c.worker.env["SJE_NODE_NODE_ID"] = "renamed"
    done = subprocess.run([BIN / "sje-executor", "--role", "worker"], env=c.worker.env, capture_output=True,
                          text=True, timeout=60, check=False)
    assert done.returncode == 2, done
    assert "belongs to worker node1, which still runs 1 task: set executorNodeConfig.nodeId: node1" in done.stderr
    c.worker.env["SJE_NODE_NODE_ID"] = "node1"
    c.worker.start()
    t = c.end(task_id)
    assert (t["state"], t["attempt"]) == ("SUCCEEDED", 1), t
    c.worker.terminate()
    c.worker.env["SJE_NODE_NODE_ID"] = "renamed"  # nothing runs
    c.worker.start()
    until(lambda: ("renamed", "UP") in states(c), 20, "it is up")


def test_who_has_lost_what_ran_is_another_worker(own, tmp_path):
    c = own(split=True, **QUICK)
    marks = tmp_path / "marks"
    task_id = c.submit(marker(marks, 60))
    begun(marks)
    c.worker.kill()
    (c.work / "tasks").rename(c.work / "elsewhere")
    c.worker.start()
    first_then_second(marks, 60)
    c.cancel(task_id)
    assert c.end(task_id)["state"] == "CANCELLED"


def remove(attempt):
    while attempt.exists():  # the shim may make a file while the directory goes
        shutil.rmtree(attempt, ignore_errors=True)


@pytest.mark.parametrize("spoil", [remove,
                                   lambda attempt: (attempt / "grant.json").write_text("{}")],
                         ids=["removed", "overwritten"])
def test_what_a_task_does_to_its_own_directory(own, tmp_path, spoil):
    """The worker that comes next goes on with all others; this one is lost, and nothing of it lives."""
    c = own(split=True, SJE_NODE_HEARTBEAT_SECONDS="1", SJE_NODE_DEAD_AFTER_SECONDS="15")
    bad, good = tmp_path / "bad", tmp_path / "good"
    bad_id, good_id = c.submit(marker(bad, 8)), c.submit(marker(good, 8))
    begun(bad)
    begun(good)
    c.worker.kill()
    spoil(c.work / "tasks" / f"{bad_id}.1")
    c.worker.start()
    first_then_second(bad, 30)
    for task_id, attempt in (good_id, 1), (bad_id, 2):
        t = c.end(task_id)
        assert (t["state"], t["attempt"]) == ("SUCCEEDED", attempt)
    assert states(c) == [("node1", "UP")]


def test_a_second_one_of_the_same_name_is_refused(own, tmp_path):
    c = own(split=True, **QUICK)
    marks = tmp_path / "marks"
    task_id = c.submit(marker(marks, 60))
    begun(marks)
    intruder = other(c, "intruder")
    until(lambda: states(c) == [("node1", "REFUSED"), ("node1", "UP")], 20, "it is refused")
    until(lambda: "another worker calls itself node1" in intruder.output.read_text(), 20, "it says so")
    assert "two workers call themselves node1" in c.manager.output.read_text()
    (refused,) = c.get("/mgmt/workers/node1").json()["refused"]
    assert refused["pid"] == intruder.process.pid and f"pid {c.worker.process.pid}" in refused["reason"]
    # It gets nothing, not even what the first one has no room for.
    more = [c.submit(shell("true")) for _ in range(20)]
    assert {c.end(t)["state"] for t in more} == {"SUCCEEDED"}
    assert list((c.dir / "intruder/work/tasks").iterdir()) == []
    assert c.story(task_id).count("lost") == 0
    intruder.terminate()
    until(lambda: states(c) == [("node1", "UP")], 2, "the first one alone is left, at once")
    assert c.run(shell("true"))["state"] == "SUCCEEDED"
    c.cancel(task_id)
    assert c.end(task_id)["state"] == "CANCELLED"


def test_who_was_displaced_comes_back_by_itself(own, tmp_path):
    c = own(split=True, **QUICK)
    stop(c.worker)
    second = other(c, "second")
    until(lambda: ("node1", "UP") in states(c) and
          any(w["pid"] == second.process.pid and w["state"] == "UP" for w in c.workers()), 30,
          "the second one has taken the name")
    os.kill(c.worker.process.pid, signal.SIGCONT)
    until(lambda: states(c) == [("node1", "REFUSED"), ("node1", "UP")], 20, "the first one is refused")
    assert c.run(shell("true"))["state"] == "SUCCEEDED"
    second.terminate()
    until(lambda: any(w["pid"] == c.worker.process.pid and w["state"] == "UP" for w in c.workers()), 20,
          "the first one is back")
    assert c.run(shell("true"))["state"] == "SUCCEEDED"


def test_a_forged_beat_changes_nothing(own, tmp_path):
    c = own(split=True, **QUICK)
    marks = tmp_path / "marks"
    task_id = c.submit(marker(marks, 8))
    begun(marks)
    forged = {"v": 1, "type": "beat", "worker": "node1", "inc": 2 ** 62, "beat": 1, "host": "evil", "pid": 1,
              "reply": "sje.worker.node1.1", "startedAt": 1, "pools": ["default"], "jobTypes": ["Command"],
              "slots": 4, "free": 4, "cpus": 4, "memoryMb": 1, "running": [], "claiming": []}
    for more in ({}, {"uuid": "11111111-1111-1111-1111-111111111111"}, {"inc": 1}, {"uuid": None}):
        body = {k: v for k, v in {**forged, **more}.items() if v is not None}
        assert c.call("POST", "/internal/beat", data=json.dumps(body)).status_code == 404
    t = c.end(task_id)
    assert (t["state"], t["attempt"]) == ("SUCCEEDED", 1)
    assert c.story(task_id) == ["accepted", "granted", "succeeded"]
    assert states(c) == [("node1", "UP")]


def test_a_directory_that_was_put_back(own):
    """From a backup: its number is one of the past."""
    c = own(split=True, **QUICK)
    identity = c.work / "identity"
    saved = identity.read_text()
    for _ in range(2):
        c.worker.terminate()
        c.worker.start()
        c.ready()
    killed = c.worker.process.pid
    c.worker.kill()
    identity.write_text(saved)
    c.worker.start()
    until(lambda: int(identity.read_text().split()[1]) > 3, 20, "it takes a number that was not used")
    until(lambda: f"(pid {killed})" in c.worker.output.read_text(), 20, "it says who had it")
    assert c.run(shell("true"))["state"] == "SUCCEEDED"
    until(lambda: states(c) == [("node1", "UP")], 20, "it is up")


def test_a_cancel_that_cannot_be_delivered_says_so(own, tmp_path):
    c = own(split=True, **QUICK)
    marks = tmp_path / "marks"
    task_id = c.submit(marker(marks, 60))
    begun(marks)
    stop(c.worker)
    until(lambda: states(c) != [("node1", "UP")], 20, "it is silent")
    answer = c.cancel(task_id).json()
    assert "was not heard for" in answer["warnings"][0], answer
    os.kill(c.worker.process.pid, signal.SIGCONT)
    assert c.end(task_id)["state"] == "CANCELLED"
