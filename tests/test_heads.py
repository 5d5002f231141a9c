"""A head of the task's own: it ends the body of any space that gives the maps of its stages."""

import dataclasses
import math
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import MINI, RECIPE
from flax import nnx

from nas.errors import UsageError
from nas.evaluators.supernet import SupernetEvaluator
from nas.evaluators.train import TrainEvaluator
from nas.evaluators.train import check as check_recipe
from nas.saved.networks import Exported
from nas.tasks import kinds
from nas.tasks.kinds.classification import Classification
from nas.tasks.kinds.detection import Detection
from nas.testing import check_space
from nas.training.net import alone, flatten, forward, head_costs, on_path, split, supernet
from nas.training.sgd import fit
from spaces.base import fingerprint, sample
from spaces.binary_width import BinaryWidth
from spaces.costs import with_cost, with_head
from spaces.darts import Darts
from spaces.layers import BatchNorm, Pointwise
from spaces.nas_fpn import NasFpn
from spaces.nasbench201 import NasBench201
from spaces.nasnet import NasNet

SIZES = {"image_size": 8, "image_channels": 1, "num_classes": 0}
SPACES = {
    "shufflenet": dataclasses.replace(MINI, num_classes=0),
    "nasbench201": NasBench201(width=4, cells=1, **SIZES),
    "darts": Darts(width=4, cells=3, **SIZES),
    "nasnet": NasNet(width=4, cells=6, **SIZES),
}


class EveryScale(nnx.Module):
    """A classifier that sees the map of every stage."""

    def __init__(self, shapes, classes, draw):
        self.classifiers = nnx.List([Pointwise(width, classes, draw, scale=0.1) for _, _, width in shapes])

    def __call__(self, maps, *, train):
        return sum(
            classifier(x.astype(jnp.float32).mean((1, 2))) for classifier, x in zip(self.classifiers, maps, strict=True)
        )


@dataclasses.dataclass(frozen=True)
class AtEveryScale(Classification):
    outputs: ClassVar[int] = 0

    def head(self, shapes, draw):
        return EveryScale(shapes, self.num_classes, draw)


KIND = AtEveryScale(3)


def row(space) -> np.ndarray:
    return np.array([i % size for i, size in enumerate(space.cardinalities)], np.int32)


@pytest.mark.parametrize("name", SPACES)
def test_a_body_gives_the_maps_of_its_stages_and_costs_what_it_has(name, key):
    space = SPACES[name]
    body = space.build(row(space), key)
    maps = body(jnp.ones((2, 8, 8, 1)))
    sizes = [x.shape[1] for x in maps]
    assert sizes == ([4, 2] if name == "shufflenet" else [8, 4, 2])
    held = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(body, nnx.Param)))
    assert space.cost(jnp.asarray(row(space))[None])["params"][0] == held


@pytest.mark.parametrize("name", ["shufflenet", "nasbench201", "darts"])
def test_a_supernet_is_ended_by_the_head_of_the_task(name, key):
    space = SPACES[name]
    graph, weights, statistics = split(supernet(space, KIND, key))
    path = jnp.asarray(row(space))
    outputs, left = forward(graph, on_path(weights, path), statistics, jnp.ones((2, 8, 8, 1)), path, train=True)
    assert outputs.shape == (2, 3)
    assert jax.tree.structure(left) == jax.tree.structure(statistics)
    assert {name.partition(".")[0] for name in flatten(weights)} == {"body", "head"}


def test_it_is_trained_and_measured_with_shared_weights_and_alone(task, key):
    task = dataclasses.replace(task, kind=KIND, classes=())
    space, path = SPACES["shufflenet"], (0, 1, 2, 3)
    losses = []
    paths = np.tile(np.array(path, np.int32), (RECIPE.steps, 1))
    heard = lambda step, loss: losses.append(loss)  # noqa: E731
    weights = fit(*split(supernet(space, KIND, key)), task, RECIPE, seed=0, paths=paths, on_step=heard)
    assert losses[-1] < losses[0]
    found = SupernetEvaluator(space, flatten(weights), task, calibration_images=64)(path, 0, 0)
    own = TrainEvaluator(space, task, RECIPE, pruned=True, tests=True)(path, 0, 0)
    assert found.metrics["error"] < 0.5
    assert own.metrics["test_error"] < 0.5
    assert own.arrays.keys() >= {name for name in flatten(split(alone(space, KIND, np.array(path), key))[1])}


def test_an_exported_network_gives_what_its_head_gives(key, monkeypatch):
    monkeypatch.setattr(kinds, "kinds", lambda: {"every-scale": AtEveryScale, "classification": Classification})
    space = SPACES["shufflenet"]
    description = {"mean": [0.5], "std": [0.25], "classes": [], "kind": kinds.described(KIND)}
    assert description["kind"] == {"name": "every-scale", "num_classes": 3}
    network = Exported(description, space, alone(space, KIND, row(space), key))
    images = np.random.default_rng(0).integers(0, 255, (300, 8, 8, 1)).astype(np.uint8)
    logits = network.predict(images)
    assert logits.shape == (300, 3)
    np.testing.assert_allclose(network.predict(images[:5]), logits[:5], rtol=1e-5)
    assert network.predict(images[:0]).shape == (0, 3)


def test_a_mixture_is_normalised_by_the_batch_in_the_head_too(key):
    class Normalised(EveryScale):
        def __init__(self, shapes, classes, draw):
            super().__init__(shapes, classes, draw)
            self.norm = BatchNorm(shapes[-1][-1], affine=False)

        def __call__(self, maps, *, train):
            return super().__call__((*maps[:-1], self.norm(maps[-1], train)), train=train)

    @dataclasses.dataclass(frozen=True)
    class Kind(AtEveryScale):
        def head(self, shapes, draw):
            return Normalised(shapes, self.num_classes, draw)

    space = SPACES["nasbench201"]
    network = supernet(space, Kind(3), key)
    mixture = jnp.full((6, 5), 0.2)
    images = jax.random.normal(key, (4, 8, 8, 1))
    by_batch, evaluated = (network(images, mixture, train=train) for train in (True, False))
    np.testing.assert_allclose(by_batch, evaluated, rtol=1e-5)
    assert not np.asarray(network.head.norm.mean.get_value()).any()  # and no statistics are left


# Costs of whole networks

DETECTORS = {
    **{name: SPACES[name] for name in ("nasbench201", "darts", "nasnet")},
    "shufflenet": dataclasses.replace(MINI, blocks=(1, 1, 3), widths=(8, 16, 24), strides=(1, 2, 2), num_classes=0),
    "nas-fpn": NasFpn(width=4, backbone="resnet-10-thin", image_size=128, image_channels=1),
    "binary-width": BinaryWidth(widths=(4, 4, 8, 8), ratios=(0.5, 1.0, 2.0), image_size=64, num_classes=0),
}


def ended(space, kind):
    return with_head(space, head_costs(space, kind))


@pytest.mark.parametrize("name", DETECTORS)
def test_the_costs_are_those_of_the_built_network_with_its_head(name, key):
    space, kind = DETECTORS[name], Detection(3)
    held = flatten(split(alone(space, kind, row(space), key))[1])
    found, own = (
        {n: float(v[0]) for n, v in each.cost(jnp.asarray(row(space))[None]).items()}
        for each in (ended(space, kind), space)
    )
    of_head = sum(array.size for name, array in held.items() if name.startswith("head."))
    assert found["head_params"] == of_head
    assert found["params"] == own["params"] + of_head == sum(array.size for array in held.values())
    assert found["macs"] == pytest.approx(own["macs"] + found["head_macs"])
    if name != "nas-fpn":
        assert found["params"] == found["backbone_params"] + found["head_params"]
        assert found["backbone_macs"] == own["macs"]


def test_a_head_has_the_multiply_adds_of_its_convolutions():
    shapes = tuple((64 >> i, 64 >> i, 16) for i in range(5))
    wide = ((60, 60, 8), (30, 30, 12), (15, 15, 20))
    for each in (shapes, wide):
        graph, weights, statistics = split(Detection(3).head(each, np.random.default_rng(0)))
        counted = []

        def conv(x, kernel, *_, counted=counted):
            counted.append(math.prod(x.shape[1:3]) * kernel.size)
            return x[..., :1] + jnp.zeros(kernel.shape[3])[None, None, None]

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("spaces.layers.dense_conv", conv)
            network = nnx.merge(graph.definition, weights, statistics)
            network([jnp.zeros((1, *shape)) for shape in each], train=False)
        laterals = 0 if each is shapes else sum(math.prod(shape) * 64 for shape in each)
        assert Detection(3).head_costs(each)["macs"] == sum(counted) + laterals


def test_a_space_with_a_head_is_the_same_space_everywhere():
    from ray import cloudpickle

    space, kind = DETECTORS["shufflenet"], Detection(3)
    whole = with_cost(ended(space, kind), phone_ms)
    assert whole == with_cost(ended(space, kind), phone_ms)
    assert fingerprint(whole) == fingerprint(space)
    rows = sample(space, jax.random.key(0), 5)
    costs = jax.jit(whole.cost)(rows)
    assert costs.keys() == {
        *(f"{part}{name}" for part in ("", "backbone_", "head_") for name in ("macs", "params")),
        "phone_ms",
    }
    np.testing.assert_array_equal(costs["phone_ms"], rows.sum(1))
    again = cloudpickle.loads(cloudpickle.dumps(whole))
    for name, values in again.cost(rows).items():
        np.testing.assert_allclose(values, costs[name])
    check_space(whole, networks=False)


def phone_ms(space, encodings):
    return encodings.sum(1)


@pytest.mark.parametrize("name", ["shufflenet", "nas-fpn"])
def test_mixtures_cost_what_networks_with_their_head_cost(name):
    check_space(ended(DETECTORS[name], Detection(3)), networks=False)


def test_kinds_without_a_head_leave_the_costs_of_a_space():
    assert head_costs(MINI, Classification(3)) == {}


def test_an_auxiliary_head_needs_the_classifier_of_the_space():
    with pytest.raises(UsageError, match=r"final.auxiliary=0.4: an auxiliary head needs classes"):
        check_recipe(SPACES["darts"], dataclasses.replace(RECIPE, auxiliary=0.4))
