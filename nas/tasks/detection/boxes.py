"""Boxes as arrays: anchors, overlaps, how a box is written relative to an anchor, and which of many boxes are kept.

A box is `(x0, y0, x1, y1)` in shares of the image's side. The anchors are those of RetinaNet (Lin et al., "Focal Loss
for Dense Object Detection", 2017, https://arxiv.org/abs/1708.02002): at each place of a level three sizes, from four
times its stride, in three shapes. Those are for images of 512 pixels or more. In smaller ones the coarsest anchors
would be larger than the image, and no anchor as small as what there is to find: there they begin at fewer strides.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int

SCALES = tuple(2 ** (i / 3) for i in range(3))
LEVELS = 5  # of a pyramid
RATIOS = (0.5, 1.0, 2.0)  # height to width
ANCHORS = len(SCALES) * len(RATIOS)  # at each place
MOST_STRIDES, LEAST_STRIDES = 4, 2  # of the side of the smallest ones; of fewer, some objects lie between all anchors
MOST = float(np.log(1000 / 16))  # of a box's size to its anchor's, as a logarithm: what a network says may be anything

Boxes = Float[Array, "*#n 4"]  # of one shape but where one is for all


@functools.lru_cache(maxsize=64)
def anchors(sizes: Sequence[tuple[int, int]]) -> np.ndarray:
    """The anchors `[anchors, 4]` of levels of so many rows and columns, in the order of `[row, column, anchor]`."""
    shapes = [(scale / ratio**0.5, scale * ratio**0.5) for scale in SCALES for ratio in RATIOS]
    halves = np.array(shapes) * _strides(sizes) / 2  # width and height
    found = []
    for rows, columns in sizes:
        y, x = np.meshgrid((np.arange(rows) + 0.5) / rows, (np.arange(columns) + 0.5) / columns, indexing="ij")
        centres = np.stack([x, y], -1)[:, :, None]
        sides = halves / np.array([columns, rows])
        found.append(np.concatenate([centres - sides, centres + sides], -1).reshape(-1, 4))
    return np.concatenate(found).astype(np.float32)


def _strides(sizes: Sequence[tuple[int, int]]) -> int:
    """The side of the smallest anchors of each level, in its strides: those of the coarsest level are no larger than
    the image, where that leaves enough."""
    return max(LEAST_STRIDES, min(MOST_STRIDES, *sizes[-1]))


def area(boxes: Boxes) -> Float[Array, "..."]:
    return jnp.maximum(boxes[..., 2] - boxes[..., 0], 0) * jnp.maximum(boxes[..., 3] - boxes[..., 1], 0)


def intersection(one: Float[Array, "*#n a 4"], other: Float[Array, "*#n b 4"]) -> Float[Array, "... a b"]:
    """The area that each box of one has in common with each of the other."""
    one, other = one[..., :, None, :], other[..., None, :, :]
    low, high = jnp.maximum(one[..., :2], other[..., :2]), jnp.minimum(one[..., 2:], other[..., 2:])
    return jnp.prod(jnp.maximum(high - low, 0), -1)


def overlap(one: Float[Array, "*#n a 4"], other: Float[Array, "*#n b 4"]) -> Float[Array, "... a b"]:
    """The share that two boxes have in common of what either covers; 0 where neither covers anything."""
    common = intersection(one, other)
    return common / jnp.maximum(area(one)[..., :, None] + area(other)[..., None, :] - common, 1e-12)


def encode(boxes: Boxes, anchors: Boxes) -> Boxes:
    """Where boxes lie relative to anchors: shifts of the centre in anchor's sides, and logarithms of their ratio.

    Ren et al., "Faster R-CNN", 2015, https://arxiv.org/abs/1506.01497, eq. 2, without further scaling.
    """
    (centre, sides), (at, unit) = _centred(boxes), _centred(anchors)
    return jnp.concatenate([(centre - at) / unit, jnp.log(jnp.maximum(sides, 1e-6) / unit)], -1)


def decode(codes: Boxes, anchors: Boxes) -> Boxes:
    """The boxes that `encode` writes so."""
    at, unit = _centred(anchors)
    centre, half = at + codes[..., :2] * unit, unit * jnp.exp(jnp.minimum(codes[..., 2:], MOST)) / 2
    return jnp.concatenate([centre - half, centre + half], -1)


def _centred(boxes: Boxes) -> tuple[Array, Array]:
    low, high = boxes[..., :2], boxes[..., 2:]
    return (low + high) / 2, high - low


def suppressed(
    boxes: Float[Array, "n 4"], labels: Int[Array, "n"], scores: Float[Array, "n"], threshold: float, most: int
) -> tuple[Int[Array, "most"], Bool[Array, "most"]]:
    """The boxes that are kept, by falling scores, and which of these there are: of two of one label that overlap by
    more than the threshold, the one of the higher score, of equal ones the first. Boxes of score minus infinity are
    none."""

    def keep(i: Array, carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        left, chosen, kept = carry
        best = left.argmax().astype(jnp.int32)
        covered = (overlap(boxes[best][None], boxes)[0] > threshold) & (labels == labels[best])
        done = covered | (jnp.arange(len(boxes)) == best)
        return jnp.where(done, -jnp.inf, left), chosen.at[i].set(best), kept.at[i].set(jnp.isfinite(left[best]))

    start = scores, jnp.zeros(most, jnp.int32), jnp.zeros(most, bool)
    return lax.fori_loop(0, most, keep, start)[1:]


@functools.partial(jax.jit, static_argnames=("candidates", "most", "threshold", "least"))
def detections(
    scores: Float[Array, "n anchors classes"],
    boxes: Float[Array, "n anchors 4"],
    *,
    candidates: int = 2000,
    most: int = 100,
    threshold: float = 0.5,
    least: float = 0.05,
) -> Float[Array, "n most 6"]:
    """Of each image the most probable objects, as box, probability and class, by falling probability; rows that are
    none have the class -1.

    So many candidates of an image, of at least a probability, are looked at: a hundred anchors may find one object, so
    with few of them the less probable objects would be missed. Those that overlap a better one of the same class are
    left out.
    """

    def of_image(scores: Float[Array, "anchors classes"], boxes: Float[Array, "anchors 4"]) -> Array:
        best, place = lax.top_k(scores.ravel(), min(candidates, scores.size))
        best, corners = jnp.where(best >= least, best, -jnp.inf), boxes[place // scores.shape[1]]
        label = (place % scores.shape[1]).astype(jnp.int32)
        chosen, kept = suppressed(corners, label, best, threshold, most)
        found = [jnp.clip(corners[chosen], 0, 1), best[chosen, None], label[chosen, None].astype(jnp.float32)]
        none = jnp.array([[-1.0] * 4 + [0.0, -1.0]])
        return jnp.where(kept[:, None], jnp.concatenate(found, -1), none)

    return jax.vmap(of_image)(scores, boxes)
