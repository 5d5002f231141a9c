"""Exports that other programs run: they give the network's numbers, without this library, and say how they are used."""

import dataclasses
import sys
import types
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import MINI, refusal
from flax import nnx

from nas.config import build_space
from nas.saved import as_onnx, as_stablehlo, programs
from nas.saved.networks import Exported
from nas.saved.predictors import described
from nas.tasks import kinds
from nas.tasks.augment import normalise
from nas.tasks.kinds.detection import Detection
from nas.tasks.kinds.regression import Regression
from nas.training.net import alone, forward, split
from spaces.binary import Binary

CLASSES = kinds.kinds()["classification"]
SMALL = {"image_size": 8, "image_channels": 1}


def preset(name: str, **more):
    return dataclasses.replace(build_space(name), **{**SMALL, **more})


NETWORKS = {
    "mini": ("shufflenet", MINI, CLASSES(3)),
    "shufflenet": ("shufflenet", preset("shufflenet:tiny", num_classes=10), CLASSES(10)),
    "darts": ("darts", preset("darts:tiny", num_classes=10), CLASSES(10)),
    "nasbench201": ("nasbench201", preset("nasbench201:tiny", num_classes=10), CLASSES(10)),
    "binary": ("binary", Binary(template="bats", width=8, cells=3, num_classes=10, **SMALL), CLASSES(10)),
    "binary-width": ("binary-width", preset("binary-width:tiny", num_classes=10), CLASSES(10)),
    "numbers": ("shufflenet", dataclasses.replace(MINI, num_classes=1), Regression(mean=30.0, scale=7.0)),
}
DETECTOR = ("nas-fpn", preset("nas-fpn:tiny", image_size=128, image_channels=3), Detection(2))


def images(n: int, size: int = 8, channels: int = 1) -> np.ndarray:
    return np.random.default_rng(n).integers(0, 256, (n, size, size, channels), dtype=np.uint8)


def made(name: str, space, kind) -> Exported:
    """A network that nobody has trained, with the statistics of noise."""
    row = np.array([(i + 1) % size for i, size in enumerate(space.cardinalities)], np.int32)
    graph, weights, statistics = split(alone(space, kind, row, jax.random.key(0)))
    size, channels = space.image_size, space.image_channels
    scaling = (0.5,) * channels, (0.25,) * channels
    noise = normalise(jnp.asarray(images(32, size, channels)), *scaling)
    statistics = jax.jit(lambda: forward(graph, weights, statistics, noise, (), train=True)[1])()
    network = nnx.merge(graph.definition, weights, statistics)
    description = {"space": described(name, space), "encoding": row.tolist(), "kind": kinds.described(kind)}
    return Exported({**description, "mean": list(scaling[0]), "std": list(scaling[1])}, space, network)


# StableHLO


@pytest.mark.parametrize("name", ["mini", *(pytest.param(each, marks=pytest.mark.slow) for each in list(NETWORKS)[1:])])
def test_stablehlo_gives_the_numbers_of_the_network(name):
    model = made(*NETWORKS[name])
    data, facts = as_stablehlo.serialised(model)
    assert facts == {"platforms": ("cpu", "cuda", "tpu"), "trial": {"images": 16, "differing": 0}}
    again = jax.export.deserialize(bytearray(data))
    for n in (1, 100):
        np.testing.assert_allclose(again.call(images(n)), model.predict(images(n)), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.usefixtures("unchecked")  # jaxtyping knows no number of images that is not known
def test_stablehlo_of_a_detector_gives_objects():
    model = made(*DETECTOR)
    again = jax.export.deserialize(bytearray(as_stablehlo.serialised(model).data))
    photos = images(3, 128, 3)
    np.testing.assert_allclose(again.call(photos), model.predict(photos), atol=1e-4)


# ONNX


def session(data: bytes):
    onnxruntime = pytest.importorskip("onnxruntime")
    return onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_onnx_runtime_gives_the_numbers_of_the_network(name):
    pytest.importorskip("jax2onnx")
    model = made(*NETWORKS[name])
    data, facts = as_onnx.serialised(model, {"classes": ["a", "b"], "space": name})
    assert facts["batch"] is None
    runs = session(data)
    (given,) = runs.get_inputs()
    assert (given.name, given.type, given.shape[1:]) == ("images", "tensor(uint8)", [8, 8, 1])
    assert runs.get_modelmeta().custom_metadata_map == {"classes": '["a", "b"]', "space": name}
    for n in (1, 100):
        (found,) = runs.run(None, {"images": images(n)})
        off = programs.differences(found, model.predict(images(n)))
        # A sum that is rounded otherwise may have another sign, in a layer of one bit; of the others none may differ.
        assert (off > 1e-4).mean() <= (0.05 if "binary" in name else 0)
    assert [each.name for each in runs.get_outputs()] == ["numbers" if name == "numbers" else "logits"]


@pytest.mark.slow
@pytest.mark.usefixtures("unchecked")
def test_onnx_of_a_detector_gives_scores_and_boxes():
    pytest.importorskip("jax2onnx")
    model = made(*DETECTOR)
    data, facts = as_onnx.serialised(model, {})
    photos = images(facts["batch"] or 3, 128, 3)
    scores, boxes = session(data).run(None, {"images": photos})
    graph, weights, statistics = split(model.network)
    outputs = forward(graph, weights, statistics, normalise(jnp.asarray(photos), *model.scaling), (), train=False)[0]
    parts = model.kind.parts(outputs)
    np.testing.assert_allclose(scores, parts["scores"], atol=1e-4)
    np.testing.assert_allclose(boxes, parts["boxes"], atol=1e-4)


def test_without_the_extra_it_is_said_in_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "jax2onnx", None)
    assert "pip install 'nas-engine[onnx]'" in refusal(as_onnx.serialised, made(*NETWORKS["mini"]), {})


def test_a_file_of_other_numbers_is_refused():
    model = made(*NETWORKS["mini"])
    expected = model.predict(programs.trial((8, 8, 1)))
    assert programs.check_same("onnx", model, [expected + 1e-5], [expected]) == {"images": 16, "differing": 0}
    assert "format='onnx' cannot be written" in refusal(programs.check_same, "onnx", model, [expected + 1], [expected])
    assert "differ" in refusal(programs.check_same, "onnx", model, [expected[:, :1]], [expected])
    assert "differ" in refusal(programs.check_same, "onnx", model, [expected * np.nan], [expected])


@pytest.mark.parametrize("differing", [0, 3, 4])
def test_a_network_of_one_bit_may_differ_on_a_quarter_of_the_images(differing):
    _, space, kind = NETWORKS["binary"]
    model: Any = types.SimpleNamespace(space=space, kind=kind)
    expected = np.linspace(-1, 1, 160, dtype=np.float32).reshape(16, 10)

    def moved(n: int) -> np.ndarray:
        return expected + (np.arange(16) < n)[:, None]

    found = programs.check_same("onnx", model, [moved(differing)], [expected])
    assert found == {"images": 16, "differing": differing}
    assert "cannot be written" in refusal(programs.check_same, "onnx", model, [moved(5)], [expected])
    plain: Any = types.SimpleNamespace(space=MINI, kind=kind)
    assert "cannot be written" in refusal(programs.check_same, "onnx", plain, [moved(1)], [expected])


def test_answers_in_a_small_unit_are_compared_in_it():
    small = np.array([[1e-5], [2e-5]])
    assert programs.differences(small * 0, small, least=0.0).max() == 1
    assert programs.differences(small * 0, small).max() < 1e-4
    assert (programs.differences(small * 0, small * 0, least=0.0) == 0).all()
