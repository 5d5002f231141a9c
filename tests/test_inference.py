"""Evaluation with shared weights: private statistics, exact counts, and one compiled program for all candidates."""

import dataclasses

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from conftest import MINI, compilations
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from nas.evaluators.supernet import SupernetEvaluator
from nas.tasks.augment import normalise
from nas.tasks.base import Split
from nas.training import net
from nas.training.net import calibrate, flatten, measure, on_path, split, unflatten

BATCH = 32


@pytest.fixture(scope="module")
def evaluator(task):
    """Of weights whose classifier is large enough to tell architectures apart."""
    weights = flatten(split(MINI.supernet(jr.key(3)))[1])
    weights["head.kernel.value"] = 100 * weights["head.kernel.value"]
    return SupernetEvaluator(MINI, weights, task, calibration_images=80, batch_size=BATCH)


def copied(tree):
    return jax.tree.map(np.array, tree)


# Calibration


def test_recalibration_is_private(evaluator):
    first, other = (0, 1, 2, 3), (3, 3, 3, 3)
    before = copied(evaluator._network[1:])
    score = evaluator(first, 0, 0)
    assert evaluator(other, 0, 0) != score
    assert evaluator(first, 0, 0) == score
    for old, new in zip(jax.tree.leaves(before), jax.tree.leaves(evaluator._network[1:]), strict=True):
        np.testing.assert_array_equal(old, new)


def test_an_evaluation_depends_on_the_encoding_alone(evaluator):
    assert evaluator((0, 1, 2, 3), 0, 0) == evaluator((0, 1, 2, 3), 7, 11)
    again = dataclasses.replace(evaluator)
    assert again((0, 1, 2, 3), 0, 0) == evaluator((0, 1, 2, 3), 0, 0)


def test_a_score_is_a_share_and_comes_with_the_costs(evaluator):
    metrics = evaluator((0, 1, 2, 3), 0, 0).metrics
    assert metrics.keys() == {"error", "macs", "params", "weights_bytes", "peak_activation_bytes"}
    assert 0 <= metrics["error"] <= 1
    assert (metrics["error"] * len(evaluator.task.valid)).is_integer()
    assert metrics["params"] == MINI.cost(jnp.array([[0, 1, 2, 3]], jnp.int32))["params"][0]


def stem_statistics(evaluator, images) -> tuple[np.ndarray, np.ndarray]:
    graph, weights, statistics = evaluator._network
    network = nnx.merge(graph.definition, weights, statistics, copy=True)
    x = np.asarray(network.stem(normalise(jnp.asarray(images), evaluator.task.mean, evaluator.task.std)), np.float64)
    return x.mean((0, 1, 2)), x.var((0, 1, 2))


@pytest.mark.parametrize(
    ("n", "batches"),
    [(64, [(0, 32), (32, 64)]), (80, [(0, 32), (32, 64)])],
    ids=["whole batches", "the rest is left out"],
)
def test_statistics_are_the_mean_over_batches(evaluator, n, batches):
    graph, weights, statistics = evaluator._network
    path, images = jnp.array([0, 1, 2, 3]), evaluator.task.train.images[:n]
    found = calibrate(
        graph, on_path(weights, path), statistics, images, evaluator.task, path, batch=BATCH, precision="float32"
    )
    assert jax.tree.structure(found) == jax.tree.structure(statistics)
    for name, i in (("mean", 0), ("var", 1)):
        each = [stem_statistics(evaluator, images[start:stop])[i] for start, stop in batches]
        np.testing.assert_allclose(found["stem_norm"][name].get_value(), np.mean(each, axis=0), rtol=1e-4, atol=1e-6)


@pytest.mark.usefixtures("unchecked")  # stand-ins for a network and its statistics
def test_a_batch_is_no_larger_than_the_images_there_are(evaluator, monkeypatch):
    seen = []
    monkeypatch.setattr(net, "_batch_statistics", lambda *args: seen.append(len(args[5])) or jnp.zeros(1))
    for n in (5, 8, 9, 16):
        calibrate(None, None, None, evaluator.task.train.images[:n], evaluator.task, (), batch=8, precision="float32")
    assert seen == [5, 8, 8, 8, 8]


# Counting errors


@settings(max_examples=60, deadline=None)
@given(n=st.integers(1, 40), batch=st.integers(1, 50), seed=st.integers(0, 1000))
def test_every_image_is_counted_once_whatever_the_batch(task, n, batch, seed):
    draw = np.random.default_rng(seed)
    images = draw.integers(0, 3, (n, 8, 8, 1)).astype(np.uint8)
    labels = draw.integers(0, 3, n).astype(np.int32)

    def says_its_first_pixel(graph, scaling, precision, weights, statistics, images, path):
        sizes.add(len(images))
        return jnp.eye(3)[images[:, 0, 0, 0]]

    sizes: set[int] = set()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(net, "_logits", says_its_first_pixel)
        patch.setattr(net, "_judged", net._judged.__wrapped__)
        found = measure(None, None, None, Split(images, labels), task, (), batch=batch, precision="float32")
    assert found == {"error": (images[:, 0, 0, 0] != labels).sum() / n}
    assert len(sizes) == 1  # each size of batch would be another program


def test_the_error_is_that_of_the_logits(evaluator):
    graph, weights, statistics = evaluator._network
    task, path = evaluator.task, jnp.array([0, 1, 2, 3])
    assert len(task.valid) % BATCH
    how = {"batch": BATCH, "precision": "float32"}
    weights = on_path(weights, path)
    statistics = calibrate(graph, weights, statistics, evaluator._calibration, task, path, **how)
    found = measure(graph, weights, statistics, task.valid, task, path, **how)
    images = normalise(jnp.asarray(task.valid.images), task.mean, task.std)
    logits, _ = net.forward(graph, weights, statistics, images, path, train=False)
    assert found == {"error": (np.asarray(logits).argmax(1) != task.valid.labels).mean()}
    assert 0 < found["error"] < 1


# Arrays by name


@pytest.fixture
def arrays(supernet):
    return flatten(supernet[1])


def test_flattened_arrays_are_read_back(supernet, arrays):
    _, weights, _ = supernet
    back = unflatten(weights, {name: arrays[name] for name in reversed(arrays)})
    assert jax.tree.structure(back) == jax.tree.structure(weights)
    for old, new in zip(jax.tree.leaves(weights), jax.tree.leaves(back), strict=True):
        np.testing.assert_array_equal(old, new)


def test_names_of_arrays_never_change(arrays):
    blocks = {f"blocks.{i}.weights.value" for i in range(3)}  # the last of them holds two decisions
    assert arrays.keys() == {"stem.kernel.value", "last.kernel.value", "head.kernel.value"} | blocks


def without(arrays, name):
    return {key: value for key, value in arrays.items() if key != name}


NAME = "head.kernel.value"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda a: without(a, NAME), "'head.kernel.value' is missing"),
        (lambda a: {}, "is missing"),
        (lambda a: {**a, "tail": np.zeros(3, np.float32)}, "'tail' is not part of the network"),
        (lambda a: {**a, NAME: a[NAME].T}, r"'head.kernel.value' is float32\[3, 16\], expected float32\[16, 3\]"),
        (lambda a: {**a, NAME: a[NAME].ravel()}, r"float32\[48\], expected float32\[16, 3\]"),
        (lambda a: {**a, NAME: a[NAME].astype(np.float16)}, "is float16.*expected float32"),
        (lambda a: {**a, NAME: a[NAME].astype(np.float64)}, "is float64.*expected float32"),
    ],
    ids=["missing", "nothing", "extra", "transposed", "flat", "half precision", "double precision"],
)
def test_arrays_that_do_not_fit_are_refused(supernet, arrays, change, reason):
    with pytest.raises(ValueError, match=reason):
        unflatten(supernet[1], change(arrays))


# Compilation


def test_evaluating_20_candidates_compiles_no_more_programs_than_evaluating_2(evaluator):
    # A batch of another size than in other tests, so that nothing is compiled yet.
    fresh = dataclasses.replace(evaluator, batch_size=24)
    candidates = np.random.default_rng(0).integers(0, 4, (20, 4)).tolist()
    with compilations() as first:
        for encoding in candidates[:2]:
            fresh(tuple(encoding), 0, 0)
    assert len(first) >= 2  # calibration and error, at the least
    with compilations() as rest:
        for encoding in candidates:
            fresh(tuple(encoding), 0, 0)
    assert rest == []
