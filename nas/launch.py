"""The command that launches a search: flags in, a progress bar while it runs, results and what to type next."""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from nas import config
from nas.errors import RunError, UsageError
from nas.progress import Bar

if TYPE_CHECKING:
    from nas.job import Outcome


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status 0; 1 for a run that failed, 2 for arguments that cannot be used, 130 for Ctrl-C."""
    try:
        data, resume = config.parse(list(sys.argv[1:] if argv is None else argv))
        with Bar() as bar:
            from nas import job

            outcome = job.search(data, resume, bar)
        _print(outcome)
        return 0
    except (UsageError, RunError) as error:
        print(f"run_search.py: error: {' '.join(str(error).split())}", file=sys.stderr)
        return error.exit_status
    except KeyboardInterrupt as stop:
        print(f"\n{stop}" if str(stop) else "Interrupted before the run began.", file=sys.stderr)
        return 130


def _print(outcome: "Outcome") -> None:
    from nas.output import render
    from nas.query import IDENTITY

    by = outcome.objective
    if outcome.best:
        said = "validation error in the search" if by == "error" else f"{by} (least is best)"
        print(f"\nBest architectures of {outcome.name}, by {said}:\n")
        columns = dict.fromkeys(("architecture", "trial", by, "error", "test_error", "macs", "params"))
        print(render(outcome.best, columns, "table"))
    if outcome.finals:
        print("Fully trained (`test_error` is measured once, after the last step):\n")
        rows = [{"role": row["role"], **{k: v for k, v in row.items() if k != "role"}} for row in outcome.finals]
        columns = ("role", "architecture", "standalone_error", "test_error", "macs", "params")
        print(render(rows, columns, "table"))
    where, first = config.store_flag(outcome.store), (outcome.best or outcome.finals)[0][IDENTITY[0]]
    print(f"All of it is in {outcome.store}. Ask it with:\n")
    front = ",".join(dict.fromkeys((by, "macs")))
    asked = (f"nas top {outcome.name} --limit 10", f"nas pareto {outcome.name} --objectives {front}")
    for command in (*(asked if outcome.best else ()), f"nas show {first}", f"nas export {first} --out best/"):
        print(f"  {command}{where}")
