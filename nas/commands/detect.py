"""`nas detect`: the objects in photos of any size, by a detector that was trained, as numbers and as a picture."""

import os.path
from collections.abc import Sequence
from pathlib import Path

from nas.commands import trained
from nas.config import Parser
from nas.errors import UsageError
from nas.plain import number, place, whole
from nas.report import output
from nas.report.progress import Bar
from nas.store.query import Row

AT_ONCE = 16  # photos that are in memory as they are in their files
COLUMNS = ("image", "class", "probability", "x0", "y0", "x1", "y1")


def main(argv: Sequence[str]) -> str:
    options = flags().parse_args(argv)
    if options.out is not None:
        _check_out(options.out, options.images)
    network = trained.network(options)
    if not network.kind.finds:
        raise UsageError(
            f"architecture={options.architecture!r} is no detector: it was trained on images without boxes"
        )
    from nas.saved.networks import opened

    found = []
    with Bar() as bar:
        for start in range(0, len(options.images), AT_ONCE):
            photos = [opened("image", path) for path in options.images[start : start + AT_ONCE]]
            found += network.detect(photos, options.least, options.exit)
            if len(options.images) > AT_ONCE:
                bar.show("Looking for objects", len(found), len(options.images), "")
    if options.out is not None:
        from nas.report import boxes

        labels = {name: label for label, name in enumerate(network.classes)}
        objects = [boxes.Object(box, f"{name} {share:.2f}", labels[name]) for box, name, share in found[0]]
        boxes.write(options.out, boxes.drawn(opened("image", options.images[0]), objects))
    rows: list[Row] = [
        {"image": str(path), "class": name, "probability": share, **dict(zip(COLUMNS[3:], box, strict=True))}
        for path, objects in zip(options.images, found, strict=True)
        for box, name, share in objects
    ]
    if options.format == "table":
        where = options.images[0] if len(options.images) == 1 else f"{len(options.images)} images"
        if not rows:
            return f"Nothing is found in {where} with a probability of {options.least:g} or more (--least).\n"
        rows = [{**row, **{name: round(row[name]) for name in COLUMNS[3:]}} for row in rows]
    return output.render(rows, COLUMNS, options.format)


def _check_out(out: Path, images: Sequence[Path]) -> None:
    from nas.report.boxes import check_place

    check_place("out", out)
    if len(images) > 1:
        raise UsageError(f"out={str(out)!r} is for one image; {len(images)} are given")
    if os.path.exists(out) and os.path.exists(images[0]) and os.path.samefile(out, images[0]):
        raise UsageError(f"out={str(out)!r} is the image itself: choose another name")


def flags() -> Parser:
    parser = Parser(
        prog="nas detect",
        description=__doc__,
        epilog="Boxes are in pixels of the image as viewers show it, upright, from its upper left.",
        allow_abbrev=False,
    )
    parser.add_argument("architecture", metavar="ARCHITECTURE", help=trained.NAMES)
    parser.add_argument("images", metavar="IMAGE", type=place, nargs="+", help="a photo of any size")
    parser.add_argument("--out", metavar="FILE", type=place, help="draw what is found to a .png or .jpg")
    least_help = "the least probability of what is an object (default: %(default)s)"
    parser.add_argument("--least", metavar="PROBABILITY", type=number, default=0.3, help=least_help)
    exit_help = "of a detector with several exits, the one at which it is left, from 1 (default: the last)"
    parser.add_argument("--exit", metavar="K", type=whole, help=exit_help)
    trained.add_options(parser)
    return parser
