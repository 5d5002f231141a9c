"""Does differentiable search drift to skip connections, and what keeps it from it? On the space of NAS-Bench-201.

    python benchmarks/drift.py --table nb201.npz --data-dir CIFAR10                about 15 minutes a seed on 2 cores

Searches on images of CIFAR-10; the architecture that is derived after each epoch is looked up in the table, by its
test accuracy there after 200 epochs. DARTS is known to end in cells of nothing but skips (Dong & Yang, "NAS-Bench-201",
2020, https://arxiv.org/abs/2001.00326, table 5: 54.30 %). The network, the images and their number are small here, and
logits learn as much faster.
"""

import argparse
import dataclasses
import time
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import report

from nas.tables import read_table
from nas.tasks import load
from nas.training.bilevel import Epoch, Rule, search
from nas.training.compilation import quick_start
from nas.training.recipe import Recipe
from spaces.base import indices
from spaces.nasbench201 import NasBench201
from strategies import RECIPES, strategy_class

# The preset, what is changed of it, and how many times as many epochs it gets: a sampled step costs a quarter.
VARIANTS: dict[str, tuple[str, dict[str, Any], int]] = {
    "darts": ("darts", {}, 1),
    "darts, auxiliary skip": ("darts", {"auxiliary_skip": 1.0}, 1),
    "darts, early stop": ("darts", {"stop_growth": 1.3}, 1),
    "darts, one skip": ("darts", {"max_skips": 1}, 1),
    "fair-darts": ("fair-darts", {}, 1),
    "gumbel-darts": ("gumbel-darts", {"warmup": 0.2}, 4),
    "gumbel-darts, sampled alone": ("gumbel-darts", {"warmup": 0.2, "others": False}, 4),
}
SKIP = "skip_connect"


def main() -> None:
    options = _options()
    machine = report.machine(("jax", "jaxlib", "flax"))
    quick_start()
    table = read_table(options.table)
    accuracies = 100 * (1 - table.error("cifar10", "test", 200))
    size = {"image_size": options.image_size}
    task = load("cifar10", data_dir=options.data_dir, max_images=options.images, **size)
    space = NasBench201(width=options.width, cells=options.cells, **size)
    found: dict[str, list[dict]] = {}
    for name in options.variants:
        preset, changes, times = VARIANTS[name]
        augmented = {"crop": options.image_size // 8, "flip": True}
        recipe = Recipe(**{**RECIPES[preset], "batch_size": options.batch, **augmented})
        strategy = dataclasses.replace(strategy_class(preset)(), learning_rate=options.learning_rate, **changes)
        for seed in range(options.seeds):
            start, epochs = time.perf_counter(), []
            taken, _ = search(
                Rule(strategy, space, ()),
                task,
                recipe,
                seed=seed,
                epochs=times * options.epochs,
                on_epoch=lambda epoch, epochs=epochs, name=name: epochs.append(met(epoch, name, space, accuracies)),
            )
            run = {field: [epoch[field] for epoch in epochs] for field in epochs[0]}
            found.setdefault(name, []).append({**run, "taken": taken, "seconds": time.perf_counter() - start})
    print(report.line(machine), "", summary(found, options.epochs), sep="\n")
    report.write(options.json, {"machine": machine, "options": _plain(options), "found": found})
    if options.plot is not None:
        plot(found, options.plot)


def met(epoch: Epoch, name: str, space: NasBench201, accuracies: np.ndarray) -> dict[str, float]:
    """What the table says of an epoch's architecture, its skips, and the tracked error."""
    place = int(indices(space, jnp.asarray(epoch.encoding)[None])[0])
    found = {
        "accuracy": float(accuracies[place]),
        "skips": space.describe(epoch.encoding).count(SKIP),
        "error": epoch.metrics["error"],
    }
    report.say(
        f"{name}, epoch {epoch.number}: {found['accuracy']:.2f} %, {found['skips']} skips, error {found['error']:.3f}, "
        f"{epoch.seconds:.1f} s"
    )
    return found


def derived(run: dict, field: str, epoch: int) -> float:
    """What there is after an epoch: of a search that was stopped before, what it found."""
    return run[field][epoch if epoch < len(run[field]) else run["taken"]]


def summary(found: dict[str, list[dict]], epochs: int) -> str:
    """The test accuracy of what is derived after some epochs (of the first strategy; the others' are as many times as
    many), and in brackets its skips, of six edges."""
    shown = [*range(0, epochs - 1, max(1, epochs // 5)), epochs - 1]

    def cell(name: str, runs: list[dict], epoch: int) -> str:
        epoch = VARIANTS[name][2] * (epoch + 1) - 1
        accuracy, skips = (np.mean([derived(run, field, epoch) for run in runs]) for field in ("accuracy", "skips"))
        return f"{accuracy:.2f} ({skips:.1f})"

    rows = [
        [
            name,
            *(cell(name, runs, epoch) for epoch in shown),
            f"{np.mean([run['accuracy'][run['taken']] for run in runs]):.2f}",
            ", ".join(f"{run['accuracy'][run['taken']]:.2f}" for run in runs),
        ]
        for name, runs in found.items()
    ]
    return report.table(["strategy", *(f"epoch {epoch + 1}" for epoch in shown), "found", "by seed"], rows)


def plot(found: dict[str, list[dict]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (above, below) = pyplot.subplots(2, 1, sharex=True, figsize=(7, 6))
    for name, runs in found.items():
        times, longest = VARIANTS[name][2], max(len(run["accuracy"]) for run in runs)
        for axis, field in ((above, "accuracy"), (below, "skips")):
            line = [np.mean([derived(run, field, epoch) for run in runs]) for epoch in range(longest)]
            axis.plot(np.arange(1, longest + 1) / times, line, label=name)
    above.set_ylabel("test accuracy in the table, %")
    below.set_ylabel("skips of 6 edges")
    below.set_xlabel("epoch of darts")
    above.legend(loc="upper left", bbox_to_anchor=(1, 1))
    figure.savefig(path, dpi=150, bbox_inches="tight")


def _plain(options: argparse.Namespace) -> dict:
    return {name: str(value) for name, value in vars(options).items()}


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", required=True, metavar="FILE", help="measurements of NAS-Bench-201")
    parser.add_argument("--data-dir", required=True, metavar="DIR", help="where CIFAR-10 lies")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS), metavar="NAME")
    parser.add_argument("--epochs", type=int, default=50)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--images", type=int, default=2000, help="for training and validation [%(default)s]")
    parser.add_argument("--image-size", type=int, default=16)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--width", type=int, default=8)
    parser.add_argument("--cells", type=int, default=1, help="a stage, of three [%(default)s]")
    parser.add_argument("--learning-rate", type=float, default=3e-3, help="of the logits [%(default)s]")
    parser.add_argument("--plot", type=Path, metavar="PNG")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all numbers here")
    return parser.parse_args()


if __name__ == "__main__":
    main()
