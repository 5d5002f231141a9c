"""The command that launches a search: flags in, a progress bar while it runs, results and what to type next."""

import shlex
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from nas import config, output
from nas.errors import Interrupted, RunError, UsageError
from nas.interrupts import ended_by_sigterm
from nas.progress import Bar

if TYPE_CHECKING:
    from nas.job import Outcome


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status 0; 1 for a run that failed, 2 for arguments that cannot be used, 130 for Ctrl-C and SIGTERM."""
    output.write_what_can_be_written()
    outcome = None
    try:
        data, resume = config.parse(list(sys.argv[1:] if argv is None else argv))
        with Bar() as bar, ended_by_sigterm():
            from nas import job

            outcome = job.search(data, resume, bar)
        _print(outcome)
        return 0
    except (UsageError, RunError) as error:
        print(f"run_search.py: error: {' '.join(str(error).split())}", file=sys.stderr)
        return error.exit_status
    except KeyboardInterrupt as stop:
        said = "Interrupted before the run began." if outcome is None else "Interrupted; the run is finished."
        print(f"\n{stop}" if isinstance(stop, Interrupted) else said, file=sys.stderr)
        return 130


def _print(outcome: "Outcome") -> None:
    by = outcome.objective
    if outcome.best:
        said = "validation error in the search" if by == "error" else f"{by} (least is best)"
        print(f"\nBest architectures of {outcome.name}, by {said}:\n")
        columns = dict.fromkeys(("architecture", "trial", by, "error", "test_error", "macs", "params"))
        print(output.render(outcome.best, columns, "table"))
    if outcome.finals:
        print("Fully trained (`test_error` is measured once, after the last step):\n")
        rows = [{"role": row["role"], **{k: v for k, v in row.items() if k != "role"}} for row in outcome.finals]
        columns = ("role", "architecture", "standalone_error", "test_error", "macs", "params")
        print(output.render(rows, columns, "table"))
    print(f"All of it is in {outcome.store}. Ask it with:\n")
    where = config.store_flag(outcome.store)
    for command in commands(outcome):
        print(f"  {command}{where}")


def commands(outcome: "Outcome") -> list[str]:
    """What can be asked of the run, as it is typed."""
    run, (first, *_) = shlex.quote(outcome.name), (outcome.best or outcome.finals)
    found = []
    if outcome.best:
        found.append(f"nas top {run} --limit 10")
        if first.get("macs") is not None:
            front = ",".join(dict.fromkeys((outcome.objective, "macs")))
            found.append(f"nas pareto {run} --objectives {front}")
    found.append(f"nas show {first['architecture']}")
    if outcome.trained:
        found.append(f"nas export {outcome.trained} --out best/")
    return found
