"""`nas table`: official distributions and measurements of one's own into the open table format, and what is in it."""

import argparse
import dataclasses
import zipfile
from collections.abc import Sequence

from nas.config import Parser
from nas.errors import UsageError, unknown
from nas.plain import check_target, place
from nas.report import output

KINDS = ("nas-bench-201", "nats-bench")
COLUMN = ("column", "kind", "unit", "dataset", "split", "epochs", "gaps")


def main(argv: Sequence[str]) -> str:
    options = flags().parse_args(argv)
    return options.answer(options)


def _import(options: argparse.Namespace) -> str:
    if options.kind not in KINDS:
        raise unknown("kind", options.kind, KINDS)
    if not options.path.exists():
        raise UsageError(f"path={str(options.path)!r} does not exist")
    check_target(f"out={str(options.out)!r}", options.out)  # not only after the minutes that reading takes
    from nas.tables import natsbench, write_table  # after what can be wrong: it imports jax

    table = natsbench.read(str(options.path), natsbench.SOURCES[options.kind])
    write_table(options.out, table)
    rows = len(next(iter(table.values.values()), ()))
    row = {"out": str(options.out), "space": table.space_name, "architectures": rows, "columns": len(table.columns)}
    return output.render([row], row, "table")


def _build(options: argparse.Namespace) -> str:
    from nas.tables import write_table
    from nas.tables.build import build

    if options.out.is_file() and not zipfile.is_zipfile(options.out):
        raise UsageError(f"out={str(options.out)!r} is there, and is no table: it is not replaced")
    table = build(options.csv, options.space, options.source or options.csv.name)
    write_table(options.out, table)
    row = {"out": str(options.out), "space": table.space_name, "architectures": len(table.measured)}
    row |= {"measured": int(table.measured.sum()), "columns": len(table.columns)}
    return output.render([row], row, "table")


def _show(options: argparse.Namespace) -> str:
    import numpy as np

    from nas.config import build_space
    from nas.tables import read_table

    if options.space is not None:
        build_space(options.space)  # of the user's own: reading the table needs to know it
    table = read_table(options.file)
    rows = []
    for name, column in table.columns.items():
        gaps = int(np.isnan(table.values[name]).sum())
        rows.append({"column": name, **dataclasses.asdict(column), "unit": column.unit or None, "gaps": gaps or None})
    source = f"{table.source}\n\n" if options.format == "table" else ""
    return source + output.render(rows, COLUMN, options.format)


def flags() -> Parser:
    parser = Parser("nas table", description=__doc__, allow_abbrev=False)
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    text = "Convert an official distribution. All of it takes minutes, and a folder the least memory."
    convert = commands.add_parser("import", help=text, description=text, allow_abbrev=False)
    convert.set_defaults(answer=_import)
    convert.add_argument("kind", metavar="KIND", help=f"one of {', '.join(KINDS)}")
    convert.add_argument("path", metavar="PATH", type=place, help="the folder, or the one file, as it is published")
    convert.add_argument("--out", metavar="FILE", type=place, required=True, help="the table to write, an npz")

    text = "Make a table of one's own: a CSV file with a row an architecture, of which some may be missing."
    own = commands.add_parser("build", help=text, description=text, allow_abbrev=False)
    own.set_defaults(answer=_build)
    names = "the columns architecture (in the notation of the space), DATASET_valid_error_eEPOCHS, and where measured "
    names += "DATASET_test_error_eEPOCHS, DATASET_seconds_eEPOCHS, and costs by any other name; errors are shares"
    own.add_argument("csv", metavar="FILE", type=place, help=names)
    own.add_argument("--space", required=True, help="NAME, FILE.py:CLASS or MODULE:CLASS")
    own.add_argument("--out", metavar="FILE", type=place, required=True, help="the table to write, an npz")
    own.add_argument("--source", metavar="TEXT", help="who measured it (default: the name of the file)")

    text = "The columns of a table: what each measures, and how many rows have no number."
    show = commands.add_parser("show", help=text, description=text, allow_abbrev=False)
    show.set_defaults(answer=_show)
    show.add_argument("file", metavar="FILE", help="the table, an npz")
    show.add_argument("--space", help="FILE.py:CLASS or MODULE:CLASS of a table of a space of your own")
    show.add_argument("--format", type=output.known_format, default="table", metavar="|".join(output.FORMATS))
    return parser
