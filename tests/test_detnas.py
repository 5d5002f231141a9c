"""A detector whose body was a classifier first: the supernet, and what is trained from scratch."""

import dataclasses
import itertools

import jax
import numpy as np
import pytest
from conftest import MINI, RECIPE
from test_heads import AtEveryScale
from test_product import BACKBONE, SPACE, scenes

import nas
from nas import config
from nas.errors import UsageError
from nas.job.pretraining import check_pretraining, pretraining_of
from nas.saved import checkpoint
from nas.store.sql import Store
from nas.tasks.base import split as task_of
from nas.training import driver
from nas.training.net import flatten, split, supernet
from nas.training.pretraining import Pretraining, with_channels
from spaces.nas_fpn import NasFpn

KIND = AtEveryScale(3)
BODIES = dataclasses.replace(MINI, num_classes=0)
STEPS = {"steps": 2, "batch_size": 4, "learning_rate": 0.01, "checkpoint_seconds": 0.0}


def test_a_detector_begins_with_the_body_of_the_classifier(task, key):
    learned = Pretraining(MINI, task, RECIPE)
    trained = flatten(split(supernet(MINI, task.kind, jax.random.fold_in(key, 1)))[1])
    start = split(supernet(BODIES, KIND, key))[1]
    before, after = flatten(start), flatten(learned.begun(start, trained))
    assert {name for name in trained if f"body.{name}" not in after} == {
        name for name in trained if name.startswith(("last", "head"))
    }
    for name, value in after.items():
        np.testing.assert_array_equal(value, trained[name[5:]] if name.startswith("body.") else before[name])
    assert any(not np.array_equal(after[name], before[name]) for name in after)
    other = dataclasses.replace(learned, space=dataclasses.replace(MINI, widths=(8, 20)))
    with pytest.raises(UsageError, match="another body than a detector"):
        other.check(BODIES, KIND)


def test_grey_images_are_shown_in_all_channels(task):
    wide = with_channels(task, 3)
    assert (wide.image_channels, wide.mean) == (3, task.mean * 3)
    np.testing.assert_array_equal(wide.valid.images[..., 2], task.valid.images[..., 0])
    with pytest.raises(UsageError, match="have 3 channels, not 2 or 1"):
        with_channels(wide, 2)


@pytest.fixture(scope="module")
def detection():
    parts = scenes()
    return task_of("scenes", *parts["train"], 3, valid=parts["valid"], test=parts["test"])


def test_the_backbone_of_a_product_is_what_is_trained_before(detection):
    found = pretraining_of(config.build({"pretrain": "digits"}), _wide(SPACE), detection)
    assert (found.prefix, found.space.num_classes, found.task.image_channels) == ("body.backbone.", 10, 3)
    assert found._rows(np.arange(33)).tolist() == [0, 1, 2, 3, 4]


def _wide(space):
    return dataclasses.replace(space, neck=dataclasses.replace(space.neck, image_channels=3))


@pytest.mark.parametrize(
    ("space", "given", "said"),
    [
        (BACKBONE, {"pretrain": "digitz"}, "'digitz' is not"),
        (BACKBONE, {"pretrain": "scenes", "pretrain_image_size": 128}, "must be a task of classes"),
        (NasFpn(image_size=128), {"pretrain": "digits"}, "num_classes=10 must be 0, for nas-fpn is for detection"),
        (BACKBONE, {"pretrain": "digits", "pretraining": {"crop": 40}}, "pretraining.crop=40 must"),
    ],
)
def test_spaces_and_tasks_that_it_is_not_for_are_refused(detection, space, given, said):
    with pytest.raises(UsageError, match=said) as refused:
        pretraining_of(config.build(given), space, detection)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"pretrain_image_size": 32}, "of no use without --pretrain"),
        ({"pretrain": "digits", "evaluator": "train"}, "evaluator='train'"),
        ({"pretrain": "digits", "strategy": "darts"}, "by gradients"),
        ({"pretrain": "digits", "task": "table:x.npz"}, "a table"),
        ({"pretrain": "digits", "pretraining": {"drop_path": 0.1}}, "pretraining.drop_path=0.1 must be 0"),
    ],
)
def test_searches_that_it_is_not_for_are_refused(given, said):
    with pytest.raises(UsageError, match=said):
        check_pretraining(config.build(given))


def test_a_task_of_classes_is_not_trained_for_twice(task):
    with pytest.raises(UsageError, match="needs a task whose networks end in a head"):
        pretraining_of(config.build({"pretrain": "digits"}), MINI, task)


class Interrupter:
    """Ends a job at its n-th step."""

    def __init__(self, monkeypatch):
        self.left, self.check = 10**9, driver.check
        monkeypatch.setattr(driver, "check", self)

    def __call__(self):
        self.check()
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt


def test_a_killed_job_ends_as_one_that_was_not(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (30, 16, 16), np.uint8)
    np.savez(tmp_path / "classes.npz", images=images, labels=np.arange(30) % 3)
    interrupter = Interrupter(monkeypatch)
    task, store = scenes(), f"sqlite:///{tmp_path}/nas.db"
    options = {
        "space": dataclasses.replace(BACKBONE, widths=(8, 12, 16, 20)),
        "task": task,
        "pretrain": f"npz:{tmp_path}/classes.npz",
        "evaluator": {"name": "supernet", "calibration_images": 8},
        "strategy": "random",
        "trials": 2,
        "concurrency": 2,
        "baselines": 0,
        "workers": 0,
        "store": store,
        **{name: STEPS for name in ("training", "pretraining", "final")},
    }
    whole = nas.search(name="whole", **options)
    for stop in (1, 3, 5, 7):
        name = f"killed-{stop}"
        interrupter.left = stop
        with pytest.raises(KeyboardInterrupt):
            nas.search(name=name, **options)
        interrupter.left = 10**9
        again = nas.search(resume=name, task=task, store=store)
        assert _without_time(again.finals) == _without_time(whole.finals)
        assert _without_time(again.best) == _without_time(whole.best)
    with Store(store) as opened:
        runs = opened.all_runs()
        files = {run.name: {file.kind: file.sha256 for file in opened.artifacts(run.id)} for run in runs}
        folder = opened.folder(opened.run("whole"))
    assert set(files["whole"]) == {"pretrained", "supernet", "weights"}
    classifier, _ = checkpoint.read(folder / "pretrained.safetensors")
    weights = {
        name: checkpoint.read(opened.folder(run) / "pretrained.safetensors")[0] for run in runs for name in [run.name]
    }
    for name, arrays in itertools.product(weights, classifier):
        np.testing.assert_array_equal(weights[name][arrays], classifier[arrays])


def _without_time(rows):
    return [{name: value for name, value in row.items() if name not in ("seconds", "run", "number")} for row in rows]
