"""What is each exit of a detector of stacked pyramids worth, and what does it cost?

    python benchmarks/exits.py --plot exits.png
    python benchmarks/exits.py --alone 1 2 3 --json exits.json

One network is trained with the heads on every pyramid, and tested once at each exit, after its last step. With --alone,
networks of so many pyramids that end only at the last one are trained alike, to compare with.
"""

import argparse
import dataclasses
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
import report

from nas.evaluators.train import TrainEvaluator
from nas.job.subject import bind
from nas.tasks import load
from nas.tasks.base import Task
from nas.training.compilation import quick_start
from nas.training.net import alone, batch_logits, head_costs, split
from nas.training.recipe import Recipe
from spaces.costs import with_head
from spaces.exits import at_exit
from spaces.nas_fpn import PRESETS

ROUNDS = 20  # of the measurement of time


def main() -> None:
    options = _options()
    quick_start()
    task = load(options.task, image_size=options.image_size, max_images=options.max_images)
    recipe = Recipe(
        steps=options.steps,
        batch_size=options.batch_size,
        learning_rate=options.learning_rate,
        crop=0,
        flip=True,
        jitter=0.2,
        clip=10,
    )
    space = dataclasses.replace(bind(PRESETS["tiny"], task), width=options.width, stacks=options.stacks)
    rows = trained(dataclasses.replace(space, anytime=True), options.neck, task, recipe, options.seed)
    for stacks in options.alone:
        rows += trained(dataclasses.replace(space, stacks=stacks), options.neck, task, recipe, options.seed)
    machine = report.machine(("jax", "jaxlib", "flax"))
    report.write(options.json, {"machine": machine, "options": _plain(options), "rows": rows})
    print(table(rows))
    print("\n" + report.line(machine))
    if options.plot is not None:
        plot(rows, options.plot)


def trained(space: Any, neck: str, task: Task, recipe: Recipe, seed: int) -> list[dict[str, Any]]:
    """A row an exit: what was measured in test, and what it costs."""
    start, row = time.perf_counter(), space.parse(neck)
    whole = with_head(space, head_costs(space, task.kind))
    metrics = TrainEvaluator(whole, task, recipe, pruned=True, tests=True)(tuple(map(int, row)), 0, seed).metrics
    seconds = time.perf_counter() - start
    report.say(f"{space.stacks} pyramids, anytime {space.anytime}: {seconds:.0f} s")
    network: Any = alone(space, task.kind, row, jax.random.key(0))
    rows = []
    for k in range(1, space.stacks + 1) if space.anytime else [space.stacks]:

        def of(name: str, k: int = k) -> float:
            return metrics[at_exit(name, k) if space.anytime else name]

        measured = {name: -of(f"test_minus_{name}") for name in ("ap", "ap50")}
        left = network.ended(k) if space.anytime else network
        rows.append(
            {
                "network": "anytime" if space.anytime else "alone",
                "pyramids": k,
                "macs": of("macs"),
                "ms": milliseconds(left, task),
                "seconds": seconds,
                **measured,
            }
        )
    return rows


def milliseconds(network: Any, task: Task) -> float:
    """Of one image, the median; its outputs are not decoded."""
    parts, image, taken = split(network), task.test.images[:1], []
    for _ in range(ROUNDS + 1):
        start = time.perf_counter()
        jax.block_until_ready(batch_logits(parts[0], (task.mean, task.std), "float32", *parts[1:], image, ()))
        taken.append(1000 * (time.perf_counter() - start))
    return float(np.median(taken[1:]))  # the first one compiles


def table(rows: list[dict[str, Any]]) -> str:
    names = {"anytime": "one network, left at exit {}", "alone": "trained with {} alone"}
    lines = [
        [
            names[row["network"]].format(row["pyramids"]),
            f"{100 * row['ap']:.1f}",
            f"{100 * row['ap50']:.1f}",
            f"{row['macs'] / 1e6:.1f} M",
            f"{row['ms']:.1f} ms",
        ]
        for row in rows
    ]
    return report.table(("pyramids", "test AP", "AP50", "multiply-adds", "an image"), lines)


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axis = pyplot.subplots(figsize=(6, 4))
    for name, label in (("anytime", "one network, at each exit"), ("alone", "each trained alone")):
        found = [row for row in rows if row["network"] == name]
        if found:
            axis.plot([row["macs"] / 1e6 for row in found], [100 * row["ap"] for row in found], marker="o", label=label)
        for row in found:
            place = row["macs"] / 1e6, 100 * row["ap"]
            axis.annotate(str(row["pyramids"]), place, textcoords="offset points", xytext=(4, 4))
    axis.set_xlabel("millions of multiply-adds; the numbers are those of pyramids")
    axis.set_ylabel("test AP, %")
    axis.legend()
    figure.savefig(path, dpi=150, bbox_inches="tight")


def _plain(options: argparse.Namespace) -> dict[str, str]:
    return {name: str(value) for name, value in vars(options).items()}


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", default="scenes", help="[%(default)s]")
    parser.add_argument("--image-size", type=int, default=128, help="[%(default)s]")
    parser.add_argument("--max-images", type=int)
    parser.add_argument("--neck", default="NAS-FPN", help="a description or a name [%(default)s]")
    parser.add_argument("--width", type=int, default=16, help="channels of necks and heads [%(default)s]")
    parser.add_argument("--stacks", type=int, default=3, help="pyramids, each an exit [%(default)s]")
    parser.add_argument(
        "--alone", type=int, nargs="+", default=[], metavar="N", help="networks of N pyramids beside it"
    )
    parser.add_argument("--steps", type=int, default=300, help="of each training [%(default)s]")
    parser.add_argument("--batch-size", type=int, default=16, help="[%(default)s]")
    parser.add_argument("--learning-rate", type=float, default=0.05, help="[%(default)s]")
    parser.add_argument("--seed", type=int, default=0, help="[%(default)s]")
    parser.add_argument("--plot", type=Path, metavar="PNG")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all numbers here")
    return parser.parse_args()


if __name__ == "__main__":
    main()
