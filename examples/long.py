"""Runs for minutes, one short task after the other: something to watch and to cancel.

    --minutes M    how long (5)
"""
import argparse
import time

from pyspark.sql import SparkSession


def wait(part):
    time.sleep(1)
    return part


if __name__ == "__main__":
    p = argparse.ArgumentParser()
    p.add_argument("--minutes", type=float, default=5)
    a = p.parse_args()
    spark = SparkSession.builder.appName("long").getOrCreate()
    slots = spark.sparkContext.defaultParallelism
    parts = max(1, int(a.minutes * 60)) * slots
    print(spark.sparkContext.parallelize(range(parts), parts).map(wait).count(), flush=True)
    spark.stop()
