"""Photos with the objects that were found in them: a box of the colour of its class, with name and probability."""

import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFont

from nas.errors import UsageError
from nas.plain import check_target, write_whole
from nas.report import plots

FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}
# Colours that people tell apart whichever they see, each with that of text on it. Wong, "Points of view: Color
# blindness", 2011, https://doi.org/10.1038/nmeth.1618.
COLOURS = (
    ("#e69f00", "black"),
    ("#56b4e9", "black"),
    ("#009e73", "black"),
    ("#f0e442", "black"),
    ("#0072b2", "white"),
    ("#d55e00", "black"),
    ("#cc79a7", "black"),
)
LINE, TEXT = 200, 40  # a line's width and a letter's height are these parts of the mean side of a photo
LEAST_TEXT = 12  # pixels, below which nothing is legible


class Object(NamedTuple):
    box: tuple[float, float, float, float]  # x0, y0, x1 and y1 in pixels
    text: str
    label: int  # by which it has its colour


def check_place(field: str, path: Path) -> None:
    """Raises UsageError for what is no picture's name, or is there and no file."""
    if path.suffix.lower() not in FORMATS:
        raise UsageError(f"{field}={str(path)!r} must end in one of {', '.join(FORMATS)}")
    if os.path.lexists(path) and not path.is_file():
        raise UsageError(f"{field}={str(path)!r} is there already, and is not a file: choose another name")
    check_target(f"{field}={str(path)!r}", path)


def write(path: Path, photo: Image.Image) -> None:
    """In the format of the suffix."""
    data = io.BytesIO()
    photo.save(data, FORMATS[path.suffix.lower()], **({} if path.suffix.lower() == ".png" else {"quality": 92}))
    write_whole(path, data.getvalue())


def drawn(photo: Image.Image, objects: Sequence[Object]) -> Image.Image:
    """The photo in colour with its objects, of which the first lie above the others."""
    picture = photo.convert("RGB")
    side = (photo.width * photo.height) ** 0.5
    line = max(2, round(side / LINE))
    font = ImageFont.truetype(plots.font(), max(LEAST_TEXT, round(side / TEXT)))
    draw = ImageDraw.Draw(picture)
    # All boxes before any text: no line goes through a name.
    for each in reversed(objects):
        draw.rectangle(_whole(each.box), outline=COLOURS[each.label % len(COLOURS)][0], width=line)
    for each in reversed(objects):
        _write_label(draw, each, font, line, photo.size)
    return picture


def _whole(box: Sequence[float]) -> tuple[int, int, int, int]:
    """The outermost pixels of a box, whose ends lie between pixels."""
    x0, y0, x1, y1 = map(round, box)
    return x0, y0, max(x0, x1 - 1), max(y0, y1 - 1)


def _write_label(
    draw: ImageDraw.ImageDraw, each: Object, font: ImageFont.FreeTypeFont, line: int, size: tuple[int, int]
) -> None:
    """Above the box; where there is no room, in it. The photo's borders do not cut it off, where it fits at all."""
    x0, y0, _, _ = _whole(each.box)
    ascent, descent = font.getmetrics()
    width, height = round(draw.textlength(each.text, font)) + 4 * line, ascent + descent + line
    left = max(0, min(x0, size[0] - width))
    top = y0 - height if y0 >= height else max(0, min(y0, size[1] - height))
    colour, ink = COLOURS[each.label % len(COLOURS)]
    draw.rectangle((left, top, left + width - 1, top + height - 1), fill=colour)
    draw.text((left + 2 * line, top), each.text, fill=ink, font=font)
