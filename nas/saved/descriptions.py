"""What an exported folder describes: nothing in it is trusted, and no network is built before it could be one."""

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from nas.config import build_space
from nas.errors import UsageError, one_line
from nas.plain import from_json, read_bounded
from nas.saved import checkpoint
from nas.saved.packed import packed_arrays, unpacked_arrays
from nas.tasks import Resize, kinds
from nas.training.net import alone, flatten, head_costs, unflatten
from spaces.abilities import map_kinds
from spaces.base import Space, check_encoding, costs

DESCRIPTION, WEIGHTS = "architecture.json", "weights.safetensors"
MAX_DESCRIPTION_BYTES = 2**24
# What the numbers of a description may be, so that what cannot be a network is refused before it is built.
MAX_NUMBER, MAX_DEPTH = 100_000, 1_000


def described_in(path: Path) -> tuple[dict[str, Any], Space, list[int]]:
    """See `described`. Raises UsageError for a file that describes no architecture."""
    content = read_bounded(f"{path}", path, MAX_DESCRIPTION_BYTES, "description")
    try:
        return described(content)
    # A file may nest its lists too deeply, or name numbers that no machine has.
    except (UsageError, ValueError, KeyError, TypeError, ArithmeticError) as error:
        said = f"it has no {error}" if isinstance(error, KeyError) else one_line(error)
        raise UsageError(f"{path} does not describe an architecture: {said}") from error


def described(data: bytes) -> tuple[dict[str, Any], Space, list[int]]:
    """The description in a file, the space and the encoding that it names. Nothing is built."""
    description = from_json(data)
    if not isinstance(description, dict):
        raise ValueError(f"it is a {type(description).__name__}; allowed: a mapping")
    if description["format"] != checkpoint.FORMAT:
        raise ValueError(f"format={description['format']!r} is unknown to this version; allowed: {checkpoint.FORMAT}")
    for number in _numbers(description["space"]):
        if not -MAX_NUMBER <= number <= MAX_NUMBER:
            raise ValueError(f"space has the number {number!r}; allowed: at most {MAX_NUMBER}")
    space = build_space(description["space"], given=False)
    fields = list(_fields(dataclasses.asdict(space)))  # pyright: ignore[reportArgumentType]
    for name, value in fields:
        depth = sum(value) if name == "blocks" else value
        depth *= dict(fields).get("cells", 1) if name == "stacks" else 1
        if name in ("blocks", "cells", "stacks") and depth > MAX_DEPTH:
            raise ValueError(f"space.{name}={value!r} must be at most {MAX_DEPTH} in all")
    _, channels, num_classes = input_of(space)

    encoding = description["encoding"]
    check_encoding(space, encoding)
    # Of pixels from 0 to 1, whose deviation is taken to be one grey level at least.
    for field, low in (("mean", 0.0), ("std", 0.001)):
        values = description[field]
        numbers = isinstance(values, list) and all(type(one) in (int, float) for one in values)
        if not numbers or len(values) != channels or not all(low <= one <= 1 for one in values):
            raise ValueError(f"{field} must be a list of {channels} numbers in {low:g}..1, one for each channel")
    kind = kind_in(description, space)
    if kind.outputs != num_classes:
        raise ValueError(f"kind={description['kind']!r} has {kind.outputs} outputs, and the space {num_classes}")
    if not num_classes and kind.head is None:
        raise ValueError("kind must be one with a head, for a space without outputs")
    if getattr(kind, "num_classes", 0) > MAX_NUMBER:
        raise ValueError(f"kind has {kind.num_classes} classes; allowed: at most {MAX_NUMBER}")
    if description.get("classes") is not None:
        count = len(kind.named("classes", ()))
        if not isinstance(description["classes"], list):
            raise ValueError(f"classes must be a list of {count} names")
        if not description["classes"] and count:
            raise ValueError(f"classes=0 names must be {count}, one for each label")
        kind.named("classes", description["classes"])
    if type(description.get("packed", False)) is not bool:
        raise ValueError(f"packed={description['packed']!r} must be true or false")
    how = description.get("resize")
    if how is not None and how not in get_args(Resize):
        raise ValueError(f"resize={how!r} must be null or one of {', '.join(get_args(Resize))}")
    return description, space, encoding


def built(
    described: Path,
    weights: Path,
    description: dict[str, Any],
    space: Space,
    encoding: list[int],
    arrays: dict[str, np.ndarray],
) -> nnx.Module:
    """What a description describes, with these arrays as its weights and statistics. The files are those that an error
    names."""
    held = sum(array.size * (8 if array.dtype == np.uint8 else 1) for array in arrays.values())
    kind = kind_in(description, space)
    params = costs(space, tuple(encoding))["params"]
    if params <= 1.001 * held:  # costs are in single precision
        try:  # only then is a body built, to see which head it has
            if of_head := head_costs(space, kind).get("params"):
                params += of_head[int(map_kinds(space, jnp.asarray([encoding], jnp.int32))[0])]
        except ValueError as error:
            raise UsageError(f"{described} does not describe an architecture: {error}") from error
    if params > 1.001 * held:
        needed = f"{described}, whose network has {params:.0f} parameters"
        raise UsageError(f"{weights} does not fit {needed}: it holds {held} numbers")
    if not all(np.isfinite(array).all() for array in arrays.values()):
        raise UsageError(f"{weights} holds NaN or infinity")
    try:
        network = alone(space, kind, np.asarray(encoding, np.int32), jax.random.key(0))
    except ValueError as error:
        raise UsageError(f"{described} does not describe an architecture: {error}") from error
    try:
        if description.get("packed"):
            network, arrays = unpacked_arrays(network, arrays)
        return _filled(network, arrays)
    except ValueError as error:
        raise UsageError(f"{weights} does not fit {described}: {error}") from error


def _filled(network: nnx.Module, arrays: dict[str, np.ndarray]) -> nnx.Module:
    definition, weights, statistics = nnx.split(network, nnx.Param, nnx.BatchStat)
    names = flatten(weights).keys()
    weights = unflatten(weights, {name: value for name, value in arrays.items() if name in names})
    statistics = unflatten(statistics, {name: value for name, value in arrays.items() if name not in names})
    return nnx.merge(definition, weights, statistics)


def packed_arrays_of(
    field: str, weights: Path, description: dict[str, Any], arrays: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """What a packed file holds in place of these arrays, which are those of the weights file."""
    try:
        return packed_arrays(built(weights, weights, *described(json.dumps(description).encode()), arrays))
    except ValueError as error:
        raise UsageError(f"{field} cannot be packed: {error}") from error


def kind_in(description: dict[str, Any], space: Space) -> Any:
    """The kind of task that a network was trained for. Older exports do not say: they classify."""
    return kinds.from_data(description.get("kind", {"name": "classification", "num_classes": input_of(space)[2]}))


def _fields(data: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """All fields, also of fields with fields of their own."""
    for name, value in data.items():
        if isinstance(value, dict):
            yield from _fields(value)
        else:
            yield name, value


def _numbers(value: Any) -> Iterator[float]:
    """All numbers in plain data."""
    if isinstance(value, dict | list):
        for one in value.values() if isinstance(value, dict) else value:
            yield from _numbers(one)
    elif isinstance(value, int | float):
        yield value


def input_of(space: Any) -> tuple[int, int, int]:
    """What a network takes and gives: pixels of a side, channels, classes."""
    return space.image_size, space.image_channels, space.num_classes
