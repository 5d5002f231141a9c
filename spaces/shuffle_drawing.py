"""Drawings of chains of shuffle blocks: a row a stage, from the image to the head."""

from collections.abc import Sequence
from typing import NamedTuple

from spaces.abilities import Drawing

LEGEND = (
    "k3, k5, k7: shuffle block, with a depthwise convolution of 3x3, 5x5 or 7x7 between two of 1x1",
    "xception: shuffle block of three depthwise convolutions of 3x3, each with one of 1x1 after it",
    "/2: of stride 2, which halves the resolution",
)


class Stage(NamedTuple):
    blocks: int
    channels: int
    stride: int  # of the first block
    size: int  # pixels of a side, after it


def halved(stride: int) -> str:
    return f" /{stride}" if stride > 1 else ""


def chained(
    words: Sequence[str], stages: Sequence[Stage], stem: tuple[str, ...], head: tuple[str, ...]
) -> list[Drawing]:
    """A chain a stage of the blocks' words, each going on from the one before: the first from the stem, the last to
    the head."""
    found, at = [], 0
    for i, (blocks, channels, stride, size) in enumerate(stages):
        own = [*words[at : at + blocks]]
        own[0] += halved(stride)
        at += blocks
        chain = ((*stem, *own) if i == 0 else tuple(own)) + (head if i + 1 == len(stages) else ())
        title = f"stage {i + 1}: {channels} channels, {size} x {size} pixels"
        edges = tuple((j, j + 1, "") for j in range(len(chain) - 1))
        found.append(Drawing(title, chain, edges, follows=i > 0, notes=LEGEND if i + 1 == len(stages) else ()))
    return found
