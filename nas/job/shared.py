"""The network of an architecture that was not trained alone, with the weights that its run's architectures shared."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx

from nas import config
from nas.errors import UsageError
from nas.evaluators.supernet import Supernet, calibration
from nas.job.chosen import with_recipes
from nas.job.finals import description
from nas.job.subject import Subject, load_subject
from nas.report import command_lines
from nas.report.progress import Reporter
from nas.saved import checkpoint, exports
from nas.store.query import RETRAIN, Run, Trial
from nas.store.sql import Store
from nas.training.net import Headed, alone, calibrate, flatten, images_at_once, measure, split, supernet, unflatten
from nas.training.recipe import Recipe
from spaces.abilities import Prunable
from spaces.base import costs, fingerprint


def export_shared(
    store: Store, architecture: str, out: Path, run: Run | None, *, reporter: Reporter | None = None, **how: Any
) -> str:
    """Writes the part of the shared weights that an architecture has, with statistics that are measured anew: of a run,
    or of the last one that has some. See `exports.write`. Returns the name of the run.

    It goes on with the configuration of the run, as `--resume` does. Raises UsageError where there are no such weights.
    """
    exports.check(out, **how)
    run = run or _last(store, architecture)
    source = _source(store, run, _trial(store, run, architecture), reporter)
    exports.write(store, source, out, reporter=reporter, **how)
    return run.name


def _last(store: Store, architecture: str) -> Run:
    """The last run that knows the architecture and has shared weights; else the last that knows it."""
    names = dict.fromkeys(score["run"] for score in store.show(architecture)["scores"])
    runs = [store.run(name) for name in names]
    if not runs:
        raise UsageError(f"architecture={architecture!r} has no score that says which run has its shared weights")
    having = [run for run in runs if store.artifacts(run.id, kind="supernet")]
    return max(having or runs, key=lambda run: run.id)


def _trial(store: Store, run: Run, architecture: str) -> Trial:
    trials = [*store.trials(run.id), *store.trials(run.id, "final")]
    found = next((trial for trial in trials if trial.architecture == architecture), None)
    if found is None:
        raise UsageError(f"architecture={architecture!r} is none of run={run.name!r}")
    return found


def _source(store: Store, run: Run, trial: Trial, reporter: Reporter | None) -> exports.Source:
    file = _file(store, run)
    given = {**run.given, "store": store.url}
    settings = config.build(given)
    settings = dataclasses.replace(settings, final=dataclasses.replace(settings.final, teacher=None))  # not of these
    subject = load_subject(settings, config.names(given)["space"], reporter=reporter)
    settings = with_recipes(settings, given, subject)
    for name, found, what in (
        ("space", fingerprint(subject.named), "architectures"),
        ("task", subject.fingerprint, "images or labels"),
    ):
        if run.config.get(name) != found:
            raise UsageError(f"{name}={getattr(run, name)!r} has other {what} than when run={run.name!r} began")
    evaluator = settings.evaluator
    assert isinstance(evaluator, Supernet)  # it has trained shared weights
    arrays = _arrays(file, settings.training)
    row = np.asarray(trial.encoding, np.int32)
    network = _pruned(file, subject, row, arrays, evaluator.affine)
    arrays, metrics = _calibrated(network, subject, evaluator, settings.training.precision)
    encoding = tuple(map(int, row))
    told = description(run, subject, encoding, {**metrics, **costs(subject.space, encoding)}, settings.seed)
    told |= {"trained_alone": False, "shared_weights": checkpoint.digest(file)}
    return exports.Source(f"architecture={trial.architecture!r}", told, run, file, arrays)


def _file(store: Store, run: Run) -> Path:
    """The checkpoint of the shared weights, after the last step. Raises UsageError for a run that has none."""
    files = store.artifacts(run.id, kind="supernet")
    if not files:
        evaluator = config.named(run.given.get("evaluator", config.Config.evaluator), "evaluator")[0]
        by_strategy = run.strategy == RETRAIN or store.artifacts(run.id, kind="search")
        by = f"strategy={run.strategy!r}" if by_strategy else f"evaluator={evaluator!r}"
        train = command_lines.ask("retrain ARCHITECTURE", store.url)
        raise UsageError(
            f"run={run.name!r} keeps no shared weights of single architectures, by {by}: {train} trains one"
        )
    path = Path(files[-1].path)
    if checkpoint.digest(path) != files[-1].sha256:
        raise UsageError(f"{path} is not the file that the run wrote: its sha256 differs")
    return path


def _arrays(file: Path, recipe: Recipe) -> dict[str, np.ndarray]:
    """The weights by name, with `ema` their average, without the optimiser's state."""
    begin = "average.weights." if recipe.ema else "weights."
    arrays, note = checkpoint.read(file)
    if note.get("step") != recipe.steps:
        raise UsageError(
            f"{file} are weights after {note.get('step')} of {recipe.steps} steps: go on with the run first"
        )
    return {name.removeprefix(begin): array for name, array in arrays.items() if name.startswith(begin)}


def _pruned(file: Path, subject: Subject, row: np.ndarray, arrays: dict[str, np.ndarray], affine: bool) -> nnx.Module:
    """The network of the architecture alone. Where the supernet's normalisation has no scales and biases, they change
    nothing here."""
    space, kind = subject.space, subject.images.kind
    if not isinstance(space, Prunable):
        raise UsageError(f"space={type(space).__name__!r} cannot take an architecture out of its shared weights")
    graph, weights, statistics = split(supernet(space, kind, jax.random.key(0), affine=affine))
    try:
        whole: Any = nnx.merge(graph.definition, unflatten(weights, arrays), statistics)
    except ValueError as error:
        raise UsageError(f"{file} does not fit the space of its run: {error}") from error
    body = space.pruned(whole.body if isinstance(whole, Headed) else whole, row)
    _, weights, moments = split(Headed(body, whole.head) if isinstance(whole, Headed) else body)
    found = flatten(weights)
    built = alone(space, kind, row, jax.random.key(0))
    definition, own, statistics = nnx.split(built, nnx.Param, nnx.BatchStat)
    if flatten(moments).keys() != flatten(statistics).keys():
        said = "normalises what its network alone does not, as pools of cells: --evaluator.affine searches without that"
        raise UsageError(f"encoding={row.tolist()} cannot be taken out of the shared weights, which {said}")
    named = {name: found[name] if name in found else _neutral(name, array) for name, array in flatten(own).items()}
    return nnx.merge(definition, unflatten(own, named), statistics)


def _neutral(name: str, array: np.ndarray) -> np.ndarray:
    """A scale or a bias of normalisation that changes nothing."""
    part = name.split(".")[-2]
    if part not in ("scale", "bias") or array.ndim != 1:
        raise UsageError(f"array {name!r} is missing from the shared weights")
    return np.full_like(array, part == "scale")


def _calibrated(
    network: nnx.Module, subject: Subject, evaluator: Supernet, precision: str
) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """The arrays with the statistics of the images that the search calibrated by, and the metric in validation."""
    task, (graph, weights, statistics) = subject.images, split(network)
    how = {"batch": images_at_once(task), "precision": precision}
    images = calibration(task, evaluator.calibration_images)
    statistics = calibrate(graph, weights, statistics, images, task, (), **how)
    metrics = measure(graph, weights, statistics, task.valid, task, (), **how)
    return {**flatten(weights), **flatten(statistics)}, metrics
