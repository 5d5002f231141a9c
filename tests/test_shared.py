"""The network that is taken out of shared weights computes what its path through the supernet does."""

import dataclasses
import types
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import MINI, refusal
from flax import nnx

from nas.config import build_space
from nas.job import shared
from nas.tasks import kinds
from nas.training.net import flatten, split, supernet
from spaces.binary import Binary
from spaces.nas_fpn import NasFpn

pytestmark = pytest.mark.usefixtures("unchecked")  # a subject is more than is asked for here
SMALL = {"image_size": 8, "image_channels": 1, "num_classes": 3}
SPACES = {
    "shufflenet": MINI,
    "nasbench201": dataclasses.replace(build_space("nasbench201:tiny"), **SMALL),
    "darts": dataclasses.replace(build_space("darts:tiny"), **SMALL),
    "binary": Binary(template="bnas", width=8, cells=3, **SMALL),
    "binary-width": dataclasses.replace(build_space("binary-width:tiny"), **SMALL),
}
KIND = kinds.kinds()["classification"](3)


def subject(space, kind=KIND) -> Any:
    return types.SimpleNamespace(space=space, images=types.SimpleNamespace(kind=kind))


@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize(
    "name", ["shufflenet", *(pytest.param(each, marks=pytest.mark.slow) for each in list(SPACES)[1:])]
)
def test_a_network_of_shared_weights_is_its_path_through_the_supernet(name, affine):
    space = SPACES[name]
    row = np.array([(i + 1) % size for i, size in enumerate(space.cardinalities)], np.int32)
    graph, weights, statistics = split(supernet(space, KIND, jax.random.key(3), affine=affine))
    whole: Any = nnx.merge(graph.definition, weights, statistics)
    if name in ("darts", "binary") and not affine:
        said = refusal(shared._pruned, Path("x"), subject(space), row, flatten(weights), affine)
        assert "normalises what its network alone does not" in said
        return
    alone: Any = shared._pruned(Path("x"), subject(space), row, flatten(weights), affine)
    if name == "binary-width" and not affine:  # sums that are 0 but for rounding have either sign
        assert not any(
            value.any() for key, value in flatten(split(alone)[1]).items() if key.endswith("norm.bias.value")
        )
        return
    images = jax.random.normal(jax.random.key(0), (4, 8, 8, 1))
    expected = whole(images, jnp.asarray(row), train=True)
    np.testing.assert_allclose(alone(images, train=True), expected, rtol=1e-3, atol=1e-4)


def test_what_cannot_be_taken_out_is_refused():
    said = refusal(shared._pruned, Path("x"), subject(NasFpn()), np.zeros(1, np.int32), {}, False)
    assert "cannot take an architecture out of its shared weights" in said
    said = refusal(shared._pruned, Path("x"), subject(MINI), np.zeros(4, np.int32), {"a": np.zeros(1)}, False)
    assert "x does not fit the space of its run" in said
