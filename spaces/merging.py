"""Merging cells as values: what they are, how they are written and drawn, and those that NAS-FPN found."""

import re
from typing import NamedTuple

from spaces.abilities import Decision, Drawing
from spaces.pyramids import LEVELS

OPS = ("sum", "attn")
OUTPUTS = len(LEVELS)
CELL = re.compile(r"(sum|attn)\(([Pf]\d{1,3}),([Pf]\d{1,3})\)@(\d)")


class Merge(NamedTuple):
    """A cell: which features it takes, by their numbers in the pool, its level and its operation."""

    first: int
    second: int
    level: int
    op: str


Cells = tuple[Merge, ...]


def text_of(cells: Cells) -> str:
    def name(i: int) -> str:
        return f"P{LEVELS[i]}" if i < OUTPUTS else f"f{i}"

    return " ".join(f"{op}({name(i)},{name(j)})@{level}" for i, j, level, op in cells)


def read(text: str) -> Cells:
    """The cells of a description. Raises ValueError that says what is wrong with the text."""
    cells: list[Merge] = []
    for word in text.split():
        found = CELL.fullmatch(word)
        if found is None:
            raise ValueError(f"{quoted(text)} has {word[:40]!r}, which is no cell such as attn(P4,f5)@4")
        op, one, other, level = found.groups()
        taken = []
        for name in (one, other):
            number = int(name[1:])
            i = LEVELS.index(number) if name[0] == "P" and number in LEVELS else number if name[0] == "f" else -1
            if i < 0 or (name[0] == "f" and not OUTPUTS <= i < OUTPUTS + len(cells)):
                raise ValueError(f"{quoted(text)}: {word!r} takes {name}, which there is not before it")
            taken.append(i)
        if taken[0] == taken[1] or int(level) not in LEVELS:
            said = "takes one feature twice" if taken[0] == taken[1] else f"has level {level}, not one of 3 to 7"
            raise ValueError(f"{quoted(text)}: {word!r} {said}")
        cells.append(Merge(taken[0], taken[1], int(level), op))
    if not cells:
        raise ValueError(f"{quoted(text)} has no cell such as attn(P4,f5)@4")
    return tuple(cells)


def quoted(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:60] + "...")


def taken_up(cells: Cells) -> list[tuple[int, ...]]:
    """Of each cell, the features besides its inputs that are added to it: those of its level that nobody took."""
    levels, taken, found = [*LEVELS, *(cell.level for cell in cells)], set(), []
    for t, cell in enumerate(cells):
        new = t >= len(cells) - OUTPUTS
        taken |= {cell.first, cell.second}
        rest = [i for i in range(OUTPUTS + t) if levels[i] == cell.level and i not in taken] if new else []
        taken |= set(rest)
        found.append(tuple(rest))
    return found


def drawings(cells: Cells) -> list[Drawing]:
    """A row a level, the coarsest on top, and a column a cell."""
    names = tuple(f"P{level}" for level in LEVELS)
    names += tuple(
        f"{cell.op} {'P' if t >= len(cells) - OUTPUTS else 'at '}{cell.level}" for t, cell in enumerate(cells)
    )
    edges: list[tuple[int, int, str]] = []
    for t, (cell, more) in enumerate(zip(cells, taken_up(cells), strict=True)):
        edges += [(i, OUTPUTS + t, "") for i in (cell.first, cell.second)]
        edges += [(i, OUTPUTS + t, "added") for i in more]
    levels = [*LEVELS, *(cell.level for cell in cells)]
    columns = [0] * OUTPUTS + list(range(1, len(cells) + 1))
    places = tuple((column, LEVELS[-1] - level) for column, level in zip(columns, levels, strict=True))
    return [Drawing("pyramid", names, tuple(edges), places)]


def decisions(cells: int) -> tuple[Decision, ...]:
    """Of so many cells: the inputs among what there is by then, the second among what is left; the level, of the last
    five cells among those that are left; and the operation."""
    found: list[Decision] = []
    for t in range(cells):
        pool = tuple([f"P{level}" for level in LEVELS] + [f"cell {i}" for i in range(t)])
        others = tuple(f"other {i}" for i in range(len(pool) - 1))
        free = OUTPUTS - max(t - (cells - OUTPUTS), 0)
        levels = tuple(f"P{level}" for level in LEVELS) if free == OUTPUTS else tuple(f"free {i}" for i in range(free))
        words = ("first input", pool), ("second input", others), ("level", levels), ("operation", OPS)
        found += [Decision(f"cell {t}: {what}", choices) for what, choices in words]
    return tuple(found)


FOUND = {
    "NAS-FPN": (
        Merge(1, 3, 4, "attn"),
        Merge(1, 5, 4, "sum"),
        Merge(0, 6, 3, "sum"),
        Merge(6, 7, 4, "sum"),
        Merge(7, 8, 5, "attn"),
        Merge(6, 9, 7, "attn"),
        Merge(9, 10, 6, "attn"),
    )
}
