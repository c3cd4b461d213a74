"""An attack on a live system: attackers one after the other and in pairs, an innocent client beside them.

    run.py DIRECTORY SECONDS [--seed N] [--only NAME,…]

A line of figures for each, a table, and `N passed, N failed`: the bars. Exit status 0 where none was
violated. docs/security.md says what the bars are.
"""
import argparse
import json
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import requests

from attackers import ATTACKERS
from innocent import Innocent, percentile
from target import Target, until

MEMORY_MIB = 128
STALL = 0.05        # seconds
WAITED = 10         # seconds
WORSE = 3           # times the p99 of the quiet phase
ENOUGH = 400        # pairs of an innocent client, for its p99 to say something of one step
BACK_MIB = 48       # over what it was before, at the end
BACK_DESCRIPTORS = 16
# What the product does not stand yet, and what happens; done only where --only names it.
NOT_STOOD = {"broker-room": "a worker keeps room for it while a real task runs, and starts nothing of a later rank"}
HERE = Path(__file__).resolve().parent


class Bars:
    """What must hold, how often it was looked at, and each violation."""

    def __init__(self, judge_times):
        self.looked, self.violated, self.slow = Counter(), {}, []
        self.judge_times = judge_times

    def hold(self, bar, good, why):
        self.looked[bar] += 1
        if not good:
            self.violated.setdefault(bar, []).append(why)

    def hold_time(self, bar, good, why):
        """Short runs share their machine: they tell, and do not fail."""
        if self.judge_times:
            self.hold(bar, good, why)
        elif not good:
            self.slow.append(f"{bar}: {why}")

    def report(self):
        for why in self.slow:
            print(f"slow  {why}")
        for bar, n in self.looked.items():
            reasons = self.violated.get(bar, [])
            print(f"{'FAIL' if reasons else 'ok':5} {bar}: looked at {n} times")
            for why in reasons[:8]:
                print(f"      | {why}")
        print(f"{len(self.looked) - len(self.violated)} passed, {len(self.violated)} failed", flush=True)
        return 1 if self.violated else 0


class Step:
    """Figures of one phase."""

    def __init__(self, target, name):
        self.target, self.name, self.begun = target, name, time.monotonic()
        for n in target.nodes:
            n.reset_peak()
        self.turns = {m.name: target.turns(m) for m in target.managers}
        self.waited = {m.name: m.waited() for m in target.managers}
        self.descriptors = 0

    def end(self):
        t = self.target
        self.ended = time.monotonic()
        self.peak = {n.name: n.status("VmHWM") for n in t.nodes}
        now = {m.name: t.turns(m) for m in t.managers}
        self.stalls = {name: now[name].since(old) for name, old in self.turns.items()}
        self.used = {name: now[name].cpu_since(old, self.stalls[name]) for name, old in self.turns.items()}
        self.waited = {m.name: m.waited() - self.waited[m.name] for m in t.managers}

    def watch(self):
        self.descriptors = max(self.descriptors, *(m.descriptors() for m in self.target.managers))

    def pairs(self, all_pairs):
        self.times = [p for p in all_pairs if self.begun <= p.at < self.ended]

    def p(self, share, what="took"):
        return percentile([getattr(p, what) for p in self.times], share)

    def row(self):
        kinds = [max(v for k, v in self.peak.items() if k[0] == kind) for kind in "mw"]
        return (self.name, *(f"{x:.0f}" for x in kinds), f"{1000 * max(self.stalls.values()):.0f}",
                f"{1000 * max(self.used.values()):.0f}", f"{1000 * self.p(0.5):.0f}",
                f"{1000 * self.p(0.99):.0f}", f"{1000 * self.p(0.99, 'nothing'):.1f}", str(len(self.times)),
                str(self.descriptors))


HEAD = ("attackers", "manager MiB", "worker MiB", "stall ms", "of it CPU", "p50 ms", "p99 ms", "machine p99",
        "pairs", "descriptors")


class Run:
    def __init__(self, target, innocent, options):
        self.target, self.innocent, self.o = target, innocent, options
        self.rng, self.bars, self.steps = random.Random(options.seed), Bars(not options.tell_times), []
        self.known = target.dir / "known.json"
        self.begun = time.monotonic()

    def watch(self, step, over):
        """Looks at the descriptors until that is over; a process that ended is seen here too."""
        while not over():
            step.watch()
            threading.Event().wait(0.1)

    def step(self, name, act):
        step = Step(self.target, name)
        act(step)
        step.end()
        step.pairs(self.innocent.pairs())
        self.steps.append(step)
        print("  ".join(f"{h} {v}" for h, v in zip(HEAD, step.row())), flush=True)
        return step

    def quiet(self, seconds):
        def wait(step):
            end = time.monotonic() + seconds
            self.watch(step, lambda: time.monotonic() > end)
        return self.step("(quiet)", wait)

    def attack(self, names, seconds):
        """Their figures; whatever they were answered is told too."""
        self.target.describe(self.known)
        seed = str(self.rng.randrange(1 << 32))

        def act(step):
            running = [subprocess.Popen([sys.executable, HERE / "attackers.py", n, self.known, str(seconds), seed],
                                        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
                       for n in names]
            limit = time.monotonic() + seconds + 60
            self.watch(step, lambda: all(p.poll() is not None for p in running) or time.monotonic() > limit)
            for n, p in zip(names, running):
                p.kill()
                said, wrong = p.communicate()
                print(f"    {n}: {said.strip() or 'nothing'}", flush=True)
                self.bars.hold("each attacker did its work", p.returncode == 0 and '"' in said,
                               f"{n}: {p.returncode} {wrong[-2000:]}")
        self.judge(self.step(" + ".join(names), act))

    def judge(self, step):
        t, hold, where = self.target, self.bars.hold, f"after {step.name}"
        hold("all processes are alive", all(n.alive() for n in t.nodes), where)
        for name, mib in step.peak.items():
            hold(f"at most {MEMORY_MIB} MiB", mib <= MEMORY_MIB, f"{step.name}: {name} {mib:.0f} MiB")
        for name, stall in step.stalls.items():
            used, waited = step.used[name], step.waited[name]
            own = used > STALL or (stall > STALL and stall - waited > STALL)
            self.bars.hold_time(f"no stall over {1000 * STALL:.0f} ms", not own,
                                f"{step.name}: {name} {1000 * stall:.0f} ms, of it {1000 * used:.0f} ms CPU; "
                                f"it waited {1000 * waited:.0f} ms for a processor in all")
        for m in t.managers:
            away = {w.name for w in t.workers} - t.up(m)
            hold("real workers stay UP", not away, f"{where}: {m.name} does not see {away} UP")
        for task, before in t.before.items():
            story = t.story(task)
            hold("no attempt of a real task was changed", story == before, f"{where}: {task} {before} -> {story}")
            t.before[task] = story  # each change is told once
        for p in step.times:
            hold("the innocent client is answered", p.error is None, f"{step.name}: {p.error}")
        for p in self.innocent.waits():
            if step.begun <= p.at < step.ended:
                hold("who waits is answered", p.error is None, f"{step.name}: {p.error}")
                self.bars.hold_time(f"a task that is waited for ends within {WAITED} s", p.took <= WAITED,
                                    f"{step.name}: {p.took:.1f} s")

    def judge_times(self, name, quiet, times):
        """By ratio; where a server that does nothing was slower too, by so much more."""
        def p99(pairs, what):
            return percentile([getattr(p, what) for p in pairs], 0.99)
        machine = max(1, p99(times, "nothing") / p99(quiet, "nothing"))
        now, then = p99(times, "took"), p99(quiet, "took")
        self.bars.hold_time(f"p99 at most {WORSE} x quiet", now <= WORSE * machine * then,
                            f"{name}: {1000 * now:.0f} ms, quiet {1000 * then:.0f} ms, machine x {machine:.1f}")

    def all_steps(self):
        """(attackers, seconds) for as long as there is time."""
        names = self.o.only or sorted(ATTACKERS.keys() - NOT_STOOD.keys())
        seconds = max(1.5, min(20, self.o.seconds * 0.6 / len(names) - 0.7))
        end = self.begun + self.o.seconds
        while True:
            pairs = [tuple(self.rng.sample(names, 2)) for _ in names] if len(names) > 1 else []
            singles = [(n,) for n in names]
            self.rng.shuffle(singles)
            for step in singles + pairs:
                if time.monotonic() + seconds > end and len(self.steps) > len(names):
                    return
                yield step, seconds

    def settle(self, before):
        """Memory and descriptors come back, what was accepted has ended."""
        t, hold = self.target, self.bars.hold
        pairs = self.innocent.stop()
        tasks = [p.task for p in pairs + self.innocent.waits() if p.task]

        def ended():
            return not t.query("select count(*) from task where id = any(%s::uuid[]) and state < 5", tasks)[0][0]

        def back():
            return all(n.status("VmRSS") <= before[n.name][0] + BACK_MIB and
                       n.descriptors() <= before[n.name][1] + BACK_DESCRIPTORS for n in t.nodes)
        for what, condition, within in (("every innocent task ended", ended, 120),
                                        ("memory and descriptors come back", back, 30)):
            try:
                until(condition, within, what)
                hold(what, True, "")
            except AssertionError:
                hold(what, False, str({n.name: (f"{n.status('VmRSS'):.0f} MiB", n.descriptors()) for n in t.nodes})
                     + f" before: {before}")
        counts = t.query("select t.id::text, t.state, count(*) filter (where e.event = 'granted'),"
                         " count(*) filter (where e.event = 'succeeded') from task t join event e on"
                         " e.task_id = t.id where t.id = any(%s::uuid[]) group by 1, 2", tasks)
        hold("every innocent task is there", len(counts) == len(tasks), f"{len(counts)} of {len(tasks)}")
        for task, state, granted, succeeded in counts:
            hold("every innocent task succeeded exactly once", (state, granted, succeeded) == (5, 1, 1),
                 f"{task}: state {state}, {granted} grants, {succeeded} ends")
        for view in t.let_go():
            hold("what ran all the time succeeds at its first attempt",
                 (view["state"], view["attempt"]) == ("SUCCEEDED", 1), f"{view['state']}, attempt {view['attempt']}")

    def run(self):
        quiet = self.quiet(max(6, min(60, self.o.seconds / 15)))
        before = {n.name: (n.status("VmRSS"), n.descriptors()) for n in self.target.nodes}
        for names, seconds in self.all_steps():
            self.attack(names, seconds)
            if not all(n.alive() for n in self.target.nodes):
                break
        attacks = self.steps[1:]
        for s in attacks:
            if len(s.times) >= ENOUGH:
                self.judge_times(s.name, quiet.times, s.times)
        self.judge_times("all", quiet.times, [p for s in attacks for p in s.times])
        self.settle(before)

    def table(self):
        print("| " + " | ".join(HEAD) + " |\n|" + "---|" * len(HEAD))
        for s in self.steps:
            print("| " + " | ".join(s.row()) + " |")


def arguments():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("directory", type=Path)
    p.add_argument("seconds", type=float)
    p.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    p.add_argument("--only", type=lambda text: [x.strip() for x in text.split(",")], default=[], metavar="NAME,…")
    p.add_argument("--tell-times", action="store_true", help="slow answers and stalls are told, and no failure")
    return p.parse_args()


def main():
    o = arguments()
    if unknown := set(o.only) - set(ATTACKERS):
        sys.exit(f"no attacker is called {unknown}; there are {', '.join(ATTACKERS)}")
    print(f"attack: seed {o.seed}, {o.seconds:.0f} s, evidence in {o.directory}", flush=True)
    target = Target(o.directory.resolve())
    run = Run(target, Innocent([m.url for m in target.managers], target.dir / "pairs"), o)
    try:
        run.run()
    except (requests.RequestException, AssertionError, OSError) as e:
        run.bars.hold("the run came to its end", False, repr(e)[:2000])
    finally:
        codes = target.close()
    run.bars.hold("a stop in order", not any(codes.values()), json.dumps(codes))
    run.table()
    for name in NOT_STOOD.keys() - set(o.only):
        print(f"not stood yet, left out: {name}: {NOT_STOOD[name]}")
    return run.bars.report()


if __name__ == "__main__":
    sys.exit(main())
