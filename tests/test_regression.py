"""A second kind of task: numbers in place of classes, from the data to the export, in every kind of search."""

import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

import nas
from nas.commands import cli
from nas.commands import search as launch
from nas.errors import UsageError
from nas.store.sql import Store
from nas.tasks import kinds, load
from nas.tasks.base import split
from nas.tasks.kinds.regression import Regression


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with an archive of images of bars, and of the place of each in millimetres."""
    monkeypatch.chdir(tmp_path)
    draw = np.random.default_rng(0)
    images, places = draw.integers(0, 60, (240, 8, 8, 1), dtype=np.uint8), draw.integers(0, 8, 240)
    for image, place in zip(images, places, strict=True):
        image[:, place] += 180
    np.savez(tmp_path / "bars.npz", images=images, labels=100.0 + 5.0 * places)
    return tmp_path


def told(capsys, *words: str) -> str:
    assert cli.main(words) == 0
    return capsys.readouterr().out


SMALL = ["--task", "npz:bars.npz", "--workers", "0", "--name", "it", "--final.steps", "150", "--final.batch-size", "16"]
TINY = ["--space.blocks", "(1,1)", "--space.widths", "(8,16)", "--space.strides", "(1,2)", "--space.stem-width", "8"]
TINY += ["--space.last-width", "16", "--training.steps", "30", "--training.batch-size", "16", "--trials", "4"]
TINY += ["--strategy", "random", "--space", "shufflenet:tiny"]


def test_numbers_are_searched_shown_exported_and_predicted_as_classes_are(here, capsys):
    assert launch.main([*SMALL, *TINY]) == 0
    said = capsys.readouterr()
    assert "by rmse (least is best)" in said.out
    assert "`test_rmse` is measured once" in said.out
    assert "best rmse " in said.err
    assert "error" not in said.out
    (run,) = json.loads(told(capsys, "runs", "--format", "json"))
    rows = json.loads(told(capsys, "top", "it", "--format", "json"))
    assert (run["objective"], run["best"]) == ("rmse", rows[0]["rmse"])
    assert [row["rmse"] for row in rows] == sorted(row["rmse"] for row in rows)
    assert cli.main(["top", "it", "--by", "error"]) == 2
    assert "by='error' was measured in no trial of this run, which was searched by rmse" in capsys.readouterr().err
    front = json.loads(told(capsys, "pareto", "it", "--format", "json"))
    assert {row["architecture"] for row in front} <= {row["architecture"] for row in rows}
    assert json.loads(told(capsys, "hypervolume", "it", "--format", "json"))[0]["objectives"] == "rmse,macs"
    trained = next(row for row in rows if row.get("test_rmse") is not None)
    assert trained["test_rmse"] < 11.4  # the deviation of the labels: a network that has learned nothing
    assert launch.main(["--resume", "it"]) == 0

    told(capsys, "export", trained["architecture"], "--out", "model")
    model, test = nas.load("model"), load("npz:bars.npz").test
    answers = model.predict(test.images)
    assert answers.shape == (len(test), 1)
    rmse = np.sqrt(np.mean((answers[:, 0] - test.labels) ** 2))
    assert rmse == pytest.approx(trained["test_rmse"], rel=1e-4)
    assert model.classes == ()
    with pytest.raises(UsageError, match="gives numbers and knows no classes"):
        model.classify(test.images)
    told(capsys, "retrain", trained["architecture"], "--epochs", "1", "--name", "again")
    with Store("sqlite:///nas.db") as store:
        (final,) = store.trials(store.run("again").id, "final")
    assert {"standalone_rmse", "test_rmse"} <= final.measurements.keys()
    assert json.loads(told(capsys, "top", "again", "--format", "json"))[0]["standalone_rmse"] is not None


@pytest.mark.slow
def test_numbers_are_searched_by_gradients_in_cells(here, capsys):
    words = [*SMALL, "--space", "darts:tiny", "--strategy", "gumbel-darts", "--epochs", "2", "--max-images", "120"]
    assert launch.main([*words, "--space.width", "4", "--finalists", "0"]) == 0
    assert "rmse" in capsys.readouterr().out
    rows = json.loads(told(capsys, "top", "it", "--format", "json"))
    assert all(0 < row["rmse"] < 1000 for row in rows)
    assert launch.main([*words, "--name", "x", "--objectives", "error"]) == 2
    assert "objectives='error' is not one of" in capsys.readouterr().err


def test_networks_are_scored_untrained_for_numbers_too(here):
    assert launch.main([*SMALL, *TINY, "--evaluator", "zero-cost", "--finalists", "0"]) == 0
    with Store("sqlite:///nas.db") as store:
        trials = store.trials(store.run("it").id)
    assert all(np.isfinite(trial.measurements["minus_naswot"]) for trial in trials)


# The kind itself


def test_no_other_file_names_it():
    """Whoever adds a kind adds a file."""
    folder = Path(kinds.__file__).parents[3]
    ours = [path for part in ("nas", "spaces", "strategies") for path in (folder / part).rglob("*.py")]
    naming = [path.name for path in ours if "rmse" in path.read_text() or "Regression(" in path.read_text()]
    assert naming == ["regression.py"]


def test_it_learns_in_units_of_the_deviation_and_answers_in_those_of_the_labels():
    labels = np.array([10.0, 20.0, 30.0], np.float32)
    kind = kinds.kind_of("x", labels, 1)
    assert isinstance(kind, Regression)
    targets = kind.targets(jnp.asarray(labels), 0.1)
    np.testing.assert_allclose(targets.mean(), 0, atol=1e-6)
    np.testing.assert_allclose(targets.std(), 1, rtol=1e-6)
    np.testing.assert_allclose(kind.answers(np.asarray(targets))[:, 0], labels, rtol=1e-6)
    outputs = jnp.asarray([[0.0], [0.0], [0.0]])
    np.testing.assert_allclose(kind.misses(outputs, jnp.asarray(labels)), [100, 0, 100], rtol=1e-5)
    assert kind.value(200 / 3) == pytest.approx(np.sqrt(200 / 3))
    assert kinds.from_data(kinds.described(kind)) == kind


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ([1.5] * 20, "must be finite numbers that are not all the same"),
        ([1.5, float("nan")] * 10, "must be finite numbers"),
        ([1e200, 2e200] * 10, "must be finite numbers that are not all the same, in float32"),
        ([1e10 + 1e-5, 1e10] * 10, "must be finite numbers that are not all the same, in float32"),
        ([-3e38, 3e38] * 10, "labels: their deviation 3e+38 must lie in 1e-15..1e+15: choose another unit"),
        ([1e-42, 3e-42] * 10, "e-43 must lie in 1e-15..1e+15: choose another unit"),
        ([1.5, 2.5], "has 2 training images, 10 are needed"),
        (["a", "b"] * 10, "allowed: integers [n] or floats [n, objects, 7] or floats [n]"),
    ],
)
def test_labels_that_cannot_be_learned_are_one_line(labels, said):
    images = np.zeros((len(labels), 8, 8, 1), np.uint8)
    with pytest.raises(UsageError) as caught:
        split("own", images, np.array(labels), 1)
    assert said in str(caught.value)


@pytest.mark.parametrize("unit", [1e-14, 1e14])
def test_labels_in_any_unit_within_float32_are_learned_alike(unit):
    labels = np.linspace(-1, 1, 20) * unit
    kind = kinds.kind_of("x", labels, 1)
    targets = kind.targets(jnp.asarray(labels, jnp.float32), 0.0)
    np.testing.assert_allclose(targets.std(), 1, rtol=1e-5)
    misses = kind.misses(jnp.zeros((20, 1)), jnp.asarray(labels, jnp.float32))
    assert kind.value(float(misses.mean())) == pytest.approx(kind.scale, rel=1e-5)


def test_parts_have_small_and_large_numbers_alike():
    draw = np.random.default_rng(0)
    task = split("own", draw.integers(0, 9, (500, 4, 4, 1), dtype=np.uint8), draw.exponential(3.0, 500), 1)
    for part in (task.train, task.valid, task.test):
        assert part.labels.dtype == np.float32
        assert abs(np.median(part.labels) - 3 * np.log(2)) < 0.35
    with pytest.raises(UsageError, match="must be none: the labels are numbers"):
        split("own", np.zeros((20, 8, 8, 1), np.uint8), np.arange(20) / 2, 1, classes=("a",))


NO_KINDS = [None, {}, {"name": "x"}, {"name": "regression", "mean": 0.0}, {"name": "classification"}]
NO_KINDS += [{"name": "regression", "mean": mean, "scale": scale} for mean, scale in (("0", 1.0), (0.0, 0.0))]


@pytest.mark.parametrize("data", NO_KINDS)
def test_what_describes_no_kind_is_refused(data):
    with pytest.raises((UsageError, ValueError)):
        kinds.from_data(data)
