"""`nas ask` and `nas tell`: a search that another program, or a person, drives.

    nas search --ask-and-tell --name mine --trials 40 ...
    nas ask mine -n 5 --format json
    nas tell mine FILE
    nas search --resume mine

FILE has a line of JSON a trial, or is the JSON that nas ask wrote. A line that names a trial of nas ask, or a new
architecture by its description or as a list of choices, is evaluated as the run evaluates; with metrics it was measured
elsewhere, and failed says why it could not be:

    {"trial": 3, "metrics": {"error": 0.21}}
    {"trial": 4, "failed": "out of memory"}
    {"architecture": [0, 3, 2, 1, 0, 1]}
"""

import sys
from collections.abc import Sequence
from typing import Any

from nas.config import Parser
from nas.errors import UsageError
from nas.plain import from_json, read_bounded, shown, whole
from nas.report import output
from nas.report.command_lines import DEFAULT_STORE
from nas.report.progress import Bar

MOST_BYTES = 2**24  # of what is told at once


def ask(argv: Sequence[str]) -> str:
    options = asking().parse_args(argv)
    from nas.job import run as job

    with Bar() as bar:
        rows = job.asked(options.store, options.run, options.n, bar)
    return output.render(rows, ("trial", "architecture"), options.format)


def tell(argv: Sequence[str]) -> str:
    options = telling().parse_args(argv)
    lines = read_lines(options.file)
    from nas.job import run as job

    changed = {} if options.workers is None else {"workers": options.workers}
    with Bar() as bar:
        rows = job.told({"store": options.store, **changed}, options.run, lines, bar)
    return output.render(rows, ("trial", "architecture", "state"), options.format)


def read_lines(path: str) -> list[Any]:
    """What a file, or with - standard input, tells. Raises UsageError for what is not JSON."""
    field = f"file={path!r}"
    if path == "-":
        content = sys.stdin.buffer.read(MOST_BYTES + 1)
        if len(content) > MOST_BYTES:
            raise UsageError(f"{field} is longer than {MOST_BYTES} bytes")
    else:
        content = read_bounded(field, path, MOST_BYTES, "file of trials")
    try:
        text = content.decode()
        if text.lstrip().startswith("["):
            found = from_json(text)
        else:
            found = [from_json(line) for line in text.splitlines() if line.strip()]
    except ValueError as error:
        raise UsageError(f"{field} is not JSON, or lines of JSON: {shown(str(error))}") from error
    if not found:
        raise UsageError(f"{field} has no line that tells anything")
    return found


def asking() -> Parser:
    parser = _parser("nas ask")
    parser.add_argument("-n", metavar="N", type=whole, default=1, help="how many architectures (default: %(default)s)")
    return parser


def telling() -> Parser:
    parser = _parser("nas tell")
    parser.add_argument("file", metavar="FILE", help="what is told; - for standard input")
    parser.add_argument("--workers", metavar="N", type=whole, help="Ray workers; 0: none (default: the run's)")
    return parser


def _parser(program: str) -> Parser:
    import argparse

    raw = argparse.RawDescriptionHelpFormatter
    parser = Parser(prog=program, description=__doc__, formatter_class=raw, allow_abbrev=False)
    parser.add_argument("run", metavar="RUN", help="its name or the beginning of it, or latest")
    parser.add_argument("--store", metavar="URL", default=DEFAULT_STORE, help="the database (default: %(default)s)")
    forms = "|".join(output.FORMATS)
    parser.add_argument("--format", type=output.known_format, default="table", metavar=forms, help="(default: table)")
    return parser
