"""`nas export`: a trained network as a folder, for this library or for other programs.

Each folder has a description, architecture.json, a card, README.md, and a drawing where the space has one. With
--format jax it has the weights, which nas.load, nas predict, nas detect and nas evaluate take; with onnx or stablehlo a
program, which runs without this library.
"""

from collections.abc import Sequence

from nas.commands import trained
from nas.config import Parser
from nas.errors import UsageError
from nas.plain import one_of, place
from nas.report import output
from nas.report.command_lines import DEFAULT_STORE
from nas.report.progress import Bar
from nas.store.query import Run
from nas.store.sql import Store

FORMATS = ("jax", "onnx", "stablehlo")
EPILOG = (
    "The row that is printed is a table: --format says of which kind the file is. ONNX files have the input `images`, "
    "uint8 [n, size, size, channels], and are tried with ONNX Runtime when they are written (pip install "
    "'nas-engine[onnx]'); of detectors they give scores and boxes, of which overlapping ones are not yet suppressed. "
    "StableHLO is that of jax.export, for CPUs, GPUs and TPUs."
)


def main(argv: Sequence[str]) -> str:
    options = flags().parse_args(argv)
    with Store(options.store) as store:
        run = None if options.run is None else store.run(options.run)
        if options.architecture is None:
            run = run or store.run("latest")
            architecture = found_by(store, run)
        else:
            architecture = store.show(options.architecture)["id"]
        how = {"replace": options.replace, "packed": options.packed, "form": options.format}
        with Bar() as bar:
            if options.shared:
                from nas.job.shared import export_shared

                its, role = export_shared(store, architecture, options.out, run, reporter=bar, **how), "shared weights"
            else:
                from nas.saved.exports import export  # after the question whether there is anything to export

                its, role = export(store, architecture, options.out, run, reporter=bar, **how), "trained alone"
    row = {"architecture": architecture, "run": its, "format": options.format, "weights": role}
    return output.render([{**row, "out": str(options.out)}], (*row, "out"), "table")


def found_by(store: Store, run: Run) -> str:
    """The architecture that a run found, or was given, and trained. Raises UsageError where there is none."""
    finals = store.trials(run.id, "final")
    if not finals:
        said = "has trained nothing by itself yet: name an architecture of it, with --shared for shared weights"
        raise UsageError(f"run={run.name!r} {said}")
    return finals[0].architecture


def flags() -> Parser:
    parser = Parser(prog="nas export", description=__doc__, epilog=EPILOG, allow_abbrev=False)
    names = trained.NAMES.rpartition(", or ")[0].replace("the beginning of it, its", "the beginning of it, or its")
    parser.add_argument("architecture", metavar="ARCHITECTURE", nargs="?", help=f"{names} (default: what RUN found)")
    parser.add_argument("--out", metavar="DIR", type=place, required=True, help="the directory to write")
    form_help = "of the file (default: %(default)s, the weights, for this library)"
    known_format = one_of("format", FORMATS)
    parser.add_argument("--format", type=known_format, default="jax", metavar="|".join(FORMATS), help=form_help)
    parser.add_argument("--run", metavar="RUN", help="whose weights (default: the run that trained it last)")
    parser.add_argument("--replace", action="store_true", help="put it in place of the network that is there")
    packed_help = "write weights of one bit as bits, with which the network then computes"
    parser.add_argument("--packed", action="store_true", help=packed_help)
    shared_help = (
        "the part of the shared weights of its run that the architecture has, for one that was not trained alone: "
        "statistics are measured anew, on the data of the run, whose configuration may name files of your own to run"
    )
    parser.add_argument("--shared", action="store_true", help=shared_help)
    parser.add_argument("--store", metavar="URL", default=DEFAULT_STORE, help="the database (default: %(default)s)")
    return parser
