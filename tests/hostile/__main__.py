"""Runs the cases in child processes, and writes the table of what became of them."""

import argparse
import contextlib
import json
import math
import os
import select
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from tests.hostile import directed
from tests.hostile.readers import READERS

WAIT = 60.0  # seconds for one case, on whatever machine; and for a child to begin
BEGIN = 300.0


def planned(cases: int, only: list[str]) -> list[tuple[str, int]]:
    """The cases of each reader: first all that were written for it, then as many changes as its share gives."""
    readers = [reader for reader in READERS if not only or reader.name in only]
    whole = sum(reader.share for reader in readers)
    plan = []
    for reader in readers:
        count = max(len(directed.of(reader.name)), math.ceil(cases * reader.share / whole))
        plan += [(reader.name, i) for i in range(count)]
    return plan


def ran(plan: list[tuple[str, int]], seed: int) -> list[dict[str, Any]]:
    """What became of each case. A child that hangs or dies is followed by another, which goes on after that case."""
    found: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="hostile-") as folder:
        file = Path(folder) / "plan.json"
        file.write_text(json.dumps(plan))
        while len(found) < len(plan):
            found += part(file, len(found), plan, seed, folder)
    return found


def part(file: Path, start: int, plan: list[tuple[str, int]], seed: int, folder: str) -> list[dict[str, Any]]:
    words = [sys.executable, "-m", "tests.hostile.child", str(file), str(start), str(seed)]
    environment = {**os.environ, "TMPDIR": folder, "JAX_PLATFORMS": "cpu", "PYTHONWARNINGS": "ignore"}
    environment["JAX_COMPILATION_CACHE_DIR"] = str(Path(folder) / "programs")
    errors = open(Path(folder) / "errors", "w+b")  # noqa: SIM115
    child = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=errors, env=environment, cwd=ROOT)
    assert child.stdout is not None
    found: list[dict[str, Any]] = []
    began, rest, wait = False, b"", BEGIN
    with contextlib.closing(errors), child:
        while True:
            ready = select.select([child.stdout], [], [], wait)[0]
            piece = os.read(child.stdout.fileno(), 2**16) if ready else b""
            *lines, rest = (rest + piece).split(b"\n")
            for line in map(json.loads, lines):
                began, wait = "how" not in line, WAIT if "how" not in line else BEGIN
                if "how" in line:
                    found.append(line)
                    if line["how"] == "fault":
                        name, i = plan[start + len(found) - 1]
                        print(f"{name}, case {i} ({line['what']}): {line['said']}", file=sys.stderr, flush=True)
            if piece:
                continue
            child.kill()
            child.wait()
            if began:
                said = f"hangs for {WAIT:g} s" if not ready else f"ends the process with {child.returncode}"
                name, i = plan[start + len(found)]
                print(f"{name}, case {i}: {said}", file=sys.stderr, flush=True)
                found.append({"how": "fault", "said": said, "what": "", "seconds": WAIT, "mib": 0})
            elif child.returncode:
                errors.seek(0)
                raise RuntimeError(f"the child ended before a case: {errors.read()[-3000:].decode(errors='replace')}")
            return found


ROOT = Path(__file__).parents[2]


def table(plan: list[tuple[str, int]], found: list[dict[str, Any]]) -> str:
    lines = ["| reader | cases | of them written | refused | loaded | faults | most seconds | most MiB |"]
    lines += ["|---|---:|---:|---:|---:|---:|---:|---:|"]
    for name in [*dict.fromkeys(name for name, _ in plan), "all"]:
        mine = [each for (whose, _), each in zip(plan, found, strict=True) if name in (whose, "all")]
        count = Counter(each["how"] for each in mine)
        special = sum(i < len(directed.of(whose)) for whose, i in plan if name in (whose, "all"))
        most = max(each["seconds"] for each in mine), max(each["mib"] for each in mine)
        cells = [len(mine), special, count["refused"], count["loaded"], count["fault"], f"{most[0]:.1f}", most[1]]
        lines.append("| " + " | ".join(map(str, [name, *cells])) + " |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser("python -m tests.hostile", description=__doc__)
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", action="append", default=[], metavar="READER")
    parser.add_argument("--all", action="store_true", help="say of every case how it went")
    options = parser.parse_args()
    plan, began = planned(options.cases, options.only), time.monotonic()
    found = ran(plan, options.seed)
    for (name, i), each in zip(plan, found, strict=True):
        if options.all:
            print(f"{name}, case {i} ({each['what']}): {each['how']}: {each['said']}", file=sys.stderr)
    print(table(plan, found))
    print(f"\n{len(plan)} cases in {time.monotonic() - began:.0f} s.", file=sys.stderr)
    return int(any(each["how"] == "fault" for each in found))


if __name__ == "__main__":
    sys.exit(main())
