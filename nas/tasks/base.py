"""A task: labelled images in three fixed parts. A search sees train and valid; test is for the final report.

The parts depend on the data and on the split seed, never on the seed of a search, so that searches compare.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, get_args

import numpy as np

from nas import registry
from nas.errors import UsageError
from nas.plain import shown
from nas.tasks import Resize, kept
from nas.tasks.data import Split as Split
from nas.tasks.data import Task as Task
from nas.tasks.data import digest_of as digest_of
from nas.tasks.kinds import kind_of
from nas.tasks.pixels import as_uint8, resizing
from nas.tasks.pixels import resize as resized
from nas.tasks.room import is_large, pieces

LONGEST_CLASS = 255  # letters of its name, as a folder's may have
Arrays = tuple[np.ndarray, np.ndarray]  # images and labels, unchecked, as a file holds them


class Raw(NamedTuple):
    """What a loader found: `split` checks it, and cuts from train the parts that are None."""

    train: Arrays
    num_classes: int
    valid: Arrays | None = None
    test: Arrays | None = None
    classes: tuple[str, ...] = ()  # see Task
    found: Mapping[tuple[int, int], int] | None = None  # images by width and height, before they became squares
    note: str | None = None  # what its reader did, and a user should know, in one line
    modes: Mapping[str, int] | None = None  # images by what their pixels were in files, as Pillow calls it
    files: Mapping[str, Sequence[str]] | None = None  # of each part: where each image lies
    source: kept.Source | None = None  # what was read, where that are files


def own_images(name: str, part: Any) -> Raw:
    """What a part of the user's own gives: images and labels, parts of them by name, or a `Raw`.

    `part` is that, or a function without arguments that gives it. By name they are `train`, and where there are any
    `valid` and `test`, each images and labels, and `classes`, the names of the classes. Raises UsageError.
    """
    with registry.guarded(f"task={name!r}"):
        given = part() if callable(part) else part
    if isinstance(given, Raw):
        return given
    if isinstance(given, tuple | list) and len(given) == 2:
        given = {"train": given}
    allowed = ("train", "valid", "test", "classes")
    if not isinstance(given, Mapping) or "train" not in given or set(given) - set(allowed):
        raise UsageError(
            f"task={name!r} gives {type(given).__name__}; allowed: images and labels, or a mapping of "
            "train, valid and test to these, and of classes to names"
        )
    pairs = {part: given[part] for part in allowed[:3] if given.get(part) is not None}
    for part, pair in pairs.items():
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise UsageError(f"task={name!r}: {part} must be images and labels")
    arrays = {}
    for part, (images, labels) in pairs.items():
        try:
            arrays[part] = np.asarray(images), np.asarray(labels)
        except ValueError:
            said = "must be an array each: all images of one shape, and a label for each"
            raise UsageError(f"task={name!r}: the images and the labels of {part} {said}") from None
    classes = () if given.get("classes") is None else given["classes"]
    if isinstance(classes, str) or not all(len(str(each)) <= LONGEST_CLASS for each in classes):
        said = f"must be names, each of at most {LONGEST_CLASS} letters"
        raise UsageError(f"task={name!r}: classes={shown(classes)} {said}")
    classes = tuple(map(str, classes))
    count = len(classes) or count_classes(labels for _, labels in arrays.values())
    return Raw(arrays["train"], count, arrays.get("valid"), arrays.get("test"), classes)


def count_classes(labels: Iterable[np.ndarray]) -> int:
    """One more than the largest label. An array that has none is refused, by name, when the parts are checked."""
    return max((int(array.max()) for array in labels if array.size and array.dtype.kind in "iu"), default=0) + 1


def split(
    name: str,
    images: np.ndarray,
    labels: np.ndarray,
    num_classes: int,
    *,
    seed: int = 0,
    test: Arrays | None = None,
    valid: Arrays | None = None,
    max_images: int | None = None,
    image_size: int | None = None,
    resize: Resize = "crop",
    classes: tuple[str, ...] = (),
    found: Mapping[tuple[int, int], int] | None = None,
    remark: str | None = None,
    kept_as: Callable[[], str | None] = lambda: None,
) -> Task:
    """The task of these images, every part in a random order of which each prefix is stratified by class.

    A test part that is not given is 20 % of the images; a validation part that is not given is 20 % too, or
    10 % where test is given. `max_images` keeps at most so many training and validation images together, and the
    same share of test; what it keeps is a part of what a larger number keeps. Images become
    squares of `image_size` by `resize`: see `nas.tasks.pixels.fit`. Without a size that is the smaller of
    height and width, or the larger one where they are padded. `found` counts images by the width and height
    that they had in files; without it they are as they were. `remark` is said in the note of the task first. Where all
    this is too large for memory, it is kept in a folder whose name `kept_as` gives, or else its content.
    """
    check_options(seed, max_images, image_size, resize)
    given: dict[str, Arrays | None] = {"train": (images, labels), "valid": valid, "test": test}
    kind = kind_of(f"task={name!r}: train", np.asarray(labels), num_classes)
    whole = {part: _checked(f"task={name!r}: {part}", *arrays, kind) for part, arrays in given.items() if arrays}
    kind.check_enough(f"task={name!r}", whole["train"].labels, 1 if len(whole) == 3 else 2, classes)
    strata = {part: kind.strata(arrays.labels) for part, arrays in whole.items()}
    shapes = {part: list(arrays.images.shape[1:]) for part, arrays in whole.items()}
    for part, shape in shapes.items():
        if shape != shapes["train"]:
            raise UsageError(f"task={name!r}: {part}.images={shape} must be {shapes['train']}, as in train")
    if whole["train"].labels.ndim > 1 and shapes["train"][0] != shapes["train"][1]:
        said = "must be squares, of whose side places in labels are shares"
        raise UsageError(f"task={name!r}: train.images={shapes['train']} {said}")

    rng = np.random.default_rng(seed)
    train = whole["train"]
    order = _spread(strata["train"], rng, lead=0.5)
    chosen: dict[str, tuple[str, np.ndarray]] = {}  # of which part as it was given, and which of its images
    for part, share in (("test", 0.2), ("valid", 0.1 if test else 0.2)):
        if part in whole:
            chosen[part] = part, np.arange(len(whole[part]))
        else:
            n = max(1, round(share * len(train)))
            chosen[part], order = ("train", order[:n]), order[n:]
    chosen["train"] = "train", order

    sizes = _sizes({part: len(index) for part, (_, index) in chosen.items()}, max_images, max(1, kind.outputs))
    height, width = shapes["train"][:2]
    size = image_size or (max if resize == "pad" else min)(height, width)
    cut: dict[str, _Piece] = {}
    for part, (source, index) in chosen.items():
        index = index[_spread(strata[source][index], rng, lead=0)][: sizes[part]]
        cut[part] = _Piece(whole[source].images, index, whole[source].labels[index])
    # Of numbers the mean and the deviation, which networks learn by, are those of training alone.
    kind = kind_of(f"task={name!r}: train", cut["train"].labels, num_classes)
    change = functools.partial(resized, size=size, mode=resize)

    def made(parts: dict[str, Split]) -> Task:
        mean, std = _moments(parts["train"].images)
        note = resizing(name, found or {(width, height): sum(map(len, parts.values()))}, size, resize)
        how = None if note is None else resize
        task = Task(
            name,
            parts["train"],
            parts["valid"],
            parts["test"],
            kind=kind,
            mean=mean,
            std=std,
            classes=classes,
            resize=how,
        )
        said = kind.remark(name, task.classes, {part: data.labels for part, data in parts.items()})
        return dataclasses.replace(task, note="; ".join(filter(None, (remark, note, said))) or None)

    if not is_large(sum(len(piece.labels) for piece in cut.values()) * size * size * shapes["train"][2]):
        return made({part: _in_memory(piece, change) for part, piece in cut.items()})
    place = kept_as() or _content(name, cut, size, resize)
    if (known := kept.known(place, name)) is not None:
        return known
    with kept.written(place) as folder:
        task = made({part: folder.part(part, *piece, change) for part, piece in cut.items()})
        folder.describe(task)
    return kept.told(task)


class _Piece(NamedTuple):
    """A part of a task, before its images are squares of one size."""

    images: np.ndarray  # among others
    order: np.ndarray  # those that it has
    labels: np.ndarray  # of these


def _in_memory(piece: _Piece, change: Callable[[np.ndarray], np.ndarray]) -> Split:
    """What is mapped is not all held at once: it may be many times as large as what becomes of it."""
    first = change(piece.images[piece.order[:1]])
    images = np.empty((len(piece.order), *first.shape[1:]), first.dtype)
    for some in pieces(len(images), max(piece.images[0].nbytes, first.nbytes), piece.images):
        images[some] = change(piece.images[piece.order[some]])
    found = Split(images, piece.labels)
    found.images.setflags(write=False)
    found.labels.setflags(write=False)
    return found


def _content(name: str, parts: Mapping[str, _Piece], size: int, resize: Resize) -> str:
    """A name for what is made of data that do not lie in files."""
    arrays = [array for piece in parts.values() for array in piece]
    digest = digest_of((kept.FORMAT, name, size, resize), arrays)
    return f"{digest[:16]}-{digest[16:48]}"


def check_options(seed: int, max_images: int | None, image_size: int | None, resize: str) -> None:
    if resize not in get_args(Resize):
        raise UsageError(f"resize={resize!r} must be {', '.join(get_args(Resize)[:-1])} or {get_args(Resize)[-1]}")
    ranges = {
        "split_seed": (seed, 0, 2**32 - 1),
        "max_images": (max_images, 1, None),
        "image_size": (image_size, 4, 1024),
    }
    for field, (value, low, high) in ranges.items():
        if value is None and field != "split_seed":
            continue
        whole = isinstance(value, int) and not isinstance(value, bool)
        if not whole or value < low or (high is not None and value > high):
            allowed = f"{low} or more" if high is None else f"in {low}..{high}"
            raise UsageError(f"{field}={value!r} must be a whole number, {allowed}")


def _checked(field: str, images: np.ndarray, labels: np.ndarray, kind: Any) -> Split:
    images, labels = np.asarray(images), np.asarray(labels)
    shape = list(images.shape)
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4 or images.size == 0 or images.shape[3] > 4:
        allowed = "[n, height, width] or [n, height, width, channels], not empty, of 1..4 channels"
        raise UsageError(f"{field}.images={shape} must be {allowed}")
    if labels.shape[:1] != images.shape[:1] or labels.ndim == 2:
        raise UsageError(f"{field}.labels={list(labels.shape)} must be [{len(images)}], one label an image")
    return Split(as_uint8(f"{field}.images", images), kind.checked(field, labels))


def _spread(labels: np.ndarray, rng: np.random.Generator, lead: float) -> np.ndarray:
    """A random order in which every prefix, and so every piece, is stratified by class.

    Image k of the n of a class stands at (k + lead) / n. With a lead of 1/2 pieces are in proportion, and a
    class of two or more has an image behind the middle, so a cut of the first 40 % leaves some of it. With a
    lead of 0 the order opens with one image of each class.
    """
    order = rng.permutation(len(labels))
    shuffled = labels[order]
    counts = np.bincount(shuffled)
    rank = np.empty(len(labels))
    rank[np.argsort(shuffled, kind="stable")] = np.concatenate([np.arange(n) for n in counts])
    return order[np.argsort((rank + lead) / counts[shuffled], kind="stable")]


def _sizes(full: dict[str, int], max_images: int | None, num_classes: int) -> dict[str, int]:
    """What `max_images` leaves of each part: of train one image a class at least, of the others one image."""
    searched = full["train"] + full["valid"]
    if max_images is None or max_images >= searched:
        return full
    if max_images < 2 * num_classes:
        raise UsageError(f"max_images={max_images} must be at least {2 * num_classes}, two images a class")
    share = max_images / searched
    valid = min(max(1, round(share * full["valid"])), max_images - num_classes)
    return {"train": max_images - valid, "valid": valid, "test": max(1, round(share * full["test"]))}


def _moments(images: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation a channel, from whole-number sums: the same on every machine."""
    n = images[..., 0].size
    total, squares = np.zeros((2, images.shape[3]), np.int64)
    for some in pieces(len(images), images[0].nbytes, images):
        part = images[some]
        total += part.sum(axis=(0, 1, 2), dtype=np.int64)
        squares += np.einsum("nhwc,nhwc->c", part, part, dtype=np.int64, casting="safe")
    mean = total / n
    # One grey level at least, so that a constant channel can be divided by it.
    std = np.maximum(np.sqrt(np.maximum(squares / n - mean**2, 0)), 1)
    return tuple((mean / 255).tolist()), tuple((std / 255).tolist())
