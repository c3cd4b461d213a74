"""Estimates pi by throwing darts. Its second module, sampling.py, comes along as a dependency and is
used on the executors.

    --samples N    darts in all    --parts N    tasks    --seed N    where the random numbers begin
"""
import argparse
import json
import os
from operator import add
from pathlib import Path

from pyspark.sql import SparkSession

import sampling


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--samples", type=int, default=400_000)
    p.add_argument("--parts", type=int, default=8)
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("label", nargs="*", help="echoed in the result")
    a = p.parse_args()

    spark = SparkSession.builder.appName("pi").getOrCreate()
    each = a.samples // a.parts
    hits = (spark.sparkContext.parallelize(range(a.parts), a.parts)
            .map(lambda part: sampling.hits(each, a.seed + part)).reduce(add))
    spark.stop()
    result = {"pi": 4 * hits / (each * a.parts), "samples": each * a.parts, "label": a.label}
    print(json.dumps(result))
    if "SJE_OUTPUT" in os.environ:
        Path(os.environ["SJE_OUTPUT"]).write_text(json.dumps(result))


if __name__ == "__main__":
    main()
