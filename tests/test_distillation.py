"""Distillation: the loss is the formula, the teacher stays as it is, and a run keeps to the teacher it began with."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from conftest import refusal

from nas.commands import cli
from nas.commands import search as launch
from nas.saved import checkpoint
from nas.saved.networks import DESCRIPTION, WEIGHTS
from nas.saved.predictors import described
from nas.store.sql import Store
from nas.tasks.base import Task
from nas.tasks.kinds.classification import Classification
from nas.tasks.kinds.regression import Regression
from nas.training.distillation import Lesson, Teacher, mixed, rescaled
from nas.training.net import flatten, forward, split
from nas.training.recipe import Recipe, misplaced
from nas.training.sgd import Program, fit, loss_of, train_step
from spaces.shufflenet import ShuffleNet

# The least there is: one block, from 2 pixels to 1.
ONE = ShuffleNet((1,), (8,), (2,), 4, 4, 8, image_size=8, image_channels=1, num_classes=3, dropout=0.0)
RECIPE = Recipe(steps=24, batch_size=16, learning_rate=0.05, crop=1, mixup=0.2, checkpoint_seconds=0.0, teacher="x")


def softmax(logits):
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


def formula(student, teacher, targets, weight, temperature):
    """The loss of Hinton et al. and its gradient by the student's logits, in float64."""
    n = len(student)
    hard = -(targets * np.log(softmax(student))).sum(1).mean()
    soft, taught = softmax(student / temperature), softmax(teacher / temperature)
    apart = temperature**2 * (taught * (np.log(taught) - np.log(soft))).sum(1).mean()
    gradient = (1 - weight) * (softmax(student) - targets) / n + weight * temperature * (soft - taught) / n
    return (1 - weight) * hard + weight * apart, gradient


@pytest.mark.parametrize(("weight", "temperature"), [(0.5, 4.0), (0.9, 1.0), (0.0, 2.0), (1.0, 20.0)])
@pytest.mark.usefixtures("unchecked")  # a loss needs no graph
def test_loss_and_gradient_are_the_formula(weight, temperature):
    draw, kind = np.random.default_rng(0), Classification(5)
    student, teacher = 3 * draw.standard_normal((2, 7, 5))
    targets = softmax(draw.standard_normal((7, 5)))
    lesson = Lesson(None, ((0.0,), (1.0,)), weight, temperature)  # pyright: ignore[reportArgumentType]

    def loss(logits):
        imitated = kind.imitated(logits, jnp.asarray(teacher, jnp.float32), temperature)
        return mixed(lesson, kind.loss(logits, jnp.asarray(targets, jnp.float32)), imitated)

    value, gradient = jax.value_and_grad(loss)(jnp.asarray(student, jnp.float32))
    expected, slope = formula(student, teacher, targets, weight, temperature)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    np.testing.assert_allclose(gradient, slope, atol=1e-6)


def test_of_numbers_it_is_the_squared_error():
    kind = Regression(10.0, 2.0)
    outputs, taught = jnp.asarray([[1.0], [2.0]]), jnp.asarray([[1.5], [0.0]])
    np.testing.assert_allclose(kind.imitated(outputs, taught, 4.0), (0.25 + 4) / 2)


def test_a_teacher_sees_images_as_it_was_trained_on_them():
    grey = np.random.default_rng(0).random((2, 3, 3, 2))
    own, others = ((0.2, 0.5), (0.3, 0.25)), ((0.4, 0.1), (0.6, 0.5))

    def scaled(scaling):
        return jnp.asarray((grey - np.array(scaling[0])) / np.array(scaling[1]), jnp.float32)

    np.testing.assert_allclose(rescaled(scaled(own), own, others), scaled(others), atol=1e-6)
    given = scaled(own)
    assert rescaled(given, own, own) is given


@pytest.fixture(scope="module")
def teacher(task):
    return taught(0, task)


def taught(seed: int, task: Task) -> Teacher:
    """A network that gives something, and whose images were scaled otherwise than those of the task."""
    space = dataclasses.replace(ONE, widths=(12,))
    draw = np.random.default_rng(seed)
    _, *parts = split(space.build(np.array([1], np.int32), jr.key(1)))
    arrays = {
        name: np.abs(draw.standard_normal(array.shape)).astype(np.float32) if "var" in name else array
        for part in parts
        for name, array in flatten(part).items()
    }
    arrays |= {name: np.zeros_like(array) for name, array in arrays.items() if "mean" in name}
    return Teacher(space, (1,), task.kind, ((0.3,), (0.5,)), arrays, f"digest {seed}")


def test_a_step_learns_from_the_augmented_images_what_the_teacher_says_of_them(task, teacher):
    """Without random augmentation the whole loss is computed anew, by NumPy, from the logits of both."""
    recipe = dataclasses.replace(RECIPE, crop=0, mixup=0.0, label_smoothing=0.0, teacher_weight=0.3, temperature=3.0)
    graph, weights, statistics = split(ONE.build(np.array([0], np.int32), jr.key(0)))
    lesson = teacher.lesson(recipe.teacher_weight, recipe.temperature)
    program = Program(graph, recipe, task.kind, (task.mean, task.std), shared=False, lesson=lesson)
    data, indices = (jnp.asarray(task.train.images), jnp.asarray(task.train.labels)), np.arange(16)
    loss = loss_of(program, statistics, data, indices, jr.key(0), 0, 0.0, teacher.held)
    value = jax.jit(loss)(weights, ())
    grey = np.asarray(task.train.images[:16]) / 255

    def logits(graph, weights, statistics, scaling, train):
        images = jnp.asarray((grey - np.array(scaling[0])) / np.array(scaling[1]), jnp.float32)
        return np.asarray(forward(graph, weights, statistics, images, (), train=train)[0], np.float64)

    ours = logits(graph, weights, statistics, (task.mean, task.std), True)
    theirs = logits(lesson.graph, *teacher.held, teacher.scaling, False)
    assert np.ptp(theirs) > 1e-3
    targets = np.eye(3)[task.train.labels[:16]]
    np.testing.assert_allclose(value, formula(ours, theirs, targets, 0.3, 3.0)[0], rtol=1e-5)


@pytest.mark.slow
def test_a_killed_training_with_a_teacher_ends_as_the_uninterrupted_one(task, teacher, tmp_path):
    network = split(ONE.build(np.array([0], np.int32), jr.key(0)))
    Stop = type("Stop", (Exception,), {})

    def stop(step, loss):
        if step > 1:
            raise Stop

    expected = flatten(fit(*network, task, RECIPE, seed=0, teacher=teacher))
    programs = train_step._cache_size()
    saved = tmp_path / "x.safetensors"
    with pytest.raises(Stop):
        fit(*network, task, RECIPE, seed=0, teacher=teacher, saved=saved, on_step=stop)
    assert saved.exists()
    said = refusal(fit, *network, task, RECIPE, seed=0, teacher=taught(1, task), saved=saved)
    assert "is of another training: its teacher is 'digest 0', not 'digest 1'" in said
    found = flatten(fit(*network, task, RECIPE, seed=0, teacher=teacher, saved=saved))
    assert {name: array.tobytes() for name, array in found.items()} == {
        name: array.tobytes() for name, array in expected.items()
    }
    fit(*network, task, RECIPE, seed=0, teacher=dataclasses.replace(teacher, digest="another"))
    assert train_step._cache_size() == programs  # teachers of one form share it
    alone = flatten(fit(*network, task, dataclasses.replace(RECIPE, teacher=None), seed=0))
    assert any(alone[name].tobytes() != array.tobytes() for name, array in expected.items())


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"teacher_weight": 1.5}, "teacher_weight=1.5 must lie in 0..1"),
        ({"temperature": 0.0}, "temperature=0.0 must be above 0, and finite"),
        ({"teacher": ""}, "teacher='' must be the id of an architecture"),
    ],
)
def test_recipes_that_are_none_are_refused(fields, said):
    with pytest.raises(ValueError, match=said):
        Recipe(**fields)


def test_shared_weights_have_no_teacher():
    assert misplaced(Recipe(teacher="ab")) == "teacher='ab' must not be set: it is for final"
    assert misplaced(Recipe(drop_path=0.2)) == "drop_path=0.2 must be 0: it is for final"
    assert misplaced(Recipe()) is None


# From the command line

SIZE = ["--space", "shufflenet:tiny", "--space.blocks", "(1,1)", "--space.widths", "(8,16)", "--space.strides", "(1,2)"]
SIZE += ["--space.stem-width", "8", "--space.last-width", "16", "--max-images", "200", "--workers", "0"]
SIZE += ["--baselines", "0", "--final.checkpoint-seconds", "0", "--epochs", "2", "--final.batch-size", "16"]


def trained(*words: str) -> None:
    assert launch.main([*SIZE, *words]) == 0


def refused(capsys, *words: str) -> str:
    assert launch.main([*SIZE, *words]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()[-1:]
    return line


def final(run: str):
    with Store("sqlite:///nas.db") as store:
        return store.trials(store.run(run).id, "final")[0], store.run(run)


@pytest.mark.slow
def test_a_network_of_the_store_or_of_a_folder_teaches_and_a_run_keeps_to_it(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    trained("--architecture", "(0,0)", "--name", "first")
    known = final("first")[0].architecture
    assert cli.main(["export", known, "--out", "best"]) == 0
    trained("--architecture", "(1,1)", "--name", "by-id", "--final.teacher", known[:5])
    trained("--architecture", "(1,1)", "--name", "by-folder", "--final.teacher", "best")
    trained("--architecture", "(1,1)", "--name", "alone")
    by_id, run = final("by-id")
    by_folder, other = final("by-folder")
    assert by_id.measurements == by_folder.measurements
    assert run.given["final"]["teacher"] == known
    assert other.given["final"]["teacher"] == str(tmp_path / "best")
    with Store("sqlite:///nas.db") as store:
        first, *others = (store.artifacts(store.run(n).id, kind="weights")[0] for n in ("first", "by-id", "alone"))
    assert run.config["teacher"] == other.config["teacher"] == first.sha256
    assert others[0].sha256 != others[1].sha256
    assert cli.main(["retrain", known, "--workers", "0", "--epochs", "1", "--final.teacher", "best"]) == 0
    # Trained again meanwhile, the architecture has newer weights; the run goes on with those it began with.
    capsys.readouterr()
    assert launch.main(["--resume", "by-id"]) == 0
    with Store("sqlite:///nas.db") as store:
        store.delete(store.run("first"))
    assert launch.main(["--resume", "by-id"]) == 2
    assert "its weights are others than when the run began" in capsys.readouterr().err


def test_teachers_that_are_not_fit_are_refused_in_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    space = dataclasses.replace(ONE, num_classes=10)
    _, *parts = split(space.build(np.array([0], np.int32), jr.key(0)))
    note = {"format": 1, "space": described("shufflenet", space), "encoding": [0], "mean": [0.5], "std": [0.25]}
    checkpoint.write(tmp_path / "best" / WEIGHTS, {**flatten(parts[0]), **flatten(parts[1])}, note)
    (tmp_path / "best" / DESCRIPTION).write_text(json.dumps(note))
    asked = ["--architecture", "(1,1)", "--final.teacher"]
    assert "final.teacher='zz': " in refused(capsys, *asked, "zz")
    assert "cannot be read" in refused(capsys, *asked, "no/where")
    said = refused(capsys, *asked, "best", "--image-size", "16")
    assert said.endswith("its image_size=8 must be 16, as of the task")
    np.savez("few.npz", images=np.zeros((90, 8, 8, 1), np.uint8), labels=np.arange(90) % 3)
    said = refused(capsys, *asked, "best", "--task", "npz:few.npz")
    assert said.endswith("trained for classification, num_classes=10, and the task is classification, num_classes=3")
    np.savez("ten.npz", images=np.zeros((90, 8, 8, 1), np.uint8), labels=np.arange(90) % 10, classes=list("abcdefghij"))
    assert "its classes 0, 1, 2, 3, ... must be those of the task, a, b, c, d, ..." in refused(
        capsys, *asked, "best", "--task", "npz:ten.npz"
    )
    assert "training.teacher='best' must not be set" in refused(capsys, "--training.teacher", "best")
    (tmp_path / "best" / DESCRIPTION).write_text(json.dumps({**note, "mean": [0.1]}))
    assert "are weights of another network" in refused(capsys, *asked, "best")
