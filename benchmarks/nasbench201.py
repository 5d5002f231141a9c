"""Published results on NAS-Bench-201, reproduced: strategies by simulated time, by queries, and on two objectives.

    python benchmarks/nasbench201.py --table ../shared/benchmarks/nb201.npz        about 12 minutes on 2 cores
    python benchmarks/nasbench201.py --table FILE --only time,front,rate --seeds 100

`time` is the protocol of the paper (Dong & Yang, 2020, table 5): 12,000 simulated seconds, the validation accuracy on
CIFAR-10 after 12 epochs as the signal, and the means of 500 searches' accuracies after 200 epochs, with what the paper
gives. `queries` searches by the validation accuracy after 200 epochs. `front` is NSGA-II on the error and the latency
of a phone: its front's hypervolume as a share of that of the true front, up to the worst of both objectives. `rate`
counts evaluations a second of random search over many seeds, and of looking up alone.
"""

import argparse
import functools
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import report

from nas.commands import compare
from nas.engine import contest, study
from nas.store.query import hypervolume
from nas.tables import Table, read_table
from nas.training.compilation import quick_start
from spaces.base import indices, sample
from strategies import strategy_class

PUBLISHED = {
    "random": (90.93, 93.70, 70.93, 71.04, 44.45, 44.57),
    "regularized-evolution": (91.19, 93.92, 71.81, 71.84, 45.15, 45.54),
    "reinforce": (91.09, 93.85, 71.61, 71.71, 45.05, 45.24),
}
QUICK = ("random", "regularized-evolution", "local-search", "reinforce", "evolution", "nsga2")
SLOW = ("ppo", "bayesian")
PHONE = "pixel3_latency_ms"


def main() -> None:
    options = _options()
    quick_start()
    table = read_table(options.table)
    parts = {"time": by_time, "queries": by_queries, "front": front, "rate": rate}
    questions = {name: functools.partial(parts[name], table, options) for name in options.only.split(",")}
    report.answer(questions, ("jax", "jaxlib", "numpy", "scipy"), options.json)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", required=True, help="NAS-Bench-201")
    parser.add_argument("--only", default="time,queries,front,rate", help="[%(default)s]")
    parser.add_argument("--seeds", type=int, default=500, help="of `time` [%(default)s]")
    parser.add_argument("--out", type=Path, help="folder for the CSV files and the plot of `time`")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all numbers here")
    return parser.parse_args()


def make(name: str) -> Any:
    kind = strategy_class(name)
    return kind(num_objectives=1) if name == "nsga2" else kind()


def by_time(table: Table, options: argparse.Namespace) -> tuple[str, Any]:
    question = contest.Question(table, seeds=options.seeds)
    answers, seconds = {}, {}
    for name in (*QUICK, *SLOW):
        start = time.perf_counter()
        answers[name] = contest.ask(question, make(name))
        seconds[name] = time.perf_counter() - start
        report.say(f"{name}: {seconds[name]:.1f} s")
    rows = contest.summary(question, answers)
    names = list(question.columns)
    lines = []
    for row in rows:
        cells = [f"{row[name]:.2f} ± {row[name + '_std']:.2f}" for name in names]
        p = f"{row['p_value']:.0e}" if "p_value" in row else ""
        lines.append(
            [row["strategy"], *cells, f"{100 * row['found_best']:.0f} %", p, f"{seconds[row['strategy']]:.0f} s"]
        )
        if row["strategy"] in PUBLISHED:
            lines.append(["*published*", *(f"*{number:.2f}*" for number in PUBLISHED[row["strategy"]]), "", "", ""])
    header = ["strategy", *(name.replace("_", " ") for name in names), "found best", "p", "wall time"]
    together = sum(seconds[name] for name in QUICK)
    text = (
        f"{options.seeds} seeds, 12,000 simulated seconds; all but ppo and bayesian took {together:.0f} s together.\n\n"
    )
    if options.out is not None:
        compare.write(question, answers, options.out)
    return text + report.table(header, lines), {"rows": rows, "seconds": seconds}


def by_queries(table: Table, options: argparse.Namespace) -> tuple[str, Any]:
    lines, found = [], {}
    for dataset in ("cifar10", "cifar100", "imagenet16_120"):
        signal, test = (table.error(dataset, split, 200) for split in ("valid", "test"))
        for name in ("random", "regularized-evolution", "bayesian"):
            result = study.run(strategy_class(name)(), table.searchable(), signal, range(50), 100)
            reached = 100 * (1 - test[result.best()])
            seen = (result.rows == int(signal.argmin())).cumsum(1) > 0
            found[f"{dataset} {name}"] = [(reached[:, n - 1].mean(), seen[:, n - 1].mean()) for n in (50, 100)]
            cells = [f"{reached[:, n - 1].mean():.2f} ({100 * seen[:, n - 1].mean():.0f} %)" for n in (50, 100)]
            lines.append([dataset.replace("_", "-"), name, *cells])
            report.say(" ".join(lines[-1]))
    header = ["dataset", "strategy", "test after 50 (found best)", "after 100"]
    return "50 seeds, by the validation accuracy after 200 epochs.\n\n" + report.table(header, lines), found


def front(table: Table, options: argparse.Namespace) -> tuple[str, Any]:
    points = np.stack([table.error("cifar10", "valid", 200), table.column(PHONE)], 1)
    worst = points.max(0).tolist()
    whole = hypervolume(points.tolist(), worst)
    lines, shares = [], {}
    for name, strategy in {"random": strategy_class("random")(), "nsga2": strategy_class("nsga2")()}.items():
        result = study.run(strategy, table.searchable(), points, range(50), 300)
        shares[name] = [hypervolume(points[rows].tolist(), worst) / whole for rows in result.rows]
        lines.append([name, f"{100 * np.mean(shares[name]):.2f} %", f"{100 * np.min(shares[name]):.2f} %"])
    header = ["strategy", "mean share of the hypervolume", "lowest"]
    text = f"Error on CIFAR-10 and {PHONE}, 300 evaluations, 50 seeds.\n\n"
    return text + report.table(header, lines), shares


def rate(table: Table, options: argparse.Namespace) -> tuple[str, Any]:
    space, signal = table.searchable(), table.error("cifar10", "valid", 12)
    strategy, seeds, trials = strategy_class("random")(), 2000, 500
    study.run(strategy, space, signal, range(seeds), trials)  # compiles
    start = time.perf_counter()
    study.run(strategy, space, signal, range(seeds), trials)
    searched = seeds * trials / (time.perf_counter() - start)
    rows, scores = sample(space, jax.random.key(0), 10**6), jnp.asarray(signal)
    look_up = jax.jit(lambda rows: scores[indices(space, rows)])
    look_up(rows).block_until_ready()
    start = time.perf_counter()
    look_up(rows).block_until_ready()
    looked_up = len(rows) / (time.perf_counter() - start)
    text = f"{searched / 1e6:.1f} million trials of random search a second, {looked_up / 1e6:.0f} million lookups."
    return text, {"random search": searched, "lookups": looked_up}


if __name__ == "__main__":
    main()
