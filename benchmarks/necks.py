"""Is the neck that a search found better than the published ones? Detectors that differ in nothing else, trained alike.

    python benchmarks/necks.py --task voc:DIR --skip-invalid              the search and all trainings
    python benchmarks/necks.py --task voc:DIR --search-only found.txt     the search alone
    python benchmarks/necks.py --task voc:DIR --found found.txt --part 1/4 --json 1.json     a quarter of the necks
    python benchmarks/necks.py --table 1.json 2.json 3.json 4.json

The search is by shared weights, and sees validation alone. Then each neck is trained from scratch with each seed, and
tested once, after its last step: what was found, the published ones, and random ones whose detectors cost as much,
within 10 %. Of the published ones, so many are stacked that their detector costs nearest to the one found.
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
import jax.numpy as jnp
import numpy as np
import report
from scipy.stats import mannwhitneyu

import nas
from nas.evaluators.train import TrainEvaluator
from nas.job.subject import bind
from nas.tasks import load
from nas.tasks.base import Task
from nas.training.compilation import quick_start
from nas.training.net import calibrate, head_costs, headed, images_at_once, measure, split
from nas.training.recipe import Recipe
from nas.training.sgd import fit
from spaces import pyramids
from spaces.base import sample
from spaces.nas_fpn import NasFpn, reference

PUBLISHED = ("FPN", "PANet", "BiFPN")
FIELDS = ("width", "stacks", "backbone")  # of the space
ALIKE = 0.1  # how far costs may differ
Neck = tuple[str, str, int]  # its name, a description or the name of a published one, and how often it is stacked


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", default="scenes", help="[%(default)s]")
    parser.add_argument("--skip-invalid", action="store_true", help="leave out what is invalid of the task")
    parser.add_argument("--image-size", type=int, default=256, help="[%(default)s]")
    parser.add_argument("--max-images", type=int)
    parser.add_argument("--backbone", default="resnet-10-thin", help="[%(default)s]")
    parser.add_argument("--width", type=int, default=64, help="channels of necks and heads [%(default)s]")
    parser.add_argument("--stacks", type=int, default=1, help="of the space's necks [%(default)s]")
    parser.add_argument("--strategy", default="evolution", help="[%(default)s]")
    parser.add_argument("--trials", type=int, default=200, help="of the search [%(default)s]")
    parser.add_argument("--shared-steps", type=int, default=1500, help="of the shared weights' training [%(default)s]")
    parser.add_argument("--steps", type=int, default=800, help="of each training from scratch [%(default)s]")
    parser.add_argument("--batch-size", type=int, default=16, help="[%(default)s]")
    parser.add_argument("--learning-rate", type=float, default=0.04, help="[%(default)s]")
    parser.add_argument("--seeds", type=int, default=5, help="trainings of each neck [%(default)s]")
    parser.add_argument("--search-seed", type=int, default=0, help="[%(default)s]")
    parser.add_argument("--random", type=int, default=8, help="necks beside the one found [%(default)s]")
    parser.add_argument("--search-only", type=Path, metavar="FILE", help="write what was found here, and end")
    parser.add_argument(
        "--found", type=Path, nargs="+", default=[], metavar="FILE", help="of searches; none is run then"
    )
    parser.add_argument("--only-found", action="store_true", help="train these alone")
    parser.add_argument("--part", default="1/1", help="which of the necks to train, as K/N [%(default)s]")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all numbers here, as they come")
    parser.add_argument("--table", type=Path, nargs="+", metavar="FILE", help="print the table of these files, and end")
    options = parser.parse_args()
    if options.table:
        return print(table([json.loads(line) for file in options.table for line in file.read_text().splitlines()]))
    quick_start()
    task = load(
        options.task,
        image_size=options.image_size,
        max_images=options.max_images,
        skip_invalid=options.skip_invalid,
    )
    space: Any = bind(NasFpn(**{name: getattr(options, name) for name in FIELDS}), task)
    found = {file.stem: file.read_text().strip() for file in options.found}
    if not found:
        start = time.perf_counter()
        found["found"] = searched(options, space)
        report.say(f"the search took {time.perf_counter() - start:.0f} s: {found['found']}")
    if options.search_only:
        options.search_only.write_text(found["found"] + "\n")
        return None
    necks = [(name, text, options.stacks) for name, text in found.items()]
    if not options.only_found:
        necks += others(space, task, next(iter(found.values())), options.random)
    k, n = map(int, options.part.split("/"))
    jobs = [(neck, seed) for seed in range(options.seeds) for neck in necks[k - 1 :: n]]
    recipe = Recipe(steps=options.steps, **common(options))
    rows = []
    for row in trained(space, task, recipe, jobs):
        rows.append(row)
        report.say(json.dumps(row))
        if options.json:
            with options.json.open("a") as file:
                print(json.dumps(row), file=file)
    print(table(rows))
    print("\n" + report.line(report.machine(("jax", "jaxlib", "flax"))))
    return None


def common(options: argparse.Namespace) -> dict[str, Any]:
    """What the recipes of shared weights and of training from scratch have in common."""
    given = {"batch_size": options.batch_size, "learning_rate": options.learning_rate}
    return given | {"crop": 0, "flip": True, "jitter": 0.2, "clip": 10}


def searched(options: argparse.Namespace, space: NasFpn) -> str:
    """The neck of highest precision by shared weights, within the cost of the published one."""
    row = jnp.asarray(space.parse("NAS-FPN"))[None]
    limit = f"neck_macs <= {float(space.cost(row)['neck_macs'][0]):.0f}"
    with tempfile.TemporaryDirectory() as folder:
        outcome = nas.search(
            space={"name": "nas-fpn:small"} | {name: getattr(options, name) for name in FIELDS},
            strategy=options.strategy,
            task=options.task,
            image_size=options.image_size,
            max_images=options.max_images,
            skip_invalid=options.skip_invalid,
            trials=options.trials,
            limit=limit,
            workers=0,
            seed=options.search_seed,
            finalists=0,
            baselines=0,
            store=f"sqlite:///{folder}/nas.db",
            training={"steps": options.shared_steps, **common(options)},
        )
    best = outcome.best[0]
    report.say(f"validation by shared weights: {best['ap']:.3f}")
    return str(best["description"])


def others(space: NasFpn, task: Task, found: str, count: int) -> list[Neck]:
    """The published necks and random ones, whose detectors cost as much as the one found."""
    row = jnp.asarray(space.parse(found))[None]
    wanted = {name: float(value[0]) for name, value in space.cost(row).items()}
    whole = wanted["macs"] + head_costs(space, task.kind)["macs"][0]
    necks: list[Neck] = [("NAS-FPN", "NAS-FPN", space.stacks)]
    for name in PUBLISHED:
        prices = [pyramids.cost(name, space.width, space.image_size, stacks)["macs"] for stacks in range(1, 9)]
        nearest = int(np.argmin([abs(price - wanted["neck_macs"]) for price in prices]))
        necks.append((name, name, nearest + 1))
    rows = np.asarray(sample(space, jax.random.key(7), 512))
    prices = np.asarray(space.cost(jnp.asarray(rows))["neck_macs"])
    near = np.flatnonzero(np.abs(prices - wanted["neck_macs"]) <= ALIKE * whole)[:count]
    return necks + [(f"random {i}", space.describe(rows[j]), space.stacks) for i, j in enumerate(near)]


def trained(space: NasFpn, task: Task, recipe: Recipe, jobs: list[tuple[Neck, int]]) -> Iterator[dict[str, Any]]:
    evaluator = TrainEvaluator(space, task, recipe, tests=True)
    for (name, text, stacks), seed in jobs:
        start = time.perf_counter()
        if name in PUBLISHED:
            metrics = _reference(space, task, recipe, name, stacks, seed)
            cost = pyramids.cost(name, space.width, space.image_size, stacks)
        else:
            row = space.parse(text)
            metrics = evaluator(tuple(map(int, row)), 0, seed).metrics
            cost = {key: metrics[f"neck_{key}"] for key in ("macs", "params")}
        yield {
            "task": task.name,
            "neck": name,
            "stacks": stacks,
            "text": text,
            "seed": seed,
            **{key: -metrics[f"test_minus_{key}"] for key in ("ap", "ap50")},
            "valid_ap": -metrics["minus_ap"],
            "neck_macs": cost["macs"],
            "neck_params": cost["params"],
            "seconds": time.perf_counter() - start,
        }


def _reference(space: NasFpn, task: Task, recipe: Recipe, name: str, stacks: int, seed: int) -> dict[str, float]:
    key = jax.random.key(seed)
    body = reference(dataclasses.replace(space, stacks=stacks), name, key)
    graph, weights, statistics = split(headed(space, task.kind, body, key, ()))
    weights = fit(graph, weights, statistics, task, recipe, seed=seed)
    how = {"batch": images_at_once(task), "precision": "float32"}
    statistics = calibrate(graph, weights, statistics, task.train.images, task, (), **how)
    found = measure(graph, weights, statistics, task.valid, task, (), **how)
    tested = measure(graph, weights, statistics, task.test, task, (), **how)
    return {**found, **{f"test_{key}": value for key, value in tested.items()}}


def table(rows: list[dict[str, Any]]) -> str:
    """A row a neck; of random ones also all together. p is that of Wilcoxon's rank sum test, of two sides."""
    by_neck: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        by_neck.setdefault(row["neck"], []).append(row)
        if row["neck"].startswith("random"):
            by_neck.setdefault("all random", []).append(row)
    best = next(iter(by_neck.values()))
    lines = []
    for name, of_neck in sorted(by_neck.items(), key=lambda item: -statistics.mean(row["ap"] for row in item[1])):
        aps = [row["ap"] for row in of_neck]
        p = mannwhitneyu([row["ap"] for row in best], aps).pvalue if of_neck is not best else None
        deviation = statistics.stdev(aps) if len(aps) > 1 else 0.0
        lines.append(
            [
                name,
                str(len(aps)),
                f"{100 * statistics.mean(aps):.1f} ± {100 * deviation:.1f}",
                f"{100 * statistics.mean(row['ap50'] for row in of_neck):.1f}",
                f"{statistics.mean(row['neck_macs'] for row in of_neck) / 1e6:.1f} M",
                f"{statistics.mean(row['neck_params'] for row in of_neck) / 1e3:.0f} k",
                "" if p is None else f"{p:.3f}",
            ]
        )
    return report.table(("neck", "trainings", "AP", "AP50", "its multiply-adds", "its parameters", "p"), lines)


if __name__ == "__main__":
    main()
