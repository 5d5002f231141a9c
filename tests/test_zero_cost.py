"""Zero-cost scores: by hand where a hand can count, alike for a supernet's path and a pruned network, searched by."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import MINI
from flax import nnx
from jax import lax

import nas
from nas.errors import RunError, UsageError
from nas.evaluators import patterns, proxies
from nas.evaluators.base import Job, run_job
from nas.evaluators.patterns import NoRectifier, agreements
from nas.evaluators.proxies import SCORES, batch, decorrelation, log_determinant, network_scores, scores
from nas.evaluators.zero_cost import ENSEMBLE, METRICS, ZeroCost, ZeroCostEvaluator, share
from nas.report.outcome import told
from nas.streams import REFERENCES, stream
from nas.tasks.augment import normalise
from nas.tasks.base import Split
from nas.training.net import forward, on_path, split
from spaces import nasbench201, shufflenet
from spaces.base import costs, sample
from spaces.darts import Darts
from spaces.genotype import Cell, Genotype
from spaces.layers import Pointwise, generator
from spaces.nasbench201 import NasBench201
from spaces.shared import put

# With two cells, so that the cells of a stage are a loop.
CELLS = NasBench201(width=4, cells=2, image_size=8, image_channels=1, num_classes=3)
# Two equal blocks: compiling is what these tests take their time for.
BLOCKS = dataclasses.replace(MINI, blocks=(2,), widths=(8,), strides=(1,))
SPACES = {"shufflenet": (BLOCKS, shufflenet.prune), "nasbench201": (CELLS, nasbench201.prune)}
SMALL = {"batch_size": 8}


def encodings(space, n):
    draw = np.random.default_rng(0)
    return [tuple(int(draw.integers(size)) for size in space.cardinalities) for _ in range(n)]


# Which ReLUs agree


X = jnp.array([[1.0, -1.0, 2.0], [1.0, 1.0, -2.0], [-1.0, -1.0, -1.0]])
AGREE = np.array([[3, 1, 1], [1, 3, 1], [1, 1, 3]])


def in_a_loop(x):
    return lax.scan(lambda x, _: (jax.nn.relu(x) - 0.5, x.sum()), x, None, length=2)[0]


def in_a_branch(x):
    quiet, once = jnp.negative, jax.nn.relu
    return lax.switch(jnp.int32(2), [quiet, once, lambda x: once(once(x) - 0.5)], x)


@jax.custom_vjp
def with_a_gradient_of_its_own(x):
    return jax.jit(jax.nn.relu)(x)


with_a_gradient_of_its_own.defvjp(lambda x: (x, x), lambda x, gradient: (gradient,))


def in_a_loop_of_any_length(x):
    times = jnp.int32(x.shape[1] - 1) + (x.sum() > 1e6)
    return lax.fori_loop(0, times, lambda _, x: jax.nn.relu(x) - 0.5, x)


def by_statistics(x):
    batch, image = x.var(0), x.var(1, keepdims=True)
    return jax.nn.relu(x) * jnp.maximum(batch, 0)[None] * lax.rsqrt(jnp.maximum(0.0, image) + 1e-5)


COUNTED = {
    "one": (jax.nn.relu, AGREE),
    "written out": (lambda x: jnp.maximum(x, 0), AGREE),
    "zero first": (lambda x: jnp.maximum(0.0, x), AGREE),
    "zeros of its shape": (lambda x: jnp.maximum(x, jnp.zeros_like(x)), AGREE),
    "zeros of an array": (lambda x: jax.jit(jnp.maximum)(x, np.zeros((1, 3), np.float32)), AGREE),
    "clipped at 6": (jax.nn.relu6, AGREE),
    "clipped below": (lambda x: jnp.clip(x, 0), AGREE),
    "clamped": (lambda x: lax.clamp(0.0, x, 6.0), AGREE),
    "in half precision": (lambda x: jax.nn.relu(x.astype(jnp.bfloat16)), AGREE),
    "two": (lambda x: jnp.maximum(jax.nn.relu(x) - 0.5, 0), 2 * AGREE),
    "in a loop": (in_a_loop, 2 * AGREE),
    "in a loop of any length": (in_a_loop_of_any_length, 2 * AGREE),
    "in the branch taken": (in_a_branch, 2 * AGREE),
    "not in the others": (lambda x: lax.cond(False, jax.nn.relu, jnp.negative, x), 0 * AGREE),
    "in a call": (with_a_gradient_of_its_own, AGREE),
    "computed twice for a gradient": (jax.checkpoint(jax.nn.relu), AGREE),
    "not the larger of two": (lambda x: jnp.maximum(jax.nn.relu(x), -x), AGREE),
    "not a pool": (lambda x: nnx.max_pool(jax.nn.relu(x)[:, :, None], (2,)), AGREE),
    "not statistics": (by_statistics, AGREE),
    "not whole numbers": (lambda x: jax.nn.relu(x) + jnp.maximum(x.astype(jnp.int32), 0), AGREE),
}


@pytest.mark.parametrize("name", COUNTED)
def test_every_relu_that_runs_is_counted(name):
    function, expected = COUNTED[name]
    np.testing.assert_array_equal(jax.jit(lambda x: agreements(function, x))(X), expected)


def test_a_network_without_a_relu_is_said_to_have_none():
    with pytest.warns(NoRectifier, match="no operation of this network is a ReLU") as said:
        assert not agreements(lambda x: jnp.maximum(x, x[::-1]) - 1, X).any()
    assert "\n" not in str(said[0].message)


def test_relus_within_an_unknown_operation_are_not_left_out_in_silence(monkeypatch):
    monkeypatch.setattr(patterns, "CALLS", ("jit", "custom_jvp_call"))
    with pytest.raises(RunError, match="cannot be counted"):
        agreements(jax.checkpoint(jax.nn.relu), X)


def units(space, paths, images=4):
    """ReLUs of each image in the network of each path."""
    graph, weights, statistics = split(space.supernet(jax.random.key(0)))
    size = space.image_size
    shown = jax.random.normal(jax.random.key(1), (images, size, size, space.image_channels))

    @jax.jit
    def count(weights, path):
        return jnp.diag(agreements(lambda x: forward(graph, weights, statistics, x, path, train=True)[0], shown))

    found = [np.asarray(count(on_path(weights, path), path)) for path in map(jnp.asarray, paths)]
    assert all((each == each[0]).all() for each in found)
    return [each[0] for each in found]


def test_the_units_of_shuffle_blocks_are_those_counted_by_hand():
    # 8 channels of 4 x 4 pixels after the stem; a block of stride 1 transforms 4 of them, and ends with 4; then 16 are
    # made of 2 x 2 pixels, of which the other blocks transform 8. Only convolutions of 1 x 1 are rectified.
    first = {0: 16 * (4 + 4), 3: 16 * (4 + 4 + 4)}
    wider = {1: 16 * 8 + 4 * 8 + 4 * 8, 3: 4 * 8 + 4 * 8 + 4 * 8 + 4 * 8}
    other = {0: 4 * (8 + 8), 2: 4 * (8 + 8), 3: 4 * (8 + 8 + 8)}
    ends = 16 * 8 + 4 * 16
    expected = [ends + first[0] + wider[1] + other[2] + other[3], ends + first[3] + wider[3] + 2 * other[0]]
    assert units(MINI, [(0, 1, 2, 3), (3, 3, 0, 0)]) == expected


def test_the_units_of_cells_of_darts_are_those_counted_by_hand():
    space = Darts(width=4, cells=2, image_size=4, image_channels=1)  # both cells reduce the resolution
    # The inputs are 12 channels of 4 x 4 pixels, twice; then the first of them, and 4 x 8 channels of 2 x 2.
    fits = 2 * 16 * 12 + 16 * 12 + 4 * 32
    # Of an operation on an input and on a node, a channel: 16 pixels before the stride and 4 after. The second cell
    # has twice the channels, and a quarter of the pixels.
    inputs = {"avg_pool_3x3": 0, "skip_connect": 16, "sep_conv_3x3": 16 + 4, "dil_conv_5x5": 16}
    nodes = {"avg_pool_3x3": 0, "skip_connect": 0, "sep_conv_3x3": 4 + 4, "dil_conv_5x5": 4}
    first = (("sep_conv_3x3", 0), ("skip_connect", 1))
    cells = [
        (*first, *(("sep_conv_3x3", 2), ("dil_conv_5x5", 0)) * 3),
        (("avg_pool_3x3", 0), ("avg_pool_3x3", 1)) * 4,
        (*first, *(("skip_connect", 2), ("dil_conv_5x5", 1)) * 2, ("dil_conv_5x5", 4), ("sep_conv_3x3", 1)),
    ]
    texts = [str(Genotype(*[Cell(cell, (2, 3, 4, 5))] * 2)) for cell in cells]
    each = [sum((inputs if source < 2 else nodes)[op] for op, source in cell) for cell in cells]
    assert units(space, [space.parse(text) for text in texts]) == [fits + 8 * n + 16 * n / 4 for n in each]


def test_naswot_of_opposites_is_largest_and_of_equals_has_no_value():
    assert log_determinant(np.eye(4) * 7) == pytest.approx(4 * np.log(7))
    same = agreements(jax.nn.relu, jnp.concatenate([X, X[:1]]))
    assert log_determinant(np.asarray(same)) == -np.inf


def test_jacov_is_largest_without_correlation():
    rows = np.array([[1, -1, 0, 0], [0, 0, 1, -1], [1, 1, -1, -1]])
    free = decorrelation(rows.astype(np.float32))
    assert free == pytest.approx(-3 * (np.log(1 + 1e-5) + 1 / (1 + 1e-5)))
    assert decorrelation((rows + np.array([[1, 0, -1, 0]])).astype(np.float32)) < free
    assert np.isnan(decorrelation(np.ones((3, 4), np.float32)))


# Scores of the weights


class Chain(nnx.Module):
    """Linear layers on the mean of the pixels."""

    def __init__(self, widths, key):
        draw = generator(key)
        self.layers = nnx.List([Pointwise(*pair, draw) for pair in itertools.pairwise(widths)])
        self.bias = nnx.Param(np.full(widths[-1], 0.5, np.float32))

    def __call__(self, images, path=(), *, train=False, key=None):
        x = images.mean((1, 2))
        for layer in self.layers:
            x = layer(x)
        return x + jnp.asarray(self.bias.get_value(), x.dtype)[None]


linear = pytest.mark.filterwarnings("ignore::nas.evaluators.patterns.NoRectifier")


@pytest.fixture
def chain(task, key):
    """The layers' matrices, the images' means, and the scores."""
    network, data = Chain((1, 4, 5, 3), key), batch(task, 0, 8)
    found = network_scores(*split(network), data, task, ())
    means = normalise(jnp.asarray(data.images), task.mean, task.std).mean((1, 2))
    return [layer.kernel.get_value() for layer in network.layers], means, data.labels, found


@linear
def test_synflow_of_linear_layers_is_their_number_times_their_product(chain):
    kernels, _, _, found = chain
    product = np.linalg.multi_dot([np.abs(kernel) for kernel in kernels]).sum()
    assert found["synflow"] == pytest.approx(np.log(3 * product), rel=1e-5)


@linear
def test_grad_norm_and_snip_are_those_of_the_loss(chain):
    kernels, means, labels, found = chain

    def loss(kernels):
        logits = 0.5 + means @ kernels[0] @ kernels[1] @ kernels[2]
        return -jax.nn.log_softmax(logits)[np.arange(len(labels)), labels].mean()

    gradients = jax.grad(loss)(kernels)
    assert found["grad_norm"] == pytest.approx(sum(float(jnp.linalg.norm(g)) for g in gradients), rel=1e-4)
    snip = sum(float(jnp.abs(w * g).sum()) for w, g in zip(kernels, gradients, strict=True))
    assert found["snip"] == pytest.approx(snip, rel=1e-4)


@linear
def test_a_linear_network_answers_all_images_alike(chain):
    assert chain[-1]["naswot"] == -np.inf  # no ReLU
    assert chain[-1]["jacov"] != chain[-1]["jacov"]  # one gradient, constant over the pixels


# Laws of every space


@pytest.fixture(scope="module", params=["shufflenet", pytest.param("nasbench201", marks=pytest.mark.slow)])
def case(request):
    return SPACES[request.param]


def test_a_path_scores_as_its_pruned_network(case, task, key):
    space, prune = case
    encoding = encodings(space, 1)[0]
    supernet, data, path = space.supernet(key), batch(task, 0, 8), jnp.asarray(encoding)
    graph, weights, statistics = split(supernet)
    found = network_scores(graph, on_path(weights, path), statistics, data, task, path)
    alone = network_scores(*split(prune(supernet, np.array(encoding))), data, task, ())
    assert found["naswot"] == pytest.approx(alone["naswot"], abs=0.5)  # a sign at zero may round either way
    assert found == pytest.approx(alone, rel=1e-3)


def test_weights_off_the_path_do_not_matter(case, task, key):
    space, _ = case
    data, path = batch(task, 0, 8), jnp.asarray(encodings(space, 1)[0])
    graph, weights, statistics = split(space.supernet(key))
    mine = on_path(weights, path)
    others = put(jax.tree.map(lambda w: jnp.asarray(w) + 1, weights), mine, path)
    found, again = (
        network_scores(graph, on_path(each, path), statistics, data, task, path) for each in (weights, others)
    )
    assert found == again


def test_scores_follow_from_the_seed(case, task):
    space, _ = case
    encoding = encodings(space, 1)[0]
    found = scores(space, encoding, task, 1, **SMALL)
    assert tuple(found) == SCORES
    proxies._initial.cache_clear()
    assert scores(space, encoding, task, 1, **SMALL) == found
    assert all(value != found[name] for name, value in scores(space, encoding, task, 2, **SMALL).items())
    more = scores(space, encoding, task, 1, initialisations=2, **SMALL)
    assert all(value != found[name] for name, value in more.items())


def test_many_architectures_compile_no_more_than_one(case, task):
    space, _ = case
    first, *others = encodings(space, 6)
    scores(space, first, task, **SMALL)
    programs = proxies._seen(), proxies._synflow()
    before = [program._cache_size() for program in programs]
    found = [scores(space, encoding, task, **SMALL) for encoding in others]
    assert [program._cache_size() for program in programs] == before
    assert len({each["naswot"] for each in found}) > 3  # two of the cells are the same function


# As an evaluator


def test_metrics_are_the_negatives_and_the_costs(task):
    found = ZeroCostEvaluator(BLOCKS, task, ZeroCost(**SMALL))((2, 3), 0, 5)
    expected = scores(BLOCKS, (2, 3), task, 5, **SMALL)
    assert {name: -found.metrics[f"minus_{name}"] for name in SCORES} == expected
    assert found.metrics.keys() == {*METRICS, *costs(BLOCKS, (2, 3))}


# The ensemble


def test_a_share_grows_with_the_value_and_ranks_between_references():
    others = np.array([1.0, 2.0, 4.0, 8.0])
    assert [share(value, others) for value in others] == [0.125, 0.375, 0.625, 0.875]
    assert share(3.0, others) == 0.5
    values = [-1e9, -5.0, 0.0, 1.0, 1.5, 7.0, 8.0, 9.0, 50.0]
    shares = [share(value, others) for value in values]
    assert sorted(set(shares)) == shares
    assert shares[0] > 0


@pytest.mark.parametrize("others", [[1.0, 2.0, np.nan], [np.nan] * 3, [3.0, 3.0, 3.0]])
def test_what_is_no_number_is_the_worst(others):
    worst = share(float("nan"), np.sort(others))
    assert worst == share(float("-inf"), np.sort(others))
    assert 0 < worst <= share(2.0, np.sort(others)) <= share(4.0, np.sort(others))


def test_the_ensemble_is_the_sum_of_the_logarithms_of_ranks(task):
    """Among the references that the seed draws, whatever else is evaluated and in whatever order."""
    settings = ZeroCost(batch_size=8, references=4)
    evaluator = ZeroCostEvaluator(BLOCKS, task, settings, ENSEMBLE, together=True)
    rows = encodings(BLOCKS, 3)
    found = [evaluator(row, 0, 5).metrics for row in rows]
    drawn = sample(BLOCKS, stream(5, REFERENCES), 4)
    others = [{**scores(BLOCKS, tuple(row), task, 5, **SMALL), **costs(BLOCKS, row)} for row in drawn.tolist()]
    for metrics in found:
        values = {"naswot": -metrics["minus_naswot"], "jacov": -metrics["minus_jacov"], "params": metrics["params"]}
        shares = [share(value, np.sort([one[name] for one in others])) for name, value in values.items()]
        assert -metrics[ENSEMBLE] == pytest.approx(np.log(shares).sum())
    again = ZeroCostEvaluator(BLOCKS, task, settings, ENSEMBLE, together=True)
    assert again(rows[2], 0, 5).metrics == found[2]
    assert ENSEMBLE not in ZeroCostEvaluator(BLOCKS, task, settings)(rows[0], 0, 5).metrics


@pytest.mark.parametrize("names", [("naswot", "jacov"), ("snip",), ("synflow",), ()])
def test_scores_that_are_not_asked_for_are_not_computed_and_the_others_stay_what_they_are(task, names):
    every = scores(BLOCKS, (2, 3), task, 5, **SMALL)
    assert scores(BLOCKS, (2, 3), task, 5, names=names, **SMALL) == {name: every[name] for name in names}


def test_an_architecture_that_is_blind_fails(task):
    evaluator = ZeroCostEvaluator(CELLS, task, ZeroCost(**SMALL))
    report = run_job(evaluator, Job(0, (0, 0, 0, 0, 0, 0), 0, 0))
    assert report.error == "the naswot is -inf"
    with_params = dataclasses.replace(evaluator, objective="params")
    assert run_job(with_params, Job(0, (0, 0, 0, 0, 0, 0), 0, 0)).evaluation is not None


def test_few_images_are_all_taken(task):
    few = dataclasses.replace(task, train=Split(task.train.images[:5], task.train.labels[:5]))
    assert len(batch(few, 0, 64)) == 5


JOB = {
    "space": {"name": "nasbench201", "width": CELLS.width, "cells": CELLS.cells},
    "strategy": "random",
    "evaluator": {"name": "zero-cost", "batch_size": 8},
    "max_images": 200,
    "final": {"steps": 4, "batch_size": 8},
    "baselines": 0,
    "trials": 4,
    "workers": 0,
}


def test_a_search_goes_by_the_first_objective(tmp_path):
    url = f"sqlite:///{tmp_path / 'x.db'}"
    outcome = nas.search(**JOB, store=url)
    assert (outcome.objective, outcome.most) == ("naswot", True)
    assert "by naswot (most is best)" in told(outcome)
    with nas.Store(url) as store:
        rows = store.top(outcome.name)
        kept = [trial.measurements for trial in store.trials(store.run(outcome.name).id)]
    naswot = [row["naswot"] for row in rows]
    assert naswot == sorted(naswot, reverse=True)
    assert naswot[0] == -min(each["minus_naswot"] for each in kept)
    assert not any("minus" in name for row in rows for name in row)
    assert outcome.top() == rows
    assert all(row["error"] is None for row in rows)
    found = outcome.finals[0]
    assert found["architecture"] == rows[0]["architecture"]
    assert 0 <= rows[0]["test_error"] == found["test_error"] <= 1
    most = max(row["synflow"] for row in rows)
    assert outcome.top(by="synflow")[0]["synflow"] == outcome.top(by="minus_synflow")[0]["synflow"] == most


WRONG = {
    "evaluator='zero-cost': objectives='error' is not one of ensemble, grad_norm, jacov, macs": {"objectives": "error"},
    "did you mean 'naswot'": {"objectives": "naswto"},
    "objectives='naswot' is not one of error, macs": {"evaluator": "train", "objectives": "naswot"},
    "must be different names": {"objectives": "naswot,minus_naswot"},
    "evaluator.batch_size=1 must be at least 2": {"evaluator": {"name": "zero-cost", "batch_size": 1}},
    "initialisations=0 must be at least 1": {"evaluator": {"name": "zero-cost", "initialisations": 0}},
}


@pytest.mark.parametrize("said", WRONG)
def test_a_wrong_combination_is_one_line(said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError) as caught:
        nas.search(**{**JOB, **WRONG[said]})
    assert said in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
    assert not list(tmp_path.iterdir())
