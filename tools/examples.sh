#!/usr/bin/env bash
# Builds the Java examples against the Spark jars of the virtual environment:
#
#   examples.sh DIR      DIR/<application>.jar for each directory of examples/java
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=tools/proc.sh
. tools/proc.sh

OUT=$1
command -v javac >/dev/null || die "javac is missing; run tools/deps.sh test"
spark=$(printf '%s\n' .venv/lib/python3*/site-packages/pyspark/jars | head -n 1)
[ -d "$spark" ] || die "pyspark is missing; run tools/deps.sh run"

classpath="$spark/*"
for part in library application; do # the application is compiled against its library
    classes=$OUT/classes/$part
    rm -rf "$classes"
    mkdir -p "$classes"
    javac -Xlint:all,-classfile,-path,-processing --release 17 -cp "$classpath" -d "$classes" \
        examples/java/"$part"/*.java
    classpath=$classpath:$classes
done
jar --create --file "$OUT/textlib.jar" -C "$OUT/classes/library" .
jar --create --file "$OUT/letters.jar" -C "$OUT/classes/application" .
touch "$OUT/done"
