"""A bad node does not eat the queue: what it cannot start it gives back, no task fails for it, it says
why, stops taking such work, and takes it again by itself."""
import os
import signal
import subprocess
import time

from test_faults import complete, shell
from test_survivors import QUICK, alive, another_worker

from sje import BIN, until

PLUGIN = "#!/bin/sh\necho done by $(hostname)\n"


def held_off(sje, node, kind):
    """Why that node does not take such tasks; None is everything."""
    (w,) = [w for w in sje.workers() if w["workerId"] == node]
    return next((h["reason"] for h in w["holdOff"] if h["type"] == kind), None)


def types(sje, node):
    return next(w["jobTypes"] for w in sje.workers() if w["workerId"] == node)


def audit_of_holds(sje):
    """What the cluster's audit has of node1: the types that were held off, one entry for each change."""
    with sje.database() as db, db.cursor() as c:
        c.execute("SELECT detail FROM cluster_event WHERE event = 'worker' AND subject = 'node1' "
                  "ORDER BY seq")
        return [[h["type"] for h in d.get("holdOff") or []] for (d,) in c.fetchall()]


def no_charge(ended):
    assert {(t["state"], t["maxAttempts"] >= t["attempt"]) for t in ended} == {("SUCCEEDED", True)}, ended


def make_plugin(directory):
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "Report").write_text(PLUGIN)
    (directory / "Report").chmod(0o755)


def test_a_work_directory_that_vanishes(own):
    sje = own(split=True)
    another_worker(sje)
    sje.run(shell("true"))
    (sje.work / "tasks").rename(sje.work / "away")
    ids = [sje.submit(shell("true")) for _ in range(40)]
    no_charge(complete(sje, ids))
    reason = until(lambda: held_off(sje, "node1", None), 20, "node1 takes nothing")
    assert "No such file or directory" in reason and str(sje.work / "tasks") in reason
    assert types(sje, "node1") == [] and types(sje, "node2") != []
    listed = subprocess.run([BIN / "sje", "workers"], env={**os.environ, "SJE_URL": sje.url},
                            capture_output=True, text=True, check=True).stdout
    assert "node1 takes nothing: cannot" in listed, listed
    assert 'sje_workers_hold_off{type="all"} 1' in sje.get("/metrics").text
    until(lambda: [None] in audit_of_holds(sje), 20, "the audit of the cluster says so")
    # It makes another one by itself, and what runs in that survives a restart.
    until(lambda: "Command" in types(sje, "node1") and not held_off(sje, "node1", None), 60,
          "node1 is well again, by itself")
    until(lambda: audit_of_holds(sje)[-1] == [] or None not in audit_of_holds(sje)[-1], 20,
          "the audit of the cluster says that too")
    sje.call("POST", "/mgmt/workers/node2/drain", 200)
    last = sje.submit(shell("sleep 3"))
    until(lambda: sje.task(last)["state"] == "RUNNING", 20, "it runs")
    sje.worker.terminate()
    sje.worker.start()
    assert (sje.end(last)["attempt"], sje.task(last)["workerId"]) == (1, "node1")
    sje.all_succeeded(42)


def test_a_spark_home_that_is_missing(own):
    sje = own(SJE_NODE_SPARK_HOME="/no/such/spark")
    task_id = sje.submit({"jobType": "SparkApp", "sparkAppPath": "/no/such/app.py"})
    reason = until(lambda: held_off(sje, "node1", "SparkApp"), 20, "it says that it has no Spark")
    assert "/no/such/spark" in reason and "spark.home" in reason
    assert sorted(types(sje, "node1")) == ["Command", "Noop"]
    assert sje.run(shell("true"))["state"] == "SUCCEEDED"
    assert sje.task(task_id)["state"] not in ("FAILED", "SUCCEEDED")
    sje.cancel(task_id, None)
    assert sje.end(task_id)["state"] == "CANCELLED"


def test_a_plugin_that_one_worker_has(own, tmp_path):
    """Without a restart: also when it comes, and when it goes."""
    has, bare = tmp_path / "has", tmp_path / "bare"
    make_plugin(has)
    bare.mkdir()
    sje = own(split=True, SJE_NODE_PLUGIN_DIR=str(has))
    sje.worker.terminate()
    sje.worker.env["SJE_NODE_PLUGIN_DIR"] = str(bare)
    sje.worker.start()
    sje.ready()
    another_worker(sje)
    until(lambda: "Report" in types(sje, "node2"), 20, "node2 offers it")
    until(lambda: "Report" not in types(sje, "node1"), 20, "node1 does not")
    ended = complete(sje, [sje.submit({"jobType": "Report"}) for _ in range(24)])
    no_charge(ended)
    assert {t["workerId"] for t in ended} == {"node2"}
    make_plugin(bare)
    until(lambda: "Report" in types(sje, "node1"), 20, "node1 has found it")
    (has / "Report").unlink()
    until(lambda: "Report" not in types(sje, "node2"), 20, "node2 misses it")
    ended = complete(sje, [sje.submit({"jobType": "Report"}) for _ in range(6)])
    no_charge(ended)
    assert {t["workerId"] for t in ended} == {"node1"}


def test_a_program_that_one_worker_has(own, tmp_path):
    """What a task names and is not there is looked for on the other nodes; what none has is the task's."""
    bin_dir = tmp_path / "bin"
    make_plugin(bin_dir)
    sje = own(split=True)
    task = {"jobType": "Command", "command": ["Report"]}
    missing = {"jobType": "Command", "command": ["/no/such/program"]}
    alone = sje.run(missing)
    assert (alone["state"], alone["attempt"]) == ("FAILED", 1), alone
    another_worker(sje, PATH=f"{bin_dir}:{os.environ['PATH']}", SJE_NODE_SLOTS="1")
    another_worker(sje, "node3")
    (bin_dir / "Hold").write_text(f"#!/bin/sh\nuntil [ -e {tmp_path}/go ]; do sleep 0.05; done\n")
    (bin_dir / "Hold").chmod(0o755)
    hold = sje.submit({"jobType": "Command", "command": ["Hold"]})
    until(lambda: [sje.task(hold)[k] for k in ("state", "workerId")] == ["RUNNING", "node2"], 20, "node2 is busy")
    waits = sje.submit(task)
    why = until(lambda: (sje.task(waits)["waitingFor"] or {}).get("code") == "elsewhere" and sje.task(waits)["waitingFor"],
                20, f"it waits for node2: {sje.task(waits)}")
    assert "node1" in why["text"] and "node3" in why["text"] and "busy" in why["text"], why
    queue = next(q for q in sje.get("/mgmt/queues").json()["queues"] if q["pool"] == "default")
    assert queue["waitingForCode"] == "elsewhere" and queue["waitingTaskId"] == waits, queue
    (tmp_path / "go").touch()
    no_charge(complete(sje, [hold, waits]))
    ids = [sje.submit(task) for _ in range(300)]
    sje.manager.kill()  # it hears the bad ones first, perhaps
    sje.manager.start()
    sje.ready()
    ended = complete(sje, ids, 120)
    no_charge(ended)
    assert {t["workerId"] for t in ended} == {"node2"}
    everywhere = sje.run(missing)
    assert (everywhere["state"], everywhere["attempt"]) == ("FAILED", 3), everywhere
    assert everywhere["error"]["kind"] == "launch"
    assert [w["holdOff"] for w in sje.workers()] == [[], [], []]


def test_the_one_that_could_is_not_there_for_a_while(own, tmp_path):
    """Restarted, drained, held off, silent: what only that node has waits for it, and fails on no other."""
    make_plugin(tmp_path / "bin")
    sje = own(split=True, **QUICK)
    node2 = another_worker(sje, PATH=f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    task = {"jobType": "Command", "command": ["Report"]}

    def waits(why):
        first = [sje.submit(task) for _ in range(20)]

        def look():
            texts = [(t["waitingFor"] or {}).get("text") or "" for t in map(sje.task, first)]
            return any("given back by node1" in x and "node2: " + why in x for x in texts) and texts
        until(look, 20, f"they wait for node2, which is {why}: {[sje.task(i)['waitingFor'] for i in first]}")
        return first

    def succeed(ids):
        ended = complete(sje, ids, 40)
        no_charge(ended)
        assert {t["workerId"] for t in ended} == {"node2"}

    no_charge(complete(sje, [sje.submit(task) for _ in range(20)]))
    sje.post("/mgmt/workers/node2/drain", None, 200)
    ids = waits("draining")
    sje.post("/mgmt/workers/node2/resume", None, 200)
    succeed(ids)
    assert node2.terminate() == 0
    ids = waits("stopped")
    sje.manager.kill()  # the next one has not heard what node2 offered
    sje.manager.start()
    until(lambda: alive(sje) and sje.get("/health/ready", None).status_code == 200, 30, "the manager is there again")
    ids.append(sje.submit(task))
    node2.start()
    succeed(ids)
    tasks = sje.work / "node2" / "tasks"
    ids = [sje.submit(task) for _ in range(20)]
    tasks.rename(tmp_path / "away")  # amid what it does
    ids += [sje.submit(task) for _ in range(20)]
    until(lambda: held_off(sje, "node2", None), 20, "node2 takes nothing")
    ids += waits("")
    (tmp_path / "away").rename(tasks)
    succeed(ids)
    node2.process.send_signal(signal.SIGSTOP)
    until(lambda: next(w for w in sje.workers() if w["workerId"] == "node2")["state"] in ("SUSPECT", "DEAD"), 20,
          "node2 is silent")
    ids = waits("")
    node2.process.send_signal(signal.SIGCONT)
    succeed(ids)


def test_a_node_that_fails_everything(own, tmp_path):
    """The next attempt goes to another one, though the bad one is free at once."""
    good, bad = tmp_path / "good", tmp_path / "bad"
    for directory, text in ((good, "sleep 0.5"), (bad, "exit 1")):
        directory.mkdir()
        (directory / "Mixed").write_text(f"#!/bin/sh\n{text}\n")
        (directory / "Mixed").chmod(0o755)
    sje = own(split=True, PATH=f"{good}:{os.environ['PATH']}")
    another_worker(sje, PATH=f"{bad}:{os.environ['PATH']}")
    task = {"jobType": "Command", "command": ["Mixed"], "maxAttempts": 3, "retryBackoffSeconds": 0}
    ended = complete(sje, [sje.submit(task) for _ in range(40)])
    assert {t["state"] for t in ended} == {"SUCCEEDED"}, [(t["state"], t["attempt"]) for t in ended]
    assert {t["workerId"] for t in ended} == {"node1"}
    attempts = [t["attempt"] for t in ended]
    assert 2 in attempts and max(attempts) <= 2, attempts
    # Where no other one takes it in time, that one does.
    hold = [sje.submit(shell(f"until [ -e {tmp_path}/{i} ]; do sleep 0.1; done")) for i in range(8)]
    until(lambda: all(sje.task(i)["state"] == "RUNNING" for i in hold), 20, "both are busy")
    for i, task_id in enumerate(hold):
        if sje.task(task_id)["workerId"] == "node2":
            (tmp_path / str(i)).touch()
    alone = sje.end(sje.submit(task), 15)
    assert (alone["state"], alone["attempt"], alone["workerId"]) == ("FAILED", 3, "node2"), alone
    for i in range(8):
        (tmp_path / str(i)).touch()
    sje.settled(30)


def test_what_no_node_has_room_for(own):
    sje = own(SJE_NODE_CPUS="4", SJE_NODE_MEMORY_MB="1024")
    big = sje.submit(shell("echo ran > ran", resources={"cpus": 100, "memoryMb": 9999999}))
    fits = sje.run(shell("true", resources={"cpus": 3.5, "memoryMb": 1024}))
    assert fits["state"] == "SUCCEEDED"
    w = sje.workers()[0]
    assert (w["cpus"], w["memoryMb"]) == (4, 1024)
    end = time.monotonic() + 3
    while time.monotonic() < end:
        assert sje.task(big)["state"] in ("QUEUED", "RUNNING")
        assert sje.run(shell("true"))["state"] == "SUCCEEDED"
    assert not list(sje.work.glob(f"tasks/{big}.*/*/ran"))
    sje.cancel(big, None)
    assert sje.end(big)["state"] == "CANCELLED"


def test_two_that_do_not_fit_together(own):
    sje = own(SJE_NODE_CPUS="4", SJE_NODE_MEMORY_MB="1024")
    log = sje.dir / "log"
    script = f"echo + >> {log}; sleep 0.3; echo - >> {log}"
    ids = [sje.submit(shell(script, resources={"memoryMb": 600})) for _ in range(4)]
    no_charge(complete(sje, ids))
    assert log.read_text().split() == ["+", "-"] * 4, "never two at once"


def test_the_log_of_a_failed_start_has_no_token(own):
    sje = own()
    task_id = sje.submit({"jobType": "Command", "command": ["true"], "cwd": "/no/such/directory"})
    t = sje.end(task_id)
    assert (t["state"], t["error"]["kind"]) == ("FAILED", "launch"), "its own fault"
    with sje.database() as db, db.cursor() as c:
        c.execute("SELECT token FROM task WHERE id = %s", [task_id])
        (token,) = c.fetchone()
    assert "/no/such/directory" in t["error"]["message"]
    text = sje.worker.output.read_text()
    assert "ended: failed" in text
    assert token and str(token) not in text


def test_what_has_waited_longest_is_not_starved(own):
    """Of priority 0, but first by rank, amid a stream of priority 9: a class has a queue of its own, and
    none of them goes first."""
    sje = own(split=True, SJE_NODE_SLOTS="8")
    sje.post("/mgmt/queues/default/pause", None, 200)
    tasks = [shell("sleep 0.05", priority=9)] * 600
    ids = [t["taskId"] for t in sje.post("/tasks", tasks).json()["tasks"]]
    old = sje.submit(shell("true", priority=0, delaySeconds=600))
    assert sje.manager.terminate() == 0
    with sje.database() as db, db.cursor() as c:  # as if it had waited for hours
        c.execute("ALTER TABLE task DISABLE TRIGGER task_seq")
        c.execute("UPDATE task SET rank = 1, run_after = now() + interval '3 seconds' WHERE id = %s", [old])
        c.execute("ALTER TABLE task ENABLE TRIGGER task_seq")
    sje.manager.start()
    sje.ready()
    sje.post("/mgmt/queues/default/resume", None, 200)
    complete(sje, [*ids, old], 90)
    with sje.database() as db, db.cursor() as c:
        c.execute("SELECT count(*) FROM event a JOIN event b ON b.event = 'granted' "
                  "AND b.task_id <> a.task_id WHERE a.task_id = %s AND a.event = 'ready' AND b.at > a.at "
                  "AND b.at < (SELECT at FROM event WHERE task_id = %s AND event = 'granted')", [old, old])
        (overtook,) = c.fetchone()
    assert overtook < 100, overtook
