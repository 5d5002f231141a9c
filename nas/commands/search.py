"""The command that launches a search: flags in, a progress bar while it runs, results and what to type next."""

import functools
import sys
from collections.abc import Sequence

from nas import config, hosts, registry
from nas.errors import Answered, Interrupted, RunError, UsageError, no_device
from nas.interrupts import INTERRUPTED, heard
from nas.report import output
from nas.report.progress import Bar

PROGRAM = "run_search.py"


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status 0; 1 for a run that failed, 2 for arguments that cannot be used, 130 for Ctrl-C and SIGTERM."""
    output.write_what_can_be_written()
    try:
        return output.say(PROGRAM, answer(list(sys.argv[1:] if argv is None else argv), PROGRAM))
    except (UsageError, RunError) as error:
        return output.complain(PROGRAM, error)
    except Answered:  # --help has printed itself
        return 0
    except (SystemExit, GeneratorExit) as error:  # of a part of the user's own
        return output.complain(PROGRAM, UsageError(registry.told(error)))
    except KeyboardInterrupt as stop:
        output.tell(f"\n{stop}")
        return INTERRUPTED
    except Exception as error:
        return output.complain(PROGRAM, no_device(error))


def _complain(program: str, bar: Bar, said: str) -> None:
    """The last words of a process that ends in the midst of it all."""
    bar.__exit__()
    output.complain(program, RunError(said))


def answer(argv: Sequence[str], program: str = "nas search") -> str:
    """Runs the job of a command line, and says what it found. Raises Interrupted, which says how to go on."""
    outcome = None
    try:
        with heard():
            data, resume = config.parse(argv, program=program)
            with Bar() as bar, hosts.joined(data, bar.say, functools.partial(_complain, program, bar)) as number:
                if number:
                    from nas.job.helping import help_train

                    return help_train(data, bar)
                from nas.job import run as job
                from nas.report.outcome import told

                outcome = job.search(data, resume, bar)
            return told(outcome)
    except KeyboardInterrupt as stop:
        if isinstance(stop, Interrupted):
            raise
        said = "Interrupted before the run began." if outcome is None else "Interrupted; the run is finished."
        raise Interrupted(said) from None
