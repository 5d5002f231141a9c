"""Objects as Pascal VOC annotates them: DIR/Annotations/NAME.xml is of the image DIR/JPEGImages/NAME.jpg (or .png).

Everingham et al., 2010. http://host.robots.ox.ac.uk/pascal/VOC/
Where DIR itself has no folder Annotations, and one folder in it has, the set is read from there.
The lists ImageSets/Main/train.txt, val.txt (or valid.txt) and test.txt, where there are such, are the parts; without
train.txt, trainval.txt takes its place. Corners are pixels, counted from 1, that belong to the box: it reaches from
xmin - 1 to xmax in pixels counted from 0, and from ymin - 1 to ymax. Whoever draws a box gives it two corners: one with
xmin = xmax is a click that was no box, and is invalid.
"""

from collections import defaultdict
from pathlib import Path, PurePosixPath
from typing import NoReturn
from xml.etree import ElementTree

from nas.errors import UsageError
from nas.plain import DECIMAL, read_bounded, shown
from nas.tasks import Reading
from nas.tasks.base import Raw
from nas.tasks.detection.photos import Object, Photo, raw_of
from nas.tasks.folders import is_shown
from nas.tasks.invalid import Invalid
from nas.tasks.pixels import is_image

LOOKED_FOR = "allowed: a folder with Annotations and JPEGImages, or one in which a single folder has them"
MAX_XML_BYTES, MAX_LIST_BYTES = 4 * 2**20, 64 * 2**20
LISTS = {"train": "train", "val": "valid", "valid": "valid", "test": "test"}


def read_voc(asked: Reading) -> Raw:
    assert asked.place is not None  # its name was checked
    field, invalid = f"voc={asked.place!r}", asked.invalid
    root = _root(field, Path(asked.place))
    annotated, images = _by_name(root / "Annotations"), _by_name(root / "JPEGImages")
    lists = _lists(field, root / "ImageSets/Main")
    parts: dict[str, list[Photo]] = {}
    part_of: dict[str, str] = {}
    for part, names in (lists or {"train": sorted(annotated.keys() | images.keys())}).items():
        parts[part] = []
        for name in names:
            with invalid.left_out("image"):
                where = f"{field}: {name!r} of {part}"
                if name in part_of:
                    raise UsageError(f"{where} is there twice, and first in {part_of[name]}")
                part_of[name] = part
                paths = [path for folder in (annotated, images) for path in folder.get(name, [])]
                if [path.parent.name for path in paths] != ["Annotations", "JPEGImages"]:
                    found = ", ".join(f"{path.parent.name}/{path.name}" for path in paths) or "no file"
                    raise UsageError(f"{where} has {shown(repr(found))}; one .xml and one image are needed")
                annotation, image = paths
                parts[part].append(_photo(f"{field}: {annotation.name!r}", annotation, image, invalid))
    classes = sorted({str(each.name) for photos in parts.values() for photo in photos for each in photo.objects})
    if not classes:
        raise UsageError(f"{field} has no objects; allowed: Annotations/*.xml with <object>s")
    unlisted = len(annotated.keys() - part_of.keys())
    remark = f"{asked.name}: {unlisted} annotated images are in no list of ImageSets/Main and are not used"
    labels = {name: label for label, name in enumerate(classes)}
    return raw_of(asked, field, parts, labels, tuple(classes), remark if unlisted else None)


def _root(field: str, place: Path) -> Path:
    """The folder of the set: the one that is named, or the only one in it. Raises UsageError where there is none."""
    inner = [
        path.parent for path in place.glob("*/Annotations") if path.is_dir() and not path.parent.name.startswith(".")
    ]
    roots = [place] if (place / "Annotations").is_dir() else sorted(inner)
    if len(roots) > 1:
        names = ", ".join(path.name for path in roots)
        raise UsageError(f"{field} has several folders with Annotations: {shown(names)}; name one of them")
    for folder in ("Annotations", "JPEGImages"):
        if not (path := (roots or [place])[0] / folder).is_dir():
            raise UsageError(f"{field} has no folder {path.relative_to(place)}; {LOOKED_FOR}")
    return roots[0]


def _by_name(folder: Path) -> dict[str, list[Path]]:
    """The annotations or images in a folder by their names, without suffixes."""
    found = defaultdict(list)
    for path in sorted(folder.iterdir()):
        place = PurePosixPath(path.name)
        if is_shown(place) and (place.suffix == ".xml" if folder.name == "Annotations" else is_image(place)):
            found[place.stem].append(path)
    return found


def _lists(field: str, folder: Path) -> dict[str, list[str]]:
    """The names of the images of each part; none where there are no lists."""
    files = {path.stem: path for path in folder.glob("*.txt") if path.stem in (*LISTS, "trainval")}
    if {"val", "valid"} <= files.keys():
        raise UsageError(f"{field} has both val.txt and valid.txt in ImageSets/Main; one is allowed")
    if "train" not in files and "trainval" in files:
        files["train"] = files["trainval"]
    if files and "train" not in files:
        raise UsageError(f"{field} has ImageSets/Main/{min(files)}.txt but no train.txt, which is needed")
    lists = {}
    for name, part in LISTS.items():
        if name in files:
            where = f"{field}: ImageSets/Main/{files[name].name}"
            try:
                lines = read_bounded(where, files[name], MAX_LIST_BYTES, "list").decode().splitlines()
            except UnicodeDecodeError as error:
                raise UsageError(f"{where} is not text in UTF-8") from error
            lists[part] = [line.strip() for line in lines if line.strip()]
    return lists


class _Tree(ElementTree.TreeBuilder):
    def doctype(self, name: str, pubid: str | None, system: str | None) -> NoReturn:
        # A document type may declare entities, of which a short file can make any number of bytes.
        raise UsageError("it has a DOCTYPE, which no annotation needs")


def _photo(where: str, annotation: Path, image: Path, invalid: Invalid) -> Photo:
    data = read_bounded(where, annotation, MAX_XML_BYTES, "annotation")
    try:
        root = ElementTree.fromstring(data, ElementTree.XMLParser(target=_Tree()))
    except (UsageError, ElementTree.ParseError, ValueError, LookupError) as error:  # also of unknown encodings
        raise UsageError(f"{where} cannot be read as XML: {shown(' '.join(str(error).split()))}") from error
    if root.tag != "annotation":
        raise UsageError(f"{where} is <{shown(root.tag, 60)}>; allowed: <annotation>")
    said = root.find("size")
    size = None if said is None else (_number(where, said, "width"), _number(where, said, "height"))
    objects = []
    for i, element in enumerate(root.findall("object")):
        with invalid.left_out("object"):
            objects.append(_object(f"{where}: object[{i}]", element))
    return Photo(where, image, size, objects)


def _object(where: str, element: ElementTree.Element) -> Object:
    name, difficult = (" ".join(element.findtext(tag, "").split()) for tag in ("name", "difficult"))
    if not name:
        raise UsageError(f"{where} has no name")
    if difficult not in ("", "0", "1"):
        raise UsageError(f"{where}: difficult={shown(repr(difficult))} must be 0 or 1")
    box = element.find("bndbox")
    if box is None:
        raise UsageError(f"{where} has no bndbox")
    x0, y0, x1, y1 = (_number(where, box, tag) for tag in ("xmin", "ymin", "xmax", "ymax"))
    if not (x0 < x1 and y0 < y1):
        raise UsageError(f"{where}: the box from ({x0:g}, {y0:g}) to ({x1:g}, {y1:g}) has no area")
    return Object(where, (x0 - 1, y0 - 1, x1, y1), name, difficult == "1")


def _number(where: str, element: ElementTree.Element, tag: str) -> float:
    text = element.findtext(tag, "").strip()
    if not DECIMAL.match(text):
        raise UsageError(f"{where}: {tag}={shown(repr(text))} must be a number")
    return float(text)
