"""Fails on purpose: one of its records is not a number, and the task that meets it raises."""
from pyspark.sql import SparkSession


def parse(text):
    if not text.isdigit():
        raise ValueError(f"not a number: {text!r}")
    return int(text)


if __name__ == "__main__":
    spark = SparkSession.builder.appName("failing").getOrCreate()
    records = [str(n) for n in range(100)] + ["forty-two"]
    print(spark.sparkContext.parallelize(records, 4).map(parse).sum())
