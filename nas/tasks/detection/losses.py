"""What a detector is trained towards: which anchor is to find which object, and how far off its answer is.

Lin et al., "Focal Loss for Dense Object Detection", 2017, https://arxiv.org/abs/1708.02002.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from nas.tasks.detection import CLASS, IGNORED
from nas.tasks.detection.boxes import area, encode, intersection, overlap

ALPHA, GAMMA = 0.25, 1.5  # of the focal loss; gamma as NAS-FPN has it
BETA = 0.1  # where the loss of boxes turns from square to straight
BOX_WEIGHT = 1.0
FOREGROUND, BACKGROUND = 0.5, 0.4  # least overlap of an anchor that finds an object, and of one that may
COVERED = 0.5  # of an anchor that lies in an ignored box so far nothing is learned


class Matched(NamedTuple):
    """What each anchor is to say."""

    label: Int[Array, "n anchors"]  # of the class; -1 for the background
    counted: Bool[Array, "n anchors"]  # whether anything is learned of it
    codes: Float[Array, "n anchors 4"]  # of the box, relative to the anchor


def match(objects: Float[Array, "n objects 7"], anchors: Float[Array, "anchors 4"]) -> Matched:
    """The object that an anchor overlaps most is its own, where that is enough; and each object has one anchor at
    least, the one that overlaps it most."""
    boxes, real = objects[..., :4], (objects[..., CLASS] >= 0) & (objects[..., IGNORED] == 0)
    ignored = (objects[..., CLASS] >= 0) & (objects[..., IGNORED] > 0)
    shared = jnp.where(real[:, None], overlap(anchors[None], boxes), 0)  # [n, anchors, objects]
    best, own = shared.max(2), shared.argmax(2)
    # Of an object that no anchor overlaps enough, the nearest anchor.
    nearest = shared.argmax(1)  # [n, objects]
    forced = (jnp.arange(len(anchors))[None, :, None] == nearest[:, None]) & (real & (shared.max(1) > 0))[:, None]
    own = jnp.where(forced.any(2), forced.argmax(2), own)
    positive = forced.any(2) | (best >= FOREGROUND)
    row = jnp.take_along_axis(objects, own[..., None], 1)
    covered = intersection(anchors[None], boxes) / jnp.maximum(area(anchors), 1e-12)[None, :, None]
    in_ignored = (jnp.where(ignored[:, None], covered, 0) > COVERED).any(2)
    counted = positive | ((best < BACKGROUND) & ~in_ignored)
    label = jnp.where(positive, row[..., CLASS].astype(jnp.int32), -1)
    return Matched(label, counted, encode(row[..., :4], anchors[None]))


def focal(logits: Float[Array, "*n classes"], targets: Float[Array, "*n classes"]) -> Float[Array, "*n classes"]:
    """Cross entropy of each class by itself, less of what is known already. Equation 5 of the paper."""
    signed = jnp.where(targets > 0, logits, -logits)
    weight = jnp.where(targets > 0, ALPHA, 1 - ALPHA)
    return weight * jax.nn.sigmoid(-signed) ** GAMMA * jax.nn.softplus(-signed)


def smooth_l1(error: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """Girshick, "Fast R-CNN", 2015, https://arxiv.org/abs/1504.08083, with a bend at `BETA`."""
    size = jnp.abs(error)
    return jnp.where(size < BETA, size * size / (2 * BETA), size - BETA / 2)


def detection_loss(
    logits: Float[Array, "n anchors classes"],
    codes: Float[Array, "n anchors 4"],
    objects: Float[Array, "n objects 7"],
    anchors: Float[Array, "anchors 4"],
) -> Float[Array, ""]:
    """Both losses, summed over anchors and divided by the number of anchors that find something."""
    label, counted, wanted = jax.tree.map(jax.lax.stop_gradient, match(objects, anchors))
    positive = label >= 0
    count = jnp.maximum(positive.sum(), 1)
    targets = jax.nn.one_hot(label, logits.shape[-1])  # of -1: zeros
    classes = jnp.where(counted[..., None], focal(logits, targets), 0).sum()
    boxes = jnp.where(positive[..., None], smooth_l1(codes - wanted), 0).sum()
    return (classes + BOX_WEIGHT * boxes) / count
