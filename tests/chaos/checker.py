"""Was anything lost, doubled or invented? Judges a chaos run from what it left behind.

It reads files alone, and shares no code with the product or with the run: the clients' log
(client.jsonl), the marks that tasks left on disk (marks), the tables (tasks.json, events.json), and
what was seen of processes and queues (exits.json, samples.json, end.json, faults.jsonl, clock.json);
rules.json tells which rules hold by now.
Times are milliseconds. The rules are those of docs/protocol.md and docs/reliability.md.

    checker.py DIRECTORY      prints violations and counts; exit status 1 where there is one
"""
import json
import sys
from collections import Counter, defaultdict
from pathlib import Path

SCHEDULED, READY, FED, RUNNING, SUCCEEDED, FAILED, CANCELLED, DEAD = range(1, 9)
FINAL = {SUCCEEDED, FAILED, CANCELLED, DEAD}
OUTSIDE = {SUCCEEDED: "SUCCEEDED", FAILED: "FAILED", DEAD: "FAILED", CANCELLED: "CANCELLED"}
QUEUED = {SCHEDULED, READY, FED}

# event: the states it may lead from and to
MOVES = {
    "accepted": {(None, READY), (None, SCHEDULED)},
    "ready": {(SCHEDULED, READY)},
    "fed": {(READY, FED)},
    "unfed": {(FED, READY)},
    "granted": {(READY, RUNNING), (FED, RUNNING)},
    "reclaimed": {(RUNNING, RUNNING)},
    "application": {(RUNNING, RUNNING)},
    "survived": {(RUNNING, RUNNING)},
    "cancelRequested": {(RUNNING, RUNNING)},
    "succeeded": {(RUNNING, SUCCEEDED)},
    "failed": {(RUNNING, FAILED), (SCHEDULED, FAILED), (READY, FAILED), (FED, FAILED)},
    "retry": {(RUNNING, SCHEDULED)},
    "lost": {(RUNNING, SCHEDULED)},
    "returned": {(RUNNING, READY), (RUNNING, SCHEDULED)},
    "cancelled": {(RUNNING, CANCELLED), (SCHEDULED, CANCELLED), (READY, CANCELLED), (FED, CANCELLED)},
    "dead": {(RUNNING, DEAD)},
    "requeued": {(FAILED, READY), (CANCELLED, READY), (DEAD, READY)},
    "superseded": {(s, s) for s in range(1, 9)},
}
NEXT_ATTEMPT = {"retry", "lost", "returned"}

# What a task may end as, by what it was made for: (state, kinds of error where it failed). A fault may
# end anything; but no fault makes a task exit with a status of its own.
BY_FAULT = {"lost", "killed", "poison", "launch", "oom"}
MAY_END = {"noop": BY_FAULT, "ends": BY_FAULT, "fails": BY_FAULT | {"exit"},
           "timeout": BY_FAULT | {"timeout"}, "oom": BY_FAULT}

# The strict form: what a node does is no failure of the task. It may be killed (and is taken for out
# of memory when something else was, at that time), and where it took two nodes with it, that is all.
BY_HAND = "kill -9 of a task"
STRICT = {"noop": {"poison"}, "ends": {"poison"}, "fails": {"poison", "exit"},
          "timeout": {"poison", "timeout"}, "oom": {"poison", "oom", "killed"}}

CLOCK_SLACK = 2000        # between the managers' idea of the database's clock and the machine's
RSS_MAX = 160 * 1024      # KiB
RSS_GROWTH = 24 * 1024    # KiB, of one process
FDS_MAX = 400
FDS_GROWTH = 40
SETTLED_AGE = 30000       # from this age on a process is compared with itself


class Run:
    """One run's evidence."""

    def __init__(self, tasks=(), events=(), client=(), marks=(), exits=(), samples=(), faults=(),
                 end=None, wall_minus_boot=0, strict=False):
        self.tasks = {t["id"]: t for t in tasks}
        self.events = defaultdict(list)
        for e in events:
            self.events[e["task"]].append(e)
        self.client, self.exits, self.samples = list(client), list(exits), list(samples)
        self.faults = list(faults)
        self.end = end or {}
        self.wall_minus_boot, self.strict = wall_minus_boot, strict
        self.marks = [m for m in map(read_mark, marks) if m]

    @classmethod
    def load(cls, directory):
        d = Path(directory)

        def lines(name):
            path = d / name
            return path.read_text().splitlines() if path.exists() else []

        def document(name, default):
            path = d / name
            return json.loads(path.read_text()) if path.exists() else default

        return cls(document("tasks.json", []), document("events.json", []),
                   [json.loads(x) for x in lines("client.jsonl")], lines("marks"),
                   document("exits.json", []), document("samples.json", []),
                   [json.loads(x) for x in lines("faults.jsonl")], document("end.json", {}),
                   document("clock.json", {}).get("wallMinusBoot", 0),
                   document("rules.json", {}).get("strict", False))


def read_mark(line):
    words = line.split()
    if len(words) != 9:
        return None
    kind, task, attempt, token, boot, wall, pid, place, number = words
    return {"kind": kind, "task": task, "attempt": int(attempt), "token": token, "boot": int(boot),
            "wall": int(wall), "pid": int(pid), "place": place, "number": int(number)}


class Checker:
    def __init__(self, run):
        self.run, self.violations = run, []
        self.runs = self.gather_runs()

    def wrong(self, rule, text, task=None):
        self.violations.append({"rule": rule, "task": task, "text": text})

    def gather_runs(self):
        """Runs of each task, from the marks: one process that started is one run."""
        runs = defaultdict(dict)
        for m in self.run.marks:
            of = runs[m["task"]]
            key = (m["attempt"], m["pid"], m["token"])
            if m["kind"] == "S":
                of[key] = {"attempt": m["attempt"], "token": m["token"], "place": m["place"],
                           "pid": m["pid"], "begin": m["boot"], "last": m["boot"], "exit": None,
                           "output": True}
            elif key in of and m["kind"] in "BDEN":
                of[key]["last"] = max(of[key]["last"], m["boot"])
                of[key]["output"] &= m["kind"] != "N"
                if m["kind"] == "E":
                    of[key]["exit"] = m["number"]
        return {task: sorted(of.values(), key=lambda r: r["begin"]) for task, of in runs.items()}

    # ---- nothing lost, nothing invented ----

    def check_accepted(self):
        sends = {e["key"]: e for e in self.run.client if e["what"] == "send"}
        answers = defaultdict(set)
        for e in self.run.client:
            if e["what"] == "accepted":
                answers[e["key"]].add(tuple(e["ids"]))
                for task in e["ids"]:
                    if task not in self.run.tasks:
                        self.wrong("lost", "accepted, and not in the database", task)
        for key, ids in answers.items():
            if len(ids) > 1:
                self.wrong("idempotency", f"key {key} was answered with {sorted(ids)}")
        rows = Counter(t["job_id"] for t in self.run.tasks.values())
        known = {}
        for key, send in sends.items():
            n = {rows[t["job"]] for t in send["tasks"]}
            known.update((t["job"], t["expect"]) for t in send["tasks"])
            if len(n) > 1:
                self.wrong("idempotency", f"key {key}: not all or nothing: {n}")
            if max(n) > 1 or (key in answers and min(n) < 1):
                self.wrong("idempotency", f"key {key}: {n} tasks for one request")
        for task in self.run.tasks.values():
            if task["job_id"] not in known:
                self.wrong("invented", f"nobody sent job {task['job_id']}", task["id"])
        self.expected = known

    def check_ended(self):
        for task in self.run.tasks.values():
            if task["state"] not in FINAL:
                self.wrong("lost", f"has not ended: state {task['state']}", task["id"])

    def check_seen(self):
        """What a client was told is final stands; a cancelled task is cancelled."""
        for e in self.run.client:
            task = self.run.tasks.get(e.get("id"))
            if e["what"] == "saw" and (not task or OUTSIDE.get(task["state"]) != e["state"]):
                self.wrong("outcome", f"a client saw {e['state']}", e["id"])
            if e["what"] == "cancel" and e["status"] == 200 and task and task["state"] != CANCELLED:
                self.wrong("outcome", f"cancelled by a client, and is {task['state']}", e["id"])

    # ---- the audit ----

    def check_audit(self):
        for task in self.run.tasks.values():
            self.check_story(task, self.run.events.get(task["id"], []))
        for task in self.run.events:
            if task not in self.run.tasks:
                self.wrong("audit", "events of a task that is not there", task)

    def check_story(self, task, events):
        state, attempt, open_grant, failures, losses, ends = None, 1, False, 0, 0, 0
        for n, e in enumerate(events, 1):
            name = e["event"]
            if e["seq"] != n:
                self.wrong("audit", f"event {n} has seq {e['seq']}", task["id"])
            if e["from"] != state or (e["from"], e["to"]) not in MOVES.get(name, ()):
                self.wrong("audit", f"event {n} {name}: {e['from']} to {e['to']} in {state}",
                           task["id"])
            if name == "requeued":
                attempt += 1
            if e["attempt"] != attempt:
                self.wrong("audit", f"event {n} {name}: attempt {e['attempt']}, not {attempt}",
                           task["id"])
            if state in FINAL and name not in ("superseded", "requeued"):
                self.wrong("outcome", f"{name} after the end", task["id"])
            if name == "granted":
                open_grant = True
            if e["from"] == RUNNING and e["to"] != RUNNING:
                if not open_grant:
                    self.wrong("audit", f"{name} ends a grant that is not there", task["id"])
                open_grant = False
            failures += name == "retry"
            losses += name == "lost"
            if name in NEXT_ATTEMPT:
                attempt += 1
            ends += e["to"] in FINAL and e["from"] not in FINAL
            state = e["to"]
        if open_grant:
            self.wrong("audit", "a grant without an end", task["id"])
        if (state, attempt, len(events)) != (task["state"], task["attempt"], task["seq"]):
            self.wrong("audit", f"the audit gives state {state}, attempt {attempt}, seq "
                       f"{len(events)}; the row has {task['state']}, {task['attempt']}, "
                       f"{task['seq']}", task["id"])
        if not task["requeues"] and (task["failures"] < failures or task["losses"] < losses):
            self.wrong("audit", f"{failures} retries and {losses} losses in the audit, "
                       f"{task['failures']} and {task['losses']} in the row", task["id"])
        if ends > 1 + task["requeues"]:
            self.wrong("outcome", f"{ends} outcomes", task["id"])

    # ---- runs ----

    def grants(self, task):
        """attempt: (granted, ended or None, worker), by the audit."""
        found = {}
        for e in self.run.events.get(task, []):
            if e["event"] == "granted":
                found[e["attempt"]] = [e["at"], None, e["worker"]]
            elif e["from"] == RUNNING and e["to"] != RUNNING and e["attempt"] in found:
                found[e["attempt"]][1] = e["at"]
        return found

    def check_runs(self):
        offset = self.run.wall_minus_boot
        for task, runs in self.runs.items():
            if task not in self.run.tasks:
                self.wrong("invented", "it ran and is not in the database", task)
                continue
            grants = self.grants(task)
            for attempt, n in Counter(r["attempt"] for r in runs).items():
                if n > 1:
                    self.wrong("twice", f"attempt {attempt} ran {n} times", task)
            for a, b in zip(runs, runs[1:]):
                if b["begin"] < a["last"]:
                    self.wrong("overlap", f"attempt {a['attempt']} lived until {a['last']}, attempt "
                               f"{b['attempt']} began at {b['begin']}", task)
            for r in runs:
                granted, ended, worker = grants.get(r["attempt"], (None, None, None))
                if granted is None:
                    self.wrong("ungranted", f"attempt {r['attempt']} ran without a grant", task)
                    continue
                if f"/{worker}/" not in r["place"]:
                    self.wrong("ungranted", f"attempt {r['attempt']} was granted to {worker} and ran "
                               f"in {r['place']}", task)
                if r["begin"] + offset < granted - CLOCK_SLACK:
                    self.wrong("ungranted", f"attempt {r['attempt']} began before its grant", task)
                if ended is not None and r["last"] + offset > ended + CLOCK_SLACK:
                    self.wrong("after the end", f"attempt {r['attempt']} lived "
                               f"{r['last'] + offset - ended} ms after its end in the audit", task)

    def check_locks(self):
        """A run that found another one there; it may have been frozen with its worker, or killed
        while it waited for a disk."""
        frozen = [f for f in self.run.faults
                  if f["name"].endswith("all its shims and tasks") or f["name"].startswith("workDir hung")]
        for m in self.run.marks:
            if m["kind"] == "O":
                others = [r for r in self.runs.get(m["task"], ()) if r["pid"] != m["pid"]]
                if not any(f"/{f['node']}/" in r["place"] and f["at"] <= m["boot"] <= f["healed"]
                           for f in frozen for r in others):
                    self.wrong("overlap", f"attempt {m['attempt']} began while another run was "
                               f"there, at {m['boot']}", m["task"])

    def check_outcomes(self):
        for task in self.run.tasks.values():
            expect = self.expected.get(task["job_id"])
            kind = (task["error"] or {}).get("kind")
            if task["state"] == CANCELLED and not task["cancel_requested"]:
                self.wrong("outcome", "cancelled, and nobody asked for it", task["id"])
            if expect is None or task["state"] == CANCELLED:
                continue
            if task["state"] in (FAILED, DEAD) and not self.may_fail(task, expect, kind):
                self.wrong("outcome", f"made to be '{expect}', failed with {task['error']}",
                           task["id"])
            if task["state"] == SUCCEEDED:
                self.check_success(task, expect)

    def may_fail(self, task, expect, kind):
        if not self.run.strict:
            return kind in MAY_END[expect]
        if kind == "poison":
            return sum(e["event"] in ("lost", "dead") for e in self.run.events[task["id"]]) > 1
        if kind in ("killed", "oom"):
            end = (task["finished_at"] or 0) - self.run.wall_minus_boot + CLOCK_SLACK
            return kind in STRICT[expect] or any(
                f["name"] == BY_HAND and f["injected"] and f["at"] < end for f in self.run.faults)
        return kind in STRICT[expect]

    def check_success(self, task, expect):
        if expect in ("fails", "timeout", "oom"):
            self.wrong("outcome", f"made to be '{expect}', and succeeded", task["id"])
        if expect != "ends":
            return
        ends = [r for r in self.runs.get(task["id"], ()) if r["exit"] == 0]
        won = [r for r in ends if r["attempt"] == task["attempt"]]
        if len(won) != 1:
            self.wrong("outcome", f"attempt {task['attempt']} succeeded, by the marks it did not",
                       task["id"])
        elif won[0]["output"] and task["output"] != {"attempt": task["attempt"], "token": won[0]["token"]}:
            self.wrong("outcome", f"output {task['output']}", task["id"])

    # ---- processes and queues ----

    def check_processes(self):
        for e in self.run.exits:
            if not e["expected"]:
                self.wrong("process", f"{e['node']} ended by itself with status {e['code']}")
        of = defaultdict(list)
        for s in self.run.samples:
            of[(s["node"], s["pid"])].append(s)
        for (node, pid), samples in of.items():
            worst = max(s["rss"] for s in samples)
            if worst > RSS_MAX or max(s["fds"] for s in samples) > FDS_MAX:
                self.wrong("flat", f"{node} ({pid}): {worst} KiB, "
                           f"{max(s['fds'] for s in samples)} descriptors")
            settled = [s for s in samples if s["age"] >= SETTLED_AGE]
            if settled and settled[-1]["rss"] - settled[0]["rss"] > RSS_GROWTH:
                self.wrong("flat", f"{node} ({pid}) grew from {settled[0]['rss']} to "
                           f"{settled[-1]['rss']} KiB")
            if settled and settled[-1]["fds"] - settled[0]["fds"] > FDS_GROWTH:
                self.wrong("flat", f"{node} ({pid}) has {settled[-1]['fds']} descriptors, had "
                           f"{settled[0]['fds']}")

    def check_end(self):
        for queue, n in self.run.end.get("queues", {}).items():
            if n:
                self.wrong("left", f"queue {queue} holds {n} messages")
        for what in self.run.end.get("left", ()):
            self.wrong("left", what)
        for f in self.run.faults:
            if f["recovered"] is None:
                self.wrong("stuck", f"no task ended in time after: {f['name']} ({f['node']})")
            for what in f.get("unmet", ()):
                self.wrong("stuck", f"{f['name']}: {what}")

    def check_harmless(self):
        """Where nothing was done but what must have no effect, no attempt is lost."""
        if self.run.faults and all(f.get("harmless") for f in self.run.faults):
            for task, of in self.run.events.items():
                if any(e["event"] in ("lost", "dead") for e in of):
                    self.wrong("harmless", "an attempt was lost, and nothing happened to it", task)

    def check(self):
        self.check_accepted()
        self.check_ended()
        self.check_seen()
        self.check_audit()
        self.check_runs()
        self.check_locks()
        self.check_outcomes()
        self.check_processes()
        self.check_end()
        self.check_harmless()
        return self.violations

    def counts(self):
        names = Counter(e["event"] for of in self.run.events.values() for e in of)
        states = Counter(OUTSIDE.get(t["state"], "open") for t in self.run.tasks.values())
        return {"tasks": len(self.run.tasks), **{k.lower(): n for k, n in sorted(states.items())},
                "runs": sum(map(len, self.runs.values())), "granted": names["granted"],
                "lost": names["lost"], "survived": names["survived"],
                "superseded": names["superseded"],
                "requests": sum(e["what"] == "send" for e in self.run.client),
                "faults": sum(f["injected"] for f in self.run.faults)}


def main():
    checker = Checker(Run.load(sys.argv[1]))
    violations = checker.check()
    printed = Counter()
    for v in violations:
        printed[v["rule"]] += 1
        if printed[v["rule"]] <= 20:
            print(f"VIOLATION {v['rule']}: {v['text']}" + (f" (task {v['task']})" if v["task"] else ""))
    for rule, n in printed.items():
        if n > 20:
            print(f"… and {n - 20} more of '{rule}'")
    print(", ".join(f"{k} {v}" for k, v in checker.counts().items()))
    return 1 if violations else 0


if __name__ == "__main__":
    sys.exit(main())
