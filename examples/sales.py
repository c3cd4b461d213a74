"""Spark SQL over a CSV file that comes along as a dependency: revenue by region and month.

    --year Y     which year (2024)
    CSV          its name, as under "dependencies" but without the directory
"""
import argparse
import json
import os
from pathlib import Path

from pyspark import SparkFiles
from pyspark.sql import SparkSession

QUERY = """
    SELECT region, month(day) AS month, count(*) AS orders,
           CAST(sum(quantity * price) AS DECIMAL(12, 2)) AS revenue
    FROM sales WHERE year(day) = {year}
    GROUP BY region, month(day) ORDER BY region, month
"""


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--year", type=int, default=2024)
    p.add_argument("csv")
    a = p.parse_args()

    spark = SparkSession.builder.appName("sales").getOrCreate()
    sales = spark.read.csv(f"file://{SparkFiles.get(a.csv)}", header=True,
                           schema="day DATE, region STRING, product STRING, quantity INT, price DECIMAL(8, 2)")
    sales.createOrReplaceTempView("sales")
    rows = spark.sql(QUERY, year=a.year).collect()
    spark.stop()
    for row in rows:
        print(f"{row.region:<6} {row.month:>2} {row.orders:>5} {row.revenue:>12}")
    if "SJE_OUTPUT" in os.environ:
        Path(os.environ["SJE_OUTPUT"]).write_text(json.dumps({"rows": [
            {"region": r.region, "month": r.month, "orders": r.orders, "revenue": str(r.revenue)}
            for r in rows]}))


if __name__ == "__main__":
    main()
