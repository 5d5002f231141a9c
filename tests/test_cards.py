"""What a search leads to: folders with cards, of weights of its own or shared ones, and how good a network is."""

import csv
import io
import json
import os
import re
import subprocess
import sys
import types
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import confusion_matrix, f1_score, precision_score, recall_score

import nas
from nas import config
from nas.commands import cli, evaluate
from nas.commands import search as launch
from nas.config.yaml_files import as_yaml, read_yaml
from nas.errors import UsageError
from nas.saved import card
from nas.store.sql import Store
from nas.tasks.base import Split
from nas.tasks.detection import CLASS, COLUMNS, SIDE
from nas.tasks.kinds.detection import Detection
from nas.tasks.kinds.regression import Regression
from nas.tasks.pixels import decode, fit

NAMES = ["left <b>", "![x](http://a.b)", "`rm`|", "right"]
TINY = ["--space", "shufflenet:tiny", "--space.blocks", "(1,1)", "--space.widths", "(8,16)", "--space.strides", "(1,2)"]
TINY += ["--space.stem-width", "8", "--space.last-width", "16", "--strategy", "random", "--trials", "6"]
TINY += ["--training.steps", "40", "--training.batch-size", "16", "--final.steps", "120", "--final.batch-size", "16"]


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """A folder with a finished search on images of bars, whose classes are their places."""
    folder = tmp_path_factory.mktemp("cards")
    draw = np.random.default_rng(0)
    images, labels = draw.integers(0, 90, (240, 8, 8, 1), dtype=np.uint8), np.arange(240) % 4
    for image, label in zip(images, labels, strict=True):
        image[:, 2 * label : 2 * label + 2] += 100
    np.savez(folder / "bars.npz", images=images, labels=labels, classes=np.array(NAMES))
    order = [2, 0, 3, 1]  # the same classes, numbered otherwise
    other = {"images": images, "labels": np.argsort(order)[labels], "classes": np.array(NAMES)[order]}
    np.savez(folder / "other.npz", **other)
    np.savez(folder / "unknown.npz", images=images, labels=labels, classes=np.array([*NAMES[:3], "top"]))
    np.savez(folder / "fewer.npz", images=images, labels=labels % 3, classes=np.array(NAMES[:3]))
    np.savez(folder / "colour.npz", images=np.repeat(images, 3, 3), labels=labels, classes=np.array(NAMES))
    np.savez(folder / "numbers.npz", images=images, labels=labels + 0.5)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert launch.main(["--task", "npz:bars.npz", "--workers", "0", "--name", "it", *TINY]) == 0
    return folder


@pytest.fixture
def inside(here, monkeypatch):
    monkeypatch.chdir(here)
    return here


def told(capsys, *words: str) -> str:
    capsys.readouterr()
    assert cli.main(list(words)) == 0
    return capsys.readouterr().out


def refused(capsys, *words: str) -> str:
    capsys.readouterr()
    assert cli.main(list(words)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def rows(capsys) -> list[dict]:
    return json.loads(told(capsys, "top", "it", "--format", "json"))


def trained(capsys) -> dict:
    return next(row for row in rows(capsys) if row.get("test_error") is not None)


# Cards


def test_the_card_says_what_a_network_is_and_how_it_was_made(inside, capsys):
    row = trained(capsys)
    told(capsys, "export", row["architecture"], "--out", "best", "--replace")
    text = (inside / "best" / card.NAME).read_text()
    for title in ("Architecture", "Data", "Metrics", "Costs", "Where it comes from", "Use"):
        assert f"\n## {title}\n" in text
    assert f"- id: {row['architecture']}" in text
    assert "| test\\_error |" in text
    assert "| standalone\\_error |" in text
    assert "on validation images, after training from scratch" in text
    assert "- images: 144 train, 48 valid, 48 test" in text
    assert "the licence of the data is not known" in text
    assert "nas predict ./ photo.jpg" in text
    assert "not trained alone" not in text
    assert "![The architecture](architecture.svg)" in text or not (inside / "best" / "architecture.svg").exists()
    description = json.loads((inside / "best" / "architecture.json").read_text())
    assert description["input"] == {"size": 8, "channels": 1, "type": "uint8", "layout": "NHWC"}
    assert (description["classes"], description["file"]) == (NAMES, "weights.safetensors")


@pytest.mark.parametrize(("differing", "says"), [(0, False), (3, True)])
def test_the_card_of_a_program_says_for_how_many_images_its_signs_fall_otherwise(inside, capsys, differing, says):
    told(capsys, "export", trained(capsys)["architecture"], "--out", "best", "--replace")
    description = json.loads((inside / "best" / "architecture.json").read_text())
    description |= {"file": "model.onnx", "batch": None, "trial": {"images": 16, "differing": differing}}
    with Store() as store:
        text = card.files(store, store.run("it"), description, None)[card.NAME]
    assert ("For 3 of 16 images on which the file was tried" in text) == says


def test_texts_of_the_store_are_no_markup_in_a_card(inside, capsys):
    told(capsys, "export", trained(capsys)["architecture"], "--out", "marked")
    text = (inside / "marked" / card.NAME).read_text()
    assert "left &lt;b&gt;" in text
    assert r"\!\[x\](http\://a.b)" in text
    assert r"\`rm\`\|" in text
    assert card.text("a\n# b\u2028c") == r"a \# b c"
    assert "http" not in re.sub(r"http\\:", "", text)


def test_the_configuration_beside_a_card_is_that_of_the_run(inside, capsys):
    told(capsys, "export", trained(capsys)["architecture"], "--out", "again")
    with Store() as store:
        given = store.run("it").given
    data = read_yaml(str(inside / "again" / card.CONFIG))
    assert data.pop("name") is None
    del given["name"]
    assert data == given
    assert config.build(data) == config.build(given)
    odd = {"a": "010", "b": "yes", "c": 1e-7, "d": float("inf"), "e": "1e3", "f": [1, 2], "g": "x: # y\n", "h": None}
    (inside / "odd.yaml").write_text(as_yaml(odd))
    assert read_yaml(str(inside / "odd.yaml")) == odd


def test_what_is_there_is_replaced_only_when_asked(inside, capsys):
    known = trained(capsys)["architecture"]
    told(capsys, "export", known, "--out", "once")
    assert "holds a network already" in refused(capsys, "export", known, "--out", "once")
    (inside / "once" / f".{os.getpid()}.unfinished").mkdir()  # of one that was killed, and had this number
    told(capsys, "export", known, "--out", "once", "--replace")
    (inside / "notes").mkdir()
    (inside / "notes" / card.NAME).write_text("mine")
    for more in ([], ["--replace"]):
        assert "holds README.md, of no network" in refused(capsys, "export", known, "--out", "notes", *more)
    assert (inside / "notes" / card.NAME).read_text() == "mine"
    assert "format='tflite' is not one of" in refused(capsys, "export", known, "--out", "x", "--format", "tflite")
    words = ["export", known, "--out", "x", "--format", "onnx", "--packed"]
    assert "packed=True is for --format jax" in refused(capsys, *words)


# Shared weights


def test_shared_weights_give_the_error_of_the_search(inside, capsys):
    row = next(row for row in rows(capsys) if row.get("test_error") is None and row.get("error") is not None)
    assert "has not been trained by itself" in refused(capsys, "export", row["architecture"], "--out", "shared")
    assert "shared weights" in told(capsys, "export", row["architecture"], "--shared", "--out", "shared", "--replace")
    words = ["evaluate", "shared/", "--task", "npz:bars.npz", "--split", "valid", "--format", "json"]
    (found,) = json.loads(told(capsys, *words))
    assert found["error"] == pytest.approx(row["error"], abs=1 / 48 + 1e-9)  # a sum that is rounded otherwise
    description = json.loads((inside / "shared" / "architecture.json").read_text())
    assert description["trained_alone"] is False
    assert description["metrics"]["error"] == pytest.approx(found["error"])
    text = (inside / "shared" / card.NAME).read_text()
    assert "**It was not trained alone.**" in text
    assert "test\\_error" not in text


def test_a_run_without_shared_weights_says_so(inside, capsys):
    known = trained(capsys)["architecture"]
    with Store() as store:
        run = store.add_run(
            name=None,
            space="shufflenet",
            config={"given": {"evaluator": {"name": "train"}}},
            strategy="random",
            task="digits",
            code_version="0",
            seed=0,
        )
        assert "has trained nothing by itself yet" in refused(capsys, "export", "--run", run.name, "--out", "none")
        assert "is none of run=" in refused(capsys, "export", known, "--shared", "--run", run.name, "--out", "none")
        trial = store.trials(store.run("it").id)[0]
        store.delete(run)
    assert trial.architecture


def test_without_a_name_it_is_what_the_run_found(inside, capsys):
    told(capsys, "export", "--run", "it", "--out", "found", "--replace")
    with Store() as store:
        first = store.trials(store.run("it").id, "final")[0]
    assert json.loads((inside / "found" / "architecture.json").read_text())["architecture"] == first.architecture


# How good a network is


@pytest.fixture
def best(inside, capsys):
    row = trained(capsys)
    told(capsys, "export", row["architecture"], "--out", "good", "--replace")
    return row


@pytest.mark.parametrize("file", ["bars", "other"])
def test_a_network_is_as_good_as_its_run_says(best, capsys, file):
    (found,) = json.loads(told(capsys, "evaluate", "good/", "--task", f"npz:{file}.npz", "--format", "json"))
    assert (found["split"], found["images"]) == ("test", 48)
    assert found["error"] == pytest.approx(best["test_error"], abs=1e-6) or file == "other"
    assert [row["class"] for row in found["classes"]] == NAMES
    assert np.sum(found["confusion"]) == 48
    assert [row["count"] for row in found["classes"]] == np.sum(found["confusion"], 1).tolist()
    assert found["accuracy"] == pytest.approx(np.trace(found["confusion"]) / 48)


def test_shares_of_each_class_are_those_of_scikit_learn(best, capsys):
    from nas.tasks import load

    (found,) = json.loads(told(capsys, "evaluate", "good/", "--task", "npz:bars.npz", "--format", "json"))
    data = load("npz:bars.npz").test
    labels = nas.load("good/").predict(data.images).argmax(1)
    assert found["confusion"] == confusion_matrix(data.labels, labels, labels=range(4)).tolist()
    for name, score in (("precision", precision_score), ("recall", recall_score), ("f1", f1_score)):
        expected = score(data.labels, labels, average=None, labels=range(4), zero_division=0)
        np.testing.assert_allclose([row[name] for row in found["classes"]], expected)
    table = list(
        csv.DictReader(io.StringIO(told(capsys, "evaluate", "good/", "--task", "npz:bars.npz", "--format", "csv")))
    )
    assert [row["class"] for row in table] == NAMES
    assert list(table[0]) == ["class", "precision", "recall", "f1", "count"]


def test_a_confusion_is_drawn(best, inside, capsys):
    said = told(capsys, "evaluate", "good/", "--task", "npz:bars.npz", "--split", "train", "--out", "confusion.png")
    assert "accuracy" in said
    assert "precision" in said
    assert (inside / "confusion.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["npz:unknown.npz"], "has the class 'top', which the network does not know"),
        (["npz:fewer.npz"], "has no class 'right', which the network knows"),
        (["npz:colour.npz"], "has images of 3 channels, and the network takes 1"),
        (["npz:numbers.npz"], "is regression, and the network was trained for classification"),
        (["npz:bars.npz", "--split", "all"], "split='all' is not one of"),
        (["npz:bars.npz", "--out", "x.txt"], "must end in one of"),
        (["table:x.npz"], "is a table, which has no images"),
        (["npz:absent.npz"], "cannot be read"),
    ],
)
def test_what_cannot_be_judged_is_refused_in_one_line(best, capsys, words, said):
    assert said in refused(capsys, "evaluate", "good/", "--task", *words)


def test_objects_are_judged_by_the_names_of_their_classes():
    labels = np.zeros((2, 1, COLUMNS), np.float32)
    labels[:, 0, :4], labels[..., CLASS], labels[..., SIDE] = (0.1, 0.1, 0.6, 0.5), [[0], [1]], 100
    found = np.full((2, 3, 6), -1, np.float32)
    found[:, 0, :4], found[:, 0, 4], found[:, 0, 5] = labels[:, 0, :4], 0.9, [1, 0]  # numbered otherwise
    network: Any = types.SimpleNamespace(kind=Detection(2), predict=lambda images: found)
    data = Split(np.zeros((2, 8, 8, 3), np.uint8), labels)
    assert evaluate.quality(network, data, np.array([1, 0])).whole["ap"] == pytest.approx(1)
    assert evaluate.quality(network, data, np.array([0, 1])).whole["ap"] == 0


def test_numbers_are_judged_in_the_unit_of_the_labels():
    network: Any = types.SimpleNamespace(
        kind=Regression(0, 1), classes=(), predict=lambda images: np.array([[1], [2], [5]], np.float32)
    )
    data = Split(np.zeros((3, 8, 8, 3), np.uint8), np.array([1, 2, 3], np.float32))
    found = evaluate.quality(network, data, np.array([]))
    assert found.whole == {"rmse": pytest.approx((4 / 3) ** 0.5), "mae": pytest.approx(2 / 3), "r2": pytest.approx(-1)}


# Without this library


@pytest.mark.slow
@pytest.mark.parametrize("form", ["stablehlo", "onnx"])
def test_the_lines_in_a_card_run_without_this_library(best, inside, capsys, form):
    if form == "onnx":
        pytest.importorskip("jax2onnx")
    assert cli.main(["export", best["architecture"], "--out", form, "--format", form, "--replace"]) == 0
    assert f"Converting to {form}: 1 of 1" in capsys.readouterr().err
    assert json.loads((inside / form / "architecture.json").read_text())["trial"] == {"images": 16, "differing": 0}
    text = (inside / form / card.NAME).read_text()
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    images = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 1), dtype=np.uint8)
    np.save(inside / form / "images.npy", images)
    code = re.sub(r"images = .*", 'images = np.load("images.npy")', code)
    code += '\nimport sys\nassert not any(name.split(".")[0] in ("nas", "spaces", "flax") for name in sys.modules)\n'
    code += 'np.save("answers.npy", np.asarray(answers))\n'
    done = subprocess.run([sys.executable, "-c", code], cwd=inside / form, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    expected = nas.load("good/").predict(images)
    np.testing.assert_allclose(np.load(inside / form / "answers.npy"), expected, rtol=1e-4, atol=1e-4)
    with pytest.raises(UsageError, match="for other programs"):
        nas.load(form)


@pytest.mark.parametrize("resize", ["crop", "pad", "stretch"])
@pytest.mark.parametrize("size", [(90, 61), (33, 80)])
def test_the_code_of_a_card_prepares_a_photo_as_training_did(tmp_path, monkeypatch, resize, size):
    monkeypatch.chdir(tmp_path)
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6  # held sideways
    Image.fromarray(pixels).save("photo.jpg", exif=exif)
    found: dict = {"np": np}
    exec(card._images("classification", {"input": {"size": 32, "channels": 3}, "resize": resize}), found)
    photo = decode("photo.jpg", (tmp_path / "photo.jpg").read_bytes())
    np.testing.assert_array_equal(found["images"], np.asarray(fit(photo, 32, resize))[None])


@pytest.mark.parametrize("given", [{"channels": 1}, {"channels": 3, "batch": 4}])
def test_where_a_photo_takes_more_than_a_few_lines_the_code_has_black_images(given):
    batch = given.pop("batch", None)
    found: dict = {"np": np}
    exec(card._images("classification", {"input": {"size": 8, **given}, "batch": batch}), found)
    assert found["images"].shape == (batch or 1, 8, 8, given["channels"])
