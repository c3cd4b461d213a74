"""Attackers that are a user of the broker, who may publish to whatever begins with `sje.`, and read nothing."""
import copy
import json
import time
import uuid

import pika

from by_http import beat_of
from target import INTRUDER

ATTACKERS = {}
FLOOD = 10000  # messages a second
BACKLOG = 4000  # of what waits in a queue's way before a flood looks again
NOBODY = "0190a5b2-0000-7000-8000-000000000000"


def attacker(f):
    ATTACKERS[f.__name__.replace("_", "-")] = f
    return f


class Line:
    """A connection that publishes as fast as the broker reads."""

    def __init__(self, attack):
        self.attack = attack
        self.connection = self.channel = None
        self.open()

    def open(self):
        self.connection = pika.BlockingConnection(pika.ConnectionParameters(
            "127.0.0.1", self.attack.known["amqp"], self.attack.known["vhost"],
            pika.PlainCredentials(*INTRUDER), heartbeat=0, socket_timeout=5))
        self.channel = self.connection.channel()

    def say(self, where, body, properties=None):
        exchange, key = where
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        try:
            self.channel.basic_publish(exchange, key, data, properties or pika.BasicProperties())
            self.attack.count("messages")
        except pika.exceptions.AMQPError as e:
            self.attack.count(type(e).__name__)
            self.open()

    def close(self):
        if self.connection.is_open:
            self.connection.close()


def queues(attack, kind):
    return [("", q) for q in attack.known["queues"] if q.startswith(f"sje.{kind}")]


def everywhere(attack):
    return queues(attack, "") + [("sje.beat", ""), ("sje.ctl", "")]


def one(attack, **more):
    """The key of a task that a real worker holds."""
    return {"task": attack.rng.choice(attack.known["held"]), "attempt": 1, **more}


def messages(attack):
    """(where it belongs, an example) of each message of docs/protocol.md; tokens and UUIDs are guesses."""
    node = attack.known["workers"][0]["workerId"]
    who = {"v": 1, "worker": node, "uuid": str(uuid.uuid4()), "inc": 1, "reply": "sje.worker.x.000000.1"}
    manager = {"v": 1, "manager": "nobody", "url": "http://127.0.0.1:1", "uuid": str(uuid.uuid4())}
    work, own = queues(attack, "work"), queues(attack, "manager")
    workers, beat, ctl = queues(attack, "worker."), [("sje.beat", "")], [("sje.ctl", "")]
    spec = {"jobType": "Command", "command": ["false"]}
    hint = {"slots": 1, "rank": 1, "type": "Noop", "cpusMilli": 500, "memoryMb": 200}
    key = {"task": NOBODY, "attempt": 1}
    return {
        "hint": (work + workers, {"v": 1, "type": "hint", "reply": "sje.manager.x", "keepMs": 2000,
                                  "tasks": [{**key, **hint}]}),
        "claim": (own + beat, {**who, "type": "claim", "beat": 1, "claims": [one(attack)]}),
        "grants": (workers, {**manager, "type": "grants", "denies": [{**one(attack), "reason": "ended"}],
                             "grants": [one(attack, token="1", beat=1, leaseMs=30000, losses=1, returns=2,
                                            elsewhere=True, spec=spec)]}),
        "beat": (own + beat, beat_of(node, holdOff=[{"type": None, "reason": "x", "untilMs": 1}],
                                     claiming=[one(attack)],
                                     running=[one(attack, token="1", leaseMs=30000, phase="running",
                                                  applicationId="x", uiUrl="http://x",
                                                  progress={"done": 3, "total": 8, "text": "x"})])),
        "beat-ack": (workers, {**manager, "type": "beat-ack", "beat": 1, "drain": False, "unsure": [],
                               "revoke": [one(attack)], "cancel": [one(attack)]}),
        "outdated": (workers, {**manager, "type": "outdated", "inc": 900, "host": "x", "pid": 1}),
        "cancel": (workers + ctl, {"v": 1, "type": "cancel", "tasks": [one(attack)]}),
        "revoke": (workers, {"v": 1, "type": "revoke", "beat": 1, "tasks": [one(attack)]}),
        "drain": (workers, {"v": 1, "type": "drain", "on": True}),
        "log": (workers, {"v": 1, "type": "log", **one(attack), "stream": "stdout", "offset": 0,
                          "limit": 65536, "waitMs": 1000, "reply": "sje.manager.x", "rid": 17}),
        "applied": (workers, {"v": 1, "type": "applied", "tasks": [one(attack)]}),
        "log reply": (own, {"v": 1, "type": "log", "rid": 17, "found": True, "size": 4, "offset": 0,
                            "ended": False}),
        "results": (queues(attack, "result"),
                    {**who, "type": "results", "results": [one(
                        attack, token="1", outcome="succeeded", error={"kind": "exit", "message": "x",
                        "exitCode": 3, "signal": None}, output={"a": 1}, applicationId="x",
                        progress={"done": 1, "total": 1}, startedAtMs=1, finishedAtMs=2)]}),
        "ready": (own + ctl, {"v": 1, "type": "ready", "pool": "default", "rank": 1, "jobType": "Noop",
                              "slots": 1, "cpusMilli": 1, "memoryMb": 0}),
        "due": (own + ctl, {"v": 1, "type": "due", "atMs": 1700000000000}),
        "granted": (own + ctl, {"v": 1, "type": "granted", "tasks": [one(attack)]}),
        "final": (own + ctl, {"v": 1, "type": "final", "tasks": [one(attack)["task"]]}),
        "orders": (own + ctl, {"v": 1, "type": "orders"}),
        "leader": (own + ctl, {"v": 1, "type": "leader", "manager": "nobody", "epoch": 1 << 62}),
    }


def anything(attack):
    return attack.rng.choice(sorted(messages(attack).items()))[1]


WRONG = (None, True, False, 0, -1, 1 << 63, -(1 << 63), 1e308, "", "x" * 70000, [], {}, [[]], [None] * 2000,
         {"a": {}}, "\0", "é" * 300, NOBODY, ["x"] * 11000)


def fields(value, path=()):
    """Paths of all members and elements in it."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for k, v in pairs:
        yield path + (k,)
        yield from fields(v, path + (k,))


def spoiled(message, path, wrong):
    m = copy.deepcopy(message)
    at = m
    for k in path[:-1]:
        at = at[k]
    at[path[-1]] = wrong
    return m


def again(attack, act):
    line = Line(attack)
    while attack.going():
        act(line)
        line.connection.process_data_events(0)
    line.close()


@attacker
def broker_garbage(attack):
    """Bytes that are no message."""
    def garbage():
        n = attack.rng.choice((0, 1, 10, 1000, 100000))
        return attack.rng.choice((attack.rng.randbytes(n), b"{" * n, b'{"v":1,"type":"\xff\xfe"}', b"\n" * n,
                                  b'{"v":1,"type":"log","rid":17}\n' + attack.rng.randbytes(n)))
    again(attack, lambda line: line.say(attack.rng.choice(everywhere(attack)), garbage()))


@attacker
def broker_wrong_types(attack):
    """Each field of each message with each wrong value; in any order, as long as there is time."""
    cases = [(where, m, path, wrong) for places, m in messages(attack).values() for where in places
             for path in fields(m) for wrong in WRONG]
    attack.rng.shuffle(cases)
    line = Line(attack)
    for where, m, path, wrong in cases:
        if not attack.going():
            break
        line.say(where, spoiled(m, path, wrong))
    attack.count("cases", len(cases))
    line.close()


@attacker
def broker_huge(attack):
    """Large and deep ones: up to 8 MiB."""
    def huge(line):
        places, m = anything(attack)
        n = attack.rng.choice((250 << 10, 257 << 10, 1 << 20, (1 << 20) + 1, 8 << 20))
        deep = attack.rng.choice((b"[" * n, b'{"a":' * (n // 5), json.dumps({**m, "x": "y" * n}).encode(),
                                  json.dumps({**m, "x": [0] * (n // 3)}).encode(),
                                  json.dumps({**m, "x": [{}] * (n // 4)}).encode(),
                                  json.dumps({**m, "x": {f"k{i}": 1 for i in range(n // 12)}}).encode()))
        line.say(attack.rng.choice(places), deep)
    again(attack, huge)


@attacker
def broker_unknown(attack):
    """Unknown types and other versions, anywhere."""
    def unknown(line):
        _, m = anything(attack)
        m = {**m, **attack.rng.choice(({"v": 0}, {"v": 2}, {"v": "1"}, {"type": "x"}, {"type": "x" * 5000}))}
        line.say(attack.rng.choice(everywhere(attack)), m)
    again(attack, unknown)


@attacker
def broker_hints(attack):
    """Hints of tasks that do not exist, to all workers and to each."""
    def hint(line):
        tasks = [{"task": str(uuid.UUID(int=attack.rng.getrandbits(128))), "attempt": 1,
                  "slots": attack.rng.choice((1, 4, 1000000)), "rank": attack.rng.choice((-(1 << 63), 0, 1 << 62)),
                  "type": attack.rng.choice(("Noop", "Nothing")),
                  "cpusMilli": attack.rng.choice((0, 2147483647))} for _ in range(attack.rng.randint(1, 32))]
        reply = attack.rng.choice([q for _, q in queues(attack, "manager")] + ["sje.manager.gone", "sje.ctl", "", None])
        line.say(attack.rng.choice(messages(attack)["hint"][0]),
                 {"v": 1, "type": "hint", "reply": reply, "keepMs": 10000, "tasks": tasks})
        line.connection.process_data_events(0.005)
    again(attack, hint)


@attacker
def broker_room(attack):
    """Hints of tasks that do not exist, before all others, for as many slots as only an idle worker has."""
    def hint(line):
        m = {"v": 1, "type": "hint", "task": str(uuid.UUID(int=attack.rng.getrandbits(128))), "attempt": 1,
             "slots": 8, "rank": -(1 << 63)}
        line.say(attack.rng.choice(queues(attack, "work")), m)
        line.connection.process_data_events(0.1)
    again(attack, hint)


@attacker
def broker_forged(attack):
    """What would change real tasks if it were believed, with guessed tokens and UUIDs, and with none."""
    kinds = ("claim", "results", "beat", "grants", "applied", "cancel", "revoke", "beat-ack", "outdated",
             "drain", "granted", "final", "leader")

    def forged(line):
        places, m = messages(attack)[attack.rng.choice(kinds)]
        m = {**m, **({"inc": attack.rng.choice((1, 2, 1 << 40))} if "inc" in m else {})}
        if attack.rng.random() < 0.5:
            m.pop("uuid", None)
        if "results" in m:
            m["results"][0]["outcome"] = attack.rng.choice(("succeeded", "failed", "cancelled", "lost", "returned"))
        line.say(attack.rng.choice(places), m)
        line.connection.process_data_events(0.002)
    again(attack, forged)


@attacker
def broker_properties(attack):
    """Without reply or with odd ones; wrong content types, headers, priorities, expiration."""
    replies = (None, "", "sje.result", "sje.beat", "amq.direct", "x" * 255, "x" * 4000, "sje.manager.", "é\n", 7)

    def odd(line):
        places, m = anything(attack)
        if "reply" in m:
            m = {**m, "reply": attack.rng.choice(replies)}
        line.say(attack.rng.choice(places), m, pika.BasicProperties(
            content_type=attack.rng.choice((None, "text/html", "x" * 255)),
            content_encoding=attack.rng.choice((None, "gzip")), priority=attack.rng.choice((None, 0, 9, 255)),
            headers=attack.rng.choice((None, {"x-delivery-count": 1000000}, {"a" * 120: "b" * 30000},
                                       {str(i): [i] * 50 for i in range(100)})),
            expiration=attack.rng.choice((None, "0", "1", "60000")), delivery_mode=attack.rng.choice((1, 2)),
            reply_to="sje.result", correlation_id=attack.rng.choice((None, "18446744073709551616", "x")),
            message_id=attack.rng.choice((None, "x" * 255)), type="beat", app_id="\u00e9"))
    again(attack, odd)


@attacker
def broker_beats(attack):
    """10,000 invented workers, who serve what nobody asks for; huge incarnations; replays."""
    real = [w["workerId"] for w in attack.known["workers"]]
    said = []

    def beat(line):
        name = attack.rng.choice([f"invented{attack.rng.randrange(10000)}"] * 9 + real)
        inc = attack.rng.choice((1, 1, 1, 1 << 31, (1 << 63) - 1))
        said.append(beat_of(name, inc, attack.rng.choice((1, 2, 1 << 40))))
        del said[:-200]
        line.say(("sje.beat", ""), attack.rng.choice(said))
        line.connection.process_data_events(0.0005)
    again(attack, beat)


@attacker
def broker_full_beats(attack):
    """Beats with as much in every array as a manager takes: pools, types, what is held off, attempts."""
    many = [[{"task": str(uuid.UUID(int=attack.rng.getrandbits(128))), "attempt": 1, "token": "1",
              "leaseMs": 86400000, "phase": "running", "applicationId": "a" * 250, "uiUrl": "u" * 500,
              "progress": {"done": 1, "total": 2, "text": "x" * 3900}} for _ in range(200)] for _ in range(40)]

    def full(line):
        k = attack.rng.randrange(2000)
        runs = attack.rng.choice(many) if attack.rng.random() < 0.3 else []
        held = [{"type": f"h{k}-{i}", "reason": "x", "untilMs": None} for i in range(60)]
        types = [f"t{k % 500}-{i}-".ljust(120, "x") for i in range(attack.rng.choice((5, 256)))]
        pools = [f"p{k % 500}-{i}" for i in range(attack.rng.choice((1, 64)))]
        line.say(("sje.beat", ""), beat_of(
            f"full{k}", 1, time.time_ns(), uuid=str(uuid.UUID(int=k + 1)), running=runs, slots=0, cpus=k,
            memoryMb=attack.rng.randrange(9), pools=[*pools[1:], "default"], jobTypes=[*types[1:], "Noop"],
            holdOff=attack.rng.choice(([], held))))
        line.connection.process_data_events(0.02 if runs else 0.002)
    again(attack, full)


@attacker
def broker_results(attack):
    """Results of 1,000 tasks in each message, which do not exist."""
    who = messages(attack)["results"][1]

    def results(line):
        entries = [{"task": str(uuid.UUID(int=attack.rng.getrandbits(128))), "attempt": 1, "token": "1",
                    "outcome": "succeeded"} for _ in range(1000)]
        line.say(("", "sje.result"), {**who, "results": entries})
        line.connection.process_data_events(0.03)
    again(attack, results)


def flood(attack, where, m, seconds):
    """One message, so many times a second."""
    frames = frames_of(where, json.dumps(m).encode())
    line, end, due, n = Line(attack), time.monotonic() + seconds, time.monotonic(), 0
    while time.monotonic() < min(end, attack.deadline):
        line.connection._impl._output_marshaled_frames([frames * 100])
        n += 100
        due += 100 / FLOOD
        line.connection.process_data_events(max(0, due - time.monotonic()))
    line.close()
    attack.count("messages", n)


def frames_of(where, body):
    method = pika.spec.Basic.Publish(exchange=where[0], routing_key=where[1])
    return b"".join(f.marshal() for f in (pika.frame.Method(1, method),
                                          pika.frame.Header(1, len(body), pika.BasicProperties()),
                                          pika.frame.Body(1, body)))


@attacker
def broker_flood(attack):
    """One kind after the other, 10,000 a second; in any order, as long as there is time."""
    kinds = sorted(messages(attack).items())
    attack.rng.shuffle(kinds)
    for name, (places, m) in kinds:
        if attack.going():
            attack.count(name)
            flood(attack, attack.rng.choice(places), m, 3)
