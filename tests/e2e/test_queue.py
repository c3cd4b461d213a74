"""Many tasks, their order, and what may be done with one that waits or has ended."""
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from sje import until

SLEEP = {"jobType": "Command", "command": ["sleep", "1000"]}


def noop(**more):
    return {"jobType": "Noop", **more}


def test_a_thousand_in_one_call(sje):
    tasks = [noop(jobId=f"n{i}", labels={"i": str(i)}) for i in range(1000)]
    answer = sje.post("/tasks", tasks).json()
    assert answer["accepted"] == 1000
    assert [t["jobId"] for t in answer["tasks"]] == [t["jobId"] for t in tasks]
    ids = [t["taskId"] for t in answer["tasks"]]
    assert len(set(ids)) == 1000 and ids == sorted(ids)
    with ThreadPoolExecutor(16) as pool:
        ended = list(pool.map(lambda i: sje.end(i, 120), ids))
    assert {t["state"] for t in ended} == {"SUCCEEDED"}
    assert [t["labels"] for t in ended] == [t["labels"] for t in tasks]
    with sje.database() as db, db.cursor() as c:
        c.execute("SELECT count(*), count(DISTINCT task_id) FROM event WHERE event = 'succeeded' "
                  "AND task_id = ANY(%s::uuid[])", (ids,))
        assert c.fetchone() == (1000, 1000)


def test_the_object_form_of_a_batch(sje):
    answer = sje.post("/tasks", {"tasks": [noop(jobId="a"), noop()]}).json()
    assert [t["jobId"] for t in answer["tasks"]] == ["a", None]
    assert all(sje.end(t["taskId"])["state"] == "SUCCEEDED" for t in answer["tasks"])


def test_priority_passes_a_thousand(own):
    sje = own(SJE_NODE_SLOTS="1")
    quick = {"jobType": "Command", "command": ["sleep", "0.2"]}
    blocker = sje.submit({"jobType": "Command", "command": ["sleep", "3"]})
    sje.running(blocker)
    low = sje.post("/tasks", [{**quick, "priority": 0}] * 1000).json()["tasks"]
    sje.end(blocker)
    until(lambda: sje.task(low[0]["taskId"])["state"] != "QUEUED", 20, "the first one starts")
    high = sje.submit({**quick, "priority": 9})
    t = sje.end(high, 30)
    assert t["state"] == "SUCCEEDED"
    with sje.database() as db, db.cursor() as c:
        c.execute("SELECT count(*) FROM event WHERE event = 'granted' AND at > "
                  "(SELECT at FROM event WHERE task_id = %s AND event = 'accepted') AND at < "
                  "(SELECT at FROM event WHERE task_id = %s AND event = 'granted')", (high, high))
        overtaking = c.fetchone()[0]
    assert overtaking <= 2, f"{overtaking} tasks were started before it"


def test_equal_priorities_keep_their_order(own):
    sje = own(SJE_NODE_SLOTS="1")
    ids = [t["taskId"] for t in sje.post("/tasks", [
        {"jobType": "Command", "command": ["true"]} for _ in range(20)]).json()["tasks"]]
    started = [sje.end(i, 60)["startedAt"] for i in ids]
    assert started == sorted(started)


def test_slots_are_respected(own):
    sje = own(SJE_NODE_SLOTS="3")
    wide = sje.submit({**SLEEP, "resources": {"slots": 2}})
    sje.running(wide)
    one = sje.submit(SLEEP)
    sje.running(one)
    waiting = sje.submit({"jobType": "Command", "command": ["true"], "resources": {"slots": 2}})
    time.sleep(1)  # long enough for a mistake to show
    assert sje.task(waiting)["state"] == "QUEUED"
    assert sum(w["running"] for w in sje.workers()) <= 3
    sje.cancel(wide)
    assert sje.end(waiting, 30)["state"] == "SUCCEEDED"
    sje.cancel(one)


def test_a_worker_that_is_full_and_has_room_again(own):
    """It stops to consume and goes on, for each of them; its connection is always the same."""
    sje = own(split=True, SJE_NODE_SLOTS="2")
    sje.post("/tasks", [{"jobType": "Command", "command": ["sleep", "0.2"]}] * 60)
    until(lambda: not sje.get("/tasks?state=QUEUED").json()["tasks"], 30, "all have begun")
    assert sje.settled() == {("SUCCEEDED", 1): 60}
    assert "connecting again" not in sje.worker.output.read_text()


def test_idempotency_key(sje):
    task = noop(jobId="once")
    first = sje.post("/task", task, headers={"Idempotency-Key": "key-1"})
    again = sje.post("/task", task, headers={"Idempotency-Key": "key-1"})
    assert again.json()["taskId"] == first.json()["taskId"]
    assert again.headers["Location"] == first.headers["Location"]
    assert "replayed" not in first.json() and again.json()["replayed"] is True
    done = sje.end(first.json()["taskId"])
    body = ' { "jobId" : "once",\n"jobType":"Noop"}'
    headers = {"Idempotency-Key": "key-1", "Content-Type": "application/json"}
    now = sje.call("POST", "/task", 202, data=body, headers=headers).json()
    assert (now["taskId"], now["state"], now["replayed"]) == (done["taskId"], done["state"], True)
    sje.post("/task", noop(jobId="other"), 409, headers={"Idempotency-Key": "key-1"})
    assert sje.post("/task", task, headers={"Idempotency-Key": "key-2"}).json()["taskId"] != \
        first.json()["taskId"]
    sje.post("/task", task, 422, headers={"Idempotency-Key": "k" * 129})
    assert len(sje.get("/tasks?jobId=once").json()["tasks"]) == 2


def test_one_key_from_many_clients(sje):
    with ThreadPoolExecutor(8) as pool:
        ids = set(pool.map(lambda _: sje.submit(noop(), **{"Idempotency-Key": "many"}), range(16)))
    assert len(ids) == 1


def test_delay(sje):
    before = time.monotonic()
    task_id = sje.submit(noop(delaySeconds=2))
    assert sje.task(task_id)["state"] == "QUEUED"
    assert sje.end(task_id)["state"] == "SUCCEEDED"
    assert 1.9 <= time.monotonic() - before < 8


def test_queue_timeout(sje):
    task_id = sje.submit(noop(pool="nobody-serves-this", queueTimeoutSeconds=1))
    t = sje.end(task_id, 20)
    assert (t["state"], t["code"], t["error"]["kind"]) == ("FAILED", 500, "timeout"), t
    assert t["startedAt"] is None
    reason = "; last: no worker that takes work serves the pool nobody-serves-this"
    assert reason in t["error"]["message"]
    assert reason in sje.events(task_id)[-1]["detail"]["error"]["message"]
    t = sje.end(sje.submit(noop(resources={"slots": 50}, queueTimeoutSeconds=1)), 20)
    assert "; last: it needs 50 slots; no worker has all of that, node1 comes closest" in t["error"]["message"], t


def test_cancel_by_state(sje):
    waiting = sje.submit(noop(pool="nobody-serves-this"))
    t = sje.cancel(waiting, 200).json()
    assert sje.task(waiting)["state"] == "CANCELLED", t
    sje.get(f"/task/{waiting}/result", 410)
    sje.cancel(waiting, 409)
    delayed = sje.submit(noop(delaySeconds=3600))
    sje.cancel(delayed, 200)
    ended = sje.submit(noop())
    sje.end(ended)
    sje.cancel(ended, 409)
    sje.cancel("0190a5a0-0000-7000-8000-000000000000", 404)


def test_wait_answers_in_time(sje):
    task_id = sje.submit(noop(delaySeconds=2))
    before = time.monotonic()
    assert sje.get(f"/task/{task_id}?wait=1").json()["state"] == "QUEUED"
    assert 0.9 <= time.monotonic() - before < 1.9
    assert sje.get(f"/task/{task_id}?wait=20").json()["state"] == "SUCCEEDED"
    assert time.monotonic() - before < 10
    for bad in ("61", "-1", "x", "1e9"):
        sje.get(f"/task/{task_id}?wait={bad}", 422)


def test_result_while_it_waits(sje):
    task_id = sje.submit(noop(delaySeconds=3600))
    sje.get(f"/task/{task_id}/result", 202)
    assert sje.log(task_id).text == ""
    sje.cancel(task_id, 200)


def test_the_view_has_every_key(sje):
    t = sje.run(noop(jobId="k", labels={"a": "b"}, priority=8))
    assert set(t) >= {"taskId", "jobId", "jobType", "state", "code", "priority", "pool", "attempt",
                      "maxAttempts", "submittedAt", "startedAt", "finishedAt", "workerId",
                      "applicationId", "progress", "output", "error", "labels", "spec"}
    assert (t["priority"], t["pool"], t["attempt"], t["maxAttempts"]) == (8, "default", 1, 1)
    assert t["submittedAt"].endswith("Z") and len(t["submittedAt"]) == len("2026-01-01T00:00:00.000Z")


def test_list(sje):
    ids = [sje.submit(noop(jobId="listed")) for _ in range(5)]
    for i in ids:
        sje.end(i)
    seen, after = [], ""
    while True:
        page = sje.get(f"/tasks?jobId=listed&limit=2{after}").json()
        assert len(page["tasks"]) <= 2
        seen += [t["taskId"] for t in page["tasks"]]
        if page["next"] is None:
            break
        after = f"&after={page['next']}"
    assert seen == ids[::-1]
    assert sje.get("/tasks?jobId=listed&state=SUCCEEDED&jobType=noop").json()["tasks"]
    assert not sje.get("/tasks?jobId=listed&state=FAILED").json()["tasks"]
    for bad in ("state=RUNING", "limit=0", "limit=abc", "after=xyz"):
        sje.get(f"/tasks?{bad}", 422)


def test_requeue(sje, tmp_path):
    flag = tmp_path / "flag"
    task_id = sje.submit({"jobType": "Command", "command": ["test", "-e", str(flag)]})
    assert sje.end(task_id)["state"] == "FAILED"
    flag.touch()
    sje.post(f"/mgmt/tasks/{task_id}/requeue", None, None)
    until(lambda: sje.task(task_id)["state"] == "SUCCEEDED", 20, "it runs again")
    t = sje.task(task_id)
    assert (t["attempt"], t["error"]) == (2, None), t
    assert "requeued" in sje.story(task_id)


@pytest.mark.parametrize("path, key", [("/mgmt/status", None), ("/mgmt/workers", "workers"),
                                       ("/mgmt/queues", "queues"), ("/mgmt/config", None),
                                       ("/mgmt/workers/node1", "workerId")])
def test_management(sje, path, key):
    answer = sje.get(path)
    if key:
        assert key in answer.json()
    for name in ("SJE_DB_PASSWORD", "SJE_RABBITMQ_PASSWORD"):
        assert sje.settings[name] not in answer.text


def test_workers(sje):
    (w,) = sje.workers()
    assert (w["workerId"], w["state"], w["slots"]) == ("node1", "UP", 4)
    assert {"host", "running", "lastHeartbeatAt"} <= set(w)
    sje.get("/mgmt/workers/nobody", 404)


def test_metrics(sje):
    text = sje.get("/metrics").text
    assert "# TYPE sje_" in text and text.endswith("\n")


def test_a_pool_that_nobody_serves_is_warned_of_and_leaves_no_row(own):
    sje = own()

    def pools():
        return [q["pool"] for q in sje.get("/mgmt/queues").json()["queues"]]

    answer = sje.post("/mgmt/queues/nobodys/pause", None, 200).json()
    assert answer["warnings"] == ["no worker serves a pool of that name; there are default"], answer
    assert pools() == ["default", "nobodys"]
    assert sje.post("/mgmt/queues/nobodys/resume", None, 200).json()["paused"] is False
    assert pools() == ["default"]
    for order in ("pause", "resume"):
        assert "warnings" not in sje.post(f"/mgmt/queues/default/{order}", None, 200).json()
    assert pools() == ["default"]
