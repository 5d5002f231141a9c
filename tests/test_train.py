"""Training: a killed one goes on bit for bit, each image is seen once a pass, and errors are one line."""

import dataclasses
import itertools
import os
import re

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from conftest import MINI, RECIPE
from hypothesis import given, settings
from hypothesis import strategies as st

from nas.errors import RunError, UsageError
from nas.evaluators.train import TrainEvaluator
from nas.saved import checkpoint
from nas.tasks.base import Split
from nas.training import driver
from nas.training.driver import resume
from nas.training.net import flatten, split
from nas.training.paths import cost_binned_paths, fair_paths, uniform_paths
from nas.training.recipe import Recipe
from nas.training.schedule import batch_indices, learning_rates
from nas.training.sgd import Program, TrainState, fit, train_step
from spaces.base import feasible, fingerprint, smallest
from spaces.binary_width import BinaryWidth
from spaces.nasbench201 import NasBench201
from spaces.shufflenet import PRESETS, ShuffleNet

# The least there is: one block, from 2 pixels to 1.
ONE = ShuffleNet((1,), (8,), (2,), 4, 4, 8, image_size=8, image_channels=1, num_classes=3)
ALONE = Recipe(steps=100, batch_size=32, learning_rate=0.2, crop=0, checkpoint_seconds=0.0)
ENCODING = np.array([0], np.int32)

Stop = type("Stop", (Exception,), {})


def same_bits(found, expected):
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert found[name].dtype == array.dtype
        assert found[name].tobytes() == array.tobytes(), name


def refusal(call, *arguments, **options) -> str:
    """The message of the refusal, which is one line."""
    with pytest.raises(UsageError) as caught:
        call(*arguments, **options)
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


# Going on after a stop


@pytest.fixture(scope="module")
def paths():
    return uniform_paths(MINI, jr.key(5), RECIPE.steps)


@pytest.fixture(scope="module")
def train(supernet, task, paths):
    """Trains the shared weights of MINI, and gives them with the steps at which the loss was heard."""

    def train(saved=None, seed=0, stop_at=None, by=Stop, recipe=RECIPE, **options):
        heard = []

        def on_step(step, loss):
            assert np.isfinite(loss)
            heard.append(step)
            if len(heard) == stop_at:
                raise by

        weights = fit(*supernet, task, recipe, seed=seed, paths=paths, saved=saved, on_step=on_step, **options)
        return flatten(weights), heard

    return train


@pytest.fixture(scope="module")
def uninterrupted(train, tmp_path_factory):
    saved = tmp_path_factory.mktemp("uninterrupted") / "weights.safetensors"
    weights, heard = train(saved, note={"space": fingerprint(MINI)})
    assert heard == [1, 21, 41, 50]
    return saved, weights


@pytest.mark.parametrize(
    ("stop_at", "heard_again"), [(1, [1, 21, 41, 50]), (2, [21, 41, 50]), (3, [41, 50]), (4, [50])]
)
def test_a_stopped_training_ends_as_the_uninterrupted_one(train, uninterrupted, tmp_path, stop_at, heard_again):
    expected_file, expected = uninterrupted
    saved = tmp_path / "weights.safetensors"
    note = {"space": fingerprint(MINI)}
    with pytest.raises(Stop):
        train(saved, stop_at=stop_at, note=note)
    assert saved.exists() == (stop_at > 1)  # the loss is heard before it is saved
    weights, heard = train(saved, note=note)
    assert heard == heard_again
    same_bits(weights, expected)
    # The file holds the momentum too, and the note.
    same_bits(checkpoint.read(saved)[0], checkpoint.read(expected_file)[0])
    assert checkpoint.read(saved)[1] == checkpoint.read(expected_file)[1]


@pytest.mark.parametrize(("stop_at", "heard_again"), [(1, [21, 41, 50]), (2, [41, 50]), (3, [50]), (4, None)])
def test_an_interrupt_keeps_the_last_step(train, uninterrupted, tmp_path, stop_at, heard_again):
    expected_file, expected = uninterrupted
    saved, slow = tmp_path / "weights.safetensors", dataclasses.replace(RECIPE, checkpoint_seconds=1e6)
    with pytest.raises(KeyboardInterrupt):
        train(saved, stop_at=stop_at, by=KeyboardInterrupt, recipe=slow)
    assert saved.exists() == (heard_again is not None)  # what happens after the last one is no part of the step
    if heard_again is not None:
        assert checkpoint.read(saved)[1]["step"] == [1, 21, 41][stop_at - 1]
        weights, heard = train(saved, recipe=slow)
        assert heard == heard_again
        same_bits(weights, expected)
        same_bits(checkpoint.read(saved)[0], checkpoint.read(expected_file)[0])


def test_an_interrupt_within_a_step_is_one_though_nobody_listens(tmp_path):
    """As in a notebook: the step has given the buffers of its state away, and nothing is left that could be kept."""
    path = tmp_path / "weights.safetensors"
    give = jax.jit(lambda state: state + 1, donate_argnums=0)

    def take(state, step):
        state = give(state)
        if step == 3:
            raise KeyboardInterrupt
        return state, state.sum()

    how = {"epoch": 9, "diverged": "", "on_step": lambda step, loss: None}
    with pytest.raises(KeyboardInterrupt):
        driver.drive(take, jnp.zeros(3), range(9), driver.Checkpoints(path, seconds=1e6), **how)
    assert not path.exists()


def test_a_checkpoint_holds_weights_and_momentum(uninterrupted):
    arrays, note = checkpoint.read(uninterrupted[0])
    assert note.items() >= {"space": fingerprint(MINI), "seed": 0, "recipe.steps": 50, "step": 50}.items()
    assert note["recipe.learning_rate"] == RECIPE.learning_rate
    momentum = [name for name in arrays if name.startswith("optimiser")]
    assert len(momentum) == sum(name.startswith("weights") for name in arrays) == len(arrays) / 2
    assert all(np.any(arrays[name]) for name in momentum)


def test_a_finished_training_is_not_repeated(train, uninterrupted):
    saved, expected = uninterrupted
    before = saved.stat().st_mtime_ns
    weights, heard = train(saved, note={"space": fingerprint(MINI)})
    assert heard == []
    assert saved.stat().st_mtime_ns == before
    same_bits(weights, expected)


def test_the_network_that_is_trained_is_left_as_it_is(supernet, uninterrupted):
    again = flatten(split(MINI.supernet(jr.key(0)))[1])
    same_bits(flatten(supernet[1]), again)
    assert any(again[name].tobytes() != trained.tobytes() for name, trained in uninterrupted[1].items())


def test_a_checkpoint_of_another_training_is_refused(train, uninterrupted):
    saved, _ = uninterrupted
    space = fingerprint(MINI)
    assert "its seed is 0, not 1" in refusal(train, saved, seed=1, note={"space": space})
    assert f"its space is '{space}', not 'other'" in refusal(train, saved, note={"space": "other"})
    assert "its run is None, not 'other'" in refusal(train, saved, note={"space": space, "run": "other"})


def test_a_checkpoint_knows_its_recipe_its_data_and_its_paths(supernet, task, paths, uninterrupted):
    given = {"seed": 0, "paths": paths, "saved": uninterrupted[0], "note": {"space": fingerprint(MINI)}}
    slower = dataclasses.replace(RECIPE, learning_rate=0.01)
    assert "its recipe.learning_rate is 0.05, not 0.01" in refusal(fit, *supernet, task, slower, **given)
    rarer = dataclasses.replace(RECIPE, checkpoint_seconds=9.0)
    fit(*supernet, task, rarer, **given)  # which decides nothing of what is computed
    images = task.train.images.copy()
    images[0, 0, 0, 0] ^= 1
    other = dataclasses.replace(task, train=Split(images, task.train.labels))
    assert "its data is" in refusal(fit, *supernet, other, RECIPE, **given)
    assert "its paths is" in refusal(fit, *supernet, task, RECIPE, **given | {"paths": paths[::-1].copy()})


def test_a_checkpoint_of_another_network_is_refused(uninterrupted):
    _, weights, _ = split(ONE.supernet(jr.key(0)))
    assert "does not fit this network: array" in refusal(resume, uninterrupted[0], {"weights": weights}, {})


# Checkpoints as files


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "some.safetensors"
    checkpoint.write(path, {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.ones(4)}, {"step": 3})
    return path


def test_a_checkpoint_is_read_as_it_was_written(file):
    arrays, note = checkpoint.read(file)
    same_bits(arrays, {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.ones(4)})
    assert note == {"step": 3}
    assert list(file.parent.iterdir()) == [file]


def test_a_checkpoint_whose_numbers_were_changed_is_refused(file):
    data = file.read_bytes()
    file.write_bytes(data[:-8] + bytes(8))
    assert "its checksum is another" in refusal(checkpoint.read, file)
    file.write_bytes(data)
    checkpoint.read(file)


def test_a_checkpoint_and_its_name_are_on_the_disk_when_it_is_written(file, monkeypatch):
    synced, sync = [], os.fsync
    monkeypatch.setattr(
        os, "fsync", lambda handle: (synced.append(os.readlink(f"/proc/self/fd/{handle}")), sync(handle))
    )
    checkpoint.write(file, {"a": np.ones(3)}, {})
    assert len(synced) == 2
    assert re.fullmatch(rf"{re.escape(str(file))}\.\w+\.tmp", synced[0])
    assert synced[1] == str(file.parent)


@pytest.mark.parametrize("kept", [0.0, 0.001, 0.1, 0.5, 0.99])
def test_a_truncated_checkpoint_is_refused(file, kept):
    data = file.read_bytes()
    file.write_bytes(data[: int(kept * len(data))])
    assert str(file) in refusal(checkpoint.read, file)


@pytest.mark.parametrize("data", [b"\0" * 100, b"\xff" * 100, b"PK\x03\x04 not ours", b'{"a": 1}'])
def test_a_file_that_is_no_checkpoint_is_refused(file, data):
    file.write_bytes(data)
    assert "is not a whole weights file" in refusal(checkpoint.read, file)


def test_a_checkpoint_that_is_missing_or_a_folder_is_refused(file):
    assert "does not exist" in refusal(checkpoint.read, file.parent / "none")
    assert str(file.parent) in refusal(checkpoint.read, file.parent)


@pytest.mark.parametrize("broken", ["fsync", "replace"])
def test_a_write_that_fails_leaves_the_old_file(file, monkeypatch, broken):
    def full(*_):
        raise OSError(28, "No space left on device")

    before = file.read_bytes()
    monkeypatch.setattr(os, broken, full)
    with pytest.raises(RunError, match="No space left on device; free some space"):
        checkpoint.write(file, {"a": np.zeros(9)}, {"step": 4})
    assert file.read_bytes() == before
    monkeypatch.undo()
    checkpoint.write(file, {"a": np.zeros(9)}, {"step": 4})
    assert checkpoint.read(file)[1] == {"step": 4}


def test_a_folder_that_cannot_be_made_is_refused(file):
    assert "cannot be written" in refusal(checkpoint.write, file / "below" / "x.safetensors", {}, {})


# What a step sees


@settings(max_examples=60, deadline=None)
@given(size=st.integers(1, 60), batch=st.integers(1, 90), seed=st.integers(0, 2**31 - 1))
def test_every_pass_over_the_data_has_each_image_once(size, batch, seed):
    steps = range(-(-3 * size // batch))
    batches = [batch_indices(seed, step, size, batch) for step in steps]
    assert {len(indices) for indices in batches} == {batch}
    order = np.concatenate(batches)
    for start in range(0, 3 * size, size):
        np.testing.assert_array_equal(np.sort(order[start : start + size]), np.arange(size))
    for step in reversed(steps):  # whatever was asked before
        np.testing.assert_array_equal(batch_indices(seed, step, size, batch), batches[step])


def test_passes_and_seeds_have_orders_of_their_own():
    orders = [batch_indices(seed, step, 50, 50) for seed, step in itertools.product(range(3), range(3))]
    assert len({order.tobytes() for order in orders}) == 9


# The learning rate


@pytest.mark.parametrize("warmup", [0.0, 0.1, 0.5])
@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant"])
def test_the_learning_rate_rises_then_falls_to_zero(schedule, warmup):
    rates = learning_rates(Recipe(steps=200, learning_rate=0.3, warmup=warmup, schedule=schedule))
    warm = round(200 * warmup)
    assert rates.shape == (200,)
    assert (rates > 0).all()
    np.testing.assert_allclose(np.diff(rates[: warm + 1]), 0.3 / (warm + 1), rtol=1e-4)
    assert rates.max() == rates[warm] == np.float32(0.3)
    falling = rates[warm:]
    if schedule == "constant":
        assert (falling == np.float32(0.3)).all()
        return
    assert (np.diff(falling) < 0).all()
    assert rates[-1] < 0.3 * 1.01 / len(falling)
    half = falling[len(falling) // 2]
    assert half == pytest.approx(0.15, rel=1e-3)
    quarter = 0.225 if schedule == "linear" else 0.15 * (1 + np.cos(np.pi / 4))
    assert falling[len(falling) // 4] == pytest.approx(quarter, rel=1e-3)


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant"])
@pytest.mark.parametrize(
    ("steps", "warmup"),
    [(1, 0.0), (1, 0.4), (2, 0.5), (1, 0.9), (3, 0.9), (10, 0.95)],
)
def test_short_trainings_have_a_learning_rate(schedule, steps, warmup):
    rates = learning_rates(Recipe(steps=steps, learning_rate=0.3, warmup=warmup, schedule=schedule))
    assert rates.shape == (steps,)
    assert ((rates > 0) & (rates <= np.float32(0.3))).all()


# The step


def program(recipe: Recipe, graph, task) -> Program:
    return Program(graph, recipe, task.kind, (task.mean, task.std), shared=False)


@pytest.mark.parametrize("fields", [{}, {"optimiser": "adamw", "ema": 0.9}], ids=["sgd", "adamw"])
def test_trainings_of_one_network_share_a_program_whatever_their_length_and_rate(task, fields):
    recipe = dataclasses.replace(ALONE, steps=1, **fields)
    seen = []
    for budget, changes in (
        (1, {}),
        (2, {}),
        (3, {}),
        (1, {"learning_rate": 0.01, "schedule": "linear", "warmup": 0.5}),
    ):
        TrainEvaluator(ONE, task, dataclasses.replace(recipe, **changes), pruned=True)((0,), budget, 0)
        seen.append(train_step._cache_size())
    assert seen == [seen[0]] * 4


@pytest.mark.usefixtures("unchecked")  # an optimiser needs no graph
def test_the_optimiser_clips_then_decays_then_gathers_momentum(task):
    how = program(dataclasses.replace(ALONE, momentum=0.8, weight_decay=0.1, clip=2.0), None, task).optimiser()
    draw = np.random.default_rng(0)
    weights, gathered = draw.standard_normal(5), np.zeros(5)
    state = how.init(jnp.asarray(weights, jnp.float32))
    for scale in (0.1, 10.0, 1.0):
        gradient = scale * draw.standard_normal(5)
        update, state = how.update(jnp.asarray(gradient, jnp.float32), state, jnp.asarray(weights, jnp.float32))
        clipped = gradient * min(1.0, 2.0 / np.linalg.norm(gradient))
        gathered = 0.8 * gathered + clipped + 0.1 * weights
        np.testing.assert_allclose(update, gathered, rtol=1e-5)
        weights = weights - 0.5 * gathered


@pytest.mark.usefixtures("unchecked")  # an optimiser needs no graph
def test_no_clip_is_no_clip(task):
    how = program(dataclasses.replace(ALONE, momentum=0.0, weight_decay=0.0, clip=0.0), None, task).optimiser()
    gradient = jnp.full(4, 1e6)
    np.testing.assert_array_equal(how.update(gradient, how.init(gradient), gradient)[0], gradient)


def test_decay_shrinks_tensors_of_more_than_one_axis_and_no_others(task):
    graph, weights, statistics = split(ONE.build(ENCODING, jr.key(0)))
    data = jnp.asarray(task.train.images), jnp.asarray(task.train.labels)
    after = []
    for decay in (ALONE.weight_decay, 0.5):
        how = program(dataclasses.replace(ALONE, weight_decay=decay), graph, task)
        state = TrainState(jax.tree.map(jnp.array, weights), how.optimiser().init(weights))
        indices, rate = batch_indices(0, 0, len(task.train), 32), np.float32(0.1)
        after.append(train_step(how, state, statistics, data, indices, (), rate, jr.key(0), 0)[0].weights)
    leaves = zip(*map(jax.tree.leaves, (weights, *after)), strict=True)
    axes = set()
    for old, little, much in leaves:
        axes.add(old.ndim)
        expected = np.asarray(little) - 0.1 * (0.5 - ALONE.weight_decay) * np.asarray(old) * (old.ndim > 1)
        np.testing.assert_allclose(much, expected, atol=1e-6)
    assert {1, 2} <= axes


def test_a_diverging_training_says_at_which_step(task):
    network = split(ONE.build(ENCODING, jr.key(0)))
    recipe = dataclasses.replace(ALONE, learning_rate=1e30, clip=0.0)
    with pytest.raises(RunError, match="diverged at step 20: the loss is nan; lower the learning rate"):
        fit(*network, task, recipe, seed=0)


def test_half_precision_trains_weights_of_single_precision(task):
    graph, weights, statistics = split(ONE.build(ENCODING, jr.key(0)))
    losses = []
    recipe = dataclasses.replace(ALONE, precision="bfloat16")
    trained = fit(graph, weights, statistics, task, recipe, seed=0, on_step=lambda step, loss: losses.append(loss))
    assert losses[-1] < losses[0] - 0.2
    assert {leaf.dtype for leaf in jax.tree.leaves(trained)} == {np.dtype(np.float32)}


# Training as an evaluation


@pytest.fixture(scope="module")
def alone(task):
    return TrainEvaluator(ONE, task, ALONE, pruned=True, tests=True)((0,), 0, 0)


def test_training_learns_an_easy_task(alone):
    assert alone.metrics["error"] < 0.1
    assert alone.metrics["test_error"] < 0.1
    assert alone.metrics["params"] == sum(
        array.size for name, array in alone.arrays.items() if name.split(".")[-2] not in ("mean", "var")
    )


def test_the_test_split_is_touched_only_when_asked(task, alone):
    nothing = dataclasses.replace(task.test, images=task.test.images[:0], labels=task.test.labels[:0])
    blind = dataclasses.replace(task, test=nothing)
    found = TrainEvaluator(ONE, blind, ALONE, pruned=True)((0,), 0, 0)
    assert found.arrays == {}
    expected = {name: value for name, value in alone.metrics.items() if name != "test_error"}
    assert found.metrics == expected


def test_training_along_a_path_is_training_alone(task, alone):
    found = TrainEvaluator(ONE, task, ALONE)((0,), 0, 0).metrics
    assert found["error"] == pytest.approx(alone.metrics["error"], abs=0.05)
    assert {name: found[name] for name in ("macs", "params")} == {
        name: alone.metrics[name] for name in ("macs", "params")
    }


# Which paths are trained


def test_uniform_paths_take_every_choice_equally_often(key):
    paths = uniform_paths(PRESETS["tiny"], key, 4000)
    assert paths.shape == (4000, 9)
    for decision in paths.T:
        counts = np.bincount(decision, minlength=4)
        assert (np.abs(counts - 1000) < 5 * np.sqrt(750)).all()
    assert len(np.unique(paths, axis=0)) > 3900
    np.testing.assert_array_equal(paths, uniform_paths(PRESETS["tiny"], key, 4000))


@pytest.mark.parametrize("space", [PRESETS["tiny"], NasBench201(), BinaryWidth()], ids=repr)
def test_fair_paths_train_each_choice_once_in_every_round(space, key):
    steps = 61
    paths = fair_paths(space, key, steps)
    assert paths.shape == (steps, len(space.cardinalities))
    for decision, choices in zip(paths.T, space.cardinalities, strict=True):
        for start in range(0, steps - choices + 1, choices):
            assert sorted(decision[start : start + choices]) == list(range(choices))
    assert len(np.unique(paths, axis=0)) > 50
    np.testing.assert_array_equal(paths, fair_paths(space, key, steps))
    assert (paths != fair_paths(space, jr.key(1), steps)).any()


def macs(space, paths) -> np.ndarray:
    return np.asarray(space.cost(jnp.asarray(paths))["macs"])


def test_cost_binned_paths_spread_over_the_costs(key):
    space, bins = PRESETS["tiny"], 7
    binned = macs(space, cost_binned_paths(space, key, 512, bins=bins))
    uniform = macs(space, uniform_paths(space, jr.key(1), 512))
    edges = np.linspace(uniform.min(), uniform.max(), bins + 1)
    flat, peaked = (np.histogram(costs, edges)[0] for costs in (binned, uniform))
    assert flat.std() < 0.7 * peaked.std()
    assert flat.min() > 2 * peaked.min()
    assert binned.std() > 1.2 * uniform.std()


@pytest.mark.parametrize("share", [0.5, 0.02])
def test_cost_binned_paths_keep_the_limits(key, share):
    space = PRESETS["tiny"]
    costs = space.cost(jnp.asarray(uniform_paths(space, jr.key(1), 4000)))
    limits = tuple((name, float(np.quantile(costs[name], share))) for name in ("macs", "params"))
    paths = cost_binned_paths(space, key, 256, bins=7, limits=limits)
    assert feasible(space, jnp.asarray(paths), limits).all()
    assert len(np.unique(paths, axis=0)) > 20


def test_limits_that_leave_nothing_to_bin_are_refused(key):
    space = PRESETS["tiny"]
    least = float(macs(space, smallest(space, (("macs", 1.0),))[None])[0])
    assert "macs <= " in refusal(cost_binned_paths, space, key, 10, bins=7, limits=(("macs", least),))
