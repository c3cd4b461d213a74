"""The dependency of pi.py."""
import random


def hits(samples, seed):
    """How many of that many random points of the unit square lie inside the circle."""
    rng = random.Random(seed)
    return sum(rng.random() ** 2 + rng.random() ** 2 <= 1 for _ in range(samples))
