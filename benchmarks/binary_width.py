"""Are searched widths of a network of one bit better than uniform ones that cost as many operations?

    python benchmarks/binary_width.py --json widths.json           goes on where it was stopped

`nsga2` searches the front of error against `ops` with shared weights. What is on its front, spread over the costs, and
the networks in which all layers have the same ratio, are trained from scratch with the same seeds, and tested once.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import report
from binary import Kept, trained

from nas import config
from nas.job import run as job
from nas.job.subject import bind, load_task
from nas.store.sql import Store
from nas.training.compilation import quick_start
from spaces.binary_width import BinaryWidth


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", default="digits", help="[%(default)s]")
    parser.add_argument("--trials", type=int, default=400, help="of the search [%(default)s]")
    parser.add_argument("--shared-steps", type=int, default=2500, help="of the shared weights' training [%(default)s]")
    parser.add_argument("--steps", type=int, default=1000, help="of each training from scratch [%(default)s]")
    parser.add_argument("--points", type=int, default=6, help="of the front that are trained [%(default)s]")
    parser.add_argument("--seeds", type=int, default=3, help="trainings of each [%(default)s]")
    parser.add_argument("--json", type=Path, default=Path("widths.json"), help="all numbers [%(default)s]")
    options = parser.parse_args()
    machine = report.machine(("jax", "jaxlib", "flax"))
    data: config.Data = {
        **{"space": "binary-width", "strategy": "nsga2", "objectives": "error,ops", "task": options.task},
        **{"trials": options.trials, "training": {"steps": options.shared_steps}, "final": {"steps": options.steps}},
    }
    settings = config.build(data)
    quick_start()
    task = load_task(settings)
    space: Any = bind(settings.space, task)
    kept = Kept(options.json, {"machine": machine, "fronts": [], "trainings": []})
    if not kept.data["fronts"]:
        start = time.perf_counter()
        kept.add("fronts", {"texts": front(data, options.points), "seconds": time.perf_counter() - start})
    texts = [("found", text) for text in kept.data["fronts"][0]["texts"]]
    texts += [("uniform", space.describe(row)) for row in uniform(space)]
    for group, text in texts:
        for seed in range(options.seeds):
            if not any((group, text, seed) == (t["group"], t["text"], t["seed"]) for t in kept.data["trainings"]):
                kept.add("trainings", trained(space, task, settings.final, group, text, seed))
    print(report.line(machine), "", table(kept.data["trainings"]), sep="\n")


def front(data: config.Data, points: int) -> list[str]:
    """Of the front that a search ends with so many architectures, evenly spread in the order of their costs."""
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{folder}/nas.db"
        job.search({**data, "store": url, "finalists": 0, "baselines": 0, "workers": 0, "name": "front"})
        with Store(url) as store:
            trials = [trial for trial in store.trials(store.run("front").id) if "error" in trial.measurements]
    ranked = sorted(trials, key=lambda trial: (trial.measurements["ops"], trial.measurements["error"]))
    best, least = [], float("inf")
    for trial in ranked:
        if trial.measurements["error"] < least:
            best.append(trial.description)
            least = trial.measurements["error"]
    places = np.unique(np.linspace(0, len(best) - 1, points).round().astype(int))
    return [best[place] for place in places]


def uniform(space: BinaryWidth) -> np.ndarray:
    """The networks in which all decisions are the same ratio."""
    return np.repeat(np.arange(len(space.ratios))[:, None], len(space.cardinalities), axis=1)


def table(trainings: list[dict[str, Any]]) -> str:
    """A row a network, in the order of their operations."""
    networks: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for each in trainings:
        networks.setdefault((each["group"], each["text"]), []).append(each)
    lines = []
    for (group, text), own in sorted(networks.items(), key=lambda item: item[1][0]["ops"]):
        accuracies = [100 * each["accuracy"] for each in own]
        deviation = statistics.stdev(accuracies) if len(own) > 1 else 0.0
        ops, size = f"{own[0]['ops'] / 1e3:.1f} k", f"{own[0]['bits'] / 8e3:.1f} kB"
        lines.append([f"{group} {text}", ops, size, f"{statistics.mean(accuracies):.2f} ± {deviation:.2f}"])
    return report.table(("ratios", "ops", "file", "test accuracy"), lines)


if __name__ == "__main__":
    main()
