"""Merging cells: the published pyramid and its counts, and what a cell does, by hand."""

import dataclasses
import functools
import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import compilations, small_strategy
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from nas.commands import cli
from nas.errors import UsageError
from nas.job.subject import bind
from nas.tasks.base import split as split_task
from nas.tasks.kinds.detection import Detection
from nas.testing import check_space
from nas.training.net import Headed, batch_logits, calibrate, flatten, forward, split
from predictors import predictor_class
from spaces import pyramids, resnet
from spaces.base import architecture_id, sample
from spaces.costs import with_head
from spaces.merging import read, taken_up, text_of
from spaces.nas_fpn import PRESETS, PUBLISHED, NasFpn, reference
from spaces.pyramid_network import Neck, gated
from spaces.pyramid_path import resampled
from spaces.pyramids import LEVELS
from spaces.shared import OneHot
from strategies import STRATEGIES
from strategies.base import Observations, Proposals
from strategies.differentiable import Differentiable, gumbel_darts
from strategies.ppo import PPO
from strategies.prescreened import Prescreened
from strategies.screening import Screening

PAPER = NasFpn()
TINY = NasFpn(width=4, backbone="resnet-10-thin", image_size=128, image_channels=1)
TEXT = "attn(P4,P6)@4 sum(P4,f5)@4 sum(P3,f6)@3 sum(f6,f7)@4 attn(f7,f8)@5 attn(f6,f9)@7 attn(f9,f10)@6"


def count(module) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(module, nnx.Param)))


def price(space: NasFpn, text: str = TEXT) -> dict[str, float]:
    return {name: float(values[0]) for name, values in space.cost(jnp.asarray(space.parse(text))[None]).items()}


def test_the_space_is_as_large_as_the_paper_says():
    assert NasFpn(7).size() == pytest.approx(3.0177e15, rel=1e-5)


def test_the_published_architecture_is_written_and_read():
    row = PAPER.parse("NAS-FPN")
    assert PAPER.describe(row) == TEXT
    assert np.array_equal(PAPER.parse(TEXT), row)
    assert np.array_equal(PAPER.canonical(jnp.asarray(row)[None])[0], row)
    assert taken_up(PUBLISHED["NAS-FPN"]) == [(), (), (), (), (2,), (4,), ()]  # P5 and P7 enter at their cells


@pytest.mark.parametrize(
    ("space", "params", "macs"),
    [
        (NasFpn(), 4_132_352, 6_915_686_400),
        (NasFpn(image_size=512), 4_132_352, 4_426_039_296),
        (NasFpn(stacks=3), 12_397_056, 20_747_059_200),
        (NasFpn(stacks=5), 20_661_760, 34_578_432_000),
        (NasFpn(stacks=7), 28_926_464, 48_409_804_800),
        (NasFpn(width=32, image_size=128), 64_960, 4_322_304),
        (NasFpn(width=32, image_size=256), 64_960, 17_289_216),
    ],
)
def test_the_neck_has_the_published_counts(space, params, macs):
    found = price(space)
    assert found["neck_params"] == params
    assert found["neck_macs"] == pytest.approx(macs, rel=1e-6)


def test_the_backbone_has_the_published_counts():
    assert resnet.cost("resnet-50", 3, 224)[1] == 23_508_032
    assert resnet.cost("resnet-50", 3, 224)[0] == pytest.approx(4.0871e9, rel=1e-4)
    assert resnet.cost("resnet-50", 3, 640)[0] == pytest.approx(33.364e9, rel=1e-4)
    found = price(PAPER)
    assert (found["backbone_macs"], found["backbone_params"]) == resnet.cost("resnet-50", 3, 640)
    laterals = found["params"] - found["neck_params"] - found["backbone_params"]
    assert laterals == 919_040


@pytest.mark.parametrize(("stacks", "neck", "params", "macs"), [(7, None, 60.06, 140.1), (1, "FPN", 34.07, 96.70)])
def test_a_detector_has_the_published_counts(stacks, neck, params, macs):
    """RetinaNet on ResNet-50 at 640 pixels, 90 classes; its published parameters are with the biases of convolutions,
    where normalisation follows, which ours go without."""
    space = NasFpn(stacks=stacks)
    shapes = tuple((640 >> level, 640 >> level, 256) for level in LEVELS)
    head = Detection(90).head_costs(shapes)
    found = price(with_head(space, {name: (cost,) for name, cost in head.items()}))
    biases = 256 * (3 + 7 * stacks + 4 + 4)
    if neck:
        own = pyramids.cost(neck, 256, 640)
        found |= {name: found[name] - found[f"neck_{name}"] + own[name] for name in own}
        biases = 256 * (3 + 5 + 4 + 4)
    assert round((found["params"] + biases) / 1e6, 2) == params
    assert found["macs"] / 1e9 == pytest.approx(macs, abs=0.06)
    assert found["backbone_params"] == 23_508_032
    assert found["head_params"] == 6_689_102


@pytest.mark.parametrize("name", PRESETS)
def test_it_keeps_the_laws_of_spaces(name):
    check_space(PRESETS[name], networks=False)


@pytest.mark.parametrize("cells", [5, 6, 9])
def test_any_number_of_cells_keeps_the_laws(cells):
    check_space(NasFpn(cells, image_size=128), networks=False)


@pytest.mark.parametrize("separable", [False, True])
def test_a_network_gives_the_five_maps_and_has_the_parameters_that_it_costs(separable, key):
    space = dataclasses.replace(TINY, separable=separable)
    row = np.asarray(sample(space, jax.random.key(3), 1)[0])
    network = space.build(row, key)
    maps = jax.jit(lambda x: network(x))(jnp.ones((2, 128, 128, 1)))
    assert [x.shape for x in maps] == [(2, 128 >> level, 128 >> level, 4) for level in LEVELS]
    assert all(jnp.isfinite(x).all() for x in maps)
    assert count(network) == space.cost(jnp.asarray(row)[None])["params"][0]
    assert separable == (count(network.necks[0]) == 7 * (9 * 4 + 4 * 4 + 2 * 4))


@pytest.mark.parametrize("name", ["resnet-18", "resnet-50"])
def test_a_backbone_has_the_parameters_that_it_costs(name):
    body = resnet.ResNet(name, 3, np.random.default_rng(0))
    assert count(body) == resnet.cost(name, 3, 64)[1]
    shapes = jax.eval_shape(lambda x: body(x, False), jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32))
    assert [(x.shape[1], x.shape[3]) for x in shapes] == list(zip((16, 8, 4, 2), resnet.widths(name), strict=True))


def test_a_map_is_resampled_by_the_largest_and_the_nearest():
    x = jnp.arange(16.0).reshape(1, 4, 4, 1)
    assert resampled(x, 3, 4)[0, :, :, 0].tolist() == [[5, 7], [13, 15]]
    assert resampled(x, 3, 5).ravel().tolist() == [15]
    assert resampled(resampled(x, 3, 5), 5, 3).ravel().tolist() == [15] * 16
    assert resampled(x, 3, 3) is x


def test_the_gate_is_of_the_coarser_map():
    coarse, fine = jnp.array([[[[0.0], [2.0]]]]), jnp.array([[[[1.0], [3.0]]]])
    gate = 1 / (1 + np.exp(-2.0))
    np.testing.assert_allclose(gated(coarse, fine).ravel(), [gate, 2 + 3 * gate], rtol=1e-6)


def plain_neck(cells, maps: dict[int, np.ndarray], convs) -> dict[int, np.ndarray]:
    """The published code written down again, cell by cell, in NumPy."""
    pool = [(level, maps[level]) for level in LEVELS]
    used = [0] * 5

    def to(x, source, target):
        for _ in range(target - source):
            n, h, w, c = x.shape
            x = x.reshape(n, h // 2, 2, w // 2, 2, c).max((2, 4))
        for _ in range(source - target):
            x = np.kron(x, np.ones((1, 2, 2, 1)))
        return x

    for t, (i, j, level, op) in enumerate(cells):
        used[i] += 1
        used[j] += 1
        (a_level, a), (b_level, b) = (pool[i], pool[j]) if pool[i][0] >= pool[j][0] else (pool[j], pool[i])
        a, b = to(a, a_level, level), to(b, b_level, level)
        merged = a + b if op == "sum" else a + b / (1 + np.exp(-a.max((1, 2), keepdims=True)))
        if t >= len(cells) - 5:
            for k, (other, x) in enumerate(pool):
                if other == level and not used[k]:
                    merged = merged + x
                    used[k] += 1
        pool.append((level, convs[t](np.maximum(merged, 0))))
        used.append(0)
    return dict(pool[-5:])


@pytest.mark.parametrize("text", ["NAS-FPN", None])
def test_a_pyramid_is_what_the_rules_say(text, key):
    cells = PUBLISHED["NAS-FPN"] if text else TINY.merges(np.asarray(sample(TINY, jax.random.key(7), 1)[0]))
    neck = Neck(cells, 4, np.random.default_rng(0))
    draw = np.random.default_rng(1)
    maps = {level: draw.normal(size=(2, 128 >> level, 128 >> level, 4)).astype(np.float32) for level in LEVELS}
    convs = [
        lambda x, cell=cell: np.asarray(cell.norm(cell.conv(jnp.asarray(x, jnp.float32)), False)) for cell in neck.cells
    ]
    expected = plain_neck(cells, maps, convs)
    found = neck(tuple(jnp.asarray(maps[level]) for level in LEVELS), False)
    for level, x in zip(LEVELS, found, strict=True):
        np.testing.assert_allclose(x, expected[level], rtol=1e-4, atol=1e-5)


def test_inputs_have_an_order_only_where_a_gate_sees_two_maps_of_one_level():
    space = NasFpn(6, image_size=128)
    rest = "sum(P3,f5)@3 sum(P4,f6)@4 sum(P5,f7)@5 sum(P6,f8)@6 sum(P7,f9)@7"
    ids = {
        words: architecture_id(space, space.parse(f"{words} {rest}"))
        for words in ("sum(P4,P3)@4", "sum(P3,P4)@4", "attn(P4,P3)@4", "attn(P3,P4)@4")
    }
    assert ids["sum(P4,P3)@4"] == ids["sum(P3,P4)@4"]
    assert ids["attn(P4,P3)@4"] == ids["attn(P3,P4)@4"] != ids["sum(P3,P4)@4"]
    rest = "sum(P3,f5)@3 attn({},{})@4 sum(P5,f7)@5 sum(P6,f8)@6 sum(P7,f9)@7"
    pair = [
        architecture_id(space, space.parse("sum(P3,P4)@4 " + rest.format(*each)))
        for each in (("P4", "f5"), ("f5", "P4"))
    ]
    assert pair[0] != pair[1]


@functools.partial(jax.jit, static_argnums=0)
def canonised(space, row):
    return space.canonical(row[None])[0], space.order(row[None])[0]


@settings(max_examples=60, deadline=None)
@given(st.sampled_from([NasFpn(7), NasFpn(9)]), st.integers(0, 2**32 - 1))
def test_a_network_and_its_canonical_one_give_equal_maps_with_the_same_weights(space, seed):
    """By the published code written down again, which is what networks do: see above."""
    draw = np.random.default_rng(seed)
    row = draw.integers(0, space.cardinalities).astype(np.int32)
    canonical, order = map(np.asarray, canonised(space, row))
    assert np.array_equal(canonised(space, canonical)[0], canonical)
    assert np.array_equal(canonised(space, canonical)[1], np.arange(space.cells))
    maps = {level: draw.normal(size=(1, 128 >> level, 128 >> level, 2)) for level in LEVELS}
    weights = [draw.normal(size=(2, 2)) for _ in range(space.cells)]
    convs = [lambda x, weight=weight: np.tanh(x @ weight) for weight in weights]
    found = plain_neck(space.merges(canonical), maps, [convs[t] for t in order])
    expected = plain_neck(space.merges(row), maps, convs)
    for level in LEVELS:
        np.testing.assert_allclose(found[level], expected[level], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("one", "other", "equal"),
    [
        (
            "sum(P3,P4)@4 attn(P5,P6)@5 sum(P3,f5)@3 sum(f5,f6)@4",
            "attn(P5,P6)@5 sum(P3,P4)@4 sum(P3,f6)@3 sum(f5,f6)@4",
            1,
        ),
        (
            "sum(P3,P4)@4 attn(P5,f5)@5 sum(P3,f5)@3 sum(f5,f6)@4",
            "attn(P5,P4)@5 sum(P3,f5)@4 sum(P3,f6)@3 sum(f5,f6)@4",
            0,
        ),
        # Two new levels, of which none takes the other; and where the second finds P4 unused or not.
        (
            "sum(P5,P6)@5 sum(P5,f5)@5 sum(P3,f5)@3 sum(f5,f6)@4",
            "sum(P5,P6)@5 sum(P5,f5)@5 sum(f5,f6)@4 sum(P3,f5)@3",
            1,
        ),
        (
            "sum(P5,P6)@5 sum(P5,f5)@5 sum(P3,P4)@3 sum(f5,f6)@4",
            "sum(P5,P6)@5 sum(P5,f5)@5 sum(f5,f6)@4 sum(P3,P4)@3",
            0,
        ),
    ],
)
def test_cells_that_may_change_places_are_the_same_network_in_any_order(one, other, equal):
    ends = " sum(P5,P6)@5 sum(P6,P7)@6 sum(P6,P7)@7"
    assert (
        architecture_id(PAPER, PAPER.parse(one + ends)) == architecture_id(PAPER, PAPER.parse(other + ends))
    ) == equal


def test_every_cell_is_taken_by_another_or_is_a_new_level():
    for row in np.asarray(sample(NasFpn(9), jax.random.key(0), 200)):
        cells = NasFpn(9).merges(row)
        taken = {i for cell in cells for i in (cell.first, cell.second)} | set(sum(taken_up(cells), ()))
        assert taken >= set(range(5, 5 + 4))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "has no cell"),
        ("sum(P3,P4)@3", "has 1 cells, not 7"),
        (TEXT.replace("attn(P4,P6)", "max(P4,P6)"), "which is no cell such as"),
        (TEXT.replace("sum(P4,f5)", "sum(P4,f6)"), "takes f6, which there is not before it"),
        (TEXT.replace("sum(P4,f5)", "sum(P4,P4)"), "takes one feature twice"),
        (TEXT.replace("@7", "@8"), "has level 8"),
        (TEXT.replace("@7", "@6"), "level 6 twice"),
        (TEXT.replace("P6", "P9"), "takes P9"),
    ],
)
def test_what_is_no_pyramid_is_refused_in_one_line(text, said):
    with pytest.raises(ValueError, match=said) as caught:
        PAPER.parse(text)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("labels", "size", "said"),
    [
        (np.arange(60) % 3, 128, "nas-fpn is for detection: --task voc:DIR, coco:JSON,DIR or scenes"),
        (
            np.tile(np.array([[[0.1, 0.1, 0.9, 0.9, 0, 0, 64]]], np.float32), (60, 1, 1)),
            64,
            "must be a multiple of 128",
        ),
    ],
)
def test_a_task_that_is_none_for_it_is_refused_in_one_line(labels, size, said):
    images = np.zeros((60, size, size, 1), np.uint8)
    task = split_task("mine", images, labels, 3 if labels.ndim == 1 else 1)
    with pytest.raises(UsageError, match=f"task='mine' is none for this space: .*{said}") as caught:
        bind(TINY, task)
    assert len(str(caught.value).splitlines()) == 1


def test_what_is_written_is_read_as_it_was():
    for row in np.asarray(sample(PAPER, jax.random.key(0), 50)):
        cells = PAPER.merges(row)
        assert read(text_of(cells)) == cells
        assert np.array_equal(PAPER.parse(text_of(cells)), row)


def test_a_body_is_trained_through_all_of_its_parts(key):
    network = TINY.build(TINY.parse("NAS-FPN"), key)
    definition, weights, statistics = nnx.split(network, nnx.Param, nnx.BatchStat)
    images = jax.random.normal(key, (2, 128, 128, 1))

    def loss(weights):
        return sum((x**2).sum() for x in nnx.merge(definition, weights, statistics, copy=True)(images, train=True))

    gradient = jax.jit(jax.grad(loss))(weights)
    assert all(bool(jnp.any(leaf != 0)) for leaf in jax.tree.leaves(gradient["necks"]))


# Shared weights

STACKED = dataclasses.replace(TINY, stacks=2)


class Means(nnx.Module):
    """A head that gives numbers in which every pixel of every map counts."""

    def __call__(self, maps, *, train):
        return jnp.concatenate([jnp.sin(3 * x).mean((1, 2)) for x in maps], axis=1)


class Given(nnx.Module):
    """In place of the backbone, which is the same for all: what is shown is P3, of which the others are made."""

    def __call__(self, x, train):
        return tuple(jnp.sin((i + 1) * resampled(x, 0, i)) for i in range(5))


def ended(network):
    network.stem = Given()
    return Headed(network, Means())


@pytest.fixture(
    scope="module", params=[{}, {"separable": True}, {"anytime": True}], ids=["dense", "separable", "anytime"]
)
def shared(request):
    """The space, and the structure, weights and statistics of the network of all architectures, away from where they
    begin."""
    space = dataclasses.replace(STACKED, **request.param)
    graph, weights, statistics = split(ended(space.supernet(jax.random.key(1), affine=True)))
    draw = np.random.default_rng(0)
    weights = jax.tree.map(lambda w: w + 0.1 * draw.standard_normal(w.shape, np.float32), weights)
    return space, graph, weights, statistics


@pytest.fixture
def pyramid(key):
    return jax.random.normal(key, (4, 16, 16, 4))


@functools.partial(jax.jit, static_argnums=0)
def measured(graph, weights, statistics, images, path):
    """Training, its gradient, then evaluation."""

    def loss(weights):
        outputs, left = forward(graph, weights, statistics, images, path, train=True)
        return outputs.mean(0) @ jnp.arange(1.0 * outputs.shape[1]), (outputs, left)

    gradient, (trained, left) = jax.grad(loss, has_aux=True)(weights)
    evaluated, _ = forward(graph, weights, left, images, path, train=False)
    return {"train": trained, "eval": evaluated, "statistics": left, "gradient": gradient}


def close(found, expected, tolerance: float):
    """Each array by its largest entry, or what is nearly 0 by what is large in any."""
    found, expected = (jax.tree.map(np.asarray, jax.tree.leaves(each)) for each in (found, expected))
    largest = max(np.abs(each).max() for each in expected)
    for one, other in zip(found, expected, strict=True):
        assert np.abs(one - other).max() <= tolerance * (np.abs(other).max() + 0.01 * largest)


def test_a_path_is_the_network_of_one_architecture(shared, pyramid, key):
    space, graph, weights, statistics = shared
    rows = [space.parse("NAS-FPN"), *np.asarray(sample(space, jax.random.key(5), 1))]
    assert any(any(taken_up(space.merges(row))) for row in rows[1:])
    before = measured._cache_size()
    for row in rows:
        network = space.build(row, key)
        assert flatten(split(network)[1]).keys() == flatten(split(space.supernet(key, affine=True))[1]).keys()
        own = split(ended(network))[0]
        alone = measured(own, weights, statistics, pyramid, ())
        on_path = measured(graph, weights, statistics, pyramid, row)
        for name in ("train", "eval", "statistics"):
            close(on_path[name], alone[name], 2e-3)
        close(on_path["gradient"], alone["gradient"], 2e-2)
    assert measured._cache_size() == before + 1 + len(rows)


def test_all_architectures_are_evaluated_by_the_programs_of_the_first(task):
    images = np.random.default_rng(0).integers(0, 255, (8, 128, 128, 1)).astype(np.uint8)
    graph, weights, statistics = split(Headed(STACKED.supernet(jax.random.key(0)), Means()))

    def evaluate(row):
        own = calibrate(graph, weights, statistics, images, task, row, batch=4, precision="float32")
        return batch_logits(graph, (task.mean, task.std), "float32", weights, own, images[:4], row)

    counted = []
    for rows in (sample(STACKED, jax.random.key(0), 2), sample(STACKED, jax.random.key(1), 50)):
        with compilations() as programs:
            found = [evaluate(row) for row in np.asarray(rows)]
        counted.append(len(programs))
    assert counted[0] > 0
    assert counted[1] == 0
    assert all(bool(jnp.isfinite(outputs).all()) for outputs in found)
    assert len({np.asarray(outputs).tobytes() for outputs in found}) == 50


def test_a_one_hot_mixture_is_its_path_and_has_the_gradient_of_its_weights(shared, pyramid):
    space, graph, weights, statistics = shared
    row = space.parse("NAS-FPN")
    hot = jax.nn.one_hot(row, len(space.mixing().ops))

    @jax.jit
    def loss(mixture):
        outputs, left = forward(graph, weights, statistics, pyramid, OneHot(mixture), train=False)
        return outputs.mean(0) @ jnp.arange(1.0 * outputs.shape[1]), (outputs, left)

    (_, (outputs, left)), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(hot)
    close(outputs, measured(graph, weights, statistics, pyramid, row)["train"], 1e-4)
    for old, new in zip(jax.tree.leaves(statistics), jax.tree.leaves(left), strict=True):
        np.testing.assert_array_equal(old, new)
    assert not gradient[hot == 0].any()
    assert (gradient[hot == 1] != 0).all()
    direction = hot * jax.random.normal(jax.random.key(1), hot.shape)
    up, down = (loss(hot + size * direction)[0] for size in (1e-3, -1e-3))
    assert float((up - down) / 2e-3) == pytest.approx(float((gradient * direction).sum()), rel=0.1)


def test_a_mixture_of_several_choices_is_refused_in_one_line(key):
    mixing = TINY.mixing()
    with pytest.raises(ValueError, match=r"sample='none' must be 'hard'"):
        Differentiable().init(key, mixing)
    with pytest.raises(ValueError, match=r"stop_growth=1.3 must be 0: this space has no mixtures to measure"):
        dataclasses.replace(gumbel_darts(), stop_growth=1.3).init(key, mixing)
    with pytest.raises(ValueError, match="one-hot mixtures alone"):
        TINY.supernet(key)(jnp.ones((2, 128, 128, 1)), jnp.ones((28, 11)))


def test_a_gradient_strategy_draws_no_choice_that_is_not_there(key):
    strategy, mixing = gumbel_darts(), PAPER.mixing()
    logits = strategy.init(key, mixing)
    sizes = np.array(PAPER.cardinalities)
    mixture = jax.jit(lambda logits, key: strategy.mixture(logits, mixing, key, 0.5))
    drawn = np.stack([OneHot(mixture(logits, each)).choices() for each in jax.random.split(key, 200)])
    assert (drawn.max(0) == sizes - 1).all()
    assert not np.asarray(strategy.weights(logits, mixing))[np.arange(11)[None] >= sizes[:, None]].any()
    gradient = jax.grad(lambda logits: (mixture(logits, key) * jnp.arange(11.0)[None]).sum())(logits).ops
    assert np.isfinite(gradient).all()
    assert (np.asarray(gradient != 0) == ((np.arange(11)[None] < sizes[:, None]) & (sizes[:, None] > 1))).all()


# Pyramids that people drew


@pytest.mark.parametrize(
    ("name", "params"),
    [
        *(("D0", 116_793), ("D1", 281_676), ("D2", 555_615), ("D3", 1_321_074), ("D4", 2_960_517)),
        *(("D5", 4_838_533), ("D6", 9_732_096), ("D7", 9_732_096)),
    ],
)
def test_the_cells_of_efficientdet_have_the_published_counts(name, params):
    width, cells, size, weighted = pyramids.EFFICIENTDET[name]
    assert pyramids.cost("BiFPN", width, size, cells, weighted)["params"] == params


def test_fpn_has_the_published_counts():
    found = pyramids.cost("FPN", 256, 640)
    assert found["params"] == 2_951_680
    assert found["macs"] == pytest.approx(5.028e9, rel=1e-4)
    assert pyramids.cost("BiFPN", 384, 1280, 8)["params"] == 9_732_248


@pytest.mark.parametrize("name", pyramids.REFERENCES)
def test_a_reference_takes_the_place_of_the_neck_and_costs_what_it_says(name, key):
    body = reference(STACKED, name, key)
    maps = jax.eval_shape(lambda x: body(x, train=False), jnp.ones((2, 128, 128, 1)))
    assert [x.shape for x in maps] == [(2, 128 >> level, 128 >> level, 4) for level in LEVELS]
    assert sum(count(neck) for neck in body.necks) == pyramids.cost(name, 4, 128, 2)["params"]
    pyramid = tuple(jax.random.normal(key, (2, 128 >> level, 128 >> level, 4)) for level in LEVELS)
    names = {name: value for name, value in flatten(nnx.state(body.necks[0], nnx.Param)).items()}
    graph, weights, statistics = split(body.necks[0])

    def loss(weights):
        maps = nnx.merge(graph.definition, weights, statistics, copy=True)(pyramid, True)
        return sum((jnp.sin(3 * x)).sum() for x in maps)

    gradient = flatten(jax.jit(jax.grad(loss))(weights))
    assert names.keys() == gradient.keys()
    still = {name for name, value in gradient.items() if not np.abs(value).any()}
    assert still <= {name for name in names if name.endswith("bias.value")}


def test_nodes_with_equal_weights_are_means(key):
    x, y = jax.random.normal(key, (2, 2, 8, 8, 4))
    weighted = pyramids.Fused(2, 4, np.random.default_rng(0), weighted=True)
    summed = pyramids.Fused(2, 4, np.random.default_rng(0), weighted=False)
    np.testing.assert_allclose(weighted([x, y], False), summed([x / 2, y / 2], False), atol=1e-3)


def test_references_are_shown_with_their_counts(capsys):
    for name, said in (("FPN", "2.95M"), ("PANet", "7.67M"), ("BiFPN", "D7: 8 cells at 1536 pixels")):
        assert cli.main(["show", f"nas-fpn:{name}"]) == 0
        assert said in capsys.readouterr().out


def test_without_affine_normalisation_there_is_neither_scale_nor_bias(key):
    names = flatten(split(TINY.supernet(key))[1])
    assert not any(name.endswith(("scale", "bias")) for name in names)
    assert flatten(split(TINY.supernet(key, affine=True))[1]).keys() > names.keys()


def test_the_published_one_is_shown_with_its_counts_and_drawn(tmp_path, capsys):
    assert cli.main(["show", "nas-fpn:NAS-FPN", "--svg", str(tmp_path / "pyramid.svg")]) == 0
    said = capsys.readouterr().out
    assert TEXT in said
    assert "28.93M" in said
    assert cli.main(["show", "nas-fpn:NAS-FPN", "--format", "json"]) == 0
    rows = {row["network"]: row for row in json.loads(capsys.readouterr().out)}
    found = [(row["params"], row["macs"]) for row in rows.values()]
    assert found == [(4_132_352, 6_915_686_400), (12_397_056, 20_747_059_200), (28_926_464, 48_409_804_800)]
    assert "attn P5" in (tmp_path / "pyramid.svg").read_text()
    assert cli.main(["show", "nas-fpn:nobody"]) == 2
    assert "nas-fpn:NAS-FPN" in capsys.readouterr().err


# Search


@pytest.mark.parametrize(
    ("name", "prescreened"),
    [*((name, "") for name in STRATEGIES), ("random", "gp"), ("evolution", "gp"), ("ppo", "gp")],
)
def test_every_strategy_proposes_pyramids(name, prescreened):
    """Of a pool that grows, so that decisions have different numbers of choices."""
    strategy: Any = small_strategy(name)
    if prescreened:
        strategy = Prescreened(
            strategy, predictor_class(prescreened)(), Screening(initial=4, candidates=16, batch_size=4)
        )
    space = with_head(TINY, {"macs": (10**6,), "params": (10**4,)})
    length, n = len(space.cardinalities), max(strategy.generation, 4)
    nobody = Proposals(jnp.full((n, length), -1, jnp.int32), jnp.zeros(n, jnp.int32))
    state, ask = strategy.init(space, ()), jax.jit(strategy.ask, static_argnums=2)
    for i in range(3):
        proposed = ask(state, jax.random.key(i), n, nobody)
        rows = np.asarray(proposed.encodings)
        assert (rows >= 0).all()
        assert (rows < np.array(space.cardinalities)[None]).all()
        objectives = space.cost(proposed.encodings)["neck_macs"][:, None]
        state = strategy.tell(state, Observations(proposed.encodings, proposed.budgets, objectives, proposed.drawn))


def test_the_policy_of_ppo_draws_every_choice_and_none_that_is_not_there(key):
    state, sizes = PPO().init(TINY), np.array(TINY.cardinalities)
    nobody = Proposals(jnp.full((400, len(sizes)), -1, jnp.int32), jnp.zeros(400, jnp.int32))
    drawn = jax.jit(PPO().ask, static_argnums=2)(state, key, 400, nobody).drawn
    assert (np.asarray(drawn.rows).max(0) == sizes - 1).all()
