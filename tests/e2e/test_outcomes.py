"""How tasks end against their will: each kind told apart, each budget counted by itself; and what
workers do that are told to take no more."""
import os
import re
import signal

import pika
import pytest
from test_faults import complete, shell
from test_survivors import MARKS, QUICK, another_worker, begun, marker, runs

from sje import processes_with, until


def failed(t, kind):
    assert (t["state"], t["code"], t["error"]["kind"]) == ("FAILED", 500, kind), t
    return t["error"]


def kill_shim(task_id):
    """Its main process dies with it."""
    for pid in processes_with("sje-shim"):
        try:
            with open(f"/proc/{pid}/cmdline") as f:
                if task_id in f.read():
                    os.kill(pid, signal.SIGKILL)
        except OSError:
            pass


# ---- kinds ----

@pytest.mark.parametrize("kind, script, code, number", [
    ("exit", "echo no >&2; exit 3", 3, None),
    ("killed", "kill -KILL $$", None, signal.SIGKILL),
    ("killed", "kill -ABRT $$", None, signal.SIGABRT),
    ("oom", "ulimit -v 400000; exec python3 -c 'x = bytearray(1 << 30)'", 1, None),
    ("timeout", "sleep 1000", None, signal.SIGTERM),
])
def test_kinds_of_a_command(sje, kind, script, code, number):
    e = failed(sje.run(shell(script, timeoutSeconds=2 if kind == "timeout" else 60)), kind)
    assert (e["exitCode"], e["signal"]) == (code, number), e


def test_launch(sje):
    e = failed(sje.run({"jobType": "Command", "command": ["/no/such/program"]}), "launch")
    assert "/no/such/program" in e["message"] and (e["exitCode"], e["signal"]) == (None, None)


def test_a_driver_without_memory(sje, tmp_path):
    app = tmp_path / "hungry.py"
    app.write_text("from pyspark.sql import SparkSession\n"
                   "spark = SparkSession.builder.getOrCreate()\n"
                   "print(len(spark.range(100_000_000).collect()))\n")
    e = failed(sje.run({"jobType": "SparkApp", "sparkAppPath": str(app),
                        "conf": {"spark.driver.memory": "512m"}}, 120), "oom")
    assert e["exitCode"] == 52, e  # as Spark says it


def test_lost_too_often(own):
    """Losses have a budget of their own: maxAttempts counts failures alone."""
    sje = own(split=True, SJE_MANAGER_MAX_LOSSES="1")
    task_id = sje.submit(shell("sleep 1000"))
    for attempt in (1, 2):
        until(lambda n=attempt: (sje.task(task_id)["state"], sje.task(task_id)["attempt"]) ==
              ("RUNNING", n), 60, f"attempt {attempt}")
        until(lambda: processes_with("SJE_TASK_ID=" + task_id), 20, "it runs")
        kill_shim(task_id)
    t = sje.end(task_id)
    failed(t, "lost")
    complete(sje, [task_id])
    story = sje.story(task_id)
    assert story.count("granted") == 2 and story.count("lost") == 1 and "retry" not in story, story


def test_failures_and_losses_are_counted_apart(own, tmp_path):
    sje = own(split=True, SJE_MANAGER_MAX_LOSSES="3")
    task_id = sje.submit(shell('[ "$SJE_ATTEMPT" = 2 ] && exit 5; [ "$SJE_ATTEMPT" = 3 ] && exit 0;'
                               "sleep 1000", maxAttempts=2, retryBackoffSeconds=1))
    sje.running(task_id)
    until(lambda: processes_with("SJE_TASK_ID=" + task_id), 20, "it runs")
    kill_shim(task_id)
    (t,) = complete(sje, [task_id])
    assert (t["state"], t["attempt"]) == ("SUCCEEDED", 3), (t, sje.story(task_id))
    story = [e for e in sje.story(task_id) if e in ("granted", "lost", "retry", "succeeded")]
    assert story == ["granted", "lost", "granted", "retry", "granted", "succeeded"]


def test_a_task_that_kills_its_shim(own):
    """The audit says what became of the first attempt, and nothing else."""
    sje = own()
    task_id = sje.submit(shell("[ $SJE_ATTEMPT != 1 ] || kill -9 $PPID; sleep 1"))
    assert sje.end(task_id)["state"] == "SUCCEEDED"
    lost = next(e["detail"] for e in sje.events(task_id) if e["event"] == "lost")
    assert re.match(r"its shim \(pid \d+\) was killed by SIGKILL; ", lost["reason"]), lost
    assert lost["error"]["message"] == lost["reason"]


def test_a_worker_that_ends_its_tasks(own):
    sje = own(split=True)
    task_id = sje.submit(shell("[ $SJE_ATTEMPT != 1 ] || sleep 60"))
    sje.running(task_id)
    sje.worker.process.send_signal(signal.SIGINT)
    lost = until(lambda: [e["detail"] for e in sje.events(task_id) if e["event"] == "lost"], 20, "it is lost")[0]
    assert lost["reason"] == "worker node1 was stopped by SIGINT, which ends its tasks", lost
    assert sje.worker.process.wait(20) == 0


def test_everybody_is_away_for_longer_than_the_lease(own):
    sje = own(split=True)
    task_id = sje.submit(shell("[ $SJE_ATTEMPT != 1 ] || sleep 60", leaseSeconds=10))
    sje.running(task_id)
    until(lambda: processes_with("SJE_TASK_ID=" + task_id), 20, "it runs")
    for server in (sje.worker, sje.manager):
        server.kill()
    until(lambda: not processes_with("SJE_TASK_ID=" + task_id), 30, "its shim has ended it")
    sje.manager.start()
    sje.worker.start()
    sje.ready()
    (t,) = complete(sje, [task_id])
    assert t["state"] == "SUCCEEDED"
    lost = next(e["detail"] for e in sje.events(task_id) if e["event"] == "lost")
    assert lost["reason"] == ("its worker's process was away for longer than the lease (10 s); "
                              "the shim ended the task"), lost


def test_poison(own):
    """It died of the same signal on two workers: no third one is risked."""
    sje = own(split=True)
    another_worker(sje)
    task_id = sje.submit(shell("kill -SEGV $$", maxAttempts=9, retryBackoffSeconds=4))
    until(lambda: sje.task(task_id)["attempt"] == 2, 30, "the first death")
    first = sje.task(task_id)["workerId"] or [
        e["workerId"] for e in sje.events(task_id) if e["event"] == "granted"][0]
    sje.post(f"/mgmt/workers/{first}/drain", None, 200)
    (t,) = complete(sje, [task_id])
    e = failed(t, "poison")
    assert e["message"].startswith("it was killed by signal 11 on node") and t["attempt"] == 2, t
    assert {e["workerId"] for e in sje.events(task_id) if e["event"] == "granted"} == {"node1", "node2"}


def test_the_same_worker_alone_is_no_poison(own):
    sje = own()
    t = sje.run(shell("kill -SEGV $$", maxAttempts=3, retryBackoffSeconds=1))
    assert failed(t, "killed")["signal"] == signal.SIGSEGV and t["attempt"] == 3, t


# ---- a broker that wants acknowledgements soon ----

def broker_timeout(services, ms, tick):
    services.script("ctl", "eval", f"application:set_env(rabbit, consumer_timeout, {ms}), "
                    f"application:set_env(rabbit, channel_tick_interval, {tick}).")


def is_cut_off(settings):
    """The broker does close a channel that keeps a message unacknowledged."""
    c = pika.BlockingConnection(pika.ConnectionParameters(
        settings["SJE_RABBITMQ_HOST"], int(settings["SJE_RABBITMQ_PORT"]),
        settings["SJE_RABBITMQ_VHOST"], pika.PlainCredentials(
            settings["SJE_RABBITMQ_USERNAME"], settings["SJE_RABBITMQ_PASSWORD"])))
    channel = c.channel()
    channel.queue_declare("probe", durable=True, arguments={"x-queue-type": "quorum"})
    channel.basic_publish("", "probe", b"x")
    channel.basic_consume("probe", lambda *_: None)

    def closed():
        c.process_data_events(0.2)
        return channel.is_closed
    until(closed, 240, "the broker is impatient")
    c.close()


@pytest.mark.parametrize("timeout, seconds", [
    (3, 12),
    pytest.param(60, 180, marks=pytest.mark.skipif(
        not os.environ.get("SJE_E2E_SLOW"), reason="takes four minutes; SJE_E2E_SLOW=1")),
])
def test_a_task_longer_than_the_brokers_patience(own, services, timeout, seconds):
    broker_timeout(services, timeout * 1000, 1000)
    try:
        sje = own(split=True, SJE_NODE_SLOTS="1")
        marks = sje.dir / "marks"
        task_id = sje.submit(marker(marks, seconds))
        waiting = sje.submit(shell("true"))  # its hint waits all the time
        sje.running(task_id)
        is_cut_off(sje.settings)
        ended = complete(sje, [task_id, waiting], seconds + 60)
        assert [(t["state"], t["attempt"]) for t in ended] == [("SUCCEEDED", 1)] * 2, ended
        assert list(runs(marks)) == [1]
        assert sje.story(task_id).count("granted") == 1
    finally:
        broker_timeout(services, 1800000, 60000)


# ---- drain, pause, stop ----

def test_drain_and_resume_of_a_busy_worker(own):
    sje = own(split=True)
    task_id = sje.submit(shell("sleep 4; echo finished"))
    sje.running(task_id)
    drained = sje.post("/mgmt/workers/node1/drain", None, 200).json()
    assert drained["workerId"] == "node1"
    until(lambda: sje.workers()[0]["state"] == "DRAINING", 20, "it drains")
    later = sje.submit(shell("true"))
    t = sje.end(task_id)
    assert (t["state"], t["attempt"]) == ("SUCCEEDED", 1) and sje.log(task_id).text == "finished\n"
    assert sje.task(later)["state"] == "QUEUED", "a worker that drains takes nothing"
    # it stays so over a restart of the process
    assert sje.worker.terminate() == 0
    sje.worker.start()
    until(lambda: sje.workers()[0]["state"] == "DRAINING", 30, "it still drains")
    assert sje.task(later)["state"] == "QUEUED"
    sje.post("/mgmt/workers/node1/resume", None, 200)
    (t,) = complete(sje, [later])
    assert (t["state"], t["attempt"]) == ("SUCCEEDED", 1)


def test_drained_work_goes_elsewhere(own):
    sje = own(split=True)
    another_worker(sje)
    sje.post("/mgmt/workers/node1/drain", None, 200)
    until(lambda: {w["workerId"]: w["state"] for w in sje.workers()} ==
          {"node1": "DRAINING", "node2": "UP"}, 20, "node1 drains")
    ids = [sje.submit(shell("sleep 0.1")) for _ in range(12)]
    ended = complete(sje, ids)
    assert {(t["state"], t["attempt"], t["workerId"]) for t in ended} == {("SUCCEEDED", 1, "node2")}


def test_a_paused_pool(own):
    sje = own()
    running = sje.submit(shell("sleep 3"))
    sje.running(running)
    assert sje.post("/mgmt/queues/default/pause", None, 200).json()["paused"]
    waiting = [sje.submit(shell("true")) for _ in range(5)]
    assert sje.end(running)["state"] == "SUCCEEDED", "what runs goes on"
    assert {sje.task(i)["state"] for i in waiting} == {"QUEUED"}
    sje.post("/mgmt/queues/default/resume", None, 200)
    assert {t["state"] for t in complete(sje, waiting)} == {"SUCCEEDED"}


def test_sigint_stops_what_runs_and_gives_it_back(own):
    """Whoever types ^C wants everything to end; that costs the task no failure."""
    sje = own(split=True)
    marks = sje.dir / "marks"
    task_id = sje.submit(marker(marks, 3))
    sje.running(task_id)
    begun(marks)
    sje.worker.process.send_signal(signal.SIGINT)
    assert sje.worker.process.wait(30) == 0
    assert not processes_with(task_id)
    sje.worker.start()
    (t,) = complete(sje, [task_id])
    assert (t["state"], t["attempt"]) == ("SUCCEEDED", 2), (t, sje.story(task_id))
    seen = runs(marks)
    assert seen[1][1] < seen[2][0], "they do not overlap"


def test_rolling_restart_of_workers_with_running_tasks(own):
    """Every worker is replaced while its tasks run: no attempt is lost, none runs twice."""
    sje = own(split=True, **QUICK)
    workers = [sje.worker, another_worker(sje), another_worker(sje, "node3")]
    marks = [sje.dir / f"marks-{i}" for i in range(9)]
    ids = [sje.submit({"jobType": "Command", "command": ["python3", "-c", MARKS, str(m), "12"]})
           for m in marks]
    for i in ids:
        sje.running(i)
    for server in workers:
        assert server.terminate() == 0
        server.start()
        until(lambda: {w["state"] for w in sje.workers()} == {"UP"}, 30, "all are up again")
    ended = complete(sje, ids)
    assert {(t["state"], t["attempt"]) for t in ended} == {("SUCCEEDED", 1)}, ended
    assert all(list(runs(m)) == [1] for m in marks)


# ---- what it leaves ----

@pytest.mark.parametrize("text, output", [
    ('{"hash": 18446744073709551615, "rows": 5}', '{"hash": 18446744073709551615, "rows": 5}'),
    ("[0.10, 3.14159265358979323846, -0.5, 12]", "[0.10, 3.14159265358979323846, -0.5, 12]"),
    ("123456789012345678901234567890", "123456789012345678901234567890"),
])
def test_numbers_stay_as_they_were_written(sje, cli, text, output):
    task_id = sje.submit(shell(f"printf %s '{text}' > $SJE_OUTPUT"))
    assert sje.end(task_id)["state"] == "SUCCEEDED"
    assert sje.get(f"/task/{task_id}/result").text.strip() == output
    assert f'"output":{output}' in sje.get(f"/task/{task_id}").text
    shown = cli("result", task_id).stdout.split()
    assert shown == output.replace("[", "[ ").replace("{", "{ ").replace("]", " ]").replace("}", " }").split()
    assert output.strip("[{").split(",")[0] in cli("status", task_id).stdout


def test_what_is_no_json_keeps_its_text(sje):
    t = sje.run(shell("""printf '{"rows": 5, "share": NaN} %s' "$(printf 'ä%.0s' $(seq 20000))" > $SJE_OUTPUT"""))
    assert t["state"] == "SUCCEEDED"
    assert "not JSON" in t["output"]["warning"]
    text = t["output"]["text"]
    assert text.startswith('{"rows": 5, "share": NaN} ää') and text.endswith("ä") and 29_998 <= len(text.encode()) <= 30_000
