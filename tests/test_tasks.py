"""Tasks: parts that are fixed and stratified, readers that take every usual form, refusals of one line."""

import gzip
import io
import sys
import tarfile
import zipfile
import zlib
from pathlib import Path, PurePosixPath

import numpy as np
import pytest
from conftest import SHARED, refusal
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from nas.errors import UsageError
from nas.store.sql import Store
from nas.tasks import NAMES, Reading, check_name, load
from nas.tasks.base import Split, Task, split
from nas.tasks.cifar import BATCHES, BINARY, parse_pickle
from nas.tasks.fashion import read_idx
from nas.tasks.folders import class_folders
from nas.tasks.kinds.classification import Classification
from nas.tasks.pixels import as_uint8, decode, in_colour, resize

PARTS = ("train", "valid", "test")


def pictures(labels, size=4, channels=1) -> np.ndarray:
    """Noise whose first two bytes number the images, so that a part shows which images it holds."""
    n = len(labels)
    images = np.random.default_rng(0).integers(0, 256, (n, size, size, channels), dtype=np.uint8)
    images[:, 0, 0, 0], images[:, 0, 1, 0] = np.divmod(np.arange(n), 256)
    return images


def numbers(part: Split) -> list[int]:
    first = part.images[:, 0, :2, 0].astype(int)
    return (first[:, 0] * 256 + first[:, 1]).tolist()


def labelled(counts) -> np.ndarray:
    return np.repeat(np.arange(len(counts)), counts)


def make(counts, **options) -> Task:
    labels = labelled(counts)
    return split("toy", pictures(labels), labels, len(counts), **options)


# The split

CLASS_COUNTS = st.lists(st.integers(2, 30), min_size=2, max_size=6)


@given(CLASS_COUNTS, st.integers(0, 5))
@hypothesis_settings(deadline=None, max_examples=60)
def test_the_parts_are_a_stratified_partition(counts, seed):
    task, n = make(counts, seed=seed), sum(counts)
    held = [number for part in PARTS for number in numbers(getattr(task, part))]
    assert sorted(held) == list(range(n))
    assert len(task.valid) == len(task.test) == max(1, round(0.2 * n))
    for part in PARTS:
        drawn = np.bincount(getattr(task, part).labels, minlength=len(counts))
        expected = np.array(counts) * len(getattr(task, part)) / n
        # Rounded at both ends of the piece, for this class and, by its share, for all of them.
        assert (np.abs(drawn - expected) <= 1 + len(counts) * np.array(counts) / n).all()
    assert set(task.train.labels) == set(range(len(counts)))
    for part in PARTS:
        assert np.array_equal(labelled(counts)[numbers(getattr(task, part))], getattr(task, part).labels)


@given(CLASS_COUNTS, st.integers(0, 200))
@hypothesis_settings(deadline=None, max_examples=60)
def test_a_limit_keeps_every_class_and_part_of_what_a_larger_one_keeps(counts, extra):
    limit = 2 * len(counts) + extra
    small, large, whole = make(counts, max_images=limit), make(counts, max_images=limit + 7), make(counts)
    assert len(small.train) + len(small.valid) == min(limit, len(whole.train) + len(whole.valid))
    assert set(small.train.labels) == set(range(len(counts)))
    for part in PARTS:
        assert len(getattr(small, part)) >= 1
        assert set(numbers(getattr(small, part))) <= set(numbers(getattr(large, part)))
        assert set(numbers(getattr(small, part))) <= set(numbers(getattr(whole, part)))


def test_the_same_seed_gives_the_same_task_and_another_does_not():
    tasks = [make([20, 20, 20], seed=seed) for seed in (0, 0, 1)]
    assert tasks[0].fingerprint() == tasks[1].fingerprint() != tasks[2].fingerprint()


def test_each_part_opens_with_one_image_of_each_class():
    task = make([40, 20, 10])
    assert all(set(getattr(task, part).labels[:3]) == {0, 1, 2} for part in PARTS)


def test_given_parts_stay_apart():
    labels = labelled([20, 20])
    other = pictures(labels) ^ 255, labels
    task = split("toy", pictures(labels), labels, 2, test=other)
    assert (len(task.train), len(task.valid), len(task.test)) == (36, 4, 40)
    assert sorted(numbers(task.train) + numbers(task.valid)) == list(range(40))
    task = split("toy", pictures(labels), labels, 2, valid=other, test=other)
    assert (len(task.train), len(task.valid), len(task.test)) == (40, 40, 40)


def test_a_limit_caps_test_in_proportion():
    task = make([100, 100], max_images=40)
    assert (len(task.train), len(task.valid), len(task.test)) == (30, 10, 10)


def test_mean_and_std_are_those_of_train():
    labels = labelled([30, 30])
    images = pictures(labels, channels=3)
    images[..., 2] = 51
    task = split("toy", images, labels, 2)
    unit = task.train.images / 255
    assert task.mean == pytest.approx(unit.mean(axis=(0, 1, 2)))
    assert task.std[:2] == pytest.approx(unit.std(axis=(0, 1, 2))[:2])
    assert task.std[2] == pytest.approx(1 / 255), "a constant channel can be divided by its std"


def test_a_task_cannot_be_written_to_and_leaves_its_source_alone():
    labels = labelled([5, 5])
    images = pictures(labels)
    task = split("toy", images, labels, 2)
    with pytest.raises(ValueError, match="read-only"):
        task.train.images[0] = 0
    assert images.flags.writeable


def test_the_fingerprint_sees_every_array_and_not_the_name():
    task = make([9, 9])
    prints = {task.fingerprint()}
    for part in PARTS:
        old = getattr(task, part)
        for new in (Split(old.images ^ 1, old.labels), Split(old.images, 1 - old.labels)):
            fields = {**{p: getattr(task, p) for p in PARTS}, part: new}
            prints.add(Task("toy", **fields, kind=Classification(2), mean=task.mean, std=task.std).fingerprint())
    assert len(prints) == 7
    fields = {p: getattr(task, p) for p in PARTS}
    assert Task("other", **fields, kind=Classification(2), mean=(0.0,), std=(1.0,)).fingerprint() == task.fingerprint()


LABELS = labelled([6, 6])
IMAGES = pictures(LABELS)


def spoilt(array, index, value, dtype=None) -> np.ndarray:
    copy = array.astype(dtype or array.dtype)
    copy[index] = value
    return copy


BAD_SPLITS = [
    ({"images": IMAGES[:, 0, 0]}, "train.images=[12, 1] must be [n, height, width]"),
    ({"images": IMAGES.transpose(0, 3, 1, 2).repeat(5, axis=3)[:, :, :4, :20]}, "of 1..4 channels"),
    ({"images": IMAGES[:0], "labels": LABELS[:0]}, "not empty"),
    ({"images": IMAGES[:, :, :0]}, "not empty"),
    ({"images": spoilt(IMAGES / 255, (3, 1, 1, 0), np.nan)}, "train.images=nan must lie in 0..1"),
    ({"images": spoilt(IMAGES / 255, (3, 1, 1, 0), 1.5)}, "train.images=1.5 must lie in 0..1"),
    ({"images": spoilt(IMAGES, (3, 1, 1, 0), 256, np.int64)}, "train.images=256 must lie in 0..255"),
    ({"images": spoilt(IMAGES, (3, 1, 1, 0), -1, np.int64)}, "train.images=-1 must lie in 0..255"),
    ({"images": IMAGES.astype(str)}, "train.images has dtype <U3"),
    ({"images": IMAGES.astype(object)}, "train.images has dtype object"),
    ({"labels": LABELS[:-1]}, "train.labels=[11] must be [12]"),
    ({"labels": LABELS[:, None]}, "train.labels=[12, 1] must be [12]"),
    ({"labels": spoilt(LABELS, 4, -1)}, "train.labels[4]=-1 must lie in 0..1"),
    ({"labels": spoilt(LABELS, 4, 2)}, "train.labels[4]=2 must lie in 0..1"),
    ({"labels": spoilt(LABELS, 4, 2**32, np.uint64)}, "train.labels[4]=4294967296 must lie in 0..1"),
    ({"num_classes": 3}, "class 2 has 0 training images, 2 are needed"),
    ({"num_classes": 13}, "num_classes=13 must lie in 2..12"),
    ({"labels": LABELS * 0, "num_classes": 1}, "num_classes=1 must lie in 2..12"),
    ({"labels": spoilt(LABELS * 0, 4, 1)}, "class 1 has 1 training images, 2 are needed"),
    ({"test": (IMAGES[:, :2], LABELS)}, "test.images=[2, 4, 1] must be [4, 4, 1]"),
    ({"test": (IMAGES, LABELS + 1)}, "test.labels[6]=2 must lie in 0..1"),
    ({"valid": (IMAGES[:0], LABELS[:0])}, "valid.images=[0, 4, 4, 1] must be"),
    ({"max_images": 3}, "max_images=3 must be at least 4, two images a class"),
    ({"max_images": 0}, "max_images=0 must be a whole number, 1 or more"),
    ({"seed": -1}, "split_seed=-1 must be a whole number, in 0..4294967295"),
    ({"image_size": 3}, "image_size=3 must be a whole number, in 4..1024"),
    ({"image_size": 4096}, "image_size=4096 must be"),
]


@pytest.mark.parametrize(("change", "said"), BAD_SPLITS, ids=[said for _, said in BAD_SPLITS])
def test_a_split_refuses_in_one_line(change, said):
    good = {"images": IMAGES, "labels": LABELS, "num_classes": 2}
    split("toy", **good)
    assert said in refusal(split, "toy", **{**good, **change})


def test_a_part_has_the_types_it_says():
    good = IMAGES, LABELS.astype(np.int32)
    assert len(Split(*good)) == 12
    assert "must be uint8" in refusal(Split, IMAGES / 255, good[1])
    assert "must be uint8" in refusal(Split, IMAGES[0], good[1])
    assert "must be int32 or float32 [12, ...]" in refusal(Split, IMAGES, LABELS.astype(np.int64))
    assert "must be int32 or float32 [12, ...]" in refusal(Split, IMAGES, good[1][:-1])


# Pixels


def test_floats_are_scaled_by_255_and_rounded_and_uint8_is_left_alone():
    levels = np.arange(256, dtype=np.uint8)
    assert as_uint8("x", levels) is levels
    for dtype in (np.float16, np.float32, np.float64):
        assert np.array_equal(as_uint8("x", (levels / 255).astype(dtype)), levels)
    assert np.array_equal(as_uint8("x", levels.astype(np.int64)), levels)
    assert as_uint8("x", np.array([False, True])).tolist() == [0, 255]


def test_resizing_is_pillows_channel_by_channel():
    images = pictures(range(3), size=6, channels=3)[:, :, :4]
    resized = resize(images, 5, "stretch")
    for image, small in zip(images, resized, strict=True):
        assert np.array_equal(Image.fromarray(image).resize((5, 5), Image.Resampling.BILINEAR), small)
    assert resize(resized, 5) is resized
    assert resize(images[..., :2], 5).shape == (3, 5, 5, 2)


def test_oblong_arrays_become_squares_of_their_shorter_side_or_padded_of_their_longer_one():
    for mode, size in (("crop", 3), ("stretch", 3), ("pad", 4)):
        assert split("toy", IMAGES[:, :3], LABELS, 2, resize=mode).image_size == size
    assert split("toy", IMAGES[:, :3], LABELS, 2, image_size=8).image_size == 8


# Each column of 8 has a grey of its own, which shows what becomes of it.
WIDE = np.repeat(np.array([10, 20, 30, 40, 50, 60, 70, 80], np.uint8)[None, None, :, None], 4, axis=1)


def test_crop_keeps_the_centre_pad_all_of_it_between_black_and_stretch_every_column():
    rows = {mode: resize(WIDE, 4, mode)[0, :, :, 0].tolist() for mode in ("crop", "pad", "stretch")}
    assert rows["crop"] == [[30, 40, 50, 60]] * 4
    assert rows["stretch"] == np.asarray(Image.fromarray(WIDE[0, :, :, 0]).resize((4, 4), 2)).tolist()
    assert rows["pad"] == [[0] * 4, rows["stretch"][0], rows["stretch"][0], [0] * 4]
    assert np.array_equal(resize(WIDE, 8, "pad")[:, 2:6], WIDE), "nothing is scaled where that is not needed"
    for mode in ("crop", "pad", "stretch"):
        upright = resize(WIDE.transpose(0, 2, 1, 3), 6, mode)
        assert np.array_equal(upright.transpose(0, 2, 1, 3), resize(WIDE, 6, mode)), "rows are as columns"
        assert resize(np.full((1, 1, 900, 2), 7, np.uint8), 5, mode).shape == (1, 5, 5, 2)


def test_files_and_arrays_are_resized_alike(tmp_path):
    place = write_classes(tmp_path, {".": 5}, classes=2, size=(5, 9))
    for mode in ("crop", "pad", "stretch"):
        task = load(f"folder:{place}", image_size=4, resize=mode)
        kept = np.concatenate([part.images for part in (task.train, task.valid, task.test)])
        files = [np.asarray(Image.open(file)) for file in place.rglob("*.png")]
        expected = resize(np.stack(files), 4, mode)
        assert sorted(image.tobytes() for image in kept) == sorted(image.tobytes() for image in expected)


# What is said of it


def test_a_task_that_changed_no_image_says_nothing():
    task = make([6, 6])
    assert (task.note, task.resize) == (None, None)
    assert make([6, 6], image_size=4).note is None


def test_a_task_says_what_became_of_its_images():
    square = make([6, 6], image_size=8)
    assert square.note == "toy: 12 images of 4 x 4 pixels are resized to 8 x 8; --image-size chooses"
    assert square.resize == "crop"
    oblong = split("toy", IMAGES[:, :3], LABELS, 2, resize="pad")
    said = "are resized to 4 x 4 by pad; --image-size and --resize choose"
    assert oblong.note == f"toy: 12 images of 4 x 3 pixels, width x height, {said}"
    assert oblong.resize == "pad"


def test_a_folder_keeps_squares_of_one_size_and_says_what_becomes_of_others(tmp_path):
    alike = load(f"folder:{write_classes(tmp_path / 'alike', {'.': 5}, classes=2)}")
    assert (alike.image_size, alike.note, alike.resize) == (6, None, None)
    place = write_classes(tmp_path / "mixed", {".": 5}, classes=2)
    last = pictures([0], size=50, channels=3)[0]
    (place / "class1/x.png").write_bytes(encoded(last[:40]))
    mixed = load(f"folder:{place}")
    assert mixed.image_size == 32
    said = "11 images of 6 x 6 to 50 x 40 pixels, width x height, are resized to 32 x 32 by crop"
    assert mixed.note == f"folder:{place}: {said}; --image-size and --resize choose"
    given = load(f"folder:{place}", image_size=32)
    assert given.fingerprint() == mixed.fingerprint(), "each is resized once"
    assert "10 images of 6 x 6 pixels are" in str(load(f"folder:{tmp_path / 'alike'}", image_size=8).note)


@pytest.mark.usefixtures("unchecked")  # nor does the type allow it
def test_another_way_to_resize_is_refused():
    assert "resize='fill' must be crop, pad or stretch" in refusal(load, "npz:/nowhere", resize="fill")
    assert "resize='fill' must be crop, pad or stretch" in refusal(split, "toy", IMAGES, LABELS, 2, resize="fill")


# Names of classes


def test_classes_are_named_by_label_where_nobody_names_them():
    task = make([9, 9])
    assert task.classes == ("0", "1")
    assert load("digits").classes == tuple("0123456789")
    named = make([9, 9], classes=("ant", "bee"))
    assert named.classes == ("ant", "bee")
    assert named.fingerprint() == task.fingerprint()


BAD_NAMES = [
    (("ant",), "task='toy': classes=1 names must be 2, one for each label"),
    (("ant", "ant"), "classes: 'ant' stands for two labels"),
    (("ant", ""), "classes: '' must be a text that is not empty"),
    (("ant", 3), "classes: 3 must be a text that is not empty"),
]


@pytest.mark.usefixtures("unchecked")  # of which the types allow not all
@pytest.mark.parametrize(("classes", "said"), BAD_NAMES, ids=[said for _, said in BAD_NAMES])
def test_other_names_of_classes_are_refused(classes, said):
    assert said in refusal(make, [9, 9], classes=classes)


def encoded(array, kind="PNG", **options) -> bytes:
    buffer = io.BytesIO()
    (array if isinstance(array, Image.Image) else Image.fromarray(array)).save(buffer, kind, **options)
    return buffer.getvalue()


COLOUR = pictures([0], size=6, channels=3)[0]
HEADER = b"IHDR\0\1\0\0\0\1\0\0\x08\0\0\0\0"  # 65536 x 65536 grey pixels
BOMB = b"\x89PNG\r\n\x1a\n\0\0\0\r" + HEADER + zlib.crc32(HEADER).to_bytes(4, "big") + b"\0\0\0\0IDAT" + b"\0" * 4
BAD_IMAGES = [
    (b"", "is not a readable JPEG, PNG, WebP, TIFF or BMP image"),
    (b"no image", "is not a readable JPEG, PNG, WebP, TIFF or BMP image"),
    (encoded(pictures([0], 64, 3)[0])[:2000], "is not a readable JPEG, PNG, WebP, TIFF or BMP image"),
    (encoded(pictures([0], 64, 3)[0], "JPEG")[:900], "is not a readable JPEG, PNG, WebP, TIFF or BMP image"),
    (encoded(COLOUR, "GIF"), "is not a readable JPEG, PNG, WebP, TIFF or BMP image"),
    (encoded(Image.fromarray(np.zeros((6, 6), np.float32)), "TIFF"), "has mode F; allowed: 1, L"),
    (BOMB, "is not a readable JPEG, PNG, WebP, TIFF or BMP image (DecompressionBombError)"),
    (encoded(Image.new("1", (8000, 8000))), "has 8000 x 8000 pixels; allowed: 50000000"),
]


@pytest.mark.parametrize(("data", "said"), BAD_IMAGES, ids=[said for _, said in BAD_IMAGES])
def test_an_image_is_refused_by_name(data, said):
    assert f"a/b.png {said}" in refusal(decode, "a/b.png", data)


def test_images_of_every_common_mode_become_colour():
    assert np.array_equal(decode("x", encoded(COLOUR)), COLOUR)
    grey = decode("x", encoded(COLOUR[..., 0]))
    assert np.array_equal(grey, COLOUR[..., :1].repeat(3, axis=2))
    palette = Image.fromarray(COLOUR).quantize(8)
    for image in (palette, Image.new("LA", (6, 6)), Image.new("RGBA", (6, 6)), Image.new("1", (6, 6))):
        assert np.asarray(decode("x", encoded(image))).shape == (6, 6, 3)
    transparent = encoded(palette, transparency=bytes(range(8)))
    assert np.array_equal(decode("x", transparent), np.asarray(palette.convert("RGB")))
    assert np.asarray(decode("x", encoded(Image.new("CMYK", (6, 6)), "JPEG"))).shape == (6, 6, 3)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["JPEG", "PNG", "TIFF"])
def test_a_photo_is_upright_however_the_camera_was_held(orientation, form):
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    Image.fromarray(COLOUR[:, :3]).save(file, form, exif=exif)
    with Image.open(file) as image:
        image.load()  # which turns a TIFF by itself
        expected = ImageOps.exif_transpose(image).convert("RGB")
    if form == "TIFF":
        assert np.array_equal(np.sort(np.asarray(expected), None), np.sort(COLOUR[:, :3], None))
        assert expected.size == ((3, 6) if orientation < 5 else (6, 3))
    found = decode("x", file.getvalue())
    assert np.array_equal(found, expected)
    assert np.array_equal(in_colour("x", found), expected), "it is not turned again"


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")  # of Pillow, when it opens the file
@pytest.mark.parametrize("exif", [b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0" + b"x" * 30, b"x"])
def test_a_photo_whose_exif_is_damaged_is_as_it_lies_there(exif):
    for form in ("JPEG", "PNG"):
        file, plain = io.BytesIO(), io.BytesIO()
        Image.fromarray(COLOUR).save(file, form, exif=exif)
        Image.fromarray(COLOUR).save(plain, form)
        assert np.array_equal(decode("x", file.getvalue()), decode("x", plain.getvalue()))


# Names


@pytest.mark.parametrize("name", ["digits", "fashion-mnist", "cifar10", "npz:a.npz", "folder:/a/b", "folder:C:/a"])
def test_names_are_checked_without_loading(name):
    check_name(name)


@pytest.mark.parametrize("name", ["", "digit", "digits:", "digits:x", "npz", "npz:", "folder", ":x", "Digits", "a\nb"])
def test_other_names_are_refused(name):
    message = refusal(check_name, name)
    assert all(known in message for known in NAMES)
    assert message == refusal(load, name)


def test_data_dir_is_refused_where_it_would_do_nothing():
    assert "data_dir='x' is not used by task='digits'" in refusal(load, "digits", data_dir="x")


@pytest.mark.parametrize("option", ["split_seed", "max_images", "image_size"])
def test_numbers_are_checked_before_anything_is_read(option):
    assert f"{option}=-1 must" in refusal(load, "npz:/nowhere", **{option: -1})


# Digits


def test_digits_are_split_60_20_20_and_for_ever_the_same():
    task = load("digits")
    assert (len(task.train), len(task.valid), len(task.test)) == (1079, 359, 359)
    assert (task.image_size, task.image_channels, task.num_classes) == (8, 1, 10)
    assert np.unique(task.train.images).tolist() == np.rint(np.arange(17) * 255 / 16).tolist()
    assert task.fingerprint().startswith("12636a5b10369d7e")


def test_digits_can_be_few_and_large():
    task = load("digits", max_images=100, image_size=16, split_seed=3)
    assert (len(task.train), len(task.valid), len(task.test)) == (75, 25, 25)
    assert task.image_size == 16


# Fashion-MNIST


def idx(array) -> bytes:
    sizes = b"".join(n.to_bytes(4, "big") for n in array.shape)
    return bytes([0, 0, 8, array.ndim]) + sizes + array.astype(np.uint8).tobytes()


def write_fashion(folder: Path, packed: bool = True) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for part, each in (("train", 20), ("t10k", 5)):
        labels = labelled([each] * 10)
        for name, array in (("images-idx3", pictures(labels, 28)[..., 0]), ("labels-idx1", labels)):
            path = folder / f"{part}-{name}-ubyte{'.gz' * packed}"
            path.write_bytes(gzip.compress(idx(array), 1) if packed else idx(array))


def test_fashion_mnist_is_read_packed_and_unpacked(tmp_path):
    write_fashion(tmp_path / "a")
    write_fashion(tmp_path / "b", packed=False)
    a, b = (load("fashion-mnist", data_dir=str(tmp_path / folder)) for folder in "ab")
    assert a.fingerprint() == b.fingerprint()
    assert (len(a.train), len(a.valid), len(a.test)) == (180, 20, 50)
    assert (a.image_size, a.image_channels) == (28, 1)
    assert np.array_equal(a.train.labels, np.array(numbers(a.train)) // 20)
    assert (a.classes[0], a.classes[9]) == ("T-shirt/top", "Ankle boot")


def test_fashion_mnist_is_found_under_the_prefix(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    monkeypatch.setattr("nas.tasks.fashion.SYSTEM_PREFIX", str(tmp_path / "none"))
    message = refusal(load, "fashion-mnist")
    assert "apt-get install dataset-fashion-mnist, or give its folder as data_dir" in message
    write_fashion(tmp_path / "share/datasets/fashion-mnist")
    assert len(load("fashion-mnist").test) == 50


GOOD_LABELS = idx(labelled([20] * 10))
BAD_IDX = [
    (b"no gzip at all", "cannot be read (BadGzipFile)"),
    (gzip.compress(GOOD_LABELS)[:-9], "cannot be read (EOFError)"),
    (gzip.compress(GOOD_LABELS)[:12] + b"\xff" * 30, "cannot be read (error)"),
    (gzip.compress(b""), "begins with ''; allowed: '00000801'"),
    (gzip.compress(GOOD_LABELS[:6]), "begins with '00000801'"),
    (gzip.compress(idx(np.zeros((20, 2, 2)))), "begins with '00000803'; allowed: '00000801'"),
    (gzip.compress(b"\0\0\x09\1" + GOOD_LABELS[4:]), "begins with '00000901'"),
    (gzip.compress(GOOD_LABELS[:-1]), "holds 199 values; its header, [200], says 200"),
    (gzip.compress(GOOD_LABELS + b"\0"), "holds 201 values"),
    (
        gzip.compress(GOOD_LABELS[:4] + b"\xff" * 4 + GOOD_LABELS[8:]),
        "4294967295 values; allowed: 268435456",
    ),
    (gzip.compress(GOOD_LABELS + b"\0" * 10**7), "holds 201 values"),
    (gzip.compress(idx(labelled([20] * 9))), "train.labels=[180] must be [200]"),
    (gzip.compress(idx(labelled([20] * 10) + 1)), "train.labels[180]=10 must lie in 0..9"),
]


@pytest.mark.parametrize(("data", "said"), BAD_IDX, ids=[said for _, said in BAD_IDX])
def test_a_damaged_idx_file_is_refused(tmp_path, data, said):
    write_fashion(tmp_path)
    (tmp_path / "train-labels-idx1-ubyte.gz").write_bytes(data)
    assert said in refusal(load, "fashion-mnist", data_dir=str(tmp_path))


def test_an_idx_file_that_says_it_is_too_large_is_refused(tmp_path, monkeypatch):
    write_fashion(tmp_path)
    monkeypatch.setattr("nas.tasks.fashion.MAX_HELD", 199)
    assert "is to hold 200 values; allowed: 199" in refusal(read_idx, tmp_path / "train-labels-idx1-ubyte.gz", 1)


def test_a_missing_idx_file_is_named(tmp_path):
    write_fashion(tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte.gz").unlink()
    assert "t10k-labels-idx1-ubyte.gz is not in" in refusal(load, "fashion-mnist", data_dir=str(tmp_path))


@pytest.mark.slow
def test_the_packaged_fashion_mnist():
    try:
        task = load("fashion-mnist")
    except UsageError as error:
        pytest.skip(str(error))
    assert (len(task.train), len(task.valid), len(task.test)) == (54_000, 6_000, 10_000)
    assert task.mean == pytest.approx((0.286,), abs=1e-3)


# CIFAR-10


def batch(number: int, n: int = 20) -> tuple[np.ndarray, np.ndarray]:
    """Rows as the official files hold them, a colour plane at a time, and labels."""
    rows = np.random.default_rng(number).integers(0, 256, (n, 3072), dtype=np.uint8)
    return rows, np.arange(n) % 10


def short(text: bytes) -> bytes:
    return b"U" + bytes([len(text)]) + text


def array_pickle(data: bytes, shape: tuple[int, int], dtype: bytes = b"u1") -> bytes:
    """An array as NumPy pickled it under Python 2."""
    sizes = b"".join(b"J" + size.to_bytes(4, "little") for size in shape)
    return (
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\0\x85U\x01b\x87R"
        + b"(K\1"
        + sizes
        + b"\x86cnumpy\ndtype\n"
        + short(dtype)
        + b"K\0K\1\x87R(K\3U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0tb\x89"
        + b"T"
        + len(data).to_bytes(4, "little")
        + data
        + b"tb"
    )


def batch_pickle(data: bytes, labels: bytes) -> bytes:
    return b"\x80\2}(U\x06labels" + labels + b"U\x04data" + data + b"U\x09filenames](U\x05a.pngeu."


def label_pickle(labels) -> bytes:
    return b"](" + b"".join(b"K" + bytes([label]) for label in labels) + b"e"


ROWS, ROW_LABELS = batch(0)
GOOD_DATA, GOOD_LIST = array_pickle(ROWS.tobytes(), ROWS.shape), label_pickle(ROW_LABELS)


def write_cifar(folder: Path, names: list[str]) -> Path:
    folder.mkdir(parents=True)
    for i, name in enumerate(names):
        rows, labels = batch(i)
        if name.endswith(".bin"):
            data = np.hstack([labels[:, None].astype(np.uint8), rows]).tobytes()
        else:
            data = batch_pickle(array_pickle(rows.tobytes(), rows.shape), label_pickle(labels))
        (folder / name).write_bytes(data)
    return folder


def write_classes(
    folder: Path, counts: dict[str, int], classes: int = 10, kind: str = "PNG", size: tuple[int, int] = (6, 6)
) -> Path:
    for part, n in counts.items():
        for label in range(classes):
            place = folder / part / f"class{label}"
            place.mkdir(parents=True)
            for i in range(n):
                image = pictures(range(n), size=max(size), channels=3)[i, : size[0], : size[1]]
                image[0, 0] = 20 * label
                (place / f"{i}.{kind.lower()}").write_bytes(encoded(image, kind))
    return folder


def tarred(folder: Path, path: Path) -> str:
    """A tar of the folder, its files in reverse order."""
    with tarfile.open(path, f"w:{path.suffix[1:]}" if path.suffix != ".tar" else "w") as tar:
        for file in sorted(folder.rglob("*"), reverse=True):
            tar.add(file, Path(folder.name) / file.relative_to(folder), recursive=False)
    return str(path)


def test_every_form_of_the_batches_makes_the_same_task(tmp_path):
    binary = write_cifar(tmp_path / "a/cifar-10-batches-bin", BINARY)
    pickled = write_cifar(tmp_path / "b/cifar-10-batches-py", BATCHES)
    (tmp_path / "c").mkdir()
    places = [binary, binary.parent, pickled, pickled.parent]
    places += [tarred(binary, tmp_path / "c/a.tar.gz"), tmp_path / "c", tarred(pickled, tmp_path / "b.tar")]
    tasks = [load("cifar10", data_dir=str(place)) for place in places]
    assert len({task.fingerprint() for task in tasks}) == 1
    assert (len(tasks[0].train), len(tasks[0].valid), len(tasks[0].test)) == (90, 10, 20)
    assert (tasks[0].image_size, tasks[0].image_channels) == (32, 3)
    assert (tasks[0].classes[0], tasks[0].classes[9], tasks[0].note) == ("airplane", "truck", None)


def test_the_planes_of_a_batch_become_channels():
    images, labels = parse_pickle("x", batch_pickle(GOOD_DATA, GOOD_LIST))
    assert np.array_equal(labels, ROW_LABELS)
    for plane in range(3):
        assert np.array_equal(images[5, :, :, plane].ravel(), ROWS[5, 1024 * plane : 1024 * (plane + 1)])


def test_a_batch_that_is_missing_or_cut_is_named(tmp_path):
    folder = write_cifar(tmp_path / "a", BINARY)
    path = folder / "data_batch_3.bin"
    path.write_bytes(path.read_bytes()[:-1])
    assert "data_batch_3.bin has 61459 bytes; allowed: a multiple of 3073" in refusal(
        load, "cifar10", data_dir=str(folder)
    )
    path.unlink()
    assert "lacks data_batch_3.bin" in refusal(load, "cifar10", data_dir=str(folder))


FLAT = ROWS.tobytes()
BAD_PICKLES = {
    "empty": b"",
    "text": b"no pickle",
    "cut": batch_pickle(GOOD_DATA, GOOD_LIST)[:30_000],
    "not a dictionary": b"\x80\2](K\1e.",
    "no labels": b"\x80\2}(U\x04data" + GOOD_DATA + b"u.",
    "labels out of range": batch_pickle(GOOD_DATA, label_pickle([10] * 20)),
    "fewer labels than images": batch_pickle(GOOD_DATA, label_pickle([1] * 19)),
    "labels that are floats": batch_pickle(GOOD_DATA, b"](G?\xf0\0\0\0\0\0\0e"),
    "labels that are a call": batch_pickle(GOOD_DATA, b"cnumpy\ndtype\nU\x02u1\x85R"),
    "data that is bytes": batch_pickle(b"U\x01x", GOOD_LIST),
    "an array of floats": batch_pickle(array_pickle(FLAT, (20, 384), b"f8"), GOOD_LIST),
    "an array of objects": batch_pickle(array_pickle(FLAT, ROWS.shape, b"O"), GOOD_LIST),
    "an array that says more than it holds": batch_pickle(array_pickle(FLAT, (21, 3072)), GOOD_LIST),
    "an array of other rows": batch_pickle(array_pickle(FLAT, (40, 1536)), GOOD_LIST),
    "a memo of gigabytes": b"\x80\2Nr\xff\xff\xff\x7f.",
    "a string of gigabytes": b"\x80\4\x8e" + b"\xff" * 7 + b"\0x.",
    "a name that is no array": b"\x80\2cnumpy\nload\nU\x01x\x85R.",
    "a name without a call": b"cbuiltins\neval\n.",
    "a persistent object": b"Px\n.",
}


@pytest.mark.parametrize("kind", BAD_PICKLES)
def test_a_bad_pickle_is_refused(kind):
    data = BAD_PICKLES[kind]
    assert refusal(parse_pickle, "data_dir='x': test_batch", data).startswith("data_dir='x': test_batch")


@pytest.mark.parametrize("start", [b"cos\nsystem\n", b"\x80\4\x8c\x02os\x8c\x06system\x93"])
def test_a_pickle_calls_nothing(tmp_path, start):
    victim = tmp_path / "victim"
    command = f"touch {victim}".encode()
    call = start + b"X" + len(command).to_bytes(4, "little") + command + b"\x85R."
    assert "names 'os.system', which is not plain data" in refusal(parse_pickle, "x", call)
    assert not victim.exists()


def test_class_folders_make_cifar10_too_and_a_tar_of_them_is_the_same(tmp_path):
    folder = write_classes(tmp_path / "images", {"train": 4, "test": 2})
    task = load("cifar10", data_dir=str(folder))
    assert (len(task.train), len(task.valid), len(task.test)) == (36, 4, 20)
    assert (task.image_size, task.num_classes) == (32, 10)
    assert task.classes == tuple(f"class{i}" for i in range(10))
    assert "60 images of 6 x 6 pixels are resized to 32 x 32" in str(task.note)
    tar = tarred(folder, tmp_path / "images.tar.xz")
    assert load("cifar10", data_dir=tar).fingerprint() == task.fingerprint()
    assert load("cifar10", data_dir=tar, image_size=6).image_size == 6
    assert not list(tmp_path.glob("*/images*")), "nothing was extracted"


def test_cifar10_has_ten_classes_and_a_place(tmp_path):
    folder = write_classes(tmp_path / "images", {"train": 2, "test": 1}, classes=3)
    assert "has 3 class folders; cifar10 has 10" in refusal(load, "cifar10", data_dir=str(folder))
    assert "data_dir=None must be the folder or the tar" in refusal(load, "cifar10")
    assert "does not exist" in refusal(load, "cifar10", data_dir=str(tmp_path / "none"))


@pytest.mark.slow
def test_the_shared_cifar10():
    tar = SHARED / "images/cifar10_jpeg/cifar10_jpeg_60000.tar.xz"
    if not tar.exists():
        pytest.skip(f"NAS_SHARED: {tar} is absent")
    task = load("cifar10", data_dir=str(tar))
    assert (len(task.train), len(task.valid), len(task.test)) == (45_000, 5_000, 10_000)
    assert np.bincount(task.valid.labels).tolist() == [500] * 10
    # The published statistics of the originals; JPEG moves them a little.
    assert task.mean == pytest.approx((0.4914, 0.4822, 0.4465), abs=2e-3)
    assert task.std == pytest.approx((0.2470, 0.2435, 0.2616), abs=4e-3)


# Archives of arrays


def write_npz(path: Path, **arrays) -> str:
    np.savez(path, **arrays)
    return f"npz:{path}"


PAIR = {"images": IMAGES[..., 0] / 255, "labels": LABELS}


def prefixed(**parts) -> dict:
    return {f"{part}_{key}": value for part, pair in parts.items() for key, value in pair.items()}


def test_npz_in_one_piece_and_in_parts(tmp_path):
    whole = load(write_npz(tmp_path / "a.npz", **PAIR, comment=np.array("ignored")))
    assert (len(whole.train), len(whole.valid), len(whole.test)) == (8, 2, 2)
    assert (whole.num_classes, whole.image_channels, whole.image_size) == (2, 1, 4)
    assert whole.classes == ("0", "1")
    named = load(write_npz(tmp_path / "n.npz", **PAIR, classes=np.array(["ant", "bee"])))
    assert named.classes == ("ant", "bee")
    assert named.fingerprint() == whole.fingerprint()
    parts = load(write_npz(tmp_path / "b.npz", **prefixed(train=PAIR, test=PAIR)))
    assert (len(parts.train), len(parts.valid), len(parts.test)) == (11, 1, 12)
    parts = load(write_npz(tmp_path / "c.npz", **prefixed(train=PAIR, valid=PAIR, test=PAIR)))
    assert (len(parts.train), len(parts.valid), len(parts.test)) == (12, 12, 12)


BAD_NPZ = [
    ({**PAIR, "images": np.array([{}] * 12, object)}, "holds pickled objects, which are not read; allowed"),
    ({"x_train": IMAGES, "y_train": LABELS}, "has the arrays ['x_train', 'y_train']; allowed: images and"),
    ({"images": IMAGES}, "has no labels; allowed"),
    (prefixed(train=PAIR, test={"labels": LABELS}), "has no test_images; allowed"),
    (prefixed(test=PAIR), "allowed: images and labels, or train_images"),
    ({**PAIR, **prefixed(train=PAIR)}, "has both images and train_images"),
    (
        {**PAIR, "labels": LABELS.astype(str)},
        "train.labels has dtype <U21 and 1 axes; allowed: integers [n] or",
    ),
    ({**PAIR, "labels": np.zeros(0, int)}, "train.labels=[0] must be [12]"),
    ({**PAIR, "labels": LABELS * 10**9}, "num_classes=1000000001 must lie in 2..12"),
    ({**PAIR, "labels": LABELS * 2}, "class 1 has 0 training images"),
    ({**PAIR, "classes": np.array(["ant"])}, "classes=<U3 [1] must be texts [2], one for each label"),
    ({**PAIR, "classes": np.array([0, 1])}, "classes=int64 [2] must be texts [2]"),
    ({**PAIR, "classes": np.array("ant")}, "classes=<U3 [] must be texts [2]"),
    ({**PAIR, "classes": np.array(["ant", "ant"])}, "classes: 'ant' stands for two labels"),
    ({**PAIR, "classes": np.array(["ant", None], object)}, "holds pickled objects, which are not read; allowed"),
    ({**PAIR, "images": IMAGES * 1.0}, "must lie in 0..1, as float64 values do"),
]


@pytest.mark.parametrize(("arrays", "said"), BAD_NPZ, ids=[said for _, said in BAD_NPZ])
def test_other_arrays_are_refused(tmp_path, arrays, said):
    assert said in refusal(load, write_npz(tmp_path / "a.npz", **arrays))


def test_what_is_no_complete_npz_is_refused(tmp_path):
    path = tmp_path / "a.npz"
    name = write_npz(path, **PAIR)
    data = path.read_bytes()
    np.save(tmp_path / "one.npy", IMAGES)
    single = (tmp_path / "one.npy").read_bytes()
    for bad in (b"", b"no archive", data[: len(data) // 2], data[:300] + b"\xff" * 40 + data[340:], single):
        path.write_bytes(bad)
        assert "allowed: a .npz archive of images and labels" in refusal(load, name)
    path.unlink()
    assert "No such file" in refusal(load, name)


def test_an_npz_is_not_read_where_a_few_bytes_stand_for_many(tmp_path, monkeypatch):
    path = tmp_path / "a.npz"
    np.savez_compressed(path, images=np.zeros((2000, 10, 10)), labels=np.arange(2000) % 2)
    name = f"npz:{path}"
    assert load(name).num_classes == 2
    monkeypatch.setattr("nas.npz.TRUSTED_BYTES", 10**5)
    assert "holds 1616256 bytes in a file of" in refusal(load, name)
    monkeypatch.setattr("nas.tasks.pixels.MAX_BYTES", 10**6)
    assert f"npz={str(path)!r} has 2 arrays, of 1616256 bytes; allowed: 10000 of 1000000" in refusal(load, name)


def test_arrays_that_are_not_asked_for_are_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr("nas.tasks.pixels.MAX_BYTES", 10**4, raising=False)
    assert load(write_npz(tmp_path / "a.npz", **PAIR, more_images=np.zeros(10**5))).num_classes == 2


HUGE = [((10**12,), "<f8"), ((2**62, 4), "<f8"), ((10**12,), "<U0"), ((10**12, 0), "|u1"), ((10**6,) * 3, "|u1")]


@pytest.mark.parametrize(("shape", "dtype"), HUGE)
@pytest.mark.parametrize("key", ["images", "labels", "classes"])
def test_a_header_that_promises_more_than_there_is_is_refused(tmp_path, key, shape, dtype):
    name = write_npz(tmp_path / "a.npz", **{key_: array for key_, array in PAIR.items() if key_ != key})
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": dtype, "fortran_order": False, "shape": shape})
    with zipfile.ZipFile(tmp_path / "a.npz", "a") as archive:
        archive.writestr(f"{key}.npy", header.getvalue() + b"\0" * 64)
    assert "npz" in refusal(load, name)


# Folders of images


def test_folders_side_by_side_and_in_parts(tmp_path):
    whole = load(f"folder:{write_classes(tmp_path / 'a', {'.': 10}, classes=3)}")
    assert (len(whole.train), len(whole.valid), len(whole.test)) == (18, 6, 6)
    assert (whole.image_size, whole.image_channels, whole.num_classes) == (6, 3, 3)
    assert whole.classes == ("class0", "class1", "class2")
    parts = write_classes(tmp_path / "b", {"train": 4, "val": 2, "test": 3}, classes=3, kind="JPEG")
    task = load(f"folder:{parts}", image_size=8)
    assert (len(task.train), len(task.valid), len(task.test)) == (12, 6, 9)
    assert task.image_size == 8
    assert load(f"folder:{tarred(parts, tmp_path / 'b.tar')}", image_size=8).fingerprint() == task.fingerprint()


def test_labels_follow_the_sorted_names_and_hidden_files_are_left_out(tmp_path):
    folder = write_classes(tmp_path, {".": 5}, classes=3)
    (folder / "class1/.hidden.png").write_bytes(b"")
    (folder / ".cache").mkdir()
    (folder / ".cache/x.png").write_bytes(b"")
    (folder / "class1/notes.txt").write_bytes(b"")
    task = load(f"folder:{folder}", image_size=6)
    assert np.array_equal(task.train.images[:, 0, 0, 0], 20 * task.train.labels)


PNG = encoded(COLOUR)
TWO = {f"{name}/{i}.png": PNG for name in "ab" for i in range(3)}
BAD_FOLDERS = [
    ({}, "holds no images; allowed: class folders of JPEG, PNG, WebP, TIFF or BMP images"),
    ({"a/readme.txt": b""}, "holds no images"),
    ({**TWO, "b/bad.jpg": b"x"}, "'b/bad.jpg' is not a readable JPEG, PNG, WebP, TIFF or BMP image"),
    ({**TWO, "b/new.webp": b"x"}, "'b/new.webp' is not a readable JPEG, PNG, WebP, TIFF or BMP image"),
    ({**TWO, "stray.png": PNG}, "'stray.png' does not fit; allowed: CLASS/IMAGE"),
    ({**TWO, "b/deep/0.png": PNG}, "'b/deep/0.png' does not fit; allowed: CLASS/IMAGE"),
    ({"train/a/0.png": PNG, "extra/a/0.png": PNG}, "'extra/a/0.png' does not fit; allowed: train|valid|test"),
    ({"train/a/0.png": PNG, "test/z/0.png": PNG}, "class 'z' of test is not one of the 1 of train"),
    ({"test/a/0.png": PNG, "valid/a/0.png": PNG}, "has test and valid but no train"),
    ({f"a/{i}.png": PNG for i in range(3)}, "num_classes=1 must lie in 2..3"),
    ({**TWO, "c/0.png": PNG, "d/0.png": PNG}, "class 2 (c) has 1, class 3 (d) has 1 training images, 2 are needed"),
    ({**TWO, "c/0.heic": b""}, "'c/0.heic' is not a readable JPEG, PNG, WebP, TIFF or BMP image"),
    ({**TWO, "c/0.txt": b""}, "'c' holds no image; add some, or take it away"),
    ({**{f"train/{name}": PNG for name in TWO}, "test/c/readme.txt": b""}, "'test' holds no image"),
    ({**{f"train/{name}": PNG for name in TWO}, "train/c/readme.txt": b""}, "'train/c' holds no image"),
]


@pytest.mark.parametrize(("files", "said"), BAD_FOLDERS, ids=[said for _, said in BAD_FOLDERS])
def test_other_folders_are_refused(tmp_path, files, said):
    for name, data in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(data)
    assert said in refusal(load, f"folder:{tmp_path}")


def test_what_cannot_be_opened_or_read_is_left_out_where_that_is_asked_for(tmp_path):
    place = write_classes(tmp_path / "some", {".": 5}, classes=2)
    (place / "class0/dead.png").symlink_to(tmp_path / "nowhere")
    (place / "class1/phone.HEIC").write_bytes(b"\0\0\0\x18ftypheic")
    (place / "class2").mkdir()
    for said in ("class0/dead.png", "class1/phone.HEIC", "class2"):
        assert said in refusal(load, f"folder:{place}")
        assert "--skip-invalid leaves out" in refusal(load, f"folder:{place}")
        found = place / said
        task = load(f"folder:{place}", skip_invalid=True)
        assert sum(task.counts.values()) == 10
        found.rmdir() if found.is_dir() else found.unlink()
    assert load(f"folder:{place}").note is None


def test_a_folder_of_invalid_images_alone_says_what_is_wrong_with_the_first(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a/x.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    assert "holds no valid image; the first: " in refusal(load, f"folder:{tmp_path}", skip_invalid=True)


def test_a_search_begun_among_its_photos_does_not_take_its_own_files_for_a_class(tmp_path):
    place = write_classes(tmp_path / "photos", {".": 5}, classes=2)
    before = load(f"folder:{place}").fingerprint()
    with Store(f"sqlite:///{place}/nas.db", create=True) as store:
        facts = {"space": "toy", "strategy": "random", "task": "digits", "code_version": "0", "seed": 0}
        store.add_run(name=None, config={}, **facts)
    assert {path.name for path in place.iterdir()} == {"class0", "class1", "nas.db", "nas.db.files"}
    assert load(f"folder:{place}").fingerprint() == before
    (place / "nas.db").unlink()
    assert "'nas.db.files' holds no image" in refusal(load, f"folder:{place}")


def test_images_that_lie_too_deep_are_not_overlooked(tmp_path):
    place = write_classes(tmp_path / "photos", {".": 5}, classes=2)
    deep = place / "class0/2021/may/trip"
    deep.mkdir(parents=True)
    (deep / "notes.txt").write_text("")
    assert load(f"folder:{place}").num_classes == 2
    (deep / "0.png").write_bytes(PNG)
    assert "lies deeper than 4 levels below" in refusal(load, f"folder:{place}")
    assert "1 image was invalid and left out" in str(load(f"folder:{place}", skip_invalid=True).note)


def test_what_macos_adds_to_archives_is_hidden(tmp_path):
    place = write_classes(tmp_path / "some", {".": 5}, classes=2)
    (place / "__MACOSX/class0").mkdir(parents=True)
    (place / "__MACOSX/class0/._x.png").write_bytes(b"none")
    assert len(load(f"folder:{place}").classes) == 2


def test_a_place_without_its_kind_is_told_what_to_say(tmp_path):
    assert f"must say what is there: folder:{tmp_path}" in refusal(load, str(tmp_path))


def test_an_empty_class_is_refused_in_a_tar_too_and_other_folders_are_nobodys_business(tmp_path):
    folder = write_classes(tmp_path / "photos", {".": 5}, classes=2)
    (folder / "class1/annotations").mkdir()
    inside = load(f"folder:{folder}").fingerprint()
    assert load(f"folder:{tarred(folder, tmp_path / 'a.tar')}").fingerprint() == inside
    (folder / "class2").mkdir()
    for place in (folder, tarred(folder, tmp_path / "b.tar")):
        assert "class2' holds no image" in refusal(load, f"folder:{place}")


def test_one_folder_round_all_the_others_is_looked_into(tmp_path):
    folder = write_classes(tmp_path / "outer/inner", {".": 5}, classes=2)
    inside, outside = (load(f"folder:{place}").fingerprint() for place in (folder, folder.parent))
    assert inside == outside


def test_a_damaged_tar_is_refused(tmp_path):
    whole = Path(tarred(write_classes(tmp_path / "a", {".": 3}, classes=2), tmp_path / "a.tar.xz")).read_bytes()
    for bad in (b"", b"no tar" * 100, whole[: len(whole) // 2], whole[:200] + b"\xff" * 50 + whole[250:]):
        (tmp_path / "b.tar.xz").write_bytes(bad)
        assert "allowed: a complete .tar" in refusal(load, f"folder:{tmp_path / 'b.tar.xz'}")


def test_the_members_of_a_tar_are_bounded_and_links_are_not_followed(tmp_path, monkeypatch):
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as tar:
        link = tarfile.TarInfo("a/0.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
        up = tarfile.TarInfo("../a/1.png")
        up.size = len(PNG)
        tar.addfile(up, io.BytesIO(PNG))
    assert "'a/0.png' is a link, which is not followed in a tar" in refusal(load, f"folder:{path}")
    with tarfile.open(path, "w") as tar:
        large = tarfile.TarInfo("a/0.png")
        large.size = len(PNG)
        tar.addfile(large, io.BytesIO(PNG))
    monkeypatch.setattr("nas.tasks.folders.MAX_FILE_BYTES", len(PNG) - 1)
    assert "'a/0.png' has" in refusal(load, f"folder:{path}")


def test_a_tar_is_read_no_further_than_a_tar_of_images_would_be_long(tmp_path, monkeypatch):
    place = write_classes(tmp_path / "a", {".": 3}, classes=2)
    (place / "zeros.bin").write_bytes(b"\0" * 10**6)
    name = f"folder:{tarred(place, tmp_path / 'a.tar.xz')}"
    assert load(name).num_classes == 2
    monkeypatch.setattr("nas.tasks.folders.TRUSTED_BYTES", 10**4, raising=False)
    monkeypatch.setattr("nas.tasks.folders.MAX_RATIO", 20, raising=False)
    assert "allowed: 20 times its size" in refusal(load, name)


def test_a_name_in_a_tar_is_not_read_at_any_length(tmp_path, monkeypatch):
    path = tmp_path / "a.tar.gz"
    with tarfile.open(path, "w:gz", format=tarfile.GNU_FORMAT) as tar:
        tar.addfile(tarfile.TarInfo("x" * 10**6 + ".png"))
    monkeypatch.setattr("nas.tasks.folders.MAX_NAME_BYTES", 10**5)
    assert "has a name of 1000448 bytes; allowed: at most 100000" in refusal(load, f"folder:{path}")


def test_a_file_in_a_folder_and_all_images_together_are_bounded(tmp_path, monkeypatch):
    place = write_classes(tmp_path, {".": 5}, classes=2)
    monkeypatch.setattr("nas.tasks.pixels.MAX_BYTES", 10 * 108, raising=False)
    assert load(f"folder:{place}").image_size == 6
    assert "takes 1176 bytes; allowed: 1080 in all" in refusal(load, f"folder:{place}", image_size=7)
    monkeypatch.setattr("nas.tasks.pixels.MAX_FILE_BYTES", 50)
    assert "class0/0.png' is longer than 50 bytes, which no image is" in refusal(load, f"folder:{place}")


def test_class_folders_take_the_last_of_two_files_of_one_name():
    files = [(PurePosixPath(name), data) for name, data in TWO.items()]
    black = encoded(COLOUR * 0)
    raw = class_folders("x", [*files, (PurePosixPath("a/0.png"), black)], Reading("x", image_size=6))
    assert raw.train[0].shape == (6, 6, 6, 3)
    assert not raw.train[0][0].any()
