"""A product of two spaces: a backbone, and the neck that goes on from its maps, are chosen together.

An encoding is that of the backbone, then that of the neck. Each keeps its notation, its canonical rows and its costs.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from spaces.abilities import Backbone, Decision, Drawable, Drawing, Neck, decisions
from spaces.base import Encodings, Space, fingerprint
from spaces.exits import of_all_exits

STRIDES = (8, 16, 32)  # of the maps that a neck takes
BETWEEN = " + "  # the descriptions of the parts


@dataclasses.dataclass(frozen=True)
class Product:
    """The neck says how large images are, and takes the maps of the backbone in place of those of one of its own."""

    backbone: Any
    neck: Any

    def __post_init__(self):
        pair = f"{_named(self.backbone)}+{_named(self.neck)}"
        if not isinstance(self.backbone, Backbone):
            raise ValueError(f"{pair}: {_named(self.backbone)} gives no maps of strides 8, 16 and 32; shufflenet does")
        if not isinstance(self.neck, Neck):
            raise ValueError(f"{pair}: {_named(self.neck)} takes no maps of a backbone; nas-fpn does")
        maps = self.backbone.maps()[-len(STRIDES) :]
        if tuple(stride for stride, _ in maps) != STRIDES:
            found = ", ".join(str(stride) for stride, _ in self.backbone.maps())
            raise ValueError(f"{pair}: the last maps of the backbone must have strides 8, 16 and 32, not {found}")
        backbone: Any = self.backbone
        neck: Any = self.neck
        neck = dataclasses.replace(neck, backbone="none", map_widths=tuple(width for _, width in maps))
        shape = {"image_size": neck.image_size, "image_channels": neck.image_channels, "num_classes": 0}
        object.__setattr__(self, "backbone", dataclasses.replace(backbone, **shape))
        object.__setattr__(self, "neck", neck)

    @property
    def image_size(self) -> int:
        return self.neck.image_size

    @property
    def image_channels(self) -> int:
        return self.neck.image_channels

    @property
    def num_classes(self) -> int:
        return 0

    @property
    def cut(self) -> int:
        """How many decisions are the backbone's, which come first."""
        return len(self.backbone.cardinalities)

    @property
    def cardinalities(self) -> tuple[int, ...]:
        return self.backbone.cardinalities + self.neck.cardinalities

    def identity(self) -> dict:
        return {"backbone": fingerprint(self.backbone), "neck": fingerprint(self.neck)}

    def canonical(self, encodings: Encodings) -> Encodings:
        first, second = self._parts(encodings)
        return jnp.concatenate([self.backbone.canonical(first), self.neck.canonical(second)], axis=1)

    def _parts(self, encodings: Any) -> tuple[Any, Any]:
        return encodings[..., : self.cut], encodings[..., self.cut :]

    def describe(self, encoding: np.ndarray) -> str:
        first, second = self._parts(encoding)
        return self.backbone.describe(first) + BETWEEN + self.neck.describe(second)

    def parse(self, text: str) -> np.ndarray:
        first, between, second = text.rpartition(BETWEEN)
        if not between:
            raise ValueError(f"{text!r} must be a backbone and a neck, with {BETWEEN!r} between them")
        return np.concatenate([self.backbone.parse(first), self.neck.parse(second)])

    def drawings(self, encoding: np.ndarray) -> list[Drawing]:
        parts = zip((self.backbone, self.neck), self._parts(encoding), strict=True)
        return [drawing for part, row in parts if isinstance(part, Drawable) for drawing in part.drawings(row)]

    def decisions(self) -> tuple[Decision, ...]:
        parts = ("backbone", self.backbone), ("neck", self.neck)
        return tuple(Decision(f"{part}: {each.name}", each.choices) for part, own in parts for each in decisions(own))

    def cost(self, encodings: Encodings) -> dict[str, Float[Array, "n"]]:
        """Those of the whole network; those of the backbone (`backbone_macs`, `backbone_params`); and what the neck
        tells apart (`neck_macs`, `neck_params`: without what brings the maps to its width)."""
        first, second = self._parts(encodings)
        ours, theirs = self.backbone.cost(first), self.neck.cost(second)
        whole = {each: values + theirs[each] for name, values in ours.items() for each in of_all_exits(name, theirs)}
        return {**theirs, **whole, **{f"backbone_{name}": values for name, values in ours.items()}}

    def supernet(self, key: jax.Array, *, affine: bool = False) -> "Joint":
        key_body, key_neck = _keys(key)
        body = self.backbone.supernet(key_body, affine=affine)
        return Joint(body, self.neck.supernet(key_neck, affine=affine), self.cut)

    def build(self, encoding: np.ndarray, key: jax.Array) -> "Joint":
        first, second = self._parts(np.asarray(encoding))
        key_body, key_neck = _keys(key)
        return Joint(self.backbone.build(first, key_body), self.neck.build(second, key_neck), self.cut)


def _keys(key: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Of the backbone and of the neck. The one between them is the head's: see `nas.training.net`."""
    first, _, second = jr.split(key, 3)
    return first, second


def _named(space: Space | Any) -> str:
    return type(space).__name__


class Joint(nnx.Module):
    """A neck on a body. Each reads its part of the path."""

    def __init__(self, backbone: nnx.Module, neck: nnx.Module, cut: int):
        self.backbone, self.neck, self.cut = backbone, neck, cut

    def end(self, exit: int) -> None:
        """See `pyramid_network.Body`."""
        neck: Any = self.neck
        neck.end(exit)

    def __call__(self, images: Array, path: Any = (), *, train: bool = False, key: Any = None) -> tuple[Array, ...]:
        backbone: Any = self.backbone
        neck: Any = self.neck
        maps = backbone(images, path[: self.cut], train=train, key=key)
        return neck(maps[-len(STRIDES) :], path[self.cut :], train=train, key=key)
