"""What runs goes on: without the broker, without its worker; and never twice at a time."""
import os
import signal
import time
from contextlib import contextmanager, suppress

import pytest
from test_faults import complete, shell

from sje import SLOW, Client, Server, free_port, kill, processes_with, until

QUICK = {"SJE_NODE_HEARTBEAT_SECONDS": "1", "SJE_NODE_DEAD_AFTER_SECONDS": "4"}

# Marks with boot time, written by the task itself, ten a second: `run <attempt> <boot time>`.
MARKS = """
import os, sys, time
marks = open(sys.argv[1], "a", buffering=1)
end = time.clock_gettime(time.CLOCK_BOOTTIME) + float(sys.argv[2])
while time.clock_gettime(time.CLOCK_BOOTTIME) < end:
    print(os.environ["SJE_ATTEMPT"], time.clock_gettime(time.CLOCK_BOOTTIME), file=marks)
    time.sleep(0.1)
"""


# Twenty steps of half a second and a Spark job each; says once that it was started.
SPARK = """
import json, os, sys, time
from pyspark.sql import SparkSession
spark = SparkSession.builder.appName("steps").getOrCreate()
with open(sys.argv[1], "a") as f:
    f.write("started\\n")
total = 0
for i in range(1, 21):
    total += spark.range(1000).groupBy().sum().collect()[0][0]
    print("step", i, flush=True)
    time.sleep(0.5)
with open(os.environ["SJE_OUTPUT"], "w") as f:
    json.dump({"sum": total}, f)
spark.stop()
"""


def marker(path, seconds, **more):
    return {"jobType": "Command", "command": ["python3", "-c", MARKS, str(path), str(seconds)], **more}


def runs(path):
    """First and last mark of each attempt, by attempt."""
    seen = {}
    for line in path.read_text().splitlines():
        attempt, at = line.split()
        first, _ = seen.get(int(attempt), (float(at), 0))
        seen[int(attempt)] = (first, float(at))
    return seen


def begun(path):
    """When it was, by its first mark."""
    return until(lambda: path.exists() and runs(path), 30, "it has begun")[1][0]


def boot():
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def another_worker(sje, name="node2", **settings):
    server = Server(sje.dir / name, {**sje.settings, "SJE_NODE_NODE_ID": name,
                                     "SJE_NODE_WORK_DIR": str(sje.work / name), **settings}, "worker")
    sje.servers.append(server)
    until(lambda: any(w["workerId"] == name and w["state"] == "UP" for w in sje.workers()), 30, name)
    return server


def another_manager(sje):
    port = free_port()
    server = Server(sje.dir / "manager2", {**sje.settings, "SJE_API_PORT": str(port),
                                           "SJE_NODE_NODE_ID": "manager2"}, "manager")
    sje.servers.append(server)
    client = Client(f"http://127.0.0.1:{port}")
    until(lambda: alive(client), 30, "the second manager")
    return server, client


def alive(client):
    try:
        return client.get("/health/live", None).status_code == 200
    except OSError:
        return False


def wait_until_boot(at):
    """Faults have a length of their own; nothing is awaited here."""
    while boot() < at:
        time.sleep(0.05)


# ---- the broker is away ----

@contextmanager
def without(services):
    services.stop("rabbitmq")
    try:
        yield
    finally:
        services.start("rabbitmq")


def outlasts(task_id, marks, seconds):
    """The task goes on for so long."""
    wait_until_boot(begun(marks) + seconds)
    assert processes_with(task_id), "the task goes on"
    assert list(runs(marks)) == [1]


def undisturbed(sje, task_id, path):
    (t,) = complete(sje, [task_id])
    assert (t["state"], t["attempt"]) == ("SUCCEEDED", 1), (t, sje.story(task_id))
    assert list(runs(path)) == [1]
    story = sje.story(task_id)
    assert story.count("granted") == 1 and "lost" not in story, story


@pytest.mark.parametrize("split", [False, True], ids=["all", "split"])
def test_broker_stopped_for_three_leases(own, services, split):
    """Nothing is configured for it: a worker knows the managers from their answers."""
    sje = own(split=split, **QUICK)
    marks = sje.dir / "marks"
    task_id = sje.submit(marker(marks, 16))
    sje.running(task_id)
    with without(services):
        outlasts(task_id, marks, 13)
    sje.ready(60)
    undisturbed(sje, task_id, marks)


def test_broker_away_and_the_worker_restarts(own, services):
    sje = own(split=True, **QUICK)
    marks = sje.dir / "marks"
    task_id = sje.submit(marker(marks, 14))
    sje.running(task_id)
    with without(services):
        sje.worker.kill()
        sje.worker.start()
        outlasts(task_id, marks, 12)
    sje.ready(60)
    undisturbed(sje, task_id, marks)


def test_broker_alarm_for_three_leases(own, services):
    sje = own(split=True, **QUICK)
    marks = sje.dir / "marks"
    task_id = sje.submit(marker(marks, 12))
    sje.running(task_id)
    services.script("ctl", "set_vm_memory_high_watermark", "0.0000001")
    try:
        wait_until_boot(begun(marks) + 13)
        assert not processes_with(task_id), "the task has ended by itself"
        assert sje.task(task_id)["state"] == "RUNNING", "its result waits"
    finally:
        services.script("ctl", "set_vm_memory_high_watermark", "absolute", "1GB")
    sje.ready(60)
    undisturbed(sje, task_id, marks)


def test_broker_stands_still_for_three_leases(own, services):
    """Its connections stay, and nobody refuses anything; there is just no answer."""
    sje = own(split=True, **QUICK)
    marks = sje.dir / "marks"
    task_id = sje.submit(marker(marks, 16))
    begun(marks)
    broker = int((services.dir / "rabbitmq/beam.pid").read_text())
    os.kill(broker, signal.SIGSTOP)
    try:
        outlasts(task_id, marks, 13)
    finally:
        os.kill(broker, signal.SIGCONT)
    sje.ready(60)
    undisturbed(sje, task_id, marks)
    until(lambda: "through the broker alone again" in sje.worker.output.read_text(), 30,
          "the way by the broker is taken again")


def test_broker_away_and_the_leader_too(own, services):
    """The worker finds the manager that leads next."""
    sje = own(split=True, **QUICK)
    _, other = another_manager(sje)
    marks = sje.dir / "marks"
    # Both have answered claims of the worker, so it has heard of both.
    known = sje.work / "managers"

    def heard_of_both():
        sje.run({"jobType": "Noop"})
        return known.exists() and len(known.read_text().split()) == 2
    until(heard_of_both, 60, "the worker has heard of both managers")
    task_id = sje.submit(marker(marks, 16))
    sje.running(task_id)
    with without(services):
        sje.manager.kill()
        outlasts(task_id, marks, 14)
        assert other.task(task_id)["state"] == "RUNNING"
    sje.manager.start()
    sje.ready(60)
    undisturbed(sje, task_id, marks)


# ---- the worker is away ----

@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_spark_job_survives_its_worker(own, how):
    sje = own(split=True)
    started = sje.dir / "started"
    app = sje.dir / "steps.py"
    app.write_text(SPARK)
    task_id = sje.submit({"jobType": "SparkApp", "sparkAppPath": str(app),
                          "args": [str(started)], "timeoutSeconds": 600})
    until(lambda: started.exists() and "step 1" in sje.log(task_id).text, 240, "the job is at work")
    sje.worker.process.send_signal(how)
    sje.worker.process.wait(30)
    assert processes_with(task_id), "the job goes on without its worker"
    sje.worker.start()
    (t,) = complete(sje, [task_id], 300)
    assert (t["state"], t["attempt"]) == ("SUCCEEDED", 1), (t, sje.story(task_id))
    assert started.read_text() == "started\n", "Spark was started once"
    assert sje.log(task_id).text == "".join(f"step {i}\n" for i in range(1, 21)), "the log is whole"
    assert t["output"] == {"sum": 20 * 499500}
    story = sje.story(task_id)
    assert story.count("granted") == 1 and story.count("survived") <= 1, story


def kill_node(task_id, server):
    """The worker, the shim and the task at one blow."""
    os.kill(server.process.pid, signal.SIGSTOP)
    victims = processes_with(task_id)
    assert victims
    for pid in victims:
        kill(pid)
    server.kill()
    until(lambda: not processes_with(task_id), 10, "nothing is left")
    return boot()


def test_a_task_that_marks_its_directory(own):
    """`done` is a name that tasks use too: what runs, and what has ended, is not disowned for it."""
    sje = own(split=True)
    mark = "touch $(dirname $SJE_OUTPUT)/done; "
    runs_on = sje.submit(shell(mark + "sleep 6; echo late"))
    ends = sje.submit(shell(mark + "sleep 1; echo soon"))
    until(lambda: {sje.task(t)["state"] for t in (runs_on, ends)} == {"RUNNING"}, 20, "both run")
    sje.worker.terminate()
    until(lambda: list(sje.work.glob(f"tasks/{ends}.1/exit.json")), 20, "one of them ends while nobody looks")
    sje.worker.start()
    for task, said in ((runs_on, "late"), (ends, "soon")):
        ended = sje.end(task)
        assert (ended["state"], ended["attempt"], ended["output"].strip()) == ("SUCCEEDED", 1, said), ended


def test_a_directory_with_another_spelling(own):
    """What a task makes beside its own directory is no attempt, and no worker ends for it."""
    sje = own(split=True)
    innocent = sje.submit(shell("sleep 6; echo done"))
    task = sje.submit(shell('d=$(dirname "$SJE_WORK_DIR"); mkdir "${d%.1}.01"; echo made; sleep 6'))
    until(lambda: "made" in sje.log(task).text, 20, "made")
    sje.running(innocent)
    sje.worker.kill()
    sje.worker.start()
    for t in (innocent, task):
        ended = sje.end(t)
        assert (ended["state"], ended["attempt"]) == ("SUCCEEDED", 1), ended
    assert list(sje.work.glob(f"tasks/{task}.01")), "it is not ours to remove"


def test_a_dead_node_is_replaced_in_time(own):
    sje = own(split=True, **QUICK)
    marks = sje.dir / "marks"
    task_id = sje.submit(marker(marks, 6))
    sje.running(task_id)
    begun(marks)
    another_worker(sje)
    died = kill_node(task_id, sje.worker)
    t = sje.end(task_id, 90)
    assert (t["state"], t["attempt"], t["workerId"]) == ("SUCCEEDED", 2, "node2"), t
    seen = runs(marks)
    assert seen[1][1] < seen[2][0], "they do not overlap"
    late = seen[2][0] - died
    print(f"started anew {late:.1f}s later")
    assert late < (4 + 10) * SLOW, "deadAfterSeconds and ten seconds"
    assert "lost" in sje.story(task_id)
    sje.servers.remove(sje.worker)


def test_what_a_worker_does_not_bring_back_is_lost_at_once(own):
    """Its directory is gone: the first beat of the new process ends the attempt, not its lease."""
    sje = own(split=True, SJE_NODE_DEAD_AFTER_SECONDS="300")
    task_id = sje.submit(shell('[ "$SJE_ATTEMPT" = 2 ] || sleep 1000', leaseSeconds=300))
    sje.running(task_id)
    kill_node(task_id, sje.worker)
    for attempt in (sje.work / "tasks").iterdir():
        attempt.rename(sje.dir / "elsewhere")
    sje.worker.start()
    t = sje.end(task_id, 60)
    assert (t["state"], t["attempt"]) == ("SUCCEEDED", 2), (t, sje.story(task_id))


def test_a_killed_shim_is_reported_at_once(own):
    sje = own(split=True, SJE_NODE_DEAD_AFTER_SECONDS="300")
    task_id = sje.submit(shell('[ "$SJE_ATTEMPT" = 2 ] || sleep 1000', leaseSeconds=300))
    sje.running(task_id)
    for pid in processes_with("sje-shim"):
        if task_id in open(f"/proc/{pid}/cmdline").read():
            kill(pid)
    t = sje.end(task_id, 60)
    assert (t["state"], t["attempt"]) == ("SUCCEEDED", 2), (t, sje.story(task_id))


def test_a_stopped_worker_never_overlaps(own):
    """SIGSTOP of the worker for three leases: its shim keeps the deadline."""
    sje = own(split=True, **QUICK)
    marks = sje.dir / "marks"
    task_id = sje.submit(marker(marks, 20))
    sje.running(task_id)
    begun(marks)
    another_worker(sje)
    stopped = boot()
    sje.worker.process.send_signal(signal.SIGSTOP)
    wait_until_boot(stopped + 12)
    sje.worker.process.send_signal(signal.SIGCONT)
    (t,) = complete(sje, [task_id], 120)
    assert t["state"] == "SUCCEEDED" and t["attempt"] >= 2, (t, sje.story(task_id))
    seen = sorted(runs(marks).items())
    assert len(seen) == t["attempt"]
    for (_, (_, end)), (_, (begin, _)) in zip(seen, seen[1:]):
        assert end < begin, f"runs overlap: {seen}"
    assert seen[0][1][1] - stopped < 12, "the first run ended while its worker stood still"


@pytest.mark.parametrize("half", ["keeper", "guardian"])
def test_a_stopped_worker_and_half_of_its_shim(own, half):
    """SIGSTOP of the worker and of the half of the shim that it has started, or of the other: the
    half that is left ends the task before its next attempt begins."""
    sje = own(split=True, **QUICK)
    marks = sje.dir / "marks"
    task_id = sje.submit(marker(marks, 20))
    sje.running(task_id)
    begun(marks)
    another_worker(sje)
    worker = sje.worker.process.pid
    parent = {pid: int(open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()[1])
              for pid in processes_with("sje-shim") if task_id in open(f"/proc/{pid}/cmdline").read()}
    assert len(parent) == 2, parent
    stopped = boot()
    node = [worker, *(pid for pid in parent if (parent[pid] == worker) == (half == "keeper"))]
    assert len(node) == 2, parent
    for pid in node:
        os.kill(pid, signal.SIGSTOP)
    wait_until_boot(stopped + 14)
    for pid in node:
        with suppress(ProcessLookupError):  # the keeper kills a guardian that stands still
            os.kill(pid, signal.SIGCONT)
    (t,) = complete(sje, [task_id], 120)
    assert t["state"] == "SUCCEEDED" and t["attempt"] >= 2, (t, sje.story(task_id))
    seen = sorted(runs(marks).items())
    for (_, (_, end)), (_, (begin, _)) in zip(seen, seen[1:]):
        assert end < begin, f"runs overlap: {seen}"
    assert seen[0][1][1] - stopped < 14, "the first run ended while its worker stood still"


def test_a_whole_node_stands_still(own):
    """Worker, shim and task are all stopped: who wakes late has lost."""
    sje = own(split=True, **QUICK)
    marks = sje.dir / "marks"
    task_id = sje.submit(marker(marks, 4))
    sje.running(task_id)
    begun(marks)
    another_worker(sje)
    node = [sje.worker.process.pid, *processes_with(task_id)]
    for pid in node:
        os.kill(pid, signal.SIGSTOP)
    t = sje.end(task_id, 90)
    assert (t["state"], t["attempt"], t["workerId"]) == ("SUCCEEDED", 2, "node2"), t
    for pid in node:
        with suppress(ProcessLookupError):  # the shim, awake, may have ended its task by now
            os.kill(pid, signal.SIGCONT)
    until(lambda: not processes_with(task_id), 30, "the old attempt ends")
    ended = sje.task(task_id)
    complete(sje, [task_id])
    assert sje.task(task_id) == ended, "what the old attempt says changes nothing"


@pytest.mark.parametrize("changes", [{"reply": "sje.result"}, {"reply": ""}, {"type": "results"}, {"v": 2}])
def test_what_is_no_beat(sje, changes):
    """Whoever reaches the port may call, so nothing but a worker's own queue is ever answered to."""
    beat = {"v": 1, "type": "beat", "worker": "stranger", "inc": 1, "beat": 1, "host": "h", "slots": 0,
            "reply": "sje.worker.stranger.1", "pools": [], "jobTypes": [], "running": [], "claiming": []}
    sje.post("/internal/beat", {**beat, **changes}, 400)
    sje.post("/internal/beat", beat, 404)  # workers are known from the broker
    assert all(w["workerId"] != "stranger" for w in sje.workers())


def test_beats_over_http_need_the_token(own, services):
    sje = own(split=True, **QUICK, SJE_API_BEAT_TOKEN="s3cret")
    marks = sje.dir / "marks"
    task_id = sje.submit(marker(marks, 12))
    sje.running(task_id)
    beat = {"v": 1, "type": "beat", "worker": "node1", "inc": 1 << 50, "beat": 1, "host": "h", "slots": 0,
            "reply": "sje.worker.node1.1", "pools": [], "jobTypes": [], "running": [], "claiming": []}
    sje.post("/internal/beat", beat, 403)
    with without(services):
        outlasts(task_id, marks, 9)
    sje.ready(60)
    undisturbed(sje, task_id, marks)
    for s in sje.servers:
        assert "s3cret" not in s.output.read_text()
    assert sje.get("/mgmt/config").json()["apiConfig"]["beatToken"] == "***"
