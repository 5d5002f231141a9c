"""Exported networks: they answer what they were trained on, refuse all else, and come from files nobody trusts."""

import dataclasses
import functools
import json
import os
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import MINI
from PIL import Image

import nas
from nas.commands import evaluate
from nas.errors import UsageError
from nas.job import run as job
from nas.report.progress import Silent
from nas.saved import checkpoint, descriptions, exports, networks
from nas.saved.networks import BATCH, DESCRIPTION, WEIGHTS
from nas.saved.predictors import described
from nas.store.sql import Store
from nas.tasks.augment import normalise
from nas.tasks.pixels import fit
from nas.training.net import flatten, forward, split
from spaces.nasbench201 import NasBench201

ENCODING = [1, 0, 2, 3]


@pytest.fixture(scope="module")
def network():
    """A network with statistics as of a training: it is made with NaN."""
    graph, weights, statistics = split(MINI.build(np.array(ENCODING, np.int32), jax.random.key(0)))
    return graph, weights, jax.tree.map(lambda array: jnp.full(array.shape, 0.5, array.dtype), statistics)


@pytest.fixture
def write(tmp_path, network):
    """Writes an export, with fields of its description changed, and gives its folder."""

    def write(without: str | None = None, **changes):
        description = {"format": 1, "space": described("shufflenet", MINI), "encoding": ENCODING}
        description |= {"mean": [0.5], "std": [0.25]}
        description = {name: value for name, value in (description | changes).items() if name != without}
        checkpoint.write(tmp_path / WEIGHTS, {**flatten(network[1]), **flatten(network[2])}, description)
        (tmp_path / DESCRIPTION).write_text(json.dumps(description))
        return tmp_path

    return write


def pictures(n: int) -> np.ndarray:
    return np.random.default_rng(n).integers(0, 256, (n, 8, 8, 1), dtype=np.uint8)


def refusal(call: Callable, *arguments) -> str:
    with pytest.raises(UsageError) as caught:
        call(*arguments)
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


# Answers


@pytest.mark.parametrize("n", [1, BATCH + 3])
def test_answers_are_those_of_the_network_at_all_images_at_once(write, network, n):
    graph, weights, statistics = network
    images = pictures(n)
    scaled = normalise(jnp.asarray(images), (0.5,), (0.25,))
    whole = forward(graph, weights, statistics, scaled, (), train=False)[0]
    found = nas.load(write()).predict(images)
    assert found.shape == (n, 3)
    np.testing.assert_allclose(found, whole, rtol=1e-4, atol=1e-5 * float(jnp.abs(whole).max()))


def test_any_number_of_images_is_one_program_and_none_is_no_program(write, monkeypatch):
    shapes = []

    def black(graph, scaling, precision, weights, statistics, images, path):
        shapes.append(images.shape)
        return jnp.zeros((len(images), 3))

    monkeypatch.setattr(networks, "batch_logits", black, raising=False)
    model = nas.load(write())
    assert [len(model.predict(pictures(n))) for n in (0, 1, BATCH, 2 * BATCH + 1)] == [0, 1, BATCH, 2 * BATCH + 1]
    assert model.predict(pictures(0)).shape == (0, 3)
    assert shapes == [(BATCH, 8, 8, 1)] * (1 + 1 + 3)


NOT_IMAGES = {
    "of another size": (np.zeros((2, 9, 9, 1), np.uint8), "images=uint8 [2, 9, 9, 1] must be uint8 [n, 8, 8, 1]"),
    "not square": (np.zeros((2, 8, 9, 1), np.uint8), "images=uint8 [2, 8, 9, 1] must be uint8 [n, 8, 8, 1]"),
    "one alone": (np.zeros((8, 8, 1), np.uint8), "images=uint8 [8, 8, 1] must be uint8 [n, 8, 8, 1]"),
    "without channels": (np.zeros((2, 8, 8), np.uint8), "images=uint8 [2, 8, 8] must be"),
    "in colour": (np.zeros((2, 8, 8, 3), np.uint8), "images=uint8 [2, 8, 8, 3] must be"),
    "of 0 to 1": (np.zeros((2, 8, 8, 1), np.float32), "images=float32 [2, 8, 8, 1] must be uint8 [n, 8, 8, 1], values"),
    "of wide numbers": (np.zeros((2, 8, 8, 1), np.int64), "images=int64 [2, 8, 8, 1] must be"),
    "of several sizes": ([np.zeros((8, 8)), np.zeros((9, 9))], "images=list of unequal parts must be uint8"),
    "nothing": (None, "images=object [] must be uint8 [n, 8, 8, 1]"),
}


@pytest.mark.usefixtures("unchecked")  # nor are they of the type
@pytest.mark.parametrize("kind", NOT_IMAGES)
def test_images_unlike_those_of_training_are_refused(write, kind):
    given, said = NOT_IMAGES[kind]
    assert said in refusal(nas.load(write()).predict, given)


# Photos of any size


@pytest.mark.usefixtures("unchecked")
def test_a_refusal_says_how_photos_become_images(write):
    model = nas.load(write())
    assert "; prepare(photos) makes them of photos of any size" in refusal(model.predict, np.zeros((2, 9, 9), np.uint8))
    assert "a single one is given as image[None]" in refusal(model.predict, np.zeros((8, 8, 1), np.uint8))


@pytest.mark.parametrize("how", [None, "crop", "pad", "stretch"])
def test_photos_are_prepared_as_the_images_of_training_were(write, tmp_path, how):
    photo = np.random.default_rng(0).integers(0, 256, (20, 14, 3), dtype=np.uint8)
    Image.fromarray(photo).save(tmp_path / "photo.png")
    model = nas.load(write(resize=how))
    assert model.resize == how
    grey = Image.fromarray(photo).convert("L")
    expected = np.asarray(fit(grey, 8, how or "crop"))[None, :, :, None]
    for given in (tmp_path / "photo.png", str(tmp_path / "photo.png"), grey, photo, np.asarray(grey)[..., None]):
        np.testing.assert_array_equal(model.prepare([given]), expected)
    assert model.prepare([]).shape == (0, 8, 8, 1)
    assert len(model.classify(model.prepare([photo, grey]))) == 2


@pytest.mark.parametrize(
    ("photos", "said"),
    [
        ("photo.png", "photos must be a list: a single one is given as [photo]"),
        (np.zeros((20, 14, 3), np.uint8), "photos must be a list: a single one is given as [photo]"),
        (Image.new("L", (9, 9)), "photos must be a list: a single one is given as [photo]"),
        (3, "photos=3 must be a list of files, images or arrays"),
        ([Image.new("F", (9, 9), 0.5)], "photos[0] has mode F; allowed: 1, L, LA, P, RGB, RGBA, CMYK"),
        (["absent.png"], "photos[0]='absent.png' cannot be read: No such file or directory"),
        (["/dev/null"], "photos[0]='/dev/null' cannot be read: it is not a file"),
        ([np.zeros((9, 9), np.float32)], "photos[0]=float32 [9, 9] must be a file, an image or uint8"),
        ([np.zeros((9, 9, 2), np.uint8)], "photos[0]=uint8 [9, 9, 2] must be a file, an image or uint8"),
    ],
)
def test_what_is_no_photo_is_refused(write, photos, said):
    assert said in refusal(nas.load(write()).prepare, photos)


# Names of classes


def test_what_lies_in_a_folder_stays_until_all_that_is_new_is_written(tmp_path):
    out = tmp_path / "best"

    def fill(text: str, check: Callable[[], None] = lambda: None) -> None:
        with exports._filled(out, check) as folder:
            for name in (DESCRIPTION, WEIGHTS) if text != "two" else (DESCRIPTION, "model.onnx"):
                (folder / name).write_text(text)
            if text == "full":
                raise OSError("no room")

    def taken() -> None:
        raise UsageError("somebody else has written there")

    def content() -> dict[str, str]:
        assert [path.name for path in tmp_path.iterdir()] == ["best"]
        return {path.name: path.read_text() for path in out.iterdir()}

    fill("one")
    (out / "notes.txt").write_text("mine")
    one = {DESCRIPTION: "one", WEIGHTS: "one", "notes.txt": "mine"}
    with pytest.raises(OSError, match="no room"):
        fill("full")
    assert content() == one
    with pytest.raises(UsageError):
        fill("late", taken)
    assert content() == one
    fill("two")
    assert content() == {DESCRIPTION: "two", "model.onnx": "two", "notes.txt": "mine"}


def test_what_an_export_that_was_killed_has_left_goes_and_is_named(tmp_path):
    killed, mine = tmp_path / f"{exports.BEGUN}killed", tmp_path / ".photos.unfinished"
    for begun in (killed, mine):
        begun.mkdir()
        (begun / WEIGHTS).write_text("much")
        os.utime(begun, (0, 0))
    with exports._filled(tmp_path, lambda: None) as busy:
        for name in (DESCRIPTION, WEIGHTS):
            (busy / name).write_text("old")
        os.utime(busy, (0, 0))
        with exports._filled(tmp_path, lambda: None) as folder:
            assert busy.is_dir()
            for name in (DESCRIPTION, WEIGHTS):
                (folder / name).write_text("new")
    assert {path.name for path in tmp_path.iterdir()} == {mine.name, DESCRIPTION, WEIGHTS}
    assert (tmp_path / WEIGHTS).read_text() == "old"  # which came last
    (tmp_path / DESCRIPTION).unlink()  # as where it was killed while it moved its files
    check = functools.partial(exports.check, packed=False, form="jax")
    assert "was cut short: --replace writes it again" in refusal(functools.partial(check, replace=False), tmp_path)
    check(tmp_path, replace=True)
    assert "was cut short" in refusal(nas.load, tmp_path)


def test_a_file_is_no_folder_to_export_to(tmp_path):
    (tmp_path / "best").write_text("")
    how = {"replace": True, "packed": False, "form": "jax"}
    with pytest.raises(UsageError, match="is there, and is no folder"):
        exports.check(tmp_path / "best", **how)


def test_classes_that_are_not_there_have_no_part_in_the_mean_of_all():
    labels = np.array([0, 0, 1, 1])
    found = evaluate._of_classes(labels, labels, ["a", "b", "c"])
    assert (found.whole["accuracy"], found.whole["macro_f1"]) == (1.0, 1.0)
    assert [row["f1"] for row in found.classes] == [1.0, 1.0, 0.0]
    wrong = evaluate._of_classes(np.array([0, 0, 2, 1]), labels, ["a", "b", "c"])  # c is one that was taken for another
    assert wrong.whole["macro_f1"] == pytest.approx((1.0 + 2 / 3 + 0.0) / 3)


def test_classes_have_the_names_of_the_description_and_numbers_without(write):
    model = nas.load(write(classes=["ant", "bee", "cow"]))
    assert model.classes == ("ant", "bee", "cow")
    images = pictures(5)
    labels = model.predict(images).argmax(1)
    assert model.classify(images) == [model.classes[label] for label in labels]
    assert model.classify(images[:0]) == []
    older = nas.load(write())
    assert (older.classes, older.resize) == (("0", "1", "2"), None)
    assert older.classify(images) == [str(label) for label in labels]


# Files nobody trusts

SPACE = described("shufflenet", MINI)
HOSTILE = {
    "two names for three": ({"classes": ["ant", "bee"]}, "classes=2 names must be 3"),
    "no names": ({"classes": []}, "classes=0 names must be 3"),
    "a name that is a number": ({"classes": ["ant", "bee", 3]}, "classes: 3 must be a text"),
    "a name that is a list": ({"classes": ["ant", "bee", []]}, "classes: [] must be a text"),
    "a name twice": ({"classes": ["ant", "bee", "ant"]}, "classes: 'ant' stands for two labels"),
    "names that are one text": ({"classes": "abc"}, "classes must be a list of 3 names"),
    "a mode that is a list": ({"resize": []}, "resize=[] must be null or one of crop, pad, stretch"),
    "a mean too many": ({"mean": [0.5, 0.5]}, "mean must be a list of 1 numbers in 0..1"),
    "a mean that is a text": ({"mean": "x"}, "mean must be"),
    "a mean that is none": ({"mean": [float("nan")]}, "mean must be"),
    "a deviation of nothing": ({"std": [0]}, "std must be a list of 1 numbers in 0.001..1"),
    "a mean beyond counting": ({"mean": [1e39]}, "mean must be a list of 1 numbers in 0..1"),
    "a deviation beyond counting": ({"std": [1e-46]}, "std must be a list of 1 numbers in 0.001..1"),
    "a format of tomorrow": ({"format": 2}, "format=2 is unknown to this version; allowed: 1"),
    "no format": ({"without": "format"}, "it has no 'format'"),
    "no deviation": ({"without": "std"}, "it has no 'std'"),
    "no encoding": ({"without": "encoding"}, "it has no 'encoding'"),
    "a choice there is not": ({"encoding": [1, 0, 2, 4]}, "encoding[3]=4 must lie in 0..3"),
    "a choice beyond counting": ({"encoding": [1, 0, 2, 10**30]}, "must lie in 0..3"),
    "a decision too few": ({"encoding": [1, 0, 2]}, "encoding must be a list of 4 whole numbers"),
    "a fraction": ({"encoding": [1, 0, 2, 0.5]}, "encoding must be a list of 4 whole numbers"),
    "a table of choices": ({"encoding": [[1], [0], [2], [3]]}, "encoding must be a list of 4 whole numbers"),
    "a text for an encoding": ({"encoding": "1023"}, "encoding must be"),
    "no space": ({"space": "nowhere"}, "space='nowhere' is not one of"),
    "a wide network": ({"space": {**SPACE, "last_width": 10**9}}, "space has the number 1000000000; allowed"),
    "a network of many classes": ({"space": {**SPACE, "num_classes": 99_999}}, "does not fit"),
    "a network wider than its file": ({"space": {**SPACE, "widths": [8, 80_000]}}, "does not fit"),
    "a wide network of few": ({"space": {**SPACE, "stem_width": 10**30}}, "space has the number 1"),
    "a deep network": ({"space": {**SPACE, "blocks": [1, 99_999]}}, "space.blocks=(1, 99999) must be at most 1000"),
    "infinitely many": ({"space": {**SPACE, "dropout": float("inf")}}, "space has the number inf"),
    "deep cells": (
        {"space": described("nasbench201", NasBench201(cells=2000)), "encoding": [0] * 6, "mean": [0] * 3},
        "space.cells=2000 must be at most 1000",
    ),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_description_of_no_network_is_refused_before_one_is_built(write, monkeypatch, kind):
    changes, said = HOSTILE[kind]
    folder = write(**changes)
    monkeypatch.setattr("spaces.shufflenet.ShuffleNet.build", lambda *arguments: pytest.fail("it was built"))
    message = refusal(nas.load, folder)
    assert said in message
    assert DESCRIPTION in message


@pytest.mark.parametrize("data", [b"", b"[1]", b"null", b"\xff", b"[" * 100_000, b'{"space": ' * 100_000])
def test_what_is_no_description_is_refused(write, data):
    folder = write()
    (folder / DESCRIPTION).write_bytes(data)
    assert "does not describe an architecture" in refusal(nas.load, folder)


def test_a_description_is_read_no_further_than_one_can_be_long(write, monkeypatch):
    folder = write()
    monkeypatch.setattr(descriptions, "MAX_DESCRIPTION_BYTES", 100)
    assert "is longer than 100 bytes" in refusal(nas.load, folder)


# A whole job


class Heard(Silent):
    """What a job says."""

    def __init__(self):
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)


@pytest.mark.usefixtures("unchecked")  # at its end it gives images of another size
def test_a_job_says_that_it_resizes_and_its_network_knows_how_and_the_names(tmp_path):
    for name, grey in (("cat", 40), ("dog", 200)):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(8):
            image = np.full((10, 14 + i % 2, 3), grey + i, np.uint8)
            Image.fromarray(image).save(tmp_path / "photos" / name / f"{i}.png")
    fields = {field.name: getattr(MINI, field.name) for field in dataclasses.fields(MINI)}
    space = {"name": "shufflenet", **{name: value for name, value in fields.items() if name[:3] not in ("ima", "num")}}
    data = {"task": f"folder:{tmp_path / 'photos'}", "space": space, "image_size": 8, "workers": 0, "baselines": 0}
    data |= {"store": f"sqlite:///{tmp_path / 'nas.db'}", "name": "mini", "epochs": 1, "final": {"batch_size": 4}}
    architecture = MINI.describe(np.array(ENCODING))
    heard = Heard()
    outcome = job.search({**data, "architecture": architecture}, reporter=heard)
    said = [line for line in heard.lines if "resized" in line]
    assert len(said) == 1
    numbers = "16 images of 14 x 10 to 15 x 10 pixels, width x height, are resized to 8 x 8 by crop"
    assert said == [f"{data['task']}: {numbers}; --image-size and --resize choose"]
    again = Heard()
    job.search({"store": data["store"]}, "mini", again)
    assert said[0] in again.lines

    with Store(data["store"]) as store:
        exports.export(store, outcome.finals[0]["architecture"], tmp_path / "out")
    written = json.loads((tmp_path / "out" / DESCRIPTION).read_text())
    assert (written["classes"], written["resize"]) == (["cat", "dog"], "crop")
    model = nas.load(tmp_path / "out")
    assert model.classes == ("cat", "dog")
    assert set(model.classify(np.zeros((3, 8, 8, 3), np.uint8))) <= {"cat", "dog"}
    photos = sorted((tmp_path / "photos").glob("*/*.png"))
    assert set(model.classify(model.prepare(photos))) <= {"cat", "dog"}
    assert "prepare(photos)" in refusal(model.predict, np.zeros((1, 10, 14, 3), np.uint8))

    with Store(data["store"]) as store:
        assert "holds a network already" in refusal(exports.export, store, written["architecture"], tmp_path / "out")
        exports.export(store, written["architecture"], tmp_path / "out", store.run("mini"), replace=True)
    # A store can be moved, and a copy does not look where it came from.
    moved = tmp_path / "moved"
    moved.mkdir()
    for path in (tmp_path / "nas.db", tmp_path / "nas.db.files"):
        path.rename(moved / path.name)
    with Store(f"sqlite:///{moved / 'nas.db'}") as store:
        assert exports.export(store, written["architecture"], tmp_path / "again") == "mini"
        (file,) = store.artifacts(kind="weights")
        assert file.path.startswith(str(moved))


def test_weights_of_another_network_of_the_same_shapes_are_refused(write):
    folder = write()
    description = json.loads((folder / DESCRIPTION).read_text())
    for field, other in (("encoding", [0, 1, 3, 2]), ("mean", [0.4]), ("std", [0.2])):
        (folder / DESCRIPTION).write_text(json.dumps({**description, field: other}))
        assert "are weights of another network" in refusal(nas.load, folder)
