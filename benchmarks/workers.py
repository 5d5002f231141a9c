"""How much two Ray workers do, and how much memory a whole job takes.

    python benchmarks/workers.py                              candidates a minute, about 2 minutes on 2 cores
    python benchmarks/workers.py --space shufflenet:small --task noise --candidates 16         about 6 minutes
    python benchmarks/workers.py --memory                     the default job and its memory, about 4 minutes

Candidates are evaluated with shared weights (recalibration and validation) in this process, which has all cores, by
one worker and by two, which have one core each. Every one is warmed up, and they take turns in each round. A ratio is
that of two rates of the same round: its median and range over the rounds. `busy` is the share of the time that the
workers spend evaluating; the rest goes to handing out jobs. Beside it, what the memory gives: bytes a second that one
process and two at once move when they copy arrays larger than all caches (the copy of STREAM, McCalpin, 1995,
https://www.cs.virginia.edu/stream). Two workers cannot gain more than that on what memory bounds.

Memory is the proportional set size of the job's process and of everything it starts, Ray's daemons included, where
shared memory counts once; sampled four times a second.
"""

import argparse
import concurrent.futures
import contextlib
import os
import statistics as stats
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
import psutil
import report

from nas import config
from nas.engine.executors import Executor, InProcess
from nas.engine.ray_pool import RayPool
from nas.engine.ray_session import start_ray, stop_ray
from nas.errors import UsageError
from nas.evaluators.base import Job
from nas.evaluators.supernet import SupernetEvaluator
from nas.job.subject import bind, load_task
from nas.tasks.base import Split, Task
from nas.training.compilation import quick_start
from nas.training.net import flatten, split
from spaces.base import sample

ROOT = Path(__file__).resolve().parent.parent
IN_PROCESS, ONE, TWO = "in process", "1 worker", "2 workers"


def main() -> None:
    options = _options()
    found: dict = {"machine": report.machine(("jax", "jaxlib", "flax", "numpy", "ray"))}
    found["options"] = {name: str(value) for name, value in vars(options).items()}
    if options.memory:
        found["memory"] = memory(options.job)
        rows = [(f"{found['memory']['peak_gib']:.2f} GiB", f"{found['memory']['seconds']:.0f} s")]
        text = report.table(("peak memory, all processes", "wall time"), rows)
        text += "\n\nAt the peak: " + ", ".join(f"{name} {gib:.2f}" for name, gib in found["memory"]["parts"].items())
    else:
        found["rounds"] = throughput(options)
        found["copies"] = copies(options.rounds)
        text = summary(found["rounds"], options) + "\n\n" + copied(found["copies"])
    print(report.line(found["machine"]) + "\n\n" + text)
    report.write(options.json, found)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--space", default="shufflenet:tiny", help="of the candidates [shufflenet:tiny]")
    parser.add_argument("--task", default="digits", help="of run_search.py, or noise: 32 x 32 x 3, 10 classes [digits]")
    parser.add_argument("--data-dir", help="of the task, where it needs one")
    parser.add_argument("--candidates", type=int, default=60, help="evaluated in a round by each [60]")
    parser.add_argument("--rounds", type=int, default=7, help="how often each is timed [7]")
    parser.add_argument("--memory", action="store_true", help="run a whole job instead, and measure its memory")
    parser.add_argument("--job", nargs=argparse.REMAINDER, default=[], help="with --memory: flags of the job; last")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all numbers here")
    return parser.parse_args()


def noise_task() -> Task:
    rng = np.random.default_rng(0)

    def part(n: int) -> Split:
        return Split(rng.integers(0, 256, (n, 32, 32, 3), np.uint8), (np.arange(n) % 10).astype(np.int32))

    return Task("noise", part(1024), part(1024), part(10), 10, mean=(0.5,) * 3, std=(0.25,) * 3)


def throughput(options: argparse.Namespace) -> dict[str, list[dict[str, float]]]:
    """What each round found, by pool."""
    quick_start()
    named = {} if options.task == "noise" else {"task": options.task, "data_dir": options.data_dir}
    settings = config.build({"space": options.space, **named})
    task = noise_task() if options.task == "noise" else load_task(settings)
    space = bind(settings.space, task)
    weights = flatten(split(space.supernet(jax.random.key(0)))[1])
    evaluator = SupernetEvaluator(space, weights, task, settings.evaluator.calibration_images)
    number = max(options.candidates, 8)
    encodings = [tuple(row) for row in np.asarray(sample(space, jax.random.key(1), number)).tolist()]
    rounds: dict[str, list[dict[str, float]]] = {}
    with _pools(evaluator) as pools:
        for name, (pool, _) in pools.items():
            _evaluate(pool, encodings[:8])
            report.say(f"warm: {name}")
        for i in range(options.rounds):
            for name, (pool, workers) in pools.items():
                seconds, busy = _evaluate(pool, encodings[: options.candidates])
                now = {"candidates_a_minute": 60 * options.candidates / seconds, "busy": busy / seconds / workers}
                rounds.setdefault(name, []).append(now)
            shown = ", ".join(f"{name} {each[-1]['candidates_a_minute']:.0f}" for name, each in rounds.items())
            report.say(f"round {i + 1}, candidates a minute: {shown}")
    return rounds


@contextlib.contextmanager
def _pools(evaluator: SupernetEvaluator) -> Iterator[dict[str, tuple[Executor, int]]]:
    """One executor of each kind and its workers, all at once: those that are not being timed wait."""
    start_ray(3)
    pools: dict[str, tuple[Executor, int]] = {IN_PROCESS: (InProcess(evaluator), 1)}
    pools |= {ONE: (RayPool(evaluator, 1), 1), TWO: (RayPool(evaluator, 2), 2)}
    try:
        yield pools
    finally:
        for pool, _ in pools.values():
            pool.close()
        stop_ray()


def _evaluate(pool: Executor, encodings: list[tuple[int, ...]]) -> tuple[float, float]:
    """Seconds until all were evaluated, and the sum of what each took."""
    start = time.perf_counter()
    for number, encoding in enumerate(encodings):
        pool.submit(Job(number, encoding, 0, 0))
    reports = [pool.wait() for _ in encodings]
    seconds = time.perf_counter() - start
    failed = [each.error for each in reports if each.error is not None]
    if failed:
        raise SystemExit(f"workers.py: error: an evaluation failed: {failed[0]}")
    return seconds, sum(each.seconds for each in reports)


def summary(rounds: dict[str, list[dict[str, float]]], options: argparse.Namespace) -> str:
    rows = []
    for name, each in rounds.items():
        rates, busy = ([one[what] for one in each] for what in ("candidates_a_minute", "busy"))
        ones = [one["candidates_a_minute"] for one in rounds[ONE]]
        ratio = report.spread([rate / one for rate, one in zip(rates, ones, strict=True)])
        rows.append((name, f"{stats.median(rates):.0f}", ratio if name != ONE else "", f"{stats.median(busy):.1%}"))
    return report.table((f"{options.space}, {options.task}", "candidates a minute", f"over {ONE}", "busy"), rows)


COPY = """
import json, sys, time
import numpy as np
size = int(sys.argv[1])
source, target = np.ones(size // 8), np.zeros(size // 8)
for line in sys.stdin:
    began, moved = time.monotonic(), 0
    while time.monotonic() - began < float(line):
        np.copyto(target, source)
        moved += 2 * size
    print(json.dumps(moved / (time.monotonic() - began)), flush=True)
"""
COPIED_BYTES, COPY_SECONDS = 2**28, 1.0  # an array, and how long it is copied


def copies(rounds: int) -> dict[str, list[float]]:
    """Bytes a second, read and written, by one process and by two at once; they take turns."""
    processes = [report.start([sys.executable, "-c", COPY, str(COPIED_BYTES)]) for _ in range(2)]
    found: dict[str, list[float]] = {ONE: [], TWO: []}
    for _ in range(rounds + 1):  # the first touches the memory
        for name, some in ((ONE, processes[:1]), (TWO, processes)):
            with concurrent.futures.ThreadPoolExecutor() as at_once:
                found[name].append(sum(at_once.map(lambda each: report.ask(each, str(COPY_SECONDS)), some)))
    for process in processes:
        process.kill()
        process.wait()
    return {name: rates[1:] for name, rates in found.items()}


def copied(found: dict[str, list[float]]) -> str:
    ratio = report.spread([two / one for one, two in zip(found[ONE], found[TWO], strict=True)])
    rates = [f"{stats.median(each) / 1e9:.1f}" for each in found.values()]
    rows = [("1 process", rates[0], ""), ("2 processes", rates[1], ratio)]
    return report.table(("copies of arrays", "GB a second", "over 1 process"), rows)


def memory(flags: list[str]) -> dict:
    """The peak of a job that begins with nothing, what it was made of, and how long the job took."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(ROOT / "run_search.py"), *flags]
        start = time.monotonic()
        environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": str(Path(folder) / "compiled")}
        job = subprocess.Popen(command, cwd=folder, env=environment)
        peak: dict[str, float] = {}
        while job.poll() is None:
            now = _memory_of(psutil.Process(job.pid))
            peak = max(peak, now, key=lambda parts: sum(parts.values()))
            time.sleep(0.25)
        seconds = time.monotonic() - start
    if job.returncode:
        raise SystemExit(f"workers.py: error: the job ended with status {job.returncode}; see above")
    return {"peak_gib": sum(peak.values()), "parts": peak, "seconds": seconds}


def _memory_of(process: psutil.Process) -> dict[str, float]:
    """GiB by kind of process."""
    parts: dict[str, float] = {}
    with contextlib.suppress(psutil.NoSuchProcess):
        for each in [process, *process.children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess, FileNotFoundError, ProcessLookupError):
                kib = _pss_kib(each.pid)
                name = "job" if each.pid == process.pid else each.name()
                parts[name] = parts.get(name, 0.0) + kib / 2**20
    return parts


def _pss_kib(pid: int) -> int:
    for row in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if row.startswith("Pss:"):
            return int(row.split()[1])
    return 0  # a process that has ended and waits for its parent


if __name__ == "__main__":
    try:
        main()
    except UsageError as error:
        raise SystemExit(f"workers.py: error: {error}") from error
