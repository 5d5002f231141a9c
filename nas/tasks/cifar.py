"""CIFAR-10: 60,000 colour images of 32 x 32 in ten classes, in any of the forms in which it is handed around.

Krizhevsky, 2009. https://www.cs.toronto.edu/~kriz/learning-features-2009-TR.pdf
One of those forms is pickled. It is read by `nas.unpickle`, which makes plain data alone and calls nothing.
"""

import dataclasses
import re
from pathlib import Path

import numpy as np

from nas.errors import UsageError
from nas.tasks import Reading
from nas.tasks.base import Arrays, Raw
from nas.tasks.folders import class_folders, files
from nas.tasks.pixels import is_image
from nas.unpickle import loads

IMAGE_SIZE, NUM_CLASSES = 32, 10
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
PIXELS = 3 * IMAGE_SIZE**2
BATCHES = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]
BINARY = [f"{name}.bin" for name in BATCHES]
TAR = re.compile(r"\.(tar(\.(gz|xz|bz2))?|tgz|txz|tbz2)$")


def read_cifar10(asked: Reading) -> Raw:
    """From the official batches, binary or pickled, or from class folders: in a directory, or in a tar."""
    data_dir = asked.place
    if data_dir is None:
        raise UsageError("data_dir=None must be the folder or the tar that holds cifar10")
    field, root = f"data_dir={data_dir!r}", Path(data_dir)
    found = dict(files(root, lambda path: path.name in (*BATCHES, *BINARY) or is_image(path)))
    batches = {path.name: data for path, data in found.items() if not is_image(path)}
    if batches:
        names, parse = (BINARY, parse_binary) if batches.keys() & set(BINARY) else (BATCHES, parse_pickle)
        missing = [name for name in names if name not in batches]
        if missing:
            raise UsageError(f"{field} lacks {', '.join(missing)}; all of {', '.join(names)} are needed")
        parts = [parse(f"{field}: {name}", batches[name]) for name in names]
        images, labels = (np.concatenate(arrays) for arrays in zip(*parts[:-1], strict=True))
        return Raw((images, labels), NUM_CLASSES, test=parts[-1], classes=CLASSES)

    tars = sorted(path for path in root.iterdir() if TAR.search(path.name)) if root.is_dir() else []
    if len(tars) == 1 and not found:
        return read_cifar10(dataclasses.replace(asked, place=str(tars[0])))
    raw = class_folders(field, found.items(), dataclasses.replace(asked, image_size=asked.image_size or IMAGE_SIZE))
    if raw.num_classes != NUM_CLASSES:
        raise UsageError(f"{field} has {raw.num_classes} class folders; cifar10 has {NUM_CLASSES}")
    return raw


def parse_binary(field: str, data: bytes) -> Arrays:
    """Rows of one label and 3,072 values, a colour plane at a time."""
    if not data or len(data) % (1 + PIXELS):
        raise UsageError(f"{field} has {len(data)} bytes; allowed: a multiple of {1 + PIXELS}")
    rows = np.frombuffer(data, np.uint8).reshape(-1, 1 + PIXELS)
    return _channels_last(rows[:, 1:]), rows[:, 0]


def parse_pickle(field: str, data: bytes) -> Arrays:
    batch = loads(field, data)
    rows, labels = (batch.get(name) if isinstance(batch, dict) else None for name in (b"data", b"labels"))
    if not isinstance(rows, np.ndarray) or rows.dtype != np.uint8:
        raise UsageError(f"{field} is not a batch of plain data and uint8 arrays: its data is not a uint8 array")
    if rows.ndim != 2 or rows.shape[1] != PIXELS:
        raise UsageError(f"{field}: data={list(rows.shape)} must be [n, {PIXELS}]")
    in_range = range(NUM_CLASSES)
    if not isinstance(labels, list) or any(type(one) is not int or one not in in_range for one in labels):
        raise UsageError(f"{field}: labels must be a list of whole numbers in 0..{NUM_CLASSES - 1}")
    if len(labels) != len(rows):  # a sum over the batches could hide it
        raise UsageError(f"{field}: labels={len(labels)} must be {len(rows)}, one a row of data")
    return _channels_last(np.asarray(rows)), np.array(labels, np.int32)


def _channels_last(rows: np.ndarray) -> np.ndarray:
    return rows.reshape(-1, 3, IMAGE_SIZE, IMAGE_SIZE).transpose(0, 2, 3, 1)
