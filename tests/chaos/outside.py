"""Faults outside of what the protocol's model says of nodes, disks, names, settings and messages."""
import json
import os
import shutil
import signal
import subprocess
import time

import pika
import requests

from cluster import BEAT, GRACE, LEASE, parent_of
from faults import RECOVERY, broker, fault, kill, kill_all

HUGE = 1 << 50  # an incarnation that no clock gives


# ---- settings ----

def restart_in_order(chaos, manager):
    manager.expected = True
    manager.restart_at = time.monotonic() + 1
    manager.signal(signal.SIGTERM)
    chaos.until(lambda: manager.process is None, 20)
    chaos.until(manager.alive, 20)


def node_settings(dead, beat):
    return {"executorNodeConfig": {"deadAfterSeconds": dead, "heartbeatSeconds": beat}}


def any_length(chaos, lengths):
    """(deadAfterSeconds, heartbeatSeconds), legal together."""
    dead = chaos.rng.choice(lengths)
    return dead, chaos.rng.choice([b for b in (1, 2, 4) if 3 * b <= dead])


def silent_worker(chaos, manager, seconds):
    """A worker stands still, its shims do not, and the leader stops in order: whoever is next knows
    that worker from rows alone. (Cut off it would beat to the managers' own addresses.)"""
    worker = chaos.take_worker()
    if worker:
        worker.signal(signal.SIGSTOP)
    try:
        restart_in_order(chaos, manager)
        chaos.wait(seconds)
    finally:
        if worker:
            worker.signal(signal.SIGCONT)
            chaos.give(worker)


@fault("settings changed at random, the leader restarted", "settings", needs="lease")
def settings_changed(chaos, _):
    managers = [m for m in chaos.cluster.managers if not m.steady]
    try:
        dead, beat = any_length(chaos, (3 * LEASE, 4 * LEASE))
        if not chaos.cluster.change_settings(node_settings(dead, beat)):
            return False
        chaos.wait(LEASE)  # tasks get leases of that length
        leader = chaos.lead(managers)
        if not leader or not chaos.take([leader]):
            return False
        try:
            low = any_length(chaos, (3, LEASE // 2, LEASE))
            chaos.cluster.change_settings(node_settings(*low))
            silent_worker(chaos, leader, dead)
        finally:
            chaos.give(leader)
    finally:
        chaos.must(lambda: chaos.cluster.change_settings(node_settings(LEASE, BEAT)), RECOVERY,
                   "a manager takes settings")


@fault("managers whose files differ, the leader restarted", "settings", needs="lease")
def files_differ(chaos, _):
    taken = [m for m in chaos.cluster.managers if not m.steady and chaos.take([m])]
    if not taken:
        return False
    own, dead = taken[0], chaos.rng.choice((3, 4)) * LEASE
    try:
        for m in taken:
            value = dead if m is own else chaos.rng.choice((3, LEASE // 2, LEASE))
            m.settings["SJE_NODE_DEAD_AFTER_SECONDS"] = str(value)
            restart_in_order(chaos, m)
        if chaos.lead([own], 40) is None:
            return False
        chaos.wait(GRACE + 2)  # so that its stop leaves nothing that its successor has to wait for
        silent_worker(chaos, own, dead)
    finally:
        for m in taken:
            m.settings = {**m.settings, **m.file}
            restart_in_order(chaos, m)
            chaos.give(m)


# ---- workDir, nodeId, clock ----

def stop(chaos, node, sig):
    """Ends the worker; its shims live on. It stays down."""
    node.expected, node.down = True, True
    node.signal(sig)
    chaos.until(lambda: node.process is None, 20)
    if node.process is not None:
        node.signal(signal.SIGKILL)
        chaos.until(lambda: node.process is None, 5)


def begin(chaos, node, work):
    node.move(work)
    node.restart_at, node.down = 0, False
    chaos.must(node.alive, 20, f"{node.name} is started")
    chaos.must(lambda: chaos.cluster.sees_up(node), RECOVERY, f"{node.name} is UP with another workDir")


def any_stop(chaos):
    return chaos.rng.choice((signal.SIGTERM, signal.SIGKILL))


@fault("workDir swapped, shims live on", "worker", kills=True, needs="identity")
def workdir_swapped(chaos, node):
    first = node.work.name
    chaos.until(node.shims, 10)
    other = chaos.rng.choice(("other", "another"))
    if chaos.rng.random() < 0.5:  # never seen before
        shutil.rmtree(node.dir / other, ignore_errors=True)
    stop(chaos, node, any_stop(chaos))
    begin(chaos, node, other)
    chaos.wait(chaos.rng.uniform(1, 2 * LEASE))
    stop(chaos, node, any_stop(chaos))
    begin(chaos, node, first)


@fault("clock stepped back, workDir empty", "worker", kills=True, needs="identity")
def clock_back(chaos, node):
    first = node.work.name
    stop(chaos, node, any_stop(chaos))
    shutil.rmtree(node.dir / "empty", ignore_errors=True)
    node.wall.symlink_to(chaos.rng.choice(("-3600000", "-86400000", "-31536000000")))
    begin(chaos, node, "empty")
    node.wall.unlink(missing_ok=True)
    chaos.wait(chaos.rng.uniform(1, LEASE))
    stop(chaos, node, any_stop(chaos))
    begin(chaos, node, first)


@fault("nodeId doubled", "worker", kills=True, needs="identity")
def nodeid_doubled(chaos, node):
    chaos.until(node.shims, 10)
    paused = chaos.rng.random() < 0.3
    if chaos.rng.random() < 0.5:
        shutil.rmtree(node.dir / "twin", ignore_errors=True)
    node.start_twin()
    try:
        chaos.wait(chaos.rng.uniform(2, LEASE))
        if paused:
            node.signal(signal.SIGSTOP)
        chaos.wait(chaos.rng.uniform(1, 2 * LEASE))
    finally:
        node.signal(signal.SIGCONT)
        if code := node.stop_twin(any_stop(chaos)):
            chaos.own.unmet.append(f"the second {node.name} ended by itself with status {code}")
    chaos.must(lambda: chaos.cluster.sees_up(node), RECOVERY, f"{node.name} is UP again")


# ---- disks ----

@fault("workDir hung for 1 to 3 leases", "hung", needs="keeper")
def workdir_hung(chaos, node):
    """The thaw is another process's, too: what waits for a frozen disk cannot be killed."""
    chaos.until(node.shims, 10)
    seconds = chaos.rng.choice((1, 2.5, 3)) * LEASE
    thaw = subprocess.Popen(["sh", "-c", f"sleep {seconds + 30}; fsfreeze -u '{node.work}'"],
                            start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        subprocess.run(["fsfreeze", "-f", node.work], check=True, capture_output=True)
        chaos.wait(seconds)
    finally:
        subprocess.run(["fsfreeze", "-u", node.work], capture_output=True)
        os.killpg(thaw.pid, signal.SIGKILL)
        thaw.wait()
    chaos.must(lambda: chaos.cluster.sees_up(node), RECOVERY, f"{node.name} is UP again")


@fault("SIGSTOP of a worker and its shims' outer processes", "worker", kills=True, needs="keeper")
def keepers_paused(chaos, node):
    chaos.until(node.shims, 10)
    pids = [node.process.pid, *node.outer_shims()] if node.alive() else []
    for pid in pids:
        kill(pid, signal.SIGSTOP)
    chaos.wait(chaos.rng.choice((1, 2.5, 3)) * LEASE)
    for pid in pids:
        kill(pid, signal.SIGCONT)
    return len(pids) > 1


def without_tasks(node, how):
    """Makes workDir/tasks useless, and returns what mends it. What runs there goes on."""
    tasks, away = node.work / "tasks", node.work / "tasks.away"
    if how == "mount":
        subprocess.run(["mount", "-t", "tmpfs", "-o", "ro,size=1m", "none", tasks], check=True,
                       capture_output=True)
        return lambda: subprocess.run(["umount", "-l", tasks], capture_output=True)
    if how == "mode":
        tasks.chmod(0)
        return lambda: tasks.chmod(0o700)
    tasks.rename(away)
    if how == "file":
        tasks.touch()

    def mend():
        if tasks.is_dir():  # it was made anew
            for entry in tasks.iterdir():
                entry.rename(away / entry.name)
            tasks.rmdir()
        else:
            tasks.unlink(missing_ok=True)
        away.rename(tasks)
    return mend


@fault("node that fails everything", "worker", needs="returned")
def nothing_starts(chaos, node):
    """And it is the fastest: the others are slow to reach."""
    if not (node.work / "tasks").is_dir():
        return False
    ways = ["gone", "file"]
    ways += ["mount"] if os.environ.get("SJE_CHAOS_MOUNTS") == "1" else []
    ways += ["mode"] if os.geteuid() != 0 else []
    others = [w for w in chaos.cluster.workers if w is not node and chaos.take([w])]
    for w in others:
        w.broker.slow(0.3)
    mend = without_tasks(node, chaos.rng.choice(ways))
    try:
        chaos.wait(chaos.rng.uniform(2, 2 * LEASE))
    finally:
        mend()
        for w in others:
            w.broker.heal()
            chaos.give(w)
    chaos.must(lambda: chaos.cluster.sees_up(node), RECOVERY, f"{node.name} is UP again")


@fault("tasks moved and the worker killed", "worker", kills=True, needs="identity-dir")
def tasks_moved(chaos, node):
    """All directories of attempts are away when it comes back, or that of one which runs is removed."""
    name = node.work.name
    chaos.until(node.shims, 10)
    stop(chaos, node, signal.SIGKILL)
    running = [d for d in (node.work / "tasks").glob("*.*") if (d / "sock").is_socket()]
    mend = None
    if running and chaos.rng.random() < 0.5:
        shutil.rmtree(chaos.rng.choice(sorted(running)), ignore_errors=True)
    else:
        mend = without_tasks(node, "gone")
    try:
        begin(chaos, node, name)
        chaos.wait(chaos.rng.uniform(1, 2 * LEASE))
    finally:
        if mend:
            stop(chaos, node, any_stop(chaos))
            mend()
            begin(chaos, node, name)


# ---- descendants ----

def detached(node):
    """Shims of tasks that started such descendants: {shim: task's main process}."""
    found = {}
    for pid in node.family():
        try:
            words = open(f"/proc/{pid}/cmdline", "rb").read().split(b"\0")
        except OSError:
            continue
        if b"detach" in words and (shim := parent_of(pid)) in node.shims():
            found[shim] = pid
    return found


@fault("kill -9 of a shim whose task left detached descendants", "worker", needs="strays")
def kill_shim_of_detached(chaos, node):
    found = chaos.until(lambda: detached(node), 15)
    if not found:
        return False
    pid = chaos.rng.choice(sorted(found))
    while chaos.rng.random() < 0.5 and (above := parent_of(pid)) in node.shims():
        pid = above  # of several processes any one
    chaos.wait(0.3)
    return kill(pid)


# ---- messages ----

def listen(chaos, seconds):
    """Beats that the workers send meanwhile."""
    heard = []
    with broker(chaos) as connection:
        channel = connection.channel()
        queue = channel.queue_declare("", exclusive=True).method.queue
        channel.queue_bind(queue, "sje.beat")
        channel.basic_consume(queue, lambda *a: heard.append(json.loads(a[3])), auto_ack=True)
        end = time.monotonic() + seconds
        while time.monotonic() < end and not chaos.stopping.is_set():
            connection.process_data_events(0.2)
    return heard


def say(chaos, messages, exchange="sje.beat"):
    with broker(chaos) as connection:
        channel = connection.channel()
        for m in messages:
            channel.basic_publish(exchange, "", json.dumps(m),
                                  pika.BasicProperties(content_type="application/json"))


def say_http(chaos, messages):
    for m in messages:
        for manager in chaos.cluster.managers:
            try:
                requests.post(manager.direct + "/internal/beat", json=m, timeout=3)
            except requests.RequestException:
                pass


def beats_of(heard, node):
    return [m for m in heard if m.get("type") == "beat" and m.get("worker") == node.name]


def still_up(chaos, node):
    """For two leases it is what it was, and so it stays."""
    chaos.wait(2 * LEASE)
    chaos.must(lambda: chaos.cluster.sees_up(node), 2 * LEASE, f"{node.name} is UP as before")


def forge(chaos, node):
    heard = beats_of(listen(chaos, 3), node)
    if not heard:
        return []
    forged = []
    for inc in (HUGE, int(heard[-1]["inc"]) + 1):
        m = {**heard[-1], "inc": inc, "beat": chaos.rng.choice((1, int(heard[-1]["beat"]) + 5)),
             "claiming": [], "running": []}
        m.pop("uuid", None)
        if chaos.rng.random() < 0.5:
            m["uuid"] = str(chaos.rng.choice(("00000000-0000-4000-8000-000000000000", "", "x", HUGE)))
        forged.append(m)
    return forged


@fault("forged beats of a live worker over HTTP", "worker", needs="identity", harmless=True)
def forged_http(chaos, node):
    if not (forged := forge(chaos, node)):
        return False
    say_http(chaos, forged)
    still_up(chaos, node)


@fault("forged beats of a live worker through the broker", "worker", needs="answers", harmless=True)
def forged_broker(chaos, node):
    """The answer goes to the queue that the beat names: the live worker's."""
    if not (forged := forge(chaos, node)):
        return False
    say(chaos, forged)
    still_up(chaos, node)


@fault("forged notices of leaders", "leader", needs="answers", harmless=True)
def forged_leaders(chaos, _):
    """Who leads goes on answering beats."""
    for epoch in (1, 1 << 31, 1 << 62):
        say(chaos, [{"v": 1, "type": "leader", "manager": "nobody", "epoch": epoch}], "sje.ctl")
    chaos.wait(2 * LEASE)
    for w in chaos.cluster.workers:
        chaos.must(lambda w=w: not w.alive() or chaos.cluster.sees_up(w), 2 * LEASE, f"{w.name} is UP as before")


@fault("beats and claims replayed, the leader restarted", "leader", kills=True, needs="identity", harmless=True)
def replayed(chaos, leader):
    """Once soon, once after tasks have gone on, and to a leader that knows nothing of the first time."""
    heard = [m for m in listen(chaos, 4) if m.get("type") in ("beat", "claim")]
    claims = [{"v": 1, "type": "claim", "claims": [{"task": r["task"], "attempt": r["attempt"]}],
               **{k: m[k] for k in ("worker", "inc", "uuid", "beat", "reply") if k in m}}
              for m in heard if m["type"] == "beat" for r in m["running"]]
    if not heard:
        return False
    chaos.rng.shuffle(claims)
    said = heard + claims[:200]
    say(chaos, said)
    chaos.wait(chaos.rng.uniform(1, LEASE))
    say(chaos, said)
    restart_in_order(chaos, leader)
    for _ in range(10):  # also before the workers are heard by whoever leads now
        say(chaos, said)
        say_http(chaos, [m for m in heard if m["type"] == "beat"][-20:])
        chaos.wait(0.3)
    for w in chaos.cluster.workers:
        chaos.must(lambda w=w: not w.alive() or chaos.cluster.sees_up(w), RECOVERY, f"{w.name} is UP")


@fault("beats of a dead worker replayed", "worker", kills=True, needs="identity")
def replayed_dead(chaos, node):
    """It is dead all the same, and what it ran goes on elsewhere."""
    heard = beats_of(listen(chaos, 3), node)
    if not heard:
        return False
    node.down = True
    kill_all(node)

    def seen_dead():
        say(chaos, heard)
        say_http(chaos, heard[-1:])
        return not chaos.cluster.sees_up(node)
    chaos.must(seen_dead, 4 * LEASE, f"{node.name} is not taken for alive")
    node.down = False
