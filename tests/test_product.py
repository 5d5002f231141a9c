"""A backbone and a neck that are searched together."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from conftest import MINI
from flax import nnx

import nas
from nas import config
from nas.errors import UsageError
from nas.job.subject import bind
from nas.saved.exports import export
from nas.saved.predictors import described
from nas.store.sql import Store
from nas.tasks import Reading
from nas.tasks.detection.scenes import CLASSES, make_scenes
from nas.testing import check_space
from nas.training.net import flatten, forward, on_path, split
from spaces import nas_fpn
from spaces.base import costs, fingerprint, sample
from spaces.darts import Darts
from spaces.nas_fpn import NasFpn
from spaces.product import Joint, Product, _keys
from spaces.shared import put, select
from spaces.shufflenet import ShuffleNet

BACKBONE = ShuffleNet((1, 2, 1, 1), (8, 16, 24, 32), (2, 2, 2, 2), stem_width=4, stem_stride=2, last_width=16)
NECK = NasFpn(width=8, image_size=128, image_channels=1)
SPACE = Product(BACKBONE, NECK)


def test_a_product_keeps_the_laws_of_spaces():
    check_space(SPACE, samples=16, networks=False)


def test_its_networks_keep_them_too():
    check_space(SPACE, samples=16)


def test_an_architecture_is_that_of_the_backbone_and_that_of_the_neck(key):
    row = np.asarray(sample(SPACE, key, 1))[0]
    text = SPACE.describe(row)
    first, _, second = text.partition(" + ")
    assert first == BACKBONE.describe(row[:5])
    assert second == NECK.describe(row[5:])
    published = SPACE.parse("(0,1,2,3,0) + NAS-FPN")
    assert SPACE.describe(published).endswith(nas_fpn.text_of(nas_fpn.FOUND["NAS-FPN"]))
    assert len(SPACE.drawings(row)) == 5
    with pytest.raises(ValueError, match=r"must be a backbone and a neck"):
        SPACE.parse(first)


def test_costs_are_those_of_the_parts_and_of_what_joins_them(key):
    row = np.asarray(sample(SPACE, key, 1))[0]
    found = costs(SPACE, row.tolist())
    sides, inputs = (16, 8, 4), (16, 24, 32)
    joins = sum(width * 8 * side**2 for width, side in zip(inputs, sides, strict=True))
    assert found["macs"] == found["backbone_macs"] + found["neck_macs"] + joins
    assert found["params"] == found["backbone_params"] + found["neck_params"] + sum((w + 2) * 8 for w in inputs)
    alone = costs(dataclasses.replace(BACKBONE, image_size=128, image_channels=1, num_classes=0), row[:5].tolist())
    assert found["backbone_macs"] == alone["macs"]


def test_body_neck_and_head_are_drawn_from_keys_of_their_own(key):
    """The head's is made in `nas.training.net`."""
    keys = [*_keys(key), jr.fold_in(key, 1), key]
    assert len({tuple(jr.key_data(each).tolist()) for each in keys}) == len(keys)


def test_a_path_is_cut_in_two():
    class Part(nnx.Module):
        def __call__(self, maps, path, *, train, key):
            return (*maps, jnp.asarray(path))

    images = jnp.zeros((1, 8, 8, 1))
    maps = Joint(Part(), Part(), cut=2)(images, (3, 1, 2))
    assert [x.tolist() for x in maps[1:]] == [[3, 1], [2]]
    assert [x.size for x in Joint(Part(), Part(), cut=2)(images, ())[1:]] == [0, 0]


def test_each_part_reads_its_own_part_of_the_path(key):
    graph, weights, statistics = split(SPACE.supernet(key))
    path, other = (jnp.asarray(each) for each in sample(SPACE, key, 2))
    images = jax.random.normal(key, (2, 128, 128, 1))
    program = jax.jit(
        lambda weights, path: forward(graph, on_path(weights, path), statistics, images, path, train=True)
    )
    maps, _ = program(weights, path)
    assert [x.shape for x in maps] == [(2, side, side, 8) for side in (16, 8, 4, 2, 1)]
    back, front = (jnp.concatenate([a[:5], b[5:]]) for a, b in ((path, other), (other, path)))
    assert not np.array_equal(program(weights, back)[0][0], maps[0])
    assert not np.array_equal(program(weights, front)[0][0], maps[0])
    # What is off the backbone's path keeps its bits; the neck is shared whole.
    moved = put(weights, jax.tree.map(lambda x: x + 1, select(weights, path)), path)
    before, after = flatten(weights), flatten(moved)
    for name, value in after.items():
        same = value == before[name]
        assert same.any() == (name.startswith("backbone.blocks") and value.ndim == 3), name


def test_a_name_makes_it_and_plain_data_keep_it(key):
    space = config.build_space("shufflenet:small+nas-fpn:tiny")
    assert (space.backbone.stem_width, space.neck.width) == (16, 16)
    assert space.neck.map_widths == (160, 320, 640)
    given = {"space": {"name": "shufflenet:small+nas-fpn:tiny", "neck": {"width": 8}}, "task": "scenes"}
    settings = config.build(given)
    assert settings.space.neck.width == 8
    assert config.names(given)["space"] == "shufflenet+nas-fpn"
    again = config.build(json.loads(json.dumps(config.to_data(settings, given))))
    assert again.space == settings.space
    saved = config.build_space(described("shufflenet+nas-fpn", SPACE), given=False)
    assert saved == SPACE
    assert fingerprint(saved) == fingerprint(SPACE) != fingerprint(space)
    from_python = config.from_values({"space": SPACE})
    built = config.build(from_python).space
    assert from_python["space"]["name"] == "shufflenet+nas-fpn"
    assert dataclasses.replace(built, neck=dataclasses.replace(built.neck, image_size=128, image_channels=1)) == SPACE


def test_flags_lead_into_both_parts():
    words = ["--space", "shufflenet:small+nas-fpn:tiny", "--space.neck.width", "24", "--space.backbone.last-width=32"]
    space = config.build(config.parse(words)[0]).space
    assert (space.neck.width, space.backbone.last_width) == (24, 32)


@pytest.mark.parametrize(
    ("space", "said"),
    [
        ("shufflenet:small+shufflenet:small", "ShuffleNet takes no maps of a backbone; nas-fpn does"),
        ("darts+nas-fpn", "Darts gives no maps of strides 8, 16 and 32; shufflenet does"),
        ("nas-fpn+nas-fpn", "NasFpn gives no maps"),
        ("shufflenet:tiny+nas-fpn", "must have strides 8, 16 and 32, not 1, 2, 4"),
        ("shufflenet+nas-fnp", "space='nas-fnp' is not one of"),
        ({"name": "shufflenet:small+nas-fpn", "neck": {"backbone": "resnet-18"}}, "another space gives the maps"),
        ({"name": "shufflenet:small+nas-fpn", "neck": {"map_widths": [1]}}, "space.neck.map_widths cannot be set"),
        ({"name": "shufflenet:small+nas-fpn", "backbone": {"image_size": 64}}, "space.backbone.image_size cannot"),
        ({"name": "nas-fpn", "backbone": "none"}, "backbone='none' must be one of"),
    ],
)
def test_what_is_no_product_is_refused_in_one_line(space, said):
    with pytest.raises(UsageError, match=said) as refused:
        config.build({"space": space})
    assert "\n" not in str(refused.value)


def test_the_task_says_how_large_images_are_in_both_parts(task):
    seen = dataclasses.replace(task, kind=dataclasses.replace(task.kind))
    with pytest.raises(UsageError, match=r"must be"):
        bind(SPACE, seen)  # a classification task of 8 pixels
    with pytest.raises(ValueError, match="gives no maps"):
        Product(Darts(), NECK)
    with pytest.raises(ValueError, match="not 2, 4"):
        Product(MINI, NECK)


def scenes():
    """A detection task of a few images."""
    images, labels = make_scenes(Reading("scenes", image_size=128)).train
    parts = {part: (images[i : i + 8], labels[i : i + 8]) for i, part in enumerate(("train", "valid", "test"))}
    return {**parts, "classes": CLASSES}


def test_a_job_searches_exports_and_loads_it(tmp_path):
    found = nas.search(
        space=SPACE,
        task=scenes(),
        evaluator="train",
        strategy="random",
        trials=1,
        baselines=0,
        workers=0,
        final={"steps": 1, "batch_size": 4},
        store=f"sqlite:///{tmp_path}/nas.db",
    )
    row = found.best[0]
    assert {"backbone_macs", "neck_macs", "macs"} <= row.keys()
    with Store(found.store) as store:
        (run,) = store.all_runs()
        assert run.space == "shufflenet+nas-fpn"
        export(store, row["architecture"], tmp_path / "out")
    exported = nas.load(tmp_path / "out")
    assert exported.space == dataclasses.replace(SPACE, neck=dataclasses.replace(NECK, image_channels=3))
    assert exported.predict(np.zeros((1, 128, 128, 3), np.uint8)).shape[0] == 1
