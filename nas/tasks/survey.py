"""What a search would read of a task, and what of it a user should look at before it is searched on."""

import dataclasses
import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from nas.errors import UsageError
from nas.tasks import PARTS_GIVEN, SKIPPING, Reading, made, read
from nas.tasks.base import Raw, Task
from nas.tasks.kinds import described


@dataclasses.dataclass(frozen=True)
class Survey:
    task: Task
    found: Raw  # in files, before it was parted and resized
    invalid: Sequence[str]  # why images or objects were left out, one by one
    left_out: int  # of them all
    equal: Sequence[Sequence[str]]  # images of the same pixels, in groups
    across: Sequence[Sequence[str]]  # those groups of which given parts share an image
    contradicting: Sequence[Sequence[str]]  # those groups whose images are of several classes

    @property
    def kind(self) -> str:
        return described(self.task.kind)["name"]

    @property
    def parts(self) -> dict[str, int]:
        return self.task.counts

    @property
    def drawn(self) -> list[str]:
        """The parts that nobody gave, which are drawn at random."""
        return [part for part in ("valid", "test") if getattr(self.found, part) is None]

    @property
    def labels(self) -> dict[str, dict[str, float]]:
        """What the labels of each part are, in a few numbers: see `Kind.summary`."""
        task = self.task
        return {part: task.kind.summary(task.classes, getattr(task, part).labels) for part in self.parts}

    @property
    def imbalance(self) -> float | None:
        """How many times as many training images the most frequent class has as the rarest; None without classes."""
        counts = self.labels["train"].values() if self.task.classes else ()
        return max(counts) / min(counts) if counts and min(counts) else None

    def as_data(self) -> dict[str, Any]:
        """As JSON has it."""
        sizes = self.found.found or {}
        return {
            "task": self.task.name,
            "kind": self.kind,
            "images": self.parts,
            "drawn": self.drawn,
            "image_size": self.task.image_size,
            "channels": self.task.image_channels,
            "classes": list(self.task.classes),
            "labels": self.labels,
            "imbalance": self.imbalance,
            "sizes": {f"{width} x {height}": n for (width, height), n in sorted(sizes.items())},
            "modes": dict(self.found.modes or {}),
            "note": self.task.note,
            "left_out": self.left_out,
            "invalid": list(self.invalid),
            "equal": [list(each) for each in self.equal],
            "equal_across_parts": [list(each) for each in self.across],
            "equal_across_classes": [list(each) for each in self.contradicting],
            "fingerprint": self.task.fingerprint(),
        }


def survey(asked: Reading, split_seed: int = 0, max_images: int | None = None, *, skips: bool = False) -> Survey:
    """Reads the data as a search would, but that it leaves out what is invalid, where that can be done, and says why.
    `skips` says whether a search would leave it out too: else no note says so.

    Raises UsageError for data that nothing can be made of."""
    if asked.name.partition(":")[0] in SKIPPING:
        asked = dataclasses.replace(asked, skip_invalid=True)
    found = read(asked)
    if not skips and (said := asked.invalid.said(asked.name)) is not None and found.note is not None:
        found = found._replace(note=found.note.replace(said, "").strip("; ") or None)
    groups = _equal(found)
    across = [group for group in groups if len({image.part for image in group}) > 1]
    contradicting = [group for group in groups if len({image.label for image in group}) > 1]
    try:
        task = made(asked, found, split_seed, max_images)
    except UsageError as error:
        said = asked.invalid.said(asked.name)
        raise error if said is None else UsageError(f"{error}; besides, {said}") from error
    return Survey(
        task,
        found,
        tuple(asked.invalid.errors),
        asked.invalid.count,
        *([[image.name for image in group] for group in some] for some in (groups, across, contradicting)),
    )


class _Image(NamedTuple):
    part: str
    name: str
    label: int | None  # None where labels are no classes


def _equal(found: Raw) -> list[list[_Image]]:
    """The groups of images whose pixels are the same."""
    seen: dict[bytes, list[_Image]] = defaultdict(list)
    for part in PARTS_GIVEN:
        arrays = getattr(found, part)
        if arrays is None:
            continue
        names, labels = _names(found.files or {}, part), np.asarray(arrays[1])
        classes = labels.ndim == 1 and labels.dtype.kind in "iu"
        for i, image in enumerate(np.asarray(arrays[0])):
            digest = hashlib.sha256(np.ascontiguousarray(image).data).digest()
            name = names[i] if names else f"{part}[{i}]"
            seen[digest].append(_Image(part, name, int(labels[i]) if classes else None))
    return [group for group in seen.values() if len(group) > 1]


def _names(files: Mapping[str, Sequence[str]], part: str) -> Sequence[str]:
    return files.get(part, ())
