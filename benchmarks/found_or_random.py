"""Is what a search found better than chance? It and random architectures within the same limits, trained alike.

    apt-get install dataset-fashion-mnist
    python benchmarks/found_or_random.py                              about an hour on 2 cores
    python benchmarks/found_or_random.py --config recipes/other.yaml

The recipe's search runs as `run_search.py --config` would run it; then what it found and some random architectures
are trained from scratch by the recipe `final`, each with the same seeds, and tested once, after their last step.
"""

import argparse
import tempfile
import time
from pathlib import Path

import jax
import numpy as np
import report
from rank_correlation import stand_alone
from scipy.stats import wilcoxon

from nas import config
from nas.evaluators.train import TrainEvaluator
from nas.job import run as job
from nas.job.subject import bind, load_task
from nas.report.progress import Bar
from nas.store.sql import Store
from nas.training.compilation import quick_start
from spaces.base import costs
from strategies.region import draw, region

RECIPES = Path(__file__).parent.parent / "recipes"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=RECIPES / "gumbel_darts_fashion.yaml", metavar="FILE")
    parser.add_argument("--found", nargs="+", default=[], metavar="TEXT", help="of earlier searches; none is run then")
    parser.add_argument("--random", type=int, default=8, help="architectures beside the one found [%(default)s]")
    parser.add_argument("--searches", type=int, default=1, help="with different seeds [%(default)s]")
    parser.add_argument("--seeds", type=int, default=3, help="trainings of each [%(default)s]")
    parser.add_argument("--workers", type=int, default=2, help="Ray workers of the trainings [%(default)s]")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all numbers here")
    options = parser.parse_args()
    if options.random < 1:
        parser.error(f"--random {options.random} must be at least 1: there would be no chance to compare with")
    machine = report.machine(("jax", "jaxlib", "flax"))
    data, _ = config.parse(["--config", str(options.config)])
    settings = config.build(data)
    quick_start()
    task = load_task(settings)
    space = bind(settings.space, task)
    start = time.perf_counter()
    rows = [tuple(map(int, space.parse(text))) for text in options.found]
    rows = rows or [found(data, seed) for seed in range(options.searches)]
    seconds = {"search": (time.perf_counter() - start) / len(rows)}
    chance = draw(region(space, settings.limits), jax.random.key(0), options.random)
    rows += [tuple(int(choice) for choice in row) for row in np.asarray(chance)]
    start = time.perf_counter()
    evaluator = TrainEvaluator(space, task, settings.final, tests=True)
    errors = np.array(stand_alone(evaluator, rows, options.seeds, options.workers))
    seconds["trainings"] = time.perf_counter() - start
    names = [f"found, seed {i}" for i in range(len(rows) - options.random)]
    names += [f"random {i + 1}" for i in range(options.random)]
    print(report.line(machine), "", summary(names, errors, [costs(space, row) for row in rows]), sep="\n")
    print(f"\nA search took {seconds['search'] / 60:.0f} minutes, all trainings {seconds['trainings'] / 60:.0f}.")
    texts = [space.describe(np.array(row)) for row in rows]
    plain = {"errors": errors.tolist(), "names": names, "architectures": texts, "seconds": seconds}
    report.write(options.json, {"machine": machine, **plain})


def found(data: config.Data, seed: int) -> tuple[int, ...]:
    """The architecture that the search ends with."""
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{folder}/nas.db"
        alone = {**data, "store": url, "seed": seed, "finalists": 0, "baselines": 0, "workers": 0}
        with Bar() as bar:
            best = job.search(alone, reporter=bar).best[0]
        with Store(url) as store:
            for trial in store.trials(store.run("latest").id):
                report.say(f"{trial.number}: {trial.measurements['error']:.4f} {trial.description}")
                if trial.architecture == best["architecture"]:
                    encoding = tuple(trial.encoding)
    return encoding


def summary(names: list[str], errors: np.ndarray, prices: list[dict[str, float]]) -> str:
    """Test accuracies in percent, by seed and on average; p of the found ones' against the mean of the random ones'."""
    accuracies, chance = 100 * (1 - errors), np.array([name.startswith("random") for name in names])
    mean = accuracies[chance].mean(0)

    def row(name: str, each: np.ndarray, price: str) -> list[str]:
        return [name, price, *(f"{value:.2f}" for value in each), f"{each.mean():.2f}"]

    rows = [
        row(name, each, f"{price['params']:.0f}") for name, each, price in zip(names, accuracies, prices, strict=True)
    ]
    rows.append(row("mean of the random ones", mean, f"{np.mean([p['params'] for p in np.array(prices)[chance]]):.0f}"))
    heads = [f"seed {seed}" for seed in range(errors.shape[1])]
    gain = (accuracies[~chance] - mean[None]).ravel()
    ahead = f"Ahead of that mean by {gain.mean():.2f} points ({gain.min():.2f} to {gain.max():.2f})"
    ahead += f", Wilcoxon p {wilcoxon(gain).pvalue:.3f}." if len(gain) > 4 else "."
    return report.table(["architecture", "parameters", *heads, "mean"], rows) + "\n\n" + ahead


if __name__ == "__main__":
    main()
