"""Every space with every strategy: each pair is a small job, run by the words that a user would type.

A pair is refused where `nas search` refuses it before it has stored anything, and says why in one line. The pairs of a
space run one after another in a process of their own: programs that they share are compiled once, and a process that
dies takes one pair along.
"""

import contextlib
import dataclasses
import io
import itertools
import math
import multiprocessing
import pkgutil
import shlex
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from nas import registry
from nas.errors import UsageError, unknown
from nas.interrupts import INTERRUPTED
from nas.metrics import outer, seen
from nas.plain import shown

PRODUCT = "shufflenet+nas-fpn"
TRIALS = 6
NAME = "pair"  # of the run, in a store that has no other
CLASSES = "--task digits --max-images 64"
OBJECTS = "--task scenes --image-size 128 --max-images 24 --training.batch-size 4 --final.batch-size 4"
THIN = "--space.{0}blocks (1,2,1,1) --space.{0}widths (8,16,24,32) --space.{0}strides (2,2,2,2)"
THIN += " --space.{0}stem-width 4 --space.{0}last-width 16"
# Of each space the preset, and fields that make it smaller still: nearly all of the time goes to compiling.
TINY = {
    "shufflenet": "tiny --space.blocks (1,3) --space.widths (8,16) --space.strides (1,2) --space.stem-width 8"
    " --space.last-width 16",
    "nasbench201": "tiny --space.width 4",
    "darts": "tiny --space.width 4 --space.cells 3",
    "nasnet": "tiny --space.width 4 --space.cells 3",
    "binary": "tiny --space.width 4 --space.cells 3",
    "binary-width": "tiny --space.widths (4,8,8,16) --space.ratios (0.5,1)",
    "nas-fpn": "tiny --space.width 8",
    PRODUCT: f"tiny {THIN.format('backbone.')} --space.neck.width 8",
}
# So small that within the trials each strategy also learns from what it was told.
_WRITES = "--strategy.initial 3 --strategy.batch-size 2 --strategy.num-seeds 4 --strategy.draws 3 --strategy.memory 64"
_WRITES += " --strategy.predictor.members 1 --strategy.predictor.hidden 8 --strategy.predictor.steps 10"
_RUNGS = "--evaluator train --strategy.budgets (1,2) --strategy.eta 2"
SMALL = {
    "regularized-evolution": "--strategy.population-size 3 --strategy.tournament-size 2 --strategy.initial 3",
    "evolution": "--strategy.population-size 3 --strategy.num-parents 2 --strategy.num-mutations 1"
    " --strategy.num-crossovers 1",
    "nsga2": "--strategy.population-size 3 --strategy.num-children 3 --strategy.initial 3",
    "ppo": "--strategy.batch-size 3",
    "bayesian": "--strategy.initial 3 --strategy.num-candidates 64",
    "nao": _WRITES,
    **dict.fromkeys(("successive-halving", "hyperband", "asha"), _RUNGS),
    "bohb": f"{_RUNGS} --strategy.initial 2",
    "seminas": f"{_WRITES} --strategy.pool 60 --strategy.predictor.unlabelled 60",
}
QUICK = "--workers 0 --concurrency 2 --epochs 2 --baselines 0 --training.steps 2 --training.batch-size 8"
QUICK += " --final.steps 2 --final.batch-size 8"

ERROR = "nas: error: "  # how the line of one begins
PATIENCE = 10.0  # seconds in which a process ends that is told to

Outcome = Literal["ran", "refused", "failed"]


@dataclasses.dataclass(frozen=True)
class Result:
    space: str
    strategy: str
    outcome: Outcome
    command: str
    seconds: float = 0.0
    trials: int | None = None  # that were finished
    metric: str | None = None
    best: float | None = None  # of the trials
    why: str | None = None  # it was refused, or what failed


def spaces() -> tuple[str, ...]:
    return (*registry.ours("space"), PRODUCT)


def strategies() -> tuple[str, ...]:
    return registry.ours("strategy")


def chosen(field: str, names: str | None, known: Sequence[str], kind: str) -> list[str]:
    """The names of a list with commas, by default all. Raises UsageError for one that is neither ours nor a user's."""
    words = list(known) if names is None else [word.strip() for word in names.split(",")]
    for word in words:
        head = word.partition(":")[0] if kind == "space" else word
        if head not in known and not registry.factors(kind, word) and not registry.is_own(kind, word):
            raise unknown(field, word, known)
    return list(dict.fromkeys(words))


def words(space: str, strategy: str, trials: int = TRIALS, more: Sequence[str] = ()) -> list[str]:
    """What follows `nas search` for a pair; `more` comes last and so wins."""
    preset, *fields = TINY.get(space, "").split() or [""]
    named = f"{space}:{preset}" if preset else space
    detects = "nas-fpn" in space.replace(":", "+").split("+")
    found = ["--space", named, *fields, "--strategy", strategy, *SMALL.get(strategy, "").split()]
    found += [*QUICK.split(), "--trials", str(trials), *(OBJECTS if detects else CLASSES).split()]
    if strategy == "nsga2":
        found += ["--objectives", "ap,macs" if detects else "error,macs"]
    if space.partition(":")[0] == "nasnet":  # it has no shared weights
        found += ["--evaluator", "train"]
    return [*found, *more]


def run(space: str, strategy: str, folder: Path, trials: int = TRIALS, more: Sequence[str] = ()) -> Result:
    """Runs a pair in this process, with an empty folder for its store and files. Raises KeyboardInterrupt."""
    line = [*words(space, strategy, trials, more), "--name", NAME]
    command, began = pkgutil.resolve_name("nas.commands.cli:main"), time.monotonic()
    url = f"sqlite:///{folder / 'nas.db'}"
    said, status = io.StringIO(), 1
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        try:
            status = command(["search", *line, "--store", url])
        except Exception as error:  # what a user would see as a traceback
            said.write(f"\n{registry.told(error)}")
    if status == INTERRUPTED:
        raise KeyboardInterrupt
    result = Result(space, strategy, "failed", shlex.join(["nas", "search", *line]), time.monotonic() - began)
    last = _complaint(said.getvalue())
    if status == 0:
        return _of_store(result, url)
    stored = any(folder.iterdir())
    if status == 2 and not stored:
        return dataclasses.replace(result, outcome="refused", why=last)
    return dataclasses.replace(result, why=f"refused after it was stored: {last}" if status == 2 else last)


def _complaint(text: str) -> str:
    """The line of an error among those of progress; the last line where there is none."""
    lines = text.strip().splitlines() or [""]
    return next((line for line in reversed(lines) if line.startswith(ERROR)), lines[-1]).removeprefix(ERROR)


def _of_store(result: Result, url: str) -> Result:
    """What the store says of a job that says that it is done."""
    from nas.engine.record import measured
    from nas.store.sql import Store

    with Store(url) as store:
        stored = store.run(NAME)
        trials, finals = store.trials(stored.id), store.trials(stored.id, "final")
    finished = [trial for trial in trials if trial.state == "finished"]
    values = [measured(stored.objective, trial.measurements) for trial in finished]
    odd = [trial for trial in [*trials, *finals] if trial.state != "finished"]
    why = None
    if odd:
        why = f"trial {odd[0].number} is {odd[0].state}: {odd[0].error}"
    elif not values or not all(map(math.isfinite, values)):
        why = f"{outer(stored.objective)} of its trials is {values}"
    elif not finals:
        why = "nothing was trained from scratch"
    metric, best = seen(stored.objective, min(values)) if why is None else (outer(stored.objective), None)
    outcome: Outcome = "ran" if why is None else "failed"
    return dataclasses.replace(
        result, outcome=outcome, trials=len(finished), metric=metric, best=best, why=why and shown(why)
    )


def matrix(
    pairs: Sequence[tuple[str, str]],
    trials: int = TRIALS,
    more: Sequence[str] = (),
    limit: float = math.inf,
    heard: Callable[[Result], None] = lambda result: None,
) -> list[Result]:
    """The results of pairs of a space and a strategy, in their order, those of one space together; each is also heard
    as soon as it is known. A pair that takes more than `limit` seconds has failed."""
    results: list[Result] = []
    with tempfile.TemporaryDirectory(prefix="nas-matrix-", ignore_cleanup_errors=True) as scratch:
        for space, group in itertools.groupby(pairs, key=lambda pair: pair[0]):
            waiting = [strategy for _, strategy in group]
            while waiting:
                for result in _by_process(space, tuple(waiting), Path(scratch), trials, more, limit):
                    results.append(result)
                    waiting.remove(result.strategy)
                    heard(result)
    return results


def _by_process(
    space: str, names: tuple[str, ...], scratch: Path, trials: int, more: Sequence[str], limit: float
) -> Iterator[Result]:
    """Results as a process of its own finds them. If it dies, or is too slow, the last says so, and others are missing.

    It is begun anew rather than copied: a copy of a process with threads may wait for ever."""
    fresh = multiprocessing.get_context("spawn")
    ours, theirs = fresh.Pipe()
    process = fresh.Process(target=_child, args=(theirs, space, list(names), str(scratch), trials, list(more)))
    process.start()
    theirs.close()
    try:
        for name in names:
            began = time.monotonic()
            try:
                answered = ours.poll(None if math.isinf(limit) else limit)
                found = ours.recv() if answered else None
            except (EOFError, OSError):
                process.join()
                found = f"its process ended with status {process.exitcode}"
            if isinstance(found, Result):
                yield found
                continue
            why = found or f"it took more than {limit:g} seconds"
            command = shlex.join(["nas", "search", *words(space, name, trials, more)])
            yield Result(space, name, "failed", command, time.monotonic() - began, why=why)
            return
    finally:
        process.terminate()  # which a job hears, and tells its workers
        process.join(PATIENCE)
        process.kill()
        process.join()
        ours.close()


def _child(connection: Any, space: str, names: list[str], scratch: str, trials: int, more: list[str]) -> None:
    import jax

    # In these jobs compiling takes longer than running.
    jax.config.update("jax_disable_most_optimizations", True)
    with contextlib.suppress(KeyboardInterrupt):  # whoever waits heard it too
        for name in names:
            folder = Path(tempfile.mkdtemp(dir=scratch))
            connection.send(run(space, name, folder, trials, more))
            shutil.rmtree(folder, ignore_errors=True)


def check_trials(trials: int) -> None:
    if not 1 <= trials <= 1000:
        raise UsageError(f"trials={trials} must lie in 1..1000")
