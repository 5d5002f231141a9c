"""Cells in the notation of DARTS, and those that were published in it.

A cell is a list of edges, two for each node in turn: an operation, and the state it is applied to. States 0 and 1 are
the outputs of the cell before last and of the last cell; the nodes follow.
"""

import ast
from typing import NamedTuple

from spaces.base import Drawing
from spaces.cell_ops import NONE, OPERATIONS

Edge = tuple[str, int]


class Cell(NamedTuple):
    edges: tuple[Edge, ...]
    concat: tuple[int, ...]  # the states that its output joins
    joined: tuple[int, ...] = ()  # the nodes that join what their edges bring, instead of adding it


class Genotype(NamedTuple):
    """A normal and a reduction cell."""

    normal: Cell
    reduce: Cell

    def cell(self, reduction: bool) -> Cell:
        return self.reduce if reduction else self.normal

    def __str__(self) -> str:
        parts = [
            f"{name}={list(cell.edges)!r}, {name}_concat={list(cell.concat)!r}"
            for name, cell in zip(self._fields, self, strict=True)
        ]
        return f"Genotype({', '.join(parts)})"


def drawings(genotype: Genotype) -> list[Drawing]:
    found = []
    for title, cell in zip(("normal cell", "reduction cell"), genotype, strict=True):
        count = 2 + len(cell.edges) // 2
        names = ("c_{k-2}", "c_{k-1}", *map(str, range(count - 2)), "c_{k}")
        edges = [(source, 2 + i // 2, op) for i, (op, source) in enumerate(cell.edges)]
        found.append(Drawing(title, names, (*edges, *((state, count, "") for state in cell.concat))))
    return found


def parse(text: str) -> Genotype:
    """Raises ValueError that says what is wrong."""
    form = "Genotype(normal=[('sep_conv_3x3', 0), ...], normal_concat=[2, ...], reduce=[...], reduce_concat=[...])"
    try:
        tree = ast.parse(text.strip(), mode="eval").body
        if not isinstance(tree, ast.Call) or tree.args or ast.unparse(tree.func) != "Genotype":
            raise SyntaxError
        parts = {word.arg: _sequence(word.value) for word in tree.keywords}
        if set(parts) != {"normal", "normal_concat", "reduce", "reduce_concat"}:
            raise SyntaxError
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise ValueError(f"{text!r} is not of the form {form}") from None
    return Genotype(*(_cell(text, name, parts[name], parts[f"{name}_concat"]) for name in ("normal", "reduce")))


def _sequence(node: ast.expr) -> list:
    """A list, a tuple, or the `range(...)` that older code prints for a concatenation."""
    if isinstance(node, ast.Call) and ast.unparse(node.func) == "range" and 1 <= len(node.args) <= 2:
        limits = [ast.literal_eval(each) for each in node.args]
        if not all(isinstance(each, int) and 0 <= each < 100 for each in limits):
            raise ValueError
        return list(range(*limits))
    return list(ast.literal_eval(node))


def _cell(text: str, name: str, edges: list, concat: list) -> Cell:
    if not edges or len(edges) % 2:
        raise ValueError(f"{text!r} has {len(edges)} edges in {name}, which must be two for each node")
    for i, edge in enumerate(edges):
        if not (isinstance(edge, tuple | list) and len(edge) == 2 and edge[0] in OPERATIONS and edge[0] != NONE):
            known = ", ".join(op for op in OPERATIONS if op != NONE)
            raise ValueError(f"{text!r} has {edge!r} in {name}, whose operation is not one of {known}")
        if not isinstance(edge[1], int) or not 0 <= edge[1] < 2 + i // 2:
            raise ValueError(f"{text!r} has {edge!r} in {name}, whose state must lie in 0..{1 + i // 2}")
    states = range(2 + len(edges) // 2)
    if not concat or len(set(concat)) < len(concat) or any(type(i) is not int or i not in states for i in concat):
        raise ValueError(
            f"{text!r} has {name}_concat={concat}, which must be different states, each in 0..{states[-1]}"
        )
    return Cell(tuple((op, source) for op, source in edges), tuple(concat))


def _published(normal: str, normal_concat: tuple[int, ...], reduce: str, reduce_concat: tuple[int, ...]) -> Genotype:
    words = {"max": "max_pool_3x3", "avg": "avg_pool_3x3", "skip": "skip_connect", "sep3": "sep_conv_3x3"}
    words |= {"sep5": "sep_conv_5x5", "sep7": "sep_conv_7x7", "dil3": "dil_conv_3x3", "conv7": "conv_7x1_1x7"}
    cells = []
    for row, concat in ((normal, normal_concat), (reduce, reduce_concat)):
        edges = (word.split("~") for word in row.split())
        cells.append(Cell(tuple((words[op], int(source)) for op, source in edges), concat))
    return Genotype(*cells)


# As they are printed in the code of DARTS: NASNet-A and AmoebaNet-A in its numbering of states.
PUBLISHED = {
    "DARTS_V1": _published(
        *("sep3~1 sep3~0 skip~0 sep3~1 skip~0 sep3~1 sep3~0 skip~2", (2, 3, 4, 5)),
        *("max~0 max~1 skip~2 max~0 max~0 skip~2 skip~2 avg~0", (2, 3, 4, 5)),
    ),
    "DARTS_V2": _published(
        *("sep3~0 sep3~1 sep3~0 sep3~1 sep3~1 skip~0 skip~0 dil3~2", (2, 3, 4, 5)),
        *("max~0 max~1 skip~2 max~1 max~0 skip~2 skip~2 max~1", (2, 3, 4, 5)),
    ),
    "NASNet": _published(
        *("sep5~1 sep3~0 sep5~0 sep3~0 avg~1 skip~0 avg~0 avg~0 sep3~1 skip~1", (2, 3, 4, 5, 6)),
        *("sep5~1 sep7~0 max~1 sep7~0 avg~1 sep5~0 skip~3 avg~2 sep3~2 max~1", (4, 5, 6)),
    ),
    "AmoebaNet": _published(
        *("avg~0 max~1 sep3~0 sep5~2 sep3~0 avg~3 sep3~1 skip~1 skip~0 avg~1", (4, 5, 6)),
        *("avg~0 sep3~1 max~0 sep7~2 sep7~0 avg~1 max~0 max~1 conv7~0 sep3~5", (3, 4, 6)),
    ),
}
