"""Merging cells: the published pyramid and its counts, and what a cell does, by hand."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from nas.commands import cli, search
from nas.testing import check_space
from spaces import resnet
from spaces.base import architecture_id, sample
from spaces.nas_fpn import LEVELS, PRESETS, PUBLISHED, Body, NasFpn, Neck, gated, read, resampled, taken_up, text_of

PAPER = NasFpn()
TINY = NasFpn(width=4, backbone="resnet-10", image_size=128, image_channels=1)
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
    laterals = price(PAPER)["params"] - price(PAPER)["neck_params"] - 23_508_032
    assert laterals == 919_040


@pytest.mark.parametrize("name", PRESETS)
def test_it_keeps_the_laws_of_spaces(name):
    check_space(PRESETS[name], networks=False)


@pytest.mark.parametrize("cells", [5, 6, 9])
def test_any_number_of_cells_keeps_the_laws(cells):
    check_space(NasFpn(cells, image_size=128), networks=False)


def test_a_network_gives_the_five_maps_and_has_the_parameters_that_it_costs(key):
    row = np.asarray(sample(TINY, jax.random.key(3), 1)[0])
    network = TINY.build(row, key)
    maps = network(jnp.ones((2, 128, 128, 1)))
    assert [x.shape for x in maps] == [(2, 128 >> level, 128 >> level, 4) for level in LEVELS]
    assert all(jnp.isfinite(x).all() for x in maps)
    assert count(network) == TINY.cost(jnp.asarray(row)[None])["params"][0]


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


def test_what_is_written_is_read_as_it_was():
    for row in np.asarray(sample(PAPER, jax.random.key(0), 50)):
        cells = PAPER.merges(row)
        assert read(text_of(cells)) == cells
        assert np.array_equal(PAPER.parse(text_of(cells)), row)


def test_a_body_is_trained_through_all_of_its_parts(key):
    network = Body(TINY, PUBLISHED["NAS-FPN"], np.random.default_rng(0))
    definition, weights, statistics = nnx.split(network, nnx.Param, nnx.BatchStat)
    images = jax.random.normal(key, (2, 128, 128, 1))

    def loss(weights):
        return sum((x**2).sum() for x in nnx.merge(definition, weights, statistics, copy=True)(images, train=True))

    gradient = jax.jit(jax.grad(loss))(weights)
    assert all(bool(jnp.any(leaf != 0)) for leaf in jax.tree.leaves(gradient["necks"]))


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


def test_nothing_is_searched_in_it_yet(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert search.main(["--space", "nas-fpn"]) == 2
    assert "space='nas-fpn' is not one of" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
