"""Do scores without training rank architectures? Kendall's tau with accuracies that somebody measured.

    python benchmarks/zero_cost.py --table ../shared/benchmarks/nb201.npz --data-dir DIR
    python benchmarks/zero_cost.py --table FILE --task digits --width 8 --cells 1 --number 100

Random cells of NAS-Bench-201 are scored on a batch of CIFAR-10 (or another task of images; the accuracies are those on
CIFAR-10 in any case), by the benchmark's own network or a smaller one, and ranked against their test accuracies after
200 epochs. A score that is infinite or NaN ranks last. The ensemble ranks among the cells that are drawn.

Krishnakumar et al., "NAS-Bench-Suite-Zero", 2022, https://arxiv.org/abs/2210.03230, give the taus printed beside, of
cells in which no operation is cut off from input or output. Such cells are drawn; `--all` draws any. Where the table
has the published scores of a cell, they are compared on the same cells too.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import report
from scipy.stats import kendalltau

from nas.evaluators.proxies import scores
from nas.evaluators.zero_cost import PARTS, ensemble
from nas.job.subject import bind
from nas.tables import Table, read_table
from nas.tasks import load
from nas.training.compilation import quick_start
from spaces.base import costs, every
from spaces.nasbench201 import EDGES, NODES, NONE, NasBench201

PUBLISHED = {
    "naswot": 0.616,
    "jacov": 0.610,
    "params": 0.594,
    "synflow": 0.573,
    "macs": 0.563,
    "snip": 0.440,
    "grad_norm": 0.437,
}
THEIR_NAMES = {"naswot": "nwot", "macs": "flops"}


def main() -> None:
    options = _options()
    quick_start()
    table = read_table(options.table)
    task = load(options.task, data_dir=options.data_dir, image_size=options.image_size)
    space = bind(NasBench201(width=options.width, cells=options.cells), task)
    machine = report.machine(["jax", "jaxlib", "numpy"])
    rows = draw(table, options)
    encodings = every(table.space)[rows]
    # Many cells are the same network.
    networks, which = np.unique(np.asarray(space.canonical(encodings)), axis=0, return_inverse=True)
    names = PARTS if options.ensemble else tuple(PUBLISHED)
    how = {"batch_size": options.batch_size, "initialisations": options.initialisations}
    each, seconds = [], []
    for i, network in enumerate(map(tuple, networks.tolist())):
        start = time.perf_counter()
        each.append(scores(space, network, task, options.seed, names=names, **how) | costs(space, network))
        seconds.append(time.perf_counter() - start)
        if i % (len(networks) // 20 or 1) == 0:
            report.say(f"{i + 1} of {len(networks)}: {seconds[-1]:.2f} s")
    found = {name: [each[place][name] for place in which] for name in names}
    accuracy = 1 - table.error("cifar10", "test", 200)[rows]
    ranks = {name: np.sort(found[name]) for name in PARTS}
    found["ensemble"] = [ensemble({name: found[name][i] for name in PARTS}, ranks) for i in range(len(rows))]
    lines, taus = [], {}
    for name, values in found.items():
        taus[name] = tau(values, accuracy)
        theirs = published_scores(table, name)[rows]
        known = np.isfinite(theirs)
        pairs = (theirs[known], accuracy[known]), (theirs[known], np.array(values)[known])
        cells = [f"{tau(*pair):.3f}" if known.any() else "" for pair in pairs]
        lines.append([name, f"{taus[name]:.3f}", *cells, f"{PUBLISHED[name]:.3f}" if name in PUBLISHED else ""])
    network = f"width {space.width}, {space.cells} cells a stage, {task.name} at {space.image_size} pixels"
    print(f"\n{len(rows)} cells, {network}, batch {options.batch_size}, {options.initialisations} initialisation(s).\n")
    header = ["score", "Kendall tau", "of published scores, same cells", "tau of ours with those", "published tau"]
    print(report.table(header, lines))
    first, others = seconds[0], report.spread(seconds[1:], "{:.3f}")
    print(f"\n{len(networks)} different networks in {sum(seconds):.0f} s.")
    print(f"Seconds for each, median and range: {others}; the first, with compiling: {first:.1f}.")
    print("\n" + report.line(machine))
    report.write(options.json, {"machine": machine, "rows": rows.tolist(), "scores": found, "taus": taus})


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", required=True, help="NAS-Bench-201")
    parser.add_argument("--task", default="cifar10", help="images [%(default)s]")
    parser.add_argument("--data-dir", help="where cifar10 lies")
    parser.add_argument("--image-size", type=int, help="resizes the images")
    parser.add_argument("--number", type=int, default=300, help="of cells [%(default)s]")
    parser.add_argument("--all", action="store_true", help="draw cells with operations that are cut off, too")
    parser.add_argument("--ensemble", action="store_true", help="only the scores of the ensemble, in half the time")
    parser.add_argument("--width", type=int, default=16, help="channels of the first stage [%(default)s]")
    parser.add_argument("--cells", type=int, default=5, help="cells of a stage [%(default)s]")
    parser.add_argument("--batch-size", type=int, default=64, help="[%(default)s]")
    parser.add_argument("--initialisations", type=int, default=1, help="[%(default)s]")
    parser.add_argument("--seed", type=int, default=0, help="of cells, images and weights [%(default)s]")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all numbers here")
    return parser.parse_args()


def draw(table: Table, options: argparse.Namespace) -> np.ndarray:
    """Rows of the table, without repetition."""
    rows = np.random.default_rng(options.seed).permutation(len(every(table.space)))
    if not options.all:
        rows = np.array([row for row in rows if whole(every(table.space)[row])])
    return rows[: options.number]


def whole(cell: np.ndarray) -> bool:
    """Whether each operation but `none` is on a way from the input to the output, and there is one."""
    edges = [edge for edge, op in zip(EDGES, cell, strict=True) if op != NONE]
    fed, used = {0}, {NODES - 1}
    for source, target in edges:  # in the order of targets
        fed |= {target} if source in fed else set()
    for source, target in sorted(edges, reverse=True):
        used |= {source} if target in used else set()
    return 0 in used and all(source in fed and target in used for source, target in edges)


def tau(score: Any, accuracy: Any) -> float:
    """A score that is no number is the worst."""
    return float(kendalltau(np.where(np.isfinite(score), score, -np.inf), accuracy).statistic)


def published_scores(table: Table, name: str) -> np.ndarray:
    """NaN where there are none."""
    missing = np.full(len(every(table.space)), np.nan)
    return np.asarray(table.values.get(f"cifar10_{THEIR_NAMES.get(name, name)}", missing))


if __name__ == "__main__":
    main()
