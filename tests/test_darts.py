"""DARTS: published counts and notation, the derivation rule, and one network by path, by mixture and alone."""

import contextlib
import functools
import itertools
import math
import re

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from conftest import measure_mixture
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from nas.training.net import forward, split
from nas.training.recipe import Recipe
from nas.training.sgd import fit
from spaces import cell_runs
from spaces import genotype as notation
from spaces.base import architecture_id, fingerprint
from spaces.cell_ops import OPERATIONS, cost, max_pool, mean_pool, operation
from spaces.cell_pairs import EDGES, PAIRS, Rows
from spaces.darts import OPS, PRESETS, Darts, prune
from spaces.fixed_cells import Fixed, fixed_network, genotype_cost
from spaces.genotype import PUBLISHED, Cell, Genotype
from spaces.layers import generator
from spaces.node_loop import Edges, Inputs, through_nodes
from spaces.shared import Shared, put, select
from spaces.single_path import Choice

SEARCH, CIFAR, IMAGENET = (PRESETS[name] for name in ("search", "cifar", "imagenet"))
# A normal cell and two reductions.
SMALL = Darts(width=4, cells=3, stem_multiplier=1, image_size=8, image_channels=1, num_classes=3)
V2 = (3, 3, 0, 3, 3, 0, 2, 3, 1, 2, 5, 0, 0, 2, 0, 2, 1, 0, 2, 4, 0, 2)

ROWS = Rows(len(OPS))
CELL = ROWS.cell
rows_of = st.tuples(*(st.integers(0, size - 1) for size in CELL * 2)).map(lambda row: np.array(row, np.int32))
light = settings(max_examples=25, deadline=None)
canonical = jax.jit(SMALL.canonical)
derive = jax.jit(SMALL.derive)


def random_rows(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, CELL * 2, (n, 2 * len(CELL))).astype(np.int32)


def count(module: nnx.Module) -> int:
    """Of the parameters, without what pads the rows of shared ones."""
    leaves = jax.tree.leaves(nnx.state(module, nnx.Param), is_leaf=lambda leaf: isinstance(leaf, Shared))
    return sum(leaf.shape[0] * sum(leaf.decayed) if isinstance(leaf, Shared) else leaf.size for leaf in leaves)


# Counts


def test_the_search_network_has_the_published_parameters(key):
    assert count(SEARCH.supernet(key)) == 1_930_618


@pytest.mark.parametrize(
    ("space", "name", "params"),
    [(CIFAR, "DARTS_V2", 3_349_342), (CIFAR, "DARTS_V1", 3_169_414), (IMAGENET, "DARTS_V2", 4_718_752)],
)
def test_published_networks_have_the_published_parameters(key, space, name, params):
    row = space.parse(name)
    assert count(space.build(row, key)) == params
    assert int(space.cost(jnp.asarray(row)[None])["params"][0]) == params


def test_published_networks_keep_to_the_mobile_setting():
    found = [genotype_cost(IMAGENET.frame, each)["macs"] for each in PUBLISHED.values()]
    assert all(4e8 < macs < 6.1e8 for macs in found)


@pytest.mark.parametrize("name", ["NASNet", "AmoebaNet"])
def test_cells_with_other_operations_are_counted_and_built(key, name):
    space = Darts(width=4, cells=6, image_size=8)
    network = fixed_network(space.frame, PUBLISHED[name], generator(key), auxiliary=False)
    assert count(network) == genotype_cost(space.frame, PUBLISHED[name])["params"]
    assert jax.eval_shape(network, jnp.ones((2, 8, 8, 3))).shape == (2, 10)


def test_the_space_has_as_many_cells_as_published():
    assert math.prod(CELL) == 1_037_664_180
    assert math.prod(SEARCH.cardinalities) == pytest.approx(1.0767e18, rel=1e-4)
    assert len(EDGES) == 14


def test_the_auxiliary_head_is_not_counted_and_must_fit(key):
    space = Darts(width=4, cells=3)
    plain, more = (space.build(np.array(V2), key, auxiliary=each) for each in (False, True))
    first, second, head = 32 * 128 + 2 * 128, 4 * 128 * 768 + 2 * 768, 768 * 10 + 10
    wide = 4 * 4 * 4  # channels after the second reduction
    assert count(more) - count(plain) == first + (wide - 32) * 128 + second + head
    logits, extra = more(jnp.ones((2, 32, 32, 3)), train=True)
    assert logits.shape == extra.shape == (2, 10)
    assert more(jnp.ones((2, 32, 32, 3))).shape == (2, 10)
    with pytest.raises(ValueError, match="7 or 8 pixels"):
        SMALL.build(np.array(V2), key, auxiliary=True)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("name", OPERATIONS)
def test_operations_cost_what_their_modules_hold(key, name, stride):
    module = operation(name, 6, stride, generator(key), affine=True)
    assert count(module) == cost(name, 6, stride, 7)[1]
    assert module(jnp.ones((2, 7, 7, 6)), (), train=True).shape == (2, -(-7 // stride), -(-7 // stride), 6)


@pytest.mark.parametrize(("size", "k", "stride"), [(8, 3, 1), (7, 3, 2), (6, 5, 2), (2, 7, 1)])
def test_pools_are_those_of_windows_with_symmetric_padding(key, size, k, stride):
    x, pad = jr.normal(key, (2, size, size, 3)), [(k // 2, k // 2)] * 2
    mean, largest = functools.partial(mean_pool, k=k, stride=stride), functools.partial(max_pool, k=k, stride=stride)
    expected = nnx.avg_pool(x, (k, k), (stride, stride), pad, count_include_pad=False)
    np.testing.assert_allclose(mean(x), expected, atol=1e-6)
    value, pull = jax.vjp(largest, x)
    wanted, pull_wanted = jax.vjp(lambda x: nnx.max_pool(x, (k, k), (stride, stride), pad), x)
    np.testing.assert_array_equal(value, wanted)
    np.testing.assert_allclose(pull(value)[0], pull_wanted(value)[0], atol=1e-5)


# Notation


def test_a_published_genotype_is_read_by_name_and_by_text():
    assert SEARCH.parse("DARTS_V2").tolist() == list(V2)
    assert SEARCH.parse(str(PUBLISHED["DARTS_V2"])).tolist() == list(V2)
    text = SEARCH.describe(np.array(V2))
    assert text.startswith("Genotype(normal=[('sep_conv_3x3', 0), ('sep_conv_3x3', 1), ")
    assert "('skip_connect', 0), ('dil_conv_3x3', 2)], normal_concat=[2, 3, 4, 5], reduce=[" in text


def test_the_order_of_the_inputs_of_a_node_does_not_matter():
    edges = PUBLISHED["DARTS_V1"].normal.edges
    turned = tuple(edge for pair in zip(edges[1::2], edges[::2], strict=True) for edge in pair)
    other = PUBLISHED["DARTS_V1"]._replace(normal=Cell(turned, (5, 4, 3, 2)))
    np.testing.assert_array_equal(SEARCH.parse(str(other)), SEARCH.parse("DARTS_V1"))


@light
@given(row=rows_of)
def test_rows_and_genotypes_are_read_back(row):
    text = SMALL.describe(row)
    np.testing.assert_array_equal(SMALL.parse(text), row)
    assert str(notation.parse(text)) == text
    assert notation.parse(text.replace("[2, 3, 4, 5]", "range(2, 6)")) == SMALL.genotype(row)


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_texts_are_read_back(name):
    assert notation.parse(str(PUBLISHED[name])) == PUBLISHED[name]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (("sep_conv_3x3", "sep_conv_9x9"), "operation"),
        (("sep_conv_3x3", "none"), "operation"),
        (("('sep_conv_3x3', 1)", "('sep_conv_3x3', 7)"), "state must lie"),
        (("('sep_conv_3x3', 1)", "('sep_conv_3x3', 0)"), "twice"),
        (("('sep_conv_3x3', 1)", "('sep_conv_7x7', 1)"), "operation"),
        (("[2, 3, 4, 5]", "[2, 3, 4]"), "all of them joined"),
        (("[2, 3, 4, 5]", "[2, 3, 4, 4]"), "different states"),
        (("[2, 3, 4, 5]", "[2, 3, 4, 9]"), "different states"),
        (("normal=", "abnormal="), "form"),
        (("Genotype(", "__import__("), "form"),
        (("Genotype(", ""), "form"),
    ],
)
def test_text_that_is_no_genotype_is_refused_with_the_reason(change, reason):
    text = str(PUBLISHED["DARTS_V2"]).replace(*change)
    with pytest.raises(ValueError, match=reason) as caught:
        SMALL.parse(text)
    assert len(str(caught.value).splitlines()) == 1


def written(
    genotype: Genotype, edges, concat=list, form="Genotype(normal={}, normal_concat={}, reduce={}, reduce_concat={})"
):
    """In another of the forms in which genotypes are published."""
    parts = ((edges(cell), concat(cell.concat)) for cell in genotype)
    return form.format(*itertools.chain(*parts))


def nested(cell: Cell) -> list:
    return [list(pair) for pair in zip(cell.edges[::2], cell.edges[1::2], strict=True)]


FORMS = {
    "as it is printed": str,
    "one name": lambda it: f"DARTS_V2 = {it}",
    "two names": lambda it: f"DARTS = DARTS_V2 = {it}  # the second",
    "over lines": lambda it: (
        f"  X = {str(it).replace('[', '[' + chr(10)).replace('),', ')' + chr(10) + ',')}" + chr(10)
    ),
    "without keywords": lambda it: written(it, lambda cell: list(cell.edges), form="Genotype({}, {}, {}, {})"),
    "pairs by node": lambda it: written(it, nested),
    "pairs by node, in tuples": lambda it: written(it, lambda cell: tuple(map(tuple, nested(cell)))),
    "edges in lists": lambda it: written(it, lambda cell: [list(edge) for edge in cell.edges]),
    "weights": lambda it: written(it, lambda cell: [(*edge, i / 8 - 0.5) for i, edge in enumerate(cell.edges)]),
    "nodes": lambda it: written(it, lambda cell: [(*edge, 2 + i // 2) for i, edge in enumerate(cell.edges)]),
    "pairs with weights": lambda it: written(
        it, lambda cell: [[(*edge, 0.25) for edge in pair] for pair in nested(cell)]
    ),
    "a tuple of states": lambda it: written(it, lambda cell: list(cell.edges), tuple),
    "a range": lambda it: written(it, nested, lambda states: f"range({states[0]}, {states[-1] + 1})"),
    "a list of a range": lambda it: written(
        it, nested, lambda states: f"list(range({states[0]}, {states[-1] + 1}, 1))"
    ),
}


@pytest.mark.parametrize("form", FORMS)
@light
@given(row=rows_of)
def test_genotypes_are_read_in_every_form_in_which_they_are_published(form, row):
    genotype = SMALL.genotype(row)
    text = FORMS[form](genotype)
    assert notation.parse(text) == genotype
    np.testing.assert_array_equal(SMALL.parse(text), row)


V2_TEXT = str(PUBLISHED["DARTS_V2"])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (("normal_concat=[2, 3, 4, 5]", "normal_concat=None"), "normal_concat=None, which is no list of the states"),
        (("reduce=[", "reduce=None, old=["), "old which is not one of normal, normal_concat, reduce"),
        (("reduce=[", "normal=["), "has normal twice"),
        ((V2_TEXT[V2_TEXT.index(", reduce=") :], ")"), "has no reduce"),
        (
            (V2_TEXT[V2_TEXT.index("reduce=") :], "reduce=None, reduce_concat=None)"),
            "has reduce=None, which is no list",
        ),
        ((V2_TEXT[V2_TEXT.index("reduce=") :], "reduce=[], reduce_concat=[])"), "has 0 edges in reduce"),
        (("[('sep", "[[('sep"), "form"),
        (("('sep_conv_3x3', 0)", "('sep_conv_3x3', 0, 3)"), "neither a weight, as 0.5, nor the state of its node, 2"),
        (("('sep_conv_3x3', 0)", "('sep_conv_3x3', 0, '0.5')"), "neither a weight"),
        (("('sep_conv_3x3', 0)", "('sep_conv_3x3', 0, True)"), "neither a weight"),
        (("('sep_conv_3x3', 0)", "('sep_conv_3x3',)"), "which is not an operation and the state"),
        (("('sep_conv_3x3', 0)", "'sep_conv_3x3'"), "which is not an operation and the state"),
        (("('sep_conv_3x3', 0)", "(['sep_conv_3x3'], 0)"), "of normal, not its two edges"),
        (("('sep_conv_3x3', 0)", "('sep_conv_3x3', True)"), "whose state must lie in 0..1"),
        (("('sep_conv_3x3', 0)", "('sep_conv_3x3', 0.0)"), "whose state must lie in 0..1"),
        (("('sep_conv_3x3', 0)", "[('sep_conv_3x3', 0)]"), "node 0 of normal, not its two edges"),
        (("[2, 3, 4, 5]", "[[2, 3, 4, 5]]"), "different states"),
        (("[2, 3, 4, 5]", "{2, 3, 4, 5}"), "which is no list of the states"),
        (("[2, 3, 4, 5]", "5"), "normal_concat=5, which is no list of the states"),
        (("[2, 3, 4, 5]", "{[]: 1}"), "not written out as a list"),
        (("[2, 3, 4, 5]", "open('x')"), "not written out as a list"),
        (("[2, 3, 4, 5]", "range(10**9)"), "not written out as a list"),
        (("[2, 3, 4, 5]", "range(1000000000)"), "not written out as a list"),
        (("[2, 3, 4, 5]", "range(2, 6, 0)"), "not written out as a list"),
        (("Genotype(", "X.y = Genotype("), "form"),
        (("Genotype(", "Genotype(**{}, "), "form"),
        (("Genotype(", "Genotype(*[], "), "form"),
        (("Genotype(", "import os; Genotype("), "form"),
        (("Genotype(", "[" * 5_000), "form"),
        (("Genotype(", "-" * 9_000 + "Genotype("), "form"),
        (("Genotype(", "a." * 4_000 + "Genotype("), "form"),
        (("Genotype(", " " * 10_000 + "Genotype("), "longer than 10000 characters"),
    ],
)
def test_what_has_no_one_meaning_is_refused_with_what_is_wrong(change, reason):
    assert change[0] in V2_TEXT
    with pytest.raises(ValueError, match=re.escape(reason)) as caught:
        SMALL.parse(V2_TEXT.replace(*change, 1))
    assert len(str(caught.value).splitlines()) == 1
    assert len(str(caught.value)) < 800


PIECES = [
    "Genotype(",
    "normal=",
    "reduce=",
    "_concat=",
    "[",
    "]",
    "(",
    ")",
    "'sep_conv_3x3'",
    ",",
    "0",
    "range(",
    "=",
    "\\",
    "{",
]
EDGE_LIKE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(["skip_connect", "none", "x"]),
    lambda inner: st.lists(inner, max_size=4) | st.tuples(inner, inner) | st.frozensets(st.integers()),
    max_leaves=12,
)


@given(text=st.text() | st.lists(st.sampled_from(PIECES)).map("".join) | st.text().map("Genotype({})".format))
def test_no_text_can_crash_the_parser(text):
    with contextlib.suppress(ValueError):
        assert isinstance(notation.parse(text), Genotype)


@given(parts=st.tuples(*[EDGE_LIKE] * 4))
def test_no_genotype_of_other_types_can_crash_the_parser(parts):
    with contextlib.suppress(ValueError):
        found = notation.parse(
            "Genotype(normal={!r}, normal_concat={!r}, reduce={!r}, reduce_concat={!r})".format(*parts)
        )
        assert notation.parse(str(found)) == found


@pytest.mark.parametrize(
    ("change", "field"),
    [({"width": 3}, "width=3"), ({"cells": 1}, "cells=1"), ({"stem": "x"}, "stem='x'"), ({"image_size": 0}, "image")],
)
def test_a_space_that_cannot_be_built_is_refused_with_the_field(change, field):
    with pytest.raises(ValueError, match=field):
        Darts(**change)


def test_the_identity_of_the_published_space_never_changes():
    assert fingerprint(SEARCH) == "66f8b39c0f534d3a"
    assert architecture_id(SEARCH, np.array(V2)) == "91d280b74623"
    assert len({fingerprint(space) for space in PRESETS.values()}) == len(PRESETS)


# Derivation


def derived_by_the_rule(weights: np.ndarray) -> list[tuple[str, int]]:
    """Section 2.4 of the paper, one node after the other."""
    edges, at = [], 0
    for node in range(4):
        rows = weights[at : at + node + 2]
        best = sorted(range(node + 2), key=lambda s: -max(rows[s][1:]))[:2]
        edges += [(OPS[1 + int(np.argmax(rows[s][1:]))], s) for s in sorted(best)]
        at += node + 2
    return edges


def test_random_weights_derive_legal_genotypes_by_the_rule(key):
    logits = jr.normal(key, (1000, 28, 8))
    weights = np.asarray(jax.nn.softmax(logits))
    rows = np.asarray(jax.vmap(derive)(weights))
    assert (rows >= 0).all()
    assert (rows < np.array(CELL * 2)).all()
    for row, each in zip(rows[:300], weights, strict=False):
        found = SMALL.genotype(row)
        assert [list(cell.edges) for cell in found] == [derived_by_the_rule(half) for half in np.split(each, 2)]
        for cell in found:
            assert all(first[1] != second[1] for first, second in zip(cell.edges[::2], cell.edges[1::2], strict=True))
    into = np.split(np.asarray(ROWS.edge_ops(jnp.asarray(rows))).reshape(2000, -1) > 0, np.cumsum([2, 3, 4]), axis=1)
    assert all((edges.sum(1) == 2).all() for edges in into)


def test_a_pair_of_mixtures_is_the_two_cells(key):
    weights = jax.nn.softmax(jr.normal(key, (28, 8)))
    np.testing.assert_array_equal(SMALL.derive((weights[:14], weights[14:])), SMALL.derive(weights))


@light
@given(row=rows_of)
def test_the_mixture_of_one_architecture_derives_it(row):
    np.testing.assert_array_equal(derive(jnp.eye(8)[ROWS.edge_ops(jnp.asarray(row))]), row)


# Equal cells


def renumbered(cell: Cell, order: tuple[int, ...]) -> Cell | None:
    """The cell with its nodes in another order, if none of them then comes before what it takes."""
    new = {0: 0, 1: 1, **{2 + old: 2 + place for place, old in enumerate(order)}}
    pairs = [cell.edges[2 * old : 2 * old + 2] for old in order]
    edges = [sorted(((op, new[s]) for op, s in pair), key=lambda edge: edge[1]) for pair in pairs]
    if any(s >= 2 + node for node, pair in enumerate(edges) for _, s in pair):
        return None
    return Cell(tuple(edge for pair in edges for edge in pair), cell.concat)


def equals_of(row: np.ndarray) -> list[np.ndarray]:
    found = SMALL.genotype(row)
    orders = list(itertools.permutations(range(4)))
    cells = [[c for c in (renumbered(cell, order) for order in orders) if c is not None] for cell in found]
    pairs = itertools.product(*cells)
    return [SMALL.parse(str(found._replace(normal=normal, reduce=reduce))) for normal, reduce in pairs]


@pytest.mark.parametrize("seed", range(5))
def test_cells_whose_nodes_are_renumbered_are_one(seed):
    row = random_rows(1, seed)[0]
    same = np.array(equals_of(row))
    found = np.asarray(canonical(jnp.asarray(same)))
    assert len(np.unique(found, axis=0)) == 1
    assert min(same.tolist()) == found[0].tolist()
    np.testing.assert_array_equal(canonical(jnp.asarray(found)), found)


def test_independent_nodes_have_24_numberings():
    row = SMALL.parse(str(PUBLISHED["DARTS_V2"]))
    row[: len(CELL)] = 0
    row[[0, 4, 7]] = 1  # nodes that take the inputs alone
    assert len({tuple(each[: len(CELL)]) for each in equals_of(row)}) == 12  # two of the four are alike
    assert sum(len(pairs) for pairs in PAIRS) == 20


@pytest.mark.parametrize("reduction", [False, True])
def test_renumbered_cells_give_the_same_channels_in_another_order(key, reduction):
    cell = SMALL.genotype(random_rows(1, 3)[0]).normal
    first = Fixed(cell, 4, reduction, generator(key))
    inputs = jr.normal(jr.key(1), (2, 3, 8, 8, 4))
    expected = np.split(np.asarray(first(*inputs, True, None)), 4, axis=-1)
    compared = 0
    for order in itertools.permutations(range(4)):
        other = renumbered(cell, order)
        if other is None or other == cell:
            continue
        second = Fixed(other, 4, reduction, generator(jr.key(9)))
        for place, old in enumerate(order):
            ops = [first.ops[2 * old], first.ops[2 * old + 1]]
            # The inputs of a node may have changed places.
            if cell.edges[2 * old][0] != other.edges[2 * place][0] or _turned(cell, other, old, place, order):
                ops.reverse()
            for i, op in enumerate(ops):
                nnx.update(second.ops[2 * place + i], nnx.state(op))
        found = np.split(np.asarray(second(*inputs, True, None)), 4, axis=-1)
        for place, old in enumerate(order):
            np.testing.assert_allclose(found[place], expected[old], rtol=1e-4, atol=1e-5)
        compared += 1
    assert compared > 0


def _turned(cell: Cell, other: Cell, old: int, place: int, order: tuple[int, ...]) -> bool:
    new = {0: 0, 1: 1, **{2 + each: 2 + i for i, each in enumerate(order)}}
    return new[cell.edges[2 * old][1]] != other.edges[2 * place][1]


# Networks


@functools.partial(jax.jit, static_argnums=0)
def measure(graph, weights, statistics, images, path):
    """The logits in training and in evaluation with the statistics it left, and the gradient of the former."""

    def loss(weights):
        logits, left = forward(graph, weights, statistics, images, path, train=True)
        return (logits**2).sum(), (logits, left)

    gradient, (trained, left) = jax.grad(loss, has_aux=True)(weights)
    return {"train": trained, "eval": forward(graph, weights, left, images, path, train=False)[0], "gradient": gradient}


@pytest.fixture(scope="module")
def images():
    return jr.normal(jr.key(1), (6, 8, 8, 1))


@pytest.fixture(scope="module")
def affine():
    return split(SMALL.supernet(jr.key(0), affine=True))


# The first has convolutions on edges of every kind.
PATHS = np.concatenate([[(3, 0, 2, 4, 5, 5, 3, 6, 9, 2, 1, 2, 3, 1, 5, 4, 3, 6, 3, 7, 1, 4)], random_rows(2)]).astype(
    np.int32
)


@pytest.fixture(scope="module")
def found(affine, images):
    return functools.cache(lambda i: measure(*affine, images, jnp.asarray(PATHS[i])))


def pruned(graph, weights, statistics, row) -> nnx.Module:
    return prune(nnx.merge(graph.definition, weights, statistics, copy=True), SMALL, row)


def test_a_path_gives_the_logits_of_the_pruned_network(affine, images, found):
    alone = measure(*split(pruned(*affine, PATHS[0])), images, ())
    for mode in ("train", "eval"):
        np.testing.assert_allclose(found(0)[mode], alone[mode], rtol=2e-3, atol=2e-4)
        assert np.ptp(alone[mode], axis=0).min() > 0.01
    assert np.abs(found(0)["train"] - found(1)["train"]).max() > 0.05


def test_one_program_serves_every_path(affine, images, found):
    found(0)
    before = measure._cache_size()
    for i in range(len(PATHS)):
        found(i)
    assert measure._cache_size() == before


def test_no_gradient_reaches_what_is_off_the_path(affine, found):
    gradient, path = found(0)["gradient"], jnp.asarray(PATHS[0])
    off = put(gradient, jax.tree.map(jnp.zeros_like, select(gradient, path)), path)
    leaves = jax.tree.leaves(off, is_leaf=lambda leaf: isinstance(leaf, Shared))
    shared = [np.asarray(leaf.get_value()) for leaf in leaves if isinstance(leaf, Shared)]
    assert len(shared) == 5
    assert not any(rows.any() for rows in shared)
    assert all(np.asarray(leaf).any() for leaf in jax.tree.leaves(select(gradient, path)))


def halves(mixture):
    return tuple(jnp.split(mixture, 2))


@pytest.fixture(scope="module")
def soft(affine, images):
    return measure_mixture(*affine, images, halves(jax.nn.softmax(jr.normal(jr.key(2), (28, 8)))))


@pytest.mark.slow
def test_a_mixture_of_one_architecture_is_its_path_in_training(affine, images, found):
    one_hot = jnp.eye(8)[ROWS.edge_ops(jnp.asarray(PATHS[0]))]
    logits, left, by_weights, _ = measure_mixture(*affine, images, halves(one_hot))
    np.testing.assert_allclose(logits, found(0)["train"], rtol=2e-3, atol=2e-4)
    for one, other in zip(*(jax.tree.leaves(tree) for tree in (by_weights, found(0)["gradient"])), strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-2, atol=2e-3)
    for before, after in zip(jax.tree.leaves(affine[2]), jax.tree.leaves(left), strict=True):
        np.testing.assert_array_equal(before, after)


@pytest.mark.slow
def test_every_operation_but_none_has_a_gradient_in_a_mixture(soft):
    _, _, by_weights, halves = soft
    by_mixture = np.concatenate(halves)
    assert np.isfinite(by_mixture).all()
    assert (np.abs(by_mixture[:, 1:]) > 1e-6).all()
    np.testing.assert_array_equal(by_mixture[:, 0], 0)
    for leaf in jax.tree.leaves(by_weights):
        assert np.isfinite(leaf).all()
        assert np.asarray(leaf).any()


@pytest.mark.slow
def test_training_along_a_path_leaves_all_else_bit_identical(affine, task):
    graph, weights, statistics = affine
    recipe = Recipe(steps=2, batch_size=16, learning_rate=0.05, weight_decay=1e-3, label_smoothing=0.0)
    path = jnp.asarray(PATHS[0])
    after = fit(graph, weights, statistics, task, recipe, seed=0, paths=np.tile(PATHS[:1], (2, 1)))
    ones = jax.tree.map(jnp.ones_like, select(weights, path))
    on = put(jax.tree.map(jnp.zeros_like, weights), ones, path)
    for old, new, mask in zip(*map(jax.tree.leaves, (weights, after, on)), strict=True):
        old, new, mask = map(np.asarray, (old, new, mask))
        assert old[mask == 0].tobytes() == new[mask == 0].tobytes()
        assert (old != new).any()


# Drop path


def test_drop_path_leaves_out_all_but_identities(key):
    cell = PUBLISHED["DARTS_V2"].normal
    fixed = Fixed(cell, 4, False, generator(key))
    assert fixed.same == tuple(op == "skip_connect" for op, _ in cell.edges)
    reduced = Fixed(cell, 4, True, generator(key))
    assert reduced.same == (False,) * 8  # the skips of this cell come from its inputs, and so reduce


def test_drop_path_is_by_image_in_training_and_keeps_the_mean(key):
    from spaces.cell_runs import Drop

    x = jnp.ones((4000, 2, 2, 3))
    y = np.asarray(Drop(key, 0.25)(x))
    assert set(np.unique(y)) == {0.0, np.float32(1 / 0.75)}
    assert (y == y[:, :1, :1, :1]).all()
    assert y.mean() == pytest.approx(1, abs=0.03)


@pytest.mark.slow
def test_a_network_drops_with_a_key_and_in_training_alone(key, images):
    network = SMALL.build(PATHS[0], key)
    run = jax.jit(lambda key, drop, train: split_call(network, images, key, drop, train), static_argnums=2)
    kept = run(key, 0.0, True)
    np.testing.assert_allclose(run(jr.key(1), 0.0, True), kept, atol=1e-5)
    assert np.abs(run(key, 0.5, True) - kept).max() > 1e-2
    assert np.abs(run(key, 0.5, True) - run(jr.key(1), 0.5, True)).max() > 1e-2
    np.testing.assert_array_equal(run(key, 0.5, False), run(jr.key(1), 0.0, False))


def split_call(network, images, key, drop, train):
    return nnx.clone(network)(images, train=train, key=key, drop_path=drop)


# Loops


@pytest.mark.slow
@pytest.mark.parametrize("curved", [False, True])
@pytest.mark.parametrize("reduction", [False, True])
def test_a_cell_as_loops_is_the_cell_written_out(key, reduction, curved):
    ops = ("none", "skip_connect", "conv_1x1", "avg_pool_3x3")
    draw = generator(key)
    kinds, edges = [], []
    for count, stride in ((8, 2), (6, 1)) if reduction else ((14, 1),):
        choice = Choice(range(count), [[operation(op, 2, stride, draw, False) for op in ops] for _ in range(count)])
        mixture = jr.normal(jr.key(stride), (count, len(ops)))
        run, (rows, statistics, picks) = choice.opened(mixture, True)
        kinds.append(Edges(run, stride == 2 or not reduction, stride == 1))
        edges.append(Inputs(rows, statistics, picks))

    def written_out(x, edges):
        states, at = [x[0], x[1]], [0] * len(kinds)
        for node in range(4):
            total = 0
            for source in range(2 + node):
                i = int(reduction and source >= 2)
                total += kinds[i].run(states[source], *(leaf[at[i]] for leaf in edges[i]))[0]
                at[i] += 1
            states.append(total)
        return jnp.stack(states[2:])

    def both(cell):
        def loss(x, weights, picks):
            given = [each._replace(weights=w, picks=p) for each, w, p in zip(edges, weights, picks, strict=True)]
            return (cell(x, tuple(given)) ** 2).sum()

        weights, picks = ([getattr(each, name) for each in edges] for name in ("weights", "picks"))
        x = jr.normal(jr.key(5), (2, 3, 4, 4, 2))
        if curved:  # how the gradient by weights changes with the mixture
            return jax.jit(lambda p: jax.jvp(lambda p: jax.grad(loss, 1)(x, weights, p), (p,), (p,)))(picks)
        return [jax.jit(jax.value_and_grad(loss, i))(x, weights, picks) for i in (2, (0, 1))]

    looped = both(lambda x, edges: through_nodes(tuple(kinds), x, edges)[0])
    for one, other in zip(*map(jax.tree.leaves, (looped, both(written_out))), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-3 * np.abs(other).max())


def test_cells_in_a_loop_are_the_cells_written_out(key, monkeypatch):
    space = Darts(width=4, cells=12, stem_multiplier=1, image_size=4, image_channels=1, num_classes=3)
    plain = Cell((("skip_connect", 0), ("conv_1x1", 1)) * 4, (2, 3, 4, 5))
    graph, weights, statistics = split(fixed_network(space.frame, Genotype(plain, plain), generator(key)))
    images = jr.normal(key, (4, 4, 4, 1))
    logits, left = forward(graph, weights, statistics, images, (), train=True)
    monkeypatch.setattr(cell_runs, "LOOPED", False)
    expected, left_too = forward(graph, weights, statistics, images, (), train=True)
    for one, other in zip(*map(jax.tree.leaves, ((logits, left), (expected, left_too))), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4)
