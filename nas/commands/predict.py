"""`nas predict`: the most probable classes of each image, by a network that was trained."""

import itertools
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nas.commands import trained
from nas.config import Parser
from nas.errors import UsageError
from nas.npz import open_arrays
from nas.plain import place, shown, whole
from nas.report import output
from nas.report.progress import Bar, reading
from nas.store.query import Row
from nas.tasks import Heard
from nas.tasks.folders import counted, files
from nas.tasks.invalid import Invalid
from nas.tasks.pixels import MAX_HELD, as_uint8, decode, is_image
from nas.tasks.room import empty

if TYPE_CHECKING:
    from nas.saved.networks import Exported

COLUMNS = ("image", "class", "probability")
RANKED = ("image", "rank", "class", "probability")  # of the most probable classes of an image, from 1
AT_ONCE = 256  # images that are in memory as they are in their files


def main(argv: Sequence[str]) -> str:
    options = flags().parse_args(argv)
    network = trained.network(options)
    if network.kind.finds:
        raise UsageError(f"architecture={options.architecture!r} is a detector: nas detect lists what it finds")
    if not network.classes:
        raise UsageError(f"architecture={options.architecture!r} gives numbers and knows no classes")
    if not 1 <= options.top <= len(network.classes):
        raise UsageError(f"top={options.top} must lie in 1..{len(network.classes)}, the number of classes")
    invalid = Invalid(options.skip_invalid)
    rows: list[Row] = []
    with Bar() as bar:
        heard = reading(bar)
        paths = counted(options.images, heard)
        images = itertools.chain.from_iterable(_images(path, network, invalid, heard) for path in paths)
        while some := list(itertools.islice(images, AT_ONCE)):
            logits = network.predict(np.concatenate([square for _, square in some]))
            for (name, _), each in zip(some, logits, strict=True):
                rows += _rows(name, each, network.classes, options.top)
    if (said := invalid.said("nas predict")) is not None:
        print(said, file=sys.stderr)
    if options.top == 1:
        rows = [{column: row[column] for column in COLUMNS} for row in rows]
    return output.render(rows, COLUMNS if options.top == 1 else RANKED, options.format)


def _rows(name: str, logits: np.ndarray, classes: Sequence[str], top: int) -> list[Row]:
    """The most probable classes; of equal ones the first."""
    shares = np.exp(logits.astype(np.float64) - logits.max())
    shares /= shares.sum()
    best = np.argsort(-logits, kind="stable")[:top]
    return [
        dict(zip(RANKED, (name, rank, classes[label], float(shares[label])), strict=True))
        for rank, label in enumerate(best, 1)
    ]


def _images(path: Path, network: "Exported", invalid: Invalid, heard: Heard) -> Iterator[tuple[str, np.ndarray]]:
    """The images of a file, a folder or an archive by name, each `[1, size, size, channels]`. Of many `heard` is told
    now and then how many there were."""
    if path.is_dir():
        before, read = invalid.count, 0
        for inside, data in files(path, is_image, invalid=invalid, heard=heard):
            with invalid.left_out("image"):
                image = network.prepare([decode(f"image={str(path / inside)!r}", data)])
                read += 1
                yield str(path / inside), image
        if not read and invalid.count == before:
            raise UsageError(f"image={str(path)!r} is a folder without images")
    elif path.suffix == ".npz":
        for i, image in enumerate(counted(_archived(path), heard)):
            yield f"{path}[{i}]", _square(f"{path}: images[{i}]", image, network)
    else:
        from nas.saved.networks import opened

        yield str(path), network.prepare([opened("image", path)])


def _square(field: str, image: np.ndarray, network: "Exported") -> np.ndarray:
    """As it is where it is as the images of training were."""
    size, channels = network.space.image_size, network.space.image_channels  # pyright: ignore[reportAttributeAccessIssue]
    if image.shape == (size, size, channels):
        return image[None]
    from nas.saved.networks import opened

    return network.prepare([opened(field, image)])


def _archived(path: Path) -> np.ndarray:
    """The array `images` of an archive, as uint8."""
    field = f"image={str(path)!r}"
    found = open_arrays(field, path, MAX_HELD, ["images"], room=empty, hint="allowed: a .npz archive with images")
    if "images" not in found:
        raise UsageError(f"{field} has the arrays {shown(sorted(found))}; allowed: one with images")
    images = found["images"]
    if images.ndim not in (3, 4):
        given = f"{images.dtype} {list(images.shape)}"
        raise UsageError(f"{field}: images={given} must be [n, height, width] or [n, height, width, channels]")
    return as_uint8(f"{field}: images", images)


def flags() -> Parser:
    parser = Parser(prog="nas predict", description=__doc__, allow_abbrev=False)
    parser.add_argument("architecture", metavar="ARCHITECTURE", help=trained.NAMES)
    images_help = "an image of any size, a folder of them, or a .npz with images"
    parser.add_argument("images", metavar="IMAGES", type=place, nargs="+", help=images_help)
    top_help = "so many classes of each image, a line each, with their rank (default: %(default)s)"
    parser.add_argument("--top", metavar="K", type=whole, default=1, help=top_help)
    parser.add_argument("--skip-invalid", action="store_true", help="leave out images of folders that cannot be read")
    trained.add_options(parser)
    return parser
