"""Images with boxes: letter-boxed, read from VOC and COCO files, made as scenes; what is invalid, in one line."""

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import SHARED, refusal
from hypothesis import assume, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from PIL import Image

from nas.tasks import TASKS, Reading, check_name, lasting_task, load
from nas.tasks.base import Raw, split
from nas.tasks.detection import CLASS, COLUMNS, IGNORED, SIDE, X0, X1, Y0, Y1
from nas.tasks.detection.letterbox import letterboxed
from nas.tasks.detection.scenes import CLASSES, mask


def read(name: str, **options) -> Raw:
    kind, _, place = name.partition(":")
    return TASKS[kind](Reading(name, place or None, **options))


def picture(width: int = 60, height: int = 40, grey: int = 90) -> Image.Image:
    return Image.new("RGB", (width, height), (grey, grey, grey))


def objects(labels: np.ndarray) -> list[list[float]]:
    """The boxes of an image in pixels of its file, class and whether it is ignored."""
    rows = labels[labels[:, CLASS] >= 0]
    return [[*(row[: Y1 + 1] * row[SIDE]).round(3).tolist(), *row[CLASS : IGNORED + 1].tolist()] for row in rows]


# The letter-box


@given(st.tuples(st.integers(1, 700), st.integers(1, 700)), st.sampled_from([128, 256]), st.data())
@hypothesis_settings(deadline=None, max_examples=60)
def test_an_edge_in_the_photo_is_where_its_share_of_the_side_is(shape, size, data):
    side = max(shape)
    assume(size * min(shape) >= side)  # else the shorter side is less than one pixel, and one pixel there
    for axis, length in enumerate(shape):
        edge = data.draw(st.integers(0, length))
        photo = picture(*shape, 0)
        photo.paste((255, 255, 255), (edge, 0, *shape) if axis == 0 else (0, edge, *shape))
        square, stands_for = letterboxed(photo, size)
        assert stands_for == side
        line = square[0, :, 0] if axis == 0 else square[:, 0, 0]
        filled = round(length * size / side)
        assert not line[filled:].any()
        # Half a pixel, in which the edge is found, and a quarter, by which the filter, cut off at the border, may move
        # it; along the shorter side another half, by which it was rounded.
        allowed = 0.75 if length == side else 1.25
        assert abs((line[:filled] < 128).sum() - edge / side * size) <= allowed + 1e-3


def test_a_photo_fills_the_upper_left_and_the_rest_is_black():
    square, side = letterboxed(picture(), 128)
    assert side == 60
    assert (square[:85] == 90).all()
    assert not square[85:].any()
    upright, _ = letterboxed(picture(40, 60), 128)
    assert np.array_equal(upright.transpose(1, 0, 2), square)
    assert letterboxed(picture(9000, 1), 128)[0].any(), "a line is one pixel high"
    exact = np.random.default_rng(0).integers(0, 256, (128, 128, 3), dtype=np.uint8)
    assert np.array_equal(letterboxed(Image.fromarray(exact), 128)[0], exact)


# VOC

BOX = (11, 6, 30, 25)  # of pixels counted from 1: 10, 5, 30, 25


def voc_object(name="cat", box=BOX, difficult="0") -> str:
    corners = "".join(f"<{tag}>{at}</{tag}>" for tag, at in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True))
    return f"<object><name>{name}</name><difficult>{difficult}</difficult><bndbox>{corners}</bndbox></object>"


def xml(*rows: str, width=60, height=40) -> str:
    size = f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>"
    return f"<annotation>{size}{''.join(rows)}</annotation>"


VOC = {
    "Annotations/a.xml": xml(voc_object(), voc_object("dog", (1, 1, 60, 40), "1")),
    "Annotations/b.xml": xml(voc_object("dog", (0, 30.5, 99, 50))),
    "Annotations/c.xml": xml(),
    **{f"JPEGImages/{name}.png": picture() for name in "abc"},
}


def write(folder: Path, files: dict) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, Image.Image):
            content.save(path)
        elif content is not None:
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def test_voc_counts_pixels_from_one_and_cuts_boxes_to_the_image(tmp_path):
    raw = read(f"voc:{write(tmp_path, VOC)}")
    images, labels = raw.train
    assert images.shape == (3, 256, 256, 3)
    assert labels.shape == (3, 2, COLUMNS)
    assert raw.classes == ("cat", "dog")
    assert (labels[..., SIDE] == 60).all()
    assert objects(labels[0]) == [[10, 5, 30, 25, 0, 0], [0, 0, 60, 40, 1, 1]]
    assert objects(labels[1]) == [[0, 29.5, 60, 40, 1, 0]]
    assert labels[2].tolist() == [[0, 0, 0, 0, -1, 0, 60]] * 2
    assert raw.note is not None
    assert "3 images of 60 x 40 pixels, width x height, are scaled to fit 256 x 256; --image-size chooses" in raw.note


def test_the_lists_of_voc_are_its_parts(tmp_path):
    lists = {"ImageSets/Main/train.txt": "b\na\n", "ImageSets/Main/test.txt": "c\n"}
    raw = read(f"voc:{write(tmp_path, VOC | lists)}", image_size=128)
    assert raw.valid is None
    assert raw.test is not None
    assert [len(images) for images, _ in (raw.train, raw.test)] == [2, 1]
    assert raw.train[1].shape[1:] == raw.test[1].shape[1:] == (2, COLUMNS), "all parts have as many rows"
    assert objects(raw.train[1][1])[0] == [10, 5, 30, 25, 0, 0]
    write(tmp_path, {"ImageSets/Main/test.txt": "", "ImageSets/Main/valid.txt": "c"})
    assert "has no image in test" in refusal(read, f"voc:{tmp_path}")
    (tmp_path / "ImageSets/Main/test.txt").unlink()
    raw = read(f"voc:{tmp_path}")
    assert raw.valid is not None
    assert raw.test is None
    (tmp_path / "ImageSets/Main/valid.txt").unlink()
    assert "1 annotated images are in no list of ImageSets/Main and are not used" in str(read(f"voc:{tmp_path}").note)
    (tmp_path / "ImageSets/Main/train.txt").rename(tmp_path / "ImageSets/Main/trainval.txt")
    assert len(read(f"voc:{tmp_path}").train[0]) == 2


ENTITIES = '<!DOCTYPE a [<!ENTITY b "bbbbbbbb">]>' + xml(voc_object("&b;"))
A = "'a.xml'"
# What is changed, what is said of it, and what is left out where that is asked for.
BAD_VOC = [
    ({"Annotations/a.xml": "<annotation><size>"}, f"{A} cannot be read as XML: no element found", "1 image was"),
    ({"Annotations/a.xml": ""}, f"{A} cannot be read as XML: no element found", "1 image was"),
    ({"Annotations/a.xml": b"\xff\xfe\0\1"}, f"{A} cannot be read as XML", "1 image was"),
    ({"Annotations/a.xml": "<?xml version='1.0' encoding='no'?><a/>"}, f"{A} cannot be read as XML", "1 image was"),
    ({"Annotations/a.xml": ENTITIES}, f"{A} cannot be read as XML: it has a DOCTYPE", "1 image was"),
    ({"Annotations/a.xml": ENTITIES.encode("utf-16")}, f"{A} cannot be read as XML: it has a DOCTYPE", "1 image was"),
    ({"Annotations/a.xml": "<html/>"}, f"{A} is <html>; allowed: <annotation>", "1 image was"),
    ({"Annotations/a.xml": xml(width=61)}, "has 60 x 40 pixels; it is said to have 61 x 40", "1 image was"),
    ({"Annotations/a.xml": xml(width="wide")}, f"{A}: width='wide' must be a number", "1 image was"),
    (
        {"Annotations/a.xml": None, "JPEGImages/d.png": picture()},
        "'a' of train has 'JPEGImages/a.png'; one",
        "2 images",
    ),
    ({"Annotations/d.xml": xml()}, "'d' of train has 'Annotations/d.xml'; one .xml and one image are", "1 image was"),
    ({"JPEGImages/a.jpg": picture()}, "has 'Annotations/a.xml, JPEGImages/a.jpg, JPEGImages/a.png'", "1 image was"),
    ({"JPEGImages/a.png": b"no image"}, "a.png' is not a readable JPEG, PNG, WebP, TIFF or BMP image", "1 image was"),
    ({"JPEGImages/a.png": b""}, "a.png' is not a readable JPEG, PNG, WebP, TIFF or BMP image", "1 image was"),
    ({"ImageSets/Main/train.txt": "a\nb\na"}, "'a' of train is there twice, and first in train", "1 image was"),
    (
        {"ImageSets/Main/train.txt": "a\nb", "ImageSets/Main/val.txt": "c\na"},
        "'a' of valid is there twice, and first in train",
        "1 image was",
    ),
    ({"ImageSets/Main/train.txt": "a\n../b"}, "'../b' of train has 'no file'", "1 image was"),
    ({"Annotations/a.xml": xml(*[voc_object()] * 1001)}, f"{A} has 1001 objects; allowed: 1000", "1 image was"),
    ({"Annotations/a.xml": xml("<object/>")}, f"{A}: object[0] has no name", "1 object was"),
    ({"Annotations/a.xml": xml("<object><name>a</name></object>")}, f"{A}: object[0] has no bndbox", "1 object was"),
    (
        {"Annotations/a.xml": xml(voc_object(), voc_object(box=(1, 1, "nan", 4)), voc_object(box=(1, 1, "", 4)))},
        f"{A}: object[1]: xmax='nan' must be a number",
        "2 objects were",
    ),
    ({"Annotations/a.xml": xml(voc_object(box=(1, 1, "1e999", 4)))}, "(0, 0) to (inf, 4) must be fini", "1 object was"),
    ({"Annotations/a.xml": xml(voc_object(box=(9, 1, 9, 4)))}, "from (9, 1) to (9, 4) has no area", "1 object was"),
    ({"Annotations/a.xml": xml(voc_object(box=(9, 4, 12, 1)))}, "from (9, 4) to (12, 1) has no area", "1 object was"),
    (
        {"Annotations/a.xml": xml(voc_object(box=(71, 1, 80, 9)))},
        f"{A}: object[0]: the box from (70, 0) to (80, 9) lies outside of the image of 60 x 40 pixels",
        "1 object was",
    ),
    ({"Annotations/a.xml": xml(voc_object(difficult="yes"))}, "difficult='yes' must be 0 or 1", "1 object was"),
]


@pytest.mark.parametrize(("files", "said", "left"), BAD_VOC, ids=[said for _, said, _ in BAD_VOC])
def test_what_is_invalid_in_voc_is_named_or_left_out_and_counted(tmp_path, files, said, left):
    name = f"voc:{write(tmp_path, VOC | files)}"
    message = refusal(read, name)
    assert said in message
    assert message.startswith(f"voc='{tmp_path}': ")
    assert message.endswith(f"; --skip-invalid leaves out such {'object' if 'object' in left else 'image'}s")
    assert message.count("--skip-invalid") == 1
    note = str(read(name, skip_invalid=True).note)
    assert f"{name}: {left}" in note
    assert "invalid and left out, the first: voc=" in note
    assert len(note.splitlines()) == 1


def under(folder: str, files: dict) -> dict:
    return {f"{folder}/{name}": content for name, content in files.items()}


def test_a_set_may_lie_in_the_only_folder_that_has_one(tmp_path):
    write(tmp_path, under("set", VOC) | {"more/x.txt": "", ".kept/Annotations/a.xml": xml(), "README.md": ""})
    inside, named = (read(f"voc:{folder}", image_size=128) for folder in (tmp_path, tmp_path / "set"))
    for one, other in zip(inside.train, named.train, strict=True):
        np.testing.assert_array_equal(one, other)
    write(tmp_path, {"Annotations/a.xml": xml(voc_object("eel")), "JPEGImages/a.png": picture()})
    assert read(f"voc:{tmp_path}", image_size=128).classes == ("eel",), "its own come first"


def test_an_error_in_a_folder_within_names_file_and_object(tmp_path):
    write(tmp_path, under("set", VOC | {"Annotations/b.xml": xml(voc_object(), voc_object(box=(9, 1, 9, 4)))}))
    message = refusal(read, f"voc:{tmp_path}")
    assert message == (
        f"voc='{tmp_path}': 'b.xml': object[1]: the box from (9, 1) to (9, 4) has no area; "
        "--skip-invalid leaves out such objects"
    )


BAD_FOLDERS = [
    ({"x.txt": ""}, "has no folder Annotations; allowed: a folder with Annotations and JPEGImages, or one in which"),
    (under("more/set", VOC), "has no folder Annotations; allowed"),
    (under("set", {"Annotations/a.xml": xml()}), "has no folder set/JPEGImages; allowed"),
    (under("b", VOC) | under("a", VOC), "has several folders with Annotations: a, b; name one of them"),
    ({"Annotations/a.xml": xml()}, "has no folder JPEGImages; allowed"),
    ({"JPEGImages/a.png": picture()}, "has no folder Annotations; allowed"),
    ({"Annotations/a.xml": xml(), "JPEGImages/a.png": picture()}, "has no objects; allowed"),
    ({**VOC, "ImageSets/Main/test.txt": "a"}, "has ImageSets/Main/test.txt but no train.txt, which is needed"),
    (
        {**VOC, **{f"ImageSets/Main/{part}.txt": part[0] for part in ("train", "val", "valid")}},
        "has both val.txt and valid.txt",
    ),
    ({**VOC, "ImageSets/Main/train.txt": b"\xff"}, "ImageSets/Main/train.txt is not text in UTF-8"),
    ({**VOC, "ImageSets/Main/train.txt/x": ""}, "ImageSets/Main/train.txt cannot be read: it is not a file"),
]


@pytest.mark.parametrize(("files", "said"), BAD_FOLDERS, ids=[said for _, said in BAD_FOLDERS])
def test_a_folder_that_is_not_voc_is_refused_whatever_is_left_out(tmp_path, files, said):
    name = f"voc:{write(tmp_path, files)}"
    assert said in refusal(read, name)
    assert said in refusal(read, name, skip_invalid=True)


def test_files_and_images_are_bounded(tmp_path, monkeypatch):
    name = f"voc:{write(tmp_path, VOC)}"
    monkeypatch.setattr("nas.tasks.pixels.MAX_BYTES", 3 * 128 * 128 * 3)
    assert "takes 589824 bytes; allowed: 147456 in all" in refusal(read, name)
    assert "takes 147624 bytes" in refusal(read, name, image_size=128), "labels count too"
    monkeypatch.setattr("nas.tasks.detection.voc.MAX_XML_BYTES", 100)
    assert "'a.xml' is longer than 100 bytes" in refusal(read, name, image_size=128)


# COCO


def coco(**changes) -> dict:
    entry = {"iscrowd": 0, "area": 1, "segmentation": []}
    return {
        "images": [
            {"id": 7, "file_name": "b.png", "width": 60, "height": 40},
            {"id": 3, "file_name": "more/a.png", "width": 60, "height": 40},
            {"id": 5, "file_name": "c.png", "width": 60, "height": 40},
        ],
        "annotations": [
            {"id": 1, "image_id": 3, "category_id": 90, "bbox": [10, 5, 20, 20.5], **entry},
            {"id": 2, "image_id": 7, "category_id": 2, "bbox": [-5, 0, 200, 8], **entry, "iscrowd": 1},
            {"id": 4, "image_id": 3, "category_id": 2, "bbox": [0, 0, 60, 40]},
        ],
        "categories": [{"id": 90, "name": "cat"}, {"id": 2, "name": "dog"}, {"id": 8, "name": "eel"}],
        **changes,
    }


def changed(key: str, i: int, **fields) -> dict:
    """One entry with other fields."""
    data = coco()
    data[key][i] |= fields
    return data


def added(key: str, **fields) -> dict:
    """One entry more, like the first."""
    data = coco()
    data[key].append(data[key][0] | fields)
    return data


def write_coco(folder: Path, data: dict | str | bytes) -> str:
    content = data if isinstance(data, str | bytes) else json.dumps(data)
    write(folder, {f"images/{name}": picture() for name in ("more/a.png", "b.png", "c.png")} | {"x,y.json": content})
    return f"coco:{folder}/x,y.json,{folder}/images"


def test_coco_has_boxes_by_width_and_height_and_categories_in_the_order_of_their_ids(tmp_path):
    raw = read(write_coco(tmp_path, coco()))
    images, labels = raw.train
    assert images.shape == (3, 256, 256, 3)
    assert raw.classes == ("dog", "eel", "cat")
    assert objects(labels[0]) == [[10, 5, 30, 25.5, 2, 0], [0, 0, 60, 40, 0, 0]]
    assert objects(labels[1]) == []
    assert objects(labels[2]) == [[0, 0, 60, 8, 0, 1]]
    assert (raw.valid, raw.test) == (None, None)


BAD_COCO = [
    (changed("images", 0, width=61), "has 60 x 40 pixels; it is said to have 61 x 40", "1 image was"),
    (changed("images", 0, width=60.0), "image 7: width=60.0 must be an integer", "1 image was"),
    (changed("images", 0, id="7"), "images[0]: id='7' must be an integer", "1 object and 1 image were"),
    (changed("images", 0, id=3), "image 3 is there 2 times", "1 object and 2 images were"),
    (changed("images", 0, file_name="c.png"), "image 7: file_name='c.png' is there 2 times", "2 images were"),
    (changed("images", 0, file_name="d.png"), "d.png' cannot be read: No such file", "1 image was"),
    (changed("images", 0, file_name="../x.json"), "file_name='../x.json' must be a file in the folder", "1 image was"),
    (changed("images", 0, file_name="/etc/a.png"), "file_name='/etc/a.png' must be a file in", "1 image was"),
    (changed("images", 0, file_name=""), "file_name='' must be a file in the folder", "1 image was"),
    (changed("images", 0, file_name=[3]), "file_name=[3] must be a file in the folder", "1 image was"),
    (changed("images", 0, file_name="more"), "cannot be read: it is not a file", "1 image was"),
    (added("annotations"), "annotation 1 is there twice", "1 object was"),
    (added("annotations", id=True), "annotations[3]: id=True must be an integer", "1 object was"),
    (added("annotations", id=9, category_id=1), "annotation 9: category_id=1 is not one of categories", "1 object was"),
    (added("annotations", id=9, image_id=1), "annotation 9: image_id=1 is not one of images", "1 object was"),
    (added("annotations", id=9, iscrowd=2), "annotation 9: iscrowd=2 must be 0 or 1", "1 object was"),
    (added("annotations", id=9, bbox=[1, 2, 3]), "bbox=[1, 2, 3] must be [x, y, width, height]", "1 object was"),
    (added("annotations", id=9, bbox="1234"), "bbox='1234' must be [x, y, width, height]", "1 object was"),
    (added("annotations", id=9, bbox=None), "bbox=None must be [x, y, width, height]", "1 object was"),
    (added("annotations", id=9, bbox=[1, 2, 3, 10**400]), "must be [x, y, width, height]", "1 object was"),
    (added("annotations", id=9, bbox=[1, 2, 3, float("nan")]), "(1, 2) to (4, nan) must be finite", "1 object was"),
    (added("annotations", id=9, bbox=[1, 2, 0, 4]), "the box from (1, 2) to (1, 6) has no area", "1 object was"),
    (added("annotations", id=9, bbox=[1, 2, 4, -1]), "the box from (1, 2) to (5, 1) has no area", "1 object was"),
    (added("annotations", id=9, bbox=[60, 2, 4, 4]), "(60, 2) to (64, 6) lies outside of the image", "1 object was"),
    (added("annotations", id=9, bbox=[1, 40, 4, 4]), "lies outside of the image of 60 x 40 pixels", "1 object was"),
]


@pytest.mark.parametrize(("data", "said", "left"), BAD_COCO, ids=[said for _, said, _ in BAD_COCO])
def test_what_is_invalid_in_coco_is_named_or_left_out_and_counted(tmp_path, data, said, left):
    name = write_coco(tmp_path, data)
    message = refusal(read, name)
    assert said in message
    assert message.startswith(f"coco='{tmp_path}/x,y.json': ")
    assert "; --skip-invalid leaves out such " in message
    assert f"{name}: {left} invalid and left out, the first: coco=" in str(read(name, skip_invalid=True).note)


BAD_FILES = [
    ("", "cannot be read as JSON"),
    ("{", "cannot be read as JSON"),
    (b"\xff\xff", "cannot be read as JSON"),
    ("[" * 10**5, "cannot be read as JSON: it has more than 100 levels"),
    ("[]", "has no list 'images'"),
    (coco(images=[]), "its list 'images' is empty"),
    (coco(images=[3]), "has no list 'images'"),
    (coco(annotations=None), "has no list 'annotations'"),
    (coco(categories={}), "has no list 'categories'"),
    (added("categories"), "category 90 is there twice"),
    (added("categories", id=1, name=""), "category 1: name='' must be a text that is not empty"),
    (added("categories", id=None), "categories[3]: id=None must be an integer"),
]


@pytest.mark.parametrize(("data", "said"), BAD_FILES, ids=[said for _, said in BAD_FILES])
def test_a_file_that_is_not_coco_is_refused_whatever_is_left_out(tmp_path, data, said):
    name = write_coco(tmp_path, data)
    assert said in refusal(read, name)
    assert said in refusal(read, name, skip_invalid=True)


def test_the_file_and_folder_of_coco_are_looked_for(tmp_path):
    assert "the folder of its images, '/nowhere', does not exist" in refusal(read, "coco:a.json,/nowhere")
    assert "cannot be read: No such file" in refusal(read, f"coco:{tmp_path}/a.json,{tmp_path}")


# Scenes


@pytest.fixture(autouse=True)
def few_scenes(monkeypatch):
    """Whose types are checked, which takes longer than to draw them."""
    monkeypatch.setattr("nas.tasks.detection.scenes.COUNT", 80)


@pytest.fixture
def scenes() -> dict[str, Raw]:
    return {name: read(name) for name in ("scenes:small", "scenes:large")}


def test_scenes_have_shapes_of_the_size_they_say(scenes):
    for name, (least, most) in (("scenes:small", (8, 20)), ("scenes:large", (80, 160))):
        images, labels = scenes[name].train
        assert images.shape == (80, 256, 256, 3)
        shapes = labels[labels[..., CLASS] >= 0]
        assert (np.bincount(shapes[:, CLASS].astype(int)) > 20).all()
        assert (labels[..., CLASS] >= 0).any(1).all(), "one shape an image at least"
        sides = 256 * np.stack([shapes[:, X1] - shapes[:, X0], shapes[:, Y1] - shapes[:, Y0]])
        assert least <= sides.min() < sides.max() <= most
        assert (labels[..., SIDE] == 256).all()


def test_the_boxes_of_scenes_are_exact(scenes):
    """In each box there is one colour, that of its mask, which touches all four sides."""
    for raw in scenes.values():
        for image, labels in zip(*raw.train, strict=True):
            for row in labels[labels[:, CLASS] >= 0]:
                x0, y0, x1, y1 = (row[: Y1 + 1] * 256).astype(int).tolist()
                inside = image[y0:y1, x0:x1]
                shape = mask(CLASSES[int(row[CLASS])], y1 - y0, x1 - x0)
                assert len(np.unique(inside[shape], axis=0)) == 1
                colour = inside[shape][0]
                rest = (inside == colour).all(-1) & ~shape
                assert rest.mean() < 0.2


@pytest.mark.parametrize("shape", CLASSES)
def test_a_shape_reaches_to_all_sides_and_is_none_of_the_others(shape):
    for height, width in ((8, 8), (8, 11), (13, 9), (160, 131)):
        pixels = mask(shape, height, width)
        assert all(side.any() for side in (pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]))
        others = [mask(other, height, width) for other in CLASSES if other != shape]
        assert all((pixels != other).mean() > 0.1 for other in others)


def test_scenes_are_the_same_on_every_call_and_of_any_size(scenes):
    again, small = read("scenes:small"), read("scenes:small", image_size=128)
    for one, other in zip(again.train, scenes["scenes:small"].train, strict=True):
        assert np.array_equal(one, other)
    assert small.train[0].shape == (80, 128, 128, 3)
    assert not np.array_equal(read("scenes", image_size=128).train[0], small.train[0])


# Names and options


@pytest.mark.parametrize("name", ["voc:a", "voc:a,b", "coco:a.json,b", "coco:a,b.json,c", "scenes", "scenes:large"])
def test_names_of_detection_tasks_are_checked_without_loading(name):
    check_name(name)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("coco:a.json", "must be coco:JSON,DIR, with the folder of the images"),
        ("coco:a.json,", "must be coco:JSON,DIR"),
        ("coco:,a", "must be coco:JSON,DIR"),
        ("voc", "did you mean 'voc:DIR'?"),
        ("coco:", "did you mean 'coco:JSON,DIR'?"),
        ("scenes:tiny", "is not one of"),
        ("scenes:", "did you mean 'scenes'?"),
    ],
)
def test_other_names_are_refused(name, said):
    assert said in refusal(check_name, name)
    assert said in refusal(load, name)


def test_a_lasting_name_finds_every_path_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/me")
    assert lasting_task("voc:a,b") == f"voc:{tmp_path}/a,b"
    assert lasting_task("coco:a,b.json,~/c") == f"coco:{tmp_path}/a,b.json,/home/me/c"
    assert lasting_task("scenes:small") == "scenes:small"


def test_options_that_would_do_nothing_are_refused():
    assert "image_size=200 must be a multiple of 128" in refusal(load, "scenes", image_size=200)
    assert "resize='pad' must be crop, its default, for task='scenes'" in refusal(load, "scenes", resize="pad")
    assert "skip_invalid=True is not used by task='digits'; allowed: folder, voc" in refusal(
        load, "digits", skip_invalid=True
    )
    assert "data_dir='x' is not used by task='scenes'" in refusal(load, "scenes", data_dir="x")


def test_images_whose_labels_are_places_are_squares():
    labels = np.tile(np.array([0, 0, 1, 1, 0, 0, 5], np.float32), (12, 1, 1))
    said = "must be squares, of whose side places in labels are shares"
    assert said in refusal(split, "toy", np.zeros((12, 4, 5, 3), np.uint8), labels, 1)


# Tasks


def test_a_task_of_objects_says_what_was_done_and_can_be_few_images(tmp_path):
    pytest.importorskip("nas.tasks.kinds.detection")
    task = load("scenes", image_size=128, max_images=40)
    assert (len(task.train), len(task.valid), len(task.test)) == (30, 10, 10)
    assert (task.image_size, task.classes, task.resize, task.note) == (128, CLASSES, None, None)
    names = [f"{i:02}" for i in range(20)]
    files = {f"Annotations/{name}.xml": xml(voc_object(), voc_object("dog")) for name in names}
    files |= {f"JPEGImages/{name}.png": picture(grey=int(name)) for name in names}
    files["Annotations/00.xml"] = xml(voc_object(), voc_object(box=(9, 9, 9, 9)))
    task = load(f"voc:{write(tmp_path, files)}", skip_invalid=True)
    assert (len(task.train), len(task.valid), len(task.test)) == (12, 4, 4)
    assert f"voc:{tmp_path}: 20 images of 60 x 40 pixels" in str(task.note)
    assert f"; voc:{tmp_path}: 1 object was invalid and left out, the first: voc=" in str(task.note)
    assert task.train.labels.shape == (12, 2, COLUMNS)


# Real files


def test_the_blood_cells_of_bccd():
    """Two boxes are clicks, of no area; all else of 364 images is in order. The set lies one folder down."""
    folder = SHARED / "images/bccd"
    if not folder.exists():
        pytest.skip(f"NAS_SHARED: {folder} is absent")
    name = f"voc:{folder}"
    said = "'BloodImage_00343.xml': object[3]: the box from (181, 329) to (181, 329) has no area"
    assert said in refusal(read, name)
    raw = read(name, image_size=128, skip_invalid=True)
    assert raw.valid is not None
    assert raw.test is not None
    parts = (raw.train, raw.valid, raw.test)
    assert [len(images) for images, _ in parts] == [205, 87, 72]
    assert raw.classes == ("Platelets", "RBC", "WBC")
    classes = np.concatenate([labels[..., CLASS].ravel() for _, labels in parts]).astype(int)
    assert np.bincount(classes[classes >= 0]).tolist() == [361, 4153, 372]
    assert f"{name}: 2 objects were invalid and left out, the first: voc=" in str(raw.note)
    assert "364 images of 640 x 480 pixels, width x height, are scaled to fit 128 x 128" in str(raw.note)
