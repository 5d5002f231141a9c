"""Do shared weights rank architectures as training each of them does? With and without recalibrated statistics.

    python benchmarks/rank_correlation.py --task folder:CIFAR --image-size 16 --space nasbench201:tiny --table FILE
    python benchmarks/rank_correlation.py --task folder:CIFAR --image-size 16 --space shufflenet:tiny --seeds 2
    python benchmarks/rank_correlation.py --task digits --final-steps 300
    python benchmarks/rank_correlation.py ... --variants uniform,fair,cost-binned,average --supernet-seeds 3

Random architectures are scored by their validation error with shared weights, and each is trained from scratch by
itself; the correlation is that of the two errors, so that 1 is a perfect ranking and 0 none (Yu et al., "Evaluating
the search phase of neural architecture search", 2020, https://arxiv.org/abs/1902.08142, measure it so). With --table
the errors of cells of NAS-Bench-201 are those of its table, and nothing is trained alone.

The variants are ways to train the shared weights or to read them, see VARIANTS. With --shared-statistics a row says
what a supernet has without recalibration: one mean and variance for each (decision, choice), averaged over batches of
which each takes a random path, after the training, so that they at least fit the final weights.

Two more rows tell how good is good: ranking by multiply-adds alone, the more the better; and, with --seeds 2 or more,
one stand-alone training as the predictor of another of the same architecture with a different seed. p says whether a
tau above that of multiply-adds is more than chance: over bootstrap samples of the architectures.
"""

import argparse
import hashlib
import itertools
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import report
from flax import nnx
from scipy.stats import kendalltau, spearmanr

from nas import config, streams
from nas.config import Config
from nas.engine.executors import Executor, InProcess
from nas.errors import RunError, UsageError
from nas.evaluators.base import Evaluator, Job
from nas.evaluators.supernet import SupernetEvaluator
from nas.evaluators.train import TrainEvaluator
from nas.job.subject import bind, load_task
from nas.streams import stream
from nas.tables import read_table
from nas.tasks.base import Task
from nas.training.compilation import quick_start
from nas.training.net import Graph, calibrate, flatten, measure, on_path, split, unflatten
from nas.training.paths import training_paths, uniform_paths
from nas.training.schedule import batch_indices
from nas.training.sgd import fit
from spaces.base import Space, costs, fingerprint, indices, sample
from spaces.shared import Shared

Encoding = tuple[int, ...]
SHARED = "shared statistics"
# What each sets of a job's configuration. Those that train alike share their weights.
VARIANTS: dict[str, config.Data] = {
    "uniform": {},
    "fair": {"paths": "fair"},
    "cost-binned": {"paths": "cost-binned"},
    "average": {"training": {"ema": 0.99}},
    "fair-average": {"paths": "fair", "training": {"ema": 0.99}},
    "calibration-64": {"evaluator": {"calibration_images": 64}},
    "calibration-4096": {"evaluator": {"calibration_images": 4096}},
    "affine": {"evaluator": {"affine": True}},
}
MACS = "multiply-adds, more is better"
RESAMPLES = 2000  # of the architectures, for p


def main() -> None:
    options = _options()
    found: dict = {"machine": report.machine(("jax", "jaxlib", "flax", "numpy", "scipy"))}
    found["options"] = {name: str(value) for name, value in vars(options).items()}
    quick_start()
    variants = {name: config.build(_data(options, VARIANTS[name])) for name in options.variants}
    settings = next(iter(variants.values()))
    task = load_task(settings)
    space = bind(settings.space, task)
    encodings = architectures(space, stream(options.seed, streams.SAMPLE), options.architectures)
    found["architectures"] = [list(encoding) for encoding in encodings]
    found["macs"] = [costs(space, encoding)["macs"] for encoding in encodings]
    found["seconds"] = {}
    with _timed(found["seconds"], "shared weights"), tempfile.TemporaryDirectory() as folder:
        where = options.supernets or Path(folder)
        found["errors"] = [
            scores(variants, space, task, where, seed, encodings, options.shared_statistics)
            for seed in range(options.seed, options.seed + options.supernet_seeds)
        ]
    if options.table:
        found["test_errors"] = looked_up(options.table, options.dataset, encodings)
    else:
        with _timed(found["seconds"], "training from scratch"):
            evaluator = TrainEvaluator(space, task, settings.final, pruned=False, tests=True)
            found["test_errors"] = stand_alone(evaluator, encodings, options.seeds, options.workers)
    found["correlations"] = correlations(found)
    print(report.line(found["machine"]), "", summary(found, options), sep="\n")
    report.write(options.json, found)
    if options.plot is not None:
        plot(found, options)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--space", default="shufflenet:tiny", help="[shufflenet:tiny]")
    parser.add_argument("--fields", nargs="*", default=[], metavar="NAME=N", help="of the space, such as width=16")
    parser.add_argument("--task", default="fashion-mnist", help="of run_search.py [fashion-mnist]")
    parser.add_argument("--table", help="NAS-Bench-201, for its cells, in place of trainings")
    parser.add_argument("--dataset", default="cifar10", help="of the table [cifar10]")
    parser.add_argument("--variants", type=_variants, default=["uniform"], help=f"of {', '.join(VARIANTS)} [uniform]")
    parser.add_argument("--shared-statistics", action="store_true", help="score without recalibration, too")
    parser.add_argument("--data-dir", help="of the task, where it needs one")
    parser.add_argument("--image-size", type=int, help="pixels to which images are resized")
    parser.add_argument("--max-images", type=int, help="images for training and validation")
    parser.add_argument("--architectures", type=int, default=24, help="how many, drawn uniformly [24]")
    parser.add_argument("--steps", type=int, default=2500, help="of training the supernet [2500]")
    parser.add_argument("--final-steps", type=int, default=1000, help="of training one architecture [1000]")
    parser.add_argument("--learning-rate", type=float, help="of both; by default that of run_search.py")
    parser.add_argument("--supernets", type=Path, metavar="DIR", help="of shared weights: used if there, else written")
    parser.add_argument("--supernet-seeds", type=int, default=1, help="supernets, trained with different seeds [1]")
    parser.add_argument("--seeds", type=int, default=1, help="trainings from scratch of each architecture [1]")
    parser.add_argument("--seed", type=int, default=0, help="the first seed, and that of the architectures [0]")
    parser.add_argument("--workers", type=int, default=2, help="Ray workers; 0 trains in this process [2]")
    parser.add_argument("--plot", type=Path, metavar="PNG", help="draw the errors here (matplotlib)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all numbers here")
    return parser.parse_args()


def _variants(text: str) -> list[str]:
    names = text.split(",")
    if unknown := [name for name in names if name not in VARIANTS]:
        raise argparse.ArgumentTypeError(f"{unknown[0]!r} is not one of {', '.join(VARIANTS)}")
    return names


def _data(options: argparse.Namespace, variant: config.Data) -> config.Data:
    """What the flags and a variant say, as the configuration of a job."""
    rate = {} if options.learning_rate is None else {"learning_rate": options.learning_rate}
    data = {name: getattr(options, name) for name in ("space", "task", "data_dir", "image_size", "max_images")}
    fields = {name: int(value) for name, _, value in (field.partition("=") for field in options.fields)}
    return {
        **{name: value for name, value in data.items() if value is not None},
        "space": {"name": options.space, **fields},
        **variant,
        "training": {"steps": options.steps, **rate, **variant.get("training", {})},
        "final": {"steps": options.final_steps, **rate},
    }


class _timed:
    def __init__(self, seconds: dict[str, float], stage: str):
        self._seconds, self._stage = seconds, stage

    def __enter__(self) -> None:
        self._start = time.monotonic()

    def __exit__(self, *_: object) -> None:
        self._seconds[self._stage] = time.monotonic() - self._start
        report.say(f"{self._stage}: {self._seconds[self._stage]:.0f} s")


def architectures(space: Space, key: jax.Array, n: int) -> list[Encoding]:
    """`n` different ones."""
    rows = np.asarray(space.canonical(sample(space, key, 4 * n))).tolist()
    distinct = list(dict.fromkeys(tuple(row) for row in rows))
    if len(distinct) < n:
        raise UsageError(f"architectures={n} must be at most {len(distinct)}, the different ones of {4 * n} drawn")
    return distinct[:n]


def scores(
    variants: dict[str, Config],
    space: Space,
    task: Task,
    where: Path,
    seed: int,
    encodings: Sequence[Encoding],
    statistics: bool,
) -> dict[str, list[float]]:
    """By variant, the validation errors of the architectures with the weights of one supernet."""
    found = {}
    for name, settings in variants.items():
        how = settings.evaluator
        graph, weights, initial = trained(settings, space, task, where, seed)
        evaluator = SupernetEvaluator(space, flatten(weights), task, how.calibration_images, affine=how.affine)
        found[name] = [evaluator(encoding, 0, seed).metrics["error"] for encoding in encodings]
        if statistics and SHARED not in found:
            paths = uniform_paths(space, stream(seed, streams.CALIBRATION), 64 * max(space.cardinalities))
            tables = _Tables(graph, weights, initial, task, paths, settings.training.batch_size, seed)
            found[SHARED] = [tables.error(encoding, evaluator.batch_size) for encoding in encodings]
    for name, errors in found.items():
        report.say(f"supernet {seed}, {name}: errors {min(errors):.2%} to {max(errors):.2%}")
    return found


def trained(settings: Config, space: Space, task: Task, where: Path, seed: int) -> tuple[Graph, nnx.State, nnx.State]:
    """A supernet; from its file, where it is there."""
    recipe, affine = settings.training, settings.evaluator.affine
    graph, weights, statistics = split(space.supernet(stream(seed, streams.WEIGHTS), affine=affine))
    key, bins = stream(seed, streams.PATHS), settings.cost_bins
    of_recipe = hashlib.sha256(repr((recipe, settings.paths, affine)).encode()).hexdigest()[:8]
    weights = fit(
        *(graph, weights, statistics, task, recipe),
        seed=seed,
        paths=training_paths(settings.paths, space, key, recipe.steps, bins=bins, limits=()),
        saved=where / f"{of_recipe}-{seed}.safetensors",
        note={"space": fingerprint(space), **space.identity()},
        on_step=_progress(f"supernet {seed}, {settings.paths}", recipe.steps),
    )
    return graph, weights, statistics


class _Tables:
    """The statistics of a supernet: for each (decision, choice) the mean over the batches whose path took it."""

    def __init__(self, graph, weights: nnx.State, statistics: nnx.State, task: Task, paths, batch: int, seed: int):
        self.graph, self.weights, self.statistics, self.task = graph, weights, statistics, task
        leaves = jax.tree_util.tree_flatten_with_path(weights, is_leaf=lambda leaf: isinstance(leaf, Shared))[0]
        places = {jax.tree_util.keystr(path[:-1], simple=True, separator="."): leaf for path, leaf in leaves}
        # The weights of a choice and its statistics lie beside each other in the network.
        self._shared = {f"{name}.statistics.value": leaf for name, leaf in places.items() if isinstance(leaf, Shared)}
        totals: dict[str, np.ndarray] = {}
        counts: dict[str, np.ndarray] = {}
        for i, path in enumerate(paths):
            images = task.train.images[batch_indices(seed, i, len(task.train), batch)]
            how = {"batch": batch, "precision": "float32"}
            measured = calibrate(graph, on_path(weights, jnp.asarray(path)), statistics, images, task, path, **how)
            for name, value in flatten(measured).items():
                where = self._where(name, path)
                if not totals.get(name, np.empty(0)).size:
                    shape = self._shared[name].shape[:2] if name in self._shared else ()
                    counts[name] = np.zeros(shape)
                    totals[name] = np.zeros((*shape, value.shape[-1]))
                totals[name][where] += value
                counts[name][where] += 1
        assert all(count.all() for count in counts.values()), "some choice was on no path"
        self._means = {name: totals[name] / counts[name][..., None] for name in totals}

    def _where(self, name: str, path: Sequence[int]):
        """The entries of a table that lie on the path; of statistics that all paths share, the whole."""
        if name not in self._shared:
            return ...
        leaf = self._shared[name]
        return np.arange(leaf.shape[0]), np.asarray(leaf.picks(path))

    def error(self, encoding: Encoding, batch: int) -> float:
        rows = {name: np.float32(mean[self._where(name, encoding)]) for name, mean in self._means.items()}
        path = jnp.asarray(encoding, jnp.int32)
        weights, statistics = on_path(self.weights, path), unflatten(self.statistics, rows)
        valid = self.task.valid
        how = {"batch": batch, "precision": "float32"}
        return measure(self.graph, weights, statistics, valid, self.task, path, **how)[self.task.kind.metric]


def looked_up(file: str, dataset: str, encodings: Sequence[Encoding]) -> list[list[float]]:
    """The test errors of a table."""
    table = read_table(file)
    rows = np.asarray(indices(table.space, np.array(encodings)))
    return table.column(table.longest(dataset)["test"])[rows][:, None].tolist()


def stand_alone(evaluator: Evaluator, encodings: Sequence[Encoding], seeds: int, workers: int) -> list[list[float]]:
    """The test error of each architecture, trained from scratch with each of the seeds."""
    jobs = [(i, seed) for seed in range(seeds) for i in range(len(encodings))]
    errors = [[float("nan")] * seeds for _ in encodings]
    executor = _executor(evaluator, workers)
    say = _progress("from scratch", len(jobs))
    try:
        for number, (i, seed) in enumerate(jobs):
            executor.submit(Job(number, encodings[i], 0, seed))
        for done in range(len(jobs)):
            said = executor.wait()
            i, seed = jobs[said.number]
            if said.evaluation is None:
                raise RunError(f"training {encodings[i]} failed: {said.error}")
            errors[i][seed] = said.evaluation.metrics["test_error"]
            say(done + 1, errors[i][seed])
    finally:
        executor.close()
    return errors


def _executor(evaluator: Evaluator, workers: int) -> Executor:
    if workers == 0:
        return InProcess(evaluator)
    from nas.engine.ray_pool import RayPool

    return RayPool(evaluator, workers)


def _progress(what: str, total: int) -> Callable[[int, float], None]:
    """Says every tenth of the way how far it is."""
    said = [-1]

    def say(done: int, value: float) -> None:
        if 10 * done // total != said[0]:
            said[0] = 10 * done // total
            report.say(f"{what}: {done} of {total} ({value:.3f})")

    return say


def correlations(found: dict) -> dict[str, dict[str, list[float]]]:
    """By score: Kendall's tau, its p-value, Spearman's rho and the chance that its tau is no higher than that of
    multiply-adds; a number a supernet (or a pair of trainings)."""
    trained = np.array(found["test_errors"])
    mean, macs = trained.mean(1), -np.array(found["macs"])
    pairs = {name: [(errors[name], mean) for errors in found["errors"]] for name in found["errors"][0]}
    pairs[MACS] = [(macs, mean)]
    repeats = list(itertools.combinations(trained.T, 2))
    if repeats:
        pairs["another training from scratch"] = repeats
    return {
        name: {
            "tau": [float(kendalltau(a, b).statistic) for a, b in both],
            "p": [float(kendalltau(a, b).pvalue) for a, b in both],
            "rho": [float(spearmanr(a, b).statistic) for a, b in both],
            "p above": [above(a, macs, b) for a, b in both] if name != MACS else [],
        }
        for name, both in pairs.items()
    }


def above(score: Sequence[float], other: np.ndarray, errors: np.ndarray) -> float:
    """The share of bootstrap samples of the architectures in which `score` orders no better than `other`."""
    rng, score, n = np.random.default_rng(0), np.array(score), len(errors)
    lost = 0
    for _ in range(RESAMPLES):
        rows = rng.integers(0, n, n)
        lost += not kendalltau(score[rows], errors[rows]).statistic > kendalltau(other[rows], errors[rows]).statistic
    return lost / RESAMPLES


def summary(found: dict, options: argparse.Namespace) -> str:
    def shown(values: list[float]) -> str:
        return (
            f"{values[0]:.2f}"
            if len(values) == 1
            else f"{np.mean(values):.2f} ({min(values):.2f} to {max(values):.2f})"
        )

    def span(errors) -> str:
        return f"{np.min(errors):.1%} to {np.max(errors):.1%}"

    rows = []
    for name, values in found["correlations"].items():
        errors = span([each[name] for each in found["errors"]]) if name in found["errors"][0] else ""
        p, better = (", ".join(f"{p:.1g}" for p in values[which]) for which in ("p", "p above"))
        rows.append((name, shown(values["tau"]), p, better, shown(values["rho"]), errors))
    columns = ("score", "Kendall tau", "p", "p against multiply-adds", "Spearman rho", "validation errors")
    means = np.mean(found["test_errors"], axis=1)
    took = ", ".join(f"{stage} {seconds:.0f} s" for stage, seconds in found["seconds"].items())
    truth = f"{options.seeds} training(s) from scratch of {options.final_steps} steps"
    truth = f"the trainings of a table on {options.dataset}" if options.table else truth
    return (
        f"{options.task}, {options.space}: {options.architectures} random architectures, {options.supernet_seeds} "
        f"supernet(s) of {options.steps} steps, {truth}, whose test errors are {span(means)}. {took}.\n\n"
        f"{report.table(columns, rows)}"
    )


def plot(found: dict, options: argparse.Namespace) -> None:
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise UsageError(f"plot={str(options.plot)!r} needs matplotlib, which is not installed") from None
    names = list(found["errors"][0])
    figure = Figure(figsize=(4 * len(names), 4), layout="constrained")
    axes = figure.subplots(1, len(names), sharey=True, squeeze=False)[0]
    trained = 100 * np.mean(found["test_errors"], axis=1)
    for axis, name in zip(axes, names, strict=True):
        for errors in found["errors"]:
            axis.scatter(100 * np.array(errors[name]), trained, s=16)
        tau = np.mean(found["correlations"][name]["tau"])
        axis.set(xlabel=f"validation error with shared weights, {name}, %", title=f"Kendall tau {tau:.2f}")
    axes[0].set_ylabel("test error trained from scratch, %")
    figure.savefig(options.plot, dpi=120)


if __name__ == "__main__":
    try:
        main()
    except (UsageError, RunError) as failure:
        raise SystemExit(f"rank_correlation.py: error: {failure}") from failure
