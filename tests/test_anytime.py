"""Detectors that may be left after each of their stacked pyramids: what an exit gives, costs, learns and is worth."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import refusal
from flax import nnx
from PIL import Image
from test_detect import exported

import nas
from nas.commands import cli
from nas.job.subject import bind
from nas.report.outcome import of_exits
from nas.tasks import load
from nas.tasks.detection import heads
from nas.tasks.detection.losses import detection_loss
from nas.tasks.kinds.detection import Detection
from nas.testing import check_space
from nas.training.net import alone, flatten, head_costs, split
from spaces.base import costs, fingerprint
from spaces.costs import with_head
from spaces.exits import at_exit, exit_of, of_all_exits
from spaces.nas_fpn import NasFpn
from spaces.product import Product
from spaces.shufflenet import ShuffleNet

KIND = Detection(3)
PLAIN = NasFpn(cells=5, width=4, stacks=3, backbone="resnet-10-thin", image_size=128)
SPACE = dataclasses.replace(PLAIN, anytime=True)
BACKBONE = ShuffleNet((1, 1, 1, 1), (8, 16, 24, 32), (2, 2, 2, 2), stem_width=4, stem_stride=2, last_width=16)
PRODUCT = Product(BACKBONE, dataclasses.replace(SPACE, stacks=2))
SPACES = {"nas-fpn": SPACE, "product": PRODUCT}


def row(space) -> np.ndarray:
    return np.asarray(space.canonical(jnp.zeros((1, len(space.cardinalities)), jnp.int32)))[0]


def price(space) -> dict[str, float]:
    return costs(space, tuple(map(int, row(space))))


def with_exits(space, stacks: int):
    neck = dataclasses.replace(getattr(space, "neck", space), stacks=stacks, anytime=False)
    return dataclasses.replace(space, neck=neck) if isinstance(space, Product) else neck


# Names and costs


def test_names_of_exits_are_told_from_others():
    assert exit_of(at_exit("test_ap", 12)) == ("test_ap", 12)
    assert [exit_of(name) for name in ("ap", "macs_exit_", "macs_exit_0", "_exit_1", "exit_1")] == [None] * 5
    assert of_all_exits("macs", ["macs", "macs_exit_2", "neck_macs", "neck_macs_exit_1"]) == ["macs", "macs_exit_2"]


def test_rows_of_exits_are_in_their_order():
    final = {"architecture": "a", "role": "given", "ap_exit_10": 0.3, "ap_exit_2": 0.2, "macs_exit_2": 7.0, "ap": 0.3}
    assert of_exits(final) == [
        {"architecture": "a", "exit": 2, "ap": 0.2, "macs": 7.0},
        {"architecture": "a", "exit": 10, "ap": 0.3},
    ]
    assert of_exits({"architecture": "a", "ap": 0.3}) == []


@pytest.mark.parametrize("name", SPACES)
def test_up_to_an_exit_a_network_costs_what_one_of_so_many_pyramids_costs(name):
    space = SPACES[name]
    exits = getattr(space, "neck", space).stacks
    whole = price(with_head(space, head_costs(space, KIND)))
    for k in range(1, exits + 1):
        shorter = with_exits(space, k)
        found = price(with_head(shorter, head_costs(shorter, KIND)))
        assert whole[at_exit("macs", k)] == pytest.approx(found["macs"], rel=1e-6)
    assert whole[at_exit("macs", exits)] == whole["macs"]
    assert at_exit("macs", exits + 1) not in whole
    held = flatten(split(alone(space, KIND, row(space), jax.random.key(0)))[1])
    assert whole["params"] == sum(array.size for array in held.values())


def test_a_space_of_exits_keeps_the_laws_and_is_another_one():
    check_space(SPACE, networks=False)
    assert fingerprint(SPACE) != fingerprint(PLAIN)
    with pytest.raises(ValueError, match="anytime=True needs stacks=1 to be at least 2"):
        NasFpn(anytime=True)


def test_maps_are_those_of_one_pyramid_of_several_or_of_none():
    pyramid = [(16 >> i or 1, 16 >> i or 1, 4) for i in range(5)]
    assert [heads.exits_of(maps) for maps in (pyramid, 3 * pyramid)] == [1, 3]
    assert [heads.exits_of(maps) for maps in (pyramid[:4], pyramid * 2 + pyramid[:1], pyramid + pyramid[::-1], [])] == [
        0
    ] * 4


# Networks


@pytest.fixture(scope="module", params=SPACES)
def network(request):
    """One whose statistics and scales differ from exit to exit."""
    space, draw = SPACES[request.param], np.random.default_rng(0)
    made = alone(space, KIND, row(space), jax.random.key(0))
    graph, *parts = split(made)
    parts = [jax.tree.map(lambda x: x + draw.uniform(0, 0.3, x.shape).astype(np.float32), part) for part in parts]
    return nnx.merge(graph.definition, *parts)


def test_what_is_left_at_an_exit_gives_what_the_whole_gives_there(network):
    images = jax.random.normal(jax.random.key(1), (2, 128, 128, 3))
    whole = network(images)
    assert len(whole) == 5 * network.exits
    sizes = []
    for k in range(1, network.exits + 1):
        shorter = network.ended(k)
        found = shorter(images)
        assert shorter.exits == 1
        for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(tuple(whole[5 * k - 5 : 5 * k])), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
        sizes.append(sum(leaf.size for leaf in jax.tree.leaves(nnx.state(shorter, nnx.Param))))
    assert sizes == sorted(set(sizes)), "what comes after an exit is left out"
    assert len(network(images)) == 5 * network.exits, "the whole is as it was"
    assert not np.allclose(whole[0][1], whole[5][1])


def outputs(exits: int, n: int = 2) -> list:
    draw = np.random.default_rng(0)
    sides = [16, 8, 4, 2, 1] * exits
    return [(draw.normal(size=(n, s, s, 27)), draw.normal(size=(n, s, s, 36))) for s in sides]


def as_float(found: list) -> list:
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), found)


def labels(n: int = 2) -> np.ndarray:
    found = np.tile(np.array([0.1, 0.1, 0.5, 0.5, 1, 0, 128], np.float32), (n, 1, 1))
    found[1, 0, :4] = 0.4, 0.3, 0.8, 0.9
    return found


def test_the_loss_is_the_mean_over_exits():
    given = as_float(outputs(3))
    each = [float(KIND.loss(given[i : i + 5], jnp.asarray(labels()))) for i in (0, 5, 10)]
    assert len(set(each)) == 3
    assert float(KIND.loss(given, jnp.asarray(labels()))) == pytest.approx(np.mean(each), rel=1e-5)
    logits, codes, places = KIND._flat(given[:5])
    assert each[0] == pytest.approx(float(detection_loss(logits, codes, jnp.asarray(labels()), places)), rel=1e-6)


def test_every_exit_is_measured_and_the_last_one_is_the_network():
    given, counted = as_float(outputs(2)), np.array([False, True])
    batches = [KIND.judged(given, labels(), np.array([True, True])), KIND.judged(given, labels(), counted)]
    seen = np.concatenate([labels(), labels()[1:]])
    found = KIND.metrics(batches, seen)
    for k, levels in ((1, given[:5]), (2, given[5:])):
        alone = [([KIND.found(levels)], each) for _, each in batches]
        expected = KIND.metrics(alone, seen)
        assert exit_of("ap") is None
        assert not any(exit_of(name) for name in expected), "of one exit nothing more is said"
        assert {name: found[at_exit(name, k)] for name in ("minus_ap", "minus_ap50")} == {
            name: expected[name] for name in ("minus_ap", "minus_ap50")
        }
    assert found["minus_ap"] == found["minus_ap_exit_2"]
    np.testing.assert_array_equal(KIND.found(given), KIND.found(given[5:]))


# As users have them


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("anytime") / "best"
    exported(made, "nas-fpn", SPACE, KIND, row(SPACE), 3)
    return made


def test_an_exported_detector_is_left_at_any_exit_by_default_the_last(folder):
    model = nas.load(folder)
    images = np.random.default_rng(0).integers(0, 256, (2, 128, 128, 3), dtype=np.uint8)
    assert model.exits == 3
    np.testing.assert_array_equal(model.predict(images), model.predict(images, exit=3))
    assert model.predict(images[:0], exit=1).shape == (0, 100, 6)
    first = model.detect([images[0]], 0, exit=1)
    assert first != model.detect([images[0]], 0)
    for exit in (0, 4):
        assert refusal(model.predict, images, exit) == f"exit={exit} must lie in 1..3"


def test_the_command_leaves_the_network_at_an_exit(folder, tmp_path, capsys):
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    words = ["detect", str(folder), str(tmp_path / "a.png"), "--least", "0", "--format", "json"]
    found = []
    for more in ([], ["--exit", "3"], ["--exit", "1"]):
        assert cli.main([*words, *more]) == 0
        found.append(json.loads(capsys.readouterr().out))
    assert found[0] == found[1] != found[2]
    assert cli.main([*words, "--exit", "4"]) == 2
    assert "exit=4 must lie in 1..3" in capsys.readouterr().err


@pytest.mark.slow
def test_a_network_of_exits_is_trained_stored_told_and_used(tmp_path, capsys):
    url = f"sqlite:///{tmp_path}/nas.db"
    words = ["--task", "scenes", "--image-size", "128", "--max-images", "40", "--store", url, "--name", "any"]
    words += ["--preset", "tiny", "--stack", "2", "--anytime", "--final.steps", "3", "--epochs", "1"]
    assert cli.main(["retrain", "nas-fpn:NAS-FPN", *words]) == 0
    said = capsys.readouterr().out
    assert "At each exit, after so many pyramids:" in said
    with nas.Store(url) as store:
        (trial,) = store.trials(store.run("any").id, "final")
    names = [at_exit(name, k) for name in ("macs", "standalone_minus_ap", "test_minus_ap") for k in (1, 2)]
    assert set(names) <= trial.measurements.keys()
    assert trial.measurements["macs_exit_1"] < trial.measurements["macs_exit_2"] == trial.measurements["macs"]
    assert trial.measurements["test_minus_ap_exit_2"] == trial.measurements["test_minus_ap"]
    task = load("scenes", image_size=128, max_images=40)
    Image.fromarray(task.test.images[0]).save(tmp_path / "a.png")
    for exit in ("1", "2"):
        words = ["detect", trial.architecture, str(tmp_path / "a.png"), "--store", url, "--exit", exit]
        assert cli.main([*words, "--least", "0", "--format", "json"]) == 0
        assert json.loads(capsys.readouterr().out)
    assert bind(SPACE, task).anytime
