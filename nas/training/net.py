"""A network as a function of its weights: how it is made for a task, its forward pass, the calibration of its
normalisation statistics, and the metric.

Statistics are an argument. A candidate's are measured on training images and used for its own evaluation only;
nothing is ever written back to the shared weights (Guo et al., 2019, section 3.3; Wu & Johnson, "Rethinking Batch
in BatchNorm", 2021, https://arxiv.org/abs/2105.07576, "precise" statistics).
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from flax import nnx
from jaxtyping import Array

from nas.devices import Queue, divided
from nas.tasks.augment import normalise
from nas.tasks.base import Split, Task
from nas.training.compilation import same_bits
from spaces.abilities import Varied
from spaces.base import Space
from spaces.binary_ops import set_real
from spaces.layers import generator
from spaces.shared import is_mixture, select

Scaling = tuple[tuple[float, ...], tuple[float, ...]]  # mean and deviation of the channels
PRECISIONS = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


class Graph:
    """The static structure of a network, hashed once: a supernet's takes longer to hash than to run."""

    def __init__(self, definition: nnx.GraphDef):
        self.definition = definition
        self._hash = hash(definition)

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, Graph) and self.definition == other.definition)


def split(network: nnx.Module) -> tuple[Graph, nnx.State, nnx.State]:
    """The static structure, the weights and the statistics of a network."""
    definition, weights, statistics = nnx.split(network, nnx.Param, nnx.BatchStat)
    return _interned(definition), weights, statistics


@functools.lru_cache(maxsize=64)
def _interned(definition: nnx.GraphDef) -> Graph:
    """One object for equal structures: JAX then finds its program by identity, not by comparing them."""
    return Graph(definition)


def with_real_weights(graph: Graph, weights: nnx.State, statistics: nnx.State) -> Graph:
    """The structure of a network of one bit whose weights are as they are."""
    network: Any = nnx.merge(graph.definition, weights, statistics, copy=True)
    return split(set_real(network, True))[0]


def forward(graph: Graph, weights, statistics, images: Array, path, *, train: bool, key=None) -> tuple[Any, nnx.State]:
    """The outputs in float32, and the statistics of this batch when training."""
    network: Any = nnx.merge(graph.definition, weights, statistics, copy=True)
    return in_float32(network(images, path, train=train, key=key)), nnx.state(network, nnx.BatchStat)


def in_float32(outputs: Any) -> Any:
    return jax.tree.map(lambda each: each.astype(jnp.float32), outputs)


class Headed(nnx.Module):
    """A space's body, whose features the head of a task turns into outputs."""

    def __init__(self, body: nnx.Module, head: nnx.Module):
        self.body, self.head = body, head

    @property
    def exits(self) -> int:
        """After how many of its parts the network may be left, each of which the head ends."""
        return getattr(self.head, "exits", 1)

    def ended(self, exit: int) -> "Headed":
        """The network that is left at one of several exits, counted from 1, with arrays of its own."""
        network: Any = nnx.clone(self)
        network.body.end(exit)
        network.head.end(exit)
        return network

    def __call__(self, images: Array, path: Any = (), *, train: bool = False, key: Any = None, **more: Any) -> Any:
        body: Any = self.body
        head: Any = self.head
        maps = body(images, path, train=train, key=key, **more)
        if is_mixture(path):  # as bodies do: normalised by the batch, and no statistics are left
            return nnx.clone(head)(maps, train=True)
        return head(maps, train=train)


def supernet(space: Space, kind: Any, key: jax.Array, **options: Any) -> nnx.Module:
    """The network of all architectures for a kind of task: see `Space.supernet` for the options."""
    return headed(space, kind, space.supernet(key, **options), key, jnp.zeros(len(space.cardinalities), jnp.int32))


def alone(space: Space, kind: Any, encoding: np.ndarray, key: jax.Array, **options: Any) -> nnx.Module:
    """The network of one architecture for a kind of task: see `Space.build`."""
    return headed(space, kind, space.build(encoding, key, **options), key, ())


def headed(space: Any, kind: Any, network: Any, key: jax.Array, path: Any) -> nnx.Module:
    """With the kind's own head, if it has one, on what `network` then gives: the maps of its stages."""
    if kind.head is None:
        return network
    return Headed(network, kind.head(_shapes(space, network, path), generator(jr.fold_in(key, 1))))


def _shapes(space: Any, network: Any, path: Any) -> tuple[tuple[int, ...], ...]:
    """Of the maps that a body gives, without the axis of images."""
    images = jax.ShapeDtypeStruct((1, space.image_size, space.image_size, space.image_channels), jnp.float32)
    definition, state = nnx.split(network)
    maps = jax.eval_shape(lambda state, x: nnx.merge(definition, state)(x, path, train=False), state, images)
    return tuple(each.shape[1:] for each in maps)


def head_costs(space: Any, kind: Any) -> dict[str, tuple[int, ...]]:
    """What the kind's own head, if it has one, costs on the maps of each kind of body that a space has: one, but for
    the spaces that are `Varied`."""
    if kind.head is None:
        return {}
    shapes = space.map_shapes() if isinstance(space, Varied) else (_shapes_of(space),)
    costs = [kind.head_costs(each) for each in shapes]
    return {name: tuple(cost[name] for cost in costs) for name in costs[0]}


@functools.lru_cache(maxsize=16)
def _shapes_of(space: Any) -> tuple[tuple[int, ...], ...]:
    row = np.zeros(len(space.cardinalities), np.int32)
    return _shapes(space, space.build(row, jr.key(0)), ())


@jax.jit
def on_path(weights: nnx.State, path: Array) -> nnx.State:
    return select(weights, path)


def _repeatable(function: Callable[..., Any]) -> Callable[..., Any]:
    """Jitted when it is first called, by when the process has set its cores."""

    @functools.cache
    def program():
        return jax.jit(function, static_argnums=(0, 1, 2), compiler_options=same_bits())

    return functools.wraps(function)(lambda *args: program()(*args))


@_repeatable
def _batch_statistics(graph: Graph, scaling: Scaling, precision: str, weights, statistics, images, path) -> nnx.State:
    images = normalise(divided(images), scaling[0], scaling[1], PRECISIONS[precision])
    return forward(graph, weights, statistics, images, path, train=True)[1]


def _logits(graph: Graph, scaling: Scaling, precision: str, weights, statistics, images, path) -> Any:
    """One array, or of a network with a head the tree that this gives."""
    images = normalise(divided(images), scaling[0], scaling[1], PRECISIONS[precision])
    return forward(graph, weights, statistics, images, path, train=False)[0]


batch_logits = _repeatable(_logits)


@_repeatable
def _judged(graph, scaling, how, weights, statistics, images, labels, path, indices, counted) -> Any:
    """What the metrics are made of, of the images at these indices."""
    precision, kind = how
    outputs = _logits(graph, scaling, precision, weights, statistics, images[indices], path)
    return kind.judged(outputs, labels[indices], counted)


@jax.jit
def _mean(trees: list[nnx.State]) -> nnx.State:
    return jax.tree.map(lambda *leaves: sum(leaves) / len(leaves), *trees)


def calibrate(graph, weights, statistics, images: Any, task: Task, path, *, batch: int, precision: str):
    """Statistics measured anew: the mean over batches of each batch's own. What remains after whole batches is left
    out, unless it is all there is."""
    batch = min(batch, len(images))
    starts = range(0, len(images) - batch + 1, batch)
    scaling = (task.mean, task.std)
    return _mean(
        [_batch_statistics(graph, scaling, precision, weights, statistics, images[i : i + batch], path) for i in starts]
    )


def measure(
    graph, weights, statistics, data: Split, task: Task, path, *, batch: int, precision: str
) -> dict[str, float]:
    """The metrics of the task on these images, which are judged on the device."""
    batch = min(batch, len(data))
    scaling = (task.mean, task.std)
    judged, under_way = [], Queue(given=data.file is not None)
    for i in range(0, len(data), batch):
        # The last batch is moved back, not padded or cut: one shape is one program.
        indices = np.arange(batch, dtype=np.int32) + min(i, len(data) - batch)
        arrays, places = data.batch(indices)
        inputs = (weights, statistics, *arrays, path, places, indices >= i)
        judged.append(_judged(graph, scaling, (precision, task.kind), *inputs))
        under_way.add(judged[-1])
    return task.kind.metrics(jax.device_get(judged), data.labels)


def images_at_once(task: Task, most: int = 256) -> int:
    """How many images are shown to a network that is not trained: fewer large ones, for memory's sake."""
    return min(most, max(16, 2**20 // task.image_size**2))


def flatten(tree: Any) -> dict[str, np.ndarray]:
    """The arrays of a tree by dotted name, as they are written to files."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {jax.tree_util.keystr(path, simple=True, separator="."): np.asarray(leaf) for path, leaf in leaves}


def unflatten(template: Any, arrays: dict[str, np.ndarray]) -> Any:
    """A tree shaped like `template` with the named arrays. Raises ValueError where a name or shape does not fit."""
    expected = flatten(template)
    if expected.keys() != arrays.keys():
        odd = sorted(expected.keys() ^ arrays.keys())[0]
        raise ValueError(f"array {odd!r} is {'missing' if odd in expected else 'not part of the network'}")
    for name, value in expected.items():
        if value.shape != arrays[name].shape or value.dtype != arrays[name].dtype:
            found = f"{arrays[name].dtype}{list(arrays[name].shape)}"
            raise ValueError(f"array {name!r} is {found}, expected {value.dtype}{list(value.shape)}")
    leaves = [jnp.asarray(arrays[name]) for name in expected]
    return jax.tree.unflatten(jax.tree.structure(template), leaves)
