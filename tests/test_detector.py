"""Detectors, whole: that they learn, and a search for one from the data to the test."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from conftest import SHARED

import nas
from nas import config
from nas.evaluators.supernet import SupernetEvaluator
from nas.job.chosen import with_recipes
from nas.job.subject import bind, load_subject
from nas.tasks import load
from nas.tasks.base import Split
from nas.training.net import alone, calibrate, flatten, measure, supernet
from nas.training.net import split as parted
from nas.training.recipe import Recipe
from nas.training.sgd import fit
from spaces.base import sample
from spaces.nas_fpn import PRESETS

STEPS = {"steps": 3, "batch_size": 4, "learning_rate": 0.02, "crop": 0, "clip": 10}


def trained(task, recipe, name="NAS-FPN"):
    space = bind(PRESETS["tiny"], task)
    graph, weights, statistics = parted(alone(space, task.kind, space.parse(name), jax.random.key(0)))
    weights = fit(graph, weights, statistics, task, recipe, seed=0)
    how = {"batch": 8, "precision": "float32"}
    statistics = calibrate(graph, weights, statistics, task.train.images, task, (), **how)
    return lambda data: measure(graph, weights, statistics, data, task, (), **how)


def test_a_search_for_a_neck_goes_from_the_data_to_the_test(tmp_path):
    store = f"sqlite:///{tmp_path}/nas.db"
    options = {"space": "nas-fpn:tiny", "strategy": "random", "task": "scenes", "image_size": 128, "max_images": 60}
    options |= {"trials": 3, "concurrency": 1, "workers": 0, "baselines": 0, "training": STEPS, "final": STEPS}
    outcome = nas.search(**options, limit="neck_macs <= 2e6", objectives="ap,macs", store=store, name="necks")
    (final,) = outcome.finals
    assert 0 <= final["test_ap"] <= 1
    assert len(outcome.top(by="ap")) == 3
    assert all(row["neck_macs"] <= 2e6 for row in outcome.best)
    with nas.Store(store) as found:
        (run,) = found.runs()
    assert run["objective"] == "ap"
    json.dumps(outcome.best)


def test_candidates_of_a_space_of_necks_share_their_programs(key):
    task = load("scenes", image_size=128, max_images=40)
    space = bind(PRESETS["tiny"], task)
    weights = flatten(parted(supernet(space, task.kind, key))[1])
    evaluator = SupernetEvaluator(space, weights, task, calibration_images=16)
    rows = np.asarray(sample(space, key, 8))
    found = [evaluator(tuple(map(int, row)), 0, 0) for row in rows]
    assert all(each.metrics["minus_ap"] <= 0 for each in found)
    assert len({each.metrics["neck_macs"] for each in found}) > 1


@pytest.mark.slow
def test_a_detector_finds_the_objects_of_scenes(optimised):
    task = load("scenes:large", image_size=128)
    recipe = Recipe(steps=700, batch_size=16, learning_rate=0.05, crop=0, flip=True, jitter=0.2, clip=10)
    assert trained(task, recipe)(task.test)["minus_ap50"] < -0.8


@pytest.mark.slow
def test_a_detector_learns_eight_photos_by_heart(optimised):
    """Of which some have few pixels, and some are crowded."""
    folder = SHARED / "images/bccd"
    if not folder.exists():
        pytest.skip(f"NAS_SHARED: {folder} is absent")
    task = load(f"voc:{folder}", image_size=256, skip_invalid=True)
    few = Split(task.train.images[:8], task.train.labels[:8])
    task = dataclasses.replace(task, train=few, valid=few, test=few)
    recipe = Recipe(steps=400, batch_size=8, learning_rate=0.1, crop=0, clip=10)
    assert trained(task, recipe)(few)["minus_ap50"] < -0.9


def test_a_recipe_for_detection_has_defaults_of_its_own():
    given = {"space": "nas-fpn:tiny", "task": "scenes", "image_size": 128, "max_images": 40, "training": {"steps": 7}}
    settings = config.build(given)
    found = with_recipes(settings, given, load_subject(settings, "nas-fpn"))
    assert (found.training.steps, found.training.batch_size, found.training.learning_rate) == (7, 8, 0.02)
    assert found.final.flip
    assert found.final.jitter == 0.2
    other = config.build({"task": "digits"})
    assert with_recipes(other, {}, load_subject(other, "shufflenet")) == other
