"""Packed exports and `nas predict`: the answers of the export in floats from a file of bits, and refusals in a line."""

import csv
import dataclasses
import io
import json
import shutil
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import MINI, refusal
from flax import nnx
from PIL import Image
from sklearn.datasets import load_digits

import nas
from nas.commands import cli
from nas.config import default_of
from nas.saved import checkpoint
from nas.saved.networks import DESCRIPTION, WEIGHTS
from nas.saved.packed import packed_arrays
from nas.saved.predictors import described
from nas.store.sql import NewTrial, Store
from nas.tasks import kinds
from nas.tasks.augment import normalise
from nas.training.net import alone, flatten, forward, split
from spaces.base import Space, architecture_id
from spaces.binary import Binary
from spaces.packed import PackedConv

SPACES = {
    template: Binary(template=template, width=8, cells=3, image_size=8, image_channels=1, num_classes=10)
    for template in ("bnas", "bats", "beihang")
}
NAMES = [f"digit {i}" for i in range(10)]


def digits(n: int | None = None) -> np.ndarray:
    return (load_digits().images[:n, ..., None] * 15).astype(np.uint8)


def noise(n: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (n, 8, 8, 1), dtype=np.uint8)


def choices(space: Space) -> np.ndarray:
    return np.array([(i + 1) % size for i, size in enumerate(space.cardinalities)], np.int32)


def exported(folder, name: str, space: Space, row, classes: list[str]) -> dict:
    """Writes a network that nobody has trained, with the statistics of digits; its description."""
    kind = kinds.kinds()["classification"](len(classes))
    graph, weights, statistics = split(alone(space, kind, np.asarray(row, np.int32), jax.random.key(0)))
    images = normalise(jnp.asarray(digits(64)), (0.5,), (0.25,))
    statistics = jax.jit(lambda: forward(graph, weights, statistics, images, (), train=True)[1])()
    description = {"format": 1, "space": described(name, space), "encoding": list(map(int, row))}
    description |= {"mean": [0.5], "std": [0.25], "kind": kinds.described(kind), "classes": classes}
    folder.mkdir(parents=True)
    checkpoint.write(folder / WEIGHTS, {**flatten(weights), **flatten(statistics)}, description)
    (folder / DESCRIPTION).write_text(json.dumps(description))
    return description


@pytest.fixture(scope="module")
def floats(tmp_path_factory):
    """The folder of the export in floats, by template."""
    made = {}

    def floats(template: str):
        if template not in made:
            made[template] = tmp_path_factory.mktemp(template) / "floats"
            exported(made[template], "binary", SPACES[template], choices(SPACES[template]), NAMES)
        return made[template]

    return floats


@pytest.fixture(scope="module")
def bits(floats, tmp_path_factory):
    """The folder of the packed export, by template, written from the command line."""
    made = {}

    def bits(template: str):
        if template not in made:
            folder = tmp_path_factory.mktemp(template)
            known = stored(folder / "nas.db", floats(template), "binary", SPACES[template])
            made[template] = folder / "net"
            words = [
                "export",
                known,
                "--packed",
                "--out",
                f"{made[template]}/",
                "--store",
                f"sqlite:///{folder}/nas.db",
            ]
            assert cli.main(words) == 0
        return made[template]

    return bits


def stored(path, folder, name: str, space: Space) -> str:
    """A store that has the weights of a folder; the id of their architecture."""
    row = json.loads((folder / DESCRIPTION).read_text())["encoding"]
    known = architecture_id(space, np.asarray(row))
    with Store(f"sqlite:///{path}", create=True) as store:
        config = {"given": {"space": {"name": name}}}
        run = store.add_run(
            name="found", space=name, config=config, strategy="random", task="digits", code_version="0", seed=0
        )
        store.add_trials(run.id, [NewTrial(0, known, row, space.describe(np.asarray(row)), name, 0, 0)], "final")
        store.finish_trial(run.id, 0, metrics={"standalone_error": 0.5}, error=None, seconds=1, kind="final")
        weights = store.folder(run) / "x.safetensors"
        weights.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(folder / WEIGHTS, weights)
        digest = checkpoint.digest(weights)
        store.add_artifact(run.id, kind="weights", path=weights, sha256=digest, architecture=known)
    return known


# Answers


@pytest.mark.parametrize("template", SPACES)
def test_a_packed_network_has_the_answers_of_the_one_in_floats(floats, bits, template):
    model, twin = nas.load(floats(template)), nas.load(bits(template))
    assert (model.packed, twin.packed, twin.description["packed"]) == (False, True, True)
    assert model.classes == twin.classes
    images = np.concatenate([noise(500), digits(500)])
    logits, found = model.predict(images), twin.predict(images)
    np.testing.assert_allclose(found, logits, rtol=0, atol=1e-4)
    np.testing.assert_array_equal(found.argmax(1), logits.argmax(1))
    assert any(isinstance(each, PackedConv) for _, each in nnx.iter_modules(twin.network))


def test_a_packed_file_has_a_bit_a_weight_and_a_scale_a_filter(floats, bits):
    whole, _ = checkpoint.read(floats("bnas") / WEIGHTS)
    packed, _ = checkpoint.read(bits("bnas") / WEIGHTS)
    kernels = [name for name, array in packed.items() if array.dtype == np.uint8]
    assert kernels
    for name in kernels:
        assert packed[name].shape == (-(-whole[name].size // 8),)
        scale = packed[name.replace("kernel", "scale")]
        assert (scale.shape, scale.dtype) == (whole[name].shape[3:], np.float32)
    for name in whole.keys() - kernels:
        np.testing.assert_array_equal(packed[name], whole[name])


# Files nobody trusts


def changed(folder, tmp_path, change, **more):
    """A copy whose arrays are changed in place, and whose description has other fields."""
    shutil.copytree(folder, tmp_path / "copy")
    arrays, note = checkpoint.read(folder / WEIGHTS)
    arrays = {name: array.copy() for name, array in arrays.items()}
    kernel = next(name for name, array in arrays.items() if array.dtype == np.uint8)
    change(arrays, kernel, kernel.replace("kernel", "scale"))
    checkpoint.write(tmp_path / "copy" / WEIGHTS, arrays, {**note, **more})
    (tmp_path / "copy" / DESCRIPTION).write_text(json.dumps({**note, **more}))
    return tmp_path / "copy"


def longer(arrays, kernel, scale):
    arrays[kernel] = np.append(arrays[kernel], np.uint8(0))


def shorter(arrays, kernel, scale):
    arrays[kernel] = arrays[kernel][:-1]


def in_floats(arrays, kernel, scale):
    arrays[kernel] = arrays[kernel].astype(np.float32)


def unscaled(arrays, kernel, scale):
    del arrays[scale]


def scaled_by_none(arrays, kernel, scale):
    arrays[scale][0] = np.nan


def scaled_too_often(arrays, kernel, scale):
    arrays[scale] = np.append(arrays[scale], np.float32(1))


def without_bits(arrays, kernel, scale):
    del arrays[kernel]


def with_more(arrays, kernel, scale):
    arrays["words"] = np.zeros(3, np.uint32)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (longer, "expected uint8["),
        (shorter, "expected uint8["),
        (in_floats, "expected uint8["),
        (unscaled, "scale.value' is missing"),
        (scaled_by_none, "holds NaN or infinity"),
        (scaled_too_often, "expected float32["),
        (without_bits, "does not fit"),
        (with_more, "array 'words' is not part of the network"),
    ],
)
def test_a_packed_file_that_does_not_fit_is_refused(bits, tmp_path, change, said):
    assert said in refusal(nas.load, changed(bits("bnas"), tmp_path, change))


def test_what_is_packed_is_said_by_both_files_alike(floats, bits, tmp_path):
    def nothing(*given):
        pass

    folder = changed(bits("bnas"), tmp_path, nothing)
    text = json.loads((folder / DESCRIPTION).read_text())
    for value, said in ((None, "are weights of another network"), ("yes", "packed='yes' must be true or false")):
        (folder / DESCRIPTION).write_text(json.dumps({**text, "packed": value} if value else {**text, "packed": False}))
        assert said in refusal(nas.load, folder)
    shutil.copyfile(floats("bnas") / WEIGHTS, folder / WEIGHTS)
    (folder / DESCRIPTION).write_text(json.dumps(text))
    assert "are weights of another network" in refusal(nas.load, folder)


@pytest.mark.parametrize("share", [0, 0.5, 0.99])
def test_a_packed_file_that_is_cut_is_refused(bits, tmp_path, share):
    shutil.copytree(bits("bnas"), tmp_path / "copy")
    data = (tmp_path / "copy" / WEIGHTS).read_bytes()
    (tmp_path / "copy" / WEIGHTS).write_bytes(data[: int(len(data) * share)])
    assert "is not a whole weights file" in refusal(nas.load, tmp_path / "copy")


def test_a_network_without_a_layer_of_one_bit_is_not_packed(tmp_path, capsys):
    exported(tmp_path / "floats", "shufflenet", MINI, [1, 0, 2, 3], ["ant", "bee", "cow"])
    known = stored(tmp_path / "nas.db", tmp_path / "floats", "shufflenet", MINI)
    words = ["export", known, "--packed", "--out", str(tmp_path / "net"), "--store", f"sqlite:///{tmp_path}/nas.db"]
    assert cli.main(words) == 2
    error = capsys.readouterr().err
    assert error == f"nas: error: architecture='{known}' cannot be packed: its network has no layer of one bit\n"
    assert not (tmp_path / "net").exists()
    with pytest.raises(ValueError, match="no layer of one bit"):
        packed_arrays(nas.load(tmp_path / "floats").network)


# From the command line


@pytest.fixture
def images(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos" / "more").mkdir(parents=True)
    for i, name in enumerate(("b.png", "a.png", "more/c.png", ".hidden.png")):
        Image.fromarray(digits(4)[i, ..., 0]).save(tmp_path / "photos" / name)
    (tmp_path / "photos" / "notes.txt").write_text("text")
    np.savez(tmp_path / "digits.npz", images=digits(3), labels=np.arange(3))
    np.savez(tmp_path / "large.npz", images=np.zeros((2, 20, 14), np.uint8))
    return tmp_path


def ran(capsys, *words) -> str:
    assert cli.main(["predict", *map(str, words)]) == 0
    return capsys.readouterr().out


def test_images_have_a_line_each_with_their_class_and_its_probability(bits, images, capsys):
    folder, model = bits("bnas"), nas.load(bits("bnas"))
    rows = json.loads(ran(capsys, folder, "photos", "digits.npz", "photos/a.png", "large.npz", "--format", "json"))
    photos = ["photos/a.png", "photos/b.png", "photos/more/c.png"]
    named = [*photos, "digits.npz[0]", "digits.npz[1]", "digits.npz[2]", "photos/a.png", "large.npz[0]", "large.npz[1]"]
    assert [row["image"] for row in rows] == named
    given = np.concatenate([digits(3)[[1, 0, 2]], digits(3), digits(2)[1:], np.zeros((2, 8, 8, 1), np.uint8)])
    logits = model.predict(given)
    assert [row["class"] for row in rows] == model.classify(given)
    shares = np.asarray(jax.nn.softmax(logits)).max(1)
    np.testing.assert_allclose([row["probability"] for row in rows], shares, rtol=1e-5)
    (row,) = csv.DictReader(io.StringIO(ran(capsys, folder, "photos/b.png", "--format", "csv")))
    assert list(row) == ["image", "class", "probability"]
    assert ran(capsys, folder, "photos").splitlines()[1].startswith("photos/a.png")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["many.npz"], "7 of 7"),
        (["photos/a.png"] * 5, "5 of 5"),
        (["photos"], "5 of 5"),  # entries: its folder and its text too
        (["digits.npz"], None),
        (["photos/a.png"] * 3, None),
    ],
)
def test_many_images_are_read_audibly_and_few_in_silence(bits, images, capsys, monkeypatch, words, said):
    np.savez("many.npz", images=digits(7))
    (images / "photos" / ".hidden.png").unlink()
    monkeypatch.setattr("nas.tasks.folders.EVERY", 3)
    assert cli.main(["predict", str(bits("bnas")), *words]) == 0
    error = capsys.readouterr().err
    assert error == "" if said is None else f"Reading the data: {said}" in error


def test_images_of_a_folder_that_cannot_be_read_are_refused_or_left_out(bits, images, capsys):
    expected = ran(capsys, bits("bnas"), "photos")
    (images / "photos" / "more" / "bad.jpg").write_bytes(b"no image")
    (images / "photos" / "cut.png").write_bytes((images / "photos" / "a.png").read_bytes()[:60])
    assert cli.main(["predict", str(bits("bnas")), "photos"]) == 2
    assert "--skip-invalid leaves out such images" in capsys.readouterr().err
    assert cli.main(["predict", str(bits("bnas")), "photos", "--skip-invalid"]) == 0
    answer = capsys.readouterr()
    assert answer.out == expected
    assert "2 images were invalid and left out, the first: " in answer.err
    assert cli.main(["predict", str(bits("bnas")), "photos/cut.png", "--skip-invalid"]) == 2  # which was asked for


def test_the_most_probable_classes_of_an_image_have_a_line_each(bits, images, capsys):
    model = nas.load(bits("bnas"))
    words = [bits("bnas"), "digits.npz", "--top", "3"]
    rows = json.loads(ran(capsys, *words, "--format", "json"))
    assert [(row["image"], row["rank"]) for row in rows] == [
        (f"digits.npz[{i}]", k) for i in range(3) for k in (1, 2, 3)
    ]
    shares = np.asarray(jax.nn.softmax(model.predict(digits(3))))
    best = np.argsort(-shares, 1)[:, :3]
    assert [row["class"] for row in rows] == [model.classes[label] for label in best.ravel()]
    np.testing.assert_allclose([row["probability"] for row in rows], np.sort(shares, 1)[:, :-4:-1].ravel(), rtol=1e-5)
    table = list(csv.DictReader(io.StringIO(ran(capsys, *words, "--format", "csv"))))
    assert [row["class"] for row in table] == [row["class"] for row in rows]
    assert list(table[0]) == ["image", "rank", "class", "probability"]


def test_a_loaded_network_says_what_it_is_in_a_line(bits):
    said = repr(nas.load(bits("bnas")))
    assert said.startswith("<network of binary, ")
    assert "uint8 [n, 8, 8, 1] to 10 classes: 'digit 0, digit 1" in said
    assert len(said.splitlines()) == 1
    assert {"load", "Store", "search", "load_predictor"} <= set(dir(nas))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["FOLDER", "digits.npz", "--top", "11"], "top=11 must lie in 1..10, the number of classes"),
        (["FOLDER", "digits.npz", "--top", "0"], "top=0 must lie in 1..10"),
        (["FOLDER", "absent.png"], "image='absent.png' cannot be read: No such file"),
        (["FOLDER", "photos/notes.txt"], "is not a readable JPEG, PNG, WebP, TIFF or BMP image"),
        (["FOLDER", "empty"], "image='empty' is a folder without images"),
        (["FOLDER", "other.npz"], "has the arrays ['labels']; allowed: one with images"),
        (["FOLDER", "flat.npz"], "images=uint8 [8] must be [n, height, width]"),
        (["FOLDER", "dark.npz"], "must lie in 0..1"),
        (["FOLDER", "text.npz"], "image='text.npz' cannot be read"),
        (["FOLDER", "absent.npz"], "image='absent.npz' cannot be read"),
        (["FOLDER", "photos", "--run", "found"], "run='found' is of a store"),
        (["FOLDER", "photos", "--format", "xml"], "format='xml' is not one of"),
        (["./absent", "photos"], "absent/architecture.json cannot be read"),
        (["FOLDER"], "required: IMAGES"),
    ],
)
def test_what_cannot_be_predicted_is_refused_in_one_line(bits, images, words, said, capsys):
    (images / "empty").mkdir()
    np.savez("other.npz", labels=np.arange(3))
    np.savez("flat.npz", images=np.zeros(8, np.uint8))
    np.savez("dark.npz", images=np.full((1, 8, 8), -1.0))
    (images / "text.npz").write_text("text")
    assert cli.main(["predict", *(str(bits("bnas")) if word == "FOLDER" else word for word in words)]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert len(error.splitlines()) == 1


@pytest.mark.parametrize("name", ["binary-width", pytest.param("nasnet", marks=pytest.mark.slow)])
def test_a_network_of_each_kind_of_body_is_loaded(name, tmp_path):
    """Bodies differ in the channels that they end with: by the last choices of widths, and in how many states join."""
    space: Any = dataclasses.replace(
        default_of("space", f"{name}:tiny"), image_size=8, image_channels=1, num_classes=10
    )
    rows = [np.zeros(len(space.cardinalities), np.int32), np.array(space.cardinalities, np.int32) - 1]
    for i, row in enumerate(np.asarray(space.canonical(jnp.asarray(rows)))):
        exported(tmp_path / f"{i}", name, space, row, NAMES)
        assert nas.load(tmp_path / f"{i}").predict(noise(2)).shape == (2, 10)
