"""Counts the words of a text. Writes the most frequent ones, as JSON, to the file that SJE_OUTPUT names.

    --text PATH    the text; without it the novel in examples/data
    --top N        how many words to report (20)
    --parts N      into how many tasks each stage is cut (12)
    --pace S       seconds that each task of the first stage takes at least, so that a person can watch
"""
import argparse
import json
import os
import re
import time
from operator import add
from pathlib import Path

from pyspark.sql import SparkSession

WORD = re.compile(r"[a-z]+(?:'[a-z]+)?")


def words_of(lines, pace):
    time.sleep(pace)
    for line in lines:
        yield from WORD.findall(line.lower())


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--text", default=str(Path(__file__).parent / "data" / "northanger-abbey.txt"))
    p.add_argument("--top", type=int, default=20)
    p.add_argument("--parts", type=int, default=12)
    p.add_argument("--pace", type=float, default=0)
    a = p.parse_args()

    spark = SparkSession.builder.appName("word count").getOrCreate()
    lines = spark.sparkContext.textFile(f"file://{Path(a.text).resolve()}", a.parts)  # Hadoop knows no %20
    words = lines.mapPartitions(lambda part: words_of(part, a.pace))
    counts = words.map(lambda word: (word, 1)).reduceByKey(add, a.parts).cache()

    result = {
        "text": Path(a.text).name,
        "words": counts.values().sum(),
        "distinct": counts.count(),
        "top": [{"word": w, "count": n}
                for w, n in counts.takeOrdered(a.top, key=lambda c: (-c[1], c[0]))],
    }
    spark.stop()
    print(f"{result['words']} words, {result['distinct']} different ones")
    if "SJE_OUTPUT" in os.environ:
        Path(os.environ["SJE_OUTPUT"]).write_text(json.dumps(result))


if __name__ == "__main__":
    main()
