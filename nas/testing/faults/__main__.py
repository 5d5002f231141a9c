"""`python -m nas.testing.faults`: rounds, a line for each, and a table by fault."""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from nas.errors import RunError, UsageError, unknown
from nas.plain import whole
from nas.testing.faults.injuries import FAULTS, INTERRUPTED, Fault, possible
from nas.testing.faults.jobs import JOBS, prepare
from nas.testing.faults.ready import Ready, ready
from nas.testing.faults.rounds import Outcome, Rounds

CACHE = "JAX_COMPILATION_CACHE_DIR"


def table(outcomes: Sequence[Outcome]) -> str:
    lines = ["| fault | rounds | commands disturbed | equal | broken |", "|---|---:|---:|---:|---:|"]
    named = [fault.name for fault in FAULTS if any(each.fault == fault.name for each in outcomes)]
    for name in [*named, "all"]:
        mine = [each for each in outcomes if name in (each.fault, "all")]
        broken = sum(each.broken is not None for each in mine)
        cells = [name, len(mine), sum(each.stops for each in mine), len(mine) - broken, broken]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def chosen(only: Sequence[str]) -> list[Fault]:
    """Raises UsageError for a fault that there is not, or that this machine cannot do."""
    there = possible()
    for name in only:
        if name not in [fault.name for fault in FAULTS]:
            raise unknown("only", name, [fault.name for fault in FAULTS])
        if name not in [fault.name for fault in there]:
            needs = "Debian's package faketime" if name == "clock jumps" else "the right to mount"
            raise UsageError(f"only={name!r} needs {needs}, which this machine does not give")
    for fault in FAULTS:
        if fault not in there and not only:
            print(f"{fault.name}: left out, for this machine cannot do it", file=sys.stderr)
    return [fault for fault in there if not only or fault.name in only]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser("python -m nas.testing.faults", description=__doc__, allow_abbrev=False)
    parser.add_argument("--rounds", type=whole, default=20, metavar="N", help="how many (default: 20)")
    parser.add_argument(
        "--seed", type=whole, default=0, metavar="S", help="of the first; each has the next (default: 0)"
    )
    names = ", ".join(fault.name for fault in FAULTS)
    parser.add_argument("--only", action="append", default=[], metavar="FAULT", help=f"of {names}; may be repeated")
    parser.add_argument("--store", metavar="URL", help="a PostgreSQL server, on which rounds make schemas of their own")
    options = parser.parse_args(argv)
    try:
        if sys.platform != "linux":
            raise UsageError("faults are injected on Linux alone")
        with tempfile.TemporaryDirectory(prefix="nas-faults-") as folder:
            os.environ.setdefault(CACHE, f"{folder}/compiled")
            with ready() as process:
                return ran(Path(folder), options, process)
    except (UsageError, RunError) as error:
        print(f"nas.testing.faults: error: {error}", file=sys.stderr)
        return error.exit_status


def ran(folder: Path, options: argparse.Namespace, process: Ready) -> int:
    rounds = Rounds(folder, options.store, chosen(options.only), JOBS, process)
    outcomes, began = [], time.monotonic()
    prepare(folder / "files")
    status = 0
    try:
        for number in range(options.rounds):
            outcomes.append(rounds.run(options.seed + number))
            print(f"{number + 1}/{options.rounds}: {outcomes[-1].line}", file=sys.stderr, flush=True)
    except KeyboardInterrupt:  # many rounds take hours: what those so far have shown counts
        status = INTERRUPTED
    print(table(outcomes))
    print(f"\n{len(outcomes)} rounds in {time.monotonic() - began:.0f} s.", file=sys.stderr)
    return 1 if any(each.broken is not None for each in outcomes) else status


if __name__ == "__main__":
    sys.exit(main())
