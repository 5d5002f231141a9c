"""Objects as COCO annotates them: one JSON file with images, annotations and categories, and a folder of the images.

Lin et al., 2014. https://cocodataset.org/#format-data
A box is [x, y, width, height] in pixels counted from 0; a crowd is ignored. Categories become labels in the order of
their ids. An image without annotations is one without objects.
"""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from nas.errors import UsageError
from nas.plain import from_json, read_bounded, shown
from nas.tasks import Reading
from nas.tasks.base import Raw
from nas.tasks.detection.photos import Object, Photo, raw_of
from nas.tasks.invalid import Invalid

MOST_BYTES = 2**29  # those of train2017 are 470 MB


def read_coco(asked: Reading) -> Raw:
    assert asked.place is not None  # its name was checked
    file, _, folder = asked.place.rpartition(",")
    field, invalid = f"coco={file!r}", asked.invalid
    if not Path(folder).is_dir():
        raise UsageError(f"{field}: the folder of its images, {folder!r}, does not exist")
    try:
        data = from_json(read_bounded(field, file, MOST_BYTES, "file of annotations"))
    except ValueError as error:
        raise UsageError(f"{field} cannot be read as JSON: {shown(' '.join(str(error).split()))}") from error
    images, annotations, categories = (_entries(field, data, key) for key in ("images", "annotations", "categories"))
    names: dict[int, str] = {}
    for i, each in enumerate(categories):
        number, name = _whole(f"{field}: categories[{i}]", each, "id"), each.get("name")
        if number in names:
            raise UsageError(f"{field}: category {number} is there twice")
        if not isinstance(name, str) or not name:
            raise UsageError(f"{field}: category {number}: name={shown(repr(name))} must be a text that is not empty")
        names[number] = name
    labels = {number: label for label, number in enumerate(sorted(names))}
    photos, known = _photos(field, Path(folder), images, invalid)
    _annotate(field, photos, known, annotations, labels, invalid)
    parts = {"train": [photos[number] for number in sorted(photos)]}
    return raw_of(asked, field, parts, labels, tuple(names[number] for number in labels))


def _photos(
    field: str, folder: Path, images: list[dict[str, Any]], invalid: Invalid
) -> tuple[dict[int, Photo], set[int]]:
    """The images by their ids, without objects; and all ids, also of those that are invalid.

    Where one is there twice both are invalid: nobody knows which of them an annotation means.
    """
    photos: dict[int, Photo] = {}
    times = Counter((key, each[key]) for each in images for key in ("id", "file_name") if _is_plain(each.get(key)))
    for i, each in enumerate(images):
        with invalid.left_out("image"):
            where = f"{field}: image {_whole(f'{field}: images[{i}]', each, 'id')}"
            if times["id", each["id"]] > 1:
                raise UsageError(f"{where} is there {times['id', each['id']]} times")
            name = each.get("file_name")
            path = PurePosixPath(name) if isinstance(name, str) else PurePosixPath()
            if not path.name or path.is_absolute() or ".." in path.parts:
                raise UsageError(f"{where}: file_name={shown(repr(name))} must be a file in the folder of the images")
            if times["file_name", name] > 1:
                raise UsageError(f"{where}: file_name={name!r} is there {times['file_name', name]} times")
            size = (_whole(where, each, "width"), _whole(where, each, "height"))
            photos[each["id"]] = Photo(where, folder / path, size, [])
    return photos, {number for key, number in times if key == "id" and type(number) is int}


def _annotate(
    field: str,
    photos: Mapping[int, Photo],
    known: set[int],
    annotations: list[dict[str, Any]],
    labels: Mapping[int, int],
    invalid: Invalid,
) -> None:
    """Adds the objects to the photos; those of images that are invalid go with these."""
    seen: set[int] = set()
    for i, each in enumerate(annotations):
        with invalid.left_out("object"):
            number = _whole(f"{field}: annotations[{i}]", each, "id")
            where = f"{field}: annotation {number}"
            if number in seen:
                raise UsageError(f"{where} is there twice")
            seen.add(number)
            image, category, crowd = (_whole(where, each, key) for key in ("image_id", "category_id", "iscrowd"))
            if image not in known:
                raise UsageError(f"{where}: image_id={image} is not one of images")
            if category not in labels:
                raise UsageError(f"{where}: category_id={category} is not one of categories")
            if crowd not in (0, 1):
                raise UsageError(f"{where}: iscrowd={crowd} must be 0 or 1")
            if image in photos:
                photos[image].objects.append(Object(where, _corners(where, each.get("bbox")), category, crowd == 1))


def _entries(field: str, data: Any, key: str) -> list[dict[str, Any]]:
    entries = data.get(key) if isinstance(data, dict) else None
    if not isinstance(entries, list) or not all(isinstance(each, dict) for each in entries):
        raise UsageError(f"{field} has no list {key!r} of objects; allowed: images, annotations and categories")
    if not entries and key != "annotations":
        raise UsageError(f"{field}: its list {key!r} is empty")
    return entries


def _is_plain(value: Any) -> bool:
    return type(value) in (int, str)


def _whole(where: str, entry: Mapping[str, Any], key: str) -> int:
    """A field that is an integer. Only `iscrowd` may be left out."""
    value = entry.get(key, 0 if key == "iscrowd" else None)
    if type(value) is not int:
        raise UsageError(f"{where}: {key}={shown(repr(value))} must be an integer")
    return value


def _corners(where: str, box: Any) -> tuple[float, float, float, float]:
    try:
        x, y, width, height = map(_number, box)
    except (TypeError, ValueError, OverflowError) as error:  # an integer of any length
        raise UsageError(f"{where}: bbox={shown(repr(box))} must be [x, y, width, height]") from error
    return x, y, x + width, y + height


def _number(value: Any) -> float:
    if type(value) not in (int, float):
        raise TypeError
    return float(value)
