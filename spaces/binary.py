"""Binary cells: the cells of DARTS with convolutions of one bit, in the forms of three papers.

`bnas`: Kim et al., "Learning Architectures for Binary Networks", 2020, https://arxiv.org/abs/2002.06963. `bats`: Bulat
et al., "BATS: Binary ArchitecTure Search", 2020, https://arxiv.org/abs/2003.01711. `beihang`: Chen et al., "Binarized
Neural Architecture Search", 2020, https://arxiv.org/abs/1911.10862.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, get_args

import jax.numpy as jnp
from jaxtyping import Array

from spaces import binary_costs
from spaces import genotype as notation
from spaces.abilities import Published
from spaces.binary_cells import FORMS, Style, kit_of
from spaces.cell_kit import Kit
from spaces.cell_ops import NONE
from spaces.cell_pairs import Rows
from spaces.darts import CONCAT, Darts, Mixture
from spaces.fixed_cells import genotype_cost
from spaces.genotype import Cell, Genotype

Template = Literal["bnas", "bats", "beihang"]


@dataclasses.dataclass(frozen=True)
class Binary(Darts):
    """Cells of layers of one bit: normalisation, sign, convolution. Stem and classifier are real.

    `bnas` has dense convolutions and no skips; a cell adds the output of the one before it, and `none` may stay in what
    is found. `bats` has DARTS's names for convolutions in groups, with channels dealt out and the input added.
    `beihang` has DARTS's operations, each convolution of one bit. Decisions are those of `spaces.cell_pairs`.
    """

    template: Template = "bnas"
    """bnas, bats or beihang: which paper's operations and cells."""
    gamma: float = 1.0
    """In bnas what the weight of `none` is divided by before a cell is derived; 3 for transfer to larger networks."""
    joined: bool = True
    """In bnas whether a cell adds the output of the cell before it."""

    real: bool = False
    """Real weights and activations in the same layers, as what networks of one bit are compared with."""

    one_bit: ClassVar[bool] = True

    @property
    def recipes(self) -> Mapping[str, Mapping[str, Any]]:
        """Adam and clipped weights, as networks of one bit are trained today; `bats` binarises weights last."""
        own = {"optimiser": "adamw", "learning_rate": 2e-3, "nesterov": False}
        own |= {"weight_decay": 0.0, "clip_weights": 1.0}
        two_steps = {"real_weights": 0.5} if self.template == "bats" else {}
        return {"training": own, "final": {**own, **two_steps}}

    def __post_init__(self):
        if self.template not in get_args(Template):
            raise ValueError(f"template={self.template!r} must be {', '.join(get_args(Template))}")
        if not 1 <= self.gamma < float("inf"):
            raise ValueError(f"gamma={self.gamma} must be at least 1")
        super().__post_init__()

    @property
    def kit(self) -> Kit:
        return kit_of(Style(self.template, self.real), self.joined)

    @property
    def ops(self) -> tuple[str, ...]:
        return FORMS[self.template].ops

    @property
    def rows(self) -> Rows:
        return Rows(len(self.ops), FORMS[self.template].kept)

    @property
    def published(self) -> dict[str, Genotype]:
        return FOUND if self.template == "bnas" else dict(notation.PUBLISHED)

    def identity(self) -> dict:
        return {**super().identity(), "template": self.template, "joined": self.joined, "real": self.real}

    def derive(self, mixture: Mixture | tuple[Array, Array]) -> Any:
        weights = jnp.concatenate(mixture) if isinstance(mixture, tuple) else mixture
        if self.rows.kept:
            # Whose weight is divided; in the authors' code that of all operations of the first edge.
            weights = weights.at[:, 0].add(-jnp.log(self.gamma))
        return super().derive(weights)


def _found(normal_cell: str, reduce: str) -> Genotype:
    words = {"none": NONE, "max": "max_pool_3x3", "dil3": "bin_dil_conv_3x3", "conv3": "bin_conv_3x3"}
    edges = ([word.split("~") for word in row.split()] for row in (normal_cell, reduce))
    return Genotype(*(Cell(tuple((words[op], int(source)) for op, source in row), CONCAT) for row in edges))


# `latest_cell_zeroise` of the authors' code. Two nodes of the normal cell, and three of the reduction cell, are zeros.
FOUND = {
    "BNAS-A": _found(
        "none~1 dil3~0 conv3~1 none~2 none~2 none~3 none~3 none~4",
        "max~0 none~1 max~0 none~2 none~3 none~2 none~3 none~4",
    )
}

PRESETS = {
    # Those in which a search is run.
    "bnas": Binary(),
    "bats": Binary(template="bats"),
    "beihang": Binary(template="beihang"),
    # Those in which what was found is trained at the size of the papers.
    "bnas-cifar": Binary(width=36, cells=20),
    "bats-cifar": Binary(width=36, cells=20, template="bats"),
    "beihang-cifar": Binary(width=36, cells=20, template="beihang"),
    "bnas-imagenet": Binary(width=64, cells=12, stem="imagenet", image_size=224, num_classes=1000),  # BNAS-D
    # For 8 to 32 pixels on a CPU.
    "tiny": Binary(width=8, cells=5, image_size=8),
}
PUBLISHED = FOUND
# Of the authors' networks on ImageNet, their cells and their width.
SIZES = {"D": (12, 64), "E": (12, 68), "F": (15, 68), "G": (11, 74), "H": (16, 128)}


def published(name: str) -> Published:
    """Also of any cells that are written in the notation of the template `bnas`."""
    space = PRESETS["bnas"]
    genotype = space.genotype(space.parse(name if "(" in name else str(FOUND[name])))
    large = PRESETS["bnas-imagenet"]
    sizes = {"CIFAR-10, 36 channels, 20 cells": PRESETS["bnas-cifar"].frame}
    for letter, (cells, width) in SIZES.items():
        frame = dataclasses.replace(large.frame, cells=cells, width=width)
        sizes[f"ImageNet, {width} channels, {cells} cells (BNAS-{letter})"] = frame
    costs = {text: genotype_cost(frame, genotype) for text, frame in sizes.items()}
    return Published(str(genotype), notation.drawings(genotype), costs, binary_costs.FORMULA)
