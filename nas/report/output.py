"""Answers as text: a table for people, JSON and CSV for programs. Only the table rounds and leaves out."""

import csv
import errno
import io
import json
import math
import numbers
import os
import re
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from nas.errors import RunError, UsageError
from nas.metrics import seen
from nas.plain import one_of, printable, shown
from nas.store.query import Row

FORMATS = ("table", "json", "csv")
SCORES = ("run", "task", "kind", "trial", "budget", "seed", "name", "value")
FILES = ("run", "kind", "path", "sha256")
COUNTS = ("macs", "params", "flops", "bops", "ops", "bits", "bytes")
MOST_SAID = 2000  # letters of an error
STYLE = re.compile(r"\x1b\[[01]m")  # what rich writes around headings: bold, and no longer
ODD = re.compile(rf"{STYLE.pattern}|[^\n\t -~]")
EPOCHS = re.compile(r"_e\d+$")  # after so many of them a metric was measured
GAP = 2  # blanks between the columns of a table
# What a narrow terminal goes without, in this order, after the metrics that not every run has.
DISPENSABLE = (
    "sha256",
    "seed",
    "budget",
    "space",
    "description",
    "strategy",
    "task",
    "objective",
    "started",
    "seconds",
)


def write_what_can_be_written() -> None:
    """A name outside the alphabet of a terminal or pipe is written in escapes; it does not end the program."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def say(program: str, text: str) -> int:
    """Prints an answer; the exit status."""
    closed = OSError(errno.EBADF, os.strerror(errno.EBADF))  # before Python began
    failed = closed if sys.stdout is None and text else _written(_harmless(text), sys.stdout)
    if failed is None or isinstance(failed, BrokenPipeError):  # whoever reads has seen enough
        return 0
    return complain(program, RunError(f"the answer cannot be written: {failed.strerror}"))


def complain(program: str, error: UsageError | RunError) -> int:
    """Prints an error in one line; the exit status."""
    tell(f"{program}: error: {shown(' '.join(str(error).split()), MOST_SAID)}")
    return error.exit_status


def tell(line: str) -> None:
    """Prints a line on stderr. Nothing ends because nobody can read it."""
    _written(_harmless(f"{line}\n"), sys.stderr)


def _harmless(text: str) -> str:
    """The text with what may move a cursor, or turn what is read around, as escapes: it may be of anybody. Ends of
    lines and bold letters are as they are."""
    return ODD.sub(lambda found: found[0] if STYLE.fullmatch(found[0]) else printable(found[0]), text)


def _written(text: str, stream: Any) -> OSError | None:
    """Why a text could not be written. A stream that was closed before Python began is None, and takes everything."""
    try:
        print(text, end="", file=stream or io.StringIO(), flush=True)
    except OSError as error:
        return error
    except ValueError as error:  # it was closed since
        return OSError(0, str(error))
    return None


known_format = one_of("format", FORMATS)


def render(
    rows: Sequence[Row],
    columns: Iterable[str],
    form: str,
    width: int | None = None,
    asked: Iterable[str] = (),
) -> str:
    """`columns` come first, and exist even without rows.

    `width` is the terminal's, None without one; what does not fit is left out, but not what was `asked` for.
    """
    extras = sorted({name for row in rows for name in row}.difference(columns))
    columns = [*columns, *extras]
    if form == "json":
        return _json(rows)
    if form == "csv":
        return _csv(rows, columns)
    droppable = [name for name in (*reversed(extras), *DISPENSABLE) if name not in set(asked)]
    return _table(rows, columns, width, droppable)


def left_out(count: int) -> str:
    """What is said below a table of runs of those that it does not have."""
    runs = f"{count} run{'s' if count != 1 else ''} that ended and left nothing"
    return f"\n{runs} {'are' if count != 1 else 'is'} left out; --all lists all\n" if count else ""


def render_architecture(shown: Row, form: str, width: int | None = None) -> str:
    """One architecture and all its scores; as CSV, the scores."""
    if form == "json":
        return _json([shown])
    if form == "csv":
        return _csv([{"architecture": shown["id"]} | row for row in shown["scores"]], ("architecture", *SCORES))
    facts = ("id", "space", "description", "encoding")
    text = "".join(f"{name:12} {number(name, shown[name])}\n" for name in facts)
    text += "\n" + _table(shown["scores"], SCORES, width)
    if shown["artifacts"]:
        text += "\n" + _table(shown["artifacts"], FILES, width)
    return text


def _json(rows: Sequence[Row]) -> str:
    lines = ",\n".join("  " + json.dumps(_plain(row), allow_nan=False) for row in rows)
    return f"[\n{lines}\n]\n" if rows else "[]\n"


def _plain(value: Any) -> Any:
    """JSON has no number for what is not finite."""
    if isinstance(value, dict):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _csv(rows: Sequence[Row], columns: Sequence[str]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    for row in rows:
        cells = (row.get(name) for name in columns)
        writer.writerow([" ".join(map(str, cell)) if isinstance(cell, list) else cell for cell in cells])
    return text.getvalue()


def _table(
    rows: Sequence[Row], columns: Iterable[str], width: int | None, droppable: Iterable[str] = DISPENSABLE
) -> str:
    if not rows:
        return "nothing to show\n"
    columns = list(columns)
    # The encoding says what the description says; a column without a single value only takes room.
    measures = {"value": "name", "best": "objective"}  # what these are of, another column says
    texts = {
        printable(column): [number(str(row.get(measures.get(column, ""), column)), row.get(column)) for row in rows]
        for column in columns
        if column != "encoding" and any(row.get(column) is not None for row in rows)
    }
    if "description" in texts:  # it may be long
        texts["description"] = texts.pop("description")
    widths = {column: max(map(len, [column, *cells])) for column, cells in texts.items()}
    if width is not None:
        widths = _fit(widths, width, droppable)
    kept = {printable(column): column for column in columns}
    numeric = {column: any(isinstance(row.get(kept[column]), int | float) for row in rows) for column in widths}
    room = width or sum(widths.values()) + GAP * len(widths)
    cells = {column: texts[column] for column in widths}
    fits = sum(widths.values()) + GAP * (len(widths) - 1) <= room
    if fits and all(text.isascii() for each in cells.items() for text in (each[0], *each[1])):
        return _lines(cells, widths, numeric, bold=width is not None)
    return _wrapped(cells, widths, numeric, room, styled=width is not None)


def _lines(texts: dict[str, list[str]], widths: dict[str, int], numeric: dict[str, bool], bold: bool) -> str:
    """A line a row: of letters that are as wide as each other, and where all columns have room."""

    def placed(cells: Iterable[str]) -> str:
        fitted = (
            cell.rjust(wide) if is_number else (cell if len(cell) <= wide else f"{cell[: wide - 1]}…").ljust(wide)
            for cell, wide, is_number in zip(cells, widths.values(), numeric.values(), strict=True)
        )
        return (" " * GAP).join(fitted).rstrip()

    head = placed(texts)
    lines = [f"\x1b[1m{head}\x1b[0m" if bold else head, *map(placed, zip(*texts.values(), strict=True))]
    return "".join(f"{line}\n" for line in lines)


def _wrapped(
    texts: dict[str, list[str]], widths: dict[str, int], numeric: dict[str, bool], room: int, styled: bool
) -> str:
    """Cells are broken where the columns have no room."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0))
    for column, wide in widths.items():
        # A description can be cut, for `show` has the whole of it; anything else may be there to be copied.
        cut = column == "description"
        table.add_column(
            Text(column),  # which is no markup
            justify="right" if numeric[column] else "left",
            width=wide if cut else None,
            no_wrap=cut or column == "architecture",
            overflow="ellipsis" if cut else "fold",
        )
    for cells in zip(*texts.values(), strict=True):
        table.add_row(*(Text(cell) for cell in cells))
    text = io.StringIO()
    Console(file=text, width=room, force_terminal=styled).print(table)
    return "".join(line.rstrip() + "\n" for line in text.getvalue().splitlines())


def _fit(widths: dict[str, int], width: int, droppable: Iterable[str]) -> dict[str, int]:
    """Without as many of the droppable columns as it takes; a description is cut before anything goes."""
    kept = dict(widths)
    for column in droppable:
        over = sum(kept.values()) + GAP * (len(kept) - 1) - width
        if "description" in kept and 0 < over <= kept["description"] - len("description"):
            kept["description"] -= over
            over = 0
        if over <= 0:
            break
        kept.pop(column, None)
    return kept


def reading(name: str, value: float) -> str:
    """A metric and its value, in a line of progress."""
    name, value = seen(name, value)
    return f"{name} {number(name, value)}"


def number(name: str, value: Any) -> str:
    """A number as people read it, by what it measures."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "-"
    if isinstance(value, list):
        return printable(" ".join(map(str, value)))
    if not issubclass(type(value), numbers.Real):
        return printable(str(value))
    if not math.isfinite(value):
        return str(value)
    name = EPOCHS.sub("", name)
    if name.endswith("error"):
        return f"{100 * value:.2f} %"
    if name.endswith(COUNTS):
        for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
            if value >= size:
                return f"{value / size:.2f}{unit}"
        return f"{value:.0f}"
    if name.endswith("_ms") and abs(value) < 10:
        return f"{value:.3g}"
    if name.endswith("seconds") or name.endswith("_ms"):
        return f"{value:.1f}"
    return str(value) if isinstance(value, int) else f"{value:.4g}"
