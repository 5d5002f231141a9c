"""What a space may do besides: the closed list of it, each a protocol, with what holds for a space that has it not."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from spaces.base import Encodings, Space


class Drawing(NamedTuple):
    """An architecture, or a part of it, as it is drawn: a space may have `drawings(encoding)`, a list of these."""

    title: str
    nodes: tuple[str, ...]
    edges: tuple[tuple[int, int, str], ...]  # from node, to node, label
    places: tuple[tuple[int, int], ...] | None = None  # of each node its column and row, where they mean something
    follows: bool = False  # goes on, from its first node, where the drawing before ends with its last
    notes: tuple[str, ...] = ()  # lines below it, such as what its words stand for


class Published(NamedTuple):
    """An architecture by name, as a space's module gives it by `published(name)`; KeyError for a name it has not."""

    description: str
    drawings: list[Drawing]
    costs: dict[str, dict[str, Any]]  # of networks of published size, by what they are called
    note: str = ""  # what is to be known of the costs


class Mixing(NamedTuple):
    """How a mixture of a space is laid out: a row an edge, in it a weight for each operation."""

    ops: tuple[str, ...]
    nodes: tuple[int, ...]  # of each edge, the node that it leads to, numbered through all cells
    kept: tuple[float, ...]  # of each edge, how much of the edges to its node an architecture keeps
    normal: int  # how many edges the normal cell has, which come first
    costs: dict[str, tuple[int, np.ndarray]]  # what all architectures pay, and what operations add `[edges, ops]`
    partial: int  # operations of the supernet may see one channel in any divisor of it: 1 where they see all
    none: int | None = None  # the operation that gives nothing, where there is one
    skip: int | None = None  # the one that gives its input
    counts: tuple[int, ...] | None = None  # of each edge how many operations it has, the first so many; None where all
    one_hot: bool = False  # whether the network takes one-hot mixtures alone

    def masked(self, logits: Float[Array, "edges ops"]) -> Float[Array, "edges ops"]:
        """Minus infinity for operations that an edge does not have."""
        if self.counts is None:
            return logits
        there = np.arange(len(self.ops))[None] < np.array(self.counts)[:, None]
        return jnp.where(there, logits, -jnp.inf)

    def expected(self, weights: Float[Array, "edges ops"]) -> dict[str, Float[Array, ""]]:
        """The costs of an architecture that has its operations with these weights, as probabilities."""
        shares = weights / weights.sum(1, keepdims=True) * jnp.asarray(self.kept)[:, None]
        return {
            name: float(fixed) + (shares * jnp.asarray(table, jnp.float32)).sum()
            for name, (fixed, table) in self.costs.items()
        }


@runtime_checkable
class Drawable(Protocol):
    def drawings(self, encoding: np.ndarray) -> list[Drawing]:
        """The parts of an architecture, as they are drawn."""
        ...


class Decision(NamedTuple):
    """A decision of a space as people read of it: what is decided, and what each choice is called."""

    name: str
    choices: tuple[str, ...]


@runtime_checkable
class Worded(Protocol):
    def decisions(self) -> tuple[Decision, ...]:
        """What each entry of an encoding decides."""
        ...


def decisions(space: Space) -> tuple[Decision, ...]:
    """What each entry of an encoding decides, by numbers where the space has no words for it."""
    own: object = space
    return own.decisions() if isinstance(own, Worded) else numbered(space.cardinalities)


def numbered(cardinalities: Sequence[int]) -> tuple[Decision, ...]:
    return tuple(Decision(f"decision {i}", tuple(map(str, range(size)))) for i, size in enumerate(cardinalities))


@runtime_checkable
class Unshared(Protocol):
    supernets: bool  # False where `supernet` gives no network of all architectures


def shares_weights(space: Space) -> bool:
    """Whether `supernet` gives a network of all architectures."""
    return space.supernets if isinstance(space, Unshared) else True


@runtime_checkable
class Prunable(Protocol):
    def pruned(self, supernet: Any, encoding: np.ndarray) -> Any:
        """The network of one architecture, with the weights that it has in a supernet. It has the names that the
        network of `build` has, but for scales and biases of normalisation, where the supernet has none."""
        ...


@runtime_checkable
class Celled(Protocol):
    cells_train: bool  # True where `build` takes `auxiliary`, and its networks take `drop_path` in training


def trains_as_cells(space: Space) -> bool:
    """Whether a recipe may have an auxiliary head and drop path: see `Celled`."""
    return isinstance(space, Celled) and space.cells_train


@runtime_checkable
class OneBit(Protocol):
    one_bit: bool  # True where the layers of networks are `spaces.binary_ops.BinaryConv`


def is_one_bit(space: Space) -> bool:
    """Whether a recipe may train weights as real ones first: see `OneBit`."""
    return isinstance(space, OneBit) and space.one_bit


@runtime_checkable
class Advised(Protocol):
    recipes: Mapping[str, Mapping[str, Any]]  # fields of `training` and `final` that differ from the usual defaults


@runtime_checkable
class Backbone(Space, Protocol):
    """A space whose networks another space may go on from: see `spaces.product`. Its fields `image_size`,
    `image_channels` and `num_classes` can be set; without classes its networks give the maps of their stages. Of a
    longer path they read the first decisions."""

    def maps(self) -> tuple[tuple[int, int], ...]:
        """The stride and the channels of each map, the finest first."""
        ...


@runtime_checkable
class Neck(Space, Protocol):
    """A space whose networks are called with the maps of a backbone, those of strides 8, 16 and 32, where the fields
    `map_widths`, their channels, and `backbone`, then "none", say so."""

    map_widths: tuple[int, ...]


@runtime_checkable
class Varied(Protocol):
    """A space whose architectures differ in the maps that their bodies give."""

    def map_shapes(self) -> tuple[tuple[tuple[int, int, int], ...], ...]:
        """Of each kind of body the rows, columns and channels of its maps, the finest first."""
        ...

    def map_kinds(self, encodings: Encodings) -> Int[Array, "n"]:
        """Which kind of body each architecture has."""
        ...


def map_kinds(space: Space, encodings: Encodings) -> Int[Array, "n"]:
    return space.map_kinds(encodings) if isinstance(space, Varied) else jnp.zeros(len(encodings), jnp.int32)


@runtime_checkable
class Featured(Protocol):
    def features(self, encodings: Encodings) -> tuple[Float[Array, "n d"], ...]:
        """Groups of numbers in which similar networks are close, for those who learn from architectures."""
        ...


@runtime_checkable
class Scored(Protocol):
    """A table that knows what networks tell before they are trained."""

    scores: dict[str, np.ndarray]

    def scores_of(self, encodings: Encodings) -> Float[Array, "n scores"]: ...


@runtime_checkable
class Wrapping(Protocol):
    space: Space  # of which it says more: a table has every training of a network by itself, and costs may be added


def networks(space: Space) -> Space:
    """The space in which equal networks are the same, and cost what they do anywhere."""
    while isinstance(space, Wrapping):
        space = space.space
    return space


@runtime_checkable
class Redundant(Protocol):
    def equivalents(self, encodings: Encodings, numbers: Int[Array, "n"]) -> Encodings:
        """Of each row the number-th way to write its network, in a circle of which 0 is a member."""
        ...


def equivalents(space: Space, encodings: Encodings, numbers: Int[Array, "n"]) -> Encodings:
    """Another way to write each network; the same where the space knows none."""
    own = networks(space)
    return own.equivalents(encodings, numbers) if isinstance(own, Redundant) else encodings


class Graph(NamedTuple):
    """Nodes in the order of the computation, the first the input and the last the output; edges carry decisions.

    What a node holds is the sum of what its edges bring.
    """

    num_nodes: int
    edges: tuple[tuple[int, int, int], ...]  # source, target, decision
    blocked: int | None = None  # the choice that lets nothing pass


@runtime_checkable
class Graphed(Protocol):
    def graph(self) -> Graph:
        """Where the decisions lie on the way from the input to the output."""
        ...


def graph(space: Space) -> Graph:
    """The space's own graph; of a space that has none its decisions as a chain."""
    own, length = networks(space), len(space.cardinalities)
    return own.graph() if isinstance(own, Graphed) else Graph(length + 1, tuple((i, i + 1, i) for i in range(length)))


@runtime_checkable
class Mixable(Space, Protocol):
    """A space whose supernet is also called with a mixture in place of a path. A path may then also be the operations
    of all edges, as one row. A mixture is normalised by the batch, in evaluation too, and leaves no statistics.

    Where `mixing().partial` is more than 1, `supernet` also takes `partial`, a divisor of it."""

    def mixing(self) -> Mixing: ...

    def edge_ops(self, encodings: Encodings) -> Int[Array, "n edges"]:
        """The operation on each edge; where an architecture leaves out edges, `none`."""
        ...

    def derive(self, mixture: Float[Array, "edges ops"]) -> Int[Array, "length"]:
        """The architecture that a mixture stands for, of which these are the logarithms; of most spaces their order
        alone matters."""
        ...
