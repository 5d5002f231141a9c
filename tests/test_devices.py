"""Several devices: a batch is divided over them, and what comes of it is what one device gives."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from nas.devices import Queue

SCRIPT = """
import dataclasses, json, sys
sys.path.insert(0, "tests")
import conftest, jax, jax.numpy as jnp, numpy as np
from nas.devices import everywhere
from nas.evaluators.supernet import SupernetEvaluator
from nas.training.net import calibrate, flatten, split
from nas.training.schedule import batch_indices
from nas.training.sgd import Program, fit, train_step

task = conftest.bands()
graph, weights, statistics = split(conftest.MINI.supernet(jax.random.key(0)))
program = Program(graph, conftest.RECIPE, task.kind, (task.mean, task.std), shared=True)
state = everywhere(program.begin(weights))
indices, path = batch_indices(0, 0, len(task.train), 16), np.array([0, 1, 2, 3], np.int32)
lowered = train_step.lower(program, state, everywhere(statistics), task.train.on_device, indices, path,
                           np.float32(0.1), jax.random.key(0), 0, np.float32(0))
text = lowered.compile().as_text()
losses = []
paths = np.tile(path, (6, 1))
recipe = dataclasses.replace(conftest.RECIPE, steps=6)
heard = lambda step, loss: losses.append(loss)
trained = fit(graph, weights, statistics, task, recipe, seed=0, paths=paths, on_step=heard)
evaluator = SupernetEvaluator(conftest.MINI, flatten(trained), task, calibration_images=64, batch_size=32)
found = calibrate(graph, trained, statistics, task.train.images[:32], task, path, batch=32, precision="float32")
print(json.dumps({
    "devices": jax.local_device_count(),
    "rows": "f32[2,8,8,1]" in text,
    "sums": "all-reduce" in text,
    "losses": losses,
    "weights": [float(jnp.abs(leaf).sum()) for leaf in jax.tree.leaves(trained)],
    "statistics": [float(jnp.sum(leaf)) for leaf in jax.tree.leaves(found)],
    "error": evaluator((0, 1, 2, 3), 0, 0).metrics["error"],
}))
"""


def measured(count: int) -> dict:
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={count}"
    environment = {**os.environ, "XLA_FLAGS": flags}
    line = [sys.executable, "-c", SCRIPT]
    root = Path(__file__).parent.parent
    done = subprocess.run(line, capture_output=True, text=True, cwd=root, env=environment, timeout=500)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
def test_eight_devices_train_and_measure_as_one_does():
    one, eight = measured(1), measured(8)
    assert (one["devices"], eight["devices"]) == (1, 8)
    assert (eight["rows"], eight["sums"]) == (True, True)  # two of the 16 images each, and sums over devices
    for name in ("losses", "weights", "statistics"):
        np.testing.assert_allclose(eight[name], one[name], rtol=2e-4, atol=1e-5)
    assert eight["error"] == pytest.approx(one["error"], abs=0.02)


def test_no_more_than_a_few_programs_are_under_way(monkeypatch):
    waited: list[int] = []
    monkeypatch.setattr(jax, "block_until_ready", waited.append)
    queue = Queue(2)
    for number in range(5):
        queue.add(number)
        assert waited == list(range(number - 1))
