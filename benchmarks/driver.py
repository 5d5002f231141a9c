"""What a search takes beside its evaluations: of a trial, of a resume, and how busy it keeps many workers.

    python benchmarks/driver.py cost                          a job on a table, by strategy; about 2 minutes on 2 cores
    python benchmarks/driver.py resume                        jobs that are killed near their end, by size; 3 minutes
    python benchmarks/driver.py busy --trials 10000           64 workers of a simulated clock; half a minute a row
A job on a table evaluates in no time: what it takes is what the loop, the strategy and the store take. `cost` is the
difference between a large job and one of a tenth, by the trials that it has more: what starts and compiles drops out.
Times of the processor are of the job's process with all its threads, and hardly depend on what else the machine does.

`busy` runs the real loop and store. Evaluations take 0.2 to 1 s, by a draw that belongs to the architecture, on a clock
that is put forward while the loop waits; what loop, strategy and store take passes on it too: the processor's time, or
with `--clock` all time, in which others may have the machine. The share is of the time from the first trial to the last
report, in which the last trials leave workers idle.
"""

import argparse
import heapq
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import report

from nas import config
from nas.engine import loop
from nas.engine.record import Record
from nas.errors import RunError, UsageError
from nas.evaluators.base import Evaluation, Job, Report
from nas.store.sql import Store
from nas.streams import SEARCH, stream
from nas.tables.table import Column, make_table, write_table
from spaces.base import every

ROOT = Path(__file__).resolve().parent.parent
SHORT, LONG = 0.2, 1.0  # seconds of an evaluation


def main() -> None:
    options = _options()
    found: dict[str, Any] = {"machine": report.machine(("jax", "jaxlib", "numpy", "sqlalchemy"))}
    text, found[options.what] = {"cost": cost, "resume": resumed, "busy": busy}[options.what](options)
    print(report.line(found["machine"]) + "\n\n" + text)
    report.write(options.json, found)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["cost", "resume", "busy"])
    parser.add_argument("--trials", type=int, nargs="+", default=[5000, 10_000], help="of jobs [5000 10000]")
    parser.add_argument("--strategies", default="random,regularized-evolution", help="[random,regularized-evolution]")
    parser.add_argument("--concurrency", type=int, nargs="+", default=[], help="[8; of busy 64 128 192]")
    parser.add_argument("--workers", type=int, default=64, help="of busy [64]")
    parser.add_argument("--space", default="shufflenet", help="of busy [shufflenet]: in a small one many trials repeat")
    parser.add_argument("--clock", action="store_true", help="of busy: count waits for the disk and others too")
    parser.add_argument("--unordered", action="store_true", help="of busy: tell reports as they arrive")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all numbers here")
    return parser.parse_args()


def table(folder: Path) -> Path:
    """Made errors for all cells of NAS-Bench-201."""
    space = config.build_space("nasbench201")
    rows, random = every(space), np.random.default_rng(0)
    assert rows is not None
    error = 0.9 - 0.1 * (rows >= 2).sum(1) + random.normal(0, 0.02, len(rows))
    costs = {"macs": 1e6 * (1 + rows.sum(1)), "params": 1e4 * (1 + rows.max(1))}
    columns = {"made_valid_error_e12": Column("error", "share", "made", "valid", 12)}
    columns |= {name: Column("cost", name) for name in costs}
    values = {"made_valid_error_e12": error.clip(0, 1), **costs}
    write_table(folder / "made.npz", make_table("made", "nasbench201", "made", columns, rows, values))
    return folder / "made.npz"


# Whole jobs.


def words(folder: Path, strategy: str, trials: int, concurrency: int) -> list[str]:
    job = ["--space", "nasbench201", "--task", f"table:{folder / 'made.npz'}", "--strategy", strategy]
    job += ["--trials", str(trials), "--concurrency", str(concurrency), "--workers", "0"]
    return [sys.executable, str(ROOT / "run_search.py"), *job, "--name", "it", "--store", f"sqlite:///{folder}/nas.db"]


def timed(command: list[str], folder: Path) -> tuple[float, float]:
    """Seconds of the clock and of the processor."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.perf_counter() - began, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def cost(options: argparse.Namespace) -> tuple[str, list[dict]]:
    found = []
    for strategy in options.strategies.split(","):
        for concurrency in options.concurrency or [8]:
            for trials in options.trials:
                both = []
                for size in (trials // 10, trials):
                    with tempfile.TemporaryDirectory() as folder:
                        table(Path(folder))
                        both.append(timed(words(Path(folder), strategy, size, concurrency), Path(folder)))
                more = trials - trials // 10
                clock, processor = (1000 * (large - small) / more for small, large in zip(*both, strict=True))
                row = {"strategy": strategy, "concurrency": concurrency, "trials": trials}
                found.append({**row, "clock_ms": clock, "processor_ms": processor, "whole_seconds": both[1][0]})
                report.say(f"{found[-1]}")
    return _table(found, clock_ms="{:.2f}", processor_ms="{:.2f}", whole_seconds="{:.1f}"), found


def resumed(options: argparse.Namespace) -> tuple[str, list[dict]]:
    found = []
    for strategy in options.strategies.split(","):
        for trials in options.trials:
            with tempfile.TemporaryDirectory() as name:
                folder = Path(name)
                table(folder)
                command = words(folder, strategy, trials, 8)
                done = killed(command, folder, int(0.95 * trials))
                again = [*command[:2], "--resume", "it", *command[-2:]]
                clock, processor = timed(again, folder)
            found.append({"strategy": strategy, "trials": trials, "reported": done, "clock_seconds": clock})
            found[-1] |= {"processor_seconds": processor, "processor_ms_a_trial": 1000 * processor / trials}
            report.say(f"{found[-1]}")
    forms = {"clock_seconds": "{:.1f}", "processor_seconds": "{:.1f}", "processor_ms_a_trial": "{:.2f}"}
    return _table(found, **forms), found


def killed(command: list[str], folder: Path, after: int) -> int:
    """Starts a job, and kills it when so many trials are reported. How many were."""
    job = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    done = 0
    while job.poll() is None and done < after:
        time.sleep(0.05)
        done = _reported(folder)
    job.send_signal(signal.SIGKILL)
    job.wait()
    return _reported(folder)


def _reported(folder: Path) -> int:
    try:
        with Store(f"sqlite:///{folder}/nas.db") as store:
            return sum(row["trials"] for row in store.runs())
    except (UsageError, RunError):  # it is not there yet
        return 0


# The loop with workers that sleep.


class Simulated:
    """An executor of workers whose evaluations take the time that a draw says, on a clock that is put forward while the
    loop waits. What the loop itself takes passes on that clock as `passing` measures it."""

    def __init__(self, workers: int, passing: Callable[[], float]):
        self._passing, self._began, self._skipped = passing, passing(), 0.0
        self._free = [0.0] * workers  # when each has done what it was given
        self._ends: list[tuple[float, int, Report]] = []
        self.busy = 0.0

    def now(self) -> float:
        return self._passing() - self._began + self._skipped

    def submit(self, job: Job) -> None:
        draw = np.random.default_rng(job.encoding)
        seconds, error = draw.uniform(SHORT, LONG), draw.uniform(0.05, 0.95)
        metrics = {"error": float(error), "macs": 1e6 * (1 + sum(job.encoding)), "params": 1e5}
        end = max(self.now(), heapq.heappop(self._free)) + seconds
        heapq.heappush(self._free, end)
        heapq.heappush(self._ends, (end, job.number, Report(job.number, Evaluation(metrics), None, seconds)))

    def wait(self) -> Report:
        end, _, report = heapq.heappop(self._ends)
        self._skipped += max(0.0, end - self.now())
        self.busy += report.seconds
        return report

    def ready(self) -> bool:
        return bool(self._ends) and self._ends[0][0] <= self.now()

    def close(self) -> None: ...


def busy(options: argparse.Namespace) -> tuple[str, list[dict]]:
    found = []
    for strategy in options.strategies.split(","):
        for concurrency in options.concurrency or [64, 128, 192]:
            row = {"strategy": strategy, "workers": options.workers, "concurrency": concurrency}
            found.append({**row, **simulated(options, strategy, options.trials[-1], concurrency)})
            report.say(f"{found[-1]}")
    return _table(found, simulated_seconds="{:.1f}", processor_ms_a_trial="{:.2f}", busy="{:.1%}"), found


def simulated(options: argparse.Namespace, strategy: str, trials: int, concurrency: int) -> dict[str, float]:
    space = config.build_space(options.space)
    search = loop.Search(
        config.build_strategy(strategy), space, (), stream(0, SEARCH), trials, concurrency, not options.unordered
    )
    with tempfile.TemporaryDirectory() as folder, Store(f"sqlite:///{folder}/nas.db", create=True) as store:
        how = {"space": options.space, "strategy": strategy, "task": "made", "code_version": "0", "seed": 0}
        record = Record(store, store.add_run(name="it", config={}, **how), space, 0, ("error",))
        workers = Simulated(options.workers, time.perf_counter if options.clock else time.process_time)
        processor = time.process_time()
        loop.run(search, workers, record, seed=0)
        seconds, processor = workers.now(), time.process_time() - processor
    share = workers.busy / seconds / options.workers
    row = {"trials": trials, "simulated_seconds": seconds, "processor_ms_a_trial": 1000 * processor / trials}
    return {**row, "busy": share}


def _table(found: list[dict], **forms: str) -> str:
    def cells(row: dict) -> Iterator[str]:
        for name, value in row.items():
            yield forms.get(name, "{}").format(value)

    return report.table([name.replace("_", " ") for name in found[0]], [tuple(cells(row)) for row in found])


if __name__ == "__main__":
    try:
        main()
    except (UsageError, RunError) as error:
        raise SystemExit(f"driver.py: error: {error}") from error
