"""Detectors as users have them: boxes in pixels of their photos, from Python and from the command line, and drawn."""

import csv
import io
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import MINI
from PIL import Image

import nas
from nas.commands import cli
from nas.config import build_space
from nas.errors import UsageError
from nas.report import boxes
from nas.saved import checkpoint, networks
from nas.saved.networks import BATCH, DESCRIPTION, WEIGHTS, Found
from nas.saved.predictors import described
from nas.store.sql import NewTrial, Store
from nas.tasks import kinds
from nas.tasks.detection.heads import Heads
from nas.tasks.detection.letterbox import letterboxed
from nas.tasks.kinds.detection import Detection
from nas.training.net import alone, flatten, split
from spaces.base import Space, architecture_id
from spaces.nas_fpn import NasFpn

SPACE = NasFpn(cells=5, width=8, backbone="resnet-10-thin", image_size=128)
ROW = np.asarray(SPACE.canonical(jnp.zeros((1, len(SPACE.cardinalities)), jnp.int32)))[0]
NAMES = ["disc", "triangle", "cross"]


def exported(folder, name: str, space: Space, kind, row, channels: int) -> dict:
    """Writes a network that nobody has trained, with statistics as of a training; its description."""
    _, weights, statistics = split(alone(space, kind, np.asarray(row, np.int32), jax.random.key(0)))
    statistics = jax.tree.map(lambda array: jnp.full(array.shape, 0.5, array.dtype), statistics)
    description = {"format": 1, "space": described(name, space), "encoding": list(map(int, row))}
    description |= {"mean": [0.5] * channels, "std": [0.25] * channels, "kind": kinds.described(kind)}
    description |= {"classes": NAMES, "resize": None}
    folder.mkdir()
    checkpoint.write(folder / WEIGHTS, {**flatten(weights), **flatten(statistics)}, description)
    (folder / DESCRIPTION).write_text(json.dumps(description))
    return description


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("detector") / "best"
    exported(made, "nas-fpn", SPACE, Detection(3), ROW, 3)
    return made


@pytest.fixture(scope="module")
def model(folder):
    return nas.load(folder)


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    made = tmp_path_factory.mktemp("classifier") / "best"
    exported(made, "shufflenet", MINI, kinds.kinds()["classification"](3), [1, 0, 2, 3], 1)
    return made


@pytest.fixture
def answer(monkeypatch):
    """Puts rows of boxes in shares, probability and label in place of what the network finds in every image."""

    def answer(*rows):
        found = np.full((len(rows) + 1, 6), -1, np.float32)
        found[:-1] = np.reshape(np.array(rows, np.float32), (-1, 6))
        monkeypatch.setattr(networks, "batch_logits", lambda *given: of_one_level(given[5]))
        monkeypatch.setattr(
            Detection, "found", lambda kind, outputs, least=0.05: np.tile(found, (len(outputs[0][0]), 1, 1))
        )

    return answer


def of_one_level(images: np.ndarray) -> list:
    """In place of what a network gives for these."""
    return [(jnp.asarray(images), jnp.asarray(images))]


def pixels_of(path) -> np.ndarray:
    with Image.open(path) as image:
        assert not image.getexif().get(0x0112)
        return np.asarray(image.convert("RGB"))


def pictures(n: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (n, 128, 128, 3), dtype=np.uint8)


def refusal(call, *arguments, **options) -> str:
    with pytest.raises(UsageError) as caught:
        call(*arguments, **options)
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


# From Python


def test_any_number_of_images_has_the_answers_of_each(model):
    images = pictures(BATCH + 1)
    found = model.predict(images)
    assert found.shape == (BATCH + 1, 100, 6)
    assert model.predict(images[:0]).shape == (0, 100, 6)
    for some in (slice(0, 2), slice(BATCH, None)):
        np.testing.assert_allclose(model.predict(images[some]), found[some], rtol=1e-4, atol=1e-5)


def test_fewer_large_images_are_in_one_call(model, answer, monkeypatch):
    answer()
    shapes = []
    monkeypatch.setattr(
        networks, "batch_logits", lambda *given: shapes.append(given[5].shape) or of_one_level(given[5])
    )
    monkeypatch.setattr(networks, "PIXELS", 3 * 128**2)
    assert model.predict(pictures(4)).shape == (4, 1, 6)
    assert shapes == [(3, 128, 128, 3)] * 2
    monkeypatch.setattr(networks, "PIXELS", 1)
    assert model.predict(pictures(1)).shape == (1, 1, 6)
    assert shapes[2:] == [(1, 128, 128, 3)]


def test_photos_are_letter_boxed(model, tmp_path):
    photo = np.random.default_rng(0).integers(0, 256, (40, 90, 3), dtype=np.uint8)
    Image.fromarray(photo).save(tmp_path / "photo.png")
    expected = letterboxed(Image.fromarray(photo), 128)[0]
    for given in (tmp_path / "photo.png", Image.fromarray(photo), photo):
        np.testing.assert_array_equal(model.prepare([given]), expected[None])
    grey = Image.fromarray(photo[..., 0])
    np.testing.assert_array_equal(
        Detection(3).prepared(grey, 128, None), letterboxed(grey.convert("RGB"), 128)[0][..., 0]
    )


def test_boxes_are_in_pixels_of_the_photo(model, answer):
    answer((0.1, 0.2, 0.5, 0.4, 0.9, 1), (0.25, 0.0, 1.0, 1.0, 0.6, 0), (0.0, 0.0, 0.5, 0.5, 0.2, 2))
    wide, tall = np.zeros((150, 300, 3), np.uint8), np.zeros((400, 200, 3), np.uint8)
    first, second = model.detect([wide, tall])
    assert [(each.name, round(each.probability, 6)) for each in first] == [("triangle", 0.9), ("disc", 0.6)]
    np.testing.assert_allclose([each.box for each in first], [(30, 60, 150, 120), (75, 0, 300, 150)], rtol=1e-6)
    np.testing.assert_allclose([each.box for each in second], [(40, 80, 200, 160), (100, 0, 200, 400)], rtol=1e-6)
    assert [len(found) for found in model.detect([wide, tall], 0.1)] == [3, 3]
    assert [len(found) for found in model.detect([wide, tall], 0.95)] == [0, 0]
    assert model.detect([]) == []


def test_nothing_is_found_beside_the_photo(model, answer):
    answer((0.1, 0.6, 0.5, 0.9, 0.9, 1))
    assert model.detect([np.zeros((150, 300, 3), np.uint8), np.zeros((300, 300, 3), np.uint8)])[0] == []


def test_what_a_network_finds_is_in_the_photo(model):
    photos = [np.random.default_rng(i).integers(0, 256, (60 + 40 * i, 90, 3), dtype=np.uint8) for i in range(2)]
    found = model.detect(photos, 0)
    assert all(found)
    for photo, objects in zip(photos, found, strict=True):
        height, width = photo.shape[:2]
        assert all(isinstance(each, Found) and each.name in NAMES for each in objects)
        assert all(0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height for (x0, y0, x1, y1), *_ in objects)
        assert objects == sorted(objects, key=lambda each: -each.probability)


def test_a_detector_names_no_classes_and_a_classifier_finds_no_objects(model, classifier):
    assert "finds objects in photos of any size: detect(photos)" in refusal(model.classify, pictures(1))
    assert "finds no objects: classify(prepare(photos))" in refusal(nas.load(classifier).detect, [pictures(1)[0]])
    assert "least=2 must lie in 0..1" in refusal(model.detect, [], 2)
    assert "photos must be a list" in refusal(model.detect, "photo.png")


# Files nobody trusts

HOSTILE = {
    "two names for three": ({"classes": NAMES[:2]}, "classes=2 names must be 3"),
    "names that are one text": ({"classes": "abc"}, "classes must be a list of 3 names"),
    "no names": ({"classes": []}, "classes=0 names must be 3"),
    "no classes": ({"kind": {"name": "detection", "num_classes": 0}}, "num_classes=0 must be at least 1"),
    "broken classes": ({"kind": {"name": "detection", "num_classes": 3.0}}, "must have the numbers num_classes"),
    "endless classes": ({"kind": {"name": "detection", "num_classes": 10**30}}, "allowed: at most 100000"),
    "a large head": ({"kind": {"name": "detection", "num_classes": 99_999}, "classes": None}, "does not fit"),
    "a kind without a head": ({"kind": {"name": "classification", "num_classes": 0}}, "must be one with a head"),
    "a kind of other outputs": (
        {"kind": {"name": "classification", "num_classes": 3}},
        "has 3 outputs, and the space 0",
    ),
    "endless pyramids": ({"space": {**described("nas-fpn", SPACE), "stacks": 99_999}}, "space.stacks=99999 must be"),
    "a mean too few": ({"mean": [0.5]}, "mean must be a list of 3 numbers"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_description_of_no_detector_is_refused_before_its_head_is_built(folder, tmp_path, monkeypatch, case):
    changes, said = HOSTILE[case]
    shutil.copytree(folder, tmp_path / "copy")
    arrays, note = checkpoint.read(folder / WEIGHTS)
    checkpoint.write(tmp_path / "copy" / WEIGHTS, arrays, {**note, **changes})
    (tmp_path / "copy" / DESCRIPTION).write_text(json.dumps({**note, **changes}))
    monkeypatch.setattr(Heads, "__init__", lambda *arguments: pytest.fail("it was built"))
    assert said in refusal(nas.load, tmp_path / "copy")


def test_the_neck_of_a_product_is_no_deeper_than_others(tmp_path):
    space = build_space({"name": "shufflenet+nas-fpn", "neck": {"cells": 5}})
    text = described("shufflenet+nas-fpn", space)
    description = {"format": 1, "space": text, "mean": [0.5] * 3, "std": [0.25] * 3}
    description |= {"encoding": [0] * len(space.cardinalities), "kind": kinds.described(Detection(3))}
    (tmp_path / DESCRIPTION).write_text(json.dumps(description))
    assert "weights.safetensors does not exist" in refusal(nas.load, tmp_path)
    text["neck"]["stacks"] = 999
    (tmp_path / DESCRIPTION).write_text(json.dumps(description))
    assert "space.stacks=999 must be at most 1000 in all" in refusal(nas.load, tmp_path)


# From the command line


@pytest.fixture
def photo(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (400, 200), (120, 120, 120)).save("photo.jpg")
    return tmp_path / "photo.jpg"


def ran(capsys, *words) -> str:
    assert cli.main(["detect", *map(str, words)]) == 0
    return capsys.readouterr().out


def test_the_objects_of_files_are_listed(folder, answer, photo, capsys):
    answer((0.1, 0.2, 0.5, 0.4, 0.75, 1), (0.25, 0.0, 1.0, 0.25, 0.5, 0))
    rows = json.loads(ran(capsys, folder, "photo.jpg", "photo.jpg", "--format", "json"))
    assert len(rows) == 4
    assert list(rows[0]) == ["image", "class", "probability", "x0", "y0", "x1", "y1"]
    assert (rows[0]["image"], rows[0]["class"], rows[0]["probability"]) == ("photo.jpg", "triangle", 0.75)
    np.testing.assert_allclose([rows[0][name] for name in ("x0", "y0", "x1", "y1")], [40, 80, 200, 160], rtol=1e-6)
    (row,) = csv.DictReader(io.StringIO(ran(capsys, folder, "photo.jpg", "--least", "0.6", "--format", "csv")))
    assert (row["class"], row["probability"]) == ("triangle", "0.75")
    shown = ran(capsys, folder, "photo.jpg").splitlines()
    assert shown[1].split() == ["photo.jpg", "triangle", "0.75", "40", "80", "200", "160"]


def test_of_many_photos_it_is_said_how_many_were_looked_at(folder, answer, photo, capsys, monkeypatch):
    answer((0.1, 0.2, 0.5, 0.4, 0.75, 1))
    monkeypatch.setattr("nas.commands.detect.AT_ONCE", 2)
    assert cli.main(["detect", str(folder), *["photo.jpg"] * 2]) == 0
    assert capsys.readouterr().err == ""
    assert cli.main(["detect", str(folder), *["photo.jpg"] * 3]) == 0
    assert "Looking for objects: 3 of 3" in capsys.readouterr().err


def test_where_nothing_is_found_one_line_says_so(folder, answer, photo, capsys):
    answer((0.1, 0.2, 0.5, 0.4, 0.25, 1))
    said = ran(capsys, folder, "photo.jpg", "--out", "boxes.png")
    assert said == "Nothing is found in photo.jpg with a probability of 0.3 or more (--least).\n"
    assert pixels_of("boxes.png").shape == (200, 400, 3)
    assert json.loads(ran(capsys, folder, "photo.jpg", "--format", "json")) == []


def test_a_picture_has_the_colour_of_the_class_along_each_box(folder, answer, photo, capsys):
    answer((0.1, 0.2, 0.5, 0.4, 0.75, 1), (0.6, 0.3, 0.9, 0.45, 0.5, 0))
    ran(capsys, folder, "photo.jpg", "--out", "boxes.png")
    pixels = pixels_of("boxes.png")
    assert pixels.shape == (200, 400, 3)
    for (x0, y0, x1, y1), label in (((40, 80, 200, 160), 1), ((240, 120, 360, 180), 0)):
        colour = np.array(Image.new("RGB", (1, 1), boxes.COLOURS[label][0]))[0, 0]
        for line in (pixels[y0, x0:x1], pixels[y1 - 1, x0:x1], pixels[y0:y1, x0], pixels[y0:y1, x1 - 1]):
            assert (line == colour).all()
        inside = pixels[y0 + 3 : y1 - 3, x0 + 3 : x1 - 3].astype(int)
        assert np.abs(inside - 120).max() < 5
    ran(capsys, folder, "photo.jpg", "--out", "boxes.JPG")
    assert np.abs(pixels_of("boxes.JPG").astype(int) - pixels).mean() < 3
    assert pixels_of("photo.jpg").std() < 2, "the photo stays as it was"


def test_labels_are_in_the_picture_wherever_the_box_is():
    photo = Image.new("RGB", (300, 200))
    for box in ((0, 0, 300, 200), (290, 190, 300, 200), (0, 0, 5, 5), (250, 50, 299, 90), (10.2, 10.4, 10.3, 10.6)):
        picture = np.asarray(boxes.drawn(photo, [boxes.Object(box, "triangle 0.87", 5)]))
        filled = (picture == np.array([0xD5, 0x5E, 0])).all(-1)
        rows = filled.sum(1)
        assert rows.max() >= 60, "the label is whole"
        assert (rows >= 40).sum() >= 10


def test_a_photo_that_is_turned_is_found_and_drawn_upright(folder, answer, photo, capsys):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter to the right
    Image.new("RGB", (400, 200)).save("turned.jpg", exif=exif)
    answer((0.0, 0.25, 0.5, 0.5, 0.75, 1))
    (row,) = json.loads(ran(capsys, folder, "turned.jpg", "--out", "boxes.png", "--format", "json"))
    assert [row[name] for name in ("x0", "y0", "x1", "y1")] == [0, 100, 200, 200]
    assert pixels_of("boxes.png").shape == (400, 200, 3)


def stored(path, folder, name: str, space: Space, row, *, trained: bool) -> str:
    """A store that knows an architecture, and where that is so its weights; the id."""
    known = architecture_id(space, np.asarray(row))
    with Store(f"sqlite:///{path}", create=True) as store:
        config = {"given": {"space": {"name": name}}}
        run = store.add_run(
            name="found", space=name, config=config, strategy="random", task="scenes", code_version="0", seed=0
        )
        trial = NewTrial(0, known, list(map(int, row)), space.describe(np.asarray(row)), name, 0, 0)
        store.add_trials(run.id, [trial], "final")
        store.finish_trial(run.id, 0, metrics={"standalone_minus_ap": -0.5}, error=None, seconds=1, kind="final")
        if trained:
            weights = store.folder(run) / "x.safetensors"
            weights.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(folder / WEIGHTS, weights)
            digest = checkpoint.digest(weights)
            store.add_artifact(run.id, kind="weights", path=weights, sha256=digest, architecture=known)
    return known


def test_the_weights_of_an_architecture_are_those_of_the_store(folder, answer, photo, capsys):
    known = stored("nas.db", folder, "nas-fpn", SPACE, ROW, trained=True)
    answer((0.1, 0.2, 0.5, 0.4, 0.75, 1))
    for words in ([known[:6]], [known, "--run", "found"]):
        (row,) = json.loads(ran(capsys, words[0], "photo.jpg", *words[1:], "--format", "json"))
        assert row["class"] == "triangle"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["FOLDER", "absent.png"], "image='absent.png' cannot be read: No such file"),
        (["FOLDER", "text.png"], "image='text.png' is not a readable JPEG, PNG, WebP, TIFF or BMP image"),
        (["FOLDER", "."], "image='.' cannot be read"),
        (["CLASSIFIER", "photo.jpg"], "is no detector: it was trained on images without boxes"),
        (["./absent", "photo.jpg"], "absent/architecture.json cannot be read: No such file"),
        (["ID", "photo.jpg"], "has not been trained by itself"),
        (["nothing", "photo.jpg"], "architecture='nothing' is not in store"),
        (["ID", "photo.jpg", "--store", "sqlite:///absent.db"], "does not exist"),
        (["FOLDER", "photo.jpg", "--exit", "1"], "exit=1 cannot be chosen: this network has one end, and no exits"),
        (["FOLDER", "photo.jpg", "--exit", "x"], "'x' must be a valid integer"),
        (["FOLDER", "photo.jpg", "--run", "found"], "run='found' is of a store"),
        (["FOLDER", "photo.jpg", "--least", "2"], "least=2.0 must lie in 0..1"),
        (["FOLDER", "photo.jpg", "--out", "boxes.gif"], "out='boxes.gif' must end in one of .png, .jpg, .jpeg"),
        (["FOLDER", "photo.jpg", "--out", "room.png"], "out='room.png' is there already, and is not a file"),
        (["FOLDER", "photo.jpg", "--out", "photo.jpg"], "out='photo.jpg' is the image itself"),
        (
            ["FOLDER", "photo.jpg", "--out", "absent/boxes.png"],
            "out='absent/boxes.png' cannot be written: 'absent' is not a folder",
        ),
        (["FOLDER", "photo.jpg", "photo.jpg", "--out", "x.png"], "out='x.png' is for one image; 2 are given"),
        (["FOLDER", "photo.jpg", "--format", "xml"], "format='xml' is not one of"),
        (["FOLDER"], "required: IMAGE"),
    ],
)
def test_what_cannot_be_detected_is_refused_in_one_line(folder, classifier, answer, photo, words, said, capsys):
    answer()
    known = stored("nas.db", folder, "nas-fpn", SPACE, ROW, trained=False)
    (photo.parent / "text.png").write_text("text")
    (photo.parent / "room.png").mkdir()
    names = {"FOLDER": str(folder), "CLASSIFIER": str(classifier), "ID": known}
    assert cli.main(["detect", *(names.get(word, word) for word in words)]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert len(error.splitlines()) == 1
