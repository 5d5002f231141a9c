"""The NASNet space: two cells of five blocks, each of which combines two operations on earlier states.

Zoph et al., "Learning Transferable Architectures for Scalable Image Recognition", 2018,
https://arxiv.org/abs/1707.07012.
"""

import dataclasses
import functools
import itertools
import re
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from spaces import genotype as notation
from spaces.abilities import Decision, Drawing, Published
from spaces.base import Encodings, additive_costs
from spaces.cell_kit import PLAIN
from spaces.cell_network import Body, Sizes
from spaces.cell_ops import SKIP
from spaces.cell_pairs import state
from spaces.fixed_cells import fixed_network, genotype_cost
from spaces.genotype import Cell, Genotype
from spaces.layers import generator

OPS = (
    *("skip_connect", "conv_3x1_1x3", "conv_7x1_1x7", "full_dil_conv_3x3", "avg_pool_3x3"),
    *("max_pool_3x3", "max_pool_5x5", "max_pool_7x7", "conv_1x1", "conv_3x3"),
    *("sep_conv_3x3", "sep_conv_5x5", "sep_conv_7x7"),
)
COMBINERS = ("add", "concat")
BLOCKS = 5
STATES = 2 + BLOCKS  # states 0 and 1 are the outputs of the cell before last and of the last cell
BLOCK = 5  # decisions of a block: two states, the operations on them, how these are combined
CELLS = 2  # normal, reduction
WORD = re.compile(r"(add|concat)\((\w+)~([0-9]), (\w+)~([0-9])\)")


@dataclasses.dataclass(frozen=True)
class NasNet(Sizes):
    """`cells` cells, of which those at a third and two thirds reduce the resolution and double the width.

    The output of a cell joins all states that no block takes. A block that joins its operations is brought back to the
    width of the cell by a 1 x 1 convolution, of which the paper says nothing. Its 3 x 3 dilated convolution is dense.
    """

    width: int = 32
    cells: int = 20

    supernets: ClassVar[bool] = False

    @property
    def cardinalities(self) -> tuple[int, ...]:
        return tuple(size for b in range(BLOCKS) for size in (2 + b, 2 + b, len(OPS), len(OPS), len(COMBINERS))) * CELLS

    def identity(self) -> dict:
        return {"ops": OPS, "blocks": BLOCKS, **self.own_sizes()}

    def canonical(self, encodings: Encodings) -> Encodings:
        """In each block the earlier state first, and of one state the earlier operation.

        Cells whose blocks are numbered in another way are equal too, and are not seen to be.
        """
        states, ops, how = _parts(encodings)
        keys = states * len(OPS) + ops
        keys = jnp.stack([keys.min(-1), keys.max(-1)], axis=-1)
        blocks = jnp.concatenate([keys // len(OPS), keys % len(OPS), how[..., None]], axis=-1)
        return blocks.reshape(encodings.shape).astype(jnp.int32)

    def describe(self, encoding: np.ndarray) -> str:
        blocks = np.asarray(encoding).reshape(CELLS, BLOCKS, BLOCK)
        cells = [[f"{COMBINERS[how]}({OPS[p]}~{a}, {OPS[q]}~{b})" for a, b, p, q, how in cell] for cell in blocks]
        return "normal: " + " ".join(cells[0]) + "; reduce: " + " ".join(cells[1])

    def parse(self, text: str) -> np.ndarray:
        """Reads what `describe` writes, or the name of a published architecture."""
        text = PUBLISHED.get(text.strip(), text)
        example = "normal: add(sep_conv_5x5~1, sep_conv_3x3~0) ...; reduce: ..."
        parts = re.fullmatch(r"\s*normal:(.*);\s*reduce:(.*)", text)
        words = [WORD.findall(part) for part in parts.groups()] if parts else []
        rest = [WORD.sub("", part).strip() for part in parts.groups()] if parts else []
        if [len(cell) for cell in words] != [BLOCKS] * CELLS or any(rest):
            raise ValueError(f"{text!r} is not two cells of {BLOCKS} blocks, such as {example}")
        row: list[int] = []
        for cell in words:
            for i, (how, p, a, q, b) in enumerate(cell):
                odd = [op for op in (p, q) if op not in OPS]
                if odd:
                    raise ValueError(f"{text!r} has the operation {odd[0]!r}, which is not one of {', '.join(OPS)}")
                if max(int(a), int(b)) >= 2 + i:
                    raise ValueError(f"{text!r} has state {max(a, b)} in block {i}, which must lie in 0..{1 + i}")
                row += [int(a), int(b), OPS.index(p), OPS.index(q), COMBINERS.index(how)]
        return np.array(row, np.int32)

    def genotype(self, encoding: np.ndarray) -> Genotype:
        cells = []
        for cell in np.asarray(encoding).reshape(CELLS, BLOCKS, BLOCK).tolist():
            edges = tuple(edge for a, b, p, q, _ in cell for edge in ((OPS[p], a), (OPS[q], b)))
            used = {state for _, state in edges}
            unused = tuple(state for state in range(STATES) if state not in used)
            cells.append(Cell(edges, unused, tuple(i for i, block in enumerate(cell) if block[4] == 1)))
        return Genotype(*cells)

    def drawings(self, encoding: np.ndarray) -> list[Drawing]:
        return notation.drawings(self.genotype(encoding))

    def decisions(self) -> tuple[Decision, ...]:
        found: list[Decision] = []
        for cell in ("normal", "reduction"):
            for block in range(BLOCKS):
                where, states = f"{cell} block {block}", tuple(map(state, range(2 + block)))
                found += [Decision(f"{where}: {place} input", states) for place in ("first", "second")]
                found += [Decision(f"{where}: {place} operation", OPS) for place in ("first", "second")]
                found.append(Decision(f"{where}: combiner", tuple(COMBINERS)))
        return tuple(found)

    def cost(self, encodings: Encodings) -> dict[str, Float[Array, "n"]]:
        """Multiply-adds of one image, and parameters with affine normalisation, without an auxiliary head."""
        states, ops, how = _parts(encodings)
        # The normal cell has no strides.
        strided = (states < 2) & (np.arange(CELLS) == 1)[None, :, None, None]
        used = _used(states)
        joined = STATES - used.sum(-1)
        kinds = [(ops + len(OPS) * strided).reshape(len(encodings), -1), how.reshape(len(encodings), -1)]
        kinds += [_outputs(joined)[:, None], 2 - used[:, 1, :2].sum(-1, keepdims=True)]
        return additive_costs({"macs": 0, "params": 0}, self._costs(), jnp.concatenate(kinds, axis=1))

    def map_shapes(self) -> tuple[tuple[tuple[int, int, int], ...], ...]:
        return tuple(self.frame.maps(divmod(number, STATES + 1)) for number in range((STATES + 1) ** 2))

    def map_kinds(self, encodings: Encodings) -> Int[Array, "n"]:
        return _outputs(STATES - _used(_parts(encodings)[0]).sum(-1))

    def supernet(self, key: jax.Array, *, affine: bool = False) -> nnx.Module:
        raise ValueError(
            "the space nasnet has no shared network, for its cells differ in how many states they join; "
            "build(encoding) gives that of one architecture"
        )

    def build(self, encoding: np.ndarray, key: jax.Array, *, auxiliary: bool = False) -> Body:
        """Its drop path is the scheduled one: the probability given is that of the last cell."""
        return fixed_network(self.frame, self.genotype(encoding), generator(key), auxiliary, scheduled=True)

    def _costs(self) -> dict[str, np.ndarray]:
        """What each choice adds: of the operations of all blocks (the second half with stride 2), of how they are
        combined, of how many states the cells join, and of how many inputs a reduction cell joins."""
        frame, edges = self.frame, 2 * BLOCKS
        table = np.zeros((CELLS * (edges + BLOCKS) + 2, (STATES + 1) ** 2, 6), np.int64)
        for shape in frame.shapes((1, 1)):
            first, combined = edges * shape.reduction, CELLS * edges + BLOCKS * shape.reduction
            for (i, op), stride in itertools.product(enumerate(OPS), (1, 2)):
                more = PLAIN.cost(op, shape.width, stride, shape.size if stride == 2 else shape.out)
                table[first : first + edges, i + len(OPS) * (stride - 1)] += shape.length * more
            fit = PLAIN.fit_cost(2 * shape.width, shape.width, shape.out, False)
            table[combined : combined + BLOCKS, 1] += shape.length * fit
            if shape.reduction:
                table[-1, :3] += np.outer(np.arange(3), PLAIN.cost(SKIP, shape.width, 2, shape.size))
        for one, other in itertools.product(range(1, STATES + 1), repeat=2):
            table[-2, one * (STATES + 1) + other] = frame.cost((one, other))
        return PLAIN.whole(table)


def _parts(encodings: Encodings) -> tuple[Int[Array, "n 2 5 2"], Int[Array, "n 2 5 2"], Int[Array, "n 2 5"]]:
    """States, operations and combiners, by cell and block."""
    blocks = encodings.reshape(-1, CELLS, BLOCKS, BLOCK)
    return blocks[..., :2], blocks[..., 2:4], blocks[..., 4]


def _used(states: Int[Array, "n 2 5 2"]) -> Bool[Array, "n 2 7"]:
    """By cell, whether a block takes a state."""
    return (states[..., None] == np.arange(STATES)[None, None, None, None]).any((2, 3))


def _outputs(joined: Int[Array, "n 2"]) -> Int[Array, "n"]:
    """How many states the two cells join, as one number."""
    return joined[:, 0] * (STATES + 1) + joined[:, 1]


# In the numbering of states of this file, which is that of DARTS: 0 is the cell before last.
PUBLISHED = {
    "NASNet-A": (
        "normal: add(sep_conv_5x5~1, sep_conv_3x3~0) add(sep_conv_5x5~0, sep_conv_3x3~0) "
        "add(avg_pool_3x3~1, skip_connect~0) add(avg_pool_3x3~0, avg_pool_3x3~0) add(sep_conv_3x3~1, skip_connect~1); "
        "reduce: add(sep_conv_5x5~1, sep_conv_7x7~0) add(max_pool_3x3~1, sep_conv_7x7~0) "
        "add(avg_pool_3x3~1, sep_conv_5x5~0) add(skip_connect~3, avg_pool_3x3~2) add(sep_conv_3x3~2, max_pool_3x3~1)"
    )
}
PRESETS = {
    # 6 @ 768: the network of the paper on CIFAR-10, six normal cells between reductions.
    "cifar": NasNet(),
    # For 8 to 32 pixels on a CPU.
    "tiny": NasNet(width=8, cells=3, image_size=8),
}


@functools.cache
def published(name: str) -> Published:
    """Also of any cells that are written in the notation of the space."""
    space = PRESETS["cifar"]
    row = space.parse(name if "(" in name else PUBLISHED[name])
    genotype = space.genotype(row)
    costs = {"CIFAR-10, 32 channels, 20 cells": genotype_cost(space.frame, genotype)}
    return Published(space.describe(row), notation.drawings(genotype), costs)
