"""Memory of small devices: what is counted by arithmetic is what a simulation of the built network finds."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import MINI

from spaces.base import feasible, smallest
from spaces.shufflenet import PRESETS, ShuffleNet, prune
from strategies.region import region

SMALL = dataclasses.replace(PRESETS["small"], blocks=(1, 2, 1, 1), image_size=36, num_classes=7)
ODD = dataclasses.replace(MINI, image_size=13, widths=(8, 24), strides=(1, 3))


def simulated(space: ShuffleNet, network) -> tuple[int, int]:
    """The most bytes that live at once, and those of the weights. Operations are listed as they run, each with what it
    reads and what it gives; what is read no more is freed."""
    operations: list[tuple[list[int], int]] = []  # the tensors that are read, and the one that is given
    sizes: list[int] = []
    stored = 0

    def given(reads, array):
        sizes.append(int(np.prod(array.shape)))
        operations.append((reads, len(sizes) - 1))
        return len(sizes) - 1, array

    def convolved(tensor, conv, norm):
        nonlocal stored
        stored += conv.kernel.get_value().size + 4 * norm.scale.get_value().size
        return given([tensor[0]], jax.eval_shape(conv, tensor[1]))

    def joined(a, b):
        shape = (*a[1].shape[:3], a[1].shape[3] + b[1].shape[3])
        return given([a[0], b[0]], jax.ShapeDtypeStruct(shape, jnp.float32))

    def along(tensor, layers):
        for layer in layers:
            tensor = convolved(tensor, layer.conv, layer.norm)
        return tensor

    image = jax.ShapeDtypeStruct((1, space.image_size, space.image_size, space.image_channels), jnp.float32)
    sizes.append(int(np.prod(image.shape)))
    x = convolved((0, image), network.stem, network.stem_norm)
    for block in network.blocks:
        branch = block.branch
        if branch.projection:
            y = along(x, branch.main)
            x = joined(along(x, branch.projection), y)
        else:
            half = jax.ShapeDtypeStruct((*x[1].shape[:3], x[1].shape[3] // 2), jnp.float32)
            passing, through = given([x[0]], half), given([x[0]], half)
            x = joined(passing, along(through, branch.main))
    x = convolved(x, network.last, network.last_norm)
    x = given([x[0]], jax.ShapeDtypeStruct((1, x[1].shape[3]), jnp.float32))
    given([x[0]], jax.eval_shape(network.head, x[1]))
    stored += network.head.kernel.get_value().size
    last_read = {tensor: moment for moment, (reads, _) in enumerate(operations) for tensor in reads}
    peak, alive = 0, {0}
    for moment, (_, result) in enumerate(operations):
        alive.add(result)
        peak = max(peak, sum(sizes[tensor] for tensor in alive))
        alive = {tensor for tensor in alive if last_read.get(tensor, -1) > moment}
    return peak, stored


SPACES = [MINI, pytest.param(ODD, marks=pytest.mark.slow), pytest.param(SMALL, marks=pytest.mark.slow)]


@pytest.mark.parametrize("space", SPACES, ids=["mini", "odd", "small"])
def test_memory_is_that_of_the_built_network(space, key):
    supernet = space.supernet(key, affine=True)
    rows = [np.full(len(space.cardinalities), choice, np.int32) for choice in range(4)]
    rows += list(np.random.default_rng(0).integers(0, 4, (6, len(space.cardinalities)), np.int32))
    found = space.cost(jnp.asarray(np.stack(rows)))
    for i, row in enumerate(rows):
        peak, stored = simulated(space, prune(supernet, row))
        assert (found["peak_activation_bytes"][i], found["weights_bytes"][i]) == (peak, stored)
    assert len({float(value) for value in found["weights_bytes"]}) > 1


def test_published_size_by_hand():
    """The first block of DetNAS-300M at 224 pixels halves 112 x 112 maps of 16 channels.

    A kernel of 3 widens them to 32 before, which with what is read and the halved ones is the most. Xception halves
    them first; its last layer, from 32 to 48 channels, needs most.
    """
    space = PRESETS["small"]
    rows = np.zeros((2, 20), np.int32)
    rows[1] = 3
    side = 112**2
    kernel, xception = space.cost(jnp.asarray(rows))["peak_activation_bytes"]
    assert kernel == side * 16 + side * 32 + side // 4 * 32
    assert xception == side * 16 + side // 4 * (32 + 48)


def test_the_least_is_found_where_blocks_tie():
    """A largest part does not fall while another one is as large: four times as wide at half the size."""
    space = ShuffleNet((3, 3, 3), (16, 64, 256), (2, 2, 2), 4, 1, 8, image_size=32, image_channels=1, num_classes=2)
    cost = lambda row: float(space.cost(jnp.asarray(row)[None])["peak_activation_bytes"][0])  # noqa: E731
    least = cost(np.full(9, 3, np.int32))
    assert cost(np.zeros(9, np.int32)) > least
    row = smallest(space, (("peak_activation_bytes", 1.0),))
    assert cost(row) == least
    limits = (("peak_activation_bytes", least), ("weights_bytes", 1e6))
    assert feasible(space, jnp.asarray(region(space, limits).anchor)[None], limits).all()
    with pytest.raises(ValueError, match=f"the smallest peak_activation_bytes is {least:.9g}"):
        region(space, (("peak_activation_bytes", least - 1),))


def test_without_a_classifier_there_is_no_whole_network_to_count():
    space = dataclasses.replace(MINI, num_classes=0)
    assert space.cost(jnp.zeros((1, 4), jnp.int32)).keys() == {"macs", "params"}
