"""A chaos run: a private cluster under load, faults of all kinds, and then the checker's judgement.

    run.py DIRECTORY SECONDS --bin DIR --mark FILE [--seed N] [--rate N] [--short] [--only NAME,…]
           [--long SHARE] [--patience FACTOR] [--table FILE]

Exit status 0 where nothing was violated. DIRECTORY keeps the evidence.
"""
import argparse
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from cluster import BEAT, LEASE, Cluster, until  # noqa: E402
from faults import FAULTS, Chaos  # noqa: E402
from load import Load  # noqa: E402
from mended import MENDED  # noqa: E402
import outside  # noqa: E402, F401: its faults

END_SECONDS = 240  # until everything that was accepted has ended, once the faults are over
MARKS = ("<!-- chaos: begin -->", "<!-- chaos: end -->")


def memory_group(directory):
    """A cgroup of 32 MiB for tasks that are to run out of memory; None where there cannot be one."""
    for base, limit in (("/sys/fs/cgroup/memory", "memory.limit_in_bytes"),
                        ("/sys/fs/cgroup", "memory.max")):
        group = Path(base) / f"sje-chaos-{os.getpid()}"
        try:
            group.mkdir()
            (group / limit).write_text(str(32 << 20))
        except OSError:
            if group.exists():
                group.rmdir()
            continue
        (directory / "memory").symlink_to(group)
        return group
    return None


def small_disk(node):
    """A disk of its own for one worker, seen by this run alone; False where that is not allowed."""
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2g,mode=755", "none", node.work],
                          capture_output=True)
    node.small_disk = done.returncode == 0 and os.environ.get("SJE_CHAOS_MOUNTS") == "1"
    if node.small_disk:
        node.points.mkdir()
    return node.small_disk


def loop_disk(node):
    """One that can be frozen. Like the small one it goes with the run."""
    image = node.dir / "disk"
    with open(image, "wb") as f:
        f.truncate(2 << 30)
    node.loop_disk = os.environ.get("SJE_CHAOS_MOUNTS") == "1" and all(
        subprocess.run(command, capture_output=True).returncode == 0 for command in (
            ("mkfs.ext4", "-q", "-O", "^has_journal", image),
            ("mount", "-o", "loop", image, node.work)))
    if node.loop_disk:
        node.points.mkdir()
    else:
        image.unlink()


def chosen(only):
    """The faults of this run, by the beginnings of their names; without: all that must be stood."""
    if not only:
        return [f for f in FAULTS if f.needs is None or f.needs in MENDED]
    for name in only:
        if not any(f.name.startswith(name) for f in FAULTS):
            sys.exit(f"no fault begins with {name!r}")
    return [f for f in FAULTS if any(f.name.startswith(name) for name in only)]


def settle(cluster, patience):
    """Until nothing is under way any more; what is then still there."""
    def open_tasks():
        return cluster.query("select count(*) from task where state < 5")[0][0]

    def all_up():
        return all(cluster.up(m) == len(cluster.workers) for m in cluster.managers)

    left = []
    for condition, text in ((lambda: open_tasks() == 0, "tasks have not ended"),
                            (all_up, "a manager does not see every worker UP")):
        try:
            until(condition, END_SECONDS * patience, text)
        except AssertionError:
            left.append(text)
    queues = {}

    def empty():
        queues.clear()
        queues.update(cluster.queues())
        return not any(queues.values())
    try:
        until(empty, 60, "queues are empty")
    except AssertionError:
        pass
    def processes():
        return {p: n.name for n in cluster.workers for p in n.family()} | {
            p: "nobody" for p in cluster.strays()}
    try:
        until(lambda: not processes(), 30, "no shim is left")
    except AssertionError:
        left += [f"process {p} of {name} is left" for p, name in processes().items()]
    return {"queues": dict(queues), "left": left}


def table(faults, only=False):
    """Lines of a Markdown table: fault, how often, what became of it. only: of what was done."""
    of = defaultdict(list)
    for f in faults:
        of[f["name"]].append(f)
    yield "| fault | injected | works again after: median, longest |"
    yield "|---|---|---|"
    for name in (f.name for f in FAULTS if f.name in of or not only):
        done = [f for f in of[name] if f["injected"]]
        times = [f["recovered"] for f in done if f["recovered"] is not None]
        missed = len(of[name]) - len(done)
        text = f"{statistics.median(times):.1f} s, {max(times):.1f} s" if times else "–"
        if len(times) < len(done):
            text += f"; not in time: {len(done) - len(times)}"
        yield f"| {name} | {len(done)}" + (f" (+{missed} not reached)" if missed else "") + \
            f" | {text} |"


def write_report(path, options, faults, verdict, seconds):
    begun = sorted(f["at"] for f in faults)
    pauses = [b - a for a, b in zip(begun, begun[1:])]
    text = "\n".join([
        MARKS[0], "",
        f"`make chaos CHAOS_SECONDS={options.seconds:.0f} SEED={options.seed}`: {seconds:.0f} s at "
        f"{options.rate:.0f} tasks a second, lease {LEASE} s, beat {BEAT} s; never longer than "
        f"{max(pauses, default=0) / 1000:.1f} s without a new fault, so several were going on at a "
        "time, also while one of them was timed.", "",
        "What the checker counted: " + verdict.stdout.strip().splitlines()[-1] + ". Violations: " +
        str(sum(line.startswith("VIOLATION") for line in verdict.stdout.splitlines())) + ".", "",
        *table(faults), "", MARKS[1]])
    old = Path(path).read_text()
    before, _, rest = old.partition(MARKS[0])
    Path(path).write_text(before + text + rest.partition(MARKS[1])[2])


def arguments():
    p = argparse.ArgumentParser(description=__doc__,
                                formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("directory", type=Path)
    p.add_argument("seconds", type=float)
    p.add_argument("--bin", required=True)
    p.add_argument("--mark", required=True, type=Path)
    p.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    p.add_argument("--managers", type=int, default=3)
    p.add_argument("--rate", type=float, default=30, help="tasks a second")
    p.add_argument("--short", action="store_true", help="cheap faults, quickly one after the other")
    p.add_argument("--only", type=lambda text: [x.strip() for x in text.split(",")], default=[],
                   metavar="NAME,…", help="faults whose names begin so, also those that are not stood yet")
    p.add_argument("--long", type=float, default=0, metavar="SHARE",
                   help="share of the commands that last one to four leases")
    p.add_argument("--patience", type=float, default=1, metavar="FACTOR",
                   help="of the limits within which things must come right")
    p.add_argument("--table", help="a document whose chaos section is to be replaced")
    return p.parse_args()


def main():
    o = arguments()
    faults = chosen(o.only)
    needs = MENDED | {f.needs for f in faults}
    print(f"chaos: seed {o.seed}, {o.seconds:.0f} s, evidence in {o.directory}", flush=True)
    o.directory = o.directory.resolve()
    (o.directory / "locks").mkdir(parents=True)
    random.seed(o.seed)
    (o.directory / "rules.json").write_text(json.dumps({"strict": "returned" in needs}))
    mark = o.directory / "mark"  # so every process of a task can be told from all others
    shutil.copy(o.mark, mark)
    group = memory_group(o.directory)
    cluster, begin = Cluster(o.directory, Path(o.bin).resolve(), o.seed, o.managers), time.monotonic()
    try:
        if os.environ.get("SJE_CHAOS_MOUNTS") == "1":
            small_disk(cluster.workers[1])
            if "keeper" in needs:
                loop_disk(cluster.workers[0])
        cluster.start()
        load = Load(cluster, mark, o.seed, o.rate, long=o.long,
                    detach=0 if "strays" not in needs else 0.3 if o.only else 0.03)
        load.start()
        chaos = Chaos(cluster, load, o.seed, o.short, faults, o.patience)
        begin = time.monotonic()
        chaos.run(o.seconds, (1.5, 3) if o.short else (4, 9))
        seconds = time.monotonic() - begin
        print(f"chaos: {len(chaos.done)} faults, {load.counts}; waiting for the rest", flush=True)
        cluster.heal()
        load.stop()
        (o.directory / "end.json").write_text(json.dumps(settle(cluster, o.patience)))
        cluster.dump()
    finally:
        cluster.stop()
        (o.directory / "exits.json").write_text(json.dumps(cluster.exits))
        if group:
            group.rmdir()
    verdict = subprocess.run([sys.executable, Path(__file__).parent / "checker.py", o.directory],
                             capture_output=True, text=True)
    print("\n".join(table(chaos.done, o.only)))
    print(verdict.stdout + verdict.stderr, end="")
    if o.table:
        write_report(o.table, o, chaos.done, verdict, seconds)
    print(f"chaos: seed {o.seed}: {'no violation' if verdict.returncode == 0 else 'VIOLATED'}")
    return verdict.returncode


if __name__ == "__main__":
    sys.exit(main())
