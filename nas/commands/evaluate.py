"""`nas evaluate`: how good a trained network is on data that have answers.

Of classes: accuracy, and of each class precision, recall and F1; of numbers the errors; of objects average precision.
Images are prepared as those of the network's training were.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nas.commands import trained
from nas.config import Parser
from nas.errors import UsageError, unwritable
from nas.metrics import outward
from nas.plain import one_of, place, shown
from nas.report import output, progress
from nas.report.progress import Bar
from nas.store.query import Row
from nas.tasks import Resize, kinds, load

if TYPE_CHECKING:
    from nas.saved.networks import Exported
    from nas.tasks.base import Split, Task

PARTS = ("test", "valid", "train")
COLUMNS = ("class", "precision", "recall", "f1", "count")
EPILOG = (
    "A task without a test part has one cut from its images, a fifth of them, which is the same in every run. Images "
    "that a network was trained on tell nothing of others: name other data, or a part that it was not trained on."
)


@dataclasses.dataclass(frozen=True)
class Quality:
    """How good a network is."""

    whole: Row  # on all images
    classes: list[Row] = dataclasses.field(default_factory=list)  # on those of each class
    confusion: np.ndarray | None = None  # how many of the class of a row were taken for that of a column


def main(argv: Sequence[str]) -> str:
    options = flags().parse_args(argv)
    if options.out is not None:
        from nas.report.boxes import check_place

        check_place("out", options.out)
    network = trained.network(options)
    if options.out is not None and (network.kind.finds or not network.classes):
        said = "is for the confusion of classes, which this network does not tell apart"
        raise UsageError(f"out={str(options.out)!r} {said}")
    task = _task(network, options.task, options.data_dir, options.skip_invalid)
    data = getattr(task, options.split)
    found = quality(network, data, _places(network, task))
    if options.out is not None:
        _draw(options.out, found, network.classes)
    told = {"task": options.task, "split": options.split, "images": len(data)}
    return _rendered({**told, **found.whole}, found, options.format)


def _task(network: "Exported", name: str, data_dir: str | None, skip_invalid: bool) -> "Task":
    """With images as those of the network's training were. Raises UsageError for what it was not trained for."""
    from nas.saved.descriptions import input_of

    size, channels, _ = input_of(network.space)
    how: Resize = network.resize or "crop"
    if name.startswith("table:"):
        raise UsageError(f"task={name!r} is a table, which has no images")
    with Bar() as bar:
        task = load(
            name,
            data_dir=data_dir,
            image_size=size,
            resize=how,
            skip_invalid=skip_invalid,
            heard=progress.reading(bar),
        )
    if type(task.kind) is not type(network.kind):
        asked, known = (kinds.described(each)["name"] for each in (task.kind, network.kind))
        raise UsageError(f"task={name!r} is {asked}, and the network was trained for {known}")
    if task.image_channels != channels:
        raise UsageError(
            f"task={name!r} has images of {task.image_channels} channels, and the network takes {channels}"
        )
    return task


def _places(network: "Exported", task: "Task") -> np.ndarray:
    """The network's label for each label of the task, by the names of the classes. Raises UsageError."""
    known = {name: label for label, name in enumerate(network.classes)}
    if odd := [name for name in task.classes if name not in known]:
        said = f"has the class {odd[0]!r}, which the network does not know"
        raise UsageError(f"task={task.name!r} {said}; allowed: {shown(', '.join(known))}")
    if missing := [name for name in known if name not in task.classes]:
        raise UsageError(f"task={task.name!r} has no class {missing[0]!r}, which the network knows; classes must agree")
    return np.array([known[name] for name in task.classes], np.int64)


def quality(network: "Exported", data: "Split", places: np.ndarray) -> Quality:
    """On images and labels, of which `places` are the network's labels."""
    answers = network.predict(data.images)
    if network.kind.finds:
        return _of_objects(network.kind, answers, data.labels, places)
    if not network.classes:
        return _of_numbers(network.kind.metric, answers[:, 0], data.labels)
    return _of_classes(answers.argmax(1), places[data.labels], network.classes)


def _of_objects(kind: Any, found: np.ndarray, labels: np.ndarray, places: np.ndarray) -> Quality:
    from nas.tasks.detection import CLASS

    labels, real = labels.copy(), labels[..., CLASS] >= 0
    labels[..., CLASS][real] = places[labels[..., CLASS][real].astype(np.int64)]
    return Quality(outward(kind.metrics([([found], np.ones(len(found), bool))], labels)))


def _of_numbers(metric: str, found: np.ndarray, labels: np.ndarray) -> Quality:
    from sklearn.metrics import mean_absolute_error, r2_score, root_mean_squared_error

    pair = labels.astype(np.float64), found.astype(np.float64)
    whole: Row = {metric: float(root_mean_squared_error(*pair)), "mae": float(mean_absolute_error(*pair))}
    return Quality({**whole, "r2": float(r2_score(*pair)) if len(labels) > 1 else None})


def _of_classes(found: np.ndarray, labels: np.ndarray, names: Sequence[str]) -> Quality:
    from sklearn.metrics import accuracy_score, confusion_matrix, f1_score, precision_recall_fscore_support

    every = np.arange(len(names))
    none: Any = 0  # where there are no images of a class, or none is taken for it
    shares: Any = precision_recall_fscore_support(labels, found, labels=every, zero_division=none)
    rows = [
        {"class": name, "precision": float(p), "recall": float(r), "f1": float(f), "count": int(n)}
        for name, p, r, f, n in zip(names, *shares, strict=True)
    ]
    accuracy = float(accuracy_score(labels, found))
    # Over the classes that are there, or that some image is taken for.
    macro = float(f1_score(labels, found, average="macro", zero_division=none))
    whole: Row = {"accuracy": accuracy, "error": 1 - accuracy, "macro_f1": macro}
    return Quality(whole, rows, confusion_matrix(labels, found, labels=every))


def _draw(path: Path, found: Quality, names: Sequence[str]) -> None:
    assert found.confusion is not None  # a network without classes was refused
    from nas.report import plots

    try:
        plots.confusion(path, found.confusion, names)
    except OSError as error:
        raise unwritable(path, error) from error


def _rendered(whole: Row, found: Quality, form: str) -> str:
    if form == "json":
        more = {} if found.confusion is None else {"classes": found.classes, "confusion": found.confusion.tolist()}
        return output.render([{**whole, **more}], whole, form)
    if form == "csv":
        return output.render(found.classes or [whole], COLUMNS if found.classes else whole, form)
    text = output.render([whole], whole, form)
    if not found.classes:
        return text
    mistaken = _mistaken(found)
    return f"{text}\n{output.render(found.classes, COLUMNS, form)}" + (f"\n{mistaken}" if mistaken else "")


def _mistaken(found: Quality, most: int = 10) -> str:
    """The classes that are most often taken for another one."""
    assert found.confusion is not None
    counts = found.confusion * (1 - np.eye(len(found.confusion), dtype=np.int64))
    pairs = np.argsort(-counts, axis=None, kind="stable")[:most]
    names = [row["class"] for row in found.classes]
    rows = [
        {"class": names[true], "taken for": names[said], "times": int(counts[true, said])}
        for true, said in zip(*np.unravel_index(pairs, counts.shape), strict=True)
        if counts[true, said]
    ]
    return output.render(rows, ("class", "taken for", "times"), "table") if rows else ""


def flags() -> Parser:
    parser = Parser(prog="nas evaluate", description=__doc__, epilog=EPILOG, allow_abbrev=False)
    parser.add_argument("architecture", metavar="ARCHITECTURE", help=trained.NAMES)
    task_help = "the data, as for nas search: folder:DIR, npz:FILE, digits, voc:DIR, ..."
    parser.add_argument("--task", metavar="TASK", required=True, help=task_help)
    parser.add_argument("--data-dir", metavar="DIR", help="the folder of the data, where the task needs one")
    part_help = "the part of the data (default: %(default)s)"
    parser.add_argument("--split", type=one_of("split", PARTS), default="test", metavar="|".join(PARTS), help=part_help)
    parser.add_argument("--skip-invalid", action="store_true", help="leave out images and objects that are invalid")
    out_help = "draw which classes are taken for which to a .png or .jpg"
    parser.add_argument("--out", metavar="FILE", type=place, help=out_help)
    trained.add_options(parser)
    return parser
