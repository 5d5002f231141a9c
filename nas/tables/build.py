"""A table of measurements of one's own: a CSV file with a row an architecture, for a space that can be enumerated."""

import csv
import re
from argparse import ArgumentTypeError
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from nas import registry, testing
from nas.config import build_space
from nas.errors import UsageError, one_line
from nas.plain import check_regular, number, shown
from nas.saved.predictors import described
from nas.tables.columns import Column, column_of
from nas.tables.table import UNMEASURED, Table
from spaces.base import Space, check_encoding, every, place_values

ARCHITECTURE = "architecture"
MOST_BYTES, MOST_COLUMNS = 2**28, 1000  # of a file
MOST = 1e30  # which float32 holds
RESERVED = ("header", "encodings", "file", "allow_pickle", UNMEASURED)  # of the archive, and of what is made of it
UNITS = {"params": "parameters", "macs": "multiply-adds", "flops": "operations"}


def build(path: Path, space_name: str, source: str) -> Table:
    """The table of a CSV file. Its column `architecture` is the notation of the space; the others are columns of a
    table, of which those that are neither errors nor times are costs. An empty cell is no number.

    Architectures that the file does not have are in the table without a number, and no search proposes them. Raises
    UsageError for a space that is too large to enumerate, and for rows that are not of it or are there twice.
    """
    space = build_space(space_name)
    if registry.is_own("space", space_name):
        with testing.lawful(f"space={space_name!r}"):
            testing.check_space(space, samples=16, networks=False)
    rows = every(space)
    if rows is None:
        size = np.prod([float(n) for n in space.cardinalities])
        raise UsageError(f"space={space_name!r} has {size:.3g} encodings; a table holds at most {2**16}")
    names, lines = _read(path)
    columns = {name: _column(path, name) for name in names}
    values = {name: np.full(len(rows), np.nan, np.float32) for name in names}
    first: dict[int, int] = {}  # the line of each architecture
    for line, text, cells in lines:
        index = _index(space, path, line, text)
        if index in first:
            raise UsageError(f"{path}, line {line}: architecture={shown(repr(text))} is that of line {first[index]}")
        first[index] = line
        for name, cell in zip(names, cells, strict=True):
            values[name][index] = _number(path, line, name, cell, columns[name].kind)
    if not first:
        raise UsageError(f"{path} has no rows")
    table = Table(str(path), registry.portable(space_name), source, columns, values, _fields(space_name, space))
    if not table.measured.any():
        raise UsageError(f"{path} has no error of any architecture")
    return table


def _fields(name: str, space: Any) -> dict[str, Any] | None:
    """What the header says of a space besides its name: of ours nothing, for a table is of the first preset."""
    if not registry.is_own("space", name):
        return None
    return {key: value for key, value in described(name, space).items() if key != "name"}


def _read(path: Path) -> tuple[list[str], Iterator[tuple[int, str, list[str]]]]:
    """The names of the columns, and of each row its line, its architecture and the cells of these columns."""
    try:
        check_regular(f"{path}", path)
        if path.stat().st_size > MOST_BYTES:
            raise UsageError(f"{path} has {path.stat().st_size} bytes; allowed: at most {MOST_BYTES}")
        reader = csv.reader(path.read_text(encoding="utf-8-sig").splitlines())
        header = [name.strip() for name in next(reader, [])]
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"{path} is not a CSV file in UTF-8: {error}") from error
    if len(header) > MOST_COLUMNS:
        raise UsageError(f"{path} has {len(header)} columns; allowed: {MOST_COLUMNS}")
    twice = [name for name, count in Counter(header).items() if count > 1]
    if ARCHITECTURE not in header or twice or not all(header):
        said = f"{twice[0]!r} is there twice" if twice else f"it has {shown(', '.join(map(repr, header)))}"
        raise UsageError(f"{path}: the first line must name the columns, {ARCHITECTURE!r} among them: {said}")
    where = header.index(ARCHITECTURE)
    names = header[:where] + header[where + 1 :]
    if "valid" not in {column.split for name in names if (column := column_of(name))}:
        raise UsageError(f"{path}: a column such as cifar10_valid_error_e200 must hold the errors to search by")

    def lines() -> Iterator[tuple[int, str, list[str]]]:
        try:
            for cells in reader:
                if not cells:
                    continue
                if len(cells) != len(header):
                    raise UsageError(f"{path}, line {reader.line_num}: {len(cells)} cells must be {len(header)}")
                yield reader.line_num, cells[where].strip(), cells[:where] + cells[where + 1 :]
        except csv.Error as error:
            raise UsageError(f"{path}, line {reader.line_num}: {error}") from error

    return names, lines()


def _column(path: Path, name: str) -> Column:
    if column := column_of(name):
        return column
    if not re.fullmatch(r"[a-z_]\w{0,99}", name, re.ASCII | re.IGNORECASE) or name in RESERVED:
        allowed = "letters, digits and underscores, not beginning with a digit, at most 100"
        allowed += f", and none of {', '.join(RESERVED)}"
        raise UsageError(f"{path}: column {shown(repr(name))} must be {allowed}")
    return Column("cost", "ms" if name.endswith("_ms") else UNITS.get(name, ""))


def _index(space: Space, path: Path, line: int, text: str) -> int:
    """The place of an architecture. It is that of its canonical row, for the same network has one measurement."""
    try:
        row = np.asarray(space.parse(text), np.int32)
        check_encoding(space, row.tolist())  # its own parse may take what is none for another one
    except Exception as error:  # of a space of the user's own
        said = shown(one_line(error) or type(error).__name__)
        raise UsageError(
            f"{path}, line {line}: architecture={shown(repr(text))} is not of the space: {said}"
        ) from error
    return int(np.asarray(space.canonical(jnp.asarray(row)[None]))[0] @ place_values(space))


def _number(path: Path, line: int, name: str, cell: str, kind: str) -> float:
    try:
        value = number(cell.strip()) if cell.strip() else float("nan")
    except ArgumentTypeError:
        value = float("inf")
    if abs(value) > MOST:
        raise UsageError(f"{path}, line {line}: {name}={shown(repr(cell))} must be a number up to {MOST:g}, or empty")
    if kind == "error" and not (np.isnan(value) or 0 <= value <= 1):
        raise UsageError(f"{path}, line {line}: {name}={cell} must be a share in 0..1, not percent")
    if kind == "seconds" and value <= 0:
        raise UsageError(f"{path}, line {line}: {name}={cell} must be above 0")
    return value
