"""The database fails in every way that it comes back from: nothing accepted is lost, nothing runs twice."""
import contextlib
import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import time

import psycopg2
import pytest
import requests
from test_survivors import QUICK, marker, outlasts, undisturbed

from sje import BIN, Load, Server, Services, free_port, processes_with, until

NOOP = {"jobType": "Noop"}


def shell(script, **more):
    return {"jobType": "Command", "command": ["sh", "-c", script], **more}


def all_ended(sje, load, more=0):
    sje.all_succeeded(len(load.stop()) + more, unheard=100)


def cut(sje):
    with sje.database() as db, db.cursor() as c:
        c.execute("SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
                  "WHERE datname = current_database() AND pid <> pg_backend_pid()")


@pytest.mark.parametrize("how", ["fast", "immediate"])
def test_a_restart_under_load(own, services, how):
    sje = own(split=True)
    running = sje.submit(shell("sleep 5"))
    sje.running(running)
    load = Load(sje, shell("sleep 0.05"))
    load.goes_on()
    if how == "immediate":
        os.kill(services.pid("postgres"), signal.SIGQUIT)
    services.stop("postgres")
    services.start("postgres")
    load.goes_on()
    all_ended(sje, load, 1)


def test_connections_are_cut(own):
    sje = own(split=True)
    load = Load(sje, shell("sleep 0.05"))
    for _ in range(4):
        load.goes_on()
        cut(sje)
    load.goes_on()
    all_ended(sje, load)


def test_it_is_not_whole(own):
    """A backup is being put back while a manager runs, which the documents forbid: it waits, and says for what."""
    sje = own(split=True)
    with sje.database() as db, db.cursor() as c:
        c.execute("DELETE FROM leader RETURNING epoch")
        (epoch,) = c.fetchone()
    cut(sje)
    until(lambda: "the row of table leader is missing" in sje.manager.output.read_text(), 20, "it is told")
    sje.manager.terminate()
    sje.manager.start()
    until(lambda: sje.manager.output.read_text().count("the row of table leader is missing") > 1, 20, "told again")
    with sje.database() as db, db.cursor() as c:
        c.execute("INSERT INTO leader (epoch, manager_id, since) VALUES (%s, '', now())", (epoch,))
    assert sje.run(NOOP)["state"] == "SUCCEEDED"


@pytest.mark.parametrize("split", [False, True], ids=["all", "split"])
def test_it_is_away_for_three_leases(own, services, split):
    """The manager that led answers beats without it."""
    sje = own(split=split, **QUICK)
    marks = sje.dir / "marks"
    task_id = sje.submit(marker(marks, 16))
    sje.running(task_id)
    services.stop("postgres")
    try:
        outlasts(task_id, marks, 13)
    finally:
        services.start("postgres")
    sje.ready(60)
    undisturbed(sje, task_id, marks)


def test_it_is_away_for_longer_than_the_grace(own, services):
    sje = own(split=True, **QUICK, SJE_MANAGER_DATABASE_GRACE_SECONDS="5")
    marks = sje.dir / "marks"
    task_id = sje.submit(marker(marks, 60))
    sje.running(task_id)
    services.stop("postgres")
    try:
        until(lambda: not processes_with(task_id), 30, "the task is stopped")
    finally:
        services.start("postgres")
    sje.ready(60)
    until(lambda: sje.task(task_id)["attempt"] == 2, 60, "it begins anew")
    assert "lost" in sje.story(task_id)


def test_it_is_slow(own):
    """A lock on the tables: requests wait or are told to come later, others are served, and what runs
    and ends meanwhile is not disturbed."""
    sje = own(split=True)
    running = sje.submit(shell("sleep 3"))
    sje.running(running)
    load = Load(sje, shell("sleep 0.05"))
    load.goes_on()
    with sje.database() as db, db.cursor() as c:
        c.execute("BEGIN")
        c.execute("LOCK TABLE task, event IN ACCESS EXCLUSIVE MODE")
        until(lambda: not processes_with(running), 20, "the task ends meanwhile")
        sje.get("/health/live", timeout=5)
        c.execute("ROLLBACK")
    load.goes_on()
    all_ended(sje, load, 1)


def server_processes(services):
    """PostgreSQL's: the first and all its children."""
    first = services.pid("postgres")
    listing = subprocess.run(["ps", "-o", "pid=", "--ppid", str(first)], capture_output=True, text=True)
    return [first, *map(int, listing.stdout.split())]


def signal_all(pids, number):
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def test_it_hangs(own, services):
    """Its connections stand, and nothing is answered: that is down, within seconds, and over by itself."""
    sje = own(split=True)
    cli = [BIN / "sje", "--url", sje.url, "health"]
    pids = server_processes(services)
    signal_all(pids, signal.SIGSTOP)
    try:
        until(lambda: sje.get("/health/ready", None).status_code == 503, 8, "it is not ready")
        until(lambda: sje.get("/health/ready", None).json()["database"]["status"] == "down", 1, "down")
        health = sje.get("/health", 500).json()
        error = health["database"]["error"]
        assert re.fullmatch(r"no answer for \d+ s", error) and 5 <= int(error.split()[3]) < 9, health
        assert "sje_database_up 0" in sje.get("/metrics").text
        until(lambda: sje.get("/health", 500).json()["noLeader"], 15, "nobody leads")
        done = subprocess.run(cli, capture_output=True, text=True, timeout=20)
        assert done.returncode == 1 and "degraded: no manager leads" in done.stdout, done.stdout
        assert "no answer for " in done.stdout, done.stdout
        for _ in range(10):  # no flicker while connections are tried anew
            assert sje.get("/health/ready", None).status_code == 503
            time.sleep(1)
    finally:
        signal_all(pids, signal.SIGCONT)
    sje.ready(30)
    until(lambda: sje.get("/health").json()["leader"], 20, "it leads again")
    assert "sje_database_up 1" in sje.get("/metrics").text
    assert sje.run(NOOP)["state"] == "SUCCEEDED"


def test_it_is_slow_and_no_hang(own):
    """Statements that wait for a lock, all connections of a manager full of them, are no hang."""
    sje = own(split=True)
    with sje.database() as db, db.cursor() as c:
        c.execute("BEGIN")
        c.execute("LOCK TABLE task, event, pool, setting, worker IN ACCESS EXCLUSIVE MODE")
        end = time.monotonic() + 9
        while time.monotonic() < end:
            assert sje.get("/health/ready").json()["leader"]
            with contextlib.suppress(requests.Timeout):
                sje.get("/mgmt/queues", None, timeout=0.5)
        c.execute("ROLLBACK")
    assert sje.run(NOOP)["state"] == "SUCCEEDED"


@pytest.fixture
def small_tenant(run_dir, services):
    """Settings of a database with little room."""
    room = run_dir / "room"
    room.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", room],
                             capture_output=True, text=True)
    if mounted.returncode != 0:
        pytest.skip("a small file system cannot be mounted: " + mounted.stderr.strip())
    admin = services.admin()
    try:
        owner = services.dir / "postgres/data"
        shutil.chown(room, owner.stat().st_uid, owner.stat().st_gid)
        tenant = services.tenant()
        with admin.cursor() as c:
            c.execute(f"CREATE TABLESPACE small OWNER sje LOCATION '{room}'")
            c.execute(f"ALTER DATABASE {tenant['SJE_DB_DATABASE']} SET default_tablespace = small")
        yield {k: tenant[k] for k in ("SJE_DB_DATABASE", "SJE_RABBITMQ_VHOST")}
        with admin.cursor() as c:
            c.execute(f"DROP DATABASE {tenant['SJE_DB_DATABASE']} WITH (FORCE)")
            c.execute("DROP TABLESPACE small")
    finally:
        admin.close()
        subprocess.run(["umount", "-l", room], check=True)


def test_it_is_full(own, small_tenant):
    sje = own(split=True, **small_tenant)
    before = sje.post("/tasks", [NOOP] * 100).json()["tasks"]
    running = sje.submit(shell("sleep 2"))
    sje.running(running)
    db = sje.database()
    with db.cursor() as c:
        c.execute("CREATE TABLE filler (x bytea)")
        c.execute("ALTER TABLE filler ALTER x SET STORAGE EXTERNAL")
        size = 1 << 20
        while size >= 1 << 10:
            try:
                c.execute("INSERT INTO filler VALUES (convert_to(repeat('x', %s), 'UTF8'))", (size,))
            except psycopg2.errors.DiskFull:
                size //= 4
        r = until(lambda: (r := sje.call("POST", "/tasks", json=[NOOP] * 200)).status_code != 202 and (r,),
                  30, "it is full")[0]
        assert r.status_code == 503 and int(r.headers["Retry-After"]) >= 1, r.text
        until(lambda: not processes_with(running), 20, "the task ends meanwhile")
        c.execute("DROP TABLE filler")
    db.close()
    sje.until_status(202, "POST", "/task", json=NOOP)
    assert {sje.end(t["taskId"])["state"] for t in before} == {"SUCCEEDED"}
    assert sje.end(running)["attempt"] == 1
    assert {state for state, _ in sje.settled()} == {"SUCCEEDED"}


@pytest.fixture
def pair(run_dir):
    """A database and its synchronous standby."""
    primary = Services(run_dir / "pair/primary", "start", "postgres")
    standby = Services(run_dir / "pair/standby", "standby", primary.dir)
    with primary.admin().cursor() as c:
        c.execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
        c.execute("SELECT pg_reload_conf()")
    yield primary, standby
    standby.stop("postgres")
    primary.stop("postgres")


def test_its_standby_takes_over(own, pair):
    primary, standby = pair
    sje = own(split=True, SJE_DB_HOST="127.0.0.2,127.0.0.1", SJE_DB_PORT=str(primary.port("postgres")),
              SJE_DB_DATABASE="sje", SJE_DB_PASSWORD=(primary.dir / "run/postgres.password").read_text())
    sje.database = lambda: standby.admin("sje", host="127.0.0.2")
    running = sje.submit(shell("sleep 5"))
    sje.running(running)
    load = Load(sje, shell("sleep 0.05"))
    load.goes_on()
    os.kill(primary.pid("postgres"), signal.SIGQUIT)
    with standby.admin(host="127.0.0.2") as db, db.cursor() as c:
        c.execute("SELECT pg_promote()")
    load.goes_on()
    all_ended(sje, load, 1)


POOLER = """[databases]
* = host={SJE_DB_HOST} port={SJE_DB_PORT}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = trust
auth_file = {directory}/users
pool_mode = transaction
user = {user}
{more}
"""


@pytest.mark.parametrize("more", ["", "ignore_startup_parameters = options,extra_float_digits"],
                         ids=["as it comes", "no settings"])
def test_a_pooler_is_refused(own, more):
    """Its transactions of one session go to several, so nobody would hold the lock of a leader."""
    sje = own(split=True)
    at, port = sje.dir / "pooler", free_port()
    at.mkdir()
    (at / "users").write_text(f'"{sje.settings["SJE_DB_USERNAME"]}" "{sje.settings["SJE_DB_PASSWORD"]}"\n')
    (at / "ini").write_text(POOLER.format(**sje.settings, port=port, directory=at, more=more,
                                          user=pwd.getpwuid(os.geteuid() or 65534).pw_name))
    (at / "users").chmod(0o644)
    with subprocess.Popen(["pgbouncer", at / "ini"], stderr=subprocess.DEVNULL) as pooler:
        try:
            until(lambda: listens(port), 10, "the pooler listens")
            manager = Server(sje.dir / "pooled", {**sje.settings, "SJE_DB_PORT": str(port),
                                                  "SJE_API_PORT": str(free_port())}, "manager")
            assert manager.process.wait(20) == 2, manager.tail()
            assert "ame the database itself" in manager.tail()
        finally:
            pooler.terminate()
    assert sje.run(NOOP)["state"] == "SUCCEEDED"


def listens(port):
    with socket.socket() as s:
        return s.connect_ex(("127.0.0.1", port)) == 0
