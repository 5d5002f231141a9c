"""Networks of one bit whose widths are searched: ResNet-18 and VGG-small, with a ratio of its width for each layer.

Shen et al., "Searching for Accurate Binary Neural Architectures", 2019, https://arxiv.org/abs/1909.07378, and its code,
AutoBNN. Differences from it are in `spaces.binary_backbones`.
"""

import dataclasses
import functools
import re
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Float, Int

from spaces import binary_costs
from spaces.abilities import Drawing, Published
from spaces.base import Encodings
from spaces.binary_backbones import BLOCKS, VGG_LAYERS, Body, Form, Layer, Network, form, residual
from spaces.binary_costs import Counts
from spaces.layers import BatchNorm, generator
from spaces.sliced import Widths

BACKBONES = ("resnet-18", "vgg-small")
WORD = re.compile(r"[0-9]{0,6}(\.[0-9]{1,9})?")  # of a description


@dataclasses.dataclass(frozen=True)
class BinaryWidth:
    """The decisions are, of `resnet-18`, the widths that its four stages give, the first also that of the first
    convolution, and then those between the two layers of its eight blocks; of `vgg-small`, those of its six layers."""

    backbone: str = "resnet-18"
    """resnet-18 or vgg-small."""
    widths: tuple[int, ...] = (64, 128, 256, 512)
    """Channels at ratio 1, of each stage of resnet-18 or each layer of vgg-small, as "(64,128,256,512)"."""
    ratios: tuple[float, ...] = (0.25, 0.5, 1.0, 2.0, 3.0, 4.0)
    """What a decision may multiply these by, as "(0.5,1,2)": each larger than the last."""
    large_stem: bool = False
    """In resnet-18, a first convolution of 7 x 7 taps and stride 2, and pooling, for large images; else of 3 x 3."""
    image_size: int = 224
    image_channels: int = 3
    num_classes: int = 1000

    one_bit: ClassVar[bool] = True

    def __post_init__(self):
        if self.backbone not in BACKBONES:
            raise ValueError(f"backbone={self.backbone!r} must be one of {', '.join(BACKBONES)}")
        if self.large_stem and self.backbone == "vgg-small":
            raise ValueError("large_stem=True must be False: only resnet-18 has one")
        count = VGG_LAYERS if self.backbone == "vgg-small" else len(BLOCKS[self.backbone])
        if len(self.widths) != count or min(self.widths) < 1:
            raise ValueError(
                f"widths={self.widths} must be {count} numbers of at least 1 for backbone={self.backbone!r}"
            )
        if list(self.ratios) != sorted({ratio for ratio in self.ratios if ratio > 0}) or not self.ratios:
            raise ValueError(f"ratios={self.ratios} must be positive, each larger than the last")
        for ratio in self.ratios:
            if any(ratio * width != int(ratio * width) for width in self.widths):
                raise ValueError(f"ratios={self.ratios} times widths={self.widths} must be whole numbers")
        if self.image_size < 1:
            raise ValueError(f"image_size={self.image_size} must be at least 1")

    @property
    def bases(self) -> tuple[int, ...]:
        """Of each decision the channels at ratio 1."""
        if self.backbone == "vgg-small":
            return self.widths
        return self.widths + tuple(np.repeat(self.widths, BLOCKS[self.backbone]).tolist())

    @property
    def choices(self) -> Widths:
        """Of each decision the channels among which it chooses."""
        return tuple(tuple(int(ratio * base) for ratio in self.ratios) for base in self.bases)

    @property
    def cardinalities(self) -> tuple[int, ...]:
        return (len(self.ratios),) * len(self.bases)

    def identity(self) -> dict:
        ratios = [float(ratio) for ratio in self.ratios]
        return {"backbone": self.backbone, "widths": self.widths, "ratios": ratios, "large_stem": self.large_stem}

    def canonical(self, encodings: Encodings) -> Encodings:
        return encodings

    def describe(self, encoding: np.ndarray) -> str:
        """The ratios."""
        return "(" + ",".join(_text(self.ratios[choice]) for choice in encoding) + ")"

    def parse(self, text: str) -> np.ndarray:
        """Reads what `describe` writes, also in square brackets or in none, or the name of a published architecture."""
        known = FOUND.get(text.strip())
        if known is not None and known.backbone != self.backbone:
            raise ValueError(f"{text!r} is of backbone={known.backbone!r}, not {self.backbone!r}")
        words = _words(text) if known is None else [_text(gene) for gene in known.genes]
        if not words:
            raise ValueError(f"{text!r} is not a list of ratios such as (0.5,1,2)")
        if len(words) != len(self.bases):
            raise ValueError(f"{text!r} must have {len(self.bases)} ratios, not {len(words)}")
        known_ratios = {float(_text(ratio)): i for i, ratio in enumerate(self.ratios)}
        odd = [word for word in words if float(word) not in known_ratios]
        if odd:
            ratios = ", ".join(map(_text, self.ratios))
            raise ValueError(f"{text!r} has the ratio {odd[0]}, which is not one of {ratios}")
        return np.array([known_ratios[float(word)] for word in words], np.int32)

    def drawings(self, encoding: np.ndarray) -> list[Drawing]:
        return drawings(self.form, self._taken(encoding))

    @property
    def form(self) -> Form:
        return form(self.backbone, self.image_size, self.large_stem)

    def cost(self, encodings: Encodings) -> dict[str, Float[jax.Array, "n"]]:
        """Those of `spaces.binary_costs`, of one image, with affine normalisation and a classifier without bias. What
        the head of another task adds is in `macs` and `params` alone."""
        ends = [(layer.source or 0, layer.target or 0) for layer in self._layers()]
        # What a layer costs depends on two decisions: together they are one of as many choices as there are pairs.
        source, target = np.array(ends).T
        pairs = encodings[:, source] * len(self.ratios) + encodings[:, target]
        return binary_costs.summed(Counts(), self._table(), pairs)

    def _layers(self) -> list[Layer]:
        """Those of the network: without classes, of its body."""
        form = self.form
        return [*form.layers(), *([form.classifier] if self.num_classes else [])]

    def _table(self) -> Counts:
        """The counts of each layer for each pair of choices, as `[layers, pairs]`."""
        rows, n = [], len(self.ratios)
        for layer in self._layers():
            one = np.full(n, self.image_channels) if layer.source is None else np.array(self.choices[layer.source])
            other = np.full(n, self.num_classes) if layer.target is None else np.array(self.choices[layer.target])
            counts = layer.counts(one[:, None], other[None])
            rows.append([np.broadcast_to(each, (n, n)).ravel() for each in counts])
        return Counts(*np.moveaxis(np.array(rows, np.int64), 1, 0))

    def map_shapes(self) -> tuple[tuple[tuple[int, int, int], ...], ...]:
        ends = self.form.ends()
        kinds = np.ndindex(*(len(self.ratios),) * len(ends))
        return tuple(
            tuple((end.out, end.out, self.choices[end.target or 0][i]) for end, i in zip(ends, kind, strict=True))
            for kind in kinds
        )

    def map_kinds(self, encodings: Encodings) -> Int[jax.Array, "n"]:
        found = jnp.zeros(len(encodings), jnp.int32)
        for end in self.form.ends():
            found = found * len(self.ratios) + encodings[:, end.target or 0]
        return found

    def supernet(self, key: jax.Array, *, affine: bool = False) -> Body:
        """Each layer has its weights at the largest widths, of which a path uses the first channels."""
        return self._network(self.choices, key, affine)

    def build(self, encoding: np.ndarray, key: jax.Array) -> Body:
        return self._network(tuple((width,) for width in self._taken(encoding)), key, affine=True)

    def pruned(self, supernet: Body, encoding: np.ndarray) -> Body:
        network = self.build(encoding, jax.random.key(0))
        for _, norm in nnx.iter_modules(network):
            if isinstance(norm, BatchNorm) and norm.bias is not None:
                norm.bias.set_value(np.zeros_like(norm.bias.get_value()))  # as without one, which a supernet may have
        return prune(supernet, network)

    def _network(self, widths: Widths, key: jax.Array, affine: bool) -> Body:
        draw, channels = generator(key), self.image_channels
        if self.num_classes:
            return Network(self.form, channels, self.num_classes, widths, draw, affine)
        return Body(self.form, channels, widths, draw, affine)

    def _taken(self, encoding: np.ndarray) -> list[int]:
        """The channels of each decision."""
        return [sizes[int(choice)] for sizes, choice in zip(self.choices, encoding, strict=True)]


def _text(ratio: float) -> str:
    return f"{ratio:.9g}"


def _words(text: str) -> list[str]:
    """The ratios of a description; none where it is no list of numbers."""
    inner = text.strip()
    inner = inner[1:-1] if inner[:1] + inner[1:][-1:] in ("()", "[]") else inner
    words = [word.strip() for word in inner.split(",")]
    return words if all(word and WORD.fullmatch(word) for word in words) else []


def drawings(form: Form, taken: list[int]) -> list[Drawing]:
    """A chain a resolution, whose nodes are the layers with their channels; an edge around those that have a
    shortcut."""
    found: list[Drawing] = []
    nodes: list[str] = []
    edges: list[tuple[int, int, str]] = []
    for i, step in enumerate(form.steps):
        for layer in step.layers:
            nodes.append(f"{'' if layer.binary else 'real '}{layer.k}x{layer.k}, {taken[layer.target or 0]}")
        first = len(nodes) - len(step.layers)
        edges += [(j - 1, j, "") for j in range(max(first, 1), len(nodes))]
        if step.shortcut is not None and first:
            edges.append((first - 1, len(nodes) - 1, "added"))
        size = step.layers[-1].out
        if i + 1 == len(form.steps) or form.steps[i + 1].layers[-1].out != size:
            found.append(Drawing(f"{size} x {size} pixels", tuple(nodes), tuple(edges)))
            nodes, edges = [], []
    return found


def prune(supernet: Body, network: Body) -> Body:
    """A network that `build` gives, with the weights and statistics that its architecture has in the supernet."""
    held, own = (nnx.state(each, (nnx.Param, nnx.BatchStat)) for each in (supernet, network))
    whole = dict(nnx.to_flat_state(held))
    first = {
        path: variable.replace(whole[path].get_value()[tuple(slice(size) for size in variable.get_value().shape)])
        for path, variable in nnx.to_flat_state(own)
        if path in whole  # a supernet may have no scales and biases
    }
    nnx.update(network, nnx.from_flat_state(first))
    return network


class Reference(NamedTuple):
    """A published architecture of this space."""

    backbone: str
    genes: tuple[float, ...]


FOUND = {
    "Res18-Auto-A": Reference("resnet-18", (2, 4, 2, 2, 2, 4, 4, 4, 4, 4, 4, 4)),
    "Res18-Auto-B": Reference("resnet-18", (3, 4, 4, 3, 1, 4, 4, 4, 3, 3, 3, 3)),
    "VGG-Auto-A": Reference("vgg-small", (0.5, 2, 1, 1, 1, 0.5)),
    "VGG-Auto-B": Reference("vgg-small", (2, 2, 4, 2, 4, 0.5)),
    "ResNet-18": Reference("resnet-18", (1,) * 12),
    "VGG-small": Reference("vgg-small", (1,) * 6),
}
BI_REAL = {"Bi-Real-18": "resnet-18", "Bi-Real-34": "resnet-34"}  # Liu et al., https://arxiv.org/abs/1808.00278
PUBLISHED = (*FOUND, *BI_REAL)
VGG_WIDTHS = (128, 128, 256, 256, 512, 512)

PRESETS = {
    # For 8 to 32 pixels on a CPU. At ratio 1, an eighth of the channels of ResNet-18.
    "tiny": BinaryWidth(widths=(8, 16, 32, 64), ratios=(0.25, 0.5, 1.0, 2.0), image_size=8),
    # The networks of the paper: on ImageNet, ...
    "imagenet": BinaryWidth(large_stem=True),
    # ... and on CIFAR-10.
    "vgg-small": BinaryWidth("vgg-small", VGG_WIDTHS, image_size=32, num_classes=10),
    "cifar": BinaryWidth(image_size=32, num_classes=10),
}


@functools.cache
def published(name: str) -> Published:
    """Also of any ratios in the notation of `describe`."""
    if name in BI_REAL:
        return _bi_real(name)
    backbone = FOUND[name].backbone if name in FOUND else _backbone(name)
    space, place = {
        "resnet-18": (PRESETS["imagenet"], "ImageNet, 224 pixels"),
        "vgg-small": (PRESETS["vgg-small"], "CIFAR-10, 32 pixels"),
    }[backbone]
    row = space.parse(name)
    layers, taken = space._layers(), space._taken(row)
    costs = _priced(layers, taken, space.image_channels, space.num_classes)
    text = space.describe(row)
    return Published(text, space.drawings(row), {f"{backbone}, {place}": costs}, binary_costs.FORMULA)


def _backbone(text: str) -> str:
    """Of a description, by its length. Raises KeyError for what is none."""
    words = _words(text)
    if not words:
        raise KeyError(text)
    return "vgg-small" if len(words) == VGG_LAYERS else "resnet-18"


def _bi_real(name: str) -> Published:
    """Its shortcuts are real, and there is one around each layer, where the input is added."""
    blocks = BLOCKS[BI_REAL[name]]
    form, widths = residual(blocks, 224, large_stem=True, real_shortcuts=True), (64, 128, 256, 512)
    taken = [*widths, *np.repeat(widths, blocks).tolist()]
    costs = _priced([*form.layers(), form.classifier], taken, 3, 1000)
    text = f"{name}: a network of fixed widths, {', '.join(map(str, widths))} channels"
    return Published(text, drawings(form, taken), {"ImageNet, 224 pixels": costs}, binary_costs.FORMULA)


def _priced(layers: list[Layer], taken: list[int], image_channels: int, num_classes: int) -> dict[str, Any]:
    total = Counts()
    for layer in layers:
        one = image_channels if layer.source is None else taken[layer.source]
        other = num_classes if layer.target is None else taken[layer.target]
        total = total.plus(layer.counts(one, other))
    return binary_costs.costs(total)
