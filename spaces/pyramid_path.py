"""Merging cells along a path: a pyramid whose architecture is data, so that one program serves all architectures.

All features lie in one array, each in a slot that has room for the finest level; of a feature of a coarser level only
the front of its slot is read and written. A slot holds what the convolution of a cell gave, and is normalised whenever
it is read. The cells of all stacks are one loop; a step switches over the level of its cell, and within it over the
levels of its inputs, so that nothing runs but what the path takes.

JAX would save the whole array for each step. But a feature never changes once it is written: the backward pass here
keeps the array as it is at the end, goes through the cells in reverse, and collects the gradient of each feature from
the cells that took it, which by then are done. The file is long, for both passes stand in it: each step of the second
undoes one of the first.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from spaces.dense import dense_conv
from spaces.depthwise import depthwise_conv
from spaces.layers import EPSILON
from spaces.precision import widened

FIRST, SECOND, ADDED = 1, 2, 3  # how a cell takes a feature; 0 where it does not


class Route(NamedTuple):
    """An architecture: of each cell of all stacks what it does. The maps that the neck is given are the first features,
    then come those of the cells."""

    first: Int[Array, "cells"]  # the feature of the coarser level, of equal levels the first
    second: Int[Array, "cells"]
    gates: Bool[Array, "cells"]  # whether the first gates the second
    level: Int[Array, "features"]
    role: Int[Array, "features cells"]  # how a cell takes a feature
    ends: Int[Array, "pyramids levels"]  # the feature that is each level of the last pyramid, or of all


# Of a cell: that of a dense convolution `[3, 3, c, c]`, or of each channel by itself `[3, 3, c]` and of all `[c, c]`.
Kernels = tuple[Float[Array, "*_"], ...]


class Weights(NamedTuple):
    kernels: Kernels  # of all cells
    scale: Float[Array, "cells c"]
    bias: Float[Array, "cells c"]
    gains: Float[Array, "cells 3"]  # what the inputs are multiplied by, and the output: 1 but for its gradient


class Moments(NamedTuple):
    """Statistics by which the features of cells are normalised."""

    mean: Float[Array, "cells c"]
    var: Float[Array, "cells c"]


class How(NamedTuple):
    train: bool  # whether a batch is normalised by itself
    weighed: bool  # whether gains have a gradient; else they are left out


Maps = tuple[Array, ...]


# The gradients of the largest are written here because those of JAX compare values with their maximum. XLA may compute
# both twice, in other bits: then none is the largest, and what follows is 0 / 0.


@jax.custom_vjp
def largest(x: Float[Array, "n h w c"]) -> Float[Array, "n 1 1 c"]:
    """Of each channel. Of equal ones the first has the gradient."""
    return x.max((1, 2), keepdims=True)


def where_largest(x: Float[Array, "n h w c"]) -> Int[Array, "n c"]:
    return x.reshape(len(x), -1, x.shape[3]).argmax(1).astype(jnp.int32)


def to_largest(x: Float[Array, "n h w c"], which: Int[Array, "n c"], flow: Float[Array, "n c"]) -> Array:
    """The gradient of `largest`."""
    number = lax.broadcasted_iota(jnp.int32, (len(x), x.shape[1] * x.shape[2], x.shape[3]), 1)
    return jnp.where(number == which[:, None], flow[:, None], 0).astype(x.dtype).reshape(x.shape)


largest.defvjp(
    lambda x: (largest(x), (x, where_largest(x))), lambda saved, flow: (to_largest(saved[0], saved[1], flow[:, 0, 0]),)
)


@jax.custom_vjp
def halved(x: Float[Array, "n h w c"]) -> Float[Array, "n _ _ c"]:
    """The largest of each square of four. Of equal ones the first has the gradient."""
    a, b, c, d = _quarters(x)
    return jnp.maximum(jnp.maximum(a, b), jnp.maximum(c, d))


def _quarters(x: Array) -> list[Array]:
    n, height, width, c = x.shape
    squares = x.reshape(n, height // 2, 2, width // 2, 2, c)
    return [squares[:, :, i, :, j] for i in (0, 1) for j in (0, 1)]


def _halved_backward(x: Array, flow: Array) -> tuple[Array]:
    a, b, c, d = _quarters(x)
    above, left, right = jnp.maximum(a, b) >= jnp.maximum(c, d), a >= b, c >= d
    masks = (above & left, above & ~left, ~above & right, ~above & ~right)
    one, two, three, four = (jnp.where(mask, flow, 0) for mask in masks)
    rows = [jnp.stack([one, two], axis=3), jnp.stack([three, four], axis=3)]
    return (jnp.stack(rows, axis=2).reshape(x.shape),)


halved.defvjp(lambda x: (halved(x), x), _halved_backward)


def convolved(x: Float[Array, "n h w c"], kernels: Kernels) -> Float[Array, "n h w c"]:
    kernels = tuple(each.astype(x.dtype) for each in kernels)
    return dense_conv(x, *kernels) if len(kernels) == 1 else depthwise_conv(x, kernels[0]) @ kernels[1]


def _of_cell(kernels: Kernels, t: Array) -> Kernels:
    return tuple(each[t] for each in kernels)


def coarser(x: Float[Array, "n h w c"], factor: int) -> Float[Array, "n _ _ c"]:
    """The largest of each square."""
    while factor > 1:
        x, factor = halved(x), factor // 2
    return x


def finer(x: Float[Array, "n h w c"], factor: int) -> Float[Array, "n _ _ c"]:
    """The nearest."""
    n, height, width, c = x.shape
    wide = jnp.broadcast_to(x[:, :, None, :, None], (n, height, factor, width, factor, c))
    return wide.reshape(n, height * factor, width * factor, c)


def resampled(x: Array, source: int, target: int) -> Array:
    """A map of one level at another."""
    if source == target:
        return x
    return coarser(x, 2 ** (target - source)) if target > source else finer(x, 2 ** (source - target))


def pyramid(how: How, maps: Maps, weights: Weights, given: Moments, route: Route) -> tuple[Maps, Moments]:
    """The pyramids that the route ends with, one after the other, and the statistics of this batch, by which they were
    normalised, or those given."""
    return _pyramid(how, maps, weights, given, route)


class Features(NamedTuple):
    """The array of all features, and what each is normalised by when it is read."""

    slots: Float[Array, "features n area c"]
    mul: Float[Array, "features c"]
    add: Float[Array, "features c"]

    def read(self, k: Array, side: int) -> Float[Array, "n side side c"]:
        x = _front(self.slots, k, side)
        mul, add = (lax.dynamic_index_in_dim(each, k, keepdims=False)[None, None, None] for each in self[1:])
        return (widened(x) * mul + add).astype(x.dtype)


def _front(slots: Array, k: Array, side: int) -> Array:
    n, c = slots.shape[1], slots.shape[3]
    return lax.dynamic_slice(slots, (k, 0, 0, 0), (1, n, side * side, c)).reshape(n, side, side, c)


def _placed(slots: Array, k: Array, x: Float[Array, "n area c"]) -> Array:
    return lax.dynamic_update_slice(slots, x[None], (k, 0, 0, 0))


def _as_slot(x: Float[Array, "n h w c"], area: int) -> Float[Array, "n area c"]:
    x = x.reshape(x.shape[0], -1, x.shape[3])
    return jnp.pad(x, ((0, 0), (0, area - x.shape[1]), (0, 0)))


def _sides(maps: Maps) -> list[int]:
    return [x.shape[1] for x in maps]


def _in_front(mask: Bool[Array, "rows columns"]) -> tuple[Int[Array, "rows columns"], Int[Array, "rows"]]:
    """Of each row the columns that are set, then the others; and how many are."""
    return jnp.argsort(~mask, axis=1, stable=True).astype(jnp.int32), mask.sum(1).astype(jnp.int32)


class Merged(NamedTuple):
    first: Array
    second: Array
    value: Array


def _merge(how: How, level: int, sides: list[int], features: Features, weights: Weights, route: Route, t) -> Merged:
    """The inputs of a cell at its level, and what it convolves, before ReLU."""

    def taken(k: Array, gain: Array) -> Array:
        sources = range(len(sides))
        branches = [
            lambda k, source=source: resampled(features.read(k, sides[source]), source, level) for source in sources
        ]
        x = lax.switch(route.level[k], branches, k)
        return x * gain.astype(x.dtype) if how.weighed else x

    first = taken(route.first[t], weights.gains[t, 0])
    second = taken(route.second[t], weights.gains[t, 1])
    gate = lax.cond(route.gates[t], lambda x: jax.nn.sigmoid(x.max((1, 2))), lambda x: jnp.ones_like(x[:, 0, 0]), first)
    value = first + second * gate[:, None, None]
    added, count = _in_front((route.role == ADDED).T)
    value = lax.fori_loop(0, count[t], lambda i, x: x + features.read(added[t, i], sides[level]), value)
    return Merged(first, second, value)


def _run(how: How, maps: Maps, weights: Weights, given: Moments, route: Route):
    """The features of all cells, and their statistics."""
    sides, cells = _sides(maps), len(weights.scale)
    n, area, c = maps[0].shape[0], sides[0] ** 2, maps[0].shape[3]
    slots = jnp.zeros((len(maps) + cells, n, area, c), maps[0].dtype)
    for i, x in enumerate(maps):
        slots = _placed(slots, jnp.int32(i), _as_slot(x, area))
    ones = jnp.ones((len(maps) + cells, c))
    features = Features(slots, ones, jnp.zeros_like(ones))

    def step(features: Features, t: Array) -> tuple[Features, Moments]:
        def at(level: int) -> tuple[Array, Array, Array]:
            x = jax.nn.relu(_merge(how, level, sides, features, weights, route, t).value)
            y = convolved(x, _of_cell(weights.kernels, t))
            exact = y.astype(jnp.float32)
            mean = exact.mean((0, 1, 2))
            var = jnp.maximum((exact * exact).mean((0, 1, 2)) - mean * mean, 0)
            return _as_slot(y, area), mean, var

        k = len(maps) + t
        y, mean, var = lax.switch(route.level[k], [functools.partial(at, level) for level in range(len(maps))])
        moments = Moments(mean, var) if how.train else Moments(given.mean[t], given.var[t])
        mul = lax.rsqrt(moments.var + EPSILON) * weights.scale[t]
        add = weights.bias[t] - moments.mean * mul
        if how.weighed:
            mul, add = mul * weights.gains[t, 2], add * weights.gains[t, 2]
        features = Features(_placed(features.slots, k, y), features.mul.at[k].set(mul), features.add.at[k].set(add))
        return features, moments

    return lax.scan(step, features, jnp.arange(cells, dtype=jnp.int32))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _pyramid(how: How, maps: Maps, weights: Weights, given: Moments, route: Route) -> tuple[Maps, Moments]:
    return _forward(how, maps, weights, given, route)[0]


def _forward(how: How, maps: Maps, weights: Weights, given: Moments, route: Route):
    features, moments = _run(how, maps, weights, given, route)
    sides = list(enumerate(_sides(maps)))
    ends = tuple(features.read(each[level], side) for each in route.ends for level, side in sides)
    return (ends, moments), (features, weights, moments, route)


class Pulled(NamedTuple):
    """What the backward pass knows of the cells that are done."""

    slots: Float[Array, "cells n area c"]  # the gradients of what they merged
    gate: Float[Array, "cells n c"]
    largest: Float[Array, "cells n c"]  # the gradient of that of which the gate is the sigmoid
    which: Int[Array, "cells n c"]  # and where in the map that is
    gains: Float[Array, "cells 3"]


def _backward(how: How, saved: Any, gradients: tuple[Maps, Any]):
    features, weights, moments, route = saved
    levels = range(route.ends.shape[1])
    pyramids = [gradients[0][i : i + len(levels)] for i in range(0, len(gradients[0]), len(levels))]
    flows = pyramids[0]
    sides = _sides(flows)
    cells, (_, n, area, c) = len(weights.scale), features.slots.shape
    users, num_users = _in_front(route.role > 0)

    def from_ends(level: int, k: Array) -> Array:
        """The gradient of a feature by the pyramid whose level it is, if it is one's."""
        found = [jnp.where(of[level] == k, maps[level], 0) for of, maps in zip(route.ends, pyramids, strict=True)]
        return sum(found[1:], found[0])

    def collected(level: int, k: Array, x: Array, flow: Array, pulled: Pulled) -> tuple[Array, Array]:
        """The gradient of a feature, whose value is `x`, and those of its gains."""

        def user(i: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
            total, gains = carry
            t = users[k, i]
            role = route.role[k, t]
            gain = weights.gains[t, jnp.minimum(role - 1, 1)].astype(x.dtype)

            def through(target: int, x: Array) -> tuple[Array, Array]:
                y, back = jax.vjp(lambda x: resampled(x, level, target), x)
                flow = _front(pulled.slots, t, sides[target])
                factor = jnp.where((role == SECOND) & route.gates[t], pulled.gate[t], 1).astype(flow.dtype)
                flow = flow * factor[:, None, None]

                def gating(flow: Array) -> Array:
                    return flow + to_largest(y, pulled.which[t], pulled.largest[t].astype(flow.dtype))

                flow = lax.cond((role == FIRST) & route.gates[t], gating, lambda flow: flow, flow)
                by_gain = jnp.zeros(())
                if how.weighed:
                    by_gain = jnp.where(role == ADDED, 0, jnp.vdot(widened(flow), widened(y)).astype(jnp.float32))
                    flow = jnp.where(role == ADDED, flow, flow * gain)
                return back(flow)[0], by_gain

            branches = [functools.partial(through, target) for target in levels]
            more, by_gain = lax.switch(route.level[len(flows) + t], branches, x)
            return total + more, gains.at[t, jnp.minimum(role - 1, 1)].add(by_gain)

        return lax.fori_loop(0, num_users[k], user, (flow, pulled.gains))

    def step(pulled: Pulled, t: Array):
        k = len(flows) + t

        def at(level: int):
            x = features.read(k, sides[level])
            flow = from_ends(level, k)
            flow, gains = collected(level, k, x, flow, pulled)
            exact = widened(flow)
            if how.weighed:
                gains = gains.at[t, 2].add(jnp.vdot(exact, widened(x)).astype(jnp.float32))
                exact = exact * weights.gains[t, 2]
            y = widened(_front(features.slots, k, sides[level]))
            rate = lax.rsqrt(moments.var[t] + EPSILON)[None, None, None]
            y = (y - moments.mean[t][None, None, None]) * rate
            zero = jnp.zeros((), exact.dtype)
            by_bias, by_scale = lax.reduce(
                (exact, exact * y), (zero, zero), lambda a, b: (a[0] + b[0], a[1] + b[1]), (0, 1, 2)
            )
            if how.train:
                size = y.size // c
                exact = exact - (by_bias / size)[None, None, None] - y * (by_scale / size)[None, None, None]
            by_y = (exact * rate * weights.scale[t][None, None, None]).astype(flow.dtype)
            merged = _merge(how, level, sides, features, weights, route, t)
            by_x, by_kernels = jax.vjp(convolved, jax.nn.relu(merged.value), _of_cell(weights.kernels, t))[1](by_y)
            by_merged = jnp.where(merged.value > 0, by_x, 0)

            def gating(first: Array, second: Array, flow: Array) -> tuple[Array, Array, Array]:
                gate = widened(jax.nn.sigmoid(first.max((1, 2))))
                by_largest = (widened(flow) * widened(second)).sum((1, 2)) * gate * (1 - gate)
                return gate, by_largest, where_largest(first)

            def none(first: Array, *_: Array) -> tuple[Array, Array, Array]:
                empty = jnp.zeros((n, c), exact.dtype)
                return empty, empty, jnp.zeros((n, c), jnp.int32)

            gate = lax.cond(route.gates[t], gating, none, merged.first, merged.second, by_merged)
            small = (by_kernels, by_scale, by_bias)
            return _as_slot(by_merged, area), gate, gains, small

        by_merged, gate, gains, small = lax.switch(route.level[k], [functools.partial(at, level) for level in levels])
        slots = _placed(pulled.slots, t, by_merged)
        gates = [old.at[t].set(new) for old, new in zip(pulled[1:4], gate, strict=True)]
        return Pulled(slots, gates[0], gates[1], gates[2], gains), small

    exact = jnp.zeros((cells, n, c), jnp.promote_types(features.slots.dtype, jnp.float32))
    pulled = Pulled(
        jnp.zeros((cells, n, area, c), features.slots.dtype),
        exact,
        exact,
        exact.astype(jnp.int32),
        jnp.zeros((cells, 3)),
    )
    pulled, (kernels, scale, bias) = lax.scan(step, pulled, jnp.arange(cells, dtype=jnp.int32), reverse=True)
    by_maps, gains = [], pulled.gains
    for level, flow in enumerate(flows):
        x = features.read(jnp.int32(level), sides[level])
        by_map, gains = collected(level, jnp.int32(level), x, jnp.zeros_like(flow), pulled._replace(gains=gains))
        by_maps.append(by_map)
    return tuple(by_maps), Weights(kernels, scale, bias, gains), None, None


_pyramid.defvjp(_forward, _backward)
