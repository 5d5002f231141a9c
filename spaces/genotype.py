"""Cells in the notation of DARTS, and those that were published in it.

A cell is a list of edges, two for each node in turn: an operation, and the state it is applied to. States 0 and 1 are
the outputs of the cell before last and of the last cell; the nodes follow.
"""

import ast
import warnings
from collections.abc import Collection
from typing import NamedTuple

from spaces.abilities import Drawing
from spaces.cell_ops import NONE, OPERATIONS

Edge = tuple[str, int]
FIELDS = ("normal", "normal_concat", "reduce", "reduce_concat")
FORM = "Genotype(normal=[('sep_conv_3x3', 0), ...], normal_concat=[2, ...], reduce=[...], reduce_concat=[...])"
NAMES = tuple(op for op in OPERATIONS if op != NONE)
LONGEST = 10_000  # characters; published ones have up to a thousand


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


def parse(text: str, operations: Collection[str] = NAMES) -> Genotype:
    """Reads what `str` writes, and the other ways in which published code prints and declares the same.

    Those are: assigned to a name; without keywords; the two edges of each node in a list of their own; a third entry in
    an edge, which is its weight or the state of its own node; a concatenation as a tuple or a range.

    `operations` are those that there are. Nothing is evaluated. Raises ValueError that says what is wrong.
    """
    if len(text) > LONGEST:
        raise ValueError(f"{quoted(text)} is longer than {LONGEST} characters, which no genotype is")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of literals that are odd to Python, and are refused below
            call = _call(ast.parse(text.strip()))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        call = None
    if call is None or len(call.args) > len(FIELDS) or any(word.arg is None for word in call.keywords):
        raise ValueError(f"{quoted(text)} is not of the form {FORM}")
    given = [*zip(FIELDS, call.args, strict=False), *((str(word.arg), word.value) for word in call.keywords)]
    names = [name for name, _ in given]
    for name in names:
        if name not in FIELDS or names.count(name) > 1:
            why = "twice" if name in FIELDS else f"which is not one of {', '.join(FIELDS)}"
            raise ValueError(f"{quoted(text)} has {name} {why}; it is not of the form {FORM}")
    missing = [name for name in FIELDS if name not in names]
    if missing:
        raise ValueError(f"{quoted(text)} has no {missing[0]}; it is not of the form {FORM}")
    parts = {name: _sequence(text, name, node) for name, node in given}
    return Genotype(
        *(_cell(text, name, parts[name], parts[f"{name}_concat"], operations) for name in ("normal", "reduce"))
    )


def quoted(value: object) -> str:
    """As Python writes it, cut to what one line of an error may hold."""
    written = repr(value)
    return written if len(written) <= 200 else f"{written[:200]}..."


def _call(tree: ast.Module) -> ast.Call | None:
    """The call of `Genotype`, which may be assigned to names."""
    if len(tree.body) != 1:
        return None
    statement = tree.body[0]
    if isinstance(statement, ast.Assign) and not all(isinstance(target, ast.Name) for target in statement.targets):
        return None
    value = statement.value if isinstance(statement, ast.Assign | ast.Expr) else None
    return value if isinstance(value, ast.Call) and _calls(value, "Genotype") else None


def _calls(node: ast.expr, *names: str) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in names


def _sequence(text: str, name: str, node: ast.expr) -> list:
    """A list, a tuple, or the `range(...)` that older code prints for a concatenation."""
    try:
        if isinstance(node, ast.Call) and _calls(node, "list", "tuple") and len(node.args) == 1 and not node.keywords:
            node = node.args[0]
        if isinstance(node, ast.Call) and _calls(node, "range") and len(node.args) <= 3 and not node.keywords:
            limits = [ast.literal_eval(each) for each in node.args]
            if all(type(each) is int and -100 < each < 100 for each in limits):
                return list(range(*limits))
        value = ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        raise ValueError(f"{quoted(text)} has {name} that is not written out as a list") from None
    if not isinstance(value, list | tuple):
        said = "no list of edges" if name in ("normal", "reduce") else "no list of the states that the cell joins"
        raise ValueError(f"{quoted(text)} has {name}={quoted(value)}, which is {said}")
    return list(value)


def _flat(text: str, name: str, edges: list) -> list:
    """The edges one after another, where each node has a list of its own."""
    own = [isinstance(node, list | tuple) and len(node) > 0 and isinstance(node[0], list | tuple) for node in edges]
    if not any(own):
        return edges
    for i, node in enumerate(edges):
        if not own[i] or len(node) != 2:
            raise ValueError(f"{quoted(text)} has {quoted(node)} for node {i} of {name}, not its two edges")
    return [edge for node in edges for edge in node]


def _cell(text: str, name: str, edges: list, concat: list, operations: Collection[str]) -> Cell:
    edges = _flat(text, name, edges)
    if not edges or len(edges) % 2:
        raise ValueError(f"{quoted(text)} has {len(edges)} edges in {name}, which must be two for each node")
    for i, edge in enumerate(edges):
        state, wrong = 2 + i // 2, f"{quoted(text)} has {quoted(edge)} in {name}"
        if not (isinstance(edge, tuple | list) and len(edge) in (2, 3)):
            raise ValueError(f"{wrong}, which is not an operation and the state that it is applied to")
        if edge[0] not in operations:
            raise ValueError(f"{wrong}, whose operation is not one of {', '.join(operations)}")
        if type(edge[1]) is not int or not 0 <= edge[1] < state:
            raise ValueError(f"{wrong}, whose state must lie in 0..{state - 1}")
        if len(edge) == 3 and type(edge[2]) is not float and not (type(edge[2]) is int and edge[2] == state):
            raise ValueError(
                f"{wrong}, whose third entry is neither a weight, as 0.5, nor the state of its node, {state}"
            )
    states = range(2 + len(edges) // 2)
    if not concat or any(type(i) is not int or i not in states for i in concat) or len(set(concat)) < len(concat):
        allowed = f"which must be different states, each in 0..{states[-1]}"
        raise ValueError(f"{quoted(text)} has {name}_concat={quoted(concat)}, {allowed}")
    return Cell(tuple((edge[0], edge[1]) for edge in edges), tuple(concat))


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
