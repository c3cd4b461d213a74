"""Applications that run in a Spark cluster, not on the worker: watched, cancelled, found again.

The cluster is Spark's own: a master and a worker on loopback, deploy mode cluster."""
import os
import re
import subprocess
import time
from pathlib import Path

import pytest
import requests

from sje import FINAL, ROOT, SLOW, free_port, kill, processes_with, until

START = 180  # seconds that a driver may take to begin: three JVMs, one after another


class Spark:
    """A standalone master and one worker, and what the master says."""

    def __init__(self, directory, home):
        self.home, self.dir = home, Path(directory)
        self.dir.mkdir(parents=True, exist_ok=True)
        self.port, self.page, self.rest = free_port(), free_port(), free_port()
        self.processes = []
        self.start("master.Master", "--port", str(self.port), "--webui-port", str(self.page))
        until(self.answers, START, "the master's page")
        self.start("worker.Worker", "--port", "0", "--webui-port", "0", "--cores", "8",
                   "--memory", "8g", "--work-dir", str(self.dir / "work"),
                   f"spark://127.0.0.1:{self.port}")
        until(lambda: self.state()["aliveworkers"] == 1, START, "the Spark worker")

    def start(self, name, *arguments):
        env = {**os.environ, "SPARK_HOME": self.home, "SPARK_LOCAL_IP": "127.0.0.1",
               "SPARK_MASTER_OPTS": "-Dspark.master.rest.enabled=true "
                                    f"-Dspark.master.rest.port={self.rest}"}
        with open(self.dir / f"{name}.log", "ab") as out:
            self.processes.append(subprocess.Popen(
                [f"{self.home}/bin/spark-class", f"org.apache.spark.deploy.{name}",
                 "--host", "127.0.0.1", *arguments], env=env, stdout=out, stderr=out,
                stdin=subprocess.DEVNULL, start_new_session=True))

    def answers(self):
        try:
            return requests.get(f"http://127.0.0.1:{self.page}/json/", timeout=5).ok
        except requests.ConnectionError:
            return False

    def state(self):
        return requests.get(f"http://127.0.0.1:{self.page}/json/", timeout=30).json()

    def drivers(self):
        s = self.state()
        return {d["id"]: d["state"] for d in s["activedrivers"] + s["completeddrivers"]}

    def alive(self):
        """Ids of drivers and applications that are not over."""
        s = self.state()
        return {x["id"] for x in s["activedrivers"] + s["activeapps"]}

    def close(self):
        for p in reversed(self.processes):
            p.terminate()
            p.wait(30)


@pytest.fixture(scope="module")
def cluster(run_dir, spark):
    c = Spark(run_dir / "spark-cluster", spark["SJE_NODE_SPARK_HOME"])
    yield c
    c.close()


@pytest.fixture
def task(cluster):
    """Makes the task: the example, in deploy mode cluster on that master."""
    def make(steps=4, pause=300, conf=None, **changes):
        parameters = {"steps": steps, "pause": pause, **changes.pop("parameters", {})}
        return {"jobType": "SparkApp", "sparkAppPath": str(ROOT / "build/examples/letters.jar"),
                "mainClass": "example.Steps", "master": f"spark://127.0.0.1:{cluster.port}",
                "parameters": parameters,
                "conf": {"spark.submit.deployMode": "cluster",
                         "spark.sje.masterUi": f"http://127.0.0.1:{cluster.page}",
                         "spark.sje.masterRest": f"http://127.0.0.1:{cluster.rest}",
                         "spark.driver.memory": "512m", "spark.executor.memory": "512m",
                         "spark.cores.max": "1", **(conf or {})}, **changes}
    return make


def progressing(sje, task_id):
    return until(lambda: (sje.task(task_id)["progress"] or {}).get("done", 0) > 0 and
                 sje.task(task_id), START, "progress of the driver")


def programs(task_id, *names):
    """Our own programs and spark-submit of that task; not the driver, which Spark started."""
    found = []
    for pid in processes_with(task_id):
        try:
            line = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
        except OSError:
            continue
        if any(name in line for name in names):
            found.append(pid)
    return found


def kill_all(sje, task_id):
    """The worker, and what it started for the task, at once; the driver runs on."""
    pids = [sje.worker.process.pid, *programs(task_id, "sje-shim", "sje-spark", "SparkSubmit")]
    assert len(pids) >= 3, pids
    for pid in pids:
        kill(pid)
    sje.worker.process.wait()


def driver_of(sje, task_id):
    """Its driver's id, from the audit."""
    ids = [e["detail"]["applicationId"] for e in sje.events(task_id) if e["event"] == "application"]
    return next(i for i in ids if i.startswith("driver-"))


def test_a_driver_is_watched_to_its_end(sje, cluster, task):
    before = set(cluster.drivers())
    task_id = sje.submit(task(steps=30))
    seen = []
    limit = time.monotonic() + START * SLOW
    while (t := sje.task(task_id))["state"] not in FINAL:
        assert time.monotonic() < limit, t
        if t["progress"]:
            seen.append((t["progress"]["done"], t["progress"]["total"]))
        time.sleep(0.1)
    assert (t["state"], t["attempt"], t["output"]) == ("SUCCEEDED", 1, {"steps": 30, "sum": 465}), t
    assert seen == sorted(seen) and seen[0] < seen[-1], seen
    assert t["progress"]["done"] == t["progress"]["total"] >= seen[-1][0], t
    assert re.fullmatch(r"app-\d+-\d+", t["applicationId"]), t
    (driver,) = set(cluster.drivers()) - before
    assert driver_of(sje, task_id) == driver and cluster.drivers()[driver] == "FINISHED"
    assert '{"steps":30,"sum":465}' in sje.log(task_id).text
    assert f"{driver}: FINISHED" in sje.log(task_id, "stderr").text


def test_what_fails_is_named(sje, cluster, task):
    """A driver; and one that is not submitted, as nobody could tell how it ended."""
    before = set(cluster.drivers())
    page = f"http://127.0.0.1:{free_port()}"
    unwatched = sje.submit(task(conf={"spark.sje.masterUi": page}))
    t = sje.run(task(steps=1, parameters={"fail": "not today"}), START)
    assert (t["state"], t["error"]["kind"]) == ("FAILED", "exit"), t
    assert t["error"]["message"] == "java.lang.IllegalStateException: not today", t
    driver = driver_of(sje, t["taskId"])
    assert cluster.drivers()[driver] == "FAILED"
    t = sje.end(unwatched, START)
    assert (t["state"], t["applicationId"]) == ("FAILED", None), t
    assert page in t["error"]["message"], t
    assert set(cluster.drivers()) - before == {driver}


def test_cancel_ends_the_application_first(sje, cluster, task):
    task_id = sje.submit(task(steps=600))
    t = progressing(sje, task_id)
    driver = driver_of(sje, task_id)
    assert {driver, t["applicationId"]} <= cluster.alive()
    sje.cancel(task_id)
    while (state := sje.task(task_id)["state"]) not in FINAL:
        assert state == "RUNNING"
    assert not {driver, t["applicationId"]} & cluster.alive()
    assert (state, cluster.drivers()[driver]) == ("CANCELLED", "KILLED")


def test_cancel_without_spark_submit_and_rest(own, cluster, task):
    """spark-submit, which was waiting for the driver, is killed; then the worker is; then cancel."""
    sje = own(split=True)
    task_id = sje.submit(task(steps=600, conf={"spark.sje.masterRest": "",
                                               "spark.standalone.submit.waitAppCompletion": "true"}))
    t = progressing(sje, task_id)
    driver = driver_of(sje, task_id)
    (submit,) = programs(task_id, "SparkSubmit")
    kill(submit)
    sje.worker.kill()
    sje.worker.start()
    until(lambda: "survived" in sje.story(task_id), 30, "the attempt is taken back")
    assert sje.task(task_id)["state"] == "RUNNING" and cluster.drivers()[driver] == "RUNNING"
    sje.cancel(task_id)
    t = sje.end(task_id, START)
    assert not {driver, t["applicationId"]} & cluster.alive()
    assert (t["state"], t["attempt"], cluster.drivers()[driver]) == ("CANCELLED", 1, "KILLED")


def test_the_next_attempt_takes_the_driver_over(own, cluster, task):
    sje = own(split=True)
    before = set(cluster.drivers())
    task_id = sje.submit(task(steps=50))
    first = progressing(sje, task_id)
    kill_all(sje, task_id)
    sje.worker.start()
    t = sje.end(task_id, START)
    assert (t["state"], t["attempt"]) == ("SUCCEEDED", 2), (t, sje.story(task_id))
    assert t["output"] == {"steps": 50, "sum": 1275}
    assert t["applicationId"] == first["applicationId"]
    assert t["progress"]["done"] == t["progress"]["total"] >= first["progress"]["done"]
    assert len(set(cluster.drivers()) - before) == 1
    assert "taking over driver-" in sje.log(task_id, "stderr").text


def test_cancel_of_a_lost_attempt_ends_what_it_left(own, cluster, task):
    """No worker is there when the cancel comes: it waits for one, as only that can end the driver."""
    sje = own(split=True, SJE_NODE_HEARTBEAT_SECONDS="1", SJE_NODE_DEAD_AFTER_SECONDS="4")
    before = set(cluster.drivers())
    task_id = sje.submit(task(steps=600))
    t = progressing(sje, task_id)
    driver = driver_of(sje, task_id)
    kill_all(sje, task_id)
    until(lambda: sje.task(task_id)["state"] == "QUEUED", START, "the loss of the attempt")
    sje.cancel(task_id, 202)
    assert sje.task(task_id)["state"] == "QUEUED" and cluster.drivers()[driver] == "RUNNING"
    sje.worker.start()
    end = sje.end(task_id, START)
    assert not {driver, t["applicationId"]} & cluster.alive()
    assert (end["state"], cluster.drivers()[driver]) == ("CANCELLED", "KILLED"), end
    assert set(cluster.drivers()) - before == {driver}


def test_what_ended_unseen_is_told_as_it_ended(own, cluster, task):
    """While no worker was there its driver ended; the next attempt tells how, and runs nothing."""
    sje = own(split=True)
    before = set(cluster.drivers())
    task_id = sje.submit(task(steps=15, pause=1000, parameters={"fail": "unseen"}))
    progressing(sje, task_id)
    driver = driver_of(sje, task_id)
    kill_all(sje, task_id)
    until(lambda: cluster.drivers()[driver] == "FAILED", START, "the end of the driver")
    sje.worker.start()
    t = sje.end(task_id, START)
    assert (t["state"], t["attempt"]) == ("FAILED", 2), t
    assert t["error"]["message"] == "java.lang.IllegalStateException: unseen", t
    assert set(cluster.drivers()) - before == {driver}


def test_a_driver_killed_by_others_is_no_success(sje, cluster, task):
    task_id = sje.submit(task(steps=600))
    progressing(sje, task_id)
    driver = driver_of(sje, task_id)
    requests.post(f"http://127.0.0.1:{cluster.rest}/v1/submissions/kill/{driver}", timeout=30)
    t = sje.end(task_id, START)
    assert (t["state"], t["error"]["kind"]) == ("FAILED", "killed"), t
    assert driver in t["error"]["message"]
