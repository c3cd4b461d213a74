"""Peers on RabbitMQ, with the guarantees that they offer: durable queues, persistent messages, late
acknowledgement, publisher confirms. Runs in the benchmark's own virtual environment.

    peer.py celery|dramatiq COUNT DIR     one JSON line: tasks a second, from the first publish until
                                          the last task was carried out

Each publisher and each worker is a process; a task writes one byte to a file of its process, so that
what is done can be counted from outside.

The settings are not proven to be the fastest. Tried once, 2,000 tasks a run, on two cores that other
work kept busy (load 6, rising to 14, so that what came later was at a disadvantage), in this order:

    Celery    prefork and threads with 1, 2, 4; then prefork with 2: a prefetch multiplier of 1, 16,
              64, 256, and 1, 2, 4 publishers
    Dramatiq  1, 2, 4 processes with 1, 4, 8 threads; then 2 with 4: a prefetch of 1, 64, 1000 and its
              own, and 1, 2, 4 publishers

One setting differed from itself by a factor of 2.5 (Dramatiq, 2 with 4: 331 to 823 tasks a second;
Celery, prefork with 2 and a multiplier of 1: 154 to 369), which is more than most settings differed
from one another. The highest single runs were Celery 397 (prefork with 2, multiplier 256; 392 with
64, and with 1 process) and Dramatiq 823 (2 with 4; 811 and 806 for 1 with 8 and with 4). What stands
here was not beaten by more than that noise.
"""
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

KIND = os.environ.get("PEER_KIND") or sys.argv[1]
URL = "amqp://{USERNAME}:{PASSWORD}@{HOST}:{PORT}/%2F".format_map(
    {k: os.environ["SJE_RABBITMQ_" + k] for k in ("USERNAME", "PASSWORD", "HOST", "PORT")})
LIMIT_S = 300
done = None


def tick():
    global done
    if done is None:
        done = os.open(f"{os.environ['PEER_DIR']}/{os.getpid()}", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    os.write(done, b".")


if KIND == "celery":
    from celery import Celery

    celery = Celery("bench", broker=URL)
    celery.conf.update(task_acks_late=True, task_ignore_result=True, worker_prefetch_multiplier=64,
                       broker_transport_options={"confirm_publish": True}, worker_send_task_events=False,
                       broker_connection_retry_on_startup=True, worker_hijack_root_logger=False)
    noop = celery.task(tick, name="noop")
    WORKER = ["celery", "-A", "peer", "worker", "-P", "prefork", "-c", "2", "-l", "error",
              "--without-gossip", "--without-mingle", "--without-heartbeat"]

    def send():
        noop.delay()
else:
    import dramatiq
    from dramatiq.brokers.rabbitmq import RabbitmqBroker

    dramatiq.set_broker(RabbitmqBroker(url=URL, confirm_delivery=True))
    noop = dramatiq.actor(actor_name="noop", queue_name="bench")(tick)
    WORKER = ["dramatiq", "peer", "--processes", "2", "--threads", "4"]

    def send():
        noop.send()


def count(directory):
    return sum(f.stat().st_size for f in directory.iterdir())


def until(directory, n, process):
    end = time.monotonic() + LIMIT_S
    while count(directory) < n:
        if time.monotonic() > end or process.poll() is not None:
            sys.exit(f"{KIND}: {count(directory)} of {n} tasks were carried out")
        time.sleep(0.01)


def end(worker):
    worker.terminate()
    try:
        worker.wait(20)
    except subprocess.TimeoutExpired:
        os.killpg(worker.pid, signal.SIGKILL)
        worker.wait()


def publish(n, publishers):
    children = []
    for i in range(publishers):
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                for _ in range(n // publishers):
                    send()
                status = 0
            finally:
                os._exit(status)
        children.append(pid)
    return children


def main():
    n, directory = int(sys.argv[2]), Path(sys.argv[3]).resolve()
    directory.mkdir(parents=True)
    env = {**os.environ, "PEER_KIND": KIND, "PEER_DIR": str(directory),
           "PYTHONPATH": str(Path(__file__).parent), "PYTHONDONTWRITEBYTECODE": "1"}
    with open(directory.parent / f"{KIND}.log", "w", encoding="utf-8") as log:
        worker = subprocess.Popen([Path(sys.executable).parent / WORKER[0], *WORKER[1:]], env=env,
                                  cwd=directory.parent, stdout=log, stderr=log, start_new_session=True)
    try:
        publishers = 2
        for pid in publish(publishers, publishers):  # one task each: everything is connected then
            os.waitpid(pid, 0)
        until(directory, publishers, worker)
        start = time.monotonic()
        for pid in publish(n, publishers):
            if os.waitpid(pid, 0)[1] != 0:
                sys.exit(f"{KIND}: a publisher failed")
        until(directory, publishers + n, worker)
        seconds = time.monotonic() - start
    finally:
        end(worker)
    print(json.dumps({"count": n, "seconds": seconds}))


if __name__ == "__main__":
    main()
