"""The checker can fail: a run without fault passes, and each way of spoiling its evidence is noticed."""
import copy
import json

import pytest

from checker import Checker, Run

PLACE = "/run/w1/work/tasks/x/work"
STORY = (("accepted", None, 2, 1), ("fed", 2, 3, 1), ("granted", 3, 4, 1))


def story(task, *moves):
    return [{"task": task, "seq": n, "at": 1000 * n, "attempt": attempt, "from": before, "to": after,
             "event": name, "worker": "w1", "detail": None}
            for n, (name, before, after, attempt) in enumerate(moves, 1)]


def row(task, job, state, seq, attempt=1, **more):
    return {"id": task, "job_id": job, "state": state, "seq": seq, "attempt": attempt, "failures": 0,
            "losses": 0, "requeues": 0, "job_type": "Command", "worker": "w1", "output": None,
            "cancel_requested": False, "finished_at": 9000, "error": None, **more}


def mark(kind, task, attempt, boot, number=0, pid=None, place=PLACE):
    pid = pid or 100 + attempt
    return f"{kind} {task} {attempt} t{attempt} {boot} {boot} {pid} {place} {number}"


def fault(name, at, healed, **more):
    return {"name": name, "node": "w1", "at": at, "healed": healed, "injected": True, "recovered": 0.1,
            "error": None, "unmet": [], "harmless": False, **more}


def good():
    """Five tasks: ended, lost once and ended, told to fail, cancelled in the queue, Noop."""
    client = [{"what": "send", "key": "k", "keyed": True,
               "tasks": [{"job": f"k.{i}", "expect": e} for i, e in
                         enumerate(("ends", "ends", "fails", "ends", "noop"))]},
              {"what": "accepted", "key": "k", "ids": ["a", "b", "c", "d", "e"]},
              {"what": "cancel", "id": "d", "status": 200},
              {"what": "saw", "id": "a", "state": "SUCCEEDED"}]
    tasks = [row("a", "k.0", 5, 4, output={"attempt": 1, "token": "t1"}),
             row("b", "k.1", 5, 7, 2, losses=1, output={"attempt": 2, "token": "t2"}),
             row("c", "k.2", 6, 4, failures=1, error={"kind": "exit"}),
             row("d", "k.3", 7, 2, cancel_requested=True),
             row("e", "k.4", 5, 4, job_type="Noop")]
    events = (story("a", *STORY, ("succeeded", 4, 5, 1)) +
              story("b", *STORY, ("lost", 4, 1, 1), ("ready", 1, 2, 2), ("granted", 2, 4, 2),
                    ("succeeded", 4, 5, 2)) +
              story("c", *STORY, ("failed", 4, 6, 1)) +
              story("d", ("accepted", None, 2, 1), ("cancelled", 2, 7, 1)) +
              story("e", *STORY, ("succeeded", 4, 5, 1)))
    marks = [mark("S", "a", 1, 3100), mark("B", "a", 1, 3500), mark("E", "a", 1, 3900),
             mark("S", "b", 1, 3100), mark("B", "b", 1, 3200),
             mark("S", "b", 2, 6100), mark("E", "b", 2, 6900),
             mark("S", "c", 1, 3100), mark("E", "c", 1, 3900, 3)]
    samples = [{"node": "m1", "pid": 7, "at": t, "age": t, "rss": 12000, "fds": 30}
               for t in (1000, 40000, 90000)]
    faults = [fault("kill", at=1, healed=2)]
    exits = [{"node": "w1", "at": 1, "code": -9, "expected": True, "points": []}]
    return {"tasks": tasks, "events": events, "client": client, "marks": marks, "samples": samples,
            "faults": faults, "exits": exits, "end": {"queues": {"q": 0}, "left": []}}


def task(evidence, name):
    return next(t for t in evidence["tasks"] if t["id"] == name)


def events(evidence, name):
    return [e for e in evidence["events"] if e["task"] == name]


def rules(evidence):
    return {v["rule"] for v in Checker(Run(**evidence)).check()}


def drop_task(e):
    e["tasks"].remove(task(e, "a"))


def not_ended(e):
    e["events"].remove(events(e, "e")[3])
    task(e, "e").update(state=4, seq=3)


def second_row(e):
    e["tasks"].append({**task(e, "e"), "id": "f"})
    e["events"] += [{**x, "task": "f"} for x in events(e, "e")]


def other_answer(e):
    e["client"].append({"what": "accepted", "key": "k", "ids": ["a", "b", "c", "d", "a"]})


def half_a_batch(e):
    e["client"] = [x for x in e["client"] if x["what"] != "accepted"]
    e["tasks"].remove(task(e, "e"))
    e["events"] = [x for x in e["events"] if x["task"] != "e"]


def unknown_job(e):
    task(e, "e")["job_id"] = "nobody"


def client_saw_other(e):
    e["client"].append({"what": "saw", "id": "a", "state": "FAILED"})


def client_saw_nothing(e):
    e["client"].append({"what": "saw", "id": "x", "state": "UNKNOWN"})


def cancelled_and_ran_on(e):
    e["client"].append({"what": "cancel", "id": "a", "status": 200})


def gap_in_audit(e):
    e["events"].remove(events(e, "a")[1])


def illegal_move(e):
    events(e, "e")[1].update({"event": "granted", "from": 2, "to": 5})


def row_differs(e):
    task(e, "a")["attempt"] = 2


def wrong_attempt(e):
    events(e, "b")[5]["attempt"] = 1


def loss_not_counted(e):
    task(e, "b")["losses"] = 0


def second_outcome(e):
    e["events"] += [{**events(e, "a")[3], "seq": 5, "from": 5, "to": 6, "event": "failed"}]
    task(e, "a").update(state=6, seq=5)


def open_grant(e):
    e["events"].remove(events(e, "c")[3])
    task(e, "c").update(seq=3, state=4)


def events_of_nothing(e):
    e["events"] += story("ghost", ("accepted", None, 2, 1))


def ran_twice(e):
    e["marks"] += [mark("S", "a", 1, 3950, pid=555)]


def overlap(e):
    e["marks"].append(mark("B", "b", 1, 6500))


def descendant_lived_on(e):
    """It has nothing to do with the task any more, and is of the run all the same."""
    e["marks"].append(mark("D", "b", 1, 6500))


def descendant_outlived_its_end(e):
    e["marks"].append(mark("D", "c", 1, 60000))


def lock_was_taken(e):
    e["marks"].append(mark("O", "b", 2, 6100))


def ran_without_grant(e):
    e["marks"].append(mark("S", "d", 1, 1500))


def ran_elsewhere(e):
    e["marks"][0] = mark("S", "a", 1, 3100, place="/run/w2/work/tasks/x/work")


def ran_too_early(e):
    e["marks"].insert(0, mark("S", "c", 1, 100, pid=101))
    e["marks"] = [m for m in e["marks"] if not m.startswith("S c 1 t1 3100")]


def ran_on(e):
    e["marks"].append(mark("B", "c", 1, 60000))


def ran_unknown(e):
    e["marks"].append(mark("S", "zz", 1, 3100))


def failed_for_no_reason(e):
    e["client"] = [x for x in e["client"] if x["what"] != "saw"]
    task(e, "a").update(state=6, error={"kind": "exit"})
    events(e, "a")[3].update({"to": 6, "event": "failed"})


def succeeded_by_itself(e):
    e["marks"] = [m for m in e["marks"] if not m.startswith("E a")]


def succeeded_though_told_to_fail(e):
    task(e, "c").update(state=5, error=None)
    events(e, "c")[3].update({"to": 5, "event": "succeeded"})


def output_of_another(e):
    task(e, "b")["output"] = {"attempt": 1, "token": "t1"}


def cancelled_by_nobody(e):
    task(e, "d")["cancel_requested"] = False


def died(e):
    e["exits"].append({"node": "m1", "at": 5, "code": -6, "expected": False, "points": []})


def grew(e):
    e["samples"][-1]["rss"] = 60000


def too_big(e):
    e["samples"][0]["rss"] = 400000


def leaked_descriptors(e):
    e["samples"][-1]["fds"] = 90


def message_left(e):
    e["end"]["queues"]["q"] = 1


def process_left(e):
    e["end"]["left"].append("process 7")


def stuck(e):
    e["faults"][0]["recovered"] = None


def did_not_come_back(e):
    e["faults"][0]["unmet"] = ["not within 90 s: w1 is UP again"]


def lost_for_nothing(e):
    e["faults"] = [fault("forged beats", at=1, healed=8000, harmless=True)]


def failed_by_its_node(e, kind="launch"):
    e["strict"] = True
    e["client"] = [x for x in e["client"] if x["what"] != "saw"]
    task(e, "a").update(state=6, error={"kind": kind})
    events(e, "a")[3].update({"to": 6, "event": "failed"})


def failed_by_loss(e):
    failed_by_its_node(e, "lost")


def failed_to_launch_instead(e):
    e["strict"] = True
    task(e, "c").update(error={"kind": "launch"})


def killed_by_nobody(e):
    failed_by_its_node(e, "killed")


def poison_of_one_node(e):
    failed_by_its_node(e, "poison")


SPOILED = {
    "lost": [drop_task, not_ended],
    "idempotency": [second_row, other_answer, half_a_batch, drop_task],
    "invented": [unknown_job, ran_unknown],
    "outcome": [client_saw_other, client_saw_nothing, cancelled_and_ran_on, second_outcome,
                failed_for_no_reason, succeeded_by_itself, succeeded_though_told_to_fail,
                output_of_another, cancelled_by_nobody, failed_by_its_node, failed_by_loss,
                failed_to_launch_instead, killed_by_nobody, poison_of_one_node],
    "audit": [gap_in_audit, illegal_move, row_differs, wrong_attempt, loss_not_counted, open_grant,
              events_of_nothing],
    "twice": [ran_twice],
    "overlap": [overlap, lock_was_taken, descendant_lived_on],
    "ungranted": [ran_without_grant, ran_elsewhere, ran_too_early],
    "after the end": [ran_on, descendant_outlived_its_end],
    "process": [died],
    "flat": [grew, too_big, leaked_descriptors],
    "left": [message_left, process_left],
    "stuck": [stuck, did_not_come_back],
    "harmless": [lost_for_nothing],
}


def test_nothing_wrong():
    assert Checker(Run(**good())).check() == []


@pytest.mark.parametrize("rule, spoil", [(r, s) for r, all_ in SPOILED.items() for s in all_])
def test_spoiled(rule, spoil):
    evidence = copy.deepcopy(good())
    spoil(evidence)
    assert rule in rules(evidence)


def test_output_that_could_not_be_written():
    evidence = good()
    output_of_another(evidence)
    evidence["marks"].insert(-3, mark("N", "b", 2, 6890))
    assert rules(evidence) == set()


@pytest.mark.parametrize("name", ["SIGSTOP of a worker and all its shims and tasks",
                                  "workDir hung for 1 to 3 leases"])
def test_frozen_run_is_no_overlap(name):
    """A task that was stopped together with its worker, or that waits for its disk, is there, and
    does not run."""
    evidence = good()
    evidence["marks"].append(mark("O", "b", 2, 6100))
    evidence["faults"].append(fault(name, at=3000, healed=8000))
    assert rules(evidence) == set()
    evidence["faults"][-1]["healed"] = 5000
    assert rules(evidence) == {"overlap"}


def test_nothing_wrong_strictly():
    evidence = {**good(), "strict": True}
    assert rules(evidence) == set()


@pytest.mark.parametrize("kind", ["killed", "oom"])
def test_killed_by_hand(kind):
    """Then it may have failed so, and not before."""
    evidence = good()
    failed_by_its_node(evidence, kind)
    evidence["faults"].append(fault("kill -9 of a task", at=3900, healed=4000))
    assert rules(evidence) == set()
    evidence["faults"][-1]["at"] = 60000
    assert rules(evidence) == {"outcome"}


def test_a_loss_beside_a_fault_that_does_harm():
    evidence = good()
    evidence["faults"].append(fault("forged beats", at=1, healed=8000, harmless=True))
    assert rules(evidence) == set()


def test_evidence_from_files(tmp_path):
    e = good()
    for name in ("tasks", "events", "exits", "samples", "end"):
        (tmp_path / f"{name}.json").write_text(json.dumps(e[name]))
    for name in ("client", "faults"):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(x) + "\n" for x in e[name]))
    (tmp_path / "marks").write_text("\n".join(e["marks"]) + "\ncut off")
    checker = Checker(Run.load(tmp_path))
    assert checker.check() == []
    assert checker.counts()["runs"] == 4
