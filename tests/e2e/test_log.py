"""Logs: offsets that never change, following, and a worker that was restarted in between."""
import threading

from sje import until


def shell(script, **more):
    return {"jobType": "Command", "command": ["sh", "-c", script], **more}


def test_offsets(sje):
    task_id = sje.submit(shell("seq 1 1000"))
    sje.end(task_id)
    whole = "".join(f"{i}\n" for i in range(1, 1001))
    r = sje.log(task_id)
    assert r.text == whole and r.headers["Content-Type"].startswith("text/plain")
    assert r.headers["X-Log-Size"] == str(len(whole))
    assert sje.log(task_id, offset=100, limit=50).text == whole[100:150]
    assert sje.log(task_id, offset=len(whole)).text == ""
    assert sje.log(task_id, offset=10 ** 12).text == ""
    assert sje.log(task_id, "stderr").text == ""


def test_a_large_log_in_one_answer(sje):
    task_id = sje.submit(shell("seq 1 300000"))
    sje.end(task_id)
    whole = "".join(f"{i}\n" for i in range(1, 300001))
    assert sje.log(task_id, follow="true").text == whole
    got = ""
    while len(got) < len(whole):
        part = sje.log(task_id, offset=len(got)).text
        assert part
        got += part
    assert got == whole


def test_a_log_grows_while_the_task_runs(sje):
    task_id = sje.submit(shell("echo one; sleep 1.5; echo two"))
    until(lambda: sje.log(task_id).text == "one\n", 20, "the first line")
    assert sje.task(task_id)["state"] == "RUNNING"
    sje.end(task_id)
    assert sje.log(task_id).text == "one\ntwo\n"


def test_follow(sje):
    task_id = sje.submit(shell("for i in 1 2 3 4; do echo $i; sleep 0.4; done"))
    arrived = []
    with sje.get(f"/task/{task_id}/log?follow=true", stream=True) as r:
        for line in r.iter_lines():
            arrived.append((line.decode(), sje.task(task_id)["state"]))
    assert [line for line, _ in arrived] == ["1", "2", "3", "4"]
    assert arrived[0][1] == "RUNNING", "the first line came only at the end"
    assert sje.end(task_id)["state"] == "SUCCEEDED"


def test_follow_before_it_starts(sje):
    task_id = sje.submit(shell("echo late", delaySeconds=1))
    assert sje.log(task_id, follow="true").text == "late\n"


def test_a_follower_that_leaves_does_no_harm(sje):
    task_id = sje.submit(shell("while :; do echo x; sleep 0.1; done"))
    sje.running(task_id)
    for _ in range(20):
        r = sje.get(f"/task/{task_id}/log?follow=true", stream=True)
        next(r.iter_content(1))
        r.close()
    sje.cancel(task_id)
    assert sje.end(task_id)["state"] == "CANCELLED"


def test_the_log_survives_the_worker(own):
    sje = own(split=True)
    done = sje.submit(shell("echo finished before"))
    sje.end(done)
    task_id = sje.submit(shell("for i in 1 2 3 4 5 6 7 8; do echo $i; sleep 0.5; done"))
    until(lambda: "2" in sje.log(task_id).text, 20, "two lines")
    got = bytearray()

    def follow():
        with sje.get(f"/task/{task_id}/log?follow=true", stream=True) as r:
            for part in r.iter_content(1):
                got.extend(part)
    follower = threading.Thread(target=follow)
    follower.start()
    until(lambda: got, 20, "the follower reads")
    sje.worker.kill()
    sje.worker.start()
    t = sje.end(task_id)
    assert (t["state"], t["attempt"]) == ("SUCCEEDED", 1), t
    follower.join(30)
    whole = "".join(f"{i}\n" for i in range(1, 9))
    assert sje.log(task_id).text == whole
    assert got.decode() == whole, "a follower is served over the restart"
    assert sje.log(done).text == "finished before\n"


def test_the_log_of_an_earlier_attempt_does_not_mix(sje):
    task_id = sje.submit(shell('echo attempt $SJE_ATTEMPT; [ "$SJE_ATTEMPT" = 2 ]', maxAttempts=2,
                               retryBackoffSeconds=0))
    assert sje.end(task_id)["attempt"] == 2
    assert sje.log(task_id).text == "attempt 2\n"
    r = sje.call("GET", f"/task/{task_id}/log?attempt=3", 404)
    assert "has no attempt 3: the last is 2" in r.json()["detail"]
