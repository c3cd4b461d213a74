"""What goes away comes back, and what was accepted is not lost."""
import pytest
import requests

from sje import Client, Load, Server, free_port, processes_with, until

NOOP = {"jobType": "Noop"}


def shell(script, **more):
    return {"jobType": "Command", "command": ["sh", "-c", script], **more}


def complete(sje, ids, within=120):
    """Every task ended, with an audit that has no gap and exactly one end of each grant."""
    ended = [sje.end(i, within) for i in ids]
    sje.settled(within)
    return ended


def test_broker_away_at_accept(own, services):
    sje = own()
    services.stop("rabbitmq")
    try:
        ids = [sje.submit(NOOP) for _ in range(20)]
        down = sje.until_status(500, "GET", "/health").json()
        assert down["status"] == "down" and "rabbit" in str(down).lower() or "broker" in str(down)
        assert {sje.task(i)["state"] for i in ids} <= {"QUEUED", "SUCCEEDED"}
    finally:
        services.start("rabbitmq")
    sje.ready(60)
    assert {t["state"] for t in complete(sje, ids)} == {"SUCCEEDED"}


def test_broker_away_while_a_task_runs(own, services):
    sje = own()
    task_id = sje.submit(shell("sleep 3; echo survived"))
    sje.running(task_id)
    services.stop("rabbitmq")
    until(lambda: not processes_with(task_id), 20, "the task ends")
    services.start("rabbitmq")
    sje.ready(60)
    (t,) = complete(sje, [task_id])
    assert (t["state"], t["attempt"]) == ("SUCCEEDED", 1), (t, sje.story(task_id))
    # Its worker may still be connecting again: 504 until then.
    assert sje.until_status(200, "GET", f"/task/{task_id}/log").text == "survived\n"


def test_database_away_at_accept(own, services):
    sje = own()
    before = sje.submit(NOOP)
    sje.end(before)
    running = sje.submit(shell("sleep 4"))
    sje.running(running)
    services.stop("postgres")
    try:
        r = sje.until_status(503, "POST", "/task", json=NOOP)
        assert int(r.headers["Retry-After"]) >= 1
        assert r.headers["Content-Type"].startswith("application/problem+json")
        assert sje.get(f"/task/{before}", None).status_code == 503
        down = sje.until_status(500, "GET", "/health").json()
        assert down["status"] == "down" and ("postgres" in str(down).lower() or "database" in str(down))
        sje.get("/health/live", 200)
        sje.get("/health/ready", None)
    finally:
        services.start("postgres")
    sje.ready(60)
    after = sje.submit(NOOP)
    ended = complete(sje, [before, running, after])
    assert {t["state"] for t in ended} == {"SUCCEEDED"}


@pytest.mark.parametrize("how", ["terminate", "kill"])
@pytest.mark.parametrize("role", ["manager", "worker"])
def test_end_of_a_process_under_load(own, role, how):
    sje = own(split=True)
    load = Load(sje, shell("sleep 0.05"))
    until(lambda: len(load.ids) >= Load.AHEAD, 30, "some load")
    until(lambda: sje.task(load.ids[0])["state"] == "SUCCEEDED", 30, "work is done")
    server = getattr(sje, role)
    if how == "terminate":
        assert server.terminate() == 0, server.tail()
    else:
        server.kill()
    server.start()
    sje.ready(60)
    until(lambda n=len(load.ids): len(load.ids) >= n + 40, 30, "load goes on")
    ended = complete(sje, load.stop(), 180)
    assert {t["state"] for t in ended} == {"SUCCEEDED"}
    if how == "terminate":
        assert {t["attempt"] for t in ended} == {1}, "a clean stop costs no attempt"


def test_both_roles_in_one_process_stop_cleanly_under_load(own):
    sje = own()
    load = Load(sje, NOOP)
    until(lambda: len(load.ids) >= 200, 30, "some load")
    assert sje.manager.terminate() == 0
    assert "error" not in sje.manager.tail(5).lower()
    sje.manager.start()
    sje.ready()
    assert {t["state"] for t in complete(sje, load.stop())} == {"SUCCEEDED"}


def test_a_dead_worker_is_noticed_and_its_task_runs_elsewhere(own):
    sje = own(split=True, SJE_NODE_HEARTBEAT_SECONDS="1", SJE_NODE_DEAD_AFTER_SECONDS="4")
    task_id = sje.submit(shell('[ "$SJE_ATTEMPT" = 2 ] || sleep 1000', resources={"slots": 1}))
    sje.running(task_id)
    sje.worker.kill()
    # its shim goes on until the lease is over, then it stops the task before anyone else may start it
    until(lambda: not processes_with(task_id), 20, "the shim keeps the deadline")
    assert sje.task(task_id)["attempt"] == 1
    until(lambda: sje.task(task_id)["attempt"] == 2, 20, "the attempt is lost")
    until(lambda: sje.workers()[0]["state"] == "DEAD", 30, "the worker is dead")
    sje.worker.start()
    t = sje.end(task_id)
    assert (t["state"], t["attempt"]) == ("SUCCEEDED", 2), t
    assert "lost" in sje.story(task_id)


def test_a_running_command_survives_a_restart_of_its_worker(own):
    sje = own(split=True)
    task_id = sje.submit(shell("sleep 3; echo done"))
    sje.running(task_id)
    assert sje.worker.terminate() == 0
    assert processes_with(task_id), "the task goes on without its worker"
    sje.worker.start()
    (t,) = complete(sje, [task_id])
    assert (t["state"], t["attempt"]) == ("SUCCEEDED", 1), (t, sje.story(task_id))


def test_a_task_that_ends_while_no_worker_is_there(own):
    sje = own(split=True)
    task_id = sje.submit(shell("sleep 1; exit 7"))
    sje.running(task_id)
    sje.worker.kill()
    until(lambda: not processes_with(task_id), 20, "it has ended")
    sje.worker.start()
    t = sje.end(task_id)
    assert (t["state"], t["attempt"]) == ("FAILED", 1) and t["error"]["exitCode"] == 7, t


def test_two_managers(own):
    sje = own(split=True)
    port = free_port()
    second = Server(sje.dir / "second", {**sje.settings, "SJE_API_PORT": str(port),
                                         "SJE_NODE_NODE_ID": "node2"}, "manager")
    sje.servers.append(second)
    other = Client(f"http://127.0.0.1:{port}")

    def up():
        try:
            return other.get("/health", None).status_code == 200
        except requests.ConnectionError:
            return False
    until(up, 30, "the second manager")
    ids = [c.submit(NOOP) for _ in range(50) for c in (sje, other)]
    sje.manager.kill()
    ids += [other.submit(NOOP) for _ in range(50)]
    assert {other.end(i)["state"] for i in ids} == {"SUCCEEDED"}
    sje.manager.start()
    sje.ready(60)
    complete(sje, ids)
