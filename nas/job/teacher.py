"""`--final.teacher`: the trained network from which those learn that are trained from scratch."""

import contextlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas.config import Config
from nas.errors import UsageError
from nas.saved import checkpoint
from nas.store.sql import Store
from nas.tasks import kinds
from nas.tasks.base import Task
from nas.training.distillation import Teacher
from nas.training.net import flatten, split

if TYPE_CHECKING:
    from nas.saved.networks import Exported


def is_folder(name: str) -> bool:
    """Whether a teacher is an exported folder, and not an architecture of the store."""
    return os.path.isdir(name) or os.sep in name


def whole_name(name: str, url: str) -> str:
    """The name that finds the teacher from any folder, and later: others may begin like the beginning of an id.
    Raises UsageError where there is none."""
    if is_folder(name):
        return os.path.abspath(os.path.expanduser(name))
    with _named(name), Store(url) as store:
        return store.show(name)["id"]


def teacher_of(settings: Config, task: Task, digest: str | None) -> Teacher | None:
    """The teacher of the recipe `final`. The digest is that of the run that goes on, None for a new one: in a store an
    architecture may have been trained again meanwhile, perhaps by this run. Raises UsageError for one that is not fit.
    """
    name = settings.final.teacher
    if name is None:
        return None
    if not task.kind.imitates:
        raise UsageError(f"final.teacher={name!r} is for classes and numbers: task={settings.task!r} has objects")
    from nas.saved.networks import WEIGHTS, load

    with _named(name), tempfile.TemporaryDirectory() as scratch:
        folder = Path(name) if is_folder(name) else Path(scratch)
        if not is_folder(name):
            _fetch(settings.store, name, digest, folder)
        found = checkpoint.digest(folder / WEIGHTS) if (folder / WEIGHTS).is_file() else ""
        if digest not in (None, found):
            raise UsageError("its weights are others than when the run began")
        network = load(folder)
        _check(network, task)
    _, weights, statistics = split(network.network)
    arrays = {**flatten(weights), **flatten(statistics)}
    encoding = tuple(network.description["encoding"])
    return Teacher(network.space, encoding, network.kind, network.scaling, arrays, found)


def _fetch(url: str, architecture: str, digest: str | None, folder: Path) -> None:
    """The newest weights of an architecture, or those of this digest where there are such."""
    from nas.saved.exports import export

    with Store(url) as store:
        runs = {run.id: run for run in store.all_runs()}
        files = store.artifacts(None, architecture, "weights")
        same = [runs[file.run_id] for file in files if file.sha256 == digest]
        export(store, architecture, folder, same[-1] if same else None)


def _check(teacher: "Exported", task: Task) -> None:
    """Raises UsageError for a teacher whose images or answers are not those of the task."""
    space = teacher.space
    given = {name: getattr(space, name) for name in ("image_size", "image_channels")}
    for field, value in given.items():
        if value != getattr(task, field):
            raise UsageError(f"its {field}={value} must be {getattr(task, field)}, as of the task")
    if teacher.kind != task.kind:
        raise UsageError(f"it was trained for {_said(teacher.kind)}, and the task is {_said(task.kind)}")
    if tuple(teacher.classes) != tuple(task.classes):
        raise UsageError(f"its classes {_some(teacher.classes)} must be those of the task, {_some(task.classes)}")
    if teacher.packed:
        raise UsageError("its weights are packed as bits: export it without --packed")


def _said(kind: Any) -> str:
    name, *fields = kinds.described(kind).items()
    return ", ".join([name[1], *(f"{field}={value}" for field, value in fields)])


def _some(classes: Sequence[str], most: int = 4) -> str:
    return ", ".join((*classes[:most], "...") if len(classes) > most else classes)


@contextlib.contextmanager
def _named(name: str) -> Iterator[None]:
    """What is refused in it is so in the name of the field."""
    try:
        yield
    except UsageError as error:
        raise UsageError(f"final.teacher={name!r}: {error}") from error
