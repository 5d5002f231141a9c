"""The parts of a detector: boxes, losses, suppression, precision, augmentation, heads; and that it learns."""

import contextlib
import dataclasses
import io
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from nas.errors import UsageError
from nas.tasks import kinds
from nas.tasks.augment import Augment
from nas.tasks.base import split
from nas.tasks.detection import CLASS, IGNORED, SIDE
from nas.tasks.detection.boxes import ANCHORS, anchors, decode, detections, encode, overlap, suppressed
from nas.tasks.detection.heads import Heads, is_pyramid
from nas.tasks.detection.losses import detection_loss, focal, match, smooth_l1
from nas.tasks.detection.precision import average_precision
from nas.tasks.kinds.detection import Detection
from nas.training.recipe import Recipe
from nas.training.sgd import augmentation

KIND = Detection(3)


def objects(*rows, k: int = 4, side: float = 256.0) -> np.ndarray:
    """The labels of one image, of (x0, y0, x1, y1, class) or with 1 after it where ignored."""
    labels = np.zeros((1, k, 7), np.float32)
    labels[..., CLASS], labels[..., SIDE] = -1, side
    for i, row in enumerate(rows):
        labels[0, i, : len(row)] = row
    return labels


def drawn(seed: int, n: int, spread: float = 1.0) -> np.ndarray:
    """Boxes within the image."""
    draw = np.random.default_rng(seed)
    low = draw.uniform(0, 1 - 0.3 * spread, (n, 2)) * spread
    return np.concatenate([low, low + draw.uniform(0.02, 0.3, (n, 2))], 1).astype(np.float32)


# Boxes


def test_anchors_are_three_sizes_in_three_shapes_around_each_place():
    found = anchors(((2, 2), (1, 1)))
    assert found.shape == (5 * ANCHORS, 4)
    first = found[:ANCHORS]
    np.testing.assert_allclose((first[:, :2] + first[:, 2:]) / 2, 0.25, atol=1e-6)
    sides = first[:, 2:] - first[:, :2]
    # Two strides of half an image, times 1, 2^(1/3) and 2^(2/3).
    np.testing.assert_allclose(np.sqrt(sides.prod(1)), np.repeat([1, 2 ** (1 / 3), 2 ** (2 / 3)], 3), rtol=1e-5)
    np.testing.assert_allclose(sides[:, 1] / sides[:, 0], [0.5, 1, 2] * 3, rtol=1e-5)
    last = found[4 * ANCHORS :]
    np.testing.assert_allclose(last[:, :2] + last[:, 2:], 1, atol=1e-6)  # around the middle


@pytest.mark.parametrize(
    ("size", "smallest", "largest"), [(128, 16, 256), (256, 16, 256), (384, 24, 384), (640, 32, 512)]
)
def test_anchors_are_as_small_as_images_are(size, smallest, largest):
    """In pixels. The coarsest begin at the size of the image, but for small ones, whose anchors still overlap."""
    found = anchors(tuple((size // stride,) * 2 for stride in (8, 16, 32, 64, 128)))
    sides = size * np.sqrt((found[:, 2:] - found[:, :2]).prod(1))
    assert sides.min() == pytest.approx(smallest)
    assert sides.max() == pytest.approx(largest * 2 ** (2 / 3))


def test_the_overlap_of_boxes_is_counted_by_hand():
    one = jnp.array([[0.0, 0.0, 0.5, 0.5], [0.0, 0.0, 0.0, 0.0]])
    other = jnp.array([[0.25, 0.25, 0.75, 0.75], [0.0, 0.0, 0.5, 0.5], [0.6, 0.6, 0.7, 0.7]])
    np.testing.assert_allclose(overlap(one, other), [[0.0625 / 0.4375, 1, 0], [0, 0, 0]], rtol=1e-6)


def test_a_code_is_a_shift_in_sides_and_a_logarithm():
    anchor, box = jnp.array([[0.2, 0.2, 0.4, 0.6]]), jnp.array([[0.3, 0.2, 0.5, 0.4]])
    np.testing.assert_allclose(encode(box, anchor), [[0.5, -0.25, 0.0, np.log(0.5)]], atol=1e-6)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10**6))
def test_decoding_gives_back_what_was_encoded(seed):
    boxes, places = drawn(seed, 20), drawn(seed + 1, 20)
    np.testing.assert_allclose(decode(encode(jnp.array(boxes), jnp.array(places)), jnp.array(places)), boxes, atol=1e-5)


def test_what_a_network_says_of_a_size_stays_finite():
    box = decode(jnp.array([[0.0, 0.0, 1e9, 1e9]]), jnp.array([[0.4, 0.4, 0.6, 0.6]]))
    assert np.isfinite(box).all()


def plain_suppression(boxes: np.ndarray, labels: np.ndarray, scores: np.ndarray, threshold: float) -> list[int]:
    """One box after another, as the textbook has it."""
    kept: list[int] = []
    for i in sorted(range(len(boxes)), key=lambda i: -scores[i]):
        alike = [j for j in kept if labels[i] == labels[j]]
        if np.isfinite(scores[i]) and all(overlap_of(boxes[i], boxes[j]) <= threshold for j in alike):
            kept.append(i)
    return kept


def overlap_of(a: np.ndarray, b: np.ndarray) -> np.float32:
    sides = np.maximum(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0)
    common = sides.prod()
    return common / (np.float32((a[2:] - a[:2]).prod() + (b[2:] - b[:2]).prod()) - common)


def test_suppression_keeps_what_the_textbook_keeps():
    run = jax.jit(lambda boxes, labels, scores: suppressed(boxes, labels, scores, 0.5, 30))
    for seed in range(1000):
        boxes, draw = drawn(seed, 30, spread=0.3), np.random.default_rng(seed)
        labels, scores = draw.integers(0, 2, 30).astype(np.int32), draw.normal(size=30).astype(np.float32)
        scores[scores < -1.5] = -np.inf
        index, kept = map(np.asarray, run(boxes, labels, scores))
        assert index[kept].tolist() == plain_suppression(boxes, labels, scores, 0.5), seed


def test_classes_do_not_suppress_one_another():
    boxes = jnp.array([[[0.1, 0.1, 0.5, 0.5], [0.1, 0.1, 0.5, 0.52], [0.6, 0.6, 0.9, 0.9]]])
    scores = jnp.array([[[0.9, 0.0], [0.8, 0.7], [0.01, 0.3]]])
    found = np.asarray(detections(scores, boxes, most=5))[0]
    np.testing.assert_allclose(found[:3, 4], [0.9, 0.7, 0.3], rtol=1e-6)
    assert found[:, 5].tolist() == [0, 1, 1, -1, -1]


def test_an_object_that_many_anchors_find_hides_no_other():
    """Each of twelve is found by a hundred anchors, the last one least probably."""
    centres = np.linspace(0.1, 0.9, 12, dtype=np.float32)
    each = np.stack([centres - 0.02, centres - 0.02, centres + 0.02, centres + 0.02], 1)
    scores = np.linspace(0.9, 0.2, 12, dtype=np.float32)
    found = np.asarray(detections(jnp.repeat(scores, 100)[None, :, None], jnp.repeat(each, 100, 0)[None]))[0]
    np.testing.assert_allclose(found[:12, :4], each, rtol=1e-5)
    np.testing.assert_allclose(found[:12, 4], scores, rtol=1e-6)
    assert found[:, 5].tolist() == [0] * 12 + [-1] * 88


# Losses


def test_the_focal_loss_is_that_of_the_formula():
    logits, targets = np.array([2.0, -1.0, 0.5]), np.array([1.0, 0.0, 0.0])
    p = 1 / (1 + np.exp(-logits))
    wanted = [
        -0.25 * (1 - p[0]) ** 1.5 * np.log(p[0]),
        -0.75 * p[1] ** 1.5 * np.log(1 - p[1]),
        -0.75 * p[2] ** 1.5 * np.log(1 - p[2]),
    ]
    np.testing.assert_allclose(focal(jnp.array(logits), jnp.array(targets)), wanted, rtol=1e-5)


def test_the_loss_of_boxes_is_square_and_then_straight():
    np.testing.assert_allclose(smooth_l1(jnp.array([0.05, -0.1, 1.0])), [0.0125, 0.05, 0.95], rtol=1e-6)


PLACES = np.array([[0, 0, 0.5, 0.5], [0.5, 0.5, 1, 1], [0, 0.5, 0.5, 1], [0.05, 0, 0.55, 0.5]], np.float32)


def test_anchors_find_what_they_overlap_and_each_object_has_one():
    labels = objects((0.0, 0.0, 0.5, 0.5, 2), (0.9, 0.9, 1.0, 1.0, 1))
    found = match(jnp.asarray(labels), jnp.asarray(PLACES))
    assert found.label[0].tolist() == [2, 1, -1, 2]  # the second object overlaps its nearest anchor by 0.04
    assert found.counted[0].all()
    np.testing.assert_allclose(found.codes[0, 3], [-0.1, 0, 0, 0], atol=1e-6)


def test_nothing_is_learned_of_what_is_ignored():
    labels = objects((0.5, 0.5, 1.0, 1.0, 0, 1))
    found = match(jnp.asarray(labels), jnp.asarray(PLACES))
    assert found.label[0].tolist() == [-1] * 4
    assert found.counted[0].tolist() == [True, False, True, True]


def test_an_image_without_objects_is_all_background():
    found = match(jnp.asarray(objects()), jnp.asarray(PLACES))
    assert (found.label == -1).all()
    assert found.counted.all()
    logits, codes = jnp.full((1, 4, 3), -20.0), jnp.ones((1, 4, 4))
    assert float(detection_loss(logits, codes, jnp.asarray(objects()), jnp.asarray(PLACES))) < 1e-6


def test_the_loss_of_a_right_answer_is_next_to_nothing_and_its_gradient_is_finite():
    labels = jnp.asarray(objects((0.0, 0.0, 0.5, 0.5, 2)))
    matched = match(labels, jnp.asarray(PLACES))
    logits = 40 * jax.nn.one_hot(matched.label, 3) - 20

    def loss(logits, codes):
        return detection_loss(logits, codes, labels, jnp.asarray(PLACES))

    assert float(loss(logits, matched.codes)) < 1e-6
    assert float(loss(-logits, matched.codes)) > 10
    gradients = jax.grad(loss, (0, 1))(logits * 10, matched.codes + 1)
    assert all(np.isfinite(each).all() for each in gradients)


# Precision


def plainly(found: list[dict], truth: list[dict], images: int) -> list[float]:
    """By pycocotools itself, from its own format."""
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = {
            "info": {},
            "images": [{"id": i} for i in range(images)],
            "annotations": [{**each, "id": i + 1} for i, each in enumerate(truth)],
            "categories": [{"id": i} for i in range(3)],
        }
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(found), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats[:6].tolist()


def test_precision_is_that_of_pycocotools_in_pixels_of_the_file():
    draw = np.random.default_rng(0)
    labels = np.concatenate([objects(side=side, k=6) for side in (640, 500, 333)])
    found = np.full((3, 8, 6), -1, np.float32)
    truth, answers = [], []
    for i, side in enumerate((640, 500, 333)):
        boxes = drawn(i, 6)
        labels[i, :, :4], labels[i, :, CLASS], labels[i, 0, IGNORED] = boxes, draw.integers(0, 3, 6), 1
        for row in labels[i]:
            x, y, w, h = (float(v) * side for v in (row[0], row[1], row[2] - row[0], row[3] - row[1]))
            crowd = int(row[IGNORED])
            truth.append(
                {"image_id": i, "category_id": int(row[CLASS]), "bbox": [x, y, w, h], "area": w * h, "iscrowd": crowd}
            )
        for j in range(6):
            moved = boxes[j] + draw.normal(0, 0.01, 4).astype(np.float32)
            found[i, j] = [*moved, draw.uniform(), labels[i, j, CLASS] if j else 0]
            x, y, w, h = (float(v) * side for v in (moved[0], moved[1], moved[2] - moved[0], moved[3] - moved[1]))
            label, score = int(found[i, j, 5]), float(found[i, j, 4])
            answers.append({"image_id": i, "category_id": label, "bbox": [x, y, w, h], "score": score})
    ours = average_precision(found, labels)
    names = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large")
    theirs = {name: value for name, value in zip(names, plainly(answers, truth, 3), strict=True) if value >= 0}
    assert ours == pytest.approx(theirs, abs=1e-9)
    assert 0.05 < ours["ap"] < 0.95


def test_what_is_right_has_a_precision_of_one_and_nothing_found_of_none():
    labels = objects((0.1, 0.1, 0.4, 0.4, 0), (0.5, 0.5, 0.9, 0.9, 2))
    found = np.array([[[0.1, 0.1, 0.4, 0.4, 0.9, 0], [0.5, 0.5, 0.9, 0.9, 0.8, 2], [-1] * 6]], np.float32)
    assert average_precision(found, labels)["ap"] == pytest.approx(1)
    assert average_precision(np.full((1, 2, 6), -1.0, np.float32), labels)["ap"] == 0
    assert np.isnan(average_precision(found, objects())["ap"])


def test_images_that_are_judged_twice_count_once():
    labels = np.concatenate([objects((0.1, 0.1, 0.4, 0.4, 0)), objects((0.5, 0.5, 0.9, 0.9, 1))])
    right = np.array([[[0.1, 0.1, 0.4, 0.4, 0.9, 0]], [[0.5, 0.5, 0.9, 0.9, 0.8, 1]]], np.float32)
    judged = [(right, np.array([True, True]))]
    again = [(right[:1], np.array([True])), (right, np.array([False, True]))]
    assert KIND.metrics(judged, labels) == KIND.metrics(again, labels)
    assert KIND.metrics(judged, labels)["minus_ap"] == pytest.approx(-1)


# Augmentation


def painted(labels: np.ndarray, size: int = 64) -> np.ndarray:
    """Images `[n, size, size, 1]` that are 1 in the boxes and 0 elsewhere."""
    images = np.zeros((len(labels), size, size, 1), np.float32)
    for image, rows in zip(images, labels, strict=True):
        for x0, y0, x1, y1 in np.rint(rows[rows[:, CLASS] >= 0][:, :4] * size).astype(int):
            image[y0:y1, x0:x1] = 1
    return images


AUGMENTED = {
    "flip": Augment(flip=True),
    "crop": Augment(crop=9),
    "jitter": Augment(jitter=0.4),
    "all": Augment(crop=5, flip=True, jitter=0.3),
}


@pytest.mark.parametrize("how", AUGMENTED)
def test_boxes_go_where_their_pixels_go(how):
    labels = np.concatenate([objects((0.25, 0.375, 0.5, 0.625, 1)), objects((0.5, 0.25, 0.875, 0.75, 0)), objects()])
    labels = np.tile(labels, (8, 1, 1))
    images = painted(labels)
    changed, moved = KIND.augmented(AUGMENTED[how], jnp.asarray(images), jnp.asarray(labels), jax.random.key(0))
    assert changed.shape == images.shape
    assert (np.asarray(moved) != labels).any()
    again = painted(np.asarray(moved))
    # Off by a pixel at most along the border of a box.
    assert np.abs(np.asarray(changed) - again).mean() < 0.03
    assert (np.asarray(moved)[..., 4:5] == labels[..., 4:5]).all()


def test_without_augmentation_nothing_changes():
    labels = jnp.asarray(objects((0.25, 0.375, 0.5, 0.625, 1)))
    images = jnp.asarray(painted(np.asarray(labels)))
    changed, moved = KIND.augmented(Augment(), images, labels, jax.random.key(0))
    assert (changed == images).all()
    assert (moved == labels).all()


def test_an_object_that_is_nearly_cut_off_is_ignored():
    labels = jnp.asarray(np.tile(objects((0.0, 0.0, 0.05, 0.05, 1)), (64, 1, 1)))
    _, moved = KIND.augmented(Augment(crop=12), jnp.zeros((64, 64, 64, 1)), labels, jax.random.key(1))
    lost = moved[:, 0, 2:4].min(1) <= 0
    assert lost.any()
    assert (moved[:, 0, IGNORED] > 0)[lost].all()
    assert (moved[:, 0, IGNORED] == 0).any()


@pytest.mark.parametrize("name", ["mixup", "auxiliary"])
def test_a_recipe_for_other_kinds_is_refused(name):
    with pytest.raises(UsageError, match=rf"final.{name}=0.5 must be 0"):
        KIND.check_recipe("final.", Recipe(**{name: 0.5}))
    other = kinds.kinds()["classification"](3)
    with pytest.raises(UsageError, match=r"final.jitter=0.5 must be 0"):
        other.check_recipe("final.", Recipe(jitter=0.5))


def test_every_setting_of_augmentation_is_one_of_a_recipe():
    assert augmentation(Recipe(crop=3, jitter=0.2)) == Augment(crop=3, jitter=0.2)


# Labels


def test_labels_say_that_a_task_is_one_of_detection():
    assert kinds.kind_of("x", objects((0.1, 0.1, 0.4, 0.4, 0)), 3) == KIND
    assert kinds.from_data(kinds.described(KIND)) == KIND


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ((0.1, 0.1, 0.1, 0.4, 0), "area above 0"),
        ((0.1, 0.1, 1.4, 0.4, 0), "corners in 0..1"),
        ((0.1, 0.1, 0.4, 0.4, 3), "an unknown class"),
        ((0.1, 0.1, np.nan, 0.4, 0), "not finite"),
    ],
)
def test_labels_that_are_no_boxes_are_refused(row, said):
    with pytest.raises(UsageError, match=said):
        KIND.checked("task='x': train", objects(row))


def test_parts_have_images_of_all_classes_and_validation_says_what_it_lacks():
    rows = [objects((0.1, 0.1, 0.4, 0.4, i % 3)) for i in range(30)]
    images = np.zeros((30, 128, 128, 3), np.uint8)
    task = split("x", images, np.concatenate(rows), 3, classes=("a", "b", "c"))
    for part in (task.train, task.valid, task.test):
        assert set(part.labels[..., 0, CLASS]) == {0, 1, 2}
    assert task.note is None
    lacking = split("x", images, np.concatenate(rows), 3, valid=(images[:2], np.concatenate(rows[:2])))
    assert lacking.note is not None
    assert "no image of validation has an object of class 2" in lacking.note


# Heads


def test_a_pyramid_is_known_by_its_shapes():
    pyramid = tuple((s, s, 8) for s in (16, 8, 4, 2, 1))
    assert is_pyramid(pyramid)
    assert not is_pyramid(pyramid[:4])
    assert not is_pyramid(((32, 32, 4), (16, 16, 8), (8, 8, 16), (4, 4, 32), (2, 2, 64)))


@pytest.mark.parametrize(
    "shapes", [[(s, s, 8) for s in (16, 8, 4, 2, 1)], [(32, 32, 4), (16, 16, 8), (8, 8, 16), (4, 4, 32)]]
)
def test_heads_give_every_level_its_anchors(shapes):
    heads = Heads(shapes, 3, np.random.default_rng(0))
    outputs = heads([jnp.ones((2, *shape)) for shape in shapes], train=True)
    sizes = [logits.shape[1] for logits, _ in outputs]
    assert sizes == [16, 8, 4, 2, 1]
    assert all(b.shape[3] == 4 * ANCHORS and a.shape[3] == 3 * ANCHORS for a, b in outputs)
    # Before training nearly nothing is found.
    np.testing.assert_allclose(jax.nn.sigmoid(outputs[0][0]).mean(), 0.01, atol=0.01)
    assert len(list(itertools.chain(*outputs))) == 10


def test_kinds_are_values():
    assert dataclasses.replace(KIND, num_classes=3) == KIND
    with pytest.raises(ValueError, match="num_classes=0 must be at least 1"):
        Detection(0)
