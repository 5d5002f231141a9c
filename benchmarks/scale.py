"""What questions to a store take, by the number of its trials, and what a trial costs whoever writes it.

    uv run python benchmarks/scale.py 100000 [--store URL]

Fills a store with made trials of a search with four objectives, in groups, by the functions that a search uses, and
times each question once, in this process and as a command: seconds of the clock, and of the processor. From those of a
command what `nas --version` takes is to be subtracted, which is to start.
"""

import argparse
import hashlib
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from nas.store.query import Finished, NewTrial
from nas.store.sql import Store

GROUP = 10_000  # trials a transaction, when the store is filled
OBJECTIVES = ("error", "macs", "params", "latency_ms")


def fill(store: Store, n: int, seed: int = 0) -> int:
    """A run of `n` finished trials; the number of the run."""
    config = {"given": {"objectives": ",".join(OBJECTIVES)}}
    how = {"space": "toy", "strategy": "nsga2", "task": "digits", "code_version": "0", "seed": seed}
    run = store.add_run(name=f"of-{n}", config=config, **how).id
    random = np.random.default_rng(seed)
    for start in range(0, n, GROUP):
        numbers = range(start, min(start + GROUP, n))
        rows = random.integers(0, 5, (len(numbers), 20))
        values = measured(random, rows)
        store.log(run, [], [new(number, row) for number, row in zip(numbers, rows.tolist(), strict=True)])
        reports = [
            Finished(number, dict(zip(OBJECTIVES, map(float, each), strict=True)), None, 1.0)
            for number, each in zip(numbers, values, strict=True)
        ]
        store.log(run, reports, [])
    store.set_status(run, "finished")
    return run


def measured(random: np.random.Generator, rows: np.ndarray) -> np.ndarray:
    """Made objectives that pull against each other: the dearer, the better, but for chance."""
    size = rows.mean(1)
    error = np.round(0.9 * np.exp(-size / 2) + random.exponential(0.02, len(rows)), 4)
    macs = np.round(1e6 * (1 + size + random.exponential(0.1, len(rows))))
    params = np.round(1e5 * (1 + size**2 + random.exponential(0.3, len(rows))))
    latency = np.round(1 + rows.max(1) + 0.3 * size + random.exponential(0.2, len(rows)), 3)
    return np.stack([error, macs, params, latency], 1)


def new(number: int, row: list[int]) -> NewTrial:
    described = "-".join(map(str, row))
    architecture = hashlib.sha256(described.encode()).hexdigest()[:12]
    return NewTrial(number, architecture, row, described, "toy", budget=1, seed=0)


def timed(name: str, ask: Callable[[], Any]) -> Any:
    clock, processor = time.perf_counter(), used()
    answer = ask()
    print(f"{name:42} {time.perf_counter() - clock:10.3f} s {used() - processor:10.3f} s", flush=True)
    return answer


def used() -> float:
    """Seconds that this process and those that it has waited for have had of the processor."""
    whose = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return sum(each.ru_utime + each.ru_stime for each in map(resource.getrusage, whose))


def command(line: list[str]) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    subprocess.run(line, check=True, stdout=subprocess.DEVNULL, env=environment)


def one_by_one(store: Store, count: int = 200) -> None:
    """As a search of one worker writes: a report and the trial that it is asked for, a transaction."""
    run = store.add_run(
        name=None, space="toy", strategy="random", task="digits", config={}, code_version="0", seed=0
    ).id
    store.log(run, [], [new(0, [0] * 20)])
    began = time.perf_counter()
    for number in range(count):
        report = Finished(number, dict.fromkeys(OBJECTIVES, 0.5), None, 1.0)
        store.log(run, [report], [new(number + 1, [number % 5] * 20)])
    print(f"{'a trial that is written by itself':42} {1000 * (time.perf_counter() - began) / count:10.3f} ms")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trials", type=int)
    parser.add_argument("--store", help="default: a SQLite file in a folder that is deleted after")
    parser.add_argument("--skip", default="", help="questions not to ask, such as hypervolume,pareto")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        url = options.store or f"sqlite:///{Path(folder) / 'nas.db'}"
        with Store(url, create=True) as store:
            names = [row["name"] for row in store.runs()]
            if f"of-{options.trials}" not in names:
                timed(f"{options.trials} trials, in groups of {GROUP}", lambda: fill(store, options.trials))
            one_by_one(store)
            run = f"of-{options.trials}"
            front = {"error,macs": ("error", "macs"), "the run's four objectives": None}
            questions: dict[str, Callable[[], Any]] = {
                "runs": store.runs,
                "top": lambda: store.top(run),
                "top by another, with a condition": lambda: store.top(run, "macs", where="error < 0.3"),
                "show": lambda: store.show(store.top(run)[0]["architecture"]),
                "show of a description": lambda: store.show("-".join(["0"] * 20)),
                **{f"pareto of {name}": lambda of=of: store.pareto(run, of) for name, of in front.items()},
                **{f"hypervolume of {name}": lambda of=of: store.hypervolume(run, of) for name, of in front.items()},
                "all trials": lambda: store.trials(store.run(run).id),
            }
            for name, ask in questions.items():
                if name.split()[0] not in options.skip.split(","):
                    timed(name, ask)
            best = store.top(run)[0]["architecture"]
        for words in (["--version"], ["runs"], ["top", run], ["show", best], ["pareto", run], ["hypervolume", run]):
            if words[0] not in options.skip.split(","):
                where = [] if words == ["--version"] else ["--store", url]
                line = [sys.executable, "-m", "nas", *words, *where]
                command(line)  # the first time, Python compiles itself
                timed(f"nas {words[0]}", lambda line=line: command(line))


if __name__ == "__main__":
    main()
