"""What `--pretrain` asks for: the classifiers as which the bodies of detectors are trained first."""

import dataclasses
from typing import Any

from nas.config import Config
from nas.errors import UsageError
from nas.evaluators.train import Scratch
from nas.report.progress import Reporter, reading
from nas.tasks import load
from nas.tasks.augment import check_fits
from nas.tasks.base import Task
from nas.tasks.kinds.classification import Classification
from nas.training.pretraining import Pretraining, with_channels
from nas.training.recipe import misplaced
from nas.training.sgd import augmentation
from spaces.base import Space
from spaces.product import Product
from strategies.base import GradientStrategy


def check_pretraining(settings: Config) -> None:
    """Raises UsageError for what no data are needed to refuse."""
    name = settings.pretrain
    if name is None:
        if settings.pretrain_image_size is not None:
            raise UsageError(f"pretrain_image_size={settings.pretrain_image_size} is of no use without --pretrain TASK")
        return
    if (said := misplaced(settings.pretraining)) is not None:
        raise UsageError(f"pretraining.{said}")
    if settings.task.startswith("table:"):
        raise UsageError(f"pretrain={name!r}: on task={settings.task!r}, a table, nothing is trained")
    if settings.architecture is None and isinstance(settings.strategy, GradientStrategy):
        raise UsageError(f"pretrain={name!r} is not for strategies by gradients, whose weights begin at random")
    if settings.evaluator == "train" or isinstance(settings.evaluator, Scratch):
        raise UsageError(f"pretrain={name!r} is not for evaluator='train', which trains each candidate from scratch")


def pretraining_of(settings: Config, space: Any, task: Task, reporter: Reporter | None = None) -> Pretraining | None:
    """Raises UsageError for tasks and spaces that it is not for."""
    name = settings.pretrain
    if name is None:
        return None
    if task.kind.head is None:
        allowed = "a task whose networks end in a head of its own, such as voc:DIR, coco:JSON,DIR or scenes"
        raise UsageError(f"pretrain={name!r} needs {allowed}; task={settings.task!r} has none")
    try:
        return _bound(settings, space, task, name, reporter)
    except (UsageError, ValueError) as error:
        said = str(error)
        raise UsageError(said if said.startswith(("task=", "pretrain")) else f"pretrain={name!r}: {said}") from error


def _bound(settings: Config, space: Any, task: Task, name: str, reporter: Reporter | None) -> Pretraining:
    heard = None if reporter is None else reading(reporter)
    images = load(name, data_dir=settings.data_dir, image_size=settings.pretrain_image_size, heard=heard)
    if not isinstance(images.kind, Classification):
        raise UsageError(f"pretrain={name!r} must be a task of classes, such as folder:DIR")
    images = with_channels(images, task.image_channels)
    check_fits(augmentation(settings.pretraining), images.image_size, "pretraining.")
    images.kind.check_recipe("pretraining.", settings.pretraining)
    body, prefix = (space.backbone, "body.backbone.") if isinstance(space, Product) else (space, "body.")
    if "num_classes" not in {field.name for field in dataclasses.fields(body)}:
        raise UsageError("this space has no classifiers: no field num_classes says how many classes there are")
    shape = {each: getattr(images, each) for each in ("image_size", "image_channels", "num_classes")}
    classifier: Space = dataclasses.replace(body, **shape)
    found = Pretraining(classifier, images, settings.pretraining, prefix)
    found.check(space, task.kind)
    return found
