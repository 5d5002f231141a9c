"""What follows from the data where the user does not say it: the preset of the space, and the recipes of trainings."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import spaces
from nas import config, registry
from nas.config import Config, Data
from nas.job.subject import Subject
from nas.tasks import PHOTOGRAPHS
from nas.tasks.base import Task
from spaces.abilities import Advised

Recipes = Mapping[str, Mapping[str, Any]]  # fields of `training` and `final`
OF_PHOTOGRAPHS = ("crop", "flip")  # fields of recipes
PADDING = 8  # photographs are padded by one such part of their side for random crops: 4 pixels of 32, as on CIFAR-10


def with_preset(given: Data, task: Task) -> Data:
    """The given data with the preset of the space that suits the size of the images, where a space of ours is named
    without a preset and without fields of its own, and no architecture of it."""
    name, fields = config.named(given.get("space", Config.space), "space")
    if fields or given.get("architecture") is not None or name not in registry.ours("space"):
        return given
    preset = spaces.suited(name, task.image_size)
    return given if preset is None else {**given, "space": f"{name}:{preset}"}


def recipes_of(task: Task) -> Recipes:
    """Photographs are mirrored and cropped at random: those of CIFAR-10, and images of folders that are of many sizes.
    Of others nobody knows whether a mirrored image is still one of its class, such as a letter."""
    kind = task.name.partition(":")[0]
    if kind in PHOTOGRAPHS and (kind != "folder" or task.resize is not None):
        recipe: dict[str, Any] = dict(zip(OF_PHOTOGRAPHS, (task.image_size // PADDING, True), strict=True))
        return {"training": recipe, "final": recipe}
    return {}


def with_recipes(settings: Config, given: Data, subject: Subject) -> Config:
    """The settings with the recipes of the data, of the kind of task, and of the space, but for what the user gives."""
    of_data = {} if subject.task is None else recipes_of(subject.task)
    of_kind = {} if subject.task is None else subject.task.kind.recipes
    of_space = subject.space.recipes if isinstance(subject.space, Advised) else {}
    for name, own in (*of_data.items(), *of_kind.items(), *of_space.items()):
        fields = {field: value for field, value in own.items() if field not in given.get(name, ())}
        settings = dataclasses.replace(settings, **{name: dataclasses.replace(getattr(settings, name), **fields)})
    return settings


def told(given: Data, chosen: Data, task: Task) -> str | None:
    """What was chosen and why, in one line; None where that is nothing."""
    parts, size = [], task.image_size
    if task.name.startswith("folder:") and task.resize is not None and given.get("image_size") is None:
        parts.append(f"{size} x {size} pixels, by the sides that most of the images have")
    if chosen.get("space") != given.get("space"):
        parts.append(f"space {chosen['space']}, as {size} pixels cost more in the default preset")
    for name, recipe in recipes_of(task).items():
        new = [f"{field} {str(value).lower()}" for field, value in recipe.items() if field not in given.get(name, ())]
        if new:
            parts.append(f"{name} with {' and '.join(new)}, as photographs are trained")
    return f"Chosen for {task.name}, where you say nothing else: {'; '.join(parts)}." if parts else None
