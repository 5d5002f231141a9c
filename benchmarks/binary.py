"""Are cells of one bit that a search found better than random ones, than a published one, and how far from real ones?

    apt-get install dataset-fashion-mnist
    python benchmarks/binary.py --json binary.json               searches, then trainings; goes on where it was stopped
    python benchmarks/binary.py --json binary.json --ablations   what the diversity and the skips of BNAS are for

The recipe's search is run with several seeds. What it found, random cells, DARTS_V2 with convolutions of one bit, and
the found cells with real weights are trained from scratch by the recipe `final`, and tested once, after the last step.
"""

import argparse
import dataclasses
import json
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import report
from found_or_random import found
from scipy.stats import mannwhitneyu

from nas import config
from nas.evaluators.train import TrainEvaluator
from nas.job import run as job
from nas.job.subject import bind, load_task
from nas.store.sql import Store
from nas.training.compilation import quick_start
from spaces.base import costs
from spaces.binary import Binary
from strategies.region import draw, region

FREE = ("none", "max_pool_3x3", "avg_pool_3x3")  # operations without parameters
LAST = 100  # steps over which the loss of a training is averaged
Net = tuple[str, Binary, str]  # its group, its space and its cells


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=Path(__file__).with_name("binary.yaml"), metavar="FILE")
    parser.add_argument("--searches", type=int, default=3, help="with different seeds [%(default)s]")
    parser.add_argument("--random", type=int, default=8, help="cells beside those found [%(default)s]")
    parser.add_argument("--seeds", type=int, default=1, help="trainings of each random cell [%(default)s]")
    parser.add_argument("--ablations", action="store_true", help="instead: without diversity, and without skips")
    parser.add_argument(
        "--json", type=Path, default=Path("binary.json"), help="all numbers; gone on from [%(default)s]"
    )
    options = parser.parse_args()
    machine = report.machine(("jax", "jaxlib", "flax"))
    data, _ = config.parse(["--config", str(options.config)])
    settings = config.build(data)
    quick_start()
    task = load_task(settings)
    space: Any = bind(settings.space, task)
    kept = Kept(options.json, {"machine": machine, "searches": [], "trainings": []})
    if options.ablations:
        print(report.line(machine), "", ablations(data, space, task, settings, kept), sep="\n")
        return
    for seed in range(len(kept.data["searches"]), options.searches):
        start = time.perf_counter()
        text = space.describe(np.array(found(data, seed)))
        kept.add("searches", {"seed": seed, "text": text, "seconds": time.perf_counter() - start})
    texts = [each["text"] for each in kept.data["searches"][: options.searches]]
    chance = np.asarray(draw(region(space, settings.limits), jax.random.key(0), options.random))
    of_darts = dataclasses.replace(space, template="beihang")
    nets: list[tuple[Net, int]] = [(("found", space, text), options.seeds) for text in texts]
    nets += [(("random", space, space.describe(row)), options.seeds) for row in chance]
    v2 = of_darts.describe(of_darts.parse("DARTS_V2"))
    nets += [(("DARTS_V2 of one bit", of_darts, v2), len(texts) * options.seeds)]
    real = dataclasses.replace(space, real=True)
    nets += [(("found, real weights", real, text), options.seeds) for text in texts]
    for (group, own, text), seeds in nets:
        for seed in range(seeds):
            if not any((group, text, seed) == (t["group"], t["text"], t["seed"]) for t in kept.data["trainings"]):
                kept.add("trainings", trained(own, task, settings.final, group, text, seed))
    minutes = statistics.mean(each["seconds"] for each in kept.data["searches"]) / 60
    print(
        report.line(machine), "", table(kept.data["trainings"]), "", f"A search took {minutes:.0f} minutes.", sep="\n"
    )


class Kept:
    """Numbers in a file, written after each."""

    def __init__(self, path: Path, empty: dict[str, Any]):
        self.path = path
        self.data = json.loads(path.read_text()) if path.exists() else empty

    def add(self, name: str, number: Any) -> None:
        self.data.setdefault(name, []).append(number)
        report.write(self.path, self.data)
        report.say(f"{name}: {number}")


def trained(space: Any, task: Any, recipe: Any, group: str, text: str, seed: int) -> dict[str, Any]:
    row, losses = tuple(int(choice) for choice in space.parse(text)), []
    start = time.perf_counter()
    evaluator = TrainEvaluator(
        space, task, recipe, pruned=True, tests=True, on_step=lambda step, loss: losses.append((step, loss))
    )
    metrics = evaluator(row, 0, seed).metrics
    price = {name: float(value) for name, value in costs(space, row).items()}
    last = [loss for step, loss in losses if step > recipe.steps - LAST]
    return {
        **{"group": group, "text": text, "seed": seed, "accuracy": 1 - metrics["test_error"], **price},
        **{"loss": statistics.mean(last), "seconds": time.perf_counter() - start},
    }


def table(trainings: list[dict[str, Any]]) -> str:
    """A row a group; p is that of Wilcoxon's rank sum test against the found ones, of two sides."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for each in trainings:
        groups.setdefault(each["group"], []).append(each)
    lines = []
    for name, group in groups.items():
        accuracies = [100 * each["accuracy"] for each in group]
        p = (
            ""
            if name == "found"
            else f"{mannwhitneyu([100 * t['accuracy'] for t in groups['found']], accuracies).pvalue:.3f}"
        )
        deviation = statistics.stdev(accuracies) if len(group) > 1 else 0.0
        lines.append(
            [
                *(name, str(len(group)), f"{statistics.mean(accuracies):.2f} ± {deviation:.2f}"),
                *(f"{statistics.mean(each[cost] for each in group) / 1e6:.3f} M" for cost in ("ops", "params")),
                f"{statistics.mean(each['bits'] for each in group) / 8e3:.1f} kB",
                p,
            ]
        )
    return report.table(("cells", "trainings", "test accuracy", "ops", "parameters", "file", "p"), lines)


def ablations(data: config.Data, space: Binary, task: Any, settings: Any, kept: Kept) -> str:
    """The share of operations without parameters that a search derives, by epoch, with and without diversity; and the
    loss of trainings with and without skips from cell to cell."""
    by_weight = {weight: list(shares(data, weight)) for weight in (1.0, 0.0)}
    rows = [[str(i), *(f"{100 * each[i]:.0f} %" for each in by_weight.values())] for i in range(len(by_weight[1.0]))]
    kept.add("diversity", {str(weight): each for weight, each in by_weight.items()})
    chance = np.asarray(draw(region(space, ()), jax.random.key(1), 3))
    losses = []
    for row in chance:
        pair = [dataclasses.replace(space, joined=joined) for joined in (True, False)]
        found = [trained(own, task, settings.final, "ablation", own.describe(row), 0) for own in pair]
        kept.add("skips", found)
        losses.append([space.describe(row)[:40], *(f"{f['loss']:.3f} ({100 * f['accuracy']:.2f})" for f in found)])
    first = report.table(("epoch", "with diversity", "without"), rows)
    return first + "\n\n" + report.table(("random cell", "loss (accuracy) with skips", "without"), losses)


def shares(data: config.Data, weight: float) -> Iterator[float]:
    """Of the operations that the architecture of each epoch has, the share without parameters."""
    strategy = {**config.mapping(data["strategy"], "strategy"), "diversity": weight}
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{folder}/nas.db"
        own = {**data, "strategy": strategy, "store": url, "finalists": 0, "baselines": 0, "workers": 0}
        job.search(own)
        with Store(url) as store:
            for trial in store.trials(store.run("latest").id):
                ops = [trial.description.count(f"'{name}'") for name in FREE]
                yield sum(ops) / 16


if __name__ == "__main__":
    main()
