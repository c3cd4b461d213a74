"""The attackers, by name. Each runs in a process of its own, of low priority: on another machine it would
take no processor from the system.

    attackers.py NAME FILE SECONDS SEED    FILE: see Target.describe()

It prints one JSON object: what it did, and what was answered.
"""
import json
import os
import random
import sys
import time
from pathlib import Path

import by_broker
import by_http

ATTACKERS = {**by_http.ATTACKERS, **by_broker.ATTACKERS}


class Attack:
    """What an attacker knows, how long it may go on, and what it counts."""

    def __init__(self, known, seconds, seed):
        self.known, self.rng, self.done = known, random.Random(seed), {}
        self.deadline = time.monotonic() + seconds

    def going(self):
        return time.monotonic() < self.deadline

    def left(self):
        return max(0.05, self.deadline - time.monotonic())

    def count(self, what, n=1):
        self.done[str(what)] = self.done.get(str(what), 0) + n

    def url(self):
        return self.rng.choice(self.known["urls"])


def main():
    name, path, seconds, seed = sys.argv[1:]
    os.nice(19)
    attack = Attack(json.loads(Path(path).read_text()), float(seconds), f"{seed} {name}")
    ATTACKERS[name](attack)
    print(json.dumps(attack.done))


if __name__ == "__main__":
    main()
