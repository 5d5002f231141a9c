"""The command that launches a search: flags in, a progress bar while it runs, results and what to type next."""

import shlex
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from nas import commands, config, output
from nas.errors import Interrupted, RunError, UsageError
from nas.interrupts import heard
from nas.progress import Bar

if TYPE_CHECKING:
    from nas.job import Outcome

PROGRAM = "run_search.py"


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status 0; 1 for a run that failed, 2 for arguments that cannot be used, 130 for Ctrl-C and SIGTERM."""
    output.write_what_can_be_written()
    outcome = None
    try:
        with heard():
            data, resume = config.parse(list(sys.argv[1:] if argv is None else argv))
            with Bar() as bar:
                from nas import job

                outcome = job.search(data, resume, bar)
            return output.say(PROGRAM, told(outcome))
    except (UsageError, RunError) as error:
        return output.complain(PROGRAM, error)
    except KeyboardInterrupt as stop:
        said = "Interrupted before the run began." if outcome is None else "Interrupted; the run is finished."
        output.tell(f"\n{stop}" if isinstance(stop, Interrupted) else said)
        return 130


def told(outcome: "Outcome") -> str:
    """What a finished job found, and what can be asked of it next."""
    by, text = outcome.objective, ""
    if outcome.best:
        said = "validation error in the search" if by == "error" else f"{by} (least is best)"
        text += f"\nBest architectures of {outcome.name}, by {said}:\n\n"
        columns = dict.fromkeys(("architecture", "trial", by, "error", "test_error", "macs", "params"))
        text += output.render(outcome.best, columns, "table") + "\n"
        if outcome.best[0][by] > min(row[by] for row in outcome.best):
            text += "The first is where the search has ended, and what it found; the others lay on its way.\n\n"
    if outcome.finals:
        text += "Fully trained (`test_error` is measured once, after the last step):\n\n"
        rows = [{"role": row["role"], **{k: v for k, v in row.items() if k != "role"}} for row in outcome.finals]
        columns = ("role", "architecture", "standalone_error", "test_error", "macs", "params")
        text += output.render(rows, columns, "table") + "\n"
    asked = "".join(f"  {commands.ask(words, outcome.store)}\n" for words in questions(outcome))
    return f"{text}All of it is in {outcome.store}. Ask it with:\n\n{asked}"


def questions(outcome: "Outcome") -> list[str]:
    """What can be asked of the run, as the words after `nas`."""
    run, rows = shlex.quote(outcome.name), outcome.best or outcome.finals
    found = [f"top {run} --limit 10"]
    if outcome.best and rows[0].get("macs") is not None:
        front = ",".join(dict.fromkeys((outcome.objective, "macs")))
        found.append(f"pareto {run} --objectives {front}")
    if rows:
        found.append(f"show {rows[0]['architecture']}")
    if outcome.trained:
        found.append(f"export {outcome.trained} --run {run} --out {shlex.quote(f'{outcome.name}-best/')}")
    return found
