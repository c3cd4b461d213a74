"""A task goes to a worker that can take it, and says what it waits for; a worker that is stopped keeps no
task from those that are free."""
import os
import signal
import time

import pytest

from sje import Server, until

NOOP = {"jobType": "Noop"}


def shell(text, **more):
    return {"jobType": "Command", "command": ["sh", "-c", text], **more}


@pytest.fixture
def pair(own):
    """A manager with the worker node1, and what makes further workers."""
    cluster, servers = own(split=True, SJE_NODE_CPUS="4", SJE_NODE_MEMORY_MB="1000"), []

    def add(name, **settings):
        servers.append(Server(cluster.dir / name, {
            **cluster.settings, "SJE_NODE_NODE_ID": name, "SJE_NODE_WORK_DIR": str(cluster.dir / name / "work"),
            **settings}, "worker"))
        until(lambda: any(w["workerId"] == name and w["state"] == "UP" for w in cluster.workers()), 30,
              f"{name} is up")
        return servers[-1]
    cluster.add = add
    yield cluster
    for server in servers:
        if server.process.poll() is None:
            server.process.send_signal(signal.SIGCONT)
            server.terminate()


def waits_for(sje, task, code):
    def look():
        t = sje.task(task)
        return t["state"] == "QUEUED" and t["waitingFor"] and t["waitingFor"]["code"] == code and t["waitingFor"]["text"]
    return until(look, 10, f"it waits for {code}: {sje.task(task)}")


def plugin(directory, name):
    directory.mkdir()
    path = directory / name
    path.write_text("#!/bin/sh\nexit 0\n")
    path.chmod(0o755)
    return path


def test_it_says_what_is_taken_and_who_is_draining(pair):
    for name in ("node2", "node3"):
        pair.add(name)
        pair.call("POST", f"/mgmt/workers/{name}/drain", 200)
    hold = [pair.submit(shell("sleep 60", resources={"slots": 2, "cpus": 1})) for _ in range(2)]
    for task in hold:
        pair.running(task)
    waits = pair.submit(NOOP)
    text = waits_for(pair, waits, "busy")
    assert text in [f"no worker has 1 slot free now (node1: 4 of 4 taken); {a} and {b} are draining"
                    for a, b in (("node2", "node3"), ("node3", "node2"))], text
    large = pair.submit({**NOOP, "resources": {"slots": 1, "cpus": 3}})
    assert waits_for(pair, large, "busy").startswith(
        "no worker has 1 slot, 3 CPUs free now (node1: 4 of 4 slots, 2 of 4 CPUs taken); ")
    one = pair.submit({**NOOP, "resources": {"cpus": 1, "memoryMb": 9999}})
    assert waits_for(pair, one, "doesNotFit").startswith("it needs 1 CPU, 9999 MiB; ")
    for task in (*hold, waits, large, one):
        pair.cancel(task, None)


def test_the_type_and_the_size_decide(pair, tmp_path):
    plugins = plugin(tmp_path / "plugins", "Extra").parent
    pair.servers[0].terminate()  # it must know the type as well
    pair.servers[0].env["SJE_NODE_PLUGIN_DIR"] = str(plugins)
    pair.servers[0].start()
    pair.ready()
    extra = pair.submit({"jobType": "Extra"})
    assert "offers Extra" in waits_for(pair, extra, "noWorkerOffersType")
    large = pair.submit({**NOOP, "resources": {"slots": 7, "memoryMb": 3000}})
    assert "7 slots, 3000 MiB" in waits_for(pair, large, "doesNotFit")
    elsewhere = pair.submit({**NOOP, "pool": "none"})
    assert "default" in waits_for(pair, elsewhere, "noWorkerOfPool")
    later = pair.submit({**NOOP, "delaySeconds": 100})
    waits_for(pair, later, "notBefore")
    queues = {q["pool"]: q for q in pair.get("/mgmt/queues").json()["queues"]}
    assert queues["none"]["waitingForCode"] == "noWorkerOfPool" and "none" in queues["none"]["waitingFor"]
    assert queues["none"]["waitingTaskId"] == elsewhere
    # What fits is not kept back.
    assert pair.end(pair.submit(NOOP), 10)["workerId"] == "node1"
    pair.add("big", SJE_NODE_SLOTS="8", SJE_NODE_MEMORY_MB="4000", SJE_NODE_PLUGIN_DIR=str(plugins))
    assert pair.end(extra, 20)["workerId"] == "big"
    assert pair.end(large, 20)["workerId"] == "big"
    many = [pair.submit({**NOOP, "resources": {"memoryMb": 2000}}) for _ in range(50)]
    assert {pair.end(t, 30)["workerId"] for t in many} == {"big"}


def test_memory_is_never_promised_twice(pair):
    """Two at a time, by their memory, on the one worker that has any for them."""
    pair.add("big", SJE_NODE_SLOTS="8", SJE_NODE_MEMORY_MB="4000")
    marks = pair.dir / "marks"
    marking = f"date +%s%N >>{marks}/$SJE_TASK_ID; sleep 0.5; date +%s%N >>{marks}/$SJE_TASK_ID"
    marks.mkdir()
    tasks = [pair.submit(shell(marking, resources={"memoryMb": 1500})) for _ in range(6)]
    assert {pair.end(t, 30)["workerId"] for t in tasks} == {"big"}
    # By their own clocks: the database has the end from when it was told.
    ran = [[int(n) for n in (marks / t).read_text().split()] for t in tasks]
    assert all(len(r) == 2 for r in ran), ran
    assert max(sum(begin <= at < end for begin, end in ran) for at, _ in ran) == 2, ran


@pytest.mark.parametrize("scarce", [{"memoryMb": 800}, {"cpus": 3}])
@pytest.mark.parametrize("waiting", [1, 100])
def test_who_asks_for_a_slot_alone_is_not_held_up(pair, scarce, waiting):
    """The room that some wait for is no matter of those that ask for nothing of it."""
    pair.end(pair.submit(NOOP), 20)
    first = pair.submit(shell("sleep 60", resources=scarce))
    until(lambda: pair.task(first)["state"] == "RUNNING", 10, "it runs")
    large = pair.post("/tasks", [shell("true", resources=scarce)] * waiting).json()
    start = time.monotonic()
    for task in [pair.submit(shell("sleep 0.2")) for _ in range(12)]:
        pair.end(task, 20)
    assert time.monotonic() - start < 4
    pair.cancel(first)
    for task in large["tasks"]:
        pair.end(task["taskId"], 60)


def test_what_is_taken_is_shown(pair):
    task = pair.submit(shell("sleep 60", resources={"cpus": 1.5, "memoryMb": 300}))
    until(lambda: pair.task(task)["state"] == "RUNNING", 10, "it runs")
    w = pair.get("/mgmt/workers/node1").json()
    assert (w["slots"], w["usedSlots"], w["cpus"], w["usedCpus"], w["memoryMb"], w["usedMemoryMb"]) == \
        (4, 1, 4, 1.5, 1000, 300)
    assert [(t["slots"], t["cpus"], t["memoryMb"]) for t in w["tasks"]] == [(1, 1.5, 300)]
    status = pair.get("/mgmt/status").json()
    assert (status["cpus"], status["usedCpus"], status["memoryMb"], status["usedMemoryMb"]) == (4, 1.5, 1000, 300)
    lines = pair.get("/metrics").text.splitlines()
    assert "sje_cpus_used 1.5" in lines and f"sje_memory_used_bytes {300 << 20}" in lines
    pair.cancel(task)
    until(lambda: pair.workers()[0]["usedCpus"] == 0, 10, "it is free again")


def test_a_stopped_worker_keeps_nothing_back(pair):
    """It holds what it was given while the other is idle: everything starts well before it is found out."""
    pair.add("node2")
    assert pair.end(pair.submit(NOOP), 20)["state"] == "SUCCEEDED"
    os.kill(pair.worker.process.pid, signal.SIGSTOP)
    try:
        start = time.monotonic()
        tasks = [pair.submit(NOOP) for _ in range(4)]
        for task in tasks:
            assert pair.end(task, 30)["workerId"] == "node2"
        assert time.monotonic() - start < 8
    finally:
        os.kill(pair.worker.process.pid, signal.SIGCONT)


def test_a_large_one_is_not_starved(pair):
    """Only one worker is large enough, and small tasks take each of its slots as it becomes free."""
    pair.add("big", SJE_NODE_SLOTS="8")
    pair.post("/tasks", [shell("sleep 0.3")] * 400)
    until(lambda: sum(w["usedSlots"] for w in pair.workers()) == 12, 20, "all slots are taken")
    large = pair.submit(shell("true", priority=9, resources={"slots": 7}))
    assert pair.end(large, 25)["workerId"] == "big"
    assert any(t["state"] == "QUEUED" for t in pair.get("/tasks?limit=1000").json()["tasks"]), "small ones are left"


def test_what_only_one_worker_takes_comes_in_its_order(pair):
    """Tasks for all keep every slot busy; those before them, which one worker alone can take, do not wait for them."""
    pair.add("big", SJE_NODE_SLOTS="4", SJE_NODE_MEMORY_MB="100000")
    pair.post("/tasks", [shell("sleep 1")] * 200)
    until(lambda: sum(w["usedSlots"] for w in pair.workers()) == 8, 20, "all slots are taken")
    start = time.monotonic()
    first = [pair.submit(shell("sleep 1", priority=9, resources={"memoryMb": 2000})) for _ in range(8)]
    assert {pair.end(t, 30)["workerId"] for t in first} == {"big"}
    assert time.monotonic() - start < 12, "about one after the other on each slot"
    assert any(t["state"] == "QUEUED" for t in pair.get("/tasks?limit=1000").json()["tasks"]), "the others are left"


def test_more_slots_bring_more_hints(own):
    """Those that wait for a CPU must not be all that the worker may have."""
    sje = own(SJE_NODE_SLOTS="2", SJE_NODE_CPUS="1")
    sje.call("PATCH", "/mgmt/config", 200, json={"executorNodeConfig": {"slots": 32}})
    until(lambda: sje.workers()[0]["slots"] == 32, 20, "it has them")
    hold = sje.submit(shell("sleep 60", resources={"cpus": 1}))
    sje.running(hold)
    wait = [sje.submit(shell("true", resources={"cpus": 1})) for _ in range(4)]
    until(lambda: all(f'task={task} attempt=1 msg="gone -> held' in sje.worker.output.read_text() for task in wait),
          20, "they are with the worker")
    assert sje.end(sje.submit(shell("true")), 10)["state"] == "SUCCEEDED"
    for task in [*wait, hold]:
        sje.cancel(task, None)
