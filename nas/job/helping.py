"""The training of a supernet, by one process or by several: those beside the first train their part of its batches,
and nothing else."""

import dataclasses
import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

import nas
from nas import config, hosts, registry
from nas.config import Config
from nas.errors import UsageError
from nas.evaluators.supernet import Supernet
from nas.job.context import Ongoing
from nas.job.subject import Subject, load_subject
from nas.report.progress import Reporter
from nas.streams import PATHS, PRETRAINING_PATHS, WEIGHTS, stream
from nas.training.compilation import quick_start
from nas.training.net import flatten, split, supernet
from nas.training.sgd import fit
from strategies.base import GradientStrategy

# What the search needs after the training: its files may lie with the first process alone.
LATER = ("latency", "cost", "limit", "prior", "prescreen", "warm_start", "save_predictor", "log", "time", "name")
LATER += ("data_dir",)
OWN = ("task", "data_dir", "pretrain")  # where the data lie is each process's own


def check(settings: Config, subject: Subject) -> None:
    """Raises UsageError for a job whose supernet several processes cannot train together."""
    if hosts.count() == 1:
        return
    said = f"num_processes={hosts.count()}"
    supernet_alone = subject.task is not None and settings.architecture is None
    if not supernet_alone or isinstance(settings.strategy, GradientStrategy):
        raise UsageError(f"{said}: processes train together the supernet of a search that is not by gradients, only")
    if not isinstance(settings.evaluator, Supernet):
        raise UsageError(f"{said}: processes train together for --evaluator supernet only")
    recipes = {"training": settings.training}
    if subject.pretraining is not None:
        recipes["pretraining"] = subject.pretraining.recipe
    for name, recipe in recipes.items():
        if recipe.batch_size % jax.device_count():
            allowed = f"a multiple of {jax.device_count()}, the devices of all {hosts.count()} processes"
            raise UsageError(f"{name}.batch_size={recipe.batch_size} must be {allowed}")


def train(
    settings: Config,
    subject: Subject,
    affine: bool,
    *,
    paths: Callable[[int, int], np.ndarray],
    kept: Callable[[str, str, int, str], dict[str, Any]],
    keep: Callable[..., None],
) -> dict[str, np.ndarray]:
    """The weights of the supernet, after those of its classifiers where there is to be pretraining.

    `paths(purpose, steps)` are those of a training; what the first process has counts. `kept` gives by the title, the
    file, the steps and the kind of a training where its progress is kept and shown; `keep` notes the file.
    """
    task, recipe, pretraining = subject.images, settings.training, subject.pretraining
    key = stream(settings.seed, WEIGHTS)
    graph, start, statistics = split(supernet(subject.space, task.kind, key, affine=affine))
    if pretraining is not None:
        steps = pretraining.recipe.steps
        along = hosts.agreed(paths(PRETRAINING_PATHS, steps))
        how = kept("Pretraining shared weights", "pretrained", steps, "pretraining")
        start = pretraining.begun(start, pretraining.shared(along, settings.seed, affine, **how))
        keep("pretrained", how.get("saved"))
    how = kept("Training shared weights", "supernet", recipe.steps, "training")
    along = hosts.agreed(paths(PATHS, recipe.steps))
    weights = fit(graph, start, statistics, task, recipe, seed=settings.seed, paths=along, **how)
    keep("supernet", how.get("saved"))
    return flatten(weights)


def ask(job: Ongoing, affine: bool) -> None:
    """Tells the other processes, if there are any, what is to be trained. Raises UsageError with what they say."""
    if hosts.count() == 1:
        return
    job.reporter.say(f"Training with {hosts.count()} processes, on {jax.device_count()} devices.")
    files = {name: [path, source.decode("latin-1")] for name, (path, source) in registry.sources().items()}
    given = {**config.to_data(job.settings, job.run.given), **dict.fromkeys((*LATER, *config.ELSEWHERE))}
    given["final"] = {**given["final"], "teacher": None}
    hosts.tell({"given": given, "files": files, "affine": affine, "same": _same(job.settings, job.subject, affine)})


def help_train(data: Mapping[str, Any], reporter: Reporter) -> str:
    """By a process beside the first: trains its part, and says so. Raises UsageError for an order that it cannot do,
    RunError where another process ends."""
    order = hosts.told()
    try:
        settings, subject = _ready(order, {name: data[name] for name in OWN if name in data}, reporter)
    except Exception as error:
        hosts.answer(registry.told(error) if not isinstance(error, UsageError) else str(error))
        raise
    hosts.answer("")

    def paths(purpose: int, steps: int) -> np.ndarray:
        return np.zeros((steps, len(subject.space.cardinalities)), np.int32)

    def kept(title: str, file: str, steps: int, kind: str) -> dict[str, Any]:
        return {"on_step": lambda step, loss: reporter.show(title, step, steps, f"loss {loss:.3f}")}

    with hosts.together():
        train(settings, subject, order["affine"], paths=paths, kept=kept, keep=lambda kind, path: None)
    return f"Process {hosts.number()} has trained its part; process 0 goes on with the search.\n"


def _ready(order: Mapping[str, Any], own: Mapping[str, Any], reporter: Reporter) -> tuple[Config, Subject]:
    """Raises UsageError where this process would compute something else than the first."""
    registry.install({name: (path, text.encode("latin-1")) for name, (path, text) in order["files"].items()})
    given = {name: value for name, value in {**order["given"], **own}.items() if value is not None}
    settings = config.build({**given, "objectives": Config.objectives})
    quick_start()
    subject = load_subject(settings, config.names(given)["space"], reporter=reporter)
    here = _same(settings, subject, order["affine"])
    for name, value in order["same"].items():
        if here[name] != value:
            raise UsageError(f"{name} is {here[name]} here and {value} in process 0; it must be the same")
    return settings, subject


def _same(settings: Config, subject: Subject, affine: bool) -> dict[str, str]:
    """What must be equal in all processes."""
    network = supernet(subject.space, subject.images.kind, stream(settings.seed, WEIGHTS), affine=affine)
    described = [(leaf.shape, str(leaf.dtype)) for leaf in jax.tree.leaves(split(network)[1:])]
    recipe = dataclasses.replace(settings.training, checkpoint_seconds=0.0)
    found = {"the data": subject.fingerprint, "the supernet": described, "the recipe": repr(recipe)}
    digests = {name: hashlib.sha256(str(value).encode()).hexdigest()[:12] for name, value in found.items()}
    return {"nas-engine": nas.__version__, "jax": jax.__version__, **digests}
