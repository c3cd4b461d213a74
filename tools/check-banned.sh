#!/usr/bin/env bash
# Functions that the project does without: unbounded copies, parsers that hide errors, hidden state,
# blocking calls. Allocation belongs to internal/base.c; output and exit to the programs in cmd/.
set -euo pipefail
cd "$(dirname "$0")/.."

git ls-files -z --cached --others --exclude-standard -- '*.c' '*.h' '*.def' | python3 -c '
import re, sys

EVERYWHERE = """strcpy strcat sprintf vsprintf strncpy strncat stpcpy strtok strtok_r gets atoi atol
    atoll atof alloca system popen sleep usleep nanosleep rand srand random localtime gmtime ctime
    asctime tmpnam tempnam mktemp"""
NOT_IN_TESTS = "strtol strtoll strtoul strtoull"
BASE_ONLY = "malloc calloc realloc strdup strndup asprintf vasprintf"
CMD_ONLY = "printf vprintf puts putchar perror exit _exit"

def banned_in(path):
    words = EVERYWHERE if path.startswith("tests/") else EVERYWHERE + " " + NOT_IN_TESTS
    if path.startswith(("internal/", "pkg/", "api/")) and not path.startswith("internal/base."):
        words += " " + BASE_ONLY + " " + CMD_ONLY
    return re.compile(r"(?<![\w.>])(%s)\s*\(" % "|".join(words.split()))

# Comments and literals are blanked, so that prose may name the functions.
NOISE = re.compile(r"/\*.*?\*/|//[^\n]*|\"(?:\\.|[^\"\\\n])*\"", re.S)
found = count = 0
for path in sys.stdin.read().split("\0")[:-1]:
    count += 1
    text = NOISE.sub(lambda m: re.sub(r"[^\n]", " ", m[0]), open(path, encoding="utf-8").read())
    banned = banned_in(path)
    for number, line in enumerate(text.split("\n"), 1):
        for hit in banned.finditer(line):
            print(f"banned: {path}:{number}: {hit[1]}()", file=sys.stderr)
            found += 1
if found:
    sys.exit(1)
print(f"banned: none in {count} files")
'
