"""What pages say of the code comes from the code: marks in a page are replaced when pages are built.

| mark | becomes |
|---|---|
| `<!-- help: nas top -->` | the help of the command |
| `<!-- drawing: darts -->` | an architecture of the space, as `nas show` draws it |
| `<!-- measured: nsga2, ppo -->` | rows of these names in `results.md`, beside those of the baselines |
"""

import contextlib
import io
import os
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

MARK = re.compile(r"<!-- (help|drawing|measured): (.*?) ?-->")
RESULTS = Path(__file__).parent / "results.md"
BASELINES = {"random", "plain evolution", "plain gp", "front mutation"}
TITLE = re.compile(r"(?:## |\*\*)(.+?)(?:\*\*|$)", re.MULTILINE)
CAPTION = re.compile(r"[A-Z][^\n]{1,60}:")


def on_page_markdown(markdown: str, **_: object) -> str:
    write = {"help": _help, "drawing": _drawing, "measured": _measured}
    return MARK.sub(lambda found: write[found[1]](found[2]), markdown)


def _help(command: str) -> str:
    from nas.commands.cli import main

    os.environ["COLUMNS"] = "100"
    words, said = command.split()[1:], io.StringIO()
    words += [] if "--help-all" in words else ["--help"]
    with contextlib.redirect_stdout(said):
        status = main(words)
    assert status == 0, words
    return f"```text\n{said.getvalue()}```"


def _drawing(name: str) -> str:
    from nas.config import build_space
    from nas.report.draw import svg

    space = build_space(name)
    row = np.random.default_rng(0).integers(space.cardinalities).astype(np.int32)
    row = np.asarray(space.canonical(row[None]))[0]
    drawn = svg(space.drawings(row), name=re.sub(r"\W", "-", name), title=f"An architecture of {name}")
    return f'A random one, `{space.describe(row)}`:\n\n<div style="overflow-x: auto">\n{drawn}\n</div>\n'


def _measured(names: str) -> str:
    wanted = {name.strip() for name in names.split(",")}
    found: dict[tuple[str, str], list[str]] = {}  # tables of one title with the same columns are one
    for title, caption, head, rows in _tables():
        if any(_subject(row, wanted) for row in rows):
            kept = [row for row in rows if _subject(row, wanted | BASELINES)]
            kept = [re.sub(r"^(\|[^|]*?) *\|", rf"\1{caption} |", row) for row in kept]
            found.setdefault((title, "\n".join(head)), []).extend(kept)
    assert found, f"results.md has no row of {names}"
    tables = [f"{title}:\n\n" + "\n".join([head, *rows]) for (title, head), rows in found.items()]
    return "\n\n".join(["From [Measured](../results.md), where the numbers are explained.", *tables]) + "\n"


def _subject(row: str, names: set[str]) -> str | None:
    """Whose row it is, which its first or second cell says, before a comma or a bracket."""
    cells = [re.split(r"[,(]", cell)[0].strip(" `*") for cell in row.split("|")[1:3]]
    return next((cell for cell in cells if cell in names), None)


def _tables() -> Iterator[tuple[str, str, list[str], list[str]]]:
    """Of each table what it is about, its caption, the lines of its head and its rows."""
    title = caption = ""
    for block in RESULTS.read_text().split("\n\n"):
        if block.startswith("|"):
            lines = block.splitlines()
            yield title, caption, lines[:2], lines[2:]
        elif CAPTION.fullmatch(block):
            caption = f", {block[0].lower()}{block[1:-1]}"
        elif found := TITLE.match(block):
            title, caption = found[1].rstrip(".:?"), ""
