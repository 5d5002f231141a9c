"""A cell as loops: each node is the sum of what edges bring from all earlier states, and all edges are one program.

A cell of DARTS has 14 edges of 8 operations. Written out, it takes XLA half a minute to compile; as a loop over edges
it takes two seconds, and is faster. The gradient is a loop of its own, which keeps the nodes alone and runs each edge
again: what would have to be saved of an edge is twenty times as large as its input, and slower to save than to redo.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_derivatives import CustomVJPPrimal, SymbolicZero
from jaxtyping import Array, Float

from spaces.single_path import Run

NODES = 4


class Inputs(NamedTuple):
    """What edges are run with, by their place."""

    weights: Array
    statistics: Array
    picks: Array


class Edges(NamedTuple):
    """Edges that are run alike: from each of the two inputs of a cell, or from each of its nodes, or from both."""

    run: Run
    inputs: bool  # whether they come from the inputs
    nodes: bool  # whether they come from earlier nodes

    def sources(self, node: Any) -> Any:
        """How many states there are before a node."""
        return 2 * self.inputs + node * self.nodes

    def place(self, node: Any, source: Any) -> Any:
        """Where an edge lies: by node, then by source."""
        return 2 * self.inputs * node + self.nodes * (node * (node - 1) // 2) + source


# Normal cells have one kind of edges; in reduction cells those from the inputs have stride 2.
Kinds = tuple[Edges, ...]


def _at(tree: Any, i: Any) -> Any:
    return jax.tree.map(lambda leaf: lax.dynamic_index_in_dim(leaf, i, 0, keepdims=False), tree)


def _put(tree: Any, new: Any, i: Any) -> Any:
    return jax.tree.map(lambda leaf, each: lax.dynamic_update_index_in_dim(leaf, each, i, 0), tree, new)


def _states(kind: Edges, inputs: Array, nodes: Array) -> Array:
    parts = [inputs] * kind.inputs + [nodes] * kind.nodes
    return parts[0] if len(parts) == 1 else jnp.concatenate(parts)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def through_nodes(
    kinds: Kinds, inputs: Float[Array, "2 n _ _ c"], edges: tuple[Inputs, ...]
) -> tuple[Float[Array, "4 n _ _ c"], tuple[Array, ...]]:
    """The four nodes, and the statistics that each kind of edges leaves, through which no gradient flows."""
    return _loop(kinds, _shape(kinds, inputs, edges), inputs, edges)


def _shape(kinds: Kinds, inputs: Array, edges: tuple[Inputs, ...]) -> tuple[int, ...]:
    """Of a node."""
    return jax.eval_shape(kinds[0].run, inputs[0], *_at(edges[0], 0))[0].shape


def _loop(
    kinds: Kinds, shape: tuple[int, ...], inputs: Array, edges: tuple[Inputs, ...]
) -> tuple[Array, tuple[Array, ...]]:
    empty = jnp.zeros(shape, inputs.dtype)
    states = tuple(_states(kind, inputs, jnp.zeros((NODES, *shape), inputs.dtype)) for kind in kinds)

    def node(t: Array, carry: Any) -> Any:
        states, left = carry[0], list(carry[1])
        total = empty
        for i, kind in enumerate(kinds):

            def edge(s: Array, carry: Any, kind: Edges = kind, i: int = i) -> Any:
                place = kind.place(t, s)
                y, statistics = kind.run(_at(states[i], s), *_at(edges[i], place))
                return carry[0] + y, _put(carry[1], statistics, place)

            total, left[i] = lax.fori_loop(0, kind.sources(t), edge, (total, left[i]))
        both = zip(kinds, states, strict=True)
        states = tuple(_put(each, total, 2 * kind.inputs + t) if kind.nodes else each for kind, each in both)
        return states, tuple(left)

    states, left = lax.fori_loop(0, NODES, node, (states, tuple(each.statistics for each in edges)))
    return states[-1][-NODES:], left


def _forward(kinds: Kinds, inputs: Any, edges: Any) -> tuple:
    def is_primal(node: Any) -> bool:
        return isinstance(node, CustomVJPPrimal)

    # Of weights and picks, which gradients are asked for: known when this is traced, hence kept as a structure.
    wanted = tuple({name: () for name in ("weights", "picks") if getattr(each, name).perturbed} for each in edges)
    inputs, edges = jax.tree.map(lambda leaf: leaf.value, (inputs, edges), is_leaf=is_primal)
    ruled = tuple(kind._replace(run=_by_rules(kind.run)) for kind in kinds)
    nodes, left = _loop(ruled, _shape(kinds, inputs, edges), inputs, edges)
    return (nodes, left), (inputs, nodes, edges, wanted)


def _by_rules(run: Run) -> Run:
    """`run`, and if derivatives are taken of it, forward, those of what the rules of its gradient start with: a
    gradient then has derivatives itself."""
    ruled = jax.custom_jvp(run)

    def start(x: Array, *inputs: Array) -> tuple[Array, Array]:
        return jax.vjp(lambda x: run(x, *inputs), x)[0]

    ruled.defjvp(lambda primals, tangents: jax.jvp(start, primals, tangents))
    return ruled


def _backward(kinds: Kinds, saved: tuple, gradients: tuple) -> tuple:
    inputs, nodes, edges, wanted = saved
    flow = jnp.zeros_like(nodes) if isinstance(gradients[0], SymbolicZero) else gradients[0]
    by_inputs, by_edges = jnp.zeros_like(inputs), []
    # The kind that has nodes as sources is the last: what it finds of nodes the others start from.
    for kind, each, names in reversed(list(zip(kinds, edges, wanted, strict=True))):
        sums = {name: jnp.zeros_like(getattr(each, name)) for name in names}
        flows = _states(kind, by_inputs, flow)
        flows, sums = _pull(kind, _states(kind, inputs, nodes), each, flow, flows, sums)
        flow = flows[-NODES:] if kind.nodes else flow
        by_inputs = flows[:2] if kind.inputs else by_inputs
        by_edges.append(Inputs(sums.get("weights"), None, sums.get("picks")))  # pyright: ignore[reportArgumentType]
    return by_inputs, tuple(reversed(by_edges))


def _pull(kind: Edges, states: Array, edges: Inputs, flow: Array, flows: Array, sums: dict) -> tuple[Array, dict]:
    """The gradients by states and by what `sums` names. `flow` is that by nodes, `flows` that by states so far."""
    first = 2 * kind.inputs  # the first node among the states

    def source(i: Array, carry: Any) -> Any:
        flows, sums = carry
        s = len(states) - 1 - i
        x = _at(states, s)

        def edge(t: Array, carry: Any) -> Any:
            total, sums = carry
            place = kind.place(t, s)
            given = _at(edges, place)
            chosen = {name: getattr(given, name) for name in sums}
            _, pull = jax.vjp(lambda x, chosen: kind.run(x, *given._replace(**chosen))[0], x, chosen)
            by_x, found = pull(_at(flows, first + t) if kind.nodes else _at(flow, t))
            return total + by_x, _put(sums, found, place)

        # A state feeds the nodes after it, by which all gradients are complete when its turn comes.
        after = jnp.maximum(s - first + 1, 0) if kind.nodes else 0
        total, sums = lax.fori_loop(after, NODES, edge, (_at(flows, s), sums))
        return _put(flows, total, s), sums

    return lax.fori_loop(0, len(states), source, (flows, sums))


through_nodes.defvjp(_forward, _backward, symbolic_zeros=True)
